"""The suite itself: every planted fault must be found, and named by the law that it breaks."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from weightaug import Architecture, GaussianNoise, Preserves, Rotate, SirenNegation, Transform, WeightSpaceElement
from weightaug.testing import assert_same_function, check_transform, random_element

ELEMENT = random_element(Architecture.siren((2, 6, 5, 1), output_offset=0.5), (3,))
TARGETS = (torch.rand(3, 4), torch.rand(3))


@dataclass(frozen=True)
class Fine(Transform):
    """Multiplies each network by its own number."""

    scale: float = 2.0

    def sample(self, element, *, generator=None):
        return torch.rand(element.batch_shape, generator=generator, dtype=element.dtype, device=element.device)

    def apply(self, element, params):
        params = params.to(element.dtype)
        return element.map(lambda t: t * self.scale * params.view(*params.shape, *[1] * (t.dim() - params.dim())))


class WritesInPlace(Fine):
    def apply(self, element, params):
        element.weights[0].mul_(1.0)
        return super().apply(element, params)


class DrawsGlobally(Fine):
    def sample(self, element, *, generator=None):
        return torch.rand(element.batch_shape, dtype=element.dtype)


class DrawsFromPython(Fine):
    def sample(self, element, *, generator=None):
        random.random()
        return super().sample(element, generator=generator)


class DrawsFromNumpy(Fine):
    def sample(self, element, *, generator=None):
        np.random.rand()  # noqa: NPY002
        return super().sample(element, generator=generator)


class LeaksOneDraw(Fine):
    def sample(self, element, *, generator=None):
        torch.rand(1)
        return super().sample(element, generator=generator)


class DrawsInApply(Fine):
    def apply(self, element, params):
        return super().apply(element, torch.rand_like(params))


class ChangesDtype(Fine):
    def apply(self, element, params):
        return super().apply(element, params).to(torch.float32)


class OneDrawForAll(Fine):
    def sample(self, element, *, generator=None):
        return torch.rand(1, generator=generator, dtype=element.dtype)


class PoolsOverTheBatch(Fine):
    def apply(self, element, params):
        return element.map(lambda t: t * t.abs().max())


class DropsATarget(Fine):
    def apply_targets(self, targets, params):
        return targets[:1]


class LooksAtValues(Fine):
    def apply(self, element, params):
        return super().apply(element, params) if element.weights[0].detach().sum().item() > -1e9 else element


class LooksAtValuesAndMixes(LooksAtValues):
    mixes = True


class CutsTheGraph(Fine):
    def apply(self, element, params):
        return super().apply(element.detach(), params)


class GivesNaN(Fine):
    def apply(self, element, params):
        return super().apply(element, params).map(lambda t: t / 0)


class ClaimsTooMuch(Fine):
    preserves: ClassVar[Preserves] = Preserves.FUNCTION


class ForgetsTheNextLayer(SirenNegation):
    def apply(self, element, params):
        flipped = super().apply(element, params)
        return WeightSpaceElement(element.architecture, (flipped.weights[0], *element.weights[1:]), flipped.biases)


class TurnsTheOtherWay(Rotate):
    def apply(self, element, params):
        return super().apply(element, type(params)(params.matrix.mT))


class ReprLies(Fine):
    def __repr__(self):
        return f"{type(self).__name__}(scale={self.scale + 1})"


@dataclass(frozen=True)
class HoldsATensor(Fine):
    extra: object = None

    def asdict(self):
        return super().asdict() | {"extra": 1}


class OneDrawExpanded(Fine):
    def sample(self, element, *, generator=None):
        return torch.rand((), generator=generator, dtype=element.dtype).expand(element.batch_shape).clone()


class SettingsThatAreNoFields(Fine):
    def __init__(self, scale=0.1):
        object.__setattr__(self, "strength", scale)


@dataclass(frozen=True)
class HoldsAList(Fine):
    sizes: object = ()

    def __post_init__(self):
        object.__setattr__(self, "sizes", [1, 2])


class RefusesInSample(Fine):
    def sample(self, element, *, generator=None):
        raise ValueError("needs a ReLU")


class RaisesFromTorch(Fine):
    def apply(self, element, params):
        return element.map(lambda t: t @ params)


class WritesIntoItsArgument(Fine):
    """Only into one network, which a data set hands over as a view."""

    def apply(self, element, params):
        if element.batch_shape:
            return super().apply(element, params)
        return element.map(lambda t: t.mul_(self.scale * params.to(t.dtype)))


class NeedsContiguousMemory(Fine):
    def apply(self, element, params):
        element.weights[0].view(-1)
        return super().apply(element, params)


class MultipliesUnderAutocast(Fine):
    def __call__(self, element, *targets, generator=None):  # sample and apply are guarded
        def half(t):
            return t if t.dim() < 2 else t @ torch.eye(t.shape[-1], dtype=t.dtype, device=t.device)

        return super().__call__(element.map(half), *targets, generator=generator)


class UsesTheDefaultDevice(Fine):
    def apply(self, element, params):
        return super().apply(element, params + torch.zeros(params.shape))


class UsesTheDefaultDtype(Fine):
    def apply(self, element, params):
        return super().apply(element, params + torch.full(params.shape, 0.1, device=params.device).to(params))


class TakesTheDtypeOfItsParameters(Fine):
    def apply(self, element, params):
        return element.map(lambda t: t.to(params.dtype) * params.view(*params.shape, *[1] * (t.dim() - params.dim())))


@dataclass(frozen=True)
class KeepsAnElement(Transform):
    """Adds a network that it holds, and spoils it."""

    pool: object = None
    spoils: bool = True

    def sample(self, element, *, generator=None):
        return torch.rand(element.batch_shape, generator=generator, dtype=element.dtype)

    def apply(self, element, params):
        if self.spoils:
            self.pool.weights[0].add_(1)
        return element.map(lambda t: t * params.view(*params.shape, *[1] * (t.dim() - params.dim())))


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        (WritesInPlace(), "inputs untouched"),
        (DrawsGlobally(), "randomness"),
        (DrawsFromPython(), "randomness"),
        (DrawsFromNumpy(), "randomness"),
        (LeaksOneDraw(), "randomness"),
        (DrawsInApply(), "randomness"),
        (ChangesDtype(), "form"),
        (OneDrawForAll(), "params"),
        (PoolsOverTheBatch(), "slicing|independence"),
        (DropsATarget(), "targets"),
        (CutsTheGraph(), "gradients|does not require grad"),
        (GivesNaN(), "form"),
        (ClaimsTooMuch(), "preserves the function"),
        (ForgetsTheNextLayer(), "preserves the function"),
        (TurnsTheOtherWay(), "preserves the function up to an input map"),
        (ReprLies(), "configuration"),
        (HoldsATensor(), "configuration"),
        (OneDrawExpanded(), "own draws.*element.batch_shape"),
        (SettingsThatAreNoFields(), r"configuration: the settings \['strength'\].*@dataclass"),
        (HoldsAList(), "configuration: hash: TypeError"),
        (RefusesInSample(), "check: .*needs a ReLU"),
        (RaisesFromTorch(), "form|randomness"),
        (WritesIntoItsArgument(), "independence|memory|inputs"),
        (NeedsContiguousMemory(), "memory: (strided|views)"),
        (MultipliesUnderAutocast(), "modes: autocast"),
        (UsesTheDefaultDevice(), "modes: .*another default device"),
        (UsesTheDefaultDtype(), "modes: default dtype"),
        (TakesTheDtypeOfItsParameters(), "modes: parameters drawn for"),
        (KeepsAnElement(ELEMENT.clone()), "inputs untouched"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Transform) else "",
)
def test_planted_faults_are_found(fault: Transform, law: str):
    with pytest.raises(AssertionError, match=law):
        check_transform(fault, ELEMENT, TARGETS, graph=False)


def test_host_syncs_are_found():
    with pytest.raises(AssertionError, match=r"vmap: .*\.item"):
        check_transform(LooksAtValues(), ELEMENT, TARGETS, graph=False)
    # Mixing transforms are not mapped, so for them the graph has to tell.
    check_transform(LooksAtValuesAndMixes(), ELEMENT, TARGETS, graph=False)
    with pytest.raises(
        AssertionError, match=r"(?i)(compile|host sync): .*(data.dependent|Tensor\.item|could not guard)"
    ):
        check_transform(LooksAtValuesAndMixes(), ELEMENT, TARGETS)


def test_a_users_own_transform_passes():
    check_transform(Fine(), ELEMENT, TARGETS)


def test_assert_same_function_tells_networks_apart():
    with pytest.raises(AssertionError, match="outputs differ by"):
        assert_same_function(ELEMENT, GaussianNoise(0.01)(ELEMENT))
    assert_same_function(ELEMENT, ELEMENT.clone())
