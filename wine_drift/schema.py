"""The table: features with unit and plausible range, the target, and what counts as positive.

A schema is data. Red wine is the default (`data/red_wine.toml`); another TOML file describes
another table of numeric features with a binary question about one column.
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


@dataclass(frozen=True)
class Feature:
    """One numeric input column."""

    name: str
    unit: str  # as printed to people; "" if it has none
    minimum: float  # plausible range, both ends included: outside it is a fault, not a wine
    maximum: float


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

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, in the order of every matrix of this package."""
        return tuple(feature.name for feature in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the monitored columns: the features, then the model score."""
        return (*self.feature_names, SCORE)

    @property
    def plausible(self) -> NDArray[np.float64]:
        """Plausible range of each feature, (n_features, 2)."""
        import numpy as np

        return np.array([(feature.minimum, feature.maximum) for feature in self.features])

    def is_positive(self, target: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Apply the rule to target values of shape (n_rows,); NaN is never positive.

        >>> import numpy as np
        >>> wine = Schema("wine", "wine", (), "quality", "> 6.5", 0, 10, True)
        >>> wine.is_positive(np.array([5.0, 6.0, 7.0])).tolist()
        [False, False, True]
        """
        match = _RULE.fullmatch(self.positive)
        assert match is not None  # parse_schema lets nothing else through
        positive: NDArray[np.bool_] = _COMPARISONS[match[1]](target, float(match[2]))
        return positive


def parse_schema(table: Mapping[str, Any]) -> Schema:
    """Build a schema from the content of a schema TOML file.

    Parameters
    ----------
    table : mapping
        `name`, `row`, `duplicates` ("keep" or "reject"), `[target]` with `column`, `positive`,
        `minimum` and `maximum`, and one `[[feature]]` with `name`, `unit`, `minimum`, `maximum`
        for each feature. Ranges default to unbounded.

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

    target = section(table.get("target"), "target", {"column", "positive", "minimum", "maximum"})
    column = text(target.get("column"), "target.column")
    positive = text(target.get("positive"), "target.positive")
    rule = _RULE.fullmatch(positive)
    if rule:
        positive = f"{rule[1]} {rule[2]}"  # spaces make no other question
    elif positive:
        mistakes.append(f'target.positive: {positive!r} is not a comparison such as "> 6.5"')
    target_range = (
        number(target.get("minimum"), "target.minimum", -math.inf),
        number(target.get("maximum"), "target.maximum", math.inf),
    )

    features = []
    entries = table.get("feature", [])
    for index, raw in enumerate(entries if isinstance(entries, list) else [], start=1):
        place = f"feature {index}"
        entry = section(raw, place, {"name", "unit", "minimum", "maximum"})
        features.append(
            Feature(
                name=text(entry.get("name"), f"{place}.name"),
                unit=str(entry.get("unit", "")),
                minimum=number(entry.get("minimum"), f"{place}.minimum", -math.inf),
                maximum=number(entry.get("maximum"), f"{place}.maximum", math.inf),
            )
        )
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
        name, row, tuple(features), column, positive, *target_range, duplicates == "reject"
    )
