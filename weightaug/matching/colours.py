"""Colour refinement: what tells the neurons of a network apart, whatever their order and signs.

A neuron may take one of a few *states*, such as its sign. Neurons in states are the vertices of a graph whose edges are
the weights, and whose colours are numbers that the symmetries do not change: the colour of a vertex becomes a fixed
random function of the weights and colours around it, until that splits no class of equally coloured vertices any more.
Where several vertices still share a colour then, one of them gets a colour of its own, and the others follow.

The random functions are nonlinear in the weights, so that different sets of weights hardly ever give the same sums, and
written as formulas, so that canonical forms do not depend on a generator.

Source: Weisfeiler and Leman (1968); individualisation as in McKay (1981), Practical graph isomorphism, without search.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Colouring", "chosen", "other_states", "positive", "random_numbers", "relative", "split", "tolerance_of"]


class Colouring(ABC):
    """A batch of networks, whose neurons are told apart space by space.

    Args:
        count: Number of networks.
        sizes: Number of neurons of every space, copies of it included.
        states: Number of states of a neuron of every space.
        order: The spaces in the order in which ties are broken.
        tolerance: Numbers are equal if they differ by less than this part of the largest of their kind.
        device: Where colours stand; they are float64.
    """

    def __init__(
        self,
        count: int,
        sizes: Sequence[int],
        states: Sequence[int],
        order: Sequence[int],
        tolerance: float,
        device: torch.device,
    ) -> None:
        self.count, self.sizes, self.tolerance = count, list(sizes), tolerance
        self.vertices = [n * s for n, s in zip(sizes, states, strict=True)]
        self.order, self.device = list(order), device

    @abstractmethod
    def refine(self, colours: list[Tensor], turn: int, part: Tensor) -> list[Tensor]:
        """One round over all spaces, in place; returns the sums of each vertex, ``(B, vertices)``.

        Args:
            colours: Of every space, ``(B, vertices)``, neurons before states.
            turn: The number of the round.
            part: The networks that these are, ``(B,)``.
        """

    @abstractmethod
    def bound(self, open_neurons: Sequence[Tensor], part: Tensor) -> list[Tensor]:
        """Which open neurons are connected to other open ones, ``(B, neurons)`` each."""

    def start(self, slot: int) -> Tensor:
        """The colours of a space at first, ``(count, vertices)``."""
        return torch.zeros(self.count, self.vertices[slot], dtype=torch.float64, device=self.device)

    def colours(self) -> list[Tensor]:
        """A colour for each vertex, different for all vertices of a space and network: whole numbers from 0."""
        colours = [self.start(s) for s in range(len(self.vertices))]
        whole = [torch.empty_like(c) for c in colours]
        part = torch.arange(self.count, device=self.device)
        classes = torch.zeros(self.count, device=self.device)
        turn = 0
        vertices = sum(self.vertices)
        while len(part):
            turn += 1
            sums = self.refine(colours, turn, part)
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
        return whole

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
        bound = self.bound([t.any(2) for t in shared], part[stuck])
        waiting = torch.ones(len(stuck), dtype=torch.bool, device=stuck.device)
        free = [(t & ~b.unsqueeze(2)).flatten(1) for t, b in zip(shared, bound, strict=True)]
        for s, mask in enumerate(free):
            waiting &= ~mask.any(1)
            rank = torch.where(mask, sums[s][stuck].argsort(1).argsort(1).to(mine[s].dtype), -1.0)
            mine[s] = split(mine[s], rank / positive(rank.amax(1, keepdim=True)), 0.0)
        for s in self.order:
            candidates = shared[s].flatten(1) & waiting.unsqueeze(1)
            first = torch.where(candidates, mine[s], torch.inf).amin(1, keepdim=True)
            picked = torch.where(mine[s] == first, sums[s][stuck], torch.inf).argmin(1, keepdim=True)
            mark = torch.zeros_like(mine[s]).scatter_(1, picked, -1.0)
            mine[s] = split(mine[s], torch.where(first < torch.inf, mark, 0.0), 0.0)
            waiting &= ~candidates.any(1)
        for c, new in zip(colours, mine, strict=True):
            c[stuck] = new


def other_states(colours: Tensor, states: int, turn: int) -> Tensor:
    """What the other states of the same neuron say about a vertex, ``(B, n, S)``.

    State i and state i ^ d have to differ by the same move for all i.
    """
    own = colours.view(len(colours), -1, states)
    index = torch.arange(states, device=own.device)
    total = torch.zeros_like(own)
    for move in range(1, states):
        total = total + random_numbers(own[:, :, index ^ move], 5 * move + turn)
    return relative(total)


def chosen(t: Tensor, part: Tensor) -> Tensor:
    """Some networks of a batch, in their order; all of them without a copy."""
    return t if len(part) == len(t) else t[part]


def random_numbers(numbers: Tensor, which: float) -> Tensor:
    """A fixed function of whole numbers, as good as random; quadratic, or neighbours would be related."""
    return torch.sin((numbers + 1).square() * 2.399963 + (numbers + 1) * (1 + 0.618034 * which) + which) + 0.1


def positive(values: Tensor) -> Tensor:
    """The values that are positive, and 1 for others: what may be divided by."""
    return torch.where(values > 0, values, 1.0)


def relative(values: Tensor) -> Tensor:
    """Values ``(B, n, S)`` of each network in parts of its largest one."""
    return values / positive(values.abs().amax((1, 2), keepdim=True))


def tolerance_of(dtype: torch.dtype, *, rounds: bool) -> float:
    """By how much numbers that were equal may differ: by units in the last place where moves round."""
    return min(max(16 * torch.finfo(dtype).eps if rounds else 0.0, 1e-10), 4e-3)


def split(colours: Tensor, key: Tensor, tolerance: float) -> Tensor:
    """Splits classes of equal colours by a key in [-1, 1]; their order stays, and colours are whole numbers from 0."""
    place, order = (colours + key / 4).sort(dim=1, stable=True)
    rise = (place[:, 1:] - place[:, :-1] > tolerance / 4).cumsum(1).to(colours.dtype)
    return torch.empty_like(colours).scatter_(1, order, torch.cat([torch.zeros_like(place[:, :1]), rise], 1))
