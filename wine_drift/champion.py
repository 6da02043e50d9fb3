"""The serving model of a home: loaded, trained for the first time, or challenged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wine_drift.bins import Floats
from wine_drift.detector import Detector
from wine_drift.errors import RetrainingFailed, SettingsError, StateUnreadable
from wine_drift.gate import FAILED
from wine_drift.gathering import Yardstick
from wine_drift.home import models_place
from wine_drift.ledger import Bounds, Cursor, Ledger
from wine_drift.model import Version, read_version, write_version
from wine_drift.policy import (
    FOLLOW_UP,
    Change,
    Decision,
    Labels,
    after_try,
    decide,
    follow,
    only_answers,
)
from wine_drift.recipes import CONTINUED_BATCHES, Training, first_of_newest
from wine_drift.record import retraining_part
from wine_drift.retraining import GATE_BATCHES, InHand, Lessons, challenge, first_version
from wine_drift.rows import SHARD_ROWS, LabelledRows, Lot, Shard, concatenate
from wine_drift.schema import Schema
from wine_drift.settings import Settings
from wine_drift.shards import ShardWriter, newest_shards, read_newest
from wine_drift.shelf import Place, remove_shards
from wine_drift.spread import Spread, Trainers
from wine_drift.standing import labels_to_learn_from
from wine_drift.supply import Supply

MOST_SEEN = 0.05  # of a table's rows in the training of a champion that never streamed it
EVEN = 0.5  # level of a follow-up: the change is proven, one recipe's mean gain has to be above 0


@dataclass(frozen=True)
class Answer:
    """What follows from what was measured."""

    decision: Decision
    change: Change | None  # that retraining is at work on from now on
    promoted: Version | None = None  # written, but champion only once the ledger says so
    retraining: dict[str, Any] | None = None  # the part of the record, where one was tried


class Champion:
    """What the ledger names champion, or what this run has just trained."""

    def __init__(
        self,
        settings: Settings,
        schema: Schema,
        ledger: Ledger,
        now: Callable[[], float],
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._settings, self._schema, self._ledger, self._now = settings, schema, ledger, now
        self._progress = progress
        self._trained: tuple[Version, Cursor] | None = None  # in a dry run it is nowhere else
        self._written: list[str] = []  # shards that only a challenger needs

    @property
    def manifest(self) -> Mapping[str, Any] | None:
        """Its manifest; None before the first training."""
        return self._trained[0].manifest if self._trained else self._ledger.champion()

    def check_schema(self) -> None:
        """Before anything is touched: the schema must be the one it was trained for.

        Raises
        ------
        SettingsError
            Other columns or categories, or another question about them; or `row_id` names one of
            them.
        """
        manifest, schema = self.manifest, self._schema
        if self._settings.row_id in (*schema.feature_names, schema.target):
            raise SettingsError(
                f"row_id: {self._settings.row_id!r} is a column of the schema, not a name of rows",
                remedy="name a column that is there only to tell rows apart",
            )
        if manifest is None:
            return
        difference = schema.difference(manifest)
        if difference is not None:
            raise SettingsError(
                f"the champion of {self._settings.home} {difference}",
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
    def yardstick(self) -> Yardstick:
        """What the rows of a batch are scored and counted with."""
        version, settings = self.version, self._settings
        return Yardstick(
            schema=self._schema,
            score=version.model.score,
            reference=version.reference,
            training_rows=version.rows,
            cut=version.cut,
            row_id=settings.row_id,
            window_rows=settings.window_rows,
            waiting_rows=settings.waiting_rows,
        )

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

    def answer(
        self,
        fresh: Lot,
        *,
        sequence: int,
        drift_status: str,
        quality_status: str,
        causes: tuple[str, ...],
        at_fault: bool,
    ) -> Answer:
        """Decide what follows from what was measured, and do it; only the ledger is left to tell.

        Parameters
        ----------
        fresh : Lot
            Labelled just now, of one batch, which the ledger does not know yet.
        sequence : int
            Number of the batch that was measured.
        drift_status, quality_status, causes, at_fault
            See `policy.decide`.
        """
        settings, ledger = self._settings, self._ledger
        swapped = ledger.champion_since()
        latest = max(sequence, ledger.next_sequence() - 1)
        cooling = swapped > 0 and latest - swapped <= settings.cooldown
        change = follow(
            ledger.change(),
            drift_status=drift_status,
            quality_status=quality_status,
            at_fault=at_fault,
            sequence=sequence,
            cooling=cooling,
        )
        labels = self.labels(fresh, change)
        decision = decide(
            change,
            labels,
            drift_status=drift_status,
            quality_status=quality_status,
            causes=causes,
            at_fault=at_fault,
            retrain=settings.retrain,
            cooling=cooling,
        )
        if decision.action != "retrain" or settings.dry_run:
            return Answer(decision, change)
        doubtful = only_answers(drift_status, quality_status)
        following = decision.reasons[0] == FOLLOW_UP
        promoted, part = self.try_challenger(
            fresh,
            decision.reasons[0],
            alpha=EVEN if following else settings.gate_alpha,
            changed_at=change.since if change else 0,
            confirm_after=change.since if change and doubtful and not following else None,
        )
        return Answer(decision, after_try(change, part["outcome"], labels), promoted, part)

    def labels(self, fresh: Lot, change: Change | None = None) -> Labels:
        """Labelled rows to learn from, those just labelled included."""
        return labels_to_learn_from(self._ledger, self._settings, change, fresh)

    @property
    def bounds(self) -> Bounds:
        """How much the ledger keeps."""
        settings = self._settings
        return Bounds(settings.window_rows, settings.window_age, settings.waiting_rows)

    @property
    def nothing(self) -> Lot:
        """No rows."""
        return Lot(concatenate([], len(self._schema.features)))

    def state(
        self, answer: Answer, detector: Detector | None
    ) -> tuple[str, Mapping[str, Any]] | None:
        """What the ledger is to keep for the next batch: whose detector, and its state."""
        if answer.promoted is not None:  # a new reference: evidence starts afresh
            fresh = Detector.fresh(answer.promoted.reference)
            return answer.promoted.version, fresh.to_dict()
        return None if detector is None else (self.version.version, detector.to_dict())

    def retired(
        self, answer: Answer, detector: Detector | None
    ) -> tuple[str, Mapping[str, Any]] | None:
        """What is kept of a champion that was replaced, for the day that it serves again."""
        if answer.promoted is None or detector is None:
            return None
        return self.version.version, detector.to_dict()

    def unseen(self, rows: LabelledRows) -> LabelledRows:
        """Rows that are new to the champion; where repeats are ordinary all rows are."""
        if not self._schema.reject_duplicates:
            return rows
        return rows.take(~rows.seen_in(self.version.rows))

    def lot(self, rows: LabelledRows, name: str) -> Lot:
        """Rows of one batch in hand, or in shards of that name if they are too many."""
        if len(rows) < SHARD_ROWS or self._settings.window_rows <= SHARD_ROWS:
            return Lot(rows)
        rows = rows.last(self._settings.window_rows)
        shards = ShardWriter(self._folder, name).write_all(_cut(rows), rows.features.shape[1])
        return Lot(rows.take(slice(0, 0)), tuple(shards))

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
                rows,
                self._schema,
                self._training,
                number=1,
                facts=facts,
                missing=missing,
                progress=self._progress,
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
        self,
        fresh: Lot,
        reason: str,
        *,
        alpha: float,
        changed_at: int = 0,
        confirm_after: int | None = None,
        force: bool = False,
    ) -> tuple[Version | None, dict[str, Any]]:
        """Try a challenger; the champion goes on serving whatever happens.

        Parameters
        ----------
        fresh : Lot
            Labelled just now, of one batch, which the ledger does not know yet.
        reason : str
            What asked for it, as counted and as told.
        alpha, changed_at, confirm_after, force
            See `retraining.challenge`.

        Returns
        -------
        promoted : Version or None
            Written, but champion only once the ledger says so.
        part : dict
            The `retraining` part of the record.
        """
        settings, report, promoted, failure = self._settings, None, None, ""
        facts = self._facts(
            reason, parent=self.version.version, dataset=self.version.manifest["dataset"]
        )
        try:
            with self._lessons(fresh) as lessons:
                attempt = challenge(
                    self.version,
                    lessons,
                    self._schema,
                    self._training,
                    recipe=settings.recipe,
                    alpha=alpha,
                    min_rows=settings.min_labelled,
                    number=self._ledger.next_version(),
                    facts=facts,
                    changed_at=changed_at,
                    confirm_after=confirm_after,
                    force=force,
                    missing=self._missing(len(self._schema.features)),
                    progress=self._progress,
                )
            report, failure = attempt.report, attempt.report.error
            if attempt.challenger is not None:
                promoted = write_version(self._folder, attempt.challenger)
        except Exception as error:  # whatever training trips over, the batch must not be lost
            failure = f"{type(error).__name__}: {error}"
            report = None if report is None else replace(report, outcome=FAILED)
        if promoted is None:
            with contextlib.suppress(OSError):  # else `prune` does
                remove_shards(self._folder, self._written)
        challenger = promoted.version if promoted else None
        return promoted, retraining_part(
            report, challenger=challenger, failure=failure, reason=reason
        )

    @contextlib.contextmanager
    def _lessons(self, fresh: Lot) -> Iterator[Lessons]:
        """What challengers learn from: rows in hand, or shards if they are too many for that."""
        settings, ledger = self._settings, self._ledger
        n_new = ledger.labelled_counts(after=ledger.learnt())[0] + fresh.n_rows
        n_old = self.version.learnt.n_rows
        n_all = min(n_new + n_old, settings.window_rows)
        if n_all <= settings.memory_rows or settings.engine == "local":
            yield self._in_hand(fresh)
            return
        from wine_drift.cluster import connected  # it loads Dask

        cluster = connected(
            settings.dask_scheduler,
            n_workers=settings.threads,
            most_bytes=settings.max_bytes,
            progress=self._progress,
        )
        with cluster as trainers:
            self._progress(f"a Dask cluster learns from {n_all} rows")
            yield self._spread(fresh, trainers)

    def _in_hand(self, fresh: Lot) -> InHand:
        """The newest rows that may be in hand."""
        n_features, champion, most = len(self._schema.features), self.version, self._most_in_hand
        learnt, place = self._ledger.learnt(), self._folder
        shards = (*self._ledger.shards(after=learnt), *fresh.shards)
        history = [
            read_newest(place, shards, most, n_features),
            self._ledger.labelled_rows(n_features, after=learnt, most=most),
            fresh.rows,
        ]
        if champion.shards:
            missing = max(most - sum(map(len, history)), 0)
            champion = replace(
                champion, rows=read_newest(place, champion.shards, missing, n_features)
            )
        return InHand(
            champion,
            concatenate(history, n_features),
            self._schema,
            replace(self._training, window_rows=most),
            min_rows=self._settings.min_labelled,
        )

    def _spread(self, fresh: Lot, trainers: Trainers) -> Spread:
        """All rows in shards; those in hand are written for that."""
        ledger, place, n_features = self._ledger, self._folder, len(self._schema.features)
        number, learnt = ledger.next_version(), ledger.learnt()
        sizes = ledger.window_sizes(after=learnt)
        sizes[fresh.newest] = sizes.get(fresh.newest, 0) + fresh.n_rows
        first = first_of_newest(sizes, GATE_BATCHES, self._settings.min_labelled)

        def write(name: str, parts: Iterable[LabelledRows]) -> list[Shard]:
            written = []
            for shard in ShardWriter(place, f"v{number}-{name}").write_all(parts, n_features):
                written.append(shard)
                self._written.append(shard.name)  # now, as the next one may fail
            return written

        def in_hand() -> Iterator[LabelledRows]:
            yield from ledger.labelled_parts(after=learnt)
            yield from _cut(fresh.rows)

        there = (*ledger.shards(after=learnt), *fresh.shards)
        new = write("new", (rows.take(rows.sequence < first) for rows in in_hand()))
        recent = write("recent", (rows.take(rows.sequence >= first) for rows in in_hand()))
        new += [shard for shard in there if shard.newest < first]
        recent += [shard for shard in there if shard.newest >= first]
        left = self._settings.window_rows - sum(shard.n_rows for shard in (*new, *recent))
        old = self.version.shards or write("old", _cut(self.version.rows))
        return Spread(
            trainers,
            place,
            self.version,
            self._schema,
            self._training,
            old=newest_shards(old, left),
            new=new,
            recent=recent,
            continued_from=first_of_newest(ledger.window_sizes() | sizes, CONTINUED_BATCHES),
            most=self._settings.memory_rows,
        )

    @property
    def _most_in_hand(self) -> int:
        return min(self._settings.window_rows, self._settings.memory_rows)

    def _missing(self, n_features: int) -> Floats:
        """Usual share of missing values of each feature: that of the pool."""
        pool = self.detector.drift.pool
        missing = pool.missing[:n_features]
        out: Floats = missing / np.maximum(missing + pool.counts[:n_features].sum(axis=1), 1)
        return np.minimum(out, 0.99)

    @property
    def _folder(self) -> Place:
        place = models_place(self._settings)
        return place.absolute() if isinstance(place, Path) else place  # workers are elsewhere

    @property
    def _training(self) -> Training:
        settings = self._settings
        return Training(
            rounds=settings.rounds,
            half_life=settings.half_life,
            seed=settings.seed,
            threads=settings.threads,
            window_rows=settings.window_rows,
            categorical=tuple(np.flatnonzero(self._schema.n_categories).tolist()),
        )

    def _facts(self, reason: str, *, parent: str | None, dataset: str) -> dict[str, Any]:
        """What a manifest tells besides the model itself."""
        return {"reason": reason, "parent": parent, "trained_at": self._now(), "dataset": dataset}


def retraining_failure(part: Mapping[str, Any] | None) -> RetrainingFailed | None:
    """The error of a run whose retraining failed as a whole; all else that it did is done."""
    if part is None or part["outcome"] != FAILED:
        return None
    return RetrainingFailed(
        f"retraining failed, the champion goes on serving: {part['error']}",
        remedy="all else is recorded; the next alarm tries again, or `wine-drift train` does now",
    )


def _cut(rows: LabelledRows) -> Iterator[LabelledRows]:
    for start in range(0, len(rows), SHARD_ROWS):
        yield rows.take(slice(start, start + SHARD_ROWS))
