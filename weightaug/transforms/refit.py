"""Brings the function back after a transform has changed it: new views of a network, and mixtures of functions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weightaug._modes import untraced
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.evaluation import evaluate, psnr_of_values
from weightaug.fitting.descent import Adam, fit
from weightaug.fitting.modes import ordinary, undisturbed
from weightaug.points import Points, points_of, sizes_of
from weightaug.transforms import settings
from weightaug.transforms.base import Params, Preserves, Transform
from weightaug.transforms.mixing import Mixup, Pool

__all__ = ["Refit", "RefitParams"]


class RefitParams(NamedTuple):
    """What refitting draws and finds.

    Attributes:
        inner: What the inner transform drew.
        change: What is added to the parameters of each network, in the form of the element.
        psnr: How close the result is to what it should show, at the points, in dB ``(*batch)``: the peak is the
            range of that function's own values.
    """

    inner: Params
    change: WeightSpaceElement
    psnr: Tensor


@dataclass(frozen=True)
class Refit(Transform):
    """Applies a transform that changes the function, then brings the function back by a few steps of Adam.

    After noise or dropout the network goes back to its own values at the points: a new view, which has other weights
    and is no symmetric copy, from the network alone. After mixing it goes to lam f + (1 - lam) f', the mixture of both
    functions, so that the network and a mixed target mean the same thing. Preserves the function at the points up to
    the PSNR that :meth:`sample` reports, and nothing exactly.

    Draws what the inner transform draws. All networks of a batch are fitted at once, independently of each other, in
    :meth:`sample`; :meth:`apply` adds what was found, so its gradient with respect to the network is the identity. Not
    cheap: a step costs about three evaluations at all points. ``make_views`` does it ahead of training.

    Args:
        transform: What is applied first; not a geometry, whose new function is meant.
        points: Where the function is held: 28 for a grid of 28 points along every input in [-1, 1], ``(28, 32)`` for
            so many along each, in the order of the inputs, or a tensor ``(n, inputs)``. At least as fine as what the
            networks were fitted to: between the points anything may happen.
        steps: Steps of Adam; fewer for weak transforms.
        learning_rate: Their rate, constant.
        target_psnr: A network stops when it has reached so many dB (looked at every 10 steps); None: all make all
            steps.

    Raises:
        ValueError: If the inner transform is a geometry, a setting is out of range, or the points or the architecture
            do not fit.
    """

    transform: Transform
    points: int | tuple[int, ...] | Points | Tensor
    steps: int = 80
    learning_rate: float = 3e-3
    target_psnr: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.transform, Transform):
            raise TypeError(f"Refit: transform must be a Transform, got {self.transform!r}")
        for inner in _leaves(self.transform):
            if inner.preserves is Preserves.FUNCTION_UP_TO_INPUT_MAP:
                raise ValueError(
                    f"Refit would undo {inner!r}, which moves the input exactly; put it outside: "
                    f"Compose(({type(inner).__name__}(...), Refit(...)))"
                )
        settings.integer(self, "steps", 0)
        settings.number(self, "learning_rate", 0)
        if isinstance(self.points, Tensor):
            object.__setattr__(self, "points", Points(self.points))
        elif not isinstance(self.points, Points):
            object.__setattr__(self, "points", sizes_of(self.points, owner="Refit: points"))

    @property
    def reads_values(self) -> bool:  # type: ignore[override]
        """Whether sampling looks at the weights: always."""
        return True

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether the inner transform mixes."""
        return self.transform.mixes

    def check(self, architecture: Architecture) -> None:
        self.transform.check(architecture)
        points_of(self.points, architecture, owner="Refit: points")
        for space in architecture.hidden:
            if space.activation is None or not space.activation.is_known:
                raise ValueError(
                    f"Refit evaluates networks, which space {space.name!r} with its unknown activation does not allow; "
                    f"known: {', '.join(type(space.activation).known() if space.activation else ())}"
                )

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> RefitParams:
        self.check(element.architecture)
        changed, inner = self.transform.sample_apply(element, generator=generator)
        return self._refitted(element, changed, inner)

    @untraced
    def _refitted(self, element: WeightSpaceElement, changed: WeightSpaceElement, inner: Params) -> RefitParams:
        with undisturbed(element.device):
            own, start = element.map(ordinary), changed.map(ordinary)
            x = points_of(self.points, element.architecture).to(element.device)
            values = evaluate(own, x)
            (wanted,) = _on_functions(self.transform, x).apply_targets((values,), inner)
            peak = wanted.amax((-2, -1)) - wanted.amin((-2, -1))
            stop = float("inf") if self.target_psnr is None else self.target_psnr
            adam = Adam(self.steps, self.learning_rate, target_psnr=stop)
            fitted = fit(x, wanted, start, adam, peak=peak).element
            change = _plus(fitted, own, -1)
            return RefitParams(inner, change, psnr_of_values(wanted, evaluate(_plus(own, change), x)))

    def apply(self, element: WeightSpaceElement, params: RefitParams) -> WeightSpaceElement:
        return _plus(element, params.change.to(element.dtype))

    def apply_targets(self, targets: tuple[Any, ...], params: RefitParams) -> tuple[Any, ...]:
        return self.transform.apply_targets(targets, params.inner)


@dataclass(frozen=True)
class _Still(Transform):
    """Stands for a transform that does not mix, where functions are the targets: they stay."""

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> tuple[()]:
        return ()

    def apply(self, element: WeightSpaceElement, params: Params) -> WeightSpaceElement:
        return element


def _on_functions(transform: Transform, x: Tensor) -> Transform:
    """A transform that does to values at points ``(*batch, n, out)`` what mixing is to do to the functions.

    Whatever is to become of the labels: values are mixed, and those of the partners in a pool are theirs.
    """
    if not transform.mixes:
        return _Still()
    changes: dict[str, Any] = {}
    if isinstance(transform, Mixup):
        changes["targets"] = "mix"
        if transform.pool is not None:
            changes["pool"] = Pool(transform.pool.element, evaluate(transform.pool.element, x))
    for field in dataclasses.fields(transform):
        value = getattr(transform, field.name)
        if isinstance(value, Transform):
            changes[field.name] = _on_functions(value, x)
        elif isinstance(value, tuple) and any(isinstance(v, Transform) for v in value):
            changes[field.name] = tuple(_on_functions(v, x) for v in value)
    return dataclasses.replace(transform, **changes)


def _leaves(transform: Transform) -> list[Transform]:
    """The transforms that a transform is made of."""
    inside = []
    for field in dataclasses.fields(transform):
        value = getattr(transform, field.name)
        inside += [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Transform)]
    return [leaf for t in inside for leaf in _leaves(t)] if inside else [transform]


def _plus(a: WeightSpaceElement, b: WeightSpaceElement, times: int = 1) -> WeightSpaceElement:
    """A + times b."""
    biases = zip(a.biases, b.biases, strict=True)
    return WeightSpaceElement(
        a.architecture,
        tuple([torch.add(x, y, alpha=times) for x, y in zip(a.weights, b.weights, strict=True)]),
        tuple([None if x is None or y is None else torch.add(x, y, alpha=times) for x, y in biases]),
    )
