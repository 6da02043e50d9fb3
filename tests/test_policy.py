"""Every way a decision can go, and the rate at which the gate lets chance through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wine_drift import report
from wine_drift.drift import STATUSES
from wine_drift.policy import decide, gate

USUAL = {
    "drift_status": "ok",
    "log_loss": 0.28,
    "reference_log_loss": 0.275,
    "log_loss_p_value": 0.4,
    "set_aside_share": 0.0,
    "batch_labelled": 100,
    "recent_labelled": 300,
    "recent_positives": 40,
    "retrain": "auto",
    "budget": 1000,
    "min_labelled": 100,
    "min_positives": 10,
    "max_set_aside": 0.2,
}
WORSE = {"log_loss": 0.5, "log_loss_p_value": 1e-6}


@pytest.mark.parametrize(
    ("changes", "action", "reasons"),
    [
        pytest.param({}, "keep", ("no_drift",), id="healthy"),
        pytest.param({"drift_status": "not_judged"}, "keep", ("too_few_rows",), id="small"),
        pytest.param({"drift_status": "warn"}, "keep", ("drift_warn",), id="trivial drift"),
        pytest.param({"drift_status": "drift"}, "keep", ("drift",), id="drift alone"),
        pytest.param({"drift_status": "major"}, "retrain", ("drift_major",), id="major drift"),
        pytest.param(WORSE, "retrain", ("quality_drop",), id="worse"),
        pytest.param(
            WORSE | {"drift_status": "drift"}, "retrain", ("quality_drop", "drift"), id="both"
        ),
        pytest.param(
            {"log_loss": 0.29, "log_loss_p_value": 1e-6}, "keep", ("no_drift",), id="worse by 5 %"
        ),
        pytest.param(
            {"log_loss": 0.5, "log_loss_p_value": 0.01}, "keep", ("no_drift",), id="perhaps chance"
        ),
        pytest.param(
            {"log_loss": None, "log_loss_p_value": None}, "keep", ("no_drift",), id="blind"
        ),
        pytest.param(
            {"drift_status": "major", "recent_labelled": 99},
            "hold",
            ("drift_major", "waiting_for_labels"),
            id="few labels",
        ),
        pytest.param(
            {"drift_status": "major", "recent_positives": 9},
            "hold",
            ("drift_major", "waiting_for_labels"),
            id="few positives",
        ),
        pytest.param(
            {"drift_status": "major", "batch_labelled": 0},
            "hold",
            ("drift_major", "waiting_for_labels"),
            id="drift without labels",
        ),
        pytest.param(
            {"drift_status": "major", "retrain": "never"},
            "hold",
            ("drift_major", "retrain_never"),
            id="switched off",
        ),
        pytest.param(
            WORSE | {"drift_status": "major", "set_aside_share": 0.2},
            "hold",
            ("data_fault", "quality_drop", "drift_major"),
            id="broken source",
        ),
    ],
)
def test_decision(changes: dict, action: str, reasons: tuple[str, ...]) -> None:
    """Each situation has one action, and says why."""
    decision = decide(**(USUAL | changes))
    assert (decision.action, decision.reasons) == (action, reasons)
    assert set(reasons) <= set(report.REASONS)


@given(
    st.sampled_from(STATUSES),
    st.floats(0, 1),
    st.floats(0.1, 3),
    st.floats(0, 1),
    st.integers(0, 300),
)
def test_more_trouble_never_calms_a_decision(
    status: str, aside: float, loss: float, p_value: float, labelled: int
) -> None:
    """A batch that keeps its model under trouble also keeps it under less."""
    some = USUAL | {
        "drift_status": status,
        "set_aside_share": aside,
        "log_loss": loss,
        "log_loss_p_value": p_value,
        "recent_labelled": labelled,
    }
    if decide(**some).action == "keep":
        assert decide(**(some | {"log_loss": 0.1})).action == "keep"
        assert decide(**(some | {"set_aside_share": 0.0})).action == "keep"


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
