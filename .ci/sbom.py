"""What the program needs at run time, as CycloneDX 1.6: `make sbom` writes it to dist/sbom.json.

It is read from setup.cfg and the metadata of what is installed, without a network: what wine-drift
requires, what that requires, and so on. The tools of development are left out.
"""

from __future__ import annotations

import configparser
import json
import sys
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "wine-drift"
SETUP = Path(__file__).parents[1] / "setup.cfg"


def required(name: str) -> list[str]:
    """What a package requires, one line each; of wine-drift as it is, not as it was installed."""
    if name != ROOT:
        return distribution(name).requires or []
    setup = configparser.RawConfigParser()
    setup.read(SETUP, encoding="utf-8")
    return setup["options"]["install_requires"].split("\n")[1:]


def needed() -> dict[str, tuple[Distribution, list[str]]]:
    """Every package needed at run time by its name, with the names of those that it needs."""
    found: dict[str, tuple[Distribution, list[str]]] = {}
    waiting = [(ROOT, frozenset[str]())]
    extras: dict[str, frozenset[str]] = {}
    while waiting:
        name, asked = waiting.pop()
        if name in found and asked <= extras[name]:
            continue
        extras[name] = asked | extras.get(name, frozenset())
        below = []
        for line in required(name):
            each = Requirement(line)
            on = ({"extra": extra} for extra in ("", *extras[name]))
            if each.marker is None or any(map(each.marker.evaluate, on)):
                below.append(canonicalize_name(each.name))
                waiting.append((below[-1], frozenset(each.extras)))
        found[name] = distribution(name), sorted(set(below))
    return found


def component(name: str, package: Distribution) -> dict[str, Any]:
    """One package as CycloneDX has it."""
    version, facts = package.version, package.metadata
    told: dict[str, Any] = {
        "type": "application" if name == ROOT else "library",
        "bom-ref": f"{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
    }
    if facts["License-Expression"]:
        told["licenses"] = [{"expression": facts["License-Expression"]}]
    elif facts["License"] and len(facts["License"]) < 80:  # some have the whole text there
        told["licenses"] = [{"license": {"name": facts["License"]}}]
    else:
        heads = [line for line in facts.get_all("Classifier", ()) if line.startswith("License ::")]
        names = [{"license": {"name": line.rpartition(" :: ")[2]}} for line in heads]
        told |= {"licenses": names} if names else {}
    return told


def bill() -> dict[str, Any]:
    """The whole document."""
    packages = needed()
    parts = {name: component(name, package) for name, (package, _) in sorted(packages.items())}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid4().urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": parts.pop(ROOT),
        },
        "components": list(parts.values()),
        "dependencies": [
            {
                "ref": f"{name}@{package.version}",
                "dependsOn": [f"{each}@{packages[each][0].version}" for each in below],
            }
            for name, (package, below) in sorted(packages.items())
        ],
    }


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    document = bill()
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {len(document['components'])} packages that wine-drift needs at run time")
