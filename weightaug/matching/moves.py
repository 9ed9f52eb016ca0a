"""The moves of a matching while it is under way: mutable, flat, and without positive scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement
from weightaug.matching.rules import Rule

__all__ = ["Moves"]


@dataclass
class Moves:
    """Group elements of a flat batch: per hidden space a permutation, sign and shift, ``(B, n)`` each.

    Mutable. Permutations and shifts are int64, signs have the dtype of the weights; None where the rule of
    the space has no such symmetry.
    """

    permutation: list[Tensor]
    sign: list[Tensor | None]
    shift: list[Tensor | None]

    @classmethod
    def identity(cls, x: WeightSpaceElement, rules: Sequence[Rule]) -> Moves:
        """The neutral element for every network of a flat batch."""
        batch = x.batch_shape[0]
        index = [torch.arange(s.size, device=x.device).repeat(batch, 1) for s in x.architecture.hidden]
        return cls(
            index,
            [None if r.sign is None else torch.ones_like(i, dtype=x.dtype) for r, i in zip(rules, index, strict=True)],
            [None if r.half_period is None else torch.zeros_like(i) for r, i in zip(rules, index, strict=True)],
        )

    @classmethod
    def of(cls, group: GroupElement, x: WeightSpaceElement, rules: Sequence[Rule]) -> Moves:
        """The part of a group element that the rules allow (positive scales aside)."""
        moves = cls.identity(x, rules)
        for s, (p, a, k) in enumerate(zip(group.permutation, group.scale, group.shift, strict=True)):
            if p is not None:
                moves.permutation[s] = p.clone()
            if a is not None and moves.sign[s] is not None:
                moves.sign[s] = a.sign()
            if k is not None and moves.shift[s] is not None:
                moves.shift[s] = k.clone()
        return moves

    def group(self, architecture: Architecture) -> GroupElement:
        """The moves as a group element of a flat batch."""
        return GroupElement.of(
            architecture, permutation=tuple(self.permutation), scale=tuple(self.sign), shift=tuple(self.shift)
        )

    def put(self, index: Tensor, values: Moves) -> None:
        """Writes the moves of some networks."""
        for name in ("permutation", "sign", "shift"):
            for whole, part in zip(getattr(self, name), getattr(values, name), strict=True):
                if whole is not None:
                    whole[index] = part

    def __getitem__(self, index: slice | Tensor) -> Moves:
        """A part of the batch, copied."""

        def part(ts: list[Tensor | None]) -> list[Tensor | None]:
            return [None if t is None else t[index].clone() for t in ts]

        return Moves([p[index].clone() for p in self.permutation], part(self.sign), part(self.shift))

    @classmethod
    def cat(cls, parts: Sequence[Moves]) -> Moves:
        """Joins the moves of several batches."""

        def join(name: str) -> list[Tensor | None]:
            slots = zip(*(getattr(m, name) for m in parts), strict=True)
            return [None if ts[0] is None else torch.cat(ts) for ts in slots]

        permutation = [p for p in join("permutation") if p is not None]
        return cls(permutation, join("sign"), join("shift"))

    def where(self, mask: Tensor, other: Moves) -> Moves:
        """These moves where the mask ``(B,)`` is set, and the other ones elsewhere."""
        mask = mask.unsqueeze(-1)

        def choose(ours: list[Tensor | None], theirs: list[Tensor | None]) -> list[Tensor | None]:
            return [
                None if x is None or y is None else torch.where(mask, x, y) for x, y in zip(ours, theirs, strict=True)
            ]

        permutation = [torch.where(mask, x, y) for x, y in zip(self.permutation, other.permutation, strict=True)]
        return Moves(permutation, choose(self.sign, other.sign), choose(self.shift, other.shift))
