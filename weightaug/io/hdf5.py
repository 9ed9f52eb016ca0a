"""HDF5, with the optional package h5py."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["array_of", "open_hdf5", "read_hdf5"]

_MOST = 100  # times the size of the file that one array may declare: weights do not compress so well


def open_hdf5(path: Path) -> Any:
    """Opens a file for reading.

    Raises:
        ImportError: If h5py is not installed; the message says how to get it.
        ValueError: If the file is none of HDF5.
    """
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError(f"{path}: HDF5 needs h5py: pip install 'weightaug[hdf5]'") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: expected an HDF5 file: {error}") from error


def array_of(item: Any, path: Path) -> Any:
    """The values of a data set of numbers or texts, unless it declares more than the file can hold.

    Raises:
        ValueError: If it does: a few bytes may declare terabytes, which reading would fill with zeros. Or if it holds
            anything else: of damaged types, reading may never come back.
    """
    h5py: Any = importlib.import_module("h5py")
    if item.dtype.kind not in "fiubS" and h5py.check_string_dtype(item.dtype) is None:
        raise ValueError(f"{path}: {item.name}: expected numbers or text, got values of type {item.dtype}")
    most = _MOST * path.stat().st_size
    if item.nbytes > most:
        raise ValueError(f"{path}: {item.name} declares {item.nbytes:,} bytes in a file of {path.stat().st_size:,}")
    return np.array(item[()])


def read_hdf5(path: Path) -> dict[str, Tensor]:
    """All arrays of a file; the names of groups and arrays are joined by dots: ``seq.0.weight``.

    Raises:
        ValueError: If the file is one table of many networks.
    """
    found: dict[str, Tensor] = {}
    with open_hdf5(path) as file:
        if "params" in file and ("param_config" in file or "param_config" in file.attrs):
            raise ValueError(
                "this file holds many networks in one array; read it with weightaug.layouts.neural_field_arena"
            )

        def visit(name: str, item: Any) -> None:
            if hasattr(item, "shape"):
                found[name.replace("/", ".")] = torch.from_numpy(array_of(item, path))

        file.visititems(visit)
    return found
