"""Data augmentations for weight spaces: transforms of data sets whose samples are whole neural networks."""

from weightaug.architecture import Activation, Architecture, Layer, Space
from weightaug.element import WeightSpaceElement, cat, collate, stack
from weightaug.group import GroupElement, Kind, act

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Architecture",
    "GroupElement",
    "Kind",
    "Layer",
    "Space",
    "WeightSpaceElement",
    "act",
    "cat",
    "collate",
    "stack",
]
