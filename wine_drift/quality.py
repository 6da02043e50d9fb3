"""Labels and scores in, quality with 95% intervals out.

What a batch cannot tell is None with a reason, never 0 or NaN: precision without a positive
prediction is unknown, not bad. Intervals take rows as independent draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri, stdtrit

from wine_drift.outcomes import CLIP, MIN_PER_CLASS
from wine_drift.profile import Floats

CALIBRATION_BINS = 10
EPSILON = float(np.finfo(float).eps)  # of scores in the reported log loss, as in scikit-learn
QUANTILE = 0.975  # for 95% intervals
Z = float(ndtri(QUANTILE))


@dataclass(frozen=True)
class Estimate:
    """A measure with its 95% interval; each None where undefined, with the reason."""

    value: float | None
    low: float | None
    high: float | None
    reason: str = ""  # "" when all three are there


@dataclass(frozen=True)
class Quality:
    """How well scores answer labels."""

    n_rows: int
    n_positive: int
    log_loss: Estimate  # nats per row, >= 0
    roc_auc: Estimate  # this and all below are in [0, 1]
    brier_score: Estimate
    accuracy: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    calibration_error: Estimate  # without interval: small batches inflate it
    expected_positives: float  # sum of the scores
    oe_z: float | None  # observed minus expected positives over its standard deviation
    mean_score: float | None
    log_loss_gap: float | None  # log loss minus what the scores of these very rows promise

    def measures(self) -> dict[str, Estimate]:
        """The measures by name, in the order above."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Estimate)}


def log_loss_per_row(y_true: ArrayLike, y_score: ArrayLike) -> Floats:
    """Log loss of each row, scores clipped to [1e-6, 1 - 1e-6] so that no row rules the mean.

    Parameters
    ----------
    y_true : array of shape (n_rows,), 0 or 1, or False or True
    y_score : array of shape (n_rows,), in [0, 1]

    Returns
    -------
    ndarray of shape (n_rows,), in nats, from 1e-6 to 13.8.

    Raises
    ------
    ValueError
        Shapes differ, a label is not 0 or 1, or a score is not in [0, 1].

    Examples
    --------
    The logarithms of 2, 4 and a million:

    >>> log_loss_per_row(np.array([1, 0, 1]), np.array([0.5, 0.75, 0.0])).round(4).tolist()
    [0.6931, 1.3863, 13.8155]
    """
    return _losses(*_checked(y_true, y_score), CLIP)


def measure_quality(y_true: ArrayLike, y_score: ArrayLike, *, cut: float) -> Quality:
    """Measure one batch; the values are those of scikit-learn.

    Parameters
    ----------
    y_true : array of shape (n_rows,), 0 or 1, or False or True
    y_score : array of shape (n_rows,), in [0, 1]
        Probability of 1 according to the model.
    cut : float, in [0, 1]
        A score from here on predicts 1.

    Returns
    -------
    Quality
        Intervals: log loss and Brier score by Student's t on the per-row values, their skewness
        taken out by Hall's transformation (1992, JRSS B 54, 221-228); AUC by DeLong's
        variance (DeLong et al., 1988) on the logit scale; accuracy, precision and recall by Wilson
        (1927); F1 by Wilson on F* = TP / (TP + FP + FN), a binomial share given its denominator,
        mapped by F1 = 2 F* / (1 + F*) ("Wilson indirect" of Lam et al., 2023, arXiv:2309.14621).
        The calibration error is the expected one over ten equal-width bins (Naeini et al., 2015).

    Raises
    ------
    ValueError
        Shapes differ, a label is not 0 or 1, or a score or the cut is not in [0, 1].

    Examples
    --------
    Three of the four pairs of a 0 and a 1 are in order; squared errors .04, .36, .36, .04.

    >>> quality = measure_quality(np.array([0, 0, 1, 1]), np.array([0.2, 0.6, 0.4, 0.8]), cut=0.5)
    >>> quality.roc_auc
    Estimate(value=0.75, low=None, high=None, reason='fewer than 5 positives')
    >>> round(quality.brier_score.value, 4), quality.precision.value, quality.recall.value
    (0.2, 0.5, 0.5)
    """
    y, p = _checked(y_true, y_score)
    if not 0 <= cut <= 1:
        raise ValueError(f"cut = {cut} is not in [0, 1]")
    n, n_positive, expected = len(y), int(y.sum()), float(p.sum())
    if n == 0:
        x = Estimate(None, None, None, "no labelled rows")
        return Quality(0, 0, x, x, x, x, x, x, x, x, 0.0, None, None, None)
    predicted = p >= cut
    n_predicted, hits = int(predicted.sum()), int(y[predicted].sum())
    misses = n_predicted + n_positive - 2 * hits  # false positives and false negatives
    bins = np.minimum((p * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    calibration = float(np.abs(np.bincount(bins, weights=y - p)).sum() / n)
    spread = float(np.sqrt((p * (1 - p)).sum()))
    return Quality(
        n_rows=n,
        n_positive=n_positive,
        log_loss=_mean(_losses(y, p, EPSILON), highest=np.inf),
        roc_auc=_roc_auc(y, p),
        brier_score=_mean((y - p) ** 2, highest=1.0),
        accuracy=_share(n - misses, n, ""),
        precision=_share(hits, n_predicted, "no positive predictions"),
        recall=_share(hits, n_positive, "no positives"),
        f1=_f1(hits, misses, n_positive),
        calibration_error=Estimate(calibration, None, None, "no interval for this measure"),
        expected_positives=expected,
        oe_z=(n_positive - expected) / spread if spread else None,
        mean_score=expected / n,
        log_loss_gap=float(_losses(y, p, EPSILON).mean() - _promised(p).mean()),
    )


def _checked(y_true: ArrayLike, y_score: ArrayLike) -> tuple[Floats, Floats]:
    y, p = np.asarray(y_true, dtype=float), np.asarray(y_score, dtype=float)
    if y.ndim != 1 or y.shape != p.shape:
        raise ValueError(f"labels of shape {y.shape} and scores of shape {p.shape}")
    if not ((y == 0) | (y == 1)).all():
        raise ValueError("a label is not 0 or 1")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a score is not in [0, 1]")
    return y, p


def _losses(y: Floats, p: Floats, clip: float) -> Floats:
    losses: Floats = -np.log(np.clip(np.where(y == 1, p, 1 - p), clip, 1 - clip))
    return losses


def _promised(p: Floats) -> Floats:
    """Log loss of each row as its score expects it: the entropy of the answer."""
    out: Floats = p * _losses(np.ones_like(p), p, EPSILON)
    return out + (1 - p) * _losses(np.zeros_like(p), p, EPSILON)


def _mean(values: Floats, *, highest: float) -> Estimate:
    """Mean and its interval, cut off at the ends of the range [0, highest]."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Estimate(mean, None, None, "one row only")
    if np.ptp(values) == 0:
        return Estimate(mean, None, None, "no variation between rows")
    error = float(values.std(ddof=1)) / np.sqrt(n)
    skew = float(((values - mean) ** 3).mean() / values.std() ** 3)
    quantile = float(stdtrit(n - 1, QUANTILE))
    low, high = (mean - error * _hall(t, skew / np.sqrt(n)) for t in (quantile, -quantile))
    return Estimate(mean, max(low, 0.0), min(high, highest))


def _hall(t: float, skew: float) -> float:
    """Quantile of the studentised mean of skewed values, from that of a symmetric one.

    The inverse of Hall's transformation, `skew` being that of the values over the root of n.
    """
    if abs(skew) < 1e-6:
        return t
    return float(3 / skew * (np.cbrt(1 + skew * (t - skew / 6)) - 1))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % limits of a share (Wilson, 1927).

    >>> [round(limit, 4) for limit in wilson(5, 10)]
    [0.2366, 0.7634]
    """
    share, scale = successes / n, 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / scale
    half = float(Z * np.sqrt(share * (1 - share) / n + (Z / (2 * n)) ** 2) / scale)
    # Exactly 0 and 1 at the ends, where rounding would leave it a little off.
    return centre - half if successes else 0.0, centre + half if successes < n else 1.0


def _share(successes: int, n: int, undefined: str) -> Estimate:
    if n == 0:
        return Estimate(None, None, None, undefined)
    return Estimate(successes / n, *wilson(successes, n))


def _f1(hits: int, misses: int, n_positive: int) -> Estimate:
    if n_positive == 0:
        return Estimate(None, None, None, "no positives")
    n = hits + misses
    value, low, high = (2 * share / (1 + share) for share in (hits / n, *wilson(hits, n)))
    return Estimate(value, low, high)


def _share_below(values: Floats, others: Floats) -> Floats:
    """Share of the sorted others below each of the sorted values, ties half.

    Sorting makes it O(n log n), as in Sun and Xu (2014), where comparing all pairs is O(n^2).
    """
    below = np.searchsorted(others, values, side="left")
    below = below + np.searchsorted(others, values, side="right")
    return below / (2 * len(others))


def _roc_auc(y: Floats, p: Floats) -> Estimate:
    ones, zeros = np.sort(p[y == 1]), np.sort(p[y == 0])
    if not (len(ones) and len(zeros)):
        return Estimate(None, None, None, "one class only")
    of_ones, of_zeros = _share_below(ones, zeros), _share_below(zeros, ones)  # DeLong's placements
    auc = float(of_ones.mean())
    for name, group in (("positives", ones), ("negatives", zeros)):
        if len(group) < MIN_PER_CLASS:
            return Estimate(auc, None, None, f"fewer than {MIN_PER_CLASS} {name}")
    variance = of_ones.var(ddof=1) / len(ones) + of_zeros.var(ddof=1) / len(zeros)
    if variance == 0:  # only when the AUC is 0, 1, or 1/2 by ties alone
        return Estimate(auc, None, None, "all scores tie" if auc == 0.5 else "perfect separation")
    half = Z * np.sqrt(variance) / (auc * (1 - auc))
    return Estimate(auc, float(expit(logit(auc) - half)), float(expit(logit(auc) + half)))
