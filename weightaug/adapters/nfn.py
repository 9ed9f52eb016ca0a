"""The layout of neural functional networks (NFN): a channel axis, then torch's own order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from weightaug.adapters._checks import check_counts, check_parameter, finish, require_biases, require_chain
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["from_nfn", "to_nfn"]


def from_nfn(
    weights: Sequence[Tensor] | Any,
    biases: Sequence[Tensor] | Architecture,
    architecture: Architecture | None = None,
    *,
    check_values: bool = True,
) -> WeightSpaceElement:
    """Reads the weights and biases of NFN's ``WeightSpaceFeatures``, without copying.

    Args:
        weights: One per layer, ``(*batch, 1, out, in, *kernel)``; or NFN's own batch, which has ``weights`` and
            ``biases``, followed by the architecture: ``from_nfn(batch, architecture)``.
        biases: One per layer, ``(*batch, 1, out)``.
        architecture: A chain of layers with biases.
        check_values: Whether to refuse NaN and infinite values, too. Reading them makes a GPU wait.

    Returns:
        An element whose tensors are views of the given ones.

    Raises:
        ValueError: If a tuple or a tensor does not fit the architecture; the message names the layer, what was
            expected, what came, and the fix.
    """
    if isinstance(biases, Architecture) and architecture is None:
        if not (hasattr(weights, "weights") and hasattr(weights, "biases")):
            raise TypeError(
                f"from_nfn: expected a batch with weights and biases before the architecture, got "
                f"{type(weights).__name__}; or give from_nfn(weights, biases, architecture)"
            )
        return from_nfn(weights.weights, weights.biases, biases, check_values=check_values)
    if not isinstance(architecture, Architecture) or isinstance(biases, Architecture):
        raise TypeError("from_nfn: expected an architecture after the weights and biases, or after a batch of NFN")
    require_chain(architecture, "nfn")
    require_biases(architecture, "nfn")
    check_counts(architecture, weights, biases, "from_nfn")
    batch: tuple[int, ...] | None = None
    for i, (layer, weight, bias) in enumerate(zip(architecture.layers, weights, biases, strict=True)):
        shape = architecture.weight_shape(i)
        advice = "from_nfn reads (channel=1, out, in), torch's own order; give weight.mT for (in, out)"
        for name, tensor, core, axes in (
            (f"{layer.name}.weight", weight, (1, *shape), "(*batch, channel=1, out, in, *kernel)"),
            (f"{layer.name}.bias", bias, (1, shape[0]), "(*batch, channel=1, out)"),
        ):
            _check_channel(name, tensor, core)
            batch = check_parameter(name, tensor, core, batch, axes, advice if name.endswith("weight") else "")
    squeezed = [w.squeeze(w.dim() - 3 - len(l.kernel)) for w, l in zip(weights, architecture.layers, strict=True)]
    return finish(architecture, squeezed, [b.squeeze(-2) for b in biases], check_values)


def _check_channel(name: str, tensor: Tensor, core: tuple[int, ...]) -> None:
    if tensor.dim() >= len(core) and tuple(tensor.shape[tensor.dim() - len(core) + 1 :]) == core[1:]:
        channels = tensor.shape[-len(core)]
        if channels != 1:
            raise ValueError(
                f"{name}: expected one channel, got {channels} (shape {tuple(tensor.shape)}); augment the weights "
                "themselves, before channels are added to them, and give unbatched tensors a channel axis of 1"
            )


def to_nfn(element: WeightSpaceElement) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Writes ``(*batch, 1, out, in, *kernel)`` and ``(*batch, 1, out)``: inverse of :func:`from_nfn`.

    The tensors are views of the element's. NFN itself expects exactly one batch dimension.

    Raises:
        ValueError: If the architecture is not a chain of layers with biases.
    """
    require_chain(element.architecture, "nfn")
    require_biases(element.architecture, "nfn")
    dims = len(element.batch_shape)
    weights = tuple(w.unsqueeze(dims) for w in element.weights)
    return weights, tuple(b.unsqueeze(dims) for b in element.biases if b is not None)
