"""APScheduler around the same run: each run is a process of its own, one at a time.

A crash, a leak or a hang of one run does not touch the next. Late wake-ups are made up for once,
and no two runs overlap; the lock of the home holds that even beside another scheduler.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import FrameType

GRACE = 10.0  # seconds between asking a hung run to end and ending it


def run_every(
    seconds: float,
    command: Sequence[str],
    *,
    deadline: float,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Run a command now and every so many seconds, until SIGTERM or SIGINT.

    The signal lets the run in hand finish; a second one ends it at once, and its batch is taken
    again later. Returns when the last run has ended.

    Parameters
    ----------
    seconds : float, > 0
        From start to start. A run that takes longer delays the next, and is not doubled.
    command : sequence of str
        Program and arguments; its output is passed through.
    deadline : float
        Seconds after which a run is ended.
    say : callable
        Told of a run that did not end well.
    """
    from apscheduler.schedulers.blocking import BlockingScheduler

    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a late start is no news
    scheduler = BlockingScheduler(
        timezone=UTC,
        # The default grace of one second loses every run that wakes up late.
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
    )
    child = _Child()

    def run() -> None:
        code = child.run(command, deadline=deadline)
        if code != 0:
            say(f"the run ended with exit code {code}")

    def shut_down() -> None:
        while not scheduler.running:  # the signal came while it was starting
            time.sleep(0.01)
        scheduler.shutdown()

    def stop(signum: int, frame: FrameType | None) -> None:
        if child.stopping:
            child.kill()
            return
        child.stopping = True
        # shutdown() waits for the run in hand, and a signal handler must not
        threading.Thread(target=shut_down, name="shutdown").start()

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        scheduler.add_job(
            run, "interval", seconds=seconds, next_run_time=datetime.now(UTC), id="run-batch"
        )
        scheduler.start()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Child:
    """The run in hand."""

    def __init__(self) -> None:
        self.stopping = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str], *, deadline: float) -> int:
        """Run to the end, or to the deadline, and give the exit code."""
        # A session of its own: Ctrl-C on our terminal must not cut it
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
            self._process = process
            try:
                return process.wait(deadline)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(GRACE)
                self.kill()
                return process.wait()
            finally:
                self._process = None

    def kill(self) -> None:
        """End it at once, with everything that it started."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
