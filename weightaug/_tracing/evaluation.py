"""Evaluating the networks of an architecture that was derived from a module."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from weightaug.element import WeightSpaceElement

__all__ = ["arguments", "evaluate", "skeleton"]


def arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a module from a tensor, a tuple of arguments or a dict of named ones."""
    if isinstance(given, Mapping):
        return (), dict(given)
    return (tuple(given), {}) if isinstance(given, (tuple, list)) else ((given,), {})


def skeleton(module: nn.Module) -> nn.Module:
    """A copy of a module, in eval mode, whose parameters and persistent buffers hold no values."""
    persistent = {id(t) for t in module.state_dict(keep_vars=True).values() if t.is_floating_point()}
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) in persistent:
            empty = tensor.detach().to("meta")
            # Shared with every copy that deepcopy makes, so that tied weights stay tied.
            memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo).eval()


def evaluate(element: WeightSpaceElement, given: Any) -> Any:
    """What the module returns for every network of a batch, stacked along the batch dimensions.

    Raises:
        ValueError: If the architecture comes without a module, as one that was read from JSON does.
    """
    module = element.architecture.module
    if module is None:
        raise ValueError(
            "this architecture was declared or read from a file, so nothing is known that could evaluate it; use "
            "adapters.to_modules(element, like=your_module), or elements of Architecture.from_module(...)"
        )
    args, kwargs = arguments(given)
    names = [spec.name for spec in element.architecture.tensors]
    batch = element.batch_shape
    flat = element.map(lambda t: t.reshape(-1, *t.shape[len(batch) :]) if batch else t.unsqueeze(0))
    results = [
        torch.func.functional_call(module, dict(zip(names, tensors, strict=True)), args, kwargs)
        for tensors in zip(*[t.unbind(0) for t in flat.weights], strict=True)
    ]
    if not results:
        raise ValueError("cannot evaluate an empty batch of modules")
    leaves = [pytree.tree_flatten(result) for result in results]

    def join(values: tuple[Any, ...]) -> Any:
        if not isinstance(values[0], Tensor):
            return values[0]
        return torch.stack(values).reshape(*batch, *values[0].shape)

    joined = [join(values) for values in zip(*[values for values, _ in leaves], strict=True)]
    return pytree.tree_unflatten(joined, leaves[0][1])
