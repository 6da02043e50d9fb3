"""Figures on columns of categories: how rare healthy batches are, and what splits by them bring.

Run as `python tests/benchmarks/categories.py`; a minute.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import log_loss

from wine_drift.bins import Profile, count
from wine_drift.drift import run_tests
from wine_drift.model import train
from wine_drift.reference import build_reference
from wine_drift.rows import LabelledRows

SHARES = {
    "four alike": np.full(4, 0.25),
    "two": np.array([0.85, 0.15]),
    "two, one rare": np.array([0.99, 0.01]),
    "seven": np.array([0.33, 0.24, 0.14, 0.12, 0.09, 0.05, 0.03]),
    "fifteen": 1 / np.arange(1, 16) / (1 / np.arange(1, 16)).sum(),
    "eight, some rare": np.array([0.5, 0.4, 0.06, 0.02, 0.01, 0.005, 0.003, 0.002]),
    "thirty": 0.75 ** np.arange(30) / (0.75 ** np.arange(30)).sum(),
}
LEVELS = (0.05, 0.01, 0.001)
SIZES = ((300, 20), (300, 50), (1000, 50), (1000, 300), (5000, 1000))
STREAMS, BATCHES = 400, 20


def healthy(n_reference: int, n_rows: int) -> dict[str, list[float]]:
    """Shares of healthy batches with p below each level: of all tests, and chi-square by column.

    Categories that a reference does not show are not listed.
    """
    rng = np.random.default_rng(0)
    names = [*SHARES, "numbers"]
    below = {name: np.zeros(len(LEVELS)) for name in ("all", *names)}
    for _ in range(STREAMS):
        columns, listed = [], []
        for shares in SHARES.values():
            drawn = rng.choice(len(shares), size=n_reference + BATCHES * n_rows, p=shares)
            seen = np.bincount(drawn[:n_reference], minlength=len(shares))
            known = np.argsort(-seen, kind="stable")[: (seen > 0).sum()]
            codes = np.full(len(shares), float(len(known)))
            codes[known] = np.arange(len(known))
            columns.append(codes[drawn])
            listed.append(len(known))
        rows = np.column_stack([*columns, rng.normal(size=len(columns[0]))])
        reference = build_reference(rows[:n_reference], names, n_categories=(*listed, 0))
        parts = [count(part, reference.edges) for part in np.split(rows[n_reference:], BATCHES)]
        batches = Profile(
            np.stack([part.counts for part in parts]), np.stack([part.missing for part in parts])
        )
        tests = run_tests(
            reference.profile, batches, reference.correlation, n_reference, reference.n_categories
        )
        for name, p_values in zip(("all", *names), (tests.p_value, *tests.chi2.T), strict=True):
            below[name] += [(p_values < level).mean() for level in LEVELS]
    return {name: (total / STREAMS).tolist() for name, total in below.items()}


def losses(n_categories: int, n_rows: int, seed: int) -> list[float]:
    """Log loss on fresh rows of models that take categories for sizes, and for categories."""
    rng = np.random.default_rng([seed, n_categories])
    effect = rng.normal(size=n_categories)
    shares = np.sort(rng.dirichlet(np.full(n_categories, 1.5)))[::-1]

    def drawn(n: int) -> LabelledRows:
        kinds, others = rng.choice(n_categories, n, p=shares), rng.choice(3, n, p=[0.5, 0.3, 0.2])
        numbers = rng.normal(size=(n, 3))
        log_odds = effect[kinds] + 0.8 * numbers[:, 0] - 0.5 * (others == 2) - 1.2
        log_odds += 0.4 * numbers[:, 1] * (others == 1)
        features = np.column_stack([kinds, others, numbers])
        positive = rng.random(n) < 1 / (1 + np.exp(-log_odds))
        return LabelledRows(features, positive, np.zeros(n, dtype=np.int64))

    rows, fresh = drawn(n_rows), drawn(20_000)
    models = [
        train(rows, np.ones(n_rows), rounds=200, seed=0, threads=1, categorical=categorical)
        for categorical in ((), (0, 1))
    ]
    return [float(log_loss(fresh.positive, model.score(fresh.features))) for model in models]


def main() -> None:
    """Print both tables."""
    for n_reference, n_rows in SIZES:
        print(f"reference {n_reference}, batches of {n_rows}: share of p below {LEVELS}")
        for name, shares in healthy(n_reference, n_rows).items():
            print(f"  {name:18}", *(f"{share:8.4f}" for share in shares))
    for n_categories in (3, 7, 15, 30):
        for n_rows in (500, 3000):
            both = np.mean([losses(n_categories, n_rows, seed) for seed in range(12)], axis=0)
            print(f"{n_categories} categories, {n_rows} rows: log loss {both[0]:.3f} {both[1]:.3f}")


if __name__ == "__main__":
    main()
