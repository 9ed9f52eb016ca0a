"""Linear assignment and products for batches of small matrices."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightaug import _loops

__all__ = ["assign", "assign_again", "matmul", "on_device_solver", "unknown_prices"]


def on_device_solver() -> bool:
    """Whether ``torch-linear-assignment`` is installed, which solves assignments without leaving the GPU."""
    return importlib.util.find_spec("torch_linear_assignment") is not None


def _loops_for(score: Tensor) -> ModuleType | None:
    """The compiled loops, or None where they are not installed, or the scores are solved on the device."""
    return None if score.is_cuda and on_device_solver() else _loops.load("matching")


def assign(score: Tensor) -> Tensor:
    """The assignment of columns to rows with the largest total score, for each matrix of a batch.

    CUDA tensors are solved on the device if ``torch-linear-assignment`` is installed. Everything else is
    solved exactly on the host, by numba if it is installed (several times as fast), else by scipy. Both
    release the GIL, so callers may run several batches in threads.

    Args:
        score: ``(batch, n, n)``, finite.

    Returns:
        int64 ``(batch, n)`` on the same device: row i gets column ``assignment[i]``.

    Raises:
        ValueError: If a score is not finite.
    """
    if _loops_for(score) is not None:
        return assign_again(score, unknown_prices(score))[0]
    return _without_prices(score)


def assign_again(score: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
    """Like :func:`assign`, for a problem that resembles one that was solved before.

    A price per column changes no assignment, because every column is taken once; but with prices at which
    each row likes its own column best, the search has little left to do. Those of the last problem of a pair
    nearly are such prices, which halves the time of a coordinate descent.

    Args:
        score: ``(batch, n, n)``, finite.
        prices: ``(batch, n)``; :func:`unknown_prices`, or what the last call returned. Any values give the
            right assignment.

    Returns:
        The assignment, and prices for the next call.

    Raises:
        ValueError: If a score is not finite.
    """
    fast = _loops_for(score)
    if fast is not None:
        _check_finite(score)
        costs, prices = score.to("cpu", torch.float64).contiguous(), prices.to("cpu", torch.float64, copy=True)
        columns = torch.empty(prices.shape, dtype=torch.int64, device="cpu")
        fast.assign_many(costs.numpy(), prices.numpy(), columns.numpy())
        return columns.to(score.device), prices.to(score)
    prices = prices.where(prices.isfinite(), 0)
    priced = score - prices.unsqueeze(1)
    found = _without_prices(priced)
    # What row i would gain by column j instead of its own is what j's owner has to ask more than i's. Two
    # sweeps of Bellman-Ford come close enough.
    gain = priced - priced.gather(2, found.unsqueeze(2))
    rise = torch.zeros_like(prices)
    for _ in range(2):
        rise = torch.maximum(rise, (gain + rise.gather(1, found).unsqueeze(2)).amax(1))
    return found, prices + rise


def unknown_prices(score: Tensor) -> Tensor:
    """Prices for the first call of :func:`assign_again`: infinite ones, ``(batch, n)``."""
    return torch.full_like(score[:, 0], torch.inf)


def _without_prices(score: Tensor) -> Tensor:
    if score.is_cuda and on_device_solver():
        solver = importlib.import_module("torch_linear_assignment")
        columns: Tensor = solver.batch_linear_assignment(score.neg())
        return columns.to(torch.int64)
    _check_finite(score)
    # scipy negates (and copies) one matrix at a time for maximize=True; once for all is cheaper.
    reduced = score.amax(2, keepdim=True) - score
    # Costs of zero in every row and column spare scipy a quarter of its search.
    reduced -= reduced.amin(1, keepdim=True)
    costs = reduced.to("cpu", torch.float64).numpy()
    result = np.empty(costs.shape[:2], dtype=np.int64)
    for i in range(len(costs)):
        result[i] = linear_sum_assignment(costs[i])[1]
    return torch.from_numpy(result).to(score.device)


def _check_finite(score: Tensor) -> None:
    """Checks the scores of a batch of assignments, or sums of them.

    Raises:
        ValueError: If one is not finite.
    """
    if not score.sum().isfinite():  # a single pass; a sum of finite scores only overflows where they nearly do
        raise ValueError(
            f"assignment: expected {score.shape[-1]} x {score.shape[-1]} scores that are finite, and so is their sum, "
            f"got {int((~score.isfinite()).sum())} that are NaN or infinite; the weights are too large to be matched"
        )


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Batched matrix product.

    On the host through numpy: for batches of small matrices torch starts a team of OpenMP threads in every
    product, whose barriers cost more than the product itself, the more so within worker threads.
    """
    if a.device.type != "cpu":
        return torch.bmm(a, b)
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))
