"""Why a batch was judged as it was: columns by evidence, severity and the model's reliance on them.

Pure: a record in, rows or text out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Feature = Mapping[str, Any]


def ranked(features: Sequence[Feature]) -> list[Feature]:
    """Columns in the order in which they explain an alarm: evidence, severity, reliance.

    Evidence counts in powers of ten up to a hundred: beyond that all is equally certain, and what
    is larger comes first.
    """

    def weight(feature: Feature) -> tuple[float, float, float]:
        sure = min(round(feature["log10_evidence"]), 100)
        return sure, feature["severity"], feature.get("reliance") or 0.0

    return sorted(features, key=weight, reverse=True)


def change(feature: Feature, missing: float = 0.0) -> str:
    """What happened to a column, in its own unit.

    Parameters
    ----------
    feature : mapping
        As in the record: `name`, `unit`, `quantiles` and `reference_quantiles` (10, 50, 90 %), or
        `categories`.
    missing : float
        Share of the cells that are missing.

    Examples
    --------
    >>> alcohol = {"name": "alcohol", "unit": "% vol", "quantiles": [9.5, 11.1, 12.8],
    ...            "reference_quantiles": [9.3, 10.2, 12.0]}
    >>> change(alcohol)
    'alcohol +0.9 % vol (median 10.2 -> 11.1)'
    >>> change(alcohol | {"quantiles": [8.0, 10.2, 14.0]})
    'alcohol spread +3.3 % vol (10 to 90 %: 9.3 to 12 -> 8 to 14)'
    >>> change(alcohol | {"quantiles": [None] * 3}, missing=1.0)
    'alcohol 100 % missing'
    >>> shares = (("red", 0.41, 0.62), ("white", 0.38, 0.38), ("(other)", 0.21, 0.0))
    >>> wine = {"name": "kind", "unit": "", "categories":
    ...         [{"name": n, "share": s, "reference_share": was} for n, s, was in shares]}
    >>> change(wine)
    'kind red 62 % -> 41 %, (other) 0 % -> 21 %'
    """
    name, unit = feature["name"], f" {feature['unit']}" if feature["unit"] else ""
    gone = f"{_percent(missing)} missing"
    if feature.get("categories"):
        text = f"{name} {_moved(feature['categories'])}"
        return f"{text}, {gone}" if missing >= 0.01 else text
    if None in feature["quantiles"] or None in feature["reference_quantiles"]:
        return f"{name} {gone}" if missing else f"{name} without values"
    (low, middle, high), (was_low, was, was_high) = (
        feature["quantiles"],
        feature["reference_quantiles"],
    )
    digits = _digits(was_high - was_low or high - low)
    shift, spread = middle - was, (high - low) - (was_high - was_low)

    def told(value: float) -> str:
        text = f"{abs(value):.{digits}f}" if abs(value) < 1e7 else f"{abs(value):.4g}"
        text = text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
        return ("-" if value < 0 and text != "0" else "") + text

    def signed(value: float) -> str:
        return ("+" if value >= 0 else "-") + told(abs(value))

    if told(shift) == told(spread) == "0":
        text = f"{name} unchanged (median {told(was)})"
    elif abs(shift) >= abs(spread) / 2:
        text = f"{name} {signed(shift)}{unit} (median {told(was)} -> {told(middle)})"
    else:
        ends = f"{told(was_low)} to {told(was_high)} -> {told(low)} to {told(high)}"
        text = f"{name} spread {signed(spread)}{unit} (10 to 90 %: {ends})"
    return f"{text}, {gone}" if missing >= 0.01 else text


def explain(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Columns of a record, ranked, each with its change as text.

    Returns
    -------
    list of dict
        `name`, `log10_evidence`, `severity`, `reliance`, `drifted`, `change`.
    """
    missing = record["batch"]["missing"]
    keys = ("name", "log10_evidence", "severity", "reliance", "drifted")
    return [
        {key: feature[key] for key in keys}
        | {"change": change(feature, missing.get(feature["name"], 0.0))}
        for feature in ranked(record["drift"]["features"])
    ]


def pattern(drift: Mapping[str, Any]) -> str | None:
    """What the columns say together, where none of the features says it.

    >>> feature = {"name": "pH", "drifted": False}
    >>> pattern({"status": "drift", "features": [feature, {"name": "score", "drifted": True}]})
    'the score moved, though no feature did: features go together in another way than before'
    """
    if drift["status"] not in ("drift", "major"):
        return None
    drifted = {feature["name"] for feature in drift["features"] if feature["drifted"]}
    if drifted == {"score"}:
        return (
            "the score moved, though no feature did: features go together in another way than "
            "before"
        )
    if not drifted:
        return "no column alone, but all together"
    return None


def _moved(categories: Sequence[Mapping[str, Any]]) -> str:
    """The two categories whose shares changed most, the one that lost first."""

    def gain(each: Mapping[str, Any]) -> float:
        return float(each["share"] - each["reference_share"])

    changed = [each for each in categories if abs(gain(each)) >= 0.005]
    if not changed:
        return "unchanged"
    most = sorted(changed, key=lambda each: -abs(gain(each)))[:2]
    return ", ".join(
        f"{each['name']} {_percent(each['reference_share'])} -> {_percent(each['share'])}"
        for each in sorted(most, key=gain)
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _digits(spread: float) -> int:
    """Decimals that resolve a hundredth of a spread."""
    return 4 if not spread > 0 else min(8, max(0, 2 - math.floor(math.log10(spread))))
