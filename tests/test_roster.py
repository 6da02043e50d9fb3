"""Which runs were due and are not there, told from the times of runs alone."""

from __future__ import annotations

from datetime import UTC
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wine_drift.roster import more_waits, run_part
from wine_drift.timetable import Cron, Every

TEN = 600  # seconds
EVERY, LINE = Every(TEN), Cron("*/10 * * * *", UTC)
History = list[tuple[float, float]]  # start and end of each run


def told(timetable: Cron | Every, history: History) -> list[dict[str, Any]]:
    """What each run of a history tells."""
    found: list[dict[str, Any]] = []
    for start, end in history:
        previous = found[-1] if found else None
        times = {"started_at": start, "finished_at": end}
        part = partial(run_part, previous, timetable, schedule="ten", success=True)
        found.append(part(outcome="processed", **times))
    return found


def absent(timetable: Cron | Every, history: History) -> list[tuple[int, int]]:
    """Skipped and missed runs, as each run tells them."""
    return [(run["skipped"], run["missed"]) for run in told(timetable, history)]


@pytest.mark.parametrize("timetable", [EVERY, LINE], ids=["every", "line"])
@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([(0, 5), (600, 605), (1200, 1205)], [(0, 0)] * 3, id="on time"),
        pytest.param([(2, 5), (790, 800), (1201, 1205)], [(0, 0)] * 3, id="a little late"),
        pytest.param([(0, 599), (600, 1199), (1200, 1201)], [(0, 0)] * 3, id="just ready"),
        pytest.param([(0, 700), (1200, 1205)], [(0, 0), (1, 0)], id="one skipped"),
        pytest.param([(0, 1900), (2400, 2405)], [(0, 0), (3, 0)], id="three skipped"),
        pytest.param([(0, 5), (1200, 1205)], [(0, 0), (0, 1)], id="one missed"),
        pytest.param([(0, 5), (6000, 6005)], [(0, 0), (0, 9)], id="nine missed"),
        pytest.param([(0, 400), (1200, 1205)], [(0, 0), (0, 1)], id="long, then one missed"),
        pytest.param([(0, 1000), (2400, 2405)], [(0, 0), (1, 2)], id="skipped, then missed"),
        pytest.param([(0, 9), (200, 209), (601, 605)], [(0, 0)] * 3, id="one more by hand"),
        pytest.param([(0, 9), (1210, 1220), (1800, 1801)], [(0, 0), (0, 1), (0, 0)], id="late"),
        pytest.param([(0, 9), (20, 25), (30, 35), (600, 602)], [(0, 0)] * 4, id="drained"),
        pytest.param([(6000, 6005), (1200, 1205)], [(0, 0), (0, 0)], id="clock set back"),
        pytest.param([(6000, 1150), (1200, 1205)], [(0, 0), (0, 0)], id="set back in a run"),
        pytest.param([(600, 100), (1200, 1205)], [(0, 0), (0, 0)], id="by less"),
    ],
)
def test_histories(
    timetable: Cron | Every, history: History, expected: list[tuple[int, int]]
) -> None:
    """Due during a run: skipped; due without one: missed; a run that starts is neither."""
    assert absent(timetable, history) == expected


def test_a_run_by_hand_stands_for_the_one_before_it() -> None:
    """What was missed is told by whoever comes first, once."""
    assert absent(LINE, [(0, 5), (1100, 1105), (1200, 1205)]) == [(0, 0), (0, 0), (0, 0)]
    assert absent(LINE, [(0, 5), (1300, 1305), (1800, 1805)]) == [(0, 0), (0, 1), (0, 0)]


def test_a_line_may_have_long_gaps() -> None:
    """Over a night in which nothing is due nothing is missed."""
    office = Cron("0 9-17 * * *", UTC)
    evening, morning, noon = 17 * 3600, 33 * 3600, 36 * 3600
    assert absent(office, [(evening, evening + 9), (morning, morning + 9), (noon, noon)]) == [
        *((0, 0), (0, 0), (0, 2)),
    ]


@pytest.mark.parametrize("before", [{"schedule": "other"}, {}], ids=["other", "early release"])
def test_nothing_is_counted_across_a_change(before: dict[str, str]) -> None:
    """Nor for a first run, nor after a release that did not tell its schedule."""
    times = {"started_at": 9000.0, "finished_at": 9005.0}
    for previous in (None, before | {"started_at": 0.0, "finished_at": 5.0}):
        run = run_part(previous, LINE, schedule="ten", success=False, outcome="x", **times)
        assert (run["skipped"], run["missed"]) == (0, 0)


def test_all_else_that_is_told() -> None:
    """How it ended, when the next one is due, and what the caller adds."""
    run = run_part(
        None,
        LINE,
        schedule="ten",
        started_at=610.0,
        finished_at=1300.0,
        success=True,
        outcome="idle",
        ended="killed",
    )
    assert run == {
        **{"schedule": "ten", "started_at": 610.0, "finished_at": 1300.0, "success": True},
        **{"outcome": "idle", "ended": "killed", "interval": 600.0, "next_run": 1200.0},
        **{"skipped": 0, "missed": 0},
    }


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (None, False),
        ({"outcome": "processed"}, False),
        ({"outcome": "killed", "pending": None}, False),
        ({"outcome": "processed", "pending": 0}, False),
        ({"outcome": "processed", "pending": 1}, True),
        ({"outcome": "quarantined", "pending": 3}, True),
        ({"outcome": "nothing_waiting", "pending": 3}, False),
    ],
)
def test_more_waits(run: dict[str, Any] | None, expected: bool) -> None:
    """A run that found nothing is not followed by another one, whatever lies in the inbox."""
    assert more_waits(run) is expected


def live(
    days: list[tuple[bool, int, int]],
) -> tuple[History, int, int]:
    """What a scheduler makes of due times: the runs, and how many were skipped and missed.

    For each due time: whether the machine is on, how late the run starts, how long it takes.
    """
    history: History = [(0, 0)]
    skipped, missed, pending = 0, 0, [0, 0]
    for number, (there, late, length) in enumerate(days, start=1):
        due = number * TEN
        if due <= history[-1][1]:
            pending[0] += 1
        elif not there:
            pending[1] += 1
        else:
            history.append((due + late, due + late + length))
            skipped, missed = skipped + pending[0], missed + pending[1]
            pending = [0, 0]  # what is absent is told by the next run
    return history, skipped, missed


DAYS = st.lists(
    st.tuples(st.booleans(), st.integers(0, TEN - 1), st.integers(0, 3 * TEN)), max_size=40
)


@given(DAYS)
def test_a_line_accounts_for_every_due_time(days: list[tuple[bool, int, int]]) -> None:
    """Every time that was due is a run, skipped or missed, and each is told as what it was."""
    history, skipped, missed = live(days)
    runs = told(LINE, history)
    assert sum(run["skipped"] for run in runs) == skipped
    assert sum(run["missed"] for run in runs) == missed
    due = LINE.due_between(history[0][0], history[-1][0])
    assert len(runs) - 1 + skipped + missed == due


@given(DAYS)
def test_an_interval_accounts_for_every_due_time(days: list[tuple[bool, int, int]]) -> None:
    """The same where runs are less than half an interval late: their step is not known better."""
    history, skipped, missed = live([(there, late // 3, length) for there, late, length in days])
    runs = told(EVERY, history)
    assert sum(run["skipped"] + run["missed"] for run in runs) == skipped + missed
    history, skipped, missed = live([(there, 0, length) for there, _, length in days])
    runs = told(EVERY, history)
    assert sum(run["skipped"] for run in runs) == skipped
    assert sum(run["missed"] for run in runs) == missed
