"""A ledger's database as one file of a home, in SQLite. The only importer of sqlite3.

It offers the ledger the same as `postgres.Postgres`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wine_drift import files
from wine_drift.errors import StateUnreadable
from wine_drift.failpoints import reached

# What the system refuses says nothing of the file: SQLITE_PERM, BUSY, LOCKED, NOMEM, READONLY,
# IOERR, FULL, CANTOPEN; https://www.sqlite.org/rescode.html
_TROUBLE = frozenset({3, 5, 6, 7, 8, 10, 13, 14})


class Sqlite:
    """An open database; `execute` takes a statement and its parameters, and gives rows."""

    restore = "`wine-drift repair` restores the last backup, or start another --home"

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        connection.isolation_level = None  # transactions are begun and ended by name
        self._connection, self._path = connection, path
        self.place = str(path)  # as messages name it
        self.execute = connection.execute
        self.close = connection.close

    @classmethod
    def writer(cls, path: Path) -> Sqlite:
        """Open a file to change it, and make it if need be."""
        with told(path):
            files.make_folder(path.parent)
            path.touch(mode=files.OWN)
            reached("ledger: open")
            return cls(sqlite3.connect(path, timeout=10), path)

    @classmethod
    def reader(cls, path: Path) -> Sqlite:
        """Open a file to change nothing but what a killed run left half-written.

        SQLite's own read-only mode cannot take back such a half, and then refuses to read at all.
        """
        with told(path):
            if not path.is_file() or path.stat().st_size == 0:  # empty: killed while it was made
                return cls.memory(path)
            writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
            uri = f"{path.absolute().as_uri()}?mode={'rw' if writable else 'ro'}"
            opened = cls(sqlite3.connect(uri, uri=True, timeout=10), path)
            opened.execute("PRAGMA query_only = ON")
        return opened

    @classmethod
    def memory(cls, path: Path) -> Sqlite:
        """What stands for a ledger that is not there: an empty one, of which nothing stays."""
        return cls(sqlite3.connect(":memory:"), path)

    @staticmethod
    def salvage(path: Path, query: str, values: Sequence[object]) -> list[Any] | None:
        """Rows of a damaged file as it lies there; None if they cannot be read."""
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
                return connection.execute(query, values).fetchall()
        except sqlite3.DatabaseError:
            return None

    def told(self) -> contextlib.AbstractContextManager[None]:
        """Tell what SQLite says in the user's terms."""
        return told(self._path)

    @staticmethod
    def is_trouble(error: BaseException | None) -> bool:
        """Whether an error is one of the system, which says nothing of the file."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return isinstance(error, OSError) or code in _TROUBLE

    # --- transactions ---

    @property
    def in_transaction(self) -> bool:
        """Whether one was begun and not ended."""
        return self._connection.in_transaction

    def begin(self) -> None:
        """Begin to write; nobody else does so until the end."""
        self.execute("BEGIN IMMEDIATE")

    def begin_reading(self) -> None:
        """Begin to read what is of one moment. Writers wait for the end."""
        self.execute("BEGIN")

    # --- tables ---

    def prepare(self) -> None:
        """See that what is committed is on the disk."""
        self.execute("PRAGMA synchronous = FULL")
        # Debian's SQLite fills what it frees with zeros, which means to write it twice more.
        self.execute("PRAGMA secure_delete = OFF")

    def schema(self) -> int:
        """Number of the schema; 0: there is none yet."""
        return int(self.execute("PRAGMA user_version").fetchone()[0])

    def set_schema(self, number: int) -> None:
        """Change the number of the schema."""
        self.execute(f"PRAGMA user_version = {number:d}")

    def has_tables(self) -> bool:
        """Whether somebody has made tables there."""
        return bool(self.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    def script(self, statements: str) -> None:
        """Make or change tables."""
        for statement in statements.split(";"):
            self.execute(statement)

    # --- keeping it safe and small ---

    def fault(self) -> str | None:
        """What SQLite's own check of the file finds; None: nothing."""
        found = str(self.execute("PRAGMA integrity_check(1)").fetchone()[0])
        return None if found == "ok" else found

    def copy(self, target: Path) -> None:
        """Copy all of it to a file, which is not synced."""
        with contextlib.closing(sqlite3.connect(target)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")  # it is synced as a whole
            copy.execute("PRAGMA synchronous = OFF")
            self._connection.backup(copy)

    def size(self) -> tuple[int, int]:
        """Bytes of the file, and how many of them hold nothing."""
        page, pages, free = (
            self.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        return page * pages, page * free

    def compact(self) -> None:
        """Write the file anew without what holds nothing; needs as much room again."""
        self.execute("VACUUM")


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell what SQLite, or the system, says of a file in the user's terms."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "decode" in str(error):  # and all that could not be
            text = f"{path}: a text in it is damaged"
            raise StateUnreadable(text, remedy=Sqlite.restore) from error
        raise StateUnreadable(
            f"{path}: {error}", remedy="check the folder's rights and free space; nothing was lost"
        ) from error
    except sqlite3.DatabaseError as error:
        raise StateUnreadable(f"{path}: {error}", remedy=Sqlite.restore) from error
    except OSError as error:
        raise StateUnreadable(
            f"{path}: {error.strerror}",
            remedy="check rights and free space, or name another folder with --home",
        ) from error
