"""Drift against an independent implementation, scipy, and simulation."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from wine_drift.drift import (
    WINDOW_DECAY,
    assess_drift,
    chi2_p_values,
    location_scale_z,
    missing_p_values,
    multivariate_p_value,
    severity,
)
from wine_drift.profile import N_BINS, Profile, build_reference, count

GOLDEN = Path(__file__).parent / "golden" / "drift.json"
THRESHOLDS = {"budget": 1000, "severity_drift": 0.1, "severity_major": 0.25, "min_rows": 50}


def features(path: Path) -> np.ndarray:
    """The eleven features of a published table."""
    return np.loadtxt(path, delimiter=";", skiprows=1)[:, :11]


def profile(*columns: list[float], missing: tuple[float, ...] = ()) -> Profile:
    """A profile from the first bins of each column."""
    counts = np.zeros((len(columns), N_BINS))
    for row, column in zip(counts, columns, strict=True):
        row[: len(column)] = column
    return Profile(counts, np.array(missing or (0.0,) * len(columns)))


@pytest.fixture
def golden() -> dict:
    """Vectors that an independent implementation made of the published tables."""
    return json.loads(GOLDEN.read_text())


def test_every_figure_of_the_independent_implementation(
    golden: dict, red_wine_csv: Path, white_wine_csv: Path
) -> None:
    """Edges, p-values and severities equal the golden ones to 1e-9, over four batches in a row."""
    red, white = features(red_wine_csv), features(white_wine_csv)
    of_reference = np.arange(len(red)) % 5 != 0
    reference = build_reference(red[of_reference], golden["features"])
    for edges, theirs in zip(reference.edges, golden["edges"], strict=True):
        assert edges.tolist() == theirs
    held_out = red[~of_reference]
    batches = [held_out[:100], held_out[100:200], held_out[200:300], white[:100]]
    pool, window = reference.profile, reference.profile.scaled(0)
    for rows, expected in zip(batches, golden["batches"], strict=True):
        batch = count(rows, reference.edges)
        window = window.scaled(WINDOW_DECAY) + batch
        verdict = assess_drift(reference, pool, window, batch, **THRESHOLDS)
        assert verdict.p_value == pytest.approx(expected["p"], rel=1e-9)
        assert verdict.multivariate_p_value == pytest.approx(expected["pT"], rel=1e-9)
        assert verdict.severity == pytest.approx(expected["severity"], rel=1e-9)
        for feature, chi2, smooth, psi in zip(
            verdict.features, expected["chi2_p"], expected["smooth_p"], expected["psi"], strict=True
        ):
            assert feature.chi2_p_value == pytest.approx(chi2, rel=1e-9)
            assert feature.location_scale_p_value == pytest.approx(smooth, rel=1e-9)
            assert feature.severity == pytest.approx(psi, rel=1e-9, abs=1e-12)
        pool += batch


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


def test_pairs_of_bins_are_merged_below_200_rows() -> None:
    """A batch of 100 rows is tested on ten bins."""
    batch, pool = profile([60, 0, 40, 0]), profile([0, 500, 0, 500])
    theirs = stats.chi2_contingency([[60, 40], [500, 500]], correction=False).pvalue
    assert chi2_p_values(pool, batch)[0] == pytest.approx(theirs, rel=1e-12)


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 300))
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


def test_severity_takes_off_what_few_rows_add() -> None:
    """On batches without drift the textbook index averages its known bias, severity far less."""
    rng = np.random.default_rng(4)
    reference = build_reference(rng.normal(size=(1279, 1)), ["x"])
    empty = reference.profile.scaled(0)
    plain, debiased = [], []
    for _ in range(2000):
        batch = count(rng.normal(size=(100, 1)), reference.edges)
        size, psi = severity(reference.profile, empty + batch, batch)
        plain.append(psi[0])
        debiased.append(size[0])
    assert np.mean(plain) == pytest.approx(9 * (1 / 100 + 1 / 1279), rel=0.05)
    assert np.mean(debiased) < 0.02


def test_a_table_without_values_is_judged_without_warnings() -> None:
    """Every value missing: p is tiny for the missing test, 1 for the others, and severity large."""
    rng = np.random.default_rng(5)
    reference = build_reference(rng.normal(size=(300, 2)), ["x", "y"])
    rows = rng.normal(size=(100, 2))
    rows[:, 0] = np.nan
    batch = count(rows, reference.edges)
    verdict = assess_drift(reference, reference.profile, batch, batch, **THRESHOLDS)
    first = verdict.features[0]
    assert verdict.status == "major"
    assert first.drifted and first.missing_p_value < 1e-50
    assert first.chi2_p_value == first.location_scale_p_value == 1
    assert not verdict.features[1].drifted


@pytest.mark.parametrize(
    ("shift", "n_rows", "status"),
    [
        pytest.param(0.0, 49, "not_judged", id="too few rows"),
        pytest.param(0.0, 100, "ok", id="nothing happened"),
        pytest.param(0.02, 1_000_000, "warn", id="certain, and trivial"),
        pytest.param(0.4, 1_000, "drift", id="drift"),
        pytest.param(1.5, 100, "major", id="major"),
    ],
)
def test_an_alarm_needs_evidence_and_severity(shift: float, n_rows: int, status: str) -> None:
    """A certain but trivial shift is a warning at most; a large and certain one is an alarm."""
    rng = np.random.default_rng(6)
    reference = build_reference(rng.normal(size=(100_000, 2)), ["x", "y"])
    rows = rng.normal(size=(n_rows, 2))
    rows[:, 0] += shift
    batch = count(rows, reference.edges)
    verdict = assess_drift(reference, reference.profile, batch, batch, **THRESHOLDS)
    assert verdict.status == status
    if status in ("drift", "major"):
        assert [f.name for f in verdict.features if f.drifted] == ["x"]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.001, 1000), st.floats(-100, 100))
def test_units_do_not_matter(seed: int, factor: float, offset: float) -> None:
    """A change of units in reference and batch alike changes no figure."""
    rng = np.random.default_rng(seed)
    before, after = rng.normal(size=(200, 1)).round(2), rng.normal(0.3, 1, size=(80, 1)).round(2)

    def verdict(a: np.ndarray, b: np.ndarray):
        reference = build_reference(a, ["x"])
        batch = count(b, reference.edges)
        return assess_drift(reference, reference.profile, batch, batch, **THRESHOLDS)

    # whole hundredths keep ties tied under the change of units
    assert verdict(before, after) == verdict(
        (before * 100).round() * factor + offset, (after * 100).round() * factor + offset
    )


@pytest.mark.slow
@pytest.mark.parametrize("n_rows", [50, 100, 500])
def test_the_false_alarm_budget_is_kept(n_rows: int) -> None:
    """On fresh batches of one population p < 0.05 and p < 0.01 are as rare as they say, or rarer.

    Twelve correlated, tied columns as in the wine table; a new reference for each of 40 series.
    """
    rng = np.random.default_rng(7)
    mixing = rng.normal(size=(12, 12)) / 3 + np.eye(12)
    p_values = []
    for _ in range(40):
        reference = build_reference(
            (rng.normal(size=(1279, 12)) @ mixing).round(1), list("abcdefghijkl")
        )
        pool = window = reference.profile
        for _ in range(75):
            batch = count((rng.normal(size=(n_rows, 12)) @ mixing).round(1), reference.edges)
            window = window.scaled(WINDOW_DECAY) + batch
            verdict = assess_drift(reference, pool, window, batch, **THRESHOLDS)
            p_values.append(verdict.p_value)
            pool += batch
    alarms = np.array(p_values)
    assert 0.02 < (alarms < 0.05).mean() < 0.065
    assert (alarms < 0.01).mean() < 0.02


def test_more_shift_is_more_evidence_on_average() -> None:
    """The mean of log p falls as the shift grows."""
    rng = np.random.default_rng(8)
    reference = build_reference(rng.normal(size=(1000, 1)), ["x"])
    means = []
    for shift in (0.0, 0.2, 0.4, 0.8):
        logs = []
        for _ in range(60):
            batch = count(rng.normal(shift, 1, size=(100, 1)), reference.edges)
            verdict = assess_drift(reference, reference.profile, batch, batch, **THRESHOLDS)
            logs.append(np.log(verdict.p_value))
        means.append(np.mean(logs))
    assert all(later < earlier for earlier, later in itertools.pairwise(means))


def test_z_points_where_the_batch_went() -> None:
    """Location is positive when the batch lies higher, scale when it lies further out."""
    rng = np.random.default_rng(9)
    reference = build_reference(rng.normal(size=(2000, 2)), ["up", "wide"])
    rows = np.column_stack([rng.normal(0.5, 1, 500), rng.normal(0, 2, 500)])
    z = location_scale_z(reference.profile, count(rows, reference.edges))
    assert z[0, 0] > 5
    assert z[1, 1] > 5
