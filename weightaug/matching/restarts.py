"""Where a search starts again: random moves, and kicks that leave a local optimum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.matching.moves import Moves
from weightaug.matching.rules import Rule

__all__ = ["kick", "random_moves"]


def random_moves(x: WeightSpaceElement, rules: Sequence[Rule], generator: torch.Generator | None) -> Moves:
    """Random permutations, signs and parities of shifts for a flat batch.

    Args:
        x: The networks.
        rules: The symmetries in use.
        generator: Source of the draws, on the CPU; None for torch's global one.
    """
    moves = Moves.identity(x, rules)
    for s, p in enumerate(moves.permutation):
        moves.permutation[s] = _uniform(p, generator).argsort(-1)
        sign, shift = moves.sign[s], moves.shift[s]
        if sign is not None:
            moves.sign[s] = torch.where(_uniform(p, generator) < 0.5, -sign, sign)
        if shift is not None:
            moves.shift[s] = torch.where(_uniform(p, generator) < 0.5, shift + 1, shift)
    return moves


def kick(moves: Moves, slot: int, part: float, generator: torch.Generator) -> Moves:
    """A copy of the moves in which some neurons of one space have changed places, signs and parities of shifts.

    Args:
        moves: Moves of a flat batch.
        slot: The space.
        part: Which part of its neurons is drawn; half of them change their sign, and half their parity.
        generator: Source of the draws, on the CPU.
    """
    result = moves[slice(None)]
    old = moves.permutation[slot]
    hit = _uniform(old, generator) < part
    # The positions of the hit neurons come first in `where`; `source` has the same ones in random order.
    where = torch.where(hit, 0.0, 1.0).argsort(dim=1, stable=True)
    shuffled = torch.where(hit, _uniform(old, generator), 2.0).argsort(dim=1, stable=True)
    index = torch.empty_like(where).scatter_(1, where, shuffled)
    result.permutation[slot] = old.gather(1, index)
    sign, shift = moves.sign[slot], moves.shift[slot]
    if sign is not None:
        flip = hit & (_uniform(old, generator) < 0.5)
        result.sign[slot] = torch.where(flip, -1.0, 1.0).to(sign) * sign.gather(1, index)
    if shift is not None:
        odd = hit & (_uniform(old, generator) < 0.5)
        result.shift[slot] = shift.gather(1, index) + odd
    return result


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform draws of one shape, made on the CPU in float64 whatever the defaults are."""
    return torch.rand(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like.device)
