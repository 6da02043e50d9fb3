"""A home as one page for people: frozen data in, HTML out, which loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from wine_drift.charts import (
    Chart,
    calibration_chart,
    evidence_chart,
    histogram,
    measure_chart,
    severity_chart,
    shares_chart,
)
from wine_drift.chronicle import Estimate, Point, thinned, when
from wine_drift.explanation import explain
from wine_drift.verdict import Verdict
from wine_drift.wording import (
    CANDIDATES,
    REASONS,
    action,
    counted,
    evidence,
    fault_text,
    harmless,
    last_decision,
    number,
    probability,
)

POINTS, CELLS = 400, 48  # most of a chart, and of a row of the map
MAPPED = 5 * CELLS  # batches of the map
SHOWN = 6  # drifted columns with a histogram


@dataclass(frozen=True)
class Shape:
    """A drifted column beside the reference."""

    name: str
    reference: tuple[float, ...]  # share of each bin
    batch: tuple[float, ...]
    edges: tuple[float, ...]  # inner ones, one fewer than bins; of categories none
    names: tuple[str, ...] = ()  # of the bins, where they are categories


@dataclass(frozen=True)
class Group:
    """Labelled rows of similar score."""

    promised: float  # mean score
    came: Estimate  # share of positives
    n_rows: float  # of them; older batches count less


@dataclass(frozen=True)
class Told:
    """A record of the ledger, and its Unix time."""

    at: float
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """All that stands on the page."""

    title: str
    verdict: Verdict
    simulated: bool  # the data is
    run: Mapping[str, Any] | None  # the last one, as in Snapshot.run
    champion: str | None
    versions: tuple[Mapping[str, Any], ...]  # manifests, oldest first
    removed: frozenset[str]  # versions whose files are gone
    points: tuple[Point, ...]  # of every batch in the history, oldest first
    latest: Told | None  # the last processed batch
    answered: Mapping[str, Any] | None  # record of the last one with a label, or `latest`
    alarm: Told | None  # the last one in which a column drifted
    shapes: tuple[Shape, ...]  # of these columns, that which explains it best first
    no_shapes: str  # why there are none; empty: there are
    groups: tuple[Group, ...]  # of the champion's recent rows, by score
    no_groups: str  # why there are none; empty: there are
    tried: tuple[Told, ...]  # batches with a challenger, the newest first
    faulty: tuple[Told, ...]  # batches at fault, or refused, the newest first
    recent: tuple[Told, ...]  # the last batches, the newest first


def render(page: Page, *, policy: str) -> str:
    """The page as one HTML document.

    Everything that came from elsewhere is escaped. There is no script in it, and nothing that is
    loaded; `policy` tells browsers so, as a Content-Security-Policy.
    """
    return harmless(
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            policy=policy,
            each=_each(page.points, POINTS),
            charts=_charts(page),
            map=_map(page),
            shapes=_shapes(page),
            hidden=max(len(page.shapes) - SHOWN, 0),
            columns=explain(page.latest.record) if page.latest else [],
            calibration=_calibration(page.groups),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("wine_drift", "data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "evidence": _raised,
        "probability": probability,
        "when": when,
        "fault": fault_text,
        "arrow": _arrow,
        "power": lambda log10: f"{10**log10:,.0f}",
        "words": lambda text: text.replace("_", " "),
        "sentence": _sentence,
        "action": action,
        "decision": last_decision,
    }
    environment.globals |= {"reasons": REASONS, "candidates": CANDIDATES}
    return environment


def _arrow(change: str) -> str:
    """What changed, as it looks better where any letter can be shown."""
    return change.replace(" -> ", " → ")


def _sentence(clause: str) -> Markup:
    """A clause as a sentence, with commands as such.

    >>> _sentence("see `wine-drift explain`")
    Markup('See <code>wine-drift explain</code>.')
    """
    parts = f"{clause[:1].upper()}{clause[1:]}.".split("`")
    marked = (
        Markup("<code>{}</code>").format(part) if k % 2 and k < len(parts) - 1 else escape(part)
        for k, part in enumerate(parts)
    )
    return Markup("").join(marked)


def _raised(log10: float | None) -> Markup:
    """Evidence with its power of ten where such stand.

    >>> _raised(3.2), _raised(0.5)
    (Markup('10<sup>3.2</sup>'), Markup('3.2'))
    """
    base, hat, power = evidence(log10).partition("^")
    return Markup("{}<sup>{}</sup>").format(base, power) if hat else escape(base)


def _each(points: Sequence[Point], most: int) -> int:
    """Batches of a point, see `thinned`."""
    return max(1, -(-len(points) // most))


def _charts(page: Page) -> dict[str, Chart | None]:
    """Of quality and of drift over batches; None where there is nothing to draw."""
    found: dict[str, Chart | None] = dict.fromkeys(("log_loss", "roc_auc", "evidence", "severity"))
    if page.latest is None:
        return found
    points, limits = thinned(page.points, POINTS), page.latest.record["thresholds"]
    for key, title in (("log_loss", "Log loss over batches"), ("roc_auc", "AUC over batches")):
        estimates: list[Estimate] = [getattr(each, key) for each in points]
        usual = [getattr(each, f"usual_{key}") for each in points]
        known = [each.value for each in estimates if each.value == each.value]
        if known:
            says = (
                f"From {min(known):.3f} to {max(known):.3f}, last {known[-1]:.3f}; "
                f"the reference of the champion has {usual[-1]:.3f}."
            )
            found[key] = measure_chart(points, estimates, usual, title=title, says=says)
    if any(each.severity == each.severity for each in points):
        enough = limits["log10_evidence"]
        over = [
            sum(getattr(each, kind) >= enough for each in page.points)
            for kind in ("drift_evidence", "quality_evidence")
        ]
        found["evidence"] = evidence_chart(
            points,
            enough,
            title="Evidence over batches",
            says=f"An alarm takes {10**enough:,.0f}. Of {len(page.points)} batches {over[0]} had "
            f"as much for drift, {over[1]} for a drop in quality.",
        )
        severities = [each.severity for each in page.points if each.severity == each.severity]
        major = sum(each >= limits["severity_major"] for each in severities)
        found["severity"] = severity_chart(
            points,
            (limits["severity_drift"], limits["severity_major"]),
            title="Severity over batches",
            says=f"Drift takes {limits['severity_drift']:g}, major drift "
            f"{limits['severity_major']:g}. {counted(major, 'batch', 'batches')} had as much as "
            f"the latter; the last one has {severities[-1]:.2f}.",
        )
    return found


def _map(page: Page) -> dict[str, Any] | None:
    """Rows of columns, the one that drifted most often first, with a cell for some batches each."""
    latest = page.points[-MAPPED:]
    points = thinned(latest, CELLS)
    names = list(dict.fromkeys(name for each in points for name in each.columns))
    if page.latest is None or not names:
        return None
    limits = page.latest.record["thresholds"]
    steps = (limits["severity_drift"], limits["severity_major"], 0.5, 1.0)

    def cell(found: tuple[float, bool] | None) -> tuple[int | None, bool]:
        if found is None:
            return None, False
        return sum(found[0] >= step for step in sorted(steps)), found[1]

    rows = [(name, [cell(each.columns.get(name)) for each in points]) for name in names]
    evident = {name: sum(sure for _, sure in cells) for name, cells in rows}
    worst = max(evident, key=lambda name: evident[name])
    says = f"{len(names)} columns over the last {len(latest)} batches. "
    says += (
        f"The column with evidence most often is {worst}."
        if evident[worst]
        else "None of them had evidence enough for an alarm."
    )
    return {
        "rows": sorted(rows, key=lambda row: -evident[row[0]]),
        "says": says,
        "first": latest[0],
        "last": points[-1],
        "each": _each(latest, CELLS),
        "span": latest[-1].at - latest[0].at,
        "steps": sorted(steps),
    }


def _shapes(page: Page) -> list[Mapping[str, Any]]:
    """Histograms of the columns that explain the alarm best, each with what changed, in words."""
    if page.alarm is None:
        return []
    changes = {each["name"]: _arrow(each["change"]) for each in explain(page.alarm.record)}
    units = {each["name"]: each["unit"] for each in page.alarm.record["drift"]["features"]}
    drawn: list[Mapping[str, Any]] = []
    for shape in page.shapes[:SHOWN]:
        name, fullest = shape.name, max(range(len(shape.batch)), key=lambda k: shape.batch[k])
        what = shape.names[fullest] if shape.names else _range(shape.edges, fullest)
        says = (
            f"{changes[name]}. {shape.batch[fullest]:.0%} of the batch are {what}; of the "
            f"reference {shape.reference[fullest]:.0%} are."
        )
        title, shares = f"Values of {name}", (shape.reference, shape.batch)
        if shape.names:
            chart = shares_chart(shape.names, *shares, title=title, says=says)
        else:
            chart = histogram(*shares, shape.edges, title=title, says=says)
        drawn.append({"name": name, "unit": units[name], "chart": chart})
    return drawn


def _range(edges: Sequence[float], k: int) -> str:
    """Values of a bin, in words.

    >>> _range([1.0, 2.0], 0), _range([1.0, 2.0], 1), _range([1.0, 2.0], 2)
    ('at most 1', 'above 1 and at most 2', 'above 2')
    """
    low = f"above {edges[k - 1]:.4g}" if k else ""
    high = f"at most {edges[k]:.4g}" if k < len(edges) else ""
    return " and ".join(filter(None, (low, high))) or "of any value"


def _calibration(groups: Sequence[Group]) -> Chart | None:
    if not groups:
        return None
    inside = sum(each.came.low <= each.promised <= each.came.high for each in groups)
    return calibration_chart(
        [each.promised for each in groups],
        [each.came for each in groups],
        title="Calibration of recent scores",
        says=f"In {inside} of {len(groups)} groups of rows the share that the scores promised is "
        "within the limits of the share that came.",
    )
