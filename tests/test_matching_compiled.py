"""One compiled call for whole matchings: the same moves as the readable visits give."""

import pytest
import torch

from weightaug import Architecture, Layer, Space, WeightSpaceElement, _loops, act
from weightaug.matching import compiled, descent, distance, match, weight
from weightaug.testing import assert_same_function

pytest.importorskip("numba", reason="needs the extra 'fast': pip install 'weightaug[fast]'")

BRANCHED = Architecture(
    (Space("x", 3), Space("h", 12, "sine"), Space("g", 9, "relu"), Space("y", 2)),
    (
        Layer("xh", "x", "h"),
        Layer("hg", "h", "g"),
        Layer("xg", "x", "g", bias=False),
        Layer("hy", "h", "y"),
        Layer("gy", "g", "y"),
    ),
)
ARCHITECTURES = {
    "siren": Architecture.siren((2, 16, 12, 10, 1)),
    "tanh": Architecture.mlp((3, 20, 20, 2), "tanh"),
    "gaussian": Architecture.mlp((3, 20, 20, 2), "gaussian"),
    "cosine": Architecture.mlp((3, 20, 20, 2), "cosine"),
    "relu": Architecture.mlp((3, 20, 20, 2), "relu"),
    "gelu": Architecture.mlp((3, 20, 20, 2), "gelu"),
    "no bias": Architecture.mlp((3, 20, 20, 2), "tanh", bias=False),
    "branched": BRANCHED,
}
ALL = ("identity", "reverse", "forward", "backward")


def networks(architecture, count, seed, scale=0.1):
    values = torch.randn(count, architecture.num_parameters, generator=torch.Generator().manual_seed(seed))
    return WeightSpaceElement.unflatten(architecture, scale * values)


def by_visits(monkeypatch, function):
    with monkeypatch.context() as patch:
        patch.setattr(weight, "plan_of", lambda *arguments: None)
        return function()


@pytest.mark.parametrize("starts", [None, ALL, ("reverse",)])
@pytest.mark.parametrize("symmetry", ["auto", "permutation"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_compiled_call_finds_what_the_visits_find(name, symmetry, starts, monkeypatch):
    a, b = (networks(ARCHITECTURES[name], 15, seed) for seed in (0, 1))

    def aligned():
        return match(a, b, symmetry=symmetry, starts=starts)

    called = []
    real = compiled.match_compiled
    monkeypatch.setattr(weight, "match_compiled", lambda *args, **kwargs: called.append(1) or real(*args, **kwargs))
    ours, expected = aligned(), by_visits(monkeypatch, aligned)
    assert len(called) == 1
    for part in ("permutation", "scale", "shift"):
        for x, y in zip(getattr(ours, part), getattr(expected, part), strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                assert x.dtype == y.dtype
                torch.testing.assert_close(x, y)


@pytest.mark.parametrize("scale", [1e-150, 1e-3, 1.0, 1e150])
def test_weights_of_any_size_are_matched_alike(scale, monkeypatch):
    a, b = (networks(ARCHITECTURES["tanh"], 5, seed).map(lambda t: t.double() * scale) for seed in (0, 1))
    ours, expected = match(a, b), by_visits(monkeypatch, lambda: match(a, b))
    for x, y in zip(ours.permutation, expected.permutation, strict=True):
        assert torch.equal(x, y)


def test_distances_are_those_of_the_visits(monkeypatch):
    a, b = (networks(ARCHITECTURES["siren"], 8, seed) for seed in (0, 1))
    torch.testing.assert_close(distance(a, b), by_visits(monkeypatch, lambda: distance(a, b)))


def test_pairs_shared_out_among_threads_are_matched_alike(monkeypatch):
    a, b = (networks(ARCHITECTURES["siren"], 30, seed) for seed in (0, 1))
    alone = match(a, b)
    monkeypatch.setattr(weight, "_workers", lambda pairs, architecture: 3)
    for x, y in zip(match(a, b).permutation, alone.permutation, strict=True):
        assert torch.equal(x, y)


def test_one_pair_and_no_pair_keep_their_batch_shape():
    a, b = (networks(ARCHITECTURES["siren"], 3, seed) for seed in (0, 1))
    assert match(a[0], b[0]).batch_shape == ()
    assert match(a[:0], b[:0]).batch_shape == (0,)
    for x, y in zip(match(a[0], b[0]).permutation, match(a, b).permutation, strict=True):
        assert torch.equal(x, y[0])


def test_values_that_are_not_finite_and_biases_that_lose_phases_are_refused():
    a, b = (networks(ARCHITECTURES["siren"], 2, seed) for seed in (0, 1))
    broken = a.clone()
    broken.weights[1][1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"b, layer1\.weight: expected finite values.*first in network \(1,\)"):
        match(a, broken)
    huge = a.clone()
    huge.biases[0][0, 0] = 1e30
    with pytest.raises(ValueError, match=r"2\^50 half periods"):
        match(huge, b)


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_wide_visits_find_what_the_others_find(name, numba, monkeypatch):
    a, b = (networks(ARCHITECTURES[name], 6, seed) for seed in (0, 1))
    expected = by_visits(monkeypatch, lambda: match(a, b, starts=ALL))
    if not numba:
        monkeypatch.setattr(_loops, "load", lambda name: None)
    monkeypatch.setattr(descent, "WIDE", 0)
    visits = []
    real = descent.visit_wide
    monkeypatch.setattr(descent, "visit_wide", lambda *arguments: visits.append(1) or real(*arguments))
    ours = by_visits(monkeypatch, lambda: match(a, b, starts=ALL))
    assert visits
    for part in ("permutation", "scale", "shift"):
        for x, y in zip(getattr(ours, part), getattr(expected, part), strict=True):
            if x is not None:
                torch.testing.assert_close(x, y)


def test_wide_networks_take_the_wide_visits(monkeypatch):
    a, b = (networks(Architecture.mlp((2, descent.WIDE + 1, 3, 1), "tanh"), 1, seed) for seed in (0, 1))
    visits = []
    real = descent.visit_wide
    monkeypatch.setattr(descent, "visit_wide", lambda *arguments: visits.append(1) or real(*arguments))
    group = match(a, b)
    assert visits
    assert_same_function(b[0], act(b, group)[0], tolerance=1e-5)
