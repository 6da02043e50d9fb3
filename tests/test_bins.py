"""Profiles add up, and bins are where numpy and a person expect them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wine_drift.bins import (
    N_BINS,
    Profile,
    bin_edges,
    bin_numbers,
    count,
    in_order,
    packed,
    rank_scores,
    unpacked,
)
from wine_drift.reference import QUANTILES, Reference, build_reference

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
    if finite.min() == finite.max():
        assert bin_edges(column).tolist() == [np.nextafter(finite[0], -np.inf), finite[0]]
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
    assert whole.n_rows == column.size


@given(values)
def test_bins_hold_what_lies_between_their_edges(column: np.ndarray) -> None:
    """A value lies above the edge on its left and not above the edge on its right."""
    edges = bin_edges(column)
    bounds = np.concatenate([[-np.inf], edges, [np.inf]])
    for value, number in zip(column, bin_numbers(column, edges), strict=True):
        if np.isfinite(value):
            if len(edges) < 10:
                assert number % 2 == 0
                number //= 2
            assert bounds[number] < value <= bounds[number + 1]
        else:
            assert number == -1


@given(values)
def test_bins_in_order_are_those_between_the_edges(column: np.ndarray) -> None:
    """None that no value can fall in, and every value in one."""
    edges = bin_edges(column)
    finite = column[np.isfinite(column)]
    number = (finite[:, np.newaxis] > edges).sum(axis=1)
    expected = np.bincount(number, minlength=len(edges) + 1).tolist()
    assert in_order(count(column[:, np.newaxis], [edges]).counts[0].tolist(), edges) == expected


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


def test_rank_scores_take_leading_axes() -> None:
    """The scores of a column do not depend on what stands beside it."""
    shares = np.random.default_rng(3).dirichlet(np.ones(N_BINS), (4, 3))
    shares[1, 2] = np.eye(N_BINS)[5]
    scores = rank_scores(shares)
    assert scores.shape == (4, 3, 2, N_BINS)
    for s, j in np.ndindex(4, 3):
        np.testing.assert_allclose(scores[s, j], rank_scores(shares[s, j]), rtol=1e-12)


def test_streams_are_scaled_each_by_its_own_number() -> None:
    """A factor for each stream, or one for all; true and false keep and drop."""
    rng = np.random.default_rng(4)
    profile = Profile(rng.poisson(9, (3, 2, N_BINS)) * 1.0, rng.poisson(2, (3, 2)) * 1.0)
    scaled = profile.scaled(np.array([True, False, True]))
    half = profile.scaled(0.5)
    for s, factor in enumerate((1, 0, 1)):
        assert (scaled.counts[s] == factor * profile.counts[s]).all()
        assert (scaled.missing[s] == factor * profile.missing[s]).all()
    assert (half.counts == profile.counts / 2).all()
    assert (half.missing == profile.missing / 2).all()
    assert half.n_rows.shape == (3,)


def test_rows_are_those_of_the_column_that_has_most() -> None:
    """A column that exists for some rows only does not make the batch smaller."""
    profile = Profile(np.array([[30.0] + [0] * 19, [50] + [0] * 19]), np.array([25.0, 0.0]))
    assert profile.n_rows == 55


@given(hnp.arrays(float, hnp.array_shapes(max_dims=3), elements=st.sampled_from([0.0, 1, 2.5])))
def test_packed_counts_are_unpacked_again(counts: np.ndarray) -> None:
    """Shape and numbers survive JSON."""
    again = unpacked(json.loads(json.dumps(packed(counts), allow_nan=False)))
    np.testing.assert_array_equal(again, counts, strict=True)


def test_a_reference_survives_json() -> None:
    """What is written is what is read, to the last bit."""
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(200, 4))
    matrix[:7, 1] = np.nan
    matrix[:, 2] = np.nan
    matrix[:, 3] = rng.random(200)
    names = ("a", "b", "absent", "score")
    plausible = np.array([[-np.inf, 9.0], [0.0, 5.0], [-np.inf, np.inf]])
    reference = build_reference(matrix, names, matrix[:, 3] > 0.5, plausible)
    again = Reference.from_dict(json.loads(json.dumps(reference.to_dict(), allow_nan=False)))
    assert again.to_dict() == reference.to_dict()
    assert again.columns == names
    assert again.features == names[:3]
    assert again.profile.missing.tolist() == [0, 7, 200, 0]
    assert (again.correlation == reference.correlation).all()
    np.testing.assert_array_equal(again.limits, reference.limits)
    np.testing.assert_array_equal(again.quantiles, reference.quantiles)


def test_a_reference_knows_ranges_and_quantiles_of_its_rows() -> None:
    """The range is the one given, or that of the rows, widened by itself; quantiles are numpy's."""
    column = np.array([np.nan, 3.0, 1.0, 2.0, np.inf, 1.5])
    plausible = np.array([[0.5, np.inf]])
    reference = build_reference(np.column_stack([column, column]), ["x", "score"], None, plausible)
    assert reference.limits.tolist() == [[0.5, 5.0]]
    finite = column[np.isfinite(column)]
    assert reference.quantiles.tolist() == [np.quantile(finite, QUANTILES).tolist()] * 2
    assert reference.profile.missing.tolist() == [2, 2]
    assert build_reference(column[:, None], ["x"]).limits.tolist() == [[-1.0, 5.0]]


def test_nothing_is_the_summary_of_no_rows() -> None:
    """It adds nothing, and has the shapes of every other."""
    rng = np.random.default_rng(5)
    reference = build_reference(rng.random(size=(60, 3)), ["a", "b", "score"])
    none = np.zeros(0)
    empty = reference.summarise(np.zeros((0, 2)), none, none.astype(bool), none.astype(bool))
    assert reference.nothing().to_dict() == empty.to_dict()
    assert (empty + reference.summary).to_dict() == reference.summary.to_dict()


@pytest.mark.parametrize(("shape", "names"), [((9, 2), ["a"]), ((9,), ["a"]), ((0, 2), ["a", "b"])])
def test_a_reference_has_rows_and_a_name_for_each_column(
    shape: tuple[int, ...], names: list[str]
) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="a matrix of shape"):
        build_reference(np.ones(shape), names)


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
    assert [edges.size for edges in reference.edges[:2]] == [2, 0]
    assert isinstance(count(matrix, reference.edges), Profile)
