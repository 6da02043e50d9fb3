"""One cause, one message: a real Alertmanager with our configuration holds back what follows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import yaml

COMPOSE = Path(__file__).parents[2] / "compose"
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
    alertmanager: Any, cause: str, follow: list[str], stay: list[str]
) -> None:
    """Of these alerts the cause and what is not its doing are sent, and the watchdog always."""
    url = alertmanager.url
    fire = [*follow, *stay, "Watchdog"]
    ask(f"{url}/api/v2/alerts", [{"labels": labels(alert)} for alert in fire])
    assert not set(follow) <= held_back(url)
    ask(f"{url}/api/v2/alerts", [{"labels": labels(cause)}])
    end = time.monotonic() + 5
    while not set(follow) <= held_back(url):
        assert time.monotonic() < end, held_back(url)
        time.sleep(0.02)
    assert not held_back(url) & {cause, *stay, "Watchdog"}
