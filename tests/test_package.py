"""Wheel and sdist hold what they should, and nothing else; the wheel installs and runs."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from click.testing import CliRunner

import wine_drift
from wine_drift import __main__ as program
from wine_drift.cli import main

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path.relative_to(ROOT) for path in sorted((ROOT / "wine_drift").rglob("*.py"))]


MADE = {"PKG-INFO", "setup.cfg", "wine_drift.egg-info"}  # by setuptools, in an sdist


def missing(what: str) -> None:
    """Skip a test for want of something, which CI has to have."""
    if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist as `make dist` makes them, of a copy: nothing is left among the sources."""
    if not all(importlib.util.find_spec(name) for name in ("build", "setuptools")):
        missing("build and setuptools in this environment")
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "source"
    # what `make` leaves beside the sources goes along; a file with a secret is put there
    ignore = shutil.ignore_patterns(".venv", ".git", ".hypothesis", ".*_cache", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=ignore)
    secrets = copy / "compose" / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "grafana_admin_password").write_text("secret")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The wheel, which was built from the sdist."""
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip would lay it down."""
    folder = tmp_path_factory.mktemp("site")
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


def test_the_wheel_is_complete(wheel: Path) -> None:
    """Every module, every data file and the typing marker are in the wheel; tests are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    code = {name for name in names if ".dist-info/" not in name}
    data = {f"wine_drift/data/{path.name}" for path in (ROOT / "wine_drift" / "data").iterdir()}
    assert {"wine_drift/data/red_wine.toml", "wine_drift/data/red_wine_figures.json"} <= data
    assert "wine_drift/data/page.html" in data
    assert code == {path.as_posix() for path in SOURCES} | data | {"wine_drift/py.typed"}


def test_the_sdist_is_the_repository(dist: Path) -> None:
    """Every file that is under version control is in the sdist, tests too, and no other."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = [Path(member.name) for member in archive if member.isfile()]
    there = {Path(*file.parts[1:]).as_posix() for file in files}
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        missing("git and a clone, to know what belongs to the repository")
    expected = {name for name in told.splitlines() if (ROOT / name).exists()}
    assert {name for name in there ^ expected if name.split("/")[0] not in MADE} == set()


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
    assert {"License: MIT", "License-Expression: MIT"} & set(lines)
    assert (info / "licenses" / "LICENSE").read_text().startswith("MIT License")
    needed = {line.removeprefix("Requires-Dist: ") for line in lines if "extra ==" not in line}
    imports = {"click", "lightgbm", "numpy", "pandas", "platformdirs", "requests"}
    imports |= {"prometheus-client", "pyarrow", "rich", "scikit-learn", "scipy"}
    imports |= {"jinja2", "markupsafe", "matplotlib"}
    assert {name for name in imports if not any(line.startswith(name) for line in needed)} == set()


@pytest.mark.slow
def test_the_wheel_installs_and_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """In an empty environment far from the sources, with what the package index has."""
    subprocess.run([sys.executable, "-m", "venv", "elsewhere"], check=True, timeout=300)
    install = ["elsewhere/bin/pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=800)
    if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
        missing("a package index")
    assert done.returncode == 0, done.stderr

    def run(*words: str) -> str:
        told = subprocess.run(
            words, capture_output=True, text=True, timeout=300, env={"PATH": "elsewhere/bin"}
        )
        assert told.returncode == 0, told.stderr
        return told.stdout

    where = "import wine_drift, pathlib; print(pathlib.Path(wine_drift.__file__).parents[4])"
    assert Path(run("elsewhere/bin/python", "-I", "-c", where).strip()) == tmp_path / "elsewhere"
    assert run("elsewhere/bin/wine-drift", "--version") == f"wine-drift {version('wine-drift')}\n"
    assert "run-batch" in run("elsewhere/bin/wine-drift", "--help")
    simulated = ("--source", "simulated", "--home", "home", "--rounds", "5")
    assert "batch 1 · " in run("elsewhere/bin/wine-drift", "run-batch", *simulated)
    assert "wine_drift_batches_total" in run(
        "elsewhere/bin/wine-drift", "metrics", "--home", "home"
    )
    written = run("elsewhere/bin/wine-drift", "report", "--out", "page.html", "--home", "home")
    assert written.startswith("wrote page.html: ")


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


def test_the_version_is_told_in_one_place() -> None:
    """What else names it, the images of `jobs/` and the list of changes, names the same."""
    told = version("wine-drift")
    assert wine_drift.__version__ == told
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: wine_drift.__version__"
    manifests = [path.read_text() for path in (ROOT / "jobs").rglob("*.yaml")]
    images = re.findall(r"image: wine-drift:(\S+)", "".join(manifests))
    assert images and set(images) == {told}
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\d[\d.]*)\]", changes, re.M)[0] == told


def test_version_of_the_command() -> None:
    """The console script is what `python -m wine_drift` is, and tells its name and version."""
    (script,) = [s for s in entry_points(group="console_scripts") if s.name == "wine-drift"]
    assert script.load() is program.run
    result = CliRunner().invoke(main, ["--version"], prog_name="wine-drift")
    assert result.output == f"wine-drift {version('wine-drift')}\n"
