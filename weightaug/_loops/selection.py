"""Selecting from rows of numbers by their order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightaug._loops.compiling import compiled

__all__ = ["neighbours_in_order"]

Integers = NDArray[Any]
_TYPES = "void({0}[:,::1], {0}[::1], int64[::1], {0}[::1], {0}[::1])"


@compiled(_TYPES.format("int32"), _TYPES.format("int64"))
def neighbours_in_order(
    values: Integers, typed: Integers, position: NDArray[np.int64], at: Integers, after: Integers
) -> None:
    """Finds the entries at a place of each row's ascending order, and after it.

    Bisects the values until as many as wanted are below: some fifteen passes that only compare and count, which vector
    instructions do faster than one pass of any selection that moves numbers.

    Args:
        values: ``(batch, n)``, not negative; non-negative floats have the order of their bits.
        typed: -1, the largest value of the type, and memory of one: what comes from here is known to be as narrow as
            the values, so that twice as many fit into a vector instruction.
        position: ``(batch,)``, from 0 to n - 1.
        at: ``(batch,)``; becomes the entry at the position.
        after: ``(batch,)``; becomes the one at the next position, or the same one at the last.
    """
    least, most = typed[0], typed[1]
    for b in range(len(values)):
        row, wanted = values[b], position[b] + 1
        bottom, top = least, least  # fewer than wanted are up to the bottom, and at least so many up to the top
        for j in range(len(row)):
            top = max(top, row[j])
        count = len(row)
        while top - bottom > 1 and count != wanted:
            typed[2] = bottom + (top - bottom) // 2
            middle, lower = typed[2], 0
            for j in range(len(row)):
                lower += row[j] <= middle
            if lower < wanted:
                bottom = middle
            else:
                top, count = middle, lower
        below, above = least, most
        for j in range(len(row)):
            below = max(below, row[j] if row[j] <= top else least)
            above = min(above, row[j] if row[j] > top else most)
        at[b] = below
        after[b] = above if count == wanted and wanted < len(row) else below
