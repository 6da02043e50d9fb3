"""The scheduler with real processes: endings, hangs, signals, late wake-ups, and what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wine_drift.scheduling import ECHO, LOST, _Due
from wine_drift.timetable import Cron, Every

# Each run executes a piece of Python in a process of its own. With `runs` they are called one after
# the other, and what begins with ! is executed by the scheduler in between; with `keep` there is
# one whenever it is due. Each ending is a line of JSON on stdout.
PROGRAM = """
import ctypes, json, multiprocessing.util, os, resource, signal, subprocess, sys
import threading, time
from wine_drift import scheduling
from wine_drift.timetable import Every

seen = []  # what a run leaves here is for nobody

def run(arguments):
    exec(arguments[0], globals())

def peak(pid):
    return int(open(f"/proc/{pid}/status").read().partition("VmHWM:")[2].split()[0])  # kB

def tell(**told):
    print(json.dumps(told), flush=True)

def job():
    began = time.time()
    ending = scheduler.run([plan["pieces"][0]])
    took = time.time() - began
    tell(began=began - first, ended=began - first + took, code=ending.code, reason=ending.reason)

if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    scheduling.GRACE = plan["grace"]
    scheduler = scheduling.Scheduler(run, plan["preload"], deadline=plan["deadline"])
    if plan["every"] is not None:
        first = time.time()
        scheduler.keep(Every(plan["every"]), job, first=first)
        tell(stopped=True)
    else:
        for piece in plan["pieces"]:
            if piece.startswith("!"):
                exec(piece[1:])
            else:
                ending = scheduler.run([piece])
                tell(code=ending.code, reason=ending.reason)
"""
HANG = "time.sleep(60)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"

Start = Callable[..., subprocess.Popen[str]]
Runs = Callable[..., tuple[list[tuple[int, str | None]], str]]


def program(folder: Path, *pieces: str, every: float | None, **plan: Any) -> list[str]:
    """Command of a scheduler whose runs execute the first piece, or of all pieces in turn."""
    path = folder / "program.py"
    path.write_text(PROGRAM)
    plan = {"deadline": 60, "grace": 10, "preload": ["wine_drift.scheduling"], **plan}
    return [sys.executable, str(path), json.dumps({"pieces": pieces, "every": every, **plan})]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a scheduler in a process group of its own, as a shell does."""
    started: list[subprocess.Popen[str]] = []

    def begin(piece: str, every: float, **plan: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, **plan.pop("environment", {})}
        started.append(
            subprocess.Popen(
                program(tmp_path, piece, every=every, **plan),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()  # if the test failed
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Run pieces one after the other: how each ended, and what was written to stderr."""

    def call(*pieces: str, **plan: Any) -> tuple[list[tuple[int, str | None]], str]:
        command = program(tmp_path, *pieces, every=None, **plan)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, done.stdout.splitlines())
        return [(line["code"], line["reason"]) for line in lines], done.stderr

    return call


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Until the condition holds; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process is there; one that is dead and not yet buried is not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def number(path: Path) -> int:
    """What a run has written, once it has."""
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def note(path: Path, what: str = "'x'") -> str:
    """Python that adds to a file."""
    return f"print({what}, file=open({str(path)!r}, 'a')); "


def lines(scheduler: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What a scheduler tells, as it comes."""
    assert scheduler.stdout is not None
    for line in scheduler.stdout:
        yield json.loads(line)


def end(scheduler: subprocess.Popen[str], number: int = signal.SIGTERM) -> list[dict[str, Any]]:
    """Stop a scheduler: what it told until it ended, with 0 and without complaint."""
    scheduler.send_signal(number)
    output, errors = scheduler.communicate(timeout=30)
    assert scheduler.returncode == 0, errors
    assert errors == ""
    told = [json.loads(line) for line in output.splitlines()]
    assert told.pop() == {"stopped": True}
    return told


# --- one run ---


def test_endings(runs: Runs) -> None:
    """What a run's process ended with is told, and whether it ended by itself; the next starts."""
    expected: dict[str, tuple[int, str | None]] = {
        "pass": (0, None),
        "sys.exit()": (0, None),
        "sys.exit(3)": (3, None),
        "os._exit(7)": (7, None),
        "sys.exit(130)": (130, None),
        "raise RuntimeError('a bug')": (1, "crashed"),
        "sys.exit('words')": (1, "crashed"),
        "os._exit(255)": (LOST, "crashed"),
        "os.kill(os.getpid(), signal.SIGKILL)": (-signal.SIGKILL, "killed"),
        "os.kill(os.getpid(), signal.SIGTERM)": (-signal.SIGTERM, "killed"),
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(0)": (
            *(-signal.SIGSEGV, "killed"),
        ),
    }
    found, errors = runs(*expected)
    assert dict(zip(expected, found, strict=True)) == expected
    assert errors.count("Traceback") == 1 and "RuntimeError: a bug" in errors


@pytest.mark.parametrize(
    ("deaf", "code"), [("", -signal.SIGTERM), (DEAF, -signal.SIGKILL)], ids=["polite", "deaf"]
)
def test_a_hang_ends_with_all_that_it_started(
    runs: Runs, tmp_path: Path, deaf: str, code: int
) -> None:
    """After the deadline comes SIGTERM, after the grace SIGKILL, also to what hears neither."""
    leader, child, late = tmp_path / "leader", tmp_path / "child", tmp_path / "late"
    shell = f"trap '' TERM; echo $$ > {child}; sleep 60 & wait; sleep 60"
    piece = (
        f"{deaf}\n{note(leader, 'os.getpid()')}subprocess.Popen(['sh', '-c', {shell!r}]); {HANG}"
    )
    found, _ = runs(piece, note(late), deadline=1.2, grace=0.3)
    assert found == [(code, "deadline"), (0, None)]
    assert not alive(number(leader)) and not alive(number(child))
    assert late.exists()


def test_a_run_may_clean_up_when_its_time_is_over(runs: Runs, tmp_path: Path) -> None:
    """SIGTERM comes first; what a run does then, within the grace, it can do."""
    piece = f"""
def tidy(*_):
    {note(tmp_path / "tidy")}
    os._exit(5)
signal.signal(signal.SIGTERM, tidy)
{HANG}
"""
    found, _ = runs(piece, deadline=1)
    assert found == [(5, "deadline")]
    assert (tmp_path / "tidy").exists()


def test_runs_share_nothing(runs: Runs, tmp_path: Path) -> None:
    """State, environment, folder and memory of a run are gone with it."""
    spoil = """
seen.append(1)
scheduling.GRACE = 99
os.environ["SPOILT"] = "1"
os.chdir("/")
os.umask(0o777)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
kept = bytearray(os.urandom(1)) * 300_000_000
"""
    look = f"""
assert not seen and scheduling.GRACE == 10 and "SPOILT" not in os.environ and "kept" not in vars()
assert os.getcwd() == {str(Path.cwd())!r} and os.umask(0o22) != 0o777
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert peak(os.getppid()) < 200_000
"""
    mine = "!assert peak(os.getpid()) < 200_000"
    found, errors = runs(spoil, look, spoil, look, mine)
    assert found == [(0, None)] * 4, errors


def test_a_run_is_apart(runs: Runs) -> None:
    """What is done to the terminal or to the group of the scheduler does not reach it."""
    found, errors = runs("assert os.getsid(0) == os.getpgid(0) == os.getpid()")
    assert found == [(0, None)], errors


def test_nothing_leaks_over_many_runs(runs: Runs) -> None:
    """After fifty runs, some of them bad, the scheduler holds what it held after three."""
    count = "len(os.listdir('/dev/fd')), threading.active_count()"
    some = ["pass", "os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"]
    found, _ = runs(*some, f"!held = {count}", *some * 16, f"!assert held == ({count}), (held,)")
    assert len(found) == 51


def test_the_fork_server_may_die(runs: Runs, tmp_path: Path) -> None:
    """Killed between two runs it is started anew; killed under a run, that run counts as lost."""
    server = tmp_path / "server"
    found, _ = runs(
        note(server, "os.getppid()"),
        f"!os.kill(int(open({str(server)!r}).read()), signal.SIGKILL)",
        "pass",
        "os.kill(os.getppid(), signal.SIGKILL); time.sleep(0.3)",
        "pass",
    )
    assert found == [(0, None), (0, None), (LOST, "crashed"), (0, None)]


def test_a_hang_is_ended_though_the_fork_server_is_gone(runs: Runs, tmp_path: Path) -> None:
    """Its parent is lost, its deadline is not."""
    run = tmp_path / "run"
    piece = f"{note(run, 'os.getpid()')}os.kill(os.getppid(), signal.SIGKILL); {HANG}"
    found, _ = runs(piece, deadline=1)
    assert found[0][1] == "deadline"
    assert not alive(number(run))


def test_a_hang_is_ended_though_the_scheduler_is_gone(start: Start, tmp_path: Path) -> None:
    """A run that nobody waits for any more ends itself."""
    run = tmp_path / "run"
    scheduler = start(f"{note(run, 'os.getpid()')}{HANG}", 60, deadline=1, grace=1)
    pid = number(run)
    scheduler.kill()
    wait_for(lambda: not alive(pid))


def test_the_fork_servers_socket_may_vanish(runs: Runs, tmp_path: Path) -> None:
    """Somebody cleans temporary folders: runs are started without it, and end as they end."""
    parents = tmp_path / "parents"
    found, errors = runs(
        note(parents, "os.getppid()"),
        "!for name in os.listdir(folder := multiprocessing.util.get_temp_dir()):"
        " os.unlink(f'{folder}/{name}')",
        note(parents, "os.getppid()"),
        "os._exit(7)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        deadline=20,
    )
    assert found == [(0, None), (0, None), (7, None), (-signal.SIGKILL, "killed")]
    before, after = parents.read_text().split()
    assert before != after and errors == ""


# --- many runs ---


def test_a_failing_run_is_survived(start: Start) -> None:
    """Each run is a new process; when one dies, the next one starts."""
    scheduler = start("os._exit(7)", 0.3)
    told = [*islice(lines(scheduler), 3), *end(scheduler)]
    assert {(line["code"], line["reason"]) for line in told} == {(7, None)}


def test_a_signal_lets_the_run_in_hand_finish(start: Start, tmp_path: Path) -> None:
    """After SIGTERM the run goes on to its end, no other starts, and the exit code is 0."""
    begun, done = tmp_path / "begun", tmp_path / "done"
    scheduler = start(f"{note(begun)}time.sleep(1); {note(done)}", 0.3)
    wait_for(begun.exists)
    (told,) = end(scheduler)
    assert (told["code"], told["reason"]) == (0, None)
    assert begun.read_text() == done.read_text() == "x\n"


def test_a_signal_between_runs_ends_at_once(start: Start, tmp_path: Path) -> None:
    """There is nothing to wait for but an hour."""
    scheduler = start("pass", 3600)
    next(lines(scheduler))
    assert end(scheduler) == []


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)],
    ids=["Ctrl-C twice", "SIGTERM, then Ctrl-C"],
)
def test_a_second_signal_ends_the_run_at_once(
    start: Start, tmp_path: Path, numbers: tuple[int, int]
) -> None:
    """Who asks twice does not wait, not even for what hears no SIGTERM."""
    run, child = tmp_path / "run", tmp_path / "child"
    piece = f"{DEAF}; subprocess.Popen(['sh', '-c', 'echo $$ > {child}; sleep 60; true']); "
    scheduler = start(f"{piece}{note(run, 'os.getpid()')}{HANG}", 1)
    pids = number(run), number(child)
    scheduler.send_signal(numbers[0])
    scheduler.send_signal(numbers[0])  # an echo: the same again, to all of a group
    time.sleep(ECHO + 0.2)
    assert alive(pids[0])
    (told,) = end(scheduler, numbers[1])
    assert (told["code"], told["reason"]) == (-signal.SIGKILL, "killed")
    assert not any(map(alive, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_lets_the_run_in_hand_finish(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """A terminal, `kill %1` and timeout send to the scheduler and all that is of its group."""
    begun, done = tmp_path / "begun", tmp_path / "done"
    scheduler = start(f"{note(begun)}time.sleep(0.7); {note(done)}", 0.3)
    wait_for(begun.exists)
    os.killpg(scheduler.pid, number)
    output, errors = scheduler.communicate(timeout=30)
    assert scheduler.returncode == 0 and errors == ""
    assert begun.read_text() == done.read_text() == "x\n"
    assert output.count('"reason": null') == 1


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_the_imports_are_done(start: Start, tmp_path: Path, times: int) -> None:
    """In its first seconds too: one lets the first run finish, a second one does not."""
    imports, done = tmp_path / "imports", tmp_path / "done"
    (tmp_path / "slow.py").write_text(f"import time; {note(imports)}\ntime.sleep(1)\n")
    piece = f"time.sleep(0.5); {note(done)}"
    scheduler = start(
        piece,
        5,
        preload=["slow", "wine_drift.scheduling"],
        environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    wait_for(imports.exists)
    for _ in range(times):
        os.killpg(scheduler.pid, signal.SIGINT)
        time.sleep(ECHO + 0.1)
    output, errors = scheduler.communicate(timeout=30)
    assert scheduler.returncode == 0 and errors == ""
    told = json.loads(output.splitlines()[0])
    assert told["reason"] == (None if times == 1 else "killed")
    assert imports.read_text() == "x\n" and done.exists() == (times == 1)


def test_a_hang_is_ended_and_the_next_run_starts(start: Start) -> None:
    """A run beyond its deadline is ended, again and again."""
    scheduler = start(HANG, 0.5, deadline=0.7)
    told = list(islice(lines(scheduler), 2))
    end(scheduler)
    assert {(line["code"], line["reason"]) for line in told} == {(-signal.SIGTERM, "deadline")}


def test_runs_do_not_overlap(start: Start) -> None:
    """What becomes due during a run is left out, not kept for later."""
    every = 0.5
    scheduler = start("time.sleep(0.7)", every)
    told = list(islice(lines(scheduler), 3))
    end(scheduler)
    for one, other in pairwise(told):
        assert other["began"] >= one["ended"]
        assert other["began"] % every < 0.4 * every  # in step, not right after the other


def test_a_late_wake_up_is_made_up_for_once(start: Start) -> None:
    """A machine that slept over several runs catches up with one, then goes on in step."""
    every = 1.5
    scheduler = start("pass", every)
    told = lines(scheduler)
    ended = next(told)["ended"] + 0.3
    time.sleep(0.3)  # the run is over, and the scheduler has seen that it is
    scheduler.send_signal(signal.SIGSTOP)
    assert ended < every
    time.sleep(2.4 * every - ended)
    scheduler.send_signal(signal.SIGCONT)
    second, third = next(told)["began"], next(told)["began"]
    end(scheduler)
    assert 2.4 * every < second < 2.9 * every < 3 * every <= third  # two were due; then in step


def test_a_killed_scheduler_leaves_nothing_but_the_run_in_hand(
    start: Start, tmp_path: Path
) -> None:
    """After SIGKILL the run goes on to its end, and the fork server ends with it."""
    server, run, done = tmp_path / "server", tmp_path / "run", tmp_path / "done"
    piece = f"{note(server, 'os.getppid()')}{note(run, 'os.getpid()')}"
    scheduler = start(f"{piece}time.sleep(0.7); {note(done)}", 60)
    pids = number(server), number(run)
    scheduler.kill()
    scheduler.wait(30)
    assert alive(pids[1]) and not done.exists()
    wait_for(lambda: not any(map(alive, pids)))
    assert done.exists()


def test_no_place_for_a_socket(start: Start, tmp_path: Path) -> None:
    """Where the temporary folder takes no socket, runs are started without the fork server."""
    far = tmp_path / ("far" * 30)
    far.mkdir()
    scheduler = start("pass", 60, environment={"TMPDIR": str(far)})
    told = next(lines(scheduler))
    assert (told["code"], told["reason"]) == (0, None)
    assert end(scheduler) == []


# --- when ---


def moments(timetable: Cron | Every, first: datetime, number: int) -> list[datetime]:
    """Due times as APScheduler asks for them, with a clock that is always a little late."""
    due, found = _Due(timetable), [first]
    for _ in range(number):
        found.append(due.get_next_fire_time(found[-1], found[-1] + timedelta(seconds=2)))
    return found


@pytest.mark.parametrize("expression", ["30 2 * * *", "*/30 * * * *", "15,45 1-3 * * *"])
@pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24"])
def test_changed_clocks(expression: str, day: str) -> None:
    """In the nights when clocks are changed runs are due when the timetable says."""
    cron = Cron(expression, ZoneInfo("Europe/Berlin"))
    first = datetime.fromisoformat(f"{day}T00:00+00:00")
    found = moments(cron, first, 120)
    assert found[1].timestamp() == cron.due_after(first.timestamp())
    for one, other in pairwise(found[1:]):
        assert other.timestamp() == cron.due_after(one.timestamp())
        assert cron.due_between(one.timestamp(), other.timestamp()) == 1


@given(
    st.integers(1, 100_000),
    st.floats(0, 1e6),
    st.datetimes(datetime(2001, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)),
)
def test_one_run_makes_up_for_all_that_were_slept_through(
    seconds: int, slept: float, previous: datetime
) -> None:
    """The next time is later than now, at most one interval away, and in step."""
    now = previous + timedelta(seconds=slept)
    due = _Due(Every(seconds)).get_next_fire_time(previous, now)
    assert timedelta(0) < due - now <= timedelta(seconds=seconds, microseconds=2)
    steps = (due - previous).total_seconds() / seconds
    assert steps == pytest.approx(round(steps), abs=1e-5) and round(steps) >= 1


def test_the_first_time_of_all() -> None:
    """Without a run before, one is due an interval from now, or when the line says."""
    now = datetime(2026, 1, 1, 12, 7, tzinfo=UTC)
    assert _Due(Every(600)).get_next_fire_time(None, now) == now + timedelta(minutes=10)
    assert _Due(Cron("*/15 * * * *", UTC)).get_next_fire_time(None, now).minute == 15
