"""Git Re-Basin's weight matching for any architecture of permuted axes, one pair at a time: the yardstick.

Written from the description in Ainsworth et al. (2022), algorithm 1: in every sweep, the permutations are visited in
random order; each becomes the one with the largest inner product of all tensors that it touches, the others held fixed;
it ends with the first sweep that improves none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightaug import Architecture

__all__ = ["axes_of", "permuted", "weight_matching"]


def axes_of(architecture: Architecture) -> list[list[int | None]]:
    """For each tensor and each of its axes, the number of the permutation that it follows.

    Raises:
        ValueError: If an axis is a product of several, as those of attention are.
    """
    for plan in architecture.plan:
        if plan.factors is not None or plan.split is not None or any(m.outer is not None for m in plan.moves):
            raise ValueError("expected one permutation for each axis, got an axis that is a product of several")
    return [
        [next((m.slot for m in plan.moves if m.axis == axis), None) for axis in range(len(plan.shape))]
        for plan in architecture.plan
    ]


def permuted(tensor: Tensor, axes: Sequence[int | None], permutations: dict[int, Tensor], skip: int | None) -> Tensor:
    """A tensor with all axes permuted, but one."""
    for axis, number in enumerate(axes):
        if number is not None and axis != skip:
            tensor = tensor.index_select(axis, permutations[number])
    return tensor


def weight_matching(
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    axes: Sequence[Sequence[int | None]],
    *,
    generator: torch.Generator,
    max_sweeps: int = 100,
) -> tuple[dict[int, Tensor], int]:
    """Matches network b to network a.

    Args:
        a: Tensors of the network to align to.
        b: Tensors of the network to align.
        axes: See :func:`axes_of`.
        generator: For the order of visits.
        max_sweeps: Limit on the sweeps.

    Returns:
        The permutations by number, and how many sweeps there were.
    """
    touched: dict[int, list[tuple[int, int]]] = {}
    for i, numbers in enumerate(axes):
        for axis, number in enumerate(numbers):
            if number is not None:
                touched.setdefault(number, []).append((i, axis))
    permutations = {number: torch.arange(a[places[0][0]].shape[places[0][1]]) for number, places in touched.items()}
    numbers = sorted(touched)
    sweeps = 0
    for sweeps in range(1, max_sweeps + 1):  # noqa: B007
        progress = False
        for k in torch.randperm(len(numbers), generator=generator).tolist():
            number = numbers[k]
            n = len(permutations[number])
            score = torch.zeros(n, n)
            for i, axis in touched[number]:
                rows_a = a[i].movedim(axis, 0).reshape(n, -1)
                rows_b = permuted(b[i], axes[i], permutations, axis).movedim(axis, 0).reshape(n, -1)
                score += rows_a @ rows_b.T
            columns = torch.from_numpy(linear_sum_assignment(score.numpy(), maximize=True)[1])
            rows = torch.arange(n)
            progress |= bool(score[rows, columns].sum() > score[rows, permutations[number]].sum() + 1e-12)
            permutations[number] = columns
        if not progress:
            break
    return permutations, sweeps
