"""Views that are made ahead: the right ones, wherever they are made, and after an interruption."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import weightaug as wa
from weightaug import Architecture, WeightSpaceElement
from weightaug.testing import random_element

POINTS = 5
REFIT = wa.Refit(wa.GaussianNoise(0.1), points=POINTS, steps=20)


def networks(count: int = 10) -> WeightSpaceElement:
    return random_element(Architecture.siren((2, 6, 6, 1)), (count,), dtype=torch.float32)


def test_views_are_those_of_their_networks(tmp_path: Path):
    element, labels = networks(), torch.arange(10) % 3
    views = wa.make_views(element, 2, tmp_path / "v", transform=REFIT, labels=labels, shard_size=4, progress=False)
    assert len(views) == 20
    source, view = views.columns["source"], views.columns["view"]
    assert source.tolist() == [*range(10), *range(10)]
    assert view.tolist() == [0] * 10 + [1] * 10
    assert torch.equal(views.labels, labels[source])
    got = wa.psnr(element[source], views.element, POINTS)
    torch.testing.assert_close(views.columns["psnr"], got, rtol=1e-3, atol=1e-2)
    assert (got > 15).all()
    flat = views.element.flatten()
    assert (flat[:10] - flat[10:]).abs().amax(1).min() > 1e-3  # each view has its own draws


def test_mixed_functions_have_mixed_labels_and_partners_from_everywhere(tmp_path: Path):
    element, labels = networks(12), torch.eye(12)
    mixing = wa.Refit(wa.Mixup(), points=POINTS, steps=1)
    views = wa.make_views(element, 2, tmp_path, transform=mixing, labels=labels, shard_size=4, progress=False)
    own = views.columns["source"]
    assert sorted(own[:12].tolist()) == list(range(12))
    assert own[:12].tolist() != own[12:].tolist()
    assert torch.allclose(views.labels.sum(1), torch.ones(24))
    partners = (views.labels - torch.diag_embed(torch.ones(12))[own] * 2).argmax(1)
    assert ((partners - own).abs() >= 4).any()  # in the order of the data set, nobody would meet
    with pytest.raises(TypeError, match="cannot be mixed"):
        wa.make_views(element, 1, tmp_path / "i", transform=mixing, labels=torch.arange(12), progress=False)


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_who_makes_them_changes_nothing(tmp_path: Path, executor: str):
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        with pytest.raises(ImportError, match=r"pip install 'weightaug\[ray\]'"):
            wa.make_views(networks(), 1, tmp_path, transform=REFIT, executor="ray", progress=False)
        return
    how = {"transform": REFIT, "shard_size": 4, "progress": False}
    here = wa.make_views(networks(), 1, tmp_path / "here", **how)
    there = wa.make_views(networks(), 1, tmp_path / "there", executor=executor, workers=2, **how)
    torch.testing.assert_close(there.element.flatten(), here.element.flatten(), rtol=1e-4, atol=1e-5)


SCRIPT = """
import sys, torch, weightaug as wa
from pathlib import Path
from tests.test_views import networks
refit = wa.Refit(wa.GaussianNoise(0.1), points=5, steps=60)
wa.make_views(networks(), 8, sys.argv[1], transform=refit, shard_size=2, progress=False)
"""


def test_what_was_killed_goes_on(tmp_path: Path):
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, cwd=root)
    for _ in range(1200):
        if len(list(tmp_path.glob("*/*/manifest.json"))) >= 3 or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/manifest.json")}
    assert 3 <= len(there) < 40
    refit = wa.Refit(wa.GaussianNoise(0.1), points=5, steps=60)
    views = wa.make_views(networks(), 8, tmp_path, transform=refit, shard_size=2, progress=False)
    assert len(views) == 80
    assert {path: path.stat().st_mtime_ns for path in there} == there
    alone = wa.make_views(networks(), 8, tmp_path / "again", transform=refit, shard_size=2, progress=False)
    torch.testing.assert_close(views.element.flatten(), alone.element.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"transform": wa.Refit(wa.GaussianNoise(0.1), points=POINTS, steps=21)}, "transform"),
        ({"transform": wa.Refit(wa.GaussianNoise(0.1), points=torch.rand(4, 2), steps=20)}, "transform"),
        ({"seed": 1}, "seed"),
        ({"networks": networks().map(lambda t: t + 1)}, "networks"),
    ],
)
def test_other_views_are_not_taken_for_these(tmp_path: Path, change, what):
    how = {"networks": networks(), "count": 1, "folder": tmp_path, "transform": REFIT, "progress": False}
    wa.make_views(**how)
    with pytest.raises(ValueError, match=f"made with another {what}.*choose another folder"):
        wa.make_views(**(how | change))


def test_pools_are_told_apart_by_what_they_hold(tmp_path: Path):
    def how(shift: float):
        pool = wa.Pool(networks(4).map(lambda t: t + shift))
        return {"transform": wa.Mixup(pool=pool), "progress": False}

    wa.make_views(networks(), 1, tmp_path, **how(0.0))
    wa.make_views(networks(), 1, tmp_path, **how(0.0))
    with pytest.raises(ValueError, match="made with another made_with"):
        wa.make_views(networks(), 1, tmp_path, **how(1.0))


def test_a_damaged_shard_is_named(tmp_path: Path):
    wa.make_views(networks(), 1, tmp_path, transform=REFIT, progress=False)
    (manifest,) = tmp_path.glob("*/*/manifest.json")
    manifest.write_text(json.dumps({"format": "something"}))
    with pytest.raises(ValueError, match="manifest"):
        wa.make_views(networks(), 1, tmp_path, transform=REFIT, progress=False)


def test_bad_settings_are_named(tmp_path: Path):
    def call(element=None, count: int = 1, **more):
        wa.make_views(networks() if element is None else element, count, tmp_path, transform=REFIT, **more)

    with pytest.raises(ValueError, match=r"expected networks \(n,\) with n >= 1, got \(\)"):
        call(networks()[0])
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        call(count=0)
    with pytest.raises(ValueError, match="labels: expected 10 rows, got"):
        call(labels=torch.zeros(3))
    with pytest.raises(ValueError, match="executor must be 'serial', 'processes' or 'ray', got 'dask'"):
        call(executor="dask")
    with pytest.raises(ValueError, match="take 2 inputs, got a grid"):
        wa.make_views(networks(), 1, tmp_path, transform=wa.Refit(wa.GaussianNoise(), points=(4, 4, 4)))
    assert not list(tmp_path.iterdir())
