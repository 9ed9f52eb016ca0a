"""How good fitted networks are, and how near to the published ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.data.store import Networks
from benchmarks.running.pages import in_markdown
from weightaug import WeightSpaceElement

# Standard deviation of every tensor of the public INRs of Fashion-MNIST, as the configuration of the public code of
# neural graphs has them (fmnist.yaml), under the names that `WeightSpaceElement.named_tensors` gives.
INR_DEVIATIONS: dict[str, dict[str, float]] = {
    "fashion-mnist": {
        "layer0.weight": 0.0782,
        "layer0.bias": 0.0286,
        "layer1.weight": 0.0324,
        "layer1.bias": 0.0167,
        "layer2.weight": 0.1345,
        "layer2.bias": 0.0960,
    }
}

TOLERANCE = 0.10  # relative difference of a deviation from the published one, above which there is a warning


PIECE = 20_000  # networks that are looked at at once


class _Moments:
    """Sums over the entries of each tensor, piece by piece."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, element: WeightSpaceElement) -> None:
        for name, tensor in element.named_tensors():
            values = tensor.double()
            sums = torch.stack([torch.tensor(float(values.numel())), values.sum(), values.square().sum()])
            self._sums[name] = self._sums.get(name, 0) + sums

    def deviations(self) -> dict[str, float]:
        result = {}
        for name, sums in self._sums.items():
            count, total, squares = sums.tolist()
            if count > 1:
                result[name] = math.sqrt(max(squares - total**2 / count, 0) / (count - 1))
        return result


def statistics_of(networks: Networks) -> dict[str, Any]:
    """Reconstruction quality and deviations of all tensors, as JSON data.

    Networks whose fit diverged are counted under ``not_finite`` and left out of everything else.
    """
    finite, moments = networks.psnr.isfinite(), _Moments()
    for start in range(0, len(finite), PIECE):
        piece = networks.element[start : start + PIECE]
        here = finite[start : start + PIECE]
        for tensor in piece.tensors():
            here &= tensor.flatten(1).isfinite().all(1)
        moments.add(piece[here])
    psnr = networks.psnr[finite].double()
    quantiles = psnr.quantile(torch.tensor([0.0, 0.05, 0.5, 0.95], dtype=torch.float64)).tolist() if len(psnr) else []
    return {
        "networks": len(networks.psnr),
        "not_finite": int((~finite).sum()),
        "psnr": dict(zip(("least", "5 %", "median", "95 %"), quantiles, strict=False)),
        "deviations": moments.deviations(),
        "skipped": [list(entry) for entry in networks.skipped],
    }


def check(statistics: Any, path: Path) -> None:
    """Makes sure that stored statistics can be shown.

    Raises:
        ValueError: If they cannot; it names the file and what to do.
    """
    try:
        table("", statistics)
        warnings("", statistics)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: damaged ({error!r}); delete it, and they are taken again") from error


def table(dataset: str, statistics: dict[str, Any]) -> str:
    """The statistics in Markdown, beside the published ones where there are any."""
    psnr, deviations = statistics["psnr"], statistics["deviations"]
    published = INR_DEVIATIONS.get(dataset, {})
    said = [
        f"{statistics['networks']} networks fitted to {dataset}; PSNR in dB: "
        + ", ".join(f"{name} {value:.1f}" for name, value in psnr.items())
        + (f"; {statistics['not_finite']} diverged" if statistics["not_finite"] else "")
        + ".",
        *(f"Skipped {name}: {reason}." for name, reason in statistics["skipped"]),
    ]
    rows = []
    for name, value in deviations.items():
        row = [name, f"{value:.4f}"]
        if published:
            theirs = published.get(name)
            row += ["", ""] if theirs is None else [f"{theirs:.4f}", f"{100 * (value / theirs - 1):+.0f} %"]
        rows.append(row)
    heads = ["standard deviation of", "here", *(["published", "difference"] if published else [])]
    return "\n".join([*said, "", in_markdown(heads, rows).rstrip("\n")])


def warnings(dataset: str, statistics: dict[str, Any]) -> list[str]:
    """Lines on deviations far from the published ones, on samples that could not be read, and on diverged fits."""
    lines = [
        f"warning: {dataset}, {name}: deviation {statistics['deviations'][name]:.4f}, published {expected:.4f}, more "
        f"than {100 * TOLERANCE:.0f} % apart"
        for name, expected in INR_DEVIATIONS.get(dataset, {}).items()
        if name in statistics["deviations"] and abs(statistics["deviations"][name] / expected - 1) > TOLERANCE
    ]
    if statistics["skipped"]:
        lines.append(
            f"warning: {dataset}: {len(statistics['skipped'])} samples could not be read, and are listed above"
        )
    if statistics["not_finite"]:
        lines.append(f"warning: {dataset}: {statistics['not_finite']} fits diverged")
    return lines
