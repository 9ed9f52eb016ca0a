"""Writing: :func:`save` puts a data set in place of another one, :func:`append` adds to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.io.files import LOCK, AnyPath, absolute, clear, locked, make_folder
from weightaug.io.manifest import COLUMN, LABELS, MANIFEST, PARAMETER, SHARDS, Manifest, read_manifest, write_manifest
from weightaug.io.shards import dtype_code, plain, write_shard

__all__ = ["append", "save"]


def save(
    path: AnyPath,
    element: WeightSpaceElement,
    labels: Any = None,
    *,
    columns: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes networks to a folder.

    A data set that is there is replaced if ``overwrite`` says so; to save the same again, in shards of the same size,
    is no error, and changes nothing. A reader sees the old data set or the new one, and other writers wait.

    Args:
        path: The folder; it is made if it does not exist.
        element: One network, or a batch with at least one batch dimension; the first one becomes the rows of
            the data set, others stay (views of one object, for example).
        labels: One row per network: a tensor, an array, or a list of numbers (floats become float32, ints
            int64); a number for one network; None for a data set without labels.
        columns: Others with one row per network: the index of the view, of the source image, ...
        metadata: Anything that JSON can hold.
        shard_size: Networks per file; None for one file.
        overwrite: Whether a data set that is there may be replaced. A folder with other files is never touched.

    Raises:
        ValueError: If the element is not valid (see :meth:`weightaug.WeightSpaceElement.validate`), labels or a
            column have another number of rows or a dtype that no file can hold, metadata is no JSON, or the
            folder holds something else, such as shards whose manifest was lost.
        FileExistsError: If there is another data set, and not ``overwrite``.
        OSError: If the folder cannot be written or the disk is full; the data set that was there stays.
    """
    if not isinstance(overwrite, bool):
        raise TypeError(f"overwrite: expected True or False, got {overwrite!r}")
    write_set(path, element, labels, columns, metadata, shard_size, "replaced" if overwrite else "the same")


def write_set(
    path: AnyPath,
    element: WeightSpaceElement,
    labels: Any,
    columns: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
    shard_size: int | None,
    there: Literal["replaced", "the same", "refused"],
) -> None:
    """What :func:`save` does; ``there`` is what a data set that is there has to be, or becomes.

    Where it is refused even if it is the same, one of two processes begins.
    """
    folder = absolute(path)
    _check_element(element)
    if shard_size is not None and (isinstance(shard_size, bool) or int(shard_size) != shard_size or shard_size < 1):
        raise ValueError(f"shard_size must be at least 1, got {shard_size!r}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder or nothing, got a file; a data set is a folder")
    single = not element.batch_shape
    rows = _rows(element.map(lambda t: t.unsqueeze(0)) if single else element, labels, columns, single)
    settings = _settings(element, rows, {} if metadata is None else metadata, single)
    known = _known(folder)
    _check_there(folder, known, settings, there)
    if known is None and there != "replaced":
        _refuse_shards_alone(folder)
    make_folder(folder)
    with locked(folder) as alone:
        known = _known(folder)
        _check_there(folder, known, settings, there)
        if alone:
            clear(folder, ".*.tmp", set())
            if known is None and there != "replaced":
                clear(folder, SHARDS, set())  # of a writer that was killed
        before = {file.name for file in folder.glob(SHARDS)}
        try:
            shards = _write_shards(folder, rows, settings, shard_size)
            if known is not None and there == "the same":
                if shards == known.shards:
                    return
                raise _exists(folder)
            write_manifest(folder, settings, shards)
        except BaseException:
            if alone:
                with suppress(ValueError, OSError):
                    now = _known(folder)  # where the rename itself went well, the new one
                    clear(folder, SHARDS, before | {shard["file"] for shard in (now.shards if now else ())})
            raise
        clear(folder, SHARDS, {shard["file"] for shard in shards})  # of the data set before


def append(
    path: AnyPath,
    element: WeightSpaceElement,
    labels: Any = None,
    *,
    columns: Mapping[str, Any] | None = None,
) -> None:
    """Adds networks to a data set as a new shard; a long job that saves as it goes loses one shard at most.

    Several processes may append to one data set: they wait for each other.

    Args:
        path: A folder that :func:`save` wrote.
        element: A batch of the same architecture, dtype and further batch dimensions.
        labels: As in the data set: of the same dtype and shape of a row, or None.
        columns: As in the data set.

    Raises:
        FileNotFoundError: If there is no data set.
        ValueError: If something differs from the data set.
        OSError: If the folder cannot be written, the disk is full, or a writer without a lock (an older weightaug,
            a file system without locks) came between; nothing is lost, and the call can be repeated.
    """
    folder = absolute(path)
    _check_element(element)
    single = read_manifest(folder).settings["single"]  # before the lock, which needs the folder to be there
    if not element.batch_shape or single:
        raise ValueError(f"{folder}: append adds batches to batches, got one network; save a batch (element[None])")
    rows = _rows(element, labels, columns, False)
    with locked(folder) as alone:
        manifest = read_manifest(folder)
        settings = _settings(element, rows, manifest.settings["metadata"], False)
        for key, expected in manifest.settings.items():
            if settings.get(key) != expected:
                raise ValueError(
                    f"{folder}: cannot append, the data set has another {key}: expected {expected}, got "
                    f"{settings.get(key)}; save to another folder"
                )
        if alone:
            clear(folder, SHARDS, {shard["file"] for shard in manifest.shards})
        shards = _write_shards(folder, rows, settings, None, start=len(manifest.shards))
        if read_manifest(folder).sha256 != manifest.sha256:
            raise OSError(f"{folder / MANIFEST}: another writer replaced the data set meanwhile; append again")
        write_manifest(folder, settings, manifest.shards + shards)


def _check_element(element: Any) -> None:
    if not isinstance(element, WeightSpaceElement):
        raise TypeError(
            f"expected a WeightSpaceElement, got {type(element).__name__}; weightaug.adapters reads modules and state "
            "dicts"
        )
    element.validate()


def _check_there(folder: Path, known: Manifest | None, settings: Mapping[str, Any], there: str) -> None:
    """Refuses a data set that must not be there, or is another one by its settings alone."""
    if known is not None and (there == "refused" or (there == "the same" and settings != known.settings)):
        raise _exists(folder)


def _refuse_shards_alone(folder: Path) -> None:
    """Refuses a folder whose shards no manifest names, unless they are of a writer that was killed.

    That one's lock is still there; where locks stay in any case, nothing is known, and nothing refused.
    """
    alone = sorted(file.name for file in folder.glob(SHARDS))
    # In this order: a writer has the lock until its manifest is there.
    if alone and not (folder / LOCK).exists() and not (folder / MANIFEST).exists():
        raise ValueError(
            f"{folder}: expected an empty folder or a data set, got shards without {MANIFEST}, such as {alone[0]!r}; "
            f"put {MANIFEST} back if it was lost, choose another folder, or replace them (io.save and Frame.save with "
            "overwrite=True)"
        )


def _exists(folder: Path) -> FileExistsError:
    return FileExistsError(
        f"{folder}: there is another data set already; append to it, choose another folder, or delete it (io.save and "
        "Frame.save replace it with overwrite=True)"
    )


def _known(folder: Path) -> Manifest | None:
    """The data set that is there, if any.

    Raises:
        ValueError: If the folder holds something else.
    """
    if not folder.is_dir():
        return None
    manifest = read_manifest(folder) if (folder / MANIFEST).exists() else None
    others = [f.name for f in folder.iterdir() if not (f.name == MANIFEST or f.match(SHARDS) or f.match(".*"))]
    if others:
        raise ValueError(
            f"{folder}: expected an empty folder or a weightaug data set, got other files, such as {others[0]!r}; "
            "choose another folder"
        )
    return manifest


# -- what is written ---------------------------------------------------------------------------------


def _rows(
    element: WeightSpaceElement, labels: Any, columns: Mapping[str, Any] | None, single: bool
) -> dict[str, Tensor]:
    """Everything that has one row per network."""
    rows = {PARAMETER + name: tensor for name, tensor in element.named_tensors()}
    given = {} if labels is None else {LABELS: labels}
    if not isinstance(columns, Mapping | None):
        raise TypeError(f"columns: expected a dict of names and tensors, got {type(columns).__name__}")
    for name, column in (columns or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"columns: expected names that are strings, got {name!r}")
        given[COLUMN + name] = column
    count = element.batch_shape[0]
    for name, value in given.items():
        tensor = _as_tensor(name, value)
        tensor = tensor.unsqueeze(0) if single else tensor
        if tensor.dim() == 0 or tensor.shape[0] != count:
            raise ValueError(f"{name}: expected a tensor with {count} rows, one per network, got {tuple(tensor.shape)}")
        rows[name] = tensor
    for name, tensor in rows.items():
        if dtype_code(tensor.dtype) is None:
            raise ValueError(
                f"{name}: the installed safetensors has no {tensor.dtype}; convert it, or for complex numbers save "
                "torch.view_as_real of it"
            )
    return rows


def _refuse_words(name: str, value: Any) -> None:
    """Names of classes are no labels, and what to do is not what any number's conversion tells."""
    first = value
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        first = value[0] if len(value) else None
    if isinstance(first, (str, bytes)):
        raise ValueError(
            f"{name}: expected numbers, got words such as {str(first)!r}; number the classes and keep their names "
            "beside: classes = sorted(set(words)), numbers = [classes.index(word) for word in words], and "
            "save(..., metadata={'classes': classes})"
        )


def _as_tensor(name: str, value: Any) -> Tensor:
    advice = f"{name}: expected a tensor, an array or numbers, one row per network"
    if not isinstance(value, Tensor):
        _refuse_words(name, value)
        try:
            array = np.asarray([np.asarray(v) for v in value] if isinstance(value, (list, tuple)) else value)
            if array.dtype.kind not in "biufc":
                raise TypeError(f"dtype {array.dtype}")
            if array.dtype == np.float64 and not hasattr(value, "dtype") and not _has_arrays(value):
                array = array.astype(np.float32)  # Python's floats, as torch reads them
            # A copy, since arrays with negative strides or of another byte order are not torch's.
            return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{advice}, got {type(value).__name__} ({error})") from error
    if value.layout != torch.strided or value.is_meta or value.is_nested or value.is_quantized:
        kind = "meta" if value.is_meta else "quantized" if value.is_quantized else str(value.layout)
        raise ValueError(f"{advice}, got a tensor that is {kind}; make a dense one (.to_dense(), .dequantize())")
    return value


def _has_arrays(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(hasattr(v, "dtype") or _has_arrays(v) for v in value)


def _settings(
    element: WeightSpaceElement, rows: Mapping[str, Tensor], metadata: Mapping[str, Any], single: bool
) -> dict[str, Any]:
    """All that every shard of a data set must have in common."""
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata: expected a dict of what JSON can hold, got {type(metadata).__name__}")
    settings = {
        "architecture": element.architecture.to_dict(),
        "tensors": {
            name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape[1:])} for name, t in rows.items()
        },
        "single": single,
        "metadata": metadata,
    }
    try:
        told: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata: expected what JSON can hold, got {metadata!r:.200}: {error}") from error
    if told["metadata"] != metadata:
        raise ValueError(
            f"metadata: expected string keys and lists, so that JSON gives back the same, got {metadata!r}, which "
            f"would come back as {told['metadata']!r}"
        )
    return told


def _write_shards(
    folder: Path, rows: Mapping[str, Tensor], settings: Mapping[str, Any], shard_size: int | None, start: int = 0
) -> list[dict[str, Any]]:
    total = next(iter(rows.values())).shape[0]
    size = max(int(shard_size or total), 1)
    shards = []
    for number, first in enumerate(range(0, max(total, 1), size), start):
        part = {name: plain(tensor[first : first + size]) for name, tensor in rows.items()}
        shards.append(write_shard(folder, number, part, settings))
    return shards
