"""Data augmentations for weight spaces: transforms of data sets whose samples are whole neural networks."""

import importlib
from typing import TYPE_CHECKING, Any

from weightaug._conventions import convert
from weightaug._joining import cat, collate, stack
from weightaug.architecture import Activation, Architecture, Layer, Space, TensorSpec
from weightaug.calibration import calibrate
from weightaug.element import WeightSpaceElement
from weightaug.evaluation import psnr, render
from weightaug.group import GroupElement, Kind, act
from weightaug.points import Points
from weightaug.transforms import (
    Affine,
    AlignedMixup,
    AlignTo,
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
    Pool,
    Preserves,
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
    TestTime,
    Transform,
    Translate,
    TwoViews,
)
from weightaug.views import make_views

__version__ = "0.2.0"

if TYPE_CHECKING:
    from weightaug import adapters as adapters
    from weightaug import functional as functional
    from weightaug import io as io
    from weightaug import matching as matching
    from weightaug import testing as testing

__all__ = [
    "Activation",
    "Affine",
    "AlignTo",
    "AlignedMixup",
    "Architecture",
    "Compose",
    "Dihedral",
    "Dropout",
    "Flip",
    "GaussianNoise",
    "GroupElement",
    "HeadPermutation",
    "HeadRotation",
    "Kind",
    "LabelSmoothing",
    "Lambda",
    "Layer",
    "LoRAGauge",
    "Mixup",
    "OneOf",
    "Permute",
    "PermutedMixup",
    "Points",
    "Pool",
    "Preserves",
    "QuantileDropout",
    "RandomApply",
    "RandomOrder",
    "ReLUScale",
    "Refit",
    "Reflect",
    "Rotate",
    "Rotate90",
    "Scale",
    "SelfMixup",
    "SirenBias",
    "SirenNegation",
    "SomeOf",
    "Space",
    "Standardize",
    "StreamRotation",
    "TensorSpec",
    "TestTime",
    "Transform",
    "Translate",
    "TwoViews",
    "WeightSpaceElement",
    "act",
    "calibrate",
    "cat",
    "collate",
    "convert",
    "make_views",
    "psnr",
    "render",
    "stack",
]

# Loaded when they are first asked for: weightaug.testing, for one, is of no use in training.
_MODULES = ("adapters", "datasets", "fitting", "functional", "io", "layouts", "matching", "plot", "testing")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
