"""How fast: a transform against clones, and matching against a plain loop over pairs, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.architectures.planted import resnet18
from benchmarks.architectures.rebasin import axes_of, permuted, weight_matching
from benchmarks.architectures.store import SPREAD, load
from weightaug import Architecture, Permute, WeightSpaceElement
from weightaug.adapters import from_modules
from weightaug.group import GroupElement, act
from weightaug.matching import match

__all__ = ["ratios"]

Pair = tuple[WeightSpaceElement, WeightSpaceElement]


def _in_turns(times: int, *works: Callable[[], Any]) -> list[float]:
    """Median processor seconds of each work; every round runs all of them."""
    taken: list[list[float]] = [[] for _ in works]
    for round_ in range(times + 1):
        for work, seconds in zip(works, taken, strict=True):
            start = time.process_time()
            work()
            if round_:  # the first compiles what is compiled
                seconds.append(time.process_time() - start)
    return [statistics.median(seconds) for seconds in taken]


def _row(ours: float, theirs: float, **more: Any) -> dict[str, Any]:
    return {"weightaug_seconds": ours, "other_seconds": theirs, **more}


def _inner(a: WeightSpaceElement, b: WeightSpaceElement) -> Tensor:
    """Inner products of networks ``(n,)``, in double precision."""
    products = [(x.double() * y.double()).flatten(1).sum(1) for x, y in zip(a.tensors(), b.tensors(), strict=True)]
    return torch.stack(products).sum(0)


def _loop(a: WeightSpaceElement, b: WeightSpaceElement) -> list[dict[int, Tensor]]:
    """The plain implementation, pair by pair."""
    axes = axes_of(a.architecture)
    rows_a, rows_b = (zip(*[t.unbind(0) for t in x.tensors()], strict=True) for x in (a, b))
    return [
        weight_matching(x, y, axes, generator=torch.Generator().manual_seed(0))[0]
        for x, y in zip(rows_a, rows_b, strict=True)
    ]


def _moved(b: WeightSpaceElement, found: list[dict[int, Tensor]]) -> WeightSpaceElement:
    axes = axes_of(b.architecture)
    return b.with_tensors(
        [
            torch.stack([permuted(row, kinds, p, None) for row, p in zip(t.unbind(0), found, strict=True)])
            for t, kinds in zip(b.tensors(), axes, strict=True)
        ]
    )


def _products_once(a: WeightSpaceElement, b: WeightSpaceElement) -> Callable[[], Any]:
    """Makes the products of kernels for all spaces that they follow, as each sweep of the loop does, and no more."""
    rows = [
        tuple(x[0].movedim(axis, 0).flatten(1).contiguous() for x in (s, t))
        for s, t, numbers in zip(a.tensors(), b.tensors(), axes_of(a.architecture), strict=True)
        for axis, number in enumerate(numbers)
        if number is not None and s.dim() > 2
    ]
    return lambda: [x @ y.T for x, y in rows]


def _aligning(pairs: Sequence[Pair], times: int, max_sweeps: int = 100) -> dict[str, Any]:
    """Matching each b to its a by the package and by the loop: processor seconds, and how close both come.

    Args:
        pairs: Batches of pairs, which one call matches; seconds are those of one call.
        times: Rounds.
        max_sweeps: The package's; the loop sweeps until nothing changes.
    """

    def ours(a: WeightSpaceElement, b: WeightSpaceElement) -> GroupElement:
        return match(a, b, symmetry="permutation", max_sweeps=max_sweeps)

    works: list[Callable[[], Any]] = [lambda: [ours(*pair) for pair in pairs], lambda: [_loop(*pair) for pair in pairs]]
    single = all(len(a) == 1 for a, _ in pairs)
    if single:
        products = [_products_once(*pair) for pair in pairs]
        works.append(lambda: [make() for make in products])
    seconds = [taken / len(pairs) for taken in _in_turns(times, *works)]
    before = torch.cat([_inner(a, b) for a, b in pairs])
    gain = torch.cat([_inner(a, act(b, ours(a, b))) for a, b in pairs]) - before
    gain_of_loop = torch.cat([_inner(a, _moved(b, _loop(a, b))) for a, b in pairs]) - before
    share = float((gain >= gain_of_loop * (1 - 1e-6)).double().mean())
    more = {"products_seconds": seconds[2]} if single else {}
    over = float(gain.sum() / gain_of_loop.sum())
    return _row(*seconds[:2], pairs=len(gain), mean_gain_over_loop=over, as_close=share, **more)


def _resnet_pairs(count: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs of a ResNet-18 and a permuted copy, and pairs of two with weights drawn by themselves."""
    planted, independent = [], []
    for seed in range(count):
        torch.manual_seed(seed)
        module, example = resnet18()
        architecture = Architecture.from_module(module, example)
        first, second = (from_modules([m], architecture=architecture) for m in (module, resnet18()[0]))
        planted.append((first, Permute()(first, generator=torch.Generator().manual_seed(seed))))
        independent.append((first, second))
    return planted, independent


def ratios(folder: Path, pairs: int, times: int = 5) -> dict[str, Any]:
    """All ratios.

    Args:
        folder: Of the zoo.
        pairs: How many pairs of small CNNs are aligned, with and without BatchNorm.
        times: Rounds of each measurement, and pairs of ResNet-18.
    """
    planted, independent = _resnet_pairs(times)
    sixteen = planted[0][0].map(lambda t: t.expand(16, *t.shape[1:]).contiguous())
    generator = torch.Generator().manual_seed(1)
    transform = Permute()
    ours, clone = _in_turns(times, lambda: transform(sixteen, generator=generator), lambda: sixteen.map(torch.clone))
    found = {
        "Permute of 16 ResNet-18, against clones": _row(ours, clone),
        "alignment of one ResNet-18 pair, planted": _aligning(planted, times),
        "alignment of one ResNet-18 pair, independent, the walk alone": _aligning(independent, times, max_sweeps=0),
        "alignment of one ResNet-18 pair, independent": _aligning(independent, times),
    }
    for name in SPREAD:
        networks, _, _ = load(folder, name)
        draws = torch.Generator().manual_seed(2)
        a, b = (networks[torch.randint(len(networks), (pairs,), generator=draws)] for _ in range(2))
        found[f"alignment of pairs of CNNs, {name}"] = _aligning([(a, b)], 1)
    return {"rounds": times, "ratios": found}
