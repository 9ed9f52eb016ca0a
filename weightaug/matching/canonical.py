"""Normal forms: balanced scales, and one representative per orbit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.assignment import matmul
from weightaug.matching.colours import tolerance_of
from weightaug.matching.refinement import Refinement
from weightaug.matching.rules import Rule, Symmetry, check_finite, resolve, topological_slots
from weightaug.matching.surroundings import undisturbed
from weightaug.matching.table_canonical import table_representative

__all__ = ["balance", "canonicalize", "flat64", "to_representative", "unflat"]


def flat64(x: WeightSpaceElement, device: torch.device | None = None) -> WeightSpaceElement:
    """The networks as a flat float64 batch ``(B,)`` without autograd history, on a device."""
    dims, size = len(x.batch_shape), x.batch_shape.numel()
    return x.map(lambda t: t.detach().to(device or t.device, torch.float64).reshape(size, *t.shape[dims:]))


def unflat(group: GroupElement, x: WeightSpaceElement) -> GroupElement:
    """A group element of a flat batch in the batch shape, dtype and device of x.

    Factors are limited to numbers that have an inverse in the dtype, which float16 reaches for the neurons of pruned
    networks that are cut off.
    """
    smallest = torch.finfo(x.dtype).tiny

    def back(t: Tensor) -> Tensor:
        t = t.reshape(*x.batch_shape, *t.shape[1:])
        if t.is_floating_point():
            return (t.abs().clamp(smallest, 1 / smallest) * t.sign()).to(x.device, x.dtype)
        return t.to(x.device)

    return group.map(back)


# -- positive scales -----------------------------------------------------------------------------------


def balance(x: WeightSpaceElement, rules: Sequence[Rule], *, max_sweeps: int = 2000) -> GroupElement:
    """The positive scales that give every neuron incoming and outgoing parameters of the same norm.

    They minimise the norm of the network over its scale orbit, a convex problem in the logarithms, so they do
    not depend on where in the orbit it starts. That has no minimum where a neuron is cut off from the inputs and
    biases, or from the outputs. What such neurons still have counts for no other, and they get the scales that
    minimise the sum of the squared logarithms of their parameters, which always has a minimum.

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
    live = _live(x)
    squares = [w.square().flatten(3).sum(-1) if w.dim() > 3 else w.square() for w in x.weights]
    ones = [torch.ones(batch, n, dtype=x.dtype, device=x.device) for n in sizes]
    factors = [t.clone() for t in ones]  # squares of the scales

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

    for _ in range(max_sweeps):
        change = 0.0
        for s in slots:
            incoming, outgoing = norms(s)
            step = torch.where(live[s] & (incoming > 0) & (outgoing > 0), outgoing / incoming, 1.0).sqrt()
            factors[s] *= step
            change = max(change, float(step.log().abs().max()))
        if change < 1e-14:
            break
    scales = [f.sqrt() for f in factors]
    _scale_cut_off(x, slots, live, scales)
    return GroupElement.of(
        x.architecture, scale=tuple(scales[s] if rule.scale else None for s, rule in enumerate(rules))
    )


def _live(x: WeightSpaceElement) -> list[Tensor]:
    """Per hidden space, which neurons have paths both from an input or a bias and to an output, ``(B, n)``."""
    wiring = x.architecture.wiring
    there = [(w != 0).flatten(3).any(-1) if w.dim() > 3 else w != 0 for w in x.weights]
    fed = [torch.zeros(len(x), s.size, dtype=torch.bool, device=x.device) for s in x.architecture.hidden]
    used = [torch.zeros_like(t) for t in fed]
    order = topological_slots(x.architecture)
    for s in order:
        for l, edges in enumerate(there):
            if wiring.write_slots[l] == s:
                read, bias = wiring.read_slots[l], x.biases[l]
                fed[s] |= (edges if read is None else edges & fed[read].unsqueeze(1)).any(2)
                if bias is not None:
                    fed[s] |= bias != 0
    for s in order[::-1]:
        for l, edges in enumerate(there):
            if wiring.read_slots[l] == s:
                write = wiring.write_slots[l]
                used[s] |= (edges if write is None else edges & used[write].unsqueeze(2)).any(1)
    return [f & u for f, u in zip(fed, used, strict=True)]


def _scale_cut_off(x: WeightSpaceElement, slots: Sequence[int], live: Sequence[Tensor], scales: list[Tensor]) -> None:
    """Sets the scales of the neurons that are not live, in place, given those of the others.

    A parameter w between neurons with logarithms of scales s (written) and t (read) has log |w| + s - t. Least squares
    for these lead to a linear system whose matrix is the Laplacian of the graph of cut-off neurons.
    """
    arch, wiring = x.architecture, x.architecture.wiring
    offsets = [sum(arch.hidden[s].size for s in slots[:i]) for i in range(len(slots))]
    free = torch.cat([~live[s] for s in slots], 1)
    networks = free.any(1).nonzero().squeeze(1)
    if not len(networks):
        return
    total = free.shape[1]
    laplacian = torch.zeros(len(networks), total, total, dtype=x.dtype, device=x.device)
    pull = torch.zeros(len(networks), total, dtype=x.dtype, device=x.device)
    diagonal = torch.zeros_like(pull)
    place = {s: slice(o, o + arch.hidden[s].size) for s, o in zip(slots, offsets, strict=True)}
    for l, (weight, bias) in enumerate(zip(x.weights, x.biases, strict=True)):
        weight = weight[networks].flatten(3) if weight.dim() > 3 else weight[networks].unsqueeze(-1)
        count = (weight != 0).to(x.dtype).sum(-1)
        log = torch.where(weight != 0, weight.abs(), 1.0).log().sum(-1)
        write, read = (place.get(s) if s is not None else None for s in (wiring.write_slots[l], wiring.read_slots[l]))
        if write is not None:
            diagonal[:, write] += count.sum(2)
            pull[:, write] -= log.sum(2)
            if bias is not None:
                own = bias[networks]
                diagonal[:, write] += (own != 0).to(x.dtype)
                pull[:, write] -= torch.where(own != 0, own.abs(), 1.0).log()
        if read is not None:
            diagonal[:, read] += count.sum(1)
            pull[:, read] += log.sum(1)
        if write is not None and read is not None:
            laplacian[:, write, read] -= count
            laplacian[:, read, write] -= count.mT
    laplacian += torch.diag_embed(diagonal)
    cut = free[networks]
    known = torch.where(cut, 0.0, torch.cat([scales[s][networks] for s in slots], 1).log())
    pull = torch.where(cut, pull - matmul(laplacian, known.unsqueeze(2)).squeeze(2), 0.0)
    most = int(cut.sum(1).max())
    chosen = (~cut).to(torch.int8).argsort(dim=1, stable=True)[:, :most]  # the cut-off neurons, and some others
    inside = cut.gather(1, chosen)
    both = inside.unsqueeze(2) & inside.unsqueeze(1)
    system = laplacian.gather(1, chosen.unsqueeze(2).expand(-1, -1, total)).gather(
        2, chosen.unsqueeze(1).expand(-1, most, -1)
    )
    # A part that is connected to nothing else has no scale of its own: the smallest solution leaves its parameters
    # where every other solution does.
    inverse = torch.linalg.pinv(torch.where(both, system, 0.0), hermitian=True, rtol=1e-9)
    solution = torch.where(inside, matmul(inverse, pull.gather(1, chosen).unsqueeze(2)).squeeze(2), 0.0)
    logs = known.scatter_add(1, chosen, solution)
    for s in slots:
        scales[s][networks] = torch.where(cut[:, place[s]], logs[:, place[s]].exp(), scales[s][networks])


# -- one representative per orbit ------------------------------------------------------------------------


@undisturbed
def canonicalize(x: WeightSpaceElement, *, symmetry: Symmetry = "auto") -> GroupElement:
    """Finds the symmetry that brings a network to the representative of its orbit.

    ``act(x, canonicalize(x))`` computes the same function as ``x``; it is the same for all networks that
    symmetries turn into each other, and a second call finds nothing to do, pruned networks and equal neurons
    included. Both hold exactly for permutations and signs, in every dtype, and up to rounding for phases and
    scales, which round the weights that they move: in half precision that often changes the order of neurons.
    The group element can be replayed on gradients and momenta.

    In the canonical form, scales are balanced (every neuron's incoming parameters have the norm of its
    outgoing ones); phases bring biases into [-h/2, h/2] with h the half period; signs and places follow from
    fixed random functions of a neuron's incoming and outgoing weights, and, where these are equal for several
    neurons, of what their neighbours were found to be (colour refinement). Neurons that even this does not tell
    apart are taken to be exchangeable. That is true but for networks made to mislead it, such as those whose
    non-zero weights are all equal and form a regular graph: to decide those is as hard as graph isomorphism.

    Networks that are declared tensor by tensor (``Architecture.from_module``) are treated alike, with two differences.
    Their scales are those for which the squared logarithms of all entries that are not zero have the smallest sum,
    since what a norm reads has no norm of its own to balance; and the invertible maps of linear spaces (heads, low-rank
    pairs) give what writes and what reads such a space the same diagonal Gram matrix, which is unique where no two
    of its entries are equal.

    Args:
        x: The networks, of any batch shape.
        symmetry: ``"auto"``, or one or several of ``"permutation"``, ``"sign"``, ``"phase"``, ``"scale"``; for networks
            that are declared tensor by tensor of ``"permutation"``, ``"sign"``, ``"scale"``, ``"maps"``. Permutation is
            always among them.

    Returns:
        The group element, with tensors ``(*batch, size)``, of spaces within another ``(*batch, copies, size)``, and
        maps ``(*batch, [copies,] size, size)``.

    Raises:
        ValueError: If a value is not finite, the symmetry does not exist in this architecture, or what a linear space
            transmits has not full rank, so that its maps have no normal form.
    """
    check_finite(x, "x")
    if x.architecture.is_declared:
        return unflat(table_representative(flat64(x), symmetry, x.dtype), x)
    rules = resolve(x.architecture, symmetry)
    if not rules or x.batch_shape.numel() == 0:
        return GroupElement.identity(x.architecture)
    return unflat(to_representative(flat64(x), rules, x.dtype), x)


def to_representative(x: WeightSpaceElement, rules: Sequence[Rule], dtype: torch.dtype) -> GroupElement:
    """:func:`canonicalize` for a flat float64 batch whose values were rounded to some dtype."""
    balancing = balance(x, rules)
    rounds = any(rule.scale or rule.half_period is not None for rule in rules)
    return Refinement(act(x, balancing), rules, tolerance_of(dtype, rounds=rounds)).representative() @ balancing
