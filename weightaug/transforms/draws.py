"""Random draws on the generator's device, one per element of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement


def empty(element: WeightSpaceElement, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """An unfilled tensor ``(*batch, *shape)`` of the element's dtype on the device where draws happen."""
    device = element.device if generator is None else generator.device
    return torch.empty((*element.batch_shape, *shape), dtype=element.dtype, device=device)


def uniform(
    element: WeightSpaceElement,
    shape: Sequence[int],
    low: float,
    high: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Uniform in [low, high)."""
    return empty(element, shape, generator).uniform_(low, high, generator=generator).to(element.device)


def normal(element: WeightSpaceElement, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Standard normal."""
    return empty(element, shape, generator).normal_(generator=generator).to(element.device)


def bernoulli(element: WeightSpaceElement, shape: Sequence[int], p: float, generator: torch.Generator | None) -> Tensor:
    """1 with probability p, else 0, in the element's dtype."""
    # Drawn in single precision for every dtype, so that p = 1 means always. Comparing in place keeps it in
    # floats: Tensor.bernoulli_ takes twice as long, and a mask of bools four times as long to apply.
    device = element.device if generator is None else generator.device
    drawn = torch.rand((*element.batch_shape, *shape), dtype=torch.float32, generator=generator, device=device)
    return drawn.lt_(p).to(element.device, element.dtype)


def signs(element: WeightSpaceElement, shape: Sequence[int], p: float, generator: torch.Generator | None) -> Tensor:
    """-1 with probability p, else 1, in the element's dtype."""
    return bernoulli(element, shape, p, generator).mul_(-2).add_(1)


def integers(
    element: WeightSpaceElement,
    shape: Sequence[int],
    low: int,
    high: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Uniform integers in [low, high], both ends included, as int64."""
    device = element.device if generator is None else generator.device
    drawn = torch.randint(low, high + 1, (*element.batch_shape, *shape), generator=generator, device=device)
    return drawn.to(element.device)


def permutations(element: WeightSpaceElement, sizes: Sequence[int], generator: torch.Generator | None) -> list[Tensor]:
    """Uniform permutations, int64: one ``(*batch, size)`` for every size."""
    device = element.device if generator is None else generator.device
    batch = element.batch_shape
    if len(set(sizes)) == 1:  # one draw for all
        together = orders((*batch, len(sizes), sizes[0]), device, generator).to(element.device)
        return list(together.unbind(-2))
    return [orders((*batch, size), device, generator).to(element.device) for size in sizes]


def orders(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform permutations along the last dimension: the order of random keys that carry their position."""
    size = shape[-1]
    bits = max(size - 1, 1).bit_length()
    # 25 random bits and more tell 64 neurons apart as well as random floats would; larger spaces get more.
    width, dtype = (31, torch.int32) if bits <= 6 else (62, torch.int64)
    keys = torch.empty(tuple(shape), dtype=dtype, device=device)
    keys.random_(0, 2 ** (width - bits), generator=generator)
    keys = keys.bitwise_left_shift_(bits).bitwise_or_(torch.arange(size, dtype=dtype, device=device))
    if device.type == "cpu" and keys.numel():
        # NumPy sorts short rows of integers several times faster than torch, which also keeps indices.
        keys.numpy().sort(-1)
    else:
        keys = keys.sort(-1).values
    return keys.bitwise_and_(2**bits - 1).long()


def beta(element: WeightSpaceElement, alpha: float, generator: torch.Generator | None) -> Tensor:
    """Beta(alpha, alpha), one number per element: the inverse distribution function of one uniform draw."""
    if alpha == 1.0:
        return uniform(element, (), 0.0, 1.0, generator)
    # torch has no Beta with a generator; one number per network is little enough for the host.
    from scipy.special import betaincinv

    device = element.device if generator is None else generator.device
    drawn = torch.rand(element.batch_shape, generator=generator, device=device, dtype=torch.float64)
    values = torch.as_tensor(betaincinv(alpha, alpha, drawn.cpu().numpy()))
    return values.to(element.device, element.dtype)
