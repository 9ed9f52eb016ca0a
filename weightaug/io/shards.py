"""One shard: a safetensors file with some of the rows of a data set."""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weightaug.io.files import file_mode, publish, sha256, temporary
from weightaug.io.manifest import MANIFEST, digest, shard_name

__all__ = ["Shard", "dtype_code", "plain", "write_shard"]

_FIX = "take the file from a copy, or delete the folder and save the data set again"


@functools.cache
def dtype_code(dtype: torch.dtype) -> str | None:
    """What the installed safetensors calls a dtype; None if it cannot give tensors of it back as they were."""
    try:
        with warnings.catch_warnings():  # of quantised and other old types
            warnings.simplefilter("ignore")
            content = safetensors.torch.save({"probe": torch.zeros(2, dtype=dtype, device="cpu")})
            back = safetensors.torch.load(content)["probe"]
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError):
        return None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["probe"]
    # Types of less than a byte are packed, and counted in another way in the file.
    return str(header["dtype"]) if (back.dtype, header["shape"]) == (dtype, [2]) else None


def plain(tensor: Tensor) -> Tensor:
    """The values on the CPU, in their order and in memory of their own."""
    # The lazy bits of complex conjugates are not in memory, where safetensors looks, and a clone keeps them.
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().clone()


def write_shard(folder: Path, number: int, rows: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Writes tensors (see :func:`plain`) with one row per network; returns the entry for the manifest.

    Raises:
        OSError: If the disk is full, or the folder cannot be written.
    """
    with temporary(folder, f"shard-{number:05d}") as path:
        try:
            safetensors.torch.save_file(dict(rows), path, metadata={"weightaug": digest(settings)})
        except SafetensorError as error:
            # It has no other type for a full disk, but the system's number in its text.
            code = re.search(r"\(os error (\d+)\)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        os.chmod(path, file_mode())  # safetensors writes for the owner alone
        checksum = sha256(path)
        file = shard_name(number, checksum)
        entry = {
            "file": file,
            "count": next(iter(rows.values())).shape[0],
            "bytes": path.stat().st_size,
            "sha256": checksum,
        }
        publish(path, folder / file)
    return entry


class Shard:
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
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected this shard, which {MANIFEST} names, got no such file; {_FIX}")
        size = path.stat().st_size
        if size != entry["bytes"]:
            state = "truncated" if size < entry["bytes"] else "changed"
            raise ValueError(f"{path}: expected {entry['bytes']} bytes, got {size}: the file is {state}; {_FIX}")
        if verify and (checksum := sha256(path)) != entry["sha256"]:
            raise ValueError(
                f"{path}: expected the sha256 {entry['sha256']}, got {checksum}: the file is corrupt or changed; {_FIX}"
            )
        opened: Any = safe_open  # without types in safetensors
        try:
            self._file = opened(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise ValueError(
                f"{path}: expected a safetensors file, got {error}: the file is corrupt; {_FIX}"
            ) from error
        self._tensors: dict[str, Tensor] = {}
        stated = (self._file.metadata() or {}).get("weightaug")
        if stated != digest(settings):
            raise ValueError(
                f"{path}: expected a shard with this data set's settings (architecture, dtypes, metadata; digest "
                f"{digest(settings)[:12]}), got one of other settings ({str(stated)[:12]}); {_FIX}"
            )
        names = set(self._file.keys())
        if names != set(settings["tensors"]):
            raise ValueError(f"{path}: expected the tensors {sorted(settings['tensors'])}, got {sorted(names)}; {_FIX}")
        for name, expected in settings["tensors"].items():
            header = self._file.get_slice(name)
            shape, got = (entry["count"], *expected["shape"]), tuple(header.get_shape())
            code = header.get_dtype()
            if got != shape or code != _code_of(expected["dtype"]):
                raise ValueError(
                    f"{path}: {name}: expected {expected['dtype']} of shape {shape}, got {_name_of(code)} of {got}; "
                    f"{_FIX}"
                )

    def __getitem__(self, name: str) -> Tensor:
        """A view of the file."""
        if name not in self._tensors:
            with torch.inference_mode(False):  # it outlives the mode of the call that happens to be the first
                self._tensors[name] = self._file.get_tensor(name)
        return self._tensors[name]


def _code_of(name: str) -> str | None:
    dtype = getattr(torch, name, None)
    return dtype_code(dtype) if isinstance(dtype, torch.dtype) else None


def _name_of(code: str) -> str:
    """The dtype's name in torch, for messages."""
    dtypes = {d for d in vars(torch).values() if isinstance(d, torch.dtype)}
    return next((str(d).removeprefix("torch.") for d in dtypes if dtype_code(d) == code), code)
