"""Fitted networks on disk, in parts that can be made one by one, in any order and by any process.

A part is a folder that ``weightaug.io`` writes; its manifest comes last and by a rename, so a part either is
there or is not, and an interrupted run goes on with the parts that are missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data.fit import fit, initial_weights, seed_of, siren_architecture
from benchmarks.data.sdf import short_hash
from benchmarks.data.settings import DatasetName, FitSettings
from benchmarks.data.sources import Source, source
from benchmarks.running.files import read_json
from weightaug import Architecture, WeightSpaceElement, io


@dataclass(frozen=True)
class Part:
    """A few samples of one view of a data set: the job of fitting one network to each.

    Args:
        dataset: Name of the data set.
        view: Which of the networks per sample.
        first: Number of the first sample.
        last: Number after the last sample.
        fit: How they are fitted.
        folder: Folder of all fitted networks.
        data_dir: Where the data lie; None for their usual place.
        device: Where they are fitted.
    """

    dataset: DatasetName
    view: int
    first: int
    last: int
    fit: FitSettings
    folder: Path
    data_dir: Path | None = None
    device: str = "cpu"

    @property
    def source(self) -> Source:
        """The data set."""
        return source(self.dataset, self.data_dir)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the networks, beside the numbers of the samples."""
        fitting = described(self.fit)
        for key in self.fit.CHOICE:  # which networks are made, and with whom, but not what they are
            del fitting[key]
        if fitting["convention"]["coordinates"] == "xy":  # said since "ij" exists; older networks stay valid
            del fitting["convention"]["coordinates"]
        return plain({"dataset": self.dataset, **self.source.identity, "view": self.view, "fit": fitting})

    @property
    def path(self) -> Path:
        """Where the part lies. Other settings lie elsewhere, so nothing is ever mixed up."""
        settings = self.settings
        name = f"{self.dataset}-{self.fit.convention_name}-{short_hash(settings['fit'] | self.source.identity)}"
        return self.folder / name / f"view{self.view}" / f"{self.first:06d}-{self.last:06d}"

    @property
    def done(self) -> bool:
        """Whether the part is there."""
        return (self.path / "manifest.json").exists()

    @property
    def took(self) -> float | None:
        """Processor seconds of fitting the part; None if it is not there, or was made before this was kept."""
        return (
            read_json(self.path / "manifest.json", "settings")["settings"]["metadata"].get("processor_seconds")
            if self.done
            else None
        )

    def run(self, progress: Callable[[int], None]) -> None:
        """Fits the networks and writes them."""
        started = time.process_time()
        read = self.source.read(range(self.first, self.last), self.fit, self.folder.parent / "distances")
        progress(len(read.skipped))
        architecture = siren_architecture(self.fit.convention, (self.source.inputs, *self.fit.hidden, 1))
        seeds = [seed_of(self.fit.seed, self.dataset, self.view, key) for key in read.keys]
        start = initial_weights(self.fit.convention, architecture, seeds).to(self.device)
        targets = (read.coordinates.to(self.device), read.values.to(self.device))
        fitted = fit(*targets, start, self.fit, progress=progress)
        columns, metadata = {"psnr": fitted.psnr.cpu(), "steps": fitted.steps.cpu()}, self.settings
        metadata["processor_seconds"] = time.process_time() - started
        if self.source.skips:
            columns["sample"] = read.samples
            metadata["skipped"] = plain(read.skipped)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        io.save(self.path, fitted.element.to("cpu"), read.labels, columns=columns, metadata=metadata, overwrite=True)


def plain(data: Any) -> Any:
    """What JSON gives back for some data: lists for tuples."""
    return json.loads(json.dumps(data))


def described(fit: FitSettings) -> dict[str, Any]:
    """The settings of a fit with what their convention stands for."""
    return asdict(fit) | {"convention": asdict(fit.convention)}


def parts_of(
    dataset: DatasetName,
    view: int,
    settings: FitSettings,
    folder: Path,
    data_dir: Path | None = None,
    device: str = "cpu",
) -> list[list[Part]]:
    """The jobs that make one view of a data set: one list, or one each of those to train, validate and test on."""
    return [
        [
            Part(dataset, view, first, min(first + settings.batch, chosen.stop), settings, folder, data_dir, device)
            for first in range(chosen.start, chosen.stop, settings.batch)
        ]
        for chosen in source(dataset, data_dir).chosen(settings)
    ]


class NetworkReader:
    """Networks on disk that are read batch by batch, like an element that is indexed.

    Args:
        data: The files.
    """

    def __init__(self, data: io.WeightSpaceDataset) -> None:
        self._data = data

    @property
    def architecture(self) -> Architecture:
        """Of the networks."""
        return self._data.architecture

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Tensor | slice) -> WeightSpaceElement:
        """A batch of networks, in memory of its own."""
        return self._data.networks(torch.arange(len(self))[index] if isinstance(index, slice) else index)


@dataclass(frozen=True)
class Networks:
    """Fitted networks of one data set, view after view, in the order of the samples.

    Attributes:
        element: ``(views * samples,)``, on disk or in memory.
        labels: int64 ``(samples,)``.
        psnr: In dB, ``(views * samples,)``.
        views: Number of views.
        classes: Number of classes.
        splits: How many of the samples are to train, validate and test on, in this order; None if they are in
            one heap.
        skipped: Name and reason of every sample that could not be read.
    """

    element: WeightSpaceElement | NetworkReader
    labels: Tensor
    psnr: Tensor
    views: int
    classes: int
    splits: tuple[int, ...] | None = None
    skipped: tuple[tuple[str, str], ...] = ()


def load_networks(
    dataset: DatasetName, views: int, settings: FitSettings, folder: Path, data_dir: Path | None = None
) -> Networks:
    """Opens the first views of a data set; their checksums are compared, and no network is kept in memory.

    Raises:
        FileNotFoundError: If a part is missing.
        ValueError: If a part is corrupt or was fitted with other settings.
    """
    by_view = [parts_of(dataset, view, settings, folder, data_dir) for view in range(views)]
    parts = [part for view in by_view for split in view for part in split]
    data = io.WeightSpaceDataset(*(part.path for part in parts))
    counts, skipped = {}, []
    for part, stored in zip(parts, data.folders, strict=True):
        metadata = dict(stored.metadata)
        missing = metadata.pop("skipped", [])
        metadata.pop("processor_seconds", None)
        if metadata != part.settings:
            raise ValueError(
                f"{part.path}: fitted with other settings: expected {part.settings}, got {metadata}; "
                "delete the folder, and it is made again"
            )
        counts[part] = stored.size
        if part.view == 0:
            skipped += [(name, reason) for name, reason in missing]
    sizes = tuple(sum(counts[part] for part in split) for split in by_view[0])
    columns, labels = data.columns, data.labels
    assert labels is not None
    samples = columns.get("sample")
    if samples is not None and not torch.equal(samples, samples[: sum(sizes)].repeat(views)):
        raise ValueError(f"{parts[0].path.parent.parent}: views are of different samples; delete it, to be made again")
    splits = None if len(sizes) == 1 else sizes
    classes = source(dataset, data_dir).classes
    return Networks(NetworkReader(data), labels[: sum(sizes)], columns["psnr"], views, classes, splits, tuple(skipped))
