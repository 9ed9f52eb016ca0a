"""DWS: a classifier of networks that does not see the order of their neurons (Navon et al. 2023).

Every layer is an affine map that commutes with the permutations of the hidden neurons, then a ReLU. The published
layer has one block for each pair of tensors (weight to weight, weight to bias, ...); each block pools over the axes
that source and target do not share, mixes the channels, and broadcasts to the target. Here the same blocks are
sorted by what source and target share, which makes three levels, each with one matrix:

- two axes: from a matrix to itself, at every entry;
- one axis: among all tensors that touch a hidden space, at its neurons;
- none: among all tensors, once per network.

Going up, everything is pooled once: matrices to neurons, neurons to the network. Going down, results are broadcast and
added. Only the first level works on whole matrices. Input and output neurons have an identity, so the first and the
last weight matrix are features of the hidden neurons that they touch, and the last bias is a feature of the network.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models.classifier import NetworkClassifier
from weightaug import Architecture, WeightSpaceElement

Reduction = Literal["mean", "sum", "max", "attn"]
SetLayer = Literal["ds", "sab"]
Init = Literal["default", "published"]


class Features(NamedTuple):
    """Features of a batch of chains of layers with hidden spaces 1 to H.

    Attributes:
        pairs: For each weight matrix between two hidden spaces, ``(batch, written, read, channels)``.
        neurons: For each hidden space, ``(batch, size, own * channels)``: the first weight matrix, the bias and the
            last weight matrix where they touch it.
        network: ``(batch, outputs * channels)``: the last bias.
    """

    pairs: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]
    network: Tensor

    def relu_(self) -> Features:
        """Positive parts. Overwrites the matrices: they are the only large tensors of the model."""
        return Features(
            tuple(t.relu_() for t in self.pairs), tuple(t.relu() for t in self.neurons), self.network.relu()
        )


class Counts(NamedTuple):
    """How many numbers of the INR there are per neuron and per network; each gets the channels of a layer.

    Attributes:
        own: For each hidden space, those of each tensor that touches no other hidden space. In ``(3, 16, 16, 2)``
            they are 3 weights and a bias per neuron, then a bias and 2 weights: ``((3, 1), (1, 2))``.
        outputs: Those of the last bias.
    """

    own: tuple[tuple[int, ...], ...]
    outputs: int

    @classmethod
    def of(cls, architecture: Architecture) -> Counts:
        """Counts for an architecture.

        Raises:
            ValueError: If it is not a chain of linear layers with biases and at least one hidden space.
        """
        hidden = len(architecture.hidden)
        plain = architecture.is_chain and all(layer.bias and not layer.kernel for layer in architecture.layers)
        if not plain or hidden < 1:
            raise ValueError(
                f"DWS reads chains of linear layers with biases and a hidden space, got {architecture!r}; give layers "
                "without bias a bias of zeros"
            )
        own = [[1] for _ in range(hidden)]
        own[0].insert(0, architecture.inputs[0].size)
        own[-1].append(architecture.outputs[0].size)
        return cls(tuple(map(tuple, own)), architecture.outputs[0].size)

    @property
    def spaces(self) -> range:
        """Indices of the hidden spaces. Matrix ``i`` reads space ``i`` and writes space ``i + 1``."""
        return range(len(self.own))

    @property
    def pairs(self) -> range:
        """Indices of the matrices between hidden spaces."""
        return range(len(self.own) - 1)

    def upward(self, space: int) -> tuple[int, ...]:
        """Tensors at a space that are pooled to the network from here: its own and the matrix that writes it."""
        return (*self.own[space], *([1] if space > 0 else []))

    def touching(self, space: int) -> tuple[int, ...]:
        """All tensors at a space: those, and the matrix that reads it."""
        return (*self.upward(space), *([1] if space in self.pairs else []))

    @property
    def network(self) -> tuple[int, ...]:
        """All tensors, each once: space by space, then the last bias."""
        return (*itertools.chain.from_iterable(map(self.upward, self.spaces)), self.outputs)


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
    """The maximum over each of several axes, with a fast backward pass.

    On a CPU the gradient of amax takes 3 times as long or more: it makes masks and counts ties. Here each of several
    values that tie gets the whole gradient. Behind a ReLU these are zeros, through which no gradient goes anyway.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, *dims: int) -> tuple[Tensor, ...]:
        return tuple(values.amax(dim) for dim in dims)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        values, *ctx.dims = inputs
        ctx.save_for_backward(values, *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, *maxima = ctx.saved_tensors
        result = torch.empty_like(values)
        # A few networks at a time, whose temporary tensors stay in the cache.
        few = max(1, 2**20 // math.prod(values.shape[1:]))
        for rows in (slice(start, start + few) for start in range(0, len(values), few)):
            total: Tensor | None = None
            for dim, largest, gradient in zip(ctx.dims, maxima, gradients, strict=True):
                below = values[rows] - largest[rows].unsqueeze(dim)
                spread = gradient[rows].unsqueeze(dim).expand_as(below)
                # What a ReLU does backward: the gradient where a value, here never above 0, is above a threshold.
                part = torch.ops.aten.threshold_backward(spread, below, -torch.finfo(below.dtype).tiny)
                total = part if total is None else total.add_(part)
            assert total is not None
            result[rows] = total
        return result, *[None] * len(ctx.dims)


class Reduce(nn.Module):
    """Pools a tensor of features over each of some axes by itself.

    Args:
        reduction: The mean, the sum, the maximum, or "attn": an average with the softmax of products with a learned
            query as weights. It starts as the mean.
        channels: Size of the last axis.
        dims: The axes, none of them the first or the last.
    """

    def __init__(self, reduction: Reduction, channels: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.reduction, self.dims = reduction, dims
        if reduction == "attn":
            self.queries = nn.Parameter(torch.zeros(len(dims), channels))

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        if self.reduction == "max":
            return _Maximum.apply(values, *self.dims)
        if self.reduction == "attn":
            weights = [(values @ query).softmax(dim) for query, dim in zip(self.queries, self.dims, strict=True)]
            return tuple((values * w.unsqueeze(-1)).sum(dim) for w, dim in zip(weights, self.dims, strict=True))
        # The backward pass of a sum only expands; that of torch's mean divides after that, all of the large tensor.
        sums = [values.sum(dim) for dim in self.dims]
        if self.reduction == "mean":
            sums = [total / values.shape[dim] for total, dim in zip(sums, self.dims, strict=True)]
        return tuple(sums)


class Pool(nn.Module):
    """Pools matrices to the neurons, and everything to the network; the step that layers and head share.

    Args:
        counts: Of the architecture.
        channels: Channels of the features.
        reduction: How values are pooled.
        batch_norm: Whether to normalise each channel of the pooled features over the batch.
        head: Whether only the features of the network are wanted: matrices then go there by one way only.
    """

    def __init__(
        self, counts: Counts, channels: int, reduction: Reduction, batch_norm: bool, *, head: bool = False
    ) -> None:
        super().__init__()
        self.upward = [sum(counts.upward(s)) * channels for s in counts.spaces]

        def norm(size: int) -> nn.Module:
            return nn.BatchNorm1d(size) if batch_norm else nn.Identity()

        at_neurons = counts.upward if head else counts.touching
        self.neuron_norms = nn.ModuleList([norm(sum(at_neurons(s)) * channels) for s in counts.spaces])
        self.network_norm = norm(sum(counts.network) * channels)
        # Of each matrix (batch, written, read, channels): to the neurons it writes, and to those it reads.
        axes = (2,) if head else (2, 1)
        self.to_neurons = nn.ModuleList([Reduce(reduction, channels, axes) for _ in counts.pairs])
        self.to_network = nn.ModuleList([Reduce(reduction, size, (1,)) for size in self.upward])

    def forward(self, features: Features) -> tuple[list[Tensor], Tensor]:
        """Features of the neurons of each space ``(batch, size, channels)`` and of the network ``(batch, channels)``.

        Channels are in the order of ``Counts.touching`` and ``Counts.network``.
        """
        parts = [[own] for own in features.neurons]
        for i, (pool, pair) in enumerate(zip(self.to_neurons, features.pairs, strict=True)):
            written, *read = pool(pair)
            parts[i].extend(read)
            parts[i + 1].append(written)
        neurons = [torch.cat(tensors, dim=-1) for tensors in parts]
        neurons = [norm(n.flatten(0, 1)).view(n.shape) for norm, n in zip(self.neuron_norms, neurons, strict=True)]
        pools = zip(self.to_network, neurons, self.upward, strict=True)
        upward = [pooled for pool, n, size in pools for pooled in pool(n[..., :size])]
        return neurons, self.network_norm(torch.cat([*upward, features.network], dim=-1))


class BlockLinear(nn.Module):
    """An affine map that is dense but for some blocks of zeros, which take no parameters.

    Args:
        inputs: Sizes of the blocks of the input.
        outputs: Sizes of the blocks of the output.
        reads: For each block of the output, which blocks of the input it reads.
    """

    def __init__(self, inputs: list[int], outputs: list[int], reads: list[list[int]]) -> None:
        super().__init__()
        self.inputs, self.reads = inputs, reads
        self.maps = nn.ModuleList(
            [nn.Linear(sum(inputs[i] for i in read), out) for read, out in zip(reads, outputs, strict=True)]
        )

    def forward(self, values: Tensor) -> Tensor:
        blocks = values.split(self.inputs, dim=-1)
        reads = [torch.cat([blocks[i] for i in read], dim=-1) for read in self.reads]
        return torch.cat([linear(read) for linear, read in zip(self.maps, reads, strict=True)], dim=-1)


def _between_strangers(counts: Counts, inputs: int, outputs: int) -> BlockLinear:
    """The map of the network's features that is left to "sab": between tensors that share no space.

    And from each matrix to itself, by way of what is pooled over both its axes.
    """
    spaces: list[set[int]] = []
    numbers: list[int] = []
    for s in counts.spaces:
        spaces += [{s}, *([{s - 1, s}] if s > 0 else [])]
        numbers += [sum(counts.own[s]), *([1] if s > 0 else [])]
    spaces.append(set())
    numbers.append(counts.outputs)
    tensors = range(len(spaces))
    reads = [[s for s in tensors if not spaces[s] & spaces[t] or (s == t and len(spaces[t]) == 2)] for t in tensors]
    return BlockLinear([n * inputs for n in numbers], [n * outputs for n in numbers], reads)


class SetAttention(nn.Module):
    """Attention among the neurons of a space, one block ("SAB") for each pair of the tensors that touch it.

    A block adds to its queries what they attend to, and to that a linear map and a ReLU of it. Only from a matrix
    to itself the map is linear, without attention, as published.

    Args:
        sizes: Channels of each incoming tensor.
        outputs: Channels of each outgoing tensor.
        linear: Which tensors are matrices that read or write the space.
        heads: Number of heads.
    """

    def __init__(self, sizes: list[int], outputs: list[int], linear: list[int], heads: int) -> None:
        super().__init__()
        self.sizes, self.outputs, self.heads = sizes, outputs, heads
        tensors = range(len(sizes))
        self.sources = [[s for s in tensors if s != t or t not in linear] for t in tensors]
        # Of each source: queries, keys and values for each target, in one product.
        self.targets = [[t for t in tensors if s in self.sources[t]] for s in tensors]
        self.projections = nn.ModuleList(
            [nn.Linear(sizes[s], 3 * sum(outputs[t] for t in self.targets[s])) for s in tensors]
        )
        self.itself = nn.ModuleDict({str(t): nn.Linear(sizes[t], outputs[t], bias=False) for t in linear})
        # Of each target: the last map of the block from each source.
        self.mixes = nn.ParameterList()
        self.mix_biases = nn.ParameterList()
        for sources, out in zip(self.sources, outputs, strict=True):
            bound = 1 / math.sqrt(out)  # as in nn.Linear
            self.mixes.append(nn.Parameter(torch.empty(len(sources), out, out).uniform_(-bound, bound)))
            self.mix_biases.append(nn.Parameter(torch.empty(len(sources), 1, out).uniform_(-bound, bound)))

    def forward(self, neurons: Tensor) -> Tensor:
        """Maps ``(batch, size, channels)``."""
        parts = neurons.split(self.sizes, dim=-1)
        projected: dict[tuple[int, int], Tensor] = {}
        for source, targets in enumerate(self.targets):
            of_targets = self.projections[source](parts[source]).split([3 * self.outputs[t] for t in targets], dim=-1)
            projected |= {(source, target): values for target, values in zip(targets, of_targets, strict=True)}
        results = []
        for target, sources in enumerate(self.sources):
            # (sources, batch, size, 3, heads, channels of a head) to three (sources, batch, heads, size, channels).
            values = torch.stack([projected[source, target] for source in sources])
            q, k, v = values.unflatten(-1, (3, self.heads, -1)).movedim(2, -2).unbind(2)
            # As published, scores are scaled by the whole width, not by that of a head.
            weights = (q @ k.mT / math.sqrt(self.outputs[target])).softmax(-1)
            attended = (q + weights @ v).transpose(2, 3).flatten(3)
            mixed = torch.baddbmm(self.mix_biases[target], attended.flatten(1, 2), self.mixes[target])
            result = (attended + mixed.relu().view_as(attended)).sum(0)
            if str(target) in self.itself:
                result = result + self.itself[str(target)](parts[target])
            results.append(result)
        return torch.cat(results, dim=-1)


class EquivariantLayer(nn.Module):
    """The affine maps between features that commute with all permutations of hidden neurons.

    Args:
        counts: Of the architecture.
        inputs: Channels of the incoming features.
        outputs: Channels of the outgoing features.
        reduction: How values are pooled.
        batch_norm: Whether the pooled features are batch-normalised.
        set_layer: What happens among the tensors that touch a space: "ds" for affine maps (deep sets); "sab" for
            attention among its neurons, which replaces these maps at the neurons and at the network.
        heads: Of the attention; they divide ``outputs``.
    """

    def __init__(
        self,
        counts: Counts,
        inputs: int,
        outputs: int,
        reduction: Reduction,
        batch_norm: bool,
        set_layer: SetLayer = "ds",
        heads: int = 1,
    ) -> None:
        super().__init__()
        self.set_layer, self.scale = set_layer, 1.0  # of the outputs
        self.pool = Pool(counts, inputs, reduction, batch_norm)
        self.pair_maps = nn.ModuleList([nn.Linear(inputs, outputs, bias=False) for _ in counts.pairs])
        touching = [counts.touching(s) for s in counts.spaces]
        at_neurons: list[nn.Module] = []
        for own, tensors in zip(counts.own, touching, strict=True):
            sizes, outs = [n * inputs for n in tensors], [n * outputs for n in tensors]
            if set_layer == "ds":
                at_neurons.append(nn.Linear(sum(sizes), sum(outs), bias=False))
            else:
                at_neurons.append(SetAttention(sizes, outs, list(range(len(own), len(tensors))), heads))
        self.neuron_maps = nn.ModuleList(at_neurons)
        self.network_map: nn.Module
        if set_layer == "ds":
            self.network_map = nn.Linear(sum(counts.network) * inputs, sum(counts.network) * outputs)
        else:
            self.network_map = _between_strangers(counts, inputs, outputs)
        # How results are told apart: those of the network by space, those of neurons by where they go.
        self.of_network = [*(sum(counts.upward(s)) * outputs for s in counts.spaces), counts.outputs * outputs]
        self.of_neurons = [
            [sum(own) * outputs, *[outputs] * (len(tensors) - len(own))]
            for own, tensors in zip(counts.own, touching, strict=True)
        ]

    def forward(self, features: Features) -> Features:
        pooled, network = self.pool(features)
        *constants, network = (self.network_map(network) * self.scale).split(self.of_network, dim=-1)
        neurons, written, read = [], [], []
        for space, (values, constant, sizes) in enumerate(zip(pooled, constants, self.of_neurons, strict=True)):
            result = self.neuron_maps[space](values) * self.scale
            # From the network to a matrix the way leads through the neurons that it writes, not those it reads.
            result = result + F.pad(constant, (0, result.shape[-1] - constant.shape[-1])).unsqueeze(1)
            own, *to_matrices = result.split(sizes, dim=-1)
            neurons.append(own)
            if space > 0:
                written.append(to_matrices.pop(0).unsqueeze(2))
            if to_matrices:
                read.append(to_matrices.pop().unsqueeze(1))
        pairs = [
            F.linear(pair, linear.weight * self.scale).add_(w).add_(r)
            for linear, pair, w, r in zip(self.pair_maps, features.pairs, written, read, strict=True)
        ]
        return Features(tuple(pairs), tuple(neurons), network)


class DWS(NetworkClassifier):
    """Equivariant layers with ReLUs, an invariant pooling, one linear layer.

    Args:
        architecture: Of the networks to classify.
        classes: Number of classes.
        hidden: Channels of the features.
        layers: Number of equivariant layers.
        reduction: How values are pooled: "max" as published, "mean", "sum", or "attn" for a learned average.
        batch_norm: Whether the pooled features are batch-normalised.
        set_layer: What happens among the tensors at a hidden space: "ds" or "sab", see ``EquivariantLayer``.
        heads: Of the attention of "sab"; the last layer has one, as published.
        init: Initial weights: torch's, or "published": see ``published_init.py``.

    Raises:
        ValueError: If the networks are no chains of linear layers with biases, or for a number below 1, an unknown
            option, or heads that do not divide ``hidden``.
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
        set_layer: SetLayer = "ds",
        heads: int = 8,
        init: Init = "default",
    ) -> None:
        super().__init__(architecture)
        for name, value in {"classes": classes, "hidden": hidden, "layers": layers, "heads": heads}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, option, options in (
            ("reduction", reduction, Reduction),
            ("set_layer", set_layer, SetLayer),
            ("init", init, Init),
        ):
            if option not in get_args(options):
                raise ValueError(f"{name} must be one of {', '.join(get_args(options))}, got {option!r}")
        if set_layer == "sab" and hidden % heads:
            raise ValueError(f"heads must divide hidden, got {heads} heads for {hidden} channels; take another of both")
        counts = Counts.of(architecture)
        channels = [1, *[hidden] * layers]
        self.layers = nn.ModuleList(
            [
                EquivariantLayer(counts, ins, outs, reduction, batch_norm, set_layer, heads if i < layers - 1 else 1)
                for i, (ins, outs) in enumerate(itertools.pairwise(channels))
            ]
        )
        self.pool = Pool(counts, hidden, reduction, batch_norm, head=True)
        self.head = nn.Linear(sum(counts.network) * hidden, classes)
        if init == "published":
            from benchmarks.models.published_init import initialise

            initialise(self, counts, channels)

    def forward(self, element: WeightSpaceElement) -> Tensor:
        """Class scores ``(batch, classes)`` of a batch of networks."""
        self.check(element)
        tensors = tuple(self.normalised(element))
        features = features_of(WeightSpaceElement(element.architecture, tensors[0::2], tensors[1::2]))
        for layer in self.layers:
            features = layer(features).relu_()
        _, network = self.pool(features)
        return self.head(network)
