"""The benchmark of `make bench`: it pairs what belongs together, and its floor measures right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks import speed
from click.testing import Result
from lightgbm import Booster
from sklearn.metrics import log_loss, roc_auc_score

HEAD = "total sulfur dioxide;alcohol;quality\n"


def cost(seconds: float, megabytes: float = 1.0) -> speed.Cost:
    """Of a process that keeps half a core busy."""
    return speed.Cost(seconds, seconds / 2, megabytes)


def contender(name: str, code: str) -> speed.Contender:
    """A process that runs this Python."""
    return speed.Contender(name, (sys.executable, "-c", code))


def test_ratios_are_of_the_same_round() -> None:
    """A slow round is slow for both; a round that one of them missed is left out."""
    costs, floor = {1: cost(4), 2: cost(30)}, {2: cost(10), 1: cost(2), 3: cost(1)}
    assert speed.ratios(costs, floor, speed.WALL) == [2, 3]


def test_lines_of_a_size() -> None:
    """Ratio first; who has failed is told as such."""
    costs = {"floor": {1: cost(2), 2: cost(4), 3: cost(2)}, "fast": {1: cost(1, 7), 3: cost(1.5)}}
    found = speed.Measured(costs, {"slow": "over 300 s", "old": "exit code 1: ImportError: x"})
    assert speed.batch_lines(1_000, found) == [
        ("1,000", "floor", "1.00", "1.00-1.00", "1.00", "2.000", "1.000", "1", "3"),
        ("1,000", "fast", "0.62", "0.50-0.75", "0.62", "1.250", "0.625", "7", "2"),
        ("1,000", "slow", "over 300 s", "", "", "", "", "", ""),
        ("1,000", "old", "exit code 1", "", "", "", "", "", ""),
    ]


def test_lines_of_commands() -> None:
    """Ratios to the floor and to a Python that does nothing."""
    costs = {"python": {1: cost(0.1)}, "floor": {1: cost(1)}, "status": {1: cost(0.25)}}
    *_, status, health = speed.command_lines(speed.Measured(costs, {"health": "exit code 7: old"}))
    assert status[:4] == ("status", "0.25", "0.25-0.25", "2.50")
    assert health == ("health", "exit code 7", "", "", "", "", "", "")


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns stand below each other, in Markdown too."""
    for markdown in (False, True):
        speed.show(("a", "b"), [("long", "1"), ("x", "")], markdown=markdown)
    assert capsys.readouterr().out.splitlines() == [
        *("a     b", "long  1", "x", ""),
        *("| a | b |", "| --- | --- |", "| long | 1 |", "| x |  |", ""),
    ]


@pytest.mark.parametrize(
    ("ratio", "text"), [(0.456, "0.46"), (9.87, "9.87"), (12.34, "12.3"), (123.4, "123")]
)
def test_short(ratio: float, text: str) -> None:
    """Two decimals, or three digits."""
    assert speed.short(ratio) == text


def test_rounds_of_other_sizes() -> None:
    """A size between two has the rounds of the larger one, one beyond all those of the largest."""
    for n_rows, known in ((100, 100), (500, 10_000), (10**9, 10_000_000)):
        assert speed.usual_rounds(n_rows, quick=False) == speed.ROUNDS[known]


def test_disagreement_is_found() -> None:
    """Beyond the tolerance, or no number at all, on the batch of the same round."""
    told = {
        "floor": {0: {"log_loss": 0.3}, 1: {"log_loss": 0.4}},
        "same": {0: {"log_loss": 0.3 + 1e-9}, 1: {"log_loss": 0.4}},
        "other": {0: {"log_loss": 0.4}, 1: {"log_loss": float("nan")}},
    }
    assert speed.differences(told) == [
        "other, round 0: log_loss 0.4, floor 0.3",
        "other, round 1: log_loss nan, floor 0.4",
    ]


def test_rounds_are_taken_in_turn() -> None:
    """Round 0 is not counted; who has fewer rounds or fails is left out from then on."""
    told = """print('a warning\\n{"quality": {"log_loss": 0.3, "roc_auc": 0.8}}')"""
    three = [contender("floor", told), contender("few", told), contender("none", "exit(3)")]
    written: list[int] = []
    found = speed.measure(three, {"floor": 2, "few": 1, "none": 2}, write=written.append)
    assert written == [0, 1, 2]
    assert {name: list(costs) for name, costs in found.costs.items()} == {
        "floor": [1, 2],
        "few": [1],
    }
    assert found.failures == {"none": "exit code 3"}
    assert found.told["few"][0] == {"log_loss": 0.3, "roc_auc": 0.8}


def test_a_process_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, and the limit told."""
    monkeypatch.setattr(speed, "LIMIT", 0.5)
    slow = contender("slow", "import time; time.sleep(60)")
    with pytest.raises(speed.Failed, match=r"over 0|over 1"):
        speed.spend(slow.command, slow.env)


def test_a_process_that_fails() -> None:
    """The last line of its stderr says why; so does a process that tells no quality."""
    bad = contender("bad", "raise ValueError('so')")
    with pytest.raises(speed.Failed, match=r"^exit code 1: ValueError: so$"):
        speed.spend(bad.command, bad.env)
    with pytest.raises(speed.Failed, match="told no quality"):
        speed.quality("nothing\n")


@pytest.mark.parametrize("n_rows", [1, 3, 4, 11])
def test_no_two_rows_of_batches_are_the_same(tmp_path: Path, n_rows: int) -> None:
    """Wherever a batch ends in its block, and in whatever round; the block has repeats itself."""
    block = tmp_path / "block.csv"
    block.write_text(HEAD + "5.0;9.0;6.0\n5.1;9.0;6.0\n5.0;9.0;7.0\n5.0;9.5;6.0\n")
    seen: set[str] = set()
    for number in range(3):
        speed.write_batch(block, tmp_path / "batch.csv", n_rows, number)
        head, *lines = (tmp_path / "batch.csv").read_text().splitlines(keepends=True)
        assert (head, len(lines)) == (HEAD, n_rows)
        seen |= {line.rpartition(";")[0] for line in lines}
        assert all(5 <= float(line.split(";")[0]) < 5.2 for line in lines)
    assert len(seen) == 3 * n_rows


def test_where_the_time_goes() -> None:
    """Stages are read from the metrics, imports from what Python traced."""
    metrics = """# TYPE wine_drift_last_run_duration_seconds gauge
wine_drift_last_run_duration_seconds{pipeline="red_wine"} 0.5
wine_drift_last_run_stage_duration_seconds{pipeline="red_wine",stage="load"} 0.25
"""
    assert speed.stages(metrics) == {"run": 0.5, "load": 0.25}
    traced = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   json.decoder
import time:       200 |        300 | json
import time:      1500 |       1500 |   numpy.linalg
"""
    assert speed.imports(traced) == {"numpy": 0.0015, "standard library": pytest.approx(0.0003)}


def test_the_floor_measures_what_all_measure(cli: Callable[..., Result], tmp_path: Path) -> None:
    """Its log loss and AUC are scikit-learn's, and those that wine-drift publishes."""
    drawn = ("simulate", "--source", "simulated", "--home", "home", "--batch-rows")
    table, block = (
        Path(cli(*drawn, n_rows, "--out", name, "--seed", seed, code=0).output.strip())
        for name, n_rows, seed in (("table", "800", "1"), ("block", "2000", "2"))
    )
    cli("train", "--home", "home", "--data", str(table), "--rounds", "20", code=0)
    batch, (model,) = tmp_path / "batch.csv", Path("home").glob("models/*/model.txt")
    speed.write_batch(block, batch, 3_000, 0)
    script = str(speed.SCRIPTS / "floor.py")
    done = subprocess.run(
        [sys.executable, script, str(batch), str(model)], check=True, capture_output=True, text=True
    )
    floor = speed.quality(done.stdout)

    frame = pd.read_csv(batch, sep=";")
    y = frame.pop("quality").to_numpy() > 6.5
    p = Booster(model_file=str(model)).predict(frame.to_numpy())
    assert len(np.unique(p)) < len(p)  # equal scores are among them
    known = {"log_loss": log_loss(y, p), "roc_auc": roc_auc_score(y, p)}
    assert floor == pytest.approx(known, rel=1e-12)

    run = ("run-batch", str(batch), "--home", "home", "--retrain", "never", "--json")
    record = json.loads(cli(*run, code=0).stdout)
    assert {name: record["quality"][name] for name in floor} == pytest.approx(floor, rel=1e-12)
