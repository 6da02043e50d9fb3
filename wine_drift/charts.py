"""Drawings of a page, as SVG that stands inside HTML; the only importer of matplotlib.

Colours are variables of the page's style sheet, so one drawing serves light and dark; its texts are
texts, in the page's own font. What a drawing says is told by its description, too.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from math import isnan
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wine_drift.chronicle import Estimate, Point, successions, when

# Colours that stand for variables of the style sheet: none of them is ever seen.
INK, QUIET, RULE, FIRST, SECOND = ("#010203", "#020304", "#030405", "#040506", "#050607")
VARIABLES = {
    INK: "--ink",
    QUIET: "--quiet",
    RULE: "--rule",
    FIRST: "--first",
    SECOND: "--second",
}
CERTAIN = 9.0  # log10 of evidence: what is beyond is drawn here
LEAST, MOST = 0.01, 10.0  # of severity: the same
FEW = 25  # successions that are marked from top to bottom
_SIZE = 11.0  # of texts, in units of the drawing
WIDE, NARROW = 620, 330  # of drawings, in the same units
Draw = Callable[[Axes, int], None]  # is told how many ticks there is room for
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollars
    "font.size": _SIZE,
    "axes.edgecolor": RULE,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "text.color": QUIET,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Chart:
    """A drawing."""

    title: str  # a few words, for who cannot see it
    says: str  # what it shows, in a sentence
    svg: Markup  # drawn for a screen of some width
    narrow: Markup = Markup()  # for a small one; empty: the other serves there, too


def measure_chart(
    points: Sequence[Point],
    estimates: Sequence[Estimate],
    usual: Sequence[float],
    *,
    title: str,
    says: str,
) -> Chart:
    """A measure over batches with its limits, beside that of the reference.

    Parameters
    ----------
    points : sequence of Point
    estimates : sequence of Estimate
        Of each point.
    usual : sequence of float
        The same of the reference.
    """

    def draw(axes: Axes, ticks: int) -> None:
        at = [each.sequence for each in points]
        value, low, high = zip(*estimates, strict=True)
        axes.fill_between(at, low, high, color=FIRST, alpha=0.18, linewidth=0)
        axes.step(at, usual, where="post", color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
        _line(axes, at, value, FIRST)
        _batches(axes, points, ticks)

    return _chart(title, says, draw)


def evidence_chart(points: Sequence[Point], threshold: float, *, title: str, says: str) -> Chart:
    """Evidence of drift and of a drop in quality, beside what an alarm takes (log10)."""

    def draw(axes: Axes, ticks: int) -> None:
        at = [each.sequence for each in points]
        axes.axhline(threshold, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
        drift = [_within(each.drift_evidence, -1, CERTAIN) for each in points]
        quality = [_within(each.quality_evidence, -1, CERTAIN) for each in points]
        _line(axes, at, quality, SECOND, linestyle=(0, (1, 1.6)), linewidth=2.2)
        _line(axes, at, drift, FIRST)
        axes.set_ylim(-1.3, CERTAIN + 0.5)
        axes.set_yticks([0, 3, 6, CERTAIN], ["1", "10³", "10⁶", "≥ 10⁹"])
        _batches(axes, points, ticks)

    return _chart(title, says, draw)


def severity_chart(
    points: Sequence[Point], thresholds: Sequence[float], *, title: str, says: str
) -> Chart:
    """The largest severity, beside what makes drift of evidence, and major drift."""

    def draw(axes: Axes, ticks: int) -> None:
        at = [each.sequence for each in points]
        for threshold in thresholds:
            axes.axhline(threshold, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
        _line(axes, at, [_within(each.severity, LEAST, MOST) for each in points], FIRST)
        axes.set_yscale("log")
        axes.set_ylim(LEAST * 0.8, MOST * 1.25)
        axes.set_yticks([0.01, 0.1, 1, 10], ["≤ 0.01", "0.1", "1", "≥ 10"])
        _batches(axes, points, ticks)

    return _chart(title, says, draw)


def histogram(
    reference: Sequence[float],
    batch: Sequence[float],
    edges: Sequence[float],
    *,
    title: str,
    says: str,
) -> Chart:
    """Shares of the reference, as steps, and of a batch, as bars.

    Parameters
    ----------
    reference, batch : sequence of n_bins shares
    edges : sequence of n_bins - 1 numbers
        Inner edges of the bins; the outer ones are open.
    """

    def draw(axes: Axes, ticks: int) -> None:
        n_bins = len(batch)
        axes.bar(range(n_bins), batch, width=0.86, color=FIRST, alpha=0.75)
        axes.stairs(reference, [k - 0.5 for k in range(n_bins + 1)], color=INK, linewidth=1.6)
        chosen = range(0, len(edges), max(1, -(-len(edges) // ticks)))
        axes.set_xticks([k + 0.5 for k in chosen], [f"{edges[k]:.4g}" for k in chosen])
        axes.set_xlim(-0.7, n_bins - 0.3)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.locator_params(axis="y", nbins=4)

    return _chart(title, says, draw, widths=(NARROW,), height=130, below=18)


def shares_chart(
    names: Sequence[str],
    reference: Sequence[float],
    batch: Sequence[float],
    *,
    title: str,
    says: str,
) -> Chart:
    """Shares of categories: bars of a batch, each with a line at that of the reference."""

    def draw(axes: Axes, ticks: int) -> None:
        del ticks
        at = range(len(names))
        axes.barh(at, batch, height=0.7, color=FIRST, alpha=0.75)
        axes.vlines(reference, [k - 0.42 for k in at], [k + 0.42 for k in at], INK, linewidth=1.6)
        axes.set_yticks(at, [_short(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)  # the commonest at the top
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)

    left = 14 + 7 * max(len(_short(name)) for name in names)
    height = 46 + 18 * len(names)
    return _chart(title, says, draw, widths=(NARROW,), height=height, left=left, below=18)


def calibration_chart(
    promised: Sequence[float], came: Sequence[Estimate], *, title: str, says: str
) -> Chart:
    """Shares of positives that came true against those that the scores promised."""

    def draw(axes: Axes, ticks: int) -> None:
        del ticks
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
        value, low, high = zip(*came, strict=True)
        axes.vlines(promised, low, high, color=FIRST, linewidth=1.6)
        axes.plot(promised, value, color=FIRST, marker="o", markersize=5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)

    return _chart(title, says, draw, widths=(NARROW,), height=230, below=18)


def _chart(
    title: str,
    says: str,
    draw: Draw,
    *,
    widths: Sequence[int] = (WIDE, NARROW),
    height: int = 190,
    left: int = 46,
    below: int = 36,
) -> Chart:
    """Drawn in boxes of these widths; `left` and `below` are what the texts of the axes take."""
    drawn = (_svg(draw, title, says, width, height, left, below) for width in widths)
    return Chart(title, says, *drawn)


def _svg(
    draw: Draw, title: str, says: str, width: int, height: int, left: int, below: int
) -> Markup:
    """Draw in a box of so many units, and make it fit for a page."""
    salt = f"{title} {width}"  # or names of shapes would be those of other drawings
    with rc_context(_STYLE | {"svg.hashsalt": salt}), _other_glyphs():
        figure = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes(
            (left / width, below / height, 1 - (left + 20) / width, 1 - (below + 18) / height)
        )
        draw(axes, 7 if width == WIDE else 4)
        out = StringIO()
        plain = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=plain)
    return _inline(out.getvalue(), title, says, f"0 0 {width} {height}")


@contextmanager
def _other_glyphs() -> Iterator[None]:
    """A name may have letters that matplotlib's own font lacks; a browser has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _inline(text: str, title: str, says: str, box: str) -> Markup:
    """What matplotlib wrote as an element of a page."""
    body = text[text.index("</defs>") + len("</defs>") : text.rindex("</svg>")]
    body = re.sub(r' id="[^"]*_[^"]*"', "", body)  # only names of shapes are referred to
    body = re.sub(r"; font-family: [^;\"]*|font-family: [^;\"]*; ?", "", body)
    body = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", body)
    body = re.sub(r'="[^"]*"', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), body)
    body = re.sub(r"\s*\n\s*", " ", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    head = Markup('<svg viewBox="{}" role="img"><title>{}</title><desc>{}</desc>')
    drawn = Markup(body)  # noqa: S704 - matplotlib escapes the texts in its SVG
    return head.format(box, title, says) + drawn + Markup("</svg>")


def _line(axes: Axes, at: Sequence[int], values: Sequence[float], colour: str, **how: Any) -> None:
    """A line; a few batches are also dots, or one alone would not be seen."""
    axes.plot(at, values, color=colour, **how)
    lonely = [
        k
        for k, value in enumerate(values)
        if not isnan(value)
        and (len(values) <= 40 or all(isnan(each) for each in values[max(k - 1, 0) : k + 2 : 2]))
    ]
    axes.plot(
        [at[k] for k in lonely], [values[k] for k in lonely], "o", color=colour, markersize=3.5
    )


def _batches(axes: Axes, points: Sequence[Point], ticks: int) -> None:
    """The axis of batches: numbers, dates beneath, and who took over where."""
    first, last = points[0].sequence, points[-1].sequence
    room = max((last - first) * 0.02, 0.5)
    axes.set_xlim(first - room, last + room)
    below = axes.get_xaxis_transform()
    refused = [each.sequence for each in points if each.refused]
    axes.plot(refused, [0.04] * len(refused), "x", color=INK, markersize=5, transform=below)
    heirs, written = successions(points), first - last - 1  # where the last label stands
    for each in heirs:
        foot = 0.0 if len(heirs) <= FEW else 0.94  # many lines would hide what they cross
        axes.axvline(each.sequence, ymin=foot, color=QUIET, linewidth=1)
        if each.sequence - written >= (last - first) / (ticks * 2.5):
            text = each.version.partition("-")[0]
            axes.text(each.sequence, 1.0, text, transform=below, va="bottom", ha="center")
            written = each.sequence
    span = points[-1].at - points[0].at
    chosen = (
        points
        if len(points) <= ticks
        else [points[round(k * (len(points) - 1) / (ticks - 1))] for k in range(ticks)]
    )
    axes.set_xticks([each.sequence for each in chosen], [f"{each.sequence}" for each in chosen])
    for each in chosen:
        axes.annotate(
            when(each.at, span),
            (each.sequence, 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -17),
            textcoords="offset points",
            ha="center",
            va="top",
        )


def _within(value: float, low: float, high: float) -> float:
    return value if isnan(value) else min(max(value, low), high)


def _short(name: str, most: int = 18) -> str:
    """A name that leaves room for what is drawn.

    >>> _short("debt consolidation and more"), _short("car")
    ('debt consolidatio…', 'car')
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"
