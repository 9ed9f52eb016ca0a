"""The page "What was tried", from the records: ``python benchmarks/trials/page.py``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from textwrap import shorten
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `benchmarks` is a package

from benchmarks.running.pages import NOT_YET, in_markdown, tables_in, write_tables
from benchmarks.trials.records import OUTPUT, read_records

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tried.md"


def told(value: Any) -> str:
    """A figure as text, which a table can hold."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value).replace("|", "\\|")
    return text if text.startswith("`") else text.replace("*", "\\*")


def section(record: dict[str, Any]) -> str:
    """Command, figures, tables and notes of one trial."""
    figures = in_markdown(["", ""], [[name, told(value)] for name, value in record["figures"].items()])
    parts = [f"```\n{record['command']}\n```\n", figures]
    for name, (heads, rows) in record.get("tables", {}).items():
        if rows:
            shown = in_markdown(heads, [[told(cell) for cell in row] for row in rows], left=len(heads))
            parts += [f"{name.capitalize()}:\n", shown]
    notes = record.get("notes", [])
    if len(notes) > 1:
        notes = ["\n".join(f"- `{shorten(note, 300)}`" for note in notes)]
    parts += [f"{note}\n" for note in notes]
    minutes = record.get("seconds", 0) / 60
    took = f", {minutes:,.0f} minutes" if minutes >= 1 else ""
    return "\n".join([*parts, f"{record['date']}, {record['machine']}{took}.\n"])


def main() -> None:
    """Parses the arguments and fills the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--results", type=Path, default=OUTPUT)
    args = parser.parse_args()
    records = read_records(args.results)
    names = tables_in(args.page.read_text(encoding="utf-8"))
    write_tables(args.page, {name: section(records[name]) if name in records else NOT_YET for name in names})


if __name__ == "__main__":
    main()
