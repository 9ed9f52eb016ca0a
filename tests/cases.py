"""The one table of all transforms, over which the laws are tested."""

from __future__ import annotations

from dataclasses import dataclass

from weightaug import (
    Affine,
    AlignedMixup,
    Compose,
    Dropout,
    GaussianNoise,
    HeadPermutation,
    HeadRotation,
    LabelSmoothing,
    LoRAGauge,
    Mixup,
    OneOf,
    Permute,
    PermutedMixup,
    QuantileDropout,
    RandomApply,
    RandomOrder,
    Reflect,
    ReLUScale,
    Rotate,
    Scale,
    SelfMixup,
    SirenBias,
    SirenNegation,
    Transform,
    Translate,
)


@dataclass(frozen=True)
class Case:
    """One transform, the networks that it is for, and settings with which it does nothing.

    Attributes:
        transform: What is tested.
        symmetry: What at least one hidden space has to allow, or None.
        inputs: Numbers of inputs to test with.
        bias: True if layers need biases, None if not.
        neutral: The same class with settings that make it the identity, or None if there are none.
        draws: Whether different elements of a batch get different draws.
    """

    transform: Transform
    symmetry: str | None = None
    inputs: tuple[int, ...] = (1, 2, 3, 4)
    bias: bool | None = None
    neutral: Transform | None = None
    draws: bool = True

    @property
    def name(self) -> str:
        return repr(self.transform).replace("Compose(transforms=", "Compose(")[:90]


CASES = [
    Case(Permute()),
    Case(SirenNegation(), "sign", neutral=SirenNegation(p=0.0)),
    Case(SirenNegation(p=0.9), "sign"),
    Case(SirenBias(), "phase", neutral=SirenBias(k_max=0)),
    Case(SirenBias(k_max=4, p=0.5), "phase", neutral=SirenBias(k_max=4, p=0.0)),
    Case(ReLUScale(), "scale", neutral=ReLUScale(max_scale=1.0)),
    Case(ReLUScale(max_scale=50.0, p=0.5), "scale", neutral=ReLUScale(p=0.0)),
    Case(Rotate(), inputs=(2, 3, 4), neutral=Rotate(degrees=0.0)),
    Case(Rotate(degrees=None), inputs=(2, 3, 5)),
    Case(Rotate(degrees=180.0, axis=(0.0, 0.0, 2.0)), inputs=(3,)),
    Case(Rotate(degrees=90.0, center=(0.5, -0.25)), inputs=(2,), bias=True),
    Case(Translate(), bias=True, neutral=Translate(amount=0.0)),
    Case(Scale(), neutral=Scale(amount=0.0)),
    Case(Scale(amount=0.5, per_axis=True)),
    Case(Scale(amount=0.5, signed_distance=True), bias=True, neutral=Scale(amount=0.0, signed_distance=True)),
    Case(Scale(center=(1.0, 2.0, 3.0)), inputs=(3,), bias=True),
    Case(Reflect(), neutral=Reflect(p=0.0)),
    Case(Affine(), inputs=(2, 3, 4), bias=True, neutral=Affine(degrees=0.0, translate=0.0, scale=0.0, shear=0.0)),
    Case(GaussianNoise(), neutral=GaussianNoise(scale=0.0)),
    Case(Dropout(), neutral=Dropout(p=0.0)),
    Case(Dropout(p=0.5, rescale=True), neutral=Dropout(p=0.0, rescale=True)),
    Case(QuantileDropout(), neutral=QuantileDropout(q=0.0)),
    Case(QuantileDropout(q=0.5, pooled=False)),
    Case(QuantileDropout(q=0.3, random=False), draws=False),
    Case(Mixup()),
    Case(Mixup(alpha=0.4, targets="dominant")),
    Case(PermutedMixup()),
    Case(AlignedMixup()),
    Case(AlignedMixup(symmetry="permutation", targets="keep")),
    Case(SelfMixup()),
    Case(SelfMixup(Permute(), align=False)),
    Case(LabelSmoothing(), neutral=LabelSmoothing(alpha=0.0), draws=False),
    Case(Compose(()), neutral=Compose(()), draws=False),
    Case(Compose((SirenNegation(), AlignedMixup())), "sign"),
    Case(Compose((Permute(), Rotate(), GaussianNoise(), Mixup())), inputs=(2, 3)),
    Case(Compose((Permute(), SirenBias(), SirenNegation())), "phase"),
    Case(RandomApply(SirenNegation(), p=0.5), "sign", neutral=RandomApply(SirenNegation(), p=0.0)),
    Case(RandomApply(Mixup(), p=0.7), neutral=RandomApply(Mixup(), p=0.0)),
    Case(OneOf((Permute(), GaussianNoise(), Mixup()), weights=(1.0, 2.0, 1.0))),
    Case(OneOf((Permute(), RandomApply(SirenNegation(p=0.5)))), "sign"),
    Case(RandomOrder((Reflect(), Translate(), LabelSmoothing())), bias=True),
    Case(RandomOrder((Permute(), GaussianNoise()))),
]

# For architectures that are declared tensor by tensor; test_tracing and test_lora hold them to the laws.
DECLARED: list[type[Transform]] = [HeadPermutation, HeadRotation, LoRAGauge]
