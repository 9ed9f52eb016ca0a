"""Elements joined to larger ones: stacked, concatenated, and collated by a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from weightaug._differences import difference
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["cat", "collate", "stack"]


def _same_architecture(elements: Sequence[WeightSpaceElement], verb: str) -> Architecture:
    if not elements:
        raise ValueError(f"cannot {verb} an empty list of elements")
    arch = elements[0].architecture
    for i, element in enumerate(elements):
        if element.architecture != arch:
            raise ValueError(
                f"cannot {verb} elements of different architectures: element 0 and element {i} differ in "
                f"{difference(arch, element.architecture)}"
            )
    return arch


def _join(
    elements: Sequence[WeightSpaceElement], verb: str, join: Callable[[list[Tensor]], Tensor]
) -> WeightSpaceElement:
    arch = _same_architecture(elements, verb)
    weights = tuple(join(list(ws)) for ws in zip(*(e.weights for e in elements), strict=True))
    biases = tuple(None if bs[0] is None else join(list(bs)) for bs in zip(*(e.biases for e in elements), strict=True))
    return WeightSpaceElement(arch, weights, biases)


def stack(elements: Sequence[WeightSpaceElement]) -> WeightSpaceElement:
    """Joins elements of one architecture and batch shape along a new first batch dimension.

    Raises:
        ValueError: If the list is empty or the architectures differ.
    """
    return _join(elements, "stack", torch.stack)


def cat(elements: Sequence[WeightSpaceElement]) -> WeightSpaceElement:
    """Joins batches of one architecture along their first batch dimension.

    Raises:
        ValueError: If the list is empty, the architectures differ, or an element is one network.
    """
    for i, element in enumerate(elements):
        if not element.batch_shape:
            raise ValueError(f"cannot cat element {i}: it is one network (batch shape ()); use stack")
    return _join(elements, "cat", torch.cat)


def collate(samples: Any) -> Any:
    """``collate_fn`` for a DataLoader over weight-space data; the default one does the same for elements.

    Elements are stacked, tensors and numbers become tensors with a leading batch dimension, tuples, lists
    and dicts are collated entry by entry. A batch that the data set's ``__getitems__`` has already made (an
    element, or a tuple that starts with one) passes through.

    Args:
        samples: What the DataLoader hands over: a list of samples, or a ready batch.

    Raises:
        ValueError: If the architectures of the elements differ.
    """
    if isinstance(samples, WeightSpaceElement):
        return samples
    if isinstance(samples, tuple) and samples and isinstance(samples[0], WeightSpaceElement):
        return samples
    return torch.utils.data.default_collate(samples)


def _collate_elements(batch: Any, *, collate_fn_map: Any = None) -> Any:
    # A ready batch comes here as well, since the default collate looks at the type of its first entry only.
    ready = isinstance(batch, WeightSpaceElement) or not all(isinstance(e, WeightSpaceElement) for e in batch)
    return batch if ready else stack(batch)


# What torch's own page on default_collate tells to do with types of one's own.
default_collate_fn_map[WeightSpaceElement] = _collate_elements
