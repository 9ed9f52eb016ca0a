"""What a symmetry does to one tensor: the moves of its plan, carried out on rows, columns and everything between."""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from weightaug._arguments import holds
from weightaug._modes import wide
from weightaug._table import KERNEL, Move, Plan
from weightaug.architecture import Activation

__all__ = ["Kind", "Parts", "Slots", "flat_index", "move_tensor", "move_usual", "output_factor"]

Slots: TypeAlias = tuple[Tensor | None, ...]


class Kind(enum.Enum):
    """What the tensors are that a group element acts on.

    ``POINT``: weights. ``TANGENT``: differences of weights, such as momenta or update steps (no shift).
    ``COTANGENT``: gradients of a loss with respect to the weights (no shift, inverse factors).
    """

    POINT = "point"
    TANGENT = "tangent"
    COTANGENT = "cotangent"


class Parts(NamedTuple):
    """A group element, worked out to what is done to tensors."""

    permutations: Slots
    maps: Slots
    rows: Slots
    columns: Slots
    offsets: Slots
    sources: Slots
    batch: torch.Size
    kind: Kind


def move_usual(tensor: Tensor, plan: Plan, parts: Parts) -> Tensor:
    """What :func:`move_tensor` does, for tensors with steps and without maps: small networks feel every line of it."""
    moved = tensor
    assert plan.steps is not None
    for axis, after, slot, role, written in plan.steps:
        factor = parts.rows[role] if written else parts.columns[role]
        if parts.permutations[slot] is not None:
            if axis == 0:
                moved = _write(moved, parts.sources[slot], factor, after)
            else:
                moved = _read(tensor, moved, parts.permutations[slot], factor, axis, after)
        elif factor is not None:
            factor = _spread(factor, axis, after)
            moved = moved * factor if moved is tensor else moved.mul_(factor)
    if plan.carrier is not None:
        offset = parts.offsets[plan.carrier]
        if offset is not None:
            moved = tensor + offset if moved is tensor else moved.add_(offset)
    return moved


def move_tensor(tensor: Tensor, plan: Plan, parts: Parts) -> Tensor:
    """Moves one tensor as its plan says."""
    if plan.split is not None:
        axis, sizes, plans = plan.split
        axis += len(parts.batch)
        pieces = tensor.split_with_sizes(list(sizes), axis)
        moved = [move_tensor(piece, inner, parts) for piece, inner in zip(pieces, plans, strict=True)]
        untouched = all([new is old for new, old in zip(moved, pieces, strict=True)])
        return tensor if untouched else torch.cat(moved, axis)
    if len(plan.moves) == 0:
        return tensor
    original = tensor if plan.factors is None else tensor.reshape(*parts.batch, *plan.factors)
    moved_ = original
    done = _move_kernels(original, plan, parts) if plan.fused else None
    if done is not None:
        moved_ = done
    for i, move in enumerate(plan.moves):
        still = done is not None and i < 2  # their permutations are done
        factor = _factor(move, parts)
        variance = factor is not None and plan.eps is not None
        applied = None if variance else factor
        if move.outer is None and move.axis == 0:
            moved_ = _write(moved_, None if still else parts.sources[move.slot], applied, move.after)
        elif move.outer is None:
            permutation = None if still else parts.permutations[move.slot]
            moved_ = _read(original, moved_, permutation, applied, move.axis, move.after)
        else:
            moved_ = _move_within(moved_, move, parts, applied)
        if factor is not None and plan.eps is not None:
            spread = (
                _spread(factor, move.axis, move.after)
                if move.outer is None
                else _within(factor, move, moved_, parts.batch)
            )
            moved_ = _scale_variance(moved_, spread, plan.eps, parts.kind)
        for slot, degree in move.roles:
            map_ = parts.maps[slot]
            if map_ is not None:
                moved_ = _apply_map(moved_, map_, move, degree, parts)
    if plan.carrier is not None:
        offset = parts.offsets[plan.carrier]
        if offset is not None:
            moved_ = original + offset if moved_ is original else moved_.add_(offset)
    if moved_ is original:
        return tensor
    return moved_ if plan.factors is None else moved_.reshape(tensor.shape)


def _move_kernels(tensor: Tensor, plan: Plan, parts: Parts) -> Tensor | None:
    """Permutes rows and columns of whole kernels in one pass; None if one of the two stays."""
    rows, columns = plan.moves[:2]
    source, permutation = parts.sources[rows.slot], parts.permutations[columns.slot]
    if source is None or permutation is None:
        return None
    out, into = plan.shape[:2]
    index = source.view(*parts.batch, out, 1) * into + permutation.expand(*parts.batch, into).unsqueeze(-2)
    kernels = tensor.reshape(-1, *plan.shape[2:])
    return kernels.index_select(0, index.reshape(index.numel())).view(tensor.shape)


def _factor(move: Move, parts: Parts) -> Tensor | None:
    """What one factor of a tensor is multiplied with: the product over its spaces."""
    if len(move.roles) == 1:
        slot, degree = move.roles[0]
        if degree == 1:
            return parts.rows[slot]
        if degree == -1:
            return parts.columns[slot]
    total: Tensor | None = None
    for slot, degree in move.roles:
        factor = parts.rows[slot] if degree > 0 else parts.columns[slot]
        if factor is not None:
            factor = factor if abs(degree) == 1 else factor ** abs(degree)
            total = factor if total is None else total * factor
    return total


def _scale_variance(variance: Tensor, factor: Tensor, eps: float, kind: Kind) -> Tensor:
    """a^2 (v + eps) - eps, so that the root of v + eps takes exactly the factor a."""
    if kind is not Kind.POINT:
        return variance * factor
    scaled = factor * (variance + eps) - eps
    if not holds(scaled >= 0):
        raise ValueError(
            f"a running variance would become negative ({float(scaled.min()):.3g}): where it is as small as eps="
            f"{eps:g}, a neuron takes no smaller factor; draw factors nearer to 1 (ReLUScale(max_scale=...)), or leave "
            "the space before that norm out"
        )
    return scaled


def _within(values: Tensor, move: Move, like: Tensor, batch: torch.Size) -> Tensor:
    """Values ``(*batch, outer, size)`` with axes of 1 between and behind, so that they broadcast over a tensor."""
    assert move.outer is not None
    dims = like.dim() - len(batch)
    outer, size = values.shape[values.dim() - 2], values.shape[-1]
    shape = [1] * dims
    shape[move.outer], shape[move.axis] = outer, size
    if move.outer > move.axis:
        values = values.transpose(-1, -2)
    return values.reshape(*values.shape[: values.dim() - 2], *shape)


def _move_within(tensor: Tensor, move: Move, parts: Parts, factor: Tensor | None) -> Tensor:
    permutation = parts.permutations[move.slot]
    if permutation is not None:
        index = _within(permutation, move, tensor, parts.batch).expand(tensor.shape)
        tensor = tensor.gather(tensor.dim() - 1 - move.after, index)
    return tensor if factor is None else tensor * _within(factor, move, tensor, parts.batch)


def _apply_map(tensor: Tensor, maps: Tensor, move: Move, degree: int, parts: Parts) -> Tensor:
    """M along one factor where it is written, the inverse transpose where it is read; dual for gradients."""
    dtype = wide(tensor.dtype)  # half precision has no inverse, and would round more than once
    maps = maps.to(dtype)
    if (degree < 0) != (parts.kind is Kind.COTANGENT):
        maps = torch.linalg.inv(maps).mT
    dims = len(parts.batch)
    own = (move.axis,) if move.outer is None else (move.outer, move.axis)
    source, target = [dims + a for a in own], list(range(dims, dims + len(own)))
    rows = tensor.to(dtype).movedim(source, target)
    lead = rows.shape[: dims + len(own)]
    moved = torch.matmul(maps, rows.reshape(*lead, rows.shape[len(lead) :].numel())).reshape(rows.shape)
    return moved.movedim(target, source).to(tensor.dtype)


def output_factor(activation: Activation, scale: Tensor | None) -> Tensor | None:
    """1 / c without the parity: what everything that reads the space is multiplied with."""
    if scale is None or (activation.even and not activation.positively_homogeneous):
        return None
    if activation.even:
        return scale.abs().reciprocal()
    # Signs are their own reciprocals.
    return scale.reciprocal() if activation.positively_homogeneous else scale


def flat_index(permutation: Tensor, batch: torch.Size) -> Tensor:
    """Positions of the permuted neurons when all neurons of the batch stand in one row."""
    if not batch:
        return permutation
    size = permutation.shape[-1]
    count = batch.numel() * size
    start = torch.arange(0, count, size, device=permutation.device).view(*batch, 1)
    return (permutation + start).view(count)


def _write(tensor: Tensor, source: Tensor | None, factor: Tensor | None, after: int) -> Tensor:
    """Gathers and multiplies along the first axis behind the batch, with ``after`` other axes behind that.

    Whole rows are copied at once, which is many times faster than gathering entries.
    """
    moved = tensor
    if source is not None and tensor.dim() == after + 1:  # one network
        moved = tensor.index_select(0, source)
    elif source is not None:
        moved = tensor.reshape(source.shape[0], *tensor.shape[tensor.dim() - after :])
        moved = moved.index_select(0, source).view(tensor.shape)
    if factor is not None:
        factor = _spread(factor, 0, after)
        moved = moved * factor if moved is tensor else moved.mul_(factor)
    return moved


def _read(
    original: Tensor, current: Tensor, permutation: Tensor | None, factor: Tensor | None, before: int, after: int
) -> Tensor:
    """Gathers and multiplies along one axis, with ``before`` other axes between the batch and it, and ``after`` behind.

    Writes into ``current`` if that is no longer the caller's tensor, so that one call of :func:`act` makes
    one new tensor per parameter when there are no permutations.
    """
    if permutation is not None:
        axis = current.dim() - 1 - after
        if permutation.numel() == permutation.shape[-1]:  # one network
            current = current.index_select(axis, permutation.reshape(permutation.shape[-1]))
        elif current.shape[axis + 1 :].numel() >= KERNEL:
            current = _read_kernels(current, permutation, axis)
        else:
            current = current.gather(axis, _spread(permutation, before, after).expand(current.shape))
    if factor is not None:
        factor = _spread(factor, before, after)
        current = current * factor if current is original else current.mul_(factor)
    return current


def _read_kernels(tensor: Tensor, permutation: Tensor, axis: int) -> Tensor:
    """Gathers along one axis, with what stands behind it copied at once: several times as fast as number by number."""
    size, batch = permutation.shape[-1], permutation.shape[:-1]
    start = torch.arange(0, tensor.shape[: axis + 1].numel(), size, device=tensor.device)
    index = start.view(*batch, -1, 1) + permutation.unsqueeze(-2)
    blocks = tensor.reshape(-1, tensor.shape[axis + 1 :].numel())
    return blocks.index_select(0, index.reshape(index.numel())).view(tensor.shape)


def _spread(values: Tensor, before: int, after: int) -> Tensor:
    if values.dim() > 1:  # those of one network broadcast as they are
        for _ in range(before):
            values = values.unsqueeze(-2)
    for _ in range(after):
        values = values.unsqueeze(-1)
    return values
