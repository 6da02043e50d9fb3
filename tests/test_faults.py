"""Faults of the source, put into real red wines; and none where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from wine_drift.bins import Floats, bin_edges, count
from wine_drift.dataset import load_schema
from wine_drift.drift import run_tests
from wine_drift.faults import Fault, Traits, count_traits, find_faults
from wine_drift.reference import Reference, Summary, build_reference
from wine_drift.schema import SOURCE_FAULTS

SCHEMA = load_schema(None)
FEATURES = SCHEMA.feature_names
BUDGET = 1000
SIZES = (50, 100, 500)
STEADY = settings(deadline=None, derandomize=True)

# These spread over a decade or more, so that ten times a value is often still a usual value.
WIDE = ("citric acid", "free sulfur dioxide", "total sulfur dioxide")

UNITS = [
    (feature, factor)
    for feature in FEATURES
    for factor in (1000, 100, 10, 0.1, 0.01, 0.001)
    if not (feature in WIDE and factor in (10, 0.1))
]

# Decimals that are left, and what it is called: `stuck` where hardly more than one value is left.
ROUNDED = [
    ("fixed acidity", 0, "rounding"),
    ("volatile acidity", 1, "rounding"),
    ("volatile acidity", 0, "stuck"),
    ("citric acid", 1, "rounding"),
    ("citric acid", 0, "stuck"),
    ("residual sugar", 0, "stuck"),
    ("chlorides", 2, "rounding"),
    ("chlorides", 1, "stuck"),
    ("density", 3, "rounding"),
    ("density", 2, "stuck"),
    ("pH", 1, "rounding"),
    ("pH", 0, "stuck"),
    ("sulphates", 1, "rounding"),
    ("sulphates", 0, "stuck"),
    ("alcohol", 0, "rounding"),
]

Edit = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Cellar:
    """Half of the red wines as the reference, the other half to draw batches from."""

    reference: Reference
    wines: Floats

    def batch(self, n: int, feature: str | None = None, edit: Edit = lambda x: x) -> Floats:
        """The first n wines, one feature edited."""
        rows = self.wines[:n].copy()
        if feature is not None:
            rows[:, FEATURES.index(feature)] = edit(rows[:, FEATURES.index(feature)])
        return rows

    def faults(self, rows: Floats, budget: int = BUDGET) -> tuple[Fault, ...]:
        """What is found in a batch."""
        return found(self.reference, rows, budget)


def table(path: Path) -> Floats:
    """The eleven features of a published table, shuffled."""
    rows = np.loadtxt(path, delimiter=";", skiprows=1)[:, :11]
    return np.random.default_rng(0).permutation(rows)


def summary(reference: Reference, rows: Floats) -> Summary:
    """Counts of a batch that nothing has scored."""
    nothing = np.zeros(0, dtype=bool)
    return reference.summarise(rows, np.zeros(0), nothing, nothing)


def found(reference: Reference, rows: Floats, budget: int = BUDGET) -> tuple[Fault, ...]:
    """Faults of a batch."""
    usual, here = reference.summary, summary(reference, rows)
    return find_faults(
        reference.features,
        (usual.profile, usual.traits),
        (here.profile, here.traits),
        spread=reference.spread,
        budget=budget,
    )


def kinds(faults: tuple[Fault, ...]) -> list[tuple[str, str]]:
    """Feature and kind of each."""
    return [(fault.feature, fault.kind) for fault in faults]


@pytest.fixture(scope="module")
def cellar(red_wine_csv: Path) -> Cellar:
    """800 red wines known, 799 to come, with the plausible ranges of the red-wine schema."""
    red = table(red_wine_csv)
    return Cellar(build_reference(red[:800], FEATURES, plausible=SCHEMA.plausible), red[800:])


# --- One fault, of one feature --------------------------------------------------------------------


@pytest.mark.parametrize(("feature", "factor"), UNITS)
def test_another_unit_is_found(cellar: Cellar, feature: str, factor: float) -> None:
    """At once, by its factor."""
    for n in SIZES:
        (fault,) = cellar.faults(cellar.batch(n, feature, lambda x: x * factor))
        assert (fault.feature, fault.kind) == (feature, "unit_change")
        assert (fault.share, fault.usual, fault.detail) == (1, 0, pytest.approx(factor))


@pytest.mark.parametrize("factor", [10, 0.1])
@pytest.mark.parametrize("feature", WIDE)
def test_a_factor_that_hides_is_drift_beyond_doubt(
    cellar: Cellar, feature: str, factor: float
) -> None:
    """Where values are as wide as the factor no other feature is blamed, and drift sees it."""
    known = cellar.reference
    for n in SIZES:
        rows = cellar.batch(n, feature, lambda x: x * factor)
        assert {name for name, _ in kinds(cellar.faults(rows))} <= {feature}
        profile = summary(known, rows).profile
        tests = run_tests(known.profile, profile, known.correlation, known.n_rows)
        assert tests.p_value < 1e-9


@pytest.mark.parametrize("feature", FEATURES)
def test_a_stuck_sensor_is_found(cellar: Cellar, feature: str) -> None:
    """One value all the time, though it is the most usual one."""
    for n in SIZES:
        (fault,) = cellar.faults(cellar.batch(n, feature, lambda x: np.full_like(x, np.median(x))))
        assert (fault.feature, fault.kind, fault.share) == (feature, "stuck", 1)
        assert fault.usual < 0.1


@pytest.mark.parametrize("share", [1.0, 0.1])
@pytest.mark.parametrize("feature", FEATURES)
def test_missing_values_are_found(cellar: Cellar, feature: str, share: float) -> None:
    """All of them, or every tenth."""
    for n in SIZES:
        gone = np.arange(n) % 10 < 10 * share
        (fault,) = cellar.faults(
            cellar.batch(n, feature, lambda x, gone=gone: np.where(gone, np.nan, x))
        )
        assert (fault.feature, fault.kind) == (feature, "missing_values")
        assert (fault.share, fault.usual) == (share, 0)


@pytest.mark.parametrize(("feature", "decimals", "kind"), ROUNDED)
def test_lost_decimals_are_found(cellar: Cellar, feature: str, decimals: int, kind: str) -> None:
    """Values rounded so far that nearly all of them change; `stuck` where one value is left."""
    for n in SIZES:
        (fault,) = cellar.faults(cellar.batch(n, feature, lambda x: x.round(decimals)))
        assert (fault.feature, fault.kind) == (feature, kind)
        if kind == "rounding":
            assert (fault.share, fault.detail) == (0, decimals)
            assert fault.usual > 0.3


@pytest.mark.parametrize("feature", FEATURES)
def test_implausible_values_are_found(cellar: Cellar, feature: str) -> None:
    """Three in ten beyond what a wine can be, each in its own way."""
    high = SCHEMA.plausible[FEATURES.index(feature), 1]
    rng = np.random.default_rng(1)
    for n in SIZES:
        wild = high * 10 ** rng.uniform(0.01, 3, n)
        batch = cellar.batch(
            n, feature, lambda x, w=wild: np.where(np.arange(len(x)) % 10 < 3, w, x)
        )
        (fault,) = cellar.faults(batch)
        assert (fault.feature, fault.kind) == (feature, "out_of_range")
        assert (fault.share, fault.usual) == (pytest.approx(0.3), 0)


@pytest.mark.parametrize("feature", FEATURES)
def test_no_unit_makes_a_value_negative(cellar: Cellar, feature: str) -> None:
    """Three in ten are -999, as if that were a number: out of range, not another unit."""
    for n in SIZES:
        batch = cellar.batch(n, feature, lambda x: np.where(np.arange(len(x)) % 10 < 3, -999.0, x))
        assert kinds(cellar.faults(batch)) == [(feature, "out_of_range")]


@pytest.mark.parametrize("feature", FEATURES)
def test_half_a_batch_in_another_unit_is_found(cellar: Cellar, feature: str) -> None:
    """Every second row comes from a sensor that counts in thousandths."""
    for n in SIZES:
        batch = cellar.batch(n, feature, lambda x: np.where(np.arange(len(x)) % 2, 1000 * x, x))
        (fault,) = cellar.faults(batch)
        assert (fault.feature, fault.kind) == (feature, "unit_change")
        assert fault.share == pytest.approx(0.5, abs=0.04)  # zeros are in no unit
        assert fault.detail == pytest.approx(1000)


@pytest.mark.parametrize("feature", FEATURES)
def test_half_a_batch_that_is_stuck_is_found(cellar: Cellar, feature: str) -> None:
    """Every second row has the usual value."""
    for n in SIZES:
        batch = cellar.batch(n, feature, lambda x: np.where(np.arange(len(x)) % 2, np.median(x), x))
        (fault,) = cellar.faults(batch)
        assert (fault.feature, fault.kind) == (feature, "stuck")
        assert 0.5 <= fault.share < 0.65


def test_several_faults_are_told_the_largest_first(cellar: Cellar) -> None:
    """One for each feature, by how much has changed; a feature with two has the one first asked."""
    rows = cellar.batch(100)
    rows[::4, FEATURES.index("pH")] = np.nan
    rows[:, FEATURES.index("alcohol")] *= 1000
    rows[::5, FEATURES.index("alcohol")] = np.nan
    rows[:60, FEATURES.index("density")] = 0.9967
    rows[:, FEATURES.index("sulphates")] = np.nan
    assert kinds(cellar.faults(rows)) == [
        ("sulphates", "missing_values"),
        ("density", "stuck"),
        ("pH", "missing_values"),
        ("alcohol", "missing_values"),
    ]
    assert {kind for _, kind in kinds(cellar.faults(rows))} <= set(SOURCE_FAULTS)


# --- No fault -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("n", "batches"), [(20, 100), (50, 300), (100, 150), (500, 50)])
def test_healthy_wines_have_no_fault(cellar: Cellar, n: int, batches: int) -> None:
    """Not one in 600 batches drawn from the other half of the table."""
    rng = np.random.default_rng(n)
    for _ in range(batches):
        assert cellar.faults(rng.choice(cellar.wines, n, replace=False)) == ()


@pytest.mark.slow
def test_ten_healthy_wines_seldom_have_a_fault(cellar: Cellar) -> None:
    """Five of ten may be alike by chance; the budget allows it once in a thousand batches."""
    rng = np.random.default_rng(10)
    batches = (rng.choice(cellar.wines, 10, replace=False) for _ in range(300))
    assert sum(bool(cellar.faults(rows)) for rows in batches) <= 2


@pytest.mark.slow
@pytest.mark.parametrize(("n", "batches"), [(50, 300), (100, 150), (500, 50)])
def test_other_wines_are_no_fault(
    cellar: Cellar, white_wine_csv: Path, n: int, batches: int
) -> None:
    """White wines differ in every feature, and their instruments are as good: not one in 500."""
    white, rng = table(white_wine_csv), np.random.default_rng(n)
    for _ in range(batches):
        assert cellar.faults(rng.choice(white, n, replace=False)) == ()


@pytest.mark.parametrize("n", SIZES)
def test_drift_is_no_fault(cellar: Cellar, n: int) -> None:
    """Strong wines only, a feature up by a tenth or by and by, all features, finer decimals."""
    rng = np.random.default_rng(n)
    alcohol = cellar.wines[:, FEATURES.index("alcohol")]
    for _ in range(10):
        assert cellar.faults(rng.choice(cellar.wines[alcohol > 11], n)) == ()
        rows = rng.choice(cellar.wines, n, replace=False)
        assert cellar.faults(1.1 * rows) == ()
        assert cellar.faults(rows + rng.uniform(0, 1e-4, rows.shape)) == ()
        assert cellar.faults(rows * np.linspace(1, 1.15, n)[:, np.newaxis]) == ()
    for j in range(len(FEATURES)):
        factors = np.ones(len(FEATURES))
        for factors[j] in (0.91, 1.1):  # 0.9 times the density of wine is none
            assert cellar.faults(rows * factors) == ()


@pytest.mark.parametrize(
    ("feature", "factor"), [("pH", 1.4), ("alcohol", 1.6), ("fixed acidity", 3), ("chlorides", 4)]
)
def test_a_small_factor_is_drift(cellar: Cellar, feature: str, factor: float) -> None:
    """No unit is so near another, though the histogram of magnitudes keeps its shape."""
    for n in SIZES:
        assert cellar.faults(cellar.batch(n, feature, lambda x: x * factor)) == ()


@pytest.mark.parametrize(("halves", "found_out"), [(0.2, False), (0.4, True)])
def test_rounding_takes_values_enough_to_lose(halves: float, found_out: bool) -> None:
    """Where one value in five had a decimal, its loss is drift; two in five make it a fault."""
    rng = np.random.default_rng(5)
    whole = rng.integers(1, 7, (2, 1000, 1)).astype(float)
    known = build_reference(whole[0] + 0.5 * (rng.random((1000, 1)) < halves), ["x"])
    assert kinds(found(known, whole[1])) == [("x", "rounding")] * found_out


@pytest.mark.parametrize(
    ("feature", "decimals"),
    [
        ("fixed acidity", 1),
        ("volatile acidity", 2),
        ("residual sugar", 1),
        ("free sulfur dioxide", 0),
        ("total sulfur dioxide", 0),
        ("density", 4),
        ("pH", 2),
        ("sulphates", 2),
        ("alcohol", 1),
    ],
)
def test_rounding_that_does_no_harm_is_no_fault(
    cellar: Cellar, feature: str, decimals: int
) -> None:
    """Values had no more decimals than that, or a step is small beside what they differ by."""
    for n in SIZES:
        assert cellar.faults(cellar.batch(n, feature, lambda x: x.round(decimals))) == ()


def test_a_few_implausible_values_are_no_fault_of_the_source(cellar: Cellar) -> None:
    """One in ten is a matter of rows, which are set aside one by one."""
    for n in SIZES:
        batch = cellar.batch(n, "pH", lambda x: np.where(np.arange(len(x)) % 10 == 0, 9.0, x))
        assert cellar.faults(batch) == ()


def test_what_is_usual_is_no_fault(red_wine_csv: Path) -> None:
    """Gaps and a value that half of the rows have, where it was always so; more gaps are one."""
    rng = np.random.default_rng(3)
    red = table(red_wine_csv)
    red[rng.random(len(red)) < 0.3, 0] = np.nan
    red[rng.random(len(red)) < 0.5, 1] = 0.5
    known = build_reference(red[:800], FEATURES, plausible=SCHEMA.plausible)
    rows = red[800:900].copy()
    assert found(known, rows) == ()
    rows[:70, 1] = 0.5
    assert found(known, rows) == ()
    rows[::2, 0] = np.nan
    (fault,) = found(known, rows)
    assert (fault.feature, fault.kind) == ("fixed acidity", "missing_values")
    assert fault.usual == pytest.approx(0.3, abs=0.05)
    assert fault.share == np.isnan(rows[:, 0]).mean()


# --- The budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [10, 1000, 10**9])
def test_a_fault_is_rarer_than_the_budget(cellar: Cellar, budget: int) -> None:
    """Missing values are a fault from scipy's p-value of 1 / (budget, features, kinds) down."""
    n_known = cellar.reference.n_rows
    for n, most in ((20, 12), (100, 15)):
        for k in range(most):
            rows = cellar.batch(n, "pH", lambda x, k=k: np.where(np.arange(len(x)) < k, np.nan, x))
            p_value = stats.hypergeom.sf(k - 1, n_known + n, k, n) if k else 1.0
            rare = p_value <= 1 / (budget * len(FEATURES) * len(SOURCE_FAULTS))
            assert len(cellar.faults(rows, budget)) == (rare and k >= 0.05 * n)


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 30])
def test_chance_keeps_within_the_budget(n: int) -> None:
    """Of a feature near every limit one healthy batch in ten has a fault at most, if that is it."""
    rng = np.random.default_rng(4)

    def rows(size: int) -> Floats:
        x = rng.choice([1.0, 2.0, 3.0, 4.5, 5.25], (size, 1), p=[0.24, 0.2, 0.2, 0.2, 0.16])
        return np.where(rng.random((size, 1)) < 0.3, np.nan, x)

    alarms = [bool(found(build_reference(rows(60), ["x"]), rows(n), 10)) for _ in range(500)]
    assert 0 < np.mean(alarms) <= 0.1


# --- Scales ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 100.0, -1.0])
def test_the_unit_of_the_table_is_no_matter(
    cellar: Cellar, red_wine_csv: Path, scale: float
) -> None:
    """All in another unit by a power of ten, or all negative: the same faults."""
    limits = np.sort(scale * SCHEMA.plausible, axis=1)
    known = build_reference(scale * table(red_wine_csv)[:800], FEATURES, plausible=limits)
    edits: list[Edit] = [
        lambda x: x,
        lambda x: 1000 * x,
        lambda x: x / 100,
        lambda x: np.full_like(x, np.median(x)),
        lambda x: np.where(np.arange(len(x)) % 2, 1000 * x, x),
        lambda x: np.where(np.arange(len(x)) % 2, np.nan, x),
    ]
    for feature in FEATURES:
        for edit in edits:
            batch = cellar.batch(100, feature, edit)
            ours, theirs = cellar.faults(batch), found(known, scale * batch)
            assert kinds(ours) == kinds(theirs)
            assert [fault.detail for fault in ours] == [fault.detail for fault in theirs]


@pytest.mark.parametrize("power", [1, 2])
def test_lost_decimals_of_a_smaller_unit_are_found(
    cellar: Cellar, red_wine_csv: Path, power: int
) -> None:
    """In litres for centilitres, so to say, there are more decimals to lose."""
    scale = 10.0**-power
    known = build_reference(
        scale * table(red_wine_csv)[:800], FEATURES, plausible=scale * SCHEMA.plausible
    )
    (fault,) = found(known, scale * cellar.batch(100, "density", lambda x: x.round(3)))
    assert (fault.feature, fault.kind, fault.detail) == ("density", "rounding", 3 + power)


# --- Counting -------------------------------------------------------------------------------------

odd = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 0.5, 0.5, 1e-9, 1e12])
values = st.one_of(odd, st.floats(-1e12, 1e12), st.integers(-999, 999).map(lambda k: k / 100))
LIMITS = np.array([[0.0, 1.0], [-np.inf, np.inf]])


@STEADY
@given(
    st.lists(st.tuples(values, values), max_size=40),
    st.lists(st.integers(0, 40), max_size=4),
    st.randoms(use_true_random=False),
)
def test_traits_are_the_same_in_chunks_and_in_any_order(
    rows: list[tuple[float, float]], cuts: list[int], order: Any
) -> None:
    """Rows in one piece, or shuffled and in pieces in another order: not a bit differs."""
    whole = count_traits(np.array(rows).reshape(-1, 2), LIMITS)
    shuffled = np.array(order.sample(rows, len(rows))).reshape(-1, 2)
    total = Traits.none(2)
    for piece in np.split(shuffled, sorted(min(cut, len(rows)) for cut in cuts)):
        total += count_traits(piece, LIMITS)
    for name, part in vars(whole).items():
        assert (vars(total)[name] == part).all(), name
    n_values = np.isfinite(np.array(rows).reshape(-1, 2)).sum(axis=0)
    for part in (whole.decimals, whole.magnitudes, whole.buckets):
        assert part.sum(axis=1).tolist() == n_values.tolist()


@STEADY
@given(st.lists(st.tuples(values, values), max_size=40))
def test_traits_survive_json(rows: list[tuple[float, float]]) -> None:
    """What goes through strict JSON comes back equal, bit for bit."""
    traits = count_traits(np.array(rows).reshape(-1, 2), LIMITS)
    back = Traits.from_dict(json.loads(json.dumps(traits.to_dict(), allow_nan=False)))
    for name, part in vars(traits).items():
        assert (vars(back)[name] == part).all(), name


def one(value: float) -> Traits:
    """Traits of a single value."""
    return count_traits(np.array([[value]]), LIMITS[:1])


@STEADY
@given(st.integers(-999_999, 999_999), st.integers(0, 8))
def test_decimals_are_those_that_were_written(digits: int, decimals: int) -> None:
    """As many as the decimal number has, trailing zeros apart."""
    written = Decimal(digits).scaleb(-decimals)
    exponent = written.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    assert one(float(written)).decimals[0].argmax() == max(-exponent, 0)


@pytest.mark.parametrize(("value", "decimals"), [(1 / 3, 7), (1 / 30, 8), (1 / 300, 9)])
def test_more_digits_than_seven_tell_nothing(value: float, decimals: int) -> None:
    """Endless decimals end at the seventh significant one; the last place is for more than 8."""
    assert one(value).decimals[0].argmax() == decimals


@pytest.mark.parametrize("value", [7.4, 0.99, -0.5, 300.0])
@pytest.mark.parametrize("power", [-6, -1, 1, 6])
def test_a_decade_is_eight_steps_of_magnitude(value: float, power: int) -> None:
    """Times ten is eight steps up, of either sign."""
    before, after = (
        one(value).magnitudes[0].argmax(),
        one(value * 10.0**power).magnitudes[0].argmax(),
    )
    assert after - before == 8 * power


@STEADY
@given(values.filter(np.isfinite), values.filter(np.isfinite))
@example(0.0, -0.0)
def test_equal_values_share_a_bucket(a: float, b: float) -> None:
    """Zero is zero whatever its sign; values that differ seldom share one."""
    buckets = count_traits(np.array([[a], [b]]), LIMITS[:1]).buckets[0]
    assert buckets.max() == 2 if a == b else buckets.sum() == 2


def test_buckets_tell_values_apart(cellar: Cellar) -> None:
    """Of 400 different values no bucket holds many, be they fine or coarse."""
    for step in (0.001, 0.01, 0.1, 1.0, 1000.0):
        column = step * np.arange(1, 401)[:, np.newaxis]
        assert count_traits(column, LIMITS[:1]).buckets.max() <= 12


def test_both_ends_of_the_range_are_plausible() -> None:
    """A value at an end is inside, the next one is not; NaN and infinity are missing."""
    column = np.array([0, 1, np.nextafter(1, 2), np.nextafter(0, -1), np.nan, np.inf])[
        :, np.newaxis
    ]
    traits = count_traits(column, LIMITS[:1])
    assert traits.outside.tolist() == [2]


@pytest.mark.parametrize("value", [1.7e308, -1e305, 5e-324, 0.0])
def test_any_number_is_counted(value: float) -> None:
    """The largest and the smallest that a cell can hold, without a warning."""
    traits = one(value)
    assert (traits.decimals.sum(), traits.magnitudes.sum(), traits.buckets.sum()) == (1, 1, 1)


# --- Nothing to look at ---------------------------------------------------------------------------


def test_without_rows_or_values_nothing_fails(cellar: Cellar) -> None:
    """No rows, no fault; no values, all missing; a feature that was never known is not judged."""
    assert cellar.faults(cellar.batch(0)) == ()
    nothing = np.full((100, len(FEATURES)), np.nan)
    assert kinds(cellar.faults(nothing)) == [(name, "missing_values") for name in FEATURES]
    unknown = build_reference(nothing, FEATURES, plausible=SCHEMA.plausible)
    assert found(unknown, cellar.batch(100)) == found(unknown, nothing) == ()


def test_a_score_beside_the_features_is_no_matter(cellar: Cellar, red_wine_csv: Path) -> None:
    """The profile may count one column more; faults are of the features."""
    red = table(red_wine_csv)[:800]
    scored = np.column_stack([red, np.linspace(0, 1, 800)])
    known = build_reference(scored, SCHEMA.columns, plausible=SCHEMA.plausible)
    nothing = np.zeros(50, dtype=bool)
    batch = cellar.batch(100, "alcohol", lambda x: 1000 * x)
    here = known.summarise(batch, np.full(50, 0.5), nothing, nothing)
    usual = known.summary
    faults = find_faults(
        known.features,
        (usual.profile, usual.traits),
        (here.profile, here.traits),
        spread=known.spread,
        budget=BUDGET,
    )
    assert faults == cellar.faults(batch)
    assert kinds(faults) == [("alcohol", "unit_change")]


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100])
def test_mostly_zeros_are_no_change_of_unit(n: int) -> None:
    """A feature of 98 % zeros and a few sizes: healthy batches keep within the budget."""
    rng = np.random.default_rng(31)
    values = np.array([0.0, 1.0, 10.0, 20.0])
    p = [0.98, 0.017, 0.002, 0.001]
    limits = np.full((1, 2), np.nan)
    found = 0
    for _ in range(20):
        known = rng.choice(values, size=(1279, 1), p=p)
        edges = [bin_edges(known[:, 0])]
        usual = count(known, edges), count_traits(known, limits)
        for _ in range(100):
            rows = rng.choice(values, size=(n, 1), p=p)
            here = count(rows, edges), count_traits(rows, limits)
            found += bool(find_faults(["x"], usual, here, spread=np.zeros(1), budget=1000))
    assert found <= 6


def test_one_value_of_a_scale_may_become_common() -> None:
    """On a scale of five, 59 % of one value are drift; all but a few are a stuck sensor."""
    rng = np.random.default_rng(32)
    known = rng.integers(1, 6, size=(1000, 1)).astype(float)
    edges = [bin_edges(known[:, 0])]
    limits = np.array([[1.0, 5.0]])
    usual = count(known, edges), count_traits(known, limits)
    for share, kinds in ((0.59, []), (0.99, ["stuck"])):
        rows = np.where(rng.random((100, 1)) < share, 4.0, rng.integers(1, 6, size=(100, 1)))
        here = count(rows, edges), count_traits(rows, limits)
        found = find_faults(["x"], usual, here, spread=np.full(1, 4.0), budget=1000)
        assert [fault.kind for fault in found] == kinds
