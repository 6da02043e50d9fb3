"""Parts of `make cron-drill` that need no cron."""

from __future__ import annotations

import re
from difflib import unified_diff

import cron_drill
import pytest


def test_the_drill_changes_only_what_a_person_would() -> None:
    """Of the shipped crontab: values of variables, and how often."""
    shipped = cron_drill.CRONTAB.read_text(encoding="utf-8")
    edited = cron_drill.edited(shipped, {"PATH": "/here", "WINE_DRIFT_CRON": '"* * * * *"'})
    diff = unified_diff(shipped.splitlines(), edited.splitlines(), n=0, lineterm="")
    changed = [line[1:] for line in diff if re.match(r"\+[^+]", line)]
    assert changed[:2] == ["PATH=/here", 'WINE_DRIFT_CRON="* * * * *"']
    (line,) = changed[2:]
    assert line.startswith("* * * * * flock ") and line[9:] in shipped
    with pytest.raises(SystemExit, match=r"HOSTNAME= stands in .* 0 times"):
        cron_drill.edited(shipped, {"HOSTNAME": "here"})
