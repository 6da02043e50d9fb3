"""Versions once they are made: one serves again, old files go, two are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from wine_drift.errors import SettingsError
from wine_drift.failpoints import reached
from wine_drift.home import models_place, reading, writing
from wine_drift.ledger import Ledger
from wine_drift.model import Version, read_version
from wine_drift.outbox import publish
from wine_drift.policy import Change
from wine_drift.record import Report
from wine_drift.settings import Settings
from wine_drift.shelf import folders, remove

# What two manifests are compared by, in the order in which it is told.
COMPARED = (
    *("reason", "parent", "dataset", "recipe", "training_rows", "training_positives"),
    *("reference_rows", "data_sha256", "trees", "half_life", "parameters", "libraries"),
    *("out_of_fold", "reliance"),
)
_WRITTEN = re.compile(r"v\d+-[0-9a-f]{8}|\.v\d+-[0-9a-f]{8}\.part")  # by `write_version`


def rollback(settings: Settings, version: str | None = None) -> Report:
    """Let an earlier or imported version serve, with its own reference and detector.

    Parameters
    ----------
    settings : Settings
    version : str, optional
        The parent of the champion if not given.

    Returns
    -------
    Report
        `outcome` is "rolled_back", or "serves_already" and nothing was changed.

    Raises
    ------
    SettingsError
        There is no such version, or its files were removed.
    StateUnreadable
        One of its files is damaged. In either case nothing was changed.
    """
    with writing(settings, new=False) as ledger:
        before = _champion(ledger)
        manifest = present(ledger, version or _parent(before))
        wanted = manifest["version"]
        found = {"version": wanted, "before": before["version"], "tries_at_rows": None}
        if wanted == before["version"]:
            return Report({"outcome": "serves_already", **found, "push": None})
        newest = read_version(models_place(settings), manifest).learnt.newest
        change = _told_before(ledger, wanted, newest)
        ledger.commit_champion_again(wanted, change)
        told, failure = publish(settings, ledger)
        if change is not None:
            found["tries_at_rows"] = 2 * change.tried
        return Report({"outcome": "rolled_back", **found, "push": told}, failure)


def prune(settings: Settings) -> dict[str, Any]:
    """Remove the files of old versions, and folders that no entry of the ledger claims.

    The newest `keep_versions`, the champion and its parent stay. The manifests of all stay in the
    ledger. What a killed prune leaves is removed by the next one.

    Returns
    -------
    dict
        Names: `removed` versions, `leftovers` that were no version, versions `kept`.

    Raises
    ------
    SettingsError
        The home has no ledger: everything would look unclaimed.
    """
    with reading(settings) if settings.dry_run else writing(settings, new=False) as ledger:
        return prune_versions(settings, ledger) | {"dry_run": settings.dry_run}


def prune_versions(settings: Settings, ledger: Ledger) -> dict[str, Any]:
    """The same with a ledger that is open; see `prune`."""
    found = _to_prune(settings, ledger)
    if not settings.dry_run:
        ledger.commit_pruned(found["removed"])  # first: the ledger never claims what is not there
        for name in (*found["removed"], *found["leftovers"]):
            reached("prune: version")
            remove(models_place(settings), name)
    return found


def diff(settings: Settings, old: str | None = None, new: str | None = None) -> dict[str, Any]:
    """Compare two versions: what they were made of, and how they score.

    Parameters
    ----------
    settings : Settings
    old, new : str, optional
        The parent of the champion and the champion if not given.

    Returns
    -------
    dict
        `differences` in the manifests, each with `what`, `of`, `old` and `new`; and `scores`, on
        the reference rows of the new version, or None if files were `removed`.

    Raises
    ------
    SettingsError
        There is no such version.
    StateUnreadable
        A file of one is damaged.
    """
    with reading(settings) as ledger:
        newer = known(ledger, new) if new else _champion(ledger)
        older = known(ledger, old or _parent(newer))
        gone = sorted(ledger.pruned() & {older["version"], newer["version"]})
    scores = None
    if not gone:
        scores = _scores(*(read_version(models_place(settings), each) for each in (older, newer)))
    return {
        "old": older["version"],
        "new": newer["version"],
        "differences": list(_differences(older, newer)),
        "scores": scores,
        "removed": gone,
    }


# --- which version ---


def _champion(ledger: Ledger) -> dict[str, Any]:
    champion = ledger.champion()
    if champion is None:
        raise SettingsError(
            f"{ledger.place}: no model yet", remedy="the first `wine-drift run-batch` trains one"
        )
    return champion


def _parent(manifest: Mapping[str, Any]) -> str:
    if manifest["parent"] is None:
        raise SettingsError(
            f"{manifest['version']} has no parent",
            remedy="name a version; `wine-drift models list` has them",
        )
    return str(manifest["parent"])


def known(ledger: Ledger, version: str) -> dict[str, Any]:
    """Manifest of a version.

    Raises
    ------
    SettingsError
        There is none of that name.
    """
    manifests = {manifest["version"]: manifest for manifest in ledger.versions()}
    if version not in manifests:
        raise SettingsError(
            f"{ledger.place}: no model version {version}",
            remedy=f"there are: {', '.join(manifests) or 'none'}",
        )
    return manifests[version]


def present(ledger: Ledger, version: str) -> dict[str, Any]:
    """Manifest of a version whose files are kept.

    Raises
    ------
    SettingsError
        There is none of that name, or its files were removed.
    """
    manifest = known(ledger, version)
    if version in ledger.pruned():
        raise SettingsError(
            f"the files of {version} were removed by `wine-drift models prune`",
            remedy="import it, if it was exported before; nothing was changed",
        )
    return manifest


# --- what is done with it ---


def _told_before(ledger: Ledger, version: str, newest: int) -> Change | None:
    """What was labelled since a version learnt, as a change that was tried already.

    It is counted from the newest batch that the version knows, where a change of now cannot have
    begun earlier.

    Or else the next alarm would promote at once what was just rolled back.
    """
    if not ledger.labelled_counts(after=ledger.learnt(version))[0]:
        return None
    return Change(max(newest, 1), tried=ledger.labelled_since(newest))


def _to_prune(settings: Settings, ledger: Ledger) -> dict[str, Any]:
    gone = ledger.pruned()
    there = [each["version"] for each in ledger.versions() if each["version"] not in gone]
    champion = ledger.champion() or {}
    needed = {champion.get("version"), champion.get("parent"), *there[-settings.keep_versions :]}
    ours = {name for name in folders(models_place(settings)) if _WRITTEN.fullmatch(name)}
    return {
        "removed": [version for version in there if version not in needed],
        "leftovers": sorted(ours - set(there)),
        "kept": [version for version in there if version in needed],
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for what in COMPARED:
        before, after = old.get(what), new.get(what)
        if not isinstance(before, dict) or not isinstance(after, dict):
            before, after = {None: before}, {None: after}
        for of in {**before, **after}:
            if before.get(of) != after.get(of):
                yield {"what": what, "of": of, "old": before.get(of), "new": after.get(of)}


def _scores(old: Version, new: Version) -> dict[str, Any]:
    """How the scores of two versions differ on the reference rows of the second."""
    features = new.reference_rows.features[:, :-1]
    before, after = old.model.score(features), new.model.score(features)
    apart = np.abs(after - before)
    return {
        "rows": len(features),
        "mean_absolute": float(apart.mean()),
        "largest": float(apart.max()),
        "decisions_changed": float(((before >= old.cut) != (after >= new.cut)).mean()),
    }
