"""Faults made on purpose, and what was lost or counted twice: `make test-faults`.

Each drill is a module with a function `drill`, which breaks things and gives a row for each kind of
fault. The table holds if nothing was lost or counted twice, no traceback was seen, and no other
promise was broken. `make test` runs the same drills, short (tests/drills/test_drills.py).
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

DRILLS = ("crash", "disk", "damage", "crowd", "hosts", "outage", "hostile")


@dataclass(frozen=True)
class Row:
    """One line of the table: a kind of fault, and what came of it."""

    fault: str
    tried: int  # times
    lost: int = 0  # batches, files, labels or rows that should be there and are not
    doubled: int = 0  # those that are there, or counted, more often than once
    tracebacks: int = 0
    broken: tuple[str, ...] = ()  # other promises that were broken, in words: wrong exit code, hang

    @property
    def held(self) -> bool:
        """Whether every promise was kept, and it was tried at all."""
        return self.tried > 0 and not (self.lost or self.doubled or self.tracebacks or self.broken)


class Drill(Protocol):
    """What each module of `DRILLS` offers as `drill`."""

    def __call__(self, place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
        """Break things in an empty folder; short if it is not to be thorough."""


def find(name: str) -> Drill:
    """The drill of that name."""
    found: Drill = importlib.import_module(f"drill_{name}").drill
    return found


HEADER = f"{'fault':<58} {'tried':>7} {'lost':>5} {'doubled':>8} {'tracebacks':>11}"


def line(row: Row) -> str:
    """A row as text; under it, the promises that were broken."""
    figures = f"{row.tried:>7} {row.lost:>5} {row.doubled:>8} {row.tracebacks:>11}"
    return "\n".join([f"{row.fault:<58} {figures}", *(f"  BROKEN: {one}" for one in row.broken)])


def say(text: str) -> None:
    """One line of the table, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(
    names: list[str], place: Path, *, thorough: bool, seed: int, tell: Callable[[str], None]
) -> list[Row]:
    """Run drills one after the other, and tell their rows as they come."""
    rows: list[Row] = []
    tell(HEADER)
    for name in names:
        folder = place / name
        folder.mkdir()
        for row in find(name)(folder, thorough=thorough, seed=seed):
            rows.append(row)
            tell(line(row))
    return rows


def main() -> None:
    """The drills, their table, and exit code 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="each fault a few times only")
    parser.add_argument("--seed", type=int, default=0, help="of whatever is left to chance")
    parser.add_argument("--only", choices=DRILLS, action="append", help="this drill; repeatable")
    wanted = parser.parse_args()
    place, started = Path(tempfile.mkdtemp(prefix="faults-")), time.monotonic()
    names = wanted.only or list(DRILLS)
    rows = run(names, place, thorough=not wanted.short, seed=wanted.seed, tell=say)
    tried, minutes = sum(row.tried for row in rows), (time.monotonic() - started) / 60
    if not all(row.held for row in rows):
        sys.exit(f"a promise was broken; the files are in {place}")
    shutil.rmtree(place)
    say(f"{tried:,} faults in {minutes:.1f} minutes: nothing lost, nothing counted twice")


if __name__ == "__main__":
    main()
