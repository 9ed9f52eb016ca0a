"""Images to fit networks to."""

from __future__ import annotations

import gzip
import hashlib
import math
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.running.files import write_bytes

CoordinateOrder = Literal["xy", "ij"]


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


def digits(data_dir: Path | None = None) -> Images:
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn (no download).

    Args:
        data_dir: Not used.

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


# -- Fashion-MNIST -----------------------------------------------------------------------------------

FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"

# The md5 of the files' contents, decompressed: the same images are also spread in other compressions.
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def fashion_mnist(data_dir: Path | None = None) -> Images:
    """The 70,000 images of Fashion-MNIST, 28 x 28 pixels: 60,000 of the training set, then 10,000 of the test set.

    Args:
        data_dir: Folder with the four official files, or with a folder ``fashion_mnist`` that holds them. None
            for the benchmark's own folder, into which they are downloaded if they are missing.

    Raises:
        FileNotFoundError: If a file is missing in the given folder.
        ConnectionError: If a download fails.
        ValueError: If a file is not the official one.
    """
    folder = _fashion_mnist_folder(data_dir)
    values, labels = [], []
    for name, checksum in FASHION_MNIST_FILES.items():
        path = folder / f"{name}.gz"
        if not path.exists():
            if data_dir is not None:
                raise FileNotFoundError(
                    f"{path}: missing; expected the four files of Fashion-MNIST, *-ubyte.gz, from {FASHION_MNIST_URL} "
                    "in that folder; without --data-dir they are downloaded"
                )
            _download(f"{FASHION_MNIST_URL}/{path.name}", path, checksum)
        data = read_idx(path, path.read_bytes(), checksum)
        if "images" in name:
            values.append(data.to(torch.float32).div_(255))
        else:
            labels.append(data.to(torch.int64))
    return Images(torch.cat(values), torch.cat(labels), 10)


def _fashion_mnist_folder(data_dir: Path | None) -> Path:
    if data_dir is None:
        return Path(__file__).resolve().parents[1] / "runs" / "data" / "fashion_mnist"
    inside = data_dir / "fashion_mnist"
    return inside if inside.is_dir() else data_dir


def read_idx(path: Path, compressed: bytes, checksum: str) -> Tensor:
    """The bytes of a compressed idx file as a uint8 tensor.

    Args:
        path: Where the file lies, for messages.
        compressed: The file.
        checksum: The expected md5 of the decompressed file.

    Raises:
        ValueError: If it cannot be decompressed, or has another checksum.
    """
    remedy = f"delete it and take it again from {FASHION_MNIST_URL}/{path.name}"
    try:
        content = gzip.decompress(compressed)
    except Exception as error:  # whatever a damaged stream leads to
        raise ValueError(
            f"{path}: expected a gzip file of md5 {checksum} when decompressed, got {len(compressed)} bytes that "
            f"cannot be decompressed ({error}); {remedy}"
        ) from error
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != checksum:
        raise ValueError(f"{path}: expected md5 {checksum} when decompressed, got {got}; {remedy}")
    # After two zeros: the type of the numbers (8: bytes), the number of axes, and the size of each.
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4).tolist()
    assert content[2] == 8
    assert math.prod(shape) == len(content) - 4 - 4 * axes
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * axes).view(shape)


def _download(url: str, path: Path, checksum: str) -> None:
    print(f"downloading {url}", flush=True)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            compressed = answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise ConnectionError(
            f"{url}: the download failed ({error}); get the four files of Fashion-MNIST in another way, and give "
            "their folder with --data-dir"
        ) from error
    read_idx(path, compressed, checksum)
    write_bytes(path, compressed)


# -- all data sets -----------------------------------------------------------------------------------


class Source(NamedTuple):
    """A data set, and what is known of it without reading it.

    Attributes:
        load: Reads it; takes the folder of the data, or None.
        size: Number of images.
        classes: Number of classes.
        splits: Images to train, validate and test on; None if the settings draw them.
    """

    load: Callable[[Path | None], Images]
    size: int
    classes: int
    splits: tuple[range, range, range] | None = None


SOURCES = {
    "digits": Source(digits, 1797, 10),
    # The paper's sizes. Both official files are in random order, so the first n of a split are a fair sample.
    "fashion-mnist": Source(fashion_mnist, 70_000, 10, (range(55_000), range(55_000, 60_000), range(60_000, 70_000))),
}


def source(name: str) -> Source:
    """The data set of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}; known: {sorted(SOURCES)}")
    return SOURCES[name]


def load_images(name: str, data_dir: Path | None = None) -> Images:
    """The images of a data set by its name in ``SOURCES``, from a folder or its usual place.

    Raises:
        ValueError: If there is no such data set.
    """
    return source(name).load(data_dir)


def pixel_grid(height: int, width: int, *, order: CoordinateOrder = "xy", dtype: torch.dtype = torch.float32) -> Tensor:
    """Coordinates ``(height * width, 2)`` of the pixels in [-1, 1], row by row.

    Args:
        height: Number of rows.
        width: Number of columns.
        order: "xy": (x, y) as the authors (numpy.meshgrid with its default indexing); "ij": (row, column) as NFN.
        dtype: Of the coordinates.
    """
    y = torch.linspace(-1, 1, height, dtype=dtype)
    x = torch.linspace(-1, 1, width, dtype=dtype)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    axes = [columns, rows] if order == "xy" else [rows, columns]
    return torch.stack(axes, dim=-1).reshape(-1, 2)
