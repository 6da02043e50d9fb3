"""One line a run, as text and as JSON; what is printed when, and what --quiet leaves out."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import example, given
from hypothesis import strategies as st

from wine_drift.errors import BadBatch, WineDriftError
from wine_drift.ledger import Ledger
from wine_drift.logline import line_json, line_text, log_line, run_line, stamp
from wine_drift.record import is_news

Cli = Callable[..., Result]
Wines = Callable[..., Path]

SIMULATED = "SIMULATED DATA: these are not measurements of real wines"
SMALL = ("--source", "simulated", "--rounds", "20", "--threads", "1")
WORD = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |$)')
NASTY = [
    *("two\nlines", "a\rb", "tab\there", 'a "quoted" one', "back\\slash", "a=b", "", " ", "=", '"'),
    *("\x1b[31mred", "\x9b31mred", "\x00", "\x7f", "u\u2028v", "u\x85v", "\u202egnirts"),
    *("M\u00e4rz", "\N{WINE GLASS}", "M\udce4rz", "\N{NO-BREAK SPACE}", "-", "None"),
]


def parsed(text: str) -> dict[str, str]:
    """A line of text, read as its form promises."""
    time, level, event, *rest = text.split(" ", 3)
    found = {"time": time, "level": level, "event": event}
    for key, value in WORD.findall(rest[0] if rest else ""):
        assert key not in found
        found[key] = json.loads(value) if value.startswith('"') else value
    assert WORD.sub("", rest[0] if rest else "") == ""
    return found


def shown(value: object) -> str:
    """A value as text has it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def one_line(text: str) -> bool:
    """Whether this is one line for a file, a terminal and a program."""
    return text.isprintable() and len(text.splitlines()) == 1 and bool(text.encode())


def record(name: str) -> dict[str, Any]:
    """Of a batch, with all that a line tells."""
    return {
        "outcome": "processed",
        "batch": {
            **{"sequence": 7, "name": name, "id": "0123456789ab"},
            **{"rows": 100, "accepted": 0, "labelled": 90},
        },
        "model": {"version": name},
        "quality": {"status": "ok", "log_loss": None},
        "drift": {
            "status": "major",
            "severity": 3.41592,
            "features": [{"name": name, "drifted": True}, {"name": "pH", "drifted": False}],
            "faults": [{"kind": "stuck"}, {"kind": "scaled"}, {"kind": "stuck"}],
        },
        "decision": {"action": "hold", "reasons": ["drift_major", "data_fault"]},
        "retraining": {"outcome": "rejected"},
        "push": {"status": "failed"},
    }


def line_of(
    name: str = "a.csv",
    run: Mapping[str, Any] | None = None,
    error: WineDriftError | None = None,
    news: bool = False,
    code: int = 0,
) -> dict[str, Any]:
    facts = {"at": 0.5, "pipeline": "red", "duration": 0.12345, "exit_code": code}
    return run_line(record(name), run, error, news=news, **facts)


# --- the line ---


@given(st.text(), st.lists(st.text(), min_size=1))
@example("", [""])
def test_any_text_is_one_line(name: str, names: list[str]) -> None:
    """Whatever names and messages hold, a line is one line, and both forms tell the same."""
    line = log_line(1e9, "error", "run", name=name, drifted=names, error=name, batch=3)
    assert one_line(line_text(line)) and one_line(line_json(line))
    assert json.loads(line_json(line)) == line
    assert parsed(line_text(line)) == {key: shown(value) for key, value in line.items()}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_names(name: str) -> None:
    """Line breaks of any alphabet, what steers a terminal, quotes, and bytes that are no text."""
    error = BadBatch(f"{name}: no good", remedy=f"send {name}")
    line = line_of(name, {"pending": 1, "skipped": 2, "missed": 3}, error)
    assert one_line(line_text(line)) and one_line(line_json(line))
    assert json.loads(line_json(line)) == line
    assert parsed(line_text(line)) == {key: shown(value) for key, value in line.items()}


def test_what_a_line_tells() -> None:
    """In this order, numbers short; what is not known is left out, and nothing is zero by that."""
    assert line_of(run={"pending": 0, "skipped": 0, "missed": 4}) == {
        **{"time": "1970-01-01T00:00:00.500Z", "level": "info", "event": "run"},
        **{"outcome": "processed", "exit_code": 0, "duration": 0.123, "pipeline": "red"},
        **{"batch": 7, "name": "a.csv", "id": "0123456789ab", "rows": 100, "accepted": 0},
        **{"labelled": 90, "model": "a.csv", "quality": "ok", "drift": "major"},
        **{"severity": 3.4159, "drifted": ["a.csv"], "faults": ["scaled", "stuck"]},
        **{"decision": "hold", "reasons": ["drift_major", "data_fault"]},
        **{"retraining": "rejected", "push": "failed", "pending": 0, "missed": 4},
    }


def test_the_level_of_a_line() -> None:
    """Errors are told by the exit code; news, or drift that was asked for, is a warning."""
    for code, news, level in [
        *((0, False, "info"), (0, True, "warning"), (8, False, "warning"), (8, True, "warning")),
        *((3, False, "error"), (1, True, "error"), (-9, False, "error"), (255, False, "error")),
    ]:
        assert line_of(news=news, code=code)["level"] == level
    line = line_of(error=BadBatch("no good"), code=3)
    assert line["error"] == "no good" and "remedy" not in line


@pytest.mark.parametrize(
    ("retraining", "drift", "expected"),
    [
        *((None, "major", False), ("waiting", "major", False), ("rejected", "major", True)),
        *((None, "drift", True), (None, "ok", True), ("waiting", "minor", True)),
    ],
)
def test_what_is_news(retraining: str | None, drift: str, expected: bool) -> None:
    """After a batch in major drift: its end is, and a challenger; waiting for labels goes on."""

    def batch(drift: str, retraining: str | None) -> dict[str, Any]:
        return {
            "drift": {"status": drift},
            "quality": {"status": "ok"},
            "decision": {"reasons": []},
            "retraining": retraining and {"outcome": retraining},
        }

    assert is_news(batch(drift, retraining), batch("major", None)) is expected


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1e9 + 0.0005, "2001-09-09T01:46:40.000Z"),
        (1e9 + 0.9996, "2001-09-09T01:46:40.999Z"),
        (253402300799.0, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_stamps_have_one_form(at: float, text: str) -> None:
    """Always with milliseconds and in UTC, so that they sort as text."""
    assert stamp(at) == text


# --- what is printed ---


def told(result: Result, *, notes: bool = False) -> list[dict[str, Any]]:
    """Lines of JSON on stderr, all of it."""
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert all({"time", "level", "event"} <= line.keys() for line in lines)
    return lines if notes else [line for line in lines if line["event"] != "note"]


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A batch that is none."""
    path = tmp_path / "bad.csv"
    path.write_text("a;b\n1;2\n")
    return path


def test_a_run_writes_its_line_to_stderr(cli: Cli, home: Path, red_wine_csv: Path) -> None:
    """As text after the report, which is on stdout."""
    result = cli("run-batch", "--home", home, "--data", red_wine_csv)
    assert result.stdout.startswith("batch 2 ")
    (line,) = map(parsed, result.stderr.splitlines())
    assert (line["outcome"], line["batch"], line["exit_code"]) == ("processed", "2", "0")
    assert line["name"].startswith("rows ") and line["push"] == "ok" and line["drift"] == "ok"


def test_both_forms_have_the_same_keys(cli: Cli, home: Path, red_wine_csv: Path, bad: Path) -> None:
    """But for an error, which people are told in words of its own, above the line."""
    run, form = ("run-batch", "--home", home), ("--log-format", "json")
    (text,) = map(parsed, cli(*run, "--data", red_wine_csv).stderr.splitlines())
    (line,) = told(cli(*run, "--data", red_wine_csv, *form))
    assert list(line) == list(text)
    cli(*run, bad, code=3)
    error, remedy, last = cli(*run, bad, code=3).stderr.splitlines()
    (line,) = told(cli(*run, bad, *form, code=3))
    assert (error, remedy.strip()) == (f"error: {line.pop('error')}", line.pop("remedy"))
    assert list(line) == list(parsed(last))


def test_json_is_all_that_is_on_stderr(
    cli: Cli, tmp_path: Path, bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs, notes, settings and errors; stdout stays empty unless a record is asked for."""
    home, form = ("--home", tmp_path / "home"), ("--log-format", "json")
    first = cli("run-batch", *home, *SMALL, *form)
    note, run = told(first, notes=True)
    assert first.stdout == "" and (note["message"], note["level"]) == (SIMULATED, "warning")
    assert (run["outcome"], run["level"]) == ("processed", "info")

    second = cli("run-batch", *home, *SMALL, *form, "--json")
    assert json.loads(second.stdout)["batch"]["sequence"] == 2 == told(second)[0]["batch"]

    refused = cli("run-batch", bad, *home, *form, code=3)
    (run,) = told(refused)
    assert (run["outcome"], run["level"], run["exit_code"]) == ("quarantined", "error", 3)
    assert "bad.csv" in run["error"] and run["remedy"] and refused.stdout == ""

    with (tmp_path / "home" / "run.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (run,) = told(cli("run-batch", *home, *SMALL, *form, code=5))
    assert (run["outcome"], run["exit_code"]) == ("failed", 5) and "batch" not in run

    (line,) = told(cli("run-batch", *home, "--budget", "many", *form, code=2))
    assert (line["event"], line["level"], line["exit_code"]) == ("error", "error", 2)
    assert "--budget: 'many'" in line["error"] and line["remedy"]
    monkeypatch.setenv("WINE_DRIFT_LOG_FORMAT", "json")
    assert told(cli("run-batch", *home, "--budget", "many", code=2)) != []
    assert told(cli("schedule", *home, "--every", "never", code=2)) != []


def test_a_settings_file_chooses_the_form(cli: Cli, tmp_path: Path) -> None:
    """The option wins over it, and the choice ends with the command."""
    home = ("--home", tmp_path / "home")
    Path("wine-drift.toml").write_text('log_format = "json"\n')
    assert len(told(cli("run-batch", *home, *SMALL))) == 1
    text = cli("run-batch", *home, *SMALL, "--log-format", "text").stderr.splitlines()
    assert text[0] == SIMULATED and parsed(text[1])["batch"] == "2"
    Path("wine-drift.toml").unlink()
    assert cli("run-batch", *home, *SMALL).stderr.splitlines()[0] == SIMULATED


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_file_has_every_line(
    cli: Cli, home: Path, red_wine_csv: Path, tmp_path: Path, bad: Path, form: str
) -> None:
    """Also of a quiet run, and of a bad one with its error, which stderr tells in other words."""
    log = tmp_path / "log" / "runs"
    log.parent.mkdir()
    log.write_text("earlier\n")
    options = ("--home", home, "--log-file", log, "--log-format", form)
    printed = cli("run-batch", *options, "--data", red_wine_csv).stderr
    cli("run-batch", *options, "--data", red_wine_csv, "--quiet")
    cli("run-batch", bad, *options, "--quiet", code=3)
    earlier, *lines = log.read_text(encoding="utf-8").splitlines()
    assert earlier == "earlier" and lines[0] == printed.rstrip("\n")
    found = [parsed(line) if form == "text" else json.loads(line) for line in lines]
    assert [line["outcome"] for line in found] == ["processed", "processed", "quarantined"]
    assert "bad.csv" in found[2]["error"] and found[2]["remedy"]


@pytest.mark.parametrize("place", [".", "absent/log", "bad.csv/log"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_file_that_cannot_be_written_harms_nothing(
    cli: Cli, home: Path, red_wine_csv: Path, bad: Path, place: str, form: str
) -> None:
    """It is told, also by a quiet run, and all else is done."""
    options = ("--home", home, "--log-file", place, "--log-format", form)
    result = cli("run-batch", *options, "--data", red_wine_csv, "--quiet")
    (line,) = result.stderr.splitlines()
    told = json.loads(line)["message"] if form == "json" else line
    assert told.startswith(f"log_file {place}: ") and result.stdout == ""
    result = cli("run-batch", *options, "--data", red_wine_csv, "--json")
    assert json.loads(result.stdout)["batch"]["sequence"] == 3


# --- quiet ---


def test_quiet_prints_nothing_of_a_healthy_run(
    cli: Cli, home: Path, red_wine_csv: Path, tmp_path: Path
) -> None:
    """Nor of one that found nothing to do: cron sends no mail."""
    quiet = ("run-batch", "--home", home, "--quiet")
    (tmp_path / "inbox").mkdir()
    for arguments in (
        ("--data", red_wine_csv),
        ("--data", red_wine_csv, "--json"),
        ("--data", red_wine_csv, "--log-format", "json"),
        ("--inbox", tmp_path / "inbox"),
    ):
        result = cli(*quiet, *arguments)
        assert (result.stdout, result.stderr) == ("", "")
    assert "batch 5" in cli("run-batch", "--home", home, "--data", red_wine_csv).stdout


def test_quiet_tells_what_went_wrong(
    cli: Cli, home: Path, red_wine_csv: Path, bad: Path, wines: Wines
) -> None:
    """A file in quarantine, a push that failed, settings that are wrong, drift if asked for."""
    quiet = ("run-batch", "--home", home, "--quiet")
    result = cli(*quiet, bad, code=3)
    assert "quarantine" in result.stdout and "error: " in result.stderr
    away = ("--pushgateway", "127.0.0.1:1", "--push-deadline", 0.1)
    result = cli(*quiet, "--data", red_wine_csv, *away, code=4)
    assert "batch 3" in result.stdout and parsed(result.stderr.splitlines()[-1])["push"] == "failed"
    assert "--budget" in cli(*quiet, "--budget", "many", code=2).stderr
    drifted = ("--data", red_wine_csv, "--scenario", "switch", "--fail-on", "drift")
    result = cli(*quiet, *drifted, code=8)
    assert "major" in result.stdout and parsed(result.stderr.splitlines()[-1])["exit_code"] == "8"
    assert "batch 5" in cli(*quiet, *drifted, code=8).stdout  # it was asked for every time


def test_quiet_tells_when_an_alarm_begins_and_ends(cli: Cli, tmp_path: Path) -> None:
    """Not while it goes on; the simulated data is named every time."""
    log = tmp_path / "log"
    options = ("--home", tmp_path / "home", "--log-file", log, "--retrain", "never", *SMALL)

    def run(*arguments: object) -> tuple[str, str]:
        """Status of drift, and what was printed but for the note."""
        result = cli("run-batch", *options, "--quiet", *arguments)
        note, *rest = result.stderr.splitlines()
        assert note == SIMULATED
        line = parsed(log.read_text().splitlines()[-1])
        assert rest in ([], [line_text(line)])
        assert (result.stdout == "") == (rest == [])
        return line["drift"], "".join(rest)

    found = [run(), run(), run("--scenario", "switch"), run("--scenario", "switch")]
    while found[-1][0] in ("major", "drift") and len(found) < 30:
        found.append(run())
    found.append(run())
    calm = {"ok", "warn", "minor"}
    before = "ok"
    for status, printed in found:
        alarm = "ok" if status in calm else status
        assert bool(printed) == (alarm != before)
        before = alarm
    began = [bool(printed) for status, printed in found if status == "major"]
    assert began[0] and len(began) > 1 and not any(began[1:])
    assert found[-2][0] in calm and found[-2][1] and not found[-1][1]


def test_quiet_tells_of_a_source_at_fault_and_of_a_challenger(
    cli: Cli, home: Path, red_wine_csv: Path, wines: Wines
) -> None:
    """When decisions come to be held for it, and whenever retraining was tried."""
    quiet = ("run-batch", "--home", home, "--quiet", "--data", red_wine_csv)
    stuck = [
        wines(
            f"{n}.csv", 100 * n, 100 * n + 100, edit=lambda cells: [*cells[:8], "3.3", *cells[9:]]
        )
        for n in (1, 2)
    ]
    result = cli(*quiet, stuck[0])
    assert "fault" in result.stdout
    assert "faults=" in result.stderr and " warning " in result.stderr
    assert cli(*quiet, stuck[1]).stdout == ""
    forced = cli(
        "run-batch", "--home", home, "--quiet", "--data", red_wine_csv, "--retrain", "force"
    )
    assert "retraining" in forced.stdout and "retraining=" in forced.stderr


# --- terminals ---


def test_no_escape_sequences_in_a_pipe(cli: Cli, tmp_path: Path, bad: Path) -> None:
    """Neither while a first model is trained nor in an error."""
    results = [
        cli("run-batch", "--home", tmp_path / "home", *SMALL),
        cli("run-batch", bad, "--home", tmp_path / "home", code=3),
        cli("run-batch", "--budget", "many", code=2),
    ]
    for result in results:
        assert not set("\x1b\r") & set(result.stdout + result.stderr)


@pytest.mark.parametrize(("form", "steered"), [("text", True), ("json", False)])
def test_escape_sequences_on_a_terminal(form: str, steered: bool) -> None:
    """Text takes the place of a line of progress; JSON is JSON there too."""
    ours, theirs = pty.openpty()
    options = ("run-batch", "--budget", "many", "--log-format", form)
    try:
        command = [sys.executable, "-m", "wine_drift", *options]
        done = subprocess.run(command, stderr=theirs, stdout=subprocess.PIPE, timeout=60)
        written = os.read(ours, 10_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 2 and done.stdout == b""
    assert ("\x1b[" in written) == steered and "--budget" in written
    if form == "json":
        assert [json.loads(line)["exit_code"] for line in written.splitlines()] == [2]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("trouble", ["full", "closed", "nobody reads"])
def test_what_cannot_be_printed_changes_nothing(tmp_path: Path, number: int, trouble: str) -> None:
    """The run is done, its exit code is its own, and the file has its line."""
    run = "run-batch --home home --source simulated --rounds 5 --threads 1 --log-file log"
    where = {"full": f"{number}>/dev/full", "closed": f"{number}>&-", "nobody reads": ""}[trouble]
    command = f"exec {sys.executable} -m wine_drift {run} {where}"
    streams: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    reader, writer = os.pipe()
    if trouble == "nobody reads":
        streams["stdout" if number == 1 else "stderr"] = writer
    os.close(reader)
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, text=True, **streams)
    os.close(writer)
    assert done.returncode == 0
    assert " info run outcome=processed exit_code=0 " in (tmp_path / "log").read_text()
    with Ledger.open(tmp_path / "home", read_only=True) as ledger:
        assert (ledger.last_run() or {})["success"] is True
    for other in (done.stdout, done.stderr):
        assert "Traceback" not in (other or "") and "Exception ignored" not in (other or "")
