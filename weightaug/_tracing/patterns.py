"""Several operators that mean one thing, which none of them says alone: rotary positions, and a norm written out.

They are found in the graph beforehand and followed as a whole, if nothing else looks at what lies between; what does
not fit is followed operator by operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Graph, Node

from weightaug._tracing.dims import Term, Terms, expand, size_of
from weightaug._tracing.values import Value, invariant, mix_over, times

__all__ = ["Pattern", "normalised", "operator", "patterns_of", "users_of"]


@dataclass(frozen=True)
class Pattern:
    """A part of the graph that is followed as a whole.

    Attributes:
        inputs: What goes in.
        inside: The operators between these and the last.
        follow: Takes the values of the inputs; gives the value of the last operator, or None where it does not apply.
    """

    inputs: tuple[Node, ...]
    inside: tuple[Node, ...]
    follow: Callable[..., Value | None]


def patterns_of(graph: Graph) -> dict[Node, Pattern]:
    """All patterns of a graph, by their last operators."""
    found = {}
    for node in graph.nodes:
        pattern = _rotary(node) or _rms(node)
        if pattern is not None and _closed(node, pattern):
            found[node] = pattern
    return found


def _closed(last: Node, pattern: Pattern) -> bool:
    known = {last, *pattern.inside}
    closed = all(user in known for node in pattern.inside for user in users_of(node))
    return closed and not any(_written(node) for node in (*pattern.inside, *pattern.inputs))


def users_of(node: Node) -> list[Node]:
    """What uses a node's result, beside assertions about it."""
    return [user for user in node.users if not operator(user).startswith("_assert")]


_VIEWS = {
    *("slice", "select", "view", "reshape", "unsqueeze", "squeeze", "transpose", "permute", "expand"),
    *("alias", "detach"),
    *("narrow", "split", "chunk", "unbind", "flatten", "unflatten", "to", "contiguous", "movedim", "t", "getitem"),
}


def _written(node: Node) -> bool:
    """Whether something is written into a tensor in place, or into a view of it."""
    for user in node.users:
        name = operator(user) or getattr(user.target, "__name__", "")
        if name.endswith("_") and not name.startswith("_") and user.args[0] is node:
            return True
        if name in _VIEWS and _written(user):
            return True
    return False


def operator(node: object) -> str:
    """The name of the operator that a node calls, without its overload; empty for other nodes."""
    if not isinstance(node, Node) or node.op != "call_function":
        return ""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).split("::")[-1]


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _pairs(node: object, name: str) -> Iterator[tuple[Node, Node]]:
    """The two operands of a sum or product of tensors, in both orders; nothing if it is another operator."""
    if isinstance(node, Node) and operator(node) == name and len(node.args) == 2 and not node.kwargs:
        first, second = node.args
        if isinstance(first, Node) and isinstance(second, Node):
            yield first, second
            yield second, first


# -- rotary positions ------------------------------------------------------------------------------------


def _rotary(node: Node) -> Pattern | None:
    """X cos + (-second half of x, first half of x) sin, as in RoFormer and Llama (Su et al. 2021)."""
    for left, right in _pairs(node, "add"):
        for x, cosine in _pairs(left, "mul"):
            for swapped, sine in _pairs(right, "mul"):
                halves = _swapped(swapped, x)
                if halves is not None and _twice(cosine, _shape(x)[-1]) and _twice(sine, _shape(x)[-1]):
                    return Pattern((x, cosine, sine), (left, right, swapped, *halves), _turn)
    return None


def _swapped(node: Node, x: Node) -> tuple[Node, ...] | None:
    """The operators within (-second half, first half); None if it is something else."""
    rank, half = len(_shape(x)), _shape(x)[-1] // 2 if _shape(x) else 0
    if operator(node) != "cat" or not _last(node, 1, rank):
        return None
    parts = node.args[0]
    if not (isinstance(parts, (list, tuple)) and len(parts) == 2):
        return None
    negated, first = parts
    second = negated.args[0] if isinstance(negated, Node) and operator(negated) == "neg" else None
    if _half(first, x, 0, half) and _half(second, x, half, 2 * half):
        assert isinstance(first, Node)
        assert isinstance(second, Node)
        assert isinstance(negated, Node)
        return first, second, negated
    return None


def _last(node: Node, place: int, rank: int) -> bool:
    """Whether an argument names the last axis."""
    given = node.args[place] if len(node.args) > place else 0
    return bool(given == -1 or given == rank - 1)


def _half(node: object, x: Node, start: int, stop: int) -> bool:
    """Whether a node is one half of x along the last axis."""
    if not (isinstance(node, Node) and operator(node) == "slice" and node.args[0] is x):
        return False
    if not _last(node, 1, len(_shape(x))):
        return False
    given = [*node.args[2:], None, None, None]
    whole = _shape(x)[-1] % 2 == 0 and given[2] in (None, 1)
    first = given[0] if isinstance(given[0], int) else 0
    return whole and first == start and _shape(node)[-1] == stop - start


# Of tensors whose last axis stays as long as it is; a slice is then of another axis.
_THROUGH = {
    *("cos", "sin", "to", "_to_copy", "unsqueeze", "expand", "alias", "type_as", "contiguous", "clone", "detach"),
    "slice",
}


def _twice(node: Node, size: int) -> bool:
    """Whether the two halves of the last axis are the same, since they are one tensor, concatenated with itself."""
    while _shape(node)[-1:] == (size,) and not _written(node):
        if operator(node) == "cat":
            parts = node.args[0]
            return (
                isinstance(parts, (list, tuple))
                and len(parts) == 2
                and parts[0] is parts[1]
                and _last(node, 1, len(_shape(node)))
            )
        scaled = operator(node) == "mul" and not isinstance(node.args[1], Node)
        if not (operator(node) in _THROUGH or scaled) or not isinstance(node.args[0], Node):
            return False
        node = node.args[0]
    return False


def _turn(x: Value, cosine: Value, sine: Value) -> Value | None:
    """Pairs of positions turn together: of the maps, those that multiply them as complex numbers pass."""
    axes = [expand(axis) for axis in x.axes]
    last = axes[-1]
    if not (cosine.is_fixed and sine.is_fixed and len(last) == 1 and isinstance(last[0], Term)):
        return None
    if last[0].dim.find().fixed:
        return None
    for factor in (cosine, sine):
        for place in range(2, len(axes) + 1):
            other = factor.axes[-place] if place <= len(factor.axes) else []
            if size_of(other) > 1 and size_of(axes[-place]) > 1:
                axes[-place] = times(axes[-place], other, 1, "rotary", False)
            elif size_of(other) > 1:
                return None
    mix_over(x, [len(axes) - 1])
    last[0].dim.find().turned = True
    return Value([*axes[:-1], x.axes[-1]])


# -- a norm, written out ---------------------------------------------------------------------------------


def _rms(node: Node) -> Pattern | None:
    """X / sqrt(mean of x^2 + eps) over the last axis, without a gain."""
    for x, root in _pairs(node, "mul"):
        shifted = root.args[0] if operator(root) == "rsqrt" else None
        if not isinstance(shifted, Node) or operator(shifted) != "add" or isinstance(shifted.args[1], Node):
            continue
        mean = shifted.args[0]
        if not isinstance(mean, Node) or operator(mean) != "mean" or len(mean.args) < 3 or not mean.args[2]:
            continue
        over, square = mean.args[1], mean.args[0]
        if over not in ([-1], [len(_shape(x)) - 1]) or not isinstance(square, Node):
            continue
        if operator(square) == "pow" and square.args[0] is x and square.args[1] == 2:
            return Pattern((x,), (square, mean, shifted, root), normalised)
    return None


def normalised(x: Value) -> Value:
    """Divided by the root of the mean square: orthogonal maps of the last axis pass."""
    last = len(x.axes) - 1
    mix_over(x, [last])
    axes: list[Terms] = [invariant(axis, "rms_norm") for axis in x.axes[:-1]]
    return Value([*axes, invariant(x.axes[-1], "rms_norm", "sign")])
