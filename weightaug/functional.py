"""Every transform as a plain function: deterministic, with its parameters given instead of drawn.

The functions are batched like the transforms and never change their arguments. They check what they are given, values
included, so on a GPU they wait for it; transforms, whose parameters fit because of how they are drawn, do not. Where
nothing has to be done to a tensor, it is passed on, not copied.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weightaug import _operations
from weightaug._arguments import (
    check_batch,
    check_element,
    check_finite,
    check_form,
    check_number,
    check_range,
    holds,
    require_tensor,
)
from weightaug._conventions import absorb_omega
from weightaug._modes import without_autocast
from weightaug._operations import TargetMode
from weightaug._widths import merge_duplicates, widen
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act

__all__ = [
    "absorb_omega",
    "act",
    "add_noise",
    "map_input",
    "mask",
    "merge_duplicates",
    "mix",
    "mix_target",
    "negate",
    "permute",
    "quantile_dropout",
    "rescale_output",
    "scale_neurons",
    "shift_phase",
    "smooth_labels",
    "widen",
]

# -- symmetries ------------------------------------------------------------------------------------------


def permute(element: WeightSpaceElement, permutations: Sequence[Tensor | None]) -> WeightSpaceElement:
    """Reorders the neurons of every hidden space; the function stays (paper section 4).

    Args:
        element: Networks of any architecture.
        permutations: One int64 tensor ``(*batch, size)`` per hidden space, or None to leave it.
    """
    check_element("element", element)
    return act(element, GroupElement.of(element.architecture, permutation=tuple(permutations)))


def negate(element: WeightSpaceElement, signs: Sequence[Tensor | None]) -> WeightSpaceElement:
    """Flips the sign of neurons with an odd or even activation; the function stays (paper section 3).

    Args:
        element: Networks with odd or even activations in the spaces that get signs.
        signs: One tensor ``(*batch, size)`` of +-1 per hidden space, or None to leave it.
    """
    check_element("element", element)
    signs = tuple(signs)
    for space, sign in zip(element.architecture.hidden, signs, strict=False):
        activation = space.activation
        assert activation is not None
        if sign is None:
            continue
        if not (activation.odd or activation.even):
            raise ValueError(
                f"space {space.name!r}: a sign needs an odd or even activation, got {activation.name!r}, whose "
                f"symmetries are {activation.symmetries}; use None there"
            )
        if not holds(require_tensor(f"sign of space {space.name!r}", sign).abs() == 1):
            raise ValueError(f"sign of space {space.name!r}: expected -1 and 1 only; scale_neurons takes factors")
    return act(element, GroupElement.of(element.architecture, scale=signs))


def shift_phase(element: WeightSpaceElement, shifts: Sequence[Tensor | None]) -> WeightSpaceElement:
    """Shifts the phase of sine or cosine neurons by half periods; the function stays (paper section 3).

    Args:
        element: Networks with sines or cosines in the spaces that get shifts.
        shifts: One int64 tensor ``(*batch, size)`` of half periods per hidden space, or None to leave it.
    """
    check_element("element", element)
    return act(element, GroupElement.of(element.architecture, shift=tuple(shifts)))


def scale_neurons(element: WeightSpaceElement, factors: Sequence[Tensor | None]) -> WeightSpaceElement:
    """Scales neurons with a positively homogeneous activation; the function stays (paper section 3).

    Args:
        element: Networks with ReLU-like activations in the spaces that get factors.
        factors: One tensor ``(*batch, size)`` of positive factors per hidden space, or None to leave it.
    """
    check_element("element", element)
    factors = tuple(factors)
    for space, factor in zip(element.architecture.hidden, factors, strict=False):
        activation = space.activation
        assert activation is not None
        if factor is None:
            continue
        if not activation.positively_homogeneous:
            raise ValueError(
                f"space {space.name!r}: a positive factor needs a positively homogeneous activation, got "
                f"{activation.name!r}, whose symmetries are {activation.symmetries}; use None there; "
                "negate takes signs"
            )
        if not holds(require_tensor(f"factor of space {space.name!r}", factor) > 0):
            raise ValueError(f"factor of space {space.name!r}: expected positive numbers only")
    return act(element, GroupElement.of(element.architecture, scale=factors))


# -- geometry --------------------------------------------------------------------------------------------


@without_autocast
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
    check_element("element", element)
    d = element.architecture.inputs[0].size
    for name, value, shape in (("matrix", matrix, (d, d)), ("shift", shift, (d,))):
        if value is not None:
            check_batch(name, value, (*element.batch_shape, *shape))
            check_finite(name, value)
    return _operations.map_input(element, matrix, shift)


@without_autocast
def rescale_output(element: WeightSpaceElement, factor: Tensor) -> WeightSpaceElement:
    """Multiplies the outputs of every network by a factor, the output offset included.

    With :func:`map_input` this keeps signed distances true: f(s x) / s is the distance to the scaled shape.

    Args:
        element: Networks with one output space, written by a layer with bias if there is an output offset.
        factor: ``(*batch,)``.

    Raises:
        ValueError: If there is not exactly one output space, or no bias can take the offset.
    """
    check_element("element", element)
    check_batch("factor", factor, element.batch_shape)
    check_finite("factor", factor)
    return _operations.rescale_output(element, factor)


# -- noise -----------------------------------------------------------------------------------------------


@without_autocast
def add_noise(element: WeightSpaceElement, noise: WeightSpaceElement, scale: float) -> WeightSpaceElement:
    """Adds noise in units of the standard deviation of each tensor of each network.

    Weights and biases have their own deviations (as in the paper's code). A tensor with one entry has
    deviation 0 and stays.

    Args:
        element: Networks.
        noise: Standard noise in the form of the element.
        scale: Standard deviation of the noise relative to the tensor's.
    """
    check_element("element", element)
    check_form("noise", noise, element)
    check_number("scale", scale, 0)
    return _operations.add_noise(element, noise, scale)


@without_autocast
def mask(element: WeightSpaceElement, keep: WeightSpaceElement, factor: float = 1.0) -> WeightSpaceElement:
    """Sets parameters to zero where ``keep`` is 0, and multiplies the others.

    Args:
        element: Networks.
        keep: 1 and 0, or booleans, in the form of the element.
        factor: What the kept parameters are multiplied with.
    """
    check_element("element", element)
    check_form("keep", keep, element)
    check_number("factor", factor)
    for name, kept in keep.named_tensors():
        if not holds((kept == 0) | (kept == 1)):
            raise ValueError(
                f"keep, {name}: expected 1 (keep) and 0 (drop) only; multiply the tensors for other factors"
            )
    return _operations.mask(element, keep, factor)


@without_autocast
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
    check_element("element", element)
    check_number("bound", bound, 0, 1)
    check_batch("q", q, element.batch_shape)
    check_range("q", q, 0, bound)
    return _operations.quantile_dropout(element, q, pooled=pooled, bound=bound)


# -- mixing and labels -----------------------------------------------------------------------------------


@without_autocast
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
    check_element("a", a)
    check_element("b", b)
    _operations.check_pair(a, b)
    if a.dtype != b.dtype or a.device != b.device:
        raise ValueError(
            f"cannot mix networks of {a.dtype} on {a.device} with networks of {b.dtype} on {b.device}; convert with "
            "element.to(...)"
        )
    check_batch("lam", lam, a.batch_shape)
    check_finite("lam", lam)
    return _operations.mix(a, b, lam)


@without_autocast
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
    check_finite("lam", require_tensor("lam", lam))
    return _operations.mix_target(a, b, lam, how)


@without_autocast
def smooth_labels(target: Tensor, alpha: float) -> Tensor:
    """Label smoothing: ``(1 - alpha) target + alpha / classes``.

    Args:
        target: Class probabilities, ``(..., classes)``, floating.
        alpha: In [0, 1].

    Raises:
        TypeError: If the target is of an integer dtype.
    """
    check_number("alpha", alpha, 0, 1)
    smooth = _operations.smooth_labels(target, alpha)
    check_range("label smoothing: class probabilities", target, 0, 1)
    return smooth
