"""How things stand in a home: what status tells, read at one moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from wine_drift.ledger import Ledger
from wine_drift.policy import Change, Labels
from wine_drift.settings import Settings
from wine_drift.snapshot import Snapshot
from wine_drift.verdict import Verdict, tells_of_drift, tells_of_quality, verdict

if TYPE_CHECKING:
    from wine_drift.rows import Lot

LOOKED_AT = 200  # batches, at most, for one that could be judged


@dataclass(frozen=True)
class Standing:
    """What the ledger knows, and what it amounts to."""

    verdict: Verdict
    snapshot: Snapshot
    records: Sequence[Mapping[str, Any]]  # of the last batches, oldest first
    # Last batch before, and Unix time of the change; None: the champion serves from the beginning.
    serves_since: tuple[int, float] | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        known, (batch, at) = self.snapshot, self.serves_since or (None, None)
        return {
            "verdict": self.verdict.to_dict(),
            "champion": known.champion,
            "serves_since": {"batch": batch, "at": at},
            "run": known.run,
            "last_success": known.last_success or None,
            "decision": known.decision,
            "waiting": known.waiting,
            "waiting_since": known.waiting_since,
            "retraining": known.retraining,
            "labelled": known.labelled,
            "batches": self.records,
        }


def standing(settings: Settings, *, now: float) -> Standing:
    """Read how things stand; a home that is not there has nothing to tell.

    Parameters
    ----------
    settings : Settings
        `last` is how many batches are told of.
    now : float
        Unix time in seconds.

    Raises
    ------
    StateUnreadable
        The ledger is damaged, or of another release.
    """
    with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
        return standing_of(ledger, settings, now=now)


def standing_of(ledger: Ledger, settings: Settings, *, now: float) -> Standing:
    """The same of a ledger that is open."""
    with ledger.still():
        records, snapshot, change = (
            ledger.records(settings.last),
            ledger.snapshot(),
            ledger.change(),
        )
        labels, swapped = labels_to_learn_from(ledger, settings, change), ledger.champion_since()
        since = None
        if swapped:
            since = swapped, ledger.champion_at() or ledger.processed_at(swapped)
        judged = _last(ledger, snapshot.record, tells_of_drift)
        answered = _last(ledger, snapshot.labelled, tells_of_quality, labelled=True)
    found = verdict(
        snapshot,
        records[-1] if records else None,
        now=now,
        change=change,
        labels=labels,
        judged=judged,
        answered=answered,
        retrain=settings.retrain,
    )
    return Standing(found, snapshot, records, since)


def _last(
    ledger: Ledger,
    newest: Mapping[str, Any] | None,
    tells: Callable[[Mapping[str, Any]], bool],
    *,
    labelled: bool = False,
) -> Mapping[str, Any] | None:
    """Record of the last batch that tells, that one included; None if none of the last ones do."""
    if newest is None:
        return None
    before = ledger.before(newest["batch"]["sequence"], labelled=labelled)
    return next(filter(tells, chain([newest], islice(before, LOOKED_AT))), None)


def labels_to_learn_from(
    ledger: Ledger, settings: Settings, change: Change | None, fresh: Lot | None = None
) -> Labels:
    """Labelled rows since the champion's training, and those of a batch in hand."""
    learnt = ledger.learnt()
    n_rows, n_positive = ledger.labelled_counts(after=learnt)
    since = change.since if change else 0
    batches, new = ledger.window_batches(since=since, after=learnt), 0
    if fresh is not None:
        n_rows, n_positive = n_rows + fresh.n_rows, n_positive + fresh.n_positive
        new = fresh.n_rows if fresh.newest >= since else 0  # they are of one batch
        batches = {*batches, fresh.newest} if new else batches
    return Labels(
        n_rows,
        n_positive,
        ledger.labelled_since(since) + new if change else 0,
        len(batches),
        settings.min_labelled,
        settings.min_positives,
    )
