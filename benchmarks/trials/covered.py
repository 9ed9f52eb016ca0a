"""What the tests run of the package: ``python benchmarks/trials/covered.py``, some 15 minutes.

Which test runs which line is kept, for ``mutants.py``. Needs coverage: ``pip install coverage``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` is a package

from benchmarks.trials.reaching import DATA, ROOT, run_covered
from benchmarks.trials.records import OUTPUT, Record

FOLDER = ROOT / "benchmarks" / "runs" / "covered"


def main() -> None:
    """Parses the arguments, runs the tests unless that was done, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tests' lines are kept")
    parser.add_argument("--again", action="store_true", help="run the tests, even if they were run before")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    if args.again or not (args.folder / DATA).exists():
        run_covered(args.folder)
    made = args.folder / "report.json"
    words = [sys.executable, "-m", "coverage", "json", "-q", "--data-file", str(args.folder / DATA), "-o", str(made)]
    subprocess.run(words, cwd=ROOT, check=True)
    report = json.loads(made.read_text(encoding="utf-8"))
    totals = report["totals"]
    least = sorted(report["files"].items(), key=lambda item: item[1]["summary"]["percent_covered"])[:12]
    rows = [
        [name, f"{found['summary']['percent_covered']:.1f} %", found["summary"]["missing_lines"]]
        for name, found in least
    ]
    Record(
        "What the tests run of the package",
        "python benchmarks/trials/covered.py",
        {
            "lines and branches, %": round(totals["percent_covered"], 1),
            "lines, %": round(100 * totals["covered_lines"] / totals["num_statements"], 1),
            "branches, %": round(100 * totals["covered_branches"] / totals["num_branches"], 1),
            "lines": totals["num_statements"],
        },
        notes=[
            "Left out are compiled loops, since numba's code is not traced, and the suite that comes with the package, "
            "which is tests. What processes of their own run is not counted."
        ],
        tables={"least covered": (["file", "lines and branches", "lines not run"], rows)},
    ).write("coverage", args.output)


if __name__ == "__main__":
    main()
