"""WeightSpaceElement: the container, its checks, and its evaluation against torch.nn in float64."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from tests.networks import RESIDUAL, SIREN, assert_same, elements, random_element, share_memory
from weightaug import Activation, Architecture, Layer, Space, WeightSpaceElement, cat, collate, stack

MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def as_sequential(element: WeightSpaceElement) -> nn.Sequential:
    """The same network, put together without weightaug's own evaluation."""
    layers: list[nn.Module] = []
    for i, (weight, bias) in enumerate(zip(element.weights, element.biases, strict=True)):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
        space = element.architecture.spaces[i + 1]
        with torch.no_grad():
            omega = 1.0 if space.activation is None else space.activation.omega
            linear.weight.copy_(omega * weight)
            if bias is not None:
                linear.bias.copy_(omega * bias)
        layers.append(linear)
        if space.activation is not None:
            layers.append(MODULES.get(space.activation.name, Sine)())
    return nn.Sequential(*layers)


# -- evaluation --------------------------------------------------------------------------------------


@given(elements(batches=st.just((2,))))
def test_evaluates_like_torch(element: WeightSpaceElement) -> None:
    x = torch.randn(5, element.architecture.inputs[0].size, dtype=torch.float64)
    got = element(x)
    for i in range(2):
        expected = as_sequential(element[i])(x) + element.architecture.output_offset
        torch.testing.assert_close(got[i], expected, rtol=1e-10, atol=1e-10)


def test_evaluates_a_residual_network() -> None:
    element = random_element(RESIDUAL, (3,))
    x = torch.randn(3, 7, 2, dtype=torch.float64)
    first, second, skip, last, short = element.weights
    for i in range(3):
        a = torch.tanh(nn.functional.linear(x[i], first[i], element.biases[0][i]))
        pre = nn.functional.linear(a, second[i], element.biases[1][i]) + nn.functional.linear(x[i], skip[i])
        y = nn.functional.linear(torch.sin(3.0 * pre), last[i], element.biases[3][i])
        expected = y + nn.functional.linear(a, short[i]) + 0.25
        torch.testing.assert_close(element(x, per_network=True)[i], expected, rtol=1e-12, atol=1e-12)


def test_shared_and_own_coordinates() -> None:
    element = random_element(SIREN, (2, 3))
    shared = torch.randn(5, 2, dtype=torch.float64)
    assert element(shared).shape == (2, 3, 5, 3)
    own = shared.expand(2, 3, 5, 2) * torch.arange(1.0, 4.0, dtype=torch.float64).reshape(3, 1, 1)
    torch.testing.assert_close(element(own, per_network=True)[1, 2], element[1, 2](own[1, 2]))
    assert random_element(SIREN, (0,))(shared).shape == (0, 5, 3)


@pytest.mark.parametrize("batch", [(), (1,), (4,), (6,), (2, 3), (0,)])
@pytest.mark.parametrize("grid", [(5,), (4, 6), (6, 4), (3, 4, 6), (1, 1), (0, 3)])
def test_a_grid_of_points_is_for_all_networks(batch: tuple[int, ...], grid: tuple[int, ...]) -> None:
    element = random_element(SIREN, batch)
    x = torch.randn(*grid, 2, dtype=torch.float64)
    expected = element(x.reshape(-1, 2) if x.numel() else torch.zeros(0, 2)).reshape(*batch, *grid, 3)
    assert torch.equal(element(x, per_network=False), expected)
    ambiguous = bool(batch) and len(grid) > len(batch) and grid[: len(batch)] == batch
    if ambiguous:
        with pytest.raises(ValueError, match=r"begin with the batch shape .* per_network=False or per_network=True"):
            element(x)
    else:
        assert torch.equal(element(x), expected)


def test_a_grid_of_points_for_each_network() -> None:
    element = random_element(SIREN, (4,))
    x = torch.randn(4, 6, 5, 2, dtype=torch.float64)
    got = element(x, per_network=True)
    for i in range(4):
        torch.testing.assert_close(got[i], element[i](x[i]))
    for wrong in (x[:3], x[0, 0], x[:, 0, 0]):
        with pytest.raises(ValueError, match=r"per_network: expected coordinates \(4, 'n', 2\), got shape"):
            element(wrong, per_network=True)


def test_coordinates_of_another_dtype_or_device() -> None:
    element = random_element(SIREN, (3,)).to(torch.float32)
    x = torch.randint(-1, 2, (5, 2))
    assert torch.equal(element(x.double()), element(x.float()))
    assert torch.equal(element(x), element(x.float()))
    assert element(x.double()).dtype == torch.float32
    with pytest.raises(ValueError, match="expected coordinates on cpu like the weights, got meta"):
        element(x.to("meta"))
    with pytest.raises(TypeError, match=r"got ndarray; torch.as_tensor\(x\)"):
        element(x.numpy())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"real numbers, got torch\.complex64"):
        element(x.to(torch.complex64))


def test_gradients_reach_coordinates_of_another_dtype() -> None:
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    random_element(SIREN, (3,)).to(torch.float32)(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.ne(0).all())


def test_the_surrounding_mode_does_not_change_evaluation() -> None:
    element, x = random_element(RESIDUAL, (3,)).to(torch.float32), torch.randn(5, 2)
    expected = element(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(element(x), expected)
    with torch.device("meta"):
        assert torch.equal(element(x), expected)
    with torch.inference_mode():
        assert torch.equal(element(x), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(element(x), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("shape", [(2,), (5, 3)])
def test_wrong_coordinates_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected coordinates \(n, 2\) or \(\*batch, n, 2\), got shape"):
        random_element(SIREN)(torch.zeros(shape, dtype=torch.float64))


def test_convolutions_and_several_inputs_are_not_evaluated() -> None:
    conv = Architecture((Space("x", 2), Space("y", 3)), (Layer("conv", "x", "y", kernel=(3, 3)),))
    with pytest.raises(NotImplementedError, match="layer 'conv' is a convolution"):
        random_element(conv)(torch.zeros(4, 2, dtype=torch.float64))
    spaces = (Space("x", 2), Space("z", 2), Space("y", 3))
    two = Architecture(spaces, (Layer("a", "x", "y"), Layer("b", "z", "y")))
    with pytest.raises(ValueError, match=r"one input and one output space, got inputs \['x', 'z'\]"):
        random_element(two)(torch.zeros(4, 2, dtype=torch.float64))


# -- checks ------------------------------------------------------------------------------------------


def parts() -> tuple[list[Tensor], list[Tensor | None]]:
    element = random_element(SIREN, (4,))
    return list(element.weights), list(element.biases)


def build(weights: list[Tensor], biases: list[Tensor | None]) -> WeightSpaceElement:
    return WeightSpaceElement.from_tensors(SIREN, weights, biases)


def test_valid_tensors_pass() -> None:
    element = build(*parts())
    assert element.validate() is element


def test_wrong_number_of_tensors() -> None:
    weights, biases = parts()
    with pytest.raises(ValueError, match=r"weights: expected one entry for each of the 3 layers \['layer0'.*got 2"):
        build(weights[:2], biases)
    with pytest.raises(ValueError, match=r"biases: expected .* got 2; write None for a layer without bias"):
        build(weights, biases[:2])


def test_missing_and_superfluous_bias() -> None:
    weights, biases = parts()
    with pytest.raises(ValueError, match=r"layer 'layer1': bias=True .* its bias is None; declare .*bias=False"):
        build(weights, [biases[0], None, biases[2]])
    bare = Architecture.mlp((2, 5, 4, 3), "relu", bias=False)
    with pytest.raises(ValueError, match=r"layer 'layer0': bias=False .* its bias is a tensor; declare .*bias=True"):
        WeightSpaceElement.from_tensors(bare, weights, biases)


def test_wrong_shape_names_layer_expected_and_got() -> None:
    weights, biases = parts()
    with pytest.raises(ValueError, match=r"layer1.weight: expected shape \(4, 4, 5\) .*got \(4, 5, 4\); .*swapped"):
        build([weights[0], weights[1].mT, weights[2]], biases)
    with pytest.raises(ValueError, match=r"layer2.bias: expected shape \(4, 3\) .*got \(2, 3\)$"):
        build(weights, [*biases[:2], biases[2][:2]])
    with pytest.raises(ValueError, match=r"layer1.weight: expected shape \(4, 4, 5\) .*got \(4, 4, 3\)$"):
        build([weights[0], weights[1][..., :3], weights[2]], biases)


def test_wrong_dtype() -> None:
    weights, biases = parts()
    with pytest.raises(ValueError, match=r"layer1.weight: expected torch.float64 .* got torch.float32"):
        build([weights[0], weights[1].float(), weights[2]], biases)
    with pytest.raises(ValueError, match=r"layer0.weight: expected a floating dtype, got torch.int64; .*code times"):
        build([weights[0].long(), *weights[1:]], biases)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("convert", "advice"),
    [
        (lambda t: t.to(torch.complex64), "half of each number would be lost"),
        (lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8), r"tensor.dequantize\(\)"),
        (lambda t: t.to(torch.float8_e4m3fn), "torch.bfloat16 or wider"),
        (lambda t: t > 0, "masks are no weights"),
        (lambda t: t.to(torch.int8), r"code times scale\); or tensor.to\(torch.float32\)"),
    ],
    ids=["complex", "quantised", "float8", "mask", "integers"],
)
def test_advice_for_other_dtypes_loses_nothing(convert: Callable[[Tensor], Tensor], advice: str) -> None:
    weights, biases = parts()
    with pytest.raises(ValueError, match=rf"layer1.weight: expected a floating dtype, got .*{advice}") as error:
        build([weights[0], convert(weights[1]), weights[2]], biases)
    assert ".float()" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_values_are_located(value: float) -> None:
    element = random_element(SIREN, (4,)).clone()
    element.biases[1][2, 0] = value
    element.biases[1][3, 1] = value
    with pytest.raises(ValueError, match=r"layer1.bias: 2 of 16 values .* in 2 of 4 networks, first at index \(2,\)"):
        element.validate()
    with pytest.raises(ValueError, match=r"layer1.bias: 1 of 4 values are NaN or infinite; drop"):
        element[2].validate()


# -- container ---------------------------------------------------------------------------------------


@given(elements())
def test_flatten_unflatten_round_trip(element: WeightSpaceElement) -> None:
    vector = element.flatten()
    assert vector.shape == (*element.batch_shape, element.num_parameters)
    assert_same(WeightSpaceElement.unflatten(element.architecture, vector), element)


def test_unflatten_gives_views_and_checks_the_size() -> None:
    vector = torch.zeros(3, SIREN.num_parameters)
    element = WeightSpaceElement.unflatten(SIREN, vector)
    assert all(share_memory(t, vector) for t in element.tensors())
    with pytest.raises(
        ValueError, match=r"expected a vector of 54 parameters in the last dimension, got shape \(3, 53\)"
    ):
        WeightSpaceElement.unflatten(SIREN, vector[:, 1:])
    with pytest.raises(TypeError, match=r"expected a tensor, got ndarray; convert with torch.as_tensor\(vector\)"):
        WeightSpaceElement.unflatten(SIREN, vector.numpy())  # type: ignore[arg-type]


@given(elements())
def test_pytree_and_pickle_round_trip(element: WeightSpaceElement) -> None:
    leaves, spec = pytree.tree_flatten(element)
    assert len(leaves) == len(element.tensors())
    assert_same(pytree.tree_unflatten(leaves, spec), element)
    assert_same(pickle.loads(pickle.dumps(element)), element)
    doubled = pytree.tree_map_only(Tensor, lambda t: 2 * t, element)
    assert_same(doubled, element.map(lambda t: t + t))


def test_pytree_spec_can_be_written_as_json() -> None:
    _, spec = pytree.tree_flatten(random_element(SIREN))
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec


def test_indexing_touches_the_batch_only() -> None:
    element = random_element(SIREN, (4, 3))
    assert element[1].batch_shape == (3,)
    assert element[1, 2].batch_shape == ()
    assert element[:, None, 1].batch_shape == (4, 1)
    assert element[torch.tensor([0, 2])].batch_shape == (2, 3)
    assert element[torch.ones(4, 3, dtype=torch.bool)].batch_shape == (12,)
    assert element[..., 0].batch_shape == (4,)
    for index in (
        (0, 0, 0),
        (..., 0, 0, 0),
        (0, torch.ones(3, 5, dtype=torch.bool)),
        torch.ones(4, 3, 5, dtype=torch.bool),
    ):
        with pytest.raises(IndexError, match="reaches beyond the batch"):
            element[index]
    with pytest.raises(IndexError, match="only a batch can be indexed"):
        element[0, 0][0]
    assert len(element) == 4
    with pytest.raises(TypeError, match="it has no length"):
        len(element[0, 0])


def test_to_detach_clone_and_repr() -> None:
    element = random_element(SIREN, (2,)).map(lambda t: t.requires_grad_())
    assert element.to(torch.float32).dtype == torch.float32
    assert not any(t.requires_grad for t in element.detach().tensors())
    assert not any(share_memory(a, b) for a, b in zip(element.clone().tensors(), element.tensors(), strict=True))
    assert repr(element) == "WeightSpaceElement(2-5-4-3, batch_shape=(2,), dtype=torch.float64, device='cpu')"


# -- joining -----------------------------------------------------------------------------------------


@given(elements(batches=st.sampled_from([(3,), (2, 3)])))
def test_stack_and_cat_undo_slicing(element: WeightSpaceElement) -> None:
    assert_same(stack([element[i] for i in range(len(element))]), element)
    assert_same(cat([element[:1], element[1:]]), element)


def test_joining_refuses_what_does_not_fit() -> None:
    a, b = random_element(SIREN), random_element(Architecture.siren((2, 5, 4, 3)))
    with pytest.raises(ValueError, match=r"cannot stack elements of different architectures: element 0 .* element 1"):
        stack([a, b])
    siren = [Architecture.siren((2, 8, 8, 1), omega=omega) for omega in (30, 29)]
    with pytest.raises(ValueError, match=r"differ in space 'hidden1': activation omega 30.0 and 29.0; ") as error:
        cat([random_element(arch, (2,)) for arch in siren])
    assert len(str(error.value)) < 300
    with pytest.raises(ValueError, match="cannot stack an empty list"):
        stack([])
    with pytest.raises(ValueError, match=r"cannot cat element 0: it is one network .*use stack"):
        cat([a, a])


class Listed(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A data set that gives samples one by one."""

    def __init__(self, labelled: bool) -> None:
        self.element, self.labelled = random_element(SIREN, (5,)), labelled

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> object:
        return (self.element[i], i, {"view": float(i)}) if self.labelled else self.element[i]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks with threads
@pytest.mark.parametrize("workers", [0, 1])
def test_data_loader_collates(workers: int) -> None:
    batches = list(DataLoader(Listed(True), batch_size=3, collate_fn=collate, num_workers=workers))
    assert_same(cat([element for element, _, _ in batches]), Listed(True).element)
    assert torch.cat([labels for _, labels, _ in batches]).tolist() == [0, 1, 2, 3, 4]
    assert batches[1][2]["view"].tolist() == [3.0, 4.0]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks with threads
@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_data_loader_collates_as_well(workers: int) -> None:
    for labelled in (True, False):
        data = Listed(labelled)
        batches = list(DataLoader(data, batch_size=3, num_workers=workers))
        assert_same(cat([batch[0] if labelled else batch for batch in batches]), data.element)


class Ready(Listed):
    """A data set that gives a batch at once."""

    def __getitems__(self, indices: list[int]) -> object:
        batch = self.element[indices]
        return (batch, torch.tensor(indices), {"view": torch.zeros(len(indices))}) if self.labelled else batch


def test_a_plain_data_loader_passes_ready_batches_through() -> None:
    for labelled in (True, False):
        data = Ready(labelled)
        batches = list(DataLoader(data, batch_size=2))
        assert_same(cat([batch[0] if labelled else batch for batch in batches]), data.element)
        if labelled:
            assert [batch[1].tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="cannot stack elements of different architectures"):
        torch.utils.data.default_collate([random_element(SIREN), random_element(RESIDUAL)])


def test_collate_without_labels_and_with_ready_batches() -> None:
    data = Listed(False)
    assert_same(collate([data[0], data[1]]), data.element[:2])
    assert collate(data.element) is data.element
    ready = (data.element, torch.arange(5))
    assert collate(ready) is ready


# -- torch transforms --------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [SIREN, RESIDUAL], ids=["siren", "residual"])
def test_vmap_over_the_batch(architecture: Architecture) -> None:
    element = random_element(architecture, (4,))
    x = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(lambda e: e(x))(element), element(x))


def test_compiles_without_a_graph_break() -> None:
    element, x = random_element(SIREN, (4,)), torch.randn(6, 2, dtype=torch.float64)

    def step(e: WeightSpaceElement, x: Tensor) -> tuple[WeightSpaceElement, Tensor]:
        e = e.map(lambda t: 2 * t)[1:]
        return e, e(x)

    out, y = torch.compile(step, fullgraph=True, backend="eager")(element, x)
    expected, expected_y = step(element, x)
    assert_same(out, expected)
    torch.testing.assert_close(y, expected_y)


def test_gradients_reach_every_parameter() -> None:
    element = random_element(RESIDUAL, (2,)).map(lambda t: t.requires_grad_())
    element(torch.randn(6, 2, dtype=torch.float64)).sum().backward()
    assert all(t.grad is not None and bool(t.grad.ne(0).any()) for t in element.tensors())


def test_mixed_activations_per_space() -> None:
    arch = Architecture.mlp((2, 3, 3, 1), [Activation("relu"), Activation("sine", 5.0)])
    element, x = random_element(arch), torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(element(x), as_sequential(element)(x))


def test_devices_dtypes_and_arrays_have_their_short_names():
    element = random_element(Architecture.siren((2, 4, 1)), (3,))
    assert element.half().dtype == torch.float16
    assert element.float().dtype == torch.float32
    assert element.float().double().dtype == torch.float64
    assert element.cpu().device.type == "cpu"
    arrays = element.numpy()
    assert list(arrays) == ["layer0.weight", "layer0.bias", "layer1.weight", "layer1.bias"]
    assert arrays["layer0.weight"].shape == (3, 4, 2)
    assert arrays["layer1.bias"][2, 0] == element.biases[1][2, 0]
    with pytest.raises(RuntimeError, match="detach"):
        element.map(lambda t: t.clone().requires_grad_()).numpy()
