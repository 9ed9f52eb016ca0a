"""What networks show, and how far two of them are from each other as functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.points import PointsLike, grid, points_of

__all__ = ["evaluate", "psnr", "psnr_of_values", "render"]

_VALUES = 2**24  # numbers that one hidden space may hold while networks are evaluated


def evaluate(element: WeightSpaceElement, x: Tensor) -> Tensor:
    """The outputs ``(*batch, n, out)`` of every network at points ``(n, in)``: some networks at a time.

    Half precision is computed in single.
    """
    dtype = torch.promote_types(element.dtype, torch.float32)
    x = x.to(element.device, dtype)
    batch = element.batch_shape
    flat = element.map(lambda t: t.reshape(batch.numel(), *t.shape[len(batch) :]))
    widest = max(space.size for space in element.architecture.spaces)
    few = max(1, _VALUES // (widest * len(x)))
    parts = [flat[i : i + few].to(dtype)(x) for i in range(0, max(len(flat), 1), few)]
    values = torch.cat(parts)
    return values.reshape(*batch, *values.shape[1:])


def psnr_of_values(a: Tensor, b: Tensor, peak: float | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB of values b ``(*batch, n, out)`` against values a; see :func:`psnr`."""
    error = (a - b).square().mean((-2, -1))
    span = a.amax((-2, -1)) - a.amin((-2, -1)) if peak is None else torch.full_like(error, peak)
    return 20 * span.log10() - 10 * error.log10()


def psnr(a: WeightSpaceElement, b: WeightSpaceElement, points: PointsLike, *, peak: float | None = None) -> Tensor:
    """How close the functions of two batches of networks are: peak signal-to-noise ratio in dB.

    Args:
        a: Networks ``(*batch,)``, the originals.
        b: Networks of the same number of inputs and outputs, ``(*batch,)``, or one network ``()`` for all.
        points: Where they are compared: 28 for 28 points along every input in [-1, 1], ``(28, 32)`` for so many along
            each, or a tensor ``(n, inputs)``.
        peak: From the least to the largest value of a signal: 1 for images in [0, 1], 2 for [-1, 1]. None: each
            network's own, from the least to the largest value of ``a`` at the points.

    Returns:
        ``(*batch)``, infinite where the functions agree exactly; NaN where one is not finite, or a constant equals
        another without a given peak.

    Raises:
        ValueError: If inputs, outputs, batches or points do not fit.
    """
    sizes = [(e.architecture.inputs[0].size, e.architecture.outputs[0].size) for e in (a, b)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"psnr: expected equal numbers of inputs and outputs, got {sizes[0]} and {sizes[1]}")
    if () not in (tuple(a.batch_shape), tuple(b.batch_shape)) and a.batch_shape != b.batch_shape:
        raise ValueError(
            f"psnr: expected equal batch shapes, or one network, got {tuple(a.batch_shape)} and {tuple(b.batch_shape)}"
        )
    _check_peak("psnr", peak)
    x = points_of(points, a.architecture, owner="psnr: points")
    return psnr_of_values(evaluate(a, x), evaluate(b, x), peak)


def _check_peak(owner: str, peak: float | None) -> None:
    if peak is not None and not 0 < peak < float("inf"):
        raise ValueError(f"{owner}: peak must be a positive finite number, or None for each network's own, got {peak}")


def render(
    element: WeightSpaceElement,
    size: int | Sequence[int],
    *,
    order: Literal["xy", "ij"] = "xy",
    axis: int = -1,
    at: float = 0.0,
    value_range: tuple[float, float] | None = None,
) -> Tensor:
    """What INRs of two inputs show, or those of three inputs in a plane.

    Args:
        element: Networks ``(*batch,)`` of two or three inputs.
        size: ``(height, width)`` in pixels, or one number for both; whatever size they were fitted at. The outer
            pixels lie at -1 and 1.
        order: "xy" if the first input runs along a row (most INRs); "ij" if it runs down a column (NFN).
        axis: Of three inputs, the one that is held fixed.
        at: The value at which it is held.
        value_range: What black and white are, (-1, 1) for most SIRENs: mapped to [0, 1] and clipped. None: the values
            as they are, signed distances for example.

    Returns:
        ``(*batch, height, width)``, or ``(*batch, outputs, height, width)`` for several outputs.

    Raises:
        ValueError: If the networks have another number of inputs, or a setting is out of range.

    Example:
        >>> import torch, weightaug
        >>> networks = weightaug.fitting.fit_inrs(torch.rand(2, 8, 8)).element
        >>> weightaug.render(networks, (64, 48), value_range=(-1, 1)).shape
        torch.Size([2, 64, 48])
    """
    arch = element.architecture
    inputs = arch.inputs[0].size if len(arch.inputs) == 1 else len(arch.inputs)
    if inputs not in (2, 3) or len(arch.inputs) != 1:
        raise ValueError(f"render: expected networks of 2 or 3 inputs in one space, got {inputs}")
    if order not in ("xy", "ij"):
        raise ValueError(f"render: order must be 'xy' or 'ij', got {order!r}")
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"render: size must be (height, width), each at least 1, or one number, got {size!r}")
    height, width = pair
    rows, columns = (grid((n,)).squeeze(1) for n in pair)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    axes = [x, y] if order == "xy" else [y, x]
    if inputs == 3:
        if not -3 <= axis < 3:
            raise ValueError(f"render: axis must be in -3 ... 2, one of the three inputs, got {axis}")
        axes.insert(axis % 3, torch.full_like(x, at))
    values = evaluate(element, torch.stack(axes, -1).flatten(0, 1))
    if value_range is not None:
        low, high = value_range
        if not low < high:
            raise ValueError(f"render: value_range must be (black, white) with black < white, got {value_range}")
        values = ((values - low) / (high - low)).clamp(0, 1)
    images: Tensor = values.mT.unflatten(-1, (height, width))
    return images.squeeze(-3) if arch.outputs[0].size == 1 else images
