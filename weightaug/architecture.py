"""What a network looks like: spaces of neurons, and layers that read and write them.

An :class:`Architecture` holds no tensor. It says which axes of which parameters belong to the same
neurons (the permutation specification of Git Re-Basin), and, beyond that, which non-linearity acts on
them, because the non-linearity decides which symmetries exist besides permutation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from weightaug._activations import Activation, as_activation
from weightaug._axes import TensorSpec
from weightaug._fields import as_integers, as_number, as_parts, as_text
from weightaug._html import of_architecture
from weightaug._json import parsed
from weightaug._spaces import Layer, Space
from weightaug._table import Expanded, Plan, check_table, expand_layers, plan_table
from weightaug._wiring import Wiring

__all__ = ["Activation", "Architecture", "Layer", "Space", "TensorSpec"]


@dataclass(frozen=True)
class Architecture:
    """Spaces, and the layers between them. Frozen, hashable, comparable, JSON-able, holds no tensor.

    Several layers may read or write one space, so residual and branched networks need nothing more.

    Args:
        spaces: All spaces. Those without an activation are inputs (never written) or outputs (never read).
        layers: All layers, in the order in which an element stores their parameters; the short way to write a
            multi-layer perceptron. Empty for an architecture that is declared tensor by tensor.
        output_offset: Constant that is added to every output (0.5 in the INRs of DWSNets and the paper).
        tensors: Every tensor, and what its axes follow. Layers expand to it; give one or the other.
        convention: Name of the convention of coordinates and values that the networks follow, where it is known;
            see :func:`weightaug.convert`. Networks of different conventions are of different architectures.

    Attributes:
        hidden: The hidden spaces, in the order that every per-space tuple follows.
        inputs: The spaces that no layer writes.
        outputs: The spaces that no layer reads.
        num_parameters: Number of weights and biases of one network.
        sizes: Number of entries of every tensor of one network.
        masters: For each hidden space, the position in ``hidden`` of the one whose permutation it follows.
        movers: The positions in ``hidden`` of those that have permutations of their own.
        outers: For each hidden space, the position in ``hidden`` of the one that it lies within; None if it lies
            within none, or a fixed one.
        outer_sizes: For each hidden space, the number of copies of it; None if it lies within none.
        slot_shapes: For each hidden space, ``(size,)``, or ``(copies, size)`` if it lies within another.
        module: What evaluates the networks of a traced architecture: a module without values. None otherwise.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a name is used twice or refers to nothing, a size is not positive, a hidden space is
            not both written and read, a fixed space is both, or the layers form a cycle.
    """

    spaces: tuple[Space, ...]
    layers: tuple[Layer, ...] = ()
    output_offset: float = 0.0
    tensors: tuple[TensorSpec, ...] = ()
    convention: str | None = field(default=None, kw_only=True)
    _repr_html_ = of_architecture

    # What follows from them. Every transform asks for it in every call, so it is worked out once.
    hidden: tuple[Space, ...] = field(init=False, repr=False, compare=False)
    inputs: tuple[Space, ...] = field(init=False, repr=False, compare=False)
    outputs: tuple[Space, ...] = field(init=False, repr=False, compare=False)
    num_parameters: int = field(init=False, repr=False, compare=False)
    sizes: list[int] = field(init=False, repr=False, compare=False)
    wiring: Wiring = field(init=False, repr=False, compare=False)
    plan: tuple[Plan, ...] = field(init=False, repr=False, compare=False)
    masters: tuple[int, ...] = field(init=False, repr=False, compare=False)
    movers: tuple[int, ...] = field(init=False, repr=False, compare=False)
    outers: tuple[int | None, ...] = field(init=False, repr=False, compare=False)
    outer_sizes: tuple[int | None, ...] = field(init=False, repr=False, compare=False)
    slot_shapes: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    module: nn.Module | None = field(init=False, repr=False, compare=False, default=None)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "spaces", as_parts(self.spaces, Space, "spaces"))
        put(self, "layers", as_parts(self.layers, Layer, "layers"))
        put(self, "output_offset", as_number(self.output_offset, "output_offset"))
        if self.convention is not None:
            put(self, "convention", as_text(self.convention, "convention"))
        if isinstance(self.tensors, Expanded):
            put(self, "tensors", ())
        self._check_fields()
        put(self, "tensors", tuple(self.tensors) or expand_layers(self.spaces, self.layers))
        put(self, "wiring", self._wire() if self.layers else self._wire_table())
        for kind in ("hidden", "inputs", "outputs"):
            put(self, kind, tuple(self.spaces[i] for i in getattr(self.wiring, kind)))
        put(self, "sizes", [math.prod(spec.shape) for spec in self.tensors])
        put(self, "num_parameters", sum(self.sizes))
        position = {f"{layer.name}.bias": l for l, layer in enumerate(self.layers)}
        carriers = {l: s for s, l in enumerate(self.wiring.bias_carriers) if l is not None}
        tensors = {carriers.get(position.get(spec.name, -1), -1): i for i, spec in enumerate(self.tensors)}
        put(self, "plan", plan_table(self.spaces, self.tensors, [tensors.get(s) for s in range(len(self.hidden))]))
        slots = {space.name: s for s, space in enumerate(self.hidden)}
        sizes = {space.name: space.size for space in self.spaces}
        put(self, "masters", tuple([slots.get(s.permutes_with or s.name, 0) for s in self.hidden]))
        put(self, "movers", tuple([s for s, m in enumerate(self.masters) if s == m and self._permutes(s)]))
        put(self, "outers", tuple([slots.get(s.within or "") for s in self.hidden]))
        put(self, "outer_sizes", tuple([None if s.within is None else sizes[s.within] for s in self.hidden]))
        copies = [() if n is None else (n,) for n in self.outer_sizes]
        put(self, "slot_shapes", tuple([(*n, s.size) for n, s in zip(copies, self.hidden, strict=True)]))
        put(self, "_hash", hash((self.spaces, self.layers, self.output_offset, self.tensors, self.convention)))

    def _permutes(self, slot: int) -> bool:
        activation = self.hidden[slot].activation
        return activation is not None and activation.permutes

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # Hashes of strings differ between processes, so the cached one must not travel.
        if not self.is_declared:
            return _rebuild, (self.spaces, self.layers, self.output_offset, self.convention)
        return _restore, ((self.spaces, self.layers, self.output_offset, self.tensors), self.module)

    def __repr__(self) -> str:
        if self.is_declared:  # hundreds of tensors are no help in a message
            return f"<Architecture of {len(self.tensors)} tensors, {len(self.hidden)} spaces>"
        of = "" if self.convention is None else f", convention={self.convention!r}"
        return f"Architecture(spaces={self.spaces!r}, layers={self.layers!r}, output_offset={self.output_offset!r}{of})"

    def _check_fields(self) -> None:
        for kind, names in (
            ("space", [s.name for s in self.spaces]),
            ("layer", [l.name for l in self.layers]),
        ):
            if not names and not (self.tensors and kind == "layer"):
                raise ValueError(f"an architecture needs at least one {kind}, got none")
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{kind} name {name!r} is used {names.count(name)} times; names must be unique")
        for space in self.spaces:
            if space.size < 1:
                raise ValueError(f"space {space.name!r}: size must be at least 1, got {space.size}")
        known = {space.name for space in self.spaces}
        for layer in self.layers:
            for verb, name in (("reads", layer.reads), ("writes", layer.writes)):
                if name not in known:
                    raise ValueError(
                        f"layer {layer.name!r} {verb} {name!r}, which is no space; spaces: {sorted(known)}"
                    )
            if any(k < 1 for k in layer.kernel):
                raise ValueError(f"layer {layer.name!r}: kernel sizes must be positive, got {layer.kernel}")
        if self.tensors and self.layers:
            raise ValueError("give layers or tensors, got both; layers are the short way to write tensors")
        for space in self.spaces if self.layers else ():
            if space.permutes_with is not None or space.within is not None or space.linear:
                raise ValueError(
                    f"space {space.name!r}: permutes_with, within and linear need an architecture declared by tensors"
                )
        if not math.isfinite(self.output_offset):
            raise ValueError(f"output_offset must be finite, got {self.output_offset}")

    def _wire_table(self) -> Wiring:
        check_table(self.spaces, self.tensors)
        hidden = tuple([i for i, s in enumerate(self.spaces) if s.activation is not None])
        return Wiring((), (), hidden, (), (), (), (), (), (None,) * len(hidden))

    def _wire(self) -> Wiring:
        index = {space.name: i for i, space in enumerate(self.spaces)}
        reads = tuple(index[layer.reads] for layer in self.layers)
        writes = tuple(index[layer.writes] for layer in self.layers)
        hidden = tuple(i for i, s in enumerate(self.spaces) if s.activation is not None)
        for i, space in enumerate(self.spaces):
            if i in hidden and (i not in reads or i not in writes):
                missing = "read" if i not in reads else "written"
                raise ValueError(f"hidden space {space.name!r} is never {missing}; a hidden space needs both")
            if i not in hidden and i in reads and i in writes:
                raise ValueError(
                    f"space {space.name!r} is both written and read, so it is hidden and needs an activation; "
                    "use Activation('identity') for a linear one"
                )
            if i not in reads and i not in writes:
                raise ValueError(f"space {space.name!r} is neither read nor written by any layer")
        slot = {space: k for k, space in enumerate(hidden)}
        carriers = tuple(
            next((l for l, w in enumerate(writes) if w == i and self.layers[l].bias), None) for i in hidden
        )
        return Wiring(
            reads=reads,
            writes=writes,
            hidden=hidden,
            inputs=tuple(i for i in range(len(self.spaces)) if i not in writes),
            outputs=tuple(i for i in range(len(self.spaces)) if i not in reads),
            order=self._topological_order(reads, writes),
            read_slots=tuple(slot.get(i) for i in reads),
            write_slots=tuple(slot.get(i) for i in writes),
            bias_carriers=carriers,
        )

    def _topological_order(self, reads: Sequence[int], writes: Sequence[int]) -> tuple[int, ...]:
        order: list[int] = []
        waiting = list(range(len(self.spaces)))
        while waiting:
            ready = [i for i in waiting if all(r in order for r, w in zip(reads, writes, strict=True) if w == i)]
            if not ready:
                names = [self.spaces[i].name for i in waiting]
                raise ValueError(f"the layers form a cycle through the spaces {names}; networks must be feed-forward")
            order.extend(ready)
            waiting = [i for i in waiting if i not in ready]
        return tuple(order)

    # -- constructors --------------------------------------------------------------------------------

    @classmethod
    def mlp(
        cls,
        sizes: Sequence[int],
        activation: Activation | str | Sequence[Activation | str],
        *,
        bias: bool = True,
        output_offset: float = 0.0,
    ) -> Architecture:
        """A multi-layer perceptron.

        Args:
            sizes: Widths from input to output, at least two, for example ``(2, 32, 32, 1)``.
            activation: One for all hidden spaces, or one for each.
            bias: Whether the layers have biases.
            output_offset: Constant that is added to the outputs.

        Raises:
            TypeError: If a size is no int, or an activation is something else, such as a module.
            ValueError: If there are fewer than two sizes, or as many activations as hidden spaces are not given.
        """
        sizes = as_integers(sizes, "sizes")
        if len(sizes) < 2:
            raise ValueError(f"an MLP needs at least an input and an output size, got {sizes}")
        hidden = len(sizes) - 2
        if isinstance(activation, str) or not isinstance(activation, Sequence):
            activation = [activation] * hidden
        if len(activation) != hidden:
            raise ValueError(f"sizes {sizes} have {hidden} hidden spaces, got {len(activation)} activations")
        acts = [as_activation(a, "activation") for a in activation]
        names = ["input", *(f"hidden{i + 1}" for i in range(hidden)), "output"]
        roles: list[Activation | None] = [None, *acts, None]
        spaces = tuple(Space(n, s, a) for n, s, a in zip(names, sizes, roles, strict=True))
        layers = tuple(Layer(f"layer{i}", names[i], names[i + 1], bias=bias) for i in range(len(sizes) - 1))
        return cls(spaces, layers, output_offset)

    @classmethod
    def siren(
        cls,
        sizes: Sequence[int],
        *,
        omega: float = 30.0,
        first_omega: float | None = None,
        output_offset: float = 0.0,
    ) -> Architecture:
        """An MLP with sines (SIREN, Sitzmann et al. 2020).

        Args:
            sizes: Widths from input to output, for example ``(2, 32, 32, 1)``.
            omega: Frequency of the hidden spaces.
            first_omega: Frequency of the first hidden space; None for the same.
            output_offset: Constant that is added to the outputs; 0.5 in the INRs of DWSNets and the paper.
        """
        hidden = max(len(sizes) - 2, 0)
        omegas = [omega] * hidden
        if first_omega is not None and omegas:
            omegas[0] = first_omega
        return cls.mlp(sizes, [Activation("sine", w) for w in omegas], output_offset=output_offset)

    @classmethod
    def lora(cls, shapes: Mapping[str, tuple[int, int, int]]) -> Architecture:
        """A collection of low-rank pairs: A of shape (rank, in) and B of shape (out, rank) for every weight.

        The tensors are called ``<name>.lora_A.weight`` and ``<name>.lora_B.weight``; the rank is a linear space.

        Args:
            shapes: Name of the adapted weight -> (out, in, rank). Ranks may differ.

        Raises:
            ValueError: If there are none.
        """
        from weightaug.adapters.lora import architecture_of_pairs

        return architecture_of_pairs(
            {
                name: ((f"{name}.lora_A.weight", (rank, into)), (f"{name}.lora_B.weight", (out, rank)))
                for name, (out, into, rank) in shapes.items()
            }
        )

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Tensor],
        activation: Activation | str | Sequence[Activation | str] | None = None,
        *,
        output_offset: float = 0.0,
    ) -> Architecture:
        """The architecture of a state dict whose names and shapes suffice: a chain of linear layers, or LoRA adapters.

        They tell no skips, no pooling and no norm without parameters: that the layers are a chain is what the caller
        says by using this. Whatever has other tensors is refused; :meth:`from_module` is for everything else.

        Args:
            state_dict: Weights ``(out, in)`` and biases ``(out,)`` of one network, under one name with numbers, by
                which they are ordered; or pairs called ``lora_A`` and ``lora_B``, beside which others are left out.
            activation: Of a chain: one for all hidden spaces, or one for each.
            output_offset: Of a chain: constant that is added to the outputs.

        Raises:
            TypeError: If this is no mapping of tensors, or an activation is something else.
            ValueError: If there are other tensors, the layers do not chain or have no order, or there is no activation.
        """
        from weightaug.adapters.inference import architecture_of_state_dict

        return architecture_of_state_dict(state_dict, activation, output_offset)

    @classmethod
    def from_module(cls, module: nn.Module, example_input: Any, *, check: bool = True) -> Architecture:
        """The architecture of a module, by following every axis of every tensor through its operators.

        Convolution, BatchNorm and other norms, residual and branched streams, flattening, attention, gated units and
        embeddings are understood from their operators, whatever the module is called. What is not understood is
        refused. The module itself stays as it is; symmetries are those in eval mode.

        Args:
            module: Any module without control flow that depends on values.
            example_input: What it takes, small: a tensor, a tuple of arguments, or a dict of named ones. Sizes other
                than those of the batch may decide what is found, positions for example.
            check: Whether to apply a random symmetry to a copy in double precision, and to compare what it computes.

        Returns:
            An architecture with one space for every set of positions that move together. Its elements evaluate by the
            module.

        Raises:
            TypeError: If module is no module.
            ValueError: If the module cannot be exported, an operator is not understood (the message names the module
                and the operator), or no symmetry is found.
        """
        from weightaug._tracing import derive

        return derive(module, example_input, check=check)

    # -- look-ups ------------------------------------------------------------------------------------

    @property
    def is_declared(self) -> bool:
        """Whether it is declared tensor by tensor, and not by layers."""
        return len(self.layers) == 0

    @property
    def is_chain(self) -> bool:
        """Whether the layers, in their order, form one chain from the input to the output (an MLP)."""
        w = self.wiring
        return bool(self.layers) and len(self.spaces) == len(self.layers) + 1 and w.writes[:-1] == w.reads[1:]

    def weight_shape(self, layer: int) -> tuple[int, ...]:
        """Shape of a layer's weight without batch dimensions: ``(written, read, *kernel)``."""
        w = self.wiring
        return (self.spaces[w.writes[layer]].size, self.spaces[w.reads[layer]].size, *self.layers[layer].kernel)

    def bias_shape(self, layer: int) -> tuple[int, ...] | None:
        """Shape of a layer's bias without batch dimensions, or None if it has none."""
        return (self.spaces[self.wiring.writes[layer]].size,) if self.layers[layer].bias else None

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all tensors of one network, in the order of ``WeightSpaceElement.tensors``."""
        if self.is_declared:
            return {spec.name: spec.shape for spec in self.tensors}
        shapes: dict[str, tuple[int, ...]] = {}
        for number, layer in enumerate(self.layers):
            shapes[f"{layer.name}.weight"] = self.weight_shape(number)
            bias = self.bias_shape(number)
            if bias is not None:
                shapes[f"{layer.name}.bias"] = bias
        return shapes

    def describe(self) -> str:
        """A table of the hidden spaces: size, symmetries, what writes and reads them; and how much they cover."""
        from weightaug._table import describe_table

        return describe_table(self)

    # -- JSON ----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, as :meth:`from_dict` reads them."""
        plain: dict[str, Any] = {
            "spaces": [
                {
                    "name": s.name,
                    "size": s.size,
                    "activation": None
                    if s.activation is None
                    else {"name": s.activation.name, "omega": s.activation.omega},
                }
                | {k: v for k in ("permutes_with", "within", "linear") if (v := getattr(s, k))}
                for s in self.spaces
            ],
            "layers": [
                {"name": l.name, "reads": l.reads, "writes": l.writes, "kernel": list(l.kernel), "bias": l.bias}
                for l in self.layers
            ],
            "output_offset": self.output_offset,
            **({} if self.convention is None else {"convention": self.convention}),
        }
        if self.is_declared:
            plain["tensors"] = [spec.to_dict() for spec in self.tensors]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: If a key is missing or unknown.
        """
        try:
            spaces = tuple(
                Space(**{**s, "activation": None if s["activation"] is None else Activation(**s["activation"])})
                for s in data["spaces"]
            )
            layers = tuple(
                Layer(l["name"], l["reads"], l["writes"], tuple(l["kernel"]), l["bias"]) for l in data["layers"]
            )
            tensors = tuple(TensorSpec.from_dict(t) for t in data.get("tensors", ()))
            return cls(spaces, layers, data["output_offset"], tensors, convention=data.get("convention"))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"not an architecture: {error!r}; expected the keys that Architecture.to_dict writes"
            ) from error

    def to_json(self) -> str:
        """The architecture as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Inverse of :meth:`to_json`; raises a ValueError for text that is none."""
        return cls.from_dict(parsed(text, "Architecture.to_json"))


def _restore(fields: tuple[Any, ...], module: nn.Module | None) -> Architecture:
    architecture = Architecture(*fields)
    object.__setattr__(architecture, "module", module)
    return architecture


def _rebuild(
    spaces: tuple[Space, ...], layers: tuple[Layer, ...], output_offset: float, convention: str | None
) -> Architecture:
    return Architecture(spaces, layers, output_offset, convention=convention)
