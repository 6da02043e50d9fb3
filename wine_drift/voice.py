"""What is said on the terminal and to logs: text for people, or one JSON object a line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wine_drift import files
from wine_drift.errors import WineDriftError
from wine_drift.logline import line_json, line_text, log_line
from wine_drift.wording import harmless

if TYPE_CHECKING:
    from wine_drift.layout import Paper

T = TypeVar("T")

ESCAPE = "\x1b"
WIPE = "\r\x1b[K"  # to the start of the line, and clear it
_FORMAT = "wine_drift.log_format"  # key in click's context: it is chosen anew for each command


def speak(log_format: str | None) -> None:
    """From now on, as `log_format` says: text or json."""
    click.get_current_context().meta[_FORMAT] = log_format


def structured() -> bool:
    """Whether machines read what is written to stderr."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(_FORMAT) == "json"


def say(line: str) -> None:
    """What a person should know, also in cron's mail."""
    wipe()
    if structured():
        line = line_json(log_line(time.time(), "warning", "note", message=line))
    _write(harmless(line))


def progress(line: str) -> None:
    """What takes long, where somebody waits for it; each line takes the place of the last."""
    if _watched() and not structured():
        _write(f"{WIPE}{harmless(line)} ...", nl=False)


def wipe() -> None:
    """Before anything else is printed."""
    if _watched() and not structured():
        _write(WIPE, nl=False)


def bar(steps: Sequence[T]) -> Iterable[T]:
    """A progress bar, where somebody waits for it."""
    from tqdm import tqdm

    shown: Iterable[T] = tqdm(steps, file=sys.stderr, disable=not _watched(), leave=False)
    return shown


def tell(error: WineDriftError) -> None:
    """An error: what, where, and what to do."""
    wipe()
    if structured():
        told = {"error": str(error), "remedy": error.remedy or None, "exit_code": error.exit_code}
        _write(line_json(log_line(time.time(), "error", "error", **told)))
        return
    for line in str(error).splitlines():
        _write(harmless(f"error: {line}"))
    if error.remedy:
        _write(harmless(f"       {error.remedy}"))


def log(
    line: Mapping[str, Any],
    *,
    file: Path | None = None,
    show: bool = True,
    error: WineDriftError | None = None,
) -> None:
    """A line of the log: to stderr if it is to be shown, and in any case to the file.

    The error that it holds is told to people in words of its own.
    """
    text = line_json(line) if structured() else line_text(line)
    if file is not None:
        try:
            files.append(file, text)
        except OSError as failed:
            say(f"log_file {file}: {failed.strerror}; nothing else is wrong")
    if show and error is not None and not structured():
        tell(error)
        short = {key: value for key, value in line.items() if key not in ("error", "remedy")}
        _write(line_text(short))
    elif show:
        wipe()
        _write(text)


def paper() -> Paper:
    """What standard output is: a terminal, with its width and colours, or a pipe."""
    from wine_drift.layout import Paper

    forced = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    if not forced and not (sys.stdout and sys.stdout.isatty()):
        return Paper()  # rich would say the same, and take a while to load

    from rich.console import Console

    console = Console()  # it knows NO_COLOR, FORCE_COLOR, COLUMNS and TERM
    if not console.is_terminal:
        return Paper()
    coloured = console.color_system is not None and not console.no_color
    return Paper(console.width, coloured, blocks=console.encoding.startswith("utf"))


def put(text: str) -> None:
    """Text that was laid out for `paper()`."""
    click.echo(text, color=ESCAPE in text or None)


def give_up(number: int) -> None:
    """Let what is still to be written to standard output (1) or error (2) go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _write(text: str, *, nl: bool = True) -> None:
    """To stderr. If nobody takes it, what was done is done all the same."""
    try:
        click.echo(text, err=True, nl=nl)
    except OSError:
        give_up(2)


def _watched() -> bool:
    """Whether a person sees what is written to stderr."""
    return sys.stderr is not None and sys.stderr.isatty()
