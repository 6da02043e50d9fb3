"""What the documents show is what happens: their commands are run, and their output compared."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import tour

from wine_drift.cli import main

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
SHOWN = [name for name, path in PAGES.items() if "```console\n" in path.read_text("utf-8")]


@contextlib.contextmanager
def publisher(table: Path) -> Iterator[str]:
    """Somebody who has the table; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(table.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{table.name}"
        server.shutdown()


@pytest.mark.parametrize("name", SHOWN)
def test_the_commands_print_what_is_shown(name: str, red_wine_csv: Path, tmp_path: Path) -> None:
    """In an empty folder, one after the other."""
    shown = list(tour.examples(PAGES[name].read_text("utf-8")))
    with publisher(red_wine_csv) as url:
        outcomes = tour.run(
            [each.command for each in shown], tmp_path, {**os.environ, "WINE_DRIFT_URL": url}
        )
    assert len(outcomes) == len(shown)
    for each, (printed, code) in zip(shown, outcomes, strict=True):
        assert tour.plain(printed) == tour.plain(each.printed), each.command
        assert code == 0, each.command


def test_a_command_is_found_with_what_it_prints() -> None:
    """And is written anew where it prints something else."""
    page = "one\n```console\n$ cat <<E\n> a\n> E\na\n$ true\n$ echo b\nc\n```\n```sh\n$ no\n```\n"
    found = [(each.command, each.printed) for each in tour.examples(page)]
    assert found == [("cat <<E\na\nE\n", "a\n"), ("true\n", ""), ("echo b\n", "c\n")]
    outcomes = tour.run([command for command, _ in found], Path.cwd(), os.environ)
    assert outcomes == [("a\n", 0), ("", 0), ("b\n", 0)]
    assert tour.rewritten(page, [text for text, _ in outcomes]) == page.replace("c\n`", "b\n`")


def test_commands_of_a_block() -> None:
    """Each is one, over however many lines; comments are none."""
    page = "```sh\n# a\n\nb \\\n  c  # d\ne 'f\ng'  # it's\n```\n```text\nh\n```\n"
    (block,) = tour.blocks(page, "sh")
    found = list(tour.commands(block))
    assert found == ["b \\\n  c  # d", "e 'f\ng'  # it's"]
    assert list(map(tour.words, found)) == [["b", "c"], ["e", "f\ng"]]
    with pytest.raises(AssertionError, match="does not end"):
        list(tour.commands("echo 'a\n"))


@pytest.mark.parametrize(
    ("shown", "printed", "told"),
    [
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a\n...\n", "a\nb\nc\n", True),
        ("a\n...\nc\n", "a\nc\n", True),
        ("a\n...\nc\n", "a\nb\n", False),
        ("a.c\n", "abc\n", False),
        ("a 1, ...\n", "a 1, b 2\n", True),
        ("a 1, ...\n", "a 1\n", False),
    ],
)
def test_what_is_left_out(shown: str, printed: str, told: bool) -> None:
    """Lines, and the rest of a line, where the page says so."""
    assert tour.shows(shown, printed) == told


# --- commands in the text, which are not run, are at least there ---


@pytest.mark.parametrize("name", PAGES)
def test_every_command_exists(name: str) -> None:
    """As it is written, with all its options."""
    for code in re.findall(r"`(wine-drift [^`]*)`", PAGES[name].read_text("utf-8")):
        _check(shlex.split(code)[1:])


def _check(words: list[str]) -> None:
    command: click.Command = main
    words = [word for word in words if word not in ("[OPTIONS]", "...")]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, words
        command = command.commands[words.pop(0)]
    there = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    there |= {"--help", "--version"}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    if command.name == "schedule":  # takes those of run-batch, too
        there |= {option for each in main.commands["run-batch"].params for option in each.opts}
    assert given <= there, (command.name, given - there)


@pytest.mark.parametrize("name", PAGES)
def test_every_target_exists(name: str) -> None:
    """`make` knows what is asked of it."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for code in re.findall(r"`(make [^`]*)`", PAGES[name].read_text("utf-8")):
        words = shlex.split(code)[1:]
        assert {word for word in words if "=" not in word} <= targets, words
