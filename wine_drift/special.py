"""The functions of scipy.special that a run needs, without what that package brings along.

`import scipy.special` loads numpy's tools for tests and for Fortran too, which is a third of a run
of 100 rows. The functions lie in one compiled module that needs none of it. Where a version of
scipy has them elsewhere, the whole package is loaded.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any, cast

import scipy

__all__ = [
    *("chdtrc", "expit", "fdtrc", "gammainc", "gammaincc", "gammaln"),
    *("logit", "ndtr", "ndtri", "stdtr", "stdtrit"),
]
_PACKAGE = "scipy.special"


def _functions() -> ModuleType:
    """The compiled module, or else the package.

    A module is imported after its package; so that this one is not, an empty one takes its place
    for the moment. Once the package itself is imported, it finds the module loaded.
    """
    if _PACKAGE not in sys.modules:
        empty, us, done = ModuleType(_PACKAGE), threading.get_ident(), threading.Event()

        def whole(name: str) -> Any:
            """For other threads, that import the package meanwhile."""
            if threading.get_ident() == us:
                raise AttributeError(name)
            done.wait()
            return getattr(_package(), name)

        empty.__path__ = [f"{folder}/special" for folder in scipy.__path__]
        empty.__dict__["__getattr__"] = whole
        sys.modules[_PACKAGE] = empty
        try:
            from scipy.special import _ufuncs

            if all(hasattr(_ufuncs, name) for name in __all__):
                return cast("ModuleType", _ufuncs)
        except ImportError:
            pass
        finally:
            del sys.modules[_PACKAGE]
            done.set()
    return _package()


def _package() -> ModuleType:
    import scipy.special as package

    return cast("ModuleType", package)


_found = _functions()
chdtrc, expit, fdtrc = _found.chdtrc, _found.expit, _found.fdtrc
gammainc, gammaincc, gammaln = _found.gammainc, _found.gammaincc, _found.gammaln
logit, ndtr, ndtri = _found.logit, _found.ndtr, _found.ndtri
stdtr, stdtrit = _found.stdtr, _found.stdtrit
