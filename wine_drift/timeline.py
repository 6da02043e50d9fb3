"""What was published, and when, as OpenMetrics text with timestamps.

A Pushgateway holds one moment; this is how a time series database learns of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Metric

Key = tuple[str, tuple[tuple[str, str], ...]]  # name of the sample, labels


@dataclass
class _Family:
    """One metric over time: for each series the moments at which it changed."""

    kind: str
    text: str
    # (index of the moment, value); None: the series was not there any more
    series: dict[Key, list[tuple[int, float | None]]] = field(default_factory=dict)


def openmetrics(
    moments: Iterable[tuple[float, Sequence[Metric]]],
    *,
    until: float,
    step: float,
    labels: Mapping[str, str],
) -> Iterator[str]:
    """Turn what was published at each moment into the text of an OpenMetrics file.

    A value is repeated every `step` until the next moment, as a scrape would, since Prometheus
    forgets a sample after five minutes. For as long it also shows a series that has ended: a text
    cannot say that one has.

    Parameters
    ----------
    moments : iterable of (Unix time, families)
        Oldest first. Of several within a millisecond the last counts, and a clock that was set back
        stands still.
    until : float
        Unix time at which the last moment ends, included.
    step : float, > 0
        Seconds.
    labels : mapping
        Put on every sample.

    Yields
    ------
    str
        Text of any length; together a whole file. Times have milliseconds.

    Notes
    -----
    Format: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md

    Examples
    --------
    >>> from prometheus_client.core import GaugeMetricFamily
    >>> up, down = (GaugeMetricFamily("up", "Is it.", value=value) for value in (1, 0))
    >>> lines = openmetrics([(10, [up]), (25, [down])], until=30, step=10, labels={"job": "a"})
    >>> print("".join(lines), end="")
    # HELP up Is it.
    # TYPE up gauge
    up{job="a"} 1.0 10.000
    up{job="a"} 1.0 20.000
    up{job="a"} 0.0 25.000
    # EOF
    """
    times, families = _changes(moments)
    ends = [*times[1:], round(until * 1000) + 1]
    pace = max(round(step * 1000), 1)
    for name, family in sorted(families.items()):
        yield f"# HELP {name} {_escaped(family.text)}\n# TYPE {name} {family.kind}\n"
        for (sample, own), changes in sorted(family.series.items()):
            inside = ",".join(
                f'{key}="{_escaped(value)}"'
                for key, value in sorted({**labels, **dict(own)}.items())
            )
            following = [*(index for index, _ in changes[1:]), len(times)]
            for (first, value), after in zip(changes, following, strict=True):
                if value is not None:
                    begun = f"{sample}{{{inside}}} {value!r} "
                    ticks = range(times[first], ends[after - 1], pace)
                    yield "".join(f"{begun}{t // 1000}.{t % 1000:03}\n" for t in ticks)
    yield "# EOF\n"


def _changes(
    moments: Iterable[tuple[float, Sequence[Metric]]],
) -> tuple[list[int], dict[str, _Family]]:
    """Times in milliseconds, and for each series the values that differ from the one before."""
    times: list[int] = []
    families: dict[str, _Family] = {}
    for at, metrics in moments:
        time = max(round(at * 1000), times[-1] if times else 0)
        if not times or time > times[-1]:
            times.append(time)
        index, there = len(times) - 1, set()
        for metric in metrics:
            family = families.setdefault(metric.name, _Family(metric.type, metric.documentation))
            for sample in metric.samples:
                key = (sample.name, tuple(sample.labels.items()))
                there.add((metric.name, key))
                _note(family.series.setdefault(key, []), index, float(sample.value))
        for name, family in families.items():
            for key, changes in family.series.items():
                if (name, key) not in there:
                    _note(changes, index, None)
    return times, families


def _note(changes: list[tuple[int, float | None]], index: int, value: float | None) -> None:
    if changes and changes[-1][0] == index:  # another moment at the same time
        changes.pop()
    if not changes or changes[-1][1] != value:
        changes.append((index, value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
