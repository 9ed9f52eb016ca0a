"""Transforms of the labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from weightaug._operations import check_target, smooth_labels
from weightaug.element import WeightSpaceElement
from weightaug.transforms import settings
from weightaug.transforms.base import Preserves, Transform

__all__ = ["LabelSmoothing"]


@dataclass(frozen=True)
class LabelSmoothing(Transform):
    """Moves a share of every label to all classes alike; the networks stay. Draws nothing.

    Targets are class probabilities ``(*batch, classes)``; y becomes (1 - alpha) y + alpha / classes. One output
    ``(*batch, 1)`` is the probability of one of two classes: (1 - alpha) y + alpha / 2.

    Args:
        alpha: The share that is moved, in [0, 1].

    Raises:
        TypeError: When called with labels that are no tensor, or integers.
        ValueError: When called with targets of another shape, or (on the CPU) with numbers outside of [0, 1].
    """

    preserves: ClassVar[Preserves] = Preserves.FUNCTION
    alpha: float = 0.1

    def __post_init__(self) -> None:
        settings.number(self, "alpha", 0, 1)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.empty((*element.batch_shape, 0), device=element.device)  # nothing, for each network

    def apply(self, element: WeightSpaceElement, params: Tensor) -> WeightSpaceElement:
        return element

    def apply_target(self, target: Any, params: Tensor) -> Any:
        batch = params.shape[:-1]
        check_target(target, batch)
        if target.is_floating_point() and target.dim() == len(batch):
            raise ValueError(
                f"LabelSmoothing: targets must be class probabilities (*batch, classes), got shape "
                f"{tuple(target.shape)} for batch shape {tuple(batch)}; for class indices write "
                "y = torch.nn.functional.one_hot(y.long(), num_classes).float(), for one binary output y.unsqueeze(-1)"
            )
        return smooth_labels(target, self.alpha)
