"""Whole matchings of small networks by one compiled call; :mod:`weightaug.matching.descent` does the same by visits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightaug import _loops
from weightaug.architecture import Architecture
from weightaug.matching.moves import Moves
from weightaug.matching.rules import Rule, neighbours, topological_slots

__all__ = ["Found", "Plan", "in_parts", "match_compiled", "plan_of"]

T = TypeVar("T")

# Above this width products are made by BLAS, visit by visit.
WIDEST = 128

_STARTS = {"identity": (0, 0), "reverse": (0, 1), "forward": (1, 0), "backward": (1, 1)}


class Plan(NamedTuple):
    """An architecture, its symmetries and the starts as the loops read them; see :mod:`weightaug._loops.pairs`."""

    layers: NDArray[np.int64]
    spaces: NDArray[np.int64]
    periods: NDArray[np.float64]
    near: NDArray[np.bool_]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]


class Found(NamedTuple):
    """What matching found for a flat batch of pairs.

    Attributes:
        moves: The best moves.
        reached: Their objectives, ``(B,)``.
        alike: Pairs that may be copies of each other, ``(B,)``.
    """

    moves: Moves
    reached: Tensor
    alike: Tensor


def plan_of(architecture: Architecture, rules: tuple[Rule, ...], starts: tuple[str, ...]) -> Plan | None:
    """How the loops match networks of an architecture; None if they cannot, or others are faster."""
    if _loops.load("matching") is None or _loops.load("pairs") is None:
        return None
    return _plan_of(architecture, rules, starts)


@lru_cache(maxsize=64)
def _plan_of(architecture: Architecture, rules: tuple[Rule, ...], starts: tuple[str, ...]) -> Plan | None:
    sizes = [space.size for space in architecture.hidden]
    if any([layer.kernel for layer in architecture.layers]) or max(sizes) > WIDEST or not set(starts) <= set(_STARTS):
        return None
    loops: Any = _loops.load("matching")
    wiring, layers, end = architecture.wiring, [], 0
    for l, layer in enumerate(architecture.layers):
        out, into = architecture.weight_shape(l)
        slots = [-1 if s is None else s for s in (wiring.write_slots[l], wiring.read_slots[l])]
        layers.append([end, end + out * into if layer.bias else -1, out, into, *slots])
        end += out * into + (out if layer.bias else 0)
    spaces = []
    for s, rule in enumerate(rules):
        phases = rule.half_period is not None
        carrier = wiring.bias_carriers[s] if phases else None
        spaces.append([sizes[s], sum(sizes[:s]), loops.SCORES[rule.sign, phases], -1 if carrier is None else carrier])
    near = np.zeros((len(sizes), len(sizes)), np.bool_)
    for s, around in enumerate(neighbours(architecture)):
        near[s, list(around)] = True
    return Plan(
        np.array(layers, np.int64),
        np.array(spaces, np.int64),
        np.array([rule.half_period or 1.0 for rule in rules], np.float64),
        near,
        np.array(topological_slots(architecture), np.int64),
        np.array([_STARTS[name] for name in starts], np.int64).reshape(-1, 2),
    )


def in_parts(count: int, workers: int, work: Callable[[slice], T]) -> list[T]:
    """The results of parts of a batch, each of them in a thread of its own if there are several workers."""
    if workers < 2:
        return [work(slice(0, count))]
    ends = [count * i // workers for i in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, map(slice, ends[:-1], ends[1:])))


def match_compiled(
    a: Tensor, b: Tensor, plan: Plan, rules: Sequence[Rule], *, keep_identity: bool, max_sweeps: int, workers: int
) -> Found | None:
    """Coordinate descent from several starts, the best result kept for each pair.

    Args:
        a: The networks to align to, flat, finite, ``(B, P)`` in float64 on the host.
        b: The networks to align, likewise.
        plan: What :func:`plan_of` gives.
        rules: The symmetries in use.
        keep_identity: Whether to return the identity where nothing better is found.
        max_sweeps: Limit on the visits per hidden space and start.
        workers: Number of threads.

    Returns:
        What was found; None if a bias is too large to match phases.
    """
    loops: Any = _loops.load("pairs")
    x, y, sizes = a.numpy(), b.numpy(), plan.spaces[:, 0].tolist()
    count, total = len(x), sum(sizes)
    place = np.empty((count, total), np.int64)
    real = np.empty((2, count, total))
    reached, alike = np.empty(count), np.empty(count, np.bool_)

    def work(part: slice) -> int:
        whole = (place[part], real[0, part], real[1, part], reached[part], alike[part])
        failed: int = loops.match_pairs(x[part], y[part], *plan, keep_identity, max_sweeps, *whole)
        return failed

    if max(in_parts(count, workers, work)):
        return None
    places = torch.from_numpy(place).split_with_sizes(sizes, 1)
    signs: list[Tensor | None] = [None] * len(rules)
    shifts: list[Tensor | None] = [None] * len(rules)
    if any([rule.sign is not None for rule in rules]):
        parts = torch.from_numpy(real[0]).split_with_sizes(sizes, 1)
        signs = [part if rule.sign is not None else None for part, rule in zip(parts, rules, strict=True)]
    if any([rule.half_period is not None for rule in rules]):
        parts = torch.from_numpy(real[1]).to(torch.int64).split_with_sizes(sizes, 1)
        shifts = [part if rule.half_period is not None else None for part, rule in zip(parts, rules, strict=True)]
    return Found(Moves(list(places), signs, shifts), torch.from_numpy(reached), torch.from_numpy(alike))
