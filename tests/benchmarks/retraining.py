"""What each way of retraining costs or gains on nine streams of real wines.

    WINE_DRIFT_DATA=winequality-red.csv python tests/benchmarks/retraining.py [--seeds 10]

A model of 559 red wines meets eight batches of 100 new ones (27 of 30 where batches are small); no
wine is used twice. What is told is the mean log loss of each batch, by its true labels and by the
model that served when it came, for four ways to retrain:

- never;
- always: from nothing after every batch, on all rows with time decay, no questions asked;
- original: 100 more trees on every batch, `is_unbalance`, as in the project that this one replaces;
- wine-drift: `run-batch` itself, batch after batch, with its default settings but for the recipe.

`winequality-white.csv` has to lie beside the red table.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
from tqdm import tqdm

from wine_drift.dataset import load_schema
from wine_drift.ledger import Ledger
from wine_drift.measures import log_loss_per_row
from wine_drift.model import Model, read_model, read_version, train
from wine_drift.recipes import AUTO, RECIPES, Training, decayed, scratch
from wine_drift.rows import LabelledRows, concatenate
from wine_drift.run import run_batch, train_now
from wine_drift.settings import Settings

N_REFERENCE = 559
CHANGE = 3  # first batch of another kind
HOW = Training(rounds=200, half_life=10.0, seed=0, threads=1, window_rows=20_000)
ORIGINAL = {
    "objective": "binary",
    "learning_rate": 0.05,
    "is_unbalance": True,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbose": -1,
}
POLICIES = ("never", "always", "original", "wine-drift")


@dataclass(frozen=True)
class Batch:
    """One batch: cells as they arrive, quality column last, and the true answers."""

    cells: np.ndarray
    truth: np.ndarray

    def rows(self, sequence: int) -> LabelledRows:
        """With the labels that were sent."""
        n = len(self.cells)
        return LabelledRows(self.cells[:, :-1], self.cells[:, -1] > 6.5, np.full(n, sequence))


@dataclass(frozen=True)
class Wines:
    """Both tables without repeats, in an order of their own for each seed."""

    red: np.ndarray
    white: np.ndarray
    rng: np.random.Generator

    @classmethod
    def load(cls, red: Path, seed: int) -> Wines:
        """Read and shuffle."""
        rng = np.random.default_rng(seed)
        paths = (red, red.with_name("winequality-white.csv"))
        tables = (np.loadtxt(path, delimiter=";", skiprows=1) for path in paths)
        return cls(*(rng.permutation(np.unique(table, axis=0)) for table in tables), rng)

    def stream(
        self, shares: list[float], n: int = 100, edit: Callable[..., None] = lambda *_: None
    ) -> list[Batch]:
        """Batches with these shares of white wines.

        `edit(number, cells, truth)` changes a batch in place.
        """
        red, white = N_REFERENCE, 0
        batches = []
        for number, share in enumerate(shares):
            k = round(share * n)
            cells = np.concatenate([self.red[red : red + n - k], self.white[white : white + k]])
            red, white = red + n - k, white + k
            assert len(cells) == n, "the tables are used up"
            cells = self.rng.permutation(cells)
            truth = cells[:, -1] > 6.5
            edit(number, cells, truth)
            batches.append(Batch(cells, truth))
        return batches


def stationary(wines: Wines) -> list[Batch]:
    """Red wines all along."""
    return wines.stream([0.0] * 8)


def red_to_white(wines: Wines) -> list[Batch]:
    """White wines only, from the fourth batch on."""
    return wines.stream([0.0] * CHANGE + [1.0] * 5)


def half_white(wines: Wines) -> list[Batch]:
    """Half of each batch is white, from the fourth on."""
    return wines.stream([0.0] * CHANGE + [0.5] * 5)


def ramp(wines: Wines) -> list[Batch]:
    """Ever more white wines."""
    return wines.stream([k / 7 for k in range(8)])


def concept(wines: Wines) -> list[Batch]:
    """Strong wines swap their answers, from the fourth batch on."""

    def swap(number: int, cells: np.ndarray, truth: np.ndarray) -> None:
        if number >= CHANGE:
            strong = cells[:, 10] > 10.2  # the median of the reds
            truth[strong] = ~truth[strong]
            cells[:, -1] = np.where(truth, 8, 5)

    return wines.stream([0.0] * 8, edit=swap)


def sensor(wines: Wines) -> list[Batch]:
    """Alcohol is read 10 % too high, from the fourth batch on."""

    def scale(number: int, cells: np.ndarray, truth: np.ndarray) -> None:
        if number >= CHANGE:
            cells[:, 10] *= 1.1

    return wines.stream([0.0] * 8, edit=scale)


def recurring(wines: Wines) -> list[Batch]:
    """Red, white, red and white again, two batches each."""
    return wines.stream([0.0, 0.0, 1.0, 1.0] * 2)


def corrupted(wines: Wines) -> list[Batch]:
    """Red wines; of the fourth and the sixth batch, 30 % of the labels are wrong."""

    def corrupt(number: int, cells: np.ndarray, truth: np.ndarray) -> None:
        if number in (CHANGE, CHANGE + 2):
            wrong = wines.rng.random(len(cells)) < 0.3
            cells[:, -1] = np.where(truth ^ wrong, 8, 5)

    return wines.stream([0.0] * 8, edit=corrupt)


def small(wines: Wines) -> list[Batch]:
    """Red wines, then white ones, 30 at a time."""
    return wines.stream([0.0] * 10 + [1.0] * 17, n=30)


SCENARIOS: dict[str, Callable[[Wines], list[Batch]]] = {
    "stationary": stationary,
    "red to white": red_to_white,
    "50 % white": half_white,
    "ramp": ramp,
    "concept flip": concept,
    "sensor x1.1": sensor,
    "recurring": recurring,
    "corrupted labels": corrupted,
    "small batches": small,
}


def loss(model: Model, batch: Batch) -> float:
    """Mean log loss of a batch by its true answers."""
    return float(log_loss_per_row(batch.truth, model.score(batch.cells[:, :-1])).mean())


def never(reference: LabelledRows, batches: list[Batch]) -> list[float]:
    """The first model to the end."""
    model = scratch(None, reference.take(slice(0, 0)), reference, HOW)
    return [loss(model, batch) for batch in batches]


def always(reference: LabelledRows, batches: list[Batch]) -> list[float]:
    """A new model on all rows after every batch."""
    seen, losses = reference, []
    for number, batch in enumerate(batches, start=1):
        model = train(seen, decayed(seen.sequence, HOW.half_life), rounds=200, seed=0, threads=1)
        losses.append(loss(model, batch))
        seen = concatenate([seen, batch.rows(number)], 11)
    return losses


def original(reference: LabelledRows, batches: list[Batch]) -> list[float]:
    """100 more trees on every batch, whatever it is like."""
    rows, booster, losses = reference, None, []
    for number, batch in enumerate(batches, start=1):
        dataset = lightgbm.Dataset(rows.features, label=rows.positive.astype(float))
        booster = lightgbm.train(ORIGINAL, dataset, num_boost_round=100, init_model=booster)
        losses.append(loss(read_model(booster.model_to_string(), threads=1), batch))
        rows = batch.rows(number)
    return losses


def ours(
    reference: LabelledRows, batches: list[Batch], recipe: str = "scratch"
) -> tuple[list[float], list[str]]:
    """`run-batch` on every batch; the second is what came of each retraining."""
    schema = load_schema(None)
    header = [*schema.feature_names, schema.target]
    with tempfile.TemporaryDirectory() as folder:
        table, home = Path(folder) / "table.csv", Path(folder) / "home"
        cells = np.column_stack([reference.features, np.where(reference.positive, 8, 5)])
        pd.DataFrame(cells, columns=header).to_csv(table, sep=";", index=False)
        settings = Settings(home=home, data=table, threads=1, recipe=recipe)
        train_now(settings)
        losses, outcomes = [], []
        for number, batch in enumerate(batches):
            with Ledger.open(home, read_only=True) as ledger:
                champion = read_version(home / "models", ledger.champion() or {}, threads=1)
            losses.append(loss(champion.model, batch))
            path = Path(folder) / f"{number}.csv"
            pd.DataFrame(batch.cells, columns=header).to_csv(path, sep=";", index=False)
            record = run_batch(settings, path).record
            tried = record["retraining"]
            outcomes.append(
                f"{tried['reason']}:{tried['outcome']}"
                if tried
                else record["decision"]["reasons"][-1]
            )
    return losses, outcomes


def stream(
    red: Path, name: str, seed: int, recipe: str
) -> tuple[dict[str, list[float]], list[str]]:
    """All policies on one stream."""
    wines = Wines.load(red, seed)
    table = wines.red[:N_REFERENCE]
    reference = LabelledRows(
        table[:, :-1], table[:, -1] > 6.5, np.zeros(N_REFERENCE, dtype=np.int64)
    )
    batches = SCENARIOS[name](wines)
    losses, outcomes = ours(reference, batches, recipe)
    return {
        "never": never(reference, batches),
        "always": always(reference, batches),
        "original": original(reference, batches),
        "wine-drift": losses,
    }, outcomes


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--recipe", choices=[*RECIPES, AUTO], default="scratch")
    parser.add_argument("--scenario", choices=list(SCENARIOS), action="append")
    parser.add_argument("--trace", action="store_true", help="print what each run decided")
    given = parser.parse_args()
    red = Path(os.environ["WINE_DRIFT_DATA"])
    chosen = given.scenario or list(SCENARIOS)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    jobs = [(name, seed) for name in chosen for seed in seeds]
    with ProcessPoolExecutor(max_workers=2) as pool:
        running = [pool.submit(stream, red, *job, given.recipe) for job in jobs]
        results = [each.result() for each in tqdm(running, disable=not sys.stderr.isatty())]
    print(
        f"{'scenario':18}"
        + "".join(f"{policy:>12}" for policy in POLICIES)
        + "       cost   promoted"
    )
    means = []
    for name in chosen:
        found = [result for (job, _), result in zip(jobs, results, strict=True) if job == name]
        means.append([np.mean([losses[policy] for losses, _ in found]) for policy in POLICIES])
        promoted = np.mean([sum("promoted" in o for o in outcomes) for _, outcomes in found])
        cost = means[-1][-1] - means[-1][0]  # over never
        print(f"{name:18}" + "".join(f"{x:12.3f}" for x in means[-1]), end="")
        print(f"{cost:+11.4f}{promoted:11.1f}")
        if given.trace:
            for losses, outcomes in found:
                told = [f"{x:.2f} {o}" for x, o in zip(losses["wine-drift"], outcomes, strict=True)]
                print("   ", " | ".join(told))
    print(f"{'mean':18}" + "".join(f"{x:12.3f}" for x in np.mean(means, axis=0)))


if __name__ == "__main__":
    main()
