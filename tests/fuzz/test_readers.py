"""Mutated bytes for the readers of files: a right result or an error of ours, nothing executed, nothing outside.

Seeded. ``WEIGHTAUG_FUZZ=100000 python -m pytest tests/fuzz`` tries as many inputs; a few hundred are tried by default.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.networks import SIREN, random_element
from weightaug import Architecture
from weightaug.adapters import to_state_dicts
from weightaug.io import convert, load, save
from weightaug.io.manifest import digest

# A name that was changed is an activation of the caller's own, as far as anyone can tell, and warned of.
pytestmark = pytest.mark.filterwarnings("ignore:unknown activation")

COUNT = int(os.environ.get("WEIGHTAUG_FUZZ", "600"))
REFUSED = (ValueError, TypeError, FileNotFoundError)
TOKENS = [b"", b"0", b"-1", b"1e999", b"null", b"[]", b"{}", b'"x"', b"\x00", b"\xff", b"../", b"9" * 30, b"true"]


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to three changes: a bit, a cut, a copy, or a token in place of a few bytes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(4)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at : at + draw.choice((1, 8, 100, len(data)))]
        elif kind == 2:
            data[at:at] = data[at : at + draw.choice((1, 8, 100))]
        else:
            data[at : at + draw.choice((0, 1, 4))] = draw.choice(TOKENS)
    return bytes(data)


def run(files: list[Path], read: Callable[[], object], seed: int, seal: Callable[[Path], None] | None = None) -> None:
    contents = {file: file.read_bytes() for file in files}
    draw = random.Random(seed)
    for number in range(COUNT // 3):
        file = draw.choice(files)
        changed = mutate(contents[file], draw)
        file.write_bytes(changed)
        if seal is not None:
            seal(file)
        try:
            read()
        except REFUSED as error:
            assert str(error), f"seed {seed}, input {number}: no message"  # noqa: PT017
        except Exception as error:
            raise AssertionError(f"seed {seed}, input {number} of {file.name}: {error!r}, {changed[:200]!r}") from error
        file.write_bytes(contents[file])


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
