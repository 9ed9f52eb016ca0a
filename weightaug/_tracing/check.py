"""What was derived, held against the module itself: a random symmetry in double precision."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from weightaug._maps import turned
from weightaug._tracing.evaluation import arguments
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act

__all__ = ["check_same", "check_symmetries", "random_symmetry"]

_EXACT, _ROUNDED = 1e-9, 1e-5


def random_symmetry(architecture: Architecture, generator: torch.Generator) -> GroupElement:
    """A permutation of every space, factors of 1/1.5 to 1.5 and signs where they pass, and orthogonal maps."""
    permutation: list[Tensor | None] = []
    scale: list[Tensor | None] = []
    maps: list[Tensor | None] = []
    for s, space in enumerate(architecture.hidden):
        copies = architecture.outer_sizes[s]
        shape = (space.size,) if copies is None else (copies, space.size)
        draw = torch.rand(shape, generator=generator, dtype=torch.float64)
        permutation.append(draw.argsort(-1) if s in architecture.movers else None)
        assert space.activation is not None
        factor = None
        if space.activation.positively_homogeneous:
            factor = 1.5 ** torch.empty_like(draw).uniform_(-1, 1, generator=generator)
        if space.activation.odd:
            signs = 1.0 - 2.0 * torch.randint(2, shape, generator=generator).to(torch.float64)
            factor = signs if factor is None else factor * signs
        scale.append(factor)
        if space.maps == "rotary":
            angles = draw[..., : space.size // 2] * math.tau
            size = 1.5 ** torch.empty_like(angles).uniform_(-1, 1, generator=generator)
            maps.append(turned(size * angles.cos(), size * angles.sin()))
        elif space.linear:
            square = torch.randn((*shape, space.size), generator=generator, dtype=torch.float64)
            maps.append(torch.linalg.qr(square).Q)
        else:
            maps.append(None)
    return GroupElement.of(architecture, permutation=tuple(permutation), scale=tuple(scale), maps=tuple(maps))


def check_symmetries(module: nn.Module, architecture: Architecture, example_input: Any, *, rounds: bool) -> None:
    """Compares a module with itself after a random symmetry.

    Args:
        module: The module.
        architecture: What was derived from it.
        example_input: What it takes.
        rounds: Whether it converts to single precision by itself, as some norms do, whatever its weights are.

    Raises:
        ValueError: If it computes something else.
    """
    exact = copy.deepcopy(module).eval().to(torch.float64)
    args, kwargs = pytree.tree_map(_double, arguments(example_input))
    state = exact.state_dict()
    tensors = tuple([state[spec.name] for spec in architecture.tensors])
    element = WeightSpaceElement(architecture, tensors, ())
    moved = act(element, random_symmetry(architecture, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        try:
            expected = exact(*args, **kwargs)
        except RuntimeError as error:
            raise ValueError(
                f"{type(module).__name__} does not run in double precision, in which its symmetries are checked: "
                f"{str(error).splitlines()[0]}; make its tensors in the dtype of its input (x.new_zeros(...), "
                "dtype=x.dtype), or leave the check out with check=False"
            ) from error
        changed = dict(zip([s.name for s in architecture.tensors], moved.weights, strict=True))
        got = torch.func.functional_call(exact, changed, args, kwargs)
    gap = _difference(expected, got)
    if not gap <= (_ROUNDED if rounds else _EXACT):
        raise ValueError(
            f"{type(module).__name__}: the symmetries that were found change what it computes (relative difference "
            f"{gap:.3g}); please report this module. Nothing can be derived from it; declare the architecture by "
            "hand, or check that the module gives the same result twice in eval mode"
        )


def check_same(module: nn.Module, other: nn.Module, example_input: Any) -> None:
    """Compares two modules in double precision.

    Raises:
        ValueError: If they compute something else.
    """
    args, kwargs = pytree.tree_map(_double, arguments(example_input))
    with torch.no_grad():
        gap = _difference(module(*args, **kwargs), other(*args, **kwargs))
    if not gap <= _ROUNDED:
        raise ValueError(
            f"{type(module).__name__}: without its gains it would compute something else (relative difference "
            f"{gap:.3g}); please report this module, or check that it gives the same result twice in eval mode"
        )


def _difference(expected: Any, got: Any) -> float:
    """The largest relative difference of two results."""
    gaps = [0.0]
    for one, other in zip(pytree.tree_leaves(expected), pytree.tree_leaves(got), strict=True):
        if isinstance(one, Tensor) and one.is_floating_point() and one.numel():
            gap = float((one - other).abs().max() / (1e-12 + one.abs().max()))
            gaps.append(math.inf if math.isnan(gap) else gap)
    return max(gaps)


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
