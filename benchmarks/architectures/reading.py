"""Predicting the test accuracy of CNNs from their weights, with and without augmentation.

Two plain readers, neither of which knows a symmetry: a perceptron on all numbers in a row, and a small transformer with
a token for every filter, neuron and norm's channel, that knows which is which by learned positions.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.architectures.barriers import mean_and_half
from benchmarks.architectures.store import load
from benchmarks.running.files import read_json, write_json
from weightaug import Compose, Permute, ReLUScale, Transform, WeightSpaceElement

__all__ = ["AUGMENTATIONS", "NONE", "READERS", "Cell", "cells", "summary"]

NONE = "none"
AUGMENTATIONS: dict[str, Transform | None] = {
    NONE: None,
    "Permute": Permute(),
    "ReLUScale": ReLUScale(),
    "Permute and ReLUScale": Compose((Permute(), ReLUScale())),
}
TRAIN_SHARE, EPOCHS, BATCH, RATE, DECAY = 0.7, 100, 50, 1e-3, 0.05
_LIMIT = 5.0  # standard deviations; a few networks whose training went wrong have far larger weights


class Tokens(nn.Module):
    """Standardised tokens: from a list of tensors ``(B, rows, ...)`` to one ``(B, rows, width)`` for each."""

    def __init__(self, networks: WeightSpaceElement) -> None:
        super().__init__()
        self.statistics = [(float(t.mean()), float(t.std())) for t in networks.tensors()]

    def forward(self, networks: WeightSpaceElement) -> list[Tensor]:
        """Standardises each tensor by one mean and one deviation, which no permutation changes."""
        return [
            ((t - mean) / max(deviation, 1e-8)).clamp(-_LIMIT, _LIMIT).flatten(2) if t.dim() > 2 else
            ((t - mean) / max(deviation, 1e-8)).clamp(-_LIMIT, _LIMIT).unsqueeze(-1)
            for t, (mean, deviation) in zip(networks.tensors(), self.statistics, strict=True)
        ]  # fmt: skip


class Perceptron(nn.Module):
    """Two hidden layers of 256 on all numbers of a network."""

    def __init__(self, networks: WeightSpaceElement) -> None:
        super().__init__()
        self.tokens = Tokens(networks)
        self.layers = nn.Sequential(
            nn.Linear(networks.architecture.num_parameters, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
            nn.Linear(256, 1),
        )  # fmt: skip

    def forward(self, networks: WeightSpaceElement) -> Tensor:
        """Predictions ``(B,)``."""
        numbers = torch.cat([t.flatten(1) for t in self.tokens(networks)], 1)
        predicted: Tensor = self.layers(numbers)
        return predicted.squeeze(-1)


class TokenTransformer(nn.Module):
    """Two encoder layers of width 32 on tokens; what belongs to one channel of a layer is one token."""

    def __init__(self, networks: WeightSpaceElement, width: int = 32) -> None:
        super().__init__()
        self.tokens = Tokens(networks)
        names = [spec.name.split(".")[0] for spec in networks.architecture.tensors]
        self.layers = [[i for i, n in enumerate(names) if n == name] for name in dict.fromkeys(names)]
        shapes = [t.shape for t in self.tokens(networks[:1])]
        self.embed = nn.ModuleList(nn.Linear(sum(shapes[i][2] for i in layer), width) for layer in self.layers)
        rows = sum(shapes[layer[0]][1] for layer in self.layers)
        self.places = nn.Parameter(0.1 * torch.randn(rows, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.read = nn.Linear(width, 1)

    def forward(self, networks: WeightSpaceElement) -> Tensor:
        """Predictions ``(B,)``."""
        given = self.tokens(networks)
        embedded = [
            embed(torch.cat([given[i] for i in layer], -1))
            for embed, layer in zip(self.embed, self.layers, strict=True)
        ]
        states = self.encoder(torch.cat(embedded, 1) + self.places)
        predicted: Tensor = self.read(states.mean(1))
        return predicted.squeeze(-1)


READERS: dict[str, Callable[[WeightSpaceElement], nn.Module]] = {
    "perceptron": Perceptron,
    "transformer on tokens": TokenTransformer,
}


@functools.cache
def _loaded(folder: Path, family: str) -> tuple[WeightSpaceElement, Tensor]:
    networks, columns, _ = load(folder, family)
    return networks, columns["test_accuracy"]


@dataclass(frozen=True)
class Cell:
    """One training of one reader: the job of measuring Kendall's tau.

    Args:
        family: Whose networks are read.
        reader: Name of the reader.
        augmentation: Name of the augmentation.
        seed: Of the split, the initial weights, the batches and the augmentation.
        folder: Of the zoo.
        out: Folder of the results.
        epochs: How often the training networks are seen.
    """

    family: str
    reader: str
    augmentation: str
    seed: int
    folder: Path
    out: Path
    epochs: int = EPOCHS

    @property
    def path(self) -> Path:
        """Where the result lies."""
        name = f"{self.family}--{self.reader}--{self.augmentation}--{self.seed}--{self.epochs}"
        return self.out / f"{name.replace(',', '').replace(' ', '-')}.json"

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        return self.path.exists()

    def run(self, progress: Callable[[int], None]) -> None:
        """Trains the reader and tests it once, at the end."""
        start = time.process_time()
        networks, accuracy = _loaded(self.folder, self.family)
        # One split and one order of batches for all augmentations of a seed, so that differences are paired.
        order = torch.randperm(len(networks), generator=torch.Generator().manual_seed(self.seed))
        count = int(TRAIN_SHARE * len(networks))
        train, test = order[:count], order[count:]
        target = (accuracy - accuracy[train].mean()) / accuracy[train].std()
        transform = AUGMENTATIONS[self.augmentation]
        draws = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            reader = READERS[self.reader](networks[train])
            optimizer = torch.optim.AdamW(reader.parameters(), lr=RATE, weight_decay=DECAY)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * math.ceil(count / BATCH))
            for _ in range(self.epochs):
                for batch in torch.randperm(count).split(BATCH):
                    given = networks[train[batch]]
                    if transform is not None:
                        given = transform(given, generator=draws)
                    optimizer.zero_grad()
                    nn.functional.mse_loss(reader(given), target[train[batch]]).backward()
                    optimizer.step()
                    schedule.step()
        reader.eval()
        with torch.no_grad():
            taus = [float(stats.kendalltau(reader(networks[k]), accuracy[k]).statistic) for k in (train, test)]
        seconds = time.process_time() - start
        write_json(self.path, {"training_tau": taus[0], "test_tau": taus[1], "processor_seconds": seconds})
        progress(1)


def cells(folder: Path, out: Path, families: Iterable[str], seeds: int, epochs: int = EPOCHS) -> list[Cell]:
    """All trainings."""
    return [
        Cell(family, reader, augmentation, seed, folder, out, epochs)
        for seed in range(seeds)
        for family in families
        for reader in READERS
        for augmentation in AUGMENTATIONS
    ]


def summary(done: list[Cell]) -> dict[str, Any]:
    """Tau of each reader and family by augmentation, and the paired difference to none with its verdict."""
    taus: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell in done:
        read = read_json(cell.path, "test_tau")
        taus.setdefault((cell.family, cell.reader), {}).setdefault(cell.augmentation, []).append(read["test_tau"])
    groups = []
    for (family, reader), found in taus.items():
        rows: dict[str, Any] = {}
        for name, values in found.items():
            rows[name] = {"test_tau": values, "mean": mean_and_half(values)}
            if name != NONE:
                differences = [x - y for x, y in zip(values, found[NONE], strict=True)]
                mean, half = mean_and_half(differences)
                verdict = "undecided" if abs(mean) <= half else "helps" if mean > 0 else "harms"
                rows[name] |= {"difference": (mean, half), "verdict": verdict}
        groups.append({"family": family, "reader": reader, "rows": rows})
    return {
        "training_share": TRAIN_SHARE,
        "epochs": done[0].epochs,
        "batch": BATCH,
        "rate": RATE,
        "decay": DECAY,
        "seeds": len({cell.seed for cell in done}),
        "groups": groups,
    }
