"""Sets of neurons, and the layers between them: what an architecture is made of."""

from __future__ import annotations

from dataclasses import dataclass

from weightaug._activations import Activation, as_activation
from weightaug._fields import as_bool, as_integer, as_integers, as_text
from weightaug._maps import MAPS, MapGroup

__all__ = ["Layer", "Space"]


@dataclass(frozen=True)
class Space:
    """A set of interchangeable neurons.

    Args:
        name: Unique within the architecture.
        size: Number of neurons, at least 1.
        activation: The non-linearity after the sum of everything that writes the space. None marks a
            fixed space, an input or an output, whose neurons have a meaning of their own. A name stands for
            the activation of that name. A norm stands here too, where it decides what
            passes: ``"batch_norm"``, ``"layer_norm"``, ``"rms_norm"``, ...
        permutes_with: A space whose permutation it shares, with factors of its own: the signals before and
            after a BatchNorm, the two branches of a gated unit.
        within: A space each of whose positions holds its own copy, moved independently: channels of a group,
            the inside of a head.
        linear: Whether maps that mix the neurons keep the function, since nothing acts on single ones. Which, the
            activation says: with ``"identity"`` all that are invertible (the rank of a low-rank pair, the inside of QK
            and VO), with ``"rms_norm"`` the orthogonal ones (a stream between norms without gains), with ``"rotary"``
            those that commute with rotary positions: neurons i and i + size / 2 as one complex number, times
            another.

    Raises:
        TypeError: If a field is of another type.
    """

    name: str
    size: int
    activation: Activation | None = None
    permutes_with: str | None = None
    within: str | None = None
    linear: bool = False

    @property
    def maps(self) -> MapGroup | None:
        """Which maps keep the function: ``"invertible"``, ``"orthogonal"``, ``"rotary"``, or None for none."""
        return MAPS.get(self.activation.name) if self.linear and self.activation is not None else None

    @property
    def symmetries(self) -> tuple[str, ...]:
        """Those of the activation, and ``"maps"`` for a linear space; none for a fixed one."""
        if self.activation is None:
            return ()
        return self.activation.symmetries + (("maps",) if self.linear else ())

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "name", as_text(self.name, "Space: name"))
        put(self, "size", as_integer(self.size, f"space {self.name!r}: size"))
        if self.activation is not None:
            put(self, "activation", as_activation(self.activation, f"space {self.name!r}: activation"))


@dataclass(frozen=True)
class Layer:
    """An affine map from one space to another. Its weight has the axes ``(written, read, *kernel)``.

    Args:
        name: Unique within the architecture.
        reads: Name of the space that it reads.
        writes: Name of the space that it writes (adds to, when several layers write it).
        kernel: Spatial sizes of a convolution; empty for a linear layer.
        bias: Whether it has a bias, of shape (written,).

    Raises:
        TypeError: If a field is of another type.
    """

    name: str
    reads: str
    writes: str
    kernel: tuple[int, ...] = ()
    bias: bool = True

    def __post_init__(self) -> None:
        put = object.__setattr__
        for key in ("name", "reads", "writes"):
            put(self, key, as_text(getattr(self, key), f"layer {self.name!r}: {key}"))
        put(self, "kernel", as_integers(self.kernel, f"layer {self.name!r}: kernel"))
        put(self, "bias", as_bool(self.bias, f"layer {self.name!r}: bias"))
