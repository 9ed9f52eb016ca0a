"""Wider and narrower networks that compute the same function."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug._fields import as_integers
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["merge_duplicates", "widen"]


def widen(
    element: WeightSpaceElement, sizes: Sequence[int], *, generator: torch.Generator | None = None
) -> WeightSpaceElement:
    """Widens hidden spaces by duplicating neurons, and splits what duplicates write evenly; the function stays.

    The first neurons are the old ones in their order, the others copies of neurons drawn uniformly, for each network
    its own (Net2Net, Chen et al. 2016). What reads m copies of a neuron is divided by m, so that outputs change by
    rounding at most, and not at all where every m is a power of two and sums are exact.

    Args:
        element: Networks of any architecture of layers, convolutions included.
        sizes: The new size of every hidden space, in the order of ``architecture.hidden``; at least the old one.
        generator: Source of randomness; None for torch's global one of the element's device.

    Returns:
        Networks of an architecture with these sizes.

    Raises:
        TypeError: If a size is no int.
        ValueError: If there is not one size for each hidden space, or one is smaller than the old one.
    """
    arch = element.architecture
    new = as_integers(sizes, "sizes")
    old = tuple(space.size for space in arch.hidden)
    if len(new) != len(old) or any(n < o for n, o in zip(new, old, strict=True)):
        raise ValueError(f"sizes: expected one for each hidden space, at least {old}, got {new}")
    batch, device = element.batch_shape, element.device
    where = device if generator is None else generator.device
    for slot, (before, after) in enumerate(zip(old, new, strict=True)):
        if after == before:
            continue
        drawn = torch.randint(before, (*batch, after - before), generator=generator, device=where).to(device)
        index = torch.cat([torch.arange(before, device=device).expand(*batch, before), drawn], -1)
        copies = torch.zeros(*batch, before, dtype=torch.int64, device=device).scatter_add_(
            -1, index, torch.ones_like(index)
        )
        share = copies.gather(-1, index).to(element.dtype).reciprocal()
        element = _take(element, slot, index, share)
    return element


def merge_duplicates(element: WeightSpaceElement) -> WeightSpaceElement:
    """Merges neurons whose incoming weights and biases are equal, bit for bit; the function stays, up to rounding.

    Of equal neurons the first is left, and takes the sum of what is read from all. Spaces are visited from the input
    on, since merged neurons may make later ones equal. All networks of a batch get the size of the one with the most
    different neurons; in the others the surplus duplicates stay, with nothing that reads them. Undoes :func:`widen`.

    Args:
        element: Networks of any architecture of layers. Their values are read, so a GPU waits.

    Returns:
        Networks of an architecture with the sizes that are left.
    """
    wiring = element.architecture.wiring
    if not element.batch_shape.numel():
        return element
    for space in wiring.order:
        if space not in wiring.hidden:
            continue
        slot = wiring.hidden.index(space)
        first = _first_equal(_incoming(element, space))
        kept = first == torch.arange(first.shape[-1], device=first.device)
        size = int(kept.sum(-1).max())
        if size == first.shape[-1]:
            continue
        order = (~kept).to(torch.int8).argsort(dim=-1, stable=True)[..., :size]
        element = _take(_gather_reads(element, slot, first), slot, order, kept.gather(-1, order).to(element.dtype))
    return element


def _incoming(element: WeightSpaceElement, space: int) -> Tensor:
    """All that decides the pre-activations of a space: ``(*batch, neurons, numbers)``."""
    dims, parts = len(element.batch_shape), []
    for i, written in enumerate(element.architecture.wiring.writes):
        if written == space:
            bias = element.biases[i]
            parts.append(element.weights[i].flatten(dims + 1))
            parts += [] if bias is None else [bias.unsqueeze(-1)]
    return torch.cat(parts, -1)


def _first_equal(rows: Tensor) -> Tensor:
    """For each row, the position of the first one that is equal to it, ``(*batch, neurons)``."""
    flat = rows.reshape(-1, *rows.shape[-2:])
    equal = torch.stack([(network.unsqueeze(0) == network.unsqueeze(1)).all(-1) for network in flat])
    return equal.to(torch.int8).argmax(-1).reshape(rows.shape[:-1])


def _gather_reads(element: WeightSpaceElement, slot: int, first: Tensor) -> WeightSpaceElement:
    """Adds what is read from each neuron to what is read from its first equal."""
    arch, axis = element.architecture, len(element.batch_shape) + 1
    weights = list(element.weights)
    for i, read in enumerate(arch.wiring.read_slots):
        if read == slot:
            index = _along(first, weights[i], axis)
            weights[i] = torch.zeros_like(weights[i]).scatter_add(axis, index, weights[i])
    return WeightSpaceElement(arch, tuple(weights), element.biases)


def _take(element: WeightSpaceElement, slot: int, index: Tensor, share: Tensor) -> WeightSpaceElement:
    """Makes a space of the neurons at an index ``(*batch, new)``, and multiplies what is read from them by a share."""
    arch, dims = element.architecture, len(element.batch_shape)
    weights, biases = list(element.weights), list(element.biases)
    for i, (written, read) in enumerate(zip(arch.wiring.write_slots, arch.wiring.read_slots, strict=True)):
        if written == slot:
            bias = biases[i]
            weights[i] = weights[i].gather(dims, _along(index, weights[i], dims))
            biases[i] = None if bias is None else bias.gather(-1, index)
        if read == slot:
            moved = weights[i].gather(dims + 1, _along(index, weights[i], dims + 1))
            weights[i] = moved * share.reshape(*share.shape[:-1], 1, share.shape[-1], *(1,) * (moved.dim() - dims - 2))
    return WeightSpaceElement(_resized(arch, slot, index.shape[-1]), tuple(weights), tuple(biases))


def _along(index: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """An index ``(*batch, k)`` as ``Tensor.gather`` wants it, along one axis after the batch."""
    dims = index.dim() - 1
    shape = [1] * (tensor.dim() - dims)
    shape[axis - dims] = index.shape[-1]
    target = list(tensor.shape)
    target[axis] = index.shape[-1]
    return index.reshape(*index.shape[:-1], *shape).expand(target)


def _resized(arch: Architecture, slot: int, size: int) -> Architecture:
    place = arch.wiring.hidden[slot]
    spaces = [dataclasses.replace(s, size=size) if i == place else s for i, s in enumerate(arch.spaces)]
    return dataclasses.replace(arch, spaces=tuple(spaces))
