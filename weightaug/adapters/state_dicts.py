"""State dicts of ``torch.nn``: one network, a list of networks, or stacked tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from weightaug.adapters._checks import check_parameter, check_placement, finish
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
    layers = [layer.name for layer in architecture.layers]
    if all(f"{name}.weight" in state_dict for name in layers):
        return {name: name for name in layers}
    prefixes = list(dict.fromkeys(key.rpartition(".")[0] for key in state_dict))
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
    check_values: bool = True,
) -> WeightSpaceElement:
    """Reads state dicts.

    One dict gives views of its tensors, with the batch shape that they lead with (``()`` for the state dict of
    one module). A list of dicts is stacked along a new first batch dimension.

    Args:
        state_dicts: One dict or a list, with torch's ``(out, in, *kernel)`` weights.
        architecture: Tells the activations and the output offset, which no state dict holds.
        names: Layer name -> parameter prefix; None infers it, see :func:`infer_names`.
        check_values: Whether to refuse NaN and infinite values, too. Reading them makes a GPU wait.

    Raises:
        ValueError: If a key is missing or left over, or a tensor does not fit; the message names the layer, what
            was expected, what came, and the fix.
    """
    if isinstance(state_dicts, Mapping):
        return _from_one(state_dicts, architecture, names, check_values, "")
    if not state_dicts:
        raise ValueError("from_state_dicts needs at least one state dict, got an empty list")
    if names is None:
        names = infer_names(state_dicts[0], architecture)
    rows = [_from_one(d, architecture, names, False, f"state dict {i}: ") for i, d in enumerate(state_dicts)]
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
    check_values: bool,
    place: str,
) -> WeightSpaceElement:
    keys = _keys(architecture, infer_names(state_dict, architecture) if names is None else names)
    expected = {key for pair in keys for key in pair if key is not None}
    for layer, pair in zip(architecture.layers, keys, strict=True):
        for key in pair:
            if key is not None and key not in state_dict:
                fix = f"declare Layer({layer.name!r}, ..., bias=False)" if key == pair[1] else "change names="
                raise ValueError(
                    f"{place}layer {layer.name!r}: expected the key {key!r}, got {sorted(state_dict)}; "
                    f"{fix} if that is what the network has"
                )
    left_over = [key for key in state_dict if key not in expected]
    if left_over:
        raise ValueError(
            f"{place}expected the keys {sorted(expected)}, got {len(left_over)} more: {left_over}; declare layers "
            "(or bias=True) for them, or drop them first: {k: v for k, v in state_dict.items() if k not in (...)}"
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
            "stacked=True, or flatten the batch with element.map(lambda t: t.flatten(0, n))"
        )
    rows = {key: tensor.unbind(0) for key, tensor in together.items()}
    return [{key: row[i] for key, row in rows.items()} for i in range(element.batch_shape[0])]
