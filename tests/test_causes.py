"""Causes of an alarm, named by the real model for real wines and for changes made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from wine_drift.causes import find_causes
from wine_drift.dataset import load_schema
from wine_drift.detector import WINDOW_DECAY
from wine_drift.model import Model, train
from wine_drift.outcomes import Outcomes, count_outcomes
from wine_drift.rows import LabelledRows
from wine_drift.schema import CAUSES

COVARIATE, LABEL, CONCEPT = CAUSES
BOTH = (COVARIATE, CONCEPT)
ALCOHOL = load_schema(None).feature_names.index("alcohol")
BATCHES = 4  # until the window is asked too
STREAMS = 500

Rows = tuple[Any, Any]  # scores and answers
Change = Callable[["Wines", np.random.Generator, int], Rows]


@dataclass(frozen=True)
class Wines:
    """Both tables with honest scores: of the red by models that never saw the wine."""

    scores: Any
    positive: Any
    alcohol: Any
    white_scores: Any
    white_positive: Any

    def drawn(self, rng: np.random.Generator, n: int, weight: Any = None) -> Rows:
        """Red wines with replacement, all alike or by weight."""
        share = None if weight is None else weight / weight.sum()
        chosen = rng.choice(len(self.scores), n, p=share)
        return self.scores[chosen], self.positive[chosen]


def fitted(x: Any, y: Any) -> Model:
    """The package's own model."""
    rows = LabelledRows(x, y, np.zeros(len(y), dtype=int))
    return train(rows, np.ones(len(y)), rounds=200, seed=0, threads=1)


@pytest.fixture(scope="module")
def wines(red_wine_csv: Path, white_wine_csv: Path) -> Wines:
    """Out-of-fold scores of the red wines, repeats kept together, and scores of the white ones."""
    (x, y), (white, answers) = (
        (table[:, :11], table[:, 11] > 6.5)
        for table in (
            np.loadtxt(path, delimiter=";", skiprows=1) for path in (red_wine_csv, white_wine_csv)
        )
    )
    same = np.unique(x, axis=0, return_inverse=True)[1].ravel()
    scores = np.empty(len(y))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for seen, held_out in folds.split(x, y, same):
        scores[held_out] = fitted(x[seen], y[seen]).score(x[held_out])
    return Wines(scores, y, x[:, ALCOHOL], fitted(x, y).score(white), answers)


def counted(rows: Rows) -> Outcomes:
    """Counts of rows that are all labelled."""
    scores, positive = rows
    return count_outcomes(scores, np.ones(len(scores), dtype=bool), positive)


def healthy(wines: Wines, rng: np.random.Generator, n: int) -> Rows:
    """Red wines as they are."""
    return wines.drawn(rng, n)


def strong(wines: Wines, rng: np.random.Generator, n: int) -> Rows:
    """Red wines of more than 11 % alcohol."""
    return wines.drawn(rng, n, 1.0 * (wines.alcohol > 11))


def good(share: float) -> Change:
    """Red wines, so many of them good, each good and each other one as likely as before."""

    def change(wines: Wines, rng: np.random.Generator, n: int) -> Rows:
        usual = wines.positive.mean()
        weight = np.where(wines.positive, share / usual, (1 - share) / (1 - usual))
        return wines.drawn(rng, n, weight)

    return change


def flipped(wines: Wines, rng: np.random.Generator, n: int) -> Rows:
    """Every answer is the other one."""
    scores, positive = wines.drawn(rng, n)
    return scores, ~positive


def random(wines: Wines, rng: np.random.Generator, n: int) -> Rows:
    """The answers are a coin's."""
    return wines.drawn(rng, n)[0], rng.random(n) < 0.5


def shuffled(wines: Wines, rng: np.random.Generator, n: int) -> Rows:
    """As many good wines as ever, but which they are is chance."""
    scores, positive = wines.drawn(rng, n)
    return scores, rng.permutation(positive)


def white(wines: Wines, rng: np.random.Generator, n: int) -> Rows:
    """White wines, scored by the model of the red ones."""
    chosen = rng.integers(0, len(wines.white_scores), n)
    return wines.white_scores[chosen], wines.white_positive[chosen]


def named(
    wines: Wines, change: Change, n: int = 100, *, drifted: bool = True
) -> tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]:
    """How often of 500 streams each answer comes, at the first batch and at the fourth."""
    first: Counter[tuple[str, ...]] = Counter()
    fourth: Counter[tuple[str, ...]] = Counter()
    for stream in range(STREAMS):
        rng = np.random.default_rng((stream, n))
        reference, window = counted(wines.drawn(rng, 800)), Outcomes.none()
        for k in range(BATCHES):
            batch = counted(change(wines, rng, n))
            window = window.scaled(WINDOW_DECAY) + batch
            if k in (0, BATCHES - 1):
                found = find_causes(reference, window, batch, drifted=drifted, min_rows=50)
                (fourth if k else first)[found] += 1
    return first, fourth


def rate(answers: Counter[tuple[str, ...]], cause: str) -> float:
    """Share of streams whose answer names a cause."""
    return sum(number for names, number in answers.items() if cause in names) / STREAMS


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize("drifted", [True, False])
def test_without_a_change_of_answers_none_is_blamed(wines: Wines, n: int, drifted: bool) -> None:
    """A false alarm is put down to the inputs, 97 times in a hundred, or to nothing."""
    for answers in named(wines, healthy, n, drifted=drifted):
        assert (answers[(COVARIATE,)] + answers[()]) / STREAMS >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 500])
def test_strong_wines_are_covariate_drift(wines: Wines, n: int) -> None:
    """Other inputs, the same answers to them: named always, and alone 90 times in a hundred."""
    for answers in named(wines, strong, n):
        assert rate(answers, COVARIATE) == 1
        assert answers[(COVARIATE,)] / STREAMS >= 0.90


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "n", "at_once", "after_four"),
    [(0.3, 100, 0.5, 0.95), (0.5, 100, 0.97, 0.97), (0.3, 500, 0.97, 0.97)],
)
def test_more_good_wines_are_label_shift(
    wines: Wines, share: float, n: int, at_once: float, after_four: float
) -> None:
    """Mostly at once, if 30 % of 100 wines are good, and nearly always after four batches."""
    first, fourth = named(wines, good(share), n)
    assert first[(LABEL,)] / STREAMS >= at_once
    assert fourth[(LABEL,)] / STREAMS >= after_four
    assert first[BOTH] / STREAMS <= 0.05  # if not that, it is taken for other inputs


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize("change", [flipped, random, shuffled])
def test_other_answers_are_concept_drift(wines: Wines, change: Change, n: int) -> None:
    """Named at once, but for one stream in twenty at most, and always after four batches."""
    first, fourth = named(wines, change, n, drifted=False)
    assert first[(CONCEPT,)] / STREAMS >= 0.95
    assert fourth[(CONCEPT,)] == STREAMS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "at_once", "concept", "concept_after_four"),
    [(50, 0.95, 0, 0.2), (100, 1, 0.2, 0.5), (500, 1, 0.7, 0.85)],
)
def test_white_wines_are_covariate_drift_whatever_else(
    wines: Wines, n: int, at_once: float, concept: float, concept_after_four: float
) -> None:
    """Other wines, of which the model knows little: with rows enough that is seen too."""
    first, fourth = named(wines, white, n)
    assert rate(first, COVARIATE) >= at_once
    assert rate(fourth, COVARIATE) == 1
    assert rate(first, CONCEPT) >= concept
    assert rate(fourth, CONCEPT) >= concept_after_four


@pytest.mark.parametrize("change", [flipped, random])
def test_the_inputs_are_blamed_too_if_they_drifted(wines: Wines, change: Change) -> None:
    """Concept drift comes with covariate drift where the columns drifted, and alone where not."""
    rng = np.random.default_rng(0)
    reference, batch = counted(wines.drawn(rng, 800)), counted(change(wines, rng, 200))
    for drifted, causes in ((True, BOTH), (False, (CONCEPT,))):
        assert find_causes(reference, batch, batch, drifted=drifted, min_rows=50) == causes


def test_harder_inputs_are_named_only_where_columns_drifted(wines: Wines) -> None:
    """Only wines near the middle, answered as ever: a drop alone is no proof of other inputs."""
    rng = np.random.default_rng(1)
    p = wines.scores
    y = rng.random(len(p)) < p
    hard = (p > 0.3) & (p < 0.7)
    reference = counted((p, y))
    batch = counted((p[hard], y[hard]))
    assert find_causes(reference, batch, batch, drifted=True, min_rows=50) == (COVARIATE,)
    assert find_causes(reference, batch, batch, drifted=False, min_rows=50) == ()


@pytest.mark.parametrize(
    ("n_positive", "n_negative", "told"),
    [(0, 100, False), (4, 100, False), (100, 4, False), (5, 44, False), (5, 45, True)],
)
def test_few_labels_tell_nothing(
    wines: Wines, n_positive: int, n_negative: int, told: bool
) -> None:
    """Fifty labelled rows, and five of either answer, are the least: of batch and of reference."""
    rng = np.random.default_rng(2)
    usual = counted(wines.drawn(rng, 800))
    positive = np.repeat([True, False], [n_positive, n_negative])
    few = counted((rng.random(len(positive)), positive))
    for reference, batch in ((usual, few), (few, usual)):
        found = find_causes(reference, batch, batch, drifted=True, min_rows=50)
        assert bool(found) == told


def test_unlabelled_rows_tell_nothing(wines: Wines) -> None:
    """A thousand of them are none."""
    reference = counted((wines.scores, wines.positive))
    nothing = np.zeros(1000, dtype=bool)
    batch = count_outcomes(wines.scores[:1000], nothing, nothing)
    assert find_causes(reference, batch, batch, drifted=True, min_rows=1) == ()


def test_a_batch_without_labels_has_no_cause_of_older_ones(wines: Wines) -> None:
    """What the window holds of earlier batches says nothing of one that came without answers."""
    rng = np.random.default_rng(3)
    reference, window = counted(wines.drawn(rng, 800)), counted(flipped(wines, rng, 500))
    assert find_causes(reference, window, Outcomes.none(), drifted=True, min_rows=50) == ()


def test_window_and_batch_are_both_asked(wines: Wines) -> None:
    """A sudden change shows in the batch, a slight one in the window alone."""
    rng = np.random.default_rng(4)
    reference = counted((wines.scores, wines.positive))
    usual = counted(wines.drawn(rng, 3000))
    sudden = counted(flipped(wines, rng, 60))
    assert find_causes(reference, usual, sudden, drifted=False, min_rows=50) == (CONCEPT,)
    quiet, changed = counted(wines.drawn(rng, 60)), counted(flipped(wines, rng, 500))
    assert find_causes(reference, quiet, quiet, drifted=False, min_rows=50) == ()
    assert find_causes(reference, changed, quiet, drifted=False, min_rows=50) == (CONCEPT,)


def test_a_window_without_enough_rows_leaves_the_batch(wines: Wines) -> None:
    """And the other way round: a batch without a good wine is asked through the window."""
    rng = np.random.default_rng(5)
    reference = counted((wines.scores, wines.positive))
    sudden = counted(flipped(wines, rng, 100))
    assert find_causes(reference, Outcomes.none(), sudden, drifted=False, min_rows=50) == (CONCEPT,)
    none_good = counted((wines.scores[~wines.positive][:60], np.zeros(60, dtype=bool)))
    changed = counted(flipped(wines, rng, 500)) + none_good
    assert find_causes(reference, changed, none_good, drifted=False, min_rows=50) == (CONCEPT,)
