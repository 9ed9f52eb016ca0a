"""Fashion-MNIST from idx files: what is read, what is refused, and which images are used."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.data import images
from benchmarks.data.settings import ImageFitSettings
from benchmarks.data.sources import source
from benchmarks.data.store import Networks, Part, parts_of
from benchmarks.table.settings import TrainSettings
from benchmarks.table.training import split_images
from weightaug import Architecture, WeightSpaceElement

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def idx(array: np.ndarray) -> bytes:
    """The official format: magic, sizes, bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """A data folder with six images of training and two of test in the official layout."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "data" / "fashion_mnist"
    folder.mkdir(parents=True)
    checksums = {}
    for name in images.FASHION_MNIST_FILES:
        count = 6 if name.startswith("train") else 2
        shape = (count, 3, 4) if "images" in name else (count,)
        content = idx(generator.integers(0, 256 if "images" in name else 10, shape, dtype=np.uint8))
        checksums[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(images, "FASHION_MNIST_FILES", checksums)
    return folder


def test_training_images_come_first_then_test_images(tiny):
    read = images.load_images("fashion-mnist", tiny.parent)
    assert read.values.shape == (8, 3, 4)
    assert read.values.dtype == torch.float32
    assert read.classes == 10
    generator = np.random.default_rng(0)
    for first, count in ((0, 6), (6, 2)):
        pixels = generator.integers(0, 256, (count, 3, 4), dtype=np.uint8)
        labels = generator.integers(0, 10, (count,), dtype=np.uint8)
        torch.testing.assert_close(read.values[first : first + count] * 255, torch.from_numpy(pixels).float())
        assert read.labels[first : first + count].tolist() == labels.tolist()


def test_the_folder_itself_can_be_given(tiny):
    assert torch.equal(images.fashion_mnist(tiny).values, images.fashion_mnist(tiny.parent).values)


def test_a_missing_file_is_named_and_nothing_is_downloaded(tiny):
    path = tiny / "t10k-images-idx3-ubyte.gz"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path}: missing.*amazonaws"):
        images.fashion_mnist(tiny.parent)


@pytest.mark.parametrize("damage", ["cut", "other", "no gzip"])
def test_a_corrupt_file_is_named_with_expected_and_got(tiny, damage):
    path = tiny / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    wrong = {"cut": content[:-9], "other": gzip.compress(b"something"), "no gzip": b"<html>not found</html>"}[damage]
    path.write_bytes(wrong)
    expected = images.FASHION_MNIST_FILES["train-images-idx3-ubyte"]
    with pytest.raises(ValueError, match=rf"{path}: expected .*{expected}.*, got .*; delete it and take it again"):
        images.fashion_mnist(tiny)


def test_missing_files_are_downloaded_where_no_folder_is_given(tiny, tmp_path, monkeypatch):
    target = tmp_path / "runs"
    monkeypatch.setattr(images, "_fashion_mnist_folder", lambda data_dir: data_dir or target)
    monkeypatch.setattr(images, "FASHION_MNIST_URL", tiny.as_uri())
    read = images.fashion_mnist()
    assert torch.equal(read.values, images.fashion_mnist(tiny).values)
    assert sorted(p.name for p in target.iterdir()) == sorted(p.name for p in tiny.iterdir())
    # A second time from the folder alone.
    monkeypatch.setattr(images, "FASHION_MNIST_URL", "file:///nowhere")
    assert torch.equal(images.fashion_mnist().values, read.values)


def test_a_failed_or_wrong_download_leaves_no_file(tiny, tmp_path, monkeypatch):
    target = tmp_path / "runs"
    monkeypatch.setattr(images, "_fashion_mnist_folder", lambda data_dir: target)
    monkeypatch.setattr(images, "FASHION_MNIST_URL", "file:///nowhere")
    with pytest.raises(ConnectionError, match="--data-dir"):
        images.fashion_mnist()
    (tiny / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something"))
    monkeypatch.setattr(images, "FASHION_MNIST_URL", tiny.as_uri())
    with pytest.raises(ValueError, match="expected md5"):
        images.fashion_mnist()
    assert not target.exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not at hand")
def test_the_real_files_are_the_official_ones():
    read = images.load_images("fashion-mnist", SHARED)
    assert read.values.shape == (70_000, 28, 28)
    assert (read.values.min(), read.values.max()) == (0, 1)
    assert read.labels.bincount().tolist() == [7000] * 10


def test_every_split_gives_its_first_images():
    assert source("fashion-mnist").chosen(ImageFitSettings()) == (
        range(55_000),
        range(55_000, 60_000),
        range(60_000, 70_000),
    )
    few = source("fashion-mnist").chosen(ImageFitSettings(images=(300, 20, 10)))
    assert few == (range(300), range(55_000, 55_020), range(60_000, 60_010))
    next_few = source("fashion-mnist").chosen(ImageFitSettings(images=(300, 20, 10), nth=1))
    assert next_few == (range(300, 600), range(55_020, 55_040), range(60_010, 60_020))
    with pytest.raises(ValueError, match="1 to 2500 images of validation, got 2501"):
        source("fashion-mnist").chosen(ImageFitSettings(images=(300, 2501, 10), nth=1))
    with pytest.raises(ValueError, match=r"0 without fit\.images"):
        ImageFitSettings(nth=1)
    with pytest.raises(ValueError, match="1 to 5000 images of validation, got 5001"):
        source("fashion-mnist").chosen(ImageFitSettings(images=(300, 5001, 10)))
    with pytest.raises(ValueError, match=r"fit\.limit"):
        source("fashion-mnist").chosen(ImageFitSettings(limit=5))
    with pytest.raises(ValueError, match=r"fit\.images"):
        source("digits").chosen(ImageFitSettings(images=(3, 2, 1)))


def test_parts_cover_the_chosen_images_once(tmp_path):
    settings = ImageFitSettings(images=(300, 20, 10), batch=128)

    def parts(some: ImageFitSettings) -> list[Part]:
        return [part for split in parts_of("fashion-mnist", 0, some, tmp_path) for part in split]

    covered = [i for part in parts(settings) for i in range(part.first, part.last)]
    assert covered == [i for chosen in source("fashion-mnist").chosen(settings) for i in chosen]
    # A larger choice finds what a smaller one has made.
    more = {part.path for part in parts(ImageFitSettings(images=(384, 20, 10), batch=128))}
    less = {part.path for part in parts(ImageFitSettings(images=(256, 20, 10), batch=128))}
    assert less <= more


def test_official_splits_are_kept():
    architecture = Architecture.siren((2, 2, 1))
    element = WeightSpaceElement.unflatten(architecture, torch.zeros(10, architecture.num_parameters))
    networks = Networks(element, torch.zeros(10, dtype=torch.int64), torch.zeros(10), 1, 10, (5, 2, 3))
    split = split_images(networks, TrainSettings())
    assert split.train.tolist() == [0, 1, 2, 3, 4]
    assert split.validation.tolist() == [5, 6]
    assert split.test.tolist() == [7, 8, 9]


def test_coordinates_are_x_y_or_row_and_column():
    assert images.pixel_grid(2, 3).tolist() == [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    rows_first = images.pixel_grid(2, 3, order="ij")
    assert torch.equal(rows_first.flip(-1), images.pixel_grid(2, 3))
