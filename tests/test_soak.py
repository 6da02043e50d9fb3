"""The soak of `make soak`, short: twenty scheduled runs, some of them killed, and both stops."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soak

from wine_drift.ledger import Ledger

RUNS = 20


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, soak.Story]:
    """The folder of a soak and its story; not to be written to."""
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        needs = "needs Linux: /proc with the children of a process"
        if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
            pytest.fail(needs)
        pytest.skip(needs)
    place = tmp_path_factory.mktemp("soak")
    return place, soak.soak(place, RUNS, seed=3, pauses=(1.0, 1.5))


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_counted_twice(soaked: tuple[Path, soak.Story]) -> None:
    """Killed runs and stopped schedulers leave what an undisturbed process leaves."""
    place, story = soaked
    rows = soak.check(place, story)
    assert all(row.held in (True, None) for row in rows), soak.table(rows)
    assert story.runs == RUNS and story.signals > 0


@pytest.mark.slow
def test_every_promise_can_be_broken(soaked: tuple[Path, soak.Story], tmp_path: Path) -> None:
    """Of a soak in which everything went wrong, no row of the table is content."""
    place, story = Path(shutil.copytree(soaked[0], tmp_path / "soak")), soaked[1]
    real, home = place / "soak", place / "soak" / "home"
    with Ledger.open(home) as ledger:
        for name, labels in {
            "batches": (("outcome", "quarantined"),),
            "runs_ended": (("reason", "crashed"),),
            **dict.fromkeys(("rows", "runs_missed", "runs_skipped"), ()),
        }.items():
            ledger.add(name, labels)
    shutil.rmtree(place / "calm" / "home")
    (real / "inbox" / "late.csv").touch()
    next((home / "quarantine").iterdir()).unlink()
    (home / "metrics" / "wine_drift.prom").write_text("")
    (real / "stderr").write_text("Traceback (most recent call last):\n")
    crash = '{"event": "run", "exit_code": 1}\n'
    (real / "log").write_text(3 * crash + (real / "log").read_text())
    (longest,) = (held for held in story.held if len(held) == max(map(len, story.held)))
    leaking = [{k: v + (n << 20) for k, v in each.items()} for n, each in enumerate(longest)]
    rows = soak.check(
        place,
        replace(
            story,
            sent=[*story.sent, soak.Sent("lost.csv", "0" * 12, good=True)],
            hits=story.hits + 1,
            runs=story.runs + RUNS,
            pauses=[1e6],
            stops=[(what, found, "else") for what, found, _ in story.stops],
            held=[leaking],
        ),
    )
    assert not [row.what for row in rows if row.held is True], soak.table(rows)


def test_a_signal_that_comes_too_late_is_known() -> None:
    """A process that has ended, and that nobody has waited for, takes a signal and ignores it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        assert soak.Process(alive.pid).kill(signal.SIGTERM)
        assert alive.wait() == -signal.SIGTERM
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        os.kill(ended.pid, signal.SIGKILL)
        assert not soak.Process(ended.pid).kill(signal.SIGKILL)
