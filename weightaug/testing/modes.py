"""Laws about what surrounds a call: the memory that tensors lie in, and the modes that torch is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.testing.asserts import assert_close, assert_equal
from weightaug.transforms.base import Transform

__all__ = ["MODES", "law_memory", "law_modes"]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    # Networks lie on the CPU: whatever is made on the default device instead cannot be combined with them.
    "another default device": lambda: torch.device("meta"),
    "default dtype float64": lambda: _default_dtype(torch.float64),
    "default dtype bfloat16": lambda: _default_dtype(torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic algorithms": _deterministic,
}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def law_modes(transform: Transform, element: WeightSpaceElement, seed: int = 0) -> None:
    """Asserts that the mode around a call does not change its result.

    Args:
        transform: What is tested.
        element: Networks; those of float64 are also tested in float32, which is what autocast changes.
        seed: Seed of the generators.

    Raises:
        AssertionError: If a mode changes the result, or the call fails in it; the message names the mode.
    """
    for networks in (element, element.to(torch.float32)):
        expected = transform(networks, generator=_generator(seed))
        params = transform.sample(networks, generator=_generator(seed))
        for name, mode in MODES.items():
            try:
                with mode():
                    result = transform(networks, generator=_generator(seed))
                    replayed = transform.apply(networks, params)
            except Exception as error:
                raise AssertionError(f"modes: under {name}: {type(error).__name__}: {error}") from error
            assert_equal(result, expected, f"modes: {name} changes the result")
            assert_equal(replayed, expected, f"modes: {name} changes what apply does")
    half = element.to(torch.bfloat16)
    moved = transform.apply(half, transform.sample(element, generator=_generator(seed)))
    for (name, _), tensor in zip(half.named_tensors(), moved.tensors(), strict=True):
        assert tensor.dtype == torch.bfloat16, (
            f"modes: parameters drawn for {element.dtype} make {name} of bfloat16 networks {tensor.dtype}"
        )


def law_memory(transform: Transform, element: WeightSpaceElement, seed: int = 0) -> None:
    """Asserts that the memory in which the tensors lie does not change the result, and that it is not written to.

    Args:
        transform: What is tested.
        element: Networks.
        seed: Seed of the generators.

    Raises:
        AssertionError: If a form of memory changes the result or is written to, or one network (batch shape ``()``)
            fails; the message says which.
    """
    expected = transform(element, generator=_generator(seed))
    for name, form in _FORMS.items():
        _same(transform, form(element), expected, seed, name)
    if not element.batch_shape or 0 in element.batch_shape:
        return
    first = element[(0,) * len(element.batch_shape)]
    expanded = first.map(lambda t: t.expand(3, *t.shape))
    copied = expanded.map(lambda t: t.contiguous())
    _same(transform, expanded, transform(copied, generator=_generator(seed)), seed, "expanded memory")
    try:
        plain = transform(first, generator=_generator(seed))
    except ValueError:
        if transform.mixes:  # one network has no partner in its batch
            return
        raise
    _same(transform, element.map(lambda t: t[(0,) * len(element.batch_shape)]), plain, seed, "one network, a view")


def _same(transform: Transform, form: WeightSpaceElement, expected: WeightSpaceElement, seed: int, name: str) -> None:
    before, versions = form.clone(), [t._version for t in form.tensors()]
    try:
        result = transform(form, generator=_generator(seed))
    except Exception as error:
        raise AssertionError(f"memory: {name}: {type(error).__name__}: {error}") from error
    assert_close(result.detach(), expected.detach(), f"memory: {name} changes the result")
    assert_equal(form.detach(), before.detach(), f"memory: {name} is written to")
    assert [t._version for t in form.tensors()] == versions, f"memory: {name} is written to, with the same values"


def _strided(element: WeightSpaceElement) -> WeightSpaceElement:
    return element.map(lambda t: torch.stack([t, t + 1], dim=-1)[..., 0])


def _in_one_vector(element: WeightSpaceElement) -> WeightSpaceElement:
    return WeightSpaceElement.unflatten(element.architecture, element.flatten())


def _that_require_gradients(element: WeightSpaceElement) -> WeightSpaceElement:
    def leaf(t: Tensor) -> Tensor:
        return t.detach().clone().requires_grad_()

    return element.map(leaf)


_FORMS: dict[str, Callable[[WeightSpaceElement], WeightSpaceElement]] = {
    "strided memory": _strided,
    "views of one vector": _in_one_vector,
    "tensors that require gradients": _that_require_gradients,
}
