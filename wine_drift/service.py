"""The long-running jobs: runs when they are due, what became of those that died; the page."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from platform import python_version
from typing import Any

from prometheus_client import Metric

from wine_drift import __version__
from wine_drift.errors import WineDriftError
from wine_drift.ledger import Ledger
from wine_drift.locking import locked
from wine_drift.logline import log_line, run_line, stamp
from wine_drift.outbox import families, publish
from wine_drift.publishing import serve
from wine_drift.roster import more_waits, run_part
from wine_drift.scheduling import LOST, STOPS, Ending, Scheduler
from wine_drift.settings import Settings

_PATIENCE = 30.0  # seconds to wait for another run, to tell of one that died
PORT = 8000  # of the page, unless another one is set
_HASTE = 1.0  # the same when the scheduler has been told to stop
Log = Callable[[dict[str, Any]], None]

# What a run of 100 rows imports. No module here may start a thread that it needs after a fork.
WARM = (
    *("wine_drift.cli", "wine_drift.scheduling", "wine_drift.run", "wine_drift.report"),
    *("numpy.ma", "numpy.random"),  # which numpy loads when they are first used
)
# Exit codes of runs that are done with their batch, so that the next one may follow at once.
MOVED_ON = frozenset({0, 3, 4, 8, 9})


def keep_running(
    settings: Settings,
    arguments: Sequence[str],
    once: Callable[[Sequence[str]], None],
    *,
    log: Log = lambda line: None,
) -> None:
    """Run the job whenever it is due, until SIGTERM or SIGINT; returns when the last run ended.

    The first run is due as if the schedule had never stopped: at once if one was missed since the
    last run of this home.

    Parameters
    ----------
    settings : Settings
    arguments : sequence of str
        What `once` is given in the process of each run.
    once : callable
        A function of a module: one run, which ends the process with an exit code.
    log : callable
        Told of the schedule, and of runs that could not tell of themselves.

    Raises
    ------
    WineDriftError
        The ledger cannot be read, or the port of /metrics cannot be had. No run was started.
    """
    timetable = settings.timetable
    scheduler = Scheduler(once, WARM if settings.warm else (), deadline=settings.run_deadline)

    def job() -> None:
        while _one(settings, scheduler, arguments, log) and not scheduler.stopping:
            pass

    with _served(settings) as address:
        first = _first(settings)
        log(
            log_line(
                time.time(),
                "info",
                "schedule",
                schedule=settings.schedule,
                longest_gap=timetable.longest_gap,
                next_run=stamp(first),
                metrics=address,
            )
        )
        scheduler.keep(timetable, job, first=first)
    log(log_line(time.time(), "info", "stopped"))


def show(settings: Settings, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Serve the page of a home at / and its metrics at /metrics, until SIGTERM or SIGINT.

    Nothing of the home is changed.

    Parameters
    ----------
    settings : Settings
    say : callable
        Told where the page is, once it can be asked for.

    Raises
    ------
    WineDriftError
        The ledger cannot be read, or the port cannot be had.
    """
    from wine_drift.portrait import Live  # what it draws with is not for the scheduler

    if settings.metrics_port is None:
        settings = replace(settings, metrics_port=PORT)
    page = Live(settings)
    page()  # so that the first reader waits for nothing, and mistakes are told now
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        with _served(settings, page) as address:
            say(f"http://{address}/ until SIGTERM; the metrics are at /metrics")
            signal.sigwait(STOPS)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _first(settings: Settings) -> float:
    """When the first run is due, in Unix seconds."""
    now = time.time()
    with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
        last = ledger.last_run()
    if last is not None:
        began = min(float(last.get("started_at", last["finished_at"])), now)
        return max(settings.timetable.due_after(began, since=began), now)
    return now if settings.cron is None else settings.timetable.due_after(now, since=now)


def _one(settings: Settings, scheduler: Scheduler, arguments: Sequence[str], log: Log) -> bool:
    """One run; whether another one is to follow at once."""
    started = time.time()
    ending = scheduler.run(arguments)
    try:
        if ending.reason is not None:
            _tell_of_end(settings, ending, started, log, in_haste=scheduler.hurry)
        if not settings.drain or ending.code not in MOVED_ON:
            return False
        with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
            return more_waits(ledger.last_run())
    except WineDriftError as error:
        log(log_line(time.time(), "error", "note", error=str(error), remedy=error.remedy))
        return False


def _tell_of_end(
    settings: Settings, ending: Ending, started: float, log: Log, *, in_haste: bool
) -> None:
    """Tell of a run that could not: it hung, was killed, or crashed."""
    now, died = time.time(), True
    line = run_line(
        {"outcome": ending.reason},
        None,
        None,
        at=now,
        pipeline=settings.pipeline,
        duration=now - started,
        exit_code=ending.code,
    )
    try:
        # Under the lock: what is written beside a run would make that one give up. A backup is left
        # to the next run: what it imports would stay in this process for good.
        patience = _HASTE if in_haste else _PATIENCE
        with (
            locked(settings.home, wait=patience),
            Ledger.open(
                settings.home,
                settings.ledger,
                keep_history=settings.keep_history,
                lock_wait=patience,
            ) as ledger,
        ):
            last = ledger.last_run()
            told = last is not None and last.get("started_at", 0) >= started
            died = not (told and ending.code == LOST)  # else only nobody could wait for it
            if not died:
                return
            if told:
                ledger.add("runs_ended", (("reason", str(ending.reason)),))
            else:
                ledger.record_run(_facts(settings, ending, last, started, now))
            if not in_haste:  # the next run publishes it, too
                failure = publish(settings, ledger)[1]
                if failure is not None:
                    raise failure
    finally:
        if died:
            log(line)


def _facts(
    settings: Settings,
    ending: Ending,
    last: Mapping[str, Any] | None,
    started: float,
    now: float,
) -> dict[str, Any]:
    """What the run itself would have recorded."""
    return run_part(
        last,
        settings.timetable,
        schedule=settings.schedule,
        started_at=started,
        finished_at=now,
        success=False,
        outcome=str(ending.reason),
        ended=ending.reason,
        version=__version__,
        python_version=python_version(),
        duration=now - started,
        stages={},
        max_rss_bytes=None,
        pending=None,
        dataset=(last or {}).get("dataset", ""),
    )


@contextlib.contextmanager
def _served(settings: Settings, page: Callable[[], bytes] | None = None) -> Iterator[str | None]:
    """/metrics for as long as the block lasts, if a port is set, and a page; gives the address."""

    def read() -> list[Metric]:
        with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
            return families(settings, ledger)

    if settings.metrics_port is None:
        yield None
        return
    host, port = settings.metrics_host, settings.metrics_port
    with serve(read, host=host, port=port, page=page) as address:
        yield address
