"""The DWS classifier: equivariant layers, an invariant score, and a model that is not trivially so."""

from __future__ import annotations

import pytest
import torch

from benchmarks.models.dws import DWS, EquivariantLayer, Multiplicity, _Maximum, features_of
from weightaug import Architecture, Permute, WeightSpaceElement, act

ARCHITECTURES = {
    "the paper's 2-D INR": Architecture.siren((2, 32, 32, 1)),
    "one hidden space": Architecture.siren((2, 8, 3)),
    "deeper, and two outputs": Architecture.siren((3, 8, 5, 7, 2)),
}


def networks(architecture: Architecture, count: int, dtype: torch.dtype, seed: int = 0) -> WeightSpaceElement:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(count, architecture.num_parameters, generator=generator, dtype=dtype)
    return WeightSpaceElement.unflatten(architecture, vector)


def model(architecture: Architecture, dtype: torch.dtype, **settings) -> DWS:
    torch.manual_seed(0)
    result = DWS(architecture, 10, hidden=8, layers=3, **settings).to(dtype)
    with torch.no_grad():
        result(networks(architecture, 64, dtype, seed=1))  # running statistics of the batch norm that are not 0 and 1
    result.set_statistics(networks(architecture, 64, dtype, seed=1))
    return result.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_do_not_see_the_order_of_hidden_neurons(architecture, reduction, dtype):
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
    element, classifier = networks(architecture, 6, dtype), model(architecture, dtype, reduction=reduction)
    group = Permute().sample(element, generator=torch.Generator().manual_seed(3))
    scores, permuted = classifier(element), classifier(act(element, group))
    assert (scores - permuted).abs().max() <= tolerance * scores.abs().max()
    # The test would be empty if all networks had one score.
    assert (scores[0] - scores[1]).abs().max() > 1e-3 * scores.abs().max()


def test_scores_do_see_the_order_of_input_neurons():
    # Inputs have a meaning (x and y), so swapping them must not be invisible.
    architecture = ARCHITECTURES["the paper's 2-D INR"]
    element, classifier = networks(architecture, 2, torch.float64), model(architecture, torch.float64)
    swapped = WeightSpaceElement(architecture, (element.weights[0].flip(-1), *element.weights[1:]), element.biases)
    assert (classifier(element) - classifier(swapped)).abs().max() > 1e-3


def test_scores_see_every_tensor():
    architecture = ARCHITECTURES["deeper, and two outputs"]
    classifier, element = model(architecture, torch.float64), networks(architecture, 2, torch.float64)
    before = classifier(element)
    for i, tensor in enumerate(element.tensors()):
        changed = [t * 1.5 if t is tensor else t for t in element.tensors()]
        other = WeightSpaceElement(architecture, tuple(changed[0::2]), tuple(changed[1::2]))
        assert (classifier(other) - before).abs().max() > 1e-6, f"tensor {i} has no influence"


@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_a_layer_commutes_with_permutations(reduction):
    architecture = ARCHITECTURES["deeper, and two outputs"]
    torch.manual_seed(0)
    layer = EquivariantLayer(Multiplicity.of(architecture), 1, 4, reduction, batch_norm=False).double()
    element = networks(architecture, 3, torch.float64)
    group = Permute().sample(element, generator=torch.Generator().manual_seed(3))
    plain, moved = layer(features_of(element)), layer(features_of(act(element, group)))
    order = [p[:, :, None] for p in group.permutation if p is not None]
    for space, (a, b) in enumerate(zip(plain.neurons, moved.neurons, strict=True)):
        torch.testing.assert_close(a.gather(1, order[space].expand(a.shape)), b)
    for i, (a, b) in enumerate(zip(plain.pairs, moved.pairs, strict=True)):
        rows = a.gather(1, order[i + 1][..., None].expand(a.shape))
        torch.testing.assert_close(rows.gather(2, order[i][:, None].expand(a.shape)), b)
    torch.testing.assert_close(plain.network, moved.network)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_fast_maximum_has_the_gradient_of_amax(dim):
    values = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(values.amax(dim).shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad((values.amax(dim) * weights).sum(), values)
    (got,) = torch.autograd.grad((_Maximum.apply(values, dim) * weights).sum(), values)
    torch.testing.assert_close(got, expected)


def test_normalisation_uses_one_number_per_tensor_of_the_training_set():
    architecture = ARCHITECTURES["the paper's 2-D INR"]
    element = networks(architecture, 50, torch.float32).map(lambda t: 3 * t + 1)
    classifier = model(architecture, torch.float32)
    classifier.set_statistics(element)
    assert classifier.mean.shape == classifier.deviation.shape == (6,)
    for tensor in classifier._normalise(element).tensors():
        assert abs(float(tensor.mean())) < 1e-4
        assert abs(float(tensor.std()) - 1) < 1e-3


def test_networks_that_it_cannot_read_are_refused():
    with pytest.raises(ValueError, match="biases"):
        DWS(Architecture.mlp((2, 4, 1), "relu", bias=False), 10)
