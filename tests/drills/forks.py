"""Processes of a drill: one that breaks things and tells its rows, and forks of it.

A fork must not inherit threads, and should find all imports done; so what forks is a process of its
own. Nothing heavy is imported here: `killing` has to take hold of the clock before anything asks
for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from drill import Drill, Row

HANG = 120.0  # seconds after which a command is told to hang
ENV = {name: word for name, word in os.environ.items() if not name.startswith("WINE_DRIFT_")}


def driven(
    program: str,
    place: Path,
    *,
    thorough: bool,
    seed: int,
    prefix: Sequence[str] = (),
    group: bool = False,
) -> Iterator[Row]:
    """Run a program that calls `drive`; with `group`, all that it leaves behind is killed."""
    how = "thorough" if thorough else "short"
    with (
        (place / "stderr").open("w+", encoding="utf-8") as stderr,
        subprocess.Popen(
            [*prefix, sys.executable, program, how, str(place.resolve()), str(seed)],
            env=ENV,
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=group,
        ) as driver,
    ):
        assert driver.stdout is not None
        try:
            for line in driver.stdout:
                told = json.loads(line)
                yield Row(**told | {"broken": tuple(told["broken"])})
            os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
        finally:
            if group:  # as long as nobody has asked for its exit code, the group is its own
                os.killpg(driver.pid, signal.SIGKILL)
        if driver.wait():
            stderr.seek(0)
            words = stderr.read()
            yield Row("the drill itself", 1, 0, 0, words.count("Traceback"), (words[-2000:],))


def drive(rows: Drill) -> None:
    """What such a program does: it tells its rows as JSON, one a line."""
    how, place, seed = sys.argv[1:]
    for row in rows(Path(place), thorough=how == "thorough", seed=int(seed)):
        sys.stdout.write(json.dumps(asdict(row)) + "\n")
        sys.stdout.flush()


def apart(work: Callable[[], object]) -> int:
    """Do something in a fork that is not waited for; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
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


def ended(pid: int, hang: float = HANG) -> int | None:
    """Exit code of a fork; None, and its end, if it hangs for so many seconds."""
    end, pause = time.monotonic() + hang, 0.0005
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.01)


class Started:
    """A command of its own, which is asked and ended as a process of multiprocessing is."""

    def __init__(self, words: Sequence[str], *, start_new_session: bool = False) -> None:
        self._process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, start_new_session=start_new_session
        )

    @property
    def exitcode(self) -> int | None:
        """As of a process of multiprocessing."""
        return self._process.poll()

    def join(self, seconds: float) -> None:
        """Wait for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
