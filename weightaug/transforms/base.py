"""What a transform is: draw parameters, then apply them."""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, overload

import torch
from torch.utils import _pytree as pytree

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["Params", "Preserves", "Transform", "slice_params"]

Params: TypeAlias = Any
"""What :meth:`Transform.sample` returns: a pytree of tensors whose leading dimensions are the batch shape."""


class Preserves(enum.IntEnum):
    """What a transform leaves as it is, from the least to the most."""

    NOTHING = 0
    FUNCTION_UP_TO_INPUT_MAP = 1
    FUNCTION = 2


@dataclass(frozen=True)
class Transform(ABC):
    """A random map of weight-space elements. Frozen configuration: holds no tensor and no state.

    A subclass is a frozen dataclass of plain numbers and strings that says what it ``preserves`` and has
    :meth:`sample` and :meth:`apply`; ``weightaug.testing.check_transform`` holds it to the contract.
    """

    preserves: ClassVar[Preserves] = Preserves.NOTHING
    reads_values: ClassVar[bool] = False
    """Whether :meth:`sample` looks at the weights, and not only at their shapes."""
    mixes: ClassVar[bool] = False
    """Whether elements of a batch influence each other."""

    def check(self, architecture: Architecture) -> None:  # noqa: B027 (most transforms fit all)
        """Raises a ValueError that says what is wrong if the transform does not fit an architecture."""

    def undone_by(self, later: Transform) -> str | None:
        """Why another transform must not come after this one, or None; :class:`Compose` refuses such an order."""
        return None

    @abstractmethod
    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Params:
        """Draws everything random, once per element of the batch.

        Args:
            element: Networks, ``(*batch, ...)``.
            generator: Source of randomness; draws happen on its device, so a CPU generator gives the same
                augmentation everywhere. None: torch's global generator of the element's device.

        Returns:
            A pytree of tensors whose leading dimensions are the batch shape.

        Raises:
            ValueError: If the transform does not fit the architecture.
        """

    @abstractmethod
    def apply(self, element: WeightSpaceElement, params: Params) -> WeightSpaceElement:
        """Applies drawn parameters: pure and deterministic, without synchronising with the device."""

    def apply_target(self, target: Any, params: Params) -> Any:
        """What happens to one target; the identity, except for mixing and label smoothing."""
        return target

    def apply_targets(self, targets: tuple[Any, ...], params: Params) -> tuple[Any, ...]:
        """What happens to all targets, in the order in which they were given."""
        return tuple([self.apply_target(target, params) for target in targets])

    def sample_apply(
        self, element: WeightSpaceElement, *, generator: torch.Generator | None = None
    ) -> tuple[WeightSpaceElement, Params]:
        """Draws and applies in one pass; returns the new element and the parameters, for replay."""
        params = self.sample(element, generator=generator)
        return self.apply(element, params), params

    @overload
    def __call__(
        self, element: WeightSpaceElement, *, generator: torch.Generator | None = None
    ) -> WeightSpaceElement: ...

    @overload
    def __call__(
        self, element: WeightSpaceElement, target: Any, /, *targets: Any, generator: torch.Generator | None = None
    ) -> tuple[Any, ...]: ...

    def __call__(
        self, element: WeightSpaceElement, *targets: Any, generator: torch.Generator | None = None
    ) -> WeightSpaceElement | tuple[Any, ...]:
        """Transforms a batch of networks, and any number of targets with it.

        Args:
            element: Networks, ``(*batch, ...)``.
            *targets: Labels or other targets with the same leading batch dimensions.
            generator: Source of randomness; None uses torch's global one.

        Returns:
            The new element; with targets, a tuple of the element and the targets.
        """
        if not isinstance(element, WeightSpaceElement):
            raise TypeError(
                f"{type(self).__name__} transforms a WeightSpaceElement, got {type(element).__name__}; "
                "make one with weightaug.adapters (from_state_dicts, from_dws, ...)"
            )
        result, params = self.sample_apply(element, generator=generator)
        return (result, *self.apply_targets(targets, params)) if targets else result

    # -- configuration -------------------------------------------------------------------------------

    def asdict(self) -> dict[str, Any]:
        """The configuration as plain values, with the class name under ``"type"``."""
        return {"type": type(self).__name__} | {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @staticmethod
    def fromdict(config: Mapping[str, Any]) -> Transform:
        """Inverse of :meth:`asdict`; finds any subclass of Transform that has been defined.

        Raises:
            ValueError: If there is no such transform, or it does not take these fields.
        """
        known = _subclasses(Transform)  # type: ignore[type-abstract]
        name = config.get("type")
        if name not in known:
            raise ValueError(f"unknown transform {name!r}; known: {sorted(known)}")
        fields = {key: _from_plain(value) for key, value in config.items() if key != "type"}
        try:
            return known[name](**fields)
        except TypeError as error:
            raise ValueError(f"cannot make {name} from {dict(config)!r}: {error}") from error


def _subclasses(cls: type[Transform]) -> dict[str, type[Transform]]:
    found = {}
    for sub in cls.__subclasses__():
        found[sub.__name__] = sub
        found |= _subclasses(sub)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Transform):
        return value.asdict()
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} is no plain configuration value")


def _from_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Transform.fromdict(value)
    if isinstance(value, list):
        return tuple(_from_plain(v) for v in value)
    return value


def slice_params(params: Params, index: Any) -> Params:
    """The parameters of some elements of the batch: indexes the leading dimensions of every tensor."""
    return pytree.tree_map(lambda t: t[index], params)


def check_range(owner: object, name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises a ValueError that names the transform if a setting is out of range or NaN."""
    if not low <= value <= high:
        raise ValueError(f"{type(owner).__name__}: {name} must be in [{low}, {high}], got {value}")
