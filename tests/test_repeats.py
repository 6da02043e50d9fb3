"""Repeats of rows, in one part and over many, against a reading row by row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wine_drift import repeats
from wine_drift.bins import Floats
from wine_drift.repeats import Known, find_repeats, row_keys, without_label

LABELS = st.sampled_from([None, 1.0, 2.0, 3.5])
ROWS = st.lists(st.tuples(st.integers(0, 3), LABELS), max_size=20)


def one_by_one(rows: list[tuple[int, float | None]]) -> tuple[list[bool], list[float | None]]:
    """Which rows are repeats, and the labels of all, read in order."""
    again, labels = [], [label for _, label in rows]
    bare: dict[int, int] = {}  # rows without a label
    told: dict[int, set[float]] = {}  # labels that are known
    for number, (x, label) in enumerate(rows):
        known = told.setdefault(x, set())
        repeat = (x in bare or bool(known)) if label is None else label in known
        if label is None and not repeat:
            bare[x] = number
        elif label is not None and not repeat:
            if x in bare and not known:
                repeat, labels[bare[x]] = True, label
            known.add(label)
        again.append(repeat)
    return again, labels


def part_by_part(
    rows: list[tuple[int, float | None]], cuts: list[int]
) -> tuple[list[bool], list[float | None]]:
    """The same by the code under test."""
    features = np.array([[x] for x, _ in rows], dtype=float).reshape(-1, 1)
    target = np.array([np.nan if y is None else y for _, y in rows])
    known, again, keys = Known(), [], row_keys(features, target)
    labels = target.copy()
    for start, stop in pairwise([0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]):
        found = find_repeats(features[start:stop], target[start:stop], known)
        again += found.repeats.tolist()
        gets = found.completed_by >= 0
        labels[start:stop][gets] = target[start:stop][found.completed_by[gets]]
        for row in np.flatnonzero(found.completes):
            (earlier,) = (
                k
                for k in range(start)
                if keys[k] == without_label(found.keys[row]) and not again[k]
            )
            labels[earlier] = target[start + row]
    return again, [None if np.isnan(y) else y for y in labels]


@settings(max_examples=500, deadline=None)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 20), max_size=4), longest=st.sampled_from([1, 8]))
def test_repeats_are_those_of_reading_row_by_row(
    rows: list[tuple[int, float | None]], cuts: list[int], longest: int
) -> None:
    """However rows are cut into parts, and keys into runs, the same rows are repeats."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "_LONGEST", longest)
        again, labels = part_by_part(rows, cuts)
    expected, told = one_by_one(rows)
    assert again == expected
    assert [y for y, r in zip(labels, again, strict=True) if not r] == [
        y for y, r in zip(told, expected, strict=True) if not r
    ]


def grid(n: int) -> Floats:
    """Rows of three measurements with one decimal, all different."""
    axis = np.arange(n) / 10
    return np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)


def test_two_million_rows_in_parts() -> None:
    """Of rows that differ in one decimal none is a repeat; given again, all are."""
    rows, known = grid(126), Known()
    target = np.full(len(rows), 6.0)
    for times in (0, 1):
        for start in range(0, len(rows), 300_000):
            part = slice(start, start + 300_000)
            assert find_repeats(rows[part], target[part], known).repeats.all() == bool(times)


def test_labels_have_keys_of_their_own() -> None:
    """Whole numbers to 253 never share a key; minus zero is zero; no label is no number."""
    labels = np.array([*range(254), np.nan])
    keys = row_keys(np.zeros((255, 1)), labels)
    assert len(set(keys.tolist())) == 255
    assert len(set(without_label(keys).tolist())) == 1
    assert (row_keys(np.array([[-0.0]]), np.array([-0.0])) == keys[0]).all()
