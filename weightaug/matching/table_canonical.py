"""One representative for each orbit of networks that are declared tensor by tensor."""

from __future__ import annotations

from collections.abc import Collection

import torch

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.rules import Symmetry
from weightaug.matching.table_colours import TableRefinement
from weightaug.matching.table_maps import balance_maps
from weightaug.matching.table_scales import balance_logs

__all__ = ["table_representative"]

_NAMES = ("permutation", "sign", "scale", "maps")


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
    names = _names(arch, symmetry)
    spaces = list(enumerate(arch.hidden))
    linear = [s for s, space in spaces if space.linear] if "maps" in names else []
    scaled = [s for s, space in spaces if "scale" in names and "scale" in space.symmetries and s not in linear]
    signed = [s for s, space in spaces if ("sign" in names and "sign" in space.symmetries) or s in linear]
    group = balance_logs(x, scaled, frozenset(linear))
    x = act(x, group)
    if linear:
        maps = balance_maps(x, linear)
        x, group = act(x, maps), maps @ group
    rounds = bool(scaled or linear)
    tolerance = min(max(16 * torch.finfo(dtype).eps if rounds else 0.0, 1e-10), 4e-3)
    return TableRefinement(x, signed, tolerance).representative() @ group


def _names(arch: Architecture, symmetry: Symmetry) -> set[str]:
    words = isinstance(symmetry, Collection) and all(isinstance(name, str) for name in symmetry)
    if not words:
        raise TypeError(f"symmetry: expected 'auto' or one or several of {_NAMES}, got {symmetry!r}")
    if symmetry == "auto":
        return set(_NAMES)
    names = {symmetry} if isinstance(symmetry, str) else set(symmetry)
    unknown = sorted(names - set(_NAMES))
    if unknown or not names:
        raise ValueError(
            f"symmetry: expected 'auto' or one or several of {_NAMES} for networks that are declared tensor by tensor, "
            f"got {unknown[0] if unknown else symmetry!r}"
        )
    has = {name for space in arch.hidden for name in space.symmetries} | {"permutation"}
    missing = sorted(names - has)
    if missing:
        raise ValueError(
            f"symmetry {missing[0]!r}: no space of this architecture has it; they have {sorted(has)}: see "
            "architecture.describe(); use symmetry='auto' for all that exist"
        )
    return names
