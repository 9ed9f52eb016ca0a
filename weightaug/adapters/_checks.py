"""Checks that the adapters share: what came from outside is refused before it is misread."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug._dtypes import check_weights_dtype
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["check_counts", "check_parameter", "check_placement", "finish", "require_biases", "require_chain"]


def require_chain(architecture: Architecture, layout: str) -> None:
    """Refuses an architecture whose layers are not one chain of linear maps.

    Raises:
        ValueError: If the layout cannot hold the architecture.
    """
    if not architecture.is_chain:
        raise ValueError(
            f"the {layout} layout holds one chain of layers, got an architecture whose layers branch or join: "
            f"{[f'{l.name}: {l.reads} -> {l.writes}' for l in architecture.layers]}; use adapters.to_state_dicts"
        )


def require_biases(architecture: Architecture, layout: str) -> None:
    """Refuses an architecture with a layer without bias.

    Raises:
        ValueError: If a layer has none.
    """
    for layer in architecture.layers:
        if not layer.bias:
            raise ValueError(
                f"layer {layer.name!r}: the {layout} layout needs a bias for every layer, and the architecture "
                f"declares bias=False; declare bias=True and give it zeros, {layout} has no place for 'none'"
            )


def check_counts(architecture: Architecture, weights: Sequence[Tensor], biases: Sequence[Tensor], layout: str) -> None:
    """Refuses tuples that have not one entry per layer.

    Raises:
        ValueError: If a tuple is too short or too long, or not a tuple or list at all.
    """
    zeros = "; a missing bias must be given as zeros"
    for kind, given in (("weights", weights), ("biases", biases)):
        if isinstance(given, Tensor):
            raise ValueError(
                f"{layout}: {kind} must be a tuple of tensors, one per layer, got one tensor of shape "
                f"{tuple(given.shape)}"
            )
        if len(given) != len(architecture.layers):
            raise ValueError(
                f"{layout}: expected {len(architecture.layers)} {kind}, one for each of the layers "
                f"{[l.name for l in architecture.layers]}, got {len(given)}{zeros if kind == 'biases' else ''}"
            )
        for layer, tensor in zip(architecture.layers, given, strict=True):
            if not isinstance(tensor, Tensor):
                raise ValueError(
                    f"{layout}: {kind} of layer {layer.name!r}: expected a tensor, got {type(tensor).__name__}"
                    + (zeros if tensor is None else "; torch.as_tensor converts arrays")
                )


def check_parameter(
    name: str, tensor: Tensor, core: Sequence[int], batch: Sequence[int] | None, axes: str, swapped: str = ""
) -> tuple[int, ...]:
    """Checks one tensor of a foreign layout, and returns its batch shape.

    Args:
        name: What to call it in an error.
        tensor: The tensor.
        core: The expected trailing shape.
        batch: The expected batch shape; None for any.
        axes: The axes that the layout expects, for the error.
        swapped: What to advise when the read and written axes came in the other order.

    Raises:
        ValueError: If the shape does not fit.
    """
    got, core = tuple(tensor.shape), tuple(core)
    lead = got[: len(got) - len(core)]
    if len(got) >= len(core) and got[len(lead) :] == core and (batch is None or lead == tuple(batch)):
        return lead
    expected = f"{('*batch' if batch is None else tuple(batch))} + {core}"
    hint = ""
    if swapped and len(got) >= len(core) and sorted(got[len(lead) :]) == sorted(core) and got[len(lead) :] != core:
        hint = f"; the axes look swapped: {swapped}"
    elif batch is not None and len(got) >= len(core) and got[len(lead) :] == core:
        hint = "; its batch differs from the first layer's"
    raise ValueError(f"{name}: expected shape {expected}, axes {axes}, got {got}{hint}")


def check_placement(name: str, tensor: Tensor, first: Tensor) -> None:
    """Refuses a tensor that is not of floating dtype, or of another dtype or device than the first.

    Raises:
        ValueError: If it is.
    """
    check_weights_dtype(name, tensor)
    if tensor.dtype != first.dtype or tensor.device != first.device:
        raise ValueError(
            f"{name}: expected {first.dtype} on {first.device} like the first tensor, got {tensor.dtype} on "
            f"{tensor.device}; convert with .to()"
        )


def finish(
    architecture: Architecture, weights: Sequence[Tensor], biases: Sequence[Tensor | None], check_values: bool
) -> WeightSpaceElement:
    """Makes the element; shapes are already checked, dtypes, devices and (on request) values are here.

    Raises:
        ValueError: If something does not fit; see :meth:`weightaug.WeightSpaceElement.validate`.
    """
    element = WeightSpaceElement(architecture, tuple(weights), tuple(biases))
    for name, tensor in element.named_tensors():
        check_placement(name, tensor, element.weights[0])
    # Looking at values makes a GPU wait and cannot be traced, so a training step may leave it out.
    return element.validate() if check_values and not torch.compiler.is_compiling() else element
