"""How good fitted networks are, and how near to the published ones."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.data.store import Networks
from benchmarks.published import INR_DEVIATIONS

TOLERANCE = 0.10  # relative difference of a deviation from the published one, above which there is a warning


def statistics_of(networks: Networks) -> dict[str, Any]:
    """Reconstruction quality and deviations of all tensors, as JSON data.

    Networks whose fit diverged are counted under ``not_finite`` and left out of everything else.
    """
    finite = networks.psnr.isfinite()
    for tensor in networks.element.tensors():
        finite &= tensor.flatten(1).isfinite().all(1)
    psnr, element = networks.psnr[finite].double(), networks.element[finite]
    quantiles = psnr.quantile(torch.tensor([0.0, 0.05, 0.5, 0.95], dtype=torch.float64)).tolist() if len(psnr) else []
    return {
        "networks": len(networks.psnr),
        "not_finite": int((~finite).sum()),
        "psnr": dict(zip(("least", "5 %", "median", "95 %"), quantiles, strict=False)),
        "deviations": {name: float(t.double().std()) for name, t in element.named_tensors()},
    }


def table(dataset: str, statistics: dict[str, Any]) -> str:
    """The statistics in Markdown, beside the published ones where there are any."""
    psnr, deviations = statistics["psnr"], statistics["deviations"]
    published = INR_DEVIATIONS.get(dataset, {})
    lines = [
        f"{statistics['networks']} networks fitted to {dataset}; PSNR in dB: "
        + ", ".join(f"{name} {value:.1f}" for name, value in psnr.items())
        + (f"; {statistics['not_finite']} diverged" if statistics["not_finite"] else "")
        + ".",
        "",
        "| standard deviation of | here |" + (" published | difference |" if published else ""),
        "|---|---:|" + ("---:|---:|" if published else ""),
    ]
    for name, value in deviations.items():
        line = f"| {name} | {value:.4f} |"
        if name in published:
            line += f" {published[name]:.4f} | {100 * (value / published[name] - 1):+.0f} % |"
        lines.append(line)
    return "\n".join(lines)


def warnings(dataset: str, statistics: dict[str, Any]) -> list[str]:
    """One line for every tensor whose deviation is far from the published one, and for diverged fits."""
    lines = [
        f"warning: {dataset}, {name}: deviation {statistics['deviations'][name]:.4f}, published {expected:.4f}, more "
        f"than {100 * TOLERANCE:.0f} % apart"
        for name, expected in INR_DEVIATIONS.get(dataset, {}).items()
        if name in statistics["deviations"] and abs(statistics["deviations"][name] / expected - 1) > TOLERANCE
    ]
    if statistics["not_finite"]:
        lines.append(f"warning: {dataset}: {statistics['not_finite']} fits diverged")
    return lines
