"""Normal forms: balanced scales, and one representative per orbit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.assignment import matmul
from weightaug.matching.rules import Rule, Symmetry, check_finite, resolve

__all__ = ["balance", "canonicalize", "flat64", "topological_slots", "unflat"]


def flat64(x: WeightSpaceElement, device: torch.device | None = None) -> WeightSpaceElement:
    """The networks as a flat float64 batch ``(B,)`` without autograd history, on a device."""
    dims, size = len(x.batch_shape), x.batch_shape.numel()
    return x.map(lambda t: t.detach().to(device or t.device, torch.float64).reshape(size, *t.shape[dims:]))


def unflat(group: GroupElement, x: WeightSpaceElement) -> GroupElement:
    """A group element of a flat batch in the batch shape, dtype and device of x."""
    return group.map(
        lambda t: t.reshape(*x.batch_shape, t.shape[-1]).to(x.device, x.dtype if t.is_floating_point() else t.dtype)
    )


def topological_slots(architecture: Architecture) -> list[int]:
    """The hidden spaces in an order in which everything that a space reads comes before it."""
    hidden = architecture.wiring.hidden
    return [hidden.index(space) for space in architecture.wiring.order if space in hidden]


# -- positive scales -----------------------------------------------------------------------------------


def balance(x: WeightSpaceElement, rules: Sequence[Rule], *, max_sweeps: int = 2000) -> GroupElement:
    """The positive scales that give every neuron incoming and outgoing parameters of the same norm.

    They minimise the norm of the network over its scale orbit, a convex problem in the logarithms, so they do
    not depend on where in the orbit it starts. A neuron without live inputs or outputs has no such minimum:
    what it still has is brought to norm 1, and counts nowhere else.

    Args:
        x: A flat float64 batch.
        rules: The symmetries in use.
        max_sweeps: Limit on the sweeps of the coordinate descent.
    """
    wiring = x.architecture.wiring
    slots = [s for s, rule in enumerate(rules) if rule.scale]
    sizes = [space.size for space in x.architecture.hidden]
    batch = x.batch_shape[0]
    if not slots or batch == 0:
        return GroupElement.identity(x.architecture)
    squares = [w.square().flatten(3).sum(-1) if w.dim() > 3 else w.square() for w in x.weights]
    ones = [torch.ones(batch, n, dtype=x.dtype, device=x.device) for n in sizes]
    factors = [t.clone() for t in ones]  # squares of the scales
    live = [t.clone() for t in ones]

    def norms(slot: int) -> tuple[Tensor, Tensor]:
        incoming, outgoing = torch.zeros_like(ones[slot]), torch.zeros_like(ones[slot])
        for l, square in enumerate(squares):
            write, read = wiring.write_slots[l], wiring.read_slots[l]
            if write == slot:
                if read is None:
                    incoming += square.sum(2)
                else:
                    incoming += matmul(square, (live[read] / factors[read]).unsqueeze(2)).squeeze(2)
                bias = x.biases[l]
                if bias is not None:
                    incoming += bias.square()
            if read == slot:
                if write is None:
                    outgoing += square.sum(1)
                else:
                    outgoing += matmul(square.mT, (live[write] * factors[write]).unsqueeze(2)).squeeze(2)
        return incoming * factors[slot], outgoing / factors[slot]

    for _ in range(len(sizes) + 1):  # the death of a neuron can leave another without live ends
        before = [t.clone() for t in live]
        for s in slots:
            incoming, outgoing = norms(s)
            live[s] = ((incoming > 0) & (outgoing > 0)).to(x.dtype)
        if all(torch.equal(p, q) for p, q in zip(before, live, strict=True)):
            break
    for _ in range(max_sweeps):
        change = 0.0
        for s in slots:
            incoming, outgoing = norms(s)
            step = torch.where(live[s] > 0, outgoing / incoming, 1.0).sqrt()
            factors[s] *= step
            change = max(change, float(step.log().abs().max()))
        if change < 1e-14:
            break
    for s in slots:
        incoming, outgoing = norms(s)
        alone = torch.where(incoming > 0, 1 / incoming, torch.where(outgoing > 0, outgoing, 1.0))
        factors[s] *= torch.where(live[s] > 0, 1.0, alone)
    scale = tuple(factors[s].sqrt() if rules[s].scale else None for s in range(len(rules)))
    return GroupElement.of(x.architecture, scale=scale)


# -- one representative per orbit ------------------------------------------------------------------------


@torch.no_grad()
def canonicalize(x: WeightSpaceElement, *, symmetry: Symmetry = "auto") -> GroupElement:
    """Finds the symmetry that brings a network to the representative of its orbit.

    ``act(x, canonicalize(x))`` computes the same function as ``x``; it is the same for all networks that
    symmetries turn into each other, and a second call finds nothing to do (both up to rounding). The group
    element can be replayed on gradients and momenta.

    In the canonical form, scales are balanced (every neuron's incoming parameters have the norm of its
    outgoing ones); then, from the inputs to the outputs, signs make a fixed projection of a neuron's
    incoming weights positive, phases bring its bias into [-h/2, h/2] with h the half period, and neurons
    stand in the order of a second projection. Neurons with equal incoming parameters are told apart by their
    outgoing ones, and so are the signs of neurons that are dead (constantly zero).

    Args:
        x: The networks, of any batch shape.
        symmetry: ``"auto"``, or one or several of ``"permutation"``, ``"sign"``, ``"phase"``, ``"scale"``.

    Returns:
        The group element, with tensors ``(*batch, size)``.

    Raises:
        ValueError: If a value is not finite, or the symmetry does not exist in this architecture.
    """
    check_finite(x, "x")
    rules = resolve(x.architecture, symmetry)
    if not rules or x.batch_shape.numel() == 0:
        return GroupElement.identity(x.architecture)
    start = flat64(x)
    eps = 64 * torch.finfo(x.dtype).eps
    group = balance(start, rules)
    y = act(start, group)
    wiring, arch = x.architecture.wiring, x.architecture
    # Dead neurons: their sign can only be read from their outgoing weights, which therefore must not decide
    # anything about the neurons after them.
    dead = [torch.zeros(len(y), s.size, dtype=torch.bool, device=y.device) for s in arch.hidden]
    for s in topological_slots(arch):
        rule = rules[s]
        rows, bias = _rows(y, s, rule, dead)
        sign, shift, dead[s] = _orient(rows, bias, rule, eps)
        step = _single(arch, s, None, sign, shift)
        y, group = act(y, step), step @ group
        rows, bias = _rows(y, s, rule, dead)
        order = _order(rows if bias is None else torch.cat([rows, bias.unsqueeze(-1)], -1), _outgoing(y, s), eps)
        step = _single(arch, s, order, None, None)
        y, group = act(y, step), step @ group
        dead[s] = dead[s].gather(1, order)
    for s, rule in enumerate(rules):
        if rule.sign == "odd" and bool(dead[s].any()):
            columns = torch.cat(
                [w.transpose(1, 2).flatten(2) for l, w in enumerate(y.weights) if wiring.read_slots[l] == s], -1
            )
            flip = torch.where(dead[s] & (_project(columns, 1) < 0), -1.0, 1.0).to(y.dtype)
            step = _single(arch, s, None, flip, None)
            y, group = act(y, step), step @ group
    return unflat(group, x)


def _single(
    arch: Architecture, slot: int, permutation: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> GroupElement:
    def only(t: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(t if s == slot else None for s in range(len(arch.hidden)))

    return GroupElement(arch, only(permutation), only(scale), only(shift))


def _rows(y: WeightSpaceElement, slot: int, rule: Rule, dead: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Incoming parameters ``(B, n, d)`` of one space, from living neurons; apart, the bias that phases move."""
    wiring = y.architecture.wiring
    rows: list[Tensor] = []
    moving: Tensor | None = None
    for l, (weight, bias) in enumerate(zip(y.weights, y.biases, strict=True)):
        if wiring.write_slots[l] != slot:
            continue
        read = wiring.read_slots[l]
        if read is not None and bool(dead[read].any()):
            alive = (~dead[read]).to(y.dtype)
            weight = weight * alive.reshape(len(y), 1, -1, *(1,) * (weight.dim() - 3))
        rows.append(weight.flatten(2))
        if bias is not None and rule.half_period is not None and wiring.bias_carriers[slot] == l:
            moving = bias
        elif bias is not None:
            rows.append(bias.unsqueeze(-1))
    return torch.cat(rows, -1), moving


def _outgoing(y: WeightSpaceElement, slot: int) -> Tensor:
    """A number per neuron that depends on its outgoing weights alone, not on the moves of later spaces, ``(B, n)``."""
    wiring = y.architecture.wiring
    total = torch.zeros(len(y), y.architecture.hidden[slot].size, dtype=y.dtype, device=y.device)
    for l, weight in enumerate(y.weights):
        if wiring.read_slots[l] == slot:
            columns = weight.transpose(1, 2).flatten(2)
            if wiring.write_slots[l] is None:
                total += _project(columns, 2)
            total += columns.square().sum(-1) + columns.abs().sum(-1)
    return total


def _project(rows: Tensor, which: int) -> Tensor:
    """Projects rows ``(..., d)`` on a fixed vector, which has no relation to what networks learn."""
    index = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
    return rows @ (torch.sin(index * (2.399963 + which) + which) + 0.1 * which)


def _orient(rows: Tensor, bias: Tensor | None, rule: Rule, eps: float) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """The canonical sign and shift of each neuron of a space, and which of them are constantly zero."""
    size = rows.abs().amax(-1)
    empty = size == 0
    sign = torch.ones_like(size)
    if rule.sign is not None:
        undecided = ~empty
        for which in (3, 4, 5):  # a projection that vanishes leaves the decision to the next one
            value = _project(rows, which)
            clear = undecided & (value.abs() > eps * size)
            sign = torch.where(clear & (value < 0), -1.0, sign)
            undecided &= ~clear
    if rule.half_period is None or bias is None:
        return (None if rule.sign is None else sign), None, empty & (rule.sign == "odd")
    h = rule.half_period
    shift = -(sign * bias / h).round()
    rest = sign * bias + shift * h
    if rule.sign is not None:  # with weights of zero, the sign of the bias decides
        flip = empty & (rest < 0)
        sign, shift = torch.where(flip, -sign, sign), torch.where(flip, -shift, shift)
    zero = rest.abs() if rule.sign != "even" else (rest.abs() - h / 2).abs()
    dead = empty & (zero <= eps * (bias.abs() + h))
    return (None if rule.sign is None else sign), shift.to(torch.int64), dead


def _order(rows: Tensor, tie: Tensor, eps: float) -> Tensor:
    """Sorts the neurons by a projection of their rows, and those with the same one by ``tie``."""
    key = _project(rows, 6)
    near = eps * rows.abs().sum(-1).amax(-1, keepdim=True)
    order = key.argsort(dim=-1, stable=True)
    ranked = key.gather(-1, order)
    gap = (ranked[:, 1:] - ranked[:, :-1]) > near
    group = torch.cat([torch.zeros_like(order[:, :1]), gap.cumsum(-1)], -1)
    rank = torch.empty_like(group).scatter_(-1, order, group)
    by_tie = tie.argsort(dim=-1, stable=True)
    return by_tie.gather(-1, rank.gather(-1, by_tie).argsort(dim=-1, stable=True))
