"""Slips that users make, and what must not come of them."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from wine_drift import batches, run
from wine_drift.errors import FileUnreadable, StateUnreadable
from wine_drift.ledger import Ledger
from wine_drift.locking import locked
from wine_drift.recipes import Training
from wine_drift.retraining import InHand, challenge, first_version
from wine_drift.rows import LabelledRows, concatenate
from wine_drift.schema import Schema, parse_schema

Cli = Callable[..., Result]
Record = Callable[..., dict[str, Any]]
Wines = Callable[..., Path]
Published = Callable[[Path], dict[tuple[str, ...], float]]


def test_the_same_table_in_other_bytes_goes_on(
    record: Record, home: Path, red_wine_csv: Path, tmp_path: Path
) -> None:
    """A stream is known by what the table holds: zipped, it goes on where it was."""
    zipped = tmp_path / "red.csv.gz"
    zipped.write_bytes(gzip.compress(red_wine_csv.read_bytes()))
    plain = record("run-batch", "--home", home, "--data", red_wine_csv)["batch"]["name"]
    packed = record("run-batch", "--home", home, "--data", zipped)["batch"]["name"]
    assert packed.split()[1].split("-")[0] == plain.split("-")[1]


def test_a_table_that_was_added_to_is_refused(
    cli: Cli, home: Path, published: Published, red_wine_csv: Path, tmp_path: Path
) -> None:
    """A new table that holds the champion's training rows is not streamed from its start."""
    longer = tmp_path / "longer.csv"
    lines = red_wine_csv.read_text().splitlines()
    longer.write_text("\n".join([*lines, lines[-1].replace("0.", "1.", 1)]))
    before = published(home)["wine_drift_batches_total", "success"]
    result = cli("run-batch", "--home", home, "--data", longer, code=2)
    assert "were in the training of the champion" in result.stderr
    assert published(home)["wine_drift_batches_total", "success"] == before


def test_another_table_is_streamed(record: Record, home: Path, white_wine_csv: Path) -> None:
    """A table without training rows is streamed from its start; white wine is major drift."""
    found = record("run-batch", "--home", home, "--data", white_wine_csv)
    assert found["batch"]["name"] == "rows 0-100"
    assert found["drift"]["status"] == "major"


CANCER = """
name = "two columns"
[target]
column = "y"
positive = "== 1"
[[feature]]
name = "a"
[[feature]]
name = "b"
"""


@pytest.fixture
def other_home(cli: Cli, tmp_path: Path) -> Path:
    """A home with a champion of another schema, o.toml, and an inbox with a good file."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(400, 2)).round(6)
    answer = (table[:, 0] + rng.normal(0, 0.3, 400) > 0.5).astype(int)
    lines = ["a,b,y", *(f"{a},{b},{y}" for (a, b), y in zip(table, answer, strict=True))]
    (tmp_path / "o.toml").write_text(CANCER)
    (tmp_path / "o.csv").write_text("\n".join(lines[:301]))
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "good.csv").write_text("\n".join([lines[0], *lines[301:]]))
    home = tmp_path / "other"
    cli("train", "--home", home, "--schema", "o.toml", "--data", "o.csv", "--rounds", "20")
    return home


def test_a_forgotten_schema_harms_no_file(cli: Cli, record: Record, other_home: Path) -> None:
    """Without its schema a run stops before it touches a file; with it the file is processed."""
    result = cli("run-batch", "--home", other_home, "--inbox", "inbox", code=2)
    assert "the schema is another" in result.stderr
    assert Path("inbox/good.csv").is_file()
    found = record("run-batch", "--home", other_home, "--inbox", "inbox", "--schema", "o.toml")
    assert found["outcome"] == "processed"


def test_another_question_is_refused(cli: Cli, other_home: Path) -> None:
    """The same columns with the opposite rule are another schema."""
    Path("opposite.toml").write_text(CANCER.replace("== 1", "== 0"))
    arguments = ("--home", other_home, "--inbox", "inbox", "--schema", "opposite.toml")
    assert "answers 'y == 1'" in cli("run-batch", *arguments, code=2).stderr


def test_an_error_of_the_disk_is_no_fault_of_the_file(
    cli: Cli, record: Record, home: Path, wines: Wines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that could not be read stays, is not counted, and is processed by the next run."""
    path = wines("inbox/a.csv", 0, 100)

    def broken(path: Path, **_: object) -> None:
        raise FileUnreadable(f"{path}: Input/output error", remedy="see the disk")

    with monkeypatch.context() as patch:
        patch.setattr(run, "read_parts", broken)
        cli("run-batch", "--home", home, "--inbox", "inbox", code=6)
    assert path.is_file()
    assert "the last run failed" in cli("health", "--home", home, code=7).stderr
    found = record("run-batch", "--home", home, "--inbox", "inbox")
    assert (found["outcome"], found["batch"]["name"]) == ("processed", "a.csv")


def test_a_file_that_changes_meanwhile_is_taken_again(
    cli: Cli, record: Record, home: Path, wines: Wines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read must be what was claimed; else nothing is recorded."""
    path = wines("inbox/a.csv", 0, 90)
    read = run.read_parts

    def late(source: Path, **named: Any) -> Any:
        yield from read(source, **named)
        wines("inbox/a.csv", 0, 100)

    with monkeypatch.context() as patch:
        patch.setattr(run, "read_parts", late)
        result = cli("run-batch", "--home", home, "--inbox", path.parent, code=6)
    assert "changed while it was read" in result.stderr
    assert record("run-batch", "--home", home, "--inbox", path.parent)["batch"]["rows"] == 100


def test_a_failure_of_any_kind_is_published(
    cli: Cli, home: Path, wines: Wines, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is told, and the metrics say that the last run failed."""

    @contextlib.contextmanager
    def full(*arguments: object) -> Iterator[Callable[[object], None]]:
        def write(lines: object) -> None:
            raise OSError(28, "No space left on device", "quarantine")

        yield write

    path = wines(
        "a.csv", 0, 100, edit=lambda cells: ["x", *cells[1:]] if "9" in cells[0] else cells
    )
    monkeypatch.setattr(batches, "kept_rows", full)
    result = cli("run-batch", path, "--home", home, code=6)
    assert "No space left on device" in result.stderr
    assert published(home)["wine_drift_last_run_success",] == 0


def test_push_waits_for_no_run_and_makes_no_home(cli: Cli, home: Path, tmp_path: Path) -> None:
    """An older set must not overtake a newer one, and an empty one must not replace the real."""
    with locked(home):
        cli("push", "--home", home, code=5)
    cli("push", "--home", tmp_path / "typo", code=2)
    assert not (tmp_path / "typo").exists()


def test_simulated_wines_stay_out_of_a_real_home(cli: Cli, home: Path) -> None:
    """A home whose champion knows real wines takes no simulated stream."""
    result = cli("run-batch", "--home", home, "--source", "simulated", code=2)
    assert "was trained on real data" in result.stderr


def test_no_scored_row_is_no_score(
    record: Record, home: Path, wines: Wines, published: Published
) -> None:
    """Where every row is set aside the score has no figure, rather than a severity of 0."""
    path = wines("a.csv", 0, 100, edit=lambda cells: [*cells[:10], "999", cells[11]])
    found = record("run-batch", path, "--home", home)
    names = [feature["name"] for feature in found["drift"]["features"]]
    assert "alcohol" in names and "score" not in names
    assert not [
        key for key in published(home) if key[0].startswith("wine_drift_feat") and "score" in key
    ]


def test_a_link_in_the_inbox_is_archived_as_a_file(
    cli: Cli, home: Path, wines: Wines, tmp_path: Path
) -> None:
    """The archive holds what was processed, not a link to what may change."""
    source = wines("elsewhere.csv", 0, 100)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "l.csv").symlink_to("../elsewhere.csv")
    cli("run-batch", "--home", home, "--inbox", "inbox")
    (kept,) = (home / "archive").iterdir()
    assert not kept.is_symlink() and kept.read_bytes() == source.read_bytes()
    assert source.is_file() and not list((tmp_path / "inbox").iterdir())


def test_every_sink_that_fails_is_counted(cli: Cli, home: Path, published: Published) -> None:
    """With both sinks out of order both are told, and both are counted."""
    Path("file").write_text("no folder")
    sinks = ("--pushgateway", "127.0.0.1:1", "--push-deadline", "0.2", "--textfile", "file/x.prom")
    result = cli("push", "--home", home, *sinks, code=4)
    assert "x.prom" in result.stderr and "127.0.0.1:1" in result.stderr
    counts = {key[1]: n for key, n in published(home).items() if "push_failures" in key[0]}
    assert sum(counts.values()) == 2


def test_a_failure_that_cannot_be_counted_is_told_as_that(
    cli: Cli, home: Path, wines: Wines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full right after the commit: the batch is done, and the push failed."""

    def full(*_: object) -> None:
        raise StateUnreadable("ledger.sqlite: disk is full", remedy="make room")

    Path("file").write_text("no folder")
    monkeypatch.setattr(Ledger, "add", full)
    batch = ("run-batch", wines("new.csv", 0, 100), "--home", home)
    result = cli(*batch, "--textfile", "file/x.prom", code=4)
    assert "x.prom" in result.stderr and "not counted: ledger.sqlite" in result.stderr


def test_a_slice_of_text_does_not_stop_the_stream(
    record: Record, red_wine_csv: Path, tmp_path: Path
) -> None:
    """A row of the table that is no wine is set aside when its turn comes; the stream goes on."""
    lines = red_wine_csv.read_text().splitlines()
    spoilt = [
        line.replace(line.split(";")[0], "x", 1) if k % 3 == 1 else line
        for k, line in enumerate(lines)
    ]
    table = tmp_path / "spoilt.csv"
    table.write_text("\n".join(spoilt))
    arguments = ("--home", tmp_path / "h", "--data", table, "--batch-rows", "1", "--rounds", "20")
    aside = 0
    for number in range(1, 7):
        batch = record("run-batch", *arguments)["batch"]
        assert batch["sequence"] == number
        aside += batch["set_aside"]["text"]
    assert aside > 0


def test_an_interrupt_is_no_bug(
    cli: Cli, home: Path, wines: Wines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends with 130 and a sentence."""

    def interrupted(path: Path, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "read_parts", interrupted)
    result = cli("run-batch", wines("a.csv"), "--home", home, code=130)
    assert "interrupted" in result.stderr


def test_training_by_hand_is_no_sign_of_life(cli: Cli, home: Path, published: Published) -> None:
    """`train` does not touch the time of the last success: the schedule may be dead."""
    before = json.loads(cli("status", "--home", home, "--json").stdout)["run"]
    cli("train", "--home", home)
    assert json.loads(cli("status", "--home", home, "--json").stdout)["run"] == before


def test_rows_sent_again_do_not_open_the_gate() -> None:
    """With labels that are pure noise, rows of an older batch sent again promote nobody."""
    schema: Schema = parse_schema(
        {
            "name": "noise",
            "duplicates": "reject",
            "target": {"column": "y", "positive": "== 1"},
            "feature": [{"name": f"x{j}"} for j in range(4)],
        }
    )
    how = Training(rounds=60, half_life=10.0, seed=0, threads=1, window_rows=20_000)
    facts = {"reason": "test", "parent": None, "trained_at": 0.0, "dataset": "noise"}
    promoted = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)

        def batch(n_rows: int, sequence: int, rng: np.random.Generator = rng) -> LabelledRows:
            sequences = np.full(n_rows, sequence, dtype=np.int64)
            return LabelledRows(rng.normal(size=(n_rows, 4)), rng.random(n_rows) < 0.3, sequences)

        champion = first_version(batch(300, 0), schema, how, number=1, facts=facts)
        older = batch(300, 1)
        again = LabelledRows(older.features, older.positive, np.full(300, 5, dtype=np.int64))
        fresh = [batch(60, sequence) for sequence in (3, 4)]
        history = concatenate([older, *fresh, again], 4)
        attempt = challenge(
            champion,
            InHand(champion, history, schema, how, min_rows=100),
            schema,
            how,
            recipe="scratch",
            min_rows=100,
            alpha=0.1,
            number=2,
            facts=facts,
        )
        assert attempt.report.rows <= 120
        promoted += attempt.report.outcome == "promoted"
    assert promoted <= 3


def test_training_rows_in_a_batch_are_told(
    cli: Cli, record: Record, tmp_path: Path, red_wine_csv: Path, wines: Wines
) -> None:
    """A file of rows that the champion was trained on is counted as such; other rows are not."""
    home = tmp_path / "h"
    cli("train", "--home", home, "--data", red_wine_csv, "--rounds", "20")
    found = record("run-batch", wines("old.csv", 0, 100), "--home", home)["batch"]
    assert found["seen_in_training"] == found["labelled"] > 80
    assert "flatters" in cli("run-batch", "old.csv", "--home", home).stdout
    new = wines(
        "new.csv",
        0,
        100,
        edit=lambda cells: [*cells[:10], f"{float(cells[10]) + 0.0123}", cells[11]],
    )
    assert record("run-batch", new, "--home", home)["batch"]["seen_in_training"] == 0
