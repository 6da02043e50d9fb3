"""Every way a decision can go, and how often a change is tried."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from wine_drift import wording
from wine_drift.detector import NOT_JUDGED, QUALITY_STATUSES, STATUSES
from wine_drift.exposition import ACTIONS, RETRAIN_OUTCOMES, RETRAIN_REASONS
from wine_drift.policy import (
    DRIFT_REASONS,
    FOLLOW_UPS,
    Change,
    Decision,
    Labels,
    after_try,
    decide,
    follow,
    only_answers,
)
from wine_drift.schema import CAUSES

ENOUGH = Labels(
    n_rows=300, n_positive=40, n_since_change=100, n_batches=2, min_rows=100, min_positives=10
)
USUAL: dict[str, Any] = {
    "drift_status": "ok",
    "quality_status": "ok",
    "causes": (),
    "at_fault": False,
    "retrain": "auto",
    "cooling": False,
}
MAJOR = {"drift_status": "major"}
DROP = {"quality_status": "drop"}
CONCEPT = {"causes": ("concept_drift",)}
NEW = {"change": Change(7)}
TRIED = {"change": Change(5, tried=100)}
PROMOTED = {"change": Change(5, tried=100, left=3)}


def labels(**changes: int) -> dict[str, Labels]:
    """Enough labels but for these figures."""
    return {"labels": replace(ENOUGH, **changes)}


def decided(changes: dict[str, Any]) -> Decision:
    """The decision of a usual batch with these changes, with enough labels."""
    given = {"change": None, "labels": ENOUGH} | USUAL | changes
    return decide(given.pop("change"), given.pop("labels"), **given)


@pytest.mark.parametrize(
    ("changes", "action", "reasons"),
    [
        pytest.param({}, "keep", ("no_drift",), id="healthy"),
        pytest.param({"drift_status": NOT_JUDGED}, "keep", ("too_few_rows",), id="small"),
        pytest.param({"drift_status": "warn"}, "keep", ("drift_warn",), id="perhaps drift"),
        pytest.param({"drift_status": "minor"}, "keep", ("drift_minor",), id="trivial drift"),
        pytest.param({"drift_status": "drift"}, "keep", ("drift",), id="drift alone"),
        pytest.param(
            {"drift_status": "drift", "causes": ("label_shift",)},
            "keep",
            ("drift", "label_shift"),
            id="drift with a cause",
        ),
        pytest.param(MAJOR | NEW, "retrain", ("drift_major",), id="major drift"),
        pytest.param(
            MAJOR | NEW | {"causes": ("covariate_drift", "concept_drift")},
            "retrain",
            ("drift_major", "covariate_drift", "concept_drift"),
            id="major drift with two causes",
        ),
        pytest.param({"quality_status": "warn"}, "keep", ("quality_warn",), id="perhaps worse"),
        pytest.param({"quality_status": "minor"}, "keep", ("quality_minor",), id="hardly worse"),
        pytest.param({"quality_status": NOT_JUDGED}, "keep", ("no_drift",), id="blind"),
        pytest.param(
            {"drift_status": NOT_JUDGED, "quality_status": NOT_JUDGED},
            "keep",
            ("too_few_rows",),
            id="small and blind",
        ),
        pytest.param(DROP | NEW, "retrain", ("quality_drop",), id="worse"),
        pytest.param(
            DROP | NEW | CONCEPT,
            "retrain",
            ("quality_drop", "concept_drift"),
            id="worse with a cause",
        ),
        pytest.param(
            DROP | NEW | {"drift_status": NOT_JUDGED},
            "retrain",
            ("quality_drop",),
            id="small and worse",
        ),
        pytest.param(
            DROP | NEW | CONCEPT | {"drift_status": "drift"},
            "retrain",
            ("quality_drop", "drift", "concept_drift"),
            id="both",
        ),
        pytest.param(
            MAJOR | NEW | labels(n_rows=100, n_positive=10, n_since_change=1),
            "retrain",
            ("drift_major",),
            id="just enough labels",
        ),
        pytest.param(
            MAJOR | NEW | CONCEPT | labels(n_rows=99),
            "hold",
            ("drift_major", "concept_drift", "waiting_for_labels"),
            id="few labels",
        ),
        pytest.param(
            DROP | NEW | labels(n_positive=9),
            "hold",
            ("quality_drop", "waiting_for_labels"),
            id="few positives",
        ),
        pytest.param(
            MAJOR | NEW | labels(n_since_change=0, n_batches=0),
            "hold",
            ("drift_major", "waiting_for_labels"),
            id="no label since the change",
        ),
        pytest.param(
            MAJOR | NEW | {"retrain": "never"},
            "hold",
            ("drift_major", "retrain_never"),
            id="switched off",
        ),
        pytest.param(
            DROP | NEW | CONCEPT | {"retrain": "never"} | labels(n_since_change=0),
            "hold",
            ("quality_drop", "concept_drift", "retrain_never"),
            id="switched off, and without labels",
        ),
        pytest.param(
            PROMOTED | {"retrain": "never"} | labels(n_since_change=900),
            "keep",
            ("no_drift",),
            id="switched off with tries left",
        ),
        pytest.param({"at_fault": True}, "hold", ("data_fault",), id="fault alone"),
        pytest.param(
            {"at_fault": True, "drift_status": NOT_JUDGED},
            "hold",
            ("data_fault",),
            id="small fault",
        ),
        pytest.param(
            DROP | MAJOR | NEW | CONCEPT | {"at_fault": True},
            "hold",
            ("data_fault",),
            id="fault and all else",
        ),
        pytest.param(
            MAJOR | NEW | {"at_fault": True, "retrain": "never"} | labels(n_rows=0),
            "hold",
            ("data_fault",),
            id="fault where nothing could be done",
        ),
        pytest.param(
            {"at_fault": True, "retrain": "force"}, "hold", ("data_fault",), id="fault and force"
        ),
        pytest.param(
            MAJOR | TRIED | labels(n_since_change=199),
            "hold",
            ("drift_major", "tried_before"),
            id="tried, and not yet twice the rows",
        ),
        pytest.param(
            MAJOR | TRIED | labels(n_since_change=200),
            "retrain",
            ("drift_major",),
            id="tried, and twice the rows",
        ),
        pytest.param(
            DROP | NEW | labels(n_batches=1),
            "hold",
            ("quality_drop", "unconfirmed"),
            id="worse by the labels of one batch alone",
        ),
        pytest.param(
            DROP | NEW | {"drift_status": "minor"} | labels(n_batches=1),
            "hold",
            ("quality_drop", "drift_minor", "unconfirmed"),
            id="worse by the labels of one batch, and trivial drift",
        ),
        pytest.param(
            DROP | NEW | {"drift_status": "drift"} | labels(n_batches=1),
            "retrain",
            ("quality_drop", "drift"),
            id="worse by the labels of one batch, and its features say so too",
        ),
        pytest.param(
            MAJOR | NEW | labels(n_batches=1),
            "retrain",
            ("drift_major",),
            id="major drift of one batch",
        ),
        pytest.param(
            {"drift_status": "warn"} | TRIED | labels(n_since_change=200),
            "keep",
            ("drift_warn",),
            id="tried, twice the rows, and no alarm any more",
        ),
        pytest.param(
            MAJOR | {"cooling": True, "change": Change(7)},
            "hold",
            ("drift_major", "cooldown"),
            id="alarm soon after a promotion",
        ),
        pytest.param(
            MAJOR | PROMOTED | {"cooling": True} | labels(n_since_change=199),
            "hold",
            ("drift_major", "cooldown"),
            id="alarm soon after a promotion, with tries left",
        ),
        pytest.param(
            MAJOR | PROMOTED | {"cooling": True} | labels(n_since_change=200),
            "retrain",
            ("follow_up", "drift_major"),
            id="a follow-up is no answer to an alarm and waits for none",
        ),
        pytest.param(
            DROP | PROMOTED | {"cooling": True} | labels(n_since_change=200),
            "hold",
            ("quality_drop", "cooldown"),
            id="a follow-up does not learn answers that are in doubt",
        ),
        pytest.param(
            DROP
            | PROMOTED
            | {"cooling": True, "drift_status": "drift"}
            | labels(n_since_change=200),
            "retrain",
            ("follow_up", "quality_drop", "drift"),
            id="but answers that the features bear out",
        ),
        pytest.param(
            PROMOTED | labels(n_since_change=200), "retrain", ("follow_up",), id="follow-up"
        ),
        pytest.param(
            PROMOTED | labels(n_since_change=199), "keep", ("no_drift",), id="follow-up too early"
        ),
        pytest.param(
            PROMOTED | labels(n_since_change=200, n_rows=99),
            "keep",
            ("no_drift",),
            id="follow-up with few rows that are new to the champion",
        ),
        pytest.param(
            PROMOTED | {"quality_status": "warn"} | labels(n_since_change=200),
            "retrain",
            ("follow_up", "quality_warn"),
            id="follow-up while something is not quite right",
        ),
        pytest.param({"retrain": "force"}, "retrain", ("forced",), id="forced"),
        pytest.param(
            MAJOR | TRIED | CONCEPT | {"retrain": "force", "cooling": True},
            "retrain",
            ("forced", "drift_major", "concept_drift"),
            id="forced although tried and cooling",
        ),
        pytest.param(
            {"retrain": "force"} | labels(n_positive=9),
            "hold",
            ("forced", "waiting_for_labels"),
            id="forced with few positives",
        ),
    ],
)
def test_decision(changes: dict[str, Any], action: str, reasons: tuple[str, ...]) -> None:
    """Each situation has one action, and says why."""
    decision = decided(changes)
    assert (decision.action, decision.reasons) == (action, reasons)
    assert set(reasons) <= set(wording.REASONS)


DRIFT = [*STATUSES, NOT_JUDGED]
QUALITY = [*QUALITY_STATUSES, NOT_JUDGED]
CHANGES = [
    *(None, Change(5), Change(5, tried=50), Change(5, tried=100)),
    *(Change(5, tried=100, left=left) for left in range(1, FOLLOW_UPS + 1)),
]
WITH_ANSWERS = [replace(change, answers=True) for change in CHANGES if change is not None]


def situations() -> Iterator[dict[str, Any]]:
    """Every situation there is, the numbers of rows being next to each limit.

    Where there is an alarm `follow` has left a change.
    """
    n_labels = [
        Labels(n_rows, n_positive, n_since, n_batches, 100, 10)
        for n_rows in (99, 100)
        for n_positive in (9, 10)
        for n_since, n_batches in ((0, 0), (1, 1), (99, 1), (99, 2), (199, 2), (200, 1), (200, 2))
    ]
    causes = [(), CAUSES[:2]]
    names = ("drift_status", "quality_status", "at_fault", "cooling", "retrain", "causes")
    choices = (DRIFT, QUALITY, (False, True), (False, True), ("auto", "never", "force"), causes)
    for values in itertools.product(*choices):
        some = dict(zip(names, values, strict=True))
        for change, given in itertools.product(CHANGES, n_labels):
            if change is not None or some["at_fault"] or not is_alarm(some):
                yield some | {"change": change, "labels": given}


def is_alarm(some: dict[str, Any]) -> bool:
    """Major drift or a drop in quality."""
    return bool(some["quality_status"] == "drop" or some["drift_status"] == "major")


def test_any_decision_is_the_one_that_is_due() -> None:
    """In all 137 760 situations.

    A fault holds, whatever else. "never" never retrains; "force" does wherever there are labels.
    Without an alarm only a follow-up retrains. Nothing retrains without labels, within a cooldown
    (but for a follow-up), before there are twice the rows of the last try, or on the answers of one
    batch alone; nor does a follow-up on answers in doubt. Less trouble keeps where more did.
    Reasons come in order, each once, each with a sentence.
    """
    order = [
        *("data_fault", "forced", "follow_up", "quality_drop"),
        *DRIFT_REASONS.values(),
        *("quality_warn", "quality_minor"),
        *CAUSES,
        *("retrain_never", "waiting_for_labels", "cooldown", "unconfirmed", "tried_before"),
        *("no_drift", "too_few_rows"),
    ]
    place = {reason: number for number, reason in enumerate(order)}
    assert set(place) <= set(wording.REASONS)
    known: dict[tuple[str, ...], None] = {}
    n = 0
    for some in situations():
        n += 1
        decision, alarm = decided(some), is_alarm(some)
        action, reasons = decision.action, decision.reasons
        assert action in ACTIONS and reasons
        known[reasons] = None
        if some["at_fault"]:
            assert (action, reasons) == ("hold", ("data_fault",))
            continue
        change, given = some["change"], some["labels"]
        enough = given.n_rows == 100 and given.n_positive == 10 and given.n_batches > 0
        due = change is None or given.n_since_change >= 2 * change.tried
        following = change is not None and change.left is not None
        doubtful = alarm and some["drift_status"] not in ("drift", "major")
        assert (reasons[0] == "forced") == (some["retrain"] == "force")
        if some["retrain"] == "never":
            assert action == ("hold" if alarm else "keep")
        elif some["retrain"] == "force":
            assert action == ("retrain" if enough else "hold")
        elif following and due and enough and not doubtful:
            assert (action, reasons[0]) == ("retrain", "follow_up")
        elif not alarm:
            assert action == "keep"
        else:
            may = enough and due and not following and not some["cooling"]
            may = may and (not doubtful or given.n_batches > 1)
            assert action == ("retrain" if may else "hold")
        assert (action == "retrain") <= (reasons[0] in RETRAIN_REASONS)
        assert set(some["causes"]) <= set(reasons)
        assert ("quality_drop" in reasons) == (some["quality_status"] == "drop")
        assert ("waiting_for_labels" in reasons) <= (not enough)
        if action == "keep":
            for calm in ({"quality_status": "ok"}, {"drift_status": "ok"}):
                assert decided(some | calm).action == "keep"
    assert n == 137_760
    for reasons in known:
        assert list(reasons) == sorted(set(reasons), key=place.__getitem__)


def test_a_change_begins_with_an_alarm_and_ends_with_calm() -> None:
    """All changes by all batches.

    A fault leaves a change as it is. None begins without an alarm, and with one there always is
    one. A change that was answered is replaced by an alarm after the cooldown, and by nothing else.
    Another one ends when all is well: by the labels if quality had dropped, else by the features.
    """
    for change, drift, quality, at_fault, cooling in itertools.product(
        [*CHANGES, *WITH_ANSWERS], DRIFT, QUALITY, (False, True), (False, True)
    ):
        some = {"drift_status": drift, "quality_status": quality}
        alarm, dropped = is_alarm(some), quality == "drop"
        after = follow(change, **some, at_fault=at_fault, sequence=7, cooling=cooling)
        if at_fault:
            assert after == change
        elif change is None or (change.left is not None and alarm and not cooling):
            assert after == (Change(7, answers=dropped) if alarm else None)
        elif change.left is not None:
            assert after == change
        elif (drift, quality) in (("ok", "ok"), (NOT_JUDGED, "ok"), ("ok", NOT_JUDGED)):
            told = quality if change.answers else drift
            assert after == (None if told == "ok" else change)
        else:
            assert after == replace(change, answers=change.answers or dropped)


@pytest.mark.parametrize("change", [*CHANGES, *WITH_ANSWERS], ids=str)
@pytest.mark.parametrize("outcome", RETRAIN_OUTCOMES)
def test_a_try_is_used_up_by_a_verdict_only(change: Change | None, outcome: str) -> None:
    """Waiting and failing leave a change as it was; a verdict notes the rows that it was given.

    The first promotion leaves three tries, each of which takes one, whatever comes of it.
    """
    after = after_try(change, outcome, ENOUGH)
    if change is None or outcome in ("waiting", "failed"):
        assert after == change
    elif change.left is None:
        left = FOLLOW_UPS if outcome == "promoted" else None
        assert after == Change(5, tried=100, left=left, answers=change.answers)
    elif change.left > 1:
        assert after == Change(5, tried=100, left=change.left - 1, answers=change.answers)
    else:
        assert after is None


@pytest.mark.parametrize("change", [*CHANGES, *WITH_ANSWERS], ids=str)
def test_a_change_survives_json(change: Change | None) -> None:
    """What the ledger keeps of a change is all of it."""
    assert Change.from_dict(change.to_dict() if change else None) == change


# --- streams of batches, as `champion.answer` strings the three together ---


MEASURED = {  # drift, quality
    "ok": ("ok", "ok"),
    "warn": ("warn", "warn"),
    "major": ("major", "ok"),
    "drop": ("minor", "drop"),
    "fault": ("ok", "ok"),
}


@dataclass(frozen=True)
class Batch:
    """One batch of a stream, and what came of it."""

    number: int
    n_since: int  # labelled rows since the change
    before: Change | None  # as `follow` left it
    after: Change | None
    decision: Decision
    outcome: str | None


def stream(
    statuses: Iterator[str],
    outcomes: Iterator[str],
    *,
    rows: Callable[[int], int] = lambda number: 100,
    cooldown: int = 2,
) -> list[Batch]:
    """Batches measured as `statuses` say, and what `outcomes` says of each try."""
    change, swapped, learnt, sizes = None, 0, 0, [0]
    told = []
    for number, status in enumerate(statuses, start=1):
        at_fault = status == "fault"
        drift_status, quality_status = MEASURED[status]
        measured = {"drift_status": drift_status, "quality_status": quality_status}
        sizes.append(0 if at_fault else rows(number))
        cooling = swapped > 0 and number - swapped <= cooldown
        change = follow(change, **measured, at_fault=at_fault, sequence=number, cooling=cooling)
        since = sum(sizes[change.since if change else 0 :])
        batches = sum(size > 0 for size in sizes[change.since if change else 0 :])
        new = sum(sizes[learnt + 1 :])
        given = Labels(new, new, since, batches, 50, 10)
        decision = decide(
            change,
            given,
            **measured,
            causes=(),
            at_fault=at_fault,
            retrain="auto",
            cooling=cooling,
        )
        before, outcome = change, None
        if decision.action == "retrain":
            outcome = next(outcomes)
            change = after_try(change, outcome, given)
            if outcome == "promoted":
                swapped = learnt = number
        told.append(Batch(number, since, before, change, decision, outcome))
    return told


def tries(batches: list[Batch]) -> list[tuple[int, str]]:
    """Number and outcome of every batch that retrained."""
    return [(batch.number, batch.outcome) for batch in batches if batch.outcome]


def test_an_alarm_that_lasts_is_tried_ever_more_rarely() -> None:
    """Of 300 batches under one alarm that no challenger answers, 9 are tried: at 1, 2, 4, 8 ..."""
    found = stream(iter(["major"] * 300), itertools.repeat("rejected"))
    assert tries(found) == [(2**k, "rejected") for k in range(9)]
    assert {batch.decision.reasons for batch in found if not batch.outcome} == {
        ("drift_major", "tried_before")
    }


@pytest.mark.parametrize("seed", range(20))
def test_tries_of_one_alarm_grow_with_the_logarithm_of_its_rows(seed: int) -> None:
    """Whatever the sizes of the batches, no more than 1 + log2 of rows by rows of the first try."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10 ** rng.integers(1, 4), size=401)
    found = stream(
        iter(["major"] * 400),
        itertools.repeat("rejected"),
        rows=lambda number: int(sizes[number]),
    )
    tried = [batch.n_since for batch in found if batch.outcome]
    assert 1 <= len(tried) <= 1 + np.log2(found[-1].n_since / tried[0])
    assert all(after >= 2 * before for before, after in itertools.pairwise(tried))
    # and none that was due was left out
    last = {batch.n_since for batch in found if not batch.outcome and batch.n_since >= tried[0]}
    assert not [n for n in last if n >= 2 * max(t for t in tried if t <= n)]


@pytest.mark.parametrize("later", list(itertools.product(("promoted", "rejected"), repeat=3)))
def test_follow_ups_come_at_twice_four_and_eight_times_the_rows(later: tuple[str, ...]) -> None:
    """Three, calm as all may be, whatever comes of each; then the change is over."""
    found = stream(iter(["major", *["ok"] * 99]), iter(["promoted", *later]))
    assert tries(found) == list(zip((1, 2, 4, 8), ("promoted", *later), strict=True))
    assert found[7].after is None
    assert {batch.decision.action for batch in found[8:]} == {"keep"}
    assert [batch.decision.reasons[0] for batch in found if batch.outcome] == [
        "drift_major",
        *["follow_up"] * 3,
    ]


def test_what_gave_no_verdict_is_tried_again_at_once() -> None:
    """A try that fails or waits is made again with the next batch, before and after a promotion."""
    outcomes = ["failed", "waiting", "promoted", "failed", "waiting", *["rejected"] * 3]
    found = stream(iter(["major"] * 3 + ["ok"] * 97), iter(outcomes))
    # the promotion is based on three batches; the first follow-up is due at six
    assert tries(found) == list(zip((1, 2, 3, 6, 7, 8, 16, 32), outcomes, strict=True))


@pytest.mark.parametrize("cooldown", [0, 1, 2, 5])
def test_an_alarm_after_the_cooldown_is_another_change(cooldown: int) -> None:
    """Alarms within the cooldown are told and not acted on; the first one after it starts anew."""
    found = stream(
        iter(["major"] * (cooldown + 2)),
        iter(["promoted", *["rejected"] * 9]),
        rows=lambda number: 800 if number == 1 else 100,
        cooldown=cooldown,
    )
    assert tries(found) == [(1, "promoted"), (cooldown + 2, "rejected")]
    for batch in found[1:-1]:
        assert batch.decision == Decision("hold", ("drift_major", "cooldown"))
        assert batch.after == Change(1, tried=800, left=3)
    assert found[-1].before == Change(cooldown + 2)
    assert found[-1].after == Change(cooldown + 2, tried=100)


def test_answers_alone_are_believed_once_a_second_batch_tells_of_them() -> None:
    """Wrong labels of one batch are not learnt from: what comes after them is calm again."""
    alone = stream(iter(["drop", "ok", "ok"]), iter(["promoted"]))
    assert tries(alone) == []
    assert [batch.decision.reasons[-1] for batch in alone] == [
        "unconfirmed",
        "no_drift",
        "no_drift",
    ]
    assert [batch.after for batch in alone] == [Change(1, answers=True), None, None]
    for between in ([], ["fault"], ["warn"]):
        twice = stream(iter(["drop", *between, "drop"]), iter(["promoted"]))
        assert tries(twice) == [(2 + len(between), "promoted")]
        assert twice[-1].after is not None and twice[-1].after.since == 1


def test_whether_an_alarm_is_about_answers_alone() -> None:
    """A drop in quality without evident drift of the features; major drift is never so."""
    found = {some for some in itertools.product(DRIFT, QUALITY) if only_answers(*some)}
    assert found == {(drift, "drop") for drift in ("ok", "warn", "minor", NOT_JUDGED)}


def test_every_short_history_keeps_its_promises() -> None:
    """All 5^5 histories of calm, doubt, two alarms and fault, with each outcome of the first tries.

    A batch at fault is never learnt from and changes nothing. In one change every try has twice the
    rows of the one before, and no more than three follow a promotion. Without an alarm there is no
    change and no try. Within the cooldown, only follow-ups. Answers alone take two batches.
    """
    n_tries = 0
    for statuses in itertools.product(MEASURED, repeat=5):
        for first in itertools.product(("promoted", "rejected", "failed"), repeat=2):
            found = stream(iter(statuses), itertools.chain(first, itertools.repeat("rejected")))
            seen: dict[int, list[int]] = {}  # change -> rows of each of its tries
            alarmed, swapped, before = False, None, None
            for status, batch in zip(statuses, found, strict=True):
                alarmed = alarmed or status in ("major", "drop")
                if status == "fault":
                    assert batch.after == batch.before == before
                    assert batch.decision == Decision("hold", ("data_fault",))
                if not alarmed:
                    assert batch.after is None and batch.outcome is None
                if status in ("major", "drop"):
                    assert batch.before is not None
                if batch.outcome is not None:
                    n_tries += 1
                    assert batch.before is not None
                    follow_up = batch.decision.reasons[0] == "follow_up"
                    assert follow_up == (batch.before.left is not None)
                    assert follow_up or status in ("major", "drop")
                    assert follow_up or status == "major" or batch.number > batch.before.since
                    assert follow_up or swapped is None or batch.number - swapped > 2
                    if batch.outcome != "failed":
                        done = seen.setdefault(batch.before.since, [])
                        assert not done or batch.n_since >= 2 * done[-1]
                        done.append(batch.n_since)
                    if batch.outcome == "promoted":
                        swapped = batch.number
                before = batch.after
    assert n_tries > 10_000  # there was something to hold
