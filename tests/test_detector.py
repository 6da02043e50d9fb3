"""Judgement of batches in a row: statuses, the false-alarm budget by simulation, and what is kept.

The budget of the specification: at most one false alarm in a thousand batches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from wine_drift.bins import N_BINS, Profile, bin_numbers, count
from wine_drift.detector import (
    DRIFT,
    MAJOR,
    MINOR,
    OK,
    QUALITY_STATUSES,
    WARN,
    Detector,
    DriftReading,
    DriftState,
    Limits,
    QualityReading,
    QualityState,
    judge_drift,
    judge_quality,
    no_drift_evidence,
    no_quality_evidence,
)
from wine_drift.drift import WINDOW_DECAY, severity
from wine_drift.evidence import STRENGTHS, Evidence, log_e_of_p, log_e_of_shift
from wine_drift.measurement import Measurement, measure, tally
from wine_drift.outcomes import (
    N_SCORE_BINS,
    SCORES,
    Outcomes,
    calibration_p,
    count_outcomes,
    log_loss_rise_p,
    log_losses,
    mean_log_loss,
)
from wine_drift.reference import Reference, build_reference
from wine_drift.schema import parse_schema
from wine_drift.screening import Screened, screen
from wine_drift.tables import from_pandas

LIMITS = Limits(budget=1000, severity_drift=0.1, severity_major=0.25, min_rows=50)
NAMES = list("abcdefghijkl")
DROP = QUALITY_STATUSES.index("drop")


def leaves(part: object) -> list[np.ndarray]:
    """All arrays of a reading or a state."""
    parts = getattr(part, "__dict__", None)
    if parts is None:
        return [] if part is None else [np.asarray(part)]
    return [x for p in parts.values() for x in leaves(p)]


def assert_same(ours: object, theirs: object, rtol: float = 0) -> None:
    """All arrays are equal, to the bit or nearly."""
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def begun(alarms: np.ndarray) -> np.ndarray:
    """Where an alarm begins: batches after a quiet one; (n_batches, n_streams)."""
    return alarms[1:] & ~alarms[:-1]


# --- Drift: streams side by side ------------------------------------------------------------------


def tied(rng: np.random.Generator, *shape: int, mixing: np.ndarray | None = None) -> np.ndarray:
    """Rows of twelve columns with ties, correlated by a matrix; (..., n_rows, 12)."""
    rows = rng.normal(size=(*shape, 12))
    return (rows if mixing is None else rows @ mixing).round(1)


def counted(rows: np.ndarray, reference: Reference) -> Profile:
    """Profiles of batches of the same size, (n_batches, n_rows, n_columns), in one go."""
    n, width = len(rows), N_BINS + 1
    first = width * np.arange(n)[:, np.newaxis] + 1
    flat = [bin_numbers(rows[..., j], edges) + first for j, edges in enumerate(reference.edges)]
    tallies = [np.bincount(numbers.ravel(), minlength=n * width) for numbers in flat]
    counts = np.stack([tally.reshape(n, width) for tally in tallies], axis=1).astype(float)
    return Profile(counts[..., 1:], counts[..., 0])


@dataclass
class Streams:
    """Streams side by side against one reference or their own, judged batch after batch."""

    reference: Profile
    correlation: np.ndarray
    n_rows: int
    state: DriftState

    @classmethod
    def of(cls, *references: Reference) -> Streams:
        """One stream for each reference."""
        profiles = [reference.profile for reference in references]
        profile = Profile(
            np.stack([p.counts for p in profiles]), np.stack([p.missing for p in profiles])
        )
        state = DriftState(profile, profile.scaled(0), no_drift_evidence(references[0]))
        correlation = np.stack([reference.correlation for reference in references])
        return cls(profile, correlation, references[0].n_rows, state)

    def judge(self, batch: Profile, limits: Limits = LIMITS) -> DriftReading:
        """Judge one batch of each stream and remember it."""
        known = self.reference, self.correlation, self.n_rows
        reading, self.state = judge_drift(*known, self.state, batch, limits)
        return reading


def one_stream(reference: Reference) -> DriftState:
    """The state before the first batch."""
    return Detector.fresh(reference).drift


def judge_one(
    reference: Reference, state: DriftState, batch: Profile, limits: Limits = LIMITS
) -> tuple[DriftReading, DriftState]:
    """Judge a batch of a single stream."""
    return judge_drift(
        reference.profile, reference.correlation, reference.n_rows, state, batch, limits
    )


def test_streams_side_by_side_are_judged_one_by_one() -> None:
    """Readings and states of a stack are those of each stream alone, through every status."""
    rng = np.random.default_rng(0)
    references = [build_reference(tied(rng, 400), NAMES) for _ in range(4)]
    shifts = np.array([0.0, 0.3, 0.6, 2.0])
    streams = Streams.of(*references)
    states = [one_stream(reference) for reference in references]
    seen = set()
    for t in range(14):
        rows = [tied(rng, 100) + shift * (t < 3) * np.eye(12)[0] for shift in shifts]
        batches = [count(x, known.edges) for x, known in zip(rows, references, strict=True)]
        together = Profile(
            np.stack([b.counts for b in batches]), np.stack([b.missing for b in batches])
        )
        limits = replace(LIMITS, budget=100)
        reading = streams.judge(together, limits)
        for s, (reference, batch) in enumerate(zip(references, batches, strict=True)):
            alone, states[s] = judge_one(reference, states[s], batch, limits)
            for ours, theirs in zip(leaves(reading), leaves(alone), strict=True):
                np.testing.assert_allclose(ours[s], theirs, rtol=1e-12, atol=1e-12)
            for ours, theirs in zip(leaves(streams.state), leaves(states[s]), strict=True):
                np.testing.assert_allclose(ours[s], theirs, rtol=1e-12, atol=1e-12)
            seen.add(int(alone.status))
    assert {OK, MINOR, DRIFT, MAJOR} <= seen


def test_batches_counted_in_one_go_are_counted_right() -> None:
    """The counting of these tests is that of the package."""
    rng = np.random.default_rng(1)
    reference = build_reference(tied(rng, 300), NAMES)
    rows = tied(rng, 4, 70)
    rows[1, :9, 3] = np.nan
    together = counted(rows, reference)
    for s in range(4):
        alone = count(rows[s], reference.edges)
        assert (together.counts[s] == alone.counts).all()
        assert (together.missing[s] == alone.missing).all()


# --- Drift: statuses ------------------------------------------------------------------------------


@pytest.fixture
def on_the_way() -> tuple[Reference, DriftState, Profile]:
    """A stream with evidence of some hundreds from the past, and a batch that adds little to it."""
    rng = np.random.default_rng(7)
    reference = build_reference(tied(rng, 1000), NAMES)
    state = one_stream(reference)
    for _ in range(4):
        batch = count(tied(rng, 100) + 0.25 * np.eye(12)[0], reference.edges)
        _, state = judge_one(reference, state, batch, replace(LIMITS, budget=10**9))
    return reference, state, count(tied(rng, 100) + 0.2 * np.eye(12)[0], reference.edges)


# how far the budget and the severities are from what the batch reaches -> the status
BOUNDARIES = [
    pytest.param(1, 0, 0, 0, MAJOR, id="all reached"),
    pytest.param(1, 0, 0, 1, DRIFT, id="major just missed"),
    pytest.param(1, 0, 1, 1, MINOR, id="severity just missed"),
    pytest.param(1, 1, 0, 0, WARN, id="evidence just missed"),
    pytest.param(10, 0, 0, 0, WARN, id="a tenth of the evidence"),
    pytest.param(10, 1, 0, 0, OK, id="a tenth just missed"),
]


def limits_near(
    reading: DriftReading, times: int, beyond: int, beyond_drift: int, beyond_major: int
) -> Limits:
    """Limits that a reading reaches exactly, or misses by the least that there is."""
    size = reading.severity.max()
    missed = np.nextafter(size, np.inf)
    return Limits(
        budget=int(times * 10**reading.log10_evidence) + beyond,
        severity_drift=missed if beyond_drift else size,
        severity_major=missed if beyond_major else size,
        min_rows=50,
    )


@pytest.mark.parametrize(("times", "beyond", "beyond_drift", "beyond_major", "status"), BOUNDARIES)
def test_statuses_begin_where_they_say(
    on_the_way: tuple[Reference, DriftState, Profile],
    times: int,
    beyond: int,
    beyond_drift: int,
    beyond_major: int,
    status: int,
) -> None:
    """Each limit is reached at its very value, and the next number misses it."""
    reference, state, batch = on_the_way
    reading, _ = judge_one(reference, state, batch)
    limits = limits_near(reading, times, beyond, beyond_drift, beyond_major)
    assert 100 < 10**reading.log10_evidence < 1e6
    assert reading.tests.p_value > 1 / limits.budget
    assert judge_one(reference, state, batch, limits)[0].status == status


def test_a_rare_batch_is_a_warning() -> None:
    """A p-value below 1 in the budget warns, with next to no evidence yet; 1 in it does not."""
    rng = np.random.default_rng(3)
    reference = build_reference(tied(rng, 1000), NAMES)
    batch = count(tied(rng, 100) + 0.36 * np.eye(12)[0], reference.edges)
    reading, _ = judge_one(reference, one_stream(reference), batch)
    p = float(reading.tests.p_value)
    assert 1e-4 < p < 0.01
    above, below = int(np.ceil(1 / p)), int(np.ceil(1 / p)) - 1
    assert 10**reading.log10_evidence < 0.1 * below
    for budget, status in ((below, WARN), (above, OK)):
        limits = replace(LIMITS, budget=budget)
        assert judge_one(reference, one_stream(reference), batch, limits)[0].status == status


@pytest.mark.parametrize(("times", "beyond", "beyond_drift", "beyond_major", "status"), BOUNDARIES)
def test_what_is_kept_follows_the_status(
    on_the_way: tuple[Reference, DriftState, Profile],
    times: int,
    beyond: int,
    beyond_drift: int,
    beyond_major: int,
    status: int,
) -> None:
    """An alarm leaves the pool as it was, `minor` lays the evidence aside; the window goes on."""
    reference, state, batch = on_the_way
    reading, _ = judge_one(reference, state, batch)
    limits = limits_near(reading, times, beyond, beyond_drift, beyond_major)
    reading, after = judge_one(reference, state, batch, limits)
    joined = state.pool if status in (DRIFT, MAJOR) else state.pool + batch
    assert_same(after.pool, joined)
    assert_same(after.window, state.window.scaled(0.7) + batch)
    assert WINDOW_DECAY == 0.7
    if status == MINOR:
        assert_same(after.evidence, no_drift_evidence(reference))
    else:
        assert_same(after.evidence, reading.tests.added_to(state.evidence))
        assert after.evidence.log10() == reading.log10_evidence


@pytest.mark.parametrize(
    ("shift", "n_rows", "status"),
    [
        pytest.param(0.0, 100, OK, id="nothing happened"),
        pytest.param(0.02, 1_000_000, MINOR, id="certain, and trivial"),
        pytest.param(0.4, 1_000, DRIFT, id="drift"),
        pytest.param(1.5, 100, MAJOR, id="major"),
    ],
)
def test_an_alarm_needs_evidence_and_severity(shift: float, n_rows: int, status: int) -> None:
    """A certain but trivial shift is no alarm; a large and certain one is, and names its column."""
    rng = np.random.default_rng(6)
    reference = build_reference(rng.normal(size=(100_000, 2)), ["x", "y"])
    rows = rng.normal(size=(n_rows, 2))
    rows[:, 0] += shift
    reading, _ = judge_one(reference, one_stream(reference), count(rows, reference.edges))
    assert reading.status == status
    assert (reading.log10_columns >= 3).tolist() == [shift > 0, False]
    assert (reading.severity >= 0.1).tolist() == [status >= DRIFT, False]


def drawn(
    reference: Reference, rng: np.random.Generator, n_rows: int, shift: np.ndarray
) -> Profile:
    """Counts of independent normal columns, one stream, drawn without drawing the rows."""
    counts = np.zeros((1, len(shift), N_BINS))
    for j, edges in enumerate(reference.edges):
        below = np.concatenate([[0.0], ndtr(edges - shift[j]), [1.0]])
        counts[0, j, : len(edges) + 1] = rng.multinomial(n_rows, np.diff(below))
    return Profile(counts, np.zeros(counts.shape[:2]))


@pytest.mark.parametrize(
    ("n_reference", "shift", "statuses"),
    [
        pytest.param(1279, 0.0, {OK, WARN}, id="nothing, small reference"),
        pytest.param(100_000, 0.0, {OK, WARN}, id="nothing"),
        pytest.param(100_000, 0.02, {OK, WARN, MINOR}, id="trivial"),
        pytest.param(100_000, 0.2, {OK, WARN, MINOR}, id="small"),
        pytest.param(100_000, 0.5, {DRIFT}, id="large"),
    ],
)
def test_ten_million_rows_do_not_make_a_trivial_shift_drift(
    n_reference: int, shift: float, statuses: set[int]
) -> None:
    """Twenty such batches are `minor` at most; a large shift stays drift as long as it lasts."""
    rng = np.random.default_rng(7)
    reference = build_reference(rng.normal(size=(n_reference, 12)), NAMES)
    streams = Streams.of(reference)
    shifts = shift * (np.arange(12) % 4 == 0)
    found = [int(streams.judge(drawn(reference, rng, 10**7, shifts)).status[0]) for _ in range(20)]
    assert set(found) <= statuses
    assert (MINOR in found) == (MINOR in statuses)


def test_fifty_noisy_rows_are_neither_minor_nor_drift() -> None:
    """Of 4,000 first batches of 50 healthy rows, at most 1 in 1,000 alarms (of these, none)."""
    rng = np.random.default_rng(8)
    mixing = rng.normal(size=(12, 12)) / 3 + np.eye(12)
    found = []
    for _ in range(40):
        reference = build_reference(tied(rng, 1279, mixing=mixing), NAMES)
        streams = Streams.of(*[reference] * 100)
        found.append(streams.judge(counted(tied(rng, 100, 50, mixing=mixing), reference)).status)
    statuses = np.concatenate(found)
    assert (statuses >= MINOR).mean() <= 1 / 1000
    assert (statuses == OK).mean() > 0.98


def test_slow_drift_is_measured_against_the_reference() -> None:
    """The pool grows along with what creeps; severity, against the reference, tells how far."""
    rng = np.random.default_rng(26)
    reference = build_reference(tied(rng, 1279), NAMES)
    state, found = one_stream(reference), []
    for t in range(60):
        batch = count(tied(rng, 100) + 0.012 * t * np.eye(12)[0], reference.edges)
        reading, state = judge_one(reference, state, batch)
        sizes, psi = severity(reference.profile, state.window, batch)
        assert_same((reading.severity, reading.psi), (sizes, psi))
        found.append(int(reading.status))
    assert set(found[:10]) == {OK}
    assert max(found[:30]) < DRIFT <= found[-1]
    assert reading.severity.argmax() == reading.log10_columns.argmax() == 0


@pytest.mark.parametrize("shift", [0.6, 1.0, 3.0])
def test_a_stream_recovers_after_drift(shift: float) -> None:
    """Five drifted batches alarm; healthy again, it is ok within 15, by way of one `minor`.

    The pool never saw the drift, and the evidence of it, however large, is laid aside.
    """
    rng = np.random.default_rng(9)
    reference = build_reference(tied(rng, 1279), NAMES)
    streams = Streams.of(*[reference] * 50)
    drifted = np.zeros(12)
    drifted[[0, 5]] = shift
    healthy_rows, readings = [], []
    for t in range(30):
        rows = tied(rng, 50, 100) + drifted * (t < 5)
        batch = counted(rows, reference)
        readings.append(streams.judge(batch))
        healthy_rows.append(batch.scaled(readings[-1].status < DRIFT))
    statuses = np.array([reading.status for reading in readings])
    assert (statuses[4] >= DRIFT).all()
    after = statuses[5:]
    assert (after[15:] <= WARN).mean() > 0.99
    assert ((after == MINOR).sum(axis=0) == 1).mean() > 0.9
    first_minor = (after == MINOR).argmax(axis=0)
    assert first_minor.max() <= 15
    for s, t in enumerate(first_minor):
        assert (after[:t, s] >= DRIFT).all()
        assert (after[t + 1 :, s] <= WARN).mean() > 0.9
    assert_same(streams.state.pool, sum(healthy_rows, streams.reference))


@pytest.mark.slow
@pytest.mark.parametrize("n_rows", [50, 100])
def test_the_false_alarm_budget_is_kept(n_rows: int) -> None:
    """Healthy streams: p < 0.05 is as rare as it says or rarer, and R >= 1000 within its bound.

    200 streams of 200 batches of twelve correlated, tied columns, a reference of 1,279 rows each.
    The rate of p < 0.05 has a standard error of 0.0012, that of alarms within T one of 0.01.
    """
    rng = np.random.default_rng(10)
    mixing = rng.normal(size=(12, 12)) / 3 + np.eye(12)
    n_streams, n_batches = 200, 200
    references, batches = [], []
    for _ in range(n_streams):
        references.append(build_reference(tied(rng, 1279, mixing=mixing), NAMES))
        rows = tied(rng, n_batches, n_rows, mixing=mixing)
        batches.append(counted(rows, references[-1]).counts.astype(np.uint8))
    streams = Streams.of(*references)
    p_values, evidence, statuses = [], [], []
    for counts in np.stack(batches, axis=1):
        reading = streams.judge(Profile(counts.astype(float), np.zeros(counts.shape[:2])))
        p_values.append(reading.tests.p_value)
        evidence.append(reading.log10_evidence)
        statuses.append(reading.status)
    rates = (np.array(p_values) < 0.05).mean(axis=0)  # of each stream
    assert 0.03 < rates.mean() < 0.06
    assert rates.std() / np.sqrt(n_streams) < 0.0012
    assert (np.array(p_values) < 0.01).mean() < 0.015
    assert (np.array(p_values) < 0.001).mean() < 0.002
    for t in (50, 100, n_batches):
        bound = t / 1000
        alarmed = (np.array(evidence[:t]) >= 3).any(axis=0).mean()
        assert alarmed <= bound + 2 * np.sqrt(bound * (1 - bound) / n_streams)
    assert begun(np.array(statuses) >= DRIFT).mean() < 1 / 1000


# --- Quality --------------------------------------------------------------------------------------


def answered(
    rng: np.random.Generator, n_streams: int, n_rows: int, *, slope: float = 1.0, flipped: float = 0
) -> Outcomes:
    """Labelled rows of skewed scores; calibrated if the slope is 1, a share of answers flipped."""
    scores = rng.beta(0.7, 3, (n_streams, n_rows))
    odds = (scores / (1 - scores)) ** slope
    positive = rng.random(scores.shape) < odds / (1 + odds)
    positive ^= rng.random(scores.shape) < flipped
    labelled = np.ones(n_rows, dtype=bool)
    pairs = zip(scores, positive, strict=True)
    return Outcomes(np.stack([count_outcomes(s, labelled, y).counts for s, y in pairs]))


def fresh_quality(reference: Outcomes) -> QualityState:
    """The state before the first answers."""
    return QualityState(reference, reference.scaled(0), no_quality_evidence())


def one(outcomes: Outcomes) -> Outcomes:
    """The first stream alone."""
    return Outcomes(outcomes.counts[0])


def with_log_loss(mean: float) -> Outcomes:
    """Outcomes of this mean log loss: negatives in two bins, in the right shares."""
    losses = -np.log1p(-SCORES[[0, N_SCORE_BINS // 2]])
    share = (mean - losses[0]) / (losses[1] - losses[0])
    outcomes = Outcomes.none()
    outcomes.counts[1, [0, N_SCORE_BINS // 2]] = 1000 * (1 - share), 1000 * share
    return outcomes


@pytest.fixture
def dropping() -> tuple[QualityState, Outcomes, QualityReading]:
    """A state with evidence of some hundreds, answers that add little, and their reading."""
    rng = np.random.default_rng(12)
    reference = one(answered(rng, 1, 1000))
    state = fresh_quality(reference)
    for _ in range(3):
        batch = one(answered(rng, 1, 100, flipped=0.1))
        _, state = judge_quality(reference, state, batch, replace(LIMITS, budget=10**9))
    batch = one(answered(rng, 1, 100, flipped=0.03))
    reading, _ = judge_quality(reference, state, batch, LIMITS)
    return state, batch, reading


@pytest.mark.parametrize(
    ("times", "beyond", "worse", "status"),
    [
        pytest.param(1, 0, True, "drop", id="both reached"),
        pytest.param(1, 0, False, "minor", id="not much worse"),
        pytest.param(1, 1, True, "warn", id="evidence just missed"),
        pytest.param(10, 0, True, "warn", id="a tenth of the evidence"),
        pytest.param(10, 1, True, "ok", id="a tenth just missed"),
    ],
)
def test_quality_statuses_and_what_is_kept(
    dropping: tuple[QualityState, Outcomes, QualityReading],
    times: int,
    beyond: int,
    worse: bool,
    status: str,
) -> None:
    """A drop takes evidence and a log loss 10 % up; it leaves the pool, `minor` the evidence."""
    state, batch, reading = dropping
    assert 20 < 10**reading.log10_evidence < 1e6
    budget = int(times * 10**reading.log10_evidence) + beyond
    assert np.nanmin(reading.p_values) * 3 > 1 / budget
    usual = with_log_loss(float(reading.recent_log_loss) / (1.1 + (1e-9 if worse else -1e-9)))
    reading, after = judge_quality(usual, state, batch, replace(LIMITS, budget=budget))
    assert QUALITY_STATUSES[reading.status] == status
    assert_same(after.pool, state.pool if status == "drop" else state.pool + batch)
    assert_same(after.window, state.window.scaled(0.7) + batch)
    assert reading.recent_log_loss == mean_log_loss(after.window)
    kept = no_quality_evidence().log10() if status == "minor" else reading.log10_evidence
    assert after.evidence.log10() == kept


def test_rare_answers_are_a_warning() -> None:
    """The smallest of three p-values, times three, below 1 in the budget."""
    rng = np.random.default_rng(13)
    reference = one(answered(rng, 1, 1000))
    batch = one(answered(rng, 1, 60, flipped=0.15))
    reading, _ = judge_quality(reference, fresh_quality(reference), batch, LIMITS)
    p = float(reading.p_value)
    assert p == 3 * np.nanmin(reading.p_values)
    assert 1e-4 < p < 0.01
    for budget, status in ((int(np.ceil(1 / p)) - 1, "warn"), (int(np.ceil(1 / p)), "ok")):
        assert 10**reading.log10_evidence < 0.1 * budget
        limits = replace(LIMITS, budget=budget)
        found, _ = judge_quality(reference, fresh_quality(reference), batch, limits)
        assert QUALITY_STATUSES[found.status] == status


def test_quality_evidence_is_the_mean_of_three_tests_and_three_bets() -> None:
    """By hand, from the p-values: half the mean e-value, half the mean bet on a rise of loss."""
    rng = np.random.default_rng(13)
    reference, batch = one(answered(rng, 1, 800)), one(answered(rng, 1, 80, flipped=0.1))
    state = fresh_quality(reference)
    reading, after = judge_quality(reference, state, batch, LIMITS)
    p = reading.p_values
    assert np.isfinite(p).all()
    assert p[0] == log_loss_rise_p(log_losses(reference), log_losses(batch))
    two_sided = calibration_p(reference, batch)
    assert p[2] == pytest.approx(two_sided, rel=1e-12)
    bets = log_e_of_shift(-ndtri(p[:1]), np.array(800 * 80 / 880), STRENGTHS)
    expected = np.exp(log_e_of_p(p)).mean() / 2 + np.exp(bets).mean() / 2
    assert 10**reading.log10_evidence == pytest.approx(expected, rel=1e-9)
    assert after.evidence.log10() == reading.log10_evidence


def test_an_auc_that_cannot_be_tested_bets_nothing() -> None:
    """With four positives its p-value is not a number and its e-value 1; nothing else changes."""
    rng = np.random.default_rng(14)
    reference = one(answered(rng, 1, 1000))
    scores = rng.beta(0.7, 3, 60)
    positive = np.arange(60) < 4
    batch = count_outcomes(scores, np.ones(60, dtype=bool), positive)
    reading, after = judge_quality(reference, fresh_quality(reference), batch, LIMITS)
    assert np.isnan(reading.p_values).tolist() == [False, True, False]
    e = np.exp(log_e_of_p(reading.p_values[[0, 2]]))
    assert np.expm1(after.evidence.together) == pytest.approx((e.sum() + 1) / 3, rel=1e-12)
    assert reading.p_value == min(3 * reading.p_values[[0, 2]].min(), 1)


def test_quality_without_a_reference_is_never_an_alarm() -> None:
    """A champion whose answers are unknown has nothing to be compared with, and no warning."""
    rng = np.random.default_rng(15)
    state = fresh_quality(Outcomes.none())
    reading, _ = judge_quality(Outcomes.none(), state, one(answered(rng, 1, 60)), LIMITS)
    assert QUALITY_STATUSES[reading.status] == "ok"
    assert reading.p_values[0] == 1


@pytest.mark.parametrize(("flipped", "within"), [(1.0, 1), (0.5, 1), (0.2, 4)])
def test_flipped_answers_are_found_fast(flipped: float, within: int) -> None:
    """Of 40 streams with a share of answers turned round, nearly all drop within few batches."""
    rng = np.random.default_rng(16)
    reference = answered(rng, 40, 1000)
    state = fresh_quality(reference)
    dropped = np.zeros(40, dtype=bool)
    for _ in range(within):
        batch = answered(rng, 40, 100, flipped=flipped)
        reading, state = judge_quality(reference, state, batch, LIMITS)
        dropped |= reading.status == DROP
    assert dropped.mean() >= 0.95
    assert (state.pool.n_labelled[dropped] < 1000 + 100 * within).all()


def test_quality_recovers_after_a_drop() -> None:
    """With right answers again a drop ends by way of `minor`, and the evidence is laid aside."""
    rng = np.random.default_rng(17)
    reference = answered(rng, 20, 1000)
    state = fresh_quality(reference)
    statuses = []
    for t in range(30):
        batch = answered(rng, 20, 100, flipped=0.5 * (t < 4))
        reading, state = judge_quality(reference, state, batch, LIMITS)
        statuses.append(reading.status)
    after = np.array(statuses[4:])
    assert (np.array(statuses[3]) == DROP).all()
    assert (after == 2).any(axis=0).all()
    assert (after[20:] < 2).mean() > 0.95


def test_answers_in_a_stack_are_judged_one_by_one() -> None:
    """Readings and states of a stack are those of each stream alone."""
    rng = np.random.default_rng(18)
    reference = answered(rng, 3, 500)
    state = fresh_quality(reference)
    alone = [fresh_quality(Outcomes(counts)) for counts in reference.counts]
    for t in range(4):
        batch = Outcomes(
            np.concatenate(
                [answered(rng, 1, 60, flipped=share).counts for share in (0.0, 0.1, 0.5 * (t < 2))]
            )
        )
        reading, state = judge_quality(reference, state, batch, LIMITS)
        for s, counts in enumerate(batch.counts):
            single, alone[s] = judge_quality(
                Outcomes(reference.counts[s]), alone[s], Outcomes(counts), LIMITS
            )
            pairs = zip(leaves(reading), leaves(single), strict=True)
            states = zip(leaves(state), leaves(alone[s]), strict=True)
            for ours, theirs in (*pairs, *states):
                np.testing.assert_allclose(ours[s], theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("n_rows", "slope"), [(50, 1.0), (100, 0.7)])
def test_the_budget_of_quality_is_kept(n_rows: int, slope: float) -> None:
    """Unchanged quality, calibrated or not: p < 0.05 is rare, and R >= 1000 within its bound.

    200 streams of 100 batches, a reference of 1,279 rows each; standard errors 0.002 and 0.02.
    """
    rng = np.random.default_rng(19)
    n_streams, n_batches = 200, 100
    reference = answered(rng, n_streams, 1279, slope=slope)
    state = fresh_quality(reference)
    p_values, evidence, statuses = [], [], []
    for _ in range(n_batches):
        batch = answered(rng, n_streams, n_rows, slope=slope)
        reading, state = judge_quality(reference, state, batch, LIMITS)
        p_values.append(reading.p_value)
        evidence.append(reading.log10_evidence)
        statuses.append(reading.status)
    assert (np.array(p_values) < 0.05).mean() < 0.05
    assert (np.array(p_values) < 0.01).mean() < 0.015
    for t in (20, n_batches):
        bound = t / 1000
        alarmed = (np.array(evidence[:t]) >= 3).any(axis=0).mean()
        assert alarmed <= bound + 2 * np.sqrt(bound * (1 - bound) / n_streams)
    assert begun(np.array(statuses) == DROP).mean() < 1 / 1000


# --- A table, batch after batch -------------------------------------------------------------------

SCHEMA = parse_schema(
    {
        "name": "t",
        "target": {"column": "y", "positive": "> 0.5"},
        "feature": [{"name": "a"}, {"name": "b", "minimum": -50, "maximum": 50}],
    }
)


def table(
    rng: np.random.Generator, n_rows: int, *, labelled: float = 1.0, shift: float = 0.0
) -> pd.DataFrame:
    """Rows with a score, of which some have answers; `a` may be shifted."""
    frame = pd.DataFrame(rng.normal(size=(n_rows, 2)).round(2), columns=["a", "b"])
    frame["a"] += shift
    frame["score"] = ndtr(frame["a"] - 1)
    frame["y"] = (rng.random(n_rows) < frame["score"]).astype(float)
    frame.loc[rng.random(n_rows) >= labelled, "y"] = np.nan
    return frame


@pytest.fixture
def champion() -> Reference:
    """What the champion answers for."""
    frame = table(np.random.default_rng(20), 600)
    matrix = frame[["a", "b", "score"]].to_numpy()
    return build_reference(matrix, SCHEMA.columns, frame["y"].to_numpy() > 0.5, SCHEMA.plausible)


def measured(frame: pd.DataFrame, reference: Reference, detector: Detector) -> Measurement:
    """Measure a batch as a run does."""
    screened: Screened = screen(from_pandas(frame[["a", "b", "y"]]), SCHEMA)
    scores = np.where(screened.accepted, frame["score"], np.nan)
    counted = tally(screened, scores, SCHEMA, reference, cut=0.5)
    return measure(counted, reference, detector, LIMITS, sequence=1, max_set_aside=0.2)


def pieces(frame: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    """The table in pieces of so many rows."""
    return [frame.iloc[start : start + size] for start in range(0, len(frame), size)]


def assert_same_detector(ours: Detector, theirs: Detector) -> None:
    """All that is kept is equal, to the bit."""
    assert ours.to_dict() == theirs.to_dict()
    assert_same(ours, theirs)


def test_a_detector_survives_json(champion: Reference) -> None:
    """What is written is what is read, to the last bit, and judges the next batch the same."""
    rng = np.random.default_rng(21)
    detector = Detector.fresh(champion)
    for n_rows, share in ((80, 0.9), (120, 0.2), (30, 0.5)):
        detector = measured(table(rng, n_rows, labelled=share), champion, detector).detector
    assert detector.waiting.profile.n_rows == 30
    again = Detector.from_dict(json.loads(json.dumps(detector.to_dict(), allow_nan=False)))
    assert_same_detector(again, detector)
    for ours, theirs in zip(leaves(again), leaves(detector), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    batch = table(rng, 100, shift=0.7)
    one_way, other_way = (measured(batch, champion, state) for state in (detector, again))
    assert_same(one_way.drift, other_way.drift)
    assert_same(one_way.quality_drift, other_way.quality_drift)
    assert_same_detector(one_way.detector, other_way.detector)


def test_a_fresh_detector_knows_the_reference_and_nothing_else(champion: Reference) -> None:
    """The pool is the reference; window, evidence and waiting rows are none."""
    detector = Detector.fresh(champion)
    assert_same(detector.drift.pool, champion.profile)
    assert_same(detector.quality.pool, champion.summary.outcomes)
    assert detector.quality.pool.n_labelled == 600
    rest = (detector.drift.window, detector.quality.window, detector.waiting)
    assert not any(part.any() for state in rest for part in leaves(state))
    evidence: tuple[Evidence, ...] = (detector.drift.evidence, detector.quality.evidence)
    assert [float(part.log10()) for part in evidence] == [-np.inf, -np.inf]


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_small_batches_wait_and_are_judged_together(champion: Reference, shift: float) -> None:
    """Batches of 20 rows wait for 50; the reading is that of all their rows in one batch."""
    rng = np.random.default_rng(22)
    frame = table(rng, 60, labelled=1.0, shift=shift)
    detector = before = measured(table(rng, 90), champion, Detector.fresh(champion)).detector
    for k, piece in enumerate(pieces(frame, 20), start=1):
        measurement = measured(piece, champion, detector)
        detector = measurement.detector
        assert (measurement.judged_rows, measurement.judged_labels) == (20 * k, 20 * k)
        if k < 3:
            assert measurement.drift is None
            assert measurement.quality_drift is None
            assert_same(detector.drift, before.drift)
            assert_same(detector.quality, before.quality)
            assert detector.waiting.profile.n_rows == 20 * k
    whole = measured(frame, champion, before)
    assert_same(measurement.drift, whole.drift)
    assert_same(measurement.quality_drift, whole.quality_drift)
    assert measurement.causes == whole.causes
    assert_same_detector(detector, whole.detector)
    assert not any(part.any() for part in leaves(detector.waiting))
    assert whole.drift is not None
    assert (whole.drift.status >= DRIFT) == (shift > 0)


def test_few_answers_wait_while_rows_are_judged(champion: Reference) -> None:
    """Answers wait for 50 of their own; their reading is that of all in one batch."""
    rng = np.random.default_rng(23)
    frame = table(rng, 300, labelled=0.2)
    assert 50 <= frame["y"].notna().sum() < 100
    start = Detector.fresh(champion)
    detector = start
    waiting, judged = pd.DataFrame(), 0
    for piece in pieces(frame, 60):
        measurement = measured(piece, champion, detector)
        waiting = pd.concat([waiting, piece])
        n_labels = int(waiting["y"].notna().sum())
        assert measurement.drift is not None
        assert measurement.judged_rows == 60
        assert measurement.judged_labels == n_labels
        if n_labels < 50:
            assert measurement.quality_drift is None
            assert_same(measurement.detector.quality, detector.quality)
            assert measurement.detector.waiting.outcomes.n_labelled == n_labels
            assert measurement.detector.waiting.profile.n_rows == 0
        else:
            whole = measured(waiting, champion, start)
            assert_same(measurement.quality_drift, whole.quality_drift)
            assert_same(measurement.detector.quality, whole.detector.quality)
            assert measurement.detector.waiting.outcomes.n_labelled == 0
            judged += 1
            break
        detector = measurement.detector
    assert judged == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    """A shuffled batch has the same readings and leaves the same detector, to the bit."""
    rng = np.random.default_rng(seed)
    usual = table(rng, 200)
    matrix = usual[["a", "b", "score"]].to_numpy()
    reference = build_reference(matrix, SCHEMA.columns, usual["y"].to_numpy() > 0.5)
    frame = table(rng, 90, labelled=0.8, shift=0.5)
    frame.loc[:3, "b"] = np.nan
    one_way, other_way = (
        measured(rows, reference, Detector.fresh(reference))
        for rows in (frame, frame.iloc[rng.permutation(90)])
    )
    assert_same(one_way.drift, other_way.drift)
    assert_same(one_way.quality_drift, other_way.quality_drift)
    assert_same_detector(one_way.detector, other_way.detector)


FAULTY: dict[str, Any] = {
    "missing": lambda frame: frame.assign(b=frame["b"].where(frame.index % 3 == 0)),
    "unit": lambda frame: frame.assign(a=frame["a"] * 1000),
    "stuck": lambda frame: frame.assign(a=0.37),
    "beyond the range": lambda frame: frame.assign(b=frame["b"] + 60),
}


@pytest.mark.parametrize("fault", FAULTY)
@pytest.mark.parametrize("n_rows", [20, 100])
def test_a_faulty_batch_leaves_the_detector_as_it_was(
    champion: Reference, fault: str, n_rows: int
) -> None:
    """It joins neither pool nor window nor evidence, and does not wait; next time all goes on."""
    rng = np.random.default_rng(24)
    detector = measured(table(rng, 90), champion, Detector.fresh(champion)).detector
    batch = FAULTY[fault](table(rng, n_rows))
    measurement = measured(batch, champion, detector)
    if n_rows == 20 and fault in ("unit", "stuck"):  # too few to tell: these rows are good
        assert not measurement.at_fault
        return
    assert measurement.at_fault
    assert not measurement.causes
    assert_same_detector(measurement.detector, detector)
    healthy = table(rng, 80)
    assert_same(
        measured(healthy, champion, measurement.detector).drift,
        measured(healthy, champion, detector).drift,
    )


def test_a_faulty_batch_takes_no_waiting_rows_with_it(champion: Reference) -> None:
    """Good rows that waited before a batch was set aside still wait after it."""
    rng = np.random.default_rng(25)
    detector = measured(table(rng, 30), champion, Detector.fresh(champion)).detector
    assert detector.waiting.profile.n_rows == 30
    measurement = measured(FAULTY["beyond the range"](table(rng, 10)), champion, detector)
    assert measurement.at_fault
    assert_same_detector(measurement.detector, detector)
