"""Data sets of networks on disk: safetensors shards and a JSON manifest in one folder.

- Nothing is pickled; a file from a stranger can be opened without running its code.
- A reader sees either the old data set or the new one: every file is written under a temporary name, flushed
  to the disk and renamed, the manifest last, and no shard that a manifest names is ever written over.
- There may be any number of readers, and one writer at a time.
- Everything is checked: the manifest carries its own checksum and those of the shards.
- Shards are memory-mapped: the pages belong to the system, and worker processes share them.

The manifest holds what the tensors cannot tell: the architecture with its activations, omegas and output
offset, and the caller's ``metadata`` (how the INRs were fitted, coordinate order, class names, provenance).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement, cat

__all__ = ["Folder", "Stored", "WeightSpaceDataset", "append", "load", "save"]

_FORMAT = "weightaug.dataset"
_VERSION = 1
_MANIFEST = "manifest.json"
_SHARDS = "shard-*.safetensors"
_LABELS = "labels"
_COLUMN = "column/"
_PARAMETER = "parameter/"

_Path = str | os.PathLike[str]


class Stored(NamedTuple):
    """What :func:`load` gives back.

    Attributes:
        element: All networks, ``(B,)``, or ``()`` if one network was saved.
        labels: The labels, ``(B, ...)``, or None.
        columns: The other tensors with one row per network.
        metadata: The caller's JSON.
    """

    element: WeightSpaceElement
    labels: Tensor | None
    columns: dict[str, Tensor]
    metadata: dict[str, Any]


class Folder(NamedTuple):
    """One folder of a :class:`WeightSpaceDataset`.

    Attributes:
        path: The folder.
        size: Number of its networks.
        metadata: The caller's JSON, as it was saved.
    """

    path: Path
    size: int
    metadata: dict[str, Any]


# -- writing -----------------------------------------------------------------------------------------


def save(
    path: _Path,
    element: WeightSpaceElement,
    labels: Tensor | None = None,
    *,
    columns: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, Any] | None = None,
    shard_size: int | None = None,
) -> None:
    """Writes networks to a folder, in place of the data set that is there.

    Args:
        path: The folder; it is made if it does not exist.
        element: One network, or a batch with at least one batch dimension; the first one becomes the rows of
            the data set, others stay (views of one object, for example).
        labels: Any tensor with one row per network; None for a data set without.
        columns: Other tensors with one row per network: the index of the view, of the source image, ...
        metadata: Anything that JSON can hold.
        shard_size: Networks per file; None for one file.

    Raises:
        ValueError: If the element is not valid (see :meth:`weightaug.WeightSpaceElement.validate`), a tensor has
            another number of rows, metadata is no JSON, or the folder holds something else.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder or nothing, got a file; a data set is a folder")
    if folder.is_dir():
        _check_ours(folder)
    single = not element.batch_shape
    if single:
        element = element.map(lambda t: t.unsqueeze(0))
        labels = None if labels is None else labels.unsqueeze(0)
        columns = {name: column.unsqueeze(0) for name, column in (columns or {}).items()}
    rows = _rows(element, labels, columns or {})
    settings = _settings(element, rows, metadata or {}, single)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _write_shards(folder, rows, settings, shard_size)
    _write_manifest(folder, settings, shards)
    kept = {shard["file"] for shard in shards}
    for file in folder.glob(_SHARDS):  # of the data set before, or of a save that was interrupted
        if file.name not in kept:
            file.unlink(missing_ok=True)


def append(
    path: _Path,
    element: WeightSpaceElement,
    labels: Tensor | None = None,
    *,
    columns: Mapping[str, Tensor] | None = None,
) -> None:
    """Adds networks to a data set as a new shard; a long job that saves as it goes loses one shard at most.

    Args:
        path: A folder that :func:`save` wrote.
        element: A batch of the same architecture, dtype and further batch dimensions.
        labels: As in the data set: of the same dtype and shape of a row, or None.
        columns: As in the data set.

    Raises:
        FileNotFoundError: If there is no data set.
        ValueError: If something differs from the data set.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    if not element.batch_shape or manifest["settings"]["single"]:
        raise ValueError(f"{folder}: append adds batches to batches, got one network; save a batch (element[None])")
    rows = _rows(element, labels, columns or {})
    settings = _settings(element, rows, manifest["settings"]["metadata"], False)
    for key, expected in manifest["settings"].items():
        if settings[key] != expected:
            raise ValueError(
                f"{folder}: cannot append, the data set has another {key}: expected {expected}, got {settings[key]}; "
                "save to another folder"
            )
    shards = _write_shards(folder, rows, settings, None, start=len(manifest["shards"]))
    _write_manifest(folder, settings, manifest["shards"] + shards)


def _check_ours(folder: Path) -> None:
    """Refuses to write into a folder that holds something else than a data set."""
    if (folder / _MANIFEST).exists():
        _read_manifest(folder)
    others = [f.name for f in folder.iterdir() if not (f.name == _MANIFEST or f.match(_SHARDS) or f.match(".*"))]
    if others:
        raise ValueError(
            f"{folder}: expected an empty folder or a weightaug data set, got other files, such as {others[0]!r}; "
            "choose another folder"
        )


def _rows(element: WeightSpaceElement, labels: Tensor | None, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    element.validate()
    rows = {_PARAMETER + name: tensor for name, tensor in element.named_tensors()}
    rows |= {_COLUMN + name: tensor for name, tensor in columns.items()}
    if labels is not None:
        rows[_LABELS] = labels
    count = element.batch_shape[0]
    for name, tensor in rows.items():
        if not isinstance(tensor, Tensor) or tensor.dim() == 0 or tensor.shape[0] != count:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name}: expected a tensor with {count} rows, one per network, got {got}")
    return rows


def _settings(
    element: WeightSpaceElement, rows: Mapping[str, Tensor], metadata: Mapping[str, Any], single: bool
) -> dict[str, Any]:
    """All that every shard of a data set must have in common."""
    settings = {
        "architecture": element.architecture.to_dict(),
        "tensors": {
            name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape[1:])} for name, t in rows.items()
        },
        "single": single,
        "metadata": metadata,
    }
    try:
        plain: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: expected what JSON can hold, got {metadata!r}: {error}") from error
    if plain["metadata"] != metadata:
        raise ValueError(
            f"metadata: expected string keys and lists, so that JSON gives back the same, got {metadata!r}, which "
            f"would come back as {plain['metadata']!r}"
        )
    return plain


def _write_shards(
    folder: Path, rows: Mapping[str, Tensor], settings: Mapping[str, Any], shard_size: int | None, start: int = 0
) -> list[dict[str, Any]]:
    total = next(iter(rows.values())).shape[0]
    if shard_size is not None and shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    size = max(shard_size or total, 1)
    shards = []
    for number, first in enumerate(range(0, max(total, 1), size), start):
        # Clones, because safetensors refuses tensors that share memory.
        part = {name: t[first : first + size].detach().cpu().contiguous().clone() for name, t in rows.items()}
        with _temporary(folder, f"shard-{number:05d}") as temporary:
            save_file(part, temporary, metadata={"weightaug": _digest(settings)})
            os.chmod(temporary, _file_mode())
            checksum = _sha256(temporary)
            # The checksum in the name: a new data set never writes over a shard that the old manifest names.
            file = f"shard-{number:05d}-{checksum[:16]}.safetensors"
            count, size_on_disk = next(iter(part.values())).shape[0], temporary.stat().st_size
            _publish(temporary, folder / file)
        shards.append({"file": file, "count": count, "bytes": size_on_disk, "sha256": checksum})
    return shards


def _write_manifest(folder: Path, settings: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]) -> None:
    body = {"format": _FORMAT, "version": _VERSION, "settings": settings, "shards": shards}
    with _temporary(folder, _MANIFEST) as temporary:
        temporary.write_text(json.dumps(body | {"sha256": _digest(body)}, indent=1) + "\n", encoding="utf-8")
        _publish(temporary, folder / _MANIFEST)


@contextmanager
def _temporary(folder: Path, name: str) -> Iterator[Path]:
    # In the same folder, because only within one file system a rename is atomic.
    path = folder / f".{name}.{os.getpid()}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> None:
    """Renames a file once its content has reached the disk."""
    _flush(temporary, os.O_RDWR)
    os.replace(temporary, path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _flush(path.parent, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_mode() -> int:
    # safetensors writes for the owner alone; a data set follows the process's umask like any other file.
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- reading -----------------------------------------------------------------------------------------


def load(path: _Path, *, verify: bool = True) -> Stored:
    """Reads all networks of a folder that :func:`save` wrote.

    With one shard the tensors are views of the mapped file (changing them in place changes only this process's
    copy); with several they are joined in memory. :class:`WeightSpaceDataset` reads batch by batch.

    Args:
        path: The folder.
        verify: Whether to compare the checksums of the shards, which reads them once.

    Raises:
        FileNotFoundError: If there is no data set, or a shard is gone.
        ValueError: If a file is corrupt, truncated, changed, or no part of this data set.
    """
    dataset = WeightSpaceDataset(path, verify=verify)
    element, labels, columns = dataset.element, dataset.labels, dataset.columns
    if dataset.settings["single"]:
        element = element[0]
        labels = None if labels is None else labels[0]
        columns = {name: column[0] for name, column in columns.items()}
    return Stored(element, labels, columns, dataset.metadata)


class WeightSpaceDataset(torch.utils.data.Dataset[Any]):
    """A memory-mapped data set of networks, in one folder or in several that make one data set together.

    An item is ``(element, label)``, or the element alone in a data set without labels. A batch is made with one
    index operation per tensor and shard; give ``weightaug.collate`` to the DataLoader, so that it passes
    through. Items are copies, so in-place changes reach neither the file nor the next epoch. Pickling, for
    worker processes, moves the paths only.

    Args:
        path: A folder that :func:`save` wrote.
        *more: Further folders, whose networks follow: parts that several processes have made. They must agree in
            everything but their metadata.
        verify: Whether to compare the checksums of the shards, which reads them once. Sizes, shapes and dtypes
            are checked in any case.

    Raises:
        FileNotFoundError: If there is no data set, or a shard is gone.
        ValueError: If a file is corrupt, truncated, changed, or no part of this data set, or if the folders do not
            fit together.
    """

    def __init__(self, path: _Path, *more: _Path, verify: bool = True) -> None:
        self.paths = tuple(Path(p) for p in (path, *more))
        self.settings: dict[str, Any] = _read_manifest(self.paths[0])["settings"]
        self.architecture = Architecture.from_dict(self.settings["architecture"])
        self._checksums: list[str] = []
        self._counts: list[int] = []
        self._shards: list[_Shard] = []
        folders = []
        for folder in self.paths:
            manifest = _read_manifest(folder)
            settings, shards = manifest["settings"], manifest["shards"]
            self._check_fits(folder, settings)
            self._checksums.append(manifest["sha256"])
            self._counts += [shard["count"] for shard in shards]
            self._shards += [_Shard(folder, shard, settings, verify) for shard in shards]
            folders.append(Folder(folder, sum(shard["count"] for shard in shards), settings["metadata"]))
        self.folders = tuple(folders)
        self._starts = torch.tensor([0, *self._counts]).cumsum(0)

    def _check_fits(self, folder: Path, settings: Mapping[str, Any]) -> None:
        for key in ("architecture", "tensors", "single"):
            if settings[key] != self.settings[key]:
                raise ValueError(
                    f"{folder}: expected the {key} of {self.paths[0]}, {self.settings[key]}, got {settings[key]}; "
                    "open the folders one by one"
                )

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's JSON, as it was saved.

        Raises:
            ValueError: If folders differ in it.
        """
        metadata = self.folders[0].metadata
        for folder in self.folders:
            if folder.metadata != metadata:
                raise ValueError(
                    f"{folder.path}: expected the metadata of {self.paths[0]}, {metadata}, got {folder.metadata}; "
                    "read them from `folders`"
                )
        return metadata

    @property
    def element(self) -> WeightSpaceElement:
        """All networks: views of the file if there is one shard, otherwise a copy in memory."""
        elements = [self._element(shard) for shard in self._shards]
        return elements[0] if len(elements) == 1 else cat(elements)

    @property
    def labels(self) -> Tensor | None:
        """The labels of all networks, or None."""
        return self._column(_LABELS) if _LABELS in self.settings["tensors"] else None

    @property
    def columns(self) -> dict[str, Tensor]:
        """The other tensors with one row per network."""
        names = [name for name in self.settings["tensors"] if name.startswith(_COLUMN)]
        return {name.removeprefix(_COLUMN): self._column(name) for name in names}

    def _column(self, name: str) -> Tensor:
        parts = [shard[name] for shard in self._shards]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _element(self, tensors: Mapping[str, Tensor] | _Shard) -> WeightSpaceElement:
        layers = self.architecture.layers
        return WeightSpaceElement(
            self.architecture,
            tuple(tensors[f"{_PARAMETER}{l.name}.weight"] for l in layers),
            tuple(tensors[f"{_PARAMETER}{l.name}.bias"] if l.bias else None for l in layers),
        )

    def __len__(self) -> int:
        """Number of networks."""
        return sum(self._counts)

    def __getitem__(self, index: int) -> Any:
        """One network, and its label if there are labels."""
        batch = self.__getitems__([index])
        return (batch[0][0], batch[1][0]) if isinstance(batch, tuple) else batch[0]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Any:
        """A batch of networks, and their labels if there are labels.

        Raises:
            IndexError: If an index is out of range.
        """
        names = [name for name in self.settings["tensors"] if name.startswith(_PARAMETER) or name == _LABELS]
        batch = self._rows(indices, names)
        element = self._element(batch)
        return (element, batch[_LABELS]) if _LABELS in batch else element

    def networks(self, indices: Sequence[int] | Tensor) -> WeightSpaceElement:
        """A batch of networks alone.

        Args:
            indices: Which, ``(batch,)``; negative ones count from the end.

        Raises:
            IndexError: If an index is out of range.
        """
        return self._element(self._rows(indices, [n for n in self.settings["tensors"] if n.startswith(_PARAMETER)]))

    def _rows(self, indices: Sequence[int] | Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        rows = self._check_indices(indices)
        if len(self._shards) == 1:
            return {name: self._shards[0][name].index_select(0, rows) for name in names}
        return self._gather(rows, names)

    def _check_indices(self, indices: Sequence[int] | Tensor) -> Tensor:
        rows = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        count = len(self)
        wrong = (rows < -count) | (rows >= count)
        if bool(wrong.any()):
            raise IndexError(f"{self.paths[0]}: index {int(rows[wrong][0])} is out of range for {count} networks")
        return torch.where(rows < 0, rows + count, rows)

    def _gather(self, rows: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        shard_of = torch.searchsorted(self._starts, rows, right=True) - 1
        like = {name: self._shards[0][name] for name in names}
        batch = {name: t.new_empty(len(rows), *t.shape[1:]) for name, t in like.items()}
        for number in shard_of.unique().tolist():
            places = (shard_of == number).nonzero().squeeze(-1)
            local = rows[places] - self._starts[number]
            for name, out in batch.items():
                out[places] = self._shards[number][name].index_select(0, local)
        return batch

    def __repr__(self) -> str:
        paths = ", ".join(repr(str(path)) for path in self.paths[:2]) + ", ..." * (len(self.paths) > 2)
        return f"WeightSpaceDataset({paths}, {len(self)} networks, labels={_LABELS in self.settings['tensors']})"

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "checksums": self._checksums}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The shards were verified when this data set was first opened; reading them in every worker is not needed.
        self.__init__(*state["paths"], verify=False)  # type: ignore[misc]
        for path, expected, got in zip(self.paths, state["checksums"], self._checksums, strict=True):
            if got != expected:
                raise ValueError(
                    f"{path}: expected the data set with checksum {expected[:12]}, got {got[:12]}: it was written "
                    "again since it was opened; open it again"
                )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the manifest of a data set, got no such file; weightaug.io.save writes one, and an "
            "interrupted save leaves none"
        )
    fix = "it was cut, changed by hand or is foreign: take it from a copy, or delete the folder and save it again"
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}; {fix}") from error
    kind = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    if kind != _FORMAT:
        raise ValueError(f"{path}: expected the format {_FORMAT!r}, got {kind!r}; {fix}")
    if manifest.get("version") != _VERSION:
        raise ValueError(
            f"{path}: expected format version {_VERSION}, got {manifest.get('version')!r}; use the weightaug that "
            "wrote it, or delete the folder and save the data set again"
        )
    checksum = _digest({key: value for key, value in manifest.items() if key != "sha256"})
    if manifest.get("sha256") != checksum:
        raise ValueError(f"{path}: expected the checksum {manifest.get('sha256')!r}, got {checksum!r}; {fix}")
    valid: dict[str, Any] = manifest
    return valid


# What safetensors calls the dtypes.
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


class _Shard:
    """One mapped file; a tensor is made when it is first asked for, so thousands of shards cost next to nothing.

    Args:
        folder: Where it lies.
        entry: What the manifest says of it.
        settings: What the manifest says of all shards.
        verify: Whether to compare the checksum, which reads the file.

    Raises:
        FileNotFoundError: If it is gone.
        ValueError: If it is not what the manifest says.
    """

    __slots__ = ("_file", "_tensors")

    def __init__(self, folder: Path, entry: Mapping[str, Any], settings: Mapping[str, Any], verify: bool) -> None:
        path = folder / entry["file"]
        fix = "take the file from a copy, or delete the folder and save the data set again"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected this shard, which {_MANIFEST} names, got no such file; {fix}")
        size = path.stat().st_size
        if size != entry["bytes"]:
            state = "truncated" if size < entry["bytes"] else "changed"
            raise ValueError(f"{path}: expected {entry['bytes']} bytes, got {size}: the file is {state}; {fix}")
        if verify and (checksum := _sha256(path)) != entry["sha256"]:
            raise ValueError(
                f"{path}: expected the sha256 {entry['sha256']}, got {checksum}: the file is corrupt or changed; {fix}"
            )
        opened: Any = safe_open  # without types in safetensors
        try:
            self._file = opened(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a safetensors file, got {error}: the file is corrupt; {fix}") from error
        self._tensors: dict[str, Tensor] = {}
        digest = (self._file.metadata() or {}).get("weightaug")
        if digest != _digest(settings):
            raise ValueError(
                f"{path}: expected a shard with this data set's settings (architecture, dtypes, metadata; digest "
                f"{_digest(settings)[:12]}), got one of other settings ({str(digest)[:12]}); {fix}"
            )
        names = set(self._file.keys())
        if names != set(settings["tensors"]):
            raise ValueError(f"{path}: expected the tensors {sorted(settings['tensors'])}, got {sorted(names)}; {fix}")
        for name, expected in settings["tensors"].items():
            shape, dtype = (entry["count"], *expected["shape"]), expected["dtype"]
            header = self._file.get_slice(name)
            got = tuple(header.get_shape()), _DTYPES.get(header.get_dtype(), header.get_dtype())
            if got != (shape, dtype):
                raise ValueError(f"{path}: {name}: expected {dtype} of shape {shape}, got {got[1]} of {got[0]}; {fix}")

    def __getitem__(self, name: str) -> Tensor:
        """A view of the file."""
        if name not in self._tensors:
            self._tensors[name] = self._file.get_tensor(name)
        return self._tensors[name]
