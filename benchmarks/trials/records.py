"""What a trial leaves behind: one JSON file, from which the page is made."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.running.files import read_json, write_json

__all__ = ["OUTPUT", "Record", "read_records", "resident_mib"]

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "tried"


@dataclass
class Record:
    """One trial.

    Attributes:
        title: What was tried.
        command: What repeats it.
        figures: What came of it, by name.
        notes: What has to be known of the figures, one sentence each.
        tables: By their headings: the heads of the columns and the rows.
        seconds: How long it took.
        date: When.
        machine: Where.
    """

    title: str
    command: str
    figures: Mapping[str, float | int | str]
    notes: Sequence[str] = ()
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = field(default_factory=dict)
    seconds: float = 0.0
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    machine: str = field(default_factory=lambda: f"{os.cpu_count()} cores, {platform.machine()}, torch {_torch()}")

    def write(self, name: str, folder: Path = OUTPUT) -> None:
        """Writes ``<folder>/<name>.json``."""
        write_json(folder / f"{name}.json", vars(self) | {"tables": {k: list(v) for k, v in self.tables.items()}})


def read_records(folder: Path = OUTPUT) -> dict[str, dict[str, Any]]:
    """All records, by name."""
    return {path.stem: read_json(path, "title", "command", "figures") for path in sorted(folder.glob("*.json"))}


def resident_mib() -> float:
    """Memory of this process that is in use now, without what the system can take back."""
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared = (int(number) for number in file.read().split()[:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _torch() -> str:
    return str(torch.__version__)
