"""One compiled call for small declared networks: the same moves as the readable visits give."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.families import ResNet18, UNet, WildPark, exercised
from weightaug import Architecture, TensorSpec, WeightSpaceElement, act
from weightaug._axes import Factor
from weightaug._spaces import Space
from weightaug.adapters import from_modules
from weightaug.matching import align_to, match, table, table_compiled

pytest.importorskip("numba", reason="needs the extra 'fast': pip install 'weightaug[fast]'")

MODULES = {
    "batch_norm": (lambda: WildPark(), (1, 9, 9)),
    "no_norm": (lambda: WildPark(norm=False), (1, 9, 9)),
    "tanh": (lambda: WildPark(nn.Tanh, norm=False), (1, 9, 9)),
    "depthwise": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        ),
        (3, 6, 6),
    ),  # written and read neurons are one, and have signs between; kernels after flattening
    "unet": (lambda: UNet(), (1, 8, 8)),  # channels of several spaces along one axis
    "resnet18": (lambda: ResNet18(4, 3), (3, 32, 32)),  # a residual stream of many writers
}


@functools.cache
def pairs(name: str, dtype: torch.dtype = torch.float64) -> tuple[WeightSpaceElement, WeightSpaceElement]:
    """Six pairs of independent networks."""
    make, shape = MODULES[name]
    torch.manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64)
    networks = from_modules([exercised(make()) for _ in range(12)], example_input=x)
    networks = networks.map(lambda t: (t * torch.exp(0.5 * torch.randn(t.shape))).to(dtype))  # variances stay positive
    return networks[:6], networks[6:]


def compared(monkeypatch, function):
    """What the compiled call gives, which must take place, and what the visits give."""
    called = []
    real = table_compiled.match_in_loops
    with monkeypatch.context() as patch:
        patch.setattr(table, "match_in_loops", lambda *args, **kwargs: called.append(1) or real(*args, **kwargs))
        ours = function()
    assert called
    with monkeypatch.context() as patch:
        patch.setattr(table, "tables_of", lambda *arguments: None)
        return ours, function()


def assert_alike(ours, expected) -> None:
    for part in ("permutation", "scale", "shift", "maps"):
        for mine, other in zip(getattr(ours, part), getattr(expected, part), strict=True):
            assert (mine is None) == (other is None)
            if mine is not None:
                torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("starts", [None, ("identity",), ("identity", "forward"), ("forward", "identity")])
@pytest.mark.parametrize("symmetry", ["auto", "permutation", ("permutation", "scale")])
@pytest.mark.parametrize("name", MODULES)
def test_the_compiled_call_finds_what_the_visits_find(name, symmetry, starts, monkeypatch):
    a, b = pairs(name)
    if "scale" in symmetry and not any("scale" in space.symmetries for space in a.architecture.hidden):
        symmetry = "permutation"
    ours, expected = compared(monkeypatch, lambda: match(a, b, symmetry=symmetry, starts=starts))
    assert_alike(ours, expected)
    moved = torch.stack([(p != torch.arange(p.shape[-1])).any(-1) for p in ours.permutation if p is not None])
    assert bool(moved.any(0).all())


@pytest.mark.parametrize("name", MODULES)
def test_in_single_precision_it_comes_as_close(name, monkeypatch):
    a, b = pairs(name, torch.float32)
    ours, expected = compared(monkeypatch, lambda: match(a, b))
    assert all(s is None or s.dtype == torch.float32 for s in ours.scale)
    products = [
        sum((x.double() * y.double()).flatten(1).sum(1) for x, y in zip(a.tensors(), act(b, g).tensors(), strict=True))
        for g in (ours, expected)
    ]
    torch.testing.assert_close(*products, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("name", MODULES)
def test_sweeps_are_as_many_and_the_identity_is_kept_as_by_visits(name, monkeypatch):
    a, b = pairs(name)
    for most in (0, 1, 2):  # 0 is the walk alone
        assert_alike(*compared(monkeypatch, lambda most=most: match(a, b, max_sweeps=most)))
    # A network and itself, of which nothing is closer; and what a frame is not kept for.
    assert_alike(*compared(monkeypatch, lambda: match(a, a)))
    assert_alike(*compared(monkeypatch, lambda: align_to(b, a[0])))


@given(seed=st.integers(0, 2**31 - 1), name=st.sampled_from(["no_norm", "tanh", "resnet18"]))
def test_any_small_change_is_followed(seed: int, name: str):
    """Networks that are near to each other: few positions move, and only what they say is made anew."""
    a, _ = pairs(name)
    generator = torch.Generator().manual_seed(seed)
    b = a.map(lambda t: t * torch.exp(0.3 * torch.randn(t.shape, dtype=t.dtype, generator=generator)))
    with pytest.MonkeyPatch.context() as patch:
        assert_alike(*compared(patch, lambda: match(a, b, starts=("identity",))))


def test_threads_share_the_pairs():
    a, b = (x.map(lambda t: t.repeat_interleave(40, 0)) for x in pairs("tanh"))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = match(a, b)
        torch.set_num_threads(3)
        shared = match(a, b)
    finally:
        torch.set_num_threads(before)
    assert_alike(shared, alone)


def test_numbers_that_products_cannot_hold_are_left_to_the_visits(monkeypatch):
    a, b = pairs("no_norm")
    large = a.map(lambda t: t * 1e101)
    tables = table_compiled.tables_of(a.architecture, False, False)
    settings = {"starts": ("forward",), "keep_identity": True, "max_sweeps": 9, "tolerance": 0.0, "workers": 1}
    assert table_compiled.match_in_loops(a.tensors(), b.tensors(), tables, **settings) is not None
    assert table_compiled.match_in_loops(large.tensors(), b.tensors(), tables, **settings) is None
    assert_alike(match(large, b, symmetry="permutation"), match(a, b, symmetry="permutation"))


def test_what_the_loops_leave_to_others(monkeypatch):
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    nested = Architecture.from_module(layer, torch.randn(1, 3, 8))
    assert table_compiled.tables_of(nested, False, False) is None
    wide = Architecture.from_module(
        nn.Sequential(nn.Conv1d(1, 300, 3), nn.ReLU(), nn.Conv1d(300, 1, 3)), torch.randn(1, 1, 9)
    )
    assert table_compiled.tables_of(wide, False, False) is None
    # Tensors of three spaces.
    spaces = (Space("x", 4, "relu"), Space("y", 3, "relu"), Space("z", 2, "relu"))
    axis = {s.name: ((Factor(s.size, ((s.name, 1),)),),) for s in spaces}
    declared = Architecture(spaces, tensors=(TensorSpec("t", tuple(axis.values())),))
    assert table_compiled.tables_of(declared, False, False) is None
    values = torch.randn(2, declared.num_parameters, dtype=torch.float64)
    a, b = (WeightSpaceElement.unflatten(declared, v) for v in values)
    assert match(a, b, symmetry="permutation").permutation[0].shape == (4,)
