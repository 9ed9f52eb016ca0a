"""Symmetries of the spaces without a non-linearity: heads of attention, and the rank of low-rank pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from weightaug._maps import turned
from weightaug._modes import without_autocast
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.transforms import draws, settings
from weightaug.transforms.base import Preserves, Transform
from weightaug.transforms.symmetry import permutations

__all__ = ["HeadPermutation", "HeadRotation", "LoRAGauge", "StreamRotation"]

_Group = Literal["orthogonal", "invertible"]


class _Linear(Transform):
    """A transform whose parameters are a group element, on some spaces of a declared architecture."""

    preserves: ClassVar[Preserves] = Preserves.FUNCTION
    _needs: ClassVar[str] = ""

    def _slots(self, architecture: Architecture) -> list[int]:
        raise NotImplementedError

    def check(self, architecture: Architecture) -> None:
        """Raises a ValueError that lists the spaces if the symmetry acts on none of them."""
        if not self._slots(architecture):
            found = ", ".join(f"{s.name!r}: {' '.join(s.symmetries)}" for s in architecture.hidden[:8])
            raise ValueError(
                f"{type(self).__name__} needs {self._needs}; expected at least one, got hidden spaces "
                f"{found or 'none'}. Derive the architecture of a module with Architecture.from_module, "
                "of adapters with Architecture.lora"
            )

    def apply(self, element: WeightSpaceElement, params: GroupElement) -> WeightSpaceElement:
        return act(element, params)

    def _maps(self, element: WeightSpaceElement, draw: Callable[[int], Tensor]) -> GroupElement:
        """A group element of maps alone, one draw for each of the transform's spaces: what was drawn fits."""
        architecture = element.architecture
        self.check(architecture)
        none: tuple[Tensor | None, ...] = (None,) * len(architecture.hidden)
        slots = self._slots(architecture)
        maps = tuple([draw(slot) if slot in slots else None for slot in range(len(none))])
        return GroupElement(architecture, none, none, none, maps)


@dataclass(frozen=True)
class HeadPermutation(_Linear):
    """Reorders the heads of every attention at random. Preserves the function exactly.

    Acts on every space that linear spaces lie within: heads, or groups of heads that share keys and values. Draws a
    uniform permutation per attention of every network. The inside of heads stays; see :class:`HeadRotation`.

    Raises:
        ValueError: If the architecture has no heads.
    """

    _needs = "heads: a space that linear spaces (the inside of QK and VO) lie within"

    def _slots(self, architecture: Architecture) -> list[int]:
        inner = [s for s, space in enumerate(architecture.hidden) if space.linear]
        return sorted({outer for s in inner if (outer := architecture.outers[s]) is not None})

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> GroupElement:
        self.check(element.architecture)
        moved = permutations(element, self._slots(element.architecture), generator)
        return GroupElement.of(element.architecture, permutation=moved)


@dataclass(frozen=True)
class _Maps(_Linear):
    group: _Group = "orthogonal"
    max_condition: float = 4.0

    def __post_init__(self) -> None:
        settings.choice(self, "group", ("orthogonal", "invertible"))
        settings.number(self, "max_condition", 1)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> GroupElement:
        architecture = element.architecture

        def one(slot: int) -> Tensor:
            shape, passing = architecture.slot_shapes[slot], architecture.hidden[slot].maps
            if passing == "rotary":
                return self._turns(element, shape, generator)
            if passing == "orthogonal":  # a norm without a gain meets it
                return _rotation(element, shape, generator)
            return self._draw(element, shape, generator)

        return self._maps(element, one)

    @without_autocast
    def _turns(self, element: WeightSpaceElement, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Complex factors of pairs of neurons: a uniform angle, and a modulus that is 1 or around it."""
        pairs = (*shape[:-1], shape[-1] // 2)
        angles = draws.uniform(element, pairs, -math.pi, math.pi, generator)
        angles = angles.to(torch.promote_types(angles.dtype, torch.float32))
        real, imaginary = angles.cos(), angles.sin()
        if self.group == "invertible":
            half = math.log(self.max_condition) / 2
            size = draws.uniform(element, pairs, -half, half, generator).to(angles.dtype).exp()
            real, imaginary = size * real, size * imaginary
        return turned(real, imaginary).to(element.dtype)

    @without_autocast
    def _draw(self, element: WeightSpaceElement, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        first = _orthogonal(element, shape, generator)
        if self.group == "orthogonal":
            return first.to(element.dtype)
        # Singular values within a factor of max_condition, around 1.
        half = math.log(self.max_condition) / 2
        spread = draws.uniform(element, shape, -half, half, generator).to(first.dtype).exp()
        return ((first * spread.unsqueeze(-2)) @ _orthogonal(element, shape, generator)).to(element.dtype)


@without_autocast
def _rotation(element: WeightSpaceElement, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return _orthogonal(element, shape, generator).to(element.dtype)


def _orthogonal(element: WeightSpaceElement, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform orthogonal matrices ``(*batch, *shape, shape[-1])``, at least in single precision."""
    drawn = draws.normal(element, (*shape, shape[-1]), generator)
    drawn = drawn.to(torch.promote_types(drawn.dtype, torch.float32))
    q, r = torch.linalg.qr(drawn)
    # The signs of r make it uniform (Mezzadri 2007), and independent of the library's convention.
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)
    return torch.mul(q, signs.unsqueeze(-2))


@dataclass(frozen=True)
class HeadRotation(_Maps):
    """Turns the inside of every head at random: queries against keys, values against outputs. Exact.

    Acts on every linear space within heads: M on queries and its inverse transpose on keys, M on values and its
    inverse on what reads them; one draw per head. Under rotary positions, queries and keys take the maps that commute
    with them: every pair of neurons i and i + d / 2 turns by an angle of its own, which is drawn uniformly.
    Normalised queries and keys are left alone.

    Args:
        group: ``"orthogonal"``: uniform on O(d), which leaves norms as they are; ``"invertible"``: any map with a
            bounded condition number. Of rotary pairs: turns, or turns and factors. Where a norm without a gain meets
            the inside of a head, orthogonal maps in any case.
        max_condition: For ``"invertible"``: largest ratio of two singular values, at least 1.

    Raises:
        ValueError: If the architecture has no linear space within heads, or a setting is out of range.
    """

    _needs: ClassVar[str] = "linear spaces within heads: the inside of QK and VO"

    def _slots(self, architecture: Architecture) -> list[int]:
        inside = {s for s, space in enumerate(architecture.hidden) if space.linear and space.within is not None}
        turned = {s for s, space in enumerate(architecture.hidden) if space.maps == "rotary"}  # of one head, too
        return sorted(inside | turned)


@dataclass(frozen=True)
class StreamRotation(_Linear):
    """Turns residual streams between RMSNorms without gains at random. Exact.

    Acts on every stream that nothing but linear layers and RMSNorms without gains meets: x becomes R x in all that
    writes it, and all that reads it takes the inverse, which no norm sees. Draws a uniform orthogonal R for each stream
    of every network. Gains stand in the way; :func:`weightaug.adapters.absorb_gains` puts them into what reads them.

    Raises:
        ValueError: If the architecture has no such stream.
    """

    _needs: ClassVar[str] = (
        "a stream between RMSNorms without gains (adapters.absorb_gains makes one of a stream with gains)"
    )

    def _slots(self, architecture: Architecture) -> list[int]:
        return [s for s, space in enumerate(architecture.hidden) if space.maps == "orthogonal"]

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> GroupElement:
        shapes = element.architecture.slot_shapes
        return self._maps(element, lambda slot: _rotation(element, shapes[slot], generator))


@dataclass(frozen=True)
class LoRAGauge(_Maps):
    """Turns the rank of every low-rank pair at random: A becomes G A, B becomes B G^-1. Exact.

    Acts on every linear space that lies within no other: the rank of LoRA adapters, and of any product of two
    weights without a non-linearity between. The products B A, and with them the function, stay. One draw per pair;
    ranks may differ from layer to layer.

    Args:
        group: ``"orthogonal"``: uniform on O(r); ``"invertible"``: any map with a bounded condition number.
        max_condition: For ``"invertible"``: largest ratio of two singular values, at least 1.

    Raises:
        ValueError: If the architecture has no such space, or a setting is out of range.
    """

    _needs: ClassVar[str] = "linear spaces: the rank of low-rank pairs"

    def _slots(self, architecture: Architecture) -> list[int]:
        return [s for s, space in enumerate(architecture.hidden) if space.maps == "invertible" and space.within is None]
