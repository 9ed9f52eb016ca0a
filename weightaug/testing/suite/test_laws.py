"""What the installed package promises, held against it on this machine, with the versions that are installed here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import weightaug as wa
from weightaug import adapters, io, matching
from weightaug.testing import assert_close, assert_equal, assert_same_function, check_transform
from weightaug.testing.battery import EXAMPLES, check_everywhere
from weightaug.testing.networks import random_element
from weightaug.testing.suite.examples import (
    OF_HEADS,
    OF_PAIRS,
    OF_STREAMS,
    TRANSFORMS,
    encoders,
    low_rank_pairs,
    public_transforms,
    streams,
)

every_architecture = pytest.mark.parametrize("architecture", EXAMPLES, ids=str)


def generator(seed: int = 0) -> torch.Generator:
    """A generator with a seed."""
    return torch.Generator().manual_seed(seed)


def test_every_public_transform_is_here() -> None:
    """A transform that comes must come here, too."""
    tested = {type(transform) for transform in (*TRANSFORMS, *OF_HEADS, *OF_PAIRS, *OF_STREAMS)}
    assert public_transforms() == tested


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_transforms_obey_the_laws(transform: wa.Transform) -> None:
    """On every example that the transform accepts."""
    assert check_everywhere(transform)


@pytest.mark.parametrize("transform", OF_HEADS, ids=repr)
def test_transforms_of_heads_obey_the_laws(transform: wa.Transform) -> None:
    """And the traced modules compute what they computed."""
    networks = encoders(3)
    check_transform(transform, networks, graph=False)
    x = torch.randn(2, 3, 8, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(transform(networks, generator=generator())(x), networks(x))


@pytest.mark.parametrize("transform", OF_STREAMS, ids=repr)
def test_transforms_of_streams_obey_the_laws(transform: wa.Transform) -> None:
    """And the traced modules compute what they computed."""
    networks = streams(3)
    check_transform(transform, networks, graph=False)
    x = torch.randn(5, 4, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(transform(networks, generator=generator())(x), networks(x))


@pytest.mark.parametrize("transform", OF_PAIRS, ids=repr)
def test_transforms_of_pairs_obey_the_laws(transform: wa.Transform) -> None:
    """And the products stay."""
    pairs = low_rank_pairs(3)
    check_transform(transform, pairs, graph=False)
    moved = transform(pairs, generator=generator())
    for before, after in zip(matching.lora_products(pairs), matching.lora_products(moved), strict=True):
        torch.testing.assert_close(after, before)


@every_architecture
def test_symmetries_form_a_group(architecture: wa.Architecture) -> None:
    """Inverse and composition do what they say to the networks."""
    networks = random_element(architecture, (4,))
    first = matching.match(networks, random_element(architecture, (4,), seed=1))
    second = matching.match(networks, random_element(architecture, (4,), seed=2))
    assert_close(wa.act(wa.act(networks, first), first.inverse()), networks, "inverse", rtol=1e-9, atol=1e-10)
    twice = wa.act(wa.act(networks, first), second)
    assert_close(wa.act(networks, second @ first), twice, "composition", rtol=1e-9, atol=1e-10)
    assert_same_function(networks, twice)


@every_architecture
def test_alignment_never_moves_networks_apart(architecture: wa.Architecture) -> None:
    """The aligned network is as near as before or nearer, and computes the same function."""
    a, b = random_element(architecture, (8,)), random_element(architecture, (8,), seed=1)
    aligned = wa.act(b, matching.match(a, b))
    before, after = ((a.flatten() - x.flatten()).square().sum(-1) for x in (b, aligned))
    assert bool((after <= before * (1 + 1e-9)).all())
    assert_same_function(b, aligned)


@every_architecture
def test_one_canonical_form_for_an_orbit(architecture: wa.Architecture) -> None:
    """However the neurons are ordered, the canonical form is one."""
    networks = random_element(architecture, (4,))
    moved = wa.Permute()(networks, generator=generator())
    forms = [wa.act(x, matching.canonicalize(x)) for x in (networks, moved)]
    assert_close(forms[0], forms[1], "canonical form", rtol=1e-8, atol=1e-10)


@every_architecture
def test_files_and_state_dicts_keep_every_bit(architecture: wa.Architecture, tmp_path: Path) -> None:
    """What is written is what is read."""
    networks = random_element(architecture, (3,), dtype=torch.float32)
    io.save(tmp_path / "networks", networks)
    assert_equal(io.load(tmp_path / "networks").element, networks, "a store")
    states = adapters.to_state_dicts(networks)
    assert_equal(adapters.from_state_dicts(states, architecture), networks, "state dicts")
