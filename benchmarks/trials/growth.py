"""A million networks in one data set, and a hundred thousand pairs to align: ``python benchmarks/trials/growth.py``.

Writes 2-32-32-1 networks (4.7 GB for a million) to a folder of its own, which is deleted at the end; opens it in a new
process, shuffles it, reads batches at random places, and appends to it. Then aligns pairs, and one pair of a width that
takes seconds. Memory is what the process has in use of its own, without pages of files that the system can take back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` is a package

import weightaug as wa
from benchmarks.measuring import growth
from benchmarks.trials.records import OUTPUT, Record, resident_mib
from weightaug import io
from weightaug.matching import match

ARCHITECTURE = wa.Architecture.siren((2, 32, 32, 1))
SHARD, BATCH = 10_000, 64


def networks(count: int, seed: int) -> wa.WeightSpaceElement:
    """Random networks, float32."""
    return growth.networks(ARCHITECTURE, count, seed)


def write(folder: Path, count: int) -> dict[str, float]:
    """A data set of so many networks, written in pieces."""
    from tqdm import tqdm

    started = time.monotonic()
    with tqdm(total=count, unit="network", desc="writing") as bar:
        for first in range(0, count, SHARD):
            size = min(SHARD, count - first)
            part, labels = networks(size, first), torch.arange(first, first + size)
            if first:
                io.append(folder, part, labels)
            else:
                io.save(folder, part, labels, overwrite=True)
            bar.update(size)
    return {"writing, networks/s": count / (time.monotonic() - started)}


def read(folder: Path) -> dict[str, float]:
    """Opening, shuffling, batches at random places, all of it once in shuffled order, and appending."""
    found: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        before, started = resident_mib(), time.monotonic()
        result = work()
        found[f"{name}, s"] = round(time.monotonic() - started, 3)
        found[f"{name}, MiB more"] = round(resident_mib() - before, 1)
        return result

    data = timed("opening", lambda: io.WeightSpaceDataset(folder, verify=False))
    order = timed("shuffling", lambda: torch.randperm(len(data), generator=torch.Generator().manual_seed(0)))

    def batches(count: int) -> None:
        for i in range(count):
            index = order[i * BATCH : (i + 1) * BATCH]
            element, labels = data[index]
            assert torch.equal(labels, index)
            assert element.flatten().isfinite().all()

    timed("first batch of 64", lambda: batches(1))
    timed("100 batches of 64", lambda: batches(100))
    more = networks(1000, len(data))
    timed("appending 1,000", lambda: io.append(folder, more, torch.arange(1000)))
    again = timed("opening again", lambda: io.WeightSpaceDataset(folder, verify=False))
    assert len(again) == len(data) + 1000
    return found


def align(pairs: int) -> dict[str, float]:
    """Aligning many pairs at once."""
    a, b = networks(pairs, 1), networks(pairs, 2)
    match(a[:512], b[:512])  # compiles what is compiled
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = a.flatten().nbytes / 2**20
    started = time.monotonic()
    group = match(a, b, progress=True)
    taken = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    own = sum(t.nbytes for part in (group.permutation, group.scale, group.shift) for t in part if t is not None)
    return {
        "pairs/s": round(pairs / taken),
        "memory's peak beside the networks, MiB": round(peak),
        "of that the result, MiB": round(own / 2**20),
        "networks, MiB": round(2 * size),
    }


def wide(width: int) -> dict[str, float]:
    """One pair of two wide hidden layers."""
    architecture = wa.Architecture.siren((2, width, width, 1))
    flat = torch.randn(2, architecture.num_parameters, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    pair = wa.WeightSpaceElement.unflatten(architecture, flat)
    started = time.monotonic()
    match(pair[0], pair[1], progress=True)
    return {"s": round(time.monotonic() - started, 1)}


def apart(work: Callable[..., dict[str, float]], *given: Any) -> dict[str, float]:
    """What the work finds in a new process, on one thread."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(work, *given).result()


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--folder", type=Path, default=None, help="where the data set is written for the time being")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    started = time.monotonic()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        figures |= apart(write, Path(name) / "set", args.networks)
        figures |= apart(read, Path(name) / "set")
    for size in (args.pairs // 10, args.pairs):
        figures |= {f"aligning {size:,} pairs: {key}": value for key, value in apart(align, size).items()}
    figures |= {
        f"aligning a pair 2-{args.width}-{args.width}-1, {key}": v for key, v in apart(wide, args.width).items()
    }
    Record(
        f"{args.networks:,} networks in one data set, and {args.pairs:,} pairs aligned",
        f"python benchmarks/trials/growth.py --networks {args.networks} --pairs {args.pairs} --width {args.width}",
        {name: round(value, 3) for name, value in figures.items()},
        notes=["Networks 2-32-32-1 of float32, full group, one thread; batches are read at random places."],
        seconds=time.monotonic() - started,
    ).write("growth", args.output)


if __name__ == "__main__":
    main()
