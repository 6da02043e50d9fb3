"""A version as one file: written the same each time, read with suspicion.

An uncompressed tar of the files of a version and its manifest, sorted, without times and owners.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wine_drift import files
from wine_drift.errors import SettingsError

MANIFEST = "manifest.json"
FILES = frozenset({"model.txt", "reference.json", "reference.npy.z", "rows.npy.z"})
BASE = "base.txt"  # of a model that was continued from another one
MOST = 512 * 2**20  # bytes of the file, and of each part of it once it is unpacked
MOST_OF = {MANIFEST: 16 * 2**20, "reference.json": 64 * 2**20}
_ASK = "ask for the file again; nothing was changed"

Check = Callable[[Any], bool]


def write_bundle(path: Path, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
    """Write a version to a new file: all of it or nothing.

    Parameters
    ----------
    path : Path
    manifest : mapping
    contents : mapping
        Bytes by name of every file that the manifest names.

    Raises
    ------
    SettingsError
        There is a file of that name, or it cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise SettingsError(f"{path}: is there already", remedy="name another file with --out")
    parts = {**contents, MANIFEST: json.dumps(manifest, indent=1).encode()}
    try:
        with (
            files.whole(path, "export") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for name in sorted(parts):
                member = tarfile.TarInfo(name)  # of nobody, and as old as can be
                member.size, member.mode = len(parts[name]), 0o600
                tar.addfile(member, io.BytesIO(parts[name]))
    except OSError as error:
        raise SettingsError(
            f"{path}: {error.strerror or error}", remedy="name a file in a writable folder"
        ) from error


def read_bundle(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read the manifest and the files of a version, as `write_bundle` wrote them.

    Nothing is unpacked to disk, and nothing is believed: names, kinds, sizes, hashes and the
    manifest are checked. What the files hold is not.

    Returns
    -------
    manifest : dict
        The keys that each version has; others are left out.
    contents : dict
        Bytes by name of every file that it names.

    Raises
    ------
    SettingsError
        The file cannot be read, or is none of a version.
    """
    contents = _members(path, _read(path))
    try:
        manifest = json.loads(contents.pop(MANIFEST), parse_constant=_refuse)
        if isinstance(manifest, dict):
            manifest = {"categories": {}, **manifest}  # earlier releases knew none
        mistake = _mistake(manifest)
    except KeyError:
        raise _no_bundle(path, f"no {MANIFEST} in it") from None
    except (ValueError, RecursionError) as error:
        raise _no_bundle(path, f"{MANIFEST}: not JSON: {error}") from error
    if mistake:
        raise _no_bundle(path, f"{MANIFEST}: {mistake}")
    if contents.keys() != manifest["files"].keys() or contents.keys() - {BASE} != FILES:
        raise _no_bundle(path, f"its files are {', '.join(sorted(contents)) or 'none'}")
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest["files"][name]:
            raise _no_bundle(path, f"{name}: its hash is wrong")
        if name.endswith(".z"):
            _check_unpacked(path, name, content)
    return {key: manifest[key] for key in _KINDS}, contents


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            remedy = "name a file that `wine-drift models export` wrote"
            raise SettingsError(f"{path}: no file of that name", remedy=remedy)
        if path.stat().st_size > MOST:
            raise _no_bundle(path, f"larger than {MOST:,} bytes")
        with path.open("rb") as file:
            return file.read(MOST)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", remedy="name a readable file") from error


def _members(path: Path, data: bytes) -> dict[str, bytes]:
    """Contents by name; header by header, as tarfile follows links and obeys extensions."""
    contents: dict[str, bytes] = {}
    place = 0
    while any(data[place : place + tarfile.BLOCKSIZE]):  # the end is a block of zeros
        header = data[place : place + tarfile.BLOCKSIZE]
        try:
            member = tarfile.TarInfo.frombuf(header, "ascii", "backslashreplace")
        except tarfile.TarError as error:
            raise _no_bundle(path, f"no tar file: {error}") from error
        place += tarfile.BLOCKSIZE
        name, size = member.name, member.size
        if (
            member.type != tarfile.REGTYPE
            or name not in {MANIFEST, BASE, *FILES}
            or name in contents
        ):
            raise _no_bundle(path, f"{name!r} is no part of a version")
        if not 0 <= size <= MOST_OF.get(name, MOST):
            raise _no_bundle(path, f"{name}: {size:,} bytes are too many")
        contents[name] = data[place : place + size]
        if len(contents[name]) < size:
            raise _no_bundle(path, f"{name}: it is cut short")
        place += -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return contents


def _check_unpacked(path: Path, name: str, content: bytes) -> None:
    try:
        unpacked = zlib.decompressobj().decompress(content, MOST + 1)
    except zlib.error as error:
        raise _no_bundle(path, f"{name}: {error}") from error
    if len(unpacked) > MOST:
        raise _no_bundle(path, f"{name}: more than {MOST:,} bytes once it is unpacked")


def _no_bundle(path: Path, problem: str) -> SettingsError:
    return SettingsError(f"{path}: {problem}", remedy=_ASK)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


# --- what a manifest may hold ---


def _text(value: Any) -> bool:
    """Something to print: without control characters, which a terminal would obey."""
    return isinstance(value, str) and not any(c < " " or "\x7f" <= c < "\xa0" for c in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e11 < value < 1e11


def _whole(value: Any) -> bool:
    return _number(value) and isinstance(value, int) and value >= 0


def _any_of(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _none(value: Any) -> bool:
    return value is None


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


_KINDS: dict[str, Check] = {
    "version": _text,
    "number": _whole,
    "reason": _text,
    "parent": _any_of(_text, _none),
    "trained_at": lambda value: _number(value) and value >= 0,
    "dataset": _text,
    "recipe": _text,
    "gate": lambda value: value is None or isinstance(value, dict),
    "algorithm": _text,
    "features": _texts,
    "categories": _each(_texts),
    "positive": _text,
    "training_rows": _whole,
    "training_positives": _whole,
    "reference_rows": _whole,
    "data_sha256": _each(_text),
    "out_of_fold": _each(_any_of(_number, _none)),
    "parameters": _each(_any_of(_text, _number, lambda value: isinstance(value, bool))),
    "half_life": _number,
    "trees": _whole,
    "units": _each(_text),
    "reliance": _each(_number),
    "libraries": _each(_text),
    "files": _each(_text),
}


def _mistake(manifest: Any) -> str | None:
    """What is wrong with a manifest; None if nothing is."""
    if not isinstance(manifest, dict):
        return "not an object"
    for key, check in _KINDS.items():
        if key not in manifest:
            return f"{key} is missing"
        if not check(manifest[key]):
            return f"{key} cannot be {json.dumps(manifest[key])[:60]}"
    return None
