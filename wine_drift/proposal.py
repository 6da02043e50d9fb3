"""A schema for a table that nobody has described yet, proposed from what is in it.

A proposal is a start: it says in comments what it was made from, and a person should look at it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.errors import SettingsError
from wine_drift.frame import Column, Frame
from wine_drift.schema import OTHER, SCORE, asked_for, category, parse_schema
from wine_drift.screening import read_target
from wine_drift.wording import quoted

FEWEST_ROWS = 20
MOST_ANSWERS = 20  # different texts of a target
MOST_CATEGORIES = 200  # different texts of a feature, each of which ...
ROWS_EACH = 5  # ... should be there so often, on average
FEW_VALUES = 30  # of a column: numbers may be codes, and such as go with one answer only are odd
LONGEST_TAIL = 10.0  # widths of what was seen, that a range goes beyond it
MOST_GAPS = 0.1  # of the cells of a feature: rows with gaps are not scored
USUAL_FAULTS = 0.1  # of the rows; from here on a batch may have more of them than by default
BATCHES = 10  # that the table should be good for ...
BATCH_ROWS = (20, 100)  # ... of so many rows each
WINDOW_ROWS = (20_000, 500_000)  # rows kept for retraining: by default, and that memory is good for
CHANCE_REPEATS = 0.01  # pairs of equal rows that independent columns would have; fewer: accidents
FEW_OTHERS = 5  # equal rows with other answers; more are no copies, if there are also more than ...
SHARE_OTHERS = 0.1  # ... of as many as there would be if answers were dealt out
CHANCE_GAPS = 1e-6  # probability that gaps meet rows without an answer as they do, by accident
CHANCE_RUNS = 0.1  # of the changes from row to row that a shuffled column has; fewer: a clock
ALONE = 0.85  # AUC of a column by itself that is asked about, if no other has half the excess
_ID = re.compile(r"(.*[\W_])?(id|index|key|no|nr|number)|.*[a-z]I[Dd]")
_DATE = re.compile(r"(\d{4}-\d\d?-\d\d?|\d\d?([./-])\d\d?\2(\d{4}|\d\d))([T ].*)?", re.ASCII)


@dataclass(frozen=True)
class Proposal:
    """What a table needs."""

    schema: str  # content of a schema file
    settings: Mapping[str, Any]  # that are to be other than by default
    remarks: tuple[str, ...]  # what a person should look at first


def propose(
    frame: Frame,
    *,
    name: str,
    target: str,
    positive: str,
    nothing: Mapping[str, Sequence[str]] | None = None,
) -> Proposal:
    """Propose a schema, and settings to go with it.

    Parameters
    ----------
    frame : Frame
        The whole table.
    name : str
        Of the table.
    target : str
        Column with the answer.
    positive : str
        Rule on it, such as "> 6.5" or "== yes".
    nothing : mapping, optional
        Texts that came as empty cells, by column.

    Raises
    ------
    SettingsError
        There are too few rows, there is no such column, the rule does not divide the rows, or no
        column is left to learn from.

    Examples
    --------
    >>> rows = {"size": np.arange(40) % 3, "bad": ["no", "no", "yes", "no"] * 10}
    >>> proposal = propose(Frame.of(rows), name="parts", target="bad", positive="== yes")
    >>> print(proposal.schema[proposal.schema.index("[target]"):])
    [target]
    column = "bad"
    positive = "== yes"  # 10 of 40 labelled rows
    categories = ["no", "yes"]
    <BLANKLINE>
    [[feature]]
    name = "size"
    minimum = 0  # seen: 0 to 2
    maximum = 4
    # if its numbers are codes, in place of the range: categories = ["0", "1", "2"]
    <BLANKLINE>
    """
    if len(frame) < FEWEST_ROWS:
        raise SettingsError(
            f"the table has {len(frame)} rows, and little can be told from fewer than "
            f"{FEWEST_ROWS}",
            remedy="give a table with more rows",
        )
    if target not in frame.columns:
        raise SettingsError(
            f"--target: no column {target!r}{_suggest(target, frame.columns)}",
            remedy=f"there are {', '.join(map(repr, [*frame.columns][:40]))}",
        )
    frame = frame.take(~np.all([each.is_empty for each in frame.columns.values()], axis=0))
    answers = _Answers.of(frame.columns[target], target, positive)
    others = {key: column for key, column in frame.columns.items() if key != target}
    told = {key: _listing(texts) for key, texts in (nothing or {}).items()}
    found = _asked_about(
        [_look(key, each, answers, told.get(key, "")) for key, each in others.items()]
    )
    used, left_out = (
        [each for each in found if bool(each.entry) is kind] for kind in (True, False)
    )
    if not used:
        reasons = "".join(f"\n{each.name!r} {each.remark}" for each in left_out)
        raise SettingsError(
            f"no column is left to learn from{reasons}", remedy="give a table with other columns"
        )
    repeats = _Repeats.of([each.values for each in used], answers)
    lines = [
        "# Proposed by `wine-drift init` from what is in a table: look at each line. A range is",
        "# what was seen and as much again on either side, or more where values have a long tail,",
        "# in round numbers, and without a sign that was not seen. It should be what can be: a row",
        "# with a value beyond it is set aside.",
        f"name = {quoted(name)}",
        'row = "row"  # what one is, for people',
        *repeats.entry,
        *("", "[target]", *answers.entry),
    ]
    if left_out:
        lines += ["", "# Left out:"]
        lines += [f"# {quoted(each.name)} {each.remark}" for each in left_out]
    for each in used:
        lines += ["", "[[feature]]", *each.entry]
    suspects = [
        f"{each.name!r} {each.remark}{'' if each.entry else ' (left out)'}"
        for each in found
        if each.is_suspect
    ]
    return Proposal(
        "\n".join(lines) + "\n",
        _settings(len(frame), found),
        (*suspects, *([answers.remark] if answers.remark else [])),
    )


@dataclass(frozen=True)
class _Values:
    """Different values of a column, and which of them each cell is."""

    texts: Sequence[Any]  # as they came, or as numbers
    number: NDArray[np.int64]  # (n_rows,), -1 where there is none

    @classmethod
    def of(cls, column: Column) -> _Values:
        if column.cells.dtype.kind in "iuf":
            values, number = np.unique(column.numbers, return_inverse=True)
            n_values = np.count_nonzero(~np.isnan(values))  # NaN is the last
            return cls(values[:n_values].tolist(), np.where(number < n_values, number, -1))
        numbers, texts = {"": -1}, list[str]()
        name = cache(category)
        number = np.empty(len(column.cells), dtype=np.int64)
        for row, text in enumerate(column.texts()):
            key = name(text)
            if key not in numbers:
                numbers[key] = len(texts)
                texts.append(text.strip())
            number[row] = numbers[key]
        return cls(texts, number)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Cells of each value, (n_values,)."""
        out: NDArray[np.int64] = np.bincount(self.number + 1, minlength=len(self.texts) + 1)[1:]
        return out

    @property
    def frequent_first(self) -> list[str]:
        """Their texts in the order of how many cells are such."""
        values = [self.texts[i] for i in np.argsort(-self.counts, kind="stable").tolist()]
        return [each if isinstance(each, str) else _toml(each) for each in values]

    def is_as(self, other: NDArray[np.int64]) -> bool:
        """Whether each tells the other: the same under other names."""
        known = (self.number >= 0) & (other >= 0)
        mine, theirs = self.number[known], other[known]
        pairs = np.unique(np.column_stack([mine, theirs]), axis=0)
        return len(pairs) > 1 and len(pairs) == len(np.unique(mine)) == len(np.unique(theirs))


@dataclass(frozen=True)
class _Answers:
    """What the target says."""

    entry: tuple[str, ...]  # lines of the schema file
    values: _Values
    positive: NDArray[np.bool_]  # (n_rows,)
    negative: NDArray[np.bool_]
    remark: str

    @classmethod
    def of(cls, column: Column, name: str, rule: str) -> _Answers:
        values, asked = _Values.of(column), asked_for(rule)
        numbers = column.numbers[np.isfinite(column.numbers)]
        table: dict[str, Any] = {"column": name, "positive": rule}
        word = asked is not None and Column(np.array([asked], dtype=object)).is_text[0]
        if word or _holds_words(column):
            table["categories"] = _texts_asked_for(values, rule)
        elif len(numbers):
            is_scale = len(values.texts) > 2
            low, high = _plausible(numbers) if is_scale else (numbers.min(), numbers.max())
            table |= {"minimum": low, "maximum": high}
        stub = {"name": "t", "target": table, "feature": [{"name": f"not {name}"}]}
        try:
            schema = parse_schema(stub)
        except ValueError as error:
            told = str(error).partition(": ")[2]
            raise SettingsError(
                f"--positive: {told}", remedy="the rule is a comparison or == and a text"
            ) from error
        target, is_bad = read_target(column, schema)
        positive = schema.is_positive(target)
        negative = ~positive & ~np.isnan(target)
        n_labelled = np.count_nonzero(positive | negative)
        for kind, rows in (("positive", positive), ("negative", negative)):
            if not rows.any():
                there = ", ".join(map(repr, values.frequent_first[:10]))
                raise SettingsError(
                    f"--positive: by {rule!r} none of {n_labelled:,} labelled rows is {kind}",
                    remedy=f"change the rule; the most frequent values of {name!r} are {there}",
                )
        n_positive = np.count_nonzero(positive)
        entry = [f"{key} = {_toml(value)}" for key, value in table.items()]
        entry[1] += f"  # {n_positive:,} of {n_labelled:,} labelled rows"
        remark = f"{is_bad.sum():,} cells of {name!r} are no label" if is_bad.any() else ""
        return cls(tuple(entry), values, positive, negative, remark)

    def comes_with(self, faulty: NDArray[np.bool_]) -> bool:
        """Whether a column has gaps in most rows without an answer, and in none with one."""
        unknown = ~(self.positive | self.negative)
        n_gaps = np.count_nonzero(faulty)
        by_chance = float(unknown.mean()) ** n_gaps
        is_filled = not faulty[~unknown].any()
        return bool(is_filled and 2 * n_gaps > unknown.sum() and by_chance < CHANCE_GAPS)


@dataclass(frozen=True)
class _Look:
    """What is proposed for one column."""

    name: str
    values: _Values
    entry: tuple[str, ...] = ()  # lines of the schema file; none: left out
    remark: str = ""  # why it is left out, or what is odd about it
    is_suspect: bool = False  # a person should look at it first
    names_rows: bool = False
    faulty: NDArray[np.bool_] | None = None  # (n_rows,), rows that could not be scored by it
    auc: float = 0.5  # of its numbers as scores, or the other way round; in [0.5, 1]

    def asked(self, remark: str) -> _Look:
        """The same, and a question about it that a person should answer."""
        entry = (f"{self.entry[0]}  # {remark}", *self.entry[1:])
        return replace(self, entry=entry, remark=remark, is_suspect=True)


def _look(name: str, column: Column, answers: _Answers, nothing: str = "") -> _Look:
    """What a column is good for; `nothing` tells of texts that came as empty cells."""
    values, is_empty, is_text = _Values.of(column), column.is_empty, column.is_text
    n_values, n_rows = len(values.texts), len(is_empty)

    def left_out(remark: str, *, is_suspect: bool = False, names_rows: bool = False) -> _Look:
        return _Look(name, values, (), remark, is_suspect, names_rows)

    if not name.strip():
        return left_out("has no name")
    if name == SCORE:
        return left_out("has the name of the model's own score: rename it", is_suspect=True)
    if n_values == 0:
        return left_out("is empty")
    if n_values == 1:
        return left_out(f"is always {values.frequent_first[0][:40]!r}")
    answer = np.where(answers.positive, 1, np.where(answers.negative, 0, -1))
    if values.is_as(answers.values.number) or values.is_as(answer):
        return left_out("is the answer itself under another name", is_suspect=True)
    if _is_date(column, values):
        return left_out("is a date, which no later batch repeats")
    if n_values == n_rows and (is_text.all() or _numbers_rows(name, column.numbers)):
        return left_out("names the rows", names_rows=True)
    is_category = _holds_words(column)
    faulty, what = is_empty | is_text | np.isinf(column.numbers), "number"
    if is_category:
        faulty, what = values.number < 0, "text"
    if answers.comes_with(faulty):
        remark = "has gaps only where there is no answer: it seems to be known no earlier"
        return left_out(remark, is_suspect=True)
    if is_category and n_values > min(MOST_CATEGORIES, n_rows / ROWS_EACH):
        remark = f"holds {n_values:,} different texts in {n_rows:,} rows"
        return left_out(remark, is_suspect=n_values * ROWS_EACH <= n_rows)
    cells: NDArray[Any] = values.number if is_category else column.numbers
    goes_on = _goes_on(cells[~faulty], is_category)
    if goes_on and not is_category:
        remark = "goes with the order of the rows, as a date does: later batches have others"
        return left_out(remark, is_suspect=True)
    entry = [f"name = {quoted(name)}"]
    if is_category:
        listed = [text for text in values.frequent_first if text != OTHER]
        entry.append(f"categories = {_toml(listed)}  # the most frequent one first")
    if faulty.mean() > MOST_GAPS:
        share = f"{faulty.mean():.0%} of the rows"
        return left_out(f"has no {what} in {share}: they were not scored{nothing}")
    if not is_category:
        numbers = column.numbers[~faulty]
        (low, high), seen = _plausible(numbers), (float(numbers.min()), float(numbers.max()))
        entry.append(f"minimum = {_toml(low)}  # seen: {_toml(seen[0])} to {_toml(seen[1])}")
        entry.append(f"maximum = {_toml(high)}")
        entry += _as_codes(numbers)
    if faulty.any():
        entry[0] += f"  # no {what} in {faulty.sum():,} rows: such rows are not scored{nothing}"
    sides = [cells[rows & ~faulty] for rows in (answers.positive, answers.negative)]
    look = _Look(name, values, tuple(entry), faulty=faulty)
    if _are_apart(*sides):
        return look.asked("tells the answer by itself: is it known before the answer is?")
    if goes_on:
        return look.asked("goes with the order of the rows: will a batch hold all of its texts?")
    return look if is_category else replace(look, auc=_auc(*sides))


def _asked_about(found: Sequence[_Look]) -> list[_Look]:
    """The same; asked about, too, is a column that tells the answer far better than all others."""
    *_, second, best = [0.5, 0.5, *sorted(each.auc for each in found)]
    if best < ALONE or best - 0.5 < 2 * (second - 0.5):
        return [*found]
    remark = f"tells most answers by itself (AUC {best:.2f}): is it known before the answer is?"
    return [each.asked(remark) if each.auc == best else each for each in found]


def _auc(some: Floats, others: Floats) -> float:
    """Area under the ROC curve of numbers as scores, or of the same from high to low.

    >>> _auc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    0.875
    """
    if not (len(some) and len(others)):
        return 0.5
    below, up_to = (np.searchsorted(np.sort(others), some, side) for side in ("left", "right"))
    area = float((below + up_to).mean()) / (2 * len(others))
    return max(area, 1 - area)


def _as_codes(numbers: Floats) -> list[str]:
    """A comment for a few whole numbers: they may be names and not sizes."""
    values, counts = np.unique(numbers, return_counts=True)
    is_few = 2 < len(values) <= min(FEW_VALUES, len(numbers) / ROWS_EACH)
    if not is_few or (values != np.floor(values)).any():
        return []
    codes = [_toml(value) for value in values[np.argsort(-counts, kind="stable")]]
    return [f"# if its numbers are codes, in place of the range: categories = {_toml(codes)}"]


def _goes_on(cells: NDArray[Any], is_category: bool) -> bool:
    """Whether a column only rises, or only falls, or stays as it is for a whole batch and more."""
    before, after = cells[:-1], cells[1:]
    shares = np.unique(cells, return_counts=True)[1] / len(cells)
    shuffled = len(before) * float(1 - (shares**2).sum())  # changes from row to row
    if shuffled < FEWEST_ROWS:
        return False
    changes = np.count_nonzero(after != before)
    if changes < min(CHANCE_RUNS * shuffled, len(cells) / _batch_rows(len(cells))):
        return True
    return not is_category and bool((after >= before).all() or (after <= before).all())


def _listing(texts: Sequence[str]) -> str:
    """What a person can do about texts that came as empty cells.

    >>> _listing(["NA"])
    '; "NA" is an empty cell unless categories list it'
    """
    some = f"{', '.join(map(quoted, texts[:3]))}{' and more' * (len(texts) > 3)}"
    verb, whom = ("is an empty cell", "it") if len(texts) == 1 else ("are empty cells", "them")
    return f"; {some} {verb} unless categories list {whom}"


def _texts_asked_for(values: _Values, rule: str) -> list[str]:
    """Texts that the target can be, in the order of the alphabet."""
    texts, asked = values.frequent_first, asked_for(rule)
    if len(texts) > MOST_ANSWERS:
        raise SettingsError(
            f"--target: holds {len(texts):,} different texts, such as {texts[0][:40]!r}",
            remedy="name a column with a few answers, or with numbers",
        )
    if asked is None or category(asked) not in map(category, texts):
        raise SettingsError(
            f"--positive: {rule!r} is none of the answers{_suggest(asked or '', texts)}",
            remedy=f"the answers are {', '.join(map(repr, texts))}: give '== ' and one of them",
        )
    return sorted(texts)


def _are_apart(some: NDArray[Any], others: NDArray[Any]) -> bool:
    """Whether a threshold parts numbers from others, or they are other values."""
    if not (len(some) and len(others)):
        return False
    is_far = some.min() > others.max() or others.min() > some.max()
    is_coarse = len(np.unique(some)) + len(np.unique(others)) <= FEW_VALUES
    return bool(is_far or (is_coarse and not np.isin(some, others).any()))


def _is_date(column: Column, values: _Values) -> bool:
    if column.cells.dtype.kind == "M":
        return True
    some = [cell for cell in column.cells[values.number >= 0][:1000].tolist()]
    return column.cells.dtype == object and all(
        isinstance(cell, date) or _DATE.fullmatch(str(cell).strip()) for cell in some
    )


def _numbers_rows(name: str, numbers: Floats) -> bool:
    """Whether numbers that are all different only count the rows."""
    if not np.array_equal(numbers, np.floor(numbers)):
        return False
    in_a_row = numbers.max() - numbers.min() == len(numbers) - 1
    return bool(in_a_row or _ID.fullmatch(name) or _ID.fullmatch(name.lower()))


@dataclass(frozen=True)
class _Repeats:
    """Rows that repeat an earlier one."""

    n_rows: int  # of the table
    n_repeats: int
    by_chance: float  # pairs of equal rows if columns were independent
    n_labelled: int  # of rows that are not alone
    n_others: int  # of these, such with another answer than most of those that they equal
    least: float  # share of the rarer answer in the table

    @classmethod
    def of(cls, columns: Sequence[_Values], answers: _Answers) -> _Repeats:
        rows = np.column_stack([each.number for each in columns])
        n_rows = len(rows)
        by_chance = n_rows * (n_rows - 1) / 2
        for each in columns:
            by_chance *= float(((each.counts / n_rows) ** 2).sum())
        _, group, size = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
        sides = answers.positive, answers.negative
        alike = np.array([np.bincount(group[side], minlength=len(size)) for side in sides])
        least = min(map(np.count_nonzero, sides)) / max(alike.sum(), 1)
        others, labelled = alike.min(axis=0), alike.sum(axis=0)[size > 1]
        n_repeats = n_rows - len(size)
        return cls(n_rows, n_repeats, by_chance, int(labelled.sum()), int(others.sum()), least)

    @property
    def are_accidents(self) -> bool:
        """Whether they are copies, and no rows of their own that happen to be equal."""
        own = self.n_others > max(FEW_OTHERS, SHARE_OTHERS * self.least * self.n_labelled)
        return self.by_chance < CHANCE_REPEATS and not own

    @property
    def entry(self) -> list[str]:
        """Lines of the schema file."""
        told = f"{self.n_repeats:,} of {self.n_rows:,} rows repeat another one"
        if self.by_chance >= CHANCE_REPEATS:
            return [f'duplicates = "keep"  # {told}; with such columns ordinary']
        if self.are_accidents:
            return [f'duplicates = "reject"  # {told}; with such columns an accident']
        return [f'duplicates = "keep"  # {told}, but {self.n_others:,} have another answer']


def _settings(n_rows: int, found: Sequence[_Look]) -> dict[str, Any]:
    batch_rows = _batch_rows(n_rows)
    settings: dict[str, Any] = {"batch_rows": batch_rows, "min_rows": min(50, batch_rows)}
    if n_rows > WINDOW_ROWS[0]:  # a challenger should not have to learn from fewer
        settings["window_rows"] = min(n_rows, WINDOW_ROWS[1])
    faulty = [each.faulty for each in found if each.faulty is not None]
    share = float(np.any(faulty, axis=0).mean())
    if share > USUAL_FAULTS:
        settings["max_set_aside"] = min(1.0, math.ceil(100 * share) / 100 + 0.2)
    names = [each.name for each in found if each.names_rows]
    return settings | ({"row_id": names[0]} if names else {})


def _batch_rows(n_rows: int) -> int:
    return min(max(n_rows // BATCHES // 10 * 10, BATCH_ROWS[0]), BATCH_ROWS[1])


def _plausible(numbers: Floats) -> tuple[float, float]:
    """A range in round numbers, wider by the own width of what was seen on either side.

    Up to ten times as much on the side of a long tail; without a sign that was not seen.

    >>> _plausible(np.array([4.6, 10.2, 15.9])), _plausible(np.array([0.99, 0.997, 1.0037]))
    ((0.0, 30.0), (0.97, 1.02))
    >>> _plausible(np.array([-5.0, -1.0, 0.0])), _plausible(np.array([0.9, 2.2, 15.5]))
    ((-25.0, 0.0), (0.0, 170.0))
    """
    low, high = float(numbers.min()), float(numbers.max())
    width = high - low
    if not 1e-99 < width < 1e99:  # no measurement
        return -math.inf, math.inf
    middle = float(np.median(numbers))
    below, above = middle - low, high - middle
    up = LONGEST_TAIL if above >= LONGEST_TAIL * below else max(above / below, 1.0)
    down = LONGEST_TAIL if below >= LONGEST_TAIL * above else max(below / above, 1.0)
    step = math.floor(math.log10(width))
    minimum = float(f"{math.floor((low - down * width) / 10.0**step)}e{step}")
    maximum = float(f"{math.ceil((high + up * width) / 10.0**step)}e{step}")
    return max(minimum, 0.0) if low >= 0 else minimum, min(maximum, 0.0) if high <= 0 else maximum


def _holds_words(column: Column) -> bool:
    """Whether more than half of the cells that there are hold texts or truths."""
    if column.cells.dtype != object:
        return column.cells.dtype == bool
    filled = ~column.is_empty
    truths = np.fromiter((isinstance(cell, bool) for cell in column.cells), bool, len(filled))
    return bool(2 * (column.is_text | truths).sum() > filled.sum())


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, [*known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
