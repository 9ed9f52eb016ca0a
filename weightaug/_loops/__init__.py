"""Inner loops that numba compiles to machine code, for the extra ``fast``; all of them have a readable counterpart.

Compiling takes some seconds, once: numba keeps the results beside the files here, or where NUMBA_CACHE_DIR says.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType

__all__ = ["load"]


@cache
def load(name: str) -> ModuleType | None:
    """A module of this package, or None if numba is not installed."""
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module(f"weightaug._loops.{name}")
