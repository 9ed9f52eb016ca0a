"""Generic transforms that change the function: noise and dropout of parameters (paper section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weightaug._modes import wide
from weightaug._operations import add_noise, mask, quantile_dropout
from weightaug.element import WeightSpaceElement
from weightaug.transforms import draws, settings
from weightaug.transforms.base import Transform

__all__ = ["Dropout", "GaussianNoise", "QuantileDropout"]


@dataclass(frozen=True)
class GaussianNoise(Transform):
    """Adds Gaussian noise, relative to the standard deviation of each tensor of each network.

    Preserves nothing: at the paper's strength of 0.32 a fitted image is destroyed (about 8 dB). Draws one
    normal number per parameter. The deviation is that of ``torch.std`` (unbiased: the squares are divided by
    n - 1), as in the paper's code. A tensor with one entry has no deviation and gets no noise.
    The squares have to be numbers of the dtype: float32 (and bfloat16) weights beyond about 1e18 need float64.
    Source: paper section 3 and appendix D; weights and biases have their own deviations, as in its code.

    Args:
        scale: Deviation of the noise in units of the tensor's, at least 0.
    """

    scale: float = 0.32

    def __post_init__(self) -> None:
        settings.number(self, "scale", 0)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> WeightSpaceElement:
        noise = draws.normal(element, (element.num_parameters,), generator)
        return WeightSpaceElement.unflatten(element.architecture, noise)

    def apply(self, element: WeightSpaceElement, params: WeightSpaceElement) -> WeightSpaceElement:
        return add_noise(element, params, self.scale)


@dataclass(frozen=True)
class Dropout(Transform):
    """Sets each parameter to zero with probability p.

    Preserves nothing. Draws one decision per parameter. Source: paper section 3 and appendix D. The
    paper's code also multiplies the parameters that are left by 1 / (1 - p): ``rescale=True``.

    Args:
        p: Probability that a parameter is set to zero, in [0, 1).
        rescale: Multiply the parameters that are left by 1 / (1 - p).
    """

    p: float = 0.1
    rescale: bool = False

    def __post_init__(self) -> None:
        settings.number(self, "p", 0, 1, ends="[)")
        settings.flag(self, "rescale")

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> WeightSpaceElement:
        keep = draws.bernoulli(element, (element.num_parameters,), 1 - self.p, generator)
        return WeightSpaceElement.unflatten(element.architecture, keep)

    def apply(self, element: WeightSpaceElement, params: WeightSpaceElement) -> WeightSpaceElement:
        return mask(element, params, 1 / (1 - self.p) if self.rescale else 1.0)


@dataclass(frozen=True)
class QuantileDropout(Transform):
    """Sets the parameters of least magnitude to zero, up to a random quantile.

    Preserves nothing, but little is lost. Draws a quantile per network, uniform in [0, q]; parameters whose
    magnitude is below it become zero. Source: paper appendix D ("the q-th quantile", ``random=False``); its
    code draws the quantile and pools all tensors of a network.

    Args:
        q: Largest quantile, in [0, 1].
        pooled: One threshold per network over all its tensors; False: one per tensor.
        random: Draw the quantile per network from [0, q]; False: always q.
    """

    q: float = 0.1
    pooled: bool = True
    random: bool = True

    def __post_init__(self) -> None:
        settings.number(self, "q", 0, 1)
        settings.flag(self, "pooled")
        settings.flag(self, "random")

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Tensor:
        if self.random:
            return draws.uniform(element, (), 0.0, self.q, generator)
        return torch.full(element.batch_shape, self.q, dtype=wide(element.dtype), device=element.device)

    def apply(self, element: WeightSpaceElement, params: Tensor) -> WeightSpaceElement:
        return quantile_dropout(element, params, pooled=self.pooled, bound=self.q)
