"""A stranger's path: the shell commands of docs/import.md; its Python runs in tests/test_documentation.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import weightaug as wa
from weightaug._command import main
from weightaug.adapters import to_state_dicts

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

PAGE = Path(__file__).parents[1] / "docs" / "import.md"


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    digits = wa.datasets.digits()
    assert digits.labels is not None
    for i in range(12):
        path = Path("nets") / f"class{int(digits.labels[i])}" / f"net{i}.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(to_state_dicts(digits.networks(i)), path)
    commands = re.findall(r"^weightaug (.*)$", PAGE.read_text(), flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["convert", "inspect"]
    for command in commands:
        assert main(shlex.split(command)) == 0
    out = capsys.readouterr().out
    for text in ("set: 12 networks of 12 files", "337 parameters each", "written: set.png"):
        assert text in out
    assert Path("set.png").read_bytes().startswith(b"\x89PNG")
    data = wa.io.WeightSpaceDataset("set")
    assert data.labels is not None
    classes = [data.metadata["classes"][label] for label in data.labels.tolist()]
    listed = sorted(Path("nets").rglob("*.pth"), key=lambda p: (int(p.parent.name[5:]), int(p.stem[3:])))
    assert classes == [p.parent.name for p in listed]
