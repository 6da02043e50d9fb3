"""What a long past costs: `python tests/benchmarks/old_ledger.py [BATCHES] [REPEATS]`.

The ledger is given so many batches (500,000 are a year of minutes): of the first what is left of
batches whose record is forgotten, and then the commit of a real batch of 100 simulated wines again
and again, each under another content, twice as many as are kept. Then commands are timed in turn in
this home and in one that has seen a single batch: as cold processes, and forked from a warm one, as
the scheduler does it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wine_drift.cli import main as wine_drift
from wine_drift.dataset import load_schema
from wine_drift.ledger import Bounds, Commit, Ledger
from wine_drift.run import run_batch
from wine_drift.scheduling import Scheduler
from wine_drift.service import WARM
from wine_drift.settings import Settings
from wine_drift.supply import write_simulated

COMMANDS = ("run-batch", "metrics", "status", "health", "explain", "models list", "prune")


def real_commit(settings: Settings) -> tuple[Commit, Bounds]:
    """Process one batch, and give what it committed."""
    seen: list[tuple[Commit, Bounds]] = []
    commit_batch = Ledger.commit_batch

    def keep(ledger: Ledger, commit: Commit, bounds: Bounds) -> None:
        seen.append((commit, bounds))
        commit_batch(ledger, commit, bounds)

    Ledger.commit_batch = keep
    try:
        run_batch(settings)
    finally:
        Ledger.commit_batch = commit_batch
    return seen[0]


def grow(home: Path, commit: Commit, bounds: Bounds, n_batches: int, keep_history: int) -> None:
    """Add batches with a minute between them, the last of them as a run commits them."""
    at = commit.at
    whole = max(n_batches - 2 * keep_history, 1)  # from this number on

    def clock() -> float:
        return at

    def content_id(number: int) -> str:
        return hashlib.sha256(str(number).encode()).hexdigest()

    with Ledger.open(home, now=clock, keep_history=keep_history) as ledger:
        execute = ledger._connection.execute
        execute("PRAGMA synchronous = OFF")  # here nothing is to survive
        first, entry = ledger.next_sequence(), ledger.history()[-1][0]
        with ledger._transaction():
            for number in range(first, whole):
                row = (number, number + entry, content_id(number), at, 100, "processed")
                execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)", row)
            last = max(whole + entry - 1, entry)
            execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'history'", (last,))
        for number in tqdm(range(max(first, whole), n_batches + 1), file=sys.stderr, disable=None):
            at = commit.at + 60 * number
            record = {**commit.record, "batch": {**commit.record["batch"], "sequence": number}}
            run = {**(commit.run or {}), "started_at": at, "finished_at": at}
            parts: dict[str, Any] = {"record": record, "run": run, "at": at}
            ledger.commit_batch(replace(commit, content_id=content_id(number), **parts), bounds)


def cold(arguments: list[str]) -> float:
    """Seconds that a process of its own takes."""
    start = time.monotonic()
    null = os.open(os.devnull, os.O_WRONLY)
    command = [sys.executable, "-m", "wine_drift", *arguments]
    actions = [(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    child = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit(f"{arguments} failed")
    os.close(null)
    return time.monotonic() - start


def once(words: Sequence[str]) -> None:
    """A command, as the schedule starts it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    wine_drift(list(words))


@functools.cache
def scheduler() -> Scheduler:
    """One for all; not made by an import, as it changes the environment of its process."""
    return Scheduler(once, WARM, deadline=600)


def warm(arguments: list[str]) -> float:
    """Seconds that a fork takes in which all is imported."""
    start = time.monotonic()
    if scheduler().run(arguments).code:
        raise SystemExit(f"{arguments} failed")
    return time.monotonic() - start


def compare(
    way: Callable[[list[str]], float], homes: list[Path], files: list[Path], repeats: int
) -> None:
    """Time each command in both homes in turn, and print medians and their ratio."""
    for command in COMMANDS:
        took: list[list[float]] = [[], []]
        for n in range(repeats):
            file = files.pop() if command == "run-batch" else None
            for which in (0, 1) if n % 2 else (1, 0):
                words = [*command.split(), *([str(file)] if file else [])]
                took[which].append(way([*words, "--home", str(homes[which])]))
        new, old = map(statistics.median, took)
        print(f"{way.__name__:5} {command:12} {new:8.3f} s {old:8.3f} s   ratio {old / new:.2f}")


def main(n_batches: int, repeats: int) -> None:
    """Print the size of the ledger, and what each command takes."""
    with tempfile.TemporaryDirectory() as folder:
        new, old = Path(folder) / "new", Path(folder) / "old"
        settings = Settings(home=new, source="simulated", batch_rows=100, retrain="never")
        commit, bounds = real_commit(settings)
        shutil.copytree(new, old)
        start = time.monotonic()
        grow(old, commit, bounds, n_batches, settings.keep_history)
        took = time.monotonic() - start
        for name, home in (("one batch", new), (f"{n_batches:,} batches", old)):
            size = (home / "ledger.sqlite").stat().st_size
            print(f"{name}: a ledger of {size / 1e6:.1f} MB")
        print(f"growing it took {took:.0f} s, nothing synced")
        drawn = replace(settings, seed=7)
        out = Path(folder) / "batches"
        files = list(write_simulated(drawn, load_schema(None), n_batches=2 * repeats, out=out))
        os.environ["WINE_DRIFT_RETRAIN"] = "never"
        wine_drift(["prune", "--home", str(old), "--dry-run"], standalone_mode=False)
        print("      command       one batch       many")
        for way in (cold, warm):
            way(["status", "--home", str(new)])  # the imports, once
            compare(way, [new, old], files, repeats)
        start = time.monotonic()
        with Ledger.open(old) as ledger:
            ledger.back_up()
        print(f"a backup takes {time.monotonic() - start:.2f} s, once a day")


if __name__ == "__main__":
    main(*(int(word) for word in (*sys.argv[1:], *("500000", "15")[len(sys.argv) - 1 :])))
