"""Matching two batches of networks, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement
from weightaug.matching.assignment import on_device_solver
from weightaug.matching.descent import Moves, Pairs
from weightaug.matching.rules import Rule, Symmetry, check_pair, resolve

__all__ = ["match"]

# Entries of score matrices that are worked on at a time on a CPU: they stay in the cache, chunks of pairs run in
# threads of their own, and torch starts no OpenMP team of its own below this size.
_CHUNK = 32767


@torch.no_grad()
def match(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    *,
    symmetry: Symmetry = "auto",
    max_sweeps: int = 100,
) -> GroupElement:
    """Aligns b to a: finds a symmetry g such that ``act(b, g)`` is close to ``a``, for each pair of a batch.

    The function of b is preserved: only its position in its orbit changes. Inputs are not modified, and no
    autograd graph is recorded.

    Args:
        a: The networks to align to, of any batch shape.
        b: The networks to align, of the same architecture and batch shape.
        symmetry: ``"auto"`` for every symmetry that the activations allow, ``"permutation"`` for the
            paper's, or several of ``"permutation"``, ``"sign"``, ``"phase"``, ``"scale"``.
        max_sweeps: Limit on the visits per hidden space.

    Returns:
        The group element, with tensors ``(*batch, size)`` on the device of a.

    Raises:
        ValueError: If the architectures, batch shapes or devices differ, a value is not finite, or the
            symmetry does not exist in this architecture.
    """
    check_pair(a, b)
    rules = resolve(a.architecture, symmetry)
    moves = _run(_flat(a), _flat(b), rules, max_sweeps)
    return _to_group(a, rules, moves)


def _flat(x: WeightSpaceElement) -> WeightSpaceElement:
    """A flat float64 batch, on the device if assignments can be solved there."""
    dims = len(x.batch_shape)
    device = x.device if x.device.type == "cuda" and on_device_solver() else torch.device("cpu")
    return x.map(lambda t: t.detach().to(device, torch.float64).reshape(x.batch_shape.numel(), *t.shape[dims:]))


def _run(a: WeightSpaceElement, b: WeightSpaceElement, rules: Sequence[Rule], max_sweeps: int) -> Moves:
    largest = max([space.size for space in a.architecture.hidden], default=1)
    size = max(len(a), 1) if a.device.type != "cpu" else max(_CHUNK // largest**2, 1)
    chunks = [slice(i, i + size) for i in range(0, max(len(a), 1), size)]

    @torch.no_grad()  # the grad mode belongs to the thread
    def work(chunk: slice) -> Moves:
        pairs = Pairs(a[chunk], b[chunk], rules)
        return pairs.descend(Moves.identity(b[chunk], rules), max_sweeps=max_sweeps)

    workers = min(len(chunks), torch.get_num_threads())
    if workers == 1:
        return Moves.cat([work(chunk) for chunk in chunks])
    with ThreadPoolExecutor(workers) as pool:
        return Moves.cat(list(pool.map(work, chunks)))


def _to_group(x: WeightSpaceElement, rules: Sequence[Rule], moves: Moves) -> GroupElement:
    def shaped(t: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
        return t.reshape(*x.batch_shape, t.shape[-1]).to(x.device, dtype)

    return GroupElement.of(
        x.architecture,
        permutation=tuple(shaped(p) for p in moves.permutation),
        scale=tuple(None if s is None else shaped(s, x.dtype) for s in moves.sign),
        shift=tuple(None if k is None else shaped(k) for k in moves.shift),
    )
