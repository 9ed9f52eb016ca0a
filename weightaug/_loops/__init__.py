"""Inner loops that numba compiles to machine code, for the extra ``fast``; all of them have a readable counterpart.

Compiling takes some seconds, once: numba keeps the results beside the files here, or where NUMBA_CACHE_DIR says.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import cache
from types import ModuleType

__all__ = ["load"]


@cache
def load(name: str) -> ModuleType | None:
    """A module of this package, or None if numba is not installed, or does not work (it warns, once)."""
    try:
        if importlib.util.find_spec("numba") is None:
            return None
        return importlib.import_module(f"weightaug._loops.{name}")
    # Numba breaks in many ways: an ImportError for a NumPy that it does not know yet, an AttributeError or SystemError
    # from what it builds on, errors of its own where it cannot compile. All that it does works without it.
    except Exception as error:
        _warn(f"{type(error).__name__}: {error}")
        return None


@cache  # all modules meet the same error
def _warn(reason: str) -> None:
    warnings.warn(
        f"numba is installed, but cannot be used ({reason}); weightaug does without it, which is slower. "
        "Install versions of numba and numpy that fit, or uninstall numba",
        stacklevel=4,
    )
