"""Named moments, at every step that touches disk or network, at which tests break a run.

Outside of tests each is a call that does nothing: neither a setting nor a variable reaches it.
"""

from __future__ import annotations

from collections.abc import Callable


def _go_on(name: str) -> None:
    """What happens at a moment in production."""


hook: Callable[[str], None] = _go_on  # tests put one that kills or raises in its place


def reached(name: str) -> None:
    """Say that a step comes next: `room: step`.

    >>> reached("ledger: commit")
    """
    hook(name)
