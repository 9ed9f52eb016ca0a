"""Activation matching: neurons are alike if they take the same values at the same inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.matching.assignment import assign
from weightaug.matching.moves import Moves
from weightaug.matching.rules import Rule

__all__ = ["check_points", "match_activations"]


def check_points(points: Tensor, architecture: Architecture, *, whole: bool = False) -> None:
    """Checks coordinates at which networks are to be compared.

    Args:
        points: The coordinates.
        architecture: Of the networks.
        whole: Whether their outputs are compared, too.

    Raises:
        TypeError: If they are no tensor of real numbers.
        ValueError: If they do not fit the networks, are none, or not finite; or if such networks cannot be evaluated.
    """
    wiring = architecture.wiring
    several = len(wiring.inputs) != 1 or (whole and len(wiring.outputs) != 1)
    if several or any(layer.kernel for layer in architecture.layers):
        needs = "one input space, one output space" if whole else "one input space"
        names = [[space.name for space in spaces] for spaces in (architecture.inputs, architecture.outputs)]
        raise ValueError(
            f"matching at points needs {needs} and linear layers, got inputs {names[0]}, outputs {names[1]} and "
            f"kernels {[l.kernel for l in architecture.layers]}; use method='weight'"
        )
    unknown = [s.activation.name for s in architecture.hidden if s.activation and not s.activation.is_known]
    if unknown:
        raise ValueError(
            f"matching at points needs activations that can be evaluated, got {unknown[0]!r}; use method='weight'"
        )
    if not isinstance(points, Tensor):
        raise TypeError(
            f"points: expected a tensor of coordinates, got {type(points).__name__}; torch.as_tensor makes one"
        )
    width = architecture.spaces[wiring.inputs[0]].size
    if points.dim() != 2 or points.shape[1] != width or len(points) == 0:
        raise ValueError(
            f"points: expected coordinates of shape (n, {width}) with n >= 1, got {tuple(points.shape)}; a "
            f"grid of them takes points.reshape(-1, {width})"
        )
    if points.is_complex() or points.dtype == torch.bool:
        raise TypeError(f"points: expected real coordinates, got {points.dtype}")
    if not bool(torch.isfinite(points).all()):
        raise ValueError(
            f"points: expected finite coordinates, got {int((~torch.isfinite(points)).sum())} that are not"
        )


def match_activations(a: WeightSpaceElement, b: WeightSpaceElement, rules: Sequence[Rule], points: Tensor) -> Moves:
    """The best permutation, sign and phase of each space for the values of its neurons.

    A neuron's value depends on no other move (up to its own sign), so each space is one assignment problem.

    Args:
        a: The networks to align to, a flat float64 batch.
        b: The networks to align, likewise.
        rules: The symmetries in use.
        points: Coordinates, ``(n, in)``; see :func:`check_points`.
    """
    x = points.detach().to(a.device, a.dtype)
    before_a, before_b = _pre_activations(a, x), _pre_activations(b, x)
    moves = Moves.identity(b, rules)
    for s, (space, rule) in enumerate(zip(a.architecture.hidden, rules, strict=True)):
        assert space.activation is not None
        za, zb = before_a[s], before_b[s]
        score = space.activation(za).mT @ space.activation(zb)
        # The sign of a neuron's value is free with an odd activation, and with phases.
        free = rule.sign == "odd" or rule.half_period is not None
        found = assign(score.abs() if free else score)
        moves.permutation[s] = found
        if rule.sign is None and rule.half_period is None:
            continue
        picked = score.gather(2, found.unsqueeze(-1)).squeeze(-1)
        flipped = (picked < 0) & free
        moves.sign[s], moves.shift[s] = _sign_and_shift(
            za, zb.gather(2, found.unsqueeze(1).expand(-1, zb.shape[1], -1)), flipped, rule
        )
    return moves


def _sign_and_shift(za: Tensor, zb: Tensor, flipped: Tensor, rule: Rule) -> tuple[Tensor | None, Tensor | None]:
    """Among the moves that flip the right values, those that bring the pre-activations ``(B, m, n)`` closest."""
    h = rule.half_period
    if h is None:
        if rule.sign == "odd":
            return torch.where(flipped, -1.0, 1.0).to(za.dtype), None
        return torch.where((za * zb).sum(1) < 0, -1.0, 1.0).to(za.dtype), None
    choices = []
    for sign in (1, -1) if rule.sign is not None else (1,):
        # Values flip with the sign (odd activations) and with an odd number of half periods.
        parity = (flipped ^ (sign < 0 and rule.sign == "odd")).to(za.dtype)
        gap = za - sign * zb
        shift = 2 * ((gap.mean(1) / h - parity) / 2).round() + parity
        choices.append(((gap - (shift * h).unsqueeze(1)).square().sum(1), shift))
    if len(choices) == 1:
        return None, choices[0][1].to(torch.int64)
    minus = choices[1][0] < choices[0][0]
    sign_out = torch.where(minus, -1.0, 1.0).to(za.dtype)
    return sign_out, torch.where(minus, choices[1][1], choices[0][1]).to(torch.int64)


def _pre_activations(x: WeightSpaceElement, coordinates: Tensor) -> list[Tensor]:
    """What every hidden space gets, ``(B, n, size)`` each."""
    arch, wiring = x.architecture, x.architecture.wiring
    after = {wiring.inputs[0]: coordinates.expand(len(x), *coordinates.shape)}
    before: dict[int, Tensor] = {}
    for space in wiring.order[1:]:
        activation = arch.spaces[space].activation
        if activation is None:
            continue
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for l, (read, write) in enumerate(zip(wiring.reads, wiring.writes, strict=True)):
            if write == space:
                total = total + after[read] @ x.weights[l].mT
                bias = x.biases[l]
                if bias is not None:
                    total = total + bias.unsqueeze(1)
        before[space] = total
        after[space] = activation(total)
    return [before[space] for space in wiring.hidden]
