"""Crowds: processes, threads and hosts that want the same home, or the same inbox, at once.

Each row lets many runs take the same files, however they were started, and holds what is left
against a home that took the files one by one: ledger, files and metrics have to be equal. The work
is done by a process of its own that has done the imports and nothing else, as what it forks must
not inherit threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from drill import Row
from forks import Started, apart, drive, driven, ended
from homes import (
    OF_RUNS,
    Done,
    State,
    Tally,
    call,
    connected,
    integrity,
    samples,
    warm,
    without_labels,
)

from wine_drift import failpoints
from wine_drift.dataset import load_schema
from wine_drift.errors import AlreadyRunning, WineDriftError
from wine_drift.service import WARM
from wine_drift.settings import Settings, load_settings
from wine_drift.supply import write_simulated

ROWS = 60  # of a batch
PATIENCE = 200.0  # seconds that a run waits for the lock, where it waits
HANG = 300.0  # seconds after which a crowd is told to hang
SLOW = 10.0  # seconds in which a reader has its answer, whoever writes
TRAINING = {"rounds": 5, "threads": 1}
BAD = (b"\0", b"no wine;")  # how files begin that are bad as a whole
HELD = "held"  # outcome of a run that found another one at work
OF_ROWS = re.compile(r"wine_drift_rows(_rejected)?_total")

# Under the lock; a run that is killed there has done more or less of its work.
MOMENTS = (
    *("ledger: open", "ledger: begin", "ledger: commit", "ledger: committed", "archive: move"),
    *("archive: moved", "textfile: rename", "set-aside rows: rename", "quarantine: move"),
)
# Commands that take the lock, and commands that need none.
LOCKING = (
    *("run-batch", "run-batch FILE", "add-labels 1 FILE", "train", "push", "models rollback"),
    *("prune", "repair"),
)
READING = (
    *("metrics", "status", "status --json", "models list", "models show", "health", "explain"),
    *("run-batch --dry-run", "history export --openmetrics PLACE/past"),
)

Values = Mapping[str, Any]  # settings as they are given

command = partial(call, hang=HANG)


def drill(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """Let crowds at a home, in every way that they can be started."""
    yield from driven(__file__, place, thorough=thorough, seed=seed, group=True)


# --- what is sent ---


@dataclass(frozen=True)
class Files:
    """Files to be taken, and what the first model is trained on."""

    inbox: Path  # oldest first, by their names
    data: Path
    labels: tuple[tuple[str, Path], ...] = ()  # batch id, file of labels that come later

    def values(self, place: Path, **more: Any) -> Values:
        """Settings of a home in an empty folder, with an inbox of its own that holds the files."""
        shutil.copytree(self.inbox, place / "inbox")
        return {**_base(place, self.data), "inbox": str(place / "inbox"), **more}

    def row(self, found: State) -> Row:
        """Whether a home took each content once, and kept each file."""
        batches: dict[str, str] = {}
        kept: Counter[tuple[str, str]] = Counter()
        for path in sorted(self.inbox.iterdir()):
            data = path.read_bytes()
            digest, good = hashlib.sha256(data).hexdigest(), not data.startswith(BAD)
            batches[digest[:12]] = "processed" if good else "quarantined"
            kept[f"{'archive' if good else 'quarantine'}/{digest[:12]}-{path.name}", digest] += 1
        there = Counter({key: n for key, n in found.files.items() if "-rows.csv" not in key[0]})
        n_files = kept.total()
        tally = Tally(f"{n_files} files, one by one", n_files, broken=[*found.broken])
        tally.count(Counter(found.batches), Counter(batches.items()))
        tally.count(there, kept)
        rows = sum(found.figures[key] for key in found.figures if OF_ROWS.match(key[0]))
        n_rows = ROWS * list(batches.values()).count("processed")
        tally.expect(rows == n_rows, f"{rows:g} rows were counted")
        in_order = found.batches == list(batches.items())
        tally.expect(in_order, "batches are not in the order of their age")
        return tally.row()


def _base(place: Path, data: Path) -> Values:
    return {"home": str(place / "home"), "data": str(data), **TRAINING}


def deliver(place: Path, n_files: int, seed: int, *, unlabelled: bool = False) -> Files:
    """Write files; of each ten one is bad and two are earlier ones under another name.

    The wines change half-way, so that some runs train. With `unlabelled` a third of the good files
    has no labels; they are in files of their own.
    """
    drawn = Settings(
        source="simulated", batch_rows=ROWS, scenario=f"switch@{n_files // 2}", seed=seed
    )
    schema, inbox = load_schema(None), place / "files"
    inbox.mkdir(parents=True)
    (place / "labels").mkdir()
    labels: list[tuple[str, Path]] = []
    with tempfile.TemporaryDirectory(dir=place) as folder:
        wines = write_simulated(drawn, schema, n_batches=n_files, out=Path(folder))
        kept: list[bytes] = []
        for number, wine in enumerate(wines):
            data = wine.read_bytes()
            if number % 10 == 3:  # bad as a whole, and no two are the same
                data = BAD[number // 10 % 2] + data
            elif number % 10 in (6, 9):
                data = kept[number - (3 if number % 10 == 6 else 4)]  # the bad one, a good one
            elif unlabelled and number % 3 == 0:
                own = place / "labels" / f"{number:04d}.csv"
                data, words = without_labels(data)
                own.write_bytes(words)
                labels.append((hashlib.sha256(data).hexdigest()[:12], own))
            kept.append(data)
            path = inbox / f"{number:04d}.csv"
            path.write_bytes(data)
            os.utime(path, (1e9 + number, 1e9 + number))
    trained = Settings(source="simulated", batch_rows=600, seed=seed + 1)
    (table,) = write_simulated(trained, schema, n_batches=1, out=place / "table")
    return Files(inbox, table, tuple(labels))


# --- what came of it ---


def look(values: Values) -> State:
    """What a home holds, and what is wrong there or in its inbox whatever was to be done."""
    home = Path(values["home"])
    found = State.of(home, but=OF_RUNS)
    with connected(home / "ledger.sqlite") as ledger:
        found.broken += integrity(ledger)
        stored = [row[0] for row in ledger.execute("SELECT sequence FROM batches ORDER BY 1")]
    if stored != list(range(1, len(stored) + 1)):
        found.broken.append("numbers of the batches have gaps")
    numbers = [record["batch"].get("sequence") for record in found.records]
    if any(number not in (None, place) for place, number in enumerate(numbers, 1)):
        found.broken.append(f"records tell other numbers: {numbers}"[:200])
    textfile = (home / "metrics" / "wine_drift.prom").read_text(encoding="utf-8")
    if textfile != found.text:
        found.broken.append("the textfile is not what `metrics` prints")
    if left := [path.name for path in Path(values.get("inbox", home / "none")).glob("*")]:
        found.broken.append(f"left in the inbox: {left[:3]}")
    return found


@dataclass
class Story:
    """What the runs of a crowd told."""

    outcomes: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0  # seconds of a run, the wait for the lock included
    tracebacks: int = 0
    broken: list[str] = field(default_factory=list)

    def tell(self, outcome: str, seconds: float = 0.0) -> None:
        """One run or command."""
        if "Traceback" in outcome:
            self.tracebacks += 1
            self.broken.append(outcome[-1500:])
            outcome = "traceback"
        self.outcomes[outcome] += 1
        self.longest = max(self.longest, seconds)

    def row(self, fault: str, found: State, calm: State, *, exact: bool = True) -> Row:
        """The line of the table."""
        tried, broken = self.outcomes.total(), [*self.broken]
        tally = Tally(fault, tried, tracebacks=self.tracebacks, broken=broken)
        tally.compare(found, calm, exact=exact)
        return tally.row()

    def none_but(self, outcomes: Collection[str]) -> None:
        """Another outcome is a broken promise."""
        for outcome in self.outcomes.keys() - set(outcomes):
            self.broken.append(f"{self.outcomes[outcome]} runs ended with {outcome!r}")

    def check(self, *, waits: bool) -> None:
        """Runs that wait get their turn; of those that do not, some met another."""
        told = {"processed", "quarantined", "already_processed", "nothing_waiting", "traceback"}
        self.none_but(told if waits else told | {HELD})
        if waits and self.longest > PATIENCE:
            self.broken.append(f"a run took {self.longest:.1f} s")
        if not waits and not self.outcomes[HELD]:
            self.broken.append("no run ever met another: nothing was tried")


# --- runs ---


def take(settings: Settings, batch: Path | None = None) -> str:
    """One run; its outcome, HELD, or what went wrong."""
    from wine_drift.run import run_batch

    try:
        outcome: str = run_batch(settings, batch).record["outcome"]
    except AlreadyRunning:
        return HELD
    except WineDriftError as error:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return traceback.format_exc()
    return outcome


@dataclass(frozen=True)
class Job:
    """What each of a crowd does; it can be sent to a process of any kind."""

    values: Values
    gate: Path  # all begin when it is there
    batches: tuple[Path | None, ...] = ()  # to be taken, each until it was; none: all of the inbox
    shuffled: bool = False  # in an order of their own
    closing: Path | None = None  # there when nobody sends any more

    def work(self, told: Path) -> None:
        """Do it, and write down what came of each run."""
        rng, settings = random.Random(told.name), load_settings(self.values, {})
        batches = list(self.batches)
        if self.shuffled:
            rng.shuffle(batches)
        with told.open("a", encoding="utf-8", buffering=1) as out:
            while not self.gate.exists():
                time.sleep(0.001)
            more = True
            while more:
                closed = self.closing is None or self.closing.exists()
                began = time.monotonic()
                outcome = take(settings, batches[0] if batches else None)
                out.write(json.dumps([outcome, time.monotonic() - began]) + "\n")
                if outcome == HELD or not closed:
                    time.sleep(rng.uniform(0, 0.2))
                if outcome != HELD and self.batches:
                    more = len(batches) > 1
                    del batches[0]
                elif outcome != HELD:
                    going = {"processed", "quarantined", "already_processed"}
                    more = outcome in going or (outcome == "nothing_waiting" and not closed)


def threads(job: Job, told: Sequence[Path]) -> None:
    """A crowd of threads, in a process of their own."""
    crowd = [threading.Thread(target=job.work, args=(each,)) for each in told]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()


def started(kind: str, job: Job, told: Sequence[Path]) -> list[BaseProcess]:
    """Processes that do the job: fork, spawn or forkserver for each, or one with threads."""
    if kind == "threads":
        processes = [multiprocessing.get_context("fork").Process(target=threads, args=(job, told))]
    else:
        context: Any = multiprocessing.get_context(kind)
        if kind == "forkserver":
            context.set_forkserver_preload(list(WARM))
        processes = [context.Process(target=job.work, args=(each,)) for each in told]
    for process in processes:
        process.start()
    return list(processes)


def crowd(
    kind: str,
    place: Path,
    n_workers: int,
    job: Job,
    *,
    begun: Callable[[], None] = lambda: None,
    start: Callable[[str, Job, Sequence[Path]], list[Any]] = started,
) -> Story:
    """Let a crowd do its job; `begun` is called when all are at it."""
    told = [place / f"told-{number}" for number in range(n_workers)]
    processes, story = start(kind, job, told), Story()
    end = time.monotonic() + HANG
    try:
        while not all(path.exists() for path in told):
            if time.monotonic() > end or any(each.exitcode for each in processes):
                raise RuntimeError(f"{kind}: not all came")
            time.sleep(0.005)
        job.gate.touch()
        begun()
        for process in processes:
            process.join(max(end - time.monotonic(), 0))
        for process in processes:
            if process.exitcode != 0:
                story.broken.append(f"a process of the crowd ended with {process.exitcode}")
    finally:
        for process in processes:
            process.kill()
    for path in told:
        for line in path.read_text(encoding="utf-8").splitlines():
            story.tell(*json.loads(line))
    return story


def options(values: Values, *words: str) -> list[str]:
    """Settings as options of a command, so far as it takes them."""
    from wine_drift.cli import main

    taken: Any = main
    for word in words:
        taken = getattr(taken, "commands", {}).get(word, taken)
    names = [param.name for param in taken.params if param.name in values]
    return [text for name in names for text in (f"--{name.replace('_', '-')}", str(values[name]))]


class Halted:
    """A run that stands still at a named moment, under the lock."""

    def __init__(self, values: Values, moment: str, told: Path | None = None) -> None:
        def stand(name: str) -> None:
            if name == moment:
                failpoints.hook = lambda name: None
                os.kill(os.getpid(), signal.SIGSTOP)

        def run() -> None:
            failpoints.hook = stand
            outcome = take(load_settings(values, {}))
            if told is not None:
                told.write_text(outcome, encoding="utf-8")

        self.pid = apart(run)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        self.stands = os.WIFSTOPPED(status)  # else it ended before

    def kill(self) -> None:
        """As by a power cut."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def go_on(self) -> None:
        """Until its end."""
        os.kill(self.pid, signal.SIGCONT)
        ended(self.pid)


def undisturbed(values: Values, batches: Sequence[Path | None] = ()) -> State:
    """One run after the other: of these batches, or until nothing waits."""
    settings = load_settings(values, {})

    def run() -> None:
        for batch in batches or iter(lambda: None, 0):
            outcome = take(settings, batch)
            if outcome == "nothing_waiting":
                break
            if outcome not in ("processed", "quarantined", "already_processed"):
                raise RuntimeError(outcome)

    if ended(apart(run)) != 0:
        raise RuntimeError(f"an undisturbed home at {values['home']}: see stderr")
    return look(values)


# --- hosts ---

SPACES = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
SEPARATED = (SPACES, (*SPACES, "--user", "--map-root-user"))  # as root, or as anybody
BIND = 'hostname "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"'


def separated() -> tuple[str, ...] | None:
    """How to give a process namespaces of its own, with mounts; None if that is not allowed."""
    for way in SEPARATED:
        with contextlib.suppress(OSError):
            words = [*way, "sh", "-c", BIND, "sh", "drill", ".", ".", "true"]
            if subprocess.run(words, capture_output=True, check=False).returncode == 0:
                return way
    return None


class Host(Started):
    """Processes that share with others only a folder, which they reach by a path of their own."""

    def __init__(
        self, name: str, shared: Path, job: Job, told: Sequence[Path], way: tuple[str, ...] | None
    ) -> None:
        own = shared.parent / name
        values = {
            key: str(word).replace(f"{shared}/", f"{own}/") for key, word in job.values.items()
        }
        task = json.dumps([values, str(job.gate), [str(path) for path in told]])
        words = [sys.executable, __file__, "host", task]
        if way is None:
            own.symlink_to(shared)
        else:
            own.mkdir()
            words = [*way, "sh", "-c", BIND, "sh", name, str(shared), str(own), *words]
        super().__init__(words, start_new_session=True)


def host(task: str) -> None:
    """What a host does."""
    values, gate, told = json.loads(task)
    processes = started("fork", Job(values, Path(gate)), [Path(path) for path in told])
    for process in processes:
        process.join()
    sys.exit(max(process.exitcode != 0 for process in processes))


@dataclass(frozen=True)
class Ground:
    """Where crowds meet: files, and what a home makes of them that takes them one by one."""

    place: Path
    files: Files
    calm: State
    n_workers: int

    def new(self, name: str, **more: Any) -> tuple[Path, Values]:
        """A folder for a home, with an inbox of the same files."""
        place = self.place / name
        place.mkdir()
        return place, self.files.values(place, **more)

    def taken(self, kind: str, fault: str, *, waits: bool) -> Row:
        """A crowd that empties an inbox."""
        wait = {"lock_wait": PATIENCE} if waits else {}
        place, values = self.new(f"{kind}-{'waits' if waits else 'leaves'}", **wait)
        story = crowd(kind, place, self.n_workers, Job(values, place / "gate"))
        story.check(waits=waits)
        return story.row(f"{self.n_workers} {fault}", look(values), self.calm)

    def commands(self, fault: str, *, waits: bool) -> Row:
        """Commands with interpreters of their own, which drain the inbox."""
        wait = {"lock_wait": PATIENCE} if waits else {}
        place, values = self.new(f"commands-{'waits' if waits else 'leaves'}", **wait)
        words = [sys.executable, "-m", "wine_drift", "run-batch", *options(values, "run-batch")]
        words += ["--drain", "--quiet", "--log-format", "json", "--log-file", str(place / "log")]

        def again(number: int) -> list[int]:
            codes: list[int] = []
            with (place / f"stderr-{number}").open("wb") as err:
                while not codes or any(Path(values["inbox"]).iterdir()):
                    done = subprocess.run(words, stdout=err, stderr=err, timeout=HANG, check=False)
                    codes.append(done.returncode)
            return codes

        with ThreadPoolExecutor(self.n_workers) as pool:
            codes = {code for each in pool.map(again, range(self.n_workers)) for code in each}
        story = Story()
        for line in (place / "log").read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            story.tell(HELD if told["exit_code"] == 5 else told["outcome"], told["duration"])
        story.check(waits=waits)
        said = "".join(path.read_text(encoding="utf-8") for path in place.glob("stderr-*"))
        story.tracebacks += said.count("Traceback")
        if not codes <= ({0, 3} if waits else {0, 3, 5}):
            story.broken.append(f"exit codes {sorted(codes)}")
        return story.row(f"{self.n_workers} {fault}", look(values), self.calm)

    def hosts(self) -> Row:
        """Two groups that share nothing but the folder, which each reaches by a path of its own."""
        place, way, half = self.place / "hosts", separated(), self.n_workers // 2
        shared = place / "shared"
        shared.mkdir(parents=True)
        values = self.files.values(shared, lock_wait=PATIENCE)

        def start(_: str, job: Job, told: Sequence[Path]) -> list[Host]:
            groups = {"a": told[:half], "b": told[half:]}
            return [Host(name, shared, job, group, way) for name, group in groups.items()]

        job = Job(values, place / "gate")
        story = crowd("hosts", place, 2 * half, job, start=start)
        story.check(waits=True)
        how = "sessions and symlinks" if way is None else "namespaces and bind mounts"
        return story.row(f"2 x {half} on two hosts: {how}", look(values), self.calm)

    def sent(self) -> Row:
        """Files that come while others are taken."""
        place, values = self.new("sent", lock_wait=PATIENCE)
        inbox, outside = Path(values["inbox"]), place / "outside"
        inbox.rename(outside)
        inbox.mkdir()
        closing, rng = place / "closing", random.Random(0)

        def send() -> None:
            for path in sorted(outside.iterdir()):
                time.sleep(rng.uniform(0, 0.05))
                deposit(path, inbox / path.name)
            closing.touch()

        job = Job(values, place / "gate", closing=closing)
        story = crowd("fork", place, self.n_workers, job, begun=send)
        story.check(waits=True)
        fault = f"{self.n_workers} forked, while files are sent"
        return story.row(fault, look(values), self.calm)

    def named(self) -> Row:
        """Each names all the files, in an order of its own."""
        place, alone = self.place / "named", self.place / "named-alone"
        place.mkdir()
        alone.mkdir()
        batches = tuple(sorted(self.files.inbox.iterdir())[:60])
        calm = undisturbed(_base(alone, self.files.data), batches)
        values = _base(place, self.files.data)
        job = Job(values, place / "gate", batches, shuffled=True)
        story = crowd("fork", place, self.n_workers, job)
        story.check(waits=False)
        fault = f"{self.n_workers} forked, that name the same files"
        return story.row(fault, look(values), calm, exact=False)

    def stream(self) -> Row:
        """All take from one stream, whose cursor is in the ledger."""
        place, alone = self.place / "stream", self.place / "stream-alone"
        place.mkdir()
        alone.mkdir()
        more = {"source": "simulated", "batch_rows": ROWS, **TRAINING}
        runs = (None,) * max(len(self.calm.batches) // self.n_workers, 3)
        calm = undisturbed({"home": str(alone / "home"), **more}, runs * self.n_workers)
        values = {"home": str(place / "home"), **more}
        story = crowd("fork", place, self.n_workers, Job(values, place / "gate", runs))
        story.check(waits=False)
        return story.row(f"{self.n_workers} forked, on one stream", look(values), calm)

    # --- what happens to the lock ---

    def killed(self) -> Row:
        """The run that holds the lock is killed, again and again, while others wait."""
        place, values = self.new("killed", lock_wait=PATIENCE)
        kills = 0

        def kill() -> None:
            nonlocal kills
            for number in range(len(self.calm.batches) // 2):
                halted = Halted(values, MOMENTS[number % len(MOMENTS)])
                if halted.stands:
                    time.sleep(0.05)  # so that all the others wait
                    halted.kill()
                    kills += 1

        story = crowd("fork", place, self.n_workers, Job(values, place / "gate"), begun=kill)
        story.check(waits=True)
        fault = f"the run that holds the lock killed, {self.n_workers} wait"
        return replace(story.row(fault, look(values), self.calm), tried=kills)

    def too_short(self, waits: Sequence[float]) -> Row:
        """Who waits for less than it takes gets exit code 5, then and not much later."""
        values = self.new("too-short")[1]
        story, some = Story(), self.files.inbox / "0001.csv"
        self.one(values)
        for wait in waits:
            halted = Halted(values, "ledger: open")
            for words in (each.replace("FILE", str(some)).split() for each in LOCKING):
                done = command(*words, *options(values | {"lock_wait": wait}, *words))
                story.tell(done.outcome, done.seconds)
                if not wait <= done.seconds < wait + SLOW:
                    story.broken.append(f"{words}: {done.seconds:.1f} s, not {wait:g}")
            halted.go_on()
        story.none_but(["exit code 5"])
        undisturbed(values)
        return story.row("commands that wait too short", look(values), self.calm)

    def read_meanwhile(self, moments: Sequence[str]) -> Row:
        """Who only reads is not kept waiting by a transaction that does not come to its end."""
        place, values = self.new("read-meanwhile")
        story = Story()
        self.one(values)
        for moment in moments:
            halted = Halted(values, moment)
            for words in (each.replace("PLACE", str(place)).split() for each in READING):
                done = command(*words, *options(values, *words))
                bad = words[0] == "run-batch" and done.code == 3  # the next file is a bad one
                story.tell("exit code 0" if bad else done.outcome, done.seconds)
            halted.go_on()
        story.none_but(["exit code 0"])
        if story.longest > SLOW:
            story.broken.append(f"a reader waited for {story.longest:.1f} s")
        undisturbed(values)
        return story.row("readers while a writer stands still", look(values), self.calm)

    def forked_under(self) -> Row:
        """A child forked under the lock does not keep it when its parent ends, or is killed."""
        place, values = self.new("forked-under")
        story = Story()
        for dies in (False, True):
            told = place / f"child-{dies}"

            def fork(name: str, told: Path = told, *, dies: bool = dies) -> None:
                if name != "ledger: begin" or told.exists():
                    return
                child = os.fork()
                if not child:
                    time.sleep(60)
                    os._exit(0)
                told.write_text(str(child), encoding="utf-8")
                if dies:
                    os.kill(os.getpid(), signal.SIGKILL)

            def run(fork: Callable[[str], None] = fork) -> None:
                failpoints.hook = fork
                take(load_settings(values, {}))

            ended(apart(run))
            story.tell(self.one(values))
            os.kill(int(told.read_text(encoding="utf-8")), signal.SIGKILL)
        story.none_but(["exit code 0"])
        undisturbed(values)
        return story.row("a child forked under the lock", look(values), self.calm)

    def lock_removed(self) -> Row:
        """Somebody removes the lock file: runs go on at the same time that should not."""
        place, values = self.new("lock-removed", lock_wait=PATIENCE)
        lock, told = Path(values["home"]) / "run.lock", [place / "first", place / "second"]
        self.one(values)
        halted = []
        for moment, each in zip(("ledger: open", "ledger: begin"), told, strict=True):
            halted.append(Halted(values, moment, each))
            lock.unlink()
        story = crowd("fork", place, self.n_workers, Job(values, place / "gate"))
        for run, each in zip(halted, told, strict=True):
            run.go_on()
            story.tell(each.read_text(encoding="utf-8"))
        return story.row("run.lock removed under two runs", look(values), self.calm)

    def overtaken(self) -> Row:
        """The same, and the other run takes another batch: what was measured before it is stale."""
        states = []
        for name in ("overtaken", "overtaken-alone"):
            place, values = self.new(name)
            self.one(values)
            other = ("run-batch", self.files.inbox / "0002.csv", *options(values, "run-batch"))
            if name == "overtaken":
                halted = Halted(values, "ledger: begin")
                (place / "home" / "run.lock").unlink()
                command(*other)
                halted.go_on()
            else:
                command(*other)
            states.append(undisturbed(values))
        story = Story()
        story.tell("overtaken")
        return story.row("run.lock removed, another batch comes first", *states)

    def replaced(self) -> Row:
        """A sender replaces a file of which the batch is in hand: both contents are to be taken."""
        states = []
        for name in ("replaced", "replaced-alone"):
            place, values = self.new(name)
            self.one(values)
            path = Path(values["inbox"]) / "0001.csv"
            header, *rows = path.read_bytes().splitlines()
            other = path.with_name(".0001.csv.sending")
            other.write_bytes(b"\n".join([header, *reversed(rows), b""]))
            shutil.copystat(path, other)  # as large and as old
            if name == "replaced":
                halted = Halted(values, "ledger: begin")
                other.replace(path)
                halted.go_on()
            else:
                self.one(values)
                other.replace(path)
                for kept in (place / "home" / "archive").glob("*-0001.csv"):
                    kept.unlink()  # the sender has overwritten the only copy
            states.append(undisturbed(values))
        story = Story()
        story.tell("processed")
        return story.row("a file replaced while its batch is in hand", *states)

    @staticmethod
    def one(values: Values) -> str:
        """One run as a command; its exit code."""
        return command("run-batch", *options(values, "run-batch")).outcome


# --- everything at once ---


@dataclass(frozen=True)
class Mixture:
    """Commands of every kind at one home, while files are sent."""

    place: Path
    values: Values
    labels: Sequence[tuple[str, Path]]

    @property
    def over(self) -> Path:
        """There when all is sent and taken."""
        return self.place / "over"

    def call(self, out: Any, *words: object) -> Done:
        """One command, written down."""
        names = [str(word) for word in words]
        done = command(*names, *options(self.values, *names))
        out.write(json.dumps([" ".join(names[:2]), done.outcome, done.seconds]) + "\n")
        return done

    def send(self, out: Any) -> None:
        """Files come one by one."""
        rng = random.Random(0)
        for path in sorted((self.place / "outside").iterdir()):
            time.sleep(rng.uniform(0, 0.2))
            deposit(path, Path(self.values["inbox"]) / path.name)
        (self.place / "sent").touch()

    def take(self, out: Any) -> None:
        """Run after run, until all that was sent is taken."""
        more = True
        while more:
            closed = (self.place / "sent").exists()
            self.call(out, "run-batch", "--quiet")
            more = not closed or any(Path(self.values["inbox"]).iterdir())

    def label(self, out: Any) -> None:
        """Labels of each batch, again and again until it is there; two who do so do not differ."""
        waiting = list(self.labels)
        random.Random(os.getpid()).shuffle(waiting)
        while waiting:
            batch, path = waiting.pop(0)
            if self.call(out, "add-labels", batch, path).code != 0:
                waiting.append((batch, path))

    def write(self, out: Any) -> None:
        """Whatever else changes something."""
        while not self.over.exists():
            for words in ("push", "train", "prune", "models rollback"):
                self.call(out, *words.split())

    def read(self, out: Any) -> None:
        """Whatever changes nothing; what is read is of one moment, and never an earlier one."""
        before = 0.0
        while not self.over.exists():
            for each in READING:
                if "dry-run" in each:  # the file may be taken while it is read
                    continue
                done = self.call(out, *each.replace("PLACE", str(self.place)).split())
                if each != "metrics" or done.code != 0:
                    continue
                told = samples(done.out)
                batches = told["wine_drift_batches_total", "success"]
                rows = sum(told[key] for key in told if OF_ROWS.match(key[0]))
                if rows != ROWS * batches or batches < before:
                    problem = f"{rows:g} rows in {batches:g} batches, before {before:g}"
                    out.write(json.dumps(["metrics", problem, 0.0]) + "\n")
                before = batches

    def run(self, schedules: Sequence[str]) -> Story:
        """All of it, and what each command told."""
        roles = [self.send, self.take, self.take, self.take, self.label, self.label]
        beside = [self.write, self.read]
        told = [self.place / f"told-{number}" for number in range(len(roles + beside))]
        context, story = multiprocessing.get_context("fork"), Story()

        def play(role: Callable[[Any], None], path: Path) -> None:
            with path.open("w", encoding="utf-8", buffering=1) as out:
                role(out)

        processes = [
            context.Process(target=play, args=each)
            for each in zip(roles + beside, told, strict=True)
        ]
        words = ["schedule", "--every", "1", "--drain", "--quiet"]
        words += options(self.values, "run-batch")
        end = time.monotonic() + HANG
        with (self.place / "stderr").open("w+", encoding="utf-8") as err:
            schedulers = [
                subprocess.Popen(
                    [sys.executable, "-m", "wine_drift", *words, how], stdout=err, stderr=err
                )
                for how in schedules
            ]
            try:
                for process in processes:
                    process.start()
                for process in processes[: len(roles)]:
                    process.join(max(end - time.monotonic(), 0))
                self.over.touch()
                for process in processes[len(roles) :]:
                    process.join(max(end - time.monotonic(), 0))
                codes = [process.exitcode for process in processes]
                for each in schedulers:
                    each.send_signal(signal.SIGTERM)
                codes += [each.wait(max(end - time.monotonic(), 1)) for each in schedulers]
            finally:
                for each in (*processes, *schedulers):
                    each.kill()
            err.seek(0)
            said = err.read()
        if set(codes) != {0}:
            story.broken.append(f"exit codes {codes}: {said[-500:]}")
        story.tracebacks += said.count("Traceback")
        for path in told:
            for line in path.read_text(encoding="utf-8").splitlines():
                name, outcome, seconds = json.loads(line)
                if "Traceback" in outcome or outcome not in map(
                    "exit code {}".format, _right(name)
                ):
                    story.broken.append(f"{name}: {outcome}")
                if name.split()[0] in ("metrics", "status") and seconds > SLOW:
                    story.broken.append(f"{name} took {seconds:.1f} s")
                story.tell(outcome if "Traceback" in outcome else name, seconds)
        return story


def _right(name: str) -> tuple[int, ...]:
    """Exit codes that a command may have when nothing is wrong."""
    ends = {"run-batch": (0, 3), "health": (0, 7)}  # a bad file; the last run met one
    ends |= {"add-labels": (0, 2), "models": (0, 2)}  # no such batch, no earlier version yet
    return ends.get(name.split()[0], (0,))


def mixed(place: Path, n_files: int, seed: int, schedules: Sequence[str]) -> Row:
    """Commands of every kind at one home, against one that took all files, and then the labels."""
    files = deliver(place / "given", n_files, seed, unlabelled=True)
    values = files.values(place / "alone")
    undisturbed(values)
    for batch, path in files.labels:
        done = command("add-labels", batch, path, *options(values, "add-labels"))
        if done.code != 0:
            raise RuntimeError(done.err)
    calm = look(values)
    values = files.values(place / "mixed", lock_wait=PATIENCE)
    inbox, outside = Path(values["inbox"]), place / "mixed" / "outside"
    inbox.rename(outside)
    inbox.mkdir()
    deposit(outside / "0000.csv", inbox / "0000.csv")
    (outside / "0000.csv").unlink()
    command("run-batch", *options(values, "run-batch"))  # so that there is something to read
    story = Mixture(place / "mixed", values, files.labels).run(schedules)
    return story.row("commands of all kinds at one home", look(values), calm, exact=False)


def deposit(path: Path, target: Path) -> None:
    """Send a file as senders are told to: under another name first."""
    partial = target.with_name(f".{target.name}.sending")
    shutil.copy2(path, partial)
    partial.rename(target)


# --- the drill ---


def rows(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """All crowds, in a process that has done the imports and nothing else."""

    def ground(name: str, n_files: int, n_workers: int) -> Ground:
        files = deliver(place / name / "given", n_files, seed)
        calm = undisturbed(files.values(place / name / "calm"))
        return Ground(place / name, files, calm, n_workers)

    few = ground("few", 6, 4)
    large = ground("large", *((200, 8) if thorough else (12, 4)))
    yield large.files.row(large.calm)
    yield large.taken("fork", "forked from one, which do not wait", waits=False)
    yield large.taken("fork", "forked from one, which wait", waits=True)
    yield large.taken("threads", "threads of one process, which wait", waits=True)
    yield large.sent()
    yield large.killed()
    if thorough:
        yield large.taken("threads", "threads of one process, which do not wait", waits=False)
        yield large.taken("forkserver", "of a fork server, which wait", waits=True)
        yield large.taken("spawn", "spawned, which wait", waits=True)
        yield large.commands("commands, which do not wait", waits=False)
        yield large.commands("commands, which wait", waits=True)
        yield large.named()
        yield large.stream()
    yield large.hosts()
    how_many, schedules = (120, ("--warm", "--no-warm")) if thorough else (12, ())
    yield mixed(place / "mixture", how_many, seed, schedules)
    yield few.too_short((0.0, 0.3, 1.5) if thorough else (0.2,))
    yield few.read_meanwhile(MOMENTS[:5] if thorough else ("ledger: commit",))
    yield few.forked_under()
    yield few.lock_removed()
    yield few.overtaken()
    yield few.replaced()


if __name__ == "__main__":
    if sys.argv[1] == "host":
        host(sys.argv[2])
    warm()
    drive(rows)
