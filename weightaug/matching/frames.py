"""Frames: reference networks to which all networks of a data set are aligned, so that models need no symmetries."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from weightaug._differences import difference
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.canonical import balance, flat64, unflat
from weightaug.matching.rules import Rule, Symmetry, check_finite, resolve
from weightaug.matching.surroundings import undisturbed
from weightaug.matching.weight import solve, working_device

__all__ = ["Frame", "fit_frame"]

FrameKind = Literal["mean", "random", "member"]

_KINDS = ("mean", "random", "member")
_PIECE = 512  # networks that are aligned at a time: they take some twenty times their own memory meanwhile
_FORMAT = "weightaug.frame"


@dataclass(frozen=True, eq=False, repr=False)
class Frame:
    """One or several reference networks, with the symmetries over which networks are aligned to them.

    Where a network stands in its orbit does not matter to where it ends: aligned copies of one network are the same up
    to rounding and ties between equally good alignments. Frames compare by their values. :meth:`save` and :meth:`load`
    keep them in a folder of safetensors and JSON, as :mod:`weightaug.io` does.

    Args:
        element: The references, ``(k,)``, with k at least 1. Positive scales should be balanced (every neuron's
            incoming norm equal to its outgoing norm), as :func:`fit_frame` makes them: networks are balanced before
            they are aligned.
        symmetry: As for :func:`match`.
        kind: How the references were found; for information.
        objective: Of ``kind="mean"``: the mean over the networks of the squared distance to the nearest reference,
            after each round.

    Attributes:
        path: The folder from which the frame was loaded, or None.

    Raises:
        ValueError: If there is no reference, a value is not finite, or the symmetry does not exist.
    """

    element: WeightSpaceElement
    symmetry: str | tuple[str, ...] = "auto"
    kind: str = "given"
    objective: tuple[float, ...] = ()
    path: Path | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.element, WeightSpaceElement):
            raise TypeError(f"Frame: expected references as a WeightSpaceElement, got {type(self.element).__name__}")
        if len(self.element.batch_shape) != 1 or not len(self.element):
            raise ValueError(
                f"Frame: expected references of batch shape (k,) with k >= 1, got {tuple(self.element.batch_shape)}"
                + ("; weightaug.stack([network]) makes a batch of one network" if not self.element.batch_shape else "")
            )
        check_finite(self.element, "references")
        if not isinstance(self.symmetry, str):
            object.__setattr__(self, "symmetry", tuple(self.symmetry))
        object.__setattr__(self, "objective", tuple(float(value) for value in self.objective))
        resolve(self.architecture, self.symmetry)

    @property
    def architecture(self) -> Architecture:
        """The architecture of the references."""
        return self.element.architecture

    def __len__(self) -> int:
        """Number of references."""
        return len(self.element)

    def __getitem__(self, index: int) -> Frame:
        """The frame of one of the references.

        Raises:
            IndexError: If there is no such reference.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"this frame has {len(self)} references, there is none at {index}")
        return Frame(self.element[[index]], self.symmetry, self.kind)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        settings = ("architecture", "symmetry", "kind", "objective")
        if any(getattr(self, name) != getattr(other, name) for name in settings) or len(self) != len(other):
            return False
        pairs = zip(self.element.tensors(), other.element.tensors(), strict=True)
        return all(a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu()) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((self.architecture, self.symmetry, self.kind, self.objective, len(self)))

    def __repr__(self) -> str:
        if self.path is not None:
            return f"Frame.load({str(self.path)!r})"
        sizes = "-".join(str(s.size) for s in self.architecture.spaces)
        return f"Frame({sizes}, references={len(self)}, kind={self.kind!r}, symmetry={self.symmetry!r})"

    # -- alignment -----------------------------------------------------------------------------------

    def check(self, architecture: Architecture) -> None:
        """Raises a ValueError that says what differs if the references have another architecture."""
        if architecture != self.architecture:
            raise ValueError(
                "cannot align networks to a frame of another architecture: the networks and the frame differ in "
                f"{difference(architecture, self.architecture)}; fit a frame on networks like these"
            )

    @undisturbed
    def groups(self, networks: WeightSpaceElement) -> GroupElement:
        """The symmetries that align networks to each of the references.

        Args:
            networks: Of any batch shape.

        Returns:
            A group element of batch shape ``(*batch, k)``, on the device of the networks.

        Raises:
            ValueError: If the architecture is another one, or a value is not finite.
        """
        self.check(networks.architecture)
        check_finite(networks, "networks")
        rules = resolve(self.architecture, self.symmetry)
        if not rules:
            return GroupElement.identity(self.architecture)
        device = working_device(networks)
        references, flat = flat64(self.element, device), flat64(networks, device)
        size = max(_PIECE // len(self), 1)
        found = [_align(references, flat[i : i + size], rules) for i in range(0, max(len(flat), 1), size)]
        return unflat(GroupElement.cat(found), self._repeated(networks))

    def _repeated(self, networks: WeightSpaceElement) -> WeightSpaceElement:
        """Views of the networks, ``(*batch, k)``."""
        dims = len(networks.batch_shape)
        return networks.map(lambda t: t.unsqueeze(dims).expand(*t.shape[:dims], len(self), *t.shape[dims:]))

    def align(self, networks: WeightSpaceElement) -> WeightSpaceElement:
        """The networks, aligned to each of the references; they compute the same functions.

        Args:
            networks: Of any batch shape.

        Returns:
            Networks of batch shape ``(*batch, k)``.

        Raises:
            ValueError: As for :meth:`groups`.
        """
        group = self.groups(networks)
        return act(self._repeated(networks), group)

    # -- files ---------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the frame to a folder, by :func:`weightaug.io.save`: a reader sees the old frame or the new one.

        Args:
            path: The folder; it is made if it does not exist.
            overwrite: Whether another frame that is there may be replaced.

        Raises:
            ValueError: If the folder holds something else.
            FileExistsError: If there is another frame, and not ``overwrite``.
        """
        from weightaug import io

        symmetry = self.symmetry if isinstance(self.symmetry, str) else list(self.symmetry)
        settings = {"format": _FORMAT, "symmetry": symmetry, "kind": self.kind, "objective": list(self.objective)}
        io.save(path, self.element, metadata=settings, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Frame:
        """Reads a frame from a folder; nothing in it is run.

        Args:
            path: A folder that :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it holds something else, or is damaged.
        """
        from weightaug import io

        stored = io.load(path)
        if stored.metadata.get("format") != _FORMAT:
            raise ValueError(
                f"{os.fspath(path)}: expected a frame as Frame.save writes it, got a data set of "
                f"{stored.element.batch_shape.numel()} networks; fit_frame makes a frame of a data set"
            )
        try:
            symmetry, kind, objective = (stored.metadata[name] for name in ("symmetry", "kind", "objective"))
        except KeyError as error:
            raise ValueError(f"{os.fspath(path)}: the frame has no {error}; write it again with Frame.save") from error
        frame = cls(stored.element, symmetry, kind, tuple(objective))
        object.__setattr__(frame, "path", Path(path).absolute())
        return frame


def _align(references: WeightSpaceElement, networks: WeightSpaceElement, rules: tuple[Rule, ...]) -> GroupElement:
    """Aligns each of a flat float64 batch to each of k references: ``(n * k,)``, those of one network together."""
    k = len(references)
    balancing = balance(networks, rules)
    balanced = act(networks, balancing)
    targets = references.map(lambda t: t.repeat(len(networks), *(1,) * (t.dim() - 1)))
    # Neither the place where a network is nor its order may decide, so that copies of it end in the same place.
    moves, _ = solve(targets, _repeated(balanced, k), rules, ("forward",), keep_identity=False)
    first = balancing.map(lambda t: t.repeat_interleave(k, 0))
    return moves.group(networks.architecture) @ first


def _repeated(x: WeightSpaceElement, k: int) -> WeightSpaceElement:
    return x if k == 1 else x.map(lambda t: t.repeat_interleave(k, 0))


# -- fitting a frame ---------------------------------------------------------------------------------------


@undisturbed
def fit_frame(
    networks: WeightSpaceElement,
    references: int = 1,
    *,
    kind: FrameKind = "mean",
    rounds: int = 5,
    symmetry: Symmetry = "auto",
    generator: torch.Generator | None = None,
) -> Frame:
    """Finds reference networks for a data set; no labels are needed.

    - ``"mean"``: starts from random members; in every round all networks are aligned to the references, each counts
      for the nearest one, and the references become the means of what is aligned to them (a Procrustes mean, and
      k-means over orbits for several references). The mean squared distance never grows from round to round.
    - ``"member"``: random members.
    - ``"random"``: untrained networks of the architecture, drawn as SIREN (sines) or torch.nn.Linear (others) does.

    Positive scales are balanced in the references.

    Args:
        networks: The networks, usually those of the training set, batch shape ``(n,)``.
        references: Number of references, 1 to n.
        kind: How they are found.
        rounds: Of ``"mean"``, at least 1.
        symmetry: The symmetries over which to align, as for :func:`match`.
        generator: Source of randomness, on the CPU; None for torch's global one.

    Returns:
        The frame, in the dtype of the networks (float32 for half precision), on their device.

    Raises:
        ValueError: If there are too few networks, a value is not finite, or a setting is out of range.
        TypeError: If a setting has another type.
    """
    _check_settings(networks, references, kind, rounds, generator)
    rules = resolve(networks.architecture, symmetry)
    plain_symmetry = symmetry if isinstance(symmetry, str) else tuple(sorted(symmetry))
    device = working_device(networks)
    objective: list[float] = []
    if kind == "random":
        found = _untrained(networks.architecture, references, generator).map(lambda t: t.to(device))
        found = act(found, balance(found, rules))
    else:
        chosen = torch.randperm(len(networks), generator=generator, device="cpu")[:references].to(networks.device)
        found = flat64(networks[chosen], device)
        found = act(found, balance(found, rules))
        if kind == "mean" and rules:
            found, objective = _means(networks, found, rules, rounds)
    dtype = torch.promote_types(networks.dtype, torch.float32)
    return Frame(found.to(networks.device, dtype), plain_symmetry, kind, tuple(objective))


def _check_settings(
    networks: WeightSpaceElement, references: Any, kind: Any, rounds: Any, generator: torch.Generator | None
) -> None:
    if not isinstance(networks, WeightSpaceElement):
        raise TypeError(f"fit_frame: expected networks as a WeightSpaceElement, got {type(networks).__name__}")
    if len(networks.batch_shape) != 1:
        raise ValueError(f"fit_frame: expected networks of batch shape (n,), got {tuple(networks.batch_shape)}")
    for name, value in (("references", references), ("rounds", rounds)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected a whole number, got {value!r}")
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if kind not in _KINDS:
        raise ValueError(f"kind: expected one of {_KINDS}, got {kind!r}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {type(generator).__name__}")
    if len(networks) < (references if kind != "random" else 0):
        raise ValueError(
            f"references: expected at most one for each of the {len(networks)} networks, got {references}; give more "
            "networks, or fewer references"
        )
    check_finite(networks, "networks")


def _means(
    networks: WeightSpaceElement, references: WeightSpaceElement, rules: tuple[Rule, ...], rounds: int
) -> tuple[WeightSpaceElement, list[float]]:
    device = references.device
    pieces = [flat64(networks[i : i + _PIECE], device) for i in range(0, len(networks), _PIECE)]
    pieces = [act(piece, balance(piece, rules)) for piece in pieces]
    arch, objective = networks.architecture, []
    center = references.flatten()
    starts: tuple[str, ...] = ("forward",)
    for _ in range(rounds):
        nearest = []
        for i, piece in enumerate(pieces):
            pieces[i], own = _nearest(WeightSpaceElement.unflatten(arch, center), piece, rules, starts)
            nearest.append(own)
        cluster = torch.cat(nearest)
        values = torch.cat([piece.flatten() for piece in pieces])
        sums = torch.zeros_like(center).index_add_(0, cluster, values)
        count = torch.bincount(cluster, minlength=len(center)).to(sums.dtype).unsqueeze(1)
        center = torch.where(count > 0, sums / count.clamp_min(1), center)
        objective.append(float((values - center[cluster]).square().sum(-1).mean()))
        starts = ("identity", "forward")  # from where they are, the distance cannot grow
    return WeightSpaceElement.unflatten(arch, center), objective


def _nearest(
    references: WeightSpaceElement, networks: WeightSpaceElement, rules: tuple[Rule, ...], starts: tuple[str, ...]
) -> tuple[WeightSpaceElement, Tensor]:
    """The networks of a flat batch, aligned to the nearest reference, and which that is, ``(n,)``."""
    best, placed, own = None, networks, None
    for j in range(len(references)):
        target = references[[j] * len(networks)]
        moves, _ = solve(target, networks, rules, starts)
        aligned = act(networks, moves.group(networks.architecture))
        distance = (aligned.flatten() - target.flatten()).square().sum(-1)
        if best is None or own is None:
            best, placed, own = distance, aligned, torch.zeros(len(networks), dtype=torch.int64, device=distance.device)
            continue
        closer = distance < best
        best, own = torch.where(closer, distance, best), torch.where(closer, j, own)
        values = torch.where(closer.unsqueeze(1), aligned.flatten(), placed.flatten())
        placed = WeightSpaceElement.unflatten(networks.architecture, values)
    assert own is not None
    return placed, own


def _untrained(architecture: Architecture, count: int, generator: torch.Generator | None) -> WeightSpaceElement:
    """Untrained networks ``(count,)`` in float64, on the CPU."""
    shape = (count, architecture.num_parameters)
    element = WeightSpaceElement.unflatten(
        architecture, torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu") * 2 - 1
    )
    wiring = architecture.wiring
    weights, biases = [], []
    for l, (weight, bias) in enumerate(zip(element.weights, element.biases, strict=True)):
        fan_in = math.prod(architecture.weight_shape(l)[1:])
        bound = 1 / math.sqrt(fan_in)
        written = architecture.spaces[wiring.writes[l]].activation
        read = architecture.spaces[wiring.reads[l]].activation
        sine = next((a for a in (written, read) if a is not None and a.half_period is not None), None)
        if sine is not None:  # Sitzmann et al. (2020)
            bound_of_weights = 1 / fan_in if read is None else math.sqrt(6 / fan_in) / sine.omega
        else:
            bound_of_weights = bound
        weights.append(weight * bound_of_weights)
        biases.append(None if bias is None else bias * bound)
    return WeightSpaceElement(architecture, tuple(weights), tuple(biases))
