"""Every way a decision can go, and the rate at which the gate lets chance through."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from wine_drift import report
from wine_drift.detector import NOT_JUDGED, QUALITY_STATUSES, STATUSES
from wine_drift.policy import DRIFT_REASONS, decide, gate
from wine_drift.schema import CAUSES

USUAL: dict[str, Any] = {
    "drift_status": "ok",
    "quality_status": "ok",
    "causes": (),
    "at_fault": False,
    "batch_labelled": 100,
    "recent_labelled": 300,
    "recent_positives": 40,
    "retrain": "auto",
    "min_labelled": 100,
    "min_positives": 10,
}
MAJOR = {"drift_status": "major"}
DROP = {"quality_status": "drop"}
CONCEPT = {"causes": ("concept_drift",)}


@pytest.mark.parametrize(
    ("changes", "action", "reasons"),
    [
        pytest.param({}, "keep", ("no_drift",), id="healthy"),
        pytest.param({"drift_status": NOT_JUDGED}, "keep", ("too_few_rows",), id="small"),
        pytest.param({"drift_status": "warn"}, "keep", ("drift_warn",), id="perhaps drift"),
        pytest.param({"drift_status": "minor"}, "keep", ("drift_minor",), id="trivial drift"),
        pytest.param({"drift_status": "drift"}, "keep", ("drift",), id="drift alone"),
        pytest.param(
            {"drift_status": "drift", "causes": ("label_shift",)},
            "keep",
            ("drift", "label_shift"),
            id="drift with a cause",
        ),
        pytest.param(MAJOR, "retrain", ("drift_major",), id="major drift"),
        pytest.param(
            MAJOR | {"causes": ("covariate_drift", "concept_drift")},
            "retrain",
            ("drift_major", "covariate_drift", "concept_drift"),
            id="major drift with two causes",
        ),
        pytest.param({"quality_status": "warn"}, "keep", ("quality_warn",), id="perhaps worse"),
        pytest.param({"quality_status": "minor"}, "keep", ("quality_minor",), id="hardly worse"),
        pytest.param({"quality_status": NOT_JUDGED}, "keep", ("no_drift",), id="blind"),
        pytest.param(
            {"drift_status": NOT_JUDGED, "quality_status": NOT_JUDGED},
            "keep",
            ("too_few_rows",),
            id="small and blind",
        ),
        pytest.param(DROP, "retrain", ("quality_drop",), id="worse"),
        pytest.param(
            DROP | CONCEPT, "retrain", ("quality_drop", "concept_drift"), id="worse with a cause"
        ),
        pytest.param(
            DROP | {"drift_status": NOT_JUDGED}, "retrain", ("quality_drop",), id="small and worse"
        ),
        pytest.param(
            DROP | CONCEPT | {"drift_status": "drift"},
            "retrain",
            ("quality_drop", "drift", "concept_drift"),
            id="both",
        ),
        pytest.param(
            MAJOR | {"recent_labelled": 100, "recent_positives": 10},
            "retrain",
            ("drift_major",),
            id="just enough labels",
        ),
        pytest.param(
            MAJOR | CONCEPT | {"recent_labelled": 99},
            "hold",
            ("drift_major", "concept_drift", "waiting_for_labels"),
            id="few labels",
        ),
        pytest.param(
            DROP | {"recent_positives": 9},
            "hold",
            ("quality_drop", "waiting_for_labels"),
            id="few positives",
        ),
        pytest.param(
            MAJOR | {"batch_labelled": 0},
            "hold",
            ("drift_major", "waiting_for_labels"),
            id="drift without labels",
        ),
        pytest.param(
            MAJOR | {"retrain": "never"},
            "hold",
            ("drift_major", "retrain_never"),
            id="switched off",
        ),
        pytest.param(
            DROP | CONCEPT | {"retrain": "never", "batch_labelled": 0},
            "hold",
            ("quality_drop", "concept_drift", "retrain_never"),
            id="switched off, and without labels",
        ),
        pytest.param({"at_fault": True}, "hold", ("data_fault",), id="fault alone"),
        pytest.param(
            {"at_fault": True, "drift_status": NOT_JUDGED},
            "hold",
            ("data_fault",),
            id="small fault",
        ),
        pytest.param(
            DROP | MAJOR | CONCEPT | {"at_fault": True},
            "hold",
            ("data_fault",),
            id="fault and all else",
        ),
        pytest.param(
            MAJOR | {"at_fault": True, "retrain": "never", "recent_labelled": 0},
            "hold",
            ("data_fault",),
            id="fault where nothing could be done",
        ),
    ],
)
def test_decision(changes: dict[str, Any], action: str, reasons: tuple[str, ...]) -> None:
    """Each situation has one action, and says why."""
    decision = decide(**(USUAL | changes))
    assert (decision.action, decision.reasons) == (action, reasons)
    assert set(reasons) <= set(report.REASONS)


situations = st.fixed_dictionaries(
    {
        "drift_status": st.sampled_from([*STATUSES, NOT_JUDGED]),
        "quality_status": st.sampled_from([*QUALITY_STATUSES, NOT_JUDGED]),
        "causes": st.sampled_from(
            [names for n in range(3) for names in itertools.combinations(CAUSES, n)]
        ),
        "at_fault": st.booleans(),
        "batch_labelled": st.sampled_from([0, 1, 100]),
        "recent_labelled": st.integers(90, 110),
        "recent_positives": st.integers(5, 15),
        "retrain": st.sampled_from(["auto", "never"]),
        "min_labelled": st.just(100),
        "min_positives": st.just(10),
    }
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(situations)
def test_any_decision_has_its_reasons_in_order(some: dict[str, Any]) -> None:
    """Fault, quality, drift, causes, what stands in the way; each once, each with a sentence."""
    reasons = decide(**some).reasons
    order = [
        "data_fault",
        "quality_drop",
        *DRIFT_REASONS.values(),
        *("quality_warn", "quality_minor"),
        *CAUSES,
        *("retrain_never", "waiting_for_labels", "no_drift", "too_few_rows"),
    ]
    assert reasons
    assert list(reasons) == sorted(set(reasons), key=order.index)
    assert set(reasons) <= set(report.REASONS)
    if some["at_fault"]:
        assert reasons == ("data_fault",)
        return
    assert set(some["causes"]) <= set(reasons)
    assert ("quality_drop" in reasons) == (some["quality_status"] == "drop")


@settings(max_examples=500, deadline=None, derandomize=True)
@given(situations)
def test_any_action_is_the_one_that_is_due(some: dict[str, Any]) -> None:
    """A fault holds, whatever else; only an alarm retrains, and only if it may and can."""
    alarm = some["quality_status"] == "drop" or some["drift_status"] == "major"
    can = (
        some["batch_labelled"] and some["recent_labelled"] >= 100 and some["recent_positives"] >= 10
    )
    due = "keep"
    if some["at_fault"]:
        due = "hold"
    elif alarm:
        due = "retrain" if can and some["retrain"] == "auto" else "hold"
    assert decide(**some).action == due


@settings(max_examples=500, deadline=None, derandomize=True)
@given(situations)
def test_more_trouble_never_calms_a_decision(some: dict[str, Any]) -> None:
    """A batch that keeps its model under trouble also keeps it under less."""
    if decide(**some).action == "keep":
        for calm in ({"quality_status": "ok"}, {"drift_status": "ok"}, {"at_fault": False}):
            assert decide(**(some | calm)).action == "keep"


@given(st.integers(0, 2**32 - 1), st.integers(2, 200))
def test_gate_equals_scipys_paired_test(seed: int, n_rows: int) -> None:
    """The p-value is that of scipy's one-sided paired t-test."""
    rng = np.random.default_rng(seed)
    champion, challenger = rng.gamma(1, 0.3, size=(2, n_rows))
    theirs = stats.ttest_rel(champion, challenger, alternative="greater").pvalue
    result = gate(champion, challenger, alpha=0.1)
    assert result.p_value == pytest.approx(theirs, rel=1e-9)
    assert result.promote == (theirs < 0.1)


def test_gate_lets_equals_through_at_its_stated_rate() -> None:
    """Of challengers that differ from the champion by chance alone, about alpha are promoted."""
    rng = np.random.default_rng(0)
    promoted = 0
    for _ in range(2000):
        hardness = rng.gamma(1, 0.3, size=150)
        champion, challenger = hardness + rng.normal(0, 0.05, size=(2, 150))
        promoted += gate(champion, challenger, alpha=0.1).promote
    assert 0.08 < promoted / 2000 < 0.12


@pytest.mark.parametrize("n_rows", [0, 1, 50])
def test_gate_refuses_without_evidence(n_rows: int) -> None:
    """Too few rows, or the same losses on all, promote nobody."""
    losses = np.full(n_rows, 0.3)
    assert not gate(losses, losses, alpha=0.1).promote
