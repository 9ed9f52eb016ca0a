"""The benchmark's data sets under one roof: what there is to fit networks to, images and shapes.

A source numbers its samples once and for all, so that a part of a data set is a range of numbers, and says which
of them are to train, validate and test on. What it reads of a sample depends on the sample and the settings alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from benchmarks.data import images, meshes, solids
from benchmarks.data.settings import DatasetName, FitSettings, ImageFitSettings, ShapeFitSettings


class Targets(NamedTuple):
    """What the networks of a few samples are fitted to.

    Attributes:
        coordinates: Inputs, ``(points, inputs)`` for all networks or ``(n, points, inputs)``.
        values: Wanted outputs, ``(n, points)``.
        labels: Classes, int64 ``(n,)``.
        samples: Numbers of the samples, int64 ``(n,)``: those that could be read.
        keys: What each network's initial weights are drawn from, beside seed, data set and view.
        skipped: Name and reason of every sample that could not be read.
    """

    coordinates: Tensor
    values: Tensor
    labels: Tensor
    samples: Tensor
    keys: tuple[object, ...]
    skipped: tuple[tuple[str, str], ...] = ()


class Source(Protocol):
    """A data set."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def inputs(self) -> int:
        """Number of coordinates."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its numbering apart from others of the same name; empty where there is only one."""
        ...

    @property
    def skips(self) -> bool:
        """Whether samples may turn out not to be readable."""
        ...

    def chosen(self, settings: FitSettings) -> tuple[range, ...]:
        """Numbers of the samples to use: one range to split at random, or those to train, validate and test on.

        Raises:
            ValueError: If there are not so many, or the settings choose in a way that the data set does not have.
        """
        ...

    def check(self) -> None:
        """Makes sure that the data can be read here, downloading them if they may be.

        Raises:
            OSError: If data are missing, or a download fails.
            ValueError: If a file is corrupt.
            ImportError: If a package is missing.
        """
        ...

    def read(self, numbers: range, settings: FitSettings, cache: Path) -> Targets:
        """What to fit to some samples.

        Args:
            numbers: Which samples.
            settings: Conventions of the values, and how points are taken.
            cache: Folder for what is slow to compute.
        """
        ...


def source(name: DatasetName, data_dir: Path | None = None) -> Source:
    """The data set of that name, from a folder or its usual place.

    Raises:
        ValueError: If there is no such data set.
        FileNotFoundError: If meshes are not where they should be.
    """
    if name in images.SOURCES:
        return _image_source(name, data_dir)
    if name == "solids":
        return SolidSource()
    if name in MESH_ARCHIVES:
        return _mesh_source(name, data_dir)
    raise ValueError(f"unknown data set {name!r}; known: {[*images.SOURCES, 'solids', *MESH_ARCHIVES]}")


@lru_cache(maxsize=4)
def _image_source(name: str, data_dir: Path | None) -> ImageSource:
    known = images.source(name)
    return ImageSource(name, data_dir, known.size, known.splits, known.classes)


@lru_cache(maxsize=4)
def _mesh_source(name: str, data_dir: Path | None) -> MeshSource:
    return MeshSource.of(find_meshes(name, data_dir))


# -- images ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageSource:
    """Grey images; the points are the pixels.

    Args:
        name: Key of ``images.SOURCES``.
        data_dir: Where they lie; None for their usual place.
        count: Number of images.
        splits: Numbers to train, validate and test on; None if the training settings draw them.
        classes: Number of classes.
    """

    name: str
    data_dir: Path | None
    count: int
    splits: tuple[range, range, range] | None
    classes: int
    inputs: int = 2
    identity: dict[str, Any] = field(default_factory=dict)
    skips: bool = False

    def chosen(self, settings: FitSettings) -> tuple[range, ...]:
        assert isinstance(settings, ImageFitSettings)
        if self.splits is None:
            if settings.images is not None:
                raise ValueError(
                    f"{self.name} has no official splits, of which fit.images are the sizes; use fit.limit"
                )
            return (range(self.count)[: settings.limit],)
        if settings.limit is not None:
            raise ValueError(f"{self.name} has official splits; choose their sizes with fit.images, not fit.limit")
        if settings.images is None:
            return self.splits
        for what, wanted, split in zip(("train", "validation", "test"), settings.images, self.splits, strict=True):
            if not 0 < wanted * (settings.nth + 1) <= len(split):
                most = len(split) // (settings.nth + 1)
                raise ValueError(f"{self.name}: expected 1 to {most} images of {what}, got {wanted}")
        return tuple(
            split[wanted * settings.nth : wanted * (settings.nth + 1)]
            for split, wanted in zip(self.splits, settings.images, strict=True)
        )

    def check(self) -> None:
        _images(self.name, self.data_dir)

    def read(self, numbers: range, settings: FitSettings, cache: Path) -> Targets:
        some = slice(numbers.start, numbers.stop)
        values, labels, _ = _images(self.name, self.data_dir)
        low, high = settings.convention.target_range
        grid = images.pixel_grid(*values.shape[1:], order=settings.convention.coordinates)
        targets = values[some].flatten(1) * (high - low) + low
        return Targets(grid, targets, labels[some], torch.tensor(numbers), tuple(numbers))


@lru_cache(maxsize=2)
def _images(name: str, data_dir: Path | None) -> images.Images:
    return images.load_images(name, data_dir)


# -- shapes ------------------------------------------------------------------------------------------

_STRIDE = 1_000_000  # solids of one split; there are as many as anyone asks for


@dataclass(frozen=True)
class SolidSource:
    """Analytic solids; the points lie near each solid's surface."""

    classes: int = len(solids.CLASSES)
    inputs: int = 3
    identity: dict[str, Any] = field(default_factory=dict)
    skips: bool = False

    def chosen(self, settings: FitSettings) -> tuple[range, ...]:
        assert isinstance(settings, ShapeFitSettings)
        if settings.samples is None:
            raise ValueError("there is no end of solids; say how many to train, validate and test on: shapes.samples")
        for wanted in settings.samples:
            if not 0 < wanted <= _STRIDE:
                raise ValueError(f"solids: expected 1 to {_STRIDE} of each split, got {settings.samples}")
        return tuple(range(i * _STRIDE, i * _STRIDE + wanted) for i, wanted in enumerate(settings.samples))

    def check(self) -> None:
        pass  # nothing to read

    def read(self, numbers: range, settings: FitSettings, cache: Path) -> Targets:
        assert isinstance(settings, ShapeFitSettings)
        split, first = divmod(numbers.start, _STRIDE)
        # Validation solids are training solids that nobody trains on.
        first += _STRIDE * (split == 1)
        some = solids.make_solids(range(first, first + len(numbers)), "test" if split == 2 else "train")
        points, values = solids.signed_distances(some, sampling=settings.sampling, noise=settings.noise)
        return Targets(points, values, some.labels, torch.tensor(numbers), tuple(numbers))


MESH_ARCHIVES = {"modelnet10": "ModelNet10", "modelnet40": "ModelNet40"}


def find_meshes(name: str, data_dir: Path | None) -> Path:
    """The archive or unpacked folder of a mesh data set.

    Args:
        name: Key of ``MESH_ARCHIVES``.
        data_dir: The archive, the unpacked folder, or a folder that holds either, itself or in one called ``name``.

    Raises:
        FileNotFoundError: If there is none.
    """
    stem = MESH_ARCHIVES[name]
    where = f"get {stem}.zip from https://modelnet.cs.princeton.edu (research use; cite Wu et al. 2015)"
    if data_dir is None:
        raise FileNotFoundError(f"{name} is not downloaded for you: {where}, and name it with --data-dir")
    if data_dir.is_file() or data_dir.name == stem:
        return data_dir
    for folder in (data_dir / name, data_dir):
        for path in sorted(folder.glob(f"{stem}*")):
            if path.suffix == ".zip" or path.is_dir():
                return path
    raise FileNotFoundError(f"{data_dir}: expected {stem}*.zip or a folder {stem}, here or in {name}/; {where}")


@dataclass(frozen=True)
class MeshSource:
    """Meshes in ModelNet's layout; the points lie near each mesh's surface.

    Samples are numbered in an order without rhyme that depends on their names alone, the official training set
    first, so that the first n are a fair sample. Validation meshes are the last of the training set: the paper does
    not say which it took.

    Args:
        samples: All of them, in their order.
        trained: How many of them belong to the official training set.
        classes: Number of classes.
        identity: A checksum of the listing: another archive numbers its meshes otherwise.
    """

    samples: tuple[meshes.ShapeSample, ...]
    trained: int
    classes: int
    identity: dict[str, Any]
    inputs: int = 3
    skips: bool = True

    @classmethod
    def of(cls, path: Path) -> MeshSource:
        """The meshes of an archive or folder."""
        found = meshes.load_shapes(path)

        def order(sample: meshes.ShapeSample) -> tuple[bool, bytes]:
            return sample.split == "test", hashlib.sha256(_name(sample).encode()).digest()

        samples = tuple(sorted(found, key=order))
        # A folder lists no checksums, so its files are read: another mesh of the same name is another sample.
        listing = "\n".join(f"{_name(sample)} {_checksum(sample)}" for sample in samples)
        identity = {"listing": hashlib.sha256(listing.encode()).hexdigest()[:16]}
        trained = sum(sample.split == "train" for sample in samples)
        return cls(samples, trained, len(meshes.classes_of(samples)), identity)

    def chosen(self, settings: FitSettings) -> tuple[range, ...]:
        assert isinstance(settings, ShapeFitSettings)
        tested = len(self.samples) - self.trained
        validated = self.trained // 10
        train, validation, test = settings.samples or (self.trained - validated, validated, tested)
        if min(train, validation, test) < 1 or train + validation > self.trained or test > tested:
            raise ValueError(
                f"shapes.samples: expected at least 1 mesh each to train, validate and test on, at most {self.trained} "
                f"in the first two and {tested} in the last, got {(train, validation, test)}"
            )
        return (
            range(train),
            range(self.trained - validation, self.trained),
            range(self.trained, self.trained + test),
        )

    def check(self) -> None:
        meshes.require_igl()

    def read(self, numbers: range, settings: FitSettings, cache: Path) -> Targets:
        assert isinstance(settings, ShapeFitSettings)
        read: list[tuple[int, meshes.ShapeSample, Tensor, Tensor]] = []
        skipped = []
        for number in numbers:
            sample = self.samples[number]
            try:
                points, distances = meshes.prepare_one(sample, cache, settings.sampling).load()
            except meshes.MeshError as error:
                skipped.append((sample.member, str(error)))
                continue
            read.append((number, sample, torch.from_numpy(points), torch.from_numpy(distances)))
        count = settings.sampling.points
        return Targets(
            torch.stack([points for *_, points, _ in read]) if read else torch.zeros(0, count, 3),
            torch.stack([distances for *_, distances in read]) if read else torch.zeros(0, count),
            torch.tensor([sample.label for _, sample, *_ in read], dtype=torch.int64),
            torch.tensor([number for number, *_ in read], dtype=torch.int64),
            tuple(_name(sample) for _, sample, *_ in read),
            tuple(skipped),
        )


def _checksum(sample: meshes.ShapeSample) -> int | None:
    try:
        return sample.checksum()
    except meshes.MeshError:
        return None  # it will be skipped, with the reason


def _name(sample: meshes.ShapeSample) -> str:
    return f"{sample.class_name}/{sample.split}/{sample.name}"
