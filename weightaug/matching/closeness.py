"""How close batches of networks are, tensor by tensor, so that no copy of a whole network is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["coincide", "inner_products", "squared_distances"]


def inner_products(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner products of networks, summed over tensors in double precision."""
    total = a[0].new_zeros(len(a[0]), dtype=torch.float64)
    for x, y in zip(a, b, strict=True):
        total += torch.linalg.vecdot(x.reshape(len(x), -1), y.reshape(len(y), -1))
    return total


def coincide(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether all networks are bit for bit the same, which is found out faster than how far apart they are."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def squared_distances(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Squared distances of networks; one tensor's difference at a time, which stays near at hand."""
    total = a[0].new_zeros(len(a[0]), dtype=torch.float64)
    for x, y in zip(a, b, strict=True):
        gap = (x - y).reshape(len(x), -1)
        total += torch.linalg.vecdot(gap, gap)
    return total
