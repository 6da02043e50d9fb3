"""Crashes: commands that are killed, or hindered, at each of their steps and at any time.

Each scenario is one command in a home of its own. It is run undisturbed, which tells the steps that
touch disk or network. Then, for each of them, it is killed exactly there in a copy of the same
home, given again unless it was done, and followed by the command that comes next: ledger, files,
metrics and what was pushed have to be the same bytes as if nothing had happened. The clock stands
still for that, see `killing`. Or the step fails as on a full or broken disk: the exit code has to
be the documented one, and the commands that follow have to leave the same batches, files and
counters.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import http.server
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socketserver
import sqlite3
import stat
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import killing
from drill import Row
from forks import driven
from homes import TRAINING, Tally, connected, difference, exposition, integrity, without_labels
from killing import Done, Trap, command

import wine_drift
from wine_drift.dataset import FILE_NAME, load_schema
from wine_drift.files import is_partial
from wine_drift.ledger import BACKUPS, LEDGER, Ledger
from wine_drift.settings import Settings
from wine_drift.supply import write_simulated

GOLDEN = Path(__file__).parents[1] / "golden" / "home-schema-4.tar.xz"
EVERY = 900.0  # seconds between two steps of a story
LONG_AGO = 100 * 86_400.0  # seconds since the past of a home
# Figures of what other programs, and the disk, may be told of a failed run and not of a calm one.
OF_RUNS = re.compile(r"retrains|runs_|push_failures")
ROOM = 500_000_000  # bytes that all homes take at most
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


def drill(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """Kill commands, hinder them, and look at what is left."""
    yield from driven(killing.__file__, place, thorough=thorough, seed=seed)


# --- the homes that stories begin in ---


@dataclass
class Past:
    """Folders of the past: each holds a home, and what else a command may find."""

    place: Path
    at: float  # Unix time of the next step
    schema: Any = field(default_factory=lambda: load_schema(None))

    def grown(self, name: str, parent: str | None = None) -> Path:
        """A new folder, as another one that there is."""
        world = self.place / name / "world"
        if parent is None:
            world.mkdir(parents=True)
        else:
            shutil.copytree(self.place / parent / "world", world, symlinks=True)
        for folder in ("inbox", "out"):
            (world / folder).mkdir(exist_ok=True)
        return world

    def take(self, world: Path, *words: object, code: int = 0) -> None:
        """One step that has to go well."""
        done = command(world, [*map(str, words), "--home", "home"], at=self.at)
        self.at += EVERY
        if done.code != code:
            raise RuntimeError(f"{words}: {done.code}\n{done.said}")

    def wines(self, n_rows: int, seed: int, scenario: str = "none") -> bytes:
        """A file of simulated wines."""
        drawn = Settings(
            source="simulated", batch_rows=n_rows, scenario=scenario, scenario_start=0, seed=seed
        )
        with tempfile.TemporaryDirectory() as folder:
            (path,) = write_simulated(drawn, self.schema, n_batches=1, out=Path(folder))
            return path.read_bytes()


def deliver(folder: Path, **contents: bytes) -> None:
    """Put files into an inbox, oldest first."""
    for number, (name, data) in enumerate(contents.items()):
        path = folder / f"{name}.csv"
        path.write_bytes(data)
        os.utime(path, (1e9 + number, 1e9 + number))


BAD = b"a;b\n1;2\n"


def make_past(place: Path, now: float, seed: int) -> None:
    """Every home that a scenario begins in, in folders of these names."""
    past = Past(place, now - LONG_AGO)
    good, other = past.wines(60, seed + 10), past.wines(60, seed + 11)
    flip = [past.wines(150, seed + number, "label_flip") for number in (20, 21)]
    header, *lines = good.splitlines()
    gaps = b"\n".join([header, b"x" + lines[0], lines[1] + b"0", lines[1], *lines, b""])
    past.grown("empty")
    world = past.grown("quiet")
    (world / "table.csv").write_bytes(past.wines(300, seed))
    first = ("--data", "table.csv", "--training-share", "0.95")
    deliver(world, first=past.wines(60, seed + 12))
    past.take(world, "run-batch", "first.csv", *first, *TRAINING)

    world = past.grown("untrained")
    shutil.copy2(past.place / "quiet" / "world" / "table.csv", world)

    for name, contents in {
        "good": {"one": good},
        "bad": {"bad": BAD},
        "gaps": {"gaps": gaps},
        "several": {"a": good, "b": BAD, "c": good + b"\n", "d": good, "e": other},
    }.items():
        deliver(past.grown(name, "quiet") / "inbox", **contents)
    for name, data in {"linked": good, "bad, linked": BAD}.items():
        world = past.grown(name, "quiet")
        deliver(world / "out", one=data)
        (world / "inbox" / "one.csv").symlink_to(Path("..") / "out" / "one.csv")
    deliver(past.grown("bad, named", "quiet"), bad=BAD)

    world = past.grown("flipped", "quiet")
    deliver(world, flip=flip[0])
    past.take(world, "run-batch", "flip.csv", *TRAINING)
    deliver(world / "inbox", flip=flip[1])

    world = past.grown("late", "flipped")
    unlabelled, labels = without_labels(flip[1])
    deliver(world / "inbox", flip=unlabelled)
    past.take(world, "run-batch", "--inbox", "inbox", *TRAINING)
    deliver(world, late=labels)

    world = past.grown("promoted", "flipped")
    past.take(world, "run-batch", "--inbox", "inbox", *TRAINING)
    deliver(world / "inbox", one=good)
    past.take(world, "models", "export", version(world, 2), "--out", "out/v2.tar")

    for name, parent in {"newcomer": "empty", "guest": "good"}.items():
        world = past.grown(name, parent)
        shutil.copy2(past.place / "promoted" / "world" / "out" / "v2.tar", world)
    deliver(past.place / "newcomer" / "world" / "inbox", one=good)

    world = past.grown("third", "promoted")
    deliver(world, more=past.wines(150, seed + 22, "label_flip"))
    past.take(world, "run-batch", "more.csv", *TRAINING)
    past.take(world, "train", "--force", *TRAINING)
    _make_old(world, now)
    _make_clutter(past, now, good)
    _make_damage(past, good, other)
    _make_golden(past, good)
    for world in place.glob("*/world"):
        if not world.with_name("known").exists():
            _remember(world)


def version(world: Path, number: int) -> str:
    """Name of a version of a home."""
    return next((world / "home" / "models").glob(f"v{number}-*")).name


def _make_old(world: Path, now: float) -> None:
    """Let another backup be due, and let the last one know of another champion."""
    backups = world / "home" / BACKUPS
    for path in backups.glob("ledger-*"):
        os.utime(path, (now - 5 * 86_400, now - 5 * 86_400))
    shutil.rmtree(backups / version(world, 3))
    (backups / version(world, 1)).exists() or shutil.copytree(
        world / "home" / "models" / version(world, 1), backups / version(world, 1)
    )
    (backups / "v0-00000000").mkdir(exist_ok=True)  # and of one that is too old to be kept
    os.utime(backups / "v0-00000000", (1e9, 1e9))


def _make_clutter(past: Past, now: float, good: bytes) -> None:
    """A home with a long history, old files and versions, and what killed runs left."""
    world = past.grown("cluttered", "third")
    deliver(world / "inbox", bad=BAD, one=good)
    past.take(world, "run-batch", "--inbox", "inbox", "--drain", *TRAINING, code=3)
    home = world / "home"
    with Ledger.open(home, now=lambda: past.at) as ledger:
        told = ledger.last_run()
        for number in range(400):
            ledger.record_run({**(told or {}), "pending": number, "success": True})
    for path in (home / BACKUPS).glob("ledger-*"):
        os.utime(path, (now - 3600, now - 3600))
    for name in (".wine_drift.prom.part", ".ledger-1.sqlite.part"):
        folder = home / ("metrics" if "prom" in name else BACKUPS)
        (folder / name).write_bytes(b"half")
    (home / "archive" / ".0123456789ab-a.csv.part").write_bytes(b"half")
    for name in ("v7-0123abcd", ".v8-0123abcd.part"):
        (home / "models" / name).mkdir()
        (home / "models" / name / "model.txt").write_bytes(b"half")
    (home / "models" / "window").mkdir(exist_ok=True)
    (home / "models" / "window" / "b-0123456789abcdef-00001.npy.z").write_bytes(b"half")


def _make_damage(past: Past, good: bytes, other: bytes) -> None:
    """Homes whose ledger is damaged in its middle, or holds half a transaction."""
    world = past.grown("damaged", "promoted")
    home = world / "home"
    backups = {path: path.read_bytes() for path in (home / BACKUPS).glob("ledger-*")}
    deliver(world / "inbox", one=good, bad=BAD, other=other)
    past.take(world, "run-batch", "--inbox", "inbox", "--drain", *TRAINING, code=3)
    _remember(world)
    for path, data in backups.items():  # the last one was made before these files
        path.write_bytes(data)
    with (home / LEDGER).open("r+b") as ledger:
        ledger.seek(2 * 4096)
        ledger.write(b"\xff" * 8192)
    (home / f"{LEDGER}-journal").write_bytes(b"half")
    (home / "models" / version(world, 2) / "model.txt").write_bytes(b"half")

    world = past.grown("halfway", "good")
    backups = {path: path.read_bytes() for path in (world / "home" / BACKUPS).glob("ledger-*")}
    deliver(world, other=other)
    past.take(world, "run-batch", "other.csv", *TRAINING)  # a file that no repair gives back
    for path, data in backups.items():
        path.write_bytes(data)
    _remember(world)
    pid = os.fork()
    if pid == 0:
        with Ledger.open(world / "home") as ledger:
            _die_halfway(ledger)
    if not (os.waitpid(pid, 0)[1] and (world / "home" / f"{LEDGER}-journal").is_file()):
        raise RuntimeError("no transaction was left half-written")


def _die_halfway(ledger: Ledger) -> None:
    """End in a transaction of which pages are in the file already."""
    ledger._connection.execute("PRAGMA cache_size = 2")
    with ledger._entry() as execute:
        execute("INSERT INTO records VALUES (1000, ?)", ("long " * 200_000,))
        os.kill(os.getpid(), signal.SIGKILL)


def _make_golden(past: Past, good: bytes) -> None:
    """A home as the first release left it."""
    world = past.grown("golden")
    with tarfile.open(GOLDEN) as tar, tempfile.TemporaryDirectory() as folder:
        tar.extractall(folder, filter="data")
        (ledger,) = Path(folder).rglob(LEDGER)
        shutil.move(ledger.parent, world / "home")
    deliver(world / "inbox", one=good)


def _remember(world: Path) -> None:
    """Write down the batches that a home knows."""
    home = world / "home"
    known = [row[1] for row in batches(home)] if (home / LEDGER).is_file() else []
    world.with_name("known").write_text(json.dumps(known))


# --- what a home holds ---


@dataclass(frozen=True)
class Picture:
    """Everything in the folder of a command, to the byte."""

    dump: tuple[str, ...]  # of the ledger, as SQL
    files: Mapping[str, tuple[str, ...]]  # digest, mode; of what was put away, its time too
    metrics: str
    pushed: str | None  # what the gateway has
    batches: Counter[tuple[str, str]]  # content id, outcome
    counters: Mapping[str, float]
    matter: Mapping[str, Any]  # what has to be there though a run failed meanwhile
    backups: frozenset[str]
    wrong: tuple[str, ...]  # whatever was to be done

    @classmethod
    def of(cls, world: Path, textfile: str | None) -> Picture:
        """Look at it; the textfile is the one that was written last."""
        home, wrong = world / "home", []
        found = dict(_files(world))
        for name in found:
            if any(is_partial(part) for part in Path(name).parts):
                wrong.append(f"left: {name}")
        if f"home/{LEDGER}-journal" in found:
            wrong.append("left: the journal of the ledger")
        metrics = exposition(home)
        with connected(home / LEDGER) as connection:
            # which stages a run went through is its own: one that was killed may have trained
            dump = tuple(re.sub(r'"stages": {[^}]*}', "", line) for line in connection.iterdump())
            dump += (f"user_version {connection.execute('PRAGMA user_version').fetchone()}",)
            wrong += [f"the ledger: {each}" for each in integrity(connection)]
            matter, counters = _matter(connection)
        for path in (home / BACKUPS).glob("ledger-*"):
            with connected(path) as connection:
                wrong += [f"{path.name}: {each}" for each in integrity(connection)]
        if textfile is not None and (world / textfile).read_text(encoding="utf-8") != metrics:
            wrong.append("the textfile is not what `metrics` prints")
        pushed = world.with_name("pushed")
        return cls(
            dump=dump,
            files={n: each for n, each in found.items() if not n.startswith(_APART)},
            metrics=metrics,
            pushed=pushed.read_text(encoding="utf-8") if pushed.is_file() else None,
            batches=Counter((row[1], row[2]) for row in batches(home)),
            counters=counters,
            matter=matter,
            # one that was made again has moved the older one on, or made it
            backups=frozenset(
                name
                for name in found
                if name.startswith(f"home/{BACKUPS}") and not name.endswith("-2.sqlite")
            ),
            wrong=tuple(wrong),
        )

    def put_away(self) -> Counter[tuple[str, str]]:
        """Files of batches: name, digest."""
        places = ("inbox/", "home/archive/", "home/quarantine/")
        return Counter(
            (name, each[0]) for name, each in self.files.items() if name.startswith(places)
        )

    def compare(self, calm: Picture, tally: Tally, *, failed: bool, loose: bool) -> None:
        """Hold it against that of an undisturbed home.

        With `failed` a run failed meanwhile, which may be told; with `loose`, its retraining did.
        """
        tally.broken += self.wrong
        tally.count(self.batches, calm.batches)
        tally.count(self.put_away(), calm.put_away())
        for name in self.counters.keys() | calm.counters.keys():
            found, other = self.counters.get(name, 0), calm.counters.get(name, 0)
            if found != other and not OF_RUNS.search(name):
                tally.lost += found < other
                tally.doubled += found > other
                tally.broken.append(f"counter {name}: {found:g}, not {other:g}")
        if loose:
            return
        if failed:
            pairs = [
                (f"ledger, {name}", self.matter[name], each) for name, each in calm.matter.items()
            ]
            pairs.append(("files", _lasting(self.files), _lasting(calm.files)))
        else:
            pairs = [("files", self.files, calm.files), ("metrics", self.metrics, calm.metrics)]
            pairs += [("ledger", self.dump, calm.dump), ("backups", self.backups, calm.backups)]
        if calm.pushed is not None and self.pushed != self.metrics:
            tally.broken.append("what was pushed last is not what `metrics` prints")
        for what, found, other in pairs:
            if found != other:
                tally.broken.append(f"{what}: {_difference(found, other)}")


# Of another moment, or compared by what is in it.
_APART = (f"home/{LEDGER}", f"home/{BACKUPS}/", "home/damaged/")


def _difference(found: Any, other: Any) -> str:
    """The first things that two have not in common."""
    if isinstance(found, Mapping):
        return difference(found, other)[:300]
    one, two = ([*(x.splitlines() if isinstance(x, str) else x)] for x in (found, other))
    more = [f"+ {line!s:.120}" for line in one if line not in two]
    less = [f"- {line!s:.120}" for line in two if line not in one]
    return "; ".join([*more[:2], *less[:2]]) or "another order"


def _lasting(found: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Files that tell nothing of runs."""
    return {name: each for name, each in found.items() if not name.endswith((".prom", ".om"))}


def _files(world: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name; digest, mode and, of what was put away, time of change."""
    for folder, folders, names in os.walk(world, followlinks=True):
        for name in (*names, *folders):
            path = Path(folder, name)
            told, info = str(path.relative_to(world)), path.lstat()
            if stat.S_ISDIR(info.st_mode):
                yield told, (oct(info.st_mode),)
            elif stat.S_ISREG(info.st_mode) and not name.endswith(".log"):  # it has killed runs
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                away = name.endswith(".csv") and not name.endswith("-rows.csv")
                away = away and path.parent.name != "data"  # downloaded, not put away
                yield told, (digest, oct(info.st_mode), *([str(info.st_mtime_ns)] * away))
            elif path.is_symlink() and path.is_file():
                yield told, (str(path.readlink()),)


def batches(home: Path) -> list[tuple[int, str, str]]:
    """Number, content id and outcome of every batch."""
    with connected(home / LEDGER) as connection:
        return connection.execute("SELECT sequence, content_id, outcome FROM batches").fetchall()


def _matter(connection: sqlite3.Connection) -> tuple[dict[str, Any], dict[str, float]]:
    """Tables, without the entries that rows date from; totals of counters."""
    queries = {
        "batches": "SELECT sequence, content_id, labelled, outcome FROM batches",
        "records": "SELECT sequence, record FROM records",
        "versions": "SELECT number, version, learnt, pruned, manifest FROM versions",
        "detector": "SELECT * FROM detector",
        "window": "SELECT sequence, n_rows, n_positive, rows FROM window",
        "scored": "SELECT * FROM scored",
        "cursors": "SELECT * FROM cursors",
        "champion": "SELECT value FROM facts WHERE name = 'champion' ORDER BY entry DESC LIMIT 1",
    }
    totals = connection.execute(
        "SELECT name || labels, (SELECT value FROM totals WHERE counter = counters.counter"
        " ORDER BY entry DESC LIMIT 1) FROM counters"
    )
    counters = {name: value or 0.0 for name, value in totals}
    return {name: connection.execute(q).fetchall() for name, q in queries.items()}, counters


# --- the commands ---

# Scenarios that are killed at system calls, and at how many of each kind at most.
CALLED = {"run that pushes": 1000, "repair": 1000, "prune": 25, "home of the first release": 25}


@dataclass(frozen=True)
class Scenario:
    """A command, and the one that comes after it."""

    name: str
    start: str  # the home that it begins in, see `make_past`
    words: tuple[str, ...]  # {v1} is the name of that version, {gateway} an address
    code: int = 0
    then: tuple[str, ...] = ("run-batch", "--inbox", "inbox")
    then_code: int = 0
    # Once it has done this, it is not given again: "entry" for what it adds to the history, or a
    # file; None: it can be given any number of times.
    done: str | None = "entry"
    later: float = 0.0  # seconds until it is given again; what is named after the moment differs
    crossing: bool = False  # whether the inbox is of another file system
    retrains: bool = False  # whether a failed training leaves the champion where it was
    cheap: bool = True  # whether it trains nothing

    @property
    def textfile(self) -> str | None:
        """What is published to besides a gateway."""
        if "--textfile" in self.words:
            return self.words[self.words.index("--textfile") + 1]
        return None if "{gateway}" in self.words else "home/metrics/wine_drift.prom"


INBOX = ("run-batch", "--inbox", "inbox", *TRAINING)
DRAIN = (*INBOX, "--drain")
PUSHING = ("--pushgateway", "{gateway}", "--textfile", "out/wine.prom")
REPAIR = Scenario(
    "repair",
    "damaged",
    ("repair", "--inbox", "inbox"),
    then=DRAIN,
    then_code=3,
    done=None,
    later=60.0,
)
SCENARIOS = (
    Scenario("inbox file", "good", INBOX),
    Scenario("inbox file that promotes", "flipped", INBOX, retrains=True, cheap=False),
    Scenario("bad inbox file", "bad", INBOX, 3),
    Scenario("inbox file with rows set aside", "gaps", INBOX),
    Scenario("inbox of another file system", "good", INBOX, crossing=True),
    Scenario("inbox that is drained", "several", DRAIN, 3),
    Scenario("linked inbox file", "linked", INBOX),
    Scenario("linked bad inbox file", "bad, linked", INBOX, 3),
    Scenario(
        "bad file that was named",
        "bad, named",
        ("run-batch", "bad.csv"),
        3,
        then=("run-batch", "bad.csv"),
        then_code=3,
    ),
    Scenario(
        "first run on a simulated stream",
        "empty",
        ("run-batch", "--source", "simulated", "--batch-rows", "60", *TRAINING),
        then=("run-batch", "--source", "simulated", "--batch-rows", "60"),
        cheap=False,
    ),
    Scenario(
        "first run on the rows of a table",
        "untrained",
        ("run-batch", "--data", "table.csv", "--batch-rows", "60", *TRAINING),
        then=("run-batch", "--data", "table.csv", "--batch-rows", "60"),
        cheap=False,
    ),
    Scenario(
        "first training by hand",
        "untrained",
        ("train", "--data", "table.csv", *TRAINING),
        cheap=False,
    ),
    Scenario(
        "challenger by hand",
        "flipped",
        ("train", "--force", *TRAINING),
        retrains=True,
        cheap=False,
    ),
    Scenario(
        "late labels that promote",
        "late",
        ("add-labels", "3", "late.csv", *TRAINING),
        done=None,
        retrains=True,
        cheap=False,
    ),
    Scenario("models rollback", "promoted", ("models", "rollback", "{v1}")),
    Scenario(
        "models export",
        "flipped",
        ("models", "export", "{v1}", "--out", "out/v1.tar"),
        done="out/v1.tar",
        then=("push",),
    ),
    Scenario(
        "a page for people",
        "flipped",
        ("report", "--out", "out/page.html"),
        done="out/page.html",
        then=("push",),
    ),
    Scenario("models import", "guest", ("models", "import", "v2.tar"), done=None),
    Scenario("models import, the first", "newcomer", ("models", "import", "v2.tar"), done=None),
    Scenario(
        "prune",
        "cluttered",
        ("prune", "--keep-versions", "1", "--keep-files", "1d", "--keep-history", "100"),
        done=None,
    ),
    REPAIR,
    replace(REPAIR, name="repair, inbox of another file system", crossing=True),
    replace(
        REPAIR,
        name="repair after a kill in a commit",
        start="halfway",
        then=Scenario.then,
        then_code=0,
    ),
    Scenario(
        "run that pushes",
        "good",
        (*INBOX, *PUSHING, "--log-file", "out/run.log"),
        then=(*INBOX, *PUSHING),
    ),
    Scenario(
        "push",
        "good",
        ("push", "--pushgateway", "{gateway}"),
        then=(*INBOX, "--pushgateway", "{gateway}"),
        done=None,
    ),
    Scenario(
        "fetch-data",
        "good",
        ("fetch-data", "--url", "{gateway}/table.csv"),
        done=f"home/data/{FILE_NAME}",
    ),
    Scenario("backup that is due", "third", INBOX),
    Scenario("home of the first release", "golden", INBOX, retrains=True, cheap=False),
    Scenario(
        "history export",
        "flipped",
        ("history", "export", "--openmetrics", "out/past.om"),
        then=("push",),
        done=None,
    ),
)


@dataclass(frozen=True)
class Progress:
    """How far a home has come."""

    entry: int = 0  # of the history
    committed: tuple[Any, ...] = (0, 0, None)  # batches, versions, champion

    @classmethod
    def of(cls, home: Path) -> Progress | None:
        """Look, and take back no half of a transaction; None: it is damaged."""
        if not (home / LEDGER).is_file() or not (home / LEDGER).stat().st_size:
            return cls()
        with tempfile.TemporaryDirectory() as folder:
            for path in home.glob(f"{LEDGER}*"):
                shutil.copy2(path, folder)
            queries = (
                "SELECT coalesce(max(entry), 0) FROM history",
                "SELECT coalesce(max(sequence), 0) FROM batches",
                "SELECT count(*) FROM versions",
                "SELECT max(value) FROM facts WHERE name = 'champion' AND entry ="
                " (SELECT max(entry) FROM facts WHERE name = 'champion')",
            )
            with closing(sqlite3.connect(Path(folder, LEDGER))) as copy:
                try:
                    if copy.execute("PRAGMA user_version").fetchone() == (0,):
                        return cls()
                    entry, *others = (copy.execute(query).fetchone()[0] for query in queries)
                except sqlite3.DatabaseError:
                    return None
        return cls(entry, tuple(others))


@dataclass(frozen=True)
class Calm:
    """A scenario that nothing disturbed."""

    done: Done  # its command
    progress: Progress | None  # after that
    picture: Picture  # in the end
    wrong: tuple[str, ...]
    lost: int  # batches that were there before


@dataclass(frozen=True)
class Bench:
    """Where scenarios are played."""

    place: Path
    now: float  # Unix time of the command; what follows comes later
    gateway: str
    elsewhere: Path | None  # a folder of another file system
    kept: Path  # for what is to be looked at

    def play(self, scenario: Scenario, name: str, trap: Trap | None = None) -> Played:
        """Play it in a folder of its own."""
        world = self.place / "cases" / name / "world"
        shutil.copytree(self.place / "past" / scenario.start / "world", world, symlinks=True)
        if scenario.crossing and self.elsewhere is not None:
            shutil.move(world / "inbox", self.elsewhere / name)
            (world / "inbox").symlink_to(self.elsewhere / name)
        return Played(self, scenario, world, trap)

    def calm(self, number: int) -> Calm:
        """Let a scenario be undisturbed."""
        scenario = SCENARIOS[number]
        played = self.play(scenario, f"calm-{number}")
        done, progress = played.first(), Progress.of(played.world / "home")
        played.check(done, {scenario.code})
        played.follow()
        known = json.loads((self.place / "past" / scenario.start / "known").read_text())
        picture = played.picture()
        lost = Counter(known) - Counter(content_id for content_id, _ in picture.batches)
        played.wrong += picture.wrong
        played.tidy()
        return Calm(done, progress, picture, tuple(played.wrong), lost.total())


@dataclass
class Played:
    """A scenario in one folder."""

    bench: Bench
    scenario: Scenario
    world: Path
    trap: Trap | None
    tracebacks: int = 0
    wrong: list[str] = field(default_factory=list)

    def _run(self, words: Sequence[str], at: float, trap: Trap | None = None) -> Done:
        apart = self.scenario.crossing and self.bench.elsewhere is None
        models = self.world / "home" / "models"
        names = {path.name.partition("-")[0]: path.name for path in models.glob("v*")}
        names["gateway"] = f"{self.bench.gateway}/{self.world.parent.name}"
        given = [word.format(**names) if word.startswith("{") else word for word in words]
        crossing = "inbox" if apart else ""
        done = command(self.world, [*given, "--home", "home"], at=at, trap=trap, crossing=crossing)
        if "Traceback" in done.said:
            self.tracebacks += 1
            self.wrong.append(f"{' '.join(words[:2])}: {done.said[-600:]}")
        return done

    def first(self) -> Done:
        """The command, trapped."""
        return self._run(self.scenario.words, self.bench.now, self.trap)

    def again(self) -> Done:
        """The command once more."""
        return self._run(self.scenario.words, self.bench.now + self.scenario.later)

    def follow(self) -> None:
        """The command that comes next."""
        done = self._run(self.scenario.then, self.bench.now + EVERY)
        self.check(done, {self.scenario.then_code})

    def check(self, done: Done, codes: Collection[int]) -> None:
        """Another exit code is a broken promise."""
        if done.code not in codes:
            told = " ".join(done.said.split())[-200:]
            self.wrong.append(f"exit code {done.code}, not of {sorted(codes)}: {told}")

    def picture(self) -> Picture:
        """What it came to."""
        return Picture.of(self.world, self.scenario.textfile)

    def tidy(self) -> None:
        """Remove what nobody needs to look at any more."""
        inbox = self.world / "inbox"
        if inbox.is_symlink():
            shutil.rmtree(inbox.resolve(), ignore_errors=True)
        if self.wrong and len([*self.bench.kept.iterdir()]) < 50:
            shutil.move(self.world.parent, self.bench.kept / self.world.parent.name)
        else:
            shutil.rmtree(self.world.parent)


@dataclass(frozen=True)
class Case:
    """One fault."""

    row: str
    number: int  # of the scenario
    trap: Trap
    point: str = ""  # name of the fail point, where there is one


@dataclass
class Cases:
    """Faults in homes of their own, of scenarios that were undisturbed once."""

    bench: Bench
    calm: Sequence[Calm]

    def meet(self, numbered: tuple[int, Case]) -> Tally:
        """One fault, and what came of it."""
        number, case = numbered
        scenario, calm, trap = SCENARIOS[case.number], self.calm[case.number], case.trap
        played = self.bench.play(scenario, f"{number}", trap)
        done = played.first()
        loose = False
        if trap.error:
            codes = allowed(scenario, case.point)
            played.check(done, codes)
            loose = scenario.retrains and done.code == 9
        elif not done.killed:
            played.check(done, {scenario.code})
        if (trap.at and not trap.delay) and done.points[-1:] != (case.point,) and not trap.error:
            played.wrong.append(f"not killed at {case.point}: {done.code}, {done.points[-1:]}")
        if not self._is_done(scenario, calm, played.world, failed=bool(trap.error)):
            told = {scenario.code} | ({0} if "--drain" in scenario.words else set())
            played.check(played.again(), told)  # a bad file among others may have been told of
        played.follow()
        tally = Tally(case.row, int(done.killed or bool(trap.error)), tracebacks=played.tracebacks)
        played.picture().compare(calm.picture, tally, failed=bool(trap.error), loose=loose)
        tally.broken += played.wrong
        how = f"error {trap.error}" if trap.error else f"{trap.call or 'kill'}"
        told = f"{scenario.name}, {how} at {trap.at or trap.nth} {case.point} +{trap.delay:.4f}"
        tally.broken = [f"{told} ({number}): {each}" for each in tally.broken]
        played.wrong += tally.broken
        played.tidy()
        return tally

    def _is_done(self, scenario: Scenario, calm: Calm, world: Path, *, failed: bool) -> bool:
        if scenario.done is None:
            return False
        if scenario.done != "entry":
            return (world / scenario.done).exists()
        found = Progress.of(world / "home")
        if found is None or calm.progress is None:
            return False
        if failed:  # that it did may be an entry, too
            return found.committed == calm.progress.committed
        return found.entry == calm.progress.entry


def allowed(scenario: Scenario, point: str) -> set[int]:
    """Exit codes of a command in which the step after a fail point fails.

    What is in doubt is a version: one that is only a backup is done without.
    """
    what = point.partition(":")[0].partition(",")[0]
    code, failed = scenario.code, 9 if scenario.retrains else 6
    if "--drain" in scenario.words:  # the worst of what its runs came to, and the first such
        return {code, *allowed(replace(scenario, code=0, words=()), point)}
    if what in ("archive", "quarantine"):  # the batch is recorded; the next run sees to its file
        return {code}
    if what == "push":  # it is tried again
        return {code, code or 4}
    if what == "textfile":
        return {code or 4}
    if what == "backup of a version":
        return {code}
    if what == "claim":  # the file waits for the next run; one that was named is missed
        return {0, 2} if scenario.then != scenario.words else {0, 2, code}
    if what == "folder":  # any of those that are needed for all that is below
        return {code, 2, 4, failed, 6}
    if what == "log":  # nothing else is wrong
        return {code}
    if what in ("lock", "export", "history", "report", "fetch"):
        return {2}
    if what == "backup":
        return {code, 6} if scenario.start == "golden" else {code}
    return {code, failed} if what == "version" else {6}


# --- every step that there is ---

FOLDERS = ("archive", "quarantine")  # steps of `put_away` are named after where a file goes


def steps() -> Iterator[str]:
    """Names of all fail points in the package, as its code has them.

    Those of a ledger in PostgreSQL and of models behind a URL are not met by one host; see
    tests/test_postgres.py and tests/test_bucket.py.
    """
    package = Path(wine_drift.__file__).parent
    trees = {path.name: ast.parse(path.read_text("utf-8")) for path in package.rglob("*.py")}
    functions = [each for each in trees["files.py"].body if isinstance(each, ast.FunctionDef)]
    places = {each.name: [word.arg for word in each.args.args] for each in functions}
    named = {name: words.index("what") for name, words in places.items() if "what" in words}
    writers = {each.name: list(_named(each, named)) for each in functions}
    for called, words in itertools.chain(*writers.values()):
        if called == "reached" and isinstance(words, ast.Constant):
            yield str(words.value)  # of every call of that function
    for name, tree in trees.items():
        if name in ("files.py", "postgres.py", "bucket.py"):
            continue
        for called, what in _named(tree, named):
            for folder in FOLDERS:
                word = _spelt(what, {"folder.name": folder})
                yield from [word] if called == "reached" else _within(writers, called, word)


def _named(tree: ast.AST, named: Mapping[str, int]) -> Iterator[tuple[str, ast.expr]]:
    """Calls that name a step, and the name.

    These are calls of `reached`, and of functions of `files`: the place of the name by theirs.
    """
    for each in ast.walk(tree):
        if isinstance(each, ast.Call):
            module, _, name = ast.unparse(each.func).rpartition(".")
            if name == "reached" and module in ("", "failpoints"):
                yield name, each.args[0]
            elif name in named and module in ("", "files") and len(each.args) > named[name]:
                yield name, each.args[named[name]]


def _within(
    writers: Mapping[str, list[tuple[str, ast.expr]]], name: str, what: str
) -> Iterator[str]:
    """Steps in one function of `files`."""
    for called, words in writers[name]:
        inner = _spelt(words, {"what": what})
        yield from [inner] if called == "reached" else _within(writers, called, inner)


def _spelt(words: ast.expr, known: Mapping[str, str]) -> str:
    """A text as it is made, where it is known what it is made of."""
    if isinstance(words, ast.Constant):
        return str(words.value)
    if isinstance(words, ast.JoinedStr):
        return "".join(_spelt(part, known) for part in words.values)
    if isinstance(words, ast.FormattedValue):
        words = words.value
    text = ast.unparse(words)
    return known.get(text, f"{{{text}}}, of which the drill does not know what it is")


# --- faults ---


def faults(calm: Sequence[Calm], rng: random.Random, *, thorough: bool) -> Iterator[Case]:
    """Kills at each step, and errors in it; a sample of them if it is not to be thorough."""
    kills, errors = [], []
    for number, (scenario, each) in enumerate(zip(SCENARIOS, calm, strict=True)):
        for at, point in enumerate(each.done.points, start=1):
            row = f": {scenario.name}" if thorough else ", of one command or another"
            kills.append(Case(f"killed at a step{row}", number, Trap(at), point))
            if point == "claim: read" and "--drain" in scenario.words:
                continue  # a file that cannot be read is passed over, so others come before it
            trap = Trap(at, error=rng.choice(ERRORS))
            errors.append(Case(f"a step fails{row}", number, trap, point))
    if thorough:
        yield from kills
        met: set[tuple[int, str]] = set()
        for case in errors:  # one file of a version is as good as another
            if case.point.startswith("version, a file") and (case.number, case.point) in met:
                continue
            met.add((case.number, case.point))
            yield case
        return
    # Each step once, where that is cheap if it can be; and each command once.
    rng.shuffle(kills)
    kills.sort(key=lambda case: not SCENARIOS[case.number].cheap)
    steps_met = {case.point: case for case in reversed(kills)}
    numbers_met = {case.number: case for case in kills}
    for case in steps_met.values():
        numbers_met.pop(case.number, None)
    yield from (*steps_met.values(), *numbers_met.values())
    rng.shuffle(errors)
    yield from [case for case in errors if SCENARIOS[case.number].cheap][:12]


def timed(calm: Sequence[Calm], rng: random.Random, *, thorough: bool) -> Iterator[Case]:
    """Kills at random times, those in a commit apart; endless."""
    numbers = [n for n, each in enumerate(SCENARIOS) if thorough or each.cheap]
    while True:
        number = rng.choice(numbers)
        done = calm[number].done
        yield Case("killed at any time", number, Trap(delay=rng.uniform(0, done.seconds)))
        commits = [n for n, point in enumerate(done.points, 1) if point == "ledger: commit"]
        if commits:
            at = rng.choice(commits)
            took = done.moments[at] - done.moments[at - 1]
            trap = Trap(at, delay=rng.uniform(0, 1.5 * took))
            yield Case("killed in a commit", number, trap, done.points[at - 1])


def at_calls(bench: Bench, rng: random.Random) -> Iterator[Case]:
    """Kills at each system call of some scenarios that touches disk or network."""
    for number, scenario in enumerate(SCENARIOS):
        most = CALLED.get(scenario.name, 0)
        if not most:
            continue
        played = bench.play(scenario, f"calls-{number}", Trap(call="*"))
        played.first()
        for name, times in killing.calls(played.world).items():
            for nth in rng.sample(range(1, times + 1), min(times, most)):
                row = f"killed at a system call: {scenario.name}"
                yield Case(row, number, Trap(call=name, nth=nth))
        played.tidy()


# --- the gateway ---


class _Keeper(http.server.BaseHTTPRequestHandler):
    """Keeps what was pushed last to each path, as a file, and has a table for whoever asks."""

    timeout = 10
    place = Path()
    table = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.table)))
        self.end_headers()
        self.wfile.write(self.table)

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) == length:  # else the sender is dead
            folder = self.place / self.path.split("/")[1]
            partial = folder / f"pushed-{self.client_address[1]}"
            partial.write_bytes(body)
            partial.replace(folder / "pushed")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


class _Gateway(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever pushes is killed now and then."""


# --- the drill ---


def rows(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """All faults, in a process that has done the imports and nothing else."""
    rng, now = random.Random(seed), float(int(killing.real_time()) + 3600)
    with contextlib.ExitStack() as stack:
        for module in ("gathering", "champion", "shards"):  # so that some batches go into files
            stack.enter_context(mock.patch(f"wine_drift.{module}.SHARD_ROWS", 100))
        # A kill takes nothing from what the system has in memory: no need to wait for a disk.
        quick = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_memory(place))))
        other = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        make_past(quick / "past", now, seed)
        for folder in (quick / "cases", place / "kept"):
            folder.mkdir()
        _Keeper.place = quick / "cases"
        _Keeper.table = (quick / "past" / "quiet" / "world" / "table.csv").read_bytes()
        known = hashlib.sha256(_Keeper.table).hexdigest()
        stack.enter_context(mock.patch("wine_drift.dataset.SHA256", new=known))
        server = stack.enter_context(_Gateway(("127.0.0.1", 0), _Keeper))
        context = multiprocessing.get_context("fork")
        keeper = context.Process(target=server.serve_forever, daemon=True)
        keeper.start()
        stack.callback(keeper.kill)
        address = "http://{}:{}".format(*server.server_address)
        apart = other.stat().st_dev != quick.stat().st_dev
        bench = Bench(quick, now, address, other if apart else None, place / "kept")
        n_workers = max(2, len(os.sched_getaffinity(0)))
        with context.Pool(n_workers) as pool:
            calm = pool.map(bench.calm, range(len(SCENARIOS)), chunksize=1)
        yield from undisturbed(calm)
        cases = Cases(bench, calm)
        with context.Pool(n_workers) as pool:
            numbers = itertools.count(1)

            def tried(faults: Iterable[Case]) -> Iterator[Row]:
                return summed(
                    pool.imap_unordered(cases.meet, zip(numbers, faults, strict=False), chunksize=1)
                )

            yield from tried([*faults(calm, rng, thorough=thorough)])
            n_timed = 640 if thorough else 10
            yield from tried([*islice(timed(calm, rng, thorough=thorough), n_timed)])
            if thorough and killing.can_trace():
                yield from tried([*at_calls(bench, rng)])
            elif thorough and os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
                yield Tally("killed at a system call", broken=["needs strace"]).row()
            elif thorough:
                sys.stderr.write("left out, as there is no strace: kills at system calls\n")


def undisturbed(calm: Sequence[Calm]) -> Iterator[Row]:
    """What happens without any fault, and whether every step is among it."""
    wrong = [
        f"{scenario.name}: {each}"
        for scenario, story in zip(SCENARIOS, calm, strict=True)
        for each in story.wrong
    ]
    lost = sum(story.lost for story in calm)
    yield Tally("commands that nothing disturbs", len(calm), lost, broken=wrong).row()
    reached, there = {point for story in calm for point in story.done.points}, set(steps())
    missing = [f"no command comes to {point!r}" for point in sorted(there - reached)]
    missing += [f"not found in the code: {point!r}" for point in sorted(reached - there)]
    every = "steps of the package that a command comes to"
    yield Tally(every, len(there), broken=missing).row()


def summed(met: Iterable[Tally]) -> Iterator[Row]:
    """The rows of many faults."""
    tallies: dict[str, Tally] = {}
    for tally in met:
        tallies.setdefault(tally.fault, Tally(tally.fault)).add(tally)
    for tally in tallies.values():
        yield tally.row()


def _memory(place: Path) -> Path:
    """A folder in memory, if there is one with room."""
    path = Path("/dev/shm")
    if path.is_dir() and os.access(path, os.W_OK) and shutil.disk_usage(path).free > ROOM:
        return path
    return place
