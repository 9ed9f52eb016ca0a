"""Solids: exact distances, and the same ones however they are asked for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from benchmarks.data import solids
from benchmarks.data.solids import CLASSES, KINDS, Solids, make_solids

# Solids, described a second time by membership and by points of the surface, sharing no formula with the first.


def inside(name: str, p: Tensor, s: Tensor) -> Tensor:
    """Whether points ``(n, 3)`` are in a solid of sizes ``(3,)``, from its definition."""
    a, b, c = s
    r, z = p[:, :2].norm(dim=1), p[:, 2].abs()
    angles = torch.arange(6, dtype=p.dtype) * math.pi / 3 + math.pi / 2
    normals = torch.stack([angles.cos(), angles.sin()], dim=1)
    return {
        "box": lambda: (p.abs() < s).all(1),
        "capsule": lambda: (p - torch.stack([p[:, 0] * 0, p[:, 0] * 0, p[:, 2].clamp(-b, b)], 1)).norm(dim=1) < a,
        "cone": lambda: (z < b) & (r < a * (b - p[:, 2]) / (2 * b)),
        "cylinder": lambda: (r < a) & (z < b),
        "ellipsoid": lambda: (p / s).square().sum(1) < 1,
        "octahedron": lambda: p.abs().sum(1) < a,
        "prism": lambda: ((p[:, :2] @ normals.T) < a).all(1) & (z < b),
        "sphere": lambda: p.square().sum(1) < a * a,
        "torus": lambda: (r - a) ** 2 + z**2 < b * b,
        "tube": lambda: ((r - a).abs() < b) & (z < c),
    }[name]()


def surface(name: str, s: Tensor) -> Tensor:
    """A fine net of points on a solid's surface."""
    a, b, c = s.tolist()
    count = 40 if name in ("box", "octahedron") else 70  # these have six or eight nets
    axes = [torch.linspace(0, 1, n, dtype=s.dtype) for n in (2 * count, count)]
    u, v = (t.reshape(-1) for t in torch.meshgrid(*axes, indexing="ij"))
    turn, cos, sin = 2 * math.pi * u, torch.cos(2 * math.pi * u), torch.sin(2 * math.pi * u)
    ball = torch.stack([cos * torch.sin(math.pi * v), sin * torch.sin(math.pi * v), torch.cos(math.pi * v)], 1)

    def ring(r: Tensor, z: Tensor) -> Tensor:
        return torch.stack([r * cos, r * sin, z], 1)

    def both(points: Tensor) -> Tensor:
        return torch.cat([points, points * torch.tensor([1, 1, -1.0], dtype=s.dtype)])

    if name == "box":
        x, y, one = 2 * u - 1, 2 * v - 1, torch.ones_like(u)
        faces = [torch.stack(f, 1) for f in ([x, y, one], [y, one, x], [one, x, y])]
        return torch.cat([sign * f for f in faces for sign in (1, -1)]) * s
    if name == "capsule":
        ends = both(ball * a + torch.tensor([0, 0, b], dtype=s.dtype))
        shell = ring(torch.full_like(u, a), b * (2 * v - 1))
        return torch.cat([ends[inside_gap(ends, b)], shell])
    if name == "cone":
        return torch.cat([ring(a * v, torch.full_like(u, -b)), ring(a * v, b - 2 * b * v)])
    if name == "cylinder":
        return torch.cat([both(ring(a * v, torch.full_like(u, b))), ring(torch.full_like(u, a), b * (2 * v - 1))])
    if name == "ellipsoid":
        return ball * s
    if name == "octahedron":
        return a * torch.cat(
            [torch.stack([u * v, u * (1 - v), 1 - u], 1) * torch.tensor(q, dtype=s.dtype) for q in SIGNS]
        )
    if name == "prism":
        outline = a / torch.cos(turn % (math.pi / 3) - math.pi / 6)  # sides face 30° + k 60°
        return torch.cat([both(ring(outline * v, torch.full_like(u, b))), ring(outline, b * (2 * v - 1))])
    if name == "sphere":
        return ball * a
    if name == "torus":
        tilt = 2 * math.pi * v
        return ring(a + b * tilt.cos(), b * tilt.sin())
    walls = [ring(torch.full_like(u, a + side * b), c * (2 * v - 1)) for side in (1, -1)]
    return torch.cat([*walls, both(ring(a + b * (2 * v - 1), torch.full_like(u, c)))])


def inside_gap(points: Tensor, half: float) -> Tensor:
    return points[:, 2].abs() >= half


SIGNS = list(itertools.product((1.0, -1.0), repeat=3))


@pytest.mark.parametrize("name", CLASSES)
def test_solid_distance_is_that_to_the_nearest_of_many_surface_points(name):
    generator = torch.Generator().manual_seed(0)
    for index in (CLASSES.index(name), CLASSES.index(name) + 10):
        solid = make_solids([index], dtype=torch.float64)
        size = solid.sizes[0]
        net = surface(name, size)
        own = torch.rand(300, 3, generator=generator, dtype=torch.float64) * 2 - 1
        own[:150] *= net.abs().amax(0)  # of these, many are inside
        nearest = torch.cdist(own, net).amin(1)
        expected = torch.where(inside(name, own, size), -nearest, nearest)
        got = KINDS[name].distance(own[None], size[None, None])[0]
        # A net of spacing h overestimates a distance d by at most about h² / 2d, and by h.
        assert (got.abs() <= nearest + 1e-9).all()
        torch.testing.assert_close(got, expected, rtol=0, atol=0.03)
        assert float((got - expected).abs().median()) < 0.003
        assert 30 < int((got < 0).sum()) < 270
        posed = own @ solid.rotations[0].T + solid.centres[0]
        torch.testing.assert_close(solid.distance(posed)[0], got, rtol=0, atol=1e-12)


def test_distances_of_all_solids_have_gradients_of_length_one():
    batch = make_solids(range(40), dtype=torch.float64)
    points = torch.rand(40, 300, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    points.requires_grad_()
    (gradient,) = torch.autograd.grad(batch.distance(points).sum(), points)
    torch.testing.assert_close(gradient.norm(dim=-1), torch.ones(40, 300, dtype=torch.float64), rtol=0, atol=1e-8)


def test_ellipsoid_with_equal_axes_is_the_sphere_and_survives_the_planes_of_symmetry():
    points = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0, 0, -0.9], [0.1, -0.2, 0.3]], dtype=torch.float64)
    size = torch.full((1, 3), 0.5, dtype=torch.float64)
    torch.testing.assert_close(solids.ellipsoid(points, size), solids.sphere(points, size), rtol=0, atol=1e-8)
    flat = torch.tensor([[0.2, 0.5, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(solids.ellipsoid(points[:1], flat), torch.tensor([-0.2]).double(), rtol=0, atol=1e-8)


def test_single_precision_agrees_with_double():
    points = torch.rand(20, 200, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    double = make_solids(range(20), dtype=torch.float64).distance(points.double())
    torch.testing.assert_close(make_solids(range(20)).distance(points).double(), double, rtol=0, atol=2e-5)


def test_solids_stay_in_the_unit_sphere_and_near_points_near_the_surface():
    batch = make_solids(range(50))
    assert ((batch.centres.norm(dim=1) + batch.reach) <= 1 + 1e-6).all()
    generators = [torch.Generator().manual_seed(i) for i in range(50)]
    on_surface = solids.surface_points(batch, 200, generators)
    assert float(batch.distance(on_surface).abs().max()) < 1e-4
    assert float(on_surface.norm(dim=-1).max()) <= 1 + 1e-4
    # On a sphere the points are uniform: the mean of 200 is near the centre, the second moments equal.
    ball = CLASSES.index("sphere")
    around = (on_surface[ball] - batch.centres[ball]) / batch.sizes[ball, 0]
    assert float(around.mean(0).abs().max()) < 0.2
    torch.testing.assert_close(around.T @ around / 200, torch.eye(3) / 3, rtol=0, atol=0.1)


def test_a_solid_is_the_same_whichever_others_are_made():
    many, one = make_solids(range(23), seed=5), make_solids([17], seed=5)
    for name in ("labels", "sizes", "rotations", "centres"):
        assert torch.equal(getattr(many, name)[17:18], getattr(one, name))
    a = solids.signed_distances(many, 100, seed=3)
    b = solids.signed_distances(one, 100, seed=3, chunk=1)
    assert torch.equal(a.points[17], b.points[0])
    torch.testing.assert_close(a.distances[17], b.distances[0], rtol=0, atol=1e-6)
    assert not torch.equal(solids.signed_distances(one, 100, seed=4).points[0], b.points[0])
    assert not torch.equal(make_solids([17], "test", seed=5).sizes, one.sizes)
    assert not torch.equal(make_solids([17], seed=6).rotations, one.rotations)


def test_solid_distances_are_exact_or_noisy_as_asked():
    batch = make_solids(range(10))
    clean = solids.signed_distances(batch, 1000, noise=0)
    torch.testing.assert_close(clean.distances, batch.distance(clean.points), rtol=0, atol=0)
    noisy = solids.signed_distances(batch, 1000, noise=0.01)
    assert torch.equal(noisy.points, clean.points)
    assert 0.0095 < float((noisy.distances - clean.distances).std()) < 0.0105
    near = (clean.distances.abs() < 0.1).float().mean(1)  # two thirds within 2 deviations of 0.05, the rest nearer
    assert float(near.min()) > 0.85


def test_rotations_are_rotations():
    rotations = make_solids(range(30), dtype=torch.float64).rotations
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(30, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(30, dtype=torch.float64))


def test_no_solids():
    empty = make_solids([])
    assert solids.signed_distances(empty, 7).points.shape == (0, 7, 3)
    assert isinstance(empty, Solids)
    assert len(empty) == 0
