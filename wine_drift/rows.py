"""Labelled rows: what models are trained on and compared with."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

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
        first = max(len(self) - n_rows, 0)
        return self.take(np.argsort(self.sequence, kind="stable")[first:])

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
        ours, theirs = (np.column_stack([r.features, r.positive]) for r in (self, other))
        return among(ours, theirs)

    def like(self, other: LabelledRows) -> NDArray[np.bool_]:
        """Rows with the features of a row of another set, whatever the answer, shape (n_rows,)."""
        return among(self.features, other.features)

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

    def digest(self) -> str:
        """SHA-256 of what the rows hold, in hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self._packed()).tobytes()).hexdigest()

    def _packed(self) -> Floats:
        packed: Floats = np.column_stack([self.features, self.positive, self.sequence])
        return packed

    def to_bytes(self) -> bytes:
        """As a compressed NumPy array: plain numbers, nothing that could run."""
        buffer = io.BytesIO()
        np.save(buffer, self._packed(), allow_pickle=False)
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


@dataclass(frozen=True)
class ScoredRows:
    """Rows of a batch as they were scored, kept until their labels come."""

    position: NDArray[np.int64]  # (n_scored,); number of the row in the batch, from 0
    scores: Floats  # (n_scored,), by the champion of that time
    positive: Floats  # (n_scored,); 1, 0, or NaN where the label is not known yet
    features: Floats  # (n_kept, n_features) of the last n_kept of these rows
    batch_rows: int  # rows of the batch as it arrived
    ids: tuple[str, ...]  # of the batch_rows rows; () where they have no names

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def n_waiting(self) -> int:
        """Rows without a label."""
        return int(np.isnan(self.positive).sum())

    def shortened(self, n_kept: int) -> ScoredRows:
        """The same with the features of the last `n_kept` rows at most, and none if none waits."""
        kept = min(n_kept, len(self.features)) if self.n_waiting else 0
        return replace(self, features=self.features[len(self.features) - kept :])

    def to_bytes(self) -> bytes:
        """As compressed NumPy arrays: plain numbers and texts, nothing that could run."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            position=self.position,
            scores=self.scores,
            positive=self.positive,
            features=self.features,
            batch_rows=np.array(self.batch_rows),
            ids=np.frombuffer(json.dumps(self.ids).encode(), dtype=np.uint8),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> ScoredRows:
        """Inverse of `to_bytes`.

        >>> rows = ScoredRows(np.array([0, 2]), np.array([0.1, 0.7]), np.array([1.0, np.nan]),
        ...                   np.array([[3.5]]), 3, ("a", "b", "c"))
        >>> again = ScoredRows.from_bytes(rows.to_bytes())
        >>> again.n_waiting, again.batch_rows, again.ids
        (1, 3, ('a', 'b', 'c'))
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(
                arrays["position"],
                arrays["scores"],
                arrays["positive"],
                arrays["features"],
                int(arrays["batch_rows"]),
                tuple(json.loads(arrays["ids"].tobytes())),
            )


def concatenate(parts: Iterable[LabelledRows], n_features: int) -> LabelledRows:
    """Put rows together in the order given; no parts give no rows."""
    parts = list(parts)
    empty = LabelledRows(np.empty((0, n_features)), np.empty(0, bool), np.empty(0, np.int64))
    return LabelledRows(
        np.concatenate([empty.features, *(part.features for part in parts)]),
        np.concatenate([empty.positive, *(part.positive for part in parts)]),
        np.concatenate([empty.sequence, *(part.sequence for part in parts)]),
    )


def among(rows: Floats, others: Floats) -> NDArray[np.bool_]:
    """Rows that another set holds too, (n_rows,); both without NaN.

    >>> among(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[3.0, 4.0]])).tolist()
    [False, True]
    """
    found = np.isin(_keys(rows), _keys(others))
    for column in range(rows.shape[1]):  # sorting only those that can be the same: far fewer
        others = others[np.isin(others[:, column], rows[found, column])]
    _, numbers = np.unique(np.concatenate([rows[found], others]), axis=0, return_inverse=True)
    numbers, n_found = np.asarray(numbers).ravel(), int(found.sum())
    found[found] = np.isin(numbers[:n_found], numbers[n_found:])
    return found


def repeats(rows: Floats) -> NDArray[np.bool_]:
    """Rows that equal an earlier one, (n_rows,); without NaN.

    >>> repeats(np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]])).tolist()
    [False, False, True]
    """
    _, numbers, times = np.unique(_keys(rows), return_inverse=True, return_counts=True)
    found = times[numbers] > 1
    _, first = np.unique(rows[found], axis=0, return_index=True)
    found[np.flatnonzero(found)[first]] = False
    return found


def _keys(rows: Floats) -> NDArray[np.uint64]:
    """A number for each row, equal for equal rows, and hardly ever for others."""
    keys = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):
        bits = (rows[:, column] + 0.0).view(np.uint64)  # + 0.0: -0 is 0
        keys = (keys ^ bits) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing
        keys ^= keys >> np.uint64(32)
    return keys
