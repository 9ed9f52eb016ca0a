"""The growth part of speed.py: time against batch size, width and depth, alignment against width, and the plots."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import weightaug as wa
from weightaug.matching import match

Clock = Callable[[Callable[[], Any]], float]  # microseconds of one call

BATCHES = tuple(4**i for i in range(9))
WIDTHS = (8, 16, 32, 64, 128, 256, 512)
ALIGNED_WIDTHS = (*WIDTHS, 1024, 2048)  # the last as one pair
DEPTHS = (1, 2, 4, 8, 16)
TRANSFORMS: dict[str, wa.Transform] = {
    "SirenNegation": wa.SirenNegation(),
    "Permute": wa.Permute(),
    "Rotate": wa.Rotate(),
    "GaussianNoise": wa.GaussianNoise(),
    "QuantileDropout": wa.QuantileDropout(),
    "Mixup": wa.Mixup(),
}
CLONE = "clone"
ALIGNMENTS = {"permutation": "permutation", "full group": "auto"}

Curves = dict[str, dict[str, list[tuple[float, float]]]]


def siren(width: int, depth: int) -> wa.Architecture:
    """A SIREN from 2 to 1 with some hidden layers of one width."""
    return wa.Architecture.siren((2, *[width] * depth, 1))


def networks(architecture: wa.Architecture, batch: int, seed: int = 0) -> wa.WeightSpaceElement:
    """Random networks, float32."""
    flat = torch.randn(batch, architecture.num_parameters, generator=torch.Generator().manual_seed(seed))
    return wa.WeightSpaceElement.unflatten(architecture, flat.mul_(0.05)).clone()


def curves(clock: Clock, device: torch.device) -> Curves:
    """Points (what grows, microseconds) of every curve of every panel."""
    found: Curves = {
        "batch": _transforms([(b, siren(32, 2), b) for b in BATCHES], clock, device),
        "width": _transforms([(w, siren(w, 2), 64) for w in WIDTHS], clock, device),
        "depth": _transforms([(d, siren(32, d), 64) for d in DEPTHS], clock, device),
    }
    aligned: dict[str, list[tuple[float, float]]] = {name: [] for name in ALIGNMENTS}
    for width in ALIGNED_WIDTHS:
        pairs = max(2 if width < 1024 else 1, min(256, 2**17 // width**2))
        a, b = (networks(siren(width, 2), pairs, seed).to(device) for seed in (0, 1))
        for name, symmetry in ALIGNMENTS.items():
            aligned[name].append((width, clock(partial(match, a, b, symmetry=symmetry)) / pairs))
    found["alignment"] = aligned
    return found


def _transforms(
    sizes: list[tuple[int, wa.Architecture, int]], clock: Clock, device: torch.device
) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in (*TRANSFORMS, CLONE)}
    for x, architecture, batch in sizes:
        element = networks(architecture, batch).to(device)
        for name, transform in TRANSFORMS.items():
            points[name].append((x, clock(partial(transform, element))))
        points[CLONE].append((x, clock(element.clone)))
    return points


def exponent(points: list[tuple[float, float]], first: float) -> float:
    """The power with which time grows from some size on: the slope of a line through the logarithms."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x >= first]
    xs, ys = torch.tensor(logs, dtype=torch.float64).unbind(1)
    slope: Tensor = ((xs - xs.mean()) * (ys - ys.mean())).sum() / (xs - xs.mean()).square().sum()
    return float(slope)


FITTED_FROM = {"batch": 1024, "width": 64, "depth": 4, "alignment": 64}


def exponents(found: Curves) -> dict[str, dict[str, float]]:
    """The exponent of every curve, fitted where the fixed cost of a call no longer counts."""
    return {panel: {n: exponent(p, FITTED_FROM[panel]) for n, p in lines.items()} for panel, lines in found.items()}


def plot(found: Curves, path: Path) -> None:
    """Draws the four panels to ``path`` with .png and with .svg."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("the plots need matplotlib: pip install 'weightaug[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    titles = {
        "batch": ("2-32-32-1, against batch size", "networks in the batch", "µs per batch"),
        "width": ("64 networks 2-w-w-1, against width", "width w", "µs per batch"),
        "depth": ("64 networks of width 32, against depth", "hidden layers", "µs per batch"),
        "alignment": ("alignment of 2-w-w-1, against width", "width w", "µs per pair"),
    }
    colours = dict(zip([*TRANSFORMS, CLONE, *ALIGNMENTS], plt.get_cmap("tab10")(range(10)), strict=False))
    powers = exponents(found)
    with plt.rc_context({"svg.hashsalt": "weightaug", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(2, 2, figsize=(13, 7.5), layout="constrained")
        for panel, axis in zip(titles, axes.flat, strict=True):
            for name, points in found[panel].items():
                style = "--" if name == CLONE else "-"
                label = f"{name} ({powers[panel][name]:.2f})"
                axis.plot(*zip(*points, strict=True), style, marker=".", label=label, color=colours[name])
            title, xlabel, ylabel = titles[panel]
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel, yscale="log")
            axis.set_xscale("log", base=2)
            axis.grid(alpha=0.3)
            title = f"exponent from {FITTED_FROM[panel]} on"
            axis.legend(title=title, fontsize=8, title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path.with_suffix(".png"), dpi=130)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        plt.close(figure)
