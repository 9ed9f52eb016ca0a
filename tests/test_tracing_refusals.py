"""What cannot be derived: the message names the layer, what is in the way, and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from weightaug import Architecture


class Inside(nn.Module):
    """A network with something between its layers."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(4, 6), middle, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(torch.relu(self.first(x))))


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


class Numbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * int(x.sum().item())


class Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy())


class Shapes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Hidden(nn.Module):
    """A buffer that no state dict holds, with one value for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.arange(6.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offsets


class Single(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.eye(6)


class SinglePrecision(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.ones(6, 1) + x


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.inner = kind(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, None])[0][:, 0]


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (Branches(), r"in module 'middle' \(Branches\): .*torch.where"),
        (Numbers(), r"in module 'middle' \(Numbers\): .*Python numbers"),
        (Numpy(), r"in module 'middle' \(Numpy\): .*numpy"),
        (nn.Sequential(nn.Identity(), Branches()), r"in module 'middle.1' \(Branches\)"),
        (Recurrent(nn.LSTM), r"module 'middle.inner' \(LSTM\): operator 'lstm'.*rewrite"),
        (Recurrent(nn.GRU), r"module 'middle.inner' \(GRU\): operator 'gru'.*rewrite"),
        (nn.Linear(5, 6), r"in module 'middle' \(Linear\)"),
        (Hidden(), r"first.weight by .*add.* a tensor that is no parameter"),
        (Single(), r"first.weight by linear, matmul.* a tensor that is no parameter"),
        (SinglePrecision(), r"does not run in double precision.*dtype=x.dtype"),
    ],
    ids=[
        "branches",
        "numbers",
        "numpy",
        "nested",
        "lstm",
        "gru",
        "shapes",
        "hidden_buffer",
        "constant",
        "single_precision",
    ],
)
def test_the_layer_and_a_way_out_are_named(middle: nn.Module, message: str):
    module = Inside(middle)
    with pytest.raises(ValueError, match=r"(?s)" + message):
        Architecture.from_module(module, torch.randn(3, 4))
    # Nothing is left behind in the module.
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
    assert module.training


@pytest.mark.parametrize("middle", [Shapes(), Noise()], ids=["shapes", "noise"])
def test_what_depends_on_values_or_chance_is_refused(middle: nn.Module):
    with pytest.raises(ValueError, match=r"Inside|'middle'"):
        Architecture.from_module(Inside(middle), torch.randn(3, 4))


class Constants(nn.Module):
    """A state of zeros that is written into, and read both before and after."""

    def __init__(self, write: str) -> None:
        super().__init__()
        self.write = write
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 6, dtype=x.dtype)
        y = torch.relu(self.first(x) + state)
        if self.write == "whole":
            state += torch.arange(6, dtype=x.dtype)
        elif self.write == "view":
            state[:, 0].add_(1.0)
        elif self.write == "other":
            state = torch.full_like(state, 0.5)
        return self.head(y + torch.tanh(self.second(x) + state))


@pytest.mark.parametrize(
    ("write", "moves", "scales"),
    [("nothing", True, True), ("other", True, False), ("whole", False, False), ("view", False, False)],
)
def test_constants_move_with_what_they_meet_until_they_are_written_into(write: str, moves: bool, scales: bool):
    module = Constants(write).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    if not moves:
        with pytest.raises(ValueError, match="no symmetry"):
            Architecture.from_module(module, x)
        return
    architecture = Architecture.from_module(module, x)
    assert len(set(architecture.masters)) == 1
    signs = [space.name for space in architecture.hidden if "sign" in space.symmetries]
    assert not signs  # ReLU's and tanh's branches meet: neither factors nor signs pass


@pytest.mark.filterwarnings("ignore")  # torch speaks of its quantisation as old
def test_quantised_modules_are_refused_by_their_tensor():
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    packed = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"0._packed_params.dtype: expected a tensor.*from before it was quantised"):
        Architecture.from_module(packed, torch.randn(2, 4))
