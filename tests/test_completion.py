"""Completion in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

BASH = """
eval "$(wine-drift completion bash)"
complete -p wine-drift >/dev/null || exit 1
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_wine_drift_completion wine-drift
printf '%s\\n' "${COMPREPLY[@]}"
"""


def shell(name: str) -> str:
    """Path of a shell; the test is left out where there is none."""
    found = shutil.which(name)
    if found is None and os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
        pytest.fail(f"needs {name}")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def environment() -> dict[str, str]:
    """Where `wine-drift` is found."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("words", "some", "none"),
    [
        (["stat"], {"status"}, {"metrics"}),
        (["models", "ro"], {"rollback"}, {"list"}),
        (["run-batch", "--push"], {"--pushgateway", "--push-timeout"}, {"--home"}),
        (["run-batch", "--recipe", ""], {"scratch", "continue", "refit", "auto"}, {"--recipe"}),
        (["run-batch", "--recipe", "re"], {"refit"}, {"scratch"}),
        (["completion", ""], {"bash", "zsh", "fish"}, {"powershell"}),
    ],
    ids=str,
)
def test_bash_completes(words: list[str], some: set[str], none: set[str]) -> None:
    """Commands, options, and the choices of a setting."""
    command = [shell("bash"), "-c", BASH, "bash", "wine-drift", *words]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=True, timeout=60
    )
    found = set(done.stdout.split())
    assert some <= found and not none & found, done


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_each_shell_can_read_its_script(cli: Callable[..., Result], name: str) -> None:
    """Without running anything of it."""
    script = cli("completion", name).stdout
    assert "_WINE_DRIFT_COMPLETE" in script
    Path("script").write_text(script)
    subprocess.run([shell(name), "-n", "script"], check=True, timeout=60)


def test_another_shell(cli: Callable[..., Result]) -> None:
    """Those that there are are told."""
    assert "'bash', 'zsh', 'fish'" in cli("completion", "csh", code=2).stderr
