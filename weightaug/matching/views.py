"""What a coordinate descent prepares: the pairs in a scale of their own, and what the score of each space needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.matching.rules import Rule

__all__ = ["Link", "View", "check_phases", "divided", "incoming_norms", "power_of_two", "squares_of"]


class Made(NamedTuple):
    """A product that was made, and of what: see :mod:`weightaug.matching.wide`."""

    places: Tensor
    factor: Tensor
    product: Tensor


@dataclass
class Link:
    """What one layer says about one of its two spaces (``this``), whose other end is the hidden space ``other``.

    Attributes:
        other: Slot of the space at the other end.
        incoming: Whether the layer writes ``this`` space (else it reads it).
        a: Parameters of a, ``(B, n_this, n_other * kernel)``.
        b: Parameters of b, ``(B * n_other, kernel, n_this)``: one row per neuron of the other space, so that
            permuting them is a copy of whole rows.
        made: For wide spaces, the last product of each pair.
    """

    other: int
    incoming: bool
    a: Tensor
    b: Tensor
    made: dict[int, Made] = field(default_factory=dict)


@dataclass
class View:
    """All that the score of one hidden space needs.

    Attributes:
        rows: Inner products of the incoming parameters that no move changes, ``(B, n, n)``.
        columns: The same for the outgoing parameters.
        links: The layers whose other end is hidden too.
        prices: Of the last assignment of each pair, ``(B, n)``; see :func:`assign_again`.
        bias: The two biases ``(B, n)`` that phases move, or None.
        half_period: In the scale of each pair, ``(B,)``; None without phases.
        phases: See :meth:`Pairs._phases`, ``(B, 4, n, n)``.
        sides: The links as the compiled loops read them; see :meth:`Pairs._side`.
    """

    rows: Tensor
    columns: Tensor
    links: list[Link]
    prices: Tensor
    bias: tuple[Tensor, Tensor] | None
    half_period: Tensor | None = None
    phases: Tensor | None = None
    sides: list[tuple[list[Link], Tensor, Tensor]] | None = None


def squares_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of all squares of each network, ``(B,)``."""
    return torch.stack([t.flatten(1).square().sum(-1) for t in tensors]).sum(0)


def incoming_norms(x: WeightSpaceElement, rules: Sequence[Rule]) -> list[Tensor]:
    """Per hidden space the sorted squared norms of what neurons read, without biases that phases move, ``(B, n)``."""
    wiring, result = x.architecture.wiring, []
    for slot, rule in enumerate(rules):
        total = torch.zeros(len(x), x.architecture.hidden[slot].size, dtype=x.dtype, device=x.device)
        for l, (weight, bias) in enumerate(zip(x.weights, x.biases, strict=True)):
            if wiring.write_slots[l] != slot:
                continue
            total += weight.flatten(2).square().sum(-1)
            if bias is not None and not (rule.half_period is not None and wiring.bias_carriers[slot] == l):
                total += bias.square()
        result.append(total.sort(1).values)
    return result


def power_of_two(x: WeightSpaceElement) -> Tensor:
    """A power of two near the largest entry of each network, ``(B,)``; 1 for a network of zeros."""
    largest = torch.stack([t.abs().flatten(1).amax(1) for t in x.tensors() if t.shape[1:].numel()]).amax(0)
    exponent = torch.frexp(largest).exponent.clamp(-1000, 1000)
    return torch.ldexp(torch.ones_like(largest), exponent).where(largest > 0, 1.0)


def divided(x: WeightSpaceElement, scale: Tensor) -> WeightSpaceElement:
    """Every network divided by its entry of ``(B,)``."""
    return x.map(lambda t: t / scale.view(-1, *(1,) * (t.dim() - 1)))


def check_phases(x: WeightSpaceElement, rules: Sequence[Rule]) -> None:
    """Checks that the biases which phases move are not lost in half periods.

    Raises:
        ValueError: If one is so large that a half period vanishes in rounding.
    """
    wiring = x.architecture.wiring
    for slot, rule in enumerate(rules):
        carrier = wiring.bias_carriers[slot]
        if rule.half_period is None or carrier is None:
            continue
        bias = x.biases[carrier]
        assert bias is not None
        most = rule.half_period * 2.0**50
        if not bool((bias.abs() < most).all()):
            raise ValueError(
                f"{x.architecture.layers[carrier].name}.bias: expected less than {most:.3g} (2^50 half periods of its "
                f"activation) to match phases, got {float(bias.abs().max()):.3g}, where a half period is lost in "
                "rounding; use symmetry=('permutation', 'sign')"
            )
