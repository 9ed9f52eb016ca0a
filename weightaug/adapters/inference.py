"""Architectures that the names and shapes of a state dict tell: chains of linear layers, and low-rank adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from weightaug.adapters._effective import refuse_parts
from weightaug.adapters.lora import architecture_of_adapter
from weightaug.architecture import Activation, Architecture

__all__ = ["architecture_of_state_dict"]

_ELSE = (
    "names and shapes do not tell what else a module does (skips, pooling, norms without parameters); derive its "
    "architecture from the module itself with Architecture.from_module(module, example_input)"
)


def architecture_of_state_dict(
    state_dict: Mapping[str, Tensor], activation: Activation | str | Sequence[Activation | str] | None, offset: float
) -> Architecture:
    """See :meth:`weightaug.Architecture.from_state_dict`."""
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state_dict.items()
    ):
        raise TypeError(
            "from_state_dict: expected a mapping of names to tensors, as module.state_dict() gives, got "
            f"{type(state_dict).__name__}"
        )
    if any(part.startswith("lora_") for name in state_dict for part in name.split(".")):
        if activation is not None or offset:
            raise ValueError(
                "from_state_dict: these are low-rank adapters, between whose factors nothing stands; expected no "
                f"activation and no offset, got {activation!r} and {offset!r}"
            )
        return architecture_of_adapter(state_dict)
    return _chain(state_dict, activation, offset)


def _chain(
    state_dict: Mapping[str, Tensor], activation: Activation | str | Sequence[Activation | str] | None, offset: float
) -> Architecture:
    refuse_parts(state_dict)
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        prefix, _, kind = name.rpartition(".")
        if (kind, tensor.dim()) not in (("weight", 2), ("bias", 1)):
            raise ValueError(
                f"from_state_dict: {name} of shape {tuple(tensor.shape)} is no weight (out, in) and no bias (out,) of "
                f"a linear layer; {_ELSE}"
            )
        (weights if kind == "weight" else biases)[prefix] = tensor
    if not weights or (lonely := sorted(set(biases) - set(weights))):
        raise ValueError(
            "from_state_dict: expected the weight of every linear layer, got "
            f"{f'a bias alone for {lonely}' if weights else 'none'}"
        )
    layers = _ordered(list(weights))
    for before, layer in pairwise(layers):
        if weights[layer].shape[1] != weights[before].shape[0]:
            raise ValueError(
                f"from_state_dict: {layer}.weight reads {weights[layer].shape[1]} values, {before}.weight writes "
                f"{weights[before].shape[0]}: no chain; {_ELSE}"
            )
    for layer in layers:
        if layer in biases and len(biases[layer]) != len(weights[layer]):
            raise ValueError(
                f"from_state_dict: {layer}.bias: expected {len(weights[layer])} entries, one for each row of the "
                f"weight, got {len(biases[layer])}"
            )
    if len(biases) not in (0, len(weights)):
        raise ValueError(
            f"from_state_dict: expected a bias in every layer or in none, got biases of {sorted(biases)} alone; "
            "declare it with Layer(bias=...)"
        )
    if activation is None:
        raise ValueError(
            "from_state_dict: no name and no shape tells the activation; give one for all hidden spaces or one for "
            "each, for example activation=Activation('sine', omega=30.0)"
        )
    sizes = [weights[layers[0]].shape[1], *(len(weights[layer]) for layer in layers)]
    return Architecture.mlp(sizes, activation, bias=bool(biases), output_offset=offset)


def _ordered(prefixes: list[str]) -> list[str]:
    """Layers by the numbers in their names, which some file formats sort as text."""
    stems = {re.sub(r"\d+", "#", prefix) for prefix in prefixes}
    numbers = {prefix: tuple(map(int, re.findall(r"\d+", prefix))) for prefix in prefixes}
    if len(prefixes) > 1 and (len(stems) != 1 or len(set(numbers.values())) != len(prefixes)):
        raise ValueError(
            f"from_state_dict: cannot tell the order of the layers from {prefixes}: expected one name with numbers, "
            f"such as net.0 and net.2; {_ELSE}"
        )
    return sorted(prefixes, key=lambda prefix: numbers[prefix])
