"""What must stay as it was when it was published: draws, configurations, canonical forms, and the files on disk.

``python tests/test_golden.py`` writes tests/golden/draws.json and canonical.json anew. Whoever does that breaks the
seeds of all users: it goes into CHANGELOG.md as a breaking change. Stores are never written anew; a new version of the
format gets a folder of its own, and the old one is read for ever.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

sys.path.insert(0, str(Path(__file__).parents[1]))  # when it is run as a script

from weightaug import Architecture, GroupElement, Transform, WeightSpaceElement, _loops, act, io
from weightaug.matching import canonicalize
from weightaug.testing import assert_equal, random_element
from weightaug.testing.battery import EXAMPLES
from weightaug.testing.laws import tensors_of
from weightaug.testing.suite.examples import OF_HEADS, OF_PAIRS, TRANSFORMS, encoders, low_rank_pairs

GOLDEN = Path(__file__).parent / "golden"
SEEDS = (0, 1)
BATCH = 2
ALL = {repr(t)[:90]: t for t in (*TRANSFORMS, *OF_HEADS, *OF_PAIRS)}
# Drawn with the CPU generator of torch 2.13; 2.6 drew the same, though torch promises no equal draws between versions.
# Floats have gone through the mathematics of one machine, and may differ in the last digits.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture(params=["numba", "scipy"])
def solver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds mean the same with numba and without."""
    if request.param == "numba":
        pytest.importorskip("numba", reason="needs the extra 'fast': pip install 'weightaug[fast]'")
    else:
        monkeypatch.setattr(_loops, "load", lambda name: None)


def networks_for(transform: Transform, batch: int = BATCH) -> WeightSpaceElement:
    """The first example that the transform accepts, with weights that NumPy draws."""
    if transform in OF_HEADS:
        return encoders(batch)
    if transform in OF_PAIRS:
        return low_rank_pairs(batch)
    for architecture in EXAMPLES:
        try:
            transform.check(architecture)
        except ValueError:
            continue
        return random_element(architecture, (batch,))
    raise AssertionError(f"no example fits {transform!r}")


def described(tensor: Tensor) -> dict[str, Any]:
    """A short tensor whole; of a long one of floats its beginning, mean and norm."""
    flat = tensor.detach().flatten()
    kind = str(tensor.dtype).removeprefix("torch.")
    found: dict[str, Any] = {"dtype": kind, "shape": list(tensor.shape)}
    if not tensor.is_floating_point():
        return found | {"values": flat.int().tolist()}
    found["values"] = [float(f"{v:.12g}") for v in flat[:12].tolist()]
    if flat.numel() > 12:
        exact = flat.double()
        found["mean"], found["norm"] = (float(f"{float(v):.12g}") for v in (exact.mean(), exact.norm()))
    return found


def assert_as_described(tensor: Tensor, golden: dict[str, Any], place: str) -> None:
    """Discrete values are the same; floats are up to rounding."""
    now = described(tensor)
    assert {k: now[k] for k in ("dtype", "shape")} == {k: golden[k] for k in ("dtype", "shape")}, place
    if not tensor.is_floating_point():
        assert now["values"] == golden["values"], f"{place}: another draw"
        return
    tolerance = TOLERANCE[tensor.dtype]
    for key in ("values", "mean", "norm"):
        if key not in golden:
            continue
        ours, theirs = (torch.tensor(x[key], dtype=torch.float64) for x in (now, golden))
        size = golden.get("norm", 1.0) / math.sqrt(max(tensor.numel(), 1)) if golden.get("norm") else 1.0
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * size), f"{place}: {key} differs: {ours}"


def draws(transform: Transform) -> dict[str, Any]:
    """What is drawn and what comes of it, for every seed."""
    networks = networks_for(transform)
    found: dict[str, Any] = {} if tensors_of(transform) else {"config": plain(transform)}
    for seed in SEEDS:
        drawn, result = run(transform, networks, seed)
        found[str(seed)] = {"drawn": [described(t) for t in drawn], "result": described(result)}
    return found


def plain(transform: Transform) -> Any:
    try:
        return json.loads(json.dumps(transform.asdict()))
    except (TypeError, ValueError):
        return None  # a Lambda's function is told by its name, if at all


def run(transform: Transform, networks: WeightSpaceElement, seed: int) -> tuple[list[Tensor], Tensor]:
    params = transform.sample(networks, generator=torch.Generator().manual_seed(seed))
    return pytree.tree_leaves(params), transform.apply(networks, params).flatten()


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name).read_text())


def test_every_transform_has_golden_draws() -> None:
    assert set(golden("draws.json")) == set(ALL), "run `python tests/test_golden.py` and read what it says"


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("name", ALL)
def test_seeds_draw_what_they_drew(name: str) -> None:
    transform, expected = ALL[name], golden("draws.json")[name]
    networks = networks_for(transform)
    for seed in SEEDS:
        drawn, result = run(transform, networks, seed)
        assert len(drawn) == len(expected[str(seed)]["drawn"])
        for i, (tensor, then) in enumerate(zip(drawn, expected[str(seed)]["drawn"], strict=True)):
            assert_as_described(tensor, then, f"{name}, seed {seed}, parameter {i}")
        assert_as_described(result, expected[str(seed)]["result"], f"{name}, seed {seed}, result")


@pytest.mark.parametrize("name", [n for n, t in ALL.items() if not tensors_of(t)])
def test_configurations_that_were_stored_are_understood(name: str) -> None:
    stored = golden("draws.json")[name]["config"]
    if stored is None:
        assert "Lambda" in name
        return
    assert Transform.fromdict(stored) == ALL[name]
    assert plain(ALL[name]) == stored


def test_configurations_of_the_first_release_make_the_same_transforms() -> None:
    """Settings that came later have their defaults."""
    made = [Transform.fromdict(config) for config in golden("configs-0.2.0.json").values()]
    now = [transform for transform in ALL.values() if not tensors_of(transform)]
    assert len(made) > 30
    assert all(transform in now for transform in made)


def test_another_draw_would_be_found() -> None:
    for other in (torch.tensor([0, 2, 1]), torch.tensor([0, 1, 2, 3])):
        with pytest.raises(AssertionError):
            assert_as_described(other, described(torch.tensor([0, 1, 2])), "here")
    long = torch.linspace(0, 1, 40, dtype=torch.float64)
    changed = long.clone()
    changed[30] += 1e-6
    with pytest.raises(AssertionError, match="mean differs"):
        assert_as_described(changed, described(long), "here")
    assert_as_described(long * (1 + 1e-13), described(long), "here")


def canonical(architecture: Architecture) -> dict[str, Any]:
    networks = random_element(architecture, (BATCH,))
    group = canonicalize(networks)
    parts = {"permutation": group.permutation, "scale": group.scale, "shift": group.shift}
    return {name: [None if t is None else described(t) for t in part] for name, part in parts.items()} | {
        "form": described(act(networks, group).flatten())
    }


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("architecture", EXAMPLES, ids=str)
def test_canonical_forms_are_what_they_were(architecture: Architecture) -> None:
    expected = golden("canonical.json")[str(architecture)]
    networks = random_element(architecture, (BATCH,))
    group: GroupElement = canonicalize(networks)
    for name in ("permutation", "scale", "shift"):
        for slot, (tensor, then) in enumerate(zip(getattr(group, name), expected[name], strict=True)):
            assert (tensor is None) == (then is None)
            if tensor is not None:
                assert_as_described(tensor, then, f"{architecture}, {name} of hidden space {slot}")
    assert_as_described(act(networks, group).flatten(), expected["form"], f"{architecture}, form")


STORES = {
    "siren": Architecture.siren((2, 3, 1), output_offset=0.5),
    "residual": EXAMPLES[-1],
    "low-rank": Architecture.lora({"q": (3, 2, 1)}),
}


def counted(architecture: Architecture, count: int, dtype: torch.dtype) -> WeightSpaceElement:
    """Networks whose numbers every machine writes alike."""
    empty = WeightSpaceElement.unflatten(architecture, torch.zeros(count, architecture.num_parameters))
    leaves, structure = pytree.tree_flatten(empty)
    starts = itertools.accumulate((leaf.numel() for leaf in leaves), initial=0)
    values = [
        (torch.arange(start, start + leaf.numel()).reshape(leaf.shape) / 64).to(dtype)
        for start, leaf in zip(starts, leaves, strict=False)
    ]
    return pytree.tree_unflatten(values, structure)


def contents(name: str) -> dict[str, Any]:
    dtype = torch.bfloat16 if name == "residual" else torch.float32
    return {
        "element": counted(STORES[name], 3, dtype),
        "labels": torch.tensor([2, 0, 1]),
        "columns": {"view": torch.tensor([0, 0, 1]), "psnr": torch.tensor([20.5, 31.25, 28.0])},
        "metadata": {"convention": "made up", "nested": {"list": [1, 2.5, None, "ä"]}},
    }


@pytest.mark.parametrize("name", STORES)
def test_stores_of_version_1_are_read(name: str, tmp_path: Path) -> None:
    expected = contents(name)
    folder = tmp_path / name
    shutil.copytree(GOLDEN / "store-1" / name, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"], len(manifest["shards"])) == ("weightaug.dataset", 1, 2)
    stored = io.load(folder)
    assert stored.element.architecture == STORES[name]
    assert_equal(stored.element, expected["element"])
    assert torch.equal(stored.labels, expected["labels"])
    assert {k: v.tolist() for k, v in stored.columns.items()} == {k: v.tolist() for k, v in expected["columns"].items()}
    assert stored.metadata == expected["metadata"]
    assert_equal(io.WeightSpaceDataset(folder).networks([2, 0]), expected["element"][[2, 0]])
    one = slice(0, 1)
    more = {k: v[one] for k, v in expected["columns"].items()}
    io.append(folder, expected["element"][one], expected["labels"][one], columns=more)
    assert_equal(io.load(folder).element[3], expected["element"][0])


def write_json(name: str, data: dict[str, Any]) -> None:
    """One line a leaf, so that a change can be read."""
    text = json.dumps(data, indent=1)
    lines: list[str] = []
    depth = 0
    for line in text.splitlines():  # lists of numbers on one line
        if depth:
            lines[-1] += line.strip() if line.strip().startswith("]") else line.strip() + " "
            depth = 0 if line.strip().startswith("]") else 1
        else:
            lines.append(line)
            depth = int(line.rstrip().endswith(('"values": [', '"shape": [')))
    (GOLDEN / name).write_text("\n".join(lines).replace(" ]", "]") + "\n")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    write_json("draws.json", {name: draws(transform) for name, transform in ALL.items()})
    write_json("canonical.json", {str(a): canonical(a) for a in EXAMPLES})
    for name in STORES:
        target = GOLDEN / "store-1" / name
        if not target.exists():
            io.save(target, **contents(name), shard_size=2)
    print("Written. Seeds of users now mean something else: note it in CHANGELOG.md as a breaking change.")
