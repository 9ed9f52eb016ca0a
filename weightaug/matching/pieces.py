"""The pieces of tensors that are declared: one section each, with one axis for every factor, and how it moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from weightaug._table import Move, Plan
from weightaug.architecture import Architecture

__all__ = ["LETTERS", "Piece", "axes_of", "letters_of", "pieces_of", "takes_sign"]

LETTERS = "abcdefghijklmnopqrstuvwxy"  # of the axes of a piece, for einsum; "z" is left for the batch


class Piece(NamedTuple):
    """One section of one tensor, and how it moves.

    Attributes:
        number: Its place among all pieces.
        tensor: The tensor that it is part of.
        narrow: How it is cut out of that: (axis, start, size).
        plan: How it moves.
        slots: The spaces whose permutations it follows.
    """

    number: int
    tensor: int
    narrow: tuple[tuple[int, int, int], ...]
    plan: Plan
    slots: frozenset[int]

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """The section, with one axis for every factor behind the batch."""
        piece = tensors[self.tensor]
        for axis, start, size in self.narrow:
            piece = piece.narrow(1 + axis, start, size)
        return piece.reshape(len(piece), *(self.plan.factors or self.plan.shape))


def pieces_of(arch: Architecture) -> list[Piece]:
    """All pieces of all tensors of an architecture."""
    sections = [(tensor, *section) for tensor, plan in enumerate(arch.plan) for section in _sections(plan)]
    return [
        Piece(number, tensor, narrow, plan, frozenset(move.slot for move in plan.moves))
        for number, (tensor, narrow, plan) in enumerate(sections)
    ]


def axes_of(move: Move) -> tuple[int, ...]:
    """The axes of a piece along which values of a space stand: that of the space it lies within before its own."""
    return (move.axis,) if move.outer is None else (move.outer, move.axis)


def letters_of(move: Move) -> str:
    """Those axes as letters for einsum."""
    return "".join(LETTERS[axis] for axis in axes_of(move))


def takes_sign(arch: Architecture, slot: int, degree: int) -> bool:
    """Whether a tensor that follows a space in some degree changes its sign with the space's.

    What reads an even activation sees nothing of its signs.
    """
    activation = arch.hidden[slot].activation
    unseen = activation is not None and activation.even and not activation.odd and degree < 0
    return degree % 2 == 1 and not unseen


def _sections(plan: Plan, narrow: tuple[tuple[int, int, int], ...] = ()) -> Iterator[tuple[Any, Plan]]:
    """The sections of a tensor: how they are cut out, and their plans."""
    if plan.split is None:
        yield narrow, plan
        return
    axis, sizes, plans = plan.split
    start = 0
    for size, inner in zip(sizes, plans, strict=True):
        yield from _sections(inner, (*narrow, (axis, start, size)))
        start += size
