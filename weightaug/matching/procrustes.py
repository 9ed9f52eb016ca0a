"""The map of a linear space that brings two networks closest, by what its group allows."""

from __future__ import annotations

import torch
from torch import Tensor

from weightaug._maps import MapGroup, turned

__all__ = ["best_inner", "best_map"]


def best_map(group: MapGroup | None, cross: Tensor) -> tuple[Tensor, Tensor]:
    """The norm-keeping M with the largest inner product of a and M b, and that inner product, ``(*batch)``.

    Args:
        group: What the maps of the space keep; of invertible ones, the orthogonal are looked at.
        cross: Inner products of the neurons of a (rows) and b (columns), ``(*batch, n, n)``.
    """
    if group == "rotary":
        real, imaginary = _pairs(cross)
        size = torch.hypot(real, imaginary)
        still = size == 0
        found = turned(
            torch.where(still, 1.0, real / torch.where(still, 1.0, size)),
            torch.where(still, 0.0, imaginary / torch.where(still, 1.0, size)),
        )
        return found, size.sum(-1)
    u, values, vh = torch.linalg.svd(cross)
    return torch.matmul(u, vh), values.sum(-1)


def best_inner(group: MapGroup | None, cross: Tensor) -> Tensor:
    """The inner product of a and M b under the best M, ``(*batch)``, without that M."""
    if group == "rotary":
        real, imaginary = _pairs(cross)
        return torch.hypot(real, imaginary).sum(-1)
    values: Tensor = torch.linalg.svdvals(cross)
    return values.sum(-1)


def _pairs(cross: Tensor) -> tuple[Tensor, Tensor]:
    """For each pair, the real and the imaginary part of a times the conjugate of b, as complex numbers."""
    half = cross.shape[-1] // 2
    first, second = cross[..., :half, :], cross[..., half:, :]

    def diagonal(block: Tensor) -> Tensor:
        return block.diagonal(dim1=-2, dim2=-1)

    real = diagonal(first[..., :half]) + diagonal(second[..., half:])
    return real, diagonal(second[..., :half]) - diagonal(first[..., half:])
