"""Images to fit networks to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Images(NamedTuple):
    """Grey images and their classes.

    Attributes:
        values: ``(n, height, width)``, float32 in [0, 1].
        labels: int64 ``(n,)``.
        classes: Number of classes.
    """

    values: Tensor
    labels: Tensor
    classes: int


def digits() -> Images:
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn (no download).

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn; install it with: pip install 'weightaug[bench]'"
        ) from error
    data = load_digits()
    values = torch.tensor(data.images, dtype=torch.float32) / 16  # the pixels count 0 to 16
    return Images(values, torch.tensor(data.target, dtype=torch.int64), 10)


SOURCES = {"digits": digits}


def load_images(name: str) -> Images:
    """The images of a data set by its name in ``SOURCES``.

    Raises:
        ValueError: If there is no such data set.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}; known: {sorted(SOURCES)}")
    return SOURCES[name]()


def pixel_grid(height: int, width: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Coordinates ``(height * width, 2)`` of the pixels in [-1, 1]: (x, y), x running fastest.

    This is the authors' order (numpy.meshgrid with its default indexing); NFN uses (row, column).
    """
    y = torch.linspace(-1, 1, height, dtype=dtype)
    x = torch.linspace(-1, 1, width, dtype=dtype)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2)
