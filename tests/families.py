"""Real modules, randomly initialised and small: the families that are traced."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from weightaug.adapters import absorb_gains


class WildPark(nn.Module):
    """A small convolutional network with an optional BatchNorm, a skip, average pooling and a linear head."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, *, kernel: int = 3, norm: bool = True, skip: bool = True):
        super().__init__()
        self.first = nn.Conv2d(1, 6, kernel, padding="same")
        self.second = nn.Conv2d(6, 6, kernel, padding="same")
        self.third = nn.Conv2d(6, 5, kernel, stride=2)
        self.norms = nn.ModuleList([nn.BatchNorm2d(n) if norm else nn.Identity() for n in (6, 6, 5)])
        self.activation = activation()
        self.head = nn.Linear(5, 3)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.norms[0](self.first(x)))
        y = self.activation(self.norms[1](self.second(x)))
        y = self.activation(self.norms[2](self.third(x + y if self.skip else y)))
        return self.head(y.mean((2, 3)))


class Depthwise(nn.Module):
    """Depthwise and grouped convolutions, GroupNorm, and a linear layer after flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.point = nn.Conv2d(8, 12, 1)
        self.grouped = nn.Conv2d(12, 12, 3, groups=3, padding=1)
        self.group_norm = nn.GroupNorm(2, 12)
        self.last = nn.Conv2d(12, 4, 1)
        self.head = nn.Linear(4 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.point(self.depthwise(x)))
        x = self.last(nn.functional.gelu(self.group_norm(self.grouped(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(torch.tanh(x), 2).flatten(1))


class Mixer(nn.Module):
    """One block of an MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)])
        self.tokens = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.channels = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


class UNet(nn.Module):
    """Two resolutions with a skip that is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.out = nn.Conv2d(9, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.down(x)))
        y = torch.relu(self.deep(nn.functional.max_pool2d(x, 2)))
        return self.out(torch.cat([torch.relu(self.up(y)), x], 1))


class BasicBlock(nn.Module):
    """Two convolutions around a skip, which has a convolution of its own where shapes change."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        changes = stride != 1 or before != width
        self.downsample = (
            nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)) if changes else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """ResNet-18 with its usual names of parameters. Source: He et al. (2015), table 1."""

    def __init__(self, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = width
        for i in range(4):
            wide = width * 2**i
            blocks = nn.Sequential(BasicBlock(before, wide, 1 if i == 0 else 2), BasicBlock(wide, wide, 1))
            self.add_module(f"layer{i + 1}", blocks)
            before = wide
        self.fc = nn.Linear(before, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.fc(x.mean((2, 3)))


def _transformers(name: str, config: str, kind: str, **settings: Any) -> Callable[[], tuple[nn.Module, Any]]:
    def make() -> tuple[nn.Module, Any]:
        if importlib.util.find_spec("transformers") is None:
            pytest.skip("transformers is not installed (pip install weightaug[modules])")
        import transformers

        module = getattr(transformers, name)(getattr(transformers, config)(**settings))
        if kind == "tokens":
            return module, {"input_ids": torch.randint(50, (2, 7))}
        return module, {"pixel_values": torch.randn(2, 3, int(kind), int(kind))}

    return make


def _lora_on_gpt2() -> tuple[nn.Module, Any]:
    if importlib.util.find_spec("peft") is None:
        pytest.skip("peft is not installed (pip install weightaug[modules])")
    import peft

    module, inputs = FAMILIES["gpt2"]()
    config = peft.LoraConfig(
        target_modules=["c_attn", "c_fc"], r=4, rank_pattern={"c_fc": 3}, fan_in_fan_out=True, init_lora_weights=False
    )
    with warnings.catch_warnings():  # peft asks transformers for what that has renamed
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(module, config), inputs


class RMSNorm(nn.Module):
    """Llama's norm without its conversion to single precision, so that errors can be told from rounding."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def _exact_norms(make: Callable[[], tuple[nn.Module, Any]]) -> Callable[[], tuple[nn.Module, Any]]:
    def exact() -> tuple[nn.Module, Any]:
        module, inputs = make()
        for parent in list(module.modules()):
            for name, child in parent.named_children():
                if type(child).__name__ == "LlamaRMSNorm":
                    setattr(parent, name, RMSNorm(child))
        return module, inputs

    return exact


def _without_gains(make: Callable[[], tuple[nn.Module, Any]]) -> Callable[[], tuple[nn.Module, Any]]:
    def absorbed() -> tuple[nn.Module, Any]:
        module, inputs = make()
        return absorb_gains(exercised(module), inputs), inputs

    return absorbed


_TEXT = {"vocab_size": 50, "use_cache": False, "bos_token_id": 0, "eos_token_id": 1}
_LLAMA = _exact_norms(
    _transformers(
        "LlamaForCausalLM", "LlamaConfig", "tokens", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=24, **_TEXT,
    )
)  # fmt: skip
FAMILIES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "wild_park_relu": lambda: (WildPark(), torch.randn(3, 1, 9, 9)),
    "wild_park_tanh": lambda: (WildPark(nn.Tanh, kernel=5, norm=False), torch.randn(3, 1, 9, 9)),
    "wild_park_gelu": lambda: (WildPark(nn.GELU, kernel=7, skip=False), torch.randn(3, 1, 15, 15)),
    "depthwise": lambda: (Depthwise(), torch.randn(2, 3, 6, 6)),
    "mixer": lambda: (Mixer(), torch.randn(2, 3, 8, 8)),
    "unet": lambda: (UNet(), torch.randn(2, 1, 8, 8)),
    "encoder_layer": lambda: (nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), torch.randn(2, 5, 12)),
    "resnet": _transformers(
        "ResNetForImageClassification", "ResNetConfig", "32",
        embedding_size=6, hidden_sizes=[6, 10], depths=[1, 2], layer_type="basic", num_labels=3,
    ),
    "resnet_bottleneck": _transformers(
        "ResNetForImageClassification", "ResNetConfig", "32",
        embedding_size=6, hidden_sizes=[16, 24], depths=[1, 1], layer_type="bottleneck", num_labels=3,
    ),
    "convnext": _transformers(
        "ConvNextForImageClassification", "ConvNextConfig", "32",
        hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1], layer_scale_init_value=0.5,
    ),
    "vit": _transformers(
        "ViTForImageClassification", "ViTConfig", "16",
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32, image_size=16, patch_size=8,
    ),
    "gpt2": _transformers(
        "GPT2LMHeadModel", "GPT2Config", "tokens", n_embd=24, n_layer=2, n_head=3, n_positions=16, **_TEXT
    ),
    "bert": _transformers(
        "BertForMaskedLM", "BertConfig", "tokens", vocab_size=50, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=3, intermediate_size=20, max_position_embeddings=16,
    ),
    "lora_on_gpt2": _lora_on_gpt2,
    "llama": _LLAMA,
    "llama_without_gains": _without_gains(_LLAMA),
}  # fmt: skip


def exercised(module: nn.Module) -> nn.Module:
    """The module in double precision, with statistics, gains and biases that are no neutral values."""
    module = module.double().eval()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        drawn = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + drawn)
        elif tensor.dim() == 1:
            tensor.copy_(0.5 + drawn if name.endswith("weight") else drawn - 0.5)
    return module
