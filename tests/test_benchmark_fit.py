"""The fitter of SIRENs: right gradients, right optimiser, independent networks, good reconstructions."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.data import fit as fitting
from benchmarks.data.images import digits, load_images, pixel_grid
from benchmarks.data.settings import CONVENTIONS, ImageFitSettings
from weightaug import Architecture, WeightSpaceElement

pytest.importorskip("sklearn")
SIZES = (2, 32, 32, 1)


def start(count: int, convention: str = "authors", dtype: torch.dtype = torch.float32) -> WeightSpaceElement:
    chosen = CONVENTIONS[convention]
    architecture = fitting.siren_architecture(chosen, SIZES)
    return fitting.initial_weights(chosen, architecture, range(count), dtype=dtype)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_are_those_of_autograd(convention):
    element = start(3, convention, torch.float64)
    params = [t.clone().requires_grad_() for t in element.tensors()]
    grid, targets = pixel_grid(4, 5, dtype=torch.float64), torch.rand(3, 20, dtype=torch.float64)
    networks = WeightSpaceElement(element.architecture, tuple(params[0::2]), tuple(params[1::2]))
    error = (networks(grid).squeeze(-1) - targets).square().mean(-1)
    expected = torch.autograd.grad(error.sum(), params)
    offset = element.architecture.output_offset
    got_error, got = fitting._error_and_gradients(element.tensors(), [30.0, 30.0], offset, grid, targets)
    torch.testing.assert_close(got_error, error.detach())
    torch.testing.assert_close(got, list(expected))


def test_steps_are_those_of_adam():
    element = start(2, dtype=torch.float64)
    grid, targets = pixel_grid(4, 4, dtype=torch.float64), torch.rand(2, 16, dtype=torch.float64)
    fitted = fitting.fit(grid, targets, element, ImageFitSettings(steps=25, target_psnr=math.inf))
    params = [t.clone().requires_grad_() for t in element.tensors()]
    optimiser = torch.optim.Adam(params, lr=5e-4)
    for _ in range(25):
        networks = WeightSpaceElement(element.architecture, tuple(params[0::2]), tuple(params[1::2]))
        loss = (networks(grid).squeeze(-1) - targets).square().mean(-1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(fitted.element.tensors(), [p.detach() for p in params], rtol=1e-9, atol=1e-12)


def test_a_batch_gives_what_each_network_gives_alone():
    # Networks that stop early leave the batch, so this also tests that the others do not notice.
    images = digits().values[:4].double().flatten(1)
    element, grid = start(4, dtype=torch.float64), pixel_grid(8, 8, dtype=torch.float64)
    settings = ImageFitSettings(steps=200, target_psnr=19.0)
    together = fitting.fit(grid, images, element, settings)
    assert len(set(together.steps.tolist())) > 1
    for i in range(4):
        alone = fitting.fit(grid, images[i : i + 1], element[i : i + 1], settings)
        assert alone.steps[0] == together.steps[i]
        torch.testing.assert_close(alone.element[0].flatten(), together.element[i].flatten(), rtol=1e-7, atol=1e-9)


def test_a_digit_is_reconstructed_with_40_db_in_the_papers_steps():
    images = digits().values[:2]
    settings = ImageFitSettings()
    fitted = fitting.fit(pixel_grid(8, 8), images.flatten(1), start(2), settings)
    shown = fitted.element(pixel_grid(8, 8)).reshape(images.shape)
    psnr = -10 * (shown - images).square().mean((1, 2)).log10()
    assert (psnr >= 40).all()
    assert (fitted.steps < settings.steps).all()
    torch.testing.assert_close(fitted.psnr, psnr, atol=0.05, rtol=0)


def test_the_standard_siren_fits_targets_from_minus_one_to_one():
    images = digits().values[:2]
    fitted = fitting.fit(
        pixel_grid(8, 8), images.flatten(1) * 2 - 1, start(2, "siren"), ImageFitSettings(convention_name="siren")
    )
    shown = (fitted.element(pixel_grid(8, 8)).reshape(images.shape) + 1) / 2
    psnr = -10 * (shown - images).square().mean((1, 2)).log10()
    assert (psnr >= 40).all()
    torch.testing.assert_close(fitted.psnr, psnr, atol=0.05, rtol=0)


def test_conventions_start_within_their_bounds():
    authors, siren = start(50), start(50, "siren")
    bounds = {
        "authors": (math.sqrt(6 / 2) / 30, 0, math.sqrt(6 / 32) / 30, 0, 1 / math.sqrt(32), 1 / math.sqrt(32)),
        "siren": (1 / 2, 1 / math.sqrt(2), math.sqrt(6 / 32) / 30, 1 / math.sqrt(32), math.sqrt(6 / 32) / 30, None),
    }
    bounds["nfn"] = bounds["siren"]
    for element, name in ((authors, "authors"), (siren, "siren"), (start(50, "nfn"), "nfn")):
        for tensor, bound in zip(element.tensors(), bounds[name], strict=True):
            if bound is not None:
                assert 0.95 * bound <= float(tensor.abs().max()) <= bound
    assert authors.architecture == Architecture.siren(SIZES, output_offset=0.5)


def test_a_network_starts_the_same_in_any_batch():
    chosen = CONVENTIONS["authors"]
    architecture = fitting.siren_architecture(chosen, SIZES)
    many = fitting.initial_weights(chosen, architecture, [5, 6, 7])
    one = fitting.initial_weights(chosen, architecture, [6])
    assert torch.equal(many[1].flatten(), one[0].flatten())
    assert not torch.equal(many[0].flatten(), many[1].flatten())


def test_seeds_differ_by_sample_and_view_and_never_by_process():
    seeds = {fitting.seed_of(0, "digits", view, i) for view in range(10) for i in range(100)}
    assert len(seeds) == 1000
    assert fitting.seed_of(0, "digits", 1, 2) == 5709445780650214386


def test_other_networks_and_data_sets_are_refused():
    element = WeightSpaceElement.unflatten(relu := Architecture.mlp((2, 4, 1), "relu"), torch.zeros(1, 17))
    with pytest.raises(ValueError, match="sine"):
        fitting.fit(pixel_grid(2, 2), torch.zeros(1, 4), element, ImageFitSettings())
    assert relu.num_parameters == 17
    with pytest.raises(ValueError, match="unknown data set 'cifar'; known: \\['digits', 'fashion-mnist'\\]"):
        load_images("cifar")
