"""Reads one table file: CSV with `;` or `,`, the same in .gz or .zip, and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from wine_drift.errors import TableError

if TYPE_CHECKING:  # pandas is loaded by the first table, not by --help
    import pandas as pd

SUFFIXES = (".csv", ".gz", ".zip", ".parquet")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table file, every row and column of it, text left as text.

    Parameters
    ----------
    path : Path
        `*.parquet`, or CSV text with a header line, as it is, in `*.gz`, or as the only CSV in a
        `*.zip`. The separator, `;` or `,`, is the one that the header line holds more of.

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
        if path.suffix == ".parquet":
            return _read_parquet(path)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(_csv_member(path, archive)) as raw:
                return _read_csv(path, raw)
        if path.suffix == ".gz":
            with gzip.open(path) as raw:
                return _read_csv(path, raw)
        with path.open("rb") as raw:
            return _read_csv(path, raw)
    except UnicodeDecodeError as error:
        problem = f"byte {error.object[error.start]:#04x} is not UTF-8 text"
        raise TableError(f"{path}: {problem}", remedy="save the file as UTF-8 CSV") from error
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise TableError(
            f"{path}: damaged compressed file: {error}", remedy="make or copy the file again"
        ) from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile: encrypted, unknown method
        raise TableError(f"{path}: {error}", remedy="use a plain zip file") from error
    except OSError as error:
        raise TableError(
            f"{path}: {error.strerror or error}", remedy="check that the file is there and readable"
        ) from error


def _read_csv(path: Path, raw: IO[bytes] | gzip.GzipFile) -> pd.DataFrame:
    import pandas as pd

    text = io.TextIOWrapper(cast("IO[bytes]", raw), encoding="utf-8-sig", newline="")
    try:
        header = text.readline(1 << 20)
        if "\0" in header:
            raise TableError(f"{path}: not a text file", remedy="give a CSV or Parquet file")
        separator = ";" if header.count(";") > header.count(",") else ","
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
        if not any(names):
            raise TableError(f"{path}: line 1 names no columns", remedy="start with a header line")
        _refuse_repeats(path, names)
        try:
            frame = pd.read_csv(
                text, sep=separator, names=names, header=None, index_col=False, low_memory=False
            )
        except pd.errors.EmptyDataError:
            frame = pd.DataFrame({name: [] for name in names}, dtype=float)
        except pd.errors.ParserError as error:
            # pandas counts from the first line that it saw itself, which is our second
            raise TableError(
                f"{path}: not a regular table: {error} (not counting the header line)",
                remedy="give every line as many cells as the header",
            ) from error
        return frame
    except csv.Error as error:
        raise TableError(f"{path}: line 1: {error}", remedy="give a CSV file") from error
    finally:
        text.detach()


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (ValueError, KeyError, NotImplementedError) as error:  # pyarrow's errors are ValueErrors
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TableError(
            f"{path}: not a Parquet file: {detail}", remedy="write it again"
        ) from error
    names = [str(name).strip() for name in frame.columns]
    _refuse_repeats(path, names)
    frame.columns = pd.Index(names)
    return frame.reset_index(drop=True)


def _csv_member(path: Path, archive: zipfile.ZipFile) -> str:
    members = [name for name in archive.namelist() if name.lower().endswith(".csv")]
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
