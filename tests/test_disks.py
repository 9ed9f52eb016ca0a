"""Real disks that are full or read-only: a small file system in memory, which only root can mount."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import weightaug as wa
from benchmarks.running.files import read_json, write_json
from tests.networks import SIREN, assert_same, random_element
from weightaug.io import append, load, save

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB that holds a data set, a result, and nothing else."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=256k", "none", str(place))
    except FileNotFoundError:
        pytest.skip("there is no mount")
    try:
        save(place / "set", random_element(SIREN, (7,)), torch.arange(7))
        write_json(place / "result.json", {"figure": 1.5})
        yield place
    finally:  # lazily, since data sets that are still mapped keep it busy
        subprocess.run(["umount", "-l", str(place)], check=True)


def writers(disk: Path, count: int) -> list[Callable[[], object]]:
    element, labels = random_element(SIREN, (count,)), torch.arange(count)
    views = {"transform": wa.GaussianNoise(0.1), "shard_size": count, "progress": False}
    return [
        lambda: save(disk / "set", element, labels),
        lambda: save(disk / "other", element, labels),
        lambda: append(disk / "set", element, labels),
        lambda: wa.make_views(element, 1, disk / "views", **views),
        lambda: write_json(disk / "result.json", {"figures": [0.5] * 100 * count}),
    ]


def refused(call: Callable[[], object], number: int, disk: Path) -> None:
    with pytest.raises(OSError, match=str(disk)) as error:
        call()
    assert error.value.errno == number


def unchanged(disk: Path) -> None:
    got = load(disk / "set")
    assert_same(got.element, random_element(SIREN, (7,)))
    assert got.labels.tolist() == list(range(7))
    assert read_json(disk / "result.json") == {"figure": 1.5}


def test_a_full_disk_names_itself_and_loses_nothing(disk: Path) -> None:
    for call in writers(disk, 2000):
        refused(call, errno.ENOSPC, disk)
        unchanged(disk)
        assert not [f for f in disk.rglob(".*") if f.is_file()]  # what was begun does not keep the disk full
    append(disk / "set", random_element(SIREN, (2,)), torch.arange(2))
    assert len(load(disk / "set").element) == 9


def test_what_a_full_disk_stopped_goes_on_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    element = random_element(SIREN, (2000,))
    how = {"transform": wa.GaussianNoise(0.1), "shard_size": 100, "progress": False}
    with pytest.raises(OSError, match="No space left on device"):
        wa.make_views(element, 1, disk / "views", **how)
    made = {f: f.stat().st_mtime_ns for f in (disk / "views").rglob("*.safetensors")}
    assert made
    mount("-o", "remount,size=64m", str(disk))
    views = wa.make_views(element, 1, disk / "views", **how)
    assert all(f.stat().st_mtime_ns == when for f, when in made.items()), "shards that were there were made again"
    assert_same(views.element, wa.make_views(element, 1, tmp_path / "views", **how).element)


def test_a_read_only_disk_is_read_and_not_written(disk: Path) -> None:
    mount("-o", "remount,ro", str(disk))
    for call in writers(disk, 7):
        refused(call, errno.EROFS, disk)
        unchanged(disk)
