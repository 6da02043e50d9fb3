"""A version travels from one home to another, as one file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wine_drift.bins import N_BINS, Floats
from wine_drift.bundle import read_bundle, write_bundle
from wine_drift.champion import Champion
from wine_drift.dataset import load_schema
from wine_drift.errors import SettingsError
from wine_drift.home import models_place, reading, writing
from wine_drift.ledger import Ledger
from wine_drift.measures import measure_quality
from wine_drift.model import Version, compared_model, parse_version, version_name, write_version
from wine_drift.outbox import publish
from wine_drift.record import Report
from wine_drift.reference import Reference, build_reference
from wine_drift.rows import LabelledRows
from wine_drift.schema import Schema
from wine_drift.settings import Settings
from wine_drift.shelf import read_files
from wine_drift.trees import check_trees
from wine_drift.versions import present

IMPORTED = "imported"


def export_version(settings: Settings, version: str, path: Path) -> None:
    """Write a version to one file; the same version gives the same bytes.

    Of a version that was trained on rows in shards, a sample of them goes with it.

    Raises
    ------
    SettingsError
        There is no such version, its files were removed, or the file cannot be written.
    StateUnreadable
        A file of the version is damaged.
    """
    with reading(settings) as ledger:
        manifest = present(ledger, version)
    contents = read_files(models_place(settings), manifest)
    if "shards" in manifest:  # they stay: what goes is a sample of their rows
        rows = LabelledRows.from_bytes(contents["rows.npy.z"])
        manifest |= {"training_rows": len(rows), "training_positives": int(rows.positive.sum())}
        del manifest["shards"]
    write_bundle(path, manifest, contents)


def import_version(settings: Settings, path: Path) -> Report:
    """Register a version of another home under the next number of this one.

    It serves at once in a home without a champion, or else once `rollback` says so.

    Returns
    -------
    Report
        `outcome` is "imported", or "known" and nothing was changed.

    Raises
    ------
    SettingsError
        The file is no version, or one for other columns or another question. Nothing was changed.
    """
    schema = load_schema(settings.schema)
    manifest, contents = read_bundle(path)
    difference = schema.difference(manifest)
    if difference is not None:
        raise SettingsError(
            f"{path}: {difference}",
            remedy="give the --schema that it was made for; nothing was changed",
        )
    try:
        version = _opened(manifest, contents, schema)
    except Exception as error:  # whatever a hostile file trips over
        raise SettingsError(
            f"{path}: damaged: {error or type(error).__name__}",
            remedy="ask for the file again; nothing was changed",
        ) from error
    with writing(settings) as ledger:
        Champion(settings, schema, ledger, time.time).check_schema()
        champion, gone = ledger.champion(), ledger.pruned()
        record = {"imported_from": manifest["version"], "serves": champion is None, "push": None}
        learnt = 0
        for each in ledger.versions():
            files = (each["files"], each.get("origin", {}).get("files"))
            if manifest["files"] in files:
                if each["version"] not in gone:
                    return Report({"outcome": "known", "version": each["version"], **record})
                learnt = ledger.learnt(each["version"])  # it comes home
        version = write_version(models_place(settings), _own(version, ledger))
        record = {"outcome": IMPORTED, "version": version.version, **record}
        if champion is not None:
            ledger.commit_version(version.manifest, learnt=learnt)
            return Report(record)
        ledger.commit_champion(version.manifest, None)
        record["push"], failure = publish(settings, ledger)
        return Report(record, failure)


def _opened(manifest: Mapping[str, Any], contents: Mapping[str, bytes], schema: Schema) -> Version:
    """A version of files that a stranger wrote; it can score and judge, or an error is raised."""
    n_features = len(schema.features)
    for name in contents.keys() & {"model.txt", "base.txt"}:
        # before LightGBM sees it
        check_trees(contents[name].decode(), n_features, schema.n_categories)
    with np.errstate(invalid="raise"):  # numbers that are none
        version = parse_version(contents, manifest)
    rows, columns = version.rows, version.reference_rows
    for each, width in ((rows, n_features), (columns, n_features + 1)):
        if each.features.dtype != float or each.features.shape[1:] != (width,) or not len(each):
            kind = f"{each.features.dtype} and shape {each.features.shape}"
            raise ValueError(f"rows of {kind}, not of {width} columns")
        if not np.isfinite(each.features).all():
            raise ValueError("rows with gaps")
    for key, value in {
        "version": version_name(manifest["number"], version.model.text),
        "training_rows": len(rows),
        "training_positives": int(rows.positive.sum()),
        "reference_rows": len(columns),
        "trees": version.model.n_trees,
    }.items():
        if manifest[key] != value:
            raise ValueError(f"the manifest is that of another version: {key} is not {value}")
    quality = measure_quality(columns.positive, columns.features[:, -1], cut=version.cut)
    for key, names in (
        ("out_of_fold", quality.measures()),
        ("units", schema.feature_names),
        ("reliance", schema.feature_names),
    ):
        if manifest[key].keys() != set(names) or manifest["out_of_fold"]["log_loss"] is None:
            raise ValueError(f"{key} in the manifest is not complete")
    model = compared_model(version.model.text, columns.features[:, :-1])
    for each_model in (model, version.scratch_base):
        if not np.isfinite(each_model.score(columns.features[:, :-1])).all():
            raise ValueError("its scores are no numbers")
    usual = build_reference(
        columns.features,
        schema.columns,
        columns.positive,
        schema.plausible,
        n_categories=schema.n_categories,
    )
    _check_reference(version.reference, usual)
    return replace(version, model=model)


def _check_reference(reference: Reference, usual: Reference) -> None:
    """It is laid out as the one that its rows give anew, and its figures can be computed with."""

    def counts(of: Reference) -> list[Floats]:
        return [part for group in vars(of.summary).values() for part in vars(group).values()]

    def layout(of: Reference) -> list[Any]:
        arrays = (of.limits, of.quantiles, of.correlation, *counts(of))
        of_categories = [e.tolist() for e, n in zip(of.edges, of.n_categories, strict=False) if n]
        shapes = [array.shape for array in arrays]
        return [of.columns, of.n_rows, len(of.edges), of.n_categories, of_categories, *shapes]

    if layout(reference) != layout(usual):
        raise ValueError("its reference is not one of its rows")
    for edges in reference.edges:
        if edges.ndim != 1 or len(edges) >= N_BINS or not (np.diff(edges) > 0).all():
            raise ValueError("the bins of its reference are damaged")
    most = 100 * reference.n_rows  # with 99 % of a feature missing in those that it stands for
    if not all(((part >= 0) & (part <= most)).all() for part in counts(reference)):
        raise ValueError("the counts of its reference are damaged")
    if not (np.abs(reference.correlation) <= 1.01).all():  # of figures with variance 1
        raise ValueError("the correlations of its reference are damaged")


def _own(version: Version, ledger: Ledger) -> Version:
    """An imported version as one of this home, with its next number."""
    manifest, number = version.manifest, ledger.next_version()
    name = version_name(number, version.model.text)
    # the batches that brought its rows are none of this home, where it is as old as its last batch;
    # the table that all began with is as old as any
    last, sequence = ledger.next_sequence() - 1, version.rows.sequence
    moved = np.maximum(sequence + (last - sequence.max()), min(1, last))
    rows = replace(version.rows, sequence=np.where(sequence > 0, moved, 0))
    manifest = {
        **manifest,
        **{"version": name, "number": number, "reason": IMPORTED, "parent": None},
        "imported_from": manifest["version"],
        "origin": {key: manifest[key] for key in ("reason", "parent", "files")},
        "data_sha256": manifest["data_sha256"] | {"training": rows.digest()},
    }
    return replace(version, version=name, manifest=manifest, rows=rows)
