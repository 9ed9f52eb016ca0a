"""Shapes in the benchmark: which are used for what, what is fitted to them, and what happens to broken meshes."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import pytest
import torch

import weightaug as wa
from benchmarks import table1
from benchmarks.data import fit as fitting
from benchmarks.data.sdf import Sampling
from benchmarks.data.settings import ImageFitSettings, ShapeFitSettings
from benchmarks.data.solids import make_solids
from benchmarks.data.sources import MeshSource, SolidSource, find_meshes, source
from benchmarks.data.store import Part, load_networks, parts_of

pytest.importorskip("sklearn")
pytest.importorskip("tyro")

FEW = ShapeFitSettings(
    hidden=(8, 8), steps=5, points_per_step=64, sampling=Sampling(points=300), batch=4, samples=(9, 3, 5)
)
CUBE = "OFF\n8 12 0\n" + "\n".join(
    [f"{i >> 2 & 1} {i >> 1 & 1} {i & 1}" for i in range(8)]
    + ["3 0 1 3", "3 0 3 2", "3 4 6 7", "3 4 7 5", "3 0 4 5", "3 0 5 1"]
    + ["3 2 3 7", "3 2 7 6", "3 0 2 6", "3 0 6 4", "3 1 5 7", "3 1 7 3"]
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two classes of cubes, ten to train and four to test in each, one of them broken."""
    path = tmp_path / "data" / "modelnet10" / "ModelNet10-few.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("chair", "sofa"):
            for split, count in (("train", 10), ("test", 4)):
                for number in range(count):
                    broken = name == "sofa" and split == "test" and number == 2
                    text = CUBE if not broken else "OFF\n8 12 0\n0 0 0"
                    file.writestr(f"ModelNet10/{name}/{split}/{name}_{number:04d}.off", text)
    return path


# -- the fitter --------------------------------------------------------------------------------------


def test_steps_are_those_of_adamw_on_the_points_in_turn():
    architecture = fitting.siren_architecture(FEW.convention, (3, 8, 8, 1))
    start = fitting.initial_weights(FEW.convention, architecture, range(2), dtype=torch.float64)
    points = torch.rand(2, 100, 3, dtype=torch.float64) * 2 - 1
    distances = points.norm(dim=-1) - 0.5
    settings = dataclasses.replace(FEW, steps=7, points_per_step=30, learning_rate=1e-3, weight_decay=0.1)
    fitted = fitting.fit(points, distances, start, settings)
    params = [t.clone().requires_grad_() for t in start.tensors()]
    optimiser = torch.optim.AdamW(params, lr=1e-3, weight_decay=0.1)
    networks = wa.WeightSpaceElement(architecture, tuple(params[0::2]), tuple(params[1::2]))
    for step in range(7):
        some = slice(step % 3 * 30, step % 3 * 30 + 30)
        loss = (networks(points[:, some], per_network=True).squeeze(-1) - distances[:, some]).square().mean(-1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(fitted.element.tensors(), [p.detach() for p in params], rtol=1e-9, atol=1e-12)
    # The quality is that of all points of the whole batches, for a peak of 1.
    error = (networks(points[:, :90], per_network=True).squeeze(-1) - distances[:, :90]).square().mean(-1)
    torch.testing.assert_close(fitted.psnr, -10 * error.detach().log10())


def test_a_fitted_solid_has_the_sign_of_its_inside():
    settings = ShapeFitSettings(steps=400, learning_rate=2e-3, points_per_step=512, sampling=Sampling(points=4000))
    read = SolidSource().read(range(8, 10), dataclasses.replace(settings, noise=0.0), Path())
    architecture = fitting.siren_architecture(settings.convention, (3, *settings.hidden, 1))
    start = fitting.initial_weights(settings.convention, architecture, [1, 2])
    fitted = fitting.fit(read.coordinates, read.values, start, settings)
    clear = read.values.abs() > 0.05
    shown = fitted.element(read.coordinates, per_network=True).squeeze(-1)
    assert ((shown.sign() == read.values.sign()) | ~clear).float().mean() > 0.95
    assert (fitted.psnr > 25).all()


# -- which samples -----------------------------------------------------------------------------------


def test_solids_of_the_splits_differ_and_can_be_read_alone():
    splits = SolidSource().chosen(FEW)
    assert [len(split) for split in splits] == [9, 3, 5]
    reads = [SolidSource().read(split, FEW, Path()) for split in splits]
    assert reads[0].labels.tolist() == make_solids(range(9)).labels.tolist()
    values = torch.cat([read.values for read in reads])
    assert len({tuple(row) for row in values.tolist()}) == 17
    alone = SolidSource().read(splits[1][1:2], FEW, Path())
    assert torch.equal(alone.values[0], reads[1].values[1])
    with pytest.raises(ValueError, match=r"shapes\.samples"):
        SolidSource().chosen(ShapeFitSettings())
    with pytest.raises(ValueError, match=r"shapes\.samples must be at least 1"):
        SolidSource().chosen(dataclasses.replace(FEW, samples=(1, 0, 1)))


def test_meshes_keep_the_official_split_and_are_in_fair_order(archive):
    data = source("modelnet10", archive.parents[1])
    assert isinstance(data, MeshSource)
    assert (data.classes, len(data.samples), data.trained) == (2, 28, 20)
    train, validation, test = data.chosen(ShapeFitSettings())
    assert (train, validation, test) == (range(18), range(18, 20), range(20, 28))
    assert {data.samples[i].split for i in (*train, *validation)} == {"train"}
    assert {data.samples[i].split for i in test} == {"test"}
    assert {data.samples[i].label for i in range(6)} == {0, 1}
    assert data.chosen(dataclasses.replace(FEW, samples=(12, 3, 4))) == (range(12), range(17, 20), range(20, 24))
    with pytest.raises(ValueError, match=r"at most 20 in the first two and 8 in the last, got \(18, 3, 1\)"):
        data.chosen(dataclasses.replace(FEW, samples=(18, 3, 1)))


def test_meshes_are_found_where_people_put_them(archive, tmp_path):
    unpacked = tmp_path / "ModelNet10"
    unpacked.mkdir()
    for given in (archive, archive.parent, archive.parents[1]):
        assert find_meshes("modelnet10", given) == archive
    assert find_meshes("modelnet10", unpacked) == find_meshes("modelnet10", tmp_path) == unpacked
    with pytest.raises(FileNotFoundError, match=r"expected ModelNet40\*\.zip or a folder ModelNet40"):
        find_meshes("modelnet40", tmp_path)
    with pytest.raises(FileNotFoundError, match="--data-dir"):
        find_meshes("modelnet10", None)
    with pytest.raises(ValueError, match=r"unknown data set .cifar.; known: .*.solids., .modelnet10."):
        source("cifar")


# -- whole runs --------------------------------------------------------------------------------------

TINY = ["--preset", "smoke", "--workers", "1", "--shapes.steps", "3", "--shapes.sampling.points", "200"]
TINY += ["--shapes.points-per-step", "50", "--train.epochs", "1", "--rows", "none", "rotate", "aligned_mixup"]


def test_the_three_dimensional_half_runs_without_data(tmp_path, capsys):
    arguments = [*TINY, "--datasets", "solids", "--shapes.samples", "40", "4", "8", "--views", "1", "2"]
    table1.main([*arguments, "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "### solids, DWS, 2 views" in printed
    assert "| Rotation |" in printed
    assert "16.17 ± 0.25" in printed  # ModelNet40 stands beside shapes
    cells = table1.training_jobs(table1.parse([*arguments, "--output", str(tmp_path)]))
    records = [json.loads(cell.path.read_text()) for cell in cells]
    assert {(r["status"], r["classes"]) for r in records} == {("finished", 10)}
    assert {r["networks"]["train"] for r in records} == {40, 80}


def test_broken_meshes_are_skipped_counted_and_listed(archive, tmp_path, capsys):
    pytest.importorskip("igl", reason="libigl is not installed: pip install 'weightaug[shapes]'")
    arguments = [*TINY, "--datasets", "modelnet10", "--data-dir", str(archive.parents[1]), "--views", "1", "2"]
    arguments += ["--shapes.samples", "None", "--shapes.batch", "3", "--train.batch", "4"]
    table1.main([*arguments, "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "54 networks fitted to modelnet10" in printed
    assert "Skipped ModelNet10/sofa/test/sofa_0002.off: cut short" in printed
    assert "warning: modelnet10: 1 samples could not be read" in printed
    settings = table1.parse([*arguments, "--output", str(tmp_path)])
    networks = load_networks("modelnet10", 2, settings.shapes, tmp_path / "inrs", settings.data_dir)
    assert networks.splits == (18, 2, 7)
    assert networks.labels.shape == (27,)


def test_another_archive_is_another_data_set(archive, tmp_path):
    other = tmp_path / "other" / "ModelNet10.zip"
    other.parent.mkdir()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist()[1:]:
            new.writestr(name, old.read(name))
    first, second = (Part("modelnet10", 0, 0, 3, FEW, tmp_path, path) for path in (archive.parents[1], other.parent))
    assert first.path != second.path


def test_parts_of_other_settings_are_refused(tmp_path):
    (part,) = parts_of("digits", 0, ImageFitSettings(limit=3, steps=2), tmp_path)[0]
    part.run(lambda networks: None)
    other = ImageFitSettings(limit=3, steps=1)
    (wanted,) = parts_of("digits", 0, other, tmp_path)[0]
    wanted.path.parent.mkdir(parents=True)
    part.path.rename(wanted.path)
    with pytest.raises(ValueError, match=r"fitted with other settings: expected .*'steps': 1.* got .*'steps': 2"):
        load_networks("digits", 1, other, tmp_path)


def test_networks_are_read_batch_by_batch(tmp_path):
    settings = ImageFitSettings(limit=7, steps=2, batch=3)
    parts = [part for view in (0, 1) for part in parts_of("digits", view, settings, tmp_path)[0]]
    for part in parts:
        part.run(lambda networks: None)
    networks = load_networks("digits", 2, settings, tmp_path)
    whole = wa.cat([wa.io.load(part.path).element for part in parts])
    index = torch.tensor([13, 0, 7, 3])
    assert len(networks.element) == 14
    assert torch.equal(networks.element[index].flatten(), whole[index].flatten())
    assert torch.equal(networks.element[5:9].flatten(), whole[5:9].flatten())
