"""What the paper says of its augmentations, judged by a rule on our results, part by part.

Which claims these are was read off the paper's section 5 and its Table 1 after most results were known; the rule is the
one of the tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.models.settings import ModelName
from benchmarks.running.pages import in_markdown
from benchmarks.table.report import Column
from benchmarks.table.rows import BASELINE
from benchmarks.table.statistics import LEVEL, Comparison, Interval, compare

GEOMETRY = ("translate", "rotate", "scale")


class Claim(NamedTuple):
    """That some rows do better than others.

    Attributes:
        text: What the paper says.
        rows: The rows whose mean is said to be higher, seed by seed.
        than: Those whose mean is said to be lower.
        many_views: The lower ones are of the same model trained on ten views, the others on one.
        margin: By how many points the higher ones may stay behind.
        model: The model that it is about; None for all.
    """

    text: str
    rows: tuple[str, ...]
    than: tuple[str, ...] = (BASELINE,)
    many_views: bool = False
    margin: float = 0.0
    model: ModelName | None = None

    @property
    def row(self) -> str | None:
        """The row that is compared with no augmentation on the same networks, which its table has judged already."""
        sides = [*self.rows, *self.than]
        return next(row for row in sides if row != BASELINE) if BASELINE in sides and not self.many_views else None


CLAIMS = (
    Claim("SIREN negation helps", ("siren_negation",)),
    Claim("MixUp helps", ("mixup",)),
    Claim("Alignment + MixUp helps", ("aligned_mixup",)),
    Claim("Alignment adds to MixUp", ("aligned_mixup",), ("mixup",)),
    Claim("Alignment adds to a random order", ("aligned_mixup",), ("permuted_mixup",)),
    Claim("MixUp helps more than geometry (translation, rotation, scale)", ("mixup",), GEOMETRY),
    Claim("Gaussian noise helps the Relation Transformer", ("noise",), model="relation-transformer"),
    Claim("SIREN bias harms DWS", (BASELINE,), ("siren_bias",), model="dws"),
    Claim("MixUp of one view comes within 2 points of ten views", ("mixup",), many_views=True, margin=2),
)


def differences(claim: Claim, table: Column, many: Column | None) -> list[float]:
    """By how much the higher rows of a claim exceed the lower ones, for each seed that has all.

    Args:
        claim: The claim.
        table: The results that it is judged on.
        many: Those of the same model with ten views, None where there are none.
    """
    other = many if claim.many_views else table
    if other is None or claim.model not in (None, table.model):
        return []
    higher = [table.rows[row].accuracies for row in claim.rows if row in table.rows]
    lower = [other.rows[row].accuracies for row in claim.than if row in other.rows]
    if (len(higher), len(lower)) != (len(claim.rows), len(claim.than)):
        return []
    seeds = sorted(set.intersection(*(set(found) for found in (*higher, *lower))))
    return [statistics.fmean(r[s] for r in higher) - statistics.fmean(r[s] for r in lower) for s in seeds]


def of_the_paper(claim: Claim, table: Column) -> float | None:
    """The same difference of the paper's means; None where it has none for such data, model and views."""

    def mean(rows: tuple[str, ...], views: int | None = None) -> float | None:
        figures = [table.of_the_paper(row, views) for row in rows]
        means = [figure.mean for figure in figures if figure is not None]
        return statistics.fmean(means) if means else None

    higher, lower = mean(claim.rows), mean(claim.than, 10 if claim.many_views else None)
    return None if higher is None or lower is None else higher - lower


def claims(parts: Mapping[str, Column], many: Mapping[str, Column]) -> str:
    """A table of the claims: for every part by how much, and whether the claim stands, falls or is undecided.

    A claim stands where the corrected p of the paired t-test is below ``LEVEL`` and the sign is the claimed one, falls
    where it is the other one, and is undecided otherwise. Of a row against no augmentation that p is the one of its
    table; over the other claims of a part it is Holm's. Where the paper's own figures do not support a claim, it is not
    judged.

    Args:
        parts: The results by the name of the part.
        many: For parts of one view, those of the same model with ten views and as many steps or a few more.
    """
    judged = {}
    for name, table in parts.items():
        of_part = {claim: differences(claim, table, many.get(name)) for claim in CLAIMS}
        tested = {
            claim.text: [gap + claim.margin for gap in gaps] for claim, gaps in of_part.items() if claim.row is None
        }
        found = compare(tested)
        in_table = table.comparisons
        for claim, gaps in of_part.items():
            compared = in_table.get(claim.row) if claim.row is not None else found.get(claim.text)
            gap = Interval.of(gaps)
            if gap is not None and compared is not None and not math.isnan(compared.p):
                above = gap.mean + claim.margin > 0
                judged[name, claim] = _shown(
                    claim, compared._replace(difference=gap), above, of_the_paper(claim, table)
                )
    lines = [[claim.text, *(judged.get((name, claim), "") for name in parts)] for claim in CLAIMS]
    return in_markdown(["the paper's claim", *parts], [line for line in lines if any(line[1:])])


def _shown(claim: Claim, compared: Comparison, above: bool, paper: float | None) -> str:
    gap, word = compared.difference, "undecided"
    if compared.adjusted < LEVEL:
        word = "**stands**" if above else "**falls**"
    if paper is not None and paper + claim.margin <= 0:
        word = "not judged"
    return f"{word}<br>{gap.mean:+.1f}±{gap.half:.1f}" + (
        f"<br>paper\N{NO-BREAK SPACE}{paper:+.1f}" if paper is not None else ""
    )
