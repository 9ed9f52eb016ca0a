"""What lies between two trained CNNs: loss and accuracy along the straight line, before and after alignment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures.cnns import FAMILIES, Family, digits_split, outputs
from benchmarks.architectures.store import load
from benchmarks.running.files import read_json, write_json
from benchmarks.table.statistics import Interval
from weightaug import WeightSpaceElement, act
from weightaug.adapters import from_modules, recompute_statistics, to_modules
from weightaug.matching import match

__all__ = ["barriers", "mean_and_half"]

POINTS = 11
RAW, ALIGNED, RECOMPUTED = "as trained", "aligned", ", statistics recomputed"


def mean_and_half(values: Tensor | Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % t interval."""
    found = Interval.of(torch.as_tensor(values, dtype=torch.float64).tolist())
    assert found is not None
    return found.mean, found.half


def renewed(networks: WeightSpaceElement, family: Family, images: Tensor) -> WeightSpaceElement:
    """Networks with BatchNorm statistics of some images, in batches of 100."""
    modules = to_modules(networks, like=family.module())
    assert isinstance(modules, list)
    batches = images.split(100)
    return from_modules([recompute_statistics(m, batches) for m in modules], architecture=networks.architecture)


def _curve(a: WeightSpaceElement, b: WeightSpaceElement, family: Family, recompute: bool) -> tuple[Tensor, Tensor]:
    """Test loss and test accuracy of pairs ``(n,)`` along the line, ``(n, POINTS)`` each."""
    data = digits_split()
    losses, rates = [], []
    for t in torch.linspace(0, 1, POINTS).tolist():
        mixed = a.with_tensors([x.lerp(y, t) for x, y in zip(a.tensors(), b.tensors(), strict=True)])
        if recompute:
            mixed = renewed(mixed, family, data.train)
        logits = outputs(mixed, family, data.test)
        labels = data.test_labels.expand(len(a), -1)
        losses.append(nn.functional.cross_entropy(logits.movedim(-1, 1), labels, reduction="none").mean(1))
        rates.append((logits.argmax(-1) == labels).float().mean(1))
    return torch.stack(losses, 1), torch.stack(rates, 1)


def _barrier(curves: Tensor) -> Tensor:
    """How far curves rise above the line between their ends, at most; ``(n,)``."""
    t = torch.linspace(0, 1, POINTS)
    return (curves - torch.lerp(curves[:, :1], curves[:, -1:], t)).amax(1)


def _of_family(folder: Path, name: str, pairs: int) -> dict[str, Any]:
    """Interpolates disjoint pairs of the most accurate networks of a family."""
    family = FAMILIES[name]
    networks, columns, _ = load(folder, name)
    if len(networks) < 2 * pairs:
        raise ValueError(f"{name!r}: expected {2 * pairs} networks for {pairs} pairs, got {len(networks)}")
    best = columns["test_accuracy"].argsort(descending=True, stable=True)[: 2 * pairs]
    best = best[torch.randperm(2 * pairs, generator=torch.Generator().manual_seed(0))]
    a, b = networks[best[:pairs]], networks[best[pairs:]]
    aligned = act(b, match(a, b))
    ways: dict[str, Any] = {}
    for way, other in ((RAW, b), (ALIGNED, aligned)):
        for recompute in (False, True) if family.norm else (False,):
            losses, rates = _curve(a, other, family, recompute)
            found: dict[str, Any] = {}
            for key, curves, barrier in (
                ("loss", losses, _barrier(losses)),
                ("accuracy", rates, _barrier(-rates)),
            ):
                found[f"{key}_curve"] = [mean_and_half(curves[:, i]) for i in range(POINTS)]
                found[f"{key}_barrier"] = mean_and_half(barrier)
                found[f"{key}_barriers"] = barrier.tolist()
            ways[way + (RECOMPUTED if recompute else "")] = found
    return {"pairs": pairs, "channels": family.channels, "norm": family.norm, "ways": ways}


def barriers(folder: Path, names: Sequence[str], pairs: int) -> dict[str, Any]:
    """Curves and barriers of each family, with 95 % t intervals over the pairs; families that are done are read."""
    found = {}
    for name in names:
        path = folder.parent / "zoo-barriers" / f"{name.replace(',', '').replace(' ', '-')}--{pairs}.json"
        if not path.exists():
            print(f"interpolating {pairs} pairs: {name}", flush=True)
            write_json(path, _of_family(folder, name, pairs))
        found[name] = read_json(path, "ways")
    return {"positions": torch.linspace(0, 1, POINTS).tolist(), "families": found}
