"""The ledger is the truth: one SQLite file, one transaction a batch. The only importer of sqlite3.

What is not committed did not happen; what is committed happened once, whatever crashed. Nothing
that is published is overwritten: each transaction is an entry of the history, and facts, totals and
records keep the entry that they date from. So what was published can be told as of any entry.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wine_drift.errors import StateUnreadable
from wine_drift.exposition import Labels, Snapshot
from wine_drift.policy import FORCED, LOOP_BATCHES, MANUAL, Change

if TYPE_CHECKING:
    from wine_drift.rows import LabelledRows, ScoredRows

LEDGER = "ledger.sqlite"
SCHEMA_VERSION = 4
_NEWEST = 2**63 - 1  # beyond every entry
_ENTRY = "(SELECT max(entry) FROM history)"  # of the transaction in hand
_RESTORE = "restore the file from a backup, or start another --home"
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
    outcome TEXT NOT NULL CHECK (outcome IN ('processed', 'quarantined')),
    record TEXT NOT NULL
);
CREATE INDEX labelled_batches ON batches (sequence) WHERE labelled > 0;
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
    n_rows INTEGER NOT NULL, n_positive INTEGER NOT NULL, rows BLOB NOT NULL
);
CREATE INDEX window_by_batch ON window (sequence);
CREATE TABLE scored (
    sequence INTEGER PRIMARY KEY, n_rows INTEGER NOT NULL, n_waiting INTEGER NOT NULL,
    trusted INTEGER NOT NULL, rows BLOB NOT NULL
);
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
    labelled: LabelledRows | None = None
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
        self, connection: sqlite3.Connection, path: Path, now: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._path = path
        self._now = now

    @staticmethod
    def exists(home: Path) -> bool:
        """Whether a home has a ledger."""
        return (home / LEDGER).is_file()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, home: Path, *, read_only: bool = False, now: Callable[[], float] = time.time
    ) -> Iterator[Ledger]:
        """Open the ledger of a home, and make it if need be.

        With `read_only` nothing is made or changed: a ledger that is not there reads as empty.
        `now` dates what is written, in Unix time.

        Raises
        ------
        StateUnreadable
            The file is damaged, or was written by a newer release.
        """
        path = home / LEDGER
        ledger = None
        with _told(path):
            if read_only:
                connection = _reader(path)
            else:
                home.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)
                connection = sqlite3.connect(path, timeout=10)
            connection.isolation_level = None  # transactions are begun and ended below, by name
            ledger = cls(connection, path, now)
        try:
            with _told(path):
                ledger._prepare()
            yield ledger
        finally:
            connection.close()

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA synchronous = FULL")
        found = int(self._one("PRAGMA user_version") or 0)
        if found > SCHEMA_VERSION:
            raise StateUnreadable(
                f"{self._path}: schema {found}, from a newer release than this ({SCHEMA_VERSION})",
                remedy="upgrade wine-drift; nothing was changed",
            )
        if 0 < found < SCHEMA_VERSION:
            raise StateUnreadable(
                f"{self._path}: schema {found}, from an older release than this ({SCHEMA_VERSION})",
                remedy="start another --home, or go on with that release; nothing was changed",
            )
        if found == 0:
            with self._transaction() as execute:
                for statement in _SCHEMA.split(";"):
                    execute(statement)
                execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    # --- reading ---

    def batch(self, content_id: str) -> dict[str, Any] | None:
        """Record of a batch by its content, processed or quarantined; None if it is new."""
        return self._json("SELECT record FROM batches WHERE content_id = ?", content_id)

    def find(self, run: str) -> dict[str, Any] | None:
        """Record of a processed batch by its number or the start of its id; "" is the last one.

        None if there is no such batch, or more than one.
        """
        processed = "SELECT record FROM batches WHERE outcome = 'processed'"
        if not run:
            return self._json(f"{processed} ORDER BY sequence DESC LIMIT 1")
        if run.isdecimal() and len(run) < 7:
            return self._json(f"{processed} AND sequence = ?", int(run))
        if not set(run) <= set("0123456789abcdef"):
            return None
        with _told(self._path):
            rows = self._connection.execute(
                f"{processed} AND content_id LIKE ? LIMIT 2", (run + "%",)
            ).fetchall()
        return self._parsed(rows[0][0]) if len(rows) == 1 else None

    def last_run(self) -> dict[str, Any] | None:
        """What was told of the last run, as in Snapshot.run; None before the first."""
        run: dict[str, Any] | None = self._fact("run")
        return run

    def next_sequence(self) -> int:
        """Number that the next batch will get."""
        return int(self._one("SELECT coalesce(max(sequence), 0) + 1 FROM batches") or 1)

    def records(self, limit: int) -> list[dict[str, Any]]:
        """Records of the last batches, oldest first."""
        with _told(self._path):
            rows = self._connection.execute(
                "SELECT record FROM batches ORDER BY sequence DESC LIMIT ?", (limit,)
            ).fetchall()
        return [self._parsed(row[0]) for row in reversed(rows)]

    def versions(self) -> list[dict[str, Any]]:
        """Manifests of all versions, oldest first."""
        with _told(self._path):
            rows = self._connection.execute("SELECT manifest FROM versions ORDER BY number")
            return [self._parsed(row[0]) for row in rows]

    def next_version(self) -> int:
        """Number that the next version will get."""
        return int(self._one("SELECT coalesce(max(number), 0) + 1 FROM versions"))

    def champion(self) -> dict[str, Any] | None:
        """Manifest of the champion, or None before the first training."""
        return self._manifest(self._known("champion"))

    def champion_since(self) -> int:
        """Number of the batch at which one champion took over from another; 0: none did yet."""
        return int(self._known("swapped") or 0)

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
        with _told(self._path):
            row = self._connection.execute(
                "SELECT stream, seed, position, number FROM cursors WHERE stream = ?", (stream,)
            ).fetchone()
        return None if row is None else Cursor(*row)

    def labelled_rows(self, n_features: int, *, after: int) -> LabelledRows:
        """Labelled rows of the window's entries after number `after`, oldest first."""
        from wine_drift.rows import LabelledRows, concatenate

        with _told(self._path):
            blobs = self._connection.execute(
                "SELECT rows FROM window WHERE number > ? ORDER BY number", (after,)
            ).fetchall()
            return concatenate([LabelledRows.from_bytes(blob[0]) for blob in blobs], n_features)

    def labelled_counts(self, *, after: int) -> tuple[int, int]:
        """Labelled rows, and positive ones, of the window's entries after number `after`."""
        with _told(self._path):
            n_rows, n_positive = self._connection.execute(
                "SELECT coalesce(sum(n_rows), 0), coalesce(sum(n_positive), 0) FROM window"
                " WHERE number > ?",
                (after,),
            ).fetchone()
        return int(n_rows), int(n_positive)

    def window_batches(self, *, since: int, after: int = 0) -> set[int]:
        """Numbers of the batches, from `since` on, of the window's entries after number `after`."""
        with _told(self._path):
            rows = self._connection.execute(
                "SELECT DISTINCT sequence FROM window WHERE sequence >= ? AND number > ?",
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

        with _told(self._path):
            row = self._connection.execute(
                "SELECT rows, trusted FROM scored WHERE sequence = ?", (sequence,)
            ).fetchone()
        return None if row is None else (ScoredRows.from_bytes(row[0]), bool(row[1]))

    def processed_at(self, sequence: int) -> float:
        """When a batch was recorded, as Unix time."""
        return float(self._one("SELECT at FROM batches WHERE sequence = ?", sequence))

    def history(self) -> list[tuple[int, float]]:
        """Every entry, oldest first, and its Unix time."""
        with _told(self._path):
            return self._connection.execute(
                "SELECT entry, at FROM history ORDER BY entry"
            ).fetchall()

    def snapshot(self, entry: int | None = None) -> Snapshot:
        """What is published, or what was as of an entry of the history.

        It is of one moment, also while a run is writing.
        """
        if entry is None:
            entry = self._one("SELECT coalesce(max(entry), 0) FROM history")
        with _told(self._path):
            counters = {
                (name, tuple(map(tuple, json.loads(labels)))): value
                for name, labels, value in self._connection.execute(
                    "SELECT name, labels, (SELECT value FROM totals"
                    "  WHERE counter = counters.counter AND entry <= ? ORDER BY entry DESC LIMIT 1)"
                    " AS value FROM counters WHERE value IS NOT NULL",
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
        with _told(self._path):
            rows = self._connection.execute("SELECT version FROM versions WHERE pruned = 1")
            return {row[0] for row in rows}

    def commit_batch(self, commit: Commit, bounds: Bounds) -> None:
        """Record a batch, or its late labels, and everything that follows from it, or nothing."""
        record, at = json.dumps(commit.record), commit.at
        labelled = (commit.record.get("batch") or {}).get("labelled", 0)
        with self._entry() as execute:
            sequence = commit.sequence
            if sequence is None:
                sequence = execute(
                    "INSERT INTO batches (entry, content_id, at, labelled, outcome, record)"
                    f" VALUES ({_ENTRY}, ?, ?, ?, ?, ?)",
                    (commit.content_id, at, labelled, commit.outcome, record),
                ).lastrowid
                if commit.outcome == "processed":
                    self._tell(execute, "batch", sequence)
            else:
                execute(
                    "INSERT INTO superseded"
                    f" SELECT sequence, {_ENTRY}, record FROM batches WHERE sequence = ?",
                    (sequence,),
                )
                execute(
                    "UPDATE batches SET labelled = ?, record = ? WHERE sequence = ?",
                    (labelled, record, sequence),
                )
            for (name, labels), amount in commit.counters.items():
                self._count(execute, name, labels, amount)
            if commit.cursor is not None:
                self._advance(execute, commit.cursor)
            for each in (commit.retired, commit.detector):
                if each is not None:
                    version, state = each
                    execute(
                        "INSERT OR REPLACE INTO detector VALUES (?, ?)",
                        (version, json.dumps(state)),
                    )
            if commit.forget_since is not None:
                execute("DELETE FROM window WHERE sequence >= ?", (commit.forget_since,))
                execute("UPDATE scored SET trusted = 0 WHERE sequence >= ?", (commit.forget_since,))
            if commit.labelled is not None and len(commit.labelled):
                kept = commit.labelled.newest(bounds.window_rows)
                execute(
                    "INSERT INTO window (sequence, n_rows, n_positive, rows) VALUES (?, ?, ?, ?)",
                    (sequence, len(kept), int(kept.positive.sum()), kept.to_bytes()),
                )
            if commit.scored is not None:
                scored = commit.scored.shortened(bounds.window_rows)
                execute(
                    "INSERT OR REPLACE INTO scored VALUES (?, ?, ?, ?, ?)",
                    (sequence, len(scored), scored.n_waiting, commit.trusted, scored.to_bytes()),
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
            learnt = self._one("SELECT coalesce(max(number), 0) FROM window")
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
        for table, most in (("window", bounds.window_rows), ("scored", bounds.waiting_rows)):
            execute(
                f"DELETE FROM {table} WHERE sequence < ? OR sequence < (SELECT sequence FROM"
                " (SELECT sequence, sum(n_rows) OVER (ORDER BY sequence DESC) AS kept"
                f"  FROM {table}) WHERE kept >= ? ORDER BY sequence DESC LIMIT 1)",
                (oldest, most),
            )

    def _tell_of_labels(self, execute: Any) -> None:
        """The last batch with labels; what is still to come, and since when."""
        labelled = self._one("SELECT max(sequence) FROM batches WHERE labelled > 0")
        if labelled is not None:
            self._tell(execute, "labelled", labelled)
        batches, rows, oldest = execute(
            "SELECT count(*), coalesce(sum(n_waiting), 0), coalesce(min(at), 0) FROM scored"
            " JOIN batches USING (sequence) WHERE n_waiting > 0"
        ).fetchone()
        waiting = {"batches": batches, "rows": rows, "oldest_at": oldest}
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
            execute(f"INSERT OR REPLACE INTO facts VALUES (?, {_ENTRY}, ?)", (name, str(value)))

    @staticmethod
    def _advance(execute: Any, cursor: Cursor) -> None:
        execute(
            "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?)",
            (cursor.stream, cursor.seed, cursor.position, cursor.number),
        )

    @staticmethod
    def _count(execute: Any, name: str, labels: Labels, amount: float) -> None:
        key = (name, json.dumps(labels))
        execute("INSERT OR IGNORE INTO counters (name, labels) VALUES (?, ?)", key)
        execute(
            f"INSERT OR REPLACE INTO totals SELECT counter, {_ENTRY}, ? + coalesce((SELECT value"
            "  FROM totals WHERE counter = counters.counter ORDER BY entry DESC LIMIT 1), 0)"
            " FROM counters WHERE name = ? AND labels = ?",
            (amount, *key),
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
            "SELECT coalesce((SELECT record FROM superseded WHERE sequence = batches.sequence"
            "  AND until > ? ORDER BY until LIMIT 1), record) FROM batches WHERE sequence = ?",
            entry,
            sequence,
        )

    def _manifest(self, version: str | None) -> dict[str, Any] | None:
        return self._json("SELECT manifest FROM versions WHERE version = ?", version)

    def _recent_retrains(self, last: int, entry: int) -> int:
        """Challengers that alarms led to, in the last batches up to that one."""
        with _told(self._path):
            tries = self._connection.execute(
                "SELECT value FROM facts WHERE name = 'retraining' AND entry <= ?"
                " AND entry >="
                "  (SELECT entry FROM batches WHERE sequence > ? ORDER BY sequence LIMIT 1)",
                (entry, last - LOOP_BATCHES),
            ).fetchall()
        asked_for = (FORCED, MANUAL)
        return sum(self._parsed(value)["reason"] not in asked_for for (value,) in tries)

    # --- SQLite ---

    @contextlib.contextmanager
    def _entry(self) -> Iterator[Any]:
        """A transaction that is an entry of the history; nothing that is published changes else."""
        with self._transaction() as execute:
            execute("INSERT INTO history (at) VALUES (?)", (self._now(),))
            yield execute

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        with _told(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _one(self, query: str, *values: object) -> Any:
        with _told(self._path):
            row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _json(self, query: str, *values: object) -> dict[str, Any] | None:
        text = self._one(query, *values)
        return None if text is None else self._parsed(text)

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise StateUnreadable(f"{self._path}: {error}", remedy=_RESTORE) from error


def _reader(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing but what a killed run left half-written.

    SQLite's own read-only mode cannot take back such a half, and then refuses to read at all.
    """
    if not path.is_file() or path.stat().st_size == 0:  # empty: killed while it was made
        return sqlite3.connect(":memory:")
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    mode = "rw" if writable else "ro"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=10)
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what SQLite says in the user's terms."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StateUnreadable(
            f"{path}: {error}", remedy="check the folder's rights and free space; nothing was lost"
        ) from error
    except sqlite3.DatabaseError as error:
        raise StateUnreadable(f"{path}: {error}", remedy=_RESTORE) from error
    except OSError as error:
        raise StateUnreadable(
            f"{path}: {error.strerror}", remedy="name a writable folder with --home"
        ) from error
