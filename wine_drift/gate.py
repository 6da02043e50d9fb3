"""Whether a challenger replaces the champion: paired losses in, a report with a verdict out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wine_drift.bins import Floats
from wine_drift.special import stdtr

PROMOTED, REJECTED, WAITING, FAILED = "promoted", "rejected", "waiting", "failed"
# What came of one candidate.
WON, NO_GAIN, NOT_PROVEN, BEATEN = "won", "no_gain", "not_proven", "beaten"
UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True)
class Comparison:
    """One candidate beside the champion, on the same rows that neither was trained on."""

    log_loss: float | None  # of the candidate, nats per row
    mean_gain: float | None  # log loss of the champion minus that of the candidate
    p_value: float | None  # one-sided: how easily chance alone gives such a gain


@dataclass(frozen=True)
class Candidate:
    """What is told of a candidate."""

    recipe: str
    outcome: str  # won | no_gain | not_proven | unconfirmed | beaten | failed
    log_loss: float | None = None
    mean_gain: float | None = None
    p_value: float | None = None
    trees: int | None = None  # of the model that would serve
    error: str | None = None


@dataclass(frozen=True)
class Forgetting:
    """The winner and the champion on old rows, each scored without having seen them."""

    rows: int
    champion_log_loss: float
    challenger_log_loss: float


@dataclass(frozen=True)
class GateReport:
    """Everything that the gate saw, and its verdict."""

    outcome: str  # promoted | rejected | waiting | failed
    rows: int  # held out, all of them younger than the champion
    positives: int
    level: float  # each candidate's p-value must be below it
    champion_log_loss: float | None = None
    candidates: tuple[Candidate, ...] = ()
    forced: bool = False
    forgetting: Forgetting | None = None

    @property
    def winner(self) -> Candidate | None:
        """The candidate that is promoted."""
        return next((each for each in self.candidates if each.outcome == WON), None)

    @property
    def error(self) -> str:
        """What went wrong, where it did."""
        return "; ".join(f"{c.recipe}: {c.error}" for c in self.candidates if c.error)


def compare(champion_losses: Floats, losses: Floats) -> Comparison:
    """Compare a candidate with the champion row by row.

    A one-sided paired t-test on the log losses: pairing removes what makes a row hard for both,
    which is most of the variance.

    Parameters
    ----------
    champion_losses, losses : ndarray of shape (n_rows,), n_rows >= 2
        Log loss of each row, in nats, by a model that was not trained on it.

    Examples
    --------
    Gains 1, 2, 3: mean 2, standard error 1/sqrt(3), t = 3.46 on 2 degrees of freedom.

    >>> found = compare(np.array([2.0, 3.0, 4.0]), np.ones(3))
    >>> found.mean_gain, round(found.p_value, 4)
    (2.0, 0.0371)
    """
    gains = champion_losses - losses
    mean = float(gains.mean())
    error = float(gains.std(ddof=1)) / np.sqrt(len(gains))
    # models that score alike: nothing was gained
    p_value = float(stdtr(len(gains) - 1, -mean / error)) if error else 1.0
    return Comparison(float(losses.mean()), mean, p_value)


def judge(
    champion_losses: Floats,
    losses: Mapping[str, Floats],
    *,
    positives: int,
    alpha: float,
    confirming: NDArray[np.int64] | None = None,
    force: bool = False,
) -> GateReport:
    """Let the candidates of one retraining compete; at most one wins.

    The one with the largest mean gain is promoted if its p-value is below `alpha` divided by the
    number of candidates (Bonferroni), so that trying more recipes promotes no more noise.

    Parameters
    ----------
    champion_losses : ndarray of shape (n_rows,), n_rows >= 2
    losses : mapping
        Recipe -> ndarray of shape (n_rows,); at least one.
    positives : int
        Positive rows among them.
    alpha : float, in (0, 1)
        The rate at which a retraining that gains nothing ends in a promotion.
    confirming : ndarray of shape (n_rows,), optional
        Numbers of batches, 0 for rows that do not count. The winner must pass the test on the rows
        of these batches alone, and have a mean gain above 0 in each of them.
    force : bool
        The best candidate wins, whatever the test says.

    Examples
    --------
    >>> champion = np.array([2.0, 3.0, 4.0])
    >>> report = judge(champion, {"a": np.ones(3), "b": champion - 1.9}, positives=1, alpha=0.1)
    >>> report.outcome, [(each.recipe, each.outcome) for each in report.candidates]
    ('promoted', [('a', 'won'), ('b', 'beaten')])
    """
    level = alpha / len(losses)
    found = {recipe: compare(champion_losses, each) for recipe, each in losses.items()}
    best = max(found, key=lambda recipe: found[recipe].mean_gain or 0.0)

    def outcome(recipe: str, comparison: Comparison) -> str:
        if force and recipe == best:
            return WON
        if (comparison.mean_gain or 0.0) <= 0:
            return NO_GAIN
        if recipe != best:
            return BEATEN
        if (comparison.p_value or 0.0) >= level:
            return NOT_PROVEN
        if confirming is not None and not confirmed(losses[recipe], confirming):
            return UNCONFIRMED
        return WON

    def confirmed(mine: Floats, confirming: NDArray[np.int64]) -> bool:
        gains = champion_losses - mine
        batches, counts = confirming > 0, np.bincount(confirming, gains)
        if batches.sum() < 2 or (counts[np.unique(confirming[batches])] <= 0).any():
            return False
        return (compare(champion_losses[batches], mine[batches]).p_value or 0.0) < level

    candidates = tuple(
        Candidate(recipe, outcome(recipe, each), each.log_loss, each.mean_gain, each.p_value)
        for recipe, each in found.items()
    )
    report = GateReport(
        REJECTED,
        len(champion_losses),
        positives,
        level,
        float(champion_losses.mean()),
        candidates,
        forced=force,
    )
    return replace(report, outcome=PROMOTED) if report.winner else report
