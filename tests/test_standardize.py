"""Standardize: against DWSNets' and neural-graphs' own arithmetic, and what commutes with it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightaug as wa
from tests.networks import RESIDUAL, SIREN, assert_same, elements, random_element
from weightaug import Activation, Architecture, Compose, Standardize
from weightaug.adapters import to_dws
from weightaug.testing import assert_close

MIXED = Architecture.mlp((2, 5, 4, 6, 3), [Activation("tanh"), Activation("relu"), Activation("gelu")])


@given(elements(batches=st.sampled_from([(3,), (2, 2)])), st.sampled_from(["tensor", "entry"]))
def test_standardised_moments_and_the_way_back(element: wa.WeightSpaceElement, per: str) -> None:
    standardize = Standardize.fit(element, per=per)  # type: ignore[arg-type]
    result = standardize(element)
    assert_close(standardize.inverse()(result), element)
    assert standardize.inverse().inverse() == standardize
    dims = len(element.batch_shape)
    for tensor in result.tensors():
        flat = tensor.reshape(-1, tensor.shape[dims:].numel())
        if per == "entry":
            torch.testing.assert_close(flat.mean(0), torch.zeros_like(flat[0]), atol=1e-9, rtol=0)
            torch.testing.assert_close(flat.std(0), torch.ones_like(flat[0]))
        else:
            torch.testing.assert_close(flat.square().mean().sqrt(), torch.ones((), dtype=flat.dtype))


@given(st.integers(0, 99))
def test_per_tensor_commutes_with_permutations_signs_and_scales(seed: int) -> None:
    networks = random_element(MIXED, (5,), seed=seed)
    standardize = Standardize.fit(networks)
    for symmetry in (wa.Permute(), wa.SirenNegation(), wa.ReLUScale(5.0)):
        params = symmetry.sample(networks, generator=torch.Generator().manual_seed(seed))
        assert_close(standardize(symmetry.apply(networks, params)), symmetry.apply(standardize(networks), params))
    # Statistics of other networks of the same functions say the same.
    moved = Compose((wa.Permute(), wa.SirenNegation()))(networks)
    torch.testing.assert_close(torch.tensor(Standardize.fit(moved).std), torch.tensor(standardize.std))


def test_per_entry_does_not_commute() -> None:
    networks = random_element(MIXED, (5,))
    standardize = Standardize.fit(networks, "entry")
    params = wa.Permute().sample(networks)
    a, b = standardize(wa.Permute().apply(networks, params)), wa.Permute().apply(standardize(networks), params)
    assert (a.flatten() - b.flatten()).abs().max() > 0.1


def test_the_statistics_file_of_dwsnets(tmp_path: Path) -> None:
    networks = random_element(SIREN, (20,))
    weights, biases = to_dws(networks)
    statistics = {
        kind: {"mean": [t.mean(0) for t in tensors], "std": [t.std(0) for t in tensors]}
        for kind, tensors in (("weights", weights), ("biases", biases))
    }
    torch.save(statistics, tmp_path / "statistics.pth")
    read = Standardize.from_statistics(torch.load(tmp_path / "statistics.pth", weights_only=True))
    assert read.per == "entry"
    got_weights, got_biases = to_dws(read(networks))
    for kind, theirs, got in (("weights", weights, got_weights), ("biases", biases, got_biases)):
        for t, mean, std, ours in zip(theirs, statistics[kind]["mean"], statistics[kind]["std"], got, strict=True):
            torch.testing.assert_close(ours, (t - mean) / std)
    pairs = [[list(statistics[k][m]) for k in ("weights", "biases")] for m in ("mean", "std")]
    assert Standardize.from_statistics(*pairs) == read
    fitted = Standardize.fit(networks, "entry")
    torch.testing.assert_close(torch.tensor(fitted.mean), torch.tensor(read.mean))
    torch.testing.assert_close(torch.tensor(fitted.std), torch.tensor(read.std))


def test_the_configuration_of_neural_graphs() -> None:
    stats = {
        "weights_mean": [-4e-5, -7e-7, 8e-5],
        "weights_std": [0.0628, 0.0183, 0.1179],
        "biases_mean": [5e-6, 4e-6, -0.0124],
        "biases_std": [0.0213, 0.0110, 0.0999],
    }
    read = Standardize.from_statistics(stats)
    assert read == Standardize(
        (-4e-5, 5e-6, -7e-7, 4e-6, 8e-5, -0.0124), (0.0628, 0.0213, 0.0183, 0.0110, 0.1179, 0.0999)
    )
    networks = random_element(SIREN, (2,))
    torch.testing.assert_close(read(networks).weights[2], (networks.weights[2] - 8e-5) / 0.1179)


def test_data_sets_single_networks_and_constant_entries(tmp_path: Path) -> None:
    networks = random_element(RESIDUAL, (4,)).map(torch.clone)
    networks.weights[0][:, 0, 0] = 3.0
    wa.io.save(tmp_path / "set", networks)
    assert Standardize.fit(wa.io.WeightSpaceDataset(tmp_path / "set"), "entry") == Standardize.fit(networks, "entry")
    assert Standardize.fit(networks, "entry").std[0] == 1.0
    assert bool(Standardize.fit(networks, "entry")(networks).flatten()[:, 0].eq(0).all())
    Standardize.fit(networks[0])
    assert_same(Standardize.fromdict(Standardize.fit(networks).asdict())(networks), Standardize.fit(networks)(networks))


@pytest.mark.parametrize(
    "later",
    [
        wa.Permute(),
        wa.SirenBias(),
        wa.Rotate(),
        wa.GaussianNoise(),
        wa.Mixup(),
        wa.RandomApply(wa.Mixup()),
        wa.Dropout(),
    ],
    ids=repr,
)
def test_nothing_acts_on_standardised_numbers(later: wa.Transform) -> None:
    standardize = Standardize((0.0,), (1.0,))
    with pytest.raises(ValueError, match=r"entry 1, .*not come after entry 0, .*no weights, .*put Standardize last"):
        Compose((standardize, later))
    Compose((later, standardize))
    Compose((standardize, wa.LabelSmoothing()))
    Compose((standardize.inverse(), later, standardize))


def test_settings_that_are_refused() -> None:
    for make, message in (
        (lambda: Standardize((0.0,), (0.0,)), "std must be above 0"),
        (lambda: Standardize((0.0, 1.0), (1.0,)), "as many means as std, got 2 and 1"),
        (lambda: Standardize((float("nan"),), (1.0,)), "mean must be finite"),
        (lambda: Standardize((0.0,), (1.0,), "row"), "per must be 'tensor' or 'entry'"),  # type: ignore[arg-type]
        (lambda: Standardize((0.0,), (1.0,))(random_element(SIREN)), "statistics of 6 tensors, got 1"),
        (lambda: Standardize((0.0,), (1.0,), "entry")(random_element(SIREN)), "statistics of 54 parameters, got 1"),
        (lambda: Standardize.fit(random_element(SIREN, (1,)), "entry"), "at least 2 networks, got 1"),
        (lambda: Standardize.fit(random_element(SIREN, (0,))), "at least 1 networks, got 0"),
        (lambda: Standardize.from_statistics({"mean": 0}), "expected the keys 'weights' and 'biases'"),
        (lambda: Standardize.from_statistics(([0.0], []), ([1.0], [])), "as many weights as biases, got 1 and 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    for wrong, message in (
        (lambda: Standardize("1", (1.0,)), "mean must be a tuple of numbers, got str"),  # type: ignore[arg-type]
        (lambda: Standardize(("a",), (1.0,)), "mean: expected a number"),  # type: ignore[arg-type]
        (lambda: Standardize.fit([1, 2]), "expected a WeightSpaceElement or a data set"),
        (lambda: Standardize.from_statistics(3.0), "expected one mapping"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()


@pytest.mark.parametrize("per", ["tensor", "entry"])
def test_validate_warns_of_standardised_networks(per: str) -> None:
    networks = random_element(Architecture.siren((2, 16, 16, 1)), (40,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        networks.validate(expect="weights")
        Standardize.fit(networks, per)(networks).validate()  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"as standardised weights do; augment the weights themselves"):
        Standardize.fit(networks, per)(networks).validate(expect="weights")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expect: 'weights' or None, got 'values'"):
        networks.validate(expect="values")  # type: ignore[arg-type]


@pytest.mark.parametrize("std", [0.7, 1.4])
def test_weights_of_another_deviation_are_not_taken_for_standardised(std: float) -> None:
    networks = random_element(Architecture.siren((2, 16, 16, 1)), (40,))
    scaled = Standardize.fit(networks, "tensor")(networks).map(lambda t: t * std)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled.validate(expect="weights")
