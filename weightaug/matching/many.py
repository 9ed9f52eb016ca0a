"""Matching more than two networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.canonical import balance, flat64, unflat
from weightaug.matching.moves import Moves
from weightaug.matching.rules import Symmetry, check_finite, resolve
from weightaug.matching.weight import DEFAULT_STARTS, check_starts, match, solve, working_device

__all__ = ["align_to", "match_many"]


def align_to(batch: WeightSpaceElement, reference: WeightSpaceElement, **options: Any) -> GroupElement:
    """Aligns every network of a batch to one reference.

    Args:
        batch: The networks to align, of any batch shape.
        reference: One network, batch shape ``()``, or a batch that broadcasts to the batch shape.
        **options: As for :func:`match`.

    Returns:
        The group element g: ``act(batch, g)`` is aligned, with tensors ``(*batch, size)``.

    Raises:
        ValueError: As for :func:`match`, or if the reference does not broadcast to the batch.
    """
    shape, own = batch.batch_shape, reference.batch_shape
    try:
        fits = torch.broadcast_shapes(shape, own) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"reference: expected one network (batch shape ()) or a shape that broadcasts to {tuple(shape)}, got "
            f"{tuple(own)}"
        )
    spread = reference.map(lambda t: t.expand(*shape, *t.shape[len(own) :]))
    return match(spread, batch, **options)


@torch.no_grad()
def match_many(
    x: WeightSpaceElement,
    *,
    symmetry: Symmetry = "auto",
    starts: Sequence[str] = DEFAULT_STARTS,
    max_rounds: int = 20,
    max_sweeps: int = 100,
) -> tuple[GroupElement, WeightSpaceElement]:
    """Aligns sets of networks jointly, each set to its own barycentre.

    The networks of a set are aligned to their mean and the mean is taken again, in turns, so the sum of
    squared distances to the mean never grows. All of them end in the frame of the first network, so the
    maps between any two, ``g[i].inverse() @ g[j]``, are cycle-consistent.

    Args:
        x: Networks of batch shape ``(*batch, k)``: sets of k networks.
        symmetry: As for :func:`match`.
        starts: As for :func:`match`, used to align the first time; later rounds go on from there.
        max_rounds: Limit on the rounds.
        max_sweeps: As for :func:`match`.

    Returns:
        The group element g with tensors ``(*batch, k, size)``, the identity for the first network of each
        set, and the barycentre, the mean of ``act(x, g)``, of batch shape ``(*batch,)``.

    Raises:
        ValueError: If x is one network or its sets are empty, or as for :func:`match`.
    """
    if not x.batch_shape or x.batch_shape[-1] == 0:
        raise ValueError(
            f"match_many: expected sets of networks, batch shape (*batch, k) with k >= 1, got {tuple(x.batch_shape)}"
        )
    check_finite(x, "x")
    rules = resolve(x.architecture, symmetry)
    check_starts(starts)
    arch, k = x.architecture, x.batch_shape[-1]
    flat = flat64(x, working_device(x))
    balancing = balance(flat, rules)
    flat = act(flat, balancing)
    sets = len(flat) // k
    moves = Moves.identity(flat, rules)

    def spread(values: WeightSpaceElement) -> WeightSpaceElement:
        return values.map(lambda t: t.repeat_interleave(k, 0))

    def per_set(values: WeightSpaceElement) -> WeightSpaceElement:
        return values.map(lambda t: t.unflatten(0, (sets, k)))

    def spread_out(aligned: WeightSpaceElement, center: WeightSpaceElement) -> Tensor:
        rest: Tensor = (aligned.flatten() - spread(center).flatten()).square().sum(-1)
        return rest.reshape(sets, k).sum(-1)

    if rules and sets:
        # The first reference is a network, not a mean of unaligned ones, which would be close to zero.
        moves, _ = solve(spread(per_set(flat)[:, 0]), flat, rules, starts, max_sweeps=max_sweeps)
        total: Tensor | None = None
        for _ in range(max_rounds):
            aligned = act(flat, moves.group(arch))
            center = per_set(aligned).map(lambda t: t.mean(1))
            now = spread_out(aligned, center)
            if total is not None and not bool((now < total * (1 - 1e-10)).any()):
                break
            total = now
            # Going on from where they are (as identity moves of the aligned networks) cannot make it worse.
            step, _ = solve(spread(center), aligned, rules, ("identity",), max_sweeps=max_sweeps)
            moves = Moves.of(step.group(arch) @ moves.group(arch), flat, rules)
    group = moves.group(arch) @ balancing
    first = group.map(lambda t: t.unflatten(0, (sets, k))[:, :1].expand(sets, k, t.shape[-1]).flatten(0, 1))
    group = unflat(first.inverse() @ group, x)
    dim = len(x.batch_shape) - 1
    return group, act(x, group).map(lambda t: t.mean(dim))
