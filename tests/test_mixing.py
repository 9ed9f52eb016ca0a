"""Mixing: end points, partners, targets, pools, alignment, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightaug import (
    AlignedMixup,
    Architecture,
    Compose,
    GaussianNoise,
    Mixup,
    OneOf,
    Permute,
    PermutedMixup,
    Pool,
    RandomApply,
    RandomOrder,
    SelfMixup,
    SirenBias,
    SirenNegation,
    act,
)
from weightaug.functional import mix, mix_target
from weightaug.testing import assert_close, assert_equal, assert_same_function, random_element
from weightaug.transforms import mixing

ARCH = Architecture.siren((2, 8, 8, 1))
VARIANTS = [Mixup(), PermutedMixup(), AlignedMixup(), AlignedMixup(symmetry="permutation")]
every_variant = pytest.mark.parametrize("transform", VARIANTS, ids=repr)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_variant
def test_end_points(transform):
    x = random_element(ARCH, (6,))
    params = transform.sample(x, generator=generator())
    assert_equal(transform.apply(x, params._replace(lam=torch.ones_like(params.lam))), x)
    partners = transform.apply(x, params._replace(lam=torch.zeros_like(params.lam)))
    assert_equal(partners, act(x[params.partner], params.group))
    assert_same_function(partners, x[params.partner])


@every_variant
def test_weights_and_targets_use_the_same_lambda(transform):
    x = random_element(ARCH, (16,))
    y = torch.eye(16, dtype=torch.float64)  # the target names the network, so the mixture can be rebuilt
    params = transform.sample(x, generator=generator())
    mixed, target = transform(x, y, generator=generator())
    own = target.diagonal()
    assert torch.allclose(own, params.lam)
    rest = target - torch.diag(own)
    assert torch.equal(rest.argmax(-1), params.partner)
    assert torch.allclose(target.sum(-1), torch.ones(16, dtype=torch.float64))
    moved = act(x[params.partner], params.group).flatten()
    rebuilt = own[:, None] * x.flatten() + rest.sum(-1, keepdim=True) * moved
    assert torch.allclose(mixed.flatten(), rebuilt, atol=1e-12)


@given(st.integers(2, 40), st.integers(0, 999))
def test_partners_are_a_derangement(size, seed):
    x = random_element(Architecture.mlp((1, 1, 1), "relu"), (size,))
    partner = Mixup().sample(x, generator=generator(seed)).partner
    assert torch.equal(partner.sort().values, torch.arange(size))
    assert not (partner == torch.arange(size)).any()


def test_every_other_network_is_a_partner_alike():
    x = random_element(Architecture.mlp((1, 1, 1), "relu"), (5,))
    g = generator()
    counts = torch.zeros(5, 5)
    for _ in range(2000):
        counts[torch.arange(5), Mixup().sample(x, generator=g).partner] += 1
    assert counts.diagonal().sum() == 0
    others = counts[~torch.eye(5, dtype=torch.bool)]
    assert others.min() > 420  # 500 expected, deviation 19
    assert others.max() < 580


def test_lambda_is_uniform_or_beta():
    x = random_element(Architecture.mlp((1, 1, 1), "relu"), (20000,))
    for alpha, variance in ((1.0, 1 / 12), (0.2, 1 / (4 * 1.4)), (8.0, 1 / (4 * 17))):
        lam = Mixup(alpha).sample(x, generator=generator()).lam
        assert 0 <= float(lam.min()) <= float(lam.max()) <= 1
        assert abs(float(lam.mean()) - 0.5) < 0.02
        assert abs(float(lam.var()) / variance - 1) < 0.05


@pytest.mark.parametrize("symmetry", ["permutation", "auto"])
def test_large_batches_are_aligned_and_mixed_in_pieces(symmetry, monkeypatch):
    x = random_element(ARCH, (7,)).map(lambda t: t.requires_grad_())
    before = [t.detach().clone() for t in x.tensors()]
    for transform in (AlignedMixup(symmetry=symmetry), AlignedMixup(symmetry=symmetry, pool=Pool(x.detach()))):
        found = []
        for piece in (512, 3):
            monkeypatch.setattr(mixing, "_PIECE", piece)
            mixed = transform(x, generator=generator())
            gradients = torch.autograd.grad(sum(t.square().sum() for t in mixed.tensors()), x.tensors())
            found.append([*mixed.tensors(), *gradients])
        for whole, parts in zip(*found, strict=True):
            torch.testing.assert_close(parts, whole)
    assert all(torch.equal(t, b) for t, b in zip(x.tensors(), before, strict=True))


def test_batches_of_more_dimensions():
    x = random_element(ARCH, (3, 4))
    y = torch.rand(3, 4, 10)
    mixed, target = Mixup()(x, y, generator=generator())
    assert mixed.batch_shape == (3, 4)
    params = Mixup().sample(x, generator=generator())
    flat = x.map(lambda t: t.flatten(0, 1))
    expected = mix(flat, flat[params.partner.flatten()], params.lam.flatten())
    assert_close(mixed.map(lambda t: t.flatten(0, 1)), expected)
    assert target.shape == y.shape


@every_variant
def test_one_network_has_no_partner(transform):
    with pytest.raises(ValueError, match="mix after collating, or give pool"):
        transform(random_element(ARCH))
    x = random_element(ARCH, (1,))
    mixed, y = transform(x, torch.rand(1, 3) * 0 + 1)
    assert_equal(mixed, x)
    assert torch.equal(y, torch.ones(1, 3))


@every_variant
def test_integer_labels_are_refused_with_the_line_to_write(transform):
    x, y = random_element(ARCH, (4,)), torch.tensor([0, 1, 2, 1])
    with pytest.raises(TypeError, match=r"one_hot\(y, num_classes\).float\(\)"):
        transform(x, y)


def test_target_modes():
    x, labels = random_element(ARCH, (32,)), torch.arange(32)
    params = Mixup().sample(x, generator=generator())
    _, dominant = Mixup(targets="dominant")(x, labels, generator=generator())
    assert torch.equal(dominant, torch.where(params.lam >= 0.5, labels, params.partner))
    _, kept = Mixup(targets="keep")(x, "anything", generator=generator())
    assert kept == "anything"
    _, images, regression = Mixup()(x, torch.rand(32, 1, 8, 8), torch.rand(32), generator=generator())
    assert images.shape == (32, 1, 8, 8)
    assert regression.shape == (32,)
    with pytest.raises(ValueError, match=r"must lead with the batch shape \(32,\)"):
        Mixup()(x, torch.rand(31, 2))
    with pytest.raises(TypeError, match=r"torch\.as_tensor"):
        Mixup()(x, [1.0] * 32)
    with pytest.raises(ValueError, match="'mix', 'dominant' or 'keep'"):
        Mixup(targets="mean")
    with pytest.raises(ValueError, match="above 0"):
        Mixup(alpha=0.0)


def test_partners_come_from_the_pool_and_nowhere_else():
    x = random_element(ARCH, (20,), seed=1)
    pool = Pool(random_element(ARCH, (7,), seed=2), torch.eye(7))
    y = torch.zeros(20, 7)
    for transform in (Mixup(pool=pool), AlignedMixup(pool=pool), PermutedMixup(pool=pool)):
        params = transform.sample(x, generator=generator())
        assert set(params.partner.tolist()) == set(range(7))
        ends = transform.apply(x, params._replace(lam=torch.zeros_like(params.lam)))
        assert_same_function(ends, pool.element[params.partner])
        mixed, target = transform(x, y, generator=generator())
        assert mixed.batch_shape == (20,)
        assert torch.allclose(target.sum(-1).double(), 1 - params.lam, atol=1e-6)
        assert torch.equal(target.argmax(-1), params.partner)
    single = Mixup(pool=pool)(random_element(ARCH), generator=generator())
    assert single.batch_shape == ()


def test_pools_that_do_not_fit_are_refused():
    other = random_element(Architecture.siren((2, 9, 8, 1)), (3,))
    with pytest.raises(ValueError, match="cannot mix networks of different architectures"):
        Mixup(pool=Pool(other))(random_element(ARCH, (2,)))
    with pytest.raises(ValueError, match="n >= 1"):
        Pool(random_element(ARCH))
    with pytest.raises(ValueError, match="target 0 has shape"):
        Pool(random_element(ARCH, (3,)), torch.zeros(2))
    with pytest.raises(ValueError, match="called with 1 targets, but the pool holds 0"):
        Mixup(pool=Pool(random_element(ARCH, (3,))))(random_element(ARCH, (2,)), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="different architectures"):
        mix(random_element(ARCH, (3,)), other, torch.ones(3))
    with pytest.raises(ValueError, match="batches of shapes"):
        mix(random_element(ARCH, (3,)), random_element(ARCH, (2,)), torch.ones(3))
    with pytest.raises(TypeError, match="plain configuration"):
        Mixup(pool=Pool(random_element(ARCH, (3,)))).asdict()


@pytest.mark.parametrize(
    ("orbit", "symmetry"),
    [(Permute(), "permutation"), (Compose((Permute(), SirenNegation())), "auto"), (SirenBias(k_max=2), "auto")],
    ids=repr,
)
def test_mixing_with_a_transformed_copy_gives_the_network_back(orbit, symmetry):
    x = random_element(Architecture.siren((2, 16, 16, 1)), (10,))
    copies = orbit(x, generator=generator())
    # In a batch of two the partner is the other one.
    for i in range(10):
        pair = x[i : i + 1].map(lambda t: t)
        both = type(x)(
            x.architecture,
            tuple(torch.cat([a, c[i : i + 1]]) for a, c in zip(pair.weights, copies.weights, strict=True)),
            tuple(torch.cat([a, c[i : i + 1]]) for a, c in zip(pair.biases, copies.biases, strict=True)),
        )
        mixed = AlignedMixup(symmetry=symmetry)(both, generator=generator(i))
        assert_close(mixed, both, rtol=1e-7, atol=1e-9)


def test_self_mixup_between_a_network_and_its_orbit_is_the_network():
    x = random_element(ARCH, (5,))
    y = torch.rand(5, 3)
    mixed, target = SelfMixup(Compose((Permute(), SirenNegation())))(x, y)
    assert_close(mixed, x, rtol=1e-7, atol=1e-9)
    assert target is y
    assert SelfMixup()(random_element(ARCH)).batch_shape == ()
    far = SelfMixup(Permute(), align=False)(x)
    assert not torch.allclose(far.flatten(), x.flatten())


def test_containers_carry_targets():
    x, y = random_element(ARCH, (64,)), torch.eye(64)
    for transform in (
        Compose((SirenNegation(), AlignedMixup())),
        RandomApply(Mixup(), p=0.5),
        OneOf((Mixup(), SirenNegation())),
    ):
        mixed, target, again = transform(x, y, y.double(), generator=generator())
        assert torch.allclose(target.sum(-1), torch.ones(64))
        assert torch.allclose(target.double(), again, atol=1e-6)
        untouched = target.diagonal() == 1
        if not isinstance(transform, Compose):
            assert 10 < int(untouched.sum()) < 54
        if isinstance(transform, RandomApply):
            assert_equal(mixed[untouched], x[untouched])


def test_containers_refuse_what_they_cannot_hold():
    with pytest.raises(ValueError, match="put it after the RandomOrder"):
        RandomOrder((Mixup(), Permute()))
    with pytest.raises(ValueError, match="must not mix"):
        SelfMixup(Mixup())
    with pytest.raises(TypeError, match=r"write the call, e.g. SirenNegation\(\)"):
        Compose([SirenNegation])
    with pytest.raises(ValueError, match="at least one transform"):
        OneOf(())
    with pytest.raises(ValueError, match="weights must be 2 numbers"):
        OneOf((Permute(), Mixup()), weights=(1.0,))
    with pytest.raises(ValueError, match="must be in"):
        RandomApply(Permute(), p=1.5)


def test_a_container_checks_before_it_draws():
    g = generator()
    before = g.get_state()
    with pytest.raises(ValueError, match="SirenBias"):
        Compose((GaussianNoise(), SirenBias()))(random_element(Architecture.mlp((2, 4, 1), "relu"), (2,)), generator=g)
    assert torch.equal(g.get_state(), before)


def test_mix_target_needs_fitting_shapes():
    with pytest.raises(ValueError, match="lead with the batch shape"):
        mix_target(torch.zeros(3), torch.zeros(3), torch.ones(2))
