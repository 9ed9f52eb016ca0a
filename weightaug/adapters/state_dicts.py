"""State dicts of ``torch.nn``: one network, a list of networks, or stacked tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn

from weightaug.adapters._checks import check_parameter, check_placement, finish
from weightaug.adapters._effective import refuse_parts
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["from_state_dicts", "infer_names", "to_state_dicts"]


def infer_names(state_dict: Mapping[str, Tensor], architecture: Architecture) -> dict[str, str]:
    """The parameter prefix of each layer: ``{"layer0": "net.0", "layer1": "net.2", ...}``.

    Keys that are the architecture's own layer names are taken as they are. Otherwise the architecture must be
    a chain, and the prefixes one name with a number (``net.0``, ``net.2.linear``, ``fc10``): they are ordered
    by the number, never by their place in the dict, because some file formats sort keys as text.

    Args:
        state_dict: Keys ``<prefix>.weight`` and ``<prefix>.bias``.
        architecture: Whose layers to name.

    Raises:
        ValueError: If the order of the layers cannot be told from the keys; give ``names`` instead.
    """
    _check_state_dict(state_dict, "")
    layers = [layer.name for layer in architecture.layers]
    if all(f"{name}.weight" in state_dict for name in layers):
        return {name: name for name in layers}
    prefixes = list(dict.fromkeys(key.rpartition(".")[0] for key in state_dict))
    refuse_parts(state_dict)
    fix = f"give names={{{layers[0]!r}: '<prefix>', ...}} with the parameter prefix of each layer"
    if not architecture.is_chain:
        raise ValueError(
            f"the architecture is not a chain, so the order of its layers {layers} does not tell which keys are "
            f"theirs; {fix}; prefixes: {prefixes}"
        )
    if len(prefixes) != len(layers):
        raise ValueError(f"expected the keys of {len(layers)} layers {layers}, got prefixes {prefixes}; {fix}")
    stems = {re.split(r"\d+", prefix, maxsplit=1)[0] for prefix in prefixes}
    numbers = {prefix: tuple(map(int, re.findall(r"\d+", prefix))) for prefix in prefixes}
    if len(stems) != 1 or len(set(numbers.values())) != len(prefixes) or (() in numbers.values() and len(layers) > 1):
        raise ValueError(f"cannot tell the order of the layers from the prefixes {prefixes}; {fix}")
    return dict(zip(layers, sorted(prefixes, key=lambda prefix: numbers[prefix]), strict=True))


def from_state_dicts(
    state_dicts: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    architecture: Architecture,
    *,
    names: Mapping[str, str] | None = None,
    ignore: Collection[str] = (),
    check_values: bool = True,
) -> WeightSpaceElement:
    """Reads state dicts.

    One dict gives views of its tensors, with the batch shape that they lead with (``()`` for the state dict of
    one module). A list of dicts is stacked along a new first batch dimension.

    Args:
        state_dicts: One dict or a list, with torch's ``(out, in, *kernel)`` weights.
        architecture: Tells the activations and the output offset, which no state dict holds.
        names: Layer name -> parameter prefix; None infers it, see :func:`infer_names`.
        ignore: Keys that are no weights and biases of layers, and that the function does not need: buffers.
        check_values: Whether to refuse NaN and infinite values, too. Reading them makes a GPU wait.

    Raises:
        TypeError: If something else than state dicts is given, such as paths.
        ValueError: If a key is missing or left over, or a tensor does not fit; the message names the layer, what
            was expected, what came, and the fix.
    """
    if isinstance(state_dicts, Mapping):
        return _from_one(state_dicts, architecture, names, ignore, check_values, "")
    if isinstance(state_dicts, (str, bytes, nn.Module)) or not isinstance(state_dicts, Iterable):
        _check_state_dict(state_dicts, "")
    state_dicts = list(state_dicts)
    if not state_dicts:
        raise ValueError("from_state_dicts needs at least one state dict, got an empty list")
    if names is None:
        _check_state_dict(state_dicts[0], "state dict 0: ")
        names = infer_names(_without(state_dicts[0], ignore), architecture)
    rows = [_from_one(d, architecture, names, ignore, False, f"state dict {i}: ") for i, d in enumerate(state_dicts)]
    for i, row in enumerate(rows):
        if row.batch_shape != rows[0].batch_shape:
            raise ValueError(
                f"state dict {i}: expected the batch shape {tuple(rows[0].batch_shape)} of state dict 0, "
                f"got {tuple(row.batch_shape)}"
            )
        check_placement(f"state dict {i}", row.weights[0], rows[0].weights[0])
    weights = [torch.stack(ws) for ws in zip(*(r.weights for r in rows), strict=True)]
    biases = [
        torch.stack([b for b in bs if b is not None]) if layer.bias else None
        for layer, bs in zip(architecture.layers, zip(*(r.biases for r in rows), strict=True), strict=True)
    ]
    return finish(architecture, weights, biases, check_values)


def _from_one(
    state_dict: Mapping[str, Tensor],
    architecture: Architecture,
    names: Mapping[str, str] | None,
    ignore: Collection[str],
    check_values: bool,
    place: str,
) -> WeightSpaceElement:
    _check_state_dict(state_dict, place)
    absent = [key for key in ignore if key not in state_dict]
    if absent:
        raise ValueError(f"{place}ignore: expected keys of the state dict, got {absent}; its keys: {_few(state_dict)}")
    state_dict = _without(state_dict, ignore)
    keys = _keys(architecture, infer_names(state_dict, architecture) if names is None else names)
    expected = {key for pair in keys for key in pair if key is not None}
    refuse_parts((key for key in state_dict if key not in expected), place)
    for layer, pair in zip(architecture.layers, keys, strict=True):
        for key in pair:
            if key is not None and key not in state_dict:
                unused = [k for k in state_dict if k not in expected and k.endswith("weight")]
                if key == pair[1]:
                    fix = f"declare Layer({layer.name!r}, ..., bias=False) if that is what the network has"
                elif unused:
                    fix = f"change names= if one of {_few(unused)} is its weight"
                else:
                    fix = "the network has fewer layers than the architecture, or others; declare those that it has"
                raise ValueError(
                    f"{place}layer {layer.name!r}: expected the key {key!r}, got {_few(sorted(state_dict))}; {fix}"
                )
    left_over = [key for key in state_dict if key not in expected]
    if left_over:
        raise ValueError(
            f"{place}expected the keys {_few(sorted(expected))}, got {len(left_over)} more: {_few(left_over)}; "
            f"{_left_over_advice(state_dict, left_over)}"
        )
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    batch: tuple[int, ...] | None = None
    for i, (layer, (weight_key, bias_key)) in enumerate(zip(architecture.layers, keys, strict=True)):
        weights.append(state_dict[weight_key])
        batch = check_parameter(
            f"{place}layer {layer.name!r}, {weight_key!r}",
            weights[-1],
            architecture.weight_shape(i),
            batch,
            "(*batch, out, in, *kernel)",
            "from_state_dicts reads torch's (out, in); give weight.mT, or use from_dws for (in, out, 1)",
        )
        biases.append(None if bias_key is None else state_dict[bias_key])
        if bias_key is not None:
            shape = architecture.bias_shape(i) or ()
            check_parameter(
                f"{place}layer {layer.name!r}, {bias_key!r}", state_dict[bias_key], shape, batch, "(*batch, out)"
            )
    return finish(architecture, weights, biases, check_values)


def _left_over_advice(state_dict: Mapping[str, Tensor], left_over: Sequence[str]) -> str:
    for key in left_over:
        prefix, _, name = key.rpartition(".")
        twin = state_dict.get(f"{prefix}.bias")
        if name == "weight" and state_dict[key].dim() == 1 and (twin is None or twin.shape == state_dict[key].shape):
            return (
                f"{key!r} with one dimension is the scale of a normalisation layer (or of a PReLU), a part of the "
                "function for which the architecture has no place"
            )
    return (
        "declare layers (or bias=True) for them; only where the function does not need them, as with some buffers, let "
        f"them through with ignore={_few(left_over)}"
    )


def _check_state_dict(given: object, place: str) -> None:
    """Refuses what is no flat state dict.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(given, nn.Module):
        raise TypeError(f"{place}expected a state_dict, got a {type(given).__name__}; use adapters.from_modules")
    if not isinstance(given, Mapping):
        came = repr(given) if isinstance(given, (str, bytes, os.PathLike)) else type(given).__name__
        raise TypeError(
            f"{place}expected a state_dict (keys and tensors), got {came}; from a file: torch.load(path, "
            "weights_only=True), or safetensors.torch.load_file(path)"
        )
    for key, value in given.items():
        if isinstance(value, Tensor):
            continue
        inner = [k for k, v in given.items() if isinstance(v, Mapping)]
        if inner:
            fix = f"the file is a checkpoint, so give one of its parts {inner}"
        else:
            fix = "convert arrays with torch.as_tensor, and leave out what is no parameter"
        raise TypeError(f"{place}{key!r}: expected a state_dict of tensors, got {type(value).__name__}; {fix}")


def _without(state_dict: Mapping[str, Tensor], ignore: Collection[str]) -> Mapping[str, Tensor]:
    return {k: v for k, v in state_dict.items() if k not in ignore} if ignore else state_dict


def _few(keys: Iterable[str]) -> str:
    keys = list(keys)
    return str(keys) if len(keys) <= 8 else f"{keys[:8]} and {len(keys) - 8} more"


def _keys(architecture: Architecture, names: Mapping[str, str]) -> list[tuple[str, str | None]]:
    layers = {layer.name for layer in architecture.layers}
    if set(names) != layers:
        raise ValueError(
            f"names: expected one parameter prefix for each of the layers {sorted(layers)}, got {sorted(names)}"
        )
    prefixes = list(names.values())
    if len(set(prefixes)) != len(prefixes):
        raise ValueError(f"names: expected a prefix of its own for every layer, got {dict(names)}")
    dotted = {layer: f"{prefix}." if prefix else "" for layer, prefix in names.items()}
    return [(f"{dotted[l.name]}weight", f"{dotted[l.name]}bias" if l.bias else None) for l in architecture.layers]


@overload
def to_state_dicts(
    element: WeightSpaceElement, *, names: Mapping[str, str] | None = None, stacked: Literal[True]
) -> dict[str, Tensor]: ...


@overload
def to_state_dicts(
    element: WeightSpaceElement, *, names: Mapping[str, str] | None = None, stacked: Literal[False] = False
) -> dict[str, Tensor] | list[dict[str, Tensor]]: ...


def to_state_dicts(
    element: WeightSpaceElement, *, names: Mapping[str, str] | None = None, stacked: bool = False
) -> dict[str, Tensor] | list[dict[str, Tensor]]:
    """Writes state dicts: inverse of :func:`from_state_dicts`. The tensors are views of the element's.

    Args:
        element: One network, or a batch with one batch dimension (any batch with ``stacked=True``).
        names: Layer name -> parameter prefix; None uses the layer names. :func:`infer_names` makes it from a
            state dict of your module.
        stacked: One dict of tensors that lead with the batch, for ``torch.func.functional_call`` under ``vmap``.

    Returns:
        One dict for one network or with ``stacked=True``, otherwise a list of dicts.

    Raises:
        ValueError: If names do not fit, or there are several batch dimensions and not ``stacked=True``.
    """
    together: dict[str, Tensor] = dict(element.named_tensors()) if element.architecture.is_declared else {}
    if names is None:
        names = {layer.name: layer.name for layer in element.architecture.layers}
    keys = _keys(element.architecture, names)
    for (weight_key, bias_key), weight, bias in zip(keys, element.weights, element.biases, strict=False):
        together[weight_key] = weight
        if bias_key is not None and bias is not None:
            together[bias_key] = bias
    dims = len(element.batch_shape)
    if stacked or dims == 0:
        return together
    if dims > 1:
        raise ValueError(
            f"expected one network or one batch dimension, got batch shape {tuple(element.batch_shape)}; use "
            f"stacked=True, or flatten the batch with element.map(lambda t: t.flatten(0, {dims - 1}))"
        )
    rows = {key: tensor.unbind(0) for key, tensor in together.items()}
    return [{key: row[i] for key, row in rows.items()} for i in range(element.batch_shape[0])]
