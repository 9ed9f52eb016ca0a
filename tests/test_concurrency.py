"""Workers, threads, ranks and processes side by side: nobody draws what another draws, nothing is lost or doubled."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler

import weightaug as wa
from weightaug import io
from weightaug.adapters import to_state_dicts
from weightaug.testing import random_element

ARCHITECTURE = wa.Architecture.siren((2, 4, 1))
COUNT = 24


@pytest.fixture
def store(tmp_path) -> Path:
    """The same network many times: what differs in a sample is what was drawn for it."""
    one = random_element(ARCHITECTURE, (1,), dtype=torch.float32)
    io.save(tmp_path / "store", wa.cat([one] * COUNT), torch.arange(COUNT))
    return tmp_path / "store"


def loaded(store: Path, workers: int, context: str | None, seed: int = 0) -> torch.Tensor:
    """All augmented networks, by their labels."""
    data = io.WeightSpaceDataset(store, transform=wa.GaussianNoise(0.1))
    loader = DataLoader(
        data,
        batch_size=4,
        num_workers=workers,
        multiprocessing_context=context,
        generator=torch.Generator().manual_seed(seed),
    )
    batches = [(element.flatten(), labels) for element, labels in loader]
    order = torch.cat([labels for _, labels in batches]).argsort()
    return torch.cat([flat for flat, _ in batches])[order]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_draw_for_every_sample_anew(store, context):
    drawn = loaded(store, 2, context)
    apart = torch.cdist(drawn, drawn) + torch.eye(COUNT)
    assert apart.min() > 1e-3  # no two samples have the same noise, within a worker or between them
    assert torch.equal(loaded(store, 2, context), drawn)
    assert not torch.equal(loaded(store, 2, context, seed=1), drawn)


def test_batches_that_are_augmented_after_the_loader_do_not_depend_on_workers(store):
    augment = wa.GaussianNoise(0.1)

    def batches(workers: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(io.WeightSpaceDataset(store), batch_size=5, num_workers=workers)
        return torch.cat([augment(element, generator=generator).flatten() for element, _ in loader])

    none = batches(0)
    assert torch.equal(batches(1), none)
    assert torch.equal(batches(2), none)


def test_threads_share_a_transform():
    element = random_element(ARCHITECTURE, (16,))
    augment = wa.Compose([wa.SirenNegation(), wa.RandomApply(wa.Rotate(20.0), p=0.5), wa.AlignedMixup()])
    start = threading.Barrier(4)

    def work(seed: int) -> torch.Tensor:
        start.wait()
        return augment(element, generator=torch.Generator().manual_seed(seed)).flatten()

    alone = [augment(element, generator=torch.Generator().manual_seed(seed)).flatten() for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(4)))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


def rank_of_two(rank: int, folder: Path) -> None:
    """One rank: reads its share of the store, and augments it with a seed that its rank tells apart."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        data = io.WeightSpaceDataset(folder / "store")
        sampler = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=True, seed=0)
        generator = torch.Generator().manual_seed(10 * 2 + rank)
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(17, 2))
        flat, labels = [], []
        for element, label in DataLoader(data, batch_size=4, sampler=sampler):
            moved = wa.GaussianNoise(0.1)(element, generator=generator)
            model(moved.flatten()).sum().backward()
            flat.append(moved.flatten())
            labels.append(label)
        torch.save({"flat": torch.cat(flat), "labels": torch.cat(labels)}, folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch has no gloo")
def test_two_ranks_share_a_store_and_no_draws(store):
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=rank_of_two, args=(rank, store.parent)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(180)
        assert process.exitcode == 0
    one, other = (torch.load(store.parent / f"rank{rank}.pt") for rank in range(2))
    assert sorted(torch.cat([one["labels"], other["labels"]]).tolist()) == list(range(COUNT))
    assert torch.cdist(one["flat"], other["flat"]).min() > 1e-3


def convert(folder: Path, start: object) -> None:
    """One of two processes that convert the same files to the same place."""
    start.wait()  # type: ignore[attr-defined]
    io.convert(folder / "nets", ARCHITECTURE, out=folder / "out", chunk=3)


def test_two_processes_on_one_folder_lose_and_double_nothing(tmp_path):
    element = random_element(ARCHITECTURE, (20,), dtype=torch.float32)
    (tmp_path / "nets").mkdir()
    for i, network in enumerate(element):
        torch.save(to_state_dicts(network), tmp_path / "nets" / f"net{i}.pt")
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    both = [context.Process(target=convert, args=(tmp_path, start)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(180)
    assert {process.exitcode for process in both} <= {0, 1}  # one may be told that the other has written
    io.convert(tmp_path / "nets", ARCHITECTURE, out=tmp_path / "out", chunk=3)  # which finishes what is left
    data = io.load(tmp_path / "out")
    assert sorted(data.columns["source"].tolist()) == list(range(20))
    order = data.columns["source"].argsort()
    assert torch.equal(data.element[order].flatten(), element.flatten())
