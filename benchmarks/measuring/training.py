"""The training part of speed.py: steps of the models, what augmentation costs beside them, seeds at once, fitting.

Bounds are counted, not guessed: the multiplications of a step with torch's FlopCounterMode, the sines of a
fit by hand, over the rates of a matrix product and of a sine measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import weightaug as wa
from benchmarks.data.fit import fit, initial_weights, siren_architecture
from benchmarks.data.images import pixel_grid
from benchmarks.data.settings import ImageFitSettings
from benchmarks.measuring.plain_dws import PlainDWS
from benchmarks.measuring.stacked import Stacked
from benchmarks.models.dws import DWS
from benchmarks.models.graph_embedding import Widths
from benchmarks.models.relation_transformer import RelationTransformer

BATCH = 64
SEEDS = 8  # trained at once
Clock = Callable[[Callable[[], Any]], float]  # microseconds of one call


class Line(NamedTuple):
    """One measured line: what, its rate, how it compares, and the same as numbers, by the names of the targets."""

    what: str
    rate: str
    comparison: str
    numbers: dict[str, float]


def rates(clock: Clock, device: torch.device) -> tuple[float, float]:
    """Floating point operations and sines per microsecond that this machine does, in float32."""
    a = torch.randn(1024, 1024, device=device)
    x = torch.randn(2**15 if device.type == "cpu" else 2**24, device=device)  # in the cache, as in the fit
    out = torch.empty_like(x)
    return 2 * 1024**3 / clock(lambda: a @ a), len(x) / clock(lambda: torch.sin(x, out=out))


def in_turns(clock: Clock, *functions: Callable[[], Any], turns: int = 4) -> list[float]:
    """The least time of each function, measured in turns: a machine that changes its speed changes it for all."""
    return [min(times) for times in zip(*([clock(f) for f in functions] for _ in range(turns)), strict=True)]


def step_of(model: nn.Module, networks: wa.WeightSpaceElement, dtype: torch.dtype | None) -> Callable[[], None]:
    """One training step: forward, backward and AdamW."""
    labels = torch.arange(len(networks), device=networks.device) % 10
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast(networks.device.type, dtype=dtype, enabled=dtype is not None):
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


def products_of(step: Callable[[], None], transformer: RelationTransformer) -> int:
    """Floating point operations of one forward and one backward pass: what a layer computes again is not in them."""
    transformer.checkpoint = False
    try:
        return flops_of(step)
    finally:
        transformer.checkpoint = True


def models(networks: wa.WeightSpaceElement, clock: Clock) -> list[Line]:
    """Training steps of the reference models, and the cost of augmentation beside that of DWS."""
    device = networks.device
    flops_per_us, _ = rates(clock, device)
    batch = networks[:BATCH]
    torch.manual_seed(0)
    dws = DWS(batch.architecture, 10, hidden=128, layers=4, reduction="max", batch_norm=False).to(device)
    transformer = RelationTransformer(batch.architecture, 10, dropout=0.0).to(device)
    lines = []
    steps: dict[str, float] = {}
    for key, name, model, dtype in (
        ("dws", "DWS 4 x 128 (max), float32", dws, None),
        ("dws bf16", "DWS 4 x 128 (max), bfloat16 autocast", dws, torch.bfloat16),
        ("transformer", "Relation Transformer, float32", transformer, None),
    ):
        few = batch if model is dws else batch[: BATCH // 4]
        step = step_of(model, few, dtype)
        steps[key] = clock(step)
        share = products_of(step, transformer) / flops_per_us / steps[key]
        rate = len(few) / steps[key] * 1e6
        numbers = {f"{key} networks/s": rate}
        if dtype is None:
            numbers[f"{key} share"] = share
            comparison = f"{share:.0%} of the products at {flops_per_us / 1e3:.0f} GFLOP/s"
        else:
            numbers[f"{key} speedup"] = steps["dws"] / steps[key]
            comparison = f"{steps['dws'] / steps[key]:.1f} x float32"
        lines.append(Line(f"{name}, a step of {len(few)}", f"{rate:.0f} networks/s", comparison, numbers))
    if device.type == "cpu":
        lines.append(_on_one_thread("transformer", "Relation Transformer, float32", transformer, batch, clock))
    five = wa.Compose((wa.SirenNegation(), wa.SirenBias(), wa.Rotate(), wa.Translate(), wa.Mixup()))
    for key, name, transform in (
        ("pipeline", "Compose of five, none aligning", five),
        ("pipeline", "Compose of eight, none aligning, with noise and dropouts", _everything(five)),
        ("aligned", "AlignedMixup, permutation", wa.AlignedMixup(symmetry="permutation")),
        ("aligned full", "AlignedMixup, full group", wa.AlignedMixup()),
    ):
        took = clock(partial(transform, batch))
        share = took / steps["dws"]
        text = f"{share:.2%} of the DWS step in float32, {took / steps['dws bf16']:.2%} of that in bfloat16"
        lines.append(Line(f"{name}, {BATCH} networks", f"{took:.0f} us", text, {f"{key} of a step": share}))
    return lines


def _on_one_thread(key: str, name: str, model: RelationTransformer, batch: wa.WeightSpaceElement, clock: Clock) -> Line:
    """A step as table1.py runs it: its workers have one thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        few = batch[: BATCH // 8]
        step = step_of(model, few, None)
        bound = products_of(step, model) / rates(clock, torch.device("cpu"))[0]
        took = clock(step)
    finally:
        torch.set_num_threads(threads)
    return Line(
        f"{name}, a step of {len(few)} on one thread",
        f"{len(few) / took * 1e6:.0f} networks/s",
        f"{bound / took:.0%} of the products of one thread",
        {f"{key} share on one thread": bound / took},
    )


def _everything(five: wa.Compose) -> wa.Compose:
    return wa.Compose((*five.transforms, wa.GaussianNoise(), wa.Dropout(), wa.QuantileDropout()))


def published_layers(networks: wa.WeightSpaceElement, clock: Clock, where: str = "") -> list[Line]:
    """DWS against the same model block by block, as it was published; and how far the products of both would let it be.

    Args:
        networks: What is read.
        clock: Measures.
        where: Said behind the name of every figure, `` on one thread``.
    """
    batch = networks[:BATCH]
    flops_per_us, _ = rates(clock, networks.device)
    lines = []
    for set_layer in ("ds", "sab"):
        torch.manual_seed(0)
        model = DWS(
            batch.architecture, 10, hidden=128, layers=4, reduction="max", set_layer=set_layer, batch_norm=False
        ).to(networks.device)
        plain = PlainDWS(model, tuple(space.size for space in batch.architecture.spaces), "max", 128).to(
            networks.device
        )
        step = step_of(model, batch, None)
        products = flops_of(step) / flops_per_us
        ours, theirs = in_turns(clock, step, step_of(plain, batch, None), turns=2)
        lines.append(
            Line(
                f'DWS 4 x 128 (max, "{set_layer}"), a step of {BATCH}{where}',
                f"{BATCH / ours * 1e6:.0f} networks/s",
                f"{theirs / ours:.2f} x block by block; with its products alone {theirs / products:.1f} x",
                {f"{set_layer} speedup{where}": theirs / ours, f"{set_layer} bound{where}": theirs / products},
            )
        )
    return lines


def seeds_at_once(networks: wa.WeightSpaceElement, clock: Clock) -> list[Line]:
    """Several seeds of a small model stacked, against one after the other."""
    architecture, device = networks.architecture, networks.device

    def dws(hidden: int) -> nn.Module:
        return DWS(architecture, 10, hidden=hidden, layers=2, reduction="mean", batch_norm=False)

    def transformer() -> nn.Module:
        widths = Widths(node=16, edge=8, attention=16, heads=2, node_hidden=32, edge_hidden=16)
        return RelationTransformer(architecture, 10, layers=2, widths=widths, head=32, frequencies=8, dropout=0.0)

    lines = []
    for name, make, size in (
        ("DWS 2 x 8 (mean)", lambda: dws(8), 16),
        ("DWS 2 x 24 (mean)", lambda: dws(24), 16),
        ("Relation Transformer, 2 layers, 8 channels of edges", transformer, 4),
    ):
        models = [make().to(device) for _ in range(SEEDS)]
        batch = networks[:size]
        alone = [step_of(model, batch, None) for model in models]
        stacked = Stacked(models)
        batches = batch.map(lambda t: t.expand(SEEDS, *t.shape).clone())
        labels = (torch.arange(size, device=device) % 10).expand(SEEDS, -1)

        def one_by_one(steps: list[Callable[[], None]] = alone) -> None:
            for step in steps:
                step()

        apart, together = in_turns(clock, one_by_one, partial(stacked.step, batches, labels, F.cross_entropy))
        speedup = apart / together
        lines.append(
            Line(
                f"{name}, {SEEDS} seeds at once, batch {size}",
                f"{SEEDS / together * 1e6:.0f} steps of one seed per s",
                f"{speedup:.2f} x one after the other",
                {f"stacked {name}": speedup},
            )
        )
    return lines


def fitting(clock: Clock, device: torch.device, where: str = "") -> list[Line]:
    """Fitting 28 x 28 images: many at once against one at a time, and against products and sines.

    Args:
        clock: Measures.
        device: Where.
        where: Said behind the name of every figure, `` on one thread``.
    """
    flops_per_us, sines_per_us = rates(clock, device)
    settings = ImageFitSettings(steps=20, target_psnr=1e3)  # nothing stops early
    architecture = siren_architecture(settings.convention, (2, 32, 32, 1))
    count, points = 64, 28 * 28
    start = initial_weights(settings.convention, architecture, range(count)).to(device)
    targets = torch.rand(count, points, generator=torch.Generator().manual_seed(0)).to(device)
    grid = pixel_grid(28, 28).to(device)

    def fits(some: int) -> Callable[[], Any]:
        return lambda: fit(grid, targets[:some], start[:some], settings)

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

    together, alone, loop = in_turns(clock, fits(count), fits(1), plain)
    together /= count
    steps = settings.steps
    # Forward and two products backward; a sine and a cosine per hidden neuron and point.
    products = 3 * 2 * points * sum(w.numel() for w in start[0].weights) * steps
    sines = 2 * points * sum(space.size for space in architecture.hidden) * steps
    bound = products / flops_per_us + sines / sines_per_us
    return [
        Line(
            f"fitting {count} images of 28 x 28 at once, {steps} steps{where}",
            f"{1e6 / together / 1000 * steps:.2f} networks of 1000 steps per s",
            f"{bound / together:.0%} of products and sines; {loop / together:.1f} x one at a time with autograd, "
            f"{alone / together:.1f} x one at a time with the same fitter",
            {f"fitting share{where}": bound / together, f"fitting speedup{where}": loop / together},
        )
    ]
