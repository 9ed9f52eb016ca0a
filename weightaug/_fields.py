"""Fields of plain records as people give them: converted where that loses nothing, refused otherwise.

NumPy's numbers are taken for numbers, since they would break JSON, hashes and comparisons later. A bool is no
number, and a float is no size, even where Python says that they are equal.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, SupportsFloat, TypeVar

import numpy as np
import torch

__all__ = ["as_bool", "as_integer", "as_integers", "as_number", "as_parts", "as_text"]

_T = TypeVar("_T")


def as_text(value: Any, what: str, advice: str = "") -> str:
    """A string, as it is.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(value, str):
        return str(value)  # no subclass, such as NumPy's
    raise TypeError(f"{what}: expected a string, got {_named(value)}{advice}")


def as_integer(value: Any, what: str) -> int:
    """An int from any integer, NumPy's included.

    Raises:
        TypeError: If it is a bool, a float or no number.
    """
    if not _is_bool(value):
        try:
            return operator.index(value)
        except (TypeError, RuntimeError):  # torch raises either for a tensor of floats
            pass
    raise TypeError(f"{what}: expected an int, got {_named(value)}")


def as_integers(value: Any, what: str) -> tuple[int, ...]:
    """A tuple of ints from a list, tuple or array of integers.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{what}: expected a tuple of ints, got {_named(value)}")
    return tuple(as_integer(v, what) for v in value)


def as_parts(value: Any, kind: type[_T], what: str) -> tuple[_T, ...]:
    """A tuple of objects of one class from a list or tuple of them.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(value, (str, bytes, kind)) or not isinstance(value, Iterable):
        raise TypeError(f"{what}: expected a tuple of {kind.__name__} objects, got {_named(value)}")
    parts = tuple(value)
    for part in parts:
        if not isinstance(part, kind):
            raise TypeError(f"{what}: expected a tuple of {kind.__name__} objects, got {_named(part)} in it")
    return parts


def as_number(value: Any, what: str) -> float:
    """A float from any real number, NumPy's and tensors of one value included.

    Raises:
        TypeError: If it is a bool, a string or no number.
    """
    if isinstance(value, SupportsFloat) and not _is_bool(value) and not isinstance(value, (str, bytes)):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            pass
    raise TypeError(f"{what}: expected a number, got {_named(value)}")


def as_bool(value: Any, what: str) -> bool:
    """A bool from a bool, NumPy's included.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{what}: expected True or False, got {_named(value)}")


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) in (torch.bool, np.dtype(bool))


def _named(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
