"""What phases can gain: the best number of half periods of each parity, in closed form.

With h the half period, a shift by k h adds to the bias of a neuron and multiplies what reads it with (-1)^k. The
functions take h as a tensor that broadcasts: every pair is scaled by a factor of its own, and its half periods with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weightaug.matching.rules import Rule

__all__ = ["phase_move", "phase_table", "phase_terms"]


def phase_terms(
    r: Tensor, c: Tensor, bias_a: Tensor, bias_b: Tensor, h: Tensor, rule: Rule, sign: int
) -> tuple[Tensor, Tensor]:
    """The best scores with an even and with an odd number of half periods, for one sign of the row.

    With h the half period, the shift by k h that minimises (bias_a - sign bias_b - k h)^2 among the even k
    leaves a rest of d h, 0 <= d <= 1, and among the odd k one of (1 - d) h.
    """
    d = (bias_a - bias_b if sign > 0 else bias_a + bias_b).div_(h)
    d = d.sub_(d.mul(0.5).round_().mul_(2)).abs_()
    half = 0.5 * h * h
    base = d.square().mul_(-half)
    base = base.add_(r) if sign > 0 else base.sub_(r)
    odd = d.mul_(2 * half).sub_(half)
    # An odd number of half periods flips the columns; an odd activation flips them with the sign as well.
    if sign > 0 or rule.sign == "even":
        return base + c, odd.sub_(c).add_(base)
    return base - c, odd.add_(c).add_(base)


def phase_table(bias_a: Tensor, bias_b: Tensor, h: Tensor, rule: Rule) -> Tensor:
    """What phases can gain, whatever else moves: four numbers per pair of neurons, ``(B, 4, n, n)``.

    For a sign s of the row, let even and odd be the best values of -(bias_a - s bias_b - k h)^2 / 2 over the even
    and the odd k. Then the better one of (c + even, -c + odd), which is what a positive sign can reach, is
    |c + (even - odd) / 2| + (even + odd) / 2. The table holds the sum and the gap for s = 1, and for s = -1, where
    an odd activation flips c.
    """
    a, b = bias_a.unsqueeze(2), bias_b.unsqueeze(1)
    table = []
    for sign in (1, -1):
        d = (a - sign * b).div_(h)
        d = d.sub_(d.mul(0.5).round_().mul_(2)).abs_()
        even, odd = d.square().mul_(-0.5 * h * h), (1 - d).square_().mul_(-0.5 * h * h)
        gap = (even - odd).mul_(0.5)
        table += [(even + odd).mul_(0.5), gap if sign > 0 or rule.sign == "even" else gap.neg_()]
    return torch.stack(table, 1)


def phase_move(
    r: Tensor, c: Tensor, bias_a: Tensor, bias_b: Tensor, h: Tensor, rule: Rule
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The best score per neuron, and the sign and shift that reach it."""
    options = [*phase_terms(r, c, bias_a, bias_b, h, rule, 1)]
    if rule.sign is not None:
        options += [*phase_terms(r, c, bias_a, bias_b, h, rule, -1)]
    value, best = torch.stack(options).max(0)
    sign, parity = 1 - 2 * (best >> 1), best & 1
    ratio = (bias_a - sign * bias_b) / h
    shift = (2 * ((ratio - parity) / 2).round()).to(torch.int64) + parity
    return value, (None if rule.sign is None else sign.to(r.dtype)), shift
