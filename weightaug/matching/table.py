"""Matching networks that are declared tensor by tensor: convolution, norms, residual streams, attention.

A walk over the spaces settles each by the tensors whose other spaces are settled already, so that a planted copy comes
back exactly; a coordinate descent then goes on until no space gains. Spaces that others lie within (heads, groups) are
matched by what they hold: for each pair of heads, how close they come under the best map of their inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weightaug._table import Move, Plan
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.assignment import assign

__all__ = ["match_table"]

_GAIN = 1e-10  # relative; smaller gains of the inner product are rounding


class _Piece(NamedTuple):
    """One section of one tensor, and how it moves."""

    tensor: int
    narrow: tuple[tuple[int, int, int], ...]
    plan: Plan

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """The section, with one axis for every factor behind the batch."""
        piece = tensors[self.tensor]
        for axis, start, size in self.narrow:
            piece = piece.narrow(1 + axis, start, size)
        return piece.reshape(len(piece), *(self.plan.factors or self.plan.shape))


def _pieces(index: int, plan: Plan, narrow: tuple[tuple[int, int, int], ...] = ()) -> Iterator[_Piece]:
    if plan.split is None:
        yield _Piece(index, narrow, plan)
        return
    axis, sizes, plans = plan.split
    start = 0
    for size, inner in zip(sizes, plans, strict=True):
        yield from _pieces(index, inner, (*narrow, (axis, start, size)))
        start += size


def match_table(a: WeightSpaceElement, b: WeightSpaceElement, *, maps: bool, max_sweeps: int) -> GroupElement:
    """Aligns b to a, pair by pair: permutations of every space, and orthogonal maps of linear ones.

    Args:
        a: The networks to align to, one batch dimension, float64.
        b: The networks to align, likewise.
        maps: Whether linear spaces are turned; else they are permuted.
        max_sweeps: Limit on the sweeps over all spaces.
    """
    work = _Work(a, b, maps)
    work.walk()
    for _ in range(max_sweeps):
        if not work.sweep():
            break
    # Never further apart than before.
    closer = work.total() >= _inner(a.tensors(), b.tensors())
    return work.group if bool(closer.all()) else _only(work.group, closer)


def _only(group: GroupElement, chosen: Tensor) -> GroupElement:
    """The identity for all pairs but the chosen ones."""

    def pick(t: Tensor | None, is_map: bool) -> Tensor | None:
        if t is None:
            return None
        neutral = torch.eye(t.shape[-1], dtype=t.dtype) if is_map else torch.arange(t.shape[-1])
        return t.where(chosen.view(-1, *[1] * (t.dim() - 1)), neutral.to(t.device))

    permutation = tuple([pick(t, False) for t in group.permutation])
    return GroupElement(
        group.architecture, permutation, group.scale, group.shift, tuple([pick(t, True) for t in group.maps])
    )


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).flatten(1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


class _Work:
    """A batch of pairs, and the symmetry found so far."""

    def __init__(self, a: WeightSpaceElement, b: WeightSpaceElement, maps: bool) -> None:
        arch = a.architecture
        self.arch = arch
        self.maps = maps
        self.a = a.tensors()
        self.b = b
        self.group = GroupElement.identity(arch)
        self.pieces = [piece for i, plan in enumerate(arch.plan) for piece in _pieces(i, plan)]
        slots = [s for s in range(len(arch.hidden)) if arch.masters[s] == s]
        self.inner: dict[int, list[int]] = {s: [] for s in slots}
        for s in slots:
            outer = arch.outers[s]
            if outer is not None:
                self.inner[outer].append(s)
        # A space within another is moved with it; one within a fixed space by itself.
        self.slots = [s for s in slots if arch.outers[s] is None]

    def total(self) -> Tensor:
        """The inner product of a and the aligned b, for each pair."""
        return _inner(self.a, self.b.tensors())

    def walk(self) -> None:
        """Settles the spaces one after the other, best known first."""
        open_slots = list(self.slots)
        settled: set[int] = set()
        while open_slots:
            slot = max(open_slots, key=lambda s: (self._evidence(s, settled), -s))
            known = settled if self._evidence(slot, settled) else None
            self._settle(slot, known, always=True)
            open_slots.remove(slot)
            settled |= {slot, *self.inner[slot]}

    def sweep(self) -> bool:
        """Visits every space once; whether a pair gained."""
        gained = [self._settle(slot, None, always=False) for slot in self.slots]
        return any(gained)

    def _evidence(self, slot: int, settled: set[int]) -> int:
        """How many numbers of each position of a space stand against settled ones."""
        own = {slot, *self.inner[slot]}
        count = 0
        for piece in self.pieces:
            slots = {move.slot for move in piece.plan.moves}
            if slot in slots and slots <= settled | own:
                shape = piece.plan.factors or piece.plan.shape
                count += torch.Size(shape).numel() // self.arch.hidden[slot].size
        return count

    def _relevant(self, slot: int, settled: set[int] | None, own: set[int]) -> list[_Piece]:
        found = []
        for piece in self.pieces:
            slots = {move.slot for move in piece.plan.moves}
            if slot in slots and (settled is None or slots <= settled | own):
                found.append(piece)
        return found

    def _settle(self, slot: int, settled: set[int] | None, *, always: bool) -> bool:
        """Moves one space, and what lies within it, to the best place; whether a pair gained."""
        step = self._step(slot, settled)
        moved = act(self.b, step)
        if always:
            self.b, self.group = moved, step @ self.group
            return True
        before, after = self.total(), _inner(self.a, moved.tensors())
        better = after > before + _GAIN * before.abs().clamp(min=1e-300)
        if not bool(better.any()):
            return False
        if not bool(better.all()):
            step = _only(step, better)
            moved = act(self.b, step)
        self.b, self.group = moved, step @ self.group
        return True

    def _step(self, slot: int, settled: set[int] | None) -> GroupElement:
        arch = self.arch
        permutation: list[Tensor | None] = [None] * len(arch.hidden)
        maps: list[Tensor | None] = [None] * len(arch.hidden)
        own = {slot, *self.inner[slot]}
        pieces = self._relevant(slot, settled, own)
        if arch.outer_sizes[slot] is not None:  # within a fixed space: each copy by itself
            cross = self._nested(pieces, int(arch.outer_sizes[slot] or 1), slot).diagonal(dim1=1, dim2=2).movedim(-1, 1)
            if arch.hidden[slot].linear and self.maps:
                maps[slot] = _rotation(cross)
            else:
                permutation[slot] = assign(cross.flatten(0, 1)).view(cross.shape[:-1])
            return GroupElement(arch, tuple(permutation), (None,) * len(maps), (None,) * len(maps), tuple(maps))
        if arch.hidden[slot].linear and self.maps:
            maps[slot] = _rotation(self._similarity(pieces, slot))
            return GroupElement(arch, tuple(permutation), (None,) * len(maps), (None,) * len(maps), tuple(maps))
        inner_slots = self.inner[slot]
        crosses = {
            s: self._nested([p for p in pieces if self._holds(p, s)], arch.hidden[slot].size, s) for s in inner_slots
        }
        alone = [p for p in pieces if not any(self._holds(p, s) for s in inner_slots)]
        score = self._similarity(alone, slot)
        best: dict[int, Tensor] = {}
        for s, cross in crosses.items():
            if arch.hidden[s].linear and self.maps:
                score = score + torch.linalg.svdvals(cross).sum(-1)
                continue
            flat = cross.flatten(0, 2)
            columns = assign(flat).view(cross.shape[:-1])
            score = score + cross.gather(-1, columns.unsqueeze(-1)).squeeze(-1).sum(-1)
            best[s] = columns
        order = assign(score)
        permutation[slot] = order
        for s, cross in crosses.items():
            index = order[:, :, None]
            if s in best:
                columns = best[s]
                permutation[s] = columns.gather(2, index[..., None].expand(-1, -1, 1, columns.shape[-1])).squeeze(2)
            else:
                chosen = cross.gather(2, index[..., None, None].expand(-1, -1, 1, *cross.shape[-2:])).squeeze(2)
                maps[s] = _rotation(chosen)
        return GroupElement(arch, tuple(permutation), (None,) * len(maps), (None,) * len(maps), tuple(maps))

    def _holds(self, piece: _Piece, slot: int) -> bool:
        return any(move.slot == slot for move in piece.plan.moves)

    def _similarity(self, pieces: Sequence[_Piece], slot: int) -> Tensor:
        """Inner products of the positions of a space in a and b, ``(B, size, size)``."""
        size = self.arch.hidden[slot].size
        total = self.a[0].new_zeros(len(self.a[0]), size, size)
        for piece in pieces:
            x, y = piece.of(self.a), piece.of(self.b.tensors())
            for move in piece.plan.moves:
                if move.slot == slot:
                    total += _rows(x, move) @ _rows(y, move).mT
        return total

    def _nested(self, pieces: Sequence[_Piece], outer: int, inner: int) -> Tensor:
        """Inner products of the insides of each two positions, ``(B, outer, outer, size, size)``."""
        size = self.arch.hidden[inner].size
        total = self.a[0].new_zeros(len(self.a[0]), outer, outer, size, size)
        for piece in pieces:
            x, y = piece.of(self.a), piece.of(self.b.tensors())
            for move in piece.plan.moves:
                if move.slot == inner:
                    total += torch.einsum("bonr,bpmr->bopnm", _inside(x, move), _inside(y, move))
        return total


def _rows(tensor: Tensor, move: Move) -> Tensor:
    return tensor.movedim(1 + move.axis, 1).flatten(2) if tensor.dim() > 2 else tensor.unsqueeze(-1)


def _inside(tensor: Tensor, move: Move) -> Tensor:
    assert move.outer is not None
    moved = tensor.movedim((1 + move.outer, 1 + move.axis), (1, 2))
    return moved.flatten(3) if moved.dim() > 3 else moved.unsqueeze(-1)


def _rotation(cross: Tensor) -> Tensor:
    """The orthogonal M with the largest inner product of a and M b (Procrustes)."""
    u, _, vh = torch.linalg.svd(cross)
    return torch.matmul(u, vh)
