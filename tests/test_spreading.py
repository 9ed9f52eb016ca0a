"""Work that is spread: the same networks whoever makes them, and no more work than is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import weightaug as wa
from tests.networks import assert_same, random_element
from weightaug._spreading import spread
from weightaug.adapters import to_state_dicts
from weightaug.fitting import Adam, fit_inrs, make_inrs
from weightaug.io import convert, load

ADAM = Adam(steps=20)


def images(count: int = 7) -> torch.Tensor:
    return torch.rand(count, 5, 5, generator=torch.Generator().manual_seed(0))


def half(number: float) -> float:
    if number < 0:
        raise ValueError(f"no halves of {number}")
    return number / 2


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_results_come_in_the_order_of_the_tasks(executor):
    tasks = list(range(30))
    assert list(spread(half, tasks, executor, 2)) == [task / 2 for task in tasks]
    assert list(spread(half, [], executor, 2)) == []


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_what_the_work_raises_comes_when_its_turn_comes(executor):
    results = spread(half, [1.0, 2.0, -1.0, 3.0], executor, 1)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ValueError, match=r"no halves of -1\.0"):
        next(results)


def test_a_collection_is_fitted_as_its_images_are(tmp_path: Path):
    data = make_inrs(images(), tmp_path, labels=torch.arange(7), settings=ADAM, shard_size=3, progress=False)
    alone = fit_inrs(images(), settings=ADAM)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000-000003", "000003-000006", "000006-000007"]
    torch.testing.assert_close(data.element.flatten(), alone.element.flatten(), rtol=1e-4, atol=1e-5)
    assert data.architecture.convention == "siren"
    assert torch.equal(data.labels, torch.arange(7))
    torch.testing.assert_close(data.columns["psnr"], alone.psnr, rtol=1e-3, atol=1e-2)
    assert torch.equal(data.columns["steps"], alone.steps)
    other = make_inrs(images(), tmp_path / "view1", settings=ADAM, seed=1, progress=False)
    assert (other.element.flatten() - data.element.flatten()).abs().max() > 0.01


def test_processes_fit_the_same_networks_and_only_what_is_missing(tmp_path: Path):
    here = make_inrs(images(), tmp_path / "a", settings=ADAM, shard_size=3, progress=False)
    first = make_inrs(images(3), tmp_path / "b", settings=ADAM, shard_size=3, progress=False)
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("*/manifest.json")}
    both = make_inrs(
        images(), tmp_path / "b", settings=ADAM, shard_size=3, executor="processes", workers=2, progress=False
    )
    assert len(first) == 3
    assert {path: path.stat().st_mtime_ns for path in there} == there
    torch.testing.assert_close(both.element.flatten(), here.element.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"settings": Adam(steps=21)}, "settings"),
        ({"seed": 3}, "seeds"),
        ({"images": images() * 0.5}, "images"),
        ({"labels": torch.zeros(7)}, "images"),
        ({"convention": "nfn"}, "made_with"),
        ({"hidden": (4, 4)}, "made_with"),
    ],
)
def test_other_fits_are_not_taken_for_these(tmp_path: Path, change, what):
    how = {"images": images(), "folder": tmp_path, "settings": ADAM, "progress": False}
    make_inrs(**how)
    make_inrs(**how)
    with pytest.raises(ValueError, match=f"made with another {what}.*choose another folder"):
        make_inrs(**(how | change))


def test_bad_settings_of_a_collection_are_named(tmp_path: Path):
    def call(given=None, **more):
        make_inrs(images() if given is None else given, tmp_path / "x", **more)

    with pytest.raises(ValueError, match="expected at least one, got none"):
        call(torch.zeros(0, 4, 4))
    with pytest.raises(ValueError, match="shard_size must be at least 1, got 0"):
        call(shard_size=0)
    with pytest.raises(ValueError, match=r"labels: expected 7 rows, got \(3,\)"):
        call(labels=torch.zeros(3))
    with pytest.raises(ValueError, match="executor must be 'serial', 'processes' or 'ray', got 'dask'"):
        call(executor="dask")
    with pytest.raises(ValueError, match=r"workers must be at least 1, got 0"):
        call(workers=0)
    with pytest.raises(ValueError, match="values in"):
        call(images() * 2)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("chunk", [3, 1000])
def test_files_are_converted_by_processes_as_by_one(tmp_path: Path, chunk: int):
    arch = wa.Architecture.siren((2, 3, 1))
    element = random_element(arch, (9,))
    (tmp_path / "nets").mkdir()
    for i, state in enumerate(to_state_dicts(element, names=None)):
        own = {name: value.clone() for name, value in state.items()}
        torch.save(own | {"label": torch.tensor(i % 3)}, tmp_path / "nets" / f"net{i}.pt")
    (tmp_path / "nets" / "net4.pt").write_bytes(b"damaged")
    results = []
    for executor in ("serial", "processes"):
        seen: list[int] = []
        out = tmp_path / executor
        done = convert(
            tmp_path / "nets",
            arch,
            out=out,
            labels="label",
            chunk=chunk,
            executor=executor,
            workers=2,
            progress=seen.append,
        )
        assert seen == list(range(1, 10))
        assert [path.name for path in done.refused] == ["net4.pt"]
        results.append((done, load(out)))
    (one, serial), (two, processes) = results
    assert one == two
    assert_same(serial.element, processes.element)
    assert torch.equal(serial.labels, processes.labels)
    assert processes.columns["source"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
