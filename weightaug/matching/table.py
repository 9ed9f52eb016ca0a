"""Matching networks that are declared tensor by tensor: convolution, norms, residual streams, attention.

A walk over the spaces settles each by the tensors whose other spaces are settled already, so that a planted copy comes
back exactly; a coordinate descent then goes on until no space gains. Spaces that others lie within (heads, groups) are
matched by what they hold: for each pair of heads, how close they come under the best map of their inside.

What a pair of tensors says of a space is kept until another of their spaces moves, and pairs that have come to rest are
left out of further sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weightaug._table import Move
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.assignment import assign
from weightaug.matching.closeness import coincide, inner_products, squared_distances
from weightaug.matching.pieces import Piece, pieces_of, takes_sign
from weightaug.matching.procrustes import best_inner, best_map

__all__ = ["match_table", "neutral"]

# Relative to the scores; smaller gains of the inner product are rounding.
_GAIN = {torch.float32: 1e-6, torch.float64: 1e-10}


_JOINT = 6  # signs that meet in one factor of a tensor: beyond, they are left as they are
_FEW = 0.6  # of a space: beyond, computing all products anew takes less time than what few positions changed


def match_table(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    *,
    maps: bool,
    signs: bool,
    max_sweeps: int,
    starts: Sequence[str],
    keep_identity: bool = True,
) -> GroupElement:
    """Aligns b to a, pair by pair: permutations of every space, signs, and orthogonal maps of linear ones.

    Args:
        a: The networks to align to, one batch dimension, float32 or float64: scores are computed in it.
        b: The networks to align, likewise.
        maps: Whether linear spaces are turned; else they are permuted.
        signs: Whether neurons of odd and even activations change their signs.
        max_sweeps: Limit on the sweeps over all spaces.
        starts: Where the descent starts, ``"identity"`` or ``"forward"`` (after the walk) or both; the best is kept.
        keep_identity: Whether to return the identity where nothing better is found.
    """
    best = neutral(a.architecture, len(a), maps, signs, b.dtype)
    if not len(a):
        return best
    reached: Tensor | None = None
    for name in starts:
        group, moved = _descend(_Work(a, b, maps, signs), max_sweeps, walk=name == "forward")
        aligned = (act(b, group) if moved is None else moved).tensors()
        if coincide(a.tensors(), aligned):
            return group  # nothing is closer
        if reached is None:
            reached = inner_products(a.tensors(), b.tensors())
            reached = reached if keep_identity else torch.full_like(reached, -torch.inf)
        value = inner_products(a.tensors(), aligned)
        closer = value >= reached  # never further apart than before
        best = group if bool(closer.all()) else _replaced(best, closer.nonzero().squeeze(1), group[closer])
        reached = torch.maximum(reached, value)
    return best


def neutral(arch: Architecture, count: int, maps: bool, signs: bool, dtype: torch.dtype) -> GroupElement:
    """The identity, with all parts that matching finds, for a flat batch."""
    permutation: list[Tensor | None] = []
    turned: list[Tensor | None] = []
    signed = {s for own in _signed(arch, maps, signs).values() for s in own}
    scale: list[Tensor | None] = []
    for s, (space, shape) in enumerate(zip(arch.hidden, arch.slot_shapes, strict=True)):
        turns, own = space.linear and maps, s in arch.movers
        permutation.append(torch.arange(space.size).repeat(count, *shape[:-1], 1) if own and not turns else None)
        turned.append(torch.eye(space.size, dtype=dtype).repeat(count, *shape[:-1], 1, 1) if turns else None)
        scale.append(torch.ones(count, space.size, dtype=dtype) if s in signed else None)
    return GroupElement(arch, tuple(permutation), tuple(scale), (None,) * len(permutation), tuple(turned))


def _signed(arch: Architecture, maps: bool, signs: bool) -> dict[int, list[int]]:
    """For each space that moves by itself, the spaces that permute with it and have signs in use."""
    found: dict[int, list[int]] = {}
    for s, space in enumerate(arch.hidden):
        if signs and "sign" in space.symmetries and len(arch.slot_shapes[s]) == 1 and not (space.linear and maps):
            found.setdefault(arch.masters[s], []).append(s)
    return found


def _descend(work: _Work, max_sweeps: int, *, walk: bool) -> tuple[GroupElement, WeightSpaceElement | None]:
    """Sweeps until no space of any pair gains; the symmetry, and the moved networks if all are at hand."""
    if walk:
        work.walk()
    count = len(work.a[0])
    group = work.group
    left = torch.arange(count)  # the pairs that may gain
    gained = work.may_gain()
    for _ in range(max_sweeps):
        rest = int(gained.sum())
        if not rest:
            break
        if rest < 0.9 * len(left):  # what has come to rest is left out
            chosen = gained.nonzero().squeeze(1)
            left = left[chosen]
            work = work.only(chosen)
        gained = work.sweep()
        group = work.group if len(left) == count else _replaced(group, left, work.group)
    return group, work.b if len(left) == count else None


def _replaced(group: GroupElement, rows: Tensor, part: GroupElement) -> GroupElement:
    """A group element with some rows of its batch replaced."""

    def put(whole: Sequence[Tensor | None], new: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        pairs = zip(whole, new, strict=True)
        return tuple([None if w is None or n is None else w.index_copy(0, rows, n) for w, n in pairs])

    permutation, maps = put(group.permutation, part.permutation), put(group.maps, part.maps)
    return GroupElement(group.architecture, permutation, put(group.scale, part.scale), group.shift, maps)


def _only(group: GroupElement, chosen: Tensor) -> GroupElement:
    """The identity for all pairs but the chosen ones."""

    def pick(t: Tensor | None, is_map: bool) -> Tensor | None:
        if t is None:
            return None
        neutral = torch.eye(t.shape[-1], dtype=t.dtype) if is_map else torch.arange(t.shape[-1])
        return t.where(chosen.view(-1, *[1] * (t.dim() - 1)), neutral.to(t.device))

    permutation = tuple([pick(t, False) for t in group.permutation])
    scale = tuple([None if t is None else t.where(chosen.unsqueeze(1), 1.0) for t in group.scale])
    maps = tuple([pick(t, True) for t in group.maps])
    return GroupElement(group.architecture, permutation, scale, group.shift, maps)


class _Step(NamedTuple):
    """A move of one space and of what lies within it.

    Attributes:
        group: The move.
        gain: What the inner product of a and b gains by it, ``(B,)``, counted over the pieces that were looked at.
        size: How large the terms of that are, ``(B,)``.
    """

    group: GroupElement
    gain: Tensor
    size: Tensor


class _Work:
    """A batch of pairs, and the symmetry found so far."""

    def __init__(self, a: WeightSpaceElement, b: WeightSpaceElement, maps: bool, signs: bool) -> None:
        arch = a.architecture
        self.arch = arch
        self.maps, self.signs = maps, signs
        self.signed = _signed(arch, maps, signs)
        self.a = a.tensors()
        self.b = b
        self.group = neutral(arch, len(a), maps, signs, b.dtype)
        self.pieces = pieces_of(arch)
        turning = {s for s, space in enumerate(arch.hidden) if space.linear and maps}
        slots = sorted(turning | set(arch.movers))
        self.still = set(range(len(arch.hidden))) - set(slots)  # pairs under rotary positions that are not turned
        self.inner: dict[int, list[int]] = {s: [] for s in slots}
        for s in slots:
            outer = arch.outers[s]
            if outer is not None:
                self.inner[outer].append(s)
        # A space within another is moved with it; one within a fixed space by itself.
        self.slots = [s for s in slots if arch.outers[s] is None]
        self.around = {s: [piece for piece in self.pieces if s in piece.slots] for s in slots}
        self.alone = {(piece.number, s) for s in slots for piece in self.around[s] if self._alone(piece, s)}
        # The gain of a move is what its scores say where each piece follows the space along one factor.
        self.simple = {s: all((piece.number, s) in self.alone for piece in self.around[s]) for s in slots}
        # Of each space, the signs that have to be chosen together, and what each choice multiplies them with.
        self.states = {s: self._together(s, b.dtype) for s in self.signed}
        # What has changed since when: a space's last move, and the last visit to it, in a common count.
        self.clock = 0
        self.moved = dict.fromkeys(range(len(arch.hidden)), 0)
        self.visited: dict[int, int] = {}
        # (piece, move) -> inner products of the positions along it, and when they were computed.
        self.known: dict[tuple[int, int], tuple[Tensor, int]] = {}
        self.rows: dict[tuple[int, int], Tensor] = {}  # (piece, move) -> the positions of a along it, which stay

    def only(self, chosen: Tensor) -> _Work:
        """The work on some of the pairs."""
        pick = WeightSpaceElement(self.arch, tuple([t[chosen] for t in self.a]), ())
        rest = _Work(pick, self.b.map(lambda t: t[chosen]), self.maps, self.signs)
        rest.group = self.group.map(lambda t: t[chosen])
        rest.clock, rest.moved, rest.visited = self.clock, dict(self.moved), dict(self.visited)
        rest.known = {key: (score[chosen], when) for key, (score, when) in self.known.items()}
        return rest

    def may_gain(self) -> Tensor:
        """The pairs that do not coincide, ``(B,)``: the inner product can gain half their squared distance at most."""
        if coincide(self.a, self.b.tensors()):
            return torch.zeros(len(self.a[0]), dtype=torch.bool)
        apart = squared_distances(self.a, self.b.tensors())
        return apart > 2 * _GAIN[self.b.dtype] * inner_products(self.a, self.a)

    def walk(self) -> None:
        """Settles the spaces one after the other, best known first."""
        open_slots = list(self.slots)
        settled: set[int] = set()
        while open_slots:
            slot = max(open_slots, key=lambda s: (self._evidence(s, settled), -s))
            known = settled if self._evidence(slot, settled) else None
            self._move(slot, self._step(slot, known).group)
            open_slots.remove(slot)
            settled |= {slot, *self.inner[slot]}
            for s in self._one_by_one(slot):
                self._move(s, self._step(s, settled if known is not None else None).group)

    def sweep(self) -> Tensor:
        """Visits every space around which something has moved; whether a pair gained, ``(B,)``."""
        gained = torch.zeros(len(self.a[0]), dtype=torch.bool)
        for slot in self.slots:
            own = {slot, *self.inner[slot]}
            pieces = self._relevant(slot, None, own)
            last = max([self.moved[s] for piece in pieces for s in piece.slots], default=0)
            if self.visited.get(slot, -1) >= last:
                continue
            gained |= self._settle(slot)
            for s in self._one_by_one(slot):
                gained |= self._settle(s)
            self.clock += 1
            self.visited[slot] = self.clock
        return gained

    def _one_by_one(self, slot: int) -> list[int]:
        """Several spaces within one, those first that some tensor follows without the others."""
        inner = self.inner[slot]
        return sorted(inner, key=lambda s: not self._clear(self.around[s], s, inner)) if len(inner) > 1 else []

    def _clear(self, pieces: Sequence[Piece], slot: int, inner: Sequence[int]) -> list[Piece]:
        """The pieces that follow one of some spaces, and none of the others."""
        return [p for p in pieces if p.slots.intersection(inner) == {slot}]

    def _alone(self, piece: Piece, slot: int) -> bool:
        own = [move for move in piece.plan.moves if move.slot == slot]
        inside = [move for move in piece.plan.moves if move.slot in self.inner[slot]]
        return len(own) == 1 and len(inside) <= 1

    def _evidence(self, slot: int, settled: set[int]) -> int:
        """How many numbers of each position of a space stand against settled ones."""
        count = 0
        for piece in self._relevant(slot, settled, {slot, *self.inner[slot]}):
            shape = piece.plan.factors or piece.plan.shape
            count += torch.Size(shape).numel() // self.arch.hidden[slot].size
        return count

    def _relevant(self, slot: int, settled: set[int] | None, own: set[int]) -> list[Piece]:
        pieces = self.around[slot]
        if settled is None:
            return pieces
        # A piece that follows a space twice stands against itself, not against something settled.
        known = settled | own | self.still
        return [p for p in pieces if p.slots <= known and (p.number, slot) in self.alone]

    def _settle(self, slot: int) -> Tensor:
        """Moves one space, and what lies within it, to the best place; whether a pair gained, ``(B,)``."""
        step = self._step(slot, None)
        gain, size = step.gain, step.size
        if not self.simple[slot]:
            before = inner_products(self.a, self.b.tensors())
            gain, size = inner_products(self.a, act(self.b, step.group).tensors()) - before, before.abs()
        better = gain > _GAIN[self.b.dtype] * size.clamp(min=1e-30)
        if bool(better.any()):
            self._move(slot, step.group if bool(better.all()) else _only(step.group, better))
        return better.cpu()

    def _move(self, slot: int, step: GroupElement) -> None:
        before = self.b
        self.b, self.group = act(self.b, step), step @ self.group
        self.clock += 1
        last = dict(self.moved)
        for s in (slot, *self.inner[slot]):
            self.moved[s] = self.clock
        order = step.permutation[slot]
        few = self._few(slot, step)
        for (i, m), (score, when) in list(self.known.items()):
            piece = self.pieces[i]
            move = piece.plan.moves[m]
            others = max([last[s] for s in piece.slots if s != move.slot], default=0)
            if when < others:
                continue  # it was out of date before
            if move.slot == slot:
                # What is known of the space itself moves along: its columns are positions of b.
                if order is None:
                    del self.known[i, m]
                else:
                    score = score.gather(2, order.unsqueeze(1).expand_as(score))
                    for s in self._odd(move):
                        factor = step.scale[s]
                        score = score if factor is None else score * factor.unsqueeze(1)
                    self.known[i, m] = (score, when)
            elif few is not None and slot in piece.slots and (i, slot) in self.alone:
                # What a few positions of the space say of another is taken out, and put in anew.
                axis = 1 + next(other.axis for other in piece.plan.moves if other.slot == slot)
                x, y, old = (piece.of(t).index_select(axis, few) for t in (self.a, self.b.tensors(), before.tensors()))
                self.known[i, m] = (score + _rows(x, move) @ _rows(y - old, move).mT, self.clock)

    def _few(self, slot: int, step: GroupElement) -> Tensor | None:
        """The positions that move or flip in any pair, if these are a small part of the space."""
        order = step.permutation[slot]
        if order is None or self.inner[slot] or order.dim() != 2:
            return None
        changed = order != torch.arange(order.shape[-1])
        for s in self.signed.get(slot, ()):
            factor = step.scale[s]
            changed = changed if factor is None else changed | (factor < 0)
        moved = changed.any(0).nonzero().squeeze(1)
        return moved if len(moved) <= _FEW * order.shape[-1] else None

    def _odd(self, move: Move) -> tuple[int, ...]:
        """The spaces with signs whose signs one factor of a tensor takes."""
        own = self.signed.get(move.slot, ())
        odd = [s for s, degree in move.roles if s in own and takes_sign(self.arch, s, degree)]
        return tuple(sorted(odd))

    def _step(self, slot: int, settled: set[int] | None) -> _Step:
        arch = self.arch
        none = (None,) * len(arch.hidden)
        permutation, maps, scale = (list[Tensor | None](none) for _ in range(3))
        own = {slot, *self.inner[slot]}
        pieces = self._relevant(slot, settled, own)

        def step(gain: Tensor, size: Tensor) -> _Step:
            return _Step(GroupElement(arch, tuple(permutation), tuple(scale), none, tuple(maps)), gain, size)

        group, turned = arch.hidden[slot].maps, arch.hidden[slot].linear and self.maps
        if arch.outer_sizes[slot] is not None:  # within a fixed space: each copy by itself
            cross = self._nested(pieces, int(arch.outer_sizes[slot] or 1), slot).diagonal(dim1=1, dim2=2).movedim(-1, 1)
            if turned:
                maps[slot], best = best_map(group, cross)
            else:
                order = permutation[slot] = assign(cross.flatten(0, 1)).view(cross.shape[:-1])
                best = _taken(cross, order)
            return step((best - _trace(cross)).sum(1), _size(cross).sum(1))
        if turned:
            score = self._similarity(pieces, slot)
            maps[slot], best = best_map(group, score)
            return step(best - _trace(score), _size(score))
        inner_slots = self.inner[slot]
        # Of several spaces within one, those that always come together are settled afterwards, one by one.
        within = {s: self._clear(pieces, s, inner_slots) for s in inner_slots}
        crosses = {s: self._nested(found, arch.hidden[slot].size, s) for s, found in within.items() if found}
        alone = [p for p in pieces if not any(s in p.slots for s in inner_slots)]
        now = self._similarity(alone, slot)
        score, signs = self._signs_for_each(alone, slot) if slot in self.states else (now, {})
        now, size = _trace(now), _size(score)
        columns: dict[int, Tensor] = {}
        for s, cross in crosses.items():
            now = now + _trace(cross.diagonal(dim1=1, dim2=2).movedim(-1, 1)).sum(1)
            if arch.hidden[s].linear and self.maps:
                score = score + best_inner(arch.hidden[s].maps, cross)
                continue
            columns[s] = assign(cross.flatten(0, 2)).view(cross.shape[:-1])
            score = score + _taken(cross, columns[s])
        order = permutation[slot] = assign(score)
        for s, sign in signs.items():
            scale[s] = sign.gather(2, order.unsqueeze(2)).squeeze(2)
        for s, cross in crosses.items():
            index = order[:, :, None]
            if s in columns:
                inside = columns[s]
                permutation[s] = inside.gather(2, index[..., None].expand(-1, -1, 1, inside.shape[-1])).squeeze(2)
            else:
                chosen = cross.gather(2, index[..., None, None].expand(-1, -1, 1, *cross.shape[-2:])).squeeze(2)
                maps[s] = best_map(arch.hidden[s].maps, chosen)[0]
        return step(_taken(score, order) - now, torch.maximum(size, _size(score)))

    def _similarity(self, pieces: Sequence[Piece], slot: int) -> Tensor:
        """Inner products of the positions of a space in a and b, ``(B, size, size)``."""
        size = self.arch.hidden[slot].size
        total = self.a[0].new_zeros(len(self.a[0]), size, size)
        for piece in pieces:
            for m, move in enumerate(piece.plan.moves):
                if move.slot == slot:
                    total += self._products(piece.number, m)
        return total

    def _together(self, slot: int, dtype: torch.dtype) -> list[dict[int, Tensor]]:
        """The signs of a space in groups that meet in one factor of a tensor, and the states of each group.

        Groups of more than ``_JOINT`` signs keep them.
        """
        groups = [{s} for s in self.signed[slot]]
        for piece in self.around[slot]:
            for move in piece.plan.moves:
                if move.slot == slot and len(odd := set(self._odd(move))) > 1:
                    met = [g for g in groups if g & odd]
                    groups = [g for g in groups if not g & odd] + [set().union(*met)]
        found = []
        for group in groups:
            states = torch.arange(2 ** len(group) if len(group) <= _JOINT else 1)
            found.append({s: 1 - 2 * (states >> i & 1).to(dtype) for i, s in enumerate(sorted(group))})
        return found

    def _signs_for_each(self, pieces: Sequence[Piece], slot: int) -> tuple[Tensor, dict[int, Tensor]]:
        """Inner products with the signs of b that make each the largest, and these signs, ``(B, size, size)``."""
        by_signs: dict[tuple[int, ...], Tensor] = {}
        for piece in pieces:
            for m, move in enumerate(piece.plan.moves):
                if move.slot == slot:
                    odd, products = self._odd(move), self._products(piece.number, m)
                    by_signs[odd] = by_signs[odd] + products if odd in by_signs else products
        size = self.arch.hidden[slot].size
        score = self.a[0].new_zeros(len(self.a[0]), size, size)
        if () in by_signs:
            score = score + by_signs[()]
        chosen: dict[int, Tensor] = {}
        for states in self.states[slot]:
            count = len(next(iter(states.values())))
            total = self.a[0].new_zeros(count, *score.shape)
            for odd, products in by_signs.items():
                if odd and odd[0] in states:
                    factor = torch.stack([states[s] for s in odd]).prod(0)
                    total += factor.view(-1, 1, 1, 1) * products
            best, state = total.max(0)
            score = score + best
            chosen |= {s: sign[state] for s, sign in states.items()}
        return score, chosen

    def _products(self, i: int, m: int) -> Tensor:
        """What one piece says of the space of one of its moves; computed where another of its spaces has moved."""
        piece = self.pieces[i]
        move = piece.plan.moves[m]
        score, when = self.known.get((i, m), (None, -1))
        if score is None or when < max([self.moved[s] for s in piece.slots if s != move.slot], default=0):
            x = self.rows.get((i, m))
            if x is None:
                x = self.rows[i, m] = _rows(piece.of(self.a), move)
            score = x @ _rows(piece.of(self.b.tensors()), move).mT
            if (i, move.slot) in self.alone:
                self.known[i, m] = (score, self.clock)
        return score

    def _nested(self, pieces: Sequence[Piece], outer: int, inner: int) -> Tensor:
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


def _taken(score: Tensor, columns: Tensor) -> Tensor:
    """The total score of assignments."""
    return score.gather(-1, columns.unsqueeze(-1)).squeeze(-1).sum(-1)


def _trace(score: Tensor) -> Tensor:
    return score.diagonal(dim1=-2, dim2=-1).sum(-1)


def _size(score: Tensor) -> Tensor:
    """How large the terms of an assignment's total are."""
    return score.abs().amax(-1).sum(-1)
