"""Data sets that are made shard by shard, by whoever is at hand, and go on where they were interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from weightaug._progress import bar
from weightaug._spreading import ExecutorName, check_executor, spread
from weightaug.element import WeightSpaceElement
from weightaug.transforms.mixing import Pool

if TYPE_CHECKING:
    from weightaug.io import WeightSpaceDataset

__all__ = ["Made", "Shard", "check_settings", "digest_of", "make_shards"]


class Made(NamedTuple):
    """What is in a shard: networks ``(n,)``, one row of labels each or None, and columns."""

    element: WeightSpaceElement
    labels: Tensor | None
    columns: dict[str, Tensor]


@dataclass(frozen=True)
class Shard(ABC):
    """One task: a folder of some networks, which is there or is not.

    Attributes:
        path: Its folder.
        size: How many networks will be in it.
    """

    path: Path
    size: int

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What it is made of, as JSON holds it: a shard made of anything else is not taken for this one."""

    @abstractmethod
    def make(self) -> Made:
        """Makes the networks."""

    def done(self) -> bool:
        """Whether it is there.

        Raises:
            ValueError: If another one is.
        """
        from weightaug.io import WeightSpaceDataset
        from weightaug.io.manifest import MANIFEST

        if not (self.path / MANIFEST).exists():
            return False
        found, expected = WeightSpaceDataset(self.path, verify=False).metadata, self.metadata()
        for key, value in expected.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{self.path}: made with another {key}: expected {value!r}, got {found.get(key)!r}; choose another "
                    "folder, or delete this one"
                )
        return True

    def run(self) -> int:
        """Makes and writes it; returns how many networks it has."""
        from weightaug import io

        element, labels, columns = self.make()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        element = element.map(lambda t: t.detach().cpu())
        io.save(self.path, element, labels, columns=columns, metadata=self.metadata())
        return self.size


def check_settings(
    owner: str, rows: int, labels: Tensor | None, shard_size: int, executor: str, workers: int | None
) -> None:
    """Checks what all that is made in shards is told.

    Raises:
        ValueError: If labels have not one row for each of ``rows`` networks, or a setting is out of range.
    """
    if isinstance(shard_size, bool) or not isinstance(shard_size, int) or shard_size < 1:
        raise ValueError(f"{owner}: shard_size must be at least 1, got {shard_size!r}")
    if labels is not None and labels.shape[:1] != (rows,):
        raise ValueError(f"{owner}: labels: expected {rows} rows, got {tuple(labels.shape)}")
    check_executor(owner, executor, workers)


def make_shards(
    shards: Sequence[Shard], executor: ExecutorName, workers: int | None, *, name: str, progress: bool
) -> WeightSpaceDataset:
    """Makes the shards that are not there, with a bar of the networks, and opens them all as one data set."""
    waiting = [shard for shard in shards if not shard.done()]
    total = sum(shard.size for shard in shards)
    with bar(total, unit="network", name=name, wanted=progress) as advance:
        advance(total - sum(shard.size for shard in waiting))
        for size in spread(Shard.run, waiting, executor, workers):
            advance(size)
    from weightaug.io import WeightSpaceDataset

    return WeightSpaceDataset(*(shard.path for shard in shards))


def digest_of(*values: object) -> str:
    """A hash of tensors, networks, transforms and settings with all that they hold, pools and points included."""
    content = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            content.update(str((value.dtype, tuple(value.shape))).encode() + flat.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, WeightSpaceElement):
            content.update(value.architecture.to_json().encode())
            for tensor in value.tensors():
                add(tensor)
        elif isinstance(value, Pool):
            add(value.element)
            add(tuple(value.targets))
        elif isinstance(value, tuple):
            content.update(f"({len(value)}".encode())
            for entry in value:
                add(entry)
        elif dataclasses.is_dataclass(value):
            content.update(type(value).__name__.encode())
            for field in dataclasses.fields(value):
                content.update(f"/{field.name}=".encode())
                add(getattr(value, field.name))
        else:
            content.update(repr(value).encode())

    for value in values:
        add(value)
    return content.hexdigest()
