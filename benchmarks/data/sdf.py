"""What meshes and analytic solids have in common: where distances are taken, and how they are kept on disk.

Every shape lies in the unit sphere. Distances are negative inside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.running.files import write_bytes

Array = npt.NDArray[Any]
Precision = Literal["float16", "float32"]

# Part of every cache folder's name: raise it when the same settings would give other numbers.
FORMAT = 2  # 1: fans instead of ears


@dataclass(frozen=True)
class Sampling:
    """Where a shape's signed distance is taken.

    The paper (appendix E) says "250K points near the surface" and no more. How near, and that a few points
    fill the sphere, are our choices: they follow DeepSDF (Park et al. 2019), whose points have Gaussian
    offsets of variance 0.0025 and 0.00025 from the surface. Without the uniform share, nothing would hold a
    network far from the surface, and the reconstruction would show floating pieces.

    Args:
        points: Points per shape.
        uniform: Share of the points that are uniform in the unit sphere.
        deviations: Standard deviations of the other points' offsets from the surface, in equal shares.
        precision: Number format on disk. Points are rounded to it first, and distances are those of the
            rounded points; so float16 (2 MB per shape of 250,000) costs 0.05 % of each distance and no more.
        seed: Seed of the points; each shape draws from a seed of its own, made of this one and its name.
    """

    points: int = 250_000
    uniform: float = 0.05
    deviations: tuple[float, ...] = (0.05, 0.0158)
    precision: Precision = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.points < 1 or not 0 <= self.uniform <= 1 or not self.deviations or min(self.deviations) < 0:
            raise ValueError(
                "expected points >= 1, uniform in [0, 1] and at least one deviation, none negative, "
                f"got points={self.points}, uniform={self.uniform}, deviations={self.deviations}"
            )
        if self.precision not in ("float16", "float32"):
            raise ValueError(f"expected precision 'float16' or 'float32', got {self.precision!r}")

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of uniform points, then of the points of each deviation."""
        uniform = round(self.points * self.uniform)
        shares = np.array_split(np.arange(self.points - uniform), len(self.deviations))
        return (uniform, *(len(share) for share in shares))


class Distances(NamedTuple):
    """Signed distances of one shape, in random order: the first k are a fair sample of k.

    Attributes:
        points: ``(points, 3)``.
        distances: ``(points,)``, negative inside.
    """

    points: Array
    distances: Array


def uniform_in_sphere(count: int, generator: np.random.Generator) -> Array:
    """Points ``(count, 3)``, uniform in the unit sphere."""
    directions = generator.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * generator.random((count, 1)) ** (1 / 3)


def sampling_points(surface: Array, sampling: Sampling, generator: np.random.Generator) -> Array:
    """The points of a shape, from points ``(sampling.points - uniform, 3)`` of its surface, shuffled and rounded."""
    uniform, *near = sampling.counts
    offsets = generator.standard_normal(surface.shape) * np.repeat(sampling.deviations, near)[:, None]
    points = np.concatenate([uniform_in_sphere(uniform, generator), surface + offsets])
    return generator.permutation(points).astype(sampling.precision)


def short_hash(data: Any) -> str:
    """Eight hexadecimal digits that stand for JSON data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]


def settings_of(sampling: Sampling, **more: Any) -> dict[str, Any]:
    """All that decides the numbers of a cached file, as JSON gives it back."""
    settings: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(sampling), **more}))
    return settings


def write_distances(path: Path, data: Distances, metadata: Mapping[str, Any]) -> None:
    """Writes one shape: to a temporary name, then renamed, so that a file either is whole or is not there."""
    from safetensors.numpy import save

    tensors = {"points": np.ascontiguousarray(data.points), "distances": np.ascontiguousarray(data.distances)}
    header = {"sha256": _checksum(data), "metadata": json.dumps(dict(metadata))}
    write_bytes(path, save(tensors, metadata=header))


def read_distances(path: Path) -> tuple[Distances, dict[str, Any]]:
    """Reads one shape and its metadata, and checks the checksum.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If the file is corrupt.
    """
    from safetensors import safe_open

    if not path.exists():
        raise FileNotFoundError(f"{path}: no cached signed distances; make them with benchmarks.data.meshes.prepare")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            data = Distances(file.get_tensor("points"), file.get_tensor("distances"))
        expected, metadata = header["sha256"], json.loads(header["metadata"])
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"{path}: not whole ({error!r}); delete it, and it is made again") from error
    got = _checksum(data)
    if got != expected:
        raise ValueError(f"{path}: corrupt: expected sha256 {expected}, got {got}; delete it, and it is made again")
    return data, metadata


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Metadata of a cached shape without reading its numbers, or None if there is no such file or a broken one.

    A file cut short is found out (safetensors compares the length); a changed number is not: that is for
    :func:`read_distances`.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {})["metadata"])
            return metadata
    except Exception:  # whatever a damaged file leads to
        return None


def _checksum(data: Distances) -> str:
    digest = hashlib.sha256()
    for array in data:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
