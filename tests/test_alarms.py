"""Alarms of the whole job: what is found in the first batch, under which name, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from scipy.stats import ks_2samp

from wine_drift.dataset import load_schema
from wine_drift.explanation import ranked
from wine_drift.ledger import Ledger
from wine_drift.model import read_version

Cli = Callable[..., Result]
Record = Callable[..., dict[str, Any]]
Published = Callable[[Path], dict[tuple[str, ...], float]]

FEATURES = load_schema(None).feature_names
FAULTS: dict[str, Callable[[pd.Series], object]] = {
    "unit_change": lambda x: x * 1000,
    "stuck": lambda x: x.median(),
    "missing_values": lambda x: np.nan,
}


@pytest.fixture
def batch(red_wine_csv: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a healthy batch of distinct red wines, columns changed: `batch(pH=lambda x: 3)`."""

    def write(
        name: str = "batch.csv",
        *,
        seed: int = 0,
        n_rows: int = 100,
        **changes: Callable[[pd.Series], object],
    ) -> Path:
        table = pd.read_csv(red_wine_csv, sep=";").drop_duplicates()
        rows = table.sample(n_rows, random_state=seed)
        for column, change in changes.items():
            rows[column] = change(rows[column])
        rows.to_csv(tmp_path / name, sep=";", index=False)
        return tmp_path / name

    return write


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("feature", FEATURES)
def test_a_fault_is_named_in_the_first_batch(
    record: Record, home: Path, batch: Callable[..., Path], feature: str, kind: str
) -> None:
    """The right feature first, by its right name; held, not learnt from, and soon forgotten."""
    done = record("run-batch", batch(**{feature: FAULTS[kind]}), "--home", home)
    drift = done["drift"]
    assert drift["status"] == "major"
    assert [(fault["feature"], fault["kind"]) for fault in drift["faults"]] == [(feature, kind)]
    assert ranked(drift["features"])[0]["name"] == feature
    assert done["decision"]["action"] == "hold"
    assert done["decision"]["reasons"][0] == "data_fault"
    assert done["retraining"] is None
    mended = record("run-batch", batch("mended.csv", seed=1), "--home", home)
    assert mended["drift"]["status"] in ("ok", "warn")
    assert mended["drift"]["faults"] == []


def test_rounding_is_named_where_it_does_harm(
    record: Record, home: Path, batch: Callable[..., Path]
) -> None:
    """Density to three decimals is a fault, to four it is not: that is a fiftieth of its spread."""
    coarse = batch(density=lambda x: x.round(3))
    drift = record("run-batch", coarse, "--home", home)["drift"]
    (fault,) = drift["faults"]
    assert (fault["feature"], fault["kind"], fault["detail"]) == ("density", "rounding", 3)
    finer = batch("finer.csv", density=lambda x: x.round(4))
    assert record("run-batch", finer, "--home", home)["drift"]["faults"] == []


def test_red_to_white_is_drift_and_no_fault(
    record: Record, home: Path, red_wine_csv: Path, white_wine_csv: Path, tmp_path: Path
) -> None:
    """White wines are found in the first batch, as other inputs, the most changed named first."""
    red, white = (pd.read_csv(path, sep=";") for path in (red_wine_csv, white_wine_csv))
    rows = white.drop_duplicates().sample(100, random_state=0)
    rows.to_csv(tmp_path / "white.csv", sep=";", index=False)
    done = record("run-batch", tmp_path / "white.csv", "--home", home)
    drift = done["drift"]
    assert drift["status"] == "major"
    assert drift["faults"] == []
    assert "covariate_drift" in drift["causes"]
    assert done["decision"]["reasons"][:2] == ["drift_major", "covariate_drift"]
    distance = {name: ks_2samp(red[name], rows[name]).statistic for name in FEATURES}
    most = sorted(distance, key=distance.__getitem__, reverse=True)[:3]
    assert ranked(drift["features"])[0]["name"] in most
    assert sum(feature["drifted"] for feature in drift["features"]) >= 9


def test_causes_need_labels(
    record: Record, home: Path, white_wine_csv: Path, tmp_path: Path
) -> None:
    """Without labels drift is drift, of an unknown kind; quality is promised and not judged."""
    rows = pd.read_csv(white_wine_csv, sep=";").drop_duplicates().sample(100, random_state=0)
    rows.drop(columns="quality").to_csv(tmp_path / "white.csv", sep=";", index=False)
    done = record("run-batch", tmp_path / "white.csv", "--home", home)
    assert done["drift"]["status"] == "major"
    assert done["drift"]["causes"] == []
    assert done["decision"]["reasons"] == ["drift_major", "waiting_for_labels"]
    quality = done["quality"]
    assert quality["status"] == "not_judged" and quality["log_loss"] is None
    assert 0 < quality["expected_log_loss"] < 1 and 0.5 < quality["expected_roc_auc"] < 1


def test_small_batches_wait_for_each_other(
    record: Record, home: Path, red_wine_csv: Path, published: Published
) -> None:
    """Forty rows are buffered; the next forty are judged together with them."""
    options = ("--home", home, "--data", red_wine_csv, "--batch-rows", 40)
    first, second, third = (record("run-batch", *options) for _ in range(3))
    assert first["drift"]["status"] == "not_judged"
    assert first["drift"]["judged_rows"] == first["batch"]["rows"] - duplicates(first)
    assert "wait for the next batch" in first["drift"]["reason"]
    assert second["drift"]["judged_rows"] == first["drift"]["judged_rows"] + 40 - duplicates(second)
    assert second["drift"]["status"] in ("ok", "warn")
    assert third["drift"]["status"] == "not_judged"
    assert third["drift"]["judged_rows"] == 40 - duplicates(third)
    assert ("wine_drift_dataset_drift_level",) not in published(home)


def test_evidence_adds_up_over_batches(
    record: Record, home: Path, batch: Callable[..., Path], published: Published
) -> None:
    """A shift that no single batch proves is an alarm after some; the log of evidence rises."""
    statuses, evidence, p_values = [], [], []
    for seed in range(12):
        path = batch(f"{seed}.csv", seed=seed, alcohol=lambda x: x + 0.2)
        drift = record("run-batch", path, "--home", home, "--retrain", "never")["drift"]
        statuses.append(drift["status"])
        evidence.append(drift["log10_evidence"])
        p_values.append(drift["p_value"])
    assert statuses[0] not in ("drift", "major")
    assert "drift" in statuses or "major" in statuses
    alarm = next(k for k, status in enumerate(statuses) if status in ("drift", "major"))
    assert evidence[alarm] >= 3 > evidence[0]
    assert min(p_values[: alarm + 1]) > 1e-6  # no single one would have done
    shown = published(home)
    assert shown["wine_drift_dataset_drift_evidence",] == evidence[-1]
    assert shown["wine_drift_evidence_threshold",] == pytest.approx(3)


def test_a_feature_that_goes_its_own_way_is_seen_by_the_score(
    record: Record, home: Path, batch: Callable[..., Path]
) -> None:
    """Alcohol of another wine: no column changes, but the score does."""
    statuses = []
    for seed in range(8):
        path = batch(
            f"{seed}.csv", seed=seed, alcohol=lambda x: x.sample(frac=1, random_state=0).to_numpy()
        )
        done = record("run-batch", path, "--home", home, "--retrain", "never")
        statuses.append(done["drift"]["status"])
        if done["drift"]["log10_evidence"] >= 3:
            break
    assert statuses[-1] in ("minor", "drift", "major"), statuses
    assert ranked(done["drift"]["features"])[0]["name"] == "score"


def test_explain(cli: Cli, record: Record, home: Path, batch: Callable[..., Path]) -> None:
    """Which feature, how much in wine units, how sure, and how much the model relies on it."""
    path = batch(alcohol=lambda x: x + 0.9)
    done = record("run-batch", path, "--home", home, "--retrain", "never")
    text = cli("explain", "--home", home).stdout
    (line,) = [line for line in text.splitlines() if " alcohol " in line and "median" in line]
    assert line.startswith("*")
    low, high = (
        done["drift"]["features"][10][key][1] for key in ("reference_quantiles", "quantiles")
    )
    assert f"(median {low:g} -> {high:g})" in line
    assert "% vol" in line
    columns = record("explain", done["batch"]["id"], "--home", home)["columns"]
    assert columns[0]["name"] == "alcohol" and columns[0]["drifted"]
    assert columns[0]["change"] in line
    assert sum(column["reliance"] or 0 for column in columns) == pytest.approx(1)
    assert cli("explain", done["batch"]["sequence"], "--home", home).stdout == text
    refused = cli("explain", 99, "--home", home, code=2)
    assert "no processed batch 99" in refused.stderr and "history list" in refused.stderr


def test_a_drifted_column_is_counted(
    record: Record, home: Path, batch: Callable[..., Path]
) -> None:
    """The record holds its histogram in the bins of the reference, and none of the others."""
    path = batch(alcohol=lambda x: x + 0.9)
    done = record("run-batch", path, "--home", home, "--retrain", "never")
    counts = {each["name"]: each["counts"] for each in done["drift"]["features"]}
    drifted = {each["name"] for each in done["drift"]["features"] if each["drifted"]}
    assert "alcohol" in drifted
    assert {name for name, found in counts.items() if found is not None} == drifted
    with Ledger.open(home, read_only=True) as ledger:
        reference = read_version(home / "models", ledger.champion() or {}).reference
    edges = reference.edges[reference.columns.index("alcohol")]
    assert len(edges) >= 10  # else the bins would be the even ones
    values = pd.read_csv(path, sep=";").drop_duplicates()["alcohol"]
    expected = pd.cut(values, [-np.inf, *edges, np.inf], right=True).value_counts(sort=False)
    assert counts["alcohol"] == [*expected, *[0] * (20 - len(expected))]


def test_faulty_small_batches_are_not_learnt_from(
    record: Record, home: Path, batch: Callable[..., Path]
) -> None:
    """Rows that waited and were found stuck together leave the window, all of them."""
    for seed in range(6):
        path = batch(f"{seed}.csv", seed=seed, n_rows=10, alcohol=lambda x: 10.0)
        done = record("run-batch", path, "--home", home)
        if done["decision"]["reasons"] == ["data_fault"]:
            break
    assert done["decision"]["reasons"] == ["data_fault"]
    with Ledger.open(home, read_only=True) as ledger:
        assert ledger.labelled_counts(after=1) == (0, 0)


def test_an_accepted_fault_is_told_and_not_held(
    record: Record, home: Path, batch: Callable[..., Path]
) -> None:
    """A source that has changed for good is accepted by name, and counts as what it is: drift."""
    options = ("--home", home, "--accept", "alcohol, density")
    done = record("run-batch", batch(density=lambda x: x.round(3)), *options)
    assert [fault["feature"] for fault in done["drift"]["faults"]] == ["density"]
    assert done["decision"]["reasons"][0] == "drift_major"
    again = record("run-batch", batch("pH.csv", pH=lambda x: 3.3), *options)
    assert again["decision"]["reasons"] == ["data_fault"]


def test_accepting_what_is_no_feature_is_a_mistake(
    cli: Cli, home: Path, batch: Callable[..., Path], published: Published
) -> None:
    """A misspelt feature is told with the right ones, and nothing is processed."""
    before = published(home)
    result = cli("run-batch", batch(), "--home", home, "--accept", "pH,alcohl", code=2)
    assert "'alcohl'" in result.stderr and "alcohol" in result.stderr
    changing = ("run", "last_success", "batches_pending")
    after = published(home)
    stays = {key for key in before if not any(word in key[0] for word in changing)}
    assert {key: after[key] for key in stays} == {key: before[key] for key in stays}


def test_a_score_that_is_not_watched_has_no_figures(
    cli: Cli, record: Record, published: Published
) -> None:
    """Of one column no two models score alike: that is told, and nothing is published of it."""
    rng = np.random.default_rng(0)
    for name, n in (("past", 400), ("one", 200), ("two", 200)):
        x = rng.normal(10, 2, n).round(3)
        table = {"x": x, "y": (x + rng.normal(0, 2, n) > 12).astype(int)}
        pd.DataFrame(table).to_csv(f"{name}.csv", index=False)
    cli("init", "w.toml", "--from", "past.csv", "--target", "y", "--positive", "== 1")
    settings = ("--settings", "w.toml", "--home", "home")
    cli("train", *settings, "--data", "past.csv")
    for name in ("one", "two"):
        done = record("run-batch", f"{name}.csv", *settings)
        assert done["drift"]["unwatched"] == ["score"]
        assert [each["name"] for each in done["drift"]["features"]] == ["x"]
    assert "\n  score      not watched: " in cli("explain", "--home", "home").stdout
    keys = [key for key in published(Path("home")) if key[0].startswith("wine_drift_feature_drift")]
    assert keys and not [key for key in keys if "score" in key]


def test_explain_of_an_empty_home(cli: Cli, tmp_path: Path) -> None:
    """There is nothing to explain, and that is told."""
    assert "no processed batch" in cli("explain", "--home", tmp_path / "none", code=2).stderr


def test_metrics_of_an_alarm(
    record: Record, home: Path, batch: Callable[..., Path], published: Published
) -> None:
    """Fault, causes, reliance and evidence reach Prometheus."""
    record("run-batch", batch(pH=lambda x: 3.3), "--home", home)
    shown = published(home)
    assert shown["wine_drift_data_fault", "stuck"] == 1
    assert shown["wine_drift_data_fault", "unit_change"] == 0
    assert shown["wine_drift_feature_data_fault", "pH", "stuck"] == 1
    assert shown["wine_drift_dataset_drift_level",] == 4
    assert shown["wine_drift_drift_cause", "label_shift"] == 0
    assert sum(shown["wine_drift_feature_reliance_ratio", name] for name in FEATURES) == (
        pytest.approx(1)
    )
    assert shown["wine_drift_feature_drift_evidence", "pH"] > 20


def duplicates(done: dict[str, Any]) -> int:
    """Rows of a batch that were repeats."""
    return int(done["batch"]["set_aside"]["duplicate"])
