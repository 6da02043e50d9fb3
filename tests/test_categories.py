"""Columns of categories: read, tested, told, and whole runs on a table of loans."""

from __future__ import annotations

import gzip
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet
from scipy.stats import chi2_contingency, hypergeom
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OrdinalEncoder

from wine_drift.bins import N_BINS, Profile, category_edges, count, unlisted_bin
from wine_drift.cli import main
from wine_drift.drift import run_tests
from wine_drift.explanation import change
from wine_drift.faults import find_faults
from wine_drift.frame import Column, Frame
from wine_drift.reference import Reference, build_reference
from wine_drift.schema import Schema, parse_schema
from wine_drift.screening import FAULTS, screen
from wine_drift.simulate import SCENARIOS, lay_scenario
from wine_drift.tables import NOTHING, read_parts, read_table

TRUTHS = ["True", "False"]
COLOURS = ["red", "white", "rosé"]


def schema(**changes: Any) -> Schema:
    """A table with a column of categories and one of numbers."""
    kinds = {"name": "kind", "categories": COLOURS} | changes
    target = {"column": "y", "positive": "== 1"}
    return parse_schema({"name": "t", "target": target, "feature": [kinds, {"name": "x"}]})


def run(*arguments: str | Path, code: int = 0) -> Result:
    """Run wine-drift in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def told(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """The record that a command prints."""
    record: dict[str, Any] = json.loads(run(*arguments, "--json", code=code).stdout)
    return record


# --- the schema ---


@pytest.mark.parametrize(
    ("entry", "mistake"),
    [
        pytest.param({"categories": []}, "feature 1.categories: not a list", id="empty"),
        pytest.param({"categories": ["a", 1]}, "feature 1.categories: not a list", id="number"),
        pytest.param({"categories": ["a", " a"]}, "' a' is there already", id="twice"),
        pytest.param({"categories": ["1", "true"]}, "'true' is there already", id="same truth"),
        pytest.param({"categories": ["(other)"]}, "'(other)' is there already", id="taken"),
        pytest.param({"categories": [*map(str, range(1001))]}, "more than 1,000", id="many"),
        pytest.param({"minimum": 0}, "feature 1.minimum: categories have none", id="minimum"),
        pytest.param({"unit": "m"}, "feature 1.unit: categories have none", id="unit"),
    ],
)
def test_mistakes(entry: dict[str, Any], mistake: str) -> None:
    """Each is told at its place."""
    with pytest.raises(ValueError) as caught:
        schema(**entry)
    assert mistake in str(caught.value)


def test_a_version_is_of_one_list() -> None:
    """Another list, or another order, is another schema: the numbers would mean other things."""
    mine = schema()
    manifest = {"features": ["kind", "x"], "positive": "y == 1", "categories": mine.categories}
    assert mine.difference(json.loads(json.dumps(manifest))) is None
    for other in (COLOURS[::-1], COLOURS[:2]):
        assert "other categories" in (schema(categories=other).difference(manifest) or "")
    plain = parse_schema(
        {
            "name": "t",
            "target": {"column": "y", "positive": "== 1"},
            "feature": [{"name": "kind"}, {"name": "x"}],
        }
    )
    assert "other categories" in (plain.difference(manifest) or "")
    del manifest["categories"]  # of an older release
    assert plain.difference(manifest) is None
    assert "other categories" in (mine.difference(manifest) or "")


# --- reading ---


def test_codes_are_those_of_scikit_learn() -> None:
    """Place in the list, one more for what is not in it, nothing for nothing."""
    rng = np.random.default_rng(0)
    cells = rng.choice([*COLOURS, "blue", None], size=500)
    encoder = OrdinalEncoder(
        categories=[COLOURS], handle_unknown="use_encoded_value", unknown_value=len(COLOURS)
    )
    known = np.array([cell is not None for cell in cells])
    expected = np.full(500, np.nan)
    encoder.fit(np.array(COLOURS, dtype=object)[:, None])
    expected[known] = encoder.transform(cells[known][:, None])[:, 0]
    np.testing.assert_array_equal(Column(cells).codes(COLOURS), expected)


@pytest.mark.parametrize(
    ("cells", "categories", "expected"),
    [
        pytest.param(["True", "False", "true", "FALSE"], TRUTHS, [0, 1, 0, 1], id="truths"),
        pytest.param([1, 0, 1.0, "1"], TRUTHS, [0, 1, 0, 0], id="truths as numbers"),
        pytest.param([True, False, None, np.nan], ["0", "1"], [1, 0, None, None], id="bools"),
        pytest.param(["1", "01", "1.0", "2"], ["2", "1"], [1, 1, 1, 0], id="numbers as text"),
        pytest.param([0.5, "0.50", "1e3"], ["1000", "0.5"], [1, 1, 0], id="other numbers"),
        pytest.param([" red", "Red", "", " "], COLOURS, [0, 3, None, None], id="texts"),
        pytest.param([["red"], {"red": 1}, b"red"], COLOURS, [3, 3, 3], id="no cells at all"),
    ],
)
def test_codes(cells: list[object], categories: list[str], expected: list[float | None]) -> None:
    """A value is one category however it is written; an empty cell is none."""
    column = Frame.of({"c": cells}).columns["c"]
    wanted = np.array(expected, dtype=float)
    np.testing.assert_array_equal(column.codes(categories), wanted)


def test_codes_and_back() -> None:
    """What is written of codes is read as the same codes."""
    codes = np.array([0.0, 2.0, np.nan, 3.0, 1.0])
    column = Column.of_codes(codes, COLOURS)
    assert list(column.texts()) == ["red", "rosé", "", "(other)", "white"]
    np.testing.assert_array_equal(column.codes(COLOURS), codes)


@pytest.mark.parametrize("name", ["kind", "truth", "code"])
def test_all_readers_agree(name: str) -> None:
    """CSV, packed or in parts, and Parquet of every type hold the same categories."""
    rng = np.random.default_rng(1)
    n_rows = 300
    frame = pd.DataFrame(
        {
            "x": rng.integers(9, size=n_rows),
            "kind": rng.choice([*COLOURS, "blue"], n_rows),
            "truth": rng.random(n_rows) < 0.5,
            "code": rng.integers(1, 5, n_rows),
        }
    )
    categories = {"kind": COLOURS, "truth": TRUTHS, "code": ["3", "1", "2"]}[name]
    frame.to_csv("t.csv", index=False)
    frame[["x", "code"]].to_csv("plain.csv", index=False)  # read without pandas
    Path("t.csv.gz").write_bytes(gzip.compress(Path("t.csv").read_bytes()))
    frame.to_parquet("plain.parquet")
    frame.astype({name: "category"}).to_parquet("coded.parquet")
    texts = pa.array(frame[name].astype(str))
    for kind, array in (("text", texts), ("dictionary", texts.dictionary_encode())):
        parquet.write_table(pa.table({"x": frame["x"], name: array}), f"{kind}.parquet")
    expected = Column(frame[name].to_numpy(dtype=object)).codes(categories)
    assert set(expected) == set(range(len(categories) + (name != "truth")))
    for path in sorted(Path().iterdir()):
        parts = [*read_parts(path, part_rows=100), read_table(path)]
        if name in parts[-1].columns:
            codes = [part.columns[name].codes(categories) for part in parts]
            np.testing.assert_array_equal(codes[-1], expected)
            np.testing.assert_array_equal(np.concatenate(codes[:-1]), expected)


# Each stands for an empty cell where it is not listed.
WORDS = ["NA", "None", "null", "nan", "N/A", "<NA>"]


@pytest.mark.parametrize("column", ["kind", "y"])
def test_a_category_is_one_whatever_it_is_called(column: str) -> None:
    """CSV, at once or in parts, packed or of rows with names, tells what Parquet tells."""
    rng = np.random.default_rng(5)
    cells = rng.choice([*WORDS, "EU", None], 300)
    frame = pd.DataFrame({"kind": "EU", "y": "EU", "x": np.arange(300), "id": "NA"})
    frame[column] = cells
    frame.to_csv("t.csv", index=False)
    frame.to_csv("t.csv.gz", index=False)
    frame.to_parquet("t.parquet")
    listed = ["EU", *WORDS]
    for kept in (listed, listed[:3]):
        expected = Column(cells).codes(kept)
        is_gap = np.isin(cells, listed[len(kept) :])  # what is not listed is an empty cell in CSV
        for path in sorted(Path().iterdir()):
            wanted = expected if path.suffix == ".parquet" else np.where(is_gap, np.nan, expected)
            for named in (None, "id"):
                told: dict[str, Any] = {"listed": {column: kept}, "text_column": named}
                parts = [*read_parts(path, part_rows=70, **told), read_table(path, **told)]
                codes = [part.columns[column].codes(kept) for part in parts]
                np.testing.assert_array_equal(codes[-1], wanted)
                np.testing.assert_array_equal(np.concatenate(codes[:-1]), wanted)
                assert parts[-1].columns["x"].cells.tolist() == [*range(300)]


def test_texts_for_nothing_are_those_of_pandas() -> None:
    """Whatever release of it is there."""
    words = [*NOTHING, "na", "-", "EU", "none", "Null"]
    Path("t.csv").write_text("\n".join(["a;b", *(f"{word};1" for word in words)]))
    usual = pd.read_csv("t.csv", sep=";")["a"].isna()
    assert read_table(Path("t.csv")).columns["a"].is_empty.tolist() == usual.tolist()
    assert usual.sum() == len(NOTHING)


def test_screening() -> None:
    """What is not listed is scored, nothing is missing, and no text or range is at fault."""
    rows = {
        "kind": ["red", "blue", None, "7", "rosé"],
        "x": [1, 2, 3, 4, "?"],
        "y": [0, 1, 0, 1, 0],
    }
    screened = screen(Frame.of(rows), schema())
    assert [FAULTS[k] if k >= 0 else "ok" for k in screened.fault] == [
        *("ok", "ok", "missing", "ok", "text")
    ]
    np.testing.assert_array_equal(screened.features[:, 0], [0, 3, np.nan, 3, 2])
    assert screened.outside.tolist() == [0, 0]


# --- statistics ---


@pytest.mark.parametrize("n_categories", [1, 2, 9, 10, 19, 20, 57])
def test_bins_of_categories(n_categories: int) -> None:
    """Each of up to 19 has one; of more, the 18 first; what is not listed always has its own."""
    codes = np.arange(n_categories + 1.0)
    profile = count(codes[:, None], [category_edges(n_categories)])
    assert profile.counts[0, unlisted_bin(n_categories)] == 1
    shared = max(n_categories - 18, 1) if n_categories > 19 else 1
    assert sorted(profile.counts[0][profile.counts[0] > 0])[-1] == shared
    assert profile.counts.sum() == n_categories + 1
    if n_categories < N_BINS // 2:  # pairs of bins are merged for severity
        assert (profile.counts[0, 1::2] == 0).all()


def reference(rows: np.ndarray, n_categories: tuple[int, ...]) -> Reference:
    """Of rows without a score."""
    names = [f"c{j}" for j in range(rows.shape[1])]
    return build_reference(rows, names, n_categories=n_categories)


@pytest.mark.parametrize("n_rows", [60, 150, 500])
def test_chi2_is_that_of_scipy(n_rows: int) -> None:
    """Frequent categories count each by itself, below 200 rows too."""
    rng = np.random.default_rng(n_rows)
    shares = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    for n_listed in (5, 12):
        known = reference(rng.choice(5, size=(2000, 1), p=shares).astype(float), (n_listed,))
        batch = rng.choice(5, size=(n_rows, 1), p=shares[::-1]).astype(float)
        counts = count(batch, known.edges)
        tests = run_tests(known.profile, counts, known.correlation, 2000, known.n_categories)
        table = np.array([known.profile.counts[0], counts.counts[0]])
        expected = chi2_contingency(table[:, table.sum(axis=0) > 0], correction=False)
        assert expected.expected_freq.min() >= 5
        assert tests.chi2[0] == pytest.approx(expected.pvalue, rel=1e-9)


def test_rare_categories_are_put_together() -> None:
    """Those of which fewer than five are expected count with the one before, as by hand."""
    pool, batch = np.zeros((2, 1, N_BINS))
    pool[0, [0, 2, 4, 6]] = 600, 300, 80, 20
    batch[0, [0, 2, 4, 6, 8]] = 40, 40, 10, 7, 3  # expected: 58, 31, 8, 2.5, 0.3
    sides = [Profile(counts, np.zeros(1)) for counts in (pool, batch)]
    tests = run_tests(*sides, np.zeros((2, 2)), 1000, (4,))
    expected = chi2_contingency([[600, 300, 100], [40, 40, 20]], correction=False).pvalue
    assert tests.chi2[0] == pytest.approx(expected, rel=1e-9)
    # 3 rows of 100 with what is not listed, of 1000 none
    assert tests.missing[0] == pytest.approx(hypergeom.sf(2, 1100, 3, 100), rel=1e-6)


def test_columns_of_numbers_do_not_care() -> None:
    """Beside a column of categories they have the same figures to the bit."""
    rng = np.random.default_rng(2)
    numbers, kinds = rng.normal(size=(800, 2)), rng.integers(4, size=(800, 1)).astype(float)
    alone, beside = reference(numbers, (0, 0)), reference(np.hstack([kinds, numbers]), (4, 0, 0))
    batch = rng.normal(size=(90, 2)) + 0.2
    tests = run_tests(alone.profile, count(batch, alone.edges), alone.correlation, 800)
    mixed = count(np.hstack([kinds[:90], batch]), beside.edges)
    found = run_tests(beside.profile, mixed, beside.correlation, 800, beside.n_categories)
    for name in ("chi2", "location_scale", "missing", "n_effective", "z"):
        np.testing.assert_array_equal(getattr(found, name)[1:], getattr(tests, name))
    assert found.multivariate == pytest.approx(float(tests.multivariate), rel=1e-9)


def test_numbers_alone_are_judged_as_before() -> None:
    """A list of zeros is no list."""
    rng = np.random.default_rng(3)
    rows, batch = rng.normal(size=(500, 3)), rng.normal(size=(70, 3))
    names = ["a", "b", "c"]
    one, two = build_reference(rows, names), build_reference(rows, names, n_categories=(0, 0, 0))
    assert json.dumps(one.to_dict()) == json.dumps(two.to_dict())
    sides = one.profile, count(batch, one.edges), one.correlation, 500
    tests, others = run_tests(*sides), run_tests(*sides, (0, 0, 0))
    for name, values in vars(tests).items():
        np.testing.assert_array_equal(getattr(others, name), values)


SHARES = {
    "two": [0.85, 0.15],
    "rare": [0.99, 0.01],
    "some": [0.5, 0.4, 0.06, 0.02, 0.01, 0.005, 0.003, 0.002],
    "many": (0.75 ** np.arange(30) / (0.75 ** np.arange(30)).sum()).tolist(),
}


@pytest.mark.parametrize(("n_reference", "n_rows"), [(300, 20), (1000, 50), (1000, 300)])
def test_healthy_batches_are_as_rare_as_they_say(n_reference: int, n_rows: int) -> None:
    """However rare the categories; those that the reference never showed are not listed."""
    rng = np.random.default_rng(n_rows)
    levels, below, n_batches = (0.05, 0.01), np.zeros((2, 3)), 0
    for _ in range(60):
        codes, listed = [], []
        for shares in SHARES.values():
            drawn = rng.choice(len(shares), size=n_reference + 20 * n_rows, p=shares)
            seen = np.bincount(drawn[:n_reference], minlength=len(shares))
            names = np.argsort(-seen, kind="stable")[: (seen > 0).sum()]
            code = np.full(len(shares), len(names))
            code[names] = np.arange(len(names))
            codes.append(code[drawn].astype(float))
            listed.append(len(names))
        rows = np.column_stack([*codes, rng.normal(size=len(codes[0]))])
        known = reference(rows[:n_reference], (*listed, 0))
        parts = [count(part, known.edges) for part in np.split(rows[n_reference:], 20)]
        batches = Profile(
            np.stack([part.counts for part in parts]), np.stack([part.missing for part in parts])
        )
        tests = run_tests(
            known.profile, batches, known.correlation, n_reference, known.n_categories
        )
        n_batches += 20
        for k, level in enumerate(levels):
            below[k] += [
                (tests.p_value < level).sum(),
                (tests.chi2[:, :-1] < level).mean(axis=1).sum(),
                (tests.location_scale[:, :-1] < level).mean(axis=1).sum(),
            ]
    shares_below = below / n_batches
    for k, level in enumerate(levels):
        noise = 4 * np.sqrt(level / n_batches)
        assert (shares_below[k] < level + noise).all(), (level, shares_below[k])
    assert shares_below[0].min() > 0.01  # and it is able to see


def test_no_fault_of_numbers_is_found_in_categories() -> None:
    """All of one category, or of none that is listed, is drift; a lost column is a fault."""
    rng = np.random.default_rng(4)
    known = reference(rng.integers(12, size=(1000, 1)).astype(float), (12,))

    def found(codes: np.ndarray) -> list[str]:
        nothing = np.zeros(len(codes), dtype=bool)
        here = known.summarise(codes[:, None], np.empty(0), nothing[:0], nothing[:0])
        faults = find_faults(
            known.features,
            (known.profile, known.summary.traits),
            (here.profile, here.traits),
            spread=known.spread,
            budget=1000,
        )
        return [fault.kind for fault in faults]

    for code in (0, 1, 7, 12):
        assert found(np.full(200, float(code))) == []
    assert found(np.where(np.arange(200) % 2, np.nan, 1.0)) == ["missing_values"]


def test_a_reference_of_categories_is_kept_whole() -> None:
    """As JSON and back; they have no quantiles; one of an older release has none of them."""
    rng = np.random.default_rng(5)
    rows = np.column_stack([rng.integers(3, size=200), rng.normal(size=200)])
    known = reference(rows, (3, 0))
    again = Reference.from_dict(json.loads(json.dumps(known.to_dict())))
    assert again.n_categories == (3, 0)
    assert [edges.tolist() for edges in again.edges] == [edges.tolist() for edges in known.edges]
    assert np.isnan(again.quantiles[0]).all() and np.isfinite(again.quantiles[1]).all()
    older = known.to_dict()
    del older["n_categories"]
    assert Reference.from_dict(older).n_categories == (0, 0)


# --- words ---


def shares(**told: tuple[float, float]) -> dict[str, Any]:
    """A feature of a record."""
    categories = [
        {"name": name, "reference_share": before, "share": here}
        for name, (before, here) in told.items()
    ]
    return {"name": "kind", "unit": "", "categories": categories}


@pytest.mark.parametrize(
    ("feature", "missing", "text"),
    [
        (shares(red=(0.62, 0.41), white=(0.38, 0.59)), 0, "red 62 % -> 41 %, white 38 % -> 59 %"),
        (shares(red=(0.5, 0.5), white=(0.5, 0.5)), 0, "unchanged"),
        (shares(a=(0.5, 0.41), b=(0.5, 0.5), c=(0, 0.09)), 0, "a 50 % -> 41 %, c 0 % -> 9 %"),
        (shares(a=(0.4, 0.5), b=(0.6, 0.5)), 0.25, "b 60 % -> 50 %, a 40 % -> 50 %, 25 % missing"),
    ],
)
def test_changes_in_words(feature: dict[str, Any], missing: float, text: str) -> None:
    """The two that changed most, the one that lost first."""
    assert change(feature, missing) == f"kind {text}"


# --- scenarios ---


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios(name: str) -> None:
    """Those about numbers say so; the others leave categories what they are, or take them away."""
    rng = np.random.default_rng(6)
    rows = np.column_stack([rng.integers(4, size=200), rng.normal(size=200)])
    answers = rng.integers(2, size=200).astype(float)

    def laid() -> np.ndarray:
        features, _ = lay_scenario(
            name,
            rows,
            answers,
            step=20,
            schema=schema(),
            feature="kind",
            centre=np.median(rows, axis=0),
            spread=rows.std(axis=0),
            rng=rng,
        )
        return features

    if name in ("sensor_scaled", "stuck", "unit_change"):
        with pytest.raises(ValueError, match=f"'kind' holds categories, and {name} is about"):
            laid()
        return
    found = laid()[:, 0]
    assert np.isin(found[~np.isnan(found)], rows[:, 0]).all()
    if name != "more_good":
        assert (np.isnan(found) | (found == rows[:, 0])).all()
    assert np.isnan(found).sum() == (60 if name == "missing" else 0)


# --- whole runs ---

PURPOSES = {"car": 0.33, "house": 0.24, "education": 0.14, "furniture": 0.12, "business": 0.09}
PURPOSES |= {"repairs": 0.05, "holiday": 0.03}
RISK = dict(zip(PURPOSES, (0.0, -0.6, -0.2, 0.3, 1.2, 0.4, 0.9), strict=True))


def loans(n_rows: int, seed: int) -> pd.DataFrame:
    """Loans that are repaid or not, as logistic regression would have it."""
    rng = np.random.default_rng(seed)
    purpose = rng.choice(list(PURPOSES), n_rows, p=list(PURPOSES.values()))
    housing = rng.choice(["rent", "own", "free"], n_rows, p=[0.5, 0.4, 0.1])
    employed = rng.random(n_rows) < 0.85
    income, amount = (
        rng.lognormal(mean, width, n_rows).round(-1) for mean, width in ((7.8, 0.4), (8.5, 0.6))
    )
    effect = np.array([RISK[each] for each in purpose]) + 0.5 * (housing == "rent") - employed
    log_odds = effect + np.log(amount / income / 2) - 1.2
    defaulted = rng.random(n_rows) < 1 / (1 + np.exp(-log_odds))
    return pd.DataFrame(
        {
            "loan": [f"L{seed}-{row:05}" for row in range(n_rows)],
            "purpose": purpose,
            "housing": housing,
            "employed": employed,
            "income": income,
            "amount": amount,
            "outcome": np.where(defaulted, "default", "repaid"),
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `init` and `train` have been, on 2000 loans."""
    folder = tmp_path_factory.mktemp("loans")
    loans(2000, 1).to_csv(folder / "loans.csv", index=False)
    rule = ("--target", "outcome", "--positive", "== default")
    run("init", folder / "loans.toml", "--from", folder / "loans.csv", *rule)
    run("train", "--settings", folder / "loans.toml", "--data", folder / "loans.csv")
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the current folder, in which settings need not be named."""
    shutil.copytree(trained, Path(), dirs_exist_ok=True)
    monkeypatch.setenv("WINE_DRIFT_SETTINGS", "loans.toml")


def drifted(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Columns that drifted, by name."""
    return {each["name"]: each for each in record["drift"]["features"] if each["drifted"]}


def test_what_is_proposed(trained: Path) -> None:
    """Texts and truths are categories, the most frequent one first."""
    content = tomllib.loads((trained / "loans.schema.toml").read_text())
    listed = {each["name"]: each.get("categories") for each in content["feature"]}
    counts = loans(2000, 1)["purpose"].value_counts()
    assert listed == {
        "purpose": list(counts.index),
        "housing": ["rent", "own", "free"],
        "employed": TRUTHS,
        "income": None,
        "amount": None,
    }
    assert tomllib.loads((trained / "loans.toml").read_text())["row_id"] == "loan"


@pytest.mark.usefixtures("here")
def test_a_stream_of_loans() -> None:
    """Healthy batches raise no alarm; a purpose that becomes frequent, and a new one, do."""
    for week in range(6):
        loans(300, 100 + week).to_csv("week.csv", index=False)
        record = told("run-batch", "week.csv")
        assert record["drift"]["status"] in ("ok", "warn", "minor"), week
        assert record["quality"]["status"] in ("ok", "warn", "minor"), week
        assert record["quality"]["roc_auc"] > 0.65
        assert record["batch"]["accepted"] == 300

    batch = loans(300, 200)
    some = (batch["purpose"] == "car") & (np.arange(300) % 2 == 0)
    batch.loc[some, "purpose"] = "business"
    batch.to_csv("more.csv", index=False)
    record = told("run-batch", "more.csv", "--retrain", "never")
    assert record["drift"]["status"] in ("drift", "major")
    assert list(drifted(record)) == ["purpose"]
    assert "purpose car 3" in run("explain").output and ", business " in run("explain").output

    batch = loans(300, 201)
    batch.loc[np.arange(300) % 8 == 0, "purpose"] = "crypto"
    batch.to_csv("new.csv", index=False)
    record = told("run-batch", "new.csv", "--retrain", "never")
    assert list(drifted(record)) == ["purpose"]
    assert record["batch"]["accepted"] == 300
    (other,) = (each for each in drifted(record)["purpose"]["categories"] if "(" in each["name"])
    assert other == {"name": "(other)", "share": 38 / 300, "reference_share": 0.0}
    assert "(other) 0 % -> 13 %" in run("explain").output
    assert drifted(record)["purpose"]["quantiles"] == [None, None, None]
    assert 'feature_drift_severity{feature="purpose"' in run("metrics").output
    assert 'feature_quantile{dataset="current",feature="purpose"' not in run("metrics").output
    run("report", "--out", "page.html")
    page = Path("page.html").read_text()
    assert "Values of purpose" in page and "(other) 0 % → 13 %" in page
    assert [page.count(f">{name}</text>") for name in (*PURPOSES, "(other)")] == [1] * (
        len(PURPOSES) + 1
    )


@pytest.mark.usefixtures("here")
def test_the_model_knows_categories() -> None:
    """It uses them as such, and scores nearly as well as who knows the truth can."""
    fresh = loans(4000, 300)
    fresh.to_csv("fresh.csv", index=False)
    record = told("run-batch", "fresh.csv")
    risk = fresh["purpose"].map(RISK) + 0.5 * (fresh["housing"] == "rent") - fresh["employed"]
    best = roc_auc_score(
        fresh["outcome"] == "default", risk + np.log(fresh["amount"] / fresh["income"])
    )
    assert best - 0.03 < record["quality"]["roc_auc"] < best + 0.005
    manifest = json.loads(run("models", "show").output)
    assert manifest["scoring"] == "masks"
    assert manifest["categories"]["housing"] == ["rent", "own", "free"]
    model = next(Path("loans.home/models").glob("v1-*")) / "model.txt"
    assert "[categorical_feature: 0,1,2]" in model.read_text()


@pytest.mark.usefixtures("here")
def test_parts_and_files_of_other_kinds_are_the_same_batch() -> None:
    """One CSV, a folder of CSV and Parquet, give the same figures."""
    batch = loans(400, 400)
    batch.to_csv("one.csv", index=False)
    Path("many").mkdir()
    batch[:150].to_csv("many/a.csv", index=False)
    batch[150:].to_parquet("many/b.parquet")
    records = []
    for path in ("one.csv", "many"):
        home = f"home-{path}"
        shutil.copytree("loans.home", home)
        records.append(told("run-batch", path, "--home", home))
    for part in ("quality", "drift"):
        assert records[0][part] == records[1][part]


def test_regions_of_which_one_is_called_na() -> None:
    """Every row is learned from, scored and labelled, in CSV as in Parquet; `init` tells of it."""
    rng = np.random.default_rng(8)
    regions = rng.choice(["EU", "NA", "AS"], 900, p=[0.4, 0.38, 0.22])
    size = rng.normal(size=900).round(3)
    bad = rng.random(900) < 1 / (1 + np.exp(1 - size - (regions == "NA")))
    table = pd.DataFrame({"size": size, "region": regions, "loss": np.where(bad, "None", "some")})
    table.to_csv("losses.csv", index=False)
    rule = ("--target", "loss", "--positive", "== None")
    run("init", "--from", "losses.csv", *rule)
    proposed = Path("losses.schema.toml").read_text()
    (line,) = (line for line in proposed.splitlines() if line.startswith('# "region"'))
    share = f"{(regions == 'NA').mean():.0%}"
    assert f"has no text in {share} of the rows" in line
    assert '"NA" is an empty cell unless categories list it' in line
    feature = '[[feature]]\nname = "region"\ncategories = ["EU", "NA", "AS"]\n'
    Path("losses.schema.toml").write_text(f"{proposed}\n{feature}")
    run("train")
    manifest = json.loads(run("models", "show").output)
    assert manifest["training_rows"] == 900
    batch = table[:150]
    batch.to_csv("b.csv", index=False)
    batch.to_parquet("b.parquet")
    batch.drop(columns="loss").to_csv("late.csv", index=False)
    records = []
    for path in ("b.csv", "b.parquet", "late.csv"):
        shutil.copytree("losses.home", path.replace(".", "-"))
        home = ("--home", path.replace(".", "-"))
        records.append(told("run-batch", path, *home, "--retrain", "never"))
        assert records[-1]["batch"]["accepted"] == 150
    assert records[0]["drift"] == records[1]["drift"]
    assert records[0]["quality"] == records[1]["quality"]
    batch[["loss"]].to_csv("labels.csv", index=False)
    labelled = told("add-labels", 1, "labels.csv", *home, "--retrain", "never")
    assert labelled["labels"]["rows"] == 150


@pytest.mark.usefixtures("here")
def test_gaps_late_labels_and_quarantine() -> None:
    """An empty cell sets its row aside as it came; labels that come later find their rows."""
    batch = loans(200, 500)
    batch.loc[[3, 4], "purpose"] = None
    batch.loc[5, "purpose"] = "Zeppelin"
    batch.loc[6, "amount"] = -5
    batch.drop(columns="outcome").to_csv("batch.csv", index=False)
    record = told("run-batch", "batch.csv")
    assert {k: n for k, n in record["batch"]["set_aside"].items() if n} == {
        "missing": 2,
        "out_of_range": 1,
    }
    (kept,) = Path("loans.home/quarantine").glob("*.csv")
    rows = pd.read_csv(kept, sep=None, engine="python")
    assert rows["set_aside_column"].tolist() == ["purpose", "purpose", "amount"]
    assert rows["housing"].tolist() == batch.loc[[3, 4, 6], "housing"].tolist()
    batch[["loan", "outcome"]].sample(frac=1, random_state=0).to_csv("labels.csv", index=False)
    record = told("add-labels", "1", "labels.csv")
    assert record["batch"]["labelled"] == 197
    assert record["batch"]["positive"] == (batch.drop([3, 4, 6])["outcome"] == "default").sum()


@pytest.mark.usefixtures("here")
def test_all_recipes_learn_and_serve() -> None:
    """Retraining from nothing, continued or refitted, keeps categories what they are."""
    for week in range(3):
        batch = loans(300, 600 + week)
        batch["outcome"] = np.where(
            batch["purpose"].isin(["car", "house"]), "default", batch["outcome"]
        )
        batch.to_csv("week.csv", index=False)
        record = told("run-batch", "week.csv", "--retrain", "force", "--recipe", "auto")
    candidates = record["retraining"]["gate"]["candidates"]
    assert {each["outcome"] for each in candidates} & {"failed"} == set()
    listed = json.loads(run("models", "list", "--json").stdout)["versions"]
    assert len(listed) > 1
    assert all(each["scoring"] == "masks" for each in listed)


@pytest.mark.usefixtures("here")
def test_versions_travel_between_homes_of_one_list() -> None:
    """Exported and imported it scores alike; where the list differs it is refused."""
    run("models", "export", run_version(), "--out", "v.tar")
    loans(200, 700).to_csv("batch.csv", index=False)
    assert "imported" in told("models", "import", "v.tar", "--home", "second")["outcome"]
    one, two = (told("run-batch", "batch.csv", "--home", home) for home in ("loans.home", "second"))
    assert one["quality"] == two["quality"]
    assert one["drift"] == two["drift"]
    text = Path("loans.schema.toml").read_text()
    Path("other.toml").write_text(
        text.replace('["rent", "own", "free"]', '["own", "rent", "free"]')
    )
    other = ("--schema", "other.toml")
    for command in (("models", "import", "v.tar", "--home", "third"), ("run-batch", "batch.csv")):
        assert "made for other categories" in run(*command, *other, code=2).output


def run_version() -> str:
    """The champion."""
    version: str = json.loads(run("models", "show").output)["version"]
    return version


@pytest.mark.usefixtures("here")
def test_streams_and_scenarios() -> None:
    """A stream is cut from the table; what is laid on it can be read again as categories."""
    run("simulate", "--out", "made", "--batch-rows", "100", "--scenario", "switch")
    made = pd.read_csv("made/switch-0000.csv", sep=";")
    assert set(made["purpose"]) <= set(PURPOSES) and set(made["employed"]) == {True, False}
    assert set(made["outcome"]) == {"default", "repaid"}
    result = run(
        "simulate", "--out", "m", "--scenario", "stuck", "--scenario-feature", "purpose", code=2
    )
    assert "'purpose' holds categories, and stuck is about numbers" in result.output
    stream = ("--home", "fresh", "--scenario", "missing", "--scenario-feature", "purpose")
    record = told("run-batch", *stream, "--scenario-start", "0")
    assert record["batch"]["set_aside"]["missing"] == 30
    assert record["drift"]["faults"][0]["kind"] == "missing_values"


def test_more_categories_than_bins() -> None:
    """Those listed last are told together, and shares are those of the rows."""
    rng = np.random.default_rng(8)
    names = [f"k{number}" for number in range(25)]
    frame = pd.DataFrame({"kind": rng.choice(names, 1500), "x": rng.normal(size=1500)})
    frame.assign(y=rng.random(1500) < frame["kind"].isin(names[:9]) * 0.8 + 0.1).to_csv("t.csv")
    run("init", "t.toml", "--from", "t.csv", "--target", "y", "--positive", "== True")
    record = told("run-batch", "--settings", "t.toml")
    (kind,) = (each for each in record["drift"]["features"] if each["name"] == "kind")
    assert len(kind["categories"]) == 20
    assert [each["name"] for each in kind["categories"]][-2:] == ["(7 listed last)", "(other)"]
    for key in ("share", "reference_share"):
        assert sum(each[key] for each in kind["categories"]) == pytest.approx(1)
        assert 0.1 < kind["categories"][-2][key] < 0.45


@pytest.mark.usefixtures("here")
def test_selftests() -> None:
    """Healthy loans keep the promises; a change of categories is told as a share of the rows."""
    found = told("selftest", "null", "--repeats", "1000", "--batch-rows", "50")
    assert found["rates"]["drift"]["0.05"]["low"] < 0.06
    found = told("selftest", "power", "--repeats", "200", "--batch-rows", "300")
    by_name = {each["name"]: each for each in found["features"]}
    assert 0.1 < by_name["purpose"]["shift_own"] < 0.3
    assert by_name["purpose"]["unit"] == "of the rows" and by_name["purpose"]["shift_sd"] is None
    assert by_name["purpose"]["mean_delay"] < 20
    assert 'min_detectable_shift{feature="purpose"' in run("metrics").output
