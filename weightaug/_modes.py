"""The mode that surrounds a call must not decide about its result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["autocast_off", "runs_at_once", "untraced", "wide", "without_autocast"]

P = ParamSpec("P")
R = TypeVar("R")

_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function outside of autocast, which is meant for activations and would round weights.

    Under ``torch.autocast`` a product of matrices would come in half precision, and a norm, sum or reciprocal of
    half-precision weights in single precision, so that values or dtypes of networks would change.
    """

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _any_active():
            return function(*args, **kwargs)
        with autocast_off():
            return function(*args, **kwargs)

    return exact


def autocast_off() -> AbstractContextManager[object]:
    """A context without autocast on any device, for a part of a function; see :func:`without_autocast`."""
    stack = ExitStack()
    for device in _active():
        stack.enter_context(torch.autocast(device, enabled=False))
    return stack


def _any_active() -> bool:
    # One question where that is possible: small networks feel three, in each of the calls that a transform makes.
    if torch.compiler.is_compiling():
        return bool(_active())
    return bool(torch._C._is_any_autocast_enabled())


def _active() -> list[str]:
    return [device for device in _AUTOCAST_DEVICES if torch.is_autocast_enabled(device)]


def runs_at_once(tensor: Tensor) -> bool:
    """Whether an operation on a tensor is carried out when it is called, and nobody looks on.

    Not while a step is compiled or exported, under ``vmap`` and its kind, and for tensors that only look like some.
    Shorter ways to the same numbers, which those could not follow, are open then.
    """
    return (
        type(tensor) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: a compiled step breaks around the function, which runs as it is written."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            # Disabled here, not when the module is imported: that would load the compiler for everybody.
            result: R = torch.compiler.disable(function)(*args, **kwargs)
            return result
        return function(*args, **kwargs)

    return run


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype for what is no weight (positions, angles, norms, shares): the weights' own, but at least float32."""
    return torch.promote_types(dtype, torch.float32)
