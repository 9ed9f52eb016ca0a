"""Trained ReLU networks: whether positive scales help the mid-point, which is what mixing sees."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data.images import load_images, pixel_grid
from weightaug import Architecture, WeightSpaceElement, act
from weightaug.matching import match

METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "permutation": {"symmetry": "permutation"},
    "permutation x scale": {},
    "permutation, by function": {"symmetry": "permutation", "method": "function"},
    "permutation x scale, by function": {"method": "function"},
}


def trained(images: Tensor, coordinates: Tensor, views: int, steps: int) -> WeightSpaceElement:
    """ReLU networks ``(views, images)`` that are fitted to images ``(images, points)`` by Adam, all at once."""
    arch = Architecture.mlp((2, 32, 32, 1), "relu")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(views, len(images), arch.num_parameters, generator=generator) * 2 - 1
    start = WeightSpaceElement.unflatten(arch, drawn)
    spans = [(6 / arch.weight_shape(l)[1]) ** 0.5 for l in range(len(arch.layers))]
    start = WeightSpaceElement(
        arch, tuple(w * s for w, s in zip(start.weights, spans, strict=True)), tuple(start.biases)
    )
    flat = start.flatten().requires_grad_()
    optimizer = torch.optim.Adam([flat], lr=5e-3)
    for _ in range(steps):
        error = (WeightSpaceElement.unflatten(arch, flat)(coordinates).squeeze(-1) - images).square().mean(-1).sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return WeightSpaceElement.unflatten(arch, flat.detach())


def relu(data_dir: Path | None, count: int, steps: int = 500) -> list[dict[str, Any]]:
    """Distances, mid-points and time of fitted ReLU networks, of the same image and of two."""
    values = load_images("digits" if data_dir is None else "fashion-mnist", data_dir).values[:count]
    coordinates = pixel_grid(*values.shape[1:])
    views = trained(values.flatten(1), coordinates, 2, steps)
    a = views[0].map(lambda t: torch.cat([t, t]))
    b = views[1].map(lambda t: torch.cat([t, t.roll(1, 0)]))
    shown = torch.cat([views[0](coordinates)] * 2), torch.cat([v := views[1](coordinates), v.roll(1, 0)])
    target = (shown[0] + shown[1]) / 2
    psnr, rows = {}, []
    for name, options in METHODS.items():
        options = {**options, "points": coordinates} if "method" in options else options
        started = time.process_time()
        moved = b if name == "none" else act(b, match(a, b, **options))
        took = time.process_time() - started
        middle = WeightSpaceElement.unflatten(a.architecture, (a.flatten() + moved.flatten()) / 2)
        error = (middle(coordinates) - target).square().flatten(1).mean(1)
        psnr[name] = -10 * torch.log10(error)
        gain = psnr[name] - psnr.get("permutation", psnr[name])
        rows.append(
            {
                "alignment": name,
                "pairs": len(a),
                "squared distance": float((a.flatten() - moved.flatten()).square().sum(1).mean()),
                "midpoint dB, same": float(psnr[name][:count].mean()),
                "midpoint dB, other": float(psnr[name][count:].mean()),
                "against permutation": float(gain.mean()),
                "standard error": float(gain.std() / len(gain) ** 0.5),
                "ms per pair": 1e3 * took / len(a),
            }
        )
    return rows
