"""From folders of state dicts, one file a network, to a data set."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from weightaug._joining import stack
from weightaug._spreading import ExecutorName, check_executor, spread
from weightaug.adapters import from_state_dicts
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.io.dataset import WeightSpaceDataset
from weightaug.io.files import AnyPath, absolute
from weightaug.io.hdf5 import read_hdf5
from weightaug.io.manifest import MANIFEST, digest
from weightaug.io.writing import append, write_set

__all__ = ["Converted", "convert"]

_ENDINGS = (".pt", ".pth", ".safetensors", ".npz", ".h5", ".hdf5")
_SOURCE = "source"
_LABEL = "label"
_TOGETHER = 64  # files that a task of other processes reads


class Converted(NamedTuple):
    """What :func:`convert` has done.

    Attributes:
        sources: The files, in the order to which the column ``source`` of the data set refers.
        size: Number of networks in the data set.
        refused: The files that are not in it, each with the reason.
    """

    sources: tuple[Path, ...]
    size: int
    refused: dict[Path, str]


def convert(
    paths: AnyPath | Iterable[AnyPath],
    architecture: Architecture,
    *,
    out: AnyPath,
    labels: str | Callable[[Path], Any] | None = None,
    names: Mapping[str, str] | None = None,
    ignore: Collection[str] = (),
    metadata: Mapping[str, Any] | None = None,
    chunk: int = 1000,
    executor: ExecutorName = "serial",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Converted:
    """Makes a data set of files with one state dict each: ``.pt``, ``.pth``, ``.safetensors``, ``.npz``, ``.h5``.

    Files are read one by one (``weights_only``: no code in them runs) and written in chunks. A call that was
    killed goes on where it stopped when it is repeated. A file that cannot be read does not end the work.

    Args:
        paths: A folder (searched with all below it), a glob pattern, or files; files from a folder or a pattern are
            ordered by the numbers in their names, so that net10 follows net9.
        architecture: Of all networks. One that was traced from a module takes state dicts of this module.
        out: The folder of the data set. Its column ``source`` says from which file each network is.
        labels: The key of the label in each file, or a function of a file's path; None for none.
        names: Layer name -> parameter prefix, see :func:`weightaug.adapters.from_state_dicts`.
        ignore: Keys of each file that are no parameters.
        metadata: Kept with the data set, as JSON can hold it, such as the names of classes.
        chunk: Networks per shard, and the most that a kill costs.
        executor: Who reads the files: ``"serial"``: this process; ``"processes"`` of this machine (the calling script
            needs ``if __name__ == "__main__"``); ``"ray"``: the Ray cluster that is initialised, whose machines see
            the files, or this machine (extra ``ray``). This process writes, in the order of the files.
        workers: Processes, or CPUs of a Ray that is started here; None for one per core.
        progress: Called with the number of files that are done.

    Raises:
        FileNotFoundError: If there is no file.
        ImportError: If there are HDF5 files, and h5py is missing, or if Ray is asked for and missing.
        TypeError: If the architecture is none.
        ValueError: If ``out`` holds another data set, or no file could be read; the message names the first reason.
    """
    if not isinstance(architecture, Architecture):
        raise TypeError(f"architecture: expected an Architecture, got {type(architecture).__name__}")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk!r}")
    check_executor("convert", executor, workers)
    sources, folder = files_of(paths), absolute(out)
    key = labels if isinstance(labels, str) else None
    work = {
        "sources": [str(p) for p in sources], "architecture": architecture.to_dict(), "labels": key or bool(labels),
        "names": None if names is None else dict(names), "ignore": sorted(ignore),
    }  # fmt: skip
    kept = {**(metadata or {}), "converted": digest(work)}
    done, dtype = _done(folder, kept)
    refused: dict[Path, str] = {}
    rows: list[tuple[int, WeightSpaceElement, Any]] = []
    count = len(done)

    def write() -> None:
        nonlocal count
        element = stack([row[1] for row in rows])
        own = None if labels is None else [row[2] for row in rows]
        columns = {_SOURCE: torch.tensor([row[0] for row in rows], device="cpu")}
        if count:
            append(folder, element, own, columns=columns)
        else:
            write_set(folder, element, own, columns, kept, None, "refused")
        count += len(rows)
        rows.clear()

    reading = [number for number in range(len(sources)) if number not in done]
    size = 1 if executor == "serial" else _TOGETHER
    of_key = (*ignore, *([key] if key else []))
    starts = range(0, len(reading), size)
    tasks = [
        _Reading(tuple(sources[i] for i in reading[j : j + size]), architecture, names, of_key, key) for j in starts
    ]
    seen = 0

    def advance(until: int) -> None:
        nonlocal seen
        while seen < until:
            seen += 1
            if progress is not None:
                progress(seen)

    for first, answers in zip(starts, spread(_Reading.read, tasks, executor, workers), strict=True):
        for number, answer in zip(reading[first : first + size], answers, strict=True):
            path = sources[number]
            advance(number)
            try:
                element, label = answer.opened(architecture)
                if dtype is not None and element.dtype != dtype:
                    raise ValueError(f"expected {dtype} as in the files before, got {element.dtype}")
                rows.append((number, element, labels(path) if callable(labels) else label))
                dtype = element.dtype
            except _Refused as error:
                refused[path] = str(error)
            except Exception as error:  # of the caller's labels, too
                refused[path] = f"{type(error).__name__}: {error}"
            if len(rows) == chunk:
                write()
            advance(number + 1)
    advance(len(sources))
    if rows:
        write()
    if not count:
        path, reason = next(iter(refused.items()))
        raise ValueError(f"none of {len(sources)} files could be read, first {path}: {reason}")
    return Converted(sources, count, refused)


class _Refused(Exception):
    """Why a file is not taken."""


class _Answer(NamedTuple):
    """What is in a file, as bytes, which go from process to process: safetensors, or why there are none."""

    content: bytes
    refused: str

    def opened(self, architecture: Architecture) -> tuple[WeightSpaceElement, Any]:
        if self.refused:
            raise _Refused(self.refused)
        tensors = from_bytes(self.content)
        label = tensors.pop(_LABEL, None)
        ordered = [tensors[str(i)] for i in range(len(tensors))]
        return WeightSpaceElement(architecture, (), ()).with_tensors(ordered), label


@dataclass(frozen=True)
class _Reading:
    """One task: some files."""

    paths: tuple[Path, ...]
    architecture: Architecture
    names: Mapping[str, str] | None
    ignore: tuple[str, ...]
    key: str | None

    def read(self) -> list[_Answer]:
        """What is in each."""
        return [self._read(path) for path in self.paths]

    def _read(self, path: Path) -> _Answer:
        try:
            element, label = _network(path, self.architecture, self.names, self.ignore, self.key)
            tensors = {str(i): tensor.contiguous() for i, tensor in enumerate(element.tensors())}
            return _Answer(to_bytes(tensors if label is None else tensors | {_LABEL: label}), "")
        except ImportError:  # of h5py: no file is to blame
            raise
        except Exception as error:  # a damaged file fails in any way; the reason is told
            return _Answer(b"", f"{type(error).__name__}: {error}")


def files_of(paths: AnyPath | Iterable[AnyPath]) -> tuple[Path, ...]:
    """The files that paths, folders and patterns name, in the order of the numbers in their names."""
    if isinstance(paths, (str, Path)) or not isinstance(paths, Iterable):
        root = absolute(paths)
        found: Sequence[Path] = (
            [p for p in root.rglob("*") if p.suffix in _ENDINGS]
            if root.is_dir()
            else [root] if root.is_file() else [Path(p) for p in glob.glob(str(root), recursive=True)]
        )  # fmt: skip
        found = sorted((p for p in found if p.is_file()), key=by_number)
    else:
        found = [absolute(p) for p in paths]
    if not found:
        raise FileNotFoundError(f"{paths}: expected files that end in {', '.join(_ENDINGS)}, found none")
    return tuple(found)


def by_number(path: AnyPath) -> list[tuple[int, str]]:
    """What orders names by the numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", str(path))]


def _done(folder: Path, metadata: Mapping[str, Any]) -> tuple[set[int], torch.dtype | None]:
    """The files that an earlier call has converted."""
    if not (folder / MANIFEST).exists():
        return set(), None
    data = WeightSpaceDataset(folder, verify=False)
    if data.metadata != metadata:
        raise ValueError(
            f"{folder}: expected nothing or what this conversion began, got another data set; choose another folder"
        )
    return set(data.columns[_SOURCE].tolist()), data.networks(0).dtype


def _network(
    path: Path, architecture: Architecture, names: Mapping[str, str] | None, ignore: Collection[str], key: str | None
) -> tuple[WeightSpaceElement, Any]:
    content = _read(path)
    if key is not None and key not in content:
        raise ValueError(f"expected the label {key!r}, got the keys {list(content)[:8]}")
    if architecture.is_declared:
        element = _declared(content, architecture, ignore)
    else:
        element = from_state_dicts(content, architecture, names=names, ignore=ignore)
    if element.batch_shape:
        raise ValueError(f"expected one network, got a batch {tuple(element.batch_shape)}")
    return element, None if key is None else torch.as_tensor(content[key], device="cpu").reshape(())


def _declared(content: Mapping[str, Tensor], architecture: Architecture, ignore: Collection[str]) -> WeightSpaceElement:
    """A network of an architecture that was traced from a module."""
    known = architecture.tensor_shapes()
    absent = [name for name in known if name not in content]
    # Whole numbers, such as the counter of BatchNorm, are no part of the function.
    more = [n for n, t in content.items() if n not in known and n not in ignore and t.is_floating_point()]
    if absent or more:
        raise ValueError(f"expected the tensors of the architecture, {absent[:5]} are missing and {more[:5]} are left")
    return WeightSpaceElement(architecture, tuple(content[name] for name in known), ()).validate()


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return dict(load_file(path, device="cpu"))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(np.array(archive[name])) for name in archive.files}
    if path.suffix in (".h5", ".hdf5"):
        return read_hdf5(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # torch's own message advises to load it with code, which is no advice for files of others.
        reason = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise ValueError(
            f"expected a file of weights alone, from which no code is run: {reason or 'no pickle'}"
        ) from None
    for key in ("state_dict", "model_state_dict"):  # of checkpoints
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise TypeError(f"expected a state dict, got {type(content).__name__}")
    return {str(name): value for name, value in content.items()}
