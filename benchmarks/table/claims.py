"""What the paper says of its augmentations, judged by a rule on our results, part by part.

Which claims these are was read off the paper's section 5 and its Table 1 after most results were known; the rule is the
one of the tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
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
        many_views: The lower ones are of the same model trained on several views, the others on one.
        model: The model that it is about; None for all.
    """

    text: str
    rows: tuple[str, ...]
    than: tuple[str, ...] = (BASELINE,)
    many_views: bool = False
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
    Claim("SIREN bias harms", (BASELINE,), ("siren_bias",)),
    Claim("Gaussian noise helps the Relation Transformer", ("noise",), model="relation-transformer"),
    Claim("MixUp of one view is worth ten views", ("mixup",), many_views=True),
)


def differences(claim: Claim, table: Column, many: Column | None) -> list[float]:
    """By how much the higher rows of a claim exceed the lower ones, for each seed that has all.

    Args:
        claim: The claim.
        table: The results that it is judged on.
        many: Those of the same model with several views, None where there are none.
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


def claims(parts: Mapping[str, Sequence[Column]]) -> str:
    """A table of the claims: for every part by how much, and whether the claim stands, falls or is open.

    A claim stands where the corrected p of the paired t-test is below ``LEVEL`` and the sign is the claimed one, falls
    where it is the other one, and is open otherwise. Of a row against no augmentation that p is the one of its table;
    over the other claims of a part it is Holm's.
    """
    tables = {name: found[0] for name, found in parts.items() if found}
    judged = {}
    for name, table in tables.items():
        like = (t for t in tables.values() if (t.dataset, t.model) == (table.dataset, table.model))
        many = next((t for t in like if t.views > 1), None) if table.views == 1 else None
        found = compare({claim.text: differences(claim, table, many) for claim in CLAIMS if claim.row is None})
        in_table = table.comparisons
        for claim in CLAIMS:
            gap = Interval.of(differences(claim, table, many))
            if claim.row in in_table and gap is not None:
                found[claim.text] = in_table[claim.row]._replace(difference=gap)
        judged[name] = found
    lines = [[claim.text, *(_verdict(found.get(claim.text)) for found in judged.values())] for claim in CLAIMS]
    return in_markdown(["the paper's claim", *tables], [line for line in lines if any(line[1:])])


def _verdict(compared: Comparison | None) -> str:
    if compared is None or math.isnan(compared.p):
        return ""
    gap, word = compared.difference, "open"
    if compared.adjusted < LEVEL:
        word = "**stands**" if gap.mean > 0 else "**falls**"
    return f"{word}\N{NO-BREAK SPACE}{gap.mean:+.1f}±{gap.half:.1f}"
