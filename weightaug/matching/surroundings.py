"""What surrounds a call of matching does not change what it does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from weightaug._modes import untraced

__all__ = ["undisturbed"]

P = ParamSpec("P")
T = TypeVar("T")


def undisturbed(function: Callable[P, T]) -> Callable[P, T]:
    """A decorator: the function runs outside of torch.compile, of autograd and of inference mode.

    A step that is compiled breaks around it: what loops over data until it converges would be traced for minutes.
    Autocast needs no care, since matching computes in float64, which it leaves alone; and every new tensor names its
    device and dtype, so that defaults do not matter.
    """

    @untraced
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run
