"""wine-drift over many batches: false alarms in healthy streams, and delays in drifting ones.

    WINE_DRIFT_DATA=winequality-red.csv python tests/benchmarks/drift_streams.py [--quick]

The population and what happens to it are those of drift_quality.py. Every stream has a reference of
its own, and its batches are judged by `detector.judge_drift`, as `run-batch` judges them.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from drift_quality import COLUMNS, REFERENCE_ROWS, Population, Scenario, load_population, scenarios

from wine_drift.bins import Floats, Profile, count
from wine_drift.detector import (
    DRIFT,
    DROP,
    MAJOR,
    DriftState,
    Limits,
    judge_drift,
    no_drift_evidence,
)
from wine_drift.reference import Reference, build_reference
from wine_drift.streams import Streams

LIMITS = Limits(budget=1000, severity_drift=0.1, severity_major=0.25, min_rows=50)
HEALTHY = ((50, 1000), (100, 1000), (200, 500), (500, 400), (1000, 200))  # rows, batches
BEFORE = 20  # healthy batches, then drift
LONGEST = 60  # batches after which a stream without an alarm counts as so many


def show_healthy(population: Population, n_streams: int, *, quick: bool) -> None:
    """False alarms within T batches, beside the bound T / 1000."""
    rows = np.column_stack([population.red.features, _scores(population)])
    head = (
        "rows",
        "T",
        "p<.05",
        "p<.001",
        "R>=1000",
        "bound",
        "drift alarm",
        "drop alarm",
        "either",
    )
    print("1. Healthy streams: rates of p, then shares of streams within T batches")
    print("".join(f"{cell:>13}" for cell in head))
    for n_rows, n_batches in HEALTHY:
        n_batches = n_batches // 5 if quick else n_batches
        streams = Streams(
            rows,
            population.red.positive,
            COLUMNS,
            n_reference=REFERENCE_ROWS,
            n_streams=n_streams,
            rng=np.random.default_rng(n_rows),
        )
        p_values, seen = [], np.zeros((3, n_streams), dtype=bool)
        for drift, quality in streams.judge(streams.binned(rows), n_rows, range(n_batches), LIMITS):
            p_values.append(drift.tests.p_value)
            seen[0] |= drift.log10_evidence >= np.log10(LIMITS.budget)
            seen[1] |= drift.status >= DRIFT
            seen[2] |= quality.status == DROP
        p = np.array(p_values)
        cells = [n_rows, n_batches, (p < 0.05).mean(), (p < 0.001).mean(), seen[0].mean()]
        cells += [n_batches / LIMITS.budget, seen[1].mean(), seen[2].mean()]
        cells += [(seen[1] | seen[2]).mean()]
        print("".join(f"{cell:>13.4g}" for cell in cells), flush=True)


def show_delays(population: Population, n_streams: int, n_rows: int = 100) -> None:
    """Mean batches up to the evidence of an alarm, to an alarm, and to a major one."""
    print(f"\n2. Drift after {BEFORE} healthy batches, n = {n_rows}: mean delay in batches up to")
    print(f"{'':24}{'R>=1000':>10}{'alarm':>10}{'major':>10}   (share of streams within {LONGEST})")
    references = [
        build_reference(population.draw((1, REFERENCE_ROWS), None, k)[0], COLUMNS)
        for k in range(n_streams)
    ]
    for name, scenario in scenarios(population).items():
        print(f"{name:24}" + _delays(population, scenario, references, n_rows), flush=True)


def _delays(
    population: Population, scenario: Scenario, references: list[Reference], n_rows: int
) -> str:
    n = len(references)
    profile = _stacked([reference.profile for reference in references])
    correlation = np.stack([reference.correlation for reference in references])
    state = DriftState(profile, profile.scaled(0), no_drift_evidence(references[0]))
    delay = np.full((3, n), np.inf)
    for t in range(1 - BEFORE, LONGEST + 1):
        drawn = population.draw((n, n_rows), scenario if t > 0 else None, t + BEFORE, n_rows)
        batches = [
            count(rows, reference.edges) for rows, reference in zip(drawn, references, strict=True)
        ]
        reading, state = judge_drift(
            profile, correlation, REFERENCE_ROWS, state, _stacked(batches), LIMITS
        )
        if t < 1:
            continue
        enough = reading.log10_evidence >= np.log10(LIMITS.budget)
        for k, told in enumerate((enough, reading.status >= DRIFT, reading.status >= MAJOR)):
            delay[k] = np.where(told, np.minimum(delay[k], t), delay[k])
        if np.isfinite(delay).all():
            break
    capped = np.minimum(delay, LONGEST).mean(axis=1)
    shares = ", ".join(f"{share:.0%}" for share in np.isfinite(delay).mean(axis=1))
    return "".join(f"{value:>10.1f}" for value in capped) + f"   ({shares})"


def _stacked(profiles: list[Profile]) -> Profile:
    return Profile(
        np.stack([profile.counts for profile in profiles]),
        np.stack([profile.missing for profile in profiles]),
    )


def _scores(population: Population) -> Floats:
    """Honest scores of the red wines."""
    scores = np.empty(len(population.red.fold))
    for fold, model in enumerate(population.models):
        own = population.red.fold == fold
        scores[own] = model.score(population.red.features[own])
    return scores


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description="False alarms and delays of streams of batches.")
    parser.add_argument("--quick", action="store_true", help="few streams: a first look")
    quick = "--quick" in sys.argv
    parser.add_argument("--streams", type=int, default=40 if quick else 200)
    options = parser.parse_args()
    began = time.monotonic()
    population = load_population()
    show_healthy(population, options.streams, quick=options.quick)
    show_delays(population, options.streams // (1 if quick else 4))
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
