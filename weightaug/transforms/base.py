"""What a transform is: draw parameters, then apply them."""

from __future__ import annotations

import dataclasses
import enum
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar, overload

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug._arguments import check_element, check_generator
from weightaug._modes import without_autocast
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["Params", "Preserves", "Transform", "slice_params"]

Params: TypeAlias = Any
"""What :meth:`Transform.sample` returns: a pytree of tensors whose leading dimensions are the batch shape."""

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")


class Preserves(enum.IntEnum):
    """What a transform leaves as it is, from the least to the most."""

    NOTHING = 0
    FUNCTION_UP_TO_INPUT_MAP = 1
    FUNCTION = 2


@dataclass(frozen=True)
class Transform(ABC):
    """A random map of weight-space elements. Frozen configuration: holds no tensor and no state.

    A subclass is a frozen dataclass of plain numbers and strings that says what it ``preserves`` and has
    :meth:`sample` and :meth:`apply`; ``weightaug.testing.check_transform`` holds it to the contract. These
    run outside of ``torch.autocast`` wherever they are called.
    """

    preserves: ClassVar[Preserves] = Preserves.NOTHING
    reads_values: ClassVar[bool] = False
    """Whether :meth:`sample` looks at the weights, and not only at their shapes."""
    mixes: ClassVar[bool] = False
    """Whether elements of a batch influence each other."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("sample", "apply", "sample_apply", "apply_target", "apply_targets"):
            if name in vars(cls):
                setattr(cls, name, without_autocast(vars(cls)[name]))

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
        self, element: WeightSpaceElement, target: T, /, *, generator: torch.Generator | None = None
    ) -> tuple[WeightSpaceElement, T]: ...

    @overload
    def __call__(
        self, element: WeightSpaceElement, first: T1, second: T2, /, *, generator: torch.Generator | None = None
    ) -> tuple[WeightSpaceElement, T1, T2]: ...

    @overload
    def __call__(
        self,
        element: WeightSpaceElement,
        first: Any,
        second: Any,
        third: Any,
        /,
        *targets: Any,
        generator: torch.Generator | None = None,
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

        Raises:
            TypeError: If the element is none, the generator is none, or a target is a generator.
            ValueError: If the transform does not fit the architecture.
        """
        if not isinstance(element, WeightSpaceElement):
            check_element(type(self).__name__, element)
        if generator is not None:
            check_generator(generator)
        for target in targets:
            if not isinstance(target, Tensor) and isinstance(target, torch.Generator):
                raise TypeError(
                    f"{type(self).__name__}: a generator came in the place of a target; write generator=..."
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
            TypeError: If the configuration is no mapping.
            ValueError: If there is no such transform, or it does not take these fields.
        """
        if not _is_mapping(config):
            raise TypeError(f"expected a mapping with the key 'type', got {config!r}; Transform.asdict makes one")
        known = _subclasses(Transform)  # type: ignore[type-abstract]
        values = {key: config[key] for key in config.keys()}  # noqa: SIM118 (a mapping by its methods alone)
        name = values.pop("type", None)
        if name not in known:
            raise ValueError(f"unknown transform {name!r}; known: {sorted(known)}")
        fields = {key: _from_plain(value) for key, value in values.items()}
        try:
            return known[name](**fields)
        except TypeError as error:
            raise ValueError(f"cannot make {name} from {values!r}: {error}") from error


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
    if isinstance(value, numbers.Real):  # NumPy's
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    raise TypeError(f"{type(value).__name__} is no plain configuration value")


def _from_plain(value: Any) -> Any:
    if _is_mapping(value):
        return Transform.fromdict(value)
    # Lists and mappings of configuration libraries need not be those of collections.abc.
    sequence = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    if sequence and not isinstance(value, (str, bytes)):
        return tuple([_from_plain(v) for v in value])
    return value


def _is_mapping(value: Any) -> bool:
    return hasattr(value, "keys") and hasattr(value, "__getitem__")


def slice_params(params: Params, index: Any) -> Params:
    """The parameters of some elements of the batch: indexes the leading dimensions of every tensor."""
    return pytree.tree_map(lambda t: t[index], params)
