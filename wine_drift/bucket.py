"""Folders of versions where only fsspec reaches: object stores and the like. Its only importer.

Nothing there is renamed or locked. A folder is written once, its manifest last; the ledger names it
only after that, and whoever reads it holds each file against the ledger's hashes.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping

from wine_drift.errors import SettingsError
from wine_drift.failpoints import reached

try:
    import fsspec
except ImportError as missing:
    raise SettingsError(
        "models: a URL needs fsspec", remedy="pip install 'wine-drift[remote]', or name a folder"
    ) from missing


class Bucket:
    """A place for folders of files; every trouble there comes as an OSError.

    Parameters
    ----------
    url : str
        As fsspec takes it, such as s3://bucket/models. What it needs to get in it finds by itself.

    Raises
    ------
    SettingsError
        There is no such file system, or its library is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f"models {url}: {error}", remedy="install its library, or name another place"
            ) from error
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def write(self, folder: str, contents: Mapping[str, bytes]) -> None:
        """Write files one after the other, in place of older ones."""
        with self._told(folder):
            self._files.makedirs(f"{self._root}/{folder}", exist_ok=True)
            for name, content in contents.items():
                reached("version, a file: write")
                self._files.pipe_file(f"{self._root}/{folder}/{name}", content)
        reached("version: done")

    def read(self, folder: str, name: str) -> bytes:
        """Read one file."""
        with self._told(f"{folder}/{name}"):
            return bytes(self._files.cat_file(f"{self._root}/{folder}/{name}"))

    def folders(self) -> list[str]:
        """Names of all folders."""
        return self._names(self._root, "directory")

    def files(self, folder: str) -> list[str]:
        """Names of all files of a folder."""
        return self._names(f"{self._root}/{folder}", "file")

    def _names(self, path: str, kind: str) -> list[str]:
        with self._told(""):
            self._files.invalidate_cache()  # other hosts write there, too
            try:
                found = self._files.ls(path, detail=True)
            except FileNotFoundError:
                return []
        return [
            each["name"].rstrip("/").rpartition("/")[2] for each in found if each["type"] == kind
        ]

    def remove(self, folder: str) -> None:
        """Remove a folder with all that is in it, or a file; none is fine."""
        with self._told(folder), contextlib.suppress(FileNotFoundError):
            self._files.rm(f"{self._root}/{folder}", recursive=True)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such file", f"{self._url}/{name}") from error
        except Exception as error:  # each library has its own
            said = " ".join(str(error).split()) or type(error).__name__
            raise OSError(errno.EIO, said, f"{self._url}/{name}") from error
