"""The settings of the table: the paper's, ours, and every deviation between them.

"Paper": Shamsian et al., "Data Augmentations in Deep Weight Spaces" (2023). "Its code":
AvivSham/deep-weight-space-augmentations. A comment stands wherever a number here is not the paper's.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from benchmarks.data.sdf import Sampling
from benchmarks.data.settings import SHAPES, DatasetName, FitSettings, ImageFitSettings, ShapeFitSettings
from benchmarks.models.settings import (
    READERS,
    DWSSettings,
    ModelName,
    ModelSettings,
    ReaderSettings,
    TransformerSettings,
)
from benchmarks.running.commands import at_least, check_each, distinct, expect, positive, share
from benchmarks.table.rows import PAPER_ROWS, ROWS

PresetName = Literal[
    "quick",
    "smoke",
    "small",
    "published",
    "paper",
    "study",
    "study-readers",
    "study-views",
    "study-redrawn",
    "study-leak",
    "study-curve",
    "study-transformer",
    "study-transformer-views",
    "study-shapes",
]


@dataclass(frozen=True)
class TrainSettings:
    """How a classifier is trained.

    Args:
        epochs: Paper: 300 (Fashion-MNIST, 1 view), which here would take hours.
        epochs_many_views: Epochs where there are several views; None for ``epochs``. Paper: 100 (Fashion-MNIST).
        epochs_shapes: Epochs on shapes, of whatever views; None for those above. Paper: 250.
        batch: Networks per step; not stated in the paper, 256 in its code, which here would be 4 steps an epoch.
        learning_rate: Paper: 5e-3 with AdamW.
        weight_decay: Not stated in the paper; its code: 5e-4.
        warmup: Share of the steps in which the rate rises linearly, before it falls along a cosine. The
            paper keeps the rate of DWS constant, which needs more epochs than these.
        warmup_steps: Steps in which the rate rises instead, at most a fifth of all; None for the share.
        schedule: What follows: a cosine to zero, or a constant rate as in the paper.
        clip: Largest norm of the gradient, None for no limit, as in the paper.
        validation: Share of the images that selects the epoch, where the data set has no official splits.
        test: Share of the images that is held out, where the data set has no official splits.
        split_seed: Of the split of the images, the same in all cells.
        images: Train on the first so many of the images that are there to train on; None for all.
        augment_batch: Networks that are augmented at once, and among which Mixup finds its partners
            (see ``mixup_pool`` for the paper's).
        amsgrad: Whether AdamW divides by the largest second moment so far; not stated in the paper, on in its code.
    """

    LATER: ClassVar = {"amsgrad": False, "images": None}  # said since; older results have these

    epochs: int = 12
    epochs_many_views: int | None = None
    epochs_shapes: int | None = None
    batch: int = 16
    learning_rate: float = 5e-3
    weight_decay: float = 5e-4
    warmup: float = 0.2
    warmup_steps: int | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float | None = 10.0
    validation: float = 0.12
    test: float = 0.25
    split_seed: int = 7
    images: int | None = None
    augment_batch: int = 2048
    amsgrad: bool = False

    def __post_init__(self) -> None:
        at_least("train.epochs", self.epochs, 1)
        at_least("train.epochs-many-views", self.epochs_many_views, 1)
        at_least("train.epochs-shapes", self.epochs_shapes, 1)
        at_least("train.batch", self.batch, 1)
        positive("train.learning-rate", self.learning_rate)
        at_least("train.weight-decay", self.weight_decay, 0)
        share("train.warmup", self.warmup)
        at_least("train.warmup-steps", self.warmup_steps, 0)
        positive("train.clip", self.clip)
        share("train.validation", self.validation)
        share("train.test", self.test)
        both = self.validation + self.test
        expect("train.validation and train.test", both, both < 1, "below 1 together, so that some are left to train on")
        at_least("train.images", self.images, self.batch)
        at_least("train.augment-batch", self.augment_batch, 1)


# -- the whole run -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What `python benchmarks/table1.py` does. Every field can be given on the command line.

    Args:
        preset: Where the other defaults come from: quick (digits, minutes on 2 cores), smoke (a minute, for
            CI), small (4,500 images of Fashion-MNIST and ModelNet10, hours on 2 cores), published (the same with the
            recipe of the public networks), paper (the paper's sizes), study or a part of it.
        datasets: Data sets.
        models: Models.
        rows: Rows of the table.
        views: Numbers of networks per image to train on.
        seeds: Seeds of the training.
        mixup_pool: Where Mixup finds partners: "views" for the networks that are trained on; "all" for those of
            all views that are fitted, whatever the number of views to train on. The latter is what the paper's code
            does with ten views: a leak where fewer views are to be judged.
        fitted_views: Networks that are fitted to each sample; None for the largest of ``views``. Where there are more
            than are trained on, classifiers are also tested on a new view of the training samples.
        redraw: Every seed has samples, split and fits of its own, so that intervals cover these, too.
        fit: How INRs are fitted to images.
        shapes: How INRs are fitted to signed distances of shapes.
        dws: The DWS classifier.
        transformer: The Relation Transformer.
        reader: The plain readers: "mlp" on raw weights, "mlp-frame" on weights aligned to a mean frame, and "probe" on
            values of the function.
        reader_rows: Rows that the plain readers are trained under: they are yardsticks.
        train: How classifiers are trained.
        data_dir: Folder of the data (or the folder above); None to download what may be downloaded.
        output: Folder of all results. A run that was interrupted goes on from there.
        steps: What to do of: print the plan (jobs, done, expected time), fit the networks, train the classifiers,
            report the table.
        recorded: Report whatever results lie in the output folder, by what they say of themselves, instead of those
            that these settings name. Older results stay readable so.
        one_version: Refuse to report results of different versions of the code together.
        part: ``I N`` takes every N-th job from the I-th on (I from 0), so that N machines share the work.
        executor: "processes" on this machine, "ray" on this machine or a cluster, "serial" for none.
        workers: Processes or Ray workers, of one thread each.
        ray_address: Ray cluster to join, "auto" for the one of this machine; None starts one here.
        gpus_per_job: Share of a GPU that Ray reserves for every job.
        device: Where INRs are fitted and classifiers trained.
    """

    preset: PresetName = "quick"
    datasets: tuple[DatasetName, ...] = ("digits",)
    models: tuple[ModelName, ...] = ("dws",)
    rows: tuple[str, ...] = tuple(PAPER_ROWS)
    views: tuple[int, ...] = (1,)
    seeds: tuple[int, ...] = (0, 1, 2)
    mixup_pool: Literal["views", "all"] = "views"
    fitted_views: int | None = None
    redraw: bool = False
    fit: ImageFitSettings = field(default_factory=ImageFitSettings)
    shapes: ShapeFitSettings = field(default_factory=ShapeFitSettings)
    dws: DWSSettings = field(default_factory=DWSSettings)
    transformer: TransformerSettings = field(default_factory=TransformerSettings)
    reader: ReaderSettings = field(default_factory=ReaderSettings)
    reader_rows: tuple[str, ...] = ("none",)
    train: TrainSettings = field(default_factory=TrainSettings)
    data_dir: Path | None = None
    output: Path = Path(__file__).resolve().parents[1] / "runs"
    steps: tuple[Literal["plan", "fit", "train", "report"], ...] = ("fit", "train", "report")
    recorded: bool = False
    one_version: bool = False
    part: tuple[int, int] = (0, 1)
    executor: Literal["processes", "ray", "serial"] = "processes"
    workers: int = field(default_factory=lambda: max(1, min(os.cpu_count() or 1, 36)))
    ray_address: str | None = None
    gpus_per_job: float = 0.0
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        distinct("datasets", self.datasets)
        distinct("models", self.models)
        distinct("rows", self.rows, (*ROWS, "all"))
        if "all" in self.rows:
            object.__setattr__(self, "rows", tuple(ROWS))
        distinct("reader-rows", self.reader_rows, tuple(ROWS))
        distinct("views", self.views)
        check_each("views", self.views, at_least, 1)
        distinct("seeds", self.seeds)
        check_each("seeds", self.seeds, at_least, 0)
        distinct("steps", self.steps)
        at_least("fitted_views", self.fitted_views, max(self.views))
        at_least("workers", self.workers, 1)
        share("gpus-per-job", self.gpus_per_job, most=math.inf)
        first, count = self.part
        expect("part", f"{first} {count}", 0 <= first < count, "I N with 0 <= I < N")

    @property
    def all_views(self) -> int:
        """Networks that are fitted to each sample."""
        return self.fitted_views or max(self.views)

    def fit_of(self, dataset: DatasetName, seed: int = 0) -> FitSettings:
        """How INRs are fitted to a data set, and to which samples of it."""
        fit = self.shapes if dataset in SHAPES else self.fit
        if not self.redraw:
            return fit
        if isinstance(fit, ImageFitSettings) and fit.images is not None:
            fit = replace(fit, nth=fit.nth + seed)
        return replace(fit, seed=fit.seed + seed)

    def train_of(self, dataset: DatasetName, model: ModelName, views: int, seed: int = 0) -> TrainSettings:
        """How one model is trained on some views of a data set."""
        train = replace(self.train, split_seed=self.train.split_seed + seed) if self.redraw else self.train
        if views > 1 and train.epochs_many_views is not None:
            train = replace(train, epochs=train.epochs_many_views)
        if dataset in SHAPES and train.epochs_shapes is not None:
            train = replace(train, epochs=train.epochs_shapes)
        train = replace(train, epochs_many_views=None, epochs_shapes=None)
        if model in ("dws", "dws-odd"):
            return train
        if model in READERS:
            return replace(train, learning_rate=self.reader.learning_rate)
        of_model = self.transformer
        return replace(train, learning_rate=of_model.learning_rate, warmup_steps=of_model.warmup_steps)

    def model_of(self, model: ModelName) -> ModelSettings:
        """The settings of a model."""
        if model in READERS:
            return self.reader
        return self.transformer if model == "relation-transformer" else self.dws

    def rows_of(self, model: ModelName) -> tuple[str, ...]:
        """The rows that a model is trained under."""
        return tuple(row for row in self.rows if model not in READERS or row in self.reader_rows)


QUICK_ROWS = (
    "none",
    "siren_negation",
    "mixup",
    "aligned_mixup",
    "full_aligned_mixup",
    "negation_full_aligned_mixup",
)

# So few that they are fitted in half a minute, and so few that no model learns much of them.
_FEW_SOLIDS = ShapeFitSettings(
    steps=500, learning_rate=2e-3, points_per_step=256, sampling=Sampling(points=8192), samples=(300, 60, 200)
)

PRESETS: dict[PresetName, Settings] = {
    # What can be said in ten minutes: few rows, of data that can be learned, often enough to tell. The rate and the
    # epochs were chosen so that the baseline is not starved; with 12 epochs at 5e-3 every augmentation looks like harm.
    "quick": Settings(
        models=("dws", "mlp-frame", "probe"),
        rows=QUICK_ROWS,
        seeds=(0, 1, 2, 3, 4),
        shapes=_FEW_SOLIDS,
        train=TrainSettings(epochs=20, batch=32, learning_rate=1.5e-2),
    ),
    # Whether everything runs; its figures mean nothing.
    "smoke": Settings(
        preset="smoke",
        datasets=("digits", "solids"),
        seeds=(0,),
        fit=ImageFitSettings(steps=60, limit=200, batch=100),
        shapes=replace(_FEW_SOLIDS, steps=20, samples=(60, 10, 20)),
        dws=DWSSettings(hidden=8, layers=2),
        transformer=TransformerSettings(layers=2, node=16, edge=8, attention=16, heads=2),
        train=TrainSettings(epochs=2),
    ),
    # The paper's INRs of a few thousand of its images, and a DWS that trains on them in about a minute.
    "small": Settings(
        preset="small",
        datasets=("fashion-mnist", "modelnet10"),
        rows=tuple(ROWS),
        # The paper's 1000 steps at 5e-4 leave the deviations of the weights 16 to 50 % below the published ones; three
        # times as many at twice the rate leave 10 to 21 %, and reconstruct 6 dB better.
        fit=ImageFitSettings(images=(3000, 500, 1000), batch=125, steps=3000, learning_rate=1e-3),
        # All of the archive that is given. The paper's 1000 steps at 1e-4 leave the signs of 8 % of the points that are
        # 0.01 or further from the surface wrong, these 4 % (16 meshes); 250,000 points a shape would take an hour.
        shapes=ShapeFitSettings(
            steps=2000, learning_rate=1e-3, points_per_step=512, sampling=Sampling(points=32_768), batch=50
        ),
        dws=DWSSettings(hidden=32, layers=2),
        train=TrainSettings(epochs=30, batch=64),
    ),
    # Everything as the paper has it, or its code where the paper is silent; deviations stand at the fields.
    "paper": Settings(
        preset="paper",
        datasets=("fashion-mnist", "modelnet40"),
        models=("dws", "relation-transformer"),
        rows=tuple(ROWS),
        views=(1, 10),
        fit=ImageFitSettings(batch=125),
        shapes=ShapeFitSettings(batch=125),
        dws=DWSSettings(hidden=128, layers=5, batch_norm=False, set_layer="sab", init="published", statistics=False),
        transformer=TransformerSettings(statistics=False),
        train=TrainSettings(
            epochs=300,
            epochs_many_views=100,
            epochs_shapes=250,
            batch=256,
            warmup=0.0,
            schedule="constant",
            clip=None,
            amsgrad=True,
        ),
    ),
}

# The public INRs were not made by the stated recipe: with 10,000 steps at its rate, the deviations of all tensors are
# within 2 % of theirs, with the stated 1,000 up to half below (docs/study.md).
PRESETS["published"] = replace(
    PRESETS["small"],
    preset="published",
    datasets=("fashion-mnist",),
    fit=replace(PRESETS["small"].fit, steps=10_000, learning_rate=5e-4),
)
