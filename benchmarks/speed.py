"""Measures the speed of everything against two yardsticks: `python benchmarks/speed.py`.

Every figure is a ratio within one run: against the loop over single networks that existing code uses
(measuring/loops.py, the same work), and against what the machine allows (cloning the batch, drawing the random
numbers). Each batch size is measured twice, in fresh processes: with the allocator's defaults, and with
glibc's thresholds raised, where freed memory is used again instead of being given back and faulted in.

A figure is the least of several medians, taken minutes apart: what other processes do can only add to it.

The sections are "transforms", "singles" (one network per call), "busy" (beside other processes), "training", "memory",
"loading" and "growth". Writes speed.json and speed.md to --output; what is not measured, sections, batches or
transforms, stays in them as it was. ``--page docs/speed.md`` writes the tables of the page instead.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

import numpy as np
import torch
from torch.utils.benchmark import Timer

import weightaug as wa
from benchmarks.measuring import busy, growth, loops, memory, singles, targets, training
from benchmarks.running.commands import at_least, check_each, command, device, distinct, parsed, positive, writable
from benchmarks.running.files import read_json, write_json, write_text
from benchmarks.running.pages import write_tables
from weightaug import _loops

Section = Literal["transforms", "singles", "busy", "training", "memory", "loading", "growth"]
Allocator = Literal["default", "raised", "single"]  # single: the default one, in a process of one thread
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
        sections: Parts to measure; all by default.
        batches: Batch sizes of the transforms.
        work: Names of the transforms; all by default.
        compile_at: Also compile each apply with Inductor (some seconds a row), at these batch sizes.
        seconds: Least measuring time of one median.
        rounds: Medians per figure.
        networks: INRs "fitted" to digits (run `python benchmarks/table1.py --steps fit` once before), or "random"
            networks. The cost of alignment depends on them.
        numba: Whether to use numba where it is installed; False for the times without the extra "fast".
        device: Where to measure; the allocators are compared on the CPU only.
        loaded: Networks of the data set that is opened; 700,000 take 3.3 GB in the temporary folder.
        output: Folder for speed.json and speed.md.
        plots: Where the growth is drawn, with .png and .svg; None for the output folder.
        page: Write the tables of the results in --output into this page, and measure nothing.
        worker: For the command's own use: measure in this process with this allocator.
    """

    sections: tuple[Section, ...] = get_args(Section)
    batches: tuple[int, ...] = (64, 512, 4096)
    work: tuple[str, ...] = tuple(WORK)
    compile_at: tuple[int, ...] = (512,)
    seconds: float = 0.1
    rounds: int = 3
    networks: Literal["random", "fitted"] = "fitted"
    numba: bool = True
    device: str = "cpu"
    loaded: int = 700_000
    output: Path = Path("benchmarks/runs/speed")
    plots: Path | None = None
    page: Path | None = None
    worker: Literal["", "default", "raised", "single"] = ""

    def __post_init__(self) -> None:
        distinct("sections", self.sections)
        distinct("batches", self.batches)
        check_each("batches", self.batches, at_least, 2)  # mixing needs partners
        distinct("work", self.work, tuple(WORK))
        check_each("compile-at", self.compile_at, at_least, 2)
        positive("seconds", self.seconds)
        at_least("rounds", self.rounds, 1)
        at_least("loaded", self.loaded, 1)


@dataclass
class Figure:
    """One measured row; times in microseconds per batch."""

    allocator: str
    batch: int
    work: str
    ours: float
    clone: float
    loop: float | None = None
    draw: float | None = None
    parts: float | None = None
    eager_apply: float | None = None
    compiled: float | None = None

    def least(self, other: Figure | None) -> Figure:
        """The same row with the smaller of both times of each kind."""
        if other is None:
            return self
        times: dict[str, Any] = {}
        for name in [f.name for f in fields(self)][3:]:
            known = [t for t in (getattr(self, name), getattr(other, name)) if t is not None]
            times[name] = min(known, default=None)
        return Figure(self.allocator, self.batch, self.work, **times)


def microseconds(function: Callable[[], Any], seconds: float) -> float:
    """Median time of one call; waits for the device."""
    timer = Timer("f()", globals={"f": function}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=seconds).median * 1e6)


def clock_of(options: Options) -> Callable[[Callable[[], Any]], float]:
    """A clock for the parts that are measured once: after a first call, the least of three medians."""

    def clock(function: Callable[[], Any]) -> float:
        function()
        return min(microseconds(function, options.seconds) for _ in range(3))

    return clock


def networks(architecture: wa.Architecture, batch: int, options: Options) -> wa.WeightSpaceElement:
    """Networks to transform, float32."""
    if options.networks == "fitted" and architecture == SIREN:
        return _fitted(batch).to(options.device)
    return growth.networks(architecture, batch).to(options.device)


@lru_cache(maxsize=1)
def _fits() -> wa.WeightSpaceElement:
    from benchmarks.data.store import load_networks
    from benchmarks.table.settings import PRESETS

    settings = PRESETS["quick"]
    return load_networks("digits", 1, settings.fit, settings.output / "inrs").element[:]


def _fitted(batch: int) -> wa.WeightSpaceElement:
    stored = _fits()[torch.arange(batch) % len(_fits())]
    return wa.WeightSpaceElement(SIREN, stored.weights, stored.biases)


def wake_up(seconds: float = 3.0) -> None:
    """Keeps all threads busy for a while: some virtual machines put them on one core until they have been."""
    a = torch.randn(1024, 1024)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        a @ a


def measure(options: Options, allocator: str) -> list[Figure]:
    """The figures of all transforms for one allocator, in this process."""
    rows = [(batch, name) for batch in options.batches for name in options.work]
    found: dict[tuple[int, str], Figure] = {}
    wake_up()
    for turn in range(options.rounds):
        for batch, name in progress(rows, f"{allocator} allocator, round {turn + 1}"):
            compiled = turn == 0 and batch in options.compile_at and allocator == "raised"
            found[batch, name] = measure_one(options, allocator, batch, name, compiled).least(found.get((batch, name)))
    return list(found.values())


def measure_one(options: Options, allocator: str, batch: int, name: str, compiled: bool) -> Figure:
    """One row, once."""
    work = WORK[name]
    element = networks(work.architecture, batch, options)

    def time_of(function: Callable[[], Any]) -> float:
        return microseconds(function, options.seconds)

    figure = Figure(allocator, batch, name, time_of(lambda: work.transform(element)), time_of(element.clone))
    if work.draws:
        draw = {"normal": torch.randn, "uniform": torch.rand}[work.draws]
        figure.draw = time_of(lambda: draw(len(element), element.num_parameters, device=options.device))
    if work.loop is not None:
        # The loop's time grows with the number of networks, so a few of them tell. It stays on the CPU.
        some = element[: min(batch, 64)].to("cpu")
        loop = loops.over_batch(work.loop, pairs=work.pairs)
        figure.loop = time_of(lambda: loop(some)) * batch / len(some)
    if isinstance(work.transform, wa.Compose):
        # Its parts in a row, each on the same batch: one after the other, as in Compose, they share the caches.
        parts = work.transform.transforms
        figure.parts = time_of(lambda: [part(element) for part in parts])
    if compiled:
        params = work.transform.sample(element)
        function = torch.compile(work.transform.apply, fullgraph=True)
        function(element, params)
        eager, fast = (
            [time_of(partial(f, element, params)) for _ in range(3)] for f in (work.transform.apply, function)
        )
        figure.eager_apply, figure.compiled = min(eager), min(fast)
        torch._dynamo.reset()
    return figure


def progress(rows: Sequence[Any], text: str) -> Iterable[Any]:
    """A bar over rows."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise SystemExit("the benchmarks need tqdm: pip install 'weightaug[bench]'") from error
    return tqdm(rows, desc=text, unit="row")


def part_of(options: Options, allocator: Allocator) -> dict[str, Any]:
    """What one process measures: transforms with either allocator, the rest with the one that it is about."""
    clock = clock_of(options)
    device = torch.device(options.device)
    raised = allocator == "raised" or options.device != "cpu"
    memory_batch = 16_384

    def training_lines() -> list[dict[str, Any]]:
        element = networks(SIREN, 64, options)
        lines = training.models(element, clock) + training.seeds_at_once(element, clock)
        lines += training.published_layers(element, clock) + training.fitting(clock, device)
        if options.device == "cpu":
            where = " on one thread"
            lines += on_one_thread(
                lambda: training.published_layers(element, clock, where) + training.fitting(clock, device, where)
            )
        return [line._asdict() for line in lines]

    def singles_lines() -> list[dict[str, Any]]:
        return [line._asdict() for line in singles.measure(SIREN, RELU)]

    def peaks() -> dict[str, float]:
        return {
            name: memory.peak(work.transform, networks(work.architecture, memory_batch, options))
            for name, work in progress(list(WORK.items()), f"memory, batch {memory_batch}")
        }

    # Parts of 10 shards of 125 networks, as the fitting of 700,000 INRs in small jobs makes them.
    sections: dict[str, tuple[bool, Callable[[], Any]]] = {
        "transforms": (allocator != "single", lambda: [asdict(f) for f in measure(options, allocator)]),
        # As in the workers of a DataLoader, which have one thread each.
        "singles": (allocator == "single", singles_lines),
        "busy": (
            allocator == "default" and options.device == "cpu",
            lambda: [line._asdict() for line in busy.measure()],
        ),
        "training": (raised, training_lines),
        "growth": (raised, lambda: growth.curves(clock, device)),
        "memory": (allocator == "default", peaks),
        "loading": (allocator == "default", lambda: memory.loading(SIREN, options.loaded, 125)),
    }
    result: dict[str, Any] = {"conditions": {}}
    for name, (here, run) in sections.items():
        if name in options.sections and here:
            result[name] = run()
            what = f"{name} at {options.batches}" if name == "transforms" else name
            # Measured beside it: a machine that others use shows in its bounds.
            result["conditions"][f"{what}, {allocator}"] = bounds(options.device)
    return result


def on_one_thread(run: Callable[[], Any]) -> Any:
    """What a measurement finds with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run()
    finally:
        torch.set_num_threads(threads)


def describe_machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "machine": _processor() if device == "cpu" else torch.cuda.get_device_name(device),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "weightaug": wa.__version__,
        "python": platform.python_version(),
    }


def bounds(device: str) -> dict[str, float]:
    """What the machine gives at this moment: copies, matrix products, sines; and how many processes want it."""
    wake_up(1.0)
    a = torch.randn(2048, 2048, device=device)
    big = torch.randn(16_000_000, device=device)
    out = torch.empty_like(big)
    return {
        "load": os.getloadavg()[0],
        "copy_gb_s": 2 * big.nbytes / microseconds(lambda: out.copy_(big), 0.3) / 1e3,
        "matmul_gflop_s": 2 * 2048**3 / microseconds(lambda: a @ a, 0.3) / 1e3,
        "sine_g_s": big.numel() / microseconds(lambda: torch.sin(big, out=out), 0.3) / 1e3,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _numba(options: Options) -> str:
    """The version of numba that was used."""
    try:
        return metadata.version("numba") if options.numba else "not used"
    except metadata.PackageNotFoundError:
        return "not installed"


def main(arguments: list[str] | None = None) -> None:
    """Measures with both allocators in fresh processes, and writes the tables."""
    with command():
        options = parsed(Options, arguments, __doc__)
        device("device", options.device)
        writable(options.output)
        if options.page is not None:
            results = read_json(options.output / "speed.json", "figures", "machine", remedy="measure first")
            return write_tables(options.page, targets.page_tables(results))
        _run(options, sys.argv[1:] if arguments is None else arguments)


def _run(options: Options, given: list[str]) -> None:
    if options.worker:
        if not options.numba:
            _loops.load = lambda name: None  # type: ignore[assignment]
        part = part_of(options, options.worker)
        write_json(options.output / f"part-{options.worker}.json", part)
        return
    path = options.output / "speed.json"
    results: dict[str, Any] = {}
    if path.exists():
        results = read_json(path, "figures", remedy="delete it, and everything is measured again")
    figures: list[dict[str, Any]] = []
    # On a GPU the allocator is torch's own.
    environments: dict[str, dict[str, str]] = {"default": {}} | ({"raised": RAISED} if options.device == "cpu" else {})
    if options.device == "cpu" and "singles" in options.sections:
        environments["single"] = {"OMP_NUM_THREADS": "1"}
    for allocator, environment in environments.items():
        worker = [sys.executable, __file__, *given, "--worker", allocator]
        if subprocess.run(worker, env=os.environ | environment, check=False).returncode:
            raise SystemExit(f"measuring with the {allocator} allocator failed")
        part_path = options.output / f"part-{allocator}.json"
        part = read_json(part_path)
        figures += part.pop("transforms", [])
        now = part.pop("conditions")
        again = {name.rpartition(", ")[0] for name in now if not name.startswith("transforms")}
        before = {k: v for k, v in results.get("conditions", {}).items() if k.rpartition(", ")[0] not in again}
        results["conditions"] = before | now
        results |= part
        part_path.unlink()
        rows = {(f["allocator"], f["batch"], f["work"]): f for f in results.get("figures", []) + figures}
        results["figures"] = list(rows.values())
        results["machine"] = describe_machine(options.device) | {"numba": _numba(options)}
        write_json(path, results)  # what is measured stays, whatever becomes of the next part
    if "growth" in results:
        growth.plot(results["growth"], options.plots or options.output / "speed_growth")
    text = targets.report(results)
    write_text(options.output / "speed.md", text)
    print(text)


if __name__ == "__main__":
    main()
