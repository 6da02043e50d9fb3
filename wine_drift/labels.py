"""Labels that come after their batch: judged once, learnt from, and told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.champion import Champion, retraining_failure
from wine_drift.dataset import load_schema
from wine_drift.errors import BadLabels, FileUnreadable, SettingsError, TableError, WineDriftError
from wine_drift.frame import Frame
from wine_drift.home import writing
from wine_drift.ledger import Commit, Ledger
from wine_drift.measurement import measure_late
from wine_drift.outbox import publish
from wine_drift.record import Report, quality_status, with_labels
from wine_drift.rows import LabelledRows, ScoredRows
from wine_drift.schema import Schema
from wine_drift.screening import read_target, row_names
from wine_drift.settings import Settings
from wine_drift.tables import read_table


def add_labels(
    settings: Settings,
    run: str,
    path: Path,
    *,
    now: Callable[[], float] = time.time,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Add labels to a batch that was scored without them, and do what follows from them.

    The scores are those of the champion of that time. If it still serves, its quality is judged by
    the new answers; the rows are learnt from in any case, unless the batch was at fault.

    Parameters
    ----------
    settings : Settings
    run : str
        Number of the batch, or the start of its id.
    path : Path
        A table with the target column. Its rows are matched by the column that the setting `row_id`
        names, or else it has a row for each row of the batch, in that order; empty cells are labels
        that are not known yet.
    now : callable
        Unix time in seconds.
    progress : callable
        Told what takes long.

    Returns
    -------
    Report
        The record of the batch as it is now; outcome "labelled", or "already_labelled" if there was
        nothing new and nothing was changed.

    Raises
    ------
    SettingsError
        There is no such home or batch, or its labels came too late.
    BadLabels
        The file does not fit the batch.
    """
    schema = load_schema(settings.schema)
    if settings.dry_run:
        raise SettingsError("add-labels has no dry run", remedy="try it on a copy of the home")
    with writing(settings, now=now, new=False) as ledger:
        record = ledger.find(run) if run else None
        if record is None:
            raise SettingsError(
                f"{settings.home}: no processed batch {run!r}",
                remedy="`wine-drift status` lists the last ones, by number",
            )
        batch, champion = record["batch"], Champion(settings, schema, ledger, now, progress)
        champion.check_schema()
        frame = _read(path, schema, settings)
        kept = ledger.scored(batch["sequence"])
        if kept is None and batch["labelled"] == batch["accepted"]:
            return _published(settings, ledger, record, "already_labelled")
        if kept is None:
            raise SettingsError(
                f"batch {batch['sequence']} is too old: its rows are no longer kept",
                remedy="raise window_age or waiting_rows if labels are to come so late",
            )
        rows, trusted = kept
        fresh, rows = _labelled(rows, frame, path, schema, settings.row_id)
        if not fresh.any():
            return _published(settings, ledger, record, "already_labelled")
        record, failed = _judge(
            champion, ledger, settings, record, rows, fresh, trusted=trusted, at=now()
        )
        return _published(settings, ledger, record, "labelled", failed)


def _published(
    settings: Settings,
    ledger: Ledger,
    record: dict[str, Any],
    outcome: str,
    error: WineDriftError | None = None,
) -> Report:
    told, failure = publish(settings, ledger)
    return Report(record | {"outcome": outcome, "push": told}, error or failure)


def _judge(
    champion: Champion,
    ledger: Ledger,
    settings: Settings,
    record: dict[str, Any],
    rows: ScoredRows,
    fresh: NDArray[np.bool_],
    *,
    trusted: bool,
    at: float,
) -> tuple[dict[str, Any], WineDriftError | None]:
    """Measure, decide, record; the second tells of a retraining that failed."""
    sequence, last = record["batch"]["sequence"], ledger.find("") or record
    serving = champion.version.version
    late = measure_late(
        rows,
        fresh,
        champion.version.reference,
        champion.detector if trusted and record["model"]["version"] == serving else None,
        settings.limits,
        cut=record["quality"]["cut"],
        drifted=record["drift"]["status"] in ("drift", "major"),
    )
    labelled = _to_learn_from(rows, fresh, sequence)
    unseen = champion.unseen(labelled)
    seen = len(labelled) - len(unseen)
    unseen = unseen if trusted else labelled.take(slice(0, 0))
    learnt = champion.lot(unseen, f"b-{record['batch']['id']}-after-{record['batch']['labelled']}")
    answer = champion.answer(
        learnt,
        sequence=sequence,
        drift_status=last["drift"]["status"],
        quality_status=quality_status(late.quality_drift),
        causes=late.causes or tuple(last["drift"]["causes"]),
        at_fault="data_fault" in last["decision"]["reasons"],
    )
    record = with_labels(
        record,
        late,
        added=int(fresh.sum()),
        seen=seen if record["model"]["version"] == serving else 0,
        at=at,
        lag=max(at - ledger.processed_at(sequence), 0.0),
        decision=answer.decision,
        retraining=answer.retraining,
    )
    ledger.commit_batch(
        Commit(
            content_id=record["batch"]["id"],
            outcome="processed",
            record=record,
            at=at,
            sequence=sequence,
            counters={("late_labels", ()): int(fresh.sum())},
            detector=champion.state(answer, late.detector),
            retired=champion.retired(answer, late.detector),
            labelled=learnt,
            scored=rows,
            trusted=trusted,
            decision=record["labels"]["decision"],
            change=answer.change,
            promoted=answer.promoted.manifest if answer.promoted else None,
            retraining=answer.retraining,
        ),
        champion.bounds,
    )
    return record, retraining_failure(answer.retraining)


def _labelled(
    rows: ScoredRows, frame: Frame, path: Path, schema: Schema, row_id: str | None
) -> tuple[NDArray[np.bool_], ScoredRows]:
    """Rows of a batch with the labels of a file; the first tells which of them are new.

    Raises
    ------
    BadLabels
        The file does not fit: nothing of it is used.
    """
    labels = _in_place(rows, frame, path, schema, row_id)[rows.position]  # no others are needed
    positive = np.where(np.isnan(labels), np.nan, schema.is_positive(labels))
    known = ~np.isnan(rows.positive)
    changed = known & ~np.isnan(positive) & (positive != rows.positive)
    if changed.any():
        row = int(rows.position[changed][0]) + 1
        raise BadLabels(
            f"{path}: row {row} of the batch has another label already",
            remedy="labels are counted once and are not changed: correct the file, or leave the "
            "cell empty",
        )
    fresh = ~known & ~np.isnan(positive)
    return fresh, replace(rows, positive=np.where(fresh, positive, rows.positive))


def _read(path: Path, schema: Schema, settings: Settings) -> Frame:
    try:
        return read_table(
            path,
            text_column=settings.row_id,
            listed=schema.listed,
            keep_blank=True,
            most_bytes=settings.max_bytes,
        )
    except FileUnreadable:
        raise
    except TableError as error:
        raise BadLabels(str(error), remedy=error.remedy) from error


def _in_place(
    rows: ScoredRows, frame: Frame, path: Path, schema: Schema, row_id: str | None
) -> Floats:
    """Labels of the rows of a batch, (batch_rows,), NaN where the file has none."""
    if schema.target not in frame.columns:
        raise BadLabels(
            f"{path}: no column {schema.target!r}",
            remedy=f"the file needs the column {schema.target!r} that the schema names",
        )
    column = frame.columns[schema.target]
    target, is_bad = read_target(column, schema)
    if is_bad.any():
        row = int(is_bad.argmax())
        (cell,) = column.texts(slice(row, row + 1))
        raise BadLabels(
            f"{path}: row {row + 1}, column {schema.target!r}: {cell[:40]!r} is no label",
            remedy=f"a label is {schema.label}; leave unknown ones empty",
        )
    names = row_names(frame, row_id)
    if names and not rows.ids:
        raise BadLabels(
            f"{path}: names rows by {row_id!r}, but the batch was kept without names",
            remedy=f"give {row_id!r} to run-batch too; for this batch leave the column out",
        )
    if names:
        return _by_name(rows, names, target, path)
    if len(target) != rows.batch_rows:
        raise BadLabels(
            f"{path}: {len(target)} rows, but the batch had {rows.batch_rows}",
            remedy="give one row for each row of the batch, in its order and with empty cells for "
            "unknown labels; or name the column that identifies rows with row_id",
        )
    _refuse_other_rows(rows, frame, path, schema)
    return target


def _refuse_other_rows(rows: ScoredRows, frame: Frame, path: Path, schema: Schema) -> None:
    """Where the file has features too, each row must be that of the batch at its place."""
    kept = rows.position[len(rows) - len(rows.features) :]
    for feature, ours in zip(schema.features, rows.features.T, strict=True):
        column = frame.columns.get(feature.name)
        if column is None:
            continue
        cells = column.codes(feature.categories) if feature.categories else column.numbers
        theirs = cells[kept]  # an empty cell says nothing
        is_other = ~np.isnan(theirs) & ~np.isclose(theirs, ours, rtol=1e-9, atol=0)
        if is_other.any():
            row = int(kept[is_other.argmax()])
            (cell,) = column.texts(slice(row, row + 1))
            raise BadLabels(
                f"{path}: row {row + 1}, column {feature.name!r}: {cell[:40]!r} is not what row "
                f"{row + 1} of the batch has there",
                remedy="give the rows in the order of the batch; or name the column that "
                "identifies rows with row_id; or give the labels alone, if only features changed",
            )


def _by_name(rows: ScoredRows, names: tuple[str, ...], target: Floats, path: Path) -> Floats:
    """Put labels where the rows of the same name are."""
    start = rows.batch_rows - len(rows.ids)
    scored = [rows.ids[row - start] for row in rows.position]  # no others need a label
    place = {name: row for row, name in enumerate(rows.ids, start)}
    place |= dict(zip(scored, rows.position.tolist(), strict=True))
    twice = {name for name, count in Counter(scored).items() if count > 1}
    labels, seen = np.full(rows.batch_rows, np.nan), set()
    for row, (name, label) in enumerate(zip(names, target, strict=True), start=1):
        problem = (
            "no name"
            if not name
            else "a name that the batch does not have"
            if name not in place and not start
            else "a name that the batch has twice"
            if name in twice
            else "a name that came before"
            if name in seen
            else ""
        )
        if problem:
            raise BadLabels(
                f"{path}: row {row}: {name[:40]!r} is {problem}",
                remedy="name each row once, as the batch did; nothing was changed",
            )
        seen.add(name)
        if name in place:  # else perhaps one of the first rows of a batch too large to keep all
            labels[place[name]] = label
    if not seen & place.keys():
        raise BadLabels(
            f"{path}: none of its names is one that the batch has, or that is kept of it",
            remedy="see whether it is the right file, and row_id the right column",
        )
    return labels


def _to_learn_from(rows: ScoredRows, fresh: NDArray[np.bool_], sequence: int) -> LabelledRows:
    """Newly labelled rows whose features were kept."""
    n_kept = len(rows.features)
    fresh = fresh[len(rows) - n_kept :]
    positive = rows.positive[len(rows) - n_kept :] == 1
    numbers = np.full(int(fresh.sum()), sequence, dtype=np.int64)
    return LabelledRows(rows.features[fresh], positive[fresh], numbers)
