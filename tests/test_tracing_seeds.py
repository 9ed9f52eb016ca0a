"""Every family under many random symmetries, in both precisions, in eval mode and in training mode.

Two seeds each by default, twenty with ``--hypothesis-profile deep``.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.families import FAMILIES
from tests.test_tracing import TRANSFORMS, applies, error, run, traced
from weightaug import (
    HeadPermutation,
    HeadRotation,
    LoRAGauge,
    Permute,
    StreamRotation,
    Transform,
    WeightSpaceElement,
)
from weightaug.adapters import from_modules

BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4}
# In training mode, a BatchNorm normalises by the batch: eps keeps factors from being exact.
EXACT_IN_TRAINING = (Permute, HeadPermutation, HeadRotation, StreamRotation, LoRAGauge)
SEEDS = range(20 if settings().max_examples >= 500 else 2)  # the profile deep


@functools.cache
def prepared(family: str, dtype: torch.dtype, training: bool) -> tuple[nn.Module, Any, WeightSpaceElement]:
    """A family in one precision and mode, without dropout, which would make another network of each call."""
    module, inputs, element = traced(family)
    architecture = element.architecture
    module = copy.deepcopy(module).to(dtype).train(training)
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, nn.MultiheadAttention):
            layer.dropout = 0.0
    inputs = pytree.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)
    return module, inputs, from_modules(module, architecture=architecture)


def computed(module: nn.Module, inputs: Any, element: WeightSpaceElement) -> tuple[list[Tensor], dict[str, Tensor]]:
    """All outputs, and all statistics as they are afterwards."""
    # A step of training writes statistics: into copies.
    tensors = {name: tensor.clone() for name, tensor in element.named_tensors()}
    outputs = run(module, inputs, tensors)
    return outputs, {name: t for name, t in tensors.items() if "running" in name}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=["float64", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_stay_and_statistics_follow(family: str, dtype: torch.dtype, training: bool, seed: int):
    module, inputs, element = prepared(family, dtype, training)
    expected, statistics = computed(module, inputs, element)
    done: list[Transform] = []
    for transform in TRANSFORMS:
        if not applies(transform, element.architecture) or (training and not isinstance(transform, EXACT_IN_TRAINING)):
            continue
        params = transform.sample(element, generator=torch.Generator().manual_seed(seed))
        moved = transform.apply(element, params)
        still = all(torch.equal(a, b) for a, b in zip(element.tensors(), moved.tensors(), strict=True))
        # Of two heads, the order that is drawn is often the one that is there.
        assert not still or isinstance(transform, HeadPermutation), transform
        got, followed = computed(module, inputs, moved)
        assert error(expected, got) < BOUNDS[dtype], transform
        # What a step leaves of the first network's statistics, moved, is what it leaves of the moved network's.
        after = element.with_tensors([statistics.get(name, t) for name, t in element.named_tensors()])
        for name, tensor in transform.apply(after, params).named_tensors():
            if name in followed:
                assert error([tensor], [followed[name]]) < BOUNDS[dtype], (transform, name)
        done.append(transform)
    assert done


@pytest.mark.parametrize("family", ["wild_park_relu", "depthwise", "unet", "resnet"])
def test_training_mode_does_update_statistics(family: str):
    # Else the comparison above would compare what nothing has touched.
    module, inputs, element = prepared(family, torch.float64, True)
    _, after = computed(module, inputs, element)
    before = dict(element.named_tensors())
    assert after
    assert all(not torch.equal(before[name], tensor) for name, tensor in after.items())
