"""The symmetry group of an architecture, and its action on the weights.

One element of the group holds, for every hidden space, a permutation, a factor and a shift. New neuron i
takes the pre-activation of the old neuron p(i), times the factor a(i), plus k(i) half periods::

    z'_i = a_i z_{p(i)} + k_i h,        phi(z'_i) = c_i phi(z_{p(i)})

and everything that reads neuron i is divided by c_i. The activation decides which a and k are allowed
and what c is: a = +-1 for odd (c = a) and even (c = 1) activations, any a > 0 for positively homogeneous
ones (c = a), and an integer k for the sine and cosine (c gains (-1)^k).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug._arguments import check_factors, check_permutation, check_shifts
from weightaug._differences import difference
from weightaug._indexing import normalise
from weightaug._modes import wide, without_autocast
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
    """

    architecture: Architecture
    permutation: _Slots
    scale: _Slots
    shift: _Slots

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
    ) -> GroupElement:
        """A group element from the parts that are given; the others are the identity. Reads all values.

        Raises:
            TypeError: If a part is no tensor, or of another dtype.
            ValueError: If a part has not one entry per hidden space or not one number per neuron, a permutation
                is none, or the activation of a space does not keep the function for its factors or shifts.
        """
        none: _Slots = (None,) * len(architecture.hidden)
        parts = []
        for name, part in (("permutation", permutation), ("scale", scale), ("shift", shift)):
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
        permutations, scales, shifts = [], [], []
        for s in range(len(self.permutation)):
            p2, a2, k2 = self.permutation[s], self.scale[s], self.shift[s]
            p1, a1, k1 = first.permutation[s], first.scale[s], first.shift[s]
            a1, k1 = _take(a1, p2), _take(k1, p2)
            permutations.append(_take(p1, p2) if p1 is not None else p2)
            scales.append(_combine(a2, a1, torch.mul))
            if k1 is not None and a2 is not None:
                k1 = k1 * a2.to(k1.dtype)  # a space with shifts has factors +-1 only
            shifts.append(_combine(k2, k1, torch.add))
        return GroupElement(self.architecture, tuple(permutations), tuple(scales), tuple(shifts))

    def __matmul__(self, first: GroupElement) -> GroupElement:
        return self.compose(first)

    @without_autocast
    def inverse(self) -> GroupElement:
        """The element that undoes this one: ``g.inverse()(g(x)) == x``."""
        permutations, scales, shifts = [], [], []
        for p, a, k in zip(self.permutation, self.scale, self.shift, strict=True):
            back = None if p is None else p.argsort(-1)
            if k is not None:
                k = -k if a is None else -k * a.to(k.dtype)
            permutations.append(back)
            scales.append(_take(None if a is None else a.reciprocal(), back))
            shifts.append(_take(k, back))
        return GroupElement(self.architecture, tuple(permutations), tuple(scales), tuple(shifts))

    # -- container -----------------------------------------------------------------------------------

    def map(self, function: Callable[[Tensor], Tensor]) -> GroupElement:
        """A new group element with a function applied to every tensor."""
        parts = (
            tuple([None if t is None else function(t) for t in part])
            for part in (self.permutation, self.scale, self.shift)
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
        tensors = [t for part in (self.permutation, self.scale, self.shift) for t in part if t is not None]
        return torch.broadcast_shapes(*(t.shape[:-1] for t in tensors)) if tensors else torch.Size(())

    def __repr__(self) -> str:
        spaces = []
        for space, p, a, k in zip(self.architecture.hidden, self.permutation, self.scale, self.shift, strict=True):
            parts = [n for n, t in (("permutation", p), ("scale", a), ("shift", k)) if t is not None]
            spaces.append(f"{space.name}: {' x '.join(parts) or 'identity'}")
        return f"GroupElement({'; '.join(spaces)}; batch_shape={tuple(self.batch_shape)})"


def _flatten(group: GroupElement) -> tuple[list[Tensor], tuple[Architecture, tuple[bool, ...]]]:
    # Absent parts are no leaves, so that vmap and indexing see tensors only.
    slots = (*group.permutation, *group.scale, *group.shift)
    return [t for t in slots if t is not None], (group.architecture, tuple([t is not None for t in slots]))


def _unflatten(tensors: Any, context: tuple[Architecture, tuple[bool, ...]]) -> GroupElement:
    architecture, present = context
    rest = iter(tensors)
    slots = [next(rest) if given else None for given in present]
    n = len(slots) // 3
    return GroupElement(architecture, tuple(slots[:n]), tuple(slots[n : 2 * n]), tuple(slots[2 * n :]))


pytree.register_pytree_node(GroupElement, _flatten, _unflatten)


def _take(values: Tensor | None, permutation: Tensor | None) -> Tensor | None:
    if values is None or permutation is None:
        return values
    values, permutation = torch.broadcast_tensors(values, permutation)
    return values.gather(-1, permutation)


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
    sources = [None if p is None else _flat_index(p.expand(*batch, p.shape[-1])) for p in group.permutation]
    wiring = arch.wiring
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    for i, (weight, bias) in enumerate(zip(element.weights, element.biases, strict=True)):
        written, read = wiring.write_slots[i], wiring.read_slots[i]
        kernel = len(arch.layers[i].kernel)
        moved = weight
        if written is not None:
            moved = _write(weight, sources[written], rows[written], 1 + kernel)
            if bias is not None:
                new = _write(bias, sources[written], rows[written], 0)
                offset = offsets[written]
                if offset is not None and wiring.bias_carriers[written] == i:
                    new = bias + offset if new is bias else new.add_(offset)
                bias = new
        if read is not None:
            moved = _read(weight, moved, group.permutation[read], columns[read], kernel)
        weights.append(moved)
        biases.append(bias)
    return WeightSpaceElement(arch, tuple(weights), tuple(biases))


def _fitted(element: WeightSpaceElement, group: GroupElement) -> tuple[WeightSpaceElement, GroupElement]:
    """Both with one batch shape, on the device of the element."""
    batch, device = element.batch_shape, element.device
    equal = True
    for part in (group.permutation, group.scale, group.shift):
        for tensor, space in zip(part, group.architecture.hidden, strict=True):
            if tensor is None:
                continue
            if tensor.dim() == 0 or tensor.shape[-1] != space.size:
                raise ValueError(
                    f"space {space.name!r}: a group element needs shape (*batch, {space.size}), one entry for each "
                    f"neuron, got {tuple(tensor.shape)}; GroupElement.of checks the parts"
                )
            equal = equal and tensor.shape[:-1] == batch
            if tensor.device != device:
                return _fitted(element, group.to(device))
    if equal:
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


def _read(original: Tensor, current: Tensor, permutation: Tensor | None, factor: Tensor | None, after: int) -> Tensor:
    """Gathers and multiplies along the second axis behind the batch, with ``after`` other axes behind that.

    Writes into ``current`` if that is no longer the caller's tensor, so that one call of :func:`act` makes
    one new tensor per parameter when there are no permutations.
    """
    if permutation is not None:
        index = _spread(permutation, 1, after).expand(current.shape)
        current = current.gather(current.dim() - 1 - after, index)
    if factor is not None:
        factor = _spread(factor, 1, after)
        current = current * factor if current is original else current.mul_(factor)
    return current


def _spread(values: Tensor, before: int, after: int) -> Tensor:
    for _ in range(before):
        values = values.unsqueeze(-2)
    for _ in range(after):
        values = values.unsqueeze(-1)
    return values
