"""Wider and narrower networks: compared by evaluating them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightaug as wa
from tests.networks import RESIDUAL, SIREN, assert_same, elements, random_element
from weightaug import Architecture, Layer, Space, WeightSpaceElement
from weightaug.functional import merge_duplicates, widen


def points(element: WeightSpaceElement) -> torch.Tensor:
    return torch.rand(6, element.architecture.inputs[0].size, dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(elements(batches=st.sampled_from([(), (3,), (2, 2)])), st.integers(0, 9), st.integers(0, 9))
def test_wider_networks_compute_the_same_function(element: WeightSpaceElement, extra: int, seed: int) -> None:
    sizes = [space.size + (extra + i) % 5 for i, space in enumerate(element.architecture.hidden)]
    wide, x = widen(element, sizes, generator=seeded(seed)), points(element)
    assert [space.size for space in wide.architecture.hidden] == sizes
    wide.validate()
    torch.testing.assert_close(wide(x), element(x), rtol=1e-10, atol=1e-10)
    assert_same(widen(element, sizes, generator=seeded(seed)), wide)


@given(elements(batches=st.sampled_from([(), (3,)])), st.integers(0, 9))
def test_merging_undoes_widening(element: WeightSpaceElement, seed: int) -> None:
    sizes = [space.size + 1 + seed % 4 for space in element.architecture.hidden]
    wide, x = widen(element, sizes, generator=seeded(seed)), points(element)
    shuffled = wa.Permute()(wide, generator=seeded(seed)) if sizes else wide
    for merged in (merge_duplicates(wide), merge_duplicates(shuffled)):
        assert merged.architecture == element.architecture
        torch.testing.assert_close(merged(x), element(x), rtol=1e-10, atol=1e-10)
    for a, b in zip(merge_duplicates(wide).tensors(), element.tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_a_branched_network_and_one_of_several_widths() -> None:
    element, x = random_element(RESIDUAL, (4,)), torch.rand(6, 2, dtype=torch.float64)
    sizes = [space.size + 3 for space in RESIDUAL.hidden]
    torch.testing.assert_close(widen(element, sizes)(x), element(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(merge_duplicates(widen(element, sizes))(x), element(x), rtol=1e-10, atol=1e-10)


def test_each_network_draws_its_own_copies() -> None:
    wide = widen(random_element(SIREN, (1,)).map(lambda t: t.expand(20, *t.shape[1:])), (9, 4), generator=seeded(0))
    copied = wide.weights[0][:, 5:].flatten(1)
    assert len(copied.unique(dim=0)) > 1
    state = torch.get_rng_state()
    widen(random_element(SIREN, (2,)), (9, 9), generator=seeded(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_networks_with_different_numbers_of_duplicates() -> None:
    element = random_element(SIREN, (3,)).map(torch.clone)
    for tensor in (element.weights[0], element.biases[0]):
        assert tensor is not None
        tensor[0, 1] = tensor[0, 0]
        tensor[1, 2:5] = tensor[1, 1:2]
        tensor[2, 3] = tensor[2, 1]
    before, x = element.clone(), points(element)
    merged = merge_duplicates(element)
    assert [space.size for space in merged.architecture.hidden] == [4, 4]  # 4, 2 and 4 different neurons of 5
    torch.testing.assert_close(merged(x), element(x), rtol=1e-12, atol=1e-12)
    assert_same(element, before)
    assert merge_duplicates(merged).architecture == merged.architecture
    alone = merge_duplicates(element[1])
    assert alone.architecture.hidden[0].size == 2
    torch.testing.assert_close(alone(x), element[1](x), rtol=1e-12, atol=1e-12)


def test_later_neurons_that_become_equal_are_merged() -> None:
    arch = Architecture.mlp((1, 2, 2, 1), "tanh")
    rows = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)  # equal where both neurons before are
    one = torch.ones(2, 1, dtype=torch.float64)
    element = WeightSpaceElement(arch, (one, rows, one.mT), (one[:, 0], one[:, 0], one[0]))
    merged, x = merge_duplicates(element), torch.rand(5, 1, dtype=torch.float64)
    assert [space.size for space in merged.architecture.hidden] == [1, 1]
    torch.testing.assert_close(merged(x), element(x))


def test_nothing_to_do_and_empty_batches() -> None:
    element = random_element(SIREN, (2,))
    assert merge_duplicates(element) is element
    assert widen(element, (5, 4)) is element
    empty = random_element(SIREN, (0,))
    assert merge_duplicates(empty) is empty
    assert widen(empty, (6, 6)).batch_shape == (0,)


def test_convolutions_are_widened() -> None:
    arch = Architecture(
        (Space("x", 2), Space("h", 3, "relu"), Space("y", 2)),  # type: ignore[arg-type]
        (Layer("a", "x", "h", kernel=(3, 3)), Layer("b", "h", "y", kernel=(3, 3))),
    )
    element = random_element(arch, (2,))
    wide = widen(element, (5,), generator=seeded(0))
    image = torch.randn(1, 2, 8, 8, dtype=torch.float64)

    def evaluate(e: WeightSpaceElement) -> torch.Tensor:
        hidden = torch.conv2d(image, e.weights[0], e.biases[0]).relu()
        return torch.conv2d(hidden, e.weights[1], e.biases[1])

    for i in range(2):
        torch.testing.assert_close(evaluate(wide[i]), evaluate(element[i]))
    assert merge_duplicates(wide).architecture == arch


@pytest.mark.parametrize("sizes", [(5,), (4, 4), (5, 3), (5, 4, 4)])
def test_sizes_that_do_not_fit(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sizes: expected one for each hidden space, at least \(5, 4\), got"):
        widen(random_element(SIREN), sizes)
    with pytest.raises(TypeError, match="sizes: expected an int"):
        widen(random_element(SIREN), (5.0, 4.0))  # type: ignore[arg-type]
