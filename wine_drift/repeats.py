"""Rows of a batch that came before in it, found by keys of eight bytes a row.

A row repeats another if the features are equal, and the labels are too or one of them is missing.
The first one stays. If it had no label, it gets that of the first repeat that has one, so it does
not matter which of the two came first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.rows import row_hashes

Keys = NDArray[np.uint64]  # of rows: 56 bits of a hash of the features, then 8 of the label
Mask = NDArray[np.bool_]

_BITS = np.uint64(8)
_CODE = np.uint64(0xFF)
_NONE: Keys = np.empty(0, dtype=np.uint64)
_LONGEST = 1 << 20  # keys in one sorted run: merging longer ones takes more room than it saves


@dataclass(frozen=True)
class Found:
    """What is said of the rows of a part."""

    repeats: Mask  # (n_rows,)
    completed_by: NDArray[np.int64]  # (n_rows,), the row of this part whose label it gets; or -1
    completes: Mask  # (n_rows,), repeats with the label that a row of an earlier part gets
    keys: Keys  # (n_rows,)


class Known:
    """Keys of the parts that came before."""

    def __init__(self, runs: Iterable[Keys] = ()) -> None:
        self._runs = [run for run in runs if len(run)]  # each sorted; none has a key of another

    def add(self, keys: Keys) -> None:
        """Add those of one more part that are new: sorted, each once."""
        if len(keys):
            self._runs.append(keys)
        while len(self._runs) > 1 and self._can_merge(*self._runs[-2:]):
            both = np.concatenate([self._runs.pop(), self._runs.pop()])
            both.sort()
            self._runs.append(both)

    @staticmethod
    def _can_merge(one: Keys, two: Keys) -> bool:
        return len(one) < 2 * len(two) and len(one) + len(two) <= _LONGEST

    def all(self) -> Keys:
        """All of them, sorted, without repeats."""
        return _distinct(np.sort(np.concatenate([_NONE, *self._runs])))

    def like(self, keys: Keys) -> Keys:
        """Those of the features of others, whatever their labels; all sorted, without repeats."""
        first, found = _distinct(without_label(keys)), [_NONE]
        for run in self._runs:
            start = np.searchsorted(run, first)
            stop = np.searchsorted(run, first | _CODE, side="right")
            number = stop - start
            found.append(run[np.repeat(stop - np.cumsum(number), number) + np.arange(number.sum())])
        return _distinct(np.sort(np.concatenate(found)))

    def find(self, keys: Keys) -> tuple[Mask, Mask, Mask]:
        """Of sorted keys: whether one is known, its features without a label, and with any."""
        exact, bare, labelled = (np.zeros(len(keys), dtype=bool) for _ in range(3))
        first = without_label(keys)
        for run in self._runs:
            at = np.searchsorted(run, first)
            hits = np.flatnonzero(_same(run, at, first))
            at = at[hits]
            is_bare = (run[at] & _CODE) == 0
            bare[hits] |= is_bare
            labelled[hits] |= ~is_bare | _same(run, at + 1, first[hits])
            place = np.minimum(np.searchsorted(run, keys[hits]), len(run) - 1)
            exact[hits] |= run[place] == keys[hits]
        return exact, bare, labelled


def split(keys: Keys, n_ranges: int) -> list[Keys]:
    """Cut sorted keys at the same places, whatever they are: equal features stay together.

    >>> [len(part) for part in split(np.arange(8, dtype=np.uint64) << np.uint64(61), 4)]
    [2, 2, 2, 2]
    """
    step = (1 << 64) // n_ranges
    cuts = without_label(np.array([step * k for k in range(1, n_ranges)], dtype=np.uint64))
    return np.split(keys, np.searchsorted(keys, cuts))


def in_earlier(parts: Sequence[Keys]) -> list[Keys]:
    """For each part, the keys of those before it that have the features of one of its own.

    Parameters
    ----------
    parts : sequence of Keys
        Each sorted, without repeats.

    Examples
    --------
    >>> parts = [np.array(keys, dtype=np.uint64) for keys in ([0x100, 0x300], [0x101], [0x100])]
    >>> [[hex(key) for key in keys] for keys in in_earlier(parts)]
    [[], ['0x100'], ['0x100', '0x101']]
    """
    known, found = Known(), []
    for keys in parts:
        found.append(known.like(keys))
        known.add(keys)
    return found


def without_label(keys: Keys) -> Keys:
    """The keys that the same features have without a label."""
    out: Keys = keys >> _BITS << _BITS
    return out


def _same(run: Keys, at: NDArray[np.int64], first: Keys) -> Mask:
    """Whether there is a key at a place, and of the same features."""
    inside = at < len(run)
    out: Mask = inside & (without_label(run[np.where(inside, at, 0)]) == first)
    return out


def _distinct(keys: Keys) -> Keys:
    """Sorted keys, each once; np.unique would hash them, which takes a hundred times as long."""
    out: Keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    return out


def row_keys(features: Floats, target: Floats) -> Keys:
    """A key for each row, equal for equal rows, (n_rows,).

    Others have the same by chance: two of 10 million rows once in 1,400 batches. Labels that are
    no whole number from 0 to 253 share a key once in 255.

    >>> keys = row_keys(np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([7.0, np.nan]))
    >>> (keys & 255).tolist(), len(set((keys >> 8).tolist()))
    ([8, 0], 1)
    """
    labelled = np.isfinite(target)
    label = np.where(labelled, target, 0.0)
    code = (row_hashes(label[:, np.newaxis]) % np.uint64(255)) + np.uint64(1)
    plain = (label >= 0) & (label < 254) & (label == np.floor(label))
    code[plain] = label[plain].astype(np.uint64) + np.uint64(1)
    code[~labelled] = 0
    keys: Keys = (row_hashes(features) >> _BITS << _BITS) | code
    return keys


def find_repeats(features: Floats, target: Floats, known: Known) -> Found:
    """Find the repeats of a part, within it and of the parts before, and add it to these.

    Parameters
    ----------
    features : ndarray of shape (n_rows, n_features), finite
    target : ndarray of shape (n_rows,)
        NaN where there is no label.
    known : Known

    Examples
    --------
    The second row gives its label to the first, the fourth has another one.

    >>> rows, labels = np.array([[1.0], [1.0], [2.0], [1.0]]), np.array([np.nan, 7.0, 7.0, 5.0])
    >>> found = find_repeats(rows, labels, Known())
    >>> found.repeats.tolist(), found.completed_by.tolist()
    ([False, True, False, False], [1, -1, -1, -1])
    """
    keys = row_keys(features, target)
    n_rows = len(keys)
    found = Found(
        np.zeros(n_rows, dtype=bool), np.full(n_rows, -1), np.zeros(n_rows, dtype=bool), keys
    )
    ordered = np.sort(keys)
    features_of = without_label(ordered)
    twice = np.append(features_of[1:] == features_of[:-1], False)[:n_rows]
    is_known, unlabelled, labelled = known.find(ordered)
    suspects = _distinct(features_of[twice | unlabelled | labelled])
    if len(suspects):  # few rows are: to sort the numbers of all would take longer than the rest
        mine = without_label(keys)
        rows = np.flatnonzero(_same(suspects, np.searchsorted(suspects, mine), mine))
        some = _judged(keys[rows], known)
        found.repeats[rows], found.completes[rows] = some.repeats, some.completes
        of_some = some.completed_by
        found.completed_by[rows] = np.where(of_some < 0, -1, rows[of_some])
    known.add(_distinct(ordered[~is_known]))
    return found


def _judged(keys: Keys, known: Known) -> Found:
    """The same of rows of which some may be repeats.

    Of equal features, with L the first row here that has a label, and U the first that has none:

    known without a label only   U is a repeat, and L: it completes the row that is known
    known with a label           U is a repeat
    not known, U before L        L is a repeat: it completes U
    not known, L before U        U is a repeat

    And so is every row whose key was there before, here or among the known ones.
    """
    n_rows = len(keys)
    order = np.argsort(keys, kind="stable")
    is_first = np.append(True, keys[order][1:] != keys[order][:-1])
    row = order[is_first]  # the first one of each key
    distinct = keys[row]
    found = Found(
        np.ones(n_rows, dtype=bool), np.full(n_rows, -1), np.zeros(n_rows, dtype=bool), keys
    )
    found.repeats[row] = False
    is_known, known_bare, known_labelled = known.find(distinct)
    is_bare = (distinct & _CODE) == 0
    found.repeats[row[is_known | (is_bare & (known_bare | known_labelled))]] = True
    features_of = without_label(distinct)
    starts = np.flatnonzero(np.append(True, features_of[1:] != features_of[:-1]))
    known_bare, known_labelled = known_bare[starts], known_labelled[starts]
    bare = np.where(is_bare, row, n_rows)[starts]  # U of each group of equal features, and L
    labelled = np.minimum.reduceat(np.where(is_bare, n_rows, row), starts)
    completing = labelled[known_bare & ~known_labelled & (labelled < n_rows)]
    found.repeats[completing] = found.completes[completing] = True
    new = ~known_bare & ~known_labelled & (bare < n_rows) & (labelled < n_rows)
    bare, labelled = bare[new], labelled[new]
    found.repeats[np.maximum(bare, labelled)] = True
    found.completed_by[bare[bare < labelled]] = labelled[bare < labelled]
    return found
