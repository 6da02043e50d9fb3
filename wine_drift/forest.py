"""Scores trees as LightGBM does, to the last bit, without loading it.

Each test of a tree that a row fails rules out the leaves on its left; of the leaves that nothing
rules out, the leftmost is the one that the row falls into (Lucchese et al., 2015, QuickScorer,
SIGIR). So the thresholds of a feature, of all trees together, cut its values into bins, and for
each bin it is known which leaves of which tree are left. A category is a bin, and what is in no
split has one together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats

MOST_BYTES = 1 << 26  # of masks; they grow with the square of the trees
_BLOCK = 1 << 18  # masks at a time, which stay in a processor's cache
_WORDS = (np.uint16, np.uint32, np.uint64)  # a bit for each leaf of a tree
# bits of LightGBM's decision_type: by category, what is missing, ...
_BY_CATEGORY, _LEFT_IF_MISSING, _MISSING = 1, 2, 12
_ZERO = float(np.float32(1e-35))  # what is no further from 0 is 0 to it
_NOTHING, _NAN = 0, 8  # ... by the kinds that are covered: NaN counts as 0, or is missing


@dataclass(frozen=True)
class Forest:
    """Trees as masks."""

    thresholds: tuple[Floats, ...]  # of each feature, ascending, each once; or its categories
    masks: tuple[NDArray[Any], ...]  # (n_thresholds + 2, n_trees): of each bin, then of NaN
    values: Floats  # (n_trees, n_leaves), 0 where a tree has fewer

    def score(self, features: Floats) -> Floats:
        """Probability of a positive, (n_rows,), for features of shape (n_rows, n_features).

        Categories are whole numbers from 0 on.
        """
        with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0, as it should be
            scores: Floats = 1 / (1 + np.exp(-self.log_odds(features)))
        return scores

    def log_odds(self, features: Floats) -> Floats:
        """Sum of the leaves that each row falls into, (n_rows,), tree after tree.

        One thread: the steps are so short that two would wait for each other.
        """
        size = max(1, _BLOCK // len(self.values))
        blocks = [features[start : start + size] for start in range(0, len(features), size)]
        return np.concatenate([np.empty(0), *map(self._sum, blocks)])

    def _sum(self, block: Floats) -> Floats:
        n_rows, n_trees = len(block), len(self.values)
        left = np.full((n_rows, n_trees), ~self.masks[0].dtype.type(0))
        here = np.empty_like(left)
        for j, (thresholds, masks) in enumerate(zip(self.thresholds, self.masks, strict=True)):
            if len(thresholds):
                values = np.where(np.abs(block[:, j]) <= _ZERO, 0.0, block[:, j])
                bins = np.searchsorted(thresholds, values)
                bins[np.isnan(values)] = len(thresholds) + 1
                left &= np.take(masks, bins, axis=0, out=here, mode="clip")
        total = np.zeros(n_rows)
        leaves = np.ascontiguousarray(_lowest_bit(left).T)
        for of_leaf, leaf in zip(self.values, leaves, strict=True):
            total += of_leaf.take(leaf)  # in the order of the trees, which decides the last bit
        return total


def read_forest(text: str) -> Forest | None:
    """Read LightGBM's text of a binary classifier.

    Returns
    -------
    Forest or None
        None for what is not covered: trees of more than 64 leaves or of linear leaves, a feature
        that is split by category and by size, zeros that stand for what is missing, a mean of
        trees, another link than the logistic one, or masks of more than 64 MB.

    Raises
    ------
    ValueError, KeyError, IndexError
        It is no such text.

    Examples
    --------
    Two features, one tree: column 0 above 5 gives 2, else column 1 above 1 gives 1, else 0.

    >>> text = '''max_feature_idx=1
    ... objective=binary sigmoid:1
    ...
    ... Tree=0
    ... num_leaves=3
    ... num_cat=0
    ... split_feature=0 1
    ... threshold=5 1
    ... decision_type=2 2
    ... left_child=1 -1
    ... right_child=-2 -3
    ... leaf_value=0 2 1
    ... is_linear=0
    ...
    ...
    ... end of trees
    ... '''
    >>> read_forest(text).log_odds(np.array([[6.0, 0.0], [5.0, 2.0], [5.0, 1.0]])).tolist()
    [2.0, 1.0, 0.0]
    """
    head, *trees = re.split(r"\nTree=\d+\n", text.partition("\nend of trees")[0])
    header = _values(head)
    if header["objective"] != "binary sigmoid:1" or "average_output" in head.split("\n"):
        return None
    n_features = int(header["max_feature_idx"]) + 1
    read = [_Tree.read(_values(tree)) for tree in trees]
    if not (read and all(tree.is_covered for tree in read)):
        return None
    return _masked(read, n_features)


@dataclass(frozen=True)
class _Tree:
    """Of each inner node, in LightGBM's order: parents first."""

    is_plain: bool
    threshold: Floats
    feature: NDArray[np.int64]
    kind: NDArray[np.int64]
    left: NDArray[np.int64]  # the node on the left; -1 - i for leaf i
    right: NDArray[np.int64]
    values: Floats  # of the leaves
    sets: tuple[NDArray[np.int64], ...]  # categories on the left, of the splits by category in turn

    @classmethod
    def read(cls, lines: Mapping[str, str]) -> _Tree:
        values = np.array(lines["leaf_value"].split(), dtype=float)
        keys = ("threshold", "split_feature", "decision_type", "left_child", "right_child")
        parts = [lines[key].split() for key in keys]
        feature, kind, left, right = (np.array(part, dtype=int) for part in parts[1:])
        words = np.array(lines.get("cat_threshold", "").split(), dtype="<u4")
        ends = [int(end) for end in lines.get("cat_boundaries", "0").split()]
        sets = [
            np.flatnonzero(np.unpackbits(words[start:end].view(np.uint8), bitorder="little"))
            for start, end in pairwise(ends)
        ]
        return cls(
            lines.get("is_linear", "0") == "0",
            np.array(parts[0], dtype=float),
            feature,
            kind,
            left,
            right,
            values,
            tuple(sets),
        )

    @property
    def is_covered(self) -> bool:
        """Whether masks can stand for it."""
        few = len(self.values) <= 8 * _WORDS[-1]().itemsize
        known = np.isin(self.kind & _MISSING, (_NOTHING, _NAN)) | self.is_by_category
        return self.is_plain and few and bool(known.all())

    @property
    def is_by_category(self) -> NDArray[np.bool_]:
        """Whether each node asks for categories, and its threshold is the number of their set."""
        return (self.kind & _BY_CATEGORY) > 0

    @property
    def goes_right(self) -> NDArray[np.bool_]:
        """Whether a missing value fails the test of each node."""
        as_missing = (self.kind & _LEFT_IF_MISSING) == 0
        return np.where(self.kind & _MISSING == _NAN, as_missing, self.threshold < 0)

    def leaves(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Its leaves from left to right; of each node, from where to where its left ones go."""
        order: list[int] = []
        spans = [(0, 0)] * len(self.feature)
        todo: list[tuple[int, int | None]] = [(0 if len(self.feature) else -1, None)]
        while todo:  # a tree may be as deep as it has leaves
            node, start = todo.pop()
            if node < 0:
                order.append(-1 - node)
            elif start is None:
                todo += [(int(self.right[node]), None), (node, len(order))]
                todo.append((int(self.left[node]), None))
            else:
                spans[node] = (start, len(order))
        return order, spans


def _masked(trees: list[_Tree], n_features: int) -> Forest | None:
    """The masks of all bins of all features."""
    most = max(len(tree.values) for tree in trees)
    word = next(word for word in _WORDS if most <= 8 * word().itemsize)
    thresholds: list[Floats] = []
    by_category = np.concatenate([tree.is_by_category for tree in trees])
    all_features = np.concatenate([tree.feature for tree in trees])
    all_thresholds = np.concatenate([tree.threshold for tree in trees])
    n_categories = _n_categories(trees, n_features)
    for j in range(n_features):
        here = all_features == j
        if by_category[here].any() and not by_category[here].all():
            return None
        found = np.arange(n_categories[j]) if n_categories[j] else all_thresholds[here]
        thresholds.append(np.unique(found).astype(float))
    n_masks = sum(len(each) + 2 for each in thresholds) * len(trees)
    if n_masks * word().itemsize > MOST_BYTES:
        return None
    every = ~word(0)
    masks = [np.full((len(each) + 2, len(trees)), every) for each in thresholds]
    values = np.zeros((len(trees), most))
    for t, tree in enumerate(trees):
        order, spans = tree.leaves()
        values[t, : len(order)] = tree.values[order]
        nodes = zip(tree.feature, tree.threshold, tree.goes_right, spans, strict=True)
        for j, threshold, missing_goes_right, (start, end) in nodes:
            kept = every ^ word((1 << end) - (1 << start))
            if n_categories[j]:
                others = np.ones(len(masks[j]), dtype=bool)
                others[tree.sets[int(threshold)]] = False
                masks[j][others, t] &= kept
                continue
            masks[j][np.searchsorted(thresholds[j], threshold) + 1, t] &= kept
            if missing_goes_right:
                masks[j][-1, t] &= kept
    for each, n in zip(masks, n_categories, strict=True):
        if not n:  # a value fails all tests with a threshold below it
            np.bitwise_and.accumulate(each[:-1], axis=0, out=each[:-1])
    return Forest(tuple(thresholds), tuple(masks), values)


def _n_categories(trees: list[_Tree], n_features: int) -> list[int]:
    """Of each feature that is split by category, one more than the largest; else 0."""
    found = [0] * n_features
    for tree in trees:
        for node in np.flatnonzero(tree.is_by_category).tolist():
            j, categories = int(tree.feature[node]), tree.sets[int(tree.threshold[node])]
            found[j] = max(found[j], int(categories.max(initial=0)) + 1)
    return found


def _lowest_bit(words: NDArray[Any]) -> NDArray[np.uint8]:
    """Place of the lowest bit that is set, of each word."""
    lowest = (words & -words).astype(np.float32)  # a power of two: its exponent tells
    out: NDArray[np.uint8] = ((lowest.view(np.int32) >> 23) - 127).astype(np.uint8)
    return out


def _values(lines: str) -> dict[str, str]:
    """The `key=value` lines of a text."""
    return dict(line.split("=", 1) for line in lines.split("\n") if "=" in line)
