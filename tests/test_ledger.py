"""The ledger: all of a batch or nothing of it, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wine_drift.errors import StateUnreadable
from wine_drift.ledger import Commit, Cursor, Ledger
from wine_drift.rows import LabelledRows

RUN = {"finished_at": 12.5, "success": True, "outcome": "processed"}


def rows(n: int, sequence: int) -> LabelledRows:
    """Rows of one feature, every third positive."""
    return LabelledRows(
        np.arange(n, dtype=float)[:, None], np.arange(n) % 3 == 0, np.full(n, sequence)
    )


def commit(content_id: str, sequence: int = 1, **changes) -> Commit:
    """A commit that touches everything."""
    usual = {
        "content_id": content_id,
        "outcome": "processed",
        "record": {"outcome": "processed", "retraining": None, "n": sequence},
        "run": RUN,
        "counters": {("batches", (("outcome", "success"),)): 1, ("rows", ()): 30},
        "cursor": Cursor("table", 7, 100 * sequence, sequence),
        "detector": ("v1", {"pool": [sequence]}),
        "labelled": rows(30, sequence),
    }
    return Commit(**(usual | changes))


def test_a_batch_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Record, counters, cursor, detector and rows outlive the process."""
    with Ledger.open(tmp_path) as ledger:
        ledger.commit_batch(commit("a"), window_rows=1000)
    with Ledger.open(tmp_path) as ledger:
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


def test_the_same_content_cannot_be_counted_twice(tmp_path: Path) -> None:
    """A second commit of the same content fails whole and changes nothing."""
    with Ledger.open(tmp_path) as ledger:
        ledger.commit_batch(commit("a"), window_rows=1000)
        before = list(ledger._connection.iterdump())
        with pytest.raises(StateUnreadable):
            ledger.commit_batch(commit("a", 2), window_rows=1000)
        assert list(ledger._connection.iterdump()) == before


def test_half_a_commit_is_none(tmp_path: Path) -> None:
    """A commit that fails at its last step leaves no trace of the steps before."""
    with Ledger.open(tmp_path) as ledger:
        ledger.commit_batch(commit("a"), window_rows=1000)
        before = list(ledger._connection.iterdump())
        with pytest.raises(KeyError):
            ledger.commit_batch(commit("b", 2, run={"success": True}), window_rows=1000)
        assert list(ledger._connection.iterdump()) == before


def test_numbers_have_no_gaps_and_the_window_is_bounded(tmp_path: Path) -> None:
    """Old rows leave once newer ones fill the window; the newest always stay."""
    with Ledger.open(tmp_path) as ledger:
        for number in range(1, 11):
            assert ledger.next_sequence() == number
            ledger.commit_batch(commit(str(number), number), window_rows=100)
        kept = ledger.labelled_rows(1, after=0)
        assert sorted(set(kept.sequence.tolist())) == [7, 8, 9, 10]
        assert ledger.labelled_counts(after=8) == (60, 20)
        ledger.commit_batch(commit("big", 11, labelled=rows(500, 11)), window_rows=100)
        assert len(ledger.labelled_rows(1, after=0)) == 100
        assert [record["n"] for record in ledger.records(3)] == [9, 10, 11]


def test_promotion_swaps_champion_and_detector_together(tmp_path: Path) -> None:
    """After one commit the new version serves, since that batch, with its own detector."""
    first = {"version": "v1", "number": 1}
    second = {"version": "v2", "number": 2}
    with Ledger.open(tmp_path) as ledger:
        assert ledger.champion() is None
        ledger.commit_champion(first, Cursor("table", 7, 50, 0))
        assert ledger.champion() == first
        assert ledger.champion_since() == 0
        ledger.commit_batch(commit("a"), window_rows=1000)
        promotion = commit("b", 2, promoted=second, detector=("v2", {}))
        ledger.commit_batch(promotion, window_rows=1000)
        assert ledger.champion() == second
        assert ledger.champion_since() == 2
        assert ledger.detector("v2") == {}
        assert ledger.versions() == [first, second]


def test_reading_makes_nothing(tmp_path: Path) -> None:
    """A read-only look at a home that is not there leaves it so."""
    home = tmp_path / "none"
    with Ledger.open(home, read_only=True) as ledger:
        assert ledger.champion() is None
        assert ledger.snapshot().run is None
    assert not home.exists()


def test_a_batch_is_found_by_number_and_by_id(tmp_path: Path) -> None:
    """The last batch, one by its number, one by the start of its id; no guess between two."""
    with Ledger.open(tmp_path) as ledger:
        assert ledger.find("") is None
        for number, content_id in enumerate(("ab12", "ab34", "cd56"), start=1):
            ledger.commit_batch(commit(content_id, number), window_rows=1000)
        refused = commit("ef", 4, outcome="quarantined", detector=None, labelled=None)
        ledger.commit_batch(refused, window_rows=1000)
        found = {run: ledger.find(run) for run in ("", "2", "cd", "ab", "4", "ef", "x%", "99")}
    assert {run: record and record["n"] for run, record in found.items()} == {
        **{"": 3, "2": 2, "cd": 3},
        **dict.fromkeys(("ab", "4", "ef", "x%", "99")),
    }


def test_what_selftest_found_is_told_of_its_own_version_only(tmp_path: Path) -> None:
    """The power of a detector is published until another champion takes over."""
    with Ledger.open(tmp_path) as ledger:
        ledger.commit_champion({"version": "v1", "number": 1}, None)
        ledger.record_power({"version": "v1", "features": []})
        assert ledger.snapshot().power == {"version": "v1", "features": []}
        ledger.commit_champion({"version": "v2", "number": 2}, None)
        assert ledger.snapshot().power is None


@pytest.mark.parametrize(("number", "told"), [(99, "newer release"), (1, "older release")])
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
