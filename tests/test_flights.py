"""A public table with texts from end to end: does a flight arrive late?"""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
from departures import KNOWN_LATER, LATE, flights
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import chi2_contingency
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OrdinalEncoder
from test_categories import run, told

QUESTION = ("--target", "arr_delay", "--positive", f"> {LATE}")
N_ROWS = 2_000  # of a batch
ROUNDS = "30"  # trees, which is enough to see


@pytest.fixture(scope="module")
def quarter() -> list[pd.DataFrame]:
    """The flights of January to March, dealt out: one part to learn from, three for batches."""
    table = flights()
    table = table[table["month"] <= 3]
    return [table[k::5].reset_index(drop=True) for k in range(4)]


@pytest.fixture(scope="module")
def past(quarter: list[pd.DataFrame]) -> pd.DataFrame:
    """What is learnt from."""
    return quarter[0]


@pytest.fixture(scope="module")
def started(past: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which `init` and `train` have been, and what `init` said."""
    folder = tmp_path_factory.mktemp("flights")
    past.to_csv(folder / "past.csv", index=False)
    said = run("init", folder / "flights.toml", "--from", folder / "past.csv", *QUESTION).output
    settings = ("--settings", folder / "flights.toml", "--data", folder / "past.csv")
    run("train", *settings, "--rounds", ROUNDS, "--threads", "1")
    return folder, said


@pytest.fixture
def here(started: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the current folder, in which settings need not be named."""
    shutil.copytree(started[0], Path(), dirs_exist_ok=True)
    monkeypatch.setenv("WINE_DRIFT_SETTINGS", "flights.toml")
    monkeypatch.setenv("WINE_DRIFT_ROUNDS", ROUNDS)
    monkeypatch.setenv("WINE_DRIFT_THREADS", "1")


def batch(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Some of its flights, in no order."""
    return table.sample(N_ROWS, random_state=seed, ignore_index=True)


def features(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is told of each column."""
    return {each["name"]: each for each in record["drift"]["features"]}


def drifted(record: dict[str, Any]) -> list[str]:
    """Columns that drifted."""
    return [name for name, each in features(record).items() if each["drifted"]]


def test_what_is_proposed(started: tuple[Path, str], past: pd.DataFrame) -> None:
    """Carriers and airports are categories; what is known later, or is the time, is left out."""
    folder, said = started
    text = (folder / "past.schema.toml").read_text()
    content = tomllib.loads(text)
    entries = {each["name"]: each for each in content["feature"]}
    texts = ["carrier", "origin", "dest"]
    numbers = ["sched_dep_time", "sched_arr_time", "flight", "distance", "hour", "minute"]
    assert sorted(entries) == sorted([*texts, *numbers])
    for name in texts:
        counts = past[name].value_counts()
        listed = entries[name]["categories"]
        assert set(listed) == set(counts.index)
        assert (np.diff(counts[listed]) <= 0).all()
    reasons = dict.fromkeys(("year",), "is always '2013'")
    reasons |= dict.fromkeys(("month", "day"), "goes with the order of the rows, as a date does")
    reasons |= dict.fromkeys(KNOWN_LATER, "has gaps only where there is no answer")
    reasons |= {"tailnum": f"holds {past['tailnum'].nunique():,} different texts"}
    reasons |= {"time_hour": "is a date"}
    for name, reason in reasons.items():
        assert f'# "{name}" {reason}' in text
        on_terminal = f"look at this: {name!r} {reason}" in said
        assert on_terminal is (name not in ("year", "time_hour"))
    assert set(entries) | set(reasons) | {"arr_delay"} == set(past.columns)
    late = (past["arr_delay"] > LATE).sum()
    assert f"# {late:,} of {past['arr_delay'].notna().sum():,} labelled rows" in text
    assert content["duplicates"] == "keep"  # a timetable repeats
    hours = [str(hour) for hour in past["hour"].value_counts(sort=True).index]
    (codes,) = (
        tomllib.loads(line.partition(": ")[2])["categories"]
        for line in text.partition('name = "hour"')[2].partition("[[")[0].splitlines()
        if line.startswith("# if its numbers are codes")
    )
    assert sorted(codes) == sorted(hours) and codes[0] == hours[0]


@pytest.mark.usefixtures("here")
def test_flights_as_usual(past: pd.DataFrame, quarter: list[pd.DataFrame]) -> None:
    """No alarm, and the figures are those of LightGBM, scikit-learn and scipy."""
    usual = batch(quarter[1], 1)
    usual.to_csv("usual.csv", index=False)
    record = told("run-batch", "usual.csv")
    known = usual["arr_delay"].notna()
    late = usual["arr_delay"][known] > LATE
    counts = {key: record["batch"][key] for key in ("accepted", "labelled", "positive")}
    assert counts == {"accepted": N_ROWS, "labelled": known.sum(), "positive": late.sum()}
    assert record["drift"]["status"] in ("ok", "warn", "minor") and not drifted(record)
    assert record["decision"]["action"] == "keep"
    assert record["batch"]["seen_in_training"] == 0  # however many are of the same timetable

    schema = tomllib.loads(Path("past.schema.toml").read_text())
    columns = []
    for each in schema["feature"]:
        cells = usual[[each["name"]]]
        if "categories" in each:
            others = {"handle_unknown": "use_encoded_value", "unknown_value": -1}
            encoder = OrdinalEncoder(categories=[each["categories"]], **others)
            codes = encoder.fit(cells).transform(cells)
            cells = np.where(codes < 0, len(each["categories"]), codes)
        columns.append(np.asarray(cells, dtype=float))
    (model,) = Path("past.home/models").glob("v1-*/model.txt")
    scores = lightgbm.Booster(model_file=model).predict(np.hstack(columns))[known]
    assert record["quality"]["log_loss"] == pytest.approx(log_loss(late, scores), rel=1e-9)
    assert record["quality"]["roc_auc"] == pytest.approx(roc_auc_score(late, scores), rel=1e-9)

    # all rows of the table with an answer are the reference
    before = past["origin"][past["arr_delay"].notna()].value_counts()
    table = [before, usual["origin"].value_counts()[before.index]]
    expected = chi2_contingency(table, correction=False).pvalue
    assert features(record)["origin"]["chi2_p_value"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("here")
def test_a_new_carrier(quarter: list[pd.DataFrame]) -> None:
    """It is scored, counted as what is not listed, and told as the column that drifted."""
    new = batch(quarter[2], 2)
    new.loc[new.index % 6 == 0, "carrier"] = "ZZ"
    new.to_csv("new.csv", index=False)
    record = told("run-batch", "new.csv", "--retrain", "never")
    assert record["batch"]["accepted"] == N_ROWS
    assert record["drift"]["status"] in ("drift", "major")
    assert drifted(record) == ["carrier"]
    shares = {each["name"]: each for each in features(record)["carrier"]["categories"]}
    n_new = int((new["carrier"] == "ZZ").sum())
    assert shares["(other)"] == {"name": "(other)", "share": n_new / N_ROWS, "reference_share": 0}
    assert f"(other) 0 % -> {100 * n_new / N_ROWS:.0f} %" in run("explain").output
    published = {
        (sample.name, sample.labels.get("feature")): sample.value
        for family in text_string_to_metric_families(
            Path("past.home/metrics/wine_drift.prom").read_text()
        )
        for sample in family.samples
    }
    severity = published["wine_drift_feature_drift_severity", "carrier"]
    assert severity == pytest.approx(features(record)["carrier"]["severity"])
    assert severity == max(
        value for (name, _), value in published.items() if name.endswith("feature_drift_severity")
    )
    assert published["wine_drift_batch_labeled_rows", None] == new["arr_delay"].notna().sum()


@pytest.mark.usefixtures("here")
def test_other_answers_are_learnt(quarter: list[pd.DataFrame]) -> None:
    """Two carriers are late from now on: a challenger wins, and knows them by their texts."""

    def struck(table: pd.DataFrame, seed: int) -> pd.DataFrame:
        some = batch(table, seed)
        is_struck = some["carrier"].isin(["UA", "DL"]) & some["arr_delay"].notna()
        return some.assign(arr_delay=some["arr_delay"].where(~is_struck, 60))

    records = []
    for seed in range(3):
        struck(quarter[1 + seed], seed).to_csv("struck.csv", index=False)
        records.append(told("run-batch", "struck.csv"))
    outcomes = [each["retraining"] and each["retraining"]["outcome"] for each in records]
    assert outcomes == [None, "promoted", None]  # the first one waits to be confirmed
    assert [each["batch"]["labelled"] > 0 for each in records] == [True] * 3
    before, after = (records[k]["quality"]["roc_auc"] for k in (0, 2))
    assert after > before + 0.1
    (_, second) = json.loads(run("models", "list", "--json").stdout)["versions"]
    assert second["scoring"] == "masks"
    (model,) = Path("past.home/models").glob("v2-*/model.txt")
    carrier = lightgbm.Booster(model_file=model).trees_to_dataframe()
    carrier = carrier[carrier["split_feature"] == "Column_2"]
    assert len(carrier) > 0 and set(carrier["decision_type"]) == {"=="}


@pytest.mark.usefixtures("here")
def test_before_they_leave_and_after_they_arrived(quarter: list[pd.DataFrame]) -> None:
    """What is known later is not needed; labels come in the order of the batch, or are refused."""
    some = batch(quarter[3], 3)
    some.drop(columns=[*KNOWN_LATER, "arr_delay"]).to_csv("before.csv", index=False)
    record = told("run-batch", "before.csv")
    assert (record["batch"]["accepted"], record["batch"]["labelled"]) == (N_ROWS, 0)
    some.sample(frac=1, random_state=0).to_csv("arrived.csv", index=False)
    refused = run("add-labels", "1", "arrived.csv", code=3).output
    assert "of the batch has there" in refused
    some.to_csv("arrived.csv", index=False)
    record = told("add-labels", "1", "arrived.csv")
    assert record["batch"]["labelled"] == some["arr_delay"].notna().sum()
    assert record["batch"]["seen_in_training"] == 0
    assert record["quality"]["roc_auc"] > 0.6
