"""Simulated tables, drawn from measured figures, and faults to lay on any table.

Rows come from a Gaussian copula: normal scores with the measured rank correlations, each turned
into its feature through the feature's quantiles. The target comes from the same scores: a weighted
sum plus logistic noise, cut at fixed points, which is a logistic regression at the cut between
negative and positive. Nothing here reads a file or a clock; randomness is the caller's generator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.schema import Schema
from wine_drift.special import expit, logit, ndtr, ndtri

N_QUANTILES = 201  # one every half per cent
RIDGE = 10.0  # on red wine 5-fold log loss is flat around it; squares and products only add noise

SCENARIOS: dict[str, str] = {
    "none": "nothing changes",
    "ramp": "every feature moves a tenth of its spread further at each batch, up to one spread",
    "switch": "every feature moves by one spread at once, up and down in turn",
    "sensor_scaled": "one sensor reads 10 % too high",
    "stuck": "one sensor always reads its usual median",
    "unit_change": "one sensor reports in a unit a thousand times smaller",
    "missing": "one sensor loses 30 % of its readings",
    "label_flip": "the answer is inverted wherever one feature is above its usual median",
    "more_good": "half of the negative rows disappear, so positives become more frequent",
}


NUMERIC = ("sensor_scaled", "stuck", "unit_change")  # of one feature, which holds numbers


@dataclass(frozen=True, eq=False)
class Figures:
    """What was measured on a table: enough to draw rows like its own, none of its rows."""

    provenance: dict[str, str]  # which table, whose, under which licence
    features: tuple[str, ...]
    decimals: tuple[int, ...]  # (n_features,)
    values: tuple[float, ...]  # what the target can be, from least to most positive
    cuts: NDArray[np.float64]  # (n_values - 1,) latent score at which one value becomes the next
    weights: NDArray[np.float64]  # (n_features,) of the normal scores in the latent score
    correlation: NDArray[np.float64]  # (n_features, n_features) of the normal scores
    quantiles: NDArray[np.float64]  # (n_features, n_quantiles) at equal steps from 0 to 1

    def to_dict(self) -> dict[str, Any]:
        """Return the figures in plain JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(vars(self), default=np.ndarray.tolist))
        return plain

    def to_json(self) -> str:
        """Return the text of a figures file, one feature a line so that changes can be read."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        return re.sub(r"\[[^\[\]]*\]", lambda match: " ".join(match[0].split()), text) + "\n"

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Figures:
        """Build the figures from what `to_dict` returned; KeyError if a part is missing."""
        return cls(
            provenance=dict(table["provenance"]),
            features=tuple(table["features"]),
            decimals=tuple(table["decimals"]),
            values=tuple(table["values"]),
            cuts=np.array(table["cuts"], dtype=np.float64),
            weights=np.array(table["weights"], dtype=np.float64),
            correlation=np.array(table["correlation"], dtype=np.float64),
            quantiles=np.array(table["quantiles"], dtype=np.float64),
        )


def measure_figures(
    features: NDArray[np.float64],
    target: NDArray[np.float64],
    schema: Schema,
    *,
    provenance: dict[str, str],
) -> Figures:
    """Measure on a table what `draw_table` needs.

    Parameters
    ----------
    features : array of shape (n_rows, n_features)
        In the schema's order and units; finite.
    target : array of shape (n_rows,)
        With few distinct values (each is kept), some positive and some negative; finite.
    schema : Schema
        Names the features and says which target values are positive.
    provenance : dict of str
        Kept as it is.

    Raises
    ------
    ValueError
        If the shapes disagree, a cell is not finite, or all rows are of one class.

    Notes
    -----
    The correlation of normal scores is 2 sin(π/6 ρ) of Spearman's ρ (Pearson, 1907; Kruskal, 1958,
    "Ordinal measures of association", JASA 53). Figures are rounded, to be read and compared.

    Examples
    --------
    >>> from wine_drift.schema import parse_schema
    >>> x = {"name": "t", "feature": [{"name": "x"}], "target": {"column": "y", "positive": "> 6"}}
    >>> figures = measure_figures(np.array([[0.5], [1.5], [2.5]]), np.array([5.0, 6.0, 7.0]),
    ...                           parse_schema(x), provenance={})
    >>> figures.decimals, figures.values, figures.quantiles[0, [0, 100, 200]].tolist()
    ((1,), (5.0, 6.0, 7.0), [0.5, 1.5, 2.5])
    """
    n_rows, n_features = len(target), len(schema.features)
    if features.shape != (n_rows, n_features):
        raise ValueError(f"features: shape {features.shape} is not ({n_rows}, {n_features})")
    if not (np.isfinite(features).all() and np.isfinite(target).all()):
        raise ValueError("features and target must be finite to be measured")
    positive = schema.is_positive(target)
    if positive.all() or not positive.any():
        raise ValueError(f"target: some rows must be {schema.positive} and some not")

    decimals, levels, ranks = [], [], np.empty_like(features)
    for index, column in enumerate(features.T):
        exact = (d for d in range(12) if np.isclose(column, column.round(d), 1e-9, 0).mean() > 0.95)
        decimals.append(next(exact, 12))
        steps = np.quantile(column, np.linspace(0, 1, N_QUANTILES))
        levels.append(steps.round(decimals[-1]))
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        ranks[:, index] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share theirs

    with np.errstate(invalid="ignore", divide="ignore"):  # a constant feature correlates with none
        spearman = np.nan_to_num(np.atleast_2d(np.corrcoef(ranks, rowvar=False)))
    correlation = 2 * np.sin(np.pi / 6 * spearman)
    np.fill_diagonal(correlation, 1.0)

    # Logistic regression by Newton's method; the intercept (first) is not penalised.
    design = np.column_stack([np.ones(n_rows), ndtri((ranks - 0.5) / n_rows)])
    penalty = RIDGE * np.eye(n_features + 1)
    penalty[0, 0] = 0.0
    weights = np.zeros(n_features + 1)
    weights[0] = logit(positive.mean())
    for _ in range(30):
        p = expit(design @ weights)
        gradient = design.T @ (p - positive) + penalty @ weights
        weights -= np.linalg.solve((design.T * (p * (1 - p))) @ design + penalty, gradient)
    weights = weights[1:]

    values, counts = np.unique(target, return_counts=True)
    upward = 1 if target[positive].mean() >= target[~positive].mean() else -1
    order = np.lexsort((upward * values, schema.is_positive(values)))
    beyond = 1 - np.cumsum(counts[order])[:-1] / n_rows  # share of rows above each cut
    # The weighted sum of normal scores is normal: halve until each cut leaves its share above it.
    grid = np.sqrt(weights @ correlation @ weights) * ndtri((np.arange(2000) + 0.5) / 2000)
    low, high = np.full(len(beyond), -100.0), np.full(len(beyond), 100.0)
    for _ in range(60):
        middle = (low + high) / 2
        too_low = expit(grid[:, None] - middle).mean(axis=0) > beyond
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)

    return Figures(
        provenance=dict(provenance),
        features=schema.feature_names,
        decimals=tuple(decimals),
        values=tuple(values[order].tolist()),
        cuts=low.round(4),
        weights=weights.round(4),
        correlation=correlation.round(4),
        quantiles=np.array(levels),
    )


def draw_table(
    figures: Figures, n_rows: int, *, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw independent rows that look like the measured table.

    Parameters
    ----------
    figures : Figures
        Measured by `measure_figures`.
    n_rows : int
        0 or more.
    rng : numpy.random.Generator
        Decides everything else: the same state gives the same rows.

    Returns
    -------
    features : array of shape (n_rows, n_features)
        Inside the measured range, rounded to the measured decimals, in the measured units.
    target : array of shape (n_rows,)
        Values that were seen in the measured table.

    Notes
    -----
    Gaussian copula (Nelsen, 2006, "An introduction to copulas", 2nd ed., section 2.3).

    Examples
    --------
    A feature that was always 5, and a cut so low that every row is beyond it:

    >>> figures = Figures({}, ("x",), (0,), (0.0, 1.0), np.array([-99.0]), np.array([0.0]),
    ...                   np.eye(1), np.array([[5.0, 5.0]]))
    >>> draw_table(figures, 2, rng=np.random.default_rng(0))
    (array([[5.],
           [5.]]), array([1., 1.]))
    """
    # The symmetric root is the same on every machine; a matrix measured on nearly collinear
    # features may be slightly indefinite, hence the clipping and the rescaling.
    eigenvalues, vectors = np.linalg.eigh(figures.correlation)
    root = (vectors * np.sqrt(eigenvalues.clip(0))) @ vectors.T
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    scores = rng.standard_normal((n_rows, len(figures.features))) @ root.T
    latent = scores @ figures.weights + rng.logistic(size=n_rows)
    steps = np.linspace(0, 1, figures.quantiles.shape[1])
    features = np.empty_like(scores)
    for index, decimals in enumerate(figures.decimals):
        values = np.interp(ndtr(scores[:, index]), steps, figures.quantiles[index])
        features[:, index] = values.round(decimals)
    return features, np.array(figures.values)[np.searchsorted(figures.cuts, latent)]


def lay_scenario(
    name: str,
    features: NDArray[np.float64],
    target: NDArray[np.float64] | None,
    *,
    step: int,
    schema: Schema,
    feature: str,
    centre: NDArray[np.float64],
    spread: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return copies of one batch, simulated or real, with a scenario laid on it.

    Parameters
    ----------
    name : str
        One of `SCENARIOS`.
    features : array of shape (n_rows, n_features)
        NaN where missing. "ramp" and "switch" keep the answers and categories, and stay in the
        plausible range.
    target : array of shape (n_rows,) or None
        NaN where not known; such rows have no answer to flip and are not negative.
    step : int
        0 for the first affected batch, 1 for the next; only "ramp" depends on it.
    schema : Schema
        Of this table.
    feature : str
        The sensor concerned.
    centre, spread : arrays of shape (n_features,)
        Median and standard deviation of each feature while all was well.
    rng : numpy.random.Generator
        Chooses cells, labels and rows.

    Returns
    -------
    features, target : arrays, or None for an absent target
        As many rows as given, in their order; only "more_good" leaves some out.

    Raises
    ------
    ValueError
        If there is no such scenario or feature, the feature holds categories and the scenario is
        about numbers, or no target value is of the opposite class.

    Examples
    --------
    >>> from wine_drift.schema import parse_schema
    >>> x = parse_schema({"name": "t", "feature": [{"name": "x"}],
    ...                   "target": {"column": "y", "positive": "== 1"}})
    >>> about = dict(step=0, schema=x, feature="x", centre=np.array([15.0]),
    ...              spread=np.array([2.0]), rng=np.random.default_rng(0))
    >>> rows, answers = np.array([[10.0], [20.0]]), np.array([0.0, 0.0])
    >>> [lay_scenario(name, rows, answers, **about)[0].ravel().tolist()
    ...  for name in ("sensor_scaled", "stuck", "switch")]
    [[11.0, 22.0], [15.0, 15.0], [12.0, 22.0]]
    >>> lay_scenario("label_flip", rows, answers, **about)[1].tolist()
    [0.0, 1.0]
    """
    if name not in SCENARIOS:
        raise ValueError(f"scenario: {name!r} is not one of {', '.join(SCENARIOS)}")
    if feature not in schema.feature_names:
        raise ValueError(f"feature: {feature!r} is not one of {', '.join(schema.feature_names)}")
    if name in NUMERIC and schema.n_categories[schema.feature_names.index(feature)]:
        raise ValueError(f"feature: {feature!r} holds categories, and {name} is about numbers")
    features, target = features.copy(), None if target is None else target.copy()
    index = schema.feature_names.index(feature)
    column = features[:, index]  # a view: writing to it writes to the copy

    if name in ("ramp", "switch"):
        step_size = 1.0 if name == "switch" else min(1.0, (step + 1) / 10)
        size = np.where(schema.n_categories, 0.0, step_size)  # categories stay what they are
        up_and_down = np.where(np.arange(features.shape[1]) % 2 == 0, size, -size)
        lowest = [known.minimum for known in schema.features]
        highest = [known.maximum for known in schema.features]
        features = (features + up_and_down * spread).clip(lowest, highest)
    elif name == "sensor_scaled":
        column *= 1.1
    elif name == "stuck":
        column[:] = centre[index]
    elif name == "unit_change":
        column *= 1000
    elif name == "missing":
        column[rng.permutation(len(column))[: round(0.3 * len(column))]] = np.nan
    elif name == "label_flip" and target is not None:
        positive, known, before = schema.is_positive(target), ~np.isnan(target), target.copy()
        for wanted in (False, True):
            rows = known & (column > centre[index]) & (positive != wanted)
            if rows.any():
                seen = before[known & (positive == wanted)]
                pool = seen if len(seen) else [_plain_answer(schema, wanted)]
                target[rows] = rng.choice(pool, rows.sum())
    elif name == "more_good" and target is not None:
        negative = np.flatnonzero(~schema.is_positive(target) & ~np.isnan(target))
        gone = rng.permutation(negative)[: len(negative) // 2]
        features, target = np.delete(features, gone, axis=0), np.delete(target, gone)
    return features, target


def _plain_answer(schema: Schema, positive: bool) -> float:
    """Return a target value of the class when the batch shows none: a whole number if it can be."""
    if schema.answers:
        bound, whole = 0.0, [float(number) for number in range(len(schema.answers))]
    else:
        bound = float(schema.positive.lstrip(" <>="))
        whole = [np.floor(bound) + distance for distance in (0.0, -1.0, 1.0, 2.0)]
    whole.sort(key=lambda value: (value < 0, abs(value - bound)))
    for value in (*whole, bound, schema.target_minimum, schema.target_maximum):
        in_range = schema.target_minimum <= value <= schema.target_maximum and np.isfinite(value)
        if in_range and schema.is_positive(np.array([value]))[0] == positive:
            return float(value)
    raise ValueError(f"target: no value to answer {schema.positive} the other way round")
