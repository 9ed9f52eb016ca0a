"""Dtypes of weights."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["WEIGHT_DTYPES", "check_weights_dtype"]

WEIGHT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_weights_dtype(name: str, tensor: Tensor) -> None:
    """Refuses tensors that no network computes with as they are, with advice that loses nothing.

    Raises:
        ValueError: If the dtype is none of float64, float32, bfloat16 and float16.
    """
    dtype = tensor.dtype
    if dtype in WEIGHT_DTYPES:
        return
    if dtype.is_complex:
        fix = "half of each number would be lost in a real one, so there is no place for complex networks"
    elif tensor.is_quantized:
        fix = "give the values that it stands for: tensor.dequantize(), or the model before it was quantised"
    elif dtype.is_floating_point:
        fix = "give the values that it stands for in torch.bfloat16 or wider, times their scale if they have one"
    elif dtype == torch.bool:
        fix = "masks are no weights; give the weights themselves, with the mask multiplied in"
    else:
        fix = (
            "integers in a model are as a rule codes of quantised weights, so give what they stand for (code times "
            "scale); or tensor.to(torch.float32) if they are the weights themselves"
        )
    raise ValueError(f"{name}: expected a floating dtype, got {dtype}; {fix}")
