"""Evidence that adds up over batches: a Shiryaev-Roberts detector made of e-values.

An e-value is non-negative and has expectation at most 1 while nothing has changed. The sum
R_t = (1 + R_{t-1}) e_t then grows by at most 1 a batch on average, so that R >= A takes A healthy
batches on average, at least, whatever the dependence between tests (Shin, Ramdas & Rinaldo, 2024,
"E-detectors", New England J. Statistics in Data Science 2). No threshold has to be simulated.

Everything is kept as logarithms; arrays may have leading axes, one entry for each stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats

STRENGTHS = np.array([0.1, 0.2, 0.4])  # of bets: shifts in standard deviations of one row
SMALLEST_P = 1e-300  # p-values that underflow count as this
LN10 = float(np.log(10))


@dataclass(frozen=True)
class Evidence:
    """State of a detector: log(1 + R) of each of its parts; 0 everywhere before the first batch."""

    together: Floats  # (...), all tests at once
    columns: Floats  # (..., n_columns), the tests of one column
    bets: Floats  # (..., n_columns, n_directions, n_strengths), bets on a direction

    @classmethod
    def none(cls, n_columns: int, n_directions: int, n_bets: int) -> Evidence:
        """Where every detector starts."""
        return cls(np.zeros(()), np.zeros(n_columns), np.zeros((n_columns, n_directions, n_bets)))

    def grown(self, together: Floats, columns: Floats, bets: Floats) -> Evidence:
        """After one more batch, whose log e-values these are, in the shapes of the parts."""
        return Evidence(
            np.logaddexp(0, self.together + together),
            np.logaddexp(0, self.columns + columns),
            np.logaddexp(0, self.bets + bets),
        )

    def kept(self, where: NDArray[np.bool_]) -> Evidence:
        """The same where `where` of shape (...) is true, none where it is not."""
        return Evidence(
            self.together * where,
            self.columns * where[..., np.newaxis],
            self.bets * where[..., np.newaxis, np.newaxis, np.newaxis],
        )

    def log10(self) -> Floats:
        """Logarithm to base ten of R, (...): half all tests at once, half the average bet."""
        bets = _log_mean(_log_r(self.bets), 3)
        out: Floats = _half_each(_log_r(self.together), bets) / LN10
        return out

    def log10_columns(self) -> Floats:
        """Of each column's own R over the number of columns, (..., n_columns).

        Divided so that it compares with the same threshold: any of the columns gets there by chance
        no sooner than one detector of its own would.
        """
        bets = _log_mean(_log_r(self.bets), 2)
        share = np.log(self.columns.shape[-1])
        out: Floats = (_half_each(_log_r(self.columns), bets) - share) / LN10
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {name: np.asarray(part).tolist() for name, part in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evidence:
        """Inverse of `to_dict`."""
        return cls(*(np.array(data[name], dtype=float) for name in ("together", "columns", "bets")))


def log_e_of_p(p_values: Floats) -> Floats:
    """Logarithm of the e-value that a p-value is worth: (1 - p + p ln p) / (p ln^2 p).

    The average of all bets k p^(k-1) with k in (0, 1) (Vovk & Wang, 2021, "E-values", Annals of
    Statistics 49, 1736-1754). It is 1/2 for p = 1.

    Parameters
    ----------
    p_values : ndarray of any shape, in [0, 1]

    Examples
    --------
    For p = 0.01: (0.99 + 0.01 * -4.60517) / (0.01 * 21.2076) = 4.451.

    >>> np.exp(log_e_of_p(np.array([0.01, 1.0]))).round(3).tolist()
    [4.451, 0.5]
    """
    t = -np.log(np.maximum(p_values, SMALLEST_P))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_e = t - 2 * np.log(t) + np.log1p(-(1 + t) * np.exp(-t))
    # where p is nearly 1 the formula cancels, and its series is exact to 1e-10
    near: Floats = np.log(0.5 + t / 6 + t * t / 24)
    return np.where(t < 1e-3, near, log_e)


def log_e_of_shift(z: Floats, n_effective: Floats, strengths: Floats) -> Floats:
    """Logarithm of the e-values that a standard normal z gives to bets on its mean.

    The likelihood ratio exp(mu z - mu^2/2) of a shift mu = strength * sqrt(n_effective).

    Parameters
    ----------
    z : ndarray of shape (..., n_directions)
    n_effective : ndarray of shape (...)
        n m / (n + m) for batch and pool.
    strengths : ndarray of shape (n_strengths,)
        In standard deviations of a single row; negative ones bet on a fall.

    Returns
    -------
    ndarray of shape (..., n_directions, n_strengths)

    Examples
    --------
    z = 2 against a bet on 0.1 * sqrt(400) = 2: the exponent is 2 * 2 - 4/2.

    >>> log_e_of_shift(np.array([2.0]), np.array(400.0), np.array([0.1])).round(6).tolist()
    [[2.0]]
    """
    mu = strengths * np.sqrt(n_effective)[..., np.newaxis, np.newaxis]
    log_e: Floats = mu * z[..., np.newaxis] - mu**2 / 2
    return log_e


def log_weighted_mean(log_e: Floats, weights: Floats) -> Floats:
    """Logarithm of the weighted mean over the last axis; the mean of e-values is one.

    >>> round(float(np.exp(log_weighted_mean(np.log([1.0, 3.0]), np.array([0.5, 0.5])))), 6)
    2.0
    """
    top = log_e.max(axis=-1, keepdims=True)
    total = (weights * np.exp(log_e - top)).sum(axis=-1)
    out: Floats = np.log(total) + top[..., 0]
    return out


def _log_r(log_1_plus_r: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        out: Floats = log_1_plus_r + np.log(-np.expm1(-log_1_plus_r))
    return out


def _log_mean(logs: Floats, n_axes: int) -> Floats:
    """Logarithm of the mean over the last axes."""
    flat = logs.reshape(*logs.shape[: logs.ndim - n_axes], -1)
    if flat.shape[-1] == 0:
        return np.full(flat.shape[:-1], -np.inf)
    top = np.maximum(flat.max(axis=-1, keepdims=True), -1e300)
    with np.errstate(divide="ignore"):
        out: Floats = np.log(np.exp(flat - top).mean(axis=-1)) + top[..., 0]
    return out


def _half_each(a: Floats, b: Floats) -> Floats:
    out: Floats = np.logaddexp(a, b) - np.log(2)
    return out
