"""What all tests share: the real table, and a clean environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from wine_drift.rows import ScoredRows

collect_ignore = ["drills/hostile_atheris.py"]  # a program for where atheris is installed
_TABLE = os.environ.get("WINE_DRIFT_DATA")
# What a shell starts in the background takes no notice of Ctrl-C, nor do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the person who runs the tests reaches them, and no test writes elsewhere."""
    for name in list(os.environ):
        if name.startswith("WINE_DRIFT_") and name != "WINE_DRIFT_REQUIRE_STACK":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield


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
def samples() -> Callable[[str], dict[tuple[str, ...], float]]:
    """Read exposition text: name and label values in order of their names -> value."""
    return _samples


@pytest.fixture
def published() -> Callable[[Path], dict[tuple[str, ...], float]]:
    """Read `wine-drift metrics` of a home, without times and memory and without the pipeline."""
    return _published


@pytest.fixture
def kept() -> Callable[[Path], dict[str, Any]]:
    """Collect all that a home keeps, times apart: ledger, models, other files, metrics."""
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


def _published(home: Path) -> dict[tuple[str, ...], float]:
    text = _cli("metrics", "--home", home).stdout.replace('pipeline="red_wine",', "")
    text = text.replace(',pipeline="red_wine"', "").replace('{pipeline="red_wine"}', "")
    times = re.compile(r"_(timestamp_seconds|duration_seconds|max_rss_bytes)$")
    return {key: value for key, value in _samples(text).items() if not times.search(key[0])}


def _plain(rows: ScoredRows) -> dict[str, Any]:
    """Every part as text: where a label is missing there is a NaN, which equals nothing."""
    return {name: str(np.asarray(part).tolist()) for name, part in vars(rows).items()}


def _kept(home: Path) -> dict[str, Any]:
    from wine_drift.ledger import Ledger

    def untimed(manifest: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in manifest.items() if key != "trained_at"}

    with Ledger.open(home, read_only=True) as ledger:
        versions = ledger.versions()
        champion = ledger.champion()
        rows = ledger.labelled_rows(len(champion["features"]), after=0) if champion else None
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
        "rows": rows and (rows.features.tolist(), rows.positive.tolist(), rows.sequence.tolist()),
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
        "metrics": _published(home),
    }
