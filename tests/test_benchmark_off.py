"""Meshes as programs write them: the dialects of the Object File Format, concave polygons, damaged archives."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import random
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.data import meshes
from benchmarks.data.archives import load_shapes
from benchmarks.data.off import Mesh, MeshError, parse_off
from benchmarks.data.polygons import triangulate

CORNERS = list(itertools.product((0, 2), repeat=3))
SIDES = ["4 0 1 3 2", "4 4 6 7 5", "4 0 4 5 1", "4 2 3 7 6", "4 0 2 6 4", "4 1 5 7 3"]
CUBE = "8 6 0\n" + "".join(f"{x} {y} {z}\n" for x, y, z in CORNERS) + "\n".join(SIDES) + "\n"


def area(mesh: Mesh) -> float:
    return float(meshes._areas(mesh).sum())


@pytest.mark.parametrize("start", ["OFF\n", "OFF", "OFF ", "# a comment\nOFF\n\n# another\n", "OFF\r\n"])
def test_off_headers(start):
    mesh = parse_off((start + CUBE).encode())
    assert mesh.vertices.shape == (8, 3)
    assert mesh.faces.shape == (12, 3)
    assert area(mesh) == pytest.approx(24)


def test_off_polygons_colours_and_faces_of_two_corners():
    text = "OFF\n5 3 0\n0 0 0 255 0 0\n1 0 0\n1 1 0\n0 1 0\n-1 .5 0\n5 0 1 2 3 4 0.5 0.5 0.5\n2 0 1\n3 0 1 2\n"
    mesh = parse_off(text.encode().replace(b" 255 0 0", b""))
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 1, 2]]
    coloured = text.replace("1 0 0\n1 1 0\n0 1 0\n-1 .5 0", "1 0 0 1 1 1\n1 1 0 1 1 1\n0 1 0 1 1 1\n-1 .5 0 1 1 1")
    assert np.array_equal(parse_off(coloured.encode()).vertices, mesh.vertices)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "expected 'OFF' first"),
        (b"PLY\n1 2 3", "expected 'OFF' first, got 'PLY'"),
        (b"OFF\nmany faces", "numbers of vertices and faces"),
        (b"OFF\n", "numbers of vertices and faces"),
        (b"OFF\n8 0 0\n", "at least 3 vertices and 1 face"),
        (
            b"OFF\n8 6 0\n0 0 0\n",
            "cut short: expected 8 vertices and 6 faces after",
        ),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1\n3 0 1 2\n", "not as expected"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 nan 0\n3 0 1 2\n", "not finite"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 x 0\n3 0 1 2\n", "not as expected"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n", "expected indices from 0 to 2, got 0 to 3"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -2\n", "expected indices from 0 to 2, got -2 to 1"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4 0 1 2\n", "cut short: expected 1 faces, got 0 and 3 of 4 corners"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n2 0 1\n", "no face has three vertices"),
        (b"OFF\n\xff\xfe", "numbers of vertices and faces"),
    ],
)
def test_unreadable_meshes_say_why(text, reason):
    with pytest.raises(MeshError, match=reason):
        parse_off(text)


def assert_cube(data: bytes) -> None:
    mesh = parse_off(data)
    assert mesh.vertices.tolist() == [list(map(float, corner)) for corner in CORNERS]
    assert mesh.faces.shape == (12, 3)
    assert area(mesh) == pytest.approx(24)


EXTRAS = {
    "": ("",),
    "C": ("255 0 0 255", "1 0 0", ".5 .5 .5 1"),
    "N": ("0 0 1",),
    "CN": ("0 0 1 255 0 0 255", "0 0 1 1 0 0"),
    "ST": (".25 .75",),
    "STC": ("1 0 0 1 .25 .75",),
    "STCN": ("0 0 1 1 0 0 1 .25 .75",),
    "4": ("1",),
    "4N": ("1 0 0 1",),
}


@pytest.mark.parametrize("marks", EXTRAS)
@pytest.mark.parametrize("colour", ["", " 3", " 1 0 0", " 255 0 0 255"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_dialect_gives_the_same_cube(marks, colour, data):
    extra = data.draw(st.sampled_from(EXTRAS[marks]))
    word = data.draw(st.sampled_from([str.upper, str.lower]))(marks + "OFF")
    records = [f"{x} {y} {z} {extra}".split() for x, y, z in CORNERS]
    faces = [(side + colour).split() for side in SIDES]
    draw = random.Random(data.draw(st.integers(0, 2**32)))
    how = data.draw(st.sampled_from(["one a line", "several a line", "anywhere"]))
    if how == "one a line" or (how == "several a line" and colour):
        lines = [["8", "6", "0"], *records, *faces]
    elif how == "several a line":
        pairs = [a + b for a, b in zip(records[::2], records[1::2], strict=True)]
        lines = [["8", "6", "0"], *pairs, *([a + b for a, b in zip(faces[::2], faces[1::2], strict=True)])]
    else:
        words = ["8", "6", "0", *itertools.chain(*records)]
        # A colour ends with its line, so with colours a face begins a line and its last corner stands beside them.
        words += [] if colour else list(itertools.chain(*faces))
        lines, left = [], words
        while left:
            size = draw.randint(1, 9)
            lines, left = [*lines, left[:size]], left[size:]
        for face in faces if colour else []:
            cut = draw.randint(1, 4)
            lines += [face[:cut], face[cut:]]
    comment = data.draw(st.sampled_from(["", " # cr\u00e9\u00e9", "\n\n# \u0142\u0105\u0153", "\t"]))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = end.join([word, *(" ".join(line) + comment for line in lines)]).replace("\n", end if end != "\r\n" else "\n")
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    assert_cube(text.encode(encoding))


def test_comments_are_bytes():
    # In Latin-1 and UTF-8 alike, some of these bytes would end a line of text.
    for comment in (b"\x85 1 2 3", "\u0105\u2028 1 2".encode(), b"\xff\xfe\x1c 7"):
        assert_cube(b"OFF # " + comment + b"\n" + CUBE.replace("\n", "\n# ").encode()[:0] + CUBE.encode())


def test_a_mark_before_a_comment_in_another_encoding():
    assert_cube(codecs.BOM_UTF8 + b"OFF\n# \xe9\n" + CUBE.encode())


def test_homogeneous_coordinates_are_divided():
    halves = "".join(f"{x * 2} {y * 2} {z * 2} 2\n" for x, y, z in CORNERS)
    assert_cube(("4OFF\n8 6 0\n" + halves + "\n".join(SIDES)).encode())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"OFF BINARY\n\0\0\0\x08", "OFF BINARY; save it as text"),
        (b"nOFF\n3\n8 6 0\n", "expected points in 3 dimensions, got 'nOFF'"),
        (b"4OFF\n3 1 0\n0 0 0 0\n1 0 0 1\n0 1 0 1\n3 0 1 2\n", "not finite"),
        (b"OFF\n3 2 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", "cut short"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2 1 1\n", "3 corners and a colour"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n-3 0 1 2\n", "a face of -3 corners"),
    ],
)
def test_what_cannot_be_read_is_said(text, reason):
    with pytest.raises(MeshError, match=reason):
        parse_off(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, len(CUBE)), st.integers(0, 20))
def test_damage_is_a_mesh_error_or_a_mesh(noise, at, cut):
    data = ("OFF\n" + CUBE).encode()
    try:
        mesh = parse_off(data[:at] + noise + data[at + cut :])
    except MeshError:
        return
    assert np.isfinite(mesh.vertices).all()
    assert 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices)


# -- polygons ----------------------------------------------------------------------------------------


def inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points are in a polygon, by counting the edges that a ray crosses."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    x, y = points[:, 0, None], points[:, 1, None]
    crosses = (a[:, 1] > y) != (b[:, 1] > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    return (crosses & (x < at)).sum(1) % 2 == 1


def assert_divides(flat: np.ndarray, seed: int = 0) -> None:
    generator = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(generator.standard_normal((3, 3)))
    in_space = np.concatenate([flat, np.zeros((len(flat), 1))], 1) @ turn * 7 + generator.standard_normal(3)
    triangles = triangulate(in_space)
    assert len(triangles) == len(flat) - 2
    points = generator.uniform(flat.min(0), flat.max(0), (500, 2))
    covered = sum(inside(flat[list(triangle)], points).astype(int) for triangle in triangles)
    assert np.array_equal(covered, inside(flat, points).astype(int))


def star(radii: list[float]) -> np.ndarray:
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.05, 1.0), min_size=4, max_size=24), st.booleans(), st.integers(0, 100))
@example([1.0, 1.0, 1.0, 1.0, 1.0], False, 0)
def test_polygons_are_covered_once_and_nothing_else_is(radii, backwards, seed):
    flat = star(radii)
    assert_divides(flat[::-1] if backwards else flat, seed)


SHAPES = {
    "L": [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)],
    "comb": [(0, 0), (5, 0), (5, 2), (4, 2), (4, 1), (3, 1), (3, 2), (2, 2), (2, 1), (1, 1), (1, 2), (0, 2)],
    "corners on a line": [(0, 0), (1, 0), (2, 0), (2, 2), (1, 2), (1, 1), (0, 1)],
    "a corner twice": [(0, 0), (2, 0), (2, 0), (2, 2), (1, 0.5), (0, 2)],
    "a hole behind a bridge": [(0, 0), (3, 0), (3, 3), (0, 3), (0, 0), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1)],
    "spiral": [(0, 0), (5, 0), (5, 5), (1, 5), (1, 2), (3, 2), (3, 3), (2, 3), (2, 4), (4, 4), (4, 1), (0, 1)],
}


@pytest.mark.parametrize("name", SHAPES)
def test_concave_polygons_start_where_they_like(name):
    flat = np.array(SHAPES[name], dtype=float)
    for start in range(len(flat)):
        assert_divides(np.roll(flat, start, axis=0), start)


@pytest.mark.parametrize("corners", [[(0, 0), (2, 2), (2, 0), (0, 2)], [(0, 0)] * 5, [(i, i) for i in range(6)]])
def test_polygons_that_have_no_inside_still_give_triangles(corners):
    flat = np.concatenate([np.array(corners, dtype=float), np.zeros((len(corners), 1))], 1)
    assert len(triangulate(flat)) == len(corners) - 2


# -- archives ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_an_archive_of_any_compression_is_a_mesh_error(tmp_path, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("chair/train/a.off", "OFF\n" + CUBE)
    whole = path.read_bytes()
    start = whole.index(b"a.off") + len(b"a.off")
    (sample,) = load_shapes(path)
    refused = 0
    for at in range(start, whole.index(b"PK\1\2")):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        try:
            sample.read()
        except MeshError as error:
            refused += "not readable" in str(error)
    assert refused > 10


def test_damage_in_the_directory_of_an_archive_is_said(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("chair/train/a.off", "OFF\n" + CUBE)
    whole = path.read_bytes()
    for at in range(whole.index(b"PK\1\2"), len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            samples = load_shapes(path)
        except ValueError as error:
            assert "a.zip" in str(error)  # noqa: PT017 (or it is read)
            continue
        for sample in samples:
            with contextlib.suppress(MeshError):
                sample.read()


def test_names_with_backslashes(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ModelNet10\\chair\\train\\a.off", "OFF\n" + CUBE)
    (sample,) = load_shapes(path)
    assert (sample.class_name, sample.split, sample.name) == ("chair", "train", "a")
    assert len(sample.mesh().faces) == 12
    # As unpacked by a program that takes the backslashes for part of a name.
    folder = tmp_path / "unpacked"
    folder.mkdir()
    (folder / "ModelNet10\\chair\\train\\a.off").write_text("OFF\n" + CUBE)
    assert [s.class_name for s in load_shapes(folder)] == ["chair"]
