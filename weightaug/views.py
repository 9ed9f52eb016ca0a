"""Views of a data set of networks, made ahead of training."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from weightaug._progress import bar
from weightaug.element import WeightSpaceElement
from weightaug.fitting.initial import seed_of
from weightaug.transforms.base import Transform
from weightaug.transforms.mixing import Pool
from weightaug.transforms.refit import RefitParams

if TYPE_CHECKING:
    from weightaug.io import WeightSpaceDataset

__all__ = ["make_views"]

ExecutorName = Literal["serial", "processes", "ray"]


def make_views(
    networks: WeightSpaceElement,
    count: int,
    folder: str | Path,
    *,
    transform: Transform,
    labels: Tensor | None = None,
    seed: int = 0,
    shard_size: int = 256,
    executor: ExecutorName = "serial",
    workers: int | None = None,
    progress: bool = True,
) -> WeightSpaceDataset:
    """Makes views of networks and writes them to a folder, one shard after the other.

    What costs too much in the training loop, such as :class:`weightaug.Refit`, is done once. Every shard is a folder
    of its own, which is there or is not: a call that was interrupted goes on where it stopped when it is repeated.
    Every shard has a seed of its own, so its draws do not depend on who makes it (results agree up to rounding).

    Args:
        networks: The originals, ``(n,)``.
        count: Views of each network.
        folder: Where the views go: ``view-<number>/<first>-<end>``. Shared by all machines, with Ray on a cluster.
        transform: What makes a view. A mixing transform finds its partners within the shard, of which each view draws
            other members, or in its pool.
        labels: One row per network; with a mixing transform floating ones, which are mixed alike.
        seed: Of all draws.
        shard_size: Networks per task and file.
        executor: ``"serial"``: in this process; ``"processes"``: one thread each, on this machine (the calling script
            needs ``if __name__ == "__main__"``); ``"ray"``: on the Ray cluster that is initialised, or on this machine
            (extra ``ray``).
        workers: Processes, or CPUs of a Ray that is started here; None for one per core.
        progress: Show a bar, where tqdm is installed.

    Returns:
        All views, view after view, with the columns ``view``, ``source`` (the number of the network) and, if the
        transform is a :class:`weightaug.Refit`, ``psnr`` (how well the function was kept, in dB).

    Raises:
        ValueError: If the networks are no batch ``(n,)``, a setting is out of range, or the folder holds views that
            were made with other settings or of other networks.
        ImportError: If Ray is asked for and not installed.

    Example:
        >>> import tempfile, torch, weightaug as wa
        >>> networks = wa.fitting.fit_inrs(torch.rand(6, 8, 8)).element
        >>> refit = wa.Refit(wa.GaussianNoise(0.3), points=8)
        >>> views = wa.make_views(networks, 2, tempfile.mkdtemp(), transform=refit, progress=False)
        >>> len(views)
        12
    """
    if len(networks.batch_shape) != 1 or len(networks) == 0:
        raise ValueError(f"make_views: expected networks (n,) with n >= 1, got {tuple(networks.batch_shape)}")
    for name, value in (("count", count), ("shard_size", shard_size), ("workers", 1 if workers is None else workers)):
        if value < 1:
            raise ValueError(f"make_views: {name} must be at least 1, got {value}")
    if labels is not None and labels.shape[:1] != networks.batch_shape:
        raise ValueError(f"make_views: labels: expected {len(networks)} rows, got {tuple(labels.shape)}")
    if executor not in ("serial", "processes", "ray"):
        raise ValueError(f"make_views: executor must be 'serial', 'processes' or 'ray', got {executor!r}")
    transform.check(networks.architecture)

    made_with = _fingerprint(transform)
    shards = []
    for view in range(count):
        order = torch.arange(len(networks), device="cpu")
        if transform.mixes:  # data sets are often sorted by class: partners are to come from everywhere
            generator = torch.Generator("cpu").manual_seed(seed_of(seed, view, "order"))
            order = torch.randperm(len(networks), generator=generator, device="cpu")
        for first in range(0, len(networks), shard_size):
            index = order[first : first + shard_size]
            shards.append(
                _Shard(
                    path=Path(folder) / f"view-{view:03d}" / f"{first:06d}-{first + len(index):06d}",
                    transform=transform,
                    networks=networks[index.to(networks.device)],
                    labels=None if labels is None else labels[index.to(labels.device)],
                    source=index,
                    view=view,
                    seed=seed_of(seed, view, first),
                    made_with=made_with,
                )
            )
    waiting = [shard for shard in shards if not shard.done()]
    with bar(len(networks) * count, unit="network", name="views", wanted=progress) as advance:
        advance(sum(len(s.source) for s in shards) - sum(len(s.source) for s in waiting))
        for size in _RUN[executor](waiting, workers):
            advance(size)
    from weightaug.io import WeightSpaceDataset

    return WeightSpaceDataset(*(shard.path for shard in shards))


@dataclass(frozen=True)
class _Shard:
    """One task: some networks, and where their views go."""

    path: Path
    transform: Transform
    networks: WeightSpaceElement
    labels: Tensor | None
    source: Tensor
    view: int
    seed: int
    made_with: str

    def metadata(self) -> dict[str, Any]:
        content = hashlib.sha256()
        for tensor in [*self.networks.tensors(), *([] if self.labels is None else [self.labels])]:
            content.update(_bytes(tensor))
        return {
            "transform": repr(self.transform)[:2000],
            "made_with": self.made_with,
            "networks": content.hexdigest(),
            "seed": self.seed,
            "view": self.view,
        }

    def done(self) -> bool:
        """Whether the shard is there.

        Raises:
            ValueError: If another one is.
        """
        if not (self.path / "manifest.json").exists():
            return False
        from weightaug.io import WeightSpaceDataset

        found, expected = WeightSpaceDataset(self.path, verify=False).metadata, self.metadata()
        for key, value in expected.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{self.path}: made with another {key}: expected {value!r}, got {found.get(key)!r}; choose another "
                    "folder, or delete this one"
                )
        return True

    def run(self) -> int:
        """Makes and writes the views; returns how many."""
        from weightaug import io

        generator = torch.Generator().manual_seed(self.seed)
        element, params = self.transform.sample_apply(self.networks, generator=generator)
        labels = self.labels
        if labels is not None:
            (labels,) = self.transform.apply_targets((labels,), params)
        columns = {"source": self.source, "view": torch.full_like(self.source, self.view)}
        if isinstance(params, RefitParams):
            columns["psnr"] = params.psnr.cpu()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        element = element.map(lambda t: t.detach().cpu())
        io.save(self.path, element, labels, columns=columns, metadata=self.metadata())
        return len(self.source)


def _fingerprint(value: object) -> str:
    """A hash of a transform with all that it holds, networks of a pool and points included."""
    content = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, Tensor):
            content.update(_bytes(value))
        elif isinstance(value, WeightSpaceElement):
            content.update(value.architecture.to_json().encode())
            for tensor in value.tensors():
                add(tensor)
        elif isinstance(value, Pool):
            add(value.element)
            add(tuple(value.targets))
        elif isinstance(value, tuple):
            content.update(f"({len(value)}".encode())
            for entry in value:
                add(entry)
        elif dataclasses.is_dataclass(value):
            content.update(type(value).__name__.encode())
            for field in dataclasses.fields(value):
                content.update(f"/{field.name}=".encode())
                add(getattr(value, field.name))
        else:
            content.update(repr(value).encode())

    add(value)
    return content.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return str((tensor.dtype, tuple(tensor.shape))).encode() + flat.view(torch.uint8).numpy().tobytes()


# -- executors ---------------------------------------------------------------------------------------------


def _serial(shards: Sequence[_Shard], workers: int | None) -> Iterator[int]:
    for shard in shards:
        yield shard.run()


def _processes(shards: Sequence[_Shard], workers: int | None) -> Iterator[int]:
    if not shards:
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = [pool.submit(_Shard.run, shard) for shard in shards]
        try:
            for future in as_completed(pending):
                yield future.result()
        finally:
            for future in pending:
                future.cancel()


def _on_ray(shards: Sequence[_Shard], workers: int | None) -> Iterator[int]:
    try:
        import ray
    except ImportError as error:
        raise ImportError("executor='ray' needs Ray; install it with: pip install 'weightaug[ray]'") from error
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        task = ray.remote(num_cpus=1, max_retries=3)(_Shard.run)  # a task that is lost with its machine starts again
        pending = [task.remote(shard) for shard in shards]
        while pending:
            finished, pending = ray.wait(pending)
            for reference in finished:
                yield ray.get(reference)
    finally:
        if started:
            ray.shutdown()


_RUN: dict[ExecutorName, Callable[[Sequence[_Shard], int | None], Iterator[int]]] = {
    "serial": _serial,
    "processes": _processes,
    "ray": _on_ray,
}
