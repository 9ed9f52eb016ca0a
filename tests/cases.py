"""The one table of all transforms, over which the laws are tested."""

from __future__ import annotations

from dataclasses import dataclass

from weightaug import (
    Activation,
    Affine,
    AlignedMixup,
    AlignTo,
    Architecture,
    Compose,
    Dihedral,
    Dropout,
    Flip,
    GaussianNoise,
    HeadPermutation,
    HeadRotation,
    LabelSmoothing,
    Lambda,
    LoRAGauge,
    Mixup,
    OneOf,
    Permute,
    PermutedMixup,
    QuantileDropout,
    RandomApply,
    RandomOrder,
    Refit,
    Reflect,
    ReLUScale,
    Rotate,
    Rotate90,
    Scale,
    SelfMixup,
    SirenBias,
    SirenNegation,
    SomeOf,
    Standardize,
    StreamRotation,
    Transform,
    Translate,
    WeightSpaceElement,
)
from weightaug.matching import Frame
from weightaug.testing import random_element

FRAMED = Architecture.mlp((2, 5, 4, 6, 2), [Activation("tanh", 5.0), Activation("relu"), Activation("sine", 30.0)])
FRAME = Frame(random_element(FRAMED, (1,), seed=1))

SMALL = Architecture.mlp((2, 3, 1), "tanh")
STANDARDIZE = Standardize((0.0, 0.0, 0.0, 0.25), (0.5, 0.25, 2.0, 4.0))
PER_ENTRY = Standardize(tuple(0.5 * i for i in range(13)), tuple(1.0 + i for i in range(13)), "entry")


def halved(element: WeightSpaceElement) -> WeightSpaceElement:
    return element.map(lambda t: t / 2)


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
        architecture: The only one that it is for, or None.
    """

    transform: Transform
    symmetry: str | None = None
    inputs: tuple[int, ...] = (1, 2, 3, 4)
    bias: bool | None = None
    neutral: Transform | None = None
    draws: bool = True
    architecture: Architecture | None = None

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
    Case(AlignTo(FRAME), draws=False, architecture=FRAMED),
    Case(Compose((Permute(), AlignTo(FRAME), GaussianNoise())), architecture=FRAMED),
    Case(AlignedMixup(symmetry="permutation", targets="keep")),
    Case(SelfMixup()),
    Case(SelfMixup(Permute(), align=False)),
    Case(Refit(GaussianNoise(), points=3, steps=3), neutral=Refit(GaussianNoise(scale=0.0), points=3, steps=3)),
    Case(Refit(Dropout(), points=(4, 3), steps=2, learning_rate=1e-3, target_psnr=20.0), inputs=(2,)),
    Case(Refit(Compose((AlignedMixup(), LabelSmoothing())), points=2, steps=2)),
    Case(LabelSmoothing(), neutral=LabelSmoothing(alpha=0.0), draws=False),
    Case(STANDARDIZE, neutral=Standardize((0.0,) * 4, (1.0,) * 4), draws=False, architecture=SMALL),
    Case(STANDARDIZE.inverse(), draws=False, architecture=SMALL),
    Case(Compose((Permute(), PER_ENTRY)), architecture=SMALL),
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
    Case(SomeOf((Permute(), GaussianNoise(), LabelSmoothing()), count=2)),
    Case(
        SomeOf((SirenNegation(), Mixup(), AlignedMixup()), count=(0, 3)), "sign", neutral=SomeOf((Permute(),), count=0)
    ),
    Case(Lambda(halved), draws=False),
    Case(Rotate90(), inputs=(2, 3, 4)),
    Case(Flip(), neutral=Flip(p=0.0)),
    Case(Flip(axes=(0,), p=1.0), draws=False),
    Case(Dihedral()),
    Case(Rotate(degrees=(30.0, 60.0)), inputs=(2, 3), neutral=Rotate((0.0, 0.0))),
    Case(Scale((0.5, 2.0)), neutral=Scale((1.0, 1.0))),
    Case(Translate((0.0, 0.5)), inputs=(2,), bias=True),
    Case(SirenBias((-4, 3)), "phase", neutral=SirenBias((0, 0))),
]

# For architectures that are declared tensor by tensor; test_tracing and test_lora hold them to the laws.
DECLARED: list[type[Transform]] = [HeadPermutation, HeadRotation, LoRAGauge, StreamRotation]
