"""Numerical work that no mode around it may disturb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["ordinary", "undisturbed"]


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Arithmetic without autograd, and in full precision, whether or not the caller is in inference or autocast mode.

    Tensors that are made inside are ordinary ones, with which a caller may do what he likes.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def ordinary(tensor: Tensor) -> Tensor:
    """A tensor's values, cut from the graph, for use under :func:`undisturbed`; inference tensors are copied."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
