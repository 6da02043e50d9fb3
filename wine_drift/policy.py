"""Verdicts in, decision with reasons out; and when to try again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

DRIFT_REASONS = {
    "warn": "drift_warn",
    "minor": "drift_minor",
    "drift": "drift",
    "major": "drift_major",
}
QUALITY_REASONS = {"warn": "quality_warn", "minor": "quality_minor", "drop": "quality_drop"}
FOLLOW_UP, FORCED, MANUAL = "follow_up", "forced", "manual"
# Rows double from try to try, so a change is tried at most five times in 20 batches of one size.
LOOP_BATCHES, LOOP_TRIES = 20, 6
FOLLOW_UPS = 3  # tries after a promotion, at 2, 4 and 8 times the rows that it was based on


@dataclass(frozen=True)
class Decision:
    """What to do after a batch, and why."""

    action: str  # keep | hold | retrain
    reasons: tuple[str, ...]  # codes; `wording.REASONS` has a sentence for each

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"action": self.action, "reasons": list(self.reasons)}


@dataclass(frozen=True)
class Change:
    """A change that retraining is at work on; the ledger keeps it between batches."""

    since: int  # number of the batch that raised the alarm
    tried: int = 0  # labelled rows since then when a challenger was last tried; 0: none was
    left: int | None = None  # tries left after a promotion; None: there was no promotion yet
    answers: bool = False  # whether quality dropped: only labels can tell that it is over

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any] | None) -> Change | None:
        """Inverse of `to_dict`; None stays None."""
        return None if data is None else cls(**data)


@dataclass(frozen=True)
class Labels:
    """Labelled rows that there are to learn from, and how many are enough."""

    n_rows: int  # since the last promotion, this batch included
    n_positive: int
    n_since_change: int  # of batches since the change, kept or not
    n_batches: int  # since the change with rows that are kept
    min_rows: int
    min_positives: int

    @property
    def enough(self) -> bool:
        """Whether there is something to learn from, and to compare on."""
        few = self.n_rows < self.min_rows or self.n_positive < self.min_positives
        return not few and self.n_batches > 0


def follow(
    change: Change | None,
    *,
    drift_status: str,
    quality_status: str,
    at_fault: bool,
    sequence: int,
    cooling: bool = False,
) -> Change | None:
    """What change there is after a batch: one begins with an alarm and ends when all is calm.

    A batch between calm and alarm leaves it as it is, and so does one at fault; where quality
    dropped, so does one without labels. A change that led to a promotion ends with its last try, or
    when an alarm tells of another one.

    Parameters
    ----------
    change : Change or None
        Before the batch.
    drift_status, quality_status : str
        As in `detector.STATUSES` and `detector.QUALITY_STATUSES`, or "not_judged".
    sequence : int
        Number of the batch.
    cooling : bool
        The champion has only just been changed: an alarm may be about the change before.

    Examples
    --------
    >>> usual = dict(quality_status="ok", at_fault=False, sequence=7)
    >>> follow(None, drift_status="major", **usual)
    Change(since=7, tried=0, left=None, answers=False)
    >>> follow(Change(5, 100), drift_status="warn", **usual)
    Change(since=5, tried=100, left=None, answers=False)
    >>> follow(Change(5, 100), drift_status="ok", **usual) is None
    True
    """
    if at_fault:
        return change
    alarm, dropped = _is_alarm(drift_status, quality_status), quality_status == "drop"
    if change is None or (change.left is not None and alarm and not cooling):
        return Change(sequence, answers=dropped) if alarm else None
    if change.left is not None:
        return change
    calm = {drift_status, quality_status} <= {"ok", "not_judged"}
    calm = calm and sequence >= change.since  # late labels may be of a batch before it
    if calm and (quality_status if change.answers else drift_status) == "ok":
        return None
    return replace(change, answers=change.answers or dropped)


def decide(
    change: Change | None,
    labels: Labels,
    *,
    drift_status: str,
    quality_status: str,
    causes: tuple[str, ...],
    at_fault: bool,
    retrain: str,
    cooling: bool = False,
) -> Decision:
    """Turn what was measured into one action.

    Parameters
    ----------
    change : Change or None
        As `follow` left it.
    labels : Labels
    drift_status, quality_status : str
        As in `detector.STATUSES` and `detector.QUALITY_STATUSES`, or "not_judged".
    causes : tuple of str
        Out of `causes.CAUSES`.
    at_fault : bool
        The source is: what it sent is nothing to learn from.
    retrain : str
        "auto"; "never"; or "force", to try a challenger whatever was measured.
    cooling : bool
        The champion has only just been changed: an alarm is told and not acted on.

    Examples
    --------
    >>> usual = dict(quality_status="ok", causes=(), at_fault=False, retrain="auto")
    >>> many, few = (Labels(n, n // 7, n, 3, 100, 10) for n in (300, 20))
    >>> decide(None, many, drift_status="ok", **usual)
    Decision(action='keep', reasons=('no_drift',))
    >>> decide(Change(7), many, drift_status="major", **(usual | {"causes": ("covariate_drift",)}))
    Decision(action='retrain', reasons=('drift_major', 'covariate_drift'))
    >>> decide(Change(7), few, drift_status="major", **usual)
    Decision(action='hold', reasons=('drift_major', 'waiting_for_labels'))
    >>> decide(Change(7, tried=200), many, drift_status="major", **usual)
    Decision(action='hold', reasons=('drift_major', 'tried_before'))
    """
    if at_fault:  # which is what changed, and all that can be said
        return Decision("hold", ("data_fault",))
    dropped = quality_status == "drop"
    told = [DRIFT_REASONS[drift_status]] if drift_status in DRIFT_REASONS else []
    if quality_status in QUALITY_REASONS:
        told.insert(0 if dropped else 1, QUALITY_REASONS[quality_status])
    reasons = [*told, *causes]
    alarm = _is_alarm(drift_status, quality_status)
    following = change is not None and change.left is not None
    due = change is not None and labels.n_since_change >= 2 * change.tried
    if retrain == "force":
        if labels.enough:
            return Decision("retrain", (FORCED, *reasons))
        return Decision("hold", (FORCED, *reasons, "waiting_for_labels"))
    doubtful = only_answers(drift_status, quality_status)
    if retrain == "auto" and following and due and labels.enough and not doubtful:
        return Decision("retrain", (FOLLOW_UP, *reasons))
    if not alarm:
        quiet = "too_few_rows" if drift_status == "not_judged" else "no_drift"
        return Decision("keep", tuple(reasons) or (quiet,))
    if retrain == "never":
        return Decision("hold", (*reasons, "retrain_never"))
    if not labels.enough:
        return Decision("hold", (*reasons, "waiting_for_labels"))
    if following or cooling:
        return Decision("hold", (*reasons, "cooldown"))
    if doubtful and labels.n_batches < 2:
        return Decision("hold", (*reasons, "unconfirmed"))
    if not due:
        return Decision("hold", (*reasons, "tried_before"))
    return Decision("retrain", tuple(reasons))


def after_try(change: Change | None, outcome: str, labels: Labels) -> Change | None:
    """What is left of a change once a challenger was tried.

    The next try takes twice the labelled rows: so few of them are made that their errors do not add
    up, and the last ones have plenty to go by.

    >>> labels = Labels(300, 40, 100, 1, 100, 10)
    >>> after_try(Change(7), "promoted", labels)
    Change(since=7, tried=100, left=3, answers=False)
    >>> after_try(Change(7, tried=200, left=1), "rejected", labels) is None
    True
    >>> after_try(Change(7), "waiting", labels) == Change(7)
    True
    """
    if change is None or outcome in ("waiting", "failed"):
        return change
    change = replace(change, tried=max(labels.n_since_change, 1))
    if change.left is not None:
        return replace(change, left=change.left - 1) if change.left > 1 else None
    return replace(change, left=FOLLOW_UPS) if outcome == "promoted" else change


def only_answers(drift_status: str, quality_status: str) -> bool:
    """Whether an alarm is about answers alone, which labels that are wrong look like.

    Such a change is believed once batches after the alarm tell of it too.
    """
    return quality_status == "drop" and drift_status not in ("drift", "major")


def _is_alarm(drift_status: str, quality_status: str) -> bool:
    return drift_status == "major" or quality_status == "drop"
