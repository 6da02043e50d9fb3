"""One run: the one place that knows the order of things.

Lock, take the batch, screen it, score it, measure quality and drift, decide, retrain if decided,
commit one transaction, put the file away, publish.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wine_drift import batches, dataset
from wine_drift.drift import WINDOW_DECAY, DriftVerdict, assess_drift
from wine_drift.errors import BadBatch, SettingsError, StateUnreadable, TableError, WineDriftError
from wine_drift.ledger import Commit, Cursor, Ledger
from wine_drift.model import Version, read_version, write_version
from wine_drift.outbox import publish
from wine_drift.policy import Decision, decide
from wine_drift.profile import Profile, count
from wine_drift.quality import (
    LossSums,
    Quality,
    log_loss_increase_p,
    log_loss_per_row,
    measure_quality,
)
from wine_drift.record import (
    batch_part,
    build_record,
    decision_part,
    drift_part,
    quality_part,
    retraining_part,
    thresholds_part,
)
from wine_drift.retraining import Recipe, challenge, first_version
from wine_drift.rows import LabelledRows, concatenate
from wine_drift.schema import FAULTS, Schema, parse_schema
from wine_drift.screening import Screened, screen
from wine_drift.settings import Settings
from wine_drift.supply import Simulated, Supply, advance, find_supply, labelled_rows
from wine_drift.tables import SUFFIXES, read_table

Say = Callable[[str], None]
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """What a run tells: the documented record, and what went wrong, if anything."""

    record: dict[str, Any]
    error: WineDriftError | None = None


def run_batch(
    settings: Settings,
    batch: Path | None = None,
    *,
    now: Callable[[], float] = time.time,
    say: Say = lambda line: None,
) -> Report:
    """Process the next batch, or the one named, once.

    Parameters
    ----------
    settings : Settings
    batch : Path, optional
        A batch file; else the next one of the source that the settings name.
    now : callable
        Unix time in seconds.
    say : callable
        Told, in a sentence, what takes long or what a person should know.

    Raises
    ------
    WineDriftError
        Nothing was processed. A batch that was processed or quarantined is reported instead, also
        when the push failed.
    """
    schema = load_schema(settings)
    if settings.dry_run:
        with Ledger.open(settings.home, read_only=True) as ledger:
            return _Run(settings, schema, ledger, now, say).process(batch)
    with batches.locked(settings.home), Ledger.open(settings.home) as ledger:
        run = _Run(settings, schema, ledger, now, say)
        try:
            report = run.process(batch)
        except WineDriftError as error:
            ledger.record_run(run.facts(success=False, outcome=type(error).__name__))
            publish(settings, ledger)  # the failure itself is what is published
            raise
        report.record["push"], failure = publish(settings, ledger)
        return Report(report.record, report.error or failure)


def train_now(
    settings: Settings, *, now: Callable[[], float] = time.time, say: Say = lambda line: None
) -> Report:
    """Train by hand: the first champion on all of the table, or a challenger through the gate.

    Raises
    ------
    WineDriftError
        Nothing was trained.
    """
    schema = load_schema(settings)
    if settings.dry_run:
        raise SettingsError("train has no dry run", remedy="try it in another --home")
    with batches.locked(settings.home), Ledger.open(settings.home) as ledger:
        run = _Run(settings, schema, ledger, now, say)
        if ledger.champion() is None:
            run.train_first(share=1.0)
            record = build_record("trained", model={"version": run.champion.version})
        else:
            record = run.retrain_by_hand()
        ledger.record_run(run.facts(success=True, outcome=record["outcome"]))
        record["push"], failure = publish(settings, ledger)
        return Report(record, failure)


def load_schema(settings: Settings) -> Schema:
    """The schema that the settings name, else red wine.

    Raises
    ------
    SettingsError
        The file cannot be read, or one line for every mistake in it.
    """
    if settings.schema is None:
        return parse_schema(tomllib.loads(dataset.packaged_text("red_wine.toml")))
    path = settings.schema
    try:
        return parse_schema(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(
            f"schema {path}: {error.strerror}", remedy="correct --schema"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"schema {path}: not a TOML file: {error}", remedy="correct the file"
        ) from error
    except ValueError as error:
        lines = "\n".join(f"schema {path}: {line}" for line in str(error).splitlines())
        raise SettingsError(lines, remedy="correct the file") from error


@dataclass(frozen=True)
class _Measured:
    """What one batch says, before anything is decided."""

    quality: Quality
    losses: LossSums
    log_loss_p_value: float | None
    mean_score: float | None
    drift: DriftVerdict
    pool: Profile  # this batch included, for the next one
    window: Profile
    labelled: LabelledRows


@dataclass
class _Run:
    """One run in progress: what it was given, and what it found out so far."""

    settings: Settings
    schema: Schema
    ledger: Ledger
    now: Callable[[], float]
    say: Say
    started: float = field(default_factory=time.monotonic)
    stages: dict[str, float] = field(default_factory=dict)
    trained: tuple[Version, Cursor] | None = None  # by this run; in a dry run nowhere else
    claimed: batches.Claim | None = None

    # --- the order of things ---

    def process(self, path: Path | None) -> Report:
        """Everything up to the commit, and putting the file away."""
        if path is None and self.source != "inbox" and self.champion_manifest is None:
            self.train_first(share=self.settings.training_share)  # the stream is what it leaves
        with self.stage("load"):
            claim, cursor = self.take(path)
        self.claimed = claim
        if claim is None:
            outcome = "nothing_waiting" if self.source == "inbox" else "end_of_stream"
            return self.idle(outcome)
        done = self.ledger.batch(claim.content_id)
        if done is not None:
            return self.told_before(claim, done)
        try:
            with self.stage("load"):
                frame = self.read(claim, cursor)
            with self.stage("screen"):
                screened = screen(frame, self.schema)
        except (BadBatch, TableError) as error:
            if claim.path is None:
                raise  # a slice of the table: the table is at fault, not a batch
            return self.quarantine(claim, error)
        if self.champion_manifest is None:
            self.train_first(share=self.settings.training_share)
        measured = self.measure(screened)
        decision = self.decide(screened, measured)
        promoted, retraining = None, None
        if decision.action == "retrain" and not self.settings.dry_run:
            with self.stage("retrain"):
                promoted, retraining = self.retrain(measured.labelled, decision.reasons[0])
        record = build_record(
            "processed",
            batch=batch_part(
                screened,
                batch_id=claim.batch_id,
                name=claim.name,
                source=claim.source,
                sequence=self.ledger.next_sequence(),
                positive=int(measured.labelled.positive.sum()),
            ),
            model={"version": self.champion.version},
            quality=quality_part(
                measured.quality,
                p_value=measured.log_loss_p_value,
                mean_score=measured.mean_score,
                cut=self.champion.cut,
                reference=self.champion.manifest["out_of_fold"],
            ),
            drift=drift_part(measured.drift),
            decision=decision_part(decision),
            retraining=retraining,
            thresholds=thresholds_part(
                budget=self.settings.budget,
                severity_drift=self.settings.severity_drift,
                severity_major=self.settings.severity_major,
                max_set_aside=self.settings.max_set_aside,
            ),
        )
        if self.settings.dry_run:
            return Report(record)
        if not screened.accepted.all():
            self.write_set_aside(claim, frame, screened)
        self.commit(claim, cursor, screened, measured, promoted, record)
        self.tidy(claim, "archive")
        return Report(record)

    def take(self, path: Path | None) -> tuple[batches.Claim | None, Cursor | None]:
        """Choose the batch; nothing changes yet but files that were left behind."""
        if path is not None:
            return batches.claim_file(path), None
        if self.source == "inbox":
            inbox = self.settings.inbox
            if inbox is None:
                raise SettingsError("source is inbox, but no inbox is set", remedy="set --inbox")
            claim, leftovers = batches.claim_oldest(
                inbox, SUFFIXES, lambda content_id: self.ledger.batch(content_id) is not None
            )
            for known in leftovers:
                done = self.ledger.batch(known.content_id) or {}
                self.tidy(known, "archive" if done["outcome"] == "processed" else "quarantine")
            return claim, None
        supply = self.needed_supply("there is no batch")
        cursor = self.ledger.cursor(supply.stream) or supply.start()
        if self.trained is not None:
            cursor = self.trained[1]
        return supply.claim(cursor), cursor

    def read(self, claim: batches.Claim, cursor: Cursor | None) -> pd.DataFrame:
        """Rows of the claimed batch."""
        if claim.path is not None:
            return read_table(claim.path)
        assert cursor is not None
        return self.needed_supply("the batch is gone").read(claim, cursor)

    def measure(self, screened: Screened) -> _Measured:
        """Score the good rows; quality from the labelled ones, drift from all that arrived."""
        champion = self.champion
        with self.stage("score"):
            scores = np.full(len(screened.target), np.nan)
            scores[screened.accepted] = champion.model.score(screened.features[screened.accepted])
        with self.stage("quality"):
            chosen = screened.labelled
            positive = self.schema.is_positive(screened.target[chosen])
            quality = measure_quality(positive, scores[chosen], cut=champion.cut)
            losses = LossSums.from_losses(log_loss_per_row(positive, scores[chosen]))
            p_value = log_loss_increase_p(champion.losses, losses)
        with self.stage("drift"):
            reference = champion.reference
            good = screened.accepted
            features = count(screened.features[screened.profiled], reference.edges[:-1])
            score = count(scores[good, np.newaxis], reference.edges[-1:])
            batch = Profile(
                np.concatenate([features.counts, score.counts]),
                np.concatenate([features.missing, score.missing]),
            )
            pool, window = self.ledger.detector(champion.version) or (
                reference.profile,
                reference.profile.scaled(0),
            )
            window = window.scaled(WINDOW_DECAY) + batch
            settings = self.settings
            verdict = assess_drift(
                reference,
                pool,
                window,
                batch,
                budget=settings.budget,
                severity_drift=settings.severity_drift,
                severity_major=settings.severity_major,
                min_rows=settings.min_rows,
            )
        return _Measured(
            quality,
            losses,
            p_value,
            float(scores[good].mean()) if good.any() else None,
            verdict,
            pool + batch,
            window,
            labelled_rows(screened, self.schema, chosen, self.ledger.next_sequence()),
        )

    def decide(self, screened: Screened, measured: _Measured) -> Decision:
        """One action with its reasons."""
        n_rows, n_positive = self.ledger.labelled_counts(after=self.ledger.champion_since())
        settings = self.settings
        return decide(
            drift_status=measured.drift.status,
            log_loss=measured.quality.log_loss.value,
            reference_log_loss=self.champion.losses.mean or 0.0,
            log_loss_p_value=measured.log_loss_p_value,
            set_aside_share=screened.faulty_share,
            recent_labelled=n_rows + len(measured.labelled),
            recent_positives=n_positive + int(measured.labelled.positive.sum()),
            retrain=settings.retrain,
            budget=settings.budget,
            min_labelled=settings.min_labelled,
            min_positives=settings.min_positives,
            max_set_aside=settings.max_set_aside,
        )

    def retrain(
        self, fresh: LabelledRows | None, reason: str
    ) -> tuple[Version | None, dict[str, Any]]:
        """Try a challenger; the champion goes on serving whatever happens.

        Returns
        -------
        promoted : Version or None
            Written, but champion only once the ledger says so.
        part : dict
            The `retraining` part of the record.
        """
        self.say("training a challenger")
        n_features = len(self.schema.features)
        history = self.ledger.labelled_rows(n_features, after=self.ledger.champion_since())
        gate, promoted, failure = None, None, ""
        try:
            attempt = challenge(
                self.champion,
                history if fresh is None else concatenate([history, fresh], n_features),
                self.schema,
                self.recipe,
                min_rows=self.settings.min_labelled,
                alpha=self.settings.gate_alpha,
                number=len(self.ledger.versions()) + 1,
                facts=self.training_facts(reason, parent=self.champion.version),
            )
            if attempt.challenger is not None:
                promoted = write_version(self.models, attempt.challenger)
            gate = attempt.gate
        except Exception as error:  # whatever training trips over, the batch must not be lost
            failure = f"{type(error).__name__}: {error}"
        challenger = promoted.version if promoted else None
        part = retraining_part(gate, challenger=challenger, failure=failure, reason=reason)
        return promoted, part

    def commit(
        self,
        claim: batches.Claim,
        cursor: Cursor | None,
        screened: Screened,
        measured: _Measured,
        promoted: Version | None,
        record: dict[str, Any],
    ) -> None:
        """The one transaction."""
        counters: dict[tuple[str, Labels], float] = {
            ("batches", (("outcome", "success"),)): 1,
            ("rows", ()): int(screened.accepted.sum()),
        }
        for reason, number in screened.set_aside.items():
            if number:
                counters["rows_rejected", (("reason", reason),)] = number
        if record["retraining"] is not None:
            counters["retrains", _retrain_labels(record["retraining"])] = 1
        detector = (self.champion.version, measured.pool, measured.window)
        if promoted is not None:  # a new reference: evidence starts afresh
            fresh = promoted.reference.profile
            detector = (promoted.version, fresh, fresh.scaled(0))
        self.ledger.commit_batch(
            Commit(
                content_id=claim.content_id,
                outcome="processed",
                record=record,
                run=self.facts(success=True, outcome="processed"),
                counters=counters,
                cursor=advance(cursor, claim) if cursor else None,
                detector=detector,
                labelled=measured.labelled,
                promoted=promoted.manifest if promoted else None,
            ),
            window_rows=self.settings.window_rows,
        )

    # --- the other ways to end ---

    def idle(self, outcome: str) -> Report:
        """There is no batch, and that is fine."""
        if not self.settings.dry_run:
            self.ledger.record_run(self.facts(success=True, outcome=outcome))
        return Report(build_record(outcome))

    def told_before(self, claim: batches.Claim, done: Mapping[str, Any]) -> Report:
        """The same content again: nothing is counted twice."""
        record = dict(done) | {"outcome": "already_processed"}
        error = None
        if done["outcome"] == "quarantined":
            record["outcome"] = "quarantined"
            error = BadBatch(
                f"{claim.name}: refused before: {done['error']}", remedy="send a corrected file"
            )
        if not self.settings.dry_run:
            self.ledger.record_run(self.facts(success=error is None, outcome=record["outcome"]))
        return Report(record, error)

    def quarantine(self, claim: batches.Claim, error: WineDriftError) -> Report:
        """The file as a whole is bad: record why, and put it where it harms nobody."""
        name = str(claim.path)
        detail = str(error).removeprefix(f"{name}: ")
        record = build_record(
            "quarantined",
            batch={"id": claim.batch_id, "name": claim.name, "source": claim.source},
            error=detail,
        )
        place = ""
        if not self.settings.dry_run:
            self.ledger.commit_batch(
                Commit(
                    content_id=claim.content_id,
                    outcome="quarantined",
                    record=record,
                    run=self.facts(success=False, outcome="quarantined"),
                    counters={("batches", (("outcome", "quarantined"),)): 1},
                ),
                window_rows=self.settings.window_rows,
            )
            kept = self.tidy(claim, "quarantine")
            place = f"; it is kept in {kept}" if kept else ""
        return Report(record, BadBatch(f"{name}: {detail}{place}", remedy=error.remedy))

    # --- training ---

    def train_first(self, *, share: float) -> None:
        """Train the first champion on the first part of the table."""
        supply = self.needed_supply("there is no model yet")
        self.say(f"training the first model on {supply.name}")
        rows, cursor = supply.training_part(share=share)
        facts = self.training_facts("first", parent=None)
        try:
            with self.stage("train"):
                version = first_version(rows, self.schema, self.recipe, number=1, facts=facts)
        except ValueError as error:
            raise SettingsError(
                f"{supply.name}: {error}", remedy="name a larger table with --data"
            ) from error
        if not self.settings.dry_run:
            version = write_version(self.models, version)
            self.ledger.commit_champion(version.manifest, cursor)
        self.trained = (version, cursor)

    def retrain_by_hand(self) -> dict[str, Any]:
        """A challenger on what is there, through the same gate."""
        n_rows, n_positive = self.ledger.labelled_counts(after=self.ledger.champion_since())
        settings = self.settings
        if n_rows < settings.min_labelled or n_positive < settings.min_positives:
            need = f"{settings.min_labelled} rows and {settings.min_positives} positives"
            self.say(
                f"waiting for labels: {n_rows} labelled rows since the last promotion, "
                f"{n_positive} of them positive; {need} are needed"
            )
            return build_record("waiting_for_labels", model={"version": self.champion.version})
        promoted, part = self.retrain(None, "manual")
        self.ledger.commit_retraining(
            promoted.manifest if promoted else None, _retrain_labels(part), at=self.now()
        )
        serving = (promoted or self.champion).version
        return build_record("trained", model={"version": serving}, retraining=part)

    def training_facts(self, reason: str, *, parent: str | None) -> dict[str, Any]:
        """What a manifest tells besides the model itself."""
        return {
            "reason": reason,
            "parent": parent,
            "trained_at": self.now(),
            "dataset": self.dataset,
        }

    @property
    def recipe(self) -> Recipe:
        """How the settings want models trained."""
        settings = self.settings
        return Recipe(
            rounds=settings.rounds,
            half_life=settings.half_life,
            seed=settings.seed,
            threads=settings.threads,
            window_rows=settings.window_rows,
        )

    # --- what the run stands on ---

    @property
    def models(self) -> Path:
        """Folder of the model versions."""
        return self.settings.home / "models"

    @property
    def champion_manifest(self) -> Mapping[str, Any] | None:
        """Manifest of the champion, trained by this run or earlier."""
        return self.trained[0].manifest if self.trained else self.ledger.champion()

    @cached_property
    def champion(self) -> Version:
        """The champion, its files checked against the ledger."""
        if self.trained is not None:
            return self.trained[0]
        manifest = self.ledger.champion()
        if manifest is None:
            raise StateUnreadable("the ledger names no champion", remedy="run `wine-drift train`")
        if tuple(manifest["features"]) != self.schema.feature_names:
            raise SettingsError(
                f"the champion of {self.settings.home} was trained for other columns: "
                f"{', '.join(manifest['features'])}",
                remedy="use the schema of that home, or another --home",
            )
        return read_version(self.models, manifest, threads=self.settings.threads)

    @cached_property
    def source(self) -> str:
        """Where batches come from: inbox, stream or simulated."""
        chosen = self.settings.source
        if chosen == "auto" and self.settings.inbox is not None:
            return "inbox"
        if chosen != "auto":
            return chosen
        return "simulated" if isinstance(self.supply, Simulated) else "stream"

    @cached_property
    def supply(self) -> Supply | None:
        """The table behind this home; the simulated one where there is no other to be had."""
        found = find_supply(self.settings, self.schema)
        settings = self.settings
        default = settings.source == "auto" and settings.inbox is None and settings.schema is None
        if found is None and default:
            found = Simulated(self.schema, settings)
        if isinstance(found, Simulated):
            self.say("SIMULATED DATA: these are not measurements of real wines")
        return found

    def needed_supply(self, problem: str) -> Supply:
        """The table, where nothing goes without one."""
        if self.supply is None:
            raise SettingsError(
                f"{problem}, and no table to take one from",
                remedy="name a table with --data, or run `wine-drift fetch-data` for red wine",
            )
        return self.supply

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add up the time of a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - start

    def facts(self, *, success: bool, outcome: str) -> dict[str, Any]:
        """What is published about the run itself."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "finished_at": self.now(),
            "success": success,
            "outcome": outcome,
            "duration": time.monotonic() - self.started,
            "stages": dict(self.stages),
            "max_rss_bytes": peak if sys.platform == "darwin" else peak * 1024,
            "pending": self.pending(),
            "dataset": self.dataset,
        }

    @property
    def dataset(self) -> str:
        """Name of what this home watches: simulated, or the table's."""
        if "supply" in vars(self) and self.supply is not None:
            return self.supply.name
        return str((self.champion_manifest or {}).get("dataset", ""))

    def pending(self) -> int:
        """Files that wait in the inbox, the one in hand not counted."""
        if self.settings.inbox is None:
            return 0
        try:
            paths = batches.waiting(self.settings.inbox, SUFFIXES)
        except SettingsError:
            return 0
        return sum(self.claimed is None or path != self.claimed.path for path in paths)

    def tidy(self, claim: batches.Claim, place: str) -> Path | None:
        """Put the file of a batch that the ledger knows into archive or quarantine."""
        if claim.path is None or (claim.source == "file" and place == "archive"):
            return None  # a file that was named stays where its owner put it
        if self.settings.dry_run:
            return None
        try:
            return batches.put_away(claim, self.settings.home / place)
        except OSError as error:
            self.say(f"{claim.path}: not moved to {place}: {error.strerror}; the batch is recorded")
            return None

    def write_set_aside(
        self, claim: batches.Claim, frame: pd.DataFrame, screened: Screened
    ) -> None:
        """Keep the rows that were set aside, as they came, with the reason of each."""
        columns = (*self.schema.feature_names, self.schema.target)
        rows = np.flatnonzero(~screened.accepted)
        kept = frame.iloc[rows].copy()
        kept.insert(0, "set_aside_row", rows + 1)
        kept.insert(1, "set_aside_reason", [FAULTS[k] for k in screened.fault[rows]])
        faulty = screened.faulty_column[rows]
        kept.insert(2, "set_aside_column", [columns[j] if j >= 0 else "" for j in faulty])
        folder = self.settings.home / "quarantine"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{claim.batch_id}-rows.csv"
        partial = path.with_name(f".{path.name}.part")
        kept.to_csv(partial, index=False)
        partial.replace(path)


def _retrain_labels(part: Mapping[str, Any]) -> Labels:
    return (("reason", part["reason"]), ("outcome", part["outcome"]))
