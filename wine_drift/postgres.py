"""A ledger's database in PostgreSQL, for several hosts. The only importer of psycopg.

It offers the ledger the same as `sqlite.Sqlite`, and a lock for whoever writes. A ledger is one
schema of a database: the first of the connection's search_path.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from wine_drift.errors import AlreadyRunning, SettingsError, StateUnreadable
from wine_drift.failpoints import reached

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.pq import TransactionStatus
except ImportError as missing:  # psycopg, or libpq for it
    raise SettingsError(
        f"ledger: there is no driver for PostgreSQL: {missing}",
        remedy="pip install 'wine-drift[postgres]'",
    ) from missing

# What the address does not say otherwise: nobody waits for ever, not even where a host is gone.
_CONNECTING = {
    "connect_timeout": "10",  # seconds
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",  # milliseconds
    "application_name": "wine-drift",
    "client_encoding": "UTF8",
}
# The same for the server. The last four let it notice within a minute that a host is gone, and free
# its lock.
_SERVER = (
    "-c statement_timeout=300s -c lock_timeout=10s -c idle_in_transaction_session_timeout=300s"
    " -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
    " -c tcp_user_timeout=60s"
)
# One lock for each ledger: advisory locks are of one database, and a schema has a number there.
_KEY = (
    "(1464421957, (SELECT (oid::bigint - 2147483648)::int FROM pg_namespace"
    " WHERE nspname = current_schema()))"
)
# What SQLite has of its own: the number of the schema, and numbers that never come again. Sequences
# of PostgreSQL would leave gaps where a transaction was taken back.
_OWN = (
    "CREATE TABLE IF NOT EXISTS schema_number (number BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, last BIGINT NOT NULL)",
    "CREATE OR REPLACE FUNCTION next_number(of_table TEXT) RETURNS BIGINT LANGUAGE sql AS"
    " 'INSERT INTO numbers AS known VALUES (of_table, 1)"
    "  ON CONFLICT (name) DO UPDATE SET last = known.last + 1 RETURNING last'",
)
_OURS = (
    "('history', 'facts', 'batches', 'records', 'superseded', 'versions', 'detector', 'window',"
    " 'scored', 'cursors', 'counters', 'totals', 'numbers')"
)
# How words of SQLite's table definitions are said here. Texts are compared by their bytes.
_WORDS = (
    ("sequence INTEGER PRIMARY KEY AUTOINCREMENT", "sequence BIGINT PRIMARY KEY"),
    (
        "entry INTEGER PRIMARY KEY AUTOINCREMENT",
        "entry BIGINT PRIMARY KEY DEFAULT next_number('history')",
    ),
    (
        "number INTEGER PRIMARY KEY AUTOINCREMENT",
        "number BIGINT PRIMARY KEY DEFAULT next_number('window')",
    ),
    (" WITHOUT ROWID", ""),
    ("INTEGER", "BIGINT"),
    ("REAL", "DOUBLE PRECISION"),
    ("BLOB", "BYTEA"),
    ("TEXT", 'TEXT COLLATE "C"'),
    ("TABLE window", 'TABLE "window"'),
    ("ON window", 'ON "window"'),
)


class Postgres:
    """An open connection; `execute` takes a statement and its parameters, and gives rows."""

    restore = "restore the database from a backup of its own"

    def __init__(self, address: str, *, writes: bool) -> None:
        self.place = public(address)
        try:
            known = conninfo_to_dict(address)
        except psycopg.Error:  # whose words may repeat a password
            raise SettingsError(
                f"ledger {self.place}: not an address that PostgreSQL takes",
                remedy="write it like postgresql://host/database",
            ) from None
        self._secrets = [str(known[key]) for key in ("user", "password") if known.get(key)]
        with self.told():
            reached("ledger: connect")
            # of several servers, who writes needs the one that is no copy
            usual = {**_CONNECTING, "target_session_attrs": "read-write" if writes else "any"}
            wanted = known.get("options") or os.environ.get("PGOPTIONS", "")
            only = "" if writes else "-c default_transaction_read_only=on"
            more = {"options": f"{_SERVER} {wanted} {only}"}  # what comes later counts
            more |= {key: usual[key] for key in usual.keys() - known.keys()}
            info = make_conninfo(address, **more)
            self._connection = psycopg.connect(info, autocommit=True, prepare_threshold=None)
        try:
            with self.told():
                if self.execute("SHOW synchronous_commit").fetchone()[0] == "off":
                    self.execute("SET synchronous_commit = on")
                if self.execute("SELECT current_schema()").fetchone()[0] is None:
                    raise SettingsError(
                        f"ledger {self.place}: there is no schema of its search_path",
                        remedy="create the schema, or correct the address",
                    )
        except BaseException:
            self.close()
            raise

    @classmethod
    def writer(cls, address: str, *, wait: float) -> Postgres:
        """Connect to write, and hold the ledger's lock until the connection ends, however it does.

        Parameters
        ----------
        wait : float
            Seconds to wait for who holds it.

        Raises
        ------
        AlreadyRunning
            Another run held it all the time.
        """
        opened = cls(address, writes=True)
        try:
            with opened.told():
                reached("ledger: lock")
                held = opened._hold(wait)
            if not held:
                raise AlreadyRunning(
                    f"another run holds the lock of {opened.place}",
                    remedy="wait for it; nothing was done",
                )
        except BaseException:
            opened.close()
            raise
        return opened

    @classmethod
    def reader(cls, address: str) -> Postgres:
        """Connect to change nothing."""
        return cls(address, writes=False)

    def _hold(self, wait: float) -> bool:
        """Get the lock within so many seconds; those who wait get it in turn."""
        if wait <= 0:
            return bool(self.execute(f"SELECT pg_try_advisory_lock{_KEY}").fetchone()[0])
        self.execute("SET statement_timeout = 0")
        limit = "SELECT set_config('lock_timeout', ?, false)"
        self.execute(limit, (str(math.ceil(wait * 1000)),))  # milliseconds
        try:
            self.execute(f"SELECT pg_advisory_lock{_KEY}")
        except psycopg.errors.LockNotAvailable:
            return False
        self.execute("RESET statement_timeout")
        self.execute("RESET lock_timeout")
        return True

    def execute(self, query: str, values: Sequence[object] | None = None) -> Any:
        """Run a statement whose parameters are question marks."""
        return self._connection.execute(query.replace("?", "%s").encode(), values)

    def close(self) -> None:
        """End the connection, and with it the lock."""
        self._connection.close()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Tell what PostgreSQL says in the user's terms."""
        try:
            yield
        except psycopg.Error as error:
            remedy = self.restore
            if isinstance(error, psycopg.errors.UniqueViolation):
                remedy = "run it again; nothing was recorded"
            elif isinstance(error, psycopg.ProgrammingError):
                remedy = "see what its user may do there; nothing was lost"
            elif self.is_trouble(error):
                remedy = "see whether the server runs, lets us in and has room; nothing was lost"
            raise StateUnreadable(f"{self.place}: {self._words(error)}", remedy=remedy) from error

    @staticmethod
    def is_trouble(error: BaseException | None) -> bool:
        """Whether an error is one of the server or of rights, which says nothing of the ledger."""
        trouble = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.ProgrammingError)
        return isinstance(error, (OSError, *trouble))

    def _words(self, error: psycopg.Error) -> str:
        """What an error says, in one line, without user and password."""
        text = error.diag.message_primary or str(error).partition("\n")[0] or type(error).__name__
        text = re.sub(r'\b(user|role) "[^"]*"', r"the \1", text)
        for secret in self._secrets:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
        return text

    # --- transactions ---

    @property
    def in_transaction(self) -> bool:
        """Whether one was begun and not ended, on a connection that is alive."""
        state = self._connection.info.transaction_status
        return state in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def begin(self) -> None:
        """Begin to write; nobody else does so until the end.

        The lock of the connection sees to that already, unless a pooler in between hands out
        connections by the transaction.
        """
        self.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        self.execute(f"SELECT pg_advisory_xact_lock{_KEY}")

    def begin_reading(self) -> None:
        """Begin to read what is of one moment. Nobody waits."""
        self.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    # --- tables ---

    def prepare(self) -> None:
        """Nothing: each connection was prepared when it was made."""

    def schema(self) -> int:
        """Number of the schema; 0: there is none yet."""
        if not self._has("('schema_number')"):
            return 0
        return int(self.execute("SELECT number FROM schema_number").fetchone()[0])

    def set_schema(self, number: int) -> None:
        """Change the number of the schema."""
        self.execute("DELETE FROM schema_number")
        self.execute("INSERT INTO schema_number VALUES (?)", (number,))

    def has_tables(self) -> bool:
        """Whether somebody has made tables there whose names are ours; others are no matter."""
        return self._has(_OURS)

    def _has(self, tables: str) -> bool:
        query = (
            "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename IN "
        )
        return bool(self.execute(query + tables).fetchone()[0])

    def script(self, statements: str) -> None:
        """Make or change tables, which are defined in SQLite's words."""
        for own in _OWN:
            self.execute(own)
        for ours, here in _WORDS:
            statements = statements.replace(ours, here)
        for statement in statements.split(";"):
            if statement.strip():
                self.execute(statement)

    # --- keeping it safe and small ---

    def fault(self) -> str | None:
        """Nothing: the server looks after its files."""
        return None

    def size(self) -> tuple[int, int]:
        """Bytes of its tables and their indexes; what holds nothing is the server's business."""
        query = (
            "SELECT coalesce(sum(pg_total_relation_size(pg_class.oid)), 0) FROM pg_class"
            " JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            " WHERE nspname = current_schema() AND relkind = 'r'"
        )
        return int(self.execute(query).fetchone()[0]), 0

    def compact(self) -> None:
        """Nothing: the server does so by itself."""


def public(address: str) -> str:
    """An address as messages tell it: without user, password and options.

    >>> public("postgresql://me:secret@db.example:5433/wines?password=secret")
    'postgresql://db.example:5433/wines'
    """
    parts = urlsplit(address)
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
