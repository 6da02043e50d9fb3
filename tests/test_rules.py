"""The alert rules, their routes and their runbooks: one is never there without the other two."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from wine_drift.cli import main
from wine_drift.exposition import COUNTERS, GAUGES, LEVELS, PREFIX, QUALITY_LEVELS

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "compose" / "prometheus"
RULES = PROMETHEUS / "rules" / "wine-drift.yml"
ALERTMANAGER = ROOT / "compose" / "alertmanager" / "alertmanager.yml"
TESTS = sorted((ROOT / "tests" / "rules").glob("*.test.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks.md"

ALL = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in ALL if "record" in rule}
WATCHDOG = "WineDriftWatchdog"

PUBLISHED = {PREFIX + name: labels for name, (labels, _) in GAUGES.items()}
PUBLISHED |= {f"{PREFIX}{name}_total": labels for name, (labels, _) in COUNTERS.items()}
OTHERS = {  # of Prometheus and of the Pushgateway
    "up",
    "push_time_seconds",
    "push_failure_time_seconds",
    "pushgateway_http_requests_total",
}
# Numbers that may stand in an expression, and where. All other thresholds are metrics.
ANYWHERE = {"0", "1"}  # nothing, and a flag
CODES = {  # of levels, and so many missed runs as make a pattern
    "WineDriftDrift": LEVELS["drift"],
    "WineDriftMajorDrift": LEVELS["major"],
    "WineDriftQualityDrop": QUALITY_LEVELS["drop"],
    "WineDriftOverdue": 2,
    "WineDriftPushOverdue": 2,
}
SCRAPE_SECONDS = 15
RESTORED_SECONDS = 600  # Prometheus' --rules.alert.for-grace-period
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def find(name: str) -> str:
    """Find a program on PATH, or skip the test; with WINE_DRIFT_REQUIRE_STACK=1 fail it."""
    path = shutil.which(name)
    if path is None:
        needs = f"needs {name}, of Debian's prometheus and prometheus-alertmanager"
        if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
            pytest.fail(needs)
        pytest.skip(needs)
    return path


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of the stack; its words are told where it is not content."""
    command = [find(program), *map(str, arguments)]
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def queries(rule: dict[str, Any]) -> list[str]:
    """Every PromQL of a rule, without label values."""
    found = [rule["expr"]]
    for text in rule.get("annotations", {}).values():
        found += re.findall(r'query \(printf "(.*?)" \$labels', text)
    return [re.sub(r'"[^"]*"|%q', "", query) for query in found]


def metrics(query: str) -> set[str]:
    """Names in a query that are neither functions nor labels nor keywords."""
    bare = re.sub(r"\{[^}]*\}|\b(by|on|ignoring|group_left) ?\([^)]*\)", "", query)
    bare = re.sub(r"\[\w+\]|\boffset \w+", "", bare)
    names = re.findall(r"[a-zA-Z_:][\w:]*(?![\w:]*\s*\()", bare)
    return {name for name in names if name not in {"and", "or", "unless", "by", "on"}}


def label_names(selector: str) -> set[str]:
    """Names of the labels between two braces."""
    return set(re.findall(r"(\w+) ?!?=~?", selector))


def seconds(duration: str) -> int:
    """A duration such as 1h30m."""
    return sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([smhd])", duration))


# --- what the programs say of the files ---


def test_prometheus_takes_the_configuration() -> None:
    """Configuration, targets and rules pass promtool, which follows the one to the others."""
    done = run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stdout
    assert "1 rule files found" in done.stdout
    assert f"{len(ALL)} rules found" in done.stdout
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    """Alerts fire at their time and not before, say these words, and end."""
    done = run("promtool", "test", "rules", path)
    assert done.returncode == 0, done.stdout


def test_alertmanager_takes_the_configuration() -> None:
    """Routes, receivers and inhibitions pass amtool."""
    done = run("amtool", "check-config", ALERTMANAGER)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ALERTS)
def test_alert_goes_to_the_receiver_of_its_severity(name: str) -> None:
    """Each alert has a receiver by its severity, the watchdog one of its own."""
    severity = ALERTS[name]["labels"]["severity"]
    receiver = "watchdog" if name == WATCHDOG else severity
    labels = (f"alertname={name}", f"severity={severity}", "job=wine_drift", "pipeline=red_wine")
    routes = ("config", "routes", "test", f"--config.file={ALERTMANAGER}")
    done = run("amtool", *routes, f"--verify.receivers={receiver}", *labels)
    assert done.returncode == 0, done.stdout


def test_an_alert_of_somebody_else_is_not_lost() -> None:
    """What no route takes is treated as a warning."""
    routes = ("config", "routes", "test", f"--config.file={ALERTMANAGER}")
    done = run("amtool", *routes, "--verify.receivers=warning", "alertname=Other")
    assert done.returncode == 0, done.stdout


# --- what the files say of each other ---


def test_alertmanager_names_alerts_that_there_are() -> None:
    """Each matcher of an alert, in routes and inhibitions, takes at least the alerts it spells."""
    named = re.findall(r'alertname=~?"WineDrift\(?([\w|]+)\)?"', ALERTMANAGER.read_text())
    alternatives = {f"WineDrift{name}" for each in named for name in each.split("|")}
    assert {WATCHDOG} < alternatives <= ALERTS.keys()


@pytest.mark.parametrize("name", ALERTS)
def test_alert_tells_a_person_what_is_wrong(name: str) -> None:
    """Each alert has a severity, a static sentence, figures, and a section of the runbooks."""
    rule = ALERTS[name]
    notes = rule["annotations"]
    assert name.startswith("WineDrift")
    severities = {"none"} if name == WATCHDOG else {"critical", "warning", "info"}
    assert rule["labels"]["severity"] in severities
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert re.fullmatch(r"[A-Z][^{}.]*\.", notes["summary"])
    assert notes["description"].endswith((".", "{{ end }}"))
    assert "humanize " not in notes["description"], "humanize tells 0.9 as 900m"
    labels = set(re.findall(r"\$labels\.(\w+)", notes["description"]))
    assert labels or name in (WATCHDOG, "WineDriftAbsent")
    assert notes["runbook_url"] == f"docs/runbooks.md#{name.lower()}"


def test_runbooks_have_a_section_for_each_alert_and_no_other() -> None:
    """Sections are in the order of the rules, and links lead to them."""
    text = RUNBOOKS.read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", text, flags=re.MULTILINE) == list(ALERTS)
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= {name.lower() for name in ALERTS}


@pytest.mark.parametrize("name", ALERTS)
def test_section_tells_meaning_weight_look_and_remedy(name: str) -> None:
    """Each section answers the same four questions."""
    section = RUNBOOKS.read_text(encoding="utf-8").split(f"## {name}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\*\*(\w+)\*\*", section, flags=re.MULTILINE) == [
        "Means",
        "Matters",
        "Look",
        "Do",
    ]


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule_asks_for_metrics_that_there_are(rule: dict[str, Any]) -> None:
    """Every name in an expression, or in a query of an annotation, is published or recorded."""
    for query in queries(rule):
        assert metrics(query) <= PUBLISHED.keys() | OTHERS | RECORDED.keys(), query
        for name, selector in re.findall(rf"\b({PREFIX}\w+)\{{(.*?)\}}", query):
            assert label_names(selector) <= {*PUBLISHED[name], "job", "pipeline"}, query


def test_metrics_in_the_runbooks_exist() -> None:
    """A figure that a runbook tells to look at is published."""
    text = RUNBOOKS.read_text(encoding="utf-8")
    named = {name for name in re.findall(r"\b(wine_drift_\w+)", text)}
    assert named and named <= PUBLISHED.keys()


def test_commands_in_the_runbooks_exist() -> None:
    """What a runbook tells to type is a command."""
    text = RUNBOOKS.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)wine-drift ([a-z-]+)", text, flags=re.MULTILINE))
    assert named and named <= main.commands.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_rule_is_named_by_its_level_and_used(name: str) -> None:
    """A recording rule has level:metric:operation for a name, and an alert that uses it."""
    assert re.fullmatch(r"pipeline(_feature)?:wine_drift_\w+:\w+", name)
    assert any(name in metrics(query) for rule in ALERTS.values() for query in queries(rule))


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.get("alert") or rule["record"])
def test_thresholds_are_metrics(rule: dict[str, Any]) -> None:
    """A number in an expression is a code, a flag, or a count of schedule intervals."""
    name = rule.get("alert", "")
    bare = re.sub(r'"[^"]*"|\[\w+\]|\boffset \w+', "", rule["expr"])
    numbers = set(re.findall(r"(?<![\w:.])\d+(?:\.\d+)?", bare))
    assert numbers <= ANYWHERE | {str(CODES.get(name, 0))}
    if name in CODES:
        assert str(CODES[name]) in numbers


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.get("alert") or rule["record"])
def test_times_outlast_the_plumbing(rule: dict[str, Any]) -> None:
    """A range holds several scrapes, and `for` is long enough to be kept over a restart."""
    for duration in re.findall(r"\[(\w+)\]", rule["expr"]):
        assert seconds(duration) >= 4 * SCRAPE_SECONDS
    assert "for" not in rule or seconds(rule["for"]) >= RESTORED_SECONDS


def test_the_interval_that_these_tests_go_by_is_the_one_that_is_set() -> None:
    """Scrapes and evaluations come every 15 seconds; the gateway's labels are those of the push."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert config["global"] == {
        "scrape_interval": f"{SCRAPE_SECONDS}s",
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
    }
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert {name for name, job in jobs.items() if job.get("honor_labels")} == {"pushgateway"}
    for name, job in jobs.items():
        assert job["file_sd_configs"] == [{"files": [f"targets/{name}.yml"]}]
        assert (PROMETHEUS / "targets" / f"{name}.yml").is_file()


# --- what the tests of the rules cover ---


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_rules_are_tested_on_series_that_there_are(path: Path) -> None:
    """The series of the tests are those that are published, with labels that they have."""
    for test in yaml.safe_load(path.read_text())["tests"]:
        for each in test["input_series"]:
            name, _, selector = each["series"].partition("{")
            assert name in PUBLISHED.keys() | OTHERS
            if name in PUBLISHED:
                assert label_names(selector) <= {*PUBLISHED[name], "job", "pipeline"}


def test_every_alert_fires_in_time_and_ends_in_a_test() -> None:
    """For each alert some test sees it silent, one step later firing, and later silent again."""
    shown = set()
    for path in TESTS:
        told = yaml.safe_load(path.read_text())
        step = seconds(told["evaluation_interval"])
        for test in told["tests"]:
            for name in ALERTS:
                seen = {
                    seconds(each["eval_time"]): bool(each["exp_alerts"])
                    for each in test.get("alert_rule_test", ())
                    if each["alertname"] == name
                }
                starts = [at for at in seen if seen[at] and seen.get(at - step) is False]
                if any(not seen[at] for start in starts for at in seen if at > start):
                    shown.add(name)
    assert set(ALERTS) - shown == {WATCHDOG}


def test_every_recorded_rule_has_its_value_in_a_test() -> None:
    """Each recording rule is asked for its value in some test of the rules."""
    asked = [
        each["expr"]
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for each in test.get("promql_expr_test", ())
        if each["exp_samples"]
    ]
    for name in RECORDED:
        assert any(name in expr for expr in asked), name
