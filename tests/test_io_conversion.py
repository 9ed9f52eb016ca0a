"""io.convert: folders of state dicts become a data set, in order, past damaged files, and go on after a kill."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.networks import assert_same, random_element
from weightaug import Architecture
from weightaug.adapters import from_modules, to_state_dicts
from weightaug.io import conversion, convert, load

DEEP = Architecture.mlp((2, *[3] * 11, 1), "tanh")  # twelve layers: "layer10" is less than "layer2" as text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets").mkdir()
    for i in range(12):
        state = to_state_dicts(random_element(DEEP, (12,)), names=None)[i]
        state = {k.replace("layer", "seq."): v.clone() for k, v in sorted(state.items())}
        path = tmp_path / "nets" / f"net{i}"
        if i % 3 == 0:
            torch.save({"state_dict": state | {"label": torch.tensor(i)}}, path.with_suffix(".pth"))
        elif i % 3 == 1:
            save_file(state | {"label": torch.tensor(i)}, path.with_suffix(".safetensors"))
        else:
            np.savez(path, **{k: v.numpy() for k, v in state.items()}, label=np.int64(i))
    return tmp_path / "nets"


def test_every_format_in_the_order_of_numbers(folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    done = convert(folder, DEEP, out=tmp_path / "set", labels="label", chunk=5, progress=seen.append)
    got = load(tmp_path / "set")
    assert_same(got.element, random_element(DEEP, (12,)))
    assert got.labels is not None
    assert got.labels.tolist() == got.columns["source"].tolist() == list(range(12))
    assert (done.size, done.refused, seen[-1]) == (12, {}, 12)
    assert [p.stem for p in done.sources] == [f"net{i}" for i in range(12)]


class Harm:
    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


def test_damaged_files_are_told_and_run_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "net3.pth").write_bytes(pickle.dumps(Harm()))
    (folder / "net4.safetensors").write_bytes(b"\xff" * 50)
    (folder / "net5.npz").write_bytes(b"PK")
    np.savez(folder / "net8.npz", a=np.array([Harm()], dtype=object))
    done = convert(
        str(folder / "*"), DEEP, out=tmp_path / "set", labels=lambda path: int(path.stem[3:]), ignore=["label"]
    )
    assert not (tmp_path / "harmed").exists()
    assert sorted(p.stem for p in done.refused) == ["net3", "net4", "net5", "net8"]
    assert all(done.refused.values())
    labels = load(tmp_path / "set").labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 6, 7, 9, 10, 11]


def test_a_killed_conversion_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(number: int) -> None:
        if number == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, DEEP, out=tmp_path / "set", labels="label", chunk=3, progress=stop)
    assert len(load(tmp_path / "set").element) == 6
    read: list[str] = []
    whole = conversion._read
    monkeypatch.setattr(conversion, "_read", lambda path: read.append(path.stem) or whole(path))
    assert convert(folder, DEEP, out=tmp_path / "set", labels="label", chunk=3).size == 12
    assert read == [f"net{i}" for i in range(6, 12)]
    assert_same(load(tmp_path / "set").element, random_element(DEEP, (12,)))
    with pytest.raises(ValueError, match="got another data set; choose another folder"):
        convert(folder, DEEP, out=tmp_path / "set", ignore=["label"])


def test_nothing_to_convert(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected files that end in .pt"):
        convert(tmp_path / "nowhere", DEEP, out=tmp_path / "set")
    with pytest.raises(ValueError, match=r"none of 12 files could be read, first .*net0.pth: ValueError"):
        convert(folder, Architecture.siren((2, 3, 1)), out=tmp_path / "set")
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        convert(folder, DEEP, out=tmp_path / "set", chunk=0)
    assert not (tmp_path / "set").exists()


def test_hdf5_of_one_network_in_each_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "hdf5").mkdir()
    for i, state in enumerate(to_state_dicts(random_element(DEEP, (12,)), names=None)):
        with h5py.File(tmp_path / "hdf5" / f"net{i}.{'h5' if i % 2 else 'hdf5'}", "w") as file:
            for name, tensor in state.items():
                file[name.replace(".", "/")] = tensor.numpy()
            file["label"] = i
    kept = {"classes": ["a", "b"]}
    done = convert(tmp_path / "hdf5", DEEP, out=tmp_path / "set", labels="label", metadata=kept)
    got = load(tmp_path / "set")
    assert done.refused == {}
    assert_same(got.element, random_element(DEEP, (12,)))
    assert got.labels is not None
    assert got.labels.tolist() == list(range(12))
    assert got.metadata["classes"] == ["a", "b"]
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["params"], file["param_config"] = np.zeros((2, 3)), "[]"
    with pytest.raises(ValueError, match=r"many networks .* weightaug.layouts.neural_field_arena"):
        convert(tmp_path / "table.h5", DEEP, out=tmp_path / "other")
    (tmp_path / "table.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected an HDF5 file"):
        convert(tmp_path / "table.h5", DEEP, out=tmp_path / "other")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'weightaug\[hdf5\]'"):
        convert(tmp_path / "hdf5", DEEP, out=tmp_path / "other")


def test_state_dicts_of_a_traced_module(tmp_path: Path) -> None:
    def made() -> nn.Module:
        layers = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(*layers, nn.Linear(3, 2)).eval()

    modules = [made() for _ in range(3)]
    arch = Architecture.from_module(modules[0], torch.zeros(1, 1, 5, 5))
    (tmp_path / "nets").mkdir()
    for i, module in enumerate(modules):
        torch.save(module.state_dict(), tmp_path / "nets" / f"net{i}.pt")
    torch.save(nn.Sequential(nn.Conv2d(1, 3, 3)).state_dict(), tmp_path / "nets" / "net3.pt")
    done = convert(tmp_path / "nets", arch, out=tmp_path / "set")
    assert "are missing" in done.refused[tmp_path / "nets" / "net3.pt"]
    element = from_modules(modules, example_input=torch.zeros(1, 1, 5, 5))
    assert torch.equal(load(tmp_path / "set").element.flatten(), element.flatten())


def test_wrong_arguments(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="architecture: expected an Architecture, got tuple"):
        convert(folder, (2, 3, 1), out=tmp_path / "set")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected the label 'y', got the keys"):
        convert(folder, DEEP, out=tmp_path / "set", labels="y", ignore=["label"])


def test_a_file_of_many_networks_is_told_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    arch = Architecture.mlp((2, 3, 1), "tanh")
    networks = random_element(arch, (4,))
    for i, element in enumerate((networks[0], networks, networks[1])):
        save_file({k: v.clone() for k, v in element.named_tensors()}, tmp_path / "nets" / f"net{i}.safetensors")
    done = convert(tmp_path / "nets", arch, out=tmp_path / "set")
    assert done.size == 2
    ((path, reason),) = done.refused.items()
    assert path.stem == "net1"
    assert "expected one network, got a batch (4,)" in reason
