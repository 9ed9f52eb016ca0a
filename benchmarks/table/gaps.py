"""What rows and readers differ by from each other, seed by seed, beside the tables that compare each with none."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from scipy.stats import ttest_ind

from benchmarks.models.settings import model_label
from benchmarks.running.pages import NOT_YET, in_markdown
from benchmarks.table.report import Column, Summary, label_of, text_of_p
from benchmarks.table.rows import BASELINE
from benchmarks.table.statistics import LEVEL, Interval, compare, holm, paired_p

# Rows against each other: what random order, alignment, the whole group, and mixing beside negation add.
BETWEEN = (
    ("mixup", "permuted_mixup"),
    ("mixup", "aligned_mixup"),
    ("aligned_mixup", "full_aligned_mixup"),
    ("siren_negation", "full_aligned_mixup"),
    ("siren_negation", "negation_full_aligned_mixup"),
)

# What else than augmenting by negation can be done about signs.
ALTERNATIVES = (
    ("dws", "full_aligned_mixup"),
    ("dws", "canonical"),
    ("mlp-frame", BASELINE),
    ("mlp-frames", BASELINE),
    ("dws-odd", BASELINE),
    ("dws-odd", "mixup"),
    ("dws-odd", "full_aligned_mixup"),
)


def between(tables: Sequence[Column]) -> str:
    """Rows of one table against each other, with Holm's correction over these."""
    if not tables:
        return NOT_YET
    rows = tables[0].rows
    pairs = {(a, b): rows[b].differences(rows[a]) for a, b in BETWEEN if a in rows and b in rows}
    lines = _compared({(label_of(b), label_of(a)): gaps for (a, b), gaps in pairs.items()})
    return in_markdown(["row", "against", *_HEADS], lines, left=2)


def alternatives(tables: Sequence[Column]) -> str:
    """Other ways to deal with signs against DWS with SIREN negation, with Holm's correction over these."""
    by_model = {table.model: table for table in tables}
    augmented = by_model["dws"].rows.get("siren_negation") if "dws" in by_model else None
    if augmented is None:
        return NOT_YET
    gaps = {
        (model_label(model), label_of(row)): by_model[model].rows[row].differences(augmented)
        for model, row in ALTERNATIVES
        if model in by_model and row in by_model[model].rows
    }
    return in_markdown(["reader", "augmentation", *_HEADS], _compared(gaps), left=2)


_HEADS = ("difference, paired", "p (Holm)", "seeds")


def _compared(gaps: Mapping[tuple[str, str], Sequence[float]]) -> list[list[str]]:
    """A line for each difference."""
    found = compare({f"{a} {b}": values for (a, b), values in gaps.items()})
    lines = []
    for a, b in gaps:
        if (compared := found.get(f"{a} {b}")) is not None:
            gap = compared.difference
            lines.append([a, b, f"{gap.mean:+.2f} ± {gap.half:.2f}", text_of_p(compared.adjusted), str(gap.seeds)])
    return lines


def unpaired(table: Column, without: str) -> str:
    """Verdicts that Welch's test on all seeds of the row and of none gives otherwise than the paired test.

    Args:
        table: The results.
        without: The row of the control, which counts in the correction, and about which there is nothing to say.
    """
    plain, paired = table.rows[BASELINE], table.comparisons
    values = {row: list(summary.accuracies.values()) for row, summary in table.rows.items() if row in paired}
    base = list(plain.accuracies.values())
    few = [row for row, found in values.items() if min(len(found), len(base)) < 2 or math.isnan(paired[row].p)]
    p = holm(
        {row: float(ttest_ind(found, base, equal_var=False).pvalue) for row, found in values.items() if row not in few}
    )
    lines = []
    for row, adjusted in p.items():
        gap = statistics.fmean(values[row]) - statistics.fmean(base)
        verdict = ("helps" if gap > 0 else "harms") if adjusted < LEVEL else "undecided"
        if row != without and verdict != paired[row].verdict:
            texts = [f"{gap:+.2f}", text_of_p(adjusted), verdict, text_of_p(paired[row].adjusted), paired[row].verdict]
            lines.append([label_of(row), *texts])
    heads = ["row", "difference of means", "unpaired p (Holm)", "unpaired verdict", "paired p (Holm)", "verdict"]
    return in_markdown(heads, lines)


# -- partners of mixing --------------------------------------------------------------------------------------


def leak(tables: Sequence[Column]) -> str:
    """What partners of mixing from all views of the training images change, where one is trained on."""
    lines, told = [], []
    for table in tables:
        for row, summary in table.rows.items():
            name = row.split(" ")[0]
            if name == row or name not in table.rows:
                continue
            own = table.rows[name]
            gaps = summary.differences(own)
            seeds = sorted(set(own.accuracies) & set(summary.accuracies))
            if len(seeds) > 1:
                means = [f"{statistics.fmean(s.accuracies[seed] for seed in seeds):.2f}" for s in (own, summary)]
                lines.append([label_of(name), *means, _signed(gaps), text_of_p(paired_p(gaps)), str(len(seeds))])
        told += [text for row, what in _ADDED.items() if (text := _added(table.rows, row, what))]
    if not lines:
        return NOT_YET
    heads = ["row", "partners of the view trained on", "of all ten views", "difference, paired", "p", "seeds"]
    return "\n".join([in_markdown(heads, lines), *told]) + "\n"


_ADDED = {"aligned_mixup": "alignment adds to MixUp", "full_aligned_mixup": "full-group alignment adds"}


def _added(rows: Mapping[str, Summary], row: str, what: str) -> str:
    """What a kind of alignment adds to MixUp with either kind of partners, on the seeds that have both."""
    leaked = next((name.removeprefix("mixup") for name in rows if name.startswith("mixup ")), None)
    if leaked is None or not {row, row + leaked, "mixup"} <= set(rows):
        return ""
    aligned, plain = [[rows[name + partners].accuracies for partners in ("", leaked)] for name in (row, "mixup")]
    seeds = sorted(set.intersection(*(set(found) for found in (*aligned, *plain))))
    if len(seeds) < 2:
        return ""
    gaps = [[with_[seed] - without[seed] for seed in seeds] for with_, without in zip(aligned, plain, strict=True)]
    more = [of_all - of_one for of_one, of_all in zip(*gaps, strict=True)]
    return (
        f"- What {what}: {_signed(gaps[0])} with partners of the view trained on, {_signed(gaps[1])} with partners of "
        f"all ten views; the second is more "
        f"by {_signed(more)} (p {text_of_p(paired_p(more))})."
    )


def _signed(gaps: Sequence[float]) -> str:
    gap = Interval.of(gaps)
    assert gap is not None
    return f"{gap.mean:+.2f} ± {gap.half:.2f}"
