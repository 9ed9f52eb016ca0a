"""Adapters: nothing is lost on the way there and back, modules compute what elements compute, misfits are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks import RESIDUAL, SIREN, assert_same, elements, mlps, random_element, share_memory
from weightaug import Activation, Architecture, Layer, Space, WeightSpaceElement
from weightaug.adapters import (
    from_dws,
    from_graph,
    from_modules,
    from_nfn,
    from_state_dicts,
    infer_architecture,
    to_dws,
    to_graph,
    to_modules,
    to_nfn,
    to_state_dicts,
)

RELU = Architecture.mlp((2, 5, 4, 3), "relu")


class Siren(nn.Module):
    """An INR as people write it: sines, a factor, an offset, and layers under a prefix of their own."""

    def __init__(self, sizes: tuple[int, ...] = (2, 5, 4, 3), omega: float = 30.0, offset: float = 0.5) -> None:
        super().__init__()
        self.net = nn.ModuleList(nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(sizes))
        self.omega, self.offset = omega, offset

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net[:-1]:
            x = torch.sin(self.omega * layer(x))
        return self.net[-1](x) + self.offset


class Residual(nn.Module):
    """The module that tests/networks.py's RESIDUAL describes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3, dtype=torch.float64)  # registered in another order than it is used
        self.first, self.second = nn.Linear(2, 4, dtype=torch.float64), nn.Linear(4, 4, dtype=torch.float64)
        self.skip = nn.Linear(2, 4, bias=False, dtype=torch.float64)
        self.short = nn.Linear(4, 3, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.tanh(self.first(x))
        b = torch.sin(3.0 * (self.second(a) + self.skip(x)))
        return self.last(b) + self.short(a) + 0.25


def relu_net(sizes: tuple[int, ...] = (2, 5, 4, 3)) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# -- round trips -------------------------------------------------------------------------------------

Pair = tuple[Callable[[WeightSpaceElement], Any], Callable[[Any, Architecture], WeightSpaceElement]]
LAYOUTS: dict[str, Pair] = {
    "dws": (to_dws, lambda d, a: from_dws(*d, a)),
    "nfn": (to_nfn, lambda d, a: from_nfn(*d, a)),
    "graph": (to_graph, lambda d, a: from_graph(*d, a)),
    "stacked": (lambda e: to_state_dicts(e, stacked=True), from_state_dicts),
}
NEEDS_BIAS = {"dws", "nfn"}


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
def test_round_trip_from_the_element(layout: str, data: st.DataObject) -> None:
    element = data.draw(elements(bias=True if layout in NEEDS_BIAS else None))
    write, read = LAYOUTS[layout]
    assert_same(read(write(element), element.architecture), element)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_from_the_other_side_is_made_of_views(layout: str) -> None:
    write, read = LAYOUTS[layout]
    foreign = write(random_element(SIREN, (3,)))
    element = read(foreign, SIREN)
    flat: Callable[[Any], list[Tensor]] = lambda f: torch.utils._pytree.tree_leaves(f)
    storages = {t.untyped_storage().data_ptr() for t in flat(foreign)}
    assert all(t.untyped_storage().data_ptr() in storages for t in element.tensors())
    for a, b in zip(flat(foreign), flat(write(element)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout", ["dws", "nfn", "stacked"])
def test_writing_makes_views(layout: str) -> None:
    element = random_element(SIREN, (3,))
    storages = {t.untyped_storage().data_ptr() for t in element.tensors()}
    leaves = torch.utils._pytree.tree_leaves(LAYOUTS[layout][0](element))
    assert all(t.untyped_storage().data_ptr() in storages for t in leaves)


@given(element=elements(batches=st.sampled_from([(), (1,), (3,)])))
def test_state_dicts_round_trip(element: WeightSpaceElement) -> None:
    assert_same(from_state_dicts(to_state_dicts(element), element.architecture), element)


def test_state_dicts_round_trip_of_a_branched_network() -> None:
    element = random_element(RESIDUAL, (3,))
    assert_same(from_state_dicts(to_state_dicts(element), RESIDUAL), element)
    assert_same(from_graph(*to_graph(element), RESIDUAL), element)


def test_gradients_flow_through_the_layouts() -> None:
    module = Siren()
    element = from_state_dicts(dict(module.named_parameters()), SIREN)
    weights, biases = to_dws(element)
    from_dws(weights, biases, SIREN)(torch.zeros(1, 2, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


# -- layouts are what they say -----------------------------------------------------------------------


def test_dws_layout() -> None:
    element = random_element(SIREN, (7,))
    weights, biases = to_dws(element)
    assert [tuple(w.shape) for w in weights] == [(7, 2, 5, 1), (7, 5, 4, 1), (7, 4, 3, 1)]
    assert [tuple(b.shape) for b in biases] == [(7, 5, 1), (7, 4, 1), (7, 3, 1)]
    assert weights[1][3, 4, 2, 0] == element.weights[1][3, 2, 4]
    single = from_dws([w[0] for w in weights], [b[0] for b in biases], SIREN)
    assert_same(single, element[0])


def test_nfn_reads_the_batches_of_nfn_itself() -> None:
    element = random_element(SIREN, (3,))
    batch = SimpleNamespace(**dict(zip(("weights", "biases"), to_nfn(element), strict=True)))  # WeightSpaceFeatures
    assert_same(from_nfn(batch, SIREN), element)
    with pytest.raises(TypeError, match="expected a batch with weights and biases before the architecture, got list"):
        from_nfn([1], SIREN)
    with pytest.raises(TypeError, match="expected an architecture"):
        from_nfn(batch.weights, batch.biases)


def test_nfn_layout_with_kernels() -> None:
    spaces = (Space("x", 2), Space("h", 3, Activation("relu")), Space("y", 4))
    conv = Architecture(spaces, (Layer("a", "x", "h", kernel=(5, 5)), Layer("b", "h", "y", kernel=(3,))))
    element = random_element(conv, (7,))
    weights, biases = to_nfn(element)
    assert [tuple(w.shape) for w in weights] == [(7, 1, 3, 2, 5, 5), (7, 1, 4, 3, 3)]
    assert [tuple(b.shape) for b in biases] == [(7, 1, 3), (7, 1, 4)]
    assert_same(from_nfn(weights, biases, conv), element)


def test_graph_layout() -> None:
    element = random_element(SIREN, (7,))
    nodes, edges = to_graph(element)
    assert nodes.shape == (7, 14, 1)
    assert edges.shape == (7, 14, 14, 1)
    assert torch.equal(nodes[:, :2], torch.zeros(7, 2, 1, dtype=torch.float64))
    assert torch.equal(nodes[:, 2:7, 0], element.biases[0])
    assert torch.equal(edges[:, 2:7, 7:11, 0], element.weights[1].mT)
    assert int(edges.ne(0).sum()) == 7 * (10 + 20 + 12)


# -- modules -----------------------------------------------------------------------------------------


def test_modules_compute_what_their_elements_compute() -> None:
    x = torch.randn(9, 2, dtype=torch.float64)
    nets = [Siren() for _ in range(3)]
    element = from_modules(nets, Activation("sine", omega=30.0), output_offset=0.5)
    assert element.architecture == Architecture.siren((2, 5, 4, 3), omega=30.0, output_offset=0.5)
    torch.testing.assert_close(element(x), torch.stack([net(x) for net in nets]), rtol=1e-10, atol=1e-10)
    back = to_modules(element, like=Siren())
    assert isinstance(back, list)
    for net, copied in zip(nets, back, strict=True):
        assert torch.equal(copied(x), net(x))


def test_one_module_gives_views_and_to_modules_gives_copies() -> None:
    net = Siren()
    element = from_modules(net, Activation("sine", omega=30.0), output_offset=0.5)
    assert element.batch_shape == ()
    assert share_memory(element.weights[0], net.net[0].weight)
    assert not any(t.requires_grad for t in element.tensors())
    copied = to_modules(element, like=net)
    assert isinstance(copied, Siren)
    assert copied.net[0].weight.requires_grad
    assert not share_memory(copied.net[0].weight, net.net[0].weight)


def test_sequential_activations_are_read() -> None:
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(2, 3),
        nn.GELU(),
        nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Tanh()),
        nn.Linear(4, 1),
    )
    arch = infer_architecture(net)
    assert arch == Architecture.mlp((2, 3, 4, 1), ["gelu", "tanh"])
    element = from_modules(net)
    assert element.dtype == torch.float32
    net.eval()
    x = torch.randn(5, 2)
    torch.testing.assert_close(element(x), net(x))


@given(arch=mlps(), count=st.integers(1, 3))
def test_built_modules_round_trip(arch: Architecture, count: int) -> None:
    names = [s.activation.name if s.activation and s.activation.name != "sine" else "relu" for s in arch.hidden]
    arch = Architecture.mlp([s.size for s in arch.spaces], names, bias=arch.layers[0].bias)
    element = random_element(arch, (count,))
    modules = to_modules(element)
    assert isinstance(modules, list)
    x = torch.randn(4, arch.inputs[0].size, dtype=torch.float64)
    torch.testing.assert_close(element(x), torch.stack([m(x) for m in modules]), rtol=1e-10, atol=1e-10)
    assert_same(from_modules(modules), element)


def test_a_branched_module_with_its_architecture() -> None:
    net = Residual()
    element = from_modules(net, architecture=RESIDUAL)
    x = torch.randn(9, 2, dtype=torch.float64)
    torch.testing.assert_close(element(x), net(x), rtol=1e-12, atol=1e-12)
    copied = to_modules(element, like=Residual())
    assert isinstance(copied, Residual)
    assert torch.equal(copied(x), net(x))


@pytest.mark.parametrize(
    ("activation", "offset"),
    [(Activation("sine"), 0.5), (Activation("sine", omega=30.0), 0.0), (Activation("tanh", omega=30.0), 0.5)],
    ids=["forgotten omega", "forgotten offset", "other activation"],
)
def test_a_wrong_convention_is_refused(activation: Activation, offset: float) -> None:
    with pytest.raises(ValueError, match=r"computes another function .* check activation= \(a SIREN's omega\)"):
        from_modules(Siren(), activation, output_offset=offset)
    from_modules(Siren(), activation, output_offset=offset, check_function=False)


def test_layers_registered_in_another_order_are_refused() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b, self.a = nn.Linear(4, 4, dtype=torch.float64), nn.Linear(4, 4, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    with pytest.raises(ValueError, match="the order of the layers in names="):
        from_modules(Swapped(), "relu")
    names = {"layer0": "a", "layer1": "b"}
    element = from_modules(Swapped(), "relu", names=names)
    with pytest.raises(ValueError, match="the order of the layers in names="):
        to_modules(element, like=Swapped())
    back = to_modules(element, like=Swapped(), names=names)
    assert isinstance(back, Swapped)
    assert torch.equal(back.a.weight, element.weights[0])


def test_deep_single_precision_modules_are_not_refused_for_rounding() -> None:
    net = Siren((2, *(32,) * 6, 3)).float()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3.0)  # chaotic: in single precision the outputs differ visibly
    assert from_modules(net, Activation("sine", omega=30.0), output_offset=0.5).dtype == torch.float32


def test_a_module_that_cannot_be_evaluated_says_how_to_go_on() -> None:
    class Broken(Siren):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("needs a camera")

    with pytest.raises(ValueError, match=r"could not be evaluated .*needs a camera; .*check_function=False"):
        from_modules(Broken(), Activation("sine", omega=30.0))
    from_modules(Broken(), Activation("sine", omega=30.0), check_function=False)


def test_reading_modules_has_no_side_effect() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.ReLU(), nn.Linear(3, 1))
    before, rng = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    from_modules(net)
    assert net.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Siren(), r"cannot tell the activations of a Siren: .*give activation="),
        (
            nn.Sequential(nn.Linear(2, 3), nn.PReLU(), nn.Linear(3, 1)),
            r"module '1': expected .* got PReLU, which has parameters or buffers of its own, .*no place: \['weight'\]",
        ),
        (
            nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(0.2), nn.Linear(3, 1)),
            r"module '1': .*negative_slope=0.01\), got negative_slope=0.2",
        ),
        (nn.Sequential(nn.Linear(2, 3), nn.GELU("tanh"), nn.Linear(3, 1)), r"got approximate='tanh'"),
        (
            nn.Sequential(nn.Linear(2, 3), nn.ReLU()),
            r"expected nn.Linear as the last module, got the activation 'relu'",
        ),
        (nn.Sequential(nn.Tanh(), nn.Linear(2, 3)), r"module '0': .* got 'tanh' before the first nn.Linear"),
        (
            nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.ReLU(), nn.Linear(3, 1)),
            r"module '2': .* got 'relu' right after another one \('tanh'\)",
        ),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(4, 1)), r"layer '2': expected 3 inputs, .* got 4"),
        (
            nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1)),
            r"expected a bias in every layer or in none, got \{'0': False, '2': True\}",
        ),
        (nn.Sequential(nn.Identity()), r"expected a module with nn.Linear layers, got none"),
    ],
)
def test_modules_that_cannot_be_inferred(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_modules(module)


def test_from_modules_arguments() -> None:
    with pytest.raises(ValueError, match="at least one module, got an empty sequence"):
        from_modules([])
    with pytest.raises(TypeError, match=r"module 1: expected an nn.Module, got dict"):
        from_modules([relu_net(), {}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="give either architecture= or activation="):
        from_modules(relu_net(), "relu", architecture=RELU)
    with pytest.raises(ValueError, match=r"module 1: expected the architecture of module 0, .* 2-5-4-3 and 2-6-4-3"):
        from_modules([relu_net(), relu_net((2, 6, 4, 3))])


def test_to_modules_asks_for_a_template() -> None:
    with pytest.raises(ValueError, match=r"no place for output_offset=0.5; give like="):
        to_modules(random_element(SIREN))
    with pytest.raises(ValueError, match=r"space 'hidden1': torch.nn has no module for sine\(omega=30\); give like="):
        to_modules(random_element(Architecture.siren((2, 3, 1))))
    with pytest.raises(ValueError, match=r"nn.Sequential layout holds one chain .*skip"):
        to_modules(random_element(RESIDUAL))
    with pytest.raises(ValueError, match=r"like: expected a module with the parameters .*'0.weight': \(5, 2\)"):
        to_modules(random_element(RELU), like=relu_net((2, 6, 4, 3)))


# -- refusals of the tuple layouts -------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dws", "nfn"])
def test_tuples_that_do_not_fit(layout: str) -> None:
    write, _ = LAYOUTS[layout]
    read = {"dws": from_dws, "nfn": from_nfn}[layout]
    weights, biases = write(random_element(SIREN, (6,)))
    with pytest.raises(ValueError, match=rf"from_{layout}: expected 3 biases, one for each .* got 2; .*zeros"):
        read(weights, biases[:2], SIREN)
    with pytest.raises(ValueError, match=r"biases of layer 'layer1': expected a tensor, got NoneType; .*zeros"):
        read(weights, [biases[0], None, biases[2]], SIREN)
    with pytest.raises(ValueError, match="weights must be a tuple of tensors, one per layer, got one tensor of shape"):
        read(weights[0], biases, SIREN)
    swapped = weights[0].transpose(1, 2) if layout == "dws" else weights[0].mT
    with pytest.raises(ValueError, match=rf"layer0.weight: expected .* got .*swapped: from_{layout} reads"):
        read([swapped, *weights[1:]], biases, SIREN)
    with pytest.raises(ValueError, match=r"layer2.bias: expected shape \(6,\).*got \(5,.*its batch differs"):
        read(weights, [*biases[:2], biases[2][:5]], SIREN)
    with pytest.raises(ValueError, match=r"layer1.weight: expected torch.float64 .* got torch.float32"):
        read([weights[0], weights[1].float(), weights[2]], biases, SIREN)
    with pytest.raises(ValueError, match=r"layer0.weight: 60 of 60 values are NaN or infinite"):
        read([weights[0] * torch.nan, *weights[1:]], biases, SIREN)
    axis = -1 if layout == "dws" else 1
    with pytest.raises(ValueError, match=r"layer0.weight: expected one (feature|channel).*got 2 .*before"):
        read([torch.cat([weights[0]] * 2, axis), *weights[1:]], biases, SIREN)
    with pytest.raises(ValueError, match="layout holds one chain of layers"):
        read(weights, biases, RESIDUAL)
    bare = Architecture.mlp((2, 5, 4, 3), "relu", bias=False)
    with pytest.raises(ValueError, match=r"layer 'layer0': the .* layout needs a bias for every layer"):
        read(weights, biases, bare)
    with pytest.raises(ValueError, match=r"layer 'layer0': the .* layout needs a bias for every layer"):
        write(random_element(bare))


def test_convolutions_do_not_fit_dws_or_graphs() -> None:
    conv = Architecture((Space("x", 2), Space("y", 3)), (Layer("conv", "x", "y", kernel=(3, 3)),))
    for write in (to_dws, to_graph):
        with pytest.raises(ValueError, match=r"layer 'conv': .* got a convolution with kernel \(3, 3\); use"):
            write(random_element(conv))


def test_graphs_that_do_not_fit() -> None:
    nodes, edges = to_graph(random_element(SIREN, (6,)))
    with pytest.raises(ValueError, match=r"nodes: expected shape \*batch \+ \(14, 1\).*got \(6, 13, 1\)"):
        from_graph(nodes[:, 1:], edges, SIREN)
    with pytest.raises(ValueError, match=r"edges: expected shape \(6,\) \+ \(14, 14, 1\).*got \(5, 14, 14, 1\)"):
        from_graph(nodes, edges[:5], SIREN)
    with pytest.raises(
        ValueError, match=r"edges: expected 0 where the architecture has no weight, got 252 other values"
    ):
        from_graph(nodes, edges.transpose(1, 2), SIREN)
    with pytest.raises(ValueError, match=r"nodes: expected 0 .* no bias, got 12 other values, first at \(0, 0\)"):
        from_graph(nodes + 1, edges, SIREN)
    with pytest.raises(ValueError, match="edges: expected a floating dtype"):
        from_graph(nodes, edges.long(), SIREN)


def test_graphs_refuse_parameters_that_share_a_place() -> None:
    spaces = (Space("x", 2), Space("y", 3))
    twice = Architecture(spaces, (Layer("a", "x", "y"), Layer("b", "x", "y", bias=False)))
    with pytest.raises(ValueError, match="layers 'a' and 'b' both go from 'x' to 'y'"):
        to_graph(random_element(twice))
    two = Architecture((*spaces, Space("z", 2)), (Layer("a", "x", "y"), Layer("b", "z", "y")))
    with pytest.raises(ValueError, match="layers 'a' and 'b' both have a bias on 'y'"):
        to_graph(random_element(two))


# -- in a training step ------------------------------------------------------------------------------


def test_layouts_compile() -> None:
    def step(weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return to_dws(from_dws(weights, biases, SIREN, check_values=False).map(lambda t: 2 * t))

    weights, biases = to_dws(random_element(SIREN, (6,)))
    got, _ = torch.compile(step, fullgraph=True, backend="eager")(weights, biases)
    for a, b in zip(got, weights, strict=True):
        torch.testing.assert_close(a, 2 * b)
