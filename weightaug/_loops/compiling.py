"""How the loops of this package are compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        except RuntimeError:  # no folder that numba can write to
            return numba.njit(types, **options)(function)

    return decorate
