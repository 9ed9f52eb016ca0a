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
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        return importlib.import_module(f"weightaug._loops.{name}")
    except ImportError as error:  # as numba raises for a NumPy that it does not know yet
        warnings.warn(
            f"numba is installed, but cannot be imported ({error}); weightaug does without it, which is slower. "
            "Install versions of numba and numpy that fit, or uninstall numba",
            stacklevel=2,
        )
        return None
