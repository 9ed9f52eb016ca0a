"""The symmetry group of an architecture, and its action on the weights.

One element of the group holds, for every hidden space, a permutation, a factor and a shift. New neuron i
takes the pre-activation of the old neuron p(i), times the factor a(i), plus k(i) half periods::

    z'_i = a_i z_{p(i)} + k_i h,        phi(z'_i) = c_i phi(z_{p(i)})

and everything that reads neuron i is divided by c_i. The activation decides which a and k are allowed
and what c is: a = +-1 for odd (c = a) and even (c = 1) activations, any a > 0 for positively homogeneous
ones (c = a), and an integer k for the sine and cosine (c gains (-1)^k). A linear space (no non-linearity:
the rank of a low-rank pair, the inside of QK and VO) takes an invertible map M besides, after the rest:
z' = M (a z_p), and everything that reads it is multiplied with the inverse of M.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug._arguments import check_factors, check_permutation, check_shifts, holds
from weightaug._differences import difference
from weightaug._indexing import normalise
from weightaug._modes import wide, without_autocast
from weightaug._table import Move, Plan
from weightaug.architecture import Activation, Architecture, Space
from weightaug.element import WeightSpaceElement

__all__ = ["GroupElement", "Kind", "act"]

_Slots = tuple[Tensor | None, ...]


class Kind(enum.Enum):
    """What the tensors are that a group element acts on.

    ``POINT``: weights. ``TANGENT``: differences of weights, such as momenta or update steps (no shift).
    ``COTANGENT``: gradients of a loss with respect to the weights (no shift, inverse factors).
    """

    POINT = "point"
    TANGENT = "tangent"
    COTANGENT = "cotangent"


@dataclass(frozen=True, eq=False, repr=False)
class GroupElement:
    """A symmetry of an architecture: one permutation, factor and shift per hidden space, batched.

    Each tuple has one entry per hidden space (in the order of ``architecture.hidden``): a tensor
    ``(*batch, size)``, or None for the identity. The constructor checks nothing; :meth:`of` does.

    Args:
        architecture: The architecture that it acts on.
        permutation: int64; new neuron i takes the place of old neuron ``permutation[i]``.
        scale: Factors of the pre-activations, in the dtype of the weights. +-1 are signs.
        shift: int64; shifts of the pre-activations, in half periods of the activation.
        maps: Invertible maps ``(*batch, size, size)`` of linear spaces, applied after permutation and factor.

    A space within another has one of each for every position of that: ``(*batch, outer, size)``, and maps
    ``(*batch, outer, size, size)``. A space that permutes with another has no permutation of its own.
    """

    architecture: Architecture
    permutation: _Slots
    scale: _Slots
    shift: _Slots
    maps: _Slots = ()

    def __post_init__(self) -> None:
        if not self.maps:
            object.__setattr__(self, "maps", (None,) * len(self.permutation))

    @classmethod
    def identity(cls, architecture: Architecture) -> GroupElement:
        """The neutral element."""
        none: _Slots = (None,) * len(architecture.hidden)
        return cls(architecture, none, none, none)

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        *,
        permutation: _Slots | None = None,
        scale: _Slots | None = None,
        shift: _Slots | None = None,
        maps: _Slots | None = None,
    ) -> GroupElement:
        """A group element from the parts that are given; the others are the identity. Reads all values.

        Raises:
            TypeError: If a part is no tensor, or of another dtype.
            ValueError: If a part has not one entry per hidden space or not one number per neuron, a permutation
                is none, or a space does not keep the function for its factors, shifts or maps.
        """
        none: _Slots = (None,) * len(architecture.hidden)
        parts = []
        for name, part in (("permutation", permutation), ("scale", scale), ("shift", shift), ("maps", maps)):
            if isinstance(part, Tensor):
                raise TypeError(f"{name}: expected a tuple with one tensor or None per hidden space, got one tensor")
            entries = none if part is None else tuple(part)
            if len(entries) != len(none):
                raise ValueError(
                    f"{name}: expected one entry for each of {len(none)} hidden spaces "
                    f"{[space.name for space in architecture.hidden]}, got {len(entries)}; write None for the identity"
                )
            parts.append(entries)
        group = cls(architecture, *parts)
        for slot, space in enumerate(architecture.hidden):
            if (p := group.permutation[slot]) is not None:
                check_permutation(space, p)
            if (a := group.scale[slot]) is not None:
                check_factors(space, a)
            if (k := group.shift[slot]) is not None:
                check_shifts(architecture, slot, k)
        for space, moved, map_ in zip(architecture.hidden, group.permutation, group.maps, strict=True):
            if moved is not None and space.permutes_with is not None:
                raise ValueError(
                    f"space {space.name!r} permutes with {space.permutes_with!r}; give the permutation there alone"
                )
            if map_ is not None and not space.linear:
                raise ValueError(
                    f"space {space.name!r}: an invertible map needs a linear space, got activation "
                    f"{space.activation and space.activation.name!r}, whose symmetries are {space.symmetries}"
                )
        group._check_batch()
        return group

    def _check_batch(self) -> None:
        try:
            _ = self.batch_shape
        except RuntimeError as error:
            shapes = [tuple(t.shape) for t in pytree.tree_leaves(self)]
            raise ValueError(f"group element: the batch dimensions of its parts differ: shapes {shapes}") from error

    # -- algebra -------------------------------------------------------------------------------------

    def __call__(self, element: WeightSpaceElement, kind: Kind = Kind.POINT) -> WeightSpaceElement:
        """Acts on an element: short for ``act(element, self, kind)``."""
        return act(element, self, kind)

    @without_autocast
    def compose(self, first: GroupElement) -> GroupElement:
        """The element that acts like ``first`` and then ``self``: ``g.compose(h)(x) == g(h(x))``.

        Raises:
            ValueError: If the architectures differ.
        """
        if self.architecture != first.architecture:
            raise ValueError(
                "cannot compose group elements of different architectures: they differ in "
                f"{difference(self.architecture, first.architecture)}"
            )
        arch = self.architecture
        permutations, scales, shifts, maps = [], [], [], []
        for s in range(len(self.permutation)):
            p2, a2, k2, m2 = self.permutation[s], self.scale[s], self.shift[s], self.maps[s]
            inner, outer = self.permutation[arch.masters[s]], _outer(self, s)
            a1, k1 = _take(first.scale[s], inner, outer), _take(first.shift[s], inner, outer)
            p1, m1 = _take(first.permutation[s], p2, outer), _conjugate(first.maps[s], inner, outer)
            permutations.append(p2 if p1 is None else p1)
            scales.append(_combine(a2, a1, torch.mul))
            if k1 is not None and a2 is not None:
                k1 = k1 * a2.to(k1.dtype)  # a space with shifts has factors +-1 only
            shifts.append(_combine(k2, k1, torch.add))
            if m1 is not None and a2 is not None:
                m1 = m1 * a2.unsqueeze(-1) / a2.unsqueeze(-2)
            maps.append(_combine(m2, m1, torch.matmul))
        return GroupElement(arch, tuple(permutations), tuple(scales), tuple(shifts), tuple(maps))

    def __matmul__(self, first: GroupElement) -> GroupElement:
        return self.compose(first)

    @without_autocast
    def inverse(self) -> GroupElement:
        """The element that undoes this one: ``g.inverse()(g(x)) == x``."""
        arch = self.architecture
        permutations = [None if p is None else p.argsort(-1) for p in self.permutation]
        for s, outer in enumerate(arch.outers):
            if outer is not None:
                permutations[s] = _take(permutations[s], None, permutations[outer])
        scales, shifts, maps = [], [], []
        for s, (a, k, m) in enumerate(zip(self.scale, self.shift, self.maps, strict=True)):
            outer = arch.outers[s]
            back = permutations[arch.masters[s]], None if outer is None else permutations[outer]
            if k is not None:
                k = -k if a is None else -k * a.to(k.dtype)
            scales.append(_take(None if a is None else a.reciprocal(), *back))
            shifts.append(_take(k, *back))
            if m is not None:
                m = torch.linalg.inv(m)
                m = m if a is None else m * a.unsqueeze(-2) / a.unsqueeze(-1)
            maps.append(_conjugate(m, *back))
        return GroupElement(arch, tuple(permutations), tuple(scales), tuple(shifts), tuple(maps))

    # -- container -----------------------------------------------------------------------------------

    def map(self, function: Callable[[Tensor], Tensor]) -> GroupElement:
        """A new group element with a function applied to every tensor."""
        parts = (
            tuple([None if t is None else function(t) for t in part])
            for part in (self.permutation, self.scale, self.shift, self.maps)
        )
        return GroupElement(self.architecture, *parts)

    def to(self, device: torch.device | str) -> GroupElement:
        """A new group element on another device."""
        return self.map(lambda t: t.to(device))

    def __getitem__(self, index: Any) -> GroupElement:
        """Indexes the batch dimensions of every tensor, which must all have the whole batch shape.

        Raises:
            IndexError: If the index is of no kind that an element takes, or reaches beyond the batch.
        """
        entries = normalise(index, self.batch_shape)
        return self.map(lambda t: t[entries])

    @staticmethod
    def cat(groups: Sequence[GroupElement]) -> GroupElement:
        """Joins group elements along their first batch dimension.

        Raises:
            ValueError: If there are none, or they do not hold the same parts for the same architecture.
        """
        forms = [pytree.tree_structure(group) for group in groups]
        if not forms or any(form != forms[0] for form in forms):
            raise ValueError(
                f"cannot cat {len(forms)} group elements: expected at least one, and permutations, factors and shifts "
                f"for the same spaces of the same architecture in all, got {list(groups)!r}"
            )
        joined: GroupElement = pytree.tree_map(lambda *tensors: torch.cat(tensors), *groups)
        return joined

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch; ``()`` for the identity."""
        shapes = _batch_shapes(self)
        return torch.broadcast_shapes(*shapes) if shapes else torch.Size(())

    def __repr__(self) -> str:
        spaces = []
        for s, space in enumerate(self.architecture.hidden):
            parts = [name for name in _PARTS if getattr(self, name)[s] is not None]
            spaces.append(f"{space.name}: {' x '.join(parts) or 'identity'}")
        return f"GroupElement({'; '.join(spaces)}; batch_shape={tuple(self.batch_shape)})"


def _flatten(group: GroupElement) -> tuple[list[Tensor], tuple[Architecture, tuple[bool, ...]]]:
    # Absent parts are no leaves, so that vmap and indexing see tensors only.
    slots = (*group.permutation, *group.scale, *group.shift, *group.maps)
    return [t for t in slots if t is not None], (group.architecture, tuple([t is not None for t in slots]))


def _unflatten(tensors: Any, context: tuple[Architecture, tuple[bool, ...]]) -> GroupElement:
    architecture, present = context
    rest = iter(tensors)
    slots = [next(rest) if given else None for given in present]
    n = len(slots) // 4
    return GroupElement(architecture, *[tuple(slots[i : i + n]) for i in range(0, 4 * n, n)])


pytree.register_pytree_node(GroupElement, _flatten, _unflatten)


_PARTS = ("permutation", "scale", "shift", "maps")


def _batch_shapes(group: GroupElement) -> list[torch.Size]:
    parts = (group.permutation, group.scale, group.shift)
    if group.architecture.is_declared:
        inner = [1 if size is None else 2 for size in group.architecture.outer_sizes]
        shapes = [t.shape[: t.dim() - n] for part in parts for t, n in zip(part, inner, strict=True) if t is not None]
        return shapes + [t.shape[: t.dim() - n - 1] for t, n in zip(group.maps, inner, strict=True) if t is not None]
    return [t.shape[:-1] for part in parts for t in part if t is not None]


def _outer(group: GroupElement, slot: int) -> Tensor | None:
    outer = group.architecture.outers[slot]
    return None if outer is None else group.permutation[outer]


def _take(values: Tensor | None, permutation: Tensor | None, outer: Tensor | None = None) -> Tensor | None:
    """Values of the neurons in their new order: first the spaces that they lie within move, then they."""
    if values is None:
        return None
    if outer is not None:
        values, index = torch.broadcast_tensors(values, outer.unsqueeze(-1))
        values = values.gather(-2, index)
    if permutation is None:
        return values
    values, permutation = torch.broadcast_tensors(values, permutation)
    return values.gather(-1, permutation)


def _conjugate(maps: Tensor | None, permutation: Tensor | None, outer: Tensor | None) -> Tensor | None:
    """Maps of the neurons in their new order."""
    if maps is None:
        return None
    if outer is not None:
        maps, index = torch.broadcast_tensors(maps, outer[..., None, None])
        maps = maps.gather(-3, index)
    if permutation is None:
        return maps
    maps, rows = torch.broadcast_tensors(maps, permutation.unsqueeze(-1))
    return maps.gather(-2, rows).gather(-1, permutation.unsqueeze(-2).expand(maps.shape))


def _combine(a: Tensor | None, b: Tensor | None, operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return operation(a, b)


def _check_allowed(space: Space, scale: Tensor | None, shift: Tensor | None) -> None:
    act = space.activation
    assert act is not None
    if scale is not None and not (act.odd or act.even or act.positively_homogeneous):
        raise ValueError(
            f"space {space.name!r}: a factor needs an odd, even or positively homogeneous activation, got "
            f"{act.name!r}, whose symmetries are {act.symmetries}; use None there"
        )
    if shift is not None and act.half_period is None:
        raise ValueError(
            f"space {space.name!r}: a phase shift needs a sine or cosine activation, got {act.name!r}, whose "
            f"symmetries are {act.symmetries}; use None there"
        )


@without_autocast
def act(element: WeightSpaceElement, group: GroupElement, kind: Kind = Kind.POINT) -> WeightSpaceElement:
    """Applies a group element to weights (or to steps or gradients): the one function behind every symmetry.

    The networks compute the same function before and after. Batch shapes broadcast, so one network and a
    batch of group elements give that many equivalent networks. Tensors that the group element does not
    touch are passed on, not copied.

    Args:
        element: Weights, ``(*batch, ...)``; with ``kind`` also momenta or gradients in the same form.
        group: The symmetry to apply.
        kind: What the tensors are; see :class:`Kind`.

    Raises:
        ValueError: If the architectures differ, a part has not one number per neuron, or a factor or shift is
            given for a space whose activation has no such symmetry. Values are checked where group elements
            are made, by :meth:`GroupElement.of`.
    """
    arch = element.architecture
    if group.architecture is not arch and group.architecture != arch:
        raise ValueError(
            "the group element is for another architecture: the networks' and the group element's differ in "
            f"{difference(arch, group.architecture)}"
        )
    element, group = _fitted(element, group)
    rows, columns, offsets = _factors(element.dtype, group, kind)
    batch = element.batch_shape
    sources = [
        None if p is None or size is not None else _flat_index(p.expand(*batch, p.shape[-1]))
        for p, size in zip(group.permutation, arch.outer_sizes, strict=True)
    ]
    parts = _Parts(group, rows, columns, offsets, tuple(sources), batch, kind)
    turned = any([m is not None for m in group.maps])
    moved = [
        _move_usual(tensor, plan, parts) if plan.steps is not None and not turned else _move(tensor, plan, parts)
        for tensor, plan in zip(element.tensors(), arch.plan, strict=True)
    ]
    return element.with_tensors(moved)


class _Parts(NamedTuple):
    """A group element, worked out to what is done to tensors."""

    group: GroupElement
    rows: _Slots
    columns: _Slots
    offsets: _Slots
    sources: _Slots
    batch: torch.Size
    kind: Kind


def _move_usual(tensor: Tensor, plan: Plan, parts: _Parts) -> Tensor:
    """What :func:`_move` does, for tensors with steps and without maps: small networks feel every line of it."""
    moved = tensor
    assert plan.steps is not None
    for axis, after, slot, role, written in plan.steps:
        factor = parts.rows[role] if written else parts.columns[role]
        if axis == 0:
            moved = _write(moved, parts.sources[slot], factor, after)
        else:
            moved = _read(tensor, moved, parts.group.permutation[slot], factor, axis, after)
    if plan.carrier is not None:
        offset = parts.offsets[plan.carrier]
        if offset is not None:
            moved = tensor + offset if moved is tensor else moved.add_(offset)
    return moved


def _move(tensor: Tensor, plan: Plan, parts: _Parts) -> Tensor:
    """Moves one tensor as its plan says."""
    if plan.split is not None:
        axis, sizes, plans = plan.split
        axis += len(parts.batch)
        pieces = tensor.split_with_sizes(list(sizes), axis)
        moved = [_move(piece, inner, parts) for piece, inner in zip(pieces, plans, strict=True)]
        untouched = all([new is old for new, old in zip(moved, pieces, strict=True)])
        return tensor if untouched else torch.cat(moved, axis)
    if len(plan.moves) == 0:
        return tensor
    original = tensor if plan.factors is None else tensor.reshape(*parts.batch, *plan.factors)
    moved_ = original
    done = _move_kernels(original, plan, parts) if plan.fused else None
    if done is not None:
        moved_ = done
    for i, move in enumerate(plan.moves):
        still = done is not None and i < 2  # their permutations are done
        factor = _factor(move, parts)
        variance = factor is not None and plan.eps is not None
        applied = None if variance else factor
        if move.outer is None and move.axis == 0:
            moved_ = _write(moved_, None if still else parts.sources[move.slot], applied, move.after)
        elif move.outer is None:
            permutation = None if still else parts.group.permutation[move.slot]
            moved_ = _read(original, moved_, permutation, applied, move.axis, move.after)
        else:
            moved_ = _move_within(moved_, move, parts, applied)
        if factor is not None and plan.eps is not None:
            spread = (
                _spread(factor, move.axis, move.after)
                if move.outer is None
                else _within(factor, move, moved_, parts.batch)
            )
            moved_ = _scale_variance(moved_, spread, plan.eps, parts.kind)
        for slot, degree in move.roles:
            map_ = parts.group.maps[slot]
            if map_ is not None:
                moved_ = _apply_map(moved_, map_, move, degree, parts)
    if plan.carrier is not None:
        offset = parts.offsets[plan.carrier]
        if offset is not None:
            moved_ = original + offset if moved_ is original else moved_.add_(offset)
    if moved_ is original:
        return tensor
    return moved_ if plan.factors is None else moved_.reshape(tensor.shape)


def _move_kernels(tensor: Tensor, plan: Plan, parts: _Parts) -> Tensor | None:
    """Permutes rows and columns of whole kernels in one pass; None if one of the two stays."""
    rows, columns = plan.moves[:2]
    source, permutation = parts.sources[rows.slot], parts.group.permutation[columns.slot]
    if source is None or permutation is None:
        return None
    out, into = plan.shape[:2]
    index = source.view(*parts.batch, out, 1) * into + permutation.expand(*parts.batch, into).unsqueeze(-2)
    kernels = tensor.reshape(-1, *plan.shape[2:])
    return kernels.index_select(0, index.reshape(index.numel())).view(tensor.shape)


def _factor(move: Move, parts: _Parts) -> Tensor | None:
    """What one factor of a tensor is multiplied with: the product over its spaces."""
    if len(move.roles) == 1:
        slot, degree = move.roles[0]
        if degree == 1:
            return parts.rows[slot]
        if degree == -1:
            return parts.columns[slot]
    total: Tensor | None = None
    for slot, degree in move.roles:
        factor = parts.rows[slot] if degree > 0 else parts.columns[slot]
        if factor is not None:
            factor = factor if abs(degree) == 1 else factor ** abs(degree)
            total = factor if total is None else total * factor
    return total


def _scale_variance(variance: Tensor, factor: Tensor, eps: float, kind: Kind) -> Tensor:
    """a^2 (v + eps) - eps, so that the root of v + eps takes exactly the factor a."""
    if kind is not Kind.POINT:
        return variance * factor
    scaled = factor * (variance + eps) - eps
    if not holds(scaled >= 0):
        raise ValueError(
            f"a running variance would become negative ({float(scaled.min()):.3g}): where it is as small as eps="
            f"{eps:g}, a neuron takes no smaller factor; draw factors nearer to 1 (ReLUScale(max_scale=...)), or leave "
            "the space before that norm out"
        )
    return scaled


def _within(values: Tensor, move: Move, like: Tensor, batch: torch.Size) -> Tensor:
    """Values ``(*batch, outer, size)`` with axes of 1 between and behind, so that they broadcast over a tensor."""
    assert move.outer is not None
    dims = like.dim() - len(batch)
    outer, size = values.shape[values.dim() - 2], values.shape[-1]
    shape = [1] * dims
    shape[move.outer], shape[move.axis] = outer, size
    if move.outer > move.axis:
        values = values.transpose(-1, -2)
    return values.reshape(*values.shape[: values.dim() - 2], *shape)


def _move_within(tensor: Tensor, move: Move, parts: _Parts, factor: Tensor | None) -> Tensor:
    permutation = parts.group.permutation[move.slot]
    if permutation is not None:
        index = _within(permutation, move, tensor, parts.batch).expand(tensor.shape)
        tensor = tensor.gather(tensor.dim() - 1 - move.after, index)
    return tensor if factor is None else tensor * _within(factor, move, tensor, parts.batch)


def _apply_map(tensor: Tensor, maps: Tensor, move: Move, degree: int, parts: _Parts) -> Tensor:
    """M along one factor where it is written, the inverse transpose where it is read; dual for gradients."""
    dtype = wide(tensor.dtype)  # half precision has no inverse, and would round more than once
    maps = maps.to(dtype)
    if (degree < 0) != (parts.kind is Kind.COTANGENT):
        maps = torch.linalg.inv(maps).mT
    dims = len(parts.batch)
    own = (move.axis,) if move.outer is None else (move.outer, move.axis)
    source, target = [dims + a for a in own], list(range(dims, dims + len(own)))
    rows = tensor.to(dtype).movedim(source, target)
    lead = rows.shape[: dims + len(own)]
    moved = torch.matmul(maps, rows.reshape(*lead, rows.shape[len(lead) :].numel())).reshape(rows.shape)
    return moved.movedim(target, source).to(tensor.dtype)


def _fitted(element: WeightSpaceElement, group: GroupElement) -> tuple[WeightSpaceElement, GroupElement]:
    """Both with one batch shape, on the device of the element."""
    batch, device = element.batch_shape, element.device
    for part in (group.permutation, group.scale, group.shift, group.maps):
        for tensor, space in zip(part, group.architecture.hidden, strict=True):
            if tensor is None:
                continue
            if tensor.dim() == 0 or tensor.shape[-1] != space.size:
                raise ValueError(
                    f"space {space.name!r}: a group element needs shape (*batch, {space.size}), one entry for each "
                    f"neuron, got {tuple(tensor.shape)}; GroupElement.of checks the parts"
                )
            if tensor.device != device:
                return _fitted(element, group.to(device))
    if all([shape == batch for shape in _batch_shapes(group)]):
        return element, group
    try:
        shape = torch.broadcast_shapes(batch, group.batch_shape)
    except RuntimeError as error:
        raise ValueError(
            f"a group element of batch shape {tuple(group.batch_shape)} does not fit networks of batch shape "
            f"{tuple(batch)}; expected the same, or shapes that broadcast"
        ) from error
    return element.map(lambda t: t.expand(*shape, *t.shape[len(batch) :])), group


def _factors(dtype: torch.dtype, group: GroupElement, kind: Kind) -> tuple[_Slots, _Slots, _Slots]:
    """Per hidden space: what multiplies the rows, what multiplies the columns, what is added to the bias."""
    arch = group.architecture
    rows: list[Tensor | None] = []
    columns: list[Tensor | None] = []
    offsets: list[Tensor | None] = []
    for slot, (space, scale, shift) in enumerate(zip(arch.hidden, group.scale, group.shift, strict=True)):
        _check_allowed(space, scale, shift)
        activation = space.activation
        assert activation is not None
        scale = None if scale is None else scale.to(dtype)
        row, column = scale, _output_factor(activation, scale)
        if kind is Kind.COTANGENT and activation.positively_homogeneous:
            row = None if row is None else row.reciprocal()
            column = None if column is None else column.reciprocal()
        offset = None
        if shift is not None:
            parity = (shift & 1).to(dtype).mul_(-2).add_(1)
            column = parity if column is None else column * parity
            if arch.wiring.bias_carriers[slot] is None:
                raise ValueError(
                    f"space {space.name!r}: a phase shift needs a bias to move, and no layer that writes it has "
                    "one; give a layer bias=True (with zeros), or leave this space out"
                )
            period = activation.half_period
            assert period is not None
            if kind is Kind.POINT:
                offset = (shift.to(wide(dtype)) * period).to(dtype)
        rows.append(row)
        columns.append(column)
        offsets.append(offset)
    return tuple(rows), tuple(columns), tuple(offsets)


def _output_factor(activation: Activation, scale: Tensor | None) -> Tensor | None:
    """1 / c without the parity: what everything that reads the space is multiplied with."""
    if scale is None or (activation.even and not activation.positively_homogeneous):
        return None
    if activation.even:
        return scale.abs().reciprocal()
    # Signs are their own reciprocals.
    return scale.reciprocal() if activation.positively_homogeneous else scale


def _flat_index(permutation: Tensor) -> Tensor:
    """Positions of the permuted neurons when all neurons of the batch stand in one row."""
    *batch, size = permutation.shape
    if not batch:
        return permutation
    count = permutation.numel()
    start = torch.arange(0, count, size, device=permutation.device).view(*batch, 1)
    return (permutation + start).view(count)


def _write(tensor: Tensor, source: Tensor | None, factor: Tensor | None, after: int) -> Tensor:
    """Gathers and multiplies along the first axis behind the batch, with ``after`` other axes behind that.

    Whole rows are copied at once, which is many times faster than gathering entries.
    """
    moved = tensor
    if source is not None:
        moved = tensor.reshape(source.shape[0], *tensor.shape[tensor.dim() - after :])
        moved = moved.index_select(0, source).view(tensor.shape)
    if factor is not None:
        factor = _spread(factor, 0, after)
        moved = moved * factor if moved is tensor else moved.mul_(factor)
    return moved


def _read(
    original: Tensor, current: Tensor, permutation: Tensor | None, factor: Tensor | None, before: int, after: int
) -> Tensor:
    """Gathers and multiplies along one axis, with ``before`` other axes between the batch and it, and ``after`` behind.

    Writes into ``current`` if that is no longer the caller's tensor, so that one call of :func:`act` makes
    one new tensor per parameter when there are no permutations.
    """
    if permutation is not None:
        index = _spread(permutation, before, after).expand(current.shape)
        current = current.gather(current.dim() - 1 - after, index)
    if factor is not None:
        factor = _spread(factor, before, after)
        current = current * factor if current is original else current.mul_(factor)
    return current


def _spread(values: Tensor, before: int, after: int) -> Tensor:
    for _ in range(before):
        values = values.unsqueeze(-2)
    for _ in range(after):
        values = values.unsqueeze(-1)
    return values
