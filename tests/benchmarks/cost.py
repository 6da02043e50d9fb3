"""What a row, a column and a tree cost: `python tests/benchmarks/cost.py [ROWS]`.

One process and one thread: a table of numbers with two decimals is written, read, screened, scored
and counted as a run does it. Each stage is timed alone, the least of five rounds, all variants in
turn; the lines are nanoseconds a row. It ends with what does not depend on rows: finishing the
gathered parts, and judging them.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wine_drift.champion import Yardstick
from wine_drift.detector import Detector, Limits
from wine_drift.gathering import Gatherer, count_part
from wine_drift.measurement import measure
from wine_drift.model import train
from wine_drift.reference import build_reference
from wine_drift.repeats import Known
from wine_drift.rows import LabelledRows
from wine_drift.schema import Schema, parse_schema
from wine_drift.shards import NoWriter
from wine_drift.tables import read_parts

VARIANTS = [(11, 100), (22, 100), (44, 100), (11, 50), (11, 200), (11, 400)]  # columns, trees
STAGES = ("read", "screen", "score", "measure")
ROUNDS = 5
TRAINED_ON = 1_300


def table(rng: np.random.Generator, n_rows: int, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers with two decimals, and answers that some of them have to do with."""
    features = rng.gamma(4.0, 2.0, size=(n_rows, n_columns)).round(2)
    chance = 1 / (1 + np.exp(-(features[:, :3].sum(axis=1) - 30) / 4))
    return features, rng.random(n_rows) < chance


def schema(n_columns: int) -> Schema:
    """Of such a table."""
    columns = [{"name": f"x{j}", "minimum": 0, "maximum": 1000} for j in range(n_columns)]
    target = {"column": "y", "positive": "> 0.5", "minimum": 0, "maximum": 1}
    return parse_schema({"name": "t", "duplicates": "reject", "target": target, "feature": columns})


@dataclass
class Variant:
    """A table of so many columns, and a model of so many trees."""

    n_columns: int
    n_trees: int
    path: Path
    yardstick: Yardstick
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, n_rows: int, n_columns: int, n_trees: int) -> Variant:
        """Train a model, and write the batch."""
        rng = np.random.default_rng(n_columns)
        features, positive = table(rng, TRAINED_ON, n_columns)
        rows = LabelledRows(features, positive, np.zeros(TRAINED_ON, dtype=np.int64))
        model = train(rows, np.ones(TRAINED_ON), rounds=n_trees, seed=0, threads=1)
        described = schema(n_columns)
        reference = build_reference(
            np.column_stack([features, model.score(features)]),
            described.columns,
            positive,
            described.plausible,
        )
        yardstick = Yardstick(
            schema=described,
            score=model.score,
            reference=reference,
            training_rows=rows,
            cut=0.5,
            row_id=None,
            window_rows=20_000,
            waiting_rows=1_000_000,
        )
        path = folder / f"{n_columns}-{n_trees}.csv"
        batch, answers = table(rng, n_rows, n_columns)
        text = io.StringIO()
        text.write(",".join([*described.feature_names, "y"]) + "\n")
        np.savetxt(text, np.column_stack([batch, answers]), fmt="%g", delimiter=",")
        path.write_text(text.getvalue())
        return cls(n_columns, n_trees, path, yardstick)

    def run(self) -> None:
        """Read and count the batch once, and keep what each stage took."""
        took = dict.fromkeys((*STAGES, "finish", "judge"), 0.0)

        @contextlib.contextmanager
        def stage(name: str) -> Iterator[None]:
            start = time.perf_counter()
            yield
            took[name] += time.perf_counter() - start

        gatherer, known = Gatherer(self.yardstick, lambda lines: None, NoWriter()), Known()
        parts = read_parts(self.path, most_bytes=1 << 40)
        while True:
            with stage("read"):
                part = next(parts, None)
            if part is None:
                break
            gatherer.add(count_part(part, self.yardstick, known, stage))
        with stage("finish"):
            gathered = gatherer.finish(whole_file=True)
        with stage("judge"):
            reference = self.yardstick.reference
            limits = Limits(budget=1000, severity_drift=0.1, severity_major=0.25, min_rows=50)
            detector = Detector.fresh(reference)
            measure(gathered.counted, reference, detector, limits, sequence=1, max_set_aside=0.2)
        for name, seconds in took.items():
            self.seconds.setdefault(name, []).append(seconds)


def main(n_rows: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        variants = [Variant.make(Path(folder), n_rows, *each) for each in VARIANTS]
        for _ in range(ROUNDS):
            for variant in variants:
                variant.run()
    print(f"nanoseconds a row, one thread, {n_rows:,} rows")
    print(
        "columns  trees  " + "".join(f"{name:>9}" for name in (*STAGES, "all")) + "  finish  judge"
    )
    for variant in variants:
        least = {name: min(found) for name, found in variant.seconds.items()}
        each = [least[name] / n_rows * 1e9 for name in STAGES]
        figures = "".join(f"{figure:>9.0f}" for figure in (*each, sum(each)))
        ends = "".join(f"{least[name] * 1e3:>5.0f} ms" for name in ("finish", "judge"))
        print(f"{variant.n_columns:>7}  {variant.n_trees:>5}  {figures}{ends}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400_000)
