"""The pages of the study, from its results: ``python benchmarks/study.py``.

The cells are made by ``benchmarks/table1.py`` with the presets ``study`` and ``study-...`` (see
``benchmarks/table/study.py``); this writes their tables into ``docs/study.md``. Nothing in them is written by hand:
what helps, harms or stays undecided follows by the rule that stands there.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

from benchmarks.data.quality import INR_DEVIATIONS
from benchmarks.data.settings import SHAPES
from benchmarks.models.settings import model_label
from benchmarks.running import pages
from benchmarks.running.files import read_json, write_text
from benchmarks.running.pages import NOT_YET, in_markdown, tables_in
from benchmarks.table import report
from benchmarks.table.claims import claims
from benchmarks.table.gaps import alternatives, between, leak, unpaired
from benchmarks.table.notes import made_of, meaning
from benchmarks.table.report import Column, Summary, label_of, text_of_p
from benchmarks.table.rows import BASELINE, ROWS
from benchmarks.table.sizes import by_size, images_of, name_of
from benchmarks.table.statistics import half_width

HERE = Path(__file__).resolve().parent

# The rows that the readers are compared by.
ANSWER = ("none", "siren_negation", "mixup", "full_aligned_mixup", "negation_full_aligned_mixup")

# Rows that were also trained with other epochs and rates.
CHECKED = (BASELINE, "mixup")

CONTROL = "permuted_labels"  # at chance, as it should be: nothing to judge

# Networks of the paper's convention, of the preset ``small``.
SMALL = "DWS, 1 view, the paper's convention"

# The parts that the paper has, too.
OF_THE_PAPER = (
    "DWS, 1 view",
    SMALL,
    "DWS, 10 views",
    "Relation Transformer, 1 view",
    "Relation Transformer, 10 views",
    "shapes, DWS",
)

# What alignment.py calls the alignments of the rows that mix.
ALIGNMENTS = {
    "mixup": "none",
    "permuted_mixup": "random permutation",
    "aligned_mixup": "permutation (Git Re-Basin)",
    "full_aligned_mixup": "full group",
    "thorough_aligned_mixup": "full group, annealed",
}


def tables_of(results: Path) -> dict[str, str]:
    """All tables of the study, by the names that the page gives them."""
    tables = report.recorded(results / "study") if any((results / "study").glob("cells/*.json")) else []
    # Which rows have how many seeds was chosen; a column says it.
    tables = [
        table._replace(rows={row: replace(summary, missing=0) for row, summary in table.rows.items()})
        for table in tables
    ]
    curve = [table for table in tables if table.images is not None]
    redrawn = [table for table in tables if of(table, "redraw")]
    whole_sets = [table for table in tables if table not in curve and table not in redrawn]

    def of_images(model: str, views: int) -> list[Column]:
        return [t for t in whole_sets if (t.model, t.views) == (model, views) and t.dataset not in SHAPES]

    mixed, views = of_images("dws", 1), of_images("dws", 10)  # of one view, with partners of one and of all views
    main = [table.plain for table in mixed]
    transformer, transformer_views = of_images("relation-transformer", 1), of_images("relation-transformer", 10)
    shapes = [table for table in whole_sets if table.dataset in SHAPES]
    rest = [table for table in whole_sets if table not in (*mixed, *views, *transformer, *transformer_views, *shapes)]
    parts = {
        "DWS, 1 view": main,
        "other images and fits": redrawn,
        "DWS, 10 views": views,
        "DWS with signs built in": [table for table in rest if table.model == "dws-odd"],
        "Relation Transformer, 1 view": transformer,
        "Relation Transformer, 10 views": transformer_views,
        "shapes, DWS": shapes,
    }
    small = report.recorded(results / "small")
    claimed = {name: ({**parts, SMALL: small})[name] for name in OF_THE_PAPER}
    all_images = {images_of(table) for table in main}
    as_many_steps = {
        "DWS, 1 view": [table for table in curve if table.views > 1 and images_of(table) in all_images],
        "Relation Transformer, 1 view": transformer_views,
    }
    checked = results / "study-checks"
    others = report.recorded(checked) if any(checked.glob("cells/*.json")) else []
    return {
        "reading": "\n\n".join(meaning(fresh=True)) + "\n",
        "checks": checks([*main, *views, *others]),
        "tuning": tuning(results / "study-tuning" / "cells"),
        "main": whole(main),
        "verdicts": verdicts(parts),
        "claims": claims(_first(claimed), _first(as_many_steps)),
        "resolution": resolution(parts),
        "between": between(main),
        "redrawn": whole(redrawn),
        "leak": leak(mixed),
        "views": whole(views),
        "transformer": whole(transformer),
        "transformer-views": whole(transformer_views),
        "shapes": whole(shapes),
        "curve": learning_curve([*(table for table in curve if table.model == "dws"), *main]),
        "answer": answer([*main, *rest, *transformer]),
        "alternatives": alternatives([*main, *rest]),
        "unpaired": unpaired(main[0], CONTROL) if main else NOT_YET,
        "readers": by_reader(rest),
        "midpoints": midpoints(main, results / "alignment" / "fitted.json"),
        "recipes": recipes(main, small),
        "fits": fits([results / name / "statistics" for name in ("recipes", "small")]),
    }


def _first(tables: dict[str, list[Column]]) -> dict[str, Column]:
    """The first table of each part that has one."""
    return {name: found[0] for name, found in tables.items() if found}


def of(table: Column, key: str) -> Any:
    """A setting of a table's results."""
    return table.records[0]["settings"].get(key)


def whole(tables: list[Column]) -> str:
    """Tables with what they are made of."""
    if not tables:
        return NOT_YET
    parts = [f"**{table.title}**\n\n{report.table(table, _heads(table))}" for table in tables]
    return "\n\n".join([*parts, *made_of(tables)]) + "\n"


def _heads(table: Column) -> list[str]:
    """The seeds, all figures, and of the paper's those of the same model and as many views."""
    head, *others = [name for name in report.heads_of(table) if name not in table.published]
    like = [name for name, their in table.published.items() if their[1:] == (table.model, table.views)]
    return [head, report.SEEDS, *others, *like]


def by_reader(tables: list[Column]) -> str:
    """Tables of readers as one, with what they are made of."""
    if not tables:
        return NOT_YET
    heads = [report.HEADS[0], report.SEEDS, *report.HEADS[1:], *report.FRESH]
    rows = [
        [model_label(table.model), *(entries[head] for head in heads)]
        for table in tables
        for entries in report.entries(table).values()
    ]
    return "\n".join([in_markdown(["reader", *heads], rows), "\n\n".join(made_of(tables))]) + "\n"


def answer(tables: list[Column]) -> str:
    """The readers side by side, by how much they reach without any augmentation, and with those that matter."""
    rows = []
    for table in tables:
        finished = [record for record in table.records if record["status"] == "finished"]
        for row, summary in table.rows.items():
            if row not in ANSWER or summary.interval is None or not math.isfinite(summary.interval.half):
                continue
            after = [
                f"{statistics.fmean(found.values()):.1f}" if found else "–"
                for found in (summary.trained, summary.fresh, summary.last)
            ]
            size, work = finished[0].get("parameters", 0), finished[0].get("flops", math.nan) / 1e6
            mean, half = summary.interval.mean, summary.interval.half
            texts = [model_label(table.model), label_of(row), f"{mean:.1f} ± {half:.1f}", *after]
            rows.append((mean, [*texts, f"{size:,}", f"{work:.1f}"]))
    if not rows:
        return NOT_YET
    heads = [
        "reader",
        "augmentation",
        "test accuracy, %",
        "last epoch: own networks",
        "new views of these",
        "test networks",
    ]
    heads.append("parameters")
    return in_markdown([*heads, "million operations a network"], [texts for _, texts in sorted(rows)], left=2)


def verdicts(tables: dict[str, list[Column]]) -> str:
    """What the rule says of every row, by what was trained and on what."""
    compared = {name: found[0].comparisons for name, found in tables.items() if found}
    rows = [row for row in ROWS if row not in (BASELINE, CONTROL) and any(row in found for found in compared.values())]
    plain = [found[0].rows[BASELINE].interval for found in tables.values() if found]
    lines = [["*none: accuracy, %*", *("" if i is None else f"*{i.mean:.1f}±{i.half:.1f}*" for i in plain)]]
    for row in rows:
        texts = []
        for found in compared.values():
            if row not in found or math.isnan(found[row].p):
                texts.append("")
                continue
            gap, verdict = found[row].difference, found[row].verdict
            # With a space that does not break, so that the page has one line for each.
            mark = {"helps": "**{}**\N{NO-BREAK SPACE}↑", "harms": "**{}**\N{NO-BREAK SPACE}↓"}.get(verdict, "{}")
            texts.append(mark.format(f"{gap.mean:+.1f}±{gap.half:.1f}"))
        lines.append([label_of(row), *texts])
    return in_markdown(["augmentation", *compared], lines)


def resolution(tables: dict[str, list[Column]]) -> str:
    """Which differences can be seen: half widths of intervals by number of seeds, from the deviations of a part."""
    counts = (3, 5, 10)
    heads = ["", "deviation of paired differences", *(f"± with {count} seeds" for count in counts)]
    lines = []
    for name, found in tables.items():
        for table in found[:1]:
            plain = table.rows[BASELINE]
            gaps = [summary.differences(plain) for row, summary in table.rows.items() if row not in (BASELINE, CONTROL)]
            gaps = [values for values in gaps if len(values) > 1]
            squares = sum(statistics.variance(values) * (len(values) - 1) for values in gaps)
            if gaps:
                deviation = math.sqrt(squares / sum(len(values) - 1 for values in gaps))
                lines.append([name, f"{deviation:.1f}", *(f"{half_width(deviation, n):.1f}" for n in counts)])
    return in_markdown(heads, lines)


def learning_curve(tables: list[Column]) -> str:
    """Accuracy by the number of training images, at about as many steps each."""
    found = by_size(tables)
    if not found:
        return NOT_YET
    sizes = sorted({size for at in found.values() for size in at})
    lines = [[name_of(row, views), *(_entry(at.get(size)) for size in sizes)] for (row, views), at in found.items()]
    return in_markdown(["training images", *(f"{size:,}" for size in sizes)], lines)


def _entry(summary: Summary | None) -> str:
    if summary is None or summary.interval is None:
        return "–"
    half = summary.interval.half
    return f"{summary.interval.mean:.1f}" + (f" ± {half:.1f}" if math.isfinite(half) else "")


def tuning(folder: Path) -> str:
    """The rates and epochs that were tried, on validation networks alone."""
    heads = ["reader", "row", "epochs", "rate", "best validation accuracy, %", "at epoch"]
    found = []
    for path in folder.glob("*.json"):
        cell = read_json(path, "settings", "validation_accuracy", "best_epoch")
        settings, train = cell["settings"], cell["settings"]["train"]
        key = (model_label(settings["model"]), settings["row"], train["epochs"], train["learning_rate"])
        found.append((*key, cell["validation_accuracy"], cell["best_epoch"] + 1))
    rows = [
        [model, label_of(row), str(epochs), f"{rate:g}", f"{accuracy:.1f}", str(epoch)]
        for model, row, epochs, rate, accuracy, epoch in sorted(found)
    ]
    return in_markdown(heads, rows, left=2)


def checks(tables: list[Column]) -> str:
    """The baseline and MixUp with other epochs and rates than the tables have."""
    lines = []
    for table in tables:
        train = of(table, "train")
        of_table = (table.views, train["epochs"], train["learning_rate"])
        for row in CHECKED:
            if (summary := table.rows.get(row)) is None or summary.interval is None:
                continue
            gap = table.comparisons[row].difference if row in table.comparisons else None
            difference = "–" if gap is None else f"{gap.mean:+.2f} ± {gap.half:.2f}"
            texts = [str(summary), difference, str(len(summary.accuracies))]
            lines.append((of_table, [*(f"{value:g}" for value in of_table), label_of(row), *texts]))
    heads = ["views", "epochs", "rate", "row", "test accuracy, %", "difference to none", "seeds"]
    return in_markdown(heads, [texts for _, texts in sorted(lines, key=lambda line: line[0])]) if lines else NOT_YET


def midpoints(tables: list[Column], fitted: Path) -> str:
    """Accuracy of the rows that mix, beside what the midpoints of aligned pairs show."""
    if not fitted.exists() or not tables:
        return NOT_YET
    rows = json.loads(fitted.read_text(encoding="utf-8"))["result"]["siren"]["rows"]
    shown = {row["alignment"]: row["midpoint dB, other"] for row in rows}
    lines, pairs = [], []
    for row, name in ALIGNMENTS.items():
        summary, compared = tables[0].rows.get(row), tables[0].comparisons.get(row)
        if name not in shown or summary is None or summary.interval is None or compared is None:
            continue
        gap = compared.difference
        lines.append([name, f"{shown[name]:.2f}", str(summary), f"{gap.mean:+.2f} ± {gap.half:.2f}"])
        pairs.append((shown[name], summary.interval.mean))
    text = in_markdown(["alignment before mixing", "midpoint, dB", "accuracy, %", "difference to none"], lines)
    if len(pairs) > 2:
        order = spearmanr([midpoint for midpoint, _ in pairs], [accuracy for _, accuracy in pairs])
        found = f"{order.statistic:.2f}, p {text_of_p(order.pvalue)}"
        text += f"\nSpearman's rank correlation of midpoints and accuracies: {found}.\n"
    return text


def recipes(tables: list[Column], others: list[Column]) -> str:
    """Whether networks that were fitted by a slower recipe put the rows into the same order."""
    if not tables or not others:
        return NOT_YET
    ours, theirs = tables[0].comparisons, others[0].comparisons
    both = (row for row in ours if row in theirs and row != CONTROL)
    shared = [row for row in both if not math.isnan(ours[row].p)]  # of enough seeds
    pairs = [(ours[row].difference, theirs[row].difference) for row in shared]
    lines = [
        [label_of(row), *(f"{gap.mean:+.1f} ± {gap.half:.1f}" for gap in pair)]
        for row, pair in zip(shared, pairs, strict=True)
    ]
    order = spearmanr([a.mean for a, _ in pairs], [b.mean for _, b in pairs])
    table = in_markdown(["row", "study, difference to none", "`small`, difference to none"], lines)
    count, found = len(shared), f"{order.statistic:.2f}, p {text_of_p(order.pvalue)}"
    return f"{table}\nSpearman's rank correlation of the {count} differences: {found}.\n"


def fits(folders: list[Path]) -> str:
    """How near networks of several recipes come to the deviations of the public ones."""
    published = INR_DEVIATIONS["fashion-mnist"]
    heads = ["rate × steps", "networks", "PSNR, dB", *published, "root mean square"]
    found = []
    for path in (path for folder in folders for path in folder.glob("*.json")):
        record = read_json(path, "fit", "statistics")
        fit, statistics = record["fit"], record["statistics"]
        gaps = [statistics["deviations"][name] / value - 1 for name, value in published.items()]
        size = math.sqrt(sum(gap**2 for gap in gaps) / len(gaps))
        texts = [f"{100 * gap:+.0f} %" for gap in gaps]
        head = f"{fit['learning_rate']:g} × {fit['steps']:,}"
        psnr = f"{statistics['psnr']['median']:.1f}"
        found.append((size, [head, str(statistics["networks"]), psnr, *texts, f"{100 * size:.0f} %"]))
    return in_markdown(heads, [texts for _, texts in sorted(found, reverse=True)])


def filled(text: str, tables: dict[str, str]) -> str:
    """A page with its tables.

    Raises:
        ValueError: If the page names a table that there is not.
    """
    for name in tables_in(text):
        if name not in tables:
            raise ValueError(f"the page asks for the table {name!r}; there are: {', '.join(tables)}")
    return pages.filled(text, tables)


def main(arguments: list[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="with study, study-tuning and small")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "study.md")
    args = parser.parse_args(arguments)
    write_text(args.page, filled(args.page.read_text(encoding="utf-8"), tables_of(args.results)))
    print(f"written: {args.page}")


if __name__ == "__main__":
    main()
