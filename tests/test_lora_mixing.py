"""Mixtures of low-rank adapters: of the factors, in a common gauge, and of the products, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.test_lora import GAUGES, pairs
from weightaug import AlignedMixup, LoRAGauge, Mixup, PermutedMixup, Pool, WeightSpaceElement, stack
from weightaug.matching import lora_products, mix_lora
from weightaug.testing import check_transform

PRODUCT = {"low_rank": "product"}
generator = torch.Generator().manual_seed


def weighted(lam: Tensor, a: Tensor, b: Tensor) -> Tensor:
    lam = lam.view(-1, 1, 1)
    return lam * a + (1 - lam) * b


def nearest(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of a rank, from the dense matrix."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[..., :rank] * s[..., None, :rank] @ vh[..., :rank, :]


def test_a_mixture_of_products_is_the_nearest_of_the_rank():
    x, y = pairs(seed=1), pairs(seed=2)
    lam = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    mixed = mix_lora(x, y, lam)
    ranks = [spec.shape[0] for spec in x.architecture.tensors[::2]]
    for got, p, q, rank in zip(lora_products(mixed), lora_products(x), lora_products(y), ranks, strict=True):
        torch.testing.assert_close(got, nearest(weighted(lam, p, q), rank), rtol=1e-9, atol=1e-11)
    for a, b in zip(lora_products(mixed), lora_products(x), strict=True):
        torch.testing.assert_close(a[2], b[2], rtol=1e-9, atol=1e-11)  # lam = 1: nothing of the other


def test_a_mixture_inside_the_rank_is_exact():
    x = pairs(seed=1)
    half = x.with_tensors([t if i % 2 == 0 else 3 * t for i, t in enumerate(x.tensors())])  # the same A
    lam = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    for got, p in zip(lora_products(mix_lora(x, half, lam)), lora_products(x), strict=True):
        torch.testing.assert_close(got, weighted(lam, p, 3 * p), rtol=1e-9, atol=1e-11)


def test_ranks_and_bases_of_the_other_adapter():
    x, wide = pairs(seed=1), pairs(seed=2)
    narrow = {"q": (6, 5, 1), "v": (6, 5, 2), "wide": (3, 9, 1)}
    arch = type(x.architecture).lora(narrow)
    y = WeightSpaceElement(arch, tuple(torch.randn(3, *s.shape, dtype=torch.float64) for s in arch.tensors), ())
    assert mix_lora(x, y, torch.tensor(0.5)).architecture == x.architecture
    assert mix_lora(y, wide, torch.tensor(0.5)).architecture == arch
    with pytest.raises(ValueError, match="same weights"):
        mix_lora(x, pairs((2,)), torch.tensor(0.5))


@pytest.mark.parametrize("kind", [Mixup, PermutedMixup, AlignedMixup])
@pytest.mark.parametrize("gauge", GAUGES, ids=repr)
def test_no_gauge_changes_a_mixture_of_products(kind: type[Mixup], gauge: LoRAGauge):
    x = pairs((4,))
    moved = gauge(x, generator=generator(3))
    mixed, other = (kind(**PRODUCT)(e, generator=generator(5)) for e in (x, moved))
    for a, b, c in zip(lora_products(mixed), lora_products(other), lora_products(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
        assert not torch.allclose(a, c)
    # A mixture of factors does depend on it.
    plain, turned = (Mixup()(e, generator=generator(5)) for e in (x, moved))
    assert all(not torch.allclose(a, b) for a, b in zip(lora_products(plain), lora_products(turned), strict=True))


def test_alignment_finds_an_orthogonal_gauge_before_it_mixes_factors():
    one = pairs(())
    moved = LoRAGauge()(one, generator=generator(0))
    both = stack([one, moved])
    aligned = AlignedMixup()(both, generator=generator(1))
    apart = Mixup()(both, generator=generator(1))
    for good, bad, expected in zip(lora_products(aligned), lora_products(apart), lora_products(one), strict=True):
        torch.testing.assert_close(good, torch.stack([expected, expected]), rtol=1e-8, atol=1e-9)
        assert not torch.allclose(bad[0], expected)


def test_targets_pools_and_one_network():
    x, others = pairs((3,)), pairs((5,), seed=9)
    y = torch.eye(3)
    _, target = Mixup(**PRODUCT)(x, y, generator=generator(0))
    lam = Mixup(**PRODUCT).sample(x, generator=generator(0)).lam
    torch.testing.assert_close(target.diagonal(), lam.float())
    pool = Mixup(pool=Pool(others), targets="keep", **PRODUCT)
    assert pool(x, generator=generator(0)).batch_shape == (3,)
    params = pool.sample(x[0], generator=generator(0))
    single = pool.apply(x[0], params)
    expected = mix_lora(x[0], others[int(params.partner)], params.lam)
    for a, b in zip(single.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(a, b)
    alone = Mixup(**PRODUCT)(x[:1], generator=generator(0))
    assert all(torch.equal(a, b) for a, b in zip(alone.tensors(), x[:1].tensors(), strict=True))


def test_the_laws_of_transforms_and_bad_settings():
    check_transform(Mixup(**PRODUCT), pairs((4,)), graph=False)
    assert eval(repr(Mixup(**PRODUCT))) == Mixup(**PRODUCT)
    with pytest.raises(ValueError, match="low_rank must be"):
        Mixup(low_rank="products")
    from weightaug import Architecture

    arch = Architecture.siren((2, 3, 1))
    mlp = WeightSpaceElement(arch, (torch.ones(2, 3, 2), torch.ones(2, 1, 3)), (None, None))
    with pytest.raises(ValueError, match="low-rank pairs"):
        Mixup(**PRODUCT)(mlp)
