"""wine-drift and other drift rules on the same batches of wine: false alarms and power.

    WINE_DRIFT_DATA=winequality-red.csv python tests/benchmarks/drift_quality.py [--quick]

The white table lies next to the red one, or WINE_DRIFT_WHITE names it. Healthy batches, and the
references they are compared with, are rows drawn with replacement from the distinct rows of the red
table, each scored by the fold model that did not see it; twelve columns, the features and the
score. Evidently, NannyML and alibi-detect take part where they can be imported. One environment
holds all: pip install evidently nannyml statsmodels alibi-detect "pandas<3" --editable .
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame
from scipy.special import chdtrc, rel_entr
from scipy.stats import binomtest, kstwo
from sklearn.model_selection import StratifiedKFold
from tqdm import tqdm

from wine_drift.bins import Profile, count
from wine_drift.dataset import load_schema
from wine_drift.drift import run_tests
from wine_drift.model import Model, train
from wine_drift.reference import build_reference
from wine_drift.rows import LabelledRows

Floats = NDArray[np.float64]

SIZES = (50, 100, 200, 500, 1000)  # rows of a batch
SHIPPED_SIZE = 100  # rows at which the packages meet the scenarios
REFERENCE_ROWS = 1279
LEVEL = 0.01  # false alarms per batch at which powers are compared
HEALTHY = "healthy"
COLUMNS = load_schema(None).columns  # features, then the score
FOLDS = 5  # models that score what they did not see


# --- The population and what happens to it --------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Wines, and the fold model that may score each."""

    features: Floats  # (n_rows, n_features)
    positive: NDArray[np.bool_]  # (n_rows,)
    fold: NDArray[np.int64]  # (n_rows,)

    def draw(self, n_rows: int, rng: np.random.Generator, weights: Floats | None = None) -> Rows:
        """Copies of rows drawn independently, with replacement."""
        chosen = rng.choice(len(self.fold), n_rows, p=weights)
        return Rows(*(part[chosen] for part in vars(self).values()))


# Changes the rows it is given, which are copies, or draws others.
Scenario = Callable[[Rows, np.random.Generator], Rows]


@dataclass(frozen=True)
class Population:
    """Both tables and the fold models of the red one."""

    red: Rows
    white: Rows
    models: Sequence[Model]

    def draw(self, shape: tuple[int, int], scenario: Scenario | None, *seed: int) -> Floats:
        """Batches of a scenario (None: healthy), (n_batches, n_rows, n_columns) for a shape."""
        rng = np.random.default_rng(seed)
        rows = self.red.draw(shape[0] * shape[1], rng)
        rows = scenario(rows, rng) if scenario else rows
        scores = np.empty(len(rows.fold))
        for fold, model in enumerate(self.models):
            own = rows.fold == fold
            distinct, back = np.unique(rows.features[own], axis=0, return_inverse=True)
            scores[own] = model.score(distinct)[back.ravel()]  # trees are slow, sorting is not
        return np.column_stack([rows.features, scores]).reshape(*shape, -1)


@cache
def load_population() -> Population:
    """Read both tables, drop repeated rows and train the fold models; once in each process."""
    path = Path(os.environ["WINE_DRIFT_DATA"])
    other = os.environ.get("WINE_DRIFT_WHITE", path.with_name("winequality-white.csv"))
    rng = np.random.default_rng(0)
    tables = []
    for table in (np.loadtxt(name, delimiter=";", skiprows=1) for name in (path, other)):
        *features, quality = np.unique(table, axis=0).T
        any_fold = rng.integers(0, FOLDS, len(quality))
        tables.append(Rows(np.column_stack(features), quality > 6.5, any_fold))
    red, white = tables
    models: list[Model] = []
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for seen, held_out in folds.split(red.features, red.positive):
        rows = LabelledRows(red.features[seen], red.positive[seen], np.zeros(len(seen), int))
        red.fold[held_out] = len(models)
        models.append(train(rows, np.ones(len(rows)), rounds=200, seed=0, threads=1))
    return Population(red, white, models)


def usual_decimals(values: Floats) -> int:
    """Decimals that 95 % of the values make do with."""
    return next(k for k in range(9) if np.isclose(values, values.round(k)).mean() > 0.95)


def scenarios(population: Population) -> dict[str, Scenario]:
    """What can happen to drawn rows, by name."""
    red, white = population.red, population.white
    names = COLUMNS[:-1]
    sd = dict(zip(names, red.features.std(axis=0), strict=True))
    # instruments go on rounding: values between their steps would give any change away
    decimals = dict(zip(names, map(usual_decimals, red.features.T), strict=True))

    def changed(name: str, change: Callable[[Floats, np.random.Generator], Floats]) -> Scenario:
        def scenario(rows: Rows, rng: np.random.Generator) -> Rows:
            j = names.index(name)
            rows.features[:, j] = change(rows.features[:, j], rng)
            return rows

        return scenario

    def linear(name: str, factor: float, shift: float = 0.0) -> Scenario:
        return changed(name, lambda x, _: (factor * x + shift).round(decimals[name]))

    def redrawn(weights: Floats) -> Scenario:  # wines of the same table in other shares
        return lambda rows, rng: red.draw(len(rows.fold), rng, weights / weights.sum())

    def mixed(share: float) -> Scenario:  # each row is a white wine with this probability
        def scenario(rows: Rows, rng: np.random.Generator) -> Rows:
            is_white = rng.random(len(rows.fold)) < share
            others = white.draw(int(is_white.sum()), rng)
            for part, other in zip(vars(rows).values(), vars(others).values(), strict=True):
                part[is_white] = other
            return rows

        return scenario

    alcohol = red.features[:, names.index("alcohol")]
    z = (alcohol - alcohol.mean()) / alcohol.std()
    prior = np.where(red.positive, 0.3 / red.positive.mean(), 0.7 / (~red.positive).mean())
    factors = {"alcohol": (1.05, 1.1, 1.2), "sulphates": (1.05, 1.1), "density": (1000,)}
    factors["total sulfur dioxide"] = (1.1, 1.2)
    shifts = [("volatile acidity", 0.3), ("pH", -0.3)]
    found = {f"white {share} %": mixed(share / 100) for share in (100, 50, 30, 20, 10, 5)}
    found |= {f"alcohol tilted {t}": redrawn(np.exp(t * z)) for t in (0.5, 0.25)}
    found |= {"positives 30 %": redrawn(prior), "alcohol > 11": redrawn(1.0 * (alcohol > 11))}
    found |= {f"{name} x{f}": linear(name, f) for name, each in factors.items() for f in each}
    found |= {f"{name} {t:+} sd": linear(name, 1, t * sd[name]) for name, t in shifts}
    for name in ("alcohol", "sulphates"):  # as common as ever, but of another wine
        found[f"{name} decoupled"] = changed(name, lambda x, rng: rng.permutation(x))
    return found | {
        "pH noise 0.5 sd": changed(
            "pH", lambda x, rng: (x + rng.normal(0, sd["pH"] / 2, len(x))).round(decimals["pH"])
        ),
        "density 3 decimals": changed("density", lambda x, _: x.round(3)),
        "alcohol stuck": linear("alcohol", 0, float(np.median(alcohol))),
        "pH 5 % missing": changed("pH", lambda x, r: np.where(r.random(len(x)) < 0.05, np.nan, x)),
        "sulphates missing": linear("sulphates", np.nan),
    }


# --- The rules: a reference of shape (m,) and batches of one column, (n_batches, n) ---------------

Measure = Callable[[Floats, Floats], Floats]


def wine_drift_p_values(reference: Floats, batches: Floats) -> Floats:
    """P-value of every batch, all columns together: all that is known here of wine-drift's test."""
    known = build_reference(reference, COLUMNS)
    profiles = [count(batch, known.edges) for batch in batches]
    stacked = Profile(*(np.stack([vars(p)[k] for p in profiles]) for k in vars(profiles[0])))
    pools = known.profile.scaled(np.ones(len(batches)))  # one for each
    return run_tests(pools, stacked, known.correlation, known.n_rows).p_value


def without_missing(measure: Measure) -> Measure:
    """The same of the values that are there; 0 where there are none."""

    def measured(reference: Floats, values: Floats) -> Floats:
        there = np.isfinite(values)
        if there.all():
            return measure(reference, values)
        known = [batch[kept] for batch, kept in zip(values, there, strict=True)]
        return np.array([measure(reference, x[np.newaxis])[0] if x.size else 0.0 for x in known])

    return measured


def tally(values: Floats, edges: Floats) -> Floats:
    """Values of each batch in (edge j-1, edge j], outer bins open; the missing ones come last."""
    width = len(edges) + 2
    numbers = np.where(np.isfinite(values), np.searchsorted(edges, values), width - 1)
    flat = numbers + width * np.arange(len(values))[:, np.newaxis]
    return np.bincount(flat.ravel(), minlength=len(values) * width).reshape(-1, width).astype(float)


def deciles(reference: Floats) -> Floats:
    """Edges of ten bins, fewer where values are tied."""
    return np.unique(np.quantile(reference, np.arange(1, 10) / 10, method="inverted_cdf"))


def chi2(reference: Floats, values: Floats) -> Floats:
    """-log10 p of Pearson's test of homogeneity: ten bins and the missing values."""
    a, b = (tally(x, deciles(reference)) for x in (reference[np.newaxis], values))
    n, m = values.shape[1], reference.size
    pooled = (a + b) / (n + m)
    squares = np.divide((b / n - a / m) ** 2, pooled, out=np.zeros_like(pooled), where=pooled > 0)
    statistic = n * m / (n + m) * squares.sum(axis=1)
    return -np.log10(np.maximum(chdtrc((pooled > 0).sum(axis=1) - 1, statistic), 1e-300))


def psi(reference: Floats, values: Floats) -> Floats:
    """Textbook stability index: ten bins and the missing values, empty bins count as 1e-4."""
    a, b = (tally(x, deciles(reference)) for x in (reference[np.newaxis], values))
    p, q = (np.maximum(counts / counts.sum(axis=1, keepdims=True), 1e-4) for counts in (a, b))
    return ((q - p) * np.log(q / p)).sum(axis=1)


@without_missing
def jensen_shannon(reference: Floats, values: Floats) -> Floats:
    """Jensen-Shannon distance: Doane's bins of the reference, and one on each side."""
    edges = np.histogram_bin_edges(reference, "doane")
    edges[0] = np.nextafter(edges[0], -np.inf)
    p, q = (tally(x, edges)[:, :-1] / x.shape[1] for x in (reference[np.newaxis], values))
    middle = (p + q) / 2
    return np.sqrt((rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / 2 / np.log(2))


@without_missing
def kolmogorov_smirnov(reference: Floats, values: Floats) -> Floats:
    """Kolmogorov-Smirnov distance times sqrt(n m / (n + m)); ties are one step."""
    n, m = values.shape[1], reference.size
    values, reference = np.sort(values, axis=1), np.sort(reference)
    first = np.diff(values, axis=1, prepend=-np.inf) > 0  # of equal values
    last = np.diff(values, axis=1, append=np.inf) > 0
    below = np.arange(n) / n - np.searchsorted(reference, values, side="left") / m
    up_to = np.arange(1, n + 1) / n - np.searchsorted(reference, values, side="right") / m
    largest = np.maximum(np.abs(below * first), np.abs(up_to * last)).max(axis=1)
    return np.sqrt(n * m / (n + m)) * largest


@cache
def ks_critical(effective: int) -> float:
    """What the scaled distance exceeds with probability 0.05."""
    return float(np.sqrt(effective) * kstwo.isf(0.05, effective))


@without_missing
def wasserstein(reference: Floats, values: Floats) -> Floats:
    """Wasserstein distance over the standard deviation of the reference."""
    n, m = values.shape[1], reference.size
    knots = np.union1d(np.arange(1, n + 1) / n, np.arange(1, m + 1) / m)
    lengths = np.diff(knots, prepend=0)
    middles = knots - lengths / 2  # both quantile functions are constant between two knots
    a, b = ((middles * size).astype(int).clip(max=size - 1) for size in (m, n))
    gaps = np.abs(np.sort(values, axis=1)[:, b] - np.sort(reference)[a])
    return gaps @ lengths / reference.std()


def hotelling(reference: Floats, batches: Floats) -> Floats:
    """Hotelling's T-squared of the means of all columns of (n_batches, n, n_columns)."""
    shift = np.nan_to_num(np.nanmean(batches, axis=1) - reference.mean(axis=0))
    return (np.linalg.solve(np.cov(reference.T), shift.T).T * shift).sum(axis=1)


SCORES = "wine-drift", "chi2 min p", "KS min p", "W/sd", "JS", "PSI max", "PSI mean", "T2 means"


def judge(reference: Floats, batches: Floats) -> dict[str, Floats]:
    """All rules on all batches: the SCORES, larger is more drift, then rules that say 0 or 1."""

    def columns(measure: Measure) -> Floats:
        return np.column_stack([*map(measure, reference.T, batches.transpose(2, 0, 1))])

    p = wine_drift_p_values(reference, batches)
    table, index, distance = columns(chi2), columns(psi), columns(wasserstein)
    steps = columns(kolmogorov_smirnov).max(axis=1)
    highest = (x.max(axis=1) for x in (distance, columns(jensen_shannon), index))
    evidence = -np.log10(np.maximum(p, 1e-300)), table.max(axis=1), steps
    scores = (*evidence, *highest, index.mean(axis=1), hotelling(reference, batches))
    n, m = batches.shape[1], len(reference)
    alarms = {f"wine-drift p < {a}": p < a for a in (0.05, 0.01, 0.001)} | {
        "PSI > 0.1, any column": (index > 0.1).any(axis=1),
        "PSI > 0.2, any column": (index > 0.2).any(axis=1),
        "KS p < 0.05, any column": steps > ks_critical(round(n * m / (n + m))),
        "chi2 p < 0.05, Bonferroni": 10 ** -table.max(axis=1) < 0.05 / len(COLUMNS),
        "W/sd >= 0.1, half of columns": (distance >= 0.1).mean(axis=1) >= 0.5,
    }
    found = dict(zip(SCORES, scores, strict=True))
    return found | {name: alarm.astype(float) for name, alarm in alarms.items()}


# --- The packages, with their defaults ------------------------------------------------------------

Verdict = Callable[[DataFrame], bool]  # of one batch: drift or not


def evidently(reference: DataFrame, n_rows: int, *, reference_rows: int) -> Verdict:
    """Dataset drift of Evidently's report; from 1001 reference rows on it takes other tests."""
    from evidently import Report
    from evidently.metrics import DriftedColumnsCount

    report, known = Report([DriftedColumnsCount()]), reference.iloc[:reference_rows]
    return lambda batch: report.run(batch, known).dict()["metrics"][0]["value"]["share"] >= 0.5


def nannyml(reference: DataFrame, n_rows: int, *, chunked: bool) -> Verdict:
    """Any alert of NannyML's univariate drift; by default it cuts the batch in ten chunks."""
    from nannyml import UnivariateDriftCalculator

    size = n_rows if chunked else None
    calculator = UnivariateDriftCalculator(list(COLUMNS), chunk_size=size).fit(reference)

    def verdict(batch: DataFrame) -> bool:
        table = calculator.calculate(batch).filter(period="analysis").to_df()
        return bool(table.xs("alert", axis=1, level=-1).to_numpy().any())

    return verdict


def alibi_detect(reference: DataFrame, n_rows: int, *, binned: bool) -> Verdict:
    """KSDrift; ChiSquareDrift on bins, which it has to be given: deciles, missing values on top."""
    from alibi_detect.cd import ChiSquareDrift, KSDrift

    edges = [deciles(reference[name].to_numpy()) for name in COLUMNS]

    def view(rows: DataFrame) -> NDArray[Any]:
        pairs = zip(edges, rows.to_numpy().T, strict=True)
        return np.column_stack([np.searchsorted(*p) for p in pairs]) if binned else rows.to_numpy()

    detector = (ChiSquareDrift if binned else KSDrift)(view(reference))
    return lambda batch: bool(detector.predict(view(batch))["data"]["is_drift"])


PACKAGES: dict[str, tuple[Callable[..., Verdict], dict[str, Any]]] = {
    "Evidently": (evidently, {"reference_rows": REFERENCE_ROWS}),
    "Evidently, reference 800": (evidently, {"reference_rows": 800}),
    "NannyML": (nannyml, {"chunked": False}),
    "NannyML, chunk_size = n": (nannyml, {"chunked": True}),
    "alibi-detect KSDrift": (alibi_detect, {"binned": False}),
    "alibi-detect ChiSquare": (alibi_detect, {"binned": True}),
}


tell = cache(print)  # says the same once only, in each process


def package_judge(package: str, reference: Floats, n_rows: int) -> Callable[[Floats], Any]:
    """`judge` of a package: its verdicts, NaN where it raises an exception."""
    fit, options = PACKAGES[package]
    verdict = fit(DataFrame(reference, columns=COLUMNS), n_rows, **options)

    def judged(batches: Floats) -> dict[str, Floats]:
        found = np.full(len(batches), np.nan)
        for i, batch in enumerate(batches):
            try:
                found[i] = verdict(DataFrame(batch, columns=COLUMNS))
            except Exception as error:  # theirs: whatever they raise is no verdict
                tell(f"{package}: {error!r}")
        return {package: found}

    return judged


def importable() -> list[str]:
    """The packages that can be imported; tells the versions, and of the others why not."""
    modules = {}
    for name in dict.fromkeys(fit.__name__ for fit, _ in PACKAGES.values()):
        try:
            modules[name] = importlib.import_module(name)
            print(f"{name} {modules[name].__version__}")
        except ImportError as error:
            print(f"{name}: not installed, or not so that it can be imported ({error})")
    return [package for package, (fit, _) in PACKAGES.items() if fit.__name__ in modules]


# --- Running --------------------------------------------------------------------------------------

Results = dict[tuple[str, int, str], Floats]  # of rule, rows of a batch, scenario


def run(package: str | None, number: int, n: int, n_healthy: int, n_drifted: int) -> Results:
    """One package, or all rules, on batches of n rows against one reference."""
    population = load_population()
    reference = population.draw((1, REFERENCE_ROWS), None, number)[0]
    decide = package_judge(package, reference, n) if package else partial(judge, reference)
    cases: dict[str, Scenario | None] = {HEALTHY: None}
    if package is None or n == SHIPPED_SIZE:
        cases |= scenarios(population)
    results: Results = {}
    for k, (name, scenario) in enumerate(cases.items()):
        shape = (n_drifted if scenario else n_healthy, n)
        found = decide(population.draw(shape, scenario, number, n, k))
        results |= {(rule, n, name): values for rule, values in found.items()}
    return results


def run_all(options: argparse.Namespace, packages: Sequence[str]) -> Results:
    """Every rule and package on every reference, in several processes."""
    plans = [(name, *options.packages) for name in packages]
    plans += [(None, *options.rules)] if any(options.rules) else []
    gathered = defaultdict(list)
    spawn = multiprocessing.get_context("spawn")  # a fork would copy LightGBM's threads
    with ProcessPoolExecutor(mp_context=spawn) as pool:
        tasks = [
            pool.submit(run, name, number, n, *repetitions)
            for number in range(options.references)
            for n in SIZES
            for name, *repetitions in plans
        ]
        for task in tqdm(tasks, disable=None):
            for key, values in task.result().items():
                gathered[key].append(values)
    return {key: np.concatenate(parts) for key, parts in gathered.items()}


# --- Tables ---------------------------------------------------------------------------------------


def show(title: str, head: Sequence[str], lines: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Print a table."""
    width = max(5, *map(len, head)) + 2
    print(f"\n{title}")
    for name, cells in (("", head), *lines):
        print(f"{name:34}" + "".join(f"{cell:>{width}}" for cell in cells))


def rate(verdicts: Floats, *, interval: bool = False) -> str:
    """Share of alarms among the verdicts; 95 % Wilson interval as if batches were independent."""
    given = verdicts[np.isfinite(verdicts)]
    if not given.size:
        return "error"
    if not interval:
        return f"{given.mean():.3f}"
    found = binomtest(int(given.sum()), given.size).proportion_ci(method="wilson")
    return f"{given.mean():.4f} ({found.low:.4f}-{found.high:.4f})"


def show_false_alarms(results: Results, rules: Sequence[str]) -> None:
    """Part 1: alarms per healthy batch."""
    lines = []
    for rule in rules:
        cells = [rate(results[rule, n, HEALTHY], interval="wine-drift" in rule) for n in SIZES]
        lines.append((f"{rule} [{results[rule, SIZES[0], HEALTHY].size}]", cells))
    head = [f"n = {n}".rjust(22) for n in SIZES]
    show("1. False alarms per healthy batch, as shipped [batches]", head, lines)


def show_power(results: Results, names: Sequence[str]) -> None:
    """Part 2: power of every score, at the same rate of false alarms."""
    for n in SIZES:
        power = np.empty((len(names), len(SCORES)))
        for j, rule in enumerate(SCORES):
            limit = np.quantile(results[rule, n, HEALTHY], 1 - LEVEL, method="higher")
            power[:, j] = [(results[rule, n, name] > limit).mean() for name in names]
        lines = [*zip(names, power, strict=True), ("mean", power.mean(axis=0))]
        cells = ((name, [f"{x:.2f}" for x in line]) for name, line in lines)
        show(f"2. Power, n = {n}, {LEVEL} false alarms per batch", SCORES, cells)


def show_shipped_power(results: Results, rules: Sequence[str], names: Sequence[str]) -> None:
    """Part 2 for rules as shipped: alarms per batch of each scenario, whatever their false ones."""
    n = SHIPPED_SIZE
    letters = [chr(ord("A") + j) for j in range(len(rules))]
    lines = [(name, [rate(results[rule, n, name]) for rule in rules]) for name in (HEALTHY, *names)]
    drifted = (np.concatenate([results[rule, n, name] for name in names]) for rule in rules)
    lines.append(("mean of the scenarios, no errors", list(map(rate, drifted))))
    show(f"2b. Alarms per batch, n = {n}, as shipped", letters, lines)
    for letter, rule in zip(letters, rules, strict=True):
        print(f"  {letter}: {rule} [{results[rule, n, names[0]].size} batches of each scenario]")


# --- Part 3, sequential evidence: drift_streams.py, with this population and these scenarios ------


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description="Compare drift rules on batches of wine.")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a first look")
    quick = "--quick" in sys.argv
    parser.add_argument("--references", type=int, default=8 if quick else 40, help="references")
    for name, usual in (
        ("rules", (100, 10) if quick else (250, 25)),
        ("packages", (3, 1) if quick else (5, 2)),
    ):
        text = f"healthy and drifted batches of each size and reference for all {name}; 0 0: none"
        parser.add_argument(f"--{name}", type=int, nargs=2, default=usual, help=text)
    options = parser.parse_args()
    began = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # processes are enough
    os.environ |= {"PYTHONWARNINGS": "ignore"}  # theirs are many
    os.environ |= {"NML_DISABLE_USAGE_LOGGING": "1"}  # NannyML reports every call to its maker
    packages = importable() if any(options.packages) else []
    results = run_all(options, packages)
    names = list(dict.fromkeys(name for _, _, name in results if name != HEALTHY))
    rules = [rule for rule in dict.fromkeys(rule for rule, _, _ in results) if rule not in SCORES]
    show_false_alarms(results, rules)
    if any(options.rules):
        show_power(results, names)
    show_shipped_power(results, rules, names)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
