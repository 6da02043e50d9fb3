"""Judges batches one after the other: tests into evidence, evidence and severity into a status.

The same code judges one real batch and, in `selftest`, hundreds of simulated streams at once:
arrays may have leading axes, one entry for each stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats, Profile
from wine_drift.drift import BETS, WINDOW_DECAY, DriftTests, run_tests, severity
from wine_drift.evidence import (
    STRENGTHS,
    Evidence,
    log_e_of_p,
    log_e_of_shift,
    log_weighted_mean,
)
from wine_drift.outcomes import (
    Outcomes,
    auc_drop_p,
    calibration_p,
    log_loss_rise_p,
    log_losses,
    mean_log_loss,
)
from wine_drift.reference import Reference, Summary
from wine_drift.special import ndtri

STATUSES = ("ok", "warn", "minor", "drift", "major")
QUALITY_STATUSES = ("ok", "warn", "minor", "drop")
OK, WARN, MINOR, DRIFT, MAJOR = range(5)  # indices into the first; 0 to 2 into the second too
DROP = 3
NOT_JUDGED = "not_judged"

WARN_SHARE = 0.1  # of the evidence that an alarm takes
LOG_LOSS_RISE = 1.1  # times the reference: less is not worth a new model
QUALITY_TESTS = ("log_loss", "roc_auc", "calibration")


@dataclass(frozen=True)
class Limits:
    """When evidence and severity are an alarm."""

    budget: int  # at most one false alarm in so many batches
    severity_drift: float
    severity_major: float
    min_rows: int  # fewer wait for the next batch


@dataclass(frozen=True)
class DriftState:
    """What is known of the batches so far."""

    pool: Profile  # reference and every batch that raised no alarm: what evidence is against
    window: Profile  # decayed counts of recent batches, for severity
    evidence: Evidence


@dataclass(frozen=True)
class DriftReading:
    """What a batch says about drift."""

    tests: DriftTests
    log10_evidence: Floats  # (...), of the whole; an alarm takes log10 of the budget
    log10_columns: Floats  # (..., n_columns), of each column, on the same scale
    severity: Floats  # (..., n_columns)
    psi: Floats  # (..., n_columns), the textbook index of this batch
    status: NDArray[np.int64]  # (...), index into STATUSES


@dataclass(frozen=True)
class QualityState:
    """What is known of the answers so far."""

    pool: Outcomes
    window: Outcomes
    evidence: Evidence


@dataclass(frozen=True)
class QualityReading:
    """What the labelled rows of a batch say about quality."""

    p_values: Floats  # (..., 3), in the order of QUALITY_TESTS; NaN where there is none
    log10_evidence: Floats  # (...)
    recent_log_loss: Floats  # (...), of the decayed window
    status: NDArray[np.int64]  # (...), index into QUALITY_STATUSES

    @property
    def p_value(self) -> Floats:
        """Bonferroni over the three, (...)."""
        out: Floats = np.minimum(np.nanmin(self.p_values, axis=-1) * len(QUALITY_TESTS), 1.0)
        return out


@dataclass(frozen=True)
class Detector:
    """State of a champion's detector; the ledger keeps it between batches."""

    drift: DriftState
    quality: QualityState
    waiting: Summary  # rows of batches too small to be judged alone
    waiting_since: int | None = None  # number of the batch that brought the first of these rows

    @classmethod
    def fresh(cls, reference: Reference) -> Detector:
        """Before the first batch."""
        nothing = reference.nothing()
        return cls(
            DriftState(reference.profile, nothing.profile, no_drift_evidence(reference)),
            QualityState(reference.summary.outcomes, nothing.outcomes, no_quality_evidence()),
            nothing,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "drift": {name: part.to_dict() for name, part in vars(self.drift).items()},
            "quality": {name: part.to_dict() for name, part in vars(self.quality).items()},
            "waiting": self.waiting.to_dict(),
            "waiting_since": self.waiting_since,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Detector:
        """Inverse of `to_dict`."""
        drift, quality = data["drift"], data["quality"]
        return cls(
            DriftState(
                Profile.from_dict(drift["pool"]),
                Profile.from_dict(drift["window"]),
                Evidence.from_dict(drift["evidence"]),
            ),
            QualityState(
                Outcomes.from_dict(quality["pool"]),
                Outcomes.from_dict(quality["window"]),
                Evidence.from_dict(quality["evidence"]),
            ),
            Summary.from_dict(data["waiting"]),
            data["waiting_since"],
        )


def no_drift_evidence(reference: Reference) -> Evidence:
    """Where drift evidence starts."""
    return Evidence.none(len(reference.columns), 2, len(BETS))


def no_quality_evidence() -> Evidence:
    """Where quality evidence starts."""
    return Evidence.none(1, 1, len(STRENGTHS))


def judge_drift(
    reference: Profile,
    correlation: Floats,
    n_reference: Floats | int,
    state: DriftState,
    batch: Profile,
    limits: Limits,
    n_categories: Sequence[int] = (),
) -> tuple[DriftReading, DriftState]:
    """Judge one batch, and what is known after it.

    A batch joins the pool unless it raises an alarm: what drifted shall not become usual by itself.
    Evidence of a difference that is too small to matter ("minor") is told once and laid aside.

    Parameters
    ----------
    reference, correlation, n_reference
        Of the champion; see `drift.run_tests`.
    state : DriftState
        Before this batch.
    batch : Profile
        Of `limits.min_rows` rows or more.
    limits : Limits
    n_categories : sequence of int
        See `drift.run_tests`.
    """
    tests = run_tests(state.pool, batch, correlation, n_reference, n_categories)
    evidence = tests.added_to(state.evidence)
    window = state.window.scaled(_fading(state.window.n_rows, batch.n_rows)) + batch
    sizes, psi = severity(reference, window, batch)
    reading = DriftReading(
        tests=tests,
        log10_evidence=evidence.log10(),
        log10_columns=evidence.log10_columns(),
        severity=sizes,
        psi=psi,
        status=_drift_status(evidence.log10(), tests.p_value, sizes.max(axis=-1), limits),
    )
    return reading, DriftState(
        pool=state.pool + batch.scaled(reading.status < DRIFT),
        window=window,
        evidence=evidence.kept(reading.status != MINOR),
    )


def judge_quality(
    reference: Outcomes, state: QualityState, batch: Outcomes, limits: Limits
) -> tuple[QualityReading, QualityState]:
    """Judge the labelled rows of a batch, and what is known after it.

    Evidence is the mean of three e-values (log loss up, AUC down, calibration off), mixed with bets
    on a rise of log loss. `drop` also takes a recent log loss 10 % above the reference.
    """
    usual, here = log_losses(state.pool), log_losses(batch)
    log_loss_p = log_loss_rise_p(usual, here)
    p_values = np.stack(
        [
            log_loss_p,
            auc_drop_p(state.pool, batch),
            calibration_p(state.pool, batch),
        ],
        axis=-1,
    )
    untold = np.isnan(p_values)  # a test that cannot be made bets nothing: its e-value is 1
    log_e = np.where(untold, 0.0, log_e_of_p(np.where(untold, 1.0, p_values)))
    together = log_weighted_mean(log_e, np.full(3, 1 / 3))
    z = -ndtri(np.clip(log_loss_p, 1e-300, 1 - 1e-12))
    n_effective = usual.n * here.n / np.maximum(usual.n + here.n, 1)
    bets = log_e_of_shift(z[..., np.newaxis], n_effective, STRENGTHS)[..., np.newaxis, :, :]
    evidence = state.evidence.grown(together, together[..., np.newaxis], bets)
    window = state.window.scaled(_fading(state.window.n_labelled, batch.n_labelled)) + batch
    recent = mean_log_loss(window)
    log10 = evidence.log10()
    enough = log10 >= np.log10(limits.budget)
    worse = recent >= LOG_LOSS_RISE * mean_log_loss(reference)
    status = np.select(
        [enough & worse, enough, _is_warning(log10, p_values, limits)],
        [DROP, MINOR, WARN],
        default=OK,
    )
    reading = QualityReading(p_values, log10, recent, status)
    return reading, QualityState(
        pool=state.pool + batch.scaled(status != DROP),
        window=window,
        evidence=evidence.kept(status != MINOR),
    )


def cleared(summary: Summary, nothing: Summary, *, rows: bool, answers: bool) -> Summary:
    """What goes on waiting after the rows, or the answers, were judged."""
    if rows:
        summary = replace(summary, profile=nothing.profile, traits=nothing.traits)
    if answers:
        summary = replace(summary, outcomes=nothing.outcomes)
    return summary


def _fading(n_window: Floats, n_batch: Floats) -> Floats:
    """Weight of the window's past: 0.7, or less where it would outweigh the batch too much.

    Batches of equal size have 0.7 / 0.3 of a batch before them; one large batch shall not rule the
    window of the small ones that follow.
    """
    most = WINDOW_DECAY / (1 - WINDOW_DECAY) * n_batch
    out: Floats = np.minimum(WINDOW_DECAY, most / np.maximum(n_window, 1))
    return out


def _drift_status(
    log10: Floats, p_value: Floats, largest: Floats, limits: Limits
) -> NDArray[np.int64]:
    enough = log10 >= np.log10(limits.budget)
    conditions = [
        enough & (largest >= limits.severity_major),
        enough & (largest >= limits.severity_drift),
        enough,
        _is_warning(log10, p_value[..., np.newaxis], limits),
    ]
    return np.select(conditions, [MAJOR, DRIFT, MINOR, WARN], default=OK)


def _is_warning(log10: Floats, p_values: Floats, limits: Limits) -> NDArray[np.bool_]:
    n = p_values.shape[-1]
    rare = np.nanmin(p_values, axis=-1) * n < 1 / limits.budget
    out: NDArray[np.bool_] = (log10 >= np.log10(limits.budget * WARN_SHARE)) | rare
    return out
