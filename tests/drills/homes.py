"""Commands in forks of one process that has done the imports, and what a home holds afterwards."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from drill import Row
from prometheus_client.parser import text_string_to_metric_families

import wine_drift
from wine_drift.dataset import load_schema
from wine_drift.ledger import Ledger
from wine_drift.outbox import families
from wine_drift.publishing import render
from wine_drift.settings import Settings
from wine_drift.supply import write_simulated

HANG = 120.0  # seconds after which a command hangs
ROWS = 120  # of a batch
TRAINING = ("--rounds", "5", "--threads", "1")
ENV = {name: word for name, word in os.environ.items() if not name.startswith("WINE_DRIFT_")}
# What the same batches need not have in common: what tells of the runs that took them, of those
# that failed among them, and of when they were taken.
OF_RUNS = re.compile(
    r"_timestamp_seconds|_duration_seconds|_max_rss_|_run|_schedule_interval_|_push_|_pushes_"
    r"|_label_lag_seconds"
)
COUNTED = re.compile(r"wine_drift_(batches|rows|rows_rejected|late_labels)_total")
KEPT = ("archive", "quarantine", "models")  # folders of a home whose files are compared


# --- a process of its own for a drill ---


def driven(
    module: str, place: Path, *, thorough: bool, seed: int, prefix: Sequence[str] = ()
) -> Iterator[Row]:
    """Run a drill in a process that has no threads, as what it forks must not inherit any."""
    how = "thorough" if thorough else "short"
    with (
        (place / "stderr").open("w+", encoding="utf-8") as stderr,
        subprocess.Popen(
            [*prefix, sys.executable, module, how, str(place), str(seed)],
            env=ENV,
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as driver,
    ):
        assert driver.stdout is not None
        for line in driver.stdout:
            told = json.loads(line)
            yield Row(**told | {"broken": tuple(told["broken"])})
        if driver.wait():
            stderr.seek(0)
            words = stderr.read()
            yield Row("the drill itself", 1, 0, 0, words.count("Traceback"), (words[-2000:],))


def drive(rows: Callable[..., Iterator[Row]]) -> None:
    """What such a process does: it tells its rows as JSON, one a line."""
    how, place, seed = sys.argv[1:]
    warm()
    for row in rows(Path(place), thorough=how == "thorough", seed=int(seed)):
        sys.stdout.write(json.dumps(asdict(row)) + "\n")
        sys.stdout.flush()


def warm() -> None:
    """Import all that a command may need, so that a fork reads no file that is not its own."""
    for module in pkgutil.iter_modules(wine_drift.__path__):
        if module.name != "__main__":
            importlib.import_module(f"wine_drift.{module.name}")
    for name in ("sklearn.model_selection", "pyarrow.pandas_compat", "pandas.io.formats.csvs"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a fork that collects garbage would copy all of it


# --- commands ---


@dataclass(frozen=True)
class Done:
    """A command that came to its end."""

    arguments: tuple[str, ...]
    code: int | None  # None: it hung
    out: str
    err: str

    @property
    def traceback(self) -> bool:
        """Whether it ended in a way that nobody meant."""
        return "Traceback" in self.err or self.code in (None, 1)

    def __str__(self) -> str:
        words = " ".join(each for each in self.arguments if not each.startswith("/"))
        return f"{words}: exit code {self.code}: {(self.err or self.out)[-1500:]}"


def call(
    *arguments: object,
    first: Callable[[], None] = lambda: None,
    stdout: Path | None = None,
) -> Done:
    """Run a command in a fork; `first` is called in it before, `stdout` is where it prints."""
    words = tuple(map(str, arguments))

    def command() -> None:
        from wine_drift.cli import main

        first()
        main(list(words), prog_name="wine-drift")

    return fork(command, words, stdout=stdout)


def fork(
    work: Callable[[], None], told: tuple[str, ...] = (), *, stdout: Path | None = None
) -> Done:
    """Do something in a fork, wait for its end, and take in what it prints."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _work(work, out.fileno(), err.fileno(), stdout)
        code, end = None, time.monotonic() + HANG
        while code is None and time.monotonic() < end:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        return Done(
            told, code, out.read().decode(errors="replace"), err.read().decode(errors="replace")
        )


def _work(work: Callable[[], None], out: int, err: int, stdout: Path | None) -> None:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out if stdout is None else os.open(stdout, os.O_WRONLY), 1)
        os.dup2(err, 2)
        work()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


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


def make_goods(place: Path, seed: int, *, n_files: int = 8) -> Goods:
    """Good files `0.csv` and so on, whose wines change; one bad, one spoilt, one without labels.

    From `flip-0.csv` on the answers are wrong ones, which is what leads to a promotion.
    """
    schema, files = load_schema(None), {}
    drawn = Settings(source="simulated", batch_rows=ROWS, seed=seed)
    for number, path in enumerate(
        write_simulated(drawn, schema, n_batches=n_files, out=place / "goods")
    ):
        files[f"{number}.csv"] = path.read_bytes()
    flipped = replace(drawn, batch_rows=300, scenario="label_flip", seed=seed + 1)
    for number, path in enumerate(
        write_simulated(flipped, schema, n_batches=3, out=place / "goods")
    ):
        files[f"flip-{number}.csv"] = path.read_bytes()
    lines = [line.rpartition(b";") for line in files["0.csv"].splitlines()]
    mixed = [
        line.replace(b";", b";x", 1) if n % 40 == 3 else line
        for n, line in enumerate(files["1.csv"].splitlines())
    ]
    files["some-bad.csv"] = b"\n".join([*mixed, b""])
    files["bad.csv"] = b"a;b\n1;2\n"
    rest = [line[0] + b";" for line in lines[1:]]
    files["no-labels.csv"] = b"\n".join([b";".join(lines[0][::2]), *rest, b""])
    labels = b"\n".join([*(line[2] for line in lines), b""])
    trained = Settings(source="simulated", batch_rows=600, seed=seed + 2)
    (data,) = write_simulated(trained, schema, n_batches=1, out=place / "table")
    return Goods(data, files, labels)


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
    def of(cls, home: Path, inbox: Path | None = None) -> State:
        """Look at a home."""
        with Ledger.open(home, read_only=True) as ledger:
            records = [_untimed(record) for record in ledger.records(100_000)]
            learning = _learning(ledger)
            text = render(families(Settings(home=home), ledger))
        batches = [(record["batch"]["id"], record["outcome"]) for record in records]
        figures = {key: value for key, value in samples(text).items() if not OF_RUNS.search(key[0])}
        files = Counter(_files(home, home / "archive", home / "quarantine"))
        if inbox is not None:
            files += Counter(_files(inbox.parent, inbox))
        models = dict(_files(home, home / "models"))
        found = cls(batches, records, figures, files, models, learning, text)
        left = [path for path in home.rglob(".*") if path.name.endswith(".part")]
        found.broken += [f"left: {path.relative_to(home)}" for path in left]
        return found

    def against(self, calm: State, *, learnt: bool = True) -> tuple[int, int, list[str]]:
        """What was lost, what is there twice, and what else differs from an undisturbed home.

        Without `learnt`, only what is counted is compared: batches, rows, files.
        """
        pairs = [(Counter(self.batches), Counter(calm.batches)), (self.files, calm.files)]
        lost = sum((other - found).total() for found, other in pairs)
        doubled = sum((found - other).total() for found, other in pairs)
        broken = [*self.broken]
        for found, expected in pairs:
            if found != expected:
                broken.append(f"missing {list(expected - found)}, beyond {list(found - expected)}")
        counted, wanted = (
            Counter({key: int(value) for key, value in each.items() if COUNTED.match(key[0])})
            for each in (self.figures, calm.figures)
        )
        if counted != wanted:
            lost += bool(wanted - counted)
            doubled += bool(counted - wanted)
            broken.append(f"counters: {difference(counted, wanted)}")
        if learnt:
            for what in ("batches", "records", "models", "learning"):
                if getattr(self, what) != getattr(calm, what):
                    broken.append(f"{what} are not those of an undisturbed home")
            if self.figures != calm.figures:
                broken.append(f"metrics: {difference(self.figures, calm.figures)}")
        return lost, doubled, broken


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

    def compare(self, found: State, calm: State, *, learnt: bool = True, about: str = "") -> None:
        """Hold what is there against an undisturbed home."""
        lost, doubled, broken = found.against(calm, learnt=learnt)
        self.lost += lost
        self.doubled += doubled
        self.broken += [f"{about}{each}" for each in broken]

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
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
