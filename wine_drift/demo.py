"""A simulated past, to have something to look at."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from wine_drift.ledger import LEDGER, Ledger
from wine_drift.run import run_batch
from wine_drift.settings import Settings
from wine_drift.supply import SIMULATED

HOUR = 3600.0
STORY = "switch,label_flip"  # what happens to the wines if nothing else is asked for


def make_demo(
    settings: Settings,
    *,
    now: Callable[[], float] = time.time,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[tuple[float, dict[str, Any]]] | None:
    """Fill a home with simulated hourly batches of the last days, in which the wines change twice.

    Each batch is run as ever, only with the clock of its own hour. Nothing is pushed: a gateway
    shows one moment, and this is the past.

    Returns
    -------
    list of (float, dict) or None
        Unix time and record of each batch with which an alarm began or that led to a new champion;
        None if there is a ledger already, and nothing was done.
    """
    if Ledger.exists(settings.home):
        return None
    batches = round(settings.days * 24)
    chosen = STORY if settings.scenario == "none" else settings.scenario
    names = [part.partition("@")[0] for part in chosen.split(",")]
    story = [f"{name}@{batches * (k + 1) // (len(names) + 1)}" for k, name in enumerate(names)]
    # elsewhere first: half a past would pass for a whole one
    making = settings.home / ".making"
    shutil.rmtree(making, ignore_errors=True)
    past = replace(
        settings,
        home=making,
        source=SIMULATED,
        scenario=",".join(story),
        every=HOUR,
        pushgateway=None,
        textfile=None,
    )
    end, told, calm = now(), [], True
    for left in progress(range(batches - 1, -1, -1)):
        at = end - left * HOUR
        record = run_batch(past, now=_stopped(at)).record
        alarm = record["drift"]["status"] == "major" or record["quality"]["status"] == "drop"
        retraining = record["retraining"]
        if (alarm and calm) or (retraining is not None and retraining["outcome"] == "promoted"):
            told.append((at, record))
        calm = not alarm
    for path in sorted(making.iterdir(), key=lambda path: path.name == LEDGER):  # the ledger last
        shutil.move(path, settings.home / path.name)
    making.rmdir()
    return told


def _stopped(at: float) -> Callable[[], float]:
    return lambda: at
