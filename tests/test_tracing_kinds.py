"""Kinds of layers and of sharing, one by one: what moves, what must stay, and that the module computes the same.

Each module is run with moved tensors in float64, in eval mode and, where permutations alone move it, in training mode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightaug import Architecture, HeadPermutation, Permute, WeightSpaceElement, act
from weightaug._tracing.check import random_symmetry
from weightaug.adapters import from_modules

HEADS, GROUPS, WIDTH, INSIDE = 4, 2, 12, 6


class Attention(nn.Module):
    """Attention by hand: grouped queries if there are fewer keys than heads, rotary positions if wanted."""

    def __init__(self, keys: int = HEADS, *, rotary: bool = False) -> None:
        super().__init__()
        self.keys, self.rotary = keys, rotary
        self.q = nn.Linear(WIDTH, HEADS * INSIDE)
        self.k = nn.Linear(WIDTH, keys * INSIDE)
        self.v = nn.Linear(WIDTH, keys * INSIDE)
        self.o = nn.Linear(HEADS * INSIDE, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], -1, INSIDE)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.rotary:
            angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] / 10.0 ** torch.arange(INSIDE // 2, dtype=x.dtype)
            cos, sin = (torch.cat([f, f], -1) for f in (angle.cos(), angle.sin()))
            q, k = (t * cos + torch.cat([-t[..., INSIDE // 2 :], t[..., : INSIDE // 2]], -1) * sin for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.keys != HEADS)
        return self.o(y.transpose(1, 2).flatten(2))


class Tied(nn.Module):
    """An embedding that is the decoder, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 8))
        self.decode = nn.Linear(8, 11, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.decode(x + self.mlp(x))


class Looped(nn.Module):
    """One layer that is used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(4, 7), nn.Linear(7, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        for _ in range(3):
            x = torch.tanh(self.again(x))
        return self.leave(x)


class Recurrent(nn.Module):
    """An LSTM (gates in one weight) or a GRU, cell by cell, from a state of zeros."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, gates = kind, 4 if kind == "lstm" else 3
        self.read, self.recur, self.head = nn.Linear(4, gates * 6), nn.Linear(6, gates * 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 6, dtype=x.dtype)
        for t in range(x.shape[1]):
            if self.kind == "lstm":
                i, f, g, o = (self.read(x[:, t]) + self.recur(h)).chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                (r, z, n), (s, y, m) = self.read(x[:, t]).chunk(3, -1), self.recur(h).chunk(3, -1)
                z = (z + y).sigmoid()
                h = (1 - z) * (n + (r + s).sigmoid() * m).tanh() + z * h
        return self.head(h)


class Autoencoder(nn.Module):
    """One weight in two roles: it encodes and, transposed, decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(5, 8)
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.encode(x)) @ self.encode.weight + self.bias


class Decoder(nn.Module):
    """A decoder that attends to what it reads."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, 2 * x)


def convolutions(norm: Callable[[int], nn.Module], groups: int = 1) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1, groups=groups), norm(8),
        nn.GELU(), nn.Conv2d(8, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


IMAGES, TOKENS, STEPS, POINTS = (4, 3, 5, 5), (2, 5, WIDTH), (3, 4, 4), (6, 4)
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch_norm": (convolutions(nn.BatchNorm2d), IMAGES),
    "group_norm": (convolutions(lambda n: nn.GroupNorm(4, n)), IMAGES),
    "instance_norm": (convolutions(lambda n: nn.InstanceNorm2d(n, affine=True)), IMAGES),
    "grouped": (convolutions(nn.BatchNorm2d, groups=2), IMAGES),
    "depthwise": (convolutions(nn.BatchNorm2d, groups=8), IMAGES),
    "attention": (Attention, TOKENS),
    "grouped_queries": (lambda: Attention(GROUPS), TOKENS),
    "one_key": (lambda: Attention(1), TOKENS),
    "rotary": (lambda: Attention(rotary=True), TOKENS),
    "rotary_grouped_queries": (lambda: Attention(GROUPS, rotary=True), TOKENS),
    "tied": (Tied, (2, 5)),
    "shared": (Looped, POINTS),
    "two_roles": (Autoencoder, (6, 5)),
    "lstm": (lambda: Recurrent("lstm"), STEPS),
    "gru": (lambda: Recurrent("gru"), STEPS),
    "encoder": (lambda: nn.TransformerEncoderLayer(WIDTH, HEADS // 2, 16, dropout=0.0, batch_first=True), TOKENS),
    "decoder": (
        lambda: Decoder(nn.TransformerDecoderLayer(WIDTH, HEADS // 2, 16, dropout=0.0, batch_first=True)), TOKENS,
    ),
}  # fmt: skip


def made(kind: str) -> tuple[nn.Module, Tensor, WeightSpaceElement]:
    torch.manual_seed(0)
    make, shape = KINDS[kind]
    module = make().double().eval()
    for name, tensor in module.state_dict().items():  # no statistic, gain or bias of a neutral value
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.copy_(torch.rand_like(tensor) + (0.5 if name.endswith(("var", "weight")) else -0.5))
    x = torch.randint(11, shape) if kind == "tied" else torch.randn(shape, dtype=torch.float64)
    return module, x, from_modules(module, example_input=x)


def run(module: nn.Module, x: Tensor, element: WeightSpaceElement) -> tuple[Tensor, dict[str, Tensor]]:
    """What a module computes with other tensors, and its buffers afterwards."""
    copied = copy.deepcopy(module)
    _, unexpected = copied.load_state_dict(dict(element.named_tensors()), strict=False)
    assert not unexpected
    with torch.no_grad():
        result = copied(x)
    return result, dict(copied.named_buffers())


def error(expected: Tensor, got: Tensor) -> float:
    return float((expected - got).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_symmetry_moves_every_matrix_and_keeps_the_function(kind: str):
    module, x, element = made(kind)
    expected, _ = run(module, x, element)
    still = {spec.name for spec in element.architecture.tensors if "+" in str(spec) or "-" in str(spec)}
    for seed in range(3):
        moved = act(element, random_symmetry(element.architecture, torch.Generator().manual_seed(seed)))
        assert error(expected, run(module, x, moved)[0]) < 1e-9
        pairs = zip(element.named_tensors(), moved.tensors(), strict=True)
        still -= {name for (name, a), b in pairs if not torch.equal(a, b)}
    assert not still  # of all that follow a space


@pytest.mark.parametrize("kind", KINDS)
def test_permutations_hold_in_training_mode_running_statistics_included(kind: str):
    module, x, element = made(kind)
    module.train()
    for layer in module.modules():
        if isinstance(layer, (nn.Dropout, nn.MultiheadAttention)):
            layer.eval()  # what is dropped at random is another network
    expected, after = run(module, x, element)
    group = Permute().sample(element, generator=torch.Generator().manual_seed(0))
    moved = act(element, group)
    got, moved_after = run(module, x, moved)
    assert error(expected, got) < 1e-9
    # The statistics that a step leaves are those of the first module, moved.
    state = dict(element.named_tensors())
    updated = {n: after.get(n, t) for n, t in state.items()}
    followed = dict(act(element.with_tensors([updated[n] for n in state]), group).named_tensors())
    for name in set(after) & set(state):
        torch.testing.assert_close(moved_after[name], followed[name], rtol=1e-9, atol=1e-12, msg=name)
        assert not torch.equal(after[name], state[name])


def test_heads_move_whole_and_their_insides_turn():
    _, _, element = made("attention")
    arch = element.architecture
    outer = [s for s in arch.hidden if any(other.within == s.name for other in arch.hidden)]
    assert [s.size for s in outer] == [HEADS]
    inner = [s for s in arch.hidden if s.within == outer[0].name]
    assert sorted(s.size for s in inner) == [INSIDE, INSIDE]
    assert all(s.linear for s in inner)  # QK and VO
    moved = HeadPermutation()(element, generator=torch.Generator().manual_seed(1))
    heads = lambda e, name: dict(e.named_tensors())[name].view(HEADS, INSIDE, WIDTH)
    orders = []
    for name in ("q.weight", "k.weight", "v.weight"):  # one order of heads for the three, blocks moved as they are
        before, after = heads(element, name), heads(moved, name)
        orders.append([int((before == block).all((1, 2)).nonzero()) for block in after])
    assert orders[0] == orders[1] == orders[2] != list(range(HEADS))


def test_grouped_queries_move_in_their_groups():
    _, _, element = made("grouped_queries")
    moved = HeadPermutation()(element, generator=torch.Generator().manual_seed(0))
    q = [dict(e.named_tensors())["q.weight"].view(HEADS, INSIDE, WIDTH) for e in (element, moved)]
    k = [dict(e.named_tensors())["k.weight"].view(GROUPS, INSIDE, WIDTH) for e in (element, moved)]
    order_q = [int((q[0] == block).all((1, 2)).nonzero()) for block in q[1]]
    order_k = [int((k[0] == block).all((1, 2)).nonzero()) for block in k[1]]
    each = HEADS // GROUPS
    assert order_q != list(range(HEADS))
    assert [h // each for h in order_q] == [g for g in order_k for _ in range(each)]


def test_statistics_follow_and_leaving_them_behind_changes_the_function():
    module, x, element = made("batch_norm")
    moved = Permute()(element, generator=torch.Generator().manual_seed(0))
    left = moved.with_tensors(
        [a if "running" in n else b for (n, a), b in zip(element.named_tensors(), moved.tensors(), strict=True)]
    )
    expected = run(module, x, element)[0]
    assert error(expected, run(module, x, moved)[0]) < 1e-9
    assert error(expected, run(module, x, left)[0]) > 1e-3


def test_a_tied_weight_is_one_tensor_in_one_place():
    module, x, element = made("tied")
    names = [name for name, _ in element.named_tensors()]
    assert "embed.weight" in names
    assert "decode.weight" not in names
    moved = Permute()(element, generator=torch.Generator().manual_seed(0))
    got, _ = run(module, x, moved)
    assert error(run(module, x, element)[0], got) < 1e-9


def test_gates_share_one_order():
    for kind, gates in (("lstm", 4), ("gru", 3)):
        _, _, element = made(kind)
        assert [s.size for s in element.architecture.hidden if s.permutes_with is None] == [6]
        moved = Permute()(element, generator=torch.Generator().manual_seed(0))
        before, after = (dict(e.named_tensors())["read.weight"].view(gates, 6, 4) for e in (element, moved))
        orders = [[int((b == row).all(1).nonzero()) for row in a] for b, a in zip(before, after, strict=True)]
        assert all(order == orders[0] for order in orders)
        assert orders[0] != list(range(6))


def test_positions_of_groups_stay_in_their_groups():
    _, _, element = made("grouped")
    assert any(space.within is not None for space in element.architecture.hidden)
    depth = made("depthwise")[2].architecture
    assert all(space.within is None for space in depth.hidden)
    assert Architecture.from_json(depth.to_json()) == depth


def test_one_weight_in_two_roles_takes_no_factor():
    # Written, a factor of ReLU's; read by the transpose, its inverse: no factor but one is both.
    (space,) = made("two_roles")[2].architecture.hidden
    assert space.symmetries == ("permutation",)
