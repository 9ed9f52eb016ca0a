"""Forest plots: every row's difference to no augmentation with its interval, and the paper's difference as a mark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.table.report import Column, label_of
from benchmarks.table.rows import BASELINE, ROWS


def paper_difference(column: Column, row: str) -> float | None:
    """The paper's difference for the model, the views and the kind of data of a table; None where it has none."""
    theirs, plain = column.of_the_paper(row), column.of_the_paper(BASELINE)
    return None if theirs is None or plain is None else theirs.mean - plain.mean


def draw(axes: Any, columns: Sequence[Column], colours: Sequence[str]) -> None:
    """Draws the tables of one data set into one panel.

    Args:
        axes: Where.
        columns: The tables, each in a colour of its own.
        colours: At least as many.
    """
    found = dict.fromkeys(row for column in columns for row in column.comparisons)
    rows = sorted(found, key=lambda row: list(ROWS).index(row) if row in ROWS else len(ROWS))
    for place, (column, colour) in enumerate(zip(columns, colours, strict=False)):
        shift = 0.5 * (place - (len(columns) - 1) / 2) / max(len(columns), 1)
        for row, compared in column.comparisons.items():
            y = len(rows) - 1 - rows.index(row) - shift
            half = 0.0 if math.isnan(compared.difference.half) else compared.difference.half
            decided = compared.verdict != "undecided"
            axes.errorbar(
                compared.difference.mean,
                y,
                xerr=half,
                color=colour,
                marker="o",
                markersize=4,
                markerfacecolor=colour if decided else "white",
                capsize=2,
                linewidth=1,
            )
            theirs = paper_difference(column, row)
            if theirs is not None:
                axes.plot(theirs, y, marker="x", color="0.35", markersize=5)
        axes.plot([], [], color=colour, marker="o", label=column.title)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [label_of(row) for row in reversed(rows)])
    axes.set_xlabel("difference to no augmentation, points of test accuracy")
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
