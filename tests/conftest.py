"""What all tests share: the real table, and a clean environment."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import database
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families
from trouble import Missing

from wine_drift.rows import ScoredRows

collect_ignore = ["drills/hostile_atheris.py"]  # a program for where atheris is installed
_TABLE = os.environ.get("WINE_DRIFT_DATA")
_NUMBERS = itertools.count(1)  # of schemas
# What a shell starts in the background takes no notice of Ctrl-C, nor do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the person who runs the tests reaches them, and no test writes elsewhere."""
    for name in list(os.environ):
        if name.startswith("WINE_DRIFT_") and name != "WINE_DRIFT_REQUIRE_STACK":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = {*os.environ}
    yield
    for name in {*os.environ} - before:  # what a command sets for its own process
        del os.environ[name]


@pytest.fixture(scope="session")
def red_wine_csv() -> Path:
    """The published red-wine table; CI must have it."""
    if not _TABLE:
        message = "needs the real red-wine table: set WINE_DRIFT_DATA"
        if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return Path(_TABLE).resolve()


@pytest.fixture(scope="session")
def white_wine_csv(red_wine_csv: Path) -> Path:
    """The white-wine table, where it lies beside the red one."""
    path = red_wine_csv.with_name("winequality-white.csv")
    if not path.is_file():
        pytest.skip("needs winequality-white.csv beside the red-wine table")
    return path


@pytest.fixture(scope="session")
def server() -> Iterator[database.Database]:
    """A running PostgreSQL: .make(schema) .address(schema) .ask(query) .stop() .start()."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(database.running())
        except Missing as missing:
            if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
                pytest.fail(str(missing))
            pytest.skip(str(missing))
        yield found


@pytest.fixture
def address(server: database.Database) -> str:
    """Address of an empty schema in PostgreSQL, for one test."""
    return server.make(f"t{next(_NUMBERS)}")


@pytest.fixture
def cli() -> Callable[..., Result]:
    """Call the command line in this process: `cli("status", "--home", home, code=0)`."""
    return _cli


@pytest.fixture
def record() -> Callable[..., dict[str, Any]]:
    """Call a command with `--json` and read what it prints, as strict JSON."""

    def call(*arguments: object, code: int = 0) -> dict[str, Any]:
        return _strict(_cli(*arguments, "--json", code=code).stdout)

    return call


@pytest.fixture(scope="session")
def trained_home(red_wine_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after its first run on the red-wine stream; not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WINE_DRIFT_")]:
            patch.delenv(name)
        patch.chdir(folder)
        _cli("run-batch", "--home", folder / "home", "--data", red_wine_csv)
    return folder / "home"


@pytest.fixture(scope="session")
def drifted_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of three healthy batches, two that drifted and a refused one; not to be written to."""
    folder = tmp_path_factory.mktemp("drifted")
    drift = ("--source", "simulated", "--scenario", "switch@3", "--rounds", 20, "--threads", 1)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WINE_DRIFT_")]:
            patch.delenv(name)
        patch.chdir(folder)
        for _ in range(5):
            _cli("run-batch", "--home", folder / "home", *drift)
        Path("bad.csv").write_text("a;b\n1;2\n")
        _cli("run-batch", "bad.csv", "--home", folder / "home", code=3)
    return folder / "home"


@pytest.fixture
def home(trained_home: Path, tmp_path: Path) -> Path:
    """A home of the test's own: champion v1 and one batch of the red-wine stream."""
    return Path(shutil.copytree(trained_home, tmp_path / "home"))


@pytest.fixture
def wines(red_wine_csv: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write rows of the red-wine table to a file: `wines("a.csv", 0, 100, edit=...)`.

    `edit` is given the cells of each row as texts and returns them changed.
    """

    def write(
        name: str | Path,
        start: int = 0,
        stop: int = 100,
        *,
        edit: Callable[[list[str]], list[str]] = lambda cells: cells,
    ) -> Path:
        header, *lines = red_wine_csv.read_text(encoding="utf-8").splitlines()
        rows = [";".join(edit(line.split(";"))) for line in lines[start:stop]]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
        return path

    return write


@pytest.fixture
def parts(red_wine_csv: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a batch in six files, and as one: `parts("csv")` gives the folder of the files.

    With faults of all kinds, repeats near and far, and labels here and there; what Spark leaves
    beside them is there, too. `parts("csv", times=9)` has so many times as many rows.
    """

    def write(kind: str, *, times: int = 1) -> Path:
        whole = pd.read_csv(red_wine_csv, sep=";", dtype=str).iloc[800:]
        copies = [
            whole.assign(alcohol=whole["alcohol"] + "0" * (k > 0) + "1" * k) for k in range(times)
        ]
        whole = pd.concat([*copies, whole.sample(90, random_state=2)], ignore_index=True)
        chosen = np.random.default_rng(1).choice(len(whole), len(whole) // 3, replace=False)
        whole.loc[chosen, "quality"] = None
        whole.loc[5, "pH"], whole.loc[400, "alcohol"], whole.loc[701, "density"] = (
            "acid",
            None,
            "1e9",
        )
        if kind == "parquet":
            numbers = [name for name in whole if name != "pH"]
            whole = whole.astype(dict.fromkeys(numbers, float))
        folder = tmp_path / f"parts-{kind}"
        folder.mkdir()

        def put(rows: pd.DataFrame, name: str, to: Path = folder) -> None:
            if kind == "parquet":
                rows.to_parquet(to / f"{name}.parquet")
            else:
                rows.to_csv(to / f"{name}.csv", sep=";", index=False)

        put(whole, "whole", tmp_path)
        for k, rows in enumerate(np.array_split(np.arange(len(whole)), 6)):
            put(whole.iloc[rows], f"part-{k}")
        put(whole.iloc[:0], "part-7")
        for name in ("_SUCCESS", ".part-0.csv.crc", "_part-8.csv"):
            (folder / name).write_text("no rows\n")
        return folder

    return write


@pytest.fixture
def samples() -> Callable[[str], dict[tuple[str, ...], float]]:
    """Read exposition text: name and label values in order of their names -> value."""
    return _samples


@pytest.fixture
def published() -> Callable[[Path], dict[tuple[str, ...], float]]:
    """Read `wine-drift metrics` of a home, without times and memory and without the pipeline."""
    return _published


@pytest.fixture
def kept() -> Callable[..., dict[str, Any]]:
    """Collect all that a home keeps, times apart: ledger, models, other files, metrics.

    `kept(home, address)` for one whose ledger is in PostgreSQL.
    """
    return _kept


def _cli(*arguments: object, code: int = 0) -> Result:
    from wine_drift.cli import main

    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    crash = result.exception
    if crash is not None and not isinstance(crash, SystemExit):
        raise crash
    assert result.exit_code == code, f"exit {result.exit_code}, not {code}: {result.output}"
    assert "Traceback" not in result.output
    return result


def _strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _samples(text: str) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *(sample.labels[k] for k in sorted(sample.labels)))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def _published(home: Path, address: str | None = None) -> dict[tuple[str, ...], float]:
    with pytest.MonkeyPatch.context() as patch:
        if address is not None:
            patch.setenv("WINE_DRIFT_LEDGER", address)
        text = _cli("metrics", "--home", home).stdout
    text = text.replace('pipeline="red_wine",', "")
    text = text.replace(',pipeline="red_wine"', "").replace('{pipeline="red_wine"}', "")
    times = re.compile(r"_(timestamp_seconds|duration_seconds|max_rss_bytes)$")
    return {key: value for key, value in _samples(text).items() if not times.search(key[0])}


def _plain(rows: ScoredRows) -> dict[str, Any]:
    """Every part as text: where a label is missing there is a NaN, which equals nothing."""
    return {name: str(np.asarray(part).tolist()) for name, part in vars(rows).items()}


def _kept(home: Path, address: str | None = None) -> dict[str, Any]:
    from wine_drift.ledger import Ledger

    def untimed(manifest: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in manifest.items() if key != "trained_at"}

    with Ledger.open(home, address, read_only=True) as ledger:
        versions = ledger.versions()
        champion = ledger.champion()
        rows = ledger.labelled_rows(len(champion["features"]), after=0) if champion else None
        shards = ledger.shards()
        learnt = {manifest["version"]: ledger.learnt(manifest["version"]) for manifest in versions}
        change, swapped, pruned = ledger.change(), ledger.champion_since(), ledger.pruned()
        states = [ledger.detector(manifest["version"]) for manifest in versions]
        records = ledger.records(1000)
        next_sequence = ledger.next_sequence()
        waiting = {n: ledger.scored(n) for n in range(1, next_sequence)}
        counters = dict(ledger.snapshot().counters)
    apart = {"ledger.sqlite", "run.lock", "wine_drift.prom", "manifest.json"}
    paths = sorted(path for path in home.rglob("*") if path.is_file())
    paths = [path for path in paths if "backups" not in path.relative_to(home).parts]
    return {
        "records": records,
        "next_sequence": next_sequence,
        "counters": counters,
        "versions": [untimed(manifest) for manifest in versions],
        "champion": champion and champion["version"],
        "detectors": states,
        "rows": None if rows is None else [part.tolist() for part in vars(rows).values()],
        "shards": shards,
        "learnt": learnt,
        "change": change,
        "swapped": swapped,
        "pruned": pruned,
        "scored": {
            n: None if found is None else (_plain(found[0]), found[1])
            for n, found in waiting.items()
        },
        "manifests": {
            str(path.relative_to(home)): untimed(json.loads(path.read_text(encoding="utf-8")))
            for path in paths
            if path.name == "manifest.json"
        },
        "files": {
            str(path.relative_to(home)): path.read_bytes()
            for path in paths
            if path.name not in apart
        },
        "metrics": _published(home, address),
    }
