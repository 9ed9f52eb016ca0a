"""PSNR between functions, rendered images, and strength in dB."""

from __future__ import annotations

import math

import pytest
import torch

import weightaug as wa
from weightaug import Architecture, WeightSpaceElement, evaluation
from weightaug.fitting import Adam, fit_inrs, pixel_grid
from weightaug.testing import random_element


def linear(weight: list[list[float]], bias: list[float]) -> WeightSpaceElement:
    """One network that is an affine map."""
    w, b = torch.tensor(weight, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64)
    return WeightSpaceElement(Architecture.mlp((w.shape[1], w.shape[0]), ()), (w,), (b,))


@pytest.fixture(scope="module")
def fitted() -> WeightSpaceElement:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 8), torch.linspace(0, 1, 8), indexing="ij")
    phases = torch.arange(24).view(24, 1, 1)
    images = 0.5 + 0.5 * torch.sin(3 * rows + 5 * columns + phases)
    return fit_inrs(images, hidden=(16, 16), settings=Adam(300, target_psnr=40.0)).element


# -- psnr --------------------------------------------------------------------------------------------


def test_psnr_is_its_definition():
    plane, moved = linear([[1.0, 0.0]], [0.0]), linear([[1.0, 0.0]], [0.2])
    assert float(wa.psnr(plane, moved, 5, peak=1.0)) == pytest.approx(10 * math.log10(1 / 0.04))
    assert float(wa.psnr(plane, moved, 5)) == pytest.approx(10 * math.log10(4 / 0.04))  # x runs from -1 to 1
    assert float(wa.psnr(plane, plane, 5)) == math.inf
    # Along the first input there are two points, so the mean of squares differs from that along the second.
    bent = linear([[1.0, 0.5]], [0.0])
    assert float(wa.psnr(plane, bent, (2, 3), peak=1.0)) == pytest.approx(-10 * math.log10(0.25 * 2 / 3))
    assert float(wa.psnr(plane, bent, (3, 2), peak=1.0)) == pytest.approx(-10 * math.log10(0.25))
    assert float(wa.psnr(plane, bent, torch.tensor([[0.0, 0.4]]), peak=1.0)) == pytest.approx(-20 * math.log10(0.2))


def test_psnr_of_batches_is_that_of_each_network(fitted, monkeypatch):
    noisy = wa.GaussianNoise(0.01)(fitted, generator=torch.Generator().manual_seed(0))
    whole = wa.psnr(fitted, noisy, 8)
    assert whole.shape == (24,)
    alone = torch.stack([wa.psnr(fitted[i], noisy[i], 8) for i in range(24)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-3)
    monkeypatch.setattr(evaluation, "_VALUES", 5000)  # a few networks at a time
    torch.testing.assert_close(wa.psnr(fitted, noisy, 8), whole, rtol=1e-4, atol=1e-3)
    grid = fitted.map(lambda t: t.reshape(4, 6, *t.shape[1:]))
    assert wa.psnr(grid, grid[0, 0], 8).shape == (4, 6)
    assert wa.psnr(fitted[:0], noisy[:0], 8).shape == (0,)


def test_psnr_refuses_what_cannot_be_compared(fitted):
    with pytest.raises(ValueError, match=r"equal numbers of inputs and outputs, got \(2, 1\) and \(3, 1\)"):
        wa.psnr(fitted, linear([[1.0, 0.0, 0.0]], [0.0]), 4)
    with pytest.raises(ValueError, match=r"equal batch shapes, or one network, got \(24,\) and \(2,\)"):
        wa.psnr(fitted, fitted[:2], 4)
    with pytest.raises(ValueError, match="peak must be a positive finite number"):
        wa.psnr(fitted, fitted, 4, peak=0.0)
    with pytest.raises(TypeError, match="expected a number of points along every input"):
        wa.psnr(fitted, fitted, 4.0)


# -- render ------------------------------------------------------------------------------------------


def test_an_image_shows_the_values_at_its_pixels():
    plane = linear([[1.0, 10.0], [2.0, 20.0]], [0.0, 0.5])
    shown = wa.render(plane, (3, 5))
    assert shown.shape == (2, 3, 5)
    x, y = torch.linspace(-1, 1, 5).double(), torch.linspace(-1, 1, 3).double()
    torch.testing.assert_close(shown[0], x[None] + 10 * y[:, None])
    torch.testing.assert_close(shown[1], 2 * x[None] + 20 * y[:, None] + 0.5)
    torch.testing.assert_close(wa.render(plane, (3, 5), order="ij")[0], y[:, None] + 10 * x[None])
    torch.testing.assert_close(wa.render(plane, 4)[0], plane(pixel_grid(4, 4).double())[:, 0].view(4, 4))


def test_black_and_white():
    plane = linear([[1.0, 0.0]], [0.0])
    shown = wa.render(plane, (1, 5), value_range=(-0.5, 0.5))
    torch.testing.assert_close(shown, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]).double())


@pytest.mark.parametrize(("axis", "weights"), [(2, (1, 10)), (-1, (1, 10)), (0, (10, 100)), (1, (1, 100))])
def test_a_plane_through_three_dimensions(axis, weights):
    volume = linear([[1.0, 10.0, 100.0]], [0.0])
    shown = wa.render(volume, (2, 3), axis=axis, at=0.5)
    held = 0.5 * (1, 10, 100)[axis]
    x, y = torch.linspace(-1, 1, 3).double(), torch.linspace(-1, 1, 2).double()
    torch.testing.assert_close(shown, weights[0] * x[None] + weights[1] * y[:, None] + held)


def test_render_keeps_batches_and_gradients(fitted):
    element = fitted.map(lambda t: t.reshape(2, 12, *t.shape[1:]).requires_grad_())
    shown = wa.render(element, (5, 4))
    assert shown.shape == (2, 12, 5, 4)
    shown.sum().backward() if shown.requires_grad else pytest.fail("no gradient")


def test_render_refuses_what_it_cannot_show(fitted):
    with pytest.raises(ValueError, match="networks of 2 or 3 inputs in one space, got 1"):
        wa.render(random_element(Architecture.siren((1, 4, 1))), 4)
    with pytest.raises(ValueError, match=r"size must be \(height, width\), each at least 1, or one number, got \(3,\)"):
        wa.render(fitted, (3,))
    with pytest.raises(ValueError, match="order must be 'xy' or 'ij', got 'yx'"):
        wa.render(fitted, 4, order="yx")
    with pytest.raises(ValueError, match=r"value_range must be \(black, white\)"):
        wa.render(fitted, 4, value_range=(1, -1))
    with pytest.raises(ValueError, match=r"axis must be in -3 ... 2, one of the three inputs, got 3"):
        wa.render(linear([[1.0, 0.0, 0.0]], [0.0]), 4, axis=3)


# -- calibrate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "field"),
    [
        (wa.GaussianNoise(), "scale"),
        (wa.GaussianNoise(scale=0.0), "scale"),
        (wa.Dropout(), "p"),
        (wa.QuantileDropout(random=False), "q"),
        (wa.Rotate(), "degrees"),
        (wa.Translate(), "amount"),
    ],
    ids=lambda p: repr(p),
)
@pytest.mark.parametrize("wanted", [20.0, 32.0])
def test_calibrated_transforms_leave_what_was_asked(fitted, transform, field, wanted):
    if isinstance(transform, wa.Dropout):  # that drops whole weights: with 24 networks the median moves in steps
        wanted = min(wanted, 20.0)
    found = wa.calibrate(transform, fitted, 8, wanted, field)
    assert type(found) is type(transform)
    # With other draws than those of the search; few networks, so the medians differ by more than half a dB.
    medians = [
        float(wa.psnr(fitted, found(fitted, generator=torch.Generator().manual_seed(seed)), 8).median())
        for seed in range(1, 6)
    ]
    assert sum(medians) / 5 == pytest.approx(wanted, abs=2.5)
    same = wa.psnr(fitted, found(fitted, generator=torch.Generator().manual_seed(0)), 8)
    assert float(same.median()) == pytest.approx(wanted, abs=0.5)


def test_what_cannot_be_calibrated_is_named(fitted):
    with pytest.raises(ValueError, match=r"Dropout has no number 'scale'; its numbers: \['p'\]"):
        wa.calibrate(wa.Dropout(), fitted, 8)
    with pytest.raises(ValueError, match="SirenNegation keeps every function exactly, at any p"):
        wa.calibrate(wa.SirenNegation(), fitted, 8, field="p")
    with pytest.raises(ValueError, match=r"Scale cannot go down to a median of -20 dB: at amount=.* are left"):
        wa.calibrate(wa.Scale(), fitted, 8, -20, "amount")
    with pytest.raises(ValueError, match="expected at least one network, got none"):
        wa.calibrate(wa.GaussianNoise(), fitted[:0], 8)
    with pytest.raises(ValueError, match="psnr must be a finite number of dB, got inf"):
        wa.calibrate(wa.GaussianNoise(), fitted, 8, math.inf)
    with pytest.raises(ValueError, match="its numbers: none; calibrate the transforms inside"):
        wa.calibrate(wa.Compose((wa.GaussianNoise(),)), fitted, 8)
