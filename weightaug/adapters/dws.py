"""The layout of DWSNets, of neural graphs' batches and of the paper's code."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weightaug._dtypes import WEIGHT_DTYPES
from weightaug.adapters._checks import check_counts, check_parameter, finish, require_biases, require_chain
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["from_dws", "to_dws"]


def _require_linear(architecture: Architecture) -> None:
    require_chain(architecture, "dws")
    require_biases(architecture, "dws")
    for layer in architecture.layers:
        if layer.kernel:
            raise ValueError(
                f"layer {layer.name!r}: the dws layout holds linear layers, got a convolution with kernel "
                f"{layer.kernel}; use adapters.to_nfn or adapters.to_state_dicts"
            )


def from_dws(
    weights: Sequence[Tensor], biases: Sequence[Tensor], architecture: Architecture, *, check_values: bool = True
) -> WeightSpaceElement:
    """Reads the tuples ``(weights, biases)`` of a DWSNets, neural-graphs or paper batch, without copying.

    Note that this layout is (in, out), the transpose of torch's. Between two spaces of one size a wrong
    order cannot be seen; it is refused as soon as one layer is not square.

    Args:
        weights: One per layer, ``(*batch, in, out, 1)``.
        biases: One per layer, ``(*batch, out, 1)``.
        architecture: A chain of linear layers with biases, for example ``Architecture.siren((2, 32, 32, 1))``.
        check_values: Whether to refuse NaN and infinite values, too. Reading them makes a GPU wait.

    Returns:
        An element whose tensors are views of the given ones.

    Raises:
        ValueError: If a tuple or a tensor does not fit the architecture; the message names the layer, what was
            expected, what came, and the fix.
    """
    _require_linear(architecture)
    if _fits(weights, biases, architecture) and not check_values:
        return WeightSpaceElement(
            architecture, tuple([w.squeeze(-1).mT for w in weights]), tuple([b.squeeze(-1) for b in biases])
        )
    check_counts(architecture, weights, biases, "from_dws")
    batch: tuple[int, ...] | None = None
    for i, (layer, weight, bias) in enumerate(zip(architecture.layers, weights, biases, strict=True)):
        out, into = architecture.weight_shape(i)
        advice = "from_dws reads (in, out), torch's weights are (out, in); give weight.mT.unsqueeze(-1)"
        for name, tensor, core, axes in (
            (f"{layer.name}.weight", weight, (into, out, 1), "(*batch, in, out, feature=1)"),
            (f"{layer.name}.bias", bias, (out, 1), "(*batch, out, feature=1)"),
        ):
            _check_feature(name, tensor, core)
            batch = check_parameter(name, tensor, core, batch, axes, advice if name.endswith("weight") else "")
    return finish(architecture, [w.squeeze(-1).mT for w in weights], [b.squeeze(-1) for b in biases], check_values)


def _fits(weights: Sequence[Tensor], biases: Sequence[Tensor], architecture: Architecture) -> bool:
    """Whether everything is as expected, found quickly; if not, the checks one by one say what is wrong."""
    if not isinstance(weights, (tuple, list)) or not isinstance(biases, (tuple, list)):
        return False
    tensors = [*weights, *biases]
    count = len(architecture.layers)
    if len(weights) != count or len(biases) != count or not all([isinstance(t, Tensor) for t in tensors]):
        return False
    first = weights[0]
    batch, dtype, device = first.shape[:-3], first.dtype, first.device
    shapes = [plan.shape for plan in architecture.plan]
    expected = [(*batch, into, out, 1) for out, into in shapes[::2]] + [(*batch, size, 1) for (size,) in shapes[1::2]]
    return dtype in WEIGHT_DTYPES and all(
        [
            t.shape == shape and t.dtype is dtype and t.device == device
            for t, shape in zip(tensors, expected, strict=True)
        ]
    )


def _check_feature(name: str, tensor: Tensor, core: tuple[int, ...]) -> None:
    if tensor.dim() >= len(core) and tuple(tensor.shape[-len(core) : -1]) == core[:-1] and tensor.shape[-1] != 1:
        raise ValueError(
            f"{name}: expected one feature in the last axis, got {tensor.shape[-1]} (shape {tuple(tensor.shape)}); "
            "augment the weights themselves, before features are added to them"
        )


def to_dws(element: WeightSpaceElement) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Writes ``(weights, biases)`` of ``(*batch, in, out, 1)`` and ``(*batch, out, 1)``: inverse of :func:`from_dws`.

    The tensors are views of the element's.

    Raises:
        ValueError: If the architecture is not a chain of linear layers with biases.
    """
    _require_linear(element.architecture)
    weights = tuple(w.mT.unsqueeze(-1) for w in element.weights)
    return weights, tuple(b.unsqueeze(-1) for b in element.biases if b is not None)
