"""A year of flights, watched as `init` proposes it, beside a model that is never retrained.

    python tests/benchmarks/flights.py [--days] [--folder out]

The flights of January to March train the first model; then the year goes on in weeks, and in days,
with labels in each batch. Told are the mean log loss of the flights of some months, and what the
job said. Some ten minutes each on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from departures import LATE, days, flights

FIRST = pd.Timestamp("2013-04-01")  # of the batches
LENGTHS = {"weeks": 7, "days": 1}
WAYS = {
    "never": ("--retrain", "never"),
    "as proposed": (),
    "small window": ("--window-rows", "20000"),
}
ASKED = {"weeks": ("never", "as proposed", "small window"), "days": ("never", "small window")}
MONTHS = {
    "April to December": range(4, 13),
    "April, May": (4, 5),
    "June to August": (6, 7, 8),
    "September to November": (9, 10, 11),
    "December": (12,),
}


def run(folder: Path, *arguments: str) -> str:
    """Run wine-drift; gives what it prints."""
    environment = {**os.environ, "WINE_DRIFT_THREADS": "1"}
    command = [sys.executable, "-m", "wine_drift", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def write(folder: Path) -> None:
    """The past, and the batches of each length."""
    table = flights()
    since = (days(table) - FIRST).dt.days
    table[since < 0].to_csv(folder / "past.csv", index=False)
    for length, n_days in LENGTHS.items():
        for way in ASKED[length]:
            inbox = folder / f"{length}, {way}"
            inbox.mkdir()
            for number, batch in table[since >= 0].groupby(since // n_days):
                batch.to_csv(inbox / f"{number:03}.csv", index=False)


def watched(folder: Path, length: str, way: str) -> list[dict[str, Any]]:
    """Records of all batches."""
    home = f"home of {length}, {way}"
    run(folder, "train", "--home", home)
    inbox = ("--inbox", f"{length}, {way}", "--home", home)
    run(folder, "run-batch", "--drain", "--quiet", *inbox, *WAYS[way])
    found = json.loads(run(folder, "status", "--home", home, "--last", "400", "--json"))
    records: list[dict[str, Any]] = found["batches"]
    return records


def told(length: str, way: str, records: list[dict[str, Any]]) -> str:
    """A line of the table, and what was said how often."""
    first = [FIRST + pd.Timedelta(days=LENGTHS[length] * k) for k in range(len(records))]
    months = np.array([day.month for day in first])
    losses = np.array([each["quality"]["log_loss"] for each in records])
    rows = np.array([each["batch"]["labelled"] for each in records])
    means = [
        float(np.average(losses[chosen], weights=rows[chosen]))
        for chosen in (np.isin(months, [*wanted]) for wanted in MONTHS.values())
    ]
    counts = {
        name: dict(Counter(each[name]["status"] for each in records))
        for name in ("drift", "quality")
    }
    tried = Counter(each["retraining"]["outcome"] for each in records if each["retraining"])
    cells = " | ".join(f"{mean:.3f}" for mean in means)
    return f"{length}, {way} | {cells}\n  {counts}\n  {dict(tried)}"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", action="store_true", help="in days, too")
    parser.add_argument("--folder", type=Path, help="an empty one; what was run stays there")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    write(folder)
    rule = ("--target", "arr_delay", "--positive", f"> {LATE}")
    run(folder, "init", "--from", "past.csv", *rule)
    print("mean log loss |", " | ".join(MONTHS))
    for length in ["weeks", "days"] if asked.days else ["weeks"]:
        for way in ASKED[length]:
            print(told(length, way, watched(folder, length, way)), flush=True)


if __name__ == "__main__":
    main()
