"""Numbers at the ends of their range: weights that are zero, subnormal, tiny or huge, and half precision."""

from __future__ import annotations

import pytest
import torch

import weightaug as wa
from tests.cases import CASES, Case
from tests.test_laws import example_architecture
from weightaug.testing import random_element

# float32's smallest normal number is 1.2e-38 and its largest 3.4e38, whose square root is 1.8e19.
SIZES = {"zero": 0.0, "subnormal": 1e-41, "tiny": 1e-30, "huge": 1e17}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_weights_of_any_size_stay_numbers(case: Case, size: str):
    if size == "huge" and isinstance(case.transform, wa.Refit):
        pytest.skip("the networks' own outputs, to which Refit fits, are infinite")
    element = random_element(example_architecture(case), (4,), dtype=torch.float32).map(lambda t: t * SIZES[size])
    try:
        result, target = case.transform(element, torch.eye(4), generator=generator())
    except ValueError as error:
        assert size == "huge"
        assert "a half period is lost in rounding; use symmetry=" in str(error)  # noqa: PT017
        return
    assert result.flatten().isfinite().all()
    assert target.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
def test_signs_and_permutations_are_exact_at_any_size(size: str):
    element = random_element(wa.Architecture.siren((2, 6, 5, 1)), (4,), dtype=torch.float32)
    element = element.map(lambda t: t * SIZES[size])
    for transform in (wa.Permute(), wa.SirenNegation()):
        group = transform.sample(element, generator=generator())
        moved = transform.apply(element, group)
        assert torch.equal(moved.flatten().abs().sort().values, element.flatten().abs().sort().values)
        assert torch.equal(wa.functional.act(moved, group.inverse()).flatten(), element.flatten())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_exact_for_signs_and_permutations_and_rounds_the_rest_once(dtype: torch.dtype):
    """Exact: the same numbers as in double precision; else those of double precision, each rounded."""
    element = random_element(wa.Architecture.mlp((2, 6, 5, 1), "sine"), (4,), dtype=dtype)
    kinks = random_element(wa.Architecture.mlp((2, 6, 5, 1), "relu"), (4,), dtype=dtype)
    for networks, transform, roundings in [
        (element, wa.Permute(), 0),
        (element, wa.SirenNegation(), 0),
        (element, wa.SirenBias(), 1),
        (kinks, wa.ReLUScale(), 2),  # a weight has a factor for each of its ends
    ]:
        group = transform.sample(networks, generator=generator())
        got = transform.apply(networks, group)
        assert got.dtype == dtype
        expected = transform.apply(networks.to(torch.float64), group).flatten()
        gap = (got.flatten().double() - expected).abs()
        # A bias that a phase moves is rounded at the size of what it becomes.
        assert (gap <= roundings * torch.finfo(dtype).eps * expected.abs()).all(), transform
