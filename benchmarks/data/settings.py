"""What networks are fitted to, and how: the paper's settings, and every deviation from them.

"Paper": Shamsian et al., "Data Augmentations in Deep Weight Spaces" (2023). "Its code":
AvivSham/deep-weight-space-augmentations. A comment stands wherever a number here is not the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from benchmarks.data.sdf import Sampling
from benchmarks.running.commands import at_least, check_each, expect, positive
from weightaug.fitting import CONVENTIONS, Convention
from weightaug.fitting.conventions import ConventionName

DatasetName = Literal["digits", "fashion-mnist", "solids", "modelnet10", "modelnet40"]
SHAPES: tuple[DatasetName, ...] = ("solids", "modelnet10", "modelnet40")


@dataclass(frozen=True)
class ImageFitSettings:
    """How INRs are fitted to images: Adam on the mean squared error of all pixels.

    Args:
        convention_name: Key of ``CONVENTIONS``.
        hidden: Widths of the hidden layers. The paper's text says 3-32-32-1; images have 2 coordinates.
        steps: Most steps of Adam. Paper: 1000.
        learning_rate: Paper: 5e-4.
        target_psnr: A network stops when its reconstruction reaches this, in dB. Paper: 40.
        check_every: Steps between looks at the PSNR (the paper does not say).
        seed: Of all initial weights, together with data set, sample and view.
        batch: Networks that lie in one folder on disk, the unit of work. Changes no result beyond rounding.
        limit: Use that many images only, None for all. For data sets without official splits.
        images: How many images to train, validate and test on: the first of each official split (see
            ``benchmarks.data.images``), None for all.
        nth: Which so many of each official split: 0 for the first, 1 for those that follow, and so on.
    """

    CHOICE: ClassVar = ("batch", "limit", "images", "nth")  # fields that decide which networks are made, not how
    weight_decay: ClassVar[float] = 0.0
    points_per_step: ClassVar[None] = None

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
    nth: int = 0

    def __post_init__(self) -> None:
        _check(self, "fit")
        at_least("fit.check-every", self.check_every, 1)
        at_least("fit.limit", self.limit, 1)
        check_each("fit.images", self.images or (), at_least, 1)
        at_least("fit.nth", self.nth, 0)
        needed = self.nth == 0 or self.images is not None
        expect("fit.nth", self.nth, needed, "0 without fit.images, which say how many images there are of each kind")

    @property
    def convention(self) -> Convention:
        """The convention itself."""
        return CONVENTIONS[self.convention_name]


@dataclass(frozen=True)
class ShapeFitSettings:
    """How INRs are fitted to signed distances: AdamW on the mean squared error of a few points per step.

    Args:
        convention_name: Key of ``CONVENTIONS``. Distances keep their own scale, without the images' output offset
            (the paper does not say): 1 is the radius of the sphere that holds the shape.
        hidden: Widths of the hidden layers, the paper's.
        steps: Steps of AdamW. Paper: 1000.
        learning_rate: Paper: 1e-4.
        weight_decay: AdamW's default in torch; the paper does not say.
        points_per_step: Points of each step, a new part of the points each time, in turn; the paper does not say.
        sampling: The points of a shape. Paper: 250,000 near the surface.
        noise: Deviation of the Gaussian noise on the distances of analytic solids, which meshes do not have.
        seed: Of all initial weights, together with data set, sample and view.
        batch: Networks that lie in one folder on disk, the unit of work. Changes no result beyond rounding.
        samples: How many shapes to train, validate and test on; None for all, of which a tenth of the official
            training set validates.
    """

    CHOICE: ClassVar = ("batch", "samples")
    target_psnr: ClassVar[float] = math.inf  # no network stops early
    check_every: ClassVar[int] = 10**9

    convention_name: ConventionName = "authors"
    hidden: tuple[int, ...] = (32, 32, 32, 32)
    steps: int = 1000
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    points_per_step: int = 1024
    sampling: Sampling = field(default_factory=Sampling)
    noise: float = 0.005
    seed: int = 0
    batch: int = 50
    samples: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        _check(self, "shapes")
        at_least("shapes.weight-decay", self.weight_decay, 0)
        at_least("shapes.points-per-step", self.points_per_step, 1)
        at_least("shapes.noise", self.noise, 0)
        check_each("shapes.samples", self.samples or (), at_least, 1)

    @property
    def convention(self) -> Convention:
        """The convention, for distances."""
        return replace(CONVENTIONS[self.convention_name], output_offset=0.0, target_range=(0.0, 1.0))


FitSettings = ImageFitSettings | ShapeFitSettings


def _check(settings: FitSettings, option: str) -> None:
    """Checks what all fits have in common; messages name the option on the command line."""
    expect(f"{option}.hidden", settings.hidden, len(settings.hidden) > 0, "at least one width")
    check_each(f"{option}.hidden", settings.hidden, at_least, 1)
    at_least(f"{option}.steps", settings.steps, 1)
    positive(f"{option}.learning-rate", settings.learning_rate)
    at_least(f"{option}.batch", settings.batch, 1)
