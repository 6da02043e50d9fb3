"""The past of a ledger in a real Prometheus: PromQL at an old time says what the ledger says."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from wine_drift.ledger import Ledger
from wine_drift.outbox import families
from wine_drift.publishing import render
from wine_drift.settings import Settings, load_settings

OURS = '{job="wine_drift"}'


def published(settings: Settings, ledger: Ledger, entry: int) -> dict[Any, float]:
    """What the ledger published as of an entry, under the labels that Prometheus keeps."""
    found = {}
    for family in text_string_to_metric_families(render(families(settings, ledger, entry))):
        for sample in family.samples:
            labels = {"__name__": sample.name, "job": "wine_drift", **sample.labels}
            found[tuple(sorted(labels.items()))] = sample.value
    return found


@pytest.mark.parametrize("legacy", [False, True])
def test_promql_at_an_old_time_equals_the_ledger(
    cli: Callable[..., Any], past: Callable[..., Any], tmp_path: Path, legacy: bool
) -> None:
    """Every series, at random times of a past with two drifts and their promotions."""
    home, out = tmp_path / "home", tmp_path / "past.om"
    option = ("--legacy-metrics",) if legacy else ()
    cli("demo", "--home", home, "--days", 2, "--seed", 5 + legacy, "--openmetrics", out, *option)
    prometheus = past(out)
    settings = load_settings({"home": home, "legacy_metrics": legacy}, {})
    rng = random.Random(3)
    with Ledger.open(home, read_only=True) as ledger:
        entries = [*ledger.history(), (0, time.time())]
        spans = [(entry, a, b) for (entry, a), (_, b) in pairwise(entries) if b - a > 600]
        assert len(spans) == 47
        for entry, begin, end in rng.sample(spans, 20):
            expected = published(settings, ledger, entry)
            assert len(expected) > 290
            # five minutes after a change, when series that ended are forgotten
            for at in (rng.uniform(begin + 301, end - 1), end - 0.002):
                assert prometheus.at(OURS, at) == expected
        serving = ledger.champion()
        assert serving is not None
        versions = {dict(key)["version"] for key in prometheus.at("wine_drift_model_info", end)}
        assert versions == {serving["version"]}
    assert prometheus.at(OURS, entries[0][1] - 1) == {}


def test_a_gap_is_filled_afterwards(
    cli: Callable[..., Any], past: Callable[..., Any], tmp_path: Path
) -> None:
    """Parts of the past that overlap are one: no series is there twice, and none is missing."""
    home = tmp_path / "home"
    cli("demo", "--home", home, "--days", 0.5)
    with Ledger.open(home, read_only=True) as ledger:
        times = [at for _, at in ledger.history()][1:]  # the first is the training
    parts = [
        ("--until", times[3]),
        ("--since", times[9]),
        ("--since", times[2], "--until", times[10]),
    ]
    files = [tmp_path / f"{number}.om" for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        cli("history", "export", "--home", home, "--openmetrics", file, *part)
    with_gap, whole = past(*files[:2]), past(*files)
    number = "wine_drift_batch_number"
    for index, (begin, end) in enumerate(pairwise(times), start=1):
        middle = (begin + end) / 2
        assert list(whole.at(number, middle).values()) == [index]
        assert list(with_gap.at(number, middle).values()) == ([] if 4 <= index < 10 else [index])
