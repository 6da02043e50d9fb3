"""Labels and scores in, quality with 95% intervals out.

What a batch cannot tell is None with a reason, never 0 or NaN: precision without a positive
prediction is unknown, not bad. Intervals take rows as independent draws. Rows are counted by score
and answer first, so a batch in parts has the quality of the whole, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wine_drift.bins import Floats
from wine_drift.counted import Counted
from wine_drift.outcomes import CLIP, MIN_PER_CLASS
from wine_drift.special import expit, logit, ndtri, stdtrit

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

    def __str__(self) -> str:
        if self.value is None:
            return f"undefined ({self.reason})"
        if self.low is None or self.high is None:
            return f"{self.value:.3f} (no interval: {self.reason})"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        lines = [f"Quality of {self.n_rows} labelled rows, {self.n_positive} of them positive"]
        lines += [f"  {name:<18} {estimate}" for name, estimate in self.measures().items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: values, then apart from them intervals, and why there is none of either."""
        measures = self.measures()
        return {
            **{name: estimate.value for name, estimate in measures.items()},
            "intervals": {
                name: [estimate.low, estimate.high]
                for name, estimate in measures.items()
                if estimate.low is not None
            },
            "undefined": {
                name: estimate.reason
                for name, estimate in measures.items()
                if estimate.value is None
            },
            "no_interval": {
                name: estimate.reason
                for name, estimate in measures.items()
                if estimate.value is not None and estimate.low is None
            },
            "observed_minus_expected_z": self.oe_z,
            "log_loss_gap": self.log_loss_gap,
        }


@dataclass(frozen=True)
class Answers:
    """Labelled rows, counted; `a + b` is of both sets of rows together, with the same cut."""

    negative: Counted  # scores of the rows whose answer is 0
    positive: Counted  # of those whose answer is 1
    n_predicted: int  # rows with a score from the cut on
    n_hits: int  # positives among them

    def __add__(self, other: Answers) -> Answers:
        return Answers(*(a + b for a, b in zip(self._parts(), other._parts(), strict=True)))

    def _parts(self) -> tuple[Any, ...]:
        return self.negative, self.positive, self.n_predicted, self.n_hits

    @classmethod
    def none(cls) -> Answers:
        """Of no rows."""
        nothing = Counted.none(is_share=True)
        return cls(nothing, nothing, 0, 0)

    @property
    def n(self) -> int:
        """Rows."""
        return self.negative.n + self.positive.n


def count_answers(y_true: ArrayLike, y_score: ArrayLike, *, cut: float) -> Answers:
    """Count labelled rows; see `measure_quality` for the arguments and errors.

    Of more than 65,536 different scores of an answer only bins are kept, see `Counted`.

    >>> count_answers([0, 1, 1], [0.2, 0.9, 0.9], cut=0.5).positive.counts.tolist()
    [2]
    """
    y, p = _checked(y_true, y_score)
    if not 0 <= cut <= 1:
        raise ValueError(f"cut = {cut} is not in [0, 1]")
    predicted = p >= cut
    negative, positive = (Counted.of(p[y == answer], is_share=True).bounded() for answer in (0, 1))
    return Answers(negative, positive, int(predicted.sum()), int(y[predicted].sum()))


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
    return judge_answers(count_answers(y_true, y_score, cut=cut))


def judge_answers(answers: Answers) -> Quality:
    """The quality of rows that were counted; `measure_quality` tells how.

    Of rows in bins each score is taken in the middle of its bin, which is off by less than 1/32768
    of it. Beside the intervals of so many rows that is nothing.
    """
    if answers.negative.binned or answers.positive.binned:  # ties are told by equal values
        bins = answers.negative.in_bins(), answers.positive.in_bins()
        answers = replace(answers, negative=bins[0], positive=bins[1])
    zeros, ones = answers.negative, answers.positive
    n, n_positive, hits, n_predicted = answers.n, ones.n, answers.n_hits, answers.n_predicted
    if n == 0:
        x = Estimate(None, None, None, "no labelled rows")
        return Quality(0, 0, x, x, x, x, x, x, x, x, 0.0, None, None, None)
    y = np.repeat([0.0, 1.0], [len(zeros.values), len(ones.values)])
    p = np.concatenate([zeros.values, ones.values])
    times = np.concatenate([zeros.counts, ones.counts])
    expected = float(p @ times)
    misses = n_predicted + n_positive - 2 * hits  # false positives and false negatives
    bins_of = np.minimum((p * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    calibration = float(np.abs(np.bincount(bins_of, weights=(y - p) * times)).sum() / n)
    spread = float(np.sqrt((p * (1 - p)) @ times))
    losses = _losses(y, p, EPSILON)
    return Quality(
        n_rows=n,
        n_positive=n_positive,
        log_loss=_mean(losses, times, highest=np.inf),
        roc_auc=_roc_auc(zeros, ones),
        brier_score=_mean((y - p) ** 2, times, highest=1.0),
        accuracy=_share(n - misses, n, ""),
        precision=_share(hits, n_predicted, "no positive predictions"),
        recall=_share(hits, n_positive, "no positives"),
        f1=_f1(hits, misses, n_positive),
        calibration_error=Estimate(calibration, None, None, "no interval for this measure"),
        expected_positives=expected,
        oe_z=(n_positive - expected) / spread if spread else None,
        mean_score=expected / n,
        log_loss_gap=float((losses - _promised(p)) @ times) / n,
    )


def _checked(y_true: ArrayLike, y_score: ArrayLike) -> tuple[Floats, Floats]:
    y, p = np.asarray(y_true, dtype=float), np.asarray(y_score, dtype=float)
    if y.ndim != 1 or y.shape != p.shape:
        raise ValueError(f"labels of shape {y.shape} and scores of shape {p.shape}")
    _refuse("label", y, (y == 0) | (y == 1), "0 or 1")
    _refuse("score", p, (p >= 0) & (p <= 1), "in [0, 1]")
    return y, p


def _refuse(what: str, values: Floats, good: NDArray[np.bool_], wanted: str) -> None:
    if not good.all():
        row = int(good.argmin())
        raise ValueError(f"a {what} is not {wanted}: {values[row]:g} in row {row}, counted from 0")


def _losses(y: Floats, p: Floats, clip: float) -> Floats:
    losses: Floats = -np.log(np.clip(np.where(y == 1, p, 1 - p), clip, 1 - clip))
    return losses


def _promised(p: Floats) -> Floats:
    """Log loss of each row as its score expects it: the entropy of the answer."""
    out: Floats = p * _losses(np.ones_like(p), p, EPSILON)
    return out + (1 - p) * _losses(np.zeros_like(p), p, EPSILON)


def _mean(values: Floats, times: NDArray[np.int64], *, highest: float) -> Estimate:
    """Mean of values that are there so many times, and its interval, within [0, highest]."""
    n = int(times.sum())
    mean = float(values @ times) / n
    if n < 2:
        return Estimate(mean, None, None, "one row only")
    if np.ptp(values) == 0:
        return Estimate(mean, None, None, "no variation between rows")
    squares, cubes = (float((values - mean) ** power @ times) for power in (2, 3))
    error = np.sqrt(squares / (n - 1) / n)
    skew = (cubes / n) / (squares / n) ** 1.5
    quantile = float(stdtrit(n - 1, QUANTILE))
    low, high = (float(mean - error * _hall(t, skew / np.sqrt(n))) for t in (quantile, -quantile))
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


def _share_below(values: Floats, others: Counted) -> Floats:
    """Share of others below each value, ties half.

    Counting makes it O(n log n), as in Sun and Xu (2014), where comparing all pairs is O(n^2).
    """
    ends = np.concatenate([[0], np.cumsum(others.counts)])
    below = ends[np.searchsorted(others.values, values, side="left")]
    below = below + ends[np.searchsorted(others.values, values, side="right")]
    shares: Floats = below / (2 * others.n)
    return shares


def _roc_auc(zeros: Counted, ones: Counted) -> Estimate:
    """Of negatives and positives."""
    if not (zeros.n and ones.n):
        return Estimate(None, None, None, "one class only")
    of_ones = _share_below(ones.values, zeros)  # DeLong's placements
    of_zeros = _share_below(zeros.values, ones)
    auc = float(of_ones @ ones.counts) / ones.n
    for name, group in (("positives", ones), ("negatives", zeros)):
        if group.n < MIN_PER_CLASS:
            return Estimate(auc, None, None, f"fewer than {MIN_PER_CLASS} {name}")
    variance = sum(
        float((placements - placements @ group.counts / group.n) ** 2 @ group.counts)
        / (group.n - 1)
        / group.n
        for placements, group in ((of_ones, ones), (of_zeros, zeros))
    )
    if np.ptp(of_ones) == np.ptp(of_zeros) == 0:  # AUC of 0, 1, or 1/2 by ties alone
        return Estimate(auc, None, None, "all scores tie" if auc == 0.5 else "perfect separation")
    half = Z * np.sqrt(variance) / (auc * (1 - auc))
    return Estimate(auc, float(expit(logit(auc) - half)), float(expit(logit(auc) + half)))
