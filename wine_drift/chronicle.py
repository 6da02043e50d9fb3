"""The past as a few points: what a page draws of each batch, and of many batches together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

DAY = 86_400.0
NOTHING = math.nan


class Estimate(NamedTuple):
    """A measure with its 95 % limits; NaN where there is none."""

    value: float = NOTHING
    low: float = NOTHING
    high: float = NOTHING


@dataclass(frozen=True, slots=True)
class Point:
    """One batch, or some that follow each other."""

    sequence: int  # number of the last batch
    at: float  # Unix time of it
    version: str  # that scored it
    log_loss: Estimate  # nats
    roc_auc: Estimate
    usual_log_loss: float  # of the reference
    usual_roc_auc: float
    drift_evidence: float  # log10; NaN where nothing was judged
    quality_evidence: float  # log10
    severity: float  # the largest of all columns
    columns: Mapping[str, tuple[float, bool]]  # severity, and whether there is evidence enough
    refused: bool  # whether a challenger was tried that did not win


def point(at: float, record: Mapping[str, Any]) -> Point:
    """What a page draws of a processed batch.

    Parameters
    ----------
    at : float
        Unix time.
    record : mapping
        As `docs/record.md` has it.
    """
    drift, quality, tried = record["drift"], record["quality"], record["retraining"]
    enough = record["thresholds"]["log10_evidence"]
    return Point(
        sequence=record["batch"]["sequence"],
        at=at,
        version=record["model"]["version"],
        log_loss=_estimate(quality, "log_loss"),
        roc_auc=_estimate(quality, "roc_auc"),
        usual_log_loss=_known(quality["reference"]["log_loss"]),
        usual_roc_auc=_known(quality["reference"]["roc_auc"]),
        drift_evidence=_known(drift["log10_evidence"]),
        quality_evidence=_known(quality["log10_evidence"]),
        severity=_known(drift["severity"]),
        columns={
            each["name"]: (each["severity"], each["log10_evidence"] >= enough)
            for each in drift["features"]
        },
        refused=tried is not None and tried["outcome"] in ("rejected", "failed"),
    )


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points: each is of as many batches that follow each other as the others.

    Measures are medians, and so are their limits; evidence and severity are the largest, so that
    no alarm is lost.

    Parameters
    ----------
    points : sequence of Point
        Oldest first.
    most : int, >= 1

    Examples
    --------
    >>> def of(k):
    ...     value = Estimate(k, k - 1, k + 1)
    ...     return Point(k, k, "v1", value, value, 0, 0, k, k, k, {"pH": (k, k > 2)}, False)
    >>> [(each.sequence, each.log_loss.value, each.severity, each.columns)
    ...  for each in thinned([of(1), of(2), of(3)], 2)]
    [(2, 1.5, 2, {'pH': (2, False)}), (3, 3, 3, {'pH': (3, True)})]
    """
    size = max(1, math.ceil(len(points) / most))
    if size == 1:
        return list(points)
    return [_together(points[k : k + size]) for k in range(0, len(points), size)]


def successions(points: Sequence[Point]) -> list[Point]:
    """The first batch of each champion but the first.

    >>> def of(k, version):
    ...     return Point(k, 0, version, Estimate(), Estimate(), 0, 0, 0, 0, 0, {}, False)
    >>> [each.sequence for each in successions([of(1, "v1"), of(2, "v1"), of(3, "v2")])]
    [3]
    """
    return [after for before, after in pairwise(points) if before.version != after.version]


def when(at: float, span: float = 0.0) -> str:
    """A Unix time in UTC: in full, or as short as tells it apart in a span of so many seconds.

    >>> when(1.7e9), when(1.7e9, 3e6), when(1.7e9, 7200), when(1.7e9, 60)
    ('2023-11-14 22:13 UTC', '14 Nov', '22:13', '22:13:20')
    """
    moment = datetime.fromtimestamp(at, UTC)
    if not span:
        return f"{moment:%Y-%m-%d %H:%M} UTC"
    if span >= 400 * DAY:
        return f"{moment:%b %Y}"
    if span >= 2 * DAY:
        return f"{moment.day} {moment:%b}"
    return f"{moment:%H:%M}" if span >= 600 else f"{moment:%H:%M:%S}"


def _together(points: Sequence[Point]) -> Point:
    columns: dict[str, tuple[float, bool]] = {}
    for each in points:
        for name, (severity, evident) in each.columns.items():
            before = columns.get(name, (severity, evident))
            columns[name] = max(before[0], severity), before[1] or evident
    last = points[-1]
    return Point(
        sequence=last.sequence,
        at=last.at,
        version=last.version,
        log_loss=_medians([each.log_loss for each in points]),
        roc_auc=_medians([each.roc_auc for each in points]),
        usual_log_loss=last.usual_log_loss,
        usual_roc_auc=last.usual_roc_auc,
        drift_evidence=_largest([each.drift_evidence for each in points]),
        quality_evidence=_largest([each.quality_evidence for each in points]),
        severity=_largest([each.severity for each in points]),
        columns=columns,
        refused=any(each.refused for each in points),
    )


def _medians(estimates: Sequence[Estimate]) -> Estimate:
    def middle(values: Sequence[float]) -> float:
        return median(_there(values) or [NOTHING])

    return Estimate(*(middle(part) for part in zip(*estimates, strict=True)))


def _largest(values: Sequence[float]) -> float:
    return max(_there(values), default=NOTHING)


def _there(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _estimate(quality: Mapping[str, Any], measure: str) -> Estimate:
    if quality[measure] is None:
        return Estimate()
    return Estimate(quality[measure], *quality["intervals"].get(measure, (NOTHING, NOTHING)))


def _known(value: float | None) -> float:
    return NOTHING if value is None else value
