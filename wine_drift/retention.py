"""What a home no longer needs, and how much room that gives back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wine_drift.batches import KEPT_AS
from wine_drift.failpoints import reached
from wine_drift.files import is_partial, take_away
from wine_drift.home import DAMAGED, models_place, reading, unclaimed_rows, writing
from wine_drift.ledger import BACKUPS, OLD_SCHEMAS, Ledger
from wine_drift.settings import Settings
from wine_drift.shelf import remove_shards
from wine_drift.versions import prune_versions

_WORTH = 0.2  # share of the ledger's file that is empty, from which on it is written anew


def prune(settings: Settings, *, now: Callable[[], float] = time.time) -> dict[str, Any]:
    """Remove old versions, old files, history beyond its length, and what killed runs left.

    Files of archive and quarantine go `keep_files` seconds after their batch was recorded, but
    never before there is a backup of the ledger that knows them, where those are ours to make;
    ledgers that a repair or a newer release replaced, so long after that. The ledger is made
    smaller, too, if that is worth it.

    Returns
    -------
    dict
        `versions` and `leftovers` that were removed, `kept` versions; `files` and `unfinished` by
        number, with their `bytes`; files of `rows` that nobody claims, and `entries` of the
        history, by number; `ledger_bytes` before and after; whether it was a `dry_run`.

    Raises
    ------
    SettingsError
        There is no such home.
    """
    home = settings.home
    with reading(settings) if settings.dry_run else writing(settings, now=now, new=False) as ledger:
        found = prune_versions(settings, ledger)
        past = now() - settings.keep_files
        old = [*_old(home, ledger, past), *_replaced(home, past)]
        unfinished, entries = list(_unfinished(home)), ledger.n_before(settings.keep_history)
        size = sum(map(_size, (*old, *unfinished)))
        rows = unclaimed_rows(settings, ledger)
        before, free = ledger.size()
        if not settings.dry_run:
            for path in old:
                reached("prune: file")
                path.unlink(missing_ok=True)
            for path in unfinished:
                reached("prune: unfinished")
                with contextlib.suppress(BlockingIOError):  # of an export that is going on
                    take_away(path)
            remove_shards(models_place(settings), rows)
            ledger.forget_history(keep=settings.keep_history)
            before, free = ledger.size()
            if free > _WORTH * before:
                ledger.compact()
        return {
            "versions": found["removed"],
            "leftovers": found["leftovers"],
            "kept": found["kept"],
            "files": len(old),
            "unfinished": len(unfinished),
            "rows": len(rows),
            "bytes": size,
            "entries": entries,
            "ledger_bytes": [before, ledger.size()[0]],
            "dry_run": settings.dry_run,
        }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # somebody else clears up, too
        return 0


def _old(home: Path, ledger: Ledger, past: float) -> Iterator[Path]:
    """Files that were put away before then; what the ledger does not know stays."""
    saved = Ledger.backed_up_at(home, oldest=True) if ledger.embedded else past
    if saved is None:
        return
    for place in ("archive", "quarantine"):
        with contextlib.suppress(FileNotFoundError):
            for path in sorted((home / place).iterdir()):
                name = KEPT_AS.fullmatch(path.name)
                done = ledger.done_at(name["id"]) if name and path.is_file() else None
                if done is not None and done < min(past, saved):
                    yield path


def _replaced(home: Path, past: float) -> Iterator[Path]:
    """Ledgers that something else took the place of, before then."""
    for path in sorted((*(home / DAMAGED).glob("ledger-*"), *(home / BACKUPS).glob(OLD_SCHEMAS))):
        # not by its content's age, which a copy has from the original
        if path.is_file() and path.stat().st_ctime < past:
            yield path


def _unfinished(home: Path) -> Iterator[Path]:
    """Files that killed runs left."""
    places = ("archive", "quarantine", "metrics", "backups", "damaged")
    for folder in (home, *(home / name for name in places)):
        with contextlib.suppress(FileNotFoundError):
            yield from (
                path for path in folder.iterdir() if is_partial(path.name) and path.is_file()
            )
