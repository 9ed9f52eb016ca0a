"""Canonical forms: one representative per orbit."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests.test_matching import ARCHITECTURES, SINE, assert_same, each_architecture, networks, same_function, symmetry
from weightaug import Architecture, WeightSpaceElement, act
from weightaug.matching import canonicalize, distance
from weightaug.matching.canonical import balance
from weightaug.matching.rules import resolve


def canonical(x, **options):
    return act(x, canonicalize(x, **options))


@each_architecture
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_constant_on_orbits_and_idempotent(arch, dtype):
    x = networks(arch, 5, dtype=dtype)
    y = canonical(x)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    assert_same(canonical(act(x, symmetry(arch, 5, dtype=dtype))), y, tolerance)
    assert_same(canonical(y), y, tolerance)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(ARCHITECTURES), st.integers(0, 10**6))
def test_the_function_is_kept(arch, seed):
    x = networks(arch, 3, seed=seed)
    same_function(canonical(x), x)
    assert_same(canonical(act(x, symmetry(arch, 3, seed=seed))), canonical(x))


def test_ranges_of_the_canonical_form():
    y = canonical(act(networks(SINE, 5), symmetry(SINE, 5)))
    h = SINE.hidden[0].activation.half_period
    assert all(bias.abs().max() <= h / 2 * (1 + 1e-9) for bias in y.biases[:2])


@pytest.mark.parametrize("name", ["sine", "tanh", "gelu", "relu"])
def test_equal_neurons_are_told_apart_by_what_they_write(name):
    arch = Architecture.mlp((2, 6, 5, 2), name)
    x = networks(arch, 4)
    x.weights[0][:, 3] = x.weights[0][:, 1]
    x.biases[0][:, 3] = x.biases[0][:, 1]
    x.weights[1][:, 2] = x.weights[1][:, 4]  # in the second layer, with equal columns as well
    x.biases[1][:, 2] = x.biases[1][:, 4]
    x.weights[2][:, :, 2] = x.weights[2][:, :, 4]
    assert_same(canonical(act(x, symmetry(arch, 4))), canonical(x), 1e-7)


@pytest.mark.parametrize("name", ["sine", "tanh", "relu", "gelu", "gaussian", "abs", "cosine"])
def test_dead_neurons(name):
    arch = Architecture.mlp((2, 6, 5, 2), name)
    x = networks(arch, 4)
    for dead in (1, 4):  # no input at all
        x.weights[0][:, dead] = 0
        x.biases[0][:, dead] = 0
    x.weights[2][:, :, 3] = 0  # no output at all
    y = canonical(x)
    same_function(y, x)
    assert_same(canonical(act(x, symmetry(arch, 4))), y, 1e-7)
    assert_same(canonical(y), y, 1e-7)


@pytest.mark.parametrize("name", ["sine", "tanh", "relu"])
def test_all_zero_networks(name):
    x = networks(Architecture.mlp((2, 4, 4, 1), name), 2, std=0.0)
    assert_same(canonical(x), x)


def test_zero_hidden_biases_stay_zero():
    x = networks(SINE, 4)
    for bias in x.biases[:2]:
        bias.zero_()
    y = canonical(act(x, symmetry(SINE, 4)))
    assert_same(y, canonical(x))
    assert all(bias.abs().max() < 1e-12 for bias in y.biases[:2])


def test_a_part_of_the_group():
    x = networks(SINE, 3)
    group = canonicalize(x, symmetry="permutation")
    assert group.scale == (None, None)
    assert group.shift == (None, None)


def test_balanced_norms():
    arch = Architecture.mlp((2, 8, 7, 3), "relu")
    x = networks(arch, 4)
    y = act(x, balance(x, resolve(arch, "auto")))
    for l in (0, 1):
        incoming = y.weights[l].square().sum(2) + y.biases[l].square()
        torch.testing.assert_close(incoming, y.weights[l + 1].square().sum(1))
    assert torch.all(y.flatten().norm(dim=-1) <= x.flatten().norm(dim=-1))


# -- degenerate networks -----------------------------------------------------------------------------------


def degenerate(arch, kind, count, seed):
    """Networks with many ties: pruned ones, few different weights, equal and opposite neurons."""
    generator = torch.Generator().manual_seed(seed)
    vector = networks(arch, count, seed=seed).flatten()
    if kind in ("whole", "sparse whole"):  # few different weights, so that most neurons have equals
        vector = torch.randint(-1, 2, vector.shape, generator=generator).double()
    if kind in ("half", "sparse", "sparse whole", "nearly nothing"):
        share = {"half": 0.5, "nearly nothing": 0.04}.get(kind, 0.15)
        vector = vector * (torch.rand(vector.shape, generator=generator) < share)
    x = WeightSpaceElement.unflatten(arch, vector.clone())
    if kind == "equal":
        for tensor in x.tensors():
            if tensor.shape[1] >= 4:
                tensor[:, 1], tensor[:, 3] = tensor[:, 0], -tensor[:, 2]
    return x


KINDS = ("half", "sparse", "nearly nothing", "whole", "sparse whole", "equal")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ARCHITECTURES), st.sampled_from(KINDS), st.integers(0, 10**6))
def test_degenerate_networks(arch, kind, seed):
    x = degenerate(arch, kind, 4, seed)
    y = canonical(x)
    moved = act(x, symmetry(arch, 4, seed=seed))
    same_function(y, x)
    assert_same(canonical(moved), y, 1e-7)
    assert_same(canonical(y), y, 1e-7)
    assert distance(x, moved).max() < 1e-6
    other = degenerate(arch, kind, 4, seed + 1)
    apart = distance(x, other)
    torch.testing.assert_close(distance(moved, act(other, symmetry(arch, 4, seed=seed + 1))), apart)
    torch.testing.assert_close(distance(other, x), apart)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tanh", "gaussian", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_permutations_and_signs_are_exact_in_half_precision(dtype, name, kind):
    arch = Architecture.mlp((2, 8, 8, 1), name)
    x = degenerate(arch, kind, 10, 3).to(dtype)
    y = canonical(x)
    assert torch.equal(canonical(act(x, symmetry(arch, 10, dtype=dtype))).flatten(), y.flatten())
    assert torch.equal(canonical(y).flatten(), y.flatten())


def test_phases_and_scales_do_not_change_the_form_beyond_rounding():
    for arch in (SINE, Architecture.mlp((2, 8, 8, 1), "relu")):
        x = degenerate(arch, "equal", 50, 5).to(torch.float32)
        assert_same(canonical(act(x, symmetry(arch, 50, dtype=torch.float32))), canonical(x), 1e-4)


def test_equal_parts_of_a_network_may_change_places():
    # Two chains of neurons that differ in their second weight alone: no neuron of the first layer differs by itself.
    arch = Architecture.mlp((1, 2, 2, 1), "tanh", bias=False)
    one, two = torch.ones(1, 2, 1), torch.ones(1, 1, 2)
    x = WeightSpaceElement(arch, (one, torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]), two), (None,) * 3)
    y = WeightSpaceElement(arch, (one, torch.tensor([[[3.0, 0.0], [0.0, 2.0]]]), two), (None,) * 3)
    crossed = WeightSpaceElement(arch, (one, torch.tensor([[[0.0, 2.0], [3.0, 0.0]]]), two), (None,) * 3)
    assert_same(canonical(x), canonical(y))
    assert_same(canonical(x), canonical(crossed))


def test_scales_of_neurons_that_are_cut_off_stay_within_half_precision():
    arch = Architecture.mlp((2, 8, 8, 1), "abs")
    x = networks(arch, 100, seed=3).flatten()
    x = x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.1)
    y = canonical(WeightSpaceElement.unflatten(arch, x).to(torch.float16))
    assert torch.all(y.flatten().isfinite())


def test_a_neuron_that_only_its_bias_feeds_is_balanced_like_any_other():
    arch = Architecture.mlp((2, 8, 7, 3), "relu")
    x = networks(arch, 2)
    x.weights[0][:, 3] = 0.0
    y = act(x, balance(x, resolve(arch, "auto")))
    for l in (0, 1):
        incoming = y.weights[l].square().sum(2) + y.biases[l].square()
        torch.testing.assert_close(incoming, y.weights[l + 1].square().sum(1))


def test_neurons_that_differ_a_little_are_not_taken_for_equal():
    arch = Architecture.mlp((2, 24, 3), "tanh")
    x = networks(arch, 1)
    for tensor in x.tensors():
        if tensor.shape[1] == 24:
            tensor[:] = tensor[:, :1]
    x.weights[0][0, :, 1] += 1e-5 * torch.rand(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.weights[1][:] = x.weights[1][:, :, :1]
    form = act(x, canonicalize(x))
    for seed in range(5):
        moved = act(x, symmetry(arch, 1, seed=seed))
        pairs = zip(act(moved, canonicalize(moved)).tensors(), form.tensors(), strict=True)
        assert all(torch.equal(got, expected) for got, expected in pairs)
