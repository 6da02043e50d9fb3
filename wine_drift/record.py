"""The record of a batch: one JSON document, kept in the ledger and printed by `--json`.

`docs/record.md` describes every key. A key that does not apply is there and null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import bin_numbers
from wine_drift.detector import (
    NOT_JUDGED,
    QUALITY_STATUSES,
    QUALITY_TESTS,
    STATUSES,
    DriftReading,
    Limits,
    QualityReading,
)
from wine_drift.errors import WineDriftError
from wine_drift.gate import FAILED, WAITING, GateReport
from wine_drift.measurement import LateMeasurement, Measurement, Tally
from wine_drift.policy import Decision
from wine_drift.reference import Reference
from wine_drift.schema import OTHER, Feature, Schema

PARTS = (
    *("batch", "model", "quality", "drift", "decision", "retraining", "labels", "thresholds"),
    "error",
)


@dataclass(frozen=True)
class Report:
    """What a command tells: the documented record, and what went wrong, if anything."""

    record: dict[str, Any]
    error: WineDriftError | None = None
    run: Mapping[str, Any] | None = None  # as in Snapshot.run; None: nothing was recorded of it
    news: bool = False  # whether something is otherwise than after the batch before


def build_record(outcome: str, **parts: Any) -> dict[str, Any]:
    """A record with every key; what is not given is null.

    >>> build_record("nothing_waiting")["batch"] is None
    True
    >>> sorted(build_record("nothing_waiting"))[:4]
    ['batch', 'decision', 'drift', 'error']
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"unknown parts of a record: {sorted(unknown)}")
    return {"outcome": outcome, **{key: parts.get(key) for key in PARTS}, "push": None}


def is_news(record: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """Whether a person should look at a processed batch.

    So it is when an alarm begins or ends, decisions come to be held for faults of the source, or a
    challenger was tried. An alarm that goes on was told already.
    """
    tried = record["retraining"] is not None and record["retraining"]["outcome"] != WAITING
    return tried or _state(record) != _state(before)


def _state(record: Mapping[str, Any] | None) -> tuple[str, bool, bool]:
    if record is None:
        return "ok", False, False
    drift = record["drift"]["status"]
    alarm = drift if drift in ("drift", "major") else "ok"
    held = "data_fault" in record["decision"]["reasons"]
    return alarm, record["quality"]["status"] == "drop", held


def batch_part(
    counted: Tally,
    schema: Schema,
    *,
    batch_id: str,
    name: str,
    source: str,
    sequence: int,
    positive: int,
    seen_in_training: int,
) -> dict[str, Any]:
    """What arrived."""
    names = schema.feature_names

    def shares(counts: NDArray[np.int64]) -> dict[str, float]:
        return dict(zip(names, (counts / counted.n_rows).tolist(), strict=True))

    return {
        "id": batch_id,
        "sequence": sequence,
        "name": name,
        "source": source,
        "rows": counted.n_rows,
        "accepted": counted.accepted,
        "labelled": counted.answers.n,
        "positive": positive,
        "seen_in_training": seen_in_training,
        "set_aside": counted.set_aside,
        "faulty_share": counted.faulty_share,
        "missing": shares(counted.missing),
        "out_of_range": shares(counted.outside),
        "ignored_columns": list(counted.ignored_columns),
    }


def quality_part(
    measured: Measurement, *, cut: float, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """How good the model was: values, intervals, the reason where there is no value; any drop."""
    return {
        **measured.quality.to_dict(),
        **drop_part(measured.quality_drift, measured.judged_labels),
        "mean_score": measured.mean_score,
        "expected_log_loss": measured.expected_log_loss,
        "expected_roc_auc": measured.expected_roc_auc,
        "cut": cut,
        "reference": dict(manifest["out_of_fold"]),
    }


def with_labels(
    record: Mapping[str, Any],
    late: LateMeasurement,
    *,
    added: int,
    seen: int,
    at: float,
    lag: float,
    decision: Decision,
    retraining: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The record of a batch once more labels of it are known.

    What the scores promised, what is told of drift and what was decided on arrival stays, and so
    does a verdict on quality until there are labels enough for another one.

    Parameters
    ----------
    late : LateMeasurement
    added, seen : int
        Rows that were labelled just now; of these, rows that the champion was trained on.
    at, lag : float
        Unix time of these labels, and seconds since the batch was recorded.
    decision, retraining
        What these labels led to.
    """
    quality, batch = late.quality, record["batch"]
    judged = late.quality_drift is not None or record["quality"]["status"] == NOT_JUDGED
    return {
        **record,
        "batch": batch
        | {
            "labelled": quality.n_rows,
            "positive": quality.n_positive,
            "seen_in_training": batch["seen_in_training"] + seen,
        },
        "quality": record["quality"]
        | quality.to_dict()
        | (drop_part(late.quality_drift, late.judged_labels) if judged else {}),
        "drift": record["drift"] | {"causes": list(late.causes or record["drift"]["causes"])},
        "retraining": record["retraining"] if retraining is None else retraining,
        "labels": {
            "added_at": at,
            "lag_seconds": lag,
            "rows": added,
            "decision": decision.to_dict(),
        },
    }


def drop_part(reading: QualityReading | None, judged: int) -> dict[str, Any]:
    """What the labelled rows say of a drop in quality."""
    p_values: list[float | None] = [None] * len(QUALITY_TESTS)
    if reading is not None:
        p_values = [_known(p) for p in reading.p_values]
    return {
        "status": quality_status(reading),
        "judged_rows": judged,
        "p_value": None if reading is None else float(reading.p_value),
        "log10_evidence": None if reading is None else float(reading.log10_evidence),
        "recent_log_loss": None if reading is None else _known(reading.recent_log_loss),
        **{f"{test}_p_value": p for test, p in zip(QUALITY_TESTS, p_values, strict=True)},
    }


def drift_part(
    counted: Tally,
    measured: Measurement,
    reference: Reference,
    limits: Limits,
    *,
    features: Mapping[str, Feature],
    reliance: Mapping[str, float],
) -> dict[str, Any]:
    """What the batch says about drift; a column may have no feature, and no reliance."""
    reading = measured.drift
    part: dict[str, Any] = {
        "status": drift_status(reading),
        "judged_rows": measured.judged_rows,
        "p_value": None,
        "log10_evidence": None,
        "severity": None,
        "multivariate_p_value": None,
        "reason": None,
        "faults": [asdict(fault) for fault in measured.faults],
        "causes": list(measured.causes),
        "unwatched": [],
        "features": [],
    }
    if reading is None:
        rows = f"{measured.judged_rows} rows, fewer than min_rows = {limits.min_rows}"
        return part | {"reason": f"{rows}: they wait for the next batch"}
    tests = reading.tests
    part |= {
        "p_value": float(tests.p_value),
        "log10_evidence": float(reading.log10_evidence),
        "severity": float(reading.severity.max()),
        "multivariate_p_value": float(tests.multivariate),
    }
    for j, name in enumerate(reference.columns):
        if not reference.profile.counts[j].any():
            part["unwatched"].append(name)
            continue
        if not tests.n_effective[j] and tests.missing[j] == 1:
            continue  # no rows in the batch, no figure: never a 0
        feature = features.get(name)
        is_number = feature is None or not feature.categories
        evident = reading.log10_columns[j] >= np.log10(limits.budget)
        drifted = bool(evident and reading.severity[j] >= limits.severity_drift)
        counts = counted.summary.profile.counts[j].astype(int).tolist()
        part["features"].append(
            {
                "name": name,
                "unit": feature.unit if feature else "",
                "p_value": float(tests.columns_p[j]),
                "log10_evidence": float(reading.log10_columns[j]),
                "severity": float(reading.severity[j]),
                "drifted": drifted,
                "reliance": reliance.get(name),
                "quantiles": [_known(x) if is_number else None for x in measured.quantiles[j]],
                "reference_quantiles": [_known(x) for x in reference.quantiles[j]],
                "categories": None
                if feature is None or is_number
                else _shares(feature.categories, reference, measured, j),
                "counts": counts if drifted else None,
                "psi": float(reading.psi[j]),
                "chi2_p_value": float(tests.chi2[j]),
                "location_scale_p_value": float(tests.location_scale[j]),
                "missing_p_value": float(tests.missing[j]),
            }
        )
    return part


def _shares(
    categories: tuple[str, ...], reference: Reference, measured: Measurement, j: int
) -> list[dict[str, Any]]:
    """How frequent each bin of a column of categories is, here and in the reference."""
    numbers = np.arange(len(categories) + 1.0)
    bins, first = np.unique(bin_numbers(numbers, reference.edges[j]), return_index=True)
    told = [(*categories, OTHER)[number] for number in first.tolist()]
    together = int(first[-1] - first[-2])
    if together > 1:  # they share a bin
        told[-2] = f"({together} listed last)"
    here, usual = (each[j, bins] for each in (measured.counts, reference.profile.counts))
    return [
        {"name": name, "share": float(share), "reference_share": float(before)}
        for name, share, before in zip(
            told, here / max(here.sum(), 1), usual / max(usual.sum(), 1), strict=True
        )
    ]


def drift_status(reading: DriftReading | None) -> str:
    """Name of the status, also where nothing was judged."""
    return NOT_JUDGED if reading is None else STATUSES[reading.status]


def quality_status(reading: QualityReading | None) -> str:
    """Name of the status, also where nothing was judged."""
    return NOT_JUDGED if reading is None else QUALITY_STATUSES[reading.status]


def retraining_part(
    report: GateReport | None, *, challenger: str | None, failure: str, reason: str
) -> dict[str, Any]:
    """What came of a retraining; a failure of one candidate is told where another one served."""
    return {
        "reason": reason,
        "outcome": FAILED if report is None else report.outcome,
        "challenger": challenger,
        "gate": None if report is None else asdict(report),
        "error": failure or None,
    }


def thresholds_part(
    *,
    budget: int,
    severity_drift: float,
    severity_major: float,
    max_set_aside: float,
    log_loss: float,
    label_wait: float,
    batch_wait: float,
) -> dict[str, float]:
    """The very numbers that the decision used."""
    return {
        "p_value": 1 / budget,
        "log10_evidence": float(np.log10(budget)),
        "severity_drift": severity_drift,
        "severity_major": severity_major,
        "max_set_aside": max_set_aside,
        "log_loss": log_loss,
        "label_wait": label_wait,
        "batch_wait": batch_wait,
    }


def _known(value: Any) -> float | None:
    """None for what is not a number: JSON has no word for it."""
    return float(value) if np.isfinite(value) else None
