"""Mutation testing: ``python benchmarks/trials/mutants.py`` changes the library in small ways, and runs its fast tests.

A sample of all changes of transforms, group, element, functional, matching and io is drawn by a seed. Each is made in a
copy of the package; tests that run the changed line do so until one fails, in a fork of a process in which torch is
imported. Which tests those are ``covered.py`` has kept, the quickest of them first. A test that also fails without
the change notices nothing and is left out.
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
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` is a package


from benchmarks.trials.covered import FOLDER
from benchmarks.trials.mutations import count_of, mutated
from benchmarks.trials.reaching import DATA, Reached, path_of
from benchmarks.trials.records import OUTPUT, Record

ROOT = Path(__file__).resolve().parents[2]
JUDGED = Path(__file__).with_name("mutants_judged.json")
LOG = ROOT / "benchmarks" / "runs" / "mutants.jsonl"
IMPORTED = ("torch", "numpy", "scipy.optimize", "scipy.stats", "pytest", "safetensors.torch", "numba")
SECONDS = 240.0  # after which a change counts as noticed: it made something endless

TIME, TESTS = 40.0, 60  # of the tests that run a line, the quickest together this long, and at most so many


def files() -> list[str]:
    """What is changed, beside the package."""
    package = ROOT / "weightaug"
    found = [path for folder in ("transforms", "matching", "io") for path in sorted((package / folder).glob("*.py"))]
    found += [package / name for name in ("group.py", "element.py", "functional.py")]
    return [str(path.relative_to(package)) for path in found if path.name != "__init__.py"]


def names_of(reached: Reached, file: str, line: int, times: float = 1.0) -> list[str]:
    """The tests that are run for a line of a file, in order: those named after it, then the quickest.

    Where none is known to run it, as in what numba compiles, those named after the file.
    """
    words = set(file.removesuffix(".py").replace("_", "/").split("/"))

    def is_near(name: str) -> bool:
        return bool(words & set(name.split(".")[-2].split("_")))

    names = reached.tests(file, line)
    near = list(filter(is_near, names or sorted(reached.seconds, key=lambda name: reached.seconds[name])))
    chosen: list[str] = []
    seconds = 0.0
    for name in dict.fromkeys([*near, *names]):
        if seconds + reached.seconds[name] <= times * TIME and len(chosen) < times * TESTS:
            chosen.append(path_of(name))
            seconds += reached.seconds[name]
    return chosen


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


class First:
    """Keeps the name of the first test that fails, as a plugin of pytest."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest after each part of a test."""
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid, encoding="utf-8")


def run_tests(copy: Path, names: list[str], but: Collection[str] = ()) -> int:
    """Runs tests on a copy of the package until one fails, but for some; pytest's exit code, 0 if all pass."""
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.split(".")[0] in ("weightaug", "benchmarks", "tests")]:
        del sys.modules[name]
    sys.path.insert(0, str(copy))
    os.chdir(ROOT)
    import pytest

    try:
        import weightaug
    except Exception:  # whatever the change makes of it
        return int(pytest.ExitCode.INTERRUPTED)
    assert Path(weightaug.__file__).is_relative_to(copy), weightaug.__file__
    words = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::ResourceWarning", *names]
    words += [word for name in but for word in ("--deselect", name)]
    return int(pytest.main(words, plugins=[First(copy / "first")]))


class Tried:
    """Tests on a copy of the package.

    Args:
        copy: The folder of the copy.
    """

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        self.sound: set[str] = set()  # tests that pass without a change
        self.unsound: set[str] = set()  # and that do not
        shutil.copytree(ROOT / "weightaug", copy / "weightaug", ignore=shutil.ignore_patterns("__pycache__"))

    def code(self, names: list[str]) -> tuple[int | None, str]:
        """The exit code of some tests, and the first that failed."""
        first = self.copy / "first"
        first.unlink(missing_ok=True)
        code = in_fork(partial(run_tests, self.copy, names, self.unsound), SECONDS)
        return code, first.read_text(encoding="utf-8") if first.exists() else ""

    def change(self, file: str, source: str, names: list[str]) -> tuple[str, str]:
        """What becomes of a change, and which test noticed it."""
        path = self.copy / "weightaug" / file
        while names:
            path.write_text(source, encoding="utf-8")
            try:
                code, first = self.code(names)
            finally:
                shutil.copyfile(ROOT / "weightaug" / file, path)
            if code in (0, 5):  # 5: all that was left were left out
                return "survived", ""
            if not first and code not in (None, 2, 4) and not (code or 0) < 0:
                raise SystemExit(f"{file}: no test failed, but the run of them did, with exit code {code}: {names[:3]}")
            if not first:  # nothing could be collected, or it hung or crashed
                return ("too slow" if code is None else "killed"), f"exit code {code}"
            if first not in self.sound and self.code([first])[0] != 0:
                self.unsound.add(first)
                continue
            self.sound.add(first)
            return "killed", first
        return "survived", "no test runs it"


def run(
    count: int, seed: int, log: Path, reached: Reached, told: Callable[[str], None], also: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of the sample, of which those that are missing are made.

    With other tests besides, what has survived is tried again: by these first, and by more of those that run its line.
    """
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    # A row stands for the file as it was: after a change of the file it is made again.
    done = {(row["file"], row["id"]): row for row in known}
    rows = []
    for name in IMPORTED:
        importlib.import_module(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open(log, "a", encoding="utf-8") as out:
        tried = Tried(Path(folder))
        for file, number in sample(count, seed):
            change = mutated(source_of(file), number)
            own = f"{change.line}: {change.what}: {change.before} -> {change.after}"
            row = done.get((file, own))
            if row is None or (also and row["came"] == "survived"):
                started = time.monotonic()
                names = [*also, *names_of(reached, file, change.line, 4.0 if also else 1.0)]
                came, by = tried.change(file, change.source, names)
                row = {"file": file, "id": own, "came": came, "by": by, "s": round(time.monotonic() - started, 1)}
                out.write(json.dumps(row) + "\n")
                out.flush()
            rows.append(row)
            told(row["came"])
    return rows


def _commit() -> str:
    """What the changes are changes of."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _shared(a: str, b: str) -> int:
    """How many letters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _apart(change: str, width: int = 60) -> str:
    """What two lines differ in, with a little around it."""
    before, _, after = change.partition(" -> ")
    start = _shared(before, after)
    end = _shared(before[start:][::-1], after[start:][::-1])
    kept = max((width - max(len(before), len(after)) + start + end) // 2, 8)
    first, last = max(start - kept, 0), max(end - kept, 0)
    cut = [text[first : len(text) - last] for text in (before, after)]
    marks = ["..." if first else "", "..." if last else ""]
    return " -> ".join(f"{marks[0]}{text}{marks[1]}" for text in cut)


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=LOG, help="changes that are done, one a line")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--also", nargs="*", default=[], help="tests by which survivors are tried again")
    parser.add_argument("--covered", type=Path, default=FOLDER, help="what covered.py kept")
    args = parser.parse_args()
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise SystemExit("the trials need tqdm: pip install 'weightaug[bench]'") from error
    if not (args.covered / DATA).exists():
        raise SystemExit(f"{args.covered} does not say what tests run which line: python benchmarks/trials/covered.py")
    reached = Reached(args.covered)
    came = Counter[str]()
    with tqdm(total=args.count, unit="mutant", desc="mutants") as bar:

        def told(what: str) -> None:
            came[what] += 1
            bar.set_postfix_str(", ".join(f"{n} {name}" for name, n in came.items()), refresh=False)
            bar.update()

        rows = run(args.count, args.seed, args.log, reached, told, args.also)
    judged = json.loads(JUDGED.read_text(encoding="utf-8")) if JUDGED.exists() else {}
    survivors = [row for row in rows if row["came"] == "survived"]
    told_of = []
    for row in sorted(survivors, key=lambda row: (row["file"], int(row["id"].split(":")[0]))):
        line, kind, change = row["id"].split(": ", 2)
        note = judged.get(f"{row['file']}:{row['id']}", "not judged yet")
        told_of.append([f"{row['file']}:{line}", kind, f"`{_apart(change)}`", note])
    same = sum(note.startswith("same") for *_, note in told_of)
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
            "of these judged to change nothing that is promised": same,
            "noticed of the others, %": round(100 * (1 - (len(survivors) - same) / (len(rows) - same)), 1),
        },
        notes=[
            f"The library as of commit {_commit()}; another one has other changes to draw from. Compiled loops are "
            "left out: tests hold them and the readable code together."
        ],
        tables={
            "by part": (["part", "tried", "noticed", "share"], parts),
            "not noticed": (["file and line", "kind", "change", "judgement"], told_of),
        },
        seconds=sum(row["s"] for row in rows),
    ).write("mutants", args.output)


if __name__ == "__main__":
    main()
