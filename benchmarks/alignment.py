"""Alignment: ``python benchmarks/alignment.py`` runs all parts; ``--parts speed`` one of them.

planted: copies made by random symmetries are found again. fitted: pairs of networks fitted to images, by distance and
by what their midpoint shows. objective and speed: against Git Re-Basin's weight matching, one pair at a time
(tests/git_rebasin.py). small: how often the very optimum is found, by trying all. relu: whether positive scales help
trained networks. Every part writes a JSON file into --output; ``--page docs/alignment.md`` writes their tables into the
page instead.

Networks are fitted to Fashion-MNIST with --data-dir, else to scikit-learn's digits, and kept in --output; --fits names
folders of networks that benchmarks/table1.py has fitted, with two views at least.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args
from unittest import mock

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` and `tests` are packages

from benchmarks.measuring import alignment_tables
from benchmarks.measuring.fitted_pairs import Fits, load_fits
from benchmarks.measuring.frank_wolfe import frank_wolfe
from benchmarks.measuring.relu_pairs import relu
from benchmarks.measuring.small_pairs import small
from benchmarks.running.commands import at_least, command, distinct, parsed, writable
from benchmarks.running.files import write_json
from benchmarks.running.pages import write_tables
from tests.git_rebasin import weight_matching
from weightaug import Activation, Architecture, GroupElement, WeightSpaceElement, _loops, act, cat
from weightaug.matching import match

Part = Literal["planted", "fitted", "objective", "speed", "small", "relu"]
PEER = "permutation, Frank-Wolfe"
METHODS: dict[str, dict[str, Any]] = {
    "permutation (Git Re-Basin)": {"symmetry": "permutation", "starts": ("identity",)},
    PEER: {},
    "permutation": {"symmetry": "permutation"},
    "permutation, four starts": {"symmetry": "permutation", "starts": ("identity", "reverse", "forward", "backward")},
    "permutation x sign": {"symmetry": "sign", "starts": ("identity",)},
    "full group": {},
    "full group, two starts": {"starts": ("identity", "forward")},
    "full group, annealed": {"starts": ("identity", "forward", "anneal")},
    "full group, 100 kicks": {"starts": ("identity", "forward", "anneal"), "kicks": 100},
    "permutation, by function": {"symmetry": "permutation", "method": "function"},
    "full group, by function": {"method": "function"},
}


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        parts: Parts to run; all by default.
        data_dir: Folder of Fashion-MNIST's idx.gz files; digits without it.
        fits: Folders of fitted networks, one for each convention (``inrs/NAME-CONVENTION-HASH`` of table1.py); what is
            missing is fitted here.
        images: Images of the fitted pairs, two networks each.
        networks: Networks per kind in "planted" and pairs in "objective".
        batch: Pairs at once in "speed".
        output: Folder of the JSON files, and of networks that are fitted here.
        page: Write the tables of the files in --output into this page, and measure nothing.
    """

    parts: tuple[Part, ...] = get_args(Part)
    data_dir: Path | None = None
    fits: tuple[Path, ...] = ()
    images: int = 64
    networks: int = 1000
    batch: int = 512
    output: Path = Path("benchmarks/runs/alignment")
    page: Path | None = None

    def __post_init__(self) -> None:
        distinct("parts", self.parts)
        at_least("images", self.images, 2)  # a pair of other images needs two
        at_least("networks", self.networks, 1)
        at_least("batch", self.batch, 1)


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts, or writes the page."""
    with command():
        args = parsed(Options, arguments, __doc__)
        writable(args.output)
        if args.page is not None:
            return write_tables(args.page, alignment_tables.tables(args.output))
        _run(args)


def _run(args: Options) -> None:
    parts: dict[Part, Callable[[Options], Any]] = {
        "planted": planted,
        "fitted": fitted,
        "objective": objective,
        "speed": speed,
        "small": lambda args: shown("Pairs at the very optimum, 2-3-3-1", small(min(args.networks, 200))),
        "relu": lambda args: shown("Trained ReLU networks, 2-32-32-1", relu(args.data_dir, min(args.images, 32))),
    }
    for name in args.parts:
        started, worked = time.perf_counter(), time.process_time()
        result = {
            "part": name,
            "settings": {"images": args.images, "networks": args.networks, "batch": args.batch}
            | {"data": args.data_dir and args.data_dir.name, "fits": [path.name for path in args.fits]},
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "load_average": os.getloadavg(),
            "result": parts[name](args),
            "seconds": time.perf_counter() - started,
            "processor_seconds": time.process_time() - worked,
        }
        write_json(args.output / f"{name}.json", result)
        print(f"-> {args.output / name}.json ({result['seconds']:.0f} s, load {os.getloadavg()[0]:.1f})\n")


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints rows of numbers below each other."""
    heads = list(rows[0])
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(h), *(len(c[i]) for c in cells)) for i, h in enumerate(heads)]
    print(f"\n{title}")
    for line in [heads, *cells]:
        print("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)))


def shown(title: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prints a table and passes it on."""
    table(title, rows)
    return rows


def squared(a: WeightSpaceElement, b: WeightSpaceElement) -> Tensor:
    """Squared distances of the parameters, ``(B,)``, in float64."""
    return (a.flatten().double() - b.flatten().double()).square().sum(-1)


# -- 1. planted symmetries -------------------------------------------------------------------------------


def random_symmetry(arch: Architecture, batch: int, parts: tuple[str, ...], generator: torch.Generator) -> GroupElement:
    """Random permutations, and of the other symmetries those in ``parts`` that a space has."""
    permutation, scale, shift = [], [], []
    for space in arch.hidden:
        shape = (batch, space.size)
        has = space.activation.symmetries if space.activation else ()
        permutation.append(torch.rand(shape, generator=generator).argsort(-1))
        factor = None
        if "sign" in parts and "sign" in has:
            factor = (1 - 2 * torch.randint(2, shape, generator=generator)).to(torch.float64)
        if "scale" in parts and "scale" in has:
            factor = torch.exp(torch.log(torch.tensor(5.0)) * (2 * torch.rand(shape, generator=generator) - 1)).double()
        scale.append(factor)
        phases = "phase" in parts and "phase" in has
        shift.append(torch.randint(-4, 5, shape, generator=generator) if phases else None)
    return GroupElement.of(arch, permutation=tuple(permutation), scale=tuple(scale), shift=tuple(shift))


def planted(args: Options) -> list[dict[str, Any]]:
    """How many neurons of a planted copy are found, and how far the aligned copy stays away."""
    kinds = {
        "2-32-32-1 sine": Architecture.siren((2, 32, 32, 1)),
        "3-32-32-32-32-1 sine": Architecture.siren((3, 32, 32, 32, 32, 1)),
        "2-64-64-3 ReLU": Architecture.mlp((2, 64, 64, 3), "relu"),
        "2-32-32-1 tanh": Architecture.mlp((2, 32, 32, 1), Activation("tanh")),
    }
    plans = [
        (kind, arch, parts)
        for kind, arch in kinds.items()
        for parts in [(), ("sign",), ("phase",), ("scale",), ("sign", "phase", "scale")]
        if set(parts) <= set(arch.hidden[0].activation.symmetries) or len(parts) == 3  # type: ignore[union-attr]
    ]
    rows = []
    generator = torch.Generator().manual_seed(0)
    for kind, arch, parts in tqdm(plans, desc="planted", unit="kind", dynamic_ncols=True):
        bounds = [
            (6 / shape[1]) ** 0.5 / (30 if "sine" in kind and i else 1)
            for i, shape in enumerate(arch.weight_shape(l) for l in range(len(arch.layers)))
        ]
        a = WeightSpaceElement.unflatten(
            arch, 2 * torch.rand(args.networks, arch.num_parameters, generator=generator, dtype=torch.float64) - 1
        )
        a = WeightSpaceElement(
            arch,
            tuple(w * s for w, s in zip(a.weights, bounds, strict=True)),
            tuple(None if v is None else v * s for v, s in zip(a.biases, bounds, strict=True)),
        )
        plan = random_symmetry(arch, args.networks, parts, generator)
        b = act(a, plan)
        row: dict[str, Any] = {"network": kind, "planted": " x ".join(("permutation", *parts))}
        if len(parts) == 3:
            row["planted"] = "all together"
        for name, options in (("plain", {"symmetry": "permutation"}), ("full", {})):
            found = match(a, b, **cast(Any, options))
            hits = [
                (p == torch.arange(p.shape[1])).double().mean() for p in (found @ plan).permutation if p is not None
            ]
            away = (squared(a, act(b, found)) / squared(a, a.map(torch.zeros_like))).sqrt()
            row |= {
                f"{name}: found": float(torch.stack(hits).mean()),
                f"{name}: worst relative distance": float(away.max()),
            }
        rows.append(row)
    table(f"Planted copies of {args.networks} random networks per kind", rows)
    return rows


# -- 2. fitted pairs ---------------------------------------------------------------------------------------


def pairs_of(fits: Fits) -> tuple[WeightSpaceElement, WeightSpaceElement, Tensor, Tensor]:
    """Two views of each image, then view 0 with view 1 of the next image; and what the two sides show."""
    x, y = fits.views
    images = fits.images
    other = images.roll(1, 0)
    return (
        cat([x, x]),
        cat([y, y.map(lambda t: t.roll(1, 0))]),
        torch.cat([images, images]),
        torch.cat([images, other]),
    )


def fitted(args: Options) -> dict[str, Any]:
    """Distance and midpoint PSNR of fitted pairs under each alignment."""
    results = {}
    for convention in ("siren", "authors"):
        fits = load_fits(convention, args.data_dir, args.images, args.output / "inrs", args.fits)
        a, b, image_a, image_b = pairs_of(fits)
        half = len(a) // 2
        generator = torch.Generator().manual_seed(0)
        shuffled = act(b, random_symmetry(b.architecture, len(b), (), generator))
        aligned, took = {"none": b, "random permutation": shuffled}, {}
        match(a[:1], b[:1], symmetry="permutation")  # compiles what is compiled
        match(a[:1], b[:1])
        for name, options in tqdm(METHODS.items(), desc=f"aligning {convention}", unit="method", dynamic_ncols=True):
            if "method" in options:
                options = {**options, "points": fits.coordinates}
            started = time.process_time()
            if name == PEER:
                group = frank_wolfe(a, b)
            else:
                group = match(a, b, generator=torch.Generator().manual_seed(0), **options)
            took[name] = (time.process_time() - started) / len(a)
            aligned[name] = act(b, group)
        plain = squared(a, aligned["permutation (Git Re-Basin)"])
        rows, details = [], {}
        for name, moved in aligned.items():
            d = squared(a, moved)
            middle = WeightSpaceElement.unflatten(a.architecture, (a.flatten() + moved.flatten()) / 2)
            error = (middle(fits.coordinates).squeeze(-1) - (image_a + image_b) / 2).square().mean(-1)
            psnr = 10 * torch.log10(fits.peak**2 / error)
            ratio = d / plain
            rows.append(
                {
                    "alignment": name,
                    "squared distance": float(d.mean()),
                    "against plain": float(d.mean() / plain.mean() - 1),
                    "same image": float(d[:half].mean() / plain[:half].mean() - 1),
                    "other image": float(d[half:].mean() / plain[half:].mean() - 1),
                    "pairs worse": int((ratio > 1 + 1e-6).sum()),
                    "ms per pair": 1e3 * took.get(name, 0.0),
                    "midpoint dB, same": float(psnr[:half].mean()),
                    "midpoint dB, other": float(psnr[half:].mean()),
                }
            )
            details[name] = {"squared distance": d.tolist(), "midpoint psnr": psnr.tolist()}
        peer = torch.tensor(details[PEER]["squared distance"])
        against = {}
        for name in ("permutation", "permutation, four starts"):
            gap = torch.tensor(details[name]["squared distance"]) / peer - 1
            against[name] = [int((gap < -1e-9).sum()), int((gap.abs() <= 1e-9).sum()), int((gap > 1e-9).sum())]
        table(f"{len(a)} fitted pairs, {convention} (median fit {float(fits.psnr.median()):.1f} dB)", rows)
        results[convention] = {
            "pairs": len(a),
            "fit psnr": {"median": float(fits.psnr.median()), "lowest": float(fits.psnr.min())},
            "nearer, equal, farther than Frank-Wolfe": against,
            "rows": rows,
            "per pair": details,
        }
    draw_fitted(results, args.output / "alignment_fitted.png")
    return results


def draw_fitted(results: dict[str, Any], path: Path) -> None:
    """One panel per convention: the squared distance of every pair against plain weight matching."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(10, 4), layout="constrained")
    for axis, (convention, result) in zip(axes, results.items(), strict=True):
        plain = result["per pair"]["permutation (Git Re-Basin)"]["squared distance"]
        for name in ("permutation x sign", "full group", "full group, by function"):
            axis.scatter(plain, result["per pair"][name]["squared distance"], s=7, alpha=0.6, label=name)
        low, high = 0, max(plain) * 1.03
        axis.plot([low, high], [low, high], color="grey", lw=1, label="no gain")
        axis.set(xlim=(low, high), ylim=(low, high), title=f"{convention}: {result['pairs']} fitted pairs")
        axis.set(xlabel="squared distance, permutation", ylabel="squared distance")
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


# -- 3. objective ------------------------------------------------------------------------------------------


def references(
    a: WeightSpaceElement, b: WeightSpaceElement, title: str, order: list[int] | None = None
) -> tuple[Tensor, float, int]:
    """Git Re-Basin's matching of every pair by itself: squared distances, processor seconds, and assignments."""
    generator = torch.Generator().manual_seed(0)
    found, solved = [], 0
    networks = [(a[i].weights, a[i].biases, b[i].weights, b[i].biases) for i in range(len(a))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the reference is faster so: its products are tiny
    started = time.process_time()
    for parts in tqdm(networks, desc=title, unit="pair", dynamic_ncols=True):
        perms, count = weight_matching(*parts, order=order, generator=generator)
        found.append(perms)
        solved += count
    seconds = time.process_time() - started
    torch.set_num_threads(threads)
    group = GroupElement.of(a.architecture, permutation=tuple(torch.stack(p) for p in zip(*found, strict=True)))
    return squared(a, act(b, group)), seconds, solved


def objective(args: Options) -> list[dict[str, Any]]:
    """The squared distance after matching, pair by pair, against Git Re-Basin from the identity."""
    arch = Architecture.siren((2, 32, 32, 1))
    generator = torch.Generator().manual_seed(1)
    values = 0.05 * torch.randn(2, args.networks, arch.num_parameters, generator=generator, dtype=torch.float64)
    a, b = (WeightSpaceElement.unflatten(arch, v) for v in values)
    forward = references(a, b, "reference, first space first", [0, 1])[0]
    random = references(a, b, "reference, random order")[0]
    rows = []
    for name, theirs, options in (
        ("same order", forward, {"symmetry": "permutation", "starts": ("identity",)}),
        ("both orders", random, {"symmetry": "permutation", "starts": ("identity", "reverse")}),
        ("full group", random, {}),
    ):
        ours = squared(a, act(b, match(a, b, **cast(Any, options))))
        rows.append(
            {
                "weightaug": name,
                "reference order": "first space first" if theirs is forward else "random",
                "pairs": len(a),
                "ours": float(ours.mean()),
                "reference": float(theirs.mean()),
                "equal": int(((ours - theirs).abs() <= 1e-9 * theirs).sum()),
                "better": int((ours < theirs * (1 - 1e-9)).sum()),
                "worse": int((ours > theirs * (1 + 1e-9)).sum()),
            }
        )
    table("Squared distance against Git Re-Basin from the identity, random networks", rows)
    return rows


# -- 4. speed ----------------------------------------------------------------------------------------------


def speed(args: Options) -> dict[str, Any]:
    """Pairs per processor second on fitted networks, and the ratio to the reference, all in one run."""
    results = {}
    for convention in ("siren", "authors"):
        fits = load_fits(convention, args.data_dir, args.images, args.output / "inrs", args.fits)
        x, y = fits.views
        # Pairs of different images as well, so that there are enough: view 0 with view 1 of the k-th next image.
        turns = range(-(-args.batch // len(x)))
        a = cat([x for _ in turns])[: args.batch]
        b = cat([y[torch.arange(len(y)).roll(k)] for k in turns])[: args.batch]
        _, base, solved = references(a, b, f"reference, {convention}")
        rows = [
            {"method": "reference", "pairs/s": len(a) / base, "ratio": 1.0, "assignments per pair": solved / len(a)}
        ]
        for name, options in (
            ("permutation, from the identity", {"symmetry": "permutation", "starts": ("identity",)}),
            ("permutation", {"symmetry": "permutation"}),
            ("permutation x sign", {"symmetry": "sign", "starts": ("identity",)}),
            ("full group", {}),
            ("full group, two starts", {"starts": ("identity", "forward")}),
        ):
            for loops in ("numba", "scipy"):
                if loops == "numba" and _loops.load("matching") is None:
                    continue
                with nullcontext() if loops == "numba" else mock.patch.object(_loops, "load", return_value=None):
                    took = []
                    for _ in range(7):
                        started = time.process_time()
                        match(a, b, **cast(Any, options))
                        took.append(time.process_time() - started)
                fastest = min(took)
                rows.append({"method": f"{name}, {loops}", "pairs/s": len(a) / fastest, "ratio": base / fastest})
        for row in rows:
            row.setdefault("assignments per pair", "")
        table(f"Speed on {len(a)} fitted pairs at once, {convention}, load {os.getloadavg()[0]:.1f}", rows)
        results[convention] = rows
    return results


if __name__ == "__main__":
    main()
