"""Commands that end at a moment that was chosen, and a clock that stands still meanwhile.

Everything heavy is loaded once, by a process that computes nothing and has no threads; each command
runs in a fork of it. So that a command that is given again after a kill can leave the very bytes
that an undisturbed one leaves, three things are frozen in the forks, which tell nothing of what was
done:

- `time.time`: every step of a story has its moment, and a step that is repeated has the same one.
  It is in the ledger, in manifests, in the metrics.
- `time.monotonic`, for modules that were not loaded before this one: every duration is 0. Nothing
  waits in these stories; what Python itself waits for goes by the real one.
- the peak of memory, which is told of each run: 0.

This module is the program that does so: it takes hold of the clock before anything asks for it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from forks import apart, drive, ended

# What touches disk or network; not each system has each of them.
CALLS = (
    *("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2"),
    *("unlink", "unlinkat", "openat", "mkdir", "mkdirat", "rmdir", "fchmod", "chmod", "utimensat"),
    *("connect", "sendto"),
)
real_time, real_monotonic = time.time, time.monotonic
_moment: float | None = None


def _time() -> float:
    return real_time() if _moment is None else _moment


def _monotonic() -> float:
    return real_monotonic() if _moment is None else 0.0


# --- how a command is broken ---


@dataclass(frozen=True)
class Trap:
    """What happens to a command, and when."""

    at: int = 0  # fail point, the first is 1; 0: none
    error: int = 0  # errno that is raised there; 0: the command is killed
    delay: float = 0.0  # seconds after the point, or after its start, at which it is killed
    call: str = ""  # system call at which it is killed
    nth: int = 0  # the first is 1


def _spring(trap: Trap) -> None:
    """The fail point of a trap is reached."""
    if trap.error:
        raise OSError(trap.error, os.strerror(trap.error))
    if trap.delay:
        _die_in(trap.delay)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def _die_in(seconds: float) -> None:
    """The system ends the process, and asks nobody: the same as SIGKILL, by a timer."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))


@dataclass(frozen=True)
class Done:
    """A command that came to its end."""

    code: int | None  # negative: the signal that ended it; None: it did not end
    points: tuple[str, ...]  # fail points that were reached
    moments: tuple[float, ...]  # of a monotonic clock, at which they were
    seconds: float
    said: str

    @property
    def killed(self) -> bool:
        """Whether it was."""
        return self.code in (-signal.SIGKILL, -signal.SIGALRM)


def command(
    world: Path, words: Sequence[str], *, at: float, trap: Trap | None = None, crossing: str = ""
) -> Done:
    """Run the command line in a fork, in the folder `world`, at a moment in Unix time.

    Parameters
    ----------
    world : Path
        The current folder of the command. What it says, and the points that it reaches, are in
        files beside it.
    words : sequence of str
    at : float
    trap : Trap, optional
    crossing : str
        A folder that is taken for one of another file system.
    """
    points, said = world.with_name("points"), world.with_name("said")
    for path in (points, said):
        path.unlink(missing_ok=True)
    ready, go = os.pipe()

    def child() -> None:
        os.close(go)
        _child(world, words, at, trap or Trap(), points, said, ready, crossing)

    pid = apart(child)
    os.close(ready)
    with contextlib.ExitStack() as stack:
        if trap is not None and trap.call:
            stack.enter_context(_traced(pid, trap, world.with_name("trace")))
        started = time.monotonic()
        os.write(go, b"!")
        os.close(go)
        code = ended(pid)
    seconds = time.monotonic() - started
    lines = [line.split(" ", 1) for line in points.read_text().splitlines()]
    return Done(
        code,
        tuple(name for _, name in lines),
        tuple(float(moment) for moment, _ in lines),
        seconds,
        said.read_text(errors="replace"),
    )


def _child(
    world: Path,
    words: Sequence[str],
    at: float,
    trap: Trap,
    points: Path,
    said: Path,
    ready: int,
    crossing: str,
) -> None:
    """What a fork does."""
    global _moment
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    log = os.open(points, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.chdir(world)
    n_reached = 0

    def hook(name: str) -> None:
        nonlocal n_reached
        n_reached += 1
        if not trap.call:  # it would be a system call as any other
            os.write(log, f"{real_monotonic()} {name}\n".encode())
        if n_reached == trap.at:
            _spring(trap)

    from wine_drift import failpoints
    from wine_drift.cli import main

    failpoints.hook = hook
    if crossing:
        _set_apart(crossing)
    os.read(ready, 1)
    _moment = at
    mock.patch("resource.getrusage", new=_no_memory).start()
    if trap.delay and not trap.at:
        _die_in(trap.delay)
    main(list(words), prog_name="wine-drift")


def _no_memory(who: int) -> SimpleNamespace:
    return SimpleNamespace(ru_maxrss=0)


def _set_apart(folder: str) -> None:
    """Let no file be renamed into a folder or out of it, as if it were of another file system."""
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if (path.parent.name == folder) != (target.parent.name == folder):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
        return replace(path, target)

    mock.patch.object(Path, "replace", new=refuse).start()


# --- kills at system calls ---


def can_trace() -> bool:
    """Whether strace is there, and may look into our own processes."""
    program = shutil.which("strace")
    return (
        program is not None
        and not subprocess.run(
            [program, "-f", "-o", os.devnull, "-e", "inject=fsync:signal=KILL:when=9", "true"],
            capture_output=True,
            check=False,
        ).returncode
    )


@contextlib.contextmanager
def _traced(pid: int, trap: Trap, log: Path) -> Iterator[None]:
    """Let strace kill a process at the system call of the trap, or else write down its calls."""
    calls = f"?{',?'.join(CALLS)}" if trap.call == "*" else trap.call
    words = ["strace", "-f", "-p", str(pid), "-o", str(log), "-e", f"trace={calls}"]
    if trap.nth:
        words += ["-e", f"inject={calls}:signal=KILL:when={trap.nth}"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        line = strace.stderr.readline()
        if "attached" not in line:
            raise RuntimeError(f"strace: {line}")
        yield


def calls(world: Path) -> Mapping[str, int]:
    """How often a command that was traced came to each system call; by its busiest thread."""
    counted: dict[str, dict[str, int]] = {}
    for line in world.with_name("trace").read_text(errors="replace").splitlines():
        found = re.match(r"(\d+) +(\w+)\(", line)  # a call that was resumed is not one more
        if found:
            thread, name = found.groups()
            each = counted.setdefault(name, {})
            each[thread] = each.get(thread, 0) + 1
    return {name: max(each.values()) for name, each in counted.items()}


def main() -> None:
    """Take hold of the clock, load everything, and let the drill be done."""
    mock.patch("time.time", new=_time).start()
    mock.patch("time.monotonic", new=_monotonic).start()
    importlib.import_module("homes").warm()
    drive(importlib.import_module("drill_crash").rows)


if __name__ == "__main__":
    importlib.import_module("killing").main()  # the one whose clock the drill knows, too
