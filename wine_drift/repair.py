"""What is damaged in a home, put right from its backups, and what was lost by that."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wine_drift import files
from wine_drift.batches import KEPT_AS, claim_file, give_back
from wine_drift.errors import SettingsError, StateUnreadable
from wine_drift.home import DAMAGED, check, models_place, opened
from wine_drift.ledger import BACKUPS, Ledger
from wine_drift.locking import locked
from wine_drift.outbox import publish
from wine_drift.record import Report
from wine_drift.settings import Settings
from wine_drift.shelf import Place, read_files, write_files


def repair(settings: Settings, *, now: Callable[[], float] = time.time) -> Report:
    """Look at all of a home, and put back from its backups what is damaged.

    A damaged ledger is replaced by its last sound backup. Files of archive and quarantine whose
    batches that one does not know go back to the inbox, so that the next runs take them again, as
    if they had come just now; slices of a stream are read again in any case. What was replaced is
    kept in the folder `damaged`. A ledger in PostgreSQL is read and not replaced, its backups being
    those of its server; once one was restored there, the files that it does not know go back.

    Returns
    -------
    Report
        `outcome` is "sound" and nothing was changed, or "repaired". `problem` of the ledger,
        `backup_at` in Unix time, `lost` batches, with `known` False if the damaged file does not
        tell, `returned` files and those that cannot be, `unreturned`; `versions` put back,
        versions that stay `damaged`; `rows_lost`, labelled rows that nothing can be learnt from
        any more, by number.

    Raises
    ------
    SettingsError
        There is no such home, or no such inbox.
    StateUnreadable
        There is no sound backup, none of ours, or the ledger is of a newer release. Nothing was
        changed.
    """
    home = settings.home
    check(settings)
    if settings.inbox is not None and not settings.inbox.is_dir():
        raise SettingsError(f"inbox {settings.inbox}: no folder", remedy="correct --inbox")
    with locked(home, wait=settings.lock_wait):
        problem, found = Ledger.problem(home, settings.ledger), _nothing()
        if problem is not None and settings.ledger is not None:
            raise StateUnreadable(
                f"the ledger is damaged: {problem}",
                remedy="restore its database from a backup of its own, and repair again on each "
                "host; nothing was changed",
            )
        if problem is not None:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now()))
            folder = home / DAMAGED
            files.make_folder(folder)
            for path in folder.iterdir():
                if files.is_partial(path.name):  # of a repair that was cut short
                    path.unlink()
            number = sum(1 for path in folder.iterdir() if stamp in path.name)
            kept = folder / f"ledger-{stamp}{f'-{number}' * bool(number)}.sqlite"
            found["backup_at"] = Ledger.restore(home, kept)
            found["kept_as"] = str(kept) if kept.exists() else None
        found["problem"] = problem
        with opened(settings, now) as ledger:
            if found["kept_as"] is not None:
                _tell_of_loss(ledger, Path(found["kept_as"]), found)
            _return_files(settings, ledger, found)  # also those of a repair that was cut short
            _put_back_versions(settings, ledger, found)
            _give_up_rows(settings, ledger, found)
            keys = ("problem", "returned", "unreturned", "versions", "rows_lost")
            changed = [found[key] for key in keys]
            record = {"outcome": "repaired" if any(changed) else "sound", **found, "push": None}
            failure = None
            if any(changed):
                record["push"], failure = publish(settings, ledger)
    return Report(record, _still_damaged(settings, found) or failure)


def _nothing() -> dict[str, Any]:
    return {
        "problem": None,
        "backup_at": None,
        "kept_as": None,
        "known": False,
        "lost": [],
        "returned": [],
        "unreturned": [],
        "versions": [],
        "damaged": [],
        "rows_lost": 0,
    }


def _tell_of_loss(ledger: Ledger, kept: Path, found: dict[str, Any]) -> None:
    """Batches that the damaged ledger knew, and its backup does not."""
    later = Ledger.salvaged(kept, after=ledger.next_sequence() - 1)
    found["known"] = later is not None
    found["lost"] = [
        {"sequence": sequence, "id": content_id[:12], "outcome": outcome}
        for sequence, content_id, outcome in later or []
    ]


def _return_files(settings: Settings, ledger: Ledger, found: dict[str, Any]) -> None:
    """Files of batches that the ledger does not know go back to where they came from."""
    for path in _unknown_files(settings.home, ledger):
        try:
            if settings.inbox is not None:
                found["returned"].append(str(give_back(path, settings.inbox)))
                continue
        except (OSError, SettingsError):  # what was lost has to be told all the same
            pass
        found["unreturned"].append(str(path))


def _unknown_files(home: Path, ledger: Ledger) -> Iterator[Path]:
    """Oldest first, as the inbox gives them."""
    found = []
    for place in ("archive", "quarantine"):
        with contextlib.suppress(FileNotFoundError):
            for path in (home / place).iterdir():
                name = KEPT_AS.fullmatch(path.name)
                if name is None or not path.is_file() or ledger.done_at(name["id"]) is not None:
                    continue
                # not rows that were set aside, which are written again with their batch
                if claim_file(path).batch_id == name["id"]:
                    found.append(path)
    yield from sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _put_back_versions(settings: Settings, ledger: Ledger, found: dict[str, Any]) -> None:
    """Versions whose files are damaged or gone, and of which there is a sound copy."""
    gone = ledger.pruned()
    for manifest in ledger.versions():
        version = manifest["version"]
        if version in gone or _readable(models_place(settings), manifest) is not None:
            continue
        contents = _readable(settings.home / BACKUPS, manifest)
        if contents is None:
            found["damaged"].append(version)
            continue
        write_files(models_place(settings), manifest, contents)
        found["versions"].append(version)


def _give_up_rows(settings: Settings, ledger: Ledger, found: dict[str, Any]) -> None:
    """Labelled rows whose files are damaged or gone: of these there is no copy."""
    if not ledger.shard_names():
        return
    from wine_drift.shards import has_shard  # it loads NumPy

    claimed = ledger.claimed_shards()
    lost = [each for each in claimed.values() if not has_shard(models_place(settings), each)]
    if lost:
        ledger.commit_lost({shard.name for shard in lost})
    found["rows_lost"] = sum(shard.n_rows for shard in lost)


def _readable(folder: Place, manifest: dict[str, Any]) -> dict[str, bytes] | None:
    try:
        return read_files(folder, manifest)
    except StateUnreadable:
        return None


def _still_damaged(settings: Settings, found: dict[str, Any]) -> StateUnreadable | None:
    if settings.inbox is not None and found["unreturned"]:
        return StateUnreadable(
            f"{settings.inbox}: not given back: {', '.join(found['unreturned'][:20])}",
            remedy="check rights and free space, and repair again; all else is done",
        )
    if not found["damaged"]:
        return None
    return StateUnreadable(
        f"{models_place(settings)}: {', '.join(found['damaged'])} cannot be put back",
        remedy="import them, if they were exported before; or `wine-drift models rollback VERSION` "
        "to another one, and then `wine-drift prune`",
    )
