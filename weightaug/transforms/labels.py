"""Transforms of the labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weightaug.element import WeightSpaceElement
from weightaug.functional import smooth_labels
from weightaug.transforms.base import Preserves, Transform, check_range

__all__ = ["LabelSmoothing"]


@dataclass(frozen=True)
class LabelSmoothing(Transform):
    """Moves a share of every label to all classes alike; the networks stay. Draws nothing.

    Targets are class probabilities ``(*batch, classes)``; y becomes (1 - alpha) y + alpha / classes.

    Args:
        alpha: The share that is moved, in [0, 1].

    Raises:
        TypeError: When called with integer labels.
    """

    preserves: ClassVar[Preserves] = Preserves.FUNCTION
    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, "alpha", self.alpha, 0, 1)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> tuple[()]:
        return ()

    def apply(self, element: WeightSpaceElement, params: tuple[()]) -> WeightSpaceElement:
        return element

    def apply_target(self, target: Any, params: tuple[()]) -> Any:
        return smooth_labels(target, self.alpha)
