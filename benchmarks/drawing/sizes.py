"""Lines of accuracy over the number of training images, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.table.report import Summary
from benchmarks.table.sizes import name_of

__all__ = ["draw"]


def draw(axes: Any, lines: Mapping[tuple[str, int], Mapping[int, Summary]], colours: Sequence[str]) -> None:
    """Draws one line for each row and number of views.

    Args:
        axes: Where.
        lines: (row, views) -> summaries by the number of images.
        colours: They are taken in turn.
    """
    sizes = sorted({size for at in lines.values() for size in at})
    for place, ((row, views), at) in enumerate(lines.items()):
        intervals = {size: summary.interval for size, summary in at.items() if summary.interval is not None}
        axes.errorbar(
            [size * 1.015 ** (place - (len(lines) - 1) / 2) for size in intervals],  # side by side
            [interval.mean for interval in intervals.values()],
            yerr=[interval.half if math.isfinite(interval.half) else 0.0 for interval in intervals.values()],
            color=colours[place % len(colours)],
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1,
            label=name_of(row, views),
        )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training images")
    axes.set_ylabel("test accuracy, %")
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=6, frameon=False)
