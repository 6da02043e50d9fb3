"""One cause, one message: a real Alertmanager with our configuration holds back what follows."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import yaml

COMPOSE = Path(__file__).parents[2] / "compose"
CONFIG = COMPOSE / "alertmanager" / "alertmanager.yml"
RULES = yaml.safe_load((COMPOSE / "prometheus" / "rules" / "wine-drift.yml").read_text())
SEVERITY = {
    rule["alert"]: rule["labels"]["severity"]
    for group in RULES["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
EXTRA = {  # labels beside those of the pipeline, as the rules give them
    "DataFault": {"kind": "stuck"},
    "PushgatewayDown": {"job": "pushgateway", "instance": "pushgateway:9091"},
    "PushesMalformed": {"job": "pushgateway", "instance": "pushgateway:9091"},
}


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    """Address of a running Alertmanager with the configuration of the stack."""
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if program is None:
        needs = "needs Debian's prometheus-alertmanager"
        if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
            pytest.fail(needs)
        pytest.skip(needs)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*probe.getsockname())
    options = (f"--config.file={CONFIG}", f"--storage.path={tmp_path}", "--cluster.listen-address=")
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [program, *options, f"--web.listen-address={address}"], stdout=log, stderr=log
        ) as process,
    ):
        try:
            end = time.monotonic() + 20
            while not ready(f"http://{address}"):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.02)
            yield f"http://{address}"
        finally:
            process.terminate()


def ready(url: str) -> bool:
    try:
        ask(f"{url}/-/ready")
    except URLError:
        return False
    return True


def ask(url: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    with build_opener(ProxyHandler({})).open(request, timeout=5) as answer:
        return str(answer.read().decode())


def labels(alert: str) -> dict[str, str]:
    """Of "Drift red_wine", or of "Absent" which is about no pipeline."""
    name, _, pipeline = alert.partition(" ")
    whose = {"job": "wine_drift", "pipeline": pipeline} if pipeline else {}
    full = f"WineDrift{name}"
    return {"alertname": full, "severity": SEVERITY[full]} | whose | EXTRA.get(name, {})


def held_back(url: str) -> set[str]:
    """Alerts that the Alertmanager would not send."""
    found = set()
    for alert in json.loads(ask(f"{url}/api/v2/alerts")):
        assert alert["status"]["silencedBy"] == []
        if alert["status"]["inhibitedBy"]:
            assert alert["status"]["state"] == "suppressed"
            named = alert["labels"]
            name = named["alertname"].removeprefix("WineDrift")
            found.add(f"{name} {named.get('pipeline', '')}".strip())
    return found


@pytest.mark.parametrize(
    ("cause", "follow", "stay"),
    [
        (
            "PushgatewayDown",
            ["Absent", "PipelineGone red", "Overdue red", "PushOverdue white"],
            ["Drift red", "RetrainFailed red", "WaitingForLabels red"],
        ),
        ("Absent", ["PipelineGone red", "PipelineGone white"], ["Drift red"]),
        ("PushRejected red", ["PushesMalformed"], ["Overdue red", "PushOverdue white"]),
        (
            "Overdue red",
            ["PushOverdue red", "RunFailed red"],
            ["PushOverdue white", "RunFailed white", "Drift red", "PushRejected red"],
        ),
        ("RetrainFailed red", ["RunFailed red"], ["RunFailed white", "MajorDrift red"]),
        (
            "DataFault red",
            ["Drift red", "MajorDrift red", "QualityDrop red"],
            ["Drift white", "RunFailed red", "WaitingForLabels red"],
        ),
        (
            "RowsRejected red",
            ["Drift red", "MajorDrift red", "QualityDrop red"],
            ["QualityDrop white", "RetrainLoop red"],
        ),
        ("MajorDrift red", ["Drift red"], ["Drift white", "QualityDrop red"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_follows_from_a_cause_is_held_back(
    alertmanager: str, cause: str, follow: list[str], stay: list[str]
) -> None:
    """Of these alerts the cause and what is not its doing are sent, and the watchdog always."""
    fire = [*follow, *stay, "Watchdog"]
    ask(f"{alertmanager}/api/v2/alerts", [{"labels": labels(alert)} for alert in fire])
    assert not set(follow) <= held_back(alertmanager)
    ask(f"{alertmanager}/api/v2/alerts", [{"labels": labels(cause)}])
    end = time.monotonic() + 5
    while not set(follow) <= held_back(alertmanager):
        assert time.monotonic() < end, held_back(alertmanager)
        time.sleep(0.02)
    assert not held_back(alertmanager) & {cause, *stay, "Watchdog"}
