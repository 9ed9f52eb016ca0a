"""Frequencies absorbed and conventions converted: compared by evaluating the networks."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightaug as wa
from tests.networks import RESIDUAL, assert_same, elements, random_element
from weightaug import Activation, Architecture, WeightSpaceElement, convert
from weightaug.fitting import CONVENTIONS, pixel_grid
from weightaug.functional import absorb_omega

NAMES = list(CONVENTIONS)


def image(element: WeightSpaceElement, name: str) -> torch.Tensor:
    """What a network shows on 5 x 7 pixels, from black (0) to white (1)."""
    convention = CONVENTIONS[name]  # type: ignore[index]
    low, high = convention.target_range
    points = pixel_grid(5, 7, order=convention.coordinates, dtype=torch.float64)
    return (element(points) - low) / (high - low)


@given(elements(batches=st.sampled_from([(), (3,)])), st.floats(0.1, 50.0))
def test_omega_moves_into_the_weights_and_back(element: WeightSpaceElement, omega: float) -> None:
    x = torch.rand(6, element.architecture.inputs[0].size, dtype=torch.float64)
    absorbed = absorb_omega(element, omega)
    assert all(s.activation is not None and s.activation.omega == omega for s in absorbed.architecture.hidden)
    torch.testing.assert_close(absorbed(x), element(x), rtol=1e-9, atol=1e-9)
    own = [s.activation.omega for s in element.architecture.hidden if s.activation]
    back = absorb_omega(absorb_omega(element), own)
    assert back.architecture == element.architecture
    for a, b in zip(back.tensors(), element.tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)


def test_omega_of_single_spaces_and_what_is_refused() -> None:
    element = random_element(RESIDUAL, (2,))
    x = torch.rand(6, 2, dtype=torch.float64)
    changed = absorb_omega(element, (None, 5.0))
    torch.testing.assert_close(changed(x), element(x), rtol=1e-11, atol=1e-11)
    assert changed.weights[0] is element.weights[0]
    with pytest.raises(ValueError, match="omega: expected one for each of 2 hidden spaces, got 1"):
        absorb_omega(element, (1.0,))
    with pytest.raises(ValueError, match="omega must be a positive finite number"):
        absorb_omega(element, 0.0)


@pytest.mark.parametrize(("source", "to"), list(itertools.product(NAMES, NAMES)))
def test_a_converted_network_shows_the_same_image(source: str, to: str) -> None:
    convention = CONVENTIONS[source]  # type: ignore[index]
    element = random_element(convention.architecture((2, 8, 8, 3)), (4,))
    before = element.clone()
    converted = convert(element, to, source=source)  # type: ignore[arg-type]
    torch.testing.assert_close(image(converted, to), image(element, source), rtol=1e-12, atol=1e-12)
    assert_same(element, before)
    assert converted.architecture.convention == to
    assert converted.architecture.output_offset == CONVENTIONS[to].output_offset  # type: ignore[index]
    back = convert(converted, source)  # type: ignore[arg-type]
    assert [torch.equal(a, b) for a, b in zip(back.tensors(), element.tensors(), strict=True)] == [True] * 6


def test_networks_of_another_omega_and_of_none_of_the_conventions_values() -> None:
    element = random_element(Architecture.siren((2, 8, 8, 1), omega=20.0, first_omega=60.0, output_offset=0.25), (2,))
    converted = convert(element, "siren", source="authors")
    torch.testing.assert_close(image(converted, "siren"), image(element, "authors"), rtol=1e-11, atol=1e-11)
    assert {s.activation for s in converted.architecture.hidden} == {Activation("sine", 30.0)}


def test_the_convention_is_recorded(tmp_path: Path) -> None:
    plain = Architecture.siren((2, 8, 1), output_offset=0.5)
    element = convert(random_element(plain, (3,)), "nfn", source="authors")
    arch = element.architecture
    assert "convention" not in plain.to_dict()
    assert Architecture.from_json(arch.to_json()) == arch
    assert pickle.loads(pickle.dumps(arch)) == copy.deepcopy(arch) == arch
    assert hash(pickle.loads(pickle.dumps(arch))) == hash(arch)
    wa.io.save(tmp_path / "set", element)
    assert wa.io.load(tmp_path / "set").element.architecture.convention == "nfn"
    other = convert(element, "siren")
    with pytest.raises(ValueError, match="differ in convention 'nfn' and 'siren'"):
        wa.cat([element, other])
    assert wa.Permute()(element).architecture == arch
    with pytest.raises(TypeError, match="convention: expected a string"):
        Architecture(plain.spaces, plain.layers, convention=3)  # type: ignore[arg-type]


def test_what_cannot_be_converted_is_refused() -> None:
    element = random_element(Architecture.siren((2, 8, 1)))
    with pytest.raises(ValueError, match=r"does not say of which convention .*give source='authors'"):
        convert(element, "nfn")
    with pytest.raises(ValueError, match=r"to: expected one of \['authors', 'siren', 'nfn'\], got 'sirens'"):
        convert(element, "sirens", source="nfn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="source: expected one of"):
        convert(element, "nfn", source="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="source='authors', but the architecture says 'siren'"):
        convert(convert(element, "siren", source="nfn"), "nfn", source="authors")
    with pytest.raises(ValueError, match=r"expected sines in all hidden spaces, not in \['hidden1'\]"):
        convert(random_element(Architecture.mlp((2, 8, 1), "relu")), "nfn", source="siren")
    with pytest.raises(ValueError, match="one input space of size 2"):
        convert(random_element(Architecture.siren((3, 8, 1))), "nfn", source="siren")
    bare = Architecture.mlp((2, 8, 1), Activation("sine", 30.0), bias=False)
    with pytest.raises(ValueError, match="has a bias, which has to take the constant -1"):
        convert(random_element(bare), "siren", source="authors")
