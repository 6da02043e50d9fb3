"""Show from outside, through the published ports, that the stack works: `make compose-smoke`.

One line a check; exit code 1 if one fails. It runs on the host's Python, without any library.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

HERE = Path(__file__).resolve().parent
SECRET = HERE / "secrets" / "grafana_admin_password"
JOBS = {"pushgateway", "prometheus", "alertmanager"}
SKIPPED = "NOT CHECKED"
STAND_IN = "stub"  # what a stand-in for Grafana tells as its version


class NotSo(Exception):
    """What was found instead. It may come a moment later: the check is made again."""


class Server:
    """One published port of this machine."""

    def __init__(self, port: str) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, *, password: str | None = None, **parameters: str) -> Any:
        """Give the answer, parsed if it is JSON; as admin if there is a password."""
        request = Request(self.url + path + ("?" + urlencode(parameters) if parameters else ""))
        if password is not None:
            token = base64.b64encode(f"admin:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
                body = answer.read().decode()
        except HTTPError as error:
            with error:
                raise NotSo(f"{path}: {error.code} {error.read(200).decode()}") from error
        except OSError as error:
            raise NotSo(f"{self.url}: {error}") from error
        return json.loads(body) if body[:1] in ("{", "[") else body


class Stack:
    """The checks, in order; each gives what it saw, or raises NotSo."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings
        self.prometheus = Server(settings["PROMETHEUS_PORT"])
        self.alertmanager = Server(settings["ALERTMANAGER_PORT"])
        self.grafana = Server(settings["GRAFANA_PORT"])

    def query(self, promql: str) -> float:
        """One number, now."""
        found = self.prometheus.get("/api/v1/query", query=promql)["data"]["result"]
        if not found:
            raise NotSo(f"{promql} is empty")
        return float(found[0]["value"][1])

    def targets(self) -> str:
        """Prometheus reaches everything that it is to scrape."""
        found = self.prometheus.get("/api/v1/targets", state="active")["data"]["activeTargets"]
        up = {target["labels"]["job"] for target in found if target["health"] == "up"}
        down = [f"{t['labels']['job']}: {t['lastError']}" for t in found if t["health"] != "up"]
        if down or not up >= JOBS:
            raise NotSo(f"up: {sorted(up)}; not: {down or sorted(JOBS - up)}")
        return f"{len(found)} up"

    def metrics(self) -> str:
        """The job's own metrics came through the gateway, and lately."""
        age = self.query("time() - max(wine_drift_last_success_timestamp_seconds)")
        every = self.query("max(wine_drift_schedule_interval_seconds)")
        if age > 2 * every:
            raise NotSo(f"the last success is {age:.0f} s old, with a run every {every:g} s")
        series = self.query('count({__name__=~"wine_drift_.*"})')
        return f"{series:.0f} series of wine_drift, the last success {age:.0f} s ago"

    def history(self) -> str:
        """The simulated past is there."""
        if "demo" not in self.settings["COMPOSE_PROFILES"].split(","):
            return f"{SKIPPED}: the profile demo is off"
        past = self.settings["RETENTION"]
        hours = self.query(f"max(count_over_time(wine_drift_batch_number[{past}:1h]))")
        wanted = float(self.settings["DEMO_DAYS"]) * 24
        if hours < wanted - 2:
            raise NotSo(f"{hours:.0f} hours, not {wanted:.0f}; a volume keeps its first DEMO_DAYS")
        return f"{hours:.0f} hours with a batch"

    def rules(self) -> str:
        """All rules are loaded and have been evaluated without an error."""
        groups = self.prometheus.get("/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        bad = [f"{r['name']}: {r.get('lastError', '')}" for r in rules if r["health"] != "ok"]
        kinds = [rule["type"] for rule in rules]
        if bad or not {"alerting", "recording"} <= set(kinds):
            raise NotSo(f"{len(rules)} rules; not evaluated, or with an error: {bad}")
        return f"{kinds.count('alerting')} alerts, {kinds.count('recording')} recording rules"

    def alerts(self) -> str:
        """An alert comes from Prometheus to Alertmanager: the watchdog always fires."""
        self.alertmanager.get("/-/ready")
        found = {alert["labels"]["alertname"] for alert in self.alertmanager.get("/api/v2/alerts")}
        if not any(name.endswith("Watchdog") for name in found):
            raise NotSo(f"no watchdog in Alertmanager, only {sorted(found)}")
        return f"Alertmanager has {', '.join(sorted(found))}"

    def dashboards(self) -> str:
        """Grafana lists each dashboard of this checkout, and reaches Prometheus."""
        health = self.grafana.get("/api/health")
        if health["version"] == STAND_IN:
            return f"{SKIPPED}: a stand-in for Grafana is here, which answers and has no dashboards"
        wanted = {json.loads(p.read_text())["uid"] for p in HERE.parent.glob("dashboards/*.json")}
        found = self.grafana.get("/api/search", tag="wine-drift")
        missing = wanted - {dashboard["uid"] for dashboard in found}
        if missing or not wanted:
            raise NotSo(f"Grafana {health['version']} does not list {sorted(missing)}")
        password = SECRET.read_text().strip()
        source = self.grafana.get("/api/datasources/uid/prometheus/health", password=password)
        if source["status"] != "OK":
            raise NotSo(f"datasource: {source}")
        return f"Grafana {health['version']}, {len(wanted)} dashboards, datasource healthy"


def settings() -> dict[str, str]:
    """What compose.yaml is filled in with: .env, and over it the environment."""
    lines = (HERE / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line[:1].isalpha()) | dict(os.environ)


def check(name: str, ask: Callable[[], str], until: float) -> bool:
    """Ask until it is so, or until the time is over; print a line."""
    while True:
        try:
            answer, good = ask(), True
        except (NotSo, OSError) as error:
            answer, good = str(error), False
        if good or time.monotonic() > until:
            mark = "skip" if answer.startswith(SKIPPED) else "ok" if good else "FAIL"
            sys.stdout.write(f"{mark:<4}  {name:<10}  {answer}\n")
            sys.stdout.flush()
            return good
        time.sleep(1)


def main() -> int:
    """Tell where to look; make every check."""
    stack = Stack(settings())
    sys.stdout.write(
        f"Grafana       {stack.grafana.url}\n"
        f"Prometheus    {stack.prometheus.url}\n"
        f"Alertmanager  {stack.alertmanager.url}\n"
        f"the password of Grafana's admin is in {SECRET}\n"
    )
    until = time.monotonic() + float(os.environ.get("SMOKE_SECONDS", "120"))
    checks = (
        *(stack.targets, stack.metrics, stack.history),
        *(stack.rules, stack.alerts, stack.dashboards),
    )
    good = [check(ask.__name__, ask, until) for ask in checks]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
