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
    solved exactly on the host in float64, by numba if it is installed (several times as fast), else by scipy.
    Both release the GIL, so callers may run several batches in threads. Where several assignments are equally
    good, the two may choose differently. Nothing is recorded for autograd.

    Args:
        score: ``(batch, n, n)``, finite, of any real dtype.

    Returns:
        The columns of the rows, int64 ``(batch, n)`` on the same device; row i gets column ``assignment[i]``.

    Raises:
        TypeError: If the scores are no tensor of real numbers.
        ValueError: If they are no batch of square matrices, or one is not finite.
    """
    score = _checked(score)
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
        TypeError: As for :func:`assign`.
        ValueError: As for :func:`assign`.
    """
    score = _checked(score)
    if not score.numel():
        return score.new_empty(score.shape[:2], dtype=torch.int64), prices
    fast = _loops_for(score)
    if fast is not None:
        unit = _unit(score)
        costs = _on_host(score, unit)
        priced = (prices.detach().to("cpu", torch.float64) / unit.to("cpu").unsqueeze(1)).contiguous()
        columns = torch.empty(priced.shape, dtype=torch.int64, device="cpu")
        fast.assign_many(costs.numpy(), priced.numpy(), columns.numpy())
        return columns.to(score.device), (priced * unit.to("cpu").unsqueeze(1)).to(prices)
    known = prices.where(prices.isfinite(), 0).double()
    priced = score.double() - known.unsqueeze(1)
    found = _without_prices(priced)
    # What row i would gain by column j instead of its own is what j's owner has to ask more than i's. Two
    # sweeps of Bellman-Ford come close enough.
    gain = priced - priced.gather(2, found.unsqueeze(2))
    rise = torch.zeros_like(known)
    for _ in range(2):
        rise = torch.maximum(rise, (gain + rise.gather(1, found).unsqueeze(2)).amax(1))
    return found, (known + rise).to(prices)


def unknown_prices(score: Tensor) -> Tensor:
    """Prices for the first call of :func:`assign_again`: infinite ones, ``(batch, n)``."""
    dtype = score.dtype if score.is_floating_point() else torch.float64
    return score.new_full(score.shape[:2], torch.inf, dtype=dtype)


def _without_prices(score: Tensor) -> Tensor:
    if score.is_cuda and on_device_solver():
        solver = importlib.import_module("torch_linear_assignment")
        columns: Tensor = solver.batch_linear_assignment(score.neg())
        return columns.to(torch.int64)
    if not score.numel():
        return score.new_empty(score.shape[:2], dtype=torch.int64)
    costs = _on_host(score, _unit(score))
    # scipy negates (and copies) one matrix at a time for maximize=True; once for all is cheaper.
    reduced = costs.amax(2, keepdim=True) - costs
    # Costs of zero in every row and column spare scipy a quarter of its search.
    reduced -= reduced.amin(1, keepdim=True)
    matrices = reduced.numpy()
    result = np.empty(matrices.shape[:2], dtype=np.int64)
    for i in range(len(matrices)):
        result[i] = linear_sum_assignment(matrices[i])[1]
    return torch.from_numpy(result).to(score.device)


def _checked(score: Tensor) -> Tensor:
    """Scores without autograd history, checked but for their values.

    Raises:
        TypeError: If they are no tensor of real numbers.
        ValueError: If they are no batch of square matrices.
    """
    if not isinstance(score, Tensor) or score.is_complex():
        got = f"a tensor of {score.dtype}" if isinstance(score, Tensor) else type(score).__name__
        raise TypeError(f"score: expected a tensor of real numbers, got {got}; torch.as_tensor makes one of an array")
    if score.dim() != 3 or score.shape[1] != score.shape[2]:
        raise ValueError(
            f"score: expected square matrices (batch, n, n), got shape {tuple(score.shape)}"
            + ("; score.unsqueeze(0) makes one matrix a batch" if score.dim() == 2 else "")
            + ("; fill up the smaller side with scores below all others" if score.dim() == 3 else "")
        )
    return score.detach()


# Above this, squares and sums of scores might overflow, so they are divided by their size first.
_LARGE = 1e100


def _unit(score: Tensor) -> Tensor:
    """What each matrix of a batch is divided by before it is solved: powers of two, which round nothing, ``(batch,)``.

    Raises:
        ValueError: If a score is not finite.
    """
    low, high = torch.aminmax(score.flatten(1), dim=1)  # either is NaN if a score is
    largest = torch.maximum(low.double().abs(), high.double().abs())
    if not bool(largest.isfinite().all()):
        raise ValueError(
            f"assignment: expected {score.shape[-1]} x {score.shape[-1]} scores that are finite, got "
            f"{int((~score.isfinite()).sum())} that are NaN or infinite"
        )
    power = torch.exp2(largest.clamp_min(1.0).log2().floor())
    return torch.where(largest > _LARGE, power, 1.0)


def _on_host(score: Tensor, unit: Tensor) -> Tensor:
    """Scores in units as contiguous float64 on the host."""
    costs = score.to("cpu", torch.float64).contiguous()
    return costs / unit.to("cpu").view(-1, 1, 1) if bool((unit != 1).any()) else costs


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Batched matrix product.

    On the host through numpy: for batches of small matrices torch starts a team of OpenMP threads in every
    product, whose barriers cost more than the product itself, the more so within worker threads.
    """
    if a.device.type != "cpu":
        return torch.bmm(a, b)
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))
