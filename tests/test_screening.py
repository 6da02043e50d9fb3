"""Which rows are scored, and why the others are set aside."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wine_drift import rows
from wine_drift.errors import BadBatch
from wine_drift.frame import Frame
from wine_drift.schema import FAULTS, Schema, parse_schema
from wine_drift.screening import Screened, screen
from wine_drift.tables import from_pandas, read_table

GOOD = {"x": 1.0, "z": 10.0, "y": 1.0}


def schema(duplicates: str = "reject") -> Schema:
    """Return a schema of two features x in [0, 9] and z in [0, 99], target y in [0, 1]."""
    return parse_schema(
        {
            "name": "t",
            "duplicates": duplicates,
            "target": {"column": "y", "positive": "> 0.5", "minimum": 0, "maximum": 1},
            "feature": [
                {"name": "x", "minimum": 0, "maximum": 9},
                {"name": "z", "minimum": 0, "maximum": 99},
            ],
        }
    )


def verdicts(screened: Screened) -> list[str]:
    """Return the verdict on each row in words."""
    return [FAULTS[k] if k >= 0 else "ok" for k in screened.fault]


def screen_rows(*rows: dict[str, Any], duplicates: str = "reject") -> Screened:
    """Screen rows that are good but for what is given."""
    frame = pd.DataFrame([GOOD | row for row in rows], dtype=object)
    return screen(from_pandas(frame), schema(duplicates))


def screen_column(values: Any) -> Screened:
    """Screen a table with these values of x."""
    frame = pd.DataFrame({"x": values})
    frame = frame.assign(z=np.arange(len(frame)) + 0.0, y=0)
    return screen(from_pandas(frame), schema())


@pytest.mark.parametrize(
    ("change", "fault", "column"),
    [
        pytest.param({"x": "two"}, "text", "x", id="text"),
        pytest.param({"z": "1,5"}, "text", "z", id="decimal comma"),
        pytest.param({"x": datetime.date(2020, 1, 1)}, "text", "x", id="date"),
        pytest.param({"x": [1.0]}, "text", "x", id="list"),
        pytest.param({"x": None}, "missing", "x", id="none"),
        pytest.param({"z": float("nan")}, "missing", "z", id="nan"),
        pytest.param({"z": pd.NA}, "missing", "z", id="NA"),
        pytest.param({"x": float("inf")}, "infinite", "x", id="infinite"),
        pytest.param({"z": float("-inf")}, "infinite", "z", id="minus infinite"),
        pytest.param({"z": "inf"}, "infinite", "z", id="infinite as text"),
        pytest.param({"x": 9.5}, "out_of_range", "x", id="too high"),
        pytest.param({"z": -0.5}, "out_of_range", "z", id="too low"),
        pytest.param({"x": 10**30}, "out_of_range", "x", id="huge"),
        pytest.param({"y": 2}, "bad_label", "y", id="label too high"),
        pytest.param({"y": "good"}, "bad_label", "y", id="label as text"),
        pytest.param({"y": float("inf")}, "bad_label", "y", id="label infinite"),
        pytest.param({}, "duplicate", "", id="duplicate"),
    ],
)
def test_each_fault_alone(change: dict[str, Any], fault: str, column: str) -> None:
    """A row with one fault is set aside for it, with its column, and the good row is not."""
    screened = screen_rows({}, change)
    assert verdicts(screened) == ["ok", fault]
    names = ["x", "z", "y", ""]
    assert [names[j] for j in screened.faulty_column] == ["", column]
    assert screened.accepted.tolist() == [True, False]
    assert screened.set_aside == {name: int(name == fault) for name in FAULTS}


@pytest.mark.parametrize("first", range(len(FAULTS) - 1))
@pytest.mark.parametrize("order", [("x", "z"), ("z", "x")], ids="-".join)
def test_precedence(first: int, order: tuple[str, str]) -> None:
    """Of several faults of a row the first in FAULTS is told, wherever it is."""
    cells = {"text": "two", "missing": None, "infinite": float("inf"), "out_of_range": 1e6}
    for later in range(first + 1, len(FAULTS) - 1):
        change: dict[str, Any] = {order[0]: cells.get(FAULTS[first], 1.0)}
        change |= {"y": 7} if FAULTS[later] == "bad_label" else {order[1]: cells[FAULTS[later]]}
        screened = screen_rows({}, change)
        assert verdicts(screened)[1] == FAULTS[first]
        assert ["x", "z"][screened.faulty_column[1]] == order[0]


def test_first_column_of_equal_faults_is_told() -> None:
    """Two faults of a kind are told by the first column."""
    screened = screen_rows({}, {"x": 99, "z": 1000})
    assert screened.faulty_column.tolist() == [-1, 0]


@pytest.mark.parametrize("edge", [0, 9, 9.0, "9", -0.0])
def test_both_ends_of_a_range_belong_to_it(edge: Any) -> None:
    """A value at the end of its plausible range is plausible."""
    assert verdicts(screen_rows({"x": edge})) == ["ok"]


def test_columns_in_any_order_and_extra_ones() -> None:
    """The order of columns does not matter, and unknown ones are named and ignored."""
    frame = pd.DataFrame({"note": ["a", "b"], "y": [0, 1], "z": [10, 20], 5: [0, 0], "x": [1, 2]})
    screened = screen(from_pandas(frame), schema())
    assert screened.features.tolist() == [[1, 10], [2, 20]]
    assert screened.ignored_columns == ("note", "5")
    assert screened.matrix.tolist() == [[1, 10, 0], [2, 20, 1]]


def test_extra_columns_do_not_make_rows_different() -> None:
    """Rows that differ only in an unknown column repeat each other."""
    frame = pd.DataFrame([GOOD | {"id": 1}, GOOD | {"id": 2}])
    assert verdicts(screen(from_pandas(frame), schema())) == ["ok", "duplicate"]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (["z", "y"], "column 'x' is missing"),
        (["y"], "column 'x', 'z' is missing"),
        (["X", "z", "y"], "column 'x' is missing"),
    ],
    ids=["one", "both", "other case"],
)
def test_missing_column(columns: list[str], told: str) -> None:
    """Without a feature the batch is refused; the missing ones and the needed ones are named."""
    with pytest.raises(BadBatch) as caught:
        frame = pd.DataFrame([[1.0] * len(columns)], columns=columns)
        screen(from_pandas(frame), schema())
    assert str(caught.value) == told
    assert "x, z" in caught.value.remedy


def test_no_rows() -> None:
    """A batch without rows is refused."""
    with pytest.raises(BadBatch, match="holds no rows"):
        screen(Frame.of({"x": [], "z": [], "y": []}), schema())


@pytest.mark.parametrize(
    ("values", "cell"),
    [
        pytest.param(["3,5", "3,6"], "3,5", id="decimal comma"),
        pytest.param([None, "3.5 g"], "3.5 g", id="unit"),
        pytest.param([datetime.date(2020, 1, 1)] * 2, "2020-01-01", id="date objects"),
        pytest.param(pd.to_datetime(["2020-01-01"] * 2), "2020-01-01 00:00:00", id="dates"),
        pytest.param(pd.to_timedelta([1, 2], unit="D"), "1 days 00:00:00", id="durations"),
        pytest.param([1 + 2j, 3 + 4j], "(1+2j)", id="complex"),
        pytest.param(["9" * 100 + "g"] * 2, "9" * 40, id="long cell, cut"),
    ],
)
def test_column_without_one_number_is_refused(values: Any, cell: str) -> None:
    """A feature with cells but no number refuses the batch; row, column and cell are told."""
    with pytest.raises(BadBatch) as caught:
        screen_column(values)
    row = 2 if pd.isna(pd.Series(values)).iloc[0] else 1
    assert str(caught.value).startswith(f"row {row}, column 'x': {cell!r} is not a number")
    assert caught.value.remedy == "use a decimal point and no units"


def test_decimal_comma_file() -> None:
    """A file written with decimal commas is refused with row, column and cell."""
    path = Path("t.csv")
    path.write_text("x;z;y\n1,5;10;0\n2,5;20;1\n")
    with pytest.raises(BadBatch, match=r"row 1, column 'x': '1,5' is not a number"):
        screen(read_table(path), schema())


def test_one_number_among_text_keeps_the_batch() -> None:
    """As long as one cell of the column is a number, rows are set aside one by one."""
    assert verdicts(screen_column(["a", "b", "3"])) == ["text", "text", "ok"]


def test_empty_column_is_missing_not_refused() -> None:
    """A feature without any cell sets every row aside, but refuses nothing."""
    screened = screen_column([None, None])
    assert verdicts(screened) == ["missing", "missing"]
    assert screened.missing.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        pytest.param([True, False], [1, 0], id="booleans"),
        pytest.param(pd.array([True, False], dtype="boolean"), [1, 0], id="nullable booleans"),
        pytest.param([Decimal("1.5"), Decimal("2")], [1.5, 2], id="decimals"),
        pytest.param([1, 2.5], [1, 2.5], id="int and float"),
        pytest.param(pd.array([1, 2], dtype="Int64"), [1, 2], id="nullable integers"),
        pytest.param(np.array([1, 2], dtype=np.uint8), [1, 2], id="bytes"),
        pytest.param(np.array([1, 2], dtype=np.float16), [1, 2], id="half floats"),
        pytest.param(["1", " 2.5 "], [1, 2.5], id="text with spaces"),
        pytest.param(["1e0", "+2"], [1, 2], id="exponent and sign"),
        pytest.param(pd.Categorical(["1", "2"]), [1, 2], id="categories"),
    ],
)
def test_what_counts_as_a_number(values: Any, found: list[float]) -> None:
    """Numbers are taken from every kind of column that holds them."""
    screened = screen_column(values)
    assert verdicts(screened) == ["ok", "ok"]
    assert screened.features[:, 0].tolist() == found


@pytest.mark.parametrize(
    ("cell", "verdict"),
    [
        ("nan", "missing"),
        ("NaN", "missing"),
        ("NA", "missing"),
        ("", "missing"),
        ("inf", "infinite"),
        ("-Infinity", "infinite"),
        ("1e999", "infinite"),
        ("1_0", "text"),
        ("0x1F", "text"),
        ("1 2", "text"),
        ('"1,5"', "text"),
        ("5%", "text"),
        ("2020-01-01", "text"),
        ("9" * 30, "out_of_range"),
        ("9" * 400, "infinite"),
    ],
    ids=lambda text: text[:12] or "nothing",
)
@pytest.mark.parametrize("neighbour", ["2", "word"])
def test_cells_of_a_file(cell: str, verdict: str, neighbour: str) -> None:
    """A cell of a CSV file gets its verdict whatever else its column holds."""
    path = Path("t.csv")
    path.write_text(f"x;z;y\n{cell};10;0\n3;20;1\n{neighbour};30;1\n")
    assert verdicts(screen(read_table(path), schema()))[0] == verdict


def test_decimals_that_are_no_numbers() -> None:
    """Decimal's own NaN and infinity are missing and infinite."""
    screened = screen_column([Decimal("NaN"), Decimal("Infinity"), Decimal("1")])
    assert verdicts(screened) == ["missing", "infinite", "ok"]


def test_unlabelled_batch() -> None:
    """Without the target's column every good row is scored and none is labelled."""
    screened = screen(Frame.of({"x": [1, 2], "z": [3, 4]}), schema())
    assert verdicts(screened) == ["ok", "ok"]
    assert np.isnan(screened.target).all()
    assert not screened.labelled.any()


def test_partially_labelled_batch() -> None:
    """Rows with an empty target are scored, and only the others are labelled."""
    frame = pd.DataFrame({"x": [1, 2, 3, "t"], "z": [3, 4, 5, 6], "y": [1, None, "0", 1]})
    screened = screen(from_pandas(frame), schema())
    assert screened.accepted.tolist() == [True, True, True, False]
    assert screened.labelled.tolist() == [True, False, True, False]
    assert screened.target[[0, 2]].tolist() == [1.0, 0.0]


def test_a_bad_label_is_no_label() -> None:
    """A label that cannot be is not kept beside the row."""
    assert np.isnan(screen_rows({}, {"y": 7}).target[1])


def test_an_infinite_label_is_bad_without_a_range_too() -> None:
    """A target without bounds still has only finite answers."""
    unbounded = replace(schema(), target_minimum=-math.inf, target_maximum=math.inf)
    screened = screen(Frame.of({"x": [1, 2], "z": [3, 3], "y": [math.inf, 1e9]}), unbounded)
    assert verdicts(screened) == ["bad_label", "ok"]
    assert screened.labelled.tolist() == [False, True]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        pytest.param([{"y": 0}, {"y": 1}], ["ok", "ok"], id="other label"),
        pytest.param([{"y": None}, {"y": None}], ["ok", "duplicate"], id="both unlabelled"),
        pytest.param([{"y": None}, {"y": 1}], ["ok", "duplicate"], id="first one unlabelled"),
        pytest.param([{"y": 1}, {"y": None}], ["ok", "duplicate"], id="second one unlabelled"),
        pytest.param([{"x": 0.0}, {"x": -0.0}], ["ok", "duplicate"], id="minus zero"),
        pytest.param([{"x": "1.0"}, {"x": 1}], ["ok", "duplicate"], id="other spelling"),
        pytest.param([{"y": 7}, {}, {}], ["bad_label", "ok", "duplicate"], id="first one faulty"),
        pytest.param([{"x": None}, {"x": None}], ["missing", "missing"], id="faulty ones"),
        pytest.param([{}, {}, {}], ["ok", "duplicate", "duplicate"], id="three"),
    ],
)
def test_duplicates(rows: list[dict[str, Any]], found: list[str]) -> None:
    """A good row that equals an earlier good one, label included, is set aside."""
    assert verdicts(screen_rows({"x": 5}, *rows)) == ["ok", *found]


NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.5, np.inf])
SAME_PATCH = [HealthCheck.function_scoped_fixture]


def test_the_label_of_a_repeat_is_that_of_the_row() -> None:
    """The first of equal rows is kept, with the label that one of them has."""
    screened = screen_rows({"y": None}, {"y": 1}, {"y": 0}, {"y": None, "x": 2})
    assert verdicts(screened) == ["ok", "duplicate", "ok", "ok"]
    assert screened.labelled.tolist() == [True, False, True, False]
    assert screened.target[[0, 2]].tolist() == [1, 0]


@pytest.mark.parametrize("keys", [rows.row_hashes, lambda rows: np.zeros(len(rows), np.uint64)])
@settings(max_examples=200, deadline=None, suppress_health_check=SAME_PATCH)
@given(table=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=9))
def test_equal_rows_are_found_whatever_their_keys(
    monkeypatch: pytest.MonkeyPatch, keys: Any, table: list[tuple[float, ...]]
) -> None:
    """Keys only save comparisons: also when all rows have the same one, equal rows are found."""
    monkeypatch.setattr(rows, "row_hashes", keys)
    matrix = np.array(table).reshape(-1, 2)
    for cut in range(len(table)):
        found = [row in table[cut:] for row in table[:cut]]
        assert rows.among(matrix[:cut], matrix[cut:]).tolist() == found


def test_keys_hardly_ever_meet() -> None:
    """A million different rows of a coarse grid have a million different keys."""
    grid = np.stack(np.meshgrid(*[np.arange(100) / 10] * 3), axis=-1).reshape(-1, 3)
    assert len(set(rows.row_hashes(grid).tolist())) == len(grid)


def test_duplicates_are_kept_where_the_schema_says_so() -> None:
    """With duplicates = "keep" repeats are rows like all others."""
    screened = screen_rows({}, {}, {}, duplicates="keep")
    assert verdicts(screened) == ["ok", "ok", "ok"]
    assert screened.set_aside["duplicate"] == 0


def test_shares_and_counts() -> None:
    """Cells are counted in all rows, column by column; each kind of fault is there once."""
    screened = screen_rows(
        {}, {}, {"x": None}, {"x": "t", "z": 1e6}, {"x": 1e6}, {"x": np.inf}, {"y": 7}, {"x": 3}
    )
    assert verdicts(screened) == [
        *("ok", "duplicate", "missing", "text", "out_of_range", "infinite", "bad_label", "ok")
    ]
    assert screened.missing.tolist() == [3, 0]  # whatever is no finite number
    assert screened.outside.tolist() == [1, 1]
    assert screened.set_aside == dict.fromkeys(FAULTS, 1)
    assert screened.profiled.sum() == 7
    assert screened.accepted.sum() == 2


def test_nothing_but_faults() -> None:
    """A batch of faulty rows only has its verdicts like any other."""
    screened = screen_rows({"x": 1e6}, {"z": None})
    assert verdicts(screened) == ["out_of_range", "missing"]
    assert (screened.profiled.sum(), screened.accepted.sum(), screened.labelled.sum()) == (2, 0, 0)


def test_the_frame_is_left_as_it_was() -> None:
    """Screening changes nothing in the table that it was given."""
    cells = {"x": [1.0, np.inf], "z": [3.0, 1e6], "y": [1.0, 7.0]}
    frame = Frame.of({name: np.array(column) for name, column in cells.items()})
    for _ in range(2):
        screen(frame, schema())
        for name, column in cells.items():
            assert frame.columns[name].cells.tolist() == column
            assert frame.columns[name].numbers.tolist() == column


def test_the_published_table(red_wine_csv: Path) -> None:
    """Of the 1599 published rows 240 repeat another one, and nothing else is at fault."""
    from wine_drift.dataset import load_schema

    screened = screen(read_table(red_wine_csv), load_schema(None))
    assert Counter(verdicts(screened)) == {"ok": 1359, "duplicate": 240}
    assert screened.labelled.sum() == 1359


CELLS = st.sampled_from([1.0, 2.0, "1", "two", None, float("inf"), 1e6, -1.0, True])
LABELS = st.sampled_from([0, 1, None, 7, "x", "1"])
ROWS = st.lists(st.tuples(CELLS, CELLS, LABELS), min_size=1, max_size=12)


def screened_or_refused(rows: list[tuple[Any, ...]]) -> Screened | str:
    """Screen rows; a refusal is returned without its row number."""
    try:
        frame = pd.DataFrame(rows, columns=["x", "z", "y"], dtype=object)
        return screen(from_pandas(frame), schema())
    except BadBatch as error:
        return str(error).split(", ")[1].split(":")[0]


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, data=st.data())
def test_the_order_of_rows_does_not_matter(rows: list[tuple[Any, ...]], data: Any) -> None:
    """Permuted rows have permuted verdicts; only which of equal rows is kept may differ."""
    order = data.draw(st.permutations(range(len(rows))))
    before, after = screened_or_refused(rows), screened_or_refused([rows[k] for k in order])
    if isinstance(before, str) or isinstance(after, str):
        assert before == after
        return
    duplicate = FAULTS.index("duplicate")

    def but_for_repeats(screened: Screened) -> np.ndarray:
        return np.where(screened.fault == duplicate, -1, screened.fault)

    assert (but_for_repeats(before)[order] == but_for_repeats(after)).all()
    assert (before.faulty_column[order] == after.faulty_column).all()
    np.testing.assert_array_equal(before.features[order], after.features)
    np.testing.assert_array_equal(before.missing, after.missing)
    np.testing.assert_array_equal(before.outside, after.outside)
    assert before.set_aside == after.set_aside
    kept = [sorted(s.matrix[s.accepted].tolist(), key=str) for s in (before, after)]
    assert str(kept[0]) == str(kept[1])


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_every_row_has_exactly_one_verdict(rows: list[tuple[Any, ...]]) -> None:
    """Accepted and set aside add up to all rows, and only faulty cells have a column."""
    screened = screened_or_refused(rows)
    if isinstance(screened, str):
        return
    assert screened.accepted.sum() + sum(screened.set_aside.values()) == len(rows)
    has_column = screened.faulty_column >= 0
    assert (has_column == (screened.profiled & ~screened.accepted)).all()
    assert np.isfinite(screened.features[screened.accepted]).all()
    assert (screened.labelled <= screened.accepted).all()
    good = screened.matrix[screened.accepted]
    assert len({str(row) for row in (good + 0.0).tolist()}) == len(good)  # no repeats are left
