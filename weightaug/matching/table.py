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
from weightaug.matching.pieces import Piece
from weightaug.matching.procrustes import best_inner, best_map
from weightaug.matching.table_compiled import match_in_loops, tables_of
from weightaug.matching.table_wiring import TableWiring, signed_spaces, wiring_of

__all__ = ["match_table", "neutral"]

# Relative to the scores; smaller gains of the inner product are rounding.
_GAIN = {torch.float32: 1e-6, torch.float64: 1e-10}

_PAIRS = 64  # of small networks: fewer are not worth a thread
_FEW = 0.6  # of a space: beyond, computing all products anew takes less time than what few positions changed
_TELLING = 256  # numbers of a position that tell it from others where one of them is the same


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
        max_sweeps: Limit on the sweeps over all spaces; 0 for what the starts find.
        starts: Where the descent starts, ``"identity"`` or ``"forward"`` (after the walk) or both; the best is kept.
        keep_identity: Whether to return the identity where nothing better is found.
    """
    best = neutral(a.architecture, len(a), maps, signs, b.dtype)
    if not len(a):
        return best
    tables = tables_of(a.architecture, maps, signs)
    if tables is not None:
        workers = min(torch.get_num_threads(), max(len(a) // _PAIRS, 1))
        found = match_in_loops(
            a.tensors(),
            b.tensors(),
            tables,
            starts=starts,
            keep_identity=keep_identity,
            max_sweeps=max_sweeps,
            tolerance=_GAIN[b.dtype],
            workers=workers,
        )
        if found is not None:
            places, found_signs = found
            return _placed(best, wiring_of(a.architecture, maps, signs), places, found_signs.to(b.dtype))
    reached: Tensor | None = None
    for name in starts:
        work = _Work(a, b, maps, signs)
        group, moved = _descend(work, max_sweeps, walk=name == "forward")
        if work.coincides:
            return group  # nothing is closer
        aligned = (act(b, group) if moved is None else moved).tensors()
        if reached is None:
            reached = inner_products(a.tensors(), b.tensors())
            reached = reached if keep_identity else torch.full_like(reached, -torch.inf)
        value = inner_products(a.tensors(), aligned)
        closer = value >= reached  # never further apart than before
        best = group if bool(closer.all()) else _replaced(best, closer.nonzero().squeeze(1), group[closer])
        reached = torch.maximum(reached, value)
    return best


def _placed(neutral: GroupElement, wiring: TableWiring, places: Tensor, signs: Tensor) -> GroupElement:
    """Permutations and signs of all spaces that move, side by side, as a group element."""
    permutation, scale, first = list(neutral.permutation), list(neutral.scale), 0
    for s in wiring.slots:
        some = slice(first, first + wiring.arch.hidden[s].size)
        permutation[s], first = places[:, some], some.stop
        for own in wiring.signed.get(s, ()):
            scale[own] = signs[:, some]
    return GroupElement(neutral.architecture, tuple(permutation), tuple(scale), neutral.shift, neutral.maps)


def neutral(arch: Architecture, count: int, maps: bool, signs: bool, dtype: torch.dtype) -> GroupElement:
    """The identity, with all parts that matching finds, for a flat batch."""
    permutation: list[Tensor | None] = []
    turned: list[Tensor | None] = []
    signed = {s for own in signed_spaces(arch, maps, signs).values() for s in own}
    scale: list[Tensor | None] = []
    for s, (space, shape) in enumerate(zip(arch.hidden, arch.slot_shapes, strict=True)):
        turns, own = space.linear and maps, s in arch.movers
        permutation.append(torch.arange(space.size).repeat(count, *shape[:-1], 1) if own and not turns else None)
        turned.append(torch.eye(space.size, dtype=dtype).repeat(count, *shape[:-1], 1, 1) if turns else None)
        scale.append(torch.ones(count, space.size, dtype=dtype) if s in signed else None)
    return GroupElement(arch, tuple(permutation), tuple(scale), (None,) * len(permutation), tuple(turned))


def _descend(work: _Work, max_sweeps: int, *, walk: bool) -> tuple[GroupElement, WeightSpaceElement | None]:
    """Sweeps until no space of any pair gains; the symmetry, and the moved networks if all are at hand."""
    if walk:
        work.walk()
    count = len(work.a[0])
    group = work.group
    if not max_sweeps:
        return group, work.b
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
        self.wiring = wiring_of(arch, maps, signs)
        self.a = a.tensors()
        self.b = b
        self.coincides = False  # whether all pairs do, bit for bit
        self.briefly = False  # whether products are made of some numbers of each position, and not kept
        self.group = neutral(arch, len(a), maps, signs, b.dtype)
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
        self.coincides = coincide(self.a, self.b.tensors())
        if self.coincides:
            return torch.zeros(len(self.a[0]), dtype=torch.bool)
        apart = squared_distances(self.a, self.b.tensors())
        return apart > 2 * _GAIN[self.b.dtype] * inner_products(self.a, self.a)

    def walk(self) -> None:
        """Settles the spaces one after the other, best known first.

        As long as all that is settled coincides, as it does in copies, some numbers of each position are enough.
        """
        copies = True
        for slot, known in self.wiring.stages:
            if copies and known is not None:
                self.briefly = True
                self._move(slot, self._step(slot, known).group)
                self.briefly, copies = False, self._coincides(slot, known)
                if copies:
                    continue
            self._move(slot, self._step(slot, known).group)

    def _coincides(self, slot: int, settled: frozenset[int]) -> bool:
        """Whether all pairs do in what follows a space and settled ones."""
        pieces, a, b = self.wiring.relevant(slot, settled), self.a, self.b.tensors()
        return coincide([piece.of(a) for piece in pieces], [piece.of(b) for piece in pieces])

    def sweep(self) -> Tensor:
        """Visits every space around which something has moved; whether a pair gained, ``(B,)``."""
        gained = torch.zeros(len(self.a[0]), dtype=torch.bool)
        for slot in self.wiring.slots:
            last = max([self.moved[s] for piece in self.wiring.around[slot] for s in piece.slots], default=0)
            if self.visited.get(slot, -1) >= last:
                continue
            before = self.clock
            gained |= self._settle(slot)
            for s in self.wiring.one_by_one(slot):
                gained |= self._settle(s)
            self.clock += 1
            # A space that some piece follows twice is near to itself.
            self.visited[slot] = self.clock if self.wiring.simple[slot] else before
        return gained

    def _settle(self, slot: int) -> Tensor:
        """Moves one space, and what lies within it, to the best place; whether a pair gained, ``(B,)``."""
        step = self._step(slot, None)
        gain, size = step.gain, step.size
        if not self.wiring.simple[slot]:
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
        for s in (slot, *self.wiring.inner[slot]):
            self.moved[s] = self.clock
        order = step.permutation[slot]
        few = self._few(slot, step)
        for (i, m), (score, when) in list(self.known.items()):
            piece = self.wiring.pieces[i]
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
                    for s in self.wiring.odd(move):
                        factor = step.scale[s]
                        score = score if factor is None else score * factor.unsqueeze(1)
                    self.known[i, m] = (score, when)
            elif few is not None and slot in piece.slots and (i, slot) in self.wiring.alone:
                # What a few positions of the space say of another is taken out, and put in anew.
                axis = 1 + next(other.axis for other in piece.plan.moves if other.slot == slot)
                x, y, old = (piece.of(t).index_select(axis, few) for t in (self.a, self.b.tensors(), before.tensors()))
                self.known[i, m] = (score + _rows(x, move) @ _rows(y - old, move).mT, self.clock)

    def _few(self, slot: int, step: GroupElement) -> Tensor | None:
        """The positions that move or flip in any pair, if these are a small part of the space."""
        order = step.permutation[slot]
        if order is None or self.wiring.inner[slot] or order.dim() != 2:
            return None
        changed = order != torch.arange(order.shape[-1])
        for s in self.wiring.signed.get(slot, ()):
            factor = step.scale[s]
            changed = changed if factor is None else changed | (factor < 0)
        moved = changed.any(0).nonzero().squeeze(1)
        return moved if len(moved) <= _FEW * order.shape[-1] else None

    def _step(self, slot: int, settled: frozenset[int] | None) -> _Step:
        arch = self.arch
        none = (None,) * len(arch.hidden)
        permutation, maps, scale = (list[Tensor | None](none) for _ in range(3))
        pieces = self.wiring.relevant(slot, settled)

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
        inner_slots = self.wiring.inner[slot]
        # Of several spaces within one, those that always come together are settled afterwards, one by one.
        within = {s: self.wiring.clear(pieces, s, inner_slots) for s in inner_slots}
        crosses = {s: self._nested(found, arch.hidden[slot].size, s) for s, found in within.items() if found}
        alone = [p for p in pieces if not any(s in p.slots for s in inner_slots)]
        now = self._similarity(alone, slot)
        score, signs = self._signs_for_each(alone, slot) if slot in self.wiring.states else (now, {})
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

    def _signs_for_each(self, pieces: Sequence[Piece], slot: int) -> tuple[Tensor, dict[int, Tensor]]:
        """Inner products with the signs of b that make each the largest, and these signs, ``(B, size, size)``."""
        by_signs: dict[tuple[int, ...], Tensor] = {}
        for piece in pieces:
            for m, move in enumerate(piece.plan.moves):
                if move.slot == slot:
                    odd, products = self.wiring.odd(move), self._products(piece.number, m)
                    by_signs[odd] = by_signs[odd] + products if odd in by_signs else products
        size = self.arch.hidden[slot].size
        score = self.a[0].new_zeros(len(self.a[0]), size, size)
        if () in by_signs:
            score = score + by_signs[()]
        chosen: dict[int, Tensor] = {}
        for states in self.wiring.states[slot]:
            count = len(next(iter(states.values())))
            total = self.a[0].new_zeros(count, *score.shape)
            for odd, products in by_signs.items():
                if odd and odd[0] in states:
                    factor = torch.stack([states[s] for s in odd]).prod(0).to(total.dtype)
                    total += factor.view(-1, 1, 1, 1) * products
            best, state = total.max(0)
            score = score + best
            chosen |= {s: sign.to(score.dtype)[state] for s, sign in states.items()}
        return score, chosen

    def _products(self, i: int, m: int) -> Tensor:
        """What one piece says of the space of one of its moves; computed where another of its spaces has moved."""
        piece = self.wiring.pieces[i]
        move = piece.plan.moves[m]
        if self.briefly:
            few_a, few_b = (_rows(_some(piece.of(t), move), move) for t in (self.a, self.b.tensors()))
            return few_a @ few_b.mT
        score, when = self.known.get((i, m), (None, -1))
        if score is None or when < max([self.moved[s] for s in piece.slots if s != move.slot], default=0):
            x = self.rows.get((i, m))
            if x is None:
                x = self.rows[i, m] = _rows(piece.of(self.a), move)
            score = x @ _rows(piece.of(self.b.tensors()), move).mT
            if (i, move.slot) in self.wiring.alone:
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


def _some(tensor: Tensor, move: Move) -> Tensor:
    """About as many numbers of each position as tell it from the others: a part of the longest other axis."""
    others = [axis for axis in range(1, tensor.dim()) if axis != 1 + move.axis]
    longest = max(others, key=lambda axis: tensor.shape[axis], default=0)
    stride = tensor[0].numel() // tensor.shape[1 + move.axis] // _TELLING
    return tensor if stride < 2 else tensor[(slice(None),) * longest + (slice(None, None, stride),)]


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
