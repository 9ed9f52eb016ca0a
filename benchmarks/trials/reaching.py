"""Which tests run a line of the package, and how long they take: what coverage and pytest kept of one run."""

from __future__ import annotations

import ast
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

__all__ = ["Reached", "path_of", "run_covered"]

ROOT = Path(__file__).resolve().parents[2]
DATA, TIMES = "coverage", "times.xml"
SETTINGS = """[run]
branch = True
source = weightaug
omit = weightaug/_loops/*, weightaug/testing/suite/*
dynamic_context = test_function
data_file = {data}
"""


def run_covered(folder: Path) -> None:
    """Runs all tests once, keeping which lines each of them runs; some 15 minutes.

    Raises:
        SystemExit: If a test fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{DATA}.part"
    settings = folder / "settings.ini"
    settings.write_text(SETTINGS.format(data=unfinished), encoding="utf-8")
    words = [sys.executable, "-m", "coverage", "run", "--rcfile", str(settings), "-m", "pytest", "-q"]
    words += ["-p", "no:cacheprovider", "--junitxml", str(folder / TIMES)]
    if subprocess.run(words, cwd=ROOT, check=False).returncode != 0:
        raise SystemExit("tests fail, so what they run says nothing")
    unfinished.rename(folder / DATA)


class Reached:
    """The tests that run the lines of a package.

    Args:
        folder: What :func:`run_covered` wrote.
    """

    def __init__(self, folder: Path) -> None:
        from coverage import CoverageData

        self.data = CoverageData(str(folder / DATA))
        self.data.read()
        self.seconds: dict[str, float] = defaultdict(float)  # all parameters of a test together
        for case in ElementTree.parse(folder / TIMES).iter("testcase"):
            self.seconds[f"{case.get('classname')}.{str(case.get('name')).split('[')[0]}"] += float(case.get("time", 0))
        self._kept: dict[str, dict[int, list[str]]] = {}

    def tests(self, file: str, line: int) -> list[str]:
        """The tests that run a line of a file of the package, the quickest first, as ``module.function``.

        What runs at import alone, as the defaults of a function, counts as run by those that run its body.
        """
        by_line = self._by_line(file)
        wanted = {name for name in by_line.get(line, []) if name}
        if not wanted:
            for inside in _around(ROOT / "weightaug" / file, line):
                wanted = {name for at in inside for name in by_line.get(at, []) if name}
                if wanted:
                    break
        return sorted(wanted & self.seconds.keys(), key=lambda name: self.seconds[name])

    def _by_line(self, file: str) -> dict[int, list[str]]:
        if file not in self._kept:
            ends = f"/weightaug/{file}"
            names = [name for name in self.data.measured_files() if name.endswith(ends)]
            self._kept[file] = self.data.contexts_by_lineno(names[0]) if names else {}
        return self._kept[file]


def _around(path: Path, line: int) -> list[range]:
    """The statements around a line, the innermost first, as ranges of lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return sorted(found, key=len)


def path_of(test: str) -> str:
    """A test as pytest takes it.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    parts = test.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        path = ROOT.joinpath(*parts[:cut]).with_suffix(".py")
        if path.is_file():
            return "::".join([str(path.relative_to(ROOT)), *parts[cut:]])
    raise FileNotFoundError(test)
