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
from benchmarks.data.images import Images, load_images, pixel_grid
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
    """

    dataset: str
    view: int
    first: int
    last: int
    fit: FitSettings
    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the networks, beside the index of the image."""
        fitting = asdict(self.fit) | {"convention": asdict(self.fit.convention)}
        for key in ("batch", "limit"):  # which networks are made, and with whom, but not what they are
            del fitting[key]
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
        images = images_of(self.dataset, self.fit.limit)
        values, labels = images.values[self.first : self.last], images.labels[self.first : self.last]
        height, width = values.shape[1:]
        low, high = self.fit.convention.target_range
        architecture = siren_architecture(self.fit.convention, (2, *self.fit.hidden, 1))
        seeds = [seed_of(self.fit.seed, self.dataset, self.view, i) for i in range(self.first, self.last)]
        start = initial_weights(self.fit.convention, architecture, seeds)
        targets = values.flatten(1) * (high - low) + low
        fitted = fit(pixel_grid(height, width), targets, start, self.fit, progress=progress)
        columns = {"psnr": fitted.psnr, "steps": fitted.steps}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        io.save(self.path, fitted.element, labels, columns=columns, metadata=self.settings)


def plain(data: Any) -> Any:
    """What JSON gives back for some data: lists for tuples."""
    return json.loads(json.dumps(data))


def short_hash(data: Any) -> str:
    """Eight hexadecimal digits that stand for JSON data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]


@lru_cache(maxsize=2)
def images_of(dataset: str, limit: int | None) -> Images:
    """The images of a data set, or the first few of them."""
    images = load_images(dataset)
    return images._replace(values=images.values[:limit], labels=images.labels[:limit])


def parts_of(dataset: str, view: int, settings: FitSettings, folder: Path) -> list[Part]:
    """The jobs that make one view of a data set."""
    count = len(images_of(dataset, settings.limit).labels)
    starts = range(0, count, settings.batch)
    return [Part(dataset, view, s, min(s + settings.batch, count), settings, folder) for s in starts]


@dataclass(frozen=True)
class Networks:
    """Fitted networks of one data set, view after view, in the order of the images.

    Attributes:
        element: ``(views * images,)``.
        labels: int64 ``(images,)``.
        psnr: In dB, ``(views * images,)``.
        views: Number of views.
        classes: Number of classes.
    """

    element: WeightSpaceElement
    labels: Tensor
    psnr: Tensor
    views: int
    classes: int


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
    classes = images_of(dataset, settings.limit).classes
    return Networks(cat(elements), torch.cat(labels), torch.cat(psnr), views, classes)
