"""Tables from the result files of cells. Every figure of ours is read from a file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.settings import ROWS
from benchmarks.train import Cell


class Summary(NamedTuple):
    """Test accuracies of the seeds of one entry of the table.

    Attributes:
        accuracies: In percent, of the seeds that finished.
        diverged: Number of seeds that diverged.
        missing: Number of seeds without a result.
    """

    accuracies: tuple[float, ...]
    diverged: int
    missing: int

    @property
    def mean(self) -> float:
        """Mean over the seeds that finished."""
        return statistics.fmean(self.accuracies)

    def __str__(self) -> str:
        if len(self.accuracies) > 1:
            text = f"{self.mean:.2f} ± {statistics.stdev(self.accuracies):.2f}"
        else:
            text = f"{self.mean:.2f}" if self.accuracies else "–"
        for count, what in ((self.diverged, "diverged"), (self.missing, "missing")):
            if count:
                text += f" ({count} {what})"
        return text


def read(cell: Cell) -> dict[str, Any] | None:
    """The result of a cell, or None if there is none yet.

    Raises:
        ValueError: If the file is no result of this cell.
    """
    if not cell.done:
        return None
    try:
        record: dict[str, Any] = json.loads(cell.path.read_text(encoding="utf-8"))
        settings = record["settings"]
        if record["status"] == "finished":
            float(record["test_accuracy"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{cell.path}: damaged result ({error}); delete it, and it is made again") from error
    if settings != cell.settings:
        raise ValueError(f"{cell.path}: the result of other settings; delete it, and it is made again")
    return record


def summarise(cells: Sequence[Cell]) -> Summary:
    """Gathers the cells of one entry: those that differ in the seed alone."""
    records = [read(cell) for cell in cells]
    there = [record for record in records if record is not None]
    finished = tuple(float(r["test_accuracy"]) for r in there if r["status"] == "finished")
    return Summary(finished, len(there) - len(finished), len(records) - len(there))


def table(cells: Sequence[Cell]) -> str:
    """Table 1 in Markdown: one row per augmentation, one column per data set, model and number of views."""
    columns = list(dict.fromkeys((c.dataset, c.model, c.views) for c in cells))
    heads = [f"{dataset}, {model.upper()}, {views} view{'s' * (views > 1)}" for dataset, model, views in columns]
    lines = [
        "| Augmentation | " + " | ".join(heads) + " | paper: Fashion-MNIST, DWS, 1 view |",
        "|---|" + "---:|" * (len(columns) + 1),
    ]
    for row in dict.fromkeys(c.row for c in cells):
        entries = [
            str(summarise([c for c in cells if c.row == row and (c.dataset, c.model, c.views) == column]))
            for column in columns
        ]
        mean, deviation = ROWS[row].published
        lines.append(f"| {ROWS[row].label} | " + " | ".join(entries) + f" | {mean:.2f} ± {deviation:.2f} |")
    return "\n".join(lines)


def notes(cells: Sequence[Cell], classes: int) -> str:
    """What the table means: how accuracies are made, and how far they are from chance."""
    seeds = len({cell.seed for cell in cells})
    records = [record for cell in cells if (record := read(cell)) is not None]
    counts = next((r["networks"] for r in records if r["status"] == "finished"), {})
    lines = [
        f"Test accuracy in percent at the epoch of the best validation accuracy, mean ± standard deviation over "
        f"{seeds} seed{'s' * (seeds > 1)}."
    ]
    if counts:
        lines.append(
            f"Networks: {counts['train']} to train, {counts['validation']} to validate, {counts['test']} to test "
            f"(one test network is {100 / counts['test']:.2f} points)."
        )
    lines.append("The paper's column is ANOTHER data set (Fashion-MNIST, 55,000 training images): not to be compared.")
    plain = summarise([cell for cell in cells if cell.row == "none"]) if any(c.row == "none" for c in cells) else None
    if plain and plain.accuracies:
        chance = 100 / classes
        lines.append(f"Chance is {chance:.1f}; no augmentation is {plain.mean - chance:+.1f} points from it.")
    return "\n".join(lines)
