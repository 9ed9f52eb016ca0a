"""A function of one's own as a transform."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weightaug._arguments import check_element
from weightaug.element import WeightSpaceElement
from weightaug.transforms import settings
from weightaug.transforms.base import Transform

__all__ = ["Lambda"]


@dataclass(frozen=True)
class Lambda(Transform):
    """Applies a deterministic function of networks. Preserves nothing that it promises; draws nothing.

    Randomness belongs into a transform of its own, which can be seeded and replayed. A function that can be imported
    is kept by its name, ``"module:function"``, so that the transform can be stored; others have no ``asdict`` form.

    Args:
        function: From a WeightSpaceElement to one of the same architecture and batch shape; or its name.

    Raises:
        TypeError: If the function is none, or returns something else.
        ValueError: If the name leads nowhere, or the result has another architecture or batch shape.

    Example:
        >>> import torch, weightaug as wa
        >>> half = wa.Lambda(lambda element: element.map(lambda t: t / 2))
        >>> x = wa.WeightSpaceElement.unflatten(wa.Architecture.siren((2, 8, 1)), torch.ones(5, 33))
        >>> half(x).weights[0].unique()
        tensor([0.5000])
    """

    function: Callable[[WeightSpaceElement], WeightSpaceElement] | str

    def __post_init__(self) -> None:
        if callable(self.function):
            name = f"{getattr(self.function, '__module__', None)}:{getattr(self.function, '__qualname__', None)}"
            if not name.startswith("__main__:") and self._leads_to(name, self.function):
                settings.put(self, "function", name)
        elif not isinstance(self.function, str):
            raise TypeError(f"Lambda: function must be callable, or 'module:name' of one, got {self.function!r}")
        if isinstance(self.function, str):
            self._resolve(self.function)

    @classmethod
    def _leads_to(cls, name: str, function: object) -> bool:
        try:
            return cls._resolve(name) is function
        except (TypeError, ValueError):
            return False

    @staticmethod
    def _resolve(name: str) -> Callable[[WeightSpaceElement], WeightSpaceElement]:
        module, _, path = name.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"Lambda: cannot find the function {name!r}: {error}; write 'module:name'") from error
        if not callable(found):
            raise TypeError(f"Lambda: {name!r} is no function, but {found!r}")
        return found  # type: ignore[no-any-return]

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.empty((*element.batch_shape, 0), device=element.device)  # nothing, for each network

    def apply(self, element: WeightSpaceElement, params: Tensor) -> WeightSpaceElement:
        result = (self._resolve(self.function) if isinstance(self.function, str) else self.function)(element)
        check_element("Lambda: what the function returned", result)
        if result.architecture != element.architecture or result.batch_shape != element.batch_shape:
            raise ValueError(
                "Lambda: the function must keep the architecture and the batch shape "
                f"{tuple(element.batch_shape)}, got {result!r}"
            )
        return result
