"""The distance of two networks' orbits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.group import act
from weightaug.matching.canonical import flat64, to_representative, unflat
from weightaug.matching.rules import Symmetry, check_count, check_pair, resolve
from weightaug.matching.surroundings import undisturbed
from weightaug.matching.table_canonical import scales_of
from weightaug.matching.weight import check_declared, check_starts, match_declared, solve, working_device

__all__ = ["distance"]

INVARIANT_STARTS = ("forward", "backward", "canonical")


@undisturbed
def distance(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    *,
    symmetry: Symmetry = "auto",
    starts: Sequence[str] = INVARIANT_STARTS,
    max_sweeps: int = 100,
) -> Tensor:
    """The Euclidean distance of the parameters after alignment, for each pair of a batch.

    It is zero if a symmetry turns one network into the other; symmetric (both directions are aligned, and the
    better one counts); and the same wherever in their orbits the networks stand, as long as the starts do
    not look at that (``"forward"``, ``"backward"``, ``"anneal"`` and ``"canonical"`` do not). It is an upper
    bound of the distance of the orbits, which is NP-hard to compute, and no metric: the triangle inequality
    may fail. With positive scales, it is the distance of the balanced networks (see :func:`match`).

    Args:
        a: Networks of any batch shape.
        b: Networks of the same architecture and batch shape.
        symmetry: As for :func:`match`.
        starts: As for :func:`match`, without ``"random"``, which would break the symmetry.
        max_sweeps: As for :func:`match`.

    Returns:
        Distances, ``(*batch,)``, in the dtype of a.

    Raises:
        ValueError: As for :func:`match`, or for random starts.
    """
    check_pair(a, b, verb="measure the distance of")
    if a.architecture.is_declared:
        starts = ("forward",) if starts is INVARIANT_STARTS else starts
        check_count("max_sweeps", max_sweeps, 0)
        names = check_declared(a.architecture, symmetry, starts)
        if "scale" in names:  # the distance is the one in canonical scales
            a, b = (act(x, unflat(scales_of(flat64(x), names), x)) for x in (a, b))
        symmetry = names - {"scale"}
        forth, back = (
            match_declared(x, y, symmetry, max_sweeps, starts, keep_identity=False) for x, y in ((a, b), (b, a))
        )
        gaps = [
            torch.stack([(s - t).double().flatten(dims).square().sum(-1) for s, t in zip(x, y, strict=True)]).sum(0)
            for dims in [len(a.batch_shape)]
            for x, y in ((a.tensors(), act(b, forth).tensors()), (b.tensors(), act(a, back).tensors()))
        ]
        return torch.minimum(*gaps).sqrt().to(a.dtype)
    rules = resolve(a.architecture, symmetry)
    check_starts(starts)
    check_count("max_sweeps", max_sweeps, 1)
    if "random" in starts:
        raise ValueError("starts: 'random' would make the distance random and asymmetric; leave it out")
    device = working_device(a)
    # From the canonical forms, nothing depends on where in their orbits the networks stand, ties included: these would
    # be decided by the last bits, so the descent does not see them.
    x, y = (flat64(x, device) for x in (a, b))
    if rules and len(x):
        x, y = (act(x, to_representative(x, rules, a.dtype)) for x in (x, y))
    starts = ["identity" if name == "canonical" else name for name in starts]

    def one_way(x: WeightSpaceElement, y: WeightSpaceElement) -> Tensor:
        aligned = y
        if rules:
            short = (x.map(_without_last_bits), y.map(_without_last_bits))
            moves, _ = solve(*short, rules, starts, keep_identity=False, max_sweeps=max_sweeps)
            aligned = act(y, moves.group(a.architecture))
        return (x.flatten() - aligned.flatten()).square().sum(-1)

    best = torch.minimum(one_way(x, y), one_way(y, x)).sqrt()
    return best.reshape(a.batch_shape).to(a.device, a.dtype)


def _without_last_bits(t: Tensor) -> Tensor:
    """A float64 tensor of a flat batch, rounded to some 30 bits of the largest number of each network."""
    if not t.numel():
        return t
    largest = t.abs().flatten(1).amax(1).clamp_min(torch.finfo(t.dtype).tiny)
    unit = torch.exp2(largest.log2().floor() - 30).view(-1, *(1,) * (t.dim() - 1))
    return (t / unit).round() * unit
