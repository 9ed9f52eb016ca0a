"""Whole matchings of small declared networks by one compiled call; :mod:`weightaug.matching.table` does it by visits.

Pairs of the zoo's small CNNs take half the time of visits (:func:`tables_of` giving None): nothing is permuted but
places, what one pair needs stays in the first cache, and every pair ends when it has come to rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightaug import _loops
from weightaug._table import Move
from weightaug.architecture import Architecture
from weightaug.matching.compiled import in_parts
from weightaug.matching.pieces import Piece
from weightaug.matching.table_wiring import TableWiring, wiring_of

__all__ = ["LoopTables", "match_in_loops", "tables_of"]

# In wider networks BLAS makes up for visits.
WIDEST = 128
_HUGE = 1e100  # products of larger numbers might overflow


class LoopTables(NamedTuple):
    """An architecture as the loops read it; see :mod:`weightaug._loops.declared`."""

    spaces: NDArray[np.int64]
    links: NDArray[np.int64]
    rest: NDArray[np.int64]
    whole: NDArray[np.bool_]
    stages: NDArray[np.int64]
    stage_links: NDArray[np.bool_]
    space_links: NDArray[np.bool_]
    near: NDArray[np.bool_]


def tables_of(arch: Architecture, maps: bool, signs: bool) -> LoopTables | None:
    """How the loops match networks of an architecture; None if they cannot, or others are faster."""
    return None if _loops.load("declared") is None else _tables_of(arch, maps, signs)


@lru_cache(maxsize=64)
def _tables_of(arch: Architecture, maps: bool, signs: bool) -> LoopTables | None:
    wiring = wiring_of(arch, maps, signs)
    turned = maps and any([space.linear for space in arch.hidden])
    nested = any([outer is not None for outer in arch.outers]) or any([n is not None for n in arch.outer_sizes])
    joint = any([len(own) > 1 for own in wiring.signed.values()])
    moved = {s for piece in wiring.pieces for s in piece.slots}
    plain = wiring.slots and moved <= set(wiring.slots) and not (turned or nested or joint)
    sizes = [arch.hidden[s].size for s in wiring.slots]
    if not plain or max(sizes) > WIDEST:
        return None
    number = {s: i for i, s in enumerate(wiring.slots)}
    first = np.cumsum([0, *sizes])
    links: list[list[int]] = []
    rest: list[int] = []
    pieces: list[int] = []
    for piece in wiring.pieces:
        at = _places(arch, piece)
        for move in piece.plan.moves:
            others = [other for other in piece.plan.moves if other is not move]
            if len(others) > 1:
                return None
            pieces.append(piece.number)
            links.append(_link(at, move, others, wiring, number, first, rest))
    places = zip(wiring.slots, sizes, first[:-1], strict=True)
    spaces = [[n, start, s in wiring.signed, not wiring.simple[s]] for s, n, start in places]
    marks = {s: np.array([link[0] == i for link in links], np.bool_) for s, i in number.items()}
    relevant = [{piece.number for piece in wiring.relevant(slot, known)} for slot, known in wiring.stages]
    near = np.zeros((len(sizes), len(sizes)), np.bool_)
    for s, i in number.items():
        near[i, [number[other] for piece in wiring.around[s] for other in piece.slots]] = True
    return LoopTables(
        np.array(spaces, np.int64),
        _with_kept(np.array(links, np.int64), sizes),
        np.array(rest, np.int64),
        np.array([piece not in pieces[:l] for l, piece in enumerate(pieces)], np.bool_),
        np.array([number[slot] for slot, _ in wiring.stages], np.int64),
        np.stack(
            [marks[stage.slot] & np.isin(pieces, list(r)) for stage, r in zip(wiring.stages, relevant, strict=True)]
        ),
        np.stack([marks[s] for s in wiring.slots]),
        near,
    )


def _places(arch: Architecture, piece: Piece) -> NDArray[np.int64]:
    """Where the numbers of a piece stand in a flat network, one axis for every factor."""
    starts = np.cumsum([0, *arch.sizes])
    shape, size, start = arch.plan[piece.tensor].shape, arch.sizes[piece.tensor], int(starts[piece.tensor])
    own = torch.arange(start, start + size, device="cpu").view(1, *shape)
    return piece.of([own] * len(arch.plan))[0].numpy()


def _link(
    places: NDArray[np.int64],
    move: Move,
    others: Sequence[Move],
    wiring: TableWiring,
    number: dict[int, int],
    first: NDArray[np.int64],
    rest: list[int],
) -> list[int]:
    """A row of the table of links, but for what is kept; the places of further numbers are added to ``rest``."""
    other = others[0] if others else None
    axes = [move.axis] if other is None else [move.axis, other.axis]
    at = np.moveaxis(places, axes, range(len(axes)))
    at = at[:, None] if other is None else at
    at = at.reshape(*at.shape[:2], -1)  # (positions, positions of the other, further numbers)
    here = int(at[0, 0, 0])
    steps = [int(at[min(1, len(at) - 1), 0, 0]) - here, int(at[0, min(1, at.shape[1] - 1), 0]) - here]
    start = len(rest)
    rest += (at[0, 0] - here).tolist()
    place = -1 if other is None else int(first[number[other.slot]])
    odd = [bool(m is not None and wiring.odd(m)) for m in (move, other)]
    return [number[move.slot], here, steps[0], place, at.shape[1], steps[1], start, len(rest), *odd]


def _with_kept(links: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[np.int64]:
    """The table of links with where each keeps its products, and the moves that they are made for."""
    kept = np.stack([np.array(sizes)[links[:, 0]] ** 2, links[:, 4]], 1)
    return np.concatenate([links, kept.cumsum(0) - kept], 1)


def match_in_loops(
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    tables: LoopTables,
    *,
    starts: Sequence[str],
    keep_identity: bool,
    max_sweeps: int,
    tolerance: float,
    workers: int,
) -> tuple[Tensor, Tensor] | None:
    """Coordinate descent from several starts, the best result kept for each pair.

    Args:
        a: Tensors of the networks to align to, one batch dimension.
        b: Those of the networks to align.
        tables: What :func:`tables_of` gives.
        starts: ``"identity"``, ``"forward"`` or both.
        keep_identity: Whether to return the identity where nothing better is found.
        max_sweeps: Limit on the sweeps.
        tolerance: Smaller gains, relative to the scores, are rounding.
        workers: Number of threads.

    Returns:
        Permutations and signs of all spaces that move, side by side, ``(B, positions)`` each; None where numbers are
        too large or not finite.
    """
    x, y = (torch.cat([t.flatten(1) for t in tensors], 1) for tensors in (a, b))
    for flat in (x, y):
        low, high = torch.aminmax(flat) if flat.numel() else (flat.new_zeros(()),) * 2
        if not (float(low) > -_HUGE and float(high) < _HUGE):  # NaN compares as false
            return None
    loops: Any = _loops.load("declared")
    total = int(tables.spaces[:, 0].sum())
    places, signs = np.empty((len(x), total), np.int64), np.empty((len(x), total))
    walks = np.array([name == "forward" for name in starts], np.bool_)
    numbers = x.numpy(), y.numpy()

    def work(part: slice) -> None:
        found = places[part], signs[part]
        networks = [n[part] for n in numbers]
        loops.match_tables(*networks, *tables, walks, keep_identity, max_sweeps, tolerance, *found)

    in_parts(len(x), workers, work)
    return torch.from_numpy(places), torch.from_numpy(signs)
