"""Faults of the source, told from drift: unit, stuck sensor, rounding, range, missing values.

What a fault looks like is counted value by value, as drift is, so the counts of chunks add up. A
fault needs a large effect and, like every alarm, more than chance can give within the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats, Profile, packed, unpacked
from wine_drift.counted import Counted
from wine_drift.drift import log_more_p
from wine_drift.schema import SOURCE_FAULTS

MISSING_RISE = 0.05  # of the cells, beyond the usual share
OUTSIDE_SHARE = 0.2  # of the values, beyond the plausible range
STUCK_SHARE = 0.5  # of the values, all one and the same ...
COMMON_SHARE = 0.25  # ... where no value is so common in the reference
FEW_VALUES = 10  # different ones in the reference: a scale, of which one may become common ...
STUCK_COARSE = 0.95  # ... short of nearly all
ROUNDING_GAP = 0.3  # in the share of values with more than so many decimals ...
ROUNDING_REST = 0.02  # ... of which all but so many vanish ...
ROUNDING_STEP = 0.1  # ... where a step is so much of the usual spread: finer ones do no harm
SAME_SHAPE = 0.6  # overlap of two histograms of magnitudes that a unit change leaves, shifted ...
OTHER_PLACE = 0.1  # ... and does not have where they stand
NEAREST_UNIT = 6  # steps: a factor below 5.6 is drift

MAX_DECIMALS = 8
BUCKETS = 256  # of values by a hash: a value that repeats fills its bucket
STEPS = 8  # of magnitude in a decade
DECADES = 12  # up and down from 1
SIZES = 2 * DECADES * STEPS + 1  # of values of one sign


@dataclass(frozen=True)
class Traits:
    """Counts of what values look like, per feature; `a + b` is of both sets of rows together."""

    decimals: Floats  # (n_features, 10), values with 0 to 8 decimals, then with more
    magnitudes: Floats  # (n_features, 386), by sign and eighths of decades of the absolute value
    buckets: Floats  # (n_features, 256), by a hash of the value
    outside: Floats  # (n_features,), values beyond the plausible range
    outside_magnitudes: Floats  # (n_features, 386), of those

    def __add__(self, other: Traits) -> Traits:
        mine, theirs = vars(self).values(), vars(other).values()
        return Traits(*(a + b for a, b in zip(mine, theirs, strict=True)))

    @classmethod
    def none(cls, n_features: int) -> Traits:
        """Of no rows."""
        magnitudes = (n_features, 2 * SIZES)
        shapes = ((n_features, MAX_DECIMALS + 2), magnitudes, (n_features, BUCKETS))
        return cls(*map(np.zeros, (*shapes, (n_features,), magnitudes)))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: packed(part) for name, part in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Traits:
        """Inverse of `to_dict`."""
        return cls(*(unpacked(data[name]) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Fault:
    """One way in which one feature of a batch is not what it was."""

    feature: str
    kind: str  # one of SOURCE_FAULTS
    share: float  # of the batch's values, or cells, that show it
    usual: float  # the same share in the reference
    detail: float | None = None  # unit_change: the factor; rounding: decimals that are left


def count_traits(
    features: Floats, limits: Floats, n_categories: Sequence[int] | None = None
) -> Traits:
    """Count the values of a matrix.

    Parameters
    ----------
    features : ndarray of shape (n_rows, n_features)
        NaN counts nowhere.
    limits : ndarray of shape (n_features, 2)
        Plausible range, both ends included.
    n_categories : sequence of n_features int, optional
        Where it is not 0, values are numbers of categories: these look like nothing, so that no
        fault but missing values can be found in them.

    Examples
    --------
    >>> traits = count_traits(np.array([[0.5], [0.25], [30.0]]), np.array([[0.0, 1.0]]))
    >>> traits.decimals[0, :3].tolist(), traits.outside.tolist()
    ([1.0, 1.0, 1.0], [1.0])
    """
    return column_traits([Counted.of(column) for column in features.T], limits, n_categories)


def column_traits(
    columns: Sequence[Counted], limits: Floats, n_categories: Sequence[int] | None = None
) -> Traits:
    """The same of columns that are counted already, their values as they are."""
    parts = Traits.none(len(columns))
    for j, column in enumerate(columns):
        if n_categories is not None and n_categories[j]:
            continue
        values, times = column.values, column.counts
        magnitude = _magnitude(values)
        beyond = (values < limits[j, 0]) | (values > limits[j, 1])
        parts.decimals[j] = np.bincount(_decimals(values), times, MAX_DECIMALS + 2)
        parts.magnitudes[j] = np.bincount(magnitude, times, 2 * SIZES)
        parts.buckets[j] = np.bincount(_bucket(values), times, BUCKETS)
        parts.outside[j] = times[beyond].sum()
        parts.outside_magnitudes[j] = np.bincount(magnitude[beyond], times[beyond], 2 * SIZES)
    return parts


def find_faults(
    names: Sequence[str],
    reference: tuple[Profile, Traits],
    batch: tuple[Profile, Traits],
    *,
    spread: Floats,
    budget: int,
) -> tuple[Fault, ...]:
    """Faults of a batch, at most one for each feature: the one that explains most.

    Parameters
    ----------
    names : sequence of n_features names
    reference, batch : Profile and Traits of either
        The profiles may have more columns after the features.
    spread : ndarray of shape (n_features,)
        Of the reference, from the 10 to the 90 % quantile; NaN without values.
    budget : int
        A finding must be rarer than one in so many batches, all features and kinds together.

    Returns
    -------
    tuple of Fault
        The largest change of share first.
    """
    level = np.log(1 / (budget * len(names) * len(SOURCE_FAULTS)))
    found: list[Fault] = []
    for j, name in enumerate(names):
        here = _of_column(j, *batch)
        usual = _of_column(j, *reference, spread=float(spread[j]))
        for look in (_missing, _stuck, _unit, _outside, _rounding):
            fault = look(name, usual, here, level) if here.n_rows and usual.n_values else None
            if fault is not None:
                found.append(fault)
                break
    return tuple(sorted(found, key=lambda fault: -abs(fault.share - fault.usual)))


@dataclass(frozen=True)
class _Column:
    """Counts of one feature."""

    n_rows: float
    missing: float
    decimals: Floats
    magnitudes: Floats
    buckets: Floats
    outside: float
    outside_magnitudes: Floats
    spread: float = np.nan

    @property
    def n_values(self) -> float:
        return self.n_rows - self.missing

    def share(self, count: float) -> float:
        return float(count / self.n_values) if self.n_values else 0.0


def _of_column(j: int, profile: Profile, traits: Traits, *, spread: float = np.nan) -> _Column:
    missing = float(profile.missing[j])
    n_rows = float(profile.counts[j].sum()) + missing
    parts = {name: part[j] for name, part in vars(traits).items()}
    return _Column(n_rows, missing, **parts, spread=spread)


def _missing(name: str, usual: _Column, here: _Column, level: float) -> Fault | None:
    share, before = here.missing / here.n_rows, usual.missing / usual.n_rows
    if share - before < MISSING_RISE:
        return None
    if log_more_p(here.missing, here.n_rows, usual.missing, usual.n_rows) > level:
        return None
    return Fault(name, "missing_values", share, before)


def _stuck(name: str, usual: _Column, here: _Column, level: float) -> Fault | None:
    top = int(here.buckets.argmax())
    n, before = here.buckets[top], usual.buckets[top]
    coarse = (usual.buckets > 0).sum() < FEW_VALUES
    if here.share(n) < (STUCK_COARSE if coarse else STUCK_SHARE):
        return None
    if usual.share(usual.buckets.max()) > COMMON_SHARE:
        return None
    looked_at = np.log((here.buckets > 0).sum())  # any value could have been the one
    if log_more_p(n, here.n_values, before, usual.n_values) > level - looked_at:
        return None
    return Fault(name, "stuck", here.share(n), usual.share(before))


def _unit(name: str, usual: _Column, here: _Column, level: float) -> Fault | None:
    """All values in another unit, or a part of them that is not plausible in this one."""
    shift, there, apart = _shift(usual.magnitudes, here.magnitudes)
    share = here.magnitudes.sum()
    if there < SAME_SHAPE or apart > OTHER_PLACE:
        shift, there, _ = _shift(usual.magnitudes, here.outside_magnitudes)
        share = here.outside
        if there < SAME_SHAPE or here.share(share) < OUTSIDE_SHARE:
            return None
    # against chance: values of sizes that the reference has none of, zeros apart
    sized, usually = (
        counts.reshape(2, SIZES)[:, 1:] for counts in (here.magnitudes, usual.magnitudes)
    )
    novel = sized[usually == 0].sum()
    if log_more_p(novel, sized.sum(), 0, usually.sum()) > level:
        return None
    decades = round(shift / STEPS)
    if abs(shift - decades * STEPS) <= 1:  # units differ by powers of ten, mostly
        shift = decades * STEPS
    return Fault(name, "unit_change", here.share(share), 0.0, 10.0 ** (shift / STEPS))


def _outside(name: str, usual: _Column, here: _Column, level: float) -> Fault | None:
    if here.share(here.outside) < OUTSIDE_SHARE:
        return None
    if log_more_p(here.outside, here.n_values, usual.outside, usual.n_values) > level:
        return None
    return Fault(name, "out_of_range", here.share(here.outside), usual.share(usual.outside))


def _rounding(name: str, usual: _Column, here: _Column, level: float) -> Fault | None:
    """Coarser values than matters. Finer ones lose nothing; what else they changed is drift."""
    if not here.n_values:
        return None
    more = here.n_values - np.cumsum(here.decimals)[:-1]  # values with more than 0, 1, ... decimals
    before = usual.n_values - np.cumsum(usual.decimals)[:-1]
    lost = before / usual.n_values - more / here.n_values
    k = int(lost.argmax())
    if lost[k] < ROUNDING_GAP or here.share(more[k]) > ROUNDING_REST:
        return None
    if 10.0**-k < ROUNDING_STEP * usual.spread:
        return None
    if log_more_p(before[k], usual.n_values, more[k], here.n_values) > level:
        return None
    return Fault(name, "rounding", here.share(more[k]), usual.share(before[k]), float(k))


def _shift(usual: Floats, here: Floats) -> tuple[int, float, float]:
    """Shift of magnitudes that makes two histograms most alike.

    Returns the shift in steps, the overlap of the histograms there, and the one without a shift.
    """
    usual, here = (counts.reshape(2, SIZES)[:, 1:] for counts in (usual, here))  # no zeros
    if not (usual.sum() and here.sum()):
        return 0, 0.0, 1.0
    usual, here = usual / usual.sum(), here / here.sum()
    shifts = [k for k in range(-6 * STEPS, 6 * STEPS + 1) if abs(k) >= NEAREST_UNIT]
    overlaps = [float(np.minimum(np.roll(usual, k, axis=1), here).sum()) for k in shifts]
    best = int(np.argmax(overlaps))
    return shifts[best], overlaps[best], float(np.minimum(usual, here).sum())


def _decimals(values: Floats) -> NDArray[np.int64]:
    """Decimals of each value, as far as about seven significant digits tell; 9 for more than 8."""
    decimals = np.full(len(values), MAX_DECIMALS + 1)
    left = np.arange(len(values))
    for k in range(MAX_DECIMALS + 1):
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows has none
            scaled = values[left] * 10.0**k
            whole = np.abs(scaled - np.rint(scaled)) <= 1e-7 * np.abs(scaled) + 1e-9
        decimals[left[whole]] = k
        left = left[~whole]
    return decimals


def _magnitude(values: Floats) -> NDArray[np.int64]:
    """Eighths of decades of the absolute value, from 0, positive values behind negative ones.

    Zero counts as the smallest.
    """
    with np.errstate(divide="ignore"):
        eighths = np.rint(np.log10(np.abs(values)) * STEPS)
    end = DECADES * STEPS
    out: NDArray[np.int64] = (np.clip(eighths, -end, end) + end).astype(np.int64)
    out[values > 0] += SIZES
    return out


def _bucket(values: Floats) -> NDArray[np.int64]:
    """A number below 256 for each value, equal for equal values (Fibonacci hashing)."""
    bits = (np.ascontiguousarray(values) + 0.0).view(np.uint64)  # + 0.0: -0 is 0
    out: NDArray[np.int64] = (bits * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(56)).astype(
        np.int64
    )
    return out
