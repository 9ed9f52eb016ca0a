"""Random Fourier features and the map behind them, written out for a CPU: block by block, forward and backward.

What it has to compute is said by ``FourierEmbedding``. The features of a number are 256 times as large as the number
with 128 frequencies; here they never leave the cache: some numbers at a time go through all steps, and the backward
pass makes their features again. A cell of the study's Relation Transformer takes some 370 seconds of one core with it
and took 600 without (``processor_seconds`` in the files of its results); sines, cosines and copies of what no longer
fits into the cache were the most of that.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["NUMBERS", "FourierInBlocks"]

NUMBERS = 512  # in a block: of 128 frequencies, features of half a megabyte


class FourierInBlocks(torch.autograd.Function):
    """``linear(cat(sin, cos))`` of the phases of numbers ``(N,)``: ``(N, channels)``, keeping the numbers only."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, frequencies: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(values, frequencies, weight)
        result = values.new_empty(len(values), len(weight))
        features = FourierInBlocks.memory(values, frequencies)
        for first in range(0, len(values), NUMBERS):
            block = slice(first, first + NUMBERS)
            torch.addmm(
                bias, FourierInBlocks.features(values[block], frequencies, features), weight.mT, out=result[block]
            )
        return result

    @staticmethod
    def memory(values: Tensor, frequencies: Tensor) -> Tensor:
        """Room for the phases and the features of a block."""
        return values.new_empty(3, min(len(values), NUMBERS), len(frequencies))

    @staticmethod
    def features(values: Tensor, frequencies: Tensor, memory: Tensor) -> Tensor:
        """Sines and cosines of some numbers, side by side."""
        count, width = len(values), len(frequencies)
        phases = torch.outer(2 * math.pi * values, frequencies, out=memory[0, :count])
        side_by_side = memory[1:].view(-1, 2 * width)[:count]
        torch.sin(phases, out=side_by_side[:, :width])
        torch.cos(phases, out=side_by_side[:, width:])
        return side_by_side

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, frequencies, weight = ctx.saved_tensors
        memory, width = FourierInBlocks.memory(values, frequencies), len(frequencies)
        d_weight = torch.zeros_like(weight)
        d_values = torch.empty_like(values) if ctx.needs_input_grad[0] else None
        for first in range(0, len(values), NUMBERS):
            block = slice(first, first + NUMBERS)
            features, g = FourierInBlocks.features(values[block], frequencies, memory), gradient[block]
            d_weight.addmm_(g.mT, features)
            if d_values is not None:
                d_sine, d_cosine = (g @ weight).chunk(2, -1)
                d_phases = d_sine * features[:, width:] - d_cosine * features[:, :width]
                d_values[block] = 2 * math.pi * (d_phases @ frequencies)
        return d_values, None, d_weight, gradient.sum(0)
