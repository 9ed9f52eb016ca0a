"""Fits one INR to each of many images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from weightaug.fitting.conventions import Convention, ConventionName, convention_of
from weightaug.fitting.descent import Adam, Fitted, fit
from weightaug.fitting.initial import initial_weights, seed_of

__all__ = ["check_images", "fit_inrs", "pixel_grid"]


def pixel_grid(
    height: int, width: int, *, order: Literal["xy", "ij"] = "xy", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Coordinates ``(height * width, 2)`` of the pixels in [-1, 1], row by row.

    Args:
        height: Number of rows.
        width: Number of columns.
        order: "xy": (x, y), as most INRs of images have it; "ij": (row, column), as NFN.
        dtype: Of the coordinates.
    """
    y = torch.linspace(-1, 1, height, dtype=dtype, device="cpu")
    x = torch.linspace(-1, 1, width, dtype=dtype, device="cpu")
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    axes = [columns, rows] if order == "xy" else [rows, columns]
    return torch.stack(axes, dim=-1).reshape(-1, 2)


def fit_inrs(
    images: Tensor,
    *,
    convention: Convention | ConventionName = "siren",
    hidden: Sequence[int] = (32, 32),
    settings: Adam = Adam(steps=1000, learning_rate=3e-3, target_psnr=40.0),  # noqa: B008 (frozen)
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    progress: Callable[[int], None] = lambda networks: None,
) -> Fitted:
    """Fits a SIREN to each of many images, all at once, on the device of the images.

    Network i starts from a seed of its own, so a part of the images can be fitted again alone; another ``seed`` gives
    another view of the same images.

    Args:
        images: ``(n, height, width)`` or ``(n, channels, height, width)`` with values in [0, 1], of a floating dtype.
        convention: How the networks are built: ``"siren"``, ``"nfn"``, ``"authors"`` (slower to fit: learning rate
            1e-3 and several thousand steps), or a convention of your own.
        hidden: Widths of the hidden spaces.
        settings: Steps, rates, and the PSNR at which a network stops.
        seed: Of all initial weights, together with the position of the image.
        seeds: One seed per image instead.
        progress: Called with the number of networks that have just stopped.

    Returns:
        Networks ``(n,)`` in float32, their PSNR in dB, and the steps that each took. The architecture says of which
        convention they are, where it has a name; see :func:`weightaug.convert`.

    Raises:
        ValueError: If images have another shape or values outside of [0, 1], or the numbers of seeds and images differ.
        TypeError: If images are integers.

    Example:
        >>> import torch
        >>> from weightaug.fitting import fit_inrs
        >>> fitted = fit_inrs(torch.rand(3, 8, 8))
        >>> fitted.element
        WeightSpaceElement(2-32-32-1, batch_shape=(3,), dtype=torch.float32, device='cpu')
    """
    chosen = convention_of(convention)
    check_images(images)
    planes = images.unsqueeze(1) if images.dim() == 3 else images
    count, channels, height, width = planes.shape
    seeds = [seed_of(seed, i) for i in range(count)] if seeds is None else list(seeds)
    if len(seeds) != count:
        raise ValueError(f"seeds: expected one for each of {count} images, got {len(seeds)}")
    low, _ = chosen.target_range
    targets = low + chosen.peak * planes.flatten(2).mT.float()
    grid = pixel_grid(height, width, order=chosen.coordinates)
    architecture = chosen.architecture((2, *hidden, channels))
    if isinstance(convention, str):
        architecture = replace(architecture, convention=convention)
    start = initial_weights(chosen, architecture, seeds).to(images.device)
    return fit(grid, targets, start, settings, peak=chosen.peak, progress=progress)


def check_images(images: Tensor) -> None:
    """Checks shape, dtype and range.

    Raises:
        ValueError: If they have another shape, or values outside of [0, 1].
        TypeError: If they are integers.
    """
    if images.dim() not in (3, 4):
        raise ValueError(
            f"images: expected (n, height, width) or (n, channels, height, width), got {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise TypeError(f"images: expected floating values in [0, 1], got {images.dtype}; divide bytes by 255")
    least, most = images.aminmax() if images.numel() else (torch.zeros((), device="cpu"), torch.ones((), device="cpu"))
    if not (least >= 0 and most <= 1):
        raise ValueError(f"images: expected values in [0, 1], got {float(least)} to {float(most)}")
