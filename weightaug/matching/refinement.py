"""Colour refinement: what tells the neurons of a network apart, whatever their order, signs and phases.

A neuron may take one of a few *states*: its sign, and whether it is shifted by an odd number of half periods. Neurons
in states are the vertices of a graph whose edges are the weights, and whose colours are numbers that the symmetries do
not change: the colour of a vertex becomes a fixed random function of the weights and colours around it, until that
splits no class of equally coloured vertices any more. Then every neuron takes its first state, in the order of the
colours. Where several vertices still share a colour, one of them gets a colour of its own, and the others follow.

The random functions are nonlinear in the weights, so that different sets of weights hardly ever give the same sums, and
written as formulas, so that canonical forms do not depend on a generator.

Source: Weisfeiler and Leman (1968); individualisation as in McKay (1981), Practical graph isomorphism, without search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement
from weightaug.matching.assignment import matmul
from weightaug.matching.rules import Rule

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
        unit = weight / _positive(weight.abs().amax((1, 2, 3), keepdim=True))
        places = torch.arange(weight.shape[-1], dtype=weight.dtype, device=weight.device)
        return cls(
            (unit.mul(2.1).sin_() * _random(places, 0)).sum(-1),
            (unit.mul_(3.3).cos_().sub_(1) * _random(places, 1)).sum(-1),
        )


class Refinement:
    """A flat batch of networks, whose neurons are told apart.

    Args:
        x: The networks, a flat float64 batch with balanced scales.
        rules: The symmetries in use, per hidden space.
        tolerance: Numbers are equal if they differ by less than this part of the largest of their kind.
    """

    def __init__(self, x: WeightSpaceElement, rules: Sequence[Rule], tolerance: float) -> None:
        self.x, self.rules, self.tolerance = x, tuple(rules), tolerance
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
        self.order = [wiring.hidden.index(space) for space in wiring.order if space in wiring.hidden]
        self.sizes = [space.size for space in x.architecture.hidden]

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
                unit = (bias / _positive(bias.abs().amax(1, keepdim=True))).unsqueeze(2)
                total = total + (2.1 * unit).sin() * states.rows + (3.3 * unit).cos() - 1
        return total, phase

    # -- colours -------------------------------------------------------------------------------------

    def _incoming(self, slot: int, colours: Sequence[Tensor], turn: int, part: Tensor) -> Tensor:
        states, total = self.states[slot], _of(self.biases[slot][0], part)
        wiring = self.x.architecture.wiring
        for l, edges in enumerate(self.edges):
            if wiring.write_slots[l] == slot:
                read = wiring.read_slots[l]
                factor = self.ends[l][1].columns
                odd, even = self._around(colours, read, wiring.reads[l], l, factor, turn, len(part))
                sums = matmul(_of(edges.odd, part), odd) * states.rows + matmul(_of(edges.even, part), even)
                total = total + (1 + l / 7) * _relative(sums)
        return _relative(total)

    def _outgoing(self, slot: int, colours: Sequence[Tensor], turn: int, part: Tensor) -> Tensor:
        states, total = self.states[slot], torch.zeros_like(_of(self.biases[slot][0], part))
        wiring = self.x.architecture.wiring
        for l, edges in enumerate(self.edges):
            if wiring.read_slots[l] == slot:
                write = wiring.write_slots[l]
                factor = self.ends[l][0].rows
                odd, even = self._around(colours, write, wiring.writes[l], l, factor, turn, len(part))
                back = _of(edges.odd, part).mT, _of(edges.even, part).mT
                sums = matmul(back[0], odd) * states.columns + matmul(back[1], even)
                total = total + (1 + l / 7) * _relative(sums)
        return _relative(total)

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
        odd = (_random(numbers, 7 * layer + turn) * factor).sum(2, keepdim=True)
        even = _random(numbers, 7 * layer + turn + 0.5).sum(2, keepdim=True)
        return odd.contiguous(), even.contiguous()

    def _own(self, slot: int, colours: Sequence[Tensor], turn: int, batch: int) -> Tensor:
        """What the other states of the same neuron say about a vertex."""
        count = len(self.states[slot].rows)
        own = colours[slot].view(batch, -1, count)
        index = torch.arange(count, device=own.device)
        total = torch.zeros_like(own)
        for move in range(1, count):
            total = total + _random(own[:, :, index ^ move], 5 * move + turn)
        return _relative(total)

    def _refine(self, colours: list[Tensor], turn: int, part: Tensor) -> list[Tensor]:
        """One round over all spaces, in place; returns the sums of each vertex, ``(B, n * S)``."""
        sums = [torch.zeros_like(c) for c in colours]
        for s in self.order:
            for key in (
                self._incoming(s, colours, turn, part),
                self._outgoing(s, colours, turn, part),
                self._own(s, colours, turn, len(part)),
            ):
                sums[s] += key.flatten(1)
                colours[s] = _split(colours[s], key.flatten(1), self.tolerance)
        return sums

    # -- the representative --------------------------------------------------------------------------

    def representative(self) -> GroupElement:
        """The symmetry that orders neurons by their colours, in the first of their states."""
        whole = [
            torch.empty(len(self.x), n * len(s.rows), dtype=self.x.dtype, device=self.x.device)
            for n, s in zip(self.sizes, self.states, strict=True)
        ]
        part = torch.arange(len(self.x), device=self.x.device)
        colours = [torch.zeros_like(t) for t in whole]
        classes = torch.zeros(len(part), device=self.x.device)
        turn = 0
        vertices = sum(t.shape[1] for t in whole)
        while len(part):
            turn += 1
            sums = self._refine(colours, turn, part)
            now = torch.stack([c.amax(1) + 1 for c in colours]).sum(0)
            stuck = ((now == classes) & (now < vertices)).nonzero().squeeze(1)
            if len(stuck):
                self._tell_apart(colours, sums, stuck, part)
            classes = now
            done = torch.stack([c.amax(1) + 1 for c in colours]).sum(0) == vertices
            if bool(done.any()):
                for t, c in zip(whole, colours, strict=True):
                    t[part[done]] = c[done]
                part, colours, classes = part[~done], [c[~done] for c in colours], classes[~done]
        return self._group(whole)

    def _tell_apart(self, colours: list[Tensor], sums: list[Tensor], stuck: Tensor, part: Tensor) -> None:
        """Gives vertices that share a colour colours of their own, in place, for some networks of the part.

        All at once where they are connected to no other neuron that shares a colour, since then it does not matter
        which is which; else one vertex, and what follows from it is left to the next round. Their last sums decide, as
        far as they differ by less than the tolerance.
        """
        mine = [c[stuck] for c in colours]
        shared = []
        for s, c in enumerate(mine):
            index = c.long()
            count = torch.zeros_like(c).scatter_add_(1, index, torch.ones_like(c)).gather(1, index)
            shared.append((count > 1).view(len(stuck), self.sizes[s], -1))
        open_neurons = [t.any(2) for t in shared]
        bound = [torch.zeros_like(t) for t in open_neurons]
        wiring = self.x.architecture.wiring
        for l, (write, read) in enumerate(zip(wiring.write_slots, wiring.read_slots, strict=True)):
            if write is None or read is None:
                continue
            weight = self.x.weights[l][part[stuck]]
            there = (weight != 0).flatten(3).any(-1) if weight.dim() > 3 else weight != 0
            there = there & open_neurons[write].unsqueeze(2) & open_neurons[read].unsqueeze(1)
            bound[write] |= there.any(2)
            bound[read] |= there.any(1)
        waiting = torch.ones(len(stuck), dtype=torch.bool, device=stuck.device)
        free = [(t & ~b.unsqueeze(2)).flatten(1) for t, b in zip(shared, bound, strict=True)]
        for s, mask in enumerate(free):
            waiting &= ~mask.any(1)
            rank = torch.where(mask, sums[s][stuck].argsort(1).argsort(1).to(self.x.dtype), -1.0)
            mine[s] = _split(mine[s], rank / _positive(rank.amax(1, keepdim=True)), 0.0)
        for s in self.order:
            candidates = shared[s].flatten(1) & waiting.unsqueeze(1)
            first = torch.where(candidates, mine[s], torch.inf).amin(1, keepdim=True)
            chosen = torch.where(mine[s] == first, sums[s][stuck], torch.inf).argmin(1, keepdim=True)
            mark = torch.zeros_like(mine[s]).scatter_(1, chosen, -1.0)
            mine[s] = _split(mine[s], torch.where(first < torch.inf, mark, 0.0), 0.0)
            waiting &= ~candidates.any(1)
        for c, new in zip(colours, mine, strict=True):
            c[stuck] = new

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


def _of(t: Tensor, part: Tensor) -> Tensor:
    """Some networks of a batch, in their order; all of them without a copy."""
    return t if len(part) == len(t) else t[part]


def _random(numbers: Tensor, which: float) -> Tensor:
    """A fixed function of whole numbers, as good as random; quadratic, or neighbours would be related."""
    return torch.sin((numbers + 1).square() * 2.399963 + (numbers + 1) * (1 + 0.618034 * which) + which) + 0.1


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)


def _relative(values: Tensor) -> Tensor:
    """Values ``(B, n, S)`` of each network in parts of its largest one."""
    return values / _positive(values.abs().amax((1, 2), keepdim=True))


def _split(colours: Tensor, key: Tensor, tolerance: float) -> Tensor:
    """Splits classes of equal colours by a key in [-1, 1]; their order stays, and colours are whole numbers from 0."""
    place, order = (colours + key / 4).sort(dim=1, stable=True)
    rise = (place[:, 1:] - place[:, :-1] > tolerance / 4).cumsum(1).to(colours.dtype)
    return torch.empty_like(colours).scatter_(1, order, torch.cat([torch.zeros_like(place[:, :1]), rise], 1))
