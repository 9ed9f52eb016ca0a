"""Architectures derived from real modules, and every symmetry on them, by running the modules themselves."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

from tests.families import FAMILIES, UNet, WildPark, exercised
from weightaug import (
    AlignedMixup,
    Architecture,
    Compose,
    GroupElement,
    HeadPermutation,
    HeadRotation,
    Kind,
    LoRAGauge,
    Permute,
    ReLUScale,
    Rotate,
    SirenBias,
    SirenNegation,
    StreamRotation,
    Transform,
    WeightSpaceElement,
    act,
    matching,
)
from weightaug._tracing.check import random_symmetry
from weightaug.adapters import from_modules, recompute_statistics, to_modules, to_state_dicts
from weightaug.testing import check_transform

every_family = pytest.mark.parametrize("family", FAMILIES)
TRANSFORMS: list[Transform] = [
    Permute(),
    ReLUScale(max_scale=1.5),
    SirenNegation(),
    HeadPermutation(),
    HeadRotation(),
    HeadRotation("invertible", max_condition=3.0),
    StreamRotation(),
    LoRAGauge("invertible"),
]


@functools.cache
def traced(family: str) -> tuple[nn.Module, Any, WeightSpaceElement]:
    torch.manual_seed(0)
    module, inputs = FAMILIES[family]()
    module = exercised(module)
    inputs = pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, inputs)
    return module, inputs, from_modules(module, example_input=inputs)


def run(module: nn.Module, inputs: Any, tensors: dict[str, torch.Tensor] | None = None) -> list[torch.Tensor]:
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
    with torch.no_grad():
        result = torch.func.functional_call(module, tensors or {}, args, kwargs)
    return [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.is_floating_point()]


def error(expected: list[torch.Tensor], got: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, got, strict=True))


def applies(transform: Transform, architecture: Architecture) -> bool:
    try:
        transform.check(architecture)
    except ValueError:
        return False
    return True


@every_family
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**30))
def test_every_transform_keeps_what_the_module_computes(family: str, seed: int):
    module, inputs, element = traced(family)
    expected = run(module, inputs)
    done = 0
    for transform in TRANSFORMS:
        if not applies(transform, element.architecture):
            with pytest.raises(ValueError, match=type(transform).__name__):
                transform(element)
            continue
        moved = transform(element, generator=torch.Generator().manual_seed(seed))
        assert error(expected, run(module, inputs, dict(moved.named_tensors()))) < 1e-9, transform
        done += any(not torch.equal(a, b) for a, b in zip(element.tensors(), moved.tensors(), strict=True))
    assert done >= 1


@every_family
def test_most_tensors_move_and_all_are_declared(family: str):
    module, _, element = traced(family)
    floating = {t.data_ptr() for t in module.state_dict().values() if t.is_floating_point()}
    assert {t.data_ptr() for t in element.tensors()} == floating
    moved = element
    for seed in (0, 1):  # one draw may leave a small space as it is
        moved = act(moved, random_symmetry(element.architecture, torch.Generator().manual_seed(seed)))
    pairs = zip(element.named_tensors(), moved.tensors(), strict=True)
    same = [name for (name, a), b in pairs if torch.equal(a, b) and a.dim() > 1]
    assert len(same) <= (1 if family == "encoder_layer" else 0), same


@every_family
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**30))
def test_composition_and_inverse(family: str, seed: int):
    _, _, element = traced(family)
    g, h = (random_symmetry(element.architecture, torch.Generator().manual_seed(seed + i)) for i in (0, 1))
    for moved, expected in (
        (act(act(element, h), g), act(element, g @ h)),
        (act(act(element, g), g.inverse()), element),
        (act(act(element, g.inverse()), g), element),
    ):
        for (name, a), b in zip(moved.named_tensors(), expected.tensors(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("family", ["wild_park_relu", "unet", "llama", "gpt2"])
def test_gradients_follow_as_cotangents_and_steps_as_tangents(family: str):
    _module, inputs, element = traced(family)
    group = random_symmetry(element.architecture, torch.Generator().manual_seed(3))
    loss = lambda e: sum(t.square().sum() for t in pytree.tree_leaves(e(inputs)) if isinstance(t, torch.Tensor))

    def gradient(e: WeightSpaceElement) -> WeightSpaceElement:
        # Running statistics are no parameters: no gradient, and torch would refuse one.
        leaves = e.with_tensors([t.detach().clone().requires_grad_("running" not in n) for n, t in e.named_tensors()])
        wanted = [t for t in leaves.tensors() if t.requires_grad]
        found = iter(torch.autograd.grad(loss(leaves), wanted))
        return e.with_tensors([next(found) if t.requires_grad else torch.zeros_like(t) for t in leaves.tensors()])

    moved = act(element, group)
    expected, got = gradient(moved), act(gradient(element), group, Kind.COTANGENT)
    for (name, a), b in zip(got.named_tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9 * float(1 + b.abs().max()), msg=name)
    step = act(gradient(element), group, Kind.TANGENT)
    both = act(
        element.with_tensors(
            [a + 1e-3 * b for a, b in zip(element.tensors(), gradient(element).tensors(), strict=True)]
        ),
        group,
    )
    for a, b, c in zip(moved.tensors(), step.tensors(), both.tensors(), strict=True):
        torch.testing.assert_close(a + 1e-3 * b, c)


def test_a_batch_of_modules_evaluates_and_comes_back():
    torch.manual_seed(0)
    modules = [exercised(WildPark()) for _ in range(3)]
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    element = from_modules(modules, example_input=x)
    assert element.batch_shape == (3,)
    torch.testing.assert_close(element(x), torch.stack([run(m, x)[0] for m in modules]))
    moved = Compose((Permute(), ReLUScale(1.5)))(element, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved(x), element(x))
    back = to_modules(moved)
    assert [type(m) for m in back] == [WildPark] * 3
    torch.testing.assert_close(run(back[1], x)[0], run(modules[1], x)[0])
    assert set(to_state_dicts(element)[0]) == {n for n, t in modules[0].state_dict().items() if t.is_floating_point()}
    single = from_modules(modules[0], architecture=element.architecture)
    assert single.weights[0].data_ptr() == modules[0].first.weight.data_ptr()


def test_one_network_of_a_batch_is_that_network_alone():
    _, _, element = traced("depthwise")
    batch = element.map(lambda t: torch.stack([t, t + 0.1 * t.abs()]))
    group = Permute().sample(batch, generator=torch.Generator().manual_seed(0))
    one, all_ = act(batch[1], group[1]), act(batch, group)[1]
    mapped = torch.func.vmap(act)(batch, group)
    for a, b, c in zip(one.tensors(), all_.tensors(), mapped.tensors(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(b, c[1])


def test_tied_weights_stay_tied():
    module, _inputs, element = traced("gpt2")
    assert "lm_head.weight" not in dict(element.named_tensors())
    moved = to_modules(Permute()(element), like=module)
    assert moved.lm_head.weight is moved.transformer.wte.weight
    assert moved.lm_head.weight is not module.lm_head.weight


def test_architectures_survive_json_and_pickle():
    _module, inputs, element = traced("depthwise")
    arch = element.architecture
    assert Architecture.from_json(arch.to_json()) == arch
    assert hash(Architecture.from_json(arch.to_json())) == hash(arch)
    copy = pickle.loads(pickle.dumps(element))
    assert copy.architecture == arch
    torch.testing.assert_close(copy(inputs), element(inputs))
    with pytest.raises(ValueError, match="to_modules"):
        WeightSpaceElement(Architecture.from_json(arch.to_json()), element.weights, ())(inputs)


def test_describe_says_who_writes_and_reads():
    _, _, element = traced("wild_park_relu")
    text = element.architecture.describe()
    assert "written by first.weight, first.bias" in text
    assert "head.weight" in text
    assert "all declared" in text


# -- refusals --------------------------------------------------------------------------------------------


class Sorts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x).sort(-1).values)


class InPlace(Sorts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        y[:, :2].mul_(2.0)
        return self.head(y)


class Branches(Sorts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x)) if x.sum() > 0 else self.head(self.inner(-x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Sorts(), r"the module itself \(Sorts\): operator 'sort'.*not in the table"),
        (InPlace(), r"in place.*inplace=False"),
        (Branches(), r"Branches could not be exported.*control flow"),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).half()), r"1.weight is torch.float16.*convert"),
        (nn.Sequential(nn.Flatten()), "has no parameters"),
        (nn.Linear(3, 3), "no symmetry was found"),
    ],
    ids=["sort", "in_place", "control_flow", "half", "no_parameters", "all_fixed"],
)
def test_what_is_not_understood_is_refused(module: nn.Module, message: str):
    with pytest.raises(ValueError, match=message):
        Architecture.from_module(module, torch.randn(2, 3))


def test_refusals_name_the_module():
    with pytest.raises(ValueError, match=r"module '1' \(Sorts\)"):
        Architecture.from_module(nn.Sequential(nn.Linear(3, 3), Sorts()), torch.randn(2, 3))


def test_transforms_that_do_not_fit_are_refused():
    _, _, element = traced("wild_park_gelu")
    for transform, message in (
        (SirenBias(), "SirenBias"),
        (Rotate(), "Rotate"),
        (HeadRotation(), "heads"),
        (HeadPermutation(), "heads"),
        (LoRAGauge(), "low-rank"),
    ):
        with pytest.raises(ValueError, match=message):
            transform(element)


def test_a_variance_below_eps_is_refused_instead_of_made_negative():
    _, _, element = traced("wild_park_relu")
    dead = element.with_tensors(
        [torch.full_like(t, 1e-6) if n.endswith("running_var") else t for n, t in element.named_tensors()]
    )
    with pytest.raises(ValueError, match="running variance would become negative"):
        ReLUScale(max_scale=50.0)(dead, generator=torch.Generator().manual_seed(0))


def test_the_module_itself_stays_as_it_is():
    module = UNet().train()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    from_modules(module, example_input=torch.randn(2, 1, 8, 8))
    assert module.training
    assert module.norm.training
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())


def test_maps_need_linear_spaces():
    _, _, element = traced("vit")
    arch = element.architecture
    slot = next(s for s, space in enumerate(arch.hidden) if not space.linear)
    maps = [None] * len(arch.hidden)
    maps[slot] = torch.eye(arch.hidden[slot].size)
    with pytest.raises(ValueError, match="needs a linear space"):
        GroupElement.of(arch, maps=tuple(maps))


@pytest.mark.parametrize("transform", [HeadPermutation(), HeadRotation(), HeadRotation("invertible")], ids=repr)
def test_the_laws_of_transforms_on_heads(transform: Transform):
    _, _, element = traced("encoder_layer")
    batch = element.map(lambda t: torch.stack([t, 2 * t, t + 1]))
    check_transform(transform, batch, graph=False)


def test_statistics_are_recomputed_from_data():
    torch.manual_seed(0)
    module = exercised(WildPark()).train()
    batches = [torch.randn(8, 1, 9, 9, dtype=torch.float64) for _ in range(3)]
    renewed = recompute_statistics(module, batches)
    first = [module.first(x) for x in batches]
    torch.testing.assert_close(renewed.norms[0].running_mean, torch.stack([y.mean((0, 2, 3)) for y in first]).mean(0))
    torch.testing.assert_close(
        renewed.norms[0].running_var, torch.stack([y.transpose(0, 1).flatten(1).var(1) for y in first]).mean(0)
    )
    assert renewed.training
    assert not torch.equal(module.norms[0].running_mean, renewed.norms[0].running_mean)
    with pytest.raises(ValueError, match="no BatchNorm"):
        recompute_statistics(nn.Linear(2, 2), batches)
    with pytest.raises(ValueError, match="at least one batch"):
        recompute_statistics(module, [])


# -- matching --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", ["wild_park_relu", "depthwise", "unet", "resnet", "vit", "gpt2", "encoder_layer", "llama"]
)
def test_a_planted_copy_comes_back(family: str):
    _module, _inputs, element = traced(family)
    noisy = element.map(
        lambda t: t + 0.01 * torch.randn(t.shape, generator=torch.Generator().manual_seed(5), dtype=t.dtype)
    )
    planted = Permute()(noisy, generator=torch.Generator().manual_seed(0))
    if applies(HeadRotation(), element.architecture):
        planted = HeadRotation()(planted, generator=torch.Generator().manual_seed(1))
    group = matching.match(noisy, planted)
    aligned = act(planted, group)
    for (name, a), b in zip(noisy.named_tensors(), aligned.tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=name)
    assert float(matching.distance(noisy, planted)) < 1e-6


def test_matching_never_moves_networks_apart_and_mixes_batches():
    torch.manual_seed(0)
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    element = from_modules([exercised(WildPark()) for _ in range(4)], example_input=x)
    a, b = element[:2], element[2:]
    gap = lambda y: torch.stack(
        [(s - t).square().flatten(1).sum(1) for s, t in zip(a.tensors(), y.tensors(), strict=True)]
    ).sum(0)
    aligned = act(b, matching.match(a, b))
    assert bool((gap(aligned) <= gap(b) + 1e-12).all())
    torch.testing.assert_close(aligned(x), b(x))
    mixed = AlignedMixup()(element, generator=torch.Generator().manual_seed(0))
    assert mixed.batch_shape == (4,)
    with pytest.raises(ValueError, match="method='weight'"):
        matching.match(a, b, method="sinkhorn")
