"""The laws over a range of networks and batches: what :func:`check_transform` asks of one, asked of all that fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightaug.architecture import Activation, Architecture, Layer, Space
from weightaug.testing.laws import check_transform
from weightaug.testing.networks import random_element
from weightaug.transforms.base import Transform

__all__ = ["EXAMPLES", "check_everywhere"]


def _residual() -> Architecture:
    tanh, gelu = Activation("tanh", 5.0), Activation("gelu")
    spaces = (Space("input", 3), Space("first", 5, tanh), Space("second", 4, gelu), Space("output", 2))
    layers = (
        Layer("a", "input", "first"),
        Layer("b", "first", "second", bias=False),
        Layer("c", "second", "output"),
        Layer("skip", "first", "output", bias=False),
    )
    return Architecture(spaces, layers)


# Every symmetry, one to three inputs, several omegas, with and without biases and skips, and one-neuron spaces.
EXAMPLES: tuple[Architecture, ...] = (
    Architecture.siren((2, 6, 5, 1)),
    Architecture.mlp((3, 5, 4, 6, 2), [Activation("tanh", 5.0), Activation("gelu"), Activation("sine", 30.0)]),
    Architecture.mlp((3, 6, 5, 2), Activation("relu"), output_offset=0.5),
    Architecture.mlp((2, 4, 3, 1), Activation("tanh"), bias=False),
    Architecture.mlp((1, 1, 1), Activation("sine", 0.7)),
    _residual(),
)


def check_everywhere(
    transform: Transform,
    architectures: Sequence[Architecture] | None = None,
    *,
    seed: int = 0,
    graph: bool = True,
    modes: bool = True,
    tolerance: float = 1e-8,
) -> list[Architecture]:
    """Holds a transform to the laws on every architecture that it accepts, and on batches of several shapes.

    Args:
        transform: What is tested; see :func:`check_transform` for the laws.
        architectures: Networks to test on; None for six small multi-layer perceptrons that together have every
            symmetry, one to three inputs, layers with and without biases, a skip, and spaces of one neuron.
        seed: Seed of networks and generators.
        graph: Also test compilation, on the first architecture that fits; about a second.
        modes: Also test the forms of memory and the surrounding modes, there.
        tolerance: For function preservation, relative to the size of the outputs.

    Returns:
        The architectures that the transform accepts, on all of which the laws hold.

    Raises:
        AssertionError: If a law does not hold; the message begins with its name and ends with the networks.
        ValueError: If the transform accepts none of the architectures; with its reasons.
    """
    accepted: list[Architecture] = []
    refusals: list[str] = []
    for architecture in EXAMPLES if architectures is None else architectures:
        try:
            transform.check(architecture)
        except ValueError as error:
            refusals.append(f"{error}")
            continue
        accepted.append(architecture)
    if not accepted:
        raise ValueError(
            f"{transform!r} accepts none of the architectures, so that nothing was tested; "
            f"give one that it is for as `architectures`. It said: {'; '.join(refusals)}"
        )
    for i, architecture in enumerate(accepted):
        batches: list[tuple[int, ...]] = [(4,), (1,), (0,), (2, 2)]
        if not transform.mixes:
            batches.append(())
        for batch in batches:
            element = random_element(architecture, batch, seed=seed)
            full = i == 0 and batch == (4,)
            try:
                check_transform(
                    transform,
                    element,
                    _targets(batch, seed),
                    seed=seed,
                    graph=graph and full,
                    modes=modes and full,
                    tolerance=tolerance,
                )
            except AssertionError as error:
                raise AssertionError(f"{error} [on {element!r}]") from error
    return accepted


def _targets(batch: tuple[int, ...], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(*batch, 3, generator=generator).softmax(-1),
        torch.rand(*batch, 2, 2, generator=generator, dtype=torch.float64),
    ]
