"""One batch in one process, by packages that are not wine-drift.

    peers.py NAME prepare TABLE FOLDER            once: keeps the reference as a run wants it
    peers.py NAME run BATCH FOLDER MODEL [GATEWAY]

A run reads the batch, scores it with LightGBM, takes log loss and AUC from scikit-learn, which each
package needs anyway, compares the features with the reference as the package does by default, and
pushes what it found.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from lightgbm import Booster
from prometheus_client import CollectorRegistry, Gauge, push_to_gateway
from sklearn.metrics import log_loss, roc_auc_score

Figures = dict[tuple[str, str], float]  # of a column: what it is, and how much


def keep_array(reference: pd.DataFrame, folder: Path) -> None:
    """For scipy and alibi-detect: the values."""
    np.save(folder / "reference.npy", reference.to_numpy())


def keep_frame(reference: pd.DataFrame, folder: Path) -> None:
    """For Evidently: a table."""
    reference.to_pickle(folder / "reference.pickle")


def keep_calculator(reference: pd.DataFrame, folder: Path) -> None:
    """For NannyML: a calculator that has seen the reference."""
    from nannyml import UnivariateDriftCalculator

    calculator = UnivariateDriftCalculator([*reference.columns]).fit(reference)
    (folder / "calculator.pickle").write_bytes(pickle.dumps(calculator))


def by_scipy(batch: pd.DataFrame, folder: Path) -> Figures:
    """Kolmogorov-Smirnov for the evidence, Wasserstein distance for the size."""
    from scipy.stats import ks_2samp, wasserstein_distance

    figures: Figures = {}
    for name, known in zip(batch.columns, np.load(folder / "reference.npy").T, strict=True):
        values = batch[name].to_numpy()
        test = ks_2samp(known, values)
        figures[name, "ks"], figures[name, "p_value"] = test.statistic, test.pvalue
        figures[name, "wasserstein"] = wasserstein_distance(known, values) / known.std()
    return figures


def by_alibi_detect(batch: pd.DataFrame, folder: Path) -> Figures:
    """Kolmogorov-Smirnov, corrected for the number of features."""
    from alibi_detect.cd import KSDrift

    found = KSDrift(np.load(folder / "reference.npy")).predict(batch.to_numpy())["data"]
    figures: Figures = {("", "drift"): found["is_drift"]}
    for name, distance, p in zip(batch.columns, found["distance"], found["p_val"], strict=True):
        figures[name, "ks"], figures[name, "p_value"] = distance, p
    return figures


def by_nannyml(batch: pd.DataFrame, folder: Path) -> Figures:
    """Jensen-Shannon distance, of ten chunks of the batch."""
    kept = (folder / "calculator.pickle").read_bytes()  # NannyML keeps it in no other form
    calculator = pickle.loads(kept)  # noqa: S301 - this benchmark wrote it a moment ago
    table = calculator.calculate(batch).filter(period="analysis").to_df()
    return {
        (name, f"{kind}_{number}"): value
        for name in batch.columns
        for kind in ("value", "alert")
        for number, value in enumerate(table[name, "jensen_shannon", kind])
    }


def by_evidently(batch: pd.DataFrame, folder: Path) -> Figures:
    """Wasserstein distance, as the reference has more than 1,000 rows; share of drifted columns."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    kept = folder / "reference.pickle"  # what loads fastest: nobody is slowed down by us
    reference = pd.read_pickle(kept)  # noqa: S301 - this benchmark wrote it a moment ago
    whole, *columns = Report([DataDriftPreset()]).run(batch, reference).dict()["metrics"]
    figures: Figures = {("", name): value for name, value in whole["value"].items()}
    return figures | {(m["config"]["column"], "distance"): m["value"] for m in columns}


PEERS: dict[
    str, tuple[Callable[[pd.DataFrame, Path], None], Callable[[pd.DataFrame, Path], Figures]]
] = {
    "scipy": (keep_array, by_scipy),
    "alibi-detect": (keep_array, by_alibi_detect),
    "nannyml": (keep_calculator, by_nannyml),
    "evidently": (keep_frame, by_evidently),
}


def push(figures: Figures, quality: dict[str, float], job: str, gateway: str) -> None:
    """Send everything that is known of the batch."""
    registry = CollectorRegistry()
    for name, value in quality.items():
        Gauge(f"peer_{name}", "Of the batch.", registry=registry).set(value)
    drift = Gauge("peer_drift", "Of the batch.", ["column", "figure"], registry=registry)
    for key, value in figures.items():
        drift.labels(*key).set(value)
    push_to_gateway(gateway, job=job, registry=registry)


def main(peer: str, task: str, table: str, folder: str, model: str = "", gateway: str = "") -> None:
    """Keep the reference, or judge a batch."""
    keep, judge = PEERS[peer]
    frame = pd.read_csv(table, sep=";")
    y = frame.pop("quality").to_numpy() > 6.5
    if task == "prepare":
        keep(frame, Path(folder))
        return
    p = Booster(model_file=model).predict(frame.to_numpy())
    quality = {"log_loss": float(log_loss(y, p)), "roc_auc": float(roc_auc_score(y, p))}
    figures = judge(frame, Path(folder))
    if gateway:
        push(figures, quality, peer, gateway)
    print(json.dumps({"quality": quality}))


if __name__ == "__main__":
    main(*sys.argv[1:])
