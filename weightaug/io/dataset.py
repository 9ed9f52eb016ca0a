"""Reading: :func:`load` reads a data set whole, :class:`WeightSpaceDataset` batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weightaug._html import of_dataset
from weightaug._indexing import rows
from weightaug._joining import cat
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.io.files import AnyPath, absolute
from weightaug.io.manifest import COLUMN, LABELS, PARAMETER, Manifest, generation, read_manifest
from weightaug.io.shards import Shard
from weightaug.transforms import Transform

__all__ = ["Folder", "Stored", "WeightSpaceDataset", "load"]

_ATTEMPTS = 100
# Some operations of torch know no uint16, float8, ...; rows are copied as ints of the same size.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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


def load(path: AnyPath, *, verify: bool = True) -> Stored:
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
    index operation per tensor and shard, and a DataLoader passes it through. Items are copies, so in-place
    changes reach neither the file nor the next epoch. Pickling, for worker processes, moves the paths only.

    A data set that is opened while another process saves is the old one or the new one, and stays what it is.

    Args:
        path: A folder that :func:`save` wrote.
        *more: Further folders, whose networks follow: parts that several processes have made. They must agree in
            everything but their metadata.
        verify: Whether to compare the checksums of the shards, which reads them once. Sizes, shapes and dtypes
            are checked in any case.
        transform: Applied to every item and batch, and to its labels; it draws from torch's global generator,
            which a DataLoader seeds for each worker. Augmenting batches after the loader costs less.

    Raises:
        FileNotFoundError: If there is no data set, or a shard is gone.
        ValueError: If a file is corrupt, truncated, changed, or no part of this data set, if the folders do not
            fit together, or if the transform does not fit the architecture.
        TypeError: If a path is none, or the transform is none.
        OSError: If a folder is written again as fast as it is read.
    """

    def __init__(self, path: AnyPath, *more: AnyPath, verify: bool = True, transform: Transform | None = None) -> None:
        self.paths = tuple(absolute(p) for p in (path, *more))
        self._counts: list[int] = []
        self._shards: list[Shard] = []
        self._checksums: list[str] = []
        folders: list[Folder] = []
        for folder in self.paths:
            manifest, shards = _open(folder, verify)
            if not folders:
                self.settings: dict[str, Any] = manifest.settings
                self.architecture: Architecture = manifest.architecture
            self._check_fits(folder, manifest.settings)
            self._checksums.append(manifest.sha256)
            counts = [shard["count"] for shard in manifest.shards]
            self._counts += counts
            self._shards += shards
            folders.append(Folder(folder, sum(counts), manifest.settings["metadata"]))
        self.folders = tuple(folders)
        self._starts = torch.tensor([0, *self._counts], device="cpu").cumsum(0)
        if transform is not None:
            if not isinstance(transform, Transform):
                raise TypeError(f"transform: expected a weightaug.Transform, got {transform!r:.80}")
            transform.check(self.architecture)
        self.transform = transform

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
        return self._column(LABELS) if LABELS in self.settings["tensors"] else None

    @property
    def columns(self) -> dict[str, Tensor]:
        """The other tensors with one row per network."""
        names = [name for name in self.settings["tensors"] if name.startswith(COLUMN)]
        return {name.removeprefix(COLUMN): self._column(name) for name in names}

    def _column(self, name: str) -> Tensor:
        parts = [shard[name] for shard in self._shards]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _element(self, tensors: Mapping[str, Tensor] | Shard) -> WeightSpaceElement:
        named = [tensors[PARAMETER + name] for name in self.architecture.tensor_shapes()]
        return WeightSpaceElement(self.architecture, (), ()).with_tensors(named)

    def __len__(self) -> int:
        """Number of networks."""
        return sum(self._counts)

    def __getitem__(self, index: Any) -> Any:
        """One network or a batch, and the label or labels if there are some.

        Args:
            index: An int for one network; a slice, or ints or a mask of bools as a list, NumPy array or tensor for a
                batch. Negative ints count from the end.

        Raises:
            IndexError: If an index is out of range or none.
        """
        names = [name for name in self.settings["tensors"] if name.startswith(PARAMETER) or name == LABELS]
        batch = self._rows(index, names)
        element, labels = self._element(batch), batch.get(LABELS)
        if self.transform is not None:
            return self.transform(element) if labels is None else self.transform(element, labels)
        return element if labels is None else (element, labels)

    def __getitems__(self, indices: Any) -> Any:
        """A batch of networks, and their labels if there are labels; a DataLoader asks for its batches here.

        Raises:
            IndexError: If an index is out of range or none.
        """
        return self[indices]

    def networks(self, indices: Any) -> WeightSpaceElement:
        """Networks alone, without their labels, as they were saved.

        Args:
            indices: As in ``dataset[indices]``.

        Raises:
            IndexError: If an index is out of range or none.
        """
        return self._element(self._rows(indices, [n for n in self.settings["tensors"] if n.startswith(PARAMETER)]))

    def _rows(self, index: Any, names: Sequence[str]) -> dict[str, Tensor]:
        try:
            chosen = rows(index, len(self))
        except IndexError as error:
            raise IndexError(f"{self.paths[0]}: {error}") from error
        many = torch.tensor([chosen], device="cpu") if isinstance(chosen, int) else chosen
        if len(self._shards) == 1:
            batch = {name: self._shards[0][name].index_select(0, many) for name in names}
        else:
            batch = self._gather(many, names)
        return {name: tensor[0] for name, tensor in batch.items()} if isinstance(chosen, int) else batch

    def _gather(self, chosen: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        shard_of = torch.searchsorted(self._starts, chosen, right=True) - 1
        like = {name: self._shards[0][name] for name in names}
        batch = {name: t.new_empty(len(chosen), *t.shape[1:]) for name, t in like.items()}
        for number in shard_of.unique().tolist():
            places = (shard_of == number).nonzero().squeeze(-1)
            local = chosen[places] - self._starts[number]
            for name, out in batch.items():
                bits = _BITS[out.itemsize]
                out.view(bits)[places] = self._shards[number][name].view(bits).index_select(0, local)
        return batch

    def __repr__(self) -> str:
        paths = ", ".join(repr(str(path)) for path in self.paths[:2]) + ", ..." * (len(self.paths) > 2)
        return f"WeightSpaceDataset({paths}, {len(self)} networks, labels={LABELS in self.settings['tensors']})"

    _repr_html_ = of_dataset

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "checksums": self._checksums, "transform": self.transform}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The shards were verified when this data set was first opened; reading them in every worker is not needed.
        self.__init__(*state["paths"], verify=False, transform=state["transform"])  # type: ignore[misc]
        for path, expected, got in zip(self.paths, state["checksums"], self._checksums, strict=True):
            if got != expected:
                raise ValueError(
                    f"{path}: expected the data set with checksum {expected[:12]}, got {got[:12]}: it was written "
                    "again since it was opened; open it again"
                )


def _open(folder: Path, verify: bool) -> tuple[Manifest, list[Shard]]:
    """Opens all shards of one manifest; begins again if a writer replaces it meanwhile."""
    for _ in range(_ATTEMPTS):
        before = generation(folder)
        manifest = read_manifest(folder)
        try:
            return manifest, [Shard(folder, entry, manifest.settings, verify) for entry in manifest.shards]
        except (OSError, ValueError):
            if generation(folder) == before:
                raise
    raise OSError(f"{folder}: was written again {_ATTEMPTS} times while it was opened; wait for its writer")
