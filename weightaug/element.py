"""The typed container: a batch of networks of one architecture."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug._dtypes import check_weights_dtype
from weightaug._html import of_element
from weightaug._indexing import normalise
from weightaug._modes import without_autocast
from weightaug.architecture import Architecture

__all__ = ["WeightSpaceElement"]

_ENOUGH = 100


@dataclass(frozen=True, eq=False, repr=False)
class WeightSpaceElement:
    """A batch of networks of one architecture. Frozen, a pytree, without labels.

    The constructor checks nothing; use :meth:`from_tensors` (or :meth:`validate`) on tensors from outside.

    Args:
        architecture: The architecture that all networks of the batch share.
        weights: One tensor per layer, ``(*batch, written, read, *kernel)``. For an architecture that is declared
            tensor by tensor: all tensors, ``(*batch, *shape)``, in the order of ``architecture.tensors``.
        biases: One tensor per layer, ``(*batch, written)``, or None for a layer without bias. Empty for an
            architecture that is declared tensor by tensor.
    """

    architecture: Architecture
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]

    @classmethod
    def from_tensors(
        cls, architecture: Architecture, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> WeightSpaceElement:
        """Like the constructor, but checks shapes, dtypes, devices and finiteness.

        Raises:
            ValueError: See :meth:`validate`.
        """
        return cls(architecture, tuple(weights), tuple(biases)).validate()

    # -- description ---------------------------------------------------------------------------------

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch: ``()`` is one network."""
        weight = self.weights[0]
        return weight.shape[: weight.dim() - len(self.architecture.plan[0].shape)]

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.weights[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return self.weights[0].dtype

    @property
    def num_parameters(self) -> int:
        """Number of parameters of one network (not of the batch)."""
        return self.architecture.num_parameters

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields names and tensors: ``"<layer>.weight"``, ``".bias"``, or as ``architecture.tensors`` has them."""
        if self.architecture.is_declared:
            yield from zip([spec.name for spec in self.architecture.tensors], self.weights, strict=True)
            return
        for layer, weight, bias in zip(self.architecture.layers, self.weights, self.biases, strict=True):
            yield f"{layer.name}.weight", weight
            if bias is not None:
                yield f"{layer.name}.bias", bias

    def tensors(self) -> list[Tensor]:
        """All tensors, each layer's weight before its bias."""
        if self.architecture.is_declared:
            return list(self.weights)
        pairs = zip(self.weights, self.biases, strict=True)
        return [tensor for pair in pairs for tensor in pair if tensor is not None]

    def with_tensors(self, tensors: Sequence[Tensor]) -> WeightSpaceElement:
        """A new element with other tensors, in the order of :meth:`tensors`."""
        if self.architecture.is_declared:
            return WeightSpaceElement(self.architecture, tuple(tensors), ())
        if len(tensors) == 2 * len(self.architecture.layers):  # every layer has a bias
            return WeightSpaceElement(self.architecture, tuple(tensors[::2]), tuple(tensors[1::2]))
        rest = iter(tensors)
        weights: list[Tensor] = []
        biases: list[Tensor | None] = []
        for layer in self.architecture.layers:
            weights.append(next(rest))
            biases.append(next(rest) if layer.bias else None)
        return WeightSpaceElement(self.architecture, tuple(weights), tuple(biases))

    def __repr__(self) -> str:
        sizes = "-".join(str(s.size) for s in self.architecture.spaces)
        if self.architecture.is_declared:
            sizes = repr(self.architecture)
        return (
            f"WeightSpaceElement({sizes}, batch_shape={tuple(self.batch_shape)}, "
            f"dtype={self.dtype}, device={str(self.device)!r})"
        )

    _repr_html_ = of_element

    # -- checks --------------------------------------------------------------------------------------

    def validate(self, *, expect: Literal["weights"] | None = None) -> WeightSpaceElement:
        """Checks that the tensors fit the architecture and are finite. Reads all values.

        Args:
            expect: ``"weights"`` also warns when the values look standardised (every tensor with mean near 0 and
                deviation near 1), as the loaders of some code bases hand them out: no symmetry of the weights keeps
                what such numbers mean.

        Returns:
            The element itself.

        Raises:
            ValueError: If the number of layers, a shape, dtype or device does not fit, a bias is missing or
                too many, or a value is NaN or infinite. The message names the layer, what was expected and
                what came.
        """
        arch = self.architecture
        if arch.is_declared:
            return self._validate_table()
        for kind, given in (("weights", self.weights), ("biases", self.biases)):
            if len(given) != len(arch.layers):
                raise ValueError(
                    f"{kind}: expected one entry for each of the {len(arch.layers)} layers "
                    f"{[l.name for l in arch.layers]}, got {len(given)}"
                    + ("; write None for a layer without bias" if kind == "biases" else "")
                )
        batch = self.batch_shape
        for i, layer in enumerate(arch.layers):
            bias_shape = arch.bias_shape(i)
            bias = self.biases[i]
            if (bias is None) != (bias_shape is None):
                came, fix = ("None", "bias=False") if bias is None else ("a tensor", "bias=True")
                raise ValueError(
                    f"layer {layer.name!r}: bias={layer.bias} in the architecture, but its bias is {came}; "
                    f"declare Layer({layer.name!r}, ..., {fix}) or change the tensors"
                )
            self._check_tensor(f"{layer.name}.weight", self.weights[i], arch.weight_shape(i), batch)
            if bias is not None and bias_shape is not None:
                self._check_tensor(f"{layer.name}.bias", bias, bias_shape, batch)
        if expect not in (None, "weights"):
            raise ValueError(f"expect: 'weights' or None, got {expect!r}")
        if expect == "weights" and self._looks_standardised():
            warnings.warn(
                "every tensor of these networks has a mean near 0 and a deviation near 1, as standardised weights do; "
                "augment the weights themselves (normalize=False in the loader), and standardise last, with "
                "weightaug.Standardize",
                UserWarning,
                stacklevel=2,
            )
        return self

    def _validate_table(self) -> WeightSpaceElement:
        specs = self.architecture.tensors
        if len(self.weights) != len(specs) or self.biases:
            raise ValueError(
                f"expected {len(specs)} tensors, one for each of architecture.tensors, and no biases, got "
                f"{len(self.weights)} and {len(self.biases)}"
            )
        batch = self.batch_shape
        for spec, tensor in zip(specs, self.weights, strict=True):
            self._check_tensor(spec.name, tensor, spec.shape, batch)
        return self

    def _looks_standardised(self) -> bool:
        # Tensors with few numbers say little: their moments are far from 0 and 1 by chance.
        large = [t.detach().double() for t in self.tensors() if t.numel() >= _ENOUGH]
        return bool(large) and all(abs(float(t.mean())) < 0.2 and 0.8 < float(t.std()) < 1.25 for t in large)

    def _check_tensor(self, name: str, tensor: Tensor, shape: tuple[int, ...], batch: torch.Size) -> None:
        expected = (*batch, *shape)
        if tuple(tensor.shape) != expected:
            hint = ""
            if tuple(tensor.shape) == (*batch, *shape[1::-1], *shape[2:]) and len(shape) > 1:
                hint = "; the axes look swapped: weights are (*batch, out, in), adapters.from_dws reads (in, out)"
            raise ValueError(
                f"{name}: expected shape {expected} (batch {tuple(batch)} from the first weight), "
                f"got {tuple(tensor.shape)}{hint}"
            )
        check_weights_dtype(name, tensor)
        if tensor.dtype != self.dtype or tensor.device != self.device:
            raise ValueError(
                f"{name}: expected {self.dtype} on {self.device} like the first weight, "
                f"got {tensor.dtype} on {tensor.device}; convert with .to()"
            )
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            bad = (~finite).reshape(*batch, -1).any(-1)
            where = f" in {int(bad.sum())} of {bad.numel()} networks, first at index " + str(
                tuple(bad.nonzero()[0].tolist())
            )
            raise ValueError(
                f"{name}: {int((~finite).sum())} of {tensor.numel()} values are NaN or infinite"
                f"{where if batch else ''}; drop those networks, or fit them again"
            )

    # -- changing form -------------------------------------------------------------------------------

    def map(self, function: Callable[[Tensor], Tensor]) -> WeightSpaceElement:
        """A new element with a function applied to every tensor."""
        return WeightSpaceElement(
            self.architecture,
            tuple([function(w) for w in self.weights]),
            tuple([None if b is None else function(b) for b in self.biases]),
        )

    def to(self, *args: Any, **kwargs: Any) -> WeightSpaceElement:
        """A new element on another device or of another dtype; arguments as in ``Tensor.to``."""
        return self.map(lambda t: t.to(*args, **kwargs))

    def cpu(self) -> WeightSpaceElement:
        """The element in the memory of the CPU."""
        return self.to("cpu")

    def cuda(self, device: torch.device | int | None = None) -> WeightSpaceElement:
        """The element on a GPU; None for the current one."""
        return self.map(lambda t: t.cuda(device))

    def half(self) -> WeightSpaceElement:
        """The element in float16. Symmetries then hold up to its rounding, about three digits."""
        return self.to(torch.float16)

    def float(self) -> WeightSpaceElement:
        """The element in float32."""
        return self.to(torch.float32)

    def double(self) -> WeightSpaceElement:
        """The element in float64."""
        return self.to(torch.float64)

    def numpy(self) -> dict[str, NDArray[Any]]:
        """The tensors as arrays by their names, such as ``layer0.weight``; they share the CPU's memory.

        Raises:
            TypeError: If the tensors are on another device, or of a dtype that NumPy does not have.
            RuntimeError: If they require gradients; call ``detach`` first.
        """
        return {name: tensor.numpy() for name, tensor in self.named_tensors()}

    def detach(self) -> WeightSpaceElement:
        """A new element that shares the values, cut from the autograd graph."""
        return self.map(Tensor.detach)

    def clone(self) -> WeightSpaceElement:
        """A new element with copies of all tensors."""
        return self.map(Tensor.clone)

    def pin_memory(self) -> WeightSpaceElement:
        """A new element in page-locked memory (``DataLoader(pin_memory=True)`` calls this)."""
        return self.map(Tensor.pin_memory)

    def __getitem__(self, index: Any) -> WeightSpaceElement:
        """Indexes the batch dimensions only.

        Args:
            index: An int, a slice, ``...``, a list, NumPy array or tensor of ints or bools (a mask), or a tuple
                of them, one for each batch dimension.

        Raises:
            IndexError: If the element is one network, or the index is none of these, is out of range, or
                reaches beyond the batch dimensions.
        """
        if not self.batch_shape:
            raise IndexError("this element is one network (batch shape ()); only a batch can be indexed")
        entries = normalise(index, self.batch_shape)
        return self.map(lambda t: t[entries])

    def __len__(self) -> int:
        """Size of the first batch dimension.

        Raises:
            TypeError: If the element is one network.
        """
        if not self.batch_shape:
            raise TypeError("this element is one network (batch shape ()); it has no length")
        return self.batch_shape[0]

    def flatten(self) -> Tensor:
        """All parameters as one tensor ``(*batch, num_parameters)``, each layer's weight before its bias."""
        batch = self.batch_shape
        dims, sizes = len(batch) + 1, self.architecture.sizes
        rows = [
            t if t.dim() == dims else t.reshape(*batch, size) for t, size in zip(self.tensors(), sizes, strict=True)
        ]
        return torch.cat(rows, dim=-1)

    @classmethod
    def unflatten(cls, architecture: Architecture, vector: Tensor) -> WeightSpaceElement:
        """Inverse of :meth:`flatten`; the tensors are views of the vector.

        Raises:
            TypeError: If the vector is no tensor.
            ValueError: If the last dimension is not ``architecture.num_parameters``.
        """
        if not isinstance(vector, Tensor):
            raise TypeError(f"expected a tensor, got {type(vector).__name__}; convert with torch.as_tensor(vector)")
        if vector.dim() == 0 or vector.shape[-1] != architecture.num_parameters:
            raise ValueError(
                f"expected a vector of {architecture.num_parameters} parameters in the last dimension, "
                f"got shape {tuple(vector.shape)}"
            )
        batch = vector.shape[:-1]
        pieces = vector.split_with_sizes(architecture.sizes, -1)
        views = [
            piece if len(plan.shape) == 1 else piece.view(*batch, *plan.shape)
            for piece, plan in zip(pieces, architecture.plan, strict=True)
        ]
        return cls(architecture, (), ()).with_tensors(views)

    # -- evaluation ----------------------------------------------------------------------------------

    @overload
    def __call__(self, x: Tensor, *, per_network: bool | None = None) -> Tensor: ...

    @overload
    def __call__(self, x: Any, *, per_network: bool | None = None) -> Any: ...

    def __call__(self, x: Any, *, per_network: bool | None = None) -> Any:
        """Evaluates every network of the batch, in the dtype of the weights, under autocast, too.

        Args:
            x: Coordinates on the device of the weights, ``(*points, in)`` for all networks alike (a list or a grid
                of any number of dimensions, at least one), or ``(*batch, *points, in)`` for each its own. For a traced
                architecture: what its module takes, for all networks alike; a tuple or dict of arguments, too.
            per_network: Whether x leads with the batch. None: coordinates for all, but refused where x begins with
                the batch shape and could mean either.

        Returns:
            Outputs, ``(*batch, *points, out)``; for a traced architecture what its module returns, in eval mode, every
            tensor with leading batch dimensions.

        Raises:
            TypeError: If x is no tensor of real numbers.
            ValueError: If x has another last dimension, is on another device or could mean either of the two, or
                the architecture has not one input and one output.
            NotImplementedError: If a layer is a convolution.
        """
        arch, wiring = self.architecture, self.architecture.wiring
        if arch.is_declared:
            from weightaug._tracing.evaluation import evaluate

            return evaluate(self, x)
        if len(wiring.inputs) != 1 or len(wiring.outputs) != 1:
            raise ValueError(
                "evaluation needs one input and one output space, got inputs "
                f"{[s.name for s in arch.inputs]} and outputs {[s.name for s in arch.outputs]}"
            )
        points = self._check_points(x, per_network)
        flat = x.to(self.dtype).reshape(*x.shape[: x.dim() - 1 - len(points)], math.prod(points), x.shape[-1])
        output = self._evaluate(flat)
        return output.reshape(*output.shape[:-2], *points, output.shape[-1])

    def _check_points(self, x: Tensor, per_network: bool | None) -> tuple[int, ...]:
        """The shape of the points, without the batch and the coordinates."""
        size, batch = self.architecture.inputs[0].size, tuple(self.batch_shape)
        if not isinstance(x, Tensor) or x.is_complex():
            came = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"expected coordinates as a tensor of real numbers, got {came}; torch.as_tensor(x) makes one"
            )
        if x.device != self.device:
            raise ValueError(f"expected coordinates on {self.device} like the weights, got {x.device}; give x.to(...)")
        shape = tuple(x.shape)
        if len(shape) < 2 or shape[-1] != size:
            raise ValueError(
                f"expected coordinates (n, {size}) or (*batch, n, {size}), got shape {shape}; instead of n stands a "
                "grid of any shape"
            )
        leads = shape[: len(batch)] == batch
        if per_network and not (leads and len(shape) >= len(batch) + 2):
            raise ValueError(f"per_network: expected coordinates {(*batch, 'n', size)}, got shape {shape}")
        if per_network is None and batch and len(shape) >= len(batch) + 2 and leads:
            raise ValueError(
                f"coordinates of shape {shape} begin with the batch shape {batch}, so they could be for all networks "
                "or for each its own; give per_network=False or per_network=True"
            )
        return shape[len(batch) if per_network else 0 : -1]

    @without_autocast
    def _evaluate(self, x: Tensor) -> Tensor:
        """The outputs ``(*batch, n, out)`` for coordinates ``(n, in)`` or ``(*batch, n, in)``."""
        arch, wiring = self.architecture, self.architecture.wiring
        source, sink = wiring.inputs[0], wiring.outputs[0]
        values: dict[int, Tensor] = {source: x}
        for space in wiring.order[1:]:
            total: Tensor | None = None
            for i, (read, write) in enumerate(zip(wiring.reads, wiring.writes, strict=True)):
                if write != space:
                    continue
                if arch.layers[i].kernel:
                    raise NotImplementedError(
                        f"layer {arch.layers[i].name!r} is a convolution (kernel {arch.layers[i].kernel}); "
                        "only linear layers can be evaluated; adapters.to_state_dicts gives its weights to your model"
                    )
                term = values[read] @ self.weights[i].mT
                bias = self.biases[i]
                if bias is not None:
                    term = term + bias.unsqueeze(-2)
                total = term if total is None else total + term
            assert total is not None
            activation = arch.spaces[space].activation
            values[space] = total if activation is None else activation(total)
        output: Tensor = values[sink]
        return output if arch.output_offset == 0.0 else output + arch.output_offset


# Absent biases are no leaves: a leaf of None could not be mapped over by vmap.
def _flatten(element: WeightSpaceElement) -> tuple[list[Any], Architecture]:
    return [list(element.weights), [b for b in element.biases if b is not None]], element.architecture


def _flatten_with_keys(
    element: WeightSpaceElement,
) -> tuple[list[tuple[pytree.KeyEntry, Any]], Architecture]:
    (weights, biases), architecture = _flatten(element)
    return [(pytree.GetAttrKey("weights"), weights), (pytree.GetAttrKey("biases"), biases)], architecture


def _unflatten(children: Any, architecture: Architecture) -> WeightSpaceElement:
    weights, given = children
    rest = iter(given)
    biases = tuple([next(rest) if layer.bias else None for layer in architecture.layers])
    return WeightSpaceElement(architecture, tuple(weights), biases)


pytree.register_pytree_node(
    WeightSpaceElement,
    _flatten,
    _unflatten,
    serialized_type_name="weightaug.WeightSpaceElement",
    flatten_with_keys_fn=_flatten_with_keys,
    to_dumpable_context=Architecture.to_json,
    from_dumpable_context=Architecture.from_json,
)
