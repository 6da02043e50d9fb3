"""Is all well? What the ledger knows, turned into one verdict with what a person should do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from wine_drift.explanation import ranked
from wine_drift.policy import LOOP_BATCHES, LOOP_TRIES, Change, Labels
from wine_drift.wording import LATE, REASONS, counted, duration, fault_text, when

if TYPE_CHECKING:
    from wine_drift.snapshot import Snapshot

HEALTHY, LOOK, ACT = "healthy", "look", "act"
OVERDUE = 2.0  # intervals since the last success; as the alert has it, and `max_age`
NOT_STARTED = 3600.0  # seconds that a run which was due may be late; as the alert has it
# What keeps an alarm from a new champion, in the order of their weight.
_OBSTACLES = ("waiting_for_labels", "unconfirmed", "tried_before", "cooldown", "retrain_never")


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know."""

    level: str  # look | act
    code: str  # name of the alert about the same, such as major_drift for WineDriftMajorDrift
    text: str  # a clause, without a full stop
    step: str  # what to do about it, as an imperative


@dataclass(frozen=True)
class Verdict:
    """How things stand."""

    level: str  # healthy | look (a person should know) | act (it does not mend itself)
    sentence: str  # the heaviest finding, or what is well; without a full stop
    findings: tuple[Finding, ...]  # the heaviest first; of the same level causes before effects
    ahead: tuple[str, ...]  # what comes by itself: next run, retraining, labels, each a clause

    @property
    def steps(self) -> tuple[str, ...]:
        """What a person should do, in this order."""
        return tuple(dict.fromkeys(finding.step for finding in self.findings))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "steps": self.steps}


def verdict(
    snapshot: Snapshot,
    last: Mapping[str, Any] | None = None,
    *,
    now: float,
    change: Change | None = None,
    labels: Labels | None = None,
) -> Verdict:
    """Judge how things stand, in plain words.

    Parameters
    ----------
    snapshot : Snapshot
        What the ledger knows.
    last : mapping or None
        Record of the last batch, refused ones included; `snapshot.record` is of the last processed.
    now : float
        Unix time in seconds.
    change : Change or None
        That retraining is at work on.
    labels : Labels or None
        Labelled rows that there are to learn from; None: it is not told what retraining waits for.

    Examples
    --------
    >>> from wine_drift.snapshot import Snapshot
    >>> new = verdict(Snapshot(), now=0)
    >>> new.level, new.sentence
    ('look', 'nothing has run here yet')
    >>> run = {"success": True, "interval": 900, "finished_at": 0.0, "outcome": "nothing_waiting"}
    >>> late = verdict(Snapshot(champion={}, run=run), now=3600)
    >>> late.level, late.sentence
    ('act', 'no run has ended well for 1.0 h, and one is due at least every 15 min')
    """
    findings = tuple(sorted(_findings(snapshot, last, now), key=lambda each: each.level != ACT))
    ahead = (*_runs(snapshot, now), *_retraining(snapshot, change, labels), *_labels(snapshot, now))
    if findings:
        return Verdict(findings[0].level, findings[0].text, findings, ahead)
    return Verdict(HEALTHY, _well(snapshot), (), ahead)


def _findings(snapshot: Snapshot, last: Mapping[str, Any] | None, now: float) -> Iterator[Finding]:
    """Whatever is not well, causes before their effects."""
    if snapshot.run is None and snapshot.champion is None:
        yield Finding(
            LOOK,
            "absent",
            "nothing has run here yet",
            "start with `wine-drift run-batch`: `--data` names a table, `--inbox` a folder of them",
        )
        return
    yield from _of_runs(snapshot, last, now)
    if snapshot.record is not None:
        yield from _of_batches(snapshot, snapshot.record, now)


def _of_runs(snapshot: Snapshot, last: Mapping[str, Any] | None, now: float) -> Iterator[Finding]:
    """Do runs come, and do they end well?"""
    run = snapshot.run
    if run is None:
        return
    age = now - (snapshot.last_success or run["finished_at"])
    late = now - (run.get("next_run") or now)
    if age > OVERDUE * run["interval"]:
        every = duration(run["interval"])
        told = f"no run has ended well for {duration(age)}, and one is due at least every {every}"
        yield Finding(ACT, "overdue", told, LATE)
    elif late > NOT_STARTED:
        yield Finding(ACT, "run_not_started", f"a run was due {duration(late)} ago", LATE)
    if run["success"]:
        return
    if run["outcome"] == "retraining_failed" and snapshot.record is not None:
        why = snapshot.record["retraining"]["error"]
        told = f"retraining failed, and the champion goes on serving: {why}"
        yield Finding(ACT, "retrain_failed", told, "mend that, then `wine-drift train`")
    elif run["outcome"] == "quarantined" and last and last["outcome"] == "quarantined":
        told = f"{last['batch']['name']} is in quarantine: {last['error']}"
        yield Finding(
            ACT, "run_failed", told, "mend the file where it comes from, and send it again"
        )
    else:
        told = f"the last run failed: {run['outcome']}"
        yield Finding(ACT, "run_failed", told, "see what it printed, or its log")


def _of_batches(snapshot: Snapshot, record: Mapping[str, Any], now: float) -> Iterator[Finding]:
    """What the last batches say, and whether retraining gets anywhere."""
    limits, drift = record["thresholds"], record["drift"]
    age = now - (snapshot.batch_at or now)
    if age > limits["batch_wait"]:
        told = f"there has been no new batch for {duration(age)}"
        yield Finding(ACT, "no_batch", told, "see why the sender sends nothing")
    if "data_fault" in record["decision"]["reasons"]:
        mend = "mend the source; if it has changed for good, `accept` the features"
        share, faults = record["batch"]["faulty_share"], drift["faults"]
        if faults:
            more = f", and {len(faults) - 1} more" if faults[1:] else ""
            told = f"the source is at fault: {fault_text(faults[0])}{more}"
            yield Finding(ACT, "data_fault", told, mend)
        if share >= limits["max_set_aside"] or not faults:
            told = f"{share:.0%} of the rows of the last batch are faulty"
            yield Finding(ACT, "rows_rejected", told, "see HOME/quarantine, and mend the source")
        return
    yield from _alarms(snapshot, record, now)
    if snapshot.recent_retrains > LOOP_TRIES:
        told = f"{snapshot.recent_retrains} challengers in the last {LOOP_BATCHES} batches"
        yield Finding(
            ACT,
            "retrain_loop",
            told,
            "see `wine-drift history list`: promoted, or rejected each time?",
        )


def _alarms(snapshot: Snapshot, record: Mapping[str, Any], now: float) -> Iterator[Finding]:
    """Drift, or a drop of quality, with what is done about it."""
    drift, decision = record["drift"], snapshot.decision or record["decision"]
    answered = snapshot.labelled or record
    since = snapshot.waiting_since
    level, step = LOOK, "see `wine-drift explain`"
    if since is not None and now - since > record["thresholds"]["label_wait"]:
        level, step = ACT, "bring labels with `wine-drift add-labels`"
        told = f"retraining has waited for labels for {duration(now - since)}"
        yield Finding(level, "waiting_for_labels", told, step)
    elif "retrain_never" in decision["reasons"]:
        level, step = ACT, "see `wine-drift explain`, then `wine-drift train`"
    if answered["quality"]["status"] == "drop":
        told = f"{REASONS['quality_drop']}{_answer(answered, decision)}"
        yield Finding(level, "quality_drop", told, step)
    if drift["status"] in ("drift", "major"):
        major = drift["status"] == "major"
        told = f"{REASONS['drift_major' if major else 'drift']}{_columns(drift)}"
        if major:
            told += _answer(record, decision)
        code = "major_drift" if major else "drift"
        yield Finding(
            level if major else LOOK, code, told, step if major else "see `wine-drift explain`"
        )


def _columns(drift: Mapping[str, Any]) -> str:
    names = [feature["name"] for feature in ranked(drift["features"]) if feature["drifted"]]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" ({', '.join(names[:3])}{more})" if names else ""


def _answer(record: Mapping[str, Any], decision: Mapping[str, Any]) -> str:
    """What was done about an alarm, as the end of a sentence."""
    tried = record["retraining"]
    if tried and tried["outcome"] == "promoted":
        return f"; {tried['challenger']} has learnt from it and serves from now on"
    if tried and tried["outcome"] == "rejected":
        return "; a challenger was tried and is no better"
    told = [REASONS[code] for code in _OBSTACLES if code in decision["reasons"]]
    return f"; {told[0]}" if told else ""


def _well(snapshot: Snapshot) -> str:
    """What is well."""
    if snapshot.record is None:
        return "the champion waits for its first batch"
    decision = snapshot.decision or snapshot.record["decision"]
    told = "; ".join(REASONS[code] for code in decision["reasons"])
    quality = (snapshot.labelled or snapshot.record)["quality"]["status"]
    told += {"ok": "; quality is as it should be", "not_judged": "; quality is not judged yet"}.get(
        quality, ""
    )
    tried = snapshot.record["retraining"]
    if tried and tried["outcome"] == "promoted":
        told += f"; {tried['challenger']} serves from now on"
    return f"batch {snapshot.record['batch']['sequence']}: {told}"


def _runs(snapshot: Snapshot, now: float) -> Iterator[str]:
    """Runs to come, and those that did not."""
    run = snapshot.run or {}
    if run.get("next_run"):
        due = f"the next run is due {when(run['next_run'])} ({run['schedule']})"
        yield due if run["next_run"] >= now else due.replace("is due", "was due")
    if run.get("pending"):
        files = counted(run["pending"], "file", "files")
        yield f"{files} waited in the inbox when the last run ended"
    for name, why in (("missed", "did not come"), ("skipped", "fell into one that was at work")):
        total = int(snapshot.counters.get((f"runs_{name}", ()), 0))
        if total:
            lately = f"{run.get(name, 0)} of them before the last one"
            yield f"runs that were due and {why}: {total}, {lately}"


def _retraining(snapshot: Snapshot, change: Change | None, labels: Labels | None) -> Iterator[str]:
    """What retraining waits for."""
    if labels is None or snapshot.champion is None:
        return
    if change is None:
        yield "retraining: nothing asks for it"
        return
    there = replace(labels, n_batches=max(labels.n_batches, 1))
    missing = []
    if not there.enough:
        missing.append(
            f"{labels.min_rows} labelled rows, {labels.min_positives} of them positive "
            f"(there are {labels.n_rows}, {labels.n_positive})"
        )
    if labels.n_since_change < 2 * change.tried:
        missing.append(
            f"{2 * change.tried} labelled rows since batch {change.since} "
            f"(there are {labels.n_since_change})"
        )
    waits = f"waits for {' and '.join(missing)}" if missing else "may be tried with the next batch"
    if change.left is None:
        yield f"retraining {waits}"
    else:
        name, more = snapshot.champion["version"], counted(change.left, "time", "times")
        yield f"{name} is followed up, at most {more} more; the next try {waits}"


def _labels(snapshot: Snapshot, now: float) -> Iterator[str]:
    """Labels that are still to come."""
    waiting = snapshot.waiting
    if waiting.get("rows"):
        rows = counted(int(waiting["rows"]), "row", "rows")
        batches = counted(int(waiting["batches"]), "batch", "batches")
        since = duration(now - waiting["oldest_at"])
        yield f"labels are missing for {rows} of {batches}, the oldest for {since}"
