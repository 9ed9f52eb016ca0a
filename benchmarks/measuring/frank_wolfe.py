"""Matching by Frank-Wolfe, as C2M3 aligns two networks: a peer of the alignment benchmark, written for it.

Permutations are relaxed to doubly stochastic matrices, one for every hidden space, that move together: all gradients
are taken at once, one assignment per space gives the vertex to go to, and the step on the line to it is the best one,
because the objective is a parabola there. At the end an assignment makes permutations of the matrices.

Source: Crisostomi et al. (2024), C2M3: cycle-consistent multi-model merging.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from weightaug import GroupElement, WeightSpaceElement
from weightaug.matching import assign

__all__ = ["frank_wolfe"]


def frank_wolfe(
    a: WeightSpaceElement, b: WeightSpaceElement, steps: int = 400, tolerance: float = 1e-7
) -> GroupElement:
    """Aligns a batch of multi-layer perceptrons b to a, from the identity.

    Args:
        a: Networks, ``(B,)``.
        b: Networks, ``(B,)``.
        steps: Largest number of steps.
        tolerance: Of the relative gain, at which all pairs are done.
    """
    weights = [(x.double(), y.double()) for x, y in zip(a.weights, b.weights, strict=True)]
    biases = [None if x is None else x.double().unsqueeze(2) * y.double().unsqueeze(1) for x, y in _pairs(a, b)]
    sizes = [space.size for space in a.architecture.hidden]
    places = [torch.eye(n, dtype=torch.float64).repeat(len(a), 1, 1) for n in sizes]
    last = _value(weights, biases, places)
    for _ in range(steps):
        vertices = [_matrix(assign(g)) for g in _gradients(weights, biases, places)]
        ways = [v - p for v, p in zip(vertices, places, strict=True)]
        # The objective on the line, c0 + c1 t + c2 t^2, from its values at 0, 1/2 and 1.
        half = _value(weights, biases, [p + 0.5 * d for p, d in zip(places, ways, strict=True)])
        end = _value(weights, biases, vertices)
        bend = 2 * (last + end - 2 * half)
        slope = end - last - bend
        inside = (-slope / (2 * bend)).clamp(0, 1)
        step = torch.where(bend < 0, inside, (end > last).double())
        places = [p + step.view(-1, 1, 1) * d for p, d in zip(places, ways, strict=True)]
        value = _value(weights, biases, places)
        if bool(((value - last) <= tolerance * last.abs()).all()):
            break
        last = value
    return GroupElement.of(a.architecture, permutation=tuple(assign(p) for p in places))


def _pairs(a: WeightSpaceElement, b: WeightSpaceElement) -> list[tuple[Tensor | None, Tensor]]:
    return [(x, x if y is None else y) for x, y in zip(a.biases, b.biases, strict=True)]  # type: ignore[misc]


def _matrix(order: Tensor) -> Tensor:
    """Permutation matrices whose row i holds a 1 in the column that goes to place i."""
    return one_hot(order, order.shape[-1]).double()


def _value(weights: list[tuple[Tensor, Tensor]], biases: list[Tensor | None], places: list[Tensor]) -> Tensor:
    """The sum of products of the parameters of a and of moved b, ``(B,)``."""
    total = torch.zeros(len(places[0]), dtype=torch.float64)
    for l, (x, y) in enumerate(weights):
        moved = y if l == len(places) else places[l] @ y
        moved = moved if l == 0 else moved @ places[l - 1].mT
        total = total + (x * moved).sum((1, 2))
    for place, bias in zip(places, biases, strict=False):  # the outputs stay where they are
        if bias is not None:
            total = total + (place * bias).sum((1, 2))
    return total


def _gradients(weights: list[tuple[Tensor, Tensor]], biases: list[Tensor | None], places: list[Tensor]) -> list[Tensor]:
    """What each entry of each matrix adds to the objective, ``(B, n, n)`` each."""
    found = []
    for s in range(len(places)):
        (x, y), (above, below) = weights[s], weights[s + 1]
        incoming = y if s == 0 else y @ places[s - 1].mT
        outgoing = below if s + 1 == len(places) else places[s + 1] @ below
        gradient = x @ incoming.mT + above.mT @ outgoing
        bias = biases[s]
        found.append(gradient if bias is None else gradient + bias)
    return found
