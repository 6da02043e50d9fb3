"""`wine-drift repair`: what is put back, what is said to be lost, and what is left alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from wine_drift.ledger import Ledger

Cli = Callable[..., Result]
Record = Callable[..., dict[str, Any]]

TRAINING = ("--rounds", 5, "--threads", 1)
NEWEST, OLDER = "backups/ledger-1.sqlite", "backups/ledger-2.sqlite"


@pytest.fixture(scope="module")
def kept_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a backup after its first file, and three files since; not to be written to."""
    from wine_drift.cli import main

    def call(*arguments: object, **more: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("WINE_DRIFT_")]:
                patch.delenv(name)
            main([str(argument) for argument in arguments], **more, standalone_mode=False)

    place = tmp_path_factory.mktemp("kept")
    home, inbox, out = place / "home", place / "inbox", place / "out"
    drawn = ("--source", "simulated", "--batch-rows", 90, "--batches", 4, "--out", out)
    call("simulate", *drawn)
    call("simulate", *drawn[:2], "--batch-rows", 500, "--out", place / "table")
    (data,) = (place / "table").iterdir()
    inbox.mkdir()
    good = sorted(out.iterdir())
    header, *lines = good[2].read_text().splitlines()
    good[2].write_text("\n".join([header, "x" + lines[0], *lines[1:], ""]))  # a row is set aside
    waiting = [good[0].read_bytes(), b"a;b\n1;2\n", good[1].read_bytes(), good[2].read_bytes()]
    for number, content in enumerate(waiting):
        path = inbox / f"{number}.csv"
        path.write_bytes(content)
        os.utime(path, (1e9 + number, 1e9 + number))
    arguments = ("run-batch", "--home", home, "--inbox", inbox, "--data", data, *TRAINING)
    call(*arguments)
    with pytest.raises(SystemExit):
        call(*arguments, "--drain")
    return place


@pytest.fixture
def place(kept_place: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    return Path(shutil.copytree(kept_place, tmp_path / "place"))


def contents(folder: Path) -> dict[str, bytes]:
    """All files by name, but for the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.lock"
    }


def ruin(path: Path) -> bytes:
    """Overwrite a page in the middle of a ledger; what it is now."""
    content = path.read_bytes()
    path.write_bytes(content[: 2 * 4096] + b"\xff" * 4096 + content[3 * 4096 :])
    return path.read_bytes()


def test_a_sound_home_is_left_as_it_is(cli: Cli, record: Record, place: Path) -> None:
    """Not one byte changes, and it says so."""
    before = contents(place)
    assert "sound" in cli("repair", "--home", place / "home", "--inbox", place / "inbox").stdout
    told = record("repair", "--home", place / "home")
    assert told["outcome"] == "sound" and told["problem"] is None and told["push"] is None
    assert contents(place) == before


def test_a_ledger_comes_back_and_the_files_after_it_too(
    cli: Cli, record: Record, place: Path
) -> None:
    """What was lost is told batch by batch; the next runs take it again as if nothing had been."""
    home, inbox = place / "home", place / "inbox"
    before, damaged = record("status", "--home", home), ruin(home / "ledger.sqlite")
    kept = {path.name[13:]: path.name[:12] for path in (home / "archive").iterdir()}
    (refused,) = (path for path in (home / "quarantine").iterdir() if "rows" not in path.name)
    age = {path.name[13:]: path.stat().st_mtime for path in (home / "archive").iterdir()}
    told = record("repair", "--home", home, "--inbox", inbox)
    assert told["outcome"] == "repaired" and told["problem"] and told["versions"] == []
    assert abs(told["backup_at"] - (home / NEWEST).stat().st_mtime) < 1e-3
    assert told["push"]["status"] == "ok"
    lost = {2: (refused.name[:12], "quarantined"), 3: (kept["2.csv"], "processed")}
    lost[4] = (kept["3.csv"], "processed")
    assert told["known"] in (True, False)
    if told["known"]:
        assert {each["sequence"]: (each["id"], each["outcome"]) for each in told["lost"]} == lost
    assert told["returned"] == [str(inbox / f"{number}.csv") for number in (1, 2, 3)]
    assert told["unreturned"] == [] and Path(told["kept_as"]).read_bytes() == damaged
    assert [path.name[13:] for path in (home / "archive").iterdir()] == ["0.csv"]
    assert [path.name[13:] for path in (home / "quarantine").iterdir()] == ["rows.csv"]
    assert (inbox / "3.csv").stat().st_mtime == age["3.csv"]
    arguments = ("--home", home, "--inbox", inbox, *TRAINING)
    cli("run-batch", "--drain", *arguments, code=3)
    after = record("status", "--home", home)
    assert after["batches"] == before["batches"] and after["champion"] == before["champion"]


def test_what_was_lost_is_told_in_words(cli: Cli, place: Path) -> None:
    """With numbers and ids if the damaged file still tells; without an inbox, with names."""
    home = place / "home"
    with closing(sqlite3.connect(home / "ledger.sqlite")) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'detector'"
        ).fetchone()
    with (home / "ledger.sqlite").open("r+b") as file:
        file.seek(4096 * (root - 1))
        file.write(b"\xff" * 4096)
    told = cli("repair", "--home", home).stdout
    assert "damaged" in told and "lost: 3 batches" in told
    (archived,) = (home / "archive").glob("*-3.csv")
    assert f"4 ({archived.name[:12]}, processed)" in told
    assert str(archived) in told and "run-batch FILE" in told
    assert "late labels" in told and archived.is_file()


def test_a_ledger_that_is_gone_has_nothing_to_tell(cli: Cli, record: Record, place: Path) -> None:
    """Its files tell what came after the backup."""
    home = place / "home"
    (home / "ledger.sqlite").unlink()
    told = record("repair", "--home", home, "--inbox", place / "inbox")
    assert told["problem"] == "it is gone" and told["kept_as"] is None
    assert (told["known"], told["lost"]) == (False, []) and len(told["returned"]) == 3
    assert not (home / "damaged").exists() or not list((home / "damaged").iterdir())
    cli("health", "--home", home)


@pytest.mark.parametrize("beside", ["-journal", None])
def test_what_is_replaced_is_kept(cli: Cli, place: Path, beside: str | None) -> None:
    """A journal that lay beside it, which would harm the restored one, is gone."""
    home, now = place / "home", time.strftime("%Y%m%d")
    damaged = ruin(home / "ledger.sqlite")
    if beside:
        (home / f"ledger.sqlite{beside}").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" * 64)
    cli("repair", "--home", home)
    found = contents(home / "damaged")
    assert damaged in found.values() and all(now in name for name in found)
    assert len(found) == 1  # SQLite took back what the journal held, if anything
    assert not list(home.glob("ledger.sqlite-*"))


def test_the_older_backup_is_taken_if_the_newest_is_damaged(
    cli: Cli, record: Record, place: Path
) -> None:
    """More is lost then; all of it comes back all the same."""
    home = place / "home"
    os.utime(home / NEWEST, (1e9, 1e9))
    cli("push", "--home", home)  # a backup that knows all
    ruin(home / "ledger.sqlite")
    ruin(home / NEWEST)
    told = record("repair", "--home", home, "--inbox", place / "inbox")
    assert len(told["returned"]) == 3 and told["backup_at"] == 1e9


def test_without_a_sound_backup_nothing_is_changed(cli: Cli, place: Path) -> None:
    """It is told what is left to do."""
    home = place / "home"
    ruin(home / "ledger.sqlite")
    ruin(home / NEWEST)
    before = contents(place)
    told = cli("repair", "--home", home, "--inbox", place / "inbox", code=6).stderr
    assert "no sound backup" in told and "archive" in told
    assert contents(place) == before


def test_there_must_be_a_home(cli: Cli, tmp_path: Path) -> None:
    """And none is made."""
    cli("repair", "--home", tmp_path / "none", code=2)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("folder", ["place", "my schema 4 wines"])
def test_a_newer_ledger_is_no_damage(cli: Cli, place: Path, tmp_path: Path, folder: str) -> None:
    """It is not replaced by a backup; a damaged one is, whatever its folder is called."""
    home = Path(place.rename(tmp_path / folder)) / "home"
    newer = bytearray((home / "ledger.sqlite").read_bytes())
    sound, newer[60:64] = bytes(newer), (99).to_bytes(4, "big")
    (home / "ledger.sqlite").write_bytes(newer)
    assert "upgrade" in cli("repair", "--home", home, code=6).stderr
    assert (home / "ledger.sqlite").read_bytes() == newer
    (home / "ledger.sqlite").write_bytes(sound)
    with closing(sqlite3.connect(home / "ledger.sqlite")) as connection:
        connection.execute("UPDATE facts SET value = '{' WHERE name = 'run'")
        connection.commit()
    assert "damaged" in cli("repair", "--home", home).stdout


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET record = '{'",
        """UPDATE records SET record = '{"version": "v1"}'""",  # as of another table's page
        "UPDATE facts SET value = 'x' WHERE name = 'decision'",
        "UPDATE versions SET manifest = '['",
        "UPDATE detector SET state = '{'",
        "UPDATE counters SET labels = 'x' WHERE counter = 1",
        "UPDATE window SET rows = x'00'",
        "UPDATE scored SET rows = x'00'",
    ],
)
def test_what_nobody_can_read_is_found_and_put_back(cli: Cli, place: Path, statement: str) -> None:
    """SQLite finds nothing wrong with a text that is none of ours; repair does."""
    home, inbox = place / "home", place / "inbox"
    with closing(sqlite3.connect(home / "ledger.sqlite")) as connection:
        connection.execute(statement)
        connection.commit()
    if "records" in statement:
        cli("status", "--home", home, code=6)
    assert "damaged" in cli("repair", "--home", home, "--inbox", inbox).stdout
    cli("run-batch", "--drain", "--home", home, "--inbox", inbox, *TRAINING, code=3)
    (archived,) = (home / "archive").glob("*-2.csv")
    answers = [line.rpartition(";")[2] for line in archived.read_text().splitlines()]
    (place / "labels.csv").write_text("\n".join(answers))
    cli("add-labels", 3, place / "labels.csv", "--home", home, *TRAINING)  # they are known
    cli("train", "--force", "--min-labelled", 10, "--home", home, *TRAINING)
    for words in (("status",), ("metrics",), ("explain",), ("models", "list")):
        cli(*words, "--home", home)


def test_files_whose_names_are_taken_go_back_under_longer_ones(record: Record, place: Path) -> None:
    """Nothing in the inbox is written over."""
    home, inbox = place / "home", place / "inbox"
    (inbox / "2.csv").write_text("another file of that name")
    (home / "ledger.sqlite").unlink()
    (archived,) = (home / "archive").glob("*-2.csv")
    told = record("repair", "--home", home, "--inbox", inbox)
    assert str(inbox / archived.name) in told["returned"]
    assert (inbox / "2.csv").read_text() == "another file of that name"


def test_a_champion_comes_back_from_its_copy(cli: Cli, record: Record, place: Path) -> None:
    """Its files are as they were; the ledger is left alone."""
    home = place / "home"
    before = contents(home)
    (version,) = (home / "models").iterdir()
    (version / "model.txt").write_text("torn")
    (version / "rows.npy.z").unlink()
    told = record("repair", "--home", home)
    assert told["outcome"] == "repaired" and told["versions"] == [version.name]
    assert told["problem"] is None and told["kept_as"] is None and told["damaged"] == []
    after = contents(home)
    assert {name: after[name] for name in before if "metrics" not in name} == {
        name: content for name, content in before.items() if "metrics" not in name
    }
    assert "sound" in cli("repair", "--home", home).stdout


def test_ledger_and_champion_can_both_be_damaged(cli: Cli, place: Path) -> None:
    """One command puts both right."""
    home = place / "home"
    ruin(home / "ledger.sqlite")
    shutil.rmtree(home / "models")
    told = cli("repair", "--home", home, "--inbox", place / "inbox").stdout
    assert "put back from the backup: v1-" in told and "the ledger was damaged" in told
    cli("run-batch", "--drain", "--home", home, "--inbox", place / "inbox", *TRAINING, code=3)


def test_a_champion_without_a_copy_is_told(cli: Cli, place: Path) -> None:
    """With what can be done; what could be put back was."""
    home = place / "home"
    (version,) = (home / "models").iterdir()
    (version / "model.txt").write_text("torn")
    (home / "backups" / version.name / "model.txt").write_text("torn, too")
    told = cli("repair", "--home", home, code=6).stderr
    assert version.name in told and "rollback" in told


def test_a_home_of_which_only_backups_are_left_is_restored(cli: Cli, place: Path) -> None:
    """As after somebody cleared the folder."""
    home = place / "home"
    for path in [path for path in home.iterdir() if path.name != "backups"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    cli("repair", "--home", home)
    assert "champion  v1-" in cli("status", "--home", home).stdout
    with Ledger.open(home, read_only=True) as ledger:
        assert ledger.next_sequence() == 2


def test_the_restored_ledger_is_published(cli: Cli, place: Path, tmp_path: Path) -> None:
    """A sink that is away does not undo the repair; its exit code tells of it."""
    home = place / "home"
    ruin(home / "ledger.sqlite")
    sink = ("--pushgateway", "http://127.0.0.1:1", "--push-deadline", 0.1)
    done = cli("repair", "--home", home, *sink, code=4)
    assert "restored as of" in done.stdout and "127.0.0.1:1" in done.stderr


def test_files_can_go_back_later(cli: Cli, record: Record, place: Path) -> None:
    """As after a repair without an inbox, or one that was cut short."""
    home, inbox = place / "home", place / "inbox"
    ruin(home / "ledger.sqlite")
    first = record("repair", "--home", home)
    assert len(first["unreturned"]) == 3 and first["returned"] == []
    then = record("repair", "--home", home, "--inbox", inbox)
    assert (then["problem"], len(then["returned"])) == (None, 3)
    assert "sound" in cli("repair", "--home", home, "--inbox", inbox).stdout
