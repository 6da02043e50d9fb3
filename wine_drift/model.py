"""The model and its immutable folder: the only importer of lightgbm, and only where it trains.

A version is five files: LightGBM's own text, the reference as counts and as rows, the training
rows, and a manifest with the SHA-256 of the others; and the text of the model that it was continued
from, if it was. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from platform import python_version
from typing import TYPE_CHECKING, Any

import numpy as np

from wine_drift.bins import Floats
from wine_drift.errors import StateUnreadable
from wine_drift.forest import Forest, read_forest
from wine_drift.reference import Reference
from wine_drift.rows import LabelledRows, Lot, Shard, shards_of
from wine_drift.shelf import Place, read_files, restore_remedy, write_files

if TYPE_CHECKING:  # loading it takes longer than a run does
    import lightgbm

# The optimum of grouped cross-validation on red wine is flat around these. Class weights are left
# out on purpose: they destroy the calibration of the scores.
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "extra_trees": True,
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 10,
    "lambda_l2": 5.0,
    "feature_fraction": 0.7,
    "deterministic": True,
    "force_col_wise": True,
    "verbose": -1,
}
_OF_SCIKIT = {  # what LightGBM's classes for scikit-learn, and so for Dask, call them
    "min_data_in_leaf": "min_child_samples",
    "lambda_l2": "reg_lambda",
    "feature_fraction": "colsample_bytree",
}
_TRACES = {  # parameters that tell where a model was trained, and not how; LightGBM's defaults
    "num_threads": "0",
    "tree_learner": "serial",
    "num_machines": "1",
    "local_listen_port": "12400",
    "time_out": "120",
    "machines": "",
}
# Minutes that LightGBM waits for a word of another worker; its lines can be told by it.
TIME_OUT = 61
ALGORITHM = "lightgbm"
MASKS = "masks"  # how a model is scored: by `forest`, or by ALGORITHM
_EXPLAINED = 1_000  # rows that reliance is averaged over
_SMALL = 5_000  # rows; below, a second thread costs more than it brings


@dataclass(frozen=True)
class Model:
    """A trained classifier."""

    text: str  # LightGBM's text format
    forest: Forest | None = None  # the same, where it gives the same scores
    threads: int = 0

    @cached_property
    def booster(self) -> lightgbm.Booster:
        """LightGBM's own."""
        return _booster(self.text)

    @property
    def n_trees(self) -> int:
        """Trees, those of a base included."""
        return len(re.findall(r"^Tree=\d+$", self.text, re.MULTILINE))

    @property
    def scoring(self) -> str:
        """How it is scored: MASKS or ALGORITHM."""
        return ALGORITHM if self.forest is None else MASKS

    def score(self, features: Floats) -> Floats:
        """Probability of a positive, (n_rows,), for features of shape (n_rows, n_features)."""
        if not len(features):
            return np.empty(0)
        if self.forest is not None:
            return self.forest.score(features)
        threads = _threads(len(features), self.threads)
        scores: Floats = np.asarray(self.booster.predict(features, num_threads=threads))
        return scores

    def reliance(self, features: Floats) -> Floats:
        """How much of the scores each feature makes, (n_features,), summing to 1.

        The mean absolute contribution to the log-odds over the rows given (TreeSHAP; Lundberg et
        al., 2020, Nature Machine Intelligence 2); all 0 for a model without a split.
        """
        rows = features[:: max(1, len(features) // _EXPLAINED)]
        parts = np.abs(np.asarray(self.booster.predict(rows, pred_contrib=True))[:, :-1])
        total = parts.sum()
        shares: Floats = parts.sum(axis=0) / total if total else np.zeros(features.shape[1])
        return shares


def train(
    rows: LabelledRows,
    weight: Floats,
    *,
    rounds: int,
    seed: int,
    threads: int = 0,
    start: Model | None = None,
    categorical: Sequence[int] = (),
) -> Model:
    """Train a classifier; the same arguments give the same text.

    Parameters
    ----------
    rows : LabelledRows
    weight : ndarray of shape (n_rows,), > 0
    rounds : int
        Trees, added to those of `start`.
    start : Model, optional
        Go on from it rather than from nothing.
    categorical : sequence of int
        Columns that hold numbers of categories, which have no order.
    """
    import lightgbm

    used = _threads(len(rows), threads)
    parameters = PARAMETERS | {"seed": seed, "num_threads": used}
    dataset = lightgbm.Dataset(
        rows.features,
        label=rows.positive.astype(float),
        weight=weight,
        categorical_feature=list(categorical),
    )
    booster = lightgbm.train(
        parameters,
        dataset,
        num_boost_round=rounds,
        init_model=None if start is None else start.booster,
    )
    return _finished(booster, rows, threads)


def refit(
    model: Model,
    rows: LabelledRows,
    *,
    decay: float,
    threads: int = 0,
    categorical: Sequence[int] = (),
) -> Model:
    """Keep the trees of a model, and fit the values of their leaves anew.

    Parameters
    ----------
    rows : LabelledRows
    decay : float, in [0, 1]
        Weight of the old value of a leaf; the rest is what these rows give it.
    categorical : sequence of int
        As of `train`.
    """
    used = _threads(len(rows), threads)
    booster = _booster(model.text)
    booster.params = PARAMETERS | {"num_threads": used}  # older releases forget them in a text
    answers = rows.positive.astype(float)
    booster = booster.refit(
        rows.features,
        answers,
        decay_rate=decay,
        categorical_feature=list(categorical),
        num_threads=used,
        verbose=-1,
    )
    return _finished(booster, rows, threads)


def _finished(booster: lightgbm.Booster, rows: LabelledRows, threads: int) -> Model:
    return compared_model(_text(booster), rows.features, threads=threads)


def _text(booster: lightgbm.Booster) -> str:
    """Its text, in which no number of threads, address or port leaves a trace."""
    text: str = booster.model_to_string()
    names = "|".join(_TRACES)
    return re.sub(rf"(?m)^\[({names}): .*\]$", lambda m: f"[{m[1]}: {_TRACES[m[1]]}]", text)


class _Quiet:
    """Hears what LightGBM says in this process, and passes on what is of interest."""

    def info(self, message: str) -> None:
        """Its part for Dask tells each step."""

    def warning(self, message: str) -> None:
        """It warns of a default of its own as if somebody had set it."""
        if message != "Parameter n_jobs will be ignored.":
            warnings.warn(message, stacklevel=2)


def load_spread() -> None:
    """Load what trains on a cluster: a worker that does so while others wait keeps them waiting."""
    import lightgbm.dask  # noqa: F401 - to have it loaded


def forget_network(wait: float = 0.0) -> None:
    """Have LightGBM train alone again in this thread, where a training with others failed.

    Parameters
    ----------
    wait : float
        Seconds that the thread is kept, so that the next call goes to another one.
    """
    import lightgbm

    lightgbm.Booster.__new__(lightgbm.Booster).free_network()
    time.sleep(wait)


def train_spread(
    client: Any,
    features: Any,
    answers: Any,
    weights: Any,
    *,
    rounds: int,
    seed: int,
    categorical: Sequence[int] = (),
) -> str:
    """Train a classifier on the workers of a Dask cluster that hold the rows.

    LightGBM makes the bins of each column from the rows of one worker alone: each must hold rows
    like those of the others, and enough of them.

    Parameters
    ----------
    client : training.Asked
        With a distributed.Client as it is, workers can wait for each other for ever.
    features : dask.array of shape (n_rows, n_features)
        Cut between rows only.
    answers : dask.array of shape (n_rows,), 0 or 1
    weights : dask.array of shape (n_rows,), > 0
    rounds : int
        Trees.
    seed : int
    categorical : sequence of int
        As of `train`.

    Returns
    -------
    str
        LightGBM's text format.
    """
    import lightgbm.dask

    lightgbm.register_logger(_Quiet())
    # its classifier looks at the answers of each worker, which may be all the same
    model = lightgbm.DaskLGBMRegressor(
        client=client,
        n_estimators=rounds,
        random_state=seed,
        time_out=TIME_OUT,
        **{_OF_SCIKIT.get(name, name): value for name, value in PARAMETERS.items()},
    )
    model.fit(features, answers, sample_weight=weights, categorical_feature=list(categorical))
    return _text(model.booster_)


def compared_model(text: str, features: Floats, *, threads: int = 0) -> Model:
    """Read LightGBM's text format; masks score it if they do so as LightGBM, to the last bit.

    Parameters
    ----------
    features : ndarray of shape (n_rows, n_features)
        Rows that both are tried on.

    Raises
    ------
    ValueError, KeyError, IndexError
        It is no such text.
    """
    model = Model(text, read_forest(text), threads)
    if model.forest is not None:
        expected = model.booster.predict(features, raw_score=True, num_threads=1)
        if not np.array_equal(model.forest.log_odds(features), np.asarray(expected)):
            return replace(model, forest=None)
    return model


def read_model(text: str, scoring: str | None, *, threads: int = 0) -> Model:
    """Read LightGBM's text format; unless `scoring` is MASKS, it is for LightGBM to score."""
    model = Model(text, read_forest(text) if scoring == MASKS else None, threads)
    if model.forest is None:
        _ = model.booster  # what is wrong with it is told now
    return model


def _booster(text: str) -> lightgbm.Booster:
    import lightgbm

    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class Version:
    """A model with everything that is needed to judge batches by it and to train its successor."""

    version: str
    model: Model
    reference: Reference
    reference_rows: LabelledRows  # the monitored columns: features, then the out-of-fold score
    cut: float  # score from which a row is predicted positive
    rows: LabelledRows  # what it was trained on; a sample, if that is in shards
    manifest: Mapping[str, Any]
    base: Model | None = None  # what it was continued from; None: it was trained from nothing

    @property
    def scratch_base(self) -> Model:
        """The last model of its line that was trained from nothing."""
        return self.base or self.model

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Files with all that it was trained on; none if `rows` are that."""
        return shards_of(self.manifest.get("shards", ()))

    @property
    def learnt(self) -> Lot:
        """All that it was trained on."""
        return Lot(self.rows.take(slice(0, 0)) if self.shards else self.rows, self.shards)


def version_name(number: int, text: str) -> str:
    """Name of a version: its number, and what its model is.

    >>> version_name(3, "tree")
    'v3-dc9c5edb'
    """
    return f"v{number}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_version(folder: Place, version: Version) -> Version:
    """Write the folder of a version: all of it or nothing, whatever happens.

    Returns
    -------
    Version
        The same, with the hash of every file, and how it is scored, in its manifest. A folder of
        that name holds the same model, from a run that ended before its commit, and is replaced.
    """
    reference = {"reference": version.reference.to_dict(), "cut": version.cut}
    files = {
        "model.txt": version.model.text.encode(),
        "reference.json": json.dumps(reference).encode(),
        "reference.npy.z": version.reference_rows.to_bytes(),
        "rows.npy.z": version.rows.to_bytes(),
    }
    if version.base is not None:
        files["base.txt"] = version.base.text.encode()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    found = {"files": hashes, "scoring": version.model.scoring}
    version = replace(version, manifest={**version.manifest, **found})
    write_files(folder, version.manifest, files)
    return version


def parse_version(
    contents: Mapping[str, bytes], manifest: Mapping[str, Any], *, threads: int = 0
) -> Version:
    """Make a version of its files; what is wrong with them comes as the error of whoever trips."""
    stored = json.loads(contents["reference.json"])
    base = contents.get("base.txt")
    return Version(
        version=manifest["version"],
        model=read_model(contents["model.txt"].decode(), manifest.get("scoring"), threads=threads),
        base=None if base is None else Model(base.decode(), threads=threads),
        reference=Reference.from_dict(stored["reference"]),
        reference_rows=LabelledRows.from_bytes(contents["reference.npy.z"]),
        cut=float(stored["cut"]),
        rows=LabelledRows.from_bytes(contents["rows.npy.z"]),
        manifest=manifest,
    )


def read_version(folder: Place, manifest: Mapping[str, Any], *, threads: int = 0) -> Version:
    """Read the folder of a version and check every file against the ledger's own manifest.

    Raises
    ------
    StateUnreadable
        A file is missing, or is not what was written.
    """
    try:
        return parse_version(read_files(folder, manifest), manifest, threads=threads)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        path = f"{folder}/{manifest['version']}"
        raise StateUnreadable(
            f"model {path}: {error!r}", remedy=restore_remedy(manifest)
        ) from error


def read_reference(folder: Place, manifest: Mapping[str, Any]) -> Reference:
    """What a version answers for, its model and its rows left alone; errors as `read_version`."""
    name = "reference.json"
    try:
        content = read_files(folder, {**manifest, "files": {name: manifest["files"][name]}})[name]
        return Reference.from_dict(json.loads(content)["reference"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        path = f"{folder}/{manifest['version']}"
        raise StateUnreadable(
            f"model {path}: {error!r}", remedy=restore_remedy(manifest)
        ) from error


def libraries() -> dict[str, str]:
    """Versions of what a model depends on, for its manifest."""
    from importlib.metadata import version

    names = ("lightgbm", "numpy", "wine-drift", "scikit-learn", "scipy")
    return {"python": python_version(), **{name: version(name) for name in names}}


def _threads(n_rows: int, wanted: int) -> int:
    return 1 if n_rows < _SMALL else wanted or (os.cpu_count() or 1)
