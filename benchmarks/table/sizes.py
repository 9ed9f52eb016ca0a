"""Accuracy by the number of images that classifiers were trained on."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.table.report import Column, Summary, label_of

__all__ = ["by_size", "images_of", "name_of"]


def name_of(row: str, views: int) -> str:
    """What a row of a number of views is called."""
    return label_of(row) + (f", {views} views" if views > 1 else "")


def images_of(table: Column) -> int | None:
    """Images that a table's classifiers were trained on; None where none has finished."""
    done = [record for record in table.records if record["status"] == "finished"]
    return int(done[0]["networks"]["train"]) // table.views if done else None


def by_size(tables: Sequence[Column]) -> dict[tuple[str, int], dict[int, Summary]]:
    """For each row and number of views that stand in tables of several sizes: the summaries by size, rising."""
    found: dict[tuple[str, int], dict[int, Summary]] = {}
    for table in tables:
        size = images_of(table)
        for row, summary in table.plain.rows.items():
            if size is not None and summary.interval is not None:
                found.setdefault((row, table.views), {})[size] = summary
    return {key: dict(sorted(at.items())) for key, at in found.items() if len(at) > 1}
