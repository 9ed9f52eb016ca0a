"""The memory part of speed.py: how much a transform takes beside its batch, and what opening a large data set costs.

Everything is read from Linux: the high-water mark of the process, reset before each call, counts NumPy and
threads as well as torch; private memory is what a process shares with nobody. Clean private pages are those of
mapped files that no other process maps: the system takes them back when it needs them. Dirty ones are its own.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` is a package

import torch

import weightaug as wa
from weightaug import io

Networks = wa.WeightSpaceElement


def peak(transform: wa.Transform, batch: Networks) -> float:
    """The most memory that a call takes beside its batch, its result included, in batches."""
    size = sum(t.nbytes for t in batch.tensors())
    if batch.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(batch.device)
        held = torch.cuda.memory_allocated(batch.device)
        transform(batch)
        return (torch.cuda.max_memory_allocated(batch.device) - held) / size
    transform(batch[:64])  # imports and threads
    ctypes.CDLL(None).malloc_trim(0)  # what calls before have freed must not serve this one unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _status("VmRSS")
    result = transform(batch)
    after = _status("VmHWM")
    del result
    return (after - before) / size


def _status(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status: expected a field {field!r}; the memory figures need Linux")


def private(kind: str = "") -> int:
    """Memory that this process shares with nobody, in bytes: all of it, or that of a kind, "Clean" or "Dirty"."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"Private_{kind}"))


def loading(architecture: wa.Architecture, count: int, shard: int) -> dict[str, Any]:
    """Writes a large data set to a temporary folder and opens it in a process of its own.

    Args:
        architecture: Of the networks.
        count: Networks; 700,000 of 2-32-32-1 take 3.3 GB of disk.
        shard: Networks per file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "networks"
        # In pieces, as a long job makes them; the values decide nothing here.
        piece = Networks.unflatten(architecture, torch.randn(min(shard * 10, count), architecture.num_parameters))
        labels = torch.zeros(len(piece), dtype=torch.int64)
        parts = []
        for start in range(0, count, len(piece)):
            number = min(len(piece), count - start)
            parts.append(path / f"{start:09d}")
            parts[-1].parent.mkdir(exist_ok=True)
            io.save(parts[-1], piece[:number], labels[:number], shard_size=shard)
        command = [sys.executable, __file__, *map(str, parts)]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"networks": count, "shards": -(-count // shard), **found}


def _open(paths: list[str]) -> dict[str, float]:
    """What the process of :func:`loading` measures: opening, and the first batches of 64 at random places."""
    generator = torch.Generator().manual_seed(0)
    io.WeightSpaceDataset(paths[0], verify=False)[0]  # what Python and torch load once
    start_memory, start_dirty, start = private(), private("Dirty"), time.perf_counter()
    dataset = io.WeightSpaceDataset(*paths, verify=False)
    opened, opened_memory = time.perf_counter() - start, private() - start_memory
    seconds = []
    memory = []
    for _ in range(20):
        index = torch.randint(len(dataset), (64,), generator=generator)
        start = time.perf_counter()
        batch = dataset.__getitems__(index)
        seconds.append(time.perf_counter() - start)
        memory.append(private() - start_memory)
        dirty = private("Dirty") - start_dirty
        del batch
    start = time.perf_counter()
    verified = io.WeightSpaceDataset(*paths, verify=True)
    verified.__getitems__(torch.arange(0, len(verified), max(len(verified) // 1000, 1)))  # touches every shard
    return {
        "open_ms": opened * 1e3,
        "private_mb_before_the_first_batch": opened_memory / 1e6,
        "first_batch_ms": seconds[0] * 1e3,
        "private_mb_after_the_first_batch": memory[0] / 1e6,
        "batch_20_ms": seconds[-1] * 1e3,
        "private_mb_after_20_batches": memory[-1] / 1e6,
        "of_that_dirty_mb": dirty / 1e6,
        "verify_all_s": time.perf_counter() - start,
    }


if __name__ == "__main__":
    print(json.dumps(_open(sys.argv[1:])))
