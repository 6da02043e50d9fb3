"""Labelled rows: what models are trained on and compared with."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats

SHARD_ROWS = (
    1 << 16
)  # labelled rows of a batch from which on they go into files, about so many each
_MANY = 10_000  # rows; to pack them well takes longer than to score them


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

    def last(self, n_rows: int) -> LabelledRows:
        """The last `n_rows` as they stand."""
        return self.take(slice(max(len(self) - n_rows, 0), None))

    def copy(self) -> LabelledRows:
        """The same rows, which keep no others from being forgotten."""
        return LabelledRows(self.features.copy(), self.positive.copy(), self.sequence.copy())

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
        """Rows that another set holds too, features and answer, (n_rows,).

        >>> a, b = (LabelledRows(np.array(x), np.zeros(2, bool), np.zeros(2, int))
        ...         for x in ([[1.0], [2.0]], [[2.0], [3.0]]))
        >>> a.seen_in(b).tolist()
        [False, True]
        """
        found = self.like(other)  # few, as a rule
        ours, theirs = (
            np.column_stack([r.features, r.positive]) for r in (self.take(found), other)
        )
        found[found] = among(ours, theirs)
        return found

    def like(self, other: LabelledRows) -> NDArray[np.bool_]:
        """Rows with the features of a row of another set, whatever the answer, (n_rows,)."""
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
        return zlib.compress(buffer.getvalue(), 6 if len(self) < _MANY else 1)

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
class Shard:
    """A file of labelled rows, which never changes."""

    name: str
    n_rows: int
    n_positive: int
    newest: int  # number of the youngest batch in it
    sha256: str  # of its bytes, hexadecimal


def listed(shards: Iterable[Shard]) -> list[list[str | int]]:
    """As lists, for JSON; `shards_of` is its inverse.

    >>> shards_of(listed([Shard("a", 3, 1, 7, "00")]))
    (Shard(name='a', n_rows=3, n_positive=1, newest=7, sha256='00'),)
    """
    return [list(vars(shard).values()) for shard in shards]


def shards_of(lists: Iterable[Iterable[Any]]) -> tuple[Shard, ...]:
    """Inverse of `listed`.

    Raises
    ------
    TypeError
        These are no such lists.
    """
    return tuple(Shard(*each) for each in lists)


@dataclass(frozen=True)
class Lot:
    """Labelled rows: in hand, or in shards if they are too many for that."""

    rows: LabelledRows
    shards: tuple[Shard, ...] = ()  # then there are no `rows`

    @property
    def n_rows(self) -> int:
        """Rows, wherever they are."""
        return len(self.rows) + sum(shard.n_rows for shard in self.shards)

    @property
    def n_positive(self) -> int:
        """Positive ones among them."""
        return int(self.rows.positive.sum()) + sum(shard.n_positive for shard in self.shards)

    @property
    def newest(self) -> int:
        """Number of the youngest batch that they are of; 0: of none, but of a table."""
        numbers = [shard.newest for shard in self.shards]
        return max([*numbers, int(self.rows.sequence.max(initial=0))])


@dataclass(frozen=True)
class ScoredRows:
    """Rows of a batch as they were scored, kept until their labels come."""

    position: NDArray[np.int64]  # (n_scored,); number of the row in the batch, from 0
    scores: Floats  # (n_scored,), by the champion of that time; none once no row waits
    positive: Floats  # (n_scored,); 1, 0, or NaN where the label is not known yet
    features: Floats  # (n_kept, n_features) of the last n_kept of these rows
    batch_rows: int  # rows of the batch as it arrived
    ids: tuple[str, ...]  # of the batch's last rows, of all if all were kept; () without names

    def __len__(self) -> int:
        return len(self.position)

    @property
    def n_waiting(self) -> int:
        """Rows without a label."""
        return int(np.isnan(self.positive).sum())

    def shortened(self, n_kept: int) -> ScoredRows:
        """The same with what late labels need: nothing but the labels if no row waits for one.

        Else the scores, and the features of the last `n_kept` rows at most.
        """
        kept = min(n_kept, len(self.features)) if self.n_waiting else 0
        scores = self.scores if self.n_waiting else self.scores[:0]
        return replace(self, scores=scores, features=self.features[len(self.features) - kept :])

    def last(self, n_rows: int) -> ScoredRows:
        """The last `n_rows` of them, and the names of the batch's rows from there on."""
        first = max(len(self) - n_rows, 0)
        named_from = int(self.position[first]) - self.batch_rows
        return replace(
            self,
            position=self.position[first:],
            scores=self.scores[first:],
            positive=self.positive[first:],
            features=self.features[max(len(self.features) - n_rows, 0) :],
            ids=self.ids[named_from:],
        )

    def to_bytes(self) -> bytes:
        """As NumPy arrays: plain numbers and texts, nothing that could run."""
        buffer = io.BytesIO()
        there = np.zeros(self.batch_rows, dtype=bool)
        there[self.position] = True
        save = np.savez_compressed if len(self) < _MANY else np.savez
        save(
            buffer,
            there=np.packbits(there),
            scores=self.scores,
            answers=np.where(np.isnan(self.positive), -1, self.positive).astype(np.int8),
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
            batch_rows = int(arrays["batch_rows"])
            if "position" in arrays:  # as an earlier release wrote it
                position, positive = arrays["position"], arrays["positive"]
            else:
                there = np.unpackbits(arrays["there"], count=batch_rows)
                position, answers = np.flatnonzero(there), arrays["answers"].astype(float)
                positive = np.where(answers < 0, np.nan, answers)
            return cls(
                position,
                arrays["scores"],
                positive,
                arrays["features"],
                batch_rows,
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


def concatenate_scored(parts: Sequence[ScoredRows], batch_rows: int) -> ScoredRows:
    """Put the last parts of a batch together; features are kept as far back as there are any.

    >>> part = ScoredRows(np.array([1]), np.array([0.5]), np.array([1.0]), np.ones((1, 1)), 3, ())
    >>> concatenate_scored([part, part], 9).position.tolist()
    [4, 7]
    """
    starts = batch_rows - np.cumsum([part.batch_rows for part in reversed(parts)])[::-1]
    kept = list(parts)
    for k in range(len(parts) - 1, 0, -1):
        if len(parts[k].features) < len(parts[k]):  # those before it are not the last ones
            kept = list(parts[k:])
            break
    return ScoredRows(
        np.concatenate([part.position + at for part, at in zip(parts, starts, strict=True)]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.positive for part in parts]).astype(float),
        np.concatenate([part.features for part in kept]),
        batch_rows,
        tuple(name for part in parts for name in part.ids) if all(p.ids for p in parts) else (),
    )


def among(rows: Floats, others: Floats) -> NDArray[np.bool_]:
    """Rows that another set holds too, (n_rows,); both without NaN.

    >>> among(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[3.0, 4.0]])).tolist()
    [False, True]
    """
    mine, theirs = row_hashes(rows), np.sort(row_hashes(others))
    found = np.zeros(len(rows), dtype=bool)
    if len(theirs):
        found = theirs[np.minimum(np.searchsorted(theirs, mine), len(theirs) - 1)] == mine
    for column in range(rows.shape[1]):  # sorting only those that can be the same: far fewer
        others = others[np.isin(others[:, column], rows[found, column])]
    _, numbers = np.unique(np.concatenate([rows[found], others]), axis=0, return_inverse=True)
    numbers, n_found = np.asarray(numbers).ravel(), int(found.sum())
    found[found] = np.isin(numbers[:n_found], numbers[n_found:])
    return found


def row_hashes(rows: Floats) -> NDArray[np.uint64]:
    """A number for each row, (n_rows,), equal for equal rows, and hardly ever for others."""
    keys = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):
        bits = (rows[:, column] + 0.0).view(np.uint64)  # + 0.0: -0 is 0
        keys = (keys ^ bits) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing
        keys ^= keys >> np.uint64(32)
    return keys


def evenly(hashes: NDArray[np.uint64]) -> Floats:
    """A number in [0, 1) for each hash, spread evenly whatever the rows are.

    The finisher of SplitMix64 (Steele, Lea and Flood, 2014, OOPSLA), of which 53 bits are kept.
    """
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    numbers: Floats = (mixed >> np.uint64(11)).astype(float) / 2.0**53
    return numbers
