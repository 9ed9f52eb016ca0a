"""A run that is killed goes on where it was, and ends with what an undisturbed run gives."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import table1
from weightaug import io

pytest.importorskip("sklearn")
pytest.importorskip("tyro")

ROOT = Path(__file__).parents[1]
ARGUMENTS = [
    "--preset",
    "smoke",
    "--datasets",
    "digits",
    "--fit.limit",
    "120",
    "--fit.batch",
    "10",
    "--fit.steps",
    "200",
]
ARGUMENTS += ["--train.epochs", "3", "--rows", "none", "siren_negation", "mixup", "noise", "canonical", "dropout"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> table1.Settings:
    folder = tmp_path_factory.mktemp("undisturbed")
    arguments = [*ARGUMENTS, "--workers", "1", "--output", str(folder)]
    table1.main(arguments)
    return table1.parse(arguments)


def killed_when(pattern: str, count: int, folder: Path) -> int:
    """Starts the command with two workers, kills all of it once so many files are there, and counts them."""
    command = [sys.executable, str(ROOT / "benchmarks" / "table1.py"), *ARGUMENTS, "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--output", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list(folder.rglob(pattern))) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    return len(list(folder.rglob(pattern)))


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "count"), [("manifest.json", 3), ("cells/*.json", 2)], ids=["fitting", "training"])
def test_kill_9_loses_nothing_that_was_finished(undisturbed, tmp_path, pattern, count, capsys):
    there = killed_when(pattern, count, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(pattern)}
    settings = table1.parse([*ARGUMENTS, "--workers", "1", "--output", str(tmp_path)])
    parts, cells = table1.fitting_jobs(settings), table1.training_jobs(settings)
    assert count <= there < len(parts if pattern == "manifest.json" else cells)
    capsys.readouterr()
    table1.main([*ARGUMENTS, "--workers", "1", "--output", str(tmp_path)])
    assert {path: path.stat().st_mtime_ns for path in files} == files  # nothing was made again
    for part in parts:
        other = dataclasses.replace(part, folder=undisturbed.output / "inrs")
        assert torch.equal(io.load(part.path).element.flatten(), io.load(other.path).element.flatten())
    for cell in cells:
        other = dataclasses.replace(cell, folder=undisturbed.output)
        killed, whole = (json.loads(c.path.read_text()) for c in (cell, other))
        for key in ("settings", "status", "test_accuracy", "curves"):
            assert killed[key] == whole[key], (cell.row, key)
