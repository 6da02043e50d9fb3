"""Labelled rows that are too many for the ledger: in files, claimed by it, and never lost."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wine_drift.bucket import Bucket
from wine_drift.errors import StateUnreadable
from wine_drift.ledger import Ledger
from wine_drift.rows import LabelledRows, Lot, concatenate
from wine_drift.shards import (
    NoWriter,
    ShardWriter,
    has_shard,
    newest_shards,
    read_newest,
    read_shard,
    write_shard,
)
from wine_drift.shelf import remove_shards, shards

Cli = Callable[..., Any]
Kept = Callable[..., dict[str, Any]]

NUMBERS = itertools.count()
SCHEMA = """
name = "made"
duplicates = "keep"
[target]
column = "good"
positive = "> 0.5"
minimum = 0
maximum = 1
[[feature]]
name = "a"
minimum = -10
maximum = 10
[[feature]]
name = "b"
minimum = -10
maximum = 10
"""


def labelled(n_rows: int, sequence: int, seed: int = 0) -> LabelledRows:
    """Rows of two features with answers."""
    rng = np.random.default_rng(seed)
    return LabelledRows(
        rng.normal(size=(n_rows, 2)), rng.random(n_rows) < 0.3, np.full(n_rows, sequence)
    )


def same(one: LabelledRows, two: LabelledRows) -> bool:
    """Whether rows are the same, in the same order."""
    return all(
        np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True)
    )


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | Bucket:
    """Where versions are: a folder, or somewhere behind a URL."""
    if request.param == "folder":
        return tmp_path / "models"
    return Bucket(f"memory://rows{next(NUMBERS)}/models")


# --- files ---


def test_rows_are_read_back_as_they_were_written(place: Path | Bucket) -> None:
    """Again is fine; the shard tells what is in it."""
    rows = labelled(50, 7)
    assert shards(place) == []
    for _ in range(2):
        shard = write_shard(place, "x.npy.z", rows)
    assert (shard.n_rows, shard.n_positive, shard.newest) == (50, rows.positive.sum(), 7)
    assert same(read_shard(place, shard), rows) and has_shard(place, shard)
    assert shards(place) == ["x.npy.z"]
    remove_shards(place, ["x.npy.z"])
    remove_shards(place, ["x.npy.z"])
    assert shards(place) == [] and not has_shard(place, shard)


@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_a_damaged_file_is_told(place: Path | Bucket, how: str) -> None:
    """With its name, and with what to do."""
    shard, other = (write_shard(place, f"{k}.npy.z", labelled(50, 7, k)) for k in range(2))
    if how == "gone":
        remove_shards(place, [shard.name])
    else:
        shard = replace(shard, sha256=other.sha256 if how == "changed" else shard.sha256[1:])
    with pytest.raises(StateUnreadable, match=shard.name) as caught:
        read_shard(place, shard)
    assert "repair" in caught.value.remedy and not has_shard(place, shard)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    """It is told as what it is."""
    (tmp_path / "window").write_text("in the way")
    with pytest.raises(StateUnreadable, match="window"):
        write_shard(tmp_path, "x.npy.z", labelled(5, 1))


def test_many_rows_in_files_of_the_usual_size(
    place: Path | Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small parts are put together, none is lost, and the newest are found."""
    monkeypatch.setattr("wine_drift.shards.SHARD_ROWS", 100)
    parts = [labelled(30, k, k) for k in range(1, 12)]
    written = list(ShardWriter(place, "all").write_all(parts, 2))
    assert [shard.n_rows for shard in written] == [120, 120, 90]
    assert [shard.newest for shard in written] == [4, 8, 11]
    assert same(read_newest(place, reversed(written), 10_000, 2), concatenate(parts, 2))
    assert newest_shards(written, 91) == written[1:] and newest_shards(written, 90) == written[2:]
    assert newest_shards(written, 0) == [] and len(read_newest(place, written, 0, 2)) == 0
    assert list(ShardWriter(place, "none").write_all([labelled(0, 1)], 2)) == []


def test_a_lot_is_counted_wherever_it_is(tmp_path: Path) -> None:
    """In hand and in files it is the same."""
    rows = labelled(40, 3)
    there = Lot(rows.take(slice(0, 0)), (ShardWriter(tmp_path, "x", 3).write(rows),))
    dry = Lot(rows.take(slice(0, 0)), (NoWriter().write(rows),))
    for lot in (Lot(rows), there, dry):
        assert (lot.n_rows, lot.n_positive) == (40, int(rows.positive.sum()))
    assert Lot(rows).newest == there.newest == 3
    assert Lot(rows.take(slice(0, 0))).newest == 0


# --- homes ---


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 200 rows."""
    for module in ("gathering", "champion", "shards"):
        monkeypatch.setattr(f"wine_drift.{module}.SHARD_ROWS", 200)


def table(name: str, n_rows: int, seed: int, *, turned: bool = False, labels: bool = True) -> Path:
    """A file of rows whose answers follow from the features."""
    rng = np.random.default_rng(seed)
    cells = np.round(rng.normal(size=(n_rows, 2)), 6)
    slope = cells @ ([-2.0, 1.0] if turned else [2.0, 1.0]) - 1
    good = rng.random(n_rows) < 1 / (1 + np.exp(-slope))
    lines = [f"{a},{b},{int(y) if labels else ''}" for (a, b), y in zip(cells, good, strict=True)]
    Path(name).write_text("\n".join(["a,b,good", *lines, ""]))
    return Path(name)


WORDS = ("--rounds", 20, "--window-rows", 3_000, "--schema", "made.toml", "--quiet")


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Path:
    """A folder with a home that was trained on 600 rows of the schema."""
    monkeypatch.chdir(tmp_path)
    Path("made.toml").write_text(SCHEMA)
    table("first.csv", 600, 1)
    cli("train", "--home", "home", "--data", "first.csv", *WORDS[:-1])
    return tmp_path


def claimed(home: str = "home") -> set[str]:
    """Names of the files that the ledger claims."""
    with Ledger.open(Path(home), read_only=True) as ledger:
        return ledger.shard_names()


def there(home: str = "home") -> set[str]:
    """Names of the files that there are."""
    return {path.name for path in Path(home, "models", "window").glob("*")}


def test_a_batch_with_many_labelled_rows(at: Path, small: None, cli: Cli) -> None:
    """They lie beside the versions, with the number of their batch; the ledger claims them."""
    cli("run-batch", table("a.csv", 150, 2), "--home", "home", *WORDS)
    assert claimed() == there() == set()
    cli("run-batch", table("b.csv", 700, 3), "--home", "home", *WORDS)
    assert claimed() == there() and len(there()) == 1  # one part, one file
    with Ledger.open(Path("home"), read_only=True) as ledger:
        (shard,), few = ledger.shards(), ledger.labelled_rows(2, after=0)
        record, counts = ledger.find(""), ledger.labelled_counts(after=0)
    assert record is not None and record["batch"]["labelled"] == shard.n_rows == 700
    assert len(few) == 150 and counts[0] == 850
    rows = read_shard(Path("home/models"), shard)
    assert set(rows.sequence.tolist()) == {2}
    assert oct(Path("home/models/window", shard.name).stat().st_mode)[-3:] == "600"


def test_a_dry_run_writes_none(at: Path, small: None, cli: Cli) -> None:
    """It tells the same."""
    batch = table("b.csv", 700, 3)
    result = cli("run-batch", batch, "--home", "home", "--dry-run", "--json", *WORDS)
    assert json.loads(result.stdout)["batch"]["labelled"] == 700
    assert there() == set()


def test_files_of_rows_that_are_forgotten_go(at: Path, small: None, cli: Cli) -> None:
    """The window is bounded, and so is its folder."""
    for seed in range(2, 9):
        cli("run-batch", table("b.csv", 700, seed), "--home", "home", *WORDS)
        assert claimed() == there()
        with Ledger.open(Path("home"), read_only=True) as ledger:
            assert ledger.labelled_counts(after=0)[0] <= 3_000 + 700
    assert len(there()) == 5
    left = Path("home/models/window/b-0123-00001.npy.z")  # by a run that was killed
    left.write_bytes(b"x")
    result = json.loads(cli("prune", "--home", "home", "--dry-run", "--json").stdout)
    assert result["rows"] == 1 and left.exists()
    cli("run-batch", table("b.csv", 100, 9), "--home", "home", *WORDS)
    assert claimed() == there()


def test_prune_removes_what_killed_runs_left(at: Path, small: None, cli: Cli) -> None:
    """Also where nothing is claimed."""
    folder = Path("home/models/window")
    folder.mkdir()
    (folder / "b-0123-00001.npy.z").write_bytes(b"x")
    assert "1 files of labelled rows" in cli("prune", "--home", "home").stdout
    assert there() == set()


@pytest.mark.parametrize("many", [False, True])
def test_the_same_challenger_as_of_rows_in_the_ledger(
    at: Path, small: None, cli: Cli, kept: Kept, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows are kept changes nothing that comes of them."""
    shutil.copytree("home", "other")
    words = (*WORDS, "--retrain", "force", "--gate-alpha", 0.4)
    ends = []
    for home in ("home", "other"):
        for seed in range(2, 6):
            batch = table(f"b{seed}.csv", 500, seed, turned=True)
            cli("run-batch", f"b{seed}*" if many else batch, "--home", home, *words)
        end = kept(Path(home))
        ends.append({key: end[key] for key in ("records", "champion", "versions", "learnt")})
        if home == "home":
            assert there() and end["champion"] != "v1"
            for module in ("gathering", "champion", "shards"):
                monkeypatch.setattr(f"wine_drift.{module}.SHARD_ROWS", 1 << 16)
    assert ends[0] == ends[1] and there("other") == set()


def test_late_labels_in_files(at: Path, small: None, cli: Cli) -> None:
    """Their files have names of their own, and the number of the batch that they are of."""
    cli("run-batch", table("b.csv", 700, 3, labels=False), "--home", "home", *WORDS)
    lines = table("b.csv", 700, 3).read_text().splitlines()
    for name, chosen in (("one", lambda n: n < 300), ("two", lambda n: n >= 300)):
        answers = [
            line.rsplit(",", 1)[1] if chosen(n) else '""' for n, line in enumerate(lines[1:])
        ]
        Path(f"{name}.csv").write_text("\n".join(["good", *answers, ""]))
        cli("add-labels", 1, f"{name}.csv", "--home", "home", *WORDS[:-1])
    assert claimed() == there() and len(there()) == 4
    with Ledger.open(Path("home"), read_only=True) as ledger:
        assert sum(shard.n_rows for shard in ledger.shards()) == 700
        assert {shard.newest for shard in ledger.shards()} == {1}


def test_only_the_newest_rows_are_in_hand(at: Path, small: None, cli: Cli) -> None:
    """Where a window is larger than `memory_rows`, and there is no cluster."""
    words = (*WORDS, "--memory-rows", 1_000)
    for seed in range(2, 5):
        cli("run-batch", table("b.csv", 700, seed, turned=True), "--home", "home", *words)
    cli("train", "--home", "home", "--memory-rows", 1_000, "--force", *WORDS[:-1])
    with Ledger.open(Path("home"), read_only=True) as ledger:
        champion = ledger.champion()
    assert champion is not None and champion["training_rows"] == 1_000
    assert champion["version"].startswith("v")


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_repair_gives_up_rows_that_are_gone(at: Path, small: None, cli: Cli, how: str) -> None:
    """What is lost is told; until then a retraining fails, and nothing else does."""
    for seed in (2, 3):
        cli("run-batch", table("b.csv", 700, seed), "--home", "home", *WORDS)
    first = Path("home/models/window", min(there()))
    first.unlink() if how == "gone" else first.write_bytes(b"rows")
    batch = table("b.csv", 100, 4)
    result = cli("run-batch", batch, "--home", "home", *WORDS, "--retrain", "force", code=9)
    assert first.name in result.stderr
    told = cli("repair", "--home", "home")
    assert "lost: 700 labelled rows" in told.stdout
    assert claimed() == there() and first.name not in there()
    cli("run-batch", table("b.csv", 99, 5), "--home", "home", *WORDS, "--retrain", "force")
    assert "sound" in cli("repair", "--home", "home").stdout


def test_a_place_without_room_records_nothing(
    at: Path, small: None, cli: Cli, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is taken again."""

    def full(*arguments: Any, **words: Any) -> Any:
        raise OSError(28, "No space left on device")

    before = kept(Path("home"))["records"]
    batch = table("b.csv", 700, 3)
    with monkeypatch.context() as patch:
        patch.setattr("wine_drift.files.whole", full)
        result = cli("run-batch", batch, "--home", "home", *WORDS, code=6)
    assert "No space left" in result.stderr and kept(Path("home"))["records"] == before
    cli("run-batch", batch, "--home", "home", *WORDS)
    assert claimed() == there() != set()
