"""Fitted networks on disk, in parts that can be made one by one, in any order and by any process.

A part is a folder that ``weightaug.io`` writes; its manifest comes last and by a rename, so a part either is
there or is not, and an interrupted run goes on with the parts that are missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data.fit import fit, initial_weights, seed_of, siren_architecture
from benchmarks.data.images import Images, load_images, pixel_grid, source
from benchmarks.settings import FitSettings
from weightaug import WeightSpaceElement, cat, io


@dataclass(frozen=True)
class Part:
    """A few images of one view of a data set: the job of fitting one network to each.

    Args:
        dataset: Name of the images.
        view: Which of the networks per image.
        first: Index of the first image.
        last: Index after the last image.
        fit: How they are fitted.
        folder: Folder of all fitted networks.
        data_dir: Where the images lie; None for their usual place.
        device: Where they are fitted.
    """

    dataset: str
    view: int
    first: int
    last: int
    fit: FitSettings
    folder: Path
    data_dir: Path | None = None
    device: str = "cpu"

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the networks, beside the index of the image."""
        fitting = asdict(self.fit) | {"convention": asdict(self.fit.convention)}
        for key in ("batch", "limit", "images"):  # which networks are made, and with whom, but not what they are
            del fitting[key]
        if fitting["convention"]["coordinates"] == "xy":  # said since "ij" exists; older networks stay valid
            del fitting["convention"]["coordinates"]
        return plain({"dataset": self.dataset, "view": self.view, "fit": fitting})

    @property
    def path(self) -> Path:
        """Where the part lies. Other settings lie elsewhere, so nothing is ever mixed up."""
        name = f"{self.dataset}-{self.fit.convention_name}-{short_hash(self.settings['fit'])}"
        return self.folder / name / f"view{self.view}" / f"{self.first:06d}-{self.last:06d}"

    @property
    def done(self) -> bool:
        """Whether the part is there."""
        return (self.path / "manifest.json").exists()

    def run(self, progress: Callable[[int], None]) -> None:
        """Fits the networks and writes them."""
        images = images_of(self.dataset, self.data_dir)
        values, labels = images.values[self.first : self.last], images.labels[self.first : self.last]
        height, width = values.shape[1:]
        grid = pixel_grid(height, width, order=self.fit.convention.coordinates)
        low, high = self.fit.convention.target_range
        architecture = siren_architecture(self.fit.convention, (2, *self.fit.hidden, 1))
        seeds = [seed_of(self.fit.seed, self.dataset, self.view, i) for i in range(self.first, self.last)]
        start = initial_weights(self.fit.convention, architecture, seeds)
        targets = values.flatten(1) * (high - low) + low
        fitted = fit(grid.to(self.device), targets.to(self.device), start.to(self.device), self.fit, progress=progress)
        columns = {"psnr": fitted.psnr.cpu(), "steps": fitted.steps.cpu()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        io.save(self.path, fitted.element.to("cpu"), labels, columns=columns, metadata=self.settings)


def plain(data: Any) -> Any:
    """What JSON gives back for some data: lists for tuples."""
    return json.loads(json.dumps(data))


def short_hash(data: Any) -> str:
    """Eight hexadecimal digits that stand for JSON data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]


@lru_cache(maxsize=2)
def images_of(dataset: str, data_dir: Path | None) -> Images:
    """The images of a data set, read once."""
    return load_images(dataset, data_dir)


def chosen_images(dataset: str, settings: FitSettings) -> tuple[range, ...]:
    """The images that networks are fitted to: one range, or the three of the official splits.

    Raises:
        ValueError: If there are not so many.
    """
    known = source(dataset)
    if known.splits is None:
        if settings.images is not None:
            raise ValueError(f"{dataset} has no official splits, of which fit.images are the sizes; use fit.limit")
        return (range(known.count)[: settings.limit],)
    if settings.limit is not None:
        raise ValueError(f"{dataset} has official splits; choose their sizes with fit.images, not fit.limit")
    if settings.images is None:
        return known.splits
    for name, wanted, split in zip(("train", "validation", "test"), settings.images, known.splits, strict=True):
        if not 0 < wanted <= len(split):
            raise ValueError(f"{dataset}: expected 1 to {len(split)} images of {name}, got {wanted}")
    return tuple(split[:count] for split, count in zip(known.splits, settings.images, strict=True))


def parts_of(
    dataset: str, view: int, settings: FitSettings, folder: Path, data_dir: Path | None = None, device: str = "cpu"
) -> list[Part]:
    """The jobs that make one view of a data set."""
    return [
        Part(dataset, view, first, min(first + settings.batch, chosen.stop), settings, folder, data_dir, device)
        for chosen in chosen_images(dataset, settings)
        for first in range(chosen.start, chosen.stop, settings.batch)
    ]


@dataclass(frozen=True)
class Networks:
    """Fitted networks of one data set, view after view, in the order of the images.

    Attributes:
        element: ``(views * images,)``.
        labels: int64 ``(images,)``.
        psnr: In dB, ``(views * images,)``.
        views: Number of views.
        classes: Number of classes.
        splits: How many of the images are to train, validate and test on, in this order; None if they are in
            one heap.
    """

    element: WeightSpaceElement
    labels: Tensor
    psnr: Tensor
    views: int
    classes: int
    splits: tuple[int, int, int] | None = None


def load_networks(dataset: str, views: int, settings: FitSettings, folder: Path) -> Networks:
    """Reads the first views of a data set.

    Raises:
        FileNotFoundError: If a part is missing.
        ValueError: If a part is corrupt or was fitted with other settings.
    """
    elements, labels, psnr = [], [], []
    for view in range(views):
        for part in parts_of(dataset, view, settings, folder):
            stored = io.load(part.path)
            if stored.metadata != part.settings:
                raise ValueError(
                    f"{part.path}: fitted with other settings: expected {part.settings}, got {stored.metadata}; "
                    "delete the folder, and it is made again"
                )
            assert stored.labels is not None
            elements.append(stored.element)
            psnr.append(stored.columns["psnr"])
            if view == 0:
                labels.append(stored.labels)
    sizes = tuple(len(chosen) for chosen in chosen_images(dataset, settings))
    splits = None if len(sizes) == 1 else sizes
    return Networks(cat(elements), torch.cat(labels), torch.cat(psnr), views, source(dataset).classes, splits)
