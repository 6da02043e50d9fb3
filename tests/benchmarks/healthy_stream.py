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
from wine_drift.detector import Detector, Limits
from wine_drift.measurement import measure, tally
from wine_drift.recipes import Training
from wine_drift.record import drift_status, quality_status
from wine_drift.retraining import first_version
from wine_drift.screening import screen
from wine_drift.settings import load_settings
from wine_drift.supply import Table, advance

LIMITS = Limits(budget=1000, severity_drift=0.1, severity_major=0.25, min_rows=50)
FACTS = {"reason": "benchmark", "parent": None, "trained_at": 0.0, "dataset": "red"}


def main(n_seeds: int) -> None:
    """Print the rates over all batches of all orders."""
    schema = load_schema(None)
    drift, drop, statuses = [], [], Counter[str]()
    for seed in range(n_seeds):
        settings = load_settings({"seed": seed}, {})
        table = Table(Path(os.environ["WINE_DRIFT_DATA"]), schema, settings)
        rows, cursor, _ = table.training_part(share=settings.training_share)
        how = Training(settings.rounds, settings.half_life, seed, 1, settings.window_rows)
        champion = first_version(rows, schema, how, number=1, facts=FACTS)
        detector = Detector.fresh(champion.reference)
        while (claim := table.claim(cursor)) is not None:
            screened = screen(table.read(claim, cursor), schema)
            scores = np.full(len(screened.target), np.nan)
            good = screened.accepted
            scores[good] = champion.model.score(screened.features[good])
            found = measure(
                tally(screened, scores, schema, champion.reference, cut=champion.cut),
                champion.reference,
                detector,
                LIMITS,
                sequence=1,
                max_set_aside=settings.max_set_aside,
            )
            detector = found.detector
            if found.drift is not None:
                drift.append(float(found.drift.tests.p_value))
            if found.quality_drift is not None:
                drop.append(float(found.quality_drift.p_value))
            statuses[f"drift {drift_status(found.drift)}"] += 1
            statuses[f"quality {quality_status(found.quality_drift)}"] += 1
            statuses["faults"] += bool(found.faults)
            cursor = advance(cursor, claim)
    print(f"healthy batches: {dict(statuses)}")
    for name, p_values in (("drift", drift), ("drop in quality", drop)):
        known = np.array(p_values)
        rates = ", ".join(f"p < {a}: {(known < a).mean():.4f}" for a in (0.05, 0.01, 0.001))
        print(f"{name}: {rates}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
