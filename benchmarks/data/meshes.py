"""Meshes in ModelNet's layout, and their signed distances.

A data set is a zip archive or a folder that holds ``<class>/<split>/<name>.off``; ModelNet10 and ModelNet40
differ in nothing else. Most of its meshes are not watertight, and many are doubled: each face comes twice,
once per side. The sign comes from the generalised winding number (Jacobson et al. 2013, the fast form of
Barill et al. 2018), which needs no closed surface but an oriented one; see :func:`prepare_mesh`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.data.archives import ShapeSample, Split, classes_of, load_shapes
from benchmarks.data.fit import seed_of
from benchmarks.data.off import Mesh, MeshError, parse_off
from benchmarks.data.sdf import (
    Array,
    Distances,
    Sampling,
    read_distances,
    read_metadata,
    sampling_points,
    settings_of,
    short_hash,
    uniform_in_sphere,
    write_distances,
)

__all__ = [
    "Mesh",
    "MeshError",
    "MeshReport",
    "Prepared",
    "PreparedShape",
    "ShapeSample",
    "Skipped",
    "Split",
    "Surface",
    "classes_of",
    "load_shapes",
    "parse_off",
    "prepare",
    "prepare_mesh",
    "prepare_one",
    "signed_distance",
    "signed_distances",
]

Orientation = Literal["auto", "stored"]

# Vertices nearer than this, in the unit sphere, are one: ModelNet stores a vertex once per face and rounds it.
WELD = 1e-6
# A winding number further than this from every integer says that the mesh is open or not oriented there.
AMBIGUOUS = 0.1
# Doubled meshes with more than this share of the sphere ambiguous count as sheets, and patches with less than
# CLOSED as solids. Chosen by looking at slices of ModelNet10.
OPEN, CLOSED = 0.2, 0.05
SIGNINGS = ("stored", "oriented", "closed")


class Surface(NamedTuple):
    """Welded triangles in the unit sphere, and how the sign is told.

    Attributes:
        vertices: float64 ``(v, 3)``.
        faces: int64 ``(f, 3)``, each once: distances are to these.
        signing: int64 ``(g, 3)``: the faces whose winding number gives the sign.
    """

    vertices: Array
    faces: Array
    signing: Array


@dataclass(frozen=True)
class Skipped:
    """A mesh that was left out, and why."""

    member: str
    reason: str


@dataclass(frozen=True)
class MeshReport:
    """What a mesh is like and what became of it.

    Args:
        faces: Triangles as stored.
        watertight: Whether, with equal vertices welded, every edge joins exactly two faces of one orientation.
        doubled: Share of the surface that is stored twice, once per side.
        signing: Which faces give the sign: "stored", "oriented" or "closed" (see :func:`prepare_mesh`).
        ambiguous: Share of the unit sphere where the winding number is further than 0.1 from every integer.
        inside: Share of the unit sphere with a negative distance.
    """

    faces: int
    watertight: bool
    doubled: float
    signing: str
    ambiguous: float
    inside: float


@dataclass(frozen=True)
class PreparedShape:
    """A shape whose signed distances are on disk.

    Args:
        sample: The mesh.
        path: The file; :func:`benchmarks.data.sdf.read_distances` reads it.
        report: What the mesh is like.
    """

    sample: ShapeSample
    path: Path
    report: MeshReport

    def load(self) -> Distances:
        """Points and distances.

        Raises:
            FileNotFoundError: If the file is not there any more.
            ValueError: If the file is corrupt.
        """
        return read_distances(self.path)[0]


@dataclass(frozen=True)
class Prepared:
    """A data set whose signed distances are on disk.

    Args:
        shapes: The usable shapes, in the order of the samples.
        skipped: The others.
    """

    shapes: tuple[PreparedShape, ...]
    skipped: tuple[Skipped, ...]

    def summary(self) -> str:
        """How many shapes there are, what they are like, and which are missing and why."""
        lines = [f"{len(self.shapes)} shapes, {len(self.skipped)} skipped"]
        if self.shapes:
            reports = [shape.report for shape in self.shapes]
            lines += [
                f"  watertight as stored: {np.mean([r.watertight for r in reports]):.1%}",
                f"  more than half doubled: {np.mean([r.doubled > 0.5 for r in reports]):.1%}",
                *(
                    f"  sign from {kind} faces: {np.mean([r.signing == kind for r in reports]):.1%}"
                    for kind in SIGNINGS
                ),
                f"  sign unsure in over 10 % of the sphere: {np.mean([r.ambiguous > 0.1 for r in reports]):.1%}",
                f"  without an inside: {np.mean([r.inside == 0 for r in reports]):.1%}",
            ]
        lines += [f"  skipped {skipped.member}: {skipped.reason}" for skipped in self.skipped]
        return "\n".join(lines)


def normalize(mesh: Mesh) -> Mesh:
    """Moves the centre of the bounding box to the origin, and the furthest vertex to distance 1.

    Vertices without a face do not count, and are dropped.

    Raises:
        MeshError: If the mesh has no extent.
    """
    used, faces = np.unique(mesh.faces, return_inverse=True)
    vertices = mesh.vertices[used]
    low, high = vertices.min(0), vertices.max(0)
    vertices = vertices - (low + high) / 2
    radius = np.linalg.norm(vertices, axis=1).max()
    if not np.isfinite(radius) or radius <= 1e-12 * max(1.0, float(np.abs(low).max())):
        raise MeshError(f"no extent: from {low} to {high}")
    return Mesh(vertices / radius, faces.reshape(-1, 3).astype(np.int64))


def prepare_mesh(mesh: Mesh, orientation: Orientation = "auto", *, seed: int = 0) -> tuple[Surface, MeshReport]:
    """Normalises and welds a mesh, and orients its faces so that the winding number says what is inside.

    The winding numbers of a face and of its back cancel, so a mesh that is wholly doubled has no inside at all:
    its signed distance would be an unsigned one. About a fifth of ModelNet10 is like that. With "auto", each
    face is taken once, and every patch (faces that meet at edges shared by two) gets one orientation, outward by
    the sign of its volume. These "oriented" faces give the sign instead of the "stored" ones

    - of a mesh that is less than half doubled: if they make the winding number ambiguous in less of the sphere;
    - of another mesh: if the stored faces give less than half as much inside. But where the oriented ones leave
      more than a fifth of the sphere ambiguous (thin sheets, whose caps would be arbitrary), only patches
      that are closed by themselves have an inside ("closed"), and the others are sheets without one.

    Args:
        mesh: As stored.
        orientation: "auto", or "stored" for the winding number of the faces as they are.
        seed: Seed of the points that the report's shares are taken at.

    Raises:
        MeshError: If the mesh has no extent, or no face with an area.
    """
    mesh = normalize(mesh)
    welded = _weld(mesh)
    area = _areas(welded)
    first, twice = _without_doubles(welded.faces)
    single = np.ascontiguousarray(welded.faces[first])
    doubled = float(area[twice].sum() / area.sum())
    watertight = _is_watertight(welded.faces)

    probes = uniform_in_sphere(2000, np.random.default_rng(seed))
    signing, faces, winding = "stored", welded.faces, _winding(welded.vertices, welded.faces, probes)
    if orientation == "auto" and not watertight:
        oriented, patch = _orient(Mesh(welded.vertices, single))
        other = _winding(welded.vertices, oriented, probes)
        if doubled <= 0.5:
            if _ambiguous(other) < _ambiguous(winding):
                signing, faces, winding = "oriented", oriented, other
        elif _inside(winding) < _inside(other) / 2:
            signing, faces, winding = "oriented", oriented, other
            if _ambiguous(other) > OPEN:
                signing, faces = "closed", _closed_patches(welded.vertices, oriented, patch, probes)
                winding = _winding(welded.vertices, faces, probes)
    report = MeshReport(len(mesh.faces), watertight, round(doubled, 4), signing, _ambiguous(winding), _inside(winding))
    return Surface(welded.vertices, single, faces), report


def _weld(mesh: Mesh) -> Mesh:
    _, first, index = np.unique(np.round(mesh.vertices / WELD), axis=0, return_index=True, return_inverse=True)
    welded = Mesh(mesh.vertices[first], index.reshape(-1)[mesh.faces].astype(np.int64))
    faces = welded.faces[_areas(welded) > 0]
    if not len(faces):
        raise MeshError("no face has an area")
    return Mesh(welded.vertices, np.ascontiguousarray(faces))


def _areas(mesh: Mesh | Surface) -> Array:
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def _without_doubles(faces: Array) -> tuple[Array, Array]:
    """Indices of one face per set of corners, and a mask of the faces whose set occurs more than once."""
    _, first, index, count = np.unique(
        np.sort(faces, axis=1), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    return np.sort(first), (count > 1)[index.reshape(-1)]


def _is_watertight(faces: Array) -> bool:
    """Whether every edge occurs exactly once in each direction."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    number = int(faces.max()) + 1
    forward = np.sort(edges[:, 0] * number + edges[:, 1])
    backward = np.sort(edges[:, 1] * number + edges[:, 0])
    return bool((np.diff(forward) > 0).all() and np.array_equal(forward, backward))


def _orient(mesh: Mesh) -> tuple[Array, Array]:
    """The faces with one orientation per patch, outward, and the patch of each."""
    faces, patch = require_igl().bfs_orient(mesh.faces)
    a, b, c = (mesh.vertices[faces[:, k]] for k in range(3))
    normal, centre = np.cross(b - a, c - a), (a + b + c) / 3
    weight = np.linalg.norm(normal, axis=1)
    total = np.bincount(patch, weight)
    middle = np.stack([np.bincount(patch, weight * centre[:, k]) / total for k in range(3)], axis=1)
    # Six times the volume between the patch and its own centre, so that open patches have a sign, too.
    volume = np.bincount(patch, ((centre - middle[patch]) * normal).sum(1))
    inward = volume[patch] < 0
    faces = np.where(inward[:, None], faces[:, ::-1], faces)
    return np.ascontiguousarray(faces, dtype=np.int64), patch


def _closed_patches(vertices: Array, faces: Array, patch: Array, probes: Array) -> Array:
    """The faces of the patches whose own winding number is ambiguous hardly anywhere."""
    keep = np.zeros(len(faces), dtype=bool)
    for number in range(int(patch.max()) + 1):
        here = patch == number
        alone = np.ascontiguousarray(faces[here])
        # Beside the probes of the whole sphere, some at the patch itself: it may be small.
        low, high = vertices[alone].min((0, 1)), vertices[alone].max((0, 1))
        near = (low + high) / 2 + probes[:500] * np.maximum((high - low).max(), WELD)
        keep[here] = _ambiguous(_winding(vertices, alone, near)) < CLOSED
    return np.ascontiguousarray(faces[keep])


def _ambiguous(winding: Array) -> float:
    return float((np.abs(winding - np.round(winding)) > AMBIGUOUS).mean())


def _inside(winding: Array) -> float:
    return float((np.abs(winding) > 0.5).mean())


def _winding(vertices: Array, faces: Array, points: Array) -> Array:
    """Generalised winding number of faces around points: of closed surfaces 1 inside, 0 outside."""
    if not len(faces):
        return np.zeros(len(points))
    result: Array = require_igl().fast_winding_number(vertices, faces, points)
    return result


def signed_distance(surface: Surface, points: Array) -> Array:
    """Signed distance ``(n,)`` of points ``(n, 3)``: inside is where the winding number exceeds 1/2.

    Its absolute value, as in libigl, since some meshes are inside out. libigl's own ``signed_distance`` is not
    used: some versions multiply the distance with the approximate winding number (libigl pull request 2348).
    """
    points = np.ascontiguousarray(points, np.float64)
    squared, _, _ = require_igl().point_mesh_squared_distance(points, surface.vertices, surface.faces)
    distance = np.sqrt(np.maximum(squared, 0))
    winding = _winding(surface.vertices, surface.signing, points)
    result: Array = np.where(np.abs(winding) > 0.5, -distance, distance)
    return result


def surface_points(mesh: Mesh | Surface, count: int, generator: np.random.Generator) -> Array:
    """Points ``(count, 3)``, uniform on the surface."""
    area = _areas(mesh)
    chosen = generator.choice(len(area), size=count, p=area / area.sum())
    a, b, c = (mesh.vertices[mesh.faces[chosen, k]] for k in range(3))
    s, t = generator.random((2, count, 1))
    s, t = np.where(s + t > 1, 1 - s, s), np.where(s + t > 1, 1 - t, t)
    return a + s * (b - a) + t * (c - a)


def signed_distances(
    sample: ShapeSample, count: int = 250_000, seed: int = 0, *, sampling: Sampling | None = None
) -> Distances:
    """Points of a shape and their signed distances, in the unit sphere.

    Args:
        sample: From :func:`load_shapes`.
        count: Number of points.
        seed: Seed; each sample draws from one of its own, made of this and its name.
        sampling: How the points lie, instead of ``count``, ``seed`` and the usual shares.

    Raises:
        MeshError: If the mesh cannot be used.
        ImportError: If libigl is not installed.
    """
    return _compute(sample.read(), sample, sampling or Sampling(points=count, seed=seed), "auto")[0]


def _compute(
    data: bytes, sample: ShapeSample, sampling: Sampling, orientation: Orientation
) -> tuple[Distances, MeshReport]:
    surface, report = prepare_mesh(parse_off(data), orientation)
    # The name, not the place in a list, decides: a shape has the same points whatever else is read.
    generator = np.random.default_rng(seed_of(sampling.seed, sample.class_name, sample.split, sample.name))
    on_surface = surface_points(surface, sampling.points - sampling.counts[0], generator)
    points = sampling_points(on_surface, sampling, generator)
    return Distances(points, signed_distance(surface, points).astype(sampling.precision)), report


def cache_path(sample: ShapeSample, cache: Path, sampling: Sampling, orientation: Orientation = "auto") -> Path:
    """Where a shape's signed distances lie. Other settings, and other meshes of its name, lie elsewhere.

    Raises:
        MeshError: If the mesh cannot be read.
    """
    folder = f"{sample.source.stem}-{short_hash(settings_of(sampling, orientation=orientation))}"
    return cache / folder / sample.class_name / sample.split / f"{sample.name}-{sample.checksum():08x}.safetensors"


def prepare_one(
    sample: ShapeSample, cache: str | Path, sampling: Sampling | None = None, orientation: Orientation = "auto"
) -> PreparedShape:
    """Makes the signed distances of one shape, unless they are there.

    A file that is cut short is made again.

    Raises:
        MeshError: If the mesh cannot be used.
        ImportError: If libigl is not installed.
    """
    sampling = sampling or Sampling()
    path = cache_path(sample, Path(cache), sampling, orientation)
    stored = read_metadata(path)
    if stored is not None:
        return PreparedShape(sample, path, MeshReport(**stored["report"]))
    data = sample.read()
    distances, report = _compute(data, sample, sampling, orientation)
    metadata = {
        "member": sample.member,
        "label": sample.label,
        "report": asdict(report),
        "settings": settings_of(sampling, orientation=orientation),
    }
    write_distances(path, distances, metadata)
    return PreparedShape(sample, path, report)


def prepare(
    samples: Sequence[ShapeSample],
    cache: str | Path,
    sampling: Sampling | None = None,
    orientation: Orientation = "auto",
    *,
    progress: bool = True,
) -> Prepared:
    """Makes the signed distances of many shapes; what is there already is kept, so an interrupted call goes on.

    A mesh that cannot be used is skipped and listed with the reason. Shapes do not depend on each other: to
    use more processes, give each some of the samples.

    Args:
        samples: From :func:`load_shapes`.
        cache: Folder of all signed distances.
        sampling: How the points lie; ``Sampling()`` by default.
        orientation: See :func:`prepare_mesh`.
        progress: Whether to show a bar with rate and time left.

    Raises:
        ImportError: If libigl, or tqdm for the bar, is not installed.
    """
    sampling = sampling or Sampling()
    require_igl()  # at once, and not after the first mesh
    shapes, skipped = [], []
    for sample in _bar(samples) if progress else samples:
        try:
            shapes.append(prepare_one(sample, cache, sampling, orientation))
        except MeshError as error:
            skipped.append(Skipped(sample.member, str(error)))
    return Prepared(tuple(shapes), tuple(skipped))


def _bar(samples: Sequence[ShapeSample]) -> Iterator[ShapeSample]:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("the progress bar needs tqdm; install it with: pip install 'weightaug[shapes]'") from error
    yield from tqdm(samples, desc="signed distances", unit="mesh")


def require_igl() -> Any:
    """The module igl.

    Raises:
        ImportError: If it is not installed, or too old.
    """
    try:
        import igl
    except ImportError as error:
        raise ImportError(
            "signed distances of meshes need libigl; install it with: pip install 'weightaug[shapes]'"
        ) from error
    if not hasattr(igl, "fast_winding_number"):
        raise ImportError(
            f"expected libigl >= 2.6 (with fast_winding_number), got {getattr(igl, '__version__', 'an older one')}; "
            "install it with: pip install --upgrade 'weightaug[shapes]'"
        )
    return igl
