"""Every error that is told says what to do about it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import wine_drift
from wine_drift import errors

PACKAGE = Path(wine_drift.__file__).parent
TOLD = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.WineDriftError)
}


def made_in(path: Path) -> Iterator[tuple[int, ast.Call]]:
    """Where a module makes such an error."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TOLD:
            yield node.lineno, node


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_every_error_has_a_remedy(path: Path) -> None:
    """A message without one leaves its reader alone."""
    for line, call in made_in(path):
        remedies = [word.value for word in call.keywords if word.arg == "remedy"]
        assert remedies, f"{path.name}:{line}: no remedy"
        assert not (isinstance(remedies[0], ast.Constant) and not remedies[0].value), line


def test_the_look_finds_them() -> None:
    """The way of looking is able to see."""
    assert sum(len(list(made_in(path))) for path in PACKAGE.glob("*.py")) > 100
