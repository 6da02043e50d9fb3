"""Every query of every dashboard, asked of a real Prometheus that holds a demo's past."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from math import floor
from pathlib import Path
from typing import Any

import pytest

from wine_drift.dataset import load_schema
from wine_drift.ledger import Ledger
from wine_drift.schema import SCORE

FOLDER = Path(__file__).parents[2] / "dashboards"
BOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json")}
STEP = 600  # seconds; a batch is an hour


def asked(expr: str, start: float) -> str:
    """Put in what Grafana would."""
    values = {
        "pipeline": "red_wine",
        "feature": "alcohol",
        "__range": f"{time.time() - start:.0f}s",
        "__interval": f"{STEP}s",
        "__rate_interval": "60s",
    }
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expr)


def queries() -> Iterator[Any]:
    """Each query of a panel: its text, and whether it may have no answer at this very moment."""
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                told = panel["fieldConfig"]["defaults"]["noValue"] != "no data"
                case = f"{name}: {panel['title']}: {target['refId']}"
                yield pytest.param(target["expr"], told, id=case)


def answer(prometheus: Any, path: str, **parameters: object) -> list[Any]:
    """Ask, and insist on an answer without a word of complaint."""
    found = prometheus.ask(path, **parameters)
    assert found["status"] == "success", found
    assert not found.get("warnings") and not found.get("infos"), found
    data = found["data"]
    result: list[Any] = data["result"] if isinstance(data, dict) else data
    return result


@pytest.mark.parametrize(("expr", "may_be_empty"), list(queries()))
def test_every_panel_has_an_answer(demo_stack: Any, expr: str, may_be_empty: bool) -> None:
    """Over the past every query has values; now too, but where the panel says what none means."""
    query, now = asked(expr, demo_stack.start), time.time()
    prometheus = demo_stack.prometheus
    steps = (now - demo_stack.start) // STEP  # back from now, so that now is one of them
    past = {"start": now - steps * STEP, "end": now, "step": STEP}
    assert answer(prometheus, "query_range", query=query, **past)
    assert answer(prometheus, "query", query=query, time=now) or may_be_empty


@pytest.mark.parametrize("name", BOARDS)
def test_every_variable_offers_something(demo_stack: Any, name: str) -> None:
    """The pipelines are those that push, the features those of the schema and the score."""
    offered = {"pipeline": {"red_wine"}, "feature": {*load_schema(None).feature_names, SCORE}}
    for choice in BOARDS[name]["templating"]["list"]:
        if choice["type"] != "query":
            continue
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", choice["query"])
        assert found
        past = {"match[]": asked(found[1], demo_stack.start), "start": demo_stack.start}
        values = answer(demo_stack.prometheus, f"label/{found[2]}/values", **past)
        assert set(values) == offered[choice["name"]]


@pytest.mark.parametrize("name", BOARDS)
def test_marks_are_where_models_were_trained(demo_stack: Any, name: str) -> None:
    """Grafana puts a mark at each value: once for each champion of the past, at its training."""
    models, alerts = (mark["target"]["expr"] for mark in BOARDS[name]["annotations"]["list"])
    past = {"start": demo_stack.start, "end": time.time(), "step": 60}
    query = asked(models, demo_stack.start)
    rows = answer(demo_stack.prometheus, "query_range", query=query, **past)
    found = {floor(float(value)) for row in rows for _, value in row["values"]}
    with Ledger.open(demo_stack.home, read_only=True) as ledger:
        trained = {floor(version["trained_at"] * 1000) for version in ledger.versions()}
    assert found == trained and len(trained) > 2
    assert answer(demo_stack.prometheus, "query", query=asked(alerts, demo_stack.start))


def test_dashboards_of_the_original_project_go_on(demo_stack: Any) -> None:
    """Its three queries, spelled as they were, answer what their successors do."""
    prometheus = demo_stack.prometheus
    for old, new in {
        "logloss_gaude": 'wine_drift_model_logloss{dataset="current"}',
        "auc_gaude": 'wine_drift_model_roc_auc{dataset="current"}',
        "count_batch": 'wine_drift_batches_total{outcome="success"}',
    }.items():
        for moment in (time.time(), demo_stack.start + 72_000):
            (one,) = prometheus.at(old, moment).values()
            (other,) = prometheus.at(new, moment).values()
            assert one == other
