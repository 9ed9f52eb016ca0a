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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug._arguments import check_factors, check_maps, check_permutation, check_shifts
from weightaug._differences import difference
from weightaug._indexing import normalise
from weightaug._modes import wide, without_autocast
from weightaug._moving import Kind, Parts, Slots, flat_index, move_tensor, move_usual, output_factor
from weightaug.architecture import Architecture, Space
from weightaug.element import WeightSpaceElement

__all__ = ["GroupElement", "Kind", "act"]


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
    permutation: Slots
    scale: Slots
    shift: Slots
    maps: Slots = ()

    def __post_init__(self) -> None:
        if not self.maps:
            object.__setattr__(self, "maps", (None,) * len(self.permutation))

    @classmethod
    def identity(cls, architecture: Architecture) -> GroupElement:
        """The neutral element."""
        none: Slots = (None,) * len(architecture.hidden)
        return cls(architecture, none, none, none)

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        *,
        permutation: Slots | None = None,
        scale: Slots | None = None,
        shift: Slots | None = None,
        maps: Slots | None = None,
    ) -> GroupElement:
        """A group element from the parts that are given; the others are the identity. Reads all values.

        Raises:
            TypeError: If a part is no tensor, or of another dtype.
            ValueError: If a part has not one entry per hidden space or not one number per neuron, a permutation
                is none, or a space does not keep the function for its factors, shifts or maps.
        """
        none: Slots = (None,) * len(architecture.hidden)
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
            if map_ is not None:
                check_maps(space, map_)
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
    return GroupElement(architecture, *[tuple(slots[i * n : (i + 1) * n]) for i in range(4)])


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
    if not any([part is not None for part in (*group.permutation, *group.scale, *group.shift, *group.maps)]):
        return element
    return moved(*_fitted(element, group), kind)


def moved(element: WeightSpaceElement, group: GroupElement, kind: Kind = Kind.POINT) -> WeightSpaceElement:
    """:func:`act` for a group element of the same architecture, batch shape and device."""
    arch = element.architecture
    rows, columns, offsets = _factors(element.dtype, group, kind)
    batch = element.batch_shape
    sources = [
        None if p is None or size is not None else flat_index(p, batch)
        for p, size in zip(group.permutation, arch.outer_sizes, strict=True)
    ]
    parts = Parts(group.permutation, group.maps, rows, columns, offsets, tuple(sources), batch, kind)
    turned = any([m is not None for m in group.maps])
    tensors = [
        move_usual(tensor, plan, parts) if plan.steps is not None and not turned else move_tensor(tensor, plan, parts)
        for tensor, plan in zip(element.tensors(), arch.plan, strict=True)
    ]
    return element.with_tensors(tensors)


def _fitted(element: WeightSpaceElement, group: GroupElement) -> tuple[WeightSpaceElement, GroupElement]:
    """Both with one batch shape, on the device of the element."""
    batch, device = element.batch_shape, element.device
    if _fits(group, batch, device):
        return element, group
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


def _fits(group: GroupElement, batch: torch.Size, device: torch.device) -> bool:
    """Whether all tensors of a group element have a batch shape and device already; most have."""
    lead, shapes = tuple(batch), group.architecture.slot_shapes
    for part in (group.permutation, group.scale, group.shift):
        for tensor, shape in zip(part, shapes, strict=True):
            if tensor is not None and (tensor.shape != lead + shape or tensor.device != device):
                return False
    return not any([m is not None for m in group.maps])


def _factors(dtype: torch.dtype, group: GroupElement, kind: Kind) -> tuple[Slots, Slots, Slots]:
    """Per hidden space: what multiplies the rows, what multiplies the columns, what is added to the bias."""
    arch = group.architecture
    rows: list[Tensor | None] = []
    columns: list[Tensor | None] = []
    offsets: list[Tensor | None] = []
    for slot, (space, scale, shift) in enumerate(zip(arch.hidden, group.scale, group.shift, strict=True)):
        if scale is None and shift is None:
            rows.append(None)
            columns.append(None)
            offsets.append(None)
            continue
        _check_allowed(space, scale, shift)
        activation = space.activation
        assert activation is not None
        scale = scale if scale is None or scale.dtype == dtype else scale.to(dtype)
        row, column = scale, output_factor(activation, scale)
        if kind is Kind.COTANGENT and activation.positively_homogeneous:
            row = None if row is None else row.reciprocal()
            column = None if column is None else column.reciprocal()
        offset = None
        if shift is not None:
            parity = torch.rsub(shift & 1, 1, alpha=2).to(dtype)
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
