"""A table as it came: cells in columns, and the numbers in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, cached_property
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.schema import OTHER, category


@dataclass(frozen=True, eq=False)
class Column:
    """Cells of one column, (n_rows,): numbers of one kind, or objects, None where there is none.

    >>> column = Column(np.array(["1.5", "two", None, "inf", 3], dtype=object))
    >>> column.numbers.tolist(), column.is_text.tolist()
    ([1.5, nan, nan, inf, 3.0], [False, True, False, False, False])
    """

    cells: NDArray[Any]

    @cached_property
    def numbers(self) -> Floats:
        """Cells as floats, (n_rows,); NaN where there is no number."""
        if self.cells.dtype == object:
            return np.fromiter(map(_number, self.cells), float, len(self.cells))
        return self.cells.astype(float, copy=False)

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """Where there is no cell, (n_rows,)."""
        if self.cells.dtype == object:
            return np.fromiter(map(_is_nothing, self.cells), bool, len(self.cells))
        return np.isnan(self.numbers)

    @property
    def is_text(self) -> NDArray[np.bool_]:
        """Where a cell is no number, (n_rows,)."""
        return np.isnan(self.numbers) & ~self.is_empty

    def codes(self, categories: Sequence[str]) -> Floats:
        """Number of the category of each cell, (n_rows,): as many as there are for any other.

        NaN where there is no cell.

        >>> Column(np.array(["yes", " no", "maybe", None, ""], dtype=object)).codes(["no", "yes"])
        array([ 1.,  0.,  2., nan, nan])
        >>> Column(np.array([True, False])).codes(["false", "true"]).tolist()
        [1.0, 0.0]
        """
        known = {category(text): float(number) for number, text in enumerate(categories)}
        known[""] = math.nan
        of_text = cache(lambda text: known.get(category(text), float(len(categories))))
        return np.fromiter(map(of_text, self.texts()), float, len(self.cells))

    @classmethod
    def of_codes(cls, codes: Floats, categories: Sequence[str]) -> Column:
        """Inverse of `codes`; a text that is none of the categories stands for any other."""
        texts: list[str | None] = [*categories, OTHER]
        cells = [None if math.isnan(code) else texts[int(code)] for code in codes.tolist()]
        return cls(np.array(cells, dtype=object))

    def texts(self, chosen: NDArray[Any] | slice = slice(None)) -> Iterator[str]:
        """Some of the cells as a CSV file has them; empty where there is none."""
        for cell in self.cells[chosen].tolist():
            yield "" if _is_nothing(cell) else str(cell)


@dataclass(frozen=True, eq=False)
class Frame:
    """Columns of equal length by name, in their order."""

    columns: Mapping[str, Column]

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[object] | NDArray[Any]]) -> Frame:
        """Make one of arrays, or of cells of any kind.

        >>> frame = Frame.of({"x": np.array([1.0, 2.0]), "y": [None, "good"]})
        >>> list(frame.rows())
        [('x', 'y'), ('1.0', ''), ('2.0', 'good')]
        """
        found = {}
        for name, cells in columns.items():
            if not isinstance(cells, np.ndarray):
                objects = np.empty(len(cells), dtype=object)
                objects[:] = cells
                cells = objects
            found[name] = Column(cells)
        return cls(found)

    def __len__(self) -> int:
        return max((len(column.cells) for column in self.columns.values()), default=0)

    def take(self, chosen: NDArray[Any] | slice) -> Frame:
        """Some of the rows: by number, by a mask, or a slice."""
        return Frame({name: Column(each.cells[chosen]) for name, each in self.columns.items()})

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The names, then each row, as a CSV file has them."""
        yield tuple(self.columns)
        yield from zip(*(column.texts() for column in self.columns.values()), strict=True)


def _is_nothing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _number(cell: object) -> float:
    """The number that a cell is, or is the text of; Python's underscores are not of the field."""
    if isinstance(cell, str) and (not cell.isascii() or "_" in cell):
        return math.nan
    try:
        return float(cell) if isinstance(cell, str | Real | Decimal) else math.nan
    except ValueError:
        return math.nan
    except OverflowError:  # a whole number of hundreds of digits
        return -math.inf if str(cell).startswith("-") else math.inf
