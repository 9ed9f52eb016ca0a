"""A zoo of small CNNs and what is measured on it and on larger modules: one process and one thread.

``python benchmarks/zoo.py train`` makes the zoo in ``--folder``: 500 networks of each of two families, with and without
BatchNorm, with hyper-parameters that spread their test accuracies widely, and 100 well-trained wider ones of each of
two. The other parts measure, and write JSON to ``--out``:

``barriers``   loss and accuracy between two trained networks, before and after alignment
``accuracy``   predicting test accuracy from weights, by augmentation
``lora``       planted gauges of low-rank pairs, and the distance that is left
``planted``    planted permutations of ResNet-18 and of a vision transformer, and whether they come back
``derive``     what is derived of modules of full size, in what time, and their canonical forms
``speed``      Permute against clones, and matching against a plain loop over pairs

``page``       writes all that into the tables of ``--page``, and the figures beside it

What is long goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

from benchmarks.architectures.barriers import barriers
from benchmarks.architectures.derivation import derivations
from benchmarks.architectures.page import draw, table_of
from benchmarks.architectures.planted import lora_gauges, permutations
from benchmarks.architectures.ratios import ratios
from benchmarks.architectures.reading import EPOCHS, cells, summary
from benchmarks.architectures.store import SPREAD, WELL_TRAINED, load, parts
from benchmarks.frames import conditions
from benchmarks.running.commands import command
from benchmarks.running.executor import Executor, JobsFailed
from benchmarks.running.files import write_json
from benchmarks.running.pages import write_tables_of_files

HERE = Path(__file__).parent


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing of the zoo, and says what is there."""
    jobs = parts(args.folder, args.networks, args.well_trained)
    with Executor(1) as executor:
        executor.run(jobs, [job.count for job in jobs], name="zoo", unit="network")
    families = {}
    for name in (*SPREAD, *WELL_TRAINED):
        element, columns, seconds = load(args.folder, name)
        shares = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
        quantiles = columns["test_accuracy"].quantile(torch.tensor(shares)).tolist()
        families[name] = {
            "networks": len(element),
            "numbers": element.architecture.num_parameters,
            "test_accuracy_at_quantiles": {f"{q:g}": value for q, value in zip(shares, quantiles, strict=True)},
            "processor_seconds": seconds,
        }
    return {"families": families, "processor_seconds": sum(f["processor_seconds"] for f in families.values())}


def measure_barriers(args: argparse.Namespace) -> dict[str, Any]:
    """Interpolates pairs of the families."""
    return barriers(args.folder, args.families, args.pairs)


def predict_accuracy(args: argparse.Namespace) -> dict[str, Any]:
    """Trains the readers that are not trained yet."""
    jobs = cells(args.folder, args.folder.parent / "zoo-reading", SPREAD, args.seeds, args.epochs)
    with Executor(1) as executor:
        executor.run(jobs, [1] * len(jobs), name="readers", unit="training")
    return summary(jobs)


PARTS: dict[str, tuple[str, Callable[[argparse.Namespace], dict[str, Any]]]] = {
    "train": ("zoo", train),
    "barriers": ("barriers", measure_barriers),
    "accuracy": ("accuracy", predict_accuracy),
    "lora": ("lora", lambda args: lora_gauges(args.adapters)),
    "planted": ("planted", lambda args: permutations(args.seeds)),
    "derive": ("derivation", lambda args: derivations()),
    "speed": ("speed", lambda args: ratios(args.folder, args.aligned)),
}


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "page"], help="what to do")
    parser.add_argument("--folder", type=Path, default=HERE / "runs" / "zoo", help="of the networks")
    parser.add_argument("--networks", type=int, default=500, help="of each family with spread accuracies")
    parser.add_argument("--well-trained", type=int, default=100, help="networks of each wide family")
    every = (*SPREAD, *WELL_TRAINED)
    parser.add_argument("--families", nargs="+", choices=every, default=every, help="whose pairs are interpolated")
    parser.add_argument("--pairs", type=int, default=50, help="of each family, to interpolate")
    parser.add_argument("--seeds", type=int, default=5, help="of the readers and of what is planted")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the readers")
    parser.add_argument("--adapters", type=int, default=1000, help="low-rank pairs whose gauge is planted")
    parser.add_argument("--aligned", type=int, default=1000, help="pairs of CNNs whose alignment is timed")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "architectures")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "architectures.md")
    args = parser.parse_args()
    for option, least in (
        ("networks", 1),
        ("well_trained", 1),
        ("pairs", 2),
        ("seeds", 2),
        ("adapters", 4),
        ("aligned", 1),
    ):
        if getattr(args, option) < least:
            parser.error(f"--{option.replace('_', '-')}: expected at least {least}, got {getattr(args, option)}")
    torch.set_num_threads(1)
    with command(JobsFailed):
        if args.part == "page":
            write_tables_of_files(args.page, args.out, table_of)
            draw(args.out, args.page.parent / "figures")
            return
        name, work = PARTS[args.part]
        write_json(args.out / f"{name}.json", {"part": args.part, "conditions": conditions(), **work(args)})


if __name__ == "__main__":
    main()
