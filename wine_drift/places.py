"""Files of a batch that is many files: found, known by their content, and brought to hand.

They lie on this machine, or wherever fsspec can read: on object storage, say.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from wine_drift.errors import FileUnreadable, SettingsError

EXTRA = "pip install 'wine-drift[dask]'"
_PATTERN = re.compile(r"[*?]|\[[^]/]+\]")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*(::|://)")
_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True)
class Place:
    """Where one file of a batch is."""

    address: str  # its whole path, or its address as fsspec has it
    name: str = ""  # its path as it was given, for people
    digest: str = ""  # SHA-256 of its bytes, hexadecimal; empty until it is known
    stamp: tuple[int, ...] = ()  # of a local file when it was hashed: time of change, size

    @property
    def is_remote(self) -> bool:
        """Whether fsspec is needed to read it."""
        return _ADDRESS.match(self.address) is not None

    @property
    def shown(self) -> str:
        """The address for people."""
        return shown(self.name or self.address)


def shown(address: str) -> str:
    r"""An address without a user's name and password, and without what a terminal would obey.

    >>> shown("https://me:secret@host/parts/a\n.csv")
    'https://host/parts/a�.csv'
    """
    plain = re.sub(r"://[^/@]*@", "://", address)
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in plain)


def is_many(batch: str) -> bool:
    """Whether a batch is named by a folder, a pattern or an address, and not by its one file."""
    with contextlib.suppress(OSError, ValueError):  # told by whoever opens it
        if Path(batch).exists():
            return Path(batch).is_dir()
    return bool(_ADDRESS.match(batch) or _PATTERN.search(batch))


def name_of(batch: str) -> str:
    """A short name for people: the folder, or the folder and the pattern.

    >>> name_of("s3://wines/today/*.parquet"), name_of("parts/")
    ('today/*.parquet', 'parts')
    """
    plain = PurePosixPath(_ADDRESS.sub("", shown(batch)))
    return "/".join(plain.parts[-2:]) if _PATTERN.search(batch) else plain.name or str(plain)


def find_places(batch: str, suffixes: tuple[str, ...]) -> tuple[list[Place], list[str]]:
    """Find the files of a batch.

    Parameters
    ----------
    batch : str
        A folder, a pattern such as `parts/*.parquet` (`**`: folders in it, too), or an address of
        either, or of one file, that fsspec can read.
    suffixes : tuple of str
        What a name of a file of rows ends in.

    Returns
    -------
    places : list of Place
        In the order of their addresses. Names that start with a dot or `_` are passed over.
    others : list of str
        Passed over for their name's end.

    Raises
    ------
    SettingsError
        There is none, or the place cannot be looked at.
    """
    batch = batch.removeprefix("file://")
    try:
        found = _remote(batch) if _ADDRESS.match(batch) else _local(batch)
    except ImportError as error:
        raise _missing(batch, error) from error
    # whatever a file system of fsspec says; what a pattern may not be, pathlib tells by these, too
    except Exception as error:
        raise SettingsError(
            f"batch {shown(batch)}: {_told(error)}",
            remedy="name a folder, or a pattern of files, that is there and can be read",
        ) from error
    named = [each for each in sorted(found) if PurePosixPath(each).name[:1] not in (".", "_")]
    places = [_place(each) for each in named if each.lower().endswith(suffixes)]
    if not places:
        raise SettingsError(
            f"batch {shown(batch)}: no files of rows there",
            remedy=f"their names end in {', '.join(suffixes)} and start with neither . nor _",
        )
    return places, [shown(each) for each in named if not each.lower().endswith(suffixes)]


def _place(found: str) -> Place:
    if _ADDRESS.match(found):
        return Place(found)
    return Place(str(Path(found).absolute()), found)  # others may be in another folder


def _local(batch: str) -> list[str]:
    path = Path(batch)
    if path.is_dir():
        return [str(each) for each in path.iterdir() if each.is_file()]
    root = Path(path.anchor)
    return [str(each) for each in root.glob(str(path.relative_to(root))) if each.is_file()]


def _remote(batch: str) -> list[str]:
    from fsspec.core import url_to_fs

    system, path = url_to_fs(batch)
    if _PATTERN.search(path):
        there = system.glob(path, detail=True).values()
    elif system.isdir(path):
        there = system.ls(path, detail=True)
    else:
        there = [system.info(path)]
    return [system.unstrip_protocol(each["name"]) for each in there if each["type"] == "file"]


def digested(place: Place) -> Place:
    """The same, known by its content.

    Raises
    ------
    FileUnreadable
    """
    with _reading(place):
        stamp = () if place.is_remote else _stamp(Path(place.address))
        with _opened(place) as file:
            digest = hashlib.sha256()
            while block := file.read(_AT_ONCE):
                digest.update(block)
    return replace(place, digest=digest.hexdigest(), stamp=stamp)


@contextlib.contextmanager
def at_hand(place: Place, most_bytes: int) -> Iterator[Path]:
    """The file on this machine, while this holds; what is elsewhere is copied here.

    Of a file that is larger than `most_bytes` no more is copied than shows it.

    Raises
    ------
    FileUnreadable
        It cannot be read, or is no longer what was hashed: nothing is recorded.
    """
    changed = FileUnreadable(
        f"{place.shown}: changed while it was read", remedy="write all files, then start the run"
    )
    if not place.is_remote:
        yield Path(place.address)
        with _reading(place):
            same = _stamp(Path(place.address)) == place.stamp
        if not same:
            raise changed
        return
    ending = "".join(PurePosixPath(place.address).suffixes[-2:])
    with tempfile.NamedTemporaryFile(prefix="wine-drift-", suffix=ending) as copy:
        digest, size = hashlib.sha256(), 0
        with _reading(place), _opened(place) as file:
            while size <= most_bytes and (block := file.read(_AT_ONCE)):
                copy.write(block)
                digest.update(block)
                size += len(block)
        copy.flush()
        if size <= most_bytes and digest.hexdigest() != place.digest:
            raise changed
        yield Path(copy.name)


def _opened(place: Place) -> contextlib.AbstractContextManager[IO[Any]]:
    if not place.is_remote:
        return Path(place.address).open("rb")
    import fsspec

    opened: contextlib.AbstractContextManager[IO[Any]] = fsspec.open(place.address, "rb")
    return opened


@contextlib.contextmanager
def _reading(place: Place) -> Iterator[None]:
    """Whatever a file system says while this holds is told as an error of this file."""
    try:
        yield
    except ImportError as error:
        raise _missing(place.address, error) from error
    except Exception as error:
        raise FileUnreadable(
            f"{place.shown}: {_told(error)}", remedy="check that the file is there and readable"
        ) from error


def _missing(address: str, error: ImportError) -> SettingsError:
    if (error.name or "").startswith("fsspec"):
        return SettingsError(f"batch {shown(address)}: needs fsspec", remedy=EXTRA)
    return SettingsError(f"batch {shown(address)}: {_told(error)}", remedy="install it")


def _told(error: Exception) -> str:
    """On one line, and not too long."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return shown(" ".join(str(text).split())[:200])


def _stamp(path: Path) -> tuple[int, ...]:
    """Not which file it is: on a shared disk each machine may count its own way."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size
