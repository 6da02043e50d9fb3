"""One run: the one place that knows the order of things.

Lock, take the batch, screen it, score it, measure quality and drift, decide, retrain if decided,
commit one transaction, put the file away, publish.
"""

from __future__ import annotations

import contextlib
import inspect
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np

from wine_drift import __version__, batches
from wine_drift.champion import Answer, Champion, retraining_failure
from wine_drift.dataset import load_schema
from wine_drift.detector import LOG_LOSS_RISE
from wine_drift.errors import (
    BadBatch,
    FileUnreadable,
    SettingsError,
    TableError,
    WineDriftError,
)
from wine_drift.frame import Frame
from wine_drift.gathering import Gathered, Gatherer, Keep, Spill, Yardstick
from wine_drift.home import models_place, writing
from wine_drift.ledger import Commit, Cursor, Ledger
from wine_drift.measurement import Measurement, Tally, measure
from wine_drift.outbox import publish
from wine_drift.parts import Counting, Here, count_each
from wine_drift.places import find_places, is_many, name_of
from wine_drift.policy import MANUAL
from wine_drift.record import (
    Report,
    batch_part,
    build_record,
    drift_part,
    drift_status,
    is_news,
    quality_part,
    quality_status,
    thresholds_part,
)
from wine_drift.repeats import Known
from wine_drift.roster import run_part
from wine_drift.rows import Lot, ScoredRows
from wine_drift.schema import Schema
from wine_drift.screening import screen
from wine_drift.settings import Settings
from wine_drift.shards import NoWriter, ShardWriter
from wine_drift.snapshot import Labels
from wine_drift.supply import (
    SIMULATED,
    Simulated,
    Supply,
    advance,
    find_supply,
)
from wine_drift.tables import PART_ROWS, SUFFIXES, read_parts, reads_alone

Say = Callable[[str], None]
_WRITTEN = 3600.0  # seconds after which a file in the inbox is no longer being written


def run_batch(
    settings: Settings,
    batch: Path | str | None = None,
    *,
    now: Callable[[], float] = time.time,
    say: Say = lambda line: None,
    progress: Say = lambda line: None,
) -> Report:
    """Process the next batch, or the one named, once.

    Parameters
    ----------
    settings : Settings
    batch : Path or str, optional
        A batch file, or many: a folder, a pattern, an address; else the next batch of the source
        that the settings name.
    now : callable
        Unix time in seconds.
    say : callable
        Told, in a sentence, what a person should know.
    progress : callable
        Told what takes long.

    Raises
    ------
    WineDriftError
        Nothing was processed. A batch that was processed or quarantined is reported instead, also
        when the push failed.
    """
    schema = load_schema(settings.schema)
    if batch is not None and not is_many(str(batch)):
        batches.look_for(Path(batch))  # a mistyped name is no run that failed
    if settings.dry_run:
        with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
            run = _Run(settings, schema, ledger, now, say, progress)
            with run.open:
                report = run.process(batch)
            run.tell_if_simulated()
            return report
    with writing(settings, now=now, say=say) as ledger:
        run = _Run(settings, schema, ledger, now, say, progress)
        try:
            with run.open:
                report = run.process(batch)
            run.tell_if_simulated()
        except Exception as error:
            with contextlib.suppress(WineDriftError, OSError):  # the first error is the one to tell
                ledger.record_run(run.facts(success=False, outcome=type(error).__name__))
                publish(settings, ledger)  # the failure itself is what is published
            raise
        report.record["push"], failure = publish(settings, ledger)
        return replace(report, error=report.error or failure)


def train_now(
    settings: Settings,
    *,
    now: Callable[[], float] = time.time,
    say: Say = lambda line: None,
    progress: Say = lambda line: None,
) -> Report:
    """Train by hand: the first champion on all of the table, or a challenger through the gate.

    Raises
    ------
    WineDriftError
        Nothing was trained.
    """
    schema = load_schema(settings.schema)
    if settings.dry_run:
        raise SettingsError("train has no dry run", remedy="try it in another --home")
    with writing(settings, now=now, say=say) as ledger:
        run = _Run(settings, schema, ledger, now, say, progress)
        record = run.train()
        run.tell_if_simulated()
        # not recorded as a run: training by hand must not hide that the schedule is dead
        record["push"], failure = publish(settings, ledger)
        return Report(record, retraining_failure(record["retraining"]) or failure)


@dataclass
class _Run:
    """One run in progress: what it was given, and what it has chosen and measured so far."""

    settings: Settings
    schema: Schema
    ledger: Ledger
    now: Callable[[], float]
    say: Say
    progress: Say
    started_at: float = field(init=False)
    started: float = field(default_factory=time.monotonic)
    stages: dict[str, float] = field(default_factory=dict)
    claim: batches.Claim | None = None
    open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.started_at = self.now()

    # --- the order of things ---

    def process(self, batch: Path | str | None) -> Report:
        """Everything up to the commit, and putting the file away."""
        self.champion.check_schema()
        _ = self.accepted  # a mistake in it is told before anything is touched
        if batch is None and self.source != "inbox" and self.champion.manifest is None:
            self.train_first(share=self.settings.training_share)  # the stream is what it leaves
        with self.stage("load"):
            self.claim = claim = self.take(batch)
        if claim is None:
            return self.idle("nothing_waiting" if self.source == "inbox" else "end_of_stream")
        done = self.ledger.batch(claim.content_id)
        if done is not None:
            return self.told_before(claim, done)
        try:
            gathered = self.gather(claim)
        except FileUnreadable:
            raise
        except (BadBatch, TableError) as error:
            return self.quarantine(claim, error)
        measured = self.measure(gathered.counted)
        rows = gathered.fresh.rows
        number = np.full(len(rows), self.ledger.next_sequence())
        fresh = replace(gathered.fresh, rows=replace(rows, sequence=number))
        answer = self.answer(measured, fresh)
        record = self.describe(claim, gathered, measured, answer)
        before, told = self.ledger.find(""), None
        if not self.settings.dry_run:
            told = self.commit(claim, measured, fresh, answer, gathered.scored, record)
            self.tidy(claim, "archive")
        failure = retraining_failure(record["retraining"])
        return Report(record, failure, told, is_news(record, before))

    def take(self, batch: Path | str | None) -> batches.Claim | None:
        """Choose the batch; nothing changes yet but files that an earlier run left behind."""
        if batch is not None and is_many(str(batch)):
            return self.take_many(str(batch))
        if batch is not None:
            return batches.claim_file(Path(batch))
        if self.source != "inbox":
            supply = self.needed_supply("there is no batch")
            return supply.claim(self.champion.cursor(supply))
        inbox = self.settings.inbox
        if inbox is None:
            raise SettingsError("source is inbox, but no inbox is set", remedy="set --inbox")
        claim, leftovers = batches.claim_oldest(
            inbox,
            SUFFIXES,
            lambda content_id: self.ledger.batch(content_id) is not None,
            say=self.say,
        )
        self.tell_of_others(inbox)
        for known in leftovers:
            done = self.ledger.batch(known.content_id)
            processed = done is not None and done["outcome"] == "processed"
            self.tidy(known, "archive" if processed else "quarantine")
        return claim

    def take_many(self, batch: str) -> batches.Claim:
        """A batch that is many files."""
        places, others = find_places(batch, SUFFIXES)
        for other in others:
            self.say(f"{other}: passed over: a file of rows ends in {', '.join(SUFFIXES)}")
        return batches.claim_parts(name_of(batch), self.counting.digest(places))

    def tell_of_others(self, inbox: Path) -> None:
        """Files that wait in vain are told once, by the first run an hour after their change."""
        last = self.ledger.last_run()
        since = 0.0 if last is None else last.get("started_at", 0.0) - _WRITTEN
        until = self.started_at - _WRITTEN
        for path in batches.passed_over(inbox, SUFFIXES, after=since, before=until):
            self.say(
                f"{path}: passed over, now and later: a batch's name ends in {', '.join(SUFFIXES)}"
            )

    def gather(self, claim: batches.Claim) -> Gathered:
        """Read the claimed batch, a part at a time, and count it."""
        if claim.parts:
            return self.gather_many(claim)
        with (
            _closed(self.read(claim)) as source,
            _closed(self.timed("load", source)) as parts,
            self.kept_rows(claim) as keep,
        ):
            begin: list[Frame] = []
            if self.champion.manifest is None:
                begin = list(islice(parts, 2))
                for part in begin[:1]:  # a file that begins badly is no reason to train a model
                    screen(part, self.schema, whole_file=len(begin) == 1 and not claim.is_slice)
                self.train_first(share=self.settings.training_share)
            yardstick, known = self.champion.yardstick, Known()
            gatherer = Gatherer(yardstick, keep, self.spill(claim))
            frames, ahead = chain(begin, parts), not reads_alone(str(claim.path))
            n_rows = 0
            with contextlib.closing(
                count_each(frames, yardstick, known, self.stage, ahead=ahead)
            ) as counted_parts:
                for counted in counted_parts:
                    gatherer.add(counted)
                    n_rows += counted.told.n_rows
                    if n_rows >= PART_ROWS:  # else it is done at once
                        self.progress(f"{n_rows:,} rows counted")
            del known  # the largest thing there is, of many rows
            # the table as a whole was screened before it was cut into slices
            return gatherer.finish(whole_file=not claim.is_slice)

    def gather_many(self, claim: batches.Claim) -> Gathered:
        """The same of a batch that is many files."""
        if self.champion.manifest is None:
            self.counting.check(claim.parts[0], self.schema, self.settings.row_id)
            self.train_first(share=self.settings.training_share)
        with self.stage("measure"), self.kept_rows(claim) as keep:
            gathered = self.counting.gather(claim.parts, self.yardstick, keep, self.spill(claim))
        self.open.close()  # a cluster has nothing more to do
        return gathered

    def kept_rows(self, claim: batches.Claim) -> AbstractContextManager[Keep]:
        """Where rows go that are set aside."""
        if self.settings.dry_run:
            return contextlib.nullcontext(lambda lines: None)
        return batches.kept_rows(claim, self.settings.home / "quarantine")

    def spill(self, claim: batches.Claim) -> Spill:
        """Where labelled rows go that are too many for the ledger."""
        if self.settings.dry_run:
            return NoWriter()
        place, number = models_place(self.settings), self.ledger.next_sequence()
        return ShardWriter(place, f"b-{claim.content_id[:16]}", number)

    def read(self, claim: batches.Claim) -> Generator[Frame]:
        """Rows of the claimed batch, in parts."""
        if claim.path is None:
            supply = self.needed_supply("the batch is gone")
            yield supply.read(claim, self.champion.cursor(supply))
            return
        settings = self.settings
        yield from read_parts(
            claim.path,
            text_column=settings.row_id,
            listed=self.schema.listed,
            most_bytes=settings.max_bytes,
        )
        batches.check_unchanged(claim)

    def measure(self, counted: Tally) -> Measurement:
        """See what the batch says."""
        champion, settings = self.champion.version, self.settings
        with self.stage("measure"):
            return measure(
                counted,
                champion.reference,
                self.champion.detector,
                settings.limits,
                sequence=self.ledger.next_sequence(),
                max_set_aside=settings.max_set_aside,
                accepted=self.accepted,
            )

    def answer(self, measured: Measurement, fresh: Lot) -> Answer:
        """One action with its reasons, and what came of it."""
        with self.stage("retrain"):
            return self.champion.answer(
                fresh,
                sequence=self.ledger.next_sequence(),
                drift_status=drift_status(measured.drift),
                quality_status=quality_status(measured.quality_drift),
                causes=measured.causes,
                at_fault=measured.at_fault,
            )

    def describe(
        self,
        claim: batches.Claim,
        gathered: Gathered,
        measured: Measurement,
        answer: Answer,
    ) -> dict[str, Any]:
        """The record of the batch."""
        champion, settings = self.champion.version, self.settings
        return build_record(
            "processed",
            batch=batch_part(
                gathered.counted,
                self.schema,
                batch_id=claim.batch_id,
                name=claim.name,
                source=claim.source,
                sequence=self.ledger.next_sequence(),
                positive=measured.quality.n_positive,
                seen_in_training=gathered.seen,
            ),
            model={"version": champion.version},
            quality=quality_part(measured, cut=champion.cut, manifest=champion.manifest),
            drift=drift_part(
                gathered.counted,
                measured,
                champion.reference,
                settings.limits,
                features={feature.name: feature for feature in self.schema.features},
                reliance=champion.manifest["reliance"],
            ),
            decision=answer.decision.to_dict(),
            retraining=answer.retraining,
            thresholds=thresholds_part(
                budget=settings.budget,
                severity_drift=settings.severity_drift,
                severity_major=settings.severity_major,
                max_set_aside=settings.max_set_aside,
                log_loss=LOG_LOSS_RISE * champion.manifest["out_of_fold"]["log_loss"],
                label_wait=settings.label_wait,
                batch_wait=settings.batch_wait,
            ),
        )

    def commit(
        self,
        claim: batches.Claim,
        measured: Measurement,
        fresh: Lot,
        answer: Answer,
        scored: ScoredRows,
        record: dict[str, Any],
    ) -> Mapping[str, Any]:
        """The one transaction; gives what it tells of the run."""
        failed = retraining_failure(record["retraining"]) is not None
        outcome = "retraining_failed" if failed else "processed"
        cursor: Cursor | None = None
        if claim.is_slice:
            supply = self.needed_supply("the batch is gone")
            cursor = advance(self.champion.cursor(supply), claim)
        run = self.facts(success=not failed, outcome=outcome)
        self.ledger.commit_batch(
            Commit(
                content_id=claim.content_id,
                outcome="processed",
                record=record,
                at=run["finished_at"],
                run=run,
                counters=_counters(record),
                cursor=cursor,
                detector=self.champion.state(answer, measured.detector),
                retired=self.champion.retired(answer, measured.detector),
                labelled=None if measured.at_fault else fresh,
                scored=scored,
                trusted=not measured.at_fault,
                decision=record["decision"],
                change=answer.change,
                retraining=answer.retraining,
                forget_since=self.distrusted_since(measured),
                promoted=answer.promoted.manifest if answer.promoted else None,
            ),
            self.champion.bounds,
        )
        return run

    def distrusted_since(self, measured: Measurement) -> int | None:
        """Rows from this batch on are not to be learnt from; what others judged stays trusted."""
        since = measured.distrusted_since
        return None if since is None else max(since, self.ledger.champion_since() + 1)

    # --- the other ways to end ---

    def idle(self, outcome: str) -> Report:
        """There is no batch, and that is fine."""
        return Report(build_record(outcome), run=self.told(success=True, outcome=outcome))

    def told_before(self, claim: batches.Claim, done: Mapping[str, Any]) -> Report:
        """The same content again: nothing is counted twice."""
        record = dict(done) | {"outcome": "already_processed"}
        if "push" not in done:  # the ledger has forgotten all but that it was done
            here = {"name": claim.name, "source": claim.source}
            record = build_record("already_processed", batch=done["batch"] | here)
        error = None
        if done["outcome"] == "quarantined":
            record["outcome"] = "quarantined"
            self.tidy(claim, "quarantine")  # in case an earlier run was cut short
            why = f": {record['error']}" if record["error"] else ""
            error = BadBatch(f"{claim.name}: refused before{why}", remedy="send a corrected file")
        run = self.told(success=error is None, outcome=record["outcome"])
        return Report(record, error, run)

    def quarantine(self, claim: batches.Claim, error: WineDriftError) -> Report:
        """The file as a whole is bad: record why, and put it where it harms nobody."""
        # a file's own name may hold anything
        name = str(claim.path.with_name(claim.name)) if claim.path else claim.name
        detail = str(error).removeprefix(f"{claim.path}: ")
        record = build_record(
            "quarantined",
            batch={"id": claim.batch_id, "name": claim.name, "source": claim.source},
            error=detail,
        )
        place, run = "", None
        if not self.settings.dry_run:
            run = self.facts(success=False, outcome="quarantined")
            self.ledger.commit_batch(
                Commit(
                    content_id=claim.content_id,
                    outcome="quarantined",
                    record=record,
                    at=run["finished_at"],
                    run=run,
                    change=self.ledger.change(),
                    counters={("batches", (("outcome", "quarantined"),)): 1},
                ),
                self.champion.bounds,
            )
            kept = self.tidy(claim, "quarantine")
            place = f"; it is kept in {kept}" if kept else ""
            place = "; its files stay where they are" if claim.parts else place
        return Report(record, BadBatch(f"{name}: {detail}{place}", remedy=error.remedy), run)

    def told(self, *, success: bool, outcome: str) -> dict[str, Any] | None:
        """Record a run that changes nothing else; gives what it tells."""
        if self.settings.dry_run:
            return None
        run = self.facts(success=success, outcome=outcome)
        self.ledger.record_run(run)
        return run

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

    # --- training ---

    def train_first(self, *, share: float) -> None:
        """The first champion, from the first part of the table."""
        supply = self.needed_supply("there is no model yet")
        self.progress(f"training the first model on {supply.name}")
        with self.stage("train"):
            self.champion.train_first(supply, share=share)

    def train(self) -> dict[str, Any]:
        """By hand: the first champion, or a challenger on the labelled rows that are there."""
        self.champion.check_schema()
        if self.champion.manifest is None:
            self.train_first(share=1.0)
            return build_record("trained", model={"version": self.champion.version.version})
        nothing = self.champion.nothing
        labels = self.champion.labels(nothing)
        settings, serving = self.settings, self.champion.version.version
        if not labels.enough:
            self.say(
                f"{labels.n_rows} labelled rows since the last promotion, {labels.n_positive} of "
                f"them positive; {settings.min_labelled} rows and {settings.min_positives} "
                "positives are needed"
            )
            return build_record("waiting_for_labels", model={"version": serving})
        promoted, part = self.champion.try_challenger(
            nothing, MANUAL, alpha=settings.gate_alpha, force=settings.force
        )
        self.ledger.commit_retraining(promoted.manifest if promoted else None, part, at=self.now())
        model = {"version": promoted.version if promoted else serving}
        return build_record("trained", model=model, retraining=part)

    # --- what the run stands on ---

    @property
    def yardstick(self) -> Yardstick:
        """What the files of a batch are counted with; a worker of a cluster has one thread."""
        stick = self.champion.yardstick
        if self.settings.engine == "local":
            return stick
        return replace(stick, score=replace(self.champion.version.model, threads=1).score)

    @cached_property
    def counting(self) -> Counting:
        """Who counts a batch that is many files."""
        settings = self.settings
        if settings.engine == "local":
            return Here(settings.max_bytes, self.progress)
        from wine_drift.cluster import connected  # it loads Dask

        cluster = connected(
            settings.dask_scheduler,
            n_workers=settings.threads,
            most_bytes=settings.max_bytes,
            progress=self.progress,
        )
        return self.open.enter_context(cluster)

    @cached_property
    def champion(self) -> Champion:
        """The serving model."""
        return Champion(self.settings, self.schema, self.ledger, self.now, self.progress)

    @cached_property
    def accepted(self) -> tuple[str, ...]:
        """Features whose faults are no longer held."""
        names = tuple(name.strip() for name in (self.settings.accept or "").split(",") if name)
        unknown = [name for name in names if name not in self.schema.feature_names]
        if unknown:
            raise SettingsError(
                f"accept: {', '.join(map(repr, unknown))} is no feature",
                remedy=f"the features are {', '.join(self.schema.feature_names)}",
            )
        return names

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
        """The table behind this home; the simulated one where there is no other to be had.

        A home stays with what its champion was trained on: simulated figures among real ones, or
        the other way round, would be lies.
        """
        settings = self.settings
        found = find_supply(settings, self.schema)
        trained_on = (self.champion.manifest or {}).get("dataset")
        default = settings.source == "auto" and settings.inbox is None and settings.schema is None
        if found is None and default and trained_on in (None, SIMULATED):
            found = Simulated(self.schema, settings)
        simulated = isinstance(found, Simulated)
        if found is not None and trained_on is not None and simulated != (trained_on == SIMULATED):
            kind = "simulated" if trained_on == SIMULATED else "real"
            raise SettingsError(
                f"the champion of {settings.home} was trained on {kind} data",
                remedy=f"start another --home for {found.name} data",
            )
        return found

    def needed_supply(self, problem: str) -> Supply:
        """The table, where nothing goes without one."""
        if self.supply is None:
            raise SettingsError(
                f"{problem}, and no table to take one from",
                remedy="name a table with --data, or run `wine-drift fetch-data` for red wine",
            )
        return self.supply

    # --- what is told of the run itself ---

    def timed(self, name: str, items: Iterator[Frame]) -> Generator[Frame]:
        """The same, and the time that they take is that of a stage."""
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add up the time of a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - start

    def facts(self, *, success: bool, outcome: str) -> dict[str, Any]:
        """What is published about the run."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return run_part(
            self.ledger.last_run(),
            self.settings.timetable,
            schedule=self.settings.schedule,
            started_at=self.started_at,
            finished_at=self.now(),
            success=success,
            outcome=outcome,
            version=__version__,
            python_version=python_version(),
            duration=time.monotonic() - self.started,
            stages=dict(self.stages),
            max_rss_bytes=peak if sys.platform == "darwin" else peak * 1024,
            pending=self.pending(),
            dataset=self.dataset,
        )

    @property
    def dataset(self) -> str:
        """Name of the table behind this run, "simulated" where there is no real one."""
        supply = vars(self).get("supply")  # not looked for if the run did without
        return supply.name if supply else str((self.champion.manifest or {}).get("dataset", ""))

    def tell_if_simulated(self) -> None:
        """Nobody shall take simulated wines, or a model of them, for real ones."""
        if self.dataset == SIMULATED:
            self.say("SIMULATED DATA: these are not measurements of real wines")

    def pending(self) -> int:
        """Files that wait in the inbox, the one in hand not counted."""
        if self.settings.inbox is None:
            return 0
        try:
            paths = batches.waiting(self.settings.inbox, SUFFIXES)
        except SettingsError:
            return 0
        return sum(self.claim is None or path != self.claim.path for path in paths)


def _counters(record: Mapping[str, Any]) -> dict[tuple[str, Labels], float]:
    """What a processed batch adds to the counters."""
    batch = record["batch"]
    counters: dict[tuple[str, Labels], float] = {
        ("batches", (("outcome", "success"),)): 1,
        ("rows", ()): batch["accepted"],
    }
    for reason, number in batch["set_aside"].items():
        if number:
            counters["rows_rejected", (("reason", reason),)] = number
    return counters


@contextlib.contextmanager
def _closed(items: Generator[Frame]) -> Iterator[Generator[Frame]]:
    """Close it in the end, unless a second Ctrl-C did not wait for the thread that is in it."""
    try:
        yield items
    finally:
        if inspect.getgeneratorstate(items) != inspect.GEN_RUNNING:
            items.close()
