"""What one batch says before anything is decided: quality from the labels, drift from all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wine_drift.drift import WINDOW_DECAY, DriftVerdict, assess_drift
from wine_drift.profile import Floats, Profile, Reference, count
from wine_drift.quality import (
    LossSums,
    Quality,
    log_loss_increase_p,
    log_loss_per_row,
    measure_quality,
)
from wine_drift.schema import Schema
from wine_drift.screening import Screened


@dataclass(frozen=True)
class Measurement:
    """All that is known of a batch."""

    quality: Quality
    log_loss_p_value: float | None  # one-sided: that log loss is above the reference
    mean_score: float | None
    drift: DriftVerdict
    pool: Profile  # reference and every batch since, this one included
    window: Profile  # decayed counts of recent batches, this one included


def measure(
    screened: Screened,
    scores: Floats,
    schema: Schema,
    reference: Reference,
    reference_losses: LossSums,
    *,
    cut: float,
    pool: Profile,
    window: Profile,
    budget: int,
    severity_drift: float,
    severity_major: float,
    min_rows: int,
) -> Measurement:
    """Measure one batch.

    Quality is that of the labelled good rows. Drift looks at all rows that arrived but repeats, for
    a fault is what drift may be; the score, as one more column, exists for good rows only.

    Parameters
    ----------
    screened : Screened
    scores : ndarray of shape (n_rows,), in [0, 1]
        NaN for rows that are not scored.
    reference, reference_losses : Reference, LossSums
        Of the champion.
    cut : float
        Score from which a row is predicted positive.
    pool, window : Profile
        As they were before this batch.
    budget, severity_drift, severity_major, min_rows
        As in `drift.assess_drift`.
    """
    labelled = screened.labelled
    positive = schema.is_positive(screened.target[labelled])
    losses = LossSums.from_losses(log_loss_per_row(positive, scores[labelled]))
    features = count(screened.features[screened.profiled], reference.edges[:-1])
    score = count(scores[screened.accepted, np.newaxis], reference.edges[-1:])
    batch = Profile(
        np.concatenate([features.counts, score.counts]),
        np.concatenate([features.missing, score.missing]),
    )
    window = window.scaled(WINDOW_DECAY) + batch
    return Measurement(
        quality=measure_quality(positive, scores[labelled], cut=cut),
        log_loss_p_value=log_loss_increase_p(reference_losses, losses),
        mean_score=float(scores[screened.accepted].mean()) if screened.accepted.any() else None,
        drift=assess_drift(
            reference,
            pool,
            window,
            batch,
            budget=budget,
            severity_drift=severity_drift,
            severity_major=severity_major,
            min_rows=min_rows,
        ),
        pool=pool + batch,
        window=window,
    )
