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
import math
import os
import resource
import stat
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from wine_drift.decimals import Cells, parse_lines
from wine_drift.errors import FileUnreadable, TableError
from wine_drift.frame import Column, Frame
from wine_drift.schema import category

if TYPE_CHECKING:  # pandas is loaded by the first table, not by --help
    import pandas as pd
    from pyarrow import ChunkedArray, Table
    from pyarrow.parquet import ParquetFile

# Texts that stand for an empty cell in CSV, as pandas has them.
NOTHING = frozenset(
    {
        *("", "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "n/a", "NULL", "null", "None"),
        *("NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    }
)
SUFFIXES = (".csv", ".gz", ".zip", ".parquet")
MOST_BYTES = 1 << 28  # of a table file once it is unpacked
MOST_COLUMNS = 20_000
PART_ROWS = 1 << 16
_LONGEST_HEADER = 1 << 20  # characters
_BLOCK = 1 << 18  # characters that are read at a time, so that what is made of them fits a cache
# A file that is larger than this, and so many times as large as it was packed, is no table but a
# bomb: numbers pack to a third, the same row again and again to a fiftieth.
_BOMB, _BOMB_RATIO = 64 << 20, 200
# zipfile unpacks bzip2 and LZMA in one go, however much comes out; of so few bytes at most 100 MB.
_BITE = 4096
_LONGEST_LIST = 4 << 20  # bytes of the list of members of a zip file: some 40,000 of them
_PIECE = 1024  # rows of a Parquet file that are unpacked at a time
_SPARE = 256 << 20  # bytes of memory that a small file may take


def read_table(
    path: Path,
    *,
    text_column: str | None = None,
    listed: Mapping[str, Sequence[str]] | None = None,
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
    listed : mapping, optional
        Categories by column: what is listed is a text, and no empty cell, also where it is one of
        `NOTHING`.
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
    (frame,) = _parts(path, text_column, listed or {}, most_bytes, None, keep_blank=keep_blank)
    return frame


def read_parts(
    path: Path,
    *,
    text_column: str | None = None,
    listed: Mapping[str, Sequence[str]] | None = None,
    most_bytes: int = MOST_BYTES,
    part_rows: int = PART_ROWS,
) -> Iterator[Frame]:
    """Read a table file some rows at a time; else as `read_table`, which tells of the arguments.

    The kind of a column may differ between parts: numbers in one, texts in another. A file without
    rows is one empty part. What is wrong with a file is told when that place is reached.
    """
    return _parts(path, text_column, listed or {}, most_bytes, part_rows, keep_blank=False)


def reads_alone(name: str) -> bool:
    """Whether nothing else may go on while a part is read: Parquet bounds the process's memory."""
    return name.lower().endswith(".parquet")


def read_as_nothing(path: Path, frame: Frame) -> dict[str, list[str]]:
    """Texts of a CSV file that came as empty cells of columns of texts, the most frequent first."""
    gaps = {
        name: [*NOTHING]
        for name, column in frame.columns.items()
        if column.cells.dtype == object and column.is_empty.any()
    }
    if not gaps or path.suffix.lower() == ".parquet":
        return {}
    as_they_are = read_table(path, listed=gaps).columns
    return {
        name: [text for text, _ in Counter(found).most_common()]
        for name in gaps
        if (found := [t for t in as_they_are[name].texts(frame.columns[name].is_empty) if t])
    }


def _parts(
    path: Path,
    text_column: str | None,
    listed: Mapping[str, Sequence[str]],
    most_bytes: int,
    part_rows: int | None,
    *,
    keep_blank: bool,
) -> Iterator[Frame]:
    """A table in parts of so many rows, or in one."""
    try:
        _refuse_odd(path, most_bytes)
        if path.suffix.lower() == ".parquet":
            yield from _read_parquet(path, most_bytes, part_rows)
        else:
            yield from _read_csv(
                path, text_column, listed, most_bytes, part_rows, keep_blank=keep_blank
            )
    except MemoryError as error:  # pyarrow's own is one, too
        raise TableError(
            f"{path}: needs more memory than there is for it", remedy="send it in smaller files"
        ) from error
    except UnicodeDecodeError as error:
        problem = f"byte {error.object[error.start]:#04x} is not UTF-8 text"
        raise TableError(f"{path}: {problem}", remedy="save the file as UTF-8 CSV") from error
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
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

    def __init__(self, raw: io.BufferedIOBase, path: Path, most_bytes: int, bite: int) -> None:
        self._raw, self._path, self._most, self._bite = raw, path, most_bytes, bite
        self._packed, self._count = path.stat().st_size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def read1(self, size: int = -1, /) -> bytes:
        """Some of the next bytes."""
        data = self._raw.read1(self._bite if size < 0 else min(size, self._bite))
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
        suffix, bite = path.suffix.lower(), 1 << 18
        raw: io.BufferedIOBase
        if suffix == ".zip":
            raw, bite = _unzipped(path, stack, most_bytes), _BITE
        elif suffix == ".gz":
            raw = stack.enter_context(gzip.open(path))
        else:
            raw = stack.enter_context(path.open("rb"))
        counted = cast("IO[bytes]", _Counted(raw, path, most_bytes, bite))
        text = io.TextIOWrapper(counted, encoding="utf-8-sig", newline="")
        try:
            yield text
        finally:
            text.detach()


def _unzipped(path: Path, stack: contextlib.ExitStack, most_bytes: int) -> io.BufferedIOBase:
    """The only CSV file of a zip file."""
    file = stack.enter_context(_Careful(path))
    try:
        archive = stack.enter_context(zipfile.ZipFile(cast("IO[bytes]", file)))
        member = _csv_member(path, archive)
        _check_unpacked(path, member.file_size, path.stat().st_size, most_bytes)
        return cast("io.BufferedIOBase", stack.enter_context(archive.open(member)))
    except RuntimeError as error:  # encrypted, or packed by a method that zipfile does not know
        raise TableError(f"{path}: {_plain(error)}", remedy="use a plain zip file") from error


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


def _read_csv(
    path: Path,
    text_column: str | None,
    listed: Mapping[str, Sequence[str]],
    most_bytes: int,
    part_rows: int | None,
    *,
    keep_blank: bool,
) -> Iterator[Frame]:
    with _opened(path, most_bytes) as text:
        names, separator = _read_header(path, text)
        parse = partial(
            _parse_csv,
            names=names,
            separator=separator,
            text_column=text_column,
            words=_words(listed, {*names} - {text_column}),
            most_bytes=most_bytes,
            part_rows=part_rows,
            keep_blank=keep_blank,
        )
        plain = _PlainLines(text, names, separator, text_column)
        if part_rows is not None:
            while (frame := plain.read(part_rows)) is not None:
                yield frame
            if not plain.is_over:
                for frame in parse(path, cast("IO[str]", plain.rest())):
                    if len(frame) or not plain.n_rows:  # what is left may be blank lines
                        yield frame
            return
        frame = plain.read(None)
    if frame is not None and plain.is_over:
        yield frame
        return
    del frame
    with _opened(path, most_bytes) as text:  # in one piece it is read in one way
        _read_header(path, text)
        yield from parse(path, text)


class _PlainLines:
    """Lines of a CSV file as long as they hold short decimals; then the text that is left."""

    def __init__(
        self, text: IO[str], names: list[str], separator: str, text_column: str | None
    ) -> None:
        self._text, self._names, self._separator = text, names, separator.encode()
        self._text_column = names.index(text_column) if text_column in names else None
        self._left = ""  # of what was taken out of `text`
        self._is_plain = len(names) > 1
        self.n_rows = 0
        self.is_over = False  # all lines were read, and there were some

    def read(self, n_rows: int | None) -> Frame | None:
        """The next rows, so many or a few more, or all; None if there are no more such lines."""
        blocks: list[list[Cells]] = []
        end = None if n_rows is None else self.n_rows + n_rows
        while self._is_plain and not self.is_over and (end is None or self.n_rows < end):
            block = self._block()
            if block is not None:
                blocks.append(block)
                self.n_rows += len(block[0])
        if not blocks:
            return None
        columns: dict[str, Sequence[object] | NDArray[Any]] = {}
        for name, *cells in zip(self._names, *blocks, strict=True):
            is_text = isinstance(cells[0], list)
            columns[name] = list(chain(*cells)) if is_text else np.concatenate(cells)
        return Frame.of(columns)

    def _block(self) -> list[Cells] | None:
        """Columns of the next lines."""
        more = self._text.read(_BLOCK)
        self._left += more
        end = self._left.rfind("\n") + 1 if more else len(self._left)
        if not more and not end:
            self.is_over = self.n_rows > 0
            self._is_plain = self.is_over
        if not end:
            self._is_plain &= len(self._left) < _LONGEST_HEADER  # a line may go on
            return None
        lines = self._left[:end] if self._left[end - 1] == "\n" else self._left + "\n"
        columns = parse_lines(lines.encode(), len(self._names), self._separator, self._text_column)
        if columns is None:
            self._is_plain = False
        else:
            self._left = self._left[end:]
        return columns

    def rest(self) -> _Rest:
        """The text that is left."""
        return _Rest(self._left, self._text)


class _Rest(io.TextIOBase):
    """Text that was taken already, and then what comes after it."""

    def __init__(self, begin: str, text: IO[str]) -> None:
        self._begin, self._text = begin, text

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int | None = -1, /) -> str:
        """Some of the next characters."""
        begin, self._begin = self._begin, ""
        return begin or self._text.read(-1 if size is None else size)


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
        # another line is only read by a quoted name that goes on there
        reader = csv.reader([header, "\n"], delimiter=separator)
        names = [name.strip() for name in next(reader, [])]
        if reader.line_num > 1:
            raise TableError(
                f"{path}: line 1: the quoted name of column {len(names)} goes on in the next line",
                remedy="write each name on one line; is a quote left open?",
            )
    except csv.Error as error:
        raise TableError(f"{path}: line 1: {error}", remedy="give a CSV file") from error
    if not any(names):
        raise TableError(f"{path}: line 1 names no columns", remedy="start with a header line")
    _check_names(path, names)
    return names, separator


def _parse_csv(
    path: Path,
    text: IO[str],
    names: list[str],
    separator: str,
    *,
    text_column: str | None,
    words: Mapping[str, frozenset[str]],
    most_bytes: int,
    part_rows: int | None,
    keep_blank: bool,
) -> Iterator[Frame]:
    """Any table, by pandas."""
    import pandas as pd

    doubtful = False
    nothing: Any = [*NOTHING]
    if words:
        nothing = {name: [*(NOTHING - words.get(name, frozenset()))] for name in names}
    try:
        reader = pd.read_csv(
            text,
            sep=separator,
            names=names,
            header=None,
            index_col=False,
            na_values=nothing,
            keep_default_na=False,
            dtype=dict.fromkeys(words, object),
            low_memory=False,
            converters={text_column: str.strip} if text_column in names else None,
            skip_blank_lines=not (keep_blank and len(names) == 1),
            iterator=True,
        )
        while True:
            with _WARNING, warnings.catch_warnings():
                # pandas cuts lines that are all too long, and only warns
                warnings.simplefilter("error", pd.errors.ParserWarning)
                frame = reader.read(part_rows)
            # a cell that is empty, or not there: pandas does not tell them apart
            last = frame[names[-1]]
            if not doubtful and (last.isna() | (last == "")).any():
                doubtful = True
                _refuse_ragged(path, len(names), separator, most_bytes)
            yield from_pandas(_without_bools(frame))
            if part_rows is None or len(frame) < part_rows:
                return
    except StopIteration:
        return
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        if "out of memory" in str(error):
            raise MemoryError from error
        _refuse_ragged(path, len(names), separator, most_bytes, strict=True)
        raise TableError(
            f"{path}: not a regular table: {_plain(error)}",
            remedy="give every line as many cells as the header",
        ) from error


def _words(
    listed: Mapping[str, Sequence[str]], names: Collection[str | None]
) -> dict[str, frozenset[str]]:
    """Which of `NOTHING` are categories, of each column where some are."""
    found = {}
    for name, categories in listed.items():
        known = {category(text) for text in categories}
        words = frozenset(text for text in NOTHING if text and category(text) in known)
        if words and name in names:
            found[name] = words
    return found


def _without_bools(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with True and False as the texts that they are.

    pandas takes them for answers if there is nothing else in a column, that is, in this part of it.
    """
    for name, column in frame.items():
        if column.dtype == bool:
            frame[name] = column.astype(str).astype(object)
        elif column.dtype == object:
            is_bool = column.map(lambda cell: isinstance(cell, bool))
            frame[name] = column.where(~is_bool, column.astype(str))
    return frame


def _refuse_ragged(
    path: Path, width: int, separator: str, most_bytes: int, *, strict: bool = False
) -> None:
    """Find the first line that has more or fewer cells than the header.

    With `strict`, also one with quotes that do not match.
    """
    with _opened(path, most_bytes) as text:
        reader = csv.reader(text, delimiter=separator, strict=strict)
        begin = 1  # line of the row in hand
        try:
            for row in reader:
                begin = reader.line_num + 1
                if row and len(row) != width:
                    raise TableError(
                        f"{path}: line {reader.line_num} has {len(row)} cells, the header {width}",
                        remedy="give every line as many cells as the header; is the file complete?",
                    )
        except csv.Error as error:
            raise TableError(f"{path}: line {begin}: {error}", remedy="give a CSV file") from error


def _read_parquet(path: Path, most_bytes: int, part_rows: int | None) -> Iterator[Frame]:
    import pyarrow
    from pyarrow import parquet

    try:
        # a folder of parts is not one batch
        with path.open("rb") as file:
            # a damaged length asks for all the memory there is
            with _bounded(_SPARE + 4 * most_bytes):
                # to read ahead takes more memory than it saves time on a disk
                opened = parquet.ParquetFile(file, pre_buffer=False)
                tables = _tables(path, opened, most_bytes, part_rows)
            while True:
                with _bounded(_SPARE + 4 * most_bytes):
                    table = next(tables, None)
                    if table is None:
                        return
                    table.validate(full=True)  # or it would fail later: text that is not UTF-8
                    names = [name.strip() for name in table.column_names]
                    _check_names(path, names)
                    frame = _from_arrow(table.rename_columns(names))
                del table
                yield frame
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, MemoryError):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's own; without a number it is pyarrow's "damaged"
        detail = _plain(error) or type(error).__name__
        raise TableError(f"{path}: not a Parquet file: {detail}", remedy="write it anew") from error


def _from_arrow(table: Table) -> Frame:
    """The same columns: plain numbers as they are, all else as pandas has it."""
    columns, others = {}, []
    for name in table.column_names:
        numbers = _plain_numbers(table[name])
        if numbers is None:
            others.append(name)
        else:
            columns[name] = Column(numbers)
    if others:  # pandas' own metadata would make an index of a column, or fail
        texts = table.select(others)
        # threads take address space, which is what the memory is bounded by: see `_bounded`
        frame = from_pandas(texts.to_pandas(ignore_metadata=True, use_threads=False))
        columns |= frame.columns
    return Frame({name: columns[name] for name in table.column_names})


def _plain_numbers(column: ChunkedArray) -> NDArray[Any] | None:
    """Numbers of a column, NaN where there is none; None if it holds anything else.

    Arrow's own ways to NumPy load pandas, and that takes longer than to read a small file.
    """
    from pyarrow import compute, float64, scalar, types

    if not (types.is_integer(column.type) or types.is_floating(column.type)):
        return None
    array = column.combine_chunks()
    if array.null_count and types.is_integer(column.type):
        array = array.cast(float64(), safe=False)
    if array.null_count:
        array = compute.fill_null(array, scalar(math.nan, array.type))
    return np.from_dlpack(array)


def _tables(
    path: Path, file: ParquetFile, most_bytes: int, part_rows: int | None
) -> Iterator[Table]:
    """What a Parquet file holds, in tables of so many rows, as far as it is not too much."""
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
    pieces: list[RecordBatch] = []
    n_rows = size = 0
    told_of = False  # whether there was a part
    for piece in file.iter_batches(_PIECE, use_threads=False):
        columns = zip(piece.columns, coded, strict=True)
        texts = [column.dictionary_decode() if is_coded else column for column, is_coded in columns]
        pieces.append(RecordBatch.from_arrays(texts, schema=plain))
        n_rows += len(piece)
        size += pieces[-1].nbytes  # what it says of itself may be wrong
        if size > most_bytes:
            raise _too_large(path, f"{size:,} bytes or more once it is unpacked", most_bytes)
        if part_rows is not None and n_rows >= part_rows:
            yield Table.from_batches(pieces, plain)
            pieces, n_rows, told_of = [], 0, True
    if n_rows or not told_of:
        yield Table.from_batches(pieces, plain)


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
