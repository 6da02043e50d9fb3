"""The documents name everything that there is, and nothing that there is not."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import click
import pytest

from wine_drift import errors, wording
from wine_drift.cli import main
from wine_drift.exposition import COUNTERS, GAUGES, LEGACY
from wine_drift.settings import SCENARIOS, specification

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOP = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("*.md")}
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


def commands(group: click.Group, prefix: str = "wine-drift") -> list[str]:
    """Every command in full."""
    found = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        found += commands(command, full) if isinstance(command, click.Group) else [full]
    return found


@pytest.mark.parametrize("command", commands(main))
def test_every_command_is_told(command: str) -> None:
    """A command that no page names does not exist for its readers."""
    assert f"`{command}" in PAGES["commands.md"]


@pytest.mark.parametrize("name", specification())
def test_every_setting_is_told_with_its_default(name: str) -> None:
    """The table of settings has each of them."""
    table = [line for line in PAGES["settings.md"].splitlines() if line.startswith("|")]
    row = next(line for line in table if f"`{name}`" in line)
    default = specification()[name].default
    if isinstance(default, int | float | str) and not isinstance(default, bool):
        assert f"{default:.12g}" in row if isinstance(default, float) else str(default) in row


def test_every_exit_code_is_told_also_in_help() -> None:
    """Each error's code has its row, and --help names it."""
    children = [errors.WineDriftError]
    for child in children:
        children += child.__subclasses__()
    section = PAGES["commands.md"].split("## Exit codes")[1]
    assert main.help
    for code in {0, 8, 130, *(child.exit_code for child in children)}:
        assert f"| {code} |" in section
        assert re.search(rf"\b{code}\b", main.help)


def test_every_metric_is_in_the_catalogue_and_no_other() -> None:
    """docs/metrics.md lists exactly what can be published."""
    there = {f"wine_drift_{name}" for name in GAUGES} | LEGACY.keys()
    there |= {f"wine_drift_{name}_total" for name in COUNTERS}
    told = re.findall(r"^\| `(\w+)`", PAGES["metrics.md"], flags=re.MULTILINE)
    assert sorted(told) == sorted(there)


def test_metrics_that_are_told_exist() -> None:
    """No page names one that is not published."""
    there = {f"wine_drift_{name}" for name in GAUGES} | {
        f"wine_drift_{name}_total" for name in COUNTERS
    }
    for page, text in [*TOP.items(), *PAGES.items()]:
        named = set(re.findall(r"`(wine_drift_\w+)", text))
        assert named <= there, page


def test_every_module_has_a_room_in_the_architecture() -> None:
    """docs/architecture.md names each module."""
    modules = {path.name for path in (ROOT / "wine_drift").glob("*.py")}
    for module in modules - {"__init__.py", "__main__.py"}:
        assert f"`{module}`" in PAGES["architecture.md"], module


def test_every_scenario_and_reason_is_told() -> None:
    """Scenarios stand beside the settings, reason codes in the description of the record."""
    for scenario in SCENARIOS:
        assert f"`{scenario}`" in PAGES["settings.md"]
    for reason in wording.REASONS:
        assert f"`{reason}`" in PAGES["record.md"]


def test_links_lead_somewhere() -> None:
    """Each relative link in README, its neighbours and docs names a file that is there."""
    pages = [(ROOT, page) for page in TOP.values()]
    for folder, text in [*pages, *((ROOT / "docs", page) for page in PAGES.values())]:
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (folder / target).exists(), target


def test_every_page_can_be_reached_from_the_readme() -> None:
    """Nothing is written that nobody finds; the site has a first page of its own."""
    told = set(re.findall(r"\]\(([^)#:]+)\)", README))
    pages = {*TOP, *(f"docs/{name}" for name in PAGES)} - {"README.md", "docs/index.md"}
    assert pages <= told


def test_every_target_of_make_that_is_told_is_there() -> None:
    """`make something` in any page is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    text = "\n".join([*TOP.values(), *PAGES.values()])
    told = re.findall(
        r"(?:^|`)make ((?:[a-z]+(?:-[a-z]+)* ?)+)(?:$|`|  )", text, flags=re.MULTILINE
    )
    named = {word for words in told for word in words.split()}
    assert {"run", "test", "versions", "dist", "lint"} <= named <= targets


def test_every_extra_that_is_told_is_there() -> None:
    """pip passes over one that is not, with a warning."""
    there = metadata("wine-drift").get_all("Provides-Extra")
    told = re.findall(r"(?:wine-drift|'\.)\[(\w+)\]", "\n".join([*TOP.values(), *PAGES.values()]))
    assert {"dask", "postgres", "remote"} == set(told) <= set(there or ())


def test_the_russian_readme_shows_the_same_output() -> None:
    """What the program prints is the same in both, and so are the version of Python and links."""
    (shown,) = re.findall(r"```text\n(.*?)```", TOP["README.ru.md"], flags=re.DOTALL)
    assert set(shown.splitlines()) <= set(README.splitlines())
    assert "Python 3.11" in TOP["README.ru.md"] and "](README.md)" in TOP["README.ru.md"]


def test_the_site(tmp_path: Path) -> None:
    """It is built without a warning, has every page, and fetches nothing from elsewhere."""
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run([*command, ROOT / "docs", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for name in PAGES:
        page = (tmp_path / name).with_suffix(".html").read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:link|script|img|iframe)\b[^>]*?(?:href|src)=\"([^\"]*)", page)
        assert loaded and not [address for address in loaded if "//" in address]
