"""Readers of public layouts, on small files in these layouts."""

from __future__ import annotations

import csv
import gzip
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import weightaug as wa
from weightaug import io, layouts
from weightaug.adapters import to_state_dicts
from weightaug.testing import random_element

ARCHITECTURE = wa.Architecture.siren((2, 4, 4, 1))


def write_networks(folder, names, prefix, architecture=ARCHITECTURE):
    """State dicts of random networks with layers ``prefix.format(i)``."""
    element = random_element(architecture, (len(names),), dtype=torch.float32)
    of_layers = {layer.name: prefix.format(i) for i, layer in enumerate(architecture.layers)}
    for network, name in zip(element, names, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(to_state_dicts(network, names=of_layers), path)
    return element


# -- one file a network ----------------------------------------------------------------------------------------


@pytest.fixture
def dwsnets(tmp_path):
    names = [f"mnist-inrs/mnist_png_training_{i % 3}_{i}/checkpoints/model_final.pth" for i in range(7)]
    element = write_networks(tmp_path, names, "seq.{}")
    paths = [f"/home/someone/data/{name}" for name in names]  # of another machine
    labels = [i % 3 for i in range(7)]
    content = {
        "train": {"path": paths[:4], "label": [str(label) for label in labels[:4]]},
        "val": {"path": paths[4:5], "label": labels[4:5]},
        "test": {"path": paths[5:], "label": labels[5:]},
    }
    (tmp_path / "splits.json").write_text(json.dumps(content))
    return tmp_path, element, labels


@pytest.mark.parametrize(("part", "of_part"), [("train", slice(0, 4)), ("val", slice(4, 5)), ("test", slice(5, 7))])
def test_dwsnets_is_converted_with_its_labels(dwsnets, tmp_path, part, of_part):
    folder, element, labels = dwsnets
    listing = layouts.dwsnets(folder, part)
    io.convert(listing.paths, ARCHITECTURE, labels=listing.label, out=tmp_path / "store")
    data = io.load(tmp_path / "store")
    assert torch.equal(data.element.flatten(), element[of_part].flatten())
    assert data.labels.tolist() == labels[of_part]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda content: content.pop("train"), ValueError, r"expected the part 'train', found \['test', 'val'\]"),
        (lambda content: content["train"]["path"].append("/x/y.pth"), ValueError, "got 4 and 5"),
        (lambda content: content["train"]["path"].__setitem__(0, "/x/../../y.pth"), FileNotFoundError, "is not below"),
        (lambda content: content["train"]["label"].__setitem__(0, "cat"), ValueError, "numbers of classes, got 'cat'"),
        (lambda content: content.__setitem__("train", []), ValueError, "got 0 and 0"),
    ],
)
def test_splits_that_do_not_fit_are_refused(dwsnets, change, error, message):
    folder, *_ = dwsnets
    content = json.loads((folder / "splits.json").read_text())
    change(content)
    (folder / "splits.json").write_text(json.dumps(content))
    with pytest.raises(error, match=message):
        layouts.dwsnets(folder)


def test_missing_and_damaged_splits_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"splits\.json: expected a JSON file"):
        layouts.dwsnets(tmp_path)
    (tmp_path / "splits.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        layouts.dwsnets(tmp_path)


def test_nfn_is_listed_by_number_and_without_its_copies(tmp_path):
    deep = wa.Architecture.siren((2, *[2] * 11, 1))  # more than ten layers: net.10 follows net.9
    names = [
        "randinit_smaller_10s/net9.pth",
        "randinit_smaller_10s/net10.pth",
        "randinit_smaller_2s/net45000.pth",
        "randinit_smaller_2s/net50000.pth",
        "randinit_smaller_aug0_2s/net9.pth",
        "other/net1.pth",
    ]
    element = write_networks(tmp_path, names, "net.{}.linear", deep)
    listing = layouts.nfn(tmp_path)
    assert [path.name for path in listing.paths] == ["net9.pth", "net10.pth", "net45000.pth", "net50000.pth"]
    assert listing.classes == ("2", "10")
    assert listing.labels == (1, 1, 0, 0)
    assert len(layouts.nfn(tmp_path, copies=True).paths) == 5
    for part, count in {"train": 2, "val": 1, "test": 1}.items():
        assert len(layouts.nfn(tmp_path, part).paths) == count
    io.convert(listing.paths, deep, labels=listing.label, out=tmp_path / "store")
    data = io.load(tmp_path / "store")
    assert torch.equal(data.element.flatten(), element[:4].flatten())
    with pytest.raises(FileNotFoundError, match="randinit_smaller_<class>s"):
        layouts.nfn(tmp_path / "other")
    with pytest.raises(ValueError, match="got 'validation'"):
        layouts.nfn(tmp_path, "validation")


def test_words_as_classes_are_numbered_by_their_order(tmp_path):
    write_networks(tmp_path, ["randinit_smaller_ships/net0.pth", "randinit_smaller_birds/net1.pth"], "net.{}.linear")
    listing = layouts.nfn(tmp_path)
    assert listing.classes == ("bird", "ship")
    assert listing.labels == (1, 0)


# -- HDF5 ------------------------------------------------------------------------------------------------------


@pytest.fixture
def arena(tmp_path):
    h5py = pytest.importorskip("h5py")
    element = random_element(ARCHITECTURE, (5,), dtype=torch.float32)
    names = [f"layers.{i}.{what}" for i in range(3) for what in ("weight", "bias")]
    config = [[name, list(tensor.shape[1:])] for name, tensor in zip(names, element.tensors(), strict=True)]
    flat = torch.cat([t.flatten(1) for t in element.tensors()], 1)
    for first, last in ((0, 2), (2, 5)):
        with h5py.File(tmp_path / f"mnist_{first}-{last}.hdf5", "w") as file:
            file["params"] = flat[first:last].numpy()
            file["labels"] = np.arange(first, last)
            file["param_config"] = json.dumps(config)
    return tmp_path, element, config


def test_the_arena_is_read_file_by_file(arena):
    folder, element, _ = arena
    read, labels = layouts.neural_field_arena(folder, ARCHITECTURE)
    assert torch.equal(read.flatten(), element.flatten())
    assert labels.tolist() == [0, 1, 2, 3, 4]
    one, labels = layouts.neural_field_arena(folder / "mnist_2-5.hdf5", ARCHITECTURE)
    assert torch.equal(one.flatten(), element[2:].flatten())


def test_flax_kernels_are_transposed(arena):
    h5py = pytest.importorskip("h5py")
    folder, element, config = arena
    flat = [t.mT if t.dim() == 3 else t for t in element.tensors()]
    path = folder / "flax_0-5.h5"
    with h5py.File(path, "w") as file:
        file["params"] = torch.cat([t.flatten(1) for t in flat], 1).numpy()
        shapes = [list(t.shape[1:]) for t in flat]
        file["param_config"] = json.dumps(
            [[n.replace("weight", "kernel"), s] for (n, _), s in zip(config, shapes, strict=True)]
        )
    read, labels = layouts.neural_field_arena([path], ARCHITECTURE)
    assert torch.equal(read.flatten(), element.flatten())
    assert labels is None


def test_other_hdf5_files_are_refused(arena):
    h5py = pytest.importorskip("h5py")
    folder, _, config = arena
    path = folder / "bad.h5"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected an HDF5 file"):
        layouts.neural_field_arena(path, ARCHITECTURE)
    for content, message in (
        ({"x": np.zeros(3)}, "expected a data set 'params'"),
        ({"params": np.zeros((2, 3)), "param_config": json.dumps(config)}, r"expected params \(N, 37\)"),
        ({"params": np.zeros((2, 37)), "param_config": "weights"}, "'param_config' as JSON"),
        ({"params": np.zeros((2, 1)), "param_config": json.dumps([["a.weight", [1]]])}, "bad.h5: "),
    ):
        with h5py.File(path, "w") as file:
            for name, value in content.items():
                file[name] = value
        with pytest.raises(ValueError, match=message):
            layouts.neural_field_arena(path, ARCHITECTURE)
    with pytest.raises(FileNotFoundError, match="found none"):
        layouts.neural_field_arena(folder / "nowhere", ARCHITECTURE)


# -- small CNN zoo ---------------------------------------------------------------------------------------------


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, stride=2), nn.Conv2d(4, 5, 3, stride=2)
        self.head = nn.Linear(5, 10)

    def forward(self, x):
        return self.head(self.two(self.one(x).relu()).relu().mean((-2, -1)))


@pytest.fixture
def zoo(tmp_path):
    """Three CNNs in TensorFlow's order."""
    torch.manual_seed(0)
    modules = [CNN() for _ in range(3)]
    rows, layout, place = [], [], 0
    for module in modules:
        row = []
        for name, tensor in module.state_dict().items():
            value = tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor.mT if tensor.dim() == 2 else tensor
            if not rows:
                layout.append([f"sequential/{name}:0", place, place + value.numel(), str(tuple(value.shape))])
                place += value.numel()
            row.append(value.flatten())
        rows.append(torch.cat(row).numpy())
    np.save(tmp_path / "weights.npy", np.stack(rows))
    with (tmp_path / "layout.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["varname", "start_idx", "end_idx", "shape"], *layout])
    with gzip.open(tmp_path / "metrics.csv.gz", "wt", newline="") as file:
        head = ["config.activation", "test_accuracy", "modeldir"]
        lines = [["relu", 0.5, "/a"], ["tanh", 0.25, "/b"], ["relu", 0.75, "/c"]]
        csv.writer(file).writerows([head, *lines])
    return tmp_path, modules


def test_cnns_of_the_zoo_compute_what_they_did(zoo):
    folder, modules = zoo
    found = layouts.small_cnn_zoo(folder, rows=[0, 2], columns=("test_accuracy", "modeldir"))
    assert found.columns["test_accuracy"].tolist() == [0.5, 0.75]
    assert found.columns["modeldir"] == ("/a", "/c")
    images = torch.rand(2, 1, 28, 28)
    expected = torch.stack([modules[i](images) for i in (0, 2)])
    torch.testing.assert_close(found.element(images), expected, atol=1e-5, rtol=1e-5)
    moved = wa.Permute()(found.element)
    assert not torch.equal(moved.flatten(), found.element.flatten())
    torch.testing.assert_close(moved(images), expected, atol=1e-5, rtol=1e-5)


def test_other_activations_are_refused_by_name(zoo):
    folder, _ = zoo
    with pytest.raises(ValueError, match=r"rows of other activations than 'relu': \['tanh'\]"):
        layouts.small_cnn_zoo(folder)
    assert len(layouts.small_cnn_zoo(folder, rows=slice(1, 2), activation="tanh").element) == 1
    with pytest.raises(ValueError, match="'relu' or 'tanh', got 'gelu'"):
        layouts.small_cnn_zoo(folder, activation="gelu")


def test_damaged_zoos_are_named(zoo):
    folder, _ = zoo
    with pytest.raises(ValueError, match=r"expected the columns \['loss'\]"):
        layouts.small_cnn_zoo(folder, columns=("loss",))
    whole = (folder / "layout.csv").read_text()
    for text, message in (
        (whole.replace("varname", "name"), "varname"),
        (whole.replace("(3, 3, 1, 4)", "(3, 3, 1, 5)"), "end_idx - start_idx"),
        ("varname,start_idx,end_idx,shape\n", "end_idx - start_idx"),
        (whole.rsplit("\n", 2)[0] + "\n", "expected weights"),
    ):
        (folder / "layout.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            layouts.small_cnn_zoo(folder, rows=[0, 2])
    (folder / "layout.csv").write_text(whole)
    (folder / "metrics.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="gzipped CSV"):
        layouts.small_cnn_zoo(folder, rows=[0, 2])
    (folder / "weights.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.npy"):
        layouts.small_cnn_zoo(folder)


# -- wild park -------------------------------------------------------------------------------------------------


def test_a_wild_network_is_read_without_its_library(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    config = {"layers": [8, 16], "kernel": 3, "act": "gelu", "skip": {"from": 0, "to": 2}, "rate": 1e-3}
    weights = nn.Conv2d(1, 8, 3).state_dict()
    torch.save({"model": weights, "config": omegaconf.OmegaConf.create(config)}, tmp_path / "net.pt")
    found = layouts.wild_park(tmp_path / "net.pt")
    assert found.config == config
    assert torch.equal(found.state_dict["weight"], weights["weight"])


class Harmful:
    def __reduce__(self):
        return print, ("HARM",)


def test_nothing_in_a_wild_network_is_run(tmp_path, capsys):
    torch.save({"model": {}, "config": Harmful()}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"refused, since it asks for .*print"):
        layouts.wild_park(tmp_path / "net.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=r"torch\.save has written"):
        layouts.wild_park(tmp_path / "raw.pt")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="under 'model', found 'weights'"):
        layouts.wild_park(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        layouts.wild_park(tmp_path / "none.pt")
    assert "HARM" not in capsys.readouterr().out


# -- order of layers -------------------------------------------------------------------------------------------


def test_ten_layers_and_more_are_ordered_by_number(tmp_path):
    h5py = pytest.importorskip("h5py")
    deep = wa.Architecture.siren((2, *[3] * 11, 1))
    element = random_element(deep, (4,), dtype=torch.float32)
    entries = sorted((f"layers_{n[5:].replace('.', '/')}", t) for n, t in element.named_tensors())  # as text
    assert entries[2][0] == "layers_1/bias" or entries[2][0].startswith("layers_10")
    with h5py.File(tmp_path / "nef_0-4.hdf5", "w") as file:
        file["params"] = torch.cat([t.flatten(1) for _, t in entries], 1).numpy()
        file.attrs["param_config"] = json.dumps([[name, list(t.shape[1:])] for name, t in entries])
    read, _ = layouts.neural_field_arena(tmp_path, deep)
    assert torch.equal(read.flatten(), element.flatten())


def test_a_deep_zoo_is_ordered_by_number(tmp_path):
    """Twelve convolutions of the same shape: "conv2d_10" is less than "conv2d_2" as text."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(2, 2, 1) for _ in range(12)]
    head = nn.Linear(2, 3)
    names = [f"sequential/conv2d{f'_{i}' * (i > 0)}" for i in range(12)] + ["sequential/dense"]
    variables = []
    for name, module in zip(names, [*convolutions, head], strict=True):
        kernel = module.weight.detach()
        variables.append((f"{name}/kernel:0", kernel.permute(2, 3, 1, 0) if kernel.dim() == 4 else kernel.mT))
        variables.append((f"{name}/bias:0", module.bias.detach()))
    lines, row = [["varname", "start_idx", "end_idx", "shape"]], []
    for name, tensor in sorted(variables, key=lambda pair: pair[0]):
        start = sum(len(part) for part in row)
        lines.append([name, start, start + tensor.numel(), str(tuple(tensor.shape))])
        row.append(tensor.flatten())
    np.save(tmp_path / "weights.npy", torch.cat(row)[None].numpy())
    with (tmp_path / "layout.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    with gzip.open(tmp_path / "metrics.csv.gz", "wt") as file:
        file.write("config.activation,test_accuracy\ntanh,0.5\n")
    found = layouts.small_cnn_zoo(tmp_path, activation="tanh", stride=1)
    x = images = torch.rand(2, 2, 5, 5)
    for module in convolutions:
        x = module(x).tanh()
    torch.testing.assert_close(found.element(images)[0], head(x.mean((-2, -1))))
