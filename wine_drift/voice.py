"""What is said on the terminal and to logs: text for people, or one JSON object a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from wine_drift.errors import WineDriftError
from wine_drift.logline import line_json, line_text, log_line

T = TypeVar("T")

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
        click.echo(line_json(log_line(time.time(), "warning", "note", message=line)), err=True)
    else:
        click.echo(line, err=True)


def progress(line: str) -> None:
    """What takes long, where somebody waits for it; each line takes the place of the last."""
    if sys.stderr.isatty() and not structured():
        click.echo(f"{WIPE}{line} ...", err=True, nl=False)


def wipe() -> None:
    """Before anything else is printed."""
    if sys.stderr.isatty() and not structured():
        click.echo(WIPE, err=True, nl=False)


def bar(steps: Sequence[T]) -> Iterable[T]:
    """A progress bar, where somebody waits for it."""
    from tqdm import tqdm

    shown: Iterable[T] = tqdm(steps, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)
    return shown


def tell(error: WineDriftError) -> None:
    """An error: what, where, and what to do."""
    wipe()
    if structured():
        told = {"error": str(error), "remedy": error.remedy or None, "exit_code": error.exit_code}
        click.echo(line_json(log_line(time.time(), "error", "error", **told)), err=True)
        return
    for line in str(error).splitlines():
        click.echo(f"error: {line}", err=True)
    if error.remedy:
        click.echo(f"       {error.remedy}", err=True)


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
    if show and error is not None and not structured():
        tell(error)
        short = {key: value for key, value in line.items() if key not in ("error", "remedy")}
        click.echo(line_text(short), err=True)
    elif show:
        wipe()
        click.echo(text, err=True)
    if file is None:
        return
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write(text + "\n")  # in one piece, as lines are shorter than a buffer
    except OSError as error:
        say(f"log_file {file}: {error.strerror}; nothing else is wrong")
