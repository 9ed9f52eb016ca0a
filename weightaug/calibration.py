"""Strength in dB: the setting at which a transform leaves networks as close to themselves as is asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import torch

from weightaug.element import WeightSpaceElement
from weightaug.evaluation import evaluate, psnr_of_values
from weightaug.fitting.modes import ordinary, undisturbed
from weightaug.points import PointsLike, points_of
from weightaug.transforms.base import Preserves, Transform

__all__ = ["calibrate"]

T = TypeVar("T", bound=Transform)

_DOUBLINGS = 40
_HALVINGS = 60
_CLOSE = 0.05  # dB, where the search ends
_TOLERANCE = 0.5  # dB, beyond which it has failed


def calibrate(
    transform: T,
    networks: WeightSpaceElement,
    points: PointsLike,
    psnr: float = 30.0,
    field: str = "scale",
    *,
    peak: float | None = None,
    seed: int = 0,
) -> T:
    """The transform with the strength at which the median PSNR over networks is what was asked.

    A strength is comparable between transforms, architectures and data sets in dB alone: the paper's noise of .32
    leaves another image. Found by bisection, evaluating the networks with the same draws at every strength.

    Args:
        transform: What is to be calibrated; all its other fields stay.
        networks: Networks of the data set, ``(n,)``; a hundred are enough.
        points: Where they are compared; see :func:`weightaug.psnr`.
        psnr: The median that is wanted, in dB.
        field: Name of the strength, a number that does less the closer it is to zero: ``scale`` of ``GaussianNoise``,
            ``p`` of ``Dropout``, ``q`` of ``QuantileDropout``, ``degrees`` of ``Rotate``, ``amount`` of ``Translate``.
        peak: See :func:`weightaug.psnr`.
        seed: Of the draws.

    Raises:
        ValueError: If there is no such field, it is no such number, the transform keeps the function whatever its
            strength, or the PSNR is out of reach; the message says what is within reach.

    Example:
        >>> import torch, weightaug as wa
        >>> networks = wa.fitting.fit_inrs(torch.rand(20, 8, 8)).element
        >>> noise = wa.calibrate(wa.GaussianNoise(), networks, points=8, psnr=30.0)
    """
    name = type(transform).__name__
    numbers = [
        f.name
        for f in dataclasses.fields(transform)
        if isinstance(value := getattr(transform, f.name), (int, float)) and not isinstance(value, bool)
    ]
    if field not in numbers:
        raise ValueError(
            f"calibrate: {name} has no number {field!r}; its numbers: {numbers or 'none'}"
            + ("; calibrate the transforms inside, then put them together" if not numbers else "")
        )
    if transform.preserves is Preserves.FUNCTION:
        raise ValueError(f"calibrate: {name} keeps every function exactly, at any {field}; there is no PSNR to choose")
    if networks.batch_shape.numel() == 0:
        raise ValueError("calibrate: expected at least one network, got none")
    if not math.isfinite(psnr):
        raise ValueError(f"calibrate: psnr must be a finite number of dB, got {psnr}")

    with undisturbed(networks.device):
        networks = networks.map(ordinary)
        x = points_of(points, networks.architecture, owner="calibrate: points")
        values = evaluate(networks, x)

        def median(strength: float) -> float | None:
            try:
                tried = dataclasses.replace(transform, **{field: strength})
            except ValueError:  # beyond the range of the field
                return None
            moved = tried(networks, generator=torch.Generator().manual_seed(seed))
            reached = psnr_of_values(values, evaluate(moved, x), peak).nan_to_num(nan=-math.inf, posinf=math.inf)
            return float(reached.flatten().median())

        low, high, least = _bracket(median, float(getattr(transform, field)) or 0.1, psnr)
        if high is None:
            raise ValueError(
                f"calibrate: {name} cannot go down to a median of {psnr} dB: at {field}={low:g}, about the largest it "
                f"takes, {least:.1f} dB are left; ask for more dB"
            )
        strength, reached = high, math.inf
        for _ in range(_HALVINGS):
            strength = (low + high) / 2
            got = median(strength)
            assert got is not None  # between two settings that are allowed
            reached = got
            if abs(reached - psnr) <= _CLOSE:
                break
            low, high = (strength, high) if reached > psnr else (low, strength)
        if not abs(reached - psnr) <= _TOLERANCE:
            raise ValueError(
                f"calibrate: {name} jumps over a median of {psnr} dB between {field}={low:g} and {high:g}; "
                f"give more networks, or ask for another PSNR"
            )
        return dataclasses.replace(transform, **{field: strength})


def _bracket(median: Callable[[float], float | None], start: float, psnr: float) -> tuple[float, float | None, float]:
    """A strength that leaves more than the PSNR, one that leaves less, or None if the largest allowed does not.

    Returns:
        Both, and the PSNR at the first.
    """
    low, reached = 0.0, math.inf
    high, bound = start, math.inf
    for _ in range(_DOUBLINGS):
        got = median(high)
        if got is None:
            bound = high
        elif got <= psnr:
            return low, high, reached
        else:
            low, reached = high, got
        high = 2 * low if bound == math.inf else (low + bound) / 2
        if bound < math.inf and bound - low <= 1e-6 * bound:
            break
    return low, None, reached
