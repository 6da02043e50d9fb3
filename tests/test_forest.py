"""Trees as masks against LightGBM itself: the same bits, or none of it."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pytest

from wine_drift import forest
from wine_drift.bins import Floats
from wine_drift.forest import Forest, read_forest
from wine_drift.model import ALGORITHM, MASKS, compared_model, read_model, refit, train
from wine_drift.rows import LabelledRows
from wine_drift.trees import check_trees

N_FEATURES = 5
ZERO = float(np.float32(1e-35))  # thresholds that part 0 from what lies below or above


def table(seed: int, n_rows: int = 3000, *, gaps: float = 0.0) -> tuple[Floats, Floats]:
    """Features with many ties, and answers that need deep trees."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_rows, N_FEATURES)).round(2)
    features[rng.random(features.shape) < gaps] = np.nan
    known = np.nan_to_num(features)
    signal = known[:, 0] * known[:, 1] + np.sin(3 * known[:, 2]) + known[:, 3] ** 2
    return features, (signal + rng.normal(size=n_rows) > 1).astype(float)


def grown(features: Floats, answers: Floats, rounds: int = 30, **options: Any) -> lightgbm.Booster:
    """A booster as LightGBM grows it."""
    parameters = {
        "objective": "binary",
        "verbose": -1,
        "min_data_in_leaf": 2,
        "num_threads": 1,
        **options,
    }
    used = {"feature_pre_filter": False, **parameters}
    data = lightgbm.Dataset(features, answers, params=used)
    return lightgbm.train(used, data, rounds)


def read(booster: lightgbm.Booster) -> Forest:
    """Its masks; there must be some."""
    found = read_forest(booster.model_to_string())
    assert found is not None
    return found


def hard_rows(trees: Forest, seed: int) -> Floats:
    """Rows at the thresholds, right beside them, far out, and with every kind of gap."""
    rng = np.random.default_rng(seed)
    columns = []
    for thresholds in trees.thresholds:
        near = [np.nextafter(thresholds, -np.inf), thresholds, np.nextafter(thresholds, np.inf)]
        odd = [
            0.0,
            -0.0,
            ZERO,
            -ZERO,
            1e-36,
            -1e-36,
            1e-300,
            -1e-300,
            1e308,
            -1e308,
            np.inf,
            -np.inf,
            np.nan,
        ]
        columns.append(rng.choice(np.concatenate([*near, odd]), 4000))
    rows = np.column_stack(columns)
    rows[0] = np.nan
    rows[1:200, rng.integers(N_FEATURES)] = np.nan
    return rows


@pytest.mark.parametrize("gaps", [0.0, 0.1])
@pytest.mark.parametrize(
    ("leaves", "word"), [(2, np.uint16), (15, np.uint16), (31, np.uint32), (64, np.uint64)]
)
def test_log_odds_are_those_of_lightgbm_to_the_last_bit(
    leaves: int, word: type[np.unsignedinteger[Any]], gaps: float
) -> None:
    """At thresholds, beside them, beyond all values, and where values are missing."""
    booster = grown(*table(leaves, gaps=gaps), num_leaves=leaves)
    trees = read(booster)
    assert trees.masks[0].dtype == word
    assert trees.values.shape == (30, leaves)
    rows = hard_rows(trees, leaves)
    expected = np.asarray(booster.predict(rows, raw_score=True))
    assert np.unique(expected).size > 50
    np.testing.assert_array_equal(trees.log_odds(rows), expected)
    np.testing.assert_allclose(trees.score(rows), np.asarray(booster.predict(rows)), atol=3e-16)


def by_category(seed: int, n_rows: int, n_categories: int) -> tuple[Floats, Floats]:
    """The same with categories in the first and the last column, worth splits."""
    features, _ = table(seed, n_rows)
    rng = np.random.default_rng([seed, 1])
    features[:, 0], features[:, -1] = (
        rng.integers(n_categories, size=n_rows),
        rng.integers(3, size=n_rows),
    )
    signal = np.sin(features[:, 0]) + features[:, 1] + (features[:, -1] == 1)
    return features, (signal + rng.normal(size=n_rows) > 0.5).astype(float)


@pytest.mark.parametrize(
    ("n_rows", "n_categories"), [(400, 2), (400, 12), (3000, 5), (3000, 40), (3000, 100)]
)
def test_categories(n_rows: int, n_categories: int) -> None:
    """Of all recipes: those that were listed, one that never was, and none, score to the bit."""
    features, answers = by_category(n_categories, n_rows, n_categories)
    rows = LabelledRows(features, answers == 1, np.zeros(n_rows, dtype=np.int64))
    chosen = (0, N_FEATURES - 1)
    first = train(rows, np.ones(n_rows), rounds=40, seed=1, categorical=chosen)
    others = (
        train(rows, np.ones(n_rows), rounds=10, seed=2, start=first, categorical=chosen),
        refit(first, rows, decay=0.5, categorical=chosen),
    )
    rng = np.random.default_rng(0)
    hard = table(9, 5000, gaps=0.1)[0]
    hard[:, 0] = rng.integers(n_categories + 1, size=5000)
    hard[:, -1] = rng.integers(4, size=5000)
    hard[rng.random(5000) < 0.1, 0] = np.nan
    n_listed = [n_categories, *[0] * (N_FEATURES - 2), 3]
    for model in (first, *others):
        assert "\ncat_threshold=" in model.text
        assert model.scoring == MASKS and model.forest is not None
        expected = np.asarray(model.booster.predict(hard, raw_score=True))
        np.testing.assert_array_equal(model.forest.log_odds(hard), expected)
        check_trees(model.text, N_FEATURES, n_listed)


def test_categories_have_no_order() -> None:
    """However they are numbered, rows score much the same: a number is only a name."""
    features, answers = by_category(3, 3000, 8)
    renamed = features.copy()
    renamed[:, 0] = np.array([5, 2, 7, 0, 4, 1, 6, 3])[features[:, 0].astype(int)]
    scores = []
    for each in (features, renamed):
        rows = LabelledRows(each, answers == 1, np.zeros(3000, dtype=np.int64))
        model = train(rows, np.ones(3000), rounds=100, seed=0, categorical=(0,))
        scores.append(model.score(each))
    assert np.corrcoef(*scores)[0, 1] > 0.99


def test_a_feature_split_in_both_ways_is_left_to_lightgbm() -> None:
    """By category in one tree and by size in another."""
    features, answers = by_category(4, 3000, 8)
    rows = LabelledRows(features, answers == 1, np.zeros(3000, dtype=np.int64))
    first = train(rows, np.ones(3000), rounds=20, seed=0, categorical=(0, N_FEATURES - 1))
    mixed = train(rows, np.ones(3000), rounds=20, seed=0, start=first)
    assert mixed.scoring == ALGORITHM
    np.testing.assert_array_equal(mixed.score(features), mixed.booster.predict(features))


def test_missing_values_that_training_never_saw_count_as_zero() -> None:
    """LightGBM takes them for 0 in a feature that had none, on whichever side that is."""
    features, answers = table(1)
    booster = grown(features + np.array([0.0, 5.0, -5.0, 0.5, -0.5]), answers)
    trees = read(booster)
    gaps = np.where(
        np.random.default_rng(0).random((500, N_FEATURES)) < 0.5, np.nan, features[:500]
    )
    np.testing.assert_array_equal(trees.log_odds(gaps), trees.log_odds(np.nan_to_num(gaps)))
    np.testing.assert_array_equal(trees.log_odds(gaps), booster.predict(gaps, raw_score=True))


@pytest.mark.parametrize("seed", range(8))
def test_models_of_all_recipes(seed: int) -> None:
    """Trained, continued and refitted as the job does it, with weights."""
    features, answers = table(seed, 400)
    rows = LabelledRows(features, answers == 1, np.arange(400))
    first = train(rows, np.linspace(0.1, 1, 400), rounds=40, seed=seed)
    others = (
        train(rows, np.ones(400), rounds=10, seed=seed, start=first),
        refit(first, rows.take(np.arange(400) < 100), decay=0.5),
    )
    for model in (first, *others):
        assert model.scoring == MASKS and model.forest is not None
        hard = hard_rows(model.forest, seed)
        expected = np.asarray(model.booster.predict(hard, raw_score=True))
        np.testing.assert_array_equal(model.forest.log_odds(hard), expected)
        assert model.n_trees == model.booster.num_trees()


def test_a_tree_without_a_split_is_a_number() -> None:
    """Where nothing can be learnt all rows score alike."""
    features, answers = table(2, 50)
    booster = grown(features, answers, min_data_in_leaf=40)
    trees = read(booster)
    np.testing.assert_array_equal(
        trees.log_odds(features), booster.predict(features, raw_score=True)
    )


def test_a_row_scores_alike_alone_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the rows are cut."""
    trees = read(grown(*table(3, gaps=0.05)))
    rows = hard_rows(trees, 3)
    whole = trees.log_odds(rows)
    alone = np.concatenate([trees.log_odds(row[None]) for row in rows[:50]])
    np.testing.assert_array_equal(alone, whole[:50])
    np.testing.assert_array_equal(trees.log_odds(np.asfortranarray(rows)), whole)
    monkeypatch.setattr(forest, "_BLOCK", 30 * 7)  # blocks of seven rows
    np.testing.assert_array_equal(trees.log_odds(rows), whole)
    assert trees.log_odds(rows[:0]).shape == (0,)


@pytest.mark.parametrize(
    "options",
    [
        {"num_leaves": 65, "min_data_in_leaf": 1},
        {"linear_tree": True},
        {"zero_as_missing": True},
        {"objective": "regression"},
        {"objective": "binary", "sigmoid": 0.7},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
    ],
    ids=str,
)
def test_what_is_not_covered_is_left_to_lightgbm(options: dict[str, Any]) -> None:
    """Other trees, other links, and more leaves than bits: no masks rather than wrong ones."""
    features, answers = table(4, gaps=0.05)
    text = grown(features, answers, 5, **options).model_to_string()
    assert read_forest(text) is None
    model = compared_model(text, features)
    assert model.scoring == ALGORITHM
    np.testing.assert_array_equal(model.score(features), model.booster.predict(features))


def test_masks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They grow with the square of the trees, so there is an end to it."""
    text = grown(*table(5)).model_to_string()
    trees = read_forest(text)
    assert trees is not None
    size = sum(masks.nbytes for masks in trees.masks)
    monkeypatch.setattr(forest, "MOST_BYTES", size)
    assert read_forest(text) is not None
    monkeypatch.setattr(forest, "MOST_BYTES", size - 1)
    assert read_forest(text) is None


def test_masks_that_do_not_agree_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit off in one row, and LightGBM scores."""
    features, answers = table(6)
    booster = grown(features, answers)
    text = booster.model_to_string()
    assert compared_model(text, features).scoring == MASKS
    real = Forest.log_odds

    def off(self: Forest, features: Floats) -> Floats:
        found = real(self, features)
        found[-1] = np.nextafter(found[-1], np.inf)
        return found

    monkeypatch.setattr(Forest, "log_odds", off)
    model = compared_model(text, features)
    assert model.scoring == ALGORITHM
    np.testing.assert_array_equal(model.score(features), booster.predict(features))


def test_a_text_is_read_as_its_manifest_says() -> None:
    """A version that was never compared is scored by LightGBM; damage is told at once."""
    features, answers = table(7)
    text = grown(features, answers).model_to_string()
    assert read_model(text, MASKS).scoring == MASKS
    assert read_model(text, None).scoring == read_model(text, ALGORITHM).scoring == ALGORITHM
    for scoring in (MASKS, ALGORITHM):
        with pytest.raises((ValueError, KeyError, IndexError)):
            read_model("tree\n", scoring)
