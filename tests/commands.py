"""Commands of the benchmarks, run inside the tests."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

__all__ = ["run_command"]


def run_command(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *arguments: object) -> None:
    """Runs a module's main as from the command line, and gives torch back the threads that it had."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        module.main()
    finally:
        torch.set_num_threads(threads)
