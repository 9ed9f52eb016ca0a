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

from weightaug._maps import turned
from weightaug._table import Move
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement
from weightaug.matching.colours import Colouring, chosen, other_states, positive, random_numbers, relative, split
from weightaug.matching.pieces import LETTERS, Piece, letters_of, pieces_of, takes_sign

__all__ = ["TableRefinement"]


class _Vertices(NamedTuple):
    """The positions of one space, in one or two states.

    Attributes:
        slot: The space.
        master: The space whose permutation it follows.
        shape: ``([outer,] n)``.
        sign: What a state multiplies it with, ``(S,)``; None for a space whose signs are not in use.
    """

    slot: int
    master: int
    shape: tuple[int, ...]
    sign: Tensor | None

    @property
    def states(self) -> int:
        """Number of states of a position."""
        return 1 if self.sign is None else len(self.sign)


class _Said(NamedTuple):
    """What the colours of one factor's spaces say, ``(B, [outer,] n)`` each.

    Attributes:
        even: Of the order of the positions, whatever their signs.
        odd: For each space whose sign the factor takes: changes its sign with that.
    """

    even: Tensor
    odd: dict[int, Tensor]

    def but(self, slot: int | None = None) -> Tensor:
        """The product of everything that is odd, but of one space."""
        result = self.even
        for s, said in self.odd.items():
            result = result if s == slot else result * said
        return result


class TableRefinement(Colouring):
    """A flat batch of networks, whose positions are told apart.

    Every space that moves by itself, and every space with signs, has vertices of its own: those that share a
    permutation tell each other what is known of a position.

    Args:
        x: The networks, a flat float64 batch whose factors and maps are chosen.
        signed: The spaces whose signs are in use.
        tolerance: See :class:`~weightaug.matching.colours.Colouring`.
    """

    def __init__(self, x: WeightSpaceElement, signed: Sequence[int], tolerance: float) -> None:
        self.x = x
        arch = self.arch = x.architecture
        self.pieces = [piece for piece in pieces_of(arch) if piece.plan.moves]
        both = x.weights[0].new_tensor([1.0, -1.0])
        self.groups = [
            _Vertices(s, arch.masters[s], arch.slot_shapes[s], both if s in signed else None)
            for s in range(len(arch.hidden))
            if arch.masters[s] == s or s in signed
        ]
        self.place = {group.slot: i for i, group in enumerate(self.groups)}
        self.alike = {m: [i for i, g in enumerate(self.groups) if g.master == m] for m in set(arch.masters)}
        sizes = [torch.Size(group.shape).numel() for group in self.groups]
        # What lies within a space comes after it, as its order follows that one's; signs after what they permute with.
        order = sorted(
            range(len(self.groups)),
            key=lambda i: (arch.outers[self.groups[i].slot] is not None, self.groups[i].slot != self.groups[i].master),
        )
        super().__init__(len(x), sizes, [group.states for group in self.groups], order, tolerance, x.device)

    def start(self, slot: int) -> Tensor:
        """Copies within a fixed space have a place of their own, so they differ from the start; rotary pairs too."""
        group, colours = self.groups[slot], super().start(slot)
        if group.slot not in self.arch.movers and group.slot == group.master:
            places = torch.arange(group.shape[-1], dtype=colours.dtype, device=colours.device)
            places = places.repeat_interleave(group.states)
            colours = colours + places.repeat(colours.shape[-1] // len(places))
        if len(group.shape) == 1 or self.arch.outers[group.master] is not None:
            return colours
        copies = torch.arange(group.shape[0], dtype=colours.dtype, device=colours.device)
        return colours + group.shape[1] * copies.repeat_interleave(group.shape[1] * group.states)

    # -- rounds --------------------------------------------------------------------------------------

    def refine(self, colours: list[Tensor], turn: int, part: Tensor) -> list[Tensor]:
        """One round: what all entries say of all positions at once; the sums of each vertex."""
        tensors = [chosen(t, part) for t in self.x.tensors()]
        keys = [
            torch.zeros(len(part), n, group.states, dtype=torch.float64, device=self.device)
            for n, group in zip(self.sizes, self.groups, strict=True)
        ]
        for piece in self.pieces:
            values = piece.of(tensors)
            unit = values / positive(values.abs().flatten(1).amax(1)).view(-1, *[1] * (values.dim() - 1))
            for function, entries in enumerate((unit.mul(2.1).sin_(), unit.mul_(3.3).cos_().sub_(1))):
                odd = function == 0
                said = [
                    self._said(move, colours, 3 * m + turn + function / 2) for m, move in enumerate(piece.plan.moves)
                ]
                for m, move in enumerate(piece.plan.moves):
                    sums = self._contract(piece, m, entries, said, turn, odd=odd)
                    weight = 1 + piece.number / 7 + m / 3 + function / 5
                    for i in self._told(move):
                        key = (sums * said[m].but(self.groups[i].slot) if odd else sums).reshape(len(part), -1, 1)
                        sign = self.groups[i].sign
                        if odd and sign is not None and self.groups[i].slot in said[m].odd:
                            key = key * sign
                        keys[i] += weight * relative(key.expand(-1, -1, self.groups[i].states))
        whole = [relative(key) for key in keys]
        for i, group in enumerate(self.groups):
            own = other_states(colours[i], group.states, turn) / 2
            for j in self.alike[group.master]:
                if j != i:  # the same position as it stands in another space
                    numbers = colours[j].view(len(part), -1, self.groups[j].states)
                    own = own + random_numbers(numbers, 13 * j + turn).sum(2, keepdim=True) / (3 + j)
            keys[i] = relative(whole[i] + relative(own) / 2)
        flat = [key.flatten(1) for key in keys]
        for i, key in enumerate(flat):
            colours[i] = split(colours[i], key, self.tolerance)
        return flat

    def _odd(self, move: Move) -> list[int]:
        """The spaces whose signs one factor of a tensor takes."""
        signed = {group.slot for group in self.groups if group.sign is not None}
        return [slot for slot, degree in move.roles if slot in signed and takes_sign(self.arch, slot, degree)]

    def _told(self, move: Move) -> list[int]:
        """The vertices that hear of the entries along one factor: of the space that moves, and of its signs."""
        return [self.place[s] for s in dict.fromkeys([move.slot, *self._odd(move)])]

    def _said(self, move: Move, colours: Sequence[Tensor], turn: float) -> _Said:
        def random(slot: int, which: float) -> tuple[Tensor, _Vertices]:
            group = self.groups[self.place[slot]]
            return random_numbers(colours[self.place[slot]].view(-1, *group.shape, group.states), which), group

        odd = {}
        for k, slot in enumerate(self._odd(move)):
            numbers, group = random(slot, turn + 0.25 + 5 * k)
            assert group.sign is not None
            # An undecided sign cancels here, and so says nothing about the signs of others.
            odd[slot] = (numbers * group.sign).sum(-1)
        return _Said(random(move.slot, turn)[0].sum(-1), odd)

    def _contract(
        self, piece: Piece, m: int, entries: Tensor, said: Sequence[_Said], turn: float, *, odd: bool
    ) -> Tensor:
        """Sums of entries times what is said of all their other axes, for every position of one factor."""
        moves = piece.plan.moves
        letters = LETTERS[: entries.dim() - 1]
        terms, names = [entries], ["z" + letters]
        for other, move in enumerate(moves):
            if other != m:
                terms.append(said[other].but() if odd else said[other].even)
                names.append("z" + letters_of(move))
        for axis in sorted(set(range(entries.dim() - 1)) - {move.axis for move in moves}):
            numbers = torch.arange(entries.shape[1 + axis], dtype=entries.dtype, device=entries.device)
            terms.append(random_numbers(numbers, 11 * axis + turn))
            names.append(letters[axis])
        return torch.einsum(f"{','.join(names)}->z{letters_of(moves[m])}", *terms)

    def bound(self, open_neurons: Sequence[Tensor], part: Tensor) -> list[Tensor]:
        """Which open positions are connected to other open ones: by an entry that is not zero, or by being the same."""
        bound = [torch.zeros_like(t) for t in open_neurons]
        opened = {
            m: torch.stack([open_neurons[i] for i in own]).any(0).view(len(part), *self.groups[own[0]].shape)
            for m, own in self.alike.items()
        }
        tensors = [t[part] for t in self.x.tensors()]
        for piece in self.pieces:
            there = (piece.of(tensors) != 0).to(torch.float64)
            letters = "z" + LETTERS[: there.dim() - 1]
            for m, move in enumerate(piece.plan.moves):
                for other in piece.plan.moves[:m] + piece.plan.moves[m + 1 :]:
                    names = f"{letters},z{letters_of(other)}->z{letters_of(move)}"
                    met = torch.einsum(names, there, opened[other.slot].to(torch.float64)).reshape(len(part), -1) > 0
                    for i in self._told(move):
                        bound[i] |= met
        for own in self.alike.values():
            several = torch.stack([open_neurons[i] for i in own]).sum(0) > 1
            for i in own:
                bound[i] |= several
        return [b & t for b, t in zip(bound, open_neurons, strict=True)]

    # -- the representative --------------------------------------------------------------------------

    def representative(self) -> GroupElement:
        """The symmetry that orders positions by their colours, in the first of their states."""
        arch = self.arch
        none: tuple[Tensor | None, ...] = (None,) * len(arch.hidden)
        permutations, scales, maps = list(none), list(none), list(none)
        whole = self.colours()
        for i in self.order:
            group = self.groups[i]
            first, state = whole[i].view(self.count, *group.shape, group.states).min(-1)
            order = first.argsort(-1)
            outer = arch.outers[group.slot]
            moved = None if outer is None else permutations[outer]
            if moved is not None:  # the positions that they lie within have moved before
                index = moved.unsqueeze(-1).expand_as(order)
                order, state = order.gather(1, index), state.gather(1, index)
            if group.slot in arch.movers:
                permutations[group.slot] = order
            final = permutations[group.master]
            if group.sign is not None and final is not None:
                scales[group.slot] = group.sign[state].gather(-1, final)
            elif group.sign is not None:  # pairs of neurons, which have one sign: that of the first
                sign = group.sign[state[..., : state.shape[-1] // 2]]
                maps[group.slot] = turned(sign, torch.zeros_like(sign))
        return GroupElement(arch, tuple(permutations), tuple(scales), none, tuple(maps))
