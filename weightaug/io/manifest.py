"""The manifest: what it says, how it is written, and the checks of one that comes from outside."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from weightaug.architecture import Architecture
from weightaug.io.files import publish, temporary

__all__ = [
    "COLUMN",
    "LABELS",
    "MANIFEST",
    "PARAMETER",
    "SHARDS",
    "Manifest",
    "digest",
    "generation",
    "read_manifest",
    "shard_name",
    "write_manifest",
]

FORMAT = "weightaug.dataset"
VERSION = 1
MANIFEST = "manifest.json"
SHARDS = f"shard-{'[0-9]' * 5}*-{'[0-9a-f]' * 16}.safetensors"  # others have shards, too, under other names
LABELS = "labels"
COLUMN = "column/"
PARAMETER = "parameter/"

_SHARD = re.compile(r"shard-\d{5,}-[0-9a-f]{16}\.safetensors")


class Manifest(NamedTuple):
    """A manifest that was checked.

    Attributes:
        settings: What all shards have in common: ``architecture``, ``tensors``, ``single`` and ``metadata``.
        shards: One entry a file: ``file``, ``count``, ``bytes`` and ``sha256``.
        sha256: Its own checksum; another content has another one.
        architecture: As it stands in the settings.
    """

    settings: dict[str, Any]
    shards: list[dict[str, Any]]
    sha256: str
    architecture: Architecture


def digest(data: Any) -> str:
    """Checksum of what JSON can hold."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def shard_name(number: int, checksum: str) -> str:
    """With the checksum in it, so that a new data set never writes over a shard that the old manifest names."""
    return f"shard-{number:05d}-{checksum[:16]}.safetensors"


def write_manifest(folder: Path, settings: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]) -> None:
    """Makes a data set of shards that are there; with the rename the new data set is in place of the old one."""
    body = {"format": FORMAT, "version": VERSION, "settings": settings, "shards": shards}
    with temporary(folder, MANIFEST) as path:
        path.write_text(json.dumps(body | {"sha256": digest(body)}, indent=1) + "\n", encoding="utf-8")
        publish(path, folder / MANIFEST)


def generation(folder: Path) -> tuple[int, int] | None:
    """Differs after every write, even one that puts back an earlier content; None without a manifest."""
    try:
        status = (folder / MANIFEST).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, foreign, of another version, or names files outside its folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the manifest of a data set, got no such file; weightaug.io.save writes one, and an "
            "interrupted save leaves none"
        )
    fix = "it was cut, changed by hand or is foreign: take it from a copy, or delete the folder and save it again"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}; {fix}") from error
    kind = content.get("format") if isinstance(content, dict) else type(content).__name__
    if kind != FORMAT:
        raise ValueError(f"{path}: expected the format {FORMAT!r}, got {kind!r}; {fix}")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path}: expected format version {VERSION}, got {content.get('version')!r}; use the weightaug that "
            "wrote it, or delete the folder and save the data set again"
        )
    checksum = digest({key: value for key, value in content.items() if key != "sha256"})
    if content.get("sha256") != checksum:
        raise ValueError(f"{path}: expected the checksum {content.get('sha256')!r}, got {checksum!r}; {fix}")
    try:
        settings = _mapping("settings", content.get("settings"), ("architecture", "tensors", "single", "metadata"))
        shards = _list("shards", content.get("shards"))
        for number, shard in enumerate(shards):
            _check_shard(f"shards[{number}]", shard)
        if len({shard["file"] for shard in shards}) != len(shards) or not shards:
            raise ValueError(f"shards: expected at least one file, and each once, got {len(shards)} entries")
        architecture = Architecture.from_dict(_mapping("architecture", settings["architecture"], ()))
        _check_settings(settings, architecture, sum(shard["count"] for shard in shards))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}; {fix}") from error
    return Manifest(settings, shards, checksum, architecture)


# A checksum guards against accidents; a manifest that someone made to harm has a right one.


def _check_shard(place: str, shard: Any) -> None:
    _mapping(place, shard, ("file", "count", "bytes", "sha256"))
    if not (isinstance(shard["file"], str) and _SHARD.fullmatch(shard["file"])):
        raise ValueError(f"{place}: expected a file such as {shard_name(0, '0' * 16)}, got {shard['file']!r}")
    for key in ("count", "bytes"):
        _count(f"{place}: {key}", shard[key])
    if not isinstance(shard["sha256"], str):
        raise ValueError(f"{place}: expected a sha256, got {shard['sha256']!r}")


def _check_settings(settings: Mapping[str, Any], architecture: Architecture, total: int) -> None:
    if not isinstance(settings["single"], bool) or (settings["single"] and total != 1):
        raise ValueError(f"single: expected true (of one network) or false, got {settings['single']!r} of {total}")
    _mapping("metadata", settings["metadata"], ())
    tensors = _mapping("tensors", settings["tensors"], ())
    for name, tensor in tensors.items():
        _mapping(f"tensors: {name}", tensor, ("dtype", "shape"))
        if not isinstance(tensor["dtype"], str):
            raise ValueError(f"tensors: {name}: expected the name of a dtype, got {tensor['dtype']!r}")
        for size in _list(f"tensors: {name}", tensor["shape"]):
            _count(f"tensors: {name}: shape", size)
        if not (name == LABELS or name.startswith((COLUMN, PARAMETER))):
            raise ValueError(f"tensors: expected labels, columns and parameters, got {name!r}")
    shapes = {PARAMETER + name: shape for name, shape in architecture.tensor_shapes().items()}
    given = {name for name in tensors if name.startswith(PARAMETER)}
    if given != set(shapes):
        raise ValueError(f"tensors: expected the parameters {sorted(shapes)}, got {sorted(given)}")
    kinds = {
        (tuple(tensors[name]["shape"][: len(tensors[name]["shape"]) - len(shape)]), tensors[name]["dtype"])
        for name, shape in shapes.items()
    }
    wrong = [name for name, shape in shapes.items() if not _ends_in(tensors[name]["shape"], shape)]
    if wrong or len(kinds) != 1:
        raise ValueError(f"tensors: shapes or dtypes do not fit the architecture, first at {(wrong or [*shapes])[0]}")


def _ends_in(sizes: Sequence[int], shape: tuple[int, ...]) -> bool:
    return tuple(sizes[max(len(sizes) - len(shape), 0) :]) == shape


def _mapping(place: str, value: Any, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(keys) <= set(value):
        got = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{place}: expected an object{f' with {sorted(keys)}' if keys else ''}, got {got}")
    return value


def _list(place: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{place}: expected a list, got {type(value).__name__}")
    return value


def _count(place: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{place}: expected a number from 0 on, got {value!r}")
