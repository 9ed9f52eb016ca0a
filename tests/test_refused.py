"""Bad input that nothing else tests: what is refused, and that the message says what was expected and what came."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weightaug import (
    Activation,
    AlignedMixup,
    Architecture,
    Compose,
    GroupElement,
    Layer,
    Mixup,
    Permute,
    Pool,
    Refit,
    SelfMixup,
    SomeOf,
    Space,
    TensorSpec,
    TestTime,
    WeightSpaceElement,
    act,
    functional,
    io,
)
from weightaug.adapters import from_lora, from_modules, to_modules
from weightaug.fitting import Adam
from weightaug.matching import match

ARCH = Architecture.siren((2, 5, 4, 1))
RELU = Architecture.mlp((2, 5, 1), "relu")


def networks(architecture: Architecture = ARCH, *batch: int, dtype: torch.dtype = torch.float32) -> WeightSpaceElement:
    size = (*batch, architecture.num_parameters)
    return WeightSpaceElement.unflatten(
        architecture, torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    )


def table(spaces: list[Space], *tensors: tuple[str, str]) -> Architecture:
    sizes = {space.name: space.size for space in spaces}
    return Architecture(tuple(spaces), tensors=tuple(TensorSpec.parse(name, axes, sizes) for name, axes in tensors))


IN, RELU_SPACE = Space("in", 3), Space("a", 4, Activation("relu"))
LINEAR = Space("r", 4, Activation("identity"), linear=True)

TABLES = {
    "twice": (lambda: table([IN, RELU_SPACE], ("w", "+a -in"), ("w", "+a")), "'w' is declared twice"),
    "unused": (
        lambda: table([IN, RELU_SPACE, Space("b", 2, Activation("relu"))], ("w", "+a -in")),
        "no tensor follows",
    ),
    "permutes_with_nothing": (
        lambda: table([IN, Space("a", 4, Activation("relu"), permutes_with="b")], ("w", "+a -in")),
        "permutes_with='b' is no other space",
    ),
    "permutes_with_another_size": (
        lambda: table(
            [IN, RELU_SPACE, Space("b", 3, Activation("relu"), permutes_with="a")], ("w", "+a -in"), ("v", "+b")
        ),
        r"must have the same size.*expected \(3, None, None\), got \(4, None, None\)",
    ),
    "within_within": (
        lambda: table(
            [
                Space("a", 2, Activation("relu")),
                Space("b", 2, Activation("relu"), within="a"),
                Space("c", 2, Activation("relu"), within="b"),
            ],
            ("w", "(+a +b +c)"),
        ),
        "must itself lie within no other",
    ),
    "linear_relu": (
        lambda: table([IN, Space("a", 4, Activation("relu"), linear=True)], ("w", "+a -in")),
        r"linear=True .* needs Activation\('identity'\)",
    ),
    "size": (
        lambda: Architecture(
            (IN, RELU_SPACE), tensors=(TensorSpec.parse("w", "+a", {"a": 5}), TensorSpec.parse("v", "+a", {"a": 4}))
        ),
        "a factor of 5 follows space 'a' of size 4",
    ),
    "no_space": (
        lambda: Architecture((IN, RELU_SPACE), tensors=(TensorSpec.parse("w", "+b", {"b": 4}),)),
        "follows 'b', which is no space",
    ),
    "no_outer": (
        lambda: table([RELU_SPACE, Space("b", 2, Activation("relu"), within="a")], ("w", "+a"), ("v", "+b")),
        "lies within 'a', without a factor of that",
    ),
    "linear_and_more": (
        lambda: table([LINEAR, Space("p", 4, Activation("relu"), permutes_with="r")], ("w", "+r-p"), ("v", "+p")),
        "must be alone in its factor",
    ),
    "two_orders": (
        lambda: table([RELU_SPACE, Space("b", 4, Activation("relu"))], ("w", "+a+b")),
        "do not share a permutation",
    ),
    "both": (
        lambda: Architecture((IN, Space("out", 2)), (Layer("l", "in", "out"),), tensors=(TensorSpec("w", ()),)),
        "give layers or tensors, got both",
    ),
    "layers_with_within": (
        lambda: Architecture((IN, Space("out", 2, within="in")), (Layer("l", "in", "out"),)),
        "need an architecture declared by tensors",
    ),
    "axes": (lambda: TensorSpec.parse("w", "+a [b]", {"a": 3}), "'\\[b\\]' is no space|cannot read"),
    "brackets": (lambda: TensorSpec.parse("w", "+a (b", {"a": 3, "b": 2}), "cannot read the axes"),
    "factor": (lambda: TensorSpec.parse("w", "a+", {"a": 3}), "cannot read the factor 'a\\+'"),
    "unknown": (lambda: TensorSpec.parse("w", "+b", {"a": 3}), "'b' is no space; spaces: \\['a'\\]"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_declaration_that_does_not_hold_together_names_the_space_or_tensor(name: str):
    make, message = TABLES[name]
    with pytest.raises(ValueError, match=message):
        make()


CASES = {
    "group_parts": (
        lambda: GroupElement.of(ARCH, permutation=(None,)),
        ValueError,
        "expected one entry for each of 2 hidden spaces",
    ),
    "group_batches": (
        lambda: GroupElement.of(ARCH, permutation=(torch.arange(5).repeat(2, 1), torch.arange(4).repeat(3, 1))),
        ValueError,
        "batch dimensions of its parts differ",
    ),
    "group_compose": (
        lambda: GroupElement.identity(ARCH) @ GroupElement.identity(RELU),
        ValueError,
        "cannot compose group elements of different architectures",
    ),
    "group_factor": (
        lambda: act(
            networks(Architecture.mlp((2, 5, 1), "gelu")),
            GroupElement(Architecture.mlp((2, 5, 1), "gelu"), (None,), (torch.ones(5),), (None,)),
        ),
        ValueError,
        "a factor needs an odd, even or positively homogeneous activation",
    ),
    "group_shift": (
        lambda: act(networks(RELU), GroupElement(RELU, (None,), (None,), (torch.ones(5, dtype=torch.int64),))),
        ValueError,
        "a phase shift needs a sine or cosine activation",
    ),
    "factor_dtype": (
        lambda: GroupElement.of(RELU, scale=(torch.ones(5, dtype=torch.bool),)),
        TypeError,
        "expected the dtype of the weights, got torch.bool",
    ),
    "shift_dtype": (
        lambda: GroupElement.of(ARCH, shift=(torch.ones(5), None)),
        TypeError,
        "expected whole half periods as int64",
    ),
    "shift_without_bias": (
        lambda: GroupElement.of(
            Architecture.mlp((2, 5, 1), Activation("sine"), bias=False), shift=(torch.ones(5, dtype=torch.int64),)
        ),
        ValueError,
        "needs a bias to move",
    ),
    "mix_target": (
        lambda: functional.mix_target(torch.ones(2), torch.ones(2), torch.ones(2), how="most"),
        ValueError,
        "expected 'mix', 'dominant' or 'keep', got 'most'",
    ),
    "lora_none": (lambda: from_lora([]), ValueError, "at least one state dict"),
    "lora_other_ranks": (
        lambda: from_lora(
            [
                {"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(4, 2)},
                {"a.lora_A.weight": torch.ones(1, 3), "a.lora_B.weight": torch.ones(4, 1)},
            ]
        ),
        ValueError,
        "rank|shape",
    ),
    "modules_other_dtype": (
        lambda: from_modules(
            [
                nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.Conv1d(3, 1, 1)).to(d)
                for d in (torch.float32, torch.float64)
            ],
            example_input=torch.randn(1, 2, 4),
        ),
        ValueError,
        "module 1: 0.weight is torch.float64 .* that of module 0 torch.float32",
    ),
    "modules_other_shape": (
        lambda: from_modules(
            [nn.Sequential(nn.Conv1d(2, n, 1), nn.ReLU(), nn.Conv1d(n, 1, 1)) for n in (3, 4)],
            example_input=torch.randn(1, 2, 4),
        ),
        ValueError,
        r"module 1: expected a tensor '0.weight' of shape \(3, 2, 1\), got \(4, 2, 1\)",
    ),
    "modules_both": (
        lambda: from_modules(nn.Linear(2, 1), example_input=torch.ones(1, 2), architecture=RELU),
        ValueError,
        "leave out architecture=",
    ),
    "lazy": (
        lambda: from_modules(nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 1))),
        ValueError,
        "has no values yet, since its layer is lazy",
    ),
    "norm": (
        lambda: from_modules(nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1))),
        ValueError,
        "is a normalisation",
    ),
    "to_modules_nested": (
        lambda: to_modules(networks(RELU, 2, 2)),
        ValueError,
        "expected one network or one batch dimension",
    ),
    "some_of_none": (lambda: SomeOf([], 1), ValueError, "at least one transform"),
    "compose_number": (lambda: Compose(3), TypeError, "Compose"),
    "test_time_model": (lambda: TestTime(Permute(), n=2)(3, networks(ARCH, 2)), TypeError, "model must be callable"),
    "test_time_batch": (
        lambda: TestTime(Permute(), n=2)(lambda x: x.flatten(), networks(ARCH, 2, 2)),
        ValueError,
        r"expected batch shape \(n,\) or \(\)",
    ),
    "aligned_at_random": (
        lambda: AlignedMixup(starts=("forward", "random")),
        ValueError,
        "leave out 'random'",
    ),
    "pool_dtype": (
        lambda: Mixup(pool=Pool(networks(ARCH, 4)))(networks(ARCH, 4, dtype=torch.float64)),
        ValueError,
        "the pool is torch.float32",
    ),
    "points_complex": (
        lambda: match(networks(), networks(), method="activation", points=torch.ones(3, 2, dtype=torch.complex64)),
        TypeError,
        "expected real coordinates",
    ),
    "adam_psnr": (lambda: Adam(target_psnr=float("nan")), ValueError, "target_psnr"),
    "refit_rate": (lambda: Refit(Mixup(), points=8, learning_rate=-1e-3), ValueError, "learning_rate"),
    "self_mixup_alpha": (lambda: SelfMixup(alpha=0.0), ValueError, "alpha"),
    "masked_number": (lambda: functional.mask(3, networks()), TypeError, "^element: expected"),
    "io_path": (lambda: io.load(3), TypeError, "expected a path"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_words(name: str):
    call, error, message = CASES[name]
    with pytest.raises(error, match=message):
        call()


def test_columns_and_metadata_that_are_none_are_refused_by_name(tmp_path):
    x = networks(ARCH, 3)
    for settings, message in (
        ({"columns": [1, 2]}, "columns: expected a dict of names and tensors, got list"),
        ({"columns": {3: torch.ones(3)}}, "names that are strings, got 3"),
        ({"columns": {"a": [object()] * 3}}, "'?a'?"),
        ({"metadata": [1]}, "metadata: expected a dict"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            io.save(tmp_path / "set", x, **settings)
    assert not (tmp_path / "set").exists()


def test_shards_of_one_network_and_no_smaller(tmp_path):
    x = networks(ARCH, 3)
    io.save(tmp_path / "ones", x, shard_size=1)
    assert len(list((tmp_path / "ones").glob("*.safetensors"))) == 3
    for size in (0, 1.5, True):
        with pytest.raises((TypeError, ValueError), match="shard_size"):
            io.save(tmp_path / "other", x, shard_size=size)
