"""Checks of the arguments of public functions: their form, and their values where these can be read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from weightaug._differences import difference
from weightaug._fields import as_number
from weightaug._maps import turned
from weightaug.architecture import Architecture, Space
from weightaug.element import WeightSpaceElement

__all__ = [
    "check_batch",
    "check_element",
    "check_factors",
    "check_finite",
    "check_form",
    "check_generator",
    "check_maps",
    "check_number",
    "check_permutation",
    "check_range",
    "check_shifts",
    "holds",
    "require_tensor",
]


def holds(condition: Tensor) -> bool:
    """Whether a condition holds everywhere; True where values cannot be read: compilation, vmap, fake tensors."""
    if torch.compiler.is_compiling():
        return True
    try:
        return bool(condition.all())
    except RuntimeError:
        return True


def require_tensor(name: str, value: Any) -> Tensor:
    """The value, if it is a tensor.

    Raises:
        TypeError: If not; says how to make one.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}; write torch.as_tensor(...)")
    return value


def check_element(name: str, value: Any) -> None:
    """Raises a TypeError if a value is no element."""
    if not isinstance(value, WeightSpaceElement):
        raise TypeError(
            f"{name}: expected a WeightSpaceElement, got {type(value).__name__}; make one with weightaug.adapters "
            "(from_state_dicts, from_dws, ...)"
        )


def check_generator(generator: Any) -> None:
    """Raises a TypeError if a value is neither a generator nor None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator or None, got {generator!r}; for a seed write "
            "generator=torch.Generator().manual_seed(seed)"
        )


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises a TypeError or ValueError if a value is no finite number in [low, high]."""
    if not (low <= as_number(value, name) <= high and math.isfinite(value)):
        raise ValueError(f"{name}: expected a finite number in [{low:g}, {high:g}], got {value}")


def check_batch(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raises a TypeError or ValueError if a value is no floating tensor of one shape, batch first."""
    tensor = require_tensor(name, value)
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a floating tensor, got {tensor.dtype}; convert with .float()")
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(
            f"{name}: expected shape {tuple(shape)}, with the batch dimensions of the networks first, got "
            f"{tuple(tensor.shape)}; to use the same for all networks, expand it"
        )


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises a ValueError if a value is NaN or infinite."""
    if not holds(tensor.isfinite()):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def check_range(name: str, tensor: Tensor, low: float, high: float) -> None:
    """Raises a ValueError if a value is NaN or outside of [low, high]."""
    if not holds((tensor >= low) & (tensor <= high)):
        raise ValueError(f"{name}: expected numbers in [{low:g}, {high:g}], got {_summary(tensor)}")


def check_form(name: str, value: Any, like: WeightSpaceElement) -> None:
    """Raises a TypeError or ValueError if a value is no element with the architecture and batch of another."""
    check_element(name, value)
    if value.architecture != like.architecture:
        raise ValueError(
            f"{name}: expected the architecture of the networks, got another one: they differ in "
            f"{difference(like.architecture, value.architecture)}"
        )
    for (tensor, expected), own in zip(like.named_tensors(), value.tensors(), strict=True):
        if own.shape != expected.shape:
            raise ValueError(
                f"{name}, {tensor}: expected shape {tuple(expected.shape)}, one for each network, got "
                f"{tuple(own.shape)}"
            )


# -- parts of a group element ----------------------------------------------------------------------------


def _neurons(part: str, space: Space, value: Any) -> Tensor:
    tensor = require_tensor(f"{part} of space {space.name!r}", value)
    if tensor.dim() == 0 or tensor.shape[-1] != space.size:
        raise ValueError(
            f"{part} of space {space.name!r}: expected shape (*batch, {space.size}), one entry for each neuron, got "
            f"{tuple(tensor.shape)}"
        )
    return tensor


def check_permutation(space: Space, value: Any) -> None:
    """Raises a TypeError or ValueError if a value is no batch of permutations of the neurons of a space."""
    tensor = _neurons("permutation", space, value)
    if "permutation" not in space.symmetries:
        raise ValueError(
            f"permutation of space {space.name!r}: its neurons are not interchangeable, as rotary positions turn each "
            "pair at a frequency of its own; use None there"
        )
    if tensor.dtype != torch.int64:
        raise TypeError(
            f"permutation of space {space.name!r}: expected int64, got {tensor.dtype}; convert with .long()"
        )
    if not holds(tensor.sort(-1).values == torch.arange(space.size, device=tensor.device)):
        raise ValueError(
            f"permutation of space {space.name!r}: expected every number from 0 to {space.size - 1} once in each row; "
            "some row is no permutation; torch.randperm and Tensor.argsort make some"
        )


def check_factors(space: Space, value: Any) -> None:
    """Raises a TypeError or ValueError if a value is no batch of factors that the activation of a space allows."""
    activation = space.activation
    assert activation is not None
    name, signed = activation.name, activation.odd or activation.even
    if not (signed or activation.positively_homogeneous):
        raise ValueError(
            f"space {space.name!r}: a factor needs an odd, even or positively homogeneous activation, got "
            f"{name!r}, whose symmetries are {activation.symmetries}; use None there"
        )
    tensor = _neurons("factor", space, value)
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"factor of space {space.name!r}: expected the dtype of the weights, got {tensor.dtype}")
    if not activation.positively_homogeneous:
        fits, allowed = tensor.abs() == 1, "-1 and 1"
    else:
        size = tensor.abs()
        fits, allowed = (size > 0) & size.isfinite() & size.reciprocal().isfinite(), "finite numbers other than 0"
        if not signed:
            fits, allowed = fits & (tensor > 0), "finite numbers above 0"
    if not holds(fits):
        raise ValueError(
            f"factor of space {space.name!r}: its activation {name!r} keeps the function for {allowed} only, got "
            f"{_summary(tensor)}"
        )


def check_shifts(architecture: Architecture, slot: int, value: Any) -> None:
    """Raises a TypeError or ValueError if a value is no batch of half periods that a hidden space can take."""
    space = architecture.hidden[slot]
    activation = space.activation
    assert activation is not None
    if activation.half_period is None:
        raise ValueError(
            f"space {space.name!r}: a phase shift needs a sine or cosine activation, got {activation.name!r}, whose "
            f"symmetries are {activation.symmetries}; use None there"
        )
    if architecture.wiring.bias_carriers[slot] is None:
        raise ValueError(
            f"space {space.name!r}: a phase shift needs a bias to move, and no layer that writes it has "
            "one; give a layer bias=True (with zeros), or leave this space out"
        )
    tensor = _neurons("shift", space, value)
    if tensor.dtype != torch.int64:
        raise TypeError(
            f"shift of space {space.name!r}: expected whole half periods as int64, got {tensor.dtype}; other shifts "
            "change the function"
        )


def check_maps(space: Space, maps: Tensor) -> None:
    """Raises a ValueError if maps ``(*batch, size, size)`` are not of the group that keeps the function."""
    if space.maps is None:
        raise ValueError(
            f"space {space.name!r}: an invertible map needs a linear space, got activation "
            f"{space.activation and space.activation.name!r}, whose symmetries are {space.symmetries}"
        )
    if space.maps == "invertible":
        return
    wide = maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
    near = 64 * torch.finfo(maps.dtype).eps * max(1, maps.shape[-1]) ** 0.5
    if space.maps == "orthogonal":
        eye = torch.eye(maps.shape[-1], dtype=wide.dtype, device=wide.device)
        fits = (wide @ wide.mT - eye).abs() <= near
        expected = "orthogonal maps, which keep the norm of the stream"
    else:
        half = maps.shape[-1] // 2
        first = wide[..., :half, :]
        like = turned(first[..., :half].diagonal(dim1=-2, dim2=-1), -first[..., half:].diagonal(dim1=-2, dim2=-1))
        fits = (wide - like).abs() <= near * wide.abs().amax((-1, -2), keepdim=True)
        expected = "maps that turn neurons i and i + size / 2 together, which commute with rotary positions"
    if not holds(fits):
        raise ValueError(f"maps of space {space.name!r}: expected {expected}; others change the function")


def _summary(tensor: Tensor) -> str:
    if tensor.numel() == 0:
        return "none"
    low, high = (float(t) for t in tensor.detach().double().aminmax())
    return f"numbers from {low:.4g} to {high:.4g}"
