"""Symmetries that were planted, and whether they are found: gauges of LoRA pairs, permutations of modules."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from weightaug import Architecture, Compose, HeadPermutation, LoRAGauge, Permute, Transform, WeightSpaceElement, act
from weightaug.adapters import from_lora, from_modules
from weightaug.matching import canonicalize_lora, lora_distance, match

__all__ = ["Logits", "lora_gauges", "permutations", "resnet18", "vit"]

OUT, IN, RANKS = 256, 384, (2, 4, 8, 16)
GAUGES: dict[str, LoRAGauge] = {
    "orthogonal": LoRAGauge("orthogonal"),
    "invertible, condition at most 10": LoRAGauge("invertible", max_condition=10.0),
    "invertible, condition at most 100": LoRAGauge("invertible", max_condition=100.0),
}
_SHARES = (0.5, 0.99, 1.0)


def lora_gauges(pairs: int) -> dict[str, Any]:
    """Random low-rank pairs, of each rank a quarter, each moved by a random gauge.

    Measured are the distance of the products (``lora_distance``) and that of the canonical forms, relative to the norms
    of the products and of the canonical form, at quantiles over the pairs; and, as a yardstick, the distance of the
    factors as they are.
    """
    found: dict[str, Any] = {}
    for dtype in (torch.float64, torch.float32):
        for name, gauge in GAUGES.items():
            generator = torch.Generator().manual_seed(0)
            parts = [_distances(pairs // len(RANKS), rank, dtype, gauge, generator) for rank in RANKS]
            measured = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            found[f"{str(dtype).removeprefix('torch.')}, {name}"] = {
                key: {f"{q:g}": float(values.double().quantile(q)) for q in _SHARES} for key, values in measured.items()
            }
    return {"pairs": len(RANKS) * (pairs // len(RANKS)), "out": OUT, "in": IN, "ranks": RANKS, "gauges": found}


def _distances(
    count: int, rank: int, dtype: torch.dtype, gauge: LoRAGauge, generator: torch.Generator
) -> dict[str, Tensor]:
    states = [
        {
            "layer.lora_A.weight": torch.randn(rank, IN, generator=generator, dtype=torch.float64).to(dtype),
            "layer.lora_B.weight": torch.randn(OUT, rank, generator=generator, dtype=torch.float64).to(dtype),
        }
        for _ in range(count)
    ]
    adapters = from_lora(states)
    moved = gauge(adapters, generator=generator)
    norm = lora_distance(adapters, adapters.map(torch.zeros_like))
    one, other = canonicalize_lora(adapters).flatten(), canonicalize_lora(moved).flatten()
    plain = adapters.flatten()
    return {
        "products": lora_distance(adapters, moved) / norm,
        "canonical_forms": (one - other).norm(dim=1) / one.norm(dim=1),
        "factors": (plain - moved.flatten()).norm(dim=1) / plain.norm(dim=1),
    }


class Logits(nn.Module):
    """A classifier of ``transformers`` that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, classes)`` of images."""
        logits: Tensor = self.model(x).logits
        return logits


def resnet18() -> tuple[nn.Module, Tensor]:
    """ResNet-18 with random weights, and an example of what it takes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    config.num_labels = 1000
    return Logits(ResNetForImageClassification(config)).eval(), torch.randn(1, 3, 64, 64)


def vit() -> tuple[nn.Module, Tensor]:
    """A vision transformer of 4 blocks with random weights, and an example of what it takes."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=768,
        image_size=32,
        patch_size=8,
    )
    return Logits(ViTForImageClassification(config)).eval(), torch.randn(1, 3, 32, 32)


def _moved_weights(module: nn.Module, seed: int) -> None:
    """Moves every tensor a little, so that gains and biases that start alike are not alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=generator))
                tensor.add_(0.01 * torch.rand(tensor.shape, generator=generator))


CASES: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], Transform]] = {
    "ResNet-18, all channels": (resnet18, Permute()),
    "ViT of 4 blocks, heads": (vit, HeadPermutation()),
    "ViT of 4 blocks, heads, their insides, MLPs and stream": (vit, Compose((HeadPermutation(), Permute()))),
}


def permutations(seeds: int) -> dict[str, Any]:
    """Plants permutations in modules of random weights, and counts how often matching takes them back exactly."""
    found = {}
    for name, (make, transform) in CASES.items():
        exact, moved_share, seconds = 0, [], []
        architecture: Architecture | None = None
        for seed in range(seeds):
            torch.manual_seed(seed)
            module, example = make()
            _moved_weights(module, seed)
            architecture = Architecture.from_module(module, example) if architecture is None else architecture
            network = from_modules([module], architecture=architecture)
            planted = transform(network, generator=torch.Generator().manual_seed(seed))
            moved_share.append(_share_moved(network, planted))
            start = time.process_time()
            group = match(network, planted, symmetry="permutation")
            seconds.append(time.process_time() - start)
            exact += int(_share_moved(network, act(planted, group)) == 0)
        assert architecture is not None
        found[name] = {
            "seeds": seeds,
            "exact": exact,
            "parameters": architecture.num_parameters,
            "spaces": len(architecture.hidden),
            "mean_share_of_numbers_moved": sum(moved_share) / seeds,
            "processor_seconds": sum(seconds) / seeds,
        }
    return {"cases": found}


def _share_moved(a: WeightSpaceElement, b: WeightSpaceElement) -> float:
    different = sum(int((x != y).sum()) for x, y in zip(a.tensors(), b.tensors(), strict=True))
    return different / a.architecture.num_parameters
