"""The ledger: all of a batch or nothing of it, once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from wine_drift import failpoints
from wine_drift.errors import StateUnreadable
from wine_drift.exposition import exposition
from wine_drift.home import writing
from wine_drift.ledger import _MIGRATIONS, SCHEMA_VERSION, Bounds, Commit, Cursor, Ledger
from wine_drift.policy import Change
from wine_drift.publishing import render
from wine_drift.rows import LabelledRows, Lot, ScoredRows, Shard, listed
from wine_drift.settings import Settings
from wine_drift.snapshot import Snapshot

Cli = Callable[..., Result]
Opened = Callable[..., AbstractContextManager[Ledger]]

RUN = {"finished_at": 12.5, "success": True, "outcome": "processed"}
ROOM = Bounds(window_rows=1000, window_age=1000, waiting_rows=1000)
V1, V2, V3 = ({"version": f"v{n}", "number": n} for n in (1, 2, 3))


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Open one ledger: `with opened() as ledger`, again and again, in each kind of database."""
    there = None if request.param == "SQLite" else request.getfixturevalue("address")
    return partial(Ledger.open, tmp_path, there)


TABLES = (
    *("history", "facts", "batches", "records", "superseded", "versions", "detector"),
    *('"window"', "scored", "cursors", "counters", "totals"),
)


def everything(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    execute = ledger._connection.execute
    return {table: sorted(execute(f"SELECT * FROM {table}").fetchall()) for table in TABLES}


def rows(n: int, sequence: int) -> LabelledRows:
    """Rows of one feature, every third positive."""
    return LabelledRows(
        np.arange(n, dtype=float)[:, None], np.arange(n) % 3 == 0, np.full(n, sequence)
    )


def scored(n: int, n_waiting: int, *, first: float = 0.0) -> ScoredRows:
    """Rows of one feature, the first `n_waiting` of them without a label."""
    positive = np.where(np.arange(n) < n_waiting, np.nan, np.arange(n) % 3 == 0)
    features = first + np.arange(n, dtype=float)[:, None]
    return ScoredRows(np.arange(n), np.full(n, 0.25), positive, features, n, ())


def commit(content_id: str, number: int = 1, **changes: Any) -> Commit:
    """A commit that touches everything."""
    usual = {
        "content_id": content_id,
        "outcome": "processed",
        "record": {"outcome": "processed", "retraining": None, "n": number},
        "at": 12.0 + number,
        "run": RUN,
        "counters": {("batches", (("outcome", "success"),)): 1, ("rows", ()): 30},
        "cursor": Cursor("table", 7, 100 * number, number),
        "detector": ("v1", {"pool": [number]}),
        "labelled": rows(30, number),
    }
    given = usual | changes
    if isinstance(given["labelled"], LabelledRows):
        given["labelled"] = Lot(given["labelled"])
    return Commit(**given)


def test_a_batch_is_read_back_as_it_was_written(opened: Opened) -> None:
    """Record, counters, cursor, detector and rows outlive the process."""
    with opened() as ledger:
        ledger.commit_batch(commit("a"), ROOM)
    with opened() as ledger:
        assert ledger.batch("a") == {"outcome": "processed", "retraining": None, "n": 1}
        assert ledger.batch("b") is None
        assert ledger.cursor("table") == Cursor("table", 7, 100, 1)
        assert ledger.detector("v1") == {"pool": [1]}
        assert ledger.detector("v2") is None
        assert ledger.labelled_counts(after=0) == (30, 10)
        assert ledger.labelled_rows(1, after=0).features.ravel().tolist() == list(range(30))
        snapshot = ledger.snapshot()
        assert snapshot.counters["rows", ()] == 30
        assert snapshot.last_success == 12.5
        assert ledger.next_sequence() == 2


def test_the_same_content_cannot_be_counted_twice(opened: Opened) -> None:
    """A second commit of the same content fails whole and changes nothing."""
    with opened() as ledger:
        ledger.commit_batch(commit("a"), ROOM)
        before = everything(ledger)
        with pytest.raises(StateUnreadable):
            ledger.commit_batch(commit("a", 2), ROOM)
        assert everything(ledger) == before


def test_half_a_commit_is_none(opened: Opened) -> None:
    """A commit that fails at its last step leaves no trace of the steps before."""
    with opened() as ledger:
        ledger.commit_batch(commit("a"), ROOM)
        before = everything(ledger)
        late = {"scored": scored(30, 9), "change": Change(2), "promoted": V1, "forget_since": 1}
        with pytest.raises(KeyError, match="finished_at"):
            ledger.commit_batch(commit("b", 2, run={"success": True}, **late), ROOM)
        assert everything(ledger) == before


def test_numbers_have_no_gaps_and_the_window_is_bounded(opened: Opened) -> None:
    """Old rows leave once newer ones fill the window; the newest always stay."""
    with opened() as ledger:
        for number in range(1, 11):
            assert ledger.next_sequence() == number
            ledger.commit_batch(commit(str(number), number), replace(ROOM, window_rows=100))
        kept = ledger.labelled_rows(1, after=0)
        assert sorted(set(kept.sequence.tolist())) == [7, 8, 9, 10]
        assert ledger.labelled_counts(after=8) == (60, 20)
        ledger.commit_batch(
            commit("big", 11, labelled=rows(500, 11)), replace(ROOM, window_rows=100)
        )
        assert len(ledger.labelled_rows(1, after=0)) == 100
        assert [record["n"] for record in ledger.records(3)] == [9, 10, 11]


def test_promotion_swaps_champion_and_detector_together(opened: Opened) -> None:
    """After one commit the new version serves, since that batch, with its own detector."""
    first, second = V1, V2
    with opened() as ledger:
        assert ledger.champion() is None
        refused = commit("r", 1, outcome="quarantined", detector=None, labelled=None, cursor=None)
        ledger.commit_batch(refused, ROOM)
        ledger.commit_champion(first, Cursor("table", 7, 50, 0))
        assert ledger.champion() == first
        assert ledger.champion_since() == 0  # nobody served before
        ledger.commit_batch(commit("a", 2), ROOM)
        promotion = commit("b", 3, promoted=second, detector=("v2", {}))
        ledger.commit_batch(promotion, ROOM)
        assert ledger.champion() == second
        assert ledger.champion_since() == 3
        assert ledger.detector("v2") == {}
        assert ledger.versions() == [first, second]


def test_reading_makes_nothing(tmp_path: Path) -> None:
    """A read-only look at a home that is not there leaves it so."""
    home = tmp_path / "none"
    with Ledger.open(home, read_only=True) as ledger:
        assert ledger.champion() is None
        assert ledger.snapshot().run is None
    assert not home.exists()


def test_a_batch_is_found_by_number_and_by_id(opened: Opened) -> None:
    """The last batch, one by its number, one by the start of its id; no guess between two."""
    with opened() as ledger:
        assert ledger.find("") is None
        for number, content_id in enumerate(("ab12", "ab34", "cd56"), start=1):
            ledger.commit_batch(commit(content_id, number), ROOM)
        refused = commit("ef", 4, outcome="quarantined", detector=None, labelled=None)
        ledger.commit_batch(refused, ROOM)
        found = {run: ledger.find(run) for run in ("", "2", "cd", "ab", "4", "ef", "x%", "99")}
    assert {run: record and record["n"] for run, record in found.items()} == {
        **{"": 3, "2": 2, "cd": 3},
        **dict.fromkeys(("ab", "4", "ef", "x%", "99")),
    }


def test_what_selftest_found_is_told_of_its_own_version_only(opened: Opened) -> None:
    """The power of a detector is published until another champion takes over."""
    with opened() as ledger:
        ledger.commit_champion(V1, None)
        ledger.record_power({"version": "v1", "features": []})
        assert ledger.snapshot().power == {"version": "v1", "features": []}
        ledger.commit_champion(V2, None)
        assert ledger.snapshot().power is None


@pytest.mark.parametrize(
    ("number", "told"), [(99, "newer release"), (1, "before the first"), (3, "before the first")]
)
def test_another_ledger_is_refused_untouched(tmp_path: Path, number: int, told: str) -> None:
    """A ledger from another release is told apart and not written to."""
    with Ledger.open(tmp_path):
        pass
    path = tmp_path / "ledger.sqlite"
    content = bytearray(path.read_bytes())
    content[60:64] = number.to_bytes(4, "big")  # user_version, in the header of the file format
    path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(StateUnreadable, match=told), Ledger.open(tmp_path):
        pass
    assert path.read_bytes() == before


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    """Anything else under the ledger's name is told with what to do."""
    (tmp_path / "ledger.sqlite").write_bytes(
        b"not a database, but long enough to be read as one" * 9
    )
    with pytest.raises(StateUnreadable) as caught, Ledger.open(tmp_path):
        pass
    assert "backup" in caught.value.remedy


# --- what retraining keeps between batches ---


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        pytest.param({}, range(1, 11), id="room for all"),
        pytest.param({"window_rows": 100}, range(7, 11), id="the batch that fills it stays whole"),
        pytest.param({"window_rows": 90}, range(8, 11), id="just full"),
        pytest.param({"window_rows": 1}, range(10, 11), id="the newest always stay"),
        pytest.param({"window_age": 10}, range(1, 11), id="none too old"),
        pytest.param({"window_age": 9}, range(2, 11), id="one too old"),
        pytest.param({"window_age": 1}, range(10, 11), id="one batch"),
        pytest.param({"window_rows": 100, "window_age": 3}, range(8, 11), id="age before size"),
        pytest.param({"window_rows": 50, "window_age": 5}, range(9, 11), id="size before age"),
    ],
)
def test_what_is_kept_is_bounded_by_rows_and_by_age(
    opened: Opened, bounds: dict[str, int], kept: range
) -> None:
    """Of ten batches of 30 rows; labelled rows and rows that wait for labels alike."""
    waiting = {"waiting_rows": bounds.get("window_rows", 1000)}
    with opened() as ledger:
        for number in range(1, 11):
            batch = commit(str(number), number, scored=scored(30, 5))
            ledger.commit_batch(batch, replace(ROOM, **bounds, **waiting))
        assert sorted(ledger.window_batches(since=0)) == list(kept)
        assert [n for n in range(1, 11) if ledger.scored(n) is not None] == list(kept)
        n_each = min(30, bounds.get("window_rows", 30))
        assert len(ledger.labelled_rows(1, after=0)) == n_each * len(kept)
        assert ledger.snapshot().waiting["rows"] == 5 * len(kept)


def test_a_batch_without_labels_ages_those_before_it(opened: Opened) -> None:
    """Age is counted in batches, whatever they brought, refused ones included."""
    bounds = replace(ROOM, window_age=3)
    with opened() as ledger:
        ledger.commit_batch(commit("a", scored=scored(30, 5)), bounds)
        for number, outcome in ((2, "processed"), (3, "quarantined")):
            empty = commit(str(number), number, labelled=None, outcome=outcome)
            ledger.commit_batch(empty, bounds)
            assert ledger.window_batches(since=0) == {1}
        ledger.commit_batch(commit("d", 4, labelled=None), bounds)
        assert ledger.window_batches(since=0) == set() and ledger.scored(1) is None


def test_one_batch_is_never_more_than_the_window(opened: Opened) -> None:
    """Of a large batch the newest rows are kept, and features for as many rows that wait."""
    with opened() as ledger:
        batch = commit("a", labelled=rows(250, 1), scored=scored(250, 40))
        ledger.commit_batch(batch, replace(ROOM, window_rows=100))
        kept = ledger.labelled_rows(1, after=0)
        assert kept.features.ravel().tolist() == list(range(150, 250))
        assert ledger.labelled_counts(after=0) == (100, int(kept.positive.sum()))
        found = ledger.scored(1)
    assert found is not None
    assert len(found[0]) == 250 and found[0].n_waiting == 40
    assert found[0].features.ravel().tolist() == list(range(150, 250))


def test_a_batch_whose_labels_are_all_there_keeps_no_features(opened: Opened) -> None:
    """Its scores stay, so that the same labels are known again; there is nothing to learn."""
    with opened() as ledger:
        ledger.commit_batch(commit("a", scored=scored(30, 0)), ROOM)
        found = ledger.scored(1)
        assert found is not None and len(found[0]) == 30 and found[0].features.shape == (0, 1)
        assert ledger.snapshot().waiting == {"batches": 0, "rows": 0, "oldest_at": 0}
        assert ledger.scored(2) is None


def test_what_is_at_work_survives_a_restart(opened: Opened) -> None:
    """The change, the rows that wait, and when the champion was changed."""
    change = Change(2, tried=30, left=2)
    rows_kept = replace(scored(4, 2), ids=("a", "b", "", "é"), batch_rows=4)
    with opened() as ledger:
        assert ledger.change() is None and ledger.scored(1) is None
        ledger.commit_champion(V1, None)
        ledger.commit_batch(commit("a"), ROOM)
        promotion = commit("b", 2, promoted=V2, change=change, scored=rows_kept, trusted=False)
        ledger.commit_batch(promotion, ROOM)
    with opened() as ledger:
        assert ledger.change() == change
        assert ledger.champion_since() == 2
        assert ledger.learnt() == 2 and ledger.learnt("v1") == 0 and ledger.learnt("v9") == 0
        found = ledger.scored(2)
        assert found is not None
        assert found[1] is False
        assert found[0].to_bytes() == rows_kept.to_bytes()
        ledger.commit_batch(commit("c", 3), ROOM)
        assert ledger.change() is None  # a commit tells what there is from now on
        assert ledger.champion_since() == 2


def test_waiting_rows_are_told(opened: Opened) -> None:
    """How many batches and rows wait for labels, and since when the oldest of them does."""
    with opened() as ledger:
        assert ledger.snapshot().waiting == {}
        for number, n_waiting in ((1, 0), (2, 7), (3, 5)):
            ledger.commit_batch(commit(str(number), number, scored=scored(30, n_waiting)), ROOM)
        assert ledger.snapshot().waiting == {"batches": 2, "rows": 12, "oldest_at": 14.0}
        assert ledger.processed_at(2) == 14.0


def late(sequence: int, n_labelled: int, **changes: Any) -> Commit:
    """Labels that came after their batch."""
    record = {"outcome": "processed", "n": sequence, "batch": {"labelled": n_labelled}}
    usual = {"sequence": sequence, "record": record, "at": 99.0, "run": None, "cursor": None}
    return commit("-", sequence, **(usual | {"labelled": rows(n_labelled, sequence)} | changes))


def test_late_labels_change_their_batch_and_make_none(opened: Opened) -> None:
    """Its record is replaced, its rows are added, and its number, place and time stay."""
    with opened() as ledger:
        for number in (1, 2):
            batch = commit(str(number), number, labelled=None, scored=scored(30, 30))
            ledger.commit_batch(batch, ROOM)
        assert ledger.snapshot().labelled is None
        ledger.commit_batch(late(1, 20, scored=scored(30, 10)), ROOM)
        assert ledger.next_sequence() == 3
        assert [record.get("batch") for record in ledger.records(9)] == [{"labelled": 20}, None]
        assert ledger.batch("1") == late(1, 20).record and ledger.batch("-") is None
        assert ledger.processed_at(1) == 13.0
        snapshot = ledger.snapshot()
        assert snapshot.record is not None and snapshot.record["n"] == 2
        assert snapshot.labelled is not None and snapshot.labelled["n"] == 1
        assert snapshot.waiting == {"batches": 2, "rows": 40, "oldest_at": 13.0}
        assert snapshot.run == RUN and snapshot.last_success == 12.5  # labels are no run
        assert ledger.window_batches(since=0) == {1}
        ledger.commit_batch(late(1, 10, scored=scored(30, 0)), ROOM)
        assert ledger.window_batches(since=1) == {1}
        assert ledger.window_batches(since=2) == set()
        assert ledger.snapshot().waiting["rows"] == 30


def test_late_labels_are_new_to_a_champion_that_was_promoted_before_they_came(
    opened: Opened,
) -> None:
    """What counts is when a row was labelled, not when it was measured."""
    with opened() as ledger:
        ledger.commit_champion(V1, None)
        ledger.commit_batch(commit("a", labelled=None, scored=scored(30, 30)), ROOM)
        ledger.commit_batch(commit("b", 2), ROOM)
        ledger.commit_batch(commit("c", 3, promoted=V2, detector=("v2", {})), ROOM)
        assert ledger.labelled_counts(after=ledger.learnt()) == (0, 0)
        ledger.commit_batch(late(1, 12), ROOM)
        assert ledger.labelled_counts(after=ledger.learnt()) == (12, 4)
        new = ledger.labelled_rows(1, after=ledger.learnt())
        assert new.sequence.tolist() == [1] * 12
        assert ledger.labelled_counts(after=ledger.learnt("v1")) == (72, 24)
        ledger.commit_batch(commit("d", 4), ROOM)
        ledger.commit_batch(late(1, 3, promoted=V3), ROOM)  # which these labels led to
        assert ledger.labelled_counts(after=ledger.learnt()) == (0, 0)
        assert ledger.champion_since() == 4
        ledger.commit_batch(commit("e", 5), ROOM)
        assert ledger.labelled_counts(after=ledger.learnt()) == (30, 10)


def test_what_was_labelled_stays_new_when_all_before_it_is_forgotten(opened: Opened) -> None:
    """An entry of the window never gets the number of one that is gone."""
    tight = replace(ROOM, window_age=1)
    with opened() as ledger:
        ledger.commit_champion(V1, None)
        ledger.commit_batch(commit("a", promoted=V2), tight)
        learnt = ledger.learnt()
        ledger.commit_batch(commit("b", 2, labelled=None), tight)
        assert ledger.window_batches(since=0) == set()
        ledger.commit_batch(commit("c", 3), tight)
        assert ledger.learnt() == learnt
        assert ledger.labelled_counts(after=learnt) == (30, 10)


def in_files(n_rows: int, sequence: int) -> Lot:
    """Rows in files of a hundred."""
    names = [f"b{sequence}-{k}" for k in range(n_rows // 100)]
    return Lot(rows(0, sequence), tuple(Shard(name, 100, 34, sequence, "00") for name in names))


def test_rows_in_files_are_claimed_by_name(opened: Opened) -> None:
    """By the window as long as it has them, and by versions as long as their files are kept."""
    room = replace(ROOM, window_rows=700)
    with opened() as ledger:
        ledger.commit_champion(V1, None)
        assert ledger.shards() == () and ledger.shard_names() == set()
        ledger.commit_batch(commit("a", 1), room)
        ledger.commit_batch(commit("b", 2, labelled=in_files(300, 2)), room)
        first = ledger.shards()
        assert first == in_files(300, 2).shards
        assert ledger.labelled_counts(after=0) == (330, 10 + 3 * 34)
        assert ledger.window_sizes() == {1: 30, 2: 300} and ledger.window_sizes(after=1) == {2: 300}
        assert [len(part) for part in ledger.labelled_parts(after=0)] == [30]
        assert len(ledger.labelled_rows(1, after=0)) == 30
        trained = V2 | {"shards": listed([*first, Shard("v2-old", 50, 9, 0, "11")])}
        lot = in_files(200, 3)
        batch = commit("c", 3, labelled=lot, promoted=trained, detector=("v2", {}))
        ledger.commit_batch(batch, room)
        assert ledger.shards(after=ledger.learnt()) == ()
        ledger.commit_batch(commit("d", 4, labelled=in_files(600, 4)), room)
        assert ledger.window_batches(since=0) == {3, 4}
        assert ledger.shards(after=ledger.learnt()) == in_files(600, 4).shards
        kept = {shard.name for shard in (*first, *lot.shards, *in_files(600, 4).shards)}
        assert ledger.shard_names() == kept | {"v2-old"} == set(ledger.claimed_shards())
        ledger.commit_lost({"v2-old", "b2-1", "b4-0", "unknown"})
        assert ledger.shard_names() == kept - {"b2-1", "b4-0"}
        assert ledger.window_sizes() == {3: 200, 4: 500}
        assert ledger.labelled_counts(after=0) == (700, 7 * 34)
        ledger.commit_champion_again("v1", None)
        ledger.commit_pruned(["v2"])
        assert ledger.shard_names() == {shard.name for shard in ledger.shards()}


def test_the_newest_entries_that_hold_so_many_rows(opened: Opened) -> None:
    """And no more of them, oldest first; late labels are of their batch."""
    with opened() as ledger:
        for number in range(1, 5):
            ledger.commit_batch(commit(str(number), number), ROOM)
        ledger.commit_batch(late(1, 12), ROOM)
        for most, expected in ((0, set()), (1, {4}), (30, {4}), (31, {3, 4}), (999, {1, 2, 3, 4})):
            found = ledger.labelled_rows(1, after=0, most=most)
            assert set(found.sequence.tolist()) == expected
        assert (
            found.sequence.tolist()
            == [number for k in (1, 2, 3, 4) for number in [k] * 30] + [1] * 12
        )


def test_late_labels_are_written_whole_or_not_at_all(opened: Opened) -> None:
    """A commit of late labels that fails at its last step leaves no trace of the steps before."""
    with opened() as ledger:
        ledger.commit_champion(V1, None)
        ledger.commit_batch(commit("a", labelled=None, scored=scored(30, 30)), ROOM)
        before = everything(ledger)
        whole = late(
            1,
            20,
            scored=scored(30, 10),
            change=Change(1),
            promoted=V2,
            detector=("v2", {}),
            retraining={"reason": "quality_drop", "outcome": "promoted"},  # no gate
        )
        with pytest.raises(KeyError, match="gate"):
            ledger.commit_batch(whole, ROOM)
        assert everything(ledger) == before
        tried = {**(whole.retraining or {}), "gate": {"rows": 20}}
        ledger.commit_batch(replace(whole, retraining=tried), ROOM)
        assert ledger.champion() == V2 and ledger.change() == Change(1)
        snapshot = ledger.snapshot()
        told = {"at": 99.0, "reason": "quality_drop", "gate": {"rows": 20}}
        assert snapshot.retraining == told
        labels = (("reason", "quality_drop"), ("outcome", "promoted"))
        assert snapshot.counters["retrains", labels] == 1


@pytest.mark.parametrize("fault_at", [2, 3])
def test_rows_found_at_fault_later_are_forgotten_and_not_trusted(
    opened: Opened, fault_at: int
) -> None:
    """From that batch on, labelled or not; the batches before it stay as they were."""
    with opened() as ledger:
        for number in (1, 2, 3):
            ledger.commit_batch(commit(str(number), number, scored=scored(30, 9)), ROOM)
        fault = commit("d", 4, labelled=None, forget_since=fault_at, trusted=False)
        ledger.commit_batch(replace(fault, scored=scored(30, 9)), ROOM)
        assert sorted(ledger.window_batches(since=0)) == list(range(1, fault_at))
        kept = [ledger.scored(number) for number in (1, 2, 3, 4)]
        assert [each is not None and each[1] for each in kept] == [
            number < fault_at for number in (1, 2, 3, 4)
        ]
        assert all(each is not None and each[0].n_waiting == 9 for each in kept)


# --- versions ---


def test_rollback_serves_an_older_version_as_it_was_left(opened: Opened) -> None:
    """Its detector, what it had learnt, and a change of its own; and the champion was changed."""
    with opened() as ledger:
        ledger.commit_champion(V1, None)
        ledger.commit_batch(commit("a"), ROOM)
        ledger.commit_batch(commit("b", 2, promoted=V2, detector=("v2", {"n": 2})), ROOM)
        batch = commit("c", 3, detector=("v2", {"n": 3}), change=Change(3))
        ledger.commit_batch(batch, ROOM)
        assert ledger.labelled_counts(after=ledger.learnt()) == (30, 10)
        ledger.commit_champion_again("v1", Change(3, tried=60))
    with opened() as ledger:
        assert ledger.champion() == V1 and ledger.versions() == [V1, V2]
        assert ledger.champion_since() == 3
        assert ledger.change() == Change(3, tried=60)
        assert ledger.detector("v1") == {"pool": [1]} and ledger.detector("v2") == {"n": 3}
        assert ledger.learnt() == 0 and ledger.labelled_counts(after=0) == (90, 30)
        assert ledger.next_version() == 3
        ledger.commit_champion_again("v2", None)
        assert ledger.champion() == V2 and ledger.change() is None
        assert ledger.labelled_counts(after=ledger.learnt()) == (30, 10)


def test_a_version_from_elsewhere_waits_to_serve(opened: Opened) -> None:
    """It is listed and has learnt nothing; the champion and its change stay."""
    with opened() as ledger:
        ledger.commit_champion(V1, None)
        ledger.commit_batch(commit("a", change=Change(1)), ROOM)
        ledger.commit_version(V2, learnt=0)
        assert (ledger.champion(), ledger.versions()) == (V1, [V1, V2])
        assert (ledger.change(), ledger.champion_since()) == (Change(1), 0)
        assert ledger.learnt("v2") == 0 and ledger.next_version() == 3
        with pytest.raises(StateUnreadable):
            ledger.commit_version(V2, learnt=0)
        assert ledger.versions() == [V1, V2]


def test_training_by_hand_is_told_and_ends_the_change_if_it_wins(opened: Opened) -> None:
    """A challenger that loses changes neither champion nor change, and is counted all the same."""
    lost: dict[str, Any] = {"reason": "manual", "outcome": "rejected", "gate": {"rows": 30}}
    with opened() as ledger:
        ledger.commit_champion(V1, None)
        ledger.commit_batch(commit("a", change=Change(1, tried=30)), ROOM)
        ledger.commit_retraining(None, lost, at=50.0)
        assert (ledger.champion(), ledger.change()) == (V1, Change(1, tried=30))
        assert ledger.labelled_counts(after=ledger.learnt()) == (30, 10)
        told = {"at": 50.0, "reason": "manual", "gate": {"rows": 30}}
        assert ledger.snapshot().retraining == told
        ledger.commit_retraining(V2, lost | {"outcome": "promoted"}, at=60.0)
        assert (ledger.champion(), ledger.change(), ledger.champion_since()) == (V2, None, 1)
        assert ledger.labelled_counts(after=ledger.learnt()) == (0, 0)
        snapshot = ledger.snapshot()
        assert snapshot.retraining is not None and snapshot.retraining["at"] == 60.0
        found = {k[1][1][1]: n for k, n in snapshot.counters.items() if k[0] == "retrains"}
        assert found == {"rejected": 1, "promoted": 1}


def test_every_entry_can_be_read_as_it_was(opened: Opened) -> None:
    """Whatever was written since, as of an entry the same is published as was then."""
    clock = iter(range(1000, 2000))
    tried: dict[str, Any] = {"reason": "manual", "outcome": "rejected", "gate": {"rows": 30}}
    alarm: dict[str, Any] = {"action": "hold", "reasons": ["drift_major", "waiting_for_labels"]}
    keep: dict[str, Any] = {"action": "keep", "reasons": ["no_drift"]}
    failed = {"finished_at": 50.0, "success": False, "outcome": "quarantined"}
    refused = {"outcome": "quarantined", "record": {"outcome": "quarantined"}, "run": failed}
    with opened(now=lambda: float(next(clock))) as ledger:
        writes = [
            lambda: ledger.commit_champion(V1, None),
            lambda: ledger.commit_batch(commit("a", labelled=None, scored=scored(30, 30)), ROOM),
            lambda: ledger.commit_batch(commit("b", 2, decision=alarm), ROOM),
            lambda: ledger.record_power({"version": "v1", "features": []}),
            lambda: ledger.add("push_failures", (("reason", "timeout"),)),
            lambda: ledger.commit_batch(late(1, 20, scored=scored(30, 10), decision=alarm), ROOM),
            lambda: ledger.commit_batch(late(1, 30, scored=scored(30, 0), decision=keep), ROOM),
            lambda: ledger.commit_batch(commit("bad", 3, counters={}, **refused), ROOM),
            lambda: ledger.commit_retraining(V2, tried | {"outcome": "promoted"}, at=60.0),
            lambda: ledger.commit_champion_again("v1", None),
            lambda: ledger.record_run(RUN),
        ]
        then = []
        for write in writes:
            write()
            then.append(ledger.snapshot())
        assert ledger.history() == [(n + 1, 1000.0 + n) for n in range(len(writes))]
        assert [ledger.snapshot(n + 1) for n in range(len(writes))] == then
        assert ledger.snapshot(0) == Snapshot()
        assert ledger.snapshot() == then[-1]
    assert [each.waiting_since for each in then[1:8]] == [None, *[14.0] * 4, None, None]
    assert len({repr(each) for each in then}) == len(then)


def test_a_snapshot_is_of_one_moment(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that commits while it is being read is not seen by halves."""
    with opened() as writer, opened(read_only=True) as reader:
        writer.commit_champion(V1, None)
        writer.commit_batch(commit("a", labelled=None, scored=scored(30, 30)), ROOM)
        before, reading = reader.snapshot(), reader._record

        def meanwhile(*arguments: Any) -> Any:
            if reader.next_sequence() == 2:
                writer.commit_batch(late(1, 20, scored=scored(30, 10)), ROOM)
                writer.commit_batch(commit("b", 2, promoted=V2), ROOM)
            return reading(*arguments)

        monkeypatch.setattr(reader, "_record", meanwhile)
        assert reader.snapshot() == before != writer.snapshot()


def test_a_loop_of_retraining_is_counted_over_the_last_batches(opened: Opened) -> None:
    """What alarms led to in twenty batches; what was asked for, or only waited, is no loop."""
    tried: dict[str, Any] = {"reason": "follow_up", "outcome": "rejected", "gate": None}
    found = []
    with opened() as ledger:
        for number in range(1, 41):
            retraining = tried if number in (5, 6, 8, 30) else None
            if number in (7, 9):
                others = {7: {"reason": "forced"}, 9: {"outcome": "waiting"}}
                retraining = tried | others[number]
            ledger.commit_batch(commit(str(number), number, retraining=retraining), ROOM)
            if number == 8:
                ledger.commit_retraining(None, tried | {"reason": "manual"}, at=1.0)
            found.append(ledger.snapshot().recent_retrains)
        assert ledger.snapshot(24).recent_retrains == found[22]  # entry 9 was the one by hand
    assert found[:10] == [0, 0, 0, 0, 1, 2, 2, 3, 3, 3]
    assert found[23:31] == [3, 2, 1, 1, 0, 0, 1, 1]


def test_a_pruned_version_is_known_and_has_no_detector(opened: Opened) -> None:
    """Its manifest stays, its state goes, and the others are as they were."""
    with opened() as ledger:
        ledger.commit_champion(V1, None)
        for number, version in ((1, V2), (2, V3)):
            name = version["version"]
            batch = commit(str(number), number, promoted=version, detector=(name, {"of": name}))
            ledger.commit_batch(batch, ROOM)
        assert ledger.pruned() == set()
        ledger.commit_pruned(["v1", "v2"])
    with opened() as ledger:
        assert ledger.pruned() == {"v1", "v2"}
        assert ledger.versions() == [V1, V2, V3] and ledger.champion() == V3
        assert [ledger.detector(v) for v in ("v1", "v2", "v3")] == [None, None, {"of": "v3"}]
        assert ledger.next_version() == 4


def test_the_schema_is_as_it_was_released(tmp_path: Path) -> None:
    """Tables and columns of schema 7; whoever changes one must give it another number."""
    with Ledger.open(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    try:
        assert connection.execute("PRAGMA user_version").fetchone() == (7,)
        found = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for (table,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            ).fetchall()
        }
    finally:
        connection.close()
    assert found == {
        "history": ["entry", "at"],
        "facts": ["name", "entry", "value"],
        "superseded": ["sequence", "until", "record"],
        "batches": ["sequence", "entry", "content_id", "at", "labelled", "outcome"],
        "records": ["sequence", "record"],
        "versions": ["number", "version", "learnt", "pruned", "manifest"],
        "detector": ["version", "state"],
        "window": ["number", "sequence", "n_rows", "n_positive", "rows", "shards"],
        "scored": ["sequence", "n_rows", "n_waiting", "trusted", "rows"],
        "cursors": ["stream", "seed", "position", "number"],
        "counters": ["counter", "name", "labels"],
        "totals": ["counter", "entry", "value"],
    }


def test_labels_are_counted_beyond_the_window(opened: Opened) -> None:
    """How many labels came since a change is known although their rows are gone."""
    with opened() as ledger:
        for number in range(1, 11):
            record = {"outcome": "processed", "batch": {"labelled": 30}}
            batch = commit(str(number), number, record=record)
            ledger.commit_batch(batch, replace(ROOM, window_rows=60))
        assert ledger.window_batches(since=0) == {9, 10}
        assert ledger.labelled_since(1) == 300 and ledger.labelled_since(8) == 90


# --- backups ---


def newest(home: Path) -> Path:
    """The newest backup."""
    return home / "backups" / "ledger-1.sqlite"


def dump(path: Path) -> list[str]:
    """All that a ledger's file says."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def test_a_backup_says_what_the_ledger_says(tmp_path: Path) -> None:
    """The one before it stays as the older one; more are not kept."""
    older = tmp_path / "backups" / "ledger-2.sqlite"
    with Ledger.open(tmp_path) as ledger:
        assert Ledger.backed_up_at(tmp_path) is None
        then = []
        for number in (1, 2, 3):
            ledger.commit_batch(commit(str(number), number), ROOM)
            ledger.back_up()
            then.append(dump(newest(tmp_path)))
            assert then[-1] == dump(tmp_path / "ledger.sqlite")
        assert dump(older) == then[1]
        assert sorted(path.name for path in newest(tmp_path).parent.iterdir()) == [
            "ledger-1.sqlite",
            "ledger-2.sqlite",
        ]
        made = Ledger.backed_up_at(tmp_path)
    assert made == newest(tmp_path).stat().st_mtime
    assert Ledger.exists(tmp_path) and not Ledger.exists(tmp_path / "none")
    (tmp_path / "ledger.sqlite").unlink()
    assert Ledger.exists(tmp_path)


@pytest.mark.parametrize("step", ["backup: write", "backup: sync", "backup: rename"])
def test_a_backup_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """And nothing half-written, which would take the room that the next run needs."""
    with Ledger.open(tmp_path) as ledger:
        for number in (1, 2):
            ledger.commit_batch(commit(str(number), number), ROOM)
            ledger.back_up()
        before = {path.name: path.read_bytes() for path in newest(tmp_path).parent.iterdir()}
        ledger.commit_batch(commit("3", 3), ROOM)

        def fail(name: str) -> None:
            if name == step:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(failpoints, "hook", fail)
        with pytest.raises(StateUnreadable) as caught:
            ledger.back_up()
        assert "No space left" in str(caught.value) and "space" in caught.value.remedy
    found = {path.name: path.read_bytes() for path in newest(tmp_path).parent.iterdir()}
    assert before["ledger-1.sqlite"] in found.values()  # sound copies of what was then
    assert not [name for name in found if name.startswith(".")]


def test_a_restored_ledger_is_the_newest_sound_backup(tmp_path: Path) -> None:
    """Only the damage is lost, and what came after the backup."""
    with Ledger.open(tmp_path) as ledger:
        ledger.commit_batch(commit("a"), ROOM)
        ledger.back_up()
        then = dump(newest(tmp_path))
        ledger.commit_batch(commit("b", 2), ROOM)
    assert Ledger.problem(tmp_path) is None
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(path.read_bytes()[:5000])
    assert Ledger.problem(tmp_path) is not None
    damaged = path.read_bytes()
    (tmp_path / "kept").mkdir()
    made = Ledger.restore(tmp_path, tmp_path / "kept" / "ledger")
    assert made == newest(tmp_path).stat().st_mtime and dump(path) == then
    assert (tmp_path / "kept" / "ledger").read_bytes() == damaged
    assert Ledger.problem(tmp_path) is None


def test_what_came_later_is_read_from_a_damaged_file(tmp_path: Path) -> None:
    """As far as it can be read; nothing is made up."""
    with Ledger.open(tmp_path) as ledger:
        for number in (1, 2, 3):
            ledger.commit_batch(commit(f"id{number}", number), ROOM)
    path = tmp_path / "ledger.sqlite"
    later = [(2, "id2", "processed"), (3, "id3", "processed")]
    assert Ledger.salvaged(path, after=1) == later
    assert Ledger.salvaged(path, after=3) == []
    path.write_bytes(b"nothing to be read here" * 99)
    assert Ledger.salvaged(path, after=1) is None
    assert Ledger.salvaged(tmp_path / "none", after=1) is None


# --- a home that the first release wrote ---

GOLDEN = Path(__file__).parent / "golden" / "home-schema-4.tar.xz"
TRAINED = ("--rounds", 5, "--threads", 1)
# a release tells its own version, and may find better words
BACK_THEN = re.compile(r"^(wine_drift_build_info|# HELP).*\n", re.MULTILINE)


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home as it was stored, and what was published; not to be written to."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def then(golden: Path) -> dict[str, Any]:
    """What the first release said of that home."""
    found: dict[str, Any] = json.loads((golden / "published.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def old_home(golden: Path, tmp_path: Path) -> Path:
    """The home, for one test."""
    home = Path(shutil.copytree(golden / "home", tmp_path / "home"))
    for path in (home, *home.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return home


def published(ledger: Ledger, entry: int | None = None) -> str:
    """What is published as of an entry, without this release's own name."""
    text = render(exposition(ledger.snapshot(entry), pipeline="red_wine", version="1"))
    return BACK_THEN.sub("", text)


def test_an_old_ledger_says_what_it_said(old_home: Path, then: dict[str, Any]) -> None:
    """As of each entry of its history, and in each record."""
    with Ledger.open(old_home) as ledger:
        assert ledger.records(99) == then["records"]
        assert [list(each) for each in ledger.history()] == then["history"]
        assert len(then["expositions"]) == 11
        for entry, text in then["expositions"].items():
            assert published(ledger, int(entry)) == BACK_THEN.sub("", text), entry
        assert published(ledger) == published(ledger, 11)
        assert ledger.next_sequence() == 8
    with closing(sqlite3.connect(old_home / "ledger.sqlite")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (7,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_ledger_that_was_brought_up_to_date_is_like_a_new_one(
    old_home: Path, tmp_path: Path
) -> None:
    """The same tables, with the same checks and indexes."""

    def schema(home: Path) -> set[str]:
        with Ledger.open(home), closing(sqlite3.connect(home / "ledger.sqlite")) as connection:
            found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
            return {"".join(text.replace('"', "").split()) for (text,) in found}

    assert schema(old_home) == schema(tmp_path / "new")


def test_the_old_file_is_kept_beside_the_backups(old_home: Path, golden: Path) -> None:
    """As it was, so that the older release can go on with it."""
    with Ledger.open(old_home):
        pass
    kept = old_home / "backups" / "ledger-schema-4.sqlite"
    assert dump(kept) == dump(golden / "home" / "ledger.sqlite")
    with closing(sqlite3.connect(kept)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (4,)


def test_an_old_home_goes_on(cli: Cli, old_home: Path, tmp_path: Path) -> None:
    """A batch, what was done before, late labels, a rollback, a prune, a repair."""
    arguments = ("--home", old_home, *TRAINED)
    stream = ("--source", "simulated", "--batch-rows", 60)
    cli("run-batch", *arguments, *stream)
    with Ledger.open(old_home, read_only=True) as ledger:
        new = ledger.records(1)[0]
    assert new["batch"]["sequence"] == 8 and new["batch"]["name"] == "simulated 5"
    assert new["model"]["version"].startswith("v2-")
    bad = tmp_path / "bad.csv"
    bad.write_bytes((old_home / "quarantine" / "403bea5152c2-bad.csv").read_bytes())
    assert "refused before" in cli("run-batch", bad, *arguments, code=3).stderr
    cli("simulate", *stream, "--seed", 11, "--out", tmp_path / "out")
    (file,) = (tmp_path / "out").iterdir()
    header, *lines = file.read_text(encoding="utf-8").splitlines()
    bare = [line.rpartition(";")[0] + ";" for line in lines]
    file.write_text("\n".join([header, *bare, ""]), encoding="utf-8")
    (tmp_path / "late.csv").write_text(
        "\n".join(["quality", *(line.rpartition(";")[2] for line in lines), ""])
    )
    cli("run-batch", file, *arguments)
    cli("add-labels", 9, tmp_path / "late.csv", *arguments)
    cli("models", "rollback", "v1-4080672b", "--home", old_home)
    cli("prune", "--home", old_home)
    assert "sound" in cli("repair", "--home", old_home).stdout
    cli("health", "--home", old_home)
    with Ledger.open(old_home, read_only=True) as ledger:
        champion = ledger.champion()
        assert champion is not None and champion["version"].startswith("v1-")
        assert ledger.records(1)[0]["labels"]["rows"] == 60


def test_commands_that_only_read_say_what_to_do_about_an_old_ledger(
    cli: Cli, old_home: Path, tmp_path: Path
) -> None:
    """They change nothing; one that writes brings it up to date, and then they work."""
    before = (old_home / "ledger.sqlite").read_bytes()
    reading: tuple[tuple[object, ...], ...] = (
        *(("status",), ("metrics",), ("explain",), ("health",), ("models", "list")),
        *(("models", "show"), ("models", "diff"), ("prune", "--dry-run")),
        ("history", "export", "--openmetrics", tmp_path / "past"),
        ("history", "list"),
        ("run-batch", "--dry-run", *TRAINED),
    )
    for words in reading:
        told = cli(*words, "--home", old_home, code=6).stderr
        assert "schema 4" in told and "older release" in told, words
        assert "wine-drift push" in told or "next run" in told, words
    assert (old_home / "ledger.sqlite").read_bytes() == before
    assert not (old_home / "backups").exists()
    cli("push", "--home", old_home)
    for words in reading:
        if words[0] != "health":  # its last success is a while ago
            cli(*words, "--home", old_home)


@pytest.mark.parametrize("at", ["backup: sync", "ledger: begin", "ledger: commit"])
@pytest.mark.parametrize("how", ["error", "kill"])
def test_an_upgrade_that_is_cut_short_has_not_been(
    old_home: Path, golden: Path, monkeypatch: pytest.MonkeyPatch, at: str, how: str
) -> None:
    """The ledger is as it was, whole and of the old schema, and the next one brings it up."""
    before = dump(golden / "home" / "ledger.sqlite")

    def fail(name: str) -> None:
        if name == at and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == at:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hook", fail)
        if how == "error":
            with pytest.raises(StateUnreadable, match="No space left"), Ledger.open(old_home):
                pass
        else:
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException), Ledger.open(old_home):
                    pass
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    reader = Ledger.open(old_home, read_only=True)
    with pytest.raises(StateUnreadable, match="older release"), reader:
        pass
    assert dump(old_home / "ledger.sqlite") == before
    with Ledger.open(old_home) as ledger:
        assert ledger.next_sequence() == 8 and len(ledger.history()) == 11


def test_several_that_bring_a_ledger_up_to_date_do_it_once(old_home: Path) -> None:
    """Whoever comes second waits for the lock of the home, and finds it done."""
    settings = Settings(home=old_home, lock_wait=60)
    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if pids[-1] == 0:
            code = 1
            with contextlib.suppress(BaseException), writing(settings) as ledger:
                code = 0 if ledger.next_sequence() == 8 else 2
            os._exit(code)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    with Ledger.open(old_home) as ledger:
        assert len(ledger.records(99)) == 7


def test_every_schema_has_a_way_up() -> None:
    """From the first that was released to this one, without a gap."""
    assert sorted(_MIGRATIONS) == list(range(4, SCHEMA_VERSION))


# --- what status and the past are told from ---


def test_batches_before_another(opened: Opened) -> None:
    """Processed ones, the newest first; or only those with labels."""
    unlabelled = {"outcome": "processed", "retraining": None, "batch": {"labelled": 0}}
    with opened() as ledger:
        for number, labelled in enumerate((30, 0, 30, 30), start=1):
            told = unlabelled | {"n": number, "batch": {"labelled": labelled}}
            ledger.commit_batch(commit(f"b{number}", number, record=told), ROOM)
        ledger.commit_batch(commit("bad", 5, outcome="quarantined"), ROOM)
        assert [each["n"] for each in ledger.before(6)] == [4, 3, 2, 1]
        assert [each["n"] for each in ledger.before(4, labelled=True)] == [3, 1]
        assert list(ledger.before(1)) == []


def test_why_a_version_came_to_serve(opened: Opened) -> None:
    """Its own reason, unless it was there already; also where the beginning is forgotten."""
    reasons = ("first", "manual", "imported")
    first, second, third = (
        each | {"reason": reason} for each, reason in zip((V1, V2, V3), reasons, strict=True)
    )
    tried = {"reason": "manual", "outcome": "promoted", "gate": None}
    clock = iter(range(100))
    with opened(now=lambda: next(clock)) as ledger:
        ledger.commit_champion(first, None)
        ledger.commit_retraining(second, tried, at=1.0)
        ledger.commit_version(third, learnt=0)
        for version in ("v1", "v3", "v2", "v1"):
            ledger.commit_champion_again(version, None)
        told = [(each["champion"], each["why"]) for each in ledger.past(9)]
        assert told == [
            *(("v1", "first"), ("v2", "manual")),
            *((version, "rollback") for version in ("v1", "v3", "v2", "v1")),
        ]
        assert ledger.champion_at() == ledger.past(1)[0]["at"]
        ledger.forget_history(keep=3)
        assert [(each["champion"], each["why"]) for each in ledger.past(9)] == told[-4:]
        ledger.record_run(RUN)
        ledger.forget_history(keep=0)
        assert ledger.champion_at() is None and ledger.past(9) == []
