"""Labels that come after their batch: counted once, judged and learnt from as if in time."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn import metrics as sklearn_metrics

import wine_drift
from wine_drift.cli import main
from wine_drift.detector import Detector
from wine_drift.labels import add_labels
from wine_drift.ledger import Ledger
from wine_drift.locking import locked
from wine_drift.model import read_version
from wine_drift.run import run_batch
from wine_drift.settings import load_settings

Cli = Callable[..., Result]
Record = Callable[..., dict[str, Any]]
Wines = Callable[..., Path]
Published = Callable[[Path], dict[tuple[str, ...], float]]
Samples = Callable[[str], dict[tuple[str, ...], float]]
Kept = Callable[[Path], dict[str, Any]]
Rows = list[list[str]]  # cells as texts, the label last

LATE = ("wine_drift_late_labels_total",)
LAG = ("wine_drift_label_lag_seconds",)
UNLABELED_ROWS = ("wine_drift_unlabeled_rows",)
UNLABELED_BATCHES = ("wine_drift_unlabeled_batches",)
LABELED_BATCH = ("wine_drift_labeled_batch_number",)
MEASURES = ("log_loss", "roc_auc", "brier_score", "accuracy", "precision", "recall", "f1")
SAME_HOME = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# --- batches, and files of labels ---


def simulated(
    table: Path, out: Path, scenario: str, *options: object, n_batches: int
) -> list[Rows]:
    """Batches of the table as `simulate` writes them, as cells."""
    chosen = ("--scenario", scenario, "--batches", n_batches, "--out", out, *options)
    arguments = ["simulate", "--data", str(table), *map(str, chosen)]
    with contextlib.redirect_stdout(None):
        main(arguments, standalone_mode=False)
    return [
        [line.split(";") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        for path in sorted(out.iterdir())
    ]


@pytest.fixture(scope="module")
def calm(red_wine_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Rows]:
    """Five batches of the stream that the champion of `trained_home` has not seen."""
    out = tmp_path_factory.mktemp("calm")
    return simulated(red_wine_csv, out, "none", "--seed", 0, n_batches=15)[10:]


@pytest.fixture(scope="module")
def flipped(red_wine_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Rows]:
    """Three large batches whose answers are wrong, the features as usual."""
    options = ("--seed", 5, "--batch-rows", 340)
    return simulated(
        red_wine_csv, tmp_path_factory.mktemp("flip"), "label_flip", *options, n_batches=3
    )


@pytest.fixture(scope="module")
def switched(red_wine_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Rows]:
    """Three batches with major drift of the features."""
    options = ("--seed", 0, "--batch-rows", 200)
    return simulated(
        red_wine_csv, tmp_path_factory.mktemp("switch"), "switch", *options, n_batches=3
    )


@pytest.fixture(scope="module")
def stuck(red_wine_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """A batch with a sensor that gives one value only: a fault of the source."""
    return simulated(red_wine_csv, tmp_path_factory.mktemp("stuck"), "stuck", n_batches=1)[0]


@pytest.fixture(scope="module")
def columns(red_wine_csv: Path) -> list[str]:
    """Names of the columns, the label last."""
    return red_wine_csv.read_text(encoding="utf-8").splitlines()[0].replace('"', "").split(";")


@pytest.fixture
def table(columns: list[str], tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a batch file: `table("a.csv", rows)`, the labels only of those that `told`."""

    def write(
        name: str,
        rows: Rows,
        *,
        told: Callable[[int], bool] = lambda row: False,
        ids: Sequence[object] = (),
    ) -> Path:
        cells = [[*row[:-1], row[-1] if told(k) else ""] for k, row in enumerate(rows)]
        header = columns
        if ids:
            header = ["wine", *columns]
            cells = [[str(name), *row] for name, row in zip(ids, cells, strict=True)]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(";".join, [header, *cells, [""]])), encoding="utf-8")
        return path

    return write


def everything(row: int) -> bool:
    """Every label comes with the batch."""
    return True


def unlabelled(cells: list[str]) -> list[str]:
    """A line of the table with an empty label."""
    return [*cells[:-1], ""]


@pytest.fixture
def late(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of labels: `late(labels)`, with a column of names where `ids` are given."""

    def write(labels: Sequence[object], ids: Sequence[object] = (), name: str = "late.csv") -> Path:
        first, names = ("wine", ids) if len(ids) else ("remark", ["x"] * len(labels))
        lines = [f"{a};{b}" for a, b in zip(names, labels, strict=True)]
        path = tmp_path / name
        path.write_text("\n".join([f"{first};quality", *lines, ""]), encoding="utf-8")
        return path

    return write


Table = Callable[..., Path]
Late = Callable[..., Path]


def answers(rows: Rows) -> list[str]:
    """Labels of a batch, in its order."""
    return [row[-1] for row in rows]


def good_rows(rows: Rows) -> list[int]:
    """Rows that are scored: all but the repeats, by the program's own words for these batches."""
    seen: set[tuple[float, ...]] = set()
    kept = []
    for k, row in enumerate(rows):
        cells = tuple(map(float, row[:-1]))
        if cells not in seen:
            kept.append(k)
        seen.add(cells)
    return kept


# --- what a home knows ---


def dump(home: Path) -> list[str]:
    """The ledger as SQL, and every file beside it."""
    with contextlib.closing(sqlite3.connect(home / "ledger.sqlite")) as connection:
        ledger = list(connection.iterdump())
    files = sorted(path for path in home.rglob("*") if path.is_file())
    apart = {"ledger.sqlite"}
    return ledger + [f"{path} {path.read_bytes()!r}" for path in files if path.name not in apart]


def detector_of(home: Path, version: str | None = None) -> dict[str, Any]:
    """What the detector of a version knows; of unlabelled rows only that which tells of drift."""
    with Ledger.open(home, read_only=True) as ledger:
        champion = ledger.champion()
        assert champion is not None
        state = ledger.detector(version or champion["version"])
    assert state is not None
    detector = Detector.from_dict(state)
    return {
        "drift": state["drift"],
        "evidence": state["quality"]["evidence"],
        "pool": detector.quality.pool.answers.tolist(),
        "window": detector.quality.window.answers.tolist(),
        "waiting": detector.waiting.outcomes.answers.tolist(),
        "waiting_rows": state["waiting"]["profile"],
        "waiting_since": state["waiting_since"],
    }


def n_learnable(home: Path) -> tuple[int, int]:
    """Rows, and positive ones, that are new to the champion."""
    with Ledger.open(home, read_only=True) as ledger:
        return ledger.labelled_counts(after=ledger.learnt())


def n_waiting(home: Path, sequence: int) -> int:
    """Rows of a batch without a label."""
    with Ledger.open(home, read_only=True) as ledger:
        kept = ledger.scored(sequence)
    assert kept is not None
    return kept[0].n_waiting


def record_of(home: Path, sequence: int) -> dict[str, Any]:
    """Record of a batch, as the ledger has it."""
    with Ledger.open(home, read_only=True) as ledger:
        found = ledger.find(str(sequence))
    assert found is not None
    return found


def comparable(record: dict[str, Any], *apart: str) -> dict[str, Any]:
    """A record without what tells one file from another, and late labels from those in time."""
    apart = ("id", "labels", "push", *apart)
    parts = {key: value for key, value in record.items() if key not in apart}
    return parts | {"batch": {k: v for k, v in record["batch"].items() if k not in apart}}


def scored(home: Path, rows: Rows, version: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the good rows by a stored model, and whether each of them is positive."""
    with Ledger.open(home, read_only=True) as ledger:
        (manifest,) = [m for m in ledger.versions() if m["version"] == version]
    model = read_version(home / "models", manifest).model
    cells = np.array([rows[k] for k in good_rows(rows)], dtype=float)
    return model.score(cells[:, :-1]), cells[:, -1] > 6.5


def told(result: Result) -> str:
    """Read the only error of a result, and its remedy; a run adds its line of the log."""
    error, remedy, *log = result.stderr.splitlines()
    assert all(" error run " in line for line in log) and len(log) < 2
    assert error.startswith("error: ") and remedy.startswith("       ") and remedy.strip()
    return result.stderr


# --- late labels, and labels in time ---


@pytest.mark.parametrize(
    ("batches", "n_rows", "options", "apart"),
    [
        pytest.param(1, 100, (), (), id="one"),
        pytest.param(3, 100, (), (), id="three"),
        # what is decided is about the drift of the last batch, and not each of these judges it
        pytest.param(3, 30, (), ("decision",), id="three small ones"),
        pytest.param(3, 100, ("--min-rows", 200), ("decision",), id="three that wait"),
    ],
)
def test_late_labels_end_where_labels_in_time_do(
    record: Record,
    trained_home: Path,
    tmp_path: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
    published: Published,
    kept: Kept,
    batches: int,
    n_rows: int,
    options: tuple[object, ...],
    apart: tuple[str, ...],
) -> None:
    """Labels that come afterwards, in order, lead to the state that they lead to in time."""
    in_time, later = (Path(shutil.copytree(trained_home, tmp_path / name)) for name in "ab")
    chosen = [rows[:n_rows] for rows in calm[:batches]]
    for k, rows in enumerate(chosen):
        path = table(f"in time/{k}.csv", rows, told=everything)
        record("run-batch", path, "--home", in_time, *options)
        record("run-batch", table(f"later/{k}.csv", rows), "--home", later, *options)
    for k, rows in enumerate(chosen):
        done = record("add-labels", 2 + k, late(answers(rows)), "--home", later, *options)
        assert done["outcome"] == "labelled" and done["labels"]["rows"] == len(good_rows(rows))
    for k in range(batches):
        here, there = (record_of(home, 2 + k) for home in (in_time, later))
        assert comparable(there, *apart) == comparable(here, *apart)
        assert here["labels"] is None
        assert there["decision"] == here["decision"]
    assert detector_of(later) == detector_of(in_time)
    ends = [kept(home) for home in (in_time, later)]
    for part in ("rows", "versions", "champion", "next_sequence"):
        assert ends[0][part] == ends[1][part], part
    counters = [end["counters"] for end in ends]
    assert counters[1] == counters[0] | {("late_labels", ()): sum(map(len, map(good_rows, chosen)))}
    shown = [published(home) for home in (in_time, later)]
    for each in shown:
        each.pop(LATE), each.pop(LAG)
    assert shown[0] == shown[1]
    assert shown[0][LABELED_BATCH] == 1 + batches


def test_late_labels_tell_the_causes_of_drift(
    record: Record,
    trained_home: Path,
    tmp_path: Path,
    switched: list[Rows],
    table: Table,
    late: Late,
) -> None:
    """Under drift, causes that were unknown on arrival are told with the labels, as in time."""
    in_time, later = (Path(shutil.copytree(trained_home, tmp_path / name)) for name in "ab")
    options = ("--retrain", "never")
    for k, rows in enumerate(switched):
        path = table(f"in time/{k}.csv", rows, told=everything)
        record("run-batch", path, "--home", in_time, *options)
        path = table(f"later/{k}.csv", rows)
        done = record("run-batch", path, "--home", later, *options)
        assert done["drift"]["status"] == "major" and done["drift"]["causes"] == []
    for k, rows in enumerate(switched):
        record("add-labels", 2 + k, late(answers(rows)), "--home", later, *options)
        here, there = (record_of(home, 2 + k) for home in (in_time, later))
        assert comparable(there, "decision") == comparable(here, "decision")
        assert there["drift"]["causes"] == here["drift"]["causes"] != []
        assert "covariate_drift" in there["labels"]["decision"]["reasons"]
        assert "covariate_drift" not in there["decision"]["reasons"]
    assert detector_of(later) == detector_of(in_time)


def test_quality_is_that_of_sklearn(
    record: Record, home: Path, wines: Wines, published: Published
) -> None:
    """Measures of late labels are scikit-learn's on the model's scores, and are published."""
    path = wines("a.csv", 400, 700, edit=unlabelled)
    arrived = record("run-batch", path, "--home", home, "--retrain", "never")
    labels = wines("l.csv", 400, 700)
    done = record("add-labels", 2, labels, "--home", home, "--retrain", "never")
    rows = [line.split(";") for line in labels.read_text(encoding="utf-8").splitlines()[1:]]
    scores, positive = scored(home, rows, done["model"]["version"])
    predicted = scores >= done["quality"]["cut"]
    expected = {
        "log_loss": sklearn_metrics.log_loss(positive, scores),
        "roc_auc": sklearn_metrics.roc_auc_score(positive, scores),
        "brier_score": sklearn_metrics.brier_score_loss(positive, scores),
        "accuracy": sklearn_metrics.accuracy_score(positive, predicted),
        "precision": sklearn_metrics.precision_score(positive, predicted),
        "recall": sklearn_metrics.recall_score(positive, predicted),
        "f1": sklearn_metrics.f1_score(positive, predicted),
    }
    quality = done["quality"]
    assert {name: quality[name] for name in MEASURES} == pytest.approx(expected, abs=1e-9)
    gap = expected["log_loss"] - entropy(np.stack([scores, 1 - scores])).mean()
    assert quality["log_loss_gap"] == pytest.approx(gap, abs=1e-9) and abs(gap) > 1e-3
    assert done["batch"]["labelled"] == len(scores) < 300
    assert done["batch"]["positive"] == positive.sum()
    promised = ("mean_score", "expected_log_loss", "expected_roc_auc", "cut", "reference")
    assert all(quality[name] == arrived["quality"][name] for name in promised)
    shown = published(home)
    for name, metric in (("log_loss", "model_logloss"), ("roc_auc", "model_roc_auc")):
        assert shown[f"wine_drift_{metric}", "current"] == quality[name]
        low, high = quality["intervals"][name]
        assert shown["wine_drift_model_bound", "lower", metric] == low < quality[name]
        assert shown["wine_drift_model_bound", "upper", metric] == high > quality[name]
    assert shown["wine_drift_model_logloss_gap",] == quality["log_loss_gap"]
    assert shown["wine_drift_target_ratio",] == positive.mean()
    assert shown["wine_drift_model_quality_evidence",] == quality["log10_evidence"]


# --- once ---


@pytest.mark.parametrize("when", ["late", "in part", "in time"])
def test_twice_changes_nothing(
    cli: Cli, record: Record, home: Path, calm: list[Rows], table: Table, late: Late, when: str
) -> None:
    """Labels that are known leave ledger and files as they are, byte for byte."""
    rows = calm[0]
    path = table("a.csv", rows, told=everything if when == "in time" else lambda row: False)
    record("run-batch", path, "--home", home)
    labels = late([row[-1] if k < 40 or when != "in part" else "" for k, row in enumerate(rows)])
    if when != "in time":
        assert record("add-labels", 2, labels, "--home", home)["outcome"] == "labelled"
    before, known = dump(home), record_of(home, 2)
    again = record("add-labels", 2, labels, "--home", home)
    assert again == known | {"outcome": "already_labelled", "push": again["push"]}
    text = cli("add-labels", 2, labels, "--home", home).stdout
    assert "no label of it was open: nothing was changed" in text
    assert dump(home) == before


def test_a_batch_is_found_by_its_id_too(
    cli: Cli, record: Record, home: Path, calm: list[Rows], table: Table, late: Late
) -> None:
    """The start of the id is as good as the number, and the text tells what came when."""
    arrived = record("run-batch", table("a.csv", calm[0]), "--home", home)
    text = cli("add-labels", arrived["batch"]["id"][:8], late(answers(calm[0])), "--home", home)
    n_rows = len(good_rows(calm[0]))
    assert f"{n_rows} scored, {n_rows} labelled" in text.stdout
    came = f"\\n  labels     {n_rows} came 0 min after the batch; log loss is "
    line = came + r"\d\.\d{3} (above|below) what the scores promised"
    assert re.search(line, text.stdout) and re.search(
        line, cli("explain", 2, "--home", home).stdout
    )


# --- in parts ---


def test_parts_come_to_the_whole(
    record: Record,
    trained_home: Path,
    tmp_path: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
    published: Published,
    kept: Kept,
) -> None:
    """Two parts that are too few to be judged alone end in the state of all labels at once."""
    rows, good = calm[0], good_rows(calm[0])
    whole, parts = (Path(shutil.copytree(trained_home, tmp_path / name)) for name in "ab")
    for home in (whole, parts):
        record("run-batch", table("a.csv", rows), "--home", home)
    record("add-labels", 2, late(answers(rows)), "--home", whole)

    start = published(parts)
    assert start[UNLABELED_ROWS] == n_waiting(parts, 2) == len(good)
    assert start[UNLABELED_BATCHES] == 1 and start[LATE] == 0 and start[LABELED_BATCH] == 1
    first = [label if k % 2 else "" for k, label in enumerate(answers(rows))]
    known = [k for k in good if k % 2]
    assert len(known) < 50 and len(good) - len(known) < 50  # min_rows
    before = n_learnable(parts)[0]
    done = record("add-labels", 2, late(first), "--home", parts)
    scores, positive = scored(parts, [rows[k] for k in known], done["model"]["version"])
    assert done["quality"]["log_loss"] == pytest.approx(
        sklearn_metrics.log_loss(positive, scores), abs=1e-12
    )
    assert done["batch"]["labelled"] == done["labels"]["rows"] == len(known)
    assert done["quality"]["judged_rows"] == len(known)
    assert done["quality"]["status"] == "not_judged" and done["quality"]["p_value"] is None
    assert n_learnable(parts)[0] - before == len(known)
    shown = published(parts)
    assert shown[UNLABELED_ROWS] == n_waiting(parts, 2) == len(good) - len(known)
    assert shown[UNLABELED_BATCHES] == 1
    assert shown[LATE] == len(known) and shown[LABELED_BATCH] == 2
    assert shown["wine_drift_model_logloss", "current"] == done["quality"]["log_loss"]

    record("add-labels", 2, late(answers(rows)), "--home", parts)  # the first ones once more
    shown = published(parts)
    assert shown[UNLABELED_ROWS] == n_waiting(parts, 2) == 0 and shown[UNLABELED_BATCHES] == 0
    assert ("wine_drift_unlabeled_since_timestamp_seconds",) not in shown
    assert shown[LATE] == len(good)
    one, two = (record_of(home, 2) for home in (whole, parts))
    assert comparable(two) == comparable(one)
    assert two["labels"]["rows"] == len(good) - len(known)
    assert two["decision"] == one["decision"]
    assert detector_of(parts) == detector_of(whole)
    windows = [kept(home)["rows"] for home in (whole, parts)]
    learnt = [Counter(zip(map(tuple, x), y, s, strict=True)) for x, y, s in windows]
    assert learnt[0] == learnt[1] and max(learnt[0].values()) == 1


def test_each_part_is_judged_once(
    record: Record,
    trained_home: Path,
    tmp_path: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
) -> None:
    """Parts that are enough are judged as two batches of these rows; quality is told of all."""
    joined = calm[0] + calm[1]
    rows = [joined[k] for k in good_rows(joined)]
    half = len(rows) // 2
    apart, together = (Path(shutil.copytree(trained_home, tmp_path / name)) for name in "ab")
    for name, part in (("1.csv", rows[:half]), ("2.csv", rows[half:])):
        in_time = record("run-batch", table(name, part, told=everything), "--home", apart)
    record("run-batch", table("a.csv", rows), "--home", together)
    labels = answers(rows)
    for part in ([*labels[:half], *[""] * (len(rows) - half)], labels):
        done = record("add-labels", 2, late(part), "--home", together)
    judged = ("status", "judged_rows", "p_value", "log10_evidence", "recent_log_loss")
    tests = ("log_loss_p_value", "roc_auc_p_value", "calibration_p_value")
    for key in (*judged, *tests):
        assert done["quality"][key] == in_time["quality"][key], key
    assert done["quality"]["judged_rows"] == done["labels"]["rows"] == len(rows) - half >= 50
    quality = ("evidence", "pool", "window", "waiting")
    ends = [detector_of(home) for home in (apart, together)]
    assert [ends[0][key] for key in quality] == [ends[1][key] for key in quality]
    scores, positive = scored(together, rows, done["model"]["version"])
    all_of_them = sklearn_metrics.log_loss(positive, scores)
    assert done["quality"]["log_loss"] == pytest.approx(all_of_them, abs=1e-12)


def test_labels_of_two_batches_wait_for_each_other(
    record: Record, home: Path, calm: list[Rows], table: Table, late: Late
) -> None:
    """Too few labels wait in the ledger, and are judged with those of another batch, once."""
    for k, rows in enumerate(calm[:2]):
        record("run-batch", table(f"{k}.csv", rows), "--home", home)
    few = [[label if k < 35 else "" for k, label in enumerate(answers(rows))] for rows in calm[:2]]
    counts = [sum(k < 35 for k in good_rows(rows)) for rows in calm[:2]]
    first = record("add-labels", 2, late(few[0]), "--home", home)["quality"]
    assert (first["status"], first["judged_rows"]) == ("not_judged", counts[0])
    assert np.sum(detector_of(home)["waiting"]) == counts[0]
    second = record("add-labels", 3, late(few[1]), "--home", home)["quality"]
    assert second["status"] != "not_judged" and second["judged_rows"] == sum(counts)
    assert np.sum(detector_of(home)["waiting"]) == 0


def test_labels_that_came_with_the_batch_are_not_judged_again(
    record: Record, home: Path, calm: list[Rows], table: Table, late: Late, published: Published
) -> None:
    """Of a batch that came with some labels, only the others are late, new and judged."""
    rows, good = calm[0], good_rows(calm[0])
    path = table("a.csv", rows, told=lambda row: row < 60)
    arrived = record("run-batch", path, "--home", home)
    early = sum(k < 60 for k in good)
    pool = np.sum(detector_of(home)["pool"])
    assert arrived["quality"]["judged_rows"] == arrived["batch"]["labelled"] == early >= 50
    learnt = n_learnable(home)[0]
    assert n_waiting(home, 2) == len(good) - early
    done = record("add-labels", 2, late(answers(rows)), "--home", home)
    assert done["labels"]["rows"] == len(good) - early < 50
    assert done["quality"]["judged_rows"] == early  # the verdict stays until there are more
    assert done["batch"]["labelled"] == len(good)
    assert published(home)[LATE] == n_learnable(home)[0] - learnt == len(good) - early
    state = detector_of(home)
    assert np.sum(state["pool"]) == pool and np.sum(state["waiting"]) == len(good) - early


# --- by the order of rows ---


def test_set_aside_rows_keep_their_place(
    record: Record,
    trained_home: Path,
    tmp_path: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
    kept: Kept,
) -> None:
    """Repeats and faulty rows take a line of the label file, and what it says of them is unused."""
    rows = [list(row) for row in calm[0]]
    rows[3:3] = [list(rows[0]), list(rows[1])]  # repeats
    rows[20][8] = "three"  # pH
    rows[40][8] = ""
    rows[41][10] = "500"  # alcohol
    rows[-1][0] = "1e999"
    in_time, later = (Path(shutil.copytree(trained_home, tmp_path / name)) for name in "ab")
    here = record("run-batch", table("in time/a.csv", rows, told=everything), "--home", in_time)
    arrived = record("run-batch", table("later/a.csv", rows), "--home", later)
    aside = arrived["batch"]["set_aside"]
    for reason, least in (("text", 1), ("missing", 1), ("out_of_range", 1), ("infinite", 1)):
        assert aside[reason] == least
    assert aside["duplicate"] >= 2 and arrived["batch"]["accepted"] < len(rows) - 5
    labels = answers(rows)
    labels[3], labels[20], labels[-1] = "9", "0", ""
    there = record("add-labels", 2, late(labels), "--home", later)
    assert comparable(record_of(later, 2)) == comparable(here)
    assert there["labels"]["rows"] == arrived["batch"]["accepted"]
    assert detector_of(later) == detector_of(in_time)
    assert kept(later)["rows"] == kept(in_time)["rows"]
    features, positive, numbers = kept(later)["rows"]
    mine = {(tuple(map(float, row[:-1])), float(row[-1]) > 6.5) for row in calm[0]}
    found = [(tuple(x), y) for x, y, n in zip(features, positive, numbers, strict=True) if n == 2]
    assert len(found) == arrived["batch"]["accepted"] and set(found) <= mine


def test_rows_beyond_the_window_are_judged_and_not_learnt(
    record: Record,
    home: Path,
    flipped: list[Rows],
    table: Table,
    late: Late,
    kept: Kept,
) -> None:
    """Of a batch larger than the window its last rows are learnt, with their labels."""
    rows, bound = flipped[0], ("--window-rows", 100, "--retrain", "never", "--home")
    record("run-batch", table("a.csv", rows), *bound, home)
    first = [label if k % 3 else "" for k, label in enumerate(answers(rows))]
    for labels in (first, answers(rows)):
        done = record("add-labels", 2, late(labels), *bound, home)
    good = good_rows(rows)
    assert done["batch"]["labelled"] == len(good) > 200
    features, positive, numbers = kept(home)["rows"]
    found = {
        (*x, y) for x, y, number in zip(features, positive, numbers, strict=True) if number == 2
    }
    last = {(*map(float, rows[k][:-1]), float(rows[k][-1]) > 6.5) for k in good[-100:]}
    with Ledger.open(home, read_only=True) as ledger:
        champion = read_version(home / "models", ledger.champion() or {}).rows
    seen = {(*x, y) for x, y in zip(champion.features.tolist(), champion.positive, strict=True)}
    assert found == last - seen and len(found) > 50


# --- by name ---


def test_labels_by_name(
    record: Record,
    trained_home: Path,
    tmp_path: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
    kept: Kept,
) -> None:
    """Shuffled parts of named labels, spaces around, end where labels in the rows' order do."""
    rows, names = calm[0], [f"cask {k}" for k in range(100)]
    by_order, by_name = (Path(shutil.copytree(trained_home, tmp_path / name)) for name in "ab")
    options = ("--row-id", "wine", "--home")
    record("run-batch", table("a.csv", rows, ids=names), *options, by_order)
    record("run-batch", table("a.csv", rows, ids=names), *options, by_name)
    shuffled = random.Random(7).sample(range(100), 100)
    for chosen in (shuffled[:45], shuffled[45:]):
        part = late([rows[k][-1] for k in chosen], [f" {names[k]} " for k in chosen])
        done = record("add-labels", 2, part, *options, by_name)
        assert done["labels"]["rows"] == len(set(chosen) & set(good_rows(rows)))
    labels = answers(rows)
    for part in ([x if k in shuffled[:45] else "" for k, x in enumerate(labels)], labels):
        record("add-labels", 2, late(part), "--home", by_order)
    one, two = (record_of(home, 2) for home in (by_order, by_name))
    apart = {"added_at": 0, "lag_seconds": 0}
    assert two | {"labels": two["labels"] | apart} == one | {"labels": one["labels"] | apart}
    assert detector_of(by_name) == detector_of(by_order)
    assert kept(by_name)["rows"] == kept(by_order)["rows"]
    assert n_waiting(by_name, 2) == 0


def test_numbers_as_names(
    record: Record, home: Path, calm: list[Rows], table: Table, late: Late
) -> None:
    """17 is the row named 17, also where a row without a name makes pandas read 17.0."""
    rows, good = calm[0], good_rows(calm[0])
    nameless = good[5]
    names = ["" if k == nameless else k + 17 for k in range(100)]
    record("run-batch", table("a.csv", rows, ids=names), "--row-id", "wine", "--home", home)
    chosen = [k for k in range(99, -1, -1) if k != nameless]
    part = late([rows[k][-1] for k in chosen], [names[k] for k in chosen])
    done = record("add-labels", 2, part, "--row-id", "wine", "--home", home)
    labelled = [rows[k] for k in good if k != nameless]
    assert done["batch"]["labelled"] == len(labelled) and n_waiting(home, 2) == 1
    scores, positive = scored(home, labelled, done["model"]["version"])
    auc = sklearn_metrics.roc_auc_score(positive, scores)
    assert done["quality"]["roc_auc"] == pytest.approx(auc, abs=1e-12)


@pytest.mark.parametrize("asked", ["not at all", "of the labels only", "of the batch only"])
def test_order_counts_without_names(
    record: Record, home: Path, calm: list[Rows], table: Table, late: Late, asked: str
) -> None:
    """Without row_id, or without the column in either file, names are nothing and order counts."""
    rows, names = calm[0], [f"cask {k}" for k in range(100)]
    by_name = ("--row-id", "wine")
    batch = by_name if asked == "of the batch only" else ()
    labels = by_name if asked == "of the labels only" else ()
    ids = names if asked == "of the batch only" else ()
    record("run-batch", table("a.csv", rows, ids=ids), *batch, "--home", home)
    misleading = () if labels else names[::-1]
    done = record("add-labels", 2, late(answers(rows), misleading), *labels, "--home", home)
    scores, positive = scored(home, rows, done["model"]["version"])
    loss = sklearn_metrics.log_loss(positive, scores)
    assert done["quality"]["log_loss"] == pytest.approx(loss, abs=1e-12)


def test_features_tell_that_rows_are_others(
    cli: Cli, record: Record, home: Path, calm: list[Rows], table: Table
) -> None:
    """Labels with features are in the order of the batch; written otherwise or empty these fit."""
    rows = calm[0]
    record("run-batch", table("a.csv", rows), "--home", home)
    for other in ([*rows[1:], rows[0]], rows[::-1], [rows[1], rows[0], *rows[2:]]):
        stderr = cli(
            "add-labels", 2, table("l.csv", other, told=everything), "--home", home, code=3
        ).stderr
        assert "l.csv: row 1, column 'fixed acidity'" in stderr
        assert f"{float(other[0][0])}" in stderr and "of the batch has there" in stderr
        assert n_waiting(home, 2) > 0
    same = [["", f"{float(row[1]):.6f}", *row[2:]] for row in rows]
    done = record("add-labels", 2, table("l.csv", same, told=everything), "--home", home)
    assert done["batch"]["labelled"] == done["batch"]["accepted"] > 0


@pytest.mark.parametrize(
    ("names", "line", "problem"),
    [
        pytest.param(["cask 1", "cask 2", "cask 7x"], 3, "'cask 7x'", id="unknown"),
        pytest.param(["cask 1", "cask 2", "cask 1"], 3, "'cask 1'", id="twice in the file"),
        pytest.param(["cask 1", "twin"], 2, "'twin'", id="twice in the batch"),
        pytest.param(["cask 1", "", "cask 3"], 2, "no name", id="empty"),
        pytest.param(["Cask 1"], 1, "'Cask 1'", id="other letters"),
    ],
)
def test_names_that_do_not_fit(
    cli: Cli,
    record: Record,
    home: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
    names: list[str],
    line: int,
    problem: str,
) -> None:
    """A name that is not that of one row is told with file and row, and nothing of it is used."""
    ids = [f"cask {k}" if k not in (50, 60) else "twin" for k in range(100)]
    record("run-batch", table("a.csv", calm[0], ids=ids), "--row-id", "wine", "--home", home)
    before = dump(home)
    arguments = ("add-labels", 2, late(["5"] * len(names), names), "--home", home)
    error = told(cli(*arguments, "--row-id", "wine", code=3))
    assert f"late.csv: row {line}: " in error and problem in error
    assert "name each row once" in error
    assert dump(home) == before


# --- mistakes ---


@pytest.fixture(scope="module")
def waiting_home(
    trained_home: Path, calm: list[Rows], columns: list[str], tmp_path_factory: Any
) -> Path:
    """Batch 2 came with its first ten labels, 3 is in quarantine. Not to be written to."""
    folder = tmp_path_factory.mktemp("waiting")
    home = Path(shutil.copytree(trained_home, folder / "home"))
    lines = [columns] + [[*r[:-1], r[-1] if k < 10 else ""] for k, r in enumerate(calm[0])]
    (folder / "a.csv").write_text("\n".join(map(";".join, lines)) + "\n", encoding="utf-8")
    (folder / "bad.csv").write_text("a;b\n1;2\n", encoding="utf-8")
    for name in ("a.csv", "bad.csv"):
        with contextlib.redirect_stdout(None), contextlib.suppress(Exception, SystemExit):
            main(["run-batch", str(folder / name), "--home", str(home)], standalone_mode=False)
    with Ledger.open(home, read_only=True) as ledger:
        assert [r["outcome"] for r in ledger.records(9)] == [
            "processed",
            "processed",
            "quarantined",
        ]
    return home


def with_cell(rows: Rows, row: int, cell: str) -> list[str]:
    """The labels of a batch with one of them another."""
    return [*answers(rows)[:row], cell, *answers(rows)[row + 1 :]]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        pytest.param(lambda rows: answers(rows)[:99], "99 rows, but the batch had 100", id="short"),
        pytest.param(lambda rows: [*answers(rows), "5"], "101 rows, but", id="long"),
        pytest.param(lambda rows: [], "0 rows, but the batch had 100", id="none"),
        pytest.param(lambda rows: with_cell(rows, 30, "good"), "row 31, .*'good'", id="text"),
        pytest.param(lambda rows: with_cell(rows, 0, "11"), "row 1, .*'11", id="too high"),
        pytest.param(lambda rows: with_cell(rows, 99, "-1"), "row 100, .*'-1", id="too low"),
        pytest.param(lambda rows: with_cell(rows, 7, "inf"), "row 8, .*'inf'", id="infinite"),
        pytest.param(lambda rows: with_cell(rows, 7, "-1e999"), "row 8, .*'-", id="overflow"),
        pytest.param(
            lambda rows: with_cell(rows, 1, "9" if float(rows[1][-1]) < 6.5 else "3"),
            "row 2 of the batch has another label",
            id="contradiction",
        ),
    ],
)
def test_labels_that_do_not_fit(
    cli: Cli,
    waiting_home: Path,
    tmp_path: Path,
    calm: list[Rows],
    late: Late,
    labels: Callable[[Rows], list[str]],
    words: str,
) -> None:
    """A file with a mistake is told with file and row, and nothing of it is used."""
    assert good_rows(calm[0])[:2] == [0, 1]
    home = Path(shutil.copytree(waiting_home, tmp_path / "home"))
    before = dump(home)
    error = told(cli("add-labels", 2, late(labels(calm[0])), "--home", home, code=3))
    assert re.search(f"error: .*late.csv: {words}", error), error
    assert dump(home) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"wine;label\na;5\n", "no column 'quality'", id="no target"),
        pytest.param(None, "No such file", id="no file"),
        pytest.param(b"", "names no columns", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\xff", "not", id="picture"),
        pytest.param(b"wine;quality\na;5;6\n", "line 2", id="ragged"),
        pytest.param(b"quality;quality\n5;6\n", "'quality' is there 2 times", id="two targets"),
    ],
)
def test_files_that_are_no_labels(
    cli: Cli, waiting_home: Path, tmp_path: Path, content: bytes | None, words: str
) -> None:
    """What is no table with the target is told with its name, and nothing is changed."""
    home = Path(shutil.copytree(waiting_home, tmp_path / "home"))
    path = tmp_path / "late.csv"
    if content is not None:
        path.write_bytes(content)
    before = dump(home)
    code = 6 if content is None else 3
    error = told(cli("add-labels", 2, path, "--home", home, code=code))
    assert "late.csv" in error and words in error
    assert dump(home) == before


@pytest.mark.parametrize("batch", ["99", "0", "-1", "3", "", "fffff", "%", "' OR 1 --", "2.0"])
def test_batches_that_are_not_there(
    cli: Cli, waiting_home: Path, tmp_path: Path, calm: list[Rows], late: Late, batch: str
) -> None:
    """A number or id of no processed batch is told; a quarantined batch is none."""
    home = Path(shutil.copytree(waiting_home, tmp_path / "home"))
    before = dump(home)
    arguments = ("add-labels", "--home", home, "--", batch, late(answers(calm[0])))
    error = told(cli(*arguments, code=2))
    assert f"no processed batch {batch!r}" in error and "wine-drift status" in error
    assert dump(home) == before


def test_another_schema(
    cli: Cli, waiting_home: Path, tmp_path: Path, calm: list[Rows], late: Late
) -> None:
    """Labels that answer another question than the champion's are not taken."""
    home = Path(shutil.copytree(waiting_home, tmp_path / "home"))
    packaged = Path(wine_drift.__file__).with_name("data") / "red_wine.toml"
    text = packaged.read_text(encoding="utf-8")
    assert text.count('positive = "> 6.5"') == 1
    other = tmp_path / "other.toml"
    other.write_text(text.replace('positive = "> 6.5"', 'positive = "> 5.5"'), encoding="utf-8")
    before = dump(home)
    arguments = ("add-labels", 2, late(answers(calm[0])), "--home", home)
    assert "the schema is another" in told(cli(*arguments, "--schema", other, code=2))
    assert dump(home) == before


def test_a_home_without_a_ledger(cli: Cli, tmp_path: Path, late: Late) -> None:
    """Where there is no ledger there is no batch."""
    error = told(cli("add-labels", 1, late(["5"]), "--home", tmp_path / "new", code=2))
    assert str(tmp_path / "new") in error and "no ledger" in error


@pytest.mark.parametrize(
    ("bound", "remedy"),
    [(("--window-age", 2), "window_age"), (("--waiting-rows", 100), "waiting_rows")],
)
def test_labels_that_come_too_late(
    cli: Cli,
    record: Record,
    home: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
    published: Published,
    bound: tuple[object, ...],
    remedy: str,
) -> None:
    """Rows are forgotten by age and number; labels of such a batch are refused, later ones not."""
    for k, rows in enumerate(calm[:4]):
        record("run-batch", table(f"{k}.csv", rows), "--home", home, *bound)
    kept_rows = sum(len(good_rows(rows)) for rows in calm[2:4])
    assert published(home)[UNLABELED_BATCHES] == 2 and published(home)[UNLABELED_ROWS] == kept_rows
    before = dump(home)
    for batch in (2, 3):
        error = told(
            cli("add-labels", batch, late(answers(calm[batch - 2])), "--home", home, code=2)
        )
        assert f"batch {batch} is too old" in error and remedy in error
    assert dump(home) == before
    done = record("add-labels", 4, late(answers(calm[2])), "--home", home, *bound)
    assert done["outcome"] == "labelled"


def test_a_forgotten_batch_that_is_labelled_is_known(
    record: Record, home: Path, calm: list[Rows], table: Table, late: Late
) -> None:
    """Labels that came in time are known, also once the rows are gone."""
    bound = ("--window-age", 1)
    record("run-batch", table("0.csv", calm[0]), "--home", home, *bound)
    record("add-labels", 2, late(answers(calm[0])), "--home", home, *bound)
    record("run-batch", table("1.csv", calm[1]), "--home", home, *bound)
    with Ledger.open(home, read_only=True) as ledger:
        assert ledger.scored(2) is None
    before = dump(home)
    again = record("add-labels", 2, late(answers(calm[0])), "--home", home)
    assert again["outcome"] == "already_labelled" and dump(home) == before


def test_a_held_lock_is_5(
    cli: Cli, waiting_home: Path, tmp_path: Path, calm: list[Rows], late: Late
) -> None:
    """While another run holds the lock nothing is done; afterwards all is as usual."""
    home = Path(shutil.copytree(waiting_home, tmp_path / "home"))
    arguments = ("add-labels", 2, late(answers(calm[0])), "--home", home)
    before = dump(home)
    with locked(home):
        assert "another run" in told(cli(*arguments, code=5))
        assert dump(home) == before
    cli(*arguments)


# --- what serves now, and what served then ---


def test_labels_of_an_earlier_champion(
    record: Record,
    home: Path,
    calm: list[Rows],
    flipped: list[Rows],
    table: Table,
    late: Late,
    published: Published,
    kept: Kept,
) -> None:
    """Quality is that of the model that scored; no detector judges it, and the rows are learnt."""
    rows = calm[0]
    first = record("run-batch", table("old.csv", rows), "--home", home)["model"]["version"]
    for k in (0, 1):
        done = record("run-batch", table(f"{k}.csv", flipped[k], told=everything), "--home", home)
    second = done["retraining"]["challenger"]
    assert done["retraining"]["outcome"] == "promoted" and second != first
    assert n_learnable(home) == (0, 0)
    states = [detector_of(home, version) for version in (first, second)]
    shown = published(home)

    done = record("add-labels", 2, late(answers(rows)), "--home", home)
    assert done["model"]["version"] == first
    scores, positive = scored(home, rows, first)
    loss = sklearn_metrics.log_loss(positive, scores)
    assert done["quality"]["log_loss"] == pytest.approx(loss, abs=1e-12)
    others, _ = scored(home, rows, second)
    assert abs(sklearn_metrics.log_loss(positive, others) - loss) > 0.01
    assert done["quality"]["status"] == "not_judged" and done["retraining"] is None
    assert [detector_of(home, version) for version in (first, second)] == states

    champion = read_version(
        home / "models", kept(home)["manifests"][f"models/{second}/manifest.json"]
    )
    seen = {
        (*x, y)
        for x, y in zip(champion.rows.features.tolist(), champion.rows.positive, strict=True)
    }
    mine = [(*map(float, rows[k][:-1]), float(rows[k][-1]) > 6.5) for k in good_rows(rows)]
    new = [row for row in mine if row not in seen]
    assert n_learnable(home) == (len(new), sum(row[-1] for row in new))
    assert 10 <= len(new) < len(mine)
    after = published(home)
    assert after[LABELED_BATCH] == shown[LABELED_BATCH] == 4
    assert after[LATE] == len(mine)
    quality = [key for key in shown if "current" in key or key[0].startswith("wine_drift_model_")]
    assert len(quality) > 15 and [after[key] for key in quality] == [shown[key] for key in quality]
    few = ("--min-labelled", 10, "--min-positives", 4)
    tried = record("train", "--home", home, *few)["retraining"]
    assert tried["gate"]["rows"] == len({row[:-1] for row in new})


def test_labels_of_a_batch_at_fault(
    record: Record,
    home: Path,
    stuck: Rows,
    table: Table,
    late: Late,
    published: Published,
    kept: Kept,
) -> None:
    """What a broken source sent has a quality, and is neither judged nor learnt from."""
    arrived = record("run-batch", table("a.csv", stuck), "--home", home)
    assert arrived["decision"] == {"action": "hold", "reasons": ["data_fault"]}
    state, rows = detector_of(home), kept(home)["rows"]
    assert published(home)[UNLABELED_ROWS] == len(good_rows(stuck))
    first = [label if k % 2 else "" for k, label in enumerate(answers(stuck))]
    for labels in (first, answers(stuck)):
        done = record("add-labels", 2, late(labels), "--home", home)
        assert done["decision"] == arrived["decision"]
        assert detector_of(home) == state and kept(home)["rows"] == rows
    scores, positive = scored(home, stuck, done["model"]["version"])
    auc = sklearn_metrics.roc_auc_score(positive, scores)
    assert done["quality"]["roc_auc"] == pytest.approx(auc, abs=1e-12)
    assert done["quality"]["status"] == "not_judged" and done["quality"]["judged_rows"] == 0
    shown = published(home)
    assert shown["wine_drift_model_roc_auc", "current"] == done["quality"]["roc_auc"]
    assert shown[LATE] == len(good_rows(stuck)) and shown[UNLABELED_ROWS] == 0


def test_small_batches_found_at_fault_together(
    record: Record, home: Path, stuck: Rows, table: Table, late: Late, kept: Kept
) -> None:
    """Rows that waited, and were found at fault with those of the next batch, are not learnt."""
    arrived = record("run-batch", table("1.csv", stuck[:30]), "--home", home)
    assert arrived["drift"]["status"] == "not_judged" and arrived["drift"]["faults"] == []
    done = record("run-batch", table("2.csv", stuck[30:70]), "--home", home)
    assert done["decision"]["reasons"] == ["data_fault"]
    state, rows = detector_of(home), kept(home)["rows"]
    for batch, part in ((2, stuck[:30]), (3, stuck[30:70])):
        done = record("add-labels", batch, late(answers(part)), "--home", home)
        assert done["labels"]["rows"] == done["batch"]["labelled"] == len(good_rows(part))
    assert detector_of(home) == state and kept(home)["rows"] == rows


# --- what follows ---


@pytest.fixture(scope="module")
def alarmed_home(
    trained_home: Path,
    flipped: list[Rows],
    columns: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Batches 2 and 3 have wrong answers; the labels of 3 have not come. Not to be written to."""
    folder = tmp_path_factory.mktemp("alarmed")
    home = Path(shutil.copytree(trained_home, folder / "home"))
    for name, rows in zip(("2.csv", "3.csv"), flipped, strict=False):
        lines = [columns, *([*row[:-1], ""] for row in rows)]
        (folder / name).write_text("\n".join(map(";".join, lines)) + "\n", encoding="utf-8")
    labels = folder / "late.csv"
    labels.write_text("\n".join(["quality", *answers(flipped[0])]) + "\n", encoding="utf-8")
    with contextlib.redirect_stdout(None):
        for arguments in (
            ("run-batch", folder / "2.csv"),
            ("run-batch", folder / "3.csv"),
            ("add-labels", 2, labels),
        ):
            main([*map(str, arguments), "--home", str(home)], standalone_mode=False)
    return home


def test_a_drop_that_late_labels_tell_retrains(
    record: Record,
    alarmed_home: Path,
    tmp_path: Path,
    flipped: list[Rows],
    late: Late,
    published: Published,
) -> None:
    """One batch of wrong answers is held, the second confirms it; a challenger is tried once."""
    home = Path(shutil.copytree(alarmed_home, tmp_path / "home"))
    alarm = record_of(home, 2)
    assert alarm["quality"]["status"] == "drop" and alarm["retraining"] is None
    assert alarm["labels"]["decision"]["action"] == "hold"
    assert alarm["labels"]["decision"]["reasons"] == [
        "quality_drop",
        "concept_drift",
        "unconfirmed",
    ]
    assert alarm["decision"] == {"action": "keep", "reasons": ["no_drift"]}
    assert alarm["drift"]["causes"] == ["concept_drift"] and alarm["drift"]["status"] == "ok"
    labels = late(answers(flipped[1]))
    done = record("add-labels", 3, labels, "--home", home)
    assert done["quality"]["status"] == "drop"
    assert done["labels"]["decision"] == {
        "action": "retrain",
        "reasons": ["quality_drop", "concept_drift"],
    }
    part = done["retraining"]
    assert (part["reason"], part["outcome"]) == ("quality_drop", "promoted")
    assert record_of(home, 3)["retraining"] == part and record_of(home, 2)["retraining"] is None
    assert done["model"]["version"] == alarm["model"]["version"] != part["challenger"]
    assert n_learnable(home) == (0, 0)
    again = record("add-labels", 3, labels, "--home", home)
    assert again["outcome"] == "already_labelled" and again["retraining"] == part
    shown = published(home)
    tried = {key[1:]: n for key, n in shown.items() if key[0] == "wine_drift_retrains_total" and n}
    assert tried == {("promoted", "quality_drop"): 1}
    assert shown["wine_drift_model_info", "lightgbm", part["challenger"]] == 1
    with Ledger.open(home, read_only=True) as ledger:
        fresh = Detector.from_dict(ledger.detector(part["challenger"]) or {})
        champion = read_version(home / "models", ledger.champion() or {})
    assert fresh.to_dict() == Detector.fresh(champion.reference).to_dict()


def test_a_half_of_the_second_batch_confirms_too(
    record: Record, alarmed_home: Path, tmp_path: Path, flipped: list[Rows], late: Late
) -> None:
    """What confirms an alarm is another batch, not another part of the same one."""
    home = Path(shutil.copytree(alarmed_home, tmp_path / "home"))
    labels = [label if k % 2 else "" for k, label in enumerate(answers(flipped[1]))]
    done = record("add-labels", 3, late(labels), "--home", home, "--retrain", "never")
    assert done["labels"]["decision"]["reasons"] == [
        "quality_drop",
        "concept_drift",
        "retrain_never",
    ]
    done = record("add-labels", 3, late(answers(flipped[1])), "--home", home)
    assert done["labels"]["decision"]["action"] == "retrain"
    assert done["retraining"]["gate"]["rows"] > 400


def test_parts_of_one_batch_do_not_confirm_each_other(
    record: Record, home: Path, flipped: list[Rows], table: Table, late: Late
) -> None:
    """Two parts of one batch are one witness."""
    rows = flipped[0]
    record("run-batch", table("a.csv", rows), "--home", home)
    first = [label if k % 2 else "" for k, label in enumerate(answers(rows))]
    for labels in (first, answers(rows)):
        done = record("add-labels", 2, late(labels), "--home", home)
        assert done["quality"]["status"] == "drop" and done["retraining"] is None
        assert done["labels"]["decision"]["reasons"][-1] == "unconfirmed"
        arrival = {"action": "keep", "reasons": ["no_drift"]}
        assert done["decision"] == arrival


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No version can be written."""

    def fail(step: str) -> None:
        if step == "version: write":
            raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wine_drift.failpoints.hook", fail)
        yield


def test_failed_retraining_is_9_and_the_labels_count(
    cli: Cli,
    record: Record,
    alarmed_home: Path,
    tmp_path: Path,
    flipped: list[Rows],
    late: Late,
    published: Published,
) -> None:
    """When the challenger cannot be written, the labels are recorded and the champion serves on."""
    home, twin = (Path(shutil.copytree(alarmed_home, tmp_path / name)) for name in ("home", "twin"))
    labels = late(answers(flipped[1]))
    record("add-labels", 3, labels, "--home", twin)
    before = published(home)
    with full_disk():
        result = cli("add-labels", 3, labels, "--home", home, code=9)
    assert "retraining failed, the champion goes on serving" in told(result)
    done, n_rows = record_of(home, 3), len(good_rows(flipped[1]))
    assert done["retraining"]["outcome"] == "failed" and done["retraining"]["error"]
    assert done["batch"]["labelled"] == done["labels"]["rows"] == n_rows
    assert done["quality"] == record_of(twin, 3)["quality"]
    shown = published(home)
    assert shown["wine_drift_retrains_total", "failed", "quality_drop"] == 1
    assert shown[LATE] == before[LATE] + n_rows and shown[UNLABELED_ROWS] == 0
    assert shown["wine_drift_model_info", "lightgbm", done["model"]["version"]] == 1
    assert n_learnable(home)[0] > n_rows
    assert record("add-labels", 3, labels, "--home", home)["outcome"] == "already_labelled"
    assert record("train", "--home", home)["retraining"]["outcome"] == "promoted"


def test_failed_push_is_4_and_the_labels_count(
    cli: Cli,
    record: Record,
    trained_home: Path,
    tmp_path: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
    published: Published,
) -> None:
    """A push that fails is told and counted, and does not undo the labels."""
    reached, missed = (Path(shutil.copytree(trained_home, tmp_path / name)) for name in "ab")
    for home in (reached, missed):
        record("run-batch", table("a.csv", calm[0]), "--home", home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = "http://{}:{}".format(*probe.getsockname())
    labels = late(answers(calm[0]))
    record("add-labels", 2, labels, "--home", reached)
    sink = ("--pushgateway", nobody, "--push-deadline", 0.1)
    done = record("add-labels", 2, labels, "--home", missed, *sink, code=4)
    assert done["outcome"] == "labelled" and done["push"]["status"] == "failed"
    assert nobody in done["push"]["error"] and record_of(missed, 2)["push"] is None
    assert comparable(record_of(missed, 2)) == comparable(record_of(reached, 2))
    assert detector_of(missed) == detector_of(reached)
    shown = [published(home) for home in (reached, missed)]
    failures = ("wine_drift_push_failures_total", "connection")
    assert [each.pop(failures) for each in shown] == [0, 1]
    for each in shown:
        each.pop(LAG)
    assert shown[0] == shown[1]
    told(cli("push", "--home", missed, *sink, code=4))


def test_labels_are_no_run(
    record: Record, home: Path, calm: list[Rows], table: Table, late: Late
) -> None:
    """The last run, its times and its success stay those of the last batch."""
    record("run-batch", table("a.csv", calm[0]), "--home", home)
    with Ledger.open(home, read_only=True) as ledger:
        before = (ledger.snapshot().run, ledger.snapshot().last_success, ledger.next_sequence())
    record("add-labels", 2, late(answers(calm[0])), "--home", home)
    with Ledger.open(home, read_only=True) as ledger:
        after = (ledger.snapshot().run, ledger.snapshot().last_success, ledger.next_sequence())
    assert after == before


# --- lag, gap, and which batch is published ---


def test_lag_and_gap(
    home: Path, calm: list[Rows], table: Table, late: Late, samples: Samples
) -> None:
    """The lag is by the clocks of batch and labels; of several parts it is that of the last."""
    chosen = load_settings({"home": str(home)}, {})
    run_batch(chosen, table("a.csv", calm[0]), now=lambda: 1_000_000.0)
    rows, good = calm[0], good_rows(calm[0])
    half = late([x if k < 50 else "" for k, x in enumerate(answers(rows))])
    for path, at in ((half, 1_000_060.5), (late(answers(rows), name="rest.csv"), 1_007_200.25)):
        report = add_labels(chosen, "2", path, now=lambda at=at: at)
        assert report.error is None and report.record["labels"]["added_at"] == at
        assert report.record["labels"]["lag_seconds"] == at - 1_000_000
        known = [k for k in good if k < 50 or at > 1_001_000]
        scores, positive = scored(home, [rows[k] for k in known], report.record["model"]["version"])
        promised = entropy(np.stack([scores, 1 - scores])).mean()
        gap = sklearn_metrics.log_loss(positive, scores) - promised
        assert report.record["quality"]["log_loss_gap"] == pytest.approx(gap, abs=1e-12)
        text = (home / "metrics" / "wine_drift.prom").read_text(encoding="utf-8")
        shown = samples(text)
        assert shown["wine_drift_label_lag_seconds", "red_wine"] == at - 1_000_000
        assert shown["wine_drift_model_logloss_gap", "red_wine"] == pytest.approx(gap, abs=1e-9)
        since = shown.get(("wine_drift_unlabeled_since_timestamp_seconds", "red_wine"))
        assert since == (1_000_000 if at < 1_001_000 else None)
    early = add_labels(chosen, "2", half, now=lambda: 0.0)
    assert early.record["outcome"] == "already_labelled"


def test_labels_before_their_batch(home: Path, calm: list[Rows], table: Table, late: Late) -> None:
    """A clock that was put back gives no lag below zero."""
    chosen = load_settings({"home": str(home)}, {})
    run_batch(chosen, table("a.csv", calm[0]), now=lambda: 1_000_000.0)
    report = add_labels(chosen, "2", late(answers(calm[0])), now=lambda: 999_000.0)
    assert report.record["labels"]["lag_seconds"] == 0


def test_the_newest_labelled_batch_is_published(
    record: Record, home: Path, calm: list[Rows], table: Table, late: Late, published: Published
) -> None:
    """Quality is of the newest batch with a label; labels of an older one do not replace it."""
    for k, rows in enumerate(calm[:3]):
        record("run-batch", table(f"{k}.csv", rows), "--home", home)
    assert published(home)[LABELED_BATCH] == 1
    newer = record("add-labels", 3, late(answers(calm[1])), "--home", home)
    shown = published(home)
    assert shown[LABELED_BATCH] == 3 and shown["wine_drift_batch_number",] == 4
    assert shown["wine_drift_model_logloss", "current"] == newer["quality"]["log_loss"]
    assert shown["wine_drift_model_logloss_gap",] == newer["quality"]["log_loss_gap"]
    assert shown[LAG] == newer["labels"]["lag_seconds"] > 0
    older = record("add-labels", 2, late(answers(calm[0])), "--home", home)
    assert older["quality"]["log_loss"] != newer["quality"]["log_loss"]
    after = published(home)
    counted = {LATE, UNLABELED_ROWS, UNLABELED_BATCHES}
    assert {key for key in shown if after[key] != shown[key]} == counted
    assert after.keys() == shown.keys()
    assert after[UNLABELED_ROWS] == len(good_rows(calm[2])) and after[UNLABELED_BATCHES] == 1
    in_time = record("run-batch", table("4.csv", calm[3], told=everything), "--home", home)
    after = published(home)
    assert after[LABELED_BATCH] == 5 and after[LAG] == 0
    assert after["wine_drift_model_logloss", "current"] == in_time["quality"]["log_loss"]


# --- the next runs ---


def process(*arguments: object) -> dict[str, Any]:
    """Run a command in a process of its own and read its record."""
    command = [sys.executable, "-m", "wine_drift", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return dict(json.loads(done.stdout))


def test_the_next_run_uses_late_labels(
    record: Record,
    home: Path,
    tmp_path: Path,
    switched: list[Rows],
    table: Table,
    late: Late,
    published: Published,
) -> None:
    """Drift without labels waits for them; once they came, in other processes, a run retrains."""
    waiting = {"action": "hold", "reasons": ["drift_major", "waiting_for_labels"]}
    chosen = ("--min-labelled", 200, "--home")
    done = process("run-batch", table("0.csv", switched[0]), *chosen, home)
    assert done["decision"] == waiting
    never = Path(shutil.copytree(home, tmp_path / "never"))
    labels = late(answers(switched[0]))
    done = process("add-labels", 2, labels, *chosen, home, "--retrain", "never")
    assert (
        done["labels"]["decision"]["reasons"][-1] == "retrain_never" and done["retraining"] is None
    )
    assert n_learnable(home)[0] >= 200 > n_learnable(never)[0]
    path = table("1.csv", switched[1])
    assert record("run-batch", path, *chosen, never)["decision"] == waiting
    assert published(never)["wine_drift_waiting_for_labels",] == 1
    done = record("run-batch", path, *chosen, home)
    assert done["batch"]["labelled"] == 0
    assert done["decision"] == {"action": "retrain", "reasons": ["drift_major"]}
    assert done["retraining"]["gate"]["rows"] >= 200
    assert published(home)["wine_drift_waiting_for_labels",] == 0


def test_enough_labels_retrain_at_once(
    record: Record, home: Path, switched: list[Rows], table: Table, late: Late
) -> None:
    """Drift that waited for labels is answered by the call that brings enough of them."""
    chosen = ("--home", home, "--min-labelled", 300)
    for k in (0, 1):
        record("run-batch", table(f"{k}.csv", switched[k]), *chosen)
    first = record("add-labels", 2, late(answers(switched[0])), *chosen)
    assert n_learnable(home)[0] < 300
    assert (
        first["labels"]["decision"]["reasons"][-1] == "waiting_for_labels"
        and first["retraining"] is None
    )
    second = record("add-labels", 3, late(answers(switched[1])), *chosen)
    assert (
        second["labels"]["decision"]["action"] == "retrain"
        and second["retraining"]["gate"]["rows"] >= 300
    )
    assert second["retraining"]["reason"] == "drift_major"


def test_labels_of_an_older_batch_are_for_the_drift_of_now(
    record: Record,
    home: Path,
    calm: list[Rows],
    switched: list[Rows],
    table: Table,
    late: Late,
) -> None:
    """What is decided is about the last batch: labels of a calm one are enough for its drift."""
    chosen = ("--home", home, "--min-labelled", 300)
    record("run-batch", table("0.csv", calm[0]), *chosen)
    last = record("run-batch", table("1.csv", switched[0], told=everything), *chosen)
    assert last["drift"]["status"] == "major" and last["retraining"] is None
    assert last["decision"]["reasons"][-1] == "waiting_for_labels"
    done = record("add-labels", 2, late(answers(calm[0])), *chosen)
    assert done["drift"]["status"] == "ok"
    assert done["retraining"]["reason"] == "drift_major"
    assert done["retraining"]["gate"]["rows"] > 200


# --- any files ---


class Prepared:
    """Homes to start from, and the rows that came. Told in no more than a line by hypothesis."""

    def __init__(self, batches: list[Rows], start: Path, whole: Path) -> None:
        self.batches = batches
        self.start = start  # a copy of this one is written to
        self.whole = whole  # all labels came at once


@pytest.fixture
def two_batches(
    cli: Cli, trained_home: Path, tmp_path: Path, calm: list[Rows], table: Table, late: Late
) -> Prepared:
    """A home with two unlabelled batches, and one where their labels came."""
    prepared = Prepared(calm[:2], tmp_path / "start", tmp_path / "whole")
    shutil.copytree(trained_home, prepared.start)
    for k, rows in enumerate(prepared.batches):
        cli("run-batch", table(f"{k}.csv", rows), "--home", prepared.start)
    shutil.copytree(prepared.start, tmp_path / "whole")
    for k, rows in enumerate(prepared.batches):
        cli("add-labels", 2 + k, late(answers(rows)), "--home", tmp_path / "whole")
    return prepared


@settings(SAME_HOME, max_examples=10)
@given(
    parts=st.lists(st.sampled_from(range(3)), min_size=200, max_size=200),
    order=st.permutations(range(6)),
)
def test_the_order_of_parts_is_nothing_to_quality(
    record: Record,
    two_batches: Prepared,
    tmp_path: Path,
    late: Late,
    kept: Kept,
    parts: list[int],
    order: list[int],
) -> None:
    """However the labels of two batches are parted and sent, each quality is that of its labels."""
    whole, home = two_batches.whole, tmp_path / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(two_batches.start, home)
    for number in order:
        batch, part = divmod(number, 3)
        rows, mine = two_batches.batches[batch], parts[100 * batch :][:100]
        labels = [x if p == part else "" for x, p in zip(answers(rows), mine, strict=True)]
        done = record("add-labels", 2 + batch, late(labels), "--home", home)
        n_rows = sum(mine[k] == part for k in good_rows(rows))
        assert done["outcome"] == ("labelled" if n_rows else "already_labelled")
        assert not n_rows or done["labels"]["rows"] == n_rows
    one, two = kept(whole), kept(home)
    judged = {"judged_rows", "status", "log10_evidence", "recent_log_loss"}
    for here, there in zip(one["records"], two["records"], strict=True):
        assert there["batch"] == here["batch"] and there["model"] == here["model"]
        for key, figure in here["quality"].items():
            if key not in judged and not key.endswith("p_value"):
                assert there["quality"][key] == figure, key
    learnt = [
        Counter(zip(map(tuple, x), y, s, strict=True)) for x, y, s in (one["rows"], two["rows"])
    ]
    assert learnt[0] == learnt[1] and one["counters"] == two["counters"]
    states = [detector_of(place) for place in (whole, home)]
    answered = [np.add(state["pool"], state["waiting"]) for state in states]
    assert (answered[0] == answered[1]).all()
    assert states[0]["drift"] == states[1]["drift"]


CELLS = st.sampled_from(
    [
        "",
        "5",
        "8",
        "8.0",
        "7e0",
        "-1",
        "11",
        "inf",
        "nan",
        "x",
        "9" * 400,
        "1e999",
        "0x5",
        "'",
        "\u0665",
    ]
) | st.text(st.characters(codec="utf-8", exclude_characters='";,\r\n\0'), max_size=4)
NAMES = st.sampled_from(["cask 3", "cask 3 ", "", "3", "2.5", "-0", "\ud7ff", "nan", "True"])


@settings(SAME_HOME, max_examples=60)
@given(content=st.binary(max_size=80))
def test_any_bytes_change_nothing(
    cli: Cli, waiting_home: Path, tmp_path: Path, content: bytes
) -> None:
    """Bytes of any kind are refused in a sentence, and leave the ledger as it is."""
    refused(cli, waiting_home, tmp_path, content)


@settings(SAME_HOME, max_examples=100)
@given(
    header=st.lists(
        st.sampled_from(["quality", "wine", "pH", " quality", "Quality"]), min_size=1, max_size=3
    ),
    rows=st.lists(st.lists(CELLS | NAMES, min_size=1, max_size=3), max_size=6),
)
def test_any_table_of_a_few_rows_changes_nothing(
    cli: Cli, waiting_home: Path, tmp_path: Path, header: list[str], rows: Rows
) -> None:
    """A table that does not fit the batch is refused in a sentence, and leaves the ledger."""
    content = "\n".join([";".join(header), *map(";".join, rows), ""])
    refused(cli, waiting_home, tmp_path, content.encode("utf-8", "surrogatepass"))


def refused(cli: Cli, waiting_home: Path, tmp_path: Path, content: bytes) -> None:
    """A file of labels is refused, and nothing is changed."""
    home, path = tmp_path / "home", tmp_path / "late.csv"
    if not home.exists():
        shutil.copytree(waiting_home, home)
    path.write_bytes(content)
    before = (home / "ledger.sqlite").read_bytes()
    assert "late.csv" in told(cli("add-labels", 2, path, "--home", home, code=3))
    assert (home / "ledger.sqlite").read_bytes() == before


@pytest.fixture
def named_batch(
    cli: Cli, trained_home: Path, tmp_path: Path, calm: list[Rows], table: Table
) -> Path:
    """A home with an unlabelled batch whose rows have names."""
    home = Path(shutil.copytree(trained_home, tmp_path / "start"))
    assert {3, 90} <= set(good_rows(calm[0]))
    path = table("a.csv", calm[0], ids=[f"cask {k}" if k != 90 else "3" for k in range(100)])
    cli("run-batch", path, "--row-id", "wine", "--home", home)
    return home


@settings(SAME_HOME, max_examples=80)
@given(
    names=st.lists(NAMES | st.text(max_size=3), min_size=1, max_size=4),
    labels=st.lists(CELLS, min_size=4, max_size=4),
)
@example(names=["3", "cask 3 "], labels=["8", "5", "", ""])
@example(names=["cask 3", "cask 3 "], labels=["8", "5", "", ""])
def test_any_names_label_what_they_name(
    named_batch: Path, tmp_path: Path, names: list[str], labels: list[str]
) -> None:
    """A file with names labels the rows that it names, or is refused and changes nothing."""
    home, path = tmp_path / "home", tmp_path / "late.csv"
    if not home.exists():
        shutil.copytree(named_batch, home)
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    lines = [f"{name};{label}" for name, label in zip(quoted, labels, strict=False)]
    path.write_text("\n".join(["wine;quality", *lines, ""]), encoding="utf-8")
    before = (home / "ledger.sqlite").read_bytes()
    arguments = ("add-labels", str(path), "--row-id", "wine", "--home", str(home), "--json")
    result = CliRunner().invoke(main, [arguments[0], "2", *arguments[1:]])
    assert result.exit_code in (0, 3), result.exception
    if result.exit_code == 3 or json.loads(result.stdout)["outcome"] == "already_labelled":
        assert (home / "ledger.sqlite").read_bytes() == before
        assert result.exit_code == 0 or "late.csv" in told(result)
        return
    assert {name.strip() for name in names} <= {"cask 3", "3"}
    with Ledger.open(home, read_only=True) as ledger:
        kept_rows, _ = ledger.scored(2) or pytest.fail("the rows are gone")
    known = kept_rows.position[~np.isnan(kept_rows.positive)]
    expected = {"cask 3": 3, "3": 90}
    named = zip(names, labels, strict=False)
    assert {*known} == {expected[name.strip()] for name, label in named if label not in ("", "nan")}
    shutil.rmtree(home)


# --- names, repeats, and what stays as it was ---


def test_rows_seen_in_training_are_told_with_late_labels(
    record: Record, trained_home: Path, tmp_path: Path, wines: Wines
) -> None:
    """Quality that flatters the champion is told as such, also when the labels come late."""
    in_time, later = (Path(shutil.copytree(trained_home, tmp_path / name)) for name in "ab")
    labels = wines("l.csv")
    here = record("run-batch", labels, "--home", in_time)["batch"]["seen_in_training"]
    record("run-batch", wines("a.csv", edit=unlabelled), "--home", later)
    there = record("add-labels", 2, labels, "--home", later)["batch"]["seen_in_training"]
    assert there == here > 0


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e999"])
def test_infinite_names(
    cli: Cli, home: Path, calm: list[Rows], table: Table, late: Late, cell: str
) -> None:
    """A name that reads as infinity is a name, or at least no traceback."""
    names = [cell, *range(1, 100)]
    cli("run-batch", table("a.csv", calm[0], ids=names), "--row-id", "wine", "--home", home)
    cli("add-labels", 2, late(["5"], [cell]), "--row-id", "wine", "--home", home)


def test_infinite_names_of_labels(
    cli: Cli, home: Path, calm: list[Rows], table: Table, late: Late
) -> None:
    """A name that the batch does not have is refused, whatever it reads as."""
    names = list(range(100))
    cli("run-batch", table("a.csv", calm[0], ids=names), "--row-id", "wine", "--home", home)
    told(cli("add-labels", 2, late(["5"], ["inf"]), "--row-id", "wine", "--home", home, code=3))


@pytest.mark.parametrize(
    ("names", "named", "row"),
    [
        pytest.param(["7", "007", "A1"], "007", 1, id="another row gets the label"),
        pytest.param(["005", "007", "A1"], "007", 1, id="a name that is there is unknown"),
        pytest.param(["1.50", "1.5", "A1"], "1.50", 0, id="decimals"),
        pytest.param(
            ["9007199254740993", "9007199254740995", ""], "9007199254740993", 0, id="long"
        ),
    ],
)
def test_names_are_texts(
    cli: Cli,
    home: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
    names: list[str],
    named: str,
    row: int,
) -> None:
    """A name is what the file says, whatever else is in its column."""
    ids = [*names, *range(100, 197)]
    cli("run-batch", table("a.csv", calm[0], ids=ids), "--row-id", "wine", "--home", home)
    cli("add-labels", 2, late(["8"], [named]), "--row-id", "wine", "--home", home)
    with Ledger.open(home, read_only=True) as ledger:
        rows, _ = ledger.scored(2) or pytest.fail("the rows are gone")
    assert rows.position[~np.isnan(rows.positive)].tolist() == [row]


def test_one_column_with_empty_cells(
    cli: Cli, home: Path, calm: list[Rows], table: Table, tmp_path: Path
) -> None:
    """In a file with the labels alone, an empty line is a label that is not known yet."""
    cli("run-batch", table("a.csv", calm[0]), "--home", home)
    labels = [x if k % 2 else "" for k, x in enumerate(answers(calm[0]))]
    path = tmp_path / "late.csv"
    path.write_text("\n".join(["quality", *labels, ""]), encoding="utf-8")
    cli("add-labels", 2, path, "--home", home)


def test_a_home_without_a_ledger_stays_so(cli: Cli, tmp_path: Path, late: Late) -> None:
    """A mistyped home is told, and not made."""
    cli("add-labels", 1, late(["5"]), "--home", tmp_path / "new", code=2)
    assert not (tmp_path / "new").exists()


def test_a_dry_run_of_labels(
    cli: Cli,
    home: Path,
    calm: list[Rows],
    table: Table,
    late: Late,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the settings say that nothing is to be changed, nothing is."""
    cli("run-batch", table("a.csv", calm[0]), "--home", home)
    before = dump(home)
    monkeypatch.setenv("WINE_DRIFT_DRY_RUN", "true")
    main(
        ["add-labels", "2", str(late(answers(calm[0]))), "--home", str(home)], standalone_mode=False
    )
    assert dump(home) == before


@pytest.mark.parametrize("problem", ["another label", "no file"])
def test_labels_of_a_batch_that_came_with_them(
    cli: Cli, home: Path, calm: list[Rows], table: Table, late: Late, tmp_path: Path, problem: str
) -> None:
    """Also where every label is known, a file that is wrong is told."""
    cli("run-batch", table("a.csv", calm[0], told=everything), "--home", home)
    labels = ["9" if float(x) < 7 else "3" for x in answers(calm[0])]
    path = late(labels) if problem == "another label" else tmp_path / "nowhere.csv"
    told(cli("add-labels", 2, path, "--home", home, code=6 if problem == "no file" else 3))


def test_a_failed_retraining_is_told_once(
    cli: Cli,
    alarmed_home: Path,
    tmp_path: Path,
    flipped: list[Rows],
    late: Late,
) -> None:
    """The failure of an earlier call is not that of the next one, which retrains nothing."""
    home = Path(shutil.copytree(alarmed_home, tmp_path / "home"))
    first = late(["", "", *answers(flipped[1])[2:]])
    with full_disk():
        cli("add-labels", 3, first, "--home", home, code=9)
    cli("add-labels", 3, late(answers(flipped[1])), "--home", home, "--retrain", "never")


def test_causes_are_those_of_the_batch_itself(
    record: Record,
    home: Path,
    calm: list[Rows],
    switched: list[Rows],
    table: Table,
    late: Late,
) -> None:
    """A batch that has not drifted has no cause of drift, whatever came after it."""
    record("run-batch", table("a.csv", calm[0]), "--home", home)
    last = record("run-batch", table("b.csv", switched[0]), "--home", home)
    assert last["drift"]["status"] == "major"
    done = record("add-labels", 2, late(answers(calm[0])), "--home", home)
    assert done["drift"]["status"] == "ok" and done["drift"]["causes"] == []


@pytest.mark.parametrize("which", ["it", "the next"])
def test_a_decision_is_about_the_batch_that_it_is_told_of(
    record: Record, home: Path, calm: list[Rows], stuck: Rows, table: Table, late: Late, which: str
) -> None:
    """A batch at fault stays so once a good one came, and a good one when a bad one came."""
    pair = [stuck, calm[0]] if which == "it" else [calm[0], stuck]
    for k, rows in enumerate(pair):
        done = record("run-batch", table(f"{k}.csv", rows), "--home", home)
    arrived = record_of(home, 2)["decision"]
    done = record("add-labels", 2, late(answers(pair[0])), "--home", home)
    assert done["decision"] == arrived


def test_a_drop_stays_told_when_a_few_labels_follow(
    record: Record, home: Path, flipped: list[Rows], table: Table, late: Late, published: Published
) -> None:
    """Two more labels, too few to be judged, do not take back what the others told."""
    rows = flipped[0]
    record("run-batch", table("a.csv", rows), "--home", home)
    labels = ["", "", *answers(rows)[2:]]
    done = record("add-labels", 2, late(labels), "--home", home, "--retrain", "never")
    assert done["quality"]["status"] == "drop"
    evidence = published(home)["wine_drift_model_quality_evidence",]
    done = record("add-labels", 2, late(answers(rows)), "--home", home, "--retrain", "never")
    assert done["quality"]["status"] == "drop"
    assert published(home)["wine_drift_model_quality_evidence",] == evidence
    assert done["decision"]["reasons"] != ["concept_drift"]


def test_an_unjudged_quality_has_its_own_reason(
    record: Record, home: Path, stuck: Rows, table: Table, late: Late, published: Published
) -> None:
    """Plenty of labels that are not judged for another reason are not "too few"."""
    record("run-batch", table("a.csv", stuck), "--home", home)
    record("add-labels", 2, late(answers(stuck)), "--home", home)
    key = ("wine_drift_metric_undefined", "model_quality_level", "too few labelled rows")
    assert key not in published(home)


def test_nobody_waits_for_labels_that_came(
    record: Record, home: Path, switched: list[Rows], table: Table, late: Late, published: Published
) -> None:
    """Once late labels of an older batch led to a retraining, it no longer waits for labels."""
    for k, rows in enumerate(switched):
        record("run-batch", table(f"{k}.csv", rows), "--home", home)
    assert published(home)["wine_drift_waiting_for_labels",] == 1
    done = record("add-labels", 2, late(answers(switched[0])), "--home", home)
    assert done["retraining"] is not None
    assert published(home)["wine_drift_waiting_for_labels",] == 0


def test_a_repeat_with_its_label_still_to_come_counts_once(
    record: Record, home: Path, calm: list[Rows], table: Table, late: Late
) -> None:
    """A row that came twice, once without its label, is learnt once when the label comes."""
    rows = [calm[0][k] for k in good_rows(calm[0])][:60]
    before = n_learnable(home)[0]
    path = table("a.csv", [*rows, *rows[:30]], told=lambda row: row < 60)
    record("run-batch", path, "--home", home)
    record("add-labels", 2, late(answers([*rows, *rows[:30]])), "--home", home)
    assert n_learnable(home)[0] - before == 60


def test_names_of_labels_are_not_ignored(
    cli: Cli, home: Path, calm: list[Rows], table: Table, late: Late
) -> None:
    """Labels that have names cannot be matched with a batch that was kept without."""
    cli("run-batch", table("a.csv", calm[0]), "--home", home)
    backwards = late(answers(calm[0])[::-1], range(99, -1, -1))
    told(cli("add-labels", 2, backwards, "--row-id", "wine", "--home", home, code=3))


def test_known_labels_are_published_again(
    cli: Cli, home: Path, calm: list[Rows], table: Table, late: Late, samples: Samples
) -> None:
    """After a push that failed, the same command again reaches the sinks, as run-batch does."""
    cli("run-batch", table("a.csv", calm[0]), "--home", home)
    prom, labels = home / "metrics" / "wine_drift.prom", late(answers(calm[0]))
    prom.unlink(), prom.mkdir()
    cli("add-labels", 2, labels, "--home", home, code=4)
    prom.rmdir()
    cli("add-labels", 2, labels, "--home", home)
    shown = samples(prom.read_text(encoding="utf-8"))
    assert shown["wine_drift_late_labels_total", "red_wine"] == len(good_rows(calm[0]))


def test_labels_that_wait_outlive_a_fault(
    record: Record, home: Path, calm: list[Rows], stuck: Rows, table: Table, late: Late
) -> None:
    """Labels of a good batch that wait to be judged are not lost by a later batch at fault."""
    record("run-batch", table("a.csv", calm[0]), "--home", home)
    labels = [x if k < 40 else "" for k, x in enumerate(answers(calm[0]))]
    done = record("add-labels", 2, late(labels), "--home", home)
    assert np.sum(detector_of(home)["waiting"]) == done["labels"]["rows"]
    record("run-batch", table("b.csv", stuck), "--home", home)
    assert np.sum(detector_of(home)["waiting"]) == done["labels"]["rows"]


@pytest.mark.parametrize("column", ["alcohol", "quality"])
def test_a_measurement_is_no_name(
    cli: Cli, home: Path, calm: list[Rows], table: Table, late: Late, column: str
) -> None:
    """Read as text, its empty cells would be faults: the setting is refused, nothing is done."""
    path = table("a.csv", calm[0])
    error = told(cli("run-batch", path, "--home", home, "--row-id", column, code=2))
    assert "row_id" in error and column in error
    labels = late(answers(calm[0]))
    assert column in told(cli("add-labels", 1, labels, "--home", home, "--row-id", column, code=2))
    with Ledger.open(home, read_only=True) as ledger:
        assert ledger.next_sequence() == 2
