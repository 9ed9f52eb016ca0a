"""The readers beside the paper's models: what they see and what they do not, and DWSNets' initial weights."""

from __future__ import annotations

import math

import pytest
import torch

import weightaug as wa
from benchmarks.models.dws import DWS
from benchmarks.models.perceptron import PerceptronReader
from benchmarks.models.published_init import deviation
from benchmarks.models.sign_invariant import SignInvariantDWS
from benchmarks.table.settings import PRESETS

SIREN = wa.Architecture.siren((2, 6, 5, 1))
DEEP = wa.Architecture.siren((3, 4, 5, 3, 2))


def element(architecture: wa.Architecture, count: int = 6) -> wa.WeightSpaceElement:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(count, architecture.num_parameters, generator=generator, dtype=torch.float64)
    return wa.WeightSpaceElement.unflatten(architecture, 0.1 * flat)


def moved(networks: wa.WeightSpaceElement, transform: wa.Transform) -> wa.WeightSpaceElement:
    return transform(networks, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", [SIREN, DEEP, wa.Architecture.mlp((2, 4, 1), "tanh")])
def test_dws_with_signs_built_in_sees_neither_signs_nor_order(architecture):
    torch.manual_seed(0)
    networks = element(architecture)
    model = SignInvariantDWS(architecture, 5, hidden=8).double().eval()
    model.set_statistics(networks)
    scores = model(networks)
    both = wa.Compose((wa.Permute(), wa.SirenNegation()))
    torch.testing.assert_close(model(moved(networks, both)), scores)
    assert (scores[0] - scores[1]).abs().max() > 1e-3 * scores.abs().max()
    for i in range(len(networks.tensors())):
        tensors = [t * 1.5 if j == i else t for j, t in enumerate(networks.tensors())]
        other = wa.WeightSpaceElement(architecture, tuple(tensors[0::2]), tuple(tensors[1::2]))
        assert (model(other) - scores).abs().max() > 1e-6, f"tensor {i} has no influence"


def test_dws_with_signs_built_in_sees_relative_signs():
    torch.manual_seed(0)
    networks = element(SIREN)
    model = SignInvariantDWS(SIREN, 5, hidden=8).double().eval()
    first, *rest = networks.weights
    flipped = first.clone()
    flipped[:, 0, 0] *= -1  # one of a neuron's numbers, not all
    other = wa.WeightSpaceElement(SIREN, (flipped, *rest), networks.biases)
    assert (model(other) - model(networks)).abs().max() > 1e-6


def test_signs_are_built_in_for_odd_activations_alone():
    with pytest.raises(ValueError, match=r"signs are a symmetry of odd activations, got .*relu"):
        SignInvariantDWS(wa.Architecture.mlp((2, 4, 1), "relu"), 5)


def test_the_reader_of_values_sees_the_function_alone():
    networks = element(SIREN)
    reader = PerceptronReader(SIREN, 5, reads="values").double().eval()
    reader.set_statistics(networks)
    same = wa.Compose((wa.Permute(), wa.SirenNegation(), wa.SirenBias()))
    torch.testing.assert_close(reader(moved(networks, same)), reader(networks))
    assert (reader(moved(networks, wa.Rotate(30.0))) - reader(networks)).abs().max() > 1e-3


@pytest.mark.parametrize(("reads", "references"), [("member", 1), ("frame", 1), ("frames", 8)])
def test_the_reader_in_a_frame_sees_no_symmetry_and_that_of_raw_weights_sees_all(reads, references):
    networks = element(SIREN, 20)
    same = moved(networks, wa.Compose((wa.Permute(), wa.SirenNegation())))
    framed = PerceptronReader(SIREN, 5, reads=reads).double().eval()
    framed.set_statistics(networks)
    assert framed.prepare(networks).batch_shape == (20, references)
    torch.testing.assert_close(framed(framed.prepare(same)), framed(framed.prepare(networks)))
    raw = PerceptronReader(SIREN, 5).double().eval()
    raw.set_statistics(networks)
    assert raw.prepare(networks) is networks
    assert (raw(same) - raw(networks)).abs().max() > 1e-3
    assert not raw.prepares
    assert framed.prepares


@pytest.mark.parametrize("set_layer", ["ds", "sab"])
def test_published_initial_weights_have_the_published_deviations(set_layer):
    torch.manual_seed(0)
    model = DWS(SIREN, 10, hidden=64, layers=2, init="published", set_layer=set_layer, batch_norm=False)
    layer = model.layers[1]
    assert layer.scale == 1 / (2 * 3)
    # From a matrix to itself: four ways of 64 channels in, 64 out.
    expected = math.sqrt(2 * 256 / 64) * math.sqrt(2 / (256 + 64))
    assert deviation(256, 64) == pytest.approx(expected)
    assert float(layer.pair_maps[0].weight.detach().std()) == pytest.approx(expected, rel=0.05)
    if set_layer == "ds":
        weight = layer.neuron_maps[0].weight  # first weights (2), bias, and the matrix that reads the space
        block = weight[: 2 * 64, 2 * 64 : 3 * 64]  # from the bias to the first weights
        assert float(block.detach().std()) == pytest.approx(deviation(64, 128), rel=0.05)
        assert float(weight[3 * 64 :, 3 * 64 :].detach().std()) == pytest.approx(expected, rel=0.05)
        bias = layer.network_map.bias.detach()
        assert 0 < float(bias.abs().max()) <= 7 * 1e-4 + 7 * 1e-2
    assert float(model.head.bias.detach().abs().max()) <= 1e-4


def test_published_initial_weights_keep_the_symmetry():
    networks = element(SIREN)
    for set_layer in ("ds", "sab"):
        torch.manual_seed(0)
        model = DWS(SIREN, 10, hidden=8, init="published", set_layer=set_layer).double().eval()
        torch.testing.assert_close(model(moved(networks, wa.Permute())), model(networks))


def test_the_paper_preset_takes_the_papers_code():
    paper = PRESETS["paper"]
    assert paper.train.amsgrad
    assert (paper.dws.set_layer, paper.dws.init, paper.dws.statistics) == ("sab", "published", False)
    assert not paper.transformer.statistics
