"""Coordinate descent over the hidden spaces, for a flat batch of pairs.

Given the group elements of all other spaces, the best one of a space is found exactly: the score of
matching neuron i of ``a`` with neuron j of ``b`` is maximised over everything that may happen to j besides
being moved (its sign, its phase), and then one linear assignment decides. So the objective cannot get
worse, and a pair is done when no space improves it.

The objective is <a, g b> - |g b|^2 / 2, where only the biases that phases move count in the norm, because
permutations and signs leave the rest of it alone. Maximising it minimises |a - g b|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weightaug import _loops
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement
from weightaug.matching.assignment import assign, assign_again, matmul, unknown_prices
from weightaug.matching.rules import Rule, neighbours

__all__ = ["Moves", "Pairs"]

# A step counts as an improvement only above this part of |a||b|: rounding must not keep a pair going.
_TOLERANCE = 1e-12

# Entries of score matrices that are worked on at a time on a CPU: they stay in the cache, and torch starts no
# OpenMP team of its own below this size.
BLOCK = 32767


@dataclass
class Moves:
    """Group elements of a flat batch: per hidden space a permutation, sign and shift, ``(B, n)`` each.

    Mutable. Permutations and shifts are int64, signs have the dtype of the weights; None where the rule of
    the space has no such symmetry.
    """

    permutation: list[Tensor]
    sign: list[Tensor | None]
    shift: list[Tensor | None]

    @classmethod
    def identity(cls, x: WeightSpaceElement, rules: Sequence[Rule]) -> Moves:
        """The neutral element for every network of a flat batch."""
        batch = x.batch_shape[0]
        index = [torch.arange(s.size, device=x.device).repeat(batch, 1) for s in x.architecture.hidden]
        return cls(
            index,
            [None if r.sign is None else torch.ones_like(i, dtype=x.dtype) for r, i in zip(rules, index, strict=True)],
            [None if r.half_period is None else torch.zeros_like(i) for r, i in zip(rules, index, strict=True)],
        )

    @classmethod
    def of(cls, group: GroupElement, x: WeightSpaceElement, rules: Sequence[Rule]) -> Moves:
        """The part of a group element that the rules allow (positive scales aside)."""
        moves = cls.identity(x, rules)
        for s, (p, a, k) in enumerate(zip(group.permutation, group.scale, group.shift, strict=True)):
            if p is not None:
                moves.permutation[s] = p.clone()
            if a is not None and moves.sign[s] is not None:
                moves.sign[s] = a.sign()
            if k is not None and moves.shift[s] is not None:
                moves.shift[s] = k.clone()
        return moves

    def group(self, architecture: Architecture) -> GroupElement:
        """The moves as a group element of a flat batch."""
        return GroupElement.of(
            architecture, permutation=tuple(self.permutation), scale=tuple(self.sign), shift=tuple(self.shift)
        )

    def __getitem__(self, index: slice) -> Moves:
        """A part of the batch, copied."""

        def part(ts: list[Tensor | None]) -> list[Tensor | None]:
            return [None if t is None else t[index].clone() for t in ts]

        return Moves([p[index].clone() for p in self.permutation], part(self.sign), part(self.shift))

    @classmethod
    def cat(cls, parts: Sequence[Moves]) -> Moves:
        """Joins the moves of several batches."""

        def join(name: str) -> list[Tensor | None]:
            slots = zip(*(getattr(m, name) for m in parts), strict=True)
            return [None if ts[0] is None else torch.cat(ts) for ts in slots]

        permutation = [p for p in join("permutation") if p is not None]
        return cls(permutation, join("sign"), join("shift"))

    def where(self, mask: Tensor, other: Moves) -> Moves:
        """These moves where the mask ``(B,)`` is set, and the other ones elsewhere."""
        mask = mask.unsqueeze(-1)

        def choose(ours: list[Tensor | None], theirs: list[Tensor | None]) -> list[Tensor | None]:
            return [
                None if x is None or y is None else torch.where(mask, x, y) for x, y in zip(ours, theirs, strict=True)
            ]

        permutation = [torch.where(mask, x, y) for x, y in zip(self.permutation, other.permutation, strict=True)]
        return Moves(permutation, choose(self.sign, other.sign), choose(self.shift, other.shift))


@dataclass
class _Link:
    """What one layer says about one of its two spaces (``this``), whose other end is the hidden space ``other``.

    Attributes:
        other: Slot of the space at the other end.
        incoming: Whether the layer writes ``this`` space (else it reads it).
        a: Parameters of a, ``(B, n_this, n_other * kernel)``.
        b: Parameters of b, ``(B * n_other, kernel, n_this)``: one row per neuron of the other space, so that
            permuting them is a copy of whole rows.
    """

    other: int
    incoming: bool
    a: Tensor
    b: Tensor


@dataclass
class _View:
    """All that the score of one hidden space needs.

    Attributes:
        rows: Inner products of the incoming parameters that no move changes, ``(B, n, n)``.
        columns: The same for the outgoing parameters.
        links: The layers whose other end is hidden too.
        prices: Of the last assignment of each pair, ``(B, n)``; see :func:`assign_again`.
        bias: The two biases ``(B, n)`` that phases move, or None.
        phases: See :meth:`Pairs._phases`, ``(B, 4, n, n)``.
        sides: The links as the compiled loops read them; see :meth:`Pairs._side`.
    """

    rows: Tensor
    columns: Tensor
    links: list[_Link]
    prices: Tensor
    bias: tuple[Tensor, Tensor] | None
    phases: Tensor | None = None
    sides: list[tuple[list[_Link], Tensor, Tensor]] | None = None


_Block = slice | Tensor  # some of the pairs
_Pick = Callable[[Tensor], Tensor]
_Products = tuple[Tensor, Tensor]  # of the incoming and of the outgoing parameters


class Pairs:
    """A flat batch of pairs, prepared for matching.

    Args:
        a: The networks to align to, ``(B,)``, float64.
        b: The networks to align, likewise.
        rules: The symmetries in use, per hidden space.
    """

    def __init__(self, a: WeightSpaceElement, b: WeightSpaceElement, rules: Sequence[Rule]) -> None:
        bound = _norm(a) * _norm(b)  # of every score
        if not bound.isfinite().all():
            raise ValueError(
                "match: expected weights whose squares are finite in float64, got larger ones (about 1e154)"
            )
        self.a, self.b, self.rules = a, b, tuple(rules)
        self.size = a.batch_shape[0]
        self._loops = _loops.load("matching") if a.device.type == "cpu" else None
        self._around = neighbours(a.architecture)
        self._views = [self._view(s) for s in range(len(rules))]
        self._tolerance = _TOLERANCE * bound.clamp_min(torch.finfo(a.dtype).tiny)

    def _view(self, slot: int) -> _View:
        a, b, wiring = self.a, self.b, self.a.architecture.wiring
        n = a.architecture.hidden[slot].size
        rows = torch.zeros(self.size, n, n, dtype=a.dtype, device=a.device)
        view = _View(rows, torch.zeros_like(rows), [], unknown_prices(rows), None)
        for l, (wa, wb, va, vb) in enumerate(zip(a.weights, b.weights, a.biases, b.biases, strict=True)):
            ends = wiring.write_slots[l], wiring.read_slots[l]
            for this, incoming in ((0, True), (1, False)):
                if ends[this] != slot:
                    continue
                other = ends[1 - this]
                # Axes to (this, other, kernel) for a, and to (other, kernel, this) for b.
                xa = wa.flatten(3) if wa.dim() > 3 else wa.unsqueeze(-1)
                xb = wb.flatten(3) if wb.dim() > 3 else wb.unsqueeze(-1)
                if not incoming:
                    xa, xb = xa.transpose(1, 2), xb.transpose(1, 2)
                xa, xb = xa.flatten(2), xb.permute(0, 2, 3, 1)
                if other is None:
                    target = view.rows if incoming else view.columns
                    target += matmul(xa, xb.flatten(1, 2))
                else:
                    view.links.append(_Link(other, incoming, xa.contiguous(), xb.flatten(0, 1).contiguous()))
            if ends[0] == slot and va is not None and vb is not None:
                if self.rules[slot].half_period is not None and wiring.bias_carriers[slot] == l:
                    view.bias = (va.contiguous(), vb.contiguous())
                else:
                    view.rows += va.unsqueeze(2) * vb.unsqueeze(1)
        return view

    # -- one visit -----------------------------------------------------------------------------------

    def _products(self, slot: int, moves: Moves, block: _Block, known: frozenset[int] | None = None) -> _Products:
        """Inner products of incoming and of outgoing parameters of all pairs of neurons, ``(B, n, n)`` each.

        ``known`` restricts them to the layers that touch a fixed space or one of these slots.
        """
        view, pick = self._views[slot], _picker(block)
        rows, columns = pick(view.rows), pick(view.columns)
        for link in view.links:
            if known is not None and link.other not in known:
                continue
            index, factor = pick(moves.permutation[link.other]), self._factor(moves, link, pick)
            start = pick(torch.arange(0, self.size * index.shape[1], index.shape[1], device=index.device))
            moved = link.b.index_select(0, (index + start.unsqueeze(1)).flatten())
            moved = moved.view(*index.shape, *link.b.shape[1:])
            if factor is not None:
                moved *= factor.view(*factor.shape, 1, 1)
            product = matmul(pick(link.a), moved.flatten(1, 2))
            if link.incoming:
                rows = product.add_(rows)
            else:
                columns = product.add_(columns)
        return rows, columns

    def _factor(self, moves: Moves, link: _Link, pick: _Pick) -> Tensor | None:
        """What the moves of the other space do to the parameters of a link, per neuron of that space."""
        sign, shift = moves.sign[link.other], moves.shift[link.other]
        if not link.incoming:  # the layer writes the other space: its rows
            return None if sign is None else pick(sign)
        factor = None if sign is None or self.rules[link.other].sign == "even" else pick(sign)
        if shift is not None:
            parity = 1 - 2 * (pick(shift) & 1).to(self.a.dtype)
            factor = parity if factor is None else factor * parity
        return factor

    def _blocks(self, slot: int, todo: Tensor | None) -> Sequence[_Block]:
        """Index of the pairs in question, in parts that are worked on one at a time."""
        size = max(BLOCK // self.a.architecture.hidden[slot].size ** 2, 1) if self.a.device.type == "cpu" else 1 << 30
        if todo is not None:
            parts: tuple[Tensor, ...] = todo.split(size)
            return parts
        return [slice(i, min(i + size, self.size)) for i in range(0, max(self.size, 1), size)]

    def _phases(self, slot: int) -> Tensor:
        """What phases can gain for each pair of neurons; made when it is first asked for."""
        view = self._views[slot]
        if view.phases is None:
            assert view.bias is not None
            a, b = view.bias
            view.phases = torch.cat([_phase_table(a[i], b[i], self.rules[slot]) for i in self._blocks(slot, None)])
        return view.phases

    def _score(self, slot: int, rows: Tensor, columns: Tensor, pick: _Pick) -> Tensor:
        """The score of putting each neuron in each place, maximised over signs and phases."""
        rule = self.rules[slot]
        if self._views[slot].bias is not None:
            phases = self._phases(slot)
            plus, plus_gap, minus, minus_gap = pick(phases).unbind(1)
            score = (columns + plus_gap).abs_().add_(plus).add_(rows)
            if rule.sign is not None:
                other = (columns + minus_gap).abs_().add_(minus).sub_(rows)
                torch.maximum(score, other, out=score)
            return score
        if rule.sign == "odd":
            return (rows + columns).abs_()
        return rows.abs().add_(columns) if rule.sign == "even" else rows + columns

    def _visit(
        self, slot: int, moves: Moves, todo: Tensor | None, known: frozenset[int] | None = None, *, search: bool = True
    ) -> tuple[Tensor, _Products, _Products]:
        """The best permutation of one space, and the products at it and at the present one, ``(B, n)`` each.

        Without ``search``, the best permutation is the present one.
        """
        if self._loops is not None:
            return self._visit_compiled(self._loops, slot, moves, todo, known, search)
        parts = []
        for block in self._blocks(slot, todo):
            pick = _picker(block)
            rows, columns = self._products(slot, moves, block, known)
            present = pick(moves.permutation[slot])
            now = _at(rows, present), _at(columns, present)
            if search:
                prices = self._views[slot].prices
                found, prices[block] = assign_again(self._score(slot, rows, columns, pick), pick(prices))
                parts.append((found, _at(rows, found), _at(columns, found), *now))
            else:
                parts.append((present, *now, *now))
        found, r, c, r_now, c_now = (torch.cat(part) for part in zip(*parts, strict=True))
        return found, (r, c), (r_now, c_now)

    def _visit_compiled(
        self,
        loops: Any,
        slot: int,
        moves: Moves,
        todo: Tensor | None,
        known: frozenset[int] | None,
        search: bool,
    ) -> tuple[Tensor, _Products, _Products]:
        """The same as :meth:`_visit`, by numba: matching as a whole takes a third of the time, and no GIL."""
        view, present = self._views[slot], moves.permutation[slot].contiguous()
        pairs = torch.arange(self.size) if todo is None else todo
        found = torch.empty(len(pairs), present.shape[1], dtype=torch.int64)
        products = torch.empty(4, *found.shape, dtype=self.a.dtype)
        if view.sides is None:
            view.sides = [self._side(view, incoming) for incoming in (True, False)]
        arguments = [pairs, view.rows, view.columns]
        for links, a, b in view.sides:
            arguments += [a, b, *self._moved(links, moves, known)]
        rule = self.rules[slot]
        code = loops.SCORES[rule.sign, view.bias is not None] if search else loops.NO_SEARCH
        biases = view.bias if view.bias is not None else [view.rows.new_empty(0, 0)] * 2
        before, after = (
            [t.numpy() for t in ts] for ts in (arguments, (*biases, view.prices, present, found, products))
        )
        loops.visit(code, *before, rule.half_period or 1.0, *after)
        r, c, r_now, c_now = products
        return found, (r, c), (r_now, c_now)

    def _side(self, view: _View, incoming: bool) -> tuple[list[_Link], Tensor, Tensor]:
        """The incoming or the outgoing links of a space as one: ``(B, n, m)`` of a and ``(B, m, n)`` of b."""
        links = [link for link in view.links if link.incoming is incoming]
        n = view.rows.shape[1]
        if not links:
            return links, view.rows.new_empty(self.size, n, 0), view.rows.new_empty(self.size, 0, n)
        return (
            links,
            _joined([link.a for link in links], 2),
            _joined([link.b.view(self.size, link.a.shape[2], n) for link in links]),
        )

    def _moved(self, links: list[_Link], moves: Moves, known: frozenset[int] | None) -> tuple[Tensor, Tensor]:
        """Where the moves of the other spaces put the rows of a side, and what they multiply them with."""
        if not links:
            return torch.empty(self.size, 0, dtype=torch.int64), self.a.weights[0].new_empty(self.size, 0)
        indices, factors, start = [], [], 0
        for link in links:
            index, kernel = moves.permutation[link.other], link.b.shape[1]
            factor = self._factor(moves, link, _picker(None))
            if known is not None and link.other not in known:
                factor = torch.zeros_like(index, dtype=self.a.dtype)
            if factor is None:
                factor = torch.ones_like(index, dtype=self.a.dtype)
            if kernel > 1:
                index = (index.unsqueeze(2) * kernel + torch.arange(kernel)).flatten(1)
                factor = factor.repeat_interleave(kernel, 1)
            indices.append(index + start if start else index)
            factors.append(factor)
            start += index.shape[1]
        return _joined(indices), _joined(factors)

    def _decide(
        self, slot: int, found: Tensor, products: _Products, todo: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The score ``(B,)`` of a permutation, and the best signs and shifts with it."""
        rule, bias, pick = self.rules[slot], self._views[slot].bias, _picker(todo)
        r, c = products
        if bias is not None:
            best, sign, shift = _phase_move(r, c, pick(bias[0]), pick(bias[1]).gather(1, found), rule)
            return best.sum(-1), sign, shift
        if rule.sign is None:
            return (r + c).sum(-1), None, None
        total = r + c
        sign = torch.where((total if rule.sign == "odd" else r) < 0, -1.0, 1.0).to(r.dtype)
        return (total.abs() if rule.sign == "odd" else r.abs() + c).sum(-1), sign, None

    def _present(self, slot: int, products: _Products, moves: Moves, todo: Tensor | None) -> Tensor:
        """The score ``(B,)`` of one space as the moves have it now."""
        pick, rule = _picker(todo), self.rules[slot]
        r, c = products
        sign, shift, bias = moves.sign[slot], moves.shift[slot], self._views[slot].bias
        if sign is not None:
            s = pick(sign)
            r = r * s
            c = c if rule.sign == "even" else c * s
        if shift is not None and bias is not None:
            assert rule.half_period is not None
            k = pick(shift).to(r.dtype)  # an int64 tensor times a float would round to float32
            c = c * (1 - 2 * k.remainder(2))
            moved = pick(bias[1]).gather(1, pick(moves.permutation[slot]))
            moved = moved if sign is None else moved * s
            r = r - 0.5 * (pick(bias[0]) - moved - k * rule.half_period).square()
        return (r + c).sum(-1)

    def _set(
        self, slot: int, moves: Moves, todo: Tensor, found: Tensor, sign: Tensor | None, shift: Tensor | None
    ) -> None:
        for total, new in (
            (moves.permutation[slot], found),
            (moves.sign[slot], sign),
            (moves.shift[slot], shift),
        ):
            if total is not None and new is not None:
                total.index_copy_(0, todo, new)

    # -- whole algorithms ----------------------------------------------------------------------------

    def identity(self) -> Moves:
        """The neutral moves."""
        return Moves.identity(self.b, self.rules)

    def descend(
        self,
        moves: Moves,
        *,
        order: Sequence[int] | None = None,
        settled: int | None = None,
        max_sweeps: int = 100,
        record: list[Tensor] | None = None,
    ) -> Moves:
        """Improves ``moves`` in place until no space improves any pair.

        Args:
            moves: Where to start.
            order: The order in which spaces are visited; None for first to last.
            settled: A space that is known to be best as it is, given the others.
            max_sweeps: Visits per space at most.
            record: Gets the gain in the objective, ``(B,)``, of every visit, if given.

        Returns:
            ``moves``.
        """
        # A space needs a visit only if a neighbour has changed since the last one.
        stale = torch.ones(len(self.rules), self.size, dtype=torch.bool, device=self.a.device)
        if settled is not None:
            stale[settled] = False
        for _ in range(max_sweeps):
            for s in order if order is not None else range(len(self.rules)):
                waiting = stale[s].nonzero().squeeze(-1)
                if waiting.numel() == 0:
                    continue
                stale[s] = False
                todo = None if waiting.numel() == self.size else waiting
                found, best, now = self._visit(s, moves, todo)
                score, sign, shift = self._decide(s, found, best, todo)
                gain = score - self._present(s, now, moves, todo)
                better = gain > _picker(todo)(self._tolerance)
                if record is not None:
                    record.append(torch.zeros_like(self._tolerance).index_copy_(0, waiting, gain * better))
                kept = better.nonzero().squeeze(-1)
                if kept.numel() < waiting.numel():
                    waiting, found = waiting.index_select(0, kept), found.index_select(0, kept)
                    sign = None if sign is None else sign.index_select(0, kept)
                    shift = None if shift is None else shift.index_select(0, kept)
                self._set(s, moves, waiting, found, sign, shift)
                for n in self._around[s]:
                    stale[n, waiting] = True
            if not bool(stale.any()):
                break
        return moves

    def walk(self, order: Sequence[int]) -> Moves:
        """Matches each space by the layers to fixed spaces and to the spaces before it, in the given order.

        From the inputs to the outputs, this finds a planted copy exactly: when all that a space reads is
        aligned, every neuron meets its own incoming weights.
        """
        moves = self.identity()
        everyone = torch.arange(self.size, device=self.a.device)
        known: frozenset[int] = frozenset()
        for s in order:
            found, best, _ = self._visit(s, moves, None, known)
            _, sign, shift = self._decide(s, found, best, None)
            self._set(s, moves, everyone, found, sign, shift)
            known |= {s}
        return moves

    def anneal(
        self, order: Sequence[int], *, steps: int = 20, hot: float = 0.3, cold: float = 0.03, iterations: int = 10
    ) -> Moves:
        """Deterministic annealing: soft moves, spaces in turns, at a falling temperature, then rounded.

        At temperature t every space holds the mean of its moves under weights exp(score / t), with the
        permutation relaxed to a doubly stochastic matrix; near the end, that is a coordinate descent.

        Args:
            order: The order in which spaces are visited.
            steps: Temperatures.
            hot: The first temperature, in parts of |a||b| per hidden neuron.
            cold: The last temperature.
            iterations: Sinkhorn iterations per visit.

        Source: graduated assignment (Gold and Rangarajan, 1996), here with signs and phases.
        """
        largest = max(range(len(self.rules)), key=lambda s: self.a.architecture.hidden[s].size)
        blocks = self._blocks(largest, None)
        if len(blocks) > 1:
            parts = [Pairs(self.a[i], self.b[i], self.rules) for i in blocks]
            settings: dict[str, Any] = {"steps": steps, "hot": hot, "cold": cold, "iterations": iterations}
            return Moves.cat([part.anneal(order, **settings) for part in parts])
        neurons = sum(space.size for space in self.a.architecture.hidden)
        unit = (self._tolerance / (_TOLERANCE * neurons)).view(-1, 1, 1)
        soft: dict[int, tuple[Tensor, Tensor]] = {}
        for step in range(steps):
            temperature = unit * hot * (cold / hot) ** (step / max(steps - 1, 1))
            for s in order:
                rows, columns = self._soft_products(s, soft)
                soft[s] = self._soften(s, rows, columns, temperature, iterations)
        moves = self.identity()
        everyone = torch.arange(self.size, device=self.a.device)
        for s in order:
            rows, columns = self._soft_products(s, soft)
            found = assign(self._score(s, rows, columns, _picker(None)))
            _, sign, shift = self._decide(s, found, (_at(rows, found), _at(columns, found)), None)
            self._set(s, moves, everyone, found, sign, shift)
            ones = torch.ones_like(found, dtype=rows.dtype) if sign is None else sign
            hard = torch.zeros_like(rows).scatter_(2, found.unsqueeze(2), ones.unsqueeze(2))
            flipped = hard.abs() if self.rules[s].sign == "even" else hard
            soft[s] = hard, flipped if shift is None else flipped * (1 - 2 * (shift & 1)).unsqueeze(2)
        return moves

    def _soft_products(self, slot: int, soft: dict[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Like ``_products``, with soft moves; a space that has none yet says nothing."""
        view = self._views[slot]
        rows, columns = view.rows, view.columns
        for link in view.links:
            if link.other not in soft:
                continue
            matrix = soft[link.other][1 if link.incoming else 0]
            n, kernel, this = matrix.shape[1], *link.b.shape[1:]
            moved = matmul(matrix, link.b.view(self.size, n, kernel * this)).view(self.size, n * kernel, this)
            product = matmul(link.a, moved)
            if link.incoming:
                rows = product.add_(rows)
            else:
                columns = product.add_(columns)
        return rows, columns

    def _soften(
        self, slot: int, rows: Tensor, columns: Tensor, temperature: Tensor, iterations: int
    ) -> tuple[Tensor, Tensor]:
        """The mean move of one space: what it does to the rows that write it and to the columns that read it."""
        rule, bias = self.rules[slot], self._views[slot].bias
        options: list[Tensor]
        if bias is not None:
            bias_a, bias_b = bias[0].unsqueeze(2), bias[1].unsqueeze(1)
            options = [*_phase_terms(rows, columns, bias_a, bias_b, rule, 1)]
            effects = [(1, 1), (1, -1)]
            if rule.sign is not None:
                options += [*_phase_terms(rows, columns, bias_a, bias_b, rule, -1)]
                effects += [(-1, 1), (-1, -1)] if rule.sign == "even" else [(-1, -1), (-1, 1)]
        elif rule.sign == "odd":
            options, effects = [rows + columns, -rows - columns], [(1, 1), (-1, -1)]
        elif rule.sign == "even":
            options, effects = [rows + columns, columns - rows], [(1, 1), (-1, 1)]
        else:
            options, effects = [rows + columns], [(1, 1)]
        # One option at a time: a stack of them would be large enough for torch to start OpenMP threads.
        best = options[0].clone()
        for option in options[1:]:
            best = torch.maximum(best, option, out=best)
        weights = [option.sub_(best).div_(temperature).exp_() for option in options]
        total = weights[0].clone()
        for weight in weights[1:]:
            total += weight
        log = best / temperature + total.log()
        # Sinkhorn without logarithms; the floor keeps rows alive that compete for the same columns.
        kernel = (log - log.amax(2, keepdim=True)).exp_().clamp_min_(1e-200)
        v = torch.ones_like(kernel[:, :, :1])
        for _ in range(iterations):
            u = matmul(kernel, v).reciprocal()
            v = matmul(kernel.mT, u).reciprocal()
        share = kernel.mul_(u).mul_(v.mT).div_(total)
        row, column = torch.zeros_like(share), torch.zeros_like(share)
        for weight, (on_rows, on_columns) in zip(weights, effects, strict=True):
            row.add_(weight, alpha=on_rows)
            column.add_(weight, alpha=on_columns)
        return row.mul_(share), column.mul_(share)

    def kick(self, moves: Moves, slot: int, part: float, generator: torch.Generator) -> Moves:
        """A copy of the moves in which a random part of the neurons of one space has changed places."""
        result = moves[slice(None)]
        shape, device = moves.permutation[slot].shape, self.a.device
        hit = torch.rand(shape, generator=generator) < part
        # The positions of the hit neurons come first in `where`; `source` has the same ones in random order.
        where = torch.where(hit, 0.0, 1.0).argsort(dim=1, stable=True)
        shuffled = torch.where(hit, torch.rand(shape, generator=generator), 2.0).argsort(dim=1, stable=True)
        index = torch.empty_like(where).scatter_(1, where, shuffled).to(device)
        result.permutation[slot] = moves.permutation[slot].gather(1, index)
        sign, shift = moves.sign[slot], moves.shift[slot]
        result.sign[slot] = None if sign is None else sign.gather(1, index)
        result.shift[slot] = None if shift is None else shift.gather(1, index)
        return result

    def objective(self, moves: Moves) -> Tensor:
        """The objective, <a, g b> - |g b|^2 / 2 up to a constant, ``(B,)``."""
        total = torch.zeros(self.size, dtype=self.a.dtype, device=self.a.device)
        done: frozenset[int] = frozenset()
        for s in range(len(self.rules)):
            # Each link counts once: with the later of its two spaces.
            _, _, now = self._visit(s, moves, None, done, search=False)
            total += self._present(s, now, moves, None)
            done |= {s}
        return total


def _joined(parts: list[Tensor], axis: int = 1) -> Tensor:
    """Several tensors along an axis, contiguous; one alone is not copied."""
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, axis)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """``values[b, i, index[b, i]]``."""
    return values.gather(2, index.unsqueeze(-1)).squeeze(-1)


def _picker(block: _Block | None) -> _Pick:
    # The first visits concern every pair: no copy then.
    if block is None:
        return lambda t: t
    if isinstance(block, slice):
        return lambda t: t[block]
    return lambda t: t.index_select(0, block)


def _norm(x: WeightSpaceElement) -> Tensor:
    total = torch.zeros(x.batch_shape, dtype=x.dtype, device=x.device)
    for t in x.tensors():
        total = total + t.flatten(1).square().sum(-1)
    return total.sqrt()


def _phase_terms(r: Tensor, c: Tensor, bias_a: Tensor, bias_b: Tensor, rule: Rule, sign: int) -> tuple[Tensor, Tensor]:
    """The best scores with an even and with an odd number of half periods, for one sign of the row.

    With h the half period, the shift by k h that minimises (bias_a - sign bias_b - k h)^2 among the even k
    leaves a rest of d h, 0 <= d <= 1, and among the odd k one of (1 - d) h.
    """
    h = rule.half_period
    assert h is not None
    d = (bias_a - bias_b if sign > 0 else bias_a + bias_b).mul_(1 / h)
    d = d.sub_(d.mul(0.5).round_().mul_(2)).abs_()
    base = d.square().mul_(-0.5 * h * h)
    base = base.add_(r) if sign > 0 else base.sub_(r)
    odd = d.mul_(h * h).sub_(0.5 * h * h)
    # An odd number of half periods flips the columns; an odd activation flips them with the sign as well.
    if sign > 0 or rule.sign == "even":
        return base + c, odd.sub_(c).add_(base)
    return base - c, odd.add_(c).add_(base)


def _phase_table(bias_a: Tensor, bias_b: Tensor, rule: Rule) -> Tensor:
    """What phases can gain, whatever else moves: four numbers per pair of neurons, ``(B, 4, n, n)``.

    For a sign s of the row, let even and odd be the best values of -(bias_a - s bias_b - k h)^2 / 2 over the even
    and the odd k. Then the better one of (c + even, -c + odd), which is what a positive sign can reach, is
    |c + (even - odd) / 2| + (even + odd) / 2. The table holds the sum and the gap for s = 1, and for s = -1, where
    an odd activation flips c.
    """
    h = rule.half_period
    assert h is not None
    a, b = bias_a.unsqueeze(2), bias_b.unsqueeze(1)
    table = []
    for sign in (1, -1):
        d = (a - sign * b).mul_(1 / h)
        d = d.sub_(d.mul(0.5).round_().mul_(2)).abs_()
        even, odd = d.square().mul_(-0.5 * h * h), (1 - d).square_().mul_(-0.5 * h * h)
        gap = (even - odd).mul_(0.5)
        table += [(even + odd).mul_(0.5), gap if sign > 0 or rule.sign == "even" else gap.neg_()]
    return torch.stack(table, 1)


def _phase_move(
    r: Tensor, c: Tensor, bias_a: Tensor, bias_b: Tensor, rule: Rule
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The best score per neuron, and the sign and shift that reach it."""
    h = rule.half_period
    assert h is not None
    options = [*_phase_terms(r, c, bias_a, bias_b, rule, 1)]
    if rule.sign is not None:
        options += [*_phase_terms(r, c, bias_a, bias_b, rule, -1)]
    value, best = torch.stack(options).max(0)
    sign, parity = 1 - 2 * (best >> 1), best & 1
    ratio = (bias_a - sign * bias_b) / h
    shift = (2 * ((ratio - parity) / 2).round()).to(torch.int64) + parity
    return value, (None if rule.sign is None else sign.to(r.dtype)), shift
