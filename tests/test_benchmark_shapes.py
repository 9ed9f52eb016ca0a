"""Shapes: exact distances of solids, ModelNet's files, signs of meshes, and a cache that survives interruption."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.data import meshes, sdf, solids
from benchmarks.data.meshes import Mesh, MeshError, load_shapes, parse_off, prepare, prepare_mesh, signed_distance
from benchmarks.data.sdf import Distances, Sampling, read_distances

ROOT = Path(__file__).parents[1]
needs_igl = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import igl"], capture_output=True).returncode != 0,
    reason="signed distances of meshes need libigl (pip install 'weightaug[shapes]')",
)
SMALL = Sampling(points=400)


# Files


CUBE = "8 6 0\n" + "\n".join(f"{x} {y} {z}" for x in (0, 2) for y in (0, 2) for z in (0, 2))
CUBE += "\n4 0 1 3 2\n4 4 6 7 5\n4 0 4 5 1\n4 2 3 7 6\n4 0 2 6 4\n4 1 5 7 3\n"


def triangle_area(mesh: Mesh) -> float:
    return float(meshes._areas(mesh).sum())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "Tiny10.zip"
    with zipfile.ZipFile(path, "w") as file:
        for class_name, split, name in itertools.product(["table", "chair"], ["train", "test"], ["b_2", "a_1"]):
            file.writestr(f"Tiny10/{class_name}/{split}/{name}.off", "OFF" + CUBE)
        file.writestr("Tiny10/chair/train/broken.off", "OFF\n8 6 0\n0 0 0\n")
        file.writestr("Tiny10/chair/train/flat.off", "OFF\n3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n")
        file.writestr("__MACOSX/Tiny10/chair/train/._a_1.off", "\0\5")
        file.writestr("Tiny10/chair/.DS_Store", "")
    return path


def test_archive_and_folder_list_the_same_samples(archive, tmp_path):
    samples = load_shapes(archive)
    listed = [(s.class_name, s.label, s.split, s.name) for s in samples]
    assert listed[:4] == [("chair", 0, "test", "a_1"), ("chair", 0, "test", "b_2"), *[("chair", 0, "train", "a_1")],
                          ("chair", 0, "train", "b_2")]  # fmt: skip
    assert len(listed) == 10
    assert meshes.classes_of(samples) == {0: "chair", 1: "table"}
    assert {s.split for s in load_shapes(archive, "test")} == {"test"}
    assert [s.label for s in load_shapes(archive, "test")] == [0, 0, 1, 1]
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
    folder = load_shapes(tmp_path / "unpacked")
    assert [(s.class_name, s.label, s.split, s.name) for s in folder] == listed
    assert np.array_equal(folder[0].mesh().vertices, samples[0].mesh().vertices)


def test_a_wrong_source_says_what_was_expected_and_where_to_get_it(tmp_path):
    missing = tmp_path / "ModelNet10.zip"
    with pytest.raises(FileNotFoundError, match=r"ModelNet10\.zip: expected a zip archive or a folder, got nothing"):
        load_shapes(missing)
    missing.write_bytes(b"<html>not found</html>")
    with pytest.raises(
        ValueError, match=r"expected a whole zip archive, got 22 bytes that begin with b'<htm'.*https://"
    ):
        load_shapes(missing)
    with pytest.raises(ValueError, match=r"expected meshes as <class>/<train or test>/<name>\.off, got none among 1"):
        load_shapes(tmp_path)
    with pytest.raises(ValueError, match="expected split 'train', 'test' or None, got 'validation'"):
        load_shapes(tmp_path, "validation")  # type: ignore[arg-type]


def test_a_cut_archive_is_refused_and_a_damaged_member_is_a_mesh_error(archive):
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="expected a whole zip archive"):
        load_shapes(archive)
    at = data.index(b"8 6 0\n0 0 0\n0 0 2")
    archive.write_bytes(data[:at] + b"9" + data[at + 1 :])
    bad = [s for s in load_shapes(archive) if s.member == "Tiny10/table/train/b_2.off"]
    with pytest.raises(MeshError, match=r"not readable: .*Bad CRC-32"):
        bad[0].mesh()


# Signed distances of meshes


def ball(rings: int = 40) -> Mesh:
    """A closed sphere of triangles, facing out."""
    polar, around = np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    t, f = np.meshgrid(polar, around, indexing="ij")
    vertices = np.stack([np.sin(t) * np.cos(f), np.sin(t) * np.sin(f), np.cos(t)], -1).reshape(-1, 3)
    i, j = (k.ravel() for k in np.meshgrid(np.arange(rings), np.arange(2 * rings), indexing="ij"))
    a, b = i * 2 * rings + j, i * 2 * rings + (j + 1) % (2 * rings)
    faces = np.concatenate([np.stack([a, a + 2 * rings, b], 1), np.stack([b, a + 2 * rings, b + 2 * rings], 1)])
    return Mesh(vertices, faces.astype(np.int64))


def cube() -> Mesh:
    return parse_off(("OFF\n" + CUBE).encode())


POINTS = np.random.default_rng(0).uniform(-1, 1, (1500, 3))
CUBE_DISTANCE = solids.box(torch.tensor(POINTS), torch.full((1, 3), 1 / math.sqrt(3), dtype=torch.float64)).numpy()


@needs_igl
def test_distance_to_a_mesh_of_a_sphere_and_of_a_cube():
    surface, report = prepare_mesh(ball())
    expected = np.linalg.norm(POINTS, axis=1) - 1
    np.testing.assert_allclose(signed_distance(surface, POINTS), expected, atol=3e-3)
    assert (report.watertight, report.signing, report.doubled) == (True, "stored", 0)
    assert report.ambiguous == 0
    assert report.inside > 0.98
    surface, report = prepare_mesh(cube())
    np.testing.assert_allclose(signed_distance(surface, POINTS), CUBE_DISTANCE, atol=1e-9)
    assert report.watertight


def doubled(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, np.concatenate([mesh.faces, mesh.faces[:, ::-1]]))


def soup(mesh: Mesh) -> Mesh:
    """Each face with vertices of its own, as ModelNet stores them."""
    return Mesh(mesh.vertices[mesh.faces].reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3))


def shuffled(mesh: Mesh) -> Mesh:
    """Faces that look out or in by chance."""
    flip = np.random.default_rng(1).random(len(mesh.faces)) < 0.5
    return Mesh(mesh.vertices, np.where(flip[:, None], mesh.faces[:, ::-1], mesh.faces))


@needs_igl
@pytest.mark.parametrize(
    ("change", "signing"),
    [
        (soup, "stored"),
        (lambda m: Mesh(m.vertices, m.faces[:, ::-1]), "stored"),  # inside out
        (doubled, "oriented"),
        (lambda m: soup(doubled(m)), "oriented"),
        (shuffled, "oriented"),
        (lambda m: Mesh(np.concatenate([m.vertices, [[50.0, 0, 0]]]), m.faces), "stored"),  # a vertex of no face
        (lambda m: Mesh(m.vertices, np.concatenate([m.faces, [[0, 0, 1]]])), "stored"),  # a face of no area
    ],
    ids=["soup", "inside out", "doubled", "doubled soup", "shuffled", "stray vertex", "degenerate face"],
)
def test_signs_survive_what_meshes_suffer_from(change, signing):
    surface, report = prepare_mesh(change(cube()))
    assert report.signing == signing
    np.testing.assert_allclose(signed_distance(surface, POINTS), CUBE_DISTANCE, atol=1e-9)


@needs_igl
def test_a_doubled_mesh_has_no_inside_by_its_stored_faces():
    surface, report = prepare_mesh(doubled(cube()), "stored")
    assert report.doubled == 1
    assert report.inside == 0
    assert (signed_distance(surface, POINTS) >= 0).all()


@needs_igl
def test_a_missing_side_is_closed_by_half_a_winding_number():
    whole = cube()
    surface, report = prepare_mesh(Mesh(whole.vertices, whole.faces[:-2]))
    assert not report.watertight
    assert report.ambiguous > 0.1
    # Where the distance to the rest is that to the cube, and away from the hole, nothing has changed.
    got = signed_distance(surface, POINTS)
    far = (np.abs(CUBE_DISTANCE) > 0.02) & (POINTS[:, 2] < 0.2)
    assert np.array_equal(got[far] < 0, CUBE_DISTANCE[far] < 0)


@needs_igl
def test_doubled_sheets_have_no_inside_but_the_solid_beside_them_has():
    bowl, small = ball(20), cube()
    open_faces = bowl.faces[bowl.vertices[bowl.faces][:, :, 2].mean(1) < 0.1]
    vertices = np.concatenate([small.vertices / 10 + [1.1, 0, 0], bowl.vertices])
    mesh = Mesh(vertices, np.concatenate([small.faces, open_faces + 8]))
    surface, report = prepare_mesh(doubled(mesh))
    assert report.signing == "closed"
    assert len(surface.signing) == 12
    assert len(surface.faces) == len(mesh.faces) - 40  # the triangles at the pole have no area
    low, high = vertices[mesh.faces].min((0, 1)), vertices[mesh.faces].max((0, 1))
    radius = np.linalg.norm(vertices[np.unique(mesh.faces)] - (low + high) / 2, axis=1).max()
    places = (np.array([[1.2, 0.1, 0.1], [0, 0, -0.3]]) - (low + high) / 2) / radius  # in the cube, in the bowl
    np.testing.assert_allclose(signed_distance(surface, places) * radius, [-0.1, 0.7], atol=0.01)


@needs_igl
def test_surface_points_are_uniform():
    surface, _ = prepare_mesh(cube())
    points = meshes.surface_points(surface, 6000, np.random.default_rng(0)) * math.sqrt(3)
    assert np.abs(np.abs(points).max(1) - 1).max() < 1e-9
    counts = [int((sign * points[:, axis] > 1 - 1e-9).sum()) for axis in range(3) for sign in (1, -1)]
    assert max(abs(count - 1000) for count in counts) < 150
    assert abs(float(points.mean())) < 0.03


def test_meshes_without_extent_are_refused():
    with pytest.raises(MeshError, match="no extent"):
        meshes.normalize(Mesh(np.ones((3, 3)), np.array([[0, 1, 2]])))
    with pytest.raises(MeshError, match="no face has an area"):
        prepare_mesh(Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 1]])))


# The cache


@needs_igl
def test_prepare_skips_and_lists_what_is_broken(archive, tmp_path):
    prepared = prepare(load_shapes(archive), tmp_path / "cache", SMALL, progress=False)
    assert len(prepared.shapes) == 8
    assert [(s.member, s.reason[:9]) for s in prepared.skipped] == [
        ("Tiny10/chair/train/broken.off", "cut short"),
        ("Tiny10/chair/train/flat.off", "no extent"),
    ]
    assert "8 shapes, 2 skipped" in prepared.summary()
    assert "skipped Tiny10/chair/train/broken.off: cut short" in prepared.summary()
    data = prepared.shapes[0].load()
    assert data.points.shape == (400, 3)
    assert data.points.dtype == data.distances.dtype == np.float16
    # Distances are those of the rounded points, so rounding adds no more than that of the distance itself.
    exact = solids.box(torch.tensor(data.points, dtype=torch.float64), torch.full((1, 3), 3**-0.5).double()).numpy()
    np.testing.assert_allclose(data.distances, exact, rtol=6e-4, atol=1e-6)
    near = int((np.abs(exact) < 0.15).sum())
    assert near >= 360  # 95 % near the surface


@needs_igl
def test_prepare_goes_on_after_an_interruption_and_repairs_cut_files(archive, tmp_path, monkeypatch):
    samples = [s for s in load_shapes(archive, "train") if s.name != "broken" and s.name != "flat"]
    calls = []
    compute = meshes._compute

    def interrupted(data, sample, *rest):
        calls.append(sample.member)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(data, sample, *rest)

    monkeypatch.setattr(meshes, "_compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(samples, tmp_path / "cache", SMALL, progress=False)
    prepared = prepare(samples, tmp_path / "cache", SMALL, progress=False)
    assert calls == [s.member for s in samples[:3]] + [s.member for s in samples[2:]]
    before = [shape.load() for shape in prepared.shapes]

    victim = prepared.shapes[1].path
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not whole"):
        read_distances(victim)
    calls.clear()
    calls += ["not the third"] * 3
    again = prepare(samples, tmp_path / "cache", SMALL, progress=False)
    assert calls[3:] == [samples[1].member]
    assert again == prepared
    for a, shape in zip(before, again.shapes, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, shape.load(), strict=True))
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@needs_igl
def test_other_settings_and_other_meshes_are_not_mixed_up(archive, tmp_path):
    (sample, *_) = load_shapes(archive, "train")
    first = meshes.prepare_one(sample, tmp_path, SMALL)
    for other in (replace(SMALL, seed=1), replace(SMALL, precision="float32"), replace(SMALL, uniform=0.5)):
        assert meshes.prepare_one(sample, tmp_path, other).path != first.path
    assert meshes.prepare_one(sample, tmp_path, SMALL, "stored").path != first.path
    changed = tmp_path / "new" / archive.name
    changed.parent.mkdir()
    with zipfile.ZipFile(changed, "w") as file:
        file.writestr(sample.member, ("OFF" + CUBE).replace("\n2 2 2", "\n2 2 4"))
        file.writestr("Tiny10/table/train/a_1.off", "OFF" + CUBE)
    (new, _) = load_shapes(changed, "train")
    assert (new.class_name, new.name) == (sample.class_name, sample.name)
    old = first.load()
    renewed = meshes.prepare_one(new, tmp_path, SMALL)
    assert renewed.path != first.path
    assert meshes.prepare_one(sample, tmp_path, SMALL).load().distances.tobytes() == old.distances.tobytes()
    assert not np.array_equal(renewed.load().distances, old.distances)


@needs_igl
def test_a_shape_has_the_same_points_however_it_is_reached(archive, tmp_path):
    (sample, *_) = load_shapes(archive, "train")
    cached = meshes.prepare_one(sample, tmp_path, SMALL).load()
    direct = meshes.signed_distances(sample, 400, 0)
    assert all(np.array_equal(x, y) for x, y in zip(cached, direct, strict=True))
    assert not np.array_equal(meshes.signed_distances(sample, 400, 1).points, direct.points)


def test_a_changed_number_on_disk_is_found(tmp_path):
    path = tmp_path / "a" / "x.safetensors"
    data = Distances(np.zeros((4, 3), np.float16), np.ones(4, np.float16))
    sdf.write_distances(path, data, {"crc": 1})
    loaded, metadata = read_distances(path)
    assert metadata == {"crc": 1}
    assert np.array_equal(loaded.distances, data.distances)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.safetensors: corrupt: expected sha256 \w+, got \w+; delete it"):
        read_distances(path)
    with pytest.raises(FileNotFoundError, match="no cached signed distances"):
        read_distances(tmp_path / "y.safetensors")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        sdf.write_distances(tmp_path / "x", Distances(np.zeros((1, 3)), np.zeros(1)), {})
    assert list(tmp_path.iterdir()) == []


def test_sampling_counts_and_refusals():
    assert Sampling().counts == (12_500, 118_750, 118_750)
    assert sum(Sampling(points=7, deviations=(0.1, 0.2, 0.3)).counts) == 7
    for bad in ({"points": 0}, {"uniform": 1.5}, {"deviations": ()}, {"deviations": (-1.0,)}, {"precision": "int8"}):
        with pytest.raises(ValueError, match="expected"):
            Sampling(**bad)


def test_without_libigl_the_extra_is_named(monkeypatch, archive, tmp_path):
    monkeypatch.setitem(sys.modules, "igl", None)
    with pytest.raises(ImportError, match=r"libigl; install it with: pip install 'weightaug\[shapes\]'"):
        prepare(load_shapes(archive), tmp_path, SMALL, progress=False)


# Real meshes


def modelnet() -> Path:
    folders = [os.environ.get("WEIGHTAUG_DATA"), ROOT.parent / "shared" / "data"]
    paths = [Path(folder) / "modelnet10" / "ModelNet10-subset.zip" for folder in folders if folder]
    for path in paths:
        if path.exists():
            return path
    pytest.skip(f"no real meshes: none of {', '.join(map(str, paths))}; set WEIGHTAUG_DATA to the folder of data")


@needs_igl
def test_real_meshes(tmp_path):
    samples = load_shapes(modelnet())
    assert len(samples) == 1270
    assert [sum(s.split == split for s in samples) for split in ("train", "test")] == [970, 300]
    assert list(meshes.classes_of(samples).values()) == [
        "bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet",
    ]  # fmt: skip
    by_name = {s.name: s for s in samples}
    chosen = [by_name[n] for n in ("bed_0055", "dresser_0187", "bathtub_0063", "night_stand_0125")]
    prepared = prepare(chosen, tmp_path, Sampling(points=2000), progress=False)
    assert [s.report.signing for s in prepared.shapes] == ["oriented", "stored", "closed", "oriented"]
    for shape in prepared.shapes:
        points, distances = shape.load()
        assert np.isfinite(points).all()
        assert np.isfinite(distances).all()
        assert np.abs(distances).max() < 2
    # A doubled bed, a dresser and a night stand are solid; a tub of doubled sheets is not.
    shares = [float((shape.load().distances < 0).mean()) for shape in prepared.shapes]
    assert min(shares[0], shares[1], shares[3]) > 0.2
    assert shares[2] < 0.05
