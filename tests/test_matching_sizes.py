"""Matching of large, small and equal numbers, and what cannot be told apart."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests.test_matching import (
    ARCHITECTURES,
    SINE,
    networks,
    solver,  # noqa: F401  (an autouse fixture: with numba and without)
    squared,
    symmetry,
)
from weightaug import Activation, Architecture, act
from weightaug.matching import distance, match


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([x for x in ARCHITECTURES if x.hidden]),
    st.integers(0, 10**6),
    st.sampled_from([1e-200, 1e-100, 1e77, 1e120, 1e160, 1e250]),
)
def test_the_size_of_weights_changes_no_assignment(arch, seed, size):
    # Powers of two move no digit, so that the answer is the same one. Biases of half periods have a size of their own,
    # and scales are balanced before.
    factor = 2.0 ** round(math.log2(size))
    rule = tuple({"permutation", "sign"} & {n for s in arch.hidden for n in s.activation.symmetries})
    a, b = networks(arch, 3, seed=seed), networks(arch, 3, seed=seed + 1)
    expected = match(a, b, symmetry=rule)
    found = match(a.map(lambda t: t * factor), b.map(lambda t: t * factor), symmetry=rule)
    for p, q in zip(found.permutation, expected.permutation, strict=True):
        assert torch.equal(p, q)


def test_pairs_of_very_different_sizes_in_one_batch():
    a, b = networks(SINE, 3), networks(SINE, 3, seed=1)
    size = torch.tensor([2.0**-600, 1.0, 2.0**600], dtype=torch.float64)

    def sized(x):
        return x.map(lambda t: t * size.view(-1, *(1,) * (t.dim() - 1)))

    alone = match(a, b, symmetry="sign")
    for p, q in zip(match(sized(a), sized(b), symmetry="sign").permutation, alone.permutation, strict=True):
        assert torch.equal(p, q)


def test_phases_of_small_weights_are_found_and_lost_ones_refused():
    small = networks(SINE, 6).map(lambda t: t * 1e-160)  # far below a half period
    copy = act(small, symmetry(SINE, 6)).map(lambda t: t.clone())
    permuted = match(small, copy).permutation
    assert all(torch.equal(p.sort(1).values, torch.arange(8).expand(6, 8)) for p in permuted)
    with pytest.raises(ValueError, match=r"layer0\.bias.*2\^50 half periods.*symmetry=\('permutation', 'sign'\)"):
        match(small, small.map(lambda t: t + 1e77))


def alike(arch, kind, seed, batch=4):
    """Networks with neurons that look alike: by what they read, by what they read and write, or mostly zero."""
    x = networks(arch, batch, seed=seed).map(lambda t: t.clone())
    if kind == "pruned":
        generator = torch.Generator().manual_seed(seed)
        return x.map(lambda t: t * (torch.rand(t.shape, generator=generator) < 0.4))
    for l in range(len(arch.layers) - 1):
        for t in (x.weights[l], x.biases[l]):
            t[:, 1], t[:, 2] = t[:, 0], t[:, 3]
    if kind == "rows and columns":
        for w in x.weights[1:]:
            w[:, :, 4] = w[:, :, 0]
    return x


@pytest.mark.parametrize("kind", ["rows", "rows and columns", "pruned"])
@pytest.mark.parametrize(
    "activation", ["tanh", "gelu", "gaussian", Activation("sine", 30.0), Activation("cosine", 5.0)]
)
def test_copies_whose_neurons_look_alike_are_found(activation, kind):
    for sizes in ((2, 8, 8, 1), (2, 8, 8, 8, 1)):
        a = alike(Architecture.mlp(sizes, activation), kind, seed=len(sizes))
        b = act(a, symmetry(a.architecture, len(a), seed=1))
        found = act(b, match(a, b))
        assert squared(a, found).max() < 1e-18
        assert distance(a, b).max() < 1e-9


def test_a_pair_of_very_different_sizes_is_matched_as_if_they_were_alike():
    a, b = networks(SINE, 3), networks(SINE, 3, seed=1)
    expected = match(a, b, symmetry="sign")
    found = match(a.map(lambda t: t * 1e-9), b.map(lambda t: t * 1e9), symmetry="sign")
    for p, q in zip(found.permutation, expected.permutation, strict=True):
        assert torch.equal(p, q)
