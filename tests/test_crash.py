"""Runs that are killed at each of their steps: the next run ends where an undisturbed one does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from test_shards import SCHEMA, table

Cli = Callable[..., Result]
Kept = Callable[[Path], dict[str, Any]]

Kill = Callable[..., None]

# For each line of input, a fork runs the command line and dies of SIGKILL before or after the step
# that is named. Everything heavy is loaded once, by the parent, which computes nothing itself.
PARENT = """
import importlib, json, os, signal, sys
import wine_drift.model, pandas, sklearn.model_selection
from wine_drift.cli import main
from wine_drift.run import run_batch

for line in sys.stdin:
    place, step, moment, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        os.chdir(place)
        module, _, path = step.partition(":")
        owner = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        real = getattr(owner, name)

        def die(*positional, **named):
            if moment == "after":
                real(*positional, **named)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, die)
        main(arguments)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

# Dies in the middle of a transaction of which pages are in the file already.
SPILLED = """
import os, pathlib, signal, sys
from wine_drift.ledger import Bounds, Commit, Ledger

Ledger._finish = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
with Ledger.open(pathlib.Path(sys.argv[1])) as ledger:
    ledger._connection.execute("PRAGMA cache_size = 2")
    run = {"success": False}
    commit = Commit("id", "quarantined", {"error": "long " * 200_000}, at=0.0, run=run)
    ledger.commit_batch(commit, Bounds(100, 100, 100))
"""

SET_ASIDE = "wine_drift.gathering:Gatherer.finish"  # rows that were set aside are written
COMMIT = "wine_drift.ledger:Ledger.commit_batch"
IN_COMMIT = "wine_drift.ledger:Ledger._finish"  # the last statement but COMMIT
PREPARE = "wine_drift.ledger:Ledger._prepare"  # before it, the file is there and empty
PUT_AWAY = "wine_drift.batches:put_away"
PUBLISH = "wine_drift.run:publish"
TEXTFILE = "wine_drift.outbox:write_textfile"
TRAIN = "wine_drift.recipes:train"
JUDGE = "wine_drift.retraining:judge"  # every candidate is trained, none has won yet
ASSEMBLE = "wine_drift.retraining:_assemble"  # one has
COMMIT_RETRAINING = "wine_drift.ledger:Ledger.commit_retraining"
PUBLISH_LABELS = "wine_drift.labels:publish"
WRITE_VERSION = "wine_drift.champion:write_version"
RENAME_VERSION = "wine_drift.shelf:write_folder"
IN_COMMIT_LABELS = "wine_drift.ledger:Ledger._change"  # of what a commit writes, nearly the last
FIRST_CHAMPION = "wine_drift.ledger:Ledger.commit_champion"
WRITE_SHARD = "wine_drift.shards:write_shard"
REMOVE_SHARDS = "wine_drift.home:remove_shards"


@pytest.fixture(scope="module")
def kill() -> Iterator[Kill]:
    """Run the command line in a process that dies: `kill(step, "before", "run-batch", ...)`."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], text=True, **pipes) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        orders, answers = parent.stdin, parent.stdout

        def order(step: str, moment: str, *arguments: object) -> None:
            line = json.dumps([str(Path.cwd()), step, moment, list(map(str, arguments))])
            print(line, file=orders, flush=True)
            assert int(answers.readline()) == -signal.SIGKILL

        yield order
        orders.close()


def folder(at: Path, name: str, home: Path | None, files: dict[str, bytes]) -> Path:
    """Make a folder of one experiment: home, inbox with files of known age, outside file."""
    base = at / name
    (base / "inbox").mkdir(parents=True)
    if home is not None:
        shutil.copytree(home, base / "home")
    for age, (file, data) in enumerate(files.items()):
        (base / "inbox" / file).write_bytes(data)
        os.utime(base / "inbox" / file, (1e9 + age, 1e9 + age))
    return base


def compare(
    cli: Cli,
    kill: Kill,
    kept: Kept,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    home: Path | None,
    files: dict[str, bytes],
    options: tuple[object, ...],
    step: str,
    moment: str,
    code: int = 0,
    at_end: int = 0,
) -> None:
    """One home is left in peace, one is killed and run again; both must end the same."""
    ends = []
    for name in ("peace", "killed"):
        base = folder(tmp_path, name, home, files)
        monkeypatch.chdir(base)
        arguments = ("run-batch", "--home", "home", *options)
        if name == "killed":
            before = len(kept(Path("home"))["records"]) if home is not None else 0
            kill(step, moment, *arguments)
            committed = len(kept(Path("home"))["records"]) > before
            if not committed:
                cli(*arguments, code=code)
        else:
            cli(*arguments, code=code)
        cli(*arguments, code=at_end)  # nothing is left for this one
        inbox = sorted(path.name for path in Path("inbox").iterdir())
        ends.append(kept(Path("home")) | {"inbox": inbox})
    peace, killed = ends
    assert killed.keys() == peace.keys()
    for part in peace:
        assert killed[part] == peace[part], part


FLIPPED = ("--scenario", "label_flip", "--batch-rows", 340)


@pytest.fixture(scope="module")
def flipped_home(
    trained_home: Path, red_wine_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A home after one batch of wrong answers; the next one confirms them. Not to be written to."""
    from wine_drift.cli import main

    home = Path(shutil.copytree(trained_home, tmp_path_factory.mktemp("flipped") / "home"))
    arguments = ["run-batch", "--home", str(home), "--data", str(red_wine_csv), *map(str, FLIPPED)]
    main(arguments, standalone_mode=False)
    return home


def compare_command(
    kill: Kill,
    cli: Cli,
    kept: Kept,
    home: Path,
    tmp_path: Path,
    arguments: tuple[object, ...],
    *,
    step: str,
    moment: str,
) -> dict[str, Any]:
    """A command is left in peace in one home, and killed in another until it is given again."""
    ends = []
    for name in ("peace", "killed"):
        place = Path(shutil.copytree(home, tmp_path / name))
        if name == "killed":
            kill(step, moment, *arguments, "--home", place)
        cli(*arguments, "--home", place)
        end = kept(place)
        for record in end["records"]:
            if record["labels"] is not None:
                record["labels"] |= {"added_at": 0, "lag_seconds": 0}
        end["metrics"].pop(("wine_drift_label_lag_seconds",), None)
        ends.append(end)
    peace, killed = ends
    for part in peace:
        assert killed[part] == peace[part], part
    return peace


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        (TRAIN, "before"),
        (JUDGE, "before"),
        (JUDGE, "after"),
        (ASSEMBLE, "after"),
        (WRITE_VERSION, "before"),
        (RENAME_VERSION, "before"),
        (WRITE_VERSION, "after"),
        (SET_ASIDE, "after"),
        (COMMIT, "before"),
        (IN_COMMIT, "after"),
        (COMMIT, "after"),
        (PUT_AWAY, "after"),
        (TEXTFILE, "before"),
        (PUBLISH, "after"),
    ],
)
def test_inbox_file_that_promotes(
    cli: Cli,
    kill: Kill,
    kept: Kept,
    flipped_home: Path,
    red_wine_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    moment: str,
) -> None:
    """Killed anywhere in a run that retrains and promotes, an inbox file counts once."""
    out = tmp_path / "drifted"
    cli("simulate", "--data", red_wine_csv, *FLIPPED[:2], "--seed", 5, "--out", out)
    (file,) = out.iterdir()
    compare(
        cli,
        kill,
        kept,
        tmp_path,
        monkeypatch,
        home=flipped_home,
        files={file.name: file.read_bytes()},
        options=("--inbox", "inbox"),
        step=step,
        moment=moment,
    )
    versions = kept(Path("home"))["versions"]
    assert [manifest["number"] for manifest in versions] == [1, 2]


@pytest.mark.parametrize(
    ("step", "moment"),
    [(COMMIT, "before"), (COMMIT, "after"), (PUT_AWAY, "after"), (PUBLISH, "before")],
)
def test_bad_inbox_file(
    cli: Cli,
    kill: Kill,
    kept: Kept,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    moment: str,
) -> None:
    """Killed anywhere in a run that refuses a file, the file is in quarantine and counts once."""
    compare(
        cli,
        kill,
        kept,
        tmp_path,
        monkeypatch,
        home=home,
        files={"bad.csv": b"a;b\n1;2\n"},
        options=("--inbox", "inbox"),
        step=step,
        moment=moment,
        code=3,
    )


@pytest.mark.parametrize(("step", "moment"), [(COMMIT, "after"), (PUT_AWAY, "after")])
def test_bad_named_file(
    cli: Cli,
    kill: Kill,
    kept: Kept,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    moment: str,
) -> None:
    """Killed in a run that refuses a named file, the next one sees to its copy in quarantine."""
    compare(
        cli,
        kill,
        kept,
        tmp_path,
        monkeypatch,
        home=home,
        files={"bad.csv": b"a;b\n1;2\n"},
        options=("inbox/bad.csv",),
        step=step,
        moment=moment,
        code=3,
        at_end=3,
    )


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        (WRITE_VERSION, "after"),
        (FIRST_CHAMPION, "after"),
        (SET_ASIDE, "before"),
        (IN_COMMIT, "after"),
        (COMMIT, "after"),
        (TEXTFILE, "after"),
    ],
)
def test_first_run_on_a_stream(
    cli: Cli,
    kill: Kill,
    kept: Kept,
    red_wine_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    moment: str,
) -> None:
    """Killed anywhere in the first run, model and slice are those of an undisturbed one."""
    compare(
        cli,
        kill,
        kept,
        tmp_path,
        monkeypatch,
        home=None,
        files={},
        options=("--data", red_wine_csv, "--training-share", 0.9, "--batch-rows", 200),
        step=step,
        moment=moment,
    )
    (record,) = kept(Path("home"))["records"]
    assert record["batch"]["name"].endswith("-1599")


@pytest.mark.parametrize(("step", "moment"), [(IN_COMMIT, "after"), (COMMIT, "after")])
def test_stream_slice_that_promotes(
    cli: Cli,
    kill: Kill,
    kept: Kept,
    flipped_home: Path,
    red_wine_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    moment: str,
) -> None:
    """Killed around the commit of a promotion, a slice of the stream is taken once."""
    options = ("--data", red_wine_csv, *FLIPPED)
    compare(
        cli,
        kill,
        kept,
        tmp_path,
        monkeypatch,
        home=flipped_home,
        files={},
        options=options,
        step=step,
        moment=moment,
    )
    assert len(kept(Path("home"))["versions"]) == 2


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        (TRAIN, "before"),
        (JUDGE, "after"),
        (RENAME_VERSION, "before"),
        (WRITE_VERSION, "after"),
        (COMMIT_RETRAINING, "before"),
    ],
)
def test_training_by_hand(
    cli: Cli, kill: Kill, kept: Kept, flipped_home: Path, tmp_path: Path, step: str, moment: str
) -> None:
    """Killed before its commit, a training by hand is as if it had not been."""
    arguments = ("train", "--force", "--recipe", "auto")
    end = compare_command(
        kill, cli, kept, flipped_home, tmp_path, arguments, step=step, moment=moment
    )
    assert [manifest["number"] for manifest in end["versions"]] == [1, 2]


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        (JUDGE, "after"),
        (WRITE_VERSION, "after"),
        (COMMIT, "before"),
        (IN_COMMIT_LABELS, "after"),
        (COMMIT, "after"),
        (PUBLISH_LABELS, "before"),
    ],
)
def test_late_labels(
    cli: Cli,
    kill: Kill,
    kept: Kept,
    flipped_home: Path,
    red_wine_csv: Path,
    tmp_path: Path,
    step: str,
    moment: str,
) -> None:
    """Killed anywhere, labels that came late are counted once, and so is what follows from them."""
    (tmp_path / "all").mkdir()
    cli("simulate", "--data", red_wine_csv, *FLIPPED, "--seed", 5, "--out", tmp_path / "all")
    (file,) = (tmp_path / "all").iterdir()
    header, *lines = file.read_text(encoding="utf-8").splitlines()
    unlabelled = [line.rpartition(";")[0] + ";" for line in lines]
    labels = [line.rpartition(";")[2] for line in lines]
    batch, late = tmp_path / "batch.csv", tmp_path / "late.csv"
    batch.write_text("\n".join([header, *unlabelled, ""]), encoding="utf-8")
    late.write_text("\n".join(["quality", *labels, ""]), encoding="utf-8")
    home = Path(shutil.copytree(flipped_home, tmp_path / "home"))
    cli("run-batch", batch, "--home", home)
    end = compare_command(
        kill, cli, kept, home, tmp_path, ("add-labels", 3, late), step=step, moment=moment
    )
    assert end["champion"].startswith("v2-")
    assert end["records"][-1]["retraining"]["outcome"] == "promoted"


def test_home_can_be_read_after_a_kill_while_the_ledger_was_made(
    cli: Cli, kill: Kill, red_wine_csv: Path, tmp_path: Path
) -> None:
    """A ledger file that is still empty reads as no run yet."""
    home = tmp_path / "home"
    arguments = ("run-batch", "--home", home, "--data", red_wine_csv)
    kill(PREPARE, "before", *arguments)
    assert (home / "ledger.sqlite").stat().st_size == 0
    assert "no model yet" in cli("status", "--home", home).stdout
    assert "no run yet" in cli("health", "--home", home, code=7).stderr


def test_home_can_be_read_after_a_kill_in_the_middle_of_a_commit(
    cli: Cli, home: Path, kept: Kept
) -> None:
    """A transaction of which a part reached the disk is as if it had not been, for readers too."""
    before = kept(home)
    process = subprocess.run([sys.executable, "-c", SPILLED, home], timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert (home / "ledger.sqlite-journal").is_file()
    assert "champion  v1-" in cli("status", "--home", home).stdout
    assert "healthy" in cli("health", "--home", home).stdout
    assert kept(home)["records"] == before["records"]


def test_lock_does_not_outlive_its_holder(
    cli: Cli, kill: Kill, home: Path, red_wine_csv: Path
) -> None:
    """A run that was killed holds no lock."""
    arguments = ("run-batch", "--home", home, "--data", red_wine_csv)
    kill(COMMIT, "before", *arguments)
    cli(*arguments)


@pytest.fixture(scope="module")
def large_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose window has files of rows, which the next batch drives out. Not to be written."""
    from wine_drift.cli import main

    place = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (place / "made.toml").write_text(SCHEMA)
        words = ["--home", "home", "--schema", "made.toml", "--window-rows", "80000"]
        table("first.csv", 600, 1)
        train = ["train", *words, "--data", "first.csv", "--rounds", "20"]
        main(train, standalone_mode=False)
        table("before.csv", 70_000, 2)
        main(["run-batch", "before.csv", *words], standalone_mode=False)
        table("after.csv", 150_000, 3)
    return place


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        (WRITE_SHARD, "before"),
        (WRITE_SHARD, "after"),
        ("wine_drift.shards:remove_shards", "after"),
        (COMMIT, "before"),
        (IN_COMMIT, "after"),
        (COMMIT, "after"),
        (PUT_AWAY, "after"),
        (REMOVE_SHARDS, "before"),
        (REMOVE_SHARDS, "after"),
    ],
)
def test_a_batch_with_more_labelled_rows_than_the_ledger_holds(
    cli: Cli,
    kill: Kill,
    kept: Kept,
    large_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    moment: str,
) -> None:
    """Killed anywhere, its rows are in files once, and those that it drove out are gone."""
    compare(
        cli,
        kill,
        kept,
        tmp_path,
        monkeypatch,
        home=large_home / "home",
        files={"after.csv": (large_home / "after.csv").read_bytes()},
        options=(
            *("--inbox", "inbox", "--schema", large_home / "made.toml"),
            *("--window-rows", 80_000, "--retrain", "never"),
        ),
        step=step,
        moment=moment,
    )
    end = kept(Path("home"))
    assert {shard.newest for shard in end["shards"]} == {2}
    files = {name for name in end["files"] if name.startswith("models/window/")}
    assert files == {f"models/window/{shard.name}" for shard in end["shards"]}
