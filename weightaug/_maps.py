"""The maps that mix the neurons of a linear space, and which of them keep the function."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["MAPS", "MapGroup", "turned"]

MapGroup = Literal["invertible", "orthogonal", "rotary"]

# What meets the neurons of a linear space, by the name of its activation, and the maps that pass it.
MAPS: dict[str, MapGroup] = {"identity": "invertible", "rms_norm": "orthogonal", "rotary": "rotary"}


def turned(real: Tensor, imaginary: Tensor) -> Tensor:
    """The maps that multiply pairs of neurons, as complex numbers, with others.

    Neurons i and i + n / 2 are the real and the imaginary part: the pairs that rotary positions turn.

    Args:
        real: Real parts of the factors, ``(*batch, n / 2)``.
        imaginary: Imaginary parts.

    Returns:
        Maps ``(*batch, n, n)``.
    """
    a, b = torch.diag_embed(real), torch.diag_embed(imaginary)
    return torch.cat([torch.cat([a, -b], -1), torch.cat([b, a], -1)], -2)
