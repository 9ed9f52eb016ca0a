"""DWS: a classifier of networks that does not see the order of their neurons (Navon et al. 2023).

Every layer is a linear map that commutes with the permutations of the hidden neurons, then a ReLU. All the
blocks of such a map (weight to weight, weight to bias, and so on, for each pair of layers) share a form:
pool over the axes that source and target do not share, mix the channels, broadcast to the target. Here the
pooling comes first and is shared, and the channels are mixed where the tensor is small: at the neurons and
once per network. Only the blocks from a weight matrix to itself work on whole matrices.

Input and output neurons have an identity, so the first and the last weight matrix are features of the
hidden neurons that they touch, and the last bias is a feature of the network.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from weightaug import Architecture, WeightSpaceElement

Reduction = Literal["mean", "max"]


class Features(NamedTuple):
    """Features of a batch of chains of layers with hidden spaces 1 to H.

    Attributes:
        pairs: For each weight matrix between two hidden spaces, ``(batch, written, read, channels)``.
        neurons: For each hidden space, ``(batch, size, own * channels)``: its bias, and the first and last
            weight matrix where they touch it.
        network: ``(batch, outputs * channels)``: the last bias.
    """

    pairs: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]
    network: Tensor

    def map(self, function: nn.Module) -> Features:
        """Applies an element-wise function."""
        return Features(
            tuple(function(t) for t in self.pairs), tuple(function(t) for t in self.neurons), function(self.network)
        )


class Multiplicity(NamedTuple):
    """How many numbers of the INR each feature holds, per channel.

    Attributes:
        neurons: Per hidden space, its own features.
        pooled: Per hidden space, its own features and what is pooled to it from the weight matrices.
        network: The own features of the network.
        total: These, and what is pooled to them from all neurons.
    """

    neurons: tuple[int, ...]
    pooled: tuple[int, ...]
    network: int
    total: int

    @classmethod
    def of(cls, architecture: Architecture) -> Multiplicity:
        """Counts for an architecture.

        Raises:
            ValueError: If it is not a chain of linear layers with biases and at least one hidden space.
        """
        hidden = len(architecture.hidden)
        plain = architecture.is_chain and all(layer.bias and not layer.kernel for layer in architecture.layers)
        if not plain or hidden < 1:
            raise ValueError(f"DWS reads chains of linear layers with biases and a hidden space, got {architecture!r}")
        inputs, outputs = architecture.inputs[0].size, architecture.outputs[0].size
        first, last = 0, hidden - 1
        neurons = tuple(1 + inputs * (s == first) + outputs * (s == last) for s in range(hidden))
        pooled = tuple(n + (s > first) + (s < last) for s, n in enumerate(neurons))
        return cls(neurons, pooled, outputs, outputs + sum(pooled))


def features_of(element: WeightSpaceElement) -> Features:
    """The weights and biases as features with one channel."""
    first, *between, last = element.weights
    *biases, last_bias = element.biases
    neurons = [bias.unsqueeze(-1) for bias in biases if bias is not None]
    neurons[0] = torch.cat([first, neurons[0]], dim=-1)
    neurons[-1] = torch.cat([neurons[-1], last.mT], dim=-1)
    assert last_bias is not None
    return Features(tuple(w.unsqueeze(-1) for w in between), tuple(neurons), last_bias)


class _Maximum(torch.autograd.Function):
    """The maximum over one axis, with a backward pass in three sweeps of floats.

    On a CPU that takes an eighth of the time of amax, which makes masks and counts ties.

    Where several values tie, each gets the whole gradient. Behind a ReLU the ties are zeros, through which no
    gradient goes anyway.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, dim: int) -> Tensor:
        largest = values.amax(dim, keepdim=True)
        ctx.save_for_backward(values, largest)
        ctx.dim = dim
        return largest.squeeze(dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        values, largest = ctx.saved_tensors
        is_largest = torch.sub(values, largest).ge_(0)
        return is_largest.mul_(gradients[0].unsqueeze(ctx.dim)), None


class Pool(nn.Module):
    """Pools features to the neurons, and those to the network; the step that layers and head share.

    Args:
        counts: Multiplicities of the architecture.
        channels: Channels of the features.
        reduction: How values are pooled.
        batch_norm: Whether to normalise each channel of the pooled features over the batch.
    """

    def __init__(self, counts: Multiplicity, channels: int, reduction: Reduction, batch_norm: bool) -> None:
        super().__init__()
        self.reduction = reduction

        def norm(count: int) -> nn.Module:
            return nn.BatchNorm1d(count * channels) if batch_norm else nn.Identity()

        self.neuron_norms = nn.ModuleList([norm(count) for count in counts.pooled])
        self.network_norm = norm(counts.total)

    def _reduce(self, values: Tensor, dim: int) -> Tensor:
        return values.mean(dim) if self.reduction == "mean" else _Maximum.apply(values, dim)

    def forward(self, features: Features) -> tuple[list[Tensor], Tensor]:
        neurons = []
        for space, (own, norm) in enumerate(zip(features.neurons, self.neuron_norms, strict=True)):
            parts = [own]
            if space > 0:
                parts.append(self._reduce(features.pairs[space - 1], 2))
            if space < len(features.pairs):
                parts.append(self._reduce(features.pairs[space], 1))
            pooled = torch.cat(parts, dim=-1)
            neurons.append(norm(pooled.flatten(0, 1)).view(pooled.shape))
        network = torch.cat([features.network, *(self._reduce(n, 1) for n in neurons)], dim=-1)
        return neurons, self.network_norm(network)


class EquivariantLayer(nn.Module):
    """The affine maps between features that commute with all permutations of hidden neurons.

    Args:
        counts: Multiplicities of the architecture.
        inputs: Channels of the incoming features.
        outputs: Channels of the outgoing features.
        reduction: How values are pooled.
        batch_norm: Whether the pooled features are batch-normalised.
    """

    def __init__(self, counts: Multiplicity, inputs: int, outputs: int, reduction: Reduction, batch_norm: bool) -> None:
        super().__init__()
        self.pool = Pool(counts, inputs, reduction, batch_norm)
        pooled = [count * inputs for count in counts.pooled]
        total = counts.total * inputs
        spaces = range(len(pooled))

        def maps(ins: list[int], outs: list[int]) -> nn.ModuleList:
            return nn.ModuleList([nn.Linear(i, o, bias=False) for i, o in zip(ins, outs, strict=True)])

        # To each matrix: from itself, from the neurons that write and read it, from the network.
        matrices = len(pooled) - 1
        self.pair_to_pair = maps([inputs] * matrices, [outputs] * matrices)
        self.written_to_pair = maps(pooled[1:], [outputs] * matrices)
        self.read_to_pair = maps(pooled[:-1], [outputs] * matrices)
        self.network_to_pair = nn.ModuleList([nn.Linear(total, outputs) for _ in range(matrices)])
        # To the neurons of each space: from themselves, from the network.
        own = [count * outputs for count in counts.neurons]
        self.neuron_to_neuron = maps(pooled, own)
        self.network_to_neuron = nn.ModuleList([nn.Linear(total, own[s]) for s in spaces])
        self.network_to_network = nn.Linear(total, counts.network * outputs)

    def forward(self, features: Features) -> Features:
        neurons, network = self.pool(features)
        pairs = []
        for i, pair in enumerate(features.pairs):
            written = self.written_to_pair[i](neurons[i + 1]) + self.network_to_pair[i](network).unsqueeze(1)
            read = self.read_to_pair[i](neurons[i])
            # In place: these are the only large tensors of the model.
            pairs.append(self.pair_to_pair[i](pair).add_(written.unsqueeze(2)).add_(read.unsqueeze(1)))
        outs = [
            self.neuron_to_neuron[s](n) + self.network_to_neuron[s](network).unsqueeze(1) for s, n in enumerate(neurons)
        ]
        return Features(tuple(pairs), tuple(outs), self.network_to_network(network))


class DWS(nn.Module):
    """Equivariant layers with ReLUs, an invariant pooling, one linear layer.

    The input is normalised with one mean and one deviation per tensor. One per *entry*, as in DWSNets,
    would tell the neurons apart and break the invariance.

    Args:
        architecture: Of the networks to classify.
        classes: Number of classes.
        hidden: Channels of the features.
        layers: Number of equivariant layers.
        reduction: How values are pooled: the mean, or the maximum as published (slower here).
        batch_norm: Whether the pooled features are batch-normalised.
    """

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        *,
        hidden: int = 32,
        layers: int = 4,
        reduction: Reduction = "mean",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        counts = Multiplicity.of(architecture)
        channels = [1, *[hidden] * layers]
        self.layers = nn.ModuleList(
            [EquivariantLayer(counts, ins, outs, reduction, batch_norm) for ins, outs in itertools.pairwise(channels)]
        )
        self.pool = Pool(counts, hidden, reduction, batch_norm)
        self.head = nn.Linear(counts.total * hidden, classes)
        self.activation = nn.ReLU(inplace=True)
        tensors = 2 * len(architecture.layers)
        self.register_buffer("mean", torch.zeros(tensors))
        self.register_buffer("deviation", torch.ones(tensors))

    def set_statistics(self, training_set: WeightSpaceElement) -> None:
        """Takes the scalar mean and deviation of each tensor from the networks of the training set."""
        tensors = training_set.tensors()
        self.mean.copy_(torch.stack([t.mean() for t in tensors]))
        self.deviation.copy_(torch.stack([t.std() if t.numel() > 1 else t.new_ones(()) for t in tensors]))

    def _normalise(self, element: WeightSpaceElement) -> WeightSpaceElement:
        tensors = [
            (t - m) / d for t, m, d in zip(element.tensors(), self.mean, self.deviation.clamp_min(1e-8), strict=True)
        ]
        return WeightSpaceElement(element.architecture, tuple(tensors[0::2]), tuple(tensors[1::2]))

    def forward(self, element: WeightSpaceElement) -> Tensor:
        """Class scores ``(batch, classes)`` of a batch of networks."""
        features = features_of(self._normalise(element))
        for layer in self.layers:
            features = layer(features).map(self.activation)
        _, network = self.pool(features)
        return self.head(network)
