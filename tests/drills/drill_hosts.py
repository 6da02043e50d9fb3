"""Hosts: each with a home of its own, all with one ledger in PostgreSQL, one inbox, one shelf.

Each host is a network namespace that reaches the server through a cable of its own, where that is
allowed; else it is a home alone. What is left in the end is held against one home with SQLite that
took the files one by one: ledger, files and metrics have to be equal.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import database
from drill import Row
from drill_crowd import (
    HANG,
    MOMENTS,
    PATIENCE,
    Files,
    Halted,
    Job,
    Story,
    Values,
    crowd,
    deliver,
    started,
    take,
    undisturbed,
)
from forks import Started, drive, driven
from homes import OF_RUNS, State, warm

from wine_drift import failpoints
from wine_drift.ledger import Ledger
from wine_drift.settings import load_settings

HOSTS = ("a", "b")
RUNNERS = 4  # on each of them
NOTICED = 30.0  # seconds in which the server notices that a host is gone, as it is told to below
OPTIONS = (
    "options=-csearch_path%3D{}%20-ctcp_keepalives_idle%3D1%20-ctcp_keepalives_interval%3D1"
    "%20-ctcp_keepalives_count%3D3%20-ctcp_user_timeout%3D5s"
)
AWAY = "StateUnreadable"  # how the outcome of a run begins that has lost its server


def drill(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """Let hosts at one inbox."""
    database.programs()
    yield from driven(__file__, place, thorough=thorough, seed=seed, group=True)


# --- cables ---


class Cable:
    """From this machine to a network namespace, which is a host of its own then."""

    def __init__(self, number: int) -> None:
        self.namespace = f"wd-{os.getpid()}-{number}"
        self._link = f"wd{os.getpid() % 100_000}{'ab'[number]}"
        # two addresses each of TEST-NET-2, which are nobody's
        self.here, there = (f"198.51.100.{4 * number + each}" for each in (1, 2))
        _ip("netns", "add", self.namespace)
        try:
            peer = ("peer", "name", "eth0", "netns", self.namespace)
            _ip("link", "add", self._link, "type", "veth", *peer)
            _ip("address", "add", f"{self.here}/30", "dev", self._link)
            _ip("-n", self.namespace, "address", "add", f"{there}/30", "dev", "eth0")
            _ip("-n", self.namespace, "link", "set", "eth0", "up")
            _ip("link", "set", self._link, "up")
        except BaseException:
            self.remove()
            raise

    def pull(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        _ip("link", "set", self._link, "down")

    def plug(self) -> None:
        """As before."""
        _ip("link", "set", self._link, "up")

    def remove(self) -> None:
        """The namespace, and the cable with it."""
        _ip("netns", "delete", self.namespace)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def cables() -> Iterator[list[Cable]]:
    """One for each host, for the block; none where that is not allowed."""
    with contextlib.ExitStack() as stack:
        found: list[Cable] = []
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            for number in range(len(HOSTS)):
                cable = Cable(number)
                stack.callback(cable.remove)
                found.append(cable)
        yield found if len(found) == len(HOSTS) else []


# --- runs ---


@dataclass(frozen=True)
class Persistent(Job):
    """Empties the inbox, and begins again where the server was away."""

    def work(self, told: Path) -> None:
        """Do it, and write down what came of each run."""
        settings, rng = load_settings(self.values, {}), random.Random(told.name)
        with told.open("a", encoding="utf-8", buffering=1) as out:
            while not self.gate.exists():
                time.sleep(0.001)
            outcome = ""
            while outcome != "nothing_waiting":
                began = time.monotonic()
                outcome = take(settings)
                away = outcome.startswith(AWAY)
                out.write(json.dumps([AWAY if away else outcome, time.monotonic() - began]) + "\n")
                if away:
                    time.sleep(rng.uniform(0, 0.2))


class Host(Started):
    """The runners of one host, in a namespace of their own if there is one."""

    def __init__(self, values: Values, job: Job, told: Sequence[Path], inside: str | None) -> None:
        task = json.dumps([values, str(job.gate), [str(path) for path in told]])
        words = [sys.executable, __file__, "host", task]
        super().__init__([*_inside(inside), *words])


def _inside(namespace: str | None) -> list[str]:
    return [] if namespace is None else ["ip", "netns", "exec", namespace]


def host(task: str) -> None:
    """What a host does."""
    values, gate, told = json.loads(task)
    processes = started("fork", Persistent(values, Path(gate)), [Path(path) for path in told])
    for process in processes:
        process.join()
    sys.exit(max(process.exitcode != 0 for process in processes))


def halted(task: str) -> None:
    """One run that stands still at a moment under the lock, until it is told to go on."""
    values, moment = json.loads(task)

    def stand(name: str) -> None:
        if name == moment:
            failpoints.hook = lambda name: None
            sys.stdout.write("there\n")
            sys.stdout.flush()
            sys.stdin.readline()

    failpoints.hook = stand
    sys.stdout.write(take(load_settings(values, {})))


@dataclass(frozen=True)
class Ground:
    """Where hosts meet: a server, files, and what one home makes of these alone."""

    place: Path
    server: database.Database
    files: Files
    calm: State
    cables: list[Cable]

    def hosts(self, name: str) -> list[Values]:
        """Settings of each host; inbox and shelf are of all, and so is the ledger."""
        place, found = self.place / name, []
        place.mkdir()
        self.server.make(name)
        shared = self.files.values(place, models=str(place / "models"), lock_wait=PATIENCE)
        for number, each in enumerate(HOSTS):
            at = self.cables[number].here if self.cables else "127.0.0.1"
            there = f"postgresql://{database.USER}@{at}:{self.server.port}/postgres"
            ledger = f"{there}?{OPTIONS.format(name)}"
            found.append({**shared, "home": str(place / each), "ledger": ledger})
        return found

    def meet(
        self, name: str, hosts: Sequence[Values], begun: Callable[[], None] = lambda: None
    ) -> Story:
        """All runners of all hosts, until the inbox is empty."""

        def start(_: str, job: Job, told: Sequence[Path]) -> list[Host]:
            insides: list[str | None] = [cable.namespace for cable in self.cables]
            insides = (insides or [None] * len(HOSTS))[-len(hosts) :]
            groups = [told[number :: len(hosts)] for number in range(len(hosts))]
            return [
                Host(values, job, group, inside)
                for values, group, inside in zip(hosts, groups, insides, strict=True)
            ]

        place = self.place / name
        job = Job(hosts[0], place / "gate")
        return crowd("hosts", place, RUNNERS * len(hosts), job, begun=begun, start=start)

    def row(
        self,
        fault: str,
        name: str,
        story: Story,
        *,
        tried: int | None = None,
        shared: bool = True,
    ) -> Row:
        """The line of the table; `shared`: each host has done some of the work."""
        found = self.look(name)
        if shared and not all(
            any((self.place / name / each / "archive").glob("*")) for each in HOSTS
        ):
            found.broken.append("one host did all the work")
        row = story.row(fault, found, self.calm)
        return row if tried is None else replace(row, tried=tried)

    def look(self, name: str) -> State:
        """What all hosts hold together, and what is wrong there whatever was to be done."""
        place, address = self.place / name, self.server.address(name)
        homes = [place / each for each in HOSTS]
        found, *others = (
            State.of(home, but=OF_RUNS, address=address, models=place / "models") for home in homes
        )
        for other in others:
            found.files += other.files
            found.broken += other.broken
        if problem := Ledger.problem(homes[0], address):
            found.broken.append(problem)
        stored = self.server.ask(f"SELECT sequence FROM {name}.batches ORDER BY 1")
        if stored != [[str(number)] for number in range(1, len(stored) + 1)]:
            found.broken.append("numbers of the batches have gaps")
        if left := [path.name for path in (place / "inbox").iterdir()]:
            found.broken.append(f"left in the inbox: {left[:3]}")
        for home in homes:
            for secret in (database.USER, database.PASSWORD):
                if any(secret.encode() in path.read_bytes() for path in _written(home)):
                    found.broken.append(f"{secret} is written down in {home}")
        return found

    # --- the rows ---

    def taken(self) -> Row:
        """All is well."""
        story = self.meet("taken", self.hosts("taken"))
        story.check(waits=True)
        how = "network namespaces" if self.cables else "homes of their own"
        return self.row(f"2 hosts of {RUNNERS} runners on one inbox: {how}", "taken", story)

    def killed(self) -> Row:
        """The run that holds the lock is killed, again and again."""
        hosts, kills = self.hosts("killed"), 0

        def kill() -> None:
            nonlocal kills
            for number in range(len(self.calm.batches) // 2):
                run = Halted(hosts[number % 2], MOMENTS[number % len(MOMENTS)])
                if run.stands:
                    time.sleep(0.05)  # so that all the others wait
                    run.kill()
                    kills += 1

        story = self.meet("killed", hosts, kill)
        story.check(waits=True)
        return self.row("2 hosts, the run that writes killed", "killed", story, tried=kills)

    def stopped(self, n_stops: int) -> Row:
        """The server is killed while they run, and comes again."""
        hosts, stops = self.hosts("stopped"), 0

        def strike() -> None:
            nonlocal stops
            for number in range(n_stops):
                wanted = len(self.calm.batches) * (number + 1) // (n_stops + 2)
                done = f"SELECT 1 FROM stopped.batches HAVING count(*) >= {wanted}"
                with contextlib.suppress(RuntimeError):  # the tables are not made yet
                    self.server.wait_for(done, 60)
                time.sleep(random.Random(number).uniform(0, 0.1))
                self.server.stop("immediate")
                time.sleep(0.2)
                self.server.start()
                stops += 1

        thread = threading.Thread(target=strike)
        story = self.meet("stopped", hosts, thread.start)
        thread.join()
        met = story.outcomes.pop(AWAY, 0)
        if not met:
            story.broken.append("no run ever missed its server: nothing was tried")
        story.check(waits=True)
        return self.row("2 hosts, their server killed", "stopped", story, tried=stops)

    def lost(self, number: int, moment: str) -> Row:
        """A host is gone from the network with the lock in its hand; the other goes on soon.

        When it is back, its run finds that it has not been, or that it was done.
        """
        name, cable = f"lost{number}", self.cables[0]
        hosts = self.hosts(name)
        task = json.dumps([hosts[0], moment])
        words = [*_inside(cable.namespace), sys.executable, __file__, "halted", task]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(words, text=True, **pipes) as gone:
            try:
                assert gone.stdout is not None
                there = gone.stdout.readline()
                cable.pull()
                story = self.meet(name, hosts[1:])
                cable.plug()
                outcome = gone.communicate("go on\n", timeout=HANG)[0]
            finally:
                gone.kill()
        story.check(waits=True)
        if there != "there\n" or not outcome.startswith(AWAY):
            story.broken.append(f"at {moment}: {there}{outcome}")
        if story.longest > NOTICED:
            story.broken.append(f"at {moment}: the lock was free after {story.longest:.0f} s")
        fault = f"a host lost with the lock, at {moment!r}"
        return self.row(fault, name, story, tried=1, shared=False)


def _written(home: Path) -> Iterator[Path]:
    return (path for path in home.rglob("*") if path.is_file())


# --- the drill ---


def rows(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """All of it, in a process that has done the imports and nothing else."""
    os.environ["PGPASSWORD"] = database.PASSWORD
    files = deliver(place / "given", 60 if thorough else 12, seed)
    calm = undisturbed(files.values(place / "calm"))
    with cables() as found:
        listen = ", ".join(["127.0.0.1", *(cable.here for cable in found)])
        with database.running(listen=listen) as server:
            ground = Ground(place, server, files, calm, found)
            yield ground.taken()
            yield ground.killed()
            yield ground.stopped(8 if thorough else 1)
            if found:
                for number, moment in enumerate(MOMENTS[1:5] if thorough else MOMENTS[2:3]):
                    yield ground.lost(number, moment)


if __name__ == "__main__":
    if sys.argv[1] == "host":
        host(sys.argv[2])
    elif sys.argv[1] == "halted":
        halted(sys.argv[2])
    else:
        warm()
        drive(rows)
