"""One cell of the table: data set x model x augmentation x views x seed, trained into one JSON file."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weightaug as wa
from benchmarks.data.store import Networks, load_networks, plain, short_hash
from benchmarks.models.dws import DWS
from benchmarks.settings import ROWS, DWSSettings, FitSettings, TrainSettings


@dataclass(frozen=True)
class Cell:
    """The job of training one classifier.

    Args:
        dataset: Name of the images.
        model: Name of the model.
        row: Key of ``ROWS``.
        views: Networks per image to train on; validation and test use the first view.
        seed: Of the initial weights, the order of the networks and the augmentation.
        fit: How the networks were fitted.
        dws: The model's settings.
        train: How it is trained.
        folder: Where fitted networks and results lie.
    """

    dataset: str
    model: str
    row: str
    views: int
    seed: int
    fit: FitSettings
    dws: DWSSettings
    train: TrainSettings
    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the result."""
        augmentation = ROWS[self.row].augmentation
        fitting = asdict(self.fit) | {"convention": asdict(self.fit.convention)}
        del fitting["batch"]
        settings = {
            "dataset": self.dataset,
            "model": self.model,
            "row": self.row,
            "views": self.views,
            "seed": self.seed,
            "augmentation": augmentation().asdict() if augmentation else None,
            "fit": fitting,
            "dws": asdict(self.dws),
            "train": asdict(self.train),
        }
        return plain(settings)

    @property
    def path(self) -> Path:
        """The result file. Its name holds a hash of the settings: others never take it for theirs."""
        name = f"{self.dataset}-{self.model}-{self.row}-{self.views}view-seed{self.seed}"
        return self.folder / "cells" / f"{name}-{short_hash(self.settings)}.json"

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.path.exists()

    def run(self, progress: Callable[[int], None]) -> None:
        """Trains the classifier and writes the result."""
        networks = _networks(self.dataset, self.views, self.fit, self.folder / "inrs")
        started, processor = time.perf_counter(), time.process_time()
        outcome = train(self, networks, progress)
        record = {
            "settings": self.settings,
            **outcome,
            "seconds": time.perf_counter() - started,
            "processor_seconds": time.process_time() - processor,  # what a machine that others use can compare
            "versions": {"weightaug": wa.__version__, "torch": torch.__version__, "python": platform.python_version()},
            "machine": {
                "platform": platform.platform(),
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
            },
        }
        write_json(self.path, record)


@lru_cache(maxsize=1)
def _networks(dataset: str, views: int, fit: FitSettings, folder: Path) -> Networks:
    return load_networks(dataset, views, fit, folder)


def write_json(path: Path, data: Any) -> None:
    """Writes a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


@dataclass(frozen=True)
class Split:
    """Indices of images for training, validation and test."""

    train: Tensor
    validation: Tensor
    test: Tensor


def split_images(networks: Networks, settings: TrainSettings) -> Split:
    """The same split for every cell: all views of an image are on one side."""
    count = len(networks.labels)
    if networks.splits is not None:
        return Split(*torch.arange(count).split(networks.splits))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.split_seed))
    test, validation = round(count * settings.test), round(count * settings.validation)
    return Split(order[test + validation :], order[test : test + validation], order[:test])


def build_model(cell: Cell, architecture: wa.Architecture, classes: int) -> nn.Module:
    """The model of a cell, with initial weights that depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)
        return DWS(architecture, classes, **asdict(cell.dws))


class _Diverged(Exception):
    """The loss is no number any more."""


def train(cell: Cell, networks: Networks, progress: Callable[[int], None]) -> dict[str, Any]:
    """Trains a classifier; its test accuracy is that of the epoch with the best validation accuracy.

    Args:
        cell: What to train.
        networks: What to train it on.
        progress: Called with 1 after every epoch.

    Returns:
        ``status`` ("finished" or "diverged"), the accuracies in percent (None if diverged), the best epoch,
        the curves, and what was trained on.
    """
    settings = cell.train
    images = len(networks.labels)
    split = split_images(networks, settings)
    # View v of image i is network v * images + i.
    index = torch.cat([split.train + view * images for view in range(cell.views)])
    training_set, labels = networks.element[index], networks.labels.repeat(cell.views)[index]
    targets = F.one_hot(labels, networks.classes).to(training_set.dtype)

    model = build_model(cell, training_set.architecture, networks.classes)
    model.set_statistics(training_set)
    steps = settings.epochs * (len(index) // settings.batch)
    if not steps:
        raise ValueError(f"{len(index)} networks do not fill one batch of {settings.batch}; take a smaller batch")
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps, settings.warmup))
    augmentation = ROWS[cell.row].augmentation
    transform = augmentation() if augmentation else None
    # Two sources, so that the order of the networks is the same in all rows: differences are paired.
    ordering = torch.Generator().manual_seed(cell.seed)
    augmenting = torch.Generator().manual_seed(cell.seed)

    curves: dict[str, list[float]] = {"train_loss": [], "validation_accuracy": []}
    best_accuracy, best_epoch, best_weights = -1.0, -1, {}
    try:
        for epoch in range(settings.epochs):
            model.train()
            losses = []
            for batch, wanted in _batches(training_set, targets, transform, settings, ordering, augmenting):
                loss = F.cross_entropy(model(batch), wanted)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
                optimiser.step()
                schedule.step()
                losses.append(loss.detach())
            mean_loss = float(torch.stack(losses).mean())
            if not math.isfinite(mean_loss):
                raise _Diverged
            accuracy = evaluate(model, networks, split.validation, settings.batch)
            curves["train_loss"].append(mean_loss)
            curves["validation_accuracy"].append(accuracy)
            if accuracy >= best_accuracy:  # ties take the latest, as the paper's code does
                best_accuracy, best_epoch = accuracy, epoch
                best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            progress(1)
    except _Diverged:
        progress(settings.epochs - len(curves["train_loss"]))
        return {"status": "diverged", "test_accuracy": None, "validation_accuracy": None, "curves": curves}
    model.load_state_dict(best_weights)
    return {
        "status": "finished",
        "test_accuracy": evaluate(model, networks, split.test, settings.batch),
        "validation_accuracy": best_accuracy,
        "best_epoch": best_epoch,
        "curves": curves,
        "parameters": sum(p.numel() for p in model.parameters()),
        "networks": {"train": len(index), "validation": len(split.validation), "test": len(split.test)},
    }


def _rate(step: int, steps: int, warmup: float) -> float:
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def _batches(
    training_set: wa.WeightSpaceElement,
    targets: Tensor,
    transform: wa.Transform | None,
    settings: TrainSettings,
    ordering: torch.Generator,
    augmenting: torch.Generator,
) -> Any:
    """One epoch of augmented batches; networks that do not fill the last one wait for the next epoch."""
    order = torch.randperm(len(targets), generator=ordering)
    order = order[: len(order) // settings.batch * settings.batch]
    # Many at once: a transform costs a few tensor operations however large its batch is.
    for chunk in order.split(max(settings.augment_batch // settings.batch, 1) * settings.batch):
        networks, wanted = training_set[chunk], targets[chunk]
        if transform is not None:
            networks, wanted = transform(networks, wanted, generator=augmenting)
        for start in range(0, len(chunk), settings.batch):
            some = slice(start, start + settings.batch)
            yield networks[some], wanted[some]


@torch.no_grad()
def evaluate(model: nn.Module, networks: Networks, images: Tensor, batch: int) -> float:
    """Accuracy in percent on the first view of some images."""
    model.eval()
    hits = [
        (model(networks.element[some]).argmax(-1) == networks.labels[some]).sum() for some in images.split(2 * batch)
    ]
    return 100 * float(torch.stack(hits).sum()) / len(images)
