"""Lines of short decimals to columns of numbers, all at once: far cheaper than to load pandas.

A decimal of 15 digits at most is a whole number that a double holds exactly, over a power of ten
that it holds exactly, too. So one division gives the double that is nearest to the text, as Python
and pandas do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

_MOST_DIGITS = 15
_NEWLINE, _DOT, _MINUS, _ZERO = b"\n.-0"
_POWERS = 10.0 ** np.arange(_MOST_DIGITS + 1)
# What pandas takes for nothing, and more that looks like it.
_NO_NAME = re.compile(r"[^a-z]*(n/?a|nan|null|none|ind|qnan)[^a-z]*( n/a *)?", re.IGNORECASE)

Cells = NDArray[Any] | Sequence[str | None]


def parse_lines(
    lines: bytes, n_columns: int, separator: bytes, text_column: int | None = None
) -> list[Cells] | None:
    """Read the lines of a table.

    Parameters
    ----------
    lines : bytes
        Lines that each end in a newline, with or without a carriage return before it.
    n_columns : int, >= 2
    separator : bytes
        One byte between two cells.
    text_column : int, optional
        A column of texts, without the spaces around them; None where there is none.

    Returns
    -------
    list of n_columns arrays of shape (n_lines,), or None
        Whole numbers as int64 if all cells of a column are; else float64, NaN for empty cells. None
        for lines of anything else, which are for pandas to read or to refuse.

    Raises
    ------
    UnicodeDecodeError
        A text is not UTF-8.

    Examples
    --------
    >>> parse_lines(b"1;2.50\\n;-0.5\\n", 2, b";")
    [array([ 1., nan]), array([ 2.5, -0.5])]
    >>> parse_lines(b"1;2\\n3;1e3\\n", 2, b";") is None
    True
    """
    if b'"' in lines:
        return None
    text = np.frombuffer(lines.replace(b"\r\n", b"\n") if b"\r" in lines else lines, dtype=np.uint8)
    ends = np.flatnonzero((text == separator[0]) | (text == _NEWLINE))
    is_last = text[ends] == _NEWLINE
    if len(ends) % n_columns or (is_last != (np.arange(1, len(ends) + 1) % n_columns == 0)).any():
        return None
    texts: Cells | None = None
    if text_column is not None:
        starts = np.append(0, ends[:-1] + 1)
        mine = slice(text_column, None, n_columns)
        texts = _texts(text, starts[mine], ends[mine])
        text, gone = _without(text, starts[mine], ends[mine])
        ends = ends - gone[ends]
    cells = _Cells.of(text, ends, n_columns)
    if cells is None or (texts is None and text_column is not None):
        return None
    columns = [texts if j == text_column else cells.numbers(j) for j in range(n_columns)]
    return None if any(column is None for column in columns) else cast("list[Cells]", columns)


@dataclass(frozen=True)
class _Cells:
    """Where the digits of cells are, each (n_columns, n_lines), and the digits."""

    digits: NDArray[np.uint8]  # of the text without dots; 0 where a sign is
    ends: NDArray[np.int64]  # in `digits`
    lengths: NDArray[np.int64]  # digits of a cell
    decimals: NDArray[np.int64]  # of these, behind the dot
    signed: NDArray[np.bool_] | None  # None where no cell is

    @classmethod
    def of(cls, text: NDArray[np.uint8], ends: NDArray[np.int64], n_columns: int) -> _Cells | None:
        """None if there is anything but digits, a dot between some, and a minus before them."""
        is_dot = text == _DOT
        dots, dots_before = np.flatnonzero(is_dot), np.cumsum(is_dot, dtype=np.int32)[ends]
        n_dots = np.diff(dots_before, prepend=np.int32(0))
        decimals = np.zeros(len(ends), dtype=np.int64)
        if n_dots.max(initial=0) > 1:
            return None
        decimals[n_dots == 1] = ends[n_dots == 1] - 1 - dots
        digits = text[~is_dot] - np.uint8(_ZERO)
        ends = ends - dots_before
        lengths = np.diff(ends, prepend=-1) - 1
        signed = None
        minus = np.flatnonzero(digits == np.uint8(_MINUS - _ZERO & 0xFF))
        if len(minus):
            signed = (digits[ends - lengths] == digits[minus[0]]) & (lengths > 0)
            lengths, digits[minus] = lengths - signed, 0
        n_signs = 0 if signed is None else np.count_nonzero(signed)
        n_digits = np.count_nonzero(digits < 10) - len(minus)
        odd = (n_dots == 1) & ((decimals < 1) | (decimals >= lengths))
        if signed is not None:
            odd |= signed & (lengths == 0)
        if n_signs < len(minus) or n_digits < lengths.sum() or odd.any():
            return None
        if lengths.max(initial=0) > _MOST_DIGITS:
            return None

        def by_column(cells: NDArray[Any]) -> NDArray[Any]:
            return np.ascontiguousarray(cells.reshape(-1, n_columns).T)

        return cls(
            digits,
            by_column(ends),
            by_column(lengths),
            by_column(decimals),
            None if signed is None else by_column(signed),
        )

    def numbers(self, j: int) -> NDArray[Any]:
        """Numbers of a column."""
        lengths, decimals = self.lengths[j], self.decimals[j]
        shortest, longest = int(lengths.min(initial=_MOST_DIGITS)), int(lengths.max(initial=0))
        kind = np.int32 if longest < 10 else np.int64
        wholes, at = np.zeros(len(lengths), dtype=kind), self.ends[j].copy()
        for k in range(longest):
            at -= 1
            digits = self.digits.take(at, mode="clip")
            if k >= shortest:
                digits = np.where(lengths > k, digits, np.uint8(0))
            # told, for numpy before 2 would stay with bytes, which overflow
            wholes = wholes + np.multiply(digits, kind(10**k), dtype=kind)
        signed = None if self.signed is None else self.signed[j]
        if shortest and not decimals.any():
            numbers = wholes.astype(np.int64)
            return numbers if signed is None else np.where(signed, -numbers, numbers)
        if (
            signed is not None and not decimals.any()
        ):  # pandas has whole numbers first, and 0 no sign
            wholes = np.where(signed, np.negative(wholes), wholes)
        values: NDArray[Any] = wholes / _POWERS[decimals]
        if signed is not None and decimals.any():
            values[signed] *= -1
        if not shortest:
            values[lengths == 0] = np.nan
        return values


def _texts(
    text: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> list[str | None] | None:
    """Texts of a column; None if one of them may be nothing, or if all are."""
    whole = text.tobytes()
    cells = [whole[a:b].decode() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    odd = not "".join(cells).isprintable() or any(map(_NO_NAME.fullmatch, cells))
    found = [cell.strip() or None for cell in cells]
    return None if odd or not any(found) else found


def _without(
    text: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The text without some of the cells, and how many bytes are gone before each place."""
    steps = np.zeros(len(text), dtype=np.int8)
    steps[starts] += 1
    steps[ends] -= 1
    gone = np.cumsum(steps, dtype=np.int8) > 0
    return text[~gone], np.cumsum(gone, dtype=np.int32)
