"""The table of an architecture, checked, and worked out to the moves that a group element makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from weightaug._axes import Axis, Factor, TensorSpec
from weightaug._maps import MAPS

if TYPE_CHECKING:
    from weightaug.architecture import Architecture, Layer, Space

__all__ = ["KERNEL", "Move", "Plan", "check_table", "describe_table", "expand_layers", "plan_table"]

KERNEL = 4  # numbers; fewer are gathered faster than copied row by row


class Move(NamedTuple):
    """What happens along one factor of one tensor.

    Attributes:
        axis: Position of the factor among all factors of the tensor.
        after: Number of factors behind it.
        slot: Position in ``architecture.hidden`` of the space whose permutation it follows.
        roles: Pairs (position in ``architecture.hidden``, degree); no zeros.
        outer: Position of the factor that the space lies within, or None.
    """

    axis: int
    after: int
    slot: int
    roles: tuple[tuple[int, int], ...]
    outer: int | None


@dataclass(frozen=True)
class Plan:
    """How one tensor moves.

    Attributes:
        shape: Its shape without batch dimensions.
        factors: The sizes of all its factors, if they are more than its axes; None if they are the same.
        moves: What happens, outer spaces first.
        eps: See :class:`~weightaug._axes.TensorSpec`.
        carrier: The hidden space whose shifts it takes, or None.
        fused: Whether whole kernels can be moved at once: rows and columns follow a space, and enough stands behind.
        steps: The moves of the usual tensor, unpacked: (axis, after, slot, role, whether it is written), for a tensor
            whose factors are its axes, each with one space of degree 1 or -1 and within none; None for others.
        split: For an axis of several sections: the axis, their sizes, and a plan for each; no moves then.
    """

    shape: tuple[int, ...]
    factors: tuple[int, ...] | None
    moves: tuple[Move, ...]
    eps: float | None = None
    carrier: int | None = None
    fused: bool = False
    steps: tuple[tuple[int, int, int, int, bool], ...] | None = None
    split: tuple[int, tuple[int, ...], tuple[Plan, ...]] | None = None


class Expanded(tuple[TensorSpec, ...]):
    """Tensors that layers stand for: they follow the layers, where ``dataclasses.replace`` hands both over."""

    __slots__ = ()


def expand_layers(spaces: Sequence[Space], layers: Sequence[Layer]) -> Expanded:
    """The tensors that layers stand for, each layer's weight before its bias."""
    sizes = {space.name: space.size for space in spaces}
    specs = []
    for layer in layers:
        written = ((Factor(sizes[layer.writes], ((layer.writes, 1),)),),)
        read = ((Factor(sizes[layer.reads], ((layer.reads, -1),)),),)
        kernel = tuple(((Factor(k),),) for k in layer.kernel)
        specs.append(TensorSpec(f"{layer.name}.weight", (written, read, *kernel)))
        if layer.bias:
            specs.append(TensorSpec(f"{layer.name}.bias", (written,)))
    return Expanded(specs)


def check_table(spaces: Sequence[Space], tensors: Sequence[TensorSpec]) -> None:
    """Checks that a declared table is consistent.

    Raises:
        ValueError: If a reference leads nowhere, sizes differ, or a factor mixes spaces of several permutations.
    """
    known = {space.name: space for space in spaces}
    for space in spaces:
        _check_space(space, known)
    seen: set[str] = set()
    touched: set[str] = set()
    for spec in tensors:
        if spec.name in seen:
            raise ValueError(f"tensor {spec.name!r} is declared twice; names must be unique")
        seen.add(spec.name)
        names = {name for axis in spec.axes for section in axis for f in section for name, _ in f.roles}
        names |= {_master(known[name]) for name in names if name in known}
        for axis in spec.axes:
            for section in axis:
                for factor in section:
                    _check_factor(spec, factor, known, names)
        touched |= names
    for space in spaces:
        if space.activation is not None and space.name not in touched:
            raise ValueError(f"space {space.name!r}: no tensor follows it; leave it out")


def _check_space(space: Space, known: dict[str, Space]) -> None:
    for field, name in (("permutes_with", space.permutes_with), ("within", space.within)):
        if name is None:
            continue
        other = known.get(name)
        if other is None or other is space:
            raise ValueError(f"space {space.name!r}: {field}={name!r} is no other space; spaces: {sorted(known)}")
        if field == "permutes_with" and (other.size, other.within, other.permutes_with) != (
            space.size,
            space.within,
            None,
        ):
            raise ValueError(
                f"space {space.name!r} permutes with {name!r}, which must have the same size and within, and no "
                f"permutes_with of its own: expected ({space.size}, {space.within!r}, None), got "
                f"({other.size}, {other.within!r}, {other.permutes_with!r})"
            )
        if field == "within" and (other.within is not None or other.permutes_with is not None):
            raise ValueError(f"space {space.name!r} lies within {name!r}, which must itself lie within no other")
    name = None if space.activation is None else space.activation.name
    if space.linear and name not in MAPS:
        raise ValueError(
            f"space {space.name!r}: linear=True (invertible maps) needs Activation('identity'), 'rms_norm' (orthogonal "
            f"maps) or 'rotary' (turns of pairs), got {space.activation}"
        )
    if name == "rotary" and (space.size % 2 or not space.linear or space.permutes_with is not None):
        raise ValueError(
            f"space {space.name!r}: rotary positions turn pairs of neurons; expected an even size, linear=True and no "
            f"permutes_with, got size {space.size}, linear={space.linear}, permutes_with={space.permutes_with!r}"
        )


def _master(space: Space) -> str:
    return space.name if space.permutes_with is None else space.permutes_with


def _check_factor(spec: TensorSpec, factor: Factor, known: dict[str, Space], names: set[str]) -> None:
    masters = set()
    for name, degree in factor.roles:
        space = known.get(name)
        if space is None:
            raise ValueError(f"tensor {spec.name!r} follows {name!r}, which is no space; spaces: {sorted(known)}")
        if space.size != factor.size:
            raise ValueError(
                f"tensor {spec.name!r}: a factor of {factor.size} follows space {name!r} of size {space.size}"
            )
        if space.within is not None and space.within not in names:
            raise ValueError(
                f"tensor {spec.name!r} follows {name!r}, which lies within {space.within!r}, without a factor of that; "
                f"axes: {spec}"
            )
        if space.linear and (degree not in (1, -1) or len(factor.roles) > 1):
            raise ValueError(
                f"tensor {spec.name!r}: space {name!r} has {space.maps} maps, so it must be alone in its factor with "
                f"degree 1 or -1, got {factor}; set linear=False"
            )
        masters.add(_master(space))
    if len(masters) > 1:
        raise ValueError(
            f"tensor {spec.name!r}: the spaces {sorted(masters)} in one factor do not share a permutation; set "
            "permutes_with"
        )


def plan_table(
    spaces: Sequence[Space], tensors: Sequence[TensorSpec], carriers: Sequence[int | None]
) -> tuple[Plan, ...]:
    """Works out what every group element does to every tensor.

    Args:
        spaces: The spaces.
        tensors: The table.
        carriers: For each hidden space, the position of the tensor that takes its shifts.
    """
    hidden = [space for space in spaces if space.activation is not None]
    slots = {space.name: slot for slot, space in enumerate(hidden)}
    known = {space.name: space for space in spaces}
    carried = {tensor: slot for slot, tensor in enumerate(carriers) if tensor is not None}
    return tuple([_plan(spec.axes, spec.eps, slots, known, carried.get(i)) for i, spec in enumerate(tensors)])


def _plan(
    axes: tuple[Axis, ...], eps: float | None, slots: dict[str, int], known: dict[str, Space], carrier: int | None
) -> Plan:
    shape = TensorSpec("", axes).shape
    for a, axis in enumerate(axes):
        if len(axis) > 1:
            plans = tuple([_plan((*axes[:a], (s,), *axes[a + 1 :]), eps, slots, known, None) for s in axis])
            return Plan(shape, None, (), split=(a, tuple([p.shape[a] for p in plans]), plans))
    factors = [factor for axis in axes for factor in axis[0]]
    position = {_master(known[name]): i for i, f in reversed(list(enumerate(factors))) for name, _ in f.roles}
    moves = []
    for i, factor in enumerate(factors):
        roles = [(name, degree) for name, degree in factor.roles if name in slots]
        if not roles:
            continue
        space = known[roles[0][0]]
        outer = None if space.within is None else position[space.within]
        moves.append(
            Move(
                i,
                len(factors) - 1 - i,
                slots[_master(space)],
                tuple([(slots[name], degree) for name, degree in roles if degree]),
                outer,
            )
        )
    moves.sort(key=lambda move: move.outer is not None)  # stable
    sizes = tuple([factor.size for factor in factors])
    plain = [move.axis for move in moves[:2] if move.outer is None] == [0, 1] and sizes == shape
    fused = plain and math.prod(shape[2:]) >= KERNEL
    usual = sizes == shape and eps is None and not fused
    usual = usual and all(m.outer is None and [abs(d) for _, d in m.roles] == [1] for m in moves)
    steps = tuple([(m.axis, m.after, m.slot, m.roles[0][0], m.roles[0][1] > 0) for m in moves]) if usual else None
    return Plan(shape, None if sizes == shape else sizes, tuple(moves), eps, carrier, fused, steps)


def describe_table(architecture: Architecture) -> str:
    """One line for every hidden space, and one for what they cover; see ``Architecture.describe``."""
    writers: dict[str, list[str]] = {space.name: [] for space in architecture.spaces}
    readers: dict[str, list[str]] = {space.name: [] for space in architecture.spaces}
    others: dict[str, list[str]] = {space.name: [] for space in architecture.spaces}
    moved = 0
    fixed = {space.name for space in architecture.spaces if space.activation is None}
    for spec in architecture.tensors:
        roles = [r for axis in spec.axes for section in axis for f in section for r in f.roles if r[0] not in fixed]
        moved += math.prod(spec.shape) if roles else 0
        for name, degree in dict.fromkeys(roles):
            (writers if degree > 0 else readers if degree < 0 else others)[name].append(spec.name)
    lines = []
    for space in architecture.hidden:
        where = "".join(
            f"; {text} {other}"
            for text, other in (("permutes with", space.permutes_with), ("within", space.within))
            if other is not None
        )
        lines.append(f"{space.name} ({space.size}): {', '.join(space.symmetries)}{where}")
        for verb, names in (
            ("written by", writers[space.name]),
            ("read by", readers[space.name]),
            ("followed by", others[space.name]),
        ):
            if names:
                lines.append(f"    {verb} {_short(names)}")
    share = 100 * moved / max(architecture.num_parameters, 1)
    lines.append(
        f"{len(architecture.hidden)} spaces; {architecture.num_parameters} parameters and statistics in "
        f"{len(architecture.tensors)} tensors, all declared, {share:.1f} % in tensors that follow a space"
    )
    return "\n".join(lines)


def _short(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
