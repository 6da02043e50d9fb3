"""The scheduler with real processes: starts, failures, hangs and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from wine_drift.cli import main

ENV = {**os.environ, "PYTHONUNBUFFERED": "1"}


def start(every: float, deadline: float, child: str) -> subprocess.Popen[str]:
    """A scheduler process whose runs execute a line of Python."""
    program = (
        "import sys; from wine_drift.scheduling import run_every; "
        f"run_every({every}, [sys.executable, '-c', sys.argv[1]], deadline={deadline}, say=print)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, child],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENV,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Until the condition holds; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_runs_repeat_and_a_failing_one_is_told_and_survived(tmp_path: Path) -> None:
    """Each run is a new process; one that crashes is told, and the next one starts."""
    log = tmp_path / "log"
    scheduler = start(1, 60, f"import os; open({str(log)!r}, 'a').write('x'); os._exit(7)")
    wait_for(lambda: log.exists() and len(log.read_text()) >= 2)
    scheduler.send_signal(signal.SIGTERM)
    output, _ = scheduler.communicate(timeout=20)
    assert scheduler.returncode == 0
    assert "exit code 7" in output
    assert "Traceback" not in output


def test_a_signal_lets_the_run_in_hand_finish(tmp_path: Path) -> None:
    """After SIGTERM the run goes on to its end, no other starts, and the exit code is 0."""
    begun, done = tmp_path / "begun", tmp_path / "done"
    scheduler = start(
        1,
        60,
        f"import time; open({str(begun)!r}, 'a').write('x'); time.sleep(2);"
        f" open({str(done)!r}, 'a').write('x')",
    )
    wait_for(begun.exists)
    scheduler.send_signal(signal.SIGTERM)
    scheduler.communicate(timeout=20)
    assert scheduler.returncode == 0
    assert begun.read_text() == done.read_text() == "x"


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    """Who asks twice does not wait."""
    begun = tmp_path / "begun"
    scheduler = start(1, 60, f"import time; open({str(begun)!r}, 'a'); time.sleep(60)")
    wait_for(begun.exists)
    started = time.monotonic()
    scheduler.send_signal(signal.SIGINT)
    time.sleep(0.3)
    scheduler.send_signal(signal.SIGINT)
    scheduler.communicate(timeout=20)
    assert scheduler.returncode == 0
    assert time.monotonic() - started < 15


def test_a_run_that_hangs_is_ended(tmp_path: Path) -> None:
    """A run beyond its deadline is ended, and the next one starts."""
    log = tmp_path / "log"
    scheduler = start(1, 0.7, f"import time; open({str(log)!r}, 'a').write('x'); time.sleep(60)")
    wait_for(lambda: log.exists() and len(log.read_text()) >= 2)
    scheduler.send_signal(signal.SIGTERM)
    output, _ = scheduler.communicate(timeout=20)
    assert scheduler.returncode == 0
    assert "exit code -15" in output


def test_schedule_runs_the_same_run_batch(tmp_path: Path) -> None:
    """`wine-drift schedule` passes its options on; each batch is counted once."""
    home = tmp_path / "home"
    scheduler = subprocess.Popen(
        [
            *(sys.executable, "-m", "wine_drift", "schedule", "--every", "1", "--home", str(home)),
            *("--source", "simulated", "--rounds", "20"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
    )
    textfile = home / "metrics" / "wine_drift.prom"
    wait_for(lambda: textfile.exists() and successes(textfile) >= 2, 60)
    scheduler.send_signal(signal.SIGTERM)
    output, errors = scheduler.communicate(timeout=60)
    assert scheduler.returncode == 0, errors
    status = CliRunner().invoke(main, ["status", "--json", "--home", str(home)])
    batches = json.loads(status.stdout)["batches"]
    assert len(batches) == output.count("decision") >= 2
    assert [batch["batch"]["sequence"] for batch in batches] == list(range(1, len(batches) + 1))


def test_a_wrong_option_is_told_before_anything_runs() -> None:
    """A mistake in the options of run-batch is a usage error of schedule."""
    for arguments in (["--bugdet", "5"], ["--budget", "lots"]):
        result = CliRunner().invoke(main, ["schedule", *arguments])
        assert result.exit_code == 2, result.output
        assert "budget" in result.output or "bugdet" in result.output


def successes(path: Path) -> float:
    """The counter of processed batches in a textfile."""
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            if sample.labels.get("outcome") == "success" and "batches" in sample.name:
                return sample.value
    return 0
