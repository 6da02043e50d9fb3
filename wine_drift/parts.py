"""The files of a batch: each read and counted by itself, here one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from wine_drift.errors import BadBatch, TableError
from wine_drift.frame import Frame
from wine_drift.gathering import Gathered, Gatherer, Keep, Part, Spill, Yardstick, count_part
from wine_drift.places import Place, at_hand, digested
from wine_drift.repeats import Known
from wine_drift.schema import Schema
from wine_drift.screening import screen
from wine_drift.tables import read_parts


class Counting(Protocol):
    """Who reads and counts the files of a batch."""

    def digest(self, places: Sequence[Place]) -> list[Place]:
        """The same files, known by their content."""

    def check(self, place: Place, schema: Schema, row_id: str | None) -> None:
        """Screen the begin of the first file: a bad one is no reason to train a model."""

    def gather(
        self, places: Sequence[Place], yardstick: Yardstick, keep: Keep, spill: Spill
    ) -> Gathered:
        """What all files give together, in their order.

        `keep` gets the rows set aside, `spill` labelled ones that are too many to be held.

        Raises
        ------
        BadBatch, TableError
            A file cannot be used, which is named; the first such one in their order.
        FileUnreadable
            One cannot be read, or changed meanwhile.
        """


@dataclass(frozen=True)
class Here:
    """Counts them in this process."""

    most_bytes: int  # of a file, once it is unpacked
    progress: Callable[[str], None] = lambda line: None

    def digest(self, places: Sequence[Place]) -> list[Place]:
        """See `Counting`."""
        return [digested(place) for place in places]

    def check(self, place: Place, schema: Schema, row_id: str | None) -> None:
        """See `Counting`."""
        check_begin(place, schema, row_id, self.most_bytes)

    def gather(
        self, places: Sequence[Place], yardstick: Yardstick, keep: Keep, spill: Spill
    ) -> Gathered:
        """See `Counting`."""
        gatherer, known = Gatherer(yardstick, keep, spill), Known()
        for number, place in enumerate(places, start=1):
            self.progress(f"counting file {number} of {len(places)}")
            gatherer.begin(place.shown)
            for part in count_parts(place, yardstick, known, self.most_bytes, ahead=True):
                gatherer.add(part)
        return gatherer.finish(whole_file=True)


def count_parts(
    place: Place,
    yardstick: Yardstick,
    known: Known,
    most_bytes: int,
    *,
    ahead: bool = False,
) -> Iterator[Part]:
    """Count a file of a batch; one without rows has no parts.

    Parameters
    ----------
    place : Place
    yardstick : Yardstick
    known : Known
        Keys of the rows of earlier files; those of this one are added.
    most_bytes : int
        Bytes of the table, once it is unpacked.
    ahead : bool
        See `read_parts`.
    """
    with _reading(place, yardstick.schema, yardstick.row_id, most_bytes, ahead=ahead) as frames:
        for frame in frames:
            if len(frame):
                yield count_part(frame, yardstick, known)


def check_begin(place: Place, schema: Schema, row_id: str | None, most_bytes: int) -> None:
    """Screen the first rows of a file."""
    with _reading(place, schema, row_id, most_bytes) as frames:
        first = next(frames)
        if len(first):
            screen(first, schema, whole_file=False)


@contextlib.contextmanager
def _reading(
    place: Place, schema: Schema, row_id: str | None, most_bytes: int, *, ahead: bool = False
) -> Iterator[Iterator[Frame]]:
    """The table in parts; what is found wrong with it while this holds is told with its name."""
    with at_hand(place, most_bytes) as path:
        try:
            yield read_parts(
                path,
                text_column=row_id,
                listed=schema.listed,
                most_bytes=most_bytes,
                ahead=ahead,
            )
        except (BadBatch, TableError) as error:
            detail = str(error).removeprefix(f"{path}: ")
            raise type(error)(f"{place.shown}: {detail}", remedy=error.remedy) from error
