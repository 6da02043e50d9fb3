"""`make stack-local`: the whole stack without Docker, as a person starts and stops it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from wine_drift.ledger import Ledger

LOCAL = Path(__file__).parents[2] / "compose" / "local.py"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, promtool: str) -> Iterator[Start]:
    """Start the stack on ports of its own, with a demo of six hours."""
    ports = {}
    for name in ("PROMETHEUS", "PUSHGATEWAY", "ALERTMANAGER"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports[f"{name}_PORT"] = str(probe.getsockname()[1])
    job = tmp_path / "job"
    job.mkdir()
    settings = (LOCAL.parent / "job" / "wine-drift.toml").read_text()
    assert "every = 60" in settings
    (job / "wine-drift.toml").write_text(settings.replace("every = 60", "every = 20"))
    places = {"DEMO_HOME": str(tmp_path / "demo"), "JOB_CONFIG": str(job)}
    usual = ports | places | {"DEMO_DAYS": "0.25"}
    started: list[subprocess.Popen[str]] = []

    def begin(**changes: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, LOCAL],
                env=os.environ | usual | changes,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


def addresses(process: subprocess.Popen[str]) -> dict[str, str]:
    """What it prints once all is up."""
    found: dict[str, str] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.match(r"(\w+) +(http://\S+)$", line):
            found[match[1]] = match[2]
        if line.startswith("Ctrl-C"):
            return found
    raise AssertionError(f"it ended: {process.communicate()[1]}")


def stopped(process: subprocess.Popen[str], how: signal.Signals = signal.SIGINT) -> str:
    """Stop it as a person would, and give what it said then."""
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "error" not in err and "Traceback" not in err
    return out


def test_the_demo_is_served_goes_on_and_stops(
    start: Start, query: Callable[..., Any], tmp_path: Path
) -> None:
    """Past and present in one Prometheus with rules and alerts; Ctrl-C ends all; so twice."""
    number, home = "wine_drift_batch_number", tmp_path / "demo" / "home"
    last = 6  # batches of the past
    for again in (False, True):
        process = start()
        found = addresses(process)
        assert set(found) == {"prometheus", "pushgateway", "alertmanager"}
        expected = {f"{number} > bool {last}": [1]}
        if not again:
            expected |= {"up": [1, 1, 1], "prometheus_notifications_alertmanagers_discovered": [1]}
            expected |= {'count(ALERTS{alertname="WineDriftWatchdog"})': [1]}
        end = time.monotonic() + 90
        for promql, values in expected.items():
            while (answer := query(found["prometheus"], promql)) != values:
                assert time.monotonic() < end, f"{promql}: {answer}"
                time.sleep(0.5)
        with Ledger.open(home, read_only=True) as ledger:
            third = ledger.processed_at(3)
        assert query(found["prometheus"], number, at=third + 1000) == [3]
        assert stopped(process, signal.SIGHUP if again else signal.SIGINT).endswith("stopped\n")
        for url in found.values():
            with pytest.raises(URLError, match="refused"):
                query(url, number)
        with Ledger.open(home, read_only=True) as ledger:
            records = ledger.records(100)
        assert [record["batch"]["sequence"] for record in records] == [*range(1, len(records) + 1)]
        last = len(records)


def test_what_a_person_can_mend(start: Start, tmp_path: Path) -> None:
    """A port that is taken and a program that is missing are told before anything is made."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        process = start(PROMETHEUS_PORT=str(other.getsockname()[1]))
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1 and "is taken: set PROMETHEUS_PORT" in err
    process = start(DEMO_DAYS="many")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "error: DEMO_DAYS: 'many' is no number\n")
    process = start(PATH="")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "is not on PATH: apt-get install" in err
    assert not (tmp_path / "demo").exists()


def test_one_that_dies_takes_the_others_with_it(start: Start, tmp_path: Path) -> None:
    """Half a stack that looks whole is worse than none."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "alertmanager.yml").write_text("receivers: 1\n")
    process = start(ALERTMANAGER_CONFIG=str(broken))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: alertmanager ended:" in err and "alertmanager.log" in err
