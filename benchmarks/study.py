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
from benchmarks.table.notes import made_of, meaning
from benchmarks.table.report import Column, Summary, label_of, text_of_p
from benchmarks.table.rows import BASELINE, ROWS
from benchmarks.table.sizes import by_size, name_of
from benchmarks.table.statistics import Interval, compare, half_width, paired_p

HERE = Path(__file__).resolve().parent

# The rows that the readers are compared by.
ANSWER = ("none", "siren_negation", "mixup", "full_aligned_mixup", "negation_full_aligned_mixup")

# Rows against each other: what random order, alignment, the whole group, and mixing beside negation add.
BETWEEN = (
    ("mixup", "permuted_mixup"),
    ("mixup", "aligned_mixup"),
    ("aligned_mixup", "full_aligned_mixup"),
    ("siren_negation", "full_aligned_mixup"),
    ("siren_negation", "negation_full_aligned_mixup"),
)

CONTROL = "permuted_labels"  # at chance, as it should be: nothing to judge

# The parts that the paper has, too.
OF_THE_PAPER = (
    "DWS, 1 view",
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
    shapes = [table for table in whole_sets if table.dataset in SHAPES]
    transformer = [table for table in whole_sets if table.model == "relation-transformer" and table not in shapes]
    of_dws = [table for table in whole_sets if table.model == "dws" and table not in shapes]
    mixed = [table for table in of_dws if table.views == 1]
    main, views = [table.plain for table in mixed], [table for table in of_dws if table.views > 1]
    rest = [table for table in whole_sets if table not in (*of_dws, *transformer, *shapes)]
    parts = {
        "DWS, 1 view": main,
        "other images and fits": redrawn,
        "DWS, 10 views": views,
        "DWS with signs built in": [table for table in rest if table.model == "dws-odd"],
        "Relation Transformer, 1 view": [table for table in transformer if table.views == 1],
        "Relation Transformer, 10 views": [table for table in transformer if table.views > 1],
        "shapes, DWS": shapes,
    }
    return {
        "reading": "\n\n".join(meaning(fresh=True)) + "\n",
        "tuning": tuning(results / "study-tuning" / "cells"),
        "main": whole(main),
        "verdicts": verdicts(parts),
        "claims": claims({name: parts[name] for name in OF_THE_PAPER}),
        "resolution": resolution(parts),
        "between": between(main),
        "redrawn": whole(redrawn),
        "leak": leak(mixed),
        "views": whole(views),
        "transformer": whole(transformer),
        "shapes": whole(shapes),
        "curve": learning_curve([*(table for table in curve if table.model == "dws"), *main]),
        "answer": answer([*main, *(table for table in (*transformer, *rest) if table.views == 1)]),
        "readers": by_reader(rest),
        "midpoints": midpoints(main, results / "alignment" / "fitted.json"),
        "recipes": recipes(main, report.recorded(results / "small")),
        "fits": fits([results / name / "statistics" for name in ("recipes", "small")]),
    }


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
    heads = [report.HEADS[0], report.SEEDS, *report.HEADS[1:], report.FRESH]
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
            fresh = f"{statistics.fmean(summary.fresh.values()):.1f}" if summary.fresh else "–"
            size, work = finished[0].get("parameters", 0), finished[0].get("flops", math.nan) / 1e6
            mean, half = summary.interval.mean, summary.interval.half
            texts = [model_label(table.model), label_of(row), f"{mean:.1f} ± {half:.1f}", fresh]
            rows.append((mean, [*texts, f"{size:,}", f"{work:.1f}"]))
    if not rows:
        return NOT_YET
    heads = ["reader", "augmentation", "test accuracy, %", "on new views of training samples", "parameters"]
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


def between(tables: list[Column]) -> str:
    """Rows against each other, seed by seed, with Holm's correction over these."""
    lines = []
    for table in tables[:1]:
        pairs = [(a, b) for a, b in BETWEEN if a in table.rows and b in table.rows]
        gaps = {f"{a} {b}": table.rows[b].differences(table.rows[a]) for a, b in pairs}
        found = compare(gaps)
        for a, b in pairs:
            if (compared := found.get(f"{a} {b}")) is None:
                continue
            gap = f"{compared.difference.mean:+.2f} ± {compared.difference.half:.2f}"
            lines.append([label_of(b), label_of(a), gap, text_of_p(compared.adjusted), str(compared.difference.seeds)])
    heads = ["row", "against", "difference, paired", "p (Holm)", "seeds"]
    return in_markdown(heads, lines, left=2) if tables else NOT_YET


def leak(tables: list[Column]) -> str:
    """What partners of mixing from all views of the training images change, where one is trained on."""
    lines = []
    for table in tables:
        for row, summary in table.rows.items():
            name = row.split(" ")[0]
            if name == row or name not in table.rows:
                continue
            own = table.rows[name]
            seeds = sorted(set(own.accuracies) & set(summary.accuracies))
            gap = Interval.of(summary.differences(own))
            if gap is None or not math.isfinite(gap.half):
                continue
            means = [statistics.fmean(s.accuracies[seed] for seed in seeds) for s in (own, summary)]
            p = paired_p(summary.differences(own))
            texts = [
                label_of(name),
                f"{means[0]:.2f}",
                f"{means[1]:.2f}",
                f"{gap.mean:+.2f} ± {gap.half:.2f}",
                f"{p:.3f}",
                str(len(seeds)),
            ]
            lines.append(texts)
    if not lines:
        return NOT_YET
    heads = ["row", "partners of the view trained on", "of all ten views", "difference, paired", "p", "seeds"]
    told = [f"- What {name}: {text}." for name, text in _added(tables)]
    return "\n".join([in_markdown(heads, lines), *told]) + "\n"


def _added(tables: list[Column]) -> list[tuple[str, str]]:
    """What alignment adds to MixUp with either kind of partners, on the seeds that have both."""
    found = []
    for row, name in (
        ("aligned_mixup", "alignment adds to MixUp"),
        ("full_aligned_mixup", "full-group alignment adds"),
    ):
        texts = []
        for table in tables:
            for plain in [key for key in table.rows if key.split(" ")[0] == "mixup"]:
                partners = plain.removeprefix("mixup")
                leaked = [key for key in table.rows if key.startswith("mixup ")]
                seeds = set.intersection(*[set(table.rows[key].accuracies) for key in ("mixup", *leaked)])
                base, other = table.rows[plain].accuracies, table.rows.get(row + partners)
                gaps = [other.accuracies[s] - base[s] for s in seeds if other is not None and s in other.accuracies]
                gap = Interval.of(gaps)
                if gap is not None and math.isfinite(gap.half):
                    of = "all ten views" if partners else "the view trained on"
                    texts.append(f"{gap.mean:+.2f} ± {gap.half:.2f} with partners of {of}")
        if texts:
            found.append((name, ", ".join(texts)))
    return found


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
        text += f"\nSpearman's rank correlation of midpoints and accuracies: {order.statistic:.2f}.\n"
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
    return f"{table}\nSpearman's rank correlation of the {len(shared)} differences: {order.statistic:.2f}.\n"


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
