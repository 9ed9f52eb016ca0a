"""What a user installs: the public names, the dependencies, and an import that is light."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import weightaug

ROOT = Path(__file__).parents[1]
NAMES: dict[str, list[str]] = json.loads((ROOT / "tests" / "public_names.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("module", NAMES)
def test_public_names(module: str) -> None:
    """A name that comes or goes is a decision: change tests/public_names.json and CHANGELOG.md with it."""
    public = importlib.import_module(module)
    assert sorted(public.__all__) == NAMES[module], "run `python tests/test_packaging.py` and note it in CHANGELOG.md"
    for name in public.__all__:
        assert getattr(public, name).__doc__, f"{module}.{name} has no docstring"


PUBLIC = (
    "weightaug",
    *(
        f"weightaug.{m}"
        for m in (
            "adapters",
            "datasets",
            "fitting",
            "functional",
            "io",
            "layouts",
            "matching",
            "plot",
            "testing",
            "transforms",
        )
    ),
)


def test_no_public_module_is_unguarded() -> None:
    files = [*(ROOT / "weightaug").glob("*.py"), *(ROOT / "weightaug").glob("*/__init__.py")]
    found = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files}
    found = {name for name in found if "._" not in name}
    ours = ("architecture", "calibration", "element", "evaluation", "group", "points", "views")
    told_by_the_package = {f"weightaug.{name}" for name in ours}
    assert found - told_by_the_package == set(PUBLIC) == set(NAMES)


def test_import_is_light_and_draws_nothing() -> None:
    """scipy, safetensors and hypothesis are imported by those who use them; the RNG and warnings stay as they were."""
    code = (
        "import sys, warnings, torch; before = set(sys.modules); state = torch.get_rng_state();"
        "filters = list(warnings.filters); threads = torch.get_num_threads();"
        "import weightaug;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "light = {'scipy', 'safetensors', 'numba', 'hypothesis', 'sklearn', 'matplotlib', 'tqdm', 'h5py', 'tyro'};"
        "print(*sorted(new & light));"
        "assert torch.equal(state, torch.get_rng_state()) and filters == warnings.filters;"
        "assert threads == torch.get_num_threads()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_public_modules_are_loaded_when_they_are_asked_for() -> None:
    code = (
        "import sys, weightaug as wa; lazy = ['io', 'adapters'];"
        "assert not any(f'weightaug.{name}' in sys.modules for name in lazy);"
        "assert set(lazy) < set(dir(wa)) and 'Permute' in dir(wa);"
        "wa.io.save, wa.adapters.from_dws, wa.matching.match, wa.functional.permute;"
        "assert all(f'weightaug.{name}' in sys.modules for name in lazy);"
        "hasattr(wa, 'nothing') and sys.exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    import weightaug

    assert weightaug.testing.check_transform is sys.modules["weightaug.testing"].check_transform
    with pytest.raises(AttributeError, match="module 'weightaug' has no attribute 'nothing'"):
        weightaug.nothing  # noqa: B018


def requirement(line: str) -> str:
    return re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0].lower()


def test_the_wheel_holds_weightaug_alone() -> None:
    """.ci/run builds the wheel and looks into it; here, what the build is told."""
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["weightaug", "pytest_weightaug.py"]}
    assert (ROOT / "weightaug" / "py.typed").exists()
    assert {requirement(r) for r in PROJECT["project"]["dependencies"]} == {"torch", "numpy", "scipy", "safetensors"}


def test_constraints_pin_every_direct_dependency_within_its_bound() -> None:
    lines = [l for l in (ROOT / "constraints.txt").read_text().splitlines() if l and not l.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    extras = [r for group in PROJECT["project"]["optional-dependencies"].values() for r in group]
    wanted = [*PROJECT["project"]["dependencies"], *extras, *PROJECT["build-system"]["requires"]]
    assert set(pins) == {requirement(r) for r in wanted if requirement(r) != "weightaug"}
    for line in wanted:
        if ">=" in line:
            name, _, bound = line.partition(">=")
            assert version(pins[requirement(name)]) >= version(bound), line


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def test_version_is_told_once() -> None:
    assert weightaug.__version__ == PROJECT["project"]["version"]


def test_the_citation_and_the_change_log_tell_the_same_version() -> None:
    version_told = PROJECT["project"]["version"]
    assert f"\nversion: {version_told}\n" in (ROOT / "CITATION.cff").read_text()
    log = (ROOT / "CHANGELOG.md").read_text()
    dated = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", log, flags=re.MULTILINE)
    assert log.count("## [Unreleased]") == 1
    assert not dated or dated[0] == version_told


def test_the_readme_stands_where_there_is_no_repository() -> None:
    """On a package index nothing that is linked relatively is there."""
    text = (ROOT / "README.md").read_text()
    assert "```" in text
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"(?:src|href)=[\"']([^\"']+)", text)
    relative = [target for target in targets if not target.startswith(("https://", "#"))]
    assert not relative, f"README.md links to {relative}; write absolute links, or name the file"


def test_the_package_imports_only_what_it_declares() -> None:
    allowed = {"torch", "numpy", "scipy", "safetensors", "weightaug", "__future__"} | set(sys.stdlib_module_names)
    optional = {
        "h5py": ("hdf5.py",),
        "hypothesis": ("strategies.py",),
        "matplotlib": ("plot.py",),
        "numba": ("compiling.py",),
        "pytest": ("test_laws.py",),
        "ray": ("_spreading.py",),
        "tqdm": ("_progress.py",),
        "tyro": ("__init__.py", "commands.py"),
    }
    for file in (ROOT / "weightaug").rglob("*.py"):
        for name in re.findall(r"^\s*(?:from|import) (\w+)", file.read_text(), flags=re.MULTILINE):
            assert name in allowed or file.name in optional.get(name, ()), f"{file.relative_to(ROOT)} imports {name}"


if __name__ == "__main__":
    names = {module: sorted(importlib.import_module(module).__all__) for module in PUBLIC}
    (ROOT / "tests" / "public_names.json").write_text(json.dumps(names, indent=1) + "\n")

    sys.path.insert(0, str(ROOT))
    from tests.test_signatures import write

    write()
