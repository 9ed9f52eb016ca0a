"""The optional compiled loops: whatever breaks in numba or its cache, there is one warning, and things go on."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from weightaug import _loops

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_was_said_yet():
    _loops._warn.cache_clear()
    yield
    _loops._warn.cache_clear()


@pytest.mark.parametrize("error", [ImportError, AttributeError, SystemError, OSError, RuntimeError, ValueError])
def test_a_numba_that_breaks_in_any_way_is_told_once(monkeypatch, error):
    pytest.importorskip("numba", reason="needs the extra 'fast': pip install 'weightaug[fast]'")

    def broken(name):
        raise error("it breaks")

    monkeypatch.setattr(_loops.importlib, "import_module", broken)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert _loops.load.__wrapped__("matching") is None
        assert _loops.load.__wrapped__("selection") is None
    assert [str(w.message) for w in said] == [
        f"numba is installed, but cannot be used ({error.__name__}: it breaks); weightaug does without it, which is "
        "slower. Install versions of numba and numpy that fit, or uninstall numba"
    ]


def test_a_numba_of_which_only_a_part_is_there(monkeypatch):
    def broken(name):
        raise ValueError("numba.__spec__ is None")

    monkeypatch.setattr(_loops.importlib.util, "find_spec", broken)
    with pytest.warns(UserWarning, match="__spec__ is None"):
        assert _loops.load.__wrapped__("matching") is None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), EOFError(), RuntimeError("no locator")])
def test_a_cache_that_cannot_be_used_is_told_once_and_left_out(monkeypatch, error):
    pytest.importorskip("numba", reason="needs the extra 'fast': pip install 'weightaug[fast]'")
    from weightaug._loops import compiling

    def njit(signatures, *, cache=False, **options):
        def decorate(function):
            if cache:
                raise error
            return function

        return decorate

    compiling._warn.cache_clear()
    monkeypatch.setattr(compiling.numba, "njit", njit)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for function in (min, max):
            assert compiling.compiled("void()")(function) is function
    assert len(said) == 1
    assert "NUMBA_CACHE_DIR" in str(said[0].message)
    assert type(error).__name__ in str(said[0].message)
    compiling._warn.cache_clear()


_CALL = """
import warnings
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as said:
    from weightaug import _loops
    fast = _loops.load("selection")
import numpy as np
values, at, after = np.array([[3, 1, 2]], np.int32), np.empty(1, np.int32), np.empty(1, np.int32)
fast.neighbours_in_order(values, np.array([-1, 2**31 - 1, 0], np.int32), np.array([1]), at, after)
print(at, after, len(said))
"""


def test_a_damaged_cache(tmp_path):
    pytest.importorskip("numba", reason="needs the extra 'fast': pip install 'weightaug[fast]'")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def call():
        done = subprocess.run(
            [sys.executable, "-c", _CALL], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert call() == "[2] [3] 0"
    files = [file for file in tmp_path.rglob("*.nb*") if file.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[:20])
    assert call() == "[2] [3] 1"
    for file in files:
        file.write_bytes(b"")
    assert call() == "[2] [3] 1"


def test_half_precision_has_the_order_of_float32():
    from weightaug._order_statistics import neighbours_in_order

    values = torch.rand(3, 70_000, generator=torch.Generator().manual_seed(0)).half()
    position = torch.tensor([0, 66_000, 69_999])
    at, after = neighbours_in_order(values, position, 69_999)
    ordered = values.sort(-1).values
    assert at.dtype == torch.float16
    assert torch.equal(at, ordered[torch.arange(3), position])
    assert torch.equal(after, ordered[torch.arange(3), (position + 1).clamp(max=69_999)])
