"""Neural Field Arena: HDF5 files of flat parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weightaug._joining import cat
from weightaug.adapters import from_state_dicts
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.io.files import AnyPath, absolute
from weightaug.io.hdf5 import array_of, attribute_of, open_hdf5

__all__ = ["neural_field_arena"]


def neural_field_arena(
    files: AnyPath | Iterable[AnyPath], architecture: Architecture, *, names: Mapping[str, str] | None = None
) -> tuple[WeightSpaceElement, Tensor | None]:
    """Reads neural fields from HDF5 files: ``params`` (N, P), ``labels`` (N,), and ``param_config``, names and shapes.

    Needs h5py (``pip install 'weightaug[hdf5]'``).

    Args:
        files: One file, several, or a folder, whose files are read in the order of the numbers in their names.
        architecture: Of all networks; the files do not tell the activations.
        names: Layer name -> parameter prefix in ``param_config``; None infers it. Flax's ``kernel`` (in, out) is read
            as the transposed weight.

    Returns:
        The networks ``(N,)``, and their labels ``(N,)``, or None if a file has none.

    Raises:
        ImportError: If h5py is missing.
        FileNotFoundError: If there is no file.
        ValueError: If a file has another form, or its parameters do not fit the architecture.
    """
    elements, labels = [], []
    for path in _files(files):
        try:
            with open_hdf5(path) as file:
                if "params" not in file:
                    raise ValueError(f"{path}: expected a data set 'params', found {sorted(file)}")
                flat = torch.from_numpy(array_of(file["params"], path))
                of_file = torch.from_numpy(array_of(file["labels"], path)) if "labels" in file else None
                told = "param_config" in file
                config: Any = (
                    array_of(file["param_config"], path).item() if told else attribute_of(file, "param_config", path)
                )
        except (ImportError, ValueError):
            raise
        except Exception as error:  # a damaged file fails in any way; the reason is told
            raise ValueError(f"{path}: expected an HDF5 file: {error}") from error
        parameters = _cut(flat, config, path)
        try:
            elements.append(from_state_dicts(parameters, architecture, names=names))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        labels.append(of_file)
    known = [some for some in labels if some is not None]
    if known and len(known) != len(labels):
        raise ValueError("expected labels in all files or in none")
    return cat(elements), torch.cat(known).long() if known else None


def _files(files: AnyPath | Iterable[AnyPath]) -> list[Path]:
    if isinstance(files, (str, Path)) or not isinstance(files, Iterable):
        root = absolute(files)
        found = [root] if root.is_file() else [p for p in root.glob("*") if p.suffix in (".hdf5", ".h5")]
        found.sort(key=lambda p: [int(part) if part.isdecimal() else -1 for part in re.findall("[0-9]+", p.name)])
    else:
        found = [absolute(p) for p in files]
    if not found:
        raise FileNotFoundError(f"{files}: expected files that end in .hdf5 or .h5, found none")
    return found


def _cut(flat: Tensor, config: Any, path: Path) -> dict[str, Tensor]:
    """The tensors that a flat vector consists of."""
    try:
        entries = [(str(name), tuple(int(n) for n in shape)) for name, shape in json.loads(config)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected 'param_config' as JSON [[name, shape], ...], got {config!r:.80}") from error
    sizes = [torch.Size(shape).numel() for _, shape in entries]
    if flat.dim() != 2 or flat.shape[1] != sum(sizes):
        raise ValueError(f"{path}: expected params (N, {sum(sizes)}) by param_config, got {tuple(flat.shape)}")
    pieces = flat.split(sizes, dim=1)
    tensors = {}
    for (name, shape), piece in zip(entries, pieces, strict=True):
        tensor = piece.unflatten(1, shape) if shape else piece[:, 0]
        prefix, dot, last = name.replace("/", ".").rpartition(".")
        if last == "kernel" and tensor.dim() == 3:
            tensor, last = tensor.mT, "weight"
        tensors[f"{prefix}{dot}{last}"] = tensor
    return tensors
