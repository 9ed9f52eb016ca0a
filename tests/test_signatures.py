"""The public interface, frozen by signature: arguments, their order, types and defaults, methods and members.

A difference is a decision: ``python tests/test_packaging.py`` writes tests/public_signatures.json anew, one argument a
line, and CHANGELOG.md says what changed. What goes is announced first; CONTRIBUTING.md says how.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any, ForwardRef

import pytest

from tests.test_packaging import NAMES, PUBLIC

FILE = Path(__file__).parent / "public_signatures.json"


def annotation(value: Any) -> str:
    if isinstance(value, ForwardRef):  # of named tuples, before Python 3.14
        value = value.__forward_arg__
    return value if isinstance(value, str) else inspect.formatannotation(value)


def lines_of(function: Any) -> list[str]:
    """One line for each argument, and one for what comes back."""
    found: list[str] = []
    signature = inspect.signature(function)
    starred = False
    previous = None
    for parameter in signature.parameters.values():
        if previous is inspect.Parameter.POSITIONAL_ONLY and parameter.kind is not previous:
            found.append("/")
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            found.append("*")
        starred |= parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL)
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        line = stars + parameter.name
        if parameter.annotation is not parameter.empty:
            line += f": {annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            default = parameter.default
            line += f" = {default.__qualname__ if inspect.isfunction(default) else repr(default)}"
        found.append(line)
        previous = parameter.kind
    if signature.return_annotation is not signature.empty and not inspect.isclass(function):
        found.append(f"-> {annotation(signature.return_annotation)}")
    return found


def interface_of(name: str, value: Any) -> dict[str, Any]:
    """A function's arguments; a class's constructor, public methods and properties; an enumeration's members."""
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        return {name: [f"{member.name} = {member.value!r}" for member in value]}
    if not inspect.isclass(value):
        return {name: lines_of(value) if callable(value) else [annotation(value)]}
    found: dict[str, Any] = {}
    try:
        found[name] = lines_of(value)
    except ValueError:  # a class of the interpreter
        found[name] = []
    for kind in value.__mro__:
        # What a public base class has stands there.
        if not kind.__module__.startswith("weightaug") or (kind is not value and kind.__name__ in NAMES["weightaug"]):
            continue
        for attribute, held in vars(kind).items():
            key = f"{name}.{attribute}"
            if (attribute.startswith("_") and attribute != "__call__") or key in found:
                continue
            function = held.__func__ if isinstance(held, classmethod | staticmethod) else held
            if inspect.isfunction(function):
                found[key] = lines_of(function)
            elif isinstance(held, property):
                found[key] = [f"property -> {annotation(inspect.signature(held.fget).return_annotation)}"]
    return found


def interface() -> dict[str, dict[str, list[str]]]:
    """Of every public module, in the order of the names; what several modules offer stands in the first."""
    found = {}
    told: list[Any] = []
    for module in PUBLIC:
        public = importlib.import_module(module)
        parts: dict[str, list[str]] = {}
        for name in sorted(public.__all__):
            value = getattr(public, name)
            if not any(value is other for other in told):
                parts |= interface_of(name, value)
                told.append(value)
        found[module] = dict(sorted(parts.items()))
    return found


def write() -> None:
    """Writes what is there now."""
    FILE.write_text(json.dumps(interface(), indent=1, ensure_ascii=False) + "\n")


@pytest.mark.parametrize("module", NAMES)
def test_signatures_are_what_they_were(module: str) -> None:
    frozen, now = json.loads(FILE.read_text())[module], interface()[module]
    differ = {name for name in frozen.keys() | now.keys() if frozen.get(name) != now.get(name)}
    told = "\n".join(f"{n}: was {frozen.get(n)}\n{' ' * len(n)}  is {now.get(n)}" for n in sorted(differ))
    assert not differ, f"run `python tests/test_packaging.py` and note it in CHANGELOG.md:\n{told}"


def test_no_signature_depends_on_the_process() -> None:
    assert not re.search(r"0x[0-9a-f]{6,}| object at ", FILE.read_text())


def test_a_change_would_be_found() -> None:
    def before(a: int, *, b: float = 1.0) -> str: ...

    def other_default(a: int, *, b: float = 2.0) -> str: ...

    def positional(a: int, b: float = 1.0) -> str: ...

    assert lines_of(before) == ["a: int", "*", "b: float = 1.0", "-> str"]
    assert len({tuple(lines_of(f)) for f in (before, other_default, positional)}) == 3
