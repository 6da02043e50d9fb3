"""The record of a batch: one JSON document, kept in the ledger and printed by `--json`.

`docs/record.md` describes every key. A key that does not apply is there and null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from wine_drift.drift import DriftVerdict
from wine_drift.policy import Decision, Gate
from wine_drift.quality import Quality
from wine_drift.screening import Screened


def build_record(outcome: str, **parts: Any) -> dict[str, Any]:
    """A record with every key; what is not given is null.

    >>> build_record("nothing_waiting")["batch"] is None
    True
    >>> sorted(build_record("nothing_waiting"))[:4]
    ['batch', 'decision', 'drift', 'error']
    """
    keys = ("batch", "model", "quality", "drift", "decision", "retraining", "thresholds", "error")
    unknown = set(parts) - set(keys)
    if unknown:
        raise ValueError(f"unknown parts of a record: {sorted(unknown)}")
    return {"outcome": outcome, **{key: parts.get(key) for key in keys}, "push": None}


def batch_part(
    screened: Screened,
    *,
    batch_id: str,
    name: str,
    source: str,
    sequence: int,
    positive: int,
    seen_in_training: int,
) -> dict[str, Any]:
    """What arrived."""
    return {
        "id": batch_id,
        "sequence": sequence,
        "name": name,
        "source": source,
        "rows": len(screened.target),
        "accepted": int(screened.accepted.sum()),
        "labelled": int(screened.labelled.sum()),
        "positive": positive,
        "seen_in_training": seen_in_training,
        "set_aside": screened.set_aside,
        "faulty_share": screened.faulty_share,
        "missing": screened.missing,
        "out_of_range": screened.out_of_range,
        "ignored_columns": list(screened.ignored_columns),
    }


def quality_part(
    quality: Quality,
    *,
    p_value: float | None,
    mean_score: float | None,
    cut: float,
    reference: Mapping[str, float | None],
) -> dict[str, Any]:
    """How good the model was: values, intervals, and the reason where there is no value."""
    measures = quality.measures()
    return {
        **{name: estimate.value for name, estimate in measures.items()},
        "intervals": {
            name: [estimate.low, estimate.high]
            for name, estimate in measures.items()
            if estimate.low is not None
        },
        "undefined": {
            name: estimate.reason for name, estimate in measures.items() if estimate.value is None
        },
        "no_interval": {
            name: estimate.reason
            for name, estimate in measures.items()
            if estimate.value is not None and estimate.low is None
        },
        "log_loss_p_value": p_value,
        "observed_minus_expected_z": quality.oe_z,
        "mean_score": mean_score,
        "cut": cut,
        "reference": dict(reference),
    }


def drift_part(verdict: DriftVerdict) -> dict[str, Any]:
    """What the batch says about drift."""
    return {
        "status": verdict.status,
        "p_value": verdict.p_value,
        "severity": verdict.severity,
        "multivariate_p_value": verdict.multivariate_p_value,
        "reason": verdict.reason or None,
        "features": [asdict(feature) for feature in verdict.features],
    }


def decision_part(decision: Decision) -> dict[str, Any]:
    """What is to be done, and why."""
    return {"action": decision.action, "reasons": list(decision.reasons)}


def retraining_part(
    gate: Gate | None, *, challenger: str | None, failure: str, reason: str
) -> dict[str, Any]:
    """What came of a challenger."""
    outcome = "failed" if gate is None else "promoted" if gate.promote else "rejected"
    return {
        "reason": reason,
        "outcome": outcome,
        "challenger": challenger,
        "gate": None if gate is None else asdict(gate),
        "error": failure or None,
    }


def thresholds_part(
    *,
    budget: int,
    severity_drift: float,
    severity_major: float,
    max_set_aside: float,
    log_loss: float,
) -> dict[str, float]:
    """The very numbers that the decision used."""
    return {
        "p_value": 1 / budget,
        "severity_drift": severity_drift,
        "severity_major": severity_major,
        "max_set_aside": max_set_aside,
        "log_loss": log_loss,
    }
