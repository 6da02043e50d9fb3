"""Retraining on more rows than are held in hand: `python tests/benchmarks/window.py [ROWS]`.

A home gets batches of labelled rows, four million in all, whose answers are not those that its
champion learnt. Then `train` is called three times on copies of it: with the newest rows in hand,
and with all of them on a cluster of one worker and of two. Seconds and memory are those that the
operating system tells of `train` itself, and of the largest process, a worker where there are any;
the log loss is that of a batch that nobody has seen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from wine_drift.dataset import load_schema
from wine_drift.ledger import Ledger
from wine_drift.measures import log_loss_per_row
from wine_drift.model import read_version

N_COLUMNS = 11
N_BATCHES = 4
IN_HAND = 500_000
SETTINGS = f'home = "home"\nschema = "made.toml"\nwindow_rows = {1 << 30}\nretrain = "never"\n'


def rows(n_rows: int, seed: int, *, turned: bool) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, and answers to which four of the columns lead, one in another way if asked."""
    rng = np.random.default_rng(seed)
    cells = rng.normal(size=(n_rows, N_COLUMNS)).round(3)
    edge = np.where(cells[:, 2] > 0, cells[:, 3], -cells[:, 3])
    slope = 1.5 * cells[:, 0] * (-1 if turned else 1) + cells[:, 1] + edge - 1
    return cells, rng.random(n_rows) < 1 / (1 + np.exp(-slope))


def write(path: Path, n_rows: int, seed: int, *, turned: bool) -> None:
    """Write such rows as Parquet."""
    cells, good = rows(n_rows, seed, turned=turned)
    columns = {f"x{j}": cells[:, j] for j in range(N_COLUMNS)} | {"y": good.astype(float)}
    parquet.write_table(pa.table(columns), path)


def called(home: Path, *arguments: object) -> tuple[float, float, float, str]:
    """Seconds, its own memory and that of the largest process in MB, and what it printed."""
    words = [
        sys.executable,
        "-m",
        "wine_drift",
        *map(str, arguments),
        "--settings",
        "settings.toml",
    ]
    environment = os.environ | {"WINE_DRIFT_HOME": str(home)}
    start, own = time.perf_counter(), 0.0
    with (
        tempfile.TemporaryFile("w+") as told,
        subprocess.Popen(words, stdout=told, env=environment) as process,
    ):
        while True:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            own = float(found[1]) / 1024 if found else own
            time.sleep(0.05)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        text = told.read()
    assert process.returncode == 0, text
    return time.perf_counter() - start, own, used.ru_maxrss / 1024, text


def main() -> None:
    """Print a line for each way."""
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000_000
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        target = '[target]\ncolumn = "y"\npositive = "> 0.5"\nminimum = 0\nmaximum = 1\n'
        features = (
            f'[[feature]]\nname = "x{j}"\nminimum = -99\nmaximum = 99\n' for j in range(N_COLUMNS)
        )
        Path("made.toml").write_text(
            f'name = "made"\nduplicates = "keep"\n{target}{"".join(features)}'
        )
        Path("settings.toml").write_text(SETTINGS)
        write(Path("first.parquet"), 5_000, 0, turned=False)
        called(Path("home"), "train", "--data", "first.parquet")
        for k in range(N_BATCHES):
            write(Path("batch.parquet"), n_rows // N_BATCHES, 1 + k, turned=True)
            seconds, memory, _, _ = called(Path("home"), "run-batch", "batch.parquet", "--quiet")
            print(f"batch of {n_rows // N_BATCHES:,}: {seconds:.1f} s, {memory:.0f} MB")
        cells, good = rows(200_000, 99, turned=True)
        dask = ("--engine", "dask", "--memory-rows", IN_HAND, "--threads")
        for name, words in {
            "in hand": ("--memory-rows", IN_HAND),
            "one worker": (*dask, 1),
            "two workers": (*dask, 2),
        }.items():
            home = Path(shutil.copytree("home", name.replace(" ", "-")))
            seconds, own, largest, told = called(home, "train", "--json", *words)
            report = json.loads(told)["retraining"]
            with Ledger.open(home, read_only=True) as ledger:
                manifest = ledger.champion()
            assert manifest is not None and load_schema(Path("made.toml"))
            scores = read_version(home / "models", manifest).model.score(cells)
            loss = log_loss_per_row(good, scores).mean()
            gate = report["gate"]
            print(
                f"{name:12} {manifest['training_rows']:10,} rows {seconds:7.1f} s "
                f"{own:6.0f} MB, largest process {largest:6.0f} MB; gate {gate['rows']:,} rows, "
                f"{gate['outcome']}; log loss {loss:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
