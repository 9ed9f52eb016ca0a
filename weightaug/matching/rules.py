"""Which symmetries a matching uses in each hidden space, and the checks of its input."""

from __future__ import annotations

import numbers
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from weightaug._differences import difference
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = [
    "DECLARED_SYMMETRIES",
    "Rule",
    "Symmetry",
    "check_count",
    "check_finite",
    "check_generator",
    "check_networks",
    "check_pair",
    "declared_names",
    "neighbours",
    "resolve",
    "topological_slots",
]

Symmetry = str | Collection[str]

_NAMES = ("permutation", "sign", "phase", "scale")
DECLARED_SYMMETRIES = ("permutation", "sign", "scale", "maps")


@dataclass(frozen=True)
class Rule:
    """The symmetries in use in one hidden space, besides permutation.

    Attributes:
        sign: "odd" flips rows and columns together, "even" the rows alone, None is no sign.
        half_period: The phase step, or None without phases.
        scale: Whether positive factors are in use.
    """

    sign: Literal["odd", "even"] | None = None
    half_period: float | None = None
    scale: bool = False


def resolve(architecture: Architecture, symmetry: Symmetry) -> tuple[Rule, ...]:
    """One rule per hidden space.

    Args:
        architecture: The architecture.
        symmetry: ``"auto"`` for all that each activation allows, or one or several of ``"permutation"``,
            ``"sign"``, ``"phase"`` and ``"scale"``; permutation is always among them.

    Raises:
        ValueError: If a name is unknown, or no hidden space has the symmetry.
        TypeError: If the symmetry is no name and no collection of names.
    """
    # Asked in every call; what is raised is not kept. A compiled step warns of caches, which it cannot follow.
    if isinstance(symmetry, str) and not torch.compiler.is_compiling():
        return _resolved(architecture, symmetry)
    return _resolve(architecture, symmetry)


def _resolve(architecture: Architecture, symmetry: Symmetry) -> tuple[Rule, ...]:
    if architecture.is_declared:
        raise ValueError(
            "this works on networks that are declared by layers, got one that is declared tensor by tensor; "
            "matching.match(method='weight'), align_to, match_many, distance and canonicalize work on both, "
            "canonicalize_lora on low-rank pairs"
        )
    hidden = architecture.hidden
    auto = symmetry == "auto"
    names = _named(symmetry, _NAMES)
    rules = []
    found = {"permutation"}
    for slot, space in enumerate(hidden):
        act = space.activation
        assert act is not None
        has = set(act.symmetries) & names
        if architecture.wiring.bias_carriers[slot] is None:
            has -= {"phase"}  # nothing could carry the shift
        found |= has
        rules.append(
            Rule(
                sign=None if "sign" not in has else "odd" if act.odd else "even",
                half_period=act.half_period if "phase" in has else None,
                scale="scale" in has,
            )
        )
    missing = sorted(names - found)
    if missing and not auto and hidden:
        spaces = "; ".join(f"{s.name} ({s.activation.name}): {s.activation.symmetries}" for s in hidden if s.activation)
        raise ValueError(
            f"symmetry {missing[0]!r}: no hidden space has it (a phase also needs a bias); the spaces have {spaces}; "
            "use symmetry='auto' for all that exist"
        )
    return tuple(rules)


def _named(symmetry: Symmetry, known: tuple[str, ...], of: str = "") -> set[str]:
    """The symmetries that are asked for, all that are known for ``"auto"``."""
    if not (isinstance(symmetry, Collection) and all(isinstance(name, str) for name in symmetry)):
        raise TypeError(f"symmetry: expected 'auto' or one or several of {known}{of}, got {symmetry!r}")
    names = set(known) if symmetry == "auto" else {symmetry} if isinstance(symmetry, str) else set(symmetry)
    unknown = sorted(names - set(known))
    if unknown or not names:
        got = unknown[0] if unknown else symmetry
        raise ValueError(f"symmetry: expected 'auto' or one or several of {known}{of}, got {got!r}")
    return names


_resolved = lru_cache(maxsize=64)(_resolve)


def declared_names(architecture: Architecture, symmetry: Symmetry, auto: Collection[str]) -> frozenset[str]:
    """The symmetries in use in networks that are declared tensor by tensor; permutation is always among them.

    Args:
        architecture: The architecture.
        symmetry: ``"auto"``, or one or several of ``DECLARED_SYMMETRIES``.
        auto: What ``"auto"`` stands for.

    Raises:
        ValueError: If a name is unknown, or no hidden space has the symmetry.
        TypeError: If the symmetry is no name and no collection of names.
    """
    names = _named(symmetry, DECLARED_SYMMETRIES, " for networks that are declared tensor by tensor")
    has = {name for space in architecture.hidden for name in space.symmetries} | {"permutation"}
    if symmetry == "auto":
        return frozenset(has & set(auto))
    missing = sorted(names - has)
    if missing:
        raise ValueError(
            f"symmetry {missing[0]!r}: no space of this architecture has it; they have {sorted(has)}: see "
            "architecture.describe(); use symmetry='auto' for all that exist"
        )
    return frozenset(names | {"permutation"})


def check_pair(a: WeightSpaceElement, b: WeightSpaceElement, *, verb: str = "match", values: bool = True) -> None:
    """Checks that two elements can be matched.

    Args:
        a: One of them.
        b: The other.
        verb: What cannot be done if they do not fit.
        values: Whether values are checked, too.

    Raises:
        ValueError: If the architectures, batch shapes or devices differ, or a value is NaN or infinite.
        TypeError: If one is no element, or its weights are no floating-point numbers.
    """
    check_networks(a, "a")
    check_networks(b, "b")
    if a.architecture != b.architecture:
        raise ValueError(
            f"cannot {verb} networks of different architectures: a and b differ in "
            f"{difference(a.architecture, b.architecture)}"
        )
    if a.batch_shape != b.batch_shape:
        raise ValueError(
            f"cannot {verb} batches of different shapes: expected {tuple(a.batch_shape)} like a, got "
            f"{tuple(b.batch_shape)} for b; pairs are matched one by one, align_to takes one reference for a batch"
        )
    if a.device != b.device:
        raise ValueError(f"cannot {verb} networks on different devices: a is on {a.device}, b on {b.device}")
    if values:
        check_finite(a, "a")
        check_finite(b, "b")


def check_networks(element: WeightSpaceElement, role: str) -> None:
    """Checks that this is an element of floating-point weights.

    Raises:
        TypeError: If not.
    """
    if not isinstance(element, WeightSpaceElement):
        raise TypeError(f"{role}: expected a WeightSpaceElement, got {type(element).__name__}")
    if not element.dtype.is_floating_point:
        raise TypeError(f"{role}: expected floating-point weights, got {element.dtype}")


def check_count(name: str, value: int, least: int) -> None:
    """Checks a setting that counts something.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value!r}")


def check_generator(generator: torch.Generator | None) -> None:
    """Checks a source of draws that are made on the CPU.

    Raises:
        TypeError: If it is no generator.
        ValueError: If it is one of another device.
    """
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator or None, got {generator!r}; for a seed, torch.Generator()"
            ".manual_seed(seed)"
        )
    if generator.device.type != "cpu":
        raise ValueError(f"generator: expected one on the CPU, where matching draws, got one on {generator.device}")


def check_finite(element: WeightSpaceElement, role: str) -> None:
    """Checks that all values are finite.

    Raises:
        ValueError: If not; the message names the parameter and the first network.
    """
    for name, tensor in element.named_tensors():
        if tensor.sum().isfinite():  # one pass without new tensors; a sum may overflow where no value has
            continue
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            dims = len(element.batch_shape)
            networks = (~finite).flatten(dims).any(-1)
            at = f", first in network {tuple(networks.nonzero()[0].tolist())}" if dims else ""
            raise ValueError(
                f"{role}, {name}: expected finite values, got {int((~finite).sum())} NaN or infinite{at}; drop "
                "those networks, or fit them again"
            )


def topological_slots(architecture: Architecture) -> list[int]:
    """The hidden spaces in an order in which everything that a space reads comes before it."""
    hidden = architecture.wiring.hidden
    return [hidden.index(space) for space in architecture.wiring.order if space in hidden]


def neighbours(architecture: Architecture) -> tuple[tuple[int, ...], ...]:
    """For each hidden space, the hidden spaces that share a layer with it."""
    wiring = architecture.wiring
    result: list[set[int]] = [set() for _ in wiring.hidden]
    for read, write in zip(wiring.read_slots, wiring.write_slots, strict=True):
        if read is not None and write is not None:
            result[read].add(write)
            result[write].add(read)
    return tuple(tuple(sorted(r)) for r in result)
