"""Every command that the documents show in a block can be typed as it is: here it is run.

Each page has a test that makes ready what the page takes for granted, puts names of the test's own
in the place of some of the page's, and looks at what came of it. Blocks marked `console` are those
of test_tour.py. What takes a Docker engine or half an hour is listed, with where it is run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import database
import numpy as np
import pandas as pd
import pytest
import tour
from departures import flights
from sklearn.datasets import load_breast_cancer
from test_categories import loans
from test_cluster import Stack as Cluster
from test_jobs import program

from wine_drift.demo import make_demo
from wine_drift.ledger import Ledger
from wine_drift.run import run_batch
from wine_drift.settings import Settings

Follow = Callable[[str, dict[str, str]], dict[str, str]]

ROOT = Path(__file__).parents[2]
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for folder in (ROOT, ROOT / "docs")
    for path in sorted(folder.glob("*.md"))
}

# Where what is not run here is run, and how it reads there.
DRILL, COMPOSE = "tests/stack/compose_drill.py", "docker compose -f compose/compose.yaml"
COUNT = "run --rm run-batch run-batch /inbox/parts/*.parquet --engine dask"
ELSEWHERE = {
    "make test": (".ci/run", "make test"),
    "make lint": (".ci/run", "make lint"),
    "make dist": ("tests/test_package.py", '"-m", "build", "--no-isolation"'),
    "make stack-local": ("tests/stack/test_local.py", '"compose" / "local.py"'),
    "make compose-up": (DRILL, '"compose-up"'),
    f"{COMPOSE} up --detach --wait dask-worker": (DRILL, '"--wait", "dask-worker"'),
    f"{COMPOSE} {COUNT} --dask-scheduler tcp://dask-scheduler:8786": (
        DRILL,
        '"run-batch", "run-batch", f"/inbox/parts/',
    ),
    f"{COMPOSE} rm --stop --force dask-worker dask-scheduler": (DRILL, '"rm", "--stop", "--force"'),
}
# What a person runs, now and then, and why no program does.
BY_HAND = {
    "make versions": "half an hour, and Pythons that not every machine has; before a release",
    "make bench": "half an hour, and other packages from an index",
    "make bench-quick": "two minutes in which nothing else may be at work",
    f"{COMPOSE} cp parts scheduler:/inbox/": "takes a Docker engine; the drill makes parts within",
}

KINDS = ("", "console", "mermaid", "pycon", "python", "sh", "text", "toml")  # of blocks

# Nothing is installed: pip tells whether it could be, with what is here.
PIP = {"pip install ": "pip install --dry-run --no-index --no-build-isolation "}
# A schedule goes on for ever, and ends well when it is told to.
SCHEDULE = {"wine-drift schedule ": "until_its_first_run wine-drift schedule "}
BEFORE = """until_its_first_run() {
    timeout --foreground 300 "$@" 2>schedule.log &
    until grep -q ' run outcome=' schedule.log || ! kill -0 $!; do sleep 0.1; done
    kill $! && wait $!
}"""


def key(command: str) -> str:
    """The words of a command, as the lists above have them."""
    return " ".join(tour.words(command))


def told(name: str) -> list[str]:
    """The commands of a page, in blocks that show no output."""
    return [each for block in tour.blocks(PAGES[name], "sh") for each in tour.commands(block)]


def examples(name: str) -> list[str]:
    """Blocks of a page with commands and some of what they print."""
    return [block for block in tour.blocks(PAGES[name], "text") if block.startswith("$ ")]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on this machine is not asked of a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def follow() -> Follow:
    """Do what a page says in the current folder, one bash a block: `follow(name, {old: new})`.

    Gives what each command printed. Each has to end with 0.
    """

    def act(name: str, replaced: dict[str, str]) -> dict[str, str]:
        printed = {}
        for old in replaced:
            assert any(old in command for command in told(name)), f"{name} has no {old!r} any more"
        for block in tour.blocks(PAGES[name], "sh"):
            chosen = [each for each in tour.commands(block) if not is_listed(each)]
            typed = [_replaced(each, replaced) for each in chosen]
            _, *outcomes = tour.run([BEFORE, *typed], Path.cwd(), os.environ)
            for command, (text, code) in zip(chosen, outcomes, strict=True):
                assert code == 0, f"{command}\n{text}"
                printed[key(command)] = text
        return printed

    return act


def _replaced(command: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        command = command.replace(old, new)
    return command


def is_listed(command: str) -> bool:
    """Whether it is run elsewhere, if at all."""
    return key(command) in ELSEWHERE or key(command) in BY_HAND


def show(block: str) -> None:
    """Run the commands of a block in the current folder, and compare what it shows."""
    shown = list(tour.examples(f"```console\n{block}```\n"))
    outcomes = tour.run([each.command for each in shown], Path.cwd(), os.environ)
    for each, (printed, code) in zip(shown, outcomes, strict=True):
        assert code == 0, f"{each.command}{printed}"
        assert tour.shows(each.printed, printed), f"{each.command}{printed}"


def champion(home: Path | str, address: str | None = None) -> str:
    """The version that serves."""
    with Ledger.open(Path(home), address, read_only=True) as ledger:
        manifest = ledger.champion()
    assert manifest is not None
    return str(manifest["version"])


def processed(home: Path | str, address: str | None = None) -> list[str]:
    """Names of the batches that were done, the first one first."""
    with Ledger.open(Path(home), address, read_only=True) as ledger:
        return [record["batch"]["name"] for record in ledger.records(100)]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources with this environment, as `make` leaves it; the current folder."""
    folder = tmp_path / "checkout"
    kept_out = shutil.ignore_patterns(".venv", ".git", ".hypothesis", ".*_cache", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=kept_out)
    (folder / ".venv").mkdir()
    for each in Path(sys.prefix).iterdir():
        if each.name != ".installed":
            (folder / ".venv" / each.name).symlink_to(each)
    (folder / ".venv" / ".installed").touch()
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of the `make test` that we may be in
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def wine(
    server: database.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Host and port of a PostgreSQL with an empty database `wines` of the user `wine`.

    Whoever comes has a file of passwords; `psql` is its administrator.
    """
    server.ask("CREATE ROLE wine LOGIN PASSWORD 'Fass'")
    server.ask("CREATE DATABASE wines OWNER wine")
    secret = tmp_path / "pgpass"
    secret.write_text(f"*:*:*:wine:Fass\n*:*:*:{database.USER}:{database.PASSWORD}\n")
    secret.chmod(0o600)
    known = {"HOST": "127.0.0.1", "PORT": str(server.port), "USER": database.USER}
    for name, value in {**known, "PASSFILE": str(secret)}.items():
        monkeypatch.setenv(f"PG{name}", value)
    yield f"127.0.0.1:{server.port}"
    server.ask("DROP DATABASE wines WITH (FORCE)")
    server.ask("DROP ROLE wine")


# --- the pages ---


def test_readme(
    follow: Follow,
    checkout: Path,
    wines: Any,
    wine: str,
    pushgateway: Any,
    red_wine_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From `make run`, whose output is shown there, to several hosts."""
    monkeypatch.setenv("WINE_DRIFT_DATA", str(red_wine_csv))
    shutil.copy(red_wine_csv, "wines.csv")
    wines("srv/a.csv", 900, 1000)
    wines("srv/inbox/b.csv", 1000, 1100)
    home = tmp_path / "lib"
    an_hour_ago = time.time() - 3600  # what has been missed since is made up for at once
    run_batch(Settings(home=home, inbox=tmp_path), now=lambda: an_hour_ago)
    printed = follow(
        "README.md",
        PIP
        | SCHEDULE
        | {
            "make demo ": "make demo DEMO_DAYS=0.1 ",
            "/var/lib/wine-drift": str(home),
            "/srv/wines": str(tmp_path / "srv"),
            "http://localhost:9091": pushgateway.url,
            "db.example": wine,
        },
    )
    made, *_ = tour.blocks(PAGES["README.md"], "text")
    assert tour.shows(made, printed["make run"]), printed["make run"]
    (example,) = examples("README.md")
    show(example)
    assert Path("tour").is_dir() and len(processed(".demo/home")) == 2
    assert "Would install wine-drift-" in printed["pip install .[postgres]"]
    assert processed(home) == ["a.csv"]
    assert {"job": "wine_drift", "pipeline": "red_wine"} in pushgateway.groups()
    assert processed(home, f"postgresql://wine@{wine}/wines") == ["b.csv"]


def test_contributing(follow: Follow, checkout: Path) -> None:
    """The formatter has its way."""
    source = checkout / "wine_drift" / "errors.py"
    before = source.read_text(encoding="utf-8")
    assert " = " in before
    source.write_text(before.replace(" = ", "  =   ", 1), encoding="utf-8")
    follow("CONTRIBUTING.md", {})
    assert source.read_text(encoding="utf-8") == before


def test_hosts(
    follow: Follow,
    wines: Any,
    wine: str,
    red_wine_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A schedule with a ledger in PostgreSQL, and another ledger beside it."""
    monkeypatch.setenv("WINE_DRIFT_ROUNDS", "20")
    home, address = tmp_path / "lib", f"postgresql://wine@{wine}/wines"
    shutil.copy(red_wine_csv, "wines.csv")
    wines("srv/inbox/a.csv", 900, 1000)
    follow(
        "hosts.md",
        PIP
        | SCHEDULE
        | {
            "/etc/wine-drift": str(tmp_path),
            "/var/lib/wine-drift": str(home),
            "/srv/wines": str(tmp_path / "srv"),
            "db.example": wine,
        },
    )
    assert processed(home, address) == ["a.csv"]
    second = champion(f"{home}-red", f"{address}?options=-csearch_path%3Dred")
    assert second == champion(home, address)


def test_own_table(follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tables for which `init` writes a schema, and one whose schema is that of the page."""

    def enter(name: str) -> None:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)

    proposed, of_loans, of_flights = examples("own-table.md")
    cancer = load_breast_cancer(as_frame=True)
    answers = cancer.target.map({0: "malignant", 1: "benign"})
    enter("proposed")
    put(cancer.data.assign(diagnosis=answers))
    show(proposed)

    enter("loans")
    loans(3000, 1).to_csv("loans.csv", index=False)
    Path("weeks").mkdir()
    for week in range(3):
        loans(300, 2 + week).to_csv(f"weeks/{week}.csv", index=False)
    unseen = loans(300, 5)
    unseen.loc[::8, "purpose"] = "wedding"
    unseen.to_csv("unseen.csv", index=False)
    show(of_loans)

    monkeypatch.setenv("WINE_DRIFT_ROUNDS", "20")
    enter("flights")
    year = flights()
    year[year["month"] <= 3].to_csv("past.csv", index=False)
    Path("weeks").mkdir()
    year[(year["month"] == 4) & (year["day"] <= 7)].to_csv("weeks/0.csv", index=False)
    show(of_flights)
    assert processed("past.home") == ["0.csv"]

    enter("described")
    (schema,) = tour.blocks(PAGES["own-table.md"], "toml")
    Path("cancer.toml").write_text(schema, encoding="utf-8")
    hospitals = np.random.default_rng(0).choice(["north", "south", "city"], len(answers))
    put(cancer.data.assign(hospital=hospitals, malignant=1 - cancer.target))
    follow("own-table.md", {})
    assert processed("cancer") == ["new.csv"]


def put(tumours: pd.DataFrame) -> None:
    """Write a table, and some rows of it as a batch."""
    tumours.to_csv("cancer.csv", index=False)
    tumours[:100].to_csv("new.csv", index=False)


def test_reliability(follow: Follow, cli: Any, home: Path, wines: Any) -> None:
    """A damaged ledger is put back, and what came after its backup is in the inbox again."""
    batch = wines("srv/a.csv", 900, 1000)
    cli("run-batch", "--home", home, "--inbox", batch.parent, "--retrain", "never")
    (home / "ledger.sqlite").write_text("something else")
    cli("status", "--home", home, code=6)
    assert not batch.exists()
    follow("reliability.md", {"/var/lib/wine-drift": str(home), "/srv/wines": str(batch.parent)})
    cli("status", "--home", home)
    assert batch.is_file()


def test_retraining(
    follow: Follow, cli: Any, record: Any, home: Path, wines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that come late, and what can be done with versions."""
    monkeypatch.setenv("WINE_DRIFT_HOME", str(home))
    monkeypatch.setenv("WINE_DRIFT_RETRAIN", "never")
    wines("monday.csv", 900, 1000, edit=lambda cells: [*cells[:-1], ""])
    wines("monday-labels.csv", 900, 1000)
    first = champion(home)
    cli("train", "--force", "--rounds", 5, "--min-labelled", 10, "--min-positives", 1)
    second = champion(home)
    assert second != first
    follow(
        "retraining.md",
        {
            "add-labels 17": "add-labels 2",
            "v3-9a7d89b7": second,
            "import champion.tar": "import champion.tar --home other",
        },
    )
    monday = record("status")["batches"][-1]["batch"]
    assert monday["name"] == "monday.csv" and monday["labelled"] == monday["accepted"] > 0
    assert champion(home) == first
    assert champion("other").split("-")[1] == second.split("-")[1]


def test_runbooks(
    follow: Follow, home: Path, pushgateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look around; then the group is deleted, in both ways."""
    monkeypatch.setenv("WINE_DRIFT_HOME", str(home))
    monkeypatch.setenv("WINE_DRIFT_PUSHGATEWAY", pushgateway.url)
    curl = program("curl", needs="curl")
    listed = f"{curl} -sS {pushgateway.url}/api/v1/metrics"
    printed = follow(
        "runbooks.md",
        {
            "GATEWAY:9091": pushgateway.address,
            "pushgateway:9091": pushgateway.address,
            "pipeline/NAME": "pipeline/red_wine",
            # what the first way left; then there is a group again
            f"{COMPOSE} exec scheduler ": f"{listed} >left.json && wine-drift push && ",
        },
    )
    assert printed["wine-drift status"].startswith("HEALTHY")
    assert "wine_drift_batches_total" in printed["wine-drift metrics"]
    assert json.loads(Path("left.json").read_text())["data"] == []
    assert pushgateway.groups() == []


def test_scaling(
    follow: Follow,
    home: Path,
    parts: Any,
    record: Any,
    red_wine_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files of a folder and of addresses, here and on a cluster, which trains at last, too."""
    monkeypatch.setenv("WINE_DRIFT_HOME", str(home))
    monkeypatch.setenv("WINE_DRIFT_RETRAIN", "never")
    parts("parquet").rename("parts")
    store = tmp_path / "wines"
    for day, seed in {"today": 1, "tomorrow": 2}.items():
        rows = pd.read_csv(red_wine_csv, sep=";").sample(200, random_state=seed)
        (store / day).mkdir(parents=True)
        for k in range(2):
            half = rows[k::2]
            half.to_parquet(store / day / f"{k}.parquet")
            half.to_csv(store / day / f"{k}.csv.gz", sep=";", index=False)
    (store / "models").symlink_to(home / "models")
    # more rows than are trained on here, and an easy gate
    more = "--retrain force --memory-rows 1000 --rounds 60 --gate-alpha 0.5"
    with contextlib.ExitStack() as opened:
        cluster = Cluster(tmp_path, opened)
        follow(
            "scaling.md",
            PIP
            | {
                "today/*.parquet' --window-rows": f"tomorrow/*.parquet' {more} --window-rows",
                "s3://wines": f"file://{store}",
                "tcp://scheduler:8786": cluster.address,
                "--threads 4": "--threads 2",
            },
        )
    batches = record("status")["batches"]
    assert len(batches) == 5 and batches[-1]["retraining"]["outcome"] == "promoted"
    assert json.loads((store / "models" / champion(home) / "manifest.json").read_text())["shards"]


def test_stack(
    follow: Follow, promtool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the ledger knows of the time that is asked for becomes blocks of Prometheus'."""
    monkeypatch.setenv("WINE_DRIFT_HOME", "home")
    at = [datetime(2026, 11, 21, hour, tzinfo=UTC).timestamp() for hour in (12, 18, 20)]
    settings = Settings(home=Path("home"), days=0.375, rounds=20, threads=1)
    make_demo(settings, now=lambda: at[-1])
    follow("stack.md", {"sudo -u prometheus ": "", "/var/lib/prometheus": str(tmp_path)})
    made = [json.loads(path.read_text()) for path in Path("metrics2").glob("*/meta.json")]
    assert min(each["minTime"] for each in made) == at[0] * 1000
    assert at[1] - 240 <= max(each["maxTime"] for each in made) / 1000 <= at[1] + 1


# --- none is left out ---


def test_every_page_is_followed() -> None:
    """A page with a command that can be run has a test above; so has each block with output."""
    there = {name for name in PAGES if not all(map(is_listed, told(name)))} - {"README.ru.md"}
    stems = {name.removesuffix(".md").lower().replace("-", "_") for name in there}
    assert {f"test_{stem}" for stem in stems} <= globals().keys()
    shown = {name: len(examples(name)) for name in PAGES if examples(name)}
    assert shown == {"README.md": 1, "own-table.md": 3}


def test_no_other_block_has_commands() -> None:
    """Of what is marked otherwise none is shell."""
    for name, page in PAGES.items():
        kinds = re.findall(r"^( *)```(\w*)$", page, re.MULTILINE)
        assert set(kinds) <= {("", kind) for kind in KINDS}, name
        texts = [text for text in tour.blocks(page, "text") if "\n$ " in f"\n{text}"]
        assert texts == examples(name)


def test_the_russian_readme_has_the_same_commands() -> None:
    """And no others."""
    others = {key(command) for command in told("README.md")}
    assert {key(command) for command in told("README.ru.md")} <= others


def test_what_is_not_run_here() -> None:
    """Each stands in a page, and is where it is said to be."""
    there = {key(command) for name in PAGES for command in told(name)}
    assert ELSEWHERE.keys() | BY_HAND.keys() <= there
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    made = {each.removeprefix("make ") for each in there if each.startswith("make ")}
    assert made <= targets
    for file, reads in ELSEWHERE.values():
        assert reads in (ROOT / file).read_text(encoding="utf-8"), (file, reads)
