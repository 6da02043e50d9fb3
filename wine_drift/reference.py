"""What a champion answers for, and a batch counted the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import (
    N_BINS,
    Floats,
    Profile,
    bin_edges,
    bin_numbers,
    category_edges,
    count,
    count_columns,
    rank_scores,
)
from wine_drift.counted import Counted
from wine_drift.faults import Traits, column_traits, count_traits
from wine_drift.outcomes import Outcomes, count_outcomes
from wine_drift.schema import SCORE

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Summary:
    """All that is counted of a set of rows; `a + b` is of both together.

    A batch in one piece, in chunks or in shards has the same summary, and everything that is judged
    is judged by it.
    """

    profile: Profile  # of the monitored columns: features and score
    traits: Traits  # of the features
    outcomes: Outcomes  # of the score and the answers

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.profile + other.profile,
            self.traits + other.traits,
            self.outcomes + other.outcomes,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: part.to_dict() for name, part in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Summary:
        """Inverse of `to_dict`."""
        return cls(
            Profile.from_dict(data["profile"]),
            Traits.from_dict(data["traits"]),
            Outcomes.from_dict(data["outcomes"]),
        )


@dataclass(frozen=True, repr=False, eq=False)
class Reference:
    """Bins, counts, and how the columns move together."""

    columns: tuple[str, ...]
    edges: tuple[Floats, ...]  # per column: inner edges, increasing, at most N_BINS - 1
    limits: Floats  # (n_features, 2), plausible range, both ends included; NaN where unknown
    quantiles: Floats  # (n_columns, 3), at QUANTILES; NaN without values
    correlation: Floats  # (2 n_columns, 2 n_columns), of the rank scores of the reference rows
    n_rows: int
    summary: Summary
    n_categories: tuple[int, ...]  # (n_features,), 0 of numbers

    def __repr__(self) -> str:
        labelled = int(self.summary.outcomes.n_labelled)
        rows = f"{self.n_rows} rows, {labelled} of them labelled"
        return f"Reference of {rows}: {', '.join(self.columns)}"

    def __eq__(self, other: object) -> bool:
        """Whether a batch is the same to both: so it is to one that was kept and read back."""
        return self.to_dict() == other.to_dict() if isinstance(other, Reference) else NotImplemented

    @property
    def profile(self) -> Profile:
        """Counts of the reference rows."""
        return self.summary.profile

    @property
    def features(self) -> tuple[str, ...]:
        """The columns but the score."""
        return tuple(name for name in self.columns if name != SCORE)

    @property
    def spread(self) -> Floats:
        """From the 10 to the 90 % quantile of each feature, (n_features,)."""
        quantiles = self.quantiles[: len(self.features)]
        out: Floats = quantiles[:, -1] - quantiles[:, 0]
        return out

    def nothing(self) -> Summary:
        """The summary of no rows."""
        profile = self.profile.scaled(0)
        return Summary(profile, Traits.none(len(self.features)), Outcomes.none())

    def summarise(
        self,
        features: Floats,
        scores: Floats,
        labelled: NDArray[np.bool_],
        positive: NDArray[np.bool_],
    ) -> Summary:
        """Count rows in the bins of the reference.

        Parameters
        ----------
        features : ndarray of shape (n_rows, n_features)
            Of every row that counts for drift.
        scores, labelled, positive : ndarray of shape (n_scored,)
            Of the rows that were scored.
        """
        columns = [*map(Counted.of, features.T), Counted.of(scores)]
        return self.summed(columns, count_outcomes(scores, labelled, positive))

    def summed(self, columns: Sequence[Counted], outcomes: Outcomes) -> Summary:
        """The same of features, and the score behind them, that are counted already."""
        monitored, n_features = columns[: len(self.columns)], len(self.features)
        return Summary(
            count_columns(monitored, self.edges),
            column_traits(columns[:n_features], self.limits, self.n_categories),
            outcomes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {
            "columns": list(self.columns),
            "edges": [edges.tolist() for edges in self.edges],
            "limits": _nullable(self.limits),
            "quantiles": _nullable(self.quantiles),
            "correlation": self.correlation.tolist(),
            "n_rows": self.n_rows,
            "n_categories": list(self.n_categories),
            "summary": self.summary.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reference:
        """Inverse of `to_dict`."""
        limits = np.array(data["limits"], dtype=float)
        return cls(
            columns=tuple(data["columns"]),
            edges=tuple(np.array(edges, dtype=float) for edges in data["edges"]),
            limits=limits,
            quantiles=np.array(data["quantiles"], dtype=float),
            correlation=np.array(data["correlation"], dtype=float),
            n_rows=int(data["n_rows"]),
            summary=Summary.from_dict(data["summary"]),
            n_categories=tuple(data.get("n_categories", [0] * len(limits))),
        )


def build_reference(
    matrix: Floats,
    columns: Sequence[str],
    positive: NDArray[np.bool_] | None = None,
    plausible: Floats | None = None,
    *,
    missing: Floats | None = None,
    score_counts: bool = True,
    n_categories: Sequence[int] | None = None,
) -> Reference:
    """Count the rows that the champion answers for.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns)
        Features, then the model's out-of-fold score if the last name is "score".
    columns : sequence of n_columns names
    positive : ndarray of shape (n_rows,), optional
        The answers; nothing is known of quality without them.
    plausible : ndarray of shape (n_features, 2), optional
        Smallest and largest value that a feature can have. Where that is infinite or not given, it
        is the range of these rows, widened by its own width on either side.
    missing : ndarray of shape (n_features,), in [0, 1), optional
        Usual share of missing values, where `matrix` holds complete rows only.
    score_counts : bool
        False: the score is not monitored as a column.
    n_categories : sequence of n_features int, optional
        How many categories are listed of each feature; 0, as by default, of one that holds numbers.
        Each category is a bin, and they have no quantiles.

    Raises
    ------
    ValueError
        Names and columns differ in number, or there is no row.
    """
    if matrix.ndim != 2 or matrix.shape[1] != len(columns) or not len(matrix):
        raise ValueError(f"a matrix of shape {matrix.shape} for {len(columns)} columns")
    values = np.where(np.isfinite(matrix), matrix, np.nan)
    is_score = np.array(columns) == SCORE
    if not score_counts:
        matrix = np.where(is_score, np.nan, matrix)
    n_features = sum(name != SCORE for name in columns)
    listed = tuple(n_categories or [0] * n_features)
    edges = tuple(
        category_edges(listed[j]) if j < n_features and listed[j] else bin_edges(column)
        for j, column in enumerate(matrix.T)
    )
    profile = count(matrix, edges)
    limits = np.full((n_features, 2), np.nan)
    quantiles = np.full((len(columns), len(QUANTILES)), np.nan)
    for j, column in enumerate(values.T):
        if np.isfinite(column).any() and not (j < n_features and listed[j]):
            quantiles[j] = np.nanquantile(column, QUANTILES)
            if j < n_features:
                low, high = np.nanmin(column), np.nanmax(column)
                if low < high:  # what never varied says nothing of what is plausible
                    limits[j] = 2 * low - high, 2 * high - low
    if plausible is not None:
        limits = np.where(np.isfinite(plausible), plausible, limits)
    if not score_counts:
        profile = replace(profile, missing=np.where(is_score, 0, profile.missing))
    if missing is not None:  # as many as go with these rows
        profile.missing[:n_features] += np.rint(len(matrix) * missing / (1 - missing))
    outcomes = Outcomes.none()
    if positive is not None:
        outcomes = count_outcomes(values[:, -1], np.ones(len(matrix), dtype=bool), positive)
    traits = count_traits(values[:, :n_features], limits, listed)
    return Reference(
        columns=tuple(columns),
        edges=edges,
        limits=limits,
        quantiles=quantiles,
        correlation=_correlation(matrix, edges, profile, listed),
        n_rows=len(matrix),
        summary=Summary(profile, traits, outcomes),
        n_categories=listed,
    )


def _correlation(
    matrix: Floats, edges: Sequence[Floats], profile: Profile, n_categories: Sequence[int]
) -> Floats:
    """Of the rank scores of the rows, (2 n_columns, 2 n_columns); categories have none."""
    scored = []
    for j, column_edges in enumerate(edges):
        numbers = bin_numbers(matrix[:, j], column_edges)
        is_listed = j < len(n_categories) and n_categories[j] > 0
        n_values = 0.0 if is_listed else profile.counts[j].sum()
        by_bin = rank_scores(profile.counts[j] / n_values) if n_values else np.zeros((2, N_BINS))
        scored.append(np.where(numbers >= 0, by_bin[:, numbers], 0.0))
    rows = np.concatenate(scored)  # each row has mean 0 and variance 1, or is all 0
    out: Floats = rows @ rows.T / len(matrix)
    return out


def _nullable(values: Floats) -> list[Any]:
    """Nested lists with null for what is not finite, which JSON has no word for."""
    return [[x if np.isfinite(x) else None for x in row] for row in values.tolist()]
