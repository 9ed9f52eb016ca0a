"""Executors: run jobs that each leave one file behind, here or in worker processes.

A job is anything with ``done`` and ``run(progress)`` whose output file is its state: what is done is
skipped, and what was interrupted is run again.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, Protocol

import torch

from benchmarks.running.commands import said


class Job(Protocol):
    """What an executor runs. It must be picklable."""

    @property
    def done(self) -> bool:
        """Whether its output is there."""
        ...

    def run(self, progress: Callable[[int], None]) -> None:
        """Makes its output; tells how many units of work it has done since the last call."""
        ...


class JobsFailed(RuntimeError):
    """Some jobs raised; the others have finished."""

    @classmethod
    def raise_if(cls, failures: Sequence[BaseException], count: int) -> None:
        """Raises if there are failures among the jobs that were run."""
        if failures:
            first = f"{type(failures[0]).__name__}: {said(failures[0])}"
            raise cls(f"{len(failures)} of {count} jobs failed, the others are kept; the first: {first}") from failures[
                0
            ]


def unfinished(jobs: Sequence[Job], sizes: Sequence[int]) -> list[tuple[Job, int]]:
    """The jobs that are not done, and their sizes."""
    return [(job, size) for job, size in zip(jobs, sizes, strict=True) if not job.done]


class Executor:
    """Runs jobs in this process or in worker processes; a context manager that ends the workers.

    Args:
        workers: Processes of one thread each; 1 runs the jobs in this process.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._progress: Any = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        if kind is None:
            self._pool.shutdown()
        else:
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
        self._progress.close()

    def run(self, jobs: Sequence[Job], sizes: Sequence[int], *, name: str, unit: str) -> int:
        """Runs the jobs that are not done, with a bar of the units of work.

        Args:
            jobs: What to run.
            sizes: Units of work of each job.
            name: Shown before the bar.
            unit: Name of a unit of work.

        Returns:
            How many jobs were run.

        Raises:
            JobsFailed: If a job raised. The others have been run.
        """
        left = unfinished(jobs, sizes)
        if not left:
            return 0
        waiting, total = [job for job, _ in left], sum(sizes)
        with progress_bar(total, total - sum(size for _, size in left), name, unit) as bar:
            failures = _run_here(waiting, bar) if self.workers == 1 else self._run_in_pool(waiting, bar)
        JobsFailed.raise_if(failures, len(waiting))
        return len(waiting)

    def _run_in_pool(self, jobs: Sequence[Job], bar: Any) -> list[BaseException]:
        pool = self._started_pool()
        failures: list[BaseException] = []
        pending: set[Future[None]] = {pool.submit(_work, job) for job in jobs}
        while pending:
            finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            failures += [error for future in finished if (error := future.exception()) is not None]
            _drain(self._progress, bar)
        return failures

    def _started_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Freed memory stays in the process: fresh pages from the system cost more than the arithmetic.
            os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1000000000")
            os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "4000000000")
            os.environ.setdefault("MALLOC_TOP_PAD_", "67108864")
            context = multiprocessing.get_context("spawn")
            self._progress = context.Queue()
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_start_worker, initargs=(self._progress,)
            )
        return self._pool


def _run_here(jobs: Sequence[Job], bar: Any) -> list[BaseException]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker, so that both round alike
    failures: list[BaseException] = []
    try:
        for job in jobs:
            try:
                job.run(bar.update)
            except Exception as error:
                failures.append(error)
    finally:
        torch.set_num_threads(threads)
    return failures


def progress_bar(total: int, initial: int, name: str, unit: str) -> Any:
    """A bar of units of work, on a terminal or in a log.

    Raises:
        ImportError: If tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("the progress bars need tqdm; install it with: pip install 'weightaug[bench]'") from error
    # On a terminal several times a second; in a log file once in ten seconds.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, initial=initial, desc=name, unit=unit, mininterval=interval, dynamic_ncols=True)


def _drain(progress: Any, bar: Any) -> None:
    try:
        while True:
            bar.update(progress.get_nowait())
    except queue.Empty:
        pass


_report: Callable[[int], None]


def _start_worker(progress: Any) -> None:
    global _report
    _report = progress.put
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Job) -> None:
    job.run(_report)
