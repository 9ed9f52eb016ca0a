"""Attention and edge updates in blocks, with a backward pass of their own: they are the plain modules."""

from __future__ import annotations

import pytest
import torch

from benchmarks.models import edges_in_blocks
from benchmarks.models.relation_transformer import RelationLayer
from tests.test_benchmark_relation_transformer import WIDTHS


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("edge_rows", [14, 2, 0])
@pytest.mark.parametrize("rows", [1, 5, 14, 40])  # of a block: one row, a part, a whole network, more than one
def test_a_layer_in_blocks_is_the_layer(monkeypatch, rows, edge_rows, dropout):
    monkeypatch.setattr(edges_in_blocks, "PAIRS", 14 * rows)
    torch.manual_seed(0)
    layer = RelationLayer(WIDTHS, edge_rows, dropout).double()
    with torch.no_grad():  # biases and norms start at zero and one, where a mistake would not show
        for p in layer.parameters():
            p += 0.1 * torch.randn_like(p)
    looking = 14 if edge_rows else 2
    nodes, edges = torch.randn(3, 14, 12).double(), torch.randn(3, looking, 14, 8).double()
    kept = layer.sample(nodes, edges) if dropout else ()
    leaves = [nodes.requires_grad_(), edges.requires_grad_(), *layer.parameters()]
    results = []
    for in_blocks in (False, True):
        outputs = layer(nodes, edges, *kept, in_blocks=in_blocks)
        loss = sum((output * torch.cos(torch.arange(output.numel()).view_as(output))).sum() for output in outputs)
        results.append((outputs, torch.autograd.grad(loss, leaves)))
    for plain, block in zip(*results, strict=True):
        torch.testing.assert_close(block, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("networks", [1, 3, 64])
@pytest.mark.parametrize("rows", [0, 1, 7, 67])
@pytest.mark.parametrize("seen", [0, 1, 67, 5000])
def test_blocks_cover_every_row_once_and_stay_in_bounds(networks, rows, seen):
    blocks = edges_in_blocks._blocks(networks, rows, seen)
    covered = torch.zeros(networks, rows, dtype=torch.int64)
    for some_networks, some_rows in blocks:
        covered[some_networks, some_rows] += 1
        count = (some_networks.stop - some_networks.start) * (some_rows.stop - some_rows.start)
        assert count * seen <= max(edges_in_blocks.PAIRS, seen)  # one row at least
    assert bool((covered == 1).all())
