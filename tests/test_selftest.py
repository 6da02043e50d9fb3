"""The commands that measure the detector, on the champion's own rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from wine_drift.detector import Limits
from wine_drift.ledger import Ledger
from wine_drift.model import Version, read_version
from wine_drift.selftest import broken_promise
from wine_drift.streams import Streams

Cli = Callable[..., Result]
Record = Callable[..., dict[str, Any]]
Published = Callable[[Path], dict[tuple[str, ...], float]]

LIMITS = Limits(budget=1000, severity_drift=0.1, severity_major=0.25, min_rows=50)


@pytest.fixture
def champion(trained_home: Path) -> Version:
    """The serving version."""
    with Ledger.open(trained_home, read_only=True) as ledger:
        manifest = ledger.champion()
    assert manifest is not None
    return read_version(trained_home / "models", manifest)


def streams_of(champion: Version, n_streams: int) -> Streams:
    """Healthy streams of the champion's own rows."""
    rows = champion.reference_rows
    return Streams(
        rows.features,
        rows.positive,
        champion.reference.columns,
        n_reference=len(rows),
        n_streams=n_streams,
        rng=np.random.default_rng(0),
    )


def test_null(cli: Cli, record: Record, home: Path) -> None:
    """About 4 % of healthy batches have p < 0.05, as text and as JSON."""
    options = ("--home", home, "--repeats", 1000)
    found = record("selftest", "null", *options)
    rates = found["rates"]["drift"]
    assert 0.02 < rates["0.05"]["rate"] < 0.065
    assert rates["0.05"]["low"] < rates["0.05"]["rate"] < rates["0.05"]["high"]
    assert found["batches"] == 1000 and found["batch_rows"] == 100
    text = cli("selftest", "null", *options).stdout
    assert f"{rates['0.05']['rate']:.2%}" in text


def test_small_batches_are_tested_as_they_are_judged(record: Record, home: Path) -> None:
    """Batches below min_rows are judged together, so that is what is simulated."""
    options = ("--home", home, "--repeats", 100, "--batch-rows", 30)
    assert record("selftest", "null", *options)["batch_rows"] == 60


def test_longrun(record: Record, home: Path) -> None:
    """Few healthy streams come to an alarm's evidence; the promise is told beside it."""
    found = record("selftest", "longrun", "--home", home, "--repeats", 800, "--horizon", 100)
    assert found["bound"] == pytest.approx(0.1)
    assert found["drift_evidence"]["rate"] <= 0.2
    assert found["streams"] == 40


def test_power_finds_the_smallest_shift_and_publishes_it(
    cli: Cli, record: Record, home: Path, published: Published, champion: Version
) -> None:
    """Each feature's shift, when applied, is found about 95 times in 100; metrics carry it."""
    found = record("selftest", "power", "--home", home, "--repeats", 400)
    shown = published(home)
    for feature in found["features"]:
        key = ("wine_drift_feature_min_detectable_shift", feature["name"])
        assert shown[key] == feature["shift_own"]
        assert 0.1 < feature["shift_sd"] < 2
        assert 1 <= feature["mean_delay"] <= 50
    rows, streams = champion.reference_rows.features, streams_of(champion, 40)
    told = []
    for factor in (0.4, 1.3):  # sulphates, whose last decimal is small
        moved = rows.copy()
        moved[:, 9] = (moved[:, 9] + factor * found["features"][9]["shift_own"]).round(2)
        binned = streams.binned(moved)
        readings = [next(streams.judge_drift(binned, 100, [0], LIMITS)) for _ in range(10)]
        told.append(np.mean([reading.log10_evidence >= 3 for reading in readings]))
    assert told[0] < 0.6 and told[1] > 0.9
    text = cli("selftest", "power", "--home", home, "--repeats", 100, "--dry-run").stdout
    assert "alcohol" in text and "% vol" in text
    assert published(home) == shown  # a dry run publishes nothing


def test_coverage(record: Record, home: Path) -> None:
    """The 95 % intervals hold the true value 93 to 97 times in 100 at 200 rows."""
    found = record("selftest", "coverage", "--home", home, "--batch-rows", 200)
    for name, measure in found["measures"].items():
        assert measure["low"] < 0.97 and measure["high"] > 0.93, name
    assert "calibration_error" not in found["measures"]


def test_healthy_streams_are_healthy(champion: Version) -> None:
    """References and batches are of one population: mean severity is nothing."""
    streams = streams_of(champion, 30)
    binned = streams.binned(champion.reference_rows.features)
    for drift, quality in streams.judge(binned, 100, range(20), LIMITS):
        assert drift.severity.shape == (30, 12) and quality.p_values.shape == (30, 3)
        assert drift.severity.mean() < 0.03


@pytest.mark.parametrize("test", ["null", "power", "longrun", "coverage"])
def test_a_home_without_a_model(cli: Cli, tmp_path: Path, test: str) -> None:
    """There is nothing to test yet, and that is told."""
    result = cli("selftest", test, "--home", tmp_path / "none", code=2)
    assert "no model yet" in result.stderr


def test_a_broken_promise_is_told() -> None:
    """Only what exceeds the promise by more than chance."""
    fine = {"rate": 0.0, "low": 0.0, "high": 1.0}
    levels = ("0.05", "0.01", "0.001")

    def null(**changed: dict[str, float]) -> dict[str, Any]:
        rates = {kind: {level: fine for level in levels} for kind in ("drift", "quality")}
        rates["quality"] |= {k: v for k, v in changed.items() if k in levels}
        return {
            "test": "null",
            "rates": rates,
            "faults": changed.get("faults", fine),
            "budget": 1000,
        }

    assert broken_promise(null()) is None
    assert broken_promise(null(**{"0.05": {"low": 0.055}})) is None
    assert broken_promise(null(**{"0.05": {"low": 0.07}})) is not None
    assert broken_promise(null(**{"0.001": {"low": 0.004}})) is not None
    assert broken_promise(null(faults={"low": 0.002})) is not None
    longrun = {"test": "longrun", "bound": 0.1, "quality_evidence": {"low": 0.0}}
    assert broken_promise(longrun | {"drift_evidence": {"low": 0.2}}) is not None
    assert broken_promise(longrun | {"drift_evidence": {"low": 0.05}}) is None
