"""One cell of the table: data set x model x augmentation x views x seed, trained into one JSON file."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import weightaug as wa
from benchmarks.data.sdf import short_hash
from benchmarks.data.settings import DatasetName, FitSettings
from benchmarks.data.sources import source
from benchmarks.data.store import Networks, described, load_networks, plain
from benchmarks.models.settings import ModelSettings
from benchmarks.running.files import write_json
from benchmarks.table.rows import ROWS
from benchmarks.table.settings import TrainSettings
from benchmarks.table.training import Training, train

# Fields of transforms that came later, and the value that means what was done before: older results stay valid.
SAID_SINCE = {"low_rank": "factors"}


@dataclass(frozen=True, kw_only=True)
class Cell(Training):
    """The job of training one classifier.

    Args:
        dataset: Name of the images.
        fit: How the networks were fitted.
        folder: Where fitted networks and results lie.
        data_dir: Where the data lie that the networks were fitted to; None for their usual place.
        redraw: Whether samples, split and fits are those of the seed.
    """

    dataset: DatasetName
    fit: FitSettings
    folder: Path
    data_dir: Path | None = None
    redraw: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the result."""
        row = ROWS[self.row]
        fitting = described(self.fit)
        del fitting["batch"]
        if not fitting.get("nth"):  # said since; older results are of the first images
            fitting.pop("nth", None)
        settings = {
            "dataset": self.dataset,
            **source(self.dataset, self.data_dir).identity,
            "model": self.model,
            "row": self.row,
            "views": self.views,
            "seed": self.seed,
            "augmentation": _without(row.augmentation().asdict(), SAID_SINCE) if row.augmentation else None,
            "special": row.special,
            "pool_views": self.pool_views if row.mixes else None,
            "fit": fitting,
            "model_settings": _said(self.model_settings),
            "train": _said(self.train),
        }
        if self.redraw:
            settings["redraw"] = True
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
        views = max(self.views, self.pool_views or 0, 0 if self.fresh_view is None else self.fresh_view + 1)
        networks = _networks(self.dataset, views, self.fit, self.folder / "inrs", self.data_dir)
        started, processor = time.perf_counter(), time.process_time()
        outcome = train(self, networks, progress)
        record = {
            "settings": self.settings,
            **outcome,
            "seconds": time.perf_counter() - started,
            "processor_seconds": time.process_time() - processor,  # what a machine that others use can compare
            "fingerprint": fingerprint(),
            "versions": {"weightaug": wa.__version__, "torch": torch.__version__, "python": platform.python_version()},
            "machine": {
                "platform": platform.platform(),
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
            },
        }
        write_json(self.path, record)


def _without(config: Any, later: dict[str, Any]) -> Any:
    """A transform's configuration, and those of the transforms in it, without what is said since."""
    if isinstance(config, dict):
        kept = {key: value for key, value in config.items() if key not in later or value != later[key]}
        return {key: _without(value, later) for key, value in kept.items()}
    return [_without(part, later) for part in config] if isinstance(config, (list, tuple)) else config


def _said(settings: ModelSettings | TrainSettings) -> dict[str, Any]:
    """The settings, without those that are said since and have the values of before: older results stay valid."""
    return {k: v for k, v in asdict(settings).items() if k not in settings.LATER or v != settings.LATER[k]}


@lru_cache(maxsize=1)
def fingerprint() -> dict[str, str]:
    """What the code was that a result depends on: a hash of each part's files."""
    root, package = Path(__file__).resolve().parents[1], Path(wa.__file__).resolve().parent
    parts = {
        "package": package.rglob("*.py"),
        "networks": (root / "data").glob("*.py"),
        "models": (root / "models").glob("*.py"),
        "training": [root / "table" / f"{name}.py" for name in ("cell", "training", "rows")],
    }
    found = {}
    for name, files in parts.items():
        digest = hashlib.sha256()
        for file in sorted(files):
            digest.update(f"{file.name}\0".encode() + file.read_bytes())
        found[name] = digest.hexdigest()[:12]
    return found


@lru_cache(maxsize=1)
def _networks(dataset: DatasetName, views: int, fit: FitSettings, folder: Path, data_dir: Path | None) -> Networks:
    return load_networks(dataset, views, fit, folder, data_dir)
