"""What runs do to a home: real table, real model, real files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from sklearn import metrics as sklearn_metrics

from wine_drift.ledger import Ledger
from wine_drift.model import read_version
from wine_drift.run import run_batch
from wine_drift.settings import SCENARIOS, Settings, load_settings

Cli = Callable[..., Result]
Record = Callable[..., dict[str, Any]]
Wines = Callable[..., Path]
Published = Callable[[Path], dict[tuple[str, ...], float]]
Samples = Callable[[str], dict[tuple[str, ...], float]]
Kept = Callable[[Path], dict[str, Any]]

DONE = ("wine_drift_batches_total", "success")
REFUSED = ("wine_drift_batches_total", "quarantined")
MEASURES = ("log_loss", "roc_auc", "brier_score", "accuracy", "precision", "recall", "f1")
STATUSES = {"not_judged", "ok", "warn", "drift", "major"}


def build_dataset(shown: dict[tuple[str, ...], float]) -> str:
    """Label `dataset` of wine_drift_build_info; labels are in order of their names."""
    (found,) = [labels for labels in shown if labels[0] == "wine_drift_build_info"]
    return found[1]


def unlabelled(cells: list[str]) -> list[str]:
    return [*cells[:-1], ""]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def simulated(
    cli: Cli, out: Path, scenario: str, *options: object, n_batches: int = 1
) -> list[Path]:
    told = cli(
        "simulate", "--scenario", scenario, "--batches", n_batches, "--out", out, *options
    ).stdout
    return [Path(line) for line in told.splitlines()]


# --- the first run ---


def test_first_run_trains_and_processes(
    record: Record, red_wine_csv: Path, tmp_path: Path, published: Published
) -> None:
    """With no champion the first run trains one on half of the table and takes the next batch."""
    home = tmp_path / "new" / "home"
    done = record("run-batch", "--home", home, "--data", red_wine_csv)
    assert done["outcome"] == "processed"
    assert done["batch"]["rows"] == 100
    assert done["batch"]["accepted"] + sum(done["batch"]["set_aside"].values()) == 100
    assert done["model"]["version"].startswith("v1-")
    shown = published(home)
    assert shown[DONE] == 1
    assert shown["wine_drift_rows_total",] == done["batch"]["accepted"]
    assert build_dataset(shown) == "winequality-red.csv"
    assert (home / "metrics" / "wine_drift.prom").is_file()


def test_record_holds_the_documented_keys(record: Record, home: Path, wines: Wines) -> None:
    """Every key that the manual names is there, with a value of its kind."""
    done = record("run-batch", wines("a.csv"), "--home", home)
    batch, quality, drift = done["batch"], done["quality"], done["drift"]
    assert isinstance(batch["id"], str) and len(batch["id"]) == 12
    assert isinstance(batch["rows"], int) and isinstance(batch["labelled"], int)
    assert isinstance(done["model"]["version"], str)
    assert 0 < quality["log_loss"] < 2 and 0.5 < quality["roc_auc"] <= 1
    assert drift["p_value"] >= 0 and drift["severity"] >= 0 and drift["status"] in STATUSES
    names = [feature["name"] for feature in drift["features"]]
    assert len(names) == len(set(names)) == 12 and names[-1] == "score"
    assert all(feature["p_value"] >= 0 <= feature["severity"] for feature in drift["features"])
    assert done["decision"]["action"] in {"keep", "hold", "retrain"}
    assert done["decision"]["reasons"] and done["push"]["status"] == "ok"


def test_quality_is_that_of_sklearn(
    cli: Cli, record: Record, home: Path, red_wine_csv: Path, wines: Wines
) -> None:
    """The measures in the record are scikit-learn's on the accepted rows, to 1e-9."""
    path = wines("part.csv", 400, 1000)
    done = record("run-batch", path, "--home", home, "--retrain", "never")
    manifest = json.loads(cli("models", "show", "--home", home).stdout)
    champion = read_version(home / "models", manifest)
    rows = pd.read_csv(path, sep=";").drop_duplicates()
    assert len(rows) == done["batch"]["accepted"] < done["batch"]["rows"] == 600
    positive = rows["quality"].to_numpy() > 6.5
    scores = champion.model.score(rows[manifest["features"]].to_numpy(dtype=float))
    predicted = scores >= champion.cut
    expected = {
        "log_loss": sklearn_metrics.log_loss(positive, scores),
        "roc_auc": sklearn_metrics.roc_auc_score(positive, scores),
        "brier_score": sklearn_metrics.brier_score_loss(positive, scores),
        "accuracy": sklearn_metrics.accuracy_score(positive, predicted),
        "precision": sklearn_metrics.precision_score(positive, predicted),
        "recall": sklearn_metrics.recall_score(positive, predicted),
        "f1": sklearn_metrics.f1_score(positive, predicted),
    }
    assert {name: done["quality"][name] for name in MEASURES} == pytest.approx(expected, abs=1e-9)
    assert done["quality"]["mean_score"] == pytest.approx(scores.mean(), abs=1e-12)


def test_metrics_are_those_of_the_record(
    record: Record, home: Path, wines: Wines, published: Published
) -> None:
    """What is published about a batch is what its record says."""
    done = record("run-batch", wines("a.csv"), "--home", home)
    shown = published(home)
    assert shown["wine_drift_model_logloss", "current"] == done["quality"]["log_loss"]
    assert shown["wine_drift_model_roc_auc", "current"] == done["quality"]["roc_auc"]
    assert shown["wine_drift_dataset_drift_severity",] == done["drift"]["severity"]
    for feature in done["drift"]["features"]:
        assert shown["wine_drift_feature_drift_severity", feature["name"]] == feature["severity"]
        assert shown["wine_drift_feature_drift_pvalue", feature["name"]] == feature["p_value"]
    assert shown["wine_drift_decision", done["decision"]["action"]] == 1


# --- the stream ---


def test_stream_ends_and_repeats_no_row(
    cli: Cli, record: Record, red_wine_csv: Path, tmp_path: Path, published: Published
) -> None:
    """Training part and slices cover each row once; then the run says that it ended, with 0."""
    home = tmp_path / "home"
    options = ("--home", home, "--data", red_wine_csv, "--batch-rows", 300, "--retrain", "never")
    done = [record("run-batch", *options)]
    while done[-1]["outcome"] == "processed":
        done.append(record("run-batch", *options))
    *batches, last = done
    edges = [
        [int(edge) for edge in batch["batch"]["name"].removeprefix("rows ").split("-")]
        for batch in batches
    ]
    assert edges[0][0] >= 800 and edges[-1][1] == 1599
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    assert [stop - start for start, stop in edges] == [b["batch"]["rows"] for b in batches]
    assert last["outcome"] == "end_of_stream" and last["batch"] is None
    assert "the stream has ended" in cli("run-batch", *options).stdout
    shown = published(home)
    assert shown[DONE] == len(batches)
    assert shown["wine_drift_rows_total",] == sum(b["batch"]["accepted"] for b in batches)


def test_stream_shares_no_row_with_training(
    cli: Cli, red_wine_csv: Path, tmp_path: Path, record: Record
) -> None:
    """No row that was streamed equals one that the champion was trained on, label included."""
    home = tmp_path / "home"
    options = ("--home", home, "--data", red_wine_csv, "--batch-rows", 999, "--retrain", "never")
    done = record("run-batch", *options)
    manifest = json.loads(cli("models", "show", "--home", home).stdout)
    seen = read_version(home / "models", manifest).rows
    table = pd.read_csv(red_wine_csv, sep=";").drop_duplicates()
    assert done["batch"]["accepted"] + len(seen) == len(table)


def test_cursor_outlives_a_change_of_seed_and_size(
    record: Record, home: Path, red_wine_csv: Path
) -> None:
    """A stream keeps its order and its place when seed or batch size are set anew."""
    options = ("--home", home, "--data", red_wine_csv, "--seed", 7, "--retrain", "never")
    first = record("run-batch", *options, "--batch-rows", 30)["batch"]["name"]
    second = record("run-batch", *options, "--batch-rows", 60)["batch"]["name"]
    start, middle = first.removeprefix("rows ").split("-")
    assert int(middle) == int(start) + 30
    assert second == f"rows {middle}-{int(middle) + 60}"


# --- the same batch again ---


def test_same_file_twice_counts_once(
    cli: Cli, home: Path, wines: Wines, published: Published, kept: Kept
) -> None:
    """A known batch is told as such with exit 0, and only run times change."""
    path = wines("a.csv")
    cli("run-batch", path, "--home", home)
    before, figures = kept(home), published(home)
    again = cli("run-batch", path, "--home", home)
    assert "already processed" in again.stdout
    assert published(home) == figures
    assert kept(home) == before


def test_same_content_under_another_name_counts_once(
    record: Record, home: Path, wines: Wines, published: Published
) -> None:
    """A batch is known by its content, not by its name."""
    first = record("run-batch", wines("a.csv"), "--home", home)
    figures = published(home)
    second = record("run-batch", wines("elsewhere/b.csv"), "--home", home)
    assert second["outcome"] == "already_processed"
    assert second["batch"] == first["batch"] and second["quality"] == first["quality"]
    assert published(home) == figures


def test_bad_file_twice_counts_once(
    cli: Cli, record: Record, home: Path, tmp_path: Path, published: Published
) -> None:
    """A file refused before is refused again, with 3, and not counted again."""
    bad = tmp_path / "bad.csv"
    bad.write_text("a;b\n1;2\n")
    record("run-batch", bad, "--home", home, code=3)
    again = cli("run-batch", bad, "--home", home, code=3)
    assert "refused before" in again.stderr
    assert published(home)[REFUSED] == 1


# --- the inbox ---


def test_inbox_is_taken_oldest_first_into_the_archive(
    record: Record, home: Path, tmp_path: Path, wines: Wines
) -> None:
    """Files leave the inbox in order of their times, not names, until nothing waits."""
    inbox = tmp_path / "inbox"
    for age, name in ((10, "inbox/c.csv"), (30, "inbox/b.csv"), (20, "inbox/a.csv")):
        path = wines(name, age * 10, age * 10 + 60)
        os.utime(path, (1e9 - age, 1e9 - age))
    (inbox / ".d.csv").write_text("still being written")
    (inbox / "e.csv.part").write_text("still being written")
    options = ("--home", home, "--inbox", inbox, "--retrain", "never")
    done = [record("run-batch", *options) for _ in range(4)]
    assert [r["batch"] and r["batch"]["name"] for r in done] == ["b.csv", "a.csv", "c.csv", None]
    assert done[-1]["outcome"] == "nothing_waiting"
    assert sorted(path.name for path in inbox.iterdir()) == [".d.csv", "e.csv.part"]
    assert sorted(path.name for path in (home / "archive").iterdir()) == sorted(
        f"{r['batch']['id']}-{r['batch']['name']}" for r in done[:3]
    )


def test_pending_counts_what_still_waits(
    cli: Cli, home: Path, tmp_path: Path, wines: Wines, published: Published
) -> None:
    """The file in hand does not count as waiting."""
    for number in range(3):
        wines(f"inbox/{number}.csv", number * 60, number * 60 + 60)
    cli("run-batch", "--home", home, "--inbox", tmp_path / "inbox")
    assert published(home)["wine_drift_batches_pending",] == 2


def test_bad_inbox_file_does_not_stop_the_others(
    cli: Cli, record: Record, home: Path, tmp_path: Path, wines: Wines
) -> None:
    """A bad file goes to quarantine with 3, and the next run takes the next file."""
    inbox = tmp_path / "inbox"
    good = wines("inbox/good.csv")
    bad = inbox / "bad.csv"
    bad.write_text("a;b\n1;2\n")
    os.utime(bad, (1e9, 1e9))
    refused = record("run-batch", "--home", home, "--inbox", inbox, code=3)
    assert refused["outcome"] == "quarantined" and "missing" in refused["error"]
    moved = home / "quarantine" / f"{refused['batch']['id']}-bad.csv"
    assert moved.read_text() == "a;b\n1;2\n" and not bad.exists()
    done = record("run-batch", "--home", home, "--inbox", inbox)
    assert done["batch"]["name"] == "good.csv" and not good.exists()


def test_a_file_of_another_kind_is_told_of_once(home: Path, tmp_path: Path) -> None:
    """Whoever drops a spreadsheet hears that nobody takes it, when it is written for sure."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name in ("wines.xlsx", ".wines.xlsx"):
        (inbox / name).write_text("rows")
    (inbox / "folder.xlsx").mkdir()
    written = (inbox / "wines.xlsx").stat().st_ctime
    settings = Settings(home=home, inbox=inbox)
    said: list[str] = []
    for hours in (0.9, 1.1, 1.2, 9.0):
        run_batch(settings, now=lambda at=written + 3600 * hours: at, say=said.append)
    (told,) = said
    assert told.startswith(f"{inbox / 'wines.xlsx'}: passed over") and ".parquet" in told
    os.utime(inbox / "wines.xlsx")  # it was written anew
    again = (inbox / "wines.xlsx").stat().st_ctime
    with Ledger.open(home) as ledger:
        ledger.record_run((ledger.last_run() or {}) | {"started_at": again})
    run_batch(settings, now=lambda: again + 3601, say=said.append)
    assert said == [told, told]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.csv", b""),
        ("header.csv", b"fixed acidity;quality\n"),
        ("noise.csv", bytes(range(256)) * 8),
        ("noise.parquet", b"no parquet"),
        ("noise.gz", b"no gzip"),
        ("noise.zip", b"no zip"),
    ],
)
def test_unreadable_files_go_to_quarantine(
    cli: Cli, home: Path, tmp_path: Path, name: str, data: bytes
) -> None:
    """A file that is no table is refused in one line, and kept byte for byte."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / name).write_bytes(data)
    told = cli("run-batch", "--home", home, "--inbox", tmp_path / "inbox", code=3).stderr
    assert told.count("error: ") == 1 and name in told
    (moved,) = (home / "quarantine").glob(f"*-{name}")
    assert moved.read_bytes() == data


def test_known_file_left_in_the_inbox_is_put_away(
    cli: Cli, record: Record, home: Path, tmp_path: Path, wines: Wines, published: Published
) -> None:
    """A file that a crash left behind after its commit is moved away and not counted again."""
    inbox = tmp_path / "inbox"
    cli("run-batch", wines("inbox/a.csv"), "--home", home)  # named: it stays where it is
    bad = inbox / "bad.csv"
    bad.write_text("a;b\n1;2\n")
    cli("run-batch", bad, "--home", home, code=3)
    figures = published(home)
    done = record("run-batch", "--home", home, "--inbox", inbox)
    assert done["outcome"] == "nothing_waiting"
    assert list(inbox.iterdir()) == []
    assert len(list((home / "archive").glob("*-a.csv"))) == 1
    assert len(list((home / "quarantine").glob("*-bad.csv"))) == 1
    counters = {key: value for key, value in figures.items() if key[0].endswith("_total")}
    assert counters.items() <= published(home).items()


@pytest.mark.parametrize(
    "name",
    [b"M\xe4rz.csv", b"two\nlines.csv", b"\x1b[31mred.csv", "M\u00e4rz \u202egnirts.csv".encode()],
    ids=["Latin-1", "line break", "escape", "unprintable"],
)
def test_names_of_any_bytes(cli: Cli, home: Path, wines: Wines, name: bytes) -> None:
    """A sender may call its files anything: they are processed, told in one line, put away."""
    path = wines("inbox/a.csv")
    odd = path.rename(path.with_name(os.fsdecode(name)))
    (path.parent / "bad\udce9.csv").write_text("a;b\n1;2\n")
    os.utime(odd, (1e9, 1e9))
    result = cli("run-batch", "--home", home, "--inbox", path.parent, "--log-file", "log")
    assert len(result.stderr.splitlines()) == len(Path("log").read_text().splitlines()) == 1
    assert len(list((home / "archive").iterdir())) == 1
    cli("run-batch", "--home", home, "--inbox", path.parent, "--log-file", "log", code=3)
    assert list(path.parent.iterdir()) == []
    shown = result.stdout + result.stderr
    for command in ("status", "explain"):
        shown += cli(command, "--home", home).stdout
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_named_files_stay(cli: Cli, home: Path, tmp_path: Path, wines: Wines) -> None:
    """A file on the command line stays where it is; a bad one is copied to quarantine."""
    good, bad = wines("good.csv"), tmp_path / "bad.csv"
    bad.write_text("a;b\n1;2\n")
    before = good.read_bytes()
    cli("run-batch", good, "--home", home)
    cli("run-batch", bad, "--home", home, code=3)
    assert good.read_bytes() == before and bad.read_text() == "a;b\n1;2\n"
    assert not (home / "archive").exists()
    (copy,) = (home / "quarantine").glob("*-bad.csv")
    assert copy.read_text() == "a;b\n1;2\n"


# --- batches that are not whole ---


@pytest.mark.parametrize("column", ["absent", "empty"])
def test_unlabelled_batch(
    record: Record, home: Path, wines: Wines, published: Published, column: str
) -> None:
    """Without labels drift is judged; figures are null, those of the last labels stay published."""
    path = wines("a.csv", edit=unlabelled)
    if column == "absent":
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line.rpartition(";")[0] for line in lines) + "\n")
    before = published(home)
    done = record("run-batch", path, "--home", home)
    quality = done["quality"]
    assert done["batch"]["labelled"] == 0 and done["batch"]["accepted"] > 0
    assert [quality[name] for name in MEASURES] == [None] * len(MEASURES)
    assert all(quality["undefined"][name] for name in MEASURES)
    assert done["drift"]["status"] != "not_judged"
    shown = published(home)
    answers = [key for key in before if "current" in key and "feature" not in key[0]] + [
        ("wine_drift_target_ratio",)
    ]
    assert len(answers) > len(MEASURES)
    assert [shown[key] for key in answers] == [before[key] for key in answers]
    assert shown["wine_drift_labeled_batch_number",] == 1 and shown["wine_drift_batch_number",] == 2
    assert shown["wine_drift_unlabeled_rows",] == done["batch"]["accepted"]
    assert shown["wine_drift_unlabeled_batches",] == 1
    assert ("wine_drift_model_roc_auc", "reference") in shown


def test_no_label_ever(record: Record, wines: Wines, tmp_path: Path, published: Published) -> None:
    """Before the first label, label-based figures are absent, with the reason."""
    home, table = tmp_path / "home", wines("t.csv", 0, 900)
    record("train", "--home", home, "--data", table)
    record("run-batch", wines("a.csv", 900, 1000, edit=unlabelled), "--home", home)
    shown = published(home)
    assert {key[0] for key in shown if "current" in key} == {"wine_drift_feature_quantile"}
    assert ("wine_drift_target_ratio",) not in shown
    assert ("wine_drift_label_lag_seconds",) not in shown
    assert shown["wine_drift_metric_undefined", "model_roc_auc", "no labelled rows"] == 1


def test_one_class_batch(
    record: Record, home: Path, wines: Wines, published: Published, red_wine_csv: Path
) -> None:
    """With one class only there is a log loss and no AUC, and the reason is told."""
    path = wines("a.csv", edit=lambda cells: [*cells[:-1], "5"])
    done = record("run-batch", path, "--home", home, "--retrain", "never")
    assert done["quality"]["roc_auc"] is None and done["quality"]["log_loss"] > 0
    assert done["quality"]["undefined"]["roc_auc"] == "one class only"
    shown = published(home)
    assert ("wine_drift_model_roc_auc", "current") not in shown
    assert shown["wine_drift_metric_undefined", "model_roc_auc", "one class only"] == 1


@pytest.mark.parametrize("n_rows", [1, 2, 10])
def test_few_rows_are_not_judged(
    record: Record, home: Path, wines: Wines, published: Published, n_rows: int
) -> None:
    """Below min_rows there is no verdict on drift, and no figure pretends to be one."""
    done = record("run-batch", wines("a.csv", 20, 20 + n_rows), "--home", home)
    assert done["drift"]["status"] == "not_judged" and done["drift"]["reason"]
    assert done["drift"]["p_value"] is None and done["drift"]["severity"] is None
    assert done["decision"] == {"action": "keep", "reasons": ["too_few_rows"]}
    shown = published(home)
    assert shown["wine_drift_metric_undefined", "dataset_drift_level", "too few rows"] == 1
    assert not any(key[0].startswith("wine_drift_feature_drift") for key in shown)


def test_set_aside_rows_are_kept(
    record: Record, home: Path, wines: Wines, published: Published
) -> None:
    """Each refused row is in a file of its own batch, as it came, with row, reason and column."""
    faults = {
        10: ("alcohol", "abc", "text"),
        11: ("pH", "", "missing"),
        12: ("density", "inf", "infinite"),
        13: ("alcohol", "9400", "out_of_range"),
        14: ("quality", "42", "bad_label"),
    }
    path = wines("a.csv", 100, 160)
    header, *lines = path.read_text().splitlines()
    columns = [name.strip('"') for name in header.split(";")]
    for row, (column, cell, _) in faults.items():
        cells = lines[row].split(";")
        cells[columns.index(column)] = cell
        lines[row] = ";".join(cells)
    lines.append(lines[0])
    path.write_text("\n".join([header, *lines]) + "\n")
    done = record("run-batch", path, "--home", home)
    kept_rows = pd.read_csv(
        home / "quarantine" / f"{done['batch']['id']}-rows.csv", dtype=str, keep_default_na=False
    )
    told = {
        int(row): (reason, column)
        for row, reason, column in kept_rows[
            ["set_aside_row", "set_aside_reason", "set_aside_column"]
        ].itertuples(index=False)
    }
    for row, (column, cell, reason) in faults.items():
        assert told[row + 1] == (reason, column)
        found = kept_rows.loc[kept_rows["set_aside_row"] == str(row + 1), column].item()
        assert found == cell
    assert told[61] == ("duplicate", "")
    assert len(told) == done["batch"]["rows"] - done["batch"]["accepted"]
    shown = published(home)
    for reason, number in done["batch"]["set_aside"].items():
        assert shown["wine_drift_batch_rejected_rows", reason] == number


def test_batch_with_no_usable_row(
    record: Record, home: Path, wines: Wines, published: Published
) -> None:
    """A batch whose every row is at fault is processed, and held as a data fault."""
    path = wines("a.csv", edit=lambda cells: [*cells[:10], "", cells[11]])
    done = record("run-batch", path, "--home", home)
    assert done["batch"]["accepted"] == 0 and done["quality"]["mean_score"] is None
    assert done["decision"]["action"] == "hold"
    assert done["decision"]["reasons"][0] == "data_fault" and done["retraining"] is None
    assert published(home)["wine_drift_batch_missing_ratio", "alcohol"] == 1


# --- a dry run ---


def test_dry_run_changes_nothing(
    cli: Cli, record: Record, home: Path, tmp_path: Path, wines: Wines, red_wine_csv: Path
) -> None:
    """A dry run prints what a run would decide, and changes no byte of the home."""
    path = wines("a.csv", edit=lambda cells: [*cells[:10], "9.4", cells[11]])
    bad = tmp_path / "bad.csv"
    bad.write_text("a;b\n1;2\n")
    cli("run-batch", wines("known.csv", 300, 360), "--home", home)
    before = content(home)
    dry = record("run-batch", path, "--home", home, "--dry-run")
    assert "decision" in cli("run-batch", path, "--home", home, "--dry-run").stdout
    assert record("run-batch", "--home", home, "--data", red_wine_csv, "--dry-run")["decision"]
    record("run-batch", tmp_path / "known.csv", "--home", home, "--dry-run")
    record("run-batch", bad, "--home", home, "--dry-run", code=3)
    assert content(home) == before and bad.exists()
    wet = record("run-batch", path, "--home", home)
    assert dry["push"] is None and dry["retraining"] is None
    for part in ("batch", "model", "quality", "drift", "decision", "thresholds"):
        assert dry[part] == wet[part]


def test_dry_run_before_the_first_run(
    record: Record, tmp_path: Path, wines: Wines, red_wine_csv: Path
) -> None:
    """A dry run with no home trains in memory, decides, and makes no home."""
    home = tmp_path / "none"
    stream = record("run-batch", "--home", home, "--data", red_wine_csv, "--dry-run")
    assert stream["decision"]["action"] and stream["model"]["version"].startswith("v1-")
    named = record("run-batch", wines("a.csv"), "--home", home, "--data", red_wine_csv, "--dry-run")
    assert named["batch"]["sequence"] == 1
    assert not home.exists()


def test_dry_run_leaves_the_inbox_alone(
    cli: Cli, record: Record, home: Path, tmp_path: Path, wines: Wines
) -> None:
    """A dry run moves no file out of the inbox, not even one that the ledger knows."""
    inbox = tmp_path / "inbox"
    known = wines("inbox/a.csv")
    cli("run-batch", known, "--home", home)
    os.utime(known, (1e9, 1e9))
    wines("inbox/b.csv", 200, 260)
    before = content(home) | content(inbox)
    assert record("run-batch", "--home", home, "--inbox", inbox, "--dry-run")["decision"]
    assert content(home) | content(inbox) == before


# --- drift, retraining, promotion ---


def test_drifted_stream_leads_to_a_promotion(
    cli: Cli, record: Record, red_wine_csv: Path, tmp_path: Path, published: Published
) -> None:
    """A switch is major drift; challengers are tried, and the one that wins is the champion."""
    home = tmp_path / "home"
    options = ("--home", home, "--data", red_wine_csv, "--scenario", "switch")
    done = [record("run-batch", *options, "--scenario-start", 2) for _ in range(9)]
    *batches, end = done
    assert end["outcome"] == "end_of_stream"
    assert [r["drift"]["status"] for r in batches[:3]] == ["ok", "ok", "major"]
    assert batches[2]["decision"] == {
        "action": "retrain",
        "reasons": ["drift_major", "covariate_drift"],
    }
    tried = [r["retraining"] for r in batches if r["retraining"]]
    promoted = [part for part in tried if part["outcome"] == "promoted"]
    assert promoted and promoted[0]["reason"] == "drift_major"
    for part in promoted:
        (winner,) = part["gate"]["candidates"]
        assert winner["outcome"] == "won" and winner["p_value"] < part["gate"]["level"]
        assert part["gate"]["level"] == (0.5 if part["reason"] == "follow_up" else 0.1)
    for before, after in pairwise(batches):
        part = before["retraining"]
        won = part is not None and part["outcome"] == "promoted"
        serving = part["challenger"] if won else before["model"]["version"]
        assert after["model"]["version"] == serving
    listed = cli("models", "list", "--home", home).stdout
    (marked,) = [line for line in listed.splitlines() if line.startswith("*")]
    assert promoted[-1]["challenger"] in marked
    shown = published(home)
    for reason in ("drift_major", "quality_drop", "follow_up"):
        for outcome in ("promoted", "rejected", "failed"):
            found = [(part["outcome"], part["reason"]) for part in tried].count((outcome, reason))
            assert shown["wine_drift_retrains_total", outcome, reason] == found
    assert shown["wine_drift_model_info", "lightgbm", promoted[-1]["challenger"]] == 1


def test_evidence_is_against_all_that_came_before(
    record: Record, home: Path, wines: Wines, tmp_path: Path
) -> None:
    """Rows like those of an earlier batch are weaker evidence than they were the first time."""
    twin = Path(shutil.copytree(home, tmp_path / "twin"))
    earlier, later = wines("a.csv", 0, 100), wines("b.csv", 0, 100)
    header, *lines = later.read_text().splitlines()
    later.write_text("\n".join([header, *reversed(lines)]) + "\n")  # another content, same wines
    # an alarm would keep the batch from what came before
    options = ("--retrain", "never", "--severity-drift", 9, "--severity-major", 9)
    record("run-batch", earlier, "--home", home, *options)
    known = record("run-batch", later, "--home", home, *options)["drift"]
    new = record("run-batch", later, "--home", twin, *options)["drift"]
    assert known["p_value"] > new["p_value"]
    assert known["severity"] > 0 and new["severity"] > 0


def test_concept_drift_is_seen_in_the_labels(
    cli: Cli, record: Record, home: Path, red_wine_csv: Path, tmp_path: Path
) -> None:
    """Flipped answers are a drop in quality, which retrains once a second batch confirms it."""
    options = ("--home", home, "--data", red_wine_csv, "--scenario", "label_flip")
    done = record("run-batch", *options)
    assert done["decision"] == {
        "action": "hold",
        "reasons": ["quality_drop", "concept_drift", "unconfirmed"],
    }
    done = record("run-batch", *options)
    assert done["decision"]["action"] == "retrain"
    assert done["decision"]["reasons"][0] == "quality_drop"
    assert done["retraining"]["reason"] == "quality_drop"


def test_retrain_never_holds(
    record: Record, home: Path, red_wine_csv: Path, published: Published
) -> None:
    """With --retrain never the drift is told and no challenger is tried."""
    options = ("--home", home, "--data", red_wine_csv, "--scenario", "label_flip")
    done = record("run-batch", *options, "--retrain", "never")
    assert done["decision"]["action"] == "hold"
    assert done["decision"]["reasons"] == ["quality_drop", "concept_drift", "retrain_never"]
    assert done["retraining"] is None
    assert published(home)["wine_drift_retrains_total", "promoted", "quality_drop"] == 0


def test_failed_retraining_does_not_lose_the_batch(
    record: Record,
    home: Path,
    red_wine_csv: Path,
    published: Published,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the challenger cannot be written, the batch counts and the champion goes on serving."""
    options = ("--data", red_wine_csv, "--scenario", "label_flip")
    record("run-batch", "--home", home, *options)

    def full(step: str) -> None:
        if step == "version: write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("wine_drift.failpoints.hook", full)
    done = record("run-batch", "--home", home, *options, code=9)
    assert done["retraining"]["outcome"] == "failed" and done["retraining"]["error"]
    shown = published(home)
    assert shown[DONE] == 3
    assert shown["wine_drift_retrains_total", "failed", "quality_drop"] == 1
    assert shown["wine_drift_last_run_success",] == 0
    assert shown["wine_drift_model_info", "lightgbm", done["model"]["version"]] == 1


def test_unit_change_holds_as_a_data_fault(
    record: Record, home: Path, red_wine_csv: Path, published: Published
) -> None:
    """Another unit is the source's fault: hold, and train nothing on it."""
    options = ("--home", home, "--data", red_wine_csv, "--scenario", "unit_change")
    done = record("run-batch", *options)
    assert done["decision"]["action"] == "hold"
    assert done["decision"]["reasons"][0] == "data_fault" and done["retraining"] is None
    shown = published(home)
    assert shown["wine_drift_decision", "hold"] == 1
    assert shown["wine_drift_batch_rejected_rows", "out_of_range"] == 100


# --- scenarios and simulated data ---


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("source", ["real", "simulated"])
def test_simulated_files_are_batches(
    cli: Cli,
    record: Record,
    home: Path,
    red_wine_csv: Path,
    tmp_path: Path,
    scenario: str,
    source: str,
) -> None:
    """What `simulate` writes, run-batch takes, for each scenario on either table."""
    table = ("--data", red_wine_csv) if source == "real" else ("--source", "simulated")
    written = simulated(cli, tmp_path / "out", scenario, *table, n_batches=2)
    assert sorted((tmp_path / "out").iterdir()) == sorted(written) and len(written) == 2
    for path in written:
        done = record("run-batch", path, "--home", home)
        assert done["outcome"] == "processed" and done["batch"]["name"] == path.name


def test_simulate_tells_when_the_table_ends(cli: Cli, red_wine_csv: Path, tmp_path: Path) -> None:
    """A real table has so many batches and no more; those it had are written."""
    options = ("--data", red_wine_csv, "--batch-rows", 800, "--out", tmp_path / "out")
    told = cli("simulate", "--batches", 3, *options, code=2).stderr
    assert "ends after 2 batches" in told
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_scenario_starts_where_it_is_told(cli: Cli, tmp_path: Path) -> None:
    """Batches before the start are those without a scenario, byte for byte; later ones differ."""
    plain = simulated(cli, tmp_path / "a", "none", "--source", "simulated", n_batches=4)
    drifted = simulated(
        cli, tmp_path / "b", "switch", "--source", "simulated", "--scenario-start", 2, n_batches=4
    )
    same = [a.read_bytes() == b.read_bytes() for a, b in zip(plain, drifted, strict=True)]
    assert same == [True, True, False, False]


def test_several_scenarios_lie_over_each_other(cli: Cli, tmp_path: Path) -> None:
    """Each from its own batch on, in the order given, and counting its own steps."""

    def files(scenario: str, *options: object) -> list[bytes]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        options = ("--source", "simulated", *options)
        return [p.read_bytes() for p in simulated(cli, folder, scenario, *options, n_batches=6)]

    plain, ramp = files("none"), files("ramp", "--scenario-start", 2)
    both, stuck = files("ramp@2,stuck@4"), files("stuck")
    assert files("ramp@2") == ramp and files("ramp", "--scenario-start", 1) != ramp
    assert both[:4] == ramp[:4] and both[:2] == plain[:2]
    for number in (4, 5):
        assert len({both[number], ramp[number], stuck[number]}) == 3
        rows = [[line.split(b";")[-2:] for line in f[number].split()] for f in (both, stuck)]
        assert [row[0] for row in rows[0][1:]] == [row[0] for row in rows[1][1:]]  # both are stuck


def test_simulated_stream_drifts_from_its_batch(cli: Cli, record: Record, tmp_path: Path) -> None:
    """Up to batch K the simulated stream gives the records of one without a scenario."""
    done = {}
    for scenario in ("none", "unit_change"):
        home = tmp_path / scenario
        options = ("--home", home, "--source", "simulated", "--scenario", scenario)
        done[scenario] = [record("run-batch", *options, "--scenario-start", 2) for _ in range(3)]
        for each in done[scenario]:
            del each["push"]  # names the home
    assert done["none"][:2] == done["unit_change"][:2]
    assert done["none"][2]["decision"] != done["unit_change"][2]["decision"]


def test_without_data_the_simulated_table_is_used_and_told(
    cli: Cli, home: Path, tmp_path: Path, published: Published
) -> None:
    """With no table and no inbox the run says in capitals that its data is simulated."""
    told, run = cli("run-batch", "--home", tmp_path / "new").stderr.splitlines()
    assert told == "SIMULATED DATA: these are not measurements of real wines"
    assert " info run outcome=processed " in run
    shown = published(tmp_path / "new")
    assert build_dataset(shown) == "simulated"
    assert "SIMULATED DATA" in cli("status", "--home", tmp_path / "new").stdout


def test_simulated_model_is_told_with_every_batch(
    cli: Cli, tmp_path: Path, wines: Wines, published: Published
) -> None:
    """A file judged by a model of simulated wines is told as such, on stderr and in the metrics."""
    home = tmp_path / "new"
    cli("run-batch", "--home", home, "--source", "simulated")
    told = cli("run-batch", wines("a.csv"), "--home", home).stderr
    assert build_dataset(published(home)) == "simulated"
    assert "SIMULATED DATA" in told


# --- its schedule ---


def test_a_run_tells_of_its_schedule(tmp_path: Path, samples: Samples) -> None:
    """When the next one is due, and what was due and is not there, whoever starts the runs."""
    home = tmp_path / "home"
    options = {"home": str(home), "cron": "*/10 * * * *", "source": "simulated", "rounds": 5}
    noon, shown = 1_767_268_800.0, []
    for start in (noon, noon + 600, noon + 3605):
        clock = count(start)  # each look is a second later
        report = run_batch(load_settings(options, {}), now=partial(next, clock))
        assert report.run is not None and report.run["schedule"] == "*/10 * * * * UTC"
        found = samples((home / "metrics" / "wine_drift.prom").read_text())
        shown.append({key[0]: value for key, value in found.items() if key[1:] == ("red_wine",)})
    assert [each["wine_drift_runs_missed_total"] for each in shown] == [0, 0, 4]
    assert [each["wine_drift_runs_skipped_total"] for each in shown] == [0, 0, 0]
    assert {each["wine_drift_schedule_interval_seconds"] for each in shown} == {600}
    due = [each["wine_drift_next_run_timestamp_seconds"] - noon for each in shown]
    assert due == [600, 1200, 4200]


def test_a_dry_run_tells_of_no_run(home: Path, red_wine_csv: Path) -> None:
    """Nothing was recorded of it, so nothing counts as its schedule."""
    options = {"home": str(home), "data": str(red_wine_csv), "dry_run": True}
    assert run_batch(load_settings(options, {})).run is None


# --- training by hand ---


def test_train_first_on_the_whole_table(
    cli: Cli, record: Record, red_wine_csv: Path, tmp_path: Path
) -> None:
    """`train` uses every row, with the honest figures of grouped folds; no stream is left."""
    home = tmp_path / "home"
    done = record("train", "--home", home, "--data", red_wine_csv)
    assert done["outcome"] == "trained" and done["push"]["status"] == "ok"
    manifest = json.loads(cli("models", "show", "--home", home).stdout)
    assert manifest["version"] == done["model"]["version"]
    table = pd.read_csv(red_wine_csv, sep=";")
    assert manifest["training_rows"] == len(table.drop_duplicates())
    assert manifest["out_of_fold"]["roc_auc"] == pytest.approx(0.87, abs=0.03)
    assert manifest["out_of_fold"]["log_loss"] == pytest.approx(0.275, abs=0.02)
    after = record("run-batch", "--home", home, "--data", red_wine_csv)
    assert after["outcome"] == "end_of_stream"


def test_train_waits_for_labels(cli: Cli, record: Record, home: Path, published: Published) -> None:
    """With a champion and too few new labels `train` says what it waits for, and trains nothing."""
    assert record("train", "--home", home)["outcome"] == "waiting_for_labels"
    told = cli("train", "--home", home)
    assert "too few labelled rows" in told.stdout
    shown = published(home)
    assert [v for key, v in shown.items() if key[0] == "wine_drift_retrains_total"] == [0.0] * 20


def test_train_by_hand_goes_through_the_gate(
    record: Record, home: Path, wines: Wines, published: Published
) -> None:
    """With labels enough `train` tries a challenger and counts it as manual."""
    record("run-batch", wines("a.csv", 0, 300), "--home", home, "--retrain", "never")
    part = record("train", "--home", home)["retraining"]
    assert part["reason"] == "manual" and part["outcome"] in {"promoted", "rejected"}
    assert published(home)["wine_drift_retrains_total", part["outcome"], "manual"] == 1


def test_too_small_a_table_is_told(cli: Cli, tmp_path: Path, wines: Wines) -> None:
    """A table that no model can be trained on is a mistake in the settings, not a bug."""
    told = cli("train", "--home", tmp_path / "home", "--data", wines("a.csv", 0, 20), code=2)
    assert "training needs" in told.stderr


# --- the same again ---


def test_equal_homes(record: Record, red_wine_csv: Path, tmp_path: Path, kept: Kept) -> None:
    """Two homes with the same settings and inputs keep the same bytes, times apart."""
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        options = ("--home", home, "--data", red_wine_csv, "--scenario", "label_flip")
        done = [record("run-batch", *options, "--scenario-start", 1) for _ in range(3)]
    promoted = [r["retraining"] for r in done if r["retraining"]]
    first, second = map(kept, homes)
    assert first == second and promoted
    models = [name for name in first["files"] if name.endswith("model.txt")]
    assert len(models) == 2


def test_accepted_rows_add_up(
    cli: Cli, record: Record, home: Path, wines: Wines, published: Published
) -> None:
    """Counters are sums over the records of the ledger."""
    for start in (0, 200, 400):
        cli("run-batch", wines(f"{start}.csv", start, start + 90), "--home", home)
    batches = json.loads(cli("status", "--home", home, "--json").stdout)["batches"]
    shown = published(home)
    assert shown[DONE] == len(batches) == 4
    assert shown["wine_drift_rows_total",] == np.sum([b["batch"]["accepted"] for b in batches])
    for reason in batches[0]["batch"]["set_aside"]:
        total = sum(b["batch"]["set_aside"][reason] for b in batches)
        assert shown["wine_drift_rows_rejected_total", reason] == total
