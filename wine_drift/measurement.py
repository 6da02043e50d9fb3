"""What one batch says before anything is decided: quality, drift, faults of the source, causes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.causes import find_causes
from wine_drift.counted import Counted
from wine_drift.detector import (
    DRIFT,
    DROP,
    Detector,
    DriftReading,
    Limits,
    QualityReading,
    cleared,
    judge_drift,
    judge_quality,
)
from wine_drift.faults import Fault, find_faults
from wine_drift.measures import Answers, Quality, count_answers, judge_answers, measure_quality
from wine_drift.outcomes import Outcomes, count_outcomes, expected_quality
from wine_drift.reference import QUANTILES, Reference, Summary
from wine_drift.rows import ScoredRows
from wine_drift.schema import FAULTS, Schema
from wine_drift.screening import Screened


@dataclass(frozen=True)
class Tally:
    """All that is counted of a batch; `a + b` is of two parts of it, whatever their order."""

    n_rows: int
    by_fault: NDArray[np.int64]  # (n_faults,), rows set aside
    missing: NDArray[np.int64]  # (n_features,), cells without a finite number
    outside: NDArray[np.int64]  # (n_features,), cells outside the plausible range
    columns: tuple[Counted, ...]  # the features, of the rows that count for drift; then the score
    answers: Answers  # of the labelled rows
    summary: Summary
    ignored_columns: tuple[str, ...]

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.n_rows + other.n_rows,
            self.by_fault + other.by_fault,
            self.missing + other.missing,
            self.outside + other.outside,
            tuple(a + b for a, b in zip(self.columns, other.columns, strict=True)),
            self.answers + other.answers,
            self.summary + other.summary,
            tuple(dict.fromkeys((*self.ignored_columns, *other.ignored_columns))),
        )

    @property
    def accepted(self) -> int:
        """Rows that were scored."""
        return self.n_rows - int(self.by_fault.sum())

    @property
    def set_aside(self) -> dict[str, int]:
        """Number of rows set aside for each of FAULTS."""
        return dict(zip(FAULTS, self.by_fault.tolist(), strict=True))

    @property
    def faulty_share(self) -> float:
        """Share of rows set aside for a fault; a repeat of a good row is none."""
        return float(self.by_fault[: FAULTS.index("duplicate")].sum() / self.n_rows)


def tally(
    screened: Screened, scores: Floats, schema: Schema, reference: Reference, *, cut: float
) -> Tally:
    """Count a batch, or a part of it.

    Quality is that of the labelled good rows. Drift looks at all rows that arrived but repeats, for
    a fault is what drift may be; the score, as one more column, exists for good rows only.

    Parameters
    ----------
    screened : Screened
    scores : ndarray of shape (n_rows,), in [0, 1]
        Of good rows, and of those whose label belongs to a row of another part; else NaN.
    schema : Schema
    reference : Reference
        Of the champion.
    cut : float
        Score from which a row is predicted positive.
    """
    good, labelled, completes = screened.accepted, screened.labelled, screened.completes
    positive = schema.is_positive(screened.target)
    profiled = screened.profiled
    chosen = slice(None) if profiled.all() else profiled
    columns = [Counted.of(column[chosen]) for column in screened.features.T]
    columns.append(Counted.of(scores[good], is_share=True))
    outcomes = count_outcomes(scores[good], labelled[good], positive[good])
    if completes.any():  # the other row was counted as one without a label
        known = count_outcomes(scores[completes], completes[completes], positive[completes])
        unknown = count_outcomes(scores[completes], ~completes[completes], positive[completes])
        outcomes = Outcomes(outcomes.counts + known.counts - unknown.counts)
        labelled = labelled | completes
    return Tally(
        n_rows=len(good),
        by_fault=screened.by_fault,
        missing=screened.missing,
        outside=screened.outside,
        columns=tuple(column.bounded() for column in columns),
        answers=count_answers(positive[labelled], scores[labelled], cut=cut),
        summary=reference.summed(columns, outcomes),
        ignored_columns=screened.ignored_columns,
    )


@dataclass(frozen=True)
class Measurement:
    """All that is known of a batch."""

    quality: Quality
    mean_score: float | None
    expected_log_loss: float | None  # what the scores promise, labels or not
    expected_roc_auc: float | None
    quantiles: Floats  # (n_columns, 3), at reference.QUANTILES; NaN without values
    counts: Floats  # (n_columns, N_BINS), values of this batch in the bins of the reference
    judged_rows: int  # rows that were judged for drift, or that wait to be
    judged_labels: int  # labelled rows that were judged for quality, or that wait to be
    drift: DriftReading | None  # None where too few rows wait
    quality_drift: QualityReading | None
    faults: tuple[Fault, ...]
    at_fault: bool  # the source is to be mended, whatever else was found
    causes: tuple[str, ...]  # of an alarm
    detector: Detector  # after this batch
    distrusted_since: int | None  # rows from this batch on were found at fault together


def measure(
    counted: Tally,
    reference: Reference,
    detector: Detector,
    limits: Limits,
    *,
    sequence: int,
    max_set_aside: float,
    accepted: Collection[str] = (),
) -> Measurement:
    """Measure one batch.

    A batch with a fault leaves the detector as it was: it says nothing of the wines.

    Parameters
    ----------
    counted : Tally
    reference : Reference
        Of the champion.
    detector : Detector
        As it was before this batch.
    limits : Limits
    sequence : int
        Number of the batch.
    max_set_aside : float, in (0, 1]
        From this share of faulty rows on, the source is at fault.
    accepted : collection of str
        Features whose faults are told and no longer held against the source.
    """
    here = counted.summary
    batch = detector.waiting + here
    n_rows, n_labels = int(batch.profile.n_rows), int(batch.outcomes.n_labelled)
    after = replace(detector, waiting=batch)
    drift, quality_drift = None, None
    faults: tuple[Fault, ...] = ()
    if n_rows >= limits.min_rows:
        faults = find_faults(
            reference.features,
            (reference.profile, reference.summary.traits),
            (batch.profile, batch.traits),
            spread=reference.spread,
            budget=limits.budget,
        )
        drift, state = judge_drift(
            reference.profile,
            reference.correlation,
            reference.n_rows,
            detector.drift,
            batch.profile,
            limits,
            reference.n_categories,
        )
        after = replace(after, drift=state)
    if n_labels >= limits.min_rows:
        quality_drift, answers = judge_quality(
            reference.summary.outcomes, detector.quality, batch.outcomes, limits
        )
        after = replace(after, quality=answers)
    causes: tuple[str, ...] = ()
    held = any(fault.feature not in accepted for fault in faults)
    at_fault = held or counted.faulty_share >= max_set_aside
    drifted = drift is not None and int(drift.status) >= DRIFT
    dropped = quality_drift is not None and int(quality_drift.status) == DROP
    if at_fault:
        # where old and new rows were found at fault together, none of them is to be trusted
        together = held and detector.waiting_since is not None
        after = _emptied(detector, reference) if together else detector
    else:
        if drifted or dropped:
            causes = find_causes(
                reference.summary.outcomes,
                after.quality.window,
                batch.outcomes,
                drifted=drifted,
                min_rows=limits.min_rows,
            )
        waiting = cleared(
            batch,
            reference.nothing(),
            rows=drift is not None,
            answers=quality_drift is not None,
        )
        since = detector.waiting_since or sequence
        after = replace(
            after, waiting=waiting, waiting_since=since if drift is None and n_rows else None
        )
    expected_log_loss, expected_roc_auc = expected_quality(here.outcomes)
    return Measurement(
        quality=judge_answers(counted.answers),
        mean_score=counted.columns[-1].mean(),
        expected_log_loss=expected_log_loss,
        expected_roc_auc=expected_roc_auc,
        quantiles=np.array([column.quantiles(QUANTILES) for column in counted.columns]),
        counts=here.profile.counts,
        judged_rows=n_rows,
        judged_labels=n_labels,
        drift=drift,
        quality_drift=quality_drift,
        faults=faults,
        at_fault=at_fault,
        causes=causes,
        detector=after,
        distrusted_since=(detector.waiting_since or sequence) if held else None,
    )


@dataclass(frozen=True)
class LateMeasurement:
    """What the labels of one batch say that came after it."""

    quality: Quality  # of all its labelled rows
    judged_labels: int  # labelled rows that were judged, or that wait to be
    quality_drift: QualityReading | None  # None where too few wait, or where nothing is judged
    causes: tuple[str, ...]
    detector: Detector | None  # after these labels; None where they say nothing of the champion


def measure_late(
    rows: ScoredRows,
    fresh: NDArray[np.bool_],
    reference: Reference,
    detector: Detector | None,
    limits: Limits,
    *,
    cut: float,
    drifted: bool,
) -> LateMeasurement:
    """Measure the answers that came after their batch.

    Parameters
    ----------
    rows : ScoredRows
        With all the labels that are known by now.
    fresh : ndarray of shape (n_scored,), bool
        Rows whose label was not known before.
    reference : Reference
        Of the champion.
    detector : Detector or None
        As it was before these labels; None if another model made the scores, or if the batch was
        at fault: the quality is told, and nothing is judged by it.
    limits : Limits
    cut : float
        Score from which that model predicted positive.
    drifted : bool
        Whether the columns have drifted.
    """
    known = ~np.isnan(rows.positive)
    quality = measure_quality(rows.positive[known], rows.scores[known], cut=cut)
    if detector is None:
        return LateMeasurement(quality, 0, None, (), None)
    n_fresh = int(fresh.sum())
    here = count_outcomes(
        rows.scores[fresh], np.ones(n_fresh, dtype=bool), rows.positive[fresh] == 1
    )
    answers = detector.waiting.outcomes + here
    n_labels = int(answers.n_labelled)
    if n_labels < limits.min_rows:
        waiting = replace(detector.waiting, outcomes=answers)
        return LateMeasurement(quality, n_labels, None, (), replace(detector, waiting=waiting))
    reading, state = judge_quality(reference.summary.outcomes, detector.quality, answers, limits)
    causes: tuple[str, ...] = ()
    if drifted or int(reading.status) == DROP:
        causes = find_causes(
            reference.summary.outcomes,
            state.window,
            answers,
            drifted=drifted,
            min_rows=limits.min_rows,
        )
    waiting = cleared(detector.waiting, reference.nothing(), rows=False, answers=True)
    after = replace(detector, quality=state, waiting=waiting)
    return LateMeasurement(quality, n_labels, reading, causes, after)


def _emptied(detector: Detector, reference: Reference) -> Detector:
    """The same with nothing waiting."""
    return replace(detector, waiting=reference.nothing(), waiting_since=None)
