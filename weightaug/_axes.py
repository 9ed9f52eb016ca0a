"""How the axes of a tensor follow spaces of neurons: the table that every symmetry reads.

An axis is one section, or several that are concatenated; a section is a product of factors, slowest first; a
factor is a plain size, or a space (or several that share one permutation) with a degree::

    conv.weight     +c1 -c0 3 3              written by rows, read by columns
    fc.weight       +out -(c2 49)            a linear layer after flattening: each channel owns 49 columns
    bn.gain         +post                    degree 1 of what it writes
    bn.running_var  2pre                     a variance: degree 2
    q.weight        (0heads +qk) -stream     degree 0 follows the permutation alone
    decoder.weight  +c3 (-up|-skip) 3 3      reads a concatenation
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Axis", "Factor", "Section", "TensorSpec"]


@dataclass(frozen=True)
class Factor:
    """One factor of an axis: positions that move together.

    Args:
        size: Number of positions.
        roles: Pairs (space, degree). Degree 1 is written, -1 read, 0 follows the permutation alone, 2 a variance.
            Several spaces must share one permutation. Empty for positions that nothing moves.
    """

    size: int
    roles: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        signs = {1: "+", -1: "-"}
        return "".join(f"{signs.get(d, d)}{name}" for name, d in self.roles) or str(self.size)


Section: TypeAlias = tuple[Factor, ...]
Axis: TypeAlias = tuple[Section, ...]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of an architecture: its name, and what its axes follow.

    Args:
        name: Unique within the architecture; the parameter's name in a module.
        axes: One entry for each axis.
        eps: For a running variance v, what is added to it before the root is taken: with the factor a of its
            space it becomes a^2 (v + eps) - eps. None for every other tensor.
    """

    name: str
    axes: tuple[Axis, ...]
    eps: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor without batch dimensions."""
        return tuple([sum([math.prod([f.size for f in section]) for section in axis]) for axis in self.axes])

    def __str__(self) -> str:
        return " ".join(_write_axis(axis) for axis in self.axes) or "()"

    @classmethod
    def parse(cls, name: str, text: str, sizes: Mapping[str, int], eps: float | None = None) -> TensorSpec:
        """A tensor from its axes as text, for example ``"+c1 -(c0 49)"``.

        A sign before a bracket holds for every space in it that has none; a space without any sign has degree 0.

        Args:
            name: The parameter's name.
            text: Axes, separated by blanks; ``(a b)`` is a product, ``(a|b)`` a concatenation, a number a plain size.
            sizes: Size of every space.
            eps: See :class:`TensorSpec`.

        Raises:
            ValueError: If the text cannot be read, or a space is unknown.
        """
        axes = []
        position = 0
        text = text.strip()
        while position < len(text):
            if text[position].isspace():
                position += 1
                continue
            match = _AXIS.match(text, position)
            if match is None:
                raise ValueError(
                    f"tensor {name!r}: cannot read the axes {text!r} from {text[position:]!r} on; expected axes such "
                    "as '+c1', '-(c0 49)', '(-a|-b)' or '3', separated by blanks"
                )
            sign, inner, single = match.groups()
            sections = (single if inner is None else inner).split("|")
            axes.append(tuple(tuple(_factor(name, w, sign, sizes) for w in s.split()) for s in sections))
            position = match.end()
        return cls(name, tuple(axes), eps)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers."""
        axes = [[[[f.size, [list(role) for role in f.roles]] for f in s] for s in axis] for axis in self.axes]
        return {"name": self.name, "axes": axes, "eps": self.eps}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Inverse of :meth:`to_dict`."""
        axes = tuple(
            tuple(tuple(Factor(n, tuple((str(s), int(d)) for s, d in roles)) for n, roles in sec) for sec in axis)
            for axis in data["axes"]
        )
        return cls(data["name"], axes, data["eps"])


_WORD = re.compile(r"([+\-]|\d(?=[A-Za-z_]))?([^\s()|+\-]+)")
_AXIS = re.compile(r"(?:([+\-])?\(([^()]*)\)|([^\s()]+))(?=\s|$)")


def _factor(tensor: str, word: str, sign: str | None, sizes: Mapping[str, int]) -> Factor:
    if word.isdigit():
        return Factor(int(word))
    degrees = {"+": 1, "-": -1, None: 0}
    roles = []
    position = 0
    for match in _WORD.finditer(word):
        mark, space = match.groups()
        if match.start() != position:
            break
        position = match.end()
        if space not in sizes:
            raise ValueError(f"tensor {tensor!r}: {space!r} is no space; spaces: {sorted(sizes)}")
        mark = sign if mark is None else mark
        roles.append((space, int(mark) if mark is not None and mark.isdigit() else degrees[mark]))
    if position != len(word):
        raise ValueError(f"tensor {tensor!r}: cannot read the factor {word!r}; expected '+space', '-space' or a number")
    return Factor(sizes[roles[0][0]], tuple(roles))


def _write_axis(axis: Axis) -> str:
    sections = [" ".join(str(f) for f in section) or "1" for section in axis]
    return sections[0] if len(axis) == 1 and len(axis[0]) == 1 else f"({'|'.join(sections)})"
