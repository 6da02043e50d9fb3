"""The files of a batch: each read and counted by itself, here one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from wine_drift.errors import BadBatch, TableError
from wine_drift.frame import Frame
from wine_drift.gathering import (
    Gathered,
    Gatherer,
    Keep,
    Part,
    Spill,
    Stage,
    Yardstick,
    count_screened,
    screen_part,
    untimed,
)
from wine_drift.places import Place, at_hand, digested
from wine_drift.repeats import Known
from wine_drift.schema import Schema
from wine_drift.screening import Screened, screen
from wine_drift.tables import PART_ROWS, read_parts, reads_alone


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
        Whether this may be done on two cores.
    """
    ahead = ahead and not reads_alone(place.address)
    with _reading(place, yardstick.schema, yardstick.row_id, most_bytes) as frames:
        some = (frame for frame in frames if len(frame))
        with contextlib.closing(count_each(some, yardstick, known, ahead=ahead)) as parts:
            yield from parts


def count_each(
    frames: Iterable[Frame],
    yardstick: Yardstick,
    known: Known,
    stage: Stage = untimed,
    *,
    ahead: bool,
    part_rows: int = PART_ROWS,
) -> Generator[Part]:
    """Count what is read, see `count_part`.

    With `ahead` a part is read and screened while the one before is scored and measured, from the
    first of at least `part_rows` on. Close this before what it reads.
    """
    screened = ((frame, screen_part(frame, yardstick, known, stage)) for frame in frames)
    with contextlib.closing(_ahead(screened, part_rows) if ahead else screened) as both:
        for frame, found in both:
            yield count_screened(frame, found, yardstick, stage)


def _ahead(
    parts: Iterator[tuple[Frame, Screened]], part_rows: int
) -> Generator[tuple[Frame, Screened]]:
    """The same, each made while the one before is worked on."""
    part = next(parts, None)
    if part is not None and len(part[0]) < part_rows:  # it hardly has a next one
        yield part
        part = next(parts, None)
    if part is None:
        return
    from concurrent.futures import ThreadPoolExecutor  # it takes a while, and few files need it

    with ThreadPoolExecutor(1) as pool:
        while part is not None:
            making = pool.submit(next, parts, None)
            yield part
            part = making.result()


def check_begin(place: Place, schema: Schema, row_id: str | None, most_bytes: int) -> None:
    """Screen the first rows of a file."""
    with _reading(place, schema, row_id, most_bytes) as frames:
        first = next(frames)
        if len(first):
            screen(first, schema, whole_file=False)


@contextlib.contextmanager
def _reading(
    place: Place, schema: Schema, row_id: str | None, most_bytes: int
) -> Iterator[Iterator[Frame]]:
    """The table in parts; what is found wrong with it while this holds is told with its name."""
    with at_hand(place, most_bytes) as path:
        try:
            yield read_parts(
                path,
                text_column=row_id,
                listed=schema.listed,
                most_bytes=most_bytes,
            )
        except (BadBatch, TableError) as error:
            detail = str(error).removeprefix(f"{path}: ")
            raise type(error)(f"{place.shown}: {detail}", remedy=error.remedy) from error
