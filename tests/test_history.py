"""The past of a home as a file: what was published, when it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wine_drift.demo import make_demo
from wine_drift.ledger import Ledger
from wine_drift.settings import load_settings

Cli = Callable[..., Result]
Series = dict[tuple[str, ...], float]


def at_time(path: Path, moment: float) -> Series:
    """What Prometheus would answer then: of each series the newest sample of five minutes."""
    newest: dict[tuple[str, ...], tuple[float, float]] = {}
    for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
        for sample in family.samples:
            assert sample.labels.pop("job") == "wine_drift"
            at = float(sample.timestamp)
            if moment - 300 < at <= moment:
                key = (sample.name, *(sample.labels[k] for k in sorted(sample.labels)))
                newest[key] = max(newest.get(key, (0.0, 0.0)), (at, sample.value))
    return {key: value for key, (_, value) in newest.items()}


def test_the_past_is_what_was_published_then(
    cli: Cli,
    samples: Callable[[str], Series],
    wines: Callable[..., Path],
    home: Path,
    tmp_path: Path,
) -> None:
    """After a batch, late labels, a bad file, a forced retraining and a failed push alike."""

    def unlabelled(cells: list[str]) -> list[str]:
        return [*cells[:-1], "" if cells[-1].isdigit() else cells[-1]]

    closed = ("--pushgateway", "127.0.0.1:1", "--push-deadline", 0.2)
    bad = tmp_path / "bad.csv"
    bad.write_text("a;b\n1;2\n")
    one, two = wines("a.csv", 100, 180, edit=unlabelled), wines("b.csv", 300, 400)
    told: list[tuple[float, Series]] = []

    def then(*arguments: object, code: int = 0) -> None:
        cli(*arguments, "--home", home, code=code)
        told.append((time.time(), samples(cli("metrics", "--home", home).stdout)))

    then("run-batch", one)
    then("add-labels", 2, wines("labels.csv", 100, 180))
    then("run-batch", bad, code=3)
    then("train", "--force", "--rounds", 10, "--min-labelled", 10, "--min-positives", 1)
    then("run-batch", two, *closed, code=4)
    then("models", "rollback")

    out = tmp_path / "past.om"
    result = cli("history", "export", "--home", home, "--openmetrics", out)
    with Ledger.open(home, read_only=True) as ledger:
        entries = ledger.history()
    assert result.stdout == f"wrote {len(entries)} entries of the ledger to {out}\n"
    for moment, expected in told:
        found = at_time(out, moment)
        assert {key: found.get(key) for key in expected} == expected
    # Of ended series there are some: all of this took less than the five minutes of their afterlife
    shown = at_time(out, told[-1][0])
    assert sorted(k[1] for k in shown if k[0] == "wine_drift_labeled_batch_number") == ["red_wine"]
    assert len(told[0][1]) > 290


def test_a_part_of_the_past(cli: Cli, tmp_path: Path) -> None:
    """From a time on, the first sample is how things stood then; after the other there is none."""
    home, out = tmp_path / "home", tmp_path / "past.om"
    at = iter([1_700_000_000.0, 1_700_003_600.0, 1_700_007_200.0])
    settings = load_settings({"home": home, "days": 0.125}, {})
    make_demo(settings, now=lambda: 1_700_007_200.0)
    arguments = ("--home", home, "--openmetrics", out)
    cli("history", "export", *arguments, "--since", "2023-11-14T22:43:20", "--until", 1_700_005_400)
    begun = at_time(out, 1_700_001_800.0)
    assert begun["wine_drift_batch_number", "red_wine"] == 1
    assert begun["wine_drift_last_run_timestamp_seconds", "red_wine"] == next(at)
    assert at_time(out, 1_700_001_799.0) == {}
    half = at_time(out, 1_700_005_400.0)
    assert half["wine_drift_batches_total", "success", "red_wine"] == 2
    assert half["wine_drift_last_run_timestamp_seconds", "red_wine"] == next(at)
    assert at_time(out, 1_700_005_701.0) == {}
    cli("history", "export", *arguments, "--since", 1_700_009_000, "--until", 1_700_008_000)
    assert out.read_text() == "# EOF\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--openmetrics", "{out}", "--since", "yesterday"], "since: 'yesterday' is no time"),
        ([], "no file to write to"),
        (["--openmetrics", "{home}/ledger.sqlite/x"], "name a file in a writable folder"),
        (["--openmetrics", "{home}"], "name a file in a writable folder"),
    ],
)
def test_what_cannot_be_exported(
    cli: Cli, trained_home: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    """Each mistake is told with what to do, and leaves no file."""
    out = tmp_path / "past.om"
    arguments = [text.format(out=out, home=trained_home) for text in options]
    result = cli("history", "export", "--home", trained_home, *arguments, code=2)
    assert words in result.stderr
    assert not out.exists() and not list(tmp_path.glob(".*"))
    assert not list(trained_home.parent.glob(".*.part"))


def test_no_ledger_no_past(cli: Cli, tmp_path: Path) -> None:
    """A home that was misspelt is not made."""
    home, out = tmp_path / "none", tmp_path / "past.om"
    assert (
        "no ledger" in cli("history", "export", "--home", home, "--openmetrics", out, code=2).stderr
    )
    assert not home.exists() and not out.exists()


def test_a_demo_is_a_past_of_hours_with_two_changes(
    record: Callable[..., dict[str, Any]], cli: Cli, tmp_path: Path
) -> None:
    """Batches an hour apart, the last one now; drift after a third, and again after two thirds."""
    home, out = tmp_path / "home", tmp_path / "past.om"
    begun = time.time()
    told = cli("demo", "--home", home, "--days", 1.5, "--openmetrics", out)
    assert "SIMULATED DATA" in told.stderr
    story = told.stdout.splitlines()[1:-1]
    assert "batch 13: the data has drifted a lot; other inputs" in story[0]
    assert any("batch 25: quality is clearly worse" in line for line in story)
    assert sum(line.endswith(" serves") for line in story) >= 2
    status = record("status", "--home", home, "--last", 100)
    assert begun <= status["run"]["finished_at"] <= time.time()
    assert status["run"]["interval"] == 3600
    levels = [batch["drift"]["status"] for batch in status["batches"]]
    assert len(levels) == 36
    assert {"drift", "major"}.isdisjoint(levels[:12]) and levels[12] == "major"
    dropped = [batch["quality"]["status"] == "drop" for batch in status["batches"]]
    assert not any(dropped[:12]) and any(dropped[24:])
    promoted = [
        batch["retraining"] is not None and batch["retraining"]["outcome"] == "promoted"
        for batch in status["batches"]
    ]
    assert any(promoted[12:24]) and any(promoted[24:])
    with Ledger.open(home, read_only=True) as ledger:
        times = [ledger.processed_at(n) for n in range(1, 37)]
    assert [round(b - a, 3) for a, b in pairwise(times)] == [3600.0] * 35
    now = at_time(out, time.time())
    assert now["wine_drift_batches_total", "success", "red_wine"] == 36

    kept = (home / "ledger.sqlite").read_bytes()
    assert "nothing was changed" in cli("demo", "--home", home, "--openmetrics", out).stdout
    assert (home / "ledger.sqlite").read_bytes() == kept
    assert out.read_text() == "# EOF\n"  # it was told: blocks made twice would overlap


def test_half_a_demo_is_none(tmp_path: Path) -> None:
    """One that was cut short is made again, whole, and leaves nothing of the first."""
    settings = load_settings({"home": tmp_path / "home", "days": 0.25}, {})

    def cut(hours: Any) -> Any:
        yield from hours[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(settings, progress=cut)
    assert not Ledger.exists(settings.home)
    assert make_demo(settings) is not None
    with Ledger.open(settings.home, read_only=True) as ledger:
        assert ledger.next_sequence() == 7
    assert {path.name for path in settings.home.iterdir()} == {
        *("ledger.sqlite", "metrics", "models", "run.lock")
    }


def test_a_demo_that_was_not_exported_still_is(cli: Cli, tmp_path: Path) -> None:
    """A file that is not there, or was lost, is written from the ledger."""
    home, out = tmp_path / "home", tmp_path / "past.om"
    cli("demo", "--home", home, "--days", 0.1)
    cli("demo", "--home", home, "--openmetrics", out)
    assert at_time(out, time.time())["wine_drift_batches_total", "success", "red_wine"] == 2
