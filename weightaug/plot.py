"""Pictures of networks: what INRs show, what augmentations make of them, and what lies between two of them.

Needs matplotlib (``pip install 'weightaug[plot]'``), which is imported by these functions alone. Every function returns
a figure that pyplot does not know, so nothing has to be closed: ``figure.savefig("networks.png")``, or the last line
of a notebook's cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from weightaug.element import WeightSpaceElement
from weightaug.evaluation import psnr_of_values, render
from weightaug.group import act
from weightaug.transforms import Transform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show", "show_augmentations", "show_path"]

_MOST = 64  # pictures in one figure
_INCH = 1.3  # of one picture


def show(
    element: WeightSpaceElement,
    *,
    size: int | tuple[int, int] = 64,
    columns: int = 8,
    labels: Iterable[object] | None = None,
    order: Literal["xy", "ij"] = "xy",
    axis: int = -1,
    at: float = 0.0,
) -> Figure:
    """What some INRs show, in a grid.

    Args:
        element: Networks ``(n,)`` of two inputs, or of three, shown in a plane; the first 64 of them, or one network.
        size: Pixels of each picture, ``(height, width)`` or one number for both.
        columns: Pictures in a row.
        labels: What to write above each picture.
        order: See :func:`weightaug.render`, like ``axis`` and ``at``.
        axis: Of three inputs, the one that is held fixed.
        at: The value at which it is held.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the networks cannot be drawn, or there is none.

    Example:
        >>> import weightaug as wa
        >>> figure = wa.plot.show(wa.datasets.digits().element[:8])
    """
    images = _images(_flat(element)[:_MOST], size=size, order=order, axis=axis, at=at)
    titles = [] if labels is None else [_said(label) for label, _ in zip(labels, range(len(images)), strict=False)]
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    figure, axes = _grid(rows, columns, titled=labels is not None)
    limits = _limits(images)
    for place in range(rows * columns):
        panel = axes[place // columns][place % columns]
        if place < len(images):
            _draw(panel, images[place], limits)
        if place < len(titles):
            panel.set_title(titles[place], fontsize=8)
    return figure


def show_augmentations(
    element: WeightSpaceElement,
    transforms: Iterable[Transform] | Mapping[str, Transform],
    *,
    draws: int = 1,
    size: int | tuple[int, int] = 64,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Figure:
    """What transforms make of some INRs: a row for the networks as they are, and one for every transform.

    Args:
        element: Networks ``(n,)``, the first 8 of which are drawn; transforms that mix find partners among all.
        transforms: Transforms, or transforms by the name that is written beside their row.
        draws: Rows for each transform, each with a draw of its own.
        size: Pixels of each picture.
        generator: Source of the draws; None for a seed of its own, the same at every call.
        **options: ``order``, ``axis`` and ``at`` of :func:`weightaug.render`.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the networks cannot be drawn, or there is none.

    Example:
        >>> import weightaug as wa
        >>> networks = wa.datasets.digits().element[:6]
        >>> figure = wa.plot.show_augmentations(networks, [wa.SirenNegation(), wa.Rotate(30.0), wa.GaussianNoise(0.05)])
    """
    flat = _flat(element)
    named = transforms if isinstance(transforms, Mapping) else {repr(t): t for t in transforms}
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    rows = [("as they are", flat)]
    for name, transform in named.items():
        rows += [(name, transform(flat, generator=generator)) for _ in range(draws)]
    pictures = [_images(networks[:8], size=size, **options) for _, networks in rows]
    limits = _limits(pictures[0])
    figure, axes = _grid(len(rows), len(pictures[0]), beside=True)
    for (name, _), images, panels in zip(rows, pictures, axes, strict=True):
        panels[0].set_ylabel(_folded(name), fontsize=7, rotation=0, ha="right", va="center")
        for panel, image in zip(panels, images, strict=True):
            _draw(panel, image, limits)
    return figure


def show_path(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    *,
    aligned: bool = True,
    steps: int = 7,
    size: int | tuple[int, int] = 64,
    **options: Any,
) -> Figure:
    """What lies between two INRs in weight space: as they are, and with the second aligned to the first.

    Beside each path stands how far its ends are apart and, for two inputs, the PSNR of the network half way against the
    mean of both functions, whose range is the peak.

    Args:
        a: One network, of batch shape ``()`` or ``(1,)``.
        b: Another of the same architecture.
        aligned: Whether to add the row of the path to ``b`` after alignment by its whole symmetry group.
        steps: Networks of each path, both ends included.
        size: Pixels of each picture.
        **options: ``order``, ``axis`` and ``at`` of :func:`weightaug.render`.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If these are not two networks of one architecture, or cannot be drawn.

    Example:
        >>> import weightaug as wa
        >>> networks = wa.datasets.digits().element
        >>> figure = wa.plot.show_path(networks[0], networks[1])
    """
    from weightaug.matching import match

    first, second = _flat(a), _flat(b)
    if len(first) != 1 or len(second) != 1:
        raise ValueError(f"show_path: expected one network each, got {len(first)} and {len(second)}")
    if steps < 2:
        raise ValueError(f"show_path: expected at least 2 steps, the two ends, got {steps}")
    ends = {"as they are": second}
    if aligned:
        ends["aligned"] = act(second, match(first, second))
    weights = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device)
    pictures, texts = [], []
    for name, end in ends.items():
        path = WeightSpaceElement.unflatten(
            first.architecture, first.flatten().lerp(end.flatten(), weights.unsqueeze(-1))
        )
        pictures.append(_images(path, size=size, **options))
        middle = WeightSpaceElement.unflatten(first.architecture, (first.flatten() + end.flatten()) / 2)
        apart = (first.flatten() - end.flatten()).norm()
        texts.append(f"{name}\ndistance {float(apart):.2f}" + _midpoint(first, end, middle))
    limits = _limits(pictures[0][[0, -1]])
    figure, axes = _grid(len(pictures), steps, beside=True)
    for text, images, panels in zip(texts, pictures, axes, strict=True):
        panels[0].set_ylabel(text, fontsize=7, rotation=0, ha="right", va="center")
        for panel, image in zip(panels, images, strict=True):
            _draw(panel, image, limits)
    for panel, weight in zip(axes[0], weights.tolist(), strict=True):
        panel.set_title(f"{weight:.2f}", fontsize=8)
    return figure


def _midpoint(a: WeightSpaceElement, b: WeightSpaceElement, middle: WeightSpaceElement) -> str:
    """How near the network half way is to the mean of both functions, where one can say."""
    if a.architecture.inputs[0].size != 2:
        return ""
    one, other, between = (render(networks, 32).double().reshape(-1, 1) for networks in (a, b, middle))
    near = float(psnr_of_values((one + other) / 2, between, None))
    return "\nmiddle: the mean" if math.isinf(near) else f"\nmiddle: {near:.1f} dB"


def _flat(element: WeightSpaceElement) -> WeightSpaceElement:
    """The networks as ``(n,)``."""
    vectors = element.flatten().reshape(-1, element.architecture.num_parameters)
    flat = WeightSpaceElement.unflatten(element.architecture, vectors)
    if len(flat) == 0:
        raise ValueError("expected at least one network to draw, got none")
    return flat


def _images(element: WeightSpaceElement, *, size: int | tuple[int, int], **options: Any) -> Tensor:
    """Pictures ``(n, height, width)`` or ``(n, height, width, 3)``, on the CPU."""
    images = render(element, size, **options).detach().cpu().float()
    if images.dim() == 4:
        images = images.movedim(1, -1)
        images = images if images.shape[-1] == 3 else images[..., 0]  # the first of several outputs
    return images


def _limits(images: Tensor) -> tuple[float, float]:
    """Black and white."""
    finite = images[images.isfinite()]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low, low + 1.0)


def _draw(panel: Any, image: Tensor, limits: tuple[float, float]) -> None:
    low, high = limits
    if image.dim() == 3:
        panel.imshow(((image - low) / (high - low)).clamp(0, 1).numpy())
    else:
        panel.imshow(image.numpy(), cmap="gray", vmin=low, vmax=high)


def _grid(rows: int, columns: int, *, titled: bool = True, beside: bool = False) -> tuple[Figure, Any]:
    """A figure of empty panels."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("weightaug.plot draws with matplotlib: pip install 'weightaug[plot]'") from error
    figure = Figure(
        figsize=(_INCH * (columns + (1.4 if beside else 0)), (_INCH + 0.2 * titled) * rows), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set_visible(False)
    return figure, axes


def _said(label: object) -> str:
    return str(label.item()) if isinstance(label, Tensor) and label.numel() == 1 else str(label)


def _folded(name: str, width: int = 26) -> str:
    """A long name in lines."""
    lines, rest = [], name
    while len(rest) > width:
        cut = max(rest.rfind(", ", 0, width) + 1, rest.rfind("(", 0, width) + 1)
        cut = cut if cut > 0 else width
        lines.append(rest[:cut])
        rest = rest[cut:].lstrip()
    return "\n".join([*lines, rest])
