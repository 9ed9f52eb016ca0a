"""Hypothesis strategies for activations, architectures and networks: all of the suite that needs hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weightaug.architecture import Activation, Architecture, Layer, Space
from weightaug.element import WeightSpaceElement
from weightaug.testing.networks import random_element

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ModuleNotFoundError(
        "the strategies of weightaug.testing need hypothesis: pip install 'weightaug[testing]'", name="hypothesis"
    ) from error

__all__ = ["activations", "architectures", "elements"]


def activations(symmetry: str | None = None) -> st.SearchStrategy[Activation]:
    """Known activations with several omegas.

    Args:
        symmetry: Only those that allow ``"sign"``, ``"phase"`` or ``"scale"``; None for all.
    """
    names = [n for n in Activation.known() if symmetry is None or symmetry in Activation(n).symmetries]
    # omega = 30 is the INR convention of the field; the others catch a factor that is wrong by omega.
    omegas = st.sampled_from([1.0, 30.0, 5.5, 0.7])
    return st.builds(Activation, st.sampled_from(names), omegas)


@st.composite
def architectures(
    draw: st.DrawFn,
    *,
    symmetry: str | None = None,
    inputs: Sequence[int] = (1, 2, 3, 4),
    hidden: tuple[int, int] = (1, 4),
    max_width: int = 6,
    bias: bool | None = None,
    residual: bool = True,
) -> Architecture:
    """MLPs with mixed activations, and residual networks.

    Args:
        draw: Filled in by hypothesis.
        symmetry: At least one hidden space allows ``"sign"``, ``"phase"`` or ``"scale"``; None for any.
        inputs: Numbers of inputs to choose from.
        hidden: Fewest and most hidden spaces.
        max_width: Largest number of neurons in a hidden space.
        bias: Whether layers have biases; None draws it, layer by layer.
        residual: Also draw networks where several layers read and write one space.
    """
    depth = draw(st.integers(*hidden))
    widths = draw(st.lists(st.integers(1, max_width), min_size=depth, max_size=depth))
    special = draw(st.integers(0, depth - 1)) if symmetry else -1
    acts = [draw(activations(symmetry if i == special else None)) for i in range(depth)]
    sizes = [draw(st.sampled_from(list(inputs))), *widths, draw(st.integers(1, 3))]
    names = ["input", *(f"hidden{i + 1}" for i in range(depth)), "output"]
    spaces = [Space(n, s, a) for n, s, a in zip(names, sizes, [None, *acts, None], strict=True)]
    needs_bias = symmetry == "phase"
    layers = []
    for i in range(depth + 1):
        has_bias = True if bias or (needs_bias and i == special) else draw(st.booleans()) if bias is None else False
        layers.append(Layer(f"layer{i}", names[i], names[i + 1], bias=has_bias))
    if residual and depth > 1 and draw(st.booleans()):
        has_bias = draw(st.booleans()) if bias is None else bias
        layers.append(Layer("skip", names[1], names[-1], bias=has_bias))
        layers.append(Layer("skip_in", names[0], names[-2], bias=has_bias))
    return Architecture(tuple(spaces), tuple(layers), draw(st.sampled_from([0.0, 0.5])))


@st.composite
def elements(
    draw: st.DrawFn,
    architecture: st.SearchStrategy[Architecture] | None = None,
    *,
    batch_shapes: Sequence[tuple[int, ...]] = ((), (1,), (3,), (0,), (2, 2)),
    dtype: torch.dtype = torch.float64,
) -> WeightSpaceElement:
    """Random networks.

    Args:
        draw: Filled in by hypothesis.
        architecture: Strategy for the architecture; None for any.
        batch_shapes: Batch shapes to choose from.
        dtype: Dtype of the parameters.
    """
    arch = draw(architecture if architecture is not None else architectures())
    return random_element(
        arch, draw(st.sampled_from(list(batch_shapes))), seed=draw(st.integers(0, 2**16)), dtype=dtype
    )
