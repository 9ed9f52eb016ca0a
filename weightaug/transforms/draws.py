"""Random draws on the generator's device, one per element of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from weightaug._arguments import check_generator
from weightaug._modes import untraced, wide
from weightaug.element import WeightSpaceElement


def place(element: WeightSpaceElement, generator: torch.Generator | None) -> torch.device:
    """Where draws happen: on the generator's device, so that its seed gives the same draws everywhere."""
    if generator is None:
        return element.device
    check_generator(generator)
    return generator.device


def words(
    element: WeightSpaceElement, shape: Sequence[int], generator: torch.Generator | None, *, dtype: torch.dtype
) -> Tensor:
    """Random integers ``shape``, uniform over all that int32 or int64 can hold, where draws happen."""
    device = place(element, generator)
    count = math.prod(shape)
    # Two 32-bit words from each 64-bit draw, which on a CPU takes little longer than a 32-bit one.
    half = 2 if dtype is torch.int32 else 1
    drawn = torch.empty(-(-count // half), dtype=torch.int64, device=device)
    drawn = drawn.random_(-(2**63), None, generator=generator)
    if half == 2 and torch.compiler.is_compiling():
        # The same words: compiled graphs fail on a view of another dtype when the batch changes its size.
        drawn = torch.stack([(drawn << 32) >> 32, drawn >> 32], -1).flatten().to(torch.int32)
    else:
        drawn = drawn.view(dtype)
    drawn = drawn if drawn.numel() == count else drawn[:count]
    return drawn if len(shape) == 1 else drawn.view(tuple(shape))


STEPS = 2**23


def steps(element: WeightSpaceElement, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Uniform integers ``shape`` in [-STEPS, STEPS), which float32 holds exactly, as float32 where draws happen."""
    return words(element, shape, generator, dtype=torch.int32).bitwise_right_shift_(8).float()


def uniform(
    element: WeightSpaceElement,
    shape: Sequence[int],
    low: float,
    high: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Uniform in [low, high), in the element's dtype, but at least in single precision: what is drawn is no weight."""
    device = place(element, generator)
    drawn = torch.empty((*element.batch_shape, *shape), dtype=wide(element.dtype), device=device)
    return drawn.uniform_(low, high, generator=generator).to(element.device)


def chance(element: WeightSpaceElement, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Uniform in [0, 1) in double precision, so that p = 1 and p = 0 mean always and never."""
    device = place(element, generator)
    drawn = torch.empty((*element.batch_shape, *shape), dtype=torch.float64, device=device)
    return drawn.uniform_(generator=generator).to(element.device)


def normal(
    element: WeightSpaceElement,
    shape: Sequence[int],
    generator: torch.Generator | None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standard normal, in the element's dtype or another."""
    device = place(element, generator)
    drawn = torch.empty((*element.batch_shape, *shape), dtype=dtype or element.dtype, device=device)
    return drawn.normal_(generator=generator).to(element.device)


def bernoulli(element: WeightSpaceElement, shape: Sequence[int], p: float, generator: torch.Generator | None) -> Tensor:
    """1 with probability p, else 0, in the element's dtype."""
    # Drawn in single precision for every dtype, so that p = 1 means always. Comparing in place keeps it in
    # floats: Tensor.bernoulli_ takes three times as long, and a mask of bools four times as long to apply.
    drawn = steps(element, (*element.batch_shape, *shape), generator)
    return drawn.lt_((2 * p - 1) * STEPS).to(element.device, element.dtype)


def signs(element: WeightSpaceElement, shape: Sequence[int], p: float, generator: torch.Generator | None) -> Tensor:
    """-1 with probability p, else 1, in the element's dtype."""
    drawn = words(element, (*element.batch_shape, *shape), generator, dtype=torch.int32)
    if p != 0.5:
        # The same decisions as those of `bernoulli`: a step is below the bound if the difference is negative.
        drawn = drawn.bitwise_right_shift_(8).sub_(math.ceil((2 * p - 1) * STEPS))
    return drawn.bitwise_right_shift_(31).bitwise_or_(1).to(element.device, element.dtype)  # the sign bit, as -1 or 1


def integers(
    element: WeightSpaceElement,
    shape: Sequence[int],
    low: int,
    high: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Uniform integers in [low, high], both ends included, as int64."""
    device = place(element, generator)
    drawn = torch.empty((*element.batch_shape, *shape), dtype=torch.int64, device=device)
    return drawn.random_(low, high + 1, generator=generator).to(element.device)


def permutations(element: WeightSpaceElement, sizes: Sequence[int], generator: torch.Generator | None) -> list[Tensor]:
    """Uniform permutations, int64: one ``(*batch, size)`` for every size."""
    batch = element.batch_shape
    if len(set(sizes)) == 1:  # one draw for all
        return list(orders(element, (*batch, len(sizes), sizes[0]), generator).unbind(-2))
    return [orders(element, (*batch, size), generator) for size in sizes]


def orders(element: WeightSpaceElement, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Uniform permutations ``shape`` along the last dimension: the order of random keys that carry their position."""
    size = shape[-1]
    bits = max(size - 1, 1).bit_length()
    # 26 random bits and more tell 64 neurons apart as well as random floats would; larger spaces get more.
    keys = words(element, shape, generator, dtype=torch.int32 if bits <= 6 else torch.int64)
    if keys.device.type == "cpu" and keys.numel() and not torch.compiler.is_compiling():
        # NumPy sorts short rows of integers several times faster than torch, which also keeps indices.
        rows = keys.numpy()
        rows &= -(2**bits)
        rows |= np.arange(size, dtype=rows.dtype)
        rows.sort(-1)
        rows &= 2**bits - 1
    else:
        position = torch.arange(size, dtype=keys.dtype, device=keys.device)
        keys = keys.bitwise_and_(-(2**bits)).bitwise_or_(position).sort(-1).values.bitwise_and_(2**bits - 1)
    return keys.to(element.device, torch.int64)


def beta(element: WeightSpaceElement, alpha: float, generator: torch.Generator | None) -> Tensor:
    """Beta(alpha, alpha), one number per element: the inverse distribution function of one uniform draw."""
    if alpha == 1.0:
        return uniform(element, (), 0.0, 1.0, generator)
    # torch has no Beta with a generator; one number per network is little enough for the host.
    values: Tensor = _inverse_beta(alpha, chance(element, (), generator).cpu())
    return values.to(element.device, wide(element.dtype))


@untraced
def _inverse_beta(alpha: float, share: Tensor) -> Tensor:
    from scipy.special import betaincinv

    return torch.from_numpy(np.asarray(betaincinv(alpha, alpha, share.numpy())))
