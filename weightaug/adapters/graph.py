"""Networks as dense graphs: neurons are nodes, weights are edges (neural graphs, relational transformer)."""

from __future__ import annotations

import torch
from torch import Tensor

from weightaug.adapters._checks import check_parameter, check_placement, finish
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["from_graph", "to_graph"]


def _layout(architecture: Architecture) -> list[slice]:
    """The nodes of each space, in the order of ``architecture.spaces``.

    Raises:
        ValueError: If the graph could not hold every parameter in a place of its own.
    """
    wiring = architecture.wiring
    edges: dict[tuple[int, int], str] = {}
    biases: dict[int, str] = {}
    for i, layer in enumerate(architecture.layers):
        if layer.kernel:
            raise ValueError(
                f"layer {layer.name!r}: dense graphs hold one number per edge, got a convolution with kernel "
                f"{layer.kernel}; use adapters.to_state_dicts"
            )
        pair = (wiring.reads[i], wiring.writes[i])
        if pair in edges:
            raise ValueError(
                f"layers {edges[pair]!r} and {layer.name!r} both go from {layer.reads!r} to {layer.writes!r}, so "
                "their weights would share edges; use adapters.to_state_dicts"
            )
        edges[pair] = layer.name
        if layer.bias and pair[1] in biases:
            raise ValueError(
                f"layers {biases[pair[1]]!r} and {layer.name!r} both have a bias on {layer.writes!r}, and a node "
                "holds one number; declare bias=False for one of them, and add its bias to the other's"
            )
        if layer.bias:
            biases[pair[1]] = layer.name
    nodes, start = [], 0
    for space in architecture.spaces:
        nodes.append(slice(start, start + space.size))
        start += space.size
    return nodes


def to_graph(element: WeightSpaceElement) -> tuple[Tensor, Tensor]:
    """Writes dense node and edge features.

    Nodes are the neurons of all spaces, in the order of ``architecture.spaces``. A node holds its bias (0 for
    inputs and neurons without), edge ``[i, j]`` the weight from node i to node j (0 where there is none).

    Returns:
        ``(nodes, edges)`` of shapes ``(*batch, N, 1)`` and ``(*batch, N, N, 1)``.

    Raises:
        ValueError: If two parameters would share a place, or a layer is a convolution.
    """
    architecture, batch = element.architecture, element.batch_shape
    layout = _layout(architecture)
    total = layout[-1].stop
    nodes = element.weights[0].new_zeros(*batch, total)
    edges = element.weights[0].new_zeros(*batch, total, total)
    for i, (weight, bias) in enumerate(zip(element.weights, element.biases, strict=True)):
        source, target = layout[architecture.wiring.reads[i]], layout[architecture.wiring.writes[i]]
        edges[..., source, target] = weight.mT
        if bias is not None:
            nodes[..., target] = bias
    return nodes.unsqueeze(-1), edges.unsqueeze(-1)


def from_graph(
    nodes: Tensor, edges: Tensor, architecture: Architecture, *, check_values: bool = True
) -> WeightSpaceElement:
    """Reads dense node and edge features: inverse of :func:`to_graph`, without copying.

    Args:
        nodes: ``(*batch, N, 1)``, the biases.
        edges: ``(*batch, N, N, 1)``, ``[i, j]`` from node i to node j.
        architecture: Which nodes and edges belong to which layer.
        check_values: Whether to refuse NaN and infinite values, and values on nodes and edges that the
            architecture does not have. Reading them makes a GPU wait.

    Returns:
        An element whose tensors are views of the given ones.

    Raises:
        ValueError: If the shapes do not fit, values would be lost, or the architecture is no such graph.
    """
    layout = _layout(architecture)
    total = layout[-1].stop
    batch = check_parameter("nodes", nodes, (total, 1), None, "(*batch, N, feature=1)")
    check_parameter("edges", edges, (total, total, 1), batch, "(*batch, N, N, feature=1)")
    check_placement("edges", edges, edges)
    check_placement("nodes", nodes, edges)
    wiring = architecture.wiring
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    unused_nodes = torch.ones(total, dtype=torch.bool, device=nodes.device)
    unused_edges = torch.ones(total, total, dtype=torch.bool, device=nodes.device)
    for i, layer in enumerate(architecture.layers):
        source, target = layout[wiring.reads[i]], layout[wiring.writes[i]]
        weights.append(edges[..., source, target, 0].mT)
        biases.append(nodes[..., target, 0] if layer.bias else None)
        unused_edges[source, target] = False
        if layer.bias:
            unused_nodes[target] = False
    if check_values:
        _check_unused(nodes, unused_nodes, "nodes", "bias")
        _check_unused(edges, unused_edges, "edges", "weight")
    return finish(architecture, weights, biases, check_values)


def _check_unused(values: Tensor, unused: Tensor, name: str, parameter: str) -> None:
    lost = (values.squeeze(-1) != 0) & unused
    if bool(lost.any()):
        place = tuple(lost.nonzero()[0].tolist())
        raise ValueError(
            f"{name}: expected 0 where the architecture has no {parameter}, got {int(lost.sum())} other values, "
            f"first at {place}, which would be lost; check the architecture, or that edges are [source, target]"
        )
