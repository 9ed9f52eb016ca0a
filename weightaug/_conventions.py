"""One SIREN convention into another: frequencies, order of coordinates and range of values, without fitting again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from weightaug.architecture import Activation, Architecture
from weightaug.element import WeightSpaceElement

if TYPE_CHECKING:
    from weightaug.fitting.conventions import Convention, ConventionName

__all__ = ["absorb_omega", "convert"]


def absorb_omega(element: WeightSpaceElement, omega: float | Sequence[float | None] = 1.0) -> WeightSpaceElement:
    """Moves the frequencies of the activations into the weights, or back; the function stays.

    ``phi(omega z)`` is ``phi(omega' z')`` with ``z' = (omega / omega') z``, so everything that writes a space is
    multiplied by ``omega / omega'``. ``absorb_omega(element)`` gives networks without omega, and
    ``absorb_omega(that, 30.0)`` the first ones again, up to rounding.

    Args:
        element: Networks of any architecture of layers.
        omega: The new frequency of every hidden space, or one for each; None leaves a space as it is.

    Returns:
        Networks of an architecture with these frequencies. Tensors that keep their values are passed on.

    Raises:
        ValueError: If there is not one omega for each hidden space, or one is not positive and finite.
    """
    arch = element.architecture
    given = [*omega] if isinstance(omega, Sequence) else [omega] * len(arch.hidden)
    if len(given) != len(arch.hidden):
        raise ValueError(f"omega: expected one for each of {len(arch.hidden)} hidden spaces, got {len(given)}")
    factors: list[float] = []
    activations: dict[str, Activation] = {}
    for space, new in zip(arch.hidden, given, strict=True):
        assert space.activation is not None
        activations[space.name] = Activation(space.activation.name, space.activation.omega if new is None else new)
        factors.append(space.activation.omega / activations[space.name].omega)
    weights, biases = list(element.weights), list(element.biases)
    for i, slot in enumerate(arch.wiring.write_slots):
        factor = 1.0 if slot is None else factors[slot]
        if factor != 1.0:
            bias = biases[i]
            weights[i] = weights[i] * factor
            biases[i] = None if bias is None else bias * factor
    spaces = [dataclasses.replace(s, activation=activations.get(s.name)) for s in arch.spaces]
    return WeightSpaceElement(dataclasses.replace(arch, spaces=tuple(spaces)), tuple(weights), tuple(biases))


def convert(
    element: WeightSpaceElement, to: ConventionName, *, source: ConventionName | None = None
) -> WeightSpaceElement:
    """Turns SIRENs of images from one convention into another.

    ==========  ======  =============  ===========  ============
    name        omega   output offset  coordinates  black, white
    ==========  ======  =============  ===========  ============
    authors     30      0.5            (x, y)       0, 1
    siren       30      0              (x, y)       -1, 1
    nfn         30      0              (row, col.)  -1, 1
    ==========  ======  =============  ===========  ============

    The converted network shows the same image: at a pixel's coordinates in the new order it gives the pixel's value
    in the new range. The order of coordinates and the factors of two are exact; another omega, or another offset
    where the ranges do not cancel, costs a rounding. The weights that a convention starts training from are not
    those of another one, which no conversion changes.

    Args:
        element: SIRENs with two inputs and one output space.
        to: The wanted convention.
        source: The convention of the networks; None takes what the architecture says, which :func:`convert` writes
            there.

    Returns:
        Networks whose ``architecture.convention`` is ``to``.

    Raises:
        ValueError: If a convention is unknown, the source is not given, or contradicts the architecture, or the
            networks are no such SIRENs.
    """
    arch = element.architecture
    old, new = _known(_source(arch, source), "source"), _known(to, "to")
    _check_siren(arch)
    if old.coordinates != new.coordinates:
        element = _swap_inputs(element)
    element = _map_values(element, old.target_range, new.target_range, new.output_offset)
    hidden: list[float] = [new.omega] * len(arch.hidden)
    hidden[0] = new.omega if new.first_omega is None else new.first_omega
    element = absorb_omega(element, hidden)
    named = dataclasses.replace(element.architecture, convention=to)
    return WeightSpaceElement(named, element.weights, element.biases)


def _source(arch: Architecture, source: str | None) -> str:
    if source is None and arch.convention is None:
        raise ValueError(
            "convert: the architecture does not say of which convention the networks are; give source='authors', "
            "'siren' or 'nfn'"
        )
    if source is not None and arch.convention not in (None, source):
        raise ValueError(f"convert: source={source!r}, but the architecture says {arch.convention!r}; leave one out")
    return source or str(arch.convention)


def _known(name: str, argument: str) -> Convention:
    from weightaug.fitting import CONVENTIONS  # which builds on this module's package

    for known, convention in CONVENTIONS.items():
        if known == name:
            return convention
    raise ValueError(f"convert: {argument}: expected one of {list(CONVENTIONS)}, got {name!r}")


def _check_siren(arch: Architecture) -> None:
    wrong = [s.name for s in arch.hidden if s.activation is None or s.activation.name != "sine"]
    if wrong or not arch.hidden:
        raise ValueError(f"convert: the conventions are of SIRENs; expected sines in all hidden spaces, not in {wrong}")
    if len(arch.inputs) != 1 or len(arch.outputs) != 1 or arch.inputs[0].size != 2:
        raise ValueError(
            "convert: the conventions are of images; expected one input space of size 2 and one output space, got "
            f"inputs {[(s.name, s.size) for s in arch.inputs]} and outputs {[s.name for s in arch.outputs]}"
        )


def _swap_inputs(element: WeightSpaceElement) -> WeightSpaceElement:
    wiring = element.architecture.wiring
    source, dims = wiring.inputs[0], len(element.batch_shape)
    weights = [w.flip(dims + 1) if read == source else w for w, read in zip(element.weights, wiring.reads, strict=True)]
    return WeightSpaceElement(element.architecture, tuple(weights), element.biases)


def _map_values(
    element: WeightSpaceElement, old: tuple[float, float], new: tuple[float, float], offset: float
) -> WeightSpaceElement:
    """Maps the outputs from one range to another, with another output offset."""
    arch = element.architecture
    factor = (new[1] - new[0]) / (old[1] - old[0])
    constant = factor * (arch.output_offset - old[0]) + new[0] - offset
    sink = arch.wiring.outputs[0]
    writers = [i for i, written in enumerate(arch.wiring.writes) if written == sink]
    carrier = next((i for i in writers if arch.layers[i].bias), None)
    if constant != 0.0 and carrier is None:
        raise ValueError(
            f"convert: no layer that writes {arch.outputs[0].name!r} has a bias, which has to take the constant "
            f"{constant:g}; give one bias=True (with zeros)"
        )
    weights, biases = list(element.weights), list(element.biases)
    for i in writers:
        bias: Tensor | None = biases[i]
        weights[i] = weights[i] if factor == 1.0 else weights[i] * factor
        if bias is not None:
            biases[i] = bias * factor + (constant if i == carrier else 0.0)
    return WeightSpaceElement(dataclasses.replace(arch, output_offset=offset), tuple(weights), tuple(biases))
