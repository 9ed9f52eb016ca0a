"""Modules whose inner results are made again in the backward pass, instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Recompute(torch.autograd.Function):
    """Evaluates a pure function and keeps its inputs only; torch.utils.checkpoint does not work in torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        return function(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.function, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs: list[Tensor] = list(ctx.saved_tensors)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]

        def of_wanted(*some: Tensor) -> tuple[Tensor, ...]:
            for i, tensor in zip(wanted, some, strict=True):
                inputs[i] = tensor
            return ctx.function(*inputs)

        if torch._C._are_functorch_transforms_active():
            pull_back = torch.func.vjp(of_wanted, *(inputs[i] for i in wanted))[1]
            found = pull_back(gradients)
        else:  # vjp prepares for second derivatives, which takes twice the time
            with torch.enable_grad():
                leaves = [inputs[i].detach().requires_grad_() for i in wanted]
                outputs = of_wanted(*leaves)
            found = torch.autograd.grad(outputs, leaves, gradients, allow_unused=True)
        by_index = dict(zip(wanted, found, strict=True))
        return None, *(by_index.get(i) for i in range(len(inputs)))


def recompute(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Calls a module whose inner results are made again in the backward pass.

    Args:
        module: Maps tensors to a tuple of tensors, without side effects or randomness.
        inputs: Its arguments.

    Returns:
        What ``module(*inputs)`` returns.
    """
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    kind = inputs[0].device.type
    # The backward pass runs outside the caller's autocast, and must not compute something else.
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        arguments, values = tensors[: len(inputs)], tensors[len(inputs) :]
        with torch.autocast(kind, dtype=dtype, enabled=enabled):
            return torch.func.functional_call(module, dict(zip(state, values, strict=True)), arguments)

    return _Recompute.apply(function, *inputs, *state.values())
