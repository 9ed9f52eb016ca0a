"""Mutation testing: ``python benchmarks/trials/mutants.py`` changes the library in small ways, and runs its fast tests.

A sample of all changes of transforms, group, element, functional, matching and io is drawn by a seed. Each is made in a
copy of the package; the tests of its file run until one fails, in a fork of a process in which torch is imported.
A change that no test notices survives; what is known of survivors stands in ``mutants_judged.json`` beside this file.
Changes that are done are kept: a call that was interrupted goes on. Compiled loops are left out.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` is a package

from benchmarks.trials.mutations import count_of, mutated
from benchmarks.trials.records import OUTPUT, Record

ROOT = Path(__file__).resolve().parents[2]
JUDGED = Path(__file__).with_name("mutants_judged.json")
LOG = ROOT / "benchmarks" / "runs" / "mutants.jsonl"
IMPORTED = ("torch", "numpy", "scipy.optimize", "scipy.stats", "pytest", "safetensors.torch", "numba")
SECONDS = 240.0  # after which a change counts as noticed: it made something endless

# The tests of a file, the quickest and likeliest first; everything else of the package is tested through these, too.
GENERAL = ["tests/test_golden.py", "tests/test_draws.py"]
TESTS: dict[str, list[str]] = {
    "transforms/symmetry.py": ["tests/test_symmetry.py"],
    "transforms/geometry.py": ["tests/test_geometry.py"],
    "transforms/linear.py": ["tests/test_geometry.py", "tests/test_input_symmetries.py"],
    "transforms/grid.py": ["tests/test_input_symmetries.py"],
    "transforms/noise.py": ["tests/test_noise.py"],
    "transforms/mixing.py": ["tests/test_mixing.py"],
    "transforms/labels.py": ["tests/test_mixing.py"],
    "transforms/refit.py": ["tests/test_refit.py"],
    "transforms/standardize.py": ["tests/test_standardize.py"],
    "transforms/alignment.py": ["tests/test_frames.py"],
    "transforms/compose.py": ["tests/test_element.py"],
    "transforms/views.py": ["tests/test_views.py", "tests/test_indexing.py"],
    "transforms": ["tests/test_arguments.py", "tests/test_laws.py::test_laws"],
    "group.py": ["tests/test_symmetry.py", "tests/test_indexing.py", "tests/test_tracing.py", "tests/test_lora.py"],
    "element.py": [
        "tests/test_element.py", "tests/test_indexing.py", "tests/test_adapters.py", "tests/test_evaluation.py",
    ],
    "functional.py": [
        "tests/test_conventions.py", "tests/test_widths.py", "tests/test_symmetry.py", "tests/test_geometry.py",
    ],
    "matching/lora.py": ["tests/test_lora.py"],
    "matching/table.py": ["tests/test_tracing.py", "tests/test_lora.py"],
    "matching/views.py": ["tests/test_matching_compiled.py"],
    "matching/many.py": ["tests/test_matching_many.py"],
    "matching/frames.py": ["tests/test_frames.py"],
    "matching/canonical.py": ["tests/test_matching_canonical.py"],
    "matching/refinement.py": ["tests/test_matching_canonical.py"],
    "matching/assignment.py": ["tests/test_assignment.py"],
    "matching/function.py": ["tests/test_matching_methods.py"],
    "matching/activation.py": ["tests/test_matching_methods.py"],
    "matching/orbits.py": ["tests/test_matching_canonical.py"],
    "matching": [
        "tests/test_matching.py", "tests/test_matching_sizes.py", "tests/test_matching_methods.py",
        "tests/test_matching_compiled.py", "tests/test_matching_progress.py", "tests/test_matching_canonical.py",
    ],
    "io/conversion.py": ["tests/test_io_conversion.py", "tests/test_spreading.py"],
    "io": ["tests/test_io.py", "tests/test_io_writers.py", "tests/test_io_conversion.py", "tests/test_layouts.py"],
}  # fmt: skip


def files() -> list[str]:
    """What is changed, beside the package."""
    package = ROOT / "weightaug"
    found = [path for folder in ("transforms", "matching", "io") for path in sorted((package / folder).glob("*.py"))]
    found += [package / name for name in ("group.py", "element.py", "functional.py")]
    return [str(path.relative_to(package)) for path in found if path.name != "__init__.py"]


def tests_of(file: str) -> list[str]:
    """The tests that are run for a file, in order."""
    wanted = [*TESTS.get(file, []), *GENERAL, *TESTS.get(file.split("/")[0], [])]
    return list(dict.fromkeys(name for name in wanted if (ROOT / name.split("::")[0]).exists()))


def sample(count: int, seed: int) -> list[tuple[str, int]]:
    """A sample of all changes, the same for a seed; more of them begin with those of fewer."""
    everything = [(name, i) for name in files() for i in range(count_of(source_of(name)))]
    return random.Random(seed).sample(everything, min(count, len(everything)))


def source_of(file: str) -> str:
    """A file of the package."""
    return (ROOT / "weightaug" / file).read_text(encoding="utf-8")


def in_fork(work: Callable[[], int], seconds: float) -> int | None:
    """The exit code of some work in a fork, whose words nobody wants; None if it took longer than so many seconds."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            code = work()
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run_tests(copy: Path, names: list[str]) -> int:
    """Runs tests on a copy of the package until one fails; pytest's exit code, 0 if all pass."""
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.split(".")[0] in ("weightaug", "benchmarks", "tests")]:
        del sys.modules[name]
    sys.path.insert(0, str(copy))
    os.chdir(ROOT)
    import pytest

    import weightaug

    assert Path(weightaug.__file__).is_relative_to(copy), weightaug.__file__
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::ResourceWarning", *names]))


def run(count: int, seed: int, log: Path, told: Callable[[str], None], *, check: bool = True) -> list[dict[str, Any]]:
    """The rows of the sample, of which those that are missing are made."""
    chosen = sample(count, seed)
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    # A row stands for the file as it was: after a change of the file it is made again.
    done = {(row["file"], row["id"]): row for row in known}
    rows = []
    for name in IMPORTED:
        importlib.import_module(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open(log, "a", encoding="utf-8") as out:
        copy = Path(folder)
        shutil.copytree(ROOT / "weightaug", copy / "weightaug", ignore=shutil.ignore_patterns("__pycache__"))
        for name in sorted({name for file, _ in chosen for name in tests_of(file)} if check else ()):
            if code := in_fork(partial(run_tests, copy, [name]), SECONDS):
                raise SystemExit(f"{name} fails without any change, with exit code {code}")
        for file, number in chosen:
            change = mutated(source_of(file), number)
            own = f"{change.line}: {change.what}: {change.before} -> {change.after}"
            row = done.get((file, own))
            if row is None:
                path = copy / "weightaug" / file
                path.write_text(change.source, encoding="utf-8")
                started = time.monotonic()
                code = in_fork(partial(run_tests, copy, tests_of(file)), SECONDS)
                shutil.copyfile(ROOT / "weightaug" / file, path)
                came = "too slow" if code is None else "survived" if code == 0 else "killed"
                row = {"file": file, "id": own, "came": came, "code": code, "s": round(time.monotonic() - started, 1)}
                out.write(json.dumps(row) + "\n")
                out.flush()
            rows.append(row)
            told(row["came"])
    return rows


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=LOG, help="changes that are done, one a line")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--unchecked", action="store_true", help="leave out that all tests pass without a change")
    args = parser.parse_args()
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise SystemExit("the trials need tqdm: pip install 'weightaug[bench]'") from error
    started, came = time.monotonic(), Counter[str]()
    with tqdm(total=args.count, unit="mutant", desc="mutants") as bar:

        def told(what: str) -> None:
            came[what] += 1
            bar.set_postfix_str(", ".join(f"{n} {name}" for name, n in came.items()), refresh=False)
            bar.update()

        rows = run(args.count, args.seed, args.log, told, check=not args.unchecked)
    judged = json.loads(JUDGED.read_text(encoding="utf-8")) if JUDGED.exists() else {}
    survivors = [row for row in rows if row["came"] == "survived"]
    told_of = [
        [row["file"], row["id"], judged.get(f"{row['file']}:{row['id']}", "not judged yet")] for row in survivors
    ]
    by_part: dict[str, Counter[str]] = {}
    for row in rows:
        by_part.setdefault(row["file"].split("/")[0], Counter())[row["came"]] += 1
    parts = [
        [part, counts.total(), counts["killed"] + counts["too slow"], f"{1 - counts['survived'] / counts.total():.0%}"]
        for part, counts in sorted(by_part.items())
    ]
    changes = sum(count_of(source_of(file)) for file in files())
    Record(
        "Small changes of the library, and whether its tests notice",
        f"python benchmarks/trials/mutants.py --count {args.count} --seed {args.seed}",
        {
            "changes tried": len(rows),
            "of how many": changes,
            "noticed, %": round(100 * (1 - len(survivors) / len(rows)), 1),
            "noticed because they took too long": came["too slow"],
            "not noticed": len(survivors),
            "of these judged to change nothing": sum(note.startswith("same") for *_, note in told_of),
        },
        notes=["Compiled loops are left out: tests hold them and the readable code together."],
        tables={
            "by part": (["part", "tried", "noticed", "share"], parts),
            "not noticed": (["file", "change", "judgement"], told_of),
        },
        seconds=time.monotonic() - started,
    ).write("mutants", args.output)


if __name__ == "__main__":
    main()
