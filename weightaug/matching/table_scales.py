"""Positive scales of networks that are declared tensor by tensor: one choice for each orbit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weightaug._table import Move
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement
from weightaug.matching.colours import positive
from weightaug.matching.pieces import axes_of, letters_of, pieces_of

__all__ = ["balance_logs"]

_CLOSE, _STEPS = 1e-27, 2000  # of the squared residual of conjugate gradients; a few dozen steps reach that
_FLOOR = 1.0001  # how far a variance stays above the least that its norm's eps allows, in parts of eps


class _Side(NamedTuple):
    """One move of a piece that takes scales."""

    move: Move
    roles: tuple[tuple[int, int], ...]  # (space, degree)
    entries: Tensor  # how many are not zero for each position, ``(B, [outer,] n)``
    logs: Tensor  # the sum of their logarithms


class _Equations(NamedTuple):
    """What one piece asks of the logarithms of the scales."""

    sides: list[_Side]
    counts: dict[tuple[int, int], Tensor]  # for each two sides: the entries that have both positions


def balance_logs(x: WeightSpaceElement, slots: Sequence[int], linear: frozenset[int]) -> GroupElement:
    """The scales for which the squared logarithms of all entries that are not zero have the smallest sum.

    Such scales exist for every network, dead neurons included, and the network that they give does not depend on where
    in its orbit it started, since the sum is convex in the logarithms of the scales. A running variance counts
    with the eps of its norm; scales that would make one negative are raised until it is nearly zero.

    Args:
        x: A flat float64 batch.
        slots: The spaces whose scales are chosen; none of the linear ones.
        linear: Linear spaces whose maps are in use: tensors that follow them say nothing of scales. Along those whose
            maps are orthogonal, the norm counts instead of the entries.

    Raises:
        ValueError: If nothing but skipped tensors follows one of the spaces.
    """
    arch = x.architecture
    equations = _equations(x, frozenset(slots), linear)
    known = {s for e in equations for side in e.sides for s, _ in side.roles}
    for s in slots:
        if s not in known:
            raise ValueError(
                f"space {arch.hidden[s].name!r}: only tensors that invertible maps act on, too, follow it, which "
                "leaves its scales open; use symmetry='permutation', or several without 'maps' or without 'scale'"
            )
    none: tuple[Tensor | None, ...] = (None,) * len(arch.hidden)
    if not slots:
        return GroupElement.identity(arch)
    logs = _least_squares(x, slots, equations)
    _lift_variances(x, logs)
    scale = tuple([logs[s].exp() if s in logs else t for s, t in enumerate(none)])
    return GroupElement(arch, none, scale, none)


def _equations(x: WeightSpaceElement, wanted: frozenset[int], linear: frozenset[int]) -> list[_Equations]:
    found = []
    tensors = x.tensors()
    turned = frozenset(s for s in linear if x.architecture.hidden[s].maps == "orthogonal")
    for piece in pieces_of(x.architecture):
        roles = [tuple((s, d) for s, d in move.roles if s in wanted) for move in piece.plan.moves]
        if piece.slots & (linear - turned) or not any(roles):
            continue
        values = piece.of(tensors)
        over = [1 + move.axis for move in piece.plan.moves if move.slot in turned]
        values = torch.linalg.vector_norm(values, dim=over, keepdim=True) if over else values
        values = values if piece.plan.eps is None else values + piece.plan.eps
        there = values != 0
        logs = torch.where(there, values.abs(), 1.0).log()
        counted = there.to(x.dtype)
        sides = []
        for move, own in zip(piece.plan.moves, roles, strict=True):
            if own:
                axes = axes_of(move)
                sides.append(_Side(move, own, _kept(counted, axes), _kept(logs, axes)))
        counts = {}
        for i, first in enumerate(sides):
            for j, second in enumerate(sides[:i]):
                axes = tuple(dict.fromkeys((*axes_of(first.move), *axes_of(second.move))))
                counts[i, j] = _kept(counted, axes)
        found.append(_Equations(sides, counts))
    return found


def _kept(values: Tensor, axes: Sequence[int]) -> Tensor:
    """Sums over all axes of a piece but some, which come in their order, behind the batch."""
    others = [1 + a for a in range(values.dim() - 1) if a not in axes]
    left = sorted(axes)
    summed = values.sum(others) if others else values
    return summed.permute(0, *[1 + left.index(a) for a in axes])


def _least_squares(x: WeightSpaceElement, slots: Sequence[int], equations: list[_Equations]) -> dict[int, Tensor]:
    """Solves the normal equations by conjugate gradients, all networks at once."""
    arch = x.architecture
    shapes = {s: arch.slot_shapes[s] for s in slots}
    lengths = [torch.Size(shapes[s]).numel() for s in slots]

    def parts(flat: Tensor) -> dict[int, Tensor]:
        pieces = flat.split(lengths, 1)
        return {s: piece.reshape(len(flat), *shapes[s]) for s, piece in zip(slots, pieces, strict=True)}

    def gathered(values: dict[int, Tensor]) -> Tensor:
        return torch.cat([values[s].flatten(1) for s in slots], 1)

    def zeros() -> dict[int, Tensor]:
        return {s: torch.zeros(len(x), *shapes[s], dtype=x.dtype, device=x.device) for s in slots}

    pull, diagonal = zeros(), zeros()
    for equation in equations:
        for side in equation.sides:
            for s, degree in side.roles:
                pull[s] += degree * side.logs
                diagonal[s] += degree**2 * side.entries

    def product(flat: Tensor) -> Tensor:
        given, total = parts(flat), zeros()
        for sides, counts in equations:
            fields = [sum((d * given[s] for s, d in side.roles), torch.zeros_like(side.entries)) for side in sides]
            sums = [side.entries * field for side, field in zip(sides, fields, strict=True)]
            for (i, j), count in counts.items():
                own, other = letters_of(sides[i].move), letters_of(sides[j].move)
                both = "".join(dict.fromkeys(own + other))
                sums[i] = sums[i] + torch.einsum(f"z{both},z{other}->z{own}", count, fields[j])
                sums[j] = sums[j] + torch.einsum(f"z{both},z{own}->z{other}", count, fields[i])
            for side, value in zip(sides, sums, strict=True):
                for s, degree in side.roles:
                    total[s] += degree * value
        return gathered(total)

    scaling = positive(gathered(diagonal)).reciprocal()
    solution = torch.zeros_like(scaling)
    rest = -gathered(pull)
    step = scaling * rest
    size = (rest * step).sum(1)
    aim = _CLOSE * size
    for _ in range(_STEPS):
        if bool((size <= aim).all()):
            break
        moved = product(step)
        length = size / positive((step * moved).sum(1))
        solution += length.unsqueeze(1) * step
        rest = rest - length.unsqueeze(1) * moved
        after = (rest * scaling * rest).sum(1)
        step = scaling * rest + (after / positive(size)).unsqueeze(1) * step
        size = after
    return parts(solution)


def _lift_variances(x: WeightSpaceElement, logs: dict[int, Tensor]) -> None:
    """Raises scales that would make a running variance negative, in place."""
    tensors = x.tensors()
    for piece in pieces_of(x.architecture):
        eps = piece.plan.eps
        if eps is None:
            continue
        values = piece.of(tensors) + eps
        for move in piece.plan.moves:
            roles = [(s, d) for s, d in move.roles if s in logs]
            if len(roles) != 1 or len(move.roles) != 1:
                continue
            (s, degree), axes = roles[0], axes_of(move)
            others = [1 + a for a in range(values.dim() - 1) if a not in axes]
            least = values.amin(others) if others else values
            torch.maximum(logs[s], (_FLOOR * eps / least).log() / degree, out=logs[s])
