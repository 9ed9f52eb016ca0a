"""The fitter: right gradients, right optimiser, independent networks, good reconstructions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from benchmarks.data import fit as caller
from benchmarks.data.images import digits, load_images
from benchmarks.data.settings import ImageFitSettings
from weightaug import Activation, Architecture, Layer, Space, WeightSpaceElement, convert, fitting
from weightaug.fitting import CONVENTIONS, Adam, pixel_grid
from weightaug.fitting.gradients import _Any, error_function
from weightaug.testing import random_element

pytest.importorskip("sklearn")
SIZES = (2, 32, 32, 1)
BRANCHED = Architecture(
    (Space("in", 2), Space("a", 5, Activation("gelu")), Space("b", 4, Activation("tanh")), Space("out", 3)),
    (Layer("1", "in", "a"), Layer("2", "a", "b", bias=False), Layer("3", "b", "out"), Layer("skip", "a", "out")),
    output_offset=0.5,
)


def start(count: int, convention: str = "authors", dtype: torch.dtype = torch.float32) -> WeightSpaceElement:
    chosen = CONVENTIONS[convention]
    return fitting.initial_weights(chosen, chosen.architecture(SIZES), range(count), dtype=dtype)


def gradients_by_autograd(element: WeightSpaceElement, grid: torch.Tensor, targets: torch.Tensor):
    leaves = element.map(lambda t: t.clone().requires_grad_())
    error = (leaves(grid) - targets).square().mean((-1, -2))
    return error.detach(), list(torch.autograd.grad(error.sum(), leaves.tensors()))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_gradients_are_those_of_autograd(convention, outputs):
    chosen = CONVENTIONS[convention]
    architecture = chosen.architecture((2, 9, 7, outputs))
    element = fitting.initial_weights(chosen, architecture, range(3), dtype=torch.float64)
    grid, targets = pixel_grid(4, 5, dtype=torch.float64), torch.rand(3, 20, outputs, dtype=torch.float64)
    function = error_function(architecture)
    assert not isinstance(function, _Any)
    error, gradients = gradients_by_autograd(element, grid, targets)
    got_error, got = function.error_and_gradients(element.tensors(), grid, targets.flatten(1))
    torch.testing.assert_close(got_error, error)
    torch.testing.assert_close(got, gradients)
    torch.testing.assert_close(function.error(element.tensors(), grid, targets.flatten(1)), error)


def test_other_networks_have_gradients_too():
    element, grid = random_element(BRANCHED, (3,)), pixel_grid(4, 5, dtype=torch.float64)
    targets = torch.rand(3, 20, 3, dtype=torch.float64)
    error, gradients = gradients_by_autograd(element, grid, targets)
    with torch.no_grad():
        got_error, got = error_function(BRANCHED).error_and_gradients(element.tensors(), grid, targets.flatten(1))
    torch.testing.assert_close(got_error, error)
    torch.testing.assert_close(got, gradients)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_steps_are_those_of_adam(schedule):
    element = start(2, dtype=torch.float64)
    grid, targets = pixel_grid(4, 4, dtype=torch.float64), torch.rand(2, 16, dtype=torch.float64)
    fitted = fitting.fit(grid, targets, element, Adam(25, 5e-4, schedule))
    params = [t.clone().requires_grad_() for t in element.tensors()]
    optimiser = torch.optim.Adam(params, lr=5e-4)
    for step in range(25):
        optimiser.param_groups[0]["lr"] = 5e-4 * (1 if schedule == "constant" else math.cos(math.pi * step / 50) ** 2)
        networks = WeightSpaceElement(element.architecture, tuple(params[0::2]), tuple(params[1::2]))
        loss = (networks(grid).squeeze(-1) - targets).square().mean(-1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(fitted.element.tensors(), [p.detach() for p in params], rtol=1e-9, atol=1e-12)


def test_the_benchmarks_settings_reach_the_fitter():
    grid, targets = pixel_grid(4, 4), torch.rand(2, 16)
    settings = ImageFitSettings(steps=30, learning_rate=2e-3, target_psnr=15.0, check_every=5)
    ours = caller.fit(grid, targets, start(2), settings)
    adam = Adam(30, 2e-3, target_psnr=15.0, check_every=5)
    theirs = fitting.fit(grid, targets, start(2), adam)
    assert torch.equal(ours.element.flatten(), theirs.element.flatten())
    assert torch.equal(ours.psnr, theirs.psnr)


def test_a_batch_gives_what_each_network_gives_alone():
    # Networks that stop early leave the batch, so this also tests that the others do not notice.
    images = digits().values[:4].double().flatten(1)
    element, grid = start(4, dtype=torch.float64), pixel_grid(8, 8, dtype=torch.float64)
    settings = Adam(200, 5e-4, target_psnr=19.0)
    together = fitting.fit(grid, images, element, settings)
    assert len(set(together.steps.tolist())) > 1
    for i in range(4):
        alone = fitting.fit(grid, images[i], element[i], settings)
        assert alone.steps == together.steps[i]
        assert alone.element.batch_shape == alone.psnr.shape == ()
        torch.testing.assert_close(alone.element.flatten(), together.element[i].flatten(), rtol=1e-7, atol=1e-9)


def test_a_digit_is_reconstructed_with_40_db_in_the_papers_steps():
    images = digits().values[:2]
    settings = ImageFitSettings()
    fitted = caller.fit(pixel_grid(8, 8), images.flatten(1), start(2), settings)
    shown = fitted.element(pixel_grid(8, 8)).reshape(images.shape)
    psnr = -10 * (shown - images).square().mean((1, 2)).log10()
    assert (psnr >= 40).all()
    assert (fitted.steps < settings.steps).all()
    torch.testing.assert_close(fitted.psnr, psnr, atol=0.05, rtol=0)


@pytest.mark.parametrize("convention", ["siren", "nfn"])
def test_inrs_show_their_images(convention):
    # Not square and of three channels: swapped axes or channels would show.
    gradient = torch.linspace(0, 1, 12)
    images = torch.stack([gradient.expand(8, 12), gradient[:8, None].expand(8, 12), torch.full((8, 12), 0.25)])[None]
    fitted = fitting.fit_inrs(images, convention=convention)
    assert fitted.element.architecture.convention == convention
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 12), indexing="ij")
    points = torch.stack([rows, columns] if convention == "nfn" else [columns, rows], -1).flatten(0, 1)
    shown = (fitted.element(points).mT.reshape(1, 3, 8, 12) + 1) / 2
    psnr = -10 * (shown - images).square().mean((1, 2, 3)).log10()
    assert (psnr >= 40).all()
    torch.testing.assert_close(fitted.psnr, psnr, atol=0.05, rtol=0)


def test_fitted_networks_can_be_converted_without_saying_what_they_are():
    fitted = fitting.fit_inrs(digits().values[:2], settings=Adam(30)).element
    there = convert(fitted, "nfn")
    points = torch.rand(20, 2)
    torch.testing.assert_close(there(points.flip(-1)), fitted(points), atol=1e-4, rtol=0)
    own = fitting.fit_inrs(digits().values[:2], convention=fitting.CONVENTIONS["siren"], settings=Adam(30)).element
    assert own.architecture.convention is None  # which has no name


def test_a_part_of_the_images_is_fitted_again_alone():
    images = digits().values[:3]
    all_of_them = fitting.fit_inrs(images, settings=Adam(30))
    one = fitting.fit_inrs(images[2:], settings=Adam(30), seeds=[fitting.seed_of(0, 2)])
    torch.testing.assert_close(one.element[0].flatten(), all_of_them.element[2].flatten(), rtol=1e-4, atol=1e-5)
    other = fitting.fit_inrs(images, settings=Adam(30), seed=1)
    assert (other.element.flatten() - all_of_them.element.flatten()).abs().max() > 0.1


def test_conventions_start_within_their_bounds():
    bounds = {
        "authors": (math.sqrt(6 / 2) / 30, 0, math.sqrt(6 / 32) / 30, 0, 1 / math.sqrt(32), 1 / math.sqrt(32)),
        "siren": (1 / 2, 1 / math.sqrt(2), math.sqrt(6 / 32) / 30, 1 / math.sqrt(32), math.sqrt(6 / 32) / 30, None),
    }
    bounds["nfn"] = bounds["siren"]
    for name in CONVENTIONS:
        for tensor, bound in zip(start(50, name).tensors(), bounds[name], strict=True):
            if bound is not None:
                assert 0.95 * bound <= float(tensor.abs().max()) <= bound
    assert start(1).architecture == Architecture.siren(SIZES, output_offset=0.5)


def test_a_network_starts_the_same_in_any_batch():
    chosen = CONVENTIONS["authors"]
    architecture = chosen.architecture(SIZES)
    many = fitting.initial_weights(chosen, architecture, [5, 6, 7])
    one = fitting.initial_weights(chosen, architecture, [6])
    assert torch.equal(many[1].flatten(), one[0].flatten())
    assert not torch.equal(many[0].flatten(), many[1].flatten())


def test_seeds_differ_by_sample_and_view_and_never_by_process():
    seeds = {fitting.seed_of(0, "digits", view, i) for view in range(10) for i in range(100)}
    assert len(seeds) == 1000
    assert fitting.seed_of(0, "digits", 1, 2) == 5709445780650214386


# -- whatever surrounds the call ---------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [Architecture.siren((2, 6, 6, 3)), BRANCHED], ids=["sines", "branched"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_modes_around_the_call_change_nothing(architecture, mode):
    def run():
        element = random_element(architecture, (2, 2), dtype=torch.float32)
        targets = torch.linspace(0, 1, 2 * 2 * 20 * 3).view(2, 2, 20, 3)
        return fitting.fit(pixel_grid(4, 5), targets, element, Adam(10))

    plain = run()
    with mode():
        inside = run()
    assert torch.equal(inside.element.flatten(), plain.element.flatten())
    assert torch.equal(inside.psnr, plain.psnr)
    assert not any(t.is_inference() or t.requires_grad for t in inside.element.tensors())


def test_the_start_stays_and_half_precision_is_kept():
    element = random_element(BRANCHED, (3,), dtype=torch.bfloat16).map(lambda t: t.requires_grad_())
    before = element.detach().clone()
    grid, targets = pixel_grid(4, 5), torch.rand(3, 20, 3)
    fitted = fitting.fit(grid, targets, element, Adam(20))
    assert torch.equal(element.flatten(), before.flatten())
    assert fitted.element.dtype == torch.bfloat16
    error = (fitted.element.to(torch.float32)(grid) - targets).square().mean((1, 2))
    torch.testing.assert_close(fitted.psnr, -10 * error.log10(), atol=0.01, rtol=0)


def test_no_networks_are_fitted_to_nothing():
    fitted = fitting.fit(pixel_grid(2, 2), torch.zeros(0, 4), start(0), Adam(3))
    assert fitted.element.batch_shape == fitted.psnr.shape == fitted.steps.shape == (0,)


# -- bad input ---------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named():
    element = start(3)
    with pytest.raises(ValueError, match=r"coordinates: expected \(points, 2\) or \(3, points, 2\), got \(4, 3\)"):
        fitting.fit(torch.zeros(4, 3), torch.zeros(3, 4), element)
    with pytest.raises(ValueError, match=r"coordinates: expected .* got \(2, 4, 2\)"):
        fitting.fit(torch.zeros(2, 4, 2), torch.zeros(3, 4), element)
    with pytest.raises(ValueError, match=r"targets: expected \(3, 4, 1\), one value .* 4 points, got \(3, 5\)"):
        fitting.fit(pixel_grid(2, 2), torch.zeros(3, 5), element)
    with pytest.raises(ValueError, match="at least one point"):
        fitting.fit(torch.zeros(0, 2), torch.zeros(3, 0), element)
    for field, value in {"steps": -1, "learning_rate": math.nan, "check_every": 0, "points_per_step": 0}.items():
        with pytest.raises(ValueError, match=f"Adam: {field} must be"):
            Adam(**{field: value})
    with pytest.raises(ValueError, match="schedule must be 'constant' or 'cosine', got 'linear'"):
        dataclasses.replace(Adam(), schedule="linear")


def test_what_is_no_image_is_named():
    with pytest.raises(TypeError, match="divide bytes by 255"):
        fitting.fit_inrs(torch.zeros(2, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\], got 0.0 to 255.0"):
        fitting.fit_inrs(torch.tensor([[[0.0, 255.0]]]))
    with pytest.raises(ValueError, match=r"expected \(n, height, width\) or"):
        fitting.fit_inrs(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="one for each of 2 images, got 3"):
        fitting.fit_inrs(torch.zeros(2, 4, 4), seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="unknown convention 'sirens'; expected one of"):
        fitting.fit_inrs(torch.zeros(2, 4, 4), convention="sirens")
    with pytest.raises(ValueError, match="unknown data set 'cifar'; known: \\['digits', 'fashion-mnist'\\]"):
        load_images("cifar")
