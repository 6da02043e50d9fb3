"""The serving model of a home: loaded, trained for the first time, or challenged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wine_drift.detector import Detector
from wine_drift.errors import SettingsError, StateUnreadable
from wine_drift.ledger import Cursor, Ledger
from wine_drift.model import Version, read_version, write_version
from wine_drift.profile import Floats
from wine_drift.record import retraining_part
from wine_drift.retraining import Recipe, challenge, first_version
from wine_drift.rows import LabelledRows, concatenate
from wine_drift.schema import Schema
from wine_drift.settings import Settings
from wine_drift.supply import Supply

MOST_SEEN = 0.05  # of a table's rows in the training of a champion that never streamed it


class Champion:
    """What the ledger names champion, or what this run has just trained."""

    def __init__(
        self, settings: Settings, schema: Schema, ledger: Ledger, now: Callable[[], float]
    ) -> None:
        self._settings, self._schema, self._ledger, self._now = settings, schema, ledger, now
        self._trained: tuple[Version, Cursor] | None = None  # in a dry run it is nowhere else

    @property
    def manifest(self) -> Mapping[str, Any] | None:
        """Its manifest; None before the first training."""
        return self._trained[0].manifest if self._trained else self._ledger.champion()

    def check_schema(self) -> None:
        """Before anything is touched: the schema must be the one it was trained for.

        Raises
        ------
        SettingsError
            Other columns, or another question about them.
        """
        manifest, schema = self.manifest, self._schema
        if manifest is None:
            return
        question = f"{schema.target} {schema.positive}"
        if tuple(manifest["features"]) != schema.feature_names or manifest["positive"] != question:
            raise SettingsError(
                f"the champion of {self._settings.home} answers {manifest['positive']!r} from "
                f"{', '.join(manifest['features'])}; the schema is another",
                remedy="give the --schema of that home, or another --home",
            )

    @cached_property
    def version(self) -> Version:
        """The version itself, its files checked against the ledger.

        Raises
        ------
        StateUnreadable
            A file is missing or damaged.
        """
        if self._trained is not None:
            return self._trained[0]
        manifest = self._ledger.champion()
        if manifest is None:
            raise StateUnreadable("the ledger names no champion", remedy="run `wine-drift train`")
        return read_version(self._folder, manifest, threads=self._settings.threads)

    @property
    def detector(self) -> Detector:
        """What the next batch is judged with."""
        state = self._ledger.detector(self.version.version)
        return Detector.from_dict(state) if state else Detector.fresh(self.version.reference)

    def cursor(self, supply: Supply) -> Cursor:
        """Where the stream of a table goes on.

        Raises
        ------
        SettingsError
            It is a new table and holds rows that the champion was trained on: a file that was added
            to, say. Streamed from its start they would flatter the model and count twice.
        """
        if self._trained is not None:
            return self._trained[1]
        known = self._ledger.cursor(supply.stream)
        if known is None:
            seen = supply.share_seen(self.version.rows)
            if seen > MOST_SEEN:
                raise SettingsError(
                    f"{supply.name}: new to {self._settings.home}, yet {seen:.0%} of its rows were "
                    "in the training of the champion",
                    remedy="give new rows as batch files, or start another --home for this table",
                )
        return known or supply.start()

    def recent_labelled(self) -> tuple[int, int]:
        """Labelled rows, and positive ones, since the last promotion."""
        return self._ledger.labelled_counts(after=self._ledger.champion_since())

    def train_first(self, supply: Supply, *, share: float) -> None:
        """Train the first champion on the first part of a table.

        Raises
        ------
        SettingsError
            The table has too few rows of a kind.
        """
        rows, cursor, missing = supply.training_part(share=share)
        facts = self._facts("first", parent=None, dataset=supply.name)
        try:
            version = first_version(
                rows, self._schema, self._recipe, number=1, facts=facts, missing=missing
            )
        except ValueError as error:
            faults = supply.faults()
            set_aside = f"; set aside: {faults}" if faults else ""
            raise SettingsError(
                f"{supply.name}: {error}{set_aside}",
                remedy="see whether the schema fits the table, or name a larger one with --data",
            ) from error
        if not self._settings.dry_run:
            version = write_version(self._folder, version)
            self._ledger.commit_champion(version.manifest, cursor)
        self._trained = (version, cursor)

    def try_challenger(
        self, fresh: LabelledRows | None, reason: str
    ) -> tuple[Version | None, dict[str, Any]]:
        """Try a challenger; the champion goes on serving whatever happens.

        Parameters
        ----------
        fresh : LabelledRows or None
            Of the batch in hand, which the ledger does not know yet.
        reason : str
            What asked for it, as counted and as told.

        Returns
        -------
        promoted : Version or None
            Written, but champion only once the ledger says so.
        part : dict
            The `retraining` part of the record.
        """
        n_features = len(self._schema.features)
        after = self._ledger.champion_since()
        history = self._ledger.labelled_rows(n_features, after=after)
        facts = self._facts(
            reason, parent=self.version.version, dataset=self.version.manifest["dataset"]
        )
        gate, promoted, failure = None, None, ""
        try:
            attempt = challenge(
                self.version,
                history if fresh is None else concatenate([history, fresh], n_features),
                self._schema,
                self._recipe,
                min_rows=self._settings.min_labelled,
                alpha=self._settings.gate_alpha,
                number=len(self._ledger.versions()) + 1,
                facts=facts,
                missing=self._missing(n_features),
            )
            if attempt.challenger is not None:
                promoted = write_version(self._folder, attempt.challenger)
            gate = attempt.gate
        except Exception as error:  # whatever training trips over, the batch must not be lost
            failure = f"{type(error).__name__}: {error}"
        challenger = promoted.version if promoted else None
        part = retraining_part(gate, challenger=challenger, failure=failure, reason=reason)
        return promoted, part

    def _missing(self, n_features: int) -> Floats:
        """Usual share of missing values of each feature: that of the pool."""
        pool = self.detector.drift.pool
        missing = pool.missing[:n_features]
        out: Floats = missing / np.maximum(missing + pool.counts[:n_features].sum(axis=1), 1)
        return np.minimum(out, 0.99)

    @property
    def _folder(self) -> Path:
        return self._settings.home / "models"

    @property
    def _recipe(self) -> Recipe:
        settings = self._settings
        return Recipe(
            rounds=settings.rounds,
            half_life=settings.half_life,
            seed=settings.seed,
            threads=settings.threads,
            window_rows=settings.window_rows,
        )

    def _facts(self, reason: str, *, parent: str | None, dataset: str) -> dict[str, Any]:
        """What a manifest tells besides the model itself."""
        return {"reason": reason, "parent": parent, "trained_at": self._now(), "dataset": dataset}
