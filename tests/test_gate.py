"""The gate: at most one candidate passes, and one that is no better at most at the stated rate."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wine_drift.bins import Floats
from wine_drift.gate import Candidate, GateReport, compare, judge
from wine_drift.measures import log_loss_per_row
from wine_drift.recipes import Training, scratch
from wine_drift.retraining import InHand, challenge, first_version
from wine_drift.rows import LabelledRows
from wine_drift.schema import parse_schema

ALPHA = 0.1


@pytest.fixture(scope="module")
def red_rows(red_wine_csv: Path) -> LabelledRows:
    """The 1359 wines of the table, each once."""
    table = np.unique(np.loadtxt(red_wine_csv, delimiter=";", skiprows=1), axis=0)
    return LabelledRows(table[:, :11], table[:, 11] > 6.5, np.zeros(len(table), dtype=np.int64))


def outcomes(report: GateReport) -> dict[str, str]:
    """What came of each candidate."""
    return {each.recipe: each.outcome for each in report.candidates}


def is_at_most(n_found: int, n_runs: int, rate: float = ALPHA) -> bool:
    """Whether so many runs can be by chance if the rate is as stated."""
    test = stats.binomtest(n_found, n_runs, rate, alternative="greater")
    return bool(test.pvalue > 0.001)


# --- one candidate ---


@given(st.integers(0, 2**32 - 1), st.integers(2, 200))
def test_a_comparison_equals_scipys_paired_test(seed: int, n_rows: int) -> None:
    """The p-value is that of scipy's one-sided paired t-test; gain and loss are means."""
    champion, candidate = np.random.default_rng(seed).gamma(1, 0.3, size=(2, n_rows))
    theirs = stats.ttest_rel(champion, candidate, alternative="greater").pvalue
    found = compare(champion, candidate)
    assert found.p_value == pytest.approx(theirs, rel=1e-9)
    assert found.log_loss == pytest.approx(np.mean(candidate))
    assert found.mean_gain == pytest.approx(np.mean(champion) - np.mean(candidate))
    won = judge(champion, {"a": candidate}, positives=1, alpha=ALPHA).outcome == "promoted"
    assert won == (theirs < ALPHA)


def test_two_rows_by_hand() -> None:
    """Gains 1 and 2: mean 1.5, standard error 0.5, t = 3 on one degree of freedom (Cauchy)."""
    found = compare(np.array([1.5, 3.0]), np.array([0.5, 1.0]))
    assert found.mean_gain == 1.5
    assert found.p_value == pytest.approx(math.atan(1 / 3) / math.pi, rel=1e-12)


@pytest.mark.parametrize("n_rows", [2, 50])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_the_same_model_again_is_no_better(n_rows: int, alpha: float) -> None:
    """Equal losses on all rows have p-value 1 and promote nobody, whatever the level."""
    losses = np.linspace(0.1, 0.9, n_rows)
    assert compare(losses, losses.copy()).p_value == 1
    report = judge(losses, {"a": losses.copy()}, positives=1, alpha=alpha)
    assert (report.outcome, outcomes(report)) == ("rejected", {"a": "no_gain"})


@pytest.mark.parametrize(("gain", "outcome"), [(1e-4, "promoted"), (-1e-4, "rejected")])
def test_half_asks_for_a_gain_and_no_more(gain: float, outcome: str) -> None:
    """At level 0.5 a single candidate passes with any mean gain above 0."""
    noise = np.random.default_rng(0).normal(0, 1, 99)
    champion = np.full(99, 2.0)
    candidate = champion - gain - (noise - noise.mean())
    assert judge(champion, {"a": candidate}, positives=1, alpha=0.5).outcome == outcome
    assert judge(champion, {"a": candidate}, positives=1, alpha=0.499).outcome == "rejected"


# --- several candidates ---

CHAMPION = 1 + np.arange(40) % 5 / 10
WAVES = np.tile([1.0, -1.0], 20)  # as many rows gain as lose


def gaining(mean: float, spread: float = 0.1) -> Floats:
    """Losses of a candidate: t = mean / spread * sqrt(39) on 39 degrees of freedom."""
    return CHAMPION - mean - spread * WAVES


def test_the_candidates_of_the_table_below_lie_where_they_should() -> None:
    """p-values: 0.289 with gain 0.009, 0.071 with 0.024, 0.017 with 0.035 and 1e-7 with 0.1."""
    p_values = [compare(CHAMPION, gaining(gain)).p_value for gain in (0.009, 0.024, 0.035, 0.1)]
    theirs = [stats.t.sf(gain / 0.1 * np.sqrt(39), 39) for gain in (0.009, 0.024, 0.035, 0.1)]
    assert p_values == pytest.approx(theirs)
    assert [round(p, 3) for p in p_values if p is not None] == [0.289, 0.071, 0.017, 0.0]


@pytest.mark.parametrize(
    ("gains", "force", "expected"),
    [
        pytest.param({"a": 0.024}, False, {"a": "won"}, id="one, by the whole level"),
        pytest.param(
            {"a": 0.024, "b": -0.1},
            False,
            {"a": "not_proven", "b": "no_gain"},
            id="two, each by half of it",
        ),
        pytest.param(
            {"a": 0.035, "b": -0.1}, False, {"a": "won", "b": "no_gain"}, id="0.017 < 0.05"
        ),
        pytest.param(
            {"a": 0.009, "b": 0.035, "c": 0.024},
            False,
            {"a": "beaten", "b": "won", "c": "beaten"},
            id="three, 0.017 < 0.033",
        ),
        pytest.param(
            {"a": 0.009, "b": -0.01, "c": 0.024},
            False,
            {"a": "beaten", "b": "no_gain", "c": "not_proven"},
            id="none is proven",
        ),
        pytest.param(
            {"a": 0.0, "b": -0.1}, False, {"a": "no_gain", "b": "no_gain"}, id="none gains"
        ),
        pytest.param(
            {"a": 0.1, "b": 0.1}, False, {"a": "won", "b": "beaten"}, id="equals: the first"
        ),
        pytest.param(
            {"a": 0.009, "b": 0.024}, True, {"a": "beaten", "b": "won"}, id="forced, not proven"
        ),
        pytest.param(
            {"a": -0.2, "b": -0.1, "c": -0.3},
            True,
            {"a": "no_gain", "b": "won", "c": "no_gain"},
            id="forced, the least bad",
        ),
        pytest.param(
            {"a": 0.1, "b": 0.035}, True, {"a": "won", "b": "beaten"}, id="forced, proven"
        ),
    ],
)
def test_what_comes_of_each(gains: dict[str, float], force: bool, expected: dict[str, str]) -> None:
    """The largest gain wins if it is below its share of the level; all else is told why not."""
    losses = {recipe: gaining(gain) for recipe, gain in gains.items()}
    report = judge(CHAMPION, losses, positives=7, alpha=ALPHA, force=force)
    assert outcomes(report) == expected
    winner = next((recipe for recipe, outcome in expected.items() if outcome == "won"), None)
    assert (report.winner and report.winner.recipe) == winner
    assert report.outcome == ("promoted" if winner else "rejected")
    assert (report.rows, report.positives, report.forced) == (40, 7, force)
    assert report.level == pytest.approx(ALPHA / len(gains))
    assert report.champion_log_loss == pytest.approx(1.2)
    for each in report.candidates:
        assert each.mean_gain == pytest.approx(gains[each.recipe])
        assert each.log_loss == pytest.approx(1.2 - gains[each.recipe])
        assert each.p_value == compare(CHAMPION, losses[each.recipe]).p_value


def test_a_smaller_gain_that_is_surer_does_not_win() -> None:
    """The largest gain is judged, and none beside it, even one that is proven."""
    losses = {"large": gaining(0.05, spread=0.5), "sure": gaining(0.04, spread=0.01)}
    report = judge(CHAMPION, losses, positives=7, alpha=ALPHA)
    assert outcomes(report) == {"large": "not_proven", "sure": "beaten"}
    assert report.candidates[1].p_value is not None
    assert report.candidates[1].p_value < 1e-20


@pytest.mark.parametrize(
    ("gains", "doubtful", "force", "outcome"),
    [
        pytest.param((0.9, -0.01, -0.01, -0.01), None, False, "won", id="none is in doubt"),
        pytest.param(
            (0.9, -0.01, -0.01, -0.01), 10, False, "unconfirmed", id="none gains after it"
        ),
        pytest.param((0.9, -0.01, -0.01, -0.01), 10, True, "won", id="forced"),
        pytest.param((0.9, 0.1, 0.2, 0.3), 10, False, "won", id="all gain after it"),
        pytest.param((-0.2, 0.1, 0.2, 0.3), 10, False, "won", id="all but the doubtful one"),
        pytest.param((0.9, 0.8, 0.8, -0.01), 10, False, "unconfirmed", id="one after it does not"),
        pytest.param((0.9, 0.8, 0.8, -0.01), None, False, "won", id="which is no matter else"),
        pytest.param((0.9, 0.02, 0.02, 0.02), 10, False, "unconfirmed", id="all gain too little"),
        pytest.param((0.9, 0.3, 0.3, 0.3), 38, False, "won", id="two rows are enough"),
        pytest.param((0.9, 0.3, 0.3, 0.3), 39, False, "unconfirmed", id="one row is not"),
        pytest.param((0.9, 0.3, 0.3, 0.3), 40, False, "unconfirmed", id="no row after it"),
    ],
)
def test_what_labels_in_doubt_tell_must_be_confirmed(
    gains: tuple[float, ...], doubtful: int | None, force: bool, outcome: str
) -> None:
    """Four batches of ten rows: after those in doubt each must gain, and all by the test."""
    mine = CHAMPION - np.repeat(gains, 10) - 0.1 * WAVES
    mine[38:] = CHAMPION[38:] - gains[-1] - (0.001, 0.002)  # two rows that are sure of it
    confirming = np.repeat((1, 2, 3, 4), 10)
    confirming[:doubtful] = 0
    report = judge(
        CHAMPION,
        {"a": mine, "b": CHAMPION - 0.001},
        positives=7,
        alpha=ALPHA,
        confirming=None if doubtful is None else confirming,
        force=force,
    )
    assert outcomes(report) == {"a": outcome, "b": "beaten"}
    assert report.outcome == ("promoted" if outcome == "won" else "rejected")


def test_errors_are_told_together() -> None:
    """One line names every recipe that failed."""
    report = GateReport("failed", 90, 12, ALPHA)
    assert report.error == "" and report.winner is None
    failed = (Candidate("a", "failed", error="E: one"), Candidate("b", "won", p_value=0.01))
    report = replace(report, candidates=(*failed, Candidate("c", "failed", error="E: two")))
    assert report.error == "a: E: one; c: E: two"
    assert report.winner == failed[1]


@pytest.mark.parametrize("n_candidates", [1, 3, 6])
def test_many_candidates_that_gain_nothing_promote_no_more(n_candidates: int) -> None:
    """Of 3000 retrainings in which nothing is gained at most the stated share promotes.

    It is not far below either; and each candidate having the whole level, it would be exceeded.
    """
    rng = np.random.default_rng(n_candidates)
    n_runs, promoted, unshared = 3000, 0, 0
    for _ in range(n_runs):
        champion = rng.gamma(1, 0.3, size=100)
        losses = {
            str(k): champion + each
            for k, each in enumerate(rng.normal(0, 0.05, size=(n_candidates, 100)))
        }
        report = judge(champion, losses, positives=10, alpha=ALPHA)
        promoted += report.outcome == "promoted"
        unshared += any(each.p_value < ALPHA for each in report.candidates if each.p_value)
    assert is_at_most(promoted, n_runs)
    assert promoted > 0.075 * n_runs
    assert is_at_most(unshared, n_runs) == (n_candidates == 1)


# --- real wines ---


def test_the_gate_on_two_equal_models_promotes_at_most_at_its_stated_rate(
    red_rows: LabelledRows,
) -> None:
    """500 runs: champion and challenger, each of 300 wines of its own, on 300 wines drawn anew.

    Neither is better before it is trained; once trained, one of them always is a little, which all
    759 other wines tell: they are what the 300 are drawn from. Where that is the champion, at most
    one run in ten promotes. Where the champion's losses are moved so that neither is better, one in
    ten does: no more than chance allows, and not absurdly few.
    """
    n_runs, n_worse, wrong, equal = 500, 0, 0, 0
    nothing = red_rows.take(slice(0, 0))
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(red_rows))
        how = Training(rounds=20, half_life=10.0, seed=seed, threads=1, window_rows=20_000)
        others = red_rows.take(order[600:])
        champion, challenger = (
            log_loss_per_row(
                others.positive,
                scratch(None, nothing, red_rows.take(part), how).score(others.features),
            )
            for part in (order[:300], order[300:600])
        )
        drawn = rng.integers(0, len(others), 300)
        true_gain = float((champion - challenger).mean())
        as_they_are, made_equal = (
            judge(losses[drawn], {"scratch": challenger[drawn]}, positives=40, alpha=ALPHA).outcome
            == "promoted"
            for losses in (champion, champion - true_gain)
        )
        n_worse += true_gain <= 0
        wrong += as_they_are and true_gain <= 0
        equal += made_equal
    assert 200 < n_worse < 300
    assert is_at_most(wrong, n_worse)
    assert is_at_most(equal, n_runs)
    assert equal > 0.05 * n_runs


def promotions(rows: LabelledRows, n_runs: int, *, parted: bool) -> int:
    """Challengers promoted on a stream of wines that arrive twice, with answers that are noise.

    The champion says hardly more than the base rate, and better cannot be done. With `parted` each
    repeat is told apart from its first by less than any model sees, which parts it in the folds.
    """
    features = [{"name": f"x{j}"} for j in range(11)]
    target = {"column": "y", "positive": "> 0.5"}
    schema = parse_schema(
        {"name": "t", "duplicates": "keep", "target": target, "feature": features}
    )
    facts: dict[str, Any] = {"reason": "test", "parent": None, "trained_at": 0.0, "dataset": "t"}
    how = Training(rounds=5, half_life=10.0, seed=0, threads=1, window_rows=20_000)
    rng = np.random.default_rng(0)
    answers = rng.random(len(rows)) < 0.3
    order = rng.permutation(len(rows))
    known = replace(rows, positive=answers).take(order[:300])
    champion = first_version(known, schema, how, number=1, facts=facts)
    found = 0
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        wines = rng.choice(order[300:], 100, replace=False)
        answers = np.tile(rng.random(100) < 0.3, 2)
        cells = np.tile(rows.features[wines], (2, 1))
        if parted:
            cells = cells * (1 + 1e-9 * rng.random((200, 1)))
        stream = LabelledRows(cells, answers, np.ones(200, dtype=np.int64))
        again = replace(how, rounds=120, seed=seed)
        attempt = challenge(
            champion,
            InHand(champion, stream.take(rng.permutation(200)), schema, again, min_rows=100),
            schema,
            again,
            recipe="scratch",
            alpha=ALPHA,
            min_rows=100,
            number=2,
            facts=facts,
        )
        assert attempt.report.rows == 200  # nothing was dropped
        found += attempt.report.outcome == "promoted"
    return found


def test_repeats_kept_together_do_not_open_the_gate(red_rows: LabelledRows) -> None:
    """Where nothing can be learnt, repeats that tell the answer promote nearly always.

    Kept in one fold with what they repeat, they promote no more often than the gate says.
    """
    assert promotions(red_rows, 6, parted=True) >= 5
    assert is_at_most(promotions(red_rows, 30, parted=False), 30)
