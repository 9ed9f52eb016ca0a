"""Views of a data set of networks, made ahead of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weightaug._making import Made, Shard, check_settings, digest_of, make_shards
from weightaug._spreading import ExecutorName
from weightaug.element import WeightSpaceElement
from weightaug.fitting.initial import seed_of
from weightaug.transforms.base import Transform
from weightaug.transforms.refit import RefitParams

if TYPE_CHECKING:
    from weightaug.io import WeightSpaceDataset

__all__ = ["make_views"]


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
    if count < 1:
        raise ValueError(f"make_views: count must be at least 1, got {count}")
    check_settings("make_views", len(networks), labels, shard_size, executor, workers)
    transform.check(networks.architecture)

    made_with = digest_of(transform)
    shards = []
    for view in range(count):
        order = torch.arange(len(networks), device="cpu")
        if transform.mixes:  # data sets are often sorted by class: partners are to come from everywhere
            generator = torch.Generator("cpu").manual_seed(seed_of(seed, view, "order"))
            order = torch.randperm(len(networks), generator=generator, device="cpu")
        for first in range(0, len(networks), shard_size):
            index = order[first : first + shard_size]
            shards.append(
                _Views(
                    path=Path(folder) / f"view-{view:03d}" / f"{first:06d}-{first + len(index):06d}",
                    size=len(index),
                    transform=transform,
                    networks=networks[index.to(networks.device)],
                    labels=None if labels is None else labels[index.to(labels.device)],
                    source=index,
                    view=view,
                    seed=seed_of(seed, view, first),
                    made_with=made_with,
                )
            )
    return make_shards(shards, executor, workers, name="views", progress=progress)


@dataclass(frozen=True)
class _Views(Shard):
    transform: Transform
    networks: WeightSpaceElement
    labels: Tensor | None
    source: Tensor
    view: int
    seed: int
    made_with: str

    def metadata(self) -> dict[str, Any]:
        return {
            "transform": repr(self.transform)[:2000],
            "made_with": self.made_with,
            "networks": digest_of(*self.networks.tensors(), *([] if self.labels is None else [self.labels])),
            "seed": self.seed,
            "view": self.view,
        }

    def make(self) -> Made:
        generator = torch.Generator().manual_seed(self.seed)
        element, params = self.transform.sample_apply(self.networks, generator=generator)
        labels = self.labels
        if labels is not None:
            (labels,) = self.transform.apply_targets((labels,), params)
        columns = {"source": self.source, "view": torch.full_like(self.source, self.view)}
        if isinstance(params, RefitParams):
            columns["psnr"] = params.psnr.cpu()
        return Made(element, labels, columns)
