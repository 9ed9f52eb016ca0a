"""What layers ask for: products with weights, norms, pooling, attention."""

from __future__ import annotations

from collections.abc import Sequence

from weightaug._tracing.calls import Call, rule
from weightaug._tracing.dims import Sum, Term, Terms, expand, fix, fresh, size_of, split_term
from weightaug._tracing.patterns import normalised
from weightaug._tracing.values import (
    Value,
    combine,
    contract,
    elementwise,
    invariant,
    mix_over,
    point,
    same,
    times,
)

__all__: list[str] = []


def _add_bias(axis: Terms, bias: Value | None, reason: str) -> Terms:
    return axis if bias is None else same(axis, bias.axes[0], reason)


@rule("linear")
def _linear(call: Call) -> Value:
    value, weight = call.value("input"), call.value("weight")
    contract(value.axes[-1], weight.axes[1], call.name)
    return Value([*value.axes[:-1], _add_bias(weight.axes[0], call.optional("bias"), call.name)])


@rule("addmm")
def _addmm(call: Call) -> Value:
    product = _product(call.value("mat1"), call.value("mat2"), call.name)
    return combine([product, call.value("self")], "addmm")


@rule("matmul", "mm", "bmm")
def _matmul(call: Call) -> Value:
    names = ("other" if "other" in call.args else "mat2",)
    return _product(call.value("self"), call.value(names[0]), call.name)


def _product(a: Value, b: Value, reason: str) -> Value:
    left, right = a.axes, b.axes
    contract(left[-1], right[-2 if len(right) > 1 else 0], reason)
    left, right = a.axes, b.axes
    rows = left[-2:-1] if len(left) > 1 else []
    columns = right[-1:] if len(right) > 1 else []
    batch = _batched(left[:-2], right[:-2], reason)
    return Value([*batch, *rows, *columns])


def _batched(left: list[Terms], right: list[Terms], reason: str) -> list[Terms]:
    rank = max(len(left), len(right))
    left = [[]] * (rank - len(left)) + left
    right = [[]] * (rank - len(right)) + right
    axes: list[Terms] = []
    for x, y in zip(left, right, strict=True):
        if size_of(x) > 1 and size_of(y) > 1:
            axes.append(times(x, y, 1, reason, False))
        else:
            axes.append(x if size_of(x) > 1 else y)
    return axes


@rule("conv1d", "conv2d", "conv3d")
def _conv(call: Call) -> Value:
    value, weight = call.value("input"), call.value("weight")
    channel = len(value.shape) - len(weight.shape) + 1
    groups = int(call.args.get("groups", 1))
    out = _grouped(value.axes[channel], weight, 0, 1, groups, call.name)
    return _spatial(call, value, channel, _add_bias(out, call.optional("bias"), call.name), weight, 2)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(call: Call) -> Value:
    value, weight = call.value("input"), call.value("weight")
    channel = len(value.shape) - len(weight.shape) + 1
    if int(call.args.get("groups", 1)) != 1:
        raise call.refusal("groups of a transposed convolution are not followed")
    contract(value.axes[channel], weight.axes[0], call.name)
    return _spatial(call, value, channel, _add_bias(weight.axes[1], call.optional("bias"), call.name), weight, 2)


def _spatial(call: Call, value: Value, channel: int, out: Terms, weight: Value | None, kernel: int) -> Value:
    mix_over(value, list(range(channel + 1, len(value.shape))))
    for axis in value.axes[channel + 1 :]:
        fix(axis, call.name)
    for axis in weight.axes[kernel:] if weight is not None else ():
        fix(axis, call.name)
    rest = [fresh(size, fixed=True) for size in call.shape[channel + 1 :]]
    return Value([*value.axes[:channel], expand(out), *rest])


def _grouped(channels: Terms, weight: Value, written: int, read: int, groups: int, reason: str) -> Terms:
    """The channels that a convolution writes; those of a group read those of the same group."""
    if groups == 1:
        contract(channels, weight.axes[read], reason)
        return weight.axes[written]
    outer, inner = _divide(channels, groups, reason)
    rows, within = _divide(weight.axes[written], groups, reason)
    contract(inner, weight.axes[read], reason)
    met = times(expand(outer), expand(rows), 1, reason, True)
    # Filters belong to their group: no factor acts on single positions if it has several channels.
    return [*met, *expand(within)]


def _divide(axis: Terms, groups: int, reason: str) -> tuple[Terms, Terms]:
    """An axis as groups, and what is within each."""
    axis = expand(axis)
    front: Terms = []
    room = groups
    while room > 1:
        term = axis[0]
        if room % term.size == 0:
            front.append(axis.pop(0))
            room //= term.size
        elif isinstance(term, Term) and term.size % room == 0:
            split_term(term, (room, term.size // room))
            axis = expand(axis)
        else:
            fix(front, reason)
            fix(axis, reason)
            total = size_of(front) * size_of(axis)
            return fresh(groups, fixed=True), fresh(total // groups, fixed=True)
    return front, axis


# -- norms -----------------------------------------------------------------------------------------------


@rule("batch_norm", "cudnn_batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(call: Call) -> Value:
    value = call.value("input")
    axis = value.axes[1]
    mean, variance = call.optional("running_mean"), call.optional("running_var")
    if call.args.get("training") or mean is None or variance is None:
        axis = invariant(axis, "batch_norm")  # eps is in the way of factors
        mix_over(value, [a for a in range(len(value.shape)) if a != 1])
    else:
        if variance.param is None or mean.param is None:
            raise call.refusal("running statistics that are no buffers of a module are not followed")
        axis = invariant(axis, "batch_norm", "positive")
        axis = same(axis, mean.axes[0], "batch_norm")
        axis = same(axis, variance.axes[0], "batch_norm")
        eps = float(call.args["eps"])
        if call.variances.setdefault(variance.param, eps) != eps:
            raise call.refusal(f"the running variance {variance.param!r} is used with several eps")
    point(axis)
    return Value([*value.axes[:1], _gained(call, axis), *value.axes[2:]])


def _gained(call: Call, normalised: Terms) -> Terms:
    """A norm's result: what its gain and bias make of values without scale."""
    weight, bias = call.optional("weight"), call.optional("bias")
    plain = [_unscaled(term) for term in expand(normalised)]
    if weight is not None:
        plain = times(plain, weight.axes[0], 1, call.name, True)
    return _add_bias(plain, bias, call.name)


def _unscaled(term: Term | Sum) -> Term | Sum:
    if isinstance(term, Sum):
        return Sum([[_unscaled(t) for t in section] for section in term.sections])
    return Term(term.dim, {})


@rule("layer_norm")
def _layer_norm(call: Call) -> Value:
    return _normalised(call, "one")


@rule("rms_norm")
def _rms_norm(call: Call) -> Value:
    if call.optional("weight") is None and len(call.args["normalized_shape"]) == 1:
        return normalised(call.value("input"))
    return _normalised(call, "sign")


def _normalised(call: Call, kind: str) -> Value:
    value = call.value("input")
    count = len(call.args["normalized_shape"])
    over = list(range(len(value.shape) - count, len(value.shape)))
    mix_over(value, over)
    weight, bias = call.optional("weight"), call.optional("bias")
    axes = value.axes
    for i, a in enumerate(over):
        axis = invariant(axes[a], call.name, kind)
        point(axis)
        if weight is not None:
            axis = times(axis, weight.axes[i], 1, call.name, True)
        axes[a] = axis if bias is None else same(axis, bias.axes[i], call.name)
    for a in range(over[0]):
        axes[a] = invariant(axes[a], call.name)
    return Value(axes)


@rule("group_norm", "instance_norm")
def _group_norm(call: Call) -> Value:
    value = call.value("input")
    mix_over(value, list(range(2, len(value.shape))))
    axis = invariant(value.axes[1], "group_norm")
    point(axis)
    groups = int(call.args.get("num_groups", 1))
    if call.name == "group_norm" and groups > 1:
        front, within = _divide(axis, groups, call.name)
        axis = [*front, *within]
    return Value([*value.axes[:1], _gained(call, expand(axis)), *value.axes[2:]])


# -- pooling, attention, embedding -----------------------------------------------------------------------


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
      "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d",
      "upsample_trilinear3d", "upsample_bicubic2d")  # fmt: skip
def _average(call: Call) -> Value:
    return _pooled(call, "all")


@rule("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
      "max_pool2d_with_indices", "max_pool3d_with_indices")  # fmt: skip
def _maximum(call: Call) -> Value | Sequence[Value]:
    first = _pooled(call, "positive")
    # Positions of the maxima are the same whatever moves the channels, but they move with them.
    return first if len(call.shapes) == 1 else [first, Value(first.axes)]


def _pooled(call: Call, kind: str) -> Value:
    value = call.tensors[0]
    channel = len(value.shape) - _spatial_rank(call.name) - 1
    axis = value.axes[channel] if kind == "all" else invariant(value.axes[channel], "positive", kind)
    return _spatial(call, value, channel, axis, None, 0)


def _spatial_rank(name: str) -> int:
    return next(n for n in (1, 2, 3) if f"{n}d" in name)


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> Value:
    query, key, content = (call.value(name) for name in ("query", "key", "value"))
    shared = bool(call.args.get("enable_gqa")) and query.shape[-3] != key.shape[-3]
    if shared:
        # Queries of a group meet the keys of one head: the group's number, then the number within it.
        front, within = _divide(query.axes[-3], key.shape[-3], call.name)
        axes = query.axes
        query = Value([*axes[:-3], front, within, *axes[-2:]])
        key, content = (Value([*v.axes[:-2], [], *v.axes[-2:]]) for v in (key, content))
    contract(query.axes[-1], key.axes[-1], call.name)
    scores = [*_batched(query.axes[:-2], key.axes[:-2], call.name), query.axes[-2], key.axes[-2]]
    mask = call.optional("attn_mask")
    score = Value(scores)
    if call.args.get("is_causal"):
        fix(score.axes[-1], call.name)
        fix(score.axes[-2], call.name)
    if mask is not None:
        if shared and len(mask.axes) > 2:
            if mask.shape[-3] != 1:
                raise call.refusal("a mask for each head of grouped queries is not followed")
            mask = Value([*mask.axes[:-2], [], *mask.axes[-2:]])
        score = combine([score, mask], call.name)
    mix_over(score, [len(score.shape) - 1])
    weights = elementwise(score, "one", "softmax")
    contract(weights.axes[-1], content.axes[-2], call.name)
    batch = _batched(weights.axes[:-2], content.axes[:-2], call.name)
    if shared:
        batch = [*batch[:-2], [*batch[-2], *batch[-1]]]
    return Value([*batch, weights.axes[-2], content.axes[-1]])


@rule("embedding")
def _embedding(call: Call) -> Value:
    weight, indices = call.value("weight"), call.value("indices")
    if not indices.is_fixed:
        raise call.refusal("looking up positions that a symmetry moves is not followed")
    fix(weight.axes[0], call.name)
    return Value([*indices.axes, weight.axes[1]])


@rule("einsum")
def _einsum(call: Call) -> Value:
    equation = str(call.args["equation"]).replace(" ", "")
    operands = list(call.args["tensors"])
    inputs, _, output = equation.partition("->")
    if "." in equation or not output or len(operands) != 2:
        raise call.refusal(f"the equation {equation!r} is not followed; expected two operands and an explicit result")
    names = inputs.split(",")
    axes: dict[str, Terms] = {}
    for letters, operand in zip(names, operands, strict=True):
        for letter, axis in zip(letters, operand.axes, strict=True):
            if letter not in axes:
                axes[letter] = axis
            elif letter in output:
                axes[letter] = times(axes[letter], axis, 1, call.name, False)
            else:
                contract(axes[letter], axis, call.name)
    for letter, axis in axes.items():
        if letter not in output and sum(letter in n for n in names) == 1:
            invariant(axis, call.name)
    return Value([axes[letter] for letter in output])
