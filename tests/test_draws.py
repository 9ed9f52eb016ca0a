"""The distributions of everything that is drawn, sharp enough that a wrong constant or a shared draw is seen.

All seeds are fixed, so the tests are deterministic; the bounds are five standard deviations or the chi-square's
1e-6 quantile, which a right sampler meets for nearly every seed.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import weightaug as wa
from weightaug.testing import random_element
from weightaug.transforms import draws

ARCH = wa.Architecture.siren((2, 4, 3, 1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int, architecture: wa.Architecture = ARCH, dtype: torch.dtype = torch.float32):
    one = random_element(architecture, (), dtype=dtype)
    return one.map(lambda t: t.expand(count, *t.shape))


def uniform_over(counts: np.ndarray) -> bool:
    return stats.chisquare(counts).pvalue > 1e-6


def near(values: torch.Tensor | np.ndarray, mean: float, deviation: float) -> bool:
    """Whether the mean of independent values is within five standard errors of the expected one."""
    values = np.asarray(values, dtype=np.float64)
    return abs(values.mean() - mean) < 5 * deviation / math.sqrt(values.size)


def independent(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two small integer variables are independent (chi-square of their contingency table)."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    return stats.chi2_contingency(table).pvalue > 1e-6


def rank(permutations: torch.Tensor) -> np.ndarray:
    """The number of each permutation among all of its size."""
    size = permutations.shape[-1]
    number = {p: i for i, p in enumerate(itertools.permutations(range(size)))}
    return np.array([number[tuple(p)] for p in permutations.reshape(-1, size).tolist()])


@pytest.mark.parametrize("size", [2, 3, 4])
def test_permutations_are_uniform_over_all_factorial_many(size: int):
    architecture = wa.Architecture.siren((2, size, size, 1))
    drawn = wa.Permute().sample(batch(20_000, architecture), generator=generator()).permutation
    ranks = [rank(p) for p in drawn]
    for r in ranks:
        assert uniform_over(np.bincount(r, minlength=math.factorial(size)))
    assert independent(*ranks), "the permutations of two spaces depend on each other"
    assert independent(ranks[0][:-1], ranks[0][1:]), "the permutations of two networks depend on each other"


def test_permutations_of_spaces_of_different_sizes_are_independent():
    first, second = wa.Permute().sample(batch(20_000), generator=generator()).permutation
    assert independent(rank(first), rank(second))


@pytest.mark.parametrize("size", [64, 100])
def test_wide_permutations_prefer_no_order(size: int):
    """Keys of few random bits tie, and ties fall back to the order of the neurons: fewer inversions."""
    orders = draws.orders(batch(1), (12_000, size), generator()).numpy()
    inversions = np.zeros(len(orders))
    for i in range(size - 1):
        inversions += (orders[:, i : i + 1] > orders[:, i + 1 :]).sum(-1)
    deviation = math.sqrt(size * (size - 1) * (2 * size + 5) / 72)
    assert near(inversions, size * (size - 1) / 4, deviation)
    at_first = np.bincount(orders[:, 0], minlength=size)
    assert uniform_over(at_first)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_bernoulli_and_signs_have_their_probability(p: float):
    count = 1_000_000
    deviation = math.sqrt(p * (1 - p))
    assert near(draws.bernoulli(batch(1), (count,), p, generator()), p, deviation)
    flipped = draws.signs(batch(1), (count,), p, generator(1))
    assert set(flipped.unique().tolist()) == {-1.0, 1.0}
    assert near(flipped == -1, p, deviation)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_draws_are_certain(p: float):
    assert (draws.bernoulli(batch(1), (100_000,), p, generator()) == p).all()


def test_signs_of_neurons_spaces_networks_and_calls_are_independent():
    source = generator()
    first = wa.SirenNegation().sample(batch(20_000), generator=source).scale
    second = wa.SirenNegation().sample(batch(20_000), generator=source).scale
    a, b, again = ((t < 0).long().numpy() for t in (first[0], first[1], second[0]))
    assert independent(a[:, 0], a[:, 1])
    assert independent(a[:, 0], b[:, 0])
    assert independent(a[:, 0], again[:, 0])
    assert independent(a[:-1, 0], a[1:, 0])


@pytest.mark.parametrize("k_max", [1, 4])
def test_phases_are_uniform(k_max: int):
    shift = wa.SirenBias(k_max=k_max).sample(batch(20_000), generator=generator()).shift
    for s in shift:
        assert s.min() == -k_max
        assert s.max() == k_max
        assert uniform_over(np.bincount((s + k_max).flatten().numpy(), minlength=2 * k_max + 1))


def test_scales_are_log_uniform():
    networks = batch(20_000, wa.Architecture.mlp((2, 4, 1), "relu"), torch.float64)
    (scale,) = wa.ReLUScale(max_scale=3.0).sample(networks, generator=generator()).scale
    position = (scale.log() / math.log(3.0) + 1) / 2
    assert stats.kstest(position.flatten().numpy(), "uniform").pvalue > 1e-6


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_mixing_weights_follow_beta(alpha: float):
    lam = draws.beta(batch(20_000, dtype=torch.float64), alpha, generator())
    assert stats.kstest(lam.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-6


@pytest.mark.parametrize("d", [2, 3, 4])
def test_uniform_rotations_are_haar(d: int):
    """Columns are uniform on the sphere, products with a fixed rotation have the same law, determinants are 1."""
    networks = batch(20_000, wa.Architecture.siren((d, 3, 1)), torch.float64)
    matrix = wa.Rotate(degrees=None).sample(networks, generator=generator()).matrix
    assert torch.allclose(torch.linalg.det(matrix), torch.ones(20_000, dtype=torch.float64))
    entries = matrix.flatten(1).numpy()
    for entry in entries.T:
        assert near(entry, 0.0, math.sqrt(1 / d))
        assert near(entry**2, 1 / d, math.sqrt(2 * (d - 1) / (d * d * (d + 2))))
        # An entry of a uniform direction: its square is Beta(1/2, (d - 1) / 2).
        assert stats.kstest(entry**2, stats.beta(0.5, (d - 1) / 2).cdf).pvalue > 1e-6
    trace_squared = torch.diagonal(matrix, dim1=1, dim2=2).sum(-1).square()
    assert near(trace_squared, 2.0 if d == 2 else 1.0, 3.0)  # 1 for irreducible d >= 3; SO(2) has two parts
    assert independent(*(np.digitize(entries[:, i], [0.0]) for i in (0, d)))


def test_noise_has_the_deviation_of_each_tensor_without_its_mean():
    architecture = wa.Architecture.siren((2, 8, 8, 1))
    element = random_element(architecture, (400,)).map(lambda t: t + 100.0)  # a mean far above the deviation
    noise = wa.GaussianNoise(0.5)(element, generator=generator()).map(lambda t: t)
    for old, new in zip(element.tensors(), noise.tensors(), strict=True):
        entries = old[0].numel()
        if entries == 1:
            assert torch.equal(old, new), "a tensor of one entry has no deviation"
            continue
        relative = (new - old).flatten(1) / (0.5 * old.flatten(1).std(-1, keepdim=True))
        assert near(relative, 0.0, 1.0)
        assert near(relative.square(), 1.0, math.sqrt(2.0))


@pytest.mark.parametrize("q", [0.0, 0.05, 0.25, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_quantile_dropout_removes_exactly_what_is_below_the_quantile(q: float, dtype: torch.dtype):
    element = random_element(wa.Architecture.siren((2, 8, 8, 1)), (7,), dtype=dtype)
    kept = wa.QuantileDropout(q, random=False)(element).flatten() != 0
    values = element.flatten().abs()
    # The quantile lies between two order statistics: the one at or below its position, and the next.
    position = np.float64(q) * (values.shape[1] - 1)
    removed = math.ceil(position)
    assert (kept.sum(-1) == values.shape[1] - removed).all()
    assert torch.equal(kept, values.argsort(-1).argsort(-1) >= removed)


def test_the_quantile_is_uniform_up_to_its_bound():
    q = wa.QuantileDropout(0.4).sample(batch(20_000, dtype=torch.float64), generator=generator())
    assert stats.kstest((q / 0.4).numpy(), "uniform").pvalue > 1e-6


def test_translations_differ_between_networks_and_inputs():
    shift = wa.Translate(0.25).sample(batch(20_000, dtype=torch.float64), generator=generator()).shift
    for column in (shift[:, 0], shift[:, 1]):
        assert stats.kstest((column * 2 + 0.5).numpy(), "uniform").pvalue > 1e-6
    assert abs(np.corrcoef(shift.T.numpy())[0, 1]) < 5 / math.sqrt(len(shift))


def parts_of(affine: wa.Affine, d: int, count: int = 4000):
    """What an affine map x -> R H S x + t is made of: R by QR, and the triangle H S."""
    networks = batch(count, wa.Architecture.siren((d, 3, 1)), torch.float64)
    drawn = affine.sample(networks, generator=generator())
    q, r = torch.linalg.qr(drawn.matrix)
    signs = torch.diagonal(r, dim1=-2, dim2=-1).sign()
    return q * signs.unsqueeze(-2), r * signs.unsqueeze(-1), drawn.shift


@pytest.mark.parametrize("d", [2, 3])
def test_affine_maps_scale_first_then_shear_then_rotate(d: int):
    rotation, triangle, shift = parts_of(wa.Affine(degrees=25.0, translate=0.3, scale=0.2, shear=0.4), d)
    cosine = (torch.diagonal(rotation, dim1=-2, dim2=-1).sum(-1) - (d - 2)) / 2
    angle = torch.rad2deg(cosine.clamp(-1, 1).arccos())
    assert stats.kstest((angle / 25.0).numpy(), "uniform").pvalue > 1e-6, "the angles are not uniform up to 25 degrees"
    factors = torch.diagonal(triangle, dim1=-2, dim2=-1)
    assert stats.kstest(((factors - 0.8) / 0.4).flatten().numpy(), "uniform").pvalue > 1e-6
    # Columns are scaled before they are sheared: H = (H S) S^-1 has ones on its diagonal and uniform entries above.
    shear = (triangle / factors.unsqueeze(-2))[:, 0, 1]
    assert stats.kstest((shear / 0.8 + 0.5).numpy(), "uniform").pvalue > 1e-6
    assert stats.kstest((shift / 0.6 + 0.5).flatten().numpy(), "uniform").pvalue > 1e-6
    assert abs(np.corrcoef(shift.T.numpy())[0, 1]) < 5 / math.sqrt(len(shift))


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (1.0, -2.0, 0.5)])
def test_rotations_turn_by_the_right_hand_rule(axis: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch):
    """The map x -> R x turns points counter-clockwise, seen from the tip of the axis, by the drawn angle."""
    networks = batch(3, wa.Architecture.siren((3, 4, 1)), torch.float64)
    angles = torch.tensor([0.1, 0.5, -0.3], dtype=torch.float64)
    monkeypatch.setattr(draws, "uniform", lambda element, shape, *rest: angles)
    matrix = wa.Rotate(degrees=60.0, axis=axis).sample(networks).matrix
    for m, angle in zip(matrix.numpy(), angles.tolist(), strict=True):
        n = np.array(axis) / np.linalg.norm(axis)
        from scipy.spatial.transform import Rotation

        assert np.allclose(m, Rotation.from_rotvec(angle * n).as_matrix())


def test_rotations_of_the_plane_turn_counter_clockwise(monkeypatch: pytest.MonkeyPatch):
    networks = batch(2, wa.Architecture.siren((2, 4, 1)), torch.float64)
    angles = torch.tensor([0.1, -0.7], dtype=torch.float64)
    monkeypatch.setattr(draws, "uniform", lambda element, shape, *rest: angles)
    drawn = wa.Rotate(degrees=60.0).sample(networks)
    moved = drawn.map_points(torch.tensor([[1.0, 0.0]], dtype=torch.float64))[:, 0]
    assert torch.allclose(moved, torch.stack([angles.cos(), angles.sin()], dim=-1))


def test_group_elements_know_their_batch_by_any_of_their_parts():
    shift = (torch.zeros(5, 4, dtype=torch.int64), None)
    assert wa.GroupElement.of(ARCH, shift=shift).batch_shape == (5,)
    assert wa.GroupElement.of(ARCH, scale=(None, torch.ones(6, 3))).batch_shape == (6,)
    assert wa.GroupElement.of(ARCH, permutation=(torch.arange(4).expand(7, 4), None)).batch_shape == (7,)


def test_the_dominant_target_at_one_half_is_the_first():
    a, b = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    lam = torch.tensor([0.5, 0.49, 0.51])
    assert wa.functional.mix_target(a, b, lam, "dominant").tolist() == [1, 5, 3]


def test_partners_are_uniform_over_all_others():
    partner = torch.stack([wa.Mixup().sample(batch(4), generator=generator(i)).partner for i in range(3000)])
    for i in range(4):
        counts = np.bincount(partner[:, i].numpy(), minlength=4)
        assert counts[i] == 0
        assert uniform_over(np.delete(counts, i))
