"""Counted values: quantiles and means of a column, however it was cut."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wine_drift import counted
from wine_drift.counted import Counted

LEVELS = [0, 0.1, 0.25, 0.5, 0.9, 1]
NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def same(one: Counted, two: Counted) -> bool:
    """Whether both are the same to the last bit."""
    pairs = zip(vars(one).values(), vars(two).values(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@settings(deadline=None)
@given(NUMBERS)
def test_quantiles_are_those_of_numpy(numbers: list[float]) -> None:
    """As long as every value is kept, every quantile is NumPy's to the last bit."""
    column = np.array(numbers)
    found = Counted.of(column).quantiles(LEVELS)
    assert found.tolist() == np.quantile(column, LEVELS).tolist()


def test_nothing_has_no_quantile_and_no_mean() -> None:
    """Without a finite number there is none, and what is missing is counted."""
    column = Counted.of(np.array([np.nan, np.inf]))
    assert (column.n, column.missing, column.mean()) == (0, 2, None)
    assert np.isnan(column.quantiles(LEVELS)).all()


@settings(deadline=None)
@given(
    numbers=SHARES,
    cuts=st.lists(st.integers(0, 60), max_size=4),
    order=st.randoms(),
    most=st.sampled_from([1, 3, 10, 100]),
    is_share=st.booleans(),
)
def test_parts_add_up_to_the_whole(
    numbers: list[float], cuts: list[int], order: Random, most: int, is_share: bool
) -> None:
    """In parts of any size, added in any order, in bins or not: the same to the last bit."""
    column = np.array(numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counted, "MOST_VALUES", most)
        whole = Counted.of(column, is_share=is_share).bounded()
        parts = [
            Counted.of(part, is_share=is_share).bounded() for part in np.split(column, sorted(cuts))
        ]
        order.shuffle(parts)
        summed = sum(parts, Counted.none(is_share=is_share))
    assert whole.binned == (len(set(numbers)) > most)
    assert same(summed, whole)
    assert summed.n == len(numbers)


@pytest.mark.parametrize("is_share", [True, False])
def test_bins_are_narrow(is_share: bool) -> None:
    """A quantile from bins is off by less than 1/2000 of itself; of shares, at both ends."""
    column = np.random.default_rng(0).beta(0.3, 0.3, size=200_000)
    column[:3] = 0, 1, 1 - 1e-12
    exact, bins = Counted.of(column, is_share=is_share), Counted.of(column, is_share=is_share)
    bins = bins.bounded()
    assert bins.binned
    levels = np.linspace(0, 1, 101)
    expected, found = exact.quantiles(levels), bins.quantiles(levels)
    assert np.abs(found - expected).max() < 1 / 2000
    np.testing.assert_allclose(found, expected, rtol=1 / 2000)
    assert found[0] == 0
    if is_share:
        np.testing.assert_allclose(1 - found, 1 - expected, rtol=1 / 2000, atol=1e-15)
        assert found[-1] == 1
        assert bins.mean() == pytest.approx(column.mean(), abs=1e-7)


def test_signs_and_zero_have_bins_of_their_own() -> None:
    """A number and its negative are never in one bin, and 0 is exactly 0."""
    column = np.array([-2.0, -1e-300, -0.0, 0.0, 1e-300, 2.0])
    values = Counted.of(column).in_bins().values
    assert len(values) == 5
    assert (np.sign(values) == [-1, -1, 0, 1, 1]).all()
