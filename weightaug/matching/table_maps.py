"""Invertible maps of linear spaces of networks that are declared tensor by tensor: one choice for each orbit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug._maps import turned
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.pieces import Piece, axes_of, pieces_of

__all__ = ["balance_maps"]

_RANK = 1e-12  # of squared singular values: smaller ones count as zero
_CLOSE = 1e-13


def balance_maps(x: WeightSpaceElement, slots: Sequence[int], max_sweeps: int = 500) -> GroupElement:
    """The maps with which, of every linear space, what writes it and what reads it have the same diagonal Gram matrix.

    They minimise the norm of the network over its orbit, and are unique but for signs and order where no two of the
    diagonal's entries are equal. Of a low-rank pair it is the balanced singular value decomposition of the product.
    Of pairs under rotary positions, both sides have the same norm, and the sum of the squares of all entries, as
    complex numbers, is real and positive, which leaves a sign for each pair. Of a stream that can be turned, the sum
    of both Gram matrices is diagonal.

    Args:
        x: A flat float64 batch.
        slots: The linear spaces.
        max_sweeps: Limit on the visits of each; one does where no two of them share a tensor.

    Raises:
        ValueError: If what a space transmits has not full rank, so that no such maps exist.
    """
    arch = x.architecture
    none: tuple[Tensor | None, ...] = (None,) * len(arch.hidden)
    total = GroupElement.identity(arch)
    pieces = pieces_of(arch)
    for _ in range(max_sweeps):
        still = True
        for slot in slots:
            written, read = _gram(x, pieces, slot, 1), _gram(x, pieces, slot, -1)
            found = _next(written, read, x, slot)
            if found is None:
                continue
            still = False
            maps = tuple([found if s == slot else t for s, t in enumerate(none)])
            group = GroupElement(arch, none, none, none, maps)
            x, total = act(x, group), group @ total
        if still:
            break
    return total


def _next(written: Tensor, read: Tensor, x: WeightSpaceElement, slot: int) -> Tensor | None:
    """The maps that bring one space to its normal form; None where it is there."""
    group = x.architecture.hidden[slot].maps
    if group == "rotary":
        maps = _upright(written, read, x, slot)
        return None if _is_one(maps) else maps
    if group == "orthogonal":
        # Of all that writes and reads it, the main axes; where nothing is along some, they do not matter.
        both = written + read
        return None if _is_diagonal(both) else torch.linalg.eigh(both)[1].mT
    apart = (written - read).abs().amax((-1, -2)) > _CLOSE * written.abs().amax((-1, -2))
    return None if not bool(apart.any()) and _is_diagonal(written) else _balanced(written, read, x, slot)


def _is_one(maps: Tensor) -> bool:
    """Whether complex factors are 1 or -1: nothing is left to do."""
    eye = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    return not bool(((maps.abs() - eye).abs() > _CLOSE * 16).any())


def _is_diagonal(gram: Tensor) -> bool:
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    off = (gram - torch.diag_embed(diagonal)).abs().amax((-1, -2))
    return not bool((off > _CLOSE * diagonal.amax(-1)).any())


def _gram(x: WeightSpaceElement, pieces: Sequence[Piece], slot: int, degree: int) -> Tensor:
    """Inner products of the neurons of a space in all that writes or all that reads it, ``(B, [outer,] n, n)``."""
    shape = x.architecture.slot_shapes[slot]
    total = torch.zeros(len(x), *shape, shape[-1], dtype=x.dtype, device=x.device)
    tensors = x.tensors()
    for piece in pieces:
        for move in piece.plan.moves:
            if (slot, degree) in move.roles:
                axes = axes_of(move)
                rows = piece.of(tensors).movedim([1 + a for a in axes], list(range(1, 1 + len(axes))))
                rows = rows.reshape(*rows.shape[: 1 + len(axes)], -1)
                total += torch.matmul(rows, rows.mT)
    return total


def _balanced(written: Tensor, read: Tensor, x: WeightSpaceElement, slot: int) -> Tensor:
    """M with M P M^T = M^-T G M^-1 diagonal, for P of what writes and G of what reads."""
    values, vectors = torch.linalg.eigh(written)
    _check_rank(values, x, slot, "writes")
    root = vectors * values.sqrt().unsqueeze(-2)  # P = root root^T
    both, turned = torch.linalg.eigh(torch.matmul(torch.matmul(root.mT, read), root))
    _check_rank(both, x, slot, "reads")
    inverse = vectors.mT / values.sqrt().unsqueeze(-1)
    return torch.matmul(both.sqrt().sqrt().unsqueeze(-1) * turned.mT, inverse)


def _upright(written: Tensor, read: Tensor, x: WeightSpaceElement, slot: int) -> Tensor:
    """Complex factors of pairs of neurons, from the inner products of their real and imaginary parts."""
    half = written.shape[-1] // 2

    def entries(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            gram[..., :half, :half].diagonal(dim1=-2, dim2=-1),
            gram[..., half:, half:].diagonal(dim1=-2, dim2=-1),
            gram[..., :half, half:].diagonal(dim1=-2, dim2=-1),
        )

    first, second = entries(written), entries(read)
    for side, verb in ((first, "writes"), (second, "reads")):
        _check_rank(side[0] + side[1], x, slot, verb)
    weight = ((second[0] + second[1]) / (first[0] + first[1])).sqrt()  # squared modulus
    real, imaginary, both = (a * weight + b / weight for a, b in zip(first, second, strict=True))
    modulus = weight.sqrt()
    angle = -torch.atan2(2 * both, real - imaginary) / 2
    return turned(modulus * angle.cos(), modulus * angle.sin())


def _check_rank(values: Tensor, x: WeightSpaceElement, slot: int, verb: str) -> None:
    lost = (values <= _RANK * values.amax(-1, keepdim=True)).sum(-1)
    if bool(lost.any()):
        space = x.architecture.hidden[slot]
        first = lost.nonzero()[0].tolist()
        full = space.size - int(lost[tuple(first)])
        raise ValueError(
            f"space {space.name!r}: what {verb} it has rank {full} of {space.size} in network {first[0]} of the batch, "
            "so that its invertible maps have no normal form; use canonicalize_lora for low-rank pairs, or symmetry="
            "'permutation', or several without 'maps'"
        )
