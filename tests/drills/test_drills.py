"""The drills of `make test-faults`, short."""

from __future__ import annotations

import os
from pathlib import Path

import drill
import pytest
import trouble


@pytest.mark.parametrize("name", drill.DRILLS)
def test_drill(name: str, tmp_path: Path) -> None:
    """Whatever is broken on purpose, nothing is lost, counted twice or told by a traceback."""
    try:
        rows = list(drill.find(name)(tmp_path, thorough=False, seed=1))
    except trouble.Missing as missing:
        if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    assert [drill.line(row) for row in rows if not row.held] == []
    assert rows
