"""What lies where `models` points, as files; no model is made of them.

The immutable folders of versions, written whole and read with their hashes, and beside them a
folder of files of labelled rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from wine_drift.errors import StateUnreadable
from wine_drift.failpoints import reached
from wine_drift.files import make_folder, remove_folder, write_folder

if TYPE_CHECKING:
    from wine_drift.bucket import Bucket

WINDOW = "window"  # folder beside those of versions: files of labelled rows
Place: TypeAlias = "Path | Bucket"  # that holds such folders


def place_of(named: str | None, default: Path) -> Place:
    """Where folders of versions are: the folder or the URL that was named, or else the default.

    Raises
    ------
    SettingsError
        It is a URL of a kind that nobody here knows.
    """
    if named is None:
        return default
    if "://" not in named:
        return Path(named).expanduser()
    from wine_drift.bucket import Bucket

    return Bucket(named)


def write_files(place: Place, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
    """Write the folder of a version from what `read_files` gave: all of it or nothing.

    Behind a URL it may be cut short; then the manifest, which comes last, is not there.
    """
    version = manifest["version"]
    everything = {**contents, "manifest.json": json.dumps(manifest, indent=1).encode()}
    if isinstance(place, Path):
        make_folder(place)
        write_folder(place / version, everything, "version")
    else:
        place.write(version, everything)


def read_files(place: Place, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Read the files of a version, the manifest apart, each checked against the ledger's own.

    Raises
    ------
    StateUnreadable
        A file is missing, or is not what was written.
    """
    version = manifest["version"]
    path = f"{place}/{version}"
    try:
        contents = {name: _read(place, version, name) for name in manifest["files"]}
    except OSError as error:
        raise StateUnreadable(
            f"model {path}: {error.strerror}", remedy=restore_remedy(manifest)
        ) from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest["files"][name]:
            raise StateUnreadable(
                f"model {path}/{name}: its hash is wrong", remedy=restore_remedy(manifest)
            )
    return contents


def _read(place: Place, version: str, name: str) -> bytes:
    if isinstance(place, Path):
        return (place / version / name).read_bytes()
    return place.read(version, name)


def is_sound(place: Place, manifest: Mapping[str, Any]) -> bool:
    """Whether a version is there as it was written."""
    try:
        read_files(place, manifest)
    except StateUnreadable:
        return False
    return True


def folders(place: Place) -> list[str]:
    """Names of all folders, whatever is in them; a link to one is none."""
    if isinstance(place, Path):
        return [path.name for path in place.glob("*") if path.is_dir() and not path.is_symlink()]
    return place.folders()


def remove(place: Place, name: str) -> None:
    """Remove a folder with all that is in it; none is fine."""
    if isinstance(place, Path):
        remove_folder(place / name)
    else:
        place.remove(name)


def shards(place: Place) -> list[str]:
    """Names of the files of labelled rows there; see `shards`."""
    if isinstance(place, Path):
        with contextlib.suppress(FileNotFoundError):
            return [path.name for path in (place / WINDOW).iterdir()]
        return []
    return place.files(WINDOW)


def remove_shards(place: Place, names: Iterable[str]) -> None:
    """Remove such files; those that are gone are fine."""
    for name in names:
        reached("shard: remove")
        if isinstance(place, Path):
            (place / WINDOW / name).unlink(missing_ok=True)
        else:
            place.remove(f"{WINDOW}/{name}")


def restore_remedy(manifest: Mapping[str, Any]) -> str:
    """What to do about a damaged version."""
    return (
        f"`wine-drift repair` puts {manifest['version']} back if there is a sound copy; else let "
        "another one serve with `wine-drift models rollback VERSION`"
    )
