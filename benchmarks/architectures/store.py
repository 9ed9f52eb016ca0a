"""The zoo on disk, in parts that are trained one by one: what is there is read, what is missing is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.architectures.cnns import FAMILIES, HyperParameters, accuracies, digits_split, train
from weightaug import WeightSpaceElement, io
from weightaug.fitting.initial import seed_of

__all__ = ["SPREAD", "WELL_TRAINED", "Part", "load", "parts"]

SPREAD = ("three convolutions", "two convolutions, BatchNorm")  # with hyper-parameters of all kinds
WELL_TRAINED = ("three wide convolutions", "three wide convolutions, BatchNorm")  # one setting, for interpolating
_PER_PART = 20


@dataclass(frozen=True)
class Part:
    """Some networks of a family: the job of training them.

    Args:
        family: Name of the family.
        number: Which part of it.
        count: Number of networks.
        folder: Folder of the zoo.
    """

    family: str
    number: int
    count: int
    folder: Path

    @property
    def path(self) -> Path:
        """Where the part lies."""
        return self.folder / self.family.replace(",", "").replace(" ", "-") / f"{self.number:03d}"

    @property
    def done(self) -> bool:
        """Whether the part is there."""
        return (self.path / "manifest.json").exists()

    def run(self, progress: Callable[[int], None]) -> None:
        """Trains the networks, tests them, and writes both."""
        family, data = FAMILIES[self.family], digits_split()
        seed = seed_of("zoo", self.family, self.number)
        generator = torch.Generator().manual_seed(seed)
        given = (
            HyperParameters.drawn(self.count, generator) if self.family in SPREAD else HyperParameters.good(self.count)
        )
        start = time.process_time()
        networks = train(family, given, seed)
        seconds = time.process_time() - start
        columns = {
            "test_accuracy": accuracies(networks, family, data.test, data.test_labels),
            "training_accuracy": accuracies(networks, family, data.train, data.train_labels),
            **{name: value for name, value in given._asdict().items() if isinstance(value, torch.Tensor)},
            "batch": torch.full((self.count,), given.batch),
            "steps": torch.full((self.count,), given.steps),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        io.save(
            self.path,
            networks,
            columns=columns,
            metadata={"family": self.family, "seed": seed, "seconds": seconds},
            overwrite=True,
        )
        progress(self.count)


def parts(folder: Path, networks: int, well_trained: int) -> list[Part]:
    """The jobs of a zoo: some networks of each family."""
    counts = dict.fromkeys(SPREAD, networks) | dict.fromkeys(WELL_TRAINED, well_trained)
    return [
        Part(name, number, min(_PER_PART, count - first), folder)
        for name, count in counts.items()
        for number, first in enumerate(range(0, count, _PER_PART))
    ]


def load(folder: Path, family: str) -> tuple[WeightSpaceElement, dict[str, torch.Tensor], float]:
    """All networks of a family, their columns, and the processor seconds of their training.

    Raises:
        ValueError: If there are none.
    """
    paths = sorted(p.parent for p in Part(family, 0, 1, folder).path.parent.glob("*/manifest.json"))
    if not paths:
        raise ValueError(f"{folder}: no networks of {family!r}; train them with: python benchmarks/zoo.py train")
    data = io.WeightSpaceDataset(*paths)
    # What was derived from a module can be evaluated, what is read from a file cannot.
    element = WeightSpaceElement(FAMILIES[family].architecture, tuple(data.element.tensors()), ())
    return element, data.columns, sum(folder.metadata["seconds"] for folder in data.folders)
