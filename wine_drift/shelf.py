"""The immutable folder of a version: written whole, read with its hashes; no model is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wine_drift.errors import StateUnreadable
from wine_drift.files import make_folder, write_folder


def write_files(folder: Path, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
    """Write the folder of a version from what `read_files` gave: all of it or nothing."""
    text = json.dumps(manifest, indent=1).encode()
    make_folder(folder)
    write_folder(folder / manifest["version"], {**contents, "manifest.json": text}, "version")


def read_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Read the files of a version, the manifest apart, each checked against the ledger's own.

    Raises
    ------
    StateUnreadable
        A file is missing, or is not what was written.
    """
    path = folder / manifest["version"]
    try:
        contents = {name: (path / name).read_bytes() for name in manifest["files"]}
    except OSError as error:
        raise StateUnreadable(
            f"model {path}: {error.strerror}", remedy=restore_remedy(path)
        ) from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest["files"][name]:
            raise StateUnreadable(
                f"model {path / name}: its hash is wrong", remedy=restore_remedy(path)
            )
    return contents


def is_sound(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a version is there as it was written."""
    try:
        read_files(folder, manifest)
    except StateUnreadable:
        return False
    return True


def restore_remedy(path: Path) -> str:
    """What to do about a damaged version."""
    return (
        f"`wine-drift repair` puts {path.name} back if there is a sound copy; else let another one "
        "serve with `wine-drift models rollback VERSION`"
    )
