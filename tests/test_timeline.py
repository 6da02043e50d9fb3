"""OpenMetrics text of the past, read back by the client library's own parser."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wine_drift.timeline import openmetrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], dict[float, float]]


def published(values: dict[str, float], rows: float = 0) -> list[Metric]:
    """A gauge with one series a feature, and a counter."""
    gauge = GaugeMetricFamily("severity", "How large.", labels=["feature"])
    for feature, value in values.items():
        gauge.add_metric([feature], value)
    return [gauge, CounterMetricFamily("rows", "Rows.", value=rows)]


def export(moments: Any, *, until: float, step: float = 60) -> Samples:
    """Samples by series and time."""
    text = "".join(openmetrics(moments, until=until, step=step, labels={"job": "j"}))
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["job"] == "j"
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "job"))
            at = float(sample.timestamp)
            times = found.setdefault((sample.name, labels), {})
            assert not times or at > max(times), "times of a series must rise"
            times[at] = sample.value
    return found


moments_strategy = st.lists(
    st.tuples(
        st.floats(0, 900).map(lambda x: round(x, 3)),
        st.dictionaries(st.sampled_from(["a", 'b"\\\n', "c"]), st.floats(allow_nan=False)),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)  # reading the text back takes long
@given(moments_strategy, st.floats(30, 299), st.floats(0, 1000))
def test_the_value_at_any_time_is_the_one_published_last(
    steps: list[tuple[float, dict[str, float]]], step: float, later: float
) -> None:
    """Looking back five minutes, as Prometheus does, finds what was published, and nothing else.

    Only a series that has ended is seen for up to five minutes more.
    """
    now, moments = 1000.0, []
    for pause, values in steps:
        now += pause
        moments.append((now, published(values)))
    found = export(moments, until=now + later, step=step)
    for index, (begin, _) in enumerate(moments):
        end = moments[index + 1][0] if index + 1 < len(moments) else now + later
        if round(begin * 1000) == round(end * 1000) and index + 1 < len(moments):
            continue  # the next one took its place
        for at in (begin, (begin + end) / 2, end - 0.002):
            if at < begin:
                continue
            seen = {}
            for (name, labels), times in found.items():
                recent = [t for t in times if at - 300 < t <= at + 5e-4]
                if recent and name == "severity":
                    seen[labels[0][1]] = times[max(recent)]
            expected = steps[index][1]
            assert {k: v for k, v in seen.items() if k in expected} == expected
            ended = {k for _, values in steps[:index] for k in values} - expected.keys()
            assert seen.keys() - expected.keys() <= ended
            if at > begin + 300:
                assert seen.keys() == expected.keys()


def test_a_value_is_repeated_until_the_next_one() -> None:
    """Every step, from the moment it was published on, and at the end of all."""
    found = export([(0, published({"a": 1})), (150, published({"a": 2}))], until=270)
    series = found["severity", (("feature", "a"),)]
    assert series == {0: 1, 60: 1, 120: 1, 150: 2, 210: 2, 270: 2}


def test_counters_keep_their_suffix() -> None:
    """A counter is a family without, and a sample with `_total`."""
    text = "".join(openmetrics([(5, published({}, rows=7))], until=5, step=60, labels={}))
    assert "# TYPE rows counter\nrows_total{} 7.0 5.000\n" in text


def test_a_series_that_is_gone_ends() -> None:
    """It is not repeated after the moment at which it was not published any more."""
    moments = [(0, published({"a": 1})), (100, published({})), (500, published({"a": 3}))]
    assert export(moments, until=520)["severity", (("feature", "a"),)] == {0: 1, 60: 1, 500: 3}


@pytest.mark.parametrize("second", [100.0, 100.0004, 40.0])
def test_a_clock_that_stands_still_or_goes_back(second: float) -> None:
    """The later word counts, at the later time: text with times that fall would be refused."""
    found = export([(100, published({"a": 1})), (second, published({"a": 2}))], until=130)
    assert found["severity", (("feature", "a"),)] == {100: 2}


def test_nothing_to_tell() -> None:
    """A file without samples is a file."""
    assert "".join(openmetrics([], until=9, step=60, labels={})) == "# EOF\n"
