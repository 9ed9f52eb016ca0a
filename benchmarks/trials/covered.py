"""The record of what tests run of the package: ``python benchmarks/trials/covered.py REPORT.json``.

The report is coverage's (``pip install coverage``)::

    python -m coverage run --branch --source weightaug --omit "weightaug/_loops/*" -m pytest
    python -m coverage json -o REPORT.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` is a package

from benchmarks.trials.records import OUTPUT, Record

COMMAND = 'python -m coverage run --branch --source weightaug --omit "weightaug/_loops/*" -m pytest; '
COMMAND += "python -m coverage json -o REPORT.json; python benchmarks/trials/covered.py REPORT.json"


def main() -> None:
    """Parses the arguments and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    report = json.loads(args.report.read_text(encoding="utf-8"))
    totals = report["totals"]
    least = sorted(report["files"].items(), key=lambda item: item[1]["summary"]["percent_covered"])[:12]
    rows = [
        [name, f"{found['summary']['percent_covered']:.1f} %", found["summary"]["missing_lines"]]
        for name, found in least
    ]
    Record(
        "What the tests run of the package",
        COMMAND,
        {
            "lines and branches, %": round(totals["percent_covered"], 1),
            "lines, %": round(100 * totals["covered_lines"] / totals["num_statements"], 1),
            "branches, %": round(100 * totals["covered_branches"] / totals["num_branches"], 1),
            "lines": totals["num_statements"],
        },
        notes=[
            "Compiled loops are left out: numba's code is not traced. What processes of their own run is not counted."
        ],
        tables={"least covered": (["file", "lines and branches", "lines not run"], rows)},
    ).write("coverage", args.output)


if __name__ == "__main__":
    main()
