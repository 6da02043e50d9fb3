"""What the ledger knows goes to every sink, whole, each time; a failure is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import Metric

from wine_drift import __version__
from wine_drift.errors import PushFailed, WineDriftError
from wine_drift.exposition import exposition
from wine_drift.ledger import Ledger
from wine_drift.publishing import Gateway, push, write_textfile
from wine_drift.settings import Settings

JOB = "wine_drift"


def families(settings: Settings, ledger: Ledger, entry: int | None = None) -> list[Metric]:
    """Every metric family, from the ledger alone; as of an entry of its history if one is given."""
    return exposition(
        ledger.snapshot(entry),
        pipeline=settings.pipeline,
        version=__version__,
        legacy=settings.legacy_metrics,
    )


def textfile(settings: Settings) -> Path | None:
    """Where the textfile goes; without any sink set, the embedded default in the home folder."""
    if settings.textfile is None and settings.pushgateway is None:
        return settings.home / "metrics" / "wine_drift.prom"
    return settings.textfile


def gateway_of(settings: Settings) -> Gateway | None:
    """The Pushgateway, and how to reach it, if one is set."""
    if settings.pushgateway is None:
        return None
    return Gateway(
        url=settings.pushgateway,
        job=JOB,
        pipeline=settings.pipeline,
        timeout_seconds=settings.push_timeout,
        deadline_seconds=settings.push_deadline,
        username=settings.username,
        password_file=settings.password_file,
        ca_file=settings.ca_file,
        use_proxy=settings.proxy,
    )


def publish(settings: Settings, ledger: Ledger) -> tuple[dict[str, Any], PushFailed | None]:
    """Send everything to every sink that is set.

    Returns
    -------
    push : dict
        `status` ("ok" or "failed"), `sinks` that have it, and `error` if there is one.
    error : PushFailed or None
        Every failure. Each is counted in the ledger, if it can be, so that the next push tells of
        it.
    """
    reached: list[str] = []
    failures: list[PushFailed] = []
    everything = families(settings, ledger)
    path = textfile(settings)
    if path is not None:
        try:
            write_textfile(everything, path)
            reached.append(str(path))
        except PushFailed as error:
            failures.append(error)
    gateway = gateway_of(settings)
    if gateway is not None:
        try:
            push(everything, gateway)
            reached.append(gateway.url)
        except PushFailed as error:
            failures.append(error)
    if not failures:
        return {"status": "ok", "sinks": reached}, None
    first, lines = failures[0], [str(each) for each in failures]
    try:
        for each in failures:
            ledger.add("push_failures", (("reason", each.reason),))
    except WineDriftError as error:  # what was to be published is done all the same
        lines.append(f"not counted: {error}")
    told = "\n".join(lines)
    failure = PushFailed(told, reason=first.reason, remedy=first.remedy)
    return {"status": "failed", "sinks": reached, "error": told}, failure
