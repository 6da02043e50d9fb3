"""A simulated past, to have something to look at."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wine_drift.errors import SettingsError
from wine_drift.home import reading
from wine_drift.ledger import LEDGER, Ledger
from wine_drift.locking import locked
from wine_drift.run import run_batch
from wine_drift.settings import Settings
from wine_drift.supply import SIMULATED

HOUR = 3600.0
MADE = ("models", "metrics")  # besides the ledger
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

    Raises
    ------
    SettingsError
        The home holds models without a ledger, or a setting makes no sense here.
    AlreadyRunning
    """
    if settings.ledger is not None or settings.models is not None:
        raise SettingsError(
            "demo fills a home that keeps its ledger and models itself",
            remedy="leave out ledger and models",
        )
    if settings.dry_run:
        raise SettingsError("demo has no dry run", remedy="try it in another --home")
    chosen = STORY if settings.scenario == "none" else settings.scenario
    if "@" in chosen:
        raise SettingsError(
            f"scenario: {chosen!r}: a demo spreads scenarios over its days by itself",
            remedy="leave out @ and the batch",
        )
    with locked(settings.home):
        making = settings.home / ".making"  # first there: half a past would pass for a whole one
        if Ledger.exists(settings.home):
            with reading(settings):  # or it is damaged, which is told
                shutil.rmtree(making, ignore_errors=True)
            return None
        for name in MADE:
            if making.exists():  # an earlier one was cut short, perhaps while it was moved
                shutil.rmtree(settings.home / name, ignore_errors=True)
            elif (settings.home / name).exists():
                raise SettingsError(
                    f"{settings.home}: there are {name} and no ledger",
                    remedy="name an empty --home, or restore the ledger from a backup",
                )
        shutil.rmtree(making, ignore_errors=True)
        told = _make(settings, making, chosen.split(","), now, progress)
        for name in (*MADE, LEDGER):  # the ledger last: with it the home is whole
            (making / name).replace(settings.home / name)
        shutil.rmtree(making)
    return told


def _make(
    settings: Settings,
    making: Path,
    names: list[str],
    now: Callable[[], float],
    progress: Callable[[Sequence[int]], Iterable[int]],
) -> list[tuple[float, dict[str, Any]]]:
    batches = round(settings.days * 24)
    story = [f"{name}@{batches * (k + 1) // (len(names) + 1)}" for k, name in enumerate(names)]
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
    return told


def _stopped(at: float) -> Callable[[], float]:
    return lambda: at
