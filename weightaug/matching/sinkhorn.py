"""Soft permutations: a differentiable relaxation of the matching."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.matching.assignment import assign
from weightaug.matching.descent import Moves
from weightaug.matching.rules import Rule

__all__ = ["relax", "sinkhorn"]


def sinkhorn(score: Tensor, *, temperature: float = 1.0, iterations: int = 20) -> Tensor:
    """Turns scores into (almost) doubly stochastic matrices, differentiably: soft permutations.

    As the temperature goes to zero, they go to the permutation matrix with the largest total score.

    Args:
        score: ``(..., n, n)``.
        temperature: Positive; lower is harder.
        iterations: Normalisations of the rows and of the columns.

    Returns:
        ``(..., n, n)``, positive; columns sum to 1 exactly, rows almost.

    Raises:
        ValueError: If the matrices are not square or the temperature is not positive.

    Source: Mena et al. (2018), Learning latent permutations with Gumbel-Sinkhorn networks.
    """
    if score.dim() < 2 or score.shape[-1] != score.shape[-2]:
        raise ValueError(f"score: expected square matrices (..., n, n), got shape {tuple(score.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature!r}")
    log = score / temperature
    for _ in range(iterations):
        log = log - log.logsumexp(-1, keepdim=True)
        log = log - log.logsumexp(-2, keepdim=True)
    return log.exp()


def relax(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    rules: Sequence[Rule],
    *,
    steps: int = 50,
    rate: float = 0.1,
    iterations: int = 10,
) -> Moves:
    """Minimises the distance over soft permutations and signs by Adam, and rounds them by an assignment.

    Each space has one matrix of scores (two where a sign is in use: with it and without); the soft
    permutation is their Sinkhorn normal form, times the expected sign. Phases stay at zero.

    Args:
        a: The networks to align to, a flat float64 batch.
        b: The networks to align, likewise.
        rules: The symmetries in use.
        steps: Steps of Adam.
        rate: Learning rate of Adam.
        iterations: Sinkhorn iterations in every step.
    """
    moves = Moves.identity(b, rules)
    if len(a) == 0:
        return moves
    sizes = [space.size for space in a.architecture.hidden]
    # Slightly towards the identity: from equal scores no neuron could tell its candidates apart.
    plus = [torch.eye(n, dtype=a.dtype, device=a.device).mul(0.1).repeat(len(a), 1, 1) for n in sizes]
    minus = [torch.zeros_like(p) if rule.sign is not None else None for p, rule in zip(plus, rules, strict=True)]
    scale = _squared(a).clamp_min(torch.finfo(a.dtype).tiny)
    with torch.enable_grad():
        leaves = [t.requires_grad_() for t in (*plus, *minus) if t is not None]
        optimizer = torch.optim.Adam(leaves, lr=rate)
        for step in range(steps):
            temperature = 1.0 * 0.1 ** (step / max(steps - 1, 1))
            soft = [_soft(p, m, temperature, iterations) for p, m in zip(plus, minus, strict=True)]
            # Pairs do not influence each other: Adam is element-wise, and the loss is a sum.
            loss = (_residual(a, b, rules, soft) / scale).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for s, (p, m) in enumerate(zip(plus, minus, strict=True)):
        p = p.detach()
        m = None if m is None else m.detach()
        found = assign(p if m is None else torch.maximum(p, m))
        moves.permutation[s] = found
        if m is not None:
            better = (m > p).gather(2, found.unsqueeze(-1)).squeeze(-1)
            moves.sign[s] = torch.where(better, -1.0, 1.0).to(p.dtype)
    return moves


def _soft(plus: Tensor, minus: Tensor | None, temperature: float, iterations: int) -> tuple[Tensor, Tensor]:
    """The soft permutation, and the same times the expected sign."""
    if minus is None:
        soft = sinkhorn(plus, temperature=temperature, iterations=iterations)
        return soft, soft
    soft = sinkhorn(torch.logaddexp(plus / temperature, minus / temperature), iterations=iterations)
    return soft, soft * torch.tanh((plus - minus) / (2 * temperature))


def _residual(
    a: WeightSpaceElement, b: WeightSpaceElement, rules: Sequence[Rule], soft: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Squared distance of a to the softly moved b, ``(B,)``."""
    wiring = a.architecture.wiring
    total = torch.zeros(len(a), dtype=a.dtype, device=a.device)
    for l, (wa, wb, va, vb) in enumerate(zip(a.weights, b.weights, a.biases, b.biases, strict=True)):
        write, read = wiring.write_slots[l], wiring.read_slots[l]
        moved = wb.flatten(3) if wb.dim() > 3 else wb.unsqueeze(-1)
        if write is not None:
            moved = torch.einsum("bij,bjmk->bimk", soft[write][1], moved)
        if read is not None:
            moved = torch.einsum("bij,bmjk->bmik", soft[read][0 if rules[read].sign == "even" else 1], moved)
        total = total + (wa - moved.reshape(wa.shape)).flatten(1).square().sum(-1)
        if va is not None and vb is not None:
            shifted = vb if write is None else (soft[write][1] @ vb.unsqueeze(-1)).squeeze(-1)
            total = total + (va - shifted).square().sum(-1)
    return total


def _squared(x: WeightSpaceElement) -> Tensor:
    return x.flatten().square().sum(-1)
