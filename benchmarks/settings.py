"""The paper's settings, ours, and every deviation between them.

"Paper": Shamsian et al., "Data Augmentations in Deep Weight Spaces" (2023). "Its code":
AvivSham/deep-weight-space-augmentations. A comment stands wherever a number here is not the paper's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import weightaug as wa

PresetName = Literal["quick", "smoke"]
ConventionName = Literal["authors", "siren", "nfn"]

# -- implicit representations ------------------------------------------------------------------------


@dataclass(frozen=True)
class Convention:
    """How an INR is built and what it is trained to show.

    Args:
        omega: Frequency of the hidden sines.
        first_omega: Frequency of the first sine, None for the same.
        first_layer_special: Whether the first weights start in U(+-1/inputs), as in SIREN, instead of the
            bound of the hidden layers.
        last_layer_torch: Whether the last weights start like a torch.nn.Linear.
        zero_hidden_bias: Whether the biases before the last start at zero (otherwise like nn.Linear).
        output_offset: Constant added to the output.
        target_range: Values of black and white.
        coordinates: What the inputs are: (x, y), or "ij" for (row, column).
    """

    omega: float = 30.0
    first_omega: float | None = None
    first_layer_special: bool = False
    last_layer_torch: bool = True
    zero_hidden_bias: bool = True
    output_offset: float = 0.5
    target_range: tuple[float, float] = (0.0, 1.0)
    coordinates: Literal["xy", "ij"] = "xy"


CONVENTIONS: dict[ConventionName, Convention] = {
    # What the authors' INRs are made with (DWSNets, issues 6 and 7): SIREN's "is_first" is never set.
    "authors": Convention(),
    # Sitzmann et al. 2020, as their code fits images.
    "siren": Convention(
        first_layer_special=True,
        last_layer_torch=False,
        zero_hidden_bias=False,
        output_offset=0.0,
        target_range=(-1.0, 1.0),
    ),
    # Zhou et al. 2023 (NFN): a standard SIREN on (row, column).
    "nfn": Convention(
        first_layer_special=True,
        last_layer_torch=False,
        zero_hidden_bias=False,
        output_offset=0.0,
        target_range=(-1.0, 1.0),
        coordinates="ij",
    ),
}


@dataclass(frozen=True)
class FitSettings:
    """How INRs are fitted to images.

    Args:
        convention_name: Key of ``CONVENTIONS``.
        hidden: Widths of the hidden layers. The paper's text says 3-32-32-1; images have 2 coordinates.
        steps: Most steps of Adam. Paper: 1000.
        learning_rate: Paper: 5e-4.
        target_psnr: A network stops when its reconstruction reaches this, in dB. Paper: 40.
        check_every: Steps between looks at the PSNR (the paper does not say).
        seed: Of all initial weights, together with data set, sample and view.
        batch: Networks that are trained at once, and that lie in one folder on disk. Changes no result
            beyond rounding.
        limit: Use that many images only, None for all. For data sets without official splits.
        images: How many images to train, validate and test on: the first of each official split (see
            ``benchmarks.data.images``), None for all.
    """

    convention_name: ConventionName = "authors"
    hidden: tuple[int, ...] = (32, 32)
    steps: int = 1000
    learning_rate: float = 5e-4
    target_psnr: float = 40.0
    check_every: int = 10
    seed: int = 0
    batch: int = 128
    limit: int | None = None
    images: tuple[int, int, int] | None = None

    @property
    def convention(self) -> Convention:
        """The convention itself."""
        return CONVENTIONS[self.convention_name]


# -- models and training -----------------------------------------------------------------------------


@dataclass(frozen=True)
class DWSSettings:
    """The DWS classifier.

    Args:
        hidden: Channels. Paper: 128; with 24 a cell trains in seconds on a laptop's core.
        layers: Equivariant layers. Paper: 4 hidden layers. On 1,200 digits 3 and 4 layers did worse than 2,
            learning them by heart.
        reduction: Pooling; not stated in the paper, max in its code.
        batch_norm: Not stated in the paper, off in its code, on in the trainers of DWSNets. Without it a short
            training hardly leaves chance.
    """

    hidden: int = 24
    layers: int = 2
    reduction: Literal["mean", "max"] = "max"
    batch_norm: bool = True


@dataclass(frozen=True)
class TrainSettings:
    """How a classifier is trained.

    Args:
        epochs: Paper: 300 (Fashion-MNIST, 1 view), which here would take hours.
        batch: Networks per step; not stated in the paper, 256 in its code, which here would be 4 steps an epoch.
        learning_rate: Paper: 5e-3 with AdamW.
        weight_decay: Not stated in the paper; its code: 5e-4.
        warmup: Share of the steps in which the rate rises linearly, before it falls along a cosine. The
            paper keeps the rate of DWS constant, which needs more epochs than these.
        clip: Largest norm of the gradient. Not in the paper.
        validation: Share of the images that selects the epoch, where the data set has no official splits.
        test: Share of the images that is held out, where the data set has no official splits.
        split_seed: Of the split of the images, the same in all cells.
        augment_batch: Networks that are augmented at once, and among which Mixup finds its partners. The
            paper draws partners from all networks.
    """

    epochs: int = 12
    batch: int = 16
    learning_rate: float = 5e-3
    weight_decay: float = 5e-4
    warmup: float = 0.2
    clip: float = 10.0
    validation: float = 0.12
    test: float = 0.25
    split_seed: int = 7
    augment_batch: int = 2048


# -- rows of Table 1 ---------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of Table 1.

    Attributes:
        label: As the paper writes it.
        augmentation: Makes the augmentation; None for none.
        published: The paper's mean and deviation for Fashion-MNIST, 1 view, DWS: another data set.
    """

    label: str
    augmentation: Callable[[], wa.Transform] | None
    published: tuple[float, float]


# Strengths are the defaults of the paper's code; its text names none.
ROWS: dict[str, Row] = {
    "none": Row("No augmentation", None, (68.30, 0.62)),
    # Its code pushes the shift through a random number of layers, which is no translation; here the first only.
    "translate": Row("Translate", lambda: wa.Translate(amount=0.25), (67.90, 0.24)),
    "rotate": Row("Rotation", lambda: wa.Rotate(degrees=30.0), (68.55, 0.28)),
    "scale": Row("Scale", lambda: wa.Scale(amount=0.2), (67.99, 0.14)),
    "noise": Row("Gaussian noise", lambda: wa.GaussianNoise(scale=0.32), (68.53, 0.09)),
    # Its code draws k from {-4, ..., 3}; here the range is symmetric.
    "siren_bias": Row("SIREN bias", lambda: wa.SirenBias(k_max=4), (58.20, 0.01)),
    "siren_negation": Row("SIREN negation", lambda: wa.SirenNegation(p=0.5), (71.40, 0.29)),
    # Its code also multiplies the survivors by 1 / (1 - p); its text does not.
    "dropout": Row("Dropout", lambda: wa.Dropout(p=0.1), (68.48, 0.14)),
    # As its code: a random quantile below 0.1, over all tensors of a network.
    "quantile_dropout": Row("Quantile dropout", lambda: wa.QuantileDropout(q=0.1, pooled=True), (68.72, 0.27)),
    # Its code draws the partners of "1 view" from all ten views; here they come from the view itself.
    "mixup": Row("MixUp", lambda: wa.Mixup(), (74.36, 1.17)),
    "permuted_mixup": Row("MixUp + random perm.", lambda: wa.PermutedMixup(), (73.89, 0.89)),
    "aligned_mixup": Row("Alignment + MixUp", lambda: wa.AlignedMixup(symmetry="permutation"), (75.67, 0.36)),
}


# -- the whole run -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What `python benchmarks/table1.py` does. Every field can be given on the command line.

    Args:
        preset: Where the other defaults come from: quick (minutes on 2 cores) or smoke (a minute, for CI).
        datasets: Data sets.
        models: Models.
        rows: Rows of the table.
        views: Numbers of networks per image to train on.
        seeds: Seeds of the training.
        fit: How INRs are fitted.
        dws: The DWS classifier.
        train: How classifiers are trained.
        data_dir: Folder of the images (or the folder above); None to download them.
        output: Folder of all results. A run that was interrupted goes on from there.
        workers: Processes, of one thread each; 1 runs everything in this process.
    """

    preset: PresetName = "quick"
    datasets: tuple[Literal["digits", "fashion-mnist"], ...] = ("digits",)
    models: tuple[Literal["dws"], ...] = ("dws",)
    rows: tuple[str, ...] = tuple(ROWS)
    views: tuple[int, ...] = (1,)
    seeds: tuple[int, ...] = (0, 1, 2)
    fit: FitSettings = field(default_factory=FitSettings)
    dws: DWSSettings = field(default_factory=DWSSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    data_dir: Path | None = None
    output: Path = Path(__file__).resolve().parent / "runs"
    workers: int = field(default_factory=lambda: max(1, min(os.cpu_count() or 1, 36)))

    def __post_init__(self) -> None:
        for row in self.rows:
            if row not in ROWS:
                raise ValueError(f"unknown row {row!r}; rows: {', '.join(ROWS)}")
        for views in self.views:
            if views < 1:
                raise ValueError(f"views must be at least 1, got {views}")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")


PRESETS: dict[PresetName, Settings] = {
    "quick": Settings(),
    # Whether everything runs; its figures mean nothing.
    "smoke": Settings(
        preset="smoke",
        seeds=(0,),
        fit=FitSettings(steps=60, limit=200, batch=100),
        dws=DWSSettings(hidden=8, layers=2),
        train=TrainSettings(epochs=2),
    ),
}
