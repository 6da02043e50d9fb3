"""The tests of drift against an independent implementation, scipy, and simulation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from wine_drift.bins import N_BINS, Profile, bin_numbers, count
from wine_drift.detector import Detector, Limits, judge_drift, no_drift_evidence
from wine_drift.drift import (
    BETS,
    WEIGHT_CHI2,
    WEIGHT_MISSING,
    WEIGHT_MULTIVARIATE,
    WEIGHT_RANKS,
    WINDOW_DECAY,
    DriftTests,
    chi2_p_values,
    location_scale_z,
    missing_p_values,
    multivariate_p_value,
    run_tests,
    severity,
    unlikeness,
)
from wine_drift.evidence import Evidence
from wine_drift.reference import Reference, build_reference

GOLDEN = Path(__file__).parent / "golden" / "drift.json"


def features(path: Path) -> np.ndarray:
    """The eleven features of a published table."""
    return np.loadtxt(path, delimiter=";", skiprows=1)[:, :11]


def profile(*columns: list[float], missing: tuple[float, ...] = ()) -> Profile:
    """A profile from the first bins of each column."""
    counts = np.zeros((len(columns), N_BINS))
    for row, column in zip(counts, columns, strict=True):
        row[: len(column)] = column
    return Profile(counts, np.array(missing or (0.0,) * len(columns)))


def stacked(profiles: list[Profile]) -> Profile:
    """Profiles side by side, with a leading axis."""
    return Profile(np.stack([p.counts for p in profiles]), np.stack([p.missing for p in profiles]))


def many_pairs() -> list[tuple[Profile, Profile]]:
    """Pools and batches of three columns: of all sizes, with gaps, empty columns, and few bins."""
    rng = np.random.default_rng(0)
    pairs = []
    for n in (0, 3, 60, 199, 200, 201, 5000):
        for width in (1, 2, 9, 20):
            columns = [rng.poisson(n / width, (3, width)), rng.poisson(900 / width, (3, width))]
            columns[0][1] *= rng.random() < 0.8
            columns[1][2] *= rng.random() < 0.8
            missing = rng.poisson(3, (2, 3)) * (rng.random((2, 3)) < 0.6)
            batch, pool = (
                profile(*c.tolist(), missing=tuple(k))
                for c, k in zip(columns, missing, strict=True)
            )
            pairs.append((pool, batch))
    return pairs


@pytest.fixture
def golden() -> dict:
    """Vectors that an independent implementation made of the published tables."""
    return json.loads(GOLDEN.read_text())


@pytest.fixture
def red_wine(red_wine_csv: Path) -> tuple[Reference, np.ndarray]:
    """A reference of four fifths of the red wines, and the other wines."""
    red = features(red_wine_csv)
    of_reference = np.arange(len(red)) % 5 != 0
    names = [f"feature {j}" for j in range(11)]
    return build_reference(red[of_reference], names), red[~of_reference]


def test_every_figure_of_the_independent_implementation(
    golden: dict, red_wine: tuple[Reference, np.ndarray], white_wine_csv: Path
) -> None:
    """Edges, p-values, evidence and severities equal the golden ones to 1e-9, batch after batch."""
    reference, held_out = red_wine
    assert reference.n_rows == golden["n_ref"]
    for edges, theirs in zip(reference.edges, golden["edges"], strict=True):
        assert edges.tolist() == theirs
    batches = [held_out[start : start + 100] for start in (0, 100, 200)]
    batches.append(features(white_wine_csv)[:100])
    pool, window = reference.profile, reference.profile.scaled(0)
    evidence = no_drift_evidence(reference)
    for rows, expected in zip(batches, golden["batches"], strict=True):
        batch = count(rows, reference.edges)
        tests = run_tests(pool, batch, reference.correlation, reference.n_rows)
        evidence = tests.added_to(evidence)
        window = window.scaled(WINDOW_DECAY) + batch
        sizes, _ = severity(reference.profile, window, batch)
        pool += batch
        assert tests.p_value == pytest.approx(expected["p"], rel=1e-9)
        assert tests.multivariate == pytest.approx(expected["pT"], rel=1e-9)
        assert tests.chi2 == pytest.approx(np.array(expected["chi2_p"]), rel=1e-9)
        assert tests.location_scale == pytest.approx(np.array(expected["smooth_p"]), rel=1e-9)
        assert (tests.missing == 1).all()
        assert evidence.log10() == pytest.approx(expected["log10R"], rel=1e-9)
        assert sizes == pytest.approx(np.array(expected["psi"]), rel=1e-9, abs=1e-12)
        assert sizes.max() == pytest.approx(expected["severity"], rel=1e-9)


# --- Each statistic -------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400)), min_size=2, max_size=10),
)
def test_chi_square_equals_scipys(pairs: list[tuple[int, int]]) -> None:
    """The p-value is that of scipy's contingency table test, on fine bins of 200 rows and more."""
    batch, pool = np.array(pairs, dtype=float).T
    batch[0] += 200
    pool[0] += 1
    used = (batch + pool) > 0
    ours = chi2_p_values(profile(pool.tolist()), profile(batch.tolist()))[0]
    if used.sum() == 1:
        assert ours == 1
        return
    table = np.array([batch[used], pool[used]])
    theirs = stats.chi2_contingency(table, correction=False).pvalue
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("n_rows", "width"), [(50, 2), (199, 2), (200, 1), (300, 1)])
def test_chi_square_of_real_wines_equals_scipys(
    red_wine: tuple[Reference, np.ndarray], n_rows: int, width: int
) -> None:
    """On every feature of the red wines; below 200 rows on ten bins, each two of the twenty."""
    reference, others = red_wine
    ours = chi2_p_values(reference.profile, count(others[:n_rows], reference.edges))
    for j, edges in enumerate(reference.edges):
        numbers = bin_numbers(others[:n_rows, j], edges) // width
        here = np.bincount(numbers, minlength=N_BINS // width)
        usual = reference.profile.counts[j].reshape(-1, width).sum(axis=1)
        table = np.array([here, usual])[:, here + usual > 0]
        theirs = stats.chi2_contingency(table, correction=False).pvalue
        assert ours[j] == pytest.approx(theirs, rel=1e-9)


def test_pairs_of_bins_are_merged_below_200_rows() -> None:
    """A batch of 100 rows is tested on ten bins."""
    batch, pool = profile([60, 0, 40, 0]), profile([0, 500, 0, 500])
    theirs = stats.chi2_contingency([[60, 40], [500, 500]], correction=False).pvalue
    assert chi2_p_values(pool, batch)[0] == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("n_rows", [50, 320])
def test_location_of_real_wines_is_the_rank_sum_test_of_scipy(
    red_wine: tuple[Reference, np.ndarray], n_rows: int
) -> None:
    """z is that of Mann and Whitney with ties, on bin numbers, but for a factor near 1.

    z^2 (N - 1)/N is also the statistic of Kruskal and Wallis: they divide by N - 1, Pearson by N.
    """
    reference, others = red_wine
    z = location_scale_z(reference.profile, count(others[:n_rows], reference.edges))[:, 0]
    total = reference.n_rows + n_rows
    for j, edges in enumerate(reference.edges):
        here = bin_numbers(others[:n_rows, j], edges)
        usual = np.repeat(np.arange(N_BINS), reference.profile.counts[j].astype(int))
        theirs = stats.mannwhitneyu(here, usual, use_continuity=False, method="asymptotic")
        scaled = z[j] * np.sqrt((total - 1) / total)
        assert 2 * stats.norm.sf(abs(scaled)) == pytest.approx(theirs.pvalue, rel=1e-9)
        assert (z[j] > 0) == (theirs.statistic > n_rows * reference.n_rows / 2)
        assert scaled**2 == pytest.approx(stats.kruskal(here, usual).statistic, rel=1e-9)


@pytest.mark.parametrize("n_rows", [50, 320])
def test_location_and_scale_of_real_wines_are_correlations_of_rows(
    red_wine: tuple[Reference, np.ndarray], n_rows: int
) -> None:
    """Each z is sqrt(N) times a correlation with being in the batch, row by row.

    Of the rank for location, of the squared rank for scale, less its regression on the rank.
    """
    reference, others = red_wine
    z = location_scale_z(reference.profile, count(others[:n_rows], reference.edges))
    in_batch = np.repeat([1.0, 0.0], [n_rows, reference.n_rows])
    for j, edges in enumerate(reference.edges):
        usual = np.repeat(np.arange(N_BINS), reference.profile.counts[j].astype(int))
        numbers = np.concatenate([bin_numbers(others[:n_rows, j], edges), usual])
        ranks = stats.rankdata(numbers) / len(numbers)
        design = np.column_stack([np.ones_like(ranks), ranks])
        bend = ranks**2 - design @ np.linalg.lstsq(design, ranks**2, rcond=None)[0]
        for k, score in enumerate((ranks, bend)):
            theirs = np.sqrt(len(numbers)) * stats.pearsonr(score, in_batch).statistic
            assert z[j, k] == pytest.approx(theirs, rel=1e-8)


def test_z_points_where_the_batch_went() -> None:
    """Location is positive when the batch lies higher, scale when it lies further out."""
    rng = np.random.default_rng(9)
    reference = build_reference(rng.normal(size=(2000, 2)), ["up", "wide"])
    rows = np.column_stack([rng.normal(0.5, 1, 500), rng.normal(0, 2, 500)])
    z = location_scale_z(reference.profile, count(rows, reference.edges))
    assert z[0, 0] > 5
    assert z[1, 1] > 5
    mirrored = location_scale_z(reference.profile, count(rows * [-1, 0.2], reference.edges))
    assert mirrored[0, 0] < -5
    assert mirrored[1, 1] < -5


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 900))
def test_missing_equals_scipys_hypergeometric(
    missing: int, there: int, pool_missing: int, pool_there: int
) -> None:
    """The one-sided p-value is scipy's, and Fisher's exact test's."""
    batch = profile([there], missing=(missing,))
    pool = profile([pool_there], missing=(pool_missing,))
    total = missing + there + pool_missing + pool_there
    theirs = stats.hypergeom.sf(missing - 1, total, missing + pool_missing, missing + there)
    ours = missing_p_values(pool, batch)[0]
    assert ours == pytest.approx(theirs, rel=1e-9)
    fisher = stats.fisher_exact([[missing, there], [pool_missing, pool_there]], "greater").pvalue
    assert ours == pytest.approx(fisher, rel=1e-6)


def test_t_squared_equals_the_one_of_the_textbook() -> None:
    """With a full-rank correlation the p-value is that of Hotelling's T-squared in scipy's F."""
    rng = np.random.default_rng(3)
    correlation = np.corrcoef(rng.normal(size=(6, 300)) + rng.normal(size=300))
    z = rng.normal(size=(3, 2))
    t2 = z.ravel() @ np.linalg.solve(correlation, z.ravel())
    theirs = stats.f.sf(t2 * (300 - 6) / (6 * 299), 6, 294)
    assert multivariate_p_value(z, correlation, 300) == pytest.approx(theirs, rel=1e-9)


def test_t_squared_of_real_wines_equals_the_one_of_the_textbook(
    red_wine: tuple[Reference, np.ndarray],
) -> None:
    """The same with the correlation of the red wines, which numpy inverts."""
    reference, others = red_wine
    m, k = reference.n_rows, 2 * len(reference.columns)
    for start in range(0, 300, 50):
        batch = count(others[start : start + 50], reference.edges)
        z = location_scale_z(reference.profile, batch)
        t2 = z.ravel() @ np.linalg.inv(reference.correlation) @ z.ravel()
        theirs = stats.f.sf(t2 * (m - k) / (k * (m - 1)), k, m - k)
        assert multivariate_p_value(z, reference.correlation, m) == pytest.approx(theirs, rel=1e-9)


def test_t_squared_leaves_out_directions_that_never_vary() -> None:
    """A repeated column and a constant one change nothing."""
    z = np.array([[1.5, -0.5]])
    twice = np.kron(np.ones((2, 2)), np.eye(2))
    both = np.zeros((6, 6))
    both[:4, :4] = twice
    repeated = np.array([[1.5, -0.5], [1.5, -0.5], [0.0, 0.0]])
    assert multivariate_p_value(repeated, both, 500) == pytest.approx(
        multivariate_p_value(z, np.eye(2), 500), rel=1e-9
    )


def test_t_squared_of_a_tiny_reference_tells_nothing() -> None:
    """With no more rows than directions, or no direction, the p-value is 1."""
    z = np.full((2, 2), 9.0)
    assert [float(multivariate_p_value(z, np.eye(4), m)) for m in (1, 3, 4)] == [1, 1, 1]
    assert multivariate_p_value(z, np.eye(4), 5) < 1
    assert multivariate_p_value(z, np.zeros((4, 4)), 500) == 1


# --- All tests together ---------------------------------------------------------------------------


def one_test(**p_values: float) -> DriftTests:
    """Tests of three columns; those of the second column, and the one of all, may be small."""
    columns = {name: np.ones(3) for name in ("chi2", "location_scale", "missing")}
    for name in p_values.keys() & columns.keys():
        columns[name][1] = p_values[name]
    together = np.array(p_values.get("multivariate", 1.0))
    return DriftTests(**columns, multivariate=together, z=np.zeros((3, 2)), n_effective=np.ones(3))


@pytest.mark.parametrize(
    ("name", "share"),
    [("chi2", 0.3 / 3), ("location_scale", 0.3 / 3), ("missing", 0.1 / 3), ("multivariate", 0.3)],
)
def test_each_test_has_its_share_of_the_budget(name: str, share: float) -> None:
    """One small p-value among ones is divided by its share; so is its e-value multiplied."""
    tests = one_test(**{name: 1e-8})
    assert tests.p_value == pytest.approx(1e-8 / share, rel=1e-12)
    others = [1.0, 1.0, 1.0] if name == "multivariate" else [1.0, 1e-8 / share, 1.0]
    assert tests.columns_p == pytest.approx(np.array(others), rel=1e-12)
    together = np.expm1(tests.added_to(Evidence.none(3, 2, len(BETS))).together)
    e = (1 - 1e-8 + 1e-8 * np.log(1e-8)) / (1e-8 * np.log(1e-8) ** 2)
    assert together == pytest.approx(share * e + (1 - share) / 2, rel=1e-9)


def test_the_shares_are_the_whole_budget() -> None:
    """They sum to 1, and p-values of 1 leave a p-value of 1 and an e-value of 1/2."""
    total = WEIGHT_CHI2 + WEIGHT_RANKS + WEIGHT_MULTIVARIATE + WEIGHT_MISSING
    assert total == pytest.approx(1, rel=1e-15)
    assert one_test().p_value == 1
    assert (one_test().columns_p == 1).all()
    evidence = one_test().added_to(Evidence.none(3, 2, len(BETS)))
    assert np.expm1(evidence.together) == pytest.approx(0.5, rel=1e-12)
    assert np.expm1(evidence.columns) == pytest.approx(np.full(3, 0.5), rel=1e-12)


def test_bets_win_where_the_column_went() -> None:
    """Of the bets on a column, those on its direction win; those on the other way lose."""
    rng = np.random.default_rng(1)
    reference = build_reference(rng.normal(size=(1000, 3)), ["same", "down", "wide"])
    rows = rng.normal(size=(200, 3)) * [1, 1, 1.8] + [0, -0.6, 0]
    batch = count(rows, reference.edges)
    tests = run_tests(reference.profile, batch, reference.correlation, reference.n_rows)
    bets = tests.added_to(no_drift_evidence(reference)).bets  # log(1 + e)
    assert bets.shape == (3, 2, len(BETS))
    assert bets[1, 0, BETS == -0.4] > 20 > 1 > bets[1, 0, BETS == 0.4]
    assert bets[2, 1, BETS == 0.4] > 10 > 1 > bets[2, 1, BETS == -0.4]
    assert (bets[0] < 5).all()


def test_profiles_in_a_stack_are_judged_one_by_one() -> None:
    """Every figure of a pair of profiles is the same alone and among others."""
    pairs = many_pairs()
    pools, batches = (stacked(list(side)) for side in zip(*pairs, strict=True))
    windows = stacked([batch.scaled(0.5) for _, batch in pairs])
    rng = np.random.default_rng(1)
    correlation = np.stack([np.corrcoef(rng.normal(size=(6, 40))) for _ in pairs])
    correlation[3] = 0
    correlation[4, 2:] = correlation[4, :, 2:] = 0
    n_reference = rng.integers(1, 2000, len(pairs))
    tests = run_tests(pools, batches, correlation, n_reference)
    evidence = tests.added_to(tests.added_to(Evidence.none(3, 2, len(BETS))))
    sizes, psi = severity(pools, windows, batches)
    for s, (pool, batch) in enumerate(pairs):
        alone = run_tests(pool, batch, correlation[s], int(n_reference[s]))
        for name, figure in vars(alone).items():
            np.testing.assert_allclose(vars(tests)[name][s], figure, rtol=1e-12, atol=1e-13)
        assert tests.p_value[s] == pytest.approx(alone.p_value, rel=1e-12)
        assert tests.columns_p[s] == pytest.approx(alone.columns_p, rel=1e-12)
        of_it = alone.added_to(alone.added_to(Evidence.none(3, 2, len(BETS))))
        for name, part in vars(of_it).items():
            np.testing.assert_allclose(vars(evidence)[name][s], part, rtol=1e-12, atol=1e-13)
        size, index = severity(pool, batch.scaled(0.5), batch)
        np.testing.assert_allclose(sizes[s], size, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(psi[s], index, rtol=1e-12, atol=1e-14)


def test_one_pool_serves_many_batches() -> None:
    """A pool without leading axes is the pool of every stream."""
    pairs = many_pairs()
    pool, batches = pairs[-1][0], stacked([batch for _, batch in pairs])
    copies = pool.scaled(np.ones(len(pairs)))
    one, many = (run_tests(known, batches, np.eye(6), 900) for known in (pool, copies))
    for ours, theirs in zip(leaves(one), leaves(many), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    for ours, theirs in zip(
        severity(pool, batches, batches), severity(copies, batches, batches), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_two_leading_axes_are_one_after_the_other() -> None:
    """A grid of streams is the same as a row of them."""
    pools, batches = (stacked(list(side)) for side in zip(*many_pairs(), strict=True))
    correlation = np.corrcoef(np.random.default_rng(1).normal(size=(6, 40)))
    flat = run_tests(pools, batches, correlation, 500)
    n = len(pools.missing) // 4
    grid = run_tests(
        *(
            Profile(p.counts.reshape(n, 4, 3, N_BINS), p.missing.reshape(n, 4, 3))
            for p in (pools, batches)
        ),
        correlation,
        500,
    )
    assert (grid.p_value.ravel() == flat.p_value).all()
    assert grid.z.shape == (n, 4, 3, 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 1000))
def test_p_values_are_p_values(sizes: list[int], seed: int) -> None:
    """Whatever the counts, empty ones too, all lie in [0, 1] and all else is a finite number."""
    rng = np.random.default_rng(seed)
    rates = np.array([0.0, 0.3, 5.0, 1e4])[sizes].reshape(2, 3)
    batch, pool = (
        Profile(rng.poisson(rate[0], (2, N_BINS)) * 1.0, rng.poisson(rate[1], 2) * 1.0)
        for rate in rates[:, :2]
    )
    tests = run_tests(pool, batch, np.eye(4), 300)
    for p_values in (tests.chi2, tests.location_scale, tests.missing, tests.multivariate):
        assert ((p_values >= 0) & (p_values <= 1)).all()
    assert 0 <= tests.p_value <= 1
    assert np.isfinite(tests.z).all()
    assert np.isfinite(tests.added_to(Evidence.none(2, 2, len(BETS))).log10())
    sizes_and_psi = severity(pool, batch, batch)
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in sizes_and_psi)


def test_a_column_without_values_is_judged_without_warnings() -> None:
    """Every value missing: p is tiny for the missing test, 1 for the others, and severity large."""
    rng = np.random.default_rng(5)
    reference = build_reference(rng.normal(size=(300, 2)), ["x", "y"])
    rows = rng.normal(size=(100, 2))
    rows[:, 0] = np.nan
    batch = count(rows, reference.edges)
    tests = run_tests(reference.profile, batch, reference.correlation, reference.n_rows)
    sizes, _ = severity(reference.profile, batch, batch)
    assert tests.missing[0] < 1e-50
    assert tests.chi2[0] == tests.location_scale[0] == 1
    assert (tests.z[0] == 0).all()
    assert tests.columns_p[1] > 0.01
    assert sizes[0] > 1 > 0.1 > sizes[1]


# --- Severity -------------------------------------------------------------------------------------


def test_severity_takes_off_what_few_rows_add() -> None:
    """On batches without drift the textbook index averages its known bias, severity far less."""
    rng = np.random.default_rng(4)
    reference = build_reference(rng.normal(size=(1279, 1)), ["x"])
    rows = rng.normal(size=(2000, 100, 1))
    batches = stacked([count(batch, reference.edges) for batch in rows])
    size, psi = severity(reference.profile, batches, batches)
    assert psi.mean() == pytest.approx(9 * (1 / 100 + 1 / 1279), rel=0.05)
    assert size.mean() < 0.02


def test_severity_of_many_rows_is_the_textbook_index() -> None:
    """With a million rows nothing is left to take off: sum of (b - a) ln(b / a)."""
    usual, here = np.full(10, 0.1), np.arange(1, 11) / 55
    pool, batch = (profile(np.repeat(shares * 5e5, 2).tolist()) for shares in (usual, here))
    size, psi = severity(pool, batch, batch)
    expected = ((here - usual) * np.log(here / usual)).sum()
    assert psi[0] == pytest.approx(expected, rel=1e-4)
    assert size[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("groups", [2, 5])
def test_unlikeness_of_groups_is_tested_as_by_scipy(groups: int) -> None:
    """Pearson's test of homogeneity, also where a bin or a group is empty."""
    rng = np.random.default_rng(groups)
    counts = rng.poisson(9, (groups, 8)).astype(float)
    theirs = stats.chi2_contingency(counts, correction=False).pvalue
    padded = np.zeros((groups + 1, 10))
    padded[:groups, 1:9] = counts
    assert unlikeness(counts)[0] == pytest.approx(theirs, rel=1e-9)
    assert unlikeness(padded)[0] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("concentration", [20, 100, np.inf])
def test_unlikeness_is_the_severity_of_one_more_group(concentration: float) -> None:
    """Shares of Dirichlet's distribution: what is expected from five groups is what a sixth has."""
    rng = np.random.default_rng(1)
    expected, found, usual = [], [], np.full(10, 0.1)
    for _ in range(400):
        varied = np.isfinite(concentration)
        shares = rng.dirichlet(usual * concentration, 6) if varied else np.tile(usual, (6, 1))
        groups = np.array([rng.multinomial(400, each) for each in shares[:5]])
        expected.append(unlikeness(groups)[1])
        many = np.rint(shares[5] * 1e6)
        a, b = (x / x.sum() for x in (groups.sum(axis=0) + 0.5, many + 0.5))
        found.append(((a - b) * np.log(a / b)).sum() - 9 * (1 / 2000 + 1 / 1e6))
    assert np.mean(expected) == pytest.approx(np.mean(found), rel=0.3, abs=0.006)


def test_severity_is_the_larger_of_window_and_batch() -> None:
    """A drifted window counts under a healthy batch, and a drifted batch in a healthy window."""
    usual = profile([100.0] * N_BINS)
    high = profile([0.0] * 10 + [20.0] * 10)
    healthy = profile([10.0] * N_BINS)
    both, _ = severity(usual, high, high)
    steady, psi = severity(usual, high, healthy)
    quick, _ = severity(usual, healthy.scaled(50), high)
    assert steady[0] == both[0] > 0.5
    assert psi[0] < 0.01
    assert 0.5 < quick[0] < both[0]
    assert severity(usual, healthy, healthy)[0][0] == 0


# --- Properties -----------------------------------------------------------------------------------


def scored_rows(rng: np.random.Generator, n_rows: int) -> tuple[np.ndarray, ...]:
    """Features with ties and gaps; scores and answers of the rows that have them."""
    matrix = rng.normal(size=(n_rows, 3)).round(1)
    matrix[rng.random(matrix.shape) < 0.05] = np.nan
    scores = rng.beta(1, 3, n_rows)
    return matrix, scores, rng.random(n_rows) < 0.7, rng.random(n_rows) < scores


def leaves(part: object) -> list[np.ndarray]:
    """All arrays of a summary, a reading or a state."""
    parts = getattr(part, "__dict__", None)
    return [np.asarray(part)] if parts is None else [x for p in parts.values() for x in leaves(p)]


def first_reading(reference: Reference, batch: Profile) -> list[np.ndarray]:
    """All figures of a stream's first batch, and all that is kept after it."""
    limits = Limits(budget=1000, severity_drift=0.1, severity_major=0.25, min_rows=50)
    known = reference.profile, reference.correlation, reference.n_rows
    reading, state = judge_drift(*known, Detector.fresh(reference).drift, batch, limits)
    return [*leaves(reading), *leaves(state), reading.tests.p_value, reading.tests.columns_p]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 150), max_size=4), st.randoms())
def test_order_chunks_and_shards_do_not_matter(seed: int, cuts: list[int], random: Random) -> None:
    """A batch counted whole, shuffled, or in chunks added in any order is the same to the bit."""
    rng = np.random.default_rng(seed)
    before, scores, _, positive = scored_rows(rng, 200)
    names = ["x", "y", "z", "score"]
    reference = build_reference(np.column_stack([before, scores]), names, positive)
    rows = scored_rows(rng, 150)
    whole = reference.summarise(*rows)
    shuffled = rng.permutation(150)
    ends = [0, *sorted(cuts), 150]
    chunks = [
        reference.summarise(*(part[shuffled[start:stop]] for part in rows))
        for start, stop in itertools.pairwise(ends)
    ]
    random.shuffle(chunks)
    summed = sum(chunks, reference.nothing())
    for ours, theirs in zip(leaves(summed), leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    for ours, theirs in zip(
        first_reading(reference, summed.profile),
        first_reading(reference, whole.profile),
        strict=True,
    ):
        assert (ours == theirs).all()


Change = Callable[[np.ndarray], np.ndarray]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 1000), st.floats(-100, 100))
def test_units_do_not_matter(seed: int, factor: float, offset: float) -> None:
    """A change of units in reference and batch alike changes no figure."""
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(200, 2)).round(2)
    after = rng.normal(0.3, 1, size=(80, 2)).round(2)
    after[:3, 1] = np.nan

    def figures(change: Change) -> list[np.ndarray]:
        reference = build_reference(change(before), ["x", "y"])
        return first_reading(reference, count(change(after), reference.edges))

    def changed(rows: np.ndarray) -> np.ndarray:
        # whole hundredths keep ties tied under the change of units
        return (rows * 100).round() * factor + offset

    for ours, theirs in zip(figures(lambda rows: rows), figures(changed), strict=True):
        assert (ours == theirs).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_a_mirrored_column_turns_its_location_only(seed: int) -> None:
    """Counts read from the other end give the same figures, and the opposite location."""
    rng = np.random.default_rng(seed)
    pool, batch = (Profile(rng.poisson(rate, (2, N_BINS)) * 1.0, np.zeros(2)) for rate in (50, 8))
    there, back = (
        run_tests(*sides, np.eye(4), 900)
        for sides in (
            (pool, batch),
            [Profile(p.counts[:, ::-1], p.missing) for p in (pool, batch)],
        )
    )
    assert there.chi2 == pytest.approx(back.chi2, rel=1e-9)
    assert there.z == pytest.approx(back.z * [-1, 1], rel=1e-9, abs=1e-9)
    assert there.p_value == pytest.approx(back.p_value, rel=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([(d, 1.0) for d in (0.0, 0.1, 0.2, 0.4, 0.8)], id="up"),
        pytest.param([(-d, 1.0) for d in (0.0, 0.1, 0.2, 0.4, 0.8)], id="down"),
        pytest.param([(0.0, s) for s in (1.0, 1.2, 1.4, 1.8, 2.5)], id="wider"),
        pytest.param([(0.0, s) for s in (1.0, 0.85, 0.7, 0.5, 0.3)], id="narrower"),
    ],
)
def test_more_drift_is_more_evidence_on_average(changes: list[tuple[float, float]]) -> None:
    """Evidence, the logarithm of p, and severity follow the size of the change, either way."""
    rng = np.random.default_rng(8)
    reference = build_reference(rng.normal(size=(50_000, 2)), ["x", "y"])
    noise = rng.normal(size=(300, 100, 2))
    means = []
    for shift, scale in changes:
        rows = noise * [scale, 1] + [shift, 0]
        batches = stacked([count(batch, reference.edges) for batch in rows])
        pools = reference.profile.scaled(np.ones(len(rows)))
        tests = run_tests(pools, batches, reference.correlation, reference.n_rows)
        evidence = tests.added_to(no_drift_evidence(reference))
        sizes, _ = severity(pools, batches, batches)
        means.append(
            [
                evidence.log10().mean(),
                evidence.log10_columns()[:, 0].mean(),
                -np.log(tests.p_value).mean(),
                sizes[:, 0].mean(),
            ]
        )
    assert (np.diff(means, axis=0) > 0).all()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([0.7, 0.3], [0.1, 0.9], id="two values"),
        pytest.param([0.98, 0.02], [0.0, 1.0], id="nearly constant"),
        pytest.param([0.4, 0.1, 0.25, 0.25], [0.1, 0.4, 0.25, 0.25], id="neighbours"),
        pytest.param([1.0], [0.0, 1.0], id="constant"),
        pytest.param([0.1] * 10, [0.28, 0.02, *[0.1] * 7, 0.0], id="ten values"),
    ],
)
def test_columns_of_few_values_can_drift(before: list[float], after: list[float]) -> None:
    """No two values share a merged bin, so a change among few has evidence and severity."""
    rng = np.random.default_rng(30)
    old, new = (rng.choice(len(p), size=(n, 1), p=p) for p, n in ((before, 1000), (after, 100)))
    reference = build_reference(old.astype(float), ["x"])
    batch = count(new.astype(float), reference.edges)
    tests = run_tests(reference.profile, batch, reference.correlation, reference.n_rows)
    sizes, _ = severity(reference.profile, batch, batch)
    assert tests.chi2[0] < 1e-4
    assert sizes[0] > 0.1
