"""One operator in the graph, with its arguments by name, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from weightaug._tracing.values import Refused, Value

__all__ = ["RULES", "Call", "Rule", "rule"]


@dataclass
class Call:
    """An operator, applied.

    Attributes:
        name: The operator's name without its overload, for example ``"conv2d"``.
        where: The module that calls it.
        args: Its arguments by the names of its schema; tensors are values.
        shapes: The shape of each result.
        variances: For buffers that are running variances, what is added before the root; rules enter it.
    """

    name: str
    where: str
    args: dict[str, Any]
    shapes: list[tuple[int, ...]]
    variances: dict[str, float] = field(default_factory=dict)

    def value(self, name: str) -> Value:
        """A tensor argument."""
        given = self.args[name]
        if not isinstance(given, Value):
            raise self.refusal(f"expected a tensor for {name}, got {given!r}")
        return given

    def optional(self, name: str) -> Value | None:
        """A tensor argument, or None."""
        given = self.args.get(name)
        return given if isinstance(given, Value) else None

    @property
    def tensors(self) -> list[Value]:
        """All tensor arguments, those in lists too."""
        found: list[Value] = []
        for given in self.args.values():
            found.extend([v for v in (given if isinstance(given, (list, tuple)) else [given]) if isinstance(v, Value)])
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.shapes[0]

    def axis(self, name: str, value: Value) -> int:
        """An argument that counts axes, from the front."""
        return int(self.args[name]) % max(len(value.shape), 1)

    def axes(self, name: str, value: Value) -> list[int]:
        """An argument that counts one axis or several, from the front; all of them where it is left out or empty."""
        given, rank = self.args.get(name), len(value.shape)
        dims = list(range(rank)) if given is None or given == [] else given
        return [d % rank for d in (dims if isinstance(dims, (list, tuple)) else [dims])]

    def refusal(self, why: str) -> Refused:
        """The error that names the module and the operator."""
        return Refused(f"{self.where}: operator {self.name!r}: {why}")


Rule = Callable[[Call], "Value | Sequence[Value]"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enters a rule for operators into the table."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter
