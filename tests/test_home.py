"""The door of a home: rights, backups, and what happens when there can be none."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from wine_drift.errors import SettingsError, StateUnreadable
from wine_drift.home import reading, writing
from wine_drift.ledger import Ledger
from wine_drift.settings import Settings

Cli = Callable[..., Result]

RUN = ("run-batch", "--source", "simulated", "--batch-rows", 60, "--rounds", 5, "--threads", 1)
NEWEST, OLDER = "backups/ledger-1.sqlite", "backups/ledger-2.sqlite"


@pytest.fixture(scope="module")
def started_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after its first run; not to be written to."""
    from wine_drift.cli import main

    home = tmp_path_factory.mktemp("started") / "home"
    main([*map(str, RUN), "--home", str(home)], standalone_mode=False)
    return home


@pytest.fixture
def own(started_home: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    return Path(shutil.copytree(started_home, tmp_path / "home"))


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Whatever a program asks for, it gets."""
    before = os.umask(0)
    yield
    os.umask(before)


def batches(path: Path) -> int:
    """How many batches a ledger's file knows."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM batches").fetchone()[0])


def test_all_of_a_home_is_its_owners_own(cli: Cli, tmp_path: Path, no_umask: None) -> None:
    """After runs of all kinds, but for what node_exporter reads."""
    home, inbox, out = tmp_path / "homes" / "home", tmp_path / "inbox", tmp_path / "out"
    training = ("--rounds", 5, "--threads", 1)
    cli(*RUN, "--home", home)
    cli("simulate", "--source", "simulated", "--batch-rows", 90, "--batches", 2, "--out", out)
    inbox.mkdir()
    good, later = sorted(out.iterdir())
    header, *lines = good.read_text().splitlines()
    spoilt = [header, lines[0].replace(lines[0].split(";")[0], "x", 1), *lines[1:]]
    (inbox / "a.csv").write_text("\n".join(spoilt))
    (inbox / "b.csv").write_text("a;b\n1;2\n")
    answers = [line.rpartition(";")[2] for line in later.read_text().splitlines()]
    bare = [line.rpartition(";")[0] + ";" for line in later.read_text().splitlines()[1:]]
    (inbox / "c.csv").write_text("\n".join([header, *bare]))
    (tmp_path / "late.csv").write_text("\n".join(answers))
    log = ("--log-file", home / "log")
    cli("run-batch", "--drain", "--home", home, "--inbox", inbox, *training, *log, code=3)
    cli("add-labels", 4, tmp_path / "late.csv", "--home", home, *training)
    cli("train", "--force", "--home", home, *training)
    cli("models", "rollback", "--home", home, "--backup-every", 1)
    cli("models", "export", "v1", "--home", home, "--out", home / "v1.tar", code=2)
    cli("prune", "--home", home)
    with (home / "ledger.sqlite").open("r+b") as file:
        file.write(b"no longer a ledger")
    cli("repair", "--home", home)
    cli("push", "--home", home)
    found = {
        str(path.relative_to(home.parent)): stat.S_IMODE(path.lstat().st_mode)
        for path in home.parent.rglob("*")
    }
    shared = {"home/metrics": 0o755, "home/metrics/wine_drift.prom": 0o644}
    assert {name: found.pop(name) for name in shared} == shared
    sent = [name for name in found if name.endswith(("-a.csv", "-b.csv", "-c.csv"))]
    assert len(sent) == 3  # keep what their senders gave them, where nobody else gets at them
    wrong = {
        name: oct(mode)
        for name, mode in found.items()
        if name not in sent and mode != (0o700 if (home.parent / name).is_dir() else 0o600)
    }
    assert wrong == {}
    folders = {name.split("/")[1] for name in found if name.count("/") > 1}
    assert folders == {"models", "archive", "quarantine", "backups", "damaged"}
    assert {"home/ledger.sqlite", "home/run.lock", "home/log"} <= found.keys()


def test_the_first_run_makes_a_backup_of_ledger_and_champion(own: Path) -> None:
    """What it recorded is in the copy, and the champion's files are those that serve."""
    assert batches(own / NEWEST) == 1 and not (own / OLDER).exists()
    (version,) = (own / "models").iterdir()
    copy = own / "backups" / version.name
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in version.iterdir()
    }


def test_a_backup_is_made_when_it_is_due_and_two_are_kept(cli: Cli, own: Path) -> None:
    """Not with each run; the older one is what was the newest."""
    made = (own / NEWEST).stat().st_mtime
    cli(*RUN, "--home", own)
    assert (own / NEWEST).stat().st_mtime == made and batches(own / NEWEST) == 1
    for number in (3, 4):
        os.utime(own / NEWEST, (made - 90_000, made - 90_000))
        cli(*RUN, "--home", own)
        assert batches(own / NEWEST) == number
    assert batches(own / OLDER) == 3
    assert not [path for path in own.rglob(".*")]


def test_the_setting_says_how_often(cli: Cli, own: Path) -> None:
    """An hour and no less."""
    for age, number in ((3_500, 1), (3_700, 3)):
        then = time.time() - age
        os.utime(own / NEWEST, (then, then))
        cli(*RUN, "--home", own, "--backup-every", "1h")
        assert batches(own / NEWEST) == number


def test_a_clock_that_was_ahead_does_not_stop_backups(cli: Cli, own: Path) -> None:
    """A backup from the future is as good as none."""
    then = time.time() + 500_000
    os.utime(own / NEWEST, (then, then))
    cli(*RUN, "--home", own)
    assert batches(own / NEWEST) == 2
    assert (own / NEWEST).stat().st_mtime < time.time() + 60


def test_a_home_without_backups_gets_one(cli: Cli, own: Path) -> None:
    """As one from before there were any."""
    shutil.rmtree(own / "backups")
    cli("push", "--home", own)
    assert batches(own / NEWEST) == 1 and len(list((own / "backups").iterdir())) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        StateUnreadable("ledger: row 7 missing from index", remedy="repair"),
    ],
)
def test_a_run_without_a_backup_is_done_and_tells(
    cli: Cli, own: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """Its exit code is its own; the backup that was there stays; the next run tries again."""
    os.utime(own / NEWEST, (1e9, 1e9))

    def fail(ledger: Ledger) -> None:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "back_up", fail)
        done = cli(*RUN, "--home", own)
        assert "no backup" in done.stderr and str(trouble) in done.stderr
    assert batches(own / NEWEST) == 1
    assert "batch 2" in cli("explain", "--home", own).stdout
    done = cli(*RUN, "--home", own)
    assert batches(own / NEWEST) == 3 and "no backup" not in done.stderr


def test_a_backup_has_no_place(cli: Cli, own: Path) -> None:
    """A file lies where the folder should be: told by name, and the run is fine."""
    shutil.rmtree(own / "backups")
    (own / "backups").write_text("in the way")
    told = cli(*RUN, "--home", own).stderr
    assert "no backup" in told and str(own) in told
    assert (own / "backups").read_text() == "in the way"


def test_a_damaged_ledger_is_no_backup(cli: Cli, own: Path) -> None:
    """What SQLite finds wrong in a copy is told, and the sound copy stays."""
    with closing(sqlite3.connect(own / "ledger.sqlite")) as connection:
        root = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'batches_by_entry'"
        ).fetchone()[0]
    with (own / "ledger.sqlite").open("r+b") as file:  # of an index that a run only adds to
        file.seek(4096 * (root - 1) + 3)
        file.write(b"\0\0")
    os.utime(own / NEWEST, (1e9, 1e9))
    sound = (own / NEWEST).read_bytes()
    with pytest.raises(StateUnreadable), Ledger.open(own) as ledger:
        ledger.back_up()
    assert (own / NEWEST).read_bytes() == sound and not (own / OLDER).exists()
    assert not [path for path in (own / "backups").iterdir() if path.name.startswith(".")]


def test_champions_are_backed_up_with_their_parents(cli: Cli, own: Path) -> None:
    """As soon as there is a new one, and the ledger with it; of older ones the latest stays."""
    training = ("--rounds", 5, "--threads", 1, "--min-labelled", 10, "--min-positives", 1)
    names = [path.name for path in (own / "models").iterdir()]
    for _ in range(3):
        cli(*RUN, "--home", own, "--retrain", "never", "--batch-rows", 200)
        cli("train", "--force", "--home", own, *training)
        names += sorted({path.name for path in (own / "models").iterdir()} - set(names))
    kept = {path.name for path in (own / "backups").iterdir() if path.is_dir()}
    assert len(names) == 4 and kept == set(names[1:])
    assert batches(own / NEWEST) == 4  # with each of them


def test_a_run_that_fails_makes_no_backup(own: Path) -> None:
    """What went wrong may be the ledger itself."""
    os.utime(own / NEWEST, (1e9, 1e9))

    def fail() -> None:
        with writing(Settings(home=own)):
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()
    assert (own / NEWEST).stat().st_mtime == 1e9


def test_a_home_that_is_not_there_is_made_only_if_asked_for(tmp_path: Path) -> None:
    """An empty home in place of one that was mistyped would be a lie."""
    settings: dict[str, Any] = {"home": tmp_path / "none"}
    with pytest.raises(SettingsError, match="no ledger"), reading(Settings(**settings)):
        pass
    with pytest.raises(SettingsError), writing(Settings(**settings), new=False):
        pass
    assert not (tmp_path / "none").exists()
    with writing(Settings(**settings)) as ledger:
        assert ledger.champion() is None
    assert batches(tmp_path / "none" / NEWEST) == 0


def test_a_home_whose_ledger_is_gone_is_still_one(cli: Cli, own: Path) -> None:
    """It is not begun anew as long as there is a backup, and readers do not see an empty one."""
    (own / "ledger.sqlite").unlink()
    for words in (RUN, ("status",), ("metrics",), ("push",), ("prune",), ("models", "list")):
        told = cli(*words, "--home", own, code=6).stderr
        assert "it is gone" in told and "wine-drift repair" in told
    assert not (own / "ledger.sqlite").exists()
