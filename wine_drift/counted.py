"""Values with how often each is there: what quantiles and published quality are told from.

Measurements were rounded, so a column has few different values, and counting them loses nothing. A
column of very many is kept in narrow bins, and takes no more room however many rows there are.
Counts of parts add up to those of the whole, in any order and to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_VALUES = 1 << 16  # different ones that are kept as they are
_BITS = {False: 42, True: 38}  # of the 52 of a fraction, that a bin leaves out; True: of shares


@dataclass(frozen=True)
class Counted:
    """Different values, and how often each is there; `a + b` is of both together."""

    values: NDArray[np.float64]  # (n_values,), ascending, finite
    counts: NDArray[np.int64]  # (n_values,), > 0
    missing: int = 0  # values that were no finite number
    is_share: bool = False  # values are in [0, 1], and bins are as narrow near 1 as near 0
    binned: bool = False  # values are the middles of bins

    @classmethod
    def of(cls, column: NDArray[np.float64], *, is_share: bool = False) -> Counted:
        """Count a column, (n_rows,), every value as it is.

        >>> Counted.of(np.array([0.3, 0.1, np.nan, 0.3]))
        Counted(values=array([0.1, 0.3]), counts=array([1, 2]), missing=1, is_share=False, \
binned=False)
        """
        finite = np.isfinite(column)
        missing = len(column) - int(np.count_nonzero(finite))
        kept = (column[finite] if missing else column) + 0.0  # -0 is 0
        values, counts = np.unique(kept, return_counts=True)
        return cls(values, counts, missing, is_share)

    @classmethod
    def none(cls, *, is_share: bool = False) -> Counted:
        """Of no rows."""
        return cls(np.empty(0), np.empty(0, dtype=np.int64), 0, is_share)

    @property
    def n(self) -> int:
        """Values, each as often as it is there."""
        return int(self.counts.sum())

    def __add__(self, other: Counted) -> Counted:
        one, two = (
            each.in_bins() if self.binned or other.binned else each for each in (self, other)
        )
        values, at = np.unique(np.concatenate([one.values, two.values]), return_inverse=True)
        counts = np.bincount(at, np.concatenate([one.counts, two.counts]), len(values))
        both = replace(one, values=values, counts=counts.astype(np.int64))
        return replace(both, missing=one.missing + two.missing).bounded()

    def bounded(self) -> Counted:
        """The same, in bins if there are more than `MOST_VALUES` values."""
        return self if len(self.values) <= MOST_VALUES else self.in_bins()

    def in_bins(self) -> Counted:
        """The same in bins of a relative width of 1/1024; of shares, 1/16384 of it or the rest."""
        if self.binned:
            return self
        if self.is_share:
            mirrored = np.where(self.values > 0.5, -(1 - self.values), self.values)  # -0.0 is 1
            middles = _middles(mirrored, _BITS[True])
            middles = np.where(np.signbit(middles), 1 + middles, middles)
        else:
            middles = _middles(self.values, _BITS[False])
        values, at = np.unique(middles, return_inverse=True)
        counts = np.bincount(at, self.counts, len(values)).astype(np.int64)
        return replace(self, values=values, counts=counts, binned=True)

    def quantiles(self, levels: ArrayLike) -> NDArray[np.float64]:
        """Quantiles, (n_levels,), interpolated as `numpy.quantile` does; NaN without values.

        >>> Counted.of(np.array([1.0, 2.0, 2.0, 4.0])).quantiles([0.5, 0.9]).round(9).tolist()
        [2.0, 3.4]
        """
        levels = np.asarray(levels, dtype=float)
        if not len(self.values):
            return np.full(len(levels), np.nan)
        last = self.n - 1
        ranks = levels * last
        below = np.floor(ranks).astype(np.int64)
        ends = np.cumsum(self.counts)
        low, high = (
            self.values[np.searchsorted(ends, rank, side="right")]
            for rank in (below, np.minimum(below + 1, last))
        )
        part, step = ranks - below, high - low
        out: NDArray[np.float64] = np.where(part < 0.5, low + step * part, high - step * (1 - part))
        return out

    def mean(self) -> float | None:
        """Their mean; None without any."""
        return float(self.values @ self.counts) / self.n if len(self.values) else None


def _middles(values: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Middle of the bin of each value: of all that differ in the lowest bits only; 0 is alone."""
    keys = np.ascontiguousarray(values).view(np.int64) >> bits << bits
    middles: NDArray[np.float64] = (keys + (1 << (bits - 1))).view(np.float64)
    return np.where(values == 0, values, middles)
