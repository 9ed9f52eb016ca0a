"""Fits INRs to whole collections of images, shard by shard, on as many processes or machines as there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from weightaug._making import Made, Shard, check_settings, digest_of, make_shards
from weightaug._spreading import ExecutorName
from weightaug.fitting.conventions import Convention, ConventionName, convention_of
from weightaug.fitting.descent import Adam
from weightaug.fitting.images import check_images, fit_inrs
from weightaug.fitting.initial import seed_of

if TYPE_CHECKING:
    from weightaug.io import WeightSpaceDataset

__all__ = ["make_inrs"]


def make_inrs(
    images: Tensor,
    folder: str | Path,
    *,
    labels: Tensor | None = None,
    convention: Convention | ConventionName = "siren",
    hidden: Sequence[int] = (32, 32),
    settings: Adam = Adam(steps=1000, learning_rate=3e-3, target_psnr=40.0),  # noqa: B008 (frozen)
    seed: int = 0,
    shard_size: int = 128,
    executor: ExecutorName = "serial",
    workers: int | None = None,
    progress: bool = True,
) -> WeightSpaceDataset:
    """Fits a SIREN to each of many images and writes them to a folder, one shard after the other.

    Every shard is a folder of its own, which is there or is not: a call that was interrupted goes on where it stopped
    when it is repeated. Network i starts from a seed of its own, whoever fits it; another ``seed`` and folder give
    another view of the same images.

    Args:
        images: ``(n, height, width)`` or ``(n, channels, height, width)`` with values in [0, 1], of a floating dtype.
        folder: Where the networks go: ``<first>-<end>``. Shared by all machines, with Ray on a cluster.
        labels: One row per image, kept with the networks.
        convention: As for :func:`fit_inrs`.
        hidden: Widths of the hidden spaces.
        settings: Steps, rates, and the PSNR at which a network stops.
        seed: Of all initial weights, together with the position of the image.
        shard_size: Networks per task and file.
        executor: ``"serial"``: in this process; ``"processes"``: one thread each, on this machine (the calling script
            needs ``if __name__ == "__main__"``); ``"ray"``: on the Ray cluster that is initialised, or on this machine
            (extra ``ray``).
        workers: Processes, or CPUs of a Ray that is started here; None for one per core.
        progress: Show a bar, where tqdm is installed.

    Returns:
        All networks in the order of the images, with the columns ``psnr`` (dB) and ``steps``.

    Raises:
        ValueError: If images have another shape or values outside of [0, 1], a setting is out of range, or the folder
            holds networks that were fitted with other settings or to other images.
        TypeError: If images are integers.
        ImportError: If Ray is asked for and not installed.

    Example:
        >>> import tempfile, torch
        >>> from weightaug.fitting import make_inrs
        >>> data = make_inrs(torch.rand(5, 8, 8), tempfile.mkdtemp(), shard_size=2, progress=False)
        >>> len(data), sorted(data.columns)
        (5, ['psnr', 'steps'])
    """
    check_images(images)
    convention_of(convention)
    if len(images) == 0:
        raise ValueError("make_inrs: images: expected at least one, got none")
    check_settings("make_inrs", len(images), labels, shard_size, executor, workers)
    made_with = digest_of(convention, tuple(hidden), settings)
    shards = []
    for first in range(0, len(images), shard_size):
        part = slice(first, min(first + shard_size, len(images)))
        shards.append(
            _Fits(
                path=Path(folder) / f"{part.start:06d}-{part.stop:06d}",
                size=part.stop - part.start,
                images=images[part],
                labels=None if labels is None else labels[part],
                convention=convention,
                hidden=tuple(hidden),
                settings=settings,
                seeds=tuple(seed_of(seed, i) for i in range(part.start, part.stop)),
                made_with=made_with,
            )
        )
    return make_shards(shards, executor, workers, name="fitting", progress=progress)


@dataclass(frozen=True)
class _Fits(Shard):
    images: Tensor
    labels: Tensor | None
    convention: Convention | ConventionName
    hidden: tuple[int, ...]
    settings: Adam
    seeds: tuple[int, ...]
    made_with: str

    def metadata(self) -> dict[str, Any]:
        return {
            "settings": repr(self.settings),
            "made_with": self.made_with,
            "images": digest_of(self.images, *([] if self.labels is None else [self.labels])),
            "seeds": digest_of(*self.seeds),
        }

    def make(self) -> Made:
        fitted = fit_inrs(
            self.images, convention=self.convention, hidden=self.hidden, settings=self.settings, seeds=self.seeds
        )
        columns = {"psnr": fitted.psnr.cpu(), "steps": fitted.steps.cpu()}
        return Made(fitted.element, self.labels, columns)
