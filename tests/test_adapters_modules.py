"""Modules and state dicts as people have them: lists of unlike ones, shared parts, weights that are computed, casts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from weightaug import Activation, Architecture, WeightSpaceElement
from weightaug.adapters import from_dws, from_modules, from_nfn, from_state_dicts, infer_architecture, to_modules

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:unknown activation")

X = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)


def net(*activations: nn.Module, sizes: tuple[int, ...] = (2, 6, 6, 1), bias: bool = True) -> nn.Sequential:
    """A perceptron in float64 with the given modules between its layers."""
    given = activations or tuple(nn.Tanh() for _ in sizes[2:])
    layers: list[nn.Module] = []
    for i, (into, out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(into, out, bias=bias, dtype=torch.float64))
        if i < len(given):
            layers.append(given[i])
    return nn.Sequential(*layers)


class Wave(nn.Module):
    """A sine whose frequency no one can see from its type."""

    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * x)


def same_function(element: WeightSpaceElement, module: nn.Module) -> None:
    torch.testing.assert_close(element(X), module.eval()(X), rtol=1e-10, atol=1e-10)


# -- every module of a list is looked at -------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: net(nn.Tanh(), nn.ReLU()), r"module 2: .*space 'hidden2': activation name 'tanh' and 'relu'"),
        (lambda: net(nn.Tanh(), nn.Tanh(), sizes=(2, 6, 5, 1)), r"module 2: .*sizes 2-6-6-1 and 2-6-5-1"),
        (lambda: net(nn.Tanh(), sizes=(2, 6, 1)), r"module 2: .*sizes 2-6-6-1 and 2-6-1"),
        (lambda: net(bias=False), r"module 2: .*bias True and False"),
        (lambda: net(nn.LeakyReLU(0.3), nn.Tanh()), r"module '1': .*got negative_slope=0.3"),
    ],
    ids=["activation", "width", "depth", "bias", "slope"],
)
def test_every_module_of_a_list_must_have_the_same_structure(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_modules([net(), net(), make()])


@pytest.mark.parametrize("odd", range(4))
def test_every_module_of_a_list_must_compute_what_its_network_computes(odd: int) -> None:
    modules = [net(Wave(5.0), Wave(5.0)) for _ in range(4)]
    activation = Activation("sine", 5.0)
    assert from_modules(modules, activation).batch_shape == (4,)
    modules[odd][3].omega = 6.0  # type: ignore[assignment]
    with pytest.raises(ValueError, match=rf"module {odd}: the module computes another function"):
        from_modules(modules, activation)


def test_modules_of_a_list_that_name_their_layers_otherwise_are_refused() -> None:
    def named(*names: str) -> nn.Module:
        module = nn.Module()
        for name, size in zip(names, (2, 2, 2), strict=True):
            module.add_module(name, nn.Linear(size, 2, dtype=torch.float64))
        return module

    alike = [named("a", "b", "c"), named("a", "b", "c")]
    assert from_modules(alike, "relu", check_function=False).batch_shape == (2,)
    with pytest.raises(ValueError, match=r"module 1: expected the layers of module 0, .*'b'.*got .*'d'"):
        from_modules([alike[0], named("a", "d", "c")], "relu", check_function=False)


def test_modules_that_cannot_be_evaluated_are_compared_with_each_other() -> None:
    unknown = Activation("hardswish")
    alike = [net(nn.Hardswish(), nn.Hardswish(inplace=i > 0)) for i in range(3)]
    assert from_modules(alike, unknown).batch_shape == (3,)
    for odd in (net(nn.Hardswish(), nn.ReLU()), net(nn.Hardswish(), nn.Hardtanh(-2, 2))):
        with pytest.raises(ValueError, match=r"module 2: expected the parts of module 0, which has '3': Hardswish\(\)"):
            from_modules([*alike[:2], odd], unknown)


def test_modules_written_back_are_compared_one_by_one() -> None:
    element = from_modules([net(), net()])
    shared = nn.Linear(6, 6, dtype=torch.float64)
    deep = from_modules([net(sizes=(2, 6, 6, 6, 1)) for _ in range(2)])
    layers = [nn.Linear(2, 6), nn.Tanh(), shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 1)]
    with pytest.raises(ValueError, match="module 0: the module computes another function"):
        to_modules(deep, like=nn.Sequential(*layers))  # one layer cannot hold two layers' weights
    for module, single in zip(to_modules(element, like=net()), (element[0], element[1]), strict=True):  # type: ignore[arg-type]
        same_function(single, module)


# -- shared parts ------------------------------------------------------------------------------------


def test_an_activation_that_is_used_several_times() -> None:
    act, block = nn.ReLU(), nn.Sequential(nn.Linear(6, 6, dtype=torch.float64), nn.Tanh())
    first, last = nn.Linear(2, 6, dtype=torch.float64), nn.Linear(6, 1, dtype=torch.float64)
    for module in (net(act, act), nn.Sequential(first, act, block, block, last), nn.Sequential(first, act, last)):
        assert len(infer_architecture(module).hidden) == sum(isinstance(m, (nn.ReLU, nn.Tanh)) for m in flat(module))
        same_function(from_modules(module), module)


def flat(module: nn.Module) -> list[nn.Module]:
    if not isinstance(module, nn.Sequential):
        return [module]
    return [leaf for part in module._modules.values() if part is not None for leaf in flat(part)]


def test_a_linear_layer_that_is_used_several_times() -> None:
    shared = nn.Linear(6, 6, dtype=torch.float64)
    module = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 1)).double()
    element = from_modules(module)
    assert len(element.weights) == 4
    assert torch.equal(element.weights[1], element.weights[2])
    same_function(element, module)
    back = to_modules(element, like=module)
    assert isinstance(back, nn.Sequential)
    assert back[2] is back[4]
    same_function(element, back)


def test_a_layer_that_a_forward_calls_twice_is_named() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.block = nn.Linear(2, 6), nn.Linear(6, 6)
            self.outer, self.unused = nn.Linear(6, 1), nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.inner(x))
            return self.outer(torch.tanh(self.block(torch.tanh(self.block(x)))))

    with pytest.raises(ValueError, match=r"it calls 'block' 2 times, and an architecture has a layer of its own") as e:
        from_modules(Twice(), "tanh")
    assert "in the order ['inner', 'block', 'block', 'outer']" in str(e.value)


# -- weights that are computed -----------------------------------------------------------------------


def weight_normed(layer: nn.Linear) -> nn.Module:
    layer = nn.utils.weight_norm(layer)
    with torch.no_grad():
        layer.weight_g.mul_(2.0)  # type: ignore[operator]  # what is kept as .weight is out of date now
    return layer


def new_weight_normed(layer: nn.Linear) -> nn.Module:
    layer = parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(2.0)  # type: ignore[union-attr]
    return layer


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


COMPUTED: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "weight norm, hook": weight_normed,
    "weight norm, parametrisation": new_weight_normed,
    "spectral norm, hook": lambda layer: nn.utils.spectral_norm(layer),
    "spectral norm, parametrisation": lambda layer: parametrizations.spectral_norm(layer),
    "orthogonal": lambda layer: parametrizations.orthogonal(layer),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned twice": lambda layer: prune.l1_unstructured(prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.3),
    "pruned bias": lambda layer: prune.random_unstructured(layer, "bias", 0.5),
    "symmetric": lambda layer: (
        nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
        if layer.in_features == layer.out_features
        else layer
    ),
}


@pytest.mark.parametrize("change", COMPUTED.values(), ids=COMPUTED)
def test_the_weights_that_a_module_computes_with_are_read(change: Callable[[nn.Linear], nn.Module]) -> None:
    module = net()
    for place in (0, 2):
        module[place] = change(module[place])  # type: ignore[arg-type]
    before = copy.deepcopy(module.state_dict())
    modules = [module, module]
    element = from_modules(modules)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert module.training
    same_function(element[1], module)
    same_function(from_modules(module, Activation("tanh")), module)
    assert not any(t.requires_grad for t in element.tensors())


@pytest.mark.parametrize("change", [c for n, c in COMPUTED.items() if n != "symmetric"])
def test_state_dicts_of_computed_weights_say_how_to_go_on(change: Callable[[nn.Linear], nn.Module]) -> None:
    module = net()
    module[2] = change(module[2])  # type: ignore[arg-type]
    for names in (None, {"layer0": "0", "layer1": "2", "layer2": "4"}):
        with pytest.raises(ValueError, match=r"parts of a parametrised weight .*from_modules, .*prune.remove") as error:
            from_state_dicts(module.state_dict(), infer_architecture(net()), names=names)
        assert "names=" not in str(error.value)
    with pytest.raises(ValueError, match=r"like: .*parts of a parametrised weight"):
        to_modules(from_modules(net()), like=module)


def test_two_hooks_on_one_weight_are_refused() -> None:
    module = net()
    module[2] = prune.l1_unstructured(nn.utils.weight_norm(module[2]), "weight_v", 0.5)
    with pytest.raises(ValueError, match=r"parts of a parametrised weight"):
        from_modules(module)
    module = net()
    module[2] = nn.utils.spectral_norm(prune.l1_unstructured(module[2], "bias", 0.5), "bias_orig")
    with pytest.raises(ValueError):  # noqa: PT011 (whatever is made of it, nothing is read in silence)
        from_modules(module)


def test_lazy_layers_have_no_weights_yet() -> None:
    module = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 1))
    with pytest.raises(ValueError, match=r"lazy; call the module once first|expected an int|at least 1"):
        from_modules(module)


# -- buffers, and what else a state dict holds -------------------------------------------------------


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("grid", X.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_named_buffers_are_let_through() -> None:
    modules = [Buffered(), Buffered()]
    with pytest.raises(ValueError, match=r"got 1 more: \['grid'\]; .*let them through with ignore=\['grid'\]"):
        from_modules(modules, "tanh")
    element = from_modules(modules, "tanh", ignore=["grid"])
    same_function(element[1], modules[1])
    states = [module.state_dict() for module in modules]
    assert torch.equal(from_state_dicts(states, element.architecture, ignore={"grid"}).flatten(), element.flatten())
    assert from_state_dicts(states[0], element.architecture, ignore=("grid",)).batch_shape == ()
    with pytest.raises(ValueError, match=r"state dict 0: ignore: expected keys of the state dict, got \['gird'\]"):
        from_state_dicts(states, element.architecture, ignore=["grid", "gird"])
    back = to_modules(element, like=Buffered())
    assert isinstance(back, list)
    assert torch.equal(back[0].get_buffer("grid"), X)
    same_function(element[0], back[0])


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(6), nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.RMSNorm(6), nn.InstanceNorm1d(6)], ids=repr
)
def test_normalisation_is_a_part_of_the_function(norm: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(2, 6), norm, nn.ReLU(), nn.Linear(6, 1))
    with pytest.raises(ValueError, match="is a normalisation, a part of the function") as error:
        from_modules(module)
    assert "activation=" not in str(error.value)
    if not module[1].state_dict():
        return
    arch = Architecture.mlp((2, 6, 1), "relu")
    for names in (None, {"layer0": "0", "layer1": "3"}):
        with pytest.raises(ValueError) as refused:  # noqa: PT011 (its text is what is tested)
            from_state_dicts(module.state_dict(), arch, names=names)
        assert "drop" not in str(refused.value)
        if names is not None or isinstance(norm, nn.BatchNorm1d):
            assert "normalisation" in str(refused.value)
            assert "ignore=" not in str(refused.value)


def test_folding_a_batch_normalisation_is_advice_that_helps() -> None:
    module = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1)).double()
    module(torch.randn(50, 2, dtype=torch.float64))
    module.eval()
    linear = torch.nn.utils.fusion.fuse_linear_bn_eval(module[0], module[1])  # type: ignore[type-var]
    element = from_modules(nn.Sequential(linear, module[2], module[3]))
    same_function(element, module)


def test_modules_with_parameters_of_their_own_are_not_advised_to_name_an_activation() -> None:
    for part in (nn.PReLU(), nn.Conv1d(6, 6, 1), nn.Bilinear(6, 6, 6)):
        with pytest.raises(ValueError, match="has parameters or buffers of its own") as error:
            from_modules(net(part, nn.Tanh()))
        assert "activation=" not in str(error.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"0.weight_scale.zero_point": torch.zeros(1)}, "quantised model"),
        ({"0.lora_A.weight": torch.zeros(1)}, r"merge them first, in peft: model.merge_and_unload\(\)"),
        ({"1.weight": torch.zeros(6), "1.bias": torch.zeros(6)}, "scale of a normalisation layer"),
        ({"head.weight": torch.zeros(6, 6)}, "declare layers"),
    ],
)
def test_left_over_keys_get_advice_that_fits(extra: dict[str, Tensor], message: str) -> None:
    names = {"layer0": "0", "layer1": "2", "layer2": "4"}
    with pytest.raises(ValueError, match=message):
        from_state_dicts({**net().state_dict(), **extra}, infer_architecture(net()), names=names)


def test_a_network_with_fewer_layers_is_not_advised_to_change_names() -> None:
    state = net().state_dict()
    deep = Architecture.mlp((2, 6, 6, 6, 1), "tanh")
    names = {"layer0": "0", "layer1": "2", "layer2": "4", "layer3": "6"}
    with pytest.raises(ValueError, match=r"expected the key '6.weight', .*fewer layers than the architecture") as error:
        from_state_dicts(state, deep, names=names)
    assert "names=" not in str(error.value)


NOT_STATE_DICTS: dict[str, tuple[object, str]] = {
    "paths": (["a.pth", "b.pth"], r"state dict 0: expected a state_dict .*'a.pth'; .*torch.load\(path"),
    "path": ("a.pth", r"^expected a state_dict .*'a.pth'; .*weights_only=True"),
    "path object": (Path("a.pth"), r"expected a state_dict .*a.pth"),
    "module": (net(), "expected a state_dict, got a Sequential; use adapters.from_modules"),
    "modules": ([net()], "state dict 0: expected a state_dict, got a Sequential; use adapters.from_modules"),
    "number": (3, "expected a state_dict .*got int"),
    "checkpoint": (
        {"model": dict(net().state_dict()), "epoch": 3},
        r"so give one of its parts \['model'\]",
    ),
    "arrays": ({k: v.numpy() for k, v in net().state_dict().items()}, r"'0.weight': .*got ndarray; .*torch.as_tensor"),
    "bytes": (b"abc", "expected a state_dict"),
}


@pytest.mark.parametrize(("given", "message"), NOT_STATE_DICTS.values(), ids=NOT_STATE_DICTS)
def test_what_is_no_state_dict_is_refused(given: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        from_state_dicts(given, infer_architecture(net()))  # type: ignore[arg-type]


def test_any_iterable_of_state_dicts_and_of_modules() -> None:
    modules = [net(), net()]
    element = from_modules(tuple(modules))
    states = [module.state_dict() for module in modules]
    for got in (
        from_state_dicts(iter(states), element.architecture),  # type: ignore[arg-type]
        from_modules(iter(modules)),  # type: ignore[arg-type]
        from_modules(nn.ModuleList(modules)),  # type: ignore[arg-type]
    ):
        assert torch.equal(got.flatten(), element.flatten())
    for wrong in ("a", {"a": net()}, 3):
        with pytest.raises(TypeError, match=r"expected an nn\.Module or a sequence of them"):
            from_modules(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2, torch.int8], ids=str)
def test_no_layout_advises_to_lose_a_part_of_the_weights(dtype: torch.dtype) -> None:
    module = net()
    arch = infer_architecture(module)
    state = {key: value.to(dtype) for key, value in module.state_dict().items()}
    weights = [v for k, v in state.items() if k.endswith("weight")]
    biases = [v for k, v in state.items() if k.endswith("bias")]
    for call in (
        lambda: from_state_dicts(state, arch),
        lambda: from_state_dicts([state, state], arch),
        lambda: from_dws([w.mT.unsqueeze(-1) for w in weights], [b.unsqueeze(-1) for b in biases], arch),
        lambda: from_nfn([w.unsqueeze(0) for w in weights], [b.unsqueeze(0) for b in biases], arch),
        lambda: WeightSpaceElement.from_tensors(arch, weights, biases),
    ):
        with pytest.raises(ValueError, match=f"expected a floating dtype, got {dtype}") as error:
            call()
        assert ".float()" not in str(error.value)


# -- forwards, and the surrounding mode --------------------------------------------------------------


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net(sizes=(2, 6, 1)).float()


class Differentiates(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        y = self.net(x)
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y + 0 * gradient.sum()


class Casts(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float())


class MakesTensors(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + torch.zeros(1)


class Overwrites(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        x.mul_(2.0)
        return y


@pytest.mark.parametrize("kind", [Differentiates, Casts, MakesTensors, Overwrites])
def test_forwards_that_differentiate_cast_make_tensors_or_overwrite(kind: type[Base]) -> None:
    modules = [kind(), kind()]
    assert from_modules(modules, "tanh").batch_shape == (2,)
    with pytest.raises(ValueError, match="module 0: the module computes another function"):
        from_modules(modules, "relu")
    assert all(parameter.grad is None for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("kind", [Base, Differentiates, Casts, MakesTensors])
def test_the_surrounding_mode_does_not_change_what_is_read(kind: type[Base]) -> None:
    module: nn.Module = kind() if kind is not Base else net(sizes=(2, 6, 1)).float()
    expected = from_modules([module], "tanh").flatten()

    def read() -> Tensor:
        element = from_modules([module], "tanh")
        written = to_modules(element, like=module)
        assert isinstance(written, list)
        return from_modules(written, "tanh").flatten()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(read(), expected)
    with torch.device("meta"):
        assert torch.equal(read(), expected)
    with torch.inference_mode():
        assert torch.equal(read(), expected)
    with torch.no_grad():
        assert torch.equal(read(), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(read(), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_built_modules_under_another_default_device() -> None:
    element = from_modules([net(), net()])
    with torch.device("meta"):
        modules = to_modules(element)
    assert isinstance(modules, list)
    same_function(element[1], modules[1])


def test_compiled_and_data_parallel_modules_are_looked_into() -> None:
    module = net()
    for wrapped in (torch.compile(module, backend="eager"), nn.DataParallel(module)):
        assert isinstance(wrapped, nn.Module)
        same_function(from_modules(wrapped), module)
