"""Pages whose tables are generated: each stands between two marks that name it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.running.files import read_json, write_text

__all__ = ["NOT_YET", "filled", "in_markdown", "tables_in", "write_tables", "write_tables_of_files"]

NOT_YET = "Not measured yet.\n"


def in_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table in Markdown, some first columns to the left, the others to the right."""
    marks = ["---"] * left + ["---:"] * (len(heads) - left)
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, marks, *rows))


def tables_in(text: str) -> list[str]:
    """The names of the tables that a page has."""
    return re.findall(r"<!-- table: (\S+) -->", text)


def filled(text: str, tables: Mapping[str, str]) -> str:
    """A page with what the tables that are given say; others that it has stay as they are."""
    for name, table in tables.items():
        pattern = rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda found, table=table: found[1] + table + found[2], text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def write_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Replaces what stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` in a page, for every table given.

    Tables that a page has and the mapping has not stay as they are.

    Raises:
        OSError: If the page cannot be read or written.
    """
    write_text(page, filled(page.read_text(encoding="utf-8"), tables))


def write_tables_of_files(page: Path, folder: Path, table_of: Callable[[dict[str, Any]], str]) -> None:
    """Fills every table of a page from the JSON file of its name in a folder.

    Raises:
        OSError: If the page or a file cannot be read, or the page not written.
    """
    names = tables_in(page.read_text(encoding="utf-8"))
    write_tables(page, {name: table_of(read_json(folder / f"{name}.json")) for name in names})
