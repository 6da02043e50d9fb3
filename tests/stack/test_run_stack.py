"""Whole runs as processes of their own, seen by a real Pushgateway and a real Prometheus."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

Samples = Callable[[str], dict[tuple[str, ...], float]]


def start(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "wine_drift", *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == code, process.stdout + process.stderr
    return process


def run(*arguments: object, code: int = 0) -> dict[str, Any]:
    """Run one batch and read its record."""
    done: dict[str, Any] = json.loads(start("run-batch", *arguments, "--json", code=code).stdout)
    return done


def value(prometheus: Any, promql: str) -> float:
    (row,) = prometheus.query(promql)
    return float(row["value"])


def own(metrics: str) -> dict[tuple[str, ...], float]:
    """Read our samples of an exposition, without the gateway's own labels and metrics."""
    found = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if not sample.name.startswith("wine_drift_"):
                continue
            labels = {k: v for k, v in sample.labels.items() if k not in ("instance", "job")}
            found[(sample.name, *(labels[k] for k in sorted(labels)))] = sample.value
    return found


def test_five_runs_then_an_outage(
    pushgateway: Any, prometheus: Any, red_wine_csv: Path, tmp_path: Path
) -> None:
    """Prometheus answers what the records say; an outage loses nothing and doubles nothing."""
    options = ("--home", tmp_path / "home", "--data", red_wine_csv, "--push-deadline", 1)
    options += ("--pushgateway", pushgateway.url)
    done = [run(*options) for _ in range(5)]
    success = 'wine_drift_batches_total{outcome="success"}'
    prometheus.wait_for(f"{success} == 5")
    last = done[-1]
    assert value(prometheus, 'wine_drift_model_logloss{dataset="current"}') == pytest.approx(
        last["quality"]["log_loss"], rel=1e-12
    )
    assert value(prometheus, 'wine_drift_model_roc_auc{dataset="current"}') == pytest.approx(
        last["quality"]["roc_auc"], rel=1e-12
    )
    for key, name in (("severity", "severity"), ("p_value", "pvalue"), ("psi", "psi")):
        rows = prometheus.query(f"wine_drift_feature_drift_{name}")
        expected = {feature["name"]: feature[key] for feature in last["drift"]["features"]}
        assert len(rows) == len(expected) == 12
        found = {row["metric"]["feature"]: row["value"] for row in rows}
        assert found == pytest.approx(expected, rel=1e-12)

    pushgateway.stop()
    lost = run(*options, code=4)
    assert lost["outcome"] == "processed" and lost["push"]["status"] == "failed"
    pushgateway.start()
    done += [lost, run(*options)]
    assert done[-1]["push"]["status"] == "ok"
    prometheus.wait_for(f"{success} == 7")
    assert value(prometheus, 'wine_drift_push_failures_total{reason="connection"}') == 1
    assert value(prometheus, "sum(wine_drift_push_failures_total)") == 1
    assert value(prometheus, "wine_drift_batch_number") == 7
    accepted = sum(record["batch"]["accepted"] for record in done)
    assert value(prometheus, "wine_drift_rows_total") == accepted
    assert [record["batch"]["sequence"] for record in done] == [1, 2, 3, 4, 5, 6, 7]
    assert pushgateway.groups() == [{"job": "wine_drift", "pipeline": "red_wine"}]
    for row in prometheus.query('{__name__=~"wine_drift_.+"}'):
        assert row["metric"]["job"] == "wine_drift" and row["metric"]["pipeline"] == "red_wine"
        assert "instance" not in row["metric"]


def test_push_restores_an_emptied_gateway(pushgateway: Any, home: Path, tmp_path: Path) -> None:
    """After the gateway lost everything, `push` brings back the full set, and runs nothing."""
    start("push", "--home", home, "--pushgateway", pushgateway.url)
    before = own(pushgateway.metrics())
    pushgateway.stop()
    for store in tmp_path.glob("*.store"):
        store.unlink()
    pushgateway.start()
    assert pushgateway.groups() == []
    told = start("push", "--home", home, "--pushgateway", pushgateway.url).stdout
    assert pushgateway.url in told
    after = own(pushgateway.metrics())
    assert after == before and len(after) > 100


def test_gateway_holds_what_metrics_prints(
    pushgateway: Any, home: Path, red_wine_csv: Path, samples: Samples
) -> None:
    """The gateway, `wine-drift metrics` and the textfile hold the same samples after one run."""
    textfile = home / "other.prom"
    options = ("--home", home, "--data", red_wine_csv, "--pushgateway", pushgateway.url)
    run(*options, "--textfile", textfile)
    printed = samples(start("metrics", "--home", home).stdout)
    assert samples(textfile.read_text(encoding="utf-8")) == printed
    assert own(pushgateway.metrics()) == printed


@pytest.mark.parametrize("legacy", [False, True])
def test_promtool_accepts_the_default_textfile(
    promtool: str, home: Path, red_wine_csv: Path, samples: Samples, legacy: bool
) -> None:
    """The textfile of a run without a sink passes promtool, and is what `metrics` prints."""
    setting = ["--legacy-metrics"] if legacy else []
    done = run("--home", home, "--data", red_wine_csv, *setting)
    path = home / "metrics" / "wine_drift.prom"
    assert done["push"]["sinks"] == [str(path)]
    text = path.read_text(encoding="utf-8")
    check = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout + check.stderr
    found = samples(text)
    assert found == samples(start("metrics", "--home", home, *setting).stdout)
    assert [key[0] for key in found if not key[0].startswith("wine_drift_")] == (
        ["auc_gaude", "count_batch", "logloss_gaude"] if legacy else []
    )
    if legacy:
        assert found["logloss_gaude", "red_wine"] == done["quality"]["log_loss"]
        assert found["auc_gaude", "red_wine"] == done["quality"]["roc_auc"]
        assert found["count_batch", "red_wine"] == 2
