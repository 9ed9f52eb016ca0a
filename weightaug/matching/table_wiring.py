"""What stands against what in networks that are declared tensor by tensor, and in which order a walk settles spaces."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from weightaug._table import Move
from weightaug.architecture import Architecture
from weightaug.matching.pieces import Piece, pieces_of, takes_sign

__all__ = ["Stage", "TableWiring", "signed_spaces", "wiring_of"]

_JOINT = 6  # signs that meet in one factor of a tensor: beyond, they are left as they are


class Stage(NamedTuple):
    """One stage of a walk.

    Attributes:
        slot: The space that is settled.
        known: The spaces that are settled before, or None where none of them says anything of this one.
    """

    slot: int
    known: frozenset[int] | None


def signed_spaces(arch: Architecture, maps: bool, signs: bool) -> dict[int, list[int]]:
    """For each space that moves by itself, the spaces that permute with it and have signs in use."""
    found: dict[int, list[int]] = {}
    for s, space in enumerate(arch.hidden):
        if signs and "sign" in space.symmetries and len(arch.slot_shapes[s]) == 1 and not (space.linear and maps):
            found.setdefault(arch.masters[s], []).append(s)
    return found


@lru_cache(maxsize=64)
def wiring_of(arch: Architecture, maps: bool, signs: bool) -> TableWiring:
    """What stands against what, worked out once."""
    return TableWiring(arch, maps, signs)


class TableWiring:
    """The pieces around every space, and what follows from them.

    Attributes:
        pieces: All pieces of all tensors.
        slots: The spaces that move by themselves, with what lies within them.
        inner: For each space, the spaces within it.
        around: For each space, the pieces that follow it.
        alone: Pairs (number of a piece, space) where the piece follows the space along one factor.
        simple: For each space, whether all pieces do: the gain of a move is what its scores say.
        signed: See :func:`signed_spaces`.
        states: Of each space, the signs that have to be chosen together, and what each choice multiplies them with.
    """

    def __init__(self, arch: Architecture, maps: bool, signs: bool) -> None:
        self.arch = arch
        self.signed = signed_spaces(arch, maps, signs)
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
        self.simple = {s: all((piece.number, s) in self.alone for piece in self.around[s]) for s in slots}
        self.states = {s: self._together(s) for s in self.signed}

    @cached_property
    def stages(self) -> list[Stage]:
        """Of a walk: the spaces one after the other, best known first."""
        stages, open_slots = [], list(self.slots)
        settled: set[int] = set()
        while open_slots:
            slot = max(open_slots, key=lambda s: (self._evidence(s, settled), -s))
            known = frozenset(settled) if self._evidence(slot, settled) else None
            stages.append(Stage(slot, known))
            open_slots.remove(slot)
            settled |= {slot, *self.inner[slot]}
            stages += [Stage(s, None if known is None else frozenset(settled)) for s in self.one_by_one(slot)]
        return stages

    def one_by_one(self, slot: int) -> list[int]:
        """Several spaces within one, those first that some tensor follows without the others."""
        inner = self.inner[slot]
        return sorted(inner, key=lambda s: not self.clear(self.around[s], s, inner)) if len(inner) > 1 else []

    def clear(self, pieces: Sequence[Piece], slot: int, inner: Sequence[int]) -> list[Piece]:
        """The pieces that follow one of some spaces, and none of the others."""
        return [p for p in pieces if p.slots.intersection(inner) == {slot}]

    def relevant(self, slot: int, settled: frozenset[int] | None) -> list[Piece]:
        """The pieces that tell something of a space, given which others are settled; None for all."""
        pieces = self.around[slot]
        if settled is None:
            return pieces
        # A piece that follows a space twice stands against itself, not against something settled.
        known = settled | {slot, *self.inner[slot]} | self.still
        return [p for p in pieces if p.slots <= known and (p.number, slot) in self.alone]

    def odd(self, move: Move) -> tuple[int, ...]:
        """The spaces with signs whose signs one factor of a tensor takes."""
        own = self.signed.get(move.slot, ())
        odd = [s for s, degree in move.roles if s in own and takes_sign(self.arch, s, degree)]
        return tuple(sorted(odd))

    def _alone(self, piece: Piece, slot: int) -> bool:
        own = [move for move in piece.plan.moves if move.slot == slot]
        inside = [move for move in piece.plan.moves if move.slot in self.inner[slot]]
        return len(own) == 1 and len(inside) <= 1

    def _evidence(self, slot: int, settled: set[int]) -> int:
        """How many numbers of each position of a space stand against settled ones."""
        count = 0
        for piece in self.relevant(slot, frozenset(settled)):
            shape = piece.plan.factors or piece.plan.shape
            count += torch.Size(shape).numel() // self.arch.hidden[slot].size
        return count

    def _together(self, slot: int) -> list[dict[int, Tensor]]:
        """The signs of a space in groups that meet in one factor of a tensor, and the states of each group.

        Groups of more than ``_JOINT`` signs keep them.
        """
        groups = [{s} for s in self.signed[slot]]
        for piece in self.around[slot]:
            for move in piece.plan.moves:
                if move.slot == slot and len(odd := set(self.odd(move))) > 1:
                    met = [g for g in groups if g & odd]
                    groups = [g for g in groups if not g & odd] + [set().union(*met)]
        found = []
        for group in groups:
            states = torch.arange(2 ** len(group) if len(group) <= _JOINT else 1, device="cpu")
            found.append({s: 1 - 2 * (states >> i & 1) for i, s in enumerate(sorted(group))})
        return found
