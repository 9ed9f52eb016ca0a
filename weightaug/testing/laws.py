"""The laws of every transform, and the function that holds a transform to them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import weightaug
from weightaug.element import WeightSpaceElement
from weightaug.testing.asserts import assert_close, assert_close_outputs, assert_equal, assert_same_function
from weightaug.testing.modes import law_memory, law_modes
from weightaug.testing.networks import sample_points
from weightaug.transforms.base import Preserves, Transform, slice_params

__all__ = ["check_transform"]


def check_transform(
    transform: Transform,
    element: WeightSpaceElement,
    targets: Sequence[Tensor] = (),
    *,
    seed: int = 0,
    graph: bool = True,
    modes: bool = True,
    tolerance: float = 1e-8,
) -> None:
    """Holds a transform to the laws of weightaug, on given networks.

    Tested: the caller's tensors, and those that the transform holds, stay untouched; a call equals sample and apply
    with the same generator; no global random state is touched when a generator is given, and torch's global
    generator alone is used when none is; shape, dtype and architecture stay; parameters lead with the batch, and
    every network gets draws of its own; slicing commutes with applying, elements do not influence each other, and
    vmap agrees (unless it mixes); targets keep their number; gradients flow; every setting is a field, and pickle,
    copy, repr and asdict give an equal transform; ``check`` refuses what ``sample`` refuses; what ``preserves``
    promises holds when the networks are evaluated. With ``modes``, the result is the same for expanded, strided and
    shared memory, for tensors that require gradients, and for one network, and under autocast, inference mode,
    another default device or dtype, and deterministic algorithms. With ``graph``, ``apply`` compiles into one graph
    and never looks at values (FakeTensorMode).

    Args:
        transform: What is tested.
        element: Networks, best in double precision. Mixing transforms need a batch.
        targets: Floating targets with the same leading batch dimensions.
        seed: Seed of the generators.
        graph: Also test compilation and FakeTensorMode, which takes about a second.
        modes: Also test the forms of memory and the surrounding modes.
        tolerance: For function preservation, relative to the size of the outputs.

    Raises:
        AssertionError: If a law does not hold; the message begins with its name, and an error that the transform
            raised is its cause.
        ValueError: If the transform's own ``check`` refuses the architecture of the networks.
    """
    transform.check(element.architecture)
    targets = tuple(targets)
    held = tensors_of(transform)
    given = (element, targets, held)
    before = pytree.tree_map(Tensor.clone, given)
    versions = [t._version for t in pytree.tree_leaves(given)]

    with named("configuration"):
        _law_fields(transform)
    with named("check: sample refuses what check accepts"):
        transform.sample(element, generator=_generator(seed))
    with named("randomness"):
        _law_randomness(transform, element, targets, seed)
        _law_untouched(given, before, versions)
    with named("form"):
        params = transform.sample(element, generator=_generator(seed))
        result = transform.apply(element, params)
        _law_form(element, params, result)
    with named("own draws"):
        _law_own_draws(transform, element, seed)
    with named("replay"):
        _law_replay(transform, element, targets, params, result, seed)
    if not transform.mixes:
        with named("slicing"):
            _law_elementwise(transform, element, params, result, seed)
    with named("gradients"):
        _law_gradients(transform, element, params)
    with named("configuration"):
        _law_configuration(transform)
    with named("preserves"):
        _law_preserves(transform, element, params, result, tolerance)
    if modes:
        with named("memory"):
            law_memory(transform, element, seed)
        with named("modes"):
            law_modes(transform, element, seed)
    if graph:
        with named("graph"):
            _law_graph(transform, element, params, result)
    _law_untouched(given, before, versions)


@contextmanager
def named(law: str) -> Iterator[None]:
    """Turns whatever error a transform raises into one that names the law in question."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{law}: {type(error).__name__}: {error}") from error


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors that a transform holds, in the transforms and pools inside it, too."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, WeightSpaceElement):
        return value.tensors()
    if isinstance(value, (tuple, list)):
        return [t for entry in value for t in tensors_of(entry)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [t for field in dataclasses.fields(value) for t in tensors_of(getattr(value, field.name, None))]
    return []


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


def _law_own_draws(transform: Transform, element: WeightSpaceElement, seed: int) -> None:
    """A parameter that changes with the seed, but never within a batch of equal networks, is drawn once for all."""
    count = 8
    if 0 in element.batch_shape:
        return
    one = element[(0,) * len(element.batch_shape)] if element.batch_shape else element
    same = one.map(lambda t: t.expand(count, *t.shape))
    drawn = [pytree.tree_leaves(transform.sample(same, generator=_generator(seed + i))) for i in range(3)]
    for position, leaves in enumerate(zip(*drawn, strict=True)):
        if leaves[0].numel() == 0:
            continue
        constant = all(torch.equal(leaf, leaf[:1].expand_as(leaf)) for leaf in leaves)
        varies = any(not torch.equal(leaf[0], leaves[0][0]) for leaf in leaves[1:])
        assert not (constant and varies), (
            f"own draws: parameter {position} is drawn once for the whole batch of {count} networks; "
            "draw (*element.batch_shape, ...) numbers, one for each network"
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
        with named("targets"):
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
    with named("vmap"):
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


def _law_fields(transform: Transform) -> None:
    kind = type(transform).__name__
    fields = {field.name for field in dataclasses.fields(transform)}
    loose = sorted(set(getattr(transform, "__dict__", {})) - fields)
    assert not loose, (
        f"configuration: the settings {loose} of {kind} are no dataclass fields, so that equality, repr and asdict "
        "do not see them; annotate them in the class and decorate it with @dataclass(frozen=True)"
    )
    assert transform.__dataclass_params__.frozen, f"configuration: {kind} is not frozen; use @dataclass(frozen=True)"  # type: ignore[attr-defined]


def _law_configuration(transform: Transform) -> None:
    with named("configuration: pickle"):
        assert pickle.loads(pickle.dumps(transform)) == transform, "configuration: pickle gives another transform"
    assert copy.deepcopy(transform) == transform, "configuration: a copy is another transform"
    with named("configuration: hash"):
        assert hash(copy.deepcopy(transform)) == hash(transform), "configuration: equal transforms, different hashes"
    if tensors_of(transform):
        return  # a pool or a frame is data, which neither repr nor asdict can hold
    namespace = {**vars(weightaug), type(transform).__name__: type(transform)}
    with named("configuration: repr"):
        assert eval(repr(transform), namespace) == transform, "configuration: repr evaluates to another transform"
    with named("configuration: asdict"):
        assert Transform.fromdict(transform.asdict()) == transform, "configuration: asdict round trip"


def _law_preserves(
    transform: Transform, element: WeightSpaceElement, params: Any, result: WeightSpaceElement, tolerance: float
) -> None:
    if not all(s.activation is not None and s.activation.is_known for s in element.architecture.hidden):
        return
    if element.architecture.is_declared:
        return  # there are no coordinates; compare what the modules compute
    x = sample_points(element.architecture).to(element.dtype)
    if transform.preserves is Preserves.FUNCTION:
        assert_same_function(element, result, x, tolerance=tolerance, message="preserves the function")
    elif transform.preserves is Preserves.FUNCTION_UP_TO_INPUT_MAP and hasattr(params, "map_points"):
        moved = params.map_points(x)
        expected = element(moved, per_network=moved.dim() > 2)
        if params.value_factor is not None:
            expected = expected * params.value_factor[..., None, None]
        assert_close_outputs(result(x), expected, tolerance, "preserves the function up to an input map")


def _law_graph(transform: Transform, element: WeightSpaceElement, params: Any, result: WeightSpaceElement) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch._dynamo.reset()
    with named("compile"):
        compiled = torch.compile(transform.apply, fullgraph=True, backend="eager")(element, params)
    assert_close(compiled, result, "compile: the compiled apply differs")
    torch._dynamo.reset()
    with FakeTensorMode() as mode, named("host sync"):
        fake = pytree.tree_map(mode.from_tensor, (element, params))
        transform.apply(*fake)  # raises if a value would have to come to the host
