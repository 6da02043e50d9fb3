"""The past of a home: told, and written for Prometheus to read in."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import Metric

from wine_drift.errors import SettingsError
from wine_drift.files import named
from wine_drift.home import reading
from wine_drift.outbox import JOB, families
from wine_drift.settings import Settings
from wine_drift.timeline import openmetrics

T = TypeVar("T")
Progress = Callable[[Sequence[T]], Iterable[T]]


def past(settings: Settings) -> list[dict[str, Any]]:
    """What happened, oldest first, as `Ledger.past` gives it: `last` events, or those `since`.

    Raises
    ------
    SettingsError
        There is no ledger, or `since` is no time.
    """
    since = 0.0 if settings.since is None else _unix_time("since", settings.since)
    with reading(settings) as ledger:
        return ledger.past(settings.last, since=since)


def export_history(
    settings: Settings,
    path: Path,
    *,
    now: Callable[[], float] = time.time,
    progress: Progress[tuple[int, float]] = iter,
) -> int:
    """Write what the ledger knows of the past to a file, as OpenMetrics text with timestamps.

    Returns
    -------
    int
        Entries of the ledger that were told.

    Raises
    ------
    SettingsError
        There is no ledger, a time is none, or the file cannot be written.
    """
    since = 0.0 if settings.since is None else _unix_time("since", settings.since)
    until = now()
    if settings.until is not None:
        until = min(until, _unix_time("until", settings.until))
    with reading(settings) as ledger:
        entries = [(entry, at) for entry, at in _in_order(ledger.history()) if at <= until]
        # the last one before the beginning says how things stood then
        before = sum(at <= since for _, at in entries)
        entries = entries[max(before - 1, 0) :] if since <= until else []

        def moments() -> Iterator[tuple[float, list[Metric]]]:
            for entry, at in progress(entries):
                found = families(settings, ledger, entry)
                if not ledger.forgotten(entry):  # by a run that goes on beside this
                    yield max(at, since), found

        labels = {"job": JOB}
        with named(path, "history") as out:
            lines = openmetrics(moments(), until=until, step=settings.step, labels=labels)
            out.writelines(line.encode() for line in lines)
    return len(entries)


def _in_order(entries: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Entries with times that do not fall: what a clock told that was ahead is no later than what
    came after it.

    >>> _in_order([(1, 10.0), (2, 70.0), (3, 30.0)])
    [(1, 10.0), (2, 30.0), (3, 30.0)]
    """
    found, least = [], math.inf
    for entry, at in reversed(entries):
        least = min(least, at)
        found.append((entry, least))
    return found[::-1]


def _unix_time(name: str, text: str) -> float:
    if re.fullmatch(r"\d{9,11}(\.\d*)?", text):
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{name}: {text!r} is no time",
            remedy="write it like 2026-11-23T06:00, in UTC, or in seconds since 1970",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
