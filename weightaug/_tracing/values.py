"""Tensors in the graph: their axes, and the steps that rules are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from weightaug._tracing.dims import Dim, Sum, Term, Terms, expand, fix, fresh, leaves, size_of, split_term, unify
from weightaug._tracing.scales import Monomial, Var, freeze, multiply, resolve, restrict, solve

__all__ = [
    "Refused",
    "Value",
    "combine",
    "constant",
    "contract",
    "elementwise",
    "fixed",
    "invariant",
    "mix_over",
    "point",
    "reshape",
    "scalar_shift",
]


class Refused(ValueError):
    """An operator cannot be followed."""


class Value:
    """A tensor: one product of dimensions for every axis.

    Attributes:
        param: The name of the parameter or buffer that it is, or None.
        base: The value that it is a view of, or None; for operators that write in place.
        constant: Whether all its entries are one number, ``"zero"`` or ``"other"``; None where they are not.
    """

    __slots__ = ("_axes", "base", "constant", "param")

    def __init__(self, axes: Iterable[Terms], param: str | None = None) -> None:
        self._axes = list(axes)
        self.param = param
        self.base: Value | None = None
        self.constant: str | None = None

    @property
    def axes(self) -> list[Terms]:
        """The axes in dimensions that are not split any more."""
        self._axes = [expand(axis) for axis in self._axes]
        return list(self._axes)

    def replace(self, axes: Iterable[Terms]) -> None:
        """Gives it other axes: what an operator that writes in place does."""
        self._axes = list(axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(size_of(axis) for axis in self._axes)

    def terms(self) -> list[Term]:
        """All terms with a dimension."""
        return [term for axis in self.axes for term in leaves(axis)]

    @property
    def is_fixed(self) -> bool:
        """Whether no symmetry changes it."""
        return all(term.dim.fixed and not term.scale for term in self.terms())


def fixed(shape: Sequence[int]) -> Value:
    """A tensor that no symmetry changes."""
    return Value([fresh(size, fixed=True) for size in shape])


def constant(shape: Sequence[int], kind: str) -> Value:
    """A tensor of one number: its positions may move, and zeros take any factor. One for every use of it."""
    value = Value([fresh(size, scaled=kind == "zero") for size in shape])
    value.constant = kind
    return value


def _walk(a: Terms, b: Terms, step: Callable[[Term, Term], Monomial]) -> Terms:
    """A new axis from two with the same dimensions."""
    result: Terms = []
    for x, y in zip(a, b, strict=True):
        if isinstance(x, Sum):
            assert isinstance(y, Sum)
            result.append(Sum([_walk(s, t, step) for s, t in zip(x.sections, y.sections, strict=True)]))
        else:
            assert isinstance(y, Term)
            result.append(Term(x.dim, step(x, y)))
    return result


def _map(axis: Terms, step: Callable[[Term], Monomial]) -> Terms:
    return _walk(axis, axis, lambda x, _: step(x))


def contract(a: Terms, b: Terms, reason: str) -> None:
    """Both axes are multiplied and summed: what scales one is taken from the other."""
    a, b = unify(a, b, reason)
    for x, y in zip(_leaves(a), _leaves(b), strict=True):
        solve(multiply(x.scale, y.scale), reason)


def _leaves(axis: Terms) -> list[Term]:
    return list(leaves(axis))


def same(a: Terms, b: Terms, reason: str) -> Terms:
    """Two axes that are added: one dimension, one scale."""
    a, b = unify(a, b, reason)
    for x, y in zip(_leaves(a), _leaves(b), strict=True):
        solve(multiply(x.scale, y.scale, -1), reason)
    return expand(a)


def invariant(axis: Terms, reason: str, kind: str = "one") -> Terms:
    """Asks that the scale along an axis is 1 (or of a kind); permutations pass."""
    axis = expand(axis)
    for term in leaves(axis):
        restrict(term.scale, kind, reason)
        if kind != "all":
            term.dim.reason = term.dim.reason or reason
    return expand(axis)


def point(axis: Terms) -> None:
    """Notes that something acts on single positions."""
    for term in leaves(expand(axis)):
        term.dim.find().pointwise = True


def times(a: Terms, b: Terms, exponent: int, reason: str, owned: bool) -> Terms:
    """Two axes that are multiplied position by position (or divided, with exponent -1).

    Args:
        a: An axis.
        b: Another.
        exponent: 1 or -1.
        reason: The operator.
        owned: Whether b belongs to a parameter, which then can bring the product to any scale.
    """
    a, b = unify(a, b, reason)
    point(a)
    point(b)

    def step(x: Term, y: Term) -> Monomial:
        scale, other = resolve(x.scale), resolve(y.scale)
        if owned and scale and len(other) == 1:
            ((var, e),) = other.items()
            if var.kind == "all" and abs(e) == 1 and var not in scale:
                # Any scale of the product, instead of the parameter's own.
                result = Var(var.dim)
                var.value = resolve(multiply({result: exponent * e}, scale, -exponent * e))
                return {result: 1}
        return multiply(scale, other, exponent)

    return _walk(expand(a), expand(b), step)


def combine(values: Sequence[Value], reason: str, *, multiplied: int = 0) -> Value:
    """Broadcasting of two tensors that are added (0), multiplied (1) or divided (-1)."""
    first, second = values
    if multiplied == 1 and first.param is not None and second.param is None:
        first, second = second, first
    rank = max(len(first.axes), len(second.axes))
    left: list[Terms] = [[]] * (rank - len(first.axes)) + first.axes
    right: list[Terms] = [[]] * (rank - len(second.axes)) + second.axes
    axes: list[Terms] = []
    for a, b in zip(left, right, strict=True):
        if size_of(a) > 1 and size_of(b) > 1:
            axes.append(times(a, b, multiplied, reason, second.param is not None) if multiplied else same(a, b, reason))
        elif multiplied:
            axes.append(_map(expand(a), lambda t: t.scale) if size_of(a) > 1 else _inverted(b, multiplied))
        else:
            axis = invariant(a if size_of(a) > 1 else b, reason)
            point(axis)
            axes.append(axis)
    return Value(axes)


def _inverted(axis: Terms, exponent: int) -> Terms:
    return _map(expand(axis), lambda t: {var: e * exponent for var, e in resolve(t.scale).items()})


def elementwise(value: Value, kind: str, reason: str, power: int = 1) -> Value:
    """A function of single entries that scales of a kind pass, to a power."""
    axes = []
    for axis in value.axes:
        point(axis)
        passed = invariant(axis, reason, kind)
        axes.append(_map(passed, lambda t: {var: e * power for var, e in resolve(t.scale).items()}))
    return Value(axes)


def scalar_shift(value: Value, reason: str) -> Value:
    """Adds a constant to every entry."""
    for axis in value.axes:
        point(axis)
    return Value([invariant(axis, reason) for axis in value.axes])


def mix_over(value: Value, axes: Sequence[int]) -> None:
    """Notes that positions along some axes meet: what moves within them must then move alike."""
    met = {t.dim.find() for a in axes for t in leaves(value.axes[a])}
    for i, axis in enumerate(value.axes):
        if i in axes:
            continue
        for term in leaves(axis):
            dim = term.dim.find()
            dim.within = [{d for d in outer if not (set(leaf_dims(d)) & met)} for outer in dim.within]


def leaf_dims(dim: Dim) -> list[Dim]:
    """The dimensions that a dimension has been split into."""
    return [term.dim for term in leaves(expand([Term(dim, {})]))]


def reshape(value: Value, shape: Sequence[int]) -> Value:
    """A view of other sizes: axes are split and joined."""
    queue = [term for axis in value.axes for term in axis]
    axes: list[Terms] = []
    for size in shape:
        axis: Terms = []
        room = size
        while room > 1:
            term = queue.pop(0)
            if room % term.size == 0:
                axis.append(term)
                room //= term.size
            elif isinstance(term, Term) and term.size % room == 0:
                split_term(term, (room, term.size // room))
                queue = [*expand([term]), *queue]
            else:
                for axis_ in value.axes:
                    fix(axis_, "reshape")
                return fixed(shape)
        axes.append(axis)
    return Value(axes)


def freeze_scales(value: Value, reason: str) -> None:
    """Asks that a tensor is multiplied by nothing at all."""
    for term in value.terms():
        freeze(term.scale, reason)
