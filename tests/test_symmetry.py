"""What the laws do not say about symmetries: ranges, compensation, algebra, errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightaug.functional as F
from weightaug import (
    Activation,
    Architecture,
    GroupElement,
    Kind,
    Layer,
    Permute,
    ReLUScale,
    SirenBias,
    SirenNegation,
    Space,
    _operations,
    act,
)
from weightaug.testing import architectures, assert_close, assert_equal, assert_same_function, elements, random_element

SIREN = Architecture.siren((2, 16, 16, 1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_group(element, seed: int) -> GroupElement:
    """A product of everything that the activations allow."""
    group = Permute().sample(element, generator=generator(seed))
    for transform in (SirenNegation(), SirenBias(k_max=3), ReLUScale(max_scale=4.0)):
        if transform._slots(element.architecture):
            group = transform.sample(element, generator=generator(seed + 1)) @ group
    return group


@given(elements(), st.integers(0, 99))
def test_every_product_of_symmetries_preserves_the_function(element, seed):
    assert_same_function(element, act(element, random_group(element, seed)))


@given(elements(), st.integers(0, 99))
def test_inverse_undoes(element, seed):
    group = random_group(element, seed)
    assert_close(group.inverse()(group(element)), element, rtol=1e-9, atol=1e-12)
    assert_close((group @ group.inverse())(element), element, rtol=1e-9, atol=1e-12)


@given(elements(), st.integers(0, 99))
def test_composition_is_one_after_the_other(element, seed):
    g, h, f = (random_group(element, seed + i) for i in (0, 100, 200))
    assert_close((g @ h)(element), g(h(element)), rtol=1e-9, atol=1e-12)
    assert_close(((g @ h) @ f)(element), (g @ (h @ f))(element), rtol=1e-9, atol=1e-12)
    identity = GroupElement.identity(element.architecture)
    assert_equal(identity(element), element)
    assert_equal((identity @ g)(element), g(element))


@given(elements(architectures(bias=True), batch_shapes=[(2,)]), st.integers(0, 99))
def test_momenta_and_gradients_follow_the_weights(element, seed):
    group = random_group(element, seed)
    moved = group(element)
    # A step before the symmetry is the moved step after it.
    step = random_element(element.architecture, (2,), seed=7)
    there = group(_operations.zipped(torch.add, element, step))
    assert_close(there, _operations.zipped(torch.add, moved, act(step, group, Kind.TANGENT)), rtol=1e-8, atol=1e-9)
    # The gradient at the moved weights is the moved gradient.
    x = torch.linspace(-1, 1, 5 * element.architecture.inputs[0].size, dtype=torch.float64).view(5, -1)

    def gradient(at):
        leaves = at.map(lambda t: t.detach().requires_grad_())
        grads = iter(torch.autograd.grad(leaves(x).square().sum(), leaves.tensors()))
        return _rebuild(leaves, grads)

    assert_close(gradient(moved), act(gradient(element), group, Kind.COTANGENT), rtol=1e-6, atol=1e-7)


def _rebuild(like, grads):
    weights, biases = [], []
    for bias in like.biases:
        weights.append(next(grads))
        biases.append(None if bias is None else next(grads))
    return type(like)(like.architecture, tuple(weights), tuple(biases))


def test_one_network_and_many_group_elements_give_an_orbit():
    element = random_element(SIREN)
    group = random_group(random_element(SIREN, (5,)), 0)
    orbit = group(element)
    assert orbit.batch_shape == (5,)
    assert_same_function(element.map(lambda t: t.expand(5, *t.shape)), orbit)


def test_many_networks_and_one_group_element():
    element = random_element(SIREN, (2, 3))
    group = random_group(random_element(SIREN), 0)
    moved = group(element)
    assert_equal(moved[1, 2], group(element[1, 2]))
    assert_same_function(element, moved)


def test_group_elements_are_joined_if_they_fit():
    x = random_element(SIREN, (5,))
    group = random_group(x, seed=3)
    assert_equal(act(x, GroupElement.cat([group[:2], group[2:]])), act(x, group))
    with pytest.raises(ValueError, match="at least one"):
        GroupElement.cat([])
    with pytest.raises(ValueError, match="same spaces"):
        GroupElement.cat([group, GroupElement.identity(SIREN)])


def test_negation_flips_the_stated_share_of_neurons():
    element = random_element(SIREN, (2000,), dtype=torch.float32)
    signs = torch.cat(SirenNegation(p=0.3).sample(element, generator=generator()).scale, -1)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    share = float((signs < 0).float().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.21 / signs.numel())
    assert torch.equal(SirenNegation(p=1.0).sample(element).scale[0].unique(), torch.tensor([-1.0]))


def test_phase_shifts_are_symmetric_and_use_the_omega_of_their_space():
    arch = Architecture.siren((2, 16, 16, 1), omega=30.0, first_omega=7.0)
    element = random_element(arch, (500,))
    group = SirenBias(k_max=4).sample(element, generator=generator())
    for k in group.shift:
        assert set(k.unique().tolist()) == set(range(-4, 5))
        assert abs(float(k.double().mean())) < 0.15
    moved = act(element, group)
    for layer, omega in ((0, 7.0), (1, 30.0)):
        turns = (moved.biases[layer] - element.biases[layer]) * omega / math.pi
        assert torch.allclose(turns, group.shift[layer].double(), atol=1e-9)


def test_scales_are_log_uniform_and_invertible_alike():
    element = random_element(Architecture.mlp((2, 16, 16, 1), "relu"), (500,))
    logs = torch.cat([s.log() for s in ReLUScale(max_scale=5.0).sample(element, generator=generator()).scale], -1)
    assert float(logs.abs().max()) <= math.log(5.0)
    assert float(logs.abs().max()) > 0.99 * math.log(5.0)
    assert abs(float(logs.mean())) < 0.05
    assert abs(float(logs.std()) - 2 * math.log(5.0) / math.sqrt(12)) < 0.02


def test_permutations_are_permutations():
    element = random_element(SIREN, (300,))
    for p in Permute().sample(element, generator=generator()).permutation:
        assert torch.equal(p.sort(-1).values, torch.arange(16).expand(300, 16))
        counts = torch.bincount(p[:, 0], minlength=16)
        assert counts.min() > 3, "every neuron reaches the first place sometimes"


def test_mixed_networks_are_changed_where_the_activation_allows_it():
    arch = Architecture.mlp((2, 5, 6, 7, 1), ["sine", "relu", "gelu"])
    element = random_element(arch, (4,))
    assert [s is not None for s in SirenNegation().sample(element).scale] == [True, False, False]
    assert [s is not None for s in ReLUScale().sample(element).scale] == [False, True, False]
    assert [s is not None for s in SirenBias().sample(element).shift] == [True, False, False]


@pytest.mark.parametrize(
    ("transform", "architecture", "words"),
    [
        (
            SirenNegation(),
            Architecture.mlp((2, 4, 1), "relu"),
            ["SirenNegation", "odd", "hidden1", "'relu'", "ReLUScale"],
        ),
        (SirenBias(), Architecture.mlp((2, 4, 1), "tanh"), ["SirenBias", "sine", "hidden1", "'tanh'", "SirenNegation"]),
        (SirenBias(), Architecture.mlp((2, 4, 1), "sine", bias=False), ["SirenBias", "bias"]),
        (ReLUScale(), SIREN, ["ReLUScale", "homogeneous", "hidden2", "'sine'"]),
        (Permute(), Architecture.mlp((2, 1), "relu"), ["Permute", "no hidden space"]),
        (SirenNegation(), Architecture.mlp((2, 4, 1), "sigmoid"), ["'sigmoid'", "Permute"]),
    ],
)
def test_the_wrong_architecture_is_refused(transform, architecture, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        transform(random_element(architecture, (2,)))
    for word in words:
        assert word in str(error.value)


def test_an_unknown_activation_warns_and_can_only_be_permuted():
    with pytest.warns(UserWarning, match="did you mean 'tanh'"):
        activation = Activation("tahn")
    assert activation.symmetries == ("permutation",)
    arch = Architecture.mlp((2, 4, 1), activation)
    element = random_element(arch, (2,))
    Permute()(element)
    with pytest.raises(ValueError, match="'tahn' \\(unknown\\)"):
        SirenNegation()(element)
    with pytest.raises(ValueError, match="cannot evaluate the unknown activation 'tahn'"):
        element(torch.zeros(1, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SirenNegation(p=1.5),
        lambda: SirenNegation(p=float("nan")),
        lambda: SirenBias(k_max=-1),
        lambda: ReLUScale(max_scale=0.5),
        lambda: ReLUScale(max_scale=float("inf")),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_group_elements_refuse_what_the_activation_does_not_allow():
    relu = Architecture.mlp((2, 4, 1), "relu")
    with pytest.raises(ValueError, match="phase shift needs a sine or cosine"):
        GroupElement.of(relu, shift=(torch.ones(4, dtype=torch.long),))
    with pytest.raises(ValueError, match="a factor needs an odd, even or positively homogeneous"):
        GroupElement.of(Architecture.mlp((2, 4, 1), "gelu"), scale=(torch.ones(4),))
    with pytest.raises(ValueError, match="another architecture"):
        act(random_element(relu), GroupElement.identity(SIREN))
    with pytest.raises(ValueError, match="expected one entry for each of 2 hidden spaces"):
        F.permute(random_element(SIREN), [None])


def test_a_call_on_tensors_says_what_to_do():
    with pytest.raises(TypeError, match=r"weightaug\.adapters"):
        SirenNegation()(torch.zeros(2))


def test_convolutions_are_acted_on():
    spaces = (Space("image", 3), Space("h", 4, Activation("relu")), Space("g", 5, Activation("relu")), Space("out", 2))
    layers = (Layer("c1", "image", "h", (3, 3)), Layer("c2", "h", "g", (3, 3)), Layer("c3", "g", "out", (1, 1)))
    arch = Architecture(spaces, layers)
    element = random_element(arch, (2,))
    group = random_group(element, 3)
    moved = group(element)

    def run(e, i):
        x = torch.ones(1, 3, 8, 8, dtype=torch.float64).cumsum(-1)
        for layer in range(3):
            x = torch.nn.functional.conv2d(x, e.weights[layer][i], e.biases[layer][i])
            x = x.relu() if layer < 2 else x
        return x

    for i in range(2):
        assert torch.allclose(run(moved, i), run(element, i), rtol=1e-9)
    assert not torch.equal(moved.weights[1], element.weights[1])
