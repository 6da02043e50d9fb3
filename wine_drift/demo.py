"""A simulated past, to have something to look at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from wine_drift.ledger import Ledger
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
) -> bool:
    """Fill a home with simulated hourly batches of the last days, in which the wines change twice.

    Each batch is run as ever, only with the clock of its own hour. Nothing is pushed: a gateway
    shows one moment, and this is the past.

    Returns
    -------
    bool
        False if there is a ledger already, and nothing was done.
    """
    if Ledger.exists(settings.home):
        return False
    batches = round(settings.days * 24)
    chosen = STORY if settings.scenario == "none" else settings.scenario
    names = [part.partition("@")[0] for part in chosen.split(",")]
    story = [f"{name}@{batches * (k + 1) // (len(names) + 1)}" for k, name in enumerate(names)]
    past = replace(
        settings,
        source=SIMULATED,
        scenario=",".join(story),
        every=HOUR,
        pushgateway=None,
        textfile=None,
    )
    end = now()
    for left in progress(range(batches - 1, -1, -1)):
        run_batch(past, now=_stopped(end - left * HOUR))
    return True


def _stopped(at: float) -> Callable[[], float]:
    return lambda: at
