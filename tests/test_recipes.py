"""The ways to make a challenger: the same bits each time, and never a pile of trees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from wine_drift.model import Model, Version
from wine_drift.recipes import (
    CONTINUED_BATCHES,
    CONTINUED_ROUNDS,
    RECIPES,
    REFIT_DECAY,
    Training,
    chosen_recipes,
    decayed,
    newest_batches,
    scratch,
)
from wine_drift.retraining import InHand, challenge, first_version
from wine_drift.rows import LabelledRows, concatenate
from wine_drift.schema import Schema, parse_schema

HOW = Training(rounds=12, half_life=10.0, seed=3, threads=1, window_rows=20_000)
FACTS: dict[str, Any] = {"reason": "test", "parent": None, "trained_at": 0.0, "dataset": "test"}
N_FEATURES = 4


def batch(
    sequence: int, n_rows: int = 60, *, angle: float = 0.0, noise: float = 0.5
) -> LabelledRows:
    """Rows of one batch; which of two features the answer goes by turns with the angle."""
    rng = np.random.default_rng([sequence, n_rows])
    features = rng.normal(size=(n_rows, N_FEATURES))
    latent = features[:, 0] * np.cos(angle) + features[:, 1] * np.sin(angle)
    positive = latent + rng.normal(0, noise, n_rows) > 0.4
    return LabelledRows(features, positive, np.full(n_rows, sequence, dtype=np.int64))


def joined(*parts: LabelledRows) -> LabelledRows:
    """The rows of all parts."""
    return concatenate(parts, N_FEATURES)


def schema() -> Schema:
    """As many nameless features."""
    features = [{"name": f"x{j}"} for j in range(N_FEATURES)]
    target = {"column": "y", "positive": "> 0.5"}
    return parse_schema({"name": "t", "target": target, "feature": features})


def base_of(rows: LabelledRows, how: Training = HOW) -> Model:
    """A model trained from nothing."""
    return scratch(None, rows.take(slice(0, 0)), rows, how)


def trees(model: Model) -> list[dict[str, str]]:
    """What LightGBM's text says of each tree."""
    trees, _, _ = model.text.partition("\nend of trees")
    return [
        dict(line.split("=", 1) for line in part.splitlines() if "=" in line)
        for part in trees.split("\nTree=")[1:]
    ]


STRUCTURE = ("num_leaves", "split_feature", "threshold", "decision_type", "left_child")


def structure(model: Model) -> list[tuple[str, ...]]:
    """The questions that each tree asks, and in which order."""
    return [tuple(tree[key] for key in (*STRUCTURE, "right_child")) for tree in trees(model)]


def leaves(model: Model) -> list[str]:
    """What each tree answers."""
    return [tree["leaf_value"] for tree in trees(model)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_the_same_bits_each_time(name: str) -> None:
    """The same base, rows and seed give the same text; another seed gives another model."""
    old, new = batch(0, 300), joined(*(batch(k) for k in range(1, 4)))

    def made(seed: int) -> str:
        how = replace(HOW, seed=seed)
        return RECIPES[name](base_of(old, how), old, new, how).text

    assert made(3) == made(3)
    assert made(3) != made(4)


@pytest.mark.parametrize("name", RECIPES)
def test_threads_do_not_change_a_model(name: str) -> None:
    """On 14 000 rows, 10 000 of them new, one thread and three give the same text to the bit."""
    old, new = batch(0, 4_000), joined(*(batch(k, 2_000) for k in range(1, 6)))
    made = []
    for threads in (1, 3):
        how = replace(HOW, threads=threads)
        model = RECIPES[name](base_of(joined(old, new), how), old, new, how)
        made.append(model)
    assert made[0].text == made[1].text
    assert (made[0].score(new.features) == made[1].score(new.features)).all()


def test_scratch_weighs_rows_by_age() -> None:
    """Rows of nine half-lives ago say next to nothing; with a long half-life they rule."""
    old = batch(0, 600)
    new = replace(batch(9, 100), positive=~batch(9, 100).positive)
    quick, slow = (
        scratch(None, old, new, replace(HOW, half_life=half_life, rounds=40))
        for half_life in (1.0, 1e6)
    )
    fresh = batch(10, 2_000)
    right = [
        ((model.score(fresh.features) > 0.5) == fresh.positive).mean() for model in (quick, slow)
    ]
    assert right[0] < 0.35 and right[1] > 0.65


def test_continued_goes_on_from_its_base() -> None:
    """The trees of the base come first, as they were, and 50 new ones after them."""
    old, new = batch(0, 300), joined(*(batch(k, angle=1.0) for k in range(1, 4)))
    base = base_of(old)
    model = RECIPES["continue"](base, old, new, HOW)
    assert model.n_trees == HOW.rounds + CONTINUED_ROUNDS
    assert structure(model)[: HOW.rounds] == structure(base)
    assert leaves(model)[: HOW.rounds] == leaves(base)


def test_refitted_asks_the_questions_of_its_base() -> None:
    """Features and thresholds stay in every tree, and every tree answers otherwise."""
    old, new = batch(0, 300), joined(*(batch(k, angle=1.0) for k in range(1, 4)))
    base = base_of(old)
    model = RECIPES["refit"](base, old, new, HOW)
    assert structure(model) == structure(base)
    assert all(after != before for before, after in zip(leaves(base), leaves(model), strict=True))


def test_a_refitted_leaf_lies_half_way_to_what_the_rows_say() -> None:
    """The first tree by hand: half the old value, half a Newton step on the rows of the leaf.

    The step from a score of 1/2 is sum(y - 1/2) / (n/4 + lambda), lambda = 5. LightGBM adds the
    base rate to the first tree and therefore gives it its step whole.
    """
    old = batch(0, 300)
    new = joined(*(batch(k, angle=1.0) for k in range(1, CONTINUED_BATCHES + 1)))
    base = base_of(old)
    model = RECIPES["refit"](base, old, new, HOW)
    where = base.booster.predict(new.features, pred_leaf=True, num_iteration=1).ravel()
    before, after = (np.array(leaves(m)[0].split(), dtype=float) for m in (base, model))
    for leaf, (was, now) in enumerate(zip(before, after, strict=True)):
        here = new.positive[where == leaf]
        step = (here - 0.5).sum() / (len(here) / 4 + 5.0)
        assert now == pytest.approx(REFIT_DECAY * was + (1 - REFIT_DECAY) * step, rel=1e-6)


@pytest.mark.parametrize("name", ["continue", "refit"])
def test_only_the_newest_five_batches_are_gone_on_with(name: str) -> None:
    """Rows of older batches, wherever they are kept, can be anything; the sixth newest is one."""
    base = base_of(batch(0, 300))
    old, new = joined(batch(0, 300), batch(1), batch(2)), joined(*(batch(k) for k in range(3, 8)))
    kept, other = (RECIPES[name](base, rows, new, HOW).text for rows in (old, batch(1, 20)))
    assert kept == other
    inverted = replace(new, positive=np.where(new.sequence == 3, ~new.positive, new.positive))
    assert RECIPES[name](base, old, inverted, HOW).text != kept
    assert RECIPES[name](base, old, joined(new, batch(8)), HOW).text == (
        RECIPES[name](base, old, joined(inverted, batch(8)), HOW).text
    )


@pytest.mark.parametrize("name", ["continue", "refit"])
def test_nothing_goes_on_from_nothing(name: str) -> None:
    """Without a base these recipes say so."""
    with pytest.raises(ValueError, match="no model to go on from"):
        RECIPES[name](None, batch(0), batch(1), HOW)


def test_the_setting_names_one_recipe_or_all() -> None:
    """Each by its name; auto is every one."""
    assert {name: list(chosen_recipes(name)) for name in (*RECIPES, "auto")} == {
        **{name: [name] for name in RECIPES},
        "auto": ["scratch", "continue", "refit"],
    }


@pytest.mark.parametrize(
    ("sequence", "half_life", "weights"),
    [
        pytest.param([], 10.0, [], id="no rows"),
        pytest.param([7, 7], 3.0, [1, 1], id="one batch"),
        pytest.param([4, 6, 2, 5], 1.0, [1 / 4, 1, 1 / 16, 1 / 2], id="in any order"),
        pytest.param([0, 3, 5, 10], 10.0, [0.5, 2**-0.7, 2**-0.5, 1], id="parts of a half-life"),
        pytest.param([0, 9, 10], 0.5, [1e-6, 1 / 4, 1], id="never quite nothing"),
    ],
)
def test_weights_by_hand(sequence: list[int], half_life: float, weights: list[float]) -> None:
    """The newest batch weighs 1, and half of it every half-life back."""
    found = decayed(np.array(sequence, dtype=np.int64), half_life)
    assert found.tolist() == pytest.approx(weights, rel=1e-12)


@pytest.mark.parametrize(
    ("n_batches", "min_rows", "kept"),
    [
        pytest.param(1, 0, [7], id="one"),
        pytest.param(2, 0, [4, 4, 7], id="two, a gap between"),
        pytest.param(3, 0, [2, 4, 4, 2, 7, 2], id="three"),
        pytest.param(9, 0, [2, 0, 4, 4, 2, 7, 2], id="more than there are"),
        pytest.param(1, 1, [7], id="enough as it is"),
        pytest.param(1, 2, [4, 4, 7], id="two rows take another batch"),
        pytest.param(1, 3, [4, 4, 7], id="just enough"),
        pytest.param(1, 4, [2, 4, 4, 2, 7, 2], id="four rows take a third"),
        pytest.param(1, 7, [2, 0, 4, 4, 2, 7, 2], id="all"),
        pytest.param(1, 99, [2, 0, 4, 4, 2, 7, 2], id="never enough"),
        pytest.param(3, 1, [2, 4, 4, 2, 7, 2], id="no fewer batches than asked for"),
    ],
)
def test_newest_batches_by_hand(n_batches: int, min_rows: int, kept: list[int]) -> None:
    """Whole batches, the rows in the order in which they were; more of them until they suffice."""
    sequence = np.array([2, 0, 4, 4, 2, 7, 2])
    rows = LabelledRows(np.arange(7.0)[:, None], sequence > 3, sequence)
    found = newest_batches(rows, n_batches, min_rows)
    assert found.sequence.tolist() == kept
    assert (np.diff(found.features[:, 0]) > 0).all()
    assert len(newest_batches(rows.take(slice(0, 0)), n_batches, min_rows)) == 0


def retrained(champion: Version, history: LabelledRows, recipe: str, how: Training) -> Version:
    """The next version of its line, whatever the gate says."""
    attempt = challenge(
        champion,
        InHand(champion, history, schema(), how, min_rows=40),
        schema(),
        how,
        recipe=recipe,
        alpha=0.1,
        min_rows=40,
        number=champion.manifest["number"] + 1,
        facts=FACTS,
        force=True,
    )
    assert attempt.challenger is not None
    return attempt.challenger


@pytest.mark.parametrize("recipe", [*RECIPES, "auto"])
def test_fifty_retrainings_pile_up_no_trees(recipe: str) -> None:
    """However often and by whatever recipe, a model has 50 trees more than one from nothing.

    What it goes on from has none of these, and neither rows nor reference grow without bound.
    """
    how = Training(rounds=10, half_life=4.0, seed=0, threads=1, window_rows=150)
    champion = first_version(batch(0, 120), schema(), how, number=1, facts=FACTS)
    first, names, most = champion.model.text, [], 0
    for number in range(1, 51):
        noise = 9.0 if number % 6 < 3 else 0.5  # where little can be learnt, other recipes win
        parts = (batch(3 * number + k, 15, angle=number / 8, noise=noise) for k in range(3))
        history = joined(*parts)
        champion = retrained(champion, history, recipe, how)
        name = champion.manifest["recipe"]
        names.append(name)
        extra = CONTINUED_ROUNDS if name == "continue" else 0
        # now and then a tree finds nothing to split, and LightGBM leaves it out
        assert champion.model.n_trees == champion.manifest["trees"] <= how.rounds + extra
        assert champion.scratch_base.n_trees <= how.rounds
        assert (champion.base is None) == (name == "scratch")
        assert len(champion.rows) <= 150 and len(champion.reference_rows) == 45
        most = max(most, champion.model.n_trees)
        if "scratch" not in names:
            assert champion.scratch_base.text == first
    assert champion.version.startswith("v51-")
    assert set(names) == ({recipe} if recipe != "auto" else set(RECIPES))
    if recipe in ("continue", "auto"):  # the bound was nearly met; a round may find no split
        assert most > how.rounds + 0.9 * CONTINUED_ROUNDS


@pytest.mark.parametrize("name", ["continue", "refit"])
def test_a_line_goes_back_to_the_last_model_from_nothing(name: str) -> None:
    """The champion being continued itself, its successor starts where the champion did."""
    first = first_version(batch(0, 300), schema(), HOW, number=1, facts=FACTS)
    second = retrained(first, joined(*(batch(k) for k in range(1, 4))), name, HOW)
    history = joined(*(batch(k, angle=1.0) for k in range(4, 7)))
    third = retrained(second, history, name, HOW)
    assert second.scratch_base.text == third.scratch_base.text == first.model.text
    by_hand = RECIPES[name](first.model, second.rows, history, HOW)
    assert third.model.text == by_hand.text
    assert RECIPES[name](second.model, second.rows, history, HOW).text != by_hand.text
    fourth = retrained(third, joined(*(batch(k) for k in range(7, 10))), "scratch", HOW)
    assert fourth.scratch_base is fourth.model
