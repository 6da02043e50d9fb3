"""The past of a home as a file: what was published, when it was."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wine_drift.demo import make_demo
from wine_drift.ledger import Ledger
from wine_drift.locking import locked
from wine_drift.run import run_batch
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
        (["--openmetrics", "/"], "name a file in a writable folder"),
        (["--openmetrics", "."], "name a file in a writable folder"),
        (["--openmetrics", "{out}", "--until", "inf"], "until: 'inf' is no time"),
        (["--openmetrics", "{out}", "--since", "nan"], "since: 'nan' is no time"),
        (["--openmetrics", "{out}", "--since", "12345"], "since: '12345' is no time"),
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


def test_links_and_pipes_stay_what_they_are(cli: Cli, trained_home: Path, tmp_path: Path) -> None:
    """What a link leads to is written; a pipe is written into."""
    link, file, pipe = tmp_path / "link", tmp_path / "file", tmp_path / "pipe"
    link.symlink_to(file)
    cli("history", "export", "--home", trained_home, "--openmetrics", link)
    assert link.is_symlink() and file.read_text().endswith("# EOF\n")
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        cli("history", "export", "--home", trained_home, "--openmetrics", pipe, "--until", 2e9)
        assert read.result(60).endswith("# EOF\n") and pipe.is_fifo()


def test_a_clock_that_was_ahead_hides_nothing(cli: Cli, tmp_path: Path) -> None:
    """What it dated too late is told when the next one came, in the whole and in every part."""
    home, out = tmp_path / "home", tmp_path / "past.om"
    times = [1_700_000_000.0, 1_700_000_060.0, 1_700_004_000.0, 1_700_000_120.0, 1_700_000_180.0]
    settings = load_settings({"home": home, "source": "simulated"}, {})
    for at in times:
        run_batch(settings, now=lambda at=at: at)
    number = ("wine_drift_batch_number", "red_wine")
    arguments = ("--home", home, "--openmetrics", out, "--step", 30)
    for since, until in ((0, 5000), (61, 5000), (0, 200)):
        span = ("--since", 1_700_000_000 + since, "--until", 1_700_000_000 + until)
        cli("history", "export", *arguments, *span)
        found = [at_time(out, 1_700_000_000.0 + second).get(number) for second in (70, 120, 190)]
        assert found == [2, 4, 5]


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

    kept = (home / "ledger.sqlite").read_bytes(), out.read_bytes()
    again = cli("demo", "--home", home, "--openmetrics", out).stdout
    assert "nothing was changed" in again and f"{out}: left as it is" in again
    assert ((home / "ledger.sqlite").read_bytes(), out.read_bytes()) == kept
    assert home.stat().st_mode & 0o777 == 0o700


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


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_a_demo_that_is_cut_while_it_is_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """However far it came, the next one makes a home that runs, or finds a whole one."""
    settings = load_settings({"home": tmp_path / "home", "days": 0.1}, {})
    replaced, done = Path.replace, []

    def cut(path: Path, target: Path) -> Path:
        if path.parent.name == ".making" and path.name in ("models", "metrics", "ledger.sqlite"):
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(path)
        return replaced(path, target)

    def unless_lenient(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:  # the last step of all
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        if moves < 3:
            with pytest.raises(KeyboardInterrupt):
                make_demo(settings)
        else:
            patch.setattr("shutil.rmtree", unless_lenient)
            with pytest.raises(KeyboardInterrupt):
                make_demo(settings)
    assert (make_demo(settings) is None) == (moves == 3)
    found = {path.name for path in settings.home.iterdir()}
    assert found == {"ledger.sqlite", "metrics", "models", "run.lock"}
    now = run_batch(replace(settings, source="simulated")).record
    assert now["batch"]["sequence"] == 3


def test_a_demo_takes_no_home_that_is_in_use(cli: Cli, home: Path, tmp_path: Path) -> None:
    """Not one that is locked, nor one whose ledger is gone; and none of it is touched."""
    with locked(tmp_path / "busy"):
        assert "another run holds" in cli("demo", "--home", tmp_path / "busy", code=5).stderr
    (home / "ledger.sqlite").unlink()
    assert "wine-drift repair" in cli("demo", "--home", home, code=6).stderr
    shutil.rmtree(home / "backups")
    before = sorted(home.rglob("*"))
    assert "models and no ledger" in cli("demo", "--home", home, code=2).stderr
    assert sorted(home.rglob("*")) == before
    for option, words in (("--scenario=switch@3", "leave out @"), ("--days=0.01", "a number")):
        assert words in cli("demo", "--home", tmp_path / "new", option, code=2).stderr
    assert not (tmp_path / "new").exists()


def test_a_demo_that_was_not_exported_still_is(cli: Cli, tmp_path: Path) -> None:
    """A file that is not there, or was lost, is written from the ledger."""
    home, out = tmp_path / "home", tmp_path / "past.om"
    cli("demo", "--home", home, "--days", 0.1)
    cli("demo", "--home", home, "--openmetrics", out)
    assert at_time(out, time.time())["wine_drift_batches_total", "success", "red_wine"] == 2
