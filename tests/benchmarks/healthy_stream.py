"""How often the real, healthy stream alarms: `python tests/benchmarks/healthy_stream.py [SEEDS]`.

For each seed the red-wine table (WINE_DRIFT_DATA) is put in another order, the first half trains a
champion, and the batches of the other half are judged as `run-batch` judges them.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from wine_drift.dataset import load_schema
from wine_drift.measurement import measure
from wine_drift.retraining import Recipe, first_version
from wine_drift.screening import screen
from wine_drift.settings import load_settings
from wine_drift.supply import Table, advance

FACTS = {"reason": "benchmark", "parent": None, "trained_at": 0.0, "dataset": "red"}


def main(n_seeds: int) -> None:
    """Print the rates over all batches of all orders."""
    schema = load_schema(None)
    drift, log_loss, statuses = [], [], Counter[str]()
    for seed in range(n_seeds):
        settings = load_settings({"seed": seed}, {})
        table = Table(Path(os.environ["WINE_DRIFT_DATA"]), schema, settings)
        rows, cursor = table.training_part(share=settings.training_share)
        recipe = Recipe(settings.rounds, settings.half_life, seed, 1, settings.window_rows)
        champion = first_version(rows, schema, recipe, number=1, facts=FACTS)
        pool = champion.reference.profile
        window = pool.scaled(0)
        while (claim := table.claim(cursor)) is not None:
            screened = screen(table.read(claim, cursor), schema)
            scores = np.full(len(screened.target), np.nan)
            good = screened.accepted
            scores[good] = champion.model.score(screened.features[good])
            found = measure(
                screened,
                scores,
                schema,
                champion.reference,
                champion.losses,
                cut=champion.cut,
                pool=pool,
                window=window,
                budget=settings.budget,
                severity_drift=settings.severity_drift,
                severity_major=settings.severity_major,
                min_rows=settings.min_rows,
            )
            pool, window = found.pool, found.window
            drift.append(found.drift.p_value)
            log_loss.append(found.log_loss_p_value)
            statuses[found.drift.status] += 1
            cursor = advance(cursor, claim)
    print(f"{len(drift)} healthy batches: {dict(statuses)}")
    for name, p_values in (("drift", drift), ("rise of log loss", log_loss)):
        known = np.array([p for p in p_values if p is not None])
        rates = ", ".join(f"p < {a}: {(known < a).mean():.4f}" for a in (0.05, 0.01, 0.001))
        print(f"{name}: {rates}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
