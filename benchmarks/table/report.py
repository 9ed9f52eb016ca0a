"""Tables from the result files of cells, in Markdown, LaTeX and CSV. Every figure of ours is read from a file."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scipy.stats import t as student

from benchmarks.data.settings import SHAPES, DatasetName
from benchmarks.models.settings import MODEL_LABELS, ModelName
from benchmarks.running.files import read_json, write_text
from benchmarks.table import published
from benchmarks.table.cell import Cell
from benchmarks.table.published import TABLE1
from benchmarks.table.rows import ROWS

BASELINE = "none"  # the row that the others are compared with


class Interval(NamedTuple):
    """A mean and the half width of its 95 % interval.

    Attributes:
        mean: The mean.
        half: Half the width, by Student's t; nan for a single value, which says nothing about spread.
        seeds: Number of values.
    """

    mean: float
    half: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval | None:
        """The interval of some values; None of none."""
        if not values:
            return None
        count = len(values)
        half = math.nan
        if count > 1:
            half = float(student.ppf(0.975, count - 1)) * statistics.stdev(values) / math.sqrt(count)
        return cls(statistics.fmean(values), half, count)


@dataclass(frozen=True)
class Summary:
    """The seeds of one entry of the table.

    Args:
        accuracies: Test accuracy in percent by seed, of the seeds that finished.
        diverged: Number of seeds that diverged.
        missing: Number of seeds without a result.
    """

    accuracies: dict[int, float]
    diverged: int
    missing: int

    @property
    def interval(self) -> Interval | None:
        """The mean over the seeds that finished, and its interval."""
        return Interval.of(list(self.accuracies.values()))

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None of a single one."""
        values = list(self.accuracies.values())
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def remarks(self) -> str:
        """What is not in the mean."""
        counts = ((self.diverged, "diverged"), (self.missing, "missing"))
        return ", ".join(f"{count} {what}" for count, what in counts if count)

    def difference(self, baseline: Summary) -> Interval | None:
        """Mean difference to a baseline over the seeds that both have, seed by seed."""
        common = [seed for seed in self.accuracies if seed in baseline.accuracies]
        return Interval.of([self.accuracies[seed] - baseline.accuracies[seed] for seed in common])

    def __str__(self) -> str:
        interval = self.interval
        text = "–" if interval is None else f"{interval.mean:.2f}"
        if self.deviation is not None:
            text += f" ± {self.deviation:.2f}"
        return f"{text} ({self.remarks})" if self.remarks else text


def read(cell: Cell) -> dict[str, Any] | None:
    """The result of a cell, or None if there is none yet.

    Raises:
        ValueError: If the file is no result of this cell.
    """
    if not cell.done:
        return None
    record = read_json(cell.path, "settings", "status")
    if record["settings"] != cell.settings:
        raise ValueError(f"{cell.path}: the result of other settings; delete it, and it is made again")
    check_record(record, cell.path)
    return record


def check_record(record: dict[str, Any], path: Path) -> None:
    """Makes sure that a result holds what the reports show.

    Raises:
        ValueError: If it does not; it names the file and what to do.
    """
    if record["status"] != "finished":
        return
    try:
        for key in ("test_accuracy", "classes"):
            float(record[key])
        for part in ("train", "validation", "test"):
            int(record["networks"][part])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged result ({error!r}); delete it, and it is made again") from error


def summarise(cells: Sequence[Cell]) -> Summary:
    """Gathers the cells of one entry: those that differ in the seed alone."""
    records = {cell.seed: record for cell in cells if (record := read(cell)) is not None}
    finished = {seed: float(r["test_accuracy"]) for seed, r in records.items() if r["status"] == "finished"}
    return Summary(finished, len(records) - len(finished), len(cells) - len(records))


# -- tables ------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """Cells that stand in one table, one row per augmentation.

    Attributes:
        dataset: Their data set.
        model: Their model.
        views: Networks per sample.
        rows: Summaries by the name of the row.
    """

    dataset: DatasetName
    model: ModelName
    views: int
    rows: dict[str, Summary]

    @property
    def title(self) -> str:
        """What the table is of."""
        return f"{self.dataset}, {MODEL_LABELS[self.model]}, {self.views} view{'s' * (self.views > 1)}"

    @property
    def published(self) -> dict[str, published.Column]:
        """The paper's columns that stand beside it, by their heads: all of its data set with as many coordinates."""
        name: Literal["ModelNet40", "FMNIST"] = "ModelNet40" if self.dataset in SHAPES else "FMNIST"
        short = {"dws": "DWS", "relation-transformer": "GNN"}
        return {
            f"paper: {short[model]}, {views} v.": published.Column(name, model, views)
            for model in MODEL_LABELS
            for views in (1, 10)
        }


def columns(cells: Sequence[Cell]) -> list[Column]:
    """The tables of some cells."""
    result = []
    for dataset, model, views in dict.fromkeys((c.dataset, c.model, c.views) for c in cells):
        own = [c for c in cells if (c.dataset, c.model, c.views) == (dataset, model, views)]
        rows = {row: summarise([c for c in own if c.row == row]) for row in dict.fromkeys(c.row for c in own)}
        result.append(Column(dataset, model, views, rows))
    return result


HEADS = ["Augmentation", "Accuracy", "95 % interval", "Difference to none"]


def _entries(column: Column) -> list[list[str]]:
    """The cells of a table as text."""
    baseline = column.rows.get(BASELINE)
    lines = []
    for row, summary in column.rows.items():
        interval, difference = summary.interval, None
        if baseline is not None and row != BASELINE:
            difference = summary.difference(baseline)
        bounds = "–"
        if interval is not None and math.isfinite(interval.half):
            bounds = f"{interval.mean - interval.half:.1f} to {interval.mean + interval.half:.1f}"
        compared = "–"
        if difference is not None:
            compared = f"{difference.mean:+.2f}"
            if math.isfinite(difference.half):
                compared += f" ± {difference.half:.2f}"
        of_paper = [str(TABLE1.get((row, their), "–")) for their in column.published.values()]
        lines.append([ROWS[row].label, str(summary), bounds, compared, *of_paper])
    return lines


def table(column: Column) -> str:
    """A table in Markdown."""
    heads = [*HEADS, *column.published]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *_entries(column)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(column: Column) -> str:
    """A table in LaTeX, for the package booktabs."""

    def line(entries: Sequence[str]) -> str:
        escaped = [e.replace("%", r"\%").replace("±", r"$\pm$").replace("–", "--") for e in entries]
        return " & ".join(escaped) + r" \\"

    heads = [*HEADS, *column.published]
    body = [line(entries) for entries in _entries(column)]
    return "\n".join(
        [
            rf"% {column.title}",
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule",
            line(heads),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def as_csv(columns: Sequence[Column]) -> str:
    """All tables as one CSV, one line per row, numbers unrounded."""
    text = io.StringIO()
    heads = ["dataset", "model", "views", "row", "label", "seeds", "diverged", "missing", "mean", "deviation"]
    heads += ["interval_half", "difference", "difference_half", "difference_seeds"]
    heads += [f"paper_{m}_{v}_{what}" for m in ("dws", "gnn") for v in (1, 10) for what in ("mean", "std")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for column in columns:
        baseline = column.rows.get(BASELINE)
        for row, summary in column.rows.items():
            interval = summary.interval or (None, None, 0)
            difference = (summary.difference(baseline) if baseline else None) or (None, None, 0)
            of_paper: list[float | None] = []
            for their in column.published.values():
                of_paper += TABLE1.get((row, their), (None, None))
            numbers = [*interval[:1], summary.deviation, interval[1], *difference, *of_paper]
            writer.writerow(
                [column.dataset, column.model, column.views, row, ROWS[row].label, len(summary.accuracies)]
                + [summary.diverged, summary.missing]
                + ["" if n is None or (isinstance(n, float) and math.isnan(n)) else n for n in numbers]
            )
    return text.getvalue()


def notes(cells: Sequence[Cell]) -> str:
    """What the tables mean: how accuracies are made, and how far they are from chance."""
    seeds = sorted({cell.seed for cell in cells})
    lines = [
        "Accuracy: test accuracy in percent at the epoch of the best validation accuracy, mean ± standard deviation "
        f"over the seeds ({', '.join(map(str, seeds))}). 95 % interval: of the mean, by Student's t. Difference: to no "
        "augmentation, paired by seed (same initial weights, same order of networks), ± half of its 95 % interval.",
        "The paper's columns are its figures for Fashion-MNIST (55,000 training images) beside images and for "
        "ModelNet40 (12,311 shapes of 40 classes) beside shapes, over 3 seeds: with another number of "
        "samples, another model size or another data set they are not to be compared.",
    ]
    if any(ROWS[cell.row].mixes for cell in cells):
        pools = {cell.pool_views for cell in cells if ROWS[cell.row].mixes}
        partners = [
            "the networks that are augmented at once"
            if pool is None
            else f"the training images' networks of {pool} view{'s' * (pool > 1)}"
            for pool in pools
        ]
        lines.append(f"MixUp takes partners from {' or '.join(partners)}.")
    for dataset, model, views in dict.fromkeys((c.dataset, c.model, c.views) for c in cells):
        own = [cell for cell in cells if (cell.dataset, cell.model, cell.views) == (dataset, model, views)]
        records = [record for cell in own if (record := read(cell)) is not None]
        finished = [record for record in records if record["status"] == "finished"]
        if not finished:
            continue
        counts = finished[0]["networks"]
        hours = sum(record.get("processor_seconds", 0.0) for record in records) / 3600
        chance = 100 / finished[0]["classes"]
        line = (
            f"{dataset}, {MODEL_LABELS[model]}, {views} view{'s' * (views > 1)}: {counts['train']} networks to train, "
            f"{counts['validation']} to validate, {counts['test']} to test (one test network is "
            f"{100 / counts['test']:.2f} points), {finished[0].get('parameters', 0):,} parameters, {hours:.1f} "
            f"processor hours; chance is {chance:.1f}"
        )
        plain = summarise([cell for cell in own if cell.row == BASELINE]).interval
        if plain is not None:
            line += f", no augmentation {plain.mean - chance:+.1f} points from it"
        lines.append(line + ".")
    return "\n\n".join(lines)


def markdown(tables: Sequence[Column], cells: Sequence[Cell]) -> str:
    """All tables and notes."""
    parts = [f"### {column.title}\n\n{table(column)}" for column in tables]
    return "\n\n".join([*parts, notes(cells)]) + "\n"


def write(cells: Sequence[Cell], path: Path, preface: str = "") -> str:
    """Writes the tables beside each other as .md, .tex and .csv.

    Args:
        cells: What to show.
        path: The files' path without the ending.
        preface: Markdown that stands first in the .md.

    Returns:
        The Markdown.
    """
    tables = columns(cells)
    text = preface + markdown(tables, cells)
    write_text(path.with_suffix(".md"), text)
    write_text(path.with_suffix(".tex"), "\n\n".join(map(latex, tables)) + "\n")
    write_text(path.with_suffix(".csv"), as_csv(tables))
    return text
