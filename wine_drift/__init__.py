"""wine-drift: a scheduled job that watches a model in production and keeps it good.

Its statistics can be called without the job, see docs/library.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wine_drift.api import (
        ColumnDrift,
        Comparison,
        Decision,
        Drift,
        Drop,
        Quality,
        Reference,
        State,
        compare,
        decide,
        profile,
        quality,
    )

__version__ = "0.1.0"

__all__ = [
    "ColumnDrift",
    "Comparison",
    "Decision",
    "Drift",
    "Drop",
    "Quality",
    "Reference",
    "State",
    "compare",
    "decide",
    "profile",
    "quality",
]


def __getattr__(name: str) -> Any:
    """What `__all__` names is loaded when it is asked for: the command line needs none of it."""
    if name in __all__:
        from wine_drift import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Tell completion of them, too."""
    return sorted({*globals(), *__all__})
