"""How the loops of this package are compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numba

__all__ = ["compiled"]


def compiled(*signatures: str) -> Callable[[Any], Any]:
    """A decorator that compiles a function for the given argument types, when its module is imported."""
    # The GIL is left to others. Sums and minima may be reordered, or they would not be vectorised; infinities are in
    # use, NaN is not.
    options: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz", "reassoc", "contract"}}
    types: Sequence[str] = list(signatures)

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(types, cache=True, **options)(function)
        # No folder to write to, a full disk, files that are cut off or damaged: whatever is wrong with the cache, the
        # loops can be compiled without it. If the cache was not to blame, this fails again, and `load` says so.
        except Exception as error:
            result = numba.njit(types, **options)(function)
            _warn(f"{type(error).__name__}: {error}")
            return result

    return decorate


@cache  # all functions meet the same error
def _warn(reason: str) -> None:
    warnings.warn(
        f"numba's cache of weightaug's compiled loops cannot be used ({reason}), so that they are compiled again in "
        "every process, which takes some seconds. Set NUMBA_CACHE_DIR to an empty folder that can be written to",
        stacklevel=2,
    )
