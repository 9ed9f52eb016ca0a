"""One network per call, as a data set's ``__getitem__`` works: ours against plain code for single networks.

The published code keeps a network as two tuples of tensors, ``(1, in, out, 1)`` and ``(1, out, 1)``, and augments it
in a worker of the DataLoader, layer by layer. The functions here do the same work as our transforms in that layout,
without checks; written for this comparison. Ours is measured twice: on an element, and from such tuples and back.

Both take turns in one process, and the time is the processor's, so that a busy machine disturbs the ratio little.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import weightaug as wa
from benchmarks.measuring import growth, loops
from weightaug import matching
from weightaug.adapters import from_dws, to_dws

__all__ = ["Single", "measure", "work_of"]

WIDE = ((2, 512, 512, 1), (784, 512, 512, 512, 10))
Network = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
Plain = Callable[[Network, list[Network]], Any]


class Single(NamedTuple):
    """Processor time of one call, in microseconds.

    Attributes:
        work: The transform.
        plain: The plain code.
        ours: On an element.
        converted: From tuples in the published layout, and back; None where there is no such use.
    """

    work: str
    plain: float
    ours: float
    converted: float | None = None


def _per_neuron(network: Network, factor: Callable[[int], tuple[Tensor, Tensor]]) -> Network:
    """Multiplies what writes each hidden neuron, and what reads it, by factors that are drawn layer by layer."""
    weights, biases = list(network[0]), list(network[1])
    for i in range(len(weights) - 1):
        write, read = factor(weights[i].shape[2])
        weights[i] = weights[i] * write.view(1, 1, -1, 1)
        biases[i] = biases[i] * write.view(1, -1, 1)
        weights[i + 1] = weights[i + 1] * read.view(1, -1, 1, 1)
    return tuple(weights), tuple(biases)


def _negation(network: Network, _: list[Network]) -> Network:
    def draw(size: int) -> tuple[Tensor, Tensor]:
        sign = torch.where(torch.rand(size) < 0.5, -1.0, 1.0)
        return sign, sign

    return _per_neuron(network, draw)


def _relu_scale(network: Network, _: list[Network]) -> Network:
    def draw(size: int) -> tuple[Tensor, Tensor]:
        factor = torch.empty(size).uniform_(-math.log(2), math.log(2)).exp()
        return factor, 1 / factor

    return _per_neuron(network, draw)


def _bias(network: Network, _: list[Network]) -> Network:
    weights, biases = list(network[0]), list(network[1])
    for i in range(len(weights) - 1):
        k = torch.randint(-1, 2, (weights[i].shape[2],))
        biases[i] = biases[i] + (k * (math.pi / 30.0)).view(1, -1, 1)
        weights[i + 1] = weights[i + 1] * (1 - 2 * (k % 2)).view(1, -1, 1, 1)
    return tuple(weights), tuple(biases)


def _permute(network: Network, _: list[Network]) -> Network:
    weights, biases = list(network[0]), list(network[1])
    for i in range(len(weights) - 1):
        order = torch.randperm(weights[i].shape[2])
        weights[i] = weights[i][:, :, order]
        biases[i] = biases[i][:, order]
        weights[i + 1] = weights[i + 1][:, order]
    return tuple(weights), tuple(biases)


def _rotate(network: Network, _: list[Network]) -> Network:
    (first, *weights), biases = network
    angle = (torch.rand(1) * 2 - 1) * math.radians(30)
    c, s = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack([torch.cat([c, s]), torch.cat([-s, c])])
    return ((matrix @ first.squeeze(-1)).unsqueeze(-1), *weights), biases


def _translate(network: Network, _: list[Network]) -> Network:
    weights, (first, *biases) = network
    shift = (torch.rand(weights[0].shape[1]) * 2 - 1) * 0.25
    return weights, (first + (shift @ weights[0].squeeze(-1)).unsqueeze(-1), *biases)


def _scale(network: Network, _: list[Network]) -> Network:
    (first, *weights), biases = network
    return (first * (1 + (torch.rand(1) * 2 - 1) * 0.2), *weights), biases


def _mapped(network: Network, function: Callable[[Tensor], Tensor]) -> Network:
    return tuple([function(w) for w in network[0]]), tuple([function(b) for b in network[1]])


def _noise(network: Network, _: list[Network]) -> Network:
    # The last bias is one number, whose deviation is no number.
    return _mapped(network, lambda t: t if t.numel() == 1 else t + torch.randn_like(t) * (0.32 * t.std()))


def _dropout(network: Network, _: list[Network]) -> Network:
    return _mapped(network, lambda t: torch.nn.functional.dropout(t, 0.1))


def _quantile_dropout(network: Network, _: list[Network]) -> Network:
    pooled = torch.cat([t.abs().flatten() for t in (*network[0], *network[1])])
    threshold = torch.quantile(pooled, torch.rand(1) * 0.1)
    return _mapped(network, lambda t: torch.where(t.abs() < threshold, 0.0, t))


def _mixup(network: Network, pool: list[Network]) -> Network:
    lam = torch.rand(1)
    partner = pool[int(torch.randint(len(pool), (1,)))]
    return (
        tuple([lam * a + (1 - lam) * b for a, b in zip(network[0], partner[0], strict=True)]),
        tuple([lam * a + (1 - lam) * b for a, b in zip(network[1], partner[1], strict=True)]),
    )


def work_of(pool: wa.WeightSpaceElement) -> dict[str, tuple[wa.Transform, Plain]]:
    """Every transform, with the plain code that does the same; partners come from a pool."""
    return {
        "SirenNegation": (wa.SirenNegation(), _negation),
        "SirenBias": (wa.SirenBias(), _bias),
        "Permute": (wa.Permute(), _permute),
        "ReLUScale": (wa.ReLUScale(), _relu_scale),
        "Rotate": (wa.Rotate(), _rotate),
        "Translate": (wa.Translate(), _translate),
        "Scale": (wa.Scale(), _scale),
        "GaussianNoise": (wa.GaussianNoise(), _noise),
        "Dropout": (wa.Dropout(rescale=True), _dropout),
        "QuantileDropout": (wa.QuantileDropout(), _quantile_dropout),
        "Mixup, pool": (wa.Mixup(pool=wa.Pool(pool), targets="keep"), _mixup),
    }


def medians(functions: list[Callable[[], Any]], calls: int, rounds: int) -> list[float]:
    """Processor time of one call of each function, in microseconds: medians of rounds in which they take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 1):
        for function, found in zip(functions, times, strict=True):
            start = time.process_time()
            for _ in range(calls):
                function()
            if turn:  # the first round warms up
                found.append((time.process_time() - start) / calls * 1e6)
    return [statistics.median(found) for found in times]


def measure(siren: wa.Architecture, relu: wa.Architecture, *, calls: int = 100, rounds: int = 9) -> list[Single]:
    """Every transform on one network, and one pair matched, with as many threads as torch has."""
    found = []
    networks = {architecture: growth.networks(architecture, 100) for architecture in (siren, relu)}
    for name, (transform, plain) in work_of(networks[siren]).items():
        architecture = relu if name == "ReLUScale" else siren
        batch = networks[architecture]
        pool = [to_dws(batch[i : i + 1]) for i in range(len(batch))]
        element = batch[0]
        calls_of: list[Callable[[], Any]] = [
            partial(plain, pool[0], pool),
            partial(transform, element),
            _converted(transform, pool[0], element),
        ]
        found.append(Single(name, *medians(calls_of, calls, rounds)))
    found.append(_matched("match, 2-32-32-1", networks[siren][0], networks[siren][1], max(calls // 10, 1), rounds))
    for sizes in WIDE if calls > 1 else ():  # some seconds
        pair = growth.networks(wa.Architecture.siren(sizes), 2)
        found.append(_matched("match, " + "-".join(map(str, sizes)), pair[0], pair[1], 1, 5))
    return found


def _matched(name: str, a: wa.WeightSpaceElement, b: wa.WeightSpaceElement, calls: int, rounds: int) -> Single:
    """One pair over permutations from the identity, by plain code and by ours."""
    lists = [list(t) for x in (a, b) for t in (x.weights, x.biases)]
    ours = partial(matching.match, a, b, symmetry="permutation", starts=("identity",))
    return Single(name, *medians([lambda: loops.weight_matching(*lists), ours], calls, rounds))  # type: ignore[arg-type]


def _converted(transform: wa.Transform, network: Network, element: wa.WeightSpaceElement) -> Callable[[], Any]:
    architecture = element.architecture
    weights, biases = tuple([w.squeeze(0) for w in network[0]]), tuple([b.squeeze(0) for b in network[1]])
    # As in a data set whose values were checked when it was made.
    return lambda: to_dws(transform(from_dws(weights, biases, architecture, check_values=False)))
