"""Random pipelines on random networks under the laws, for as long as you like: ``python benchmarks/trials/soak.py``.

Every case draws an architecture, a batch, and a pipeline of one to four transforms of the table over which the tests
run, in one of the containers; orders that a container refuses are counted, and drawn again. The laws are those of
``weightaug.testing.check_transform``; every twentieth case runs them in every mode and form of memory. A failure is
told with its number: ``--first NUMBER --cases 1`` repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` and `tests` are packages

from benchmarks.trials.records import OUTPUT, Record, resident_mib
from tests.cases import CASES, Case
from weightaug import Activation, Architecture, Compose, OneOf, RandomApply, RandomOrder, SomeOf, Transform
from weightaug.testing import check_transform, random_element

ACTIVATIONS = ("sine", "tanh", "relu", "gelu", "sigmoid", "leaky_relu", "silu", "softplus")
SHAPES = ((), (1,), (2,), (5,), (2, 3))


def architecture_of(draw: random.Random) -> Architecture:
    """One to five inputs, up to four hidden spaces of up to nine neurons, an activation each."""
    sizes = [draw.randint(1, 4), *(draw.randint(1, 9) for _ in range(draw.randint(0, 4))), draw.randint(1, 3)]
    hidden = [
        Activation("sine", draw.choice((1.0, 5.0, 30.0, 60.0))) if name == "sine" else Activation(name)
        for name in (draw.choice(ACTIVATIONS) for _ in sizes[2:])
    ]
    return Architecture.mlp(sizes, hidden, output_offset=draw.choice((0.0, 0.5)))


def pipeline_of(draw: random.Random, cases: list[Case]) -> Transform:
    """A pipeline of some of the transforms.

    Raises:
        ValueError: If a container refuses their order.
    """
    chosen = tuple(draw.choice(cases).transform for _ in range(draw.randint(1, 4)))
    kind = draw.randrange(6)
    if kind == 0:
        return OneOf(chosen)
    if kind == 1:
        return SomeOf(chosen, count=(0, len(chosen)))
    if kind == 2:
        return RandomOrder(chosen)
    if kind == 3:
        return RandomApply(Compose(chosen), p=0.5)
    return Compose(chosen)


def fitting(architecture: Architecture) -> list[Case]:
    """The cases whose transforms take such networks, by their own word."""
    found = []
    for case in CASES:
        if case.architecture is not None:
            continue
        try:
            case.transform.check(architecture)
        except ValueError:
            continue
        found.append(case)
    return found


def run_case(number: int, came: Counter[str]) -> None:
    """One case; counts what it was.

    Raises:
        AssertionError: If a law does not hold.
    """
    draw = random.Random(number)
    architecture = architecture_of(draw)
    cases = fitting(architecture)
    while True:
        try:
            transform = pipeline_of(draw, cases)
            transform.check(architecture)
            break
        except ValueError:
            came["orders refused"] += 1
    shape = draw.choice(SHAPES[1:] if transform.mixes else SHAPES)
    element = random_element(architecture, shape, seed=number)
    targets = [torch.rand(*shape, 3, generator=torch.Generator().manual_seed(number), dtype=torch.float64)]
    try:
        check_transform(transform, element, targets, seed=number, graph=False, modes=number % 20 == 0)
    except Exception as error:
        raise AssertionError(f"case {number}: {transform!r} on {element!r}: {error}") from error
    came["cases"] += 1
    came["cases in every mode"] += number % 20 == 0
    came["networks"] += element.batch_shape.numel()
    came[f"preserved: {transform.preserves.name.lower()}"] += 1


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="stop after so many")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise SystemExit("the trials need tqdm: pip install 'weightaug[bench]'") from error
    torch.set_num_threads(1)
    started, came, failures = time.monotonic(), Counter[str](), []
    memory: list[tuple[float, float]] = []
    end = started + 60 * args.minutes
    with tqdm(total=round(60 * args.minutes), unit="s", desc="soak") as bar:
        number = args.first
        while time.monotonic() < end and number - args.first < args.cases:
            try:
                run_case(number, came)
            except AssertionError as error:
                failures.append(str(error))
                bar.write(str(error))
            number += 1
            passed = time.monotonic() - started
            if number % 50 == 0:
                memory.append((passed, resident_mib()))
            bar.set_postfix_str(f"{came['cases']:,} cases, {len(failures)} failures", refresh=False)
            bar.update(min(round(passed), bar.total) - bar.n)
    later = [mib for passed, mib in memory if passed > (time.monotonic() - started) / 2]
    Record(
        "One hour of random pipelines on random architectures under the laws"
        if args.minutes == 60
        else f"{args.minutes:g} minutes of random pipelines on random architectures under the laws",
        f"python benchmarks/trials/soak.py --minutes {args.minutes:g}",
        {
            **dict(sorted(came.items())),
            "failures": len(failures),
            "memory at the half, MiB": round(later[0], 1) if later else "not looked at",
            "memory at the end, MiB": round(later[-1], 1) if later else "not looked at",
        },
        notes=failures[:20],
        seconds=time.monotonic() - started,
    ).write("soak", args.output)
    if failures:
        raise SystemExit(f"{len(failures)} of {came['cases'] + len(failures)} cases failed")


if __name__ == "__main__":
    main()
