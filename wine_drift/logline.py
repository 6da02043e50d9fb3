"""One line about one run: the same keys as JSON for machines and as text for people.

A line holds what a person needs to find the run that they look for, and to see how it ended; the
record in the ledger holds the rest (`wine-drift explain`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from wine_drift.errors import DRIFT_FOUND, WineDriftError


def log_line(at: float, level: str, event: str, **told: Any) -> dict[str, Any]:
    """A line about an event; what is None is left out.

    Parameters
    ----------
    at : float
        Unix time in seconds.
    level : str
        info, warning (a person should look) or error.
    event : str
        What it is about.

    Examples
    --------
    >>> line_text(log_line(0.5, "info", "schedule", schedule="every 900 s", next_run=None))
    '1970-01-01T00:00:00.500Z info schedule schedule="every 900 s"'
    """
    line = {"time": stamp(at), "level": level, "event": event}
    return line | {key: value for key, value in told.items() if value is not None}


def run_line(
    record: Mapping[str, Any] | None,
    run: Mapping[str, Any] | None,
    error: WineDriftError | None,
    *,
    at: float,
    pipeline: str,
    duration: float,
    exit_code: int,
    news: bool = False,
) -> dict[str, Any]:
    """The line about a run.

    Parameters
    ----------
    record : mapping or None
        Of the batch, as in the ledger; None if there is none.
    run : mapping or None
        What the ledger keeps of the run; None if it keeps nothing.
    error : WineDriftError or None
        What went wrong.
    at, duration : float
        Unix time of the end, and seconds since the start.
    news : bool
        Whether a person should look at it though nothing went wrong.

    Examples
    --------
    >>> line = run_line({"outcome": "idle"}, None, None, at=0, pipeline="red", duration=0.2,
    ...                 exit_code=0)
    >>> line_text(line)
    '1970-01-01T00:00:00.000Z info run outcome=idle exit_code=0 duration=0.2 pipeline=red'
    """
    record, run = record or {}, run or {}
    failed = exit_code not in (0, DRIFT_FOUND)
    level = "error" if failed else "warning" if news or exit_code else "info"
    return log_line(
        at,
        level,
        "run",
        outcome=record.get("outcome", "failed"),
        exit_code=exit_code,
        duration=round(duration, 3),
        pipeline=pipeline,
        **_batch(record),
        pending=run.get("pending"),
        skipped=run.get("skipped") or None,
        missed=run.get("missed") or None,
        error=str(error) if error else None,
        remedy=(error.remedy or None) if error else None,
    )


def _batch(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the record tells of the batch."""
    told: dict[str, Any] = {}
    batch = record.get("batch") or {}
    told |= {"batch": batch.get("sequence"), "name": batch.get("name"), "id": batch.get("id")}
    told |= {key: batch.get(key) for key in ("rows", "accepted", "labelled")}
    if record.get("model"):
        told["model"] = record["model"]["version"]
    if record.get("quality"):
        told["quality"] = record["quality"]["status"]
        told["log_loss"] = _short(record["quality"]["log_loss"])
    if record.get("drift"):
        drift = record["drift"]
        told["drift"] = drift["status"]
        told["severity"] = _short(drift["severity"])
        told["drifted"] = [f["name"] for f in drift["features"] or () if f["drifted"]] or None
        told["faults"] = sorted({fault["kind"] for fault in drift["faults"]}) or None
    if record.get("decision"):
        told["decision"] = record["decision"]["action"]
        told["reasons"] = list(record["decision"]["reasons"])
    if record.get("retraining"):
        told["retraining"] = record["retraining"]["outcome"]
    if record.get("push"):
        told["push"] = record["push"]["status"]
    return told


def line_text(line: Mapping[str, Any]) -> str:
    """A line for people, one physical line whatever it tells."""
    line = dict(line)
    head = [line.pop(key) for key in ("time", "level", "event")]
    return " ".join([*head, *(f"{key}={_word(value)}" for key, value in line.items())])


def line_json(line: Mapping[str, Any]) -> str:
    """A line for machines.

    >>> line_json(log_line(0, "info", "run", name="wörd"))
    '{"time": "1970-01-01T00:00:00.000Z", "level": "info", "event": "run", "name": "wörd"}'
    """
    text = json.dumps(line, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(line)  # what would steer a terminal


def stamp(at: float) -> str:
    """Unix time as text, to the millisecond (RFC 3339, UTC)."""
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _word(value: Any) -> str:
    """A value as text that ends at the next blank, or is quoted."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "=\\') and text
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
