"""What less common operators ask for: norms and deviations of a tensor, gates, picking along axes that stay."""

from __future__ import annotations

from weightaug._tracing.calls import Call, rule
from weightaug._tracing.dims import expand, fix, leaves, size_of, unify
from weightaug._tracing.rules import pieces, reduced
from weightaug._tracing.values import Value, combine, elementwise, freeze_scales, mix_over, point

__all__: list[str] = []


@rule("linalg_vector_norm", "norm")
def _norm(call: Call) -> Value:
    return reduced(call, "positive")


@rule("var", "std", "logsumexp")
def _deviation(call: Call) -> Value:
    return reduced(call, "one")


@rule("cumsum", "flip", "roll")
def _ordered(call: Call) -> Value:
    """What depends on the order along some axes; of other axes it is linear."""
    value = call.value("self")
    # torch.roll without dims rolls the flattened tensor.
    over = call.axes("dim" if call.name == "cumsum" else "dims", value)
    mix_over(value, over)
    for a in over:
        fix(value.axes[a], call.name)
    return Value(value.axes)


@rule("glu")
def _glu(call: Call) -> Value:
    value = call.value("self")
    along = call.axis("dim", value)
    half = value.shape[along] // 2
    content, gate = pieces(value, along, [half, half])
    return combine([content, elementwise(gate, "one", "sigmoid")], "glu", multiplied=1)


@rule("prelu")
def _prelu(call: Call) -> Value:
    """Slopes follow the permutation of their channels; they take no factor, and only positive ones pass."""
    value, slopes = call.value("self"), call.value("weight")
    axes = elementwise(value, "positive", "leaky_relu").axes
    if size_of(slopes.axes[-1]) > 1:
        freeze_scales(slopes, "prelu")
        channel = 1 if len(axes) > 1 else 0
        # The same positions, not the same values: factors are those of the axis alone.
        axis, own = unify(axes[channel], slopes.axes[-1], "prelu")
        if any(term.dim.fixed for term in leaves(own)):
            fix(axis, "prelu")
        point(axis)
        axes[channel] = expand(axis)
    return Value(axes)


@rule("lerp")
def _lerp(call: Call) -> Value:
    weight = call.args["weight"]
    if isinstance(weight, Value):
        raise call.refusal("a weight for each position is not followed; write a + w * (b - a)")
    return combine([call.value("self"), call.value("end")], "lerp")


@rule("index_select")
def _index_select(call: Call) -> Value:
    index = call.value("index")  # one number picks an axis of one position
    return _picked(call, call.axis("dim", call.value("self")), index if index.axes else Value([[]]))


@rule("index")
def _index(call: Call) -> Value:
    """One tensor of positions along one axis."""
    given = [(a, index) for a, index in enumerate(call.args["indices"]) if index is not None]
    if len(given) != 1:
        raise call.refusal("picking positions along several axes at once is not followed")
    ((along, index),) = given
    picked = call.shape[along : along + len(index.axes)]
    if index.is_fixed and tuple(picked) != index.shape:  # a mask keeps an unknown number of positions
        raise call.refusal("picking positions by a mask is not followed")
    return _picked(call, along, index)


def _picked(call: Call, along: int, index: Value) -> Value:
    """Positions along an axis, which stay where they are."""
    if not index.is_fixed:
        raise call.refusal("picking positions that a symmetry moves is not followed")
    value = call.value("self")
    fix(value.axes[along], call.name)
    axes = value.axes
    return Value([*axes[:along], *index.axes, *axes[along + 1 :]])
