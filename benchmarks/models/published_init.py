"""DWSNets' initial weights in our DWS, whose matrices hold the blocks of the published layer side by side.

Of a block with ``i`` numbers in and ``o`` out, weights are normal as xavier's with a gain of sqrt(2 i / o), and biases
uniform within 1e-4; blocks between tensors that share a hidden space have further biases, uniform within 1e-2. What a
layer gives is divided by twice the number of the network's weight matrices: in every step, not in the weights, since
AdamW would take it for a smaller rate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.models.dws import BlockLinear, Counts, SetAttention

if TYPE_CHECKING:
    from benchmarks.models.dws import DWS

BIAS, SET_BIAS = 1e-4, 1e-2


@torch.no_grad()
def initialise(model: DWS, counts: Counts, channels: list[int]) -> None:
    """Draws all weights and biases of a model anew.

    Args:
        model: The model.
        counts: Of its architecture.
        channels: Channels of the features before the first layer and after each.
    """
    tensors = _tensors(counts)
    layers: Any = model.layers  # an nn.ModuleList says Module of what it holds
    for layer, ins, outs in zip(layers, channels, channels[1:], strict=False):
        layer.scale = 1 / (2 * (len(counts.own) + 1))
        for linear in layer.pair_maps:
            _draw(linear.weight, [ins], [outs], {0})
        for space, module in enumerate(layer.neuron_maps):
            numbers = counts.touching(space)
            matrices = set(range(len(counts.own[space]), len(numbers)))
            sizes, results = [n * ins for n in numbers], [n * outs for n in numbers]
            if isinstance(module, SetAttention):
                _of_attention(module)
            else:
                _draw(module.weight, sizes, results, matrices)
        network, numbers = layer.network_map, counts.network
        if isinstance(network, BlockLinear):
            of_strangers: Any = network.maps
            for linear in of_strangers:
                _draw(linear.weight, [linear.in_features], [linear.out_features])
                linear.bias.uniform_(-BIAS, BIAS)
            continue
        matrices = {t for t, spaces in enumerate(tensors) if len(spaces) == 2}
        _draw(network.weight, [n * ins for n in numbers], [n * outs for n in numbers], matrices)
        biases = []
        for t, number in enumerate(numbers):
            shared = sum(bool(tensors[s] & tensors[t]) for s in range(len(tensors)))
            biases.append(_uniform(len(tensors), number * outs, BIAS) + _uniform(shared, number * outs, SET_BIAS))
        network.bias.copy_(torch.cat(biases))
    _draw(model.head.weight, [model.head.in_features], [model.head.out_features])
    model.head.bias.uniform_(-BIAS, BIAS)


def _tensors(counts: Counts) -> list[set[int]]:
    """The hidden spaces of every tensor, in the order of ``Counts.network``."""
    found: list[set[int]] = []
    for space in counts.spaces:
        found += [{space} for _ in counts.own[space]]
        found += [{space - 1, space}] if space > 0 else []
    return [*found, set()]


def deviation(ins: int, outs: int) -> float:
    """Standard deviation of the weights of a block."""
    return math.sqrt(2 * ins / outs) * math.sqrt(2 / (ins + outs))


def _draw(weight: Tensor, ins: list[int], outs: list[int], matrices: set[int] | None = None) -> None:
    """Draws the blocks of a matrix; a matrix's map to itself reads it in four ways, in one published block."""
    row = 0
    for t, out in enumerate(outs):
        column = 0
        for s, into in enumerate(ins):
            ways = 4 if s == t and t in (matrices or ()) else 1
            weight[row : row + out, column : column + into].normal_(0, deviation(ways * into, out))
            column += into
        row += out


def _uniform(count: int, size: int, bound: float) -> Tensor:
    """The sum of so many uniform numbers."""
    return torch.empty(count, size).uniform_(-bound, bound).sum(0)


def _of_attention(module: SetAttention) -> None:
    projections: Any = module.projections
    itself: Any = module.itself
    for source, projection in enumerate(projections):
        outs = [module.outputs[t] for t in module.targets[source] for _ in range(3)]
        _draw(projection.weight, [module.sizes[source]], outs)
        projection.bias.uniform_(-BIAS, BIAS)
    for t, linear in itself.items():
        linear.weight.normal_(0, deviation(4 * module.sizes[int(t)], module.outputs[int(t)]))
    for mixes, biases, out in zip(module.mixes, module.mix_biases, module.outputs, strict=True):
        mixes.normal_(0, deviation(out, out))
        biases.uniform_(-BIAS, BIAS)
