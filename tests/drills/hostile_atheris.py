"""Coverage-guided fuzzing of the readers with atheris: `hostile_atheris.py TARGET FLAGS CORPUS`."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import pandas as pd

with atheris.instrument_imports(include=["wine_drift"]):
    from wine_drift.bundle import read_bundle
    from wine_drift.dataset import load_schema
    from wine_drift.errors import WineDriftError
    from wine_drift.model import compared_model
    from wine_drift.screening import row_names, screen, set_aside_rows
    from wine_drift.tables import read_parts, read_table
    from wine_drift.trees import check_trees

from hostile_files import bundled, zipped

SCHEMA = load_schema(None)
HEADER = ";".join((*SCHEMA.feature_names, SCHEMA.target)).encode() + b"\n"
SUFFIXES = (".csv", ".gz", ".zip", ".parquet")


def table(data: bytes) -> None:
    """A file of any kind is a table that can be screened, or one of our errors."""
    if not data:
        return
    kind, rest = data[0] % 6, data[1:]
    path = Path(f"t{SUFFIXES[kind % 4]}")
    path.write_bytes(HEADER + rest if kind > 3 else rest)
    if kind > 3:
        path = path.rename("t.csv")
    text_column = "pH" if kind == 5 else None
    try:
        frame = read_table(path, most_bytes=1 << 20, text_column=text_column)
        screened = screen(frame, SCHEMA)
    except WineDriftError:
        return
    row_names(frame, "pH")
    for row in set_aside_rows(frame, screened, SCHEMA):
        "".join(map(str, row)).encode()
    parts = read_parts(path, most_bytes=1 << 20, text_column=text_column, part_rows=2)
    assert sum(map(len, parts)) == len(frame)


def bundle(data: bytes) -> None:
    """A file of any kind is a version, or one of our errors."""
    path = Path("v.tar")
    path.write_bytes(data)
    try:
        read_bundle(path)
    except WineDriftError:
        return


def trees(data: bytes) -> None:
    """A text is one that LightGBM can load and score with, or it is refused."""
    try:
        text = data.decode()
        check_trees(text, 2)
    except ValueError:
        return
    compared_model(text, np.zeros((1, 2))).score(np.zeros((1, 2)))


def _seeds(target: str, folder: Path) -> None:
    """Something to begin with."""
    row = b"7;0.5;0;2;0.07;10;30;0.99;3.3;0.6;10;5\n"
    out = io.BytesIO()
    pd.DataFrame({"pH": [3.0, 3.1]}).to_parquet(out)
    found = {
        "table": (
            *(b"\x04" + row * 2, b"\x00a;b\n1;2\n", b"\x01" + gzip.compress(HEADER + row)),
            *(b"\x02" + zipped(("a.csv", HEADER + row)), b"\x03" + out.getvalue()),
        ),
        "bundle": (bundled({"manifest.json": b"{}", "model.txt": b"tree"}),),
        "trees": (_model().encode(),),
    }[target]
    for number, data in enumerate(found):
        (folder / f"seed{number}").write_bytes(data)


def _model() -> str:
    import lightgbm

    values = np.random.default_rng(0).normal(size=(60, 2))
    options = {"objective": "binary", "verbosity": -1, "num_leaves": 3, "num_threads": 1}
    data = lightgbm.Dataset(values, (values[:, 0] > 0).astype(int))
    text: str = lightgbm.train(options, data, 2).model_to_string()
    return text


TARGETS: dict[str, Callable[[bytes], None]] = {"table": table, "bundle": bundle, "trees": trees}

if __name__ == "__main__":
    name, *flags = sys.argv[1:]
    _seeds(name, Path(flags[-1]))
    atheris.Setup([sys.argv[0], *flags], TARGETS[name])
    atheris.Fuzz()
