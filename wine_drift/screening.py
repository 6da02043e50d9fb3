"""Data-quality checks, row by row: what is scored, and what is set aside with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wine_drift.errors import BadBatch
from wine_drift.frame import Column, Frame
from wine_drift.profile import Floats
from wine_drift.rows import among, repeats
from wine_drift.schema import FAULTS, Schema

ACCEPTED = -1


@dataclass(frozen=True)
class Screened:
    """A batch after screening. All arrays have one entry for each row of the file."""

    features: Floats  # (n_rows, n_features); NaN where there was no finite number
    target: Floats  # (n_rows,); NaN where a row is not labelled
    fault: NDArray[np.int64]  # (n_rows,); index into FAULTS, or ACCEPTED
    faulty_column: NDArray[np.int64]  # (n_rows,); the first column at fault, target last; or -1
    missing: dict[str, float]  # per feature: share of cells without a finite number
    out_of_range: dict[str, float]  # per feature: share of cells outside the plausible range
    ignored_columns: tuple[str, ...]  # in the file, but not in the schema

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Rows to score."""
        return np.equal(self.fault, ACCEPTED)

    @property
    def profiled(self) -> NDArray[np.bool_]:
        """Rows that count for drift: also the faulty ones, for a fault is what drift may be."""
        return np.not_equal(self.fault, FAULTS.index("duplicate"))

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Accepted rows with a label."""
        return self.accepted & np.isfinite(self.target)

    @property
    def set_aside(self) -> dict[str, int]:
        """Number of rows set aside for each of FAULTS."""
        return {name: int((self.fault == k).sum()) for k, name in enumerate(FAULTS)}

    @property
    def faulty_share(self) -> float:
        """Share of rows set aside for a fault; a repeat of a good row is none."""
        return float((self.profiled & ~self.accepted).mean())

    @property
    def matrix(self) -> Floats:
        """Features and target side by side, shape (n_rows, n_features + 1)."""
        return np.column_stack([self.features, self.target])


def screen(frame: Frame, schema: Schema, *, whole_file: bool = True) -> Screened:
    """Check a batch against the schema.

    Parameters
    ----------
    frame : Frame
        As read; columns in any order. The target may be absent, or empty in some rows.
    schema : Schema
    whole_file : bool
        False for a slice of a table: a feature without one number in it is then a matter of rows.

    Raises
    ------
    BadBatch
        The file as a whole cannot be used: no rows, a feature is missing, or a feature holds cells
        but not one number.

    Examples
    --------
    >>> from wine_drift.schema import Feature
    >>> schema = Schema("t", "row", (Feature("x", "", 0, 9),), "y", "> 0.5", 0, 1, True)
    >>> rows = Frame.of({"x": ["1", "two", None, "99", "1", "3"], "y": [0, 1, 0, 1, 0, 7]})
    >>> screened = screen(rows, schema)
    >>> [FAULTS[k] if k >= 0 else "ok" for k in screened.fault]
    ['ok', 'text', 'missing', 'out_of_range', 'duplicate', 'bad_label']
    """
    if len(frame) == 0:
        raise BadBatch("holds no rows", remedy="nothing was lost: send a file with rows")
    absent = [name for name in schema.feature_names if name not in frame.columns]
    if absent:
        raise BadBatch(
            f"column {', '.join(map(repr, absent))} is missing",
            remedy=f"the file needs the columns {', '.join(schema.feature_names)}",
        )
    n_rows, n_features = len(frame), len(schema.features)
    features = np.empty((n_rows, n_features))
    target = np.full(n_rows, np.nan)
    fault = np.full(n_rows, ACCEPTED)
    faulty_column = np.full(n_rows, -1)

    def blame(name: str, rows: NDArray[np.bool_], column: int) -> None:
        kind = FAULTS.index(name)
        chosen = rows & ((fault == ACCEPTED) | (fault > kind))
        fault[chosen], faulty_column[chosen] = kind, column

    out_of_range = {}
    for j, feature in enumerate(schema.features):
        column = frame.columns[feature.name]
        values, is_text = column.numbers.copy(), column.is_text
        if whole_file and is_text.any() and not np.isfinite(values).any():
            row = int(is_text.argmax())
            (cell,) = column.texts(slice(row, row + 1))
            raise BadBatch(
                f"row {row + 1}, column {feature.name!r}: {cell[:40]!r} is not a number, "
                "nor is any other cell of the column",
                remedy="use a decimal point and no units",
            )
        blame("text", is_text, j)
        blame("missing", np.isnan(values) & ~is_text, j)
        blame("infinite", np.isinf(values), j)
        values[np.isinf(values)] = np.nan
        outside = (values < feature.minimum) | (values > feature.maximum)
        blame("out_of_range", outside, j)
        out_of_range[feature.name] = float(outside.mean())
        features[:, j] = values
    if schema.target in frame.columns:
        target, is_bad = read_target(frame.columns[schema.target], schema)
        blame("bad_label", is_bad, n_features)
    if schema.reject_duplicates:
        blame("duplicate", _repeats(np.column_stack([features, target]), fault), -1)
    return Screened(
        features,
        target,
        fault,
        faulty_column,
        dict(zip(schema.feature_names, np.isnan(features).mean(axis=0).tolist(), strict=True)),
        out_of_range,
        tuple(c for c in frame.columns if c not in (*schema.feature_names, schema.target)),
    )


def read_target(column: Column, schema: Schema) -> tuple[Floats, NDArray[np.bool_]]:
    """Labels, (n_rows,), NaN where there is none; and where a cell holds what is no label."""
    target, is_text = column.numbers.copy(), column.is_text
    outside = (target < schema.target_minimum) | (target > schema.target_maximum)
    is_bad = is_text | outside | np.isinf(target)
    target[~np.isfinite(target) | outside] = np.nan
    return target, is_bad


def set_aside_rows(
    frame: Frame, screened: Screened, schema: Schema
) -> Iterator[tuple[object, ...]]:
    """The rows that were set aside, as they came, each with its number, reason and column.

    A line of names comes first, and in each line three columns: `set_aside_row` (from 1, without
    the header line), `set_aside_reason` (one of FAULTS) and `set_aside_column` (empty for a
    repeat).
    """
    columns = (*schema.feature_names, schema.target)
    rows = np.flatnonzero(~screened.accepted)
    names, *cells = frame.take(rows).rows()
    yield "set_aside_row", "set_aside_reason", "set_aside_column", *names
    for row, line in zip(rows.tolist(), cells, strict=True):
        at_fault = int(screened.faulty_column[row])
        blamed = columns[at_fault] if at_fault >= 0 else ""
        yield row + 1, FAULTS[screened.fault[row]], blamed, *line


def _repeats(rows: Floats, fault: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Accepted rows that equal an earlier accepted row, or in all but a label that is missing."""
    accepted = np.flatnonzero(fault == ACCEPTED)
    comparable = np.nan_to_num(rows[accepted], nan=-np.inf)  # no label equals no label
    again = repeats(comparable)
    # the same row once with its label and once without: the label is known
    labelled = np.isfinite(comparable[:, -1])
    features = comparable[:, :-1]
    again[~labelled] |= among(features[~labelled], features[labelled])
    found = np.zeros(len(rows), dtype=bool)
    found[accepted[again]] = True
    return found


def row_names(frame: Frame, column: str | None) -> tuple[str, ...]:
    """Names of the rows as texts; none where there is no such column.

    >>> row_names(Frame.of({"id": ["007", " 7"], "x": [0, 0]}), "id")
    ('007', '7')
    >>> row_names(Frame.of({"id": [17.0, 2.5, None]}), "id"), row_names(Frame.of({}), "id")
    (('17', '2.5', ''), ())
    """
    if column is None or column not in frame.columns:
        return ()

    def name(cell: object) -> str:
        if isinstance(cell, float) and cell.is_integer():  # Parquet, beside an empty cell
            return str(int(cell))
        return str(cell).strip()

    names = frame.columns[column]
    cells = zip(names.cells.tolist(), names.is_empty, strict=True)
    return tuple("" if gone else name(cell) for cell, gone in cells)
