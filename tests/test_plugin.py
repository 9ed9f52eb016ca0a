"""The laws for others: over a range of networks, as a pytest fixture, and as the installed package's own tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from weightaug import Activation, Architecture, GaussianNoise, Permute, Preserves, Rotate, SirenBias, Transform
from weightaug.testing import check_everywhere
from weightaug.testing.battery import EXAMPLES

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Shift(Transform):
    """Adds one number to all parameters; ``wrong`` claims that this keeps the function."""

    wrong: bool = False

    @property
    def preserves(self) -> Preserves:
        return Preserves.FUNCTION if self.wrong else Preserves.NOTHING

    def sample(self, element, *, generator=None):
        return torch.rand(element.batch_shape, generator=generator, dtype=torch.float64)

    def apply(self, element, params):
        return element.map(lambda t: t + params.to(t.dtype).reshape(*params.shape, *(1,) * (t.dim() - params.dim())))


def pytest_of(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "pytest_weightaug", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


def test_the_laws_run_on_every_network_that_a_transform_accepts():
    assert check_everywhere(Shift(), modes=False, graph=False) == list(EXAMPLES)
    phases = check_everywhere(SirenBias(), modes=False, graph=False)
    assert 0 < len(phases) < len(EXAMPLES)
    assert all(any(s.activation and s.activation.half_period for s in a.hidden) for a in phases)
    own = Architecture.mlp((5, 3, 1), Activation("softplus"))
    assert check_everywhere(Permute(), [own], modes=False, graph=False) == [own]


def test_a_broken_promise_is_found_and_the_networks_are_named():
    with pytest.raises(AssertionError, match=r"(?s)preserves the function.*\[on WeightSpaceElement\(2-6-5-1"):
        check_everywhere(Shift(wrong=True), modes=False, graph=False)


def test_a_transform_that_fits_nothing_is_not_called_right():
    with pytest.raises(ValueError, match="accepts none of the architectures, so that nothing was tested; give one"):
        check_everywhere(Rotate(), [Architecture.siren((1, 4, 1))])


def test_the_examples_have_every_symmetry():
    found = {s for a in EXAMPLES for space in a.hidden if space.activation for s in space.activation.symmetries}
    assert found == {"permutation", "sign", "phase", "scale"}


USERS = """
import weightaug as wa

def test_of_mine(weightaug_laws):
    assert weightaug_laws(wa.GaussianNoise(), modes=False, graph=False)

def test_wrong(weightaug_laws):
    from tests.test_plugin import Shift
    weightaug_laws(Shift(wrong=True), modes=False, graph=False)
"""


def test_the_fixture_holds_a_users_transform_to_the_laws(tmp_path: Path):
    (tmp_path / "test_mine.py").write_text(USERS)
    done = pytest_of(tmp_path, "-q")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "AssertionError: preserves the function" in done.stdout


def test_the_plugin_costs_other_tests_nothing(tmp_path: Path):
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test_light():\n"
        "    assert 'pytest_weightaug' in sys.modules and not {'torch', 'weightaug', 'numpy'} & set(sys.modules)\n"
    )
    done = pytest_of(tmp_path, "-q")
    assert done.returncode == 0, done.stdout + done.stderr


def test_pytest_finds_the_plugin_by_its_name():
    """The entry point has the module's name, so that `-p pytest_weightaug` does not load it twice."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points == {"pytest11": {"pytest_weightaug": "pytest_weightaug"}}


def test_the_packages_own_laws_are_found_where_it_is_installed(tmp_path: Path):
    done = pytest_of(tmp_path, "-q", "--pyargs", "weightaug", "-k", "GaussianNoise or (canonical and siren)")
    assert done.returncode == 0, done.stdout + done.stderr
    done = pytest_of(tmp_path, "-q", "--pyargs", "weightaug", "--collect-only")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("test_transforms_obey_the_laws[") >= 25
    assert f"[{GaussianNoise.__name__}]" in done.stdout
