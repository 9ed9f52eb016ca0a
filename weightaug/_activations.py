"""The non-linearities that are known, and the exact symmetries of each."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from weightaug._fields import as_number, as_text

__all__ = ["Activation", "as_activation"]


class _Traits(NamedTuple):
    function: Callable[[Tensor], Tensor]
    odd: bool = False
    even: bool = False
    homogeneous: bool = False
    half_period: float | None = None
    permutes: bool = True


def _gaussian(z: Tensor) -> Tensor:
    return torch.exp(-z.square())


# The exact symmetry of each non-linearity, at omega = 1.
_KNOWN: dict[str, _Traits] = {
    "identity": _Traits(lambda z: z, odd=True, homogeneous=True),
    "sine": _Traits(torch.sin, odd=True, half_period=math.pi),
    "cosine": _Traits(torch.cos, even=True, half_period=math.pi),
    "relu": _Traits(F.relu, homogeneous=True),
    "leaky_relu": _Traits(F.leaky_relu, homogeneous=True),
    "abs": _Traits(torch.abs, even=True, homogeneous=True),
    "square": _Traits(torch.square, even=True),
    "tanh": _Traits(torch.tanh, odd=True),
    "erf": _Traits(torch.erf, odd=True),
    "arctan": _Traits(torch.atan, odd=True),
    "softsign": _Traits(F.softsign, odd=True),
    "gaussian": _Traits(_gaussian, even=True),
    "sigmoid": _Traits(torch.sigmoid),
    "softplus": _Traits(F.softplus),
    "gelu": _Traits(F.gelu),
    "silu": _Traits(F.silu),
    "elu": _Traits(F.elu),
    "selu": _Traits(F.selu),
    "mish": _Traits(F.mish),
}

# What stands in the place of an activation where something else meets the neurons; none can be evaluated here.
# Each name: the part of the invertible maps that passes it, besides permutations.
_OTHERS: dict[str, _Traits] = {
    "batch_norm": _Traits(F.relu, homogeneous=True),
    "rms_norm": _Traits(torch.sin, odd=True),
    "positive": _Traits(F.relu, homogeneous=True),
    "sign": _Traits(torch.sin, odd=True),
    **dict.fromkeys(("layer_norm", "group_norm", "softmax", "shared"), _Traits(F.gelu)),
    "rotary": _Traits(F.gelu, permutes=False),  # each pair of neurons turns at a frequency of its own
}


@dataclass(frozen=True)
class Activation:
    """A non-linearity phi(z) = name(omega * z), and the symmetries that it allows.

    A name that weightaug does not know is accepted with a warning: such an activation has no symmetry
    but permutation, and cannot be evaluated.

    Args:
        name: One of ``Activation.known()``, for example ``"sine"``, ``"relu"`` or ``"tanh"``.
        omega: Frequency that multiplies the pre-activation; positive and finite. 30 for most SIRENs.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If omega is not a positive finite number.
    """

    name: str
    omega: float = 1.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "name", as_text(self.name, "Activation: name", "; for example Activation('relu')"))
        put(self, "omega", as_number(self.omega, f"activation {self.name!r}: omega"))
        if not (math.isfinite(self.omega) and self.omega > 0):
            raise ValueError(f"activation {self.name!r}: omega must be a positive finite number, got {self.omega!r}")
        if self.name not in _KNOWN and self.name not in _OTHERS:
            near = difflib.get_close_matches(self.name, _KNOWN, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            warnings.warn(
                f"unknown activation {self.name!r}{hint}: only the permutation symmetry is used for it, and "
                f"networks with it cannot be evaluated; known: {', '.join(sorted(_KNOWN))}",
                UserWarning,
                stacklevel=3,
            )

    @staticmethod
    def known() -> tuple[str, ...]:
        """Names of the activations whose symmetries weightaug knows and that it can evaluate."""
        return tuple(_KNOWN)

    @property
    def _traits(self) -> _Traits | None:
        return _KNOWN.get(self.name) or _OTHERS.get(self.name)

    @property
    def is_known(self) -> bool:
        """Whether weightaug can evaluate this activation and knows its symmetries."""
        return self.name in _KNOWN

    @property
    def odd(self) -> bool:
        """phi(-z) = -phi(z): the sign symmetry."""
        traits = self._traits
        return traits is not None and traits.odd

    @property
    def even(self) -> bool:
        """phi(-z) = phi(z): a sign symmetry that leaves the next layer alone."""
        traits = self._traits
        return traits is not None and traits.even

    @property
    def positively_homogeneous(self) -> bool:
        """phi(c z) = c phi(z) for c > 0: the positive scale symmetry."""
        traits = self._traits
        return traits is not None and traits.homogeneous

    @property
    def half_period(self) -> float | None:
        """The shift h with phi(z + h) = -phi(z), pi / omega for the sine; None if there is none."""
        traits = self._traits
        if traits is None or traits.half_period is None:
            return None
        return traits.half_period / self.omega

    @property
    def permutes(self) -> bool:
        """Whether its neurons are interchangeable: all but those under rotary positions."""
        traits = self._traits
        return traits is None or traits.permutes

    @property
    def symmetries(self) -> tuple[str, ...]:
        """Names of the exact symmetries: ``"permutation"`` and any of ``"sign"``, ``"phase"``, ``"scale"``."""
        names = ["permutation"] if self.permutes else []
        if self.odd or self.even:
            names.append("sign")
        if self.half_period is not None:
            names.append("phase")
        if self.positively_homogeneous:
            names.append("scale")
        return tuple(names)

    def __call__(self, z: Tensor) -> Tensor:
        """Evaluates name(omega * z), element by element.

        Raises:
            ValueError: If the activation is unknown.
        """
        traits = _KNOWN.get(self.name)
        if traits is None:
            raise ValueError(
                f"cannot evaluate the unknown activation {self.name!r}; known: {', '.join(sorted(_KNOWN))}"
            )
        return traits.function(z if self.omega == 1.0 else self.omega * z)


def as_activation(value: Any, what: str) -> Activation:
    """An activation from one or from its name.

    Raises:
        TypeError: If it is neither, such as a module of ``torch.nn``.
    """
    if isinstance(value, Activation):
        return value
    if isinstance(value, str):
        return Activation(value)
    # torch's names are ours without the underscores and capitals.
    given = getattr(value, "__name__", type(value).__name__).lower()
    name = next((known for known in _KNOWN if known.replace("_", "") == given), "relu")
    raise TypeError(f"{what}: expected an Activation or its name, got {value!r}; for example Activation({name!r})")
