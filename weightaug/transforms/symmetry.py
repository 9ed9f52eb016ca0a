"""Transforms that change the weights and not the function: the symmetries of the activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from weightaug.architecture import Architecture, Space
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act, moved
from weightaug.transforms import draws, settings
from weightaug.transforms.base import Preserves, Transform

__all__ = ["Permute", "ReLUScale", "SirenBias", "SirenNegation"]


class _Symmetry(Transform):
    """A transform whose parameters are a group element."""

    preserves: ClassVar[Preserves] = Preserves.FUNCTION
    _needs: ClassVar[str] = ""

    def _fits(self, architecture: Architecture, slot: int) -> bool:
        """Whether the symmetry acts on a hidden space."""
        raise NotImplementedError

    def _slots(self, architecture: Architecture) -> list[int]:
        return [slot for slot in range(len(architecture.hidden)) if self._fits(architecture, slot)]

    def check(self, architecture: Architecture) -> None:
        """Raises a ValueError that lists the hidden spaces if the symmetry acts on none of them."""
        if not self._slots(architecture):
            self._refuse(architecture)

    def _refuse(self, architecture: Architecture) -> NoReturn:
        if not architecture.hidden:
            found = "no hidden space"
        else:
            found = ", ".join(f"{s.name!r} with {_describe(s)}" for s in architecture.hidden)
        raise ValueError(
            f"{type(self).__name__} needs {self._needs}; expected at least one such hidden space, got {found}. "
            f"Use a transform that these networks allow: {self._advice(architecture)}"
        )

    def _advice(self, architecture: Architecture) -> str:
        fitting = [kind.__name__ for kind in _KINDS if kind()._slots(architecture)]
        return ", ".join(fitting) or "Rotate, Translate, Scale, GaussianNoise, Dropout"

    def apply(self, element: WeightSpaceElement, params: GroupElement) -> WeightSpaceElement:
        return act(element, params)

    def sample_apply(
        self, element: WeightSpaceElement, *, generator: torch.Generator | None = None
    ) -> tuple[WeightSpaceElement, GroupElement]:
        if type(self).apply is not _Symmetry.apply:  # of a subclass, which is what acts
            return super().sample_apply(element, generator=generator)
        params = self.sample(element, generator=generator)
        return moved(element, params), params  # what was drawn fits


def _describe(space: Space) -> str:
    activation = space.activation
    assert activation is not None
    known = "" if activation.is_known else " (unknown)"
    return f"activation {activation.name!r}{known}"


def _scatter(architecture: Architecture, slots: list[int], values: Tensor) -> tuple[Tensor | None, ...]:
    """Splits one draw for all neurons over the hidden spaces that the symmetry acts on."""
    hidden = architecture.hidden
    parts = iter(values.split_with_sizes([_count(architecture, slot) for slot in slots], -1))
    taken = [next(parts) if slot in slots else None for slot in range(len(hidden))]
    if not architecture.is_declared:
        return tuple(taken)
    return tuple([_shaped(architecture, slot, part) for slot, part in enumerate(taken)])


def _shaped(architecture: Architecture, slot: int, values: Tensor | None) -> Tensor | None:
    """Values of one space; one row for every position of the space that it lies within."""
    copies = architecture.outer_sizes[slot]
    if values is None or copies is None:
        return values
    return values.reshape(*values.shape[:-1], copies, architecture.hidden[slot].size)


def _count(architecture: Architecture, slot: int) -> int:
    """Number of neurons of a space, in all its copies."""
    return architecture.hidden[slot].size * (architecture.outer_sizes[slot] or 1)


def permutations(
    element: WeightSpaceElement, slots: Sequence[int], generator: torch.Generator | None
) -> tuple[Tensor | None, ...]:
    """Uniform permutations of some spaces of a declared architecture; None for the others."""
    architecture = element.architecture
    drawn: list[Tensor | None] = [None] * len(architecture.hidden)
    for slot in slots:
        if slot in architecture.movers:
            copies = architecture.outer_sizes[slot]
            inner = () if copies is None else (copies,)
            shape = (*element.batch_shape, *inner, architecture.hidden[slot].size)
            drawn[slot] = draws.orders(element, shape, generator)
    return tuple(drawn)


def _group(
    architecture: Architecture,
    *,
    permutation: tuple[Tensor | None, ...] | None = None,
    scale: tuple[Tensor | None, ...] | None = None,
    shift: tuple[Tensor | None, ...] | None = None,
) -> GroupElement:
    """Like ``GroupElement.of``, without a look at values, which fit because of how they were drawn."""
    none = (None,) * len(architecture.hidden)
    return GroupElement(architecture, permutation or none, scale or none, shift or none)


@dataclass(frozen=True)
class Permute(_Symmetry):
    """Reorders the neurons of every hidden space at random. Preserves the function exactly.

    Draws a uniform permutation per hidden space of every network, and one per position of the space that it lies
    within (channels of a group, the inside of a head). Source: paper section 4.
    """

    _needs = "a hidden space"

    def _fits(self, architecture: Architecture, slot: int) -> bool:
        return "permutation" in architecture.hidden[slot].symmetries

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> GroupElement:
        architecture = element.architecture
        self.check(architecture)
        if not architecture.is_declared:
            sizes = [space.size for space in architecture.hidden]
            return _group(architecture, permutation=tuple(draws.permutations(element, sizes, generator)))
        return _group(architecture, permutation=permutations(element, range(len(architecture.hidden)), generator))


@dataclass(frozen=True)
class SirenNegation(_Symmetry):
    """Flips the signs of neurons at random. Preserves the function exactly.

    Acts on every hidden space with an odd activation (sine, tanh, erf, identity, ...), where everything
    that reads a flipped neuron is flipped too, or with an even one (cosine, gaussian), where it is left
    alone; on no other. Draws one sign per neuron. Source: paper section 3, "SIREN negation".

    Args:
        p: Probability that a neuron is flipped, in [0, 1].

    Raises:
        ValueError: If no hidden space has an odd or even activation, or p is out of range.
    """

    p: float = 0.5
    _needs = "an odd activation such as sine or tanh (or an even one)"

    def __post_init__(self) -> None:
        settings.number(self, "p", 0, 1)

    def _fits(self, architecture: Architecture, slot: int) -> bool:
        activation = architecture.hidden[slot].activation
        return activation is not None and (activation.odd or activation.even)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> GroupElement:
        architecture = element.architecture
        slots = self._slots(architecture) or self._refuse(architecture)
        neurons = sum(_count(architecture, slot) for slot in slots)
        signs = draws.signs(element, (neurons,), self.p, generator)
        return _group(architecture, scale=_scatter(architecture, slots, signs))


@dataclass(frozen=True)
class SirenBias(_Symmetry):
    """Shifts the phase of neurons by k half periods. Preserves the function exactly.

    Acts on every hidden space with a sine or cosine that a layer with bias writes: the bias moves by
    k pi / omega, with the omega of the space, and everything that reads the neuron takes (-1)^k. Draws k
    uniformly from {-k_max, ..., k_max}, per neuron. Source: paper section 3, "SIREN bias".

    Large k_max moves the biases far from where fitting leaves them, and a model then trains on weights
    that it never sees at test time. The paper's code uses {-4, ..., 3}; the default here is 1.

    Args:
        k_max: Largest number of half periods, at least 0; or a range, both ends included: ``(-4, 3)``.
        p: Probability that a neuron is shifted, in [0, 1].

    Raises:
        ValueError: If no hidden space has a periodic activation and a bias, or a setting is out of range.
    """

    k_max: int | Sequence[int] = 1
    p: float = 1.0
    _needs = "a sine or cosine activation, and a bias that writes the space"

    def __post_init__(self) -> None:
        settings.number_or_range(self, "k_max", 0, 2**31, whole=True)
        settings.number(self, "p", 0, 1)

    def _fits(self, architecture: Architecture, slot: int) -> bool:
        activation = architecture.hidden[slot].activation
        has_bias = architecture.wiring.bias_carriers[slot] is not None
        return activation is not None and activation.half_period is not None and has_bias

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> GroupElement:
        architecture = element.architecture
        slots = self._slots(architecture) or self._refuse(architecture)
        neurons = sum(_count(architecture, slot) for slot in slots)
        low, high = self.k_max if isinstance(self.k_max, Sequence) else (-self.k_max, self.k_max)
        shifts = draws.integers(element, (neurons,), low, high, generator)
        if self.p < 1:
            shifts = shifts * draws.bernoulli(element, (neurons,), self.p, generator).long()
        return _group(architecture, shift=_scatter(architecture, slots, shifts))


@dataclass(frozen=True)
class ReLUScale(_Symmetry):
    """Scales neurons by positive factors, undone in what reads them. Preserves the function exactly.

    Acts on every hidden space with a positively homogeneous activation (ReLU, leaky ReLU, identity).
    Draws a factor per neuron, log-uniform in [1 / max_scale, max_scale], so that a factor and its inverse
    are equally likely. Source: paper section 3.

    Args:
        max_scale: Largest factor, at least 1. 1 is the identity.
        p: Probability that a neuron is scaled, in [0, 1].

    Raises:
        ValueError: If no hidden space has a positively homogeneous activation, or a setting is out of range.
    """

    max_scale: float = 2.0
    p: float = 1.0
    _needs = "a positively homogeneous activation such as relu or leaky_relu"

    def __post_init__(self) -> None:
        settings.number(self, "max_scale", 1)
        settings.number(self, "p", 0, 1)

    def _fits(self, architecture: Architecture, slot: int) -> bool:
        activation = architecture.hidden[slot].activation
        return activation is not None and activation.positively_homogeneous

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> GroupElement:
        architecture = element.architecture
        slots = self._slots(architecture) or self._refuse(architecture)
        neurons = sum(_count(architecture, slot) for slot in slots)
        drawn = draws.steps(element, (*element.batch_shape, neurons), generator)
        factors = drawn.mul_(math.log(self.max_scale) / draws.STEPS).exp_().to(element.device, element.dtype)
        if self.p < 1:
            factors = factors.pow_(draws.bernoulli(element, (neurons,), self.p, generator))
        return _group(architecture, scale=_scatter(architecture, slots, factors))


_KINDS: tuple[type[_Symmetry], ...] = (Permute, SirenNegation, SirenBias, ReLUScale)
