"""A progress bar where one is wanted and tqdm is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Bar", "bar"]


class Bar:
    """What a bar is told; called with the number of units that have just been done.

    Args:
        shown: The bar of tqdm; None where none is wanted or tqdm is not installed.
    """

    def __init__(self, shown: Any) -> None:
        self._shown = shown

    def __call__(self, size: int) -> None:
        if self._shown is not None:
            self._shown.update(size)

    def say(self, text: str) -> None:
        """Writes how it goes behind the bar, until the next text."""
        if self._shown is not None:
            self._shown.set_postfix_str(text)


@contextmanager
def bar(total: int, *, unit: str, name: str | None = None, wanted: bool = True) -> Iterator[Bar]:
    """Yields what is called with the number of units that have just been done."""
    shown: Any = None
    if wanted:
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            shown = tqdm(total=total, desc=name, unit=unit, dynamic_ncols=True)
    try:
        yield Bar(shown)
    finally:
        if shown is not None:
            shown.close()
