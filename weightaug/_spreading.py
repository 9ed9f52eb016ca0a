"""Spreads independent tasks: in this process, over the processes of this machine, or over a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Literal, TypeVar, get_args

import torch

__all__ = ["ExecutorName", "check_executor", "spread"]

ExecutorName = Literal["serial", "processes", "ray"]
Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 4  # tasks per worker that are given out at a time: results wait in memory until they are taken


def check_executor(owner: str, executor: str, workers: int | None) -> None:
    """Checks the two settings.

    Raises:
        ValueError: If there is no such executor, or workers is no whole number from 1 on.
    """
    if executor not in get_args(ExecutorName):
        raise ValueError(f"{owner}: executor must be 'serial', 'processes' or 'ray', got {executor!r}")
    whole = isinstance(workers, int) and not isinstance(workers, bool)
    if workers is not None and (not whole or workers < 1):
        raise ValueError(f"{owner}: workers must be at least 1, got {workers!r}")


def spread(
    work: Callable[[Task], Result], tasks: Sequence[Task], executor: ExecutorName, workers: int | None
) -> Iterator[Result]:
    """Does some work on every task, and yields the results in the order of the tasks.

    Args:
        work: A function that can be pickled; wherever it runs, torch has one thread.
        tasks: What it is called with, one by one.
        executor: ``"serial"``: in this process, with its threads; ``"processes"``: on this machine; ``"ray"``: on the
            Ray that is initialised, or one that is started here. A task that is lost with its machine starts again.
        workers: Processes, or CPUs of a Ray that is started here; None for one per core.

    Raises:
        ImportError: If Ray is asked for and not installed.
        Exception: What the work raises. What is done stays done; no further task is begun.
    """
    if executor == "serial" or not tasks:
        return map(work, tasks)
    return (_processes if executor == "processes" else _ray)(work, tasks, workers)


def _processes(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    count = workers or os.cpu_count() or 1
    with ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(work, task))
                if len(pending) == _AHEAD * count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _ray(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[Result]:
    try:
        import ray as installed
    except ImportError as error:
        raise ImportError("executor='ray' needs Ray; install it with: pip install 'weightaug[ray]'") from error
    ray: Any = installed
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    pending: deque[Any] = deque()
    try:
        remote = ray.remote(num_cpus=1, max_retries=3)(_on_one_thread)
        ahead = _AHEAD * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        for task in tasks:
            pending.append(remote.remote(work, task))
            if len(pending) == ahead:
                yield ray.get(pending.popleft())
        while pending:
            yield ray.get(pending.popleft())
    finally:
        for reference in pending:
            ray.cancel(reference)
        if started:
            ray.shutdown()


def _on_one_thread(work: Callable[[Any], Any], task: Any) -> Any:
    torch.set_num_threads(1)  # as in a process of our own, so that results are the same wherever they are made
    return work(task)
