"""Simulated tables behave like the real one, and scenarios do what they say and nothing else."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

import wine_drift
from wine_drift.model import train
from wine_drift.rows import LabelledRows
from wine_drift.schema import Schema, parse_schema
from wine_drift.simulate import SCENARIOS, Figures, draw_table, lay_scenario, measure_figures

Floats = NDArray[np.float64]
DATA = Path(wine_drift.__file__).parent / "data"
WINE = parse_schema(tomllib.loads((DATA / "red_wine.toml").read_text(encoding="utf-8")))
FIGURES = Figures.from_dict(
    json.loads((DATA / "red_wine_figures.json").read_text(encoding="utf-8"))
)
SEEDS = range(5)


@pytest.fixture(scope="module")
def real_table(red_wine_csv: Path) -> tuple[Floats, Floats]:
    """Features and quality of the published table, which is the one that was measured."""
    digest = hashlib.sha256(red_wine_csv.read_bytes()).hexdigest()
    assert digest == FIGURES.provenance["sha256"]
    table = pd.read_csv(red_wine_csv, sep=";").astype(float)
    return table[list(WINE.feature_names)].to_numpy(), table[WINE.target].to_numpy()


def draw(n_rows: int, seed: int) -> tuple[Floats, Floats]:
    return draw_table(FIGURES, n_rows, rng=np.random.default_rng(seed))


def breast_cancer() -> tuple[Schema, Floats, Floats]:
    bunch = load_breast_cancer()
    schema = parse_schema(
        {
            "name": "breast cancer",
            "target": {"column": "benign", "positive": "== 1"},
            "feature": [{"name": str(name)} for name in bunch.feature_names],
        }
    )
    return schema, bunch.data, bunch.target.astype(float)


def largest_ks(real: Floats, simulated: Floats) -> float:
    return max(float(ks_2samp(a, b).statistic) for a, b in zip(real.T, simulated.T, strict=True))


def rank_correlation(table: Floats) -> Floats:
    return pd.DataFrame(table).corr("spearman").to_numpy()


# Drawing


@pytest.mark.parametrize("seed", SEEDS)
def test_model_of_simulated_wines_knows_real_ones(
    real_table: tuple[Floats, Floats], seed: int
) -> None:
    """A model that has only seen 1,200 simulated wines ranks the real ones well."""
    features, target = draw(1200, seed)
    rows = LabelledRows(features, WINE.is_positive(target), np.zeros(1200, dtype=np.int64))
    model = train(rows, np.ones(1200), rounds=200, seed=0)
    assert roc_auc_score(WINE.is_positive(real_table[1]), model.score(real_table[0])) >= 0.80


@pytest.mark.parametrize(("n_rows", "seed"), [*((1200, s) for s in SEEDS), (20_000, 0)])
def test_features_are_distributed_as_measured(
    real_table: tuple[Floats, Floats], n_rows: int, seed: int
) -> None:
    """Each simulated feature stays within a Kolmogorov-Smirnov distance of 0.05 of the real one."""
    assert largest_ks(real_table[0], draw(n_rows, seed)[0]) <= 0.05


def test_many_rows_come_closer(real_table: tuple[Floats, Floats]) -> None:
    """With 20,000 rows only the figures' own coarseness is left: 0.01, and 0.02 in correlation."""
    features, _ = draw(20_000, 0)
    assert largest_ks(real_table[0], features) <= 0.01
    difference = rank_correlation(features) - rank_correlation(real_table[0])
    assert np.abs(difference).max() <= 0.02


def test_quality_looks_right(real_table: tuple[Floats, Floats]) -> None:
    """Each quality is as frequent as in the real table and goes with the same features."""
    features, target = draw(20_000, 0)
    for quality in np.unique(real_table[1]):
        expected = (real_table[1] == quality).mean()
        assert (target == quality).mean() == pytest.approx(expected, abs=0.01)
    assert set(np.unique(target)) == set(np.unique(real_table[1]))
    real = rank_correlation(np.column_stack(real_table))[-1]
    simulated = rank_correlation(np.column_stack([features, target]))[-1]
    assert np.abs(real - simulated).max() <= 0.10


def test_share_of_positives() -> None:
    """About 13.6 % of the simulated wines are good, whatever the seed."""
    shares = [WINE.is_positive(draw(5000, seed)[1]).mean() for seed in SEEDS]
    assert shares == pytest.approx([0.136] * len(SEEDS), abs=0.015)
    assert np.mean(shares) == pytest.approx(0.136, abs=0.007)


def test_rows_are_plausible_wines() -> None:
    """Values are finite, inside the schema's ranges and written with the measured decimals."""
    features, target = draw(5000, 0)
    assert FIGURES.features == WINE.feature_names
    for column, feature, decimals in zip(features.T, WINE.features, FIGURES.decimals, strict=True):
        assert ((column >= feature.minimum) & (column <= feature.maximum)).all()
        assert (column == column.round(decimals)).all()
    assert np.isfinite(target).all()


def test_seed_decides_the_rows() -> None:
    """The same seed gives the same rows, another seed other rows."""
    np.testing.assert_array_equal(draw(50, 7)[0], draw(50, 7)[0])
    np.testing.assert_array_equal(draw(50, 7)[1], draw(50, 7)[1])
    assert not (draw(50, 7)[0] == draw(50, 8)[0]).all(axis=1).any()


def test_batches_do_not_repeat_rows() -> None:
    """Twenty batches of 100 drawn one after the other hold 2,000 different wines."""
    rng = np.random.default_rng(0)
    rows = np.vstack([draw_table(FIGURES, 100, rng=rng)[0] for _ in range(20)])
    assert len(np.unique(rows, axis=0)) == 2000


def test_no_rows() -> None:
    """Asking for no rows gives an empty table with all its columns."""
    features, target = draw(0, 0)
    assert features.shape == (0, len(WINE.features))
    assert target.shape == (0,)


# Figures


def test_shipped_figures_are_those_of_the_real_table(real_table: tuple[Floats, Floats]) -> None:
    """Measuring the real table again gives the shipped file, to the file's last digit."""
    again = measure_figures(*real_table, WINE, provenance=FIGURES.provenance)
    assert again.values == FIGURES.values
    assert again.decimals == FIGURES.decimals
    for part in ("cuts", "weights", "correlation"):
        np.testing.assert_allclose(getattr(again, part), getattr(FIGURES, part), atol=1.01e-4)
    for new, old, decimals in zip(
        again.quantiles, FIGURES.quantiles, FIGURES.decimals, strict=True
    ):
        np.testing.assert_allclose(new, old, atol=1.01 * 10.0**-decimals)


def test_figures_survive_json() -> None:
    """The shipped file is the text of its own figures, is small, and says where it comes from."""
    text = (DATA / "red_wine_figures.json").read_text(encoding="utf-8")
    assert FIGURES.to_json() == text
    assert FIGURES.to_dict() == json.loads(text)
    assert len(text.encode()) <= 25_000
    assert {"doi", "licence", "publisher", "sha256"} <= FIGURES.provenance.keys()


def test_another_table_can_be_simulated() -> None:
    """Thirty nearly collinear features, and a 0/1 target, are measured and drawn as well."""
    schema, features, target = breast_cancer()
    figures = measure_figures(features, target, schema, provenance={})
    drawn, answers = draw_table(figures, 5000, rng=np.random.default_rng(0))
    assert figures.values == (0.0, 1.0)
    assert largest_ks(features, drawn) <= 0.04
    assert answers.mean() == pytest.approx(target.mean(), abs=0.02)
    difference = rank_correlation(drawn) - rank_correlation(features)
    assert np.abs(difference).max() <= 0.05


def test_impossible_correlations_are_drawn_as_near_as_can_be() -> None:
    """Three features cannot all oppose each other by -0.9; they do by -0.5, spread as measured."""
    asked = np.eye(len(WINE.features))
    asked[:3, :3] = 1.9 * np.eye(3) - 0.9
    figures = replace(FIGURES, correlation=asked)
    features, _ = draw_table(figures, 20_000, rng=np.random.default_rng(0))
    assert np.isfinite(features).all()
    assert largest_ks(features, draw(20_000, 0)[0]) <= 0.02
    drawn = rank_correlation(features)
    assert [drawn[0, 1], drawn[0, 2], drawn[1, 2]] == pytest.approx([-0.48] * 3, abs=0.03)


@pytest.mark.parametrize(("rule", "values"), [("> 2", (0, 1, 2, 3)), ("< 2", (3, 2, 1, 0))])
def test_values_are_ordered_towards_positive(rule: str, values: tuple[float, ...]) -> None:
    """The last target values are the positive ones, also when small values are positive."""
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(400, 2)), rng.integers(0, 4, 400).astype(float)
    features[:, 1] = 3.0  # a constant feature is no obstacle
    schema = parse_schema(
        {
            "name": "t",
            "target": {"column": "y", "positive": rule},
            "feature": [{"name": "a"}, {"name": "b"}],
        }
    )
    figures = measure_figures(features, target, schema, provenance={})
    assert figures.values == values
    assert (np.diff(figures.cuts) > 0).all()
    assert (draw_table(figures, 50, rng=rng)[0][:, 1] == 3.0).all()


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        (np.zeros((3, 2)), np.array([5.0, 7.0, 5.0]), "shape"),
        (np.full((2, 11), np.nan), np.array([5.0, 7.0]), "finite"),
        (np.zeros((2, 11)), np.array([5.0, np.nan]), "finite"),
        (np.zeros((2, 11)), np.array([5.0, 5.0]), "> 6.5"),
        (np.zeros((2, 11)), np.array([7.0, 7.0]), "> 6.5"),
    ],
)
def test_tables_that_cannot_be_measured(features: Floats, target: Floats, message: str) -> None:
    """A table of another shape, with holes, or of one class is refused with the reason."""
    with pytest.raises(ValueError, match=message):
        measure_figures(features, target, WINE, provenance={})


# Scenarios


class Table:
    """A batch with everything `lay_scenario` wants to know; the feature is in the middle."""

    def __init__(self, schema: Schema, features: Floats, target: Floats) -> None:
        self.schema, self.features, self.target = schema, features, target
        self.index = len(schema.features) // 2
        self.feature = schema.feature_names[self.index]
        self.centre, self.spread = np.median(features, axis=0), features.std(axis=0)

    def lay(self, name: str, *, step: int = 0, seed: int = 0, **changes: Any) -> tuple[Any, Any]:
        arguments: dict[str, Any] = {
            "features": self.features,
            "target": self.target,
            "schema": self.schema,
            "feature": self.feature,
            "centre": self.centre,
            "spread": self.spread,
        }
        return lay_scenario(name, step=step, rng=np.random.default_rng(seed), **arguments | changes)


@pytest.fixture(params=["wine", "breast cancer"])
def table(request: pytest.FixtureRequest) -> Table:
    return Table(WINE, *draw(500, 3)) if request.param == "wine" else Table(*breast_cancer())


def test_scenarios_are_the_documented_ones() -> None:
    """Nine scenarios, each with a one-line description."""
    names = "none ramp switch sensor_scaled stuck unit_change missing label_flip more_good"
    assert list(SCENARIOS) == names.split()
    assert all(line and "\n" not in line for line in SCENARIOS.values())


@pytest.mark.parametrize("name", SCENARIOS)
def test_arguments_are_left_alone(table: Table, name: str) -> None:
    """Whatever the scenario, the given arrays keep their content and share none of their memory."""
    before = [a.copy() for a in (table.features, table.target, table.centre, table.spread)]
    features, target = table.lay(name)
    after = (table.features, table.target, table.centre, table.spread)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.shares_memory(features, table.features)
    assert not np.shares_memory(target, table.target)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "more_good"])
def test_only_what_is_said_changes(table: Table, name: str) -> None:
    """Sensor scenarios change one column, location ones all columns, label ones only answers."""
    features, target = table.lay(name)
    changed = (features != table.features).any(axis=0).tolist()
    one = [index == table.index for index in range(len(changed))]
    expected = {"none": [False] * len(one), "label_flip": [False] * len(one)}
    expected |= {"ramp": [True] * len(one), "switch": [True] * len(one)}
    assert changed == expected.get(name, one)
    assert bool((target != table.target).any()) == (name == "label_flip")


def test_sensor_faults(table: Table) -> None:
    """The sensor reads 1.1 or 1000 times its value, its median, or nothing in 30 % of rows."""
    column = table.features[:, table.index]

    def laid(name: str) -> Any:
        return table.lay(name)[0][:, table.index]

    np.testing.assert_allclose(laid("sensor_scaled"), 1.1 * column)
    np.testing.assert_allclose(laid("unit_change"), 1000 * column)
    assert (laid("stuck") == np.median(column)).all()
    missing = np.isnan(laid("missing"))
    assert missing.sum() == round(0.3 * len(column))
    np.testing.assert_array_equal(laid("missing")[~missing], column[~missing])


def test_switch_moves_every_feature_by_its_spread(table: Table) -> None:
    """Features move by one spread, up and down in turn, and stop at the plausible range."""
    features, _ = table.lay("switch")
    for index, known in enumerate(table.schema.features):
        moved = table.features[:, index] + (-1) ** index * table.spread[index]
        expected = np.minimum(np.maximum(moved, known.minimum), known.maximum)
        np.testing.assert_allclose(features[:, index], expected)
    if table.schema is WINE:  # some wines do reach the end of a range
        assert (features == [known.minimum for known in WINE.features]).any()


def test_ramp_grows_into_the_switch(table: Table) -> None:
    """The ramp goes a tenth of a spread further at each batch and ends where the switch is."""
    shifts = [
        np.abs(table.lay("ramp", step=step)[0][:, 0] - table.features[:, 0]).mean()
        for step in range(12)
    ]
    expected = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(shifts, expected * table.spread[0])
    last = table.lay("ramp", step=9)[0]
    np.testing.assert_array_equal(last, table.lay("switch")[0])


def test_label_flip_inverts_answers_above_the_centre(table: Table) -> None:
    """Above the median every answer becomes a seen one of the other class; below none changes."""
    _, target = table.lay("label_flip")
    above = table.features[:, table.index] > table.centre[table.index]
    flipped = table.schema.is_positive(target) != table.schema.is_positive(table.target)
    np.testing.assert_array_equal(flipped, above)
    np.testing.assert_array_equal(target[~above], table.target[~above])
    assert set(target) <= set(table.target)


@pytest.mark.parametrize(
    ("rule", "bounds", "given", "answer"),
    [
        ("> 6.5", (0, 10), 5, 7),
        ("> 6.5", (0, 10), 7, 6),
        (">= 7", (0, 10), 7, 6),
        ("< 3", (-np.inf, np.inf), 3, 2),
        ("== 1", (-np.inf, np.inf), 1, 0),
        ("== 1", (-np.inf, np.inf), 0, 1),
        ("== 0", (-np.inf, np.inf), 0, 1),
        ("> 0.05", (0, 0.1), 0.01, 0.1),
    ],
)
def test_label_flip_of_one_class(
    rule: str, bounds: tuple[float, float], given: float, answer: float
) -> None:
    """A batch of one class is answered with a value near the rule's, in the target's range."""
    target = {"column": "y", "positive": rule, "minimum": bounds[0], "maximum": bounds[1]}
    schema = parse_schema({"name": "t", "target": target, "feature": [{"name": "x"}]})
    low_and_high, zero = np.array([[-1.0], [1.0], [np.nan]]), np.zeros(1)
    _, flipped = lay_scenario(
        "label_flip",
        low_and_high,
        np.full(3, float(given)),
        step=0,
        schema=schema,
        feature="x",
        centre=zero,
        spread=zero,
        rng=np.random.default_rng(0),
    )
    assert flipped is not None
    assert flipped.tolist() == [given, answer, given]


def test_label_flip_without_another_class() -> None:
    """If no target value can be of the other class the flip is refused."""
    target = {"column": "y", "positive": "> 5", "maximum": 5}
    schema = parse_schema({"name": "t", "target": target, "feature": [{"name": "x"}]})
    with pytest.raises(ValueError, match="> 5"):
        Table(schema, np.array([[0.0], [1.0]]), np.array([4.0, 4.0])).lay("label_flip")


def test_more_good_thins_the_negatives(table: Table) -> None:
    """Half of the negative rows go; the others stay in order with their answers."""
    features, target = table.lay("more_good")
    positive = table.schema.is_positive(table.target)
    assert table.schema.is_positive(target).sum() == positive.sum()
    assert len(target) == len(positive) - (~positive).sum() // 2
    rows = np.column_stack([table.features, table.target]).tolist()
    kept = [rows.index(row) for row in np.column_stack([features, target]).tolist()]
    assert kept == sorted(kept)


@pytest.mark.parametrize("name", ["label_flip", "more_good"])
def test_unlabelled_tables_have_no_answers_to_change(table: Table, name: str) -> None:
    """Without a target, or with an unknown one, label scenarios leave the table as it is."""
    features, target = table.lay(name, target=None)
    assert target is None
    np.testing.assert_array_equal(features, table.features)
    features, target = table.lay(name, target=np.full(len(table.target), np.nan))
    assert np.isnan(target).all()
    np.testing.assert_array_equal(features, table.features)


@pytest.mark.parametrize("name", ["missing", "label_flip", "more_good"])
def test_scenarios_follow_their_generator(name: str) -> None:
    """The same seed spoils the same cells, labels or rows; another seed others."""
    table = Table(WINE, *draw(500, 3))

    def laid(seed: int) -> bytes:
        features, target = table.lay(name, seed=seed)
        return bytes(features.tobytes() + target.tobytes())

    assert laid(1) == laid(1)
    assert laid(1) != laid(2)


def test_unknown_names_are_refused(table: Table) -> None:
    """An unknown scenario or feature is refused with the possible names."""
    with pytest.raises(ValueError, match=r"'earthquake'.*none, ramp.*more_good"):
        table.lay("earthquake")
    with pytest.raises(ValueError, match=f"'nose' is not one of .*{table.feature}"):
        table.lay("stuck", feature="nose")
