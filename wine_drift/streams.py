"""Simulated streams of batches from known rows: what the detector does on them is its own test.

Many streams run at once, each with a reference of its own, drawn with replacement as its batches
are: so they are healthy by construction, and a reference's sampling error is part of the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import N_BINS, Floats, Profile, bin_numbers
from wine_drift.detector import (
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
from wine_drift.outcomes import N_SCORE_BINS, NEGATIVE, POSITIVE, Outcomes, score_bins
from wine_drift.reference import Reference, build_reference


@dataclass(frozen=True)
class Binned:
    """A population in the bins of every stream's reference."""

    bins: NDArray[np.int16]  # (n_streams, n_rows, n_columns); 20 for a missing value
    cells: NDArray[np.int64]  # (n_rows,); answer and score in one number


class Streams:
    """Streams of batches of one population.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_columns)
        The population: features, then the score.
    positive : ndarray of shape (n_rows,)
    columns : sequence of n_columns names
    n_reference, n_streams : int
        Rows of each reference, and how many streams.
    n_categories : sequence of n_features int, optional
        As of the reference.
    """

    def __init__(
        self,
        rows: Floats,
        positive: NDArray[np.bool_],
        columns: Sequence[str],
        *,
        n_reference: int,
        n_streams: int,
        rng: np.random.Generator,
        n_categories: Sequence[int] | None = None,
    ) -> None:
        self._positive, self._rng, self._n_reference = positive, rng, n_reference
        self.n_streams = n_streams
        drawn = [rng.integers(len(rows), size=n_reference) for _ in range(n_streams)]
        self.references: list[Reference] = [
            build_reference(rows[chosen], columns, positive[chosen], n_categories=n_categories)
            for chosen in drawn
        ]
        profile = Profile(
            np.stack([reference.profile.counts for reference in self.references]),
            np.stack([reference.profile.missing for reference in self.references]),
        )
        outcomes = Outcomes(
            np.stack([reference.summary.outcomes.counts for reference in self.references])
        )
        nothing = no_drift_evidence(self.references[0])
        self._correlation = np.stack([reference.correlation for reference in self.references])
        self._no_drift = DriftState(profile, profile.scaled(0), nothing)
        self._no_drop = QualityState(outcomes, outcomes.scaled(0), no_quality_evidence())

    def binned(self, rows: Floats) -> Binned:
        """Bins of the population's rows, as they are or changed."""
        bins = np.empty((self.n_streams, *rows.shape), dtype=np.int16)
        for stream, reference in enumerate(self.references):
            for j, edges in enumerate(reference.edges):
                bins[stream, :, j] = bin_numbers(rows[:, j], edges)
        bins[bins < 0] = N_BINS
        answers = np.where(self._positive, POSITIVE, NEGATIVE)
        return Binned(bins, answers * N_SCORE_BINS + score_bins(rows[:, -1]))

    def judge_drift(
        self, binned: Binned, n_rows: int, steps: Iterable[object], limits: Limits
    ) -> Iterator[DriftReading]:
        """Judge one batch of every stream for each step, drawn with replacement.

        Readings have a leading axis of streams.
        """
        state = self._no_drift
        for _ in steps:
            batch = self._profile_of(binned, self._draw(binned, n_rows))
            reading, state = self._judge(state, batch, limits)
            yield reading

    def judge(
        self, binned: Binned, n_rows: int, steps: Iterable[object], limits: Limits
    ) -> Iterator[tuple[DriftReading, QualityReading]]:
        """The same for drift and quality."""
        drift, quality = self._no_drift, self._no_drop
        for _ in steps:
            chosen = self._draw(binned, n_rows)
            reading, drift = self._judge(drift, self._profile_of(binned, chosen), limits)
            counts = _tally(binned.cells[chosen], 3 * N_SCORE_BINS)
            answers = Outcomes(counts.reshape(self.n_streams, 3, N_SCORE_BINS))
            found, quality = judge_quality(self._no_drop.pool, quality, answers, limits)
            yield reading, found

    def _draw(self, binned: Binned, n_rows: int) -> NDArray[np.int64]:
        return self._rng.integers(len(binned.cells), size=(self.n_streams, n_rows))

    def _profile_of(self, binned: Binned, chosen: NDArray[np.int64]) -> Profile:
        stream = np.arange(self.n_streams)[:, np.newaxis]
        counts = _tally(binned.bins[stream, chosen].transpose(0, 2, 1), N_BINS + 1)
        return Profile(counts[..., :N_BINS], counts[..., N_BINS])

    def _judge(
        self, state: DriftState, batch: Profile, limits: Limits
    ) -> tuple[DriftReading, DriftState]:
        return judge_drift(
            self._no_drift.pool,
            self._correlation,
            self._n_reference,
            state,
            batch,
            limits,
            self.references[0].n_categories,
        )


def _tally(numbers: NDArray[np.integer], size: int) -> Floats:
    """How often each number below `size` occurs along the last axis, (..., size)."""
    groups = numbers.reshape(-1, numbers.shape[-1])
    offset = np.arange(len(groups))[:, np.newaxis] * size
    counts = np.bincount((groups + offset).ravel(), minlength=len(groups) * size)
    return counts.reshape(*numbers.shape[:-1], size).astype(float)
