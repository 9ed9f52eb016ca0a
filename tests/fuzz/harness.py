"""Mutated bytes for everything that reads files: a right result or an error of ours, nothing executed, nothing outside.

Seeded. 2,000 inputs in all by default; ``WEIGHTAUG_FUZZ=100000 python -m pytest tests/fuzz`` tries as many, and with
``WEIGHTAUG_FUZZ_LOG=FILE`` writes down what came of them.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

READERS = 13  # tests, among which the inputs are shared out
COUNT = -(-int(os.environ.get("WEIGHTAUG_FUZZ", "2000")) // READERS)
LOG = os.environ.get("WEIGHTAUG_FUZZ_LOG")
REFUSED = (ValueError, TypeError, FileNotFoundError)
SECONDS = 5.0  # of processor time, for any one input
MEBIBYTES = 400  # that a run of one reader may add to the memory's peak
TOKENS = [b"", b"0", b"-1", b"1e999", b"null", b"[]", b"{}", b'"x"', b"\x00", b"\xff", b"../", b"9" * 30, b"true"]


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to three changes: a bit, a cut, a copy, or a token in place of a few bytes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(4)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at : at + draw.choice((1, 8, 100, len(data)))]
        elif kind == 2:
            data[at:at] = data[at : at + draw.choice((1, 8, 100))]
        else:
            data[at : at + draw.choice((0, 1, 4))] = draw.choice(TOKENS)
    return bytes(data)


def run(
    files: list[Path],
    read: Callable[[], object],
    seed: int,
    seal: Callable[[Path], None] | None = None,
    mebibytes: int = MEBIBYTES,
    share: int = 1,
) -> None:
    """Reads mutated files, one at a time.

    Args:
        files: What is mutated.
        read: Reads all of it.
        seed: Of the mutations.
        seal: Makes a mutated file look whole, so that the checks behind a checksum are met.
        mebibytes: How much the memory's peak may grow.
        share: One of how many of the inputs is tried: of readers that start processes.
    """
    contents = {file: file.read_bytes() for file in files}
    draw = random.Random(seed)
    peak, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    came: Counter[str] = Counter()
    count = -(-COUNT // share)
    for number in range(count):
        file = draw.choice(files)
        changed = mutate(contents[file], draw)
        file.write_bytes(changed)
        if seal is not None:
            seal(file)
        started = time.process_time()
        if LOG:  # what never comes back is no exception: this ends the process, with a traceback
            faulthandler.dump_traceback_later(3600, exit=True)
        try:
            read()
            came["read"] += 1
        except REFUSED as error:
            assert str(error), f"seed {seed}, input {number}: no message"  # noqa: PT017
            came["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, input {number} of {file.name}: {error!r}, {changed[:200]!r}") from error
        finally:
            if LOG:
                faulthandler.cancel_dump_traceback_later()
        taken = time.process_time() - started
        assert taken < SECONDS, f"seed {seed}, input {number} of {file.name}: {taken:.1f} s, {changed[:200]!r}"
        slowest = max(slowest, taken)
        file.write_bytes(contents[file])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024
    assert grown < mebibytes, f"seed {seed}: the memory's peak grew by {grown} MiB"
    if LOG:
        line = {"reader": os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0], "inputs": count, **came}
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(line | {"slowest_s": round(slowest, 3), "memory_mib": grown}) + "\n")
