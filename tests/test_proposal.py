"""Settings and a schema proposed from a table, and whole runs with them as they are."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from wine_drift.cli import main
from wine_drift.errors import SettingsError
from wine_drift.frame import Frame
from wine_drift.proposal import WINDOW_ROWS, Proposal, propose
from wine_drift.schema import parse_schema
from wine_drift.screening import screen
from wine_drift.settings import Settings, settings_toml
from wine_drift.tables import from_pandas

N_ROWS = 60


def proposed(positive: str = "== 1", **columns: Sequence[object] | np.ndarray) -> Proposal:
    """What is proposed for a table with these columns, beside one of numbers and the target y."""
    rng = np.random.default_rng(0)
    answers = rng.integers(2, size=N_ROWS)
    frame = Frame.of({"x": rng.normal(size=N_ROWS), "y": answers} | columns)
    return propose(frame, name="t", target="y", positive=positive)


def shuffled(cells: Sequence[float] | np.ndarray) -> np.ndarray:
    """The same in no order, as numbers that tell no time are."""
    return np.random.default_rng(7).permutation(cells)


def features(proposal: Proposal) -> dict[str, dict[str, Any]]:
    """Entries of a proposed schema by name, once it was seen that it is one."""
    content = tomllib.loads(proposal.schema)
    parse_schema(content)
    return {entry["name"]: entry for entry in content["feature"]}


def whole_run(*arguments: str | Path, code: int = 0) -> Result:
    """Run wine-drift in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


# --- columns ---


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        pytest.param([5] * N_ROWS, "is always '5'", id="constant number"),
        pytest.param(["a"] * N_ROWS, "is always 'a'", id="constant text"),
        pytest.param([None] * N_ROWS, "is empty", id="empty"),
        pytest.param([f"k{row}" for row in range(N_ROWS)], "names the rows", id="texts"),
        pytest.param(np.arange(N_ROWS)[::-1] + 7, "names the rows", id="numbers in a row"),
        pytest.param([f"2026-01-{row % 28 + 1:02}" for row in range(N_ROWS)], "date", id="date"),
        pytest.param([f"1.{row % 12 + 1}.26" for row in range(N_ROWS)], "date", id="dotted"),
        pytest.param([date(2026, 1, row % 28 + 1) for row in range(N_ROWS)], "date", id="dates"),
        pytest.param(
            [datetime(2026, 1, 1) + timedelta(hours=row) for row in range(N_ROWS)],
            "date",
            id="moments",
        ),
        pytest.param([None] * 7 + list(np.arange(53) % 9), "has no number in 12%", id="many gaps"),
    ],
)
def test_columns_that_are_left_out(cells: Sequence[object], why: str) -> None:
    """Each with its reason in a comment."""
    proposal = proposed(c=cells)
    assert list(features(proposal)) == ["x"]
    (line,) = (line for line in proposal.schema.splitlines() if line.startswith('# "c" '))
    assert why in line


def test_a_few_gaps_do_no_harm() -> None:
    """A column with some empty cells, or texts, stays, and how many there are is told."""
    proposal = proposed(c=[None, "?", None, *(np.arange(57) % 9)])
    assert list(features(proposal)) == ["x", "c"]
    assert 'name = "c"  # no number in 3 rows: such rows are not scored' in proposal.schema


def test_numbers_that_name_rows_by_their_name() -> None:
    """Whole numbers that are all different name rows if their column says so."""
    numbers = np.arange(N_ROWS) * 37 % 1009
    for name in ("id", "customer_id", "Customer ID", "customerId", "index"):
        proposal = proposed(**{name: numbers})
        assert (list(features(proposal)), proposal.settings["row_id"]) == (["x"], name)
    for name in ("void", "pressure"):
        proposal = proposed(**{name: numbers})
        assert list(features(proposal)) == ["x", name]
        assert "row_id" not in proposal.settings


def test_the_first_name_of_rows_is_proposed() -> None:
    """One column can name them; of several it is the first."""
    names = {"b": [f"b{row}" for row in range(N_ROWS)], "a": [f"a{row}" for row in range(N_ROWS)]}
    assert proposed(**names).settings["row_id"] == "b"


def test_copies_of_the_answer_are_left_out() -> None:
    """The target under another name, in other words or cut by the rule, gives the answer away."""
    quality = np.arange(N_ROWS) % 6 + 3
    copies = {
        "same": quality.astype(float),
        "words": [f"grade {value}" for value in quality],
        "cut": np.where(quality > 6.5, "good", "bad").astype(object),
    }
    proposal = proposed("> 6.5", y=quality, **copies)
    assert list(features(proposal)) == ["x"]
    assert [remark.split()[0] for remark in proposal.remarks] == ["'same'", "'words'", "'cut'"]
    assert all(remark.endswith("under another name (left out)") for remark in proposal.remarks)


def test_a_column_that_parts_the_answers_is_suspect() -> None:
    """It stays, for it may be right, and a person is asked."""
    answers = np.arange(N_ROWS) % 2
    proposal = proposed(y=answers, z=answers + np.linspace(0, 0.5, N_ROWS))
    assert list(features(proposal)) == ["x", "z"]
    (remark,) = proposal.remarks
    assert remark == "'z' tells the answer by itself: is it known before the answer is?"


def test_texts_that_tell_the_answer_are_suspect() -> None:
    """Each of them goes with one answer only; and what stands for any other is not listed."""
    details = np.array(["late", "never", "in time", "early"], dtype=object)
    rows = np.arange(N_ROWS)
    mixed = np.array(["a", "(other)", "b"], dtype=object)[rows % 3]
    proposal = proposed(y=(rows % 4 < 2).astype(int), detail=details[rows % 4], mixed=mixed)
    assert [remark.split()[0] for remark in proposal.remarks] == ["'detail'"]
    assert features(proposal)["detail"]["categories"] == ["late", "never", "in time", "early"]
    assert features(proposal)["mixed"]["categories"] == ["a", "b"]


@pytest.mark.parametrize("n_rows_with_it", [0, 1])
def test_what_comes_with_the_answer_is_left_out(n_rows_with_it: int) -> None:
    """It has gaps in most rows without an answer and in none with one; others have some of both."""
    answers: list[object] = [*(np.arange(N_ROWS) % 2)]
    answers[::6] = [None] * 10
    late, known = shuffled(np.arange(N_ROWS) / 7).astype(object), shuffled(np.arange(N_ROWS) / 9)
    late[[row for row in range(6 * n_rows_with_it, N_ROWS, 6)]] = None
    some = known.astype(object)
    some[[0, 6, 7]] = None
    proposal = proposed(y=answers, late=late, known=known, some=some)
    assert list(features(proposal)) == ["x", "known", "some"]
    told = "'late' has gaps only where there is no answer: it seems to be known no earlier"
    assert proposal.remarks == (f"{told} (left out)",)
    late[1] = None  # nor is it known with the answer
    assert "late" not in "".join(proposed(y=answers, late=late).remarks)


def test_a_few_gaps_in_rows_without_an_answer_do_no_harm() -> None:
    """Where most rows without an answer have the column, it is known without one."""
    answers = np.where(np.arange(600) % 3, np.arange(600) % 2, np.nan)
    for n_gaps, is_used in ((90, True), (110, False)):
        column = shuffled(np.arange(600.0)) / 7
        column[np.flatnonzero(np.isnan(answers))[:n_gaps]] = np.nan
        table = {"c": column, "x": shuffled(np.arange(600.0)) / 9, "y": answers}
        proposal = propose(Frame.of(table), name="t", target="y", positive="== 1")
        told = "'c' has gaps only where there is no answer: it seems to be known no earlier"
        assert (f"{told} (left out)" in proposal.remarks) is not is_used


def test_rows_without_a_cell_do_not_count() -> None:
    """Lines of nothing but commas at the end: no column comes with the answer for that."""
    rng = np.random.default_rng(8)
    filled = {"a": rng.normal(size=N_ROWS), "b": rng.normal(size=N_ROWS)}
    filled["y"] = rng.integers(2, size=N_ROWS)
    blank = {name: [*column, *[None] * 9] for name, column in filled.items()}
    one, two = (
        propose(Frame.of(table), name="t", target="y", positive="== 1") for table in (filled, blank)
    )
    assert one == two


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(np.arange(N_ROWS) // 20, id="runs that rise"),
        pytest.param(np.arange(N_ROWS)[::-1] // 20, id="runs that fall"),
        pytest.param(np.array([3, 1, 2])[np.arange(N_ROWS) // 20], id="runs"),
        pytest.param(1.7e9 + np.arange(N_ROWS) ** 2, id="a clock"),
        pytest.param(1.7e9 - np.arange(N_ROWS) ** 2, id="the newest first"),
        pytest.param([None, *np.arange(N_ROWS - 1) ** 2 / 3], id="a gap"),
    ],
)
def test_numbers_that_go_with_the_order_of_the_rows_are_left_out(cells: Any) -> None:
    """Later batches would all be drift in them."""
    proposal = proposed(c=cells)
    assert list(features(proposal)) == ["x"]
    told = "goes with the order of the rows, as a date does: later batches have others"
    assert proposal.remarks == (f"'c' {told} (left out)",)
    assert f'# "c" {told}' in proposal.schema


def test_texts_that_go_with_the_order_of_the_rows_are_asked_about() -> None:
    """They stay: a table that is sorted by them has such, too."""
    months = np.array(["Jan", "Feb", "Mar"], dtype=object)[np.arange(N_ROWS) // 20]
    proposal = proposed(c=months)
    assert list(features(proposal)) == ["x", "c"]
    (remark,) = proposal.remarks
    assert remark == "'c' goes with the order of the rows: will a batch hold all of its texts?"


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(np.arange(N_ROWS) % 24, id="hours of days"),
        pytest.param(np.arange(N_ROWS) == 59, id="a rare event"),
        pytest.param((np.arange(N_ROWS) > 55).astype(int), id="a few at the end"),
        pytest.param(np.sin(np.arange(N_ROWS) / 9), id="slow waves"),
    ],
)
def test_other_orders_are_none(cells: np.ndarray) -> None:
    """What comes back within a batch, or is rare, tells no time."""
    proposal = proposed(c=cells)
    assert list(features(proposal)) == ["x", "c"]
    assert proposal.remarks == ()


def test_a_column_far_better_than_all_others_is_asked_about() -> None:
    """By its AUC, which is that of scikit-learn; not if another one is half as good."""
    rng = np.random.default_rng(9)
    answers = rng.integers(2, size=N_ROWS)
    good = (-2 * answers + rng.normal(size=N_ROWS)).round(1)
    area = roc_auc_score(answers, -good)
    assert 0.85 < area < 1
    told = f"'c' tells most answers by itself (AUC {area:.2f}): is it known before the answer is?"
    assert proposed(y=answers, c=good).remarks == (told,)
    assert proposed(y=answers, c=good, d=answers + rng.normal(size=N_ROWS)).remarks == ()
    assert proposed(y=answers, c=good + 2 * rng.normal(size=N_ROWS)).remarks == ()


def test_a_few_whole_numbers_may_be_codes() -> None:
    """How to list them is there to be taken, the most frequent one first; else they are sizes."""
    for n_values, is_told in ((2, False), (3, True), (12, True), (13, False)):
        cells = np.arange(N_ROWS) * 7 % 11 % n_values + 1 if n_values < 12 else None
        cells = np.arange(N_ROWS) % n_values if cells is None else cells
        schema = proposed(c=cells).schema
        assert ("if its numbers are codes" in schema) is is_told
    codes = np.array([7, 7, 7, 2, 2, 40])[np.arange(N_ROWS) % 6]
    (line,) = (line for line in proposed(c=codes).schema.splitlines() if "codes" in line)
    assert tomllib.loads(line.partition(": ")[2]) == {"categories": ["7", "2", "40"]}
    assert "codes" not in proposed(c=codes / 2).schema


def test_truths_are_categories() -> None:
    """As numpy has them, as objects with gaps, and as texts; a copy of the answer is none."""
    truths = np.arange(N_ROWS) % 3 == 0
    with_gaps: list[object] = [None, *truths[1:].tolist()]
    proposal = proposed(a=truths, b=with_gaps, c=truths.astype(str).astype(object))
    for name in "abc":
        assert features(proposal)[name]["categories"] == ["False", "True"]


def test_too_many_texts() -> None:
    """More than 200, which is told, or fewer than five rows for each."""
    for n_texts, is_used in ((12, True), (13, False)):
        texts = [f"t{row % n_texts}" for row in range(N_ROWS)]
        assert ("c" in features(proposed(c=texts))) is is_used
        assert (f"{n_texts} different texts in 60 rows" in proposed(c=texts).schema) is not is_used
        assert proposed(c=texts).remarks == ()
    for n_texts, is_used in ((200, True), (201, False)):
        table = {"c": [f"t{row % n_texts}" for row in range(1200)], "y": np.arange(1200) % 7 % 2}
        proposal = propose(
            Frame.of(table | {"x": shuffled(np.arange(1200.0)) / 7}),
            name="t",
            target="y",
            positive="== 1",
        )
        assert ("c" in features(proposal)) is is_used
        told = ("'c' holds 201 different texts in 1,200 rows (left out)",)
        assert proposal.remarks == (() if is_used else told)


def test_names_that_toml_must_quote() -> None:
    """Whatever a column is called, the file can be read and names it."""
    for name in ('5" pipe', "back\\slash", "tab\there", "weiß", "x.y", "del\x7f", "#"):
        assert name in features(proposed(**{name: np.arange(N_ROWS) % 7}))
        constant = proposed(**{name: np.zeros(N_ROWS)})
        assert list(features(constant)) == ["x"]


def test_names_that_steer_who_looks_at_the_file() -> None:
    """They are told by their numbers, and read as what they are."""
    odd = "a\x1b[2J\u202eb\x9bc\U000e0001d"
    proposal = proposed(**{odd: [0.5, 1.5, 2.5] * 20, "kind": [odd, "b"] * 30})
    assert proposal.schema.replace("\n", "").isprintable()
    assert odd in features(proposal) and odd in features(proposal)["kind"]["categories"]
    settings = settings_toml({"row_id": odd})
    assert settings.replace("\n", "").isprintable()
    assert tomllib.loads(settings) == {"row_id": odd}


@pytest.mark.parametrize("name", ["", "score"])
def test_names_that_no_feature_can_have(name: str) -> None:
    """They are left out."""
    assert list(features(proposed(**{name: np.arange(N_ROWS) % 7}))) == ["x"]


# --- ranges ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param((4.6, 15.9), (0, 30), id="never negative"),
        pytest.param((-15.9, -4.6), (-30, 0), id="never positive"),
        pytest.param((-3, 5), (-11, 13), id="both"),
        pytest.param((0.9901, 1.0037), (0.97, 1.02), id="narrow"),
        pytest.param((0.012, 0.611), (0, 1.3), id="small"),
        pytest.param((0, 1), (0, 2), id="from zero"),
        pytest.param((1e-7, 3e-7), (0, 5e-7), id="tiny"),
        pytest.param((20_000, 180_000), (0, 400_000), id="large"),
    ],
)
def test_ranges(values: tuple[float, float], expected: tuple[float, float]) -> None:
    """As much again on either side, rounded away from what was seen, and no sign not seen."""
    cells = shuffled(np.linspace(*values, N_ROWS))
    entry = features(proposed(c=cells))["c"]
    assert (entry["minimum"], entry["maximum"]) == pytest.approx(expected, rel=1e-12)


def test_a_long_tail_has_room() -> None:
    """Where values reach far on one side, later ones may reach further there, tenfold at most."""
    tail = shuffled([1.0] * 40 + [2.0] * 19 + [5.0])
    assert features(proposed(c=tail))["c"]["maximum"] == pytest.approx(5 + 10 * 4)
    middling = shuffled([1.0] * 20 + [2.0] * 39 + [5.0])  # up 3 from the median, down 1
    assert features(proposed(c=middling))["c"]["maximum"] == pytest.approx(5 + 3 * 4)
    assert features(proposed(c=-middling))["c"]["minimum"] == pytest.approx(-5 - 3 * 4)


def test_what_was_seen_is_plausible() -> None:
    """No row of the table itself is beyond its range, however odd its values."""
    rng = np.random.default_rng(1)
    for scale in 10.0 ** np.arange(-12, 13, 3):
        cells = scale * rng.standard_t(2, size=N_ROWS)
        frame = Frame.of({"x": cells, "y": np.arange(N_ROWS) % 2})
        schema = tomllib.loads(propose(frame, name="t", target="y", positive="== 1").schema)
        assert screen(frame, parse_schema(schema)).set_aside["out_of_range"] == 0


# --- the target ---


@pytest.mark.parametrize(
    ("cells", "rule", "expected"),
    [
        pytest.param([0, 1], "== 1", '{"minimum": 0, "maximum": 1}', id="numbers"),
        pytest.param([3, 8, 5], "> 6.5", '{"minimum": 0, "maximum": 16}', id="scale"),
        pytest.param(["no", "yes"], "== yes", '{"categories": ["no", "yes"]}', id="texts"),
        pytest.param(["b", "c", "a"], '== "a"', '{"categories": ["a", "b", "c"]}', id="three"),
        pytest.param(["True", "False"], "== true", '{"categories": ["False", "True"]}', id="bools"),
        pytest.param(["0", "1"], "== true", '{"categories": ["0", "1"]}', id="true of numbers"),
        pytest.param(["1", "2"], "== 1", '{"minimum": 1, "maximum": 2}', id="numbers as text"),
    ],
)
def test_targets(cells: list[object], rule: str, expected: str) -> None:
    """Numbers have a range, texts a list; either way the rule says what is positive."""
    proposal = proposed(rule, y=(cells * N_ROWS)[:N_ROWS])
    target = tomllib.loads(proposal.schema)["target"]
    assert target == {"column": "y", "positive": rule} | json.loads(expected)


def test_a_target_of_truths() -> None:
    """What Parquet has as truths is the same as what CSV has as texts."""
    proposal = proposed("== True", y=np.arange(N_ROWS) % 3 == 0)
    assert tomllib.loads(proposal.schema)["target"]["categories"] == ["False", "True"]
    assert "# 20 of 60 labelled rows" in proposal.schema


def test_labels_that_are_none_are_told() -> None:
    """Rows without a label, and with what is none, do not count."""
    proposal = proposed(y=[None, "?", *(np.arange(N_ROWS - 2) % 2)])
    assert "# 29 of 58 labelled rows" in proposal.schema
    assert proposal.remarks == ("1 cells of 'y' are no label",)


@pytest.mark.parametrize(
    ("target", "rule", "told"),
    [
        pytest.param("ty", "== 1", "no column 'ty'; did you mean 'y'?", id="no such column"),
        pytest.param("y", "> 5", "none of 60 labelled rows is positive", id="no positive"),
        pytest.param("y", ">= 0", "none of 60 labelled rows is negative", id="no negative"),
        pytest.param("y", "big", "'big' is not a comparison", id="no rule"),
        pytest.param("y", "== yes", "'== yes' is none of the answers", id="no such text"),
        pytest.param("t", "== Yes", "did you mean 'yes'?", id="nearly such a text"),
        pytest.param("t", "> 5", "'> 5' is none of the answers", id="comparison of texts"),
        pytest.param("k", "== k1", "60 different texts", id="too many texts"),
        pytest.param("e", "== 1", "none of 0 labelled rows is positive", id="no label at all"),
    ],
)
def test_questions_that_cannot_be_asked(target: str, rule: str, told: str) -> None:
    """Each is refused with what there is instead."""
    table = {
        "x": np.arange(N_ROWS) % 7,
        "y": np.arange(N_ROWS) % 2,
        "t": ["no", "yes"] * (N_ROWS // 2),
        "k": [f"k{row}" for row in range(N_ROWS)],
        "e": [None] * N_ROWS,
    }
    with pytest.raises(SettingsError) as caught:
        propose(Frame.of(table), name="t", target=target, positive=rule)
    assert told in str(caught.value)
    assert caught.value.remedy


def test_a_table_that_teaches_nothing() -> None:
    """Too few rows, or no column but the answer."""
    few = Frame.of({"x": np.arange(19), "y": np.arange(19) % 2})
    bare = Frame.of({"id": np.arange(N_ROWS), "y": np.arange(N_ROWS) % 2})
    for frame, told in ((few, "19 rows"), (bare, "no column is left")):
        with pytest.raises(SettingsError, match=told):
            propose(frame, name="t", target="y", positive="== 1")


# --- repeats and settings ---


def test_repeats_are_accidents_where_chance_makes_none() -> None:
    """Rows of many digits repeat by accident, rows of coarse columns as a matter of course."""
    rng = np.random.default_rng(2)
    fine = rng.normal(size=(N_ROWS, 3))
    fine[-1] = fine[0]
    coarse = rng.integers(3, size=(N_ROWS, 3))
    for table, expected in ((fine, "reject"), (coarse, "keep")):
        frame = Frame.of(dict(zip("abc", table.T, strict=True)) | {"y": np.arange(N_ROWS) % 2})
        proposal = propose(frame, name="t", target="y", positive="== 1")
        assert tomllib.loads(proposal.schema)["duplicates"] == expected
        n_repeats = len(table) - len(np.unique(table, axis=0))
        assert f"# {n_repeats} of 60 rows repeat" in proposal.schema


def test_repeats_with_other_answers_are_no_copies() -> None:
    """Those of a timetable, say: its columns go together, and each row is another day."""
    rng = np.random.default_rng(3)
    timetable = rng.normal(size=(40, 6))
    rows = timetable[rng.integers(40, size=300)]
    for answers, expected in ((rng.integers(2, size=300), "keep"), (rows[:, 0] > 0, "reject")):
        frame = Frame.of(dict(zip("abcdef", rows.T, strict=True)) | {"y": answers.astype(int)})
        schema = propose(frame, name="t", target="y", positive="== 1").schema
        assert tomllib.loads(schema)["duplicates"] == expected
        _, group = np.unique(rows, axis=0, return_inverse=True)
        shares = pd.Series(answers).groupby(group.ravel()).agg(["sum", "size"])
        n_others = np.minimum(shares["sum"], shares["size"] - shares["sum"]).sum()
        assert (f", but {n_others} have another answer" in schema) is (expected == "keep")


@pytest.mark.parametrize(
    ("n_rows", "batch_rows", "min_rows"),
    [(60, 20, 20), (470, 40, 40), (569, 50, 50), (5_000, 100, 50)],
)
def test_small_tables_have_small_batches(n_rows: int, batch_rows: int, min_rows: int) -> None:
    """A tenth of the table, between 20 rows and the usual 100."""
    rng = np.random.default_rng(3)
    frame = Frame.of({"x": rng.normal(size=n_rows), "y": rng.integers(2, size=n_rows)})
    settings = propose(frame, name="t", target="y", positive="== 1").settings
    assert settings == {"batch_rows": batch_rows, "min_rows": min_rows}


def test_large_tables_have_large_windows() -> None:
    """A challenger may learn from as many rows as the first model did, as far as memory goes."""
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert (fields["window_rows"], fields["memory_rows"]) == WINDOW_ROWS
    for n_rows, expected in ((20_000, None), (20_001, 20_001), (500_001, 500_000)):
        frame = Frame.of({"x": np.arange(n_rows) % 999 / 7, "y": np.arange(n_rows) % 2})
        settings = propose(frame, name="t", target="y", positive="== 1").settings
        assert settings.get("window_rows") == expected


def test_usual_gaps_do_not_hold_batches() -> None:
    """Where rows are often incomplete, it takes more of them to put the source at fault."""
    gaps = {
        name: [None if row % 20 == k else float(row % 7 + k) for row in range(N_ROWS)]
        for k, name in enumerate("abcd")
    }
    assert proposed(**gaps).settings["max_set_aside"] == pytest.approx(0.4)
    assert "max_set_aside" not in proposed().settings


def test_red_wine_is_described_as_by_hand(red_wine_csv: Path) -> None:
    """The columns, the answer and repeats are those of the schema that ships; ranges hold all."""
    frame = from_pandas(pd.read_csv(red_wine_csv, sep=";"))
    content = tomllib.loads(propose(frame, name="wine", target="quality", positive="> 6.5").schema)
    assert [entry["name"] for entry in content["feature"]] == list(frame.columns)[:-1]
    assert content["duplicates"] == "reject"
    assert all(entry["minimum"] >= 0 for entry in content["feature"])
    set_aside = screen(frame, parse_schema(content)).set_aside
    assert (set_aside["duplicate"], sum(set_aside.values())) == (240, 240)


ODD_CELLS = [
    *(1, -3, 2.5, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf"), None, True, False),
    *("a", "b", "yes", "no", "True", "true", "inf", "nan", "", 'q"t', "(other)", "1e400", "007"),
    *("2026-01-01", datetime(2026, 1, 1), [1], {"a": 1}, b"x"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(10))
def test_whatever_a_table_holds(seed: int) -> None:
    """There is a schema that can be read and lets all values through, or an error for people."""
    rng = np.random.default_rng(seed)
    n_schemas = 0
    for _ in range(40):
        n_rows = int(rng.choice([20, 60]))
        table: dict[str, Any] = {"n": rng.normal(size=n_rows) * 10.0 ** rng.integers(-300, 300)}
        for name in "abcy":
            some = rng.choice(len(ODD_CELLS), size=rng.integers(1, 6))
            table[name] = [ODD_CELLS[cell] for cell in rng.choice(some, n_rows)]
        rule = str(rng.choice(["== yes", "== 1", "== true", "> 0.5", "== a", "big"]))
        frame = Frame.of(table)
        try:
            proposal = propose(frame, name="t", target="y", positive=rule)
        except SettingsError as error:
            assert error.remedy
            continue
        n_schemas += 1
        schema = parse_schema(tomllib.loads(proposal.schema))
        assert screen(frame, schema, whole_file=False).set_aside["out_of_range"] == 0
    assert n_schemas > 0


# --- whole runs ---


@pytest.fixture(scope="module")
def cancer() -> pd.DataFrame:
    """The breast-cancer table of scikit-learn, shuffled, with its answers in words and a number."""
    bunch = load_breast_cancer(as_frame=True)
    names = bunch.target.map({0: "malignant", 1: "benign"})
    frame = bunch.data.assign(diagnosis=names).sample(frac=1, random_state=0)
    return frame.assign(patient=[f"p{row}" for row in range(len(frame))])


def test_breast_cancer_without_a_word_of_editing(cancer: pd.DataFrame) -> None:
    """Proposal, training, batches with and without labels, labels that come late, drift."""
    cancer[:300].to_csv("cancer.csv", index=False)
    cancer[300:400].to_csv("first.csv", index=False)
    cancer[400:500].drop(columns="diagnosis").to_csv("second.csv", index=False)
    cancer.loc[cancer.index[400:500], ["patient", "diagnosis"]].to_csv("labels.csv", index=False)
    moved = cancer[300:400].assign(**{"mean texture": lambda table: table["mean texture"] * 1.4})
    moved.to_csv("third.csv", index=False)

    rule = ("--target", "diagnosis", "--positive", "== malignant")
    told = whole_run("init", "--from", "cancer.csv", *rule).output
    assert told == "wrote wine-drift.toml\nwrote cancer.schema.toml\n"
    assert "champion v1-" in whole_run("train", "--data", "cancer.csv").output
    record = json.loads(whole_run("run-batch", "first.csv", "--json").stdout)
    assert (record["outcome"], record["batch"]["labelled"]) == ("processed", 100)
    assert record["batch"]["positive"] == (cancer["diagnosis"][300:400] == "malignant").sum()
    assert record["quality"]["roc_auc"] > 0.95
    assert record["drift"]["status"] in ("ok", "warn")

    record = json.loads(whole_run("run-batch", "second.csv", "--json").stdout)
    assert (record["batch"]["labelled"], record["batch"]["sequence"]) == (0, 2)
    record = json.loads(whole_run("add-labels", "2", "labels.csv", "--json").stdout)
    assert (record["batch"]["labelled"], record["labels"]["rows"]) == (100, 100)
    assert record["quality"]["roc_auc"] > 0.95

    record = json.loads(whole_run("run-batch", "third.csv", "--json").stdout)
    assert record["drift"]["status"] in ("drift", "major")
    drifted = {each["name"] for each in record["drift"]["features"] if each["drifted"]}
    assert "mean texture" in drifted


def test_a_label_that_is_none_is_told(cancer: pd.DataFrame) -> None:
    """In a batch its row is set aside as it came; late, the whole file is refused."""
    cancer[:300].to_csv("cancer.csv", index=False)
    batch = cancer[300:400].assign(diagnosis=["benign"] * 99 + ["Benign?"])
    batch.to_csv("batch.csv", index=False)
    whole_run("init", "--from", "cancer.csv", "--target", "diagnosis", "--positive", "== malignant")
    whole_run("train", "--rounds", "20")
    record = json.loads(whole_run("run-batch", "batch.csv", "--json").stdout)
    assert record["batch"]["set_aside"]["bad_label"] == 1
    (kept,) = Path("cancer.home/quarantine").glob("*.csv")
    assert "100,bad_label,diagnosis," in kept.read_text() and "Benign?" in kept.read_text()
    told = whole_run("add-labels", "1", "batch.csv", code=3).output
    assert "'Benign?' is no label" in told
    assert "a label is one of 'benign', 'malignant'" in told


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_truths_as_answers(suffix: str) -> None:
    """True and False are answers, whatever the file; a run trains and streams by itself."""
    rng = np.random.default_rng(4)
    size = rng.normal(size=800)
    frame = pd.DataFrame({"size": size, "heat": rng.normal(size=800), "bad": size > 0.5})
    data = f"parts.{suffix}"
    if suffix == "csv":
        frame.to_csv(data, index=False)
    else:
        frame.to_parquet(data)
    whole_run("init", "new.toml", "--from", data, "--target", "bad", "--positive", "== true")
    run = ("run-batch", "--settings", "new.toml", "--json")
    scenario = ("--scenario", "label_flip", "--scenario-feature", "size", "--scenario-start", "1")
    record = json.loads(whole_run(*run, *scenario).stdout)
    assert record["batch"]["labelled"] == 80
    assert record["quality"]["roc_auc"] > 0.95
    record = json.loads(whole_run(*run, *scenario).stdout)
    assert record["batch"]["labelled"] == 80
    assert record["quality"]["roc_auc"] < 0.8


def test_init_says_what_it_lacks_and_overwrites_nothing() -> None:
    """Half of the options, no table, a file that is there: nothing is written."""
    assert "go together" in whole_run("init", "--from", "t.csv", code=2).output
    rule = ("--from", "t.csv", "--target", "y", "--positive", "== 1")
    assert "t.csv: is not there" in whole_run("init", *rule, code=2).output
    assert not list(Path().iterdir())
    rng = np.random.default_rng(5)
    pd.DataFrame({"x": rng.normal(size=90), "y": rng.integers(2, size=90)}).to_csv("t.csv")
    for name in ("t.schema.toml", "wine-drift.toml"):
        Path(name).write_text("mine")
        assert f"{name}: is there already" in whole_run("init", *rule, code=2).output
        assert Path(name).read_text() == "mine"
        Path(name).unlink()
    assert [path.name for path in Path().iterdir()] == ["t.csv"]
    result = whole_run("init", *rule[:-1], "> 2", code=2)
    assert "none of 90 labelled rows is positive" in result.output
    assert [path.name for path in Path().iterdir()] == ["t.csv"]
    whole_run("init", "sub.toml", *rule)
    assert tomllib.loads(Path("sub.toml").read_text())["data"] == "t.csv"
