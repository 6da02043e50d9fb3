"""What people see: tables that fit, on terminals and in pipes, of new and of old homes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from benchmarks.old_ledger import grow, real_commit
from click.testing import CliRunner, Result
from terminal import on_terminal, plain

from wine_drift.cli import main
from wine_drift.demo import make_demo
from wine_drift.explanation import ranked
from wine_drift.layout import PLAIN, Paper, drawn, pairs, sheet, trend
from wine_drift.ledger import Ledger
from wine_drift.overview import past_text, status_text
from wine_drift.page import render
from wine_drift.portrait import gather
from wine_drift.report import diff_text, explain_text, selftest_text
from wine_drift.settings import Settings
from wine_drift.snapshot import Snapshot
from wine_drift.standing import standing_of
from wine_drift.verdict import verdict
from wine_drift.wording import action

LOOKS = (("status",), ("explain",), ("history", "list"), ("models", "list"))
BOXES = set("─│┌┐└┘├┤┬┴┼━┃╭╮╰╯═║")
BLOCKS = set("▁▂▃▄▅▆▇█▏▎▍▌▋▊▉")


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with simulated batches, the last of which has drifted; not to be written to."""
    home = tmp_path_factory.mktemp("drifted") / "home"
    words = ["run-batch", "--home", str(home), "--source", "simulated", "--rounds", "5"]
    words += ["--scenario", "switch", "--scenario-start", "3"]
    for _ in range(4):
        assert CliRunner().invoke(main, words).exit_code == 0
    return home


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_no_line_is_wider_than_the_terminal(
    drifted: Path, words: tuple[str, ...], columns: int
) -> None:
    """At 80 and at 120 columns; colours are there, and no boxes."""
    code, shown = on_terminal(*words, "--home", drifted, columns=columns)
    assert code == 0, shown
    assert plain(shown) != shown
    assert max(map(len, plain(shown).splitlines())) <= columns
    assert not BOXES & set(shown)
    assert "…" not in shown, "something was cut off"


def test_what_a_run_tells_goes_on_below_itself(tmp_path: Path) -> None:
    """A line that is longer than the terminal is wide is cut between words, under its text."""
    words = ["run-batch", "--home", tmp_path / "home", "--source", "simulated", "--rounds", 5]
    code, shown = on_terminal(*words, "--scenario", "switch", columns=80)
    text = plain(shown)
    told = text[text.index("batch 1 · ") : text.index(" published ")].splitlines()
    assert code == 0 and max(map(len, told)) <= 80
    assert [line for line in told if line.startswith(" " * 13) and line[13] != " "]
    assert any(line.startswith("  drift      major: evidence ") for line in told)


def test_status_on_a_terminal(drifted: Path) -> None:
    """The verdict first; then model, runs, quality, drift with bars, and batches."""
    lines = plain(on_terminal("status", "--home", drifted, columns=120)[1]).splitlines()
    assert lines[0].startswith("LOOK      the data has drifted a lot (")
    heads = [
        "to do     see `wine-drift explain`",
        "home",
        "champion",
        "last run",
        "ahead",
        "quality of batch 4:",
        "#  batch",
    ]
    found = [next(k for k, line in enumerate(lines) if line.startswith(head)) for head in heads]
    assert found == sorted(found)
    head = next(k for k, line in enumerate(lines) if "drift of batch 4: major" in line)
    assert lines[head].endswith("last 4 batches")
    first = lines[head + 1]
    assert first.startswith("* ") and "████████" in first
    *_, trend = first.split()
    assert len(trend) == 4 and trend[-1] == "█" and "█" not in trend[:-1]
    assert "SIMULATED DATA" in "\n".join(lines)


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_in_a_pipe(cli: Callable[..., Result], drifted: Path, words: tuple[str, ...]) -> None:
    """Plain text: no colours, bars or boxes, one line a row however long it is."""
    shown = cli(*words, "--home", drifted).stdout
    assert plain(shown) == shown
    assert not (BOXES | BLOCKS) & set(shown)
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_no_color_and_no_colour_alone(drifted: Path) -> None:
    """NO_COLOR takes nothing but the colours."""
    words = ("status", "--home", drifted, "--last", 3)
    coloured = on_terminal(*words)[1]
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        bare = on_terminal(*words, **environment)[1]
        assert "\x1b" not in bare
        assert [line.rstrip() for line in bare.splitlines()] == [
            line.rstrip() for line in plain(coloured).splitlines()
        ]


def test_colours_can_be_forced_into_a_pipe(drifted: Path) -> None:
    """By FORCE_COLOR, as Rich has it."""
    words = [sys.executable, "-m", "wine_drift", "status", "--home", str(drifted)]
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert "\x1b[33mLOOK" in done.stdout
    assert max(map(len, plain(done.stdout).splitlines())) <= 80


def test_an_empty_home_tells_what_to_do_first(cli: Callable[..., Result]) -> None:
    """And is not made by looking."""
    lines = cli("status", "--home", "new").stdout.splitlines()
    assert lines[0] == "LOOK      nothing has run here yet"
    assert lines[1].startswith("to do     start with `wine-drift run-batch`")
    assert lines[-1] == "no batches yet"
    assert cli("models", "list", "--home", "new").stdout.startswith("no models yet; the first")
    assert not Path("new").exists()


def test_status_as_json(record: Callable[..., dict[str, Any]], drifted: Path) -> None:
    """All that the text tells, and the records."""
    found = record("status", "--home", drifted, "--last", 2)
    assert found["verdict"]["level"] == "look"
    assert found["verdict"]["findings"][0]["code"] == "major_drift"
    assert [each["batch"]["sequence"] for each in found["batches"]] == [3, 4]
    assert found["champion"]["version"].startswith("v")
    page = (Path(__file__).parents[1] / "docs" / "record.md").read_text(encoding="utf-8")
    told = page.split("## How things stand")[1]
    assert [key for key in (*found, *found["verdict"]) if not re.search(rf"\b{key}\b", told)] == []


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of 10,000 batches."""
    home = tmp_path_factory.mktemp("old") / "home"
    settings = Settings(home=home, source="simulated", retrain="never", rounds=5)
    grow(home, *real_commit(settings), n_batches=10_000, keep_history=500)
    return home


def test_a_long_past_costs_nothing(
    old: Path, drifted: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Result]
) -> None:
    """As much of the ledger is read after 10,000 batches as after four."""
    steps: list[int] = []
    opened = Ledger._prepare

    def counting(ledger: Ledger, *, read_only: bool) -> None:
        opened(ledger, read_only=read_only)
        connection: Any = ledger._connection
        connection._connection.set_progress_handler(lambda: steps.append(1), 100)

    monkeypatch.setattr(Ledger, "_prepare", counting)
    costs = []
    for home in (drifted, old):
        steps.clear()
        shown = cli("status", "--home", home, "--last", 4).stdout
        costs.append(len(steps))
    assert "9999" in shown and "10000" in shown
    assert costs[1] <= 4 * max(costs[0], 10), costs
    wide = plain(on_terminal("status", "--home", old, "--last", 500)[1])
    assert "last 20 batches" in wide and max(map(len, wide.splitlines())) <= 80


def test_history(
    cli: Callable[..., Result], record: Callable[..., dict[str, Any]], drifted: Path
) -> None:
    """Batches and champions in the order in which they came; as many as are asked for."""
    lines = cli("history", "list", "--home", drifted).stdout.splitlines()
    assert lines[0].split()[:4] == ["when", "(UTC)", "#", "batch"]
    assert lines[1].split()[-1].startswith("v1-")
    assert len(lines) == 1 + 5  # the first champion and four batches
    assert cli("history", "list", "--home", drifted, "--last", 2).stdout.count("\n") == 3
    events = record("history", "list", "--home", drifted)["events"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    middle = events[3]["at"]
    later = record("history", "list", "--home", drifted, "--since", f"{middle:.6f}")["events"]
    assert [each["record"]["batch"]["sequence"] for each in later][-1] == 4
    assert len(later) in (1, 2)
    future = cli("history", "list", "--home", drifted, "--since", "2999-01-01").stdout
    assert future == "nothing happened in that time\n"
    cli("history", "list", "--home", drifted, "--since", "soon", code=2)
    cli("history", "list", "--home", "nowhere", code=2)


def test_a_refused_batch_is_a_line_of_the_past(
    cli: Callable[..., Result], home: Path, tmp_path: Path
) -> None:
    """With its name, as given, and without what would steer a terminal."""
    bad = tmp_path / "b\x1b[31m[bold]ad.csv"
    bad.write_text("x\n1\n")
    cli("run-batch", bad, "--home", home, code=3)
    for words in (("status",), ("history", "list")):
        shown = cli(*words, "--home", home).stdout
        assert "[bold]ad.csv" in shown and "quarantined" in shown
        assert "\x1b" not in shown


def test_what_late_labels_led_to(drifted: Path) -> None:
    """Every place tells the last decision, and not that of the batch's arrival."""
    with Ledger.open(drifted, read_only=True) as ledger:
        known = standing_of(ledger, Settings(home=drifted), now=0)
        page = gather(Settings(home=drifted), ledger, known)
    late = dict(known.records[-1])
    late["decision"] = {"action": "hold", "reasons": ["too_few_rows"]}
    late["labels"] = {"decision": {"action": "keep", "reasons": ["no_drift"]}}
    late["retraining"] = None
    told = replace(page.recent[0], record=late)
    for tried, wanted in ((None, "keep"), ({"outcome": "promoted"}, "retrain: promoted")):
        late["retraining"] = tried
        status = status_text(known.verdict, [late], None, None, home="home")
        past = past_text([{"at": 0, "record": late, "champion": None, "why": None}])
        assert status.endswith(f"  {wanted}") and past.endswith(f"  {wanted}")
        html = render(replace(page, recent=(told,)), policy="")
        assert f"<td>{wanted}</td>" in html and "<td>hold" not in html


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("length", [12, 30, 200])
def test_figures_do_not_give_way_to_names(drifted: Path, length: int, width: int) -> None:
    """Of columns with long names, after twenty batches: marks, figures and trends are whole."""
    with Ledger.open(drifted, read_only=True) as ledger:
        (last,) = ledger.records(1)
    for j, feature in enumerate(last["drift"]["features"]):
        feature["name"] = f"{'tank_' * 40}"[: length - 2] + f"{j:02}"
        feature["log10_evidence"] = 281.2
    paper = Paper(width, blocks=True)
    text = status_text(verdict(Snapshot(), now=0), [last] * 20, None, None, home="", paper=paper)
    lines = text[text.index("  drift of batch") :].splitlines()
    assert max(map(len, lines)) <= width
    table = "\n".join(lines[1 : lines.index("", 1)])
    for feature in ranked(last["drift"]["features"])[:6]:
        trended = trend([feature["severity"]] * 20, last["thresholds"]["severity_major"])
        mark = re.escape("*" if feature["drifted"] else " ")
        start = feature["name"][:8]
        figures = f"{feature['severity']:.2f} .*{re.escape('10^281.2')} +{trended}"
        assert re.search(f"^{mark}  {start}.* {figures}$", table, re.MULTILINE), table
    assert sum(line.endswith(f"  {action(last)}") for line in lines) == 20
    names = "".join(line[3:].split("  ")[0].strip() for line in lines[1 : lines.index("", 1)])
    assert all(f["name"] in names for f in ranked(last["drift"]["features"])[:6])


def papers() -> Iterator[Paper]:
    """Of all kinds."""
    yield PLAIN
    for width in (40, 80, 120):
        yield Paper(width)
        yield Paper(width, colour=True, blocks=True)


@pytest.mark.parametrize("paper", list(papers()), ids=str)
def test_layout_fits(paper: Paper) -> None:
    """Lines, pairs and tables; only what can be spared is left out, and only where it is narrow."""
    long = "word " * 30 + "end"
    rows = [("one", long), ("two", "x")]
    made = sheet(("batch", "what it is"), rows, paper)
    lines = plain(drawn([f"  titled     {long}", pairs(rows), made], paper)).splitlines()
    if paper.width is None:
        assert len(lines) == 6
    else:
        assert max(map(len, lines)) <= paper.width
    assert " ".join(" ".join(lines).split()).count("end") == 3
    spared = plain(drawn([sheet(("a", "b"), [("1", "2")], paper, spare=("b",))], paper))
    assert ("2" in spared) == (paper.width in (None, 120))


ODD = "a\x1b[31mb\x1b]0;c\u202ed\x9be\nf"  # a name that steers, turns text round, and starts a line
SHOWN = "a�[31mb�]0;c�d�e f"


def test_names_in_tables_do_not_steer_a_terminal(drifted: Path) -> None:
    """Columns, categories and units, on a terminal and in a pipe, where a row is a line."""
    with Ledger.open(drifted, None, read_only=True) as ledger:
        processed = ledger.find("")
    named = json.loads(json.dumps(processed).replace('"chlorides"', json.dumps(ODD)))
    for paper in papers():
        shown = explain_text(named, paper)
        assert not set(plain(shown)) & set("\x1b\u202e\x9b")
    shown = explain_text(named)
    assert shown.count(SHOWN) == explain_text(processed).count("chlorides") > 1
    assert len(shown.splitlines()) == len(explain_text(processed).splitlines())
    power = {"test": "power", "version": "v1", "reference_rows": 9, "batch_rows": 9, "budget": 9}
    feature = {"name": ODD, "shift_own": 1.0, "unit": ODD, "shift_sd": 1.0, "mean_delay": 2}
    told = selftest_text(power | {"features": [feature]})
    assert told.count(SHOWN) == 2 and len(told.splitlines()) == 4
    change = {"what": "reliance", "of": ODD, "old": 0.1, "new": 0.2}
    told = diff_text(
        {"old": "v1", "new": "v2", "differences": [change], "scores": None, "removed": ["v1"]}
    )
    assert SHOWN in told and len(told.splitlines()) == 4


@pytest.mark.parametrize("words", [("init",), ("simulate", "--out"), ("history", "export")])
def test_paths_that_are_told_do_not_steer_a_terminal(words: tuple[str, ...]) -> None:
    """A path may hold anything; here as on a terminal, for which click leaves escapes in."""
    Path("a\x1b[31m").mkdir()
    place = "a\x1b[31m/x.toml"
    options = [*words, place]
    if words[0] == "history":
        make_demo(Settings(home=Path("home"), days=0.1))
        options = [*words, "--openmetrics", place, "--home", "home"]
    done = CliRunner().invoke(main, options, color=True)
    assert done.exit_code == 0 and "a�[31m/x.toml" in done.output
    assert "\x1b" not in done.output


def test_metrics_on_a_terminal_do_not_steer_it(home: Path) -> None:
    """A pipe gets names as they are published, with what they hold."""
    words = ("metrics", "--home", home, "--pipeline", "a\x1b[31m\u202eb")
    shown = on_terminal(*words)[1]
    assert 'pipeline="a�[31m�b"' in shown and not set(shown) & set("\x1b\u202e")
    piped = CliRunner().invoke(main, [str(word) for word in words]).output
    assert 'pipeline="a\x1b[31m\u202eb"' in piped


def test_files_that_a_shell_names_do_not_steer_a_terminal() -> None:
    """`run-batch *` of an inbox to which others send."""
    done = CliRunner().invoke(main, ["run-batch", "a.csv", "b\x1b[2J\u202e.csv"], color=True)
    assert done.exit_code == 2 and "b�[2J�.csv" in done.output


def test_json_has_what_steers_a_terminal_escaped() -> None:
    """The same of JSON, which is for machines and may be looked at."""
    shown = CliRunner().invoke(main, ["status", "--home", "a\x1bb", "--json"]).stdout
    assert "\x1b" not in shown and json.loads(shown)["batches"] == []


# --- facts as JSON, and what is shown while somebody waits ---

OTHER = {
    "metrics",
    "schedule",
    "serve",
    "init",
    "completion",
    "models show",
}  # text of their own, or JSON


def test_every_command_that_tells_facts_takes_json() -> None:
    """Those that do not are named here."""
    without = set()
    for name, command in main.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {}
        for full, each in {name: command, **{f"{name} {k}": v for k, v in inner.items()}}.items():
            taken = {option.name for option in each.params}
            if "json" not in taken and not isinstance(each, click.Group):
                without.add(full)
    assert without == OTHER


def test_what_commands_did_as_json(
    record: Callable[..., dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    """Sinks, files, and whether all is well."""
    at = ("--home", home)
    assert record("push", *at)["sinks"] == [str(home / "metrics" / "wine_drift.prom")]
    assert record("health", *at)["healthy"] is True
    time.sleep(1.0)
    sick = record("health", *at, "--max-age", 0.001, code=7)
    assert sick["healthy"] is False and "max_age" in sick["reason"]
    assert record("health", "--home", "none", code=7)["run"] is None
    assert record("history", "export", *at, "--openmetrics", "past.txt")["entries"] == 2
    version = record("models", "list", *at)["champion"]
    out = tmp_path / "v.tar"
    assert record("models", "export", version, *at, "--out", out) == {"path": str(out)}
    page = record("report", *at, "--out", "page.html")
    assert page == {"path": "page.html", "verdict": record("status", *at)["verdict"]["level"]}
    files = record("simulate", "--source", "simulated", "--out", "sim", "--batches", 2)["files"]
    assert [Path(file).is_file() for file in files] == [True, True]
    made = record("demo", "--home", "demo", "--days", 0.1, "--openmetrics", "demo.txt")
    assert made["changed"] and made["entries"] and Path(made["path"]).is_file()
    again = record("demo", "--home", "demo", "--days", 0.1, "--openmetrics", "demo.txt")
    assert not again["changed"] and again["entries"] is None


def test_a_failed_push_as_json(record: Callable[..., dict[str, Any]], home: Path) -> None:
    """The exit code and the reason are the same."""
    words = ("push", "--home", home, "--pushgateway", "127.0.0.1:1", "--push-deadline", 1)
    assert "Connection refused" in record(*words, code=4)["error"]


def test_progress_is_shown_where_somebody_waits(
    cli: Callable[..., Result], home: Path, red_wine_csv: Path
) -> None:
    """Of a large batch, of many files, of files that are made; nowhere else."""
    head, *lines = red_wine_csv.read_text().splitlines()
    Path("large.csv").write_text("\n".join([head, *(lines * 83)]))
    Path("parts").mkdir()
    for number in range(2):
        rows = [head, *lines[800 + 90 * number : 890 + 90 * number]]
        Path(f"parts/{number}.csv").write_text("\n".join(rows))
    at = ("--home", home, "--retrain", "never")
    simulate = ("simulate", "--source", "simulated", "--out", "sim", "--batches", 3)
    assert "rows counted" in on_terminal("run-batch", "large.csv", *at)[1]
    assert "counting file 2 of 2" in on_terminal("run-batch", "parts", *at)[1]
    assert "0/3" in on_terminal(*simulate)[1]
    assert "counting" not in cli("run-batch", "parts", *at).stderr
    assert "0/3" not in cli(*simulate).stderr
