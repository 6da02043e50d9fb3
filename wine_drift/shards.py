"""Labelled rows in files, where there are too many for the ledger: written once, known by hash.

They lie beside the versions, so that whoever trains can reach them: other hosts, and the workers of
a cluster. A file counts only once the ledger claims it, and what nobody claims is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from wine_drift import files
from wine_drift.errors import StateUnreadable
from wine_drift.rows import SHARD_ROWS, LabelledRows, Shard, concatenate
from wine_drift.shelf import WINDOW, Place, remove_shards


def write_shard(place: Place, name: str, rows: LabelledRows) -> Shard:
    """Write a file of rows, in place of an older one of that name.

    Raises
    ------
    StateUnreadable
        It cannot be written.
    """
    content = rows.to_bytes()
    with _told(place, name, "check rights and free space, and run it again"):
        if isinstance(place, Path):
            files.make_folder(place / WINDOW)
            with files.whole(place / WINDOW / name, "shard") as file:
                file.write(content)
        else:
            place.write(WINDOW, {name: content})
    return Shard(
        name,
        len(rows),
        int(rows.positive.sum()),
        int(rows.sequence.max(initial=0)),
        hashlib.sha256(content).hexdigest(),
    )


def read_shard(place: Place, shard: Shard) -> LabelledRows:
    """Read a file of rows.

    Raises
    ------
    StateUnreadable
        It is missing, or is not what was written.
    """
    remedy = "`wine-drift repair` tells what is lost, and goes on without it"
    with _told(place, shard.name, remedy):
        if isinstance(place, Path):
            content = (place / WINDOW / shard.name).read_bytes()
        else:
            content = place.read(WINDOW, shard.name)
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise StateUnreadable(f"{place}/{WINDOW}/{shard.name}: its hash is wrong", remedy=remedy)
    return LabelledRows.from_bytes(content)


def has_shard(place: Place, shard: Shard) -> bool:
    """Whether a file of rows is there as it was written."""
    try:
        read_shard(place, shard)
    except StateUnreadable:
        return False
    return True


def read_newest(
    place: Place, shards: Iterable[Shard], n_rows: int, n_features: int
) -> LabelledRows:
    """Read the shards of the youngest batches, until there are so many rows."""
    chosen = newest_shards(shards, n_rows)
    return concatenate((read_shard(place, shard) for shard in chosen), n_features)


def newest_shards(shards: Iterable[Shard], n_rows: int) -> list[Shard]:
    """The shards of the youngest batches that have so many rows together, oldest first.

    >>> first, second = Shard("a", 5, 1, 1, ""), Shard("b", 5, 1, 2, "")
    >>> [shard.name for shard in newest_shards([second, first], 5)]
    ['b']
    """
    chosen: list[Shard] = []
    for shard in sorted(shards, key=lambda shard: shard.newest, reverse=True):
        if n_rows <= 0:
            break
        chosen.append(shard)
        n_rows -= shard.n_rows
    return chosen[::-1]


class ShardWriter:
    """Writes the labelled rows of one batch, one file after the other.

    Parameters
    ----------
    place : Place
        Where versions are.
    name : str
        That the names of the files begin with. Written again, they replace those of a run that
        was cut short.
    sequence : int, optional
        Number of the batch; None: the rows tell.
    """

    def __init__(self, place: Place, name: str, sequence: int | None = None) -> None:
        self._place, self._name, self._sequence = place, name, sequence
        self._n_written = 0

    def write(self, rows: LabelledRows) -> Shard:
        """See `write_shard`."""
        if self._sequence is not None:
            rows = replace(rows, sequence=np.full(len(rows), self._sequence))
        self._n_written += 1
        return write_shard(self._place, f"{self._name}-{self._n_written:05d}.npy.z", rows)

    def write_all(self, parts: Iterable[LabelledRows], n_features: int) -> Iterator[Shard]:
        """Write many rows in files of the usual size, whatever the sizes of the parts."""
        held: list[LabelledRows] = []
        for part in parts:
            held.append(part)
            if sum(map(len, held)) >= SHARD_ROWS:
                yield self.write(concatenate(held, n_features))
                held.clear()
        if any(map(len, held)):
            yield self.write(concatenate(held, n_features))

    def remove(self, shard: Shard) -> None:
        """Remove one of these."""
        with _told(self._place, shard.name, "check rights, and run it again"):
            remove_shards(self._place, [shard.name])


class NoWriter:
    """Tells what would be written, in a run that writes nothing."""

    def write(self, rows: LabelledRows) -> Shard:
        """The file that there would be."""
        return Shard("", len(rows), int(rows.positive.sum()), 0, "")

    def remove(self, shard: Shard) -> None:
        """There is none."""


@contextlib.contextmanager
def _told(place: Place, name: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateUnreadable(
            f"{place}/{WINDOW}/{name}: {error.strerror or error}", remedy=remedy
        ) from error
