"""Reads one table file: CSV with `;` or `,`, the same in .gz or .zip, and Parquet.

A file may come from anybody. What it takes to read one is bounded by `most_bytes`, whatever the
file says of itself: bytes are counted while they are unpacked.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import lzma
import os
import re
import resource
import stat
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from wine_drift.errors import FileUnreadable, TableError
from wine_drift.frame import Frame

if TYPE_CHECKING:  # pandas is loaded by the first table, not by --help
    import pandas as pd
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

SUFFIXES = (".csv", ".gz", ".zip", ".parquet")
MOST_BYTES = 1 << 28  # of a table file once it is unpacked
MOST_COLUMNS = 20_000
_LONGEST_HEADER = 1 << 20  # characters
_SMALL = 1 << 20  # characters of a table that takes no longer to read than pandas to load
# What pandas takes for nothing, and more that looks like it.
_NO_NAME = re.compile(r"[^a-z]*(n/?a|nan|null|none|ind|qnan)[^a-z]*( n/a *)?", re.IGNORECASE)
# With 15 digits at most, pandas and Python give the same number: either rounds but once.
_SHORT_DECIMAL = re.compile(r"(-?([0-9]{1,15}|(?=[0-9.]{3,16}$)[0-9]+\.[0-9]+))?")
# A file that is larger than this, and so many times as large as it was packed, is no table but a
# bomb: numbers pack to a third, the same row again and again to a fiftieth.
_BOMB, _BOMB_RATIO = 64 << 20, 200
# zipfile unpacks bzip2 and LZMA in one go, however much comes out; of so few bytes at most 100 MB.
_BITE = 4096
_LONGEST_LIST = 4 << 20  # bytes of the list of members of a zip file: some 40,000 of them
_PART = 1024  # rows of a Parquet file that are unpacked at a time
_SPARE = 256 << 20  # bytes of memory that a small file may take


def read_table(
    path: Path,
    *,
    text_column: str | None = None,
    keep_blank: bool = False,
    most_bytes: int = MOST_BYTES,
) -> Frame:
    """Read a table file, every row and column of it, text left as text.

    Parameters
    ----------
    path : Path
        `*.parquet`, or CSV text with a header line, as it is, in `*.gz`, or as the only CSV in a
        `*.zip`. The separator, `;` or `,`, is the one that the header line holds more of.
    text_column : str, optional
        Column whose cells are texts whatever they look like: in CSV 007 is not 7.
    keep_blank : bool
        In CSV of one column a blank line is an empty cell.
    most_bytes : int
        Bytes of the table, as CSV text or as the columns of a Parquet file, once it is unpacked.
        Reading CSV takes some eleven times as much memory, if the cells are short.

    Returns
    -------
    Frame
        Column names as in the file, without spaces around them.

    Raises
    ------
    TableError
        Naming the file, the line where there is one, and what to do.
    FileUnreadable
        The system would not let it be read, or it is no regular file.
    """
    try:
        _refuse_odd(path, most_bytes)
        if path.suffix.lower() == ".parquet":
            return from_pandas(_read_parquet(path, most_bytes))
        return _read_csv(path, text_column, most_bytes, keep_blank=keep_blank)
    except MemoryError as error:  # pyarrow's own is one, too
        raise TableError(
            f"{path}: needs more memory than there is for it", remedy="send it in smaller files"
        ) from error
    except UnicodeDecodeError as error:
        problem = f"byte {error.object[error.start]:#04x} is not UTF-8 text"
        raise TableError(f"{path}: {problem}", remedy="save the file as UTF-8 CSV") from error
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    # What zipfile raises for a file that is encrypted, and for one packed by a method it has not:
    # both are the user's to mend.
    except (RuntimeError, NotImplementedError) as error:
        raise TableError(f"{path}: {_plain(error)}", remedy="use a plain zip file") from error
    except OSError as error:
        if error.errno is None:  # not of the system, but of bzip2
            raise _damaged(path, error) from error
        raise FileUnreadable(
            f"{path}: {error.strerror}", remedy="check that the file is there and readable"
        ) from error


def _damaged(path: Path, error: BaseException) -> TableError:
    return TableError(
        f"{path}: damaged compressed file: {_plain(error)}", remedy="make or copy the file again"
    )


def _refuse_odd(path: Path, most_bytes: int) -> None:
    """Only a regular file has an end, and can be read twice."""
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise FileUnreadable(f"{path}: Is a directory", remedy="name a file")
    if not stat.S_ISREG(found.st_mode):
        raise FileUnreadable(
            f"{path}: is no regular file", remedy="write it to a file, and name that"
        )
    if found.st_size > most_bytes:
        raise _too_large(path, f"{found.st_size:,} bytes", most_bytes)


def _too_large(path: Path, found: str, most_bytes: int) -> TableError:
    return TableError(
        f"{path}: {found}, more than the {most_bytes:,} that a file may have",
        remedy="send it in smaller files, or raise max_bytes for those to come",
    )


def _check_unpacked(path: Path, size: int, packed: int, most_bytes: int) -> None:
    """Stop when so many bytes have come out of a file of `packed` bytes, or will."""
    told = f"{packed:,} bytes that unpack to {size:,} or more"
    if size > most_bytes:
        raise _too_large(path, told, most_bytes)
    if size > max(_BOMB, _BOMB_RATIO * packed):
        raise TableError(
            f"{path}: {told}: no table packs so well",
            remedy="if it is meant to be so, send it unpacked",
        )


class _Counted(io.BufferedIOBase):
    """What is unpacked from a file, as long as it is not too much."""

    def __init__(self, raw: io.BufferedIOBase, path: Path, most_bytes: int) -> None:
        self._raw, self._path, self._most = raw, path, most_bytes
        self._packed, self._count = path.stat().st_size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def read1(self, size: int = -1, /) -> bytes:
        """Some of the next bytes."""
        data = self._raw.read1(_BITE if size < 0 else min(size, _BITE))
        self._count += len(data)
        _check_unpacked(self._path, self._count, self._packed, self._most)
        return data


class _Careful(io.FileIO):
    """A zip file of which nothing is read in large pieces, nor beyond its ends."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place, which a damaged list of members may name."""
        if whence == io.SEEK_SET and not 0 <= offset <= self._size:
            raise zipfile.BadZipFile(f"there is nothing at byte {offset:,}")
        return super().seek(offset, whence)

    @cached_property
    def _size(self) -> int:
        return os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        if size is not None and size > _LONGEST_LIST:
            raise zipfile.BadZipFile(f"{size:,} bytes of list of members")
        return super().read(size) or b""


@contextlib.contextmanager
def _opened(path: Path, most_bytes: int) -> Iterator[io.TextIOWrapper]:
    """The text of a CSV file, whatever it is packed in."""
    with contextlib.ExitStack() as stack:
        suffix = path.suffix.lower()
        raw: io.BufferedIOBase
        if suffix == ".zip":
            file = stack.enter_context(_Careful(path))
            archive = stack.enter_context(zipfile.ZipFile(cast("IO[bytes]", file)))
            member = _csv_member(path, archive)
            _check_unpacked(path, member.file_size, path.stat().st_size, most_bytes)
            raw = cast("io.BufferedIOBase", stack.enter_context(archive.open(member)))
        elif suffix == ".gz":
            raw = stack.enter_context(gzip.open(path))
        else:
            raw = stack.enter_context(path.open("rb"))
        counted = cast("IO[bytes]", _Counted(raw, path, most_bytes))
        text = io.TextIOWrapper(counted, encoding="utf-8-sig", newline="")
        try:
            yield text
        finally:
            text.detach()


def from_pandas(frame: pd.DataFrame) -> Frame:
    """The same columns: plain numbers as they are, all else as objects.

    >>> import pandas as pd
    >>> frame = from_pandas(pd.DataFrame({"x": [1, 2], "y": ["good", pd.NA]}))
    >>> frame.columns["x"].cells.tolist(), frame.columns["y"].cells.tolist()
    ([1, 2], ['good', None])
    """
    columns: dict[str, NDArray[Any]] = {}
    for name, column in frame.items():
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
            columns[str(name)] = column.to_numpy()
        else:
            cells = column.to_numpy(dtype=object, copy=True)
            cells[column.isna().to_numpy()] = None
            columns[str(name)] = cells
    return Frame.of(columns)


def _read_csv(path: Path, text_column: str | None, most_bytes: int, *, keep_blank: bool) -> Frame:
    with _opened(path, most_bytes) as text:
        names, separator = _read_header(path, text)
        body = text.read(_SMALL + 1)
    frame = _read_plain(body, names, separator, text_column)
    if frame is None:
        frame = _parse_csv(path, text_column, most_bytes, keep_blank=keep_blank)
    return frame


def _read_header(path: Path, text: io.TextIOWrapper) -> tuple[list[str], str]:
    """Names of the columns, and the separator."""
    header = text.readline(_LONGEST_HEADER)
    if "\0" in header:
        raise TableError(f"{path}: not a text file", remedy="give a CSV or Parquet file")
    if len(header) == _LONGEST_HEADER:
        raise TableError(
            f"{path}: line 1 is longer than {_LONGEST_HEADER:,} characters",
            remedy="start with a header line",
        )
    separator = ";" if header.count(";") > header.count(",") else ","
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    except csv.Error as error:
        raise TableError(f"{path}: line 1: {error}", remedy="give a CSV file") from error
    if not any(names):
        raise TableError(f"{path}: line 1 names no columns", remedy="start with a header line")
    _check_names(path, names)
    return names, separator


def _read_plain(
    body: str, names: list[str], separator: str, text_column: str | None
) -> Frame | None:
    """What pandas would read of a small table of short decimals; None of any other."""
    if len(body) > _SMALL:
        return None
    rows = [line.split(separator) for line in body.replace("\r\n", "\n").split("\n")]
    if rows[-1] == [""]:
        rows.pop()
    is_regular = len(names) > 1 and all(len(row) == len(names) for row in rows)
    if not (rows and is_regular):
        return None
    columns: dict[str, Sequence[object] | NDArray[Any]] = {}
    for name, cells in zip(names, zip(*rows, strict=True), strict=True):
        if name == text_column:
            texts = [cell.strip() or None for cell in cells]
            whole = "".join(cells)
            odd = '"' in whole or not whole.isprintable() or any(map(_NO_NAME.fullmatch, cells))
            if odd or not any(texts):
                return None
            columns[name] = texts
        elif not all(map(_SHORT_DECIMAL.fullmatch, cells)):
            return None
        elif all(cells) and "." not in "".join(cells):
            columns[name] = np.array([int(cell) for cell in cells])
        else:
            columns[name] = np.array([float(cell or "nan") for cell in cells])
    return Frame.of(columns)


def _parse_csv(path: Path, text_column: str | None, most_bytes: int, *, keep_blank: bool) -> Frame:
    """Any table, by pandas."""
    import pandas as pd

    with _opened(path, most_bytes) as text:
        names, separator = _read_header(path, text)
        try:
            with _WARNING, warnings.catch_warnings():
                # pandas cuts lines that are all too long, and only warns
                warnings.simplefilter("error", pd.errors.ParserWarning)
                frame = pd.read_csv(
                    text,
                    sep=separator,
                    names=names,
                    header=None,
                    index_col=False,
                    low_memory=False,
                    converters={text_column: str.strip} if text_column in names else None,
                    skip_blank_lines=not (keep_blank and len(names) == 1),
                )
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            if "out of memory" in str(error):
                raise MemoryError from error
            _refuse_ragged(path, len(names), separator, most_bytes)
            raise TableError(
                f"{path}: not a regular table: {_plain(error)}",
                remedy="give every line as many cells as the header",
            ) from error
    last = frame[names[-1]]
    if (last.isna() | (last == "")).any():  # empty, or not there: pandas does not tell them apart
        _refuse_ragged(path, len(names), separator, most_bytes)
    return from_pandas(frame)


def _refuse_ragged(path: Path, width: int, separator: str, most_bytes: int) -> None:
    """Find the first line that has more or fewer cells than the header."""
    with _opened(path, most_bytes) as text:
        reader = csv.reader(text, delimiter=separator)
        try:
            for row in reader:
                if row and len(row) != width:
                    raise TableError(
                        f"{path}: line {reader.line_num} has {len(row)} cells, the header {width}",
                        remedy="give every line as many cells as the header; is the file complete?",
                    )
        except csv.Error as error:
            raise TableError(
                f"{path}: line {reader.line_num}: {error}", remedy="give a CSV file"
            ) from error


def _read_parquet(path: Path, most_bytes: int) -> pd.DataFrame:
    import pandas as pd
    import pyarrow
    from pyarrow import parquet

    try:
        # a folder of parts is not one batch; a damaged length asks for all the memory there is
        with path.open("rb") as file, _bounded(_SPARE + 4 * most_bytes):
            table = _unpacked(path, parquet.ParquetFile(file), most_bytes)
            table.validate(full=True)  # or pandas would fail later: text that is not UTF-8
            # pandas' own metadata would make an index of a column, or fail
            frame = table.to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, MemoryError):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's own; without a number it is pyarrow's "damaged"
        detail = _plain(error) or type(error).__name__
        raise TableError(f"{path}: not a Parquet file: {detail}", remedy="write it anew") from error
    names = [str(name).strip() for name in frame.columns]
    _check_names(path, names)
    frame.columns = pd.Index(names)
    return cast("pd.DataFrame", frame)


def _unpacked(path: Path, file: ParquetFile, most_bytes: int) -> Table:
    """What a Parquet file holds, if that is not more than it may be."""
    from pyarrow import RecordBatch, Table, schema, types

    told = file.metadata
    if told.num_columns > MOST_COLUMNS:
        raise _too_wide(path, told.num_columns)
    groups = (told.row_group(number).total_byte_size for number in range(told.num_row_groups))
    size = max(told.num_rows * told.num_columns * 8, sum(groups))
    if size > most_bytes:
        raise _too_large(path, f"{size:,} bytes once it is unpacked", most_bytes)
    # a text that is kept once can be there a million times
    coded = [types.is_dictionary(field.type) for field in file.schema_arrow]
    plain = schema(
        field.with_type(field.type.value_type) if is_coded else field
        for field, is_coded in zip(file.schema_arrow, coded, strict=True)
    )
    parts, size = [], 0
    for part in file.iter_batches(_PART, use_threads=False):
        columns = zip(part.columns, coded, strict=True)
        texts = [column.dictionary_decode() if is_coded else column for column, is_coded in columns]
        parts.append(RecordBatch.from_arrays(texts, schema=plain))
        size += parts[-1].nbytes  # what it says of itself may be wrong
        if size > most_bytes:
            raise _too_large(path, f"{size:,} bytes or more once it is unpacked", most_bytes)
    return Table.from_batches(parts, plain)


_LIMITING, _WARNING = threading.Lock(), threading.Lock()  # what they change is the process's


@contextlib.contextmanager
def _bounded(growth: int) -> Iterator[None]:
    """While this holds, the process cannot grow by more bytes than so many: a MemoryError instead.

    One thread at a time, or the second would take the limit of the first for the usual one. Where
    the system does not tell how large a process is, there is no limit.
    """
    with _LIMITING:
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        except OSError:
            yield
            return
        usual, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + growth
        limits = [limit, *(one for one in (usual, hard) if one != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (usual, hard))


def _csv_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one CSV in a zip file; what macOS adds beside it does not count."""
    members = [
        member
        for member in archive.infolist()
        if member.filename.lower().endswith(".csv")
        and not PurePosixPath(member.filename).name.startswith(".")
    ]
    if len(members) != 1:
        found = ", ".join(_plain(member.filename, most=60) for member in members[:5]) or "none"
        raise TableError(
            f"{path}: holds {len(members)} CSV files ({found})",
            remedy="put exactly one CSV file in the zip file",
        )
    return members[0]


def _check_names(path: Path, names: list[str]) -> None:
    if len(names) > MOST_COLUMNS:
        raise _too_wide(path, len(names))
    name, times = Counter(sorted(names)).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise TableError(
            f"{path}: column {name[:60]!r} is there {times} times",
            remedy="give every column its own name",
        )


def _too_wide(path: Path, n_columns: int) -> TableError:
    return TableError(
        f"{path}: has {n_columns:,} columns, more than {MOST_COLUMNS:,}",
        remedy="leave out the columns that the schema does not name",
    )


def _plain(found: object, *, most: int = 200) -> str:
    r"""What another library says of a file, on one line and without what a terminal would obey.

    >>> _plain("no\ngood \x1b[2J")
    'no good �[2J'
    """
    text = " ".join(str(found)[: 2 * most].split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:most]
