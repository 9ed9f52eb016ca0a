"""How often matching finds the very best alignment, where that can be known: layers of three neurons."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor

from weightaug import Activation, Architecture, GroupElement, WeightSpaceElement, act
from weightaug.matching import match

ACTIVATIONS = {
    "sine, omega 1": Activation("sine", 1.0),
    "sine, omega 30": Activation("sine", 30.0),
    "tanh": Activation("tanh"),
    "gelu": Activation("gelu"),
    "relu, permutation": Activation("relu"),
}
STARTS = ("identity", "forward", "anneal")
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "three starts": {"starts": STARTS},
    "100 kicks": {"starts": STARTS, "kicks": 100},
    "300 kicks": {"starts": STARTS, "kicks": 300},
}


def optimum(a: WeightSpaceElement, b: WeightSpaceElement, symmetries: set[str]) -> Tensor:
    """The smallest squared distance over the whole group, ``(B,)``, for a 2-3-3-1 network: by trying all.

    Every permutation, sign and parity of the first layer; for each the second layer's best, which takes three sums of
    independent neurons per permutation.
    """
    activation = a.architecture.hidden[0].activation
    assert activation is not None
    signs = (1.0, -1.0) if "sign" in symmetries else (1.0,)
    parities = (0, 1) if "phase" in symmetries else (0,)
    states = list(product(signs, parities))
    period = activation.half_period or 1.0
    a1, u1, a2, u2, a3, u3 = a.tensors()
    b1, v1, b2, v2, b3, v3 = b.tensors()

    def rest(own: Tensor, other: Tensor, parity: int) -> Tensor:
        """Squared difference of biases, after the best shift of one parity."""
        gap = own - other
        if "phase" in symmetries:
            gap = gap - period * (2 * ((gap / period - parity) / 2).round() + parity)
        return gap.square()

    least = torch.full((len(a),), torch.inf, dtype=a.dtype)
    orders = list(permutations(range(3)))
    for p in orders:
        for choice in product(states, repeat=3):
            s = torch.tensor([c[0] for c in choice], dtype=a.dtype)
            c = s * torch.tensor([1.0 - 2 * k for _, k in choice], dtype=a.dtype)
            first = (a1 - s[:, None] * b1[:, p]).square().sum((1, 2))
            for i in range(3):
                first = first + rest(u1[:, i], s[i] * v1[:, p[i]], choice[i][1])
            moved = b2[:, :, p] * c
            cost = torch.full((len(a), 3, 3), torch.inf, dtype=a.dtype)
            for sign, parity in states:
                rows = (a2[:, :, None] - sign * moved[:, None]).square().sum(-1)
                biases = rest(u2[:, :, None], sign * v2[:, None], parity)
                out = sign * (1 - 2 * parity)
                columns = (a3[:, 0, :, None] - out * b3[:, 0, None]).square()
                cost = torch.minimum(cost, rows + biases + columns)
            second = torch.stack([sum(cost[:, i, q[i]] for i in range(3)) for q in orders]).amin(0)  # type: ignore[misc]
            least = torch.minimum(least, first + second)
    return least + (u3 - v3).square().sum(1)


def small(pairs: int) -> list[dict[str, Any]]:
    """The part of random pairs of 2-3-3-1 networks that end at the optimum, per activation and setting."""
    rows = []
    for name, activation in ACTIVATIONS.items():
        arch = Architecture.mlp((2, 3, 3, 1), activation)
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(2, pairs, arch.num_parameters, generator=generator, dtype=torch.float64)
        a, b = (WeightSpaceElement.unflatten(arch, v) for v in values)
        names = {"permutation"} if "permutation" in name else set(activation.symmetries) - {"scale"}
        best = optimum(a, b, names)
        row: dict[str, Any] = {"activation": name, "pairs": pairs}
        for setting, options in SETTINGS.items():
            group: GroupElement = match(
                a, b, symmetry=tuple(names), generator=torch.Generator().manual_seed(0), **options
            )
            reached = (a.flatten() - act(b, group).flatten()).square().sum(1)
            row[setting] = float((reached <= best * (1 + 1e-9)).double().mean())
            row[f"{setting}: lowest"] = float((reached / best).min())
        rows.append(row)
    return rows
