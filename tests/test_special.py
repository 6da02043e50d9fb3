"""Special functions: scipy's own, without the rest of scipy.special."""

from __future__ import annotations

import subprocess
import sys

import pytest
import scipy.special

from wine_drift import special


def python(code: str) -> str:
    """What a new process prints."""
    call = [sys.executable, "-c", code]
    return subprocess.run(call, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("name", special.__all__)
def test_they_are_those_of_scipy(name: str) -> None:
    """The same objects, whoever was imported first."""
    assert getattr(special, name) is getattr(scipy.special, name)


def test_the_package_can_be_imported_after_them() -> None:
    """It is whole: what was in its place for a moment is gone."""
    code = """
import sys
from wine_drift import special
assert "scipy.special" not in sys.modules and "numpy.f2py" not in sys.modules
import scipy.special
import scipy.stats
assert scipy.stats.norm.cdf(0) == 0.5 and scipy.special.roots_legendre(1)[1] == 2
print(scipy.special.ndtri is special.ndtri)
"""
    assert python(code) == "True\n"


ABSENT = """
import sys
class Once:
    def find_spec(self, name, path=None, target=None):
        if name == "scipy.special._ufuncs":
            sys.meta_path.remove(self)
            raise ImportError(name)
sys.meta_path.insert(0, Once())
from wine_drift import special
"""
INCOMPLETE = """
import sys
from wine_drift import special
assert "scipy.special" not in sys.modules
special.__all__.append("roots_legendre")
special.expit = special._functions().expit
"""


@pytest.mark.parametrize("way", [ABSENT, INCOMPLETE], ids=["no such module", "not all functions"])
def test_a_scipy_that_has_them_elsewhere(way: str) -> None:
    """The package is imported."""
    code = (
        way
        + """
whole = sys.modules["scipy.special"]
print(special._functions() is whole, special.expit is whole.expit, bool(whole.roots_legendre))
"""
    )
    assert python(code) == "True True True\n"


def test_a_package_that_is_there_is_taken() -> None:
    """Nothing takes its place, not for a moment."""
    assert special._functions() is scipy.special


def test_another_thread_can_import_the_package_meanwhile() -> None:
    """It waits, and gets all of it."""
    code = """
import sys, threading
def other():
    while "scipy.special" not in sys.modules:
        pass
    from scipy.special import roots_legendre, ndtri
    found.append((roots_legendre, ndtri))
found = []
sys.setswitchinterval(1e-6)
thread = threading.Thread(target=other)
thread.start()
from wine_drift import special
thread.join()
import scipy.special as whole
print(found == [(whole.roots_legendre, whole.ndtri)], whole.ndtri is special.ndtri)
"""
    assert python(code) == "True True\n"
