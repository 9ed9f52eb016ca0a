"""Low-rank adapters (LoRA): one representative for each gauge orbit, distance, and mixtures of products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from weightaug._modes import without_autocast
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["canonicalize_lora", "check_pairs", "lora_distance", "lora_products", "mix_lora"]


def check_pairs(architecture: Architecture) -> None:
    """Checks that an architecture is low-rank pairs and nothing else.

    Raises:
        ValueError: If not.
    """
    specs = architecture.tensors
    fits = architecture.is_declared and len(specs) % 2 == 0
    for a, b in zip(specs[::2], specs[1::2], strict=True) if fits else ():
        rank = [[f.roles for section in axis for f in section] for axis in (*a.axes, *b.axes)]
        fits &= len(rank) == 4 and len(rank[0][0]) == len(rank[3][0]) == 1 and not (rank[1][0] or rank[2][0])
        fits = fits and rank[0][0][0][0] == rank[3][0][0][0] and (rank[0][0][0][1], rank[3][0][0][1]) == (1, -1)
    if not fits:
        raise ValueError(f"expected low-rank pairs (adapters.from_lora), got {architecture!r}")


def _factors(x: WeightSpaceElement) -> Iterator[tuple[Tensor, Tensor]]:
    """A and B of every pair, in double precision.

    Raises:
        ValueError: If the architecture is something else than low-rank pairs.
    """
    check_pairs(x.architecture)
    tensors = x.tensors()
    for down, up in zip(tensors[::2], tensors[1::2], strict=True):
        yield down.to(torch.float64), up.to(torch.float64)


@without_autocast
def lora_products(x: WeightSpaceElement) -> tuple[Tensor, ...]:
    """B A of every pair, ``(*batch, out, in)``: what no gauge changes.

    Raises:
        ValueError: If the architecture is something else than low-rank pairs.
    """
    return tuple((b @ a).to(x.dtype) for a, b in _factors(x))


@without_autocast
def canonicalize_lora(x: WeightSpaceElement) -> WeightSpaceElement:
    """One representative of each gauge orbit: A = sqrt(s) V^T and B = U sqrt(s) of the product's singular values.

    Singular values fall, and the largest entry of every row of A is positive, so adapters with the same products come
    out the same (up to rounding, where singular values are distinct). Both factors have the same norms. Computed in
    double precision from the triangular factors of B and A^T, so the product is never formed.

    Args:
        x: Low-rank pairs of any batch shape.

    Raises:
        ValueError: If the architecture is something else than low-rank pairs.
    """
    moved = [t.to(x.dtype) for a, b in _factors(x) for t in _balanced(a, b)]
    return x.with_tensors(moved)


def _balanced(a: Tensor, b: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """The factors of canonical form, of the largest singular values alone if a rank is given."""
    u, s, vh = _svd(a, b)
    u, s, vh = u[..., :rank], s[..., :rank], vh[..., :rank, :]
    sign = vh.gather(-1, vh.abs().argmax(-1, keepdim=True)).sign()
    root = s.sqrt()
    return root.unsqueeze(-1) * vh * sign, u * (root * sign.squeeze(-1)).unsqueeze(-2)


@without_autocast
def mix_lora(x: WeightSpaceElement, y: WeightSpaceElement, lam: Tensor) -> WeightSpaceElement:
    """Adapters whose products are nearest to lam B A + (1 - lam) B' A' among those of the rank of x.

    A mixture of products has up to the sum of both ranks, so what is left is its largest singular values: the best
    approximation in the Frobenius norm (Eckart and Young, 1936). It comes in canonical form,
    so no gauge of either adapter changes it. Computed in double precision from the stacked factors; no product is
    formed.

    Args:
        x: Low-rank pairs of any batch shape.
        y: Pairs of the same weights and batch shape; the ranks may differ.
        lam: The weight of x, ``(*batch,)`` or one for all.

    Raises:
        ValueError: If an architecture is something else than low-rank pairs, or they adapt other weights.
    """
    first, second = _pairs_of_one_base(x, y)
    weight = lam.to(x.device, torch.float64)[..., None, None]
    moved: list[Tensor] = []
    for (a, b), (c, d) in zip(first, second, strict=True):
        both = _balanced(torch.cat([a, c], -2), torch.cat([weight * b, (1 - weight) * d], -1), a.shape[-2])
        moved += [t.to(x.dtype) for t in both]
    return x.with_tensors(moved)


def _pairs_of_one_base(
    x: WeightSpaceElement, y: WeightSpaceElement
) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    first, second = list(_factors(x)), list(_factors(y))
    shapes = [[(b.shape[-2], a.shape[-1]) for a, b in pairs] for pairs in (first, second)]
    if shapes[0] != shapes[1] or x.batch_shape != y.batch_shape:
        raise ValueError(
            f"expected pairs for the same weights and batches, got (out, in) {shapes[0]} with batch "
            f"{tuple(x.batch_shape)} and {shapes[1]} with batch {tuple(y.batch_shape)}"
        )
    return first, second


def _svd(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values of B A, as many as the rank; zeros where rank is larger than a side."""
    left, r = torch.linalg.qr(b)
    right, t = torch.linalg.qr(a.mT)
    u, s, vh = torch.linalg.svd(r @ t.mT, full_matrices=False)
    u, vh = left @ u, vh @ right.mT
    missing = a.shape[-2] - s.shape[-1]
    if missing:
        pad = torch.nn.functional.pad
        u, s, vh = pad(u, (0, missing)), pad(s, (0, missing)), pad(vh, (0, 0, 0, missing))
    return u, s, vh


@without_autocast
def lora_distance(x: WeightSpaceElement, y: WeightSpaceElement) -> Tensor:
    """The Euclidean distance of all products B A: a metric that no gauge changes.

    Computed from the factors stacked side by side, so that equal products have a distance of rounding, and no product
    is formed.

    Args:
        x: Low-rank pairs of any batch shape.
        y: Pairs of the same weights and batch shape; the ranks may differ.

    Returns:
        Distances, ``(*batch,)``, in the dtype of x.

    Raises:
        ValueError: If an architecture is something else than low-rank pairs, or they adapt other weights.
    """
    first, second = _pairs_of_one_base(x, y)
    total = torch.zeros(x.batch_shape, dtype=torch.float64, device=x.device)
    for (a, b), (c, d) in zip(first, second, strict=True):
        r = torch.linalg.qr(torch.cat([b, -d], -1)).R
        t = torch.linalg.qr(torch.cat([a, c], -2).mT).R
        total = total + (r @ t.mT).square().sum((-1, -2))
    return total.sqrt().to(x.dtype)
