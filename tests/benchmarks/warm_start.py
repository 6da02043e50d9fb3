"""What a scheduled run costs beside a cold process: `python tests/benchmarks/warm_start.py [RUNS]`.

Batches of 100 simulated wines lie in an inbox. They are taken in turn by a process of its own, as
cron would start it, and by a run that a scheduler forks from its warm process; the first of each
kind, which trains the model or waits for the imports, is left out.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wine_drift.cli import main as wine_drift
from wine_drift.dataset import load_schema
from wine_drift.scheduling import Scheduler
from wine_drift.service import WARM
from wine_drift.settings import Settings
from wine_drift.supply import write_simulated


def once(arguments: Sequence[str]) -> None:
    """One run, as the schedule makes it."""
    wine_drift(list(arguments), prog_name="wine-drift")


def main(n_runs: int) -> None:
    """Print the seconds of each kind, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        home, inbox = Path(folder) / "home", Path(folder) / "inbox"
        drawn = Settings(home=home, source="simulated", batch_rows=100)
        paths = write_simulated(
            drawn, load_schema(None), n_batches=2 * n_runs + 2, out=Path(folder) / "batches"
        )
        arguments = ["run-batch", "--home", str(home), "--quiet", "--retrain", "never"]
        first = replace(drawn, seed=1)
        table = Path(folder) / "table"
        (first_table,) = write_simulated(
            replace(first, batch_rows=1600), load_schema(None), n_batches=1, out=table
        )
        train = [sys.executable, "-m", "wine_drift", "train", "--home", str(home)]
        subprocess.run([*train, "--data", str(first_table)], check=True, stdout=subprocess.DEVNULL)
        inbox.mkdir()
        scheduler = Scheduler(once, WARM, deadline=60)
        cold, warm = [], []
        for number, path in enumerate(paths):
            command = [*arguments, str(path)]
            start = time.monotonic()
            if number % 2:
                code = scheduler.run(command).code
                warm.append(time.monotonic() - start)
            else:
                code = subprocess.run([sys.executable, "-m", "wine_drift", *command]).returncode
                cold.append(time.monotonic() - start)
            if code:
                raise SystemExit(f"a run ended with exit code {code}")
    cold, warm = cold[1:], warm[1:]
    print(f"warm / cold   {statistics.median(warm) / statistics.median(cold):.3f}")
    for name, seconds in (("cold", cold), ("warm", warm)):
        middle = statistics.median(seconds)
        print(f"{name}   median {middle:.3f} s, {min(seconds):.3f} to {max(seconds):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
