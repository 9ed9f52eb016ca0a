"""Several augmented views of the same networks: for contrastive training, and for averages at test time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from weightaug._arguments import check_element, check_generator, require_tensor
from weightaug._joining import cat
from weightaug.element import WeightSpaceElement
from weightaug.transforms import settings
from weightaug.transforms.base import Transform

__all__ = ["TestTime", "TwoViews"]


@dataclass(frozen=True)
class TwoViews:
    """Two independently augmented views of every network, as contrastive losses compare them.

    Args:
        first: Makes the first view.
        second: Makes the second view; None for the first transform with draws of its own.

    Raises:
        TypeError: If one is no transform.

    Example:
        >>> import torch, weightaug as wa
        >>> x = wa.WeightSpaceElement.unflatten(wa.Architecture.siren((2, 8, 1)), torch.randn(5, 33))
        >>> a, b = wa.TwoViews(wa.Compose([wa.Permute(), wa.GaussianNoise(0.05)]))(x)
        >>> a.batch_shape == b.batch_shape == x.batch_shape
        True
    """

    first: Transform
    second: Transform | None = None

    def __post_init__(self) -> None:
        settings.instance(self, "first", self.first)
        if self.second is not None:
            settings.instance(self, "second", self.second)

    def __call__(
        self, element: WeightSpaceElement, *targets: Any, generator: torch.Generator | None = None
    ) -> tuple[Any, Any]:
        """Both views; with targets, each view is what the transform returns for them: ``((x1, y1), (x2, y2))``.

        Args:
            element: Networks, ``(*batch, ...)``.
            *targets: As for a transform.
            generator: Source of randomness for both, one after the other; None uses torch's global one.
        """
        second = self.first if self.second is None else self.second
        return self.first(element, *targets, generator=generator), second(element, *targets, generator=generator)


@dataclass(frozen=True)
class TestTime:
    """Averages what a model says of networks over augmented copies of them, the networks themselves counted in.

    The copies are drawn anew in every call, from the same seed, so that the same call gives the same answer.

    Args:
        transform: Makes the copies; it must not mix networks.
        n: Number of views of each network, at least 1: the network and n - 1 copies.
        seed: Seed of the draws.
        batch: Networks that the model gets at a time, at least 1.

    Raises:
        TypeError: If the transform is none.
        ValueError: If it mixes, or a setting is out of range.

    Example:
        >>> import torch, weightaug as wa
        >>> x = wa.WeightSpaceElement.unflatten(wa.Architecture.siren((2, 8, 1)), torch.randn(5, 33))
        >>> model = lambda element: element.flatten()[:, :10]  # scores of ten classes
        >>> wa.TestTime(wa.Permute(), n=16)(model, x).shape
        torch.Size([5, 10])
    """

    __test__: ClassVar[bool] = False  # pytest takes what is called Test... for tests

    transform: Transform
    n: int = 8
    seed: int = 0
    batch: int = 512

    def __post_init__(self) -> None:
        settings.instance(self, "transform", self.transform)
        settings.integer(self, "n", 1)
        settings.integer(self, "seed", 0, 2**63 - 1)
        settings.integer(self, "batch", 1)
        if self.transform.mixes:
            raise ValueError(f"TestTime: the transform must not mix networks, got {self.transform!r}")

    def __call__(
        self,
        model: Callable[[WeightSpaceElement], Any],
        element: WeightSpaceElement,
        *,
        generator: torch.Generator | None = None,
    ) -> Any:
        """The mean of the model's answers.

        Args:
            model: From networks with one batch dimension to a tensor ``(batch, ...)``, or several in a tuple or
                dictionary. Give it in evaluation mode, and under ``torch.no_grad`` where no gradients are wanted.
            element: Networks, with one batch dimension or none.
            generator: Source of randomness instead of the seed.

        Raises:
            TypeError: If the model is not callable or the networks are no element.
            ValueError: If the networks have more batch dimensions, or an answer does not lead with the batch.
        """
        if not callable(model):
            raise TypeError(f"TestTime: model must be callable, got {model!r}; write TestTime(...)(model, element)")
        check_element("TestTime: element", element)
        check_generator(generator)
        if len(element.batch_shape) > 1:
            raise ValueError(f"TestTime: expected batch shape (n,) or (), got {tuple(element.batch_shape)}; flatten it")
        if not element.batch_shape:
            single = self(model, element.map(lambda t: t.unsqueeze(0)), generator=generator)
            return pytree.tree_map(lambda t: t[0], single)
        generator = torch.Generator(device="cpu").manual_seed(self.seed) if generator is None else generator
        views = [element]
        views += [self.transform(element, generator=generator) for _ in range(self.n - 1)]
        networks = cat(views)
        answers = []
        for start in range(0, max(len(networks), 1), self.batch):
            piece = networks[start : start + self.batch]
            answers.append(pytree.tree_map(functools.partial(_led_by, size=len(piece)), model(piece)))
        form = (self.n, len(element))
        return pytree.tree_map(lambda *parts: torch.cat(parts).unflatten(0, form).mean(0), *answers)


def _led_by(answer: Tensor, size: int) -> Tensor:
    """The model's answer, if it has one entry for each network."""
    if require_tensor("TestTime: the model's answer", answer).shape[:1] != (size,):
        raise ValueError(
            f"TestTime: the model must answer for each network, ({size}, ...), got shape {tuple(answer.shape)}"
        )
    return answer
