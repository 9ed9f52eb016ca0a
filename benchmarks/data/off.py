"""The Object File Format, as programs write it.

The format is a stream of numbers: words, line breaks and comments may stand anywhere between them. A vertex may carry
a normal, a colour and texture coordinates, as the first word says (``STCNOFF``), or as nothing says. A face may be
followed by a colour, which nothing announces but the end of its line. So there are several ways to read some files;
the first that leaves nothing over is taken.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.data.polygons import triangulate
from benchmarks.data.sdf import Array

Line = list[bytes]

_HEADER = re.compile(rb"((?:ST|C|N|4)*)OFF", re.IGNORECASE)
_COLOUR = (0, 1, 3, 4)  # numbers of a face's colour: none, an index, red-green-blue, and alpha
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class MeshError(ValueError):
    """A mesh that cannot be used; the message is the reason."""


class Mesh(NamedTuple):
    """Triangles.

    Attributes:
        vertices: float64 ``(v, 3)``.
        faces: int64 ``(f, 3)``.
    """

    vertices: Array
    faces: Array


class _Header(NamedTuple):
    """What the first word says of a vertex."""

    homogeneous: bool
    normal: bool
    colour: bool
    texture: bool

    @property
    def position(self) -> int:
        return 3 + self.homogeneous

    @property
    def widths(self) -> list[int]:
        """Numbers that a vertex may have."""
        colours = (4, 3) if self.colour else (0,)
        return [self.position + 3 * self.normal + colour + 2 * self.texture for colour in colours]


def parse_off(data: bytes) -> Mesh:
    """Reads a mesh in the Object File Format; polygons become triangles.

    Read are all variants in text with three or four (homogeneous) coordinates, in upper or lower case, with a byte
    order mark, with comments in any encoding, with free line breaks and several records on a line, and without the
    line break after the first word, which many files of ModelNet40 lack (``OFF490 518 0``).

    Raises:
        MeshError: If the data are no such mesh.
    """
    lines = _lines(data)
    header, lines = _header(lines)
    vertex_count, face_count, bodies = _counted(lines)
    if vertex_count < 3 or face_count < 1:
        raise MeshError(f"expected at least 3 vertices and 1 face, got {vertex_count} and {face_count}")
    numbers = sum(map(len, bodies[-1]))
    if numbers < 3 * vertex_count + face_count:
        raise MeshError(
            f"cut short: expected {vertex_count} vertices and {face_count} faces after the counts, got "
            f"{len(bodies[-1])} lines of {numbers} numbers"
        )
    reasons: list[str] = []
    # First what leaves nothing over, then what has something after the last face.
    for whole, body in itertools.product((True, False), bodies):
        for rows, rest in _vertex_rows(body, vertex_count, header, whole):
            try:
                vertices = _positions(rows, header)
                return Mesh(vertices, _triangles(_faces(rest, face_count, vertex_count, whole), vertices))
            except (ValueError, IndexError, OverflowError) as error:
                reasons.append(str(error))
    raise MeshError([*reasons, f"cut short: expected {vertex_count} vertices of {header.widths[-1]} numbers"][0])


def _lines(data: bytes) -> list[Line]:
    """The words of every line that has any."""
    for mark, encoding in _ENCODINGS:
        if data.startswith(mark):
            try:
                data = data.decode(encoding).lstrip("\ufeff").encode()
            except UnicodeDecodeError:
                data = data[len(mark) :]  # a comment in another encoding; the rest is ASCII
            break
    # Bytes, not text: a comment may be in any encoding, and its bytes are no line breaks.
    return [words for line in data.splitlines() if (words := line.partition(b"#")[0].split())]


def _header(lines: list[Line]) -> tuple[_Header, list[Line]]:
    """What stands first, and what is left."""
    first = lines[0][0] if lines else b""
    if first.startswith((b"nOFF", b"4nOFF")):
        raise MeshError(f"expected points in 3 dimensions, got {first.decode()!r}, which has any number of them")
    match = _HEADER.match(first)
    if match is None:
        raise MeshError(f"expected 'OFF' first, got {first[:20].decode('ascii', 'replace')!r}")
    marks = match[1].upper()
    header = _Header(b"4" in marks, b"N" in marks, b"C" in marks, b"ST" in marks)
    rest = [*([first[match.end() :]] if first[match.end() :] else []), *lines[0][1:]]
    if rest and rest[0].upper() == b"BINARY":
        raise MeshError("expected a file of text, got OFF BINARY; save it as text")
    return header, [rest, *lines[1:]] if rest else lines[1:]


def _counted(lines: list[Line]) -> tuple[int, int, list[list[Line]]]:
    """Numbers of vertices and faces, and what may be the lines after them: the number of edges is there, or not."""
    places = [(i, j) for i, line in enumerate(lines[:2]) for j in range(len(line))][:2]
    try:
        vertices, faces = (int(lines[i][j]) for i, j in places)
    except ValueError:
        got = b" ".join(lines[0] if lines else []).decode("ascii", "replace")
        raise MeshError(f"expected the numbers of vertices and faces, got {got!r}") from None
    i, j = places[1]
    rest = lines[i][j + 1 :]
    body = [*([rest] if rest else []), *lines[i + 1 :]]
    without = [*([body[0][1:]] if body and body[0][1:] else []), *body[1:]]
    # Beside the number of faces, or on a line of its own, a number is that of edges; otherwise it may be a coordinate.
    return vertices, faces, [without] if rest or (body and len(body[0]) == 1) else [without, body]


def _vertex_rows(body: list[Line], count: int, header: _Header, whole: bool) -> Iterator[tuple[list[Line], list[Line]]]:
    """Ways to read the vertices, the likeliest first: their numbers, and the lines that are left for faces."""
    first, rest = body[:count], body[count:]
    widths = sorted(map(len, first)) if len(first) == count else [0]
    if not whole and widths[0] >= header.position:
        yield first, rest
    for width in header.widths:
        if (stream := _stream(body, count, width)) is not None:
            yield stream
    if whole and widths[0] == widths[-1] >= header.position:  # one a line, with something that was not announced
        yield first, rest


def _stream(body: list[Line], count: int, width: int) -> tuple[list[Line], list[Line]] | None:
    """So many numbers a vertex, wherever lines end, and the lines that are left."""
    words: Line = []
    for i, line in enumerate(body):
        words += line
        spare = len(words) - count * width
        if spare >= 0:
            rows = [words[start : start + width] for start in range(0, count * width, width)]
            return rows, [*([line[-spare:]] if spare else []), *body[i + 1 :]]
    return None


def _positions(rows: list[Line], header: _Header) -> Array:
    """Coordinates of the vertices.

    Raises:
        ValueError: If there is something else, or a vertex is not finite.
    """
    values = _numbers([row[: header.position] for row in rows], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertices = values[:, :3] / values[:, 3:] if header.homogeneous else values
    if not np.isfinite(vertices).all():
        raise ValueError("a vertex is not finite")
    return vertices


def _faces(lines: list[Line], count: int, vertices: int, whole: bool) -> list[Line]:
    """The corners of every face, colours left out.

    Args:
        lines: All of them and perhaps more.
        count: How many faces there are.
        vertices: How many vertices there are.
        whole: Whether nothing may be left over.

    Raises:
        ValueError: If there is no way to read so many faces.
    """
    if whole and len(lines) > count:
        return _in_a_stream(lines, count, vertices) or _over_several_lines(lines, count, whole)
    return _one_a_line(lines, count) or _in_a_stream(lines, count, vertices) or _over_several_lines(lines, count, whole)


def _one_a_line(lines: list[Line], count: int) -> list[Line] | None:
    """Faces as nearly all files have them."""
    if len(lines) < count:
        return None
    sizes = [_size(line[0]) for line in lines[:count]]
    if not all(len(line) - 1 - size in _COLOUR for size, line in zip(sizes, lines, strict=False)):
        return None
    return [line[1 : 1 + size] for size, line in zip(sizes, lines, strict=False)]


def _in_a_stream(lines: list[Line], count: int, vertices: int) -> list[Line] | None:
    """Faces without colours, whose numbers must come out even."""
    words = [word for line in lines for word in line]
    rows: list[Line] = []
    start = 0
    while start < len(words) and len(rows) < count:
        size = _size(words[start])
        if size < 2:  # so that what is read from a wrong place does not come out even by chance
            return None
        rows.append(words[start + 1 : start + 1 + size])
        start += 1 + size
    return rows if len(rows) == count and start == len(words) and _in_range(rows, vertices) else None


def _over_several_lines(lines: list[Line], count: int, whole: bool) -> list[Line]:
    """Faces that begin on a line of their own, each with a colour up to the end of its last.

    Raises:
        ValueError: If they are not like that.
    """
    rows: list[Line] = []
    waiting = iter(lines)
    while len(rows) < count:
        words = next(waiting, [])
        size = _size(words[0]) if words else 0
        more: Line = words
        while more and len(words) <= size:
            more = next(waiting, [])
            words = words + more
        if len(words) <= size or not words:
            got = f"{len(rows)} and {len(words) - 1} of {size} corners" if words else f"{len(rows)}"
            raise ValueError(f"cut short: expected {count} faces, got {got}")
        if len(words) - 1 - size not in _COLOUR:
            got = b" ".join(words).decode("ascii", "replace")
            raise ValueError(f"a line is not as expected: {size} corners and a colour, got {got!r}")
        rows.append(words[1 : 1 + size])
    if whole and (more := next(waiting, [])):
        got = b" ".join(more).decode("ascii", "replace")
        raise ValueError(f"expected the end after {count} faces, got {got!r}")
    return rows


def _size(word: bytes) -> int:
    """Number of corners.

    Raises:
        ValueError: If it is none.
    """
    size = int(word)
    if size < 0:
        raise ValueError(f"a line is not as expected: a face of {size} corners")
    return size


def _in_range(rows: list[Line], vertices: int) -> bool:
    try:
        return all(0 <= int(word) < vertices for row in rows for word in row)
    except ValueError:
        return False


def _triangles(rows: list[Line], vertices: Array) -> Array:
    """Triangles of the faces.

    Raises:
        ValueError: If a corner is no vertex, or no face has three.
    """
    if all(len(row) == 3 for row in rows):
        faces = _numbers(rows, np.int64)
        _check_range(faces, len(vertices))
        return faces
    triangles: list[tuple[int, ...]] = []
    for row in rows:
        if len(row) < 3:
            continue
        corners = np.array([int(word) for word in row])
        _check_range(corners, len(vertices))
        triangles += [tuple(corners[list(triangle)]) for triangle in triangulate(vertices[corners])]
    if not triangles:
        raise ValueError("no face has three vertices")
    return np.array(triangles, dtype=np.int64)


def _check_range(corners: Array, vertices: int) -> None:
    if corners.min() < 0 or corners.max() >= vertices:
        raise ValueError(f"expected indices from 0 to {vertices - 1}, got {corners.min()} to {corners.max()}")


def _numbers(rows: list[Line], dtype: type[np.generic]) -> Array:
    try:
        return np.array(rows).astype(dtype)
    except ValueError as error:
        raise ValueError(f"a line is not as expected: {error}") from None
