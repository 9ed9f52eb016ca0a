"""Matching more than two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug._joining import cat
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.canonical import balance, flat64, unflat
from weightaug.matching.moves import Moves
from weightaug.matching.rules import Rule, Symmetry, check_count, check_finite, resolve
from weightaug.matching.surroundings import undisturbed
from weightaug.matching.table import match_table, neutral
from weightaug.matching.weight import check_declared, check_starts, match, solve, working_device

__all__ = ["align_to", "match_many"]

_REFERENCES = 8  # networks of a set that all are aligned to at first, each one a start of the rounds


def align_to(batch: WeightSpaceElement, reference: WeightSpaceElement, **options: Any) -> GroupElement:
    """Aligns every network of a batch to one reference.

    Args:
        batch: The networks to align, of any batch shape.
        reference: One network, batch shape ``()``, or a batch that broadcasts to the batch shape.
        **options: As for :func:`match`.

    Returns:
        The group element g for which ``act(batch, g)`` is aligned, with tensors ``(*batch, size)``.

    Raises:
        ValueError: As for :func:`match`, or if the reference does not broadcast to the batch.
    """
    shape, own = batch.batch_shape, reference.batch_shape
    try:
        fits = torch.broadcast_shapes(shape, own) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"reference: expected one network (batch shape ()) or a shape that broadcasts to {tuple(shape)}, got "
            f"{tuple(own)}"
        )
    spread = reference.map(lambda t: t.expand(*shape, *t.shape[len(own) :]))
    return match(spread, batch, **options)


@undisturbed
def match_many(
    x: WeightSpaceElement,
    *,
    symmetry: Symmetry = "auto",
    starts: Sequence[str] = ("forward",),
    max_rounds: int = 100,
    max_sweeps: int = 100,
) -> tuple[GroupElement, WeightSpaceElement]:
    """Aligns sets of networks jointly, each set to its own barycentre.

    In turns, every network of a set is aligned to the mean of the others, until a round changes nothing (or, with
    positive scales, next to nothing). That starts several times, from the networks as they are and from all of them
    aligned to one of the first eight, with turns in four orders, and the best result is kept for each set. So the
    sum of squared distances to the mean is never larger than before, measured in the frame of the first network, scales
    included. All networks end in that frame, so the maps between any two, ``g[i].inverse() @ g[j]``, are
    cycle-consistent.

    Args:
        x: Networks of batch shape ``(*batch, k)``: sets of k networks.
        symmetry: As for :func:`match`.
        starts: As for :func:`match`; every alignment starts from where the network is, too.
        max_rounds: Limit on the rounds.
        max_sweeps: As for :func:`match`, at least 1.

    Returns:
        The group element g with tensors ``(*batch, k, size)``, the identity for the first network of each
        set, and the barycentre, the mean of ``act(x, g)``, of batch shape ``(*batch,)``.

    Raises:
        ValueError: If x is one network or its sets are empty, or as for :func:`match`.

    Source: Ainsworth et al. (2022), Git Re-Basin, algorithm 3 (MergeMany), for permutations.
    """
    if not x.batch_shape or x.batch_shape[-1] == 0:
        raise ValueError(
            f"match_many: expected sets of networks, batch shape (*batch, k) with k >= 1, got {tuple(x.batch_shape)}"
        )
    check_finite(x, "x")
    check_starts(starts)
    check_count("max_sweeps", max_sweeps, 1)
    settings: dict[str, Any] = {"starts": starts, "max_sweeps": max_sweeps}
    aligner: _Layers | _Table | None
    if x.architecture.is_declared:
        names = check_declared(x.architecture, symmetry, starts)
        if "scale" in names:
            raise ValueError(
                "match_many: sets of networks that are declared tensor by tensor keep their scales, got "
                f"symmetry={symmetry!r}; leave 'scale' out, or give it networks in canonical scales: "
                "act(x, canonicalize(x, symmetry='scale'))"
            )
        aligner = _Table("maps" in names, "sign" in names, **settings)
    else:
        rules = resolve(x.architecture, symmetry)
        aligner = _Layers(rules, **settings) if rules else None
    k = x.batch_shape[-1]
    device = torch.device("cpu") if x.architecture.is_declared else working_device(x)
    flat = flat64(x, device).map(lambda t: t.unflatten(0, (len(t) // k, k)))
    networks = [flat[:, i] for i in range(k)]
    group = GroupElement.identity(x.architecture)
    if aligner is not None and len(flat):
        still = [aligner.still(network) for network in networks]
        begin = [still]
        for reference in networks[: _REFERENCES if k > 1 else 0]:
            there = [aligner.placed(reference, network) for network in networks]
            to_first = there[0].inverse()  # distances are measured in its scales
            begin.append([still[0], *(to_first @ group for group in there[1:])])
        together = [cat([network] * len(begin)) for network in networks]
        joined_starts = [GroupElement.cat(start) for start in zip(*begin, strict=True)]
        turns = _orders(k)
        ends = [_merge(together, joined_starts, aligner, turn, max_rounds) for turn in turns]
        groups = [GroupElement.cat(both) for both in zip(*(groups for groups, _ in ends), strict=True)]
        spread = torch.cat([spread for _, spread in ends])
        begin = begin * len(turns)
        better = spread.view(len(begin), -1).argmin(0) * len(flat) + torch.arange(len(flat), device=spread.device)
        first = groups[0][better].inverse()
        back = [first @ g[better] for g in groups]
        joined: GroupElement = pytree.tree_map(lambda *tensors: torch.stack(tensors, 1).flatten(0, 1), *back)
        group = unflat(joined, x)
    dim = len(x.batch_shape) - 1
    return group, act(x, group).map(lambda t: t.mean(dim))


def _orders(k: int) -> list[list[int]]:
    """The orders in which the networks of a set take their turns; which local optimum is found hangs on them.

    On fitted sets, four orders are worth more than a second start of every alignment, and cost less.
    """
    forward = list(range(k))
    if k < 3:  # two networks only exchange their turns
        return [forward]
    fixed = torch.Generator().manual_seed(0)  # the same for every set, so that a result does not hang on a draw
    return [forward, forward[::-1], *(torch.randperm(k, generator=fixed).tolist() for _ in range(2))]


@dataclass(frozen=True)
class _Layers:
    """How networks that are declared by layers are aligned, with rules for each space."""

    rules: tuple[Rule, ...]
    starts: Sequence[str]
    max_sweeps: int

    def still(self, x: WeightSpaceElement) -> GroupElement:
        """The identity with a tensor for every part that the rules allow."""
        group = Moves.identity(x, self.rules).group(x.architecture)
        ones = [torch.ones_like(p, dtype=x.dtype) for p in group.permutation if p is not None]
        scale = tuple(one if rule.scale else a for rule, a, one in zip(self.rules, group.scale, ones, strict=True))
        return GroupElement.of(x.architecture, permutation=group.permutation, scale=scale, shift=group.shift)

    def placed(self, a: WeightSpaceElement, b: WeightSpaceElement) -> GroupElement:
        """What aligns b to a, in the scales of a."""
        balance_a, balance_b = balance(a, self.rules), balance(b, self.rules)
        pair = act(a, balance_a), act(b, balance_b)
        moves, _ = solve(*pair, self.rules, self.starts, max_sweeps=self.max_sweeps)
        return balance_a.inverse() @ moves.group(a.architecture) @ balance_b

    def step(self, mean: WeightSpaceElement, own: WeightSpaceElement, *, scales: bool) -> GroupElement:
        """What brings a network nearer to the mean of the others, from where it is."""
        names = ("identity", *(name for name in self.starts if name != "identity"))
        moves, _ = solve(mean, own, self.rules, names, max_sweeps=self.max_sweeps)
        step = moves.group(own.architecture)
        return _nearer_scales(mean, act(own, step), self.rules) @ step if scales else step


@dataclass(frozen=True)
class _Table:
    """How networks that are declared tensor by tensor are aligned: by permutations, signs and orthogonal maps."""

    maps: bool
    signs: bool
    starts: Sequence[str]
    max_sweeps: int

    def still(self, x: WeightSpaceElement) -> GroupElement:
        """The identity with a tensor for every part that is found."""
        return neutral(x.architecture, len(x), self.maps, self.signs, x.dtype)

    def placed(self, a: WeightSpaceElement, b: WeightSpaceElement) -> GroupElement:
        """What aligns b to a."""
        return match_table(a, b, maps=self.maps, signs=self.signs, max_sweeps=self.max_sweeps, starts=self.starts)

    def step(self, mean: WeightSpaceElement, own: WeightSpaceElement, *, scales: bool) -> GroupElement:
        """What brings a network nearer to the mean of the others, from where it is."""
        names = ("identity", *(name for name in self.starts if name != "identity"))
        return match_table(mean, own, maps=self.maps, signs=self.signs, max_sweeps=self.max_sweeps, starts=names)


def _merge(
    networks: Sequence[WeightSpaceElement],
    groups: Sequence[GroupElement],
    aligner: _Layers | _Table,
    turn: Sequence[int],
    max_rounds: int,
) -> tuple[list[GroupElement], Tensor]:
    """Aligns each of k networks to the mean of the others, in turns, for every set of a batch.

    Args:
        networks: k flat float64 batches ``(S,)``.
        groups: Where they start.
        aligner: How one network is aligned to others.
        turn: The order of the networks in each round.
        max_rounds: Limit on the rounds.

    Returns:
        Where they end, and the sums of their squared distances to their mean, ``(S,)``.
    """
    groups = [group.map(Tensor.clone) for group in groups]  # written into below
    placed = [act(x, g) for x, g in zip(networks, groups, strict=True)]
    total = _total(placed)
    count, arch = len(networks), networks[0].architecture
    spread = _spread(placed, total)
    todo = torch.arange(len(total), device=total.device)
    for _ in range(max_rounds if count > 1 else 0):
        for i in turn:
            own = placed[i][todo]
            others = (total[todo] - own.flatten()) / (count - 1)
            mean = WeightSpaceElement.unflatten(arch, others)
            step = aligner.step(mean, own, scales=i > 0)  # the first keeps its scales, or all would shrink together
            new = act(own, step)
            # Rounding aside, it is never farther from the others than it was.
            worse = (new.flatten() - others).square().sum(-1) > (own.flatten() - others).square().sum(-1)
            total[todo] = torch.where(worse.unsqueeze(1), total[todo], total[todo] - own.flatten() + new.flatten())
            _put(placed[i], todo[~worse], new[~worse])
            _put(groups[i], todo[~worse], (step @ groups[i][todo])[~worse])
        before, spread = spread, _spread(placed, total)
        todo = todo[(spread < before * (1 - 1e-7))[todo]]
        if not len(todo):
            break
    return groups, spread


def _put(old: GroupElement | WeightSpaceElement, index: Tensor, new: GroupElement | WeightSpaceElement) -> None:
    """Writes into some entries of a batch, in place."""
    for whole, part in zip(pytree.tree_leaves(old), pytree.tree_leaves(new), strict=True):
        whole[index] = part


def _total(placed: Sequence[WeightSpaceElement]) -> Tensor:
    return torch.stack([x.flatten() for x in placed]).sum(0)


def _spread(placed: Sequence[WeightSpaceElement], total: Tensor) -> Tensor:
    center = total / len(placed)
    return torch.stack([(x.flatten() - center).square().sum(-1) for x in placed]).sum(0)


def _nearer_scales(a: WeightSpaceElement, b: WeightSpaceElement, rules: Sequence[Rule]) -> GroupElement:
    """The positive scales that bring b nearer to a, one space after the other, scales of a as they are.

    A factor c of a neuron changes its part of the squared distance to A c^2 - 2 P c + D / c^2 - 2 Q / c, whose minimum
    next to 1 Newton's method finds in log c.
    """
    arch, wiring = a.architecture, a.architecture.wiring
    group = GroupElement.identity(arch)
    for s, rule in enumerate(rules):
        if not rule.scale:
            continue
        zero = torch.zeros(len(a), arch.hidden[s].size, dtype=a.dtype, device=a.device)
        norm_in, dot_in, norm_out, dot_out = zero, zero, zero, zero
        for l, (wa, wb, va, vb) in enumerate(zip(a.weights, b.weights, a.biases, b.biases, strict=True)):
            if wiring.write_slots[l] == s:
                norm_in = norm_in + wb.flatten(2).square().sum(-1)
                dot_in = dot_in + (wa * wb).flatten(2).sum(-1)
                if va is not None and vb is not None:
                    norm_in, dot_in = norm_in + vb.square(), dot_in + va * vb
            if wiring.read_slots[l] == s:
                norm_out = norm_out + wb.transpose(1, 2).flatten(2).square().sum(-1)
                dot_out = dot_out + (wa * wb).transpose(1, 2).flatten(2).sum(-1)

        def part(c: Tensor) -> Tensor:
            return norm_in * c**2 - 2 * dot_in * c + norm_out / c**2 - 2 * dot_out / c  # noqa: B023 (called here)

        log = torch.zeros_like(zero)
        for _ in range(20):
            c = log.exp()
            slope = norm_in * c**2 - dot_in * c - norm_out / c**2 + dot_out / c
            bend = (2 * norm_in * c**2 - dot_in * c + 2 * norm_out / c**2 - dot_out / c).abs()
            log = log - torch.where(bend > 0, slope / bend, 0.0).clamp(-0.5, 0.5)
        scale = torch.where(part(log.exp()) < part(torch.ones_like(log)), log.exp(), 1.0)
        step = GroupElement.of(arch, scale=tuple(scale if t == s else None for t in range(len(rules))))
        b, group = act(b, step), step @ group
    return group
