"""When runs are due: against croniter, against a replay of cron's own loop, and by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from wine_drift.timetable import Cron, Every

HOUR, DAY = 3600, 86_400

# Lines of every kind; both ways of reading the day fields come up.
LINES = [
    *("* * * * *", "*/15 * * * *", "7-59/20 * * * *", "0 * * * *", "5,35 0-23/6 * * *"),
    *("30 2 * * *", "0 9-17 * * 1-5", "0 22 * * mon-fri", "15 14 1 * *", "0 0 1 1 *"),
    *("30 4 1,15 * 5", "0 0 13 * fri", "0 0 1-7 * */7", "0 0 */2 * mon", "0 12 1-7 * *"),
    *("0 0 */2 * */2", "0 0 * */3 *", "0 0 29 2 *", "59 23 31 * *", "0 0 31 1-12/2 sun"),
    *("0 6 * JAN-mar,Dec *", "0 0 * * 0", "0 0 * * 7", "0 0 * * 5-7", "0 0 * * 0-7/3"),
    *("0 0 29 2 0", "0 0 30 * sat,2", "10 10 10 10 *", "*/7 */5 */9 * *", "0 0 1,*/10 * 3"),
    *("007 08 09 10 *", "\t0  0\t*\t* * ", "*/60 */24 * * *", "0-59 0-23 1-31 1-12 0-6"),
    *("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"),
]


def at(text: str, zone: tzinfo = UTC) -> float:
    """Unix time of a moment as ISO 8601 has it; a clock without offset is one of the zone."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def due(cron: Cron, start: float, end: float = math.inf) -> Iterator[float]:
    """All due times in (start, end], one asked for after the other."""
    while (moment := cron.due_after(start)) <= end:
        assert start < moment, "the next run must be later"
        yield moment
        start = moment


def theirs(line: str, start: float, end: float) -> Iterator[float]:
    """The same from croniter, in UTC. Its option makes it read `*/2` in day fields as cron does."""
    steps = croniter(" ".join(line.split()), start, implement_cron_bug=True)
    while (moment := steps.get_next(float)) <= end:
        yield moment


# --- lines, in UTC ---


@pytest.mark.parametrize("line", LINES)
def test_lines_mean_what_they_mean_to_croniter(line: str) -> None:
    """From several moments on the next times are croniter's; rare ones over many years."""
    cron = Cron(line, UTC)
    for start in (
        "1970-01-01T00:00",
        "1999-12-31T23:59:30",
        "2026-11-23T20:00",
        "2096-02-28T12:00",
    ):
        first = at(start)
        expected = list(islice(theirs(line, first, first + 12 * 365 * DAY), 50))
        assert list(islice(due(cron, first), len(expected))) == expected
        assert expected or cron.due_after(first) > first + 8 * 365 * DAY


def parts(low: int, high: int) -> st.SearchStrategy[str]:
    """One part of a list: a number, a range, a range with a step.

    Not 5-5: that is 5 to cron, and everything to croniter.
    """
    number = st.integers(low, high)
    ends = st.lists(number, min_size=2, max_size=2, unique=True)
    span = ends.map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.integers(1, min(high - low, 30)).map(lambda step: f"/{step}")
    return st.one_of(number.map(str), span, st.builds(str.__add__, span, step))


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    """A field of a line, half of them unrestricted."""
    some = st.lists(parts(low, high), min_size=1, max_size=3).map(",".join)
    step = st.integers(1, min(high - low, 30)).map(lambda step: f"*/{step}")
    return st.one_of(st.just("*"), some, step)


random_lines = st.tuples(
    fields(0, 59), fields(0, 23), fields(1, 28), fields(1, 12), fields(0, 7)
).map(" ".join)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(random_lines, st.integers(0, 100 * 365 * DAY))
def test_random_lines_mean_what_they_mean_to_croniter(line: str, start: int) -> None:
    """The same with lines that nobody would write."""
    expected = list(islice(theirs(line, start, start + 30 * 365 * DAY), 60))
    assert list(islice(due(Cron(line, UTC), start), len(expected))) == expected


@pytest.mark.parametrize("line", LINES)
def test_counts_over_years_are_those_of_croniter(line: str) -> None:
    """As many times are due as croniter finds: in 30 years, or until it has found 500."""
    start = at("2023-05-05T05:05")
    expected = list(islice(theirs(line, start, start + 30 * 365 * DAY), 500))
    for end, missing in ((expected[-1], 0), (expected[-1] - 1, 1)):
        assert Cron(line, UTC).due_between(start, end) == len(expected) - missing


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("0 0 * * 7", "0 0 * * sun"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * 5-5", "0 0 * * 5"),
        ("0 0 * * 1,SUN", "0 0 * * Mon,7"),
        ("0 0 * * */7", "0 0 * * 0"),
        ("0 0 * 2-4 *", "0 0 * feb-APR *"),
        ("@annually", "0 0 1 jan *"),
        ("0\t0 1 1 * ", "@yearly"),
    ],
)
def test_two_ways_to_write_the_same(line: str, same: str) -> None:
    """Names, numbers, short forms and blanks."""
    start = at("2026-11-23")
    assert [*islice(due(Cron(line, UTC), start), 40)] == [*islice(due(Cron(same, UTC), start), 40)]


@pytest.mark.parametrize(
    ("line", "start", "following"),
    [
        ("0 12 * * *", "2026-11-23T12:00:00+00:00", "2026-11-24T12:00"),
        ("0 12 * * *", "2026-11-23T11:59:59.999+00:00", "2026-11-23T12:00"),
        ("* * * * *", "2026-12-31T23:59:59+00:00", "2027-01-01T00:00"),
        ("0 0 29 2 *", "2096-02-29T00:00:00+00:00", "2104-02-29T00:00"),
        ("0 0 29 2 */7", "2026-01-01T00:00:00+00:00", "2032-02-29T00:00"),  # both: a Sunday
        ("0 0 29 2 0", "2026-01-01T00:00:00+00:00", "2026-02-01T00:00"),  # either
        ("*/1 0 1 1 *", "1969-12-31T23:59:59+00:00", "1970-01-01T00:00"),
        ("0 0 1 3 *", "1968-02-29T12:00:00+00:00", "1968-03-01T00:00"),
    ],
)
def test_the_next_time_in_utc(line: str, start: str, following: str) -> None:
    """The next time is later than the moment, and found far away too; `since` does not matter."""
    cron = Cron(line, UTC)
    assert cron.due_after(at(start)) == cron.due_after(at(start), since=5e9) == at(following)


# --- changed clocks ---

PARTICULAR = [
    *("30 2 * * *", "0 3 * * *", "0 0 * * *", "15 0,1 * * *", "45 23 * * sun", "0,20,40 0-4 * * *"),
    *("0-59/20 0-23 * * *", "5 22-23 * * *", "30 0 1,29-31 * 6"),
]
WILD = ["*/30 * * * *", "0 * * * *", "@hourly", "*/20 0-3 * * *", "10 */2 * * *", "*,5 23 * * 6,0"]
CHANGES = [
    ("UTC", "2026-03-29"),
    ("Asia/Kathmandu", "2026-03-29"),  # never changed, 5:45 ahead
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-10-04"),  # by half an hour
    ("Australia/Lord_Howe", "2026-04-05"),
    ("America/Sao_Paulo", "2018-11-04"),  # midnight to one
    ("America/Sao_Paulo", "2018-02-18"),  # midnight to eleven of the day before
    ("America/St_Johns", "2011-03-13"),  # one past midnight
    ("America/St_Johns", "2010-11-07"),  # one past midnight, to the day before
    ("America/Scoresbysund", "2024-03-31"),  # one zone west and forward: no change of the clock
    ("Asia/Beirut", "2022-03-27"),
    ("Asia/Beirut", "2022-10-30"),
    ("Africa/Cairo", "2023-04-28"),
    ("Africa/Cairo", "2023-10-27"),
    ("Antarctica/Casey", "2020-10-04"),  # three hours forward
    ("Antarctica/Casey", "2010-03-05"),  # three hours back
    ("Antarctica/Troll", "2026-03-29"),  # two hours forward
    ("Antarctica/Troll", "2026-10-25"),  # two hours back
    ("Pacific/Apia", "2011-12-30"),  # there was no such day
    ("Pacific/Kwajalein", "1969-09-30"),  # nearly twice
]


@cache
def local_minutes(zone: tzinfo, start: int, end: int) -> list[int]:
    """What the clock of a zone shows at each minute, counted like Unix time."""
    return [
        round(datetime.fromtimestamp(now, zone).replace(tzinfo=UTC).timestamp()) // 60
        for now in range(start, end + 1, 60)
    ]


def replayed(line: str, zone: tzinfo, start: float, end: float) -> list[float]:
    """Due times in (start, end] as cron's loop finds them, waking up at every minute.

    It keeps the last minute of the local clock for which all was done, and looks how far the clock
    is from it. What is late is due now; cron itself spreads that out by ten seconds each.
    """
    text = {"@hourly": "0 * * * *"}.get(line, line)
    wild = any(field.startswith("*") for field in text.split()[:2])
    clocks = local_minutes(zone, int(start), int(end))
    first, last = min(clocks) * 60 - 60, max(clocks) * 60
    named = {round(moment) // 60 for moment in theirs(text, first, last)}
    found, done = [], clocks[0]
    for number, clock in enumerate(clocks[1:], 1):
        ahead = clock - done
        if wild or ahead == 1 or ahead > 180 or ahead <= -180:
            run = clock in named
        else:
            run = any(minute in named for minute in range(done + 1, clock + 1))
        if run:
            found.append(start + 60 * number)
        if ahead > 0 or ahead <= -180:
            done = clock
    return found


@pytest.mark.parametrize(("name", "day"), CHANGES)
def test_changed_clocks_are_met_as_by_cron(name: str, day: str) -> None:
    """Around each change, every line is due when cron's own loop would run it, in order."""
    zone = ZoneInfo(name)
    start = math.floor(at(day, UTC) / DAY - 1) * DAY
    end = start + 3 * DAY
    for line in PARTICULAR + WILD:
        expected, cron = replayed(line, zone, start, end), Cron(line, zone)
        assert list(due(cron, start, end)) == expected, line
        assert cron.due_between(start, end) == len(expected), line


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    st.tuples(fields(0, 59), fields(0, 23), st.sampled_from(["*", "29-31", "4"])),
    st.sampled_from(CHANGES),
    st.integers(0, 2 * DAY // 60),
)
def test_changed_clocks_are_met_as_by_cron_whatever_the_line(
    times: tuple[str, str, str], change: tuple[str, str], skip: int
) -> None:
    """The same with random lines, from a random minute on."""
    name, day = change
    line, zone = " ".join([*times, "*", "6,0" if times[0].startswith("*") else "*"]), ZoneInfo(name)
    start = math.floor(at(day, UTC) / DAY - 1) * DAY
    later = start + 60 * skip
    expected = [m for m in replayed(line, zone, start, start + 3 * DAY) if m > later]
    cron = Cron(line, zone)
    assert list(islice(due(cron, later, start + 3 * DAY), 40)) == expected[:40]
    assert cron.due_between(later, start + 3 * DAY) == len(expected)


@pytest.mark.parametrize(
    ("line", "zone", "start", "following"),
    [
        # Berlin goes from 2:00 to 3:00: what was skipped is due at its end, once
        ("30 2 * * *", "Europe/Berlin", "2026-03-29", ["03-29T03:00+02:00", "03-30T02:30+02:00"]),
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-29", ["03-29T03:00+02:00", "03-30T02:00+02:00"]),
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-29", ["03-30T02:00+02:00", "03-30T02:30+02:00"]),
        (
            "30 * * * *",
            "Europe/Berlin",
            "2026-03-29T01:00",
            ["03-29T01:30+01:00", "03-29T03:30+02:00"],
        ),
        # and from 3:00 to 2:00: the first time only, but for the line with a star
        ("30 2 * * *", "Europe/Berlin", "2026-10-25", ["10-25T02:30+02:00", "10-26T02:30+01:00"]),
        (
            *("*/30 * * * *", "Europe/Berlin", "2026-10-25T02:00"),
            ["10-25T02:30+02:00", "10-25T02:00+01:00", "10-25T02:30+01:00", "10-25T03:00+01:00"],
        ),
        # Lord Howe goes from 2:00 to 2:30, and back to 1:30
        ("10 2 * * *", "Australia/Lord_Howe", "2026-10-04", ["10-04T02:30+11:00"]),
        (
            *("45 1 * * *", "Australia/Lord_Howe", "2026-04-05"),
            ["04-05T01:45+11:00", "04-06T01:45+10:30"],
        ),
        # Midnight itself is skipped
        (
            "@daily",
            "America/Sao_Paulo",
            "2018-11-03T12:00",
            ["11-04T01:00-02:00", "11-05T00:00-02:00"],
        ),
        # 0:01 is 23:01 of the day before
        (
            *("*/30 23,0 * * *", "America/St_Johns", "2010-11-06T23:00"),
            ["11-06T23:30-02:30", "11-07T00:00-02:30", "11-06T23:30-03:30", "11-07T00:00-03:30"],
        ),
        # Samoa had no 30 December, and nobody makes up for a whole day
        ("0 12 * * *", "Pacific/Apia", "2011-12-29", ["12-29T12:00-10:00", "12-31T12:00+14:00"]),
        # Liberia went from 0:00 to 0:44:30; the next full minute is the end of that
        ("30 0 * * *", "Africa/Monrovia", "1972-01-06T12:00", ["01-07T00:45+00:00"]),
    ],
)
def test_known_changes(line: str, zone: str, start: str, following: list[str]) -> None:
    """Changes that anybody can check in a calendar."""
    cron = Cron(line, ZoneInfo(zone))
    expected = [at(f"{start[:4]}-{moment}") for moment in following]
    assert list(islice(due(cron, at(start, cron.zone)), len(following))) == expected


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    "line", ["30 2 * * *", "*/40 6-18 * * 1-5", "0 0 1 * *", "15 23 */9 * sat"]
)
def test_away_from_changes_croniter_agrees_in_zones(line: str, name: str) -> None:
    """From May to August no clock is changed there, and croniter knows the zone."""
    zone = ZoneInfo(name)
    start, end = at("2026-05-02", zone), at("2026-08-30", zone)
    steps = croniter(line, datetime.fromtimestamp(start, zone), implement_cron_bug=True)
    expected = [moment for moment in islice(steps.all_next(float), 300) if moment <= end]
    assert list(islice(due(Cron(line, zone), start, end), 300)) == expected


def test_a_fixed_offset_is_a_zone_too() -> None:
    """Any tzinfo will do."""
    zone = datetime.fromisoformat("2026-01-01T00:00-03:30").tzinfo
    assert zone is not None
    assert Cron("0 0 * * *", zone).due_after(0) == 3.5 * HOUR


# --- counting and gaps ---


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    st.sampled_from(LINES),
    st.sampled_from(CHANGES),
    st.floats(-2 * DAY, 2 * DAY),
    st.floats(-DAY, 2 * DAY),
)
def test_counting_is_asking_one_after_the_other(
    line: str, change: tuple[str, str], after: float, length: float
) -> None:
    """`due_between` counts what `due_after` gives, its end included; backwards there is nothing."""
    name, day = change
    cron, start = Cron(line, ZoneInfo(name)), at(day) + after
    times = list(islice(due(cron, start, start + length), 60))
    if len(times) == 60:
        length = times[-1] - start
    assert cron.due_between(start, start + length) == len(times)
    if times:
        assert cron.due_between(start, times[-1]) == len(times)
        assert cron.due_between(times[0], times[-1]) == len(times) - 1


@pytest.mark.parametrize(
    ("line", "gap"),
    [
        ("* * * * *", timedelta(minutes=1)),
        ("*/25 * * * *", timedelta(minutes=25)),
        ("*/50 * * * *", timedelta(minutes=50)),  # 0 and 50, then 0
        ("20 9-17 * * *", timedelta(hours=16)),
        ("0 9-17 * * 1-5", timedelta(days=2, hours=16)),
        ("30 2 * * *", timedelta(days=1)),
        ("0 0 31 * *", timedelta(days=61)),  # 31 March to 31 May
        ("0 0 29 * *", timedelta(days=59)),  # no 29 February: 29 January to 29 March
        ("0 0 1 1 *", timedelta(days=366)),
        ("0 0 29 2 *", timedelta(days=2921)),  # across 2100
        ("0 0 29 2 */7", timedelta(days=40 * 365 + 9)),  # a Sunday in 2088, then in 2128
        ("0 0 28 2 mon", timedelta(days=345)),  # 28 February 2032 to 7 February 2033
    ],
)
def test_the_longest_gap(line: str, gap: timedelta) -> None:
    """The longest time between two runs, by hand."""
    assert Cron(line, UTC).longest_gap == gap.total_seconds()


@pytest.mark.parametrize(
    "line", ["0 0 29 2 */7", "0 0 29 2 *", "0,7 5,9 31 * *", "0 0 13 * */5", "9 9 13 */5 fri"]
)
def test_the_longest_gap_is_met_within_400_years(line: str) -> None:
    """No two neighbours of a whole cycle of the calendar are further apart, and two are as far."""
    cron = Cron(line, ZoneInfo("Europe/Berlin"))
    times = due(Cron(line, UTC), 0, 440 * 365.25 * DAY)
    assert max(later - earlier for earlier, later in pairwise(times)) == cron.longest_gap


# --- what is refused ---


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("", "five fields"),
        ("* * * *", r"write \* for any"),
        ("0 * * * * *", "leave out the rest"),
        ("*/15 * * * * wine-drift run-batch", "leave out the rest"),
        ("@reboot", "name times"),
        ("@Daily", "@daily"),
        ("@fortnightly", "@weekly"),
        ("@daily 0", "five fields"),
        ("0 0 ? * *", r"write \*"),
        ("0 0 L * *", "no last"),
        ("0 0 L-3 * *", "no last"),
        ("0 0 15W * *", "nearest"),
        ("0 0 LW * *", "nearest"),
        ("0 0 * * 5L", "no last"),
        ("0 0 * * fri#2", "n-th"),
        ("5/15 * * * *", "write 5-59/15"),
        ("0 59/2 * * *", "out of range"),
        ("0 0 * * fri/2", "write 5-6/2"),
        ("50-10 * * * *", "write 50-59,0-10"),
        ("59-0 * * * *", "write 59,0"),
        ("0 0 * * fri-mon", "write 5-6,0-1"),
        ("0 0 * * sat-sun", "write 6,0"),
        ("0 0 * nov-jan *", "write 11-12,1"),
        ("*/0 * * * *", "from 1 to 60"),
        ("*/90 * * * *", "from 1 to 60"),
        ("0 0-23/25 * * *", "from 1 to 24"),
        ("0 0 * * */8", "from 1 to 7"),
        ("60 * * * *", "write 0 to 59"),
        ("0 24 * * *", "write 0 to 23"),
        ("0 0 0 * *", "write 1 to 31"),
        ("0 0 1-32 * *", "write 1 to 31"),
        ("0 0 * 13 *", "write 1 to 12"),
        ("0 0 * * 8", "write 0 to 7"),
        (f"{'9' * 5000} * * * *", "write 0 to 59"),
        ("1,,2 * * * *", "remove a comma"),
        (",1 * * * *", "remove a comma"),
        ("0 1, * * *", "remove a comma"),
        ("0 0 * * monday", "write mon"),
        ("0 0 * June *", "write jun"),
        ("jan * * * *", "does not know"),
        ("-5 * * * *", "does not know"),
        ("*5 * * * *", "does not know"),
        ("1.5 * * * *", "does not know"),
        ("5-7-9 * * * *", "does not know"),
        ("*/5/5 * * * *", "does not know"),
        ("*/ * * * *", "does not know"),
        ("0~59 * * * *", "does not know"),
        ("H * * * *", "does not know"),
        ("٣ * * * *", "does not know"),
        ("0 0 * * *\n", "does not know"),
        ("0\n0 * * * *", "does not know"),
        ("0 0 31 2 *", "no such day"),
        ("0 0 30 feb *", "no such day"),
        ("0 0 31 2,4,6,9,11 *", "no such day"),
        ("0 0 30 2 */2", "no such day"),  # both must match
    ],
)
def test_what_cron_does_not_know_is_refused_with_a_remedy(line: str, remedy: str) -> None:
    """One line that says what to write instead."""
    with pytest.raises(ValueError, match=remedy) as refusal:
        Cron(line, UTC)
    assert len(str(refusal.value).splitlines()) == 1


@settings(max_examples=300, derandomize=True)
@given(st.text("0123456789*/-,@ \tmonLW#?", max_size=20))
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    """Nothing but ValueError comes of nonsense, and a schedule always has a next time."""
    try:
        cron = Cron(text, UTC)
    except ValueError:
        return
    assert cron.due_after(1e9) - 1e9 <= cron.longest_gap


def test_february_30_on_a_weekday_is_that_weekday() -> None:
    """Either day field may match, so the line is no mistake."""
    assert Cron("0 0 30 2 mon", UTC).due_after(at("2026-01-01")) == at("2026-02-02")


# --- Every ---


@settings(derandomize=True)
@given(
    st.floats(1, 10 * DAY), st.floats(1e9, 2e9).map(lambda x: round(x, 3)), st.floats(0, 1000 * DAY)
)
def test_every_keeps_in_step(seconds: float, since: float, slept: float) -> None:
    """After sleeping however long the next run is the first that is in step and not yet past."""
    every, moment = Every(seconds), since + slept
    following = every.due_after(moment, since=since)
    steps = round((following - since) / seconds)
    assert following == since + steps * seconds > moment
    assert steps == 1 or since + (steps - 1) * seconds <= moment
    assert every.due_between(since, following) == steps


def test_every_after_the_clock_was_set_back() -> None:
    """A start that has yet to come is no reason to wait for it."""
    assert Every(900).due_after(1000, since=1_000_000) == 1900
    assert Every(900).due_after(999, since=1000) == 1899
    assert Every(900).due_between(1_000_000, 1000) == 0


@settings(derandomize=True)
@given(st.sampled_from([0.1, 0.7, 1, 900, 86_400 / 7]), st.integers(0, 10_000), st.floats(0, 2e9))
def test_every_at_a_due_time_gives_the_next(seconds: float, steps: int, since: float) -> None:
    """What is due now is not due after now; not even where a quotient is rounded."""
    now = since + steps * seconds
    assert Every(seconds).due_after(now, since=since) == since + (steps + 1) * seconds > now


def test_every_counts_runs_that_start_a_little_late() -> None:
    """Counts are rounded, since the start of a run is not when it was due."""
    assert [Every(60).due_between(0.3, end) for end in (0.3, 60.1, 120.9, 601)] == [0, 1, 2, 10]
    assert Every(60).longest_gap == 60


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, 1e-9])
def test_no_interval(seconds: float) -> None:
    """What is no interval is refused."""
    with pytest.raises(ValueError, match="write 900"):
        Every(seconds)
