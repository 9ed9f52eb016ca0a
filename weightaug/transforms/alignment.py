"""Alignment to a frame, as a transform."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.transforms.base import Preserves, Transform
from weightaug.transforms.mixing import PermutedMixup
from weightaug.transforms.symmetry import Permute, ReLUScale, SirenBias, SirenNegation

if TYPE_CHECKING:
    from weightaug.matching import Frame

__all__ = ["AlignTo"]


@dataclass(frozen=True)
class AlignTo(Transform):
    """Aligns every network to the reference of a frame. Preserves the function exactly.

    Draws nothing: a network always ends in the same place, and so do all networks that symmetries turn into it (up to
    rounding and ties). It belongs before training and test data alike, and replaces augmentation by symmetries, which
    ``Compose`` therefore refuses after it.

    Args:
        frame: A :class:`weightaug.matching.Frame` with one reference, or the folder of one. A frame loaded from a
            folder is written as that folder by ``repr`` and ``asdict``; others have no such form.

    Raises:
        TypeError: If the frame is something else.
        ValueError: If it has several references, or when called on networks of another architecture.
    """

    preserves: ClassVar[Preserves] = Preserves.FUNCTION
    reads_values: ClassVar[bool] = True

    frame: Frame

    def __post_init__(self) -> None:
        from weightaug.matching import Frame

        if isinstance(self.frame, (str, os.PathLike)):
            object.__setattr__(self, "frame", Frame.load(self.frame))
        if not isinstance(self.frame, Frame):
            raise TypeError(
                f"AlignTo: expected a Frame or the path of one, got {type(self.frame).__name__}; "
                "weightaug.matching.fit_frame(networks) makes a frame"
            )
        if len(self.frame) != 1:
            raise ValueError(
                f"AlignTo: expected a frame of one reference, got {len(self.frame)}, which would give every network "
                f"{len(self.frame)} places; use AlignTo(frame[0]), or frame.align(networks) for all side by side"
            )

    def check(self, architecture: Architecture) -> None:
        """Raises a ValueError that says what differs if the frame is of another architecture."""
        self.frame.check(architecture)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> GroupElement:
        self.check(element.architecture)
        return self.frame.groups(element).map(lambda t: t.squeeze(-2))

    def apply(self, element: WeightSpaceElement, params: GroupElement) -> WeightSpaceElement:
        return act(element, params)

    def undone_by(self, later: Transform) -> str | None:
        """Why another transform must not come after this one in a ``Compose``, or None."""
        if isinstance(later, (Permute, SirenNegation, SirenBias, ReLUScale, PermutedMixup)):
            return (
                f"{type(later).__name__} moves networks away from the frame again, at random. Leave it out: alignment "
                "replaces augmentation by symmetries"
            )
        return None

    # -- configuration -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"AlignTo({str(self.frame.path)!r})" if self.frame.path is not None else f"AlignTo({self.frame!r})"

    def asdict(self) -> dict[str, Any]:
        """The configuration as plain values, with the folder of the frame.

        Raises:
            TypeError: If the frame was not loaded from a folder.
        """
        if self.frame.path is None:
            raise TypeError(
                "AlignTo: a frame is data, which a configuration names by its folder, and this one has none; write "
                "frame.save(folder), then AlignTo(folder)"
            )
        return {"type": "AlignTo", "frame": str(self.frame.path)}
