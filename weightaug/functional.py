"""Every transform as a plain function: deterministic, with its parameters given instead of drawn.

The functions are batched like the transforms and never change their arguments. Where nothing has to be
done to a tensor, it is passed on, not copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from weightaug._differences import difference
from weightaug._order_statistics import neighbours_in_order
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act

__all__ = [
    "act",
    "add_noise",
    "map_input",
    "mask",
    "mix",
    "mix_target",
    "negate",
    "permute",
    "quantile_dropout",
    "rescale_output",
    "scale_neurons",
    "shift_phase",
    "smooth_labels",
]

# -- symmetries ------------------------------------------------------------------------------------------


def permute(element: WeightSpaceElement, permutations: Sequence[Tensor | None]) -> WeightSpaceElement:
    """Reorders the neurons of every hidden space; the function stays (paper section 4).

    Args:
        element: Networks of any architecture.
        permutations: One int64 tensor ``(*batch, size)`` per hidden space, or None to leave it.
    """
    return act(element, GroupElement.of(element.architecture, permutation=tuple(permutations)))


def negate(element: WeightSpaceElement, signs: Sequence[Tensor | None]) -> WeightSpaceElement:
    """Flips the sign of neurons with an odd or even activation; the function stays (paper section 3).

    Args:
        element: Networks with odd or even activations in the spaces that get signs.
        signs: One tensor ``(*batch, size)`` of +-1 per hidden space, or None to leave it.
    """
    return act(element, GroupElement.of(element.architecture, scale=tuple(signs)))


def shift_phase(element: WeightSpaceElement, shifts: Sequence[Tensor | None]) -> WeightSpaceElement:
    """Shifts the phase of sine or cosine neurons by half periods; the function stays (paper section 3).

    Args:
        element: Networks with sines or cosines in the spaces that get shifts.
        shifts: One int64 tensor ``(*batch, size)`` of half periods per hidden space, or None to leave it.
    """
    return act(element, GroupElement.of(element.architecture, shift=tuple(shifts)))


def scale_neurons(element: WeightSpaceElement, factors: Sequence[Tensor | None]) -> WeightSpaceElement:
    """Scales neurons with a positively homogeneous activation; the function stays (paper section 3).

    Args:
        element: Networks with ReLU-like activations in the spaces that get factors.
        factors: One tensor ``(*batch, size)`` of positive factors per hidden space, or None to leave it.
    """
    return act(element, GroupElement.of(element.architecture, scale=tuple(factors)))


# -- geometry --------------------------------------------------------------------------------------------


def map_input(
    element: WeightSpaceElement, matrix: Tensor | None = None, shift: Tensor | None = None
) -> WeightSpaceElement:
    """Precomposes every network with an affine map: the result at x is the original at ``matrix x + shift``.

    Only layers that read the input change: W becomes W matrix, b becomes b + W shift (paper appendix D).

    Args:
        element: Networks with one input space of size d, read by linear layers.
        matrix: ``(*batch, d, d)``, or None for the identity.
        shift: ``(*batch, d)``, or None for zero.

    Raises:
        ValueError: If there is not exactly one input space, a layer that reads it is a convolution, or a
            shift has to go into a layer without bias.
    """
    arch = element.architecture
    if len(arch.inputs) != 1:
        raise ValueError(f"geometry needs exactly one input space, got {[s.name for s in arch.inputs]}")
    source = arch.wiring.inputs[0]
    weights, biases = list(element.weights), list(element.biases)
    for i, layer in enumerate(arch.layers):
        if arch.wiring.reads[i] != source:
            continue
        if layer.kernel:
            raise ValueError(
                f"layer {layer.name!r} is a convolution (kernel {layer.kernel}) over the input; geometry moves "
                "coordinates, so it needs linear layers there"
            )
        weight, bias = element.weights[i], element.biases[i]
        if shift is not None:
            if bias is None:
                raise ValueError(
                    f"layer {layer.name!r} reads the input and has no bias, so it cannot take a shift of the "
                    "input; expected bias=True; add a bias of zeros"
                )
            biases[i] = bias + (weight * shift.unsqueeze(-2)).sum(-1)
        if matrix is not None:
            weights[i] = weight @ matrix
    return WeightSpaceElement(arch, tuple(weights), tuple(biases))


def rescale_output(element: WeightSpaceElement, factor: Tensor) -> WeightSpaceElement:
    """Multiplies the outputs of every network by a factor, the output offset included.

    With :func:`map_input` this keeps signed distances true: f(s x) / s is the distance to the scaled shape.

    Args:
        element: Networks with one output space, written by a layer with bias if there is an output offset.
        factor: ``(*batch,)``.

    Raises:
        ValueError: If there is not exactly one output space, or no bias can take the offset.
    """
    arch = element.architecture
    if len(arch.outputs) != 1:
        raise ValueError(f"rescaling needs exactly one output space, got {[s.name for s in arch.outputs]}")
    sink = arch.wiring.outputs[0]
    writers = [i for i, w in enumerate(arch.wiring.writes) if w == sink]
    with_bias = [i for i in writers if arch.layers[i].bias]
    offset = arch.output_offset
    if offset != 0.0 and not with_bias:
        raise ValueError(
            f"layer {arch.layers[writers[0]].name!r} has no bias, so the output offset {offset} cannot be "
            "rescaled; give it bias=True, or use output_offset=0"
        )
    weights, biases = list(element.weights), list(element.biases)
    for i in writers:
        trailing = element.weights[i].dim() - factor.dim()
        weights[i] = element.weights[i] * factor.reshape(*factor.shape, *(1,) * trailing)
        bias = element.biases[i]
        if bias is not None:
            biases[i] = bias * factor.unsqueeze(-1)
    if offset != 0.0:
        carrier = biases[with_bias[0]]
        assert carrier is not None
        # factor (y + offset) = (factor y + (factor - 1) offset) + offset
        biases[with_bias[0]] = carrier + (offset * (factor - 1)).unsqueeze(-1)
    return WeightSpaceElement(arch, tuple(weights), tuple(biases))


# -- noise -----------------------------------------------------------------------------------------------


def add_noise(element: WeightSpaceElement, noise: WeightSpaceElement, scale: float) -> WeightSpaceElement:
    """Adds noise in units of the standard deviation of each tensor of each network.

    Weights and biases have their own deviations (as in the paper's code). A tensor with one entry has
    deviation 0 and stays.

    Args:
        element: Networks.
        noise: Standard noise in the form of the element.
        scale: Standard deviation of the noise relative to the tensor's.
    """
    batch = len(element.batch_shape)

    def one(tensor: Tensor, eps: Tensor) -> Tensor:
        if tensor.shape[batch:].numel() == 1 or tensor.numel() == 0:
            return tensor
        dims = tuple(range(batch, tensor.dim()))
        # Two passes: as exact as Tensor.std, and 15 times as fast on the CPU.
        norm = torch.linalg.vector_norm(tensor - tensor.mean(dims, keepdim=True), dim=dims, keepdim=True)
        return torch.addcmul(tensor, eps, norm, value=scale / math.sqrt(tensor.shape[batch:].numel()))

    return _zip(one, element, noise)


def mask(element: WeightSpaceElement, keep: WeightSpaceElement, factor: float = 1.0) -> WeightSpaceElement:
    """Sets parameters to zero where ``keep`` is 0, and multiplies the others.

    Args:
        element: Networks.
        keep: 1 and 0, or booleans, in the form of the element.
        factor: What the kept parameters are multiplied with.
    """

    def one(tensor: Tensor, kept: Tensor) -> Tensor:
        out = tensor * kept
        return out if factor == 1.0 else out.mul_(factor)

    return _zip(one, element, keep)


def quantile_dropout(
    element: WeightSpaceElement, q: Tensor, *, pooled: bool = True, bound: float = 1.0
) -> WeightSpaceElement:
    """Sets the parameters of least magnitude to zero: those below the q-th quantile of the magnitudes.

    Args:
        element: Networks.
        q: ``(*batch,)`` in [0, bound]: the quantile, interpolated linearly like ``torch.quantile``. 0 keeps all.
        pooled: One threshold per network over all its tensors (the paper's code); False: one per tensor.
        bound: Largest q that occurs; only so many of the magnitudes are sorted.
    """
    batch = len(element.batch_shape)
    shape = element.batch_shape
    detached = element.detach()  # the thresholds are piecewise constant
    if pooled:
        keep = _above_quantile(detached.flatten().abs_(), q, bound)
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
    position = q.to(values.dtype) * last
    below = position.floor().long().clamp(0, most)
    low, high = neighbours_in_order(values, below, most)
    return torch.lerp(low, high, position - below)


def _zip(function: object, a: WeightSpaceElement, b: WeightSpaceElement) -> WeightSpaceElement:
    assert callable(function)
    weights = tuple([function(x, y) for x, y in zip(a.weights, b.weights, strict=True)])
    biases = tuple(
        [None if x is None or y is None else function(x, y) for x, y in zip(a.biases, b.biases, strict=True)]
    )
    return WeightSpaceElement(a.architecture, weights, biases)


# -- mixing and labels -----------------------------------------------------------------------------------

TargetMode = Literal["mix", "dominant", "keep"]


def mix(a: WeightSpaceElement, b: WeightSpaceElement, lam: Tensor) -> WeightSpaceElement:
    """Interpolates two batches of networks: ``lam a + (1 - lam) b`` (paper section 4).

    Align b first with ``matching.match(a, b)``. lam = 1 gives a, and lam = 0 gives b, exactly.

    Args:
        a: Networks.
        b: Networks of the same architecture and batch shape.
        lam: ``(*batch,)``, weights of a.

    Raises:
        ValueError: If the architectures or batch shapes differ.
    """
    _check_pair(a, b)
    return _zip(lambda x, y: torch.lerp(y, x, lead(lam, x)), a, b)


def mix_into(own: WeightSpaceElement, a: WeightSpaceElement, lam: Tensor) -> WeightSpaceElement:
    """Like ``mix(a, own, lam)``, but writes into ``own``, which must be the caller's to give away."""
    _check_pair(a, own)
    return _zip(lambda x, y: y.lerp_(x, lead(lam, x)), a, own)


def _check_pair(a: WeightSpaceElement, b: WeightSpaceElement) -> None:
    if a.architecture is not b.architecture and a.architecture != b.architecture:
        raise ValueError(
            "cannot mix networks of different architectures: a and b differ in "
            f"{difference(a.architecture, b.architecture)}; mixing needs equal spaces, layers and output offset"
        )
    if a.batch_shape != b.batch_shape:
        raise ValueError(f"cannot mix batches of shapes {tuple(a.batch_shape)} and {tuple(b.batch_shape)}")


def mix_target(a: Tensor, b: Tensor, lam: Tensor, how: TargetMode = "mix") -> Tensor:
    """Interpolates, chooses or keeps targets: the counterpart of :func:`mix`.

    Args:
        a: Targets of the networks that weigh lam, ``(*batch, ...)``.
        b: Targets of their partners, in the same form.
        lam: ``(*batch,)``.
        how: ``"mix"``: ``lam a + (1 - lam) b``; ``"dominant"``: a where lam >= 1/2, b elsewhere;
            ``"keep"``: a.

    Raises:
        TypeError: If targets of an integer dtype are to be mixed.
        ValueError: If the targets do not lead with the batch shape, or ``how`` is unknown.
    """
    if how == "keep":
        return a
    if a.shape[: lam.dim()] != lam.shape or a.shape != b.shape:
        raise ValueError(
            f"targets: expected a leading batch shape {tuple(lam.shape)}, got {tuple(a.shape)}"
            + ("" if a.shape == b.shape else f" and {tuple(b.shape)} for the partners")
        )
    if how == "dominant":
        return torch.where(lead(lam, a) >= 0.5, a, b)
    if how != "mix":
        raise ValueError(f"targets: expected 'mix', 'dominant' or 'keep', got {how!r}")
    if not a.is_floating_point():
        raise TypeError(
            f"targets of dtype {a.dtype} cannot be mixed; for class labels write "
            "y = torch.nn.functional.one_hot(y, num_classes).float(), or use targets='dominant' or targets='keep'"
        )
    return torch.lerp(b, a, lead(lam.to(a.dtype), a))


def smooth_labels(target: Tensor, alpha: float) -> Tensor:
    """Label smoothing: ``(1 - alpha) target + alpha / classes``.

    Args:
        target: Class probabilities, ``(..., classes)``, floating.
        alpha: In [0, 1].

    Raises:
        TypeError: If the target is of an integer dtype.
    """
    if not target.is_floating_point() or target.dim() == 0:
        raise TypeError(
            f"label smoothing needs class probabilities (..., classes), got {target.dtype} of shape "
            f"{tuple(target.shape)}; write y = torch.nn.functional.one_hot(y, num_classes).float()"
        )
    return target * (1 - alpha) + alpha / target.shape[-1]


def lead(values: Tensor, like: Tensor) -> Tensor:
    """A view of values ``(*batch,)`` that broadcasts against a tensor ``(*batch, ...)``."""
    return values.reshape(*values.shape, *(1,) * (like.dim() - values.dim()))
