"""Data-quality checks, row by row: what is scored, and what is set aside with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.errors import BadBatch
from wine_drift.frame import Column, Frame
from wine_drift.repeats import Keys, Known, find_repeats
from wine_drift.schema import FAULTS, Schema

ACCEPTED = -1
SET_ASIDE = ("set_aside_row", "set_aside_reason", "set_aside_column")


@dataclass(frozen=True)
class Screened:
    """A batch after screening. All arrays have one entry for each row of the file."""

    features: Floats  # (n_rows, n_features), by columns; NaN where there was no finite number
    target: Floats  # (n_rows,); NaN where a row is not labelled
    fault: NDArray[np.int64]  # (n_rows,); index into FAULTS, or ACCEPTED
    faulty_column: NDArray[np.int64]  # (n_rows,); the first column at fault, target last; or -1
    outside: NDArray[np.int64]  # (n_features,), cells outside the plausible range
    texts: tuple[tuple[int, str] | None, ...]  # of each feature: row and cell of the first text
    ignored_columns: tuple[str, ...]  # in the file, but not in the schema
    brings_label: NDArray[np.bool_]  # (n_rows,), good rows that came with one, repeats that gave it
    completes: NDArray[
        np.bool_
    ]  # (n_rows,), repeats with the label that an earlier part's row gets
    keys: Keys  # (n_rows,), of the rows without a fault; 0 for others, and where repeats are kept

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
        return dict(zip(FAULTS, self.by_fault.tolist(), strict=True))

    @property
    def by_fault(self) -> NDArray[np.int64]:
        """The same as numbers alone."""
        counts: NDArray[np.int64] = np.bincount(self.fault - ACCEPTED, minlength=len(FAULTS) + 1)
        return counts[1:]

    @property
    def missing(self) -> NDArray[np.int64]:
        """Cells without a finite number, (n_features,)."""
        missing: NDArray[np.int64] = np.isnan(self.features).sum(axis=0)
        return missing

    @property
    def matrix(self) -> Floats:
        """Features and target side by side, shape (n_rows, n_features + 1)."""
        return np.column_stack([self.features, self.target])


def screen(
    frame: Frame, schema: Schema, *, whole_file: bool = True, known: Known | None = None
) -> Screened:
    """Check a batch, or a part of it, against the schema.

    Parameters
    ----------
    frame : Frame
        As read; columns in any order. The target may be absent, or empty in some rows.
    schema : Schema
    whole_file : bool
        False for a slice of a table: a feature without one number in it is then a matter of rows.
    known : Known, optional
        Of the parts before; those of this one are added.

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
    features = np.empty((n_rows, n_features), order="F")
    target = np.full(n_rows, np.nan)
    fault = np.full(n_rows, ACCEPTED)
    faulty_column = np.full(n_rows, -1)

    def blame(name: str, rows: NDArray[np.bool_], column: int) -> None:
        kind = FAULTS.index(name)
        chosen = rows & ((fault == ACCEPTED) | (fault > kind))
        fault[chosen], faulty_column[chosen] = kind, column

    outside = np.zeros(n_features, dtype=np.int64)
    texts: list[tuple[int, str] | None] = [None] * n_features
    for j, feature in enumerate(schema.features):
        column, values = frame.columns[feature.name], features[:, j]
        if feature.categories:
            values[:] = column.codes(feature.categories)
            blame("missing", np.isnan(values), j)
            continue
        values[:] = column.numbers
        if not np.isfinite(values).all():
            is_text = column.is_text
            texts[j] = _first(column, is_text)
            blame("text", is_text, j)
            blame("missing", np.isnan(values) & ~is_text, j)
            blame("infinite", np.isinf(values), j)
            values[np.isinf(values)] = np.nan
        beyond = (values < feature.minimum) | (values > feature.maximum)
        outside[j] = np.count_nonzero(beyond)
        if outside[j]:
            blame("out_of_range", beyond, j)
    if whole_file:
        refuse_texts(schema, texts, np.isnan(features).sum(axis=0) == n_rows)
    if schema.target in frame.columns:
        target, is_bad = read_target(frame.columns[schema.target], schema)
        blame("bad_label", is_bad, n_features)
    completes, keys = np.zeros(n_rows, dtype=bool), np.zeros(n_rows, dtype=np.uint64)
    brings_label = np.isfinite(target)
    if schema.reject_duplicates:
        good = np.flatnonzero(fault == ACCEPTED)
        found = find_repeats(take(features, fault == ACCEPTED), target[good], known or Known())
        fault[good[found.repeats]] = FAULTS.index("duplicate")
        completed = found.completed_by >= 0
        givers = good[found.completed_by[completed]]
        target[good[completed]] = target[givers]
        completes[good[found.completes]], keys[good] = True, found.keys
        brings_label &= (fault == ACCEPTED) | completes
        brings_label[givers] = True
    else:
        brings_label &= fault == ACCEPTED
    ignored = tuple(c for c in frame.columns if c not in (*schema.feature_names, schema.target))
    return Screened(
        features,
        target,
        fault,
        faulty_column,
        outside,
        tuple(texts),
        ignored,
        brings_label,
        completes,
        keys,
    )


def take(matrix: Floats, rows: NDArray[np.bool_]) -> Floats:
    """Rows of a matrix by a mask, or the matrix itself if it holds for all; by columns."""
    out: Floats = matrix if rows.all() else matrix.T[:, rows].T
    return out


def _first(column: Column, is_text: NDArray[np.bool_]) -> tuple[int, str] | None:
    """Row and cell of the first text."""
    if not is_text.any():
        return None
    row = int(is_text.argmax())
    (cell,) = column.texts(slice(row, row + 1))
    return row, cell


def refuse_texts(
    schema: Schema,
    texts: Sequence[tuple[int, str] | None],
    is_empty: NDArray[np.bool_],
    files: Sequence[str] | None = None,
) -> None:
    """Refuse a batch of which a feature holds texts and not one number.

    Parameters
    ----------
    schema : Schema
    texts : sequence of n_features
        Row, from 0, and cell of the first text of each.
    is_empty : ndarray of shape (n_features,), bool
        Where there is no number.
    files : sequence of n_features, optional
        The file of each text, of a batch that is many files; empty if it needs no name.

    Raises
    ------
    BadBatch
    """
    files = files or [""] * len(texts)
    for feature, text, none, file in zip(schema.features, texts, is_empty, files, strict=True):
        if none and text is not None:
            row, cell = text
            raise BadBatch(
                f"{file and f'{file}: '}row {row + 1}, column {feature.name!r}: {cell[:40]!r} is "
                "not a number, nor is any other cell of the column",
                remedy="use a decimal point and no units",
            )


def read_target(column: Column, schema: Schema) -> tuple[Floats, NDArray[np.bool_]]:
    """Labels, (n_rows,), NaN where there is none; and where a cell holds what is no label."""
    if schema.answers:
        target = column.codes(schema.answers)
        is_text = np.zeros(len(target), dtype=bool)
    else:
        target, is_text = column.numbers.copy(), column.is_text
    outside = (target < schema.target_minimum) | (target > schema.target_maximum)
    is_bad = is_text | outside | np.isinf(target)
    target[~np.isfinite(target) | outside] = np.nan
    return target, is_bad


def set_aside_rows(
    frame: Frame, screened: Screened, schema: Schema
) -> Iterator[tuple[object, ...]]:
    """The rows that were set aside, as they came, each with its number, reason and column.

    In each line three columns come first, whose names are those of `SET_ASIDE`: the number of the
    row (from 1, without the header line), one of FAULTS, and the column at fault (empty for a
    repeat).
    """
    columns = (*schema.feature_names, schema.target)
    rows = np.flatnonzero(~screened.accepted)
    lines = frame.take(rows).rows()
    next(lines)  # the names
    for row, line in zip(rows.tolist(), lines, strict=True):
        at_fault = int(screened.faulty_column[row])
        blamed = columns[at_fault] if at_fault >= 0 else ""
        yield row + 1, FAULTS[screened.fault[row]], blamed, *line


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
