"""check_model: models that are right, and three faults that public code has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import weightaug as wa
from tests.networks import random_element
from weightaug import Activation, Architecture, Standardize, WeightSpaceElement
from weightaug.adapters import to_dws, to_graph
from weightaug.matching import canonicalize
from weightaug.testing import check_model

TANH = Architecture.mlp((2, 6, 5, 1), "tanh")
NETWORKS = random_element(TANH, (8,))


def weights_and_biases(given: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]) -> Tensor:
    """Features that no permutation changes: sums over neurons of each layer, as DWS and others pool."""
    weights, biases = given
    parts = []
    for weight, bias in zip(weights, biases, strict=True):
        w, b = weight.squeeze(-1), bias.squeeze(-1)
        parts += [w.sum((-1, -2)), w.sin().sum((-1, -2)), b.sum(-1), b.square().sum(-1)]
        parts.append(((w.square().sum(-2) + b.square()).sqrt()).sum(-1))
    return torch.stack(parts, -1)


def even_features(element: WeightSpaceElement, *, skip: int | None = None) -> Tensor:
    """Features that no sign of a neuron changes, but for one tensor."""
    kept = [t if i == skip else t.abs() for i, t in enumerate(element.tensors()[:-1])]
    return torch.stack([t.flatten(1).sum(-1) for t in [*kept, element.tensors()[-1]]], -1)


def spaces(certificate: object, verdict: str) -> set[str]:
    return {m.space for m in certificate.movements if m.verdict == verdict}  # type: ignore[attr-defined]


def test_an_invariant_model_of_weights_and_biases() -> None:
    found = check_model(weights_and_biases, NETWORKS, adapter=to_dws, transforms=[wa.Permute()])
    assert found.verdict == "invariant"
    assert {m.space for m in found.movements} == {"all", "hidden1", "hidden2"}
    assert all(m.model < 1e-12 and m.function < 1e-12 for m in found.movements)
    assert check_model(weights_and_biases, NETWORKS, adapter=to_dws).verdict == "not invariant"  # signs


def test_models_of_elements_and_of_graphs() -> None:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
    outputs = check_model(lambda e: e(x).flatten(1), NETWORKS)
    assert outputs.verdict == "invariant"
    assert {m.symmetry for m in outputs.movements} == {"Permute()", "SirenNegation(p=0.05)", "SirenNegation(p=0.5)"}

    def graph(given: tuple[Tensor, Tensor]) -> Tensor:
        nodes, edges = given
        return torch.stack([nodes.square().sum((1, 2)), edges.abs().sum((1, 2, 3))], -1)

    assert check_model(graph, NETWORKS, adapter=to_graph).verdict == "invariant"


@pytest.mark.parametrize("name", ["relu", "sine", "gelu", "abs"])
def test_reading_outputs_is_invariant_under_every_symmetry(name: str) -> None:
    networks = random_element(Architecture.mlp((2, 6, 5, 1), Activation(name, 2.0)), (4,))
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
    found = check_model(lambda e: e(x).flatten(1), networks)
    assert found.verdict == "invariant", found
    kinds = {m.symmetry.partition("(")[0] for m in found.movements}
    expected = {"permutation": "Permute", "sign": "SirenNegation", "phase": "SirenBias", "scale": "ReLUScale"}
    assert kinds == {expected[s] for s in Activation(name).symmetries}


# -- faults ------------------------------------------------------------------------------------------


def test_entry_wise_statistics_before_an_invariant_model() -> None:
    def run(standardize: Standardize) -> object:
        return check_model(
            weights_and_biases, NETWORKS, adapter=lambda e: to_dws(standardize(e)), transforms=[wa.Permute()]
        )

    assert run(Standardize.fit(NETWORKS, "tensor")).verdict == "invariant"  # type: ignore[attr-defined]
    found = run(Standardize.fit(NETWORKS, "entry"))
    assert found.verdict == "not invariant"  # type: ignore[attr-defined]
    assert spaces(found, "not invariant") == {"all", "hidden1", "hidden2"}


def test_a_canonical_form_that_moves_nothing() -> None:
    reader = nn.Sequential(nn.Linear(TANH.num_parameters, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()

    def certify(canonical: Callable[[WeightSpaceElement], WeightSpaceElement]) -> str:
        return check_model(lambda e: reader(canonical(e).flatten()), NETWORKS).verdict

    assert certify(lambda e: wa.act(e, canonicalize(e))) == "invariant"
    assert certify(lambda e: e) == "not invariant"


def test_signs_handled_in_one_layer_only() -> None:
    assert check_model(even_features, NETWORKS).verdict == "invariant"
    found = check_model(lambda e: even_features(e, skip=3), NETWORKS)  # the biases of the second hidden layer
    assert found.verdict == "not invariant"
    signs = [m for m in found.movements if m.symmetry == "SirenNegation(p=0.5)"]
    assert {m.space: m.verdict for m in signs} == {
        "all": "not invariant",
        "hidden1": "invariant",
        "hidden2": "not invariant",
    }
    assert found.worst["hidden2"].verdict == "not invariant"
    assert found.worst["hidden1"].verdict == "invariant"
    assert "worst in 'hidden2' under SirenNegation(p=" in repr(found)
    assert "not invariant (tolerance 1.5e-08" in repr(found)


# -- what cannot be said -----------------------------------------------------------------------------


def test_an_action_that_does_not_keep_the_function_in_this_dtype_says_nothing() -> None:
    siren = random_element(Architecture.siren((2, 16, 16, 16, 1)), (4,)).map(lambda t: 3 * t).to(torch.bfloat16)
    found = check_model(lambda e: e.flatten().float(), siren, transforms=[wa.SirenBias()], magnitudes=(1.0,))
    assert all(m.function > found.tolerance for m in found.movements if m.space == "all")
    assert {m.verdict for m in found.movements if m.space == "all"} == {"inconclusive"}


def test_a_constant_model_is_no_invariant_one() -> None:
    found = check_model(lambda e: torch.ones(len(e), 3, dtype=torch.float64), NETWORKS)
    assert found.constant
    assert found.verdict == "inconclusive"
    assert "the same for all networks" in repr(found)


def test_the_certificate_draws_nothing_and_writes_nothing() -> None:
    before, state = NETWORKS.clone(), torch.get_rng_state()

    def overwriting(element: WeightSpaceElement) -> Tensor:
        return element.weights[0].mul_(2).flatten(1).square().sum(-1, keepdim=True)

    first = check_model(overwriting, NETWORKS)
    assert first == check_model(overwriting, NETWORKS)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(NETWORKS.flatten(), before.flatten())


def test_what_is_refused() -> None:
    for call, message in (
        (lambda: check_model(nn.Linear(49, 1), NETWORKS), r"training mode, .*model.eval\(\)"),
        (lambda: check_model(even_features, NETWORKS[0]), r"batch shape \(n,\), n >= 1, got \(\)"),
        (lambda: check_model(even_features, NETWORKS, magnitudes=(0.0, 2.0)), r"at most 1, got \[0.0, 2.0\]"),
        (lambda: check_model(even_features, NETWORKS, transforms=[wa.Rotate()]), "preserve the function, got Rotate"),
        (lambda: check_model(lambda e: even_features(e)[:3], NETWORKS), r"each of 8 networks, got shape \(3, 6\)"),
        (lambda: check_model(lambda e: even_features(e) / 0, NETWORKS), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="as a floating tensor, got tuple"):
        check_model(to_dws, NETWORKS)
