"""Initial weights that each network draws from a seed of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.fitting.conventions import Convention

__all__ = ["initial_weights", "seed_of"]


def seed_of(*parts: object) -> int:
    """A seed from names and numbers that is the same in every process and on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def initial_weights(
    convention: Convention, architecture: Architecture, seeds: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> WeightSpaceElement:
    """Initial weights ``(len(seeds),)`` of SIRENs, each network's drawn from its own seed alone.

    So any network of a data set can be made again, in a batch of any size and on any device.

    Args:
        convention: Decides the bounds of the uniform draws.
        architecture: ``convention.architecture(sizes)``: a chain of layers with biases.
        seeds: One per network.
        dtype: Dtype of the parameters; the draws are the same in all.

    Raises:
        ValueError: If a layer has no bias.
    """
    drawn = torch.empty(len(seeds), architecture.num_parameters, dtype=torch.float64, device="cpu")
    generator = torch.Generator()
    for row, seed in zip(drawn, seeds, strict=True):
        generator.manual_seed(seed)
        row.uniform_(-1, 1, generator=generator)
    element = WeightSpaceElement.unflatten(architecture, drawn.to(dtype))
    weights, biases = [], []
    last = len(architecture.layers) - 1
    for i, (weight, bias) in enumerate(zip(element.weights, element.biases, strict=True)):
        if bias is None:
            raise ValueError(
                f"layer {architecture.layers[i].name!r} has no bias; the conventions say how SIRENs with biases start"
            )
        fan_in = weight.shape[-1]
        hidden_bound = math.sqrt(6 / fan_in) / convention.omega
        torch_bound = 1 / math.sqrt(fan_in)  # of nn.Linear, for weights and biases alike
        if i == 0:
            weight_bound = 1 / fan_in if convention.first_layer_special else hidden_bound
        else:
            weight_bound = torch_bound if i == last and convention.last_layer_torch else hidden_bound
        bias_bound = 0.0 if i < last and convention.zero_hidden_bias else torch_bound
        weights.append(weight * weight_bound)
        biases.append(bias * bias_bound)
    return WeightSpaceElement(architecture, tuple(weights), tuple(biases))
