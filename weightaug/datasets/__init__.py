"""Small data sets of networks that come with the package, to try things on without fitting anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from weightaug.io import WeightSpaceDataset

if TYPE_CHECKING:
    from weightaug.transforms import Transform

__all__ = ["digits"]


def digits(*, transform: Transform | None = None) -> WeightSpaceDataset:
    """600 implicit networks of handwritten digits: SIRENs 2-16-16-1 that show images of 8 x 8 pixels.

    The first 600 of the digits of scikit-learn (which come from the UCI repository, Alpaydin and Kaynak 1998), some 60
    of each class, drawn at 36 x 36 pixels and fitted with
    :func:`weightaug.fitting.fit_inrs` to 36 dB (the least to 23). They take points (x, y) in [-1, 1] and give
    -1 for paper and 1 for ink; ``render(element, 8)`` draws them.

    Args:
        transform: Augments each sample, as in :class:`weightaug.io.WeightSpaceDataset`.

    Returns:
        A data set whose ``element`` is ``(600,)`` in float32, memory-mapped; ``labels`` are int64 ``(600,)``, and
        ``columns["psnr"]`` tells how well each network shows its image, in dB.

    Example:
        >>> import weightaug as wa
        >>> data = wa.datasets.digits()
        >>> data.element
        WeightSpaceElement(2-16-16-1, batch_shape=(600,), dtype=torch.float32, device='cpu')
        >>> data.labels[:5].tolist()
        [0, 1, 2, 3, 4]
    """
    return WeightSpaceDataset(Path(__file__).parent / "digits", transform=transform)
