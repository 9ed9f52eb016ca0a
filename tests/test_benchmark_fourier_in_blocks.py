"""Fourier features block by block: what the module computes, forward and backward."""

from __future__ import annotations

import pytest
import torch

from benchmarks.models import fourier_in_blocks
from benchmarks.models.graph_embedding import FourierEmbedding


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0, 3)])
def test_features_in_blocks_are_those_of_the_module(monkeypatch, shape):
    monkeypatch.setattr(fourier_in_blocks, "NUMBERS", 7)  # several blocks, the last of them smaller
    torch.manual_seed(0)
    module = FourierEmbedding(6, 3, 1.0).double()
    found = []
    for in_blocks in (False, True):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
        result = module(values, in_blocks)
        assert result.shape == (*shape, 3)
        weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        found.append((result, *torch.autograd.grad((result * weights).sum(), [values, *module.parameters()])))
    for mine, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def test_numbers_without_a_gradient_get_none():
    module = FourierEmbedding(4, 2, 1.0)
    module(torch.randn(9), in_blocks=True).sum().backward()
    assert module.linear.weight.grad is not None
    assert module.frequencies.grad is None
