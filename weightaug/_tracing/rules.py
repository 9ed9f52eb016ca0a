"""What shape-changing and elementwise operators ask for."""

from __future__ import annotations

from typing import Any

from weightaug._tracing.calls import Call, rule
from weightaug._tracing.dims import Sum, Term, Terms, cut, fix, fresh, leaves, size_of
from weightaug._tracing.dims import chosen as section
from weightaug._tracing.scales import resolve
from weightaug._tracing.values import (
    Value,
    combine,
    elementwise,
    fixed,
    invariant,
    mix_over,
    reshape,
    same,
    scalar_shift,
)

__all__ = ["pieces", "reduced"]

_PERMUTATION_ONLY = (
    *("hardtanh", "hardswish", "hardsigmoid", "celu", "relu6", "exp", "log", "sqrt", "rsqrt"),
    *("clamp", "log_sigmoid", "expm1", "log1p", "clamp_min", "clamp_max"),
)

# Functions of single entries: the scales that pass, the name of the activation, the power of what comes out.
_FUNCTIONS: dict[str, tuple[str, str, int]] = {
    "relu": ("positive", "relu", 1),
    "leaky_relu": ("positive", "leaky_relu", 1),
    "abs": ("positive", "abs", 1),
    "tanh": ("sign", "tanh", 1),
    "sin": ("sign", "sine", 1),
    "erf": ("sign", "erf", 1),
    "atan": ("sign", "arctan", 1),
    "cos": ("sign", "cosine", 0),
    **{name: ("one", name, 1) for name in ("gelu", "silu", "sigmoid", "elu", "selu", "mish", "softplus")},
    **dict.fromkeys(_PERMUTATION_ONLY, ("one", "shared", 1)),
}


@rule(*_FUNCTIONS)
def _function(call: Call) -> Value:
    kind, reason, power = _FUNCTIONS[call.name]
    return elementwise(call.value("self"), kind, reason, power)


@rule("pow")
def _pow(call: Call) -> Value:
    exponent = call.args["exponent"]
    if isinstance(exponent, (int, float)) and float(exponent).is_integer() and exponent > 0:
        value = call.value("self")
        return Value(elementwise(value, "all", "square", int(exponent)).axes)
    return elementwise(call.value("self"), "one", "shared")


@rule("reciprocal")
def _reciprocal(call: Call) -> Value:
    return elementwise(call.value("self"), "all", "shared", -1)


@rule("square")
def _square(call: Call) -> Value:
    return elementwise(call.value("self"), "all", "square", 2)


@rule("neg", "clone", "_to_copy")
def _copied(call: Call) -> Value:
    return Value(call.tensors[0].axes)


@rule("contiguous", "dropout", "alias", "detach", "to", "type_as", "lift_fresh_copy",
      "dropout_", "feature_dropout", "alpha_dropout", "native_dropout", "real", "lift_fresh", "detach_")  # fmt: skip
def _unchanged(call: Call) -> Value:
    value = call.tensors[0]
    return _view(value, value.axes)


@rule("add", "sub", "rsub")
def _add(call: Call) -> Value:
    other = call.args["other"]
    if isinstance(other, Value):
        return combine([call.value("self"), other], "add")
    return scalar_shift(call.value("self"), "add")


@rule("mul", "div")
def _mul(call: Call) -> Value:
    other = call.args["other"]
    if isinstance(other, Value):
        if call.args.get("rounding_mode") is not None:
            raise call.refusal("rounding is not followed")
        value = call.value("self")
        pairs = [(other, value), (value, other)] if call.name == "mul" else [(other, value)]
        for one, rest in pairs:
            if one.constant == "other" and rest.shape == call.shape:  # by one number
                return Value(rest.axes)
        return combine([call.value("self"), other], call.name, multiplied=1 if call.name == "mul" else -1)
    return Value(call.value("self").axes)


@rule("where", "masked_fill", "maximum", "minimum")
def _choose(call: Call) -> Value:
    tensors = call.tensors
    result = scalar_shift(tensors[0], "where")
    for other in tensors[1:]:
        result = combine([result, other], "where")
    return result


def _view(value: Value, axes: list[Terms]) -> Value:
    result = Value(axes)
    result.base = value
    return result


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
def _reshape(call: Call) -> Value:
    value = call.value("self")
    result = reshape(value, call.shape)
    result.base = value
    return result


@rule("unsqueeze", "squeeze")
def _squeeze(call: Call) -> Value:
    value = call.value("self")
    return _view(value, reshape(value, call.shape).axes)


@rule("transpose", "swapaxes")
def _transpose(call: Call) -> Value:
    value = call.value("self")
    axes = value.axes
    names = ("dim0", "dim1") if "dim0" in call.args else ("axis0", "axis1")
    a, b = (call.axis(name, value) for name in names)
    axes[a], axes[b] = axes[b], axes[a]
    return _view(value, axes)


@rule("t", "numpy_T", "mT", "adjoint")
def _t(call: Call) -> Value:
    value = call.value("self")
    axes = value.axes
    return _view(value, [*axes[:-2], *axes[:-3:-1]])


@rule("permute")
def _permute(call: Call) -> Value:
    value = call.value("self")
    axes = value.axes
    return _view(value, [axes[d] for d in call.args["dims"]])


@rule("movedim", "moveaxis")
def _movedim(call: Call) -> Value:
    value = call.value("self")
    rank = len(value.shape)
    given = [call.args[n] for n in ("source", "destination")]
    source, target = ([d % rank for d in (g if isinstance(g, (list, tuple)) else [g])] for g in given)
    order = [d for d in range(rank) if d not in source]
    for to, d in sorted(zip(target, source, strict=True)):
        order.insert(to, d)
    return _view(value, [value.axes[d] for d in order])


@rule("expand", "repeat", "expand_as", "broadcast_to")
def _expand(call: Call) -> Value:
    value = call.value("self")
    axes: list[Terms] = [[]] * (len(call.shape) - len(value.axes)) + value.axes
    result: list[Terms] = []
    for axis, size in zip(axes, call.shape, strict=True):
        if size_of(axis) == size:
            result.append(axis)
        elif size_of(axis) == 1:
            result.append(fresh(size))
        else:
            raise call.refusal("repeating an axis that has several positions is not followed")
    return _view(value, result)


@rule("cat", "concat")
def _cat(call: Call) -> Value:
    tensors = [t for t in call.args["tensors"] if t.shape != (0,)]
    along = call.axis("dim", tensors[0])
    tensors = [t for t in tensors if t.shape[along]] or tensors[:1]
    axes = tensors[0].axes
    if len(tensors) == 1:
        return Value(axes)
    for other in tensors[1:]:
        for a, axis in enumerate(other.axes):
            if a != along:
                axes[a] = same(axes[a], axis, "cat")
    sections = [t.axes[along] for t in tensors]
    free = any(not t.dim.fixed or resolve(t.scale) for section in sections for t in leaves(section))
    axes[along] = [Sum(sections)] if free else fresh(call.shape[along], fixed=True)
    return Value(axes)


@rule("stack")
def _stack(call: Call) -> Value:
    tensors = list(call.args["tensors"])
    axes = tensors[0].axes
    for other in tensors[1:]:
        axes = [same(a, b, "stack") for a, b in zip(axes, other.axes, strict=True)]
    axes.insert(int(call.args["dim"]) % len(call.shape), fresh(len(tensors), fixed=True))
    return Value(axes)


def pieces(value: Value, along: int, sizes: list[int]) -> list[Value]:
    """A tensor divided along one axis."""
    axis = value.axes[along]
    if all(t.dim.fixed and not t.scale for t in leaves(axis)):
        parts = [fresh(size, fixed=True) for size in sizes]
    else:
        whole = cut(axis, sizes)
        assert isinstance(whole[0], Sum)
        parts = whole[0].sections
    axes = value.axes
    return [_view(value, [*axes[:along], part, *axes[along + 1 :]]) for part in parts]


@rule("split", "split_with_sizes", "chunk", "tensor_split")
def _split(call: Call) -> list[Value]:
    value = call.value("self")
    along = call.axis("dim", value)
    return pieces(value, along, [shape[along] for shape in call.shapes])


@rule("slice", "narrow")
def _slice(call: Call) -> Value:
    value = call.value("self")
    along = call.axis("dim", value)
    size, left = value.shape[along], call.shape[along]
    if left == size:
        return _view(value, value.axes)
    if left == 0:  # such as what partial rotary positions leave, where they are not partial
        axes = value.axes
        return _view(value, [*axes[:along], fresh(0, fixed=True), *axes[along + 1 :]])
    start = call.args.get("start") or 0
    start = max(start + size, 0) if start < 0 else min(start, size)
    if call.args.get("step", 1) != 1:
        fix(value.axes[along], "slice")
        axes = value.axes
        return _view(value, [*axes[:along], fresh(left, fixed=True), *axes[along + 1 :]])
    sizes = [start, left, size - start - left]
    kept = [n for n in sizes if n]
    return pieces(value, along, kept)[1 if start else 0]


@rule("select")
def _select(call: Call) -> Value:
    value = call.value("self")
    return _selected(value, call.axis("dim", value), int(call.args["index"]) % value.shape[call.axis("dim", value)])


@rule("unbind")
def _unbind(call: Call) -> list[Value]:
    value = call.value("self")
    along = call.axis("dim", value)
    return [_selected(value, along, i) for i in range(value.shape[along])]


def _selected(value: Value, along: int, index: int) -> Value:
    axes = value.axes
    rest = [*axes[:along], *axes[along + 1 :]]
    chosen = axes[along]
    if len(chosen) == 1 and isinstance(chosen[0], Term) and not chosen[0].dim.fixed:
        for a, axis in enumerate(rest):
            for i, term in enumerate(axis):
                part = section(chosen[0], term, index) if isinstance(term, Term) else None
                if part is not None:
                    return _view(value, [*rest[:a], [*axis[:i], part, *axis[i + 1 :]], *rest[a + 1 :]])
    fix(chosen, "select")
    return _view(value, rest)


@rule("gather")
def _gather(call: Call) -> Value:
    if not all(t.is_fixed for t in call.tensors):
        raise call.refusal("picking positions that a symmetry moves is not followed")
    return fixed(call.shape)


@rule("mean", "sum", "nanmean")
def _sum(call: Call) -> Value:
    return reduced(call, "all")


@rule("amax", "amin", "max", "min")
def _amax(call: Call) -> Any:
    if len(call.shapes) > 1:
        raise call.refusal("positions of a maximum are not followed")
    return reduced(call, "positive")


def reduced(call: Call, kind: str) -> Value:
    """A sum, a maximum or another figure over some axes, that takes factors of a kind along the others."""
    value = call.value("self")
    over = call.axes("dim", value)
    mix_over(value, over)
    axes: list[Terms] = []
    for a, axis in enumerate(value.axes):
        if a in over:
            invariant(axis, call.name)
            if call.args.get("keepdim"):
                axes.append([])
        else:
            axes.append(axis if kind == "all" else invariant(axis, call.name, kind))
    return Value(axes)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def _softmax(call: Call) -> Value:
    value = call.value("self")
    mix_over(value, [call.axis("dim", value)])
    return elementwise(value, "one", "softmax")


@rule("constant_pad_nd", "pad")
def _pad(call: Call) -> Value:
    value = call.value("self")
    axes = value.axes
    padded = [a for a in range(len(axes)) if value.shape[a] != call.shape[a]]
    if call.args.get("value") or call.args.get("mode", "constant") != "constant":
        for axis in axes:
            invariant(axis, "pad")
    for a in padded:
        fix(axes[a], "pad")
    axes = value.axes
    return Value([fresh(call.shape[a], fixed=True) if a in padded else axis for a, axis in enumerate(axes)])
