"""Verdicts in, decision with reasons out; and whether a challenger replaces the champion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from wine_drift.profile import Floats

DRIFT_REASONS = {
    "warn": "drift_warn",
    "minor": "drift_minor",
    "drift": "drift",
    "major": "drift_major",
}
QUALITY_REASONS = {"warn": "quality_warn", "minor": "quality_minor", "drop": "quality_drop"}


@dataclass(frozen=True)
class Decision:
    """What to do after a batch, and why."""

    action: str  # keep | hold | retrain
    reasons: tuple[str, ...]  # codes; `report.REASONS` has a sentence for each


@dataclass(frozen=True)
class Gate:
    """Paired comparison of challenger and champion on the same held-out rows."""

    promote: bool
    p_value: float | None  # one-sided: how easily chance alone gives such a gain
    mean_gain: float | None  # log loss of the champion minus that of the challenger
    n_rows: int


def decide(
    *,
    drift_status: str,
    quality_status: str,
    causes: tuple[str, ...],
    at_fault: bool,
    batch_labelled: int,
    recent_labelled: int,
    recent_positives: int,
    retrain: str,
    min_labelled: int,
    min_positives: int,
) -> Decision:
    """Turn what was measured into one action.

    Parameters
    ----------
    drift_status, quality_status : str
        As in `detector.STATUSES` and `detector.QUALITY_STATUSES`, or "not_judged".
    causes : tuple of str
        Out of `causes.CAUSES`.
    at_fault : bool
        The source is: what it sent is nothing to learn from.
    batch_labelled : int
        Labelled rows of the batch: without any, what drifted cannot be learnt from.
    recent_labelled, recent_positives : int
        Labelled rows, and positive ones, since the last promotion, this batch included.
    retrain : str
        "auto" or "never".
    min_labelled, min_positives : int
        Fewer recent labelled or positive rows than that, and retraining waits.

    Examples
    --------
    >>> usual = dict(quality_status="ok", causes=(), at_fault=False, batch_labelled=100,
    ...     recent_labelled=300, recent_positives=40, retrain="auto", min_labelled=100,
    ...     min_positives=10)
    >>> decide(drift_status="ok", **usual)
    Decision(action='keep', reasons=('no_drift',))
    >>> decide(drift_status="major", **(usual | {"causes": ("covariate_drift",)}))
    Decision(action='retrain', reasons=('drift_major', 'covariate_drift'))
    >>> decide(drift_status="major", **(usual | {"recent_positives": 3}))
    Decision(action='hold', reasons=('drift_major', 'waiting_for_labels'))
    """
    if at_fault:  # which is what changed, and all that can be said
        return Decision("hold", ("data_fault",))
    dropped = quality_status == "drop"
    told = [DRIFT_REASONS[drift_status]] if drift_status in DRIFT_REASONS else []
    if quality_status in QUALITY_REASONS:
        told.insert(0 if dropped else 1, QUALITY_REASONS[quality_status])
    reasons = [*told, *causes]
    if not (dropped or drift_status == "major"):
        quiet = "too_few_rows" if drift_status == "not_judged" else "no_drift"
        return Decision("keep", tuple(reasons) or (quiet,))
    if retrain == "never":
        return Decision("hold", (*reasons, "retrain_never"))
    enough = recent_labelled >= min_labelled and recent_positives >= min_positives
    if not (enough and batch_labelled):
        return Decision("hold", (*reasons, "waiting_for_labels"))
    return Decision("retrain", tuple(reasons))


def gate(champion_losses: Floats, challenger_losses: Floats, *, alpha: float) -> Gate:
    """Promote the challenger only if it beats the champion on rows that neither was trained on.

    A one-sided paired t-test on the per-row log losses: pairing removes what makes a row hard for
    both, which is most of the variance.

    Parameters
    ----------
    champion_losses, challenger_losses : ndarray of shape (n_rows,)
    alpha : float, in (0, 1)
        The rate at which a challenger that is no better is promoted.

    Examples
    --------
    Gains 1, 2, 3: mean 2, standard error 1/sqrt(3), t = 3.46 on 2 degrees of freedom.

    >>> result = gate(np.array([2.0, 3.0, 4.0]), np.ones(3), alpha=0.1)
    >>> result.promote, round(result.p_value, 4), result.mean_gain
    (True, 0.0371, 2.0)
    """
    gains = champion_losses - challenger_losses
    n = len(gains)
    if n < 2:
        return Gate(False, None, None, n)
    mean, error = float(gains.mean()), float(gains.std(ddof=1)) / np.sqrt(n)
    if error == 0:
        return Gate(False, 1.0, mean, n)  # identical models: nothing was gained
    p_value = float(stdtr(n - 1, -mean / error))
    return Gate(p_value < alpha, p_value, mean, n)
