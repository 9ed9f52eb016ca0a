"""Refitting: the function comes back, the weights do not, and mixtures show the mixture of both functions."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import weightaug as wa
from weightaug import Activation, Architecture, WeightSpaceElement
from weightaug.points import grid
from weightaug.testing import random_element

POINTS = 7
TANH = Architecture.mlp((2, 12, 12, 1), "tanh", output_offset=0.5)


def networks(count: int, architecture: Architecture | None = None, seed: int = 0) -> WeightSpaceElement:
    return random_element(architecture or Architecture.siren((2, 16, 16, 1)), (count,), seed=seed)


def db(wanted: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """Straight from the definition, for one output."""
    span = wanted.flatten(1).max(1).values - wanted.flatten(1).min(1).values
    return 10 * torch.log10(span**2 / (wanted - got).flatten(1).square().mean(1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=6)
@given(
    data=st.data(),
    architecture=st.sampled_from(
        [Architecture.siren((2, 16, 16, 1)), TANH, Architecture.mlp((2, 12, 10, 1), ["gelu", Activation("sine", 5.0)])]
    ),
    inner=st.sampled_from([wa.GaussianNoise(0.2), wa.Dropout(0.05), wa.QuantileDropout(0.3, random=False)]),
)
def test_refitting_brings_the_function_back(data, architecture, inner):
    element = networks(3, architecture, data.draw(st.integers(0, 1000)))
    refit = wa.Refit(inner, points=POINTS, steps=60)
    params = refit.sample(element, generator=generator())
    x = grid((POINTS, POINTS))
    alone = db(element(x), inner(element, generator=generator())(x))
    view = refit.apply(element, params)
    together = db(element(x), view(x))
    assert (together > alone.clamp_max(35) + 3).all()
    torch.testing.assert_close(params.psnr, together, atol=1e-3, rtol=1e-5)
    assert ((view.flatten() - element.flatten()).norm(dim=-1) > 0.01 * element.flatten().norm(dim=-1)).all()


def test_a_mixture_shows_the_mixture_of_both_functions():
    element, x = networks(6), grid((POINTS, POINTS))
    y = torch.eye(6)
    for inner in (
        wa.Mixup(),
        wa.AlignedMixup(targets="keep"),
        wa.Compose((wa.SirenNegation(), wa.PermutedMixup(targets="dominant"), wa.LabelSmoothing())),
        wa.RandomApply(wa.Mixup(), p=0.5),
        wa.OneOf((wa.GaussianNoise(0.1), wa.Mixup())),
    ):
        refit = wa.Refit(inner, points=POINTS, steps=150)
        params = refit.sample(element, generator=generator())
        mixed = refit.apply(element, params)(x)
        # Each mixture lies between its own function and one other: the share is found by least squares, not drawn.
        values = element(x).flatten(1)
        for i in range(6):
            best = math.inf
            for j in range(6):
                step = values[j] - values[i]
                share = ((mixed[i].flatten() - values[i]) @ step / step.square().sum().clamp_min(1e-12)).clamp(0, 1)
                best = min(best, float((values[i] + share * step - mixed[i].flatten()).square().mean()))
            assert best < 1e-2 * float(values[i].var()), inner
        # Labels are the business of the inner transform.
        (targets,) = refit.apply_targets((y,), params)
        assert torch.equal(targets, inner.apply_targets((y,), params.inner)[0])


def test_the_share_of_a_function_is_that_of_its_target():
    element, x = networks(6), grid((POINTS, POINTS))
    refit = wa.Refit(wa.AlignedMixup(), points=POINTS, steps=200)
    mixed, target = refit(element, torch.eye(6), generator=generator())
    wanted = torch.einsum("ij,jpo->ipo", target.double(), element(x))
    assert (db(wanted, mixed(x)) > 30).all()


def test_partners_come_from_the_pool():
    element, others, x = networks(4), networks(9, seed=5), grid((POINTS, POINTS))
    pool = wa.Pool(others, torch.eye(9)[:, :9])
    refit = wa.Refit(wa.Mixup(pool=pool), points=POINTS, steps=200)
    params = refit.sample(element, generator=generator())
    lam, partner = params.inner.lam[:, None, None], params.inner.partner
    wanted = lam * element(x) + (1 - lam) * others[partner](x)
    assert (db(wanted, refit.apply(element, params)(x)) > 30).all()
    one, _ = refit(element[0], torch.zeros(9), generator=generator())
    assert one.batch_shape == ()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
@pytest.mark.parametrize("architecture", [Architecture.siren((2, 8, 8, 1)), TANH], ids=["siren", "tanh"])
def test_modes_around_the_call_change_nothing(mode, architecture):
    refit = wa.Refit(wa.GaussianNoise(0.1), points=POINTS, steps=10)
    element = networks(2, architecture).to(torch.float32)
    plain = refit(element, generator=generator())
    with mode():
        inside = refit(element, generator=generator())
    assert torch.equal(inside.flatten(), plain.flatten())


def test_parameters_of_a_network_in_training_are_left_alone():
    element = networks(2).map(lambda t: t.requires_grad_())
    refit = wa.Refit(wa.GaussianNoise(0.1), points=POINTS, steps=5)
    result = refit(element, generator=generator())
    total = sum(t.sum() for t in result.tensors())
    total.backward()
    assert all(torch.equal(t.grad, torch.ones_like(t)) for t in element.tensors())


def test_it_stops_at_the_psnr_that_is_asked():
    element = networks(8)
    psnr = {}
    for target in (None, 30.0):
        refit = wa.Refit(wa.GaussianNoise(0.1), points=POINTS, steps=300, target_psnr=target)
        psnr[target] = refit.sample(element, generator=generator()).psnr
    assert (psnr[30.0] >= 30).all()
    assert psnr[30.0].median() < psnr[None].median() - 5


def test_points_of_your_own():
    x = torch.rand(40, 2, generator=generator()) * 2 - 1
    refit = wa.Refit(wa.GaussianNoise(0.1), x, steps=40)
    same = wa.Refit(wa.GaussianNoise(0.1), wa.Points(x.clone()), steps=40)
    assert refit == same
    assert hash(refit) == hash(same)
    assert refit != wa.Refit(wa.GaussianNoise(0.1), x + 0.1, steps=40)
    assert pickle.loads(pickle.dumps(refit)) == refit
    element = networks(3)
    view = refit(element, generator=generator())
    assert (db(element(x.double()), view(x.double())) > 20).all()
    with pytest.raises(TypeError, match="Points is no plain configuration value"):
        refit.asdict()


def test_what_cannot_be_refitted_is_named():
    with pytest.raises(ValueError, match=r"would undo Rotate.*Compose\(\(Rotate\(...\), Refit\(...\)\)\)"):
        wa.Refit(wa.Compose((wa.Rotate(), wa.GaussianNoise())), points=8)
    with pytest.raises(TypeError, match="transform must be a Transform, got <class"):
        wa.Refit(wa.GaussianNoise, points=8)
    with pytest.raises(TypeError, match=r"Refit: points: expected a number of points .*, got 'grid28'"):
        wa.Refit(wa.GaussianNoise(), points="grid28")
    with pytest.raises(ValueError, match="at least 1 point along every input, got 0"):
        wa.Refit(wa.GaussianNoise(), points=0)
    with pytest.raises(ValueError, match=r"expected a tensor \(n, inputs\) with n >= 1, got \(0, 2\)"):
        wa.Refit(wa.GaussianNoise(), points=torch.zeros(0, 2))
    with pytest.raises(ValueError, match="finite coordinates, got 2 that are not"):
        wa.Refit(wa.GaussianNoise(), points=torch.full((1, 2), math.nan))
    with pytest.raises(ValueError, match=r"Refit: steps must be finite and at least 0, got -1"):
        wa.Refit(wa.GaussianNoise(), points=8, steps=-1)
    refit = wa.Refit(wa.GaussianNoise(), points=(8, 8, 8))
    with pytest.raises(ValueError, match=r"take 2 inputs, got a grid of \(8, 8, 8\)"):
        refit(networks(2))
    with pytest.raises(ValueError, match="take 2 inputs, got points of 3 coordinates"):
        wa.Refit(wa.GaussianNoise(), points=torch.zeros(4, 3))(networks(2))
    with pytest.warns(UserWarning, match="unknown activation"):
        strange = Architecture.mlp((2, 4, 1), "snake")
    with pytest.raises(ValueError, match=r"space 'hidden.*' with its unknown activation"):
        wa.Refit(wa.GaussianNoise(), points=4)(random_element(strange, (2,)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_that_are_right_already_stay_where_they_are(dtype):
    element = random_element(Architecture.siren((2, 6, 6, 1)), (5,), dtype=dtype)
    still = wa.Refit(wa.GaussianNoise(scale=0.0), points=4, steps=10)
    assert (still(element).flatten() - element.flatten()).abs().max() <= 1e-12
    alone = wa.Refit(wa.AlignedMixup(), points=4, steps=10)(element[:1])  # its own partner
    assert (alone.flatten() - element[:1].flatten()).abs().max() <= 1e-6
    noisy = wa.Refit(wa.GaussianNoise(scale=0.1), points=4, steps=10)(element)
    assert (noisy.flatten() - element.flatten()).abs().max() > 1e-3
