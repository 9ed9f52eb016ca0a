"""Transforms of the coordinates: the function is preserved up to a map of its input.

A transformed network at x is the original at the mapped x, which only changes the layers that read the
input (paper section 3 and appendix D). The parameters are an :class:`InputMap`, which also maps points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.functional import map_input, rescale_output
from weightaug.transforms import draws
from weightaug.transforms.base import Preserves, Transform, check_range

__all__ = ["Affine", "InputMap", "Reflect", "Rotate", "Scale", "Translate"]


@dataclass(frozen=True, eq=False)
class InputMap:
    """The map x -> matrix x + shift of the input, and the factor of the output.

    Attributes:
        matrix: ``(*batch, d, d)``, or None for the identity.
        shift: ``(*batch, d)``, or None for zero.
        value_factor: ``(*batch,)``, or None for 1.
    """

    matrix: Tensor | None = None
    shift: Tensor | None = None
    value_factor: Tensor | None = None

    def map_points(self, x: Tensor) -> Tensor:
        """Maps points ``(n, d)`` or ``(*batch, n, d)`` to ``(*batch, n, d)``."""
        if self.matrix is not None:
            x = x @ self.matrix.mT
        return x if self.shift is None else x + self.shift.unsqueeze(-2)


def _flatten(params: InputMap) -> tuple[list[Tensor], tuple[bool, ...]]:
    parts = (params.matrix, params.shift, params.value_factor)
    return [p for p in parts if p is not None], tuple([p is not None for p in parts])


def _unflatten(tensors: Any, present: tuple[bool, ...]) -> InputMap:
    rest = iter(tensors)
    return InputMap(*[next(rest) if given else None for given in present])


# Absent parts are no leaves, so that vmap and slicing see tensors only.
pytree.register_pytree_node(InputMap, _flatten, _unflatten)


class _Geometry(Transform):
    preserves: ClassVar[Preserves] = Preserves.FUNCTION_UP_TO_INPUT_MAP
    _shifts: ClassVar[bool] = False

    def _has_shift(self) -> bool:
        return self._shifts

    def check(self, architecture: Architecture) -> None:
        """Raises a ValueError if there is no single input that linear layers (with bias, to shift) read."""
        name = type(self).__name__
        if len(architecture.inputs) != 1:
            raise ValueError(f"{name} needs exactly one input space, got {[s.name for s in architecture.inputs]}")
        for layer, read in zip(architecture.layers, architecture.wiring.reads, strict=True):
            if read != architecture.wiring.inputs[0]:
                continue
            if layer.kernel:
                raise ValueError(
                    f"{name}: layer {layer.name!r} reads the input with a kernel {layer.kernel}; expected a "
                    "linear layer on coordinates; geometry does not apply to convolutions"
                )
            if self._has_shift() and not layer.bias:
                raise ValueError(
                    f"{name}: layer {layer.name!r} reads the input without a bias that could take the shift; "
                    "expected bias=True; add a bias of zeros"
                )

    def apply(self, element: WeightSpaceElement, params: InputMap) -> WeightSpaceElement:
        result = map_input(element, params.matrix, params.shift)
        return result if params.value_factor is None else rescale_output(result, params.value_factor)


def _dimension(element: WeightSpaceElement) -> int:
    return element.architecture.inputs[0].size


def _about(matrix: Tensor, center: tuple[float, ...] | None, name: str) -> InputMap:
    """The map with a given linear part that keeps a centre in place."""
    if center is None:
        return InputMap(matrix)
    if len(center) != matrix.shape[-1]:
        raise ValueError(f"{name}: center has {len(center)} coordinates, the networks have {matrix.shape[-1]} inputs")
    point = torch.tensor(center, dtype=matrix.dtype, device=matrix.device)
    return InputMap(matrix, point - matrix @ point)


def _rotation(
    element: WeightSpaceElement,
    degrees: float | None,
    axis: tuple[float, ...] | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Rotation matrices ``(*batch, d, d)``: see :class:`Rotate`."""
    d = _dimension(element)
    if degrees is None:
        gaussian = draws.normal(element, (d, d), generator)
        # LAPACK has no half precision.
        q, r = torch.linalg.qr(gaussian if gaussian.element_size() > 2 else gaussian.float())
        q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)  # makes it Haar on O(d)
        flip = torch.linalg.det(q).sign().unsqueeze(-1)
        return torch.cat([q[..., :1] * flip.unsqueeze(-1), q[..., 1:]], dim=-1).to(element.dtype)
    bound = math.radians(degrees)
    angle = draws.uniform(element, (), -bound, bound, generator)[..., None, None]
    if d == 2:
        u, v = torch.eye(2, dtype=angle.dtype, device=angle.device).unbind()
    elif axis is not None:
        u, v = _plane_across(axis, angle)
    else:
        u, v = draws.normal(element, (2, d), generator).unbind(-2)
        u = u / u.norm(dim=-1, keepdim=True)
        v = v - (u * v).sum(-1, keepdim=True) * u
        v = v / v.norm(dim=-1, keepdim=True)
    uu, vv, vu = _outer(u, u), _outer(v, v), _outer(v, u)
    eye = torch.eye(d, dtype=angle.dtype, device=angle.device)
    return eye + angle.sin() * (vu - vu.mT) + (angle.cos() - 1) * (uu + vv)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)


def _plane_across(axis: tuple[float, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Two orthonormal vectors u, v with u x v along a given axis of space."""
    n = torch.tensor(axis, dtype=torch.float64)
    n = n / n.norm()
    start = torch.zeros(3, dtype=torch.float64)
    start[int(n.abs().argmin())] = 1.0
    u = torch.linalg.cross(n, start)
    u = u / u.norm()
    return u.to(like), torch.linalg.cross(n, u).to(like)


@dataclass(frozen=True)
class Rotate(_Geometry):
    """Rotates the input: the new network at x is the old one at R x. Preserves the function up to R.

    Works for any number of inputs from 2 on. Draws per network an angle, uniform in [-degrees, degrees],
    and the plane that it turns: the only one in 2-D, the one across ``axis`` in 3-D if given, otherwise
    uniform among all. ``degrees=None`` draws uniformly from all rotations, SO(d). W1 becomes W1 R.
    Source: paper section 3 (which rotates in 2-D only).

    Args:
        degrees: Largest angle, at least 0; None for uniform rotations.
        axis: Fixed axis in 3-D, for example ``(0.0, 0.0, 1.0)``; it need not be a unit vector.
        center: The point that stays in place; None for the origin.

    Raises:
        ValueError: If the networks have one input, ``axis`` or ``center`` do not fit their inputs, or a
            setting is out of range.
    """

    degrees: float | None = 30.0
    axis: tuple[float, ...] | None = None
    center: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.degrees is not None:
            check_range(self, "degrees", self.degrees, 0)
        if self.axis is not None:
            object.__setattr__(self, "axis", tuple(self.axis))
            if len(self.axis) != 3 or not any(self.axis) or self.degrees is None:
                raise ValueError(
                    f"Rotate: axis must be three numbers, not all zero, with degrees given; got axis={self.axis}, "
                    f"degrees={self.degrees}"
                )
        if self.center is not None:
            object.__setattr__(self, "center", tuple(self.center))

    def _has_shift(self) -> bool:
        return self.center is not None

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        d = architecture.inputs[0].size
        if d < 2:
            raise ValueError(f"Rotate needs at least 2 inputs, got input space of size {d}; use Reflect or Translate")
        if self.axis is not None and d != 3:
            raise ValueError(f"Rotate: axis needs 3 inputs, got input space of size {d}; leave axis out")

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        return _about(_rotation(element, self.degrees, self.axis, generator), self.center, "Rotate")


@dataclass(frozen=True)
class Translate(_Geometry):
    """Shifts the input: the new network at x is the old one at x + t. Preserves the function up to t.

    Draws t per network, uniform in [-amount, amount] in every input. b1 becomes b1 + W1 t: in the first
    layer only, where it is exact at any depth. Source: paper appendix D.

    Args:
        amount: Largest shift, in units of the input, at least 0.
    """

    amount: float = 0.25
    _shifts = True

    def __post_init__(self) -> None:
        check_range(self, "amount", self.amount, 0)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        d = _dimension(element)
        return InputMap(shift=draws.uniform(element, (d,), -self.amount, self.amount, generator))


@dataclass(frozen=True)
class Scale(_Geometry):
    """Scales the input: the new network at x is the old one at s x. Preserves the function up to s.

    Draws s per network, uniform in [1 - amount, 1 + amount]. Source: paper appendix D.

    Args:
        amount: Largest deviation from 1, in [0, 1).
        per_axis: Draw a factor for every input instead of one for all.
        signed_distance: Also divide the output by s, so that a signed distance stays one.
        center: The point that stays in place; None for the origin.
    """

    amount: float = 0.2
    per_axis: bool = False
    signed_distance: bool = False
    center: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_range(self, "amount", self.amount, 0, 1)
        if self.amount == 1:
            raise ValueError("Scale: amount must be below 1, or a network could be scaled by 0; got 1")
        if self.per_axis and self.signed_distance:
            raise ValueError("Scale: per_axis=True does not keep signed distances; use one of them")
        if self.center is not None:
            object.__setattr__(self, "center", tuple(self.center))

    def _has_shift(self) -> bool:
        return self.center is not None

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        d = _dimension(element)
        count = d if self.per_axis else 1
        factor = draws.uniform(element, (count,), 1 - self.amount, 1 + self.amount, generator)
        placed = _about(torch.diag_embed(factor.expand(*factor.shape[:-1], d)), self.center, "Scale")
        return replace(placed, value_factor=factor[..., 0].reciprocal()) if self.signed_distance else placed


@dataclass(frozen=True)
class Reflect(_Geometry):
    """Mirrors inputs: each changes its sign with probability p. Preserves the function up to the mirror.

    Draws one sign per input of every network.

    Args:
        p: Probability that an input changes its sign, in [0, 1].
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, "p", self.p, 0, 1)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        signs = draws.signs(element, (_dimension(element),), self.p, generator)
        return InputMap(torch.diag_embed(signs))


@dataclass(frozen=True)
class Affine(_Geometry):
    """A random affine map of the input: x -> R H S x + t. Preserves the function up to this map.

    Draws per network a rotation R as :class:`Rotate`, a shear H with every entry above the diagonal
    uniform in [-shear, shear], a factor per input S uniform in [1 - scale, 1 + scale], and a shift t
    uniform in [-translate, translate].

    Args:
        degrees: Largest angle, at least 0; None for uniform rotations.
        translate: Largest shift, at least 0.
        scale: Largest deviation of the factors from 1, in [0, 1).
        shear: Largest shear, at least 0.
    """

    degrees: float | None = 30.0
    translate: float = 0.25
    scale: float = 0.2
    shear: float = 0.1
    _shifts = True

    def __post_init__(self) -> None:
        Rotate(self.degrees)
        Scale(self.scale)
        check_range(self, "translate", self.translate, 0)
        check_range(self, "shear", self.shear, 0)

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        Rotate(self.degrees).check(architecture)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        d = _dimension(element)
        rotation = _rotation(element, self.degrees, None, generator)
        upper = draws.uniform(element, (d, d), -self.shear, self.shear, generator).triu(1)
        factor = draws.uniform(element, (d,), 1 - self.scale, 1 + self.scale, generator)
        eye = torch.eye(d, dtype=factor.dtype, device=factor.device)
        matrix = rotation @ (eye + upper) * factor.unsqueeze(-2)
        return InputMap(matrix, draws.uniform(element, (d,), -self.translate, self.translate, generator))
