"""``match_many`` against MergeMany of Git Re-Basin: ``python benchmarks/merging.py``, one process, one thread.

MergeMany (Ainsworth et al. 2022, algorithm 3) aligns each network of a set to the mean of the others, one pair at a
time, until a round changes nothing; here with plain weight matching over permutations (tests/git_rebasin.py), as in
the paper, and with ``weightaug.matching.match`` over the whole group. It visits the networks in a random order, which
decides on the local optimum, so it is also compared with itself in another order. Compared are the sums of squared
distances to the mean and the processor time, on sets of random networks and, with ``--fits`` (see
benchmarks/frames.py), of fitted ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` and `tests` are packages

from benchmarks.frames import conditions, load_fits
from benchmarks.running.files import read_json, write_json
from benchmarks.running.pages import in_markdown, write_tables
from tests.git_rebasin import weight_matching
from weightaug import Architecture, GroupElement, WeightSpaceElement, act, stack
from weightaug.matching import match, match_many

Align = Callable[[WeightSpaceElement, WeightSpaceElement, torch.Generator], GroupElement]


def by_permutations(a: WeightSpaceElement, b: WeightSpaceElement, generator: torch.Generator) -> GroupElement:
    """Git Re-Basin's weight matching of one pair."""
    permutations, _ = weight_matching(a.weights, a.biases, b.weights, b.biases, generator=generator)
    return GroupElement.of(a.architecture, permutation=tuple(permutations))


def by_the_whole_group(a: WeightSpaceElement, b: WeightSpaceElement, generator: torch.Generator) -> GroupElement:
    """This package's matching of one pair."""
    return match(a, b)


def merge_many(x: WeightSpaceElement, align: Align, generator: torch.Generator) -> WeightSpaceElement:
    """MergeMany, plainly: the networks of a set in their final places."""
    placed = [x[i] for i in range(len(x))]
    changed = True
    while changed:
        changed = False
        for i in torch.randperm(len(x), generator=generator).tolist():
            others = stack(placed[:i] + placed[i + 1 :]).map(lambda t: t.mean(0))
            moved = act(placed[i], align(others, placed[i], generator))
            if _apart(others, moved) < _apart(others, placed[i]) * (1 - 1e-9):
                placed[i], changed = moved, True
    return stack(placed)


def _apart(a: WeightSpaceElement, b: WeightSpaceElement) -> float:
    return float((a.flatten() - b.flatten()).square().sum())


def spread(x: WeightSpaceElement) -> Tensor:
    """The sum of squared distances to the mean, of each set."""
    return (x.flatten() - x.flatten().mean(-2, keepdim=True)).square().sum((-1, -2))


def compare(x: WeightSpaceElement, symmetry: str, align: Align) -> dict[str, Any]:
    """Both algorithms on sets ``(sets, k)``."""
    start = time.process_time()
    theirs = torch.stack([spread(merge_many(x[i], align, torch.Generator().manual_seed(i))) for i in range(len(x))])
    between = time.process_time()
    ours = spread(act(x, match_many(x, symmetry=symmetry)[0]))
    end = time.process_time()
    again = torch.stack(
        [spread(merge_many(x[i], align, torch.Generator().manual_seed(10_000 + i))) for i in range(len(x))]
    )
    ratio, luck = ours / theirs, again / theirs
    return {
        "sets": len(x),
        "networks_per_set": x.batch_shape[1],
        "mean_ratio": float(ratio.mean()),
        "largest_ratio": float(ratio.max()),
        "sets_worse": int((ratio > 1 + 1e-9).sum()),
        "merge_many_again": {"largest_ratio": float(luck.max()), "sets_worse": int((luck > 1 + 1e-9).sum())},
        "processor_seconds": {"merge_many": between - start, "match_many": end - between},
    }


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=Path, default=None, help="folder of fitted networks")
    parser.add_argument("--sets", type=int, default=60)
    parser.add_argument("--size", type=int, default=5, help="networks per set, at least 2")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "merging")
    parser.add_argument("--page", type=Path, default=None, help="write the table of the results into this page instead")
    args = parser.parse_args()
    if args.page is not None:
        return write_tables(args.page, {"merging": table_of(read_json(args.out / "merging.json", "results"))})
    if args.sets < 1 or args.size < 2:
        parser.error(f"expected --sets of at least 1 and --size of at least 2, got {args.sets} and {args.size}")
    torch.set_num_threads(1)
    count = args.sets * args.size
    architecture = Architecture.siren((2, 32, 32, 1))
    generator = torch.Generator().manual_seed(0)
    vectors = 0.1 * torch.randn(count, architecture.num_parameters, generator=generator, dtype=torch.float64)
    kinds = {"random": WeightSpaceElement.unflatten(architecture, vectors)}
    if args.fits is not None:
        fitted = load_fits(args.fits)[0]
        if len(fitted) < count:
            parser.error(f"--fits: expected {count} networks, got {len(fitted)}; choose fewer --sets")
        kinds["fitted"] = fitted[torch.randperm(len(fitted), generator=generator)[:count]].to(torch.float64)
    results: dict[str, Any] = {}
    match(kinds["random"][:2], kinds["random"][2:4])  # compiles what is compiled
    for kind, networks in kinds.items():
        sets = networks.map(lambda t: t.unflatten(0, (args.sets, args.size)))
        for symmetry, align in (("permutation", by_permutations), ("auto", by_the_whole_group)):
            results[f"{kind}, {symmetry}"] = compare(sets, symmetry, align)
            print(f"{kind}, {symmetry}: {results[f'{kind}, {symmetry}']}", flush=True)
    return write_json(args.out / "merging.json", {"conditions": conditions(), "results": results})


def table_of(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    lines = []
    for name, result in results["results"].items():
        seconds, again = result["processor_seconds"], result["merge_many_again"]
        lines.append(
            [
                name,
                f"{result['mean_ratio']:.3f}",
                f"{result['largest_ratio']:.3f}",
                f"{result['sets_worse']} of {result['sets']}",
                f"{seconds['match_many'] / seconds['merge_many']:.2f}",
                f"{again['sets_worse']} worse, largest {again['largest_ratio']:.3f}",
            ]
        )
    heads = ["sets of networks, symmetry", "objective, mean ratio", "largest", "sets worse", "time, ratio"]
    return in_markdown([*heads, "MergeMany again"], lines)


if __name__ == "__main__":
    main()
