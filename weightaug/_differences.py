"""What two architectures differ in, in one short line for an error message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from weightaug.architecture import Architecture

__all__ = ["difference"]

_MOST = 3  # differences that a message lists
_LONGEST = 60


def difference(first: Architecture, second: Architecture) -> str:
    """The first few differences, ``"space 'hidden1': activation omega 30.0 and 29.0, ..., and 4 more"``.

    Args:
        first: An architecture.
        second: Another one.

    Returns:
        At most about 300 characters; ``"nothing"`` for equal architectures.
    """
    a, b = first.to_dict(), second.to_dict()
    found: list[str] = []
    sizes = [[space["size"] for space in data["spaces"]] for data in (a, b)]
    if sizes[0] != sizes[1]:
        shown = [_short("-".join(map(str, s))) for s in sizes]
        found.append(f"sizes {shown[0]} and {shown[1]}")
    for kind in ("space", "layer"):
        mine, theirs = ({part["name"]: part for part in data.pop(f"{kind}s")} for data in (a, b))
        for name in dict.fromkeys([*mine, *theirs]):
            if name not in mine or name not in theirs:
                found.append(f"{kind} {name!r} only in the {'first' if name in mine else 'second'}")
                continue
            changed = [_show(d) for d in _changes(mine[name], theirs[name]) if d[0] != "size"]
            if changed:
                found.append(f"{kind} {name!r}: {', '.join(changed)}")
        if list(mine) != list(theirs) and sorted(mine) == sorted(theirs):
            found.append(f"the order of the {kind}s")
    found += [_show(change) for change in _changes(a, b)]
    if not found:
        return "nothing"
    more = f", and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "; ".join(found[:_MOST]) + more


def _changes(a: dict[str, Any], b: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*a, *b]):
        mine, theirs = a.get(key), b.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            yield from _changes(mine, theirs, f"{path}{key} ")
        elif mine != theirs:
            yield f"{path}{key}", mine, theirs


def _show(change: tuple[str, Any, Any]) -> str:
    path, mine, theirs = change
    return f"{path} {_value(mine)} and {_value(theirs)}"


def _value(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("name"), str):  # an activation beside none
        value = value["name"]
    return _short(repr(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
