"""Colour refinement of networks that are declared tensor by tensor: positions of every space in their signs.

An entry of a tensor is an edge between positions of all spaces that its axes follow. What an entry says of one of them
is a fixed random function of the entry times random functions of the colours of the others: an odd one, which takes the
signs of all states, and an even one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weightaug._table import Move
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement
from weightaug.matching.colours import Colouring, other_states, positive, random_numbers, relative, split
from weightaug.matching.pieces import Piece, letters_of, pieces_of

__all__ = ["TableRefinement"]


class _Vertices(NamedTuple):
    """The positions of one space, with those that permute with it, and their states.

    Attributes:
        slot: The space whose permutation they follow.
        shape: ``([outer,] n)``.
        signs: For each space with signs, what a state multiplies it with, ``(S,)``.
    """

    slot: int
    shape: tuple[int, ...]
    signs: dict[int, Tensor]
    states: int


class TableRefinement(Colouring):
    """A flat batch of networks, whose positions are told apart.

    Args:
        x: The networks, a flat float64 batch whose factors and maps are chosen.
        signed: The spaces whose signs are in use.
        tolerance: See :class:`~weightaug.matching.colours.Colouring`.
    """

    def __init__(self, x: WeightSpaceElement, signed: Sequence[int], tolerance: float) -> None:
        self.x = x
        arch = self.arch = x.architecture
        self.pieces = [piece for piece in pieces_of(arch) if piece.plan.moves]
        self.groups = [self._vertices(s, signed) for s in range(len(arch.hidden)) if arch.masters[s] == s]
        self.place = {group.slot: i for i, group in enumerate(self.groups)}
        sizes = [torch.Size(group.shape).numel() for group in self.groups]
        # What lies within a space comes after it, as its order follows that one's.
        order = sorted(range(len(self.groups)), key=lambda i: arch.outers[self.groups[i].slot] is not None)
        super().__init__(len(x), sizes, [group.states for group in self.groups], order, tolerance, x.device)

    def _vertices(self, slot: int, signed: Sequence[int]) -> _Vertices:
        own = [s for s in signed if self.arch.masters[s] == slot]
        states = torch.arange(2 ** len(own), device=self.x.device)
        signs = {s: 1.0 - 2.0 * (states >> i & 1).to(self.x.dtype) for i, s in enumerate(own)}
        return _Vertices(slot, self.arch.slot_shapes[slot], signs, len(states))

    def start(self, slot: int) -> Tensor:
        """Copies within a fixed space have a place of their own, so they differ from the start."""
        group, colours = self.groups[slot], super().start(slot)
        if len(group.shape) == 1 or self.arch.outers[group.slot] is not None:
            return colours
        copies = torch.arange(group.shape[0], dtype=colours.dtype, device=colours.device)
        return colours + copies.repeat_interleave(group.shape[1] * group.states)

    # -- rounds --------------------------------------------------------------------------------------

    def refine(self, colours: list[Tensor], turn: int, part: Tensor) -> list[Tensor]:
        """One round: what all entries say of all positions at once; the sums of each vertex."""
        tensors = [t if len(part) == self.count else t[part] for t in self.x.tensors()]
        keys = [torch.zeros(len(part), n, g.states, dtype=torch.float64, device=self.device) for n, g in self._sized()]
        for piece in self.pieces:
            values = piece.of(tensors)
            unit = values / positive(values.abs().flatten(1).amax(1)).view(-1, *[1] * (values.dim() - 1))
            odd, even = unit.mul(2.1).sin_(), unit.mul_(3.3).cos_().sub_(1)
            for m, move in enumerate(piece.plan.moves):
                group = self.groups[self.place[move.slot]]
                sign = self._sign(move)
                for function, entries in enumerate((odd, even)):
                    said = self._contract(piece, m, entries, colours, turn + function / 2, odd=function == 0)
                    said = said.reshape(len(part), -1, 1)
                    said = said * sign if function == 0 and sign is not None else said.expand(-1, -1, group.states)
                    keys[self.place[move.slot]] += (1 + piece.number / 7 + m / 3 + function / 5) * relative(said)
        for g, group in enumerate(self.groups):
            own = other_states(colours[g], group.states, turn)
            keys[g] = relative(relative(keys[g]) + own / 2)
        sums = [key.flatten(1) for key in keys]
        for g, key in enumerate(sums):
            colours[g] = split(colours[g], key, self.tolerance)
        return sums

    def _sized(self) -> list[tuple[int, _Vertices]]:
        return list(zip(self.sizes, self.groups, strict=True))

    def _sign(self, move: Move) -> Tensor | None:
        """What the states of a position multiply the odd function of an entry with, ``(S,)``; None for 1."""
        signs = self.groups[self.place[move.slot]].signs
        total: Tensor | None = None
        for slot, degree in move.roles:
            activation = self.arch.hidden[slot].activation
            even = activation is not None and activation.even and not activation.odd
            if slot in signs and degree % 2 and not (even and degree < 0):
                total = signs[slot] if total is None else total * signs[slot]
        return total

    def _contract(
        self, piece: Piece, m: int, entries: Tensor, colours: Sequence[Tensor], turn: float, *, odd: bool
    ) -> Tensor:
        """Sums of entries times what the colours at all their other axes say, for every position of one move."""
        moves = piece.plan.moves
        letters = "abcdefghijklmnopqrstuvwxy"[: entries.dim() - 1]
        terms, names = [entries], ["z" + letters]
        for other, move in enumerate(moves):
            if other == m:
                continue
            group = self.groups[self.place[move.slot]]
            numbers = colours[self.place[move.slot]].view(len(entries), *group.shape, group.states)
            random = random_numbers(numbers, 3 * other + turn)
            sign = self._sign(move) if odd else None
            # An undecided sign cancels here, and so says nothing about the signs of others.
            terms.append((random if sign is None else random * sign).sum(-1))
            names.append("z" + letters_of(move))
        fixed = [a for a in range(entries.dim() - 1) if a not in {move.axis for move in moves}]
        for axis in fixed:
            numbers = torch.arange(entries.shape[1 + axis], dtype=entries.dtype, device=entries.device)
            terms.append(random_numbers(numbers, 11 * axis + turn))
            names.append(letters[axis])
        return torch.einsum(f"{','.join(names)}->z{letters_of(moves[m])}", *terms)

    def bound(self, open_neurons: Sequence[Tensor], part: Tensor) -> list[Tensor]:
        """Which open positions share an entry that is not zero with open positions of another axis."""
        bound = [torch.zeros_like(t) for t in open_neurons]
        tensors = [t[part] for t in self.x.tensors()]
        for piece in self.pieces:
            there = (piece.of(tensors) != 0).to(torch.float64)
            letters = "z" + "abcdefghijklmnopqrstuvwxy"[: there.dim() - 1]
            for m, move in enumerate(piece.plan.moves):
                own = self.place[move.slot]
                for other in piece.plan.moves[:m] + piece.plan.moves[m + 1 :]:
                    group = self.place[other.slot]
                    opened = open_neurons[group].view(len(part), *self.groups[group].shape).to(torch.float64)
                    names = f"{letters},z{letters_of(other)}->z{letters_of(move)}"
                    bound[own] |= torch.einsum(names, there, opened).reshape(len(part), -1) > 0
        return [b & t for b, t in zip(bound, open_neurons, strict=True)]

    # -- the representative --------------------------------------------------------------------------

    def representative(self) -> GroupElement:
        """The symmetry that orders positions by their colours, in the first of their states."""
        arch = self.arch
        none: tuple[Tensor | None, ...] = (None,) * len(arch.hidden)
        permutations, scales = list(none), list(none)
        whole = self.colours()
        for g in self.order:
            group = self.groups[g]
            first, state = whole[g].view(self.count, *group.shape, group.states).min(-1)
            order = first.argsort(-1)
            outer = arch.outers[group.slot]
            moved = None if outer is None else permutations[outer]
            if moved is not None:  # the positions that they lie within have moved before
                index = moved.unsqueeze(-1).expand_as(order)
                order, state = order.gather(1, index), state.gather(1, index)
            permutations[group.slot] = order
            state = state.gather(-1, order)
            for slot, sign in group.signs.items():
                scales[slot] = sign[state]
        return GroupElement(arch, tuple(permutations), tuple(scales), none)
