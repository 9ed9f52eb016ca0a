"""Runs jobs with Ray, on this machine or on a cluster whose machines share the folder of results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.running.executor import Job, JobsFailed, progress_bar, unfinished


class RayExecutor:
    """Runs jobs as Ray tasks; a context manager that leaves Ray at the end.

    A job's output file is its state here too: a task that is lost with its machine is started again, and what is
    done is skipped.

    Args:
        workers: CPUs of a Ray that is started here; a cluster has its own number.
        address: Cluster to join, None to start Ray here.
        gpus_per_job: Share of a GPU that a job reserves.

    Raises:
        ImportError: If Ray is not installed.
    """

    def __init__(self, workers: int, *, address: str | None = None, gpus_per_job: float = 0.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError("the executor needs Ray; install it with: pip install 'weightaug[ray]'") from error
        self._ray: Any = ray
        self._options = {"num_cpus": 1, "num_gpus": gpus_per_job, "max_retries": 3}
        self._started = not ray.is_initialized()
        # Workers find this package where the driver has it.
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        if self._started:
            ray.init(
                address,
                num_cpus=workers if address is None else None,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                include_dashboard=False,
                log_to_driver=False,
            )

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            self._ray.shutdown()

    def run(self, jobs: Sequence[Job], sizes: Sequence[int], *, name: str, unit: str) -> int:
        """Runs the jobs that are not done, as :meth:`benchmarks.running.executor.Executor.run` does.

        Args:
            jobs: What to run.
            sizes: Units of work of each job.
            name: Shown before the bar, which moves when a job is finished.
            unit: Name of a unit of work.

        Returns:
            How many jobs were run.

        Raises:
            JobsFailed: If a job raised. The others have been run.
        """
        waiting = unfinished(jobs, sizes)
        if not waiting:
            return 0
        total = sum(sizes)
        task = self._ray.remote(**self._options)(_work)
        failures: list[BaseException] = []
        with progress_bar(total, total - sum(size for _, size in waiting), name, unit) as bar:
            pending = {task.remote(job): size for job, size in waiting}
            while pending:
                finished, _ = self._ray.wait(list(pending), timeout=1.0)
                for reference in finished:
                    try:
                        self._ray.get(reference)
                    except self._ray.exceptions.RayError as error:
                        failures.append(getattr(error, "cause", None) or error)
                    bar.update(pending.pop(reference))
        JobsFailed.raise_if(failures, len(waiting))
        return len(waiting)


def _work(job: Any) -> None:
    torch.set_num_threads(1)  # as in every other executor, so that all round alike
    job.run(lambda units: None)
