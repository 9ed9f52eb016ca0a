"""Mutated files for the package's own readers; see the harness."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.fuzz.harness import run
from tests.networks import SIREN, random_element
from weightaug import Architecture
from weightaug.adapters import to_state_dicts
from weightaug.io import convert, load, save
from weightaug.io.manifest import digest

# A name that was changed is an activation of the caller's own, as far as anyone can tell, and warned of.
pytestmark = pytest.mark.filterwarnings("ignore:unknown activation")


@pytest.mark.parametrize("sealed", [False, True])
def test_stores(tmp_path: Path, sealed: bool) -> None:
    path = tmp_path / "set"
    save(path, random_element(SIREN, (3,)), torch.arange(3), metadata={"a": [1]}, shard_size=2)

    def seal(file: Path) -> None:
        """Gives a changed manifest the right checksum, so that the checks behind it are met."""
        try:
            content = json.loads(file.read_bytes())
            content["sha256"] = digest({k: v for k, v in content.items() if k != "sha256"})
            file.write_text(json.dumps(content))
        except (ValueError, TypeError, AttributeError):
            pass

    files = [path / "manifest.json"] if sealed else sorted(path.iterdir())
    run(files, lambda: load(path, verify=False), 1 + sealed, seal if sealed else None)
    assert len(load(path).element) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_state_dict_files(tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in to_state_dicts(random_element(SIREN), stacked=True).items()}
    (tmp_path / "nets").mkdir()
    files = [tmp_path / "nets" / "a.pth", tmp_path / "nets" / "b.safetensors"]
    torch.save(state, files[0])
    save_file(state, files[1])

    def read() -> None:
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        done = convert(tmp_path / "nets", SIREN, out=tmp_path / "set")
        assert done.size + len(done.refused) == 2
        assert len(load(tmp_path / "set").element) == done.size

    run(files, read, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nets", "set"]


def test_architectures(tmp_path: Path) -> None:
    file = tmp_path / "architecture.json"
    file.write_text(SIREN.to_json())
    run([file], lambda: Architecture.from_json(file.read_bytes().decode("utf-8", "replace")), 4)
