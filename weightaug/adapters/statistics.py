"""Running statistics of BatchNorm, which mixing leaves behind."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["recompute_statistics"]


@torch.no_grad()
def recompute_statistics(module: nn.Module, data: Iterable[Any]) -> nn.Module:
    """A copy of a module with BatchNorm statistics from data, as after mixing weights they have to be.

    Means and variances are averages over the batches, each of equal weight. Everything but the norms is in eval mode
    meanwhile, so dropout draws nothing; the copy is returned in the mode of the module.

    Args:
        module: A module with BatchNorm; it stays as it is.
        data: Batches of what it takes: a tensor, a tuple of arguments, or a dict of named ones. At least one.

    Raises:
        ValueError: If no BatchNorm keeps running statistics, or there are no data.

    Source: Jordan et al. (2022), REPAIR: the statistics of interpolated networks.
    """
    renewed = copy.deepcopy(module)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    norms = [m for m in renewed.modules() if isinstance(m, kinds) and m.track_running_stats]
    if not norms:
        raise ValueError(
            f"{type(module).__name__} has no BatchNorm that keeps running statistics: nothing to recompute"
        )
    modes = {m: m.training for m in renewed.modules()}
    momenta = [norm.momentum for norm in norms]
    renewed.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain averages
        norm.train()
    count = 0
    for batch in data:
        count += 1
        if isinstance(batch, dict):
            renewed(**batch)
        else:
            renewed(*(batch if isinstance(batch, (tuple, list)) else (batch,)))
    if not count:
        raise ValueError("recompute_statistics needs at least one batch of data, got none")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for m, mode in modes.items():
        m.training = mode
    return renewed
