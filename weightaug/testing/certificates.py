"""How far a model's output moves when the networks that it reads are changed by their symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement
from weightaug.transforms import Permute, Preserves, ReLUScale, SirenBias, SirenNegation, Transform

__all__ = ["Certificate", "Movement", "check_model"]

Verdict = Literal["invariant", "not invariant", "inconclusive"]

_ROUNDING = 10.0  # how many times the model's own rounding a movement must be to be none


@dataclass(frozen=True)
class Movement:
    """How far outputs moved under one symmetry, the largest over networks and draws.

    Args:
        symmetry: The transform, with its settings.
        magnitude: Its strength, 0 to 1; None for transforms without one.
        space: The hidden space that was moved alone, or ``"all"``.
        model: Movement of the model's output, relative to its largest value.
        function: Movement of the networks' own outputs, relative to their largest value: what rounding does; NaN if
            the networks cannot be evaluated.
        verdict: ``"invariant"``, ``"not invariant"`` or ``"inconclusive"``.
    """

    symmetry: str
    magnitude: float | None
    space: str
    model: float
    function: float
    verdict: Verdict


@dataclass(frozen=True, repr=False)
class Certificate:
    """What :func:`check_model` found; ``print`` it for a table.

    Args:
        movements: One for each symmetry, magnitude and space.
        rounding: How far the model's output moves when every weight is rounded once more.
        tolerance: Up to which movement the model counts as invariant.
        constant: Whether the model gave the same output for all networks, so that being invariant means little.
    """

    movements: tuple[Movement, ...]
    rounding: float
    tolerance: float
    constant: bool

    @property
    def verdict(self) -> Verdict:
        """``"not invariant"`` if any movement is, else ``"inconclusive"`` if any is, else ``"invariant"``."""
        found = {m.verdict for m in self.movements}
        if "not invariant" in found:
            return "not invariant"
        return "inconclusive" if "inconclusive" in found or self.constant or not found else "invariant"

    @property
    def worst(self) -> dict[str, Movement]:
        """The largest conclusive movement of the model for each hidden space alone, and for ``"all"``."""
        best: dict[str, Movement] = {}
        for m in self.movements:
            rank = (m.verdict != "inconclusive", m.model)
            if m.space not in best or rank > (best[m.space].verdict != "inconclusive", best[m.space].model):
                best[m.space] = m
        return best

    def __repr__(self) -> str:
        rows = [("symmetry", "magnitude", "space", "model moved", "function moved", "verdict")]
        for m in self.movements:
            strength = "" if m.magnitude is None else f"{m.magnitude:g}"
            rows.append((m.symmetry, strength, m.space, f"{m.model:.1e}", f"{m.function:.1e}", m.verdict))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        worst = max(self.movements, key=lambda m: (m.verdict == "not invariant", m.model), default=None)
        end = f"{self.verdict} (tolerance {self.tolerance:.1e}, rounding moves the model by {self.rounding:.1e})"
        if self.constant:
            end += "; the output is the same for all networks"
        if worst is not None and worst.verdict == "not invariant":
            alone = [m for m in self.movements if m.verdict == "not invariant" and m.space != "all"]
            place = max(alone, key=lambda m: m.model) if alone else worst
            end += f"; worst in {place.space!r} under {place.symmetry}"
        return "\n".join([*lines, end])


def check_model(
    model: Callable[[Any], Any],
    element: WeightSpaceElement,
    *,
    adapter: Callable[[WeightSpaceElement], Any] | None = None,
    transforms: Sequence[Transform] | None = None,
    magnitudes: Sequence[float] = (0.1, 1.0),
    points: Tensor | None = None,
    draws: int = 2,
    tolerance: float | None = None,
    seed: int = 0,
) -> Certificate:
    """Measures whether a model that reads networks gives the same output for all networks that compute the same.

    Every symmetry is applied to all hidden spaces together and to each alone, so that a layer that handles it wrongly
    is found. A movement up to the tolerance is none. Where the networks' own outputs move by more than the tolerance,
    the action does not keep the function in this dtype, and nothing follows; likewise between the tolerance and ten
    times the model's own rounding. float64 networks and models give the clearest answers.

    Args:
        model: Gives one output for each network, such as scores or features: a tensor ``(n, ...)``.
        element: Networks, batch shape ``(n,)``, best fitted ones.
        adapter: What the model reads of an element; None for the element itself. ``adapters.to_dws`` for models of
            ``(weights, biases)``, ``lambda e: adapters.to_graph(e)`` for dense graphs. What comes before the
            model, such as :class:`weightaug.Standardize`, belongs here, too.
        transforms: Symmetries to test, which preserve the function; None for all that the architecture has.
        magnitudes: Strengths, 0 to 1, of those that have one: the share of neurons that change sign (up to a half),
            the largest number of half periods (up to 4), the largest scale (up to 10).
        points: Coordinates on which the networks are evaluated; None for random ones in [-1, 1].
        draws: Draws for each symmetry and magnitude.
        tolerance: Largest movement that counts as none; None for the square root of the dtype's precision.
        seed: Of all draws.

    Returns:
        The movements and the verdict.

    Raises:
        TypeError: If the model's output is no floating tensor.
        ValueError: If the model is in training mode, its output does not lead with the batch or is not finite, a
            transform changes functions, or a magnitude is out of range.
    """
    if isinstance(model, nn.Module) and model.training:
        raise ValueError("check_model: the model is in training mode, in which it may draw; call model.eval() first")
    if len(element.batch_shape) != 1 or not len(element):
        raise ValueError(
            f"check_model: expected networks of batch shape (n,), n >= 1, got {tuple(element.batch_shape)}"
        )
    wrong = [m for m in magnitudes if not 0 < m <= 1]
    if wrong:
        raise ValueError(f"check_model: magnitudes must be above 0 and at most 1, got {wrong}")
    tolerance = math.sqrt(torch.finfo(element.dtype).eps) if tolerance is None else tolerance
    read = _reader(model, adapter, len(element))
    evaluate = _evaluator(element, points, seed)
    before = read(element)
    outputs = None if evaluate is None else evaluate(element)
    rounding = max(_distance(read(_rounded(element, sign)), before) for sign in (1, -1))
    limit = max(tolerance, _ROUNDING * rounding)
    generator = torch.Generator().manual_seed(seed)
    movements = []
    for transform, magnitude in _symmetries(element.architecture, transforms, magnitudes):
        drawn = [transform.sample(element, generator=generator) for _ in range(draws)]
        for space, parts in _by_space(element.architecture, drawn):
            moved = [transform.apply(element, part) for part in parts]
            by = max(_distance(read(m), before) for m in moved)
            function = math.nan
            if evaluate is not None and outputs is not None:
                function = max(_distance(evaluate(m), outputs) for m in moved)
            verdict: Verdict = "invariant" if by <= tolerance else "not invariant" if by > limit else "inconclusive"
            if function > tolerance:
                verdict = "inconclusive"
            movements.append(Movement(repr(transform), magnitude, space, by, function, verdict))
    constant = len(element) > 1 and _distance(before, before[:1].expand_as(before)) <= rounding
    return Certificate(tuple(movements), rounding, tolerance, constant)


def _reader(
    model: Callable[[Any], Any], adapter: Callable[[WeightSpaceElement], Any] | None, count: int
) -> Callable[[WeightSpaceElement], Tensor]:
    def read(element: WeightSpaceElement) -> Tensor:
        with torch.no_grad():
            # Copies: some models write into what they read.
            output = model(element.clone() if adapter is None else adapter(element.clone()))
        if not isinstance(output, Tensor) or not output.is_floating_point():
            came = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(f"check_model: expected the model's output as a floating tensor, got {came}")
        if output.dim() == 0 or output.shape[0] != count:
            raise ValueError(
                f"check_model: expected one output for each of {count} networks, got shape {tuple(output.shape)}"
            )
        if not bool(output.isfinite().all()):
            raise ValueError("check_model: the model's output is not finite")
        return output.double()

    return read


def _evaluator(
    element: WeightSpaceElement, points: Tensor | None, seed: int
) -> Callable[[WeightSpaceElement], Tensor] | None:
    arch = element.architecture
    if len(arch.inputs) != 1 or len(arch.outputs) != 1 or any(layer.kernel for layer in arch.layers):
        return None
    if not all(s.activation is None or s.activation.is_known for s in arch.spaces):
        return None
    if points is None:
        draw = torch.Generator().manual_seed(seed)
        points = torch.rand(64, arch.inputs[0].size, generator=draw, dtype=torch.float64, device="cpu") * 2 - 1
    x = points.to(element.device)

    def evaluate(networks: WeightSpaceElement) -> Tensor:
        with torch.no_grad():
            return networks(x, per_network=False).double()

    return evaluate


def _rounded(element: WeightSpaceElement, sign: int) -> WeightSpaceElement:
    """Every weight moved to about the next number, in alternating directions."""

    def one(tensor: Tensor) -> Tensor:
        step = torch.ones(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        step[::2] = -1
        return tensor * (1 + sign * torch.finfo(tensor.dtype).eps * step.reshape(tensor.shape))

    return element.map(one)


def _distance(a: Tensor, b: Tensor) -> float:
    if not a.numel():
        return 0.0
    scale = float(b.abs().max())
    gap = float((a - b).abs().max())
    return gap / scale if scale > 0 else gap


def _symmetries(
    architecture: Architecture, transforms: Sequence[Transform] | None, magnitudes: Sequence[float]
) -> Iterator[tuple[Transform, float | None]]:
    given = [Permute(), SirenNegation(), SirenBias(), ReLUScale()] if transforms is None else list(transforms)
    for transform in given:
        if not isinstance(transform, Transform) or transform.preserves != Preserves.FUNCTION:
            raise ValueError(f"check_model: expected transforms that preserve the function, got {transform!r}")
        if transforms is None:
            try:
                transform.check(architecture)
            except ValueError:
                continue
        strengths = [(_strength(transform, m), m) for m in magnitudes]
        if strengths and strengths[0][0] is None:
            yield transform, None
        else:
            yield from ((t, m) for t, m in strengths if t is not None)


def _strength(transform: Transform, magnitude: float) -> Transform | None:
    """The transform with that strength, or None if it has none."""
    if type(transform) is SirenNegation:
        return replace(transform, p=magnitude / 2)
    if type(transform) is SirenBias:
        return replace(transform, k_max=max(1, round(4 * magnitude)))
    if type(transform) is ReLUScale:
        return replace(transform, max_scale=10.0**magnitude)
    return None


def _by_space(architecture: Architecture, drawn: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    yield "all", list(drawn)
    if not all(isinstance(group, GroupElement) for group in drawn) or len(architecture.hidden) < 2:
        return
    for slot, space in enumerate(architecture.hidden):
        if any(part[slot] is not None for part in (drawn[0].permutation, drawn[0].scale, drawn[0].shift)):
            yield space.name, [_only(group, slot) for group in drawn]


def _only(group: GroupElement, slot: int) -> GroupElement:
    parts = (
        tuple(t if i == slot else None for i, t in enumerate(part))
        for part in (group.permutation, group.scale, group.shift)
    )
    return GroupElement(group.architecture, *parts)
