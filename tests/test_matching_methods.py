"""Matching by activations and by functions."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests.test_matching import (
    ARCHITECTURES,
    CONV,
    NAMES,
    SINE,
    assert_same,
    networks,
    same_function,
    solver,  # noqa: F401  (an autouse fixture: with numba and without)
    squared,
    symmetry,
)
from weightaug import Activation, Architecture, Layer, Space, WeightSpaceElement, act
from weightaug.matching import function, match
from weightaug.matching.canonical import balance
from weightaug.matching.rules import resolve


@pytest.mark.parametrize("arch", ARCHITECTURES[:12], ids=NAMES)
def test_activation_matching_recovers_a_planted_copy(arch):
    a = networks(arch, 4)
    b = act(a, symmetry(arch, 4))
    points = torch.rand(64, arch.spaces[0].size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.3
    aligned = act(b, match(a, b, method="activation", points=points))
    same_function(aligned, b)
    # Dead ReLU neurons and neurons that agree at all inputs cannot be told apart this way.
    assert squared(aligned, a).median() < (1e-12 if "relu" not in str(arch) else 0.5 * squared(a, b).median())


def midpoint_error(a, b, points):
    middle = WeightSpaceElement.unflatten(a.architecture, (a.flatten() + b.flatten()) / 2)
    return (middle(points) - (a(points) + b(points)) / 2).square().mean((-1, -2))


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([x for x in ARCHITECTURES[:13] if x.hidden]), st.integers(0, 10**6), st.booleans())
def test_function_matching_never_makes_the_midpoint_worse(arch, seed, plain):
    a, b = networks(arch, 3, seed=seed), networks(arch, 3, seed=seed + 1)
    points = torch.rand(20, arch.spaces[0].size, dtype=torch.float64) * 2 - 1
    symmetry = "permutation" if plain else "auto"
    moved = act(b, match(a, b, method="function", points=points, symmetry=symmetry))
    same_function(moved, b)
    error = midpoint_error(a, moved, points)
    for other in (b, act(b, match(a, b, symmetry=symmetry))):
        assert torch.all(error <= midpoint_error(a, other, points) * (1 + 1e-9) + 1e-18)


def test_function_matching_beats_the_weights_at_the_midpoint_and_finds_copies():
    a, b = networks(SINE, 12), networks(SINE, 12, seed=1)
    points = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    by_function = midpoint_error(a, act(b, match(a, b, method="function", points=points)), points)
    by_weight = midpoint_error(a, act(b, match(a, b)), points)
    assert by_function.mean() < 0.8 * by_weight.mean()
    copy = act(a, symmetry(SINE, 12))
    assert_same(act(copy, match(a, copy, method="function", points=points)), a)


@pytest.mark.parametrize("arch", ARCHITECTURES[:12], ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_function_matching_in_other_dtypes(arch, dtype):
    a, b = networks(arch, 2, dtype=dtype), networks(arch, 2, seed=1, dtype=dtype)
    group = match(a, b, method="function", points=torch.rand(9, arch.spaces[0].size))
    assert all(s is None or s.dtype == dtype for s in group.scale)
    assert all(torch.equal(p.sort(-1).values, torch.arange(p.shape[-1]).expand_as(p)) for p in group.permutation)


def test_function_matching_pair_by_pair_and_in_pieces(monkeypatch):
    a, b = networks(SINE, 7), networks(SINE, 7, seed=1)
    points = torch.rand(30, 2, dtype=torch.float64)
    whole = match(a, b, method="function", points=points)
    monkeypatch.setattr(function, "_ENTRIES", 3 * 30 * 8)
    pieces = match(a, b, method="function", points=points)
    alone = [match(x, y, method="function", points=points) for x, y in zip(a, b, strict=True)]
    for s, (p, q) in enumerate(zip(whole.permutation, pieces.permutation, strict=True)):
        assert torch.equal(p, q)
        assert torch.equal(p, torch.stack([g.permutation[s] for g in alone]))
    for batch in ((), (0,), (2, 3)):
        x, y = networks(SINE, *batch), networks(SINE, *batch, seed=1)
        assert match(x, y, method="function", points=points).permutation[0].shape == (*batch, 8)


def test_function_matching_needs_networks_that_can_be_evaluated():
    two = Architecture(
        (Space("in", 2), Space("h", 4, Activation("tanh")), Space("u", 1), Space("v", 1)),
        (Layer("first", "in", "h"), Layer("left", "h", "u"), Layer("right", "h", "v")),
    )
    for arch in (CONV, two):
        with pytest.raises(ValueError, match=r"one output space and linear layers.*method='weight'"):
            match(networks(arch, 2), networks(arch, 2), method="function", points=torch.zeros(3, 2))
    with pytest.warns(UserWarning, match="unknown"):
        strange = Architecture.mlp((2, 4, 1), Activation("swishy"))
    for method in ("activation", "function"):
        with pytest.raises(ValueError, match="evaluated, got 'swishy'"):
            match(networks(strange, 2), networks(strange, 2), method=method, points=torch.zeros(3, 2))


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["relu", "leaky_relu", "abs"]), st.integers(0, 10**6), st.floats(0, 1))
def test_mixing_is_mixing_in_the_balanced_frame(activation, seed, lam):
    # Scales are linear in the weights, so what was matched is what is mixed, wherever a stands.
    arch = Architecture.mlp((2, 8, 8, 1), activation)
    a, b = networks(arch, 3, seed=seed), networks(arch, 3, seed=seed + 1)
    a = act(a, symmetry(arch, 3, seed=seed))
    moved, points = act(b, match(a, b)), torch.rand(9, 2, dtype=torch.float64) - 0.5
    rules = resolve(arch, "auto")
    x, y = act(a, balance(a, rules)), act(moved, balance(moved, rules))

    def mixed(p, q):
        return WeightSpaceElement.unflatten(arch, lam * p.flatten() + (1 - lam) * q.flatten())(points)

    torch.testing.assert_close(mixed(a, moved), mixed(x, y), rtol=1e-7, atol=1e-9)
