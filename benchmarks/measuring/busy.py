"""What other processes on the same cores do to transforms, by what is set for OpenMP.

torch shares small operations out among threads that wait for each other spinning. Where a core is taken by something
else, the others spin until it comes back.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["SETTINGS", "Busy", "measure"]

SETTINGS: dict[str, dict[str, str]] = {
    "nothing set": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
BATCHES = (64, 512)
_CODE = """
import sys, torch, weightaug as wa
from benchmarks.measuring import growth
from torch.utils.benchmark import Timer
for batch in map(int, sys.argv[1:]):
    element, transform = growth.networks(wa.Architecture.siren((2, 32, 32, 1)), batch), wa.SirenNegation()
    timer = Timer("f(x)", globals={"f": transform, "x": element}, num_threads=torch.get_num_threads())
    print(timer.blocked_autorange(min_run_time=1.0).mean * 1e6)
"""


class Busy(NamedTuple):
    """Microseconds of SirenNegation on a batch by the clock on the wall, means.

    Attributes:
        setting: What was set.
        batch: Networks.
        alone: With nothing else that this measurement started.
        beside: Beside as many busy processes as there are cores.
    """

    setting: str
    batch: int
    alone: float
    beside: float


def measure() -> list[Busy]:
    """Every setting in a fresh process, alone and beside others."""
    found = []
    for name, setting in SETTINGS.items():
        alone = _times(setting)
        with _busy_processes(os.cpu_count() or 1):
            beside = _times(setting)
        found += [Busy(name, *row) for row in zip(BATCHES, alone, beside, strict=True)]
    return found


def _times(setting: dict[str, str]) -> list[float]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    command = [sys.executable, "-c", _CODE, *map(str, BATCHES)]
    done = subprocess.run(command, env=clean | setting, check=True, capture_output=True, text=True)
    return [float(line) for line in done.stdout.split()]


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
