"""Measures the figures of the simulated table again: `make figures`, with WINE_DRIFT_DATA set."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from wine_drift.dataset import load_schema
from wine_drift.simulate import measure_figures

FIGURES = Path(__file__).parents[1] / "wine_drift" / "data" / "red_wine_figures.json"


def main() -> None:
    """Replace the shipped file; its provenance stays as it is."""
    table = np.loadtxt(os.environ["WINE_DRIFT_DATA"], delimiter=";", skiprows=1)
    provenance = json.loads(FIGURES.read_text(encoding="utf-8"))["provenance"]
    figures = measure_figures(table[:, :-1], table[:, -1], load_schema(None), provenance=provenance)
    FIGURES.write_text(figures.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
