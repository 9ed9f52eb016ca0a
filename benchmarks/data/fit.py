"""Fits SIRENs to images, many at once.

The networks of a batch are stacked, and the gradients of the few matrix products and sines are written
out, which is about twice as fast as autograd here. Every network draws its initial weights from its own
seed, and networks do not influence each other, so any part of a data set can be made again alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.data.settings import Convention, FitSettings
from weightaug import Architecture, WeightSpaceElement, cat


class Fitted(NamedTuple):
    """Fitted networks.

    Attributes:
        element: Networks, ``(n,)``.
        psnr: Peak signal-to-noise ratio of each reconstruction in dB, ``(n,)``.
        steps: Steps that each network was trained for, int64 ``(n,)``.
    """

    element: WeightSpaceElement
    psnr: Tensor
    steps: Tensor


def siren_architecture(convention: Convention, sizes: Sequence[int]) -> Architecture:
    """The architecture of a convention's networks."""
    return Architecture.siren(
        sizes,
        omega=convention.omega,
        first_omega=convention.first_omega,
        output_offset=convention.output_offset,
    )


def seed_of(*parts: object) -> int:
    """A seed from names and numbers that is the same in every process and on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def initial_weights(
    convention: Convention, architecture: Architecture, seeds: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> WeightSpaceElement:
    """Initial weights ``(len(seeds),)``, each network's drawn from its own seed alone."""
    drawn = torch.empty(len(seeds), architecture.num_parameters, dtype=torch.float64)
    generator = torch.Generator()
    for row, seed in zip(drawn, seeds, strict=True):
        generator.manual_seed(seed)
        row.uniform_(-1, 1, generator=generator)
    element = WeightSpaceElement.unflatten(architecture, drawn.to(dtype))
    weights, biases = [], []
    last = len(architecture.layers) - 1
    for i, (weight, bias) in enumerate(zip(element.weights, element.biases, strict=True)):
        assert bias is not None
        fan_in = weight.shape[-1]
        hidden_bound = math.sqrt(6 / fan_in) / convention.omega
        torch_bound = 1 / math.sqrt(fan_in)  # of nn.Linear, for weights and biases alike
        if i == 0:
            weight_bound = 1 / fan_in if convention.first_layer_special else hidden_bound
        else:
            weight_bound = torch_bound if i == last and convention.last_layer_torch else hidden_bound
        bias_bound = 0.0 if i < last and convention.zero_hidden_bias else torch_bound
        weights.append(weight * weight_bound)
        biases.append(bias * bias_bound)
    return WeightSpaceElement(architecture, tuple(weights), tuple(biases))


def fit(
    coordinates: Tensor,
    targets: Tensor,
    start: WeightSpaceElement,
    settings: FitSettings,
    *,
    progress: Callable[[int], None] = lambda networks: None,
) -> Fitted:
    """Trains each network to map the coordinates to its targets, with Adam on the mean squared error.

    A network stops when its PSNR reaches ``settings.target_psnr`` (looked at every
    ``settings.check_every`` steps); the others go on without it.

    Args:
        coordinates: ``(points, inputs)`` for all networks alike, or ``(n, points, inputs)``.
        targets: ``(n, points)``, in the value range of the convention.
        start: Initial weights, ``(n,)``: a chain of sine layers with one output.
        settings: Steps, learning rate, stop; how many of the points a step takes, in their order, from the start
            again where too few are left.
        progress: Called with the number of networks that have just stopped.

    Raises:
        ValueError: If the networks are no such chains.
    """
    check_sirens(start.architecture)
    count, points = targets.shape
    # On a CPU a few at a time, so that what the sines give stays in the cache.
    few = max(1, 2**14 // (settings.points_per_step or points)) if targets.device.type == "cpu" else max(1, count)
    parts = []
    for first in range(0, max(count, 1), few):
        some = slice(first, first + few)
        own = coordinates if coordinates.dim() == 2 else coordinates[some]
        data = own.to(start.dtype), targets[some].to(start.dtype)
        parts.append(_fit_few(*data, start[some], settings, progress))
    element, psnr, steps = zip(*parts, strict=True)
    return Fitted(cat(element), torch.cat(psnr), torch.cat(steps))


def _fit_few(
    coordinates: Tensor,
    targets: Tensor,
    start: WeightSpaceElement,
    settings: FitSettings,
    progress: Callable[[int], None],
) -> Fitted:
    low, high = settings.convention.target_range
    offset = start.architecture.output_offset
    omegas = [space.activation.omega for space in start.architecture.hidden if space.activation]
    params = [t.clone() for t in start.tensors()]  # weight, bias, weight, bias, ...
    first_moment = [torch.zeros_like(p) for p in params]
    second_moment = [torch.zeros_like(p) for p in params]

    count, points = targets.shape
    size = min(settings.points_per_step or points, points)
    result = [torch.empty_like(p) for p in params]
    psnr = targets.new_empty(count)
    steps = torch.zeros(count, dtype=torch.int64, device=targets.device)
    active = torch.arange(count, device=targets.device)

    for step in range(settings.steps + 1):
        ending = step == settings.steps
        if ending:
            error = torch.stack([_error(params, omegas, offset, *b) for b in _batches(coordinates, targets, size)])
            error, gradients = error.mean(0), []
        else:
            some = _batch(coordinates, targets, size, step)
            error, gradients = _error_and_gradients(params, omegas, offset, *some)
        if ending or step % settings.check_every == 0:
            reached = 10 * torch.log10((high - low) ** 2 / error.clamp_min(1e-20))
            # A network that diverged has PSNR nan and runs to the end; the caller sees it in the PSNR.
            done = torch.ones_like(reached, dtype=torch.bool) if ending else reached >= settings.target_psnr
            finished = int(done.sum())
            if finished:
                where, stay = active[done], ~done
                for out, p in zip(result, params, strict=True):
                    out[where] = p[done]
                psnr[where], steps[where] = reached[done], step
                active, targets = active[stay], targets[stay]
                coordinates = coordinates if coordinates.dim() == 2 else coordinates[stay]
                params, first_moment, second_moment, gradients = (
                    [t[stay] for t in tensors] for tensors in (params, first_moment, second_moment, gradients)
                )
                progress(finished)
            if not len(active):
                break
        if settings.weight_decay:
            torch._foreach_mul_(params, 1 - settings.learning_rate * settings.weight_decay)
        _adam_step(params, gradients, first_moment, second_moment, step + 1, settings.learning_rate)

    return Fitted(WeightSpaceElement(start.architecture, tuple(result[0::2]), tuple(result[1::2])), psnr, steps)


def _batch(coordinates: Tensor, targets: Tensor, size: int, step: int) -> tuple[Tensor, Tensor]:
    """The points of one step; what is left over behind the last whole batch is never used."""
    first = step % (targets.shape[1] // size) * size
    return coordinates[..., first : first + size, :], targets[:, first : first + size]


def _batches(coordinates: Tensor, targets: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return [_batch(coordinates, targets, size, step) for step in range(targets.shape[1] // size)]


def check_sirens(architecture: Architecture) -> None:
    """Refuses what the written-out gradients do not cover.

    Raises:
        ValueError: If the architecture is not a chain of sine layers with biases and one output.
    """
    names = [space.activation.name if space.activation else None for space in architecture.hidden]
    biases = all(layer.bias for layer in architecture.layers)
    if not architecture.is_chain or set(names) != {"sine"} or not biases or architecture.outputs[0].size != 1:
        raise ValueError(f"the fitter takes chains of sine layers with biases and one output, got {architecture!r}")


def _error(params: list[Tensor], omegas: list[float], offset: float, coordinates: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each network ``(n,)``."""
    values = coordinates.expand(len(targets), -1, -1)
    for weight, bias, omega in zip(params[0:-2:2], params[1:-2:2], omegas, strict=True):
        values = torch.baddbmm(bias.unsqueeze(1), values, weight.mT).mul_(omega).sin_()
    output = torch.baddbmm(params[-1].unsqueeze(1), values, params[-2].mT).squeeze(-1)
    return output.add_(offset).sub_(targets).square_().mean(-1)


def _error_and_gradients(
    params: list[Tensor], omegas: list[float], offset: float, coordinates: Tensor, targets: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Mean squared error of each network ``(n,)``, and its gradients, in the order of the parameters."""
    weights, biases = params[0::2], params[1::2]
    count, points = targets.shape
    inputs = [coordinates.expand(count, -1, -1)]  # of each layer
    slopes = []  # of each sine at its pre-activation
    for weight, bias, omega in zip(weights, biases, omegas, strict=False):
        phase = torch.baddbmm(bias.unsqueeze(1), inputs[-1], weight.mT).mul_(omega)
        slopes.append(torch.cos(phase))
        inputs.append(phase.sin_())
    output = torch.baddbmm(biases[-1].unsqueeze(1), inputs[-1], weights[-1].mT).squeeze(-1)
    residual = output.add_(offset).sub_(targets)
    error = residual.square().mean(-1)

    gradients: list[Tensor] = []
    upstream = residual.mul_(2 / points).unsqueeze(-1)
    for layer in reversed(range(len(weights))):
        gradients = [upstream.mT @ inputs[layer], upstream.sum(1), *gradients]
        if layer:
            upstream = (upstream @ weights[layer]).mul_(slopes[layer - 1]).mul_(omegas[layer - 1])
    return error, gradients


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
