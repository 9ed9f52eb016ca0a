"""Pairs of networks that are fitted to real images, for the alignment benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from benchmarks.data.fit import fit, initial_weights, seed_of, siren_architecture
from benchmarks.data.images import load_images, pixel_grid
from benchmarks.data.settings import ImageFitSettings
from benchmarks.data.sources import source
from weightaug import Architecture, WeightSpaceElement, cat, io
from weightaug.fitting.conventions import ConventionName


@dataclass(frozen=True)
class Fits:
    """Two views (initialisations) of each of some images.

    Attributes:
        views: The networks of each view, ``(n,)``.
        images: What they show, ``(n, points)``, in the value range of the convention.
        coordinates: Where, ``(points, 2)``.
        peak: Width of the value range.
        psnr: Of the reconstructions, ``(2, n)``.
    """

    views: tuple[WeightSpaceElement, WeightSpaceElement]
    images: Tensor
    coordinates: Tensor
    peak: float
    psnr: Tensor


def load_fits(
    convention: ConventionName, data_dir: Path | None, count: int, folder: Path, given: Sequence[Path] = ()
) -> Fits:
    """Two networks per image: of folders that table1.py left, of an earlier run, or fitted here, going on from there.

    Raises:
        ValueError: If a given folder holds too few networks.
    """
    settings = ImageFitSettings(convention_name=convention)
    for path in given:
        if (path / "view0").is_dir() and _metadata(path / "view0")["fit"]["convention_name"] == convention:
            return _given(path, settings, data_dir, count)
    low, high = settings.convention.target_range
    values = load_images("digits" if data_dir is None else "fashion-mnist", data_dir).values[:count]
    coordinates = pixel_grid(*values.shape[1:])
    targets = low + (high - low) * values.flatten(1)
    name = "digits" if data_dir is None else data_dir.name
    arch = siren_architecture(settings.convention, (2, *settings.hidden, 1))
    folder.mkdir(parents=True, exist_ok=True)
    size = 32
    views: list[list[WeightSpaceElement]] = [[], []]
    psnr: list[list[Tensor]] = [[], []]
    with tqdm(total=2 * len(values), desc=f"fitting {convention}", unit="network", dynamic_ncols=True) as bar:
        for view in (0, 1):
            for first in range(0, len(values), size):
                last = min(first + size, len(values))
                path = folder / f"{name}-{convention}-{view}-{first}-{last}.safetensors"
                if not path.exists():
                    _fit_to_file(path, settings, arch, coordinates, targets, range(first, last), name, view, bar)
                else:
                    bar.update(last - first)
                stored = load_file(path)
                views[view].append(WeightSpaceElement.unflatten(arch, stored["parameters"]))
                psnr[view].append(stored["psnr"])
    joined = (cat(views[0]), cat(views[1]))
    return Fits(joined, targets, coordinates, high - low, torch.stack([torch.cat(p) for p in psnr]))


def _metadata(view: Path) -> dict[str, Any]:
    first = min(view.glob("*/manifest.json"), default=None)
    if first is None:
        raise ValueError(f"--fits: {view} holds no networks; expected folders that table1.py --steps fit leaves")
    return dict(io.WeightSpaceDataset(first.parent).folders[0].metadata)


def _given(path: Path, settings: ImageFitSettings, data_dir: Path | None, count: int) -> Fits:
    metadata = _metadata(path / "view0")
    views, psnr = [], []
    for view in ("view0", "view1"):
        parts, there = [], 0
        for part in sorted((path / view).glob("*/manifest.json")):
            if there < count and int(part.parent.name.split("-")[0]) == there:
                parts.append(part.parent)
                there = int(part.parent.name.split("-")[1])
        if there < count:
            raise ValueError(f"--fits: {path / view} holds {there} networks from the first on, expected {count}")
        data = io.WeightSpaceDataset(*parts)
        views.append(data.networks(torch.arange(count)))
        psnr.append(data.columns["psnr"][:count])
    read = source(metadata["dataset"], data_dir).read(range(count), settings, path)
    low, high = settings.convention.target_range
    return Fits((views[0], views[1]), read.values, read.coordinates, high - low, torch.stack(psnr))


def _fit_to_file(
    path: Path,
    settings: ImageFitSettings,
    arch: Architecture,
    coordinates: Tensor,
    targets: Tensor,
    which: range,
    name: str,
    view: int,
    bar: tqdm[object],
) -> None:
    seeds = [seed_of("alignment", name, settings.convention_name, view, i) for i in which]
    start = initial_weights(settings.convention, arch, seeds)
    fitted = fit(coordinates, targets[which.start : which.stop], start, settings, progress=bar.update)
    temporary = path.with_suffix(".part")
    save_file({"parameters": fitted.element.flatten(), "psnr": fitted.psnr}, temporary)
    temporary.rename(path)
