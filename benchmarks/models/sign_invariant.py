"""DWS with the sign symmetry of odd activations built in: what it reads of a neuron does not change with its sign.

A neuron enters by numbers that are odd in its sign (its first weights, bias and last weights, as far as it has them)
and is read by their products, which are even. A matrix between two spaces is odd in the signs at both of its ends, and
is read by its products with one odd number of each. So nothing is lost but the signs (ScaleGMN's idea, on the parts of
DWS).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from benchmarks.models.classifier import NetworkClassifier
from benchmarks.models.dws import Counts, EquivariantLayer, Features, Pool, Reduction, features_of
from weightaug import Architecture, WeightSpaceElement


class SignInvariantDWS(NetworkClassifier):
    """Even features of neurons and matrices, then the equivariant layers and the head of DWS.

    The input is divided by one deviation per tensor; subtracting a mean would break the symmetry.

    Args:
        architecture: Of the networks to classify.
        classes: Number of classes.
        hidden: Channels of the features.
        layers: Number of equivariant layers.
        reduction: How values are pooled.
        batch_norm: Whether the pooled features are batch-normalised.

    Raises:
        ValueError: If a hidden activation is not odd, or the networks are no chains of linear layers with biases.
    """

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        *,
        hidden: int = 24,
        layers: int = 2,
        reduction: Reduction = "max",
        batch_norm: bool = True,
    ) -> None:
        super().__init__(architecture)
        for space in architecture.hidden:
            if space.activation is None or not space.activation.odd:
                raise ValueError(f"signs are a symmetry of odd activations, got {space.activation} at {space.name!r}")
        counts = Counts.of(architecture)
        numbers = [sum(own) for own in counts.own]
        self.neuron_maps = nn.ModuleList([nn.Linear(k * (k + 1) // 2, k * hidden) for k in numbers])
        ends = itertools.pairwise(numbers)
        self.pair_maps = nn.ModuleList([nn.Linear(read * written, hidden) for read, written in ends])
        self.network_map = nn.Linear(counts.outputs, counts.outputs * hidden)
        self.layers = nn.ModuleList(
            [EquivariantLayer(counts, hidden, hidden, reduction, batch_norm) for _ in range(layers)]
        )
        self.pool = Pool(counts, hidden, reduction, batch_norm, head=True)
        self.head = nn.Linear(sum(counts.network) * hidden, classes)

    def set_statistics(self, training_set: WeightSpaceElement) -> None:
        """Takes the root mean square of each tensor from the networks of the training set."""
        self.deviation.copy_(torch.stack([t.square().mean().sqrt() for t in training_set.tensors()]))

    def forward(self, element: WeightSpaceElement) -> Tensor:
        """Class scores ``(batch, classes)`` of a batch of networks."""
        self.check(element)
        tensors = tuple(self.normalised(element))
        pairs, odd, network = features_of(WeightSpaceElement(element.architecture, tensors[0::2], tensors[1::2]))
        neurons = []
        for linear, values in zip(self.neuron_maps, odd, strict=True):
            rows, columns = torch.triu_indices(values.shape[-1], values.shape[-1], device=values.device)
            neurons.append(linear(_compressed(values[..., rows] * values[..., columns])))
        matrices = []
        for i, (linear, pair) in enumerate(zip(self.pair_maps, pairs, strict=True)):
            written, read = odd[i + 1][:, :, None, :, None], odd[i][:, None, :, None, :]
            matrices.append(linear(_compressed(pair * (written * read).flatten(-2))))
        features = Features(tuple(matrices), tuple(neurons), self.network_map(network)).relu_()
        for layer in self.layers:
            features = layer(features).relu_()
        return self.head(self.pool(features)[1])


def _compressed(products: Tensor) -> Tensor:
    """Products on the scale of their factors: a few large ones would rule the batch."""
    return products.sign() * products.abs().sqrt()
