"""DWS as it was published: a module for each pair of tensors, each of which pools, maps and broadcasts for itself.

The readable form of ``benchmarks/models/dws.py``, and the baseline of its speed. It takes over the weights of a model
of ours, cut into its blocks, so both compute the same.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models.dws import DWS, EquivariantLayer, Features, features_of
from weightaug import WeightSpaceElement

POOLS: dict[str, Any] = {"max": torch.amax, "mean": torch.mean, "sum": torch.sum}


class Block(NamedTuple):
    """A tensor of an INR as published layers see it.

    Attributes:
        name: Of the tensor.
        spaces: The hidden spaces of its axes.
        number: Its entries per neuron, pair of neurons, or network.
    """

    name: str
    spaces: tuple[int, ...]
    number: int


def blocks_of(sizes: tuple[int, ...]) -> list[Block]:
    """The tensors of a multi-layer perceptron, in the order of ``Counts.network``."""
    last = len(sizes) - 3
    blocks = []
    for space in range(last + 1):
        blocks += [Block("first", (0,), sizes[0])] if space == 0 else []
        blocks += [Block(f"bias {space}", (space,), 1)]
        blocks += [Block("last", (last,), sizes[-1])] if space == last else []
        blocks += [Block(f"matrix {space - 1}", (space, space - 1), 1)] if space > 0 else []
    return [*blocks, Block("last bias", (), sizes[-1])]


def values_of(features: Features, blocks: list[Block], channels: int) -> dict[str, Tensor]:
    """Each tensor by itself, ``(batch, *spaces, number * channels)``."""
    values = {"last bias": features.network}
    for space, neurons in enumerate(features.neurons):
        own = [block for block in blocks if block.spaces == (space,)]
        parts = neurons.split([block.number * channels for block in own], dim=-1)
        values |= {block.name: part for block, part in zip(own, parts, strict=True)}
    return values | {f"matrix {i}": pair for i, pair in enumerate(features.pairs)}


def _offset(blocks: list[Block], block: Block) -> int:
    return sum(b.number for b in blocks[: blocks.index(block)])


def _strangers(source: Block, target: Block) -> bool:
    """Whether attention leaves a map at the network: no common space, or a matrix and itself."""
    return not set(source.spaces) & set(target.spaces) or (source == target and len(source.spaces) == 2)


def _own(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone())


class Attention(nn.Module):
    """The published set attention block, with the weights of one block of ours.

    Args:
        weights: Of queries, keys and values, ``(3 * width, inputs)``.
        biases: ``(3 * width,)``.
        mix: The last map, ``(width, width)``.
        mix_bias: ``(1, width)``.
        heads: Number of heads.
    """

    def __init__(self, weights: Tensor, biases: Tensor, mix: Tensor, mix_bias: Tensor, heads: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList([_own(part) for part in weights.chunk(3)])
        self.biases = nn.ParameterList([_own(part) for part in biases.chunk(3)])
        self.mix, self.mix_bias, self.heads = _own(mix), _own(mix_bias), heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (x @ w.T + b for w, b in zip(self.weights, self.biases, strict=True))
        width = q.shape[-1]
        head = width // self.heads
        attended = torch.cat(
            [
                q + torch.softmax(q @ k.mT / math.sqrt(width), dim=-1) @ v
                for q, k, v in zip(q.split(head, -1), k.split(head, -1), v.split(head, -1), strict=True)
            ],
            dim=-1,
        )
        return attended + F.relu(attended @ self.mix + self.mix_bias)


class Map(nn.Module):
    """A linear map without bias, with some weights of ours."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = _own(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class PlainLayer(nn.Module):
    """One layer, block by block.

    Args:
        layer: Of ours, without batch norm, whose weights are taken over.
        sizes: Of the networks that are read, such as ``(2, 32, 32, 1)``.
        ins: Channels of the incoming features.
        outs: Channels of the outgoing features.
        reduction: "max", "mean" or "sum".
    """

    def __init__(self, layer: EquivariantLayer, sizes: tuple[int, ...], ins: int, outs: int, reduction: str) -> None:
        super().__init__()
        self.ins, self.outs, self.reduction, self.scale = ins, outs, reduction, layer.scale
        self.blocks = blocks_of(sizes)
        self.at_space = [
            [b for b in self.blocks if b.spaces == (s,)]
            + [b for b in self.blocks if b.spaces == (s, s - 1)]
            + [b for b in self.blocks if b.spaces == (s + 1, s)]
            for s in range(len(sizes) - 2)
        ]
        self.biases = nn.ParameterDict({b.name: _own(self._bias(layer, b)) for b in self.blocks})
        self.maps = nn.ModuleDict()
        for target, source in itertools.product(self.blocks, self.blocks):
            if layer.set_layer == "ds" or _strangers(source, target):
                self.maps[f"{source.name}, {target.name}"] = Map(self._at_network(layer, source, target))
            for space in set(source.spaces) & set(target.spaces):
                self.maps[f"{source.name}, {target.name}, {space}"] = self._at_neurons(layer, source, target, space)
            if source == target and len(source.spaces) == 2:
                pair: Any = layer.pair_maps[int(source.name.split()[1])]
                self.maps[f"{source.name} itself"] = Map(pair.weight)

    def forward(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps what ``values_of`` gives to the same of the next layer."""
        results = {}
        for target in self.blocks:
            total = self._spread(self.biases[target.name][None], (), target)
            for source in self.blocks:
                x, way = values[source.name], f"{source.name}, {target.name}"
                if way in self.maps:
                    total = total + self._spread(self.maps[way](self._pool(x, source.spaces, ())), (), target)
                for space in set(source.spaces) & set(target.spaces):
                    result = self.maps[f"{way}, {space}"](self._pool(x, source.spaces, (space,)))
                    total = total + self._spread(result, (space,), target)
                if source == target and len(source.spaces) == 2:
                    total = total + self.maps[f"{source.name} itself"](x)
            results[target.name] = total * self.scale if self.scale != 1.0 else total
        return results

    def _pool(self, x: Tensor, spaces: tuple[int, ...], keep: tuple[int, ...]) -> Tensor:
        dims = [1 + i for i, space in enumerate(spaces) if space not in keep]
        return POOLS[self.reduction](x, dims) if dims else x

    def _spread(self, x: Tensor, spaces: tuple[int, ...], target: Block) -> Tensor:
        for i, space in enumerate(target.spaces):
            if space not in spaces:
                x = x.unsqueeze(1 + i)
        return x

    # -- where the weights of a block stand in a layer of ours --------------------------------------------------

    def _part(self, weight: Tensor, rows: list[Block], row: Block, columns: list[Block], column: Block) -> Tensor:
        r, c = _offset(rows, row) * self.outs, _offset(columns, column) * self.ins
        return weight[r : r + row.number * self.outs, c : c + column.number * self.ins]

    def _at_network(self, layer: EquivariantLayer, source: Block, target: Block) -> Tensor:
        network: Any = layer.network_map
        if layer.set_layer == "ds":
            return self._part(network.weight, self.blocks, target, self.blocks, source)
        reads = [b for b in self.blocks if _strangers(b, target)]
        group, linear = self._group(network, target)
        return self._part(linear.weight, group, target, reads, source)

    def _bias(self, layer: EquivariantLayer, target: Block) -> Tensor:
        network: Any = layer.network_map
        if layer.set_layer == "ds":
            return network.bias[_offset(self.blocks, target) * self.outs :][: target.number * self.outs]
        group, linear = self._group(network, target)
        return linear.bias[_offset(group, target) * self.outs :][: target.number * self.outs]

    def _group(self, network: Any, target: Block) -> tuple[list[Block], Any]:
        """Tensors of the same spaces have one matrix together."""
        groups = [list(g) for _, g in itertools.groupby(self.blocks, lambda b: b.spaces)]
        (index,) = [i for i, group in enumerate(groups) if target in group]
        return groups[index], network.maps[index]

    def _at_neurons(self, layer: EquivariantLayer, source: Block, target: Block, space: int) -> nn.Module:
        here, neuron_map = self.at_space[space], layer.neuron_maps[space]
        ours: Any = neuron_map
        if layer.set_layer == "ds":
            return Map(self._part(ours.weight, here, target, here, source))
        s, t = here.index(source), here.index(target)
        if source == target and len(source.spaces) == 2:
            return Map(ours.itself[str(t)].weight)
        others = [b for b in here if len(source.spaces) < 2 or b != source]
        width, start = target.number * self.outs, 3 * _offset(others, target) * self.outs
        rows = slice(start, start + 3 * width)
        weights, biases = ours.projections[s].weight[rows], ours.projections[s].bias[rows]
        i = [b for b in here if len(target.spaces) < 2 or b != target].index(source)
        return Attention(weights, biases, ours.mixes[t][i], ours.mix_biases[t][i], ours.heads)


class PlainDWS(nn.Module):
    """The whole classifier, with the weights of one of ours that has no batch norm.

    Args:
        model: Of ours.
        sizes: Of the networks that are read.
        reduction: Its reduction.
        hidden: Its channels.
    """

    def __init__(self, model: DWS, sizes: tuple[int, ...], reduction: str, hidden: int) -> None:
        super().__init__()
        self.sizes, self.reduction, self.model = sizes, reduction, [model]  # whose statistics it reads; no submodule
        layers: Any = model.layers
        channels = [1, *[hidden] * len(layers)]
        self.layers = nn.ModuleList(
            [
                PlainLayer(layer, sizes, ins, outs, reduction)
                for layer, (ins, outs) in zip(layers, itertools.pairwise(channels), strict=True)
            ]
        )
        self.head = nn.Linear(model.head.in_features, model.head.out_features)
        self.head.load_state_dict(model.head.state_dict())

    def forward(self, element: WeightSpaceElement) -> Tensor:
        """Class scores ``(batch, classes)``."""
        tensors = tuple(self.model[0].normalised(element))
        features = features_of(WeightSpaceElement(element.architecture, tensors[0::2], tensors[1::2]))
        blocks = blocks_of(self.sizes)
        values = values_of(features, blocks, 1)
        for layer in self.layers:
            values = {name: x.relu() for name, x in layer(values).items()}
        pools = []
        for block in blocks:
            dims = list(range(1, 1 + len(block.spaces)))
            pools.append(POOLS[self.reduction](values[block.name], dims) if dims else values[block.name])
        return self.head(torch.cat(pools, dim=-1))
