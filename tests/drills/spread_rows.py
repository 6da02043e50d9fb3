"""Rows that workers of a Dask cluster make, and what they tell of themselves."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from wine_drift.errors import BadBatch
from wine_drift.training import Rows

N_FEATURES = 5


def table(seed: int, n_rows: int) -> Rows:
    """Features with many ties, answers that need deep trees, and two kinds of weights."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_rows, N_FEATURES)).round(2)
    signal = features[:, 0] * features[:, 1] + np.sin(3 * features[:, 2]) + features[:, 3] ** 2
    answers = (signal + rng.normal(size=n_rows) > 1).astype(float)
    return features, answers, np.where(np.arange(n_rows) % 2, 1.0, 0.5)


def sorted_table(seed: int, n_rows: int) -> Rows:
    """The same, by answer, and then by a feature."""
    features, answers, weights = table(seed, n_rows)
    order = np.lexsort((features[:, 3], answers))
    return features[order], answers[order], weights[order]


def slowly(seed: int, n_rows: int) -> Rows:
    """The same, after a while."""
    time.sleep(0.3)
    return table(seed, n_rows)


def unhappy(seed: int) -> Rows:
    """A part that cannot be read."""
    raise BadBatch(f"part {seed} is bad")


def threads_at_work(dask_worker: Any) -> int:
    """How many are."""
    return len(dask_worker.active_threads)


def works(dask_worker: Any) -> bool:
    """Whether any is."""
    return bool(dask_worker.active_threads)


def pause(dask_worker: Any) -> None:
    """Take no more work, for want of memory."""
    dask_worker.memory_manager.memory_pause_fraction = 1e-9
