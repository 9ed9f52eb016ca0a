"""The second half of speed.py: training steps of the models, what augmentation costs beside them, and fitting.

Bounds are counted, not guessed: the multiplications of a step with torch's FlopCounterMode, the sines of a
fit by hand, over the rates of a matrix product and of a sine measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import weightaug as wa
from benchmarks.data.fit import fit, initial_weights, siren_architecture
from benchmarks.data.images import pixel_grid
from benchmarks.models.dws import DWS
from benchmarks.models.relation_transformer import RelationTransformer
from benchmarks.settings import ImageFitSettings

BATCH = 64
Clock = Callable[[Callable[[], Any]], float]  # microseconds of one call


class Line(NamedTuple):
    """One measured line: what, its rate, and how it compares."""

    what: str
    rate: str
    comparison: str


def rates(clock: Clock) -> tuple[float, float]:
    """Floating point operations and sines per microsecond that this machine does, in float32."""
    a = torch.randn(1024, 1024)
    x = torch.randn(2**15)  # in the cache, as in the fit
    out = torch.empty_like(x)
    return 2 * 1024**3 / clock(lambda: a @ a), len(x) / clock(lambda: torch.sin(x, out=out))


def step_of(model: nn.Module, networks: wa.WeightSpaceElement, dtype: torch.dtype | None) -> Callable[[], None]:
    """One training step: forward, backward and AdamW."""
    labels = torch.arange(len(networks)) % 10
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(networks), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def flops_of(step: Callable[[], None]) -> int:
    """Floating point operations of the products in one call."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def models(networks: wa.WeightSpaceElement, clock: Clock) -> list[Line]:
    """Training steps of the reference models, and the cost of augmentation beside that of DWS."""
    flops_per_us, _ = rates(clock)
    batch = networks[:BATCH]
    torch.manual_seed(0)
    dws = DWS(batch.architecture, 10, hidden=128, layers=4, reduction="max", batch_norm=False)
    transformer = RelationTransformer(batch.architecture, 10, dropout=0.0)
    lines = []
    steps: dict[str, float] = {}
    for name, model, dtype in (
        ("DWS 4 x 128 (max), float32", dws, None),
        ("DWS 4 x 128 (max), bfloat16 autocast", dws, torch.bfloat16),
        ("Relation Transformer, float32", transformer, None),
    ):
        few = batch if model is dws else batch[: BATCH // 4]
        step = step_of(model, few, dtype)
        bound = flops_of(step) / flops_per_us
        steps[name] = clock(step)
        comparison = f"{bound / steps[name]:.0%} of the products at {flops_per_us / 1e3:.0f} GFLOP/s"
        if dtype is not None:
            comparison = f"{steps['DWS 4 x 128 (max), float32'] / steps[name]:.1f} x float32"
        lines.append(
            Line(f"{name}, a step of {len(few)}", f"{len(few) / steps[name] * 1e6:.0f} networks/s", comparison)
        )
    whole = steps["DWS 4 x 128 (max), float32"]
    five = wa.Compose((wa.SirenNegation(), wa.SirenBias(), wa.Rotate(), wa.Translate(), wa.Mixup()))
    for name, transform in (
        ("Compose of five, none aligning", five),
        ("GaussianNoise", wa.GaussianNoise()),
        ("AlignedMixup, permutation", wa.AlignedMixup(symmetry="permutation")),
        ("AlignedMixup, full group", wa.AlignedMixup()),
    ):
        took = clock(lambda t=transform: t(batch))
        lines.append(
            Line(f"{name}, {BATCH} networks", f"{took:.0f} us", f"{took / whole:.2%} of the DWS step in float32")
        )
    return lines


def fitting(clock: Clock) -> list[Line]:
    """Fitting 28 x 28 images: many at once against one at a time, and against products and sines."""
    flops_per_us, sines_per_us = rates(clock)
    settings = ImageFitSettings(steps=20, target_psnr=1e3)  # nothing stops early
    architecture = siren_architecture(settings.convention, (2, 32, 32, 1))
    count, points = 64, 28 * 28
    start = initial_weights(settings.convention, architecture, range(count))
    targets = torch.rand(count, points, generator=torch.Generator().manual_seed(0))
    grid = pixel_grid(28, 28)
    together = clock(lambda: fit(grid, targets, start, settings)) / count
    alone = clock(lambda: fit(grid, targets[:1], start[:1], settings))

    # What existing code does: one network, autograd, torch.optim.Adam.
    weights = [t[0].clone().requires_grad_() for t in start.tensors()]
    optimiser = torch.optim.Adam(weights, lr=settings.learning_rate)

    def plain() -> None:
        for _ in range(settings.steps):
            values = grid
            for i in range(0, len(weights), 2):
                values = F.linear(values, weights[i], weights[i + 1])
                values = torch.sin(30.0 * values) if i < len(weights) - 2 else values + 0.5
            loss = F.mse_loss(values.squeeze(-1), targets[0])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    loop = clock(plain)
    steps = settings.steps
    # Forward and two products backward; a sine and a cosine per hidden neuron and point.
    products = 3 * 2 * points * sum(w.numel() for w in start[0].weights) * steps
    sines = 2 * points * sum(space.size for space in architecture.hidden) * steps
    bound = products / flops_per_us + sines / sines_per_us
    return [
        Line(
            f"fitting {count} images of 28 x 28 at once, {steps} steps",
            f"{1e6 / together / 1000 * steps:.2f} networks of 1000 steps per s",
            f"{bound / together:.0%} of products and sines; {loop / together:.1f} x one at a time with autograd, "
            f"{alone / together:.1f} x one at a time with the same fitter",
        )
    ]
