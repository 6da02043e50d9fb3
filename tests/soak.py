"""Hundreds of scheduled runs, many of them killed, and no batch lost or counted twice: `make soak`.

`wine-drift schedule --every 1` empties an inbox that holds bad files and repeats. A fifth of its
runs are killed at random moments; the scheduler is stopped twice, by SIGTERM and as by a power
cut, and started again some seconds later. What is left is taken by one `run-batch --drain`. Then
ledger, files, counters and log have to agree with each other, with what was killed, and with a
home that took the same files undisturbed. Needs Linux: /proc and pidfds.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from wine_drift.dataset import load_schema
from wine_drift.ledger import Ledger
from wine_drift.settings import Settings
from wine_drift.supply import write_simulated

EVERY = 1  # seconds
ROWS = 100  # of a batch
KILLED = 0.3  # share of the runs that a signal is sent to; for a third of them it is too late
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
TRAINING = ("--rounds", "20", "--threads", "1")  # in both homes, or they would not be the same
# 3: a bad batch; 5: a run that outlived its scheduler is still at work
CODES = {0, 3, 5, *(-number for number in SIGNALS)}
LEAK = 2.0  # MB; the longest life of 300 runs shows it from 15 KB a run on
# What the same batches need not have in common when they were taken in other runs.
OF_RUNS = re.compile(r"_timestamp_seconds|_duration_seconds|_max_rss_|_run|_schedule_interval_")
ENV = {name: word for name, word in os.environ.items() if not name.startswith("WINE_DRIFT_")}


class Broken(Exception):
    """The soak cannot go on."""


def say(text: str) -> None:
    """One line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# --- what is sent ---


@dataclass(frozen=True)
class Sent:
    """A file of the inbox."""

    name: str
    batch_id: str  # as its content has it
    good: bool

    @property
    def kept_as(self) -> str:
        """Name in archive or quarantine."""
        return f"{self.batch_id}-{self.name}"


def deliver(inbox: Path, n_files: int, seed: int) -> list[Sent]:
    """Fill an inbox; of each dozen files one is bad and one is an earlier one under another name.

    The wines change twice, so that some runs train, which takes ten times as long.
    """
    scenario = f"switch@{n_files // 5},label_flip@{n_files // 2}"
    drawn = Settings(source="simulated", batch_rows=ROWS, scenario=scenario, seed=seed)
    inbox.mkdir(parents=True)
    sent: list[Sent] = []
    with tempfile.TemporaryDirectory() as folder:
        wines = write_simulated(drawn, load_schema(None), n_batches=n_files, out=Path(folder))
        for number, wine in enumerate(wines):
            data, name, good = wine.read_bytes(), f"{number:04d}.csv", True
            if number % 12 == 5:
                data, good = _spoilt(data, number), False
            if number % 12 == 9:
                earlier = sent[-4 if number % 8 == 1 else -1]  # a bad one half of the time
                data, name, good = (
                    (inbox / earlier.name).read_bytes(),
                    "again-" + name,
                    earlier.good,
                )
            (inbox / name).write_bytes(data)
            os.utime(inbox / name, (1e9 + number, 1e9 + number))
            sent.append(Sent(name, hashlib.sha256(data).hexdigest()[:12], good))
    return sent


def _spoilt(data: bytes, number: int) -> bytes:
    """A file that is bad as a whole, in one of three ways; no two are the same."""
    header, _, rows = data.partition(b"\n")
    ways = (
        b"\0" + data,
        header.replace(b"alcohol", b"spirit") + b"\n" + rows,
        header + b"\n" * (number + 1),
    )
    return ways[number // 12 % len(ways)]


# --- the programs ---


def command(*arguments: object) -> list[str]:
    """The real program."""
    return [sys.executable, "-m", "wine_drift", *map(str, arguments)]


def call(*arguments: object, codes: Collection[int] = (0,)) -> str:
    """Run a command to its end; what it prints."""
    done = subprocess.run(
        command(*arguments), env=ENV, cwd="/", capture_output=True, text=True, check=False
    )
    if done.returncode not in codes:
        raise Broken(f"{' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def options(place: Path) -> list[str]:
    """What every command that takes batches is told."""
    paths = ("--home", place / "home", "--inbox", place / "inbox", "--log-file", place / "log")
    how = ("--every", str(EVERY), "--log-format", "json", "--quiet")
    return [*map(str, paths), *how, *TRAINING]


def until(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until it is so; asks often, as a run takes a tenth of a second."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise Broken(f"not within {seconds:g} s: {what}")
        time.sleep(0.001)
    return found


def children(pid: int) -> list[int]:
    """Processes that a process has started from its first thread."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def memory(pid: int) -> int:
    """Bytes of memory that are no file's.

    Not PSS: that changes whenever another program with the same libraries begins or ends, and
    counts half of what a run in hand shares.
    """
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) << 10


class Process:
    """One that is not our child: a run, or the fork server."""

    def __init__(self, pid: int) -> None:
        self.pid, self.began = pid, time.monotonic()
        self._fd = os.pidfd_open(pid)

    def wait(self, seconds: float = 60) -> float:
        """Wait for its end; the seconds that it was there."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise Broken(f"process {self.pid} is still there after {seconds:g} s")
        os.close(self._fd)
        return time.monotonic() - self.began

    def halt(self) -> bool:
        """Make it stand still until `go_on`; False if it is over, or about to be."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGSTOP)
            until(f"process {self.pid} stands still", lambda: self._state() in "TZX")
        return self._state() == "T"

    def go_on(self) -> None:
        """After `halt`."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGCONT)

    def kill(self, number: signal.Signals) -> bool:
        """Send a signal; whether it is what ended the process.

        A process on its way out takes no notice of a signal, and nobody tells the sender. One that
        stands still is not on its way out.
        """
        if not self.halt():
            return False
        signal.pidfd_send_signal(self._fd, number)
        self.go_on()
        return True

    def _state(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0]
        except OSError:
            return "X"


@dataclass
class Life:
    """A scheduler from its start to its end, and its fork server."""

    process: subprocess.Popen[bytes]
    server: Process
    held: list[dict[str, int]] = field(default_factory=list)  # between runs: bytes, descriptors
    _last: int = 0

    @classmethod
    @contextlib.contextmanager
    def begin(cls, place: Path) -> Iterator[Life]:
        """Start a scheduler; the end of the block kills it, if it is still there."""
        with (place / "stderr").open("ab") as stderr:
            process = subprocess.Popen(
                command("schedule", *options(place)),
                env=ENV,
                cwd="/",  # where no settings lie
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        try:
            found = until("a fork server", lambda: _fork_servers(process.pid))
            yield cls(process, Process(found[0]))
        finally:
            process.kill()
            process.wait()

    def next_run(self) -> Process:
        """Wait for the next run to begin."""

        def begun() -> list[int]:
            if self.process.poll() is not None:
                raise Broken(f"the scheduler ended: exit code {self.process.returncode}")
            return [pid for pid in children(self.server.pid) if pid != self._last]

        found = until("the next run", begun)
        if len(found) > 1:
            raise Broken(f"runs at the same time: {found}")
        self._last = found[0]
        return Process(self._last)

    def look(self) -> None:
        """See what scheduler and fork server hold, after a run."""
        time.sleep(0.1)  # until both have let go of it
        pids = {"scheduler": self.process.pid, "fork server": self.server.pid}
        held = {f"memory of the {name}": memory(pid) for name, pid in pids.items()}
        for name, pid in pids.items():
            held[f"open files of the {name}"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        self.held.append(held)


def _fork_servers(pid: int) -> list[int]:
    found = []
    for child in children(pid):
        with contextlib.suppress(OSError):
            if "forkserver import" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(child)
    return found


# --- what happens ---


@dataclass
class Story:
    """What was done, and what was seen meanwhile."""

    sent: Sequence[Sent]
    runs: int = 0
    signals: int = 0
    hits: int = 0  # runs that a signal ended, with a scheduler to tell of it
    cut: int = 0  # runs that were killed together with the scheduler
    pauses: list[float] = field(default_factory=list)  # seconds without a scheduler
    held: list[list[dict[str, int]]] = field(default_factory=list)  # by life
    stops: list[tuple[str, object, object]] = field(default_factory=list)  # found, expected


@dataclass
class Soak:
    """The soak itself: it starts, kills, stops, and writes down what it does."""

    place: Path
    story: Story
    rng: random.Random
    pauses: tuple[float, float]
    usual: list[float] = field(default_factory=lambda: [0.1])  # seconds of runs, the last ones

    def live(self, n_runs: int, stop: Callable[[Life], None]) -> None:
        """One scheduler: so many runs, then its stop."""
        with Life.begin(self.place) as life:
            for _ in range(n_runs):
                self.one(life)
            stop(life)
            life.server.wait()
        self.story.held.append(life.held)
        say(f"{self.story.runs} runs, {self.story.signals} signals, and a stop")

    def next_run(self, life: Life) -> Process:
        """Wait for the next run to begin, and count it."""
        run = life.next_run()
        self.story.runs += 1
        return run

    def one(self, life: Life) -> None:
        """One run, killed or not."""
        run = self.next_run(life)
        if self.rng.random() < KILLED:
            time.sleep(self.moment())
            self.story.signals += 1
            self.story.hits += run.kill(self.rng.choice(SIGNALS))
            run.wait()
            return
        self.usual = [*self.usual[-9:], run.wait()]
        life.look()

    def moment(self) -> float:
        """Seconds from the start of a run on, up to a little after its end if it is as others."""
        return self.rng.uniform(0, 1.2 * self.rng.choice(self.usual))

    def ask(self, life: Life) -> None:
        """SIGTERM while a run is at work: it finishes, and no other one begins."""
        while not (run := self.next_run(life)).halt():
            run.wait()
        told = len(runs_told(self.place))
        life.process.terminate()
        time.sleep(0.2)
        waits = life.process.poll() is None
        run.go_on()
        code = life.process.wait(60)
        run.wait()
        ended = [line["exit_code"] in (0, 3) for line in runs_told(self.place)[told:]]
        self.story.stops += [
            ("stopped by SIGTERM: waits for the run in hand", waits, True),
            ("  runs that end after it, by themselves", ended, [True]),
            ("  last line of the log", log(self.place)[-1]["event"], "stopped"),
            ("  exit code", code, 0),
        ]

    def cut(self, life: Life) -> None:
        """SIGKILL at any moment of a run, which goes on or dies too."""
        run = self.next_run(life)
        time.sleep(self.moment())
        life.process.kill()
        code = life.process.wait()
        if self.rng.random() < 0.5:
            self.story.cut += run.kill(signal.SIGKILL)
        run.wait()
        self.story.stops.append(("stopped by SIGKILL: exit code", code, -signal.SIGKILL))

    def pause(self) -> None:
        """Some seconds without a scheduler."""
        self.story.pauses.append(self.rng.uniform(*self.pauses))
        time.sleep(self.story.pauses[-1])


def soak(place: Path, n_runs: int, seed: int, *, pauses: tuple[float, float] = (2.0, 3.5)) -> Story:
    """Do it all in an empty folder: afterwards place/soak has been through it, place/calm not.

    `pauses` are seconds without a scheduler, at least and at most.
    """
    real, calm = place / "soak", place / "calm"
    sent = deliver(real / "inbox", n_runs, seed)
    drawn = Settings(source="simulated", batch_rows=1600, seed=seed + 1)
    (data,) = write_simulated(drawn, load_schema(None), n_batches=1, out=place)
    call("train", "--home", real / "home", "--data", data, *TRAINING)
    shutil.copytree(real, calm)
    say(f"{n_runs} files, seed {seed}")
    it = Soak(real, Story(sent), random.Random(seed), pauses)
    short = n_runs // 6  # a leak shows in one long life, not in three short ones
    with ThreadPoolExecutor() as beside:
        undisturbed = beside.submit(drain, calm)
        it.live(short - 1, it.ask)
        it.pause()
        it.live(short - 1, it.cut)
        it.pause()
        it.live(n_runs - 2 * short - 1, it.ask)
        drain(real)
        undisturbed.result()
    return it.story


def drain(place: Path) -> None:
    """Let one process take all that is in the inbox."""
    call("run-batch", "--drain", *options(place), codes=(0, 3))


# --- what came of it ---


@dataclass(frozen=True)
class Row:
    """One line of the table; `held` is None where nothing was promised."""

    what: str
    found: object
    expected: object = ""
    held: bool | None = None


def equal(what: str, found: Any, expected: Any) -> Row:
    """A row that holds if both are the same; lists are shown by their length."""
    held = found == expected
    if isinstance(found, list):
        found, expected = len(found), len(expected)
    return Row(what, found, expected, held)


def check(place: Path, story: Story) -> list[Row]:
    """Every promise, and whether it was kept."""
    home = place / "soak" / "home"
    kept, printed = runs_kept(home), metrics(home)
    figures = samples(printed)
    textfile = (home / "metrics" / "wine_drift.prom").read_text(encoding="utf-8")
    return [
        *_batches(home, story),
        *_files(place / "soak", story),
        *_counters(home, story, kept, figures),
        equal("lines of the textfile, as `metrics`", textfile.split("\n"), printed.split("\n")),
        *_undisturbed(home, figures, place / "calm" / "home"),
        *(equal(*stop) for stop in story.stops),
        *_runs(place / "soak", story, kept),
        *_flat(max(story.held, key=len)),
        *_figures(place / "soak", story, kept),
    ]


def firsts(story: Story) -> list[Sent]:
    """The first file of each content."""
    found: dict[str, Sent] = {}
    for sent in story.sent:
        found.setdefault(sent.batch_id, sent)
    return list(found.values())


def records(home: Path) -> list[dict[str, Any]]:
    """What the ledger says of each batch, in the order of their numbers."""
    with Ledger.open(home, read_only=True) as ledger:
        return ledger.records(10_000)


def runs_kept(home: Path) -> list[Mapping[str, Any]]:
    """What the ledger says of each run, in their order."""
    with Ledger.open(home, read_only=True) as ledger:
        facts = [ledger.snapshot(entry).run for entry, _ in ledger.history()]
    return list({fact["started_at"]: fact for fact in facts if fact is not None}.values())


def metrics(home: Path) -> str:
    """What `wine-drift metrics` prints."""
    return call("metrics", "--home", home)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Name and label values, in the order of their names -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: sample.labels[name] for name in sorted(sample.labels)}
            labels.pop("pipeline", None)
            found[(sample.name, *labels.values())] = sample.value
    return found


def log(place: Path) -> list[dict[str, Any]]:
    """Every line of the log; each is whole, whoever was killed."""
    return [json.loads(line) for line in (place / "log").read_text(encoding="utf-8").splitlines()]


def runs_told(place: Path) -> list[dict[str, Any]]:
    """The lines about runs; the scheduler tells of those that could not do so themselves."""
    return [line for line in log(place) if line["event"] == "run"]


def _batches(home: Path, story: Story) -> Iterator[Row]:
    found, expected = records(home), firsts(story)
    outcomes = [(record["batch"]["id"], record["outcome"]) for record in found]
    as_sent = [(one.batch_id, "processed" if one.good else "quarantined") for one in expected]
    yield equal("batches, each once and in the order sent", outcomes, as_sent)
    numbers = [record["batch"].get("sequence") for record in found]
    as_counted = [n if one.good else None for n, one in enumerate(expected, 1)]
    yield equal("their numbers, without gaps", numbers, as_counted)


def _files(place: Path, story: Story) -> Iterator[Row]:
    home, there = place / "home", {}
    for name in ("archive", "quarantine"):
        there[name] = sorted(path.name for path in (home / name).iterdir())
    set_aside = sorted(
        f"{record['batch']['id']}-rows.csv"
        for record in records(home)
        if any(record["batch"].get("set_aside", {}).values())
    )
    archived = sorted(sent.kept_as for sent in story.sent if sent.good)
    refused = sorted([*set_aside, *(sent.kept_as for sent in story.sent if not sent.good)])
    yield equal("files in the inbox", [path.name for path in (place / "inbox").iterdir()], [])
    yield equal("files in the archive", there["archive"], archived)
    yield equal("files in quarantine", there["quarantine"], refused)


def _counters(
    home: Path, story: Story, kept: Sequence[Mapping[str, Any]], found: Mapping[Any, float]
) -> Iterator[Row]:
    def total(name: str, *labels: str) -> int:
        return int(found[f"wine_drift_{name}_total", *labels])

    batches = [record["batch"] for record in records(home) if record["outcome"] == "processed"]
    good = sum(sent.good for sent in firsts(story))
    yield equal("batches_total, success", total("batches", "success"), good)
    bad = len(firsts(story)) - good
    yield equal("batches_total, quarantined", total("batches", "quarantined"), bad)
    yield equal("rows_total", total("rows"), sum(batch["accepted"] for batch in batches))
    rejected = sum(n for name, n in found.items() if name[0] == "wine_drift_rows_rejected_total")
    yield equal("rows_total and rows_rejected_total", total("rows") + int(rejected), good * ROWS)
    yield equal("runs_ended_total, killed", total("runs_ended", "killed"), story.hits)
    others = total("runs_ended", "crashed") + total("runs_ended", "deadline")
    yield equal("runs_ended_total, crashed or deadline", others, 0)
    missed = skipped = 0
    for one, other in pairwise(kept):
        due = max(round((other["started_at"] - one["started_at"]) / EVERY) - 1, 0)
        busy = min(math.floor((one["finished_at"] - one["started_at"]) / EVERY), due)
        missed, skipped = missed + due - busy, skipped + busy
    yield equal("runs_missed_total", total("runs_missed"), missed)
    yield equal("runs_skipped_total", total("runs_skipped"), skipped)
    least = sum(math.floor(seconds / EVERY) - 1 for seconds in story.pauses)
    yield Row("runs_missed_total, from the stops", missed, f">= {least}", missed >= least)


def _undisturbed(home: Path, figures: Mapping[Any, float], calm: Path) -> Iterator[Row]:
    yield equal("records as if undisturbed", records(home), records(calm))
    found, expected = (
        {key: value for key, value in each.items() if not OF_RUNS.search(key[0])}
        for each in (figures, samples(metrics(calm)))
    )
    yield equal("metrics as if undisturbed", sorted(found.items()), sorted(expected.items()))


def _runs(place: Path, story: Story, kept: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    lines = log(place)
    stop = max(number for number, line in enumerate(lines) if line["event"] == "stopped")
    own = [line for line in lines[:stop] if line["event"] == "run"]
    codes = [line["exit_code"] for line in own]
    yield Row("exit codes", sorted(set(codes)), f"of {sorted(CODES)}", set(codes) <= CODES)
    yield equal("runs killed, by the log", sum(code < 0 for code in codes), story.hits)
    # A run may be over before anybody has seen it; so it is log and ledger that have to agree.
    seen, told = story.runs - story.cut, len(own)
    yield Row("runs in the log", told, f">= {seen}", told >= seen)
    in_ledger = len(kept) - (len(lines) - stop - 1)
    least = told - codes.count(5) - _told_twice(story, kept)
    most = told - codes.count(5) + story.cut
    yield Row("runs in the ledger", in_ledger, f"{least} to {most}", least <= in_ledger <= most)
    words = (place / "stderr").read_text(encoding="utf-8")
    yield equal("tracebacks", words.count("Traceback"), 0)


def _told_twice(story: Story, kept: Sequence[Mapping[str, Any]]) -> int:
    """Runs that were killed after they were recorded, at most: by themselves, and as killed."""
    return story.hits - sum(fact["outcome"] == "killed" for fact in kept)


def _flat(held: Sequence[Mapping[str, int]]) -> Iterator[Row]:
    third = len(held) // 3
    for name in held[0]:
        values = [each[name] for each in held]
        first, last = values[:third], values[-third:]
        if name.startswith("memory"):
            was, more = median(first) / 2**20, (median(last) - median(first)) / 2**20
            yield Row(name, f"{more:+.1f} MB from {was:.1f}", f"<= {LEAK:+.1f} MB", more <= LEAK)
        else:  # some may not have been closed yet when they were counted
            more = min(last) - min(first)
            yield Row(name, f"{more:+d} from {min(first)}", "<= +0", more <= 0)


def _figures(place: Path, story: Story, kept: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    after = _told_twice(story, kept)
    yield Row("scheduled runs that were seen", story.runs)
    yield Row("  a signal was sent to", story.signals)
    yield Row("  which ended it before it was recorded", story.hits - after)
    yield Row("  which ended it after that", after)
    yield Row("  which came too late", story.signals - story.hits)
    yield Row("  killed with their scheduler", story.cut)
    tried = [record["retraining"] for record in records(place / "home") if record["retraining"]]
    promoted = sum(part["outcome"] == "promoted" for part in tried)
    yield Row("challengers tried, promoted", f"{len(tried)}, {promoted}")
    litter = [path for path in place.rglob(".*") if path.is_file()]
    yield Row("half-written files of killed runs", len(litter))  # nothing reads them
    first, others = lateness(place, kept)
    yield Row("first runs late by, at most", f"{max(first):.3f} s")  # imports come before them
    yield Row("other runs late by, median", f"{median(others):.3f} s")
    yield Row("other runs late by, at most", f"{max(others):.3f} s")


def lateness(place: Path, kept: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Seconds from when runs were due to their start: the first of each scheduler, and the others.

    What was more than an interval late was told as skipped or missed.
    """
    lines = log(place)
    begun = [line for line in lines if line["event"] == "schedule"]
    end = max(line["time"] for line in lines if line["event"] == "stopped")
    first, others = [], []
    for line, stop in zip(begun, [*(line["time"] for line in begun[1:]), end], strict=True):
        due, span = seconds(line["next_run"]), (seconds(line["time"]), seconds(stop))
        late = [run["started_at"] - due for run in kept if span[0] <= run["started_at"] < span[1]]
        first += late[:1]
        others += [more % EVERY for more in late[1:]]
    return first, others


def seconds(stamp: str) -> float:
    """Unix time of a time in the log."""
    return datetime.fromisoformat(stamp).timestamp()


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    marks = {True: "ok", False: "BROKEN", None: ""}
    cells = [("", "found", "promised", "")]
    cells += [(row.what, str(row.found), str(row.expected), marks[row.held]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
    return "\n".join(lines)


def main() -> None:
    """The soak, its table, and exit code 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="scheduled runs, 18 at least")
    parser.add_argument("--seed", type=int, default=0, help="of files, kills and pauses")
    wanted = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    told = f"the files are in {place}"
    try:
        rows = check(place, soak(place, max(wanted.runs, 18), wanted.seed))
    except Broken as error:
        sys.exit(f"{error}\n{told}")
    except KeyboardInterrupt:
        sys.exit(told)
    say(table(rows))
    if not all(row.held in (True, None) for row in rows):
        sys.exit(f"a promise was broken; {told}")
    shutil.rmtree(place)
    say("every promise was kept")


if __name__ == "__main__":
    main()
