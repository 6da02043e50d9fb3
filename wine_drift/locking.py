"""One run at a time in a home."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from wine_drift.errors import AlreadyRunning, SettingsError
from wine_drift.failpoints import reached
from wine_drift.files import OWN, make_folder

LOCK = "run.lock"
QUEUE = "queue.lock"  # held by who is next; the others wait for this one
_PAUSE = 0.02  # seconds between two looks at a lock
_held: set[int] = set()  # open locks of this process


def _let_go() -> None:
    """A child would hold the locks of its parent, too, and beyond its end."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(
    home: Path,
    *,
    wait: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[None]:
    """Hold the lock of a home; the system lets go of it when the process ends, however it ends.

    It keeps apart processes, threads, and hosts that share the home over a file system with locks.

    Parameters
    ----------
    home : Path
        Made if need be.
    wait : float
        Seconds to wait for who holds it.
    clock, sleep : callable
        Seconds of a monotonic clock, and a pause in seconds.

    Raises
    ------
    AlreadyRunning
        Another run held it all the time.
    SettingsError
        The home cannot be written to.
    """
    end, queue, taken = clock() + wait, (QUEUE, LOCK) if wait else (LOCK,), []
    try:
        make_folder(home)
        reached("lock: take")
        for name in queue:
            while (handle := _taken(home / name)) is None:
                if clock() >= end:
                    raise AlreadyRunning(
                        f"another run holds {home / LOCK}", remedy="wait for it; nothing was done"
                    )
                sleep(_PAUSE)
            taken.append(handle)
    except OSError as error:
        raise SettingsError(
            f"home {home}: {error.strerror}", remedy="name a writable folder with --home"
        ) from error
    finally:
        for handle in taken if len(taken) < len(queue) else taken[:-1]:
            _close(handle)
    try:
        yield
    finally:
        _close(taken[-1])


def _taken(path: Path) -> int | None:
    """The lock file, open and locked; None if another one holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, OWN)
    _held.add(handle)
    mine = False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(handle), path.stat())  # or another was put in its place
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        if not mine:
            _close(handle)
    return handle if mine else None


def _close(handle: int) -> None:
    if handle in _held:  # a child has closed its own already
        _held.remove(handle)
        os.close(handle)
