"""Right angles, mirrors and ranges of geometry; functions of one's own; several views."""

from __future__ import annotations

import itertools

import pytest
import torch

from weightaug import (
    Affine,
    Architecture,
    Dihedral,
    Flip,
    GaussianNoise,
    Lambda,
    Mixup,
    Permute,
    Rotate,
    Rotate90,
    Scale,
    SirenBias,
    SomeOf,
    TestTime,
    Transform,
    Translate,
    TwoViews,
)
from weightaug.testing import assert_equal, assert_same_function, random_element
from weightaug.transforms import InputMap


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(size: int, d: int = 2) -> torch.Tensor:
    axis = torch.linspace(-1, 1, size)
    return torch.stack(torch.meshgrid(*[axis] * d, indexing="ij"), -1)


IMAGE_MAPS = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


@pytest.mark.parametrize(("turns", "mirrored"), IMAGE_MAPS)
def test_each_element_of_d4_renders_the_rotated_image(turns, mirrored):
    element = random_element(Architecture.siren((2, 16, 16, 1)), (), dtype=torch.float32)
    points = grid(12)
    image = element(points)[..., 0]
    # What happens to the pixels happens to the coordinates that they show.
    change = lambda t: torch.rot90(t.flip(0) if mirrored else t, turns, (0, 1))
    params = Dihedral().sample(element.map(lambda t: t.expand(400, *t.shape)), generator=generator())
    wanted = [m for m in params.matrix.unique(dim=0) if torch.equal(points @ m.mT, change(points))]
    assert len(wanted) == 1, "one element of the group is this map of the grid"
    moved = Dihedral().apply(element, InputMap(wanted[0]))
    assert (moved(points)[..., 0] - change(image)).abs().max() < 1e-5
    for old, new in zip(element.tensors(), moved.tensors(), strict=True):
        assert torch.equal(old.abs().flatten().sort().values, new.abs().flatten().sort().values), "a weight was rounded"


@pytest.mark.parametrize(
    ("transform", "d", "count", "determinants"),
    [
        (Rotate90(), 2, 4, {1.0}),
        (Rotate90(), 3, 24, {1.0}),
        (Dihedral(), 1, 2, {-1.0, 1.0}),
        (Dihedral(), 2, 8, {-1.0, 1.0}),
        (Dihedral(), 3, 48, {-1.0, 1.0}),
        (Flip(axes=(1,)), 3, 2, {-1.0, 1.0}),
        (Flip(), 3, 8, {-1.0, 1.0}),
    ],
    ids=repr,
)
def test_all_elements_of_a_group_are_drawn_alike(transform, d, count, determinants):
    element = random_element(Architecture.mlp((d, 2, 1), "tanh"), (400 * count,))
    found, numbers = transform.sample(element, generator=generator()).matrix.unique(dim=0, return_counts=True)
    assert len(found) == count
    assert set(torch.linalg.det(found).round().tolist()) == determinants
    assert torch.equal(found @ found.mT, torch.eye(d, dtype=found.dtype).expand(count, d, d))
    assert 280 < int(numbers.min()) <= int(numbers.max()) < 520  # 400 expected, deviation 20


def test_the_group_is_closed():
    element = random_element(Architecture.mlp((3, 2, 1), "tanh"), (4000,))
    group = Rotate90().sample(element, generator=generator()).matrix.unique(dim=0)
    products = torch.stack([a @ b for a, b in itertools.product(group, group)])
    assert torch.equal(products.unique(dim=0), group)


def test_ranges():
    element = random_element(Architecture.siren((2, 4, 1)), (500,))
    for transform in (Rotate((20, 50)), Affine(degrees=(20, 50), translate=0, scale=0, shear=0)):
        matrix = transform.sample(element, generator=generator()).matrix
        angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
        assert 20 <= angle.min() < 21
        assert 49 < angle.max() <= 50
    for transform in (Scale((0.8, 1.5)), Affine(degrees=0, translate=0, scale=(0.8, 1.5), shear=0)):
        factor = transform.sample(element, generator=generator()).matrix.diagonal(dim1=-2, dim2=-1)
        assert 0.8 <= factor.min() < 0.81
        assert 1.49 < factor.max() < 1.5
    shift = Translate((0.0, 0.5)).sample(element, generator=generator()).shift
    assert shift[:, 0].abs().max() == 0
    assert 0.49 < shift[:, 1].abs().max() <= 0.5
    drawn = SirenBias((-4, 3)).sample(element, generator=generator()).shift[0]
    assert drawn.unique().tolist() == list(range(-4, 4))
    assert SirenBias().sample(element).shift[0].unique().tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rotate((30, -30)), r"degrees must be one number or \(lowest, highest\)"),
        (lambda: Rotate((1, 2, 3)), "degrees must be one number"),
        (lambda: Rotate((0, float("inf"))), "degrees: every entry"),
        (lambda: Scale((0.0, 1.2)), "amount must be.*above 0"),
        (lambda: Translate((-0.1, 0.2)), "amount: every entry"),
        (lambda: SirenBias((0.5, 1)), "k_max"),
        (lambda: SomeOf([Permute()], count=2), "count must be in"),
        (lambda: SomeOf([Permute()], count=(0, 2)), "count must be in"),
        (lambda: Flip(axes=(-1,)), "axes"),
        (lambda: Lambda("no.such:thing"), "cannot find"),
        (lambda: Lambda(3), "callable"),
        (lambda: TestTime(Permute(), n=0), "n must be"),
        (lambda: TestTime(Mixup()), "must not mix"),
        (lambda: TwoViews(Permute), r"write the call, e.g. Permute\(\)"),
        (lambda: Translate((0.1, 0.2)).check(Architecture.siren((3, 4, 1))), "2 numbers.*3 inputs"),
        (lambda: Flip(axes=(2,)).check(Architecture.siren((2, 4, 1))), "axes must be below"),
        (lambda: Rotate90().check(Architecture.siren((1, 4, 1))), "at least 2 inputs"),
    ],
)
def test_settings_that_do_not_fit(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_some_of_applies_so_many_in_their_order():
    marks = [Lambda(lambda e, k=k: e.map(lambda t: t * 10 + k)) for k in (1, 2, 3)]
    element = random_element(Architecture.siren((2, 4, 1)), (600,)).map(torch.zeros_like)
    values = SomeOf(marks, count=2)(element, generator=generator()).weights[0][:, 0, 0]
    found, numbers = values.unique(return_counts=True)
    assert found.tolist() == [12.0, 13.0, 23.0]
    assert int(numbers.min()) > 150
    values = SomeOf(marks, count=(0, 1))(element, generator=generator()).weights[0][:, 0, 0]
    assert values.unique().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_functions_of_ones_own():
    element = random_element(Architecture.siren((2, 4, 1)), (3,))
    kept = Lambda(torch.nn.Identity().forward)
    assert_equal(kept(element), element)
    for function in (lambda e: e[0], lambda e: e.flatten()):
        with pytest.raises((TypeError, ValueError), match="Lambda"):
            Lambda(function)(element)
    with pytest.raises(TypeError, match="plain configuration"):
        Lambda(lambda e: e).asdict()


def test_two_views_are_drawn_apart():
    element, y = random_element(Architecture.siren((2, 4, 1)), (3,)), torch.arange(3)
    a, b = TwoViews(Permute())(element, generator=generator())
    assert not torch.equal(a.flatten(), b.flatten())
    assert_same_function(a, element)
    assert_same_function(b, element)
    (c, labels), (d, _) = TwoViews(Permute(), GaussianNoise(0.0))(element, y, generator=generator())
    assert_equal(c, a)
    assert_equal(d, element)
    assert torch.equal(labels, y)


def test_averages_at_test_time():
    element = random_element(Architecture.siren((2, 8, 1)), (5,))
    seen = []

    def model(x):
        seen.append(len(x))
        return {"score": x.weights[0][:, :, 0], "norm": x.flatten().square().sum(-1)}

    average = TestTime(Permute(), n=7, batch=8)
    answer = average(model, element)
    assert sum(seen) == 35
    assert max(seen) == 8
    g = generator()
    views = [element, *(Permute()(element, generator=g) for _ in range(6))]
    assert torch.allclose(answer["score"], torch.stack([v.weights[0][:, :, 0] for v in views]).mean(0))
    assert torch.allclose(answer["norm"], model(element)["norm"])
    assert torch.equal(average(model, element)["score"], answer["score"])  # seeded
    assert torch.equal(TestTime(Permute(), n=1)(model, element)["score"], model(element)["score"])
    single = average(lambda x: x.weights[0][:, :, 0], element[0])
    assert single.shape == (8,)
    with pytest.raises(ValueError, match="answer for each network"):
        average(lambda x: x.flatten().sum(), element)


def test_configurations_round_trip():
    for transform in (
        Rotate((-10, 30)),
        Scale((0.8, 1.2)),
        Flip(axes=[0]),
        SomeOf([Rotate90(), Dihedral()], count=(1, 2)),
    ):
        assert Transform.fromdict(transform.asdict()) == transform
