"""Triangles of polygons in space, concave ones, too, by clipping ears."""

from __future__ import annotations

import numpy as np

from benchmarks.data.sdf import Array

# Twice the area of a triangle below this share of the polygon's squared extent counts as none.
FLAT = 1e-12

Triangle = tuple[int, int, int]


def triangulate(corners: Array) -> list[Triangle]:
    """Divides a polygon into triangles of its corners, with the polygon's orientation.

    Convex polygons become the fan of their first corner. Of others, ears are clipped (Meisters 1975): a corner whose
    triangle lies inside, with no other corner in it. Holes may be joined to the outline by a bridge that is walked
    twice. Corners that lie off the plane are judged by their projection along the polygon's mean normal. Where a
    polygon crosses itself, "inside" has no meaning, and what cannot be clipped becomes a fan.

    Args:
        corners: ``(n, 3)``, in order.

    Returns:
        ``n - 2`` triples of numbers of corners.
    """
    flat = _project(corners)
    left = list(range(len(corners)))
    if flat is None or _is_convex(flat):
        return _fan(left)
    none = FLAT * float(np.ptp(flat, axis=0).max()) ** 2
    triangles: list[Triangle] = []
    while len(left) > 3:
        place = _ear(flat[left], none)
        if place is None:
            break
        before, after = left[place - 1], left[(place + 1) % len(left)]
        triangles.append((before, left[place], after))
        del left[place]
    return triangles + _fan(left)


def _fan(corners: list[int]) -> list[Triangle]:
    return [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]


def _project(corners: Array) -> Array | None:
    """Coordinates in the plane of the mean normal (Newell), counterclockwise; None if there is no such plane."""
    if len(corners) <= 3:
        return None
    centred = corners - corners.mean(0)
    normal = np.cross(centred, np.roll(centred, -1, axis=0)).sum(0)
    length, extent = float(np.linalg.norm(normal)), float(np.ptp(corners, axis=0).max())
    if not np.isfinite(length) or length <= FLAT * extent**2:
        return None
    normal = normal / length
    first = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    first /= np.linalg.norm(first)
    projected: Array = centred @ np.stack([first, np.cross(normal, first)], axis=1)
    return projected


def _cross(a: Array, b: Array) -> Array:
    product: Array = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product


def _is_convex(flat: Array) -> bool:
    """Whether no corner is reflex, and the outline turns once."""
    edges = np.roll(flat, -1, axis=0) - flat
    following = np.roll(edges, -1, axis=0)
    turns = _cross(edges, following)
    if turns.min() < -FLAT * float(np.ptp(flat, axis=0).max()) ** 2:
        return False
    angles = np.arctan2(turns, (edges * following).sum(1))
    return bool(angles.sum() < 3 * np.pi)


def _ear(outline: Array, none: float) -> int | None:
    """The place of a corner that can be clipped; None if there is none.

    Args:
        outline: What is left, ``(m, 2)``, counterclockwise.
        none: Twice the area below which a triangle is flat.
    """
    before, after = np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0)
    turns = _cross(outline - before, after - outline)
    reflex = outline[turns <= none]
    for place in np.flatnonzero(turns > none):
        a, b, c = before[place], outline[place], after[place]
        # Corners at the same place, as at the ends of a bridge, are no obstacles.
        others = reflex[~((reflex == a).all(1) | (reflex == b).all(1) | (reflex == c).all(1))]
        sides = np.stack([_cross(q - p, others - p) for p, q in ((a, b), (b, c), (c, a))])
        if not (sides >= -none).all(0).any():
            return int(place)
    # Corners on a straight line cut off nothing, and may hide an ear.
    straight = np.flatnonzero(np.abs(turns) <= none)
    return int(straight[0]) if len(straight) else None
