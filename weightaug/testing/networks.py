"""Random networks and points to test with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["random_element", "sample_points"]


def random_element(
    architecture: Architecture,
    batch_shape: Sequence[int] = (),
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> WeightSpaceElement:
    """Random networks whose signals keep their size from layer to layer, whatever omega and depth.

    Args:
        architecture: Any architecture.
        batch_shape: Shape of the batch.
        seed: The same seed gives the same networks.
        dtype: Dtype of the parameters.
    """
    rng = np.random.default_rng(seed)
    weights, biases = [], []
    for i in range(len(architecture.layers)):
        shape = architecture.weight_shape(i)
        written = architecture.spaces[architecture.wiring.writes[i]].activation
        omega = 1.0 if written is None else written.omega
        bias_shape = architecture.bias_shape(i)
        spread = 1.5 / (omega * math.sqrt(math.prod(shape[1:])))
        weights.append(torch.as_tensor(rng.standard_normal((*batch_shape, *shape)) * spread, dtype=dtype))
        biases.append(
            None
            if bias_shape is None
            else torch.as_tensor(rng.standard_normal((*batch_shape, *bias_shape)) * 0.5 / omega, dtype=dtype)
        )
    return WeightSpaceElement(architecture, tuple(weights), tuple(biases))


def sample_points(architecture: Architecture, count: int = 16, *, seed: int = 0) -> Tensor:
    """Random coordinates ``(count, inputs)`` in [-1, 1], in double precision."""
    rng = np.random.default_rng(seed)
    return torch.as_tensor(rng.uniform(-1, 1, (count, architecture.inputs[0].size)))
