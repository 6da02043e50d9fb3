"""What the detector does on the user's own rows: false alarms, what it finds, and how fast.

Everything is simulated from the champion's reference rows at the user's batch size, and judged by
the very code that judges a real batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from wine_drift.bins import Floats, count
from wine_drift.detector import DRIFT, DROP, Limits
from wine_drift.errors import SettingsError
from wine_drift.faults import MAX_DECIMALS, count_traits, find_faults
from wine_drift.home import models_place, writing
from wine_drift.ledger import Ledger
from wine_drift.measures import measure_quality, wilson
from wine_drift.model import Version, read_version
from wine_drift.outcomes import CLIP
from wine_drift.settings import Settings
from wine_drift.special import expit, logit
from wine_drift.streams import Streams

T = TypeVar("T")
Progress = Callable[[Sequence[T]], Iterable[T]]

MOST_ROWS = 5_000  # of the reference that are drawn from, and a reference of each stream
STREAMS = 40  # each with a reference of its own
FOUND = 0.95  # share of batches in which a shift must be found
LARGEST_SHIFT = 4.0  # standard deviations
STEPS = 8  # of the bisection for the smallest shift: to 1/64 standard deviation
DELAY_BATCHES = 50  # after which a stream without an alarm counts as so many
MOST = {"0.05": 0.06, "0.01": 0.015, "0.001": 0.003}  # batches with p below, rounding included
USUAL = 0.95  # of the values, that tell a feature's decimals


def null(settings: Settings, *, progress: Progress[int]) -> dict[str, Any]:
    """How often healthy batches are rare by their p-values, and how often there is an alarm.

    Returns
    -------
    dict
        `rates`: for drift and quality, by level, share of batches with p below it and its 95 %
        limits. `faults`: share of batches with a fault, and limits. `alarms`: how many began.
    """
    version, n_rows, limits = _champion(settings)
    streams, rows = _streams(version, STREAMS, settings.seed)
    batches = max(1, settings.repeats // STREAMS)
    binned = streams.binned(rows)
    drift_p, quality_p, began = [], [], 0
    before = np.zeros(STREAMS, dtype=bool)
    for drift, quality in streams.judge(binned, n_rows, progress(range(batches)), limits):
        drift_p.append(drift.tests.p_value)
        quality_p.append(quality.p_value)
        alarmed = (drift.status >= DRIFT) | (quality.status == DROP)
        began += int((alarmed & ~before).sum())
        before = alarmed
    total = batches * STREAMS
    return _facts("null", version, n_rows, limits) | {
        "batches": total,
        "rates": {
            name: {
                str(level): _rate(int((np.array(p_values) < level).sum()), total)
                for level in (0.05, 0.01, 0.001)
            }
            for name, p_values in (("drift", drift_p), ("quality", quality_p))
        },
        "faults": _rate(_faults(streams, rows[:, :-1], n_rows, limits, batches), total),
        "alarms": began,
    }


def longrun(settings: Settings, *, progress: Progress[int]) -> dict[str, Any]:
    """How many healthy streams reach an alarm's evidence, or an alarm, within many batches.

    Returns
    -------
    dict
        `evidence`: share of streams whose drift evidence reached the budget, limits, and the bound
        batches / budget; the same for quality. `alarms`: share of streams with any alarm.
    """
    version, n_rows, limits = _champion(settings)
    n_streams = max(STREAMS, settings.repeats // 20)
    streams, rows = _streams(version, n_streams, settings.seed)
    binned = streams.binned(rows)
    enough = np.log10(limits.budget)
    reached, dropped, alarmed = (np.zeros(n_streams, dtype=bool) for _ in range(3))
    steps = progress(range(settings.horizon))
    for drift, quality in streams.judge(binned, n_rows, steps, limits):
        reached |= drift.log10_evidence >= enough
        dropped |= quality.log10_evidence >= enough
        alarmed |= (drift.status >= DRIFT) | (quality.status == DROP)
    return _facts("longrun", version, n_rows, limits) | {
        "streams": n_streams,
        "batches": settings.horizon,
        "bound": min(1.0, settings.horizon / limits.budget),
        "drift_evidence": _rate(int(reached.sum()), n_streams),
        "quality_evidence": _rate(int(dropped.sum()), n_streams),
        "alarms": _rate(int(alarmed.sum()), n_streams),
    }


def power(settings: Settings, *, progress: Progress[str]) -> dict[str, Any]:
    """The smallest shift of each feature that one batch tells 95 times in 100.

    A shift adds the same to every value of a feature, up in one half of the batches, down in the
    other; of categories, it changes some of the rows of the most frequent one to the next. It is
    told if one batch alone raises an alarm. Over several batches it takes less: the evidence of
    half that shift, batch after batch, is there after `mean_delay` batches, 50 at most.

    Returns
    -------
    dict
        `features`: for each `name`, `unit`, `shift_own` in the feature's unit, `shift_sd` in its
        standard deviations (None where even 4 are not told), `mean_delay`. Of categories
        `shift_own` is a share of the rows, up to all of the most frequent one, and `shift_sd` None.
    """
    version, n_rows, limits = _champion(settings)
    streams, rows = _streams(version, STREAMS, settings.seed)
    repeats = max(1, settings.repeats // (4 * STREAMS))
    found = []
    for j, name in enumerate(progress(list(version.reference.features))):

        def is_told(shift: float, j: int = j) -> bool:
            moved = _shifted(version, rows, j, shift)
            return _told(streams, moved, n_rows, limits, repeats) >= FOUND

        shift = _smallest(is_told)
        half = _shifted(version, rows, j, (shift or LARGEST_SHIFT) / 2)
        unit, deviation = version.manifest["units"][name], float(np.nanstd(rows[:, j]))
        is_number = not version.reference.n_categories[j]
        if not is_number:
            (frequent, _), unit = _two_most_frequent(rows[:, j]), "of the rows"
            deviation = float((rows[:, j] == frequent).mean()) / LARGEST_SHIFT
        found.append(
            {
                "name": name,
                "unit": unit,
                "shift_own": shift and shift * deviation,
                "shift_sd": shift if is_number else None,
                "mean_delay": _delay(streams, half, n_rows, limits),
            }
        )
    return _facts("power", version, n_rows, limits) | {"features": found}


def keep(settings: Settings, found: Mapping[str, Any]) -> None:
    """Publish what `power` found from now on, as long as its version is champion."""
    with writing(settings) as ledger:
        ledger.record_power({**found, "measured_at": time.time()})


def coverage(settings: Settings, *, progress: Progress[int]) -> dict[str, Any]:
    """How often the 95 % interval of each quality measure holds the true value.

    Returns
    -------
    dict
        `measures`: for each, the share of batches with an interval (`told`), and of these the share
        whose interval holds the value of all rows, with limits.
    """
    version, n_rows, limits = _champion(settings)
    rows = version.reference_rows
    scores, positive = rows.features[:, -1], rows.positive
    truth = measure_quality(positive, scores, cut=version.cut).measures()
    rng = np.random.default_rng([settings.seed, 3])
    told, held = ({name: 0 for name in truth} for _ in range(2))
    for _ in progress(range(settings.repeats)):
        chosen = rng.integers(len(positive), size=n_rows)
        here = measure_quality(positive[chosen], scores[chosen], cut=version.cut).measures()
        for name, estimate in here.items():
            value = truth[name].value
            if estimate.low is not None and estimate.high is not None and value is not None:
                told[name] += 1
                held[name] += estimate.low <= value <= estimate.high
    return _facts("coverage", version, n_rows, limits) | {
        "batches": settings.repeats,
        "measures": {
            name: {"told": told[name] / settings.repeats, **_rate(held[name], told[name])}
            for name in truth
            if told[name]
        },
    }


def broken_promise(found: Mapping[str, Any]) -> str | None:
    """What a test found beyond its promise, by more than chance; None if all is well."""
    if found["test"] == "null":
        for kind in ("drift", "quality"):
            for level, most in MOST.items():
                if found["rates"][kind][level]["low"] > most:
                    return f"healthy batches have p < {level} too often ({kind})"
        if found["faults"]["low"] > 1 / found["budget"]:
            return "healthy batches are told as faults of the source too often"
    for kind in ("drift", "quality"):
        if found["test"] == "longrun" and found[f"{kind}_evidence"]["low"] > found["bound"]:
            return f"healthy streams reach the {kind} evidence of an alarm too often"
    return None


def _champion(settings: Settings) -> tuple[Version, int, Limits]:
    """The champion, and the rows and limits that its batches are judged with."""
    with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
        manifest = ledger.champion()
    if manifest is None:
        raise SettingsError(
            f"{settings.home}: no model yet", remedy="the first `wine-drift run-batch` trains one"
        )
    version = read_version(models_place(settings), manifest, threads=settings.threads)
    limits = Limits(
        settings.budget, settings.severity_drift, settings.severity_major, settings.min_rows
    )
    # smaller batches wait until there are enough rows
    together = -(-settings.min_rows // settings.batch_rows)
    return version, settings.batch_rows * together, limits


def _streams(version: Version, n_streams: int, seed: int) -> tuple[Streams, Floats]:
    """Streams like those of the champion, and the rows they are drawn from."""
    rng = np.random.default_rng([seed, 3])
    rows = version.reference_rows
    if len(rows) > MOST_ROWS:
        rows = rows.take(np.sort(rng.permutation(len(rows))[:MOST_ROWS]))
    streams = Streams(
        rows.features,
        rows.positive,
        version.reference.columns,
        n_reference=min(version.reference.n_rows, MOST_ROWS),
        n_streams=n_streams,
        rng=rng,
        n_categories=version.reference.n_categories,
    )
    return streams, rows.features


def _shifted(version: Version, rows: Floats, j: int, shift: float) -> list[Floats]:
    """The rows with one feature up, and down, by so many standard deviations, scored again.

    Values keep their decimals: each moves by whole steps of the last one, by chance the one below
    or above, for values between the steps would give any shift away. Of categories, the largest
    shift makes all rows of the most frequent one the next. The honest score moves by what the
    champion's own score of the row moves.
    """
    step = _step(version, j)
    dither = np.random.default_rng(4).random(len(rows))  # the same for every shift
    features, score = rows[:, :-1], np.clip(rows[:, -1], CLIP, 1 - CLIP)
    before = logit(np.clip(version.model.score(features), CLIP, 1 - CLIP))
    out = []
    for sign in (1, -1):
        moved = features.copy()
        if version.reference.n_categories[j]:
            frequent, other = _two_most_frequent(features[:, j])
            chosen = (features[:, j] == frequent) & (dither < shift / LARGEST_SHIFT)
            moved[chosen, j] = other
        else:
            distance = shift * np.nanstd(features[:, j])
            moved[:, j] += sign * (np.floor(distance / step + dither) * step if step else distance)
        after = logit(np.clip(version.model.score(moved), CLIP, 1 - CLIP))
        out.append(np.column_stack([moved, expit(logit(score) + after - before)]))
    return out


def _two_most_frequent(codes: Floats) -> Floats:
    """Numbers of two categories; of a column with only one, that and the one behind."""
    counts = np.bincount(codes[np.isfinite(codes)].astype(int), minlength=2)
    return np.argsort(-counts, kind="stable")[:2].astype(float)


def _smallest(is_told: Callable[[float], bool]) -> float | None:
    """The smallest shift that is told, by bisection; None if not even the largest is."""
    low, high = 0.0, LARGEST_SHIFT
    if not is_told(high):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_told(middle) else (middle, high)
    return high


def _faults(streams: Streams, features: Floats, n_rows: int, limits: Limits, batches: int) -> int:
    """Number of healthy batches, so many of each stream, that are told as faults."""
    rng = np.random.default_rng(5)
    found = 0
    for reference in streams.references:
        for _ in range(batches):
            rows = features[rng.integers(len(features), size=n_rows)]
            here = (
                count(rows, reference.edges[: rows.shape[1]]),
                count_traits(rows, reference.limits, reference.n_categories),
            )
            found += bool(
                find_faults(
                    reference.features,
                    (reference.profile, reference.summary.traits),
                    here,
                    spread=reference.spread,
                    budget=limits.budget,
                )
            )
    return found


def _step(version: Version, j: int) -> float:
    """One unit of the last decimal that a feature usually has; 0 without such a one."""
    decimals = np.cumsum(version.reference.summary.traits.decimals[j])
    k = int(np.searchsorted(decimals, USUAL * decimals[-1]))
    return 10.0**-k if k <= MAX_DECIMALS else 0.0


def _told(
    streams: Streams, shifted: list[Floats], n_rows: int, limits: Limits, repeats: int
) -> float:
    """Share of first batches in alarm."""
    told = 0
    for rows in shifted:
        binned = streams.binned(rows)
        for _ in range(repeats):
            (drift,) = streams.judge_drift(binned, n_rows, range(1), limits)
            told += int((drift.status >= DRIFT).sum())
    return told / (len(shifted) * repeats * streams.n_streams)


def _delay(streams: Streams, shifted: list[Floats], n_rows: int, limits: Limits) -> float:
    """Mean number of batches up to the first whose evidence reaches the budget."""
    delays = []
    for rows in shifted:
        binned = streams.binned(rows)
        waiting, delay = np.ones(streams.n_streams, dtype=bool), np.zeros(streams.n_streams)
        for drift in streams.judge_drift(binned, n_rows, range(DELAY_BATCHES), limits):
            delay += waiting
            waiting &= drift.log10_evidence < np.log10(limits.budget)
            if not waiting.any():
                break
        delays.append(delay.mean())
    return float(np.mean(delays))


def _rate(count: int, total: int) -> dict[str, float]:
    low, high = wilson(count, total)
    return {"rate": count / total, "low": low, "high": high}


def _facts(test: str, version: Version, n_rows: int, limits: Limits) -> dict[str, Any]:
    return {
        "test": test,
        "version": version.version,
        "reference_rows": version.reference.n_rows,
        "batch_rows": n_rows,
        "budget": limits.budget,
    }
