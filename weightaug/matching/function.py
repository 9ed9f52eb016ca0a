"""Function matching: the symmetry whose mixture computes what it should at given points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.evaluation import evaluate
from weightaug.group import GroupElement, act
from weightaug.matching.descent import Pairs
from weightaug.matching.moves import Moves
from weightaug.matching.rules import Rule

__all__ = ["match_functions", "or_nothing"]

_ENTRIES = 2**19  # hidden values that are computed at a time on a CPU, so that most of them stay in the cache


def match_functions(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    rules: Sequence[Rule],
    points: Tensor,
    start: Moves,
    *,
    dtype: torch.dtype,
    steps: int = 50,
    rate: float = 0.1,
) -> Moves:
    """Minimises the mean squared error of the mid-point network against the mean of the two functions.

    Networks of weights that nothing constrains, at first those of a, are what b is matched to by weights. At every step
    they move against the gradient of the error with respect to the mid-point of a and the moved b, and b is matched
    to them again. So the gradient accumulates until it is worth a move, and what comes out is a hard assignment. Of
    all moves on the way, those with the least error are returned.

    Args:
        a: The networks to align to, a flat float64 batch with balanced scales.
        b: The networks to align, likewise.
        rules: The symmetries in use.
        points: Coordinates, ``(n, in)``.
        start: Where to start; the identity is tried, too.
        dtype: Of the evaluations.
        steps: Steps of Adam.
        rate: Of Adam, in parts of the root mean square of each parameter tensor of a.

    Source: the straight-through estimator of Ainsworth et al. (2022), Git Re-Basin, here with the whole group, batched,
        and on the mid-point's error against the mean function.
    """
    x = points.detach().to(a.device, dtype)
    widest = max(space.size for space in a.architecture.spaces)
    size = max(len(a), 1)
    if a.device.type == "cpu":
        size = max(_ENTRIES // (len(x) * widest), 1)
    parts = [slice(i, i + size) for i in range(0, max(len(a), 1), size)]
    return Moves.cat([_match_part(a[i], b[i], rules, x, start[i], steps, rate) for i in parts])


def or_nothing(a: WeightSpaceElement, b: WeightSpaceElement, group: GroupElement, points: Tensor) -> GroupElement:
    """The group element where its mid-point is at least as good as that of b as it is, and the identity elsewhere.

    Balanced scales are no moves, so b as it is does not occur among the moves that :func:`match_functions` tries.

    Args:
        a: The networks to align to, a flat batch in its own scales.
        b: The networks to align, likewise.
        group: What aligns them.
        points: Coordinates, ``(n, in)``.
    """
    target = (evaluate(a, points) + evaluate(b, points)) / 2

    def error(moved: WeightSpaceElement) -> Tensor:
        middle = WeightSpaceElement.unflatten(a.architecture, (a.flatten() + moved.flatten()) / 2)
        return (evaluate(middle, points) - target).square().flatten(1).mean(1)

    keep = (error(act(b, group)) <= error(b)).unsqueeze(-1)

    def chosen(part: tuple[Tensor | None, ...], neutral: int | None) -> tuple[Tensor | None, ...]:
        return tuple(
            [
                None
                if t is None
                else torch.where(keep, t, torch.arange(t.shape[-1], device=t.device) if neutral is None else neutral)
                for t in part
            ]
        )

    return GroupElement.of(
        a.architecture,
        permutation=chosen(group.permutation, None),
        scale=chosen(group.scale, 1),
        shift=chosen(group.shift, 0),
    )


def _match_part(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    rules: Sequence[Rule],
    x: Tensor,
    moves: Moves,
    steps: int,
    rate: float,
) -> Moves:
    arch = a.architecture
    # Autocast would round what is compared.
    with torch.autocast(x.device.type, enabled=False):
        target = (a.to(x.dtype)(x) + b.to(x.dtype)(x)) / 2
        flat_a, latent = a.flatten(), a.flatten().clone()
        unit = a.map(
            lambda t: t.flatten(1).square().mean(1).sqrt().view(-1, *(1,) * (t.dim() - 1)).expand_as(t)
        ).flatten()
        mean, square = torch.zeros_like(latent), torch.zeros_like(latent)
        best = Moves.identity(b, rules)
        reached, _ = _error(flat_a, b, best, x, target)
        for step in range(steps + 1):
            error, gradient = _error(flat_a, b, moves, x, target)
            best = moves.where(error < reached, best)
            reached = torch.minimum(error, reached)
            if step == steps:
                break
            mean.lerp_(gradient, 0.1)
            square.lerp_(gradient.square(), 0.01)
            corrected = (square / (1 - 0.99 ** (step + 1))).sqrt_().clamp_min_(torch.finfo(latent.dtype).tiny)
            latent.addcmul_(unit, mean / corrected, value=-rate / (1 - 0.9 ** (step + 1)))
            pairs = Pairs(WeightSpaceElement.unflatten(arch, latent), b, rules)
            moves = pairs.descend(moves[slice(None)], max_sweeps=1)
    return best


def _error(a: Tensor, b: WeightSpaceElement, moves: Moves, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squared error ``(B,)`` of the mid-points, and its gradient ``(B, parameters)`` by their weights."""
    middle = (a + act(b, moves.group(b.architecture)).flatten()) / 2
    leaf = middle.to(x.dtype).requires_grad_()
    with torch.enable_grad():
        values = WeightSpaceElement.unflatten(b.architecture, leaf)(x)
        error = (values - target).square().flatten(1).mean(1)
        (gradient,) = torch.autograd.grad(error.sum(), leaf)
    return error.detach().to(a.dtype), gradient.to(a.dtype)
