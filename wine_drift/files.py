"""Files and folders appear whole or not at all, on the disk once they are there, for one owner.

A new file is written beside its place, under a name with a dot before it, synced, and renamed; what
a killed process left under that name is taken away by the next one that writes there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from wine_drift.errors import SettingsError
from wine_drift.failpoints import reached

OWN = 0o600  # mode of files; folders can be entered by their owner, too
SHARED = 0o644  # for what other programs are to read
STDOUT = "-"  # in the place of a file that is to be written


def make_folder(path: Path, *, mode: int = 0o700) -> None:
    """Make a folder, and those above it, unless it is there."""
    missing = [path, *path.parents]
    for folder in reversed(missing[: next(n for n, each in enumerate(missing) if each.exists())]):
        reached("folder: make")
        folder.mkdir(mode=mode, exist_ok=True)
        folder.chmod(mode)  # whatever the umask
        sync_folder(folder.parent)
    if not path.is_dir():
        path.mkdir()  # the system says what is in the way


@contextlib.contextmanager
def whole(path: Path, what: str, *, mode: int = OWN) -> Iterator[BinaryIO]:
    """Open a file to be written, which takes the place of an older one at the end of the block.

    If the block is left by an error, or the process ends in it, the older one is as it was.

    Parameters
    ----------
    path : Path
    what : str
        Names the moments at which tests break it.
    mode : int
        Of the file, whatever the umask.

    Raises
    ------
    OSError
        It cannot be written, or another process is writing it.
    """
    partial = _partial(path)
    reached(f"{what}: write")
    handle = _begin(partial)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(handle, mode)
            reached(f"{what}: sync")
            os.fsync(handle)
            reached(f"{what}: rename")
            partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # writing does not tell where
        raise
    sync_folder(path.parent)
    reached(f"{what}: done")


@contextlib.contextmanager
def named(path: Path, what: str) -> Iterator[BinaryIO]:
    """Open for writing what a user named at a command, as other programs do.

    A file appears whole or not at all, also one that a link leads to, and the link stays. A device
    or a pipe is written into, and `-` is standard output. No folder is made: it may be a mistyped
    one. What runs write by themselves is for `whole`, which follows no link.

    Raises
    ------
    SettingsError
        It cannot be written.
    """
    try:
        if is_stdout(path):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif _is_stream(path):
            with path.open("wb") as stream:
                yield stream
        else:
            target = path.resolve()
            if not target.parent.exists():
                raise FileNotFoundError(errno.ENOENT, f"there is no folder {target.parent}")
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with whole(target, what, mode=SHARED) as file:
                yield file
    except BrokenPipeError:
        raise  # who reads it has had enough
    except OSError as error:
        raise SettingsError(
            f"{path}: {error.strerror or error}",
            remedy="name a file in a writable folder with room",
        ) from error


def is_stdout(path: Path) -> bool:
    """Whether it is standard output: by its short name, or by one such as /dev/stdout."""
    if str(path) == STDOUT:
        return True
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _is_stream(path: Path) -> bool:
    """Whether there is something that cannot be replaced, but written into.

    The system is asked, which follows no link of a stranger's in a folder such as /tmp.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


@contextlib.contextmanager
def by_name(path: Path, what: str) -> Iterator[Path]:
    """The same as `whole` for a library that writes by name: gives that of an empty file.

    Nobody else may be writing there: what is in its way is removed.
    """
    make_folder(path.parent)
    partial = _partial(path)
    reached(f"{what}: write")
    partial.unlink(missing_ok=True)
    try:
        partial.touch(mode=OWN)
        yield partial
        reached(f"{what}: sync")
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        reached(f"{what}: rename")
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    reached(f"{what}: done")


def write_folder(path: Path, contents: Mapping[str, bytes], what: str) -> None:
    """Write a folder of files, which takes the place of an older one of that name."""
    partial = _partial(path)
    remove_folder(partial)
    reached(f"{what}: write")
    try:
        make_folder(partial)
        for name, content in contents.items():
            with whole(partial / name, f"{what}, a file") as file:
                file.write(content)
        reached(f"{what}: rename")
        remove_folder(path)
        reached(f"{what}: swap")
        partial.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_folder(partial)
        raise
    sync_folder(path.parent)
    reached(f"{what}: done")


def move(path: Path, target: Path, what: str) -> None:
    """Move a file, to another file system if need be, in place of an older one."""
    reached(f"{what}: move")
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy(path, target, what)
        reached(f"{what}: unlink")
        path.unlink()
    sync_folder(target.parent)
    sync_folder(path.parent)
    reached(f"{what}: moved")


def copy(path: Path, target: Path, what: str) -> None:
    """Copy a file with its time of change, in place of an older one."""
    with path.open("rb") as source, whole(target, what) as file:
        shutil.copyfileobj(source, file)
        file.flush()
        found = os.fstat(source.fileno())
        os.utime(file.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))


def read_small(path: Path, *, most: int = 1 << 20) -> bytes:
    """Read a file that a person wrote; one that never ends is refused, and so is a large one."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return content


def append(path: Path, line: str) -> None:
    """Add a line to a file in one piece."""
    reached("log: append")
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, OWN)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(line + "\n")


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it, or what is in its place; none is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Let the names in a folder be on the disk, where its file system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_partial(name: str) -> bool:
    """Whether a file of that name is one that was never finished.

    >>> is_partial(".ledger.sqlite.part"), is_partial("a.part")
    (True, False)
    """
    return name.startswith(".") and name.endswith(".part")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _begin(partial: Path) -> int:
    """Make a file that only this process writes, and lock it, which ends with the process."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(partial, flags, OWN)
    except FileExistsError:
        take_away(partial)
        handle = os.open(partial, flags, OWN)
    mine = _lock(handle)
    with contextlib.suppress(FileNotFoundError):
        if mine and os.path.samestat(os.fstat(handle), partial.stat()):
            return handle
    os.close(handle)  # it was thought dead
    raise _busy(partial)


def take_away(partial: Path) -> None:
    """Remove what a process left half-written that died; one that is alive still holds its lock.

    Raises
    ------
    OSError
        One that is alive is writing it, or it cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        if partial.is_file() and not partial.is_symlink():
            with partial.open("r+b") as file:
                if not _lock(file.fileno()):
                    raise _busy(partial)
                if os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                    partial.unlink()
        else:
            partial.unlink()


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True


def _busy(partial: Path) -> OSError:
    return BlockingIOError(errno.EBUSY, "another process is writing it", str(partial))
