"""What is wrong with an installation: facts in, findings with what to do about them out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wine_drift.verdict import Verdict
from wine_drift.wording import counted, duration, when

OK, NOTE, PROBLEM = "ok", "note", "problem"
# What lies in a home; `wine_drift.prom` of the embedded sink is in `metrics`.
KNOWN = frozenset(
    {
        *("ledger.sqlite", "ledger.sqlite-journal", "run.lock", "queue.lock"),
        *("backups", "damaged", "models", "archive", "quarantine", "metrics", "data"),
    }
)
SPARE = 100_000_000  # bytes that a run may need beside a copy of the ledger
LATE_BACKUP = 2.0  # times `backup_every`
_BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?[^>;]*>=\s*([0-9.]+)")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    level: str  # ok | note | problem
    subject: str  # such as home, ledger, gateway
    text: str  # what was found
    step: str = ""  # what to do about it


@dataclass(frozen=True)
class Entry:
    """A file or folder at the top of a home."""

    name: str
    mode: int  # permission bits


def of_home(
    place: str, entries: Sequence[Entry], *, mode: int, writable: bool, free: int, ledger: int
) -> Iterator[Check]:
    """Whose it is, what lies in it, and whether there is room.

    Parameters
    ----------
    place : str
    entries : sequence of Entry
    mode : int
        Permission bits of the home.
    writable : bool
    free, ledger : int
        Bytes that are free there, and that the ledger takes.

    Examples
    --------
    >>> usual = dict(mode=0o700, writable=True, free=10**9, ledger=10**6)
    >>> [check.level for check in of_home("h", [Entry("run.lock", 0o600)], **usual)]
    ['ok', 'ok']
    >>> [check.text for check in of_home("h", [Entry("notes.txt", 0o644)], **usual)][0]
    'h: notes.txt: not put there by wine-drift'
    """
    sound = True
    for level, told, step in _rights(mode, entries):
        sound = False
        yield Check(level, "home", f"{place}: {told}", step)
    foreign = sorted(entry.name for entry in entries if entry.name not in KNOWN)
    foreign = [name for name in foreign if not name.startswith(".")]
    if foreign:
        sound = False
        step = "move them elsewhere, if nobody needs them there"
        yield Check(NOTE, "home", f"{place}: {_some(foreign)}: not put there by wine-drift", step)
    if not writable:
        sound = False
        yield Check(PROBLEM, "home", f"{place}: cannot be written to", "run as its owner")
    if sound:
        yield Check(OK, "home", f"{place}: ours alone, and nothing else is in it")
    needed, room = 2 * ledger + SPARE, f"{free / 1e9:.1f} GB are free"
    if free < needed:
        step = f"make room: `wine-drift prune`, or a larger disk; {needed / 1e9:.1f} GB are safe"
        yield Check(PROBLEM, "room", room, step)
    else:
        yield Check(OK, "room", room)


def _rights(mode: int, entries: Sequence[Entry]) -> Iterator[tuple[str, str, str]]:
    """Who else can get at it."""
    if mode & 0o022:
        yield PROBLEM, f"others can write to it (mode {mode:04o})", "chmod 700 it"
    elif mode & 0o077:
        yield NOTE, f"others can look into it (mode {mode:04o})", "chmod 700 it, unless they may"
    if not mode & 0o077:
        return  # nobody else gets in
    open_to_all = [entry.name for entry in entries if entry.mode & 0o022 and entry.name in KNOWN]
    if open_to_all:
        yield PROBLEM, f"others can write to {_some(open_to_all)}", "chmod go-w these"


def of_backup(made: float | None, *, now: float, every: float, batches: bool) -> Check:
    """How old the last backup is; `batches`: whether there is something to lose."""
    if made is None:
        level = NOTE if batches else OK
        told = "there is no backup yet; the next run makes one" if batches else "nothing to keep"
        return Check(level, "backup", told)
    told = f"made {when(made)}"
    if now - made > LATE_BACKUP * every:
        step = "see whether runs come, and what they say of backups"
        return Check(PROBLEM, "backup", f"{told}, {duration(now - made)} ago", step)
    return Check(OK, "backup", told)


def of_inbox(
    place: str, waiting: int, oldest: float | None, strange: Sequence[str], *, interval: float
) -> Iterator[Check]:
    """Files that wait, for how many seconds the oldest; and those that no run takes."""
    told = f"{place}: {counted(waiting, 'file waits', 'files wait')}"
    if oldest is not None and oldest > 2 * interval:
        step = "see whether runs come; set `drain` if files come faster than runs"
        yield Check(NOTE, "inbox", f"{told}, the oldest for {duration(oldest)}", step)
    else:
        yield Check(OK, "inbox", told)
    if strange:
        step = "a batch's name ends in .csv, .gz, .zip or .parquet: rename them, or take them away"
        yield Check(NOTE, "inbox", f"{place}: passed over: {_some(strange)}", step)


def of_gateway(
    place: str,
    groups: Iterable[Mapping[str, Any]],
    *,
    job: str,
    pipeline: str,
    last_run: float | None,
) -> Check:
    """Whether a Pushgateway has what this home knows, or something of another home.

    Parameters
    ----------
    place : str
    groups : iterable of mapping
        As the Pushgateway's API gives them.
    job, pipeline : str
        What its group is called.
    last_run : float or None
        When the last run ended, in Unix time, read after the groups.

    Examples
    --------
    >>> told = {"metrics": [{"value": "7.5"}]}
    >>> group = {"labels": {"job": "j", "pipeline": "p"},
    ...          "wine_drift_last_run_timestamp_seconds": told}
    >>> of_gateway("g", [group], job="j", pipeline="p", last_run=7.5).level
    'ok'
    >>> of_gateway("g", [group], job="j", pipeline="p", last_run=5.0).text
    'g: pipeline p has a run of 1970-01-01 00:00:07 UTC that this home never made'
    """
    ours = [each for each in groups if each["labels"] == {"job": job, "pipeline": pipeline}]
    if last_run is None:
        return Check(OK, "gateway", f"{place}: it answers")
    try:
        value = ours[0]["wine_drift_last_run_timestamp_seconds"]["metrics"][0]["value"]
        pushed = float(value)
    except (LookupError, TypeError, ValueError):
        told = f"{place}: it answers, and has nothing of pipeline {pipeline} yet"
        return Check(NOTE, "gateway", told, "`wine-drift push` sends everything")
    if pushed > last_run:
        told = f"{place}: pipeline {pipeline} has a run of {when(pushed)} that this home never made"
        step = "another home has the same `pipeline`: give each its own"
        return Check(PROBLEM, "gateway", told, step)
    if pushed < last_run:
        told = f"{place}: it has a run of {when(pushed)}; the last one ended {when(last_run)}"
        step = "`wine-drift push` sends everything; if it comes again, another home has this name"
        return Check(PROBLEM, "gateway", told, step)
    return Check(OK, "gateway", f"{place}: it has what this home knows")


def of_schedule(verdict: Verdict, run: Mapping[str, Any] | None, schedule: str) -> Iterator[Check]:
    """Do runs come as they should, and end well?"""
    if run is None:
        yield Check(NOTE, "schedule", "no run yet", "start `wine-drift run-batch`, then a schedule")
        return
    about = {"overdue", "run_not_started", "run_failed", "retrain_failed"}
    found = [finding for finding in verdict.findings if finding.code in about]
    for finding in found:
        step = finding.step if "doctor" not in finding.step else "see jobs/ for how to start runs"
        yield Check(PROBLEM, "schedule", finding.text, step)
    if run.get("schedule", schedule) != schedule:
        told = f"the last run went by {run['schedule']}, these settings say {schedule}"
        yield Check(NOTE, "schedule", told, "name the same settings as the schedule does")
    if run.get("missed"):
        told = f"{counted(run['missed'], 'run', 'runs')} did not come before the last one"
        yield Check(NOTE, "schedule", told, "see whether the machine was away")
    if not found:
        yield Check(OK, "schedule", f"the last run ended well, {when(run['finished_at'])}")


def of_packages(
    python: tuple[int, ...], needed: Iterable[str], installed: Mapping[str, str]
) -> Iterator[Check]:
    """Versions against the lower bounds.

    Parameters
    ----------
    python : tuple of int
    needed : iterable of str
        Requirements as the package's metadata has them.
    installed : mapping
        Version of each package that is there.

    Examples
    --------
    >>> needed = ["numpy>=1.26", "click>=8.2", "psycopg[binary]>=3.1.8; extra == 'postgres'"]
    >>> for check in of_packages((3, 11, 4), needed, {"numpy": "1.9.3", "click": "8.2.0"}):
    ...     print(check.level, check.text)
    problem numpy 1.9.3 is older than 1.26
    """
    sound = True
    if python < (3, 11):
        sound = False
        told = f"Python {'.'.join(map(str, python))} is older than 3.11"
        yield Check(PROBLEM, "versions", told, "install with a newer Python")
    for requirement in needed:
        bound = _BOUND.match(requirement)
        if bound is None:
            continue
        name, least = bound[1], bound[2]
        if name not in installed:
            if "extra ==" not in requirement:
                sound = False
                yield Check(PROBLEM, "versions", f"{name} is missing", "install wine-drift again")
        elif _numbers(installed[name]) < _numbers(least):
            sound = False
            told = f"{name} {installed[name]} is older than {least}"
            yield Check(PROBLEM, "versions", told, f"pip install '{name}>={least}'")
    if sound:
        release = ".".join(map(str, python))
        yield Check(OK, "versions", f"Python {release}, and every package is new enough")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at their end."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _some(names: Sequence[str]) -> str:
    """A few of them."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
