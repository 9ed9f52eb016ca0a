"""By which factors tensors may be multiplied: variables per dimension, and equations between them.

A monomial says how the entries of a tensor scale along one dimension: the product of the variables, each to its
power. Operators ask that a monomial is 1 (the sum over a dimension, a softmax), that it is positive (ReLU) or a sign
(tanh). An equation is solved for a variable with the exponent 1 or -1; where there is none, all its variables are
frozen at 1, which is always right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weightaug._tracing.dims import Dim

__all__ = ["Monomial", "Var", "freeze", "multiply", "power", "resolve", "restrict", "solve"]


class Var:
    """Factors along one dimension, one for each position.

    Attributes:
        dim: The dimension.
        kind: ``"all"``: any but zero; ``"positive"``; ``"sign"``: 1 or -1; ``"one"``: frozen.
        reason: The operator that restricted it.
        value: What it was substituted by, or None.
        parts: The variables of the parts of its dimension, once that is split.
        origin: The variable that it is a part of, or None.
    """

    __slots__ = ("dim", "kind", "origin", "parts", "reason", "value")

    def __init__(self, dim: Dim, kind: str = "all", reason: str = "identity", origin: Var | None = None) -> None:
        self.dim = dim
        self.kind = kind
        self.reason = reason
        self.value: Monomial | None = None
        self.parts: list[Var] | None = None
        self.origin = origin


Monomial = dict[Var, int]


def resolve(monomial: Monomial) -> Monomial:
    """The same in variables that stand for themselves."""
    total: Monomial = {}
    for var, exponent in monomial.items():
        if var.kind == "one":
            continue
        if var.value is None:
            total[var] = total.get(var, 0) + exponent
            continue
        var.value = resolve(var.value)
        for inner, e in var.value.items():
            total[inner] = total.get(inner, 0) + e * exponent
    return {var: e for var, e in total.items() if e}


def multiply(a: Monomial, b: Monomial, exponent: int = 1) -> Monomial:
    """A b^exponent."""
    total = dict(a)
    for var, e in b.items():
        total[var] = total.get(var, 0) + e * exponent
    return resolve(total)


def power(a: Monomial, exponent: int) -> Monomial:
    """a^exponent."""
    return {var: e * exponent for var, e in a.items()} if exponent else {}


def restrict(monomial: Monomial, kind: str, reason: str) -> None:
    """Asks that a monomial is positive, a sign, or 1: each of its variables has to be."""
    monomial = resolve(monomial)
    if kind == "all":
        return
    if kind == "one":
        solve(monomial, reason)
        return
    for var, exponent in monomial.items():
        if exponent % 2 == 0 and kind == "positive":
            continue  # a square
        if var.kind == "all":
            var.kind, var.reason = kind, reason
        elif var.kind != kind:
            freeze({var: 1}, reason)


def freeze(monomial: Monomial, reason: str) -> None:
    """Sets every variable of a monomial to 1."""
    for var in resolve(monomial):
        var.kind, var.reason = "one", reason


def solve(monomial: Monomial, reason: str) -> None:
    """Makes a monomial 1."""
    monomial = resolve(monomial)
    # A variable without restriction first, and of those the youngest, so that names stay those of the first writer.
    pivots = [var for var, e in monomial.items() if abs(e) == 1]
    if len(monomial) == 1 or not pivots:
        if len(monomial) == 1 and not pivots and all(e % 2 == 0 for e in monomial.values()):
            restrict_to_sign(monomial, reason)
        else:
            freeze(monomial, reason)
        return
    pivot = next((var for var in reversed(pivots) if var.kind == "all"), pivots[-1])
    exponent = monomial.pop(pivot)
    pivot.value = power(monomial, -exponent)
    if pivot.kind != "all":
        restrict(pivot.value, pivot.kind, pivot.reason)


def restrict_to_sign(monomial: Monomial, reason: str) -> None:
    """An even power of one variable is 1 for signs."""
    for var in resolve(monomial):
        if var.kind == "all":
            var.kind, var.reason = "sign", reason
        elif var.kind == "positive":
            freeze({var: 1}, reason)
