"""The benchmark's settings, handed to the fitter of the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from benchmarks.data.settings import FitSettings
from weightaug import Architecture, WeightSpaceElement, fitting
from weightaug.fitting import Convention, Fitted, initial_weights, seed_of

__all__ = ["Fitted", "fit", "initial_weights", "seed_of", "siren_architecture"]


def siren_architecture(convention: Convention, sizes: Sequence[int]) -> Architecture:
    """The architecture of a convention's networks."""
    return convention.architecture(sizes)


def fit(
    coordinates: Tensor,
    targets: Tensor,
    start: WeightSpaceElement,
    settings: FitSettings,
    *,
    progress: Callable[[int], None] = lambda networks: None,
) -> Fitted:
    """Trains each network to map the coordinates to its targets; see :func:`weightaug.fitting.fit`."""
    adam = fitting.Adam(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        points_per_step=settings.points_per_step,
        target_psnr=settings.target_psnr,
        check_every=settings.check_every,
    )
    return fitting.fit(coordinates, targets, start, adam, peak=settings.convention.peak, progress=progress)
