"""Errors of many networks at once, and their gradients.

Chains of sines, which INRs are, have gradients that are written out: a few matrix products, sines and cosines,
about twice as fast as autograd. Everything else that an element can evaluate goes through autograd.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["Chain", "ErrorFunction", "error_function"]


class ErrorFunction(Protocol):
    """The mean squared error of the networks of one architecture.

    ``params`` are the tensors of an element ``(n,)`` in their order, coordinates ``(points, inputs)`` or ``(n, points,
    inputs)``, and targets ``(n, points * outputs)``.
    """

    def error(self, params: list[Tensor], coordinates: Tensor, targets: Tensor) -> Tensor:
        """The error of each network, ``(n,)``."""
        ...

    def error_and_gradients(
        self, params: list[Tensor], coordinates: Tensor, targets: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The error of each network, ``(n,)``, and its gradients in the order of the parameters."""
        ...


def error_function(architecture: Architecture) -> ErrorFunction:
    """The fastest error function of an architecture."""
    names = {space.activation.name for space in architecture.hidden if space.activation}
    biases = all(layer.bias and not layer.kernel for layer in architecture.layers)
    if architecture.is_chain and names == {"sine"} and biases:
        return Chain(architecture)
    return _Any(architecture)


class Chain:
    """A chain of sine layers with biases.

    Args:
        architecture: Of the networks.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._omegas = [space.activation.omega for space in architecture.hidden if space.activation]
        self._offset = architecture.output_offset

    def error(self, params: list[Tensor], coordinates: Tensor, targets: Tensor) -> Tensor:
        """See :class:`ErrorFunction`."""
        values = coordinates.expand(len(targets), -1, -1)
        for weight, bias, omega in zip(params[0:-2:2], params[1:-2:2], self._omegas, strict=True):
            values = torch.baddbmm(bias.unsqueeze(1), values, weight.mT).mul_(omega).sin_()
        output = torch.baddbmm(params[-1].unsqueeze(1), values, params[-2].mT).flatten(1)
        return output.add_(self._offset).sub_(targets).square_().mean(-1)

    def error_and_gradients(
        self, params: list[Tensor], coordinates: Tensor, targets: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """See :class:`ErrorFunction`."""
        weights, biases, omegas = params[0::2], params[1::2], self._omegas
        count, entries = targets.shape
        inputs = [coordinates.expand(count, -1, -1)]  # of each layer
        slopes = []  # of each sine at its pre-activation
        for weight, bias, omega in zip(weights, biases, omegas, strict=False):
            phase = torch.baddbmm(bias.unsqueeze(1), inputs[-1], weight.mT).mul_(omega)
            slopes.append(torch.cos(phase))
            inputs.append(phase.sin_())
        output = torch.baddbmm(biases[-1].unsqueeze(1), inputs[-1], weights[-1].mT)
        residual = output.flatten(1).add_(self._offset).sub_(targets)
        error = residual.square().mean(-1)

        gradients: list[Tensor] = []
        upstream = residual.mul_(2 / entries).view(output.shape)
        for layer in reversed(range(len(weights))):
            gradients = [upstream.mT @ inputs[layer], upstream.sum(1), *gradients]
            if layer:
                upstream = (upstream @ weights[layer]).mul_(slopes[layer - 1]).mul_(omegas[layer - 1])
        return error, gradients


class _Any:
    """Whatever an element can evaluate, by autograd."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture

    def _outputs(self, params: list[Tensor], coordinates: Tensor) -> Tensor:
        given = iter(params)
        weights, biases = [], []
        for layer in self._architecture.layers:
            weights.append(next(given))
            biases.append(next(given) if layer.bias else None)
        networks = WeightSpaceElement(self._architecture, tuple(weights), tuple(biases))
        return networks(coordinates, per_network=coordinates.dim() == 3)

    def error(self, params: list[Tensor], coordinates: Tensor, targets: Tensor) -> Tensor:
        """See :class:`ErrorFunction`."""
        return (self._outputs(params, coordinates).flatten(1) - targets).square().mean(-1)

    def error_and_gradients(
        self, params: list[Tensor], coordinates: Tensor, targets: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """See :class:`ErrorFunction`."""
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in params]
            error = self.error(leaves, coordinates, targets)
            gradients = torch.autograd.grad(error.sum(), leaves)
        return error.detach(), list(gradients)
