"""Commands in forks of one process that has done the imports, and what a home holds afterwards."""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import pkgutil
import re
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from drill import Row
from forks import HANG, apart, ended
from prometheus_client.parser import text_string_to_metric_families

import wine_drift
from wine_drift.dataset import load_schema
from wine_drift.ledger import Ledger
from wine_drift.outbox import families
from wine_drift.publishing import render
from wine_drift.service import WARM
from wine_drift.settings import Settings
from wine_drift.supply import write_simulated

ROWS = 120  # of a batch
TRAINING = ("--rounds", "5", "--threads", "1")
# What the same batches need not have in common when they were taken in other runs,
OF_RUNS = r"_timestamp_seconds|_duration_seconds|_max_rss_|_run|_schedule_interval_"
# nor when some of these failed, or labels came at another time.
OF_FAILURES = rf"{OF_RUNS}|_push_|_label_lag_seconds"
COUNTED = re.compile(r"wine_drift_(batches|rows|rows_rejected|late_labels)_total")


def warm() -> None:
    """Import all that a command may need, so that a fork reads no file that is not its own."""
    modules = [module.name for module in pkgutil.iter_modules(wine_drift.__path__)]
    modules.remove("__main__")
    heavy = ("lightgbm", "sklearn.model_selection", "pyarrow.pandas_compat")
    for name in (*(f"wine_drift.{module}" for module in modules), *WARM, *heavy):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a fork that collects garbage would copy all of it


# --- commands ---


@dataclass(frozen=True)
class Done:
    """A command that came to its end."""

    arguments: tuple[str, ...]
    code: int | None  # None: it hung
    seconds: float
    out: str
    err: str

    @property
    def traceback(self) -> bool:
        """Whether it ended in a way that nobody meant."""
        return "Traceback" in self.err or self.code in (None, 1)

    @property
    def outcome(self) -> str:
        """As it is told of a run."""
        return self.err if "Traceback" in self.err else f"exit code {self.code}"

    def __str__(self) -> str:
        words = " ".join(each for each in self.arguments if not each.startswith("/"))
        return f"{words}: exit code {self.code}: {(self.err or self.out)[-1500:]}"


def call(
    *arguments: object,
    first: Callable[[], None] = lambda: None,
    stdout: Path | None = None,
    hang: float = HANG,
) -> Done:
    """Run a command in a fork; `first` is called in it before, `stdout` is where it prints."""
    words = tuple(map(str, arguments))

    def command() -> None:
        from wine_drift.cli import main

        first()
        main(list(words), prog_name="wine-drift")

    return fork(command, words, stdout=stdout, hang=hang)


def fork(
    work: Callable[[], object],
    told: tuple[str, ...] = (),
    *,
    stdout: Path | None = None,
    hang: float = HANG,
) -> Done:
    """Do something in a fork, wait for its end, and take in what it prints."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:

        def speak() -> None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno() if stdout is None else os.open(stdout, os.O_WRONLY), 1)
            os.dup2(err.fileno(), 2)
            work()

        began = time.monotonic()
        code = ended(apart(speak), hang)
        seconds = time.monotonic() - began
        for file in (out, err):
            file.seek(0)
        said = (file.read().decode(errors="replace") for file in (out, err))
        return Done(told, code, seconds, *said)


def must(done: Done) -> None:
    """A command that prepares something has to do its work; its file may be a bad one."""
    if done.code not in (0, 3):
        raise RuntimeError(str(done))


# --- what is sent ---


@dataclass(frozen=True)
class Goods:
    """Files to be taken, and what the first model is trained on."""

    data: Path
    files: dict[str, bytes]
    labels: bytes  # of the file that came without
    _ages: Iterator[int] = field(default_factory=count)

    def send(self, inbox: Path, *names: str) -> None:
        """Put files into an inbox, newer than all that were sent before."""
        inbox.mkdir(exist_ok=True)
        for name in names:
            (inbox / name).write_bytes(self.files[name])
            age = 1e9 + next(self._ages)
            os.utime(inbox / name, (age, age))


def make_goods(place: Path, seed: int) -> Goods:
    """Good files `0.csv` and so on, whose wines change; one bad, one spoilt, one without labels.

    From `flip-0.csv` on the answers are wrong ones, which is what leads to a promotion.
    """
    schema, files = load_schema(None), {}
    drawn = Settings(source="simulated", batch_rows=ROWS, seed=seed)
    for number, path in enumerate(write_simulated(drawn, schema, n_batches=8, out=place / "goods")):
        files[f"{number}.csv"] = path.read_bytes()
    flipped = replace(drawn, batch_rows=300, scenario="label_flip", seed=seed + 1)
    for number, path in enumerate(
        write_simulated(flipped, schema, n_batches=3, out=place / "goods")
    ):
        files[f"flip-{number}.csv"] = path.read_bytes()
    mixed = [
        line.replace(b";", b";x", 1) if n % 40 == 3 else line
        for n, line in enumerate(files["1.csv"].splitlines())
    ]
    files["some-bad.csv"] = b"\n".join([*mixed, b""])
    files["bad.csv"] = b"a;b\n1;2\n"
    files["no-labels.csv"], labels = without_labels(files["0.csv"])
    trained = Settings(source="simulated", batch_rows=600, seed=seed + 2)
    (data,) = write_simulated(trained, schema, n_batches=1, out=place / "table")
    return Goods(data, files, labels)


def without_labels(data: bytes) -> tuple[bytes, bytes]:
    """A table whose last column is empty, and the column."""
    lines = [line.rpartition(b";") for line in data.splitlines()]
    table = [b";".join(lines[0][::2]), *(line[0] + b";" for line in lines[1:])]
    return b"\n".join([*table, b""]), b"\n".join([*(line[2] for line in lines), b""])


def due(home: Path) -> None:
    """Let a backup be due with the next run."""
    newest = home / "backups" / "ledger-1.sqlite"
    if newest.exists():
        os.utime(newest, (1e9, 1e9))


# --- what came of it ---


@dataclass
class State:
    """What a home holds, but for times and for what tells of single runs."""

    batches: list[tuple[str, str]]  # id and outcome, in the order of their numbers
    records: list[dict[str, Any]]
    figures: dict[tuple[str, ...], float]
    files: Counter[tuple[str, str]]  # of archive, quarantine and inbox: name, digest
    models: dict[str, str]
    learning: Any  # champion, detectors, window, rows that wait
    text: str  # of the exposition
    broken: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        home: Path,
        inbox: Path | None = None,
        *,
        but: str = OF_FAILURES,
        address: str | None = None,
        models: Path | None = None,
    ) -> State:
        """Look at a home, but not at the figures of these names.

        `address` and `models` tell where its ledger and its versions are, if they are elsewhere.
        """
        with Ledger.open(home, address, read_only=True) as ledger:
            records = [_untimed(record) for record in ledger.records(100_000)]
            learning = _learning(ledger)
            text = render(families(Settings(home=home), ledger))
        batches = [(record["batch"]["id"], record["outcome"]) for record in records]
        figures = {k: value for k, value in samples(text).items() if not re.search(but, k[0])}
        files = Counter(_files(home, home / "archive", home / "quarantine"))
        if inbox is not None:
            files += Counter(_files(inbox.parent, inbox))
        models = home / "models" if models is None else models
        versions = dict(_files(models.parent, models))
        found = cls(batches, records, figures, files, versions, learning, text)
        left = [path for path in home.rglob(".*") if path.name.endswith(".part")]
        found.broken += [f"left: {path.relative_to(home)}" for path in left]
        return found

    @property
    def counted(self) -> Counter[tuple[str, ...]]:
        """Batches, rows and late labels, as they are published."""
        figures = self.figures.items()
        return Counter({key: int(value) for key, value in figures if COUNTED.match(key[0])})


def difference(found: Mapping[Any, float], expected: Mapping[Any, float]) -> str:
    """The first things that are not equal."""
    keys = [key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)]
    return ", ".join(
        f"{key}: {found.get(key)}, not {expected.get(key)}" for key in sorted(keys)[:3]
    )


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Name and label values, in the order of their names and without the pipeline -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: sample.labels[name] for name in sorted(sample.labels)}
            labels.pop("pipeline", None)
            found[(sample.name, *labels.values())] = sample.value
    return found


def exposition(home: Path) -> str:
    """What `metrics` prints."""
    with Ledger.open(home, read_only=True) as ledger:
        return render(families(Settings(home=home), ledger))


def connected(path: Path) -> closing[sqlite3.Connection]:
    """A ledger that is only to be read."""
    return closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))


def integrity(connection: sqlite3.Connection) -> Iterator[str]:
    """What SQLite has against a ledger."""
    ((words, *_), *_) = connection.execute("PRAGMA integrity_check").fetchall()
    if words != "ok":
        yield f"integrity_check: {words}"


def _untimed(record: dict[str, Any]) -> dict[str, Any]:
    if record["labels"] is not None:
        record["labels"] |= {"added_at": 0, "lag_seconds": 0}
    return record


def _learning(ledger: Ledger) -> Any:
    champion = ledger.champion()
    versions = [{**each, "trained_at": 0} for each in ledger.versions()]
    if champion is None:
        return None
    rows = ledger.labelled_rows(len(champion["features"]), after=0)
    scored = [ledger.scored(number) for number in range(1, ledger.next_sequence())]
    return {
        "champion": champion["version"],
        "since": ledger.champion_since(),
        "versions": versions,
        "learnt": [ledger.learnt(each["version"]) for each in versions],
        "detectors": [ledger.detector(each["version"]) for each in versions],
        "window": hashlib.sha256(rows.to_bytes()).hexdigest(),
        "scored": [each and (each[0].to_bytes(), each[1]) for each in scored],
        "change": ledger.change(),
        "pruned": ledger.pruned(),
    }


def _files(base: Path, *folders: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of each file; the time in a manifest left out."""
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            data = path.read_bytes()
            if path.name == "manifest.json":
                data = json.dumps(json.loads(data) | {"trained_at": None}).encode()
            yield str(path.relative_to(base)), hashlib.sha256(data).hexdigest()


@dataclass
class Tally:
    """What came of many tries of one fault."""

    fault: str
    tried: int = 0
    lost: int = 0
    doubled: int = 0
    tracebacks: int = 0
    broken: list[str] = field(default_factory=list)

    def look(self, done: Done, codes: Sequence[int], *, about: str = "") -> bool:
        """See whether a command ended as it should, and told what to do if it failed."""
        if done.traceback:
            self.tracebacks += 1
            self.broken.append(f"{about}{done}")
        elif done.code not in codes:
            self.broken.append(f"{about}not one of {codes}: {done}")
        elif done.code and not re.search(r"error: .*\n( +\S.*\n)", done.err):
            self.broken.append(f"{about}no remedy: {done}")
        else:
            return True
        return False

    def count(self, found: Counter[Any], expected: Counter[Any]) -> None:
        """What is not there, and what is there beyond."""
        self.lost += (expected - found).total()
        self.doubled += (found - expected).total()

    def compare(self, found: State, calm: State, *, exact: bool = True, about: str = "") -> None:
        """Hold what is there against an undisturbed home.

        If it is not to be exact, only what is counted is compared: batches, rows, files.
        """
        broken = [*found.broken]
        pairs = [(Counter(found.batches), Counter(calm.batches)), (found.files, calm.files)]
        for each, expected in pairs:
            self.count(each, expected)
            if each != expected:
                broken.append(f"missing {list(expected - each)}, beyond {list(each - expected)}")
        counted, wanted = found.counted, calm.counted
        if counted != wanted:
            self.lost += bool(wanted - counted)
            self.doubled += bool(counted - wanted)
            broken.append(f"counters: {difference(counted, wanted)}")
        if exact:
            for what in ("batches", "records", "models", "learning"):
                if getattr(found, what) != getattr(calm, what):
                    broken.append(f"{what} are not those of an undisturbed home")
            if found.figures != calm.figures:
                broken.append(f"metrics: {difference(found.figures, calm.figures)}")
        self.broken += [f"{about}{each}" for each in broken]

    def add(self, other: Tally) -> None:
        """More tries of the same fault."""
        self.tried += other.tried
        self.lost += other.lost
        self.doubled += other.doubled
        self.tracebacks += other.tracebacks
        self.broken += other.broken

    def expect(self, holds: object, words: str) -> None:
        """Another promise."""
        if not holds:
            self.broken.append(words)

    def row(self) -> Row:
        """The line of the table, with the first of the broken promises."""
        more = len(self.broken) - 6
        told = [*self.broken[:6], *([f"and {more} more"] if more > 0 else [])]
        return Row(self.fault, self.tried, self.lost, self.doubled, self.tracebacks, tuple(told))


def empty(folder: Path) -> None:
    """Remove all that is in a folder."""
    for path in folder.iterdir():
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
