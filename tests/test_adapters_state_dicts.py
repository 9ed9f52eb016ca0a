"""State dicts: keys matched to layers, and refused where they do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.networks import RESIDUAL, SIREN, assert_same, random_element, share_memory
from tests.test_adapters import RELU, relu_net
from weightaug import Architecture
from weightaug.adapters import (
    from_state_dicts,
    infer_names,
    to_state_dicts,
)


def test_names_are_ordered_by_number_whatever_the_order_of_the_keys() -> None:
    arch = Architecture.mlp((3,) * 13, "relu")
    module = relu_net((3,) * 13)
    state = module.state_dict()
    expected = {f"layer{i}": str(2 * i) for i in range(12)}
    assert infer_names(state, arch) == expected
    assert infer_names({k: state[k] for k in sorted(state)}, arch) == expected  # "10" sorts before "2"


def test_names_of_siren_style_dicts_and_single_layers() -> None:
    keys = ["net.0.linear.weight", "net.0.linear.bias", "net.1.linear.weight", "net.2.weight"]
    assert infer_names(dict.fromkeys(keys, torch.zeros(1)), SIREN) == {
        "layer0": "net.0.linear",
        "layer1": "net.1.linear",
        "layer2": "net.2",
    }
    linear = nn.Linear(2, 3)
    element = from_state_dicts(linear.state_dict(), Architecture.mlp((2, 3), ()))
    assert share_memory(element.weights[0], linear.weight)


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        (
            ("enc", "mid", "dec"),
            r"cannot tell the order of the layers from the prefixes \['enc', 'mid', 'dec'\]; give names=",
        ),
        (("a0", "b1", "c2"), "cannot tell the order"),
        (("fc", "fc1", "fc2"), "cannot tell the order"),
        (("fc1", "fc2"), r"expected the keys of 3 layers .*got prefixes \['fc1', 'fc2'\]; give names="),
    ],
)
def test_names_that_cannot_be_inferred(prefixes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infer_names({f"{p}.weight": torch.zeros(1) for p in prefixes}, SIREN)


def test_names_of_a_branched_architecture_must_be_given() -> None:
    state = {f"net.{i}.weight": torch.zeros(1) for i in range(5)}
    with pytest.raises(ValueError, match="the architecture is not a chain"):
        infer_names(state, RESIDUAL)


def test_names_are_checked() -> None:
    state = relu_net().state_dict()
    with pytest.raises(
        ValueError, match=r"names: expected one parameter prefix for each of the layers .*got \['first'\]"
    ):
        from_state_dicts(state, RELU, names={"first": "0"})
    with pytest.raises(ValueError, match="names: expected a prefix of its own for every layer"):
        from_state_dicts(state, RELU, names={"layer0": "0", "layer1": "2", "layer2": "2"})


def test_missing_left_over_and_misplaced_keys() -> None:
    names = {"layer0": "0", "layer1": "2", "layer2": "4"}
    state = dict(relu_net().state_dict())
    without = {k: v for k, v in state.items() if k != "2.bias"}
    with pytest.raises(ValueError, match=r"layer 'layer1': expected the key '2.bias', got .*bias=False"):
        from_state_dicts(without, RELU)
    with pytest.raises(ValueError, match=r"layer 'layer2': expected the key '5.weight'.*change names="):
        from_state_dicts(state, RELU, names={**names, "layer2": "5"})
    with pytest.raises(ValueError, match=r"got 1 more: \['encoding.B'\]; .*with ignore=\['encoding.B'\]"):
        from_state_dicts({**state, "encoding.B": torch.zeros(2)}, RELU, names=names)
    bare = Architecture.mlp((2, 5, 4, 3), "relu", bias=False)
    with pytest.raises(
        ValueError, match=r"got 3 more: \['0.bias', '2.bias', '4.bias'\]; declare layers \(or bias=True\)"
    ):
        from_state_dicts(state, bare)
    with pytest.raises(ValueError, match=r"state dict 1: layer 'layer1': expected the key '2.bias'"):
        from_state_dicts([state, without], RELU)


def test_shapes_dtypes_and_values_of_state_dicts() -> None:
    state = dict(relu_net().state_dict())
    with pytest.raises(
        ValueError, match=r"layer 'layer0', '0.weight': expected .*\(5, 2\).*got \(2, 5\); the axes look swap"
    ):
        from_state_dicts({**state, "0.weight": state["0.weight"].mT}, RELU)
    with pytest.raises(ValueError, match=r"layer1.weight: expected torch.float64 .* got torch.float32"):
        from_state_dicts({**state, "2.weight": state["2.weight"].float()}, RELU)
    with pytest.raises(
        ValueError, match=r"layer 'layer2', '4.bias': expected shape \(\) \+ \(3,\).*got \(2, 3\); its batch"
    ):
        from_state_dicts({**state, "4.bias": state["4.bias"].expand(2, 3)}, RELU)
    broken = {**state, "2.bias": torch.full((4,), torch.nan, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"layer1.bias: 4 of 4 values are NaN"):
        from_state_dicts(broken, RELU)
    assert from_state_dicts(broken, RELU, check_values=False).biases[1].isnan().all()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="got an empty list"):
        from_state_dicts([], RELU)
    with pytest.raises(ValueError, match=r"state dict 1: expected the batch shape \(\) of state dict 0, got \(2,\)"):
        from_state_dicts([state, {k: torch.stack([v, v]) for k, v in state.items()}], RELU)
    with pytest.raises(ValueError, match=r"state dict 1: expected torch.float64"):
        from_state_dicts([state, {k: v.float() for k, v in state.items()}], RELU)


def test_several_batch_dimensions_need_stacked_dicts() -> None:
    element = random_element(SIREN, (2, 3))
    with pytest.raises(ValueError, match=r"got batch shape \(2, 3\); use stacked=True"):
        to_state_dicts(element)
    assert_same(from_state_dicts(to_state_dicts(element, stacked=True), SIREN), element)
