"""What the doctor finds, on facts made up and on homes made sick."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import Result
from terminal import on_terminal, plain

from wine_drift.diagnosis import Check, Entry, of_backup, of_home, of_inbox, of_packages
from wine_drift.ledger import Ledger

Cli = Callable[..., Result]
Found = Callable[..., dict[str, list[dict[str, str]]]]


@pytest.fixture
def found(cli: Cli) -> Found:
    """Findings by subject; with code=7 if there is to be a problem."""

    def look(*words: object, code: int = 0) -> dict[str, list[dict[str, str]]]:
        told: dict[str, list[dict[str, str]]] = {}
        for check in json.loads(cli("doctor", *words, "--json", code=code).stdout)["checks"]:
            told.setdefault(check["subject"], []).append(check)
            assert bool(check["step"]) or check["level"] != "problem", "it tells no remedy"
        return told

    return look


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Address of what answers as a Pushgateway, and the groups that it has."""
    groups: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/v1/metrics" else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"status": "success", "data": groups}).encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Keep silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", groups
        server.shutdown()
        thread.join()


def group(last_run: float, pipeline: str = "red_wine") -> dict[str, Any]:
    """As the API of a Pushgateway tells it."""
    return {
        "labels": {"job": "wine_drift", "pipeline": pipeline},
        "wine_drift_last_run_timestamp_seconds": {"metrics": [{"value": repr(last_run)}]},
    }


def levels(checks: list[dict[str, str]]) -> list[str]:
    """Of findings."""
    return [check["level"] for check in checks]


def files_of(home: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in home.rglob("*")}


def test_a_sound_home(found: Found, home: Path) -> None:
    """All is well, and all is as it was."""
    before = files_of(home)
    told = found("--home", home)
    assert {each for checks in told.values() for each in levels(checks)} == {"ok"}
    subjects = ["settings", "versions", "home", "room", "textfile", "ledger", "backup", "models"]
    assert list(told) == [*subjects, "schedule"]
    assert files_of(home) == before


def test_no_home(found: Found) -> None:
    """That is no problem, and none is made."""
    told = found("--home", "none")
    assert levels(told["home"] + told["ledger"]) == ["note", "note"]
    assert not Path("none").exists()


def test_every_mistake_of_the_settings(found: Found) -> None:
    """One finding each; no more can be looked at."""
    told = found("--home", "none", "--pushgateway", ":", "--every", "soon", code=7)
    assert levels(told["settings"]) == ["problem", "problem"]
    assert list(told) == ["settings"]


def test_versions_that_are_damaged_or_gone(cli: Cli, found: Found, home: Path) -> None:
    """By their hashes; whether it is the one that serves."""
    (model,) = home.glob("models/*/model.txt")
    model.write_text(model.read_text() + " ")
    told = found("--home", home, code=7)["models"]
    assert levels(told) == ["problem"]
    assert "it serves" in told[0]["text"] and "repair" in told[0]["step"]
    assert "1 problem" in cli("doctor", "--home", home, code=7).stderr
    cli("repair", "--home", home)
    assert levels(found("--home", home)["models"]) == ["ok"]


def test_versions_whose_files_were_removed(
    cli: Cli, found: Found, home: Path, red_wine_csv: Path
) -> None:
    """Nobody misses them."""
    for _ in range(2):
        cli("train", "--home", home, "--force", "--min-labelled", 10, "--min-positives", 1)
        cli("run-batch", "--home", home, "--data", red_wine_csv, "--retrain", "never")
    cli("models", "prune", "--home", home, "--keep-versions", 1)
    assert len(list(home.glob("models/v*"))) == 2  # the champion and its parent
    told = found("--home", home)["models"]
    assert [each["text"] for each in told] == ["as they were written: 2"]


def test_a_damaged_ledger(found: Found, home: Path) -> None:
    """What else can be looked at is."""
    (home / "ledger.sqlite").write_bytes(b"no database" * 500)
    told = found("--home", home, code=7)
    assert levels(told["ledger"]) == ["problem"] and "repair" in told["ledger"][0]["step"]
    assert {"settings", "versions", "home"} <= set(told)


def test_rights_and_foreign_files(found: Found, home: Path) -> None:
    """Others may not write; what is not ours is told."""
    (home / "notes\x1b.txt").write_text("mine")
    home.chmod(0o755)
    told = found("--home", home)["home"]
    assert levels(told) == ["note", "note"] and "notes" in told[1]["text"]
    (home / "ledger.sqlite").chmod(0o666)
    assert "ledger.sqlite" in found("--home", home, code=7)["home"][1]["text"]
    home.chmod(0o777)
    assert levels(found("--home", home, code=7)["home"]) == ["problem", "problem", "note"]


def test_the_inbox(found: Found, home: Path, tmp_path: Path) -> None:
    """How many wait, and for how long; what no run takes; an inbox that is not there."""
    inbox = tmp_path / "inbox"
    assert "make the folder" in found("--home", home, "--inbox", inbox, code=7)["data"][0]["step"]
    inbox.mkdir()
    for name in ("a.csv", "b.csv", "list.xls", ".c.csv"):
        (inbox / name).write_text("")
    told = found("--home", home, "--inbox", inbox)["inbox"]
    assert levels(told) == ["ok", "note"]
    assert "2 files wait" in told[0]["text"] and "list.xls" in told[1]["text"]
    os.utime(inbox / "b.csv", (0, 0))
    told = found("--home", home, "--inbox", inbox)["inbox"]
    assert levels(told) == ["note", "note"] and "the oldest for" in told[0]["text"]


def test_data_that_is_not_there(found: Found, home: Path) -> None:
    """A table and a schema that were named."""
    assert levels(found("--home", home, "--data", "none.csv", code=7)["data"]) == ["problem"]
    assert levels(found("--home", home, "--schema", "none.toml", code=7)["data"]) == ["problem"]


def test_the_gateway(found: Found, home: Path, gateway: tuple[str, list[dict[str, Any]]]) -> None:
    """It has what is known here, or less, or what only another home can have told it."""
    address, groups = gateway
    words = ("--home", home, "--pushgateway", address)
    assert levels(found(*words)["gateway"]) == ["note"]
    groups.append(group(9e9, "another"))
    assert levels(found(*words)["gateway"]) == ["note"]
    with Ledger.open(home, read_only=True) as ledger:
        ended = (ledger.last_run() or {})["finished_at"]
    groups.append(group(ended))
    assert levels(found(*words)["gateway"]) == ["ok"]
    groups[1] = group(ended - 1)
    assert "wine-drift push" in found(*words, code=7)["gateway"][0]["step"]
    groups[1] = group(ended + 1)
    assert "another home" in found(*words, code=7)["gateway"][0]["step"]
    groups[1] = {"labels": None}
    assert levels(found(*words)["gateway"]) == ["note"]
    wrong = found("--home", home, "--pushgateway", f"{address}/prefix", code=7)["gateway"]
    assert "404" in wrong[0]["text"]
    closed = found("--home", home, "--pushgateway", "127.0.0.1:1", code=7)["gateway"]
    assert "Connection refused" in closed[0]["text"]


def test_no_secret_is_told(cli: Cli, home: Path, tmp_path: Path) -> None:
    """Not the password of the gateway, which others can read; nor is it repeated."""
    secret = tmp_path / "password"
    secret.write_text("hunter2-hunter2\n")
    secret.chmod(0o644)
    words = ("--pushgateway", "127.0.0.1:1", "--username", "wine", "--password-file", secret)
    result = cli("doctor", "--home", home, *words, code=7)
    assert "others can read it" in result.stdout
    assert "hunter2" not in result.output


def test_the_schedule(found: Found, cli: Cli, home: Path, tmp_path: Path) -> None:
    """Runs that do not come, that fail, and that go by another schedule."""
    told = found("--home", home, "--every", "1h")["schedule"]
    assert levels(told) == ["note", "ok"] and "every 3600 s" in told[0]["text"]
    (tmp_path / "bad.csv").write_text("a\n1\n")
    cli("run-batch", tmp_path / "bad.csv", "--home", home, code=3)
    told = found("--home", home, code=7)["schedule"]
    assert levels(told) == ["problem"] and "quarantine" in told[0]["text"]


def test_home_without_room() -> None:
    """Twice the ledger and some more must be free."""
    usual: dict[str, Any] = {"mode": 0o700, "writable": True}
    few = [*of_home("h", [], **usual, free=10**8, ledger=1)]
    assert [check.level for check in few] == ["ok", "problem"]
    refused = [*of_home("h", [], mode=0o700, writable=False, free=10**12, ledger=1)]
    assert [check.level for check in refused] == ["problem", "ok"]


def test_rights_inside_a_closed_home_do_not_matter() -> None:
    """Nobody gets in."""
    entries = [Entry("ledger.sqlite", 0o666)]
    checks = of_home("h", entries, mode=0o700, writable=True, free=10**12, ledger=1)
    assert {check.level for check in checks} == {"ok"}


@pytest.mark.parametrize(
    ("made", "batches", "level"),
    [(None, False, "ok"), (None, True, "note"), (800.0, True, "ok"), (799.0, True, "problem")],
)
def test_age_of_the_backup(made: float | None, batches: bool, level: str) -> None:
    """Two intervals are too long."""
    assert of_backup(made, now=1000.0, every=100.0, batches=batches).level == level


def test_many_strange_files() -> None:
    """Some of them are told."""
    strange = [f"{k}.xls" for k in range(9)]
    *_, told = of_inbox("in", 0, None, strange, interval=900)
    assert told.text == "in: passed over: 0.xls, 1.xls, 2.xls, 3.xls, 4.xls and 4 more"


def test_packages() -> None:
    """Missing, too old, as old as may be; those of extras only if they are there."""
    needed = [
        *("a>=1.10", "b-c<4,>=2.0.0", "d>=1"),
        *("e[x]>=3; extra == 'more'", "f>=3; extra == 'more'", "g; extra == 'more'"),
    ]
    there = {"a": "1.9.9", "b-c": "2", "e": "2.9+deb1", "g": "0"}
    checks = [*of_packages((3, 10, 1), needed, there)]
    assert [check.text for check in checks] == [
        "Python 3.10.1 is older than 3.11",
        "a 1.9.9 is older than 1.10",
        "d is missing",
        "e 2.9+deb1 is older than 3",
    ]
    assert [*of_packages((3, 11, 0), ["a>=1.10"], {"a": "1.10.0rc1"})] == [
        Check("ok", "versions", "Python 3.11.0, and every package is new enough")
    ]


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal(home: Path, columns: int) -> None:
    """Lines fit, and say in words what the colours say."""
    code, shown = on_terminal("doctor", "--home", home, columns=columns)
    assert code == 0
    assert max(map(len, plain(shown).splitlines())) <= columns
    assert "\x1b[32mok" in shown


# --- what cannot be looked at ---


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Takes the right to look into a folder away, also from root."""

    def shut(folder: Path) -> None:
        def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
            def refuse(path: Any = ".", *more: Any, **options: Any) -> Any:
                place = Path(os.fsdecode(path)) if not isinstance(path, int) else Path()
                if folder in place.parents or (call is scan and place == folder):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return call(path, *more, **options)

            return refuse

        scan = os.scandir
        monkeypatch.setattr(os, "scandir", refusing(os.scandir))
        monkeypatch.setattr(os, "stat", refusing(os.stat))

    return shut


def test_a_home_of_somebody_else(found: Found, home: Path, shut: Callable[[Path], None]) -> None:
    """It is told once, as what it is; nothing that only follows from it."""
    shut(home)
    told = found("--home", home, code=7)
    (check,) = told["home"]
    assert check["level"] == "problem" and check["text"] == f"{home}: Permission denied"
    assert set(told) == {"settings", "versions", "home"}


def test_a_folder_of_a_home_that_is_somebody_else_s(
    found: Found, home: Path, shut: Callable[[Path], None]
) -> None:
    """The rest is looked at all the same."""
    shut(home / "backups")
    told = found("--home", home, code=7)
    assert [each["level"] for each in told["backup"]] == ["problem"]
    assert told["backup"][0]["text"].endswith("Permission denied")
    for subject in ("home", "ledger", "models", "schedule"):
        assert told[subject][0]["level"] == "ok"


@pytest.mark.parametrize("where", ["variable", "file", "option"])
def test_mistakes_are_json_for_whoever_asks_for_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Wherever that stands, also beside the mistakes; without it they are a table."""
    Path("wrong.toml").write_text("budget = 'many'\n" + "json = true\n" * (where == "file"))
    words = ("doctor", "--settings", "wrong.toml")
    if where == "variable":
        monkeypatch.setenv("WINE_DRIFT_JSON", "1")
    done = cli(*words, *(("--json",) if where == "option" else ()), code=7)
    (check,) = json.loads(done.stdout)["checks"]
    assert check["subject"] == "settings" and "budget" in check["text"]
    assert "{" not in cli(*words, "--no-json", code=7).stdout
