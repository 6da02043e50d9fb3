"""Quality measures against scikit-learn and scipy, and their intervals against simulation."""

from __future__ import annotations

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

from wine_drift.measures import Estimate, count_answers, log_loss_per_row, measure_quality

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


def test_mean_intervals_are_halls(wine: tuple[Any, Any]) -> None:
    """Hall's cubic of the studentised mean takes each limit to a quantile of Student's t."""
    y, p = wine[0][:100], wine[1][:100]
    quality = measure_quality(y, p, cut=CUT)
    for estimate, per_row in (
        (quality.log_loss, -np.log(np.where(y, p, 1 - p))),
        (quality.brier_score, (y - p) ** 2),
    ):
        assert estimate.low is not None and estimate.high is not None
        t = (per_row.mean() - np.array([estimate.low, estimate.high])) / stats.sem(per_row)
        skew = stats.skew(per_row) / 10
        cubic = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
        assert cubic == pytest.approx(stats.t.ppf([0.975, 0.025], 99), abs=1e-9)


def test_mean_intervals_without_skewness_are_students() -> None:
    """Rows that lie as far below the mean as above have the plain t-interval."""
    estimate = measure_quality([0] * 20, np.sqrt(np.linspace(0.2, 0.6, 20)), cut=0.5).brier_score
    per_row = np.linspace(0.2, 0.6, 20)
    interval = stats.t.interval(0.95, 19, loc=per_row.mean(), scale=stats.sem(per_row))
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
@pytest.mark.parametrize("n", [50, 100, 500])
def test_mean_intervals_cover(n: int) -> None:
    """Log-loss and Brier intervals hold the true value in 93-97% of calibrated batches."""
    rng = np.random.default_rng(6)
    grid = np.array([0.02, 0.1, 0.3, 0.6])
    true_loss = -(grid * np.log(grid) + (1 - grid) * np.log(1 - grid)).mean()
    true_brier = (grid * (1 - grid)).mean()
    covered = []
    for _ in range(2000):
        p = rng.choice(grid, size=n)
        quality = measure_quality(rng.random(n) < p, p, cut=0.5)
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


def test_very_many_scores_are_kept_in_bins_that_hardly_matter() -> None:
    """Beyond 65,536 different scores the measures are scikit-learn's to a millionth."""
    rng = np.random.default_rng(7)
    p = rng.beta(0.6, 3, size=200_000)
    y = rng.random(len(p)) < p
    assert count_answers(y, p, cut=CUT).negative.binned
    assert values(y, p, CUT) == pytest.approx(peers(y, p, CUT), abs=1e-6)
