"""The Relation Transformer: a classifier that reads a network as a graph (Zhang et al. 2023, neural graphs).

Neurons are nodes and hold their bias; every ordered pair of neurons has an edge, which holds the weight from
the first to the second, or nothing. A layer is attention of all nodes to all nodes in which the edge takes
part in query, key and value, then an update of each edge from its reverse and both of its ends. Hidden
neurons carry nothing but the name of their space, so their order cannot be seen.

Edges are N x N times as wide as anything else here, so they decide time and memory. Five things follow, and
none of them changes the result:

* The part of the value that is linear in the edge is projected after the weighted sum, not before.
* The scores are read at the output neurons: the last layer computes only those, and the layer before it
  updates only the edges that they look at.
* Before the first layer, three of four pairs are alike, because they have no weight: that layer's attention
  projects only the others (:meth:`RelationalAttention.of_known`).
* A layer keeps its inputs for the backward pass and makes the rest again (:func:`recompute`).
* Large batches go through in pieces that the cache holds.

On a CPU, training takes a written-out form of the two parts that work on edges (:class:`_AttentionInBlocks`,
:class:`_EdgeUpdateInBlocks`): some rows of edges at a time, forward and backward. The modules below are what it
has to compute, and what runs everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


# -- recomputation -----------------------------------------------------------------------------------


class _Recompute(torch.autograd.Function):
    """Evaluates a pure function and keeps its inputs only; torch.utils.checkpoint does not work in torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        return function(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.function, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = list(ctx.saved_tensors)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]

        def of_wanted(*some: Tensor) -> tuple[Tensor, ...]:
            for i, tensor in zip(wanted, some, strict=True):
                inputs[i] = tensor
            return ctx.function(*inputs)

        if torch._C._are_functorch_transforms_active():
            _, pull_back = torch.func.vjp(of_wanted, *(inputs[i] for i in wanted))
            found = pull_back(gradients)
        else:  # vjp prepares for second derivatives, which takes twice the time
            with torch.enable_grad():
                leaves = [inputs[i].detach().requires_grad_() for i in wanted]
                outputs = of_wanted(*leaves)
            found = torch.autograd.grad(outputs, leaves, gradients, allow_unused=True)
        by_index = dict(zip(wanted, found, strict=True))
        return None, *(by_index.get(i) for i in range(len(inputs)))


def recompute(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Calls a module whose inner results are made again in the backward pass.

    Args:
        module: Maps tensors to a tuple of tensors, without side effects or randomness.
        inputs: Its arguments.

    Returns:
        What ``module(*inputs)`` returns.
    """
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    kind = inputs[0].device.type
    # The backward pass runs outside the caller's autocast, and must not compute something else.
    autocast = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        arguments, values = tensors[: len(inputs)], tensors[len(inputs) :]
        with torch.autocast(kind, **autocast):
            return torch.func.functional_call(module, dict(zip(state, values, strict=True)), arguments)

    return _Recompute.apply(function, *inputs, *state.values())


# -- the work on edges, block by block ---------------------------------------------------------------

# Pairs of nodes in a block: half a network 2-32-32-1. Temporary tensors of a block are up to 3 x attention channels
# wide. Blocks of half that size take longer, of twice that about as long.
PAIRS = 34 * 67


def _blocks(networks: int, rows: int, seen: int) -> list[tuple[slice, slice]]:
    """Divides rows of edges (a row is all that one node looks at) into blocks: some of a network, or all of some."""
    most = max(PAIRS // max(seen, 1), 1)
    some_networks = max(1, most // max(rows, 1))
    some_rows = max(1, math.ceil(rows / math.ceil(rows / most))) if rows else 1  # of even size
    return [
        (slice(first, min(first + some_networks, networks)), slice(start, min(start + some_rows, rows)))
        for first in range(0, networks, some_networks)
        for start in range(0, rows, some_rows)
    ]


def _largest(blocks: list[tuple[slice, slice]]) -> int:
    """Rows of the largest block."""
    return max((n.stop - n.start) * (r.stop - r.start) for n, r in blocks) if blocks else 0


class _AttentionInBlocks(torch.autograd.Function):
    """:meth:`RelationalAttention.weigh`, keeping its inputs and the weights of the attention only.

    Channels come last here, so that queries, keys and values are added in long runs. Sums over the channels of
    a head are products with ``shared``, ``(heads, channels)``: 1 where a channel belongs to a head.

    With ``joined``, it also returns the logarithms of the sums of the exponential scores, ``(batch, looking, heads)``,
    with which this attention and one to other nodes can be joined.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, edges: Tensor, weight: Tensor, heads: int, joined: bool
    ) -> tuple[Tensor, Tensor | None]:
        networks, rows, seen, width = *edges.shape[:3], query.shape[-1]
        of_pair, to_value = weight[: 3 * width], weight[3 * width :].unflatten(0, (heads, -1))
        shared = torch.eye(heads).to(edges).repeat_interleave(width // heads, 1)
        sums = shared * width**-0.5
        result = torch.empty_like(query)
        attention = edges.new_empty(networks, rows, heads, seen)
        # The widest tensors of all blocks share memory, which then stays in the cache.
        blocks = _blocks(networks, rows, seen)
        memory = edges.new_empty(_largest(blocks) * seen, 3 * width)
        total = edges.new_empty(networks, rows, heads) if joined else None
        for block in blocks:
            of_block = edges[block].flatten(0, 1)
            q, k, m = _AttentionInBlocks.project(query, key, edges, of_pair, block, memory)
            products = q.mul_(k).flatten(0, 1)
            scores = sums.expand(len(products), -1, -1) @ products.mT
            weights = scores.softmax(-1)
            if total is not None:
                total[block] = scores.logsumexp(-1).unflatten(0, q.shape[:2])
            m.mul_(value[block[0], None])
            # Every head's weights times the values of all heads; each head's own are on the diagonal.
            of_heads = (weights @ m.flatten(0, 1)).unflatten(-1, (heads, -1)).diagonal(dim1=1, dim2=2).mT
            summed = (weights @ of_block).transpose(0, 1)
            of_heads = of_heads + (summed @ to_value.mT).transpose(0, 1)
            result[block] = of_heads.reshape(q.shape[:2] + (width,))
            attention[block] = weights.unflatten(0, q.shape[:2])
        ctx.heads = heads
        ctx.save_for_backward(query, key, value, edges, weight, attention, shared)
        return result, total

    @staticmethod
    def project(
        query: Tensor, key: Tensor, edges: Tensor, of_pair: Tensor, block: tuple[slice, slice], memory: Tensor
    ) -> tuple[Tensor, ...]:
        """Queries, keys and factors of the pairs of a block, as slices of one tensor."""
        pairs = edges[block]
        of_pairs = pairs.flatten(0, 2)
        projected = torch.mm(of_pairs, of_pair.mT, out=memory[: len(of_pairs)])
        q, k, m = projected.view(*pairs.shape[:3], -1).chunk(3, -1)
        return q.add_(query[block].unsqueeze(2)), k.add_(key[block[0], None]), m

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, d_total: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, value, edges, weight, attention, shared = ctx.saved_tensors
        heads, width = ctx.heads, query.shape[-1]
        sums = shared * width**-0.5
        of_pair, to_value = weight[: 3 * width], weight[3 * width :].unflatten(0, (heads, -1))
        d_query, d_edges = torch.empty_like(query), torch.empty_like(edges)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        d_pair, d_to_value = weight.new_zeros(weight.shape[1], 3 * width), torch.zeros_like(to_value)
        blocks = _blocks(*edges.shape[:3])
        memory, memory_of_d = edges.new_empty(2, _largest(blocks) * edges.shape[2], 3 * width)
        for block in blocks:
            pairs, v = edges[block], value[block[0], None]
            of_block, weights = pairs.flatten(0, 1), attention[block].flatten(0, 1)
            g = gradient[block].flatten(0, 1)
            q, k, m = _AttentionInBlocks.project(query, key, edges, of_pair, block, memory)
            d = memory_of_d[: pairs.shape[:3].numel()].view(*pairs.shape[:3], -1)
            d_q, d_k, d_m = d.chunk(3, -1)

            # Through the sums over nodes, of values and, per head, of edges.
            by_head = g.unsqueeze(1) * shared
            of_head = g.unflatten(-1, (heads, -1)).transpose(0, 1)
            d_summed = (of_head @ to_value).transpose(0, 1)
            d_to_value += of_head.mT @ (weights @ of_block).transpose(0, 1)
            d_values = (weights.mT @ by_head).view_as(d_m)
            d_weights = torch.baddbmm(by_head @ (m * v).flatten(0, 1).mT, d_summed, of_block.mT)
            torch.mul(d_values, v, out=d_m)
            d_value[block[0]] += d_values.mul_(m).sum(1)

            # Through the softmax and the scores.
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            if d_total is not None:
                d_scores.addcmul_(weights, d_total[block].flatten(0, 1).unsqueeze(-1))
            d_products = (d_scores.mT @ sums.expand(len(g), -1, -1)).view_as(d_m)
            torch.mul(d_products, k, out=d_q)
            torch.mul(d_products, q, out=d_k)
            d_query[block] = d_q.sum(2)
            d_key[block[0]] += d_k.sum(1)

            # Through the projections.
            d = d.flatten(0, 2)
            d_pair.addmm_(pairs.flatten(0, 2).mT, d)  # MKL is faster with the wide matrix last
            # Straight into the result, which is contiguous for a block.
            of_edges = torch.mm(d, of_pair, out=d_edges[block].view(len(d), -1)).view_as(of_block)
            of_edges.baddbmm_(weights.mT, d_summed)
        d_weight = torch.cat([d_pair.mT, d_to_value.flatten(0, 1)])
        return d_query, d_key, d_value, d_edges, d_weight, None, None


class _EdgeUpdateInBlocks(torch.autograd.Function):
    """:meth:`RelationLayer.update_edges`, keeping its inputs only."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, edges: Tensor, *others: Tensor | float) -> Tensor:
        share, relation_kept, update_kept, *parameters = others
        kept = first, second, edges, relation_kept, update_kept, *parameters
        ctx.share = share
        ctx.save_for_backward(*kept)
        result = torch.empty_like(edges[:, edges.shape[1] - first.shape[1] :])
        for block in _blocks(*result.shape[:3]):
            updated = _EdgeUpdateInBlocks.steps(*kept, share=share, block=block)[-1]
            result[block] = updated.view_as(result[block])
        return result

    @staticmethod
    def steps(
        first: Tensor,
        second: Tensor,
        edges: Tensor,
        relation_kept: Tensor | None,
        update_kept: Tensor | None,
        *parameters: Tensor,
        share: float,
        block: tuple[slice, slice],
    ) -> tuple[Any, ...]:
        """What is computed on the way to the edges of a block, each ``(pairs, channels)``."""
        from_edges, out, out_bias, norm, norm_bias, inner, outer, outer_bias, norm2, norm2_bias = parameters
        networks, rows = block
        channels = edges.shape[-1:]
        skipped = edges.shape[1] - first.shape[1]
        absolute = slice(rows.start + skipped, rows.stop + skipped)
        pairs = edges[networks, absolute].flatten(0, 2)
        reverse = edges[networks, :, absolute].transpose(1, 2).flatten(0, 2)
        to_hidden, reverse_to_hidden = from_edges.chunk(2, 1)

        def branch(values: Tensor, kept: Tensor | None) -> Tensor:
            return values if kept is None else values.mul_(kept[block].flatten(0, 2)).div_(1 - share)

        hidden = (first[block].unsqueeze(2) + second[networks, None]).flatten(0, 2)
        hidden.addmm_(pairs, to_hidden.mT).addmm_(reverse, reverse_to_hidden.mT)
        active = F.gelu(hidden)
        related = branch(torch.addmm(out_bias, active, out.mT), relation_kept).add_(pairs)
        middle, *moments = torch.native_layer_norm(related, channels, norm, norm_bias, 1e-5)
        hidden2 = middle @ inner.mT
        active2 = F.gelu(hidden2)
        summed = branch(torch.addmm(outer_bias, active2, outer.mT), update_kept).add_(middle)
        updated, *moments2 = torch.native_layer_norm(summed, channels, norm2, norm2_bias, 1e-5)
        return (
            (pairs, reverse, hidden, active, related, moments),
            (middle, hidden2, active2, summed, moments2),
            updated,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        first, second, edges, relation_kept, update_kept, *parameters = ctx.saved_tensors
        from_edges, out, _, norm, norm_bias, inner, outer, _, norm2, norm2_bias = parameters
        sums = [torch.zeros_like(p) for p in parameters]
        d_first, d_second, d_edges = torch.empty_like(first), torch.zeros_like(second), torch.zeros_like(edges)
        skipped, channels, width = edges.shape[1] - first.shape[1], edges.shape[-1:], edges.shape[-1]
        backward_of_norm = torch.ops.aten.native_layer_norm_backward

        def of_branch(values: Tensor, kept: Tensor | None) -> Tensor:
            return values if kept is None else (values * kept[block].flatten(0, 2)).div_(1 - ctx.share)

        for block in _blocks(*first.shape[:2], edges.shape[2]):
            lower, upper, _ = _EdgeUpdateInBlocks.steps(*ctx.saved_tensors, share=ctx.share, block=block)
            pairs, reverse, hidden, active, related, moments = lower
            middle, hidden2, active2, summed, moments2 = upper
            networks, rows = block
            absolute = slice(rows.start + skipped, rows.stop + skipped)

            g = gradient[block].flatten(0, 2)
            d, *of_norm2 = backward_of_norm(g, summed, channels, *moments2, norm2, norm2_bias, [True] * 3)
            d_branch = of_branch(d, update_kept)
            d_hidden2 = torch.ops.aten.gelu_backward(d_branch @ outer, hidden2)
            of_upper = (d_hidden2.mT @ middle, d_branch.mT @ active2, d_branch.sum(0), *of_norm2)
            d = torch.addmm(d, d_hidden2, inner)
            d, *of_norm = backward_of_norm(d, related, channels, *moments, norm, norm_bias, [True] * 3)
            d_branch = of_branch(d, relation_kept)
            d_hidden = torch.ops.aten.gelu_backward(d_branch @ out, hidden)
            of_lower = (d_branch.mT @ active, d_branch.sum(0), *of_norm)
            sums[0][:, :width].addmm_(d_hidden.mT, pairs)
            sums[0][:, width:].addmm_(d_hidden.mT, reverse)
            for total, part in zip(sums[1:], of_lower + of_upper, strict=True):
                total += part

            of_block = edges[networks, absolute]
            d_edges[networks, absolute] += torch.addmm(d, d_hidden, from_edges[:, :width]).view_as(of_block)
            d_reverse = (d_hidden @ from_edges[:, width:]).view_as(of_block)
            d_edges[networks, :, absolute] += d_reverse.transpose(1, 2)
            d_hidden = d_hidden.unflatten(0, of_block.shape[:3])
            d_first[block] = d_hidden.sum(2)
            d_second[networks] += d_hidden.sum(1)
        return d_first, d_second, d_edges, None, None, None, *sums


# -- from weights and biases to nodes and edges ------------------------------------------------------


class FourierEmbedding(nn.Module):
    """Random Fourier features of single numbers, then a linear map.

    Args:
        frequencies: Number of random frequencies; each gives a sine and a cosine.
        channels: Channels of the result.
        sigma: Standard deviation of the frequencies.
    """

    def __init__(self, frequencies: int, channels: int, sigma: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(frequencies) * sigma)
        self.linear = nn.Linear(2 * frequencies, channels)

    def forward(self, values: Tensor) -> Tensor:
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
        self.register_buffer("position_of_node", own.repeat_interleave(torch.tensor(repeats)), persistent=False)
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.nodes_of_space = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def forward(self, biases: Tensor, probed: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        """Embeds a batch. A pair without a weight looks like a weight of zero: all such pairs have one state.

        Args:
            biases: ``(batch, nodes)``, zero for neurons without.
            probed: Added to the embedded biases: ``(batch, nodes, node channels)``, or a zero.
            weights: Of every layer, ``(batch, written, read)``.

        Returns:
            The states of the nodes, ``(batch, nodes, node channels)``, of pairs without a weight, ``(edge channels,)``,
            and of the edges of every layer, ``(batch, read, written, edge channels)``.
        """
        nodes = self.node_linear(self.bias_embedding(biases) + probed) + self.positions[self.position_of_node]
        none = self.edge_linear(self.weight_embedding(biases.new_zeros(())))
        return nodes, none, *(self.edge_linear(self.weight_embedding(weight.mT)) for weight in weights)


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


# -- one layer ---------------------------------------------------------------------------------------


class RelationalAttention(nn.Module):
    """Attention in which the edge changes query, key and value.

    Node i looks at node j, with states n and the state e of the edge from i to j. Per head::

        score = (Q n_i + Q' e) . (K n_j + K' e) / sqrt(channels of all heads)
        value = (M e) * (V n_j) + V' e

    Args:
        widths: Of the layer.

    Raises:
        ValueError: If the channels cannot be shared out among the heads.
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.heads, width = widths.heads, widths.attention
        if self.heads < 1 or width % self.heads:
            raise ValueError(f"{width} channels of attention cannot be divided among {self.heads} heads")
        self.of_nodes = nn.Linear(widths.node, 3 * width, bias=False)  # Q, K, V
        self.of_edges = nn.Linear(widths.edge, 4 * width, bias=False)  # Q', K', M, V'
        self.out = nn.Linear(width, widths.node)

    def forward(self, nodes: Tensor, edges: Tensor, in_blocks: bool = False) -> Tensor:
        """Lets the last nodes look at all nodes.

        Args:
            nodes: ``(batch, nodes, channels)``.
            edges: ``(batch, looking, nodes, channels)``, those of the last nodes.
            in_blocks: Whether to take the written-out form.

        Returns:
            ``(batch, looking, channels)``.
        """
        looking, seen = edges.shape[1:3]
        query, key, value = self.of_nodes(nodes).chunk(3, -1)
        query = query[:, seen - looking :]
        if in_blocks:
            return self.out(
                _AttentionInBlocks.apply(query, key, value, edges, self.of_edges.weight, self.heads, False)[0]
            )
        return self.out(self.weigh(query, key, value, edges))

    def of_known(self, nodes: Tensor, known: Known) -> Tensor:
        """The same for all nodes before the first layer: only pairs with a weight, a quarter, are projected.

        All others have one state, so what it adds to queries, keys and values is a constant, and they see each other
        as in any attention. A node's two attentions are joined by the sums of their exponential scores.
        """
        query, key, value = self.of_nodes(nodes).chunk(3, -1)
        to_query, to_key, to_factor, to_value = self.of_edges.weight.chunk(4)
        other_key, other_value = key + to_key @ known.none, value * (to_factor @ known.none)

        def by_head(channels: Tensor) -> Tensor:
            return channels.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        results = []
        for space, rows in enumerate(known.spaces):
            others = [slice(0, key.shape[1])]
            if space < len(known.layers):
                written = known.spaces[space + 1]
                others = [slice(0, written.start), slice(written.stop, key.shape[1])]
            of_others = [by_head(torch.cat([t[:, o] for o in others], 1)) for t in (other_key, other_value)]
            scores = by_head(query[:, rows] + to_query @ known.none) @ of_others[0].mT * query.shape[-1] ** -0.5
            result = (scores.softmax(-1) @ of_others[1]).transpose(1, 2)  # (batch, rows, heads, channels)
            result = result + (to_value @ known.none).unflatten(0, (self.heads, -1))
            if space < len(known.layers):
                arguments = known.layers[space], self.of_edges.weight, self.heads, True
                seen, total = _AttentionInBlocks.apply(query[:, rows], key[:, written], value[:, written], *arguments)
                share = (total - scores.logsumexp(-1).transpose(1, 2)).sigmoid().unsqueeze(-1)
                result = torch.lerp(result, seen.unflatten(-1, (self.heads, -1)), share)
            results.append(result.flatten(2))
        return self.out(torch.cat(results, 1))

    def weigh(self, query: Tensor, key: Tensor, value: Tensor, edges: Tensor) -> Tensor:
        """The weighted sums of the values, given what the nodes contribute: ``(batch, looking, all heads)``."""

        # Channels first, (channels, batch, i, j): each projection is one matrix product, and sums over
        # a head and broadcasts run along the long axes.
        def by_head(channels: Tensor) -> Tensor:
            return channels.unflatten(0, (self.heads, -1))

        # MKL takes four times as long for these products where the thin matrix is transposed in place.
        pairs = edges.flatten(0, 2).mT.contiguous()

        def project(weight: Tensor) -> Tensor:
            return by_head((weight @ pairs).unflatten(1, edges.shape[:3]))

        # No operation in place here: on the view of a product, autograd would copy the whole of it.
        query, key, value = (by_head(n.movedim(-1, 0)) for n in (query, key, value))
        query, key, value = query.unsqueeze(4), key.unsqueeze(3), value.unsqueeze(3)
        to_query, to_key, to_factor, to_value = self.of_edges.weight.chunk(4)
        scores = ((project(to_query) + query) * (project(to_key) + key)).sum(1)
        attention = (scores * self.out.in_features**-0.5).softmax(-1)
        result = (project(to_factor) * value * attention.unsqueeze(1)).sum(-1).flatten(0, 1)
        # V' commutes with the sum over nodes: first the edges are summed, per head, then the sums projected.
        summed = torch.einsum("hbij,bijc->hbic", attention, edges)
        result = result + torch.einsum("hdc,hbic->hdbi", by_head(to_value), summed).flatten(0, 1)
        return result.movedim(0, -1)


class RelationLayer(nn.Module):
    """Attention and an update of the nodes, then an update of the edges; norms after the residual sums.

    Args:
        widths: Of the layer.
        edge_rows: The edges of that many last nodes are updated; 0 for no edge update.
        dropout: Share of the entries of every residual branch that is set to zero, where noise is given.
    """

    def __init__(self, widths: Widths, edge_rows: int, dropout: float = 0.0) -> None:
        super().__init__()
        node, edge = widths.node, widths.edge
        self.edge_rows, self.dropout = edge_rows, dropout
        self.attention = RelationalAttention(widths)
        self.attention_out = nn.Linear(node, node)
        self.attention_norm = nn.LayerNorm(node)
        self.node_update = _perceptron(node, widths.node_hidden)
        self.node_norm = nn.LayerNorm(node)
        if edge_rows:
            hidden = widths.edge_hidden
            self.from_edges = nn.Linear(2 * edge, hidden)
            self.from_first = nn.Linear(node, hidden)
            self.from_second = nn.Linear(node, hidden)
            self.relation_out = nn.Sequential(nn.GELU(), nn.Linear(hidden, edge))
            self.relation_norm = nn.LayerNorm(edge)
            self.edge_update = _perceptron(edge, hidden)
            self.edge_norm = nn.LayerNorm(edge)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # as published
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def sample(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
        """Draws which entries of each residual branch dropout keeps, for :meth:`forward` on these arguments."""
        some_nodes = nodes[:, nodes.shape[1] - edges.shape[1] :]
        some_edges = edges[:, edges.shape[1] - self.edge_rows :]
        branches = [some_nodes] * 2 + [some_edges] * 2 * bool(self.edge_rows)
        return tuple(torch.rand_like(branch) >= self.dropout for branch in branches)

    def forward(
        self, nodes: Tensor, edges: Tensor, *kept: Tensor, in_blocks: bool = False, known: Known | None = None
    ) -> tuple[Tensor, ...]:
        """Updates nodes and edges.

        Args:
            nodes: ``(batch, nodes, channels)``.
            edges: ``(batch, looking, nodes, channels)``, those of the last nodes.
            kept: What dropout keeps: nothing for no dropout, or what :meth:`sample` drew. It is an argument
                because the backward pass, which computes the layer again, has to drop the same.
            in_blocks: Whether to take the written-out forms of what works on edges.
            known: Where the edges come from, in the first of several layers; used in blocks only.

        Returns:
            The states of the looking nodes and, if edges are updated, ``(batch, edge_rows, nodes, channels)``.
        """
        masks = iter(kept)
        rows, count = edges.shape[1:3]
        looking = nodes[:, count - rows :]
        if in_blocks and known is not None:
            attended = self.attention_out(self.attention.of_known(nodes, known))
        else:
            attended = self.attention_out(self.attention(nodes, edges, in_blocks))
        looking = self.attention_norm(looking + self._branch(attended, next(masks, None)))
        looking = self.node_norm(looking + self._branch(self.node_update(looking), next(masks, None)))
        if not self.edge_rows:
            return (looking,)

        # An edge can see both of its ends and its reverse only where all nodes were updated.
        assert rows == count, f"edges are updated from those of all {count} nodes, got {rows}"
        first = self.from_first(looking[:, count - self.edge_rows :]) + self.from_edges.bias
        second = self.from_second(looking)
        relation_kept, update_kept = next(masks, None), next(masks, None)
        if not in_blocks:
            return looking, self.update_edges(first, second, edges, relation_kept, update_kept)
        parameters = [p for module in (self.relation_out[1], self.relation_norm) for p in module.parameters()]
        parameters += [p for module in (self.edge_update, self.edge_norm) for p in module.parameters()]
        arguments = (self.dropout, relation_kept, update_kept, self.from_edges.weight, *parameters)
        return looking, _EdgeUpdateInBlocks.apply(first, second, edges, *arguments)

    def update_edges(
        self, first: Tensor, second: Tensor, edges: Tensor, relation_kept: Tensor | None, update_kept: Tensor | None
    ) -> Tensor:
        """The new states of the last edges, given what their first and second nodes contribute."""
        some = slice(edges.shape[1] - self.edge_rows, None)
        edges, reverse = edges[:, some], edges[:, :, some].transpose(1, 2)
        hidden = F.linear(torch.cat([edges, reverse], dim=-1), self.from_edges.weight)
        hidden = hidden + first.unsqueeze(2) + second.unsqueeze(1)
        edges = self.relation_norm(edges + self._branch(self.relation_out(hidden), relation_kept))
        return self.edge_norm(edges + self._branch(self.edge_update(edges), update_kept))

    def _branch(self, values: Tensor, kept: Tensor | None) -> Tensor:
        return values if kept is None else values * kept / (1 - self.dropout)


def _perceptron(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden, bias=False), nn.GELU(), nn.Linear(hidden, channels))


# -- the model ---------------------------------------------------------------------------------------


class RelationTransformer(nn.Module):
    """Relation layers on the graph of a network, then a perceptron on the states of its output neurons.

    The input is normalised with one mean and one deviation per tensor, which does not tell neurons apart.

    Args:
        architecture: Of the networks to classify: a chain of linear layers, with any activations.
        classes: Number of classes.
        layers: Number of relation layers.
        widths: Their sizes.
        head: Hidden units of the last perceptron.
        frequencies: Random frequencies with which every weight and bias is embedded.
        sigma: Standard deviation of these frequencies.
        probes: Learned inputs at which the networks are evaluated; their neurons' values join the nodes.
        dropout: Share of the entries of every residual branch that is set to zero in training.
        checkpoint: Whether layers are computed again in the backward pass, instead of kept.

    Raises:
        ValueError: If the architecture is no chain of linear layers, or there are no layers.
    """

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        *,
        layers: int = 4,
        widths: Widths = Widths(),  # noqa: B008 (immutable)
        head: int = 128,
        frequencies: int = 128,
        sigma: float = 1.0,
        probes: int = 0,
        dropout: float = 0.2,
        checkpoint: bool = True,
    ) -> None:
        super().__init__()
        if not architecture.is_chain or any(layer.kernel for layer in architecture.layers):
            raise ValueError(f"the Relation Transformer reads chains of linear layers (MLPs), got {architecture!r}")
        if layers < 1:
            raise ValueError(f"the Relation Transformer needs at least one layer, got {layers}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.architecture, self.checkpoint = architecture, checkpoint
        self.outputs = architecture.spaces[-1].size
        nodes = sum(space.size for space in architecture.spaces)
        edge_rows = [nodes] * (layers - 2) + [self.outputs] * (layers > 1) + [0]
        self.embedding = GraphEmbedding(architecture, widths, frequencies, sigma)
        self.probes = ProbeFeatures(architecture, probes, widths.node) if probes else None
        self.layers = nn.ModuleList([RelationLayer(widths, rows, dropout) for rows in edge_rows])
        self.head = nn.Sequential(nn.Linear(self.outputs * widths.node, head), nn.ReLU(), nn.Linear(head, classes))
        # The widest tensors of one network, in numbers; see _pieces.
        self.footprint = nodes**2 * widths.attention
        tensors = sum(1 + layer.bias for layer in architecture.layers)
        self.register_buffer("mean", torch.zeros(tensors))
        self.register_buffer("deviation", torch.ones(tensors))

    def set_statistics(self, training_set: WeightSpaceElement) -> None:
        """Takes the scalar mean and deviation of each tensor from the networks of the training set."""
        tensors = training_set.tensors()
        self.mean.copy_(torch.stack([t.mean() for t in tensors]))
        self.deviation.copy_(torch.stack([t.std() if t.numel() > 1 else t.new_ones(()) for t in tensors]))

    def forward(self, element: WeightSpaceElement) -> Tensor:
        """Class scores ``(batch, classes)`` of a batch of networks.

        Raises:
            ValueError: If the networks are of another architecture, or have not one batch dimension.
        """
        if element.architecture != self.architecture:
            raise ValueError(f"the model is for {self.architecture!r}, got {element.architecture!r}")
        if len(element.batch_shape) != 1:
            raise ValueError(f"expected networks of batch shape (batch,), got {tuple(element.batch_shape)}")
        states = [self._output_states(piece) for piece in self._pieces(element)]
        return self.head(torch.cat(states).flatten(1))

    def embed(self, element: WeightSpaceElement) -> tuple[Tensor, Tensor, Known]:
        """States of all nodes and edges before the first layer, and what the edges are made of."""
        weights, biases = self._normalise(element)
        probed = self.probes(element) if self.probes is not None else biases.new_zeros(())
        nodes, none, *layers = self._call(self.embedding, biases, probed, *weights)
        known = Known(none, layers, self.embedding.nodes_of_space)
        return nodes, known.edges(), known

    def _output_states(self, element: WeightSpaceElement) -> Tensor:
        nodes, edges, known = self.embed(element)
        in_blocks = self._in_blocks(edges)
        for index, layer in enumerate(self.layers):
            if not layer.edge_rows:
                edges = edges[:, edges.shape[1] - self.outputs :]
            kept = layer.sample(nodes, edges) if self.training and layer.dropout else ()
            if in_blocks:
                first = index == 0 and bool(layer.edge_rows)
                nodes, *updated = layer(nodes, edges, *kept, in_blocks=True, known=known if first else None)
            else:
                nodes, *updated = self._call(layer, nodes, edges, *kept)
            edges = updated[0] if updated else edges
        return nodes

    def _call(self, module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        return recompute(module, *inputs) if self.checkpoint and torch.is_grad_enabled() else module(*inputs)

    def _in_blocks(self, of_device: Tensor) -> bool:
        """Whether the written-out forms can be taken: they know nothing of autocast and torch.func."""
        plain = torch.is_autocast_enabled(of_device.device.type) or torch._C._are_functorch_transforms_active()
        return self.checkpoint and of_device.device.type == "cpu" and not plain

    def _pieces(self, element: WeightSpaceElement) -> list[WeightSpaceElement]:
        """Parts of the batch. On a CPU, smaller tensors stay in the cache and reuse memory of the last piece."""
        budget = 2**21 if element.device.type == "cpu" else 2**29
        if self._in_blocks(element.weights[0]):
            budget = 2**24  # blocks are small anyway
        size, count = max(1, budget // self.footprint), element.batch_shape[0]
        return [element[start : start + size] for start in range(0, max(count, 1), size)]

    def _normalise(self, element: WeightSpaceElement) -> tuple[list[Tensor], Tensor]:
        """The weights, and the biases of all nodes, zero where there is none."""
        tensors = iter(zip(element.tensors(), self.mean, self.deviation.clamp_min(1e-8), strict=True))
        first = element.weights[0]
        weights, biases = [], [first.new_zeros(*element.batch_shape, first.shape[-1])]
        for layer, weight in zip(self.architecture.layers, element.weights, strict=True):
            tensor, mean, deviation = next(tensors)
            weights.append((tensor - mean) / deviation)
            if layer.bias:
                tensor, mean, deviation = next(tensors)
                biases.append((tensor - mean) / deviation)
            else:
                biases.append(weight.new_zeros(weight.shape[:-1]))
        return weights, torch.cat(biases, dim=-1)
