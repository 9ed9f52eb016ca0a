"""Transforms, by family: what they preserve decides where they are."""

from weightaug.transforms.alignment import AlignTo
from weightaug.transforms.base import Params, Preserves, Transform, slice_params
from weightaug.transforms.compose import Compose, OneOf, RandomApply, RandomOrder
from weightaug.transforms.geometry import Affine, InputMap, Reflect, Rotate, Scale, Translate
from weightaug.transforms.labels import LabelSmoothing
from weightaug.transforms.linear import HeadPermutation, HeadRotation, LoRAGauge
from weightaug.transforms.mixing import AlignedMixup, MixParams, Mixup, PermutedMixup, Pool, SelfMixup
from weightaug.transforms.noise import Dropout, GaussianNoise, QuantileDropout
from weightaug.transforms.refit import Refit, RefitParams
from weightaug.transforms.standardize import Standardize
from weightaug.transforms.symmetry import Permute, ReLUScale, SirenBias, SirenNegation

__all__ = [
    "Affine",
    "AlignTo",
    "AlignedMixup",
    "Compose",
    "Dropout",
    "GaussianNoise",
    "HeadPermutation",
    "HeadRotation",
    "InputMap",
    "LabelSmoothing",
    "LoRAGauge",
    "MixParams",
    "Mixup",
    "OneOf",
    "Params",
    "Permute",
    "PermutedMixup",
    "Pool",
    "Preserves",
    "QuantileDropout",
    "RandomApply",
    "RandomOrder",
    "ReLUScale",
    "Refit",
    "RefitParams",
    "Reflect",
    "Rotate",
    "Scale",
    "SelfMixup",
    "SirenBias",
    "SirenNegation",
    "Standardize",
    "Transform",
    "Translate",
    "slice_params",
]
