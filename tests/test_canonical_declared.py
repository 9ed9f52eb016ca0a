"""Canonical forms of networks that are declared tensor by tensor, held against the modules themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.families import FAMILIES, WildPark, exercised
from tests.test_tracing import TRANSFORMS, applies, error, run, traced
from weightaug import LoRAGauge, Permute, ReLUScale, SirenNegation, WeightSpaceElement, act
from weightaug.adapters import from_lora, from_modules
from weightaug.matching import canonicalize, canonicalize_lora, match

every_family = pytest.mark.parametrize("family", FAMILIES)


def normal(x: WeightSpaceElement, symmetry="auto") -> WeightSpaceElement:
    return act(x, canonicalize(x, symmetry=symmetry))


def gap(a: WeightSpaceElement, b: WeightSpaceElement) -> float:
    return max(float((s - t).abs().max() / s.abs().max()) for s, t in zip(a.tensors(), b.tensors(), strict=True))


def somewhere(x: WeightSpaceElement, seed: int) -> WeightSpaceElement:
    """A place in the orbit, by every transform that applies."""
    for number, transform in enumerate(TRANSFORMS):
        if applies(transform, x.architecture):
            x = transform(x, generator=torch.Generator().manual_seed(seed + number))
    return x


@every_family
def test_all_places_of_an_orbit_have_one_canonical_form_that_computes_the_same(family: str):
    module, inputs, x = traced(family)
    form = normal(x)
    assert gap(form, normal(somewhere(x, 1))) < 1e-8
    assert gap(form, normal(form)) < 1e-8
    assert error(run(module, inputs), run(module, inputs, dict(form.named_tensors()))) < 1e-9
    assert gap(form, x) > 1e-3


@pytest.mark.parametrize("symmetry", ["permutation", ("permutation", "scale"), ("sign",), ("scale", "sign")], ids=str)
def test_a_part_of_the_group_moves_by_that_part_alone(symmetry):
    family = "wild_park_relu" if "scale" in symmetry else "wild_park_tanh"
    symmetry = ("permutation", "scale") if symmetry == ("scale", "sign") else symmetry
    _, _, x = traced(family)
    group = canonicalize(x, symmetry=symmetry)
    moves = {"sign": any(s is not None and bool((s < 0).any()) for s in group.scale)}
    moves["scale"] = any(s is not None and bool((s.abs() != 1).any()) for s in group.scale)
    assert moves["scale"] == ("scale" in symmetry)
    if "scale" in symmetry:
        assert not moves["sign"]
    assert gap(normal(x, symmetry), normal(Permute()(x), symmetry)) < 1e-8


def test_every_network_of_a_batch_for_itself_in_any_batch_shape():
    inputs = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    torch.manual_seed(0)
    x = from_modules([exercised(WildPark()) for _ in range(6)], example_input=inputs)
    form = normal(x)
    for i in range(6):
        assert gap(form[i], normal(x[i])) < 1e-9
    square = x.map(lambda t: t.view(2, 3, *t.shape[1:]))
    assert gap(normal(square)[1, 2], form[5]) < 1e-9
    assert normal(x[:0]).batch_shape == (0,)
    torch.testing.assert_close(form(inputs), x(inputs))


def test_single_precision_gives_the_same_form_up_to_rounding():
    _, _, x = traced("wild_park_relu")
    moved = ReLUScale(max_scale=1.5)(Permute()(x.to(torch.float32)))
    assert gap(normal(x.to(torch.float32)), normal(moved)) < 1e-4
    assert normal(moved).dtype == torch.float32


def twins(x: WeightSpaceElement) -> WeightSpaceElement:
    """Channels that nothing tells apart, and channels that are cut off."""
    tensors = dict(x.named_tensors())
    for name, tensor in tensors.items():
        tensor = tensor.clone()
        if name.startswith(("first", "norms.0")) and tensor.dim():
            tensor[2:4] = tensor[0:1].expand_as(tensor[2:4])  # three equal channels
        if name == "third.weight":
            tensor[:, 2:4] = tensor[:, 0:1]
            tensor[:, 4] = 0.0  # read by the skip alone
            tensor[3] = 0.0  # reads nothing
        if name == "second.weight":
            tensor[:, 2:4] = tensor[:, 0:1]
            tensor[2:4] = tensor[0:1]
        if name.startswith(("second.bias", "norms.1")):
            tensor[2:4] = tensor[0:1]
        tensors[name] = tensor
    return x.with_tensors(list(tensors.values()))


@pytest.mark.parametrize("family", ["wild_park_relu", "wild_park_tanh"])
def test_twins_and_channels_that_are_cut_off_have_one_form_too(family: str):
    module, inputs, x = traced(family)
    x = twins(x)
    form = normal(x)
    for seed in range(3):
        assert gap(form, normal(somewhere(x, seed))) < 1e-7
    assert error(run(module, inputs, dict(x.named_tensors())), run(module, inputs, dict(form.named_tensors()))) < 1e-9


def test_channels_that_only_their_neighbours_tell_apart():
    """Weights of one size everywhere: what is known of a position comes from who it is connected to."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(2, 8, 1), nn.Tanh(), nn.Conv1d(8, 8, 1), nn.Tanh(), nn.Conv1d(8, 3, 1)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((torch.rand_like(parameter) < 0.3).to(parameter))
    inputs = torch.randn(2, 2, 5, dtype=torch.float64)
    x = from_modules(module, example_input=inputs)
    form = normal(x)
    for seed in range(5):
        assert gap(form, normal(somewhere(x, seed))) < 1e-12


def test_low_rank_pairs_come_out_balanced_as_by_their_own_canonical_form():
    torch.manual_seed(0)
    pairs = {}
    for layer, rank in (("a", 3), ("b", 5)):
        pairs[f"{layer}.lora_A.weight"] = torch.randn(rank, 9, dtype=torch.float64)
        pairs[f"{layer}.lora_B.weight"] = torch.randn(7, rank, dtype=torch.float64)
    x = from_lora(pairs)
    form, own = normal(x), canonicalize_lora(x)
    moved = LoRAGauge("invertible")(x, generator=torch.Generator().manual_seed(0))
    assert gap(form, normal(moved)) < 1e-9
    for (name, got), expected in zip(form.named_tensors(), own.tensors(), strict=True):
        across = 1 if name.endswith("A.weight") else 0  # one order of singular values or another
        norms = [t.norm(dim=across).sort().values for t in (got, expected)]
        torch.testing.assert_close(*norms)


def test_a_variance_stays_positive_where_scales_would_make_it_negative():
    module, inputs, x = traced("wild_park_relu")
    dead = x.with_tensors(
        [torch.full_like(t, 1e-7) if n.endswith("running_var") else t * 30 for n, t in x.named_tensors()]
    )
    form = dict(normal(dead).named_tensors())
    assert all(bool((t >= 0).all()) for n, t in form.items() if n.endswith("running_var"))
    assert error(run(module, inputs, dict(dead.named_tensors())), run(module, inputs, form)) < 1e-9
    assert gap(normal(dead), normal(somewhere_above(dead))) < 1e-6


def somewhere_above(x: WeightSpaceElement) -> WeightSpaceElement:
    """A place in the orbit where variances are larger, as they cannot become smaller."""
    arch = x.architecture
    scale = [torch.full((s.size,), 1.3, dtype=x.dtype) if "scale" in s.symmetries else None for s in arch.hidden]
    from weightaug import GroupElement

    return Permute()(act(x, GroupElement.of(arch, scale=tuple(scale))))


@pytest.mark.parametrize(
    ("symmetry", "error_type", "message"),
    [
        ("phase", ValueError, "symmetry: expected 'auto' or one or several of .*tensor by tensor, got 'phase'"),
        ((), ValueError, "symmetry: expected"),
        (3, TypeError, "symmetry: expected"),
        ("maps", ValueError, "symmetry 'maps': no space of this architecture has it"),
    ],
)
def test_what_there_is_no_form_for_is_named(symmetry, error_type, message):
    _, _, x = traced("wild_park_relu")
    with pytest.raises(error_type, match=message):
        canonicalize(x, symmetry=symmetry)


def test_pairs_without_full_rank_have_no_form_and_are_told_what_has():
    fresh = {"a.lora_A.weight": torch.randn(3, 9), "a.lora_B.weight": torch.zeros(7, 3)}  # as adapters begin
    with pytest.raises(ValueError, match=r"reads it has rank 0 of 3 in network 0.*canonicalize_lora"):
        canonicalize(from_lora(fresh))
    assert normal(from_lora(fresh), "permutation").num_parameters == 48


class Norms(nn.Module):
    """A stream with many norms, whose gains may each change signs."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(3, width), nn.Linear(width, 2)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(count)])
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(count)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.read(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x)).sin()
        return self.write(x)


def test_a_stream_with_many_norms_has_a_form_and_is_matched():
    torch.manual_seed(0)
    module, inputs = exercised(Norms(24, 10)), torch.randn(4, 3, dtype=torch.float64)
    x = from_modules(module, example_input=inputs)
    assert sum("sign" in space.symmetries for space in x.architecture.hidden) == 24  # 2 ** 24 joint choices
    there = somewhere(x, 4)
    form = normal(x)
    assert gap(form, normal(there)) < 1e-8
    assert error(run(module, inputs), run(module, inputs, dict(form.named_tensors()))) < 1e-9
    there = SirenNegation()(Permute()(x))
    assert gap(x, act(there, match(x, there))) < 1e-9
