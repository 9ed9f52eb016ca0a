"""Canonical forms: one representative per orbit."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests.test_matching import ARCHITECTURES, SINE, assert_same, each_architecture, networks, same_function, symmetry
from weightaug import Architecture, act
from weightaug.matching import canonicalize
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
