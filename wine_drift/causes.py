"""What kind of change an alarm is about, as far as labels tell.

Covariate drift: other inputs, the same answers to them. Label shift: another share of positives,
the same inputs within each answer. Concept drift: other answers to the same inputs (Moreno-Torres
et al., 2012, "A unifying view on dataset shift in classification", Pattern Recognition 45).
"""

from __future__ import annotations

from collections.abc import Callable

from wine_drift.outcomes import (
    MIN_PER_CLASS,
    Outcomes,
    recalibration_p,
    share_p,
    within_answers_p,
)
from wine_drift.schema import CAUSES

COVARIATE, LABEL, CONCEPT = CAUSES
LEVEL = 0.01  # of each question below, asked only after an alarm


def find_causes(
    reference: Outcomes, window: Outcomes, batch: Outcomes, *, drifted: bool, min_rows: int
) -> tuple[str, ...]:
    """Name the causes of an alarm.

    Parameters
    ----------
    reference : Outcomes
        Of the champion, out-of-fold.
    window, batch : Outcomes
        Decayed counts of recent batches, and those of this one. Both are asked, for the window is
        steady and the batch is quick.
    drifted : bool
        Whether the columns drifted, or only quality dropped.
    min_rows : int
        Labelled rows of the batch that an answer takes.

    Returns
    -------
    tuple of str
        Out of CAUSES; empty without enough labelled rows of either answer, or where nothing but the
        quality changed. Covariate and concept drift may come together.
    """
    if float(batch.n_labelled) < min_rows or not _tells(reference, min_rows):
        return ()  # what earlier batches answered says nothing of this one
    asked = [outcomes for outcomes in (window, batch) if _tells(outcomes, min_rows)]
    if not asked:
        return ()

    def changed(question: Callable[[Outcomes, Outcomes], float]) -> bool:
        return min(question(reference, outcomes) for outcomes in asked) * len(asked) < LEVEL

    if not changed(recalibration_p):
        return (COVARIATE,) if drifted else ()
    if changed(share_p) and not changed(within_answers_p):
        return (LABEL,)
    return (COVARIATE, CONCEPT) if drifted else (CONCEPT,)


def _tells(outcomes: Outcomes, min_rows: int) -> bool:
    n, ones = float(outcomes.n_labelled), float(outcomes.n_positive)
    return n >= min_rows and min(ones, n - ones) >= MIN_PER_CLASS
