"""Which runs were due, which took place, and how the last one ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wine_drift.timetable import Cron, Every


def more_waits(run: Mapping[str, Any] | None) -> bool:
    """Whether another run at once would find a batch.

    Files that wait though a run found none are such that cannot be read or put away.

    >>> more_waits({"outcome": "processed", "pending": 2}), more_waits(None)
    (True, False)
    >>> more_waits({"outcome": "nothing_waiting", "pending": 2})
    False
    """
    return run is not None and bool(run.get("pending")) and run["outcome"] != "nothing_waiting"


def run_part(
    previous: Mapping[str, Any] | None,
    timetable: Cron | Every,
    *,
    schedule: str,
    started_at: float,
    finished_at: float,
    success: bool,
    outcome: str,
    **told: Any,
) -> dict[str, Any]:
    """What is told of a run: how it ended, and which were due since the last one and are not there.

    Of those that were due while the last one was still at work it is said that they were skipped,
    of the others that they were missed. A run that is due and starts is neither; nor is counted
    across a change of the schedule.

    Parameters
    ----------
    previous : mapping or None
        The same of the last run.
    timetable : Cron or Every
    schedule : str
        The timetable in words.
    started_at, finished_at : float
        Unix time.
    success : bool
    outcome : str
    told
        What else is known: version, duration, stages and so on.

    Examples
    --------
    >>> from wine_drift.timetable import Every
    >>> def run(start, end, previous=None):
    ...     return run_part(previous, Every(10), schedule="every 10 s", started_at=start,
    ...                     finished_at=end, success=True, outcome="processed")
    >>> late = run(50, 51, run(0, 22))  # 10 and 20 were skipped, 30 and 40 missed
    >>> late["skipped"], late["missed"], late["next_run"]
    (2, 2, 60.0)
    """
    due = skipped = 0
    if previous is not None and previous.get("schedule") == schedule:
        before = previous["started_at"]
        due = max(timetable.due_between(before, started_at) - 1, 0)
        following = timetable.due_after(previous["finished_at"], since=before)
        skipped = min(max(timetable.due_between(before, following) - 1, 0), due)
    return {
        "started_at": started_at,
        "finished_at": finished_at,
        "success": success,
        "outcome": outcome,
        "schedule": schedule,
        "interval": timetable.longest_gap,
        "next_run": timetable.due_after(started_at, since=started_at),
        "skipped": skipped,
        "missed": due - skipped,
        **told,
    }
