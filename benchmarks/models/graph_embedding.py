"""From the weights and biases of a network to the states of nodes and edges, before the first relation layer."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.models.fourier_in_blocks import FourierInBlocks
from weightaug import Architecture, WeightSpaceElement


class Widths(NamedTuple):
    """Sizes of the parts of a layer; the published ones.

    Attributes:
        node: Channels of a node's state.
        edge: Channels of an edge's state.
        attention: Channels of queries, keys and values, all heads together.
        heads: Heads of the attention.
        node_hidden: Inside the node update.
        edge_hidden: Inside the edge update.
    """

    node: int = 64
    edge: int = 32
    attention: int = 128
    heads: int = 8
    node_hidden: int = 128
    edge_hidden: int = 64


class FourierEmbedding(nn.Module):
    """Random Fourier features of single numbers, then a linear map.

    Args:
        frequencies: Number of random frequencies; each gives a sine and a cosine.
        channels: Channels of the result.
        sigma: Standard deviation of the frequencies.
    """

    def __init__(self, frequencies: int, channels: int, sigma: float) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.randn(frequencies) * sigma)
        self.linear = nn.Linear(2 * frequencies, channels)

    def forward(self, values: Tensor, in_blocks: bool = False) -> Tensor:
        """The features of numbers of any shape, ``(*shape, channels)``; in blocks in the written-out form."""
        if in_blocks:
            flat = FourierInBlocks.apply(values.flatten(), self.frequencies, self.linear.weight, self.linear.bias)
            return flat.view(*values.shape, len(self.linear.weight))
        phases = 2 * math.pi * values.unsqueeze(-1) * self.frequencies
        return self.linear(torch.cat([phases.sin(), phases.cos()], dim=-1))


class ProbeFeatures(nn.Module):
    """What every neuron computes at some learned inputs of the network.

    Args:
        architecture: Of the networks.
        probes: Number of inputs.
        channels: Channels of the result.
    """

    def __init__(self, architecture: Architecture, probes: int, channels: int) -> None:
        super().__init__()
        self.inputs = nn.Parameter(2 * torch.rand(probes, architecture.inputs[0].size) - 1)
        self.maps = nn.ModuleList(
            [nn.Sequential(nn.Linear(probes, channels), nn.LayerNorm(channels)) for _ in architecture.spaces]
        )

    def forward(self, element: WeightSpaceElement) -> Tensor:
        """Features ``(batch, nodes, channels)``."""
        architecture = element.architecture
        activations = [space.activation for space in architecture.hidden]
        values = self.inputs.mT.expand(*element.batch_shape, -1, -1)
        features = [values]
        for i, (weight, bias) in enumerate(zip(element.weights, element.biases, strict=True)):
            values = weight @ values
            if bias is not None:
                values = values + bias.unsqueeze(-1)
            activation = activations[i] if i < len(activations) else None
            values = values + architecture.output_offset if activation is None else activation(values)
            features.append(values)
        return torch.cat([to_node(f) for to_node, f in zip(self.maps, features, strict=True)], dim=-2)


class GraphEmbedding(nn.Module):
    """States of the nodes and edges before the first layer.

    Args:
        architecture: Of the networks.
        widths: Channels of nodes and edges.
        frequencies: Random frequencies per number.
        sigma: Standard deviation of the frequencies.
    """

    def __init__(self, architecture: Architecture, widths: Widths, frequencies: int, sigma: float) -> None:
        super().__init__()
        sizes = [space.size for space in architecture.spaces]
        self.bias_embedding = FourierEmbedding(frequencies, widths.node, sigma)
        self.weight_embedding = FourierEmbedding(frequencies, widths.edge, sigma)
        self.node_linear = nn.Linear(widths.node, widths.node)
        self.edge_linear = nn.Linear(widths.edge, widths.edge)
        # Input and output neurons have an identity and so a position of their own; hidden neurons share one.
        hidden = len(sizes) - 2
        self.positions = nn.Parameter(torch.randn(sizes[0] + hidden + sizes[-1], widths.node))
        own = torch.arange(len(self.positions))
        repeats = [1] * sizes[0] + sizes[1:-1] + [1] * sizes[-1]
        self.position_of_node: Tensor
        self.register_buffer("position_of_node", own.repeat_interleave(torch.tensor(repeats)), persistent=False)
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.nodes_of_space = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def forward(self, biases: Tensor, probed: Tensor, *weights: Tensor, in_blocks: bool = False) -> tuple[Tensor, ...]:
        """Embeds a batch. A pair without a weight looks like a weight of zero: all such pairs have one state.

        Args:
            biases: ``(batch, nodes)``, zero for neurons without.
            probed: Added to the embedded biases: ``(batch, nodes, node channels)``, or a zero.
            weights: Of every layer, ``(batch, written, read)``.
            in_blocks: Whether to take the written-out form of the features.

        Returns:
            The states of the nodes, ``(batch, nodes, node channels)``, of pairs without a weight, ``(edge channels,)``,
            and of the edges of every layer, ``(batch, read, written, edge channels)``.
        """
        nodes = (
            self.node_linear(self.bias_embedding(biases, in_blocks) + probed) + self.positions[self.position_of_node]
        )
        none = self.edge_linear(self.weight_embedding(biases.new_zeros(())))
        return nodes, none, *(self.edge_linear(self.weight_embedding(weight.mT, in_blocks)) for weight in weights)


class Known(NamedTuple):
    """Edges before the first layer, which are alike wherever there is no weight.

    Attributes:
        none: State of all pairs without a weight, ``(channels,)``.
        layers: States of the edges of every layer, ``(batch, read, written, channels)``.
        spaces: The nodes of every space.
    """

    none: Tensor
    layers: list[Tensor]
    spaces: list[slice]

    def edges(self) -> Tensor:
        """The states of all pairs, ``(batch, nodes, nodes, channels)``."""
        return _AllPairs.apply(self.spaces, self.none, *self.layers)


class _AllPairs(torch.autograd.Function):
    """:meth:`Known.edges`, without the copies that autograd makes for every part that is written."""

    generate_vmap_rule = True

    @staticmethod
    def forward(spaces: list[slice], none: Tensor, *layers: Tensor) -> Tensor:
        count = spaces[-1].stop
        edges = none.expand(len(layers[0]), count, count, -1).clone()
        for read, written, layer in zip(spaces, spaces[1:], layers, strict=False):
            edges[:, read, written] = layer
        return edges

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.spaces = inputs[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_layers = [gradient[:, r, w] for r, w in zip(ctx.spaces, ctx.spaces[1:], strict=False)]
        of_none = gradient.sum((0, 1, 2))
        for part in of_layers:
            of_none = of_none - part.sum((0, 1, 2))
        return None, of_none, *of_layers
