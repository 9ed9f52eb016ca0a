"""Analytic solids: ten classes of shapes whose signed distance is a closed formula, so nothing is downloaded.

A solid is a class with three sizes, a rotation and a centre; :class:`Solids` holds many, of any classes. All
ten formulas are exact distances, inside and outside (that of the ellipsoid up to the convergence of a root:
below 1e-9 in float64, 1e-5 in float32); several follow Inigo Quilez, "Distance functions" (2008 ff.).
Distances are negative inside, and every solid lies in the unit sphere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.data.fit import seed_of
from benchmarks.data.sdf import Sampling

Split = Literal["train", "test"]


def sphere(p: Tensor, size: Tensor) -> Tensor:
    """Size: radius."""
    return p.norm(dim=-1) - size[..., 0]


def ellipsoid(p: Tensor, size: Tensor) -> Tensor:
    """Size: the three half axes.

    The closest point is ``size² p / (size² + t)`` with the largest root t of ``|size p / (size² + t)| = 1``
    (Eberly, "Distance from a point to an ellipsoid"). Newton's method on ``1 / |...|``, which is concave and
    nearly linear in t, climbs to the root from the left and never passes it.
    """
    p = p.abs().clamp_min(1e-9 if p.dtype == torch.float64 else 1e-6)  # symmetry planes are singular inside
    square = size.square()
    with torch.no_grad():
        t = (size * p - square).amax(-1, keepdim=True)
        for _ in range(12):
            t = _newton_step(p, size, square, t)
    t = _newton_step(p, size, square, t)  # this one with gradients: those of the implicit function
    closest = square * p / (square + t)
    return (p - closest).norm(dim=-1).copysign(t.squeeze(-1))  # t > 0 outside


def _newton_step(p: Tensor, size: Tensor, square: Tensor, t: Tensor) -> Tensor:
    ratio = size * p / (square + t)
    norm_square = ratio.square().sum(-1, keepdim=True)
    slope = (ratio.square() / (square + t)).sum(-1, keepdim=True)
    return t + norm_square / slope * (norm_square.sqrt() - 1)


def box(p: Tensor, size: Tensor) -> Tensor:
    """Size: half the edges."""
    return _box(p.abs() - size)


def octahedron(p: Tensor, size: Tensor) -> Tensor:
    """Size: distance of the corners from the centre.

    By symmetry, the closest point is in the point's octant: on the triangle of non-negative coordinates that
    add up to the size. The projection to it is ``max(p - tau, 0)`` with tau from the sorted coordinates.
    """
    p = p.abs()
    radius = size[..., :1]
    largest = p.sort(dim=-1, descending=True).values
    tau = ((largest.cumsum(-1) - radius) / torch.arange(1, 4, dtype=p.dtype, device=p.device)).amax(-1, keepdim=True)
    closest = (p - tau).clamp_min(0)
    return (p - closest).norm(dim=-1).copysign(p.sum(-1) - radius.squeeze(-1))


def cylinder(p: Tensor, size: Tensor) -> Tensor:
    """Size: radius, half height."""
    return _box(_profile(p).abs() - size[..., :2])


def cone(p: Tensor, size: Tensor) -> Tensor:
    """Size: radius of the base, half height; the base is at -z, the tip at +z."""
    q = _profile(p)
    radius, height = size[..., 0], size[..., 1]
    base = torch.stack([torch.zeros_like(radius), -height], dim=-1)
    rim = torch.stack([radius, -height], dim=-1)
    tip = torch.stack([torch.zeros_like(radius), height], dim=-1)
    distance = torch.minimum(_segment(q, base, rim), _segment(q, rim, tip))
    slant, along = tip - rim, q - rim
    left = slant[..., 0] * along[..., 1] - slant[..., 1] * along[..., 0]  # of the slanted line: inside
    return torch.where((left > 0) & (q[..., 1] > -height), -distance, distance)


def capsule(p: Tensor, size: Tensor) -> Tensor:
    """Size: radius, half the distance of the centres of its two half spheres."""
    half = size[..., 1]
    z = p[..., 2]
    return torch.stack([p[..., 0], p[..., 1], z - z.clamp(-half, half)], dim=-1).norm(dim=-1) - size[..., 0]


def torus(p: Tensor, size: Tensor) -> Tensor:
    """Size: radius of the ring, radius of its cross-section."""
    return _ring(p, size).norm(dim=-1) - size[..., 1]


def tube(p: Tensor, size: Tensor) -> Tensor:
    """Size: mean radius, half the wall's thickness, half height: a cylinder with a hole."""
    return _box(_ring(p, size).abs() - size[..., 1:])


def prism(p: Tensor, size: Tensor) -> Tensor:
    """Size: distance of the sides from the axis, half height: a regular hexagonal prism."""
    apothem = size[..., 0]
    q = p[..., :2].abs()
    # A mirror brings every side to y = apothem.
    mirror = q.new_tensor([-math.sqrt(3) / 2, 0.5])
    q = q - 2 * (q @ mirror).clamp_max(0).unsqueeze(-1) * mirror
    half_side = apothem / math.sqrt(3)
    x, y = q.unbind(-1)
    across = torch.stack([x - x.clamp(-half_side, half_side), y - apothem], dim=-1).norm(dim=-1).copysign(y - apothem)
    return _box(torch.stack([across, p[..., 2].abs() - size[..., 1]], dim=-1))


def _profile(p: Tensor) -> Tensor:
    """(distance from the z axis, z): what a solid of revolution depends on."""
    return torch.stack([p[..., :2].norm(dim=-1), p[..., 2]], dim=-1)


def _ring(p: Tensor, size: Tensor) -> Tensor:
    """(distance from a cylinder of radius ``size[0]`` around the z axis, z)."""
    return torch.stack([p[..., :2].norm(dim=-1) - size[..., 0], p[..., 2]], dim=-1)


def _box(q: Tensor) -> Tensor:
    """Distance to a box from the signed distances to its sides; also of a prism over an exact cross-section."""
    return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)


def _segment(q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Distance of points to a segment."""
    along, from_a = b - a, q - a
    share = ((from_a * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True)).clamp(0, 1)
    return (from_a - share * along).norm(dim=-1)


class Kind(NamedTuple):
    """A class of solids.

    Attributes:
        distance: Signed distance of points ``(n, points, 3)`` for sizes ``(n, 1, 3)``.
        reach: Distance of the furthest point from the centre, ``(n,)``, for sizes ``(n, 3)``.
        low: Least proportions.
        high: Greatest proportions; unused sizes are 0.
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    reach: Callable[[Tensor], Tensor]
    low: tuple[float, float, float]
    high: tuple[float, float, float]


def _corner(size: Tensor) -> Tensor:
    return size.norm(dim=-1)


# The ranges keep the classes apart: no ellipsoid is a sphere, no capsule nearly one, no tube's hole is closed. The
# classes are in alphabetical order, as those of a folder of meshes are.
KINDS = {
    "box": Kind(box, _corner, (0.3, 0.3, 0.3), (1, 1, 1)),
    "capsule": Kind(capsule, lambda s: s[..., 0] + s[..., 1], (0.25, 0.5, 0), (0.5, 1, 0)),
    "cone": Kind(cone, _corner, (0.4, 0.5, 0), (0.9, 1, 0)),
    "cylinder": Kind(cylinder, _corner, (0.3, 0.3, 0), (1, 1, 0)),
    "ellipsoid": Kind(ellipsoid, lambda s: s.amax(-1), (0.3, 0.5, 1), (0.5, 0.8, 1)),
    "octahedron": Kind(octahedron, lambda s: s[..., 0], (1, 0, 0), (1, 0, 0)),
    "prism": Kind(prism, lambda s: torch.hypot(s[..., 0] * 2 / math.sqrt(3), s[..., 1]), (0.4, 0.3, 0), (1, 1, 0)),
    "sphere": Kind(sphere, lambda s: s[..., 0], (1, 0, 0), (1, 0, 0)),
    "torus": Kind(torus, lambda s: s[..., 0] + s[..., 1], (1, 0.2, 0), (1, 0.6, 0)),
    "tube": Kind(tube, lambda s: torch.hypot(s[..., 0] + s[..., 1], s[..., 2]), (1, 0.15, 0.3), (1, 0.4, 1)),
}
CLASSES = tuple(KINDS)


class SolidDistances(NamedTuple):
    """Signed distances of a batch of solids.

    Attributes:
        points: ``(n, points, 3)``.
        distances: ``(n, points)``, negative inside.
    """

    points: Tensor
    distances: Tensor


@dataclass(frozen=True)
class Solids:
    """A batch of solids, of any classes.

    Args:
        labels: Index into ``CLASSES``, int64 ``(n,)``.
        sizes: ``(n, 3)``; what they mean, the class's function says.
        rotations: ``(n, 3, 3)``, from the solid's own axes to the world's.
        centres: ``(n, 3)``.
        indices: Which solids of the data set they are, int64 ``(n,)``.
        split: Which half of the data set they are from.
    """

    labels: Tensor
    sizes: Tensor
    rotations: Tensor
    centres: Tensor
    indices: Tensor
    split: Split = "train"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def reach(self) -> Tensor:
        """Radius of the sphere around the centre that holds the solid, ``(n,)``."""
        reach = torch.empty_like(self.sizes[:, 0])
        for label in self.labels.unique().tolist():
            here = self.labels == label
            reach[here] = KINDS[CLASSES[label]].reach(self.sizes[here])
        return reach

    def distance(self, points: Tensor) -> Tensor:
        """Exact signed distance ``(n, points)`` of points ``(n, points, 3)``, or ``(points, 3)`` for all solids."""
        points = points.expand(len(self), -1, -1) if points.dim() == 2 else points
        own = (points - self.centres.unsqueeze(1)) @ self.rotations  # the inverse rotation of rows
        sizes = self.sizes.unsqueeze(1)
        order, parts = [], []
        for label in self.labels.unique().tolist():  # one call per class, for all of its solids
            here = (self.labels == label).nonzero().squeeze(1)
            order.append(here)
            parts.append(KINDS[CLASSES[label]].distance(own[here], sizes[here]))
        if not parts:
            return own.new_zeros(own.shape[:2])
        return torch.cat(parts)[torch.cat(order).argsort()]


def make_solids(
    indices: Sequence[int], split: Split = "train", *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Solids:
    """The solids of a data set by their numbers; number i is of class ``i % 10``.

    Each has random proportions, a uniformly random rotation, a circumscribed radius between 0.5 and 0.9, and a
    centre so that it stays in the unit sphere. Each draws from its own seed alone, so any part of the data set
    can be made again.

    Args:
        indices: Numbers, from 0 on.
        split: "train" or "test": different solids.
        seed: Seed of the data set.
        dtype: Of the tensors.
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
    rows = []
    generator = torch.Generator()
    for index in indices:
        generator.manual_seed(seed_of("solid", seed, split, index))
        rows.append(
            torch.cat(
                [
                    torch.rand(5, generator=generator, dtype=torch.float64),
                    torch.randn(7, generator=generator, dtype=torch.float64),
                ]
            )
        )
    drawn = torch.stack(rows) if rows else torch.zeros(0, 12, dtype=torch.float64)
    uniform, normal = drawn[:, :5], drawn[:, 5:]
    numbers = torch.tensor(list(indices), dtype=torch.int64)
    labels = numbers % len(CLASSES)
    low, high = (
        torch.tensor([getattr(kind, name) for kind in KINDS.values()], dtype=torch.float64)[labels]
        for name in ("low", "high")
    )
    sizes = low + (high - low) * uniform[:, :3]
    shapes = Solids(labels, sizes, _rotation(normal[:, :4]), torch.zeros_like(sizes), numbers, split)
    radius = 0.5 + 0.4 * uniform[:, 3]
    sizes = sizes * (radius / shapes.reach).unsqueeze(1)
    direction = torch.nn.functional.normalize(normal[:, 4:], dim=1)
    centres = direction * ((1 - radius) * uniform[:, 4] ** (1 / 3)).unsqueeze(1)
    return Solids(labels, sizes.to(dtype), shapes.rotations.to(dtype), centres.to(dtype), numbers, split)


def _rotation(quaternion: Tensor) -> Tensor:
    """Rotation matrices of quaternions of any length; normal numbers give uniform rotations."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def surface_points(solids: Solids, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Points ``(n, count, 3)`` on the solids' surfaces, nearly uniform.

    Of four times as many points in the circumscribed sphere, those in a shell around the surface are kept by
    chance, the nearer the likelier, and moved along the distance's gradient by the distance: on the surface in
    one step, since the distance is exact. Sharp edges get a little more than their share (0.05 around them).
    """
    n, dtype = len(solids), solids.sizes.dtype
    normal, uniform = _draw(generators, 4 * count, (3, 2), dtype)
    radius = solids.reach.view(n, 1, 1) + 0.05
    ball = torch.nn.functional.normalize(normal, dim=-1) * uniform[..., :1] ** (1 / 3) * radius
    ball = ball + solids.centres.unsqueeze(1)
    # Gumbel's trick: the greatest of log-weight + noise are a sample without replacement.
    gumbel = -torch.log(-torch.log(uniform[..., 1].clamp(1e-12, 1 - 1e-7)))
    weight = gumbel - (solids.distance(ball) / 0.05).square() / 2
    chosen = weight.topk(count, dim=1).indices.unsqueeze(-1).expand(-1, -1, 3)
    with torch.enable_grad():
        points = ball.gather(1, chosen).detach().requires_grad_()
        distance = solids.distance(points)
        (gradient,) = torch.autograd.grad(distance.sum(), points)
    return (points - distance.unsqueeze(-1) * gradient).detach()


def signed_distances(
    solids: Solids,
    count: int = 250_000,
    seed: int = 0,
    *,
    noise: float = 0.005,
    sampling: Sampling | None = None,
    chunk: int = 2**21,
) -> SolidDistances:
    """Points and signed distances, as :func:`benchmarks.data.meshes.signed_distances` takes them of meshes.

    Args:
        solids: From :func:`make_solids`.
        count: Number of points per solid.
        seed: Seed; each solid draws from one of its own, made of this, its split and number.
        noise: Standard deviation of the Gaussian noise on the distances; 0 for exact ones.
        sampling: How the points lie, instead of ``count``, ``seed`` and the usual shares; nothing is stored, so
            its precision does not matter.
        chunk: Points that are looked at at once, which bounds the memory and changes no number.
    """
    sampling = sampling or Sampling(points=count, seed=seed)
    if noise < 0:
        raise ValueError(f"expected noise >= 0, got {noise}")
    size = max(1, chunk // (4 * sampling.points))
    parts = [_signed_distances(_slice(solids, i, i + size), sampling, noise) for i in range(0, len(solids), size)]
    if not parts:
        parts = [SolidDistances(solids.sizes.new_zeros(0, count, 3), solids.sizes.new_zeros(0, count))]
    return SolidDistances(torch.cat([p.points for p in parts]), torch.cat([p.distances for p in parts]))


def _slice(solids: Solids, first: int, last: int) -> Solids:
    here = slice(first, last)
    return Solids(
        solids.labels[here],
        solids.sizes[here],
        solids.rotations[here],
        solids.centres[here],
        solids.indices[here],
        solids.split,
    )


def _signed_distances(solids: Solids, sampling: Sampling, noise: float) -> SolidDistances:
    dtype = solids.sizes.dtype
    generators = [
        torch.Generator().manual_seed(seed_of("points", sampling.seed, solids.split, index))
        for index in solids.indices.tolist()
    ]
    uniform_count, *near = sampling.counts
    surface = surface_points(solids, sum(near), generators)
    normal, uniform = _draw(generators, sampling.points, (4, 2), dtype)
    filling = torch.nn.functional.normalize(normal[:, :uniform_count, :3], dim=-1)
    filling = filling * uniform[:, :uniform_count, :1] ** (1 / 3)
    deviation = torch.tensor(sampling.deviations, dtype=dtype).repeat_interleave(torch.tensor(near))
    points = torch.cat([filling, surface + normal[:, uniform_count:, :3] * deviation.unsqueeze(-1)], dim=1)
    points = points.gather(1, uniform[..., 1].argsort(dim=1).unsqueeze(-1).expand(-1, -1, 3))
    return SolidDistances(points, solids.distance(points) + noise * normal[..., 3])


def _draw(
    generators: Sequence[torch.Generator], count: int, columns: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Normal and uniform numbers ``(n, count, column)``, each row from its own generator."""
    normal = torch.empty(len(generators), count, columns[0], dtype=dtype)
    uniform = torch.empty(len(generators), count, columns[1], dtype=dtype)
    for i, generator in enumerate(generators):
        normal[i].normal_(generator=generator)
        uniform[i].uniform_(generator=generator)
    return normal, uniform
