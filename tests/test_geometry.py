"""Geometry against closed forms: shapes whose moved version can be written down."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightaug import Affine, Architecture, Reflect, Rotate, Scale, Translate, WeightSpaceElement
from weightaug.functional import map_input, rescale_output
from weightaug.testing import architectures, elements, random_element, sample_points


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def box(center, offset: float = 0.0) -> WeightSpaceElement:
    """The signed distance max_i |x_i - c_i| - 1 (in the maximum norm, 2-D), as a small ReLU network.

    max(a, b) = (a + b + |a - b|) / 2, and |z| = relu(z) + relu(-z).
    """
    arch = Architecture.mlp((2, 4, 4, 1), "relu", output_offset=offset)
    c = torch.tensor(center, dtype=torch.float64)
    w1 = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    w2 = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 1, -1, -1], [-1, -1, 1, 1]], dtype=torch.float64)
    w3 = torch.tensor([[0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    b3 = torch.tensor([-1.0 - offset], dtype=torch.float64)
    return WeightSpaceElement.from_tensors(arch, [w1, w2, w3], [-w1 @ c, torch.zeros(4, dtype=torch.float64), b3])


def test_the_box_is_a_box():
    x = torch.tensor([[0.0, 0], [2, 0], [3, -1.5], [0.5, 0.9]], dtype=torch.float64)
    assert torch.allclose(box([0.0, 0.0])(x)[:, 0], torch.tensor([-1.0, 1, 2, -0.1], dtype=torch.float64))


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_scaled_signed_distances_stay_signed_distances(offset):
    one = box([0.0, 0.0], offset)
    shapes = one.map(lambda t: t.expand(8, *t.shape))
    transform = Scale(amount=0.5, signed_distance=True)
    params = transform.sample(shapes, generator=generator())
    scaled = transform.apply(shapes, params)
    x = sample_points(one.architecture, 50) * 3
    side = 1 / params.matrix[:, 0, 0]  # f(s x) / s is the distance to a box of half side 1 / s
    expected = x.abs().max(-1).values - side[:, None]
    assert torch.allclose(scaled(x)[..., 0], expected, atol=1e-12)


def test_translated_box():
    params_shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    moved = map_input(box([0.0, 0.0]), shift=params_shift)
    x = sample_points(moved.architecture, 50) * 3
    assert torch.allclose(moved(x), box([-0.3, 0.2])(x), atol=1e-12)


def test_translation_is_exact_at_any_depth_and_touches_the_first_bias_only():
    element = random_element(Architecture.siren((3, 8, 8, 8, 8, 1)), (4,))
    moved = Translate(0.25)(element)
    for i in range(5):
        assert torch.equal(moved.weights[i], element.weights[i])
        assert torch.equal(moved.biases[i], element.biases[i]) == (i > 0)


@given(elements(architectures(inputs=(2, 3, 4, 6)), batch_shapes=[(5,), ()]), st.integers(0, 99))
def test_rotations_are_rotations(element, seed):
    for transform in (Rotate(), Rotate(degrees=None), Rotate(degrees=180.0)):
        r = transform.sample(element, generator=generator(seed)).matrix
        eye = torch.eye(r.shape[-1], dtype=r.dtype)
        assert torch.allclose(r @ r.mT, eye.expand_as(r), atol=1e-12)
        assert torch.allclose(torch.linalg.det(r), torch.ones(r.shape[:-2], dtype=r.dtype), atol=1e-12)


def test_angles_stay_in_range_and_fill_it():
    for d in (2, 3, 5):
        element = random_element(Architecture.siren((d, 4, 1)), (2000,))
        r = Rotate(degrees=30.0).sample(element, generator=generator()).matrix
        # A turn of one plane by theta has trace d - 2 + 2 cos(theta).
        angle = (((r.diagonal(dim1=-2, dim2=-1).sum(-1) - d) / 2 + 1).clamp(-1, 1)).acos() * 180 / math.pi
        assert float(angle.max()) <= 30 + 1e-6
        assert float(angle.max()) > 29
        assert abs(float(angle.mean()) - 15) < 1
        if d == 2:
            assert abs(float((r[:, 1, 0] > 0).double().mean()) - 0.5) < 0.05


def test_uniform_rotations_have_no_preferred_direction():
    element = random_element(Architecture.siren((3, 4, 1)), (4000,))
    r = Rotate(degrees=None).sample(element, generator=generator()).matrix
    assert float(r.mean(0).abs().max()) < 0.05
    assert torch.allclose(r.square().mean(0), torch.full((3, 3), 1 / 3, dtype=r.dtype), atol=0.03)
    # Under the Haar measure of SO(3) the squared trace has mean 1 (the vector representation is irreducible).
    assert abs(float(r.diagonal(dim1=-2, dim2=-1).sum(-1).square().mean()) - 1) < 0.1


def test_a_fixed_axis_and_a_fixed_centre_stay_in_place():
    element = random_element(Architecture.siren((3, 4, 1)), (10,))
    axis = torch.tensor([[1.0, 2.0, -2.0]], dtype=torch.float64)
    params = Rotate(degrees=170.0, axis=(1.0, 2.0, -2.0)).sample(element, generator=generator())
    assert torch.allclose(params.map_points(axis), axis.expand(10, 1, 3), atol=1e-12)
    for transform in (Rotate(90.0, center=(1.0, 2.0, 3.0)), Scale(0.5, center=(1.0, 2.0, 3.0))):
        point = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
        params = transform.sample(element, generator=generator())
        assert torch.allclose(params.map_points(point), point.expand(10, 1, 3), atol=1e-12)


def test_reflections_flip_about_half_of_the_inputs():
    element = random_element(Architecture.siren((3, 4, 1)), (1000,))
    signs = Reflect().sample(element, generator=generator()).matrix.diagonal(dim1=-2, dim2=-1)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float((signs < 0).double().mean()) - 0.5) < 0.05


def test_affine_without_parts_is_the_remaining_part():
    element = random_element(Architecture.siren((2, 4, 1)), (6,))
    params = Affine(degrees=0.0, translate=0.0, scale=0.0, shear=0.5).sample(element, generator=generator())
    m = params.matrix
    assert torch.allclose(m.diagonal(dim1=-2, dim2=-1), torch.ones(6, 2, dtype=m.dtype))
    assert m[:, 0, 1].abs().min() > 0
    assert m[:, 1, 0].abs().max() == 0


@pytest.mark.parametrize(
    ("transform", "architecture", "words"),
    [
        (Rotate(), Architecture.siren((1, 4, 1)), ["at least 2 inputs", "size 1"]),
        (Rotate(axis=(0, 0, 1)), Architecture.siren((2, 4, 1)), ["axis needs 3 inputs", "size 2"]),
        (Rotate(center=(0.0, 0.0, 0.0)), Architecture.siren((2, 4, 1)), ["center has 3", "2 inputs"]),
        (Translate(), Architecture.mlp((2, 4, 1), "relu", bias=False), ["layer0", "bias=True"]),
        (Affine(), Architecture.mlp((1, 4, 1), "relu"), ["at least 2 inputs"]),
    ],
)
def test_the_wrong_architecture_is_refused(transform, architecture, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        transform(random_element(architecture, (2,)))
    for word in words:
        assert word in str(error.value)


def test_an_offset_that_no_bias_can_take_is_refused():
    element = random_element(Architecture.mlp((2, 4, 1), "relu", bias=False, output_offset=0.5), (2,))
    with pytest.raises(ValueError, match=r"output offset 0\.5 cannot be rescaled"):
        rescale_output(element, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rotate(degrees=-1.0),
        lambda: Rotate(axis=(0, 0, 0)),
        lambda: Rotate(degrees=None, axis=(0, 0, 1)),
        lambda: Scale(amount=1.0),
        lambda: Scale(per_axis=True, signed_distance=True),
        lambda: Translate(amount=-0.1),
        lambda: Reflect(p=2.0),
        lambda: Affine(scale=1.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match=r"must be|does not keep"):
        make()
