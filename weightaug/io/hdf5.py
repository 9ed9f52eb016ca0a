"""HDF5, with the optional package h5py."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["array_of", "attribute_of", "open_hdf5", "read_hdf5"]

_PATIENCE = 30.0  # seconds for a text
_TEXT = """
import h5py, sys
with h5py.File(sys.argv[1], "r") as file:
    text = file.attrs[sys.argv[2]] if sys.argv[3:] else file[sys.argv[2]][()]
sys.stdout.buffer.write(text if isinstance(text, bytes) else text.encode())
"""
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
            anything else than numbers or one text, or a damaged one.
    """
    h5py: Any = importlib.import_module("h5py")
    if h5py.check_string_dtype(item.dtype) is not None and item.dtype.kind == "O" and item.shape == ():
        return np.array(_text(path, item.name), dtype=object)
    if item.dtype.kind not in "fiubS":
        raise ValueError(f"{path}: {item.name}: expected numbers or one text, got {item.shape} of {item.dtype}")
    most = _MOST * path.stat().st_size
    if item.nbytes > most:
        raise ValueError(f"{path}: {item.name} declares {item.nbytes:,} bytes in a file of {path.stat().st_size:,}")
    return np.array(item[()])


def attribute_of(file: Any, name: str, path: Path) -> Any:
    """A text that is an attribute of a whole file; None if there is none.

    Raises:
        ValueError: If it is damaged.
    """
    if name not in file.attrs:
        return None
    if file.attrs.get_id(name).dtype.kind in "fiubS":
        return file.attrs[name]
    return _text(path, name, "attribute")


def _text(path: Path, name: str, *kind: str) -> bytes:
    """A text of any length, read by a process of its own: of damaged ones, HDF5 may search for ever."""
    command = [sys.executable, "-c", _TEXT, str(path), name, *kind]
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=_PATIENCE).stdout
    except subprocess.TimeoutExpired:
        raise ValueError(f"{path}: {name}: damaged: reading this text does not come to an end") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ValueError(f"{path}: {name}: damaged: {said or 'cannot be read'}") from None


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
