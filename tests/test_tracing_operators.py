"""Operators between two layers, one by one: what passes them, and that the module computes the same.

Neurons stand on the last axis of ``(3, 4, 12)``: three samples, four tokens. What is expected of an operator is written
as the spaces that remain: the number of neurons, then p (permutation), s (sign), c (positive scale), m (maps).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightaug import Architecture, act
from weightaug._tracing.check import random_symmetry
from weightaug.adapters import from_modules

MASK = torch.tensor([[True, False, True, True]] * 4)


def written_into(h: Tensor) -> Tensor:
    h = h * 1
    h[:, 0] = 0
    return h


OPERATORS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "transpose": ("12pscm", lambda h: h.transpose(1, 2).swapaxes(1, 2)),
    "mT": ("12pscm", lambda h: h.mT.mT),
    "t": ("12pscm", lambda h: h[0].t().t()),
    "adjoint": ("12pscm", lambda h: h.adjoint().mT),
    "movedim": ("12pscm", lambda h: h.movedim(2, 0).movedim((0,), (2,))),
    "moveaxis": ("12pscm", lambda h: h.moveaxis(-1, 1).movedim((1, 2), (2, 1))),
    "permute": ("12pscm", lambda h: h.permute(2, 0, 1).permute(1, 2, 0)),
    "stack": ("12p", lambda h: torch.stack([h.tanh(), h.relu()], 1).sum(1)),
    "stack_last": ("12p", lambda h: torch.stack([h.tanh(), h.relu()], -1).mean(-1)),
    "cat_features": ("12p", lambda h: torch.cat([h.tanh(), h.relu()], -1)),
    "cat_tokens": ("12p", lambda h: torch.cat([h.tanh(), h.relu()], 1)),
    "expand": ("12pscm", lambda h: h.sum(1, keepdim=True).expand(3, 4, 12)),
    "expand_as": ("12pscm", lambda h: h.sum(1, keepdim=True).expand_as(h)),
    "repeat": ("12pscm", lambda h: h[:, :1].repeat(1, 4, 1)),
    "repeat_features": ("refused repeat", lambda h: h.repeat(1, 1, 2)),
    "split": ("5pscm 7pscm", lambda h: torch.cat(h.split([5, 7], -1)[::-1], -1)),
    "chunk": ("6psc 6psc", lambda h: torch.mul(*h.chunk(2, -1))),
    "tensor_split": ("4pscm 4pscm 4pscm", lambda h: h.tensor_split(3, -1)[1]),
    "narrow": ("3pscm 6pscm 3pscm", lambda h: h.narrow(-1, 3, 6)),
    "slice_ends": ("4psc 4psc 4pscm", lambda h: h[..., -4:] * h[..., :4]),
    "slice_nothing": ("12pscm", lambda h: torch.cat([h[..., :12], h[..., 12:]], -1)),
    "slices": ("4pscm 4pscm 4pscm", lambda h: torch.cat([h[..., :4], h[..., 4:8], h[..., 8:]], -1)),
    "slices_later": ("4pscm 4pscm 4pscm", lambda h: torch.cat([h[..., 4:][..., 4:], h[..., :4], h[..., 4:8]], -1)),
    "slice_step": ("fixed", lambda h: h[..., ::2]),
    "slice_all": ("12pscm", lambda h: h[..., 0:12]),
    "select_token": ("12pscm", lambda h: h[:, 1]),
    "select_feature": ("fixed", lambda h: h[..., 1]),
    "unbind": ("12pscm", lambda h: h.unbind(1)[0] + h.unbind(1)[2]),
    "unflatten": ("3p 4pscm", lambda h: h.unflatten(-1, (3, 4)).flatten(-2)),
    "view_as": ("12pscm", lambda h: h.reshape(3, 48).view_as(h)),
    "unsqueeze": ("12pscm", lambda h: h.unsqueeze(1).squeeze(1)),
    "inner_mean": ("3pscm 4p", lambda h: h.unflatten(-1, (3, 4)).mean(-1)),
    "outer_mean": ("3p 4pscm", lambda h: h.unflatten(-1, (3, 4)).mean(-2)),
    "square": ("12psc", lambda h: h.square()),
    "pow3": ("12psc", lambda h: h ** 3),
    "pow_half": ("12p", lambda h: h.abs() ** 0.5),
    "sqrt": ("12p", lambda h: h.abs().sqrt()),
    "reciprocal": ("12p", lambda h: (1 + h.abs()).reciprocal()),
    "rsub": ("12p", lambda h: 1 - h),
    "neg": ("12pscm", lambda h: -h.clone()),
    "div": ("12ps", lambda h: h / (1 + h.square())),
    "div_scalar": ("12pscm", lambda h: h / 3),
    "floor_div": ("refused div", lambda h: torch.div(h, h + 1, rounding_mode="floor")),
    "mean_all": ("12p", lambda h: h.mean() * torch.ones(3, 1, dtype=h.dtype)),
    "sum_features": ("12p", lambda h: h.sum(-1, keepdim=True)),
    "mean_tokens": ("12pscm", lambda h: h.mean(1)),
    "amax_tokens": ("12pc", lambda h: h.amax(1)),
    "amax_features": ("12p", lambda h: h.amax(-1, keepdim=True)),
    "max_with_positions": ("refused max", lambda h: h.max(1).values),
    "softmax_features": ("12p", lambda h: h.softmax(-1)),
    "softmax_tokens": ("12p", lambda h: h.softmax(1)),
    "log_softmax": ("12p", lambda h: h.log_softmax(-1)),
    "masked_fill": ("12p", lambda h: h.masked_fill(torch.ones(4, 1, dtype=torch.bool).triu(), 0.5)),
    "where": ("12p", lambda h: torch.where(torch.ones(4, 1, dtype=torch.bool).triu(), h, h.tanh())),
    "where_on_itself": ("refused gt", lambda h: torch.where(h > 0, h, 0.1 * h)),
    "maximum": ("12p", lambda h: torch.maximum(h, h.tanh())),
    "minimum_scalar": ("12p", lambda h: torch.minimum(h, torch.tensor(0.3, dtype=h.dtype))),
    "clamp": ("12p", lambda h: h.clamp(-0.5, 0.5)),
    "einsum_scores": ("12ps", lambda h: torch.einsum("btf,bsf->bts", h, h.tanh())),
    "einsum_outer": ("fixed", lambda h: torch.einsum("btf,btg->bfg", h, h.tanh())),
    "einsum_kept": ("12ps", lambda h: torch.einsum("btf,bsf->btf", h, h.tanh())),
    "einsum_implicit": ("refused einsum", lambda h: torch.einsum("btf,bsf", h, h)),
    "einsum_three": ("refused einsum", lambda h: torch.einsum("btf,bsf,bsg->btg", h, h, h)),
    "matmul": ("12ps", lambda h: h @ h.mT),
    "bmm": ("12ps", lambda h: torch.bmm(h, h.mT)),
    "gram": ("fixed", lambda h: h.mT @ h),
    "pad_tokens": ("12pscm", lambda h: F.pad(h, (0, 0, 1, 1))),
    "pad_value": ("12p", lambda h: F.pad(h, (0, 0, 1, 1), value=2.0)),
    "pad_features": ("fixed", lambda h: F.pad(h, (0, 2))),
    "pad_reflect": ("12p", lambda h: F.pad(h.mT, (1, 1), mode="reflect").mT),
    "index_tokens": ("12pscm", lambda h: h[:, torch.tensor([0, 2])]),
    "index_features": ("fixed", lambda h: h[..., torch.tensor([0, 2])]),
    "index_select": ("12pscm", lambda h: h.index_select(1, torch.tensor([0, 2]))),
    "gather": ("refused gather", lambda h: h.gather(1, torch.zeros(3, 1, 12, dtype=torch.long))),
    "roll": ("fixed", lambda h: h.roll(1, -1)),
    "flip": ("12pscm", lambda h: h.flip(1)),
    "cumsum": ("12pscm", lambda h: h.cumsum(1)),
    "sort": ("refused sort", lambda h: h.sort(-1).values),
    "argmax": ("refused argmax", lambda h: F.one_hot(h.argmax(-1), 12).to(h.dtype)),
    "layer_norm": ("12p", lambda h: F.layer_norm(h, (12,))),
    "layer_norm_two": ("12p", lambda h: F.layer_norm(h, (4, 12))),
    "rms_norm": ("12psm", lambda h: F.rms_norm(h, (12,))),
    "group_norm": ("4p 3p", lambda h: F.group_norm(h.mT, 4).mT),
    "group_norm_one": ("12p", lambda h: F.group_norm(h.mT, 1).mT),
    "instance_norm": ("12p", lambda h: F.instance_norm(h.mT).mT),
    "batch_norm_training": ("12p", lambda h: F.batch_norm(h.mT, None, None, training=True).mT),
    "avg_pool": ("12pscm", lambda h: F.avg_pool1d(h.mT, 2).mT),
    "max_pool": ("12pc", lambda h: F.max_pool1d(h.mT, 2).mT),
    "pool_features": ("fixed", lambda h: F.avg_pool1d(h, 2)),
    "adaptive_max": ("12pc", lambda h: F.adaptive_max_pool1d(h.mT, 2).mT),
    "upsample": ("12pscm", lambda h: F.interpolate(h.mT, scale_factor=2).mT),
    "upsample_linear": ("12pscm", lambda h: F.interpolate(h.mT, scale_factor=2, mode="linear").mT),
    "attention_causal": ("12p", lambda h: F.scaled_dot_product_attention(h, h.tanh(), h.relu(), is_causal=True)),
    "attention_mask": ("12p", lambda h: F.scaled_dot_product_attention(h, h.tanh(), h.relu(), attn_mask=MASK)),
    "normalize": ("12p", lambda h: F.normalize(h, dim=-1)),
    "prelu": ("12pc", lambda h: F.prelu(h, torch.tensor([0.2], dtype=h.dtype))),
    "norm": ("12p", lambda h: h.norm(dim=-1, keepdim=True)),
    "var": ("12p", lambda h: h.var(-1, keepdim=True)),
    "glu": ("6psc", lambda h: F.glu(h)),
    "dropout": ("12pscm", lambda h: F.dropout(h, 0.5, training=False)),
    "lerp": ("12ps", lambda h: torch.lerp(h, h.tanh(), 0.3)),
    "addcmul": ("refused addcmul", lambda h: torch.addcmul(h, h, h.tanh())),
    "type_as": ("12pscm", lambda h: h.type_as(h.detach())),
    "logsumexp": ("12p", lambda h: h.logsumexp(-1, keepdim=True)),
    "std": ("12p", lambda h: h.std(1)),
    "cdist": ("refused cdist", lambda h: torch.cdist(h, h)),
    "outer_sum": ("12pc", lambda h: (h.unsqueeze(1) + h.unsqueeze(2)).relu().mean(1)),
    "bool_scale": ("refused gt", lambda h: h * (h > 0).to(h.dtype)),
    "topk": ("refused topk", lambda h: h.topk(3, -1).values),
    "pixel_shuffle": ("refused pixel_shuffle", lambda h: F.pixel_shuffle(h.mT.unsqueeze(-1), 2).flatten(1)),
    "unfold": ("refused unfold", lambda h: h.unfold(1, 2, 1).flatten(2)),
    "index_mask": ("refused index", lambda h: h[:, torch.tensor([True, False, True, True])]),
    "index_two": ("refused index", lambda h: h[torch.tensor([0, 1]), torch.tensor([0, 1])]),
    "index_matrix": ("12pscm", lambda h: h[:, torch.tensor([[0, 2], [1, 1]])].mean((1, 2))),
    "roll_all": ("fixed", lambda h: h.roll(1)),
    "glu_tokens": ("12p", lambda h: F.glu(h, 1)),
    "prelu_linear": ("fixed", lambda h: F.prelu(h.mT, torch.rand(12, dtype=h.dtype)).mT),
    "norm_tokens": ("12pc", lambda h: h.norm(dim=1)),
    "norm_all": ("12p", lambda h: h / h.norm()),
    "var_tokens": ("12p", lambda h: h.var(1)),
    "lerp_weight": ("refused lerp", lambda h: torch.lerp(h, h.tanh(), h.sigmoid())),
    "logsumexp_tokens": ("12p", lambda h: h.logsumexp(1)),
    "inplace_relu": ("12pc", lambda h: F.relu_(h * 1)),
    "inplace_add": ("12p", lambda h: h.add_(1.0)),
    "inplace_slice": ("refused fill_", written_into),
}  # fmt: skip


class Between(nn.Module):
    """Two layers, and something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.first = nn.Linear(5, 12)
        self.double()
        with torch.no_grad():
            out = between(self.first(torch.randn(3, 4, 5, dtype=torch.float64))).shape[-1]
        self.last = nn.Linear(out, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def spaces(architecture: Architecture) -> str:
    letters = {"permutation": "p", "sign": "s", "scale": "c", "maps": "m"}
    return " ".join(str(s.size) + "".join(letters[name] for name in s.symmetries) for s in architecture.hidden)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_passes_an_operator_keeps_what_is_computed(name: str):
    torch.manual_seed(0)
    expected, between = OPERATORS[name]
    module, x = Between(between), torch.randn(3, 4, 5, dtype=torch.float64)
    if expected == "fixed" or expected.startswith("refused"):
        message = "no symmetry was found" if expected == "fixed" else f"operator '{expected.split()[1]}'"
        with pytest.raises(ValueError, match=message):
            from_modules(module, example_input=x)
        return
    element = from_modules(module, example_input=x)
    assert spaces(element.architecture) == expected
    with torch.no_grad():
        before = module(x)
        for seed in range(2):
            group = random_symmetry(element.architecture, torch.Generator().manual_seed(seed))
            moved = dict(act(element, group).named_tensors())
            after = torch.func.functional_call(module, moved, (x,))
            assert float((after - before).abs().max() / before.abs().max()) < 1e-9
            assert not torch.equal(moved["first.weight"], module.first.weight)


def test_slopes_of_their_own_follow_their_channels():
    module = nn.Sequential(nn.Conv1d(3, 6, 3), nn.PReLU(6), nn.Conv1d(6, 2, 1)).double()
    with torch.no_grad():
        module[1].weight.uniform_(-1, 1)
    x = torch.randn(2, 3, 9, dtype=torch.float64)
    element = from_modules(module, example_input=x)
    assert spaces(element.architecture) == "6pc"
    moved = act(element, random_symmetry(element.architecture, torch.Generator().manual_seed(0)))
    assert not torch.equal(dict(moved.named_tensors())["1.weight"], module[1].weight)
    torch.testing.assert_close(torch.func.functional_call(module, dict(moved.named_tensors()), (x,)), module(x))
