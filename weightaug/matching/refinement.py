"""Colour refinement of networks that are declared by layers: neurons in their signs and phases.

The *states* of a neuron are its sign, and whether it is shifted by an odd number of half periods. When all vertices are
told apart, every neuron takes its first state, in the order of the colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement
from weightaug.matching.assignment import matmul
from weightaug.matching.colours import Colouring, chosen, other_states, positive, random_numbers, relative, split
from weightaug.matching.rules import Rule, topological_slots

__all__ = ["Refinement"]


@dataclass(frozen=True)
class _States:
    """The states of the neurons of one space.

    Attributes:
        rows: What a state multiplies the incoming weights with, ``(S,)``.
        columns: What it multiplies the outgoing weights with, ``(S,)``.
        odd: Whether it shifts by an odd number of half periods, ``(S,)``.
    """

    rows: Tensor
    columns: Tensor
    odd: Tensor

    @classmethod
    def of(cls, rule: Rule | None, like: Tensor) -> _States:
        """The states that a rule allows, in the dtype and on the device of a tensor; one for a fixed space."""
        signs = (1.0, -1.0) if rule is not None and rule.sign is not None else (1.0,)
        shifts = (0.0, 1.0) if rule is not None and rule.half_period is not None else (0.0,)
        states = [(s, q) for q in shifts for s in signs]  # state i and state i ^ d differ by the same move for all i
        even = rule is not None and rule.sign == "even"
        return cls(
            like.new_tensor([s for s, _ in states]),
            like.new_tensor([(1.0 if even else s) * (1 - 2 * q) for s, q in states]),
            like.new_tensor([q for _, q in states]),
        )


@dataclass
class _Edges:
    """Two nonlinear functions of a layer's weights, an odd and an even one, ``(B, written, read)``; zero stays zero."""

    odd: Tensor
    even: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> _Edges:
        weight = weight.flatten(3) if weight.dim() > 3 else weight.unsqueeze(-1)
        unit = weight / positive(weight.abs().amax((1, 2, 3), keepdim=True))
        places = torch.arange(weight.shape[-1], dtype=weight.dtype, device=weight.device)
        return cls(
            (unit.mul(2.1).sin_() * random_numbers(places, 0)).sum(-1),
            (unit.mul_(3.3).cos_().sub_(1) * random_numbers(places, 1)).sum(-1),
        )


class Refinement(Colouring):
    """A flat batch of networks, whose neurons are told apart.

    Args:
        x: The networks, a flat float64 batch with balanced scales.
        rules: The symmetries in use, per hidden space.
        tolerance: Numbers are equal if they differ by less than this part of the largest of their kind.
    """

    def __init__(self, x: WeightSpaceElement, rules: Sequence[Rule], tolerance: float) -> None:
        self.x, self.rules = x, tuple(rules)
        wiring = x.architecture.wiring
        like = x.weights[0]
        self.edges = [_Edges.of(w) for w in x.weights]
        self.states = [_States.of(rule, like) for rule in self.rules]
        fixed = _States.of(None, like)
        self.ends = [
            tuple(fixed if s is None else self.states[s] for s in (wiring.write_slots[l], wiring.read_slots[l]))
            for l in range(len(x.weights))
        ]
        self.biases = [self._biases(s) for s in range(len(self.rules))]
        sizes, counts = [space.size for space in x.architecture.hidden], [len(s.rows) for s in self.states]
        super().__init__(len(x), sizes, counts, topological_slots(x.architecture), tolerance, x.device)

    def _biases(self, slot: int) -> tuple[Tensor, Tensor]:
        """What the biases say about each vertex, ``(B, n, S)``; and the bias in half periods, before rounding."""
        x, rule, states = self.x, self.rules[slot], self.states[slot]
        wiring = x.architecture.wiring
        total = x.weights[0].new_zeros(len(x), x.architecture.hidden[slot].size, len(states.rows))
        phase = torch.zeros_like(total)
        for l, bias in enumerate(x.biases):
            if wiring.write_slots[l] != slot or bias is None:
                continue
            if rule.half_period is not None and wiring.bias_carriers[slot] == l:
                phase = bias.unsqueeze(2) * (states.rows / rule.half_period) + states.odd
                angle = phase * torch.pi
                total = total + angle.sin() + 0.7 * angle.cos()
            else:
                unit = (bias / positive(bias.abs().amax(1, keepdim=True))).unsqueeze(2)
                total = total + (2.1 * unit).sin() * states.rows + (3.3 * unit).cos() - 1
        return total, phase

    # -- colours -------------------------------------------------------------------------------------

    def _incoming(self, slot: int, colours: Sequence[Tensor], turn: int, part: Tensor) -> Tensor:
        states, total = self.states[slot], chosen(self.biases[slot][0], part)
        wiring = self.x.architecture.wiring
        for l, edges in enumerate(self.edges):
            if wiring.write_slots[l] == slot:
                read = wiring.read_slots[l]
                factor = self.ends[l][1].columns
                odd, even = self._around(colours, read, wiring.reads[l], l, factor, turn, len(part))
                sums = matmul(chosen(edges.odd, part), odd) * states.rows + matmul(chosen(edges.even, part), even)
                total = total + (1 + l / 7) * relative(sums)
        return relative(total)

    def _outgoing(self, slot: int, colours: Sequence[Tensor], turn: int, part: Tensor) -> Tensor:
        states, total = self.states[slot], torch.zeros_like(chosen(self.biases[slot][0], part))
        wiring = self.x.architecture.wiring
        for l, edges in enumerate(self.edges):
            if wiring.read_slots[l] == slot:
                write = wiring.write_slots[l]
                factor = self.ends[l][0].rows
                odd, even = self._around(colours, write, wiring.writes[l], l, factor, turn, len(part))
                back = chosen(edges.odd, part).mT, chosen(edges.even, part).mT
                sums = matmul(back[0], odd) * states.columns + matmul(back[1], even)
                total = total + (1 + l / 7) * relative(sums)
        return relative(total)

    def _around(
        self,
        colours: Sequence[Tensor],
        slot: int | None,
        space: int,
        layer: int,
        factor: Tensor,
        turn: int,
        batch: int,
    ) -> tuple[Tensor, Tensor]:
        """What the neurons at a layer's other end multiply its odd and its even function with, ``(B, m, 1)`` each."""
        if slot is None:
            numbers = torch.arange(self.x.architecture.spaces[space].size, dtype=self.x.dtype, device=self.x.device)
            numbers = numbers.expand(batch, -1).unsqueeze(2)
        else:
            numbers = colours[slot].view(batch, -1, len(factor))
        # An undecided sign cancels here, and so says nothing about the signs of others.
        odd = (random_numbers(numbers, 7 * layer + turn) * factor).sum(2, keepdim=True)
        even = random_numbers(numbers, 7 * layer + turn + 0.5).sum(2, keepdim=True)
        return odd.contiguous(), even.contiguous()

    def refine(self, colours: list[Tensor], turn: int, part: Tensor) -> list[Tensor]:
        """One round over all spaces, in place; returns the sums of each vertex, ``(B, n * S)``."""
        sums = [torch.zeros_like(c) for c in colours]
        for s in self.order:
            for key in (
                self._incoming(s, colours, turn, part),
                self._outgoing(s, colours, turn, part),
                other_states(colours[s], len(self.states[s].rows), turn),
            ):
                sums[s] += key.flatten(1)
                colours[s] = split(colours[s], key.flatten(1), self.tolerance)
        return sums

    def bound(self, open_neurons: Sequence[Tensor], part: Tensor) -> list[Tensor]:
        """Which open neurons share a layer's non-zero weight with other open ones."""
        bound = [torch.zeros_like(t) for t in open_neurons]
        wiring = self.x.architecture.wiring
        for l, (write, read) in enumerate(zip(wiring.write_slots, wiring.read_slots, strict=True)):
            if write is None or read is None:
                continue
            weight = self.x.weights[l][part]
            there = (weight != 0).flatten(3).any(-1) if weight.dim() > 3 else weight != 0
            there = there & open_neurons[write].unsqueeze(2) & open_neurons[read].unsqueeze(1)
            bound[write] |= there.any(2)
            bound[read] |= there.any(1)
        return bound

    # -- the representative --------------------------------------------------------------------------

    def representative(self) -> GroupElement:
        """The symmetry that orders neurons by their colours, in the first of their states."""
        return self._group(self.colours())

    def _group(self, colours: Sequence[Tensor]) -> GroupElement:
        permutations: list[Tensor] = []
        scales: list[Tensor | None] = []
        shifts: list[Tensor | None] = []
        for s, (rule, states) in enumerate(zip(self.rules, self.states, strict=True)):
            colour = colours[s].view(len(self.x), self.sizes[s], -1)
            phase = self.biases[s][1]
            if rule.half_period is not None:  # the states that bring the bias nearest to zero, and one of its ends
                rest = (phase - 2 * (phase / 2).round()).abs()
                colour = torch.where(rest <= 0.5 + self.tolerance, colour, torch.inf)
            first, state = colour.min(2)
            order = first.argsort(1)
            permutations.append(order)
            state = state.gather(1, order)
            scales.append(None if rule.sign is None else states.rows[state])
            if rule.half_period is None:
                shifts.append(None)
                continue
            at = phase.gather(1, order.unsqueeze(2).expand_as(phase)).gather(2, state.unsqueeze(2)).squeeze(2)
            shifts.append((states.odd[state] - 2 * (at / 2).round()).to(torch.int64))
        return GroupElement.of(
            self.x.architecture, permutation=tuple(permutations), scale=tuple(scales), shift=tuple(shifts)
        )
