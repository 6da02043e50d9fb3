"""The table: features with unit and plausible range, the target, and what counts as positive.

A schema is data. Red wine is the default (`data/red_wine.toml`); another TOML file describes
another table of numbers and categories, with a binary question about one column.
"""

from __future__ import annotations

import contextlib
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `status` and `metrics` read names from here and need no arrays
    import numpy as np
    from numpy.typing import NDArray

OTHER = "(other)"  # any text that is none of the categories of its column
MOST_CATEGORIES = 1_000  # of a column
SCORE = "score"  # the model's score is monitored as one more column under this name

# Why a row is set aside; the first that applies is told.
FAULTS = ("text", "missing", "infinite", "out_of_range", "bad_label", "duplicate")
# What is wrong with a feature of a batch as a whole, and what an alarm is about.
SOURCE_FAULTS = ("missing_values", "unit_change", "stuck", "rounding", "out_of_range")
CAUSES = ("covariate_drift", "label_shift", "concept_drift")

_COMPARISONS: dict[str, Callable[[Any, float], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}
_RULE = re.compile(r"\s*(>=|<=|==|>|<)\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*")
_IS = re.compile(r'\s*==\s*(?:"([^"]+)"|([^"<>=\s](?:[^"]*\S)?))\s*')
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_TRUTHS = {"true": "1", "false": "0"}


@dataclass(frozen=True)
class Feature:
    """One input column, of numbers or of categories.

    A category is known by its number in the list; whatever is not listed has the number behind.
    """

    name: str
    unit: str  # as printed to people; "" if it has none
    minimum: float  # plausible range, both ends included: outside it is a fault, not a wine
    maximum: float
    categories: tuple[str, ...] = ()  # none: it holds numbers


@dataclass(frozen=True)
class Schema:
    """What a table must look like."""

    name: str
    row: str  # what one row is, for people: "wine"
    features: tuple[Feature, ...]
    target: str
    positive: str  # the rule on the target, such as "> 6.5"
    target_minimum: float
    target_maximum: float
    reject_duplicates: bool  # exact repeats of a row are set aside
    answers: tuple[str, ...] = ()  # what a target of texts can be; its values are numbers of these

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, in the order of every matrix of this package."""
        return tuple(feature.name for feature in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the monitored columns: the features, then the model score."""
        return (*self.feature_names, SCORE)

    @property
    def categories(self) -> dict[str, list[str]]:
        """What is listed, of each feature that holds categories."""
        return {each.name: list(each.categories) for each in self.features if each.categories}

    @property
    def listed(self) -> dict[str, list[str]]:
        """The same with the answers, if these are texts."""
        return self.categories | ({self.target: list(self.answers)} if self.answers else {})

    @property
    def n_categories(self) -> tuple[int, ...]:
        """How many are listed of each feature, (n_features,); 0 of numbers."""
        return tuple(len(feature.categories) for feature in self.features)

    @property
    def plausible(self) -> NDArray[np.float64]:
        """Plausible range of each feature, (n_features, 2)."""
        import numpy as np

        return np.array([(feature.minimum, feature.maximum) for feature in self.features])

    def difference(self, manifest: Mapping[str, Any]) -> str | None:
        """What a version was made for, for people; None if that is this schema."""
        question = f"{self.target} {self.positive}"
        if (list(self.feature_names), question) != (manifest["features"], manifest["positive"]):
            asked = f"{manifest['positive']!r} from {', '.join(manifest['features'])}"
            return f"answers {asked}; the schema is another"
        if manifest.get("categories", {}) != self.categories:
            return "was made for other categories, or another order of them; the schema is another"
        return None

    @property
    def label(self) -> str:
        """What a label is, for people."""
        if self.answers:
            return f"one of {', '.join(map(repr, self.answers))}"
        return f"a number from {self.target_minimum:g} to {self.target_maximum:g}"

    def is_positive(self, target: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Apply the rule to target values of shape (n_rows,); NaN is never positive.

        A target of texts is given by the number of each in `answers`.

        >>> import numpy as np
        >>> wine = Schema("wine", "wine", (), "quality", "> 6.5", 0, 10, True)
        >>> wine.is_positive(np.array([5.0, 6.0, 7.0])).tolist()
        [False, False, True]
        >>> loan = Schema("loans", "loan", (), "repaid", '== "no"', 0, 1, True, ("yes", "no"))
        >>> loan.is_positive(np.array([0.0, 1.0, np.nan])).tolist()
        [False, True, False]
        """
        positive: NDArray[np.bool_]
        if self.answers:
            positive = target == self.answers.index(asked_for(self.positive) or "")
            return positive
        match = _RULE.fullmatch(self.positive)
        assert match is not None  # parse_schema lets nothing else through
        positive = _COMPARISONS[match[1]](target, float(match[2]))
        return positive


def category(text: str) -> str:
    """The name of the category that the text of a cell stands for; "" for none.

    Readers write the same value in several ways; truths and numbers are told by what they are.

    >>> [category(text) for text in (" red ", "True", "true", "1", "1.0", "01", "0.50", "")]
    ['red', '1', '1', '1', '1', '1', '0.5', '']
    """
    text = text.strip()
    if text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    if not _NUMBER.fullmatch(text):
        return text
    number = float(text)
    return str(int(number)) if number.is_integer() else repr(number)


def asked_for(rule: str) -> str | None:
    """The text that a rule asks for; None if it is no such rule.

    >>> asked_for('== "yes"'), asked_for("== yes"), asked_for("> yes")
    ('yes', 'yes', None)
    """
    match = _IS.fullmatch(rule)
    return match and (match[1] or match[2])


def parse_schema(table: Mapping[str, Any]) -> Schema:
    """Build a schema from the content of a schema TOML file.

    Parameters
    ----------
    table : mapping
        `name`, `row`, `duplicates` ("keep" or "reject"), `[target]` with `column`, `positive`,
        `minimum` and `maximum`, or `categories` if it is texts, and one `[[feature]]` with `name`
        and the same, or `unit`, for each feature. Ranges default to unbounded.

    Raises
    ------
    ValueError
        One line for every mistake in the table.

    Examples
    --------
    >>> parse_schema({"name": "t", "target": {"column": "y", "positive": "== 1"},
    ...               "feature": [{"name": "x", "minimum": 0}]}).features[0].maximum
    inf
    >>> parse_schema({"name": "t", "target": {"column": "y", "positive": "big"}, "feature": []})
    Traceback (most recent call last):
    ...
    ValueError: target.positive: 'big' is not a comparison such as "> 6.5"
    feature: at least one [[feature]] is needed
    """
    mistakes: list[str] = []

    def text(value: Any, place: str, default: str | None = None) -> str:
        if isinstance(value, str) and value.strip():
            return value
        if value is None and default is not None:
            return default
        mistakes.append(f"{place}: {'is missing' if value is None else f'{value!r} is not a text'}")
        return ""

    def number(value: Any, place: str, default: float) -> float:
        if value is None:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            with contextlib.suppress(OverflowError):
                return float(value)
        mistakes.append(f"{place}: {repr(value)[:40]} is not a number")
        return default

    def texts(value: Any, place: str) -> tuple[str, ...]:
        """Categories, each by one name."""
        if value is None:
            return ()
        found = value if isinstance(value, list) else []
        if not found or not all(isinstance(each, str) and each.strip() for each in found):
            mistakes.append(f'{place}: not a list of texts such as ["no", "yes"]')
            return ()
        if len(found) > MOST_CATEGORIES:
            mistakes.append(f"{place}: more than {MOST_CATEGORIES:,} categories")
            return ()
        names = [OTHER, *map(category, found)]
        mistakes.extend(
            f"{place}: {each!r} is there already"
            for number, each in enumerate(found, start=1)
            if names[number] in names[:number]
        )
        return tuple(found)

    def no_numbers(entry: Mapping[str, Any], place: str) -> list[str]:
        known = [key for key in ("unit", "minimum", "maximum") if key in entry]
        return [f"{place}.{key}: categories have none" for key in known]

    def section(value: Any, place: str, known: set[str]) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            mistakes.append(f"{place}: is missing" if value is None else f"{place}: not a table")
            return {}
        mistakes.extend(f"{place}.{key}: unknown key" for key in value if key not in known)
        return value

    mistakes += [
        f"{key}: unknown key"
        for key in table
        if key not in {"name", "row", "duplicates", "target", "feature"}
    ]
    name = text(table.get("name"), "name")
    row = text(table.get("row"), "row", "row")
    duplicates = table.get("duplicates", "keep")
    if duplicates not in ("keep", "reject"):
        mistakes.append(f'duplicates: {duplicates!r} is neither "keep" nor "reject"')

    target = section(
        table.get("target"), "target", {"column", "positive", "minimum", "maximum", "categories"}
    )
    column = text(target.get("column"), "target.column")
    positive = text(target.get("positive"), "target.positive")
    answers = texts(target.get("categories"), "target.categories")
    target_range = (
        number(target.get("minimum"), "target.minimum", -math.inf),
        number(target.get("maximum"), "target.maximum", math.inf),
    )
    rule, asked = _RULE.fullmatch(positive), asked_for(positive)
    if answers:
        known = {category(answer): answer for answer in answers}
        if asked is not None and category(asked) in known:
            positive = f'== "{known[category(asked)]}"'
        elif positive:
            mistakes.append(f"target.positive: {positive!r} asks for none of target.categories")
        mistakes.extend(no_numbers(target, "target"))
        target_range = (0, len(answers) - 1)
    elif rule:
        positive = f"{rule[1]} {rule[2]}"  # spaces make no other question
    elif asked is not None:
        mistakes.append(
            f"target.positive: {positive!r} asks for a text; list the texts that there are, such "
            'as target.categories = ["no", "yes"]'
        )
    elif positive:
        mistakes.append(f'target.positive: {positive!r} is not a comparison such as "> 6.5"')

    features = []
    entries = table.get("feature", [])
    for index, raw in enumerate(entries if isinstance(entries, list) else [], start=1):
        place = f"feature {index}"
        entry = section(raw, place, {"name", "unit", "minimum", "maximum", "categories"})
        categories = texts(entry.get("categories"), f"{place}.categories")
        lowest, highest = (0, len(categories)) if categories else (-math.inf, math.inf)
        features.append(
            Feature(
                name=text(entry.get("name"), f"{place}.name"),
                unit=str(entry.get("unit", "")),
                minimum=number(entry.get("minimum"), f"{place}.minimum", lowest),
                maximum=number(entry.get("maximum"), f"{place}.maximum", highest),
                categories=categories,
            )
        )
        if categories:
            mistakes.extend(no_numbers(entry, place))
        if features[-1].minimum >= features[-1].maximum:
            mistakes.append(f"{place}: minimum is not below maximum")
    if not features:
        mistakes.append("feature: at least one [[feature]] is needed")
    names = [feature.name for feature in features if feature.name]
    mistakes += [f"feature: {n!r} is there twice" for n in sorted(set(names)) if names.count(n) > 1]
    mistakes += [f"feature: {n!r} is also the target" for n in names if n == column]
    if SCORE in names:
        mistakes.append(f"feature: the name {SCORE!r} is taken by the model's own score")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return Schema(
        name, row, tuple(features), column, positive, *target_range, duplicates == "reject", answers
    )
