"""Standardised weights, as the last step before a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from weightaug._fields import as_number
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.transforms.base import Preserves, Transform

__all__ = ["Standardize"]

_Per = Literal["tensor", "entry"]


@dataclass(frozen=True)
class Standardize(Transform):
    """Subtracts means and divides by deviations: what models like to read, and no networks any more.

    The last entry of a ``Compose``: a symmetry, geometry, noise or mixing transform after it is refused, since it
    would act on numbers that are no weights. Load weights as they are, augment them, then standardise. Draws nothing.

    :meth:`fit` measures the statistics, :meth:`from_statistics` reads those of other code, :meth:`inverse` undoes it.

    Args:
        mean: One number for each tensor (each layer's weight before its bias), or one for each parameter in the order
            of :meth:`weightaug.WeightSpaceElement.flatten`.
        std: As many deviations, above 0.
        per: Which of the two: ``"tensor"`` or ``"entry"``. Statistics per entry treat neurons of one space unlike, so
            a model that is symmetric under permutations is not symmetric before them; those per tensor of
            :meth:`fit` commute with permutations, signs and positive scales.
        undo: Whether to multiply and add instead.

    Raises:
        TypeError: If a number is none.
        ValueError: If the two are not equally many, a number is not finite, or a deviation not above 0.
    """

    preserves: ClassVar[Preserves] = Preserves.NOTHING

    mean: tuple[float, ...]
    std: tuple[float, ...]
    per: _Per = "tensor"
    undo: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise TypeError(f"Standardize: {name} must be a tuple of numbers, got {type(given).__name__}")
            values = tuple(as_number(v, f"Standardize: {name}") for v in given)
            if not all(map(math.isfinite, values)):
                raise ValueError(f"Standardize: {name} must be finite")
            object.__setattr__(self, name, values)
        if self.per not in ("tensor", "entry"):
            raise ValueError(f"Standardize: per must be 'tensor' or 'entry', got {self.per!r}")
        if len(self.mean) != len(self.std):
            raise ValueError(f"Standardize: expected as many means as std, got {len(self.mean)} and {len(self.std)}")
        if min(self.std, default=1.0) <= 0:
            raise ValueError(f"Standardize: std must be above 0, got {min(self.std)}; use 1 for a constant entry")

    # -- where the statistics come from --------------------------------------------------------------

    @classmethod
    def fit(cls, networks: Any, per: _Per = "tensor") -> Standardize:
        """Measures the statistics of networks, usually those of the training set.

        Per tensor, the mean is 0 wherever a sign or a positive scale of a hidden neuron acts (the mean over all
        networks that compute the same functions), and the deviation is taken around that mean; so dividing commutes
        with every permutation, sign and positive scale. Shifts of the phase act on standardised biases as shifts of
        another length. Entries that never vary get the deviation 1.

        Args:
            networks: An element of any batch shape, or what has one as ``.element``, such as a
                :class:`weightaug.io.WeightSpaceDataset`.
            per: ``"tensor"``, or ``"entry"`` as in DWSNets (deviation of a sample, so at least two networks).

        Raises:
            TypeError: If that is no element.
            ValueError: If there are too few networks.
        """
        element = networks if isinstance(networks, WeightSpaceElement) else getattr(networks, "element", None)
        if not isinstance(element, WeightSpaceElement):
            raise TypeError(
                "Standardize.fit: expected a WeightSpaceElement or a data set of networks, got "
                f"{type(networks).__name__}"
            )
        count, least = element.batch_shape.numel(), 2 if per == "entry" else 1
        if count < least:
            raise ValueError(f"Standardize.fit: expected at least {least} networks, got {count}")
        mean: list[float] = []
        std: list[float] = []
        dims = len(element.batch_shape)
        for tensor, moved in zip(element.tensors(), _moved(element.architecture), strict=True):
            rows = tensor.detach().reshape(count, tensor.shape[dims:].numel()).double()
            if per == "entry":
                mean += rows.mean(0).tolist()
                std += [s or 1.0 for s in rows.std(0).tolist()]
            else:
                center = 0.0 if moved else float(rows.mean())
                mean.append(center)
                std.append(float((rows - center).square().mean().sqrt()) or 1.0)
        return cls(tuple(mean), tuple(std), per)

    @classmethod
    def from_statistics(cls, mean: Any, std: Any = None) -> Standardize:
        """Takes statistics as other code keeps them, read from their files by the caller.

        - DWSNets' ``statistics.pth`` (``torch.load(path, weights_only=True)``): a mapping
          ``{"weights": {"mean": [...], "std": [...]}, "biases": {...}}`` of tensors ``(in, out, 1)`` and ``(out, 1)``,
          per entry;
        - the ``stats`` of neural-graphs' configurations: a mapping of ``weights_mean``, ``weights_std``,
          ``biases_mean``, ``biases_std``, each a list of numbers, per tensor;
        - ``mean`` and ``std``, each a pair of the weights' and the biases' values, layer by layer: numbers, or tensors
          in the layout of DWSNets or, with one dimension less, of torch.

        Args:
            mean: A mapping of both, or the pair of means.
            std: The pair of deviations; None with a mapping. A deviation of 0 (an entry that never varied) becomes 1.

        Raises:
            TypeError: If it is none of these.
            ValueError: If lists do not fit together.
        """
        if isinstance(mean, Mapping) and std is None:
            means, stds = _from_mapping(mean)
        elif isinstance(mean, Sequence) and isinstance(std, Sequence) and len(mean) == len(std) == 2:
            means, stds = mean, std
        else:
            raise TypeError(
                "Standardize.from_statistics: expected one mapping (DWSNets' statistics, neural-graphs' stats), or "
                f"pairs (weights, biases) of means and of std, got {type(mean).__name__} and {type(std).__name__}"
            )
        centers, spreads = list(_interleaved(means, "mean")), list(_interleaved(stds, "std"))
        if [t.shape for t in centers] != [t.shape for t in spreads]:
            raise ValueError("Standardize.from_statistics: means and deviations have different shapes")
        per: _Per = "tensor" if all(t.numel() == 1 and t.dim() == 0 for t in centers) else "entry"
        flat = [[v for t in tensors for v in t.reshape(-1).tolist()] for tensors in (centers, spreads)]
        return cls(tuple(flat[0]), tuple(v or 1.0 for v in flat[1]), per)

    def inverse(self) -> Standardize:
        """The transform that turns standardised weights into weights again."""
        return replace(self, undo=not self.undo)

    # -- the transform -------------------------------------------------------------------------------

    def check(self, architecture: Architecture) -> None:
        """Raises a ValueError if the statistics are not of this many tensors or parameters."""
        count = sum(1 + layer.bias for layer in architecture.layers)
        expected = count if self.per == "tensor" else architecture.num_parameters
        if len(self.mean) != expected:
            kind = "tensors" if self.per == "tensor" else "parameters"
            raise ValueError(
                f"Standardize: expected statistics of {expected} {kind}, got {len(self.mean)}; fit them on networks of "
                "this architecture"
            )

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> tuple[()]:
        self.check(element.architecture)
        return ()

    def apply(self, element: WeightSpaceElement, params: tuple[()]) -> WeightSpaceElement:
        self.check(element.architecture)
        mean, std = (torch.tensor(v, dtype=torch.float64, device="cpu") for v in (self.mean, self.std))
        dims, start = len(element.batch_shape), 0
        tensors = []
        for tensor in element.tensors():
            size = 1 if self.per == "tensor" else tensor.shape[dims:].numel()
            shape = () if self.per == "tensor" else tensor.shape[dims:]
            m, s = (v[start : start + size].reshape(shape).to(tensor.device, tensor.dtype) for v in (mean, std))
            tensors.append(tensor * s + m if self.undo else (tensor - m) / s)
            start += size
        rest = iter(tensors)
        pairs = [(next(rest), next(rest) if layer.bias else None) for layer in element.architecture.layers]
        return WeightSpaceElement(element.architecture, tuple(w for w, _ in pairs), tuple(b for _, b in pairs))

    def undone_by(self, later: Transform) -> str | None:
        """Why another transform must not come after this one in a ``Compose``, or None."""
        neutral = later.preserves == Preserves.FUNCTION and type(later).__name__ == "LabelSmoothing"
        if self.undo or isinstance(later, Standardize) or neutral:
            return None
        return (
            f"standardised numbers are no weights, and {type(later).__name__} is right for weights only; put "
            "Standardize last"
        )


def _moved(architecture: Architecture) -> Iterator[bool]:
    """For each tensor, whether a sign or a scale of a hidden neuron acts on it."""
    wiring = architecture.wiring
    acts = [bool({"sign", "scale"} & set(s.activation.symmetries)) for s in architecture.hidden if s.activation]
    for layer, written, read in zip(architecture.layers, wiring.write_slots, wiring.read_slots, strict=True):
        rows = written is not None and acts[written]
        yield rows or (read is not None and acts[read])
        if layer.bias:
            yield rows


def _from_mapping(given: Mapping[str, Any]) -> tuple[Any, Any]:
    kinds = ("weights", "biases")
    if set(kinds) <= set(given):
        return tuple(given[k]["mean"] for k in kinds), tuple(given[k]["std"] for k in kinds)
    if {f"{k}_{m}" for k in kinds for m in ("mean", "std")} <= set(given):
        return tuple(given[f"{k}_mean"] for k in kinds), tuple(given[f"{k}_std"] for k in kinds)
    raise ValueError(
        "Standardize.from_statistics: expected the keys 'weights' and 'biases' (DWSNets), or weights_mean, "
        f"weights_std, biases_mean and biases_std (neural-graphs), got {list(given)}"
    )


def _interleaved(pair: Any, name: str) -> Iterator[Tensor]:
    """Each layer's weight before its bias, in torch's order of axes."""
    weights, biases = ([torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in part] for part in pair)
    if len(weights) != len(biases):
        raise ValueError(
            f"Standardize.from_statistics: {name}: expected as many weights as biases, got {len(weights)} and "
            f"{len(biases)}"
        )
    for weight, bias in zip(weights, biases, strict=True):
        yield weight.squeeze(-1).mT if weight.dim() == 3 and weight.shape[-1] == 1 else weight
        yield bias.squeeze(-1) if bias.dim() == 2 and bias.shape[-1] == 1 else bias
