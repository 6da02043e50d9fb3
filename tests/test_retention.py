"""How long things are kept: history, records, files, versions; and what goes on without them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from test_ledger import ROOM, RUN, V1, V2, commit, late, scored

from wine_drift.ledger import Ledger
from wine_drift.retention import prune
from wine_drift.settings import Settings

Cli = Callable[..., Result]
Record = Callable[..., dict[str, Any]]

TRAINING = ("--rounds", 5, "--threads", 1)
DAY = 86_400.0


@pytest.fixture(scope="module")
def kept_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with four files, of which one is bad, one has no labels, one some bad rows."""
    from wine_drift.cli import main

    def call(*arguments: object) -> None:
        main([str(argument) for argument in arguments], standalone_mode=False)

    place = tmp_path_factory.mktemp("kept")
    home, inbox, out = place / "home", place / "inbox", place / "out"
    drawn = ("--source", "simulated", "--batch-rows", 90, "--batches", 4, "--out", out)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WINE_DRIFT_")]:
            patch.delenv(name)
        call("simulate", *drawn)
        call("simulate", *drawn[:2], "--batch-rows", 500, "--out", place / "table")
        (data,) = (place / "table").iterdir()
        good = [path.read_bytes() for path in sorted(out.iterdir())]
        lines = [line.rpartition(b";") for line in good[3].splitlines()]
        bare = b"\n".join([b";".join(lines[0][::2]), *(line[0] + b";" for line in lines[1:]), b""])
        (place / "labels.csv").write_bytes(b"\n".join(line[2] for line in lines))
        spoilt = good[1].replace(b"\n", b"\nx", 1)
        inbox.mkdir()
        for number, content in enumerate((good[0], b"a;b\n1;2\n", spoilt, bare, good[2])):
            (inbox / f"{number}.csv").write_bytes(content)
            os.utime(inbox / f"{number}.csv", (1e9 + number, 1e9 + number))
        (place / "last.csv").write_bytes((inbox / "4.csv").read_bytes())
        (inbox / "4.csv").unlink()
        arguments = ("run-batch", "--home", home, "--inbox", inbox, "--data", data, *TRAINING)
        with pytest.raises(SystemExit):
            call(*arguments, "--drain")
    return place


@pytest.fixture
def place(kept_place: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    return Path(shutil.copytree(kept_place, tmp_path / "place"))


def seen(folder: Path) -> dict[str, Any]:
    """Everything about every file and folder that can be seen from outside."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in (folder, *folder.rglob("*"))
    }


def records(home: Path) -> set[int]:
    """Numbers of the batches whose records are kept."""
    with closing(sqlite3.connect(home / "ledger.sqlite")) as connection:
        return {row[0] for row in connection.execute("SELECT sequence FROM records")}


# --- the ledger's own past ---


def filled(tmp_path: Path, n: int, **more: Any) -> None:
    """A ledger with so many batches, of which each fifth is labelled late and each ninth trains."""
    tried: dict[str, Any] = {"reason": "follow_up", "outcome": "rejected", "gate": None}
    clock = iter(range(1000, 10_000))
    with Ledger.open(tmp_path, now=lambda: float(next(clock)), **more) as ledger:
        ledger._connection.execute("PRAGMA synchronous = OFF")  # nobody pulls the plug
        ledger.commit_champion(V1, None)
        for number in range(1, n + 1):
            changes: dict[str, Any] = {"scored": scored(9, 3 * (number % 5 == 0))}
            if number % 9 == 0:
                changes["retraining"] = tried
            ledger.commit_batch(commit(str(number), number, **changes), replace(ROOM, window_age=8))
            if number % 5 == 0:
                ledger.commit_batch(late(number, 3, scored=scored(9, 0)), ROOM)
            ledger.record_run(RUN)
        ledger.commit_batch(commit("swap", n + 1, promoted=V2), ROOM)


def texts(tmp_path: Path) -> dict[int, str]:
    """What was published at each entry that is kept."""
    with Ledger.open(tmp_path, read_only=True) as ledger:
        return {entry: repr(ledger.snapshot(entry)) for entry, _ in ledger.history()}


@pytest.mark.parametrize("keep", [0, 1, 5, 17, 40, 10_000])
def test_what_is_kept_is_published_as_before(tmp_path: Path, keep: int) -> None:
    """As of each entry that is left, whatever was forgotten."""
    filled(tmp_path, 40)
    before = texts(tmp_path)
    with Ledger.open(tmp_path) as ledger:
        now = ledger.snapshot()
        ledger.forget_history(keep=keep)
        assert ledger.snapshot() == now
        after = texts(tmp_path)
        assert len(after) == min(keep + 1, len(before))
        assert after == {entry: before[entry] for entry in after}
        ledger.forget_history(keep=keep)
    assert texts(tmp_path) == after


def test_loops_of_retraining_are_told_as_before(tmp_path: Path) -> None:
    """They are counted over batches that may be older than all that is kept."""
    tried: dict[str, Any] = {"reason": "follow_up", "outcome": "rejected", "gate": None}
    with Ledger.open(tmp_path) as ledger:
        for number in range(1, 31):
            told = tried | {"gate": {"rows": number}}
            ledger.commit_batch(commit(str(number), number, retraining=told), ROOM)
        before = {entry: ledger.snapshot(entry).recent_retrains for entry, _ in ledger.history()}
        ledger.forget_history(keep=5)
        after = {entry: ledger.snapshot(entry).recent_retrains for entry, _ in ledger.history()}
    assert before[30] == 20
    assert after == {entry: before[entry] for entry in after}


def test_a_ledger_that_forgets_stays_small(tmp_path: Path) -> None:
    """With each commit some entries go; at most 63 are kept too long; the numbers go on."""
    filled(tmp_path / "all", 200)
    filled(tmp_path / "few", 200, keep_history=50)
    every, few = texts(tmp_path / "all"), texts(tmp_path / "few")
    assert 50 <= len(few) <= 50 + 64 < len(every)
    assert few == {entry: every[entry] for entry in few}
    for folder, least in (("all", 201), ("few", 1)):
        with closing(sqlite3.connect(tmp_path / folder / "ledger.sqlite")) as connection:
            (n_batches,) = connection.execute("SELECT count(*) FROM batches").fetchone()
            (n_records,) = connection.execute("SELECT count(*) FROM records").fetchone()
        assert n_batches == 201 and least <= n_records <= (201 if folder == "all" else 60)
    with Ledger.open(tmp_path / "few") as ledger:
        assert ledger.next_sequence() == 202 and ledger.labelled_since(1) == 40 * 3
        assert ledger.batch("7") == {"outcome": "processed", "batch": {"id": "7", "sequence": 7}}
        assert ledger.find("7") is None and ledger.batch("nothing") is None


def test_records_that_are_needed_stay(tmp_path: Path) -> None:
    """Of batches that wait for labels, and of the last ones that are published."""
    with Ledger.open(tmp_path) as ledger:
        ledger.commit_batch(commit("a", scored=scored(30, 30), labelled=None), ROOM)
        labelled = {"outcome": "processed", "batch": {"labelled": 30}, "n": 2}
        ledger.commit_batch(commit("b", 2, record=labelled), ROOM)
        for number in range(3, 9):
            ledger.commit_batch(commit(str(number), number, labelled=None), ROOM)
        before = ledger.snapshot()
        for _ in range(9):
            ledger.record_run(RUN)
        ledger.forget_history(keep=1)
        assert records(tmp_path) == {1, 2, 8}
        assert ledger.snapshot() == before
        ledger.commit_batch(late(1, 20, scored=scored(30, 10)), ROOM)
        assert ledger.snapshot().labelled == labelled and records(tmp_path) == {1, 2, 8}
        assert [record["n"] for record in ledger.records(9)] == [1, 2, 8]


def test_nothing_is_forgotten_unless_asked_for(tmp_path: Path) -> None:
    """Neither by a reader nor by somebody who keeps no count."""
    filled(tmp_path, 70)
    n = len(texts(tmp_path))
    with Ledger.open(tmp_path, read_only=True, keep_history=1) as ledger:
        assert len(ledger.history()) == n
    with Ledger.open(tmp_path) as ledger:
        ledger._connection.execute("PRAGMA synchronous = OFF")
        for _ in range(70):
            ledger.record_run(RUN)
    assert len(texts(tmp_path)) == n + 70


# --- batches whose records are forgotten ---


def forgotten(place: Path) -> Path:
    """A home that knows of its first batches only that they were done."""
    home = place / "home"
    with Ledger.open(home) as ledger:
        for _ in range(3):
            ledger.record_run({**(ledger.last_run() or {}), "success": True})
        ledger._connection.execute("DELETE FROM scored WHERE sequence < 4")
        ledger.forget_history(keep=1)
    assert records(home) <= {3, 4}
    return home


def test_a_batch_is_known_when_its_record_is_forgotten(
    cli: Cli, record: Record, place: Path
) -> None:
    """The same file again is not counted again, and it is told so."""
    home = forgotten(place)
    before = cli("metrics", "--home", home).stdout
    (path,) = (home / "archive").glob("*-0.csv")
    again = shutil.copy(path, place / "inbox" / "again.csv")
    told = record("run-batch", place / "inbox" / "again.csv", "--home", home, *TRAINING)
    assert told["outcome"] == "already_processed"
    assert told["batch"]["sequence"] == 1 and told["batch"]["id"] == path.name[:12]
    assert told["batch"]["name"] == "again.csv" and told["drift"] is None
    text = cli("run-batch", again, "--home", home, *TRAINING).stdout
    assert "batch 1" in text and "already processed" in text and "no longer kept" in text
    cli("run-batch", "--home", home, "--inbox", place / "inbox", *TRAINING)
    assert not Path(again).exists()  # it is put away, with what it is a copy of
    total = "wine_drift_batches_total{"
    lines = [line for line in before.splitlines() if line.startswith(total)]
    assert [line for line in cli("metrics", "--home", home).stdout.splitlines() if total in line][
        -len(lines) :
    ] == lines


def test_a_refused_file_is_refused_when_its_record_is_forgotten(
    cli: Cli, record: Record, place: Path
) -> None:
    """With the same exit code, in text, JSON and log."""
    home = forgotten(place)
    bad = place / "bad.csv"
    bad.write_bytes(b"a;b\n1;2\n")
    told = record("run-batch", bad, "--home", home, *TRAINING, code=3)
    assert told["outcome"] == "quarantined" and told["batch"]["name"] == "bad.csv"
    done = cli("run-batch", bad, "--home", home, *TRAINING, code=3)
    assert "refused before" in done.stderr and "send a corrected file" in done.stderr
    done = cli("run-batch", bad, "--home", home, *TRAINING, "--log-format", "json", code=3)
    line = json.loads(done.stderr.splitlines()[-1])
    assert line["outcome"] == "quarantined" and line["exit_code"] == 3


def test_a_dry_run_knows_forgotten_batches(record: Record, place: Path) -> None:
    """As a run does."""
    home = forgotten(place)
    (path,) = (home / "archive").glob("*-0.csv")
    told = record("run-batch", path, "--home", home, "--dry-run", *TRAINING)
    assert told["outcome"] == "already_processed"


def test_labels_come_late_to_an_old_batch(cli: Cli, place: Path, record: Record) -> None:
    """Its record is kept for them, however much else is forgotten."""
    home = forgotten(place)
    told = record("add-labels", 4, place / "labels.csv", "--home", home, *TRAINING)
    assert told["batch"]["labelled"] == 90 and told["labels"]["rows"] == 90
    done = cli("add-labels", 1, place / "labels.csv", "--home", home, *TRAINING, code=2)
    assert "no processed batch '1'" in done.stderr


def test_commands_that_tell_of_forgotten_batches(cli: Cli, place: Path) -> None:
    """They say that there is none of that number, and tell of the others."""
    home = forgotten(place)
    cli("explain", 1, "--home", home, code=2)
    cli("explain", "--home", home)
    cli("status", "--home", home, "--last", 100)
    cli("history", "export", "--openmetrics", place / "past", "--home", home)


# --- prune ---


def settings(place: Path, **more: Any) -> Settings:
    """Of the home."""
    return Settings(home=place / "home", **more)


def later(days: float) -> Callable[[], float]:
    """A clock that is ahead."""
    return lambda: time.time() + days * DAY


def old_backup(home: Path) -> None:
    """Both backups know all there is."""
    with Ledger.open(home) as ledger:
        ledger.back_up()
        ledger.back_up()


def test_a_dry_run_changes_not_one_byte(cli: Cli, record: Record, place: Path) -> None:
    """It tells what would go, and leaves no trace, not even a time."""
    home = place / "home"
    old_backup(home)
    (home / "archive" / ".x.csv.part").write_text("half")
    before = seen(home)
    found = prune(settings(place, dry_run=True), now=later(91))
    assert seen(home) == before
    assert (found["files"], found["unfinished"]) == (5, 1) and found["dry_run"]
    told = record("prune", "--dry-run", "--home", home)
    assert (told["files"], told["unfinished"]) == (0, 1)
    assert "would remove 0 old files" in cli("prune", "--dry-run", "--home", home).stdout
    assert seen(home) == before
    done = prune(settings(place), now=later(91))
    same = ("versions", "leftovers", "kept", "files", "unfinished", "bytes", "entries")
    assert {key: done[key] for key in same} == {key: found[key] for key in same}


def test_files_go_when_they_are_old(place: Path) -> None:
    """Not a day earlier; what the ledger does not know stays, and so do folders."""
    home = place / "home"
    old_backup(home)
    names = sorted(
        path.name for part in ("archive", "quarantine") for path in (home / part).glob("*")
    )
    (home / "archive" / "0123456789ab-unknown.csv").write_text("a")
    (home / "archive" / "notes.txt").write_text("mine")
    (home / "archive" / f"{names[0]}.d").mkdir()
    assert len(names) == 5  # three good ones, a bad one, some rows
    assert prune(settings(place), now=later(89.9))["files"] == 0
    assert prune(settings(place, keep_files=100 * DAY), now=later(99))["files"] == 0
    assert prune(settings(place), now=later(90.1))["files"] == 5
    left = sorted(path.name for path in (home / "archive").iterdir())
    assert left == sorted(["0123456789ab-unknown.csv", "notes.txt", f"{names[0]}.d"])
    assert not list((home / "quarantine").iterdir())


def test_files_stay_until_a_backup_knows_them(cli: Cli, place: Path) -> None:
    """The older one, too, or a repair from that could not take them again."""
    home = place / "home"
    with closing(sqlite3.connect(home / "backups" / "ledger-1.sqlite")) as connection:
        (known,) = connection.execute("SELECT count(*) FROM batches").fetchone()
    assert known == 1
    assert prune(settings(place), now=later(1000))["files"] == 1
    assert {path.name[13:] for path in (home / "archive").iterdir()} == {"2.csv", "3.csv"}
    with Ledger.open(home) as ledger:
        ledger.back_up()
    assert prune(settings(place), now=later(1000))["files"] == 0
    with Ledger.open(home) as ledger:
        ledger.back_up()
    assert prune(settings(place), now=later(1000))["files"] == 4
    shutil.rmtree(home / "backups")
    shutil.copy(place / "last.csv", place / "inbox" / "4.csv")
    inbox = ("--inbox", place / "inbox")
    cli("run-batch", "--home", home, *inbox, *TRAINING)
    shutil.rmtree(home / "backups")
    assert prune(settings(place), now=later(1000))["files"] == 0


def test_ledgers_that_were_replaced_go_when_they_are_old(place: Path) -> None:
    """Reckoned from when that was, whatever time of its last change a copy has."""
    home = place / "home"
    (home / "damaged").mkdir()
    there = ("damaged/ledger-20260101T000000.sqlite", "backups/ledger-schema-4.sqlite")
    for name in (*there, "damaged/notes.txt"):
        (home / name).write_text("old")
        os.utime(home / name, (1e9, 1e9))
    assert prune(settings(place), now=later(89.9))["files"] == 0
    assert all((home / name).exists() for name in there)
    prune(settings(place), now=later(90.1))
    assert not any((home / name).exists() for name in there)
    assert (home / "damaged" / "notes.txt").exists()


def test_what_killed_runs_left_goes(place: Path) -> None:
    """In each folder that a run writes to; other files with a dot stay."""
    home = place / "home"
    folders = ("", "archive", "quarantine", "metrics", "backups")
    for name in folders:
        (home / name / ".x.part").write_text("half")
    (home / "archive" / ".gitignore").write_text("*")
    found = prune(settings(place))
    assert (found["unfinished"], found["bytes"]) == (len(folders), 4 * len(folders))
    assert [path.name for path in home.rglob(".*")] == [".gitignore"]


def test_the_ledger_gives_back_room_when_that_is_worth_it(place: Path) -> None:
    """Not for little; what it says stays the same."""
    home = place / "home"
    path = home / "ledger.sqlite"
    with Ledger.open(home, read_only=True) as ledger:
        text = repr(ledger.snapshot())
    assert prune(settings(place))["ledger_bytes"] == [path.stat().st_size] * 2
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE padding (x BLOB)")
        connection.execute("INSERT INTO padding VALUES (zeroblob(300000))")
        connection.commit()
        connection.execute("DROP TABLE padding")
        connection.commit()
    before = path.stat().st_size
    found = prune(settings(place))
    assert found["ledger_bytes"] == [before, path.stat().st_size]
    assert path.stat().st_size < before - 290_000
    with Ledger.open(home, read_only=True) as ledger:
        assert repr(ledger.snapshot()) == text and ledger.size()[1] == 0


def test_history_goes_as_far_as_the_setting_says(place: Path) -> None:
    """At once, where a run forgets some at a time."""
    home = place / "home"
    with Ledger.open(home) as ledger:
        ledger._connection.execute("PRAGMA synchronous = OFF")
        for _ in range(150):
            ledger.record_run(RUN | {"interval": 900})
        n = len(ledger.history())
    before = texts(home)
    assert prune(settings(place, keep_history=10_000))["entries"] == 0
    assert len(texts(home)) == n
    assert prune(settings(place, keep_history=100, dry_run=True))["entries"] == n - 101
    assert prune(settings(place, keep_history=100))["entries"] == n - 101
    after = texts(home)
    assert len(after) == 101 and after == {entry: before[entry] for entry in after}


def test_a_run_forgets_by_the_setting(cli: Cli, place: Path) -> None:
    """Once in 64 entries."""
    home = place / "home"
    with Ledger.open(home) as ledger:
        ledger._connection.execute("PRAGMA synchronous = OFF")
        while len(ledger.history()) % 64 != 63 or len(ledger.history()) < 180:
            ledger.record_run(RUN | {"interval": 900})
        n = len(ledger.history())
    shutil.copy(place / "last.csv", place / "inbox" / "4.csv")
    arguments = ("run-batch", "--home", home, "--inbox", place / "inbox", *TRAINING)
    cli(*arguments, "--keep-history", 100)
    assert n > 150 and len(texts(home)) == 101
    assert "batch 5" in cli("explain", "--home", home).stdout


def test_old_versions_go_with_the_rest(cli: Cli, place: Path) -> None:
    """As by `models prune`."""
    home = place / "home"
    training = (*TRAINING, "--min-labelled", 10, "--min-positives", 1)
    cli("train", "--force", "--home", home, *training)
    cli("run-batch", place / "last.csv", "--home", home, *training, "--retrain", "never")
    cli("train", "--force", "--home", home, *training)
    names = sorted(path.name for path in (home / "models").iterdir())
    (home / "models" / ".v9-01234567.part").mkdir()
    found = prune(settings(place, keep_versions=1))
    assert found["versions"] == names[:1] and found["leftovers"] == [".v9-01234567.part"]
    assert sorted(path.name for path in (home / "models").iterdir()) == names[1:]


def test_prune_of_no_home(cli: Cli, tmp_path: Path) -> None:
    """It makes none."""
    for more in ((), ("--dry-run",)):
        cli("prune", "--home", tmp_path / "none", *more, code=2)
    assert not (tmp_path / "none").exists()
