"""The bundled data set, and pictures of networks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import weightaug as wa
from weightaug.testing import random_element

pytest.importorskip("matplotlib")

SHAPE = wa.Architecture.siren((3, 4, 1))


@pytest.fixture(scope="module")
def digits() -> wa.WeightSpaceElement:
    return wa.datasets.digits().element


def panels(figure):
    """The arrays of all pictures, row by row."""
    return [panel.images[0].get_array() for panel in figure.axes if panel.images]


def test_the_digits_are_those_of_scikit_learn():
    data = wa.datasets.digits()
    assert len(data) == 600
    assert data.element.architecture.convention == "siren"
    assert data.columns["psnr"].median() >= 36
    datasets = pytest.importorskip("sklearn.datasets")
    images = torch.from_numpy(datasets.load_digits().images[:600]).float()
    assert data.labels.tolist() == datasets.load_digits().target[:600].tolist()
    shown = wa.render(data.element, 8, value_range=(-1, 1))
    # Drawn larger and blurred between the pixels, so not the same, but never another image.
    apart = torch.cdist(shown.flatten(1), images.flatten(1) / 16)
    assert (apart.argmin(1) == torch.arange(600)).float().mean() > 0.95


def test_a_sample_of_the_digits_can_be_augmented():
    data = wa.datasets.digits(transform=wa.SirenNegation(p=1.0))
    sample = data[0][0] if isinstance(data[0], tuple) else data[0]
    plain = wa.datasets.digits().element[0]
    assert not torch.equal(sample.flatten(), plain.flatten())
    points = torch.rand(20, 2)
    torch.testing.assert_close(sample(points), plain(points), atol=1e-4, rtol=0)


def test_show_draws_what_the_networks_show(digits):
    figure = wa.plot.show(digits[:10], size=16, columns=4, labels=range(10))
    drawn = panels(figure)
    assert len(drawn) == 10
    for image, network in zip(drawn, digits[:10], strict=True):
        np.testing.assert_allclose(image, wa.render(network, 16).numpy(), rtol=1e-5, atol=1e-5)
    assert [panel.get_title() for panel in figure.axes][:10] == [str(i) for i in range(10)]
    assert len(panels(wa.plot.show(digits[0]))) == 1
    assert len(panels(wa.plot.show(digits))) == 64


def test_show_draws_planes_of_three_inputs_and_colours():
    element = random_element(SHAPE, (2,))
    low = panels(wa.plot.show(element, size=8, at=-0.5))
    np.testing.assert_allclose(low[1], wa.render(element[1], 8, at=-0.5).float().numpy(), atol=1e-5)
    colours = random_element(wa.Architecture.siren((2, 4, 3)), (2,))
    assert panels(wa.plot.show(colours, size=8))[0].shape == (8, 8, 3)


def test_show_augmentations_has_a_row_for_every_draw(digits):
    networks = digits[:5]
    before = networks.flatten().clone()
    state = torch.get_rng_state()
    figure = wa.plot.show_augmentations(
        networks, {"sign": wa.SirenNegation(), "turn": wa.Rotate(30.0)}, draws=2, size=16
    )
    drawn = panels(figure)
    assert len(drawn) == 5 * 5
    for original, same in zip(drawn[:5], drawn[5:10], strict=True):
        np.testing.assert_allclose(same, original, atol=1e-3)
    assert max(np.abs(a - b).max() for a, b in zip(drawn[:5], drawn[15:20], strict=True)) > 0.1
    assert torch.equal(networks.flatten(), before)
    assert torch.equal(torch.get_rng_state(), state)
    labels = [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel()]
    assert labels == ["as they are", "sign", "sign", "turn", "turn"]


def test_show_path_ends_where_it_should(digits):
    drawn = panels(wa.plot.show_path(digits[0], digits[1], steps=3, size=16))
    assert len(drawn) == 6
    for row in (drawn[:3], drawn[3:]):
        np.testing.assert_allclose(row[0], wa.render(digits[0], 16).numpy(), atol=1e-4)
        np.testing.assert_allclose(row[2], wa.render(digits[1], 16).numpy(), atol=1e-2)  # also when it is aligned
    assert np.abs(drawn[1] - drawn[4]).max() > 0.1
    assert len(panels(wa.plot.show_path(digits[0], digits[1], aligned=False, steps=4))) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: wa.plot.show(e[:0]), "at least one network"),
        (lambda e: wa.plot.show_path(e[:2], e[0]), "one network each, got 2 and 1"),
        (lambda e: wa.plot.show_path(e[0], e[1], steps=1), "at least 2 steps"),
        (lambda e: wa.plot.show(random_element(wa.Architecture.siren((4, 3, 1)), (1,))), "2 or 3 inputs"),
    ],
)
def test_what_cannot_be_drawn_is_refused(digits, call, message):
    with pytest.raises(ValueError, match=message):
        call(digits)


def test_without_matplotlib_it_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "import weightaug as wa\n"
        "wa.plot.show(wa.datasets.digits().element[:1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'weightaug[plot]'" in done.stderr
