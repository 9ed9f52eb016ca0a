"""What the names and shapes of a state dict tell, and what they do not."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from weightaug import Activation, Architecture
from weightaug.adapters import from_lora, from_state_dicts


def chain(*sizes: int, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for first, second in pairwise(sizes):
        layers += [nn.Linear(first, second, bias=bias), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("bias", [True, False])
def test_a_chain_is_read_by_numbers_and_computes_the_same(bias: bool):
    module = chain(3, *[8] * 11, 2, bias=bias)  # twelve layers, whose names do not sort as text
    state = dict(sorted(module.state_dict().items()))
    architecture = Architecture.from_state_dict(state, "tanh")
    assert architecture == Architecture.mlp((3, *[8] * 11, 2), "tanh", bias=bias)
    x = torch.randn(5, 3)
    torch.testing.assert_close(from_state_dicts(state, architecture)(x), module(x))


def test_settings_of_a_chain():
    state = {f"fc{i}.{n}": p for i, layer in enumerate(chain(2, 4, 1)[::2]) for n, p in layer.state_dict().items()}
    siren = Activation("sine", omega=30.0)
    assert Architecture.from_state_dict(state, [siren], output_offset=0.5) == Architecture.siren(
        (2, 4, 1), output_offset=0.5
    )
    one = nn.Linear(3, 2).state_dict()
    assert Architecture.from_state_dict(one, "relu") == Architecture.mlp((3, 2), "relu")


def test_low_rank_adapters():
    state = {
        "base.q.lora_A.weight": torch.randn(4, 6), "base.q.lora_B.weight": torch.randn(8, 4),
        "base.v.lora_A.weight": torch.randn(2, 6), "base.v.lora_B.weight": torch.randn(8, 2),
    }  # fmt: skip
    architecture = Architecture.from_state_dict(state)
    assert architecture == from_lora(state).architecture
    assert [space.size for space in architecture.hidden] == [4, 2]
    with pytest.raises(ValueError, match="low-rank adapters, between whose factors nothing stands"):
        Architecture.from_state_dict(state, "relu")
    del state["base.v.lora_B.weight"]
    with pytest.raises(ValueError, match="one of the two alone"):
        Architecture.from_state_dict(state)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), r"1\.weight of shape \(4,\) is no weight"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2)), r"0\.weight of shape .*from_module"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2)), r"2\.weight reads 5 values, 0\.weight writes 4"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)), "a bias in every layer or in none"),
        (nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)}), "cannot tell the order"),
        (nn.ReLU(), "expected the weight of every linear layer, got none"),
    ],
)
def test_what_is_no_chain_is_refused_by_name(module: nn.Module, message: str):
    with pytest.raises(ValueError, match=message):
        Architecture.from_state_dict(module.state_dict(), "relu")


def test_names_that_tell_no_order():
    for first, second in (("block.0.fc", "block.1.gate"), ("a.0", "a.1.b.0")):
        state = {f"{first}.weight": torch.zeros(3, 3), f"{second}.weight": torch.zeros(3, 3)}
        with pytest.raises(ValueError, match="cannot tell the order"):
            Architecture.from_state_dict(state, "relu")
    with pytest.raises(TypeError, match="expected a mapping of names to tensors"):
        Architecture.from_state_dict({0: torch.zeros(2, 2)}, "relu")  # type: ignore[dict-item]
    twice = {f"a.{n}lora_{half}.weight": torch.zeros(2, 2) for n in ("", "weight.") for half in "AB"}
    with pytest.raises(ValueError, match="are both lora_A of 'a'"):
        Architecture.from_state_dict(twice)
    lookup = {"e.lora_embedding_A": torch.zeros(2, 9), "q.lora_A.weight": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match="adapter of an embedding"):
        Architecture.from_state_dict(lookup)


def test_what_no_state_dict_tells_has_to_be_said():
    with pytest.raises(ValueError, match="tells the activation"):
        Architecture.from_state_dict(chain(2, 3, 1).state_dict())
    with pytest.raises(TypeError, match="expected a mapping of names to tensors"):
        Architecture.from_state_dict(chain(2, 3, 1), "relu")  # type: ignore[arg-type]
    state = chain(2, 3, 1).state_dict()
    state["0.bias"] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"0\.bias: expected 3 entries"):
        Architecture.from_state_dict(state, "relu")
    with pytest.raises(ValueError, match="a bias alone"):
        Architecture.from_state_dict({"1.bias": torch.zeros(3), "0.weight": torch.zeros(3, 2)}, "relu")
