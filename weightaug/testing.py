"""A symmetry-correctness suite: hypothesis strategies, and the laws that every transform obeys.

Hold a transform of your own to the contract in one line::

    check_transform(MyTransform(), random_element(Architecture.siren((2, 16, 16, 1)), (4,)))

Function preservation is tested by evaluating the networks, never against a formula. Needs hypothesis
(``pip install weightaug[testing]``) for the strategies only when this module is imported.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

import weightaug
from weightaug.architecture import Activation, Architecture, Layer, Space
from weightaug.element import WeightSpaceElement
from weightaug.transforms.base import Preserves, Transform, slice_params

__all__ = [
    "activations",
    "architectures",
    "assert_close",
    "assert_equal",
    "assert_same_function",
    "check_transform",
    "elements",
    "random_element",
    "sample_points",
]


# -- networks --------------------------------------------------------------------------------------------


def random_element(
    architecture: Architecture,
    batch_shape: Sequence[int] = (),
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> WeightSpaceElement:
    """Random networks whose signals keep their size from layer to layer, whatever omega and depth.

    Args:
        architecture: Any architecture.
        batch_shape: Shape of the batch.
        seed: The same seed gives the same networks.
        dtype: Dtype of the parameters.
    """
    rng = np.random.default_rng(seed)
    weights, biases = [], []
    for i in range(len(architecture.layers)):
        shape = architecture.weight_shape(i)
        written = architecture.spaces[architecture.wiring.writes[i]].activation
        omega = 1.0 if written is None else written.omega
        bias_shape = architecture.bias_shape(i)
        spread = 1.5 / (omega * math.sqrt(math.prod(shape[1:])))
        weights.append(torch.as_tensor(rng.standard_normal((*batch_shape, *shape)) * spread, dtype=dtype))
        biases.append(
            None
            if bias_shape is None
            else torch.as_tensor(rng.standard_normal((*batch_shape, *bias_shape)) * 0.5 / omega, dtype=dtype)
        )
    return WeightSpaceElement(architecture, tuple(weights), tuple(biases))


def sample_points(architecture: Architecture, count: int = 16, *, seed: int = 0) -> Tensor:
    """Random coordinates ``(count, inputs)`` in [-1, 1], in double precision."""
    rng = np.random.default_rng(seed)
    return torch.as_tensor(rng.uniform(-1, 1, (count, architecture.inputs[0].size)))


# -- hypothesis strategies -------------------------------------------------------------------------------


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


# -- assertions ------------------------------------------------------------------------------------------


def assert_equal(a: Any, b: Any, message: str = "") -> None:
    """Asserts that two pytrees of tensors are equal bit for bit (NaN equals NaN)."""
    _compare(a, b, message, lambda x, y: x.dtype == y.dtype and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)))


def assert_close(a: Any, b: Any, message: str = "", *, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """Asserts that two pytrees of tensors are equal up to rounding."""
    _compare(a, b, message, lambda x, y: x.dtype == y.dtype and torch.allclose(x, y, rtol=rtol, atol=atol))


def _compare(a: Any, b: Any, message: str, same: Callable[[Tensor, Tensor], bool]) -> None:
    flat_a, tree_a = pytree.tree_flatten(a)
    flat_b, tree_b = pytree.tree_flatten(b)
    assert tree_a == tree_b, f"{message}: different structure: {tree_a} and {tree_b}"
    for i, (x, y) in enumerate(zip(flat_a, flat_b, strict=True)):
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            assert x.shape == y.shape, f"{message}: tensor {i} has shape {tuple(x.shape)} and {tuple(y.shape)}"
            gap = (x - y).abs().max() if x.is_floating_point() and x.numel() else ""
            assert same(x, y), f"{message}: tensor {i} differs (largest difference {gap})"
        else:
            assert x == y, f"{message}: entry {i} differs: {x!r} and {y!r}"


def assert_same_function(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    x: Tensor | None = None,
    *,
    tolerance: float = 1e-8,
    message: str = "the networks compute different functions",
) -> None:
    """Asserts that two batches of networks compute the same functions, by evaluating them.

    Args:
        a: Networks.
        b: Networks of the same batch shape.
        x: Coordinates, ``(n, in)``; None for random ones in [-1, 1].
        tolerance: Largest difference, relative to 1 + the largest output.
        message: What the AssertionError begins with.
    """
    x = sample_points(a.architecture).to(a.dtype) if x is None else x
    _close_outputs(a(x), b(x), tolerance, message)


def _close_outputs(ours: Tensor, theirs: Tensor, tolerance: float, message: str) -> None:
    if ours.numel() == 0:
        return
    gap = (ours - theirs).abs().max() / (1 + theirs.abs().max())
    assert gap <= tolerance, f"{message}: outputs differ by {float(gap):.3g} (relative), tolerance {tolerance:.3g}"


# -- the laws --------------------------------------------------------------------------------------------


def check_transform(
    transform: Transform,
    element: WeightSpaceElement,
    targets: Sequence[Tensor] = (),
    *,
    seed: int = 0,
    graph: bool = True,
    tolerance: float = 1e-8,
) -> None:
    """Holds a transform to the laws of weightaug, on given networks.

    Tested: the caller's tensors stay untouched; a call equals sample and apply with the same generator; no
    global random state is touched when a generator is given, and torch's global generator alone is used
    when none is; shape, dtype and architecture stay; parameters lead with the batch; slicing commutes with
    applying, elements do not influence each other, and vmap agrees (unless it mixes); targets keep their
    number; gradients flow; pickle, copy, repr and asdict give an equal transform; what ``preserves``
    promises holds when the networks are evaluated; with ``graph``, ``apply`` compiles into one graph and
    never looks at values (FakeTensorMode).

    Args:
        transform: What is tested.
        element: Networks, best in double precision. Mixing transforms need a batch.
        targets: Floating targets with the same leading batch dimensions.
        seed: Seed of the generators.
        graph: Also test compilation and FakeTensorMode, which takes about a second.
        tolerance: For function preservation, relative to the size of the outputs.

    Raises:
        AssertionError: If a law does not hold; the message names it.
    """
    targets = tuple(targets)
    given = (element, targets)
    before = pytree.tree_map(Tensor.clone, given)
    versions = [t._version for t in pytree.tree_leaves(given)]

    _law_randomness(transform, element, targets, seed)
    _law_untouched(given, before, versions)
    params = transform.sample(element, generator=_generator(seed))
    result = transform.apply(element, params)
    _law_form(element, params, result)
    _law_replay(transform, element, targets, params, result, seed)
    if not transform.mixes:
        _law_elementwise(transform, element, params, result, seed)
    _law_gradients(transform, element, params)
    _law_configuration(transform)
    _law_preserves(transform, element, params, result, tolerance)
    if graph:
        _law_graph(transform, element, params, result)
    _law_untouched(given, before, versions)


def _law_untouched(given: Any, before: Any, versions: list[int]) -> None:
    assert_equal(given, before, "inputs untouched: the caller's tensors changed")
    now = [t._version for t in pytree.tree_leaves(given)]
    assert now == versions, "inputs untouched: written in place, with the same values"


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _law_randomness(transform: Transform, element: WeightSpaceElement, targets: tuple[Tensor, ...], seed: int) -> None:
    states = torch.get_rng_state(), random.getstate(), pickle.dumps(np.random.get_state())  # noqa: NPY002
    transform(element, *targets, generator=_generator(seed))
    assert torch.equal(torch.get_rng_state(), states[0]), (
        "randomness: a generator was given, but torch's global one drew"
    )
    torch.manual_seed(seed)
    first = transform(element)
    torch.manual_seed(seed)
    assert_equal(transform(element), first, "randomness: the same global seed gave different results")
    torch.set_rng_state(states[0])
    assert random.getstate() == states[1], "randomness: Python's random module drew"
    assert pickle.dumps(np.random.get_state()) == states[2], "randomness: NumPy's global generator drew"  # noqa: NPY002


def _law_form(element: WeightSpaceElement, params: Any, result: WeightSpaceElement) -> None:
    assert isinstance(result, WeightSpaceElement), f"form: apply returned {type(result).__name__}"
    assert result.architecture == element.architecture, "form: the architecture changed"
    for (name, old), new in zip(element.named_tensors(), result.tensors(), strict=True):
        assert new.shape == old.shape, f"form: {name} has shape {tuple(new.shape)}, expected {tuple(old.shape)}"
        assert new.dtype == old.dtype, f"form: {name} is {new.dtype}, expected {old.dtype}"
        assert new.device == old.device, f"form: {name} is on {new.device}, expected {old.device}"
        assert bool(torch.isfinite(new).all()), f"form: {name} is not finite"
    batch = element.batch_shape
    for leaf in pytree.tree_leaves(params):
        assert isinstance(leaf, Tensor), f"params: expected tensors only, got {type(leaf).__name__}"
        assert leaf.shape[: len(batch)] == batch, (
            f"params: a tensor of shape {tuple(leaf.shape)} does not lead with the batch shape {tuple(batch)}"
        )


def _law_replay(
    transform: Transform,
    element: WeightSpaceElement,
    targets: tuple[Tensor, ...],
    params: Any,
    result: WeightSpaceElement,
    seed: int,
) -> None:
    called = transform(element, generator=_generator(seed))
    assert_equal(called, result, "replay: a call differs from sample and apply with the same generator")
    assert_equal(transform.apply(element, params), result, "replay: apply is not deterministic")
    stepped, _ = transform.sample_apply(element, generator=_generator(seed))
    assert_equal(stepped, result, "replay: sample_apply differs from sample and apply")
    if targets:
        together = transform(element, *targets, generator=_generator(seed))
        assert isinstance(together, tuple), "targets: a call with targets must return a tuple"
        assert len(together) == 1 + len(targets), f"targets: {len(targets)} went in, {len(together) - 1} came out"
        assert_equal(together[0], result, "targets: they change what happens to the networks")
        assert_equal(list(together[1:]), list(transform.apply_targets(targets, params)), "targets: replay differs")


def _law_elementwise(
    transform: Transform, element: WeightSpaceElement, params: Any, result: WeightSpaceElement, seed: int
) -> None:
    batch = element.batch_shape
    if not batch or batch[0] == 0:
        return
    last = batch[0] - 1
    one = transform.apply(element[last], slice_params(params, last))
    assert_close(one, result[last], "slicing: apply on a slice differs from the slice of apply")
    # Other networks in the rest of the batch must not matter, neither to the draw nor to what it does.
    other = element.map(lambda t: torch.cat([t[:last] * 3 + 1, t[last:]]))
    again = transform.apply(other, transform.sample(other, generator=_generator(seed)))
    assert_close(again[last], result[last], "independence: an element of the batch influences another")
    mapped = torch.func.vmap(transform.apply)(element, params)
    assert_close(mapped, result, "vmap: differs from the batched call")


def _law_gradients(transform: Transform, element: WeightSpaceElement, params: Any) -> None:
    leaves = element.map(lambda t: t.detach().clone().requires_grad_())
    out = transform.apply(leaves, params)
    total = torch.stack([t.square().sum() for t in out.tensors()]).sum()
    grads = torch.autograd.grad(total, leaves.tensors(), allow_unused=True)
    for (name, _), grad in zip(leaves.named_tensors(), grads, strict=True):
        assert grad is not None, f"gradients: none reaches {name}"
        assert bool(torch.isfinite(grad).all()), f"gradients: that of {name} is not finite"


def _law_configuration(transform: Transform) -> None:
    assert pickle.loads(pickle.dumps(transform)) == transform, "configuration: pickle gives another transform"
    assert copy.deepcopy(transform) == transform, "configuration: a copy is another transform"
    assert hash(copy.deepcopy(transform)) == hash(transform), "configuration: equal transforms, different hashes"
    namespace = {**vars(weightaug), type(transform).__name__: type(transform)}
    assert eval(repr(transform), namespace) == transform, "configuration: repr evaluates to another transform"
    assert Transform.fromdict(transform.asdict()) == transform, "configuration: asdict round trip"


def _law_preserves(
    transform: Transform, element: WeightSpaceElement, params: Any, result: WeightSpaceElement, tolerance: float
) -> None:
    if not all(s.activation is not None and s.activation.is_known for s in element.architecture.hidden):
        return
    x = sample_points(element.architecture).to(element.dtype)
    if transform.preserves is Preserves.FUNCTION:
        assert_same_function(element, result, x, tolerance=tolerance, message="preserves the function")
    elif transform.preserves is Preserves.FUNCTION_UP_TO_INPUT_MAP and hasattr(params, "map_points"):
        moved = params.map_points(x)
        expected = element(moved, per_network=moved.dim() > 2)
        if params.value_factor is not None:
            expected = expected * params.value_factor[..., None, None]
        _close_outputs(result(x), expected, tolerance, "preserves the function up to an input map")


def _law_graph(transform: Transform, element: WeightSpaceElement, params: Any, result: WeightSpaceElement) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch._dynamo.reset()
    compiled = torch.compile(transform.apply, fullgraph=True, backend="eager")
    assert_close(compiled(element, params), result, "compile: the compiled apply differs")
    torch._dynamo.reset()
    with FakeTensorMode() as mode:
        fake = pytree.tree_map(mode.from_tensor, (element, params))
        transform.apply(*fake)  # raises if a value would have to come to the host
