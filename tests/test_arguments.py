"""Arguments, settings and targets that do not fit are refused with words that help; others are stored plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightaug.functional as F
from weightaug import (
    Activation,
    AlignedMixup,
    Architecture,
    Compose,
    Dropout,
    GaussianNoise,
    GroupElement,
    LabelSmoothing,
    Layer,
    Mixup,
    OneOf,
    Permute,
    Pool,
    QuantileDropout,
    RandomApply,
    Reflect,
    Rotate,
    Scale,
    SelfMixup,
    SirenBias,
    SirenNegation,
    Space,
    Transform,
    Translate,
    act,
)
from weightaug.testing import assert_same_function, random_element

REFUSED = (TypeError, ValueError)


def net(activation: str = "tanh", batch: tuple[int, ...] = (4,), dtype: torch.dtype = torch.float64):
    return random_element(Architecture.mlp((2, 8, 8, 1), activation), batch, dtype=dtype)


# -- symmetries keep the function or are refused ---------------------------------------------------------


@given(
    st.sampled_from(Activation.known()), st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, float("inf"), float("nan")])
)
def test_a_factor_keeps_the_function_or_is_refused(activation, factor):
    element = net(activation)
    scale = (torch.full((4, 8), factor, dtype=torch.float64), None)
    for call in (
        lambda: act(element, GroupElement.of(element.architecture, scale=scale)),
        lambda: F.negate(element, scale),
        lambda: F.scale_neurons(element, scale),
    ):
        try:
            moved = call()
        except ValueError as error:
            assert "hidden1" in str(error)  # noqa: PT017 (either is right)
            continue
        assert_same_function(element, moved, tolerance=1e-9)
    trait = Activation(activation)
    if trait.positively_homogeneous and factor in (0.5, 2.0):
        F.scale_neurons(element, scale)
    if (trait.odd or trait.even) and factor == -1.0:
        F.negate(element, scale)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("permutation", torch.zeros(4, 8, dtype=torch.int64), "once in each row"),
        ("permutation", torch.arange(8).expand(4, 8) + 1, "once in each row"),
        ("permutation", torch.arange(8.0), "int64"),
        ("permutation", torch.arange(7), "8"),
        ("permutation", list(range(8)), "torch.as_tensor"),
        ("scale", torch.ones(4, 1), "one entry for each neuron"),
        ("scale", torch.ones(()), "one entry for each neuron"),
        ("shift", torch.full((4, 8), 0.5), "half periods"),
        ("shift", torch.ones(4, 8, dtype=torch.bool), "half periods"),
        ("shift", torch.ones(4, 1, dtype=torch.int64), "one entry for each neuron"),
    ],
)
def test_parts_of_group_elements_are_checked(part, value, words):
    element = net("sine")
    with pytest.raises(REFUSED, match=words):
        GroupElement.of(element.architecture, **{part: (value, None)})
    with pytest.raises(REFUSED, match="hidden spaces"):
        GroupElement.of(element.architecture, **{part: (None,)})
    with pytest.raises(REFUSED, match="tuple"):
        GroupElement.of(element.architecture, **{part: torch.ones(2, 8)})


def test_acting_checks_the_form_without_reading_values():
    element = net("relu")
    lone = GroupElement(element.architecture, (None, None), (torch.ones(4, 1), None), (None, None))
    with pytest.raises(ValueError, match="one entry for each neuron"):
        act(element, lone)
    other = GroupElement.of(element.architecture, scale=(torch.ones(3, 8), None))
    with pytest.raises(ValueError, match=r"batch shape \(3,\).*\(4,\)"):
        act(element, other)


@pytest.mark.parametrize(
    "call",
    [
        lambda e: F.add_noise(e, e[0], 0.1),
        lambda e: F.add_noise(e, e, -0.1),
        lambda e: F.add_noise(e, e, float("nan")),
        lambda e: F.mask(e, e),
        lambda e: F.mask(e, e[0].map(torch.ones_like)),
        lambda e: F.mask(e, e.map(torch.ones_like), float("inf")),
        lambda e: F.quantile_dropout(e, torch.full((4,), 2.0)),
        lambda e: F.quantile_dropout(e, torch.tensor(0.1)),
        lambda e: F.quantile_dropout(e, torch.full((4,), float("nan"))),
        lambda e: F.quantile_dropout(e, torch.full((4,), 0.2), bound=0.1),
        lambda e: F.mix(e, e, torch.tensor(0.5)),
        lambda e: F.mix(e, e.to(torch.float32), torch.ones(4)),
        lambda e: F.mix(e, e, torch.full((4,), float("nan"))),
        lambda e: F.map_input(e, torch.eye(2)),
        lambda e: F.map_input(e, torch.eye(3).expand(4, 3, 3)),
        lambda e: F.map_input(e, shift=torch.full((4, 2), float("inf"))),
        lambda e: F.rescale_output(e, torch.tensor(2.0)),
        lambda e: F.smooth_labels(torch.eye(4), 2.0),
        lambda e: F.smooth_labels(torch.tensor([0.0, 3.0, 2.0]), 0.1),
        lambda e: F.mix_target(torch.zeros(4, 2), torch.zeros(4, 3), torch.ones(4)),
        lambda e: F.permute("networks", (None, None)),
    ],
)
def test_functions_check_values_and_forms(call):
    with pytest.raises(REFUSED):
        call(net())


# -- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), "0.1", None, (0.1, 0.2, 0.3), True])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (GaussianNoise, "scale"),
        (Dropout, "p"),
        (QuantileDropout, "q"),
        (Translate, "amount"),
        (Scale, "amount"),
        (Reflect, "p"),
        (SirenNegation, "p"),
        (Mixup, "alpha"),
        (LabelSmoothing, "alpha"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
def test_settings_are_finite_numbers(kind, name, bad):
    with pytest.raises(REFUSED, match=f"{kind.__name__}: {name}"):
        kind(**{name: bad})


def test_settings_are_stored_plainly():
    assert repr(GaussianNoise(np.float32(0.5))) == "GaussianNoise(scale=0.5)"
    assert type(SirenBias(np.int64(2)).k_max) is int
    assert Rotate(axis=[0, 0, np.int64(1)]) == Rotate(axis=(0.0, 0.0, 1.0))
    hash(Compose([Permute(), OneOf([Permute(), Mixup()], weights=[1, np.float64(2.0)])]))
    assert AlignedMixup(symmetry=["sign", "permutation"]).symmetry == ("permutation", "sign")
    for make in (lambda: AlignedMixup(symmetry="signs"), lambda: SelfMixup(symmetry=[]), lambda: SirenBias(1.5)):
        with pytest.raises(REFUSED):
            make()
    with pytest.raises(TypeError, match="True or False"):
        Dropout(rescale="False")


def test_check_refuses_what_a_call_refuses():
    no_bias = Layer("b", "h", "out", bias=False)
    arch = Architecture(
        (Space("in", 3), Space("h", 8, Activation("sine", 30.0)), Space("out", 1)),
        (Layer("a", "in", "h"), no_bias),
        output_offset=0.5,
    )
    for transform in (
        Scale(signed_distance=True),
        Scale(center=(0.0, 0.0)),
        Rotate(center=(0.0,)),
        AlignedMixup(symmetry="scale"),
        SelfMixup(symmetry=("permutation", "scale")),
        RandomApply(Scale(signed_distance=True)),
    ):
        with pytest.raises(ValueError, match=r"offset|center|symmetry"):
            transform.check(arch)
        generator = torch.Generator().manual_seed(0)
        before = generator.get_state()
        with pytest.raises(ValueError, match=r"offset|center|symmetry"):
            transform(random_element(arch, (2,)), generator=generator)
        assert torch.equal(generator.get_state(), before), "drew before it checked"


def test_lists_and_classes_of_transforms_get_advice():
    for kind in (Compose, OneOf):
        with pytest.raises(TypeError, match=r"\[Rotate\(.*Permute\(\)\]"):
            kind(Rotate(), Permute())
        with pytest.raises(TypeError, match=r"write the call, e.g. Permute\(\)"):
            kind([Permute])
    for make in (lambda: RandomApply(GaussianNoise), lambda: SelfMixup(GaussianNoise)):
        with pytest.raises(TypeError, match=r"GaussianNoise\(\)"):
            make()
    with pytest.raises(TypeError, match=r"pool=Pool\(networks"):
        Mixup(pool=net())


class Sequence:  # as configuration libraries have them: no list, and not of collections.abc
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_configurations_of_any_sequences():
    part = {"type": "Rotate", "axis": Sequence(0, 0, 1)}
    for parts in ([part], (part,), Sequence(part)):
        assert Transform.fromdict({"type": "Compose", "transforms": parts}) == Compose([Rotate(axis=(0, 0, 1))])
    with pytest.raises(TypeError, match="mapping"):
        Transform.fromdict([part])


# -- targets and generators ------------------------------------------------------------------------------


def test_generators_in_the_wrong_place():
    for call in (
        lambda: Permute()(net(), torch.Generator()),
        lambda: Permute()(net(), generator=0),
        lambda: LabelSmoothing()(net(), torch.eye(4), generator=7),
        lambda: Permute().sample(net(), generator=0),
    ):
        with pytest.raises(TypeError, match="generator"):
            call()


@pytest.mark.parametrize(
    "transform", [Mixup(), LabelSmoothing(), Mixup(pool=Pool(net(), torch.eye(4)))], ids=["mix", "smooth", "pool"]
)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], np.arange(4), [0.5] * 4])
def test_labels_that_are_no_tensors(transform, labels):
    with pytest.raises(TypeError, match="as_tensor"):
        transform(net(), labels)


def test_pools_and_batches_need_targets_of_one_form():
    for pool in (Pool(net(), torch.eye(4)[:, :3]), Pool(net(), torch.eye(4).double())):
        with pytest.raises(ValueError, match="same num_classes"):
            Mixup(pool=pool)(net(), torch.eye(4))
    with pytest.raises(TypeError, match="as_tensor"):
        Pool(net(), [0, 1, 2, 3])


def test_class_indices_as_floats():
    with pytest.warns(UserWarning, match="one_hot"):
        Mixup()(net(), torch.tensor([0.0, 1.0, 2.0, 3.0]))
    Mixup()(net(), torch.tensor([0.0, 1.0, 1.0, 0.0]))  # of two classes
    Mixup()(net(), torch.tensor([0.5, 1.0, 2.0, 3.0]))  # values to regress
    for target in (torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([[0.0], [1.0], [2.0], [3.0]])):
        with pytest.raises(ValueError, match="class"):
            LabelSmoothing()(net(), target)


def test_smoothing_of_binary_and_misplaced_targets():
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    assert torch.allclose(LabelSmoothing(0.1)(net(), y)[1], y * 0.9 + 0.05)
    vector = torch.eye(4)[0]
    for transform in (LabelSmoothing(), RandomApply(LabelSmoothing()), OneOf([LabelSmoothing(), Permute()])):
        with pytest.raises(ValueError, match="batch"):
            transform(net(), vector)
    assert LabelSmoothing()(net(batch=()), vector)[1].shape == (4,)


# -- memory and dtypes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Mixup, AlignedMixup])
def test_a_pool_is_never_written_to(kind):
    networks, targets = net(batch=(5,)), torch.rand(5, 3)
    before, labels = networks.flatten().clone(), targets.clone()
    transform = kind(pool=Pool(networks, targets))
    for batch in ((), (1,), (2, 3)):
        transform(net(batch=batch), torch.rand(*batch, 3))
    assert torch.equal(networks.flatten(), before)
    assert torch.equal(targets, labels)


def test_statistics_of_half_precision_do_not_overflow():
    element = random_element(Architecture.mlp((2, 64, 64, 1), "relu"), (2,)).map(lambda t: t / t.std() * 1500)
    exact = GaussianNoise().sample(element, generator=torch.Generator().manual_seed(0))
    wanted = GaussianNoise().apply(element, exact)
    half = GaussianNoise().apply(element.to(torch.float16), exact)
    assert {t.dtype for t in half.tensors()} == {torch.float16}
    for got, right in zip(half.tensors(), wanted.tensors(), strict=True):
        assert torch.allclose(got.double(), right, rtol=5e-3, atol=5)


def test_rotations_of_half_precision_are_rotations():
    element = net("sine", batch=(50,), dtype=torch.bfloat16)
    for transform in (Rotate(180.0), Rotate(None)):
        matrix = transform.sample(element, generator=torch.Generator().manual_seed(0)).matrix
        assert torch.allclose(matrix @ matrix.mT, torch.eye(2).expand(50, 2, 2), atol=1e-5)


def test_noise_has_the_deviation_of_torch_std():
    element = net(batch=())
    unit = element.map(torch.ones_like)
    moved = F.add_noise(element, unit, 0.5)
    for old, new in zip(element.tensors(), moved.tensors(), strict=True):
        expected = old.std() if old.numel() > 1 else torch.zeros((), dtype=old.dtype)
        assert torch.allclose(new - old, (0.5 * expected).expand(old.shape), atol=1e-12)
