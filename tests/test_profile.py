"""Profiles add up, and bins are where numpy and a person expect them."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wine_drift.profile import (
    N_BINS,
    Profile,
    Reference,
    bin_edges,
    bin_numbers,
    build_reference,
    count,
    rank_scores,
)

values = hnp.arrays(
    float,
    st.integers(1, 60),
    elements=st.one_of(
        st.integers(-5, 5).map(float),
        st.floats(-1e6, 1e6),
        st.sampled_from([np.nan, np.inf, -np.inf]),
    ),
)


@given(values)
def test_edges_are_numpys_inverted_quantiles(column: np.ndarray) -> None:
    """The edges are the observed quantiles at k/20, below the maximum, each once."""
    finite = column[np.isfinite(column)]
    if not finite.size:
        assert bin_edges(column).size == 0
        return
    # Exact ranks: ceil(k n / 20) in whole numbers, where numpy multiplies rounded fractions.
    ranks = [-(-k * finite.size // N_BINS) for k in range(1, N_BINS)]
    expected = sorted({float(np.sort(finite)[rank - 1]) for rank in ranks})
    assert bin_edges(column).tolist() == [edge for edge in expected if edge < finite.max()]


def test_edges_equal_numpys_where_its_products_are_exact() -> None:
    """On 1,279 rows the edges are those of numpy's own inverted_cdf."""
    column = np.random.default_rng(0).normal(size=1279).round(1)
    theirs = np.unique(np.quantile(column, np.arange(1, 20) / 20, method="inverted_cdf"))
    assert bin_edges(column).tolist() == theirs[theirs < column.max()].tolist()


@given(values, st.integers(0, 60))
def test_chunks_add_up_to_the_whole(column: np.ndarray, cut: int) -> None:
    """Counting in two chunks and adding gives the counts of the whole."""
    edges = [bin_edges(column)]
    whole = count(column[:, None], edges)
    parts = count(column[:cut, None], edges) + count(column[cut:, None], edges)
    assert (whole.counts == parts.counts).all()
    assert (whole.missing == parts.missing).all()
    assert whole.counts.sum() + whole.missing.sum() == column.size


@given(values)
def test_bins_hold_what_lies_between_their_edges(column: np.ndarray) -> None:
    """A value lies above the edge on its left and not above the edge on its right."""
    edges = bin_edges(column)
    bounds = np.concatenate([[-np.inf], edges, [np.inf]])
    for value, number in zip(column, bin_numbers(column, edges), strict=True):
        if np.isfinite(value):
            assert bounds[number] < value <= bounds[number + 1]
        else:
            assert number == -1


@given(hnp.arrays(float, st.integers(1, 20), elements=st.integers(0, 50).map(float)))
def test_rank_scores_are_orthonormal(counts: np.ndarray) -> None:
    """Under the shares each score has mean 0 and variance 1, and the two are uncorrelated."""
    if counts.sum() == 0:
        return
    shares = counts / counts.sum()
    location, scale = rank_scores(shares)
    for scores in (location, scale):
        assert abs((shares * scores).sum()) < 1e-9
        variance = (shares * scores**2).sum()
        assert abs(variance - 1) < 1e-9 or not scores.any()
    assert abs((shares * location * scale).sum()) < 1e-9
    n_used = int((shares > 0).sum())
    assert bool(location.any()) == (n_used > 1)


def test_rank_scores_are_legendre_like_on_even_bins() -> None:
    """On many equal bins the scores approach sqrt(3) u and sqrt(5) (3 u^2 - 1) / 2."""
    shares = np.full(2000, 1 / 2000)
    u = 2 * (np.cumsum(shares) - shares / 2) - 1
    location, scale = rank_scores(shares)
    np.testing.assert_allclose(location, np.sqrt(3) * u, atol=1e-5)
    np.testing.assert_allclose(scale, np.sqrt(5) * (3 * u * u - 1) / 2, atol=1e-4)


def test_a_reference_survives_json() -> None:
    """What is written is what is read, to the last bit."""
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(200, 3))
    matrix[:7, 1] = np.nan
    reference = build_reference(matrix, ["a", "b", "c"])
    again = Reference.from_dict(json.loads(json.dumps(reference.to_dict())))
    assert again.to_dict() == reference.to_dict()
    assert again.columns == ("a", "b", "c")
    assert again.profile.missing.tolist() == [0, 7, 0]


def test_correlation_of_rank_scores_equals_numpys() -> None:
    """Without missing values the stored matrix is the ordinary correlation matrix."""
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(500, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    reference = build_reference(matrix, ["a", "b"])
    rows = []
    for j in range(2):
        shares = reference.profile.counts[j] / 500
        rows.extend(rank_scores(shares)[:, bin_numbers(matrix[:, j], reference.edges[j])])
    np.testing.assert_allclose(reference.correlation, np.corrcoef(rows), atol=1e-12)


def test_constant_and_empty_columns_are_harmless() -> None:
    """A column without spread, or without values, gives zero scores and no warning."""
    matrix = np.column_stack([np.ones(50), np.full(50, np.nan), np.arange(50.0)])
    reference = build_reference(matrix, ["constant", "absent", "fine"])
    assert not reference.correlation[:4].any()
    assert isinstance(count(matrix, reference.edges), Profile)
