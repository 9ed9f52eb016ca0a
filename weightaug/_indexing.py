"""Indices from outside: the one place that says what an index of networks may be."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["normalise", "rows"]

_FORMS = "an int, a slice, or ints or a mask of bools as a list, NumPy array or tensor"


_Entry = int | slice | Tensor | None


def normalise(index: Any, shape: Sequence[int]) -> tuple[_Entry, ...]:
    """The index as tensors understand it, with the kinds, masks and ints checked against the batch.

    Lists and arrays become tensors on the CPU. The values of index tensors are left to torch, which refuses
    those out of range itself, since reading them here would make a GPU wait.

    Args:
        index: An int, a slice, ``...``, a list, NumPy array or tensor of ints or bools, or a tuple of them, in which
            None makes a new dimension as in NumPy.
        shape: The batch dimensions that may be indexed.

    Returns:
        One entry for each dimension that is indexed (a mask covers as many as it has).

    Raises:
        IndexError: If the index reaches beyond the batch, or is of no such kind.
    """
    single = not isinstance(index, tuple)
    entries = [_entry(index)] if single else [None if i is None else _entry(i) for i in index]
    used = sum(_covers(entry) for entry in entries)
    if used > len(shape):
        raise IndexError(
            f"the index {_short(index)} has {used} dimensions, and reaches beyond the batch {tuple(shape)}"
        )
    if sum(entry is ... for entry in entries) > 1:
        raise IndexError(f"the index {_short(index)} has more than one ...")
    plain: list[_Entry] = []
    for entry in entries:
        if isinstance(entry, EllipsisType):
            plain += [slice(None)] * (len(shape) - used)
        else:
            plain.append(entry)
    dim = 0
    for place, entry in enumerate(plain):
        size = shape[dim] if entry is not None else 0
        if isinstance(entry, int) and not -size <= entry < size:
            raise IndexError(
                f"index {entry} is out of range for {size} networks (batch {tuple(shape)}, dimension {dim})"
            )
        if isinstance(entry, slice) and entry.step is not None and entry.step <= 0:
            plain[place] = _backwards(entry, size, alone=len(plain) == 1)
        covered = tuple(shape[dim : dim + _covers(entry)])
        if isinstance(entry, Tensor) and entry.dtype == torch.bool and tuple(entry.shape) != covered:
            raise IndexError(
                f"the mask {_short(index)} has shape {tuple(entry.shape)}, expected {covered} like the batch"
            )
        dim += _covers(entry)
    return tuple(plain)


def rows(index: Any, count: int) -> int | Tensor:
    """The rows of a one-dimensional collection that an index means.

    Args:
        index: As in :func:`normalise`; a tuple is a list of rows here.
        count: The number of rows.

    Returns:
        An int in ``0 .. count - 1`` for one row, otherwise an int64 tensor ``(n,)`` of such on the CPU.

    Raises:
        IndexError: If the index is out of range, of more than one dimension, or of no such kind.
    """
    entries = normalise(list(index) if isinstance(index, tuple) else index, (count,))
    entry = entries[0] if entries else slice(None)
    if isinstance(entry, Tensor) and entry.dim() == 0:
        (entry,) = normalise(int(entry), (count,))
    if isinstance(entry, int):
        return entry % count
    if isinstance(entry, slice):
        return torch.arange(*entry.indices(count), device="cpu")
    assert isinstance(entry, Tensor)
    if entry.dim() != 1:
        raise IndexError(f"expected one dimension of rows, got the index {_short(index)} of shape {tuple(entry.shape)}")
    entry = entry.cpu()
    if entry.dtype == torch.bool:
        return entry.nonzero().squeeze(-1)
    wrong = (entry < -count) | (entry >= count)
    if bool(wrong.any()):
        raise IndexError(f"index {int(entry[wrong][0])} is out of range for {count} networks")
    return torch.where(entry < 0, entry + count, entry)


def _covers(entry: _Entry | EllipsisType) -> int:
    if isinstance(entry, Tensor) and entry.dtype == torch.bool:
        return entry.dim()
    return 0 if entry is ... or entry is None else 1


def _entry(index: Any) -> int | slice | EllipsisType | Tensor:
    if index is ...:
        return ...
    if isinstance(index, slice):
        return slice(*(None if end is None else _integer(end, index) for end in (index.start, index.stop, index.step)))
    if isinstance(index, Tensor):
        return _checked(index, index)
    if isinstance(index, np.ndarray):
        return _from_numpy(index, index)
    if isinstance(index, Sequence) and not isinstance(index, (str, bytes)):
        return _from_list(list(index), index)
    if hasattr(index, "__array__") and not isinstance(index, np.generic):  # pandas, JAX and others
        return _from_numpy(np.asarray(index), index)
    return _integer(index, index)


def _integer(value: Any, index: Any) -> int:
    if not isinstance(value, (bool, np.bool_)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise IndexError(f"{_short(index)} ({type(index).__name__}) is no index of networks; expected {_FORMS}")


def _from_list(values: list[Any], index: Any) -> Tensor:
    if not values:
        return torch.empty(0, dtype=torch.int64, device="cpu")
    values = [v.tolist() if isinstance(v, (Tensor, np.ndarray)) else v for v in values]
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise IndexError(f"{_short(index)} is no index of networks: {error}; expected {_FORMS}") from error
    # NumPy reads [True, 2] as [1, 2].
    if array.dtype.kind in "iu" and _holds_bools(values):
        raise IndexError(f"{_short(index)} mixes bools and ints; expected {_FORMS}")
    return _from_numpy(array, index)


def _holds_bools(values: Any) -> bool:
    return any(_holds_bools(v) if isinstance(v, (list, tuple)) else isinstance(v, (bool, np.bool_)) for v in values)


def _from_numpy(array: np.ndarray[Any, Any], index: Any) -> Tensor:
    if array.dtype.kind not in "biu":
        raise IndexError(f"{_short(index)} (of {array.dtype}) is no index of networks; expected {_FORMS}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise IndexError(f"index {int(array.max())} is out of range")
    if array.dtype.kind != "b":
        array = array.astype(np.int64)
    # A copy, since arrays with negative strides or of read-only memory are not torch's.
    return _checked(torch.tensor(array, device="cpu"), index)


def _checked(tensor: Tensor, index: Any) -> Tensor:
    if tensor.dtype == torch.bool and tensor.dim() > 0:
        return tensor
    # torch takes uint8 for masks, NumPy for ints.
    if tensor.dtype == torch.bool or tensor.dtype == torch.uint8 or tensor.is_floating_point() or tensor.is_complex():
        advice = "; .bool() makes a mask of it, .long() ints" if tensor.dtype == torch.uint8 else f"; expected {_FORMS}"
        raise IndexError(f"{_short(index)} (of {tensor.dtype}) is no index of networks{advice}")
    return tensor.long()


def _backwards(entry: slice, size: int, *, alone: bool) -> Tensor:
    """Tensors have no views that run backwards."""
    if entry.step == 0 or not alone:
        raise IndexError(f"{entry} is no index of networks: steps must be positive in an index of several dimensions")
    return torch.arange(*entry.indices(size), device="cpu")


def _short(index: Any) -> str:
    text = " ".join(repr(index).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
