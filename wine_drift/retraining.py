"""Builds the first champion and its challengers, and runs the gate between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.model import ALGORITHM, PARAMETERS, Version, libraries, train, version_name
from wine_drift.policy import Gate, gate
from wine_drift.profile import Floats
from wine_drift.quality import log_loss_per_row, measure_quality
from wine_drift.reference import build_reference
from wine_drift.rows import LabelledRows, concatenate
from wine_drift.schema import Schema

FOLDS = 5
GATE_FOLDS = 4
GATE_BATCHES = 3  # the gate looks at so many recent batches
# Below so many rows of the rarer answer, the models of the folds score visibly unlike the one that
# serves, which would be an alarm about nothing.
MIN_FOR_SCORE = 50
MIN_OF_EACH = 10  # positives, and negatives, that a first model needs


@dataclass(frozen=True)
class Recipe:
    """How models are trained."""

    rounds: int
    half_life: float  # batches after which a row weighs half
    seed: int
    threads: int
    window_rows: int


@dataclass(frozen=True)
class Challenge:
    """A challenger that was tried, and what came of it."""

    gate: Gate
    challenger: Version | None  # None where the gate refused it


def first_version(
    rows: LabelledRows,
    schema: Schema,
    recipe: Recipe,
    *,
    number: int,
    facts: Mapping[str, Any],
    missing: Floats | None = None,
) -> Version:
    """Train the first champion on all rows; its reference holds out-of-fold scores.

    In-sample scores would make every healthy batch look like a drop in quality.

    Parameters
    ----------
    rows : LabelledRows
    number : int
        Of the version, from 1.
    facts : mapping
        What else the manifest tells: time, reason, parent, dataset.
    missing : ndarray of shape (n_features,), optional
        Usual share of missing values; the rows are complete.

    Raises
    ------
    ValueError
        Fewer than 10 positive or 10 negative rows.
    """
    n_positive = int(rows.positive.sum())
    if min(n_positive, len(rows) - n_positive) < MIN_OF_EACH:
        raise ValueError(
            f"{len(rows)} usable labelled rows, {n_positive} of them positive: "
            f"training needs {MIN_OF_EACH} of either kind"
        )
    nothing = rows.take(slice(0, 0))
    scores = _out_of_fold(nothing, rows, recipe, folds=FOLDS)
    return _assemble(
        rows, rows, scores, schema, recipe, number=number, facts=facts, missing=missing
    )


def challenge(
    champion: Version,
    history: LabelledRows,
    schema: Schema,
    recipe: Recipe,
    *,
    min_rows: int,
    alpha: float,
    number: int,
    facts: Mapping[str, Any],
    missing: Floats | None = None,
) -> Challenge:
    """Train a challenger on reference plus history and compare it on held-out recent rows.

    Recent rows that repeat an older one are left out. The others are split by groups of equal
    features; each fold is scored by a challenger that saw everything but that fold. The champion
    saw none of them.

    Parameters
    ----------
    champion : Version
    history : LabelledRows
        Rows since the last promotion.
    min_rows : int
        The gate looks at the last three batches, and at more of them until it has so many rows.
    alpha : float
        Level of the paired test.
    missing : ndarray of shape (n_features,), optional
        Usual share of missing values, as in `first_version`.
    """
    n_features = champion.rows.features.shape[1]
    is_recent = _recent(history.sequence, min_rows)
    base = concatenate([champion.rows, history.take(~is_recent)], n_features)
    recent = history.take(is_recent)
    recent = recent.take(~recent.seen_in(base))  # a row sent again tells the challenger its answer
    if schema.reject_duplicates:
        base, recent = base.distinct(), recent.distinct()
    if min(recent.positive.sum(), (~recent.positive).sum()) < GATE_FOLDS:
        return Challenge(Gate(False, None, None, len(recent)), None)
    challenger_scores = _out_of_fold(base, recent, recipe, folds=GATE_FOLDS)
    result = gate(
        log_loss_per_row(recent.positive, champion.model.score(recent.features)),
        log_loss_per_row(recent.positive, challenger_scores),
        alpha=alpha,
    )
    if not result.promote:
        return Challenge(result, None)
    rows = concatenate([base, recent], n_features).newest(recipe.window_rows)
    facts = {**facts, "gate": {"p_value": result.p_value, "mean_gain": result.mean_gain}}
    challenger = _assemble(
        rows,
        recent,
        challenger_scores,
        schema,
        recipe,
        number=number,
        facts=facts,
        missing=missing,
    )
    return Challenge(result, challenger)


def _assemble(
    rows: LabelledRows,
    reference_rows: LabelledRows,
    reference_scores: Floats,
    schema: Schema,
    recipe: Recipe,
    *,
    number: int,
    facts: Mapping[str, Any],
    missing: Floats | None,
) -> Version:
    """Train on `rows`; what is normal from now on is `reference_rows` with honest scores."""
    model = train(
        rows,
        _weights(rows.sequence, recipe.half_life),
        rounds=recipe.rounds,
        seed=recipe.seed,
        threads=recipe.threads,
    )
    cut = float(np.clip(rows.positive.mean(), 0.01, 0.99))
    rarer = int(min(rows.positive.sum(), (~rows.positive).sum()))
    columns = np.column_stack([reference_rows.features, reference_scores])
    quality = measure_quality(reference_rows.positive, reference_scores, cut=cut)
    name = version_name(number, model.text)
    return Version(
        version=name,
        model=model,
        reference=build_reference(
            columns,
            schema.columns,
            reference_rows.positive,
            schema.plausible,
            missing=missing,
            score_counts=rarer >= MIN_FOR_SCORE,
        ),
        reference_rows=replace(reference_rows, features=columns),
        cut=cut,
        rows=rows,
        manifest={
            "version": name,
            "number": number,
            **facts,
            "algorithm": ALGORITHM,
            "features": list(schema.feature_names),
            "positive": f"{schema.target} {schema.positive}",
            "training_rows": len(rows),
            "training_positives": int(rows.positive.sum()),
            "reference_rows": len(reference_rows),
            "out_of_fold": {name: e.value for name, e in quality.measures().items()},
            "parameters": {**PARAMETERS, "rounds": recipe.rounds, "seed": recipe.seed},
            "half_life": recipe.half_life,
            "units": {feature.name: feature.unit for feature in schema.features},
            "reliance": dict(
                zip(
                    schema.feature_names,
                    model.reliance(reference_rows.features).tolist(),
                    strict=True,
                )
            ),
            "libraries": libraries(),
        },
    )


def _out_of_fold(base: LabelledRows, rows: LabelledRows, recipe: Recipe, *, folds: int) -> Floats:
    """Score every row by a model trained on the base and on the other folds."""
    scores = np.full(len(rows), np.nan)
    for training, held_out in _group_folds(rows, folds, recipe.seed):
        seen = concatenate([base, rows.take(training)], rows.features.shape[1])
        weight = _weights(seen.sequence, recipe.half_life)
        model = train(seen, weight, rounds=recipe.rounds, seed=recipe.seed, threads=recipe.threads)
        scores[held_out] = model.score(rows.features[held_out])
    return scores


def _group_folds(
    rows: LabelledRows, folds: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Stratified folds that never part rows with equal features."""
    from sklearn.model_selection import StratifiedGroupKFold

    rarer = int(min(rows.positive.sum(), (~rows.positive).sum()))
    splitter = StratifiedGroupKFold(max(2, min(folds, rarer)), shuffle=True, random_state=seed)
    yield from splitter.split(rows.features, rows.positive, rows.groups())


def _weights(sequence: NDArray[np.int64], half_life: float) -> Floats:
    """Weight 1 for the newest batch, half of it every `half_life` batches back."""
    if not len(sequence):
        return np.empty(0)
    weights: Floats = 0.5 ** ((sequence.max() - sequence) / half_life)
    return np.maximum(weights, 1e-6)


def _recent(sequence: NDArray[np.int64], min_rows: int) -> NDArray[np.bool_]:
    """Rows of the last batches: three, and more while they hold fewer than `min_rows`."""
    numbers, sizes = np.unique(sequence, return_counts=True)
    enough = int(np.searchsorted(np.cumsum(sizes[::-1]), min_rows)) + 1
    first = numbers[::-1][: max(GATE_BATCHES, enough)][-1]
    return np.asarray(sequence >= first)
