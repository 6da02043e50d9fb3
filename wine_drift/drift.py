"""Two profiles in, tests and effect sizes out: evidence (p-values) and severity kept apart.

Evidence says that a difference is real, severity that it is large enough to matter; an alarm needs
both. All tests work on the binned counts, so their cost does not depend on the number of rows.
Arrays may have leading axes, one entry for each stream of batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wine_drift.bins import N_BINS, Floats, Profile, rank_scores, unlisted_bin
from wine_drift.evidence import (
    STRENGTHS,
    Evidence,
    log_e_of_p,
    log_e_of_shift,
    log_weighted_mean,
)
from wine_drift.special import chdtrc, fdtrc, gammaln

# Shares of the false-alarm budget; each sums over the columns, all to 1.
WEIGHT_CHI2 = 0.3
WEIGHT_RANKS = 0.3
WEIGHT_MULTIVARIATE = 0.3
WEIGHT_MISSING = 0.1

FINE_BINS_FROM = 200  # values; below, pairs of bins are merged for the chi-square test
LEAST_EXPECTED = 5.0  # of a category in a batch; else it counts with the one before it
WINDOW_DECAY = 0.7  # weight of the window's past at each batch, for severity
BETS = np.concatenate([STRENGTHS, -STRENGTHS])  # on location and on scale, either way


@dataclass(frozen=True)
class DriftTests:
    """All tests of a batch against a pool."""

    chi2: Floats  # (..., n_columns), p-values, as the next three
    location_scale: Floats  # (..., n_columns)
    missing: Floats  # (..., n_columns)
    multivariate: Floats  # (...)
    z: Floats  # (..., n_columns, 2), of location and of scale
    n_effective: Floats  # (..., n_columns), n m / (n + m)

    @property
    def columns_p(self) -> Floats:
        """The smallest p-value of each column, corrected for all tests made, (..., n_columns)."""
        n = self.chi2.shape[-1]
        weighted = np.minimum(self.chi2 / WEIGHT_CHI2, self.location_scale / WEIGHT_RANKS)
        weighted = np.minimum(weighted, self.missing / WEIGHT_MISSING)
        out: Floats = np.minimum(weighted * n, 1.0)
        return out

    @property
    def p_value(self) -> Floats:
        """Weighted Bonferroni over all tests, (...): valid whatever their dependence."""
        together = self.multivariate / WEIGHT_MULTIVARIATE
        out: Floats = np.minimum(self.columns_p.min(axis=-1), together)
        return out

    def added_to(self, evidence: Evidence) -> Evidence:
        """Evidence of this batch on top of that of the batches before."""
        n = self.chi2.shape[-1]
        log_e = np.stack([log_e_of_p(p) for p in (self.chi2, self.location_scale, self.missing)])
        log_e = np.moveaxis(log_e, 0, -1)  # (..., n_columns, 3)
        weights = np.array([WEIGHT_CHI2, WEIGHT_RANKS, WEIGHT_MISSING])
        columns = log_weighted_mean(log_e, weights / weights.sum())
        together = log_weighted_mean(
            np.concatenate([columns, log_e_of_p(self.multivariate)[..., np.newaxis]], axis=-1),
            np.append(np.full(n, weights.sum() / n), WEIGHT_MULTIVARIATE),
        )
        return evidence.grown(together, columns, log_e_of_shift(self.z, self.n_effective, BETS))


def run_tests(
    pool: Profile,
    batch: Profile,
    correlation: Floats,
    n_reference: Floats | int,
    n_categories: Sequence[int] = (),
) -> DriftTests:
    """Compare a batch with the pool.

    Categories are ranked as they are listed, the most frequent one first: location tells whether
    rarer ones have become more frequent. The multivariate test leaves them out, for `correlation`
    does. In the test of missing values, what is none of the list is missing, too.

    Parameters
    ----------
    pool : Profile
        Reference and every batch since, without this one.
    batch : Profile
    correlation : ndarray of shape (..., 2 n_columns, 2 n_columns)
        Of the rank scores in the reference.
    n_reference : int or ndarray of shape (...)
        Rows of the reference.
    n_categories : sequence of int
        Of the first columns: how many categories are listed, 0 where it holds numbers.
    """
    n, m = batch.counts.sum(axis=-1), pool.counts.sum(axis=-1)
    z = location_scale_z(pool, batch)
    tests = DriftTests(
        chi2=chi2_p_values(pool, batch),
        location_scale=chdtrc(2, (z**2).sum(axis=-1)),
        missing=missing_p_values(pool, batch),
        multivariate=multivariate_p_value(z, correlation, n_reference),
        z=z,
        n_effective=n * m / np.maximum(n + m, 1),
    )
    for j in np.flatnonzero(n_categories).tolist():
        sides = [
            Profile(side.counts[..., [j], :], side.missing[..., [j]]) for side in (pool, batch)
        ]
        usual, here = frequent_categories(*sides)
        tests.chi2[..., [j]] = _chi2(usual.counts, here.counts)
        tests.missing[..., [j]] = missing_p_values(
            *(_unlisted_as_missing(side, n_categories[j]) for side in sides)
        )
        z[..., [j], :] = location_scale_z(usual, here)
        tests.location_scale[..., j] = chdtrc(2, (z[..., j, :] ** 2).sum(axis=-1))
    return tests


def chi2_p_values(pool: Profile, batch: Profile) -> Floats:
    """Pearson's chi-square test of homogeneity, per column.

    Ten bins (merged pairs) below 200 values, else twenty. Columns without values in either profile
    give 1.

    Returns
    -------
    ndarray of shape (..., n_columns), in [0, 1].

    Examples
    --------
    Ten values of either side in two bins, as the 2 x 2 table [[10, 0], [5, 5]]: X2 = 20/3.

    >>> table = np.zeros((2, 20)); table[0, 0] = 10; table[1, [0, 2]] = 5
    >>> pool, batch = (Profile(row[None], np.zeros(1)) for row in table)
    >>> round(float(chi2_p_values(pool, batch)[0]), 4)
    0.0098
    """
    n = batch.counts.sum(axis=-1)
    few = n < FINE_BINS_FROM
    p_values = np.ones(n.shape)
    if few.any():
        p_values = _chi2(*(_merged(profile.counts) for profile in (pool, batch)))
    if not few.all():
        p_values = np.where(few, p_values, _chi2(pool.counts, batch.counts))
    return p_values


def frequent_categories(pool: Profile, batch: Profile) -> tuple[Profile, Profile]:
    """Categories of which fewer than five are to be expected in a batch, with the one before each.

    Then the tests of counts hold, however rare a category is; and they look at each that is left
    by itself, whatever the number of rows.

    Examples
    --------
    40 red and 60 white of a pool are 60 and 39 in the batch; one that is green counts as white.

    >>> table = np.zeros((2, 1, 20)); table[0, 0, [0, 2]] = 40, 60
    >>> table[1, 0, [0, 2, 4]] = 60, 39, 1
    >>> pool, batch = frequent_categories(*(Profile(row, np.zeros(1)) for row in table))
    >>> batch.counts[0, :5].tolist()
    [60.0, 0.0, 40.0, 0.0, 0.0]
    """
    usual, here = (np.array(each) for each in np.broadcast_arrays(pool.counts, batch.counts))
    share = here.sum(axis=-1) / np.maximum((usual + here).sum(axis=-1), 1)
    for k in range(N_BINS - 1, 0, -1):
        few = (usual[..., k] + here[..., k]) * share < LEAST_EXPECTED
        for each in (usual, here):
            each[..., k - 1] += np.where(few, each[..., k], 0.0)
            each[..., k] = np.where(few, 0.0, each[..., k])
    return Profile(usual, pool.missing), Profile(here, batch.missing)


def _unlisted_as_missing(profile: Profile, n_categories: int) -> Profile:
    """The same with what is none of the categories among the missing values."""
    place, counts = unlisted_bin(n_categories), profile.counts.copy()
    counts[..., place] = 0.0
    return Profile(counts, profile.missing + profile.counts[..., place])


def location_scale_z(pool: Profile, batch: Profile) -> Floats:
    """Standardised differences of location and of scale, per column.

    Returns
    -------
    ndarray of shape (..., n_columns, 2); each standard normal without drift, positive where the
    batch lies higher, or further out.
    """
    n, m = (p.counts.sum(axis=-1, keepdims=True) for p in (batch, pool))
    both = np.maximum(n + m, 1)
    scores = rank_scores((batch.counts + pool.counts) / both)
    difference = batch.counts / np.maximum(n, 1) - pool.counts / np.maximum(m, 1)
    z = (scores @ difference[..., np.newaxis])[..., 0]
    out: Floats = np.sqrt(n * m / both) * z
    return out


def multivariate_p_value(z: Floats, correlation: Floats, n_reference: Floats | int) -> Floats:
    """Hotelling's T-squared of all rank scores together: the Mahalanobis distance of the batch.

    Parameters
    ----------
    z : ndarray of shape (..., n_columns, 2)
    correlation : ndarray of shape (..., 2 n_columns, 2 n_columns)
        Of the rank scores in the reference. Of a singular one only the directions that vary count.
    n_reference : int or ndarray of shape (...)
        Rows of the reference. With no more of them than the rank, the answer is 1.

    Examples
    --------
    One column, uncorrelated scores, z = (2, 0), 1002 rows: F(2, 1000) > 2000/1001.

    >>> round(float(multivariate_p_value(np.array([[2.0, 0.0]]), np.eye(2), 1002)), 4)
    0.1361
    """
    variances, directions = np.linalg.eigh(correlation)
    largest = np.maximum(variances.max(axis=-1, keepdims=True), 1e-9)
    kept = variances > 1e-9 * largest
    rank = kept.sum(axis=-1)
    flat = z.reshape(*z.shape[:-2], 1, -1)
    projected = (flat @ directions)[..., 0, :]
    t2 = np.where(kept, projected**2 / np.where(kept, variances, 1.0), 0.0).sum(axis=-1)
    rest = n_reference - rank
    usable = (rank > 0) & (rest > 0)
    scale = rest / np.maximum(rank * (np.maximum(n_reference, 2) - 1), 1)
    p_value = fdtrc(np.maximum(rank, 1), np.maximum(rest, 1), t2 * np.maximum(scale, 0))
    return np.where(usable, p_value, 1.0)


def missing_p_values(pool: Profile, batch: Profile) -> Floats:
    """One-sided hypergeometric test that the batch misses more values than the pool, per column.

    Returns
    -------
    ndarray of shape (..., n_columns), in [0, 1].

    Examples
    --------
    Two of two rows missing where the pool of two misses none: 1 of the 6 ways to draw two.

    >>> batch = Profile(np.zeros((1, 20)), np.array([2.0]))
    >>> pool = Profile(np.full((1, 20), 0.1), np.array([0.0]))
    >>> round(float(missing_p_values(pool, batch)[0]), 6)
    0.166667
    """
    n, m = (p.missing + p.counts.sum(axis=-1) for p in (batch, pool))
    k, n, other, m = np.broadcast_arrays(batch.missing, n, pool.missing, m)
    p_values = np.ones(k.shape)
    for at in zip(*np.nonzero(k), strict=True):
        p_values[at] = np.exp(log_more_p(*(float(part[at]) for part in (k, n, other, m))))
    return p_values


def log_more_p(k: float, n: float, other_k: float, other_n: float) -> float:
    """Logarithm of the one-sided hypergeometric p-value that k of n is more than the others' share.

    >>> round(float(np.exp(log_more_p(2, 2, 0, 2))), 6)
    0.166667
    """
    total, marked = n + other_n, k + other_k
    x = np.arange(k, min(n, marked) + 1)
    log_p = _log_choose(marked, x) + _log_choose(total - marked, n - x) - _log_choose(total, n)
    top = log_p.max()
    return min(0.0, float(top + np.log(np.exp(log_p - top).sum())))


def unlikeness(counts: Floats) -> tuple[float, float]:
    """Whether groups of rows are of one distribution, and how unlike them another one would be.

    Pearson's chi-square test of homogeneity. Where the shares of a bin vary between groups by more
    than chance, by phi p (1 - p), the statistic is expected to be 1 + n phi times as large, n being
    the rows of a group; and the stability index of a further group against all g of them together
    (k - 1) (1 + 1/g) phi.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_bins)
        Rows of each group by bin; groups and bins without any are left out.

    Returns
    -------
    p_value : float
    severity : float, >= 0
        That is expected of a further group, on ten bins, beyond what its number of rows does.

    Examples
    --------
    >>> unlikeness(np.array([[10, 20, 0], [20, 40, 0]])), unlikeness(np.array([[5, 5]]))
    ((1.0, 0.0), (1.0, 0.0))
    >>> p_value, expected = unlikeness(np.array([[10, 20], [20, 10]]))
    >>> round(p_value, 4)  # 4 * 5**2 / 15 = 6.67 on one degree of freedom
    0.0098
    >>> round(expected, 3)  # (6.67 - 1) / 30 * (2 - 1) * (1 + 1 / 2)
    0.283
    """
    groups, bins = counts.sum(axis=1), counts.sum(axis=0)
    observed = counts[np.ix_(groups > 0, bins > 0)]
    groups, bins, n = groups[groups > 0], bins[bins > 0], counts.sum()
    freedom = (len(groups) - 1) * (len(bins) - 1)
    if not freedom:
        return 1.0, 0.0
    expected = np.outer(groups, bins) / n
    statistic = float(((observed - expected) ** 2 / expected).sum())
    usual = (n - (groups**2).sum() / n) / (len(groups) - 1)  # rows of a group
    phi = max(0.0, (statistic / freedom - 1) / usual)
    k = min(len(bins), N_BINS // 2)
    return float(chdtrc(freedom, statistic)), float((k - 1) * (1 + 1 / len(groups)) * phi)


def severity(reference: Profile, window: Profile, batch: Profile) -> tuple[Floats, Floats]:
    """Effect size per column, free of the inflation that few rows give the stability index.

    The population stability index of ten bins and a missing bin has expectation
    (k - 1)(1/n + 1/m) without drift; that is taken off. The larger of two readings counts: the
    decayed window of recent batches (steady), and this batch alone less two standard errors
    (quick).

    Parameters
    ----------
    reference : Profile
        The frozen reference, not the growing pool.
    window : Profile
        Decayed counts of recent batches, this one included.
    batch : Profile
        This batch alone.

    Returns
    -------
    severity : ndarray of shape (..., n_columns), >= 0
    psi : ndarray of shape (..., n_columns), >= 0
        Of this batch, as it is, for comparison with other tools.
    """
    usual, recent, here = (_ten_bins(profile) for profile in (reference, window, batch))
    m, n_window, n = (np.maximum(x.sum(axis=-1), 1e-300) for x in (usual, recent, here))
    steady, k = _psi(usual, recent)
    steady = steady - (k - 1) * (1 / n_window + 1 / m)
    plain, k = _psi(usual, here)
    noise = 1 / n + 1 / m
    quick = plain - (k - 1) * noise - 2 * np.sqrt(2 * np.maximum(k - 1, 0)) * noise
    there = (usual.sum(axis=-1) > 0) & (here.sum(axis=-1) > 0)
    sizes = np.maximum(np.maximum(steady, quick), 0.0)
    return np.where(there, sizes, 0.0), np.where(there, plain, 0.0)


def _chi2(pool: Floats, batch: Floats) -> Floats:
    n, m = batch.sum(axis=-1, keepdims=True), pool.sum(axis=-1, keepdims=True)
    both = np.maximum(n + m, 1)
    shares = (batch + pool) / both
    used = shares > 0
    difference = batch / np.maximum(n, 1) - pool / np.maximum(m, 1)
    terms = np.where(used, difference**2 / np.where(used, shares, 1.0), 0.0)
    statistic = (n * m / both)[..., 0] * terms.sum(axis=-1)
    freedom = used.sum(axis=-1) - 1
    told = (freedom > 0) & (n[..., 0] > 0) & (m[..., 0] > 0)
    return np.where(told, chdtrc(np.maximum(freedom, 1), statistic), 1.0)


def _merged(counts: Floats) -> Floats:
    """Ten bins of twenty."""
    out: Floats = counts.reshape(*counts.shape[:-1], N_BINS // 2, 2).sum(axis=-1)
    return out


def _ten_bins(profile: Profile) -> Floats:
    """Counts of the ten merged bins, then the missing values, (..., n_columns, 11)."""
    return np.concatenate([_merged(profile.counts), profile.missing[..., np.newaxis]], axis=-1)


def _psi(reference: Floats, batch: Floats) -> tuple[Floats, Floats]:
    """Stability index of counts, half a count added to each bin (Jeffreys), and bins in use."""
    used = (reference + batch) > 0
    k = used.sum(axis=-1)
    a, b = (
        np.where(used, c + 0.5, 1.0) / (c.sum(axis=-1) + np.maximum(k, 1) / 2)[..., np.newaxis]
        for c in (reference, batch)
    )
    return np.where(used, (b - a) * np.log(b / a), 0.0).sum(axis=-1), k


def _log_choose(n: Floats | float, k: Floats | float) -> Floats:
    out: Floats = gammaln(np.add(n, 1)) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1)
    return out
