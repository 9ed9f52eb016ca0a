"""What the command ``weightaug`` does: convert, inspect, check and certify."""

from __future__ import annotations

import csv
import importlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import Positional

from weightaug._progress import bar
from weightaug.architecture import Activation, Architecture
from weightaug.element import WeightSpaceElement

SHOWN = 20  # lines of what was refused


def convert(
    paths: Positional[tuple[str, ...]],
    out: Path,
    *,
    architecture: Path | None = None,
    sizes: tuple[int, ...] = (),
    activation: str = "sine",
    omega: float = 30.0,
    output_offset: float = 0.0,
    layout: Literal["files", "dwsnets", "nfn", "arena"] = "files",
    part: Literal["train", "val", "test", "all"] = "train",
    labels: str | None = None,
    ignore: tuple[str, ...] = (),
    chunk: int = 1000,
    executor: Literal["serial", "processes", "ray"] = "serial",
    workers: int | None = None,
) -> int:
    """Makes a data set of files of networks; a call that was killed goes on when it is repeated.

    Files are .pt, .pth, .safetensors, .npz or .h5 with one state dict each, or HDF5 files of the Neural Field Arena. No
    code in them runs.

    Args:
        paths: Files, folders or patterns; of dwsnets and nfn: the one folder of the collection.
        out: Folder of the data set.
        architecture: JSON file that Architecture.to_dict has written; replaces the next four.
        sizes: Widths from input to output, for example 2 32 32 1.
        activation: Of the hidden neurons.
        omega: Frequency of sines.
        output_offset: Constant that the networks add to their outputs.
        layout: How the collection is laid out.
        part: Which part of a collection; "all" for nfn alone.
        labels: "folder" for the names of the folders of the files; a .csv (path, label) or .json (path: label) file; or
            the key of the label in each file. Collections have their own.
        ignore: Keys of each file that are no parameters.
        chunk: Networks per shard, and the most that a kill costs.
        executor: Who reads the files: this process, several of this machine, or a Ray cluster; not of arena.
        workers: Processes, or CPUs of a Ray that is started here; one per core if not given.

    Returns:
        0; 1 if files were refused.
    """
    from weightaug import io, layouts

    arch = _architecture(architecture, sizes, activation, omega, output_offset)
    if layout == "arena":
        element, of_networks = layouts.neural_field_arena(paths[0] if len(paths) == 1 else paths, arch)
        io.save(out, element, of_networks, shard_size=chunk, overwrite=False)
        print(f"{out}: {len(element)} networks")
        return 0
    of_file: str | Callable[[Path], Any] | None = labels
    classes: Sequence[str] = ()
    if layout != "files":
        if len(paths) != 1:
            raise ValueError(f"--layout {layout}: expected the one folder of the collection, got {len(paths)}")
        listing = layouts.nfn(paths[0], part) if layout == "nfn" else layouts.dwsnets(paths[0], part)
        wanted, of_file, classes = listing.paths, listing.label, listing.classes
    else:
        wanted = _all(paths)
        if labels is not None and (labels == "folder" or labels.endswith((".csv", ".json"))):
            of_file, classes = _by_folder(wanted) if labels == "folder" else _by_table(Path(labels))
    metadata: dict[str, Any] = {"classes": list(classes)} if classes else {}
    if classes:
        print("classes: " + ", ".join(f"{i} {name}" for i, name in enumerate(classes)))
    with bar(len(wanted), unit="file") as advance:
        found = io.convert(
            wanted,
            arch,
            out=out,
            labels=of_file,
            ignore=ignore,
            metadata=metadata,
            chunk=chunk,
            executor=executor,
            workers=workers,
            progress=lambda _: advance(1),  # called once for each
        )
    print(f"{out}: {found.size} networks of {len(found.sources)} files")
    for path, reason in list(found.refused.items())[:SHOWN]:
        print(f"refused {path}: {reason}", file=sys.stderr)
    if len(found.refused) > SHOWN:
        print(f"and {len(found.refused) - SHOWN} more", file=sys.stderr)
    return 1 if found.refused else 0


def inspect(store: Positional[Path], *, thumbnails: Path | None = None, count: int = 32) -> int:
    """Says what is in a data set: architecture, count, convention, labels and statistics.

    Args:
        store: Folder of the data set.
        thumbnails: PNG file for what the first networks show (INRs of two or three inputs; needs matplotlib).
        count: How many of them.

    Returns:
        0.
    """
    from weightaug.io import WeightSpaceDataset

    data = WeightSpaceDataset(store)
    element = data.element
    print(f"{store}: {len(data):,} networks, {element.dtype}, {data.architecture.num_parameters:,} parameters each")
    print(f"convention: {data.architecture.convention or 'not said'}")
    print(data.architecture.describe())
    if data.labels is not None:
        print(f"labels: {_labels(data.labels)}")
    for name, column in data.columns.items():
        if column.dim() == 1 and (column.is_floating_point() or column.dtype == torch.int64):
            low, high = column.aminmax()
            print(f"column {name}: {float(low):g} to {float(high):g}, mean {float(column.double().mean()):g}")
    for name, tensor in element.named_tensors():
        values = tensor.double()
        moments = f"mean {float(values.mean()):.4g}, deviation {float(values.std()):.4g}"
        print(f"{name}: {tuple(tensor.shape[1:])}, {moments}")
    if thumbnails is not None:
        from weightaug import plot

        figure = plot.show(element[:count], labels=None if data.labels is None else data.labels[:count])
        figure.savefig(thumbnails)
        print(f"written: {thumbnails}")
    return 0


def check(
    transform: Positional[str],
    *,
    architecture: Path | None = None,
    sizes: tuple[int, ...] = (2, 8, 8, 1),
    activation: str = "sine",
    omega: float = 30.0,
    seeds: int = 3,
) -> int:
    """Holds a transform of your own to the laws of weightaug.

    Args:
        transform: MODULE:NAME of a transform, or of a class of transforms with defaults for all settings.
        architecture: JSON file of the architecture to test it on; replaces the next three.
        sizes: Widths from input to output.
        activation: Of the hidden neurons.
        omega: Frequency of sines.
        seeds: How many networks and seeds are tried.

    Returns:
        0; 1 if a law does not hold.
    """
    from weightaug.testing import check_transform, random_element

    found = _named(transform)
    made = found() if isinstance(found, type) else found
    arch = _architecture(architecture, sizes, activation, omega, 0.0)
    for seed in range(seeds):
        element = random_element(arch, (5,), seed=seed)
        targets = torch.eye(5, dtype=torch.float64)
        try:
            check_transform(made, element, (targets,), seed=seed, graph=seed == 0, modes=seed == 0)
        except AssertionError as error:
            cause = f"\ncaused by {error.__cause__!r}" if error.__cause__ else ""
            print(f"{made!r} breaks a law on {element!r}, seed {seed}: {error}{cause}", file=sys.stderr)
            return 1
    print(f"{made!r}: every law holds on {seeds} batches of networks, {made.preserves.name.lower()} preserved")
    return 0


def certify(
    model: Positional[str],
    store: Positional[Path],
    *,
    reads: Literal["element", "dws", "graph"] = "element",
    count: int = 64,
    double: bool = False,
) -> int:
    """Says whether a model that reads networks is invariant to their symmetries.

    Args:
        model: MODULE:NAME of a model, or of a function without arguments that makes one.
        store: Folder of a data set of networks.
        reads: What the model takes: elements, (weights, biases) as DWSNets, or dense graphs.
        count: How many networks.
        double: Convert the networks to float64, for a model in float64.

    Returns:
        0 if it is invariant, 1 otherwise.
    """
    from weightaug import adapters
    from weightaug.io import WeightSpaceDataset
    from weightaug.testing import check_model

    found: Any = _named(model)
    made = found if isinstance(found, torch.nn.Module) else found()
    if isinstance(made, torch.nn.Module):
        made.eval()
    element = WeightSpaceDataset(store).element[:count]
    element = element.to(torch.float64) if double else element
    adapter: dict[str, Callable[[WeightSpaceElement], Any] | None]
    adapter = {"element": None, "dws": adapters.to_dws, "graph": adapters.to_graph}
    certificate = check_model(made, element, adapter=adapter[reads])
    print(certificate)
    return int(certificate.verdict != "invariant")


def _architecture(
    file: Path | None, sizes: Sequence[int], activation: str, omega: float, output_offset: float
) -> Architecture:
    if file is not None:
        try:
            return Architecture.from_json(file.read_text(encoding="utf-8"))
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"--architecture {file}: {error}") from error
    if len(sizes) < 2:
        raise ValueError("expected --sizes from input to output, for example 2 32 32 1, or --architecture FILE.json")
    chosen = Activation(activation, omega) if activation == "sine" else Activation(activation)
    return Architecture.mlp(sizes, chosen, output_offset=output_offset)


def _named(text: str) -> Any:
    """What MODULE:NAME names; modules of the current folder are found."""
    module, colon, name = text.partition(":")
    if not colon or not name:
        raise ValueError(f"{text}: expected MODULE:NAME, for example mytransforms:Shuffle")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    finally:
        sys.path.pop(0)
    if not hasattr(found, name):
        raise ValueError(f"{text}: the module {module} ({found.__file__}) has no {name}")
    return getattr(found, name)


def _all(paths: Sequence[str]) -> tuple[Path, ...]:
    from weightaug.io.conversion import files_of

    return tuple(file for path in paths for file in files_of(path))


_Labels = tuple[Callable[[Path], int], list[str]]


def _by_folder(files: Sequence[Path]) -> _Labels:
    from weightaug.io.conversion import by_number

    classes = sorted({file.parent.name for file in files}, key=by_number)
    number = {name: i for i, name in enumerate(classes)}
    return lambda file: number[file.parent.name], classes


def _by_table(file: Path) -> _Labels:
    """Labels by path: whole, or relative to the table. Names of classes are numbered in their order."""
    from weightaug.io.conversion import by_number

    if file.suffix == ".json":
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        rows = list(content.items()) if isinstance(content, dict) else content
    else:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row]
        # A first row that names no file is a header.
        rows = rows[1:] if rows and not (file.parent / rows[0][0]).exists() else rows
    try:
        given = {(file.parent / str(path)).resolve(): str(label).strip() for path, label in rows}
    except (TypeError, ValueError) as error:
        raise ValueError(f"--labels {file}: expected paths and labels: {error}") from error
    classes: list[str] = []
    if not all(re.fullmatch("-?[0-9]+", label) for label in given.values()):
        classes = sorted(set(given.values()), key=by_number)
    number = {name: i for i, name in enumerate(classes)}
    table = {path: number[label] if classes else int(label) for path, label in given.items()}

    def label(path: Path) -> int:
        if path.resolve() not in table:
            raise ValueError(f"no label in {file}")
        return table[path.resolve()]

    return label, classes


def _labels(labels: torch.Tensor) -> str:
    if labels.dim() != 1 or labels.is_floating_point():
        return f"{tuple(labels.shape[1:])} of {labels.dtype} each"
    values, counts = labels.unique(return_counts=True)
    pairs = [f"{value}: {count}" for value, count in zip(values.tolist(), counts.tolist(), strict=True)]
    return ", ".join(pairs[:SHOWN]) + (f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else "")
