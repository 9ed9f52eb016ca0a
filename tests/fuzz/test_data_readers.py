"""Mutated files for the readers of data and of public layouts, and mutated configurations; see the harness."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import weightaug as wa
from benchmarks.data.archives import load_shapes
from benchmarks.data.images import read_idx
from benchmarks.data.off import parse_off
from tests.fuzz.harness import run
from tests.networks import SIREN, random_element
from tests.test_layouts import zoo  # noqa: F401  (a fixture)
from weightaug import layouts
from weightaug.adapters import to_state_dicts
from weightaug.io import hdf5
from weightaug.matching import Frame, fit_frame

pytestmark = pytest.mark.filterwarnings("ignore:unknown activation")

OFF = b"OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"


def test_meshes(tmp_path: Path) -> None:
    file = tmp_path / "a.off"
    file.write_bytes(OFF)
    run([file], lambda: parse_off(file.read_bytes()), 11)


def test_archives(tmp_path: Path) -> None:
    file = tmp_path / "shapes.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("chair/train/a.off", OFF)
        archive.writestr("../../sofa/test/b.off", OFF)
    run([file], lambda: [sample.mesh() for sample in load_shapes(file)], 12)
    assert [p.name for p in tmp_path.iterdir()] == ["shapes.zip"]  # nothing is unpacked
    assert not (tmp_path.parent.parent / "sofa").exists()


def test_idx_files(tmp_path: Path) -> None:
    file = tmp_path / "images-idx3-ubyte.gz"
    content = bytes([0, 0, 8, 3]) + np.array([2, 3, 3], ">i4").tobytes() + bytes(18)
    file.write_bytes(gzip.compress(content))
    checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
    run([file], lambda: read_idx(file, file.read_bytes(), checksum), 13)


def test_configurations(tmp_path: Path) -> None:
    file = tmp_path / "transform.json"
    augment = wa.Compose([wa.SirenNegation(), wa.RandomApply(wa.Rotate((-10.0, 20.0)), p=0.5), wa.GaussianNoise(0.1)])
    file.write_text(json.dumps(augment.asdict()))
    run([file], lambda: wa.Transform.fromdict(json.loads(file.read_bytes())), 14)


def test_frames(tmp_path: Path) -> None:
    frame = fit_frame(random_element(SIREN, (4,)), kind="member", generator=torch.Generator().manual_seed(0))
    frame.save(tmp_path / "frame")
    files = sorted(p for p in (tmp_path / "frame").rglob("*") if p.is_file())
    run(files, lambda: Frame.load(tmp_path / "frame"), 15)


def test_splits(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"")
    file = tmp_path / "splits.json"
    file.write_text(
        json.dumps({"train": {"path": ["/a/b/net.pth"], "label": ["3"]}, "test": {"path": [], "label": []}})
    )

    def read() -> None:
        for path in layouts.dwsnets(tmp_path).paths:
            assert path.resolve().is_relative_to(tmp_path.resolve())

    run([file], read, 16)


def test_field_arena_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    element = random_element(SIREN, (2,), dtype=torch.float32)
    state = to_state_dicts(element, stacked=True)
    path = tmp_path / "a_0-2.hdf5"
    with h5py.File(path, "w") as file:
        file["params"] = torch.cat([t.flatten(1) for t in state.values()], 1).numpy()
        file["labels"] = np.arange(2)
        file["param_config"] = json.dumps([[name, list(t.shape[1:])] for name, t in state.items()])
    # The HDF5 library itself allocates what damaged headers ask for, before anyone can look.
    run([path], lambda: layouts.neural_field_arena(path, SIREN), 17, mebibytes=4096, share=8)


def test_zoos(zoo: tuple[Path, list[torch.nn.Module]]) -> None:  # noqa: F811
    folder, _ = zoo
    run(sorted(folder.iterdir()), lambda: layouts.small_cnn_zoo(folder, rows=[0]), 18)


def test_wild_networks(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    file = tmp_path / "net.pt"
    weights = {"a.weight": torch.zeros(2, 2)}
    torch.save({"model": weights, "config": omegaconf.OmegaConf.create({"layers": [8, 16], "act": "gelu"})}, file)
    run([file], lambda: layouts.wild_park(file), 19)


def test_a_small_file_that_declares_much_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("params", (2**40, 1024), dtype="f4", chunks=(1, 1024))
    with pytest.raises(ValueError, match=r"declares [0-9,]+ bytes in a file of"):
        layouts.neural_field_arena(tmp_path / "a.h5", SIREN)


def test_damaged_types_of_hdf5_are_not_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["params"], file["labels"] = np.zeros((1, 4), "f4"), np.zeros(1, "i4")
        # An opaque value that says it was a Python object: reading one may never end.
        file.create_dataset("param_config", data=np.array(b"12345678", h5py.opaque_dtype(np.dtype("V8"))))
    with pytest.raises(ValueError, match=r"param_config: expected numbers or one text, got \(\) of"):
        layouts.neural_field_arena(tmp_path / "a.h5", SIREN)


def test_a_text_that_hdf5_searches_for_ever_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    element = random_element(SIREN, (2,), dtype=torch.float32)
    state = to_state_dicts(element, stacked=True)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["params"] = torch.cat([t.flatten(1) for t in state.values()], 1).numpy()
        file["labels"] = np.arange(2)
        file["param_config"] = json.dumps([[name, list(t.shape[1:])] for name, t in state.items()])
    assert len(layouts.neural_field_arena(tmp_path / "a.h5", SIREN)[0]) == 2
    monkeypatch.setattr(hdf5, "_TEXT", "while True: pass")
    monkeypatch.setattr(hdf5, "_PATIENCE", 0.3)
    with pytest.raises(ValueError, match="param_config: damaged: reading this text does not come to an end"):
        layouts.neural_field_arena(tmp_path / "a.h5", SIREN)
    monkeypatch.setattr(hdf5, "_TEXT", "raise OSError('lost')")
    monkeypatch.setattr(hdf5, "_PATIENCE", 30.0)
    with pytest.raises(ValueError, match="param_config: damaged: OSError: lost"):
        layouts.neural_field_arena(tmp_path / "a.h5", SIREN)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"layers":' * 5000, "", "9" * 5000])
def test_deep_and_empty_json_is_no_architecture(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        wa.Architecture.from_json(text)
