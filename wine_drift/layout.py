"""Lines and tables for paper of a given width: a terminal, or a pipe, which has none.

rich is loaded by what needs it: lines that need not be folded do without.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wine_drift.wording import one_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# Of a line or a cell: what it says, and how; the words alone tell it too.
STYLES = {
    **dict.fromkeys(("healthy", "ok"), "green"),
    **dict.fromkeys(("look", "note", "warn", "minor", "drift", "quarantined"), "yellow"),
    **dict.fromkeys(("act", "problem", "major", "drop"), "red"),
}
_FIGURES = {
    *("#", "rows", "log loss", "AUC", "severity", "evidence", "reliance", "in sd", "now"),
    "reference",
}
# What wraps where there is too little room, and its least width; nothing else does.
_WRAPPING = {"what changed": 24, "what it is": 24, "what to do": 16, "batch": 8, "most": 4}
WIDE = 100  # columns from which a table has all that it can tell
DRAWS = 72  # columns from which there is room for bars beside figures
_HANG = 13  # where the text of a line with a title begins
_ENDLESS = 10_000  # columns of a pipe
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_STEPS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Paper:
    """What is written on."""

    width: int | None = None  # columns; None: as many as it takes
    colour: bool = False
    blocks: bool = False  # whether there are signs to draw bars with


PLAIN = Paper()


def bar(value: float, full: float, cells: int = 8) -> str:
    """A bar, full from a value on.

    >>> bar(0.125, 0.25, 4), bar(0.07, 0.25, 4), bar(9, 0.25, 4)
    ('██', '█▏', '████')
    """
    eighths = round(min(max(value / full, 0.0), 1.0) * cells * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def trend(values: Iterable[float | None], full: float) -> str:
    """One block a value, the highest from `full` on; a dot where there is none.

    >>> trend([0.0, 0.125, None, 0.25, 3.4], 0.25)
    '▁▅·██'
    """
    top = len(_STEPS) - 1
    return "".join(
        "·" if value is None else _STEPS[round(min(max(value / full, 0.0), 1.0) * top)]
        for value in values
    )


def columns(*titles: str, wrapping: Mapping[str, int] = _WRAPPING) -> Table:
    """An empty table without lines, figures to the right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        made.add_column(
            title,
            justify="right" if title in _FIGURES else "left",
            no_wrap=title not in wrapping,
            min_width=wrapping.get(title),
            overflow="fold",
        )
    return made


def sheet(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    paper: Paper = PLAIN,
    spare: Collection[str] = (),
    named: str | None = None,
) -> Table:
    """A table with these rows; narrow paper does without the columns that can be spared.

    The column that is `named` so holds names, which wrap: no figure has to give way to them.
    """
    wide = paper.width is None or paper.width >= WIDE
    kept = [k for k, title in enumerate(titles) if wide or title not in spare]
    wrapping = _WRAPPING if named is None else {**_WRAPPING, named: 8}
    made = columns(*(titles[k] for k in kept), wrapping=wrapping)
    for row in rows:
        made.add_row(*(word(row[k]) for k in kept))
    return made


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Titles and texts beside each other; a text goes on below itself."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2), pad_edge=False)
    made.add_column(no_wrap=True, min_width=8)
    made.add_column()
    for title, text in rows:
        made.add_row(word(title), word(text))
    return made


def word(text: str) -> Text:
    """A text that steers no terminal, coloured if it is a word that asks for it."""
    from rich.text import Text

    return Text(one_line(text), style=STYLES.get(text.lower().partition(":")[0], ""))


def drawn(parts: Iterable[str | Table], paper: Paper) -> str:
    """Lines and tables as one text; no line of it is wider than the paper."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str) and paper.width is None:
            lines.append(one_line(part))
        else:
            lines += _printed(part, paper).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _printed(part: str | Table, paper: Paper) -> str:
    """What rich makes of it."""
    from rich.console import Console

    if isinstance(part, str) and paper.width is not None:
        part = _folded(one_line(part), paper.width)
    out = io.StringIO()
    Console(
        file=out,
        width=paper.width or _ENDLESS,
        force_terminal=paper.colour,
        color_system="standard" if paper.colour else None,
        no_color=not paper.colour,
        legacy_windows=False,
        markup=False,  # names and texts may hold brackets
        emoji=False,
        highlight=False,
    ).print(part)
    return out.getvalue()


def _folded(line: str, width: int) -> str:
    """A line that goes on below where its text began."""
    hang = " " * (_HANG if line.startswith("  ") else 0)
    return "\n".join(textwrap.wrap(line, width, subsequent_indent=hang))
