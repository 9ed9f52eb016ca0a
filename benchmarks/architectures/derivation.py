"""What ``Architecture.from_module`` makes of modules of full size, and what ``canonicalize`` of them costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures.planted import Logits, resnet18
from weightaug import Architecture, Compose, HeadRotation, Permute, ReLUScale, Transform, act
from weightaug.adapters import from_modules
from weightaug.matching import canonicalize

__all__ = ["derivations"]


def _transformers(model: str, config: str, example: Callable[[], Tensor], **settings: Any) -> tuple[nn.Module, Tensor]:
    import transformers

    made = getattr(transformers, model)(getattr(transformers, config)(**settings))
    return Logits(made).eval(), example()


def _image(size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(1, 3, size, size)


def _tokens(count: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(count, (1, 8))


_TEXT = {"use_cache": False}
MODULES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "ResNet-18": resnet18,
    "ResNet-50": lambda: _transformers("ResNetForImageClassification", "ResNetConfig", _image(64), num_labels=1000),
    "ConvNeXt-tiny": lambda: _transformers(
        "ConvNextForImageClassification", "ConvNextConfig", _image(64), num_labels=1000
    ),
    "ViT-B/16": lambda: _transformers("ViTForImageClassification", "ViTConfig", _image(224), num_labels=1000),
    "GPT-2": lambda: _transformers("GPT2LMHeadModel", "GPT2Config", _tokens(50257), **_TEXT),
    "Llama, 4 layers of 512, 8 heads, 2 keys": lambda: _transformers(
        "LlamaForCausalLM", "LlamaConfig", _tokens(1000), vocab_size=1000, hidden_size=512, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=2, intermediate_size=1376, **_TEXT,
    ),
}  # fmt: skip
CANONICAL: dict[str, Transform] = {
    "ResNet-18": Compose((Permute(), ReLUScale(max_scale=1.5))),
    "ViT-B/16": Compose((Permute(), HeadRotation())),
}


def derivations() -> dict[str, Any]:
    """Derives every module, with the check against the module itself and without, and says what was found."""
    found = {}
    small = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    Architecture.from_module(small, torch.randn(1, 2))  # what the first call of all imports is nobody's time
    for name, make in MODULES.items():
        torch.manual_seed(0)
        module, example = make()
        start = time.process_time()
        Architecture.from_module(module, example, check=False)
        derived = time.process_time()
        architecture = Architecture.from_module(module, example)
        checked = time.process_time()
        declared = {spec.name for spec in architecture.tensors}
        parameters = sum(t.numel() for t in module.parameters())
        covered = sum(t.numel() for n, t in module.named_parameters() if n in declared)
        followed = sum(
            math.prod(spec.shape)
            for spec in architecture.tensors
            if any(f.roles for axis in spec.axes for section in axis for f in section)
        )
        found[name] = {
            "parameters": parameters,
            "covered": covered / parameters,
            "in_tensors_that_follow_a_space": followed / architecture.num_parameters,
            "tensors": len(architecture.tensors),
            "spaces": len(architecture.hidden),
            "permutations": sum(s.permutes_with is None or s.within is not None for s in architecture.hidden),
            "linear": sum(space.linear for space in architecture.hidden),
            "processor_seconds": derived - start,
            "processor_seconds_with_check": checked - derived,
            **(_canonical(module, architecture, CANONICAL[name]) if name in CANONICAL else {}),
        }
    return {"modules": found}


def _canonical(module: nn.Module, architecture: Architecture, transform: Transform) -> dict[str, float]:
    """How long ``canonicalize`` takes in double precision, and how far two places of an orbit end apart."""
    network = from_modules(module.double(), architecture=architecture)
    moved = transform(network, generator=torch.Generator().manual_seed(0))
    start = time.process_time()
    group = canonicalize(network)
    seconds = time.process_time() - start
    one, other = act(network, group), act(moved, canonicalize(moved))
    gaps = [
        float((a - b).norm() / a.norm().clamp(min=1e-30)) for a, b in zip(one.tensors(), other.tensors(), strict=True)
    ]
    return {"canonical_seconds": seconds, "canonical_gap": max(gaps)}
