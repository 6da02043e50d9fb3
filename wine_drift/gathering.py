"""The parts of a batch: each counted by itself, then put together in their order.

A batch in one piece is one part. Whatever is judged or published comes out the same however a batch
was cut, and what is kept of its rows is bounded, so memory does not grow with them.

Only repeats reach over parts. A row that was seen before is set aside; if it has the label that the
earlier one lacks, it *completes* that one, which was counted without a label and now has one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.errors import BadBatch
from wine_drift.frame import Frame
from wine_drift.measurement import Tally, tally
from wine_drift.reference import Reference
from wine_drift.repeats import Keys, Known, without_label
from wine_drift.rows import (
    SHARD_ROWS,
    LabelledRows,
    Lot,
    ScoredRows,
    Shard,
    concatenate,
    concatenate_scored,
)
from wine_drift.schema import Schema
from wine_drift.screening import (
    SET_ASIDE,
    Screened,
    refuse_texts,
    row_names,
    screen,
    set_aside_rows,
    take,
)

Line = tuple[object, ...]  # of a CSV file
Keep = Callable[[Sequence[Line]], None]
Stage = Callable[[str], AbstractContextManager[None]]


class Spill(Protocol):
    """Where labelled rows go that are too many to be held."""

    def write(self, rows: LabelledRows) -> Shard:
        """Put rows into a file of their own."""

    def remove(self, shard: Shard) -> None:
        """Remove one of these files."""


@dataclass(frozen=True)
class Yardstick:
    """What rows are scored and counted with."""

    schema: Schema
    score: Callable[[Floats], Floats]  # (n_rows, n_features) -> (n_rows,)
    reference: Reference
    training_rows: LabelledRows
    cut: float  # score from which a row is predicted positive
    row_id: str | None  # column that names rows
    window_rows: int  # labelled rows, and features of scored ones, that are kept: the last ones
    waiting_rows: int  # scored rows that are kept: the last ones


@dataclass(frozen=True)
class Told:
    """What there is to tell of a part besides its counts and its good rows."""

    n_rows: int
    texts: tuple[tuple[int, str] | None, ...]  # of each feature: row and cell of the first text
    seen: int  # labelled good rows that the model was trained on
    completing_keys: Keys  # (n_completing,), of repeats that complete a row of an earlier part
    completing_positive: NDArray[np.bool_]  # (n_completing,), these labels
    names: tuple[str, ...]  # of the columns, as they came
    set_aside: tuple[Line, ...]  # rows as they came, each with its number, reason and column


@dataclass(frozen=True)
class Part:
    """What one part gives; rows have their numbers within it."""

    counted: Tally
    told: Told
    fresh: LabelledRows  # labelled good rows that are new to the model, the last ones
    scored: ScoredRows
    keys: Keys  # (n_scored,), of the scored rows; none if all of them have labels


def untimed(_: str) -> AbstractContextManager[None]:
    """A stage whose time nobody takes."""
    return contextlib.nullcontext()


def count_part(
    frame: Frame,
    yardstick: Yardstick,
    known: Known,
    stage: Stage = untimed,
) -> Part:
    """Screen a part, score its good rows, and count them.

    Parameters
    ----------
    frame : Frame
        As it was read.
    yardstick : Yardstick
    known : Known
        Keys of the rows of earlier parts; those of this one are added.
    stage : callable
        Holds while a stage lasts that it is told the name of: to time it, say.

    Raises
    ------
    BadBatch
        The file as a whole cannot be used.
    """
    screened = screen_part(frame, yardstick, known, stage)
    return count_screened(frame, screened, yardstick, stage)


def screen_part(
    frame: Frame, yardstick: Yardstick, known: Known, stage: Stage = untimed
) -> Screened:
    """The half of `count_part` that knows the parts before this one."""
    with stage("screen"):
        return screen(frame, yardstick.schema, whole_file=False, known=known)


def count_screened(
    frame: Frame, screened: Screened, yardstick: Yardstick, stage: Stage = untimed
) -> Part:
    """The other half, which knows no other part."""
    with stage("score"):
        good, completes = screened.accepted, screened.completes
        scores = np.full(len(good), np.nan)
        scores[good | completes] = yardstick.score(take(screened.features, good | completes))
    with stage("measure"):
        return _part(frame, screened, scores, yardstick)


def _part(frame: Frame, screened: Screened, scores: Floats, yardstick: Yardstick) -> Part:
    """What there is to tell of a part once it is scored."""
    schema, good, completes = yardstick.schema, screened.accepted, screened.completes
    positive, brings = schema.is_positive(screened.target), screened.brings_label
    fresh = LabelledRows(
        take(screened.features, brings),
        positive[brings],
        np.zeros(int(brings.sum()), dtype=np.int64),
    )
    n_labelled = len(fresh)
    if schema.reject_duplicates:  # elsewhere equal rows are separate observations
        fresh = fresh.take(~fresh.seen_in(yardstick.training_rows))
    scored = ScoredRows(
        position=np.flatnonzero(good).astype(np.int32),
        scores=scores[good],
        positive=np.where(screened.labelled, positive, np.float32(np.nan))[good],
        features=screened.features[np.flatnonzero(good)[-yardstick.window_rows :]],
        batch_rows=len(good),
        ids=row_names(frame, yardstick.row_id),
    )
    return Part(
        counted=tally(screened, scores, schema, yardstick.reference, cut=yardstick.cut),
        told=Told(
            n_rows=len(good),
            texts=screened.texts,
            seen=n_labelled - len(fresh),
            completing_keys=screened.keys[completes],
            completing_positive=positive[completes],
            names=tuple(frame.columns),
            set_aside=tuple(set_aside_rows(frame, screened, schema)),
        ),
        fresh=fresh.last(yardstick.window_rows).copy(),
        scored=scored,
        keys=screened.keys[good] if scored.n_waiting else screened.keys[:0].copy(),
    )


@dataclass(frozen=True)
class Gathered:
    """What all parts of a batch give together."""

    counted: Tally
    fresh: Lot  # labelled good rows that are new to the model, the last ones
    seen: int  # labelled good rows that it was trained on
    scored: ScoredRows  # the last ones


class Gatherer:
    """Puts parts together in the order of the batch."""

    def __init__(self, yardstick: Yardstick, keep: Keep, spill: Spill) -> None:
        """Start with nothing; `keep` gets the lines of rows that are set aside, names first."""
        self._yardstick, self._keep, self._spill = yardstick, keep, spill
        self._n_rows = 0
        self._file, self._file_start = "", 0  # the one in hand, and rows before it
        self._tallies: list[tuple[int, Tally]] = []  # and of how many parts each is
        n_features = len(yardstick.schema.features)
        self._texts: list[tuple[int, str] | None] = [None] * n_features
        self._text_files = [""] * n_features  # of each of these
        self._fresh: list[LabelledRows] = []
        self._shards: list[Shard] = []  # of the rows before these
        self._seen = 0
        self._scored: list[ScoredRows] = []
        self._keys: list[Keys] = []
        self._names: tuple[str, ...] = ()  # of the columns, once they are written

    def begin(self, file: str) -> None:
        """What comes next is of another file: where one is told of, it is named."""
        self._file, self._file_start = file, self._n_rows

    def add(self, part: Part) -> None:
        """Add the next part."""
        self.tell(part.told)
        self.count(part.counted)
        self.learn(part.fresh)
        self.wait(part.scored, part.keys)

    def tell(self, told: Told) -> None:
        """Add what there is to tell of the next part."""
        if told.set_aside:
            self._set_aside(told)
        for j, text in enumerate(told.texts):
            if self._texts[j] is None and text is not None:
                self._texts[j] = self._n_rows - self._file_start + text[0], text[1]
                self._text_files[j] = self._file
        if len(told.completing_keys):
            self._complete(told)
        self._n_rows += told.n_rows
        self._seen += told.seen

    def count(self, counted: Tally) -> None:
        """Add the counts of a part, or of several."""
        self._tallies.append((1, counted))
        while len(self._tallies) > 1 and self._tallies[-2][0] == self._tallies[-1][0]:
            self._merge()  # as in a tree: each is added to others of its size

    def learn(self, fresh: LabelledRows) -> None:
        """Add the labelled rows of a part; those of the first parts may be left out."""
        most = self._yardstick.window_rows
        self._fresh.append(fresh)
        _drop(self._fresh, most, len)
        if most > SHARD_ROWS and sum(map(len, self._fresh)) >= SHARD_ROWS:
            self._write()

    def _write(self) -> None:
        rows = concatenate(self._fresh, len(self._yardstick.schema.features))
        self._fresh.clear()
        self._shards.append(self._spill.write(rows))
        for shard in _drop(self._shards, self._yardstick.window_rows, _n_rows):
            self._spill.remove(shard)

    def wait(self, scored: ScoredRows, keys: Keys) -> None:
        """Add the scored rows of a part that was just told of; the first ones may be left out."""
        self._scored.append(scored)
        _drop(self._scored, self._yardstick.waiting_rows, len)
        self._keys = [*self._keys, keys][-len(self._scored) :]
        behind = 0
        for k in reversed(range(len(self._scored))):
            if behind >= self._yardstick.window_rows:  # features are needed of the last rows only
                self._scored[k] = replace(
                    self._scored[k], features=self._scored[k].features[:0].copy()
                )
            behind += len(self._scored[k])

    def finish(self, *, whole_file: bool) -> Gathered:
        """All of them together; of `whole_file` see `screen`.

        Raises
        ------
        BadBatch
            There are no parts, or a feature holds texts and not one number.
        """
        if not self._tallies:
            raise BadBatch("holds no rows", remedy="nothing was lost: send a file with rows")
        while len(self._tallies) > 1:
            self._merge()
        schema, ((_, counted),) = self._yardstick.schema, self._tallies
        if whole_file:
            refuse_texts(schema, self._texts, counted.missing == counted.n_rows, self._text_files)
        if self._shards and any(map(len, self._fresh)):
            self._write()
        fresh = concatenate(self._fresh, len(schema.features))
        scored = concatenate_scored(self._scored, counted.n_rows)
        if counted.accepted > self._yardstick.waiting_rows:
            scored = scored.last(self._yardstick.waiting_rows)
        most = self._yardstick.window_rows
        lot = Lot(fresh.last(most), tuple(self._shards))
        return Gathered(counted, lot, self._seen, scored.shortened(most))

    def _merge(self) -> None:
        (n, last), (m, before) = self._tallies.pop(), self._tallies.pop()
        self._tallies.append((m + n, before + last))

    def _set_aside(self, told: Told) -> None:
        lines: list[Line] = []
        if not self._names:
            self._names = told.names
            lines.append((*SET_ASIDE, *told.names))
        cells = [told.names.index(name) if name in told.names else None for name in self._names]
        for row, reason, column, *line in told.set_aside:
            assert isinstance(row, int)
            kept = (
                line if told.names == self._names else ("" if j is None else line[j] for j in cells)
            )
            lines.append((self._n_rows + row, reason, column, *kept))
        self._keep(lines)

    def _complete(self, told: Told) -> None:
        """Give rows of earlier parts the labels of their repeats, if they are still kept."""
        order = np.argsort(told.completing_keys)
        keys = without_label(told.completing_keys[order])
        for mine, rows in zip(self._keys, self._scored, strict=True):
            if not len(mine):
                continue
            at = np.minimum(np.searchsorted(keys, mine), len(keys) - 1)
            found = keys[at] == mine
            rows.positive[found] = told.completing_positive[order][at[found]]


def _drop(kept: list[Any], most: int, size: Callable[[Any], int]) -> list[Any]:
    """Drop what is at the begin and not needed for the last `most` rows, and give it."""
    dropped = []
    while (needed := sum(map(size, kept[1:]))) >= most and needed + size(kept[0]) > most:
        dropped.append(kept.pop(0))
    return dropped


def _n_rows(shard: Shard) -> int:
    return shard.n_rows
