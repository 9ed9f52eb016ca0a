"""Curves of cells from their JSON files: the numbers behind the paper's Figure 1."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.models.settings import model_label
from benchmarks.running.files import read_json
from benchmarks.table.report import label_of
from benchmarks.table.rows import ROWS

SPLITS = ("train", "validation", "test")


class Curve(NamedTuple):
    """One quantity over the training, of all seeds of a group.

    Attributes:
        split: "train", "validation" or "test".
        quantity: "loss" or "accuracy".
        steps: Updates of the weights so far.
        mean: Mean over the seeds.
        least: Least of the seeds.
        greatest: Greatest of the seeds.
    """

    split: str
    quantity: str
    steps: list[float]
    mean: list[float]
    least: list[float]
    greatest: list[float]


@dataclass(frozen=True)
class Group:
    """Cells that differ in the seed alone.

    Args:
        dataset: Their data set.
        model: Their model.
        row: Their row of the table.
        views: Networks per object.
        seeds: Seeds that finished.
        diverged: Number of seeds that diverged, which no curve holds.
        curves: What the cells recorded.
    """

    dataset: str
    model: str
    row: str
    views: int
    seeds: tuple[int, ...]
    diverged: int
    curves: tuple[Curve, ...]

    @property
    def name(self) -> str:
        """Model and row, as the legend says them."""
        return f"{model_label(self.model)}: {label_of(self.row)}"


def read_cells(
    folder: Path,
    *,
    rows: Sequence[str] = ("none",),
    views: Sequence[int] = (1, 10),
    where: Sequence[str] = (),
    models: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Reads the result files of cells.

    Args:
        folder: Folder of the files, or one that holds them in "cells".
        rows: Rows of the table to take.
        views: Numbers of views to take.
        where: More conditions, as "train.epochs=12".
        models: Models to take; None for all.

    Raises:
        FileNotFoundError: If no cell is left.
        ValueError: If a file is damaged, or a condition names no setting.
    """
    inside = folder / "cells"
    paths = sorted((inside if inside.is_dir() else folder).glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no result files; make them with: python benchmarks/table1.py")
    cells = []
    unknown = set(where)
    for path in paths:
        cell = read_json(path, "settings", "curves", "status")
        settings = cell["settings"]
        try:
            given = settings["row"], settings["views"], settings["dataset"], settings["model"], settings["seed"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged result ({error!r}); delete it, and make it again") from error
        unknown -= {condition for condition in unknown if _said(settings, condition)[0]}
        wanted = given[0] in rows and given[1] in views and (models is None or given[3] in models)
        if wanted and all(_holds(settings, condition) for condition in where):
            cells.append(cell)
    for condition in sorted(unknown):
        raise ValueError(f"--where {condition}: expected KEY=VALUE with a key of the cells' settings")
    if not cells:
        chosen = f"rows {', '.join(rows)} and {' or '.join(map(str, views))} views" + "".join(f", {w}" for w in where)
        chosen += f", {' or '.join(models)}" if models else ""
        raise FileNotFoundError(
            f"{folder}: none of {len(paths)} result files has {chosen}; make them with: python benchmarks/table1.py "
            f"--rows {' '.join(rows)} --views {' '.join(map(str, views))}"
        )
    return cells


def _said(settings: dict[str, Any], condition: str) -> tuple[bool, Any]:
    """Whether a cell says something of the setting that a condition names, and what."""
    key, equals, _ = condition.partition("=")
    value: Any = settings
    for part in key.split("."):
        if not equals or not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _holds(settings: dict[str, Any], condition: str) -> bool:
    """Whether a cell meets a condition. Settings that came after it are off in it: None or False."""
    said, value = _said(settings, condition)
    wanted = condition.partition("=")[2]
    return str(value) == wanted if said else wanted in ("None", "False")


def group_cells(cells: Sequence[dict[str, Any]]) -> list[Group]:
    """Gathers cells that differ in the seed alone, in the order of the table.

    Raises:
        ValueError: If cells of one entry of the table differ in more, or none of them finished.
    """
    entries: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    for cell in cells:
        settings = cell["settings"]
        key = (settings["dataset"], settings["model"], settings["row"], settings["views"])
        entries.setdefault(key, []).append(cell)
    groups = []
    order = list(ROWS)
    for key, members in sorted(entries.items(), key=lambda e: (e[0][0], e[0][1], e[0][3], _place(order, e[0][2]))):
        others = [_flat(cell["settings"]) for cell in members]
        differing = sorted({name for o in others for name in o if o[name] != others[0].get(name)} - {"seed"})
        if differing:
            values = sorted({f"{differing[0]}={o.get(differing[0])}" for o in others})
            raise ValueError(
                f"the cells of {key[0]}, {key[1]}, {key[2]}, {key[3]} views differ in {', '.join(differing)}; "
                f"choose with --where {' or '.join(values)}"
            )
        finished = [cell for cell in members if cell["status"] == "finished"]
        if finished:
            seeds = tuple(sorted(cell["settings"]["seed"] for cell in finished))
            groups.append(Group(*key, seeds, len(members) - len(finished), tuple(_curves(finished))))
    if not any(group.curves for group in groups):
        raise ValueError(f"none of {len(cells)} cells holds a curve: have all of them diverged?")
    return groups


def _place(order: list[str], row: str) -> int:
    return order.index(row) if row in order else len(order)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _curves(cells: Sequence[dict[str, Any]]) -> list[Curve]:
    """Every curve that all of the cells hold."""
    per_epoch = cells[0]["networks"]["train"] // cells[0]["settings"]["train"]["batch"]
    curves = []
    for split in SPLITS:
        for quantity in ("loss", "accuracy"):
            name = f"{split}_{quantity}"
            if not all(cell["curves"].get(name) for cell in cells):
                continue
            epochs = list(zip(*(cell["curves"][name] for cell in cells), strict=True))
            curves.append(
                Curve(
                    split,
                    quantity,
                    [per_epoch * (epoch + 1) for epoch in range(len(epochs))],
                    [statistics.fmean(values) for values in epochs],
                    [min(values) for values in epochs],
                    [max(values) for values in epochs],
                )
            )
    return curves


def caption(groups: Sequence[Group], width: int = 80) -> str:
    """What the lines are, and what the cells do not hold."""
    held = {(curve.split, curve.quantity) for group in groups for curve in group.curves}
    seeds = sorted({len(group.seeds) for group in groups})
    counts = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    text = f"Lines: mean of {counts} seed{'s' * (seeds[-1] > 1)}; bands: least to greatest."
    if ("train", "loss") in held:
        text += " The training loss is the mean over an epoch, on augmented networks where the row augments."
    if held - {("train", "loss"), ("train", "accuracy")}:
        text += " Dots: best value."
    missing = [f"{split} loss" for split in ("validation", "test") if (split, "loss") not in held]
    if missing:
        text += f" The cells record no {' and no '.join(missing)}."
    diverged = sum(group.diverged for group in groups)
    if diverged:
        text += f" {diverged} diverged cell{'s' * (diverged > 1)} left out."
    return textwrap.fill(text, width)
