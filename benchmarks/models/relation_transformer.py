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

On a CPU, training takes a written-out form of the two parts that work on edges (``edges_in_blocks.py``): some rows of
edges at a time, forward and backward. The modules below are what it has to compute, and what runs everywhere else.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models.classifier import NetworkClassifier
from benchmarks.models.edges_in_blocks import AttentionInBlocks, EdgeUpdateInBlocks
from benchmarks.models.graph_embedding import GraphEmbedding, Known, ProbeFeatures, Widths
from benchmarks.models.recomputing import recompute
from weightaug import Architecture, WeightSpaceElement


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
                AttentionInBlocks.apply(query, key, value, edges, self.of_edges.weight, self.heads, False)[0]
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
                seen, total = AttentionInBlocks.apply(query[:, rows], key[:, written], value[:, written], *arguments)
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
        return looking, EdgeUpdateInBlocks.apply(first, second, edges, *arguments)

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


class RelationTransformer(NetworkClassifier):
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
        super().__init__(architecture)
        if not architecture.is_chain or any(layer.kernel for layer in architecture.layers):
            raise ValueError(f"the Relation Transformer reads chains of linear layers (MLPs), got {architecture!r}")
        if layers < 1:
            raise ValueError(f"the Relation Transformer needs at least one layer, got {layers}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.checkpoint = checkpoint
        self.outputs = architecture.spaces[-1].size
        nodes = sum(space.size for space in architecture.spaces)
        edge_rows = [nodes] * (layers - 2) + [self.outputs] * (layers > 1) + [0]
        self.embedding = GraphEmbedding(architecture, widths, frequencies, sigma)
        self.probes: Any = ProbeFeatures(architecture, probes, widths.node) if probes else None
        self.layers = nn.ModuleList([RelationLayer(widths, rows, dropout) for rows in edge_rows])
        self.head = nn.Sequential(nn.Linear(self.outputs * widths.node, head), nn.ReLU(), nn.Linear(head, classes))
        # The widest tensors of one network, in numbers; see _pieces.
        self.footprint = nodes**2 * widths.attention

    def forward(self, element: WeightSpaceElement) -> Tensor:
        """Class scores ``(batch, classes)`` of a batch of networks.

        Raises:
            ValueError: If the networks are of another architecture, or have not one batch dimension.
        """
        self.check(element)
        states = [self._output_states(piece) for piece in self._pieces(element)]
        return self.head(torch.cat(states).flatten(1))

    def embed(self, element: WeightSpaceElement) -> tuple[Tensor, Tensor, Known]:
        """States of all nodes and edges before the first layer, and what the edges are made of."""
        weights, biases = self._of_nodes_and_edges(element)
        probed = self.probes(element) if self.probes is not None else biases.new_zeros(())
        if self._in_blocks(biases):
            nodes, none, *layers = self.embedding(biases, probed, *weights, in_blocks=True)
        else:
            nodes, none, *layers = self._call(self.embedding, biases, probed, *weights)
        known = Known(none, layers, self.embedding.nodes_of_space)
        return nodes, known.edges(), known

    def _output_states(self, element: WeightSpaceElement) -> Tensor:
        nodes, edges, known = self.embed(element)
        in_blocks = self._in_blocks(edges)
        layers: Any = self.layers
        for index, layer in enumerate(layers):
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

    def _call(self, module: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
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

    def _of_nodes_and_edges(self, element: WeightSpaceElement) -> tuple[list[Tensor], Tensor]:
        """The normalised weights, and the biases of all nodes, zero where there is none."""
        tensors = iter(self.normalised(element))
        first = element.weights[0]
        weights, biases = [], [first.new_zeros(*element.batch_shape, first.shape[-1])]
        for layer, weight in zip(self.architecture.layers, element.weights, strict=True):
            weights.append(next(tensors))
            biases.append(next(tensors) if layer.bias else weight.new_zeros(weight.shape[:-1]))
        return weights, torch.cat(biases, dim=-1)
