"""The door of a home: its lock, its ledger, and a backup of both from time to time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from wine_drift import files
from wine_drift.errors import SettingsError, StateUnreadable
from wine_drift.failpoints import reached
from wine_drift.ledger import BACKUPS, Ledger
from wine_drift.locking import locked
from wine_drift.settings import Settings
from wine_drift.shelf import (
    Place,
    is_sound,
    place_of,
    read_files,
    remove_shards,
    shards,
    write_files,
)

DAMAGED = "damaged"  # folder of a home for what a repair replaced


@contextlib.contextmanager
def writing(
    settings: Settings,
    *,
    now: Callable[[], float] = time.time,
    say: Callable[[str], None] = lambda line: None,
    new: bool = True,
) -> Iterator[Ledger]:
    """Open the ledger of a home to change it, under the lock; back it up afterwards if that is due.

    Parameters
    ----------
    settings : Settings
    now : callable
        Unix time in seconds, which dates what is written.
    say : callable
        Told if there can be no backup; all else is done nevertheless.
    new : bool
        Whether a home that is not there is made.

    Raises
    ------
    SettingsError
        There is no such home, or it cannot be written to.
    AlreadyRunning
        Another run holds the lock, for longer than `lock_wait`.
    StateUnreadable
        The ledger is damaged, or of a newer release.
    """
    if not new:
        check(settings)
    end = time.monotonic() + settings.lock_wait  # for both locks
    with (
        locked(settings.home, wait=settings.lock_wait),
        opened(settings, now, say, lock_wait=end - time.monotonic()) as ledger,
    ):
        yield ledger


@contextlib.contextmanager
def opened(
    settings: Settings,
    now: Callable[[], float],
    say: Callable[[str], None] = lambda line: None,
    *,
    lock_wait: float = 0.0,
) -> Iterator[Ledger]:
    """The same as `writing` for who holds the lock of the home.

    `lock_wait` are the seconds that are left to wait for the lock of a ledger in PostgreSQL.
    """
    with Ledger.open(
        settings.home,
        settings.ledger,
        now=now,
        keep_history=settings.keep_history,
        lock_wait=lock_wait,
    ) as ledger:
        held = ledger.shard_names()
        yield ledger
        try:
            _back_up(settings, ledger)
        except (StateUnreadable, OSError) as error:
            say(f"no backup: {error}")
        if held or ledger.shard_names():  # else a look there, which may be far, is for `prune`
            try:  # who holds the lock is the only one to make any
                remove_shards(models_place(settings), unclaimed_rows(settings, ledger))
            except OSError as error:
                say(f"rows that are no longer needed stay: {error}")


@contextlib.contextmanager
def reading(settings: Settings) -> Iterator[Ledger]:
    """Open the ledger of a home that there is, to read it.

    Raises
    ------
    SettingsError
        There is no such home.
    StateUnreadable
        The ledger is damaged, or of another release.
    """
    check(settings)
    with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
        yield ledger


def check(settings: Settings) -> None:
    """There must be a home: an empty one in its place would be a lie."""
    if Ledger.exists(settings.home, settings.ledger):
        return
    if settings.ledger is not None:
        raise SettingsError(
            "ledger: there is none in that database",
            remedy="correct its address, or let a run make it",
        )
    raise SettingsError(f"{settings.home}: no ledger", remedy="name the --home of the job")


def models_place(settings: Settings) -> Place:
    """Where versions are."""
    return place_of(settings.models, settings.home / "models")


def unclaimed_rows(settings: Settings, ledger: Ledger) -> list[str]:
    """Files of labelled rows that the ledger does not claim, or no longer.

    Raises
    ------
    OSError
        Their folder cannot be looked at.
    """
    return sorted(set(shards(models_place(settings))) - ledger.shard_names())


def _back_up(settings: Settings, ledger: Ledger) -> None:
    """When a backup is due, and at once when there is a new champion, which no other one knows.

    Of a ledger in PostgreSQL there is none here, only of the champion that serves.
    """
    made, champion = Ledger.backed_up_at(settings.home), ledger.champion()
    folder = settings.home / BACKUPS
    due = made is None or not 0 <= time.time() - made < settings.backup_every
    due = due and ledger.embedded
    new = champion is not None and not (folder / champion["version"]).exists()
    if ledger.embedded and (due or new):
        ledger.back_up()
    if champion is None:
        return
    if new or (due and not is_sound(folder, champion)):
        write_files(folder, champion, read_files(models_place(settings), champion))
    # the older backup may know its parent, or whom it was rolled back from
    others = [path for path in folder.iterdir() if path.is_dir()]
    others = [path for path in others if path.name not in (champion["version"], champion["parent"])]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        reached("backup of a version: old")
        files.remove_folder(path)
