"""Builds the first champion and its challengers, and holds the gate between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wine_drift.gate import FAILED, WAITING, Candidate, Forgetting, GateReport, judge
from wine_drift.model import ALGORITHM, PARAMETERS, Model, Version, libraries, version_name
from wine_drift.profile import Floats
from wine_drift.quality import log_loss_per_row, measure_quality
from wine_drift.recipes import (
    Recipe,
    Training,
    chosen_recipes,
    newest_batches,
    scratch,
)
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

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Challenge:
    """A retraining that was tried, and what came of it."""

    report: GateReport
    challenger: Version | None  # None where the gate let none through


def first_version(
    rows: LabelledRows,
    schema: Schema,
    how: Training,
    *,
    number: int,
    facts: Mapping[str, Any],
    missing: Floats | None = None,
    progress: Progress = lambda line: None,
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
    progress : callable
        Told what is being trained.

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
    scores = np.full(len(rows), np.nan)
    for fold, (training, held_out) in enumerate(_group_folds(rows, FOLDS, how.seed), start=1):
        progress(f"training the first model: fold {fold} of {FOLDS}")
        model = scratch(None, nothing, rows.take(training), how)
        scores[held_out] = model.score(rows.features[held_out])
    progress("training the first model")
    model = scratch(None, nothing, rows, how)
    facts = {**facts, "recipe": "scratch", "gate": None}
    return _assemble(
        model, None, rows, rows, scores, schema, how, number=number, facts=facts, missing=missing
    )


def challenge(
    champion: Version,
    history: LabelledRows,
    schema: Schema,
    how: Training,
    *,
    recipe: str,
    alpha: float,
    min_rows: int,
    number: int,
    facts: Mapping[str, Any],
    changed_at: int = 0,
    confirm_after: int | None = None,
    force: bool = False,
    missing: Floats | None = None,
    progress: Progress = lambda line: None,
) -> Challenge:
    """Train a challenger by each recipe and compare them with the champion on held-out recent rows.

    Where repeats are accidents, recent rows that repeat an older one are left out. The others are
    split by groups of equal features; each fold is scored by models that saw everything but the
    fold, and no row like it that is new to the champion. The champion saw none of them.

    Parameters
    ----------
    champion : Version
    history : LabelledRows
        Labelled since the last promotion.
    recipe : str
        One of `recipes.RECIPES`, or "auto" for all of them.
    alpha : float
        Level of the paired test; 0.5 asks for a mean gain above 0 and no more.
    min_rows : int
        The gate looks at the last three batches, and at more of them until it has so many rows.
    changed_at : int
        Number of the batch from which on rows are of today's kind. The reference of the challenger
        is made of these, if there are `min_rows` of them, or else of all that the gate looked at.
    confirm_after : int, optional
        Number of a batch whose labels may be wrong: each later one must show a gain too.
    force : bool
        Promote the best candidate whatever the test says.
    missing : ndarray of shape (n_features,), optional
        Usual share of missing values, as in `first_version`.
    progress : callable
        Told what is being trained.
    """
    n_features = champion.rows.features.shape[1]
    history = history.newest(how.window_rows)
    recent = newest_batches(history, GATE_BATCHES, min_rows)
    is_recent = np.isin(history.sequence, np.unique(recent.sequence))
    old = champion.rows.newest(how.window_rows - len(history))
    new = history.take(~is_recent)
    if schema.reject_duplicates:
        seen = concatenate([champion.rows, new], n_features)
        recent = recent.take(~recent.seen_in(seen)).distinct()
        new = new.take(~new.seen_in(champion.rows)).distinct()
    positives = int(recent.positive.sum())
    if min(positives, len(recent) - positives) < GATE_FOLDS:
        return Challenge(GateReport(WAITING, len(recent), positives, alpha), None)

    recipes = chosen_recipes(recipe)
    scores: dict[str, Floats] = {}
    failed: dict[str, Candidate] = {}
    models: dict[str, Model] = {}
    folds = list(_group_folds(recent, GATE_FOLDS, how.seed))
    everything = concatenate([new, recent], n_features)
    for name, make in recipes.items():
        try:
            scores[name] = np.full(len(recent), np.nan)
            for fold, (training, held_out) in enumerate(folds, start=1):
                progress(f"training a challenger by {name}: fold {fold} of {len(folds)}")
                hidden = recent.take(held_out)
                rest = new.take(~new.like(hidden))  # what the champion has not seen either
                seen = concatenate([rest, recent.take(training)], n_features)
                model = make(champion.scratch_base, old, seen, how)
                scores[name][held_out] = model.score(hidden.features)
            progress(f"training a challenger by {name}")
            models[name] = make(champion.scratch_base, old, everything, how)
        except Exception as error:  # whatever training trips over, the others may do better
            failed[name] = Candidate(name, FAILED, error=f"{type(error).__name__}: {error}")
            del scores[name]
    if not scores:
        report = GateReport(FAILED, len(recent), positives, alpha, None, (*failed.values(),))
        return Challenge(report, None)
    report = judge(
        log_loss_per_row(recent.positive, champion.model.score(recent.features)),
        {name: log_loss_per_row(recent.positive, each) for name, each in scores.items()},
        positives=positives,
        alpha=alpha,
        confirming=None
        if confirm_after is None
        else np.where(recent.sequence > confirm_after, recent.sequence, 0),
        force=force,
    )
    candidates = (replace(c, trees=models[c.recipe].n_trees) for c in report.candidates)
    report = replace(report, candidates=(*candidates, *failed.values()))
    if report.winner is None:
        return Challenge(report, None)
    name = report.winner.recipe
    progress("looking for what was forgotten")
    with contextlib.suppress(Exception):  # it decides nothing: a winner must not fall over it
        forgotten = _forgetting(champion, everything, recipes[name], how)
        report = replace(report, forgetting=forgotten)
    today = recent.sequence >= changed_at
    n_today = int(recent.positive[today].sum())
    if today.sum() < min_rows or min(n_today, today.sum() - n_today) < MIN_OF_EACH:
        today = np.ones(len(recent), dtype=bool)
    challenger = _assemble(
        models[name],
        None if name == "scratch" else champion.scratch_base,
        concatenate([old, everything], n_features),
        recent.take(today),
        scores[name][today],
        schema,
        how,
        number=number,
        facts={**facts, "recipe": name, "gate": asdict(report)},
        missing=missing,
    )
    return Challenge(report, challenger)


def _forgetting(
    champion: Version, new: LabelledRows, make: Recipe, how: Training
) -> Forgetting | None:
    """Compare the winner with the champion on the rows that the champion's reference is made of.

    Both score them out of fold: the champion did so when it was made, and the winner is made anew
    without each fold; so is its base, where it has one.
    """
    columns = champion.reference_rows
    old = replace(columns, features=columns.features[:, :-1])
    if min(old.positive.sum(), (~old.positive).sum()) < GATE_FOLDS:
        return None
    nothing = new.take(slice(0, 0))
    scores = np.full(len(old), np.nan)
    for _, held_out in _group_folds(old, GATE_FOLDS, how.seed):
        hidden = old.take(held_out)
        rest, fresh = (rows.take(~rows.like(hidden)) for rows in (champion.rows, new))
        base = None if make is scratch else scratch(None, rest, nothing, how)
        scores[held_out] = make(base, rest, fresh, how).score(hidden.features)
    before = log_loss_per_row(old.positive, columns.features[:, -1])
    after = log_loss_per_row(old.positive, scores)
    return Forgetting(len(old), float(before.mean()), float(after.mean()))


def _assemble(
    model: Model,
    base: Model | None,
    rows: LabelledRows,
    reference_rows: LabelledRows,
    reference_scores: Floats,
    schema: Schema,
    how: Training,
    *,
    number: int,
    facts: Mapping[str, Any],
    missing: Floats | None,
) -> Version:
    """A version; what is normal from now on is `reference_rows` with honest scores."""
    cut = float(np.clip(rows.positive.mean(), 0.01, 0.99))
    rarer = int(min(rows.positive.sum(), (~rows.positive).sum()))
    columns = np.column_stack([reference_rows.features, reference_scores])
    quality = measure_quality(reference_rows.positive, reference_scores, cut=cut)
    name = version_name(number, model.text)
    return Version(
        version=name,
        model=model,
        base=base,
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
            "data_sha256": {"training": rows.digest(), "reference": reference_rows.digest()},
            "out_of_fold": {name: e.value for name, e in quality.measures().items()},
            "parameters": {**PARAMETERS, "rounds": how.rounds, "seed": how.seed},
            "half_life": how.half_life,
            "trees": model.n_trees,
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


def _group_folds(
    rows: LabelledRows, folds: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Stratified folds that never part rows with equal features."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = rows.groups()
    rarer = int(min(rows.positive.sum(), (~rows.positive).sum(), groups.max() + 1))
    splitter = StratifiedGroupKFold(max(2, min(folds, rarer)), shuffle=True, random_state=seed)
    yield from splitter.split(rows.features, rows.positive, groups)
