"""The record of a fuzz run, from its log: ``python benchmarks/trials/fuzzed.py LOG``.

The run itself is ``WEIGHTAUG_FUZZ=112000 WEIGHTAUG_FUZZ_LOG=LOG python -m pytest tests/fuzz``, which fails at an input
that hangs, crashes, takes too much memory or ends in an error that is not ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` is a package

from benchmarks.trials.records import OUTPUT, Record
from tests.fuzz.harness import MEBIBYTES, READERS, SECONDS


def main() -> None:
    """Parses the arguments and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.log.read_text(encoding="utf-8").splitlines()]
    heads = ["reader", "inputs", "refused", "read", "slowest, s", "memory's peak grew by, MiB"]
    keys = ("inputs", "refused", "read", "slowest_s", "memory_mib")
    rows = [
        [line["reader"].removeprefix("test_").replace("_", " "), *(line.get(key, 0) for key in keys)] for line in lines
    ]
    inputs = sum(row[1] for row in rows)
    Record(
        f"{inputs:,} damaged files and configurations",
        f"WEIGHTAUG_FUZZ={READERS * max(row[1] for row in rows)} WEIGHTAUG_FUZZ_LOG=LOG python -m pytest tests/fuzz; "
        "python benchmarks/trials/fuzzed.py LOG",
        {
            "inputs": inputs,
            "refused with an error of ours": sum(row[2] for row in rows),
            "read, or told as a file that is left out": sum(row[3] for row in rows),
            "hangs, crashes, other errors": 0,
            "slowest input, s": max(row[4] for row in rows),
        },
        notes=[
            f"A run fails at an input that takes more than {SECONDS:g} s of processor time, at a reader whose memory's "
            f"peak grows by more than {MEBIBYTES} MiB (HDF5: see the test), at anything executed, and at any error "
            "that is not a clear refusal."
        ],
        tables={"by reader": (heads, rows)},
    ).write("fuzz", args.output)


if __name__ == "__main__":
    main()
