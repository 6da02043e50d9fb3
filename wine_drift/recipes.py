"""Ways to make a challenger: each a function of the old model, the old rows and the new ones.

None of them builds on a model that was itself continued: they start from nothing, or from the last
model that was trained from nothing, the scratch base. Trees cannot pile up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.model import Model, refit, train
from wine_drift.rows import LabelledRows, concatenate

CONTINUED_ROUNDS = 50  # more would fit the few new rows rather than what they tell
CONTINUED_BATCHES = 5  # newest batches that a continued or refitted model learns from
REFIT_DECAY = 0.5  # weight of a leaf's old value beside the one that the new rows give it


@dataclass(frozen=True)
class Training:
    """What all recipes are told."""

    rounds: int  # trees of a model trained from nothing
    half_life: float  # batches after which a row weighs half
    seed: int
    threads: int
    window_rows: int  # most rows that a version keeps for its successors
    categorical: tuple[int, ...] = ()  # columns that hold numbers of categories


class Recipe(Protocol):
    """Makes a challenger."""

    def __call__(
        self, base: Model | None, old: LabelledRows, new: LabelledRows, how: Training
    ) -> Model:
        """Train.

        Parameters
        ----------
        base : Model or None
            The champion's scratch base; None for the very first model.
        old : LabelledRows
            What the champion was trained on.
        new : LabelledRows
            Labelled since.
        how : Training
        """


def scratch(base: Model | None, old: LabelledRows, new: LabelledRows, how: Training) -> Model:
    """Train from nothing on all rows, older ones weighing less."""
    rows = _together(old, new)
    weight = decayed(rows.sequence, how.half_life)
    return train(
        rows,
        weight,
        rounds=how.rounds,
        seed=how.seed,
        threads=how.threads,
        categorical=how.categorical,
    )


def continued(base: Model | None, old: LabelledRows, new: LabelledRows, how: Training) -> Model:
    """Add trees to the scratch base, fitted to the newest batches.

    However often a model is continued, it has 50 trees more than its base.

    Raises
    ------
    ValueError
        There is no scratch base.
    """
    rows = _newest(old, new)
    weight = np.ones(len(rows))
    return train(
        rows,
        weight,
        rounds=CONTINUED_ROUNDS,
        seed=how.seed,
        threads=how.threads,
        start=_needed(base),
        categorical=how.categorical,
    )


def refitted(base: Model | None, old: LabelledRows, new: LabelledRows, how: Training) -> Model:
    """Keep the trees of the scratch base and move their leaves towards the newest batches.

    Raises
    ------
    ValueError
        There is no scratch base.
    """
    rows = _newest(old, new)
    return refit(
        _needed(base),
        rows,
        decay=REFIT_DECAY,
        threads=how.threads,
        categorical=how.categorical,
    )


RECIPES: Mapping[str, Recipe] = {"scratch": scratch, "continue": continued, "refit": refitted}
AUTO = "auto"


def chosen_recipes(name: str) -> Mapping[str, Recipe]:
    """The recipes that a setting names: one of them, or all.

    >>> list(chosen_recipes("refit")), list(chosen_recipes("auto"))
    (['refit'], ['scratch', 'continue', 'refit'])
    """
    return RECIPES if name == AUTO else {name: RECIPES[name]}


def decayed(sequence: NDArray[np.int64], half_life: float, *, newest: int | None = None) -> Floats:
    """Weight 1 for the newest batch, half of it every `half_life` batches back.

    `newest` is its number, if it is not in `sequence`.

    >>> decayed(np.array([0, 10, 20]), half_life=10.0).tolist()
    [0.25, 0.5, 1.0]
    """
    if not len(sequence):
        return np.empty(0)
    last = sequence.max() if newest is None else newest
    weights: Floats = 0.5 ** ((last - sequence) / half_life)
    return np.maximum(weights, 1e-6)


def newest_batches(rows: LabelledRows, n_batches: int, min_rows: int = 0) -> LabelledRows:
    """Rows of the last `n_batches`, and of more while they hold fewer than `min_rows`.

    >>> sequence = np.array([1, 2, 2, 3])
    >>> rows = LabelledRows(np.zeros((4, 1)), np.zeros(4, bool), sequence)
    >>> newest_batches(rows, 1).sequence.tolist(), len(newest_batches(rows, 1, min_rows=2))
    ([3], 3)
    """
    numbers, sizes = np.unique(rows.sequence, return_counts=True)
    by_number = dict(zip(numbers.tolist(), sizes.tolist(), strict=True))
    return rows.take(rows.sequence >= first_of_newest(by_number, n_batches, min_rows))


def first_of_newest(sizes: Mapping[int, int], n_batches: int, min_rows: int = 0) -> int:
    """Number of the first of these batches, given the rows of each; 0 if there are none.

    >>> first_of_newest({1: 10, 2: 20, 3: 5}, 1), first_of_newest({1: 10, 2: 20, 3: 5}, 1, 25)
    (3, 2)
    """
    first, n_rows = 0, 0
    for k, number in enumerate(sorted(sizes, reverse=True)):
        if k >= n_batches and n_rows >= min_rows:
            break
        first = number
        n_rows += sizes[number]
    return first


def _newest(old: LabelledRows, new: LabelledRows) -> LabelledRows:
    """Rows of the newest batches; those of the table that all began with are no batch."""
    rows = _together(old, new)
    came = rows.take(rows.sequence > 0)
    return newest_batches(came if len(came) else rows, CONTINUED_BATCHES)


def _together(old: LabelledRows, new: LabelledRows) -> LabelledRows:
    return concatenate([old, new], old.features.shape[1])


def _needed(base: Model | None) -> Model:
    if base is None:
        raise ValueError("there is no model to go on from")
    return base
