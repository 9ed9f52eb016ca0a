"""Small convolutional networks that read the digits of scikit-learn, trained many at a time.

The networks of a family are stacked: ``torch.func.vmap`` runs all of them in one step, each on a batch of its own,
with a learning rate and a weight decay of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from benchmarks.data.images import digits
from weightaug import Architecture, WeightSpaceElement

__all__ = ["FAMILIES", "Family", "HyperParameters", "accuracies", "digits_split", "outputs", "train"]

TRAINING_IMAGES = 1300
_AT_ONCE = 5  # networks that are evaluated together: of more, activations leave the cache
_BETAS, _EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Family:
    """Networks of one architecture: convolutions of 3 x 3 with ReLU, the average over pixels, a linear layer.

    Args:
        channels: Channels of each convolution.
        strides: Their strides.
        norm: Whether a BatchNorm follows each convolution, which has no bias then.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    norm: bool

    def module(self) -> nn.Sequential:
        """A network with torch's initial weights, in training mode."""
        layers: list[nn.Module] = []
        before = 1
        for channels, stride in zip(self.channels, self.strides, strict=True):
            layers.append(nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=not self.norm))
            layers += [nn.BatchNorm2d(channels)] if self.norm else []
            layers.append(nn.ReLU())
            before = channels
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))

    @functools.cached_property
    def architecture(self) -> Architecture:
        """As it is derived from a module."""
        return Architecture.from_module(self.module().eval(), torch.zeros(2, 1, 8, 8))


FAMILIES = {
    "three convolutions": Family((8, 16, 16), (1, 2, 1), norm=False),
    "two convolutions, BatchNorm": Family((8, 16), (1, 2), norm=True),
    "three wide convolutions": Family((32, 64, 64), (1, 2, 1), norm=False),
    "three wide convolutions, BatchNorm": Family((32, 64, 64), (1, 2, 1), norm=True),
}


class HyperParameters(NamedTuple):
    """How networks are trained together.

    Attributes:
        batch: Images in a batch.
        steps: Number of steps.
        rate: Adam's rate, ``(n,)``.
        decay: Weight decay beside Adam (AdamW), ``(n,)``.
        scale: Factor of the initial weights of convolutions and of the linear layer, ``(n,)``.
        share: Share of the training images that a network sees, ``(n,)``.
    """

    batch: int
    steps: int
    rate: Tensor
    decay: Tensor
    scale: Tensor
    share: Tensor

    @classmethod
    def drawn(cls, count: int, generator: torch.Generator) -> HyperParameters:
        """Widely spread, so that accuracies are, too: everything log-uniform."""

        def uniform(low: float, high: float, n: int = count) -> Tensor:
            log = torch.tensor([low, high]).log()
            return (log[0] + (log[1] - log[0]) * torch.rand(n, generator=generator)).exp()

        return cls(
            batch=(16, 32, 64)[int(torch.randint(3, (), generator=generator))],
            steps=int(uniform(100, 1000, 1)),
            rate=uniform(5e-4, 3e-2),
            decay=uniform(1e-4, 1.0),
            scale=uniform(0.5, 2.0),
            share=uniform(0.02, 1.0),
        )

    @classmethod
    def good(cls, count: int) -> HyperParameters:
        """One setting that trains every family well."""
        ones = torch.ones(count)
        return cls(batch=32, steps=400, rate=3e-3 * ones, decay=1e-2 * ones, scale=ones, share=ones)


class Split(NamedTuple):
    """Images ``(n, 1, 8, 8)`` and their labels, to train and to test on."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@functools.cache
def digits_split() -> Split:
    """The digits, 1,300 to train and 497 to test on, always the same."""
    images = digits()
    order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(0))
    values, labels = images.values[order].unsqueeze(1), images.labels[order]
    return Split(values[:TRAINING_IMAGES], labels[:TRAINING_IMAGES], values[TRAINING_IMAGES:], labels[TRAINING_IMAGES:])


def train(
    family: Family, given: HyperParameters, seed: int, progress: Callable[[int], None] = lambda done: None
) -> WeightSpaceElement:
    """Trains networks, all at once.

    Args:
        family: Their architecture.
        given: How they are trained; its tensors say how many they are.
        seed: Of initial weights, of the images that each of them sees, and of the order of batches.
        progress: Called after every step, with 1.

    Returns:
        The networks, ``(n,)``, with their running statistics.
    """
    count = len(given.rate)
    generator = torch.Generator().manual_seed(seed)
    data = digits_split()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = [family.module() for _ in range(count)]
    state = {name: torch.stack([dict(m.state_dict())[name] for m in modules]) for name in modules[0].state_dict()}
    names = [name for name, _ in modules[0].named_parameters()]
    for name in names:
        if state[name].dim() > 2:  # matrices, not gains and biases
            state[name] *= _along(given.scale, state[name])
    weights = [state.pop(name).requires_grad_() for name in names]
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    base = modules[0].train()

    def loss(weights: tuple[Tensor, ...], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            functional_call(base, {**dict(zip(names, weights, strict=True)), **buffers}, (x,)), y
        )

    # Each network knows the first images of an order of its own.
    order = torch.stack([torch.randperm(TRAINING_IMAGES, generator=generator) for _ in range(count)])
    known = (given.share * TRAINING_IMAGES).round().clamp(min=1)
    for step in range(given.steps):
        places = (torch.rand(count, given.batch, generator=generator) * known[:, None]).long()
        chosen = order.gather(1, places)
        losses = vmap(loss, randomness="error")(
            tuple(weights), state, data.train[chosen], data.train_labels[chosen]
        )  # the networks share nothing, so the gradient of the sum is that of each
        gradients = torch.autograd.grad(losses.sum(), weights)
        with torch.no_grad():
            for w, g, m, v in zip(weights, gradients, first, second, strict=True):
                _adam(w, g, m, v, step, given)
        progress(1)
    trained = {**dict(zip(names, [w.detach() for w in weights], strict=True)), **state}
    architecture = family.architecture
    return WeightSpaceElement(architecture, tuple([trained[s.name] for s in architecture.tensors]), ())


def _along(values: Tensor, tensor: Tensor) -> Tensor:
    return values.view(-1, *[1] * (tensor.dim() - 1))


def _adam(w: Tensor, gradient: Tensor, m: Tensor, v: Tensor, step: int, given: HyperParameters) -> None:
    """One step of AdamW in place, with settings for each network."""
    rate = _along(given.rate, w)
    m.lerp_(gradient, 1 - _BETAS[0])
    v.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
    scale = (v / (1 - _BETAS[1] ** (step + 1))).sqrt_().add_(_EPS)
    w.mul_(1 - rate * _along(given.decay, w))
    w.sub_(rate * (m / (1 - _BETAS[0] ** (step + 1))) / scale)


@torch.no_grad()
def outputs(networks: WeightSpaceElement, family: Family, images: Tensor) -> Tensor:
    """Logits ``(n, images, 10)`` of networks ``(n,)`` in eval mode, all at once."""
    base = family.module().eval()
    names = [spec.name for spec in networks.architecture.tensors]

    def run(tensors: tuple[Tensor, ...]) -> Tensor:
        logits: Tensor = functional_call(base, dict(zip(names, tensors, strict=True)), (images,))
        return logits

    found: Tensor = vmap(run, chunk_size=_AT_ONCE)(tuple(networks.tensors()))
    return found


def accuracies(networks: WeightSpaceElement, family: Family, images: Tensor, labels: Tensor) -> Tensor:
    """Shares of images that networks ``(n,)`` get right, ``(n,)``."""
    return (outputs(networks, family, images).argmax(-1) == labels).float().mean(-1)
