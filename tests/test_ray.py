"""A Ray cluster of two nodes on this machine: the same results, also where a node is lost on the way."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

import weightaug as wa
from tests.networks import assert_same, random_element
from weightaug.adapters import to_state_dicts
from weightaug.fitting import Adam, make_inrs
from weightaug.io import convert, load

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'weightaug[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
ROOT = str(Path(__file__).parents[1])


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    found = Cluster()
    found.add_node(num_cpus=0, include_dashboard=False)  # the driver's: it does no work and is not lost
    nodes = [found.add_node(num_cpus=1) for _ in range(2)]
    path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(address=found.address, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False)
    found.workers = nodes
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.mark.slow
def test_two_nodes_fit_view_and_convert_what_one_process_does(cluster, tmp_path: Path):
    images = torch.rand(12, 6, 6, generator=torch.Generator().manual_seed(0))
    how = {"settings": Adam(steps=20), "shard_size": 3, "progress": False}
    fits = [make_inrs(images, tmp_path / f"fits-{name}", executor=name, **how) for name in ("serial", "ray")]
    torch.testing.assert_close(fits[0].element.flatten(), fits[1].element.flatten(), rtol=1e-4, atol=1e-5)

    refit = wa.Refit(wa.GaussianNoise(0.1), points=6, steps=20)
    how = {"transform": refit, "shard_size": 3, "progress": False}
    element = fits[0].element
    views = [wa.make_views(element, 2, tmp_path / f"views-{name}", executor=name, **how) for name in ("serial", "ray")]
    torch.testing.assert_close(views[0].element.flatten(), views[1].element.flatten(), rtol=1e-4, atol=1e-5)

    arch = wa.Architecture.siren((2, 3, 1))
    (tmp_path / "nets").mkdir()
    for i, state in enumerate(to_state_dicts(random_element(arch, (150,)), names=None)):
        torch.save({name: value.clone() for name, value in state.items()}, tmp_path / "nets" / f"net{i}.pt")
    for name in ("serial", "ray"):
        convert(tmp_path / "nets", arch, out=tmp_path / f"set-{name}", executor=name)
    assert_same(load(tmp_path / "set-serial").element, load(tmp_path / "set-ray").element)


@ray.remote(num_cpus=1)
def _where() -> str:
    time.sleep(0.5)
    return ray.get_runtime_context().get_node_id()


@pytest.mark.slow
def test_both_nodes_work(cluster):
    assert len(set(ray.get([_where.remote() for _ in range(6)]))) == 2


def _lose(cluster, begun) -> threading.Thread:
    """Kills a node once the work has begun."""

    def kill() -> None:
        for _ in range(2400):
            if begun():
                break
            time.sleep(0.05)
        cluster.remove_node(cluster.workers[0], allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.slow
def test_views_are_all_there_where_a_node_is_lost(cluster, tmp_path: Path):
    element = random_element(wa.Architecture.siren((2, 6, 6, 1)), (24,), dtype=torch.float32)
    refit = wa.Refit(wa.GaussianNoise(0.1), points=12, steps=300)
    how = {"transform": refit, "shard_size": 2, "progress": False}
    thread = _lose(cluster, lambda: any(tmp_path.glob("ray/*/*/manifest.json")))
    views = wa.make_views(element, 2, tmp_path / "ray", executor="ray", **how)
    thread.join()
    for _ in range(600):  # until the loss is noticed
        if len(alive := [node for node in ray.nodes() if node["Alive"]]) == 2:
            break
        time.sleep(0.05)
    assert len(alive) == 2  # the driver's, and one of two
    alone = wa.make_views(element, 2, tmp_path / "serial", **how)
    assert len(views) == 48
    torch.testing.assert_close(views.element.flatten(), alone.element.flatten(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_table_is_finished_where_a_node_is_lost(cluster, tmp_path: Path):
    from benchmarks import table1
    from tests.test_benchmark_table1 import ALL_ROWS, TINY

    arguments = [*TINY, *ALL_ROWS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread = _lose(cluster, lambda: any(tmp_path.glob("ray/cells/**/*.json")))
        table1.main([*arguments, "--output", str(tmp_path / "ray"), "--executor", "ray"])
        thread.join()
        table1.main([*arguments, "--output", str(tmp_path / "serial")])
    cells = {path.relative_to(tmp_path / "serial"): path for path in tmp_path.glob("serial/cells/**/*.json")}
    assert cells
    for name, path in cells.items():
        one, two = (json.loads(p.read_text()) for p in (path, tmp_path / "ray" / name))
        for key in ("settings", "status", "test_accuracy", "curves"):
            assert one[key] == two[key], (name, key)
