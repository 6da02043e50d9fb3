"""The command line: exit codes by real causes, one-line errors, and the small commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from wine_drift.settings import load_settings, settings_toml

Cli = Callable[..., Result]
Record = Callable[..., dict[str, Any]]
Wines = Callable[..., Path]
Published = Callable[[Path], dict[tuple[str, ...], float]]
Samples = Callable[[str], dict[tuple[str, ...], float]]

COMMANDS = (
    ("run-batch",),
    ("schedule",),
    ("train",),
    ("metrics",),
    ("push",),
    ("status",),
    *(("models", name) for name in ("list", "show", "rollback", "prune", "diff")),
    *(("models", name) for name in ("export", "import")),
    ("simulate",),
    ("fetch-data",),
    ("init",),
    ("health",),
)
READERS = (("metrics",), ("status",), ("models", "list"), ("models", "show"), ("health",))


def told(result: Result) -> str:
    """Read the only error of a result: one line, one with the remedy, and that of the run."""
    error, remedy, *rest = result.stderr.splitlines()
    run = f" error run outcome=failed exit_code={result.exit_code} "
    done = f" error run outcome=processed exit_code={result.exit_code} "
    known = f" error run outcome=already_processed exit_code={result.exit_code} "
    assert error.startswith("error: ") and len(rest) < 2, result.stderr
    assert not rest or any(words in rest[0] for words in (run, done, known)), result.stderr
    assert remedy.startswith("       ") and remedy.strip(), result.stderr
    return error


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "wine_drift", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def closed_port() -> str:
    """Address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "http://{}:{}".format(*probe.getsockname())


def ledger_file(home: Path) -> Path:
    return home / "ledger.sqlite"


def model_file(home: Path, name: str) -> Path:
    (path,) = (home / "models").glob(f"*/{name}")
    return path


def scribble(home: Path) -> Path:
    path = ledger_file(home)
    path.write_bytes(b"no ledger, and no page of one either" * 100)
    return path


def tear_ledger(home: Path) -> Path:
    path = ledger_file(home)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def from_the_future(home: Path) -> Path:
    """As `PRAGMA user_version = 99` does: four bytes at offset 60 of the file."""
    path = ledger_file(home)
    data = bytearray(path.read_bytes())
    data[60:64] = (99).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def tear_model(home: Path) -> Path:
    path = model_file(home, "model.txt")
    path.write_bytes(path.read_bytes()[:1000])
    return path


def flip_model(home: Path) -> Path:
    path = model_file(home, "model.txt")
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    return path


def lose_reference(home: Path) -> Path:
    path = model_file(home, "reference.json")
    path.unlink()
    return path


# --- exit codes ---


def test_success_is_0_in_a_process(home: Path, red_wine_csv: Path) -> None:
    """A run in cron prints its record on stdout, its line on stderr, and exits with 0."""
    done = process("run-batch", "--home", home, "--data", red_wine_csv, "--json")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 0 and " info run outcome=processed exit_code=0 " in line
    assert json.loads(done.stdout)["outcome"] == "processed"


def test_bad_batch_is_3_in_a_process(home: Path, tmp_path: Path) -> None:
    """A bad batch in cron is one line, a remedy and 3."""
    bad = tmp_path / "bad.csv"
    bad.write_text("a;b\n1;2\n")
    done = process("run-batch", bad, "--home", home)
    assert done.returncode == 3
    error, remedy, line = done.stderr.splitlines()
    assert error.startswith(f"error: {bad}: ") and "quarantine" in error and remedy.strip()
    assert " error run outcome=quarantined exit_code=3 " in line


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_unknown_options_are_2(cli: Cli, command: tuple[str, ...], tmp_path: Path) -> None:
    """An option that is not there is a mistake of usage, and nothing is made."""
    result = cli(*command, "--no-such-option", code=2)
    assert "--no-such-option" in result.stderr and result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (("--batch-rows", "0"), "--batch-rows: '0' is not a whole number >= 1"),
        (("--scenario", "flood"), "--scenario: 'flood' is none of"),
        (("--data", "absent.csv"), "no file absent.csv"),
        (("absent.csv",), "batch absent.csv: No such file"),
        (("--inbox", "absent"), "inbox absent: No such file"),
        (("--source", "inbox"), "no inbox is set"),
        (("--schema", "absent.toml"), "schema absent.toml: No such file"),
        (("--settings", "absent.toml"), "absent.toml: No such file"),
        (("--pushgateway", "http://"), "not an address"),
        (("--textfile", "metrics.txt"), "end in .prom"),
        (("--scenario", "stuck", "--scenario-feature", "colour"), "'colour' is not one of"),
    ],
)
def test_wrong_settings_are_2(
    cli: Cli, home: Path, arguments: tuple[str, ...], mistake: str, red_wine_csv: Path
) -> None:
    """A setting that cannot be used is told with its place and a remedy."""
    data = () if "--data" in arguments else ("--data", red_wine_csv)
    result = cli("run-batch", *arguments, "--home", home, *data, code=2)
    assert mistake in told(result)
    assert result.stdout == ""


def test_all_mistakes_are_told_at_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """File, environment and options are all checked before anything is done."""
    Path("wine-drift.toml").write_text('colour = "red"\nbudget = "many"\n')
    monkeypatch.setenv("WINE_DRIFT_SEED", "-1")
    result = cli("run-batch", "--rounds", "0", "--home", "home", code=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    places = ("wine-drift.toml: colour", "wine-drift.toml: budget", "WINE_DRIFT_SEED", "--rounds")
    assert len(lines) == len(places)
    for place in places:
        assert any(line.startswith(f"error: {place}: ") for line in lines), place
    assert not (tmp_path / "home").exists()


def test_layers_of_settings(
    record: Record, home: Path, red_wine_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option wins over the variable, and the variable over the file."""
    Path("wine-drift.toml").write_text(f'home = "{home}"\nbatch_rows = 30\n')
    monkeypatch.setenv("WINE_DRIFT_DATA", str(red_wine_csv))
    assert record("run-batch")["batch"]["rows"] == 30
    monkeypatch.setenv("WINE_DRIFT_BATCH_ROWS", "40")
    assert record("run-batch")["batch"]["rows"] == 40
    assert record("run-batch", "--batch-rows", 60)["batch"]["rows"] == 60


def test_no_gateway_is_4_and_the_batch_counts(
    cli: Cli, record: Record, home: Path, wines: Wines, closed_port: str, published: Published
) -> None:
    """A failed push is told and counted, and does not undo the batch."""
    sink = ("--pushgateway", closed_port, "--push-deadline", 0.1)
    path = wines("a.csv")
    done = record("run-batch", path, "--home", home, *sink, code=4)
    assert done["outcome"] == "processed"
    assert done["push"]["status"] == "failed" and closed_port in done["push"]["error"]
    again = cli("run-batch", path, "--home", home, *sink, code=4)
    assert "already processed" in again.stdout and "wine-drift push" in again.stderr
    assert closed_port in told(again)
    assert closed_port in told(cli("push", "--home", home, *sink, code=4))
    shown = published(home)
    assert shown["wine_drift_batches_total", "success"] == 2
    assert shown["wine_drift_push_failures_total", "connection"] == 3


def test_one_sink_does_not_hinder_the_other(
    record: Record, home: Path, wines: Wines, closed_port: str, tmp_path: Path
) -> None:
    """The textfile is written also when the gateway is away."""
    textfile = tmp_path / "out" / "wine.prom"
    sinks = ("--pushgateway", closed_port, "--push-deadline", 0.1, "--textfile", textfile)
    done = record("run-batch", wines("a.csv"), "--home", home, *sinks, code=4)
    assert done["push"]["sinks"] == [str(textfile)] and textfile.is_file()


@pytest.mark.parametrize("command", ["run-batch", "train"])
def test_a_held_lock_is_5(cli: Cli, home: Path, wines: Wines, command: str) -> None:
    """While another process holds the lock nothing is done; afterwards all is as usual."""
    holder = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    path = wines("a.csv")
    arguments = ("run-batch", path) if command == "run-batch" else ("train",)
    before = ledger_file(home).read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", holder, home / "run.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert "another run" in told(cli(*arguments, "--home", home, code=5))
        cli("status", "--home", home)
        cli("run-batch", path, "--home", home, "--dry-run")
        assert ledger_file(home).read_bytes() == before
        other.stdin.close()
    cli(*arguments, "--home", home)


@pytest.mark.parametrize(
    "damage", [scribble, tear_ledger, from_the_future, tear_model, flip_model, lose_reference]
)
def test_damage_is_6_and_loses_nothing(
    cli: Cli,
    record: Record,
    home: Path,
    tmp_path: Path,
    wines: Wines,
    published: Published,
    damage: Callable[[Path], Path],
) -> None:
    """Unreadable state is told with its file; once that is restored the batch is processed."""
    path = wines("inbox/a.csv")
    data = path.read_bytes()
    backup = shutil.copytree(home, tmp_path / "backup")
    broken = damage(home)
    result = cli("run-batch", "--home", home, "--inbox", path.parent, code=6)
    assert broken.parent.name in told(result) and result.stdout == ""
    assert path.read_bytes() == data

    shutil.copyfile(backup / broken.relative_to(home), broken)
    done = record("run-batch", "--home", home, "--inbox", path.parent)
    assert done["outcome"] == "processed" and done["batch"]["name"] == "a.csv"
    assert published(home)["wine_drift_batches_total", "success"] == 2


@pytest.mark.parametrize("command", READERS, ids=" ".join)
@pytest.mark.parametrize("damage", [scribble, from_the_future])
def test_readers_tell_a_damaged_ledger(
    cli: Cli, home: Path, command: tuple[str, ...], damage: Callable[[Path], Path]
) -> None:
    """Commands that only read exit with 6 too, and change nothing."""
    broken = damage(home)
    before = broken.read_bytes()
    assert "ledger.sqlite" in told(cli(*command, "--home", home, code=6))
    assert broken.read_bytes() == before


def test_failed_run_is_published(cli: Cli, home: Path, wines: Wines, samples: Samples) -> None:
    """A run that ended with 6 is told to who watches: last_run_success is 0, health says 7."""
    tear_model(home)
    cli("run-batch", wines("a.csv"), "--home", home, code=6)
    text = (home / "metrics" / "wine_drift.prom").read_text()
    assert samples(text)["wine_drift_last_run_success", "red_wine"] == 0
    assert "StateUnreadable" in told(cli("health", "--home", home, code=7))


@pytest.mark.parametrize(
    ("fail_on", "scenario", "code"),
    [
        ("never", "switch", 0),
        ("drift", "switch", 8),
        ("major", "switch", 8),
        ("drift", "none", 0),
    ],
)
def test_fail_on_drift_is_8(
    cli: Cli, home: Path, red_wine_csv: Path, fail_on: str, scenario: str, code: int
) -> None:
    """Drift is an exit code only for those who ask for it, after everything else was done."""
    options = ("--home", home, "--data", red_wine_csv, "--scenario", scenario)
    result = cli("run-batch", *options, "--fail-on", fail_on, code=code)
    (line,) = result.stderr.splitlines()
    level = "info" if scenario == "none" else "warning"
    assert "published" in result.stdout and f" {level} run outcome=processed " in line


def test_known_batch_is_0_although_it_drifted(
    cli: Cli, home: Path, red_wine_csv: Path, tmp_path: Path
) -> None:
    """The alarm of --fail-on is raised once: the same batch again is exit 0."""
    cli("simulate", "--data", red_wine_csv, "--scenario", "switch", "--out", tmp_path / "out")
    (path,) = (tmp_path / "out").iterdir()
    cli("run-batch", path, "--home", home, "--fail-on", "drift", code=8)
    cli("run-batch", path, "--home", home, "--fail-on", "drift", code=0)


def test_home_that_is_a_file_is_told(cli: Cli, tmp_path: Path, red_wine_csv: Path) -> None:
    """A home that cannot be a folder is told with its name."""
    (tmp_path / "home").write_text("")
    options = ("--home", tmp_path / "home", "--data", red_wine_csv)
    assert "home" in told(cli("run-batch", *options, code=2))


# --- run-batch --drain ---


def test_draining_takes_all_that_waits(cli: Cli, home: Path, wines: Wines) -> None:
    """One run after the other, each told; a bad file stops nobody and is the exit code."""
    inbox = wines("inbox/0.csv").parent
    for number in range(1, 5):
        wines(f"inbox/{number}.csv", 100 * number, 100 * number + 100)
    (inbox / "2.csv").write_text("a;b\n1;2\n")
    for number in range(5):
        os.utime(inbox / f"{number}.csv", (1e9 + number, 1e9 + number))
    result = cli("run-batch", "--home", home, "--inbox", inbox, "--drain", code=3)
    lines = [line for line in result.stderr.splitlines() if " run outcome=" in line]
    assert [line.split("exit_code=")[1][0] for line in lines] == ["0", "0", "3", "0", "0"]
    assert [line.split("pending=")[1][0] for line in lines] == ["4", "3", "2", "1", "0"]
    names = [path.name.partition("-")[2] for path in (home / "archive").iterdir()]
    assert sorted(names) == ["0.csv", "1.csv", "3.csv", "4.csv"]
    result = cli("run-batch", "--home", home, "--inbox", inbox, "--drain")
    assert result.stderr.count("outcome=nothing_waiting") == 1


def test_draining_ends_although_files_stay(
    cli: Cli, home: Path, wines: Wines, tmp_path: Path
) -> None:
    """What cannot be put away or read is no work for another run at once."""
    wines("inbox/a.csv")
    inbox = wines("inbox/b.csv", 100, 200).parent
    (inbox / "gone.csv").symlink_to(tmp_path / "nowhere")
    (home / "archive").write_text("a file where the folder should be")
    result = cli("run-batch", "--home", home, "--inbox", inbox, "--drain")
    assert result.stderr.count("outcome=processed") == 2
    assert result.stderr.count(" run outcome=") == 3  # the last one found nothing
    assert len(list(inbox.iterdir())) == 3


def test_a_mistyped_batch_is_no_run(cli: Cli, home: Path, tmp_path: Path, wines: Wines) -> None:
    """Nothing is done, as the exit code says: the job is as well as it was, and no home is made."""
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    for name in ("typo.csv", tmp_path / "none" / "a.csv", os.devnull):
        assert f"batch {name}: " in told(cli("run-batch", name, "--home", home, code=2))
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    cli("health", "--home", home)
    assert cli("status", "--home", home).stdout.startswith("HEALTHY")
    cli("run-batch", "typo.csv", "--home", "new", code=2)
    assert not Path("new").exists()
    cli("run-batch", "--inbox", "absent", "--home", home, code=2)  # of a schedule, as it may be
    assert "last run failed: SettingsError" in cli("health", "--home", home, code=7).stderr


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (("models", "export", "v1", "--out", "-"), "--out -: is no file"),
        (("simulate", "--out", "-"), "--out -: is no folder"),
        (("demo", "--openmetrics", "-"), "--openmetrics -: is no file"),
        (("run-batch", "--log-file", "-"), "--log-file: - is no file"),
        (("init", "-", "--from", "a", "--target", "b", "--positive", "> 1"), "writes two files"),
        (("report", "--out", "-", "--json"), "both write to standard output"),
        (("report",), "no file to write to"),
    ],
)
def test_a_dash_is_no_file(cli: Cli, words: tuple[str, ...], mistake: str) -> None:
    """It is standard output where that has a meaning, and else a mistake; nothing is made."""
    home = () if words[0] == "init" else ("--home", "home")
    assert mistake in cli(*words, *home, code=2).stderr
    assert not any(Path().iterdir())


def test_settings_can_be_printed(cli: Cli) -> None:
    """Where a file would be written."""
    assert cli("init", "-").stdout == settings_toml()
    assert not any(Path().iterdir())


def test_draining_ends_with_an_error(cli: Cli, home: Path, wines: Wines) -> None:
    """A run that did not get rid of its batch is the last one."""
    wines("inbox/a.csv")
    inbox = wines("inbox/b.csv", 100, 200).parent
    tear_model(home)
    result = cli("run-batch", "--home", home, "--inbox", inbox, "--drain", code=6)
    assert result.stderr.count(" run outcome=") == 1


def test_draining_takes_no_batch(cli: Cli, home: Path, wines: Wines) -> None:
    """One batch, or all of the inbox."""
    path = wines("inbox/a.csv")
    told(cli("run-batch", path, "--home", home, "--inbox", path.parent, "--drain", code=2))
    assert path.exists()


# --- init ---


def test_init_writes_settings_that_load(cli: Cli, tmp_path: Path) -> None:
    """The file of `init` loads as it is, and equals the defaults when its lines are uncommented."""
    path = tmp_path / "wine-drift.toml"
    assert str(path.name) in cli("init").stdout
    assert path.read_text() == settings_toml()
    defaults = load_settings({}, {}, file=path)
    lines = [line.removeprefix("# ") for line in path.read_text().splitlines()]
    given = [line for line in lines if " = " in line and not line.endswith('""')]
    path.write_text("\n".join(line for line in given if line.split(" = ")[0].isidentifier()))
    assert len(tomllib.loads(path.read_text())) > 20
    loaded = load_settings({"home": str(defaults.home)}, {}, file=path)
    assert loaded == defaults


def test_init_overwrites_nothing(cli: Cli, tmp_path: Path) -> None:
    """A settings file that is there stays as it is."""
    path = tmp_path / "mine.toml"
    path.write_text("seed = 1\n")
    assert "mine.toml" in told(cli("init", path, code=2))
    assert path.read_text() == "seed = 1\n"


# --- health, status, models ---


def test_health(cli: Cli, home: Path, tmp_path: Path) -> None:
    """Health is 0 after a good run, and 7 when there was none, a bad one, or none for long."""
    assert "healthy" in cli("health", "--home", home).stdout
    assert "no run yet" in told(cli("health", "--home", tmp_path / "none", code=7))
    assert not (tmp_path / "none").exists()
    bad = tmp_path / "bad.csv"
    bad.write_text("a;b\n1;2\n")
    cli("run-batch", bad, "--home", home, code=3)
    assert "the last run failed: quarantined" in told(cli("health", "--home", home, code=7))
    (tmp_path / "inbox").mkdir()
    cli("run-batch", "--home", home, "--inbox", tmp_path / "inbox")
    cli("health", "--home", home)


def test_health_of_an_old_run(cli: Cli, home: Path) -> None:
    """A success longer ago than max_age is not healthy."""
    time.sleep(1.0)
    assert "max_age" in told(cli("health", "--home", home, "--max-age", 0.001, code=7))


def test_an_empty_home_can_be_read(cli: Cli, tmp_path: Path) -> None:
    """Before the first run the readers say so, and make nothing."""
    home = tmp_path / "none"
    assert "no model yet" in cli("status", "--home", home).stdout
    assert json.loads(cli("status", "--home", home, "--json").stdout)["batches"] == []
    assert cli("models", "list", "--home", home).stdout.startswith("no models yet; the first")
    assert 'wine_drift_batches_total{outcome="success",pipeline="red_wine"} 0.0' in (
        cli("metrics", "--home", home).stdout
    )
    assert "None" not in told(cli("models", "show", "--home", home, code=2))
    assert not home.exists()


def test_status_shows_every_kind_of_batch(
    cli: Cli, home: Path, tmp_path: Path, wines: Wines
) -> None:
    """Status has a line for each batch: judged, not judged, without labels, refused."""
    bad = tmp_path / "bad.csv"
    bad.write_text("a;b\n1;2\n")
    cli("run-batch", wines("few.csv", 0, 5), "--home", home)
    cli("run-batch", wines("bare.csv", edit=lambda cells: [*cells[:-1], ""]), "--home", home)
    cli("run-batch", bad, "--home", home, code=3)
    shown = cli("status", "--home", home).stdout
    assert "champion  v1-" in shown and "FAILED (quarantined)" in shown
    (few,) = (line for line in shown.splitlines() if "few.csv" in line)
    refused = [line for line in shown.splitlines() if "bad.csv" in line][-1]
    assert "bare.csv" in shown and "not judged" in few and "quarantined" in refused
    assert len(json.loads(cli("status", "--home", home, "--json").stdout)["batches"]) == 4
    assert "few.csv" not in cli("status", "--home", home, "--last", 2).stdout


def test_models(cli: Cli, home: Path) -> None:
    """Versions are listed, shown by name, and an unknown one is told with those there are."""
    listed = json.loads(cli("models", "list", "--home", home, "--json").stdout)
    (manifest,) = listed["versions"]
    assert listed["champion"] == manifest["version"] and manifest["reason"] == "first"
    assert json.loads(cli("models", "show", "--home", home).stdout) == manifest
    assert json.loads(cli("models", "show", listed["champion"], "--home", home).stdout) == manifest
    result = cli("models", "show", "v9-none", "--home", home, code=2)
    assert "v9-none" in told(result) and manifest["version"] in result.stderr
    assert f"*  {manifest['version']}" in cli("models", "list", "--home", home).stdout


def test_versions_hold_no_pickle(home: Path) -> None:
    """A version is LightGBM's text, JSON and compressed numbers, in files for the owner's eyes."""
    names = sorted(path.name for path in (home / "models").glob("*/*"))
    assert names == [
        *("manifest.json", "model.txt", "reference.json", "reference.npy.z", "rows.npy.z"),
    ]
    assert model_file(home, "model.txt").read_text().startswith("tree\n")
    assert (home / "models").stat().st_mode & 0o077 == 0 or home.stat().st_mode & 0o077 == 0


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    """Output into a closed pipe ends quietly."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "wine_drift", "metrics", "--home", home],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.stderr == ""


# --- train ---


def test_train_says_how_many_labels_it_waits_for(cli: Cli, home: Path) -> None:
    """The answer of `train` in cron tells what there is and what is needed."""
    result = cli("train", "--home", home)
    assert "100 rows and 10 positives" in result.output


def test_files_that_cannot_be_moved_are_told(
    cli: Cli, home: Path, wines: Wines, published: Published
) -> None:
    """A batch that was recorded but not put away is told on stderr, also without a terminal."""
    path = wines("inbox/a.csv")
    (home / "archive").write_text("a file where the folder should be")
    result = cli("run-batch", "--home", home, "--inbox", path.parent)
    assert published(home)["wine_drift_batches_total", "success"] == 2
    assert "not moved" in result.stderr


@pytest.mark.parametrize("ignored", [False, True], ids=["at a terminal", "in the background"])
def test_an_interrupt_before_the_first_command_is_no_traceback(
    tmp_path: Path, *, ignored: bool
) -> None:
    """Ctrl-C while the imports go on; who started it so that it takes no notice, is heeded."""
    (tmp_path / "click.py").write_text("print('here', flush=True)\ninput()\nraise SystemExit(7)\n")
    program = subprocess.Popen(
        [sys.executable, "-m", "wine_drift"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN) if ignored else None,
        text=True,
    )
    assert program.stdout is not None and program.stdout.readline() == "here\n"
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate("\n", timeout=60)
    assert (program.returncode, errors) == (7 if ignored else -signal.SIGINT, "")
