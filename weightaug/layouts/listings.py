"""Collections of one file a network: which files there are, and what they are of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from weightaug.io.files import AnyPath, absolute

__all__ = ["Listing", "dwsnets", "nfn"]

_PARTS = {"train": range(45_000), "val": range(45_000, 50_000)}  # of NFN's numbers; the rest is to test on
_CLASS = re.compile(r"randinit_smaller(?P<copy>.*)_(?P<name>[^_]+)s")
_NETWORK = re.compile(r"net(?P<number>[0-9]+)\.pth")


class _Files(NamedTuple):
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...] = ()


class Listing(_Files):
    """Files of one network each, with their labels.

    Attributes:
        paths: The files, in the order of the collection, or of their numbers.
        labels: The class of each, from 0.
        classes: Names of the classes, where the collection has any.
    """

    @cached_property
    def _table(self) -> dict[Path, int]:
        return dict(zip(self.paths, self.labels, strict=True))

    def label(self, path: AnyPath) -> int:
        """The label of a file, as ``labels=`` of :func:`weightaug.io.convert` takes it.

        Raises:
            KeyError: If the file is not in the listing.
        """
        return self._table[absolute(path)]


def dwsnets(folder: AnyPath, part: str = "train", *, splits: str = "splits.json") -> Listing:
    """Lists INRs as DWSNets and the paper "Data Augmentations in Deep Weight Spaces" distribute them.

    A JSON file names the ``.pth`` files and the labels of every part. It holds the paths of the machine that wrote it;
    what is not there is looked for below the folder, by as many of the last parts of its path as possible.

    Args:
        folder: Where the JSON file lies, with the networks below it.
        part: ``"train"``, ``"val"`` or ``"test"``.
        splits: Name of the JSON file, ``{part: {"path": [...], "label": [...]}}``.

    Raises:
        FileNotFoundError: If the JSON file or a network is missing.
        ValueError: If the JSON file has another form or no such part.
    """
    root = absolute(folder)
    file = root / splits
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected a JSON file of paths and labels; name it with splits=")
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected JSON, got {error}") from error
    if not isinstance(content, Mapping) or part not in content:
        parts = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{file}: expected the part {part!r}, found {parts}")
    entry = content[part]
    paths, labels = ([], []) if not isinstance(entry, Mapping) else (_of(entry, "path"), _of(entry, "label"))
    if not paths or len(paths) != len(labels) or not all(isinstance(p, str) for p in paths):
        raise ValueError(
            f"{file}: part {part!r}: expected as many labels as paths, and at least one, "
            f"got {len(labels)} and {len(paths)}"
        )
    return Listing(tuple(_found(root, path, file) for path in paths), _classes(labels, f"{file}: part {part!r}"))


def _of(entry: Mapping[str, Any], key: str) -> list[Any]:
    found = entry.get(key, entry.get(f"{key}s", []))
    return list(found) if isinstance(found, list) else []


def _found(root: Path, path: str, file: Path) -> Path:
    """A file of another machine, below a folder of this one."""
    parts = Path(path.replace("\\", "/")).parts
    for first in range(len(parts)):
        tried = root.joinpath(*(part for part in parts[first:] if part not in ("/", "..")))
        if tried.is_file():
            return tried
    raise FileNotFoundError(f"{file}: {path} is not below {root}; unpack the networks there, or give their folder")


def _classes(labels: Sequence[Any], owner: str) -> tuple[int, ...]:
    numbers = []
    for label in labels:
        whole = isinstance(label, (int, str)) and not isinstance(label, bool) and re.fullmatch(r"[0-9]+", str(label))
        if not whole:
            raise ValueError(f"{owner}: expected labels that are numbers of classes, got {label!r}")
        numbers.append(int(label))
    return tuple(numbers)


def nfn(folder: AnyPath, part: Literal["train", "val", "test", "all"] = "all", *, copies: bool = False) -> Listing:
    """Lists SIRENs as NFN distributes them: ``randinit_smaller_<class>s/net<number>.pth``.

    Networks below 45,000 are to train, those below 50,000 to validate, the rest to test on. Folders with "aug" in their
    names hold further fits of the same images; NFN's own pattern finds them, too, by mistake.

    Args:
        folder: The folder of the class folders.
        part: Which networks.
        copies: Whether to list the further fits, too.

    Raises:
        FileNotFoundError: If there is no such network.
        ValueError: If the part is unknown.
    """
    if part not in ("train", "val", "test", "all"):
        raise ValueError(f"nfn: expected part 'train', 'val', 'test' or 'all', got {part!r}")
    root = absolute(folder)
    found: list[tuple[int, str, Path]] = []
    for path in root.glob("*/*.pth"):
        of_class, of_network = _CLASS.fullmatch(path.parent.name), _NETWORK.fullmatch(path.name)
        if of_class is None or of_network is None or ("aug" in path.parent.name and not copies):
            continue
        number = int(of_network["number"])
        belongs = next((name for name, numbers in _PARTS.items() if number in numbers), "test")
        if part in ("all", belongs):
            found.append((number, of_class["name"], path))
    if not found:
        raise FileNotFoundError(
            f"{root}: expected randinit_smaller_<class>s/net<number>.pth"
            + ("" if part == "all" else f" with numbers of part {part!r}")
        )
    names = {name for _, name, _ in found}
    classes = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    order = sorted(found, key=lambda entry: (entry[0], str(entry[2])))
    return Listing(
        tuple(path for *_, path in order), tuple(classes.index(name) for _, name, _ in order), tuple(classes)
    )
