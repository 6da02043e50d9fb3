"""The catalogue: pure, complete, documented."""

from __future__ import annotations

import re
from importlib import resources

from wine_drift.exposition import COUNTERS, GAUGES, LEGACY, exposition
from wine_drift.snapshot import Snapshot


def test_counters_are_there_from_the_first_push() -> None:
    """Every combination of labels starts at 0, or its first increase could not be seen."""
    families = {f.name: f for f in exposition(Snapshot(), pipeline="p", version="1")}
    retrains = families["wine_drift_retrains"].samples
    assert len(retrains) == 5 * 4  # reasons, outcomes
    assert {sample.value for sample in retrains} == {0.0}
    assert set(families) >= {f"wine_drift_{name}" for name in COUNTERS}


def test_unknown_is_absent_not_zero() -> None:
    """An empty ledger publishes no quality, no drift and no time."""
    names = {f.name for f in exposition(Snapshot(), pipeline="p", version="1", legacy=True)}
    assert names == {f"wine_drift_{name}" for name in COUNTERS} | {
        "wine_drift_build_info",
        "count_batch",
    }


def test_the_same_snapshot_gives_the_same_families() -> None:
    """The exposition is a pure function."""
    snapshot = Snapshot(counters={("rows", ()): 5.0}, last_success=3.0)
    one, two = (exposition(snapshot, pipeline="p", version="1") for _ in "ab")
    assert [f.samples for f in one] == [f.samples for f in two]


def test_every_metric_has_a_plain_help() -> None:
    """Names are snake case, help is one sentence, and no gauge looks like a counter."""
    for name, (labels, text) in (GAUGES | COUNTERS).items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert text.endswith(".") and "\n" not in text
        assert "pipeline" not in labels
    assert not [name for name in GAUGES if name.endswith("_total")]
    assert LEGACY.keys() == {"logloss_gaude", "auc_gaude", "count_batch"}
    assert resources.files("wine_drift").joinpath("data", "red_wine.toml").is_file()
