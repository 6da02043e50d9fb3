"""The table behind a home: its training part, and the stream that is cut from the rest.

Two kinds with the same three methods: a real table, shuffled once and read to its end, and the
simulated one, which never ends.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wine_drift import batches, dataset, simulate
from wine_drift.bins import Floats
from wine_drift.errors import BadBatch, SettingsError, TableError
from wine_drift.frame import Column, Frame
from wine_drift.ledger import Cursor
from wine_drift.proposal import propose
from wine_drift.rows import LabelledRows
from wine_drift.schema import Schema, asked_for
from wine_drift.screening import Screened, screen
from wine_drift.settings import Settings, scenarios, settings_toml
from wine_drift.tables import read_as_nothing, read_table

SIMULATED = "simulated"
SIMULATED_TRAINING_ROWS = 1_200


class Table:
    """A table file as a stream."""

    def __init__(self, path: Path, schema: Schema, settings: Settings) -> None:
        self.name = path.name
        self._frame = read_table(path, listed=schema.listed, most_bytes=settings.max_bytes)
        self._schema, self._settings = schema, settings
        self._screened = _screened_table(path, self._frame, schema)
        # by content: the same table in other bytes, zipped say, is the same stream
        self.stream = hashlib.sha256(self._screened.matrix.tobytes()).hexdigest()

    def training_part(self, *, share: float) -> tuple[LabelledRows, Cursor, Floats]:
        """Good labelled rows of the first part of the stream, and where the rest begins.

        The third is the share of missing values of each feature in that part, (n_features,).
        """
        order = self._order(self._settings.seed)
        cut = batches.group_cut(self._screened.features, order, share=share)
        used = np.zeros(len(order), dtype=bool)
        used[order[:cut]] = True
        rows = labelled_rows(self._screened, self._schema, used & self._screened.labelled, 0)
        profiled = self._screened.features[used & self._screened.profiled]
        missing = np.isnan(profiled).mean(axis=0) if len(profiled) else np.zeros(profiled.shape[1])
        return rows, Cursor(self.stream, self._settings.seed, cut, 0), np.minimum(missing, 0.99)

    def start(self) -> Cursor:
        """Cursor of a stream that was never read."""
        return Cursor(self.stream, self._settings.seed, 0, 0)

    def share_seen(self, rows: LabelledRows) -> float:
        """Share of the labelled rows that are among others, such as those of a training."""
        screened = self._screened
        mine = labelled_rows(screened, self._schema, screened.labelled, 0)
        return float(mine.seen_in(rows).mean()) if len(mine) else 0.0

    def faults(self) -> str:
        """Why rows cannot be used, for people: "369 bad label, 2 missing"."""
        return ", ".join(
            f"{number} {reason.replace('_', ' ')}"
            for reason, number in self._screened.set_aside.items()
            if number
        )

    def claim(self, cursor: Cursor) -> batches.Claim | None:
        """The next batch; None when the stream has ended."""
        return batches.claim_stream(
            self.stream,
            seed=cursor.seed,
            position=cursor.position,
            number=cursor.number,
            n_rows=len(self._frame),
            batch_rows=self._settings.batch_rows,
        )

    def read(self, claim: batches.Claim, cursor: Cursor) -> Frame:
        """Rows of a claimed batch, with the scenario laid on them."""
        chosen = self._order(cursor.seed)[claim.start : claim.stop]
        if not _laid(self._settings, claim.number):
            return self._frame.take(chosen)
        target = self._screened.target
        return _with_scenario(
            self._screened.features[chosen],
            target[chosen] if np.isfinite(target).any() else None,
            self._schema,
            self._settings,
            number=claim.number,
            # by rows: the last bit of a sum depends on that, and a scenario is to stay what it was
            healthy=np.ascontiguousarray(self._screened.features),
        )

    def _order(self, seed: int) -> np.ndarray:
        return batches.stream_order(self._screened.features, seed=seed)


class Simulated:
    """Endless wine-like rows drawn from published figures."""

    name = SIMULATED

    def __init__(self, schema: Schema, settings: Settings) -> None:
        self._figures = simulate.Figures.from_dict(
            json.loads(dataset.packaged_text("red_wine_figures.json"))
        )
        self._schema, self._settings = schema, settings
        self.stream = f"{SIMULATED} {settings.seed}"
        if schema.feature_names != self._figures.features:
            raise SettingsError(
                f"there are no figures to simulate {schema.name!r} from",
                remedy="name a table with --data",
            )

    def training_part(self, *, share: float) -> tuple[LabelledRows, Cursor, Floats]:
        """The 1,200 rows that stand for a published table; no value is missing."""
        frame = _frame(*self._draw(SIMULATED_TRAINING_ROWS, (0,)), self._schema)
        screened = screen(frame, self._schema)
        rows = labelled_rows(screened, self._schema, screened.labelled, 0)
        return rows, self.start(), np.zeros(len(self._schema.features))

    def start(self) -> Cursor:
        """Cursor of a stream that was never read."""
        return Cursor(self.stream, self._settings.seed, 0, 0)

    def share_seen(self, rows: LabelledRows) -> float:
        """None of these rows was ever drawn for a training."""
        return 0.0

    def faults(self) -> str:
        """Rows that are drawn have none."""
        return ""

    def claim(self, cursor: Cursor) -> batches.Claim | None:
        """The next batch; there always is one."""
        return batches.claim_simulated(
            seed=cursor.seed, number=cursor.number, n_rows=self._settings.batch_rows
        )

    def read(self, claim: batches.Claim, cursor: Cursor) -> Frame:
        """Rows of a claimed batch, with the scenario laid on them."""
        n_rows = claim.stop
        laid = _laid(self._settings, claim.number)
        # "more_good" drops rows: draw enough for a full batch to be left
        surplus = 2 ** sum(name == "more_good" for name, _ in laid)
        drawn = self._draw(surplus * n_rows, (1, claim.number))
        if laid:
            healthy, _ = self._draw(SIMULATED_TRAINING_ROWS, (0,))
            frame = _with_scenario(
                *drawn,
                self._schema,
                self._settings,
                number=claim.number,
                healthy=healthy,
            )
        else:
            frame = _frame(*drawn, self._schema)
        return frame.take(slice(n_rows))

    def _draw(self, n_rows: int, stream: tuple[int, ...]) -> tuple[Floats, Floats]:
        rng = np.random.default_rng([self._settings.seed, *stream])
        return simulate.draw_table(self._figures, n_rows, rng=rng)


Supply = Table | Simulated


def find_supply(settings: Settings, schema: Schema) -> Supply | None:
    """The table that the settings name, or the one fetched earlier, or None.

    Raises
    ------
    SettingsError
        The table is named and cannot be used.
    """
    if settings.source == SIMULATED:
        return Simulated(schema, settings)
    if settings.data is None and settings.schema is not None:
        return None  # the fetched table is red wine, not this schema's
    path = dataset.find_table(settings.data, settings.home)
    return None if path is None else Table(path, schema, settings)


def labelled_rows(
    screened: Screened, schema: Schema, chosen: np.ndarray, sequence: int
) -> LabelledRows:
    """Chosen rows of a screened table as training rows of batch number `sequence`."""
    return LabelledRows(
        screened.features[chosen],
        schema.is_positive(screened.target[chosen]),
        np.full(int(chosen.sum()), sequence, dtype=np.int64),
    )


def write_simulated(
    settings: Settings,
    schema: Schema,
    *,
    n_batches: int,
    out: Path,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[Path]:
    """Write batch files of the table, or of the simulated one, with the scenario laid on them.

    Raises
    ------
    SettingsError
        The folder cannot be written, or the table ends before `n_batches`.
    """
    supply = find_supply(settings, schema) or Simulated(schema, settings)
    cursor = supply.start()
    written: list[Path] = []
    for _ in progress(range(n_batches)):
        claim = supply.claim(cursor)
        if claim is None:
            raise SettingsError(
                f"{supply.name} ends after {len(written)} batches",
                remedy="ask for fewer with --batches, or for smaller ones with --batch-rows",
            )
        path = out / f"{settings.scenario}-{claim.number:04d}.csv"
        try:
            out.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.part")
            with partial.open("w", encoding="utf-8", newline="") as file:
                rows = supply.read(claim, cursor).rows()
                csv.writer(file, delimiter=";", lineterminator="\n").writerows(rows)
            partial.replace(path)
        except OSError as error:
            raise SettingsError(
                f"{path}: {error.strerror}", remedy="name a writable folder with --out"
            ) from error
        written.append(path)
        cursor = advance(cursor, claim)
    return written


def write_proposal(
    path: Path, data: Path, *, target: str, positive: str
) -> tuple[tuple[Path, Path], tuple[str, ...]]:
    """Write a settings file, and a schema file beside it, for a table that nobody described yet.

    Parameters
    ----------
    path : Path
        Of the settings file.
    data : Path
        The table.
    target, positive : str
        As `propose` takes them.

    Returns
    -------
    files : tuple of two Path
    remarks : tuple of str
        What a person should look at first.

    Raises
    ------
    SettingsError
        A file is there already, or nothing can be proposed; then none is written.
    """
    name = data.name.partition(".")[0] or "table"
    schema_path = path.with_name(f"{name}.schema.toml")
    for each in (path, schema_path):
        if each.exists():
            raise SettingsError(f"{each}: is there already", remedy="move it away, or name another")
    if not data.exists():
        raise SettingsError(f"{data}: is not there", remedy="correct --from")
    frame = read_table(data, listed={target: [asked_for(positive) or ""]})
    try:
        proposal = propose(
            frame,
            name=name,
            target=target,
            positive=positive,
            nothing=read_as_nothing(data, frame),
        )
    except SettingsError as error:
        raise SettingsError(f"{data}: {error}", remedy=error.remedy) from error
    settings = {
        "home": f"{name}.home",
        "data": os.path.relpath(data, path.parent),
        "schema": schema_path.name,
        "pipeline": name,
        **proposal.settings,
    }
    contents = {schema_path: proposal.schema, path: settings_toml(settings)}
    for each, text in contents.items():
        try:
            with each.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise SettingsError(f"{each}: {error.strerror}", remedy="name another file") from error
    return (path, schema_path), proposal.remarks


def advance(cursor: Cursor, claim: batches.Claim) -> Cursor:
    """The cursor behind a claimed batch."""
    return replace(cursor, position=claim.stop, number=claim.number + 1)


def _screened_table(path: Path, frame: Frame, schema: Schema) -> Screened:
    try:
        return screen(frame, schema)
    except BadBatch as error:
        raise TableError(f"{path}: {error}", remedy=error.remedy) from error


def _laid(settings: Settings, number: int) -> list[tuple[str, int]]:
    """Scenarios that a batch of the stream shows, and since which batch."""
    found = scenarios(settings.scenario, settings.scenario_start)
    return [(name, start) for name, start in found if name != "none" and number >= start]


def _with_scenario(
    features: Floats,
    target: Floats | None,
    schema: Schema,
    settings: Settings,
    *,
    number: int,
    healthy: Floats,
) -> Frame:
    rng = np.random.default_rng([settings.seed, 2, number])
    try:
        for scenario, start in _laid(settings, number):
            features, target = simulate.lay_scenario(
                scenario,
                features,
                target,
                step=number - start,
                schema=schema,
                feature=settings.scenario_feature or schema.feature_names[-1],
                centre=np.nanmedian(healthy, axis=0),
                spread=np.nanstd(healthy, axis=0),
                rng=rng,
            )
    except ValueError as error:
        raise SettingsError(str(error), remedy="correct the scenario settings") from error
    return _frame(features, target, schema)


def _frame(features: Floats, target: Floats | None, schema: Schema) -> Frame:
    columns = {
        feature.name: _column(values, feature.categories)
        for feature, values in zip(schema.features, features.T, strict=True)
    }
    if target is not None:
        columns[schema.target] = _column(target, schema.answers)
    return Frame(columns)


def _column(values: Floats, categories: tuple[str, ...]) -> Column:
    return Column.of_codes(values, categories) if categories else Column(values)
