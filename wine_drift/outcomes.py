"""Scores and answers as counts, and what they say about quality: has it dropped, and how.

A row falls in one of a thousand bins of its score, under its answer. Log loss, AUC and calibration
follow from these counts alone, so the tests below see the same whether a batch comes whole, in
chunks or in shards. What is judged at every batch takes leading axes, one entry for each stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wine_drift.bins import Floats, packed, rank_scores, unpacked
from wine_drift.special import chdtrc, expit, gammainc, gammaincc, logit, ndtr

N_SCORE_BINS = 1000  # equal steps of the score's logit
MIN_PER_CLASS = (
    5  # rows of either answer for a test or an interval of the AUC: with 3 it covers 89 %
)
CLIP = 1e-6  # of scores: caps the log loss of a row at 13.8 nats
_NEWTON_STEPS = 25
UNLABELLED, NEGATIVE, POSITIVE = range(3)

_END = float(logit(1 - CLIP))
_WIDTH = 2 * _END / N_SCORE_BINS
SCORES = expit(-_END + _WIDTH * (np.arange(N_SCORE_BINS) + 0.5))  # middle of each bin
_LOGITS = logit(SCORES)
_DESIGN = np.stack([np.ones(N_SCORE_BINS), _LOGITS])
_VARIANCES = SCORES * (1 - SCORES)  # of an answer, if the score is right
_LOSSES = np.stack([-np.log1p(-SCORES), -np.log(SCORES)])  # (2, bins): of a negative, a positive


@dataclass(frozen=True)
class Outcomes:
    """Counts of scored rows; `a + b` is of both sets of rows together."""

    counts: Floats  # (..., 3, 1000): unlabelled, negative, positive; fractions once decayed

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.counts + other.counts)

    def scaled(self, factor: ArrayLike) -> Outcomes:
        """Multiply every count by a number, or those of each stream by its own, (...)."""
        return Outcomes(self.counts * np.asarray(factor, dtype=float)[..., np.newaxis, np.newaxis])

    @classmethod
    def none(cls) -> Outcomes:
        """Of no rows."""
        return cls(np.zeros((3, N_SCORE_BINS)))

    @property
    def answers(self) -> Floats:
        """Counts of the labelled rows, (..., 2, 1000)."""
        return self.counts[..., NEGATIVE:, :]

    @property
    def n_labelled(self) -> Floats:
        """Labelled rows, (...)."""
        out: Floats = self.answers.sum(axis=(-2, -1))
        return out

    @property
    def n_positive(self) -> Floats:
        """Positive rows, (...)."""
        out: Floats = self.counts[..., POSITIVE, :].sum(axis=-1)
        return out

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return packed(self.counts)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcomes:
        """Inverse of `to_dict`."""
        return cls(unpacked(data))


@dataclass(frozen=True)
class LossSums:
    """Power sums of per-row log losses."""

    n: Floats
    s1: Floats  # sum of the losses, in nats
    s2: Floats  # of their squares
    s3: Floats  # of their cubes


def count_outcomes(
    scores: Floats, labelled: NDArray[np.bool_], positive: NDArray[np.bool_]
) -> Outcomes:
    """Count scored rows.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,), in [0, 1]
    labelled, positive : ndarray of shape (n_rows,)
        `positive` is not looked at where `labelled` is false.

    Examples
    --------
    >>> flags = np.array([True, True, False])
    >>> outcomes = count_outcomes(np.array([0.2, 0.9, 0.5]), flags, np.array([False, True, False]))
    >>> outcomes.counts.sum(axis=1).tolist()
    [1.0, 1.0, 1.0]
    """
    return Outcomes(
        np.bincount(
            _answers(labelled, positive) * N_SCORE_BINS + score_bins(scores),
            minlength=3 * N_SCORE_BINS,
        )
        .reshape(3, N_SCORE_BINS)
        .astype(float)
    )


def score_bins(scores: Floats) -> NDArray[np.int64]:
    """Bin of each score, of the same shape, from 0 to 999.

    >>> score_bins(np.array([0.0, 0.5, 1.0])).tolist()
    [0, 500, 999]
    """
    steps = (logit(np.clip(scores, CLIP, 1 - CLIP)) + _END) / _WIDTH
    out: NDArray[np.int64] = np.clip(np.floor(steps + 1e-9), 0, N_SCORE_BINS - 1).astype(np.int64)
    return out


def log_losses(outcomes: Outcomes) -> LossSums:
    """Sums of the log losses of the labelled rows, each taken in the middle of its bin."""
    n, s1, s2, s3 = ((outcomes.answers * _LOSSES**k).sum(axis=(-2, -1)) for k in range(4))
    return LossSums(n, s1, s2, s3)


def mean_log_loss(outcomes: Outcomes) -> Floats:
    """Mean log loss, (...), in nats; NaN without labelled rows."""
    sums = log_losses(outcomes)
    return _ratio(sums.s1, sums.n)


def roc_auc(outcomes: Outcomes) -> tuple[Floats, Floats]:
    """Area under the ROC curve, ties half, and DeLong's variance of it, (...) each.

    NaN where undefined: the area without rows of either answer, the variance with fewer than two.
    The variance of placements (DeLong et al., 1988), summed over bins as in Sun & Xu (2014).

    Examples
    --------
    Three of four pairs of a negative and a positive are in order.

    >>> y = np.array([False, False, True, True])
    >>> area, _ = roc_auc(count_outcomes(np.array([0.2, 0.6, 0.4, 0.8]), y | True, y))
    >>> float(area)
    0.75
    """
    zeros, ones = outcomes.answers[..., 0, :], outcomes.answers[..., 1, :]
    n0, n1 = zeros.sum(axis=-1), ones.sum(axis=-1)
    below = np.cumsum(zeros, axis=-1) - zeros / 2
    above = n1[..., np.newaxis] - np.cumsum(ones, axis=-1) + ones / 2
    of_ones = _ratio(below, n0[..., np.newaxis])  # share of negatives below a positive
    of_zeros = _ratio(above, n1[..., np.newaxis])
    area = _ratio((ones * of_ones).sum(axis=-1), n1)
    with np.errstate(invalid="ignore"):
        spread_1 = _ratio((ones * (of_ones - area[..., np.newaxis]) ** 2).sum(axis=-1), n1 - 1)
        spread_0 = _ratio((zeros * (of_zeros - area[..., np.newaxis]) ** 2).sum(axis=-1), n0 - 1)
    return area, _ratio(spread_1, n1) + _ratio(spread_0, n0)


def log_loss_rise_p(pool: LossSums, batch: LossSums) -> Floats:
    """One-sided p-value that the mean log loss of a batch is above that of the pool, (...).

    The permutation test without permutations: mean, variance and skewness of the mean of a batch
    drawn from all rows together follow from the sums, and a Pearson type III distribution with the
    same three stands in for the rest (Mielke & Berry, 2007, Permutation Methods). Losses are too
    skewed for a t-test on a small batch. It is 1 without rows, or if all losses are equal.

    Examples
    --------
    Mean and variance of all are 1; z = 0.2 / sqrt(0.5/10 * 20/19) = 0.872. Equal sizes cancel the
    skewness, which leaves the normal distribution.

    >>> pool, batch = (LossSums(*np.array([10, 2.0 * k, 4.0 * k, 8.0 * k])) for k in (4, 6))
    >>> round(float(log_loss_rise_p(pool, batch)), 4)
    0.1917
    """
    n = pool.n + batch.n
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, square, cube = ((a + b) / n for a, b in _pairs(pool, batch))
        variance = square - mean**2
        fraction = batch.n / n
        skew = (cube - 3 * mean * square + 2 * mean**3) / variance**1.5
        skew = skew * (1 - 2 * fraction) / np.sqrt(batch.n * (1 - fraction))
        deviation = np.sqrt(variance * (1 - fraction) / batch.n * n / (n - 1))
        p_value = pearson3_sf((batch.s1 / batch.n - mean) / deviation, skew)
    told = (batch.n > 0) & (pool.n > 0) & (variance > 1e-12 * square)  # else it is rounding
    return np.where(told, p_value, 1.0)


def auc_drop_p(pool: Outcomes, batch: Outcomes) -> Floats:
    """One-sided p-value that the AUC of a batch is below that of the pool, (...).

    Their difference on the logit scale over DeLong's standard error of both. NaN where either has
    fewer than five rows of an answer; 1 where the batch has all pairs in order. At the other ends,
    where the logit or DeLong's variance fails, the plain difference, with the pool's placements
    giving the variance of the batch.
    """
    (area_m, variance_m), (area_n, variance_n) = roc_auc(pool), roc_auc(batch)
    n1, n0 = batch.n_positive, batch.n_labelled - batch.n_positive
    m1, m0 = pool.n_positive, pool.n_labelled - pool.n_positive
    enough = np.minimum(np.minimum(n1, n0), np.minimum(m1, m0)) >= MIN_PER_CLASS
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = [
            variance / (area * (1 - area)) ** 2
            for area, variance in ((area_m, variance_m), (area_n, variance_n))
        ]
        z = (logit(area_m) - logit(area_n)) / np.sqrt(errors[0] + errors[1])
        usual = variance_m * np.minimum(m1, m0) / np.minimum(n1, n0)
        plain = (area_m - area_n) / np.sqrt(variance_m + np.maximum(variance_n, usual))
    inside = (variance_m > 0) & (variance_n > 0)
    p_value = ndtr(-np.where(inside, z, np.where(np.isnan(plain), 0.0, plain)))
    return np.where(enough, np.where(area_n == 1, 1.0, p_value), np.nan)


def calibration_z(pool: Outcomes, batch: Outcomes) -> Floats:
    """Observed minus expected positives of a batch, in standard deviations, (...).

    What the pool is off by, per row, is taken off, its own error counted in, and the variance that
    the scores promise is scaled to the one that the pool has: scores may be too sure of themselves.
    Zero without labelled rows.
    """
    return _calibration(pool, batch)[0]


def calibration_p(pool: Outcomes, batch: Outcomes) -> Floats:
    """Two-sided p-value of `calibration_z`, (...).

    Few expected positives make a skewed count; the tails are those of a Pearson type III
    distribution with the skewness that the scores promise.
    """
    z, skew = _calibration(pool, batch)
    tails = np.minimum(pearson3_sf(z, skew), pearson3_sf(-z, -skew))
    out: Floats = np.minimum(2 * tails, 1.0)
    return out


def recalibration_p(reference: Outcomes, batch: Outcomes) -> float:
    """P-value that the answers follow the scores as in the reference, whatever the scores are.

    Cox's (1958) logistic recalibration, intercept and slope, is fitted to the reference; the score
    test of both on the batch counts the error of that fit in. Small where the answers changed for
    given inputs, or their share did; not where only the inputs did. It is 1 without labelled rows.
    """
    if not (reference.n_labelled and batch.n_labelled):
        return 1.0
    scores, known = _recalibrated(reference)
    rows = batch.answers.sum(axis=-2)
    surplus = _DESIGN @ (batch.counts[POSITIVE] - rows * scores)
    here = (_DESIGN * rows * scores * (1 - scores)) @ _DESIGN.T
    covariance = here + here @ np.linalg.pinv(known) @ here
    return float(chdtrc(2, surplus @ np.linalg.pinv(covariance) @ surplus))


def within_answers_p(reference: Outcomes, batch: Outcomes) -> float:
    """P-value that rows of either answer score as such rows did in the reference.

    Location and scale of the score's ranks within the negatives and within the positives, the
    smaller p-value doubled. Not small where only the share of positives changed.
    """
    p_values = [1.0]
    for x, m in zip(batch.answers, reference.answers, strict=True):
        n_x, n_m = x.sum(), m.sum()
        if n_x and n_m:
            scores = rank_scores((x + m) / (n_x + n_m))
            z = np.sqrt(n_x * n_m / (n_x + n_m)) * (scores @ (x / n_x - m / n_m))
            p_values.append(2 * float(chdtrc(2, (z**2).sum())))
    return min(p_values)


def share_p(reference: Outcomes, batch: Outcomes) -> float:
    """Two-sided p-value that the share of positives is that of the reference (two-sample z)."""
    n, m = float(batch.n_labelled), float(reference.n_labelled)
    if not (n and m):
        return 1.0
    pooled = float(batch.n_positive + reference.n_positive) / (n + m)
    difference = float(batch.n_positive) / n - float(reference.n_positive) / m
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return float(2 * ndtr(-abs(difference) / error)) if error else 1.0


def score_groups(outcomes: Outcomes, most: int) -> list[tuple[float, float, float]]:
    """Labelled rows in groups of similar score, about as many in each.

    Parameters
    ----------
    outcomes : Outcomes
        Of one stream.
    most : int, >= 1
        Groups.

    Returns
    -------
    list of (n_rows, n_positive, score)
        By rising mean score; empty groups are left out. Scores are the middles of their bins.

    Examples
    --------
    >>> known = np.array([True] * 4)
    >>> outcomes = count_outcomes(np.array([0.1, 0.2, 0.6, 0.7]), known, known)
    >>> [(n, positive, round(score, 2)) for n, positive, score in score_groups(outcomes, 2)]
    [(2.0, 2.0, 0.15), (2.0, 2.0, 0.65)]
    """
    rows = outcomes.answers.sum(axis=0)
    total = rows.sum()
    if not total:
        return []
    number = np.minimum(((np.cumsum(rows) - rows / 2) / total * most).astype(int), most - 1)
    sums = [
        np.bincount(number, weights=weights, minlength=most)
        for weights in (rows, outcomes.answers[1], rows * SCORES)
    ]
    return [
        (float(n), float(positive), float(score / n))
        for n, positive, score in zip(*sums, strict=True)
        if n > 0
    ]


def expected_quality(outcomes: Outcomes) -> tuple[float | None, float | None]:
    """Log loss and AUC that the scores of all rows, labelled or not, promise if they are right.

    A row of score s is counted as s of a positive and 1 - s of a negative. Blind to every change of
    the answers, so it is for looking at, and decides nothing.

    Examples
    --------
    A coin's entropy, and no order to be seen:

    >>> outcomes = count_outcomes(np.full(4, 0.5), np.zeros(4, bool), np.zeros(4, bool))
    >>> [round(figure, 3) for figure in expected_quality(outcomes)]
    [0.693, 0.5]
    """
    rows = outcomes.counts.sum(axis=-2)
    if not rows.sum():
        return None, None
    promised = Outcomes(np.stack([0 * rows, rows * (1 - SCORES), rows * SCORES]))
    return float(mean_log_loss(promised)), float(roc_auc(promised)[0])


def pearson3_sf(z: Floats, skew: Floats) -> Floats:
    """Upper tail of Pearson type III with mean 0 and variance 1: a shifted, scaled gamma."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shape = 4 / skew**2
        gamma = np.maximum(shape + 2 * z / skew, 0.0)  # outside the support: the nearer end
        tail = np.where(skew > 0, gammaincc(shape, gamma), gammainc(shape, gamma))
    out: Floats = np.where(np.abs(skew) < 1e-6, ndtr(-z), tail)
    return out


def _recalibrated(outcomes: Outcomes) -> tuple[Floats, Floats]:
    """Scores of the bins that fit the answers best, (1000,), and the information in them, (2, 2).

    A tenth of a row with the answers that the scores promise keeps the fit finite where all answers
    are alike.
    """
    rows = outcomes.answers.sum(axis=-2)
    share = 0.1 * rows / rows.sum()
    positive = outcomes.counts[POSITIVE] + share * SCORES
    rows = rows + share
    fit = np.array([0.0, 1.0])
    for _ in range(_NEWTON_STEPS):
        scores = expit(fit @ _DESIGN)
        information = (_DESIGN * rows * scores * (1 - scores)) @ _DESIGN.T
        step = np.linalg.pinv(information) @ _DESIGN @ (positive - rows * scores)
        fit = fit + step / max(1.0, float(np.abs(step).max()))
    return expit(fit @ _DESIGN), information


def _calibration(pool: Outcomes, batch: Outcomes) -> tuple[Floats, Floats]:
    """The z of observed minus expected positives, and its skewness if nothing has changed."""
    sides = []
    for outcomes in (batch, pool):
        rows = outcomes.answers.sum(axis=-2)
        n = rows.sum(axis=-1)
        surplus = outcomes.n_positive - (rows * SCORES).sum(axis=-1)
        variance = _ratio((rows * _VARIANCES).sum(axis=-1), n**2)
        third = _ratio((rows * _VARIANCES * (1 - 2 * SCORES)).sum(axis=-1), n**3)
        sides.append((_ratio(surplus, n), variance, third))
    (mean, variance, third), (usual, its, its_third) = sides
    z = _ratio(mean - usual, np.sqrt((variance + its) * _dispersion(pool)))
    skew = _ratio(third - its_third, (variance + its) ** 1.5)
    told = np.isfinite(z) & np.isfinite(skew)
    return np.where(told, z, 0.0), np.where(told, skew, 0.0)


def _dispersion(outcomes: Outcomes) -> Floats:
    """Variance of the residuals about their mean, over the one that the scores promise, (...).

    It is 1 where there is no variance to compare.
    """
    rows = outcomes.answers.sum(axis=-2)
    n = rows.sum(axis=-1)
    surplus = outcomes.n_positive - (rows * SCORES).sum(axis=-1)
    squares = (outcomes.answers * np.stack([SCORES, 1 - SCORES]) ** 2).sum(axis=(-2, -1))
    promised = (rows * _VARIANCES).sum(axis=-1)
    found = squares - _ratio(surplus**2, n)
    return np.where(found > 1e-9 * promised, _ratio(found, promised), 1.0)


def _answers(labelled: NDArray[np.bool_], positive: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(labelled, np.where(positive, POSITIVE, NEGATIVE), UNLABELLED)


def _pairs(a: LossSums, b: LossSums) -> list[tuple[Floats, Floats]]:
    return [(a.s1, b.s1), (a.s2, b.s2), (a.s3, b.s3)]


def _ratio(a: Floats, b: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        out: Floats = a / b
    return out
