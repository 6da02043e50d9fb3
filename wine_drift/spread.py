"""Lessons of more rows than one machine holds: they stay in shards, and a cluster learns from them.

The gate's rows come here, bounded. No row like one that is held out is trained on, and one that the
champion was trained on is not compared on: both are found where the rows are, by their hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.errors import StateUnreadable
from wine_drift.gate import Forgetting
from wine_drift.model import Model, Version, compared_model
from wine_drift.recipes import RECIPES, Training, decayed
from wine_drift.retraining import GATE_FOLDS, GATE_ROWS, Fold, Learnt, gate_folds, gate_share, tells
from wine_drift.rows import LabelledRows, Shard, concatenate, evenly, row_hashes
from wine_drift.schema import Schema
from wine_drift.shards import read_shard
from wine_drift.shelf import Place

SAMPLE_ROWS = 1 << 16  # of what a version was trained on, kept with it

Hashes = NDArray[np.uint64]


class Trainers(Protocol):
    """Calls functions elsewhere, and trains where the rows are; see `cluster.Cluster`."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have it called; what it gives stays there, and can be an argument of another call."""

    def result(self, future: Any) -> Any:
        """Wait for what it gives, or raises, and bring it here."""

    def train(
        self,
        parts: Sequence[Any],
        lengths: Sequence[int],
        n_features: int,
        *,
        rounds: int,
        seed: int,
        categorical: Sequence[int],
    ) -> str:
        """Train on parts that are there, each features, answers and weights; gives the text."""


class Spread:
    """Lessons of rows in shards.

    Of many recent rows a share is held out, once, and the model that was tested is the one that
    would serve. If there are too few for that, they are cut into folds as at home.

    Parameters
    ----------
    trainers : Trainers
    place : Place
        Where versions and shards are.
    champion : Version
    old, new, recent : sequence of Shard
        What the champion was trained on; what is new to it; and what of that the gate looks at.
    continued_from : int
        Number of the batch from which on rows are what `continue` and `refit` learn from.
    most : int
        Rows that may be in hand.
    """

    def __init__(
        self,
        trainers: Trainers,
        place: Place,
        champion: Version,
        schema: Schema,
        how: Training,
        *,
        old: Sequence[Shard],
        new: Sequence[Shard],
        recent: Sequence[Shard],
        continued_from: int,
        most: int,
    ) -> None:
        self._trainers, self._place, self._how = trainers, place, how
        self._champion, self._schema = champion, schema
        self._old, self._new, self._late = old, new, recent
        self._continued_from, self._most = continued_from, most

    @property
    def _all(self) -> list[Shard]:
        return [*self._old, *self._new, *self._late]

    @property
    def _is_folded(self) -> bool:
        return _size(self._late) <= GATE_ROWS

    @cached_property
    def recent(self) -> LabelledRows:
        """See `Lessons`: those whose hashes are the lowest, if there are too many."""
        rows = self._gate_rows()
        if not self._schema.reject_duplicates:
            return rows
        hashes = _answered(rows)
        asked = np.unique(hashes)
        known = [
            self._trainers.submit(_known, self._place, shard, asked)
            for shard in (*self._old, *self._new)
        ]
        seen = np.concatenate([asked[:0], *map(self._trainers.result, known)])
        return rows.take(~np.isin(hashes, seen)).distinct()

    def _gate_rows(self) -> LabelledRows:
        most = GATE_FOLDS * GATE_ROWS
        if self._is_folded:
            return self._sample(self._late, 1.0, most)
        rows = self._sample(self._late, gate_share(_size(self._late)), most)
        return rows if tells(rows) else self._sample(self._late, 1 / GATE_FOLDS, most)

    def folds(self) -> Sequence[Fold]:
        """See `Lessons`."""
        return gate_folds(self.recent, self._how.seed, is_folded=self._is_folded)

    def train(self, recipe: str, fold: Fold) -> Model:
        """See `Lessons`."""
        return self._train(recipe, np.unique(row_hashes(self.recent.features[fold[1]])))

    def train_to_serve(self, recipe: str, tested: Sequence[Model]) -> Model:
        """See `Lessons`: on everything, or the one that was tested, which has seen nearly all."""
        return self._train(recipe, _NONE) if self._is_folded else tested[0]

    def learnt(self) -> Learnt:
        """See `Lessons`: all that there is, held out or not; of the rows there is a sample."""
        shards = self._all
        return Learnt(
            _size(shards),
            sum(shard.n_positive for shard in shards),
            self._sample(shards, SAMPLE_ROWS / _size(shards), 2 * SAMPLE_ROWS),
            tuple(shards),
        )

    def forgetting(self, recipe: str) -> Forgetting | None:
        """Not told: it takes four more trainings."""
        return None

    def _train(self, recipe: str, without: Hashes) -> Model:
        how = self._how
        if recipe != "scratch":
            there = [shard for shard in self._all if shard.newest >= self._continued_from]
            share = self._most / max(_size(there), 1)
            rows = self._sample(there, share, self._most, since=self._continued_from)
            rows = rows.take(~np.isin(row_hashes(rows.features), without))
            nothing = rows.take(slice(0, 0))
            return RECIPES[recipe](self._champion.scratch_base, nothing, rows, how)
        newest = max(shard.newest for shard in self._all)
        parts = [
            self._trainers.submit(_lesson, self._place, shard, without, newest, how.half_life)
            for shard in self._all
        ]
        sizes = [self._trainers.submit(_n_rows, part) for part in parts]
        text = self._trainers.train(
            parts,
            [self._trainers.result(size) for size in sizes],
            self.recent.features.shape[1],
            rounds=how.rounds,
            seed=how.seed,
            categorical=how.categorical,
        )
        return compared_model(text, self.recent.features, threads=how.threads)

    def _sample(
        self, shards: Sequence[Shard], share: float, most: int, *, since: int = 0
    ) -> LabelledRows:
        """A share of the rows, not many more than `most`, chosen by hashes of their features."""
        total = max(_size(shards), 1)
        there = [
            self._trainers.submit(
                _sampled, self._place, shard, share, -(-most * shard.n_rows // total), since
            )
            for shard in shards
        ]
        n_features = self._champion.rows.features.shape[1]
        return concatenate(map(self._trainers.result, there), n_features)


_NONE: Hashes = np.empty(0, dtype=np.uint64)


def _size(shards: Sequence[Shard]) -> int:
    return sum(shard.n_rows for shard in shards)


def _answered(rows: LabelledRows) -> Hashes:
    return row_hashes(np.column_stack([rows.features, rows.positive]))


# --- what is done where the rows are ---


def _read(place: Place, shard: Shard) -> LabelledRows:
    try:
        return read_shard(place, shard)
    except StateUnreadable as error:
        raise StateUnreadable(
            f"a worker of the cluster: {error}; all of them must reach what `models` names",
            remedy=error.remedy,
        ) from error


def _sampled(place: Place, shard: Shard, share: float, most: int, since: int) -> LabelledRows:
    rows = _read(place, shard)
    chosen = rows.sequence >= since
    if share < 1:
        chosen &= evenly(row_hashes(rows.features)) < share
    return rows.take(np.flatnonzero(chosen)[:most])


def _known(place: Place, shard: Shard, asked: Hashes) -> Hashes:
    """Those of the hashes that a row of a shard has, features and answer."""
    return np.intersect1d(asked, _answered(_read(place, shard)))


def _lesson(
    place: Place, shard: Shard, without: Hashes, newest: int, half_life: float
) -> tuple[Floats, Floats, Floats]:
    """Features, answers and weights of the rows of a shard, but for those held out."""
    rows = _read(place, shard)
    rows = rows.take(~np.isin(row_hashes(rows.features), without))
    weights = decayed(rows.sequence, half_life, newest=newest)
    return rows.features, rows.positive.astype(float), weights


def _n_rows(lesson: tuple[Floats, Floats, Floats]) -> int:
    return len(lesson[1])
