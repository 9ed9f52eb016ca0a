"""Data sets of meshes in ModelNet's layout: a zip archive or a folder of ``<class>/<split>/<name>.off``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from benchmarks.data.off import Mesh, MeshError, parse_off

Split = Literal["train", "test"]

WHERE = (
    "get ModelNet10.zip or ModelNet40.zip (research use; cite Wu et al. 2015) from https://modelnet.cs.princeton.edu "
    "and name the archive, or the folder it was unpacked to"
)


@dataclass(frozen=True)
class ShapeSample:
    """One mesh of a data set; nothing is read before it is needed.

    Args:
        source: The archive or folder.
        member: The mesh's file in it, as it is named there.
        name: File name without ending, such as ``chair_0001``.
        class_name: Name of its class.
        label: Number of its class, in alphabetical order.
        split: The official split.
        crc: Checksum of the file (CRC-32), if the archive lists one.
    """

    source: Path
    member: str
    name: str
    class_name: str
    label: int
    split: Split
    crc: int | None = None

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            MeshError: If they cannot be read.
        """
        try:
            if self.source.is_dir():
                return (self.source / self.member).read_bytes()
            with zipfile.ZipFile(self.source) as archive:
                return archive.read(self.member)
        except Exception as error:  # every decompressor raises what it likes
            raise MeshError(f"not readable: {error!r}") from error

    def checksum(self) -> int:
        """CRC-32 of the file: what the archive lists, or taken of the file.

        Raises:
            MeshError: If it cannot be read.
        """
        return zlib.crc32(self.read()) if self.crc is None else self.crc

    def mesh(self) -> Mesh:
        """The mesh as stored.

        Raises:
            MeshError: If it cannot be read.
        """
        return parse_off(self.read())


def load_shapes(path: str | Path, split: Split | None = None) -> list[ShapeSample]:
    """Lists the meshes of a data set in ModelNet's layout, by name; nothing is parsed.

    Labels count the classes of the whole data set in alphabetical order, whichever split is asked for.

    Args:
        path: A zip archive, or a folder, with ``<class>/<split>/<name>.off`` at any depth.
        split: "train" or "test" (the official split); None for both.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it is no whole zip archive or holds no meshes in this layout.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"expected split 'train', 'test' or None, got {split!r}")
    source = Path(path)
    members = _members(source)
    found = []
    for member, crc in members.items():
        parts = PurePosixPath(member.replace("\\", "/")).parts  # some programs for Windows write backslashes
        if len(parts) < 3 or parts[-2] not in ("train", "test") or not parts[-1].lower().endswith(".off"):
            continue
        # The official ModelNet10.zip was packed on a Mac, whose shadow files end in .off, too.
        if parts[-1].startswith("._") or "__MACOSX" in parts:
            continue
        found.append((parts[-3], parts[-2], parts[-1], member, crc))
    if not found:
        listed = ", ".join(sorted(members)[:3]) or "nothing"
        raise ValueError(
            f"{source}: expected meshes as <class>/<train or test>/<name>.off, "
            f"got none among {len(members)} files ({listed}); {WHERE}"
        )
    labels = {name: label for label, name in enumerate(sorted({entry[0] for entry in found}))}
    samples = []
    for class_name, part, file, member, crc in sorted(found):
        official: Split = "train" if part == "train" else "test"
        if split in (None, official):
            samples.append(ShapeSample(source, member, file[:-4], class_name, labels[class_name], official, crc))
    return samples


def classes_of(samples: Sequence[ShapeSample]) -> dict[int, str]:
    """Names of the classes that occur, by label."""
    return dict(sorted({sample.label: sample.class_name for sample in samples}.items()))


def _members(source: Path) -> dict[str, int | None]:
    """The files of an archive or folder, with the checksums that an archive lists."""
    if source.is_dir():
        return {p.relative_to(source).as_posix(): None for p in source.rglob("*") if p.is_file()}
    if not source.exists():
        raise FileNotFoundError(f"{source}: expected a zip archive or a folder, got nothing; {WHERE}")
    try:
        with zipfile.ZipFile(source) as archive:
            return {info.filename: info.CRC for info in archive.infolist() if not info.is_dir()}
    except OSError:
        raise  # not to be read at all; it names the file
    except Exception as error:  # a damaged directory ends in BadZipFile, struct.error, UnicodeDecodeError, ...
        with open(source, "rb") as file:
            start = file.read(4)
        raise ValueError(
            f"{source}: expected a whole zip archive, got {source.stat().st_size:,} bytes that begin with {start!r} "
            f"({error}); delete it, then {WHERE}"
        ) from error
