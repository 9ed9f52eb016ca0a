"""Checks of the settings of transforms, which also bring them into a plain form: numbers, strings and tuples."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from weightaug._fields import as_bool, as_integer, as_integers, as_number
from weightaug.transforms.base import Transform

__all__ = [
    "choice",
    "flag",
    "instance",
    "integer",
    "integers",
    "number",
    "number_or_range",
    "put",
    "sequence",
    "symmetry",
]

_SYMMETRIES = ("auto", "permutation", "sign", "phase", "scale", "maps")


def number(owner: object, name: str, low: float = -math.inf, high: float = math.inf, *, ends: str = "[]") -> None:
    """A setting must be a finite number between two ends, which ``ends`` includes or excludes."""
    put(owner, name, checked_number(_title(owner, name), getattr(owner, name), low, high, ends))


def checked_number(title: str, value: Any, low: float, high: float, ends: str = "[]") -> float:
    """A finite float between two ends."""
    plain = as_number(value, title)
    above = low < plain or (plain == low and ends[0] == "[")
    below = plain < high or (plain == high and ends[1] == "]")
    if not (above and below and math.isfinite(plain)):
        raise ValueError(f"{title} must be {_interval(low, high, ends)}, got {plain:g}")
    return plain


def _interval(low: float, high: float, ends: str) -> str:
    if math.isfinite(high):
        return f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
    if math.isfinite(low):
        return f"finite and {'at least' if ends[0] == '[' else 'above'} {low:g}"
    return "finite"


def integer(owner: object, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """A setting must be a whole number in [low, high]."""
    title = _title(owner, name)
    plain = as_integer(getattr(owner, name), title)
    checked_number(title, plain, low, high)
    put(owner, name, plain)


def flag(owner: object, name: str) -> None:
    """A setting must be True or False: a string such as "False" would count as true."""
    put(owner, name, as_bool(getattr(owner, name), _title(owner, name)))


def sequence(owner: object, name: str) -> None:
    """A setting must be finite numbers in a row, or None."""
    value = getattr(owner, name)
    if value is None:
        return
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{_title(owner, name)} must be a tuple of numbers or None, got {value!r}")
    title = f"{_title(owner, name)}: every entry"
    put(owner, name, tuple([checked_number(title, v, -math.inf, math.inf) for v in value]))


def integers(owner: object, name: str, low: float = -math.inf) -> None:
    """A setting must be whole numbers in a row, not below ``low``, or None."""
    value = getattr(owner, name)
    if value is not None:
        title = f"{_title(owner, name)}: every entry"
        numbers = as_integers(value, _title(owner, name))
        put(owner, name, tuple([int(checked_number(title, v, low, math.inf)) for v in numbers]))


def number_or_range(
    owner: object,
    name: str,
    low: float,
    high: float,
    *,
    ends: str = "[]",
    least: float = -math.inf,
    whole: bool = False,
) -> None:
    """A setting must be a number between two ends, or a range: two numbers in ascending order, above ``least``."""
    value = getattr(owner, name)
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)) or getattr(value, "shape", None) == ():
        return integer(owner, name, low, high) if whole else number(owner, name, low, high, ends=ends)
    (integers if whole else sequence)(owner, name)
    numbers = getattr(owner, name)
    if len(numbers) != 2 or not least < numbers[0] <= numbers[1]:
        above = f", both above {least:g}" if math.isfinite(least) else ""
        raise ValueError(f"{_title(owner, name)} must be one number or (lowest, highest){above}, got {numbers}")
    return None


def choice(owner: object, name: str, allowed: Collection[str]) -> None:
    """A setting must be one of some strings."""
    value = getattr(owner, name)
    if not isinstance(value, str) or value not in allowed:
        *rest, last = [repr(a) for a in allowed]
        raise ValueError(f"{_title(owner, name)} must be {', '.join(rest)} or {last}, got {value!r}")


def symmetry(owner: object, name: str = "symmetry") -> None:
    """A setting must be the name of a symmetry, or several."""
    value = getattr(owner, name)
    several = isinstance(value, Collection) and not isinstance(value, str)
    names = list(value) if several else [value]
    if not names or any(not isinstance(n, str) or n not in _SYMMETRIES for n in names) or (several and "auto" in names):
        raise ValueError(f"{_title(owner, name)} must be 'auto', or one or several of {_SYMMETRIES[1:]}, got {value!r}")
    if several:
        put(owner, name, tuple([n for n in _SYMMETRIES if n in names]))


def instance(owner: object, name: str, value: Any) -> None:
    """A setting must be a transform, and not the class of one."""
    if isinstance(value, Transform):
        return
    fix = (
        f"; write the call, e.g. {value.__name__}()" if isinstance(value, type) and issubclass(value, Transform) else ""
    )
    got = value.__name__ if isinstance(value, type) else repr(value)
    raise TypeError(f"{_title(owner, name)} must be a Transform, got {got}{fix}")


def put(owner: object, name: str, value: Any) -> None:
    """Sets a field of a frozen dataclass while it is made."""
    object.__setattr__(owner, name, value)


def _title(owner: object, name: str) -> str:
    return f"{type(owner).__name__}: {name}"
