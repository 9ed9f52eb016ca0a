"""Measures the speed of everything against two yardsticks: `python benchmarks/speed.py`.

Every figure is a ratio within one run: against the loop over single networks that existing code uses
(speed_loops.py, the same work), and against what the machine allows (cloning the batch, drawing the random
numbers). Each batch size is measured twice, in fresh processes: with the allocator's defaults, and with
glibc's thresholds raised, where freed memory is used again instead of being given back and faulted in.

Writes speed.json and speed.md to --output.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

import torch
from torch.utils.benchmark import Timer

import weightaug as wa
from benchmarks import speed_loops as loops
from benchmarks import speed_training

RAISED = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
SIREN = wa.Architecture.siren((2, 32, 32, 1), output_offset=0.5)
RELU = wa.Architecture.mlp((2, 32, 32, 1), "relu", output_offset=0.5)


@dataclass(frozen=True)
class Work:
    """One row: a transform, its loop, and what it is compared with.

    Attributes:
        transform: What is measured.
        loop: The same work on one network.
        architecture: The networks.
        pairs: Whether the loop takes a partner.
        draws: Name of the draw that bounds the work, or "".
    """

    transform: wa.Transform
    loop: Callable[..., loops.Network] | None
    architecture: wa.Architecture = SIREN
    pairs: bool = False
    draws: str = ""


WORK = {
    "SirenNegation": Work(wa.SirenNegation(), loops.siren_negation),
    "SirenBias": Work(wa.SirenBias(), loops.siren_bias),
    "Permute": Work(wa.Permute(), loops.permute),
    "ReLUScale": Work(wa.ReLUScale(), loops.relu_scale, RELU),
    "Rotate": Work(wa.Rotate(), loops.rotate),
    "Translate": Work(wa.Translate(), loops.translate),
    "Scale": Work(wa.Scale(), loops.scale),
    "GaussianNoise": Work(wa.GaussianNoise(), loops.gaussian_noise, draws="normal"),
    "Dropout": Work(wa.Dropout(), loops.dropout, draws="uniform"),
    "QuantileDropout": Work(wa.QuantileDropout(), loops.quantile_dropout),
    "Mixup": Work(wa.Mixup(), loops.mixup, pairs=True),
    "AlignedMixup, permutation": Work(wa.AlignedMixup(symmetry="permutation"), loops.aligned_mixup, pairs=True),
    "AlignedMixup, full group": Work(wa.AlignedMixup(), loops.aligned_mixup, pairs=True),
    "Compose of five": Work(
        wa.Compose((wa.Permute(), wa.SirenNegation(), wa.Rotate(), wa.Translate(), wa.Mixup())), None
    ),
}


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        batches: Batch sizes.
        work: Names of the rows; all by default.
        compiled: Also compile each apply with Inductor (up to half a minute a row).
        seconds: Least measuring time per figure.
        networks: INRs "fitted" to digits (run `python benchmarks/table1.py` once before), or "random" networks. The
            cost of alignment depends on them.
        output: Folder for speed.json and speed.md.
        training: Also measure training steps, augmentation beside them, and fitting.
        worker: For the command's own use: measure in this process with this allocator.
    """

    batches: tuple[int, ...] = (64, 512, 4096)
    work: tuple[str, ...] = tuple(WORK)
    compiled: bool = False
    seconds: float = 0.5
    networks: Literal["random", "fitted"] = "fitted"
    output: Path = Path("benchmarks/runs/speed")
    training: bool = True
    worker: Literal["", "default", "raised"] = ""


@dataclass
class Figure:
    """One measured row; times in microseconds per batch, medians."""

    allocator: str
    batch: int
    work: str
    ours: float
    loop: float | None = None
    clone: float | None = None
    draw: float | None = None
    parts: float | None = None
    compiled: float | None = None
    eager_apply: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def microseconds(function: Callable[[], Any], seconds: float) -> float:
    """Median time of one call."""
    timer = Timer("f()", globals={"f": function}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=seconds).median * 1e6)


def networks(architecture: wa.Architecture, batch: int, kind: str) -> wa.WeightSpaceElement:
    """Networks to transform, float32."""
    if kind == "fitted" and architecture == SIREN:
        return _fitted(batch)
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(batch, architecture.num_parameters, generator=generator) * 0.05
    return wa.WeightSpaceElement.unflatten(architecture, flat).clone()


def _fitted(batch: int) -> wa.WeightSpaceElement:
    from benchmarks.data.store import load_networks
    from benchmarks.settings import PRESETS

    settings = PRESETS["quick"]
    stored = load_networks("digits", 1, settings.fit, settings.output / "inrs").element
    index = torch.arange(batch) % len(stored)
    return wa.WeightSpaceElement(SIREN, stored[index].weights, stored[index].biases)


def measure(options: Options, allocator: str) -> list[Figure]:
    """All figures for one allocator, in this process."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise SystemExit("the benchmarks need tqdm: pip install 'weightaug[bench]'") from error
    figures = []
    rows = [(batch, name) for batch in options.batches for name in options.work]
    for batch, name in tqdm(rows, desc=f"speed ({allocator} allocator)", unit="row"):
        work = WORK[name]
        element = networks(work.architecture, batch, options.networks)
        figure = Figure(allocator, batch, name, microseconds(lambda w=work, e=element: w.transform(e), options.seconds))
        figure.clone = microseconds(element.clone, options.seconds)
        if work.draws:
            draw = {"normal": torch.randn, "uniform": torch.rand}[work.draws]
            figure.draw = microseconds(lambda d=draw, e=element: d(len(e), e.num_parameters), options.seconds)
        if work.loop is not None:
            # The loop's time grows with the number of networks, so a few of them tell.
            some = element[: min(batch, 64)]
            loop = loops.over_batch(work.loop, pairs=work.pairs)
            figure.loop = microseconds(lambda r=loop, s=some: r(s), options.seconds) * batch / len(some)
        if isinstance(work.transform, wa.Compose):
            figure.parts = sum(
                microseconds(lambda t=t, e=element: t(e), options.seconds) for t in work.transform.transforms
            )
        if options.compiled:
            params = work.transform.sample(element)
            figure.eager_apply = microseconds(
                lambda w=work, e=element, p=params: w.transform.apply(e, p), options.seconds
            )
            compiled = torch.compile(work.transform.apply, fullgraph=True)
            compiled(element, params)
            figure.compiled = microseconds(lambda c=compiled, e=element, p=params: c(e, p), options.seconds)
            torch._dynamo.reset()
        figures.append(figure)
    return figures


def train_lines(options: Options) -> list[speed_training.Line]:
    """The figures of speed_training.py."""

    def clock(function: Callable[[], Any]) -> float:
        function()
        return microseconds(function, options.seconds)

    element = networks(SIREN, 64, options.networks)
    return speed_training.models(element, clock) + speed_training.fitting(clock)


def describe_machine() -> dict[str, Any]:
    """What the figures were measured on, and its bounds: copy bandwidth, matrix product, sine."""
    a = torch.randn(2048, 2048)
    big = torch.randn(16_000_000)
    out = torch.empty_like(big)
    return {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "weightaug": wa.__version__,
        "python": platform.python_version(),
        "copy_gb_s": 2 * big.nbytes / microseconds(lambda: out.copy_(big), 0.5) / 1e3,
        "matmul_gflop_s": 2 * 2048**3 / microseconds(lambda: a @ a, 0.5) / 1e3,
        "sine_g_s": big.numel() / microseconds(lambda: torch.sin(big, out=out), 0.5) / 1e3,
        "load": os.getloadavg()[0],
    }


def table(machine: dict[str, Any], figures: list[Figure]) -> str:
    """The figures as Markdown."""
    lines = [
        "Machine: " + ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in machine.items()),
        "",
        "| allocator | batch | work | us per batch | networks/s | x the loop | x a clone | x the draw | other |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for f in figures:
        other = []
        if f.parts:
            other.append(f"{f.ours / f.parts:.2f} x the sum of its parts")
        if f.compiled and f.eager_apply:
            other.append(f"apply: {f.eager_apply:.0f} us eager, {f.compiled:.0f} us compiled")
        lines.append(
            f"| {f.allocator} | {f.batch} | {f.work} | {f.ours:.0f} | {f.batch / f.ours * 1e6:,.0f} "
            f"| {f'{f.loop / f.ours:.1f} faster' if f.loop else '-'} | {f'{f.ours / f.clone:.1f}' if f.clone else '-'} "
            f"| {f'{f.ours / f.draw:.2f}' if f.draw else '-'} | {'; '.join(other) or '-'} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measures with both allocators in fresh processes, and writes the table."""
    try:
        import tyro
    except ImportError as error:
        raise SystemExit("the command line needs tyro; install it with: pip install 'weightaug[bench]'") from error
    options = tyro.cli(Options, args=arguments, description=__doc__)
    unknown = set(options.work) - set(WORK)
    if unknown:
        raise SystemExit(f"unknown work {sorted(unknown)}; known: {list(WORK)}")
    options.output.mkdir(parents=True, exist_ok=True)
    if options.worker:
        figures = measure(options, options.worker)
        lines = train_lines(options) if options.training else []
        part = {"figures": [asdict(f) for f in figures], "training": [list(line) for line in lines]}
        (options.output / f"part-{options.worker}.json").write_text(json.dumps(part))
        return
    figures = []
    training: list[list[str]] = []
    given = sys.argv[1:] if arguments is None else arguments
    for allocator, environment in (("default", {}), ("raised", RAISED)):
        command = [sys.executable, __file__, *given, "--worker", allocator]
        if subprocess.run(command, env=os.environ | environment, check=False).returncode:
            raise SystemExit(f"measuring with the {allocator} allocator failed")
        part = options.output / f"part-{allocator}.json"
        measured = json.loads(part.read_text())
        figures += [Figure(**f) for f in measured["figures"]]
        training += [[allocator, *line] for line in measured["training"]]
        part.unlink()
    machine = describe_machine()
    text = table(machine, figures)
    if training:
        text += "\n| allocator | work | rate | compared |\n| --- | --- | --- | --- |\n"
        text += "".join("| " + " | ".join(line) + " |\n" for line in training)
    (options.output / "speed.json").write_text(
        json.dumps({"machine": machine, "figures": [asdict(f) for f in figures], "training": training}, indent=1)
    )
    (options.output / "speed.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
