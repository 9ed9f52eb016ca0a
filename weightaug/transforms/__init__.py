"""Transforms, by family: what they preserve decides where they are."""

from weightaug.transforms.alignment import AlignTo
from weightaug.transforms.base import Params, Preserves, Transform, slice_params
from weightaug.transforms.compose import Compose, OneOf, RandomApply, RandomOrder, SomeOf
from weightaug.transforms.function import Lambda
from weightaug.transforms.geometry import Affine, InputMap, Reflect, Rotate, Scale, Translate
from weightaug.transforms.grid import Dihedral, Flip, Rotate90
from weightaug.transforms.labels import LabelSmoothing
from weightaug.transforms.linear import HeadPermutation, HeadRotation, LoRAGauge, StreamRotation
from weightaug.transforms.mixing import AlignedMixup, MixParams, Mixup, PermutedMixup, Pool, SelfMixup
from weightaug.transforms.noise import Dropout, GaussianNoise, QuantileDropout
from weightaug.transforms.refit import Refit, RefitParams
from weightaug.transforms.standardize import Standardize
from weightaug.transforms.symmetry import Permute, ReLUScale, SirenBias, SirenNegation
from weightaug.transforms.views import TestTime, TwoViews

__all__ = [
    "Affine",
    "AlignTo",
    "AlignedMixup",
    "Compose",
    "Dihedral",
    "Dropout",
    "Flip",
    "GaussianNoise",
    "HeadPermutation",
    "HeadRotation",
    "InputMap",
    "LabelSmoothing",
    "Lambda",
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
    "Rotate90",
    "Scale",
    "SelfMixup",
    "SirenBias",
    "SirenNegation",
    "SomeOf",
    "Standardize",
    "StreamRotation",
    "TestTime",
    "Transform",
    "Translate",
    "TwoViews",
    "slice_params",
]
