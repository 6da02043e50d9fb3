"""Evidence against integrals, densities, and the same sums in ordinary arithmetic."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from wine_drift.evidence import (
    SMALLEST_P,
    Evidence,
    log_e_of_p,
    log_e_of_shift,
    log_weighted_mean,
)

STREAMS, COLUMNS, DIRECTIONS, BETS = 4, 3, 2, 6
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def batches(seed: int, n_batches: int, scale: float = 1.0) -> list[Batch]:
    """Log e-values of several streams, in the shapes of the parts of Evidence."""
    rng = np.random.default_rng(seed)
    shapes = (STREAMS,), (STREAMS, COLUMNS), (STREAMS, COLUMNS, DIRECTIONS, BETS)
    return [tuple(rng.normal(0, scale, shape) for shape in shapes) for _ in range(n_batches)]


def after(log_es: list[Batch]) -> Evidence:
    """Evidence of all these batches."""
    evidence = Evidence.none(COLUMNS, DIRECTIONS, BETS)
    for batch in log_es:
        evidence = evidence.grown(*batch)
    return evidence


@pytest.mark.parametrize("p", [1e-9, 1e-4, 0.01, 0.05, 0.3, 0.5, 0.9, 0.999, 0.9999, 1 - 1e-5, 1.0])
def test_e_of_p_is_the_average_of_all_bets(p: float) -> None:
    """The e-value is the integral of k p^(k-1) over k from 0 to 1."""
    average, _ = quad(lambda k: k * p ** (k - 1), 0, 1)
    assert np.exp(log_e_of_p(np.array(p))) == pytest.approx(average, rel=1e-8)


def test_e_of_p_at_the_ends() -> None:
    """It is 1/2 for p = 1, and finite for p = 0, which counts as the smallest p-value there is."""
    one, zero, smallest = log_e_of_p(np.array([1.0, 0.0, SMALLEST_P]))
    assert np.exp(one) == 0.5
    assert zero == smallest
    assert 600 < zero < 700


def test_smaller_p_is_more_evidence() -> None:
    """The e-value falls all the way, also where its series takes over from its formula."""
    t = np.concatenate([[0.0], np.geomspace(1e-9, 690, 400)])
    log_e = log_e_of_p(np.exp(-t))
    assert (np.diff(log_e) > -1e-8).all()
    assert (np.diff(log_e[t > 1e-2]) > 0).all()


def test_e_of_p_has_mean_one_on_uniform_p() -> None:
    """Over uniform p it averages 1, less what the smallest p-value cuts off; never above 1."""
    last = -np.log(SMALLEST_P)
    mean, _ = quad(lambda t: np.exp(log_e_of_p(np.exp(-np.array(t))) - t), 0, last, limit=500)
    rest = SMALLEST_P * np.exp(log_e_of_p(np.array(0.0)))
    assert mean + rest <= 1
    assert mean == pytest.approx(1 - 1 / last, abs=1e-6)


@given(st.floats(-30, 30), st.floats(0, 1e4), st.floats(-1, 1))
def test_e_of_shift_is_the_ratio_of_two_normal_densities(z: float, n: float, bet: float) -> None:
    """The logarithm is that of the density with the shifted mean over the one without."""
    mean = bet * np.sqrt(n)
    ratio = stats.norm.logpdf(z, mean) - stats.norm.logpdf(z)
    log_e = log_e_of_shift(np.array([z]), np.array(n), np.array([bet]))
    assert log_e.shape == (1, 1)
    assert log_e[0, 0] == pytest.approx(ratio, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("bet", [-0.4, -0.1, 0.1, 0.4])
def test_e_of_shift_has_mean_one_without_a_shift(bet: float) -> None:
    """Over standard normal z every bet averages 1."""

    def at(z: float) -> float:
        log_e = log_e_of_shift(np.array([z]), np.array(50.0), np.array([bet]))
        return float(np.exp(log_e[0, 0]) * stats.norm.pdf(z))

    assert quad(at, -12, 12)[0] == pytest.approx(1, rel=1e-9)


def test_e_of_shift_pairs_every_direction_with_every_bet() -> None:
    """Each stream and column has its own rows, each direction and each strength its own bet."""
    rng = np.random.default_rng(0)
    z, n, bets = rng.normal(size=(4, 3, 2)), rng.uniform(1, 100, (4, 3)), np.array([0.1, -0.1, 0.4])
    log_e = log_e_of_shift(z, n, bets)
    assert log_e.shape == (4, 3, 2, 3)
    for s, j, d, b in np.ndindex(log_e.shape):
        alone = log_e_of_shift(z[s, j, d : d + 1], n[s, j], bets[b : b + 1])
        assert log_e[s, j, d, b] == alone[0, 0]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(-1e4, 1e4))
def test_the_weighted_mean_does_not_overflow(log_e: list[float], offset: float) -> None:
    """It is numpy's average, and a factor of any size goes straight through."""
    weights = np.arange(1.0, len(log_e) + 1) / np.arange(1.0, len(log_e) + 1).sum()
    expected = np.log(np.average(np.exp(log_e), weights=weights))
    assert log_weighted_mean(np.array(log_e), weights) == pytest.approx(expected, abs=1e-12)
    assert log_weighted_mean(np.array(log_e) + offset, weights) == pytest.approx(
        expected + offset, abs=1e-9
    )


@given(st.integers(0, 1000), st.integers(1, 12))
def test_evidence_is_the_sum_in_ordinary_arithmetic(seed: int, n_batches: int) -> None:
    """Each part follows R = (1 + R) e; half of the whole is all tests, half the average bet."""
    log_es = batches(seed, n_batches)
    together, columns, bets = (np.zeros_like(part) for part in log_es[0])
    for batch in log_es:
        e = [np.exp(part) for part in batch]
        together, columns, bets = (1 + together) * e[0], (1 + columns) * e[1], (1 + bets) * e[2]
    evidence = after(log_es)
    whole = together / 2 + bets.mean(axis=(1, 2, 3)) / 2
    each = (columns / 2 + bets.mean(axis=(2, 3)) / 2) / COLUMNS
    np.testing.assert_allclose(10 ** evidence.log10(), whole, rtol=1e-9)
    np.testing.assert_allclose(10 ** evidence.log10_columns(), each, rtol=1e-9)


def test_fair_bets_grow_by_one_a_batch_on_average() -> None:
    """With e-values of 1/2 and 3/2, R averages exactly t over all that can happen in t batches."""
    for t in (1, 4, 7):
        paths = np.log(np.array(list(itertools.product([0.5, 1.5], repeat=t))))
        evidence = Evidence.none(1, 1, 1)
        for log_e in paths.T:
            evidence = evidence.grown(log_e, log_e[:, None], log_e[:, None, None, None])
        assert (10 ** evidence.log10()).mean() == pytest.approx(t, rel=1e-12)
        assert (10 ** evidence.log10_columns()).mean() == pytest.approx(t, rel=1e-12)


def test_no_evidence_is_nothing() -> None:
    """Before the first batch R is 0, whose logarithm is minus infinity, without a warning."""
    nothing = Evidence.none(COLUMNS, DIRECTIONS, BETS)
    assert nothing.log10() == -np.inf
    assert (nothing.log10_columns() == -np.inf).all()
    assert nothing.bets.shape == (COLUMNS, DIRECTIONS, BETS)


def test_beyond_doubt_does_not_overflow() -> None:
    """A z of 1,000 and p-values of 0, fifty times: the logarithm stays a plain number."""
    z = np.full((COLUMNS, DIRECTIONS), 1000.0)
    bets = log_e_of_shift(z, np.full(COLUMNS, 1e8), np.array([0.1, 0.2, 0.4, -0.1, -0.2, -0.4]))
    zero = log_e_of_p(np.zeros(COLUMNS))
    evidence = Evidence.none(COLUMNS, DIRECTIONS, BETS)
    for _ in range(50):
        evidence = evidence.grown(zero[0], zero, bets)
    # 677.7 nats from each p-value of 0; a bet of 0.1 * 1e4 gains 1000 * 1000 - 1000^2 / 2
    assert evidence.log10() == pytest.approx(50 * 5e5 / np.log(10), rel=1e-4)
    assert np.isfinite(evidence.log10_columns()).all()
    against = evidence.grown(zero[0], zero, -2 * bets)
    assert np.isfinite(against.log10())


def test_evidence_survives_json() -> None:
    """What is written is what is read, to the last bit, and goes on growing the same."""
    first, second = batches(1, 6, scale=30), batches(2, 3)
    for one_stream in (False, True):
        evidence = Evidence.none(COLUMNS, DIRECTIONS, BETS) if one_stream else after(first)
        again = Evidence.from_dict(json.loads(json.dumps(evidence.to_dict(), allow_nan=False)))
        for name, part in vars(evidence).items():
            np.testing.assert_array_equal(vars(again)[name], part, strict=True)
        for batch in second:
            evidence, again = evidence.grown(*batch), again.grown(*batch)
        assert (evidence.log10() == again.log10()).all()


def test_streams_are_judged_one_by_one() -> None:
    """Each entry of a leading axis is what that stream alone would be."""
    log_es = batches(3, 8)
    evidence = after(log_es)
    for s in range(STREAMS):
        alone = after([tuple(part[s] for part in batch) for batch in log_es])
        assert evidence.log10()[s] == pytest.approx(alone.log10(), rel=1e-12)
        np.testing.assert_allclose(
            evidence.log10_columns()[s], alone.log10_columns(), rtol=1e-12, atol=1e-12
        )


def test_kept_forgets_some_streams_and_no_other() -> None:
    """A stream that is not kept starts again from nothing; the others are as they were."""
    evidence = after(batches(4, 5))
    where = np.array([True, False, True, False])
    kept = evidence.kept(where)
    assert (kept.log10()[where] == evidence.log10()[where]).all()
    assert (kept.log10_columns()[where] == evidence.log10_columns()[where]).all()
    assert (kept.log10()[~where] == -np.inf).all()
    assert (kept.log10_columns()[~where] == -np.inf).all()
    one = Evidence(evidence.together[0], evidence.columns[0], evidence.bets[0])
    assert one.kept(np.bool_(False)).log10() == -np.inf
    assert one.kept(np.bool_(True)).log10() == one.log10()


def test_a_column_alone_is_held_to_the_same_threshold() -> None:
    """A column that all evidence is in has the whole's R, but for its share of the bets' mean."""
    together = np.array(5.0)
    columns = np.array([5.0 + np.log(COLUMNS), 0.0, 0.0])
    bets = np.full((COLUMNS, DIRECTIONS, BETS), -np.inf)
    bets[0] = 7.0
    evidence = Evidence.none(COLUMNS, DIRECTIONS, BETS).grown(together, columns, bets)
    assert evidence.log10_columns()[0] == pytest.approx(evidence.log10(), rel=1e-12)
    assert (evidence.log10_columns()[1:] < 0).all()
