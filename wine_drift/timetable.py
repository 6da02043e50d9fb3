"""When runs are due: every so many seconds, or as a line of crontab says.

A line means what it means to Debian's cron, crontab(5) and cron(8), also when clocks are changed.
Nothing here reads a clock: moments are given and returned as Unix time in seconds.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from functools import cached_property
from itertools import islice, pairwise, takewhile
from typing import NamedTuple

DAY = 86_400
EPOCH = date(1970, 1, 1).toordinal()
CORRECTION = 3 * 3600  # a clock that is changed by more was wrong, says cron(8)


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # of the numbers from `low` on


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, MONTHS),
    _Field("weekday", 0, 6, WEEKDAYS),
)
SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
PART = re.compile(r"(?:\*|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/([0-9]{1,9}))?", re.ASCII | re.I)
# What other schedulers know: 5L, L-2, 15W, LW, 5#3
FOREIGN = re.compile(r"[0-9]*(?:L|W|LW)(?:-[0-9]+)?|.*#.*", re.ASCII | re.I)


@dataclass(frozen=True)
class Every:
    """So many seconds from the start of one run to the next.

    Raises ValueError unless `seconds` is finite and at least a thousandth.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not 0.001 <= self.seconds < math.inf:
            raise ValueError(f"{self.seconds!r} seconds is no interval; write 900, for instance")

    @property
    def longest_gap(self) -> float:
        """The interval itself, in seconds."""
        return self.seconds

    def due_after(self, moment: float, *, since: float) -> float:
        """Return when the next run is due: later than `moment`, in step with the run at `since`.

        After `moment` it is never further away than one interval, even if the clock was set back
        and `since` has yet to come.

        >>> Every(60).due_after(1000, since=990), Every(60).due_after(1050, since=990)
        (1050.0, 1110.0)
        >>> Every(60).due_after(500, since=990)
        560.0
        """
        if since > moment:
            return float(moment + self.seconds)
        steps = math.floor((moment - since) / self.seconds)
        while since + steps * self.seconds <= moment:  # twice at most: the quotient is rounded
            steps += 1
        return float(since + steps * self.seconds)

    def due_between(self, start: float, end: float) -> int:
        """Count the runs that became due in (start, end], when one started at `start`.

        A run starts a little after it is due, so the count is rounded.

        >>> Every(60).due_between(0, 60.2), Every(60).due_between(0.2, 180)
        (1, 3)
        """
        return max(round((end - start) / self.seconds), 0)


@dataclass(frozen=True)
class Cron:
    """A line of crontab, read by the clock of a zone.

    Parameters
    ----------
    expression : str
        Five fields, or @hourly, @daily, @midnight, @weekly, @monthly, @yearly or @annually.
    zone : tzinfo
        Whose `utcoffset` is right at every moment, as that of ZoneInfo and `datetime.UTC` is.

    Raises
    ------
    ValueError
        If cron would not take the line, or would quietly take it for something else, or if no day
        ever matches. One line that says what to write instead.

    Notes
    -----
    Days, crontab(5): with both day fields restricted, either may match; a field that begins with
    `*`, also `*/2`, counts as unrestricted, and then both must match.

    Changed clocks, cron(8): a line whose minute or hour begins with `*` follows the clock: nothing
    is due at times that do not exist, and times that happen twice are due twice. Any other line
    names particular times. Those that a clock skips are due, once, when it has skipped them; those
    that happen twice are due the first time. A clock that skips three hours or more, or goes back
    by more than three, is a corrected one and is followed. cron(8) leaves open which side three
    hours are on; this is what Debian's program does.

    Examples
    --------
    The epoch was a Thursday.

    >>> from datetime import UTC
    >>> from zoneinfo import ZoneInfo
    >>> Cron("*/15 * * * *", UTC).due_after(900)
    1800.0
    >>> Cron("0 9 * * mon", UTC).due_after(0) == 4 * 86_400 + 9 * 3600
    True
    >>> skipped = Cron("30 2 29 3 *", ZoneInfo("Europe/Berlin"))  # summer time began at two
    >>> night = datetime.fromisoformat("2026-03-29T00:00+01:00").timestamp()
    >>> datetime.fromtimestamp(skipped.due_after(night), skipped.zone).isoformat()
    '2026-03-29T03:00:00+02:00'
    >>> Cron("5/15 * * * *", UTC)
    Traceback (most recent call last):
    ValueError: minute '5/15': a step needs a range; write 5-59/15
    """

    expression: str
    zone: tzinfo

    def __post_init__(self) -> None:
        if not any(days for _, days in self._calendar.values()):
            raise ValueError(
                f"{self.expression!r}: there is no such day; change the day or the month"
            )

    @cached_property
    def longest_gap(self) -> float:
        """Seconds between neighbouring due times, at most, by a clock that is never changed.

        Over the 400 years after which the calendar repeats, so the figure is right for ever.

        >>> from datetime import UTC
        >>> Cron("0 9-17 * * 1-5", UTC).longest_gap / 3600  # from Friday 17:00 to Monday 9:00
        64.0
        >>> Cron("0 0 29 2 *", UTC).longest_gap / 86_400  # 2100 has no 29 February
        2921.0
        """
        months = [(days[0], days[-1]) for days in islice(self._months(0), 4800) if days]
        apart = [b - a for _, days in self._calendar.values() for a, b in pairwise(days)]
        apart += [later[0] - earlier[1] for earlier, later in pairwise(months)]
        within = [b - a for a, b in pairwise(self._seconds)]
        return float(max([*within, max(apart) * DAY - (self._seconds[-1] - self._seconds[0])]))

    def due_after(self, moment: float, *, since: float = 0) -> float:
        """Return the first due time later than `moment`; `since`, as `Every` has it, is ignored."""
        return float(next(due for day in self._days(moment) for due in day if due > moment))

    def due_between(self, start: float, end: float) -> int:
        """Count the due times in (start, end].

        >>> from datetime import UTC
        >>> Cron("*/15 * * * *", UTC).due_between(0, 3600)
        4
        """
        days = takewhile(lambda day: not day or day[0] <= end, self._days(start))
        return max(sum(bisect_right(day, end) - bisect_right(day, start) for day in days), 0)

    # --- the line, read ---

    @cached_property
    def _fields(self) -> list[str]:
        """Texts of the five fields."""
        text = self.expression.strip(" \t")
        if text == "@reboot":
            raise ValueError("'@reboot' is no time; name times, such as */15 * * * *")
        if text.startswith("@") and text not in SHORT:
            raise ValueError(f"{text!r} is unknown; write {', '.join(SHORT)} or five fields")
        fields = re.split(r"[ \t]+", SHORT.get(text, text))
        if len(fields) != len(FIELDS):
            some = "write * for any" if len(fields) < len(FIELDS) else "leave out the rest"
            named = ", ".join(field.name for field in FIELDS)
            raise ValueError(f"{text!r}: five fields are needed ({named}); {some}")
        return fields

    @cached_property
    def _sets(self) -> list[set[int]]:
        """Numbers that match, field by field."""
        return [_numbers(field, text) for field, text in zip(FIELDS, self._fields, strict=True)]

    @cached_property
    def _particular(self) -> bool:
        """Whether the line names particular times."""
        return not any(text.startswith("*") for text in self._fields[:2])

    @cached_property
    def _seconds(self) -> list[int]:
        """Times of a day that matches, in seconds from its midnight."""
        minutes, hours, *_ = self._sets
        return [3600 * hour + 60 * minute for hour in sorted(hours) for minute in sorted(minutes)]

    # --- days, as numbers from the epoch on ---

    @cached_property
    def _calendar(self) -> dict[tuple[bool, int, int], tuple[int, list[int]]]:
        """Length and matching days of each month, by leap year, month and weekday of its first.

        Days from 0 on. Over 400 years each of these comes up.
        """
        _, _, days, months, weekdays = self._sets
        needed = 2 if any(self._fields[place].startswith("*") for place in (2, 4)) else 1
        found = {}
        for leap in (False, True):
            for month in range(1, 13):
                length = 28 + leap if month == 2 else 30 + (month in {1, 3, 5, 7, 8, 10, 12})
                for first in range(7):
                    matches = [
                        day
                        for day in range(length if month in months else 0)
                        if (day + 1 in days) + ((first + day) % 7 in weekdays) >= needed
                    ]
                    found[leap, month, first] = length, matches
        return found

    def _months(self, day: int) -> Iterator[list[int]]:
        """Yield the matching days of each month, from that of `day` on."""
        there = date.fromordinal(EPOCH + day)
        year, month, first = there.year, there.month, day - there.day + 1
        while True:
            leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
            length, days = self._calendar[leap, month, (first + 4) % 7]
            yield [first + day for day in days]
            first += length
            year, month = year + month // 12, month % 12 + 1

    def _next(self, day: int) -> int:
        """Return the first matching day that is not before `day`."""
        return next(found for days in self._months(day) for found in days if found >= day)

    # --- moments ---

    def _days(self, moment: float) -> Iterator[list[int]]:
        """Yield due times day by day, from the day of `moment` on, without end.

        These are days of universal time, so that due times come in order whatever clocks do. Each
        can hold times of three local days.
        """
        day = math.floor(moment / DAY)
        while True:
            day = max(day, self._next(day - 1) - 1)
            yield self._due_on(day)
            day += 1

    def _due_on(self, day: int) -> list[int]:
        """Return the due times in one day of universal time, in order."""
        start, end = day * DAY, (day + 1) * DAY
        before = self._offset(start - CORRECTION)  # a change of the clock is felt for so long
        changes = self._changes(start - CORRECTION, end)
        if not changes:
            return [shown - before for shown in self._clock(start + before, end + before)]
        found = set()
        parts = [(start - CORRECTION, before), *changes, (end, 0)]
        for (begin, offset), (stop, _) in pairwise(parts):
            skipped, before = offset - before, offset
            resume = begin
            if self._particular and -CORRECTION <= skipped < 0:
                resume = begin - skipped
            elif self._particular and 0 < skipped < CORRECTION:
                now = begin + offset
                if self._clock(now - skipped, now):
                    found.add(begin + -now % 60)  # cron looks at full minutes
            found.update(
                shown - offset for shown in self._clock(max(resume, start) + offset, stop + offset)
            )
        return sorted(due for due in found if start <= due < end)

    def _clock(self, begin: int, end: int) -> list[int]:
        """Return the matching times in [begin, end), all in seconds of local time."""
        found = []
        for day in range(begin // DAY, (end - 1) // DAY + 1):
            if self._next(day) == day:
                midnight = day * DAY
                low, high = (bisect_left(self._seconds, at - midnight) for at in (begin, end))
                found += [midnight + second for second in self._seconds[low:high]]
        return found

    def _changes(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Return when in (begin, end] the clock was changed, and its offset from then on.

        No zone changes its clock twice within three days, so nothing hides between two looks.
        """
        offset = self._offset(end)
        if self._offset(begin) == offset:
            return []
        if end - begin == 1:
            return [(end, offset)]
        middle = (begin + end) // 2
        return self._changes(begin, middle) + self._changes(middle, end)

    def _offset(self, moment: int) -> int:
        """Return by how many seconds local time is ahead of universal time."""
        there = datetime.fromtimestamp(moment, self.zone)
        return round(there.replace(tzinfo=UTC).timestamp()) - moment


def _numbers(field: _Field, text: str) -> set[int]:
    """Return the numbers that a field matches; ValueError says what is wrong with it.

    >>> sorted(_numbers(FIELDS[1], "0-8/4,22")), sorted(_numbers(FIELDS[4], "fri-7"))
    ([0, 4, 8, 22], [0, 5, 6])
    """
    found: set[int] = set()
    size = field.high - field.low + 1
    for part in text.split(","):
        where = f"{field.name} {part!r}"
        if not part:
            raise ValueError(f"{field.name} {text!r}: a list has an empty part; remove a comma")
        match = PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{where}: {_strange(field, part)}")
        first, last, step = match.groups()
        low = field.low if first is None else _number(field, first, where)
        high = field.high if first is None else low if last is None else _number(field, last, where)
        if low > high:
            wrapped = f"{_span(low, field.high)},{_span(field.low, high)}"
            raise ValueError(f"{where}: the range runs backwards; write {wrapped}")
        if step is not None and first is not None and last is None:
            raise ValueError(
                f"{where}: a step needs a range; write {_span(low, field.high)}/{step}"
            )
        if step is not None and not 1 <= int(step) <= size:
            raise ValueError(f"{where}: a step is from 1 to {size}; write one of these")
        found.update(range(low, high + 1, int(step or 1)))
    # Sunday is 7 as well as 0
    return {number % size for number in found} if field.low == 0 else found


def _number(field: _Field, word: str, where: str) -> int:
    """Return what one word of a field means."""
    if word.lower() in field.names:
        return field.low + field.names.index(word.lower())
    if not word.isdecimal():
        raise ValueError(f"{where}: {_strange(field, word)}")
    top = 7 if field.names is WEEKDAYS else field.high
    if len(word) > 9 or not field.low <= int(word) <= top:
        raise ValueError(f"{where}: {word} is out of range; write {field.low} to {top}")
    return int(word)


def _span(low: int, high: int) -> str:
    return str(low) if low >= high else f"{low}-{high}"


def _strange(field: _Field, text: str) -> str:
    """Say what to write instead of something that cron does not know."""
    if "?" in text:
        return "cron knows no '?'; write *"
    if FOREIGN.fullmatch(text):
        return "cron knows no last, nearest or n-th day; name the days, such as 1-7 or fri"
    if text[:3].lower() in field.names:
        return f"names have three letters; write {text[:3].lower()}"
    some = f"{field.low}, {_span(field.low, field.high)}, */2 or lists of such"
    return f"cron does not know that; write {some}"
