"""Coordinate descent over the hidden spaces, for a flat batch of pairs.

Given the group elements of all other spaces, the best one of a space is found exactly: the score of
matching neuron i of ``a`` with neuron j of ``b`` is maximised over everything that may happen to j besides
being moved (its sign, its phase), and then one linear assignment decides. So the objective cannot get
worse, and a pair is done when no space improves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.matching.assignment import assign
from weightaug.matching.rules import Features, Rule, neighbours

__all__ = ["Moves", "descend"]

# A step counts as an improvement only above this part of |a||b|: rounding must not keep a pair going.
_TOLERANCE = 1e-12


@dataclass
class Moves:
    """Mutable group elements of a flat batch: per hidden space a permutation, sign and shift.

    Signs are int64 like the shifts. None where the rule has no such symmetry.
    """

    permutation: list[Tensor]
    sign: list[Tensor | None]
    shift: list[Tensor | None]

    @classmethod
    def identity(cls, x: WeightSpaceElement, rules: Sequence[Rule]) -> Moves:
        """The neutral element for every network of a flat batch."""
        shapes = [(x.batch_shape[0], space.size) for space in x.architecture.hidden]
        index = [torch.arange(n, device=x.device).repeat(batch, 1) for batch, n in shapes]
        return cls(
            index,
            [None if r.sign is None else torch.ones_like(i) for r, i in zip(rules, index, strict=True)],
            [None if r.half_period is None else torch.zeros_like(i) for r, i in zip(rules, index, strict=True)],
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Moves:
        """New moves with a function applied to every tensor."""
        return Moves(
            [function(t) for t in self.permutation],
            [None if t is None else function(t) for t in self.sign],
            [None if t is None else function(t) for t in self.shift],
        )


def descend(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    rules: Sequence[Rule],
    moves: Moves,
    *,
    order: Sequence[int] | None = None,
    max_sweeps: int = 100,
    record: list[Tensor] | None = None,
) -> WeightSpaceElement:
    """Improves ``moves`` in place until no space improves any pair.

    Args:
        a: The networks to align to, a flat float64 batch ``(B,)``.
        b: The networks to align, with ``moves`` applied already; the tensors are overwritten.
        rules: The symmetries in use, per hidden space.
        moves: The group elements so far.
        order: The order in which spaces are visited; None for first to last.
        max_sweeps: Visits per space at most.
        record: Gets the gains ``(B,)`` in the objective sum <a, b> - |b|^2 / 2 of every visit, if given.

    Returns:
        b, aligned.
    """
    spaces = range(len(rules))
    around = neighbours(a.architecture)
    target = [Features.of(a, s, rules[s]) for s in spaces]
    tolerance = _TOLERANCE * (_norm(a) * _norm(b)).clamp_min(torch.finfo(torch.float64).tiny)
    batch = a.batch_shape[0]
    # A space needs a visit only if a neighbour has changed since the last one.
    stale = torch.ones(len(rules), batch, dtype=torch.bool, device=a.device)
    for _ in range(max_sweeps):
        for s in order if order is not None else spaces:
            todo = stale[s].nonzero().squeeze(-1)
            if todo.numel() == 0:
                continue
            stale[s] = False
            pick = _picker(todo, batch)
            gain, step = _best_move(target[s], _features(b, s, rules[s], pick), rules[s], pick)
            better = gain > pick(tolerance)
            if record is not None:
                record.append(torch.zeros_like(tolerance).index_copy_(0, todo, gain.where(better, 0.0)))
            if not bool(better.any()):
                continue
            if not bool(better.all()):
                keep = better.nonzero().squeeze(-1)
                todo = todo.index_select(0, keep)
                found, sign, shift = step
                step = (
                    _some(found, keep),
                    None if sign is None else _some(sign, keep),
                    None if shift is None else _some(shift, keep),
                )
            _apply(b, moves, s, rules[s], None if todo.numel() == batch else todo, *step)
            for n in around[s]:
                stale[n, todo] = True
        if not bool(stale.any()):
            break
    return b


def _some(t: Tensor, index: Tensor) -> Tensor:
    return t.index_select(0, index)


def _picker(index: Tensor, batch: int) -> Callable[[Tensor], Tensor]:
    # Most early visits concern every pair: no copy then.
    return (lambda t: t) if index.numel() == batch else (lambda t: t.index_select(0, index))


def _norm(x: WeightSpaceElement) -> Tensor:
    total = torch.zeros(x.batch_shape, dtype=x.dtype, device=x.device)
    for t in x.tensors():
        total = total + t.flatten(1).square().sum(-1)
    return total.sqrt()


def _features(x: WeightSpaceElement, slot: int, rule: Rule, pick: Callable[[Tensor], Tensor]) -> Features:
    wiring = x.architecture.wiring
    touched = [slot in (r, w) for r, w in zip(wiring.read_slots, wiring.write_slots, strict=True)]
    weights = tuple(pick(w) if t else w for w, t in zip(x.weights, touched, strict=True))
    biases = tuple(None if v is None else pick(v) if t else v for v, t in zip(x.biases, touched, strict=True))
    return Features.of(WeightSpaceElement(x.architecture, weights, biases), slot, rule)


_Step = tuple[Tensor, Tensor | None, Tensor | None]


def _best_move(a: Features, b: Features, rule: Rule, pick: Callable[[Tensor], Tensor]) -> tuple[Tensor, _Step]:
    """The best group element of one space, and how much it gains over leaving the space alone."""
    a = Features(pick(a.rows), pick(a.columns), None if a.bias is None else pick(a.bias))
    rows = torch.bmm(a.rows, b.rows.transpose(1, 2))
    columns = torch.bmm(a.columns, b.columns.transpose(1, 2))
    stay = rows.diagonal(dim1=1, dim2=2) + columns.diagonal(dim1=1, dim2=2)
    if rule.half_period is not None:
        assert a.bias is not None
        assert b.bias is not None
        stay = stay - 0.5 * (a.bias - b.bias).square()
        score = _phase_score(rows, columns, a.bias.unsqueeze(2), b.bias.unsqueeze(1), rule)
    elif rule.sign == "odd":
        score = (rows + columns).abs()
    elif rule.sign == "even":
        score = rows.abs() + columns
    else:
        score = rows + columns
    found = assign(score)
    index = found.unsqueeze(-1)
    gain = score.gather(2, index).squeeze(-1).sum(-1) - stay.sum(-1)
    sign: Tensor | None = None
    shift: Tensor | None = None
    r, c = rows.gather(2, index).squeeze(-1), columns.gather(2, index).squeeze(-1)
    if rule.half_period is not None:
        assert a.bias is not None
        assert b.bias is not None
        sign, shift = _phase_move(r, c, a.bias, b.bias.gather(1, found), rule)
    elif rule.sign is not None:
        sign = torch.where((r + c if rule.sign == "odd" else r) < 0, -1, 1)
    return gain, (found, sign, shift)


def _phase_terms(r: Tensor, c: Tensor, bias_a: Tensor, bias_b: Tensor, rule: Rule, sign: int) -> tuple[Tensor, Tensor]:
    """The best scores with an even and with an odd number of half periods, for one sign of the row.

    With h the half period, the shift by k h that minimises (bias_a - sign bias_b - k h)^2 among the even k
    leaves a rest of d h, 0 <= d <= 1, and among the odd k one of (1 - d) h.
    """
    h = rule.half_period
    assert h is not None
    ratio = (bias_a - bias_b if sign > 0 else bias_a + bias_b) * (1 / h)
    d = ratio.sub_(ratio.mul(0.5).round_().mul_(2)).abs_()
    base = d.square().mul_(-0.5 * h * h)
    base = base.add_(r) if sign > 0 else base.sub_(r)
    odd_penalty = d.mul_(h * h).sub_(0.5 * h * h)
    # An odd number of half periods flips the columns; an odd activation flips them with the sign as well.
    same = c if sign > 0 or rule.sign == "even" else -c
    return base + same, base + (odd_penalty - same)


def _phase_score(r: Tensor, c: Tensor, bias_a: Tensor, bias_b: Tensor, rule: Rule) -> Tensor:
    best = torch.maximum(*_phase_terms(r, c, bias_a, bias_b, rule, 1))
    if rule.sign is not None:
        best = torch.maximum(best, torch.maximum(*_phase_terms(r, c, bias_a, bias_b, rule, -1)))
    return best


def _phase_move(r: Tensor, c: Tensor, bias_a: Tensor, bias_b: Tensor, rule: Rule) -> tuple[Tensor | None, Tensor]:
    h = rule.half_period
    assert h is not None
    options = [*_phase_terms(r, c, bias_a, bias_b, rule, 1)]
    if rule.sign is not None:
        options += [*_phase_terms(r, c, bias_a, bias_b, rule, -1)]
    best = torch.stack(options).argmax(0)
    sign, parity = 1 - 2 * (best >> 1), best & 1
    ratio = (bias_a - sign * bias_b) / h
    shift = (2 * ((ratio - parity) / 2).round()).to(torch.int64) + parity
    return (None if rule.sign is None else sign), shift


def _apply(
    x: WeightSpaceElement,
    moves: Moves,
    slot: int,
    rule: Rule,
    todo: Tensor | None,
    permutation: Tensor,
    sign: Tensor | None,
    shift: Tensor | None,
) -> None:
    """Applies a step to the networks ``todo`` (None for all) of ``x`` and to their moves, in place."""
    wiring = x.architecture.wiring
    row = None if sign is None else sign.to(x.dtype)
    column = None if rule.sign == "even" else row
    offset = None
    if shift is not None:
        assert rule.half_period is not None
        parity = 1 - 2 * (shift & 1).to(x.dtype)
        column = parity if column is None else column * parity
        offset = shift.to(x.dtype) * rule.half_period

    def update(tensor: Tensor, axis: int, factor: Tensor | None, add: Tensor | None = None) -> None:
        old = tensor if todo is None else tensor.index_select(0, todo)
        shape = [len(old), *(1,) * (tensor.dim() - 1)]
        shape[axis] = -1
        new = old.gather(axis, permutation.view(shape).expand(old.shape))
        if factor is not None:
            new *= factor.view(shape)
        if add is not None:
            new += add
        if todo is None:
            tensor.copy_(new)
        else:
            tensor.index_copy_(0, todo, new)

    for l, (weight, bias) in enumerate(zip(x.weights, x.biases, strict=True)):
        if wiring.write_slots[l] == slot:
            update(weight, 1, row)
            if bias is not None:
                update(bias, 1, row, offset if wiring.bias_carriers[slot] == l else None)
        if wiring.read_slots[l] == slot:
            update(weight, 2, column)

    def compose(total: Tensor, factor: Tensor | None, add: Tensor | None) -> None:
        new = (total if todo is None else total.index_select(0, todo)).gather(1, permutation)
        if factor is not None:
            new = new * factor
        if add is not None:
            new = new + add
        if todo is None:
            total.copy_(new)
        else:
            total.index_copy_(0, todo, new)

    compose(moves.permutation[slot], None, None)
    total_sign, total_shift = moves.sign[slot], moves.shift[slot]
    if total_sign is not None:
        compose(total_sign, sign, None)
    if total_shift is not None:
        compose(total_shift, sign, shift)
