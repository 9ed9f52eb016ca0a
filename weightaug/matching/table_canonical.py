"""One representative for each orbit of networks that are declared tensor by tensor."""

from __future__ import annotations

from collections.abc import Collection

import torch

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.colours import tolerance_of
from weightaug.matching.rules import DECLARED_SYMMETRIES, Symmetry, declared_names
from weightaug.matching.table_colours import TableRefinement
from weightaug.matching.table_maps import balance_maps
from weightaug.matching.table_scales import balance_logs

__all__ = ["scales_of", "table_representative"]


def table_representative(x: WeightSpaceElement, symmetry: Symmetry, dtype: torch.dtype) -> GroupElement:
    """The symmetry that brings networks to the representatives of their orbits.

    Args:
        x: A flat float64 batch.
        symmetry: ``"auto"``, or one or several of ``"permutation"``, ``"sign"``, ``"scale"`` and ``"maps"``.
        dtype: What the values were rounded to.

    Raises:
        ValueError: If a symmetry is unknown or no space has it, or a space's scales or maps have no normal form.
        TypeError: If the symmetry is no name and no collection of names.
    """
    arch = x.architecture
    names = declared_names(arch, symmetry, auto=DECLARED_SYMMETRIES)
    scaled, linear = _scaled(arch, names)
    odd = {s for s, space in enumerate(arch.hidden) if "sign" in names and "sign" in space.symmetries}
    group = balance_logs(x, scaled, linear)
    x = act(x, group)
    if linear:
        maps = balance_maps(x, sorted(linear))
        x, group = act(x, maps), maps @ group
    tolerance = tolerance_of(dtype, rounds=bool(scaled or linear))
    return TableRefinement(x, sorted(odd | linear), tolerance).representative() @ group


def scales_of(x: WeightSpaceElement, names: Collection[str]) -> GroupElement:
    """The scales of the representatives of a flat batch, in its dtype."""
    group = balance_logs(x.to(torch.float64), *_scaled(x.architecture, names))
    return group.map(lambda t: t.to(x.dtype))


def _scaled(arch: Architecture, names: Collection[str]) -> tuple[list[int], frozenset[int]]:
    """The spaces whose scales are chosen, and those whose maps are."""
    linear = frozenset(s for s, space in enumerate(arch.hidden) if space.linear and "maps" in names)
    scaled = [s for s, space in enumerate(arch.hidden) if "scale" in names and "scale" in space.symmetries]
    return [s for s in scaled if s not in linear], linear
