"""Assertions about tensors and about the functions of networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug.element import WeightSpaceElement
from weightaug.testing.networks import sample_points

__all__ = ["assert_close", "assert_close_outputs", "assert_equal", "assert_same_function"]


def assert_equal(a: Any, b: Any, message: str = "") -> None:
    """Asserts that two pytrees of tensors are equal bit for bit (NaN equals NaN)."""
    _compare(a, b, message, lambda x, y: x.dtype == y.dtype and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)))


def assert_close(a: Any, b: Any, message: str = "", *, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """Asserts that two pytrees of tensors are equal up to rounding."""
    _compare(a, b, message, lambda x, y: x.dtype == y.dtype and torch.allclose(x, y, rtol=rtol, atol=atol))


def _compare(a: Any, b: Any, message: str, same: Callable[[Tensor, Tensor], bool]) -> None:
    flat_a, tree_a = pytree.tree_flatten(a)
    flat_b, tree_b = pytree.tree_flatten(b)
    assert tree_a == tree_b, f"{message}: different structure: {tree_a} and {tree_b}"
    for i, (x, y) in enumerate(zip(flat_a, flat_b, strict=True)):
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            assert x.shape == y.shape, f"{message}: tensor {i} has shape {tuple(x.shape)} and {tuple(y.shape)}"
            gap = (x - y).abs().max() if x.is_floating_point() and x.numel() else ""
            assert same(x, y), f"{message}: tensor {i} differs (largest difference {gap})"
        else:
            assert x == y, f"{message}: entry {i} differs: {x!r} and {y!r}"


def assert_same_function(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    x: Tensor | None = None,
    *,
    tolerance: float = 1e-8,
    message: str = "the networks compute different functions",
) -> None:
    """Asserts that two batches of networks compute the same functions, by evaluating them.

    Args:
        a: Networks.
        b: Networks of the same batch shape.
        x: Coordinates, ``(n, in)``; None for random ones in [-1, 1].
        tolerance: Largest difference, relative to 1 + the largest output.
        message: What the AssertionError begins with.
    """
    x = sample_points(a.architecture).to(a.dtype) if x is None else x
    assert_close_outputs(a(x), b(x), tolerance, message)


def assert_close_outputs(ours: Tensor, theirs: Tensor, tolerance: float, message: str) -> None:
    """Asserts that outputs agree, up to a tolerance relative to 1 + the largest output."""
    if ours.numel() == 0:
        return
    gap = (ours - theirs).abs().max() / (1 + theirs.abs().max())
    assert gap <= tolerance, f"{message}: outputs differ by {float(gap):.3g} (relative), tolerance {tolerance:.3g}"
