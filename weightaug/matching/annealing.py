"""Deterministic annealing: soft moves that harden, which see more than one local optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weightaug.matching.assignment import assign, matmul
from weightaug.matching.descent import Pairs, at
from weightaug.matching.moves import Moves
from weightaug.matching.phases import phase_terms

__all__ = ["anneal"]


def anneal(
    pairs: Pairs,
    order: Sequence[int],
    *,
    steps: int = 20,
    hot: float = 0.3,
    cold: float = 0.03,
    iterations: int = 10,
) -> Moves:
    """Deterministic annealing: soft moves, spaces in turns, at a falling temperature, then rounded.

    At temperature t every space holds the mean of its moves under weights exp(score / t), with the
    permutation relaxed to a doubly stochastic matrix; near the end, that is a coordinate descent.

    Args:
        pairs: The pairs.
        order: The order in which spaces are visited.
        steps: Temperatures.
        hot: The first temperature, in parts of |a||b| per hidden neuron.
        cold: The last temperature.
        iterations: Sinkhorn iterations per visit.

    Source: graduated assignment (Gold and Rangarajan, 1996), here with signs and phases.
    """
    parts = pairs.parts()
    if len(parts) > 1:
        options: dict[str, Any] = {"steps": steps, "hot": hot, "cold": cold, "iterations": iterations}
        return Moves.cat([anneal(part, order, **options) for part in parts])
    neurons = sum(space.size for space in pairs.a.architecture.hidden)
    unit = (pairs.bound / neurons).view(-1, 1, 1)
    soft: dict[int, tuple[Tensor, Tensor]] = {}
    for step in range(steps):
        temperature = unit * hot * (cold / hot) ** (step / max(steps - 1, 1))
        for s in order:
            rows, columns = _soft_products(pairs, s, soft)
            soft[s] = _soften(pairs, s, rows, columns, temperature, iterations)
    moves = pairs.identity()
    everyone = torch.arange(pairs.size, device=pairs.a.device)
    for s in order:
        rows, columns = _soft_products(pairs, s, soft)
        found = assign(pairs.score(s, rows, columns))
        _, sign, shift = pairs.decide(s, found, (at(rows, found), at(columns, found)))
        pairs.set(s, moves, everyone, found, sign, shift)
        ones = torch.ones_like(found, dtype=rows.dtype) if sign is None else sign
        hard = torch.zeros_like(rows).scatter_(2, found.unsqueeze(2), ones.unsqueeze(2))
        flipped = hard.abs() if pairs.rules[s].sign == "even" else hard
        soft[s] = hard, flipped if shift is None else flipped * (1 - 2 * (shift & 1)).unsqueeze(2)
    return moves


def _soft_products(pairs: Pairs, slot: int, soft: dict[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Like ``_products``, with soft moves; a space that has none yet says nothing."""
    view = pairs.view(slot)
    rows, columns = view.rows, view.columns
    for link in view.links:
        if link.other not in soft:
            continue
        matrix = soft[link.other][1 if link.incoming else 0]
        n, kernel, this = matrix.shape[1], *link.b.shape[1:]
        moved = matmul(matrix, link.b.view(pairs.size, n, kernel * this)).view(pairs.size, n * kernel, this)
        product = matmul(link.a, moved)
        if link.incoming:
            rows = product.add_(rows)
        else:
            columns = product.add_(columns)
    return rows, columns


def _soften(
    pairs: Pairs, slot: int, rows: Tensor, columns: Tensor, temperature: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """The mean move of one space: what it does to the rows that write it and to the columns that read it."""
    rule, bias = pairs.rules[slot], pairs.view(slot).bias
    options: list[Tensor]
    if bias is not None:
        bias_a, bias_b, h = bias[0].unsqueeze(2), bias[1].unsqueeze(1), pairs.period(slot, 3)
        options = [*phase_terms(rows, columns, bias_a, bias_b, h, rule, 1)]
        effects = [(1, 1), (1, -1)]
        if rule.sign is not None:
            options += [*phase_terms(rows, columns, bias_a, bias_b, h, rule, -1)]
            effects += [(-1, 1), (-1, -1)] if rule.sign == "even" else [(-1, -1), (-1, 1)]
    elif rule.sign == "odd":
        options, effects = [rows + columns, -rows - columns], [(1, 1), (-1, -1)]
    elif rule.sign == "even":
        options, effects = [rows + columns, columns - rows], [(1, 1), (-1, 1)]
    else:
        options, effects = [rows + columns], [(1, 1)]
    # One option at a time: a stack of them would be large enough for torch to start OpenMP threads.
    for option in options:
        option.div_(temperature)
    best = options[0].clone()
    for option in options[1:]:
        best = torch.maximum(best, option, out=best)
    weights = [option.sub_(best).exp_() for option in options]
    total = weights[0].clone()
    for weight in weights[1:]:
        total += weight
    log = best + total.log()
    # Half of what each row and each column can reach comes off first, or neurons without parameters, which like all
    # places alike, would share those that others want; Sinkhorn iterations take for ever to drive them out.
    log = log - (log.amax(1, keepdim=True) + log.amax(2, keepdim=True)).mul_(0.5)
    # Sinkhorn without logarithms; the floor keeps rows alive that compete for the same columns.
    kernel = (log - log.amax(2, keepdim=True)).exp_().clamp_min_(1e-200)
    v = torch.ones_like(kernel[:, :, :1])
    for _ in range(iterations):
        u = matmul(kernel, v).reciprocal()
        v = matmul(kernel.mT, u).reciprocal()
    share = kernel.mul_(u).mul_(v.mT).div_(total)
    row, column = torch.zeros_like(share), torch.zeros_like(share)
    for weight, (on_rows, on_columns) in zip(weights, effects, strict=True):
        row.add_(weight, alpha=on_rows)
        column.add_(weight, alpha=on_columns)
    return row.mul_(share), column.mul_(share)
