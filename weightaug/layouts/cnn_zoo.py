"""The small CNN zoo of Unterthiner et al. (2020): flat weights of many small CNNs, with what they reach."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.io.files import AnyPath, absolute

__all__ = ["Zoo", "small_cnn_zoo"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Zoo(NamedTuple):
    """Networks of a zoo.

    Attributes:
        element: ``(n,)``; its architecture is traced from a CNN, so permutations go through its convolutions.
        columns: What ``metrics.csv.gz`` says of each network: numbers as float64 ``(n,)``, other texts as tuples.
    """

    element: WeightSpaceElement
    columns: dict[str, Tensor | tuple[str, ...]]


def small_cnn_zoo(
    folder: AnyPath,
    *,
    activation: str = "relu",
    columns: Sequence[str] = ("test_accuracy",),
    rows: Sequence[int] | slice | None = None,
    stride: int = 2,
) -> Zoo:
    """Reads a zoo of CNNs: convolutions, the mean over all pixels, and a linear head.

    ``layout.csv`` says where each variable lies in the rows of ``weights.npy``, in TensorFlow's order: kernels are
    (height, width, in, out), dense ones (in, out). They become torch's.

    Args:
        folder: With ``weights.npy``, ``layout.csv`` and ``metrics.csv.gz``.
        activation: "relu" or "tanh": zoos mix networks of several activations, so choose the ``rows`` that have it (the
            column ``config.activation`` says it).
        columns: Columns of the metrics to keep.
        rows: Which networks; None for all. ``weights.npy`` is memory-mapped, so others are not read.
        stride: Of the convolutions.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file has another form, a column is missing, or rows of another activation are chosen.
    """
    root = absolute(folder)
    files = [root / name for name in ("weights.npy", "layout.csv", "metrics.csv.gz")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: expected weights.npy, layout.csv and metrics.csv.gz beside each other")
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"small_cnn_zoo: expected activation {' or '.join(map(repr, _ACTIVATIONS))}, got {activation!r}"
        )
    try:
        weights = np.load(files[0], mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged file fails in any way; the reason is told
        raise ValueError(f"{files[0]}: expected an array that NumPy has written: {error}") from error
    layout = _layout(files[1])
    width = max(end for _, _, end, _ in layout)
    table = _metrics(files[2], columns)
    if weights.ndim != 2 or weights.shape[1] != width or len(weights) != len(next(iter(table.values()))):
        raise ValueError(
            f"{root}: expected weights (networks, {width}) with as many networks as metrics, got "
            f"{weights.shape} "
            f"and {len(next(iter(table.values())))}"
        )
    chosen = np.arange(len(weights))[slice(None) if rows is None else rows]
    if "config.activation" in table and (others := {table["config.activation"][i] for i in chosen} - {activation}):
        raise ValueError(
            f"small_cnn_zoo: rows of other activations than {activation!r}: {sorted(others)}; choose with rows= those "
            "whose column config.activation is the one"
        )
    flat = torch.from_numpy(np.array(weights[chosen]))
    tensors = {name: _as_torch(flat[:, first:last].unflatten(1, shape)) for name, first, last, shape in layout}
    element = _element(tensors, activation, stride, root)
    kept = {name: _numbers([table[name][i] for i in chosen]) for name in columns}
    return Zoo(element, kept)


def _layout(file: Path) -> list[tuple[str, int, int, tuple[int, ...]]]:
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    try:
        entries = [
            (
                row["varname"],
                int(row["start_idx"]),
                int(row["end_idx"]),
                tuple(map(int, row["shape"].strip("()[] ,").split(","))),
            )
            for row in rows
        ]
        fits = all(torch.Size(shape).numel() == last - first for _, first, last, shape in entries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file}: expected columns varname, start_idx, end_idx, shape: {error!r}") from error
    if not entries or not fits:
        raise ValueError(f"{file}: expected variables whose shapes have end_idx - start_idx numbers")
    # By the numbers in the names, not as the file has them: as text, conv2d_10 comes before conv2d_2.
    dense = {_layer(name)[0] for name, _, _, shape in entries if len(shape) == 2}
    return sorted(entries, key=lambda e: (_layer(e[0])[0] in dense, _layer(e[0])[1], e[1]))


def _layer(variable: str) -> tuple[str, int]:
    """The name of a variable's layer, and the number at its end; Keras gives the first of a kind none."""
    name = re.split(r"[/.](?=[^/.]*$)", variable)[0]
    number = re.search(r"_([0-9]+)$", name)
    return name, int(number[1]) if number else 0


def _metrics(file: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    try:
        with gzip.open(file, "rt", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except Exception as error:  # a damaged stream fails in any way; the reason is told
        raise ValueError(f"{file}: expected a gzipped CSV file: {error}") from error
    if not rows:
        raise ValueError(f"{file}: expected at least one network")
    if missing := [name for name in columns if name not in rows[0]]:
        raise ValueError(f"{file}: expected the columns {missing}, found {sorted(map(str, rows[0]))}")
    wanted = [*columns, *(["config.activation"] if "config.activation" in rows[0] else [])] or list(rows[0])[:1]
    return {name: [row[name] for row in rows] for name in wanted}


def _as_torch(tensor: Tensor) -> Tensor:
    """Kernels ``(n, *space, in, out)`` as ``(n, out, in, *space)``; biases as they are."""
    return tensor.movedim(-1, 1).movedim(-1, 2) if tensor.dim() > 2 else tensor


def _numbers(texts: Sequence[str]) -> Tensor | tuple[str, ...]:
    try:
        return torch.tensor([float(text) for text in texts], dtype=torch.float64)
    except ValueError:
        return tuple(texts)


def _element(tensors: Mapping[str, Tensor], activation: str, stride: int, root: Path) -> WeightSpaceElement:
    """The networks, of an architecture that is traced from a CNN of the variables' sizes."""
    kernels = [t for t in tensors.values() if t.dim() > 2]
    biases = [t for t in tensors.values() if t.dim() == 2]
    form = [kernel.dim() for kernel in kernels]
    if len(kernels) < 2 or len(biases) != len(kernels) or form != [5] * (len(form) - 1) + [3]:
        raise ValueError(f"{root}: expected convolutions and one dense layer, each with a bias, got {list(tensors)}")
    module = _CNN(
        [(k.shape[2], k.shape[1], tuple(k.shape[3:])) for k in kernels[:-1]], kernels[-1].shape[1], activation, stride
    )
    image = [2, 2]  # what the last convolution leaves; what it takes follows
    for kernel in reversed(kernels[:-1]):
        image = [(left - 1) * stride + width for left, width in zip(image, kernel.shape[3:], strict=True)]
    architecture = Architecture.from_module(module, torch.zeros(1, kernels[0].shape[2], *image))
    state: dict[str, Tensor] = {}
    for place, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        prefix = "head" if place == len(kernels) - 1 else f"convolutions.{place}"
        state |= {f"{prefix}.weight": kernel, f"{prefix}.bias": bias}
    values: list[Any] = [state[spec.name] for spec in architecture.tensors]
    return WeightSpaceElement.unflatten(architecture, torch.cat([value.flatten(1) for value in values], 1))


class _CNN(nn.Module):
    """A CNN of the zoo, whose wiring is traced."""

    def __init__(
        self, layers: Sequence[tuple[int, int, tuple[int, ...]]], classes: int, activation: str, stride: int
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, stride=stride) for i, o, k in layers)  # type: ignore[arg-type]
        self.act = _ACTIVATIONS[activation]()
        self.head = nn.Linear(layers[-1][1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = self.act(convolution(x))
        scores: Tensor = self.head(x.mean((-2, -1)))
        return scores
