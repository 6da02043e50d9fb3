"""The wheel holds everything that the program reads, and nothing else."""

from __future__ import annotations

import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from click.testing import CliRunner

from wine_drift import __main__ as program
from wine_drift.cli import main

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path.relative_to(ROOT) for path in sorted((ROOT / "wine_drift").rglob("*.py"))]


def can_build() -> bool:
    """Tell whether this environment can build a wheel without the network."""
    found = subprocess.run(
        [sys.executable, "-c", "import setuptools; print(setuptools.__version__)"],
        capture_output=True,
        text=True,
    ).stdout.split(".")
    if not found[0].strip():
        return False
    has_wheel = importlib.util.find_spec("wheel") is not None
    return int(found[0]) >= (68 if has_wheel else 71)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources so that nothing is left among them."""
    if not can_build():
        message = "needs setuptools>=71, or setuptools>=68 with wheel, in this environment"
        if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "home")
    shutil.copytree(ROOT, copy, ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--disable-pip-version-check", "-q", "-w", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip would lay it down."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_is_complete(wheel: Path) -> None:
    """Every module, every data file and the typing marker are in the wheel; tests are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    code = {name for name in names if ".dist-info/" not in name}
    data = {f"wine_drift/data/{path.name}" for path in (ROOT / "wine_drift" / "data").iterdir()}
    assert {"wine_drift/data/red_wine.toml", "wine_drift/data/red_wine_figures.json"} <= data
    assert code == {path.as_posix() for path in SOURCES} | data | {"wine_drift/py.typed"}


def test_the_wheel_is_pure(wheel: Path) -> None:
    """One wheel serves every machine."""
    assert wheel.name == f"wine_drift-{version('wine-drift')}-py3-none-any.whl"


def test_the_wheel_declares_what_it_needs(unpacked: Path) -> None:
    """The metadata tells the console script, the Python version and every library imported."""
    (info,) = unpacked.glob("*.dist-info")
    scripts = configparser.ConfigParser()
    scripts.read(info / "entry_points.txt")
    assert dict(scripts["console_scripts"]) == {"wine-drift": "wine_drift.__main__:run"}
    lines = (info / "METADATA").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    assert "Requires-Python: >=3.11" in lines
    needed = {line.removeprefix("Requires-Dist: ") for line in lines if "extra ==" not in line}
    imports = {"click", "lightgbm", "numpy", "pandas", "platformdirs", "requests"}
    imports |= {"prometheus-client", "pyarrow", "rich", "scikit-learn", "scipy"}
    assert {name for name in imports if not any(line.startswith(name) for line in needed)} == set()


def test_the_unpacked_wheel_works_elsewhere(unpacked: Path) -> None:
    """Outside the sources, the wheel's own files are enough to simulate a batch."""
    code = "import wine_drift.cli as cli; print(cli.__file__); cli.main()"
    environ = {**os.environ, "PYTHONPATH": str(unpacked)}

    def run(*arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            env=environ,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        first, *rest = done.stdout.splitlines()
        assert Path(first).is_relative_to(unpacked)
        return rest

    assert run("simulate", "--out", "out", "--home", "home") == ["out/none-0000.csv"]
    assert len(Path("out/none-0000.csv").read_text().splitlines()) == 101
    (told,) = run("--version")
    assert told.endswith(version("wine-drift"))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([sys.executable, "-m", "wine_drift"], id="python -m wine_drift"),
        pytest.param([str(Path(sys.executable).with_name("wine-drift"))], id="wine-drift"),
    ],
)
def test_version(command: list[str]) -> None:
    """Both ways to start the program tell its version."""
    if not Path(command[0]).exists():
        pytest.skip("the console script is not beside this Python")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == version("wine-drift")


def test_version_of_the_command() -> None:
    """The console script is what `python -m wine_drift` is, and tells its name and version."""
    (script,) = [s for s in entry_points(group="console_scripts") if s.name == "wine-drift"]
    assert script.load() is program.run
    result = CliRunner().invoke(main, ["--version"], prog_name="wine-drift")
    assert result.output == f"wine-drift {version('wine-drift')}\n"
