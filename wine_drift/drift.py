"""Two profiles in, one verdict out: evidence (p-values) and effect size (severity) kept apart.

Evidence says that a difference is real, severity that it is large enough to matter; an alarm needs
both. All tests work on the binned counts, so their cost does not depend on the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtrc, gammaln

from wine_drift.profile import N_BINS, Floats, Profile, Reference, rank_scores

# Shares of the false-alarm budget; each sums over the columns, all to 1.
WEIGHT_CHI2 = 0.3
WEIGHT_RANKS = 0.3
WEIGHT_MULTIVARIATE = 0.3
WEIGHT_MISSING = 0.1

FINE_BINS_FROM = 200  # rows; below, pairs of bins are merged for the chi-square test
WINDOW_DECAY = 0.7  # weight of the window's past at each batch, for severity

STATUSES = ("not_judged", "ok", "warn", "drift", "major")


@dataclass(frozen=True)
class FeatureDrift:
    """One column of the verdict."""

    name: str
    p_value: float  # smallest of the three below after weighting: comparable with 1 / budget
    chi2_p_value: float
    location_scale_p_value: float
    missing_p_value: float
    severity: float  # debiased population stability index, >= 0
    psi: float  # textbook index of this batch alone, >= 0: grows as rows get fewer
    drifted: bool


@dataclass(frozen=True)
class DriftVerdict:
    """What a batch says about drift."""

    status: str  # one of STATUSES
    p_value: float | None  # weighted Bonferroni over all tests; None where not judged
    multivariate_p_value: float | None
    severity: float | None  # largest of the columns
    features: tuple[FeatureDrift, ...]  # columns that the batch has rows of
    reason: str = ""  # why it was not judged


def chi2_p_values(pool: Profile, batch: Profile) -> Floats:
    """Pearson's chi-square test of homogeneity, per column.

    Ten bins (merged pairs) below 200 rows, else twenty. Columns without values in either profile
    give 1.

    Returns
    -------
    ndarray of shape (n_columns,), in [0, 1].

    Examples
    --------
    Ten values of either side in two bins, as the 2 x 2 table [[10, 0], [5, 5]]: X2 = 20/3.

    >>> table = np.zeros((2, 20)); table[0, 0] = 10; table[1, [0, 2]] = 5
    >>> pool, batch = (Profile(row[None], np.zeros(1)) for row in table)
    >>> round(float(chi2_p_values(pool, batch)[0]), 4)
    0.0098
    """
    p_values = np.ones(len(batch.counts))
    for j, (x, reference) in enumerate(zip(batch.counts, pool.counts, strict=True)):
        n, m = x.sum(), reference.sum()
        if not (n and m):
            continue
        if n < FINE_BINS_FROM:
            x, reference = (c.reshape(-1, 2).sum(axis=1) for c in (x, reference))
        shares = (x + reference) / (n + m)
        used = shares > 0
        difference = x[used] / n - reference[used] / m
        statistic = n * m / (n + m) * (difference**2 / shares[used]).sum()
        if used.sum() > 1:
            p_values[j] = chdtrc(used.sum() - 1, statistic)
    return p_values


def location_scale_z(pool: Profile, batch: Profile) -> Floats:
    """Standardised differences of location and of scale, per column.

    Returns
    -------
    ndarray of shape (n_columns, 2); each standard normal without drift, positive where the batch
    lies higher, or further out.
    """
    z = np.zeros((len(batch.counts), 2))
    for j, (x, reference) in enumerate(zip(batch.counts, pool.counts, strict=True)):
        n, m = x.sum(), reference.sum()
        if n and m:
            scores = rank_scores((x + reference) / (n + m))
            z[j] = np.sqrt(n * m / (n + m)) * (scores @ (x / n - reference / m))
    return z


def multivariate_p_value(z: Floats, correlation: Floats, n_reference: int) -> float:
    """Hotelling's T-squared of all rank scores together: the Mahalanobis distance of the batch.

    Parameters
    ----------
    z : ndarray of shape (n_columns, 2)
    correlation : ndarray of shape (2 n_columns, 2 n_columns)
        Of the rank scores in the reference. Of a singular one only the directions that vary count.
    n_reference : int
        Rows of the reference. With no more of them than the rank, the answer is 1.

    Examples
    --------
    One column, uncorrelated scores, z = (2, 0), 1002 rows: F(2, 1000) > 2000/1001.

    >>> round(multivariate_p_value(np.array([[2.0, 0.0]]), np.eye(2), 1002), 4)
    0.1361
    """
    variances, directions = np.linalg.eigh(correlation)
    kept = variances > 1e-9 * max(variances.max(), 1e-9)
    rank = int(kept.sum())
    if rank == 0 or n_reference <= rank:
        return 1.0
    t2 = ((z.ravel() @ directions[:, kept]) ** 2 / variances[kept]).sum()
    scale = (n_reference - rank) / (rank * (n_reference - 1))
    return float(fdtrc(rank, n_reference - rank, t2 * scale))


def missing_p_values(pool: Profile, batch: Profile) -> Floats:
    """One-sided hypergeometric test that the batch misses more values than the pool, per column.

    Examples
    --------
    Two of two rows missing where the pool of two misses none: 1 of the 6 ways to draw two.

    >>> batch = Profile(np.zeros((1, 20)), np.array([2.0]))
    >>> pool = Profile(np.full((1, 20), 0.1), np.array([0.0]))
    >>> round(float(missing_p_values(pool, batch)[0]), 6)
    0.166667
    """
    p_values = np.ones(len(batch.missing))
    for j, missing in enumerate(batch.missing):
        if missing == 0:
            continue
        drawn = missing + batch.counts[j].sum()
        total = drawn + pool.missing[j] + pool.counts[j].sum()
        faulty = missing + pool.missing[j]
        k = np.arange(missing, min(drawn, faulty) + 1)
        log_p = (
            _log_choose(faulty, k)
            + _log_choose(total - faulty, drawn - k)
            - _log_choose(total, drawn)
        )
        p_values[j] = min(1.0, float(np.exp(log_p).sum()))
    return p_values


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
    severity : ndarray of shape (n_columns,), >= 0
    psi : ndarray of shape (n_columns,), >= 0
        Of this batch, as it is, for comparison with other tools.
    """
    debiased = np.zeros(len(batch.counts))
    plain = np.zeros(len(batch.counts))
    for j in range(len(batch.counts)):
        m = reference.counts[j].sum() + reference.missing[j]
        n_window = window.counts[j].sum() + window.missing[j]
        n = batch.counts[j].sum() + batch.missing[j]
        if not (m and n and n_window):
            continue
        steady, k = _psi(_ten_bins(reference, j), _ten_bins(window, j))
        steady -= (k - 1) * (1 / n_window + 1 / m)
        plain[j], k = _psi(_ten_bins(reference, j), _ten_bins(batch, j))
        noise = 1 / n + 1 / m
        quick = plain[j] - (k - 1) * noise - 2 * np.sqrt(2 * (k - 1)) * noise
        debiased[j] = max(steady, quick, 0.0)
    return debiased, plain


def assess_drift(
    reference: Reference,
    pool: Profile,
    window: Profile,
    batch: Profile,
    *,
    budget: int,
    severity_drift: float,
    severity_major: float,
    min_rows: int,
) -> DriftVerdict:
    """Judge one batch.

    Parameters
    ----------
    reference : Reference
        Of the champion; frozen.
    pool : Profile
        Reference plus every batch processed since, without this one: what evidence is against.
    window : Profile
        Decayed counts of recent batches, this one included.
    batch : Profile
        This batch.
    budget : int
        At most one false alarm in so many batches: p below 1 / budget is evidence.
    severity_drift, severity_major : float
        Severity from which evidence is called drift, and major drift.
    min_rows : int
        A batch with fewer rows is not judged.
    """
    n_rows = int((batch.counts.sum(axis=1) + batch.missing).max())
    if n_rows < min_rows:
        reason = f"{n_rows} rows, fewer than min_rows = {min_rows}"
        return DriftVerdict("not_judged", None, None, None, (), reason)

    n_columns = len(reference.columns)
    chi2 = chi2_p_values(pool, batch)
    z = location_scale_z(pool, batch)
    ranks: Floats = chdtrc(2, (z**2).sum(axis=1))
    missing = missing_p_values(pool, batch)
    together = multivariate_p_value(z, reference.correlation, reference.n_rows)
    sizes, psi = severity(reference.profile, window, batch)

    weighted = np.minimum.reduce(
        [
            chi2 / (WEIGHT_CHI2 / n_columns),
            ranks / (WEIGHT_RANKS / n_columns),
            missing / (WEIGHT_MISSING / n_columns),
            np.ones(n_columns),
        ]
    )
    p_value = float(min(weighted.min(), together / WEIGHT_MULTIVARIATE))
    evident = weighted < 1 / budget
    features = tuple(
        FeatureDrift(
            name=name,
            p_value=float(weighted[j]),
            chi2_p_value=float(chi2[j]),
            location_scale_p_value=float(ranks[j]),
            missing_p_value=float(missing[j]),
            severity=float(sizes[j]),
            psi=float(psi[j]),
            drifted=bool(evident[j] and sizes[j] >= severity_drift),
        )
        for j, name in enumerate(reference.columns)
        if batch.counts[j].any() or batch.missing[j]  # no rows, no figure: never a 0
    )
    largest = float(sizes.max())
    if p_value >= 1 / budget:
        status = "ok"
    elif largest >= severity_major:
        status = "major"
    elif largest >= severity_drift:
        status = "drift"
    else:
        status = "warn"
    return DriftVerdict(status, p_value, together, largest, features)


def _log_choose(n: Floats | float, k: Floats | float) -> Floats:
    out: Floats = gammaln(np.add(n, 1)) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1)
    return out


def _ten_bins(profile: Profile, column: int) -> Floats:
    """Counts of the ten merged bins, then the missing values."""
    merged = profile.counts[column].reshape(N_BINS // 2, 2).sum(axis=1)
    return np.append(merged, profile.missing[column])


def _psi(reference: Floats, batch: Floats) -> tuple[float, int]:
    """Stability index of two count vectors, half a count added to each bin (Jeffreys), and bins."""
    used: NDArray[np.bool_] = (reference + batch) > 0
    a, b = ((c[used] + 0.5) / (c.sum() + used.sum() / 2) for c in (reference, batch))
    return float(((b - a) * np.log(b / a)).sum()), int(used.sum())
