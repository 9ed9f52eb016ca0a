"""How often alignment finds the very best: ``python benchmarks/optimality.py`` tries the whole group beside it.

Random pairs of networks with three to five hidden neurons. The optimum is the least distance over every element of the
group, each applied to the networks by ``weightaug.act``: no step of the matching is used. Sines have infinitely many
phases, of which every even one only moves a bias, so that the nearest is known. ReLU networks are aligned over their
permutations. One JSON file goes to --output; ``--page docs/alignment.md`` writes its tables into the page.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

from benchmarks.running.commands import at_least, command, parsed, writable
from benchmarks.running.files import read_json, write_json
from benchmarks.running.pages import in_markdown, write_tables
from weightaug import Activation, Architecture, GroupElement, WeightSpaceElement, act
from weightaug.matching import match

ACTIVATIONS = {
    "sine, omega 1": (Activation("sine", 1.0), ("permutation", "sign", "phase")),
    "sine, omega 30": (Activation("sine", 30.0), ("permutation", "sign", "phase")),
    "tanh": (Activation("tanh"), ("permutation", "sign")),
    "relu": (Activation("relu"), ("permutation",)),
    "gelu": (Activation("gelu"), ("permutation",)),
}
HIDDEN = ((3,), (2, 2), (2, 3), (3, 2))
ONE_START = ("identity", "reverse", "forward", "backward", "anneal", "canonical", "random")
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    **{name: {"starts": (name,)} for name in ONE_START},
    "all seven": {"starts": ONE_START},
    "three starts, 100 kicks": {"starts": ("identity", "forward", "anneal"), "kicks": 100},
}
CLOSE = 1e-9  # two sums of some twenty squares in double precision differ by less


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        pairs: Pairs for each of five activations and four shapes.
        output: Folder of the JSON file.
        page: Write the tables of the file in --output into this page, and measure nothing.
    """

    pairs: int = 500
    output: Path = Path("benchmarks/runs/optimality")
    page: Path | None = None

    def __post_init__(self) -> None:
        at_least("pairs", self.pairs, 1)


def main(arguments: list[str] | None = None) -> None:
    """Measures, or writes the page."""
    with command():
        args = parsed(Options, arguments, __doc__)
        writable(args.output)
        file = args.output / "optimality.json"
        if args.page is not None:
            return write_tables(args.page, tables(file))
        started = time.perf_counter()
        rows = list(tqdm(measured(args.pairs), total=len(ACTIVATIONS) * len(HIDDEN), unit="shape"))
        result = {
            "command": f"python benchmarks/optimality.py --pairs {args.pairs}",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - started, 1),
            "load_average": os.getloadavg(),
            "rows": rows,
        }
        write_json(file, result)
        print(*tables(file).values(), f"-> {file}", sep="\n")


def measured(pairs: int) -> Iterator[dict[str, Any]]:
    """One row for each activation and shape."""
    for (name, (activation, symmetries)), hidden in product(ACTIVATIONS.items(), HIDDEN):
        architecture = Architecture.mlp((2, *hidden, 1), activation)
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(2, pairs, architecture.num_parameters, generator=generator, dtype=torch.float64)
        a, b = (WeightSpaceElement.unflatten(architecture, v) for v in values)
        row: dict[str, Any] = {"activation": name, "hidden": list(hidden), "pairs": pairs}
        row["group"], best = optimum(a, b, symmetries)
        before = squared(a, b)
        for setting, options in SETTINGS.items():
            seeded = torch.Generator().manual_seed(0)
            reached = squared(a, act(b, match(a, b, symmetry=symmetries, generator=seeded, **options)))
            row[setting] = {
                "optimal": int((reached <= best * (1 + CLOSE)).sum()),
                "below the optimum": int((reached < best * (1 - CLOSE)).sum()),  # would be a fault of the search
                "worse than the identity": int((reached > before * (1 + CLOSE)).sum()),
                "mean excess": float((reached / best).mean() - 1),
            }
        yield row


def squared(a: WeightSpaceElement, b: WeightSpaceElement) -> Tensor:
    """Squared distances ``(B,)``."""
    return (a.flatten() - b.flatten()).square().sum(-1)


def optimum(a: WeightSpaceElement, b: WeightSpaceElement, symmetries: tuple[str, ...]) -> tuple[int, Tensor]:
    """How many elements were tried, and the least squared distance ``(B,)`` over all of the group."""
    count = 0
    best = torch.full(a.batch_shape, torch.inf, dtype=a.dtype)
    for group in elements_of(a.architecture, symmetries):
        count += 1
        best = torch.minimum(best, nearest(a, act(b, group.map(lambda t: t.expand(len(b), *t.shape))), symmetries))
    return count, best


def elements_of(architecture: Architecture, symmetries: tuple[str, ...]) -> Iterator[GroupElement]:
    """Every permutation with every sign and both parities of the phase, all of them unbatched."""
    signs = (1.0, -1.0) if "sign" in symmetries else (1.0,)
    parities = (0, 1) if "phase" in symmetries else (0,)
    slots = []
    for space in architecture.hidden:
        scales = [torch.tensor(s, dtype=torch.float64) for s in product(signs, repeat=space.size)]
        shifts = [torch.tensor(k) for k in product(parities, repeat=space.size)]
        slots.append(list(product(map(torch.tensor, permutations(range(space.size))), scales, shifts)))
    for choice in product(*slots):
        permutation, scale, shift = zip(*choice, strict=True)
        yield GroupElement(
            architecture,
            permutation,
            scale if "sign" in symmetries else (None,) * len(scale),
            shift if "phase" in symmetries else (None,) * len(shift),
        )


def nearest(a: WeightSpaceElement, b: WeightSpaceElement, symmetries: tuple[str, ...]) -> Tensor:
    """Squared distances after the best whole periods, which change hidden biases and nothing else."""
    total = torch.zeros(a.batch_shape, dtype=a.dtype)
    spaces = a.architecture.hidden
    for layer, (weight_a, weight_b, bias_a, bias_b) in enumerate(
        zip(a.weights, b.weights, a.biases, b.biases, strict=True)
    ):
        assert bias_a is not None
        assert bias_b is not None
        gap = bias_a - bias_b
        if "phase" in symmetries and layer < len(spaces):
            activation = spaces[layer].activation
            assert activation is not None
            assert activation.half_period is not None
            period = 2 * activation.half_period
            gap = gap - period * (gap / period).round()
        total = total + (weight_a - weight_b).square().sum((-1, -2)) + gap.square().sum(-1)
    return total


def tables(file: Path) -> dict[str, str]:
    """The share of optima by activation and setting where there are two hidden spaces, and what must be zero."""
    data = read_json(file, "rows", "command")
    one, two = ([row for row in data["rows"] if (len(row["hidden"]) > 1) is more] for more in (False, True))
    heads = ["alignment", *ACTIVATIONS, "mean excess", "worse than the identity"]
    body = []
    for setting in SETTINGS:
        shares = [_share([row for row in two if row["activation"] == name], setting) for name in ACTIVATIONS]
        excess = sum(row[setting]["mean excess"] * row["pairs"] for row in two) / _pairs(two)
        worse = sum(row[setting]["worse than the identity"] for row in data["rows"])
        body.append([setting, *shares, f"{100 * excess:.2f} %", f"{worse}"])
    below = sum(row[setting]["below the optimum"] for row in data["rows"] for setting in SETTINGS)
    largest = max(row["group"] for row in data["rows"])
    least = min((_share(one, setting) for setting in SETTINGS), key=lambda share: float(share.split()[0]))
    return {
        "optimality": in_markdown(heads, body)
        + f"\n{_pairs(two):,} pairs with two hidden spaces. Of {_pairs(one):,} with one, every row finds at least "
        f"{least}. Up to {largest:,} elements of the group were tried for each; alignments nearer than the best of "
        f"them: {below}.\n"
    }


def _share(rows: list[dict[str, Any]], setting: str) -> str:
    if not rows:
        return "-"
    return f"{100 * sum(row[setting]['optimal'] for row in rows) / _pairs(rows):.1f} %"


def _pairs(rows: list[dict[str, Any]]) -> int:
    return sum(row["pairs"] for row in rows)


if __name__ == "__main__":
    main()
