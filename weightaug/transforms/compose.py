"""Containers: transforms of transforms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from weightaug._arguments import require_tensor
from weightaug._operations import check_target, select
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.transforms import draws, settings
from weightaug.transforms.base import Params, Preserves, Transform

__all__ = ["Compose", "OneOf", "RandomApply", "RandomOrder", "SomeOf"]


def _select(chosen: Tensor, new: WeightSpaceElement, old: WeightSpaceElement) -> WeightSpaceElement:
    """The new network where chosen, the old one, bit for bit, elsewhere."""
    weights = tuple([select(chosen, a, b) for a, b in zip(new.weights, old.weights, strict=True)])
    biases = tuple(
        [None if a is None or b is None else select(chosen, a, b) for a, b in zip(new.biases, old.biases, strict=True)]
    )
    return WeightSpaceElement(new.architecture, weights, biases)


def _select_target(chosen: Tensor, new: Any, old: Any) -> Any:
    if new is old:
        return old
    check_target(require_tensor("targets", new), chosen.shape)
    if not isinstance(old, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
        raise ValueError(
            f"targets: some networks of a batch keep theirs, so a transform must keep its form; it turned "
            f"{_form(old)} into {_form(new)}"
        )
    return select(chosen, new, old)


def _form(target: Any) -> str:
    return f"{target.dtype} of shape {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__


def _parts(transform: Transform) -> Iterator[Transform]:
    """A transform, or those that a container applies."""
    inner = transform.transforms if isinstance(transform, _Container) else ()
    inner = (transform.transform,) if isinstance(transform, RandomApply) else inner
    for part in inner:
        yield from _parts(part)
    if not isinstance(transform, (_Container, RandomApply)):
        yield transform


class _Container(Transform):
    """What containers share: a tuple of transforms, and properties that follow from them."""

    transforms: Sequence[Transform]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if any(isinstance(arg, Transform) for arg in args):
            inside = ", ".join(repr(arg) for arg in args)
            raise TypeError(f"{cls.__name__} takes one list of transforms: write {cls.__name__}([{inside}])")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if not isinstance(self.transforms, Iterable):
            raise TypeError(
                f"{type(self).__name__}: transforms must be a list of transforms, got {self.transforms!r}; "
                f"write {type(self).__name__}([...])"
            )
        settings.put(self, "transforms", tuple(self.transforms))
        for i, transform in enumerate(self.transforms):
            settings.instance(self, f"entry {i}", transform)

    @property
    def preserves(self) -> Preserves:  # type: ignore[override]
        """What the weakest of the transforms preserves."""
        return min((t.preserves for t in self.transforms), default=Preserves.FUNCTION)

    @property
    def reads_values(self) -> bool:  # type: ignore[override]
        """Whether any of the transforms looks at the weights when it draws."""
        return any(t.reads_values for t in self.transforms)

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether any of the transforms mixes."""
        return any(t.mixes for t in self.transforms)

    def check(self, architecture: Architecture) -> None:
        for transform in self.transforms:
            transform.check(architecture)


@dataclass(frozen=True)
class Compose(_Container):
    """Applies transforms one after the other. Preserves what the weakest of them preserves.

    Args:
        transforms: Any number of transforms, mixing ones included.

    Raises:
        TypeError: If an entry is not a transform.
        ValueError: If an entry undoes what an earlier one is for, as a symmetry does after :class:`AlignTo`.
    """

    transforms: Sequence[Transform] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for j, later in enumerate(self.transforms):
            for i, earlier in enumerate(self.transforms[:j]):
                for first, second in itertools.product(_parts(earlier), _parts(later)):
                    reason = first.undone_by(second)
                    if reason is not None:
                        raise ValueError(
                            f"Compose: entry {j}, {later!r}, must not come after entry {i}, {earlier!r}: {reason}"
                        )

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Params:
        self.check(element.architecture)
        # A transform that looks at values has to see what those before it made; others need no values.
        last_reader = max((i for i, t in enumerate(self.transforms) if t.reads_values), default=0)
        params = []
        for i, transform in enumerate(self.transforms):
            params.append(transform.sample(element, generator=generator))
            if i < last_reader:
                element = transform.apply(element, params[-1])
        return tuple(params)

    def apply(self, element: WeightSpaceElement, params: Params) -> WeightSpaceElement:
        for transform, drawn in zip(self.transforms, params, strict=True):
            element = transform.apply(element, drawn)
        return element

    def sample_apply(
        self, element: WeightSpaceElement, *, generator: torch.Generator | None = None
    ) -> tuple[WeightSpaceElement, Params]:
        self.check(element.architecture)
        params = []
        for transform in self.transforms:
            element, drawn = transform.sample_apply(element, generator=generator)
            params.append(drawn)
        return element, tuple(params)

    def apply_targets(self, targets: tuple[Any, ...], params: Params) -> tuple[Any, ...]:
        for transform, drawn in zip(self.transforms, params, strict=True):
            targets = transform.apply_targets(targets, drawn)
        return targets


@dataclass(frozen=True)
class RandomApply(Transform):
    """Applies a transform to each network with probability p; the others stay, bit for bit.

    Draws one decision per network, and what the inner transform draws, for all networks.

    Args:
        transform: What is applied.
        p: Probability per network, in [0, 1].
    """

    transform: Transform
    p: float = 0.5

    def __post_init__(self) -> None:
        settings.instance(self, "transform", self.transform)
        settings.number(self, "p", 0, 1)

    @property
    def preserves(self) -> Preserves:  # type: ignore[override]
        """What the inner transform preserves."""
        return self.transform.preserves

    @property
    def reads_values(self) -> bool:  # type: ignore[override]
        """Whether the inner transform looks at the weights when it draws."""
        return self.transform.reads_values

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether the inner transform mixes."""
        return self.transform.mixes

    def check(self, architecture: Architecture) -> None:
        self.transform.check(architecture)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Params:
        self.check(element.architecture)
        chosen = draws.chance(element, (), generator) < self.p
        return chosen, self.transform.sample(element, generator=generator)

    def apply(self, element: WeightSpaceElement, params: Params) -> WeightSpaceElement:
        chosen, inner = params
        return _select(chosen, self.transform.apply(element, inner), element)

    def apply_targets(self, targets: tuple[Any, ...], params: Params) -> tuple[Any, ...]:
        chosen, inner = params
        changed = self.transform.apply_targets(targets, inner)
        return tuple([_select_target(chosen, new, old) for new, old in zip(changed, targets, strict=True)])


@dataclass(frozen=True)
class OneOf(_Container):
    """Applies one of several transforms to each network, drawn per network.

    All are computed for all networks, so that nothing depends on the host: the cost is their sum.

    Args:
        transforms: At least one transform.
        weights: Relative probabilities, not negative, one per transform; None for equal ones.

    Raises:
        ValueError: If there is no transform, or the weights do not fit.
    """

    transforms: Sequence[Transform]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.transforms:
            raise ValueError("OneOf needs at least one transform, got an empty list")
        settings.sequence(self, "weights")
        if self.weights is not None and (
            len(self.weights) != len(self.transforms)
            or min(self.weights) < 0
            or not 0 < sum(self.weights) < float("inf")
        ):
            raise ValueError(
                f"OneOf: weights must be {len(self.transforms)} numbers, not negative and not all zero, "
                f"got {self.weights}"
            )

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Params:
        self.check(element.architecture)
        weights = self.weights or (1.0,) * len(self.transforms)
        edges = torch.tensor(weights, dtype=torch.float64, device="cpu")
        edges = (edges / edges.sum()).cumsum(0)[:-1].to(element.device)
        choice = torch.searchsorted(edges, draws.chance(element, (), generator), right=True)
        return choice, tuple([t.sample(element, generator=generator) for t in self.transforms])

    def apply(self, element: WeightSpaceElement, params: Params) -> WeightSpaceElement:
        choice, drawn = params
        result = element
        for i, (transform, inner) in enumerate(zip(self.transforms, drawn, strict=True)):
            result = _select(choice == i, transform.apply(element, inner), result)
        return result

    def apply_targets(self, targets: tuple[Any, ...], params: Params) -> tuple[Any, ...]:
        choice, drawn = params
        results = list(targets)
        for i, (transform, inner) in enumerate(zip(self.transforms, drawn, strict=True)):
            changed = transform.apply_targets(targets, inner)
            results = [_select_target(choice == i, new, old) for new, old in zip(changed, results, strict=True)]
        return tuple(results)


@dataclass(frozen=True)
class SomeOf(_Container):
    """Applies some of several transforms to each network, in their order, drawn per network without repetition.

    All are computed for all networks, so that nothing depends on the host: the cost is their sum.

    Args:
        transforms: At least one transform.
        count: How many are applied, from 0 to all; or a range ``(fewest, most)``, both ends included.

    Raises:
        ValueError: If there is no transform, or the count does not fit.

    Example:
        >>> import weightaug as wa
        >>> two = wa.SomeOf([wa.Permute(), wa.SirenNegation(), wa.GaussianNoise(0.05)], count=2)
        >>> two.preserves.name
        'NOTHING'
    """

    transforms: Sequence[Transform]
    count: int | Sequence[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.transforms:
            raise ValueError("SomeOf needs at least one transform, got an empty list")
        settings.number_or_range(self, "count", 0, len(self.transforms), whole=True)
        low, high = self._ends()
        if not 0 <= low <= high <= len(self.transforms):
            raise ValueError(f"SomeOf: count must be in [0, {len(self.transforms)}], got {self.count}")

    def _ends(self) -> tuple[int, int]:
        if isinstance(self.count, Sequence):
            low, high = self.count
            return low, high
        return self.count, self.count

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Params:
        self.check(element.architecture)
        rank = draws.orders(element, (*element.batch_shape, len(self.transforms)), generator)
        chosen = rank < draws.integers(element, (1,), *self._ends(), generator=generator)
        last_reader = max((i for i, t in enumerate(self.transforms) if t.reads_values), default=0)
        drawn = []
        for i, transform in enumerate(self.transforms):
            drawn.append(transform.sample(element, generator=generator))
            if i < last_reader:
                element = _select(chosen[..., i], transform.apply(element, drawn[-1]), element)
        return chosen, tuple(drawn)

    def apply(self, element: WeightSpaceElement, params: Params) -> WeightSpaceElement:
        chosen, drawn = params
        for i, (transform, inner) in enumerate(zip(self.transforms, drawn, strict=True)):
            element = _select(chosen[..., i], transform.apply(element, inner), element)
        return element

    def apply_targets(self, targets: tuple[Any, ...], params: Params) -> tuple[Any, ...]:
        chosen, drawn = params
        for i, (transform, inner) in enumerate(zip(self.transforms, drawn, strict=True)):
            changed = transform.apply_targets(targets, inner)
            targets = tuple([_select_target(chosen[..., i], n, o) for n, o in zip(changed, targets, strict=True)])
        return targets


@dataclass(frozen=True)
class RandomOrder(_Container):
    """Applies all of several transforms, in an order drawn per network.

    With k transforms the cost is k times their sum, so that nothing depends on the host.

    Args:
        transforms: Transforms that neither mix nor look at the weights when they draw.

    Raises:
        ValueError: If a transform mixes or looks at the weights: its partners would be in another order.
    """

    transforms: Sequence[Transform]

    def __post_init__(self) -> None:
        super().__post_init__()
        for transform in self.transforms:
            if transform.mixes or transform.reads_values:
                raise ValueError(
                    f"RandomOrder cannot hold {transform!r}, which looks at other networks or at the weights when "
                    "it draws; put it after the RandomOrder in a Compose"
                )

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Params:
        self.check(element.architecture)
        order = draws.chance(element, (len(self.transforms),), generator).argsort(-1)
        return order, tuple([t.sample(element, generator=generator) for t in self.transforms])

    def apply(self, element: WeightSpaceElement, params: Params) -> WeightSpaceElement:
        result: WeightSpaceElement = self._steps(element, params, lambda t, x, inner: t.apply(x, inner), _select)
        return result

    def apply_targets(self, targets: tuple[Any, ...], params: Params) -> tuple[Any, ...]:
        def one(transform: Transform, target: Any, inner: Params) -> Any:
            return transform.apply_targets((target,), inner)[0]

        return tuple([self._steps(target, params, one, _select_target) for target in targets])

    def _steps(
        self,
        value: Any,
        params: Params,
        apply: Callable[[Transform, Any, Params], Any],
        select: Callable[[Tensor, Any, Any], Any],
    ) -> Any:
        order, drawn = params
        for step in range(len(self.transforms)):
            before = value
            for i, (transform, inner) in enumerate(zip(self.transforms, drawn, strict=True)):
                value = select(order[..., step] == i, apply(transform, before, inner), value)
        return value
