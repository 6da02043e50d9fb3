"""Where the next batch comes from, and where its file goes afterwards."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from wine_drift import files
from wine_drift.errors import FileUnreadable, SettingsError
from wine_drift.failpoints import reached
from wine_drift.places import Place

# Names in archive and quarantine, see `put_away` and `kept_rows`.
KEPT_AS = re.compile(r"(?P<id>[0-9a-f]{12})-(?P<name>.+)", re.DOTALL)


@dataclass(frozen=True)
class Claim:
    """A batch that was chosen, and not yet read."""

    # SHA-256, hexadecimal: of the file's bytes, of the SHA-256 of many files in their order, or of
    # what names a stream's slice
    content_id: str
    name: str  # for people
    source: str  # file | inbox | stream | simulated
    path: Path | None = None
    start: int = 0  # rows of the stream: from start up to stop
    stop: int = 0
    number: int = 0  # batches of the same stream before this one
    stamp: tuple[int, ...] = ()  # of the file when it was hashed: time of change, size, which file
    parts: tuple[Place, ...] = ()  # of a batch that is many files

    @property
    def batch_id(self) -> str:
        """Short form of the content id, as printed and as typed."""
        return self.content_id[:12]

    @property
    def is_slice(self) -> bool:
        """Whether it is rows of a table, and no files."""
        return self.path is None and not self.parts


def claim_file(path: Path, source: str = "file") -> Claim:
    """Claim one file by its content.

    Raises
    ------
    SettingsError
        There is no such file, or it cannot be read.
    """
    with _asked(path):
        stamp = _stamp_of_file(path)
        reached("claim: read")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Claim(digest, _readable(path.name), source, path, stamp=stamp)


def look_for(path: Path) -> None:
    """See that a file which was named is there, before anything is done.

    Raises
    ------
    SettingsError
        It is not.
    """
    with _asked(path):
        _stamp_of_file(path)


@contextlib.contextmanager
def _asked(path: Path) -> Iterator[None]:
    """What the system says of a file that was named, as a mistake of who named it."""
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"batch {path}: {error.strerror}", remedy="name a file that is there and readable"
        ) from error


def _stamp_of_file(path: Path) -> tuple[int, ...]:
    stamp = _stamp(path)
    if not path.is_file():  # a pipe or a device may never end
        raise OSError(errno.EINVAL, "not a file" if path.exists() else os.strerror(errno.ENOENT))
    return stamp


def claim_parts(name: str, parts: Sequence[Place]) -> Claim:
    """Claim files, each known by its content; a single one is the batch that it is by itself."""
    content_id = parts[0].digest
    if len(parts) > 1:
        content_id = hashlib.sha256(b"".join(bytes.fromhex(p.digest) for p in parts)).hexdigest()
    return Claim(content_id, name, "file", parts=tuple(parts))


def check_unchanged(claim: Claim) -> None:
    """After reading: what was read must be what was claimed.

    Raises
    ------
    FileUnreadable
        Somebody wrote to the file meanwhile. Nothing is recorded; it will be taken again.
    """
    assert claim.path is not None
    try:
        same = _stamp(claim.path) == claim.stamp
    except FileNotFoundError:
        same = False
    if not same:
        raise FileUnreadable(
            f"{claim.path}: changed while it was read",
            remedy="write under a name that starts with a dot, then rename",
        )


def claim_oldest(
    inbox: Path,
    suffixes: tuple[str, ...],
    is_known: Callable[[str], bool],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Claim | None, list[Claim]]:
    """Claim the oldest file of an inbox whose content is new.

    Names that start with a dot, or that do not end in one of `suffixes`, are still being written:
    a sender writes under such a name and then renames. A file that cannot be read is told to `say`
    and passed over, as is a link to a file that is neither its maker's nor made by us.

    Returns
    -------
    claim : Claim or None
        None when nothing waits.
    leftovers : list of Claim
        Older files that the ledger knows: done before, but not put away.
    Raises
    ------
    SettingsError
        The inbox is not a folder that can be read.
    """
    leftovers: list[Claim] = []
    for path in waiting(inbox, suffixes):
        if not _could_be_sent(path):
            say(f"{path}: a link to what its maker does not own: skipped")
            continue
        try:
            claim = claim_file(path, "inbox")
        except SettingsError as error:
            say(f"{error}: skipped")  # one file that cannot be read must not stop the others
            continue
        if not is_known(claim.content_id):
            return claim, leftovers
        leftovers.append(claim)
    return None, leftovers


def waiting(inbox: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of the inbox that are complete, oldest first."""
    try:
        found = []
        for entry in os.scandir(inbox):
            complete = not entry.name.startswith(".") and entry.name.lower().endswith(suffixes)
            with contextlib.suppress(OSError):  # its sender took it back; or a link to nowhere
                if complete and entry.is_file():
                    found.append((entry.stat().st_mtime_ns, entry.name))
    except OSError as error:
        raise SettingsError(
            f"inbox {inbox}: {error.strerror}", remedy="make the folder, or correct `inbox`"
        ) from error
    return [inbox / name for _, name in sorted(found)]


def passed_over(
    inbox: Path, suffixes: tuple[str, ...], *, after: float, before: float
) -> list[Path]:
    """Files that no run will take, for their name's end, and that changed last between two times.

    Those are Unix times. Names that start with a dot are somebody's business.
    """
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(inbox):
            with contextlib.suppress(OSError):
                strange = not entry.name.lower().endswith(suffixes) and entry.is_file()
                recent = after < entry.stat().st_ctime <= before
                if strange and recent and not entry.name.startswith("."):
                    found.append(inbox / entry.name)
    return sorted(found)


def _could_be_sent(path: Path) -> bool:
    """Whether a file is none but what its sender could read: a link is read with our rights."""
    try:
        link, file = path.lstat(), path.stat()
    except OSError:
        return True  # told by whoever opens it
    return not stat.S_ISLNK(link.st_mode) or link.st_uid in (0, os.geteuid(), file.st_uid)


def stream_order(table: NDArray[np.float64], *, seed: int) -> NDArray[np.int64]:
    """Order in which a table is streamed: shuffled, equal rows side by side.

    File order in the red-wine table is itself drift, and a repeat of a training row would tell the
    model an answer; equal rows side by side end up on the same side of any cut.

    Parameters
    ----------
    table : ndarray of shape (n_rows, n_columns)
        The features: what a model could know a row again by. NaN equals NaN.

    Returns
    -------
    ndarray of shape (n_rows,): row numbers, each once.

    Examples
    --------
    >>> order = stream_order(np.array([[1.0], [2.0], [1.0], [3.0]]), seed=0)
    >>> sorted(order.tolist()), abs(order.tolist().index(0) - order.tolist().index(2))
    ([0, 1, 2, 3], 1)
    """
    _, group = np.unique(np.nan_to_num(table, nan=-np.inf), axis=0, return_inverse=True)
    group = np.asarray(group).ravel()
    rank = np.random.default_rng(seed).permutation(group.max() + 1)
    return np.asarray(np.argsort(rank[group], kind="stable"))


def group_cut(table: NDArray[np.float64], order: NDArray[np.int64], *, share: float) -> int:
    """Rows of the training part: the share of all, and on to the end of a group of equal rows."""
    ordered = np.nan_to_num(table[order], nan=-np.inf)
    cut = max(1, round(share * len(ordered)))
    while cut < len(ordered) and (ordered[cut] == ordered[cut - 1]).all():
        cut += 1
    return cut


def claim_stream(
    table_id: str, *, seed: int, position: int, number: int, n_rows: int, batch_rows: int
) -> Claim | None:
    """Claim the next rows of a table's stream; None when it has ended."""
    stop = min(position + batch_rows, n_rows)
    if position >= stop:
        return None
    name = f"rows {position}-{stop}"
    content_id = _digest(f"stream {table_id} {seed} {position} {stop}")
    return Claim(content_id, name, "stream", None, position, stop, number)


def claim_simulated(*, seed: int, number: int, n_rows: int) -> Claim:
    """Claim the next batch of the endless simulated stream."""
    content_id = _digest(f"simulated {seed} {number} {n_rows}")
    return Claim(content_id, f"simulated {number}", "simulated", None, 0, n_rows, number)


def put_away(claim: Claim, folder: Path) -> Path:
    """Move an inbox file, or copy one that was named, under a name that no other content has."""
    assert claim.path is not None
    files.make_folder(folder)
    # names end at 255 bytes, and the batch id with what marks a copy in progress needs some
    name = claim.name.encode()[-225:].decode(errors="ignore")
    target = folder / f"{claim.batch_id}-{name}"
    if claim.source == "inbox" and _stamp(claim.path) != claim.stamp:
        raise OSError(errno.ESTALE, "another file has its name now")  # which is a batch of its own
    linked = claim.path.is_symlink()  # what a link points to can change, or go
    if claim.source == "inbox" and not linked:
        files.move(claim.path, target, folder.name)
        if _stamp(target)[:2] != claim.stamp[:2]:  # its sender was faster than the look at it
            give_back(target, claim.path.parent)
            raise OSError(errno.ESTALE, "another file has its name now")
        return target
    if not target.exists():
        files.copy(claim.path, target, folder.name)
    if claim.source == "inbox":
        reached(f"{folder.name}: unlink")
        claim.path.unlink()
    return target


def give_back(path: Path, inbox: Path) -> Path:
    """Move a file that was put away to the inbox, under its own name if that is free."""
    name = KEPT_AS.fullmatch(path.name)
    assert name is not None
    target = inbox / name["name"]
    if target.is_file() and claim_file(target).content_id == claim_file(path).content_id:
        path.unlink()  # it was given back already, by one who died before he could take it away
        return target
    if target.exists() or target.is_symlink():
        target = inbox / path.name
    files.move(path, target, "inbox")
    return target


@contextlib.contextmanager
def kept_rows(claim: Claim, folder: Path) -> Iterator[Callable[[Iterable[Sequence[object]]], None]]:
    """Write rows of a batch that are set aside, some at a time; none make no file.

    It is there once the block has ended well. The same batch again gives the same file.
    """
    path = folder / f"{claim.batch_id}-rows.csv"
    with contextlib.ExitStack() as stack:
        file: BinaryIO | None = None

        def write(rows: Iterable[Sequence[object]]) -> None:
            nonlocal file
            if file is None:
                files.make_folder(folder)
                file = stack.enter_context(files.whole(path, "set-aside rows"))
            text = io.StringIO(newline="")
            csv.writer(text, lineterminator="\n").writerows(rows)
            file.write(text.getvalue().encode())

        yield write


def _readable(name: str) -> str:
    r"""A file's name, which may be any bytes, as text that can be written and printed anywhere.

    >>> _readable("M\udce4rz\n.csv")
    'M�rz�.csv'
    """
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name)


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_dev, found.st_ino


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
