"""The command `weightaug`, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import weightaug as wa
from weightaug._command import main
from weightaug.adapters import to_state_dicts

pytest.importorskip("tyro")

SIZES = ["--sizes", "2", "16", "16", "1"]


@pytest.fixture
def networks(tmp_path):
    """Twelve digits in folders of their classes, and one file that is none."""
    data = wa.datasets.digits()
    for i in range(12):
        path = tmp_path / "nets" / f"class{int(data.labels[i])}" / f"net{i}.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(to_state_dicts(data.element[i]), path)
    return tmp_path, data.element[:12], data.labels[:12]


def sources(folder, count=12):
    """The numbers of the networks in a data set."""
    data = wa.io.load(folder)
    listed = sorted((folder.parent / "nets").rglob("*.pth"), key=lambda p: (p.parent.name, int(p.stem[3:])))
    return data, [int(listed[i].stem[3:]) for i in data.columns["source"].tolist()]


def test_a_folder_is_converted_with_its_classes(networks, capsys):
    folder, element, labels = networks
    assert main(["convert", str(folder / "nets"), "--out", str(folder / "store"), *SIZES, "--labels", "folder"]) == 0
    assert "store: 12 networks of 12 files" in capsys.readouterr().out
    data, numbers = sources(folder / "store")
    assert torch.equal(data.element.flatten(), element.flatten()[numbers])
    assert data.labels.tolist() == labels[numbers].tolist()


def test_what_is_refused_is_told_with_its_reason_and_the_rest_is_kept(networks, capsys):
    folder, *_ = networks
    (folder / "nets" / "class0" / "bad.pt").write_bytes(b"nothing")
    command = ["convert", str(folder / "nets"), "--out", str(folder / "store"), *SIZES]
    for _ in range(2):  # the second time goes on, and tells the same
        assert main(command) == 1
        told = capsys.readouterr()
        assert "12 networks of 13 files" in told.out
        assert "bad.pt: ValueError: expected a file of weights alone" in told.err
        assert "weights_only` set to `False`" not in told.err  # advice that runs code


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_labels_from_a_table(networks, ending):
    folder, _, labels = networks
    rows = {str(p.relative_to(folder)): int(labels[int(p.stem[3:])]) + 5 for p in (folder / "nets").rglob("*.pth")}
    table = folder / f"labels.{ending}"
    text = "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows.items())
    table.write_text(json.dumps(rows) if ending == "json" else text)
    command = ["convert", str(folder / "nets"), "--out", str(folder / "store"), *SIZES, "--labels", str(table)]
    assert main(command) == 0
    data, numbers = sources(folder / "store")
    assert data.labels.tolist() == (labels[numbers] + 5).tolist()


def test_an_architecture_from_a_file(networks):
    folder, element, _ = networks
    file = folder / "architecture.json"
    file.write_text(json.dumps(element.architecture.to_dict()))
    command = ["convert", str(folder / "nets"), "--out", str(folder / "store"), "--architecture", str(file)]
    assert main(command) == 0
    assert wa.io.load(folder / "store").element.architecture == element.architecture


def test_a_data_set_is_described_and_drawn(networks, capsys):
    pytest.importorskip("matplotlib")
    folder, element, labels = networks
    wa.io.save(folder / "store", element, labels, columns={"psnr": torch.full((12,), 36.0)})
    assert main(["inspect", str(folder / "store"), "--thumbnails", str(folder / "t.png")]) == 0
    out = capsys.readouterr().out
    for text in ("12 networks, torch.float32, 337 parameters", "convention: siren", "labels: 0: 2, 1: 2", "psnr: 36"):
        assert text in out
    deviation = float(element.weights[1].double().std())
    assert (
        f"layer1.weight: (16, 16), mean {float(element.weights[1].double().mean()):.4g}, deviation {deviation:.4g}"
        in out
    )
    assert (folder / "t.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's module in the current folder."""
    text = """
import torch
import weightaug as wa

class Halves(wa.SirenNegation):
    \"\"\"A negation.\"\"\"

class Lies(wa.SirenNegation):
    \"\"\"Says that it keeps the function.\"\"\"
    def apply(self, element, params):
        return element.map(lambda t: 1.5 * t)

class Reads(torch.nn.Module):
    def forward(self, element):
        return element.flatten().sum(-1, keepdim=True)

class Probes(torch.nn.Module):
    def forward(self, element):
        return element(torch.linspace(-1, 1, 6).view(3, 2)).flatten(1)
"""
    (tmp_path / "of_a_user.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "of_a_user", raising=False)
    return "of_a_user"


def test_transforms_of_ones_own_are_held_to_the_laws(module, capsys):
    small = ["--sizes", "2", "4", "1", "--seeds", "1"]
    assert main(["check", f"{module}:Halves", *small]) == 0
    assert "every law holds" in capsys.readouterr().out
    assert main(["check", f"{module}:Lies", *small]) == 1
    assert "breaks a law" in capsys.readouterr().err


def test_models_are_certified(module, networks, capsys):
    folder, element, _ = networks
    wa.io.save(folder / "store", element)
    assert main(["certify", f"{module}:Reads", str(folder / "store"), "--count", "8"]) == 1
    assert "not invariant" in capsys.readouterr().out
    assert main(["certify", f"{module}:Probes", str(folder / "store"), "--count", "8"]) in (0, 1)
    assert "invariant" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "nets", "--out", "store"], "expected --sizes"),
        (["convert", "nowhere", "--out", "store", *SIZES], "found none"),
        (["inspect", "nowhere"], "expected the manifest"),
        (["check", "of_a_user"], "expected MODULE:NAME"),
        (["check", "of_a_user:Nothing"], "has no Nothing"),
        (["check", "no_such_module:Nothing"], "no_such_module"),
        (["convert", "a", "b", "--out", "store", *SIZES, "--layout", "nfn"], "the one folder"),
    ],
)
def test_mistakes_end_with_one_line(module, arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_tyro_it_says_what_to_install():
    code = (
        "import sys; sys.modules['tyro'] = None; from weightaug._command import main; sys.exit(main(['inspect', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'weightaug[cli]'" in done.stderr


def test_names_in_a_table_are_classes_that_are_kept(networks, capsys):
    folder, *_ = networks
    table = folder / "labels.csv"
    files = sorted((folder / "nets").rglob("*.pth"))
    table.write_text("".join(f"{p.relative_to(folder)},{p.parent.name}\n" for p in files))  # no header
    command = ["convert", str(folder / "nets"), "--out", str(folder / "store"), *SIZES, "--labels"]
    assert main([*command, str(table)]) == 0
    data = wa.io.load(folder / "store")
    names = sorted({p.parent.name for p in files}, key=lambda name: int(name[5:]))
    assert data.metadata["classes"] == names
    listed = sorted(files, key=lambda p: (int(p.parent.name[5:]), int(p.stem[3:])))
    assert [names[label] for label in data.labels.tolist()] == [p.parent.name for p in listed]
    assert f"classes: 0 {names[0]}, 1 {names[1]}" in capsys.readouterr().out


def test_the_arena_is_converted_and_no_data_set_is_written_over(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    element = wa.datasets.digits().element[:5]
    named = list(element.named_tensors())
    with h5py.File(tmp_path / "nef_0-5.hdf5", "w") as file:
        file["params"] = torch.cat([t.flatten(1) for _, t in named], 1).numpy()
        file["labels"] = torch.arange(5).numpy()
        file["param_config"] = json.dumps([[name, list(t.shape[1:])] for name, t in named])
    out = tmp_path / "store"
    command = ["convert", str(tmp_path), "--out", str(out), *SIZES, "--layout", "arena", "--chunk", "2"]
    assert main(command) == 0
    assert torch.equal(wa.io.load(out).element.flatten(), element.flatten())
    assert len(list(out.glob("*.safetensors"))) == 3
    wa.io.save(tmp_path / "other", element)
    assert main([*command[:3], str(tmp_path / "other"), *command[4:]]) == 2
    assert "there is another data set already" in capsys.readouterr().err
