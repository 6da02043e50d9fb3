"""The ledger is the truth: one transaction a batch, in SQLite or PostgreSQL. All SQL is here.

What is not committed did not happen; what is committed happened once, whatever crashed. Nothing
that is published is overwritten: each transaction is an entry of the history, and facts, totals and
records keep the entry that they date from. So what was published can be told as of any entry that
is kept. That a batch was done is known for ever, its record only as long as the history.

Each statement is written so that both databases take it; what differs is behind `sqlite.Sqlite`
and `postgres.Postgres`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wine_drift import files
from wine_drift.errors import AlreadyRunning, StateUnreadable
from wine_drift.failpoints import reached
from wine_drift.policy import FORCED, LOOP_BATCHES, MANUAL, Change
from wine_drift.snapshot import Labels, Snapshot
from wine_drift.sqlite import Sqlite, told

if TYPE_CHECKING:
    from wine_drift.postgres import Postgres
    from wine_drift.rows import LabelledRows, Lot, ScoredRows, Shard

LEDGER = "ledger.sqlite"
SCHEMA_VERSION = 7
BACKUPS = "backups"  # folder of a home
OLD_SCHEMAS = "ledger-schema-*.sqlite"  # copies that were made before a migration
_BACKUPS = ("ledger-1.sqlite", "ledger-2.sqlite")  # the newest first
_NEWEST = 2**63 - 1  # beyond every entry
_ENTRY = "(SELECT max(entry) FROM history)"  # of the transaction in hand
_STRIDE = 64  # entries after which the oldest are forgotten
# As SQLite has it; `Postgres.script` puts it into the words of the other.
_SCHEMA = """
CREATE TABLE history (entry INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL);
CREATE TABLE facts (
    name TEXT NOT NULL, entry INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name, entry)
) WITHOUT ROWID;
CREATE TABLE batches (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    entry INTEGER NOT NULL,
    content_id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    labelled INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('processed', 'quarantined'))
);
CREATE INDEX labelled_batches ON batches (sequence, labelled) WHERE labelled > 0;
CREATE INDEX batches_by_entry ON batches (entry);
CREATE TABLE records (sequence INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE superseded (
    sequence INTEGER NOT NULL, until INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (sequence, until)
);
CREATE TABLE versions (
    number INTEGER PRIMARY KEY,
    version TEXT NOT NULL UNIQUE,
    learnt INTEGER NOT NULL,
    pruned INTEGER NOT NULL DEFAULT 0,
    manifest TEXT NOT NULL
);
CREATE TABLE detector (version TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE window (
    number INTEGER PRIMARY KEY AUTOINCREMENT, sequence INTEGER NOT NULL,
    n_rows INTEGER NOT NULL, n_positive INTEGER NOT NULL, rows BLOB NOT NULL, shards TEXT
);
CREATE INDEX window_by_batch ON window (sequence, n_rows);
CREATE TABLE scored (
    sequence INTEGER PRIMARY KEY, n_rows INTEGER NOT NULL, n_waiting INTEGER NOT NULL,
    trusted INTEGER NOT NULL, rows BLOB NOT NULL
);
CREATE INDEX scored_by_batch ON scored (sequence, n_rows, n_waiting);
CREATE TABLE cursors (
    stream TEXT PRIMARY KEY, seed INTEGER NOT NULL, position INTEGER NOT NULL,
    number INTEGER NOT NULL
);
CREATE TABLE counters (
    counter INTEGER PRIMARY KEY, name TEXT NOT NULL, labels TEXT NOT NULL, UNIQUE (name, labels)
);
CREATE TABLE totals (
    counter INTEGER NOT NULL, entry INTEGER NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (counter, entry)
) WITHOUT ROWID;
"""
# What brings a ledger of each schema to the next one. Schema 4 was the first that was released.
_MIGRATIONS = {
    4: """
CREATE TABLE records (sequence INTEGER PRIMARY KEY, record TEXT NOT NULL);
INSERT INTO records SELECT sequence, record FROM batches;
CREATE TABLE new_batches (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    entry INTEGER NOT NULL,
    content_id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    labelled INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('processed', 'quarantined'))
);
INSERT INTO new_batches SELECT sequence, entry, content_id, at, labelled, outcome FROM batches;
DROP TABLE batches;
ALTER TABLE new_batches RENAME TO batches;
CREATE INDEX labelled_batches ON batches (sequence, labelled) WHERE labelled > 0;
CREATE INDEX batches_by_entry ON batches (entry);
DROP INDEX window_by_batch;
CREATE INDEX window_by_batch ON window (sequence, n_rows);
CREATE INDEX scored_by_batch ON scored (sequence, n_rows, n_waiting);
""",
    5: "",  # `ScoredRows` are packed in another way, which a release of that time cannot read
    6: "ALTER TABLE window ADD COLUMN shards TEXT",
}


class _OtherRelease(StateUnreadable):
    """It is of another release, which is no damage."""


@dataclass(frozen=True)
class Cursor:
    """How far a stream was read."""

    stream: str  # what identifies the table, or the simulation
    seed: int  # of its order, for as long as the stream lasts
    position: int  # rows taken, those of the training part included
    number: int  # batches taken


@dataclass(frozen=True)
class Bounds:
    """How much is kept."""

    window_rows: int  # labelled rows to learn from
    window_age: int  # batches after which rows are forgotten, labelled or not
    waiting_rows: int  # scored rows whose labels may still come


@dataclass(frozen=True)
class Commit:
    """Everything that one batch changes, or its late labels; it is written in one transaction."""

    content_id: str
    outcome: str  # processed | quarantined
    record: Mapping[str, Any]
    at: float  # Unix time
    run: Mapping[str, Any] | None = None  # as in Snapshot.run; None: late labels are no run
    sequence: int | None = None  # of the batch whose labels these are; None: it is a new batch
    counters: Mapping[tuple[str, Labels], float] = field(default_factory=dict)
    cursor: Cursor | None = None
    detector: tuple[str, Mapping[str, Any]] | None = None  # version, state
    retired: tuple[str, Mapping[str, Any]] | None = None  # the same of the one that was replaced
    labelled: Lot | None = None
    scored: ScoredRows | None = None  # what late labels are held against
    trusted: bool = True  # whether these rows are something to learn from
    decision: Mapping[str, Any] | None = None  # as in the record
    change: Change | None = None  # that retraining is at work on
    retraining: Mapping[str, Any] | None = None  # what was tried, as in the record
    forget_since: int | None = None  # labelled rows from this batch on are nothing to learn from
    promoted: Mapping[str, Any] | None = None  # manifest of the new champion


class Ledger:
    """An open ledger."""

    def __init__(
        self,
        connection: Sqlite | Postgres,
        home: Path,
        now: Callable[[], float],
        keep_history: int | None,
    ) -> None:
        self._connection = connection
        self._home = home
        self._now = now
        self._keep_history = keep_history
        self._newest = 0  # entry of the history when this one began, or wrote

    @staticmethod
    def exists(home: Path, address: str | None = None) -> bool:
        """Whether a home has a ledger, or had one of which there is a backup.

        Raises
        ------
        StateUnreadable, SettingsError
            Its server does not tell; see `open`.
        """
        if address is None:
            return (home / LEDGER).is_file() or any(map(_is_there, _backups(home)))
        connection = _postgres().reader(address)
        try:
            with connection.told():
                return connection.schema() > 0
        finally:
            connection.close()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        home: Path,
        address: str | None = None,
        *,
        read_only: bool = False,
        now: Callable[[], float] = time.time,
        keep_history: int | None = None,
        lock_wait: float = 0.0,
    ) -> Iterator[Ledger]:
        """Open the ledger of a home, and make it, or bring it up to this release, if need be.

        With an `address` it is in PostgreSQL, and whoever opens it there to write holds its lock,
        after having waited `lock_wait` seconds for it at most. With `read_only` nothing is made or
        changed: a ledger that is not there reads as empty. `now` dates what is written, in Unix
        time. With `keep_history` older entries than so many are forgotten, some after each commit.

        Raises
        ------
        StateUnreadable
            The file is damaged, gone though there is a backup of it, or of a newer release; or the
            server cannot be reached.
        AlreadyRunning
            Another run holds the lock in PostgreSQL.
        SettingsError
            The address or the driver is no good.
        """
        connection: Sqlite | Postgres
        if address is None:
            path = home / LEDGER
            with told(path):
                gone = not _is_there(path) and any(_is_there(each) for each in _backups(home))
            if gone:
                raise StateUnreadable(
                    f"{path}: it is gone; a backup is there", remedy=Sqlite.restore
                )
            connection = Sqlite.reader(path) if read_only else Sqlite.writer(path)
        elif read_only:
            connection = _postgres().reader(address)
        else:
            connection = _postgres().writer(address, wait=lock_wait)
        ledger = cls(connection, home, now, keep_history)
        try:
            with ledger._connection.told():
                ledger._prepare(read_only=read_only)
                ledger._newest = ledger._one("SELECT max(entry) FROM history") or 0
            yield ledger
        finally:
            ledger._connection.close()

    @property
    def embedded(self) -> bool:
        """Whether it is a file of its home; else its backups are those of its server."""
        return isinstance(self._connection, Sqlite)

    @property
    def place(self) -> str:
        """Where it is, as messages tell: without a user or password."""
        return self._connection.place

    def _prepare(self, *, read_only: bool) -> None:
        connection = self._connection
        connection.prepare()
        found = connection.schema()
        if found > SCHEMA_VERSION:
            raise _OtherRelease(
                f"{self.place}: schema {found}, from a newer release than this ({SCHEMA_VERSION})",
                remedy="upgrade wine-drift; nothing was changed",
            )
        if 0 < found < min(_MIGRATIONS):
            raise _OtherRelease(
                f"{self.place}: schema {found}, from before the first release",
                remedy="start another --home; nothing was changed",
            )
        if found == 0 and self._is_foreign():
            empty = "name an empty schema, or another database"
            raise StateUnreadable(
                f"{self.place}: it is no ledger",
                remedy=connection.restore if self.embedded else empty,
            )
        if 0 < found < SCHEMA_VERSION and read_only:
            raise _OtherRelease(
                f"{self.place}: schema {found}, from an older release than this ({SCHEMA_VERSION})",
                remedy="the next run brings it up to date, `wine-drift push` does so now",
            )
        if 0 < found < SCHEMA_VERSION:
            if self.embedded:
                self._copy(self._home / BACKUPS / OLD_SCHEMAS.replace("*", str(found)))
            with self._transaction():
                for schema in range(connection.schema(), SCHEMA_VERSION):
                    connection.script(_MIGRATIONS[schema])
                connection.set_schema(SCHEMA_VERSION)
        if found == 0 and read_only:  # none; or what made it was cut short, and is taken back now
            connection.close()
            self._connection = connection = Sqlite.memory(self._home / LEDGER)
        if found == 0:
            with self._transaction():
                if connection.schema() == 0:  # else another process was faster
                    connection.script(_SCHEMA)
                    connection.set_schema(SCHEMA_VERSION)

    def _is_foreign(self) -> bool:
        """Whether what has no schema number is more than a ledger that is just being made."""
        gone = self.embedded and any(map(_is_there, _backups(self._home)))
        return gone or self._connection.has_tables()

    # --- reading ---

    @property
    def newest(self) -> int:
        """Entry of the history that was the last one when this was opened, or that it wrote; 0."""
        return self._newest

    def batch(self, content_id: str) -> dict[str, Any] | None:
        """Record of a batch by its content, processed or quarantined; None if it is new.

        Of one whose record is forgotten there are the outcome, the id and the number.
        """
        with self._connection.told():
            row = self._connection.execute(
                "SELECT sequence, outcome, record FROM batches LEFT JOIN records USING (sequence)"
                " WHERE content_id = ?",
                (content_id,),
            ).fetchone()
        if row is None or row[2] is not None:
            return None if row is None else self._batch_record(row[2])
        return {"outcome": row[1], "batch": {"id": content_id[:12], "sequence": row[0]}}

    def find(self, run: str) -> dict[str, Any] | None:
        """Record of a processed batch by its number or the start of its id; "" is the last one.

        None if there is no such batch, or more than one.
        """
        processed = (
            "SELECT record FROM batches JOIN records USING (sequence) WHERE outcome = 'processed'"
        )
        if not run:
            return self._json(f"{processed} ORDER BY sequence DESC LIMIT 1")
        if run.isdecimal() and len(run) < 7:
            return self._json(f"{processed} AND sequence = ?", int(run))
        if not set(run) <= set("0123456789abcdef"):
            return None
        with self._connection.told():
            rows = self._connection.execute(
                f"{processed} AND content_id >= ? AND content_id < ? LIMIT 2", (run, run + "g")
            ).fetchall()
        return self._batch_record(rows[0][0]) if len(rows) == 1 else None

    def last_run(self) -> dict[str, Any] | None:
        """What was told of the last run, as in Snapshot.run; None before the first."""
        run: dict[str, Any] | None = self._fact("run")
        return run

    def next_sequence(self) -> int:
        """Number that the next batch will get."""
        return int(self._one("SELECT coalesce(max(sequence), 0) + 1 FROM batches") or 1)

    def records(self, limit: int) -> list[dict[str, Any]]:
        """Records of the last batches, oldest first."""
        with self._connection.told():
            rows = self._connection.execute(
                "SELECT record FROM records ORDER BY sequence DESC LIMIT ?", (limit,)
            ).fetchall()
        return [self._batch_record(row[0]) for row in reversed(rows)]

    def before(self, sequence: int, *, labelled: bool = False) -> Iterator[dict[str, Any]]:
        """Records of processed batches before that number, newest first; or of those with labels.

        One is read at a time.
        """
        only = " AND labelled > 0" if labelled else ""
        found: int | None = sequence
        while found is not None:
            with self._connection.told():
                row = self._connection.execute(
                    "SELECT sequence, record FROM records JOIN batches USING (sequence)"
                    f" WHERE sequence < ? AND outcome = 'processed'{only}"
                    " ORDER BY sequence DESC LIMIT 1",
                    (found,),
                ).fetchone()
            found = None if row is None else row[0]
            if row is not None:
                yield self._batch_record(row[1])

    def past(self, limit: int, *, since: float = 0.0) -> list[dict[str, Any]]:
        """The last events from a Unix time on, oldest first: batches, and changes of the champion.

        Each has `at`, the `record` of a batch or None, the `champion` that took over or None, and
        `why` it did: the reason in its manifest, or "rollback" where one serves that was there.
        """
        with self._connection.told():
            batches = self._connection.execute(
                "SELECT entry, batches.at, record FROM batches JOIN records USING (sequence)"
                " WHERE batches.at >= ? ORDER BY sequence DESC LIMIT ?",
                (since, limit),
            ).fetchall()
            champions = self._connection.execute(
                "SELECT entry, at, value FROM facts JOIN history USING (entry)"
                " WHERE name = 'champion' AND at >= ? ORDER BY entry DESC LIMIT ?",
                (since, limit),
            ).fetchall()
        events = {
            entry: {"at": at, "record": None, "champion": v, "why": self._why(v, entry)}
            for entry, at, v in champions
        }
        for entry, at, text in batches:
            event = events.setdefault(entry, {"at": at, "champion": None, "why": None})
            event["record"] = self._batch_record(text)
        return [events[entry] for entry in sorted(events)[-limit:]]

    def timed_records(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """All records and the Unix time of each batch, oldest first.

        Few are held at a time, and no run waits for who reads them.
        """
        last: int | None = 0
        while last is not None:
            with self._connection.told():
                rows = self._connection.execute(
                    "SELECT sequence, at, record FROM records JOIN batches USING (sequence)"
                    " WHERE sequence > ? ORDER BY sequence LIMIT 200",
                    (last,),
                ).fetchall()
            last = rows[-1][0] if rows else None
            for _, at, record in rows:
                yield at, self._batch_record(record)

    def versions(self) -> list[dict[str, Any]]:
        """Manifests of all versions, oldest first."""
        with self._connection.told():
            rows = self._connection.execute("SELECT manifest FROM versions ORDER BY number")
            return [self._parsed(row[0]) for row in rows]

    def next_version(self) -> int:
        """Number that the next version will get."""
        return int(self._one("SELECT coalesce(max(number), 0) + 1 FROM versions"))

    def champion(self) -> dict[str, Any] | None:
        """Manifest of the champion, or None before the first training."""
        version = self._known("champion")
        manifest = self._manifest(version)
        if version is not None and manifest is None:
            raise StateUnreadable(
                f"{self.place}: no version {version}", remedy=self._connection.restore
            )
        return manifest

    def champion_since(self) -> int:
        """Number of the batch at which one champion took over from another; 0: none did yet."""
        return int(self._known("swapped") or 0)

    def champion_at(self) -> float | None:
        """When the champion took over, as Unix time; None if that is forgotten."""
        at: float | None = self._one(
            "SELECT at FROM facts JOIN history USING (entry) WHERE name = 'champion'"
            " ORDER BY entry DESC LIMIT 1"
        )
        return at

    def learnt(self, version: str | None = None) -> int:
        """Entry of the window up to which a version has learnt; None: the champion.

        What was labelled later is new to it, whatever batch it belongs to.
        """
        wanted = version or self._known("champion")
        return int(self._one("SELECT learnt FROM versions WHERE version = ?", wanted) or 0)

    def change(self) -> Change | None:
        """The change that retraining is at work on."""
        return Change.from_dict(self._fact("change"))

    def detector(self, version: str) -> dict[str, Any] | None:
        """State of a version's detector; None before its first batch."""
        return self._json("SELECT state FROM detector WHERE version = ?", version)

    def cursor(self, stream: str) -> Cursor | None:
        """How far a stream was read; None if it never was."""
        with self._connection.told():
            row = self._connection.execute(
                "SELECT stream, seed, position, number FROM cursors WHERE stream = ?", (stream,)
            ).fetchone()
        return None if row is None else Cursor(*row)

    def labelled_rows(
        self, n_features: int, *, after: int, most: int | None = None
    ) -> LabelledRows:
        """Labelled rows of the window's entries after number `after`, oldest first.

        With `most`, no more entries than hold so many, those of the newest batches. Rows in shards
        are none of these.
        """
        from wine_drift.rows import concatenate

        with self._connection.told():
            found = self._connection.execute(
                'SELECT number, n_rows FROM "window" WHERE number > ? AND shards IS NULL'
                " ORDER BY sequence DESC, number DESC",
                (after,),
            ).fetchall()
        chosen, n_kept = [], 0
        for number, n_rows in found:
            if most is not None and n_kept >= most:
                break
            chosen.append(number)
            n_kept += n_rows
        return concatenate(map(self._labelled, sorted(chosen)), n_features)

    def labelled_parts(self, *, after: int) -> Iterator[LabelledRows]:
        """The same entry by entry, so that not all need be held."""
        with self._connection.told():
            found = self._connection.execute(
                'SELECT number FROM "window" WHERE number > ? AND shards IS NULL ORDER BY number',
                (after,),
            ).fetchall()
        for (number,) in found:
            yield self._labelled(number)

    def _labelled(self, number: int) -> LabelledRows:
        from wine_drift.rows import LabelledRows

        blob = self._one('SELECT rows FROM "window" WHERE number = ?', number)
        rows: LabelledRows = self._rows(LabelledRows.from_bytes, blob)
        return rows

    def shards(self, *, after: int = 0) -> tuple[Shard, ...]:
        """Files that hold rows of the window's entries after number `after`, oldest first."""
        with self._connection.told():
            found = self._connection.execute(
                'SELECT shards FROM "window" WHERE number > ? AND shards IS NOT NULL'
                " ORDER BY number",
                (after,),
            ).fetchall()
        return tuple(shard for (text,) in found for shard in self._shards(self._parsed(text)))

    def claimed_shards(self) -> dict[str, Shard]:
        """Files of rows by name that the window, or a version whose files are kept, claims."""
        found = (
            *self.shards(),
            *(each for m in self._sharded() for each in self._shards(m["shards"])),
        )
        return {shard.name: shard for shard in found}

    def shard_names(self) -> set[str]:
        """Names of these."""
        with self._connection.told():
            texts = self._connection.execute(
                'SELECT shards FROM "window" WHERE shards IS NOT NULL'
            ).fetchall()
        lists = [self._parsed(text) for (text,) in texts]
        return {
            each[0]
            for shards in (*lists, *(m["shards"] for m in self._sharded()))
            for each in shards
        }

    def _sharded(self) -> list[dict[str, Any]]:
        """Manifests of the versions that claim files of rows."""
        with self._connection.told():
            rows = self._connection.execute(
                "SELECT manifest FROM versions WHERE pruned = 0 AND manifest LIKE ?",
                ('%"shards": %',),
            ).fetchall()
        manifests = (self._parsed(row[0]) for row in rows)
        return [manifest for manifest in manifests if "shards" in manifest]

    def window_sizes(self, *, after: int = 0) -> dict[int, int]:
        """Rows of each batch, by its number, in the window's entries after number `after`."""
        with self._connection.told():
            found = self._connection.execute(
                'SELECT sequence, sum(n_rows) FROM "window" WHERE number > ?'
                " GROUP BY sequence ORDER BY sequence",
                (after,),
            ).fetchall()
        return {sequence: int(n_rows) for sequence, n_rows in found}

    def labelled_counts(self, *, after: int) -> tuple[int, int]:
        """Labelled rows, and positive ones, of the window's entries after number `after`."""
        with self._connection.told():
            n_rows, n_positive = self._connection.execute(
                'SELECT coalesce(sum(n_rows), 0), coalesce(sum(n_positive), 0) FROM "window"'
                " WHERE number > ?",
                (after,),
            ).fetchone()
        return int(n_rows), int(n_positive)

    def window_batches(self, *, since: int, after: int = 0) -> set[int]:
        """Numbers of the batches, from `since` on, of the window's entries after number `after`."""
        with self._connection.told():
            rows = self._connection.execute(
                'SELECT DISTINCT sequence FROM "window" WHERE sequence >= ? AND number > ?',
                (since, after),
            )
            return {row[0] for row in rows}

    def labelled_since(self, sequence: int) -> int:
        """Labelled rows of the batch of that number and of all later ones, kept or not."""
        query = (
            "SELECT coalesce(sum(labelled), 0) FROM batches WHERE labelled > 0 AND sequence >= ?"
        )
        return int(self._one(query, sequence))

    def scored(self, sequence: int) -> tuple[ScoredRows, bool] | None:
        """Rows of a batch whose labels may come, and whether they are to be learnt from.

        None if the batch is too old.
        """
        from wine_drift.rows import ScoredRows

        with self._connection.told():
            row = self._connection.execute(
                "SELECT rows, trusted FROM scored WHERE sequence = ?", (sequence,)
            ).fetchone()
        return None if row is None else (self._rows(ScoredRows.from_bytes, row[0]), bool(row[1]))

    def processed_at(self, sequence: int) -> float:
        """When a batch was recorded, as Unix time."""
        return float(self._one("SELECT at FROM batches WHERE sequence = ?", sequence))

    def history(self) -> list[tuple[int, float]]:
        """Every entry, oldest first, and its Unix time."""
        with self._connection.told():
            return self._connection.execute(
                "SELECT entry, at FROM history ORDER BY entry"
            ).fetchall()

    def n_before(self, keep: int) -> int:
        """Entries before the last `keep`, which `forget_history` forgets."""
        return int(self._one("SELECT count(*) FROM history WHERE entry < ?", self._floor(keep)))

    def _floor(self, keep: int) -> int:
        """The oldest entry that is still to be told of."""
        return int(self._one("SELECT coalesce(max(entry), 0) FROM history")) - keep

    def forgotten(self, entry: int) -> bool:
        """Whether an entry is no longer kept, so that what it says now is not what it said."""
        return entry < int(self._one("SELECT coalesce(min(entry), 0) FROM history"))

    def snapshot(self, entry: int | None = None) -> Snapshot:
        """What is published, or what was as of an entry of the history.

        It is of one moment, also while a run is writing.
        """
        if entry is None:
            entry = self._one("SELECT coalesce(max(entry), 0) FROM history")
        with self._connection.told():
            counters = {
                (name, tuple(map(tuple, self._parsed(labels)))): value
                for name, labels, value in self._connection.execute(
                    "SELECT name, labels, value FROM (SELECT counter, name, labels,"
                    "  (SELECT value FROM totals WHERE counter = counters.counter AND entry <= ?"
                    "   ORDER BY entry DESC LIMIT 1) AS value FROM counters) AS known"
                    " WHERE value IS NOT NULL ORDER BY counter",
                    (entry,),
                )
            }
        last, champion = self._known("batch", entry), self._known("champion", entry)
        power = self._fact("power", entry)
        return Snapshot(
            counters=counters,
            record=self._record(last, entry),
            batch_at=self._one("SELECT at FROM batches WHERE sequence = ?", last),
            labelled=self._record(self._known("labelled", entry), entry),
            decision=self._fact("decision", entry),
            waiting=self._fact("waiting", entry) or {},
            waiting_since=self._fact("waiting_since", entry),
            recent_retrains=0 if last is None else self._recent_retrains(int(last), entry),
            champion=self._manifest(champion),
            run=self._fact("run", entry),
            power=power if power is not None and power["version"] == champion else None,
            last_success=float(self._known("success", entry) or 0),
            retraining=self._fact("retraining", entry),
        )

    # --- writing ---

    def commit_champion(self, manifest: Mapping[str, Any], cursor: Cursor | None) -> None:
        """Record a version trained outside a batch, and the table rows that it used up."""
        with self._entry() as execute:
            self._add_version(execute, manifest)
            self._serve(execute, manifest["version"])
            if cursor is not None:
                self._advance(execute, cursor)

    def commit_retraining(
        self, promoted: Mapping[str, Any] | None, retraining: Mapping[str, Any], *, at: float
    ) -> None:
        """Record a challenger tried by hand, and its promotion if it won."""
        with self._entry() as execute:
            self._tried(execute, retraining, at)
            if promoted is not None:
                self._add_version(execute, promoted)
                self._serve(execute, promoted["version"])

    def commit_version(self, manifest: Mapping[str, Any], *, learnt: int) -> None:
        """Record a version that was made elsewhere; it does not serve yet."""
        with self._transaction() as execute:
            self._add_version(execute, manifest, learnt=learnt)

    def commit_champion_again(self, version: str, change: Change | None) -> None:
        """Let a version serve that is known already; its detector is as it left it."""
        with self._entry() as execute:
            self._serve(execute, version)
            self._change(execute, change)

    def commit_pruned(self, versions: Iterable[str]) -> None:
        """Record that the files of versions are going to be removed."""
        with self._transaction() as execute:
            for version in versions:
                execute("UPDATE versions SET pruned = 1 WHERE version = ?", (version,))
                execute("DELETE FROM detector WHERE version = ?", (version,))

    def pruned(self) -> set[str]:
        """Versions whose files were removed."""
        with self._connection.told():
            rows = self._connection.execute("SELECT version FROM versions WHERE pruned = 1")
            return {row[0] for row in rows}

    def commit_batch(self, commit: Commit, bounds: Bounds) -> None:
        """Record a batch, or its late labels, and everything that follows from it, or nothing."""
        record, at = json.dumps(commit.record), commit.at
        labelled = (commit.record.get("batch") or {}).get("labelled", 0)
        with self._entry() as execute:
            sequence = commit.sequence
            if sequence is None:
                sequence = self.next_sequence()  # nobody else writes: there are no gaps
                execute(
                    "INSERT INTO batches (sequence, entry, content_id, at, labelled, outcome)"
                    f" VALUES (?, {_ENTRY}, ?, ?, ?, ?)",
                    (sequence, commit.content_id, at, labelled, commit.outcome),
                )
                execute("INSERT INTO records VALUES (?, ?)", (sequence, record))
                if commit.outcome == "processed":
                    self._tell(execute, "batch", sequence)
            else:
                execute(
                    "INSERT INTO superseded"
                    f" SELECT sequence, {_ENTRY}, record FROM records WHERE sequence = ?",
                    (sequence,),
                )
                execute("UPDATE batches SET labelled = ? WHERE sequence = ?", (labelled, sequence))
                execute("UPDATE records SET record = ? WHERE sequence = ?", (record, sequence))
            for (name, labels), amount in commit.counters.items():
                self._count(execute, name, labels, amount)
            if commit.cursor is not None:
                self._advance(execute, commit.cursor)
            for each in (commit.retired, commit.detector):
                if each is not None:
                    version, state = each
                    execute(
                        "INSERT INTO detector VALUES (?, ?)"
                        " ON CONFLICT (version) DO UPDATE SET state = excluded.state",
                        (version, json.dumps(state)),
                    )
            if commit.forget_since is not None:
                execute('DELETE FROM "window" WHERE sequence >= ?', (commit.forget_since,))
                execute("UPDATE scored SET trusted = 0 WHERE sequence >= ?", (commit.forget_since,))
            if commit.labelled is not None and commit.labelled.n_rows:
                self._learn(execute, commit.labelled, sequence, bounds)
            if commit.scored is not None:
                scored = commit.scored.shortened(bounds.window_rows)
                execute(
                    "INSERT INTO scored VALUES (?, ?, ?, ?, ?) ON CONFLICT (sequence) DO UPDATE"
                    " SET n_rows = excluded.n_rows, n_waiting = excluded.n_waiting,"
                    "  trusted = excluded.trusted, rows = excluded.rows",
                    (
                        *(sequence, len(scored), scored.n_waiting),
                        *(int(commit.trusted), scored.to_bytes()),
                    ),
                )
            self._forget(execute, bounds)
            self._tell_of_labels(execute)
            if commit.promoted is not None:
                self._add_version(execute, commit.promoted)
                self._serve(execute, commit.promoted["version"])
            self._change(execute, commit.change)
            if commit.decision is not None:
                self._decided(execute, commit.decision, at)
            if commit.retraining is not None:
                self._tried(execute, commit.retraining, at)
            if commit.run is not None:
                self._finish(execute, commit.run)

    def _learn(self, execute: Any, lot: Lot, sequence: int, bounds: Bounds) -> None:
        """Add labelled rows to the window."""
        from wine_drift.rows import listed

        lot = replace(lot, rows=lot.rows.newest(bounds.window_rows))
        execute(
            'INSERT INTO "window" (sequence, n_rows, n_positive, rows, shards)'
            " VALUES (?, ?, ?, ?, ?)",
            (
                *(sequence, lot.n_rows, lot.n_positive, lot.rows.to_bytes()),
                json.dumps(listed(lot.shards)) if lot.shards else None,
            ),
        )

    def commit_lost(self, names: set[str]) -> None:
        """Record that files of rows are gone: nobody claims them any more."""
        from wine_drift.rows import listed

        with self._transaction() as execute:
            found = execute(
                'SELECT number, shards FROM "window" WHERE shards IS NOT NULL'
            ).fetchall()
            for number, text in found:
                there = self._shards(self._parsed(text))
                kept = [shard for shard in there if shard.name not in names]
                execute(
                    'UPDATE "window" SET shards = ?, n_rows = ?, n_positive = ? WHERE number = ?',
                    (
                        json.dumps(listed(kept)),
                        sum(shard.n_rows for shard in kept),
                        sum(shard.n_positive for shard in kept),
                        number,
                    ),
                )
            for manifest in self._sharded():
                left = [each for each in manifest["shards"] if each[0] not in names]
                execute(
                    "UPDATE versions SET manifest = ? WHERE version = ?",
                    (json.dumps(manifest | {"shards": left}), manifest["version"]),
                )

    def record_run(self, run: Mapping[str, Any]) -> None:
        """Record a run that changed nothing else."""
        with self._entry() as execute:
            self._finish(execute, run)

    def add(self, name: str, labels: Labels, amount: float = 1) -> None:
        """Add to a counter outside a batch."""
        with self._entry() as execute:
            self._count(execute, name, labels, amount)

    def record_power(self, found: Mapping[str, Any]) -> None:
        """Keep what `selftest power` found; it is published while its version is champion."""
        with self._entry() as execute:
            self._tell(execute, "power", json.dumps(found))

    def _add_version(
        self, execute: Any, manifest: Mapping[str, Any], learnt: int | None = None
    ) -> None:
        if learnt is None:  # all that was labelled so far
            learnt = self._one('SELECT coalesce(max(number), 0) FROM "window"')
        execute(
            "INSERT INTO versions (number, version, learnt, manifest) VALUES (?, ?, ?, ?)",
            (manifest["number"], manifest["version"], learnt, json.dumps(manifest)),
        )

    def _serve(self, execute: Any, version: str) -> None:
        """Let a version serve from the next batch on."""
        before = self._known("champion")
        self._tell(execute, "champion", version)
        self._change(execute, None)  # it is answered
        if before is not None:
            self._tell(execute, "swapped", self.next_sequence() - 1)

    def _change(self, execute: Any, change: Change | None) -> None:
        self._tell(execute, "change", json.dumps(None if change is None else change.to_dict()))

    def _forget(self, execute: Any, bounds: Bounds) -> None:
        """Drop what is too old or too much; the newest batch is never too much."""
        oldest = self.next_sequence() - bounds.window_age
        for table, most in (('"window"', bounds.window_rows), ("scored", bounds.waiting_rows)):
            execute(
                f"DELETE FROM {table} WHERE sequence < ? OR sequence < (SELECT sequence FROM"
                " (SELECT sequence, sum(n_rows) OVER (ORDER BY sequence DESC) AS kept"
                f"  FROM {table}) AS added WHERE kept >= ? ORDER BY sequence DESC LIMIT 1)",
                (oldest, most),
            )

    def forget_history(self, *, keep: int) -> None:
        """Forget the entries before the last `keep`, and the records of their batches.

        Kept are the records that late labels, or what is published, still need; and of each batch
        that it was done.
        """
        with self._transaction() as execute:
            self._forget_history(execute, self._floor(keep))

    def _forget_history(self, execute: Any, floor: int) -> None:
        if floor <= 0:
            return
        for table, key in (("facts", "name"), ("totals", "counter")):
            # every key there is, without reading every row
            keys = execute(
                f"WITH RECURSIVE keys (key) AS (SELECT min({key}) FROM {table} UNION ALL"
                f"  SELECT (SELECT min({key}) FROM {table} WHERE {key} > keys.key)"
                "   FROM keys WHERE key IS NOT NULL)"
                " SELECT key FROM keys WHERE key IS NOT NULL"
            ).fetchall()
            for (each,) in keys:  # what was known at the floor is still known there
                execute(
                    f"DELETE FROM {table} WHERE {key} = ? AND entry <"
                    f" (SELECT max(entry) FROM {table} WHERE {key} = ? AND entry <= ?)",
                    (each, each, self._loop_began(floor) if each == "retraining" else floor),
                )
        execute("DELETE FROM history WHERE entry < ?", (floor,))
        execute("DELETE FROM superseded WHERE until <= ?", (floor,))
        execute(
            "DELETE FROM records WHERE sequence < coalesce("
            "  (SELECT sequence FROM batches WHERE entry >= ? ORDER BY entry LIMIT 1), ?)"
            " AND sequence NOT IN (SELECT sequence FROM scored) AND sequence NOT IN"
            "  (SELECT CAST(value AS BIGINT) FROM facts WHERE name IN ('batch', 'labelled'))",
            (floor, self.next_sequence()),
        )

    def _loop_began(self, floor: int) -> int:
        """Entry from which on retrainings count as of the floor; see `_recent_retrains`."""
        last = int(self._known("batch", floor) or 0)
        query = "SELECT entry FROM batches WHERE sequence > ? ORDER BY sequence LIMIT 1"
        return min(floor, int(self._one(query, last - LOOP_BATCHES) or floor))

    def _tell_of_labels(self, execute: Any) -> None:
        """The last batch with labels; what is still to come, and since when."""
        labelled = self._one("SELECT max(sequence) FROM batches WHERE labelled > 0")
        if labelled is not None:
            self._tell(execute, "labelled", labelled)
        batches, rows, oldest = execute(
            "SELECT count(*), coalesce(sum(n_waiting), 0), coalesce(min(at), 0) FROM scored"
            " JOIN batches USING (sequence) WHERE n_waiting > 0"
        ).fetchone()
        waiting = {"batches": batches, "rows": int(rows), "oldest_at": oldest}
        self._tell(execute, "waiting", json.dumps(waiting))

    def _decided(self, execute: Any, decision: Mapping[str, Any], at: float) -> None:
        self._tell(execute, "decision", json.dumps(decision))
        since = self._fact("waiting_since") or at  # a wait goes on until a decision without one
        waits = "waiting_for_labels" in decision["reasons"]
        self._tell(execute, "waiting_since", json.dumps(since if waits else None))

    def _tried(self, execute: Any, part: Mapping[str, Any], at: float) -> None:
        labels = (("reason", part["reason"]), ("outcome", part["outcome"]))
        self._count(execute, "retrains", labels, 1)
        if part["outcome"] != "waiting":  # then nothing was tried
            told = {"at": at, "reason": part["reason"], "gate": part["gate"]}
            if part.get("error"):
                told["error"] = part["error"]
            self._tell(execute, "retraining", json.dumps(told))

    def _finish(self, execute: Any, run: Mapping[str, Any]) -> None:
        for name in ("missed", "skipped"):
            if run.get(name):
                self._count(execute, f"runs_{name}", (), run[name])
        if run.get("ended"):
            self._count(execute, "runs_ended", (("reason", run["ended"]),), 1)
        self._tell(execute, "run", json.dumps(run))
        if run["success"]:
            self._tell(execute, "success", run["finished_at"])

    def _tell(self, execute: Any, name: str, value: object) -> None:
        """Let a fact be known from this entry on; one that is known already takes no room."""
        if self._known(name) != str(value):
            execute(
                f"INSERT INTO facts VALUES (?, {_ENTRY}, ?)"
                " ON CONFLICT (name, entry) DO UPDATE SET value = excluded.value",
                (name, str(value)),
            )

    @staticmethod
    def _advance(execute: Any, cursor: Cursor) -> None:
        execute(
            "INSERT INTO cursors VALUES (?, ?, ?, ?) ON CONFLICT (stream) DO UPDATE SET"
            " seed = excluded.seed, position = excluded.position, number = excluded.number",
            (cursor.stream, cursor.seed, cursor.position, cursor.number),
        )

    @staticmethod
    def _count(execute: Any, name: str, labels: Labels, amount: float) -> None:
        key = (name, json.dumps(labels))
        execute(
            "INSERT INTO counters SELECT coalesce(max(counter), 0) + 1, ?, ? FROM counters"
            " WHERE true ON CONFLICT (name, labels) DO NOTHING",
            key,
        )
        execute(
            f"INSERT INTO totals SELECT counter, {_ENTRY}, ? + coalesce((SELECT value"
            "  FROM totals WHERE counter = counters.counter ORDER BY entry DESC LIMIT 1), 0)"
            " FROM counters WHERE name = ? AND labels = ?"
            " ON CONFLICT (counter, entry) DO UPDATE SET value = excluded.value",
            (amount, *key),
        )

    # --- keeping it safe and small ---

    @staticmethod
    def backed_up_at(home: Path, *, oldest: bool = False) -> float | None:
        """When the last backup was made, or the oldest, as Unix time; None if there is none."""
        found = [path.stat().st_mtime for path in _backups(home) if _is_there(path)]
        return (min if oldest else max)(found, default=None)

    def back_up(self) -> None:
        """Copy the ledger to its backups, after which the two newest are kept.

        Raises
        ------
        StateUnreadable
            The ledger is damaged, or there is no room. The backups are as they were.
        """
        newest, older = _backups(self._home)
        self._copy(newest, displaced=older)

    def _copy(self, target: Path, *, displaced: Path | None = None) -> None:
        """Make a sound copy, or none."""
        assert isinstance(self._connection, Sqlite), "its server makes its backups"
        with self._connection.told(), files.by_name(target, "backup") as copy:
            self._connection.copy(copy)
            found = _damage(Sqlite, lambda: Sqlite.reader(copy))
            if found is not None:
                raise StateUnreadable(f"{self.place}: {found}", remedy=self._connection.restore)
            if displaced is not None and target.exists():
                reached("backup: rotate")
                target.replace(displaced)

    def done_at(self, batch_id: str) -> float | None:
        """When the batch was recorded whose id begins so, in Unix time; None if none or more do."""
        with self._connection.told():
            found = self._connection.execute(
                "SELECT at FROM batches WHERE content_id >= ? AND content_id < ? LIMIT 2",
                (batch_id, batch_id + "g"),
            ).fetchall()
        return float(found[0][0]) if len(found) == 1 else None

    def size(self) -> tuple[int, int]:
        """Bytes that it takes, and how many of them hold nothing."""
        with self._connection.told():
            return self._connection.size()

    def compact(self) -> None:
        """Give back the room of what was forgotten; needs as much again while it works."""
        with self._connection.told():
            reached("ledger: compact")
            self._connection.compact()

    @staticmethod
    def problem(home: Path, address: str | None = None) -> str | None:
        """What is wrong with a ledger; None if nothing is. It reads all of it.

        Raises
        ------
        StateUnreadable
            It is of a newer release, or of one before the first, or its server cannot be reached:
            that is no damage.
        """
        if address is not None:
            return _damage(_postgres(), partial(_postgres().reader, address))
        if not _is_there(home / LEDGER):
            return "it is gone" if any(map(_is_there, _backups(home))) else None
        return _damage(Sqlite, partial(Sqlite.reader, home / LEDGER))

    @staticmethod
    def restore(home: Path, kept: Path) -> float:
        """Put the newest sound backup in the place of a damaged ledger, which goes to `kept`.

        Returns
        -------
        float
            When the backup was made, in Unix time.

        Raises
        ------
        StateUnreadable
            There is no sound backup. Nothing was changed.
        """
        path = home / LEDGER
        with told(path):
            for backup in _backups(home):
                if _is_there(backup) and _damage(Sqlite, partial(Sqlite.reader, backup)) is None:
                    break
            else:
                raise StateUnreadable(
                    f"{path}: damaged, and there is no sound backup in {home / BACKUPS}",
                    remedy="start another --home, and give it the files of the archive again",
                )
            with files.by_name(path, "repair") as copy:
                files.copy(backup, copy, "repair, the backup")
                # A journal left beside the restored file would be played back into it, so the
                # damaged one is safe elsewhere with its journal before that goes.
                for suffix in ("", "-journal"):
                    damaged = path.with_name(path.name + suffix)
                    if damaged.is_dir() and not damaged.is_symlink():
                        damaged.rename(kept.with_name(kept.name + suffix))
                    elif damaged.exists():
                        into = kept.with_name(kept.name + suffix)
                        files.copy(damaged, into, "repair, the damaged")
                reached("repair: journal")
                path.with_name(path.name + "-journal").unlink(missing_ok=True)
            return backup.stat().st_mtime

    @staticmethod
    def salvaged(path: Path, *, after: int) -> list[tuple[int, str, str]] | None:
        """Number, content id and outcome of later batches that a damaged file still tells of.

        None if it cannot be read.
        """
        return Sqlite.salvage(
            path,
            "SELECT sequence, CAST(content_id AS TEXT), CAST(outcome AS TEXT)"
            " FROM batches WHERE sequence > ?"
            " ORDER BY sequence",
            (after,),
        )

    # --- what was known as of an entry ---

    def _known(self, name: str, entry: int = _NEWEST) -> str | None:
        """A fact as it was kept."""
        query = "SELECT value FROM facts WHERE name = ? AND entry <= ? ORDER BY entry DESC LIMIT 1"
        value: str | None = self._one(query, name, entry)
        return value

    def _fact(self, name: str, entry: int = _NEWEST) -> Any:
        """A fact that was kept as JSON; None if it is not known."""
        value = self._known(name, entry)
        return None if value is None else self._parsed(value)

    def _record(self, sequence: str | None, entry: int) -> dict[str, Any] | None:
        """The record of a batch, before late labels that came after the entry."""
        return self._json(
            "SELECT coalesce((SELECT record FROM superseded WHERE sequence = records.sequence"
            "  AND until > ? ORDER BY until LIMIT 1), record) FROM records WHERE sequence = ?",
            entry,
            sequence,
        )

    def _why(self, version: str, entry: int) -> str | None:
        """Why a version came to serve at an entry."""
        manifest, before = self._manifest(version), self._known("champion", entry - 1)
        if manifest is None:
            return None
        known = self._one(
            "SELECT count(*) FROM facts WHERE name = 'champion' AND value = ? AND entry < ?",
            version,
            entry,
        )
        # of a time that is forgotten only the numbers tell, or that there was another one
        number = self._one("SELECT number FROM versions WHERE version = ?", before) or 0
        replaces = self._known("swapped", entry) is not None
        waited = replaces and manifest["reason"] in ("first", "imported")
        again = known or manifest["number"] < number or waited
        return "rollback" if again else str(manifest["reason"])

    def _manifest(self, version: str | None) -> dict[str, Any] | None:
        return self._json("SELECT manifest FROM versions WHERE version = ?", version)

    def _recent_retrains(self, last: int, entry: int) -> int:
        """Challengers that alarms led to, in the last batches up to that one."""
        with self._connection.told():
            tries = self._connection.execute(
                "SELECT value FROM facts WHERE name = 'retraining' AND entry <= ?"
                " AND entry >="
                "  (SELECT entry FROM batches WHERE sequence > ? ORDER BY sequence LIMIT 1)",
                (entry, last - LOOP_BATCHES),
            ).fetchall()
        asked_for = (FORCED, MANUAL)
        return sum(self._parsed(value)["reason"] not in asked_for for (value,) in tries)

    # --- transactions ---

    @contextlib.contextmanager
    def _entry(self) -> Iterator[Any]:
        """A transaction that is an entry of the history; nothing that is published changes else."""
        with self._transaction() as execute:
            if (self._one("SELECT max(entry) FROM history") or 0) != self._newest:
                # though a lock keeps runs apart: somebody removed it, or its file system has none
                raise AlreadyRunning(
                    f"{self.place}: another run has written meanwhile",
                    remedy="run it again; nothing was recorded",
                )
            execute("INSERT INTO history (at) VALUES (?)", (self._now(),))
            entry = int(self._one("SELECT max(entry) FROM history"))  # no number comes again
            yield execute
            if self._keep_history is not None and entry % _STRIDE == 0:
                self._forget_history(execute, entry - self._keep_history)
        self._newest = entry

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """All that is read in the block is of one moment.

        With SQLite writers wait for its end: keep it short.

        Nothing may be written in it.
        """
        with self._connection.told():
            self._connection.begin_reading()
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._connection.told():
            reached("ledger: begin")
            try:
                self._connection.begin()
                yield self._connection.execute
                reached("ledger: commit")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            reached("ledger: committed")

    def _one(self, query: str, *values: object) -> Any:
        with self._connection.told():
            row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _json(self, query: str, *values: object) -> dict[str, Any] | None:
        text = self._one(query, *values)
        return None if text is None else self._parsed(text)

    def _shards(self, lists: Any) -> tuple[Shard, ...]:
        from wine_drift.rows import shards_of

        try:
            return shards_of(lists)
        except TypeError as error:
            raise StateUnreadable(
                f"{self.place}: shards: {error}", remedy=self._connection.restore
            ) from error

    def _rows(self, read: Callable[[bytes], Any], blob: bytes) -> Any:
        try:
            return read(blob)
        except Exception as error:  # of zlib, NumPy or JSON, whoever trips first
            raise StateUnreadable(
                f"{self.place}: rows: {error!r}", remedy=self._connection.restore
            ) from error

    def _read_all(self) -> None:
        """Read everything that is no plain number, as somebody will have to some day."""
        from wine_drift.rows import LabelledRows, ScoredRows

        with self._connection.told():
            for (text,) in self._connection.execute(
                "SELECT record FROM records UNION ALL SELECT record FROM superseded"
            ):
                self._batch_record(text)
            for query in (
                "SELECT manifest FROM versions",
                "SELECT state FROM detector",
                "SELECT labels FROM counters",
                "SELECT value FROM facts WHERE name NOT IN ('batch', 'labelled', 'champion')",
            ):
                for (text,) in self._connection.execute(query):
                    self._parsed(text)
            for (blob,) in self._connection.execute('SELECT rows FROM "window"'):
                self._rows(LabelledRows.from_bytes, blob)
            self.claimed_shards()
            for (blob,) in self._connection.execute("SELECT rows FROM scored"):
                self._rows(ScoredRows.from_bytes, blob)

    def _batch_record(self, text: str) -> dict[str, Any]:
        """The record of a batch; of a page in the place of another it is something else."""
        record: dict[str, Any] = self._parsed(text)
        if not isinstance(record, dict) or "outcome" not in record:
            raise StateUnreadable(
                f"{self.place}: there is no record where one should be",
                remedy=self._connection.restore,
            )
        return record

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError) as error:
            raise StateUnreadable(
                f"{self.place}: {error}", remedy=self._connection.restore
            ) from error


def _is_there(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0  # empty: killed while it was made


def _backups(home: Path) -> list[Path]:
    return [home / BACKUPS / name for name in _BACKUPS]


def _postgres() -> type[Postgres]:
    from wine_drift.postgres import Postgres

    return Postgres


def _damage(kind: type[Sqlite | Postgres], opened: Callable[[], Sqlite | Postgres]) -> str | None:
    """What is wrong with a ledger, after all of it was read; None if nothing is.

    What a killed run left half-written is taken back first.
    """
    ledger = None
    try:
        ledger = Ledger(opened(), Path(), time.time, None)
        with ledger._connection.told():
            found, schema = ledger._connection.fault(), ledger._connection.schema()
        if found is not None:
            return found
        if schema == 0:
            return "it is no ledger"
        if schema in _MIGRATIONS:
            return None  # of an older release, which had other tables
        with ledger._connection.told():
            ledger._prepare(read_only=True)
        ledger.snapshot()
        ledger.champion()
        ledger._read_all()
    except StateUnreadable as error:
        if isinstance(error, _OtherRelease) or kind.is_trouble(error.__cause__):
            raise
        return str(error)
    finally:
        if ledger is not None:
            ledger._connection.close()
    return None
