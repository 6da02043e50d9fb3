"""Builds the first champion and its challengers, and holds the gate between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import N_BINS, Floats, bin_edges, bin_numbers
from wine_drift.drift import unlikeness
from wine_drift.gate import FAILED, WAITING, Candidate, Forgetting, GateReport, judge
from wine_drift.measures import log_loss_per_row, measure_quality
from wine_drift.model import ALGORITHM, PARAMETERS, Model, Version, libraries, version_name
from wine_drift.recipes import (
    RECIPES,
    Training,
    chosen_recipes,
    newest_batches,
    scratch,
)
from wine_drift.reference import build_reference
from wine_drift.rows import LabelledRows, Shard, concatenate, evenly, listed, row_hashes
from wine_drift.schema import Schema

FOLDS = 5
GATE_FOLDS = 4
GATE_BATCHES = 3  # the gate looks at so many recent batches
GATE_ROWS = 1 << 16  # of more recent rows about so many are held out, once: that tells enough
ENOUGH = 50  # kinds of rows, and rows of the rarer answer, that tell something
# Where the models of the folds score unlike each other, the one that serves scores unlike them, and
# every healthy batch would show it. So the score is not monitored below so many rows of the rarer
# answer, nor where the folds differ at this level by so much (an alarm takes a severity of 0.1).
MIN_FOR_SCORE = 50
UNLIKE_LEVEL = 0.01
UNLIKE_SEVERITY = 0.04
MIN_OF_EACH = 10  # positives, and negatives, that a first model needs

Progress = Callable[[str], None]
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]  # numbers of rows to train on, and held out


@dataclass(frozen=True)
class Learnt:
    """What a model was trained on."""

    n_rows: int
    n_positive: int
    rows: LabelledRows  # all of them, or a sample if they are in `shards`
    shards: tuple[Shard, ...] = ()

    @classmethod
    def all_of(cls, rows: LabelledRows) -> Learnt:
        """Rows in hand."""
        return cls(len(rows), int(rows.positive.sum()), rows)


class Lessons(Protocol):
    """What challengers learn from, and what they are compared with the champion on."""

    @property
    def recent(self) -> LabelledRows:
        """Rows that the gate looks at, of which the champion has seen none."""

    def folds(self) -> Sequence[Fold]:
        """Rows of `recent` that are held out together; each is, once."""

    def train(self, recipe: str, fold: Fold) -> Model:
        """Train without the rows that are held out, and any like them that is new."""

    def train_to_serve(self, recipe: str, tested: Sequence[Model]) -> Model:
        """Train the model that would serve, once one was tested for each fold."""

    def learnt(self) -> Learnt:
        """What that one was trained on."""

    def forgetting(self, recipe: str) -> Forgetting | None:
        """Compare a recipe with the champion on the rows of the champion's reference."""


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
    scores, fold_of = np.full(len(rows), np.nan), np.zeros(len(rows), dtype=np.int64)
    for fold, (training, held_out) in enumerate(group_folds(rows, FOLDS, how.seed), start=1):
        progress(f"training the first model: fold {fold} of {FOLDS}")
        model = scratch(None, nothing, rows.take(training), how)
        scores[held_out], fold_of[held_out] = model.score(rows.features[held_out]), fold
    progress("training the first model")
    model = scratch(None, nothing, rows, how)
    facts = {**facts, "recipe": "scratch", "gate": None}
    learnt = Learnt.all_of(rows)
    return _assemble(
        model,
        None,
        learnt,
        rows,
        scores,
        fold_of,
        schema,
        how,
        number=number,
        facts=facts,
        missing=missing,
    )


def challenge(
    champion: Version,
    lessons: Lessons,
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

    Parameters
    ----------
    champion : Version
    lessons : Lessons
        `InHand`, or rows that are elsewhere.
    recipe : str
        One of `recipes.RECIPES`, or "auto" for all of them.
    alpha : float
        Level of the paired test; 0.5 asks for a mean gain above 0 and no more.
    min_rows : int
        See `changed_at`.
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
    recent = lessons.recent
    positives = int(recent.positive.sum())
    if min(positives, len(recent) - positives) < GATE_FOLDS:
        return Challenge(GateReport(WAITING, len(recent), positives, alpha), None)

    scores: dict[str, Floats] = {}
    failed: dict[str, Candidate] = {}
    models: dict[str, Model] = {}
    folds = lessons.folds()
    fold_of = np.zeros(len(recent), dtype=np.int64)
    for n, (_, held_out) in enumerate(folds):
        fold_of[held_out] = n
    for name in chosen_recipes(recipe):
        try:
            scores[name], tested = np.full(len(recent), np.nan), []
            for n, fold in enumerate(folds, start=1):
                progress(f"training a challenger by {name}: fold {n} of {len(folds)}")
                tested.append(lessons.train(name, fold))
                scores[name][fold[1]] = tested[-1].score(recent.features[fold[1]])
            progress(f"training a challenger by {name}")
            models[name] = lessons.train_to_serve(name, tested)
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
        report = replace(report, forgetting=lessons.forgetting(name))
    today = recent.sequence >= changed_at
    n_today = int(recent.positive[today].sum())
    if today.sum() < min_rows or min(n_today, today.sum() - n_today) < MIN_OF_EACH:
        today = np.ones(len(recent), dtype=bool)
    challenger = _assemble(
        models[name],
        None if name == "scratch" else champion.scratch_base,
        lessons.learnt(),
        recent.take(today),
        scores[name][today],
        fold_of[today],
        schema,
        how,
        number=number,
        facts={**facts, "recipe": name, "gate": asdict(report)},
        missing=missing,
    )
    return Challenge(report, challenger)


class InHand:
    """Lessons of rows that are all here.

    Where repeats are accidents, recent rows that repeat an older one are left out. The others are
    split by groups of equal features; each fold is scored by models that saw everything but the
    fold, and no row like it that is new to the champion. The champion saw none of them.

    Of very many recent rows a share is held out, once, and the model that was tested serves.

    Parameters
    ----------
    champion : Version
    history : LabelledRows
        Labelled since the last promotion.
    min_rows : int
        The gate looks at the last three batches, and at more of them until it has so many rows.
    """

    def __init__(
        self,
        champion: Version,
        history: LabelledRows,
        schema: Schema,
        how: Training,
        *,
        min_rows: int,
    ) -> None:
        self._champion, self._how = champion, how
        history = history.newest(how.window_rows)
        recent = newest_batches(history, GATE_BATCHES, min_rows)
        is_recent = np.isin(history.sequence, np.unique(recent.sequence))
        self._old = champion.rows.newest(how.window_rows - len(history))
        new = history.take(~is_recent)
        if schema.reject_duplicates:
            seen = self._together(champion.rows, new)
            recent = recent.take(~recent.seen_in(seen)).distinct()
            new = new.take(~new.seen_in(champion.rows)).distinct()
        self._is_folded = len(recent) <= GATE_ROWS
        if not self._is_folded:
            held_out = _held_out(recent)
            new = self._together(new, recent.take(~held_out))
            recent = recent.take(held_out)
        self._new, self._recent = new, recent

    @property
    def recent(self) -> LabelledRows:
        """See `Lessons`."""
        return self._recent

    def folds(self) -> Sequence[Fold]:
        """See `Lessons`."""
        return gate_folds(self._recent, self._how.seed, is_folded=self._is_folded)

    def train(self, recipe: str, fold: Fold) -> Model:
        """See `Lessons`."""
        training, held_out = fold
        hidden = self._recent.take(held_out)
        rest = self._new.take(~self._new.like(hidden))  # what the champion has not seen either
        seen = self._together(rest, self._recent.take(training))
        return RECIPES[recipe](self._champion.scratch_base, self._old, seen, self._how)

    def train_to_serve(self, recipe: str, tested: Sequence[Model]) -> Model:
        """See `Lessons`: on everything, or the one that was tested, which has seen nearly all."""
        if not self._is_folded:
            return tested[0]
        base = self._champion.scratch_base
        return RECIPES[recipe](base, self._old, self._everything, self._how)

    def learnt(self) -> Learnt:
        """See `Lessons`."""
        return Learnt.all_of(self._together(self._old, self._everything))

    def forgetting(self, recipe: str) -> Forgetting | None:
        """See `Lessons`.

        Both score the rows out of fold: the champion did so when it was made, and the challenger is
        made anew without each fold; so is its base, where it has one. With very many rows it takes
        too long, and is not told.
        """
        if not self._is_folded:
            return None
        champion, how, make = self._champion, self._how, RECIPES[recipe]
        columns = champion.reference_rows
        old = replace(columns, features=columns.features[:, :-1])
        if min(old.positive.sum(), (~old.positive).sum()) < GATE_FOLDS:
            return None
        nothing = self._everything.take(slice(0, 0))
        scores = np.full(len(old), np.nan)
        for _, held_out in group_folds(old, GATE_FOLDS, how.seed):
            hidden = old.take(held_out)
            rest, fresh = (r.take(~r.like(hidden)) for r in (champion.rows, self._everything))
            base = None if make is scratch else scratch(None, rest, nothing, how)
            scores[held_out] = make(base, rest, fresh, how).score(hidden.features)
        before = log_loss_per_row(old.positive, columns.features[:, -1])
        after = log_loss_per_row(old.positive, scores)
        return Forgetting(len(old), float(before.mean()), float(after.mean()))

    @cached_property
    def _everything(self) -> LabelledRows:
        """All that is new to the champion."""
        return self._together(self._new, self._recent)

    @staticmethod
    def _together(*parts: LabelledRows) -> LabelledRows:
        return concatenate(parts, parts[0].features.shape[1])


def _assemble(
    model: Model,
    base: Model | None,
    learnt: Learnt,
    reference_rows: LabelledRows,
    reference_scores: Floats,
    fold_of: NDArray[np.int64],
    schema: Schema,
    how: Training,
    *,
    number: int,
    facts: Mapping[str, Any],
    missing: Floats | None,
) -> Version:
    """A version; what is normal from now on is `reference_rows` with honest scores.

    `fold_of` numbers the models that gave these scores.
    """
    cut = float(np.clip(learnt.n_positive / learnt.n_rows, 0.01, 0.99))
    rarer = min(learnt.n_positive, learnt.n_rows - learnt.n_positive)
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
            score_counts=rarer >= MIN_FOR_SCORE and _alike(reference_scores, fold_of),
            n_categories=schema.n_categories,
        ),
        reference_rows=replace(reference_rows, features=columns),
        cut=cut,
        rows=learnt.rows,
        manifest={
            "version": name,
            "number": number,
            **facts,
            "algorithm": ALGORITHM,
            "features": list(schema.feature_names),
            "categories": schema.categories,
            "positive": f"{schema.target} {schema.positive}",
            "training_rows": learnt.n_rows,
            "training_positives": learnt.n_positive,
            "reference_rows": len(reference_rows),
            "data_sha256": {"training": learnt.rows.digest(), "reference": reference_rows.digest()},
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
            **({"shards": listed(learnt.shards)} if learnt.shards else {}),
        },
    )


def _alike(scores: Floats, fold_of: NDArray[np.int64]) -> bool:
    """Whether the models of the folds score alike.

    Of few trees or one column they have few different scores, each model in places of its own.
    """
    counts = np.zeros((fold_of.max() + 1, N_BINS))
    np.add.at(counts, (fold_of, bin_numbers(scores, bin_edges(scores))), 1)
    p_value, severity = unlikeness(counts)
    return p_value >= UNLIKE_LEVEL or severity < UNLIKE_SEVERITY


def gate_folds(recent: LabelledRows, seed: int, *, is_folded: bool) -> Sequence[Fold]:
    """The folds of the gate, or all of its rows held out at once."""
    if is_folded:
        return list(group_folds(recent, GATE_FOLDS, seed))
    everything = np.arange(len(recent))
    return [(everything[:0], everything)]


def tells(rows: LabelledRows) -> bool:
    """Whether rows that are held out are enough: not if few kinds of them come many times each."""
    n_kinds = len(np.unique(row_hashes(rows.features)))
    return bool(min(n_kinds, rows.positive.sum(), (~rows.positive).sum()) >= ENOUGH)


def gate_share(n_recent: int) -> float:
    """Share of very many recent rows that is held out."""
    return min(GATE_ROWS / n_recent, 1 / GATE_FOLDS)


def _held_out(recent: LabelledRows) -> NDArray[np.bool_]:
    """Rows that are held out of very many, (n_rows,); those with equal features are together."""
    numbers = evenly(row_hashes(recent.features))
    held_out = numbers < gate_share(len(recent))
    return held_out if tells(recent.take(held_out)) else numbers < 1 / GATE_FOLDS


def group_folds(rows: LabelledRows, folds: int, seed: int) -> Iterator[Fold]:
    """Stratified folds that never part rows with equal features."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = rows.groups()
    rarer = int(min(rows.positive.sum(), (~rows.positive).sum(), groups.max() + 1))
    splitter = StratifiedGroupKFold(max(2, min(folds, rarer)), shuffle=True, random_state=seed)
    yield from splitter.split(rows.features, rows.positive, groups)
