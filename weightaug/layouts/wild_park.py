"""The CNN Wild Park: networks of many architectures, each in a file with its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weightaug.io.files import AnyPath, absolute

__all__ = ["WildNetwork", "wild_park"]

# Whose objects become inert ones, which hold what the file says and have no methods.
_INERT = (
    "omegaconf.",
    "typing.",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
    "collections.",
)


class WildNetwork(NamedTuple):
    """One network of the park.

    Attributes:
        state_dict: Its weights, for a module that you build by its configuration.
        config: What the file says of it, as plain dicts, lists and numbers.
    """

    state_dict: dict[str, Tensor]
    config: Any


def wild_park(path: AnyPath) -> WildNetwork:
    """Reads one network of the CNN Wild Park, ``{"model": state dict, "config": configuration}`` by ``torch.save``.

    The configurations are objects of omegaconf. Nothing of them is run or imported: they are read as plain dicts and
    lists, and any other class is refused by its name.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If torch is older than 2.6, which cannot tell what a file asks for.
        ValueError: If the file is no such checkpoint, or asks for another class.
    """
    try:
        from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals
    except ImportError as error:
        raise ImportError(f"layouts.wild_park needs torch 2.6 or newer, got {torch.__version__}") from error
    file = absolute(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        asked = get_unsafe_globals_in_checkpoint(file)
    except Exception as error:  # a damaged file fails in any way; the reason is told
        raise ValueError(f"{file}: expected a file that torch.save has written: {error}") from error
    if wrong := [name for name in asked if not name.startswith(_INERT)]:
        raise ValueError(
            f"{file}: refused, since it asks for {', '.join(wrong)}; only omegaconf's objects are expected"
        )
    inert: list[Any] = [(type(name.rpartition(".")[2], (_Inert,), {"__module__": __name__}), name) for name in asked]
    try:
        with safe_globals(inert):
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{file}: expected a checkpoint of weights and configuration: {error}") from error
    weights = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{file}: expected a state dict under 'model', found {_keys(content)}")
    return WildNetwork({str(name): value for name, value in weights.items()}, _plain(content.get("config"), 0, file))


class _Inert:
    """What stands for an object of a class that is not imported."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        made = super().__new__(cls)
        made.__dict__["arguments"] = args
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)

    def __hash__(self) -> int:
        return id(self)


def _keys(content: Any) -> str:
    return ", ".join(map(repr, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__


def _plain(value: Any, depth: int, file: Path) -> Any:
    """A configuration as dicts, lists and numbers."""
    if depth > 50:
        raise ValueError(f"{file}: the configuration is nested too deeply")
    if isinstance(value, _Inert):
        held = value.__dict__
        inside = held.get("_content", held.get("_val"))
        return _plain(inside, depth + 1, file)
    if isinstance(value, Mapping):
        return {str(_plain(k, depth + 1, file)): _plain(v, depth + 1, file) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, depth + 1, file) for v in value]
    return value
