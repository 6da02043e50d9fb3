"""Quality measures against scikit-learn and scipy, and intervals and test against simulation."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logit, ndtr
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wine_drift.quality import (
    Estimate,
    LossSums,
    log_loss_increase_p,
    log_loss_per_row,
    measure_quality,
)

CUT = 0.3
MEASURES = [
    "log_loss",
    "roc_auc",
    "brier_score",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "calibration_error",
]


@pytest.fixture(scope="module")
def wine(red_wine_csv: Path) -> tuple[Any, Any]:
    """Labels (quality above 6.5) and out-of-fold scores of the real red wines, shuffled."""
    table = pd.read_csv(red_wine_csv, sep=";").sample(frac=1, random_state=0)
    x = table.drop(columns="quality").to_numpy()
    y = (table["quality"] > 6.5).to_numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return y, cross_val_predict(model, x, y, cv=5, method="predict_proba")[:, 1]


def peers(y: Any, p: Any, cut: float) -> dict[str, float]:
    """The same measures from scikit-learn."""
    predicted = p >= cut
    return {
        "log_loss": metrics.log_loss(y, p, labels=[0, 1]),
        "roc_auc": metrics.roc_auc_score(y, p),
        "brier_score": metrics.brier_score_loss(y, p, pos_label=1),
        "accuracy": metrics.accuracy_score(y, predicted),
        "precision": metrics.precision_score(y, predicted, zero_division=np.nan),
        "recall": metrics.recall_score(y, predicted),
        "f1": metrics.f1_score(y, predicted),
    }


def values(y: Any, p: Any, cut: float) -> dict[str, float]:
    """Our values by name, without the one that scikit-learn lacks; undefined is NaN, as there."""
    ours = measure_quality(y, p, cut=cut).measures()
    del ours["calibration_error"]
    return {k: np.nan if e.value is None else e.value for k, e in ours.items()}


def skewed_losses(rng: np.random.Generator, shape: Any) -> Any:
    """Log losses of calibrated scores where one row in ten is positive."""
    p = rng.choice([0.02, 0.05, 0.1, 0.3, 0.6], size=shape, p=[0.4, 0.25, 0.15, 0.12, 0.08])
    return -np.log(np.where(rng.random(shape) < p, p, 1 - p))


def sums(losses: Any) -> LossSums:
    return LossSums.from_losses(losses)


@pytest.mark.parametrize("digits", [15, 2, 1], ids=["plain", "ties", "many ties"])
def test_real_batches_equal_scikit_learn(wine: tuple[Any, Any], digits: int) -> None:
    """On every batch of 100 real wines all values are those of scikit-learn."""
    y, p = wine[0], wine[1].round(digits)
    for start in range(0, 1500, 100):
        rows = slice(start, start + 100)
        expected = peers(y[rows], p[rows], CUT)
        assert values(y[rows], p[rows], CUT) == pytest.approx(expected, abs=1e-9)


# Scores on a coarse grid tie often, and the grid holds 0 and 1, where the log loss is clipped.
scores = st.one_of(st.floats(0, 1), st.integers(0, 8).map(lambda k: k / 8))
rows = st.lists(st.tuples(st.booleans(), scores), min_size=2, max_size=60)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(rows.filter(lambda r: len({y for y, _ in r}) == 2), scores)
def test_any_batch_equals_scikit_learn(rows: list[tuple[bool, float]], cut: float) -> None:
    """Whatever the labels, ties, scores of 0 and 1 and the cut, the values are scikit-learn's."""
    y, p = np.array([y for y, _ in rows]), np.array([p for _, p in rows])
    assert values(y, p, cut) == pytest.approx(peers(y, p, cut), abs=1e-9, nan_ok=True)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), scores), max_size=40), scores)
def test_every_estimate_is_in_order_or_has_a_reason(
    rows: list[tuple[bool, float]], cut: float
) -> None:
    """Low <= value <= high, all finite, or a reason says why one is missing; never NaN."""
    y, p = np.array([y for y, _ in rows]), np.array([p for _, p in rows])
    for name, e in measure_quality(y, p, cut=cut).measures().items():
        if e.low is None or e.high is None or e.value is None:
            assert e.reason and e.low is e.high is None, name
        else:
            assert e.reason == "", name
            assert 0 <= e.low <= e.value <= e.high < np.inf, name
            assert e.high <= 1 or name == "log_loss", name


def test_measures_come_by_name_in_a_fixed_order(wine: tuple[Any, Any]) -> None:
    """The dict holds the eight measures in the documented order, each the attribute it names."""
    quality = measure_quality(*wine, cut=CUT)
    assert list(quality.measures()) == MEASURES
    assert all(quality.measures()[name] is getattr(quality, name) for name in MEASURES)


def test_counts_and_calibration_in_the_large(wine: tuple[Any, Any]) -> None:
    """Rows, positives, expected positives and their z are the plain sums."""
    y, p = wine
    quality = measure_quality(y, p, cut=CUT)
    assert (quality.n_rows, quality.n_positive) == (1599, 217)
    assert quality.expected_positives == pytest.approx(sum(p))
    assert quality.mean_score == pytest.approx(sum(p) / 1599)
    z = (217 - sum(p)) / sum(q * (1 - q) for q in p) ** 0.5
    assert quality.oe_z == pytest.approx(z)


def test_calibration_error_is_the_row_weighted_gap_of_ten_bins(wine: tuple[Any, Any]) -> None:
    """The expected calibration error follows its definition, bin by bin."""
    y, p = wine
    gaps = []
    for k in range(10):
        inside = (p >= k / 10) & ((p < (k + 1) / 10) | (k == 9))
        if inside.any():
            gaps.append(inside.mean() * abs(y[inside].mean() - p[inside].mean()))
    assert measure_quality(y, p, cut=CUT).calibration_error.value == pytest.approx(sum(gaps))


def test_a_score_of_one_is_in_the_last_calibration_bin() -> None:
    """Scores 0.95 and 1 share a bin, so that the gaps 0.05 and -1 add before their size counts."""
    quality = measure_quality([1, 0], [0.95, 1.0], cut=0.5)
    assert quality.calibration_error.value == pytest.approx(0.95 / 2)


def test_a_score_at_the_cut_predicts_a_positive() -> None:
    """A positive wine that scores exactly the cut is found, one just below is not."""
    assert measure_quality([1, 0], [0.5, 0.1], cut=0.5).recall.value == 1
    assert measure_quality([1, 0], [np.nextafter(0.5, 0), 0.1], cut=0.5).recall.value == 0


def test_mean_intervals_are_those_of_student(wine: tuple[Any, Any]) -> None:
    """Log loss and Brier score have the t-interval of their per-row values."""
    y, p = wine[0][:100], wine[1][:100]
    quality = measure_quality(y, p, cut=CUT)
    for estimate, per_row in (
        (quality.log_loss, -np.log(np.where(y, p, 1 - p))),
        (quality.brier_score, (y - p) ** 2),
    ):
        interval = stats.t.interval(0.95, 99, loc=per_row.mean(), scale=stats.sem(per_row))
        assert (estimate.low, estimate.high) == pytest.approx(interval, abs=1e-9)


def test_mean_intervals_stay_in_range() -> None:
    """With two wild rows the Brier interval is cut to [0, 1] and the log-loss one at 0."""
    quality = measure_quality([1, 1], [0.1, 0.9], cut=0.5)
    assert (quality.brier_score.low, quality.brier_score.high) == (0, 1)
    assert quality.log_loss.low == 0
    assert quality.log_loss.high is not None and quality.log_loss.high > 1


@pytest.mark.parametrize("found", [0, 1, 4, 7, 9, 10])
def test_share_intervals_are_those_of_wilson(found: int) -> None:
    """Accuracy, precision and recall have Wilson's interval, F1 that of F* carried over."""
    # 20 positives of which 2 * found are predicted, 30 negatives of which 5 are.
    y = np.repeat([1, 1, 0, 0], [2 * found, 20 - 2 * found, 5, 25])
    p = np.repeat([0.9, 0.1, 0.9, 0.1], [2 * found, 20 - 2 * found, 5, 25])
    quality = measure_quality(y, p, cut=0.5)

    def wilson(k: int, n: int) -> Any:
        return stats.binomtest(k, n).proportion_ci(method="wilson")

    for estimate, interval in (
        (quality.accuracy, wilson(2 * found + 25, 50)),
        (quality.precision, wilson(2 * found, 2 * found + 5)),
        (quality.recall, wilson(2 * found, 20)),
        (quality.f1, [2 / (1 + 1 / max(j, 1e-99)) for j in wilson(2 * found, 25)]),
    ):
        assert (estimate.low, estimate.high) == pytest.approx(tuple(interval), abs=1e-12)


@pytest.mark.parametrize("digits", [15, 1], ids=["plain", "ties"])
def test_auc_interval_has_the_variance_of_delong(wine: tuple[Any, Any], digits: int) -> None:
    """The interval on the logit scale is 1.96 standard errors of DeLong's, from all pairs."""
    y, p = wine[0][:300], wine[1][:300].round(digits)
    ones, zeros = p[y], p[~y]
    wins = (ones[:, None] > zeros) + 0.5 * (ones[:, None] == zeros)
    auc = wins.mean()
    by_one, by_zero = wins.mean(axis=1), wins.mean(axis=0)
    variance = np.var(by_one, ddof=1) / len(ones) + np.var(by_zero, ddof=1) / len(zeros)
    half = stats.norm.ppf(0.975) * variance**0.5 / (auc * (1 - auc))
    estimate = measure_quality(y, p, cut=CUT).roc_auc
    assert estimate.low is not None and estimate.high is not None
    assert logit([estimate.low, estimate.high]) == pytest.approx(
        logit(auc) + np.array([-half, half]), abs=1e-9
    )


def test_no_rows_leave_everything_undefined() -> None:
    """An unlabelled batch has no measure, and each says so."""
    quality = measure_quality([], [], cut=0.5)
    unknown = Estimate(None, None, None, "no labelled rows")
    assert quality.measures() == dict.fromkeys(MEASURES, unknown)
    assert (quality.n_rows, quality.n_positive, quality.expected_positives) == (0, 0, 0.0)
    assert quality.oe_z is None and quality.mean_score is None


def test_one_class_leaves_log_loss_but_no_auc() -> None:
    """Without a positive wine AUC, recall and F1 are undefined, log loss and accuracy are not."""
    quality = measure_quality([0, 0, 0], [0.1, 0.2, 0.6], cut=0.5)
    assert quality.roc_auc == Estimate(None, None, None, "one class only")
    assert quality.recall == quality.f1 == Estimate(None, None, None, "no positives")
    assert quality.log_loss.value == pytest.approx(-np.log([0.9, 0.8, 0.4]).mean())
    assert quality.accuracy.value == pytest.approx(2 / 3)
    assert quality.precision.value == 0
    assert measure_quality([1, 1], [0.1, 0.2], cut=0.5).roc_auc.reason == "one class only"


def test_no_positive_prediction_leaves_precision_undefined() -> None:
    """A cut above all scores has no precision; recall and F1 are 0, as nothing was found."""
    quality = measure_quality([0, 1, 1], [0.1, 0.2, 0.3], cut=0.5)
    assert quality.precision == Estimate(None, None, None, "no positive predictions")
    assert quality.recall.value == quality.f1.value == 0


@pytest.mark.parametrize(
    ("positives", "negatives", "reason"),
    [
        (4, 50, "fewer than 5 positives"),
        (50, 4, "fewer than 5 negatives"),
        (5, 5, ""),
    ],
)
def test_auc_interval_needs_five_of_either_class(
    positives: int, negatives: int, reason: str
) -> None:
    """Below five rows of a class the AUC has a value but no interval."""
    y = np.repeat([1, 0], [positives, negatives])
    p = np.random.default_rng(0).random(len(y))
    auc = measure_quality(y, p, cut=0.5).roc_auc
    assert auc.reason == reason
    assert auc.value == pytest.approx(metrics.roc_auc_score(y, p))
    assert (auc.low is None) == bool(reason)


@pytest.mark.parametrize(
    ("ones", "zeros", "value", "reason"),
    [
        (0.8, 0.2, 1.0, "perfect separation"),
        (0.2, 0.8, 0.0, "perfect separation"),
        (0.3, 0.3, 0.5, "all scores tie"),
    ],
)
def test_auc_without_variance_has_no_interval(
    ones: float, zeros: float, value: float, reason: str
) -> None:
    """Where DeLong's variance is 0 no interval is claimed."""
    quality = measure_quality([1] * 7 + [0] * 9, [ones] * 7 + [zeros] * 9, cut=0.5)
    assert quality.roc_auc == Estimate(value, None, None, reason)


def test_rows_that_are_all_alike_have_no_mean_interval() -> None:
    """One row, or rows with one and the same loss, say nothing about the spread."""
    assert measure_quality([1], [0.5], cut=0.5).log_loss.reason == "one row only"
    quality = measure_quality([0] * 9, [0.13] * 9, cut=0.5)
    assert quality.log_loss.reason == quality.brier_score.reason == "no variation between rows"
    assert quality.log_loss.low is None and quality.log_loss.value == pytest.approx(-np.log(0.87))


def test_certain_scores_have_no_oe_z() -> None:
    """Scores of 0 and 1 leave no variance for z; the log loss is finite all the same."""
    quality = measure_quality([0, 1, 1], [0.0, 1.0, 0.0], cut=0.5)
    assert quality.oe_z is None
    assert quality.log_loss.value == pytest.approx(-np.log(np.finfo(float).eps) / 3)


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        pytest.param([0, 1], [0.5], "shape", id="lengths differ"),
        pytest.param([[0, 1]], [[0.5, 0.5]], "shape", id="two dimensions"),
        pytest.param([0, 2], [0.5, 0.5], "label", id="third label"),
        pytest.param([0, np.nan], [0.5, 0.5], "label", id="missing label"),
        pytest.param([0, 1], [0.5, 1.1], "score", id="score above 1"),
        pytest.param([0, 1], [-0.1, 0.5], "score", id="score below 0"),
        pytest.param([0, 1], [0.5, np.nan], "score", id="missing score"),
    ],
)
def test_misuse_is_refused(y: Any, p: Any, message: str) -> None:
    """Labels other than 0 and 1, scores that are no probability and unequal shapes are errors."""
    with pytest.raises(ValueError, match=message):
        measure_quality(y, p, cut=0.5)
    with pytest.raises(ValueError, match=message):
        log_loss_per_row(y, p)


@pytest.mark.parametrize("cut", [-0.1, 1.1, np.nan])
def test_a_cut_outside_the_scores_is_refused(cut: float) -> None:
    """A cut that is no probability is an error."""
    with pytest.raises(ValueError, match="cut"):
        measure_quality([0, 1], [0.1, 0.9], cut=cut)


def test_row_losses_are_capped_alike_on_both_sides() -> None:
    """A certain and wrong score costs ln 1,000,000, be it 0 or 1; booleans are labels too."""
    losses = log_loss_per_row(np.array([True, False, True]), [0.0, 1.0, 0.25])
    assert losses == pytest.approx(np.log([1e6, 1e6, 4]))


def test_loss_sums_merge_in_any_order(wine: tuple[Any, Any]) -> None:
    """Sums of parts, added in any order, are the sums of the whole."""
    losses = log_loss_per_row(*wine)
    whole = sums(losses)
    assert whole.mean == pytest.approx(losses.mean())
    parts = [sums(part) for part in np.split(losses, [3, 100, 800])]
    for first, *others in permutations(parts):
        merged = sum(others, start=first)
        assert merged.to_dict() == pytest.approx(whole.to_dict(), rel=1e-9)


def test_loss_sums_survive_a_round_trip() -> None:
    """What goes to plain numbers comes back equal."""
    whole = sums(np.array([0.1, 0.7, 2.5]))
    assert LossSums.from_dict(whole.to_dict()) == whole


@pytest.mark.parametrize("losses", [[[1.0]], [-1.0], [np.nan], [np.inf]])
def test_loss_sums_refuse_what_is_no_loss(losses: Any) -> None:
    """A loss that is negative, infinite or missing would spoil every later sum."""
    with pytest.raises(ValueError, match="losses"):
        sums(np.array(losses))


def test_no_losses_have_no_mean() -> None:
    """The mean of no rows is None."""
    assert sums(np.array([])).mean is None


@pytest.mark.parametrize(("n", "m"), [(50, 1000), (400, 300), (20, 30)])
@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_increase_p_is_the_tail_of_pearson_three(n: int, m: int, shift: float) -> None:
    """The p-value is scipy's Pearson III tail at the permutation moments, of either skewness."""
    rng = np.random.default_rng(n)
    reference, batch = skewed_losses(rng, m), skewed_losses(rng, n) + shift
    pooled = np.concatenate([reference, batch])
    f = n / (n + m)
    skew = stats.skew(pooled) * (1 - 2 * f) / (n * (1 - f)) ** 0.5
    sd = (pooled.var() * (1 - f) / n * (n + m) / (n + m - 1)) ** 0.5
    expected = stats.pearson3.sf(batch.mean(), skew, loc=pooled.mean(), scale=sd)
    assert log_loss_increase_p(sums(reference), sums(batch)) == pytest.approx(expected, rel=1e-6)


def test_increase_p_beyond_the_end_of_pearson_three() -> None:
    """Outside the bounded side of the distribution the p-value is 1 below and 0 above, not NaN."""
    few = sums(np.ones(10))
    many = sums(2 - np.log(np.linspace(0.001, 0.999, 300)))  # 2 plus an exponential tail
    assert log_loss_increase_p(many, few) == 1
    assert log_loss_increase_p(few, many) == 0


def test_increase_p_without_skewness_is_normal() -> None:
    """Equal sizes cancel the skewness, and nearly equal ones change next to nothing."""
    rng = np.random.default_rng(1)
    reference, batch = skewed_losses(rng, 50_000), skewed_losses(rng, 50_000) + 0.01
    pooled = np.concatenate([reference, batch])
    sd = (pooled.var() / 2 / 50_000 * 100_000 / 99_999) ** 0.5
    expected = ndtr((pooled.mean() - batch.mean()) / sd)
    for last in (50_000, 49_999):
        p_value = log_loss_increase_p(sums(reference[:last]), sums(batch))
        assert p_value == pytest.approx(expected, rel=1e-2 if last < 50_000 else 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.08, 0.2])
def test_increase_p_is_that_of_real_permutations(shift: float) -> None:
    """Twenty thousand shuffles of the pooled losses give the same p-value."""
    rng = np.random.default_rng(3)
    reference, batch = skewed_losses(rng, 300), skewed_losses(rng, 60) + shift
    pooled = np.concatenate([reference, batch])
    shuffled = rng.permuted(np.tile(pooled, (20_000, 1)), axis=1)[:, :60].mean(axis=1)
    expected = (shuffled >= batch.mean()).mean()
    p_value = log_loss_increase_p(sums(reference), sums(batch))
    assert p_value == pytest.approx(expected, abs=3 * (0.25 / 20_000) ** 0.5)


def test_increase_p_of_a_broken_model_is_tiny(wine: tuple[Any, Any]) -> None:
    """Flipped labels in a batch of 100 are beyond doubt, and a better batch is no alarm."""
    y, p = wine
    reference = sums(log_loss_per_row(y[100:], p[100:]))
    broken = log_loss_increase_p(reference, sums(log_loss_per_row(~y[:100], p[:100])))
    better = log_loss_increase_p(reference, sums(log_loss_per_row(y[:100], y[:100] * 0.98 + 0.01)))
    assert broken is not None and broken < 1e-9
    assert better is not None and better > 0.99


@pytest.mark.parametrize("loss", [0.0, 0.7, 1.1, 13.8])
def test_increase_p_of_equal_losses_is_one(loss: float) -> None:
    """Without variance there is no evidence, whatever the rounding of the sums."""
    assert log_loss_increase_p(sums(np.full(1000, loss)), sums(np.full(37, loss))) == 1.0


@pytest.mark.parametrize(("m", "n", "known"), [(100, 9, False), (9, 100, False), (10, 10, True)])
def test_increase_p_needs_ten_rows_on_either_side(m: int, n: int, known: bool) -> None:
    """With fewer than ten rows there is no p-value."""
    rng = np.random.default_rng(0)
    p_value = log_loss_increase_p(sums(skewed_losses(rng, m)), sums(skewed_losses(rng, n)))
    assert (p_value is not None) == known


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n"), [(1000, 100), (100, 1000)])
def test_increase_p_alarms_at_its_nominal_rate(m: int, n: int) -> None:
    """Without a change one batch in twenty is below 0.05, within three standard errors."""
    rng = np.random.default_rng(4)
    p_values = [
        log_loss_increase_p(sums(skewed_losses(rng, m)), sums(skewed_losses(rng, n)))
        for _ in range(4000)
    ]
    rate = np.mean([p is not None and p < 0.05 for p in p_values])
    assert rate == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 4000) ** 0.5)


@pytest.mark.slow
def test_auc_interval_covers() -> None:
    """The AUC interval holds the true value in 93-97% of binormal batches of 500."""
    rng = np.random.default_rng(5)
    truth = ndtr(1.5 / 2**0.5)
    covered = []
    for _ in range(2000):
        y = rng.random(500) < 0.15
        auc = measure_quality(y, ndtr(rng.normal(size=500) + 1.5 * y), cut=0.5).roc_auc
        assert auc.low is not None and auc.high is not None
        covered.append(auc.low <= truth <= auc.high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.slow
def test_mean_intervals_cover() -> None:
    """Log-loss and Brier intervals hold the true value in 93-97% of calibrated batches of 500."""
    rng = np.random.default_rng(6)
    grid = np.array([0.02, 0.1, 0.3, 0.6])
    true_loss = -(grid * np.log(grid) + (1 - grid) * np.log(1 - grid)).mean()
    true_brier = (grid * (1 - grid)).mean()
    covered = []
    for _ in range(2000):
        p = rng.choice(grid, size=500)
        quality = measure_quality(rng.random(500) < p, p, cut=0.5)
        pairs: Any = (quality.log_loss, true_loss), (quality.brier_score, true_brier)
        covered.append([e.low <= truth <= e.high for e, truth in pairs])
    assert ((np.mean(covered, axis=0) >= 0.93) & (np.mean(covered, axis=0) <= 0.97)).all()


@pytest.mark.slow
def test_share_intervals_cover() -> None:
    """Precision, recall and F1 intervals hold the true value in 93-97% of batches of 500."""
    rng = np.random.default_rng(7)
    shares = {"hit": 0.10, "missed": 0.05, "false": 0.08, "rest": 0.77}
    truth = {"precision": 10 / 18, "recall": 10 / 15, "f1": 20 / 33, "accuracy": 0.87}
    covered = []
    for counts in rng.multinomial(500, list(shares.values()), size=2000):
        y, p = np.repeat([1, 1, 0, 0], counts), np.repeat([0.9, 0.1, 0.9, 0.1], counts)
        ours: Any = measure_quality(y, p, cut=0.5).measures()
        covered.append([ours[k].low <= v <= ours[k].high for k, v in truth.items()])
    assert ((np.mean(covered, axis=0) >= 0.93) & (np.mean(covered, axis=0) <= 0.97)).all()
