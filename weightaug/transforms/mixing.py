"""Weight-space mixup: interpolation between two networks and their targets (paper section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from weightaug._arguments import check_element, require_tensor
from weightaug._differences import difference
from weightaug._modes import runs_at_once
from weightaug._operations import TargetMode, check_target, lead, mix, mix_into, mix_target, zipped
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.transforms import draws, settings
from weightaug.transforms.base import Params, Transform, slice_params
from weightaug.transforms.noise import GaussianNoise
from weightaug.transforms.symmetry import Permute

__all__ = ["AlignedMixup", "MixParams", "Mixup", "PermutedMixup", "Pool", "SelfMixup"]

LowRank = Literal["factors", "product"]


class Pool:
    """Networks that mixing may draw partners from, with their targets.

    Args:
        element: Networks, with one batch dimension of at least 1.
        *targets: Their targets, with the same leading dimension: one for every target in the call.

    Raises:
        TypeError: If the networks are no element, or a target is no tensor.
        ValueError: If the pool is empty, or not of one batch dimension, or a target has another length.
    """

    def __init__(self, element: WeightSpaceElement, *targets: Tensor) -> None:
        check_element("pool", element)
        if len(element.batch_shape) != 1 or element.batch_shape[0] == 0:
            raise ValueError(f"a pool needs batch shape (n,) with n >= 1, got {tuple(element.batch_shape)}")
        for i, target in enumerate(targets):
            if require_tensor(f"pool: target {i}", target).shape[:1] != element.batch_shape:
                raise ValueError(
                    f"pool: target {i} has shape {tuple(target.shape)}, expected the leading dimension {len(element)}"
                )
        self.element = element
        self.targets = targets

    def __repr__(self) -> str:
        return f"Pool({self.element!r}, targets={len(self.targets)})"


class MixParams(NamedTuple):
    """What mixing draws.

    Attributes:
        partner: int64 ``(*batch,)``; position of the partner in the flattened batch, or in the pool.
        lam: ``(*batch,)``; the weight of the element itself.
        group: What the partner is moved by before mixing; the identity if by nothing.
    """

    partner: Tensor
    lam: Tensor
    group: GroupElement


def _take(element: WeightSpaceElement, index: Tensor) -> WeightSpaceElement:
    """Copies of networks of a batch: never views, which indexing with one number would give."""
    if index.dim() == 1:
        return element.map(lambda t: t.index_select(0, index))
    flat = index.reshape(-1)
    return element.map(lambda t: t.index_select(0, flat).view(*index.shape, *t.shape[1:]))


def _check_symmetry(architecture: Architecture, symmetry: str | Sequence[str]) -> None:
    """Raises a ValueError if no hidden space has a symmetry that was asked for."""
    from weightaug.matching.rules import resolve

    if not architecture.is_declared:  # of those, match knows other symmetries, and checks which
        resolve(architecture, symmetry)


_PIECE = 512  # networks that are aligned and mixed at a time; see _pieces


def _pieces(partner: Tensor) -> list[slice] | None:
    """Parts of a large batch, or None for all at once: beside two networks, aligning them takes twenty of memory."""
    if partner.dim() != 1 or len(partner) <= _PIECE:
        return None
    return [slice(i, i + _PIECE) for i in range(0, len(partner), _PIECE)]


def _mix_products(own: WeightSpaceElement, partners: WeightSpaceElement, lam: Tensor) -> WeightSpaceElement:
    """A mixture that no gauge changes, so partners need not be moved; networks without a partner stay as they are."""
    from weightaug.matching.lora import mix_lora

    mixed = mix_lora(own, partners, lam)
    return zipped(lambda x, y: torch.where(lead(lam, x) == 1, x, y), own, mixed)


@dataclass(frozen=True)
class Mixup(Transform):
    """Interpolates each network with a partner: lam x + (1 - lam) x'. Preserves nothing.

    Draws lam per network from Beta(alpha, alpha), and the partners: a random cycle through the batch, so
    that nobody is its own partner, or uniform draws from a pool. In a batch of one without a pool there is
    no partner, and the network stays. Targets are interpolated with the same lam. Source: paper section 4
    ("weight-space mixup", with lam uniform, alpha = 1).

    Args:
        alpha: Parameter of the Beta distribution, above 0. 1 is uniform.
        targets: ``"mix"``: interpolate floating targets; ``"dominant"``: take those of the network with the
            larger weight; ``"keep"``: leave them.
        pool: Where partners come from; None for the batch itself. A transform with a pool holds data, so it
            has no ``asdict`` form, and its ``repr`` does not evaluate back.
        low_rank: For adapters (LoRA): ``"factors"`` interpolates A and B, which depends on the gauge of both;
            ``"product"`` interpolates the products B A, brought back to the rank (``matching.mix_lora``).

    Raises:
        ValueError: When called on one network (batch shape ``()``) without a pool, or with a pool of another
            architecture, or if a setting is out of range.
        TypeError: When integer targets are to be mixed.
    """

    mixes: ClassVar[bool] = True

    alpha: float = 1.0
    targets: TargetMode = "mix"
    pool: Pool | None = field(default=None, kw_only=True)
    low_rank: LowRank = field(default="factors", kw_only=True)

    def __post_init__(self) -> None:
        settings.number(self, "alpha", 0, ends="()")
        settings.choice(self, "targets", ("mix", "dominant", "keep"))
        settings.choice(self, "low_rank", ("factors", "product"))
        if self.pool is not None and not isinstance(self.pool, Pool):
            raise TypeError(
                f"{type(self).__name__}: pool must be a Pool, got {type(self.pool).__name__}; write "
                "pool=Pool(networks), or Pool(networks, targets) if the call has targets"
            )

    def check(self, architecture: Architecture) -> None:
        """Raises a ValueError if the pool is of another architecture, or products are to be mixed where none are."""
        if self.low_rank == "product":
            from weightaug.matching.lora import check_pairs

            check_pairs(architecture)
        if self.pool is not None and self.pool.element.architecture != architecture:
            raise ValueError(
                f"{type(self).__name__}: cannot mix networks of different architectures: the batch and the pool differ "
                f"in {difference(architecture, self.pool.element.architecture)}"
            )

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> MixParams:
        self.check(element.architecture)
        lam = draws.beta(element, self.alpha, generator)
        still = GroupElement.identity(element.architecture)
        if self.pool is not None:
            partner = draws.integers(element, (), 0, len(self.pool.element) - 1, generator)
            return self._moved(element, MixParams(partner, lam, still), generator)
        if not element.batch_shape:
            raise ValueError(
                f"{type(self).__name__} found one network (batch shape ()), which has no partner; expected a "
                "batch: mix after collating, or give pool=Pool(networks, targets)"
            )
        count = lam.numel()
        cycle = draws.orders(element, (count,), generator)
        partner = torch.empty_like(cycle).scatter_(0, cycle, cycle.roll(1)).view(lam.shape)
        if count == 1:
            lam = torch.ones_like(lam)
        return self._moved(element, MixParams(partner, lam, still), generator)

    def _moved(self, element: WeightSpaceElement, params: MixParams, generator: torch.Generator | None) -> MixParams:
        """Fills in what the partners are moved by."""
        return params

    def _partners(self, element: WeightSpaceElement, index: Tensor) -> WeightSpaceElement:
        if self.pool is not None:
            self._check_pool(element)
            return _take(self.pool.element, index)
        dims = len(element.batch_shape)
        flat = element if dims == 1 else element.map(lambda t: t.flatten(0, dims - 1))
        return _take(flat, index)

    def _check_pool(self, element: WeightSpaceElement) -> None:
        assert self.pool is not None
        pool = self.pool.element
        if pool.device != element.device or pool.dtype != element.dtype:
            raise ValueError(
                f"the pool is {pool.dtype} on {pool.device}, the batch {element.dtype} on {element.device}; "
                "move the pool with Pool(element.to(...), ...)"
            )

    def apply(self, element: WeightSpaceElement, params: MixParams) -> WeightSpaceElement:
        return self._mixed(element, element, params)

    def _mixed(self, own: WeightSpaceElement, element: WeightSpaceElement, params: MixParams) -> WeightSpaceElement:
        """Mixes some networks, with parameters of their own, with partners from a whole batch (or the pool)."""
        at_hand = params.partner.dim() == 0 and params.partner.device.type == "cpu" and runs_at_once(params.partner)
        if self.pool is not None and at_hand:  # one network needs no copy of its partner
            self._check_pool(element)
            row = int(params.partner)
            partner = self.pool.element.map(lambda t: t.select(0, row))
            if self.low_rank == "product":
                return _mix_products(own, partner, params.lam)
            return mix(own, act(partner, params.group), params.lam)
        partners = self._partners(element, params.partner)
        if self.low_rank == "product":
            return _mix_products(own, partners, params.lam)
        # The partners are copies already, so they can take the result.
        return mix_into(act(partners, params.group), own, params.lam)

    def apply_targets(self, targets: tuple[Any, ...], params: MixParams) -> tuple[Any, ...]:
        if self.pool is None or self.targets == "keep":
            return super().apply_targets(targets, params)
        if len(self.pool.targets) != len(targets):
            raise ValueError(
                f"{type(self).__name__}: called with {len(targets)} targets, but the pool holds "
                f"{len(self.pool.targets)}; make it Pool(networks, ...) with one tensor for each"
            )
        return tuple([self._mix_target(t, pool, params) for t, pool in zip(targets, self.pool.targets, strict=True)])

    def apply_target(self, target: Any, params: MixParams) -> Any:
        if self.targets == "keep":
            return target
        check_target(target, params.lam.shape)
        dims = params.lam.dim()
        return self._mix_target(target, target if dims == 1 else target.flatten(0, dims - 1), params)

    def _mix_target(self, target: Any, source: Tensor, params: MixParams) -> Any:
        """Mixes targets with those of the partners, which come from all targets of the batch (or the pool)."""
        require_tensor("targets", target)
        return mix_target(target, source[params.partner.to(source.device)], params.lam, self.targets)


@dataclass(frozen=True)
class PermutedMixup(Mixup):
    """Mixup with a partner whose neurons are reordered at random. Preserves nothing.

    Draws what :class:`Mixup` draws, and a uniform permutation per hidden space of every partner. More
    diverse than Mixup, and as far from aligned. Source: paper section 4 ("randomized weight space mixup").
    """

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        Permute().check(architecture)

    def _moved(self, element: WeightSpaceElement, params: MixParams, generator: torch.Generator | None) -> MixParams:
        group = Permute().sample(element, generator=generator)
        if self.pool is None and params.lam.numel() == 1:
            return params
        return params._replace(group=group)


@dataclass(frozen=True)
class AlignedMixup(Mixup):
    """Mixup with a partner that is first aligned to the network. Preserves nothing.

    Draws what :class:`Mixup` draws; the alignment is ``weightaug.matching.match``, computed in ``sample``,
    on the host where it has to be. Source: paper section 4 ("matching based weight space mixup"), which
    aligns over permutations: ``symmetry="permutation"``. The extra ``fast`` makes it about three times as fast.

    Args:
        symmetry: ``"auto"``: everything that the activations allow (signs, phases, positive scales);
            ``"permutation"``: permutations only, as in the paper; or several of ``"permutation"``, ``"sign"``,
            ``"phase"``, ``"scale"`` and, of networks that are declared tensor by tensor, ``"maps"`` (there
            ``"auto"`` leaves scales alone).
        starts: Where matching starts, as for ``weightaug.matching.match``; None for its default. ``("identity",)``
            with ``symmetry="permutation"`` is what the paper's code does.
    """

    reads_values: ClassVar[bool] = True

    symmetry: str | Sequence[str] = field(default="auto", kw_only=True)
    starts: Sequence[str] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        settings.symmetry(self)
        if self.starts is not None:
            from weightaug.matching.weight import check_starts

            check_starts(self.starts)
            if "random" in self.starts:
                raise ValueError("AlignedMixup: starts must leave out 'random', which would align by chance")
            settings.put(self, "starts", tuple(self.starts))

    def check(self, architecture: Architecture) -> None:
        super().check(architecture)
        _check_symmetry(architecture, self.symmetry)

    def _moved(self, element: WeightSpaceElement, params: MixParams, generator: torch.Generator | None) -> MixParams:
        from weightaug.matching import match

        alone = self.pool is None and params.lam.numel() == 1
        if params.lam.numel() == 0 or alone or self.low_rank == "product":  # which no gauge changes
            return params

        def moved(own: WeightSpaceElement, index: Tensor) -> GroupElement:
            return match(own, self._partners(element, index), symmetry=self.symmetry, starts=self.starts)

        if (pieces := _pieces(params.partner)) is None:
            return params._replace(group=moved(element, params.partner))
        return params._replace(group=GroupElement.cat([moved(element[i], params.partner[i]) for i in pieces]))

    def apply(self, element: WeightSpaceElement, params: MixParams) -> WeightSpaceElement:
        if (pieces := _pieces(params.partner)) is None:
            return super().apply(element, params)
        result = element.map(torch.empty_like)
        for i in pieces:
            mixed = self._mixed(element[i], element, slice_params(params, i))
            for whole, part in zip(result.tensors(), mixed.tensors(), strict=True):
                whole[i] = part
        return result


@dataclass(frozen=True)
class SelfMixup(Transform):
    """Interpolates each network with an augmented copy of itself, aligned back to it. Preserves nothing.

    Targets stay: both ends show the same sample. Draws lam per network from Beta(alpha, alpha) and what
    the inner transform draws. Works on one network, too. Source: the paper's code (``self_rebasin``, whose
    labels come from another sample; ours stay).

    Args:
        transform: Makes the copy; it must not mix.
        alpha: Parameter of the Beta distribution, above 0. 1 is uniform.
        align: Align the copy to the network before mixing.
        symmetry: As for :class:`AlignedMixup`.

    Raises:
        ValueError: If the inner transform mixes, or a setting is out of range.
    """

    transform: Transform = field(default_factory=GaussianNoise)
    alpha: float = 1.0
    align: bool = True
    symmetry: str | Sequence[str] = "auto"

    def __post_init__(self) -> None:
        settings.instance(self, "transform", self.transform)
        settings.number(self, "alpha", 0, ends="()")
        settings.flag(self, "align")
        settings.symmetry(self)
        if self.transform.mixes:
            raise ValueError(f"SelfMixup: the inner transform must not mix, got {self.transform!r}")

    @property
    def reads_values(self) -> bool:  # type: ignore[override]
        """Whether sampling looks at the weights."""
        return self.align or self.transform.reads_values

    def check(self, architecture: Architecture) -> None:
        self.transform.check(architecture)
        if self.align:
            _check_symmetry(architecture, self.symmetry)

    def sample(self, element: WeightSpaceElement, *, generator: torch.Generator | None = None) -> Params:
        from weightaug.matching import match

        self.check(element.architecture)
        lam = draws.beta(element, self.alpha, generator)
        copy, inner = self.transform.sample_apply(element, generator=generator)
        if self.align and lam.numel():
            return lam, inner, match(element, copy, symmetry=self.symmetry)
        return lam, inner, GroupElement.identity(element.architecture)

    def apply(self, element: WeightSpaceElement, params: Params) -> WeightSpaceElement:
        lam, inner, group = params
        copy = self.transform.apply(element, inner)
        return mix(element, act(copy, group), lam)

    def apply_targets(self, targets: tuple[Any, ...], params: Params) -> tuple[Any, ...]:
        return self.transform.apply_targets(targets, params[1])
