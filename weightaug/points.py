"""Points at which networks are evaluated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from weightaug.architecture import Architecture

__all__ = ["Points", "PointsLike", "grid", "points_of"]


class Points:
    """Points of your own, as a setting of a transform: frozen, comparable, hashable.

    A transform that holds some has no ``asdict`` form, and its ``repr`` does not evaluate back; a regular grid, which
    is written as numbers, has both.

    Args:
        values: ``(n, inputs)``, at least one point. Copied.

    Raises:
        ValueError: If the shape is another, or a coordinate is not finite.
    """

    def __init__(self, values: Tensor) -> None:
        if not isinstance(values, Tensor) or values.dim() != 2 or 0 in values.shape:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"points: expected a tensor (n, inputs) with n >= 1, got {got}")
        if not bool(values.isfinite().all()):
            raise ValueError(f"points: expected finite coordinates, got {int((~values.isfinite()).sum())} that are not")
        self.values = values.detach().clone()
        plain = self.values.cpu().double().contiguous()
        self._digest = hashlib.sha256(plain.numpy().tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Points)
            and other._digest == self._digest
            and other.values.shape == self.values.shape
            and other.values.dtype == self.values.dtype
        )

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        count, inputs = self.values.shape
        return f"Points({count} of {inputs} coordinates, sha256={self._digest[:12]})"


PointsLike: TypeAlias = int | Sequence[int] | Tensor | Points
"""Where networks are evaluated: n points along every input in [-1, 1]; numbers of points along each input, in the
order of the inputs; or points ``(n, inputs)``."""


def grid(sizes: Sequence[int]) -> Tensor:
    """A regular grid ``(n, len(sizes))`` over [-1, 1] in every input, edges included, in double precision.

    The first input varies fastest: of two, these are the pixels of an image row by row in (x, y).

    Args:
        sizes: Points along each input, at least 1; one point lies in the middle.
    """
    middle = torch.zeros(1, dtype=torch.float64, device="cpu")
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64, device="cpu") if n > 1 else middle for n in sizes]
    mesh = torch.meshgrid(*reversed(axes), indexing="ij")
    return torch.stack(tuple(reversed(mesh)), -1).reshape(math.prod(sizes), len(sizes))


def points_of(points: PointsLike, architecture: Architecture, *, owner: str = "points") -> Tensor:
    """The points themselves, ``(n, inputs)``.

    Args:
        points: See :data:`PointsLike`.
        architecture: Of the networks that are to be evaluated.
        owner: What messages begin with.

    Raises:
        ValueError: If the points are not for networks with so many inputs, or there are none.
        TypeError: If they are something else.
    """
    if len(architecture.inputs) != 1:
        raise ValueError(f"{owner}: expected one input space, got {[s.name for s in architecture.inputs]}")
    inputs = architecture.inputs[0].size
    if isinstance(points, (Points, Tensor)):
        values = (points if isinstance(points, Points) else Points(points)).values
        if values.shape[1] != inputs:
            raise ValueError(f"{owner}: the networks take {inputs} inputs, got points of {values.shape[1]} coordinates")
        return values
    sizes = sizes_of(points, owner=owner)
    if isinstance(sizes, int):
        sizes = (sizes,) * inputs
    if len(sizes) != inputs:
        raise ValueError(
            f"{owner}: the networks take {inputs} inputs, got a grid of {sizes}; give one number for each input, or "
            "one for all"
        )
    return grid(sizes)


def sizes_of(points: object, *, owner: str) -> int | tuple[int, ...]:
    """The numbers of points of a grid, checked."""
    numbers = tuple(points) if isinstance(points, (tuple, list)) else (points,)
    if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise TypeError(
            f"{owner}: expected a number of points along every input (28, or (28, 28)), or a tensor (n, inputs), got "
            f"{points!r}"
        )
    if min(numbers) < 1:
        raise ValueError(f"{owner}: a grid needs at least 1 point along every input, got {points!r}")
    return numbers if isinstance(points, (tuple, list)) else numbers[0]
