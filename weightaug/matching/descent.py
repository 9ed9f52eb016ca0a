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
from typing import Any

import torch
from torch import Tensor

from weightaug import _loops
from weightaug.element import WeightSpaceElement
from weightaug.matching.assignment import assign_again, matmul, unknown_prices
from weightaug.matching.moves import Moves
from weightaug.matching.phases import phase_move, phase_table
from weightaug.matching.rules import Rule, neighbours
from weightaug.matching.views import Link, View, check_phases, divided, incoming_norms, power_of_two, squares_of
from weightaug.matching.wide import WIDE, visit_wide

__all__ = ["BLOCK", "Pairs", "Tell", "at"]

# A step counts as an improvement only above this part of |a||b|: rounding must not keep a pair going.
_TOLERANCE = 1e-12

# What counts as the same norm: symmetries that act in float32 change norms by less.
_SAME = 1e-5

# Entries of score matrices that are worked on at a time on a CPU: they stay in the cache, and torch starts no
# OpenMP team of its own below this size.
BLOCK = 32767


_Block = slice | Tensor  # some of the pairs
_Pick = Callable[[Tensor], Tensor]
Tell = Callable[[str], None]  # gets a few words on how it goes
_Products = tuple[Tensor, Tensor]  # of the incoming and of the outgoing parameters


class Pairs:
    """A flat batch of pairs, prepared for matching.

    Each pair is scaled by a power of two, so that its largest entry is about 1: squares of weights neither overflow
    nor vanish then, and no digit of a result changes. Objectives are in that scale.

    Args:
        a: The networks to align to, ``(B,)``, float64.
        b: The networks to align, likewise.
        rules: The symmetries in use, per hidden space.

    Raises:
        ValueError: If a bias that phases move is so many half periods large that single ones are lost in float64.
    """

    def __init__(self, a: WeightSpaceElement, b: WeightSpaceElement, rules: Sequence[Rule]) -> None:
        check_phases(a, rules)
        check_phases(b, rules)
        self.scale = torch.maximum(power_of_two(a), power_of_two(b))
        self._given = a, b
        self.a, self.b, self.rules = divided(a, self.scale), divided(b, self.scale), tuple(rules)
        squares = squares_of(self.a.weights), squares_of(self.b.weights)
        self._same_weights = (squares[0] - squares[1]).abs() <= _SAME * squares[0]
        norms = squares_of(self.a.tensors()).sqrt(), squares_of(self.b.tensors()).sqrt()
        bound = norms[0] * norms[1]  # of every score
        self._largest = torch.maximum(*norms).clamp_min(torch.finfo(a.dtype).tiny)
        self.size = a.batch_shape[0]
        self.loops = _loops.load("matching") if a.device.type == "cpu" else None
        self._around = neighbours(a.architecture)
        self._views = [self._prepared(s) for s in range(len(rules))]
        self.bound = bound.clamp_min(torch.finfo(a.dtype).tiny)
        self._tolerance = _TOLERANCE * self.bound

    def view(self, slot: int) -> View:
        """What the score of one space needs."""
        return self._views[slot]

    def part(self, index: slice | Tensor) -> Pairs:
        """Some of the pairs."""
        a, b = (x[index] for x in self._given)
        return Pairs(a, b, self.rules)

    def parts(self) -> list[Pairs]:
        """The pairs in parts that fit the cache."""
        largest = max(range(len(self.rules)), key=lambda s: self.a.architecture.hidden[s].size)
        blocks = self._blocks(largest, None)
        return [self] if len(blocks) == 1 else [self.part(block) for block in blocks]

    def tied_copies(self) -> Tensor:
        """The pairs that may differ by a symmetry alone, but have neurons that look alike by what they read.

        Neurons of the same incoming norm, that is, and the same norms in both networks. Coordinate descent can
        settle such a tie wrongly, and then nothing tells it so. Returns their positions.
        """
        maybe = self._same_weights.nonzero().squeeze(1)
        if len(maybe) == 0:
            return maybe
        norms = [incoming_norms(x[maybe], self.rules) for x in (self.a, self.b)]
        same = torch.ones_like(maybe, dtype=torch.bool)
        tied = torch.zeros_like(same)
        for p, q in zip(*norms, strict=True):
            near = _SAME * p.amax(1, keepdim=True)
            same &= ((p - q).abs() <= near).all(1)
            tied |= (p.diff(dim=1) <= near).any(1) | (p <= near).any(1)  # or a sign that no input decides
        return maybe[same & tied]

    def _prepared(self, slot: int) -> View:
        a, b, wiring = self.a, self.b, self.a.architecture.wiring
        n = a.architecture.hidden[slot].size
        rows = torch.zeros(self.size, n, n, dtype=a.dtype, device=a.device)
        view = View(rows, torch.zeros_like(rows), [], unknown_prices(rows), None)
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
                    view.links.append(Link(other, incoming, xa.contiguous(), xb.flatten(0, 1).contiguous()))
            if ends[0] == slot and va is not None and vb is not None:
                period = self.rules[slot].half_period
                if period is not None and wiring.bias_carriers[slot] == l:
                    view.bias = (va.contiguous(), vb.contiguous())
                    # A half period of more than 8 norms never pays, and a huge one would drown the products.
                    view.half_period = (period / self.scale).minimum(8 * self._largest)
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

    def _factor(self, moves: Moves, link: Link, pick: _Pick) -> Tensor | None:
        """What the moves of the other space do to the parameters of a link, per neuron of that space."""
        sign, shift = moves.sign[link.other], moves.shift[link.other]
        if not link.incoming:  # the layer writes the other space: its rows
            return None if sign is None else pick(sign)
        factor = None if sign is None or self.rules[link.other].sign == "even" else pick(sign)
        if shift is not None:
            parity = 1 - 2 * (pick(shift) & 1).to(self.a.dtype)
            factor = parity if factor is None else factor * parity
        return factor

    def factor(self, moves: Moves, link: Link, pair: int) -> Tensor | None:
        """:meth:`_factor` of one pair."""
        return self._factor(moves, link, lambda t: t[pair])

    def _blocks(self, slot: int, todo: Tensor | None) -> Sequence[_Block]:
        """Index of the pairs in question, in parts that are worked on one at a time."""
        size = max(BLOCK // self.a.architecture.hidden[slot].size ** 2, 1) if self.a.device.type == "cpu" else 1 << 30
        if todo is not None:
            parts: tuple[Tensor, ...] = todo.split(size)
            return parts
        return [slice(i, min(i + size, self.size)) for i in range(0, max(self.size, 1), size)]

    def period(self, slot: int, dims: int) -> Tensor:
        """The half periods of the pairs, with ``dims`` dimensions in all."""
        period = self._views[slot].half_period
        assert period is not None
        return period.view(-1, *(1,) * (dims - 1))

    def _phases(self, slot: int) -> Tensor:
        """What phases can gain for each pair of neurons; made when it is first asked for."""
        view = self._views[slot]
        if view.phases is None:
            assert view.bias is not None
            a, b = view.bias
            h = self.period(slot, 3)
            blocks = self._blocks(slot, None)
            view.phases = torch.cat([phase_table(a[i], b[i], h[i], self.rules[slot]) for i in blocks])
        return view.phases

    def score(self, slot: int, rows: Tensor, columns: Tensor, pick: _Pick | None = None) -> Tensor:
        """The score of putting each neuron in each place, maximised over signs and phases."""
        rule = self.rules[slot]
        if self._views[slot].bias is not None:
            phases = self._phases(slot)
            plus, plus_gap, minus, minus_gap = (phases if pick is None else pick(phases)).unbind(1)
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
        if search and self.a.device.type == "cpu" and self.a.architecture.hidden[slot].size > WIDE:
            return visit_wide(self, slot, moves, todo, known)
        if self.loops is not None:
            return self._visit_compiled(self.loops, slot, moves, todo, known, search)
        parts = []
        for block in self._blocks(slot, todo):
            pick = _picker(block)
            rows, columns = self._products(slot, moves, block, known)
            present = pick(moves.permutation[slot])
            now = at(rows, present), at(columns, present)
            if search:
                prices = self._views[slot].prices
                found, prices[block] = assign_again(self.score(slot, rows, columns, pick), pick(prices))
                parts.append((found, at(rows, found), at(columns, found), *now))
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
        pairs = torch.arange(self.size, device=present.device) if todo is None else todo
        found = present.new_empty(len(pairs), present.shape[1])
        products = view.rows.new_empty(4, *found.shape)
        if view.sides is None:
            view.sides = [self._side(view, incoming) for incoming in (True, False)]
        arguments = [pairs, view.rows, view.columns]
        for links, a, b in view.sides:
            arguments += [a, b, *self._moved(links, moves, known)]
        rule = self.rules[slot]
        code = loops.SCORES[rule.sign, view.bias is not None] if search else loops.NO_SEARCH
        biases = view.bias if view.bias is not None else [view.rows.new_empty(0, 0)] * 2
        period = view.rows.new_empty(0) if view.half_period is None else view.half_period
        arguments += [period, *biases, view.prices, present, found, products]
        loops.visit(code, *[t.numpy() for t in arguments])
        r, c, r_now, c_now = products
        return found, (r, c), (r_now, c_now)

    def _side(self, view: View, incoming: bool) -> tuple[list[Link], Tensor, Tensor]:
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

    def _moved(self, links: list[Link], moves: Moves, known: frozenset[int] | None) -> tuple[Tensor, Tensor]:
        """Where the moves of the other spaces put the rows of a side, and what they multiply them with."""
        if not links:
            nothing = self.a.weights[0].new_empty(self.size, 0)
            return nothing.to(torch.int64), nothing
        indices, factors, start = [], [], 0
        for link in links:
            index, kernel = moves.permutation[link.other], link.b.shape[1]
            factor = self._factor(moves, link, _picker(None))
            if known is not None and link.other not in known:
                factor = torch.zeros_like(index, dtype=self.a.dtype)
            if factor is None:
                factor = torch.ones_like(index, dtype=self.a.dtype)
            if kernel > 1:
                index = (index.unsqueeze(2) * kernel + torch.arange(kernel, device=index.device)).flatten(1)
                factor = factor.repeat_interleave(kernel, 1)
            indices.append(index + start if start else index)
            factors.append(factor)
            start += index.shape[1]
        return _joined(indices), _joined(factors)

    def decide(
        self, slot: int, found: Tensor, products: _Products, todo: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The score ``(B,)`` of a permutation, and the best signs and shifts with it."""
        rule, bias, pick = self.rules[slot], self._views[slot].bias, _picker(todo)
        r, c = products
        if bias is not None:
            h = pick(self.period(slot, 2))
            best, sign, shift = phase_move(r, c, pick(bias[0]), pick(bias[1]).gather(1, found), h, rule)
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
            k = pick(shift).to(r.dtype)  # an int64 tensor times a float would round to float32
            c = c * (1 - 2 * k.remainder(2))
            moved = pick(bias[1]).gather(1, pick(moves.permutation[slot]))
            moved = moved if sign is None else moved * s
            r = r - 0.5 * (pick(bias[0]) - moved - k * pick(self.period(slot, 2))).square()
        return (r + c).sum(-1)

    def set(
        self, slot: int, moves: Moves, todo: Tensor, found: Tensor, sign: Tensor | None, shift: Tensor | None
    ) -> None:
        """Writes what was decided for some pairs into the moves."""
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
        tell: Tell | None = None,
    ) -> Moves:
        """Improves ``moves`` in place until no space improves any pair.

        Args:
            moves: Where to start.
            order: The order in which spaces are visited; None for first to last.
            settled: A space that is known to be best as it is, given the others.
            max_sweeps: Visits per space at most.
            record: Gets the gain in the objective, ``(B,)``, of every visit, if given.
            tell: Is told how many neurons every visit moves, if given.

        Returns:
            ``moves``.
        """
        visits = 0
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
                score, sign, shift = self.decide(s, found, best, todo)
                gain = score - self._present(s, now, moves, todo)
                better = gain > _picker(todo)(self._tolerance)
                if record is not None:
                    record.append(torch.zeros_like(self._tolerance).index_copy_(0, waiting, gain * better))
                kept = better.nonzero().squeeze(-1)
                if kept.numel() < waiting.numel():
                    waiting, found = waiting.index_select(0, kept), found.index_select(0, kept)
                    sign = None if sign is None else sign.index_select(0, kept)
                    shift = None if shift is None else shift.index_select(0, kept)
                visits += 1
                if tell is not None:
                    moved = int((found != moves.permutation[s].index_select(0, waiting)).sum())
                    tell(f"visit {visits}: {moved:,} neurons of space {s} moved")
                self.set(s, moves, waiting, found, sign, shift)
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
            _, sign, shift = self.decide(s, found, best, None)
            self.set(s, moves, everyone, found, sign, shift)
            known |= {s}
        return moves

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


def at(values: Tensor, index: Tensor) -> Tensor:
    """``values[b, i, index[b, i]]``."""
    return values.gather(2, index.unsqueeze(-1)).squeeze(-1)


def _picker(block: _Block | None) -> _Pick:
    # The first visits concern every pair: no copy then.
    if block is None:
        return lambda t: t
    if isinstance(block, slice):
        return lambda t: t[block]
    return lambda t: t.index_select(0, block)
