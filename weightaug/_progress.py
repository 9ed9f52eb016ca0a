"""A progress bar where one is wanted and tqdm is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["bar"]


@contextmanager
def bar(total: int, *, unit: str, name: str | None = None, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields what is called with the number of units that have just been done."""
    shown: Any = None
    if wanted:
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            shown = tqdm(total=total, desc=name, unit=unit, dynamic_ncols=True)

    def advance(size: int) -> None:
        if shown is not None:
            shown.update(size)

    try:
        yield advance
    finally:
        if shown is not None:
            shown.close()
