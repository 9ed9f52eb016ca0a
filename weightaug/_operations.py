"""The arithmetic of the transforms: pure, batched, without a look at values, for parameters that are known to fit.

``weightaug.functional`` is the same with checks. Parameters may come in another dtype than the networks, and results
keep that of the networks. Where nothing has to be done to a tensor, it is passed on, not copied.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from weightaug._arguments import check_range, holds, require_tensor
from weightaug._differences import difference
from weightaug._modes import wide
from weightaug._order_statistics import neighbours_in_order
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

TargetMode = Literal["mix", "dominant", "keep"]

# -- geometry --------------------------------------------------------------------------------------------


def map_input(
    element: WeightSpaceElement, matrix: Tensor | None = None, shift: Tensor | None = None
) -> WeightSpaceElement:
    """See ``functional.map_input``."""
    arch = element.architecture
    check_input(arch, shifts=shift is not None)
    source = arch.wiring.inputs[0]
    matrix, shift = _like(matrix, element), _like(shift, element)
    weights, biases = list(element.weights), list(element.biases)
    for i in range(len(weights)):
        if arch.wiring.reads[i] != source:
            continue
        weight, bias = element.weights[i], element.biases[i]
        if shift is not None:
            assert bias is not None
            biases[i] = bias + (weight * shift.unsqueeze(-2)).sum(-1)
        if matrix is not None:
            weights[i] = weight @ matrix
    return WeightSpaceElement(arch, tuple(weights), tuple(biases))


def check_input(architecture: Architecture, *, shifts: bool, name: str = "geometry") -> None:
    """Raises a ValueError if there is no single input that linear layers (with bias, to shift) read."""
    if len(architecture.inputs) != 1:
        raise ValueError(f"{name} needs exactly one input space, got {[s.name for s in architecture.inputs]}")
    for layer, read in zip(architecture.layers, architecture.wiring.reads, strict=True):
        if read != architecture.wiring.inputs[0]:
            continue
        if layer.kernel:
            raise ValueError(
                f"{name}: layer {layer.name!r} reads the input with a kernel {layer.kernel}; geometry moves "
                "coordinates, so it needs linear layers there and does not apply to convolutions"
            )
        if shifts and not layer.bias:
            raise ValueError(
                f"{name}: layer {layer.name!r} reads the input without a bias that could take the shift; "
                "expected bias=True; add a bias of zeros"
            )


def rescale_output(element: WeightSpaceElement, factor: Tensor) -> WeightSpaceElement:
    """See ``functional.rescale_output``."""
    arch = element.architecture
    check_output(arch)
    writers = [i for i, w in enumerate(arch.wiring.writes) if w == arch.wiring.outputs[0]]
    offset = arch.output_offset
    weights, biases = list(element.weights), list(element.biases)
    for i in writers:
        weights[i] = element.weights[i] * lead(factor, element.weights[i])
        bias = element.biases[i]
        if bias is not None:
            biases[i] = bias * lead(factor, bias)
    if offset != 0.0:
        carrier = next(i for i in writers if arch.layers[i].bias)
        bias = biases[carrier]
        assert bias is not None
        # factor (y + offset) = (factor y + (factor - 1) offset) + offset
        biases[carrier] = bias + lead(offset * (factor - 1), bias)
    return WeightSpaceElement(arch, tuple(weights), tuple(biases))


def check_output(architecture: Architecture, name: str = "rescaling") -> None:
    """Raises a ValueError if there is not one output space, or no bias that could take its offset."""
    if len(architecture.outputs) != 1:
        raise ValueError(f"{name} needs exactly one output space, got {[s.name for s in architecture.outputs]}")
    writers = [
        layer
        for layer, written in zip(architecture.layers, architecture.wiring.writes, strict=True)
        if written == architecture.wiring.outputs[0]
    ]
    if architecture.output_offset != 0.0 and not any(layer.bias for layer in writers):
        raise ValueError(
            f"{name}: layer {writers[0].name!r} has no bias, so the output offset {architecture.output_offset} cannot "
            "be rescaled; give it bias=True, or use output_offset=0"
        )


# -- noise -----------------------------------------------------------------------------------------------


def add_noise(element: WeightSpaceElement, noise: WeightSpaceElement, scale: float) -> WeightSpaceElement:
    """See ``functional.add_noise``."""
    batch = len(element.batch_shape)

    def one(tensor: Tensor, eps: Tensor) -> Tensor:
        count = tensor.shape[batch:].numel()
        if count == 1 or tensor.numel() == 0:
            return tensor
        # A sum of squares overflows in half precision long before the deviation does.
        values = tensor.to(wide(tensor.dtype))
        if batch == 0:
            return torch.addcmul(tensor, eps.to(tensor), (values.std() * scale).to(tensor))
        # Two passes: as exact as Tensor.std, and 15 times as fast for a batch on the CPU.
        dims = tuple(range(batch, tensor.dim()))
        norm = torch.linalg.vector_norm(values - values.mean(dims, keepdim=True), dim=dims, keepdim=True)
        deviation = norm * (scale / math.sqrt(count - 1))
        return torch.addcmul(tensor, eps.to(tensor), deviation.to(tensor))

    return zipped(one, element, noise)


def mask(element: WeightSpaceElement, keep: WeightSpaceElement, factor: float = 1.0) -> WeightSpaceElement:
    """See ``functional.mask``."""

    def one(tensor: Tensor, kept: Tensor) -> Tensor:
        if factor == 1.0:
            return tensor * kept.to(tensor)
        return torch.addcmul(tensor.new_zeros(()), tensor, kept.to(tensor), value=factor)  # one pass, not two

    return zipped(one, element, keep)


def quantile_dropout(
    element: WeightSpaceElement, q: Tensor, *, pooled: bool = True, bound: float = 1.0
) -> WeightSpaceElement:
    """See ``functional.quantile_dropout``."""
    batch = len(element.batch_shape)
    shape = element.batch_shape
    q = q.to(element.device)
    if pooled:
        keep = _above_quantile(element.flatten().detach().abs_(), q, bound)  # thresholds are piecewise constant
        return mask(element, WeightSpaceElement.unflatten(element.architecture, keep))

    def one(tensor: Tensor) -> Tensor:
        rows = tensor.detach().reshape(*shape, tensor.shape[batch:].numel())
        return tensor * _above_quantile(rows.abs(), q, bound).view(tensor.shape)

    return element.map(one)


def _above_quantile(values: Tensor, q: Tensor, bound: float) -> Tensor:
    """0 where a row's values are below its q-th quantile, 1 elsewhere; overwrites the values."""
    # In floats and in place: several times as fast as a mask of bools. The sign of the difference, -1, 0 or 1,
    # becomes 0, 1 or 1 (vmap has no rule for ge_).
    return values.sub_(_quantile(values, q, bound).unsqueeze(-1)).sign_().add_(1).sign_()


def _quantile(values: Tensor, q: Tensor, bound: float) -> Tensor:
    """The q-th quantile of each row, with q per row; no limit on the size, unlike ``torch.quantile``."""
    last = values.shape[-1] - 1
    most = min(math.floor(bound * last) + 1, last)  # rounding may bring a position above the bound
    # Half precision has no numbers between 32,768 and 65,536 but every 32nd, and none above.
    position = q.double() * last
    below = position.floor().long().clamp(0, most)
    low, high = neighbours_in_order(values, below, most)
    return torch.lerp(low, high, (position - below).to(low.dtype))


# -- mixing and labels -----------------------------------------------------------------------------------


def mix(a: WeightSpaceElement, b: WeightSpaceElement, lam: Tensor) -> WeightSpaceElement:
    """See ``functional.mix``."""
    check_pair(a, b)
    return zipped(lambda x, y: torch.lerp(y, x, lead(lam, x)), a, b)


def mix_into(own: WeightSpaceElement, a: WeightSpaceElement, lam: Tensor) -> WeightSpaceElement:
    """Like ``mix(a, own, lam)``, but writes into ``own``, which must be the caller's to give away."""
    check_pair(a, own)
    return zipped(lambda x, y: y.lerp_(x, lead(lam, x)), a, own)


def check_pair(a: WeightSpaceElement, b: WeightSpaceElement) -> None:
    """Raises a ValueError if two batches of networks cannot be mixed."""
    if a.architecture is not b.architecture and a.architecture != b.architecture:
        raise ValueError(
            "cannot mix networks of different architectures: a and b differ in "
            f"{difference(a.architecture, b.architecture)}; mixing needs equal spaces, layers and output offset"
        )
    if a.batch_shape != b.batch_shape:
        raise ValueError(f"cannot mix batches of shapes {tuple(a.batch_shape)} and {tuple(b.batch_shape)}")


def mix_target(a: Tensor, b: Tensor, lam: Tensor, how: TargetMode = "mix") -> Tensor:
    """See ``functional.mix_target``."""
    if how == "keep":
        return a
    if how not in ("mix", "dominant"):
        raise ValueError(f"targets: expected 'mix', 'dominant' or 'keep', got {how!r}")
    check_target(a, lam.shape)
    if how == "mix" and not a.is_floating_point():
        raise TypeError(
            f"targets of dtype {a.dtype} cannot be mixed; for class labels write "
            "y = torch.nn.functional.one_hot(y, num_classes).float(), or use targets='dominant' or targets='keep'"
        )
    if a.shape != require_tensor("targets of the partners", b).shape or a.dtype != b.dtype:
        raise ValueError(
            f"targets: expected those of the partners to have the shape {tuple(a.shape)} and dtype {a.dtype} of the "
            f"networks' own, got {tuple(b.shape)} and {b.dtype}; both need the same form (for class labels, one_hot "
            "with the same num_classes)"
        )
    lam = lam.to(a.device)
    if how == "dominant":
        return torch.where(_trailing(lam, a) >= 0.5, a, b.to(a.device))
    if a.dim() == lam.dim():
        _warn_of_indices(a)
    return torch.lerp(b.to(a.device), a, lead(lam, a))


def check_target(target: Tensor, batch: torch.Size) -> None:
    """Raises a TypeError or ValueError if a target does not lead with the batch shape."""
    shape = require_tensor("targets", target).shape
    if shape[: len(batch)] != batch:
        raise ValueError(f"targets: must lead with the batch shape {tuple(batch)}, got {tuple(shape)}")


def _warn_of_indices(target: Tensor) -> None:
    """Warns of class indices that came as floats: their mean is another class. Looks at values on the host only."""
    if target.device.type != "cpu" or target.numel() < 2 or torch.compiler.is_compiling():
        return
    if holds(target == target.round()) and not holds((target >= 0) & (target <= 1)):
        warnings.warn(
            f"targets of shape {tuple(target.shape)} are whole numbers as floats, which look like class indices; "
            "mixing would give the index of another class. For class labels write "
            "y = torch.nn.functional.one_hot(y.long(), num_classes).float(); if they are values to regress, ignore "
            "this",
            UserWarning,
            stacklevel=2,
        )


def smooth_labels(target: Tensor, alpha: float) -> Tensor:
    """See ``functional.smooth_labels``."""
    require_tensor("targets", target)
    if not target.is_floating_point() or target.dim() == 0:
        raise TypeError(
            f"label smoothing needs class probabilities (..., classes), got {target.dtype} of shape "
            f"{tuple(target.shape)}; write y = torch.nn.functional.one_hot(y, num_classes).float()"
        )
    if target.device.type == "cpu":  # elsewhere a look at the values would have to wait for them
        check_range("label smoothing: class probabilities", target, 0, 1)
    # One output is the probability of one of two classes.
    return target * (1 - alpha) + alpha / max(target.shape[-1], 2)


# -- small parts -----------------------------------------------------------------------------------------


def zipped(
    function: Callable[[Tensor, Tensor], Tensor], a: WeightSpaceElement, b: WeightSpaceElement
) -> WeightSpaceElement:
    """An element of what a function makes of pairs of tensors."""
    weights = tuple([function(x, y) for x, y in zip(a.weights, b.weights, strict=True)])
    biases = tuple(
        [None if x is None or y is None else function(x, y) for x, y in zip(a.biases, b.biases, strict=True)]
    )
    return WeightSpaceElement(a.architecture, weights, biases)


def lead(values: Tensor, like: Tensor) -> Tensor:
    """Numbers ``(*batch,)`` that broadcast against a tensor ``(*batch, ...)``, in its dtype, on its device."""
    return _trailing(values.to(like), like)


def select(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new entry of a batch where chosen ``(*batch,)``, the old one, bit for bit, elsewhere."""
    return new if new is old else torch.where(_trailing(chosen.to(new.device), new), new, old)


def _trailing(values: Tensor, like: Tensor) -> Tensor:
    if values.dim() == 0:  # of one network
        return values
    return values.reshape(*values.shape, *(1,) * (like.dim() - values.dim()))


def _like(values: Tensor | None, element: WeightSpaceElement) -> Tensor | None:
    return None if values is None else values.to(element.weights[0])
