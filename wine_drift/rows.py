"""Labelled rows: what models are trained on and compared with."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wine_drift.profile import Floats


@dataclass(frozen=True)
class LabelledRows:
    """Rows with the answer, and when they came."""

    features: Floats  # (n_rows, n_features)
    positive: NDArray[np.bool_]  # (n_rows,)
    sequence: NDArray[np.int64]  # (n_rows,); number of the batch that brought the row, 0: the table

    def __len__(self) -> int:
        return len(self.positive)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64] | slice) -> LabelledRows:
        """The chosen rows, by mask, index or slice."""
        return LabelledRows(self.features[chosen], self.positive[chosen], self.sequence[chosen])

    def newest(self, n_rows: int) -> LabelledRows:
        """The last `n_rows` in order of arrival."""
        return self.take(np.argsort(self.sequence, kind="stable")[-n_rows:])

    def groups(self) -> NDArray[np.int64]:
        """A number for each row, the same for rows with equal features.

        Kept in one fold, such rows cannot tell a model the answers that it is tested on.

        >>> features = np.array([[1.0], [2.0], [1.0]])
        >>> LabelledRows(features, np.zeros(3, bool), np.zeros(3, int)).groups().tolist()
        [0, 1, 0]
        """
        _, numbers = np.unique(self.features, axis=0, return_inverse=True)
        return np.asarray(numbers, dtype=np.int64).ravel()

    def seen_in(self, other: LabelledRows) -> NDArray[np.bool_]:
        """Rows that another set holds too, features and answer, shape (n_rows,).

        >>> a, b = (LabelledRows(np.array(x), np.zeros(2, bool), np.zeros(2, int))
        ...         for x in ([[1.0], [2.0]], [[2.0], [3.0]]))
        >>> a.seen_in(b).tolist()
        [False, True]
        """
        both = concatenate([self, other], self.features.shape[1])
        keys = np.column_stack([both.features, both.positive])
        _, numbers = np.unique(keys, axis=0, return_inverse=True)
        numbers = np.asarray(numbers).ravel()
        return np.isin(numbers[: len(self)], numbers[len(self) :])

    def distinct(self) -> LabelledRows:
        """One row for each set of features and answer, the one that came last.

        >>> rows = LabelledRows(np.array([[1.0], [1.0]]), np.zeros(2, bool), np.array([0, 5]))
        >>> rows.distinct().sequence.tolist()
        [5]
        """
        order = np.argsort(-self.sequence, kind="stable")
        keys = np.column_stack([self.features, self.positive])[order]
        _, first = np.unique(keys, axis=0, return_index=True)
        return self.take(np.sort(order[first]))

    def to_bytes(self) -> bytes:
        """As a compressed NumPy array: plain numbers, nothing that could run."""
        buffer = io.BytesIO()
        packed = np.column_stack([self.features, self.positive, self.sequence])
        np.save(buffer, packed, allow_pickle=False)
        return zlib.compress(buffer.getvalue(), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> LabelledRows:
        """Inverse of `to_bytes`.

        >>> rows = LabelledRows(np.array([[0.1, 2.0]]), np.array([True]), np.array([3]))
        >>> LabelledRows.from_bytes(rows.to_bytes()).features.tolist()
        [[0.1, 2.0]]
        """
        packed = np.load(io.BytesIO(zlib.decompress(data)), allow_pickle=False)
        return cls(packed[:, :-2], packed[:, -2].astype(bool), packed[:, -1].astype(np.int64))


def concatenate(parts: Iterable[LabelledRows], n_features: int) -> LabelledRows:
    """Put rows together in the order given; no parts give no rows."""
    parts = list(parts)
    empty = LabelledRows(np.empty((0, n_features)), np.empty(0, bool), np.empty(0, np.int64))
    return LabelledRows(
        np.concatenate([empty.features, *(part.features for part in parts)]),
        np.concatenate([empty.positive, *(part.positive for part in parts)]),
        np.concatenate([empty.sequence, *(part.sequence for part in parts)]),
    )
