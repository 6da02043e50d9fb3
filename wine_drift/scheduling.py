"""APScheduler around the same run: each run is a process of its own, one at a time.

A crash, a leak or a hang of one run does not touch the next. Late wake-ups are made up for once,
and no two runs overlap; the lock of the home holds that even beside another scheduler.

Runs are forked from a process that has done the imports and nothing else, so they start in
milliseconds and still share no memory that any of them has written.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Protocol

from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger

GRACE = 10.0  # seconds between asking a hung run to end and ending it
BUG, LOST = 1, 255  # exit codes: of a traceback, and of a process that nobody could wait for
ECHO = 0.5  # seconds in which a second signal is the first one again: some send to all of a group
STOPS = (signal.SIGTERM, signal.SIGINT)


class Timetable(Protocol):
    """When runs are due, in Unix seconds."""

    def due_after(self, moment: float, *, since: float) -> float:
        """The first time after a moment, for a schedule that began at `since`."""


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    code: int  # its exit code; negative: the signal that killed it
    reason: str | None  # deadline, killed or crashed; None: it ended by itself


class Scheduler:
    """Starts runs when they are due, until SIGTERM or SIGINT.

    The signal lets the run in hand finish; a second one ends it at once, and its batch is taken
    again later.

    Parameters
    ----------
    target : callable
        What a run's process calls; a function of a module, since it is found by its name there.
    preload : sequence of str
        Modules that are imported once for all runs; none: each run imports for itself.
    deadline : float
        Seconds after which a run is ended.
    """

    def __init__(
        self, target: Callable[[Sequence[str]], None], preload: Sequence[str], *, deadline: float
    ) -> None:
        self.stopping = False
        self.hurry = False  # nothing but the end is waited for
        self._stopped_at = 0.0
        self._target, self._deadline = target, deadline
        self._pid: int | None = None  # of the run in hand
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        while (low := os.open(os.devnull, os.O_RDWR)) < 3:
            pass  # a pipe must not get the number of a standard stream that is closed
        os.close(low)

    def keep(self, timetable: Timetable, job: Callable[[], None], *, first: float) -> None:
        """Call the job at `first` (Unix seconds) and whenever it is due; returns after a signal.

        The job runs in a thread. A call that takes longer than the schedule allows is not doubled:
        what became due meanwhile is left out. What became due while the machine slept is made up
        for by one call.
        """
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a late start is no news
        scheduler = BlockingScheduler(
            timezone=UTC,
            # The default grace of one second loses every run that wakes up late.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

        def shut_down() -> None:
            while not scheduler.running:  # the signal came while it was starting
                time.sleep(0.01)
            scheduler.shutdown()

        def stop(signum: int, frame: FrameType | None) -> None:
            if self.stopping:
                if time.monotonic() - self._stopped_at > ECHO:
                    self.hurry = True
                    self._signal(signal.SIGKILL)
                return
            self.stopping, self._stopped_at = True, time.monotonic()
            # shutdown() waits for the run in hand, and a signal handler must not
            threading.Thread(target=shut_down, name="shutdown").start()

        earlier = {number: signal.signal(number, stop) for number in STOPS}
        try:
            with _sheltered(), contextlib.suppress(OSError):  # each run tries again
                forkserver.ensure_running()  # it begins to import; the first run waits for that
            scheduler.add_job(
                job,
                _Due(timetable),
                next_run_time=datetime.fromtimestamp(first, UTC),
                id="run-batch",
            )
            scheduler.start()
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def run(self, arguments: Sequence[str]) -> Ending:
        """Call the target in a process of its own, and wait for it up to the deadline."""
        process = self._start(arguments)
        self._pid = process.pid
        try:
            if self.hurry:  # the second signal came while it was starting
                self._signal(signal.SIGKILL)
            until = time.monotonic() + self._deadline
            process.join(self._deadline)
            late = process.exitcode is None
            if process.exitcode == LOST and process.pid is not None:
                late = not _gone(process.pid, until)  # it may have outlived the fork server
            if late:
                self._signal(signal.SIGTERM)
                process.join(GRACE)
                self._signal(signal.SIGKILL, young=False)  # also to what it has left behind
                process.join()
            code = LOST if process.exitcode is None else process.exitcode
        finally:
            self._pid = None
        process.close()
        if late:
            return Ending(code, "deadline")
        if code < 0:
            return Ending(code, "killed")
        return Ending(code, "crashed" if code in (BUG, LOST) else None)

    def _start(self, arguments: Sequence[str]) -> BaseProcess:
        what = (self._target, list(arguments), self._deadline + GRACE)
        process: BaseProcess = self._context.Process(target=_apart, args=what)
        with _sheltered():
            try:
                process.start()
            except (OSError, EOFError):  # its socket in the temporary folder is gone, say
                process = multiprocessing.get_context("spawn").Process(target=_apart, args=what)
                process.start()
        return process

    def _signal(self, number: signal.Signals, *, young: bool = True) -> None:
        """Send a signal to the run in hand, and to everything that it started.

        A young run may be no group yet; of an older one that is gone the number may be another's.
        """
        pid = self._pid
        if pid is None:
            return
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            with contextlib.suppress(ProcessLookupError):
                if young:
                    os.kill(pid, number)


def _gone(pid: int, until: float) -> bool:
    """Wait for a process that is no child of ours any more; whether it ended in time."""
    while True:
        try:
            with contextlib.suppress(ChildProcessError):  # as the first process of a container
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    return True
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.1)


@contextlib.contextmanager
def _sheltered() -> Iterator[None]:
    """Signals to our group do not end what is started in the block, however young it is.

    The fork server ends with us, when its pipe is closed. Nothing that is started here takes a
    module from the folder that we happen to be in.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    resource_tracker.ensure_running()  # when it starts, it lets the signals through again
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _apart(target: Callable[[Sequence[str]], None], arguments: Sequence[str], limit: float) -> None:
    """In the run's own process."""
    os.setsid()  # what is sent to the scheduler's group must not cut it
    signal.setitimer(signal.ITIMER_REAL, limit)  # should nobody be left to end it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    target(arguments)


class _Due:
    """A timetable as APScheduler asks for it."""

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """The next time; those that passed while nobody was awake are one."""
        since = (previous or now).timestamp()
        moment = max(since, now.timestamp())
        return datetime.fromtimestamp(self._timetable.due_after(moment, since=since), UTC)


BaseTrigger.register(_Due)
