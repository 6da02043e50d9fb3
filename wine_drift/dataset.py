"""The table and its schema: where they are, and how red wine comes from its publisher."""

from __future__ import annotations

import hashlib
import tomllib
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from wine_drift import files
from wine_drift.errors import SettingsError
from wine_drift.failpoints import reached
from wine_drift.schema import Schema, parse_schema

URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/wine-quality/winequality-red.csv"
SHA256 = "4a402cf041b025d4566d954c3b9ba8635a3a8a01e039005d97d6a710278cf05e"
FILE_NAME = "winequality-red.csv"
_MOST = 1 << 20  # bytes, of which the table has 84,199
_PATIENCE = 30.0  # seconds without a byte


def packaged_text(name: str) -> str:
    """Text of a data file that ships inside the package."""
    return resources.files("wine_drift").joinpath("data", name).read_text(encoding="utf-8")


def load_schema(path: Path | None) -> Schema:
    """The schema of a TOML file; red wine where none is named.

    Raises
    ------
    SettingsError
        The file cannot be read, or one line for every mistake in it.
    """
    if path is None:
        return parse_schema(tomllib.loads(packaged_text("red_wine.toml")))
    try:
        table = tomllib.loads(files.read_small(path).decode())
    except OSError as error:
        raise SettingsError(
            f"schema {path}: {error.strerror}", remedy="correct --schema"
        ) from error
    except ValueError as error:
        raise SettingsError(
            f"schema {path}: not a TOML file: {error}", remedy="correct the file"
        ) from error
    try:
        return parse_schema(table)
    except ValueError as error:
        lines = "\n".join(f"schema {path}: {line}" for line in str(error).splitlines())
        raise SettingsError(lines, remedy="correct the file") from error


def find_table(data: Path | None, home: Path) -> Path | None:
    """The table to train on and to stream: the one named, else the one fetched, else None.

    Raises
    ------
    SettingsError
        A table was named and is not there. One that was never named is never missed.
    """
    if data is not None:
        if not data.is_file():
            raise SettingsError(f"data: no file {data}", remedy="correct --data or WINE_DRIFT_DATA")
        return data
    fetched = home / "data" / FILE_NAME
    return fetched if fetched.is_file() else None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(home: Path, *, url: str = URL) -> Path:
    """Download the UCI red-wine table into the home folder, unless it is there already.

    The file gets its name only after its SHA-256 was checked.

    Source: P. Cortez et al. (2009), UCI Machine Learning Repository, doi:10.24432/C56S3T,
    CC BY 4.0.

    Raises
    ------
    SettingsError
        The address does not answer, or what it sends is not the table.
    """
    path = home / "data" / FILE_NAME
    if path.is_file() and file_sha256(path) == SHA256:
        return path
    place = _place(url)
    if place is None:
        shown = url.rpartition("@")[2].partition("?")[0]
        raise SettingsError(f"{shown}: not an address", remedy="give one that starts with https://")
    try:
        files.make_folder(path.parent)  # before anything is asked for in vain
        content = _received(url)
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise SettingsError(
                f"{place}: what it sent is not the table: its SHA-256 is not {SHA256[:12]}…",
                remedy="nothing was kept; try again, or name a copy with --data",
            )
        with files.whole(path, "fetch") as file:
            file.write(content)
    except (OSError, TypeError) as error:  # of requests, too; a proxy without a host
        raise SettingsError(
            f"{place}: {_reason(error)}",
            remedy="try again, or name a copy of the table with --data or WINE_DRIFT_DATA",
        ) from error
    return path


def _received(url: str) -> bytes:
    """What an address sends, up to a length that the table does not have."""
    import requests

    reached("fetch: send")
    with requests.get(url, timeout=_PATIENCE, stream=True) as response:
        response.raise_for_status()
        content = b""
        for part in response.iter_content(1 << 16):
            content += part
            if len(content) > _MOST:
                break
        return content


def _place(url: str) -> str | None:
    """An address without what may be secret in it: user, password, query; None if it is none.

    >>> _place("https://me:secret@data.example:8443/red.csv?token=secret")
    'https://data.example:8443/red.csv'
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not match
        return None
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if usable else None


def _reason(error: BaseException) -> str:
    """The innermost cause: requests wraps the interesting one several times.

    An answer is told by its status alone, as the words of requests repeat the whole address.
    """
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__
