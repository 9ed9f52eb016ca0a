"""What the classifiers of networks have in common: whose networks they read, and how those are normalised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weightaug import Architecture, WeightSpaceElement


class NetworkClassifier(nn.Module):
    """A classifier of networks of one architecture, whose input has one mean and one deviation per tensor.

    One of each per *entry*, as in DWSNets, would tell the neurons apart and break the invariance.

    Args:
        architecture: Of the networks to classify.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        tensors = sum(1 + layer.bias for layer in architecture.layers)
        self.register_buffer("mean", torch.zeros(tensors))
        self.register_buffer("deviation", torch.ones(tensors))

    def set_statistics(self, training_set: WeightSpaceElement) -> None:
        """Takes the scalar mean and deviation of each tensor from the networks of the training set."""
        tensors = training_set.tensors()
        self.mean.copy_(torch.stack([t.mean() for t in tensors]))
        self.deviation.copy_(torch.stack([t.std() if t.numel() > 1 else t.new_ones(()) for t in tensors]))

    @property
    def prepares(self) -> bool:
        """Whether :meth:`prepare` changes networks."""
        return False

    def prepare(self, element: WeightSpaceElement) -> WeightSpaceElement:
        """The networks as :meth:`forward` expects them; costly, so done once for networks that stay as they are."""
        return element

    def normalised(self, element: WeightSpaceElement) -> list[Tensor]:
        """The tensors of the networks, less their means, over their deviations."""
        moments = zip(element.tensors(), self.mean, self.deviation.clamp_min(1e-8), strict=True)
        return [(tensor - mean) / deviation for tensor, mean, deviation in moments]

    def check(self, element: WeightSpaceElement) -> None:
        """Makes sure that these are networks to classify.

        Raises:
            ValueError: If the networks are of another architecture, or have not one batch dimension.
        """
        if element.architecture != self.architecture:
            raise ValueError(f"the model is for {self.architecture!r}, got {element.architecture!r}")
        if len(element.batch_shape) != 1:
            raise ValueError(f"expected networks of batch shape (batch,), got {tuple(element.batch_shape)}")
