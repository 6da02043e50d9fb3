"""What all tests share: the real table, and a clean environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_TABLE = os.environ.get("WINE_DRIFT_DATA")


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
