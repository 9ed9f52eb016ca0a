"""Pages whose tables are generated: each stands between two marks that name it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.running.files import write_text

__all__ = ["write_tables"]

NOT_YET = "Not measured yet.\n"


def write_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Replaces what stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` in a page, for every table given.

    Tables that a page has and the mapping has not stay as they are.

    Raises:
        OSError: If the page cannot be read or written.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda found, table=table: found[1] + table + found[2], text, flags=re.DOTALL)  # type: ignore[misc]
    write_text(page, text)
