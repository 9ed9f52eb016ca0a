"""The weights that a module computes with, where it stores something else."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["check_materialised", "copied", "effective_state", "refuse_parts", "unwrapped"]

_Module = TypeVar("_Module", bound=nn.Module)

# Keys that tell of a layer which no linear map is, and what to do about it.
_PARTS: tuple[tuple[str, str], ...] = (
    (
        r"(^|\.)parametrizations\.|(^|\.)(weight|bias)_(g|v|u|orig|mask)$",
        "they are parts of a parametrised weight (weight norm, spectral norm, pruning), not the weight itself; read "
        "the module with adapters.from_modules, which takes the effective weights, or make it permanent before saving: "
        "torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm, remove_spectral_norm, prune.remove",
    ),
    (
        r"(^|\.)(running_mean|running_var|num_batches_tracked)$",
        "they belong to normalisation layers, which are a part of the function; a batch normalisation right after a "
        "linear layer can be folded into it: torch.nn.utils.fusion.fuse_linear_bn_eval(linear, norm)",
    ),
    (
        r"(^|\.)(_packed_params\b.*|zero_point)$",
        "they belong to a quantised model; read the model before it was quantised, or dequantise its weights",
    ),
    (
        r"(^|\.)lora_",
        "they are low-rank updates beside the weights; merge them first, in peft: model.merge_and_unload()",
    ),
)


def refuse_parts(keys: Iterable[str], place: str = "") -> None:
    """Refuses keys of a state dict that hold parts of a layer, where no name could make a weight of them.

    Raises:
        ValueError: If there are any.
    """
    keys = list(keys)
    for pattern, advice in _PARTS:
        found = [key for key in keys if re.search(pattern, key)]
        if found:
            shown = f"{found[:4]}{' and more' if len(found) > 4 else ''}"
            raise ValueError(f"{place}expected weights and biases of linear layers, got {shown}: {advice}")


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and data parallelism, whose names are those of its parameters."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def effective_state(module: nn.Module, place: str = "") -> dict[str, Tensor]:
    """The state dict, with what its layers compute with in place of what they store.

    Weight norm and spectral norm (both forms of each), pruning and any other parametrisation are evaluated as in
    eval mode; the module stays as it is.

    Raises:
        ValueError: If a layer is lazy and has never run, or two hooks make one weight.
    """
    check_materialised(module, place)
    state: dict[str, Tensor] = dict(module.state_dict())
    with torch.no_grad():
        for prefix, layer in module.named_modules(remove_duplicate=False):
            for name, parts, value in _made(layer, place + repr(prefix)):
                dotted = f"{prefix}." if prefix else ""
                for key in [k for k in state if any(k.startswith(dotted + part) for part in parts)]:
                    del state[key]
                state[dotted + name] = value.detach()
    return state


def check_materialised(module: nn.Module, place: str = "") -> None:
    """Checks that all tensors have values.

    Raises:
        ValueError: If a layer is lazy and has never run.
    """
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"{place}{key!r} has no values yet, since its layer is lazy; call the module once first")


def _made(layer: nn.Module, place: str) -> Iterator[tuple[str, Collection[str], Tensor]]:
    """Tensors of a layer that something computes: the name, the beginnings of the keys it is made of, the value."""
    if parametrize.is_parametrized(layer):
        still = copied(layer).eval()  # spectral norm changes its buffers in training mode
        for name in still.parametrizations:  # type: ignore[union-attr]
            yield name, (f"parametrizations.{name}.",), getattr(still, name)
    seen: set[str] = set()
    for hook in layer._forward_pre_hooks.values():
        parts: tuple[str, ...]
        if isinstance(hook, WeightNorm):
            name, parts, value = hook.name, ("_g", "_v"), hook.compute_weight(layer)
        elif isinstance(hook, SpectralNorm):
            name, parts = hook.name, ("_orig", "_u", "_v")
            value = hook.compute_weight(layer, do_power_iteration=False)
        elif isinstance(hook, prune.BasePruningMethod):
            name, parts, value = hook._tensor_name, ("_orig", "_mask"), hook.apply_mask(layer)
        else:
            continue
        if name in seen:
            raise ValueError(
                f"{place}: several of weight norm, spectral norm and pruning make its {name}; make all but one "
                "permanent first (remove_weight_norm, remove_spectral_norm, prune.remove)"
            )
        seen.add(name)
        yield name, tuple(name + part for part in parts), value


def copied(module: _Module) -> _Module:
    """A deep copy, also of modules whose hooks keep a computed weight, which copy.deepcopy refuses."""
    memo: dict[int, Tensor] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)
