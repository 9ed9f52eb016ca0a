"""Transforms of the coordinates: the function is preserved up to a map of its input.

A transformed network at x is the original at the mapped x, which only changes the layers that read the
input (paper section 3 and appendix D). The parameters are an :class:`InputMap`, which also maps points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug._modes import wide, without_autocast
from weightaug._operations import check_input, check_output, map_input, rescale_output
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.transforms import draws, settings
from weightaug.transforms.base import Preserves, Transform

__all__ = ["Affine", "InputMap", "Reflect", "Rotate", "Scale", "Translate"]


@dataclass(frozen=True, eq=False)
class InputMap:
    """The map x -> matrix x + shift of the input, and the factor of the output.

    In the dtype of the networks, but at least in single precision.

    Attributes:
        matrix: ``(*batch, d, d)``, or None for the identity.
        shift: ``(*batch, d)``, or None for zero.
        value_factor: ``(*batch,)``, or None for 1.
    """

    matrix: Tensor | None = None
    shift: Tensor | None = None
    value_factor: Tensor | None = None

    @without_autocast
    def map_points(self, x: Tensor) -> Tensor:
        """Maps points ``(n, d)`` or ``(*batch, n, d)`` to ``(*batch, n, d)``, in the dtype of the points."""
        dtype = wide(x.dtype)
        mapped = x.to(dtype)
        if self.matrix is not None:
            mapped = mapped @ self.matrix.mT.to(mapped)
        if self.shift is not None:
            mapped = mapped + self.shift.unsqueeze(-2).to(mapped)
        return mapped.to(x.dtype)


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
        check_input(architecture, shifts=self._has_shift(), name=type(self).__name__)

    def _check_center(self, architecture: Architecture, center: Sequence[float] | None) -> None:
        d = architecture.inputs[0].size
        if center is not None and len(center) != d:
            raise ValueError(
                f"{type(self).__name__}: center has {len(center)} coordinates, the networks have {d} inputs; expected "
                f"{d} numbers"
            )

    def apply(self, element: WeightSpaceElement, params: InputMap) -> WeightSpaceElement:
        result = map_input(element, params.matrix, params.shift)
        return result if params.value_factor is None else rescale_output(result, params.value_factor)


def _dimension(element: WeightSpaceElement) -> int:
    return element.architecture.inputs[0].size


def _about(matrix: Tensor, center: Sequence[float] | None) -> InputMap:
    """The map with a given linear part that keeps a centre in place."""
    if center is None:
        return InputMap(matrix)
    point = torch.tensor(center, dtype=matrix.dtype, device=matrix.device)
    return InputMap(matrix, point - matrix @ point)


def _ends(value: float | Sequence[float], middle: float = 0.0) -> tuple[float, float]:
    """A range as it was given, or the one around a middle that a single number means."""
    if isinstance(value, Sequence):
        low, high = value
        return low, high
    return middle - value, middle + value


def _shift(element: WeightSpaceElement, amount: float | Sequence[float], generator: torch.Generator | None) -> Tensor:
    """Shifts ``(*batch, d)``: see :class:`Translate`."""
    shift = draws.uniform(element, (_dimension(element),), -1.0, 1.0, generator)
    if isinstance(amount, Sequence):
        return shift * torch.tensor(amount, dtype=shift.dtype, device=shift.device)
    return shift * amount


def _check_amount(name: str, amount: float | Sequence[float], architecture: Architecture) -> None:
    d = architecture.inputs[0].size
    if isinstance(amount, Sequence) and len(amount) != d:
        raise ValueError(f"{name} has {len(amount)} numbers, the networks have {d} inputs; expected one for each")


def _amounts(owner: object, name: str) -> None:
    """A setting must be a largest shift, or one for every input."""
    value = getattr(owner, name)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return settings.number(owner, name, 0)
    settings.sequence(owner, name)
    for entry in getattr(owner, name):
        settings.checked_number(f"{type(owner).__name__}: {name}: every entry", entry, 0, math.inf)
    return None


def _rotation(
    element: WeightSpaceElement,
    degrees: float | Sequence[float] | None,
    axis: Sequence[float] | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Rotation matrices ``(*batch, d, d)``: see :class:`Rotate`."""
    d = _dimension(element)
    if degrees is None:
        # LAPACK has no half precision.
        q, r = torch.linalg.qr(draws.normal(element, (d, d), generator, dtype=wide(element.dtype)))
        q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)  # makes it Haar on O(d)
        flip = torch.linalg.det(q).sign().unsqueeze(-1)
        return torch.cat([q[..., :1] * flip.unsqueeze(-1), q[..., 1:]], dim=-1)
    low, high = (math.radians(end) for end in _ends(degrees))
    angle = draws.uniform(element, (), low, high, generator)
    if d == 2:
        s, c = angle.sin(), angle.cos()
        return torch.stack([c, -s, s, c], -1).view(*angle.shape, 2, 2)
    angle = angle[..., None, None]
    if axis is not None:
        u, v = _plane_across(axis, angle)
    else:
        u, v = draws.normal(element, (2, d), generator, dtype=angle.dtype).unbind(-2)
        u = u / u.norm(dim=-1, keepdim=True)
        v = v - (u * v).sum(-1, keepdim=True) * u
        v = v / v.norm(dim=-1, keepdim=True)
    uu, vv, vu = _outer(u, u), _outer(v, v), _outer(v, u)
    eye = torch.eye(d, dtype=angle.dtype, device=angle.device)
    return eye + angle.sin() * (vu - vu.mT) + (angle.cos() - 1) * (uu + vv)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)


def _plane_across(axis: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor]:
    """Two orthonormal vectors u, v with u x v along a given axis of space."""
    n = torch.tensor(axis, dtype=torch.float64, device="cpu")
    n = n / n.norm()
    start = torch.zeros_like(n)
    start[int(n.abs().argmin())] = 1.0
    u = torch.linalg.cross(n, start)
    u = u / u.norm()
    return u.to(like), torch.linalg.cross(n, u).to(like)


def _check_degrees(owner: Rotate | Affine) -> None:
    settings.number_or_range(owner, "degrees", 0, math.inf)
    degrees = owner.degrees
    if isinstance(degrees, tuple) and degrees[0] == -degrees[1] != 0:
        # One setting, one spelling: equal transforms must compare equal.
        raise ValueError(
            f"{type(owner).__name__}: degrees={degrees} is symmetric; write degrees={degrees[1]:g}, which draws all "
            f"angles from -{degrees[1]:g} to {degrees[1]:g}"
        )


@dataclass(frozen=True)
class Rotate(_Geometry):
    """Rotates the input: the new network at x is the old one at R x. Preserves the function up to R.

    Works for any number of inputs from 2 on. Draws per network an angle, uniform in [-degrees, degrees] or in the
    range that is given, and the plane that it turns: the only one in 2-D, the one across ``axis`` in 3-D if given,
    otherwise uniform among all. ``degrees=None`` draws uniformly from all rotations, SO(d). W1 becomes W1 R.
    Source: paper section 3 (which rotates in 2-D only).

    Args:
        degrees: Largest angle, at least 0, or a range ``(lowest, highest)`` that is not symmetric; None for uniform
            rotations.
        axis: Fixed axis in 3-D, for example ``(0.0, 0.0, 1.0)``; it need not be a unit vector.
        center: The point that stays in place; None for the origin.

    Raises:
        ValueError: If the networks have one input, ``axis`` or ``center`` do not fit their inputs, or a
            setting is out of range.
    """

    degrees: float | Sequence[float] | None = 30.0
    axis: Sequence[float] | None = None
    center: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.degrees is not None:
            _check_degrees(self)
        settings.sequence(self, "axis")
        settings.sequence(self, "center")
        if self.axis is not None and (len(self.axis) != 3 or not any(self.axis) or self.degrees is None):
            raise ValueError(
                f"Rotate: axis must be three numbers, not all zero, with degrees given; got axis={self.axis}, "
                f"degrees={self.degrees}"
            )

    def _has_shift(self) -> bool:
        return self.center is not None

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        d = architecture.inputs[0].size
        if d < 2:
            raise ValueError(f"Rotate needs at least 2 inputs, got input space of size {d}; use Reflect or Translate")
        if self.axis is not None and d != 3:
            raise ValueError(f"Rotate: axis needs 3 inputs, got input space of size {d}; leave axis out")
        self._check_center(architecture, self.center)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        return _about(_rotation(element, self.degrees, self.axis, generator), self.center)


@dataclass(frozen=True)
class Translate(_Geometry):
    """Shifts the input: the new network at x is the old one at x + t. Preserves the function up to t.

    Draws t per network, uniform in [-amount, amount] in every input. b1 becomes b1 + W1 t: in the first
    layer only, where it is exact at any depth. Source: paper appendix D.

    Args:
        amount: Largest shift, in units of the input, at least 0; or one for every input, ``(dx, dy)``.
    """

    amount: float | Sequence[float] = 0.25
    _shifts = True

    def __post_init__(self) -> None:
        _amounts(self, "amount")

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        _check_amount("Translate: amount", self.amount, architecture)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        return InputMap(shift=_shift(element, self.amount, generator))


@dataclass(frozen=True)
class Scale(_Geometry):
    """Scales the input: the new network at x is the old one at s x. Preserves the function up to s.

    Draws s per network, uniform in [1 - amount, 1 + amount]. Source: paper appendix D.

    Args:
        amount: Largest deviation from 1, in [0, 1); or a range of factors above 0, ``(0.8, 1.2)``.
        per_axis: Draw a factor for every input instead of one for all.
        signed_distance: Also divide the output by s, so that a signed distance stays one.
        center: The point that stays in place; None for the origin.
    """

    amount: float | Sequence[float] = 0.2
    per_axis: bool = False
    signed_distance: bool = False
    center: Sequence[float] | None = None

    def __post_init__(self) -> None:
        settings.number_or_range(self, "amount", 0, 1, ends="[)", least=0)  # a factor of 0 would lose everything
        settings.flag(self, "per_axis")
        settings.flag(self, "signed_distance")
        settings.sequence(self, "center")
        if self.per_axis and self.signed_distance:
            raise ValueError("Scale: per_axis=True does not keep signed distances; use one of them")

    def _has_shift(self) -> bool:
        return self.center is not None

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        self._check_center(architecture, self.center)
        if self.signed_distance:
            check_output(architecture, "Scale")

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        d = _dimension(element)
        count = d if self.per_axis else 1
        factor = draws.uniform(element, (count,), *_ends(self.amount, 1.0), generator=generator)
        placed = _about(torch.diag_embed(factor.expand(*factor.shape[:-1], d)), self.center)
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
        settings.number(self, "p", 0, 1)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        signs = draws.signs(element, (_dimension(element),), self.p, generator)
        return InputMap(torch.diag_embed(signs.to(wide(element.dtype))))


@dataclass(frozen=True)
class Affine(_Geometry):
    """A random affine map of the input: x -> R H S x + t. Preserves the function up to this map.

    Draws per network a rotation R as :class:`Rotate`, a shear H with every entry above the diagonal
    uniform in [-shear, shear], a factor per input S uniform in [1 - scale, 1 + scale], and a shift t
    uniform in [-translate, translate].

    Args:
        degrees: Largest angle, at least 0, or a range; None for uniform rotations.
        translate: Largest shift, at least 0; or one for every input.
        scale: Largest deviation of the factors from 1, in [0, 1); or a range of factors.
        shear: Largest shear, at least 0.
    """

    degrees: float | Sequence[float] | None = 30.0
    translate: float | Sequence[float] = 0.25
    scale: float | Sequence[float] = 0.2
    shear: float = 0.1
    _shifts = True

    def __post_init__(self) -> None:
        if self.degrees is not None:
            _check_degrees(self)
        _amounts(self, "translate")
        settings.number_or_range(self, "scale", 0, 1, ends="[)", least=0)
        settings.number(self, "shear", 0)

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        if architecture.inputs[0].size < 2:
            raise ValueError(
                "Affine needs at least 2 inputs, got input space of size 1; use Compose([Scale(), Translate()])"
            )
        _check_amount("Affine: translate", self.translate, architecture)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> InputMap:
        self.check(element.architecture)
        d = _dimension(element)
        rotation = _rotation(element, self.degrees, None, generator)
        upper = draws.uniform(element, (d, d), -self.shear, self.shear, generator).triu(1)
        factor = draws.uniform(element, (d,), *_ends(self.scale, 1.0), generator=generator)
        eye = torch.eye(d, dtype=factor.dtype, device=factor.device)
        matrix = rotation @ (eye + upper) * factor.unsqueeze(-2)
        return InputMap(matrix, _shift(element, self.translate, generator))
