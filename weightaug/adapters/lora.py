"""Low-rank adapters (LoRA), read from state dicts.

An adapter adds B A to a weight, with A of shape (rank, in) and B of shape (out, rank). Any invertible G gives the same
product: (B G^-1)(G A). Source: Hu et al. (2021), LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weightaug._axes import TensorSpec
from weightaug.architecture import Activation, Architecture, Space
from weightaug.element import WeightSpaceElement

__all__ = ["architecture_of_pairs", "from_lora"]

_MARKS = ("lora_A", "lora_B")


def architecture_of_pairs(
    pairs: Mapping[str, tuple[tuple[str, Sequence[int]], tuple[str, Sequence[int]]]],
) -> Architecture:
    """The architecture of a collection of low-rank pairs; the ranks may differ.

    Args:
        pairs: Name of the adapted weight -> (name of A, its shape (rank, in)), (name of B, its shape (out, rank)).

    Raises:
        ValueError: If there are no pairs, or the ranks of a pair differ.
    """
    spaces, tensors = [], []
    for name, ((a_name, a), (b_name, b)) in pairs.items():
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise ValueError(
                f"low-rank pair {name!r}: expected A of shape (rank, in) and B of shape (out, rank) with one rank, got "
                f"{tuple(a)} and {tuple(b)}"
            )
        rank = f"{name}.rank"
        spaces.append(Space(rank, int(a[0]), Activation("identity"), linear=True))
        sizes = {rank: int(a[0])}
        tensors.append(TensorSpec.parse(a_name, f"+{rank} {a[1]}", sizes))
        tensors.append(TensorSpec.parse(b_name, f"{b[0]} -{rank}", sizes))
    if not spaces:
        raise ValueError("expected at least one low-rank pair, got none")
    return Architecture(tuple(spaces), tensors=tuple(tensors))


def from_lora(states: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]]) -> WeightSpaceElement:
    """Reads LoRA adapters from state dicts, by the names ``lora_A`` and ``lora_B`` of peft.

    Args:
        states: One state dict gives one network; a sequence of them, of adapters of one base and with the same ranks,
            a batch. Entries that are no part of an adapter are left aside.

    Raises:
        ValueError: If there is no adapter, half a pair is missing, the adapters of a sequence differ, or they are more
            than a product of two factors (DoRA's magnitudes).
    """
    single = isinstance(states, Mapping)
    given: list[Mapping[str, Tensor]] = [states] if isinstance(states, Mapping) else list(states)
    if not given:
        raise ValueError("from_lora needs at least one state dict, got none")
    found = [_pairs(i, state) for i, state in enumerate(given)]
    architecture = _of_pairs(given[0], found[0])
    rows = []
    for i, (state, pairs) in enumerate(zip(given, found, strict=True)):
        if pairs != found[0]:
            differ = sorted(set(pairs) ^ set(found[0]))[:4]
            raise ValueError(f"adapter {i} belongs to another base than adapter 0: {differ} are in one of them alone")
        for spec in architecture.tensors:
            if tuple(state[spec.name].shape) != spec.shape:
                raise ValueError(
                    f"adapter {i}: {spec.name} has shape {tuple(state[spec.name].shape)}, adapter 0's {spec.shape}; "
                    "adapters of other ranks or of another base are no batch; read them one by one"
                )
        rows.append([state[spec.name].detach() for spec in architecture.tensors])
    tensors = rows[0] if single else [torch.stack(column) for column in zip(*rows, strict=True)]
    return WeightSpaceElement(architecture, tuple(tensors), ()).validate()


def architecture_of_adapter(state: Mapping[str, Tensor]) -> Architecture:
    """The architecture of one adapter's state dict.

    Raises:
        ValueError: As for :func:`from_lora`.
    """
    return _of_pairs(state, _pairs(0, state))


def _of_pairs(state: Mapping[str, Tensor], pairs: Mapping[str, tuple[str, str]]) -> Architecture:
    return architecture_of_pairs({name: ((a, state[a].shape), (b, state[b].shape)) for name, (a, b) in pairs.items()})


def _pairs(index: int, state: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    if any("lora_magnitude_vector" in key for key in state):
        raise ValueError(
            f"adapter {index} is DoRA: its magnitudes divide by norms of the base's weights, so the product of two "
            "factors is not all; expected plain LoRA (use_dora=False)"
        )
    lookups = [key for key in state if "lora_embedding_" in key]
    if lookups:
        raise ValueError(
            f"adapter {index}: {lookups[0]!r} is of an adapter of an embedding, whose factors are transposed, which is "
            "not followed; leave the keys of lora_embedding_A and lora_embedding_B out"
        )
    pairs: dict[str, list[str | None]] = {}
    for key in state:
        for half, mark in enumerate(_MARKS):
            if f".{mark}." in f".{key}.":
                name = ".".join(p for p in key.split(".") if p not in (mark, "weight"))
                found = pairs.setdefault(name, [None, None])
                if found[half] is not None:
                    raise ValueError(f"adapter {index}: {found[half]!r} and {key!r} are both {mark} of {name!r}")
                found[half] = key
    whole = {name: (a, b) for name, (a, b) in pairs.items() if a is not None and b is not None}
    lonely = sorted(set(pairs) - set(whole))
    if lonely or not whole:
        raise ValueError(
            f"adapter {index}: expected entries named lora_A and lora_B for every adapted weight, got "
            f"{f'one of the two alone for {lonely[:4]}' if lonely else sorted(state)[:4]}"
        )
    return whole
