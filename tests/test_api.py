"""The functions for notebooks: what the job says, said without it."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import wine_drift
from wine_drift import Comparison, Reference, State, compare, decide, profile, quality
from wine_drift.dataset import load_schema
from wine_drift.ledger import Ledger
from wine_drift.measures import measure_quality
from wine_drift.model import read_version

ROOT = Path(__file__).parents[1]
SCHEMA = load_schema(None)
FEATURES = list(SCHEMA.feature_names)
Record = Callable[..., dict[str, Any]]


def plain(value: Any) -> Any:
    """As it comes out of JSON, which has lists only."""
    return json.loads(json.dumps(value, allow_nan=False))


def drawn(
    n: int, *, seed: int = 0, shift: float = 0.0, wrong: bool = False
) -> tuple[Any, Any, Any]:
    """Rows of two columns, answers and the scores that are right for them."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(rng.normal(size=(n, 2)), columns=["a", "b"])
    rows["a"] += shift
    scores = 1 / (1 + np.exp(-rows.sum(axis=1).to_numpy()))
    answers = (rng.random(n) < scores) ^ wrong
    return rows, answers.astype(int), scores


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of 1,000 rows with scores and answers."""
    rows, answers, scores = drawn(1000)
    return profile(rows, y_true=answers, y_score=scores)


# --- the same as the job ---


@pytest.fixture
def table(red_wine_csv: Path) -> pd.DataFrame:
    """Red wines without repeats, in some order."""
    wines = pd.read_csv(red_wine_csv, sep=";").drop_duplicates(FEATURES)
    return wines.sample(frac=1, random_state=0, ignore_index=True)


def batches(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Healthy ones, a small one, one with labels here and there, a broken one, one that drifted."""
    cuts = [700, 800, 830, 900, 1000, 1100, 1200]
    healthy, small, second, partly, broken, drifted = (
        table.iloc[start:stop].copy() for start, stop in pairwise(cuts)
    )
    partly.loc[partly.index[::3], "quality"] = None
    broken.loc[broken.index[::3], "pH"] = None
    drifted["alcohol"] = (drifted["alcohol"] * 1.1).round(2)
    drifted["sulphates"] = (drifted["sulphates"] + 0.2).round(2)
    return [healthy, small, second, partly, broken, drifted]


def test_a_batch_is_told_as_the_job_records_it(record: Record, table: pd.DataFrame) -> None:
    """Reference, drift, quality, decision and state of six batches, one after the other."""
    table[:700].to_csv("train.csv", index=False)
    record("train", "--home", "home", "--data", "train.csv", "--rounds", 200)
    with Ledger.open(Path("home"), read_only=True) as ledger:
        manifest = ledger.champion()
    assert manifest is not None
    champion = read_version(Path("home/models"), manifest)
    usual = champion.reference_rows
    reference = profile(
        usual.features[:, :-1],
        y_true=usual.positive,
        y_score=usual.features[:, -1],
        columns=FEATURES,
        plausible={f.name: (f.minimum, f.maximum) for f in SCHEMA.features},
    )
    assert reference.to_dict() == champion.reference.to_dict()
    state, told_of = None, []
    for number, rows in enumerate(batches(table)):
        rows.to_csv(f"{number}.csv", index=False)
        told = record("run-batch", f"{number}.csv", "--home", "home")
        complete = rows[FEATURES].notna().all(axis=1)
        scores = np.where(complete, champion.model.score(rows[FEATURES].to_numpy()), np.nan)
        answers = np.where(rows["quality"].notna(), rows["quality"] > 6.5, np.nan)
        found = compare(
            reference, rows, y_true=answers, y_score=scores, state=state, cut=champion.cut
        )
        for feature in told["drift"]["features"]:
            for key in ("unit", "reliance", "categories", "counts"):
                del feature[key]
        assert plain(found.to_dict()["drift"]) == told["drift"]
        assert plain(found.to_dict()["quality"]).items() <= told["quality"].items()
        assert plain(decide(found).to_dict()) == told["decision"]
        state = State.from_dict(plain(found.state.to_dict()))
        with Ledger.open(Path("home"), read_only=True) as ledger:
            assert state.detector.to_dict() == ledger.detector(champion.version)
        told_of.append((found.drift.status, decide(found).action))
    assert told_of[1] == ("not_judged", "keep")
    assert told_of[4][1] == "hold" and found.drift.causes
    assert told_of[5] == ("major", "retrain")


def test_a_drop_of_quality_has_to_be_confirmed_and_then_retrains(reference: Reference) -> None:
    """As in the job, answers that changed in one batch are not believed."""
    state, decisions = None, []
    for seed in range(1, 5):
        rows, answers, scores = drawn(200, seed=seed, wrong=seed > 1)
        found = compare(reference, rows, y_true=answers, y_score=scores, state=state)
        state = found.state
        decisions.append(decide(found))
    assert [decision.action for decision in decisions] == ["keep", "hold", "retrain", "retrain"]
    assert decisions[1].reasons == ("quality_drop", "concept_drift", "unconfirmed")


def test_quality_is_that_of_the_package() -> None:
    """One function, whoever calls it; lists will do."""
    _, answers, scores = drawn(200)
    assert quality(answers.tolist(), scores.tolist(), cut=0.4) == measure_quality(
        answers, scores, cut=0.4
    )


# --- evidence over batches ---


def test_evidence_adds_up_in_the_state_and_in_nothing_else(reference: Reference) -> None:
    """A small shift is no alarm at once, but after some batches; what was given stays as it was."""
    before = plain(reference.to_dict())
    limits: Any = {"severity_drift": 0, "severity_major": 9}
    found = compare(reference, drawn(100, seed=1, shift=0.25)[0], **limits)
    first, statuses = plain(found.state.to_dict()), [found.drift.status]
    for seed in range(2, 20):
        rows = drawn(100, seed=seed, shift=0.25)[0]
        found = compare(reference, rows, state=found.state, **limits)
        statuses.append(found.drift.status)
    assert statuses[0] in ("ok", "warn") and statuses[-1] == "drift"
    again = compare(reference, drawn(100, seed=1, shift=0.25)[0], **limits)
    assert plain(again.state.to_dict()) == first
    assert plain(reference.to_dict()) == before


def test_small_batches_wait_for_each_other(reference: Reference) -> None:
    """In parts, 60 rows are judged as the 60 rows are."""
    rows, answers, scores = drawn(60, seed=3)
    whole = compare(reference, rows, y_true=answers, y_score=scores)
    part = compare(reference, rows[:25], y_true=answers[:25], y_score=scores[:25])
    assert (part.drift.status, part.drop.status) == ("not_judged", "not_judged")
    assert "25 rows wait" in repr(part.state)
    both = compare(reference, rows[25:], y_true=answers[25:], y_score=scores[25:], state=part.state)
    assert both.drift.judged_rows == 60
    assert both.drift.log10_evidence == whole.drift.log10_evidence
    assert both.drop == whole.drop
    assert both.quality.n_rows == 35


# --- what people have ---


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rows: rows.to_numpy(), id="array"),
        pytest.param(lambda rows: {name: rows[name].tolist() for name in rows}, id="mapping"),
        pytest.param(
            lambda rows: rows.assign(other="text")[["other", "b", "a"]], id="more columns"
        ),
        pytest.param(lambda rows: rows.astype("Float64"), id="nullable"),
        pytest.param(lambda rows: rows.astype(object), id="objects"),
        pytest.param(lambda rows: rows.set_index(pd.Index(range(900, 800, -1))), id="index"),
    ],
)
def test_rows_come_in_many_forms(reference: Reference, change: Callable[[Any], Any]) -> None:
    """All give the same."""
    rows, _, scores = drawn(100, seed=5)
    expected = compare(reference, rows, y_score=scores).to_dict()
    assert compare(reference, change(rows), y_score=scores).to_dict() == expected


def test_answers_come_in_many_forms(reference: Reference) -> None:
    """With NA or None where a label is not known."""
    rows, answers, scores = drawn(100, seed=2)
    expected = compare(reference, rows[:99], y_true=answers[:99], y_score=scores[:99]).quality
    some = answers[:99].astype(bool).tolist()
    for labels in ([*some, None], pd.array([*some, None], dtype="boolean")):
        found = compare(reference, rows, y_true=labels, y_score=scores)
        assert found.quality.n_rows == 99
        assert found.quality.log_loss == expected.log_loss


@pytest.mark.parametrize("dtype", ["float64", "Float64", "object"])
def test_missing_values_count_as_missing(reference: Reference, dtype: str) -> None:
    """Whatever stands for them."""
    rows = drawn(100, seed=6)[0].astype(dtype)
    rows.loc[:9, "a"] = None
    found = compare(reference, rows)
    assert found.drift["a"].missing_p_value < 1e-9
    assert found.drift["b"].missing_p_value == 1


def test_masked_values_count_as_missing(reference: Reference) -> None:
    """Not as what lies behind the mask."""
    rows, _, scores = drawn(100, seed=6)
    mask = rows > 1
    expected = compare(reference, rows.mask(mask), y_score=scores).to_dict()
    assert expected["drift"]["features"][0]["missing_p_value"] < 0.01
    masked = np.ma.masked_array(rows, mask)
    columns = {name: masked[:, j] for j, name in enumerate(rows)}
    for given in (masked, columns):
        assert compare(reference, given, y_score=scores).to_dict() == expected
    labels = np.ma.masked_array([0] * 60 + [1] * 40, [True] * 30 + [False] * 70)
    assert compare(reference, rows, y_true=labels, y_score=scores).quality.n_rows == 70


def test_the_largest_values_are_judged_like_others() -> None:
    """In the reference and in a batch, without a warning."""
    large = {"a": [-1e300, 1e300] * 50}
    found = compare(profile(large), large)
    assert found.drift.status == "ok" and found.drift["a"].quantiles[0] == -1e300


def test_without_scores_and_labels_there_is_drift_alone() -> None:
    """Columns only: of quality nothing is said, and no score is watched."""
    found = compare(profile(drawn(500)[0]), drawn(100, seed=1)[0])
    assert [column.name for column in found.drift.features] == ["a", "b"]
    assert found.drop.status == "not_judged"
    assert found.quality.log_loss.reason == "no labelled rows"


def test_labels_are_measured_where_the_reference_has_none() -> None:
    """There is no drop to judge, but quality is told."""
    usual, rows = drawn(500), drawn(100, seed=1)
    reference = profile(usual[0], y_score=usual[2])
    found = compare(reference, rows[0], y_true=rows[1], y_score=rows[2])
    assert found.quality == quality(rows[1], rows[2])
    assert found.drop.status == "not_judged" and found.drop.log_loss_p_value is None


def test_a_label_without_a_score_and_a_score_without_a_label(reference: Reference) -> None:
    """Neither says anything of quality."""
    rows, answers, scores = drawn(100, seed=2)
    some = np.where(np.arange(100) < 70, answers, np.nan)
    scores[:10] = np.nan
    found = compare(reference, rows, y_true=some, y_score=scores)
    assert found.quality == quality(answers[10:70], scores[10:70])


def test_a_broken_source_is_held(reference: Reference) -> None:
    """A stuck column is a fault; the batch says nothing of the world."""
    rows, answers, scores = drawn(100, seed=2)
    found = compare(reference, rows.assign(a=1.0), y_true=answers, y_score=scores)
    assert [(fault.feature, fault.kind) for fault in found.drift.faults] == [("a", "stuck")]
    assert found.at_fault and "a: stuck" in repr(found)
    assert decide(found).reasons == ("data_fault",)
    assert found.state.detector.drift.evidence.log10() == -np.inf
    assert (found.state.n_batches, found.state.n_labelled, found.state.n_positive) == (1, 0, 0)


def test_plausible_values_are_told_apart() -> None:
    """Values beyond what a column can have are a fault."""
    usual, rows = drawn(500)[0], drawn(100, seed=1)[0]
    rows.loc[:39, "a"] = -20.0 - rows.loc[:39, "b"]
    reference = profile(usual, plausible={"a": (-10, 10)})
    assert [fault.kind for fault in compare(reference, rows).drift.faults] == ["out_of_range"]


# --- results ---


def test_results_are_frozen_and_readable(reference: Reference) -> None:
    """A repr is what a notebook shows: the verdict, the threshold, the columns."""
    rows, answers, scores = drawn(200, seed=1, shift=1)
    found = compare(reference, rows, y_true=answers, y_score=scores, budget=500)
    with pytest.raises(FrozenInstanceError):
        found.at_fault = True
    assert repr(reference) == "Reference of 1000 rows, 1000 of them labelled: a, b, score"
    first, drift, drop = repr(found).splitlines()
    assert "at most one false alarm in 500 batches" in first
    assert drift.startswith("  drift    major: evidence 10^") and " · a " in drift
    assert drop.startswith("  quality  ok: evidence ")
    head, a, *rest = repr(found.drift).splitlines()
    assert head in "Drift " + drift.removeprefix("  drift    ")
    assert re.match(r"\* a \+\d\.\d+ \(median -?0\.0\d -> ", a) and len(rest) == 2
    assert "log_loss           0." in repr(found.quality)
    with pytest.raises(KeyError):
        found.drift["c"]


def test_everything_survives_json(reference: Reference) -> None:
    """State and reference can be kept in a file between notebooks."""
    rows, answers, scores = drawn(100, seed=1, shift=1)
    here = {"y_true": answers, "y_score": scores}
    found = compare(reference, rows, **here)
    state = State.from_dict(plain(found.state.to_dict()))
    kept = Reference.from_dict(plain(reference.to_dict()))
    goes_on = compare(kept, rows, state=state, **here)
    expected = compare(reference, rows, state=found.state, **here)
    assert plain(goes_on.to_dict()) == plain(expected.to_dict())
    assert decide(goes_on) == decide(expected)


def test_results_are_equal_if_they_say_the_same(reference: Reference) -> None:
    """Of the same rows, or read back; a batch more, or another reference, is something else."""
    rows, answers, scores = drawn(1000)
    again = profile(rows, y_true=answers, y_score=scores)
    assert reference == again == Reference.from_dict(plain(reference.to_dict()))
    assert reference != profile(rows)
    first, same = compare(reference, rows[:100]), compare(again, rows[:100])
    assert first == same and first.state == State.from_dict(plain(first.state.to_dict()))
    second = compare(reference, rows[:100], state=first.state)
    assert second != first and second.state != first.state
    assert first.state != first.state.to_dict() and reference != reference.to_dict()


def test_limits_may_be_numbers_of_numpy(reference: Reference) -> None:
    """In the results they are plain ones, which JSON knows; a whole number may be a float."""
    rows = drawn(100)[0]
    limits: Any = {"budget": np.int64(500), "severity_major": np.float32(0.5), "min_rows": 60.0}
    found = compare(reference, rows, **limits)
    expected = {"budget": 500, "severity_drift": 0.1, "severity_major": 0.5, "min_rows": 60}
    assert plain(found.to_dict())["limits"] == expected
    assert "one false alarm in 500 batches" in repr(found)
    assert decide(found, min_labelled=np.int64(10)) == decide(found)


# --- mistakes ---


def _wrong(reference: Reference) -> dict[str, tuple[Callable[[], object], str]]:
    rows, answers, scores = drawn(100, seed=1)
    other: Comparison = compare(profile(rows + 1), rows)
    alike = profile(drawn(1000, seed=1)[0]), profile(drawn(1000, seed=2)[0])
    of_one, renamed = compare(alike[0], rows).state, {"c": rows["a"], "d": rows["b"]}
    labelled = {"y_true": answers, "y_score": scores}
    twice = pd.concat([rows, rows[["a"]]], axis=1)
    found = compare(reference, rows)
    return {
        "text": (lambda: profile(rows.assign(n="x")), r"column 'n' .*not numeric: .*'x'"),
        "dates": (lambda: profile(rows.assign(n=pd.Timestamp(0))), r"column 'n' .*datetime64"),
        "no rows": (lambda: profile(rows[:0]), "rows: there is none"),
        "no columns": (lambda: profile(rows[[]]), "rows: there is none, or no column"),
        "nothing": (lambda: profile(None), r"rows of shape \(\)"),
        "a column": (lambda: profile(rows["a"].to_numpy()), r"shape \(100,\)"),
        "score": (lambda: profile(rows.assign(score=1)), "column 'score': the name is taken"),
        "twice in rows": (lambda: profile(twice, columns=["a", "b"]), "there twice: a, b, a"),
        "twice in a batch": (lambda: compare(reference, twice), "there twice: a, b, a"),
        "text in a batch": (lambda: compare(reference, rows.assign(a="x")), "column 'a': not num"),
        "empty column": (
            lambda: profile(rows.assign(a=np.nan)),
            "column 'a': it has no value to compare with; leave it out",
        ),
        "infinite column": (lambda: profile(rows.assign(b=np.inf)), "column 'b': it has no value"),
        "whole and large": (lambda: profile({"a": [10**400, 1]}), "column 'a' .*int too large"),
        "large": (
            lambda: profile(rows.assign(b=[0, -1e308] * 50)),
            r"column 'b': -1e\+308 in row 1, counted from 0: has to be within 1e\+300",
        ),
        "large in a batch": (
            lambda: compare(reference, rows.assign(a=[-1e308, 1e308] * 50)),
            r"column 'a': -1e\+308 in row 0, counted from 0: has to be",
        ),
        "twice": (lambda: profile(rows, columns=["a", "a"]), "there twice: a, a"),
        "numbers": (lambda: profile(pd.DataFrame(np.eye(2))), "have to be texts, not int"),
        "lengths": (lambda: profile({"a": [1, 2], "b": [1]}), r"differ in length: .*'b': 1"),
        "plausible": (lambda: profile(rows, plausible={"z": (0, 1)}), "plausible: no .*: z"),
        "plausible order": (
            lambda: profile(rows, plausible={"a": (3, -3)}),
            r"plausible\['a'\] = \(3, -3\): has to be \(smallest, largest\), in this order",
        ),
        "plausible alike": (lambda: profile(rows, plausible={"a": (1, 1)}), "in this order"),
        "plausible nan": (lambda: profile(rows, plausible={"a": (np.nan, 1)}), "in this order"),
        "plausible one": (
            lambda: profile(rows, plausible={"a": (3,)}),
            r"plausible\['a'\] = \(3,\): has to be",
        ),
        "plausible text": (
            lambda: profile(rows, plausible={"b": ("x", "y")}),
            r"plausible\['b'\]: not numeric: .*'x'",
        ),
        "labels alone": (lambda: profile(rows, y_true=answers), "y_true without y_score"),
        "labels lack": (
            lambda: profile(rows, y_true=np.full(100, np.nan), y_score=scores),
            "y_true: each row of a reference must have a label",
        ),
        "scores lack": (
            lambda: profile(rows, y_score=np.full(100, np.nan)),
            "y_score: a row of a reference must have a score",
        ),
        "fewer labels": (
            lambda: profile(rows, y_true=answers[:9], y_score=scores),
            "y_true: 9 values for 100 rows",
        ),
        "not binary": (
            lambda: compare(reference, rows, y_true=answers + 1, y_score=scores),
            r"a label is not 0 or 1: 2 in row \d+, counted from 0",
        ),
        "not a share": (
            lambda: compare(reference, rows, y_score=scores + 1),
            r"a score is not in \[0, 1\]: 1\.\d+ in row \d+",
        ),
        "column lacks": (lambda: compare(reference, rows[["a"]]), r"no column 'b' among \['a'\]"),
        "narrow": (lambda: compare(reference, rows.to_numpy()[:, :1]), "1 columns, not 2: a, b"),
        "state": (lambda: compare(reference, rows, state=other.state), "of another reference"),
        "state of fewer": (
            lambda: compare(reference, rows, state=compare(profile(rows), rows).state),
            "of another reference",
        ),
        "state of the same size": (
            lambda: compare(alike[1], rows, state=of_one),
            "of another reference",
        ),
        "state of other names": (
            lambda: compare(
                profile(drawn(1000, seed=1)[0].set_axis(["c", "d"], axis=1)), renamed, state=of_one
            ),
            "of another reference",
        ),
        "budget": (lambda: compare(reference, rows, budget=1), "budget = 1: has to be from 10 to"),
        "budget without end": (
            lambda: compare(reference, rows, budget=np.inf),
            "budget = inf: has to be from 10 to",
        ),
        "large budget": (lambda: compare(reference, rows, budget=10**20), "budget = 1000"),
        "half a batch": (
            lambda: compare(reference, rows, budget=99.5),
            "budget = 99.5: has to be a whole number",
        ),
        "rows without end": (
            lambda: compare(reference, rows, min_rows=np.inf),
            "min_rows = inf: ",
        ),
        "severity without end": (
            lambda: compare(reference, rows, severity_major=np.inf),
            "severity_major = inf: ",
        ),
        "severity below": (
            lambda: compare(reference, rows, severity_drift=-1),
            "severity_drift = -1: has to be from 0",
        ),
        "few labels": (lambda: decide(found, min_labelled=-1), "min_labelled = -1: has to be from"),
        "few positives": (lambda: decide(found, min_positives=0), "min_positives = 0: "),
        "severity": (lambda: compare(reference, rows, severity_major=0.05), "not in this order"),
        "min_rows": (lambda: compare(reference, rows, min_rows=5), "min_rows = 5: "),
        "cut": (lambda: compare(reference, rows, cut=2, **labelled), "cut = 2: .* from 0 to 1"),
        "cut of quality": (lambda: quality([1], [0.5], cut=np.nan), "cut = nan: .* from 0 to 1"),
        "cells of arrays": (lambda: profile({"a": [[1], [1, 2]]}), "column 'a' .*not numeric: "),
        "labels of text": (lambda: quality(["yes"], [0.5]), "y_true: not numeric: .*'yes'"),
        "a table": (lambda: quality([[1]], [[0.5]]), r"y_true: of shape \(1, 1\)"),
        "unequal": (lambda: quality([1, 0], [0.5]), r"labels of shape \(2,\) and scores"),
        "unknown label": (lambda: quality([np.nan], [0.5]), "a label is not 0 or 1: nan in row 0"),
    }


@pytest.mark.parametrize("case", _wrong(profile({"a": range(9), "b": range(9)})))
def test_mistakes_are_told(reference: Reference, case: str) -> None:
    """What, where, and what would do."""
    call, message = _wrong(reference)[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_one_thing_for_another(reference: Reference) -> None:
    """Rows instead of their reference, a comparison instead of its state, a text of names."""
    rows: Any = drawn(100)[0]
    with pytest.raises(TypeError, match="reference: what `profile` gives, not a DataFrame"):
        compare(rows, rows)
    found: Any = compare(reference, rows)
    with pytest.raises(TypeError, match="state: a State, as a comparison has it, not a Comparison"):
        compare(reference, rows, state=found)
    with pytest.raises(TypeError, match=r"found: a Comparison, .* not a Drift"):
        decide(found.drift)
    with pytest.raises(TypeError, match="columns: a sequence of names, not a str"):
        profile(rows, columns="ab")
    with pytest.raises(TypeError, match="columns: a sequence of names, not a set"):
        profile(rows, columns={"a", "b"})
    plausible: Any = [("a", 1, 2)]
    with pytest.raises(TypeError, match="plausible: a mapping of names, not a list"):
        profile(rows, plausible=plausible)


LIMITS = ("budget", "min_rows", "severity_drift", "severity_major", "cut")


@pytest.mark.parametrize("value", [None, "x", [1], True])
@pytest.mark.parametrize("name", [*LIMITS, "min_labelled", "min_positives"])
def test_a_limit_is_a_number(reference: Reference, name: str, value: Any) -> None:
    """Its name is told, whatever it is, and whether it would have been used or not."""
    rows = drawn(100)[0]
    found = compare(reference, rows)
    told = f"^{name}: a number, not a {type(value).__name__}$"
    with pytest.raises(TypeError, match=told):
        if name in LIMITS:
            compare(reference, rows, **{name: value})
        else:
            decide(found, **{name: value})
    if name == "cut":
        with pytest.raises(TypeError, match=told):
            quality([0, 1], [0.1, 0.9], cut=value)


# --- the package ---


def test_importing_the_package_loads_nothing() -> None:
    """`import wine_drift` is instant; the first use of a function loads numpy and no pandas."""
    code = (
        "import sys, wine_drift; print('numpy' in sys.modules, wine_drift.__version__); "
        "from wine_drift import profile; print('numpy' in sys.modules); "
        "print({'pandas', 'sklearn', 'lightgbm', 'pyarrow', 'click', 'scipy.stats'} "
        "& sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"False {version('wine-drift')}", "True", "set()"], done


def test_what_the_package_names_is_there() -> None:
    """Each name of `__all__`, and no other, comes from the module of the functions."""
    assert all(getattr(wine_drift, name).__doc__ for name in wine_drift.__all__)
    assert {*wine_drift.__all__, "__version__"} <= {*dir(wine_drift)}
    with pytest.raises(AttributeError, match="no attribute 'drift_everything'"):
        _ = wine_drift.drift_everything


TYPED = """
import numpy as np
import pandas as pd
from wine_drift import Comparison, Decision, Quality, Reference, State, __version__
from wine_drift import compare, decide, profile, quality

frame = pd.DataFrame({"x": np.arange(100.0)})
reference: Reference = profile(frame, y_true=[0, 1] * 50, y_score=np.full(100, 0.5))
state: State | None = None
found: Comparison = compare(reference, {"x": [1.0] * 60}, state=state)
found = compare(reference, np.ones((60, 1)), state=found.state)
measured: Quality = quality([0, 1], [0.1, 0.9])
low: float | None = measured.log_loss.low
decision: Decision = decide(found)
p_value: float = found.drift["x"].p_value
words: list[str] = [__version__, decision.action, *decision.reasons]
"""


@pytest.mark.parametrize(
    ("code", "mistakes"),
    [
        pytest.param(TYPED, [], id="right"),
        pytest.param(
            "from wine_drift import decide, quality\n"
            "quality([0, 1], 'scores', cut='half')\n"
            "decide(quality([0], [0.5]))\n",
            ["arg-type", "arg-type"],
            id="wrong",
        ),
    ],
)
def test_types_reach_the_user(code: str, mistakes: list[str]) -> None:
    """mypy --strict finds what is wrong in a notebook's code, and nothing in what is right."""
    Path("notebook.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", ".cache", "notebook.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={"MYPYPATH": str(ROOT)}
    )
    assert re.findall(r"^notebook\.py.*\[([\w-]+)\]$", done.stdout, re.M) == mistakes, done


def test_the_walk_through_is_true() -> None:
    """The code of docs/library.md gives what is printed there."""
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```pycon\n(.*?)^```$", page, re.M | re.S))
    test = doctest.DocTestParser().get_doctest(code, {}, "docs/library.md", None, 0)
    assert len(test.examples) > 10
    told: list[str] = []
    doctest.DocTestRunner().run(test, out=told.append)
    assert not told, "".join(told)
