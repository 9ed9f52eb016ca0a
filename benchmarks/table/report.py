"""Tables from the result files of cells, in Markdown, LaTeX and CSV. Every figure of ours is read from a file."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.data.settings import SHAPES, DatasetName
from benchmarks.models.settings import MODEL_LABELS, ModelName, model_label
from benchmarks.running.files import read_json, write_text
from benchmarks.running.pages import in_markdown
from benchmarks.table import published
from benchmarks.table.cell import Cell
from benchmarks.table.notes import notes
from benchmarks.table.published import TABLE1, Accuracy
from benchmarks.table.rows import BASELINE, ROWS
from benchmarks.table.statistics import Comparison, Interval, compare


@dataclass(frozen=True)
class Summary:
    """The seeds of one entry of the table.

    Args:
        accuracies: Test accuracy in percent by seed, of the seeds that finished.
        diverged: Number of seeds that diverged.
        missing: Number of seeds without a result.
        last: Test accuracy after the last epoch by seed, of the results that hold it.
        fresh: Accuracy after the last epoch on new networks of training samples, likewise.
        trained: The same on the networks themselves that were trained on.
    """

    accuracies: dict[int, float]
    diverged: int
    missing: int
    last: dict[int, float] = field(default_factory=dict)
    fresh: dict[int, float] = field(default_factory=dict)
    trained: dict[int, float] = field(default_factory=dict)

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

    def differences(self, baseline: Summary) -> list[float]:
        """Differences to a baseline of the seeds that both have, seed by seed."""
        return [
            value - baseline.accuracies[seed] for seed, value in self.accuracies.items() if seed in baseline.accuracies
        ]

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


def summarise(records: Sequence[dict[str, Any]], wanted: int) -> Summary:
    """Gathers the results of one entry: those that differ in the seed alone.

    Args:
        records: The results that there are.
        wanted: How many there should be.
    """
    finished = {r["settings"]["seed"]: r for r in records if r["status"] == "finished"}
    best = {seed: float(r["test_accuracy"]) for seed, r in finished.items()}
    curves = {seed: r.get("curves", {}).get("test_accuracy") for seed, r in finished.items()}
    last = {seed: float(curve[-1]) for seed, curve in curves.items() if curve}
    fresh, trained = (
        {seed: float(r[key]) for seed, r in finished.items() if key in r}
        for key in ("fresh_accuracy", "trained_accuracy")
    )
    return Summary(best, len(records) - len(finished), wanted - len(records), last, fresh, trained)


# -- tables ------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """Cells that stand in one table, one row per augmentation.

    Attributes:
        dataset: Their data set.
        model: Their model.
        views: Networks per sample.
        rows: Summaries by the name of the row.
        records: The results that there are.
    """

    dataset: DatasetName
    model: ModelName
    views: int
    rows: dict[str, Summary]
    records: tuple[dict[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """What the table is of."""
        text = f"{self.dataset}, {model_label(self.model)}, {self.views} view{'s' * (self.views > 1)}"
        settings = self.records[0]["settings"] if self.records else {}
        if settings.get("redraw"):
            text += ", samples and fits of every seed's own"
        if self.images is not None:
            text += f", {self.images} training samples"
        return text

    @property
    def images(self) -> int | None:
        """Training samples, where they are fewer than there are."""
        settings = self.records[0]["settings"] if self.records else {}
        found = settings.get("train", {}).get("images")
        return None if found is None else int(found)

    @property
    def plain(self) -> Column:
        """The same without rows whose partners of mixing are from other views than are trained on."""
        rows = {row: summary for row, summary in self.rows.items() if " " not in row}
        return self._replace(rows=rows, records=tuple(r for r in self.records if not r["settings"]["pool_views"]))

    @property
    def has_fresh(self) -> bool:
        """Whether there are accuracies on new networks of training samples."""
        return any(summary.fresh for summary in self.rows.values())

    @property
    def published(self) -> dict[str, published.Column]:
        """The paper's columns beside its two models, by their heads: all of the data set with as many coordinates."""
        name: Literal["ModelNet40", "FMNIST"] = "ModelNet40" if self.dataset in SHAPES else "FMNIST"
        short: dict[ModelName, str] = {"dws": "DWS", "relation-transformer": "GNN"}
        if self.model not in short:
            return {}
        return {
            f"paper: {short[model]}, {views} v.": published.Column(name, model, views)
            for model in short
            for views in (1, 10)
        }

    def of_the_paper(self, row: str, views: int | None = None) -> Accuracy | None:
        """The paper's figure for a row with such data and model, of as many views or of another number."""
        like = (self.model, self.views if views is None else views)
        where = next((their for their in self.published.values() if their[1:] == like), None)
        return None if where is None else TABLE1.get((row, where))

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """Every row against the baseline, by the name of the row."""
        baseline = self.rows.get(BASELINE)
        if baseline is None:
            return {}
        others = {row: summary for row, summary in self.rows.items() if row != BASELINE}
        return compare({row: summary.differences(baseline) for row, summary in others.items()})


def columns(cells: Sequence[Cell]) -> list[Column]:
    """The tables of some cells."""
    result = []
    for dataset, model, views in dict.fromkeys((c.dataset, c.model, c.views) for c in cells):
        own = [c for c in cells if (c.dataset, c.model, c.views) == (dataset, model, views)]
        by_row: dict[str, list[Cell]] = {}
        for cell in own:
            by_row.setdefault(cell.row, []).append(cell)
        found = {row: [r for cell in of_row if (r := read(cell)) is not None] for row, of_row in by_row.items()}
        rows = {row: summarise(records, len(by_row[row])) for row, records in found.items()}
        result.append(Column(dataset, model, views, rows, tuple(r for records in found.values() for r in records)))
    return result


def recorded(folder: Path) -> list[Column]:
    """The tables of whatever results lie in a folder, by what they say of themselves.

    Results of other models, fits or trainings stand in tables of their own. Where rows differ in the partners of their
    mixing, each stands for itself.

    Raises:
        FileNotFoundError: If there is no result.
        ValueError: If a result is damaged.
    """
    paths = sorted((folder / "cells").glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no result files in cells; make them with: python benchmarks/table1.py")
    tables: dict[str, dict[str, list[dict[str, Any]]]] = {}
    known: dict[tuple[str, str, int], Path] = {}
    for path in paths:
        record = read_json(path, "settings", "status")
        check_record(record, path)
        settings = record["settings"]
        try:
            row = settings["row"] + (f" ({settings['pool_views']} views)" if settings["pool_views"] else "")
            kept = {k: v for k, v in settings.items() if k not in OF_ROWS}
            if settings.get("redraw"):  # of each seed its own
                kept["fit"] = {k: v for k, v in settings["fit"].items() if k not in ("seed", "nth")}
                kept["train"] = {k: v for k, v in settings["train"].items() if k != "split_seed"}
            of_table, seed = json.dumps(kept, sort_keys=True), int(settings["seed"])
            _ = settings["dataset"], settings["model"], settings["views"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error!r}); delete it, and it is made again") from error
        other = known.setdefault((of_table, row, seed), path)
        if other is not path:
            raise ValueError(
                f"{path.name} and {other.name} are both of the row {row!r} and seed {seed}, with other settings of the "
                f"augmentation; move one of them out of {path.parent}"
            )
        tables.setdefault(of_table, {}).setdefault(row, []).append(record)
    result = []
    order = list(ROWS)
    for key, rows in tables.items():
        kept = json.loads(key)
        seeds = {r["settings"]["seed"] for records in rows.values() for r in records}
        places = sorted(rows, key=lambda row: (order.index(name) if (name := row.split(" ")[0]) in order else 99, row))
        records = tuple(r for row in places for r in rows[row])
        summaries = {row: summarise(rows[row], len(seeds)) for row in places}
        result.append(Column(kept["dataset"], kept["model"], kept["views"], summaries, records))
    models = list(MODEL_LABELS)
    return sorted(result, key=lambda c: (c.dataset, models.index(c.model) if c.model in models else 99, c.views))


# What tells the rows and the seeds of one table apart.
OF_ROWS = ("row", "seed", "augmentation", "special", "pool_views")


def label_of(row: str) -> str:
    """The row as the paper writes it, with its partners where they are said."""
    name, _, partners = row.partition(" ")
    return (ROWS[name].label if name in ROWS else name) + (
        f" {partners.replace('(', '(partners of ')}" if partners else ""
    )


def text_of_p(p: float) -> str:
    """A p-value with three digits."""
    return "< .001" if p < 0.001 else f"{p:.3f}"


HEADS = (
    "Augmentation",
    "Accuracy",
    "95 % interval",
    "Difference to none",
    "bootstrap",
    "p (Holm)",
    "verdict",
    "last epoch",
)
FRESH = ("own networks", "new views of training samples")  # columns where results hold them
SEEDS = "seeds"  # a column where it is asked for


def heads_of(column: Column) -> list[str]:
    """The heads of a table: what stands in all, and what its results hold."""
    return [*HEADS, *(FRESH if column.has_fresh else []), *column.published]


def entries(column: Column) -> dict[str, dict[str, str]]:
    """The cells of a table as text, by row and by head."""
    comparisons = column.comparisons
    found = {}
    for row, summary in column.rows.items():
        interval, compared = summary.interval, comparisons.get(row)
        bounds = "–"
        if interval is not None and math.isfinite(interval.half):
            bounds = f"{interval.mean - interval.half:.1f} to {interval.mean + interval.half:.1f}"
        texts = ["–"] * 4
        if compared is not None:
            texts[0] = f"{compared.difference.mean:+.2f}"
            if math.isfinite(compared.difference.half):
                texts[0] += f" ± {compared.difference.half:.2f}"
                texts[1] = f"{compared.low:+.2f} to {compared.high:+.2f}"
            if not math.isnan(compared.adjusted):
                texts[2] = text_of_p(compared.adjusted)
                texts[3] = compared.verdict
        shown = [label_of(row), str(summary), bounds, *texts, _mean_of(summary.last)]
        found[row] = {
            **dict(zip(HEADS, shown, strict=True)),
            **dict(zip(FRESH, (_mean_of(summary.trained), _mean_of(summary.fresh)), strict=True)),
            SEEDS: str(len(summary.accuracies)),
            **{head: str(TABLE1.get((row, their), "–")) for head, their in column.published.items()},
        }
    return found


def _mean_of(values: Mapping[int, float]) -> str:
    return f"{statistics.fmean(values.values()):.2f}" if values else "–"


def table(column: Column, heads: Sequence[str] | None = None) -> str:
    """A table in Markdown, with all heads or some."""
    shown = heads or heads_of(column)
    return in_markdown(shown, [[row[head] for head in shown] for row in entries(column).values()]).rstrip("\n")


def latex(column: Column) -> str:
    """A table in LaTeX, for the package booktabs."""

    def line(texts: Sequence[str]) -> str:
        escaped = [text.replace("%", r"\%").replace("±", r"$\pm$").replace("–", "--") for text in texts]
        return " & ".join(escaped) + r" \\"

    heads = heads_of(column)
    body = [line([row[head] for head in heads]) for row in entries(column).values()]
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
    heads += ["bootstrap_low", "bootstrap_high", "p", "p_holm", "verdict", "last_epoch", "new_views"]
    heads += [f"paper_{m}_{v}_{what}" for m in ("dws", "gnn") for v in (1, 10) for what in ("mean", "std")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for column in columns:
        comparisons = column.comparisons
        for row, summary in column.rows.items():
            interval = summary.interval or (None, None, 0)
            compared = comparisons.get(row)
            difference: tuple[Any, ...] = (None, None, 0, None, None, None, None, None)
            if compared is not None:
                difference = (*compared.difference, *compared[1:])
            mean_of_last = statistics.fmean(summary.last.values()) if summary.last else None
            mean_of_fresh = statistics.fmean(summary.fresh.values()) if summary.fresh else None
            of_paper: list[float | None] = []
            for their in column.published.values():
                of_paper += TABLE1.get((row, their), (None, None))
            numbers: list[Any] = [
                *interval[:1],
                summary.deviation,
                interval[1],
                *difference,
                mean_of_last,
                mean_of_fresh,
                *of_paper,
            ]
            writer.writerow(
                [column.dataset, column.model, column.views, row, label_of(row), len(summary.accuracies)]
                + [summary.diverged, summary.missing]
                + ["" if n is None or (isinstance(n, float) and math.isnan(n)) else n for n in numbers]
            )
    return text.getvalue()


def markdown(tables: Sequence[Column]) -> str:
    """All tables and notes."""
    parts = [f"### {column.title}\n\n{table(column)}" for column in tables]
    return "\n\n".join([*parts, notes(tables)]) + "\n"


def write(tables: Sequence[Column], path: Path, preface: str = "") -> str:
    """Writes the tables beside each other as .md, .tex and .csv.

    Args:
        tables: What to show.
        path: The files' path without the ending.
        preface: Markdown that stands first in the .md.

    Returns:
        The Markdown.
    """
    text = preface + markdown(tables)
    write_text(path.with_suffix(".md"), text)
    write_text(path.with_suffix(".tex"), "\n\n".join(map(latex, tables)) + "\n")
    write_text(path.with_suffix(".csv"), as_csv(tables))
    return text
