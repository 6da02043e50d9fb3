"""`wine-drift schedule` as a whole: each batch once, runs that die, draining, /metrics."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest
from click.testing import CliRunner, Result

from wine_drift import service
from wine_drift.cli import main
from wine_drift.ledger import Ledger
from wine_drift.scheduling import LOST, Ending
from wine_drift.service import _first, _one
from wine_drift.settings import Settings, load_settings

Cli = Callable[..., Result]
Samples = Callable[[str], dict[tuple[str, ...], float]]
Start = Callable[..., "Job"]

# `wine-drift schedule`, but each run first executes what it finds in a file. What a run imports
# after the fork, and what the scheduler has loaded at its end, is written down.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from wine_drift import cli

once = cli._once

def troubled(arguments):
    before = set(sys.modules)
    trouble = Path("trouble")
    try:
        exec(trouble.read_text() if trouble.exists() else "", globals())
        once(arguments)
    finally:
        with Path("imported").open("a") as file:
            print(*sorted(set(sys.modules) - before), file=file)

if __name__ == "__main__":
    cli._once = troubled
    try:
        cli.main(["schedule", *sys.argv[1:]])
    finally:
        Path("loaded").write_text("\\n".join(sys.modules))
"""
HEAVY = {"numpy", "pandas", "scipy", "sklearn", "lightgbm", "pyarrow"}
SMALL = ("--rounds", "20", "--threads", "1")


@dataclass
class Job:
    """A scheduler at work in the current folder."""

    process: subprocess.Popen[bytes]
    errors: Path

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """The log so far, strictly as JSON: all of it, or one kind of line."""
        whole = self.errors.read_text().rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, whole) if not event or line["event"] == event]

    def wait(self, number: int, event: str = "run") -> list[dict[str, Any]]:
        """Until there are so many lines of a kind; gives them."""

        def enough() -> bool:
            assert self.process.poll() is None, self.errors.read_text()
            return len(self.lines(event)) >= number

        wait_for(enough)
        return self.lines(event)

    def wait_until(self, outcome: str) -> dict[str, Any]:
        """Until one more run ended like that; gives its line."""
        before = len(self.lines("run"))
        for number in range(before + 1, before + 10):
            line = self.wait(number)[number - 1]
            if line["outcome"] == outcome:
                return line
        raise AssertionError(f"no run {outcome}")

    def trouble(self, text: str, *, once: bool = True) -> None:
        """What the next run, or each of them, executes before it begins."""
        remove = "Path('trouble').unlink()\n" if once else ""
        Path("next").write_text(remove + text)
        Path("next").rename("trouble")

    def stop(self) -> None:
        """SIGTERM, and the end of it."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.errors.read_text()
        assert self.lines()[-1]["event"] == "stopped"


@contextmanager
def scheduled(folder: Path, *arguments: object) -> Iterator[Job]:
    """A scheduler that logs JSON, in a folder."""
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", *map(str, arguments), "--log-format", "json"]
    errors, output = folder / "errors", folder / "output"
    with errors.open("wb") as err, output.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err)
    try:
        yield Job(process, errors)
    finally:
        process.kill()  # if the test failed
        process.wait()
    assert output.read_bytes() == b""


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Until the condition holds; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a home after its first simulated batch, and seven batch files."""
    folder = tmp_path_factory.mktemp("simulated")
    home = ("--home", str(folder / "home"))
    for arguments in (
        ("run-batch", *home, "--source", "simulated", *SMALL),
        ("simulate", "--source", "simulated", "--seed", "5", "--batches", "7", "--out", "files"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def base(simulated: Path, tmp_path: Path) -> Path:
    """A folder of the test's own: home, and files to be dropped into an inbox."""
    shutil.copytree(simulated, tmp_path, dirs_exist_ok=True)
    (tmp_path / "inbox").mkdir()
    return tmp_path


@pytest.fixture
def start(base: Path) -> Iterator[Start]:
    """Start a scheduler on the home of this test."""
    with ExitStack() as stack:

        def begin(*arguments: object) -> Job:
            return stack.enter_context(scheduled(base, "--home", "home", *SMALL, *arguments))

        yield begin


def aged(home: Path, seconds: float) -> None:
    """Make the last run of a home one of an hourly schedule that was so long ago."""
    with Ledger.open(home) as ledger:
        run = ledger.last_run()
        assert run is not None
        times = {name: run[name] - seconds for name in ("started_at", "finished_at")}
        ledger.record_run(run | times | {"schedule": "every 3600 s"})


def drop(base: Path, *numbers: int) -> None:
    """Put files into the inbox, as if they had come one after the other."""
    for number in numbers:
        path = base / "inbox" / f"{number}.csv"
        shutil.copy(sorted((base / "files").iterdir())[number], path)
        os.utime(path, (1e9 + number, 1e9 + number))


def records(home: Path) -> list[dict[str, Any]]:
    """Every batch that a home knows, oldest first."""
    with Ledger.open(home, read_only=True) as ledger:
        return ledger.records(1000)


def seconds(stamp: str) -> float:
    """Unix time of a stamp in the log."""
    return datetime.fromisoformat(stamp).timestamp()


# --- a quiet life ---


@dataclass
class Life:
    """What is left of a scheduler that had an empty home and three runs."""

    folder: Path
    lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    folder = tmp_path_factory.mktemp("life")
    options = ("--home", "home", "--every", "1s", "--source", "simulated", *SMALL)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WINE_DRIFT_")]:
            patch.delenv(name)
        with scheduled(folder, *options, "--metrics-port", "0", "--log-file", "log") as job:
            job.wait(3)
            job.stop()
            return Life(folder, job.lines())


def test_each_batch_once(life: Life) -> None:
    """Every run took the next batch; the log, the ledger and the textfile tell the same."""
    runs = [line for line in life.lines if line["event"] == "run"]
    kept = records(life.folder / "home")
    assert [line["batch"] for line in runs] == list(range(1, len(runs) + 1))
    assert [line["id"] for line in runs] == [record["batch"]["id"] for record in kept]
    assert {line["outcome"] for line in runs} == {"processed"}
    text = (life.folder / "home" / "metrics" / "wine_drift.prom").read_text()
    total = f'wine_drift_batches_total{{outcome="success",pipeline="red_wine"}} {len(runs)}.0'
    assert total in text.splitlines()


def test_the_schedule_is_told_first(life: Life) -> None:
    """With where /metrics is, and when the first run is due: in an empty home at once."""
    told = life.lines[0]
    assert (told["event"], told["schedule"], told["longest_gap"]) == ("schedule", "every 1 s", 1)
    assert 0 <= seconds(told["time"]) - seconds(told["next_run"]) < 1
    assert told["metrics"].startswith("127.0.0.1:")


def test_the_log_file_has_every_line_but_notes(life: Life) -> None:
    """What is said on stderr about runs and schedule is in the file, word for word."""
    kept = [json.loads(line) for line in (life.folder / "log").read_text().splitlines()]
    assert kept == [line for line in life.lines if line["event"] != "note"]
    notes = {line.get("message") for line in life.lines if line["event"] == "note"}
    assert notes == {"SIMULATED DATA: these are not measurements of real wines"}


def test_the_scheduler_stays_small(life: Life) -> None:
    """In all its life its process loads nothing that computes, serving /metrics included."""
    loaded = {name.partition(".")[0] for name in (life.folder / "loaded").read_text().split()}
    assert "wine_drift" in loaded and loaded & HEAVY == set()


def test_importing_the_service_loads_nothing_heavy() -> None:
    """Nor does the service by itself."""
    text = "import sys, wine_drift.service; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


def test_a_warm_run_imports_next_to_nothing(life: Life) -> None:
    """All that a run of 100 rows needs was loaded before it was forked."""
    _, *later = (life.folder / "imported").read_text().splitlines()
    assert later
    for line in later:
        slow = [name for name in line.split() if name.partition(".")[0] in HEAVY]
        assert len(slow) <= 3, slow


# --- runs that die ---

AFTER_COMMIT = "import wine_drift.run; wine_drift.run.publish = lambda *_: os._exit(1)"


def test_runs_that_die(start: Start, base: Path, cli: Cli, samples: Samples) -> None:
    """Each is told, recorded as failed, counted once and published; a success clears it."""
    aged(base / "home", 3600)
    job = start("--every", "1s", "--run-deadline", "1s", "--source", "simulated")
    textfile = base / "home" / "metrics" / "wine_drift.prom"
    counted = {"killed": 0, "crashed": 0, "deadline": 0}
    for reason, trouble, code in (
        ("killed", "os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("crashed", "os._exit(1)", 1),
        ("deadline", "time.sleep(60)", -15),
    ):
        job.trouble(trouble)
        line = job.wait_until(reason)
        assert (line["level"], line["exit_code"]) == ("error", code)
        counted[reason] += 1

        def published(reason: str = reason) -> bool:
            shown = samples(textfile.read_text())
            return shown["wine_drift_runs_ended_total", "red_wine", reason] == 1

        wait_for(published)
    job.trouble(AFTER_COMMIT)
    job.wait_until("crashed")
    job.wait_until("processed")
    job.stop()
    assert {line["outcome"] for line in job.lines("run")} == {"processed", *counted}
    shown = samples(textfile.read_text())
    for reason, number in (counted | {"crashed": 2}).items():
        assert shown["wine_drift_runs_ended_total", "red_wine", reason] == number
    assert shown["wine_drift_last_run_success", "red_wine"] == 1
    kept = records(base / "home")
    assert shown["wine_drift_batches_total", "success", "red_wine"] == len(kept)
    # the one that died after its commit could not tell of its batch any more
    assert len(kept) == len([x for x in job.lines("run") if x["outcome"] == "processed"]) + 1 + 1
    assert [record["batch"]["sequence"] for record in kept] == list(range(1, len(kept) + 1))
    cli("health", "--home", base / "home")


class Dead:
    """A scheduler whose run just died, or ended."""

    stopping = False
    hurry = False

    def __init__(self, code: int, reason: str | None, job: Callable[[], object] = lambda: None):
        self.ending, self.job = Ending(code, reason), job

    def run(self, arguments: Sequence[str]) -> Ending:
        """Nothing but what the run left behind."""
        self.job()
        return self.ending


def settings_for(home: Path, **options: Any) -> Settings:
    return load_settings({"home": str(home), **options}, {})


def told_by(settings: Settings, dead: Dead) -> tuple[bool, list[dict[str, Any]]]:
    """One run: whether another follows at once, and what the scheduler told."""
    log: list[dict[str, Any]] = []
    scheduler: Any = dead
    return _one(settings, scheduler, [], log.append), log


@pytest.mark.parametrize("reason", ["killed", "crashed", "deadline"])
def test_a_death_before_there_is_a_home(
    tmp_path: Path, cli: Cli, samples: Samples, reason: str
) -> None:
    """The first run of all may die before it has made anything: still it is told."""
    home = tmp_path / "new" / "home"
    again, log = told_by(settings_for(home), Dead(-9, reason))
    assert not again and [line["outcome"] for line in log] == [reason]
    shown = samples((home / "metrics" / "wine_drift.prom").read_text())
    assert shown["wine_drift_last_run_success", "red_wine"] == 0
    assert shown["wine_drift_runs_ended_total", "red_wine", reason] == 1
    assert ("wine_drift_last_success_timestamp_seconds", "red_wine") not in shown
    assert reason in cli("health", "--home", home, code=7).stderr
    assert f"FAILED ({reason})" in cli("status", "--home", home).stdout


def test_a_death_after_the_commit_is_counted_and_not_recorded(
    base: Path, cli: Cli, samples: Samples
) -> None:
    """What the run told of itself stands: it did end well, as far as the ledger is concerned."""
    home = base / "home"
    run = ("run-batch", "--home", home, "--source", "simulated", *SMALL)
    again, log = told_by(settings_for(home), Dead(1, "crashed", lambda: cli(*run)))
    assert not again and [line["level"] for line in log] == ["error"]
    shown = samples((home / "metrics" / "wine_drift.prom").read_text())
    assert shown["wine_drift_last_run_success", "red_wine"] == 1
    assert shown["wine_drift_runs_ended_total", "red_wine", "crashed"] == 1
    assert shown["wine_drift_batches_total", "success", "red_wine"] == 2 == len(records(home))


def test_a_run_that_nobody_could_wait_for_did_not_die(base: Path, samples: Samples) -> None:
    """The fork server was killed under it; what it told of itself is all that there is to tell."""
    home, recorded = base / "home", base / "home" / "ledger.sqlite"

    def run() -> None:
        with Ledger.open(home) as ledger:
            ledger.record_run((ledger.last_run() or {}) | {"started_at": time.time()})

    again, log = told_by(settings_for(home), Dead(LOST, "crashed", run))
    assert not again and log == []
    told_by(settings_for(home), Dead(LOST, "crashed"))
    shown = samples((home / "metrics" / "wine_drift.prom").read_text())
    assert recorded.exists() and shown["wine_drift_runs_ended_total", "red_wine", "crashed"] == 1


def test_in_haste_a_death_is_recorded_and_not_published(base: Path) -> None:
    """Who asked twice to stop does not wait for a slow gateway; the next run publishes it."""
    home = base / "home"
    before = (home / "metrics" / "wine_drift.prom").read_bytes()
    dead = Dead(-9, "killed")
    dead.hurry = True
    _, log = told_by(settings_for(home), dead)
    assert [line["outcome"] for line in log] == ["killed"]
    assert (home / "metrics" / "wine_drift.prom").read_bytes() == before
    with Ledger.open(home, read_only=True) as ledger:
        assert (ledger.last_run() or {})["ended"] == "killed"


def test_a_death_that_cannot_be_published_is_told(base: Path) -> None:
    """A sink that is away is told of, as after any other run."""
    folder = base / "not a folder"
    folder.write_text("")
    _, log = told_by(settings_for(base / "home", textfile=folder / "x.prom"), Dead(-9, "killed"))
    assert [line["event"] for line in log] == ["run", "note"] and "x.prom" in log[1]["error"]


def test_a_death_beside_another_run(base: Path, samples: Samples) -> None:
    """Somebody holds the lock: the death is recorded and published once that one is done."""
    home = base / "home"
    textfile = home / "metrics" / "wine_drift.prom"
    before, seen = textfile.read_bytes(), []
    file = (home / "run.lock").open("a")
    fcntl.flock(file, fcntl.LOCK_EX)

    def end() -> None:
        seen.append(textfile.read_bytes())
        file.close()

    timer = threading.Timer(0.5, end)
    timer.start()
    told_by(settings_for(home), Dead(-9, "killed"))
    timer.join()
    assert seen == [before] != [textfile.read_bytes()]
    with Ledger.open(home, read_only=True) as ledger:
        last = ledger.last_run()
    assert last is not None and (last["outcome"], last["success"]) == ("killed", False)


def test_a_death_before_the_backup_leaves_it_to_the_next_run(base: Path) -> None:
    """A backup is read to its end, for which the scheduler would have to load much, for good."""
    home = base / "home"
    shutil.rmtree(home / "backups")
    told_by(settings_for(home), Dead(-9, "killed"))
    assert not (home / "backups").exists()
    with Ledger.open(home, read_only=True) as ledger:
        assert (ledger.last_run() or {})["ended"] == "killed"


def test_a_death_with_a_broken_ledger(base: Path) -> None:
    """What cannot be recorded is told, and the scheduler goes on."""
    (base / "home" / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
    again, log = told_by(settings_for(base / "home"), Dead(-9, "killed"))
    assert not again
    run, note = log
    assert (run["outcome"], run["level"]) == ("killed", "error")
    assert "ledger.sqlite" in note["error"] and note["remedy"] and note["level"] == "error"


# --- draining ---


def test_all_that_waits_is_taken_at_once(start: Start, base: Path) -> None:
    """A missed run is made up for by as many as there are files; a bad one stops nobody."""
    aged(base / "home", 7200)
    drop(base, 0, 1, 2, 3, 4)
    (base / "inbox" / "1.csv").write_text("a;b\n1;2\n")
    os.utime(base / "inbox" / "1.csv", (1e9 + 1, 1e9 + 1))
    job = start("--every", "1h", "--inbox", "inbox", "--drain")
    job.wait(5)
    time.sleep(0.3)
    job.stop()
    runs = job.lines("run")
    assert [(line["exit_code"], line["pending"]) for line in runs] == [
        *((0, 4), (3, 3), (0, 2), (0, 1), (0, 0)),
    ]
    assert sorted(
        path.name.partition("-")[2] for path in (base / "home" / "archive").iterdir()
    ) == [
        *("0.csv", "2.csv", "3.csv", "4.csv"),
    ]
    assert list((base / "inbox").iterdir()) == []
    assert (runs[0]["missed"], "missed" in runs[1]) == (1, False)


def test_a_signal_ends_the_draining(start: Start, base: Path) -> None:
    """The run in hand finishes, and the other files wait for the next start."""
    aged(base / "home", 7200)
    drop(base, *range(7))
    job = start("--every", "1h", "--inbox", "inbox", "--drain")
    job.trouble("time.sleep(0.3)", once=False)
    job.wait(1)
    job.stop()
    done = len(job.lines("run"))
    assert done < 4 and len(list((base / "inbox").iterdir())) == 7 - done
    assert {line["outcome"] for line in job.lines("run")} == {"processed"}


@pytest.mark.parametrize(
    ("code", "goes_on"),
    [(0, True), (3, True), (4, True), (8, True), (9, True)]
    + [(code, False) for code in (1, 2, 5, 6, 130, 255, -9, -15)],
)
def test_what_ends_the_draining(base: Path, code: int, goes_on: bool) -> None:
    """After a run that did not get rid of its batch the next one would fare no better."""
    home, reason = base / "home", None if code in (0, 2, 3, 4, 5, 6, 8, 9, 130) else "crashed"

    def leave() -> None:
        with Ledger.open(home) as ledger:
            last = ledger.last_run() or {}
            ledger.record_run(last | {"pending": 2, "outcome": "processed"})

    options = {"inbox": str(base / "inbox"), "drain": True}
    assert told_by(settings_for(home, **options), Dead(code, reason, leave))[0] == goes_on
    assert told_by(settings_for(home), Dead(code, reason, leave))[0] is False


def test_draining_ends_beside_another_run(base: Path, cli: Cli) -> None:
    """While another process holds the lock there is one try, and the files stay."""
    drop(base, 0, 1)
    home, inbox = base / "home", base / "inbox"
    with (home / "run.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        options = ("run-batch", "--home", home, "--inbox", inbox)
        result = cli(*options, "--drain", code=5)
        assert result.stderr.count("exit_code=5") == 1
        dead = Dead(5, None, lambda: cli(*options, code=5))
        settings = settings_for(home, inbox=str(inbox), drain=True)
        assert told_by(settings, dead) == (False, [])
    assert len(list(inbox.iterdir())) == 2


# --- /metrics ---


def get(address: str) -> tuple[int, str]:
    """Status and text of /metrics."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_those_of_the_ledger(
    start: Start, base: Path, cli: Cli, samples: Samples
) -> None:
    """At any time, also in the middle of a run, and not when the ledger cannot be read."""
    aged(base / "home", 7200)
    job = start("--every", "1h", "--source", "simulated", "--metrics-port", "0")
    job.trouble(
        "from wine_drift import run\n"
        "measure = run.measure\n"
        "def held(*positional, **named):\n"
        "    Path('held').touch()\n"
        "    while not Path('go').exists():\n"
        "        time.sleep(0.01)\n"
        "    return measure(*positional, **named)\n"
        "run.measure = held\n"
    )
    address = job.wait(1, "schedule")[0]["metrics"]
    wait_for((base / "held").exists)
    assert get(address) == (200, cli("metrics", "--home", base / "home").stdout)
    batches = ("wine_drift_batches_total", "success", "red_wine")
    assert samples(get(address)[1])[batches] == 1
    (base / "go").touch()
    job.wait(1)
    assert get(address) == (200, cli("metrics", "--home", base / "home").stdout)
    assert samples(get(address)[1])[batches] == 2
    ledger = base / "home" / "ledger.sqlite"
    whole = ledger.read_bytes()
    ledger.write_bytes(b"no ledger" * 1000)
    status, text = get(address)
    assert status == 503 and "ledger.sqlite" in text
    ledger.write_bytes(whole)
    assert get(address)[0] == 200
    job.stop()
    with pytest.raises(OSError):
        get(address)


def test_a_port_that_is_taken(base: Path, cli: Cli) -> None:
    """It is told before anything runs, with what to do."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = cli("schedule", "--home", base / "home", "--metrics-port", port, code=2)
    error, remedy = result.stderr.splitlines()
    assert error == f"error: metrics on 127.0.0.1:{port}: Address already in use"
    assert "metrics_port" in remedy
    assert len(records(base / "home")) == 1


def test_a_ledger_that_cannot_be_read(base: Path, cli: Cli) -> None:
    """The scheduler does not even start."""
    (base / "home" / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
    for options in ((), ("--metrics-port", 0)):
        result = cli("schedule", "--home", base / "home", *options, code=6)
        assert "ledger.sqlite" in result.stderr and result.stdout == ""


# --- starts and restarts ---

NOON = datetime.fromisoformat("2026-01-01T12:00:00+00:00").timestamp()


@pytest.mark.parametrize(
    ("options", "last", "due"),
    [
        pytest.param({"every": "10m"}, None, 0, id="never ran"),
        pytest.param({"every": "10m"}, -100, 500, id="ran lately"),
        pytest.param({"every": "10m"}, -599, 1, id="nearly due"),
        pytest.param({"every": "10m"}, -600, 0, id="due"),
        pytest.param({"every": "10m"}, -601, 0, id="missed one"),
        pytest.param({"every": "10m"}, -100_000, 0, id="missed many"),
        pytest.param({"every": "10m"}, 100_000, 600, id="clock was ahead"),
        pytest.param({"cron": "*/15 * * * *"}, None, 900, id="line, never ran"),
        pytest.param({"cron": "5 * * * *"}, None, 300, id="line, never ran, odd minute"),
        pytest.param({"cron": "5 * * * *"}, -3000, 300, id="line, ran lately"),
        pytest.param({"cron": "5 * * * *"}, -3302, 0, id="line, missed one"),
        pytest.param({"cron": "5 * * * *"}, -3298, 300, id="line, was on time"),
        pytest.param({"cron": "0 12 * * *"}, -2, 0, id="line, due now"),
        pytest.param({"cron": "5 * * * *"}, 100_000, 300, id="line, clock was ahead"),
    ],
)
def test_when_the_first_run_is_due(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    last: float | None,
    due: float,
) -> None:
    """As if the schedule had never stopped; at once if a run was missed meanwhile."""
    home = tmp_path / "home"
    if last is not None:
        with Ledger.open(home) as ledger:
            run = {"started_at": NOON + last, "finished_at": NOON + last + 50, "success": True}
            ledger.record_run(run)
    monkeypatch.setattr(service, "time", SimpleNamespace(time=lambda: NOON))
    assert _first(settings_for(home, **options)) == NOON + due


def test_the_first_run_after_an_early_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which told no more than when a run ended."""
    with Ledger.open(tmp_path) as ledger:
        ledger.record_run({"finished_at": NOON - 100, "success": True})
    monkeypatch.setattr(service, "time", SimpleNamespace(time=lambda: NOON))
    assert _first(settings_for(tmp_path, every="10m")) == NOON + 500


def test_a_restart_starts_no_run_early(start: Start, base: Path) -> None:
    """A scheduler that is restarted again and again does not run more often for it."""
    aged(base / "home", 600)
    with Ledger.open(base / "home", read_only=True) as ledger:
        began = (ledger.last_run() or {})["started_at"]
    job = start("--every", "1h", "--source", "simulated", "--no-warm")
    (told,) = job.wait(1, "schedule")
    assert seconds(told["next_run"]) == pytest.approx(began + 3600, abs=0.01)
    time.sleep(0.3)
    job.stop()
    assert job.lines("run") == [] and len(records(base / "home")) == 1


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (("--bugdet", "5"), "--bugdet"),
        (("--budget", "lots"), "--budget: 'lots'"),
        (("a.csv",), "a.csv: a schedule takes no batch"),
        (("--every", "1h", "--cron", "@daily"), "leave one out"),
        (("--every", "0"), "--every: "),
        (("--cron", "61 * * * *"), "--cron: minute '61'"),
        (("--cron", "0 0 30 2 *"), "there is no such day"),
        (("--cron", "@daily", "--timezone", "Mars/Base"), "--timezone: 'Mars/Base'"),
        (("--drain",), "there is no inbox to empty"),
        (("--drain", "--inbox", ".", "--source", "stream"), "there is no inbox to empty"),
        (("--run-deadline", "0"), "--run-deadline: "),
        (("--metrics-port", "65536"), "--metrics-port: "),
        (("--metrics-port", "0", "--metrics-host", "nowhere.invalid"), "nowhere.invalid"),
        (("--log-format", "xml"), "--log-format: "),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], mistake: str
) -> None:
    """Those of run-batch too; nothing was made."""
    result = cli("schedule", "--home", tmp_path / "home", *arguments, code=2)
    assert mistake in result.stderr and result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_options_of_run_batch_reach_the_run(start: Start, base: Path) -> None:
    """Those before and after, by each of their forms, and a settings file."""
    aged(base / "home", 7200)
    Path("own.toml").write_text('every = "2h"\nsource = "simulated"\nbatch_rows = 60\n')
    job = start("--settings", "own.toml", "--pipeline=white", "--no-warm", "--no-legacy-metrics")
    (line,) = job.wait(1)
    job.stop()
    assert (line["pipeline"], line["rows"]) == ("white", 60)
    assert job.lines("schedule")[0]["schedule"] == "every 7200 s"


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    """A scheduler may well be started in a folder into which others write."""
    (tmp_path / "numpy.py").write_text("open('taken', 'w')\n")
    script = Path(sys.executable).with_name("wine-drift")
    command = [
        script,
        "schedule",
        "--every",
        "1",
        "--home",
        "home",
        "--source",
        "simulated",
        *SMALL,
    ]
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        wait_for((tmp_path / "home" / "metrics" / "wine_drift.prom").exists)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert not (tmp_path / "taken").exists()


def test_a_schedule_has_no_dry_run(base: Path, cli: Cli) -> None:
    """It would take the same batch again and again."""
    told = cli("schedule", "--home", base / "home", "--dry-run", code=2)
    assert "a schedule has no dry run" in told.stderr


def test_the_schedule_is_that_of_the_scheduler(start: Start, base: Path) -> None:
    """A settings file that changes under it changes neither what is due nor how it is told."""
    file = base / "wine-drift.toml"
    file.write_text('every = "1s"\n')
    job = start("--settings", file, "--source", "simulated", *SMALL)
    job.wait(1)
    file.write_text('cron = "@daily"\nlog_format = "text"\nquiet = true\n')
    job.wait(3)
    job.stop()
    with Ledger.open(base / "home", read_only=True) as ledger:
        assert (ledger.last_run() or {})["schedule"] == "every 1 s"
