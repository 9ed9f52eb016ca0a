"""Every public transform with settings to test it with, and the networks that only some are for."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

import weightaug as wa
from weightaug.adapters import from_modules
from weightaug.matching import Frame
from weightaug.testing.battery import EXAMPLES
from weightaug.testing.networks import random_element

__all__ = [
    "OF_HEADS",
    "OF_PAIRS",
    "OF_STREAMS",
    "TRANSFORMS",
    "encoders",
    "low_rank_pairs",
    "public_transforms",
    "streams",
]

_FRAME = Frame(random_element(EXAMPLES[0], (1,), seed=1))


def _halved(element: wa.WeightSpaceElement) -> wa.WeightSpaceElement:
    return element.map(lambda t: t / 2)


TRANSFORMS: tuple[wa.Transform, ...] = (
    wa.Permute(),
    wa.SirenNegation(),
    wa.SirenBias(k_max=3),
    wa.ReLUScale(max_scale=8.0, p=0.5),
    wa.Rotate(degrees=None),
    wa.Rotate90(),
    wa.Flip(),
    wa.Dihedral(),
    wa.Translate(),
    wa.Scale(amount=0.5, per_axis=True),
    wa.Reflect(),
    wa.Affine(),
    wa.GaussianNoise(),
    wa.Dropout(p=0.3, rescale=True),
    wa.QuantileDropout(q=0.5),
    wa.Mixup(alpha=0.4),
    wa.PermutedMixup(),
    wa.AlignedMixup(),
    wa.SelfMixup(),
    wa.Refit(wa.GaussianNoise(), points=3, steps=2),
    wa.AlignTo(_FRAME),
    wa.Standardize((0.0,) * 6, (0.5, 0.25, 2.0, 4.0, 1.0, 3.0)),
    wa.LabelSmoothing(),
    wa.Lambda(_halved),
    wa.Compose((wa.SirenNegation(), wa.Rotate(), wa.AlignedMixup())),
    wa.RandomApply(wa.Permute(), p=0.5),
    wa.OneOf((wa.Permute(), wa.GaussianNoise(), wa.Mixup())),
    wa.SomeOf((wa.Permute(), wa.GaussianNoise(), wa.LabelSmoothing()), count=2),
    wa.RandomOrder((wa.Reflect(), wa.LabelSmoothing())),
)
OF_HEADS: tuple[wa.Transform, ...] = (wa.HeadPermutation(), wa.HeadRotation(), wa.HeadRotation("invertible"))
OF_STREAMS: tuple[wa.Transform, ...] = (wa.StreamRotation(),)
OF_PAIRS: tuple[wa.Transform, ...] = (wa.LoRAGauge(), wa.LoRAGauge("invertible"))


def public_transforms() -> set[type[wa.Transform]]:
    """Every class of transforms that the package offers."""
    found = [getattr(wa, name) for name in wa.__all__]
    return {value for value in found if inspect.isclass(value) and issubclass(value, wa.Transform)} - {wa.Transform}


def encoders(count: int) -> wa.WeightSpaceElement:
    """A batch of random transformer layers, traced, in double precision."""
    modules = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(count):
            torch.manual_seed(seed)
            layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
            modules.append(layer.double().eval())
        example = torch.randn(1, 3, 8, dtype=torch.float64)
    return from_modules(modules, example_input=example)


class _Stream(nn.Module):
    """A residual stream that nothing but linear layers and norms without gains meets."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(4, 6)
        self.norm = nn.RMSNorm(6, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        normed: Tensor = self.norm(x + self.mlp(self.norm(x)))
        result: Tensor = self.head(normed)
        return result


def streams(count: int) -> wa.WeightSpaceElement:
    """A batch of random residual networks between norms without gains, traced, in double precision."""
    modules = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(count):
            torch.manual_seed(seed)
            modules.append(_Stream().double().eval())
        example = torch.randn(2, 4, dtype=torch.float64)
    return from_modules(modules, example_input=example)


def low_rank_pairs(count: int) -> wa.WeightSpaceElement:
    """A batch of random LoRA pairs, in double precision."""
    architecture = wa.Architecture.lora({"q": (6, 5, 2), "v": (6, 5, 4)})
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(count, *s.shape, generator=generator, dtype=torch.float64) for s in architecture.tensors]
    return wa.WeightSpaceElement.from_tensors(architecture, tensors, ())
