"""Mergeable counts per column.

A batch is summarised by how many of its values fall in each bin of each column. The bins come from
the reference, once; counts add, so chunks, shards and batches are summed in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wine_drift.counted import Counted

N_BINS = 20
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """Counts of one set of rows; `a + b` is the profile of both together."""

    counts: Floats  # (..., n_columns, N_BINS), finite values per bin; fractions once decayed
    missing: Floats  # (..., n_columns), values that were not a finite number

    def __add__(self, other: Profile) -> Profile:
        return Profile(self.counts + other.counts, self.missing + other.missing)

    @property
    def n_rows(self) -> Floats:
        """Rows, (...): of the column that has most, for a score exists for good rows only."""
        out: Floats = (self.counts.sum(axis=-1) + self.missing).max(axis=-1)
        return out

    def scaled(self, factor: ArrayLike) -> Profile:
        """Multiply every count by a number, or those of each stream by its own, (...)."""
        factor = np.asarray(factor, dtype=float)[..., np.newaxis]
        return Profile(self.counts * factor[..., np.newaxis], self.missing * factor)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {"counts": self.counts.tolist(), "missing": self.missing.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        """Inverse of `to_dict`."""
        return cls(np.array(data["counts"], dtype=float), np.array(data["missing"], dtype=float))


def bin_edges(values: Floats) -> Floats:
    """Inner edges that cut the finite values of a column in up to 20 equally full bins.

    Bin j holds the values in (edge j-1, edge j]; the outer bins are open. Edges are observed values
    (inverse of the empirical distribution), so that ties never straddle one.

    Parameters
    ----------
    values : ndarray of shape (n_rows,)

    Returns
    -------
    ndarray of shape (n_edges,), 0 <= n_edges <= 19, strictly increasing and below the maximum.

    Examples
    --------
    >>> bin_edges(np.array([1.0, 1.0, 1.0, 2.0])).tolist()
    [1.0]
    >>> bin_edges(np.arange(1.0, 41.0))[:3].tolist()
    [2.0, 4.0, 6.0]
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.empty(0)
    if finite.min() == finite.max():  # whatever else comes falls in a bin of its own
        return np.array([np.nextafter(finite[0], -np.inf), finite[0]])
    # The products k/20 are rounded, and 0.15 * 40 must be 6 and not 7: ranks are exact integers.
    ranks = -(-np.arange(1, N_BINS) * finite.size // N_BINS) - 1
    edges: Floats = np.unique(np.sort(finite)[ranks])
    inner: Floats = edges[edges < finite.max()]
    return inner


def category_edges(n_categories: int) -> Floats:
    """Inner edges between the numbers of categories, and that of any other behind them.

    Of more than 19 categories, the 18 first have bins of their own and the rest of them share one.

    >>> category_edges(3).tolist()
    [0.5, 1.5, 2.5]
    >>> category_edges(40)[-3:].tolist()
    [16.5, 17.5, 39.5]
    """
    first = n_categories if n_categories < N_BINS else N_BINS - 2
    edges: Floats = np.append(np.arange(first), n_categories - 1) + 0.5
    return np.unique(edges)


def unlisted_bin(n_categories: int) -> int:
    """Bin of whatever is none of the categories.

    >>> unlisted_bin(3), unlisted_bin(12), unlisted_bin(40)
    (6, 12, 19)
    """
    return int(bin_numbers(np.array([n_categories]), category_edges(n_categories))[0])


def bin_numbers(values: Floats, edges: Floats) -> NDArray[np.int64]:
    """Bin of each value, shape (n_rows,), from 0 to 19; -1 for a value that is missing.

    Ten bins or fewer are the even ones, so that the pairs (0, 1), (2, 3), ... can always be merged
    without two of them becoming one.

    >>> bin_numbers(np.array([0.5, 1.0, 1.5, np.nan]), np.array([1.0])).tolist()
    [0, 0, 2, -1]
    """
    numbers = np.searchsorted(edges, values, side="left")
    return np.where(np.isfinite(values), _spacing(edges) * numbers, -1)


def in_order(counts: Sequence[float], edges: Floats) -> list[float]:
    """Counts of the bins that these edges make, one more than there are edges.

    >>> in_order([3, 0, 4, *[0] * 17], np.array([1.0]))
    [3, 4]
    """
    return list(counts[:: _spacing(edges)][: len(edges) + 1])


def _spacing(edges: Floats) -> int:
    """Numbers from one bin to the next."""
    return 2 if len(edges) < N_BINS // 2 else 1


def count(matrix: Floats, edges: Sequence[Floats]) -> Profile:
    """Count the rows of a matrix in the bins of the reference.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns)
        NaN and infinity count as missing.
    edges : sequence of n_columns arrays
        From `bin_edges` of the reference.

    Examples
    --------
    >>> profile = count(np.array([[1.0], [3.0], [np.nan]]), [np.array([2.0])])
    >>> profile.counts[0, :3].tolist(), profile.missing.tolist()
    ([1.0, 0.0, 1.0], [1.0])
    """
    return count_columns([Counted.of(column) for column in matrix.T], edges)


def count_columns(columns: Sequence[Counted], edges: Sequence[Floats]) -> Profile:
    """The same of columns that are counted already, their values as they are."""
    numbers = [bin_numbers(each.values, inner) for each, inner in zip(columns, edges, strict=True)]
    counts = [
        np.bincount(bins, weights=each.counts, minlength=N_BINS)
        for bins, each in zip(numbers, columns, strict=True)
    ]
    missing = np.array([each.missing for each in columns], dtype=float)
    return Profile(np.array(counts, dtype=float).reshape(-1, N_BINS), missing)


def rank_scores(shares: Floats) -> Floats:
    """Two scores per bin: where it lies (location) and how far out it lies (scale).

    The mid-rank u = 2 (cumulative share - share/2) - 1 and (3 u^2 - 1)/2, made orthonormal under
    the shares by Gram-Schmidt: the first two components of Neyman's smooth test on ranks.

    Parameters
    ----------
    shares : ndarray of shape (..., n_bins), summing to 1

    Returns
    -------
    ndarray of shape (..., 2, n_bins); mean 0, variance 1, uncorrelated under `shares`. A component
    that the number of non-empty bins leaves no room for is 0 everywhere.

    Examples
    --------
    >>> rank_scores(np.array([0.5, 0.5])).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    u = 2 * (np.cumsum(shares, axis=-1) - shares / 2) - 1
    basis = [np.ones_like(shares)]
    for raw in (u, (3 * u * u - 1) / 2):
        residual = raw
        for known in basis:
            residual = residual - (shares * residual * known).sum(axis=-1, keepdims=True) * known
        norm = np.sqrt((shares * residual * residual).sum(axis=-1, keepdims=True))
        room = norm > 1e-7  # below that it is rounding, not a direction
        basis.append(np.where(room, residual / np.where(room, norm, 1.0), 0.0))
    return np.stack(basis[1:], axis=-2)


def packed(counts: Floats) -> dict[str, Any]:
    """Counts that are mostly zero, for JSON.

    >>> packed(np.array([[0.0, 3.0]]))
    {'shape': [1, 2], 'at': [1], 'counts': [3.0]}
    """
    at = np.flatnonzero(counts)
    return {"shape": list(counts.shape), "at": at.tolist(), "counts": counts.ravel()[at].tolist()}


def unpacked(data: Mapping[str, Any]) -> Floats:
    """Inverse of `packed`."""
    counts = np.zeros(int(np.prod(data["shape"])))
    counts[np.array(data["at"], dtype=int)] = data["counts"]
    return counts.reshape(data["shape"])
