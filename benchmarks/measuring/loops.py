"""The baseline of speed.py: every augmentation one network at a time, as existing weight-space code does it.

Each function takes the weights and biases of one network (lists of tensors without batch dimension), draws
what it needs, and returns new lists: the same work as the batched transforms, in plain torch, without any
checks. Written for this comparison; the structure (a Python loop over samples in a DataLoader worker, over
layers inside) is that of the published code.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightaug import WeightSpaceElement

Network = tuple[list[Tensor], list[Tensor]]


def siren_negation(weights: list[Tensor], biases: list[Tensor]) -> Network:
    weights, biases = list(weights), list(biases)
    for i in range(len(weights) - 1):
        sign = torch.where(torch.rand(weights[i].shape[0]) < 0.5, -1.0, 1.0)
        weights[i] = weights[i] * sign[:, None]
        biases[i] = biases[i] * sign
        weights[i + 1] = weights[i + 1] * sign
    return weights, biases


def siren_bias(weights: list[Tensor], biases: list[Tensor]) -> Network:
    weights, biases = list(weights), list(biases)
    for i in range(len(weights) - 1):
        k = torch.randint(-1, 2, (weights[i].shape[0],))
        biases[i] = biases[i] + k * (math.pi / 30.0)
        weights[i + 1] = weights[i + 1] * (1 - 2 * (k % 2))
    return weights, biases


def relu_scale(weights: list[Tensor], biases: list[Tensor]) -> Network:
    weights, biases = list(weights), list(biases)
    for i in range(len(weights) - 1):
        factor = torch.empty(weights[i].shape[0]).uniform_(-math.log(2), math.log(2)).exp()
        weights[i] = weights[i] * factor[:, None]
        biases[i] = biases[i] * factor
        weights[i + 1] = weights[i + 1] / factor
    return weights, biases


def permute(weights: list[Tensor], biases: list[Tensor]) -> Network:
    weights, biases = list(weights), list(biases)
    for i in range(len(weights) - 1):
        order = torch.randperm(weights[i].shape[0])
        weights[i] = weights[i][order]
        biases[i] = biases[i][order]
        weights[i + 1] = weights[i + 1][:, order]
    return weights, biases


def rotate(weights: list[Tensor], biases: list[Tensor]) -> Network:
    angle = (torch.rand(1) * 2 - 1) * math.radians(30)
    c, s = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack([torch.cat([c, -s]), torch.cat([s, c])])
    return [weights[0] @ matrix, *[w.clone() for w in weights[1:]]], [b.clone() for b in biases]


def translate(weights: list[Tensor], biases: list[Tensor]) -> Network:
    shift = (torch.rand(weights[0].shape[1]) * 2 - 1) * 0.25
    return [w.clone() for w in weights], [biases[0] + weights[0] @ shift, *[b.clone() for b in biases[1:]]]


def scale(weights: list[Tensor], biases: list[Tensor]) -> Network:
    factor = 1 + (torch.rand(1) * 2 - 1) * 0.2
    return [weights[0] * factor, *[w.clone() for w in weights[1:]]], [b.clone() for b in biases]


def gaussian_noise(weights: list[Tensor], biases: list[Tensor]) -> Network:
    def noisy(t: Tensor) -> Tensor:
        return t + torch.randn(t.shape) * (0.32 * t.std(correction=0))

    return [noisy(w) for w in weights], [noisy(b) for b in biases]


def dropout(weights: list[Tensor], biases: list[Tensor]) -> Network:
    def dropped(t: Tensor) -> Tensor:
        return t * (torch.rand(t.shape) >= 0.1)

    return [dropped(w) for w in weights], [dropped(b) for b in biases]


def quantile_dropout(weights: list[Tensor], biases: list[Tensor]) -> Network:
    q = torch.rand(1) * 0.1
    threshold = torch.quantile(torch.cat([t.abs().flatten() for t in [*weights, *biases]]), q)
    return [torch.where(w.abs() < threshold, 0.0, w) for w in weights], [
        torch.where(b.abs() < threshold, 0.0, b) for b in biases
    ]


def mixup(weights: list[Tensor], biases: list[Tensor], other: Network) -> Network:
    lam = torch.rand(1)
    return (
        [lam * a + (1 - lam) * b for a, b in zip(weights, other[0], strict=True)],
        [lam * a + (1 - lam) * b for a, b in zip(biases, other[1], strict=True)],
    )


def aligned_mixup(weights: list[Tensor], biases: list[Tensor], other: Network) -> Network:
    return mixup(weights, biases, weight_matching(weights, biases, *other))


def weight_matching(
    weights: list[Tensor], biases: list[Tensor], other_weights: list[Tensor], other_biases: list[Tensor]
) -> Network:
    """Git Re-Basin's weight matching of one pair: coordinate descent from the identity until nothing moves."""
    hidden = len(weights) - 1
    orders = [torch.arange(w.shape[0]) for w in weights[:-1]]
    for _ in range(100):
        moved = False
        for i in np.random.permutation(hidden).tolist():  # noqa: NPY002
            incoming = other_weights[i] if i == 0 else other_weights[i][:, orders[i - 1]]
            outgoing = other_weights[i + 1] if i + 1 == hidden else other_weights[i + 1][orders[i + 1]]
            gain = weights[i] @ incoming.T + torch.outer(biases[i], other_biases[i]) + weights[i + 1].T @ outgoing
            _, columns = linear_sum_assignment(gain.numpy(), maximize=True)
            order = torch.as_tensor(columns)
            rows = torch.arange(len(order))
            if gain[rows, order].sum() > gain[rows, orders[i]].sum() + 1e-12:
                orders[i], moved = order, True
        if not moved:
            break
    weights, biases = list(other_weights), list(other_biases)
    for i, order in enumerate(orders):
        weights[i] = weights[i][order]
        biases[i] = biases[i][order]
        weights[i + 1] = weights[i + 1][:, order]
    return weights, biases


def over_batch(one: Callable[..., Network], *, pairs: bool) -> Callable[[WeightSpaceElement], list[Network]]:
    """The loop over the networks of a batch, and the stacking that a DataLoader's collate does."""

    def run(batch: WeightSpaceElement) -> list[Network]:
        count = len(batch)
        singles = [([w[i] for w in batch.weights], [b[i] for b in batch.biases if b is not None]) for i in range(count)]
        if pairs:
            results = [one(*single, singles[i - 1]) for i, single in enumerate(singles)]
        else:
            results = [one(*single) for single in singles]
        for part in (0, 1):
            for tensors in zip(*(r[part] for r in results), strict=True):
                torch.stack(tensors)
        return results

    return run
