"""A few networks to look at, and what each augmentation makes of them: the numbers behind the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

import weightaug as wa
from benchmarks.data.fit import fit, initial_weights, seed_of, siren_architecture
from benchmarks.data.images import load_images, pixel_grid
from benchmarks.data.sdf import Sampling
from benchmarks.data.settings import ImageFitSettings, ShapeFitSettings
from benchmarks.data.solids import CLASSES, make_solids, signed_distances
from benchmarks.table.rows import ROWS
from weightaug.fitting.conventions import ConventionName

Dataset = Literal["digits", "fashion-mnist", "solids"]
DATASETS: tuple[Dataset, ...] = get_args(Dataset)

# Samples that look different from each other, and whose augmentations of seed 0 show something.
DEFAULT_SAMPLES: dict[Dataset, tuple[int, ...]] = {
    "digits": (0, 2, 3, 4),
    "fashion-mnist": (0, 1, 3, 8),
    "solids": (8, 0, 9, 3),
}


@dataclass(frozen=True)
class Samples:
    """Networks, what they were fitted to, and where to look at them.

    Args:
        dataset: Where they come from.
        labels: One name per network.
        networks: ``(n,)``.
        truth: What they should show, ``(n, height, width)``, in the scale of the pictures.
        points: Where they are evaluated, ``(height * width, inputs)``.
        inside: Where there were data to fit, ``(height, width)``; PSNRs are taken there.
        low: Output that is 0 in a picture.
        high: Output that is 1 in a picture.
    """

    dataset: Dataset
    labels: tuple[str, ...]
    networks: wa.WeightSpaceElement
    truth: Tensor
    points: Tensor
    inside: Tensor
    low: float
    high: float

    @torch.no_grad()
    def pictures(self, networks: wa.WeightSpaceElement) -> Tensor:
        """What networks show, ``(n, height, width)``."""
        values = networks(self.points).squeeze(-1)
        return ((values - self.low) / (self.high - self.low)).unflatten(-1, self.inside.shape)

    def psnr(self, pictures: Tensor, reference: Tensor) -> Tensor:
        """Peak signal-to-noise ratio in dB for a peak of 1, ``(n,)``; infinite if they are equal."""
        return -10 * (pictures - reference)[:, self.inside].square().mean(-1).log10()


class Column(NamedTuple):
    """What one augmentation makes of all samples.

    Attributes:
        label: Name of the augmentation.
        transform: The augmentation; None for the partners of the mixing ones.
        networks: The augmented networks, ``(n,)``.
        pictures: What they show, ``(n, height, width)``.
        psnr: Against what the networks showed before, ``(n,)``; None for the partners.
        lam: The share of the network itself, ``(n,)``; None where nothing is mixed.
        partner: Indices of the partners, ``(n,)``; None where nothing is mixed.
    """

    label: str
    transform: wa.Transform | None
    networks: wa.WeightSpaceElement
    pictures: Tensor
    psnr: Tensor | None
    lam: Tensor | None = None
    partner: Tensor | None = None


# -- augmentations -----------------------------------------------------------------------------------

OURS: dict[str, wa.Transform] = {
    "Reflect": wa.Reflect(),
    "Affine": wa.Affine(),
    "Full-group alignment + MixUp": wa.AlignedMixup(),
}


def augmentations() -> dict[str, wa.Transform]:
    """The augmentations of Table 1 and ours by their labels: those of labels, and compositions that mix, aside."""
    # Annealed alignment looks like the plain one.
    rows = [row for name, row in ROWS.items() if name != "thorough_aligned_mixup"]
    table = {row.label: row.augmentation() for row in rows if row.augmentation}
    shown = {
        label: transform
        for label, transform in table.items()
        if not isinstance(transform, wa.LabelSmoothing) and (isinstance(transform, wa.Mixup) or not transform.mixes)
    }
    known = list(shown.values())
    return shown | {label: transform for label, transform in OURS.items() if transform not in known}


def columns(samples: Samples, seed: int = 0) -> list[Column]:
    """Augments the samples, once per augmentation, each kind from a seed of its own.

    The mixing augmentations share one seed: all draw the same partners and the same shares of them. The
    partners come before them.
    """
    before = samples.pictures(samples.networks)
    result: list[Column] = []
    for label, transform in augmentations().items():
        kind = "mixing" if transform.mixes else type(transform).__name__
        generator = torch.Generator().manual_seed(seed_of("figure", seed, kind))
        params = transform.sample(samples.networks, generator=generator)
        networks = transform.apply(samples.networks, params)
        lam, partner = (params.lam, params.partner) if isinstance(transform, wa.Mixup) else (None, None)
        if partner is not None and not any(c.transform is None for c in result):
            other = samples.networks[partner]
            result.append(Column("Partner", None, other, samples.pictures(other), None, lam, partner))
        pictures = samples.pictures(networks)
        psnr = samples.psnr(pictures, before)
        result.append(Column(label, transform, networks, pictures, psnr, lam, partner))
    return result


# -- networks ----------------------------------------------------------------------------------------


def load_samples(
    dataset: Dataset,
    chosen: Sequence[int] | None = None,
    *,
    data_dir: Path | None = None,
    convention: ConventionName = "authors",
    steps: int | None = None,
) -> Samples:
    """Fits networks to a few samples of a data set.

    Args:
        dataset: Its name.
        chosen: Numbers of the samples; at least two, so that each has a partner. None for a handful.
        data_dir: Folder of Fashion-MNIST's four files, or the folder above; None to download them.
        convention: How the networks are built.
        steps: Most steps of the fit; None for the paper's 1000 (images) and those of ``SOLIDS``.
    """
    numbers = tuple(DEFAULT_SAMPLES[dataset] if chosen is None else chosen)
    if len(numbers) < 2:
        raise ValueError(f"expected at least 2 samples, so that each has a partner to mix with; got {numbers}")
    if dataset == "solids":
        of_solids = replace(SOLIDS, convention_name=convention)
        return _solids(numbers, of_solids if steps is None else replace(of_solids, steps=steps))
    settings = ImageFitSettings(convention_name=convention)
    return _images(dataset, numbers, data_dir, settings if steps is None else replace(settings, steps=steps))


def _images(dataset: Dataset, numbers: tuple[int, ...], data_dir: Path | None, settings: ImageFitSettings) -> Samples:
    images = load_images(dataset, data_dir).values
    if max(numbers) >= len(images) or min(numbers) < 0:
        raise ValueError(f"{dataset} has {len(images)} images, got samples {numbers}")
    truth = images[list(numbers)]
    low, high = settings.convention.target_range
    height, width = truth.shape[1:]
    points = pixel_grid(height, width, order=settings.convention.coordinates)
    architecture = siren_architecture(settings.convention, (2, *settings.hidden, 1))
    seeds = [seed_of(settings.seed, dataset, 0, number) for number in numbers]
    start = initial_weights(settings.convention, architecture, seeds)
    fitted = fit(points, truth.flatten(1) * (high - low) + low, start, settings)
    inside = torch.ones(truth.shape[1:], dtype=torch.bool)
    labels = tuple(f"image {number}" for number in numbers)
    return Samples(dataset, labels, fitted.element, truth, points, inside, low, high)


# The paper: 1000 steps at 1e-4 on 250,000 points. That leaves the zero level visibly off, so the figure takes more
# and larger steps: it is about augmentations, not about the fit.
SOLIDS = ShapeFitSettings(
    steps=3000, learning_rate=1e-3, points_per_step=2048, sampling=Sampling(points=50_000), noise=0.0
)
SLICE = 96  # pixels along each side of the slice z = 0


def _solids(numbers: tuple[int, ...], settings: ShapeFitSettings) -> Samples:
    solids = make_solids(numbers)
    data = signed_distances(solids, sampling=settings.sampling, noise=settings.noise)
    architecture = siren_architecture(settings.convention, (3, *settings.hidden, 1))
    seeds = [seed_of(settings.seed, "solids", 0, number) for number in numbers]
    start = initial_weights(settings.convention, architecture, seeds)
    networks = fit(*data, start, settings).element
    flat = pixel_grid(SLICE, SLICE)
    points = torch.cat([flat, torch.zeros_like(flat[:, :1])], dim=1)
    truth = solids.distance(points).unflatten(-1, (SLICE, SLICE))
    inside = (points.norm(dim=1) <= 1).view(SLICE, SLICE)
    labels = tuple(CLASSES[label] for label in solids.labels.tolist())
    return Samples("solids", labels, networks, truth, points, inside, 0.0, 1.0)
