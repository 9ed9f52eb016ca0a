"""Modules of a declared architecture: tensors by the names of a state dict."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["fill_module", "read_modules"]


def read_modules(modules: Sequence[nn.Module], architecture: Architecture, *, single: bool) -> WeightSpaceElement:
    """The tensors of modules, by the names of a declared architecture.

    Args:
        modules: Modules of one class.
        architecture: A declared architecture.
        single: Whether the one module gives one network, whose tensors share memory with its own, not a batch.

    Raises:
        ValueError: If a module lacks a tensor, has one too many, or one of another shape, dtype or device.
    """
    rows = [_row(i, module.state_dict(), architecture) for i, module in enumerate(modules)]
    for i, row in enumerate(rows):
        for spec, tensor, first in zip(architecture.tensors, row, rows[0], strict=True):
            if tensor.dtype != first.dtype or tensor.device != first.device:
                raise ValueError(
                    f"module {i}: {spec.name} is {tensor.dtype} on {tensor.device}, that of module 0 {first.dtype} on "
                    f"{first.device}; convert with .to()"
                )
    tensors = rows[0] if single else [torch.stack(column) for column in zip(*rows, strict=True)]
    return WeightSpaceElement(architecture, tuple(tensors), ())


def _row(index: int, state: Mapping[str, Tensor], architecture: Architecture) -> list[Tensor]:
    row = []
    for spec in architecture.tensors:
        tensor = state.get(spec.name)
        if tensor is None or tuple(tensor.shape) != spec.shape:
            got = "none" if tensor is None else str(tuple(tensor.shape))
            raise ValueError(
                f"module {index}: expected a tensor {spec.name!r} of shape {spec.shape}, got {got}; its "
                "architecture is another: derive it with Architecture.from_module(module, example_input)"
            )
        row.append(tensor.detach())
    kept = {tensor.data_ptr() for tensor in row if tensor.numel()}
    extra = [n for n, t in state.items() if t.is_floating_point() and t.numel() and t.data_ptr() not in kept]
    if extra:
        raise ValueError(
            f"module {index} has tensors that the architecture does not know: {extra[:5]}; derive the architecture "
            "from this module"
        )
    return row


def fill_module(like: nn.Module, element: WeightSpaceElement) -> nn.Module:
    """A copy of a module with the tensors of one network; tied weights stay tied.

    Raises:
        ValueError: If a tensor is missing in the module, or has another shape.
    """
    own = like.state_dict(keep_vars=True)
    memo: dict[int, Tensor] = {}
    for name, tensor in element.named_tensors():
        target = own.get(name)
        if target is None or target.shape != tensor.shape:
            got = "none" if target is None else str(tuple(target.shape))
            raise ValueError(f"like: expected a tensor {name!r} of shape {tuple(tensor.shape)}, got {got}")
        filled = tensor.detach().clone()
        is_parameter = isinstance(target, nn.Parameter)
        memo[id(target)] = nn.Parameter(filled) if is_parameter else filled
    # Wherever the module holds one of its tensors, the copy holds the new one, so tied weights stay tied.
    return copy.deepcopy(like, memo)
