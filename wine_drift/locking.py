"""One run at a time in a home."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from wine_drift.errors import AlreadyRunning, SettingsError


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the lock of a home; the system lets go of it when the process ends, however it ends.

    Raises
    ------
    AlreadyRunning
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (home / "run.lock").open("a")
    except OSError as error:
        raise SettingsError(
            f"home {home}: {error.strerror}", remedy="name a writable folder with --home"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"another run holds {home / 'run.lock'}", remedy="wait for it; nothing was done"
            ) from None
        yield
