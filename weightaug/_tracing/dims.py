"""Axes as products of dimensions, which operators unite, split and freeze.

A dimension that a reshape splits becomes a product; one that is concatenated or cut becomes a sum of sections. What is
done to one tensor thereby reaches every tensor with the same dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weightaug._tracing.scales import Monomial, Var, freeze, resolve

__all__ = [
    "Dim",
    "Sum",
    "Term",
    "Terms",
    "chosen",
    "cut",
    "expand",
    "fix",
    "fresh",
    "leaves",
    "size_of",
    "split_term",
    "unify",
]


class Dim:
    """A set of positions that move together.

    Attributes:
        size: Number of positions.
        fixed: Whether each position has a meaning of its own: nothing moves.
        fixed_by: The operator that made it so; None if it was so from the start.
        pointwise: Whether something acts on single positions, so that only diagonal factors pass.
        within: Sets of dimensions, for each position of which this one may move independently; those in all sets
            count. Empty is no restriction yet.
        reason: The first operator that lets permutations alone pass.
        split: The factors that it was split into, slowest first.
        sections: The sections that it is the sum of, each a product.
        origin: The dimension that it is a part of, or None.
        touched: Whether it was united with another.
        stale: Whether it was given up for sections of its origin; see :func:`chosen`.
        turned: Whether rotary positions turn its two halves against each other.
    """

    __slots__ = (
        "fixed", "fixed_by", "origin", "parent", "pointwise", "reason", "sections", "size", "split", "stale", "touched",
        "turned", "within",
    )  # fmt: skip

    def __init__(self, size: int, fixed: bool = False) -> None:
        self.size = size
        self.fixed = fixed
        self.fixed_by: str | None = None
        self.pointwise = False
        self.within: list[set[Dim]] = []
        self.reason: str | None = None
        self.parent: Dim | None = None
        self.split: tuple[Dim, ...] | None = None
        self.sections: tuple[Dim, ...] | None = None
        self.origin: Dim | None = None
        self.touched = False
        self.stale = False
        self.turned = False

    def find(self) -> Dim:
        """The dimension that stands for all that were united with this one."""
        dim = self
        while dim.parent is not None:
            dim = dim.parent
        return dim


class Term:
    """One factor of an axis of a tensor: a dimension, and how the tensor scales along it."""

    __slots__ = ("dim", "scale")

    def __init__(self, dim: Dim, scale: Monomial) -> None:
        self.dim = dim
        self.scale = scale

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.dim.size


class Sum:
    """One factor of an axis that is a concatenation of sections."""

    __slots__ = ("sections",)

    def __init__(self, sections: Sequence[Terms]) -> None:
        self.sections = list(sections)

    @property
    def size(self) -> int:
        """Number of positions."""
        return sum(size_of(section) for section in self.sections)


Terms = list[Term | Sum]


def size_of(terms: Terms) -> int:
    """Number of positions of a product."""
    total = 1
    for term in terms:
        total *= term.size
    return total


def fresh(size: int, *, fixed: bool = False, scaled: bool = False) -> Terms:
    """An axis of its own; an axis of size 1 has no factor."""
    if size == 1:
        return []
    dim = Dim(size, fixed)
    return [Term(dim, {Var(dim): 1} if scaled else {})]


def _parts(dims: Sequence[Dim], scale: Monomial) -> list[Term]:
    scales: list[Monomial] = [{} for _ in dims]
    for var, exponent in scale.items():
        if var.parts is None:
            var.parts = [Var(dim, var.kind, var.reason, var) for dim in dims]
        for part, inner in zip(scales, var.parts, strict=True):
            part[inner] = exponent
    return [Term(dim, part) for dim, part in zip(dims, scales, strict=True)]


def expand(terms: Terms) -> Terms:
    """The same axis in dimensions that are not split any more."""
    result: Terms = []
    for term in terms:
        if isinstance(term, Sum):
            result.append(Sum([expand(section) for section in term.sections]))
            continue
        dim = term.dim.find()
        scale = resolve(term.scale)
        if dim.split is not None:
            result.extend(expand(list(_parts(dim.split, scale))))
        elif dim.sections is not None:
            result.append(Sum([expand([part]) for part in _parts(dim.sections, scale)]))
        else:
            result.append(Term(dim, scale))
    return result


def leaves(terms: Terms) -> Iterator[Term]:
    """All terms with a dimension, those in sections too."""
    for term in terms:
        if isinstance(term, Sum):
            for section in term.sections:
                yield from leaves(section)
        else:
            yield term


def fix(terms: Terms, reason: str) -> None:
    """Makes the positions of an axis distinct, and its factors 1: sound whatever the operator does."""
    for term in leaves(expand(terms)):
        if not term.dim.fixed:
            term.dim.fixed, term.dim.fixed_by = True, reason
        term.dim.reason = term.dim.reason or reason
        freeze(term.scale, reason)


def _broken(dim: Dim, part: Dim) -> None:
    """What turns in pairs and is divided has positions that are distinct: see ``emit``."""
    part.turned = dim.turned
    part.pointwise |= dim.turned


def split_term(term: Term, sizes: Sequence[int]) -> None:
    """Makes a dimension a product."""
    dim = term.dim.find()
    parts = [Dim(size, dim.fixed) for size in sizes]
    for i, part in enumerate(parts):
        part.pointwise, part.reason, part.origin = dim.pointwise, dim.reason, dim
        part.fixed_by = dim.fixed_by
        _broken(dim, part)
        outer = {p for p in parts[:i] if p.size > 1}
        part.within = [s | outer for s in dim.within] or ([outer] if outer else [])
    dim.split = tuple([part for part in parts if part.size > 1])


def _cut(term: Term, sizes: Sequence[int]) -> None:
    """Makes a dimension a sum of sections."""
    dim = term.dim.find()
    parts = [Dim(size, dim.fixed) for size in sizes]
    for part in parts:
        part.pointwise, part.reason, part.fixed_by = dim.pointwise, dim.reason, dim.fixed_by
        _broken(dim, part)
        part.within = [set(s) for s in dim.within]
    dim.sections = tuple(parts)


def cut(terms: Terms, sizes: Sequence[int]) -> Terms:
    """Divides an axis into consecutive sections.

    Returns:
        The axis as one sum with these sections, or the axis fixed where it cannot be divided so.
    """
    terms = expand(terms)
    if len(terms) == 1 and isinstance(terms[0], Term):
        _cut(terms[0], sizes)
        return expand(terms)
    if len(terms) == 1 and isinstance(terms[0], Sum):
        regrouped = _regroup(_flat(terms[0]), sizes)
        if regrouped is not None:
            return [regrouped]
    fix(terms, "slice")
    return [Sum([fresh(size, fixed=True) for size in sizes])]


def chosen(outer: Term, inner: Term, index: int) -> Term | None:
    """One position of a factor is picked: then the axis that was split is a sum, with a section for each position.

    That is how a product with one weight gives queries, keys and values. Works where nothing has happened to the
    factors since the split; what else meets them later is stale and has to be refused.

    Args:
        outer: The factor along which one position is picked.
        inner: The factor within it.
        index: The position.

    Returns:
        The section, or None where this cannot be done.
    """
    k, rest = outer.dim.find(), inner.dim.find()
    whole = k.origin
    if whole is None or rest.origin is not whole or k.touched or rest.touched or rest.pointwise or rest.turned:
        return None
    origins = [var.origin for var in inner.scale]
    if any(var.kind != "all" or var.value is not None or var.origin is None for var in inner.scale):
        return None
    if not rest.stale:
        if whole.split is None or [d.find() for d in whole.split] != [k, rest]:
            return None
        whole.split = None
        _cut(Term(whole, {}), [rest.size] * k.size)
        assert whole.sections is not None
        for var in (*outer.scale, *inner.scale):
            if var.origin is not None:
                var.origin.parts = [Var(dim) for dim in whole.sections]
        k.stale = rest.stale = True
    assert whole.sections is not None
    parts = [origin.parts[index] for origin in origins if origin is not None and origin.parts is not None]
    return Term(whole.sections[index], dict(zip(parts, inner.scale.values(), strict=True)))


def _regroup(whole: Sum, sizes: Sequence[int]) -> Sum | None:
    """A sum with other borders, where these lie between its sections or cut single dimensions."""
    queue = list(whole.sections)
    sections: list[Terms] = []
    for size in sizes:
        group: list[Terms] = []
        while sum(size_of(s) for s in group) < size:
            section = queue.pop(0)
            room = size - sum(size_of(s) for s in group)
            if size_of(section) > room:
                if len(section) != 1 or isinstance(section[0], Sum):
                    return None
                _cut(section[0], (room, section[0].size - room))
                first = expand(section)[0]
                assert isinstance(first, Sum)
                section, rest = first.sections
                queue.insert(0, rest)
            group.append(section)
        sections.append(group[0] if len(group) == 1 else [Sum(group)])
    return Sum(sections)


def _unite(a: Dim, b: Dim, reason: str) -> None:
    a, b = a.find(), b.find()
    if a is b:
        return
    b.parent = a
    a.touched = True
    if a.fixed != b.fixed:
        a.fixed_by = a.fixed_by or b.fixed_by or reason
    a.fixed |= b.fixed
    a.pointwise |= b.pointwise
    a.turned |= b.turned
    a.reason = a.reason or b.reason
    a.within = a.within + b.within


def _mirror(term: Term, whole: Sum) -> None:
    _cut(term, [size_of(section) for section in whole.sections])


def unify(a: Terms, b: Terms, reason: str) -> tuple[Terms, Terms]:
    """Makes two axes of one size the same dimensions; fixes both where their structures do not fit.

    Returns:
        Both axes, term for term with the same dimensions.
    """
    while True:
        a, b = expand(a), expand(b)
        for i in range(max(len(a), len(b))):
            if i >= len(a) or i >= len(b):
                break  # sizes differ: cannot happen to well-formed operators
            x, y = a[i], b[i]
            if isinstance(x, Sum) and isinstance(y, Sum):
                if x.size != y.size:
                    return _give_up(a, b, reason)
                aligned = _align(x, y, reason)
                if aligned is None:
                    return _give_up(a, b, reason)
                a[i], b[i] = aligned
                continue
            if x.size == y.size:
                if isinstance(x, Sum):
                    assert isinstance(y, Term)
                    _mirror(y, x)
                    break
                if isinstance(y, Sum):
                    _mirror(x, y)
                    break
                _unite(x.dim, y.dim, reason)
                continue
            large, small = (x, y) if x.size > y.size else (y, x)
            if isinstance(large, Sum) or large.size % small.size:
                return _give_up(a, b, reason)
            split_term(large, (small.size, large.size // small.size))
            break
        else:
            return a, b


def _align(x: Sum, y: Sum, reason: str) -> tuple[Sum, Sum] | None:
    borders = sorted({*_borders(x), *_borders(y)})
    sizes = [b - a for a, b in zip([0, *borders], borders, strict=False)]
    left, right = _regroup(_flat(x), sizes), _regroup(_flat(y), sizes)
    if left is None or right is None:
        return None
    pairs = [unify(a, b, reason) for a, b in zip(left.sections, right.sections, strict=True)]
    return Sum([a for a, _ in pairs]), Sum([b for _, b in pairs])


def _flat(whole: Sum) -> Sum:
    sections: list[Terms] = []
    for section in whole.sections:
        if len(section) == 1 and isinstance(section[0], Sum):
            sections.extend(_flat(section[0]).sections)
        else:
            sections.append(section)
    return Sum(sections)


def _borders(whole: Sum) -> list[int]:
    total, borders = 0, []
    for section in _flat(whole).sections:
        total += size_of(section)
        borders.append(total)
    return borders


def _give_up(a: Terms, b: Terms, reason: str) -> tuple[Terms, Terms]:
    fix(a, reason)
    fix(b, reason)
    size = size_of(a)
    shared = fresh(size, fixed=True)
    return shared, list(shared)
