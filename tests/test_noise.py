"""Noise and dropout: the strengths that the paper states, per tensor of each network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightaug import (
    Architecture,
    Dropout,
    GaussianNoise,
    LabelSmoothing,
    QuantileDropout,
    WeightSpaceElement,
    _loops,
    _order_statistics,
)
from weightaug._order_statistics import neighbours_in_order, operator
from weightaug.functional import quantile_dropout
from weightaug.testing import elements, random_element
from weightaug.transforms import draws

ARCH = Architecture.siren((2, 32, 32, 1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_is_random_and_relative_to_each_tensor_of_each_network():
    # One network is a thousand times the other: pooled statistics would drown the small one.
    element = random_element(ARCH, (2,)).map(lambda t: t * torch.tensor([1e-2, 10.0]).view(2, *[1] * (t.dim() - 1)))
    moved = GaussianNoise(scale=0.32)(element, generator=generator())
    for (name, old), new in zip(element.named_tensors(), moved.tensors(), strict=True):
        for i in range(2):
            added = new[i] - old[i]
            if old[i].numel() == 1:
                assert torch.equal(added, torch.zeros_like(added)), f"{name}: one entry has no deviation"
                continue
            ratio = float(added.std() / old[i].std(correction=0))
            spread = 0.32 * 4 / (2 * old[i].numel()) ** 0.5
            assert abs(ratio - 0.32) < spread, f"{name}[{i}]: {ratio}"
            assert added.unique().numel() == added.numel(), f"{name}: the noise is a constant"


def test_dropout_zeroes_the_stated_share_and_rescales_on_request_only():
    element = random_element(ARCH, (200,))
    for p in (0.1, 0.5):
        plain = Dropout(p)(element, generator=generator())
        zero = plain.flatten() == 0
        assert abs(float(zero.double().mean()) - p) < 4 * (p * (1 - p) / zero.numel()) ** 0.5
        assert torch.equal(plain.flatten()[~zero], element.flatten()[~zero])
        scaled = Dropout(p, rescale=True)(element, generator=generator())
        assert torch.allclose(scaled.flatten(), plain.flatten() / (1 - p), rtol=1e-12)


@given(elements(batch_shapes=[(), (3,)]), st.floats(0, 1))
def test_quantile_dropout_agrees_with_torch_quantile(element, q):
    quantiles = torch.full(element.batch_shape, q, dtype=torch.float64)
    flat = element.flatten().abs()
    threshold = torch.quantile(flat, q, dim=-1, keepdim=True)
    pooled = quantile_dropout(element, quantiles).flatten().abs()
    # The two may round the interpolated threshold differently: leave a hair around it undecided.
    assert (pooled[flat < threshold * (1 - 1e-9)] == 0).all()
    assert torch.equal(pooled[flat > threshold * (1 + 1e-9)], flat[flat > threshold * (1 + 1e-9)])
    apart = quantile_dropout(element, quantiles, pooled=False)
    for old, new in zip(element.tensors(), apart.tensors(), strict=True):
        rows = old.reshape(*element.batch_shape, -1).abs()
        limit = torch.quantile(rows, q, dim=-1, keepdim=True)
        after = new.reshape(rows.shape).abs()
        assert (after[rows < limit * (1 - 1e-9)] == 0).all()
        assert torch.equal(after[rows > limit * (1 + 1e-9)], rows[rows > limit * (1 + 1e-9)])


def test_quantiles_are_per_network():
    # torch.quantile over the whole batch would erase the small network and leave the large one.
    element = random_element(ARCH, (2,)).map(lambda t: t * torch.tensor([1e-3, 1.0]).view(2, *[1] * (t.dim() - 1)))
    out = QuantileDropout(q=0.3, random=False)(element).flatten()
    shares = (out == 0).double().mean(-1)
    assert torch.allclose(shares, torch.full((2,), 0.3, dtype=torch.float64), atol=2e-3)


def test_random_quantiles_fill_their_range():
    element = random_element(ARCH, (500,))
    q = QuantileDropout(q=0.1).sample(element, generator=generator())
    assert q.shape == (500,)
    assert 0 <= float(q.min()) < 0.005
    assert 0.095 < float(q.max()) <= 0.1


@given(
    st.integers(0, 999),
    st.integers(1, 40),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    st.booleans(),
)
def test_neighbours_in_order_are_those_of_the_sorted_row(seed, n, different, dtype, numba):
    # Few different values mean many ties. Zeros, the largest numbers and infinity are values like others.
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(different, (6, n), generator=generator).to(dtype) / 7
    values[0, 0], values[1, -1] = torch.finfo(values.dtype).max, torch.inf
    position = torch.randint(n, (6,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        if not numba:
            patch.setattr(_loops, "load", lambda name: None)
        at, after = neighbours_in_order(values, position, int(position.max()))
    ordered = values.sort(-1).values
    rows = torch.arange(6)
    assert torch.equal(at, ordered[rows, position])
    assert torch.equal(after, ordered[rows, (position + 1).clamp(max=n - 1)])


@pytest.mark.parametrize("numba", [True, False])
def test_batches_shared_out_among_threads_give_the_same_selection(monkeypatch, numba):
    if not numba:
        monkeypatch.setattr(_loops, "load", lambda name: None)
    values = torch.rand(7, 50, generator=torch.Generator().manual_seed(0))
    position = torch.arange(7)
    alone = neighbours_in_order(values, position, 6)
    monkeypatch.setattr(_order_statistics, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for ours, expected in zip(neighbours_in_order(values, position, 6), alone, strict=True):
        assert torch.equal(ours, expected)


def test_the_operator_of_order_statistics_keeps_the_rules_of_torch():
    values, position = torch.rand(4, 9), torch.tensor([0, 3, 8, 5])
    torch.library.opcheck(operator, (values, position, 8))
    expected = neighbours_in_order(values, position, 8)
    one = torch.func.vmap(lambda v, p: neighbours_in_order(v, p, 8))(values, position)
    transposed = torch.func.vmap(lambda v, p: neighbours_in_order(v, p, 8), in_dims=(1, 0))(values.mT, position)
    same = torch.func.vmap(lambda p: neighbours_in_order(values[0], p, 8))(position)
    for i in (0, 1):
        assert torch.equal(one[i], expected[i])
        assert torch.equal(transposed[i], expected[i])
    assert torch.equal(same[0], values[0].sort().values[position])
    empty = neighbours_in_order(values[:0], position[:0], 8)
    assert [t.shape for t in empty] == [(0,), (0,)]


@pytest.mark.parametrize("count", [1, 2, 7, 4096])
def test_words_are_uniform_and_odd_counts_are_fine(count):
    element = random_element(ARCH, (count,))
    for dtype, bits in ((torch.int32, 32), (torch.int64, 64)):
        drawn = draws.words(element, (count, 3), generator(), dtype=dtype)
        assert drawn.shape == (count, 3)
        assert drawn.dtype == dtype
        if count == 4096:  # every bit is set half the time, and no two neighbours are alike
            shares = torch.stack([(drawn >> bit & 1).double().mean() for bit in range(bits)])
            assert float((shares - 0.5).abs().max()) < 0.02
            assert drawn.unique().numel() > 0.999 * drawn.numel()


def test_no_limit_on_size():
    # torch.quantile refuses more than 16 million numbers.
    arch = Architecture.mlp((1, 4100, 4100, 1), "relu")
    element = WeightSpaceElement.unflatten(arch, torch.arange(1.0, arch.num_parameters + 1))
    out = QuantileDropout(q=0.5, random=False)(element)
    assert abs(float((out.flatten() == 0).float().mean()) - 0.5) < 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianNoise(scale=-0.1),
        lambda: Dropout(p=1.0),
        lambda: Dropout(p=-0.1),
        lambda: QuantileDropout(q=1.1),
        lambda: LabelSmoothing(alpha=2.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_label_smoothing():
    y = torch.eye(4)[torch.tensor([0, 2])]
    element = random_element(ARCH, (2,))
    same, smooth = LabelSmoothing(0.2)(element, y)
    assert same is element
    assert torch.allclose(smooth, y * 0.8 + 0.05)
    assert torch.allclose(smooth.sum(-1), torch.ones(2))
    with pytest.raises(TypeError, match=r"one_hot\(y, num_classes\)"):
        LabelSmoothing()(element, torch.tensor([0, 2]))


def test_the_shorter_way_around_the_operator_gives_the_same():
    values, position = torch.rand(4, 9), torch.tensor([0, 3, 7, 5])
    for ours, expected in zip(neighbours_in_order(values, position, 7), operator(values, position, 7), strict=True):
        assert torch.equal(ours, expected)
