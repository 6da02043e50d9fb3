"""The dashboards: current, whole to Grafana's own model, and true to the catalogue of metrics.

These are the rules of grafana/dashboard-linter but two: `job` and `instance` are no variables here,
as a pipeline is what one looks at, wherever its metrics come from, and it has no instance.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from wine_drift.exposition import (
    ACTIONS,
    COUNTERS,
    GAUGES,
    LEVELS,
    PREFIX,
    QUALITY_LEVELS,
    READING_ONLY,
)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "dashboards"
BOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json")}
PROVISIONING = ROOT / "compose" / "grafana" / "provisioning"
RULES = ROOT / "compose" / "prometheus" / "rules"
UNITS = {unit for unit in vars(units).values() if isinstance(unit, str)}
# Name -> labels that it has besides `job`.
CATALOGUE = {PREFIX + name: {"pipeline", *labels} for name, (labels, _) in GAUGES.items()}
CATALOGUE |= {
    f"{PREFIX}{name}_total": {"pipeline", *labels} for name, (labels, _) in COUNTERS.items()
}
COUNTED = {f"{PREFIX}{name}_total" for name in COUNTERS}
# What Prometheus, the Pushgateway and Alertmanager tell of themselves.
STACK: dict[str, set[str]] = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate", "severity", "pipeline"},
    "push_time_seconds": {"pipeline"},
    "push_failure_time_seconds": {"pipeline"},
    "pushgateway_http_requests_total": {"code", "handler"},
    "prometheus_rule_evaluation_failures_total": set(),
    "prometheus_notifications_dropped_total": set(),
    "alertmanager_notifications_failed_total": set(),
}
SELECTOR = re.compile(r"\b([a-zA-Z_][a-zA-Z0-9_]*)(?:\{([^}]*)\})?(\[[^]]+\])?")
WORDS = {"sum", "max", "count", "by", "or", "ignoring", "group_left", "increase", "round", "time"}
WORDS |= {"clamp_max", "max_over_time", "min_over_time", "sort_desc", "vector"}


def panels(kind: str = "") -> list[Any]:
    """All panels that ask something, or those of one kind, as test cases."""
    return [
        pytest.param(panel, id=f"{name}: {panel['title']}")
        for name, board in BOARDS.items()
        for panel in board["panels"]
        if panel["type"] == kind or (not kind and panel["type"] not in ("row", "text"))
    ]


def selectors(expr: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Metrics in an expression, each with its matchers and its range."""
    grouping = re.sub(r"\b(by|ignoring|on|group_left) \([^)]*\)", "", expr)
    for name, matchers, within in SELECTOR.findall(grouping):
        if name not in WORDS:
            yield name, dict(re.findall(r'(\w+)(?:=~|!=|=)"([^"]*)"', matchers)), within[1:-1]


def strings(part: Any) -> Iterator[str]:
    """Every text within."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, list | dict):
        for item in part.values() if isinstance(part, dict) else part:
            yield from strings(item)


def expressions(board: Any) -> list[str]:
    """Every query of a dashboard: of panels, variables and annotations."""
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    found += [mark["target"]["expr"] for mark in board["annotations"]["list"]]
    asked = [choice["query"] for choice in board["templating"]["list"]]
    return found + [query.partition("(")[2].rpartition(",")[0] for query in asked if "(" in query]


def test_files_are_current(tmp_path: Path) -> None:
    """The generator writes exactly what is there, whatever the order of its sets."""
    command = [sys.executable, str(FOLDER / "generate.py"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    there = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    made = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    assert made == there and len(there) == 3


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_model_knows_every_key(name: str) -> None:
    """Read into the library's types and written again, nothing is lost: no key is misspelt."""
    register_default_plugins()

    def shown(part: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in part.items() if (k, v) != ("placement", "inControlsMenu")}

    written = JSONEncoder().encode(Dashboard.from_json(json.loads(json.dumps(BOARDS[name]))))
    assert json.loads(written, object_hook=shown) == BOARDS[name]
    assert "inControlsMenu" not in strings(BOARDS[name])  # there Grafana shows no links


def test_dashboards_belong_together() -> None:
    """Fixed uids and titles; the drop-down of each leads to all, and keeps what is chosen."""
    assert {name: (board["uid"], board["title"]) for name, board in BOARDS.items()} == {
        "overview": ("wine-drift-overview", "Wine drift / Overview"),
        "feature": ("wine-drift-feature", "Wine drift / Feature"),
        "job": ("wine-drift-job", "Wine drift / Job and stack"),
    }
    for board in BOARDS.values():
        (link,) = board["links"]
        assert len(board["uid"]) <= 40 and board["tags"] == link["tags"] == ["wine-drift"]
        assert link["asDropdown"] and link["includeVars"] and link["keepTime"]
        assert link["type"] == "dashboards"


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_dashboard_is_set_up_like_the_others(board: Any) -> None:
    """A bare classic one, in UTC, a week, fresh each minute, not to be edited; ids are unique."""
    assert board["editable"] is False and "spec" not in board and "id" not in board
    assert board["description"] and board["schemaVersion"] >= 39
    assert (board["timezone"], board["graphTooltip"], board["refresh"]) == ("utc", 1, "1m")
    assert board["time"] == {"from": "now-7d", "to": "now"}
    ids = [panel["id"] for panel in board["panels"]]
    titles = [panel["title"] for panel in board["panels"] if panel["type"] != "row"]
    assert len(set(ids)) == len(ids) and min(ids) > 0
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_fill_the_grid_without_overlap(board: Any) -> None:
    """No panel lies over another or over the edge, and no row of them leaves a gap at its end."""
    places = [panel["gridPos"] for panel in board["panels"]]
    for place in places:
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
    for y in {place["y"] for place in places}:
        assert sum(place["w"] for place in places if place["y"] == y) == 24


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_variable_is_defined(board: Any) -> None:
    """What is written with a $ is a variable of the dashboard or of Grafana; all are used."""
    choices = {choice["name"]: choice for choice in board["templating"]["list"]}
    used = {name for text in strings(board) for name in re.findall(r"\$\{?(\w+)", text)}
    grafana = {"__field", "__url_time_range", "__interval", "__rate_interval", "__range"}
    assert used - grafana == set(choices)
    assert choices.pop("datasource")["query"] == "prometheus"
    for name, choice in choices.items():
        assert choice["refresh"] == 2, "a wider time may hold others"
        assert choice["query"].endswith(f", {name})")
        assert choice["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("panel", panels())
def test_a_panel_explains_itself(panel: Any) -> None:
    """It has a title, a description, a unit that Grafana knows, and names for its series."""
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"]["uid"] == "${datasource}"
    targets = panel["targets"]
    assert targets and len({target["refId"] for target in targets}) == len(targets)
    for target in targets:
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["legendFormat"] or panel["type"] == "table"
        over_time = panel["type"] in ("timeseries", "state-timeline", "status-history")
        assert target["range"] is over_time and target["instant"] is not over_time


@pytest.mark.parametrize("panel", panels())
def test_styles_are_of_series_that_there_are(panel: Any) -> None:
    """Each override names a series of the panel, and a band ends at another one."""
    legends = {target["legendFormat"] for target in panel["targets"]}
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["id"] == "byName"
        assert override["matcher"]["options"] in legends
        for changed in override["properties"]:
            if changed["id"] == "custom.fillBelowTo":
                assert changed["value"] in legends


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_queries_ask_for_what_there_is(board: Any) -> None:
    """Metrics and labels are in the catalogue, ours of the chosen pipeline, counters counted."""
    for expr in expressions(board):
        assert list(selectors(expr)), expr
        for name, matchers, within in selectors(expr):
            assert name in CATALOGUE or name in STACK, name
            labels = CATALOGUE.get(name, STACK.get(name, set())) | {"job"}
            assert set(matchers) <= labels, expr
            if name in CATALOGUE and expr != "wine_drift_build_info":
                assert matchers["pipeline"] == "$pipeline", expr
            if name.endswith("_total"):
                assert within in ("$__range", "$__rate_interval", "1h", "1d"), expr
                assert re.search(rf"increase\({name}", expr), expr
            assert name not in COUNTED or "round(increase(" in expr


@pytest.mark.parametrize("panel", panels())
def test_legends_name_labels_of_their_metrics(panel: Any) -> None:
    """What stands in {{}} is a label of the metric that the query begins with, and is kept."""
    for target in panel["targets"]:
        wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        names = [name for name, _, _ in selectors(target["expr"])]
        labels = CATALOGUE.get(names[0], STACK.get(names[0], set())) | {"job"}
        assert wanted <= labels
        grouped = re.match(r"(?:sum|max) by \(([^)]*)\)", target["expr"])
        assert not grouped or wanted == set(grouped[1].split(", "))


@pytest.mark.parametrize("panel", panels())
def test_steps_are_never_shorter_than_the_past_is_dense(panel: Any) -> None:
    """Filled-in samples are four minutes apart: a range of one step must hold one."""
    if any("$__interval]" in target["expr"] for target in panel["targets"]):
        assert panel["interval"] == "5m"


@pytest.mark.parametrize("panel", panels("state-timeline") + panels("stat"))
def test_codes_bear_the_names_of_the_catalogue(panel: Any) -> None:
    """A level is shown by the very name that the job means."""
    levels = {
        "dataset_drift_level": LEVELS,
        "model_quality_level": QUALITY_LEVELS,
        "decision": {action: code for code, action in enumerate(ACTIONS)},
    }
    for target in panel["targets"]:
        for name in {name.removeprefix(PREFIX) for name, _, _ in selectors(target["expr"])}:
            if name in levels:
                mappings = panel["fieldConfig"]["defaults"]["mappings"]
                for override in panel["fieldConfig"]["overrides"]:
                    if override["matcher"]["options"] == target["legendFormat"]:
                        (mappings,) = (changed["value"] for changed in override["properties"])
                (mapping,) = mappings
                found = {shown["text"]: int(code) for code, shown in mapping["options"].items()}
                assert found == levels[name]


def test_links_to_a_feature_lead_to_its_dashboard() -> None:
    """A click on a feature opens it, with the same source, pipeline and time."""
    links = [
        link["url"]
        for panel in BOARDS["overview"]["panels"]
        for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", [])
    ]
    assert len(links) == 2
    for link in links:
        path, _, query = link.partition("?")
        assert path == f"/d/{BOARDS['feature']['uid']}"
        assert query.split("&") == [
            "${datasource:queryparam}",
            "${pipeline:queryparam}",
            "var-feature=${__field.labels.feature}",
            "${__url_time_range}",
        ]


def test_new_models_are_marked_at_the_time_of_their_training() -> None:
    """The value is the time, in milliseconds; alerts are marked when they fire."""
    for board in BOARDS.values():
        models, alerts = board["annotations"]["list"]
        expr = 'wine_drift_model_trained_timestamp_seconds{pipeline="$pipeline"} * 1000'
        assert models["target"]["expr"] == expr and models["useValueForTime"] is True
        assert alerts["target"]["expr"].startswith('ALERTS{alertstate="firing"')
        assert alerts["titleFormat"] == "{{alertname}}"


def test_every_metric_is_of_use() -> None:
    """A panel or a rule uses each metric, or it is listed as for reading only; none is both."""
    text = "\n".join(expr for board in BOARDS.values() for expr in expressions(board))
    text += "\n".join(path.read_text("utf-8") for path in RULES.glob("*.yml"))
    used = set(re.findall(r"(?<![:\w])(wine_drift_\w+)(?![:\w])", text))
    reading = {PREFIX + name for name in READING_ONLY}
    assert CATALOGUE.keys() - used == reading


def test_provisioning_fits() -> None:
    """Grafana finds the folder of the dashboards, their source, and how often it is scraped."""
    read = {
        path.stem: yaml.safe_load(path.read_text("utf-8")) for path in PROVISIONING.rglob("*.yaml")
    }
    compose = yaml.safe_load((ROOT / "compose" / "compose.yaml").read_text("utf-8"))
    scrape = yaml.safe_load((ROOT / "compose" / "prometheus" / "prometheus.yml").read_text("utf-8"))
    prometheus, alertmanager = read["prometheus"]["datasources"]
    assert prometheus["type"] == "prometheus" and prometheus["isDefault"]
    assert prometheus["jsonData"]["timeInterval"] == scrape["global"]["scrape_interval"]
    assert prometheus["jsonData"]["alertmanagerUid"] == alertmanager["uid"]
    assert prometheus["url"] == "http://prometheus:9090"
    assert alertmanager["url"] == "http://alertmanager:9093"
    (provider,) = read["wine-drift"]["providers"]
    grafana = compose["services"]["grafana"]
    sources = {
        mount["target"]: mount["source"] for mount in grafana["volumes"] if "source" in mount
    }
    mounted = provider["options"]["path"]
    assert (ROOT / "compose" / sources[mounted]).resolve() == FOLDER
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == mounted and home.stem in BOARDS
