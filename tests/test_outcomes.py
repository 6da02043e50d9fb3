"""Counts of scores and answers against scikit-learn, scipy, the textbook and simulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.special import expit, logit, ndtr
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wine_drift.measures import log_loss_per_row
from wine_drift.outcomes import (
    CLIP,
    N_SCORE_BINS,
    SCORES,
    LossSums,
    Outcomes,
    auc_drop_p,
    calibration_z,
    count_outcomes,
    expected_quality,
    log_loss_rise_p,
    log_losses,
    mean_log_loss,
    pearson3_sf,
    recalibration_p,
    roc_auc,
    score_bins,
    share_p,
    within_answers_p,
)

Wine = tuple[Any, Any]
STEADY = settings(deadline=None, derandomize=True)
LADDER = (0.1, 0.2, 0.3, 0.4)  # scores, some way apart
HALF_BIN = float(logit(1 - CLIP)) / N_SCORE_BINS  # of the logit, and so at most of a row's log loss


@pytest.fixture(scope="module")
def wine(red_wine_csv: Path) -> Wine:
    """Labels (quality above 6.5) and out-of-fold scores of the real red wines, shuffled."""
    table = pd.read_csv(red_wine_csv, sep=";").sample(frac=1, random_state=0)
    x = table.drop(columns="quality").to_numpy()
    y = (table["quality"] > 6.5).to_numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return y, cross_val_predict(model, x, y, cv=5, method="predict_proba")[:, 1]


def counted(y: Any, p: Any) -> Outcomes:
    """Counts of rows that are all labelled."""
    y = np.asarray(y, dtype=bool)
    return count_outcomes(np.asarray(p, dtype=float), np.ones(len(y), dtype=bool), y)


def on_bins(p: Any) -> Any:
    """Scores as they are counted: each in the middle of its bin."""
    return SCORES[score_bins(np.asarray(p, dtype=float))]


def losses(y: Any, p: Any) -> Any:
    """Log loss of each row as it is counted."""
    return -np.log(np.where(y, on_bins(p), 1 - on_bins(p)))


def sums(values: Any) -> LossSums:
    """Power sums of losses that no score has to give."""
    return LossSums(*(np.asarray((np.asarray(values) ** k).sum(), dtype=float) for k in range(4)))


def streams(y: Any, p: Any) -> Outcomes:
    """Counts of many sets of rows at once, from arrays of shape (n_streams, n_rows)."""
    cells = (3 * np.arange(len(y))[:, None] + np.where(y, 2, 1)) * N_SCORE_BINS + score_bins(p)
    counts = np.bincount(cells.ravel(), minlength=len(y) * 3 * N_SCORE_BINS)
    return Outcomes(counts.reshape(-1, 3, N_SCORE_BINS).astype(float))


def drawn(wine: Wine, rng: np.random.Generator, n_streams: int, n_rows: int) -> Outcomes:
    """Healthy sets of wines."""
    chosen = rng.integers(0, len(wine[0]), (n_streams, n_rows))
    return streams(wine[0][chosen], wine[1][chosen])


def calibrated(rng: np.random.Generator, n_rows: int, a: float = 0, b: float = 1) -> Wine:
    """Labels that follow the scores exactly, or with another intercept and slope of the logit."""
    z = rng.normal(-2.0, 1.5, n_rows)
    return rng.random(n_rows) < expit(a + b * z), expit(z)


def placements(y: Any, p: Any) -> tuple[float, float]:
    """AUC and DeLong's variance from all pairs of a positive and a negative."""
    wins = (p[y][:, None] > p[~y]) + 0.5 * (p[y][:, None] == p[~y])
    by_one, by_zero = wins.mean(axis=1), wins.mean(axis=0)
    return wins.mean(), by_one.var(ddof=1) / len(by_one) + by_zero.var(ddof=1) / len(by_zero)


def skewed_losses(rng: np.random.Generator, shape: Any) -> Any:
    """Log losses of calibrated scores where one row in ten is positive."""
    p = rng.choice([0.02, 0.05, 0.1, 0.3, 0.6], size=shape, p=[0.4, 0.25, 0.15, 0.12, 0.08])
    return -np.log(np.where(rng.random(shape) < p, p, 1 - p))


# --- Counting -------------------------------------------------------------------------------------

scores = st.one_of(st.floats(0, 1), st.integers(0, 8).map(lambda k: k / 8))
answers = st.sampled_from([None, False, True])  # None: not labelled
rows = st.lists(st.tuples(scores, answers), max_size=40)


def of_rows(some: list[tuple[float, bool | None]]) -> Outcomes:
    """Counts of rows as hypothesis makes them."""
    labelled = np.array([answer is not None for _, answer in some], dtype=bool)
    positive = np.array([answer is True for _, answer in some], dtype=bool)
    return count_outcomes(np.array([score for score, _ in some]), labelled, positive)


@STEADY
@given(rows, st.lists(st.integers(0, 40), max_size=4), st.randoms(use_true_random=False))
def test_counts_are_the_same_in_chunks_and_in_any_order(
    some: list[tuple[float, bool | None]], cuts: list[int], order: Any
) -> None:
    """Rows in one piece, or shuffled and in pieces in another order: not a bit differs."""
    whole = of_rows(some).counts
    shuffled = order.sample(some, len(some))
    pieces = [part.tolist() for part in np.split(np.arange(len(some)), sorted(cuts))]
    total = Outcomes.none()
    for piece in order.sample(pieces, len(pieces)):
        total += of_rows([shuffled[i] for i in piece])
    assert (total.counts == whole).all()
    assert whole.sum() == len(some)


@STEADY
@given(rows)
def test_counts_survive_json(some: list[tuple[float, bool | None]]) -> None:
    """What goes through strict JSON comes back equal, bit for bit, also after a decay."""
    outcomes = of_rows(some).scaled(0.7)
    text = json.dumps(outcomes.to_dict(), allow_nan=False)
    assert (Outcomes.from_dict(json.loads(text)).counts == outcomes.counts).all()


@STEADY
@given(rows)
def test_rows_are_counted_by_label(some: list[tuple[float, bool | None]]) -> None:
    """Labelled and positive rows are as many as there are; the rest is kept apart."""
    outcomes = of_rows(some)
    given_answers = [answer for _, answer in some if answer is not None]
    assert outcomes.n_labelled == len(given_answers)
    assert outcomes.n_positive == sum(given_answers)
    assert outcomes.counts[0].sum() == len(some) - len(given_answers)


def test_what_is_not_labelled_has_no_answer() -> None:
    """`positive` does not count where a row is not labelled, nor does such a row move quality."""
    p, labelled = np.array([0.2, 0.9, 0.4, 0.6]), np.array([True, True, False, False])
    one, other = (count_outcomes(p, labelled, np.array([False, True, k, k])) for k in (False, True))
    assert (one.counts == other.counts).all()
    alone = counted([False, True], p[:2])
    assert mean_log_loss(one) == mean_log_loss(alone)
    assert roc_auc(one)[0] == roc_auc(alone)[0]


@STEADY
@given(st.floats(0, 1))
def test_a_score_is_in_its_bin(score: float) -> None:
    """The middle of the bin is half a bin away at most, on the logit scale, once clipped."""
    middle = float(on_bins(score))
    clipped = float(np.clip(score, CLIP, 1 - CLIP))
    assert abs(logit(middle) - logit(clipped)) <= HALF_BIN * (1 + 1e-6)


def test_bins_are_in_order() -> None:
    """A larger score never has a smaller bin, and every bin is the one of its own middle."""
    assert (np.diff(score_bins(np.linspace(0, 1, 100_001))) >= 0).all()
    assert score_bins(SCORES).tolist() == list(range(N_SCORE_BINS))


# --- Log loss and AUC -----------------------------------------------------------------------------


def test_log_loss_equals_scikit_learn(wine: Wine) -> None:
    """Exactly on the scores as they are counted, and to 2e-4 on the scores as they were."""
    y, p = wine
    assert mean_log_loss(counted(y, p)) == pytest.approx(metrics.log_loss(y, on_bins(p)), rel=1e-12)
    assert mean_log_loss(counted(y, p)) == pytest.approx(metrics.log_loss(y, p), abs=2e-4)
    for start in range(0, 1500, 100):
        part = slice(start, start + 100)
        ours = mean_log_loss(counted(y[part], p[part]))
        assert ours == pytest.approx(metrics.log_loss(y[part], p[part]), abs=1e-3)


@STEADY
@given(st.lists(st.tuples(st.booleans(), scores), min_size=1, max_size=60))
def test_bins_change_log_loss_by_half_a_bin_at_most(some: list[tuple[bool, float]]) -> None:
    """Whatever the scores, counting is off by 0.0138 nats at most from the log loss of the rows."""
    y, p = np.array([y for y, _ in some]), np.array([p for _, p in some])
    exact = log_loss_per_row(y, p).mean()
    assert mean_log_loss(counted(y, p)) == pytest.approx(exact, abs=HALF_BIN * (1 + 1e-6))


def test_loss_sums_are_the_power_sums_of_the_rows(wine: Wine) -> None:
    """Number, sum, and sums of squares and cubes; those of parts add up in any order."""
    y, p = wine
    ours = log_losses(counted(y, p))
    exact = [(losses(y, p) ** k).sum() for k in range(4)]
    assert [float(s) for s in vars(ours).values()] == pytest.approx(exact)
    bounds = [(0, 3), (3, 100), (100, 800), (800, 1599)]
    parts = [counted(y[low:high], p[low:high]) for low, high in bounds]
    for first, *others in permutations(parts):
        assert vars(log_losses(sum(others, start=first))) == vars(ours)


def test_auc_equals_scikit_learn(wine: Wine) -> None:
    """Exactly on the scores as they are counted, and to 4e-4 on the scores as they were."""
    y, p = wine
    area = roc_auc(counted(y, p))[0]
    assert area == pytest.approx(metrics.roc_auc_score(y, on_bins(p)), abs=1e-12)
    assert area == pytest.approx(metrics.roc_auc_score(y, p), abs=4e-4)
    for start in range(0, 1500, 100):
        part = slice(start, start + 100)
        ours = roc_auc(counted(y[part], p[part]))[0]
        assert ours == pytest.approx(metrics.roc_auc_score(y[part], on_bins(p[part])), abs=1e-12)


@pytest.mark.parametrize("digits", [15, 2, 1], ids=["plain", "ties", "many ties"])
def test_variance_is_delongs(wine: Wine, digits: int) -> None:
    """Area and variance are those of the placements of all pairs, ties and all."""
    y, p = wine[0], on_bins(wine[1].round(digits))
    for part in (slice(0, 60), slice(100, 400), slice(None)):
        ours = [float(x) for x in roc_auc(counted(y[part], p[part]))]
        assert ours == pytest.approx(placements(y[part], p[part]), rel=1e-9)


pairs = st.lists(st.tuples(st.booleans(), scores), min_size=4, max_size=60)


@STEADY
@given(pairs.filter(lambda some: 2 <= sum(y for y, _ in some) <= len(some) - 2))
def test_any_area_and_variance_are_those_of_all_pairs(some: list[tuple[bool, float]]) -> None:
    """Whatever the rows are, with two of either answer."""
    y, p = np.array([y for y, _ in some]), on_bins([p for _, p in some])
    area, variance = roc_auc(counted(y, p))
    assert area == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-12)
    assert (area, variance) == pytest.approx(placements(y, p), abs=1e-12)


def test_variance_is_that_of_the_bootstrap(wine: Wine) -> None:
    """The spread of scikit-learn's AUC over 400 redrawn tables is DeLong's, within 20 %."""
    rng = np.random.default_rng(0)
    y, p = wine
    chosen = rng.integers(0, len(y), (400, len(y)))
    spread = np.var([metrics.roc_auc_score(y[rows], p[rows]) for rows in chosen])
    assert roc_auc(counted(y, p))[1] == pytest.approx(spread, rel=0.2)


# --- Log loss up ----------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [-6.0, -2.0, -0.5, -1e-3, 0.0, 1e-3, 0.1, 1.0, 3.0, 6.0])
def test_tail_is_scipys_pearson_three(skew: float) -> None:
    """On both sides of the mean, of either skewness, and outside the support: 0 or 1, not NaN."""
    z = np.linspace(-8, 8, 161)
    ours = pearson3_sf(z, np.full(z.shape, skew))
    assert ours == pytest.approx(stats.pearson3.sf(z, skew), rel=1e-9, abs=1e-15)
    assert ((ours >= 0) & (ours <= 1)).all()


@pytest.mark.parametrize(("n", "m"), [(50, 1000), (400, 300), (20, 30), (1000, 50)])
@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_rise_p_has_the_moments_of_permutation(n: int, m: int, shift: float) -> None:
    """The p-value is scipy's Pearson III tail at the moments of all rows, of either skewness."""
    rng = np.random.default_rng(n)
    pool, batch = skewed_losses(rng, m), skewed_losses(rng, n) + shift
    both = np.concatenate([pool, batch])
    f = n / (n + m)
    skew = stats.skew(both) * (1 - 2 * f) / (n * (1 - f)) ** 0.5
    sd = (both.var() * (1 - f) / n * (n + m) / (n + m - 1)) ** 0.5
    expected = stats.pearson3.sf(batch.mean(), skew, loc=both.mean(), scale=sd)
    assert log_loss_rise_p(sums(pool), sums(batch)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("harder", [0.0, 0.5, 1.0, 1.5])
def test_rise_p_is_that_of_real_permutations(wine: Wine, harder: float) -> None:
    """Of real losses, scipy's ten thousand permutations give the same p-value, by chance or not."""
    y, p = wine
    loss = losses(y, p)
    weight = 1 + harder * loss
    rng = np.random.default_rng(int(4 * harder))
    batch = np.isin(np.arange(len(y)), rng.choice(len(y), 60, False, weight / weight.sum()))
    found = stats.permutation_test(
        (loss[batch], loss[~batch]),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        vectorized=True,
        n_resamples=9999,
        batch=500,
        alternative="greater",
        random_state=0,
    ).pvalue
    ours = log_loss_rise_p(
        log_losses(counted(y[~batch], p[~batch])), log_losses(counted(y[batch], p[batch]))
    )
    assert ours == pytest.approx(found, abs=3 * (found * (1 - found) / 9999) ** 0.5 + 0.002)


def test_rise_p_beyond_the_end_of_pearson_three() -> None:
    """Outside the bounded side of the distribution the p-value is 1 below and 0 above, not NaN."""
    few = sums(np.ones(10))
    many = sums(2 - np.log(np.linspace(0.001, 0.999, 300)))  # 2 plus an exponential tail
    assert log_loss_rise_p(many, few) == 1
    assert log_loss_rise_p(few, many) == 0


def test_rise_p_without_skewness_is_normal() -> None:
    """Equal sizes cancel the skewness, and nearly equal ones change next to nothing."""
    rng = np.random.default_rng(1)
    pool, batch = skewed_losses(rng, 50_000), skewed_losses(rng, 50_000) + 0.01
    both = np.concatenate([pool, batch])
    sd = (both.var() / 2 / 50_000 * 100_000 / 99_999) ** 0.5
    expected = ndtr((both.mean() - batch.mean()) / sd)
    for last in (50_000, 49_999):
        p_value = log_loss_rise_p(sums(pool[:last]), sums(batch))
        assert p_value == pytest.approx(expected, rel=1e-2 if last < 50_000 else 1e-9)


@pytest.mark.parametrize("loss", [0.0, 0.7, 1.1, 13.8])
def test_rise_p_of_equal_losses_is_one(loss: float) -> None:
    """Without variance there is no evidence, whatever the rounding of the sums."""
    assert log_loss_rise_p(sums(np.full(1000, loss)), sums(np.full(37, loss))) == 1


# --- AUC down -------------------------------------------------------------------------------------


@pytest.mark.parametrize("swapped", [0, 5, 20, 60])
def test_drop_p_is_a_z_test_on_the_logit(wine: Wine, swapped: int) -> None:
    """The difference of two logits over the standard error of both, all from all pairs."""
    y, p = wine[0].copy(), on_bins(wine[1])
    y[:swapped] = y[:swapped][::-1]
    (area, variance), (usual, its) = placements(y[:150], p[:150]), placements(y[150:], p[150:])
    error = variance / (area * (1 - area)) ** 2 + its / (usual * (1 - usual)) ** 2
    expected = stats.norm.sf((logit(usual) - logit(area)) / error**0.5)
    ours = auc_drop_p(counted(y[150:], p[150:]), counted(y[:150], p[:150]))
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("ones", "zeros", "told"), [(4, 50, False), (50, 4, False), (5, 5, True)])
def test_drop_p_needs_five_of_either_answer(wine: Wine, ones: int, zeros: int, told: bool) -> None:
    """With fewer there is none, be it in the batch or in the pool."""
    few = counted(np.repeat([1, 0], [ones, zeros]), np.linspace(0.9, 0.1, ones + zeros))
    for p_value in (auc_drop_p(counted(*wine), few), auc_drop_p(few, counted(*wine))):
        assert np.isnan(p_value) != told


@pytest.mark.parametrize("n", [10, 50])
def test_every_pair_out_of_order_is_a_drop(wine: Wine, n: int) -> None:
    """A batch in which each good wine scores below each other one is clearly worse."""
    reversed_order = counted(np.repeat([0, 1], n), np.repeat([0.9, 0.1], n))
    assert auc_drop_p(counted(*wine), reversed_order) < 0.01


@pytest.mark.parametrize("n", [5, 10, 50])
def test_no_pair_out_of_order_is_no_drop(n: int) -> None:
    """A batch in perfect order is never worse, not even than a pool with one pair out of order."""
    pool = counted(np.repeat([0, 1, 0, 1], [500, 1, 1, 300]), np.repeat(LADDER, [500, 1, 1, 300]))
    batch = counted(np.repeat([0, 1], n), np.repeat([0.1, 0.4], n))
    assert auc_drop_p(pool, batch) == 1


# --- Calibration, and what has changed ------------------------------------------------------------


def test_calibration_z_by_hand(wine: Wine) -> None:
    """Surplus of positives per row, less that of the pool, over the standard deviation of both.

    What the scores say of the variance is scaled by what the residuals of the pool say.
    """
    y, p = wine[0], on_bins(wine[1])
    batch, pool = slice(0, 100), slice(100, None)
    surplus = (y[batch] - p[batch]).mean() - (y[pool] - p[pool]).mean()
    variance = sum((p[part] * (1 - p[part])).sum() / len(p[part]) ** 2 for part in (batch, pool))
    scale = (y[pool] - p[pool]).var() / (p[pool] * (1 - p[pool])).mean()
    ours = calibration_z(counted(y[pool], p[pool]), counted(y[batch], p[batch]))
    assert ours == pytest.approx(surplus / (scale * variance) ** 0.5, rel=1e-9)


def test_calibration_z_has_the_sign_of_the_surplus(wine: Wine) -> None:
    """More positives than expected are above zero, fewer below, as many as ever are zero."""
    y, p = wine
    pool = counted(y, p)
    assert calibration_z(pool, counted(np.ones(50), p[:50])) > 5
    assert calibration_z(pool, counted(np.zeros(500), p[:500])) < -5
    assert calibration_z(pool, pool) == 0


def endless(scale: float = 1e9) -> Outcomes:
    """A calibrated reference without a sampling error to speak of."""
    return Outcomes(scale * np.stack([0 * SCORES, 1 - SCORES, SCORES]))


def likelihood_ratio_p(y: Any, p: Any) -> float:
    """P-value that intercept 0 and slope 1 fit as well as those that fit best."""

    def loss(line: Any) -> float:
        z = line[0] + line[1] * logit(p)
        return float(np.logaddexp(0, np.where(y, -z, z)).sum())

    best = optimize.minimize(loss, [0.0, 1.0])
    return float(stats.chi2.sf(2 * (loss([0.0, 1.0]) - best.fun), 2))


@pytest.mark.parametrize("line", [(0, 1), (0.15, 1), (0, 0.9), (-0.2, 0.85)], ids=str)
def test_recalibration_agrees_with_a_likelihood_ratio(line: tuple[float, float]) -> None:
    """A logistic regression on the logit, fitted by scipy, has about the same p-value."""
    reference = endless()
    for seed in range(5):
        y, p = calibrated(np.random.default_rng(seed), 2000, *line)
        p = on_bins(p)
        ours, theirs = recalibration_p(reference, counted(y, p)), likelihood_ratio_p(y, p)
        assert ours == pytest.approx(theirs, abs=0.02)
        assert np.log(ours) == pytest.approx(np.log(theirs), rel=0.25, abs=0.1)


def test_recalibration_takes_off_what_the_reference_is_off_by() -> None:
    """Scores that were always half as large as they should be are no news."""
    rng = np.random.default_rng(0)
    reference, batch = (counted(*calibrated(rng, n, 0.7)) for n in (5000, 2000))
    assert recalibration_p(endless(), batch) < 1e-9
    assert recalibration_p(reference, batch) > 0.01


def test_recalibration_is_blind_to_the_inputs_and_sees_the_answers(wine: Wine) -> None:
    """Only high scores, answered as ever, are no news; flipped or random answers are."""
    rng = np.random.default_rng(1)
    p = on_bins(wine[1])
    y = rng.random(len(p)) < p
    reference, high = counted(y[:800], p[:800]), p > 0.2
    high[:800] = False
    assert recalibration_p(reference, counted(y[high], p[high])) > 0.01
    assert recalibration_p(reference, counted(~y[800:], p[800:])) < 1e-12
    assert recalibration_p(reference, counted(rng.random(799) < 0.5, p[800:])) < 1e-12


def test_within_answers_is_blind_to_the_share_and_sees_the_scores(wine: Wine) -> None:
    """Half of the wines good, each scored as such wines are, is no news; scores shuffled are."""
    rng = np.random.default_rng(2)
    y, p = wine
    reference, y, p = counted(y[:800], p[:800]), y[800:], p[800:]
    half = np.concatenate([np.flatnonzero(y)[:100], np.flatnonzero(~y)[:100]])
    assert within_answers_p(reference, counted(y[half], p[half])) > 0.01
    assert within_answers_p(reference, counted(y, rng.permutation(p))) < 1e-9


@STEADY
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 900), st.integers(0, 900))
def test_share_p_equals_scipys_table(ones: int, zeros: int, more: int, rest: int) -> None:
    """The two-sample z-test is the chi-square test of the 2 x 2 table, without a correction."""
    table = np.array([[ones, zeros], [more, rest]])
    if not table.sum(axis=1).all():
        return
    reference, batch = (counted([1] * a + [0] * b, [0.3] * (a + b)) for a, b in table[::-1])
    if not table.sum(axis=0).all():
        assert share_p(reference, batch) == 1
        return
    theirs = stats.chi2_contingency(table, correction=False).pvalue
    assert share_p(reference, batch) == pytest.approx(theirs, rel=1e-9, abs=1e-300)


# --- What the scores promise ----------------------------------------------------------------------


def test_expected_quality_is_what_calibrated_scores_come_to(wine: Wine) -> None:
    """Over 400 tables whose answers follow the scores, log loss and AUC are as promised."""
    p = on_bins(wine[1])
    y = np.random.default_rng(0).random((400, len(p))) < p
    realised = streams(y, np.broadcast_to(p, y.shape))
    for promised, figures in zip(
        expected_quality(counted(y[0], p)),
        (mean_log_loss(realised), roc_auc(realised)[0]),
        strict=True,
    ):
        error = figures.std() / len(figures) ** 0.5
        assert promised == pytest.approx(figures.mean(), abs=3 * error + 1 / len(p))


def test_expected_quality_needs_and_sees_no_label(wine: Wine) -> None:
    """Labels flipped, or none at all, change nothing."""
    y, p = wine
    unlabelled = count_outcomes(p, np.zeros(len(y), dtype=bool), y)
    promised = expected_quality(counted(y, p))
    assert promised == expected_quality(counted(~y, p)) == expected_quality(unlabelled)
    assert promised == pytest.approx(
        (metrics.log_loss(y, p), metrics.roc_auc_score(y, p)), abs=0.02
    )


# --- Edges ----------------------------------------------------------------------------------------

EDGES: dict[str, tuple[Any, Any]] = {
    "one class": ([0] * 15, [0.1, 0.2, 0.3] * 5),
    "the other class": ([1] * 15, [0.1, 0.2, 0.3] * 5),
    "one class, one score": ([0] * 49, [0.1] * 49),
    "the same, more": ([0] * 50, [0.3] * 50),
    "perfect": ([0] * 10 + [1] * 10, [0.1] * 10 + [0.9] * 10),
    "all wrong": ([0] * 10 + [1] * 10, [0.9] * 10 + [0.1] * 10),
    "all scores equal": ([0, 1] * 10, [0.3] * 20),
    "certain and right": ([0] * 10 + [1] * 10, [0.0] * 10 + [1.0] * 10),
    "certain and wrong": ([0] * 10 + [1] * 10, [1.0] * 10 + [0.0] * 10),
    "one row": ([1], [0.3]),
    "two rows": ([1, 0], [0.0, 1.0]),
}
P_VALUES: dict[str, Callable[[Outcomes, Outcomes], Any]] = {
    "log loss": lambda pool, batch: log_loss_rise_p(log_losses(pool), log_losses(batch)),
    "auc": auc_drop_p,
    "recalibration": recalibration_p,
    "within": within_answers_p,
    "share": share_p,
}


@pytest.mark.parametrize("name", P_VALUES)
@pytest.mark.parametrize("edge", EDGES)
def test_p_values_are_probabilities_at_the_edges(wine: Wine, edge: str, name: str) -> None:
    """In [0, 1] without a warning, as batch and as reference; NaN only for an AUC of too few."""
    odd, usual = counted(*EDGES[edge]), counted(*wine)
    ones, n = float(odd.n_positive), float(odd.n_labelled)
    untold = name == "auc" and min(ones, n - ones) < 5
    for pool, batch in ((usual, odd), (odd, usual), (odd, odd)):
        p_value = P_VALUES[name](pool, batch)
        assert np.isnan(p_value) if untold else 0 <= p_value <= 1


@pytest.mark.parametrize("edge", EDGES)
def test_calibration_z_is_no_wild_number_at_the_edges(wine: Wine, edge: str) -> None:
    """Finite without a warning, as batch and as pool, though the pool may have no variance."""
    odd, usual = counted(*EDGES[edge]), counted(*wine)
    for pool, batch in ((usual, odd), (odd, usual), (odd, odd)):
        assert abs(calibration_z(pool, batch)) < 1000


@pytest.mark.parametrize(
    ("edge", "area"),
    [
        ("one class", np.nan),
        ("the other class", np.nan),
        ("perfect", 1.0),
        ("certain and right", 1.0),
        ("all wrong", 0.0),
        ("certain and wrong", 0.0),
        ("all scores equal", 0.5),
    ],
)
def test_areas_without_variance(edge: str, area: float) -> None:
    """The area is exact, and undefined without rows of either answer; it has no variance."""
    found, variance = roc_auc(counted(*EDGES[edge]))
    assert (found, variance) == pytest.approx((area, area * 0), nan_ok=True)


def test_variance_takes_two_rows_of_either_answer() -> None:
    """With one good wine the area is known and its variance is not."""
    area, variance = roc_auc(counted([1, 0, 0], [0.5, 0.4, 0.6]))
    assert area == 0.5
    assert np.isnan(variance)


def test_a_certain_row_costs_what_the_clip_allows() -> None:
    """Scores of 0 and 1 cost next to nothing if right, and just under ln 1,000,000 if wrong."""
    assert mean_log_loss(counted(*EDGES["certain and right"])) == pytest.approx(0, abs=2e-6)
    wrong = float(mean_log_loss(counted(*EDGES["certain and wrong"])))
    assert -np.log(CLIP) - 2 * HALF_BIN <= wrong <= -np.log(CLIP)


@pytest.mark.parametrize("scored", [[], [0.2, 0.7]], ids=["empty", "unlabelled"])
def test_without_labelled_rows_nothing_is_told(wine: Wine, scored: list[float]) -> None:
    """Log loss and area are NaN, p-values 1 or NaN, z is 0; what the scores promise remains."""
    nothing, some = np.zeros(len(scored), dtype=bool), counted(*wine)
    none = count_outcomes(np.array(scored), nothing, nothing)
    assert np.isnan(mean_log_loss(none))
    assert np.isnan(roc_auc(none)).all()
    for pool, batch in ((some, none), (none, some), (none, none)):
        assert log_loss_rise_p(log_losses(pool), log_losses(batch)) == 1
        assert np.isnan(auc_drop_p(pool, batch))
        assert calibration_z(pool, batch) == 0
        assert within_answers_p(pool, batch) == 1
    assert (expected_quality(none) == (None, None)) == (not scored)


@pytest.mark.parametrize("question", [recalibration_p, share_p])
def test_without_labelled_rows_nothing_has_changed(
    wine: Wine, question: Callable[[Outcomes, Outcomes], float]
) -> None:
    """There is no evidence without rows: 1, as from `within_answers_p`."""
    assert question(counted(*wine), Outcomes.none()) == 1
    assert question(Outcomes.none(), counted(*wine)) == 1


@pytest.mark.parametrize("n", [5, 50, 1000])
def test_streams_are_judged_as_one_at_a_time(wine: Wine, n: int) -> None:
    """Counts with leading axes give what each stream gives alone, in a grid of 3 x 4 of them."""
    rng = np.random.default_rng(n)
    pools, batches = (
        Outcomes(drawn(wine, rng, 12, size).counts.reshape(3, 4, 3, N_SCORE_BINS))
        for size in (300, n)
    )
    factors = rng.random((3, 4))

    def figures(pool: Outcomes, batch: Outcomes, factor: Any) -> list[Any]:
        return [
            *vars(log_losses(batch)).values(),
            *roc_auc(batch),
            mean_log_loss(pool + batch),
            mean_log_loss(pool.scaled(factor) + batch),
            log_loss_rise_p(log_losses(pool), log_losses(batch)),
            auc_drop_p(pool, batch),
            calibration_z(pool, batch),
            batch.n_labelled,
            batch.n_positive,
        ]

    together = figures(pools, batches, factors)
    for at in np.ndindex(3, 4):
        alone = figures(Outcomes(pools.counts[at]), Outcomes(batches.counts[at]), factors[at])
        ours = [float(values[at]) for values in together]
        assert ours == pytest.approx([float(x) for x in alone], rel=1e-9, nan_ok=True)


# --- Rates ----------------------------------------------------------------------------------------


def rates(p_values: Any) -> tuple[float, float]:
    """Shares below 0.05 and 0.01 of the p-values that there are."""
    known = np.asarray(p_values)[~np.isnan(p_values)]
    return float((known < 0.05).mean()), float((known < 0.01).mean())


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100, 500])
def test_healthy_wines_alarm_at_the_nominal_rate(wine: Wine, n: int) -> None:
    """Of 4,000 healthy batches each test finds about 5 % below 0.05 and 1 % below 0.01."""
    rng = np.random.default_rng(n)
    found: list[list[Any]] = [[], [], []]
    for _ in range(4):
        pool, batch = drawn(wine, rng, 1000, 1279), drawn(wine, rng, 1000, n)
        found[0].append(log_loss_rise_p(log_losses(pool), log_losses(batch)))
        found[1].append(auc_drop_p(pool, batch))
        found[2].append(2 * ndtr(-np.abs(calibration_z(pool, batch))))
    for p_values in map(np.concatenate, found):
        often, seldom = rates(p_values)
        assert 0.025 <= often <= 0.075
        assert 0.004 <= seldom <= 0.018


@pytest.mark.slow
def test_a_nearly_perfect_model_alarms_no_more() -> None:
    """Where one pair in ten thousand is out of order, 5 % stay 5 %, give or take chance."""
    rng = np.random.default_rng(5)

    def some(n: int) -> Outcomes:
        y = rng.random((1000, n)) < 0.3
        z = 5 * (rng.normal(size=y.shape) + 5 * y - 2.5) + logit(0.3)
        return streams(y, expit(z))

    assert rates(auc_drop_p(some(800), some(50)))[0] <= 0.08


@pytest.mark.slow
def test_recalibration_is_uniform_where_nothing_changed() -> None:
    """Of 6,000 batches that follow their scores the p-values are uniform (Kolmogorov-Smirnov)."""
    rng = np.random.default_rng(6)
    found = [
        recalibration_p(counted(*calibrated(rng, 1000)), counted(*calibrated(rng, 300)))
        for _ in range(6000)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    often, seldom = rates(found)
    assert 0.04 <= often <= 0.06
    assert 0.005 <= seldom <= 0.018


@pytest.mark.slow
@pytest.mark.parametrize("line", [(0.7, 1.0), (0.0, 0.7)], ids=["too low", "too sure"])
def test_scores_that_were_always_off_alarm_little_more(line: tuple[float, float]) -> None:
    """Where pool and batch are off alike, 5 % are at most 7 % of z and of recalibration."""
    rng = np.random.default_rng(9)
    found: list[tuple[float, float]] = []
    for _ in range(2000):
        pool, batch = (counted(*calibrated(rng, n, *line)) for n in (1000, 300))
        z = float(calibration_z(pool, batch))
        found.append((2 * float(ndtr(-abs(z))), recalibration_p(pool, batch)))
    of_z, of_recalibration = (rates(p_values)[0] for p_values in zip(*found, strict=True))
    assert of_z <= 0.07
    assert of_recalibration <= 0.07


@pytest.mark.slow
def test_other_inputs_are_no_other_answers_to_scores_that_are_off() -> None:
    """Where a model was always too sure of itself, a batch of higher scores alarms no more."""
    rng = np.random.default_rng(10)
    found = []
    for _ in range(1000):
        z = np.concatenate([rng.normal(-2.6, 1.5, 1000), rng.normal(-1.2, 1.5, 300)])
        y = rng.random(1300) < expit(0.5 * z)
        pool, batch = (counted(y[part], expit(z[part])) for part in np.s_[:1000, 1000:])
        found.append(recalibration_p(pool, batch))
    often, seldom = rates(found)
    assert often <= 0.07 and seldom <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100, 500])
def test_within_answers_alarms_no_more_than_it_may(wine: Wine, n: int) -> None:
    """Of 2,000 healthy batches 5 % at most are below 0.05, 1 % below 0.01, but for chance."""
    rng = np.random.default_rng(7)
    pools, batches = drawn(wine, rng, 2000, 800).counts, drawn(wine, rng, 2000, n).counts
    pairs = zip(map(Outcomes, pools), map(Outcomes, batches), strict=True)
    often, seldom = rates([within_answers_p(pool, batch) for pool, batch in pairs])
    assert 0.02 <= often <= 0.065
    assert seldom <= 0.017


@pytest.mark.parametrize("n", [50, 100, 500])
def test_flipped_labels_are_beyond_doubt(wine: Wine, n: int) -> None:
    """Of a hundred batches with flipped labels every one is found by each test, and far out."""
    rng = np.random.default_rng(8)
    y, p = wine
    chosen = rng.integers(0, len(y), (100, n))
    pool, batch = drawn(wine, rng, 100, 800), streams(~y[chosen], p[chosen])
    assert (log_loss_rise_p(log_losses(pool), log_losses(batch)) < 1e-9).all()
    assert (calibration_z(pool, batch) > 9).all()
    drops = auc_drop_p(pool, batch)
    assert (drops[~np.isnan(drops)] < 0.01).all()


def test_better_answers_are_no_alarm(wine: Wine) -> None:
    """A batch scored almost by its answers is not worse."""
    y, p = wine
    pool, better = counted(y[100:], p[100:]), counted(y[:100], y[:100] * 0.98 + 0.01)
    assert log_loss_rise_p(log_losses(pool), log_losses(better)) > 0.99
    assert auc_drop_p(pool, better) > 0.5
