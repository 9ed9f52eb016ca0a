"""Plain readers: perceptrons on the weights as they are, on weights aligned to a frame, and on values of the function.

They know nothing of symmetries. What they reach is what the data give away; what a reader of values reaches is the
yardstick above all: it never sees a weight.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.models.classifier import NetworkClassifier
from weightaug import Architecture, WeightSpaceElement
from weightaug.matching import Frame, fit_frame

Reads = Literal["weights", "member", "frame", "frames", "values"]

# What a reader of aligned weights aligns to: how many references of which kind.
FRAMES: dict[Reads, tuple[int, Literal["mean", "member"]]] = {
    "member": (1, "member"),
    "frame": (1, "mean"),
    "frames": (8, "member"),
}

FRAME_OF = 500  # networks of the training set, at most, of which the frame is the mean


class PerceptronReader(NetworkClassifier):
    """A perceptron on numbers of a network, each with a mean and a deviation of its own.

    Args:
        architecture: Of the networks to classify.
        classes: Number of classes.
        reads: "weights" as they are; "frame": the weights of the network aligned to the mean frame of the training set
            over its whole symmetry group, "member": to one network of it, "frames": to 8, side by side; "values":
            outputs at fixed random points in [-1, 1].
        hidden: Units of a hidden layer.
        layers: Hidden layers.
        dropout: Share of the units that is set to zero in training.
        points: Number of points, drawn from a seed of their own: the same for all readers.
    """

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        *,
        reads: Reads = "weights",
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.2,
        points: int = 64,
    ) -> None:
        super().__init__(architecture)
        self.reads, inputs = reads, architecture.inputs[0].size
        self.points: Tensor
        self.register_buffer("points", 2 * torch.rand(points, inputs, generator=torch.Generator().manual_seed(0)) - 1)
        references, _ = FRAMES.get(reads, (1, "member"))
        weights = references * architecture.num_parameters
        count = points * architecture.outputs[0].size if reads == "values" else weights
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        sizes = [count, *[hidden] * layers]
        steps = [
            nn.Sequential(nn.Linear(ins, outs), nn.ReLU(), nn.Dropout(dropout))
            for ins, outs in itertools.pairwise(sizes)
        ]
        self.body = nn.Sequential(*steps, nn.Linear(sizes[-1], classes))
        self._frame: Frame | None = None

    @property
    def prepares(self) -> bool:
        """Whether :meth:`prepare` changes networks."""
        return self.reads in FRAMES

    def set_statistics(self, training_set: WeightSpaceElement) -> None:
        """Takes the frame, and the mean and deviation of each number, from the networks of the training set."""
        if self.reads in FRAMES:
            references, kind = FRAMES[self.reads]
            generator = torch.Generator().manual_seed(0)
            self._frame = fit_frame(training_set[:FRAME_OF], references, kind=kind, generator=generator)
        numbers = self.numbers(self.prepare(training_set))
        self.centre.copy_(numbers.mean(0))
        self.spread.copy_(numbers.std(0) if len(numbers) > 1 else torch.ones_like(self.spread))

    def prepare(self, element: WeightSpaceElement) -> WeightSpaceElement:
        """The networks as :meth:`forward` expects them: ``(batch, references)`` if there is a frame."""
        return element if self._frame is None else self._frame.align(element)

    def numbers(self, element: WeightSpaceElement) -> Tensor:
        """What is read of prepared networks, ``(batch, numbers)``."""
        return (element(self.points) if self.reads == "values" else element.flatten()).flatten(1)

    def forward(self, element: WeightSpaceElement) -> Tensor:
        """Class scores ``(batch, classes)`` of a batch of prepared networks."""
        self.check(element if self._frame is None else element[:, 0])
        return self.body((self.numbers(element) - self.centre) / self.spread.clamp_min(1e-8))
