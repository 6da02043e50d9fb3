"""Commands in the documents, with what they print: run, compared, and written anew.

    python tests/tour.py README.md docs/tutorial.md

writes what the commands of these pages print now. A page's blocks marked `console` are one bash
session, in an empty folder; a line that starts with "$ " is a command, one with "> " goes on with
it, and the others are what it prints to stdout.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z)?")
_AGE = re.compile(r"\d+ (s|min) old")
_END = "--- end of what was printed, exit code"


@dataclass(frozen=True)
class Example:
    """A command of a page, and what it prints there."""

    command: str  # lines of bash
    printed: str
    start: int  # where what is printed starts in the page, and where it ends
    end: int


def examples(page: str) -> Iterator[Example]:
    """All of them, in the order of the page."""
    for block in _BLOCK.finditer(page):
        at = block.start(1)
        lines: list[str] = []
        start = at
        for line in block[1].splitlines(keepends=True):
            if line.startswith("$ ") and lines:
                yield Example("".join(lines), page[start:at], start, at)
                lines = []
            at += len(line)
            if line.startswith("$ ") or (line.startswith("> ") and start == at - len(line)):
                lines.append(line[2:])
                start = at
        yield Example("".join(lines), page[start:at], start, at)


def blocks(page: str, kind: str) -> list[str]:
    """What stands in the blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def commands(block: str) -> Iterator[str]:
    """The commands of a block of shell; one may go on over several lines."""
    lines: list[str] = []
    for line in block.splitlines():
        lines.append(line)
        text = "\n".join(lines)
        if not line.endswith("\\") and _is_closed(text):
            if words(text):
                yield text
            lines = []
    assert not lines, f"it does not end: {lines}"


def _is_closed(text: str) -> bool:
    """Whether no quotation is open."""
    try:
        words(text)
    except ValueError:
        return False
    return True


def words(command: str) -> list[str]:
    """Of a command, without its comment."""
    return shlex.split(command.replace("\\\n", " "), comments=True)


def shows(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed.

    There a line "..." stands for any lines, and ", ..." at the end of a line for the rest of it.
    """
    pattern = ""
    for line in shown.splitlines():
        if line == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += re.escape(line.removesuffix(", ..."))
            pattern += r", .*\n" if line.endswith(", ...") else r"\n"
    return re.fullmatch(pattern, printed) is not None


def run(
    commands: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> list[tuple[str, int]]:
    """Run commands in one bash session; gives what each printed to stdout, and its exit code."""
    script = "".join(f'{command}\necho "{_END} $?"\n' for command in commands)
    search = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**environment, "PATH": search},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    parts = re.split(rf"{_END} (\d+)\n", done.stdout)
    return list(zip(parts[0::2], map(int, parts[1::2]), strict=False))


def plain(printed: str) -> str:
    """What is the same each time."""
    return _AGE.sub("(age)", _TIME.sub("(time)", printed))


def rewritten(page: str, printed: Sequence[str]) -> str:
    """The page with what its commands print now."""
    found = list(examples(page))
    for example, text in reversed(list(zip(found, printed, strict=True))):
        page = page[: example.start] + text + page[example.end :]
    return page


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        text = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            outcomes = run([each.command for each in examples(text)], Path(folder), os.environ)
        path.write_text(rewritten(text, [printed for printed, _ in outcomes]), encoding="utf-8")
