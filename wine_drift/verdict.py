"""Is all well? What the ledger knows, turned into one verdict with what a person should do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from wine_drift.explanation import ranked
from wine_drift.policy import LOOP_BATCHES, LOOP_TRIES, Change, Labels
from wine_drift.wording import (
    LATE,
    REASONS,
    counted,
    duration,
    fault_text,
    last_decision,
    when,
)

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
    # A clause without a full stop. It begins with a word and no name: it may begin a sentence.
    text: str
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
    judged: Mapping[str, Any] | None = None,
    answered: Mapping[str, Any] | None = None,
    retrain: str = "auto",
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
    judged, answered : mapping or None
        Records of the last batches that tell of drift and of quality, see `tells_of_drift` and
        `tells_of_quality`: an alarm lasts until a batch says otherwise. None: the last processed
        one, and the last with a label.
    retrain : str
        As in `policy.decide`.

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
    known = _Known(snapshot, last, change, judged, answered)
    findings = tuple(sorted(_findings(known, now), key=lambda each: each.level != ACT))
    ahead = (
        *_runs(known, now),
        *_retraining(known, labels, retrain),
        *_labels(snapshot, now),
    )
    if findings:
        return Verdict(findings[0].level, findings[0].text, findings, ahead)
    return Verdict(HEALTHY, _well(known), (), ahead)


def tells_of_drift(record: Mapping[str, Any]) -> bool:
    """Whether a processed batch says if there is drift, or that its source is at fault."""
    return bool(record["drift"]["status"] != "not_judged") or _at_fault(record)


def tells_of_quality(record: Mapping[str, Any]) -> bool:
    """Whether a processed batch says how good the model is: one at fault does not."""
    return bool(record["quality"]["status"] != "not_judged") and not _at_fault(record)


def _at_fault(record: Mapping[str, Any]) -> bool:
    return bool("data_fault" in record["decision"]["reasons"])


@dataclass(frozen=True)
class _Known:
    """What there is to judge by."""

    snapshot: Snapshot
    last: Mapping[str, Any] | None
    change: Change | None
    last_judged: Mapping[str, Any] | None
    last_answered: Mapping[str, Any] | None

    @property
    def record(self) -> Mapping[str, Any]:
        """Of the last processed batch."""
        assert self.snapshot.record is not None
        return self.snapshot.record

    @property
    def judged(self) -> Mapping[str, Any]:
        """Of the last one that tells of drift."""
        return self.last_judged or self.record

    @property
    def labelled(self) -> Mapping[str, Any]:
        """Of the last one with a label."""
        return self.snapshot.labelled or self.record

    @property
    def answered(self) -> Mapping[str, Any]:
        """Of the last one that tells of quality."""
        return self.last_answered or self.labelled

    @property
    def decision(self) -> Mapping[str, Any]:
        """The last one; of a batch that nothing could be judged of, that of the one before."""
        decision = self.snapshot.decision or self.record["decision"]
        of_record = _is_later(self.record, self.judged) and decision == self.record["decision"]
        return last_decision(self.judged) if of_record else decision

    @property
    def serves(self) -> str:
        """The champion."""
        return str((self.snapshot.champion or {}).get("version"))

    def is_served_by_another(self, record: Mapping[str, Any]) -> bool:
        """Whether the champion was changed since that batch: by hand, or by other labels."""
        tried = record["retraining"]
        promoted = tried is not None and tried["outcome"] == "promoted"
        after = tried["challenger"] if promoted else record["model"]["version"]
        return self.serves != str(after)

    @property
    def failure(self) -> str | None:
        """Why the last challenger failed; None: none did, or something was done about it."""
        tried = [each["retraining"] for each in (self.record, self.judged) if each["retraining"]]
        failed = [part for part in tried if part["outcome"] == "failed"]
        if not failed or self.is_served_by_another(self.record):
            return None
        last = self.snapshot.retraining or failed[0]  # by hand it may have been tried since
        if last["gate"] is not None and last["gate"].get("outcome") != "failed":
            return None
        return str(last.get("error") or failed[0]["error"])


def _is_later(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(record["batch"]["sequence"] > other["batch"]["sequence"])


def _findings(known: _Known, now: float) -> Iterator[Finding]:
    """Whatever is not well, causes before their effects."""
    if known.snapshot.run is None and known.snapshot.champion is None:
        yield Finding(
            LOOK,
            "absent",
            "nothing has run here yet",
            "start with `wine-drift run-batch`: `--data` names a table, `--inbox` a folder of them",
        )
        return
    yield from _of_runs(known, now)
    if known.snapshot.record is not None:
        yield from _of_batches(known, now)


def _of_runs(known: _Known, now: float) -> Iterator[Finding]:
    """Do runs come, and do they end well?"""
    run, last = known.snapshot.run, known.last
    if run is None:
        told = "no run yet: the champion waits for its first batch"
        yield Finding(LOOK, "absent", told, "start `wine-drift run-batch`, then a schedule")
        return
    age = now - (known.snapshot.last_success or run["finished_at"])
    late = now - (run.get("next_run") or now)
    if age > OVERDUE * run["interval"]:
        every = duration(run["interval"])
        told = f"no run has ended well for {duration(age)}, and one is due at least every {every}"
        yield Finding(ACT, "overdue", told, LATE)
    elif late > NOT_STARTED:
        yield Finding(ACT, "run_not_started", f"a run was due {duration(late)} ago", LATE)
    refused = last is not None and last["outcome"] == "quarantined"
    if last is not None and refused:  # and stays so, though later runs find nothing waiting
        told = f"batch {last['batch']['name']} is in quarantine: {last['error']}"
        yield Finding(
            ACT, "run_failed", told, "mend the file where it comes from, and send it again"
        )
    told_elsewhere = {"retraining_failed", *(("quarantined",) if refused else ())}
    if not run["success"] and run["outcome"] not in told_elsewhere:
        told = f"the last run failed: {run['outcome']}"
        yield Finding(ACT, "run_failed", told, "see what it printed, or its log")


def _of_batches(known: _Known, now: float) -> Iterator[Finding]:
    """What the last batches say, and whether retraining gets anywhere."""
    snapshot, judged = known.snapshot, known.judged
    if known.failure is not None:
        told = f"retraining failed, and the champion goes on serving: {known.failure}"
        yield Finding(ACT, "retrain_failed", told, "mend that, then `wine-drift train`")
    age = now - (snapshot.batch_at or now)
    if age > known.record["thresholds"]["batch_wait"]:
        told = f"there has been no new batch for {duration(age)}"
        yield Finding(ACT, "no_batch", told, "see why the sender sends nothing")
    if _at_fault(judged):
        mend = "mend the source; if it has changed for good, `accept` the features"
        share, faults = judged["batch"]["faulty_share"], judged["drift"]["faults"]
        unknown = _unjudged(known)
        if faults:
            more = f", and {len(faults) - 1} more" if faults[1:] else ""
            told = f"the source is at fault: {fault_text(faults[0])}{more}{unknown}"
            yield Finding(ACT, "data_fault", told, mend)
        if share >= judged["thresholds"]["max_set_aside"] or not faults:
            told = f"{share:.0%} of the rows of batch {judged['batch']['sequence']} are faulty"
            step = "see HOME/quarantine, and mend the source"
            yield Finding(ACT, "rows_rejected", f"{told}{unknown}", step)
        return
    yield from _alarms(known, now)
    if snapshot.recent_retrains > LOOP_TRIES:
        told = f"{snapshot.recent_retrains} challengers in the last {LOOP_BATCHES} batches"
        yield Finding(
            ACT,
            "retrain_loop",
            told,
            "see `wine-drift history list`: promoted, or rejected each time?",
        )


def _alarms(known: _Known, now: float) -> Iterator[Finding]:
    """Drift, or a drop of quality, with what is done about it."""
    judged, answered, change = known.judged, known.answered, known.change
    drift, since = judged["drift"], known.snapshot.waiting_since
    replaced = known.is_served_by_another(judged)  # then what was decided before is no more
    level, explain = LOOK, "see `wine-drift explain`"
    if _is_later(known.record, judged):
        explain = f"see `wine-drift explain {judged['batch']['sequence']}`"
    step = explain
    if since is not None and now - since > judged["thresholds"]["label_wait"] and not replaced:
        level, step = ACT, "bring labels with `wine-drift add-labels`"
        told = f"retraining has waited for labels for {duration(now - since)}"
        yield Finding(level, "waiting_for_labels", told, step)
    elif "retrain_never" in known.decision["reasons"] and not replaced:
        level, step = ACT, "see `wine-drift explain`, then `wine-drift train`"
    dropped = tells_of_quality(answered) and answered["quality"]["status"] == "drop"
    if dropped:
        told = f"{REASONS['quality_drop']}{_answer(known, answered)}{_unanswered(known)}"
        yield Finding(level, "quality_drop", told, step)
    if drift["status"] in ("drift", "major"):
        major = drift["status"] == "major"
        told = f"{REASONS['drift_major' if major else 'drift']}{_columns(drift)}"
        if major:
            told += _answer(known, judged)
        code = "major_drift" if major else "drift"
        told += _unjudged(known)
        yield Finding(level if major else LOOK, code, told, step if major else explain)
    elif not dropped and change is not None and change.left is None and not replaced:
        told = f"the alarm of batch {change.since} is not over: no batch since then was calm"
        yield Finding(level, "quality_drop" if change.answers else "major_drift", told, step)


def _unjudged(known: _Known) -> str:
    """That a later batch says nothing of it, as the end of a sentence."""
    if not _is_later(known.record, known.judged):
        return ""
    return f"; batch {known.record['batch']['sequence']} has too few rows to be judged"


def _unanswered(known: _Known) -> str:
    """That later labels say nothing of it, as the end of a sentence."""
    labelled = known.labelled
    if not _is_later(labelled, known.answered):
        return ""
    number = labelled["batch"]["sequence"]
    if _at_fault(labelled):
        return f"; the labels of batch {number} are not judged: its source was at fault"
    return f"; the labels of batch {number} could not be judged"


def _columns(drift: Mapping[str, Any]) -> str:
    names = [feature["name"] for feature in ranked(drift["features"]) if feature["drifted"]]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" ({', '.join(names[:3])}{more})" if names else ""


def _answer(known: _Known, record: Mapping[str, Any]) -> str:
    """What was done about an alarm, as the end of a sentence."""
    tried = record["retraining"]
    promoted = tried is not None and tried["outcome"] == "promoted"
    if known.is_served_by_another(record):
        if promoted and known.serves == record["model"]["version"]:
            return f"; {tried['challenger']} has learnt from it, but {known.serves} serves again"
        return f"; {known.serves} has taken over since"
    if promoted:
        return f"; {tried['challenger']} has learnt from it and serves from now on"
    if tried and tried["outcome"] == "rejected":
        return "; a challenger was tried and is no better"
    told = [REASONS[code] for code in _OBSTACLES if code in known.decision["reasons"]]
    return f"; {told[0]}" if told else ""


def _well(known: _Known) -> str:
    """What is well."""
    if known.snapshot.record is None:
        return "the champion waits for its first batch"
    record, labelled = known.record, known.labelled
    decision = known.snapshot.decision or record["decision"]
    told = "; ".join(REASONS[code] for code in decision["reasons"])
    if _at_fault(labelled):
        number = labelled["batch"]["sequence"]
        told += f"; quality of batch {number} is not judged: its source was at fault"
    else:
        quality = known.answered["quality"]["status"]
        told += {
            "ok": "; quality is as it should be",
            "not_judged": "; quality is not judged yet",
        }.get(quality, "")
    tried = record["retraining"]
    if known.is_served_by_another(record):
        told += f"; {known.serves} has taken over since"
    elif tried and tried["outcome"] == "promoted":
        told += f"; {tried['challenger']} serves from now on"
    return f"batch {record['batch']['sequence']}: {told}"


def _runs(known: _Known, now: float) -> Iterator[str]:
    """Runs to come, and those that did not."""
    snapshot = known.snapshot
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
    if run.get("outcome") == "retraining_failed" and known.failure is None:
        yield "`wine-drift health` tells that the last run failed, until one ends well"


def _retraining(known: _Known, labels: Labels | None, retrain: str) -> Iterator[str]:
    """What retraining waits for."""
    change, champion = known.change, known.snapshot.champion
    if labels is None or champion is None:
        return
    decided = known.decision["reasons"] if known.snapshot.record else ()
    if retrain == "never" or "retrain_never" in decided:
        yield "retraining is switched off"
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
    waits = f"waits for {' and '.join(missing)}" if missing else "may come with the next batch"
    if change.left is None:
        yield f"retraining {waits}"
    else:
        name, more = champion["version"], counted(change.left, "time", "times")
        yield f"champion {name} is followed up, at most {more} more; the next try {waits}"


def _labels(snapshot: Snapshot, now: float) -> Iterator[str]:
    """Labels that are still to come."""
    waiting = snapshot.waiting
    if waiting.get("rows"):
        rows = counted(int(waiting["rows"]), "row", "rows")
        batches = counted(int(waiting["batches"]), "batch", "batches")
        since = duration(now - waiting["oldest_at"])
        yield f"labels are missing for {rows} of {batches}, the oldest for {since}"
