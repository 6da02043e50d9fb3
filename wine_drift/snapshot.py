"""What the ledger knows, as far as it is published or told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Labels = tuple[tuple[str, str], ...]  # of a metric: names and values


@dataclass(frozen=True)
class Snapshot:
    """What the ledger knows, as far as it is published."""

    counters: Mapping[tuple[str, Labels], float] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None  # of the last processed batch
    batch_at: float | None = None  # Unix time of that batch
    labelled: Mapping[str, Any] | None = None  # of the last one with a label
    decision: Mapping[str, Any] | None = None  # the last one, of a batch or of late labels
    waiting: Mapping[str, float] = field(default_factory=dict)  # batches, rows, oldest_at
    waiting_since: float | None = None  # Unix time since when retraining waits for labels
    recent_retrains: int = 0  # tries that alarms led to, in the last LOOP_BATCHES batches
    champion: Mapping[str, Any] | None = None  # its manifest
    run: Mapping[str, Any] | None = None  # finished_at, success, duration, stages, ...
    power: Mapping[str, Any] | None = None  # what `selftest power` found for the champion
    last_success: float = 0.0  # Unix time; 0: never
    retraining: Mapping[str, Any] | None = None  # the last one: at, gate
