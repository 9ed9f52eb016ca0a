"""Sets of networks: joint alignment, alignment to one, and the distance."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests.test_matching import (
    ARCHITECTURES,
    SINE,
    assert_same,
    networks,
    same_function,
    solver,  # noqa: F401  (an autouse fixture: with numba and without)
    squared,
    symmetry,
)
from weightaug import Activation, Architecture, GroupElement, act, stack
from weightaug.matching import align_to, many, match, match_many
from weightaug.matching.weight import solve


def test_align_to_one_reference():
    reference, planted = networks(SINE), symmetry(SINE, 4)
    batch = act(reference, planted)
    assert_same(act(batch, align_to(batch, reference)), reference.map(lambda t: t.expand(4, *t.shape)))
    with pytest.raises(ValueError, match="broadcasts"):
        align_to(batch, networks(SINE, 3))


@pytest.mark.parametrize("arch", [SINE, ARCHITECTURES[2]], ids=["siren", "relu"])
def test_match_many(arch):
    x = networks(arch, 2, 1).map(lambda t: t.expand(2, 4, *t.shape[2:]).clone())
    x = act(x, symmetry(arch, 2, 4))
    group, center = match_many(x)
    aligned = act(x, group)
    assert_same(aligned[:, 3], aligned[:, 0])
    assert_same(aligned[:, 0], x[:, 0])
    assert_same(center, x[:, 0])


def test_match_many_is_cycle_consistent_and_no_worse_than_one_reference():
    x = networks(SINE, 5)
    group, center = match_many(x)
    assert center.batch_shape == ()
    around = (group[0].inverse() @ group[1]) @ (group[1].inverse() @ group[2]) @ (group[2].inverse() @ group[0])
    assert_same(act(x[0], around), x[0])

    def inertia(y):
        return squared(y, y.map(lambda t: t.mean(0, keepdim=True))).sum()

    assert inertia(act(x, group)) <= inertia(act(x, align_to(x, x[0]))) + 1e-9
    with pytest.raises(ValueError, match="sets of networks"):
        match_many(x[0])


def spread(y):
    """The sum of squared distances to the mean, of sets of networks."""
    return (y.flatten() - y.flatten().mean(-2, keepdim=True)).square().sum((-1, -2))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ARCHITECTURES), st.integers(1, 4), st.sampled_from([0.1, 0.5, 5.0]), st.integers(0, 10**6))
def test_match_many_never_ends_farther_apart_than_it_began(arch, count, std, seed):
    x = networks(arch, 2, count, seed=seed, std=std)
    group, center = match_many(x)
    y = act(x, group)
    same_function(y, x)
    assert torch.all(spread(y) <= spread(x) * (1 + 1e-9) + 1e-12)
    assert_same(y[:, 0], x[:, 0])
    assert_same(center, y.map(lambda t: t.mean(1)))


def merge_many(x, generator, **options):
    """MergeMany of Git Re-Basin for a set of networks: each is aligned to the mean of the others until nothing changes.

    Ainsworth et al. (2022), algorithm 3, with any alignment of pairs. Returns them in the frame of the first one.
    """
    placed = [x[i] for i in range(len(x))]
    first = GroupElement.identity(x.architecture)
    while True:
        changed = False
        for i in torch.randperm(len(x), generator=generator).tolist():
            others = stack(placed[:i] + placed[i + 1 :]).map(lambda t: t.mean(0))
            group = match(others, placed[i], **options)
            new = act(placed[i], group)
            if squared(others, new) < squared(others, placed[i]) * (1 - 1e-9):
                placed[i], changed = new, True
                first = group @ first if i == 0 else first
        if not changed:
            return act(stack(placed), first.inverse())


@pytest.mark.parametrize("name", ["sine", "tanh", "gelu", "relu"])
@pytest.mark.parametrize("symmetry", ["permutation", "auto"])
def test_match_many_is_never_worse_than_merge_many(name, symmetry):
    arch = Architecture.mlp((2, 8, 8, 1), Activation(name, 30.0 if name == "sine" else 1.0))
    x = networks(arch, 6, 5, seed=2)
    options = {"symmetry": symmetry} | ({"starts": ("identity",)} if symmetry == "permutation" else {})
    ours = spread(act(x, match_many(x, symmetry=symmetry)[0]))
    for i in range(len(x)):
        theirs = merge_many(x[i], torch.Generator().manual_seed(i), **options)
        assert ours[i] <= spread(theirs) * (1 + 1e-9)


def test_every_step_of_a_joint_alignment_keeps_to_the_sweeps_that_are_asked_for(monkeypatch):
    seen = []

    def solved(*args, **options):
        seen.append(options["max_sweeps"])
        return solve(*args, **options)

    monkeypatch.setattr(many, "solve", solved)
    match_many(networks(SINE, 3), max_sweeps=7)
    assert len(seen) > 3
    assert set(seen) == {7}


def test_a_joint_alignment_needs_a_sweep():
    with pytest.raises(ValueError, match="max_sweeps: expected at least 1, got 0"):
        match_many(networks(SINE, 3), max_sweeps=0)
