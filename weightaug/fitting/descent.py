"""Fits networks to values at points, many at once.

Networks of a batch are stacked and do not influence each other, so any part of a data set can be made again alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from weightaug._joining import cat
from weightaug.element import WeightSpaceElement
from weightaug.fitting.gradients import error_function
from weightaug.fitting.modes import ordinary, undisturbed

__all__ = ["Adam", "Fitted", "decibels", "fit"]


class Fitted(NamedTuple):
    """Fitted networks.

    Attributes:
        element: Networks, ``(*batch,)``.
        psnr: Peak signal-to-noise ratio of each network at its points in dB, ``(*batch)``; NaN where it diverged.
        steps: Steps that each network was trained for, int64 ``(*batch)``.
    """

    element: WeightSpaceElement
    psnr: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Adam:
    """Settings of Adam on the mean squared error of each network.

    Args:
        steps: Most steps.
        learning_rate: The largest rate.
        schedule: What the rate does: ``"constant"``, or ``"cosine"``: falls along half a cosine to zero.
        weight_decay: Decoupled from the gradient, as in AdamW.
        points_per_step: How many of the points a step takes, in their order, from the start again where too few are
            left; None for all.
        target_psnr: A network stops when its PSNR reaches this, in dB; the others go on without it. One whose error is
            rounding alone stops in any case.
        check_every: Steps between looks at the PSNR.

    Raises:
        ValueError: If a number is out of range.
    """

    steps: int = 1000
    learning_rate: float = 3e-3
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.0
    points_per_step: int | None = None
    target_psnr: float = math.inf
    check_every: int = 10

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("learning_rate", 0), ("weight_decay", 0), ("check_every", 1)):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"Adam: {name} must be finite and at least {least}, got {getattr(self, name)}")
        if self.points_per_step is not None and self.points_per_step < 1:
            raise ValueError(f"Adam: points_per_step must be at least 1, or None for all, got {self.points_per_step}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"Adam: schedule must be 'constant' or 'cosine', got {self.schedule!r}")
        if math.isnan(self.target_psnr):
            raise ValueError("Adam: target_psnr must be a number of dB, or infinite for no stop, got nan")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def fit(
    coordinates: Tensor,
    targets: Tensor,
    start: WeightSpaceElement,
    settings: Adam = Adam(),
    *,
    peak: float | Tensor = 1.0,
    progress: Callable[[int], None] = lambda networks: None,
) -> Fitted:
    """Trains each network to map coordinates to its targets, with Adam on the mean squared error.

    Changes none of its arguments, draws nothing, and gives the same whatever mode (``no_grad``, ``inference_mode``,
    autocast) surrounds it. Half precision is computed in single. Any architecture that an element can evaluate;
    chains of sines with biases are twice as fast.

    Args:
        coordinates: ``(points, inputs)`` for all networks alike, or ``(*batch, points, inputs)``.
        targets: ``(*batch, points)``, or ``(*batch, points, outputs)``: what the networks are to give.
        start: Initial networks, ``(*batch,)``.
        settings: Steps, rates, and when to stop.
        peak: From the least to the largest value of a signal, for the PSNR; one for all, or ``(*batch)``.
        progress: Called with the number of networks that have just stopped.

    Returns:
        The networks, of the dtype and on the device of ``start``.

    Raises:
        ValueError: If shapes do not fit, or the architecture cannot be evaluated.
    """
    batch, outputs = start.batch_shape, start.architecture.outputs[0].size
    coordinates, targets = _checked(coordinates, targets, batch, start)
    device, dtype = start.device, torch.promote_types(start.dtype, torch.float32)
    with undisturbed(device):
        coordinates = ordinary(coordinates).to(device, dtype)
        targets = ordinary(targets).to(device, dtype)
        if isinstance(peak, Tensor):
            peak = ordinary(peak).to(device, dtype).expand(batch).reshape(-1)
        flat = start.map(lambda t: ordinary(t).reshape(batch.numel(), *t.shape[len(batch) :]).to(dtype))
        points = targets.shape[1] // outputs
        # On a CPU a few at a time, so that what the activations give stays in the cache.
        count = len(flat)
        few = max(1, 2**14 // (settings.points_per_step or points)) if device.type == "cpu" else max(1, count)
        parts = []
        for first in range(0, max(count, 1), few):
            some = slice(first, first + few)
            own = coordinates if coordinates.dim() == 2 else coordinates[some]
            span = peak[some] if isinstance(peak, Tensor) else peak
            parts.append(_fit_few(own, targets[some], flat[some], settings, span, progress))
        element, psnr, steps = zip(*parts, strict=True)
        fitted, reached = cat(element), torch.cat(psnr)
        if start.dtype != dtype:
            fitted = fitted.to(start.dtype)
            error = error_function(start.architecture).error(fitted.to(dtype).tensors(), coordinates, targets)
            reached = decibels(error, peak)
        fitted = fitted.map(lambda t: t.reshape(*batch, *t.shape[1:]))
        return Fitted(fitted, reached.reshape(batch), torch.cat(steps).reshape(batch))


def decibels(error: Tensor, peak: float | Tensor) -> Tensor:
    """The peak signal-to-noise ratio of a mean squared error; of an error below 1e-20, as if it were that."""
    return 10 * torch.log10(peak**2 / error.clamp_min(1e-20))


def _checked(
    coordinates: Tensor, targets: Tensor, batch: torch.Size, start: WeightSpaceElement
) -> tuple[Tensor, Tensor]:
    """Coordinates ``(points, inputs)`` or ``(n, points, inputs)`` and targets ``(n, points * outputs)``."""
    arch = start.architecture
    if len(arch.inputs) != 1 or len(arch.outputs) != 1:
        raise ValueError(
            "fitting needs one input and one output space, got inputs "
            f"{[s.name for s in arch.inputs]} and outputs {[s.name for s in arch.outputs]}"
        )
    inputs, outputs = arch.inputs[0].size, arch.outputs[0].size
    shape = tuple(coordinates.shape)
    if coordinates.dim() < 2 or shape[-1] != inputs or shape[:-2] not in ((), tuple(batch)):
        raise ValueError(
            f"coordinates: expected (points, {inputs}) or ({', '.join(map(str, (*batch, 'points', inputs)))}), "
            f"got {shape}"
        )
    points = shape[-2]
    wanted = (*batch, points, outputs)
    if tuple(targets.shape) != wanted and not (outputs == 1 and tuple(targets.shape) == wanted[:-1]):
        raise ValueError(
            f"targets: expected {wanted}, one value for each of {points} points, got {tuple(targets.shape)}"
        )
    if points == 0:
        raise ValueError("coordinates: expected at least one point, got none")
    targets = targets.reshape(batch.numel(), points * outputs)
    return (coordinates if coordinates.dim() == 2 else coordinates.reshape(-1, points, inputs)), targets


def _fit_few(
    coordinates: Tensor,
    targets: Tensor,
    start: WeightSpaceElement,
    settings: Adam,
    peak: float | Tensor,
    progress: Callable[[int], None],
) -> Fitted:
    function = error_function(start.architecture)
    params = [t.clone() for t in start.tensors()]  # weight, bias, weight, bias, ...
    first_moment = [torch.zeros_like(p) for p in params]
    second_moment = [torch.zeros_like(p) for p in params]

    count, points = len(targets), coordinates.shape[-2]
    size = min(settings.points_per_step or points, points)
    result = [torch.empty_like(p) for p in params]
    psnr = targets.new_empty(count)
    steps = torch.zeros(count, dtype=torch.int64, device=targets.device)
    active = torch.arange(count, device=targets.device)

    # An error that is rounding alone is no reason to move: Adam takes whole steps along whatever gradient there is.
    rounding = (16 * torch.finfo(targets.dtype).eps) ** 2 * targets.square().mean(1)
    gradients: list[Tensor] = []
    for step in range(settings.steps + 1):
        ending = step == settings.steps
        if ending:
            error = torch.stack([function.error(params, *b) for b in _batches(coordinates, targets, size)])
            error = error.mean(0)
        else:
            some = _batch(coordinates, targets, size, step)
            error, gradients = function.error_and_gradients(params, *some)
        if ending or step % settings.check_every == 0:
            reached = decibels(error, peak)
            # A network that diverged has PSNR nan and runs to the end; the caller sees it in the PSNR.
            done = (reached >= settings.target_psnr) | (error <= rounding) | ending
            finished = int(done.sum())
            if finished:
                where, stay = active[done], ~done
                for out, p in zip(result, params, strict=True):
                    out[where] = p[done]
                psnr[where], steps[where] = reached[done], step
                active, targets, rounding = active[stay], targets[stay], rounding[stay]
                peak = peak[stay] if isinstance(peak, Tensor) else peak
                coordinates = coordinates if coordinates.dim() == 2 else coordinates[stay]
                params, first_moment, second_moment, gradients = (
                    [t[stay] for t in tensors] for tensors in (params, first_moment, second_moment, gradients)
                )
                progress(finished)
            if not len(active):
                break
        rate = settings.rate(step)
        if settings.weight_decay:
            torch._foreach_mul_(params, 1 - rate * settings.weight_decay)
        _adam_step(params, gradients, first_moment, second_moment, step + 1, rate)

    tensors = iter(result)
    weights, biases = [], []
    for layer in start.architecture.layers:
        weights.append(next(tensors))
        biases.append(next(tensors) if layer.bias else None)
    return Fitted(WeightSpaceElement(start.architecture, tuple(weights), tuple(biases)), psnr, steps)


def _batch(coordinates: Tensor, targets: Tensor, size: int, step: int) -> tuple[Tensor, Tensor]:
    """The points of one step; what is left over behind the last whole batch is never used."""
    points = coordinates.shape[-2]
    outputs = targets.shape[1] // points
    first = step % (points // size) * size
    return coordinates[..., first : first + size, :], targets[:, first * outputs : (first + size) * outputs]


def _batches(coordinates: Tensor, targets: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return [_batch(coordinates, targets, size, step) for step in range(coordinates.shape[-2] // size)]


def _adam_step(
    params: list[Tensor],
    gradients: list[Tensor],
    first_moment: list[Tensor],
    second_moment: list[Tensor],
    step: int,
    learning_rate: float,
) -> None:
    """One step of Adam with torch's defaults, in place."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    torch._foreach_lerp_(first_moment, gradients, 1 - beta1)
    torch._foreach_mul_(second_moment, beta2)
    torch._foreach_addcmul_(second_moment, gradients, gradients, 1 - beta2)
    scale = torch._foreach_sqrt(second_moment)
    torch._foreach_div_(scale, math.sqrt(1 - beta2**step))
    torch._foreach_add_(scale, epsilon)
    torch._foreach_addcdiv_(params, first_moment, scale, -learning_rate / (1 - beta1**step))
