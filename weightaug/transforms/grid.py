"""The exact symmetries of the square and the cube: maps of the input that keep a sampling grid around the origin.

Their matrices have one entry of 1 or -1 in each row and column, so that weights are only moved and negated: nothing is
rounded, and on the pixels of an image they do what ``torch.rot90`` and ``torch.flip`` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weightaug._modes import wide
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.transforms import draws, settings
from weightaug.transforms.geometry import InputMap, _Geometry

__all__ = ["Dihedral", "Flip", "Rotate90"]


def _moves(element: WeightSpaceElement, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Uniform orders int64 and signs of the inputs, ``(*batch, d)`` each."""
    d = element.architecture.inputs[0].size
    order = draws.orders(element, (*element.batch_shape, d), generator)
    return order, draws.signs(element, (d,), 0.5, generator).to(wide(element.dtype))


def _matrix(order: Tensor, signs: Tensor) -> Tensor:
    """Matrices whose row i holds the sign i in the column of the order."""
    columns = torch.arange(order.shape[-1], device=order.device)
    return (order.unsqueeze(-1) == columns).to(signs.dtype) * signs.unsqueeze(-1)


@dataclass(frozen=True)
class Rotate90(_Geometry):
    """Rotates the input by right angles. Preserves the function up to the rotation, exactly on a symmetric grid.

    Draws per network, uniformly, one of the rotations that keep the square (4), the cube (24), or their relatives in
    more dimensions. The origin stays in place.

    Raises:
        ValueError: If the networks have one input.

    Example:
        >>> import torch, weightaug as wa
        >>> x = wa.WeightSpaceElement.unflatten(wa.Architecture.siren((2, 8, 1)), torch.randn(5, 33))
        >>> wa.Rotate90()(x)
        WeightSpaceElement(2-8-1, batch_shape=(5,), dtype=torch.float32, device='cpu')
    """

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        if architecture.inputs[0].size < 2:
            raise ValueError("Rotate90 needs at least 2 inputs, got input space of size 1; use Flip")

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        order, signs = _moves(element, generator)
        # The determinant is that of the order (odd or even) times the signs; the first sign makes it 1.
        inversions = (order.unsqueeze(-1) > order.unsqueeze(-2)).triu(1).sum((-2, -1))
        determinant = signs.prod(-1, keepdim=True) * (1 - 2 * (inversions % 2)).unsqueeze(-1)
        return InputMap(_matrix(order, torch.cat([signs[..., :1] * determinant, signs[..., 1:]], -1)))


@dataclass(frozen=True)
class Flip(_Geometry):
    """Mirrors chosen inputs, each with probability p. Preserves the function up to the mirror, exactly on a grid.

    Draws one sign per input of every network. Without ``axes`` the same as :class:`Reflect`.

    Args:
        axes: The inputs that may be mirrored, from 0 on; None for all.
        p: Probability that an input is mirrored, in [0, 1].

    Raises:
        ValueError: If the networks have not so many inputs, or a setting is out of range.

    Example:
        >>> import weightaug as wa
        >>> wa.Flip(axes=(0,))  # left and right alone, where input 0 is x
        Flip(axes=(0,), p=0.5)
    """

    axes: Sequence[int] | None = None
    p: float = 0.5

    def __post_init__(self) -> None:
        settings.number(self, "p", 0, 1)
        settings.integers(self, "axes", 0)

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        d = architecture.inputs[0].size
        if self.axes is not None and any(axis >= d for axis in self.axes):
            raise ValueError(f"Flip: axes must be below the number of inputs {d}, got {self.axes}")

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        d = element.architecture.inputs[0].size
        signs = draws.signs(element, (d,), self.p, generator).to(wide(element.dtype))
        if self.axes is not None:
            allowed = torch.tensor([axis in self.axes for axis in range(d)], device=signs.device)
            signs = torch.where(allowed, signs, torch.ones_like(signs))
        return InputMap(torch.diag_embed(signs))


@dataclass(frozen=True)
class Dihedral(_Geometry):
    """Rotates by right angles and mirrors. Preserves the function up to the map, exactly on a symmetric grid.

    Draws per network, uniformly, one of all symmetries of the square (the dihedral group D4 with 8 elements), of the
    cube (48), or of their relatives in more dimensions. The origin stays in place.

    Example:
        >>> import torch, weightaug as wa
        >>> x = wa.WeightSpaceElement.unflatten(wa.Architecture.siren((2, 8, 1)), torch.randn(500, 33))
        >>> len(wa.Dihedral().sample(x).matrix.unique(dim=0))
        8
    """

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        return InputMap(_matrix(*_moves(element, generator)))
