"""Reads one table file: CSV with `;` or `,`, the same in .gz or .zip, and Parquet."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from wine_drift.errors import FileUnreadable, TableError

if TYPE_CHECKING:  # pandas is loaded by the first table, not by --help
    import pandas as pd

SUFFIXES = (".csv", ".gz", ".zip", ".parquet")
_LONGEST_HEADER = 1 << 20  # characters


def read_table(
    path: Path, *, text_column: str | None = None, keep_blank: bool = False
) -> pd.DataFrame:
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

    Returns
    -------
    DataFrame
        Column names as in the file, without spaces around them.

    Raises
    ------
    TableError
        Naming the file, the line where there is one, and what to do.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path)
        return _read_csv(path, text_column, keep_blank=keep_blank)
    except UnicodeDecodeError as error:
        problem = f"byte {error.object[error.start]:#04x} is not UTF-8 text"
        raise TableError(f"{path}: {problem}", remedy="save the file as UTF-8 CSV") from error
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise TableError(
            f"{path}: damaged compressed file: {error}", remedy="make or copy the file again"
        ) from error
    # What zipfile raises for a file that is encrypted, and for one packed by a method it has not:
    # both are the user's to mend.
    except (RuntimeError, NotImplementedError) as error:
        raise TableError(f"{path}: {error}", remedy="use a plain zip file") from error
    except OSError as error:
        raise FileUnreadable(
            f"{path}: {error.strerror or error}", remedy="check that the file is there and readable"
        ) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """The text of a CSV file, whatever it is packed in."""
    with contextlib.ExitStack() as stack:
        suffix = path.suffix.lower()
        raw: IO[bytes] | gzip.GzipFile
        if suffix == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(path))
            raw = stack.enter_context(archive.open(_csv_member(path, archive)))
        elif suffix == ".gz":
            raw = stack.enter_context(gzip.open(path))
        else:
            raw = stack.enter_context(path.open("rb"))
        text = io.TextIOWrapper(cast("IO[bytes]", raw), encoding="utf-8-sig", newline="")
        try:
            yield text
        finally:
            text.detach()


def _read_csv(path: Path, text_column: str | None, *, keep_blank: bool) -> pd.DataFrame:
    import pandas as pd

    with _opened(path) as text:
        header = text.readline(_LONGEST_HEADER)
        if "\0" in header:
            raise TableError(f"{path}: not a text file", remedy="give a CSV or Parquet file")
        separator = ";" if header.count(";") > header.count(",") else ","
        try:
            names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
        except csv.Error as error:
            raise TableError(f"{path}: line 1: {error}", remedy="give a CSV file") from error
        if not any(names):
            raise TableError(f"{path}: line 1 names no columns", remedy="start with a header line")
        _refuse_repeats(path, names)
        try:
            with warnings.catch_warnings():
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
            _refuse_ragged(path, len(names), separator)
            raise TableError(
                f"{path}: not a regular table: {' '.join(str(error).split())}",
                remedy="give every line as many cells as the header",
            ) from error
    last = frame[names[-1]]
    if (last.isna() | (last == "")).any():  # empty, or not there: pandas does not tell them apart
        _refuse_ragged(path, len(names), separator)
    return frame


def _refuse_ragged(path: Path, width: int, separator: str) -> None:
    """Find the first line that has more or fewer cells than the header."""
    with _opened(path) as text:
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


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow
    from pyarrow import parquet

    try:
        with path.open("rb") as file:  # a folder of parts is not one batch
            table = parquet.ParquetFile(file).read()
        # pandas' own metadata would make an index of a column, or fail
        frame = table.to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's own; without a number it is pyarrow's "damaged"
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise TableError(f"{path}: not a Parquet file: {detail}", remedy="write it anew") from error
    names = [str(name).strip() for name in frame.columns]
    _refuse_repeats(path, names)
    frame.columns = pd.Index(names)
    return cast("pd.DataFrame", frame)


def _csv_member(path: Path, archive: zipfile.ZipFile) -> str:
    """The one CSV in a zip file; what macOS adds beside it does not count."""
    members = [
        name
        for name in archive.namelist()
        if name.lower().endswith(".csv") and not PurePosixPath(name).name.startswith(".")
    ]
    if len(members) != 1:
        found = ", ".join(members[:5]) or "none"
        raise TableError(
            f"{path}: holds {len(members)} CSV files ({found})",
            remedy="put exactly one CSV file in the zip file",
        )
    return members[0]


def _refuse_repeats(path: Path, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TableError(
            f"{path}: column {repeated[0]!r} is there {names.count(repeated[0])} times",
            remedy="give every column its own name",
        )
