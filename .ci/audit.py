"""Known holes in what is installed: `make audit` runs pip-audit and reads its answer strictly.

pip-audit ends with 0 also when its database knows none of the packages, as behind a mirror that
has only their files. What was not looked up counts as not checked here. Exits with 1 if there are
holes, and with 2 if not everything could be checked, unless AUDIT_TOLERANT=1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

# Holes that do not concern us: their number, and why.
ACCEPTED: dict[str, str] = {}


def ask(program: str, folder: str) -> list[dict[str, Any]] | None:
    """What pip-audit says of each package in a folder of packages; None if it could not say."""
    command = [program, "--path", folder, "--skip-editable", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=300)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return None
    return found


def judge(found: list[dict[str, Any]] | None, *, tolerant: bool) -> tuple[int, list[str]]:
    """The exit code, and what to print.

    Examples
    --------
    >>> hole = {"id": "PYSEC-1", "aliases": ["CVE-2"], "fix_versions": ["1.1"]}
    >>> judge([{"name": "leaky", "version": "1.0", "vulns": [hole]}], tolerant=True)
    (1, ['HOLE leaky 1.0: PYSEC-1, CVE-2; mended in 1.1', '1 checked, 1 holes'])
    >>> judge([{"name": "own", "skip_reason": "not found on PyPI"}], tolerant=False)
    (2, ['NOT CHECKED own: not found on PyPI', '0 checked, 0 holes, 1 NOT CHECKED'])
    >>> judge(None, tolerant=True)
    (0, ['NOT CHECKED: the database of holes cannot be reached'])
    """
    if found is None:
        return 2 * (not tolerant), ["NOT CHECKED: the database of holes cannot be reached"]
    lines, unknown, holes, checked = [], [], 0, 0
    for package in found:
        reason = package.get("skip_reason")
        if reason is not None:
            if "editable" not in reason:  # that is this checkout
                unknown.append(f"NOT CHECKED {package['name']}: {reason}")
            continue
        checked += 1
        for hole in package["vulns"]:
            names = [hole["id"], *hole.get("aliases", ())]
            accepted = next((ACCEPTED[name] for name in names if name in ACCEPTED), None)
            what = f"{package['name']} {package['version']}: {', '.join(names)}"
            if accepted is not None:
                lines.append(f"accepted {what}: {accepted}")
                continue
            holes += 1
            mended = ", ".join(hole["fix_versions"]) or "no release"
            lines.append(f"HOLE {what}; mended in {mended}")
    total = f"{checked} checked, {holes} holes"
    if unknown or not checked:
        total += f", {len(unknown)} NOT CHECKED"
    if len(unknown) > 5:  # the database has none of them, rather than not one
        unknown[3:] = [f"NOT CHECKED {len(unknown) - 3} more"]
    code = 1 if holes else 2 * (bool(unknown or not checked) and not tolerant)
    return code, [*lines, *unknown, total]


if __name__ == "__main__":
    answer = ask(*sys.argv[1:3])
    status, told = judge(answer, tolerant=os.environ.get("AUDIT_TOLERANT") == "1")
    print("\n".join(told))
    sys.exit(status)
